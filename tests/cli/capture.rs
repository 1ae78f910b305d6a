//! Auto-memory, secrets and the spool, through the program.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::User;

const DECISION: &str = "We decided to use redb for the catalog because it needs no C toolchain.";

fn lines(answer: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(answer.to_vec()).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn one_exchange_is_captured_and_a_dry_run_stores_nothing() {
    let user = User::new();
    let dry = user.json(["capture", "--user", DECISION, "--dry-run", "--explain", "--json"]);
    assert_eq!((dry["outcome"].as_str(), dry["kind"].as_str()), (Some("worth"), Some("decision")), "{dry}");
    assert!(dry["sentences"][0]["reasons"][0]["weight"].is_number(), "{dry}");
    assert!(!user.home().join("store").exists());
    let done = user.json(["capture", "--user", DECISION, "--assistant", "Got it.", "--json"]);
    assert_eq!(done["outcome"], "stored");
    assert_eq!(user.json(["get", done["id"].as_str().expect("an id"), "--json"])["text"], DECISION);
    let log = std::fs::read_to_string(user.home().join("logs/automemory.log")).expect("a log");
    assert!(log.contains("stored id=") && !log.contains("redb"), "{log}");
    assert!(user.run(["capture", "--user", "thanks!"]).starts_with("nothing"));
}

#[test]
fn a_stream_of_json_lines_is_captured_line_by_line() {
    let user = User::new();
    let mut input = String::new();
    for at in 0..50 {
        input.push_str(&format!("{{\"user\":\"We decided to put service s{at} on host h{at}.\",\"assistant\":\"ok\"}}\nnonsense {{\n{{\"user\":\"hello\"}}\n"));
    }
    let output =
        user.command(["capture", "-", "--json"]).write_stdin(input.clone()).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines(&output.stdout).iter().filter(|line| line["outcome"] == "stored").count(), 50);
    assert_eq!(user.count(), 50);
    let again = user.command(["capture", "--json"]).write_stdin(input).output().expect("it runs");
    assert!(lines(&again.stdout).iter().all(|line| line["outcome"] == "known"), "{again:?}");
    assert_eq!(user.count(), 50);
}

#[test]
fn a_transcript_is_read_on_from_where_the_last_call_ended() {
    let user = User::new();
    let turn = |text: &str| {
        format!(
            "{{\"type\":\"user\",\"sessionId\":\"s\",\"message\":{{\"role\":\"user\",\"content\":\"{text}\"}}}}\n"
        )
    };
    let first = turn(DECISION);
    let path = user.write("t.jsonl", &first);
    let name = path.to_str().expect("a name");
    let run = || user.command(["capture", name, "--incremental", "--json"]).output().expect("it runs");
    assert_eq!(lines(&run().stdout).len(), 1);
    assert_eq!(lines(&run().stdout).len(), 0);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(turn("The staging database runs on db-stage-02, port 5433.").as_bytes()).expect("written");
    file.write_all(b"{\"type\":\"user\",\"mess").expect("a torn line");
    let added = lines(&run().stdout);
    assert_eq!((added.len(), added[0]["outcome"].as_str()), (1, Some("stored")), "{added:?}");
}

