//! Many processes, one store: they write, change, forget and read beside each other while whoever owns the store is killed
//! again and again. Nothing that was acknowledged is lost, nothing is done twice, and nobody reads what is older than
//! what somebody was told.
//!
//! `SHARE_SECONDS=60 SHARE_PROCESSES=8` makes a longer run, `SEED=…` repeats the choices of a run.

#![allow(clippy::print_stderr, reason = "what a run did must be seen")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::Rng;
use memento_kv::{ChangeKind, Duplicates, ErrorKind, MemoryId, Options, Remember, Role, Store, Update};
use rustix::process::{Pid, Signal, kill_process};

const WORKER: &str = "a_worker_writes_until_it_is_told_to_stop";
const HOLDER: &str = "a_holder_keeps_the_store_until_its_input_ends";

fn options(home: &Path) -> Options {
    common::options(home)
}

/// This program once more, in a role.
fn child(role: &str, home: &Path, environment: &[(&str, String)]) -> Command {
    let mut command = common::child(role);
    command.env("SHARE_HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.envs(environment.iter().map(|(name, value)| (*name, value)));
    command
}

fn home_of_child() -> PathBuf {
    PathBuf::from(std::env::var_os("SHARE_HOME").expect("the parent gives it"))
}

/// What a worker was told about one of its memories, one line each in a file that all can read: its name, its version
/// (0 when it was forgotten) and its id.
struct Told(File);

impl Told {
    fn of(home: &Path, worker: usize) -> PathBuf {
        home.join(format!("told-{worker}"))
    }

    fn write(&mut self, name: &str, version: u64, id: &str) {
        self.0.write_all(format!("{name} {version} {id}\n").as_bytes()).expect("a line");
    }

    fn read(home: &Path, worker: usize) -> BTreeMap<String, (u64, String)> {
        let mut text = String::new();
        if let Ok(mut file) = File::open(Self::of(home, worker)) {
            file.read_to_string(&mut text).expect("lines");
        }
        // A worker that is killed may leave half a line behind.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut told = BTreeMap::new();
        for line in whole.lines() {
            let parts: Vec<_> = line.split(' ').collect();
            let [name, version, id] = parts[..] else { panic!("a line {line:?}") };
            told.insert(name.to_owned(), (version.parse().expect("a version"), id.to_owned()));
        }
        told
    }
}

fn version_of(text: &str) -> u64 {
    text.rsplit(' ').next().expect("a word").parse().expect("a version")
}

#[test]
fn a_worker_writes_until_it_is_told_to_stop() {
    if !common::is_child(WORKER) {
        return;
    }
    let home = home_of_child();
    let number = |name| common::number(name).expect("the parent gives it");
    let (worker, workers, life) =
        (number("SHARE_WORKER") as usize, number("SHARE_WORKERS") as usize, number("SHARE_LIFE"));
    let mut rng = Rng::new(number("SHARE_SEED") ^ life << 8 ^ worker as u64);
    let file = OpenOptions::new().create(true).append(true).open(Told::of(&home, worker)).expect("a file");
    let mut told = Told(file);
    let mut mine: Vec<(String, u64, MemoryId)> = Vec::new();
    let store = Store::open(options(&home)).expect("a handle");
    let mut made = 0;
    while !home.join("stop").exists() {
        match rng.below(10) {
            0..=3 => {
                made += 1;
                let name = format!("w{worker}.{life}.{made}");
                let remember = Remember::new(format!("{name} in version 1")).on_duplicate(Duplicates::Keep);
                let saved = store.remember(remember).expect("stored");
                told.write(&name, 1, saved.id.as_str());
                mine.push((name, 1, saved.id));
            }
            4..=5 if !mine.is_empty() => {
                let at = rng.below(mine.len());
                let (name, version, id) = &mut mine[at];
                let text = format!("{name} in version {}", *version + 1);
                assert!(store.update(&id, Update::new().text(text)).expect("changed").changed);
                *version += 1;
                told.write(name, *version, id.as_str());
            }
            6 if mine.len() > 4 => {
                let (name, _, id) = mine.remove(rng.below(mine.len()));
                assert_eq!(
                    store.forget([&id]).expect("forgotten").forgotten.as_slice(),
                    std::slice::from_ref(&id)
                );
                told.write(&name, 0, id.as_str());
            }
            _ => {
                // What another one was told before this question is in its answer.
                let other = Told::read(&home, rng.below(workers));
                let names: Vec<_> = other.iter().collect();
                if names.is_empty() {
                    continue;
                }
                let (name, (version, id)) = names[rng.below(names.len())];
                let found = store.get(id).expect("read");
                match (version, found) {
                    (0, found) => assert!(found.is_none(), "{name} is back"),
                    // It was changed or forgotten meanwhile, or is as it was told.
                    (_, None) => assert_eq!(
                        Told::read_soon(&home, name),
                        0,
                        "{name} in version {version} is not there"
                    ),
                    (version, Some(memory)) => {
                        let now = version_of(&memory.text);
                        assert!(now >= *version, "{name} is old: {now} where {version} was told");
                    }
                }
            }
        }
    }
    store.close().expect("closed");
}

impl Told {
    /// The version of a memory once its worker has told of what it was at: a memory that is gone was forgotten by a call
    /// whose answer may still be on its way.
    fn read_soon(home: &Path, name: &str) -> u64 {
        let worker: usize = name[1..].split('.').next().expect("a number").parse().expect("a number");
        let started = Instant::now();
        loop {
            let version = Self::read(home, worker)[name].0;
            if version == 0 || started.elapsed() > Duration::from_secs(30) {
                return version;
            }
            // Its worker may have been killed before it could tell: then nobody ever will.
            if home.join(format!("killed-{worker}")).exists() {
                return 0;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn owners_are_killed_and_nothing_is_lost_done_twice_or_stale() {
    let (seconds, processes) = (
        common::number("SHARE_SECONDS").unwrap_or(4),
        common::number("SHARE_PROCESSES").unwrap_or(4) as usize,
    );
    let seed = common::seed("share");
    let mut rng = Rng::new(seed);
    let folder = common::folder();
    let home = folder.path().join("home");
    Store::open(options(&home)).expect("made").close().expect("closed");
    let start = |worker: usize, life: u64| {
        let environment = [
            ("SHARE_WORKER", worker.to_string()),
            ("SHARE_WORKERS", processes.to_string()),
            ("SHARE_LIFE", life.to_string()),
            ("SHARE_SEED", seed.to_string()),
        ];
        child(WORKER, &home, &environment).spawn().expect("it starts")
    };
    let mut workers: Vec<(u64, Child)> = (0..processes).map(|worker| (1, start(worker, 1))).collect();
    let (mut kills, mut lives) = (0_u64, processes as u64);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50 + rng.below(300) as u64));
        let owner = std::fs::read_to_string(home.join("store/LOCK")).unwrap_or_default();
        let owner: Option<u32> = owner.lines().next().and_then(|pid| pid.parse().ok());
        let Some(worker) = workers.iter().position(|(_, child)| Some(child.id()) == owner) else { continue };
        let (life, child) = &mut workers[worker];
        assert!(child.try_wait().expect("asked").is_none(), "worker {worker} ended by itself");
        File::create(home.join(format!("killed-{worker}"))).expect("a mark");
        child.kill().expect("killed");
        child.wait().expect("waited for");
        kills += 1;
        lives += 1;
        *life += 1;
        *child = start(worker, *life);
    }
    File::create(home.join("stop")).expect("a mark");
    for (worker, (_, mut child)) in workers.into_iter().enumerate() {
        let status = ended(&mut child);
        assert!(status.success(), "worker {worker}: {status}");
    }
    let acknowledged: Vec<_> = (0..processes).map(|worker| Told::read(&home, worker)).collect();
    let acknowledged: BTreeMap<_, _> = acknowledged.into_iter().flatten().collect();
    let store = Store::open(options(&home)).expect("opened");
    let all = common::everything(&store).expect("read");
    let mut names = BTreeMap::new();
    for memory in all.values() {
        let name = memory.text.split(' ').next().expect("a name");
        assert!(names.insert(name.to_owned(), version_of(&memory.text)).is_none(), "{name} is there twice");
    }
    let mut uncertain = 0;
    for (name, (version, _)) in &acknowledged {
        match (version, names.get(name)) {
            (0, there) => assert_eq!(there, None, "{name} is back"),
            // One call of each life may have been done without an answer.
            (version, Some(now)) => {
                assert!(*now >= *version && *now <= version + 1, "{name}: {now}, told was {version}");
                uncertain += now - version;
            }
            (_, None) => uncertain += 1,
        }
    }
    uncertain += names.keys().filter(|name| !acknowledged.contains_key(*name)).count() as u64;
    assert!(uncertain <= kills, "{uncertain} calls without an answer, and {kills} kills");
    // Each change stands in the log once: no call was done by two owners.
    let mut updates = BTreeMap::new();
    let mut watch = store.watch(Some(0)).expect("followed");
    let mut seen = BTreeSet::new();
    while let Some(change) = watch.next_within(Duration::ZERO).expect("read") {
        assert!(seen.insert(change.seq), "sequence {} came twice", change.seq);
        if let (ChangeKind::Updated, Some(memory)) = (change.kind, change.memory) {
            let version = version_of(&memory.text);
            assert!(
                updates.insert((change.id, version), change.seq).is_none(),
                "version {version} was stored twice"
            );
        }
    }
    assert!(store.check(&mut |_| {}).expect("checked").findings.is_empty());
    eprintln!(
        "share: {processes} processes, {seconds} s, {kills} owners killed, {lives} lives, {} memories told of, {uncertain} without an answer",
        acknowledged.len()
    );
    assert!(kills > 0 && acknowledged.len() > processes, "too little happened");
}

#[test]
fn a_holder_keeps_the_store_until_its_input_ends() {
    if !common::is_child(HOLDER) {
        return;
    }
    let store = Store::open(options(&home_of_child())).expect("opened");
    println!("\nheld");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("an end");
    store.close().expect("closed");
    // The parent reads no further, and the harness would have more to say.
    std::process::exit(0);
}

/// A process that owns the store.
fn holder(home: &Path) -> Child {
    let mut holder = child(HOLDER, home, &[]).spawn().expect("it starts");
    let mut out = std::io::BufReader::new(holder.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while line != "held\n" {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).expect("a line") > 0, "it ended");
    }
    holder
}

/// How a process ends that must end soon.
fn ended(child: &mut Child) -> ExitStatus {
    common::within(Duration::from_secs(180), "a process that is to end", || child.wait().expect("waited for"))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn an_owner_that_was_stopped_is_named_and_never_robbed() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let mut owner = holder(&home);
    let client = Store::open(options(&home)).expect("a client");
    let saved = client.remember(Remember::new("before the stop")).expect("stored");
    kill_process(pid(&owner), Signal::STOP).expect("stopped");
    common::until(Duration::from_secs(30), "a process that is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", owner.id())).expect("its state");
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    });
    for error in [
        client.get(&saved.id).expect_err("nobody answers"),
        client.remember(Remember::new("perhaps")).expect_err("nobody answers"),
        Store::open(options(&home)).expect_err("nobody answers"),
    ] {
        assert_eq!(error.kind(), ErrorKind::OwnerUnresponsive, "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(&format!("process {}", owner.id())) && message.contains("since 20"),
            "{message}"
        );
        assert!(error.hint_text().is_some_and(|hint| hint.contains("kill -CONT")), "{error:?}");
    }
    let report = memento_kv::check::check_files(&home, &mut |_| {}).expect("the files are read without it");
    assert!(report.findings.is_empty(), "{report:?}");
    kill_process(pid(&owner), Signal::CONT).expect("goes on");
    assert!(client.get(&saved.id).expect("read").is_some());
    drop(owner.stdin.take());
    assert!(ended(&mut owner).success());
    assert!(client.get(&saved.id).expect("read").is_some());
    assert_eq!(client.sharing().expect("it tells").role, Role::Owner);
}

