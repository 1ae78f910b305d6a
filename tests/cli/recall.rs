//! recall: its forms, its filters, its limits.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{User, texts};

fn user_with_memories() -> User {
    let user = User::new();
    for (text, args) in [
        (
            "Approved RFC-001 for the Rust architecture",
            ["-t", "decision,rust", "-i", "0.9", "-c", "knowledge"],
        ),
        ("The database runs on Postgres 16", ["-t", "infra", "-i", "0.6", "-c", "infra"]),
        ("Anna prefers tabs over spaces", ["-t", "preference", "-i", "0.7", "-c", "preferences"]),
        ("Lunch is at noon", ["-t", "misc", "-i", "0.1", "-c", "knowledge"]),
    ] {
        let mut command = user.command(["remember", text]);
        command.args(args).assert().success();
    }
    user
}

#[test]
fn a_pipe_gets_a_bare_array_with_the_score_last() {
    let user = user_with_memories();
    let answer = user.run(["recall", "Rust", "decision", "-n", "1"]);
    assert!(answer.starts_with("[\n  {\n    \"id\": "), "{answer}");
    assert!(answer.contains("\"collection\": \"knowledge\",\n    \"score\": "), "{answer}");
    assert_eq!(
        texts(&user.json(["recall", "Rust", "-n", "1"])),
        ["Approved RFC-001 for the Rust architecture"]
    );
}

#[test]
fn json_is_an_object_with_results_degraded_and_time() {
    let user = user_with_memories();
    let answer = user.json(["recall", "how does somebody indent code", "--json"]);
    assert_eq!(texts(&answer["results"])[0], "Anna prefers tabs over spaces");
    assert_eq!(answer["degraded"], json!([]));
    assert!(answer["took_ms"].is_number());
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(3));
}

#[test]
fn aliases_and_text_form_work() {
    let user = user_with_memories();
    for alias in ["search", "find", "q"] {
        let answer = user.run([alias, "Postgres", "-n", "1", "-f", "text"]);
        assert!(
            answer.starts_with('[') && answer.ends_with("] The database runs on Postgres 16\n"),
            "{answer}"
        );
    }
}

#[test]
fn the_table_shows_whole_ids_and_ages() {
    let user = user_with_memories();
    let id = user.remember(["a very special otter", "-t", "animal"]);
    let table = user.run(["recall", "otter", "-f", "table"]);
    for part in [&*id, "a very special otter", "#animal", "ago", "Score"] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
}

#[test]
fn filters_narrow_before_ranking() {
    let user = user_with_memories();
    let found = |args: &[&str]| {
        let output =
            user.command(["recall", "Rust Postgres tabs lunch"]).args(args).output().expect("it can be run");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut texts: Vec<String> = texts(&answer).into_iter().map(|text| text[..4].to_owned()).collect();
        texts.sort();
        texts
    };
    assert_eq!(found(&["-n", "10"]).len(), 4);
    assert_eq!(found(&["-t", "infra,preference"]), ["Anna", "The "]);
    assert_eq!(found(&["--tags-all", "decision,rust"]), ["Appr"]);
    assert_eq!(found(&["--tags-all", "decision,infra"]), [] as [&str; 0]);
    assert_eq!(found(&["-c", "infra"]), ["The "]);
    assert_eq!(found(&["-s", "0.65"]), ["Anna", "Appr"]);
    assert_eq!(found(&["--min-importance", "0.65"]), ["Anna", "Appr"]);
    assert_eq!(found(&["--since", "1h"]).len(), 4);
    assert_eq!(found(&["--before", "1h"]).len(), 0);
    assert_eq!(found(&["--source", "nowhere"]).len(), 0);
    assert_eq!(found(&["--session", "default", "-n", "1"]).len(), 1);
    assert_eq!(found(&["-t", "rus"]).len(), 0, "tags are matched whole");
}

#[test]
fn nothing_found_is_an_empty_array_and_no_error() {
    let user = user_with_memories();
    for args in [["recall", "x", "-c", "nowhere"], ["recall", "x", "-n", "0"], ["recall", " ", "-n", "3"]] {
        assert_eq!(user.run(args), "[]\n", "{args:?}");
    }
    assert_eq!(user.json(["recall", "x", "-c", "nowhere", "--json"])["results"], json!([]));
}

#[test]
fn a_home_without_a_store_has_no_memories_and_says_so() {
    let user = User::new();
    let output = user.output(["recall", "anything"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"[]\n"[..]));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("warning: nothing is remembered yet"),
        "{output:?}"
    );
    assert!(!user.home().exists(), "a question does not make a store");
    assert_eq!(user.run(["list", "-q"]), "[]\n");
    assert_eq!(user.count(), 0);
}

#[test]
fn explain_says_what_a_score_is_made_of() {
    let user = user_with_memories();
    let answer = user.json(["recall", "Postgres", "--explain", "--json"]);
    assert!(answer["results"][0]["explain"]["text"].is_number(), "{answer}");
    assert!(user.run(["recall", "Postgres", "--explain", "-f", "text"]).contains("meaning"));
}

#[test]
fn words_alone_and_meaning_alone_can_rank() {
    let user = user_with_memories();
    assert_eq!(
        texts(&user.json(["recall", "Postgres", "--mode", "text"])),
        ["The database runs on Postgres 16"]
    );
    assert_eq!(user.json(["recall", "Postgres", "--mode", "vector", "--json"])["degraded"], json!([]));
}

#[test]
fn without_a_model_words_answer_and_that_is_said() {
    let user = User::new();
    std::fs::create_dir(user.home()).expect("the home");
    std::fs::write(user.home().join("config.yaml"), "embed:\n  model: builtin:none\n").expect("write");
    user.remember(["The database runs on Postgres"]);
    let output = user.output(["recall", "Postgres"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(texts(&answer), ["The database runs on Postgres"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: "), "{output:?}");
    assert_ne!(user.json(["recall", "Postgres", "--json"])["degraded"], json!([]));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let user = User::new();
    let lines: String =
        (0..3000).map(|i| format!("{{\"text\":\"memory number {i} with some more words\"}}\n")).collect();
    user.command(["remember", "--jsonl", "-", "--no-embed"]).write_stdin(lines).assert().success();
    for args in [
        &["list", "-n", "3000"][..],
        &["export"],
        &["export", "--format", "jsonl"],
        &["list", "-n", "3000", "--json"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_memento-kv"))
            .env_clear()
            .env("MEMENTO_HOME", user.home())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be run");
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0; 10]).expect("a beginning");
        drop(stdout);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{args:?}");
    }
}