#[test]
fn what_was_captured_is_reviewed_and_forgotten_in_one_go_and_decisions_can_be_taken_back() {
    let user = User::new();
    user.remember(["mine, by hand"]);
    for (text, session) in [(DECISION, "a"), ("The office moved to Lindenstrasse 12 in Leipzig.", "b")] {
        user.json(["capture", "--user", text, "--session", session, "--json"]);
    }
    let list = user.json(["captured", "list", "--json"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    user.fail(2, ["captured", "forget"]);
    assert_eq!(user.run(["captured", "forget", "--session", "a"]), "1 memory forgotten\n");
    assert_eq!(user.count(), 2);
    let id = user.json(["captured", "list", "--json"])[0]["id"].as_str().expect("an id").to_owned();
    user.run(["captured", "keep", &id]);
    user.run(["captured", "forget", &id]);
    let moved = user.json(["captured", "decisions", "--json"]);
    assert_eq!((moved["kept"].as_u64(), moved["forgotten"].as_u64()), (Some(0), Some(2)));
    assert!(moved["threshold"].as_f64() > moved["configured"].as_f64(), "{moved}");
    let reset = user.json(["captured", "decisions", "--reset", "--json"]);
    assert_eq!(reset["threshold"], reset["configured"]);
    assert_eq!(user.count(), 1);
}

#[test]
fn secrets_are_refused_with_seven_found_by_scan_and_never_shown() {
    let user = User::new();
    let secret = "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6";
    let told = user.fail(7, ["remember", &format!("push with {secret}")]);
    assert!(told.contains("github-token") && !told.contains(secret), "{told}");
    assert!(!user.home().join("store").exists(), "nothing was written");
    let file =
        user.write("in.jsonl", format!("{{\"text\":\"fine\"}}\n{{\"text\":\"push with {secret}\"}}\n"));
    let told = user.fail(7, ["remember", "--jsonl", file.to_str().expect("a name")]);
    assert!(told.contains("line 2") && !told.contains(secret), "{told}");
    user.remember(["--allow-secrets", &format!("push with {secret}")]);
    for args in [&["scan", "--json"][..], &["scan", "--json", "--file", file.to_str().expect("a name")]] {
        let output = user.command(args).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let answer = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(answer.contains("github-token") && !answer.contains(secret), "{answer}");
    }
    let clean = user.write("clean.txt", "nothing here\n");
    user.run(["scan", "--file", clean.to_str().expect("a name")]);
}

#[test]
fn a_damaged_store_leaves_what_is_said_in_the_spool() {
    let user = User::new();
    user.remember(["before"]);
    std::fs::write(user.home().join("store/MANIFEST"), b"nonsense").expect("written");
    let folder = user.home().join("store/seg");
    for entry in std::fs::read_dir(folder).expect("segments") {
        std::fs::write(entry.expect("an entry").path(), b"nonsense").expect("written");
    }
    std::fs::write(user.home().join("store/view.redb"), b"nonsense").expect("written");
    let answer = user.json(["remember", "kept all the same", "--json"]);
    assert_eq!(
        (answer["spooled"].as_bool(), answer["reason"].as_str()),
        (Some(true), Some("corrupt")),
        "{answer}"
    );
    // The damaged store is put away, and one that comes back from `memory.db` takes what was said meanwhile.
    std::fs::rename(user.home().join("store"), user.path("damaged")).expect("renamed");
    user.run(["health"]);
    user.remember(["after"]);
    let kept = user.json(["get", answer["id"].as_str().expect("an id"), "--json"]);
    assert_eq!((kept["text"].as_str(), user.count()), (Some("kept all the same"), 3));
}

#[test]
fn what_the_store_cannot_take_is_spooled_and_comes_in_later_once_and_in_order() {
    let user = User::new();
    user.remember(["before"]);
    let lock = hold(&user);
    let output = user.command(["remember", "while it was locked", "--json"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((answer["spooled"].as_bool(), answer["reason"].as_str()), (Some(true), Some("busy")));
    assert!(String::from_utf8_lossy(&output.stderr).contains("spool.jsonl"), "{output:?}");
    let captured = user.json(["capture", "--user", DECISION, "--json"]);
    assert_eq!(captured["spooled"], true);
    drop(lock);
    user.remember(["after"]);
    let list = user.json(["list", "--oldest", "--json"]);
    let texts = crate::support::texts(&list);
    assert_eq!(texts.len(), 4, "{texts:?}");
    for id in [&answer["id"], &captured["id"]] {
        user.json(["get", id.as_str().expect("an id"), "--json"]);
    }
    assert_eq!(std::fs::metadata(user.home().join("spool.jsonl")).expect("there").len(), 0);
    assert_eq!(user.count(), 4);
}

#[test]
fn when_not_even_the_home_can_be_written_the_state_folder_takes_it() {
    let user = User::new();
    user.remember(["before"]);
    let lock = hold(&user);
    // No file can be made under this name.
    let spool = user.home().join("spool.jsonl");
    std::fs::create_dir(&spool).expect("a folder");
    let output = user.command(["remember", "kept elsewhere", "--json"]).output().expect("it runs");
    drop(lock);
    std::fs::remove_dir(&spool).expect("removed");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let path = answer["path"].as_str().expect("a path");
    assert!(path.contains(".local/state/memento"), "{answer}");
    let mode = std::fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    user.remember(["after"]);
    assert_eq!(user.count(), 3);
}

/// As a second process that holds the store.
fn hold(user: &User) -> std::fs::File {
    let path = user.home().join("store/LOCK");
    let lock = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    lock
}
