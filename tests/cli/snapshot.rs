//! snapshot, backup, backups, restore, diff, and what the original's documents do with `memory.db`.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::support::{User, texts};

#[test]
fn the_documented_workflow_works_word_for_word() {
    let user = User::new();
    user.remember(["the first fact"]);
    user.remember(["the second fact"]);
    // sqlite3 ~/.memento/memory.db "PRAGMA integrity_check;"
    let connection = rusqlite::Connection::open(user.home().join("memory.db")).expect("a database");
    let answer: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(answer, "ok");
    let count: i64 =
        connection.query_row("SELECT count(*) FROM memories", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, 2);
    drop(connection);
    // memento backup
    let output = user.program_named("memento").arg("backup").output().expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    let backups: Vec<PathBuf> = fs::read_dir(user.home().join("backups"))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
        .collect();
    let [backup] = backups.as_slice() else { panic!("{backups:?}") };
    let name = backup.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(name.starts_with("memory_") && name.len() == "memory_20260217_123456.db".len(), "{name}");
    // cp ~/.memento/backups/memory_YYYYMMDD_HHMMSS.db ~/.memento/memory.db
    user.remember(["a third fact, after the backup"]);
    fs::copy(backup, user.home().join("memory.db")).expect("copied");
    let output = user.output(["list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(texts(&list).len(), 2);
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(told.contains("an earlier snapshot was put in place of memory.db"), "{told}");
    assert!(told.contains("1 forgotten") && told.contains("restore --undo"), "{told}");
    user.run(["restore", "--undo"]);
    assert_eq!(user.count(), 3);
    // What was taken over is remembered, and can be chosen.
    let shown = user.run(["stats"]);
    assert!(
        shown.contains("taken over") && shown.contains("an earlier snapshot in place of memory.db"),
        "{shown}"
    );
    assert!(user.run(["where"]).contains("taken over"));
    let points = user.json(["restore", "--json"]);
    let names: Vec<_> =
        points.as_array().expect("a list").iter().map(|point| point["name"].as_str()).collect();
    let [Some(undo), Some(by_hand)] = names.as_slice() else { panic!("{points}") };
    assert!(undo.starts_with("before the restore of the state before"), "{undo}");
    assert_eq!(*by_hand, "before an earlier snapshot in place of memory.db");
    assert_eq!((&points[0]["kind"], &points[1]["kind"]), (&json!("undo"), &json!("by_hand")));
    let seq = points[0]["seq"].as_u64().expect("a sequence").to_string();
    assert!(user.run(["restore"]).contains(&seq));
    user.run(["restore", "--seq", seq.as_str()]);
    assert_eq!(user.count(), 2, "the state before the undo");
    user.run(["restore", "--undo"]);
    // memento export > memories.json
    let exported = user.program_named("memento").arg("export").output().expect("it can be run");
    let exported: serde_json::Value = serde_json::from_slice(&exported.stdout).expect("JSON");
    assert_eq!(exported["total_memories"], 3);
}

#[test]
fn backups_are_made_listed_and_restored() {
    let user = User::new();
    let id = user.remember(["to be lost"]);
    let made = user.json(["backup", "--json"]);
    assert_eq!((&made["memories"], &made["verdict"]), (&json!(1), &json!("verified")));
    let listed = user.json(["backups", "--deep", "--json"]);
    assert_eq!(listed[0]["path"], made["path"]);
    assert!(user.run(["backups"]).contains("verified"));
    user.run(["forget", &id]);
    let gentle = user.json(["restore", "--latest", "--json"]);
    assert_eq!((&gentle["changed"]["added"], &gentle["kept"]), (&json!(0), &json!(1)));
    let preview = user.run(["restore", "--latest", "--exact", "--dry-run"]);
    assert!(preview.contains("1 memory would be added") && preview.contains(&id), "{preview}");
    assert_eq!(user.count(), 0);
    let restored = user.json(["restore", "--latest", "--exact", "--json"]);
    assert_eq!(restored["changed"]["added"], 1);
    assert_eq!(user.count(), 1);
    user.run(["restore", "--undo"]);
    assert_eq!(user.count(), 0);
    let beside = user.path("copy.db");
    let beside = beside.to_str().expect("UTF-8");
    user.run(["backup", beside]);
    assert!(user.fail(7, ["backup", beside]).contains("never takes the place of a file"));
    user.fail(1, ["restore", "no-such.db"]);
    user.fail(2, ["restore", "--exact"]);
    user.fail(2, ["restore", "--undo", "--latest"]);
}

#[test]
fn the_past_can_be_asked_and_compared() {
    let user = User::new();
    let id = user.remember(["the plan is to use Postgres"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let before =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs() - 1;
    let before = before.to_string();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    user.run(["forget", &id]);
    assert_eq!(texts(&user.json(["recall", "the plan", "-f", "json"])).len(), 0);
    let past = user.json(["recall", "the plan", "--as-of", &before, "-f", "json"]);
    assert_eq!(texts(&past), ["the plan is to use Postgres"]);
    let diff = user.json(["diff", &before, "--json"]);
    assert_eq!((&diff["forgotten"], &diff["forgotten_ids"][0]), (&json!(1), &json!(id)));
    assert!(user.run(["diff", &before]).starts_with(&format!("- {id}\n")));
    user.run(["restore", "--at", &before]);
    assert_eq!(user.count(), 1);
    assert!(user.fail(1, ["restore", "--at", "2001-01-01"]).contains("cannot be had"));
}

#[test]
fn an_export_to_sqlite_needs_a_file_and_is_a_whole_database() {
    let user = User::new();
    user.remember(["x"]);
    assert!(user.fail(2, ["export", "--format", "sqlite"]).contains("standard output"));
    let target = user.path("out.db");
    user.run(["export", "--format", "sqlite", "-o", target.to_str().expect("UTF-8")]);
    let connection = rusqlite::Connection::open(&target).expect("a database");
    let text: String =
        connection.query_row("SELECT text FROM memories", [], |row| row.get(0)).expect("a row");
    assert_eq!(text, "x");
    let blob: Vec<u8> =
        connection.query_row("SELECT embedding FROM memories", [], |row| row.get(0)).expect("a row");
    assert_eq!(blob.len(), 1536);
    assert_eq!(user.json(["snapshot", "--json"])["kind"], "unchanged");
}
