//! `memory.db`, backups, restore and import on full disks and beside other processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::common;
use crate::support::{Ran, count, fill, good, jsonl, on_a_small_disk, program, run};

const MEMORIES: u64 = 2000;

/// A store with a published `memory.db`, all of its memories in a backup, and half of them forgotten since.
fn filled(home: &Path) -> PathBuf {
    let lines = home.with_file_name("lines.jsonl");
    jsonl(&lines, 0..MEMORIES as usize);
    good(home, ["remember", "--jsonl", lines.to_str().expect("UTF-8"), "--no-embed"]);
    good(home, ["snapshot"]);
    // Outside of the home, where no later one takes its place.
    let backup = home.with_file_name("backup.db");
    good(home, ["backup", backup.to_str().expect("UTF-8")]);
    good(home, ["backup"]);
    let listed = good(home, ["list", "--json", "--limit", "1000"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let ids = listed.as_array().expect("a list").iter().map(|memory| memory["id"].as_str().expect("an id"));
    let ran = Ran::of(&program(home).arg("forget").args(ids).output().expect("it starts"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    backup
}

/// What was published is there as a whole, and nothing is left of what was not.
fn assert_files(home: &Path) {
    let connection = rusqlite::Connection::open(home.join("memory.db")).expect("a database");
    let answer: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(answer, "ok");
    let backups: Value = serde_json::from_str(&good(home, ["backups", "--deep", "--json"])).expect("JSON");
    for backup in backups.as_array().expect("a list") {
        assert_eq!(backup["verdict"], "verified", "{backup}");
    }
    for folder in [home.to_owned(), home.join("backups"), home.join("store"), home.join("store/seg")] {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            assert!(!name.ends_with(".tmp") && !name.ends_with(".part"), "{name} is left");
        }
    }
}

#[test]
fn what_finds_no_room_for_a_copy_or_a_group_leaves_everything_as_it_was() {
    let test = "copies::what_finds_no_room_for_a_copy_or_a_group_leaves_everything_as_it_was";
    on_a_small_disk(test, "32m", |disk| {
        let home = disk.join("home");
        let backup = filled(&home);
        let backup = backup.to_str().expect("UTF-8");
        let more = disk.join("more.jsonl");
        jsonl(&more, 10_000..14_000);
        let more = more.to_str().expect("UTF-8");
        let half = count(&home);
        let (mut refused, mut done) = (0, 0);
        for leave in [0, 200 << 10, 1 << 20, 3 << 20] {
            let commands: [&[&str]; 4] = [
                &["snapshot"],
                &["backup"],
                &["restore", backup, "--exact"],
                &["import", more, "--no-embed"],
            ];
            for command in commands {
                let filler = fill(disk, leave);
                let ran = Ran::of(&program(&home).args(command).arg("--json").output().expect("it starts"));
                fs::remove_file(filler).expect("room");
                let changes = matches!(command[0], "restore" | "import");
                match ran.code {
                    Some(0) if changes => {
                        done += 1;
                        good(&home, ["restore", "--seq", &seq_before(&home, command[0])]);
                    }
                    Some(0) => done += 1,
                    code => {
                        refused += 1;
                        assert_eq!(
                            (code, ran.error().0.as_str()),
                            (Some(5), "no_space"),
                            "{command:?}: {ran:?}"
                        );
                    }
                }
                assert_eq!(count(&home), half, "{command:?} with {leave} bytes");
                assert_files(&home);
            }
        }
        assert!(refused > 0 && done + refused == 16, "{done} done, {refused} refused");
        good(&home, ["restore", backup, "--exact"]);
        assert_eq!(count(&home), MEMORIES);
        good(&home, ["check", "--deep"]);
    });
}

/// The sequence of the state before the last command, which was this one. An import that one group has room for has no
/// restore point: all its records are the last ones.
fn seq_before(home: &Path, command: &str) -> String {
    if command == "restore" {
        let points: Value = serde_json::from_str(&good(home, ["restore", "--json"])).expect("JSON");
        return points[0]["seq"].to_string();
    }
    let stats: Value = serde_json::from_str(&good(home, ["stats", "--json"])).expect("JSON");
    (stats["last_seq"].as_u64().expect("a sequence") - 4000).to_string()
}

#[test]
fn of_commands_at_once_each_is_done_as_a_whole_or_told_that_the_store_is_busy() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let backup = filled(&home);
    let backup = backup.to_str().expect("UTF-8");
    let more = folder.path().join("more.jsonl");
    jsonl(&more, 10_000..10_500);
    let more = more.to_str().expect("UTF-8");
    let commands: [&[&str]; 8] = [
        &["snapshot"],
        &["backup"],
        &["restore", backup],
        &["import", more, "--no-embed"],
        &["backup"],
        &["restore", "--latest"],
        &["snapshot"],
        &["import", more, "--no-embed"],
    ];
    let running: Vec<_> = commands
        .iter()
        .map(|command| {
            let mut program = program(&home);
            program.args(*command).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
            program.spawn().expect("it starts")
        })
        .collect();
    let mut imported = false;
    for (command, child) in commands.iter().zip(running) {
        let ran = Ran::of(&child.wait_with_output().expect("it ends"));
        match ran.code {
            Some(0) => imported |= command[0] == "import",
            code => assert_eq!((code, ran.error().0.as_str()), (Some(4), "busy"), "{command:?}: {ran:?}"),
        }
    }
    // A gentle restore gives nothing back that was forgotten since.
    let expected = MEMORIES - 1000 + if imported { 500 } else { 0 };
    assert_eq!(count(&home), expected);
    good(&home, ["snapshot"]);
    assert_files(&home);
    good(&home, ["check", "--deep"]);
}

#[test]
fn who_holds_the_store_goes_on_whatever_others_want_to_do_with_it() {
    let folder = common::folder();
    let home = folder.path().join("home");
    let backup = filled(&home);
    let backup = backup.to_str().expect("UTF-8");
    let store = common::open(&home);
    for command in
        [&["snapshot"][..], &["backup"], &["restore", backup], &["import", backup, "--on-conflict", "keep"]]
    {
        let ran = Ran::of(&program(&home).args(command).arg("--json").output().expect("it starts"));
        let is_refused = ran.code == Some(4) && ran.error().0 == "busy";
        assert!(is_refused || ran.code == Some(0), "{command:?}: {ran:?}");
    }
    store.remember(memento_kv::Remember::new("the holder goes on")).expect("stored");
    store.close().expect("closed");
    assert!(run(&home, ["check", "--deep"]).code == Some(0));
    assert_files(&home);
}
