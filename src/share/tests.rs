//! Owner and clients within one process: every call over the socket, takeover, and what must not go wrong with either.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, CallHead, Get, RememberOne};
use super::channel::{Broken, Message, Receiver, Sender, body_of, channel};
use super::hello::{Hello, Welcome};
use super::socket::{SOCKET_NAME, reach};
use super::{Role, Store};
use crate::embed::{Embedder, ModelIdentity, ModelSpec};
use crate::error::{ErrorKind, Result};
use crate::format::message::{MessageKind, Way, framed, put};
use crate::memory::{Duplicates, List, Memory, Mode, Recall, Remember, Remembered, Update};
use crate::parts::chance::Chance;
use crate::snapshot::{RestoreFrom, RestoreOptions};
use crate::store::{ChangeKind, Moment, Options};
use crate::transfer::ImportOptions;

fn options(home: &Path) -> Options {
    Options::at(home).background_embedding(false)
}

/// An owner and a client of the same home.
fn pair(home: &Path) -> (Store, Store) {
    let owner = Store::open(options(home)).expect("the owner");
    let client = Store::open(options(home)).expect("a client");
    assert_eq!(owner.sharing().expect("it tells").role, Role::Owner);
    let sharing = client.sharing().expect("it tells");
    assert_eq!((sharing.role, sharing.pid), (Role::Client, std::process::id()));
    (owner, client)
}

fn ignore<T>() -> impl FnMut(T) {
    |_| {}
}

#[test]
fn a_client_does_all_that_an_owner_does_and_both_see_it_at_once() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, client) = pair(home.path());
    let saved = client
        .remember(Remember::new("We decided to use Rust for the engine").tags(["decision"]).meta("k", "v"))
        .expect("stored");
    let memory = owner.get(&saved.id).expect("read").expect("it is there");
    assert_eq!(client.get(&saved.id).expect("read").as_ref(), Some(&memory));
    assert_eq!(memory.metadata["k"], "v");
    assert!(client.get("nothing").expect("read").is_none());
    for mode in [Mode::Hybrid, Mode::Text, Mode::Vector] {
        let ask = || Recall::new("Which language?  Rust?").mode(mode).explain(true);
        let (here, there) = (owner.recall(ask()).expect("found"), client.recall(ask()).expect("found"));
        assert_eq!((here.results, here.degraded), (there.results.clone(), there.degraded));
        assert_eq!(there.results[0].id, saved.id);
    }
    let again = client.remember(Remember::new("We decided to use Rust for the engine")).expect("known");
    assert_eq!(again.duplicate_of.as_ref(), Some(&saved.id));
    let many = client
        .remember_many((0..50).map(|number| Remember::new(format!("note {number}"))).collect())
        .expect("stored");
    assert_eq!(client.list(&List::new().limit(100)).expect("listed").len(), 51);
    let updated = client.update(&saved.id, Update::new().text("We decided for Zig")).expect("changed");
    assert!(updated.changed && owner.get(&saved.id).expect("read").expect("there").text.ends_with("Zig"));
    let forgotten = client.forget([many[0].id.as_str(), "nobody"]).expect("forgotten");
    assert_eq!((forgotten.forgotten.len(), forgotten.missing.len()), (1, 1));
    assert_eq!(client.purge([&many[1].id], &mut ignore()).expect("purged").purged.len(), 1);
    assert_eq!(client.embed_pending(&mut ignore()).expect("embedded").failed, 0);
    assert!(client.vectors(&saved.id).expect("read").is_some());
    assert_eq!(client.stats().expect("figures").memories, owner.stats().expect("figures").memories);
    assert!(client.prove_id(&saved.id).expect("read").state.is_good());
    assert!(client.prove(updated.receipt()).expect("read").state.is_good());
    assert!(client.check(&mut ignore()).expect("checked").findings.is_empty());
    assert!(client.check_quickly(&mut ignore()).expect("checked").findings.is_empty());
    client.compact(&mut ignore()).expect("compacted");
    client.build_index(true, &mut ignore()).expect("built");
    assert_eq!(client.snapshot(&mut ignore()).expect("published").memories, 49);
    let backup = client.backup_with(7, &mut ignore()).expect("backed up");
    assert_eq!(client.backups(true).expect("listed"), [backup]);
    assert_eq!(client.healed(), []);
}

