//! Limits that the operating system sets: length of files, memory, threads.

#![allow(clippy::print_stdout, reason = "a child tells its parent")]

use std::process::Command;

use memento_kv::{ErrorKind, Remember, Store};

use crate::common;
use crate::support::{Somebody, can, count, good, jsonl, run_child, shell, skipped};

/// Whether limits can be set here.
fn no_prlimit(test: &str) -> bool {
    let missing = !can(Command::new("prlimit").args(["--fsize=1000000", "--", "true"]));
    if missing {
        skipped(test, "there is no `prlimit`");
    }
    missing
}

#[test]
fn a_limit_on_the_length_of_files_is_a_full_disk() {
    if no_prlimit("a_limit_on_the_length_of_files_is_a_full_disk") {
        return;
    }
    let folder = common::folder();
    let lines = folder.path().join("lines.jsonl");
    jsonl(&lines, 0..6000);
    let mut some = false;
    for limit in [2000, 20_000, 200_000, 1_000_000, 1_800_000] {
        let home = folder.path().join(format!("home-{limit}"));
        let load = format!(
            "prlimit --fsize={limit} -- \"$P\" remember --json --no-embed --jsonl '{}'",
            lines.display()
        );
        // Whoever ignores the signal passes that on to its children.
        let ran = shell(&home, &format!("trap '' XFSZ; exec {load}"));
        assert_eq!((ran.code, ran.error().0.as_str()), (Some(5), "no_space"), "{limit}: {ran:?}");
        assert!(ran.error().1.contains("ulimit -f"), "{ran:?}");
        let safe = count(&home);
        assert!(safe.is_multiple_of(500) && safe < 6000, "{safe}");
        some |= safe > 0;
        // Otherwise the signal ends it: as a kill at any moment.
        let ran = shell(&home, &format!("exec {load}"));
        assert_ne!(ran.code, Some(0), "{ran:?}");
        let after = count(&home);
        assert!(after >= safe && after.is_multiple_of(500), "{safe} {after}");
        good(&home, ["remember", "--no-embed", "--jsonl", lines.to_str().expect("a plain name")]);
        assert_eq!(count(&home), 6000);
    }
    assert!(some, "no limit was met between two batches");
}

#[test]
fn a_limit_on_memory_ends_in_an_error_or_an_answer() {
    if no_prlimit("a_limit_on_memory_ends_in_an_error_or_an_answer") {
        return;
    }
    let folder = common::folder();
    let home = folder.path().join("home");
    good(&home, ["remember", "the river is green"]);
    let (mut stored, mut answered) = (1, 0);
    for mib in [24, 40, 44, 48, 56, 64, 96, 512] {
        for command in ["recall river", "remember"] {
            let limited = format!("exec prlimit --as={} -- \"$P\" {command} --json", mib << 20);
            let words = if command == "remember" { format!(" 'number {mib}'") } else { String::new() };
            let ran = shell(&home, &format!("{limited}{words}"));
            // Below some size the system cannot even load the program; it then ends with a signal, and so does a
            // program of Rust that gets no memory for what it cannot do without.
            match ran.code {
                Some(0) if command == "remember" => stored += 1,
                Some(0) => answered += 1,
                Some(5) => assert_eq!(ran.error().0, "io", "{ran:?}"),
                Some(code) => assert!(code > 125, "{mib} MiB, {command}: {ran:?}"),
                None => {}
            }
            let now = count(&home);
            // Ended by a signal after the memory was durable, it could not say so.
            assert!(now == stored || (ran.code != Some(0) && now == stored + 1), "{mib} MiB: {ran:?}");
            stored = now;
        }
    }
    assert!(answered > 0, "512 MiB are plenty");
}

#[test]
fn a_store_whose_threads_cannot_be_started_is_let_go() {
    let test = "limits::a_store_whose_threads_cannot_be_started_is_let_go";
    if common::is_child(test) {
        return open_with_few_threads();
    }
    let Some(somebody) = Somebody::new(test) else { return };
    if no_prlimit(test) {
        return;
    }
    let exe = std::env::current_exe().expect("this program");
    let mut refused = 0;
    for threads in 1..=4 {
        let folder = common::folder();
        somebody.owns(folder.path());
        let mut command = somebody.command("prlimit".as_ref());
        command.arg(format!("--nproc={threads}")).arg("--").arg(&exe).env("DISK", folder.path());
        refused += u32::from(run_child(&mut command, test).contains("refused"));
    }
    if refused == 0 {
        skipped(test, "a limit on threads has no effect here");
    }
}

fn open_with_few_threads() {
    let home = std::path::PathBuf::from(std::env::var_os("DISK").expect("a folder")).join("home");
    let options = || common::options(&home).lock_wait(std::time::Duration::ZERO).background_embedding(true);
    for _ in 0..3 {
        match Store::open(options()) {
            Ok(store) => {
                store.remember(Remember::new("the river is green")).expect("remember");
            }
            Err(error) => {
                // Not busy: the attempt before has let go of everything.
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert!(error.message().contains("thread") && error.hint_text().is_some(), "{error}");
                println!("refused");
            }
        }
    }
}
