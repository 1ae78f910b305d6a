//! Restore: from backups and files, to moments, and back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memento_kv::check::{CheckStatus, check_files};
use memento_kv::clock::ManualClock;
use memento_kv::embed::ModelSpec;
use memento_kv::{
    ErrorKind, List, Memory, MemoryId, Moment, Options, Recall, Remember, RestoreFrom, RestoreOptions,
    Restored, Store, Update,
};

fn options(home: &Path) -> Options {
    Options::at(home).model(ModelSpec::None).background_embedding(false)
}

fn open(home: &Path) -> Store {
    Store::open(options(home)).expect("open")
}

fn id(text: &str) -> MemoryId {
    MemoryId::new(text).expect("an id")
}

fn remember(store: &Store, name: &str) -> u64 {
    store.remember(Remember::new(format!("the text of {name}")).id(id(name)).at(5)).expect("stored").seq
}

fn all(store: &Store) -> BTreeMap<String, Memory> {
    let memories = store.list(&List::new().limit(100_000)).expect("a list");
    memories.into_iter().map(|memory| (memory.id.to_string(), memory)).collect()
}

fn names(store: &Store) -> Vec<String> {
    all(store).into_keys().collect()
}

const EXACT: RestoreOptions = RestoreOptions { exact: true, dry_run: false };
const GENTLE: RestoreOptions = RestoreOptions { exact: false, dry_run: false };

fn restore(store: &Store, from: &RestoreFrom, options: RestoreOptions) -> Restored {
    store.restore(from, options).expect("restored")
}

fn file(path: &Path) -> RestoreFrom {
    RestoreFrom::File(PathBuf::from(path))
}

fn assert_whole(home: &Path) {
    let report = check_files(home, &mut |_| {}).expect("a report");
    assert_eq!(report.status, CheckStatus::Ok, "{:?}", report.findings);
}

#[test]
fn an_exact_restore_brings_a_backup_back_with_every_field_and_undo_brings_the_rest_back() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    let vector: Vec<f32> = vec![0.6, 0.8];
    let full = Remember::new("Alpha é")
        .id(id("a"))
        .at(7)
        .source("s")
        .session("se")
        .importance(0.25)
        .tags(["x", "y,z"])
        .collection("c")
        .speaker("Ann")
        .role("user")
        .position(-3)
        .meta("k", serde_json::json!({"deep": [1, null]}))
        .vector(vector.clone());
    store.remember(full).expect("stored");
    remember(&store, "b");
    let then = all(&store);
    let backup = store.backup().expect("a backup");
    store.forget(["a"]).expect("forgotten");
    store.update("b", Update::new().text("changed")).expect("updated");
    remember(&store, "c");
    let before = all(&store);

    let dry = RestoreOptions { dry_run: true, ..EXACT };
    let preview = restore(&store, &file(&backup), dry);
    assert_eq!((preview.changed.added, preview.changed.changed, preview.changed.forgotten), (1, 1, 1));
    assert_eq!(preview.changed.forgotten_ids, [id("c")]);
    assert_eq!(all(&store), before, "only a look");

    let done = restore(&store, &file(&backup), EXACT);
    assert_eq!(done.changed, preview.changed);
    assert_eq!(all(&store), then);
    let answer = store.recall(memento_kv::Recall::by_vector(vector)).expect("an answer");
    assert_eq!(answer.results[0].id, id("a"), "its vector is back, too");
    store.close().expect("closed");
    assert_whole(home);

    let store = open(home);
    assert_eq!(all(&store), then, "after a reopen");
    restore(&store, &RestoreFrom::Undo, GENTLE);
    assert_eq!(all(&store), before);
    restore(&store, &RestoreFrom::Undo, GENTLE);
    assert_eq!(all(&store), then, "an undo can be undone");
    let seq = remember(&store, "d");
    assert!(seq > done.from_seq);
    store.close().expect("closed");
    assert_whole(home);
}

#[test]
fn a_restore_keeps_what_the_log_knows_to_be_newer() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(home.path());
    for name in ["a", "b", "c"] {
        remember(&store, name);
    }
    let backup = store.backup().expect("a backup");
    store.update("a", Update::new().importance(0.9)).expect("updated");
    store.forget(["b"]).expect("forgotten");
    remember(&store, "d");
    let before = all(&store);
    let done = restore(&store, &RestoreFrom::Latest, GENTLE);
    assert_eq!((done.changed.count(), done.kept), (0, 2), "nothing acknowledged is taken back");
    assert_eq!(all(&store), before);
    // What another store has never had comes back whole.
    let other = tempfile::tempdir().expect("a folder");
    let other = open(other.path());
    remember(&other, "e");
    let done = restore(&other, &file(&backup), GENTLE);
    assert_eq!((done.changed.added, done.changed.forgotten), (3, 0));
    assert_eq!(names(&other), ["a", "b", "c", "e"]);
}