#[test]
fn a_client_restores_imports_exports_and_looks_into_the_past() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, client) = pair(home.path());
    let first = client.remember(Remember::new("the first state")).expect("stored");
    client.remember(Remember::new("the second state")).expect("stored");
    let past = client.as_of(Moment::Seq(first.seq)).expect("the past");
    assert_eq!(past.list(&List::new()).expect("listed").len(), 1);
    assert_eq!(past.stats().expect("figures").memories, 1);
    let refused = past.remember(Remember::new("never")).expect_err("the past stands");
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    assert_eq!(client.diff(Moment::Seq(first.seq), Moment::Now).expect("compared").added, 1);
    let restored = client.restore(&RestoreFrom::Seq(first.seq), RestoreOptions::default()).expect("restored");
    assert_eq!(restored.changed.forgotten, 1);
    assert_eq!(owner.stats().expect("figures").memories, 1);
    client.restore(&RestoreFrom::Undo, RestoreOptions::default()).expect("undone");
    assert_eq!(owner.stats().expect("figures").memories, 2);
    let file = home.path().join("in.json");
    std::fs::write(&file, r#"[{"id":"m1","text":"from a file","timestamp":7}]"#).expect("written");
    let mut told = 0;
    let imported = client.import(&file, &ImportOptions::default(), &mut |_, _| told += 1).expect("imported");
    assert_eq!(imported.imported, 1);
    assert!(told > 0, "progress comes over the socket");
    let out = home.path().join("out.db");
    assert_eq!(client.export_sqlite(&out, &mut ignore()).expect("exported").memories, 3);
    let missing = client.import(&home.path().join("gone"), &ImportOptions::default(), &mut |_, _| {});
    assert_eq!(missing.expect_err("no such file").path(), Some(home.path().join("gone").as_path()));
}

#[test]
fn errors_of_an_owner_are_those_of_the_call() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, client) = pair(home.path());
    for (here, there) in [
        (owner.remember(Remember::new("")), client.remember(Remember::new(""))),
        (
            owner.remember(Remember::new("the password is Tr0ub4dor&3x")),
            client.remember(Remember::new("the password is Tr0ub4dor&3x")),
        ),
    ] {
        let (here, there) = (here.expect_err("refused"), there.expect_err("refused"));
        assert_eq!(format!("{here:?}"), format!("{there:?}"));
        assert_eq!((here.hint_text(), here.durability()), (there.hint_text(), there.durability()));
    }
    let gone = client.update("nobody", Update::new().importance(0.5)).expect_err("not there");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn a_client_takes_over_when_the_owner_closes_and_nothing_is_lost() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, first) = pair(home.path());
    let second = Store::open(options(home.path())).expect("another client");
    let saved = first.remember(Remember::new("kept over the change")).expect("stored");
    owner.close().expect("closed");
    assert!(second.get(&saved.id).expect("read").is_some());
    assert_eq!(second.sharing().expect("it tells").role, Role::Owner);
    let more = first.remember(Remember::new("stored by way of the new owner")).expect("stored");
    assert_eq!(first.sharing().expect("it tells").role, Role::Client);
    assert!(second.get(&more.id).expect("read").is_some());
    drop(second);
    assert_eq!(first.list(&List::new()).expect("listed").len(), 2);
    assert_eq!(first.sharing().expect("it tells").role, Role::Owner);
    first.close().expect("closed");
    assert!(!home.path().join("store").join(SOCKET_NAME).exists(), "the last one leaves no socket");
}

