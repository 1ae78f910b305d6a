//! Tests of checks that are cut short and go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::*;
use crate::embed::ModelSpec;
use crate::{Remember, Update};

/// A store of many small segments, with every kind of change.
fn store(home: &Path) -> Engine {
    let options = Options::at(home).model(ModelSpec::None).background_embedding(false).query_cache(false);
    let store = Engine::open(options.segment_len_max(16 << 10)).expect("open");
    let ids: Vec<_> = (0..300)
        .map(|at| {
            store.remember(Remember::new(format!("text {at} {}", "long ".repeat(40)))).expect("remember").id
        })
        .collect();
    for id in ids.iter().step_by(7) {
        store.update(id.as_str(), Update::new().text(format!("another text of {id}"))).expect("update");
    }
    for id in ids.iter().skip(1).step_by(5) {
        store.forget([id]).expect("forget");
    }
    store
}

/// Leaves notes of some segments, as a check does that is killed.
fn cut_short(store: &Engine, notes: &Path) {
    let mut parts = 0;
    let killed = catch_unwind(AssertUnwindSafe(|| {
        store.check_with(&CheckOptions::new().resume(notes), &mut |_| {
            parts += 1;
            assert!(parts < 4, "killed");
        })
    }));
    killed.expect_err("it is killed");
}

/// The segments that are noted.
fn noted(notes: &Path) -> Vec<u64> {
    let lines = std::fs::read_to_string(notes).expect("notes");
    let number = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["segment"].as_u64().expect("a number")
    };
    lines.lines().map(number).collect()
}

#[test]
fn a_check_that_is_killed_goes_on_where_it_was_and_finds_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (home, notes) = (folder.path().join("home"), folder.path().join("notes.jsonl"));
    let store = store(&home);
    let whole = store.check(&mut |_| {}).expect("check");
    assert_eq!((whole.status, whole.complete), (CheckStatus::Ok, true), "{:?}", whole.findings);
    let options = CheckOptions::new().resume(&notes);
    cut_short(&store, &notes);
    let first = noted(&notes);
    assert!(first.len() >= 3, "{first:?}");
    cut_short(&store, &notes);
    let second = noted(&notes);
    assert!(second.len() > first.len() && second.starts_with(&first), "{first:?} {second:?}");
    assert_eq!(store.check_with(&options, &mut |_| {}).expect("check"), whole);
    assert!(!notes.exists(), "the next check begins anew");
}

#[test]
fn only_what_is_not_noted_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let notes = folder.path().join("notes.jsonl");
    let store = store(&folder.path().join("home"));
    cut_short(&store, &notes);
    let known = noted(&notes);
    let mut sealed = store.segments();
    sealed.pop();
    let is_noted = |segment: &&Segment| known.contains(&segment.header.number);
    let noted = sealed.iter().find(is_noted).expect("some are noted");
    let other = sealed.iter().find(|segment| !is_noted(segment)).expect("not all are noted");
    for path in [noted.path.clone(), other.path.clone()] {
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[8192] ^= 1;
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, bytes).expect("write");
    }
    let report = store.check_with(&CheckOptions::new().resume(&notes), &mut |_| {}).expect("check");
    let damaged = |report: &CheckReport| {
        let mut files: Vec<_> = report.findings.iter().filter(|finding| finding.kind == "record").collect();
        files.sort_by_key(|finding| finding.file.clone());
        files.dedup_by_key(|finding| finding.file.clone());
        files.len()
    };
    assert_eq!(damaged(&report), 1, "{:?}", report.findings);
    let again = store.check(&mut |_| {}).expect("check");
    assert_eq!(damaged(&again), 2, "{:?}", again.findings);
}

#[test]
fn a_check_without_time_says_that_it_is_not_complete() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = folder.path().join("home");
    let store = store(&home);
    let report =
        store.check_with(&CheckOptions::new().time_limit(Duration::ZERO), &mut |_| {}).expect("check");
    assert_eq!((report.status, report.complete, report.records), (CheckStatus::Incomplete, false, 0));
    assert!(report.unread > 16 << 10, "{}", report.unread);
    assert_eq!(report.findings, []);
}