#[test]
fn every_acknowledged_write_is_a_moment_that_can_be_gone_back_to() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let open = || Store::open(options(home).clock(clock.clone())).expect("open");
    let store = open();
    let mut states = vec![(0, 1_700_000_000_000 - 1, BTreeMap::new())];
    for step in 0..30 {
        clock.set(1_700_000_000_000 + 10_000 * (step + 1));
        let seq = match step % 5 {
            3 => store.update(format!("m{}", step - 1), Update::new().meta("n", step)).expect("updated").seq,
            4 => store.forget([format!("m{}", step - 2)]).expect("forgotten").seq.expect("it was there"),
            _ => remember(&store, &format!("m{step}")),
        };
        if step == 10 || step == 20 {
            store.compact(&mut |_| {}).expect("compacted");
        }
        states.push((seq, 1_700_000_000_000 + 10_000 * (step + 1), all(&store)));
    }
    store.close().expect("closed");
    let store = open();
    clock.set(1_700_001_000_000);
    for (seq, ms, state) in states.iter().rev().chain(&states) {
        let by_seq = *ms % 20_000 == 0;
        let from = if by_seq || *seq == 0 { RestoreFrom::Seq(*seq) } else { RestoreFrom::At(ms + 5000) };
        restore(&store, &from, GENTLE);
        assert_eq!(all(&store), *state, "sequence {seq}");
    }
    store.close().expect("closed");
    assert_whole(home);
}

#[test]
fn the_past_answers_without_a_restore_and_two_moments_can_be_compared() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    remember(&store, "a");
    let first = remember(&store, "b");
    let then = all(&store);
    store.forget(["a"]).expect("forgotten");
    store.compact(&mut |_| {}).expect("compacted");
    store.update("b", Update::new().text("another one")).expect("updated");
    let second = remember(&store, "c");
    store.compact(&mut |_| {}).expect("compacted");
    remember(&store, "d");
    let now = all(&store);
    let past = store.as_of(Moment::Seq(first)).expect("the past");
    assert_eq!(all(&past), then);
    let answer = past.recall(Recall::new("text a")).expect("an answer");
    assert!(answer.results.iter().any(|found| found.id == id("a")));
    let error = past.remember(Remember::new("x")).expect_err("the past stays as it was");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    drop(past);
    let middle = store.as_of(Moment::Seq(second)).expect("the past");
    assert_eq!(names(&middle), ["b", "c"], "where the log ends with a rewritten segment, too");
    drop(middle);
    assert_eq!(std::fs::read_dir(home.join("store/past")).map_or(0, Iterator::count), 0, "nothing is left");
    assert_eq!(all(&store.as_of(Moment::Now).expect("the present")), now);
    assert!(all(&store.as_of(Moment::Seq(0)).expect("the beginning")).is_empty());

    let changed = store.diff(Moment::Seq(first), Moment::Now).expect("a difference");
    assert_eq!((changed.added, changed.changed, changed.forgotten), (2, 1, 1));
    assert_eq!((&changed.changed_ids[..], &changed.forgotten_ids[..]), (&[id("b")][..], &[id("a")][..]));
    let back = store.diff(Moment::Now, Moment::Seq(first)).expect("a difference");
    assert_eq!((back.added, back.changed, back.forgotten), (1, 1, 2));
}