#[test]
fn many_threads_of_many_handles_write_while_owners_come_and_go() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let ids: Vec<_> = std::thread::scope(|scope| {
        let work = |worker: usize| {
            let mut ids = Vec::new();
            for round in 0..5 {
                // Whoever was first owned it, and lets go of it in the middle of what the others do.
                let store = Store::open(options(home.path()).model(ModelSpec::None)).expect("a handle");
                for number in 0..8 {
                    let text = format!("worker {worker} round {round} number {number}");
                    let saved = store.remember(Remember::new(text.clone()).vector([1.0, 0.5]));
                    let saved = saved.unwrap_or_else(|error| panic!("{error:?}"));
                    let read = store.get(&saved.id).expect("read").expect("what was acknowledged is read");
                    assert_eq!(read.text, text);
                    ids.push(saved.id);
                }
            }
            ids
        };
        let workers: Vec<_> = (0..6).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    let store = Store::open(options(home.path()).model(ModelSpec::None)).expect("opened");
    assert_eq!(store.stats().expect("figures").memories, ids.len() as u64, "each once");
    assert!(ids.iter().all(|id| store.get(id).expect("read").is_some()));
}

#[test]
fn whoever_does_not_serve_or_connect_is_named() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let alone = Store::open(options(home.path()).serve(false)).expect("opened");
    assert_eq!(alone.sharing().expect("it tells").role, Role::Alone);
    let quick = || options(home.path()).lock_wait(Duration::ZERO);
    let busy = Store::open(quick()).expect_err("it does not serve");
    assert_eq!(busy.kind(), ErrorKind::Busy);
    assert!(busy.message().contains(&format!("process {}", std::process::id())), "{busy}");
    drop(alone);
    let _owner = Store::open(options(home.path())).expect("opened");
    let busy = Store::open(quick().connect(false)).expect_err("it does not connect");
    assert_eq!(busy.kind(), ErrorKind::Busy);
}

#[test]
fn a_client_that_only_reads_cannot_write_and_sees_what_others_write() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, _) = pair(home.path());
    let reader = Store::open(options(home.path()).read_only(true)).expect("a reader");
    assert!(reader.is_read_only());
    let saved = owner.remember(Remember::new("a text")).expect("stored");
    assert!(reader.get(&saved.id).expect("read").is_some());
    let refused = reader.forget([&saved.id]).expect_err("it only reads");
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
}

#[test]
fn changes_of_every_process_are_followed_and_go_on_with_the_next_owner() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, client) = pair(home.path());
    let before = owner.remember(Remember::new("before")).expect("stored");
    let mut watch = client.watch(Some(0)).expect("followed");
    let mut late = client.watch(None).expect("followed");
    let first = watch.next().expect("no end").expect("a change");
    assert_eq!((first.seq, first.kind, &first.id), (before.seq, ChangeKind::Remembered, &before.id));
    let after = owner.remember(Remember::new("after")).expect("stored");
    assert_eq!(watch.next().expect("no end").expect("a change").id, after.id);
    assert_eq!(late.next().expect("no end").expect("a change").id, after.id);
    owner.close().expect("closed");
    let more = client.remember(Remember::new("with the next owner")).expect("stored");
    assert_eq!(watch.next().expect("no end").expect("a change").id, more.id);
    assert_eq!(late.next_within(Duration::from_secs(60)).expect("asked").expect("a change").id, more.id);
    assert_eq!(late.next_within(Duration::ZERO).expect("asked"), None);
}

/// Says which thread embeds, by the vectors it makes.
struct Marked(ModelIdentity, f32);

impl Embedder for Marked {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn embed_document(&self, _text: &str) -> Result<Vec<Vec<f32>>> {
        Ok(vec![vec![self.1, 1.0]])
    }

    fn embed_query(&self, _query: &str) -> Result<Vec<f32>> {
        Ok(vec![self.1, 1.0])
    }
}

#[test]
fn each_process_embeds_its_own_texts() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let identity = ModelIdentity {
        name: "marked".to_owned(),
        weights_sha256: String::new(),
        tokenizer_sha256: String::new(),
        dimensions: 2,
        pooling: "mean".to_owned(),
        normalized: true,
        max_tokens: 16,
        document_form: "text/1".to_owned(),
        query_form: "query/1".to_owned(),
        engine: "test/1".to_owned(),
    };
    let with = |value: f32| options(home.path()).embedder(Arc::new(Marked(identity.clone(), value)));
    let owner = Store::open(with(0.0)).expect("the owner");
    let client = Store::open(with(1000.0)).expect("a client");
    let (one, other) = (
        owner.remember(Remember::new("a text of the owner")).expect("stored"),
        client.remember(Remember::new("a text of the client")).expect("stored"),
    );
    let first = |id: &crate::memory::MemoryId| client.vectors(id).expect("read").expect("made").windows[0][0];
    assert!(first(&one.id) < 0.1 && first(&other.id) > 0.9);
    let found = client.recall(Recall::new("anything").mode(Mode::Vector).topk(1)).expect("found");
    assert_eq!(found.results[0].id, other.id, "the question was embedded by the client");
    let refused = Store::open(options(home.path())).expect("a client without that model");
    let stored = refused.remember(Remember::new("a text without a vector")).expect("stored all the same");
    assert!(client.vectors(&stored.id).expect("read").is_none());
}

