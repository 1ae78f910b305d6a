//! `health`, on the built program: after every damage one run, and what it said, did, and left in the store.

mod common;
#[path = "hostile/support.rs"]
#[allow(dead_code, reason = "made for another test program")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::{Rng, contents, copy_folder, overwrite, segments};
use memento_kv::{ErrorKind, Remember, Store};
use serde_json::Value;
use support::{PROGRAM, Ran, can, fill, good, on_a_small_disk, program, run, skipped};

/// A word of every memory's text: it must never stand where texts have no place.
const CANARY: &str = "Zugunruhe";

/// A home in a folder of its own, which is the user's.
struct Lab {
    _folder: tempfile::TempDir,
    home: PathBuf,
}

/// What a run of `health` said and how it ended.
#[derive(Debug)]
struct Told {
    ran: Ran,
    json: Value,
}

impl Told {
    fn status(&self) -> &str {
        self.json["status"].as_str().unwrap_or_default()
    }

    fn code(&self) -> i32 {
        self.ran.code.expect("no signal ended it")
    }

    fn files(&self) -> Vec<&str> {
        let findings = self.json["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        findings.iter().filter_map(|finding| finding["file"].as_str()).collect()
    }

    fn outcome(&self, step: &str) -> Option<&str> {
        let steps = self.json["steps"].as_array()?;
        steps.iter().find(|found| found["step"] == step)?["outcome"].as_str()
    }
}

fn health<const N: usize>(home: &Path, args: [&str; N]) -> Told {
    let ran = Ran::of(&program(home).args(["health", "--json"]).args(args).output().expect("it starts"));
    let json = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    Told { ran, json }
}

/// Everything that the store remembers, as lines in order.
fn export(home: &Path) -> Vec<String> {
    let mut lines: Vec<String> =
        good(home, ["export", "--format", "jsonl", "-q"]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn lines(path: &Path, round: usize) {
    let lines: String = (0..6)
        .map(|n| {
            format!(
                "{{\"id\":\"m{round}-{n}\",\"text\":\"{CANARY} {n} of round {round}\",\"timestamp\":{n}}}\n"
            )
        })
        .collect();
    fs::write(path, lines).expect("written");
}

/// Four segments, a published `memory.db`, a verified backup, and two memories that are younger than it.
fn sample() -> &'static (tempfile::TempDir, Vec<String>) {
    static SAMPLE: OnceLock<(tempfile::TempDir, Vec<String>)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = common::quick_folder();
        let home = folder.path().join("home");
        fs::create_dir(&home).expect("a folder");
        common::set_mode(&home, 0o700);
        fs::write(home.join("config.yaml"), "embed:\n  model: builtin:none\n").expect("written");
        let file = folder.path().join("lines.jsonl");
        for round in 0..4 {
            lines(&file, round);
            good(&home, ["import", file.to_str().expect("a path"), "-q"]);
            good(&home, ["update", &format!("m{round}-1"), "--text", &format!("{CANARY} changed {round}")]);
            good(&home, ["forget", &format!("m{round}-2")]);
            // As after a crash: the next one seals this segment and begins another.
            fs::remove_file(home.join("store/MANIFEST")).expect("it is only an accelerator");
        }
        let first = health(&home, ["--deep"]);
        assert_eq!(first.code(), 0, "{first:?}");
        assert_eq!(first.outcome("backup"), Some("done"), "{first:?}");
        for n in 0..2 {
            good(&home, ["remember", &format!("{CANARY} after the backup, {n}")]);
        }
        assert_eq!(health(&home, []).status(), "ok");
        assert!(segments(&home).len() >= 4, "{:?}", segments(&home));
        fs::remove_file(file).expect("removed");
        let all = export(&home);
        assert_eq!(all.len(), 4 * 5 + 2);
        (folder, all)
    })
}

impl Lab {
    /// A copy of the sample.
    fn new() -> Self {
        let folder = common::quick_folder();
        copy_folder(sample().0.path(), folder.path());
        let home = folder.path().join("home");
        Self { _folder: folder, home }
    }