#[test]
fn the_program_runs_beside_a_library_user_again_and_again() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let store = Store::open(Options::at(&home)).expect("opened");
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memento-kv"));
        command.env("MEMENTO_HOME", &home).env("HOME", folder.path()).stdin(Stdio::null());
        command
    };
    let mut ids = Vec::new();
    for round in 0..10 {
        let ran = program()
            .args(["remember", "--json", &format!("the program says {round}")])
            .output()
            .expect("it starts");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        let id = answer["id"].as_str().expect("an id").to_owned();
        assert!(store.get(&id).expect("read").is_some(), "what the program was told is read at once");
        let mine = store.remember(Remember::new(format!("the library says {round}"))).expect("stored");
        let got = program().args(["get", mine.id.as_str()]).output().expect("it starts");
        assert!(got.status.success());
        ids.extend([id, mine.id.to_string()]);
    }
    let ran = program().args(["recall", "what does the program say", "--json"]).output().expect("it starts");
    let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(5));
    let shown = program().args(["where", "--json"]).output().expect("it starts");
    let place: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(place["store"], "owned", "{place}");
    assert_eq!(place["sharing"]["pid"], std::process::id());
    assert_eq!(store.stats().expect("figures").memories, ids.len() as u64);
}

#[test]
fn watch_prints_what_other_processes_write_one_line_each() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let store = Store::open(options(&home)).expect("opened");
    let first = store.remember(Remember::new("before")).expect("stored");
    let mut watch = Command::new(env!("CARGO_BIN_EXE_memento-kv"))
        .env("MEMENTO_HOME", &home)
        .args(["watch", "--since", "0", "--count", "3", "--timeout-ms", "60000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    store.update(&first.id, Update::new().importance(0.9)).expect("changed");
    store.forget([&first.id]).expect("forgotten");
    let mut text = String::new();
    watch.stdout.take().expect("a pipe").read_to_string(&mut text).expect("lines");
    assert!(watch.wait().expect("it ends").success());
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["remembered", "updated", "forgotten"]);
    assert_eq!(lines[1]["memory"]["importance"], 0.9);
    assert!(lines[2]["memory"].is_null());
}

#[test]
fn a_health_run_asks_the_owner_and_one_that_hangs_is_reported() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let mut owner = holder(&home);
    let client = Store::open(options(&home)).expect("a client");
    client.remember(Remember::new("a text")).expect("stored");
    let health = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memento-kv"));
        command.env("MEMENTO_HOME", &home).env("HOME", folder.path()).stdin(Stdio::null());
        let ran = command.args(["health", "--json"]).output().expect("it starts");
        let report: serde_json::Value = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stderr)));
        (ran.status.code(), report)
    };
    let (code, report) = health();
    assert_eq!(code, Some(0), "{report}");
    assert!(home.join("memory.db").is_file(), "by way of the owner: {report}");
    assert_eq!(std::fs::read_dir(home.join("backups")).expect("backups").count(), 2, "{report}");
    kill_process(pid(&owner), Signal::STOP).expect("stopped");
    common::until(Duration::from_secs(30), "a process that is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", owner.id())).expect("its state");
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    });
    let (code, report) = health();
    assert_eq!(code, Some(4), "{report}");
    kill_process(pid(&owner), Signal::CONT).expect("goes on");
    drop(owner.stdin.take());
    assert!(ended(&mut owner).success());
    assert_eq!(health().0, Some(0));
}