#[test]
fn an_owner_steps_aside_for_a_repair_and_comes_back() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, client) = pair(home.path());
    let saved = owner.remember(Remember::new("a text")).expect("stored");
    let (repaired, report) = Store::repair(options(home.path()), &mut ignore()).expect("repaired");
    assert!(report.findings.is_empty());
    assert_eq!(repaired.sharing().expect("it tells").role, Role::Owner);
    assert!(owner.get(&saved.id).expect("read").is_some());
    assert_eq!(owner.sharing().expect("it tells").role, Role::Client);
    assert!(client.get(&saved.id).expect("read").is_some());
    drop(repaired);
    assert!(owner.get(&saved.id).expect("read").is_some());
}

#[test]
fn clients_that_send_garbage_or_nothing_are_let_go_and_nobody_else_notices() {
    use std::io::{Read, Write};
    let home = tempfile::tempdir().expect("a temporary folder");
    let (owner, client) = pair(home.path());
    let folder = home.path().join("store");
    let hello = crate::format::message::framed(crate::format::message::MessageKind::Hello, &[1, 1, b'x', 0]);
    let call = crate::format::message::framed(crate::format::message::MessageKind::Call, &[0xff; 40]);
    for bytes in [vec![b'?'; 100], hello.clone(), [hello.clone(), call].concat(), hello[..7].to_vec()] {
        let mut stream = reach(&folder, Duration::from_secs(1)).expect("connected");
        stream.write_all(&bytes).expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut answer = Vec::new();
        // It ends: the owner has let it go.
        let _ = stream.read_to_end(&mut answer);
        assert!(client.remember(Remember::new("still served")).is_ok());
    }
    let silent: Vec<_> = (0..super::server::CONNECTIONS_MAX + 4)
        .filter_map(|_| reach(&folder, Duration::from_secs(1)).ok())
        .collect();
    assert!(owner.stats().is_ok() && client.stats().is_ok());
    let refused = Store::open(options(home.path()).lock_wait(Duration::ZERO));
    if let Err(error) = refused {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    }
    drop(silent);
    owner.close().expect("closed");
    assert!(client.stats().is_ok());
}

