//! Closed and full streams, and signals in the middle of the work.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common;
use crate::support::{Ran, count, good, jsonl, program, shell};

#[test]
fn closed_streams_cost_neither_a_memory_nor_a_panic() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let mut stored = 0;
    for closed in [">&-", "2>&-", "<&-", "<&- >&-", "<&- >&- 2>&-", "| true"] {
        let ran = shell(&home, &format!("\"$P\" remember 'with {closed}' {closed}"));
        assert_eq!(ran.code, Some(0), "{closed}: {ran:?}");
        stored += 1;
        assert_eq!(count(&home), stored, "{closed}");
    }
    let ran = shell(&home, "\"$P\" remember --json - <&-");
    assert_eq!((ran.code, ran.error().0.as_str()), (Some(2), "invalid"), "{ran:?}");
    for asked in ["list", "recall with", "stats", "export", "--help", "where", "check"] {
        for closed in [">&-", "2>&-", "<&- >&- 2>&-"] {
            let ran = shell(&home, &format!("\"$P\" {asked} {closed}"));
            assert_eq!(ran.code, Some(0), "{asked} {closed}: {ran:?}");
        }
    }
    assert_eq!(count(&home), stored);
}

#[test]
fn an_answer_that_cannot_be_written_does_not_hide_that_the_memory_is_safe() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let lines = folder.path().join("lines.jsonl");
    jsonl(&lines, 0..20);
    if !std::path::Path::new("/dev/full").exists() {
        return crate::support::skipped("an_answer_that_cannot_be_written", "there is no /dev/full");
    }
    let ran = shell(&home, "\"$P\" remember --json 'the river is green' >/dev/full");
    assert_eq!((ran.code, ran.error().0.as_str()), (Some(5), "no_space"), "{ran:?}");
    assert!(ran.error().1.contains("safely stored"), "{ran:?}");
    let load = format!("\"$P\" remember --json --no-embed --jsonl '{}' >/dev/full", lines.display());
    let ran = shell(&home, &load);
    assert_eq!((ran.code, ran.error().0.as_str()), (Some(5), "no_space"), "{ran:?}");
    assert!(ran.error().1.contains("safely stored"), "{ran:?}");
    assert_eq!(count(&home), 21);
    for asked in ["list", "recall river", "export"] {
        let ran = shell(&home, &format!("\"$P\" {asked} >/dev/full"));
        assert_eq!(ran.code, Some(5), "{asked}: {ran:?}");
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let lines = folder.path().join("lines.jsonl");
    jsonl(&lines, 0..2000);
    good(&home, ["remember", "--no-embed", "--jsonl", lines.to_str().expect("a plain name")]);
    for args in [&["list", "-n", "2000"][..], &["list", "--json", "-n", "2000"], &["export"]] {
        let mut command = program(&home);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut first = [0; 10];
        child.stdout.take().expect("its output").read_exact(&mut first).expect("some output");
        // Its output is closed here, with most of the answer unread.
        let ran = Ran::of(&child.wait_with_output().expect("it ends"));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
    }
    assert_eq!(count(&home), 2000);
}

#[test]
fn a_signal_in_the_middle_of_a_load_leaves_whole_batches() {
    let folder = common::folder();
    let lines = folder.path().join("lines.jsonl");
    jsonl(&lines, 0..20_000);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL, Signal::PIPE] {
        let home = folder.path().join(format!("home-{}", signal.as_raw()));
        let mut command = program(&home);
        command.args(["remember", "--no-embed", "--jsonl"]).arg(&lines);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        common::until(Duration::from_secs(60), "some of the load", || {
            is_over(&mut child) || log_len(&home) > 600_000
        });
        let pid = Pid::from_child(&child);
        if !is_over(&mut child) {
            kill_process(pid, signal).expect("the child is there");
        }
        let status = child.wait().expect("it ends");
        if signal == Signal::PIPE {
            assert!(status.success(), "a broken pipe is seen where it is written to: {status}");
        }
        let loaded = count(&home);
        assert!(loaded > 0 && loaded.is_multiple_of(500), "{signal:?}: {loaded}");
        assert!(loaded == 20_000 || !status.success(), "{signal:?}: {loaded}");
        good(&home, ["remember", "one more"]);
        assert_eq!(count(&home), loaded + 1);
    }
}

fn is_over(child: &mut Child) -> bool {
    child.try_wait().expect("a status").is_some()
}

fn log_len(home: &std::path::Path) -> u64 {
    if !home.join("store/seg").is_dir() {
        return 0;
    }
    common::segments(home).iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
}