    /// One without anything in it.
    fn empty() -> Self {
        let folder = common::quick_folder();
        let home = folder.path().join("home");
        Self { _folder: folder, home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn segment(&self, index: usize) -> PathBuf {
        segments(&self.home).remove(index)
    }

    /// The segment that is open.
    fn last(&self) -> PathBuf {
        segments(&self.home).pop().expect("there is one")
    }

    fn backup(&self) -> PathBuf {
        let names = fs::read_dir(self.path("backups")).expect("a list");
        let mut paths: Vec<_> = names.map(|entry| entry.expect("an entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "db"));
        paths.sort();
        paths.remove(0)
    }

    fn remove_store(&self) {
        fs::remove_dir_all(self.path("store")).expect("removed");
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("logs").join(name)).unwrap_or_default()
    }
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("read");
    let at = offset.min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    overwrite(path, &bytes);
}

fn cut(path: &Path) {
    let bytes = fs::read(path).expect("read");
    overwrite(path, &bytes[..bytes.len() / 2]);
}

fn zero_block(path: &Path, block: usize) {
    let mut bytes = fs::read(path).expect("read");
    let start = (block * 4096).min(bytes.len().saturating_sub(4096));
    let end = (start + 4096).min(bytes.len());
    bytes[start..end].fill(0);
    overwrite(path, &bytes);
}

/// Where the first of the canaries stands in a file.
fn canary_in(path: &Path) -> usize {
    let bytes = fs::read(path).expect("read");
    bytes.windows(CANARY.len()).position(|part| part == CANARY.as_bytes()).expect("a text")
}

type Damage = fn(&Lab);

/// What is damaged, how, and what the run must name.
const DAMAGES: &[(&str, Damage, &str)] = &[
    ("a flipped byte in a record", |lab| flip(&lab.segment(0), 4200), "store/seg/"),
    (
        "a flipped byte in a text",
        |lab| {
            let path = lab.segment(1);
            flip(&path, canary_in(&path));
        },
        "store/seg/",
    ),
    (
        "a flipped byte in both headers",
        |lab| {
            let path = lab.segment(1);
            flip(&path, 20);
            flip(&path, 2068);
        },
        "store/seg/",
    ),
    ("a flipped byte in the last segment", |lab| flip(&lab.last(), 4200), "store/seg/"),
    ("a segment cut in two", |lab| cut(&lab.segment(1)), "store/seg/"),
    ("an empty segment", |lab| overwrite(&lab.segment(2), b""), "store/seg/"),
    ("a block of zeros", |lab| zero_block(&lab.segment(0), 1), "store/seg/"),
    ("a segment gone", |lab| fs::remove_file(lab.segment(1)).expect("removed"), "store/seg/"),
    ("the first segment gone", |lab| fs::remove_file(lab.segment(0)).expect("removed"), "store/seg/"),
    ("the last segment gone", |lab| fs::remove_file(lab.last()).expect("removed"), "store/"),
    (
        "two segments that changed places",
        |lab| {
            let (one, other) = (lab.segment(0), lab.segment(2));
            let (first, second) = (fs::read(&one).expect("read"), fs::read(&other).expect("read"));
            overwrite(&one, &second);
            overwrite(&other, &first);
        },
        "store/seg/",
    ),
    ("a manifest of other bytes", |lab| flip(&lab.path("store/MANIFEST"), 30), "store/MANIFEST"),
    ("an empty manifest", |lab| overwrite(&lab.path("store/MANIFEST"), b""), "store/MANIFEST"),
    ("no manifest", |lab| fs::remove_file(lab.path("store/MANIFEST")).expect("removed"), "store/MANIFEST"),
    ("no view", |lab| fs::remove_file(lab.path("store/view.redb")).expect("removed"), "store/view.redb"),
    ("an empty view", |lab| overwrite(&lab.path("store/view.redb"), b""), "store/view.redb"),
    ("half a view", |lab| cut(&lab.path("store/view.redb")), "store/view.redb"),
    ("a view of other bytes", |lab| overwrite(&lab.path("store/view.redb"), &[7; 50_000]), "store/view.redb"),
    (
        "a flipped byte in a row of the view",
        |lab| {
            let path = lab.path("store/view.redb");
            flip(&path, canary_in(&path));
        },
        "store/view.redb",
    ),
    ("no memory.db", |lab| fs::remove_file(lab.path("memory.db")).expect("removed"), "memory.db"),
    ("a memory.db of other bytes", |lab| overwrite(&lab.path("memory.db"), &[7; 50_000]), "memory.db"),
    ("half a memory.db", |lab| cut(&lab.path("memory.db")), "memory.db"),
    (
        "a flipped byte in a text of memory.db",
        |lab| {
            let path = lab.path("memory.db");
            flip(&path, canary_in(&path));
        },
        "memory.db",
    ),
    (
        "a backup of other bytes",
        |lab| {
            let path = lab.backup();
            flip(&path, canary_in(&path));
        },
        "backups/memory_",
    ),
    ("a backup gone", |lab| fs::remove_file(lab.backup()).expect("removed"), "backups/memory_"),
    (
        "a segment and the view",
        |lab| {
            flip(&lab.segment(1), 4200);
            fs::remove_file(lab.path("store/view.redb")).expect("removed");
        },
        "store/seg/",
    ),
    ("all segments", |lab| segments(&lab.home).iter().for_each(|path| zero_block(path, 1)), "store/seg/"),
    (
        "all segments and the view gone",
        |lab| {
            segments(&lab.home).iter().for_each(|path| fs::remove_file(path).expect("removed"));
            fs::remove_file(lab.path("store/view.redb")).expect("removed");
        },
        "store",
    ),
];

#[test]
fn after_every_damage_one_run_finds_it_mends_it_and_nothing_is_missing() {
    for (name, damage, named) in DAMAGES {
        let lab = Lab::new();
        damage(&lab);
        let told = health(&lab.home, ["--deep"]);
        assert_eq!((told.code(), told.status()), (0, "healed"), "{name}: {told:?}");
        assert!(told.files().iter().any(|file| file.starts_with(named)), "{name}: {:?}", told.files());
        assert_eq!(export(&lab.home), sample().1, "{name}: {told:?}");
        let log = lab.log("health.log");
        let line = log.lines().last().expect("a line");
        assert!(line.contains("] health check passed after healing: status=healed"), "{name}: {line}");
        assert!(lab.log("failures.log").contains("fingerprint="), "{name}: {}", lab.log("failures.log"));
        let again = health(&lab.home, ["--deep"]);
        assert_eq!((again.code(), again.status()), (0, "ok"), "{name}: {again:?}");
        good(&lab.home, ["check", "--deep"]);
    }
}

#[test]
fn a_quick_run_finds_what_the_opening_heals() {
    for (name, damage) in [
        ("no view", (|lab| fs::remove_file(lab.path("store/view.redb")).expect("removed")) as Damage),
        ("no manifest", |lab| fs::remove_file(lab.path("store/MANIFEST")).expect("removed")),
        ("a segment gone", |lab| fs::remove_file(lab.segment(1)).expect("removed")),
        ("the last segment damaged", |lab| flip(&lab.last(), 4200)),
    ] {
        let lab = Lab::new();
        damage(&lab);
        let told = health(&lab.home, []);
        assert_eq!((told.code(), told.status()), (0, "healed"), "{name}: {told:?}");
        assert_eq!(export(&lab.home), sample().1, "{name}");
    }
}

#[test]
fn what_a_program_healed_between_two_runs_is_told_by_the_next_one() {
    let lab = Lab::new();
    assert_eq!(health(&lab.home, []).status(), "ok");
    overwrite(&lab.path("store/view.redb"), &[7; 50_000]);
    assert_eq!(export(&lab.home), sample().1, "the export has healed it");
    let told = health(&lab.home, []);
    assert_eq!((told.code(), told.status()), (0, "healed"), "{told:?}");
    assert_eq!(told.files(), ["store/view.redb"], "{told:?}");
    assert!(lab.log("failures.log").contains("damaged view_damaged "), "{}", lab.log("failures.log"));
    assert_eq!(health(&lab.home, []).status(), "ok", "once is enough");
}

#[test]
fn what_needs_a_person_is_in_the_log_with_its_kind_and_a_failure_when_it_stays() {
    let lab = Lab::new();
    fs::rename(lab.path("store/seg"), lab.path("seg")).expect("renamed");
    std::os::unix::fs::symlink(lab.path("seg"), lab.path("store/seg")).expect("a link");
    for _ in 0..2 {
        let told = health(&lab.home, []);
        assert_eq!((told.code(), told.status()), (3, "decision"), "{told:?}");
    }
    let line = lab.log("health.log").lines().last().expect("a line").to_owned();
    assert!(line.contains(" status=decision ") && line.contains(" why=permission "), "{line}");
    let failures = lab.log("failures.log");
    assert_eq!(failures.matches("io permission ").count(), 1, "from the second run on: {failures}");
}

#[test]
fn what_is_said_to_have_been_done_was_done() {
    // Nothing but the segment has the memories, and there is nothing to restore from.
    let lab = Lab::new();
    flip(&lab.segment(0), 4200);
    for file in ["store/view.redb", "memory.db"] {
        fs::remove_file(lab.path(file)).expect("removed");
    }
    fs::remove_dir_all(lab.path("backups")).expect("removed");
    let told = health(&lab.home, []);
    assert_eq!((told.code(), told.status()), (1, "lost"), "{told:?}");
    for file in ["store/seg/", "store/view.redb", "memory.db", "backups/memory_"] {
        assert!(told.files().iter().any(|found| found.starts_with(file)), "{file}: {:?}", told.files());
    }
    let failures = lab.log("failures.log");
    let line = |kind: &str| {
        let line = failures.lines().rev().find(|line| line.contains(kind));
        line.unwrap_or_else(|| panic!("{kind} in {failures}")).to_owned()
    };
    assert!(line("lost records_lost ").contains(" done=nothing:0 lost="), "{failures}");
    assert!(line("lost backup_gone ").contains(" done=rebuilt:1 "), "{failures}");
}

#[test]
fn figures_are_given_by_a_run_that_has_no_home_to_look_at() {
    let lab = Lab::new();
    let figures = lab.home.with_file_name("memento.prom");
    let path = figures.to_str().expect("a path");
    assert_eq!(health(&lab.home, ["--metrics", path]).status(), "ok");
    fs::rename(&lab.home, lab.home.with_file_name("elsewhere")).expect("renamed");
    let says = |what: &str| fs::read_to_string(&figures).expect("the figures").contains(what);
    assert_eq!(health(&lab.home, ["--metrics", path]).status(), "decision");
    assert!(says("memento_health_status{status=\"decision\"} 1\n") && says("memento_last_verify_ok 0\n"));
    fs::write(&lab.home, "no folder").expect("written");
    assert_eq!(health(&lab.home, ["--metrics", path]).status(), "failed");
    assert!(says("memento_health_status{status=\"failed\"} 1\n") && says("memento_last_verify_ok 0\n"));
}

#[test]
fn what_no_file_holds_is_lost_and_named_and_everything_else_is_there() {
    let lab = Lab::new();
    // The last memories are in no backup, and nothing but one segment has them then.
    let needle = format!("{CANARY} after the backup, 1");
    // Something behind it says that it was acknowledged.
    good(&lab.home, ["remember", "behind it"]);
    let last = segments(&lab.home).into_iter().find(|path| {
        fs::read(path).expect("read").windows(needle.len()).any(|part| part == needle.as_bytes())
    });
    let last = last.expect("it is there");
    let bytes = fs::read(&last).expect("read");
    let at = bytes.windows(needle.len()).position(|part| part == needle.as_bytes()).expect("the text");
    flip(&last, at);
    fs::remove_file(lab.path("store/view.redb")).expect("removed");
    fs::remove_file(lab.path("memory.db")).expect("removed");
    let told = health(&lab.home, ["--deep"]);
    assert_eq!((told.code(), told.status()), (1, "lost"), "{told:?}");
    let seqs = told.json["lost"]["seqs"].as_array().expect("a list");
    assert_eq!(seqs.len(), 1, "{told:?}");
    assert!(told.json["lost"]["after"].is_string() && told.json["lost"]["until"].is_string(), "{told:?}");
    let left = export(&lab.home);
    let expected: Vec<&String> = sample().1.iter().filter(|line| !line.contains(&needle)).collect();
    assert!(expected.iter().all(|line| left.contains(line)), "{left:?}");
    assert!(
        left.len() == expected.len() + 1 && left.iter().any(|line| line.contains("behind it")),
        "{left:?}"
    );
    assert!(lab.log("failures.log").contains("lost records_lost"), "{}", lab.log("failures.log"));
    assert!(lab.log("health.log").contains("1 acknowledged records are in no file any more"));
    // It is told once.
    assert_eq!(health(&lab.home, ["--deep"]).status(), "ok");
}

#[test]
fn a_store_that_is_gone_comes_back_and_the_window_of_loss_is_stated() {
    let lab = Lab::new();
    lab.remove_store();
    let told = health(&lab.home, []);
    assert_eq!((told.code(), told.status()), (0, "healed"), "{told:?}");
    assert_eq!(export(&lab.home), sample().1, "memory.db had everything");
    assert!(lab.log("failures.log").contains("lost store_gone"), "{}", lab.log("failures.log"));

    let lab = Lab::new();
    lab.remove_store();
    fs::remove_file(lab.path("memory.db")).expect("removed");
    let told = health(&lab.home, []);
    // The last run has seen more than the backup holds.
    assert_eq!((told.code(), told.status()), (1, "lost"), "{told:?}");
    assert!(told.json["lost"]["after"].is_string() && told.json["lost"]["until"].is_string(), "{told:?}");
    assert_eq!(told.json["lost"]["seqs"].as_array().map(Vec::len), Some(1), "{told:?}");
    let expected: Vec<_> =
        sample().1.iter().filter(|line| !line.contains("after the backup")).cloned().collect();
    assert_eq!(export(&lab.home), expected);
    assert_eq!(health(&lab.home, ["--deep"]).status(), "ok");
}

#[test]
fn vectors_that_nobody_can_make_again_come_back_with_the_store() {
    let lab = Lab::empty();
    let store = common::open(&lab.home);
    // The program does not know the model of these.
    for text in ["the river is green", "the stone is grey"] {
        store.remember(Remember::new(text)).expect("remembered");
    }
    store.backup().expect("a backup");
    let id = common::everything(&store).expect("list").keys().next().expect("an id").clone();
    let before = store.vectors(&id).expect("read").expect("vectors");
    store.close().expect("closed");
    lab.remove_store();
    let _ = fs::remove_file(lab.path("memory.db"));
    let told = health(&lab.home, []);
    assert_eq!((told.code(), told.json["pending"].as_u64()), (0, Some(0)), "{told:?}");
    let store = common::open(&lab.home);
    assert_eq!(store.vectors(&id).expect("read").expect("vectors"), before);
}

#[test]
fn where_a_store_is_gone_nothing_begins_anew_by_itself() {
    // With the marker, with backups alone, with the note in the user's folder alone.
    for kept in ["store.id", "backups", ""] {
        let lab = Lab::new();
        // A run that finds a backup leaves the note.
        assert_eq!(health(&lab.home, []).code(), 0);
        for entry in fs::read_dir(&lab.home).expect("a list") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name != kept && name != "config.yaml" {
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                    .expect("removed");
            }
        }
        for args in [["remember", "something new", "--json"], ["recall", "something", "--json"]] {
            let refused = run(&lab.home, args);
            assert_eq!((refused.code, refused.error().0.as_str()), (Some(3), "gone"), "{kept}: {refused:?}");
            assert!(refused.error().1.contains("memento-kv health"), "{refused:?}");
        }
        assert!(!lab.path("store").exists(), "{kept}");
        let told = health(&lab.home, []);
        if kept == "backups" {
            assert_eq!(told.outcome("restore"), Some("done"), "{told:?}");
            assert_eq!(export(&lab.home).len(), 20);
        } else {
            assert_eq!((told.code(), told.status()), (3, "decision"), "{kept}: {told:?}");
            assert!(!lab.path("store").exists(), "{kept}");
            let anew = health(&lab.home, ["--begin-anew"]);
            assert_eq!(anew.code(), 0, "{anew:?}");
            good(&lab.home, ["remember", "something new"]);
            assert_eq!(export(&lab.home).len(), 1);
        }
    }
}

#[test]
fn the_library_makes_no_new_store_where_one_was_either() {
    let home = common::quick_folder();
    common::open(home.path()).remember(Remember::new("the river is green")).expect("remembered");
    // The folder as a whole, and everything in it.
    for emptied in [false, true] {
        let store = home.path().join("store");
        fs::remove_dir_all(&store).expect("removed");
        if emptied {
            fs::create_dir(&store).expect("a folder");
            common::set_mode(&store, 0o700);
        }
        for create in [true, false] {
            let error = Store::open(common::options(home.path()).create(create)).expect_err("it is gone");
            assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--begin-anew")), "{error}");
        }
        let anew = Store::open(common::options(home.path()).begin_anew(true)).expect("it was asked for");
        assert_eq!(anew.stats().expect("figures").memories, 0);
        anew.remember(Remember::new("the stone is grey")).expect("remembered");
        anew.close().expect("closed");
        assert_eq!(common::open(home.path()).stats().expect("figures").memories, 1);
    }
}

#[test]
fn a_backup_is_restored_into_a_home_whose_store_is_gone() {
    for latest in [true, false] {
        let lab = Lab::new();
        lab.remove_store();
        fs::remove_file(lab.path("memory.db")).expect("removed");
        let backup = lab.backup().display().to_string();
        let what = if latest { "--latest" } else { backup.as_str() };
        good(&lab.home, ["restore", what]);
        assert_eq!(export(&lab.home).len(), 20);
    }
}

#[test]
fn without_a_backup_that_is_whole_a_person_decides() {
    let lab = Lab::new();
    lab.remove_store();
    let backup = lab.backup();
    flip(&backup, canary_in(&backup));
    overwrite(&lab.path("memory.db"), &[7; 50_000]);
    let before = contents(&lab.path("backups"));
    let told = health(&lab.home, []);
    assert_eq!((told.code(), told.status()), (3, "decision"), "{told:?}");
    let problems = told.json["problems"].to_string();
    assert!(problems.contains("memory_") && problems.contains("damaged"), "it names them: {problems}");
    assert!(!lab.path("store").exists());
    assert!(contents(&lab.path("backups")) == before);
    assert!(lab.log("failures.log").contains("backups_gone"), "{}", lab.log("failures.log"));
}

#[test]
fn all_backups_bad_is_told_once_and_another_one_is_made() {
    let lab = Lab::new();
    let backup = lab.backup();
    flip(&backup, canary_in(&backup));
    let told = health(&lab.home, ["--deep"]);
    assert_eq!((told.code(), told.status()), (0, "healed"), "{told:?}");
    assert_eq!(told.outcome("backup"), Some("done"), "{told:?}");
    let again = health(&lab.home, ["--deep"]);
    assert_eq!((again.code(), again.status()), (0, "ok"), "{again:?}");
}

#[test]
fn without_leave_to_roll_back_damage_is_told_nothing_is_changed_and_what_is_sound_is_read() {
    let lab = Lab::new();
    fs::write(lab.path("config.yaml"), "embed:\n  model: builtin:none\nhealth:\n  auto_rollback: false\n")
        .expect("written");
    // Sound: everything is done as always.
    good(&lab.home, ["remember", "one more"]);
    assert_eq!(health(&lab.home, ["--deep"]).status(), "ok");
    flip(&lab.segment(1), 4200);
    fs::remove_file(lab.path("store/view.redb")).expect("removed");
    let before = (contents(&lab.path("store")), contents(&lab.path("backups")));
    let told = health(&lab.home, ["--deep"]);
    assert_eq!((told.code(), told.status()), (1, "damaged"), "{told:?}");
    assert!(told.json["hints"].to_string().contains("--read-only"), "{told:?}");
    assert!((contents(&lab.path("store")), contents(&lab.path("backups"))) == before);
    let read = run(&lab.home, ["--read-only", "export", "--format", "jsonl"]);
    assert_eq!(read.code, Some(0), "{read:?}");
    assert!(read.out.lines().count() >= sample().1.len(), "{read:?}");
    assert!(read.err.contains("lost"), "what is missing is told: {read:?}");
    assert!((contents(&lab.path("store")), contents(&lab.path("backups"))) == before);
}

#[test]
fn a_dry_run_changes_no_file_at_all() {
    let changes: [(&str, Damage); 5] = [
        ("sound", |_| {}),
        ("damaged", |lab| flip(&lab.segment(1), 4200)),
        ("refused", |lab| {
            flip(&lab.segment(1), 4200);
            fs::remove_file(lab.path("store/view.redb")).expect("removed");
        }),
        ("gone", Lab::remove_store),
        ("no home", |lab| fs::remove_dir_all(&lab.home).expect("removed")),
    ];
    for (name, change) in changes {
        let lab = Lab::new();
        change(&lab);
        let before = contents(lab._folder.path());
        let metrics = lab._folder.path().join("metrics.prom");
        let told = health(&lab.home, ["--dry-run", "--deep", "--metrics", metrics.to_str().expect("a path")]);
        assert!(told.json["dry_run"] == true, "{told:?}");
        assert_eq!(told.status() == "ok", name == "sound", "{name}: {told:?}");
        assert!(contents(lab._folder.path()) == before, "{name}: {told:?}");
    }
}

#[test]
fn several_runs_at_once_do_no_harm() {
    let lab = Lab::new();
    flip(&lab.segment(0), 4200);
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let mut command = program(&lab.home);
            command.args(["health", "--deep", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("it starts")
        })
        .collect();
    let mut worked = 0;
    for run in runs {
        let ran = Ran::of(&run.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let json: Value = serde_json::from_str(&ran.out).expect("JSON");
        let status = json["status"].as_str().expect("a status").to_owned();
        assert!(["ok", "healed", "running"].contains(&status.as_str()), "{ran:?}");
        worked += usize::from(status != "running");
    }
    assert!(worked >= 1);
    assert_eq!(export(&lab.home), sample().1);
    good(&lab.home, ["check", "--deep"]);
    let log = lab.log("health.log");
    let before = sample().0.path().join("home/logs/health.log");
    let lines_before = fs::read_to_string(before).expect("the log").lines().count();
    assert_eq!(log.lines().count(), lines_before + worked, "{log}");
    assert!(log.lines().all(|line| line.starts_with("[20") && line.contains("Z] ")), "{log}");
}

#[test]
fn a_clock_that_was_set_back_by_a_year_costs_no_backup_and_no_check() {
    let lab = Lab::new();
    // Everything that was noted comes from a year ahead.
    let year_ms = 365 * 86_400_000_i64;
    let backup = lab.backup();
    let name = backup.file_name().expect("a name").to_string_lossy().into_owned();
    let year: i64 = name["memory_".len()..][..4].parse().expect("a year");
    let later = name.replacen(&year.to_string(), &(year + 1).to_string(), 1);
    let manifest_path = backup.with_file_name(format!("{name}.json"));
    let mut manifest: Value = serde_json::from_slice(&fs::read(&manifest_path).expect("read")).expect("JSON");
    manifest["created_ms"] = (manifest["created_ms"].as_i64().expect("a time") + year_ms).into();
    fs::write(backup.with_file_name(format!("{later}.json")), manifest.to_string()).expect("written");
    fs::remove_file(manifest_path).expect("removed");
    fs::rename(&backup, backup.with_file_name(&later)).expect("renamed");
    let state_path = lab.path("health.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&state_path).expect("read")).expect("JSON");
    for key in ["run_ms", "good_ms", "deep_ms"] {
        state[key] = (state[key].as_i64().expect("a time") + year_ms).into();
    }
    state["backup"] = later.clone().into();
    fs::write(&state_path, state.to_string()).expect("written");

    let told = health(&lab.home, []);
    assert_eq!((told.code(), told.status()), (0, "ok"), "{told:?}");
    assert_eq!(told.json["check"], "deep", "nobody waits for a year: {told:?}");
    assert_eq!(told.outcome("backup"), Some("done"), "{told:?}");
    assert_eq!(told.outcome("clock"), Some("warning"), "{told:?}");
    let backups: Value = serde_json::from_str(&good(&lab.home, ["backups", "--json"])).expect("JSON");
    let names: BTreeSet<String> = backups
        .as_array()
        .expect("a list")
        .iter()
        .map(|backup| {
            Path::new(backup["path"].as_str().expect("a path"))
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(names.len() == 2 && names.contains(&later), "{names:?}");
    assert_eq!(export(&lab.home), sample().1);
}

#[test]
fn the_bare_environment_of_cron_is_enough_and_everything_stays_private() {
    let lab = Lab::empty();
    fs::create_dir(&lab.home).expect("a folder");
    fs::write(lab.path("config.yaml"), "embed:\n  model: builtin:none\n").expect("written");
    common::set_mode(&lab.home, 0o700);
    good(&lab.home, ["remember", "the river is green"]);
    let metrics = lab._folder.path().join("m.prom");
    let script = format!(
        "umask 000; exec env -i PATH=/usr/bin:/bin {PROGRAM} --home {} health --metrics {}",
        lab.home.display(),
        metrics.display()
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    let ran = Ran::of(&command.output().expect("there is a shell"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for path in contents(&lab.home).keys() {
        let mode = path.metadata().expect("stat").mode() & 0o777;
        let is_mine = path.file_name().is_some_and(|name| name == "config.yaml");
        assert!(is_mine || mode & 0o177 == 0, "{} has mode {mode:o}", path.display());
    }
    for folder in ["", "logs", "backups", "store", "store/seg"] {
        let mode = lab.path(folder).metadata().expect("stat").mode() & 0o777;
        assert_eq!(mode, 0o700, "{folder}");
    }
    let figures = fs::read_to_string(&metrics).expect("the figures");
    assert!(figures.contains("memento_last_verify_ok 1\n"), "{figures}");
    assert_eq!(lab.log("health.log").lines().count(), 1);
}

#[test]
fn a_store_that_somebody_does_not_let_go_of_is_told_and_its_files_are_looked_at() {
    let lab = Lab::new();
    let lock = fs::File::open(lab.path("store/LOCK")).expect("open");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let told = health(&lab.home, ["--deep"]);
    assert_eq!((told.code(), told.status()), (4, "busy"), "{told:?}");
    assert_eq!(told.files(), [""; 0], "{told:?}");
    flip(&lab.segment(0), 4200);
    let before = contents(&lab.path("store"));
    let told = health(&lab.home, ["--deep"]);
    assert_eq!((told.code(), told.status()), (4, "busy"), "{told:?}");
    assert!(told.files().iter().any(|file| file.starts_with("store/seg/")), "{told:?}");
    assert!(contents(&lab.path("store")) == before, "nothing is mended that somebody may be writing");
    assert!(
        lab.log("failures.log").contains("io owner_hangs"),
        "twice in a row: {}",
        lab.log("failures.log")
    );
    drop(lock);
    assert_eq!(health(&lab.home, ["--deep"]).status(), "healed");
}

#[test]
fn a_run_that_is_killed_leaves_nothing_that_the_next_one_cannot_mend() {
    let damages: [Damage; 3] = [
        |lab| {
            flip(&lab.segment(0), 4200);
            fs::remove_file(lab.path("store/view.redb")).expect("removed");
        },
        Lab::remove_store,
        |lab| fs::remove_dir_all(lab.path("backups")).expect("removed"),
    ];
    for damage in damages {
        for delay_ms in [1, 4, 8, 15, 25, 40, 80, 160] {
            let lab = Lab::new();
            damage(&lab);
            let mut command = program(&lab.home);
            command.args(["health", "--deep"]).stdout(Stdio::null()).stderr(Stdio::null());
            let mut run = command.spawn().expect("it starts");
            std::thread::sleep(std::time::Duration::from_millis(delay_ms));
            run.kill().expect("killed");
            run.wait().expect("it ends");
            let told = health(&lab.home, ["--deep"]);
            assert_eq!(told.code(), 0, "after {delay_ms} ms: {told:?}");
            assert_eq!(export(&lab.home), sample().1, "after {delay_ms} ms: {told:?}");
            assert_eq!(health(&lab.home, ["--deep"]).status(), "ok", "after {delay_ms} ms");
            assert!(!lab.path(".reviving").exists());
            let left = contents(&lab.path("backups"));
            assert!(
                left.keys().all(|path| path.extension().is_none_or(|extension| extension != "tmp")),
                "{left:?}"
            );
        }
    }
}

#[test]
fn a_full_disk_is_told_and_costs_nothing() {
    let test = "a_full_disk_is_told_and_costs_nothing";
    on_a_small_disk(test, "16m", |disk| {
        let home = disk.join("home");
        fs::create_dir(&home).expect("a folder");
        common::set_mode(&home, 0o700);
        fs::write(home.join("config.yaml"), "embed:\n  model: builtin:none\n").expect("written");
        good(&home, ["remember", "the river is green"]);
        assert_eq!(health(&home, []).code(), 0);
        good(&home, ["remember", "the stone is grey"]);
        let all = export(&home);
        fs::remove_file(home.join("memory.db")).expect("removed");
        let backups = contents(&home.join("backups"));
        let filler = fill(disk, 0);
        for _ in 0..2 {
            let told = health(&home, ["--deep"]);
            assert_eq!(told.code(), 5, "{told:?}");
            assert!(told.ran.out.contains("no_space") || told.ran.out.contains("no room"), "{told:?}");
            assert_eq!(export(&home), all);
        }
        assert!(contents(&home.join("backups")) == backups, "none is given up for one that has no room");
        fs::remove_file(filler).expect("room");
        let told = health(&home, ["--deep"]);
        assert_eq!(told.code(), 0, "{told:?}");
        assert_eq!(export(&home), all);
        good(&home, ["check", "--deep"]);
    });
}

#[test]
fn a_home_that_cannot_be_written_is_checked_and_told() {
    let test = "a_home_that_cannot_be_written_is_checked_and_told";
    on_a_small_disk(test, "16m", |disk| {
        let home = disk.join("home");
        good(&home, ["remember", "the river is green"]);
        let remount = |how: &str| can(Command::new("mount").args(["-o", how]).arg(disk));
        if !remount("remount,ro") {
            return skipped(test, "nothing can be mounted read-only here");
        }
        let told = health(&home, ["--deep"]);
        assert_eq!((told.code(), told.status()), (5, "failed"), "{told:?}");
        assert_eq!(told.json["memories"], 1, "it was looked at: {told:?}");
        assert!(told.ran.out.contains("cannot be written"), "{told:?}");
        assert!(remount("remount,rw"), "it was so before");
        assert_eq!(health(&home, ["--deep"]).code(), 0);
    });
}

#[test]
fn no_text_no_token_and_no_home_of_the_user_gets_into_logs_messages_and_figures() {
    let token = "ghp_Vd8bTnqX2LwYc5RkZ7sJm4HfPa9EuG3xQ1oC";
    for (name, damage, _) in DAMAGES.iter().copied().chain([
        ("sound", (|_| {}) as Damage, ""),
        ("gone", Lab::remove_store, ""),
        (
            "a broken configuration",
            |lab| fs::write(lab.path("config.yaml"), "health: [").expect("written"),
            "",
        ),
        (
            "a config with a secret",
            |lab| {
                fs::write(
                    lab.path("config.yaml"),
                    "embed:\n  model: builtin:none\nhealth:\n  password: hunter2-Tr0ub4dor\n",
                )
                .expect("written")
            },
            "",
        ),
        (
            "logs that cannot be written",
            |lab| {
                fs::remove_dir_all(lab.path("logs")).expect("removed");
                std::os::unix::fs::symlink("/proc", lab.path("logs")).expect("a link");
            },
            "",
        ),
        ("no figures", |lab| fs::create_dir(lab._folder.path().join("m.prom")).expect("a folder"), ""),
        (
            "nothing whole",
            |lab| {
                lab.remove_store();
                fs::remove_file(lab.path("memory.db")).expect("removed");
                fs::remove_dir_all(lab.path("backups")).expect("removed");
            },
            "",
        ),
    ]) {
        let lab = Lab::new();
        damage(&lab);
        let user = lab._folder.path().to_str().expect("a path").to_owned();
        let metrics = lab._folder.path().join("m.prom");
        let mut said = String::new();
        for rollback in ["", "--dry-run"] {
            let mut command = program(&lab.home);
            command.args(["health", "--deep", "--metrics"]).arg(&metrics).env("GITHUB_TOKEN", token);
            if !rollback.is_empty() {
                command.arg(rollback);
            }
            command.env("MEMENTO_LOG", "trace");
            let ran = Ran::of(&command.output().expect("it starts"));
            said.push_str(&ran.out);
            // What the program itself tells; a trace that somebody asked for names files as they are.
            said.extend(
                ran.err.lines().filter(|line| !line.contains(" memento_kv")).map(|line| format!("{line}\n")),
            );
            assert!(!ran.err.contains(CANARY) && !ran.err.contains(token), "{name}: {}", ran.err);
        }
        let logs = ["health.log", "failures.log", "automemory.log"].map(|log| lab.log(log)).concat();
        let figures = fs::read_to_string(&metrics).unwrap_or_default();
        let state = fs::read_to_string(lab.path("health.json")).unwrap_or_default();
        for (what, text) in [("said", &said), ("logs", &logs), ("figures", &figures), ("state", &state)] {
            assert!(!text.contains(CANARY), "{name}, {what}: {text}");
            assert!(!text.contains(token) && !text.contains("Tr0ub4dor"), "{name}, {what}: {text}");
            assert!(!text.contains(&user), "{name}, {what}: {text}");
        }
        assert!(!said.is_empty(), "{name}");
    }
}

/// Which of the files that hold everything a random damage has touched.
#[derive(Debug, Default)]
struct Touched {
    segments: bool,
    view: bool,
    snapshot: bool,
}

/// Damages files at random; says which.
fn damage_at_random(lab: &Lab, chance: &mut Rng, said: &mut Vec<String>) -> Touched {
    let mut touched = Touched::default();
    for _ in 0..1 + chance.below(3) {
        let all = segments(&lab.home);
        let (path, file) = match chance.below(8) {
            0..=3 if !all.is_empty() => {
                touched.segments = true;
                (chance.pick(&all).clone(), "segment")
            }
            4 => {
                touched.view = true;
                (lab.path("store/view.redb"), "view")
            }
            5 => (lab.path("store/MANIFEST"), "manifest"),
            6 => {
                touched.snapshot = true;
                (lab.path("memory.db"), "memory.db")
            }
            _ => (lab.backup(), "backup"),
        };
        if !path.exists() {
            continue;
        }
        let len = fs::metadata(&path).expect("stat").len() as usize;
        let how = match chance.below(6) {
            0 | 1 if len > 0 => {
                let at = chance.below(len);
                flip(&path, at);
                format!("flip at {at}")
            }
            2 => {
                cut(&path);
                "cut".to_owned()
            }
            3 if len > 4096 => {
                let block = chance.below(len / 4096);
                zero_block(&path, block);
                format!("zeros in block {block}")
            }
            4 if file != "backup" => {
                fs::remove_file(&path).expect("removed");
                "gone".to_owned()
            }
            _ => {
                overwrite(&path, &[0x5a; 9000]);
                "other bytes".to_owned()
            }
        };
        said.push(format!("{file}: {how}"));
    }
    touched
}

#[test]
fn random_damages_are_all_found_and_cost_nothing_that_a_file_still_holds() {
    let seed = common::seed("random damages");
    let rounds = common::number("HEALTH_DAMAGES").unwrap_or(12);
    let (mut found, mut harmless, mut lost) = (0, 0, 0);
    for round in 0..rounds {
        let mut chance = Rng::new(seed.wrapping_add(round));
        let lab = Lab::new();
        let mut said = Vec::new();
        let touched = damage_at_random(&lab, &mut chance, &mut said);
        let context = format!("SEED={seed}, round {round}: {said:?}");
        let told = health(&lab.home, ["--deep"]);
        let all = &sample().1;
        if touched.segments && touched.view && touched.snapshot {
            // The backup still has what was there when it was made, unless it was damaged, too.
            let is_named =
                told.status() == "lost" || told.status() == "decision" || told.status() == "healed";
            assert!(is_named, "{context}: {told:?}");
            if told.status() == "decision" {
                assert_eq!(told.code(), 3, "{context}");
                lost += 1;
                continue;
            }
            let left = export(&lab.home);
            let missing: Vec<&String> = all.iter().filter(|line| !left.contains(line)).collect();
            assert!(missing.is_empty() || told.status() == "lost", "{context}: {missing:?} {told:?}");
            lost += u64::from(!missing.is_empty());
            found += 1;
        } else {
            assert_eq!(told.code(), 0, "{context}: {told:?}");
            assert_eq!(&export(&lab.home), all, "{context}: {told:?}");
            match told.status() {
                "healed" => found += 1,
                // Where nothing is read a flipped bit harms nobody; everything else is found.
                "ok" => harmless += 1,
                other => panic!("{context}: {other}: {told:?}"),
            }
            if told.status() == "ok" {
                let only_bits = said.iter().all(|one| one.contains("flip") || one.contains("zeros"));
                assert!(only_bits, "{context}: {told:?}");
            }
        }
        let again = health(&lab.home, ["--deep"]);
        assert_eq!(
            (again.code(), again.status()),
            (0, "ok"),
            "{context}: {again:?}\nthe run before it: {told:?}"
        );
    }
    println!(
        "{rounds} damages: {found} found and mended, {harmless} where nothing is read, {lost} with a loss"
    );
}