/// A client that sends what it likes.
struct Raw {
    receiver: Receiver,
    sender: Sender,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Raw {
    fn connect(home: &Path) -> Self {
        let stream = reach(&home.join("store"), Duration::from_secs(1)).expect("connected");
        let (mut receiver, sender) = channel(stream, Way::FromOwner).expect("an end");
        let hello = Hello { pid: std::process::id(), program: "a test".to_owned(), is_read_only: false };
        sender.send_value(MessageKind::Hello, &hello).expect("sent");
        let welcome = receiver.receive(Some(MINUTE), MINUTE).expect("answered");
        welcome.value::<Welcome>(MessageKind::Welcome).expect("welcome");
        Self { receiver, sender }
    }

    fn answer(&mut self) -> Message {
        loop {
            let message = self.receiver.receive(Some(MINUTE), MINUTE).expect("answered");
            if message.kind != MessageKind::Working {
                return message;
            }
        }
    }

    fn saved(&mut self) -> Remembered {
        self.answer().value(MessageKind::Answer).expect("stored")
    }
}

/// The body of a call.
fn body<C: Call>(call: &C) -> Vec<u8> {
    let mut body = body_of(&CallHead { kind: C::KIND, ..CallHead::default() }).expect("a body");
    put(call, &mut body).expect("a body");
    body
}

/// A memory that nobody has to embed or to compare.
fn quick(text: impl Into<String>) -> RememberOne {
    let remember = Remember::new(text).vector([1.0, 0.5]).on_duplicate(Duplicates::Keep);
    RememberOne { remember }
}

fn without_model(home: &Path) -> Store {
    Store::open(options(home).model(ModelSpec::None)).expect("a handle")
}

#[test]
fn a_client_that_does_not_wait_for_its_answers_gets_them_in_order() {
    const CALLS: u64 = 300;
    let home = tempfile::tempdir().expect("a temporary folder");
    let owner = without_model(home.path());
    let Raw { mut receiver, sender } = Raw::connect(home.path());
    std::thread::scope(|scope| {
        let write = scope.spawn(|| {
            for number in 0..CALLS {
                // Each needs the disk; and some fail before that.
                let text = if number % 10 == 9 { String::new() } else { format!("number {number}") };
                let call = RememberOne { remember: Remember::new(text).vector([1.0, 0.5]) };
                sender.send(MessageKind::Call, &body(&call)).expect("sent");
            }
        });
        let mut last = 0;
        for number in 0..CALLS {
            let answer = receiver.receive(Some(MINUTE), MINUTE).expect("answered");
            if number % 10 == 9 {
                assert_eq!(answer.kind, MessageKind::Error, "answer {number}");
                continue;
            }
            let saved: Remembered = answer.value(MessageKind::Answer).expect("stored");
            assert!(saved.seq > last, "answer {number}");
            last = saved.seq;
        }
        write.join().expect("all is sent");
    });
    assert_eq!(owner.stats().expect("figures").memories, CALLS - CALLS / 10);
}

#[test]
fn clients_that_do_not_wait_may_ask_anything_in_pieces_of_any_length() {
    const CALLS: usize = 400;
    let home = tempfile::tempdir().expect("a temporary folder");
    let owner = without_model(home.path());
    std::thread::scope(|scope| {
        for client in 0..3 {
            let mut reads = Raw::connect(home.path());
            let mut stream = reads.receiver.stream().try_clone().expect("one more");
            scope.spawn(move || {
                let mut bytes = Vec::new();
                for number in 0..CALLS {
                    let text = format!("number {number} of {client}");
                    let call = match number % 20 {
                        9 => body(&Get { id: "nobody".to_owned() }),
                        14 => body(&quick("")),
                        17 => body(&RememberOne { remember: Remember::new(text).vector([0.5, 1.0]) }),
                        _ => body(&quick(text)),
                    };
                    bytes.extend_from_slice(&framed(MessageKind::Call, &call));
                }
                let mut chance = Chance::of(7, client);
                while !bytes.is_empty() {
                    let len = bytes.len().min(1 + chance.below(3000) as usize);
                    stream.write_all(&bytes[..len]).expect("sent");
                    bytes.drain(..len);
                }
            });
            scope.spawn(move || {
                let mut last = 0;
                for number in 0..CALLS {
                    match number % 20 {
                        9 => {
                            let none: Option<Memory> =
                                reads.answer().value(MessageKind::Answer).expect("an answer");
                            assert!(none.is_none());
                        }
                        14 => assert_eq!(reads.answer().kind, MessageKind::Error),
                        _ => {
                            let saved = reads.saved();
                            assert!(saved.seq >= last, "answer {number}");
                            last = saved.seq;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(owner.stats().expect("figures").memories, 3 * (CALLS - 2 * CALLS / 20) as u64);
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_call_has_answers_to_all_before_it() {
    const CALLS: u64 = 100;
    let home = tempfile::tempdir().expect("a temporary folder");
    let owner = without_model(home.path());
    let mut raw = Raw::connect(home.path());
    let one = |number| framed(MessageKind::Call, &body(&quick(format!("number {number}"))));
    let mut bytes: Vec<u8> = (0..CALLS).flat_map(one).collect();
    bytes.extend_from_slice(&one(CALLS)[..50]);
    let mut stream = raw.receiver.stream();
    stream.write_all(&bytes).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let seqs: Vec<_> = (0..CALLS).map(|_| raw.saved().seq).collect();
    assert!(seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
    assert!(matches!(raw.receiver.receive(Some(MINUTE), MINUTE), Err(Broken::Gone)));
    assert_eq!(owner.stats().expect("figures").memories, CALLS);
}

#[test]
fn a_client_that_takes_no_answers_is_let_go_and_others_write_on() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let owner = without_model(home.path());
    let client = without_model(home.path());
    let raw = Raw::connect(home.path());
    std::thread::scope(|scope| {
        // It ends when the owner lets it go: its answers fill what the system keeps for it.
        let flood = scope.spawn(|| {
            let call = body(&quick("again and again"));
            (0..).take_while(|_| raw.sender.send(MessageKind::Call, &call).is_ok()).count()
        });
        for number in 0..50 {
            client.remember(quick(format!("number {number}")).remember).expect("stored");
            owner.remember(quick(format!("number {number} of the owner")).remember).expect("stored");
        }
        assert!(flood.join().expect("no panic") > 0);
    });
    assert!(client.stats().is_ok());
}

#[test]
fn nothing_is_lost_when_the_owner_of_busy_writers_closes() {
    const CALLS: u64 = 150;
    let home = tempfile::tempdir().expect("a temporary folder");
    let owner = without_model(home.path());
    owner.remember(quick("the first").remember).expect("stored");
    let clients: Vec<_> = (0..4).map(|_| without_model(home.path())).collect();
    let mut raws: Vec<_> = (0..3).map(|_| Raw::connect(home.path())).collect();
    let (mut stores, ids) = std::thread::scope(|scope| {
        let write = |client: Store| {
            scope.spawn(move || {
                let store = |number| client.remember(quick(format!("number {number}")).remember);
                let ids: Vec<_> = (0..CALLS).map(|number| store(number).expect("stored").id).collect();
                (client, ids)
            })
        };
        let writers: Vec<_> = clients.into_iter().map(write).collect();
        let floods: Vec<_> = raws
            .iter_mut()
            .map(|raw| {
                scope.spawn(|| {
                    let calls = (0..CALLS).map(|number| body(&quick(format!("flood {number}"))));
                    calls.take_while(|call| raw.sender.send(MessageKind::Call, call).is_ok()).count();
                    let mut ids = Vec::new();
                    while let Ok(message) = raw.receiver.receive(Some(MINUTE), MINUTE) {
                        let saved: Remembered = message.value(MessageKind::Answer).expect("stored");
                        ids.push(saved.id);
                        if ids.len() as u64 == CALLS {
                            break;
                        }
                    }
                    ids
                })
            })
            .collect();
        while owner.stats().expect("figures").memories < 50 {
            std::thread::yield_now();
        }
        owner.close().expect("closed");
        let told: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("no panic")).collect();
        let floods = floods.into_iter().flat_map(|flood| flood.join().expect("no panic"));
        let (stores, ids): (Vec<_>, Vec<_>) = told.into_iter().unzip();
        (stores, ids.into_iter().flatten().chain(floods).collect::<Vec<_>>())
    });
    let store = stores.pop().expect("a client");
    assert!(ids.iter().all(|id| store.get(id).expect("read").is_some()));
    let unique: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
    let all = store.list(&List::new().limit(usize::MAX)).expect("listed");
    let of_stores = all.iter().filter(|memory| memory.text.starts_with("number")).count();
    assert_eq!(of_stores as u64, 4 * CALLS, "each once");
}

#[test]
fn a_handle_of_before_a_fork_does_nothing_and_leaves_the_store_to_its_owner() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(options(home.path())).expect("opened");
    let saved = store.remember(Remember::new("a text")).expect("stored");
    // As a child has it: the same memory, another number.
    store.set_process(std::process::id() + 1);
    assert_eq!(store.get(&saved.id).expect_err("forked").kind(), ErrorKind::ForkedHandle);
    assert_eq!(store.remember(Remember::new("never")).expect_err("forked").kind(), ErrorKind::ForkedHandle);
    drop(store);
    let other = Store::open(options(home.path())).expect("served");
    assert_eq!(other.sharing().expect("it tells").role, Role::Client, "the owner still has it");
    assert_eq!(other.stats().expect("figures").memories, 1);
}