#[test]
fn the_past_ends_where_its_window_does_and_a_purge_takes_it_away() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let store = Store::open(options(home).clock(clock.clone()).history(7, 1 << 30)).expect("open");
    let first = remember(&store, "a");
    store.update("a", Update::new().text("canary")).expect("updated");
    store.update("a", Update::new().text("later")).expect("updated");
    store.compact(&mut |_| {}).expect("compacted");
    assert_eq!(names(&store.as_of(Moment::Seq(first)).expect("within the window")), ["a"]);
    let holds = |what: &[u8]| {
        std::fs::read_dir(home.join("store/trash")).expect("the trash").any(|file| {
            std::fs::read(file.expect("a file").path()).expect("read").windows(6).any(|part| part == what)
        })
    };
    assert!(holds(b"canary"));
    store.purge(["a"], &mut |_| {}).expect("purged");
    assert!(!holds(b"canary"));
    assert_eq!(store.as_of(Moment::Seq(first)).expect_err("it is gone").kind(), ErrorKind::NotFound);

    let second = remember(&store, "b");
    store.forget(["b"]).expect("forgotten");
    store.compact(&mut |_| {}).expect("compacted");
    assert_eq!(names(&store.as_of(Moment::Seq(second)).expect("within the window")), ["b"]);
    clock.set(1_700_000_000_000 + 8 * 86_400_000);
    store.close().expect("closed");
    let store = Store::open(options(home).clock(clock.clone())).expect("open");
    assert_eq!(store.as_of(Moment::Seq(second)).expect_err("too long ago").kind(), ErrorKind::NotFound);
    assert!(store.list(&List::new()).expect("a list").is_empty());
}

#[test]
fn a_restore_that_outgrows_a_segment_counts_as_a_whole() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    let text = "word ".repeat(40_000);
    for batch in 0..8 {
        let group = (0..60)
            .map(|n| Remember::new(format!("{batch} {n} {text}")).id(id(&format!("m{batch}-{n}"))).at(5));
        store.remember_many(group.collect()).expect("stored");
    }
    let then = all(&store);
    let backup = store.backup().expect("a backup");
    store.forget(then.keys()).expect("forgotten");
    let done = restore(&store, &file(&backup), EXACT);
    assert_eq!(done.changed.added, 480);
    assert_eq!(all(&store), then);
    store.close().expect("closed");
    assert_whole(home);
    let store = open(home);
    assert_eq!(all(&store), then);
    restore(&store, &RestoreFrom::Undo, GENTLE);
    assert!(all(&store).is_empty());
}

#[test]
fn others_write_on_while_a_restore_goes_on_and_nothing_is_lost() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    for n in 0..200 {
        remember(&store, &format!("m{n}"));
    }
    let backup = store.backup().expect("a backup");
    store.forget((0..100).map(|n| format!("m{n}"))).expect("forgotten");
    let written: Vec<Vec<String>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = store.clone();
                scope.spawn(move || {
                    (0..50)
                        .map(|n| {
                            let name = format!("w{writer}-{n}");
                            remember(&store, &name);
                            assert!(store.get(&name).expect("a read").is_some());
                            name
                        })
                        .collect()
                })
            })
            .collect();
        for _ in 0..5 {
            // Gentle: what the writers add is not in the backup and stays.
            restore(&store, &file(&backup), GENTLE);
            store.forget(["m150"]).expect("forgotten");
        }
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    });
    let there = names(&store);
    assert!(written.iter().flatten().all(|name| there.contains(name)));
    store.close().expect("closed");
    assert_whole(home);
    assert_eq!(names(&open(home)), there);
}

#[test]
fn what_is_no_backup_is_refused_and_nothing_changes() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(home.path());
    remember(&store, "a");
    let bad = home.path().join("bad.db");
    let attempt = |from: &RestoreFrom| store.restore(from, EXACT).expect_err("refused").kind();
    assert_eq!(attempt(&file(&bad)), ErrorKind::NotFound);
    std::fs::write(&bad, "nothing of the kind").expect("written");
    assert!([ErrorKind::Corrupt, ErrorKind::Invalid].contains(&attempt(&file(&bad))));
    assert_eq!(attempt(&RestoreFrom::Latest), ErrorKind::NotFound);
    assert_eq!(attempt(&RestoreFrom::Undo), ErrorKind::NotFound);
    assert_eq!(attempt(&RestoreFrom::Seq(99)), ErrorKind::NotFound);
    std::os::unix::fs::symlink(&bad, home.path().join("link.db")).expect("a link");
    assert_eq!(attempt(&file(&home.path().join("link.db"))), ErrorKind::Permission);
    assert_eq!(names(&store), ["a"]);
}

#[test]
fn databases_of_the_original_come_in_with_every_row() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, rows) in [("memory-v0.2.2.db", 194), ("memory-main-ace4159.db", 50)] {
        let home = tempfile::tempdir().expect("a folder");
        let store = open(home.path());
        let done = restore(&store, &file(&fixtures.join(name)), GENTLE);
        assert_eq!(done.changed.added, rows, "{name}: {:?}", done.problems);
        assert_eq!(all(&store).len() as u64, rows);
        let again = restore(&store, &file(&fixtures.join(name)), GENTLE);
        assert_eq!((again.changed.count(), again.changed.unchanged), (0, rows));
    }
}
