//! remember --jsonl, import, export.

use std::fs;

use serde_json::{Value, json};

use crate::support::{User, fixture, texts};

fn lines(count: usize) -> String {
    (0..count)
        .map(|i| format!("{{\"text\":\"memory {i} of many\",\"id\":\"m{i}\",\"timestamp\":{i}}}\n"))
        .collect()
}

#[test]
fn a_jsonl_file_is_stored_and_embedded() {
    let user = User::new();
    let file = user.write(
        "m.jsonl",
        "{\"text\":\"the sky is blue\",\"tags\":[\"a\"],\"id\":\"x\"}\n\n{\"text\":\"grass\"}\n",
    );
    let answer = user.json(["remember", "--jsonl", file.to_str().expect("UTF-8"), "--json"]);
    assert_eq!(answer, json!({"remembered": 2, "duplicates": 0, "pending": 0}));
    assert_eq!(user.json(["get", "x"])["tags"], json!(["a"]));
    assert_eq!(user.json(["stats", "--json"])["embedded"], 2);
}

#[test]
fn several_batches_come_in_order_from_standard_input() {
    let user = User::new();
    let output = user
        .command(["remember", "--jsonl", "-", "--no-embed"])
        .write_stdin(lines(1201))
        .output()
        .expect("it can be run");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.starts_with("1,201 memories remembered; 1,201 wait for a vector"), "{said}");
    assert_eq!(user.count(), 1201);
    assert_eq!(texts(&user.json(["list", "--oldest", "-n", "1", "--offset", "700"])), ["memory 700 of many"]);
    assert_eq!(texts(&user.json(["recall", "1150", "--mode", "text", "-n", "1"])), ["memory 1150 of many"]);
}

#[test]
fn what_waits_for_a_vector_gets_it_later() {
    let user = User::new();
    user.command(["remember", "--jsonl", "-", "--no-embed"]).write_stdin(lines(3)).assert().success();
    assert_eq!(user.json(["stats", "--json"])["pending"], 3);
    assert_eq!(user.json(["reembed", "--json"]), json!({"embedded": 3, "failed": 0}));
    assert_eq!(user.json(["stats", "--json"])["pending"], 0);
}

#[test]
fn a_bad_line_is_named_and_nothing_is_stored() {
    let good = lines(600);
    for (bad, what) in [
        ("not json", "line 601"),
        ("{\"text\":\"\"}", "line 601"),
        ("{\"text\":1}", "line 601"),
        ("{\"text\":\"x\",\"importance\":1.5}", "line 601"),
        ("{\"id\":\"no text\"}", "line 601"),
        ("[1]", "line 601"),
    ] {
        let user = User::new();
        let file = user.write("m.jsonl", format!("{good}{bad}\n{}", lines(1)));
        let said = user.fail(2, ["remember", "--jsonl", file.to_str().expect("UTF-8")]);
        assert!(said.contains(what) && said.contains("nothing was stored"), "{bad}: {said}");
        assert!(said.contains("m.jsonl"), "{said}");
        assert_eq!(user.count(), 0, "{bad}");
        user.command(["remember", "--jsonl", "-"]).write_stdin(format!("{good}{bad}")).assert().code(2);
        assert_eq!(user.count(), 0, "{bad}");
    }
}

#[test]
fn a_batch_that_the_store_refuses_says_what_is_safe() {
    let user = User::new();
    user.remember(["something else", "--id", "m700"]);
    let file = user.write("m.jsonl", lines(1100));
    let said = user.fail(2, ["remember", "--jsonl", file.to_str().expect("UTF-8"), "--no-embed"]);
    assert!(
        said.contains("lines 501 to 1000") && said.contains("the 500 memories before are safely stored"),
        "{said}"
    );
    assert_eq!(user.count(), 501);
}

#[test]
fn loading_a_file_twice_stores_it_once() {
    let user = User::new();
    let file = user.write("m.jsonl", lines(20));
    let file = file.to_str().expect("UTF-8");
    user.run(["remember", "--jsonl", file, "--no-embed"]);
    let again = user.json(["remember", "--jsonl", file, "--json", "--no-embed"]);
    assert_eq!(again["duplicates"], 20);
    assert_eq!(user.count(), 20);
}

#[test]
fn an_empty_file_is_no_error() {
    let user = User::new();
    let file = user.write("m.jsonl", "");
    assert_eq!(user.run(["remember", "--jsonl", file.to_str().expect("UTF-8")]), "0 memories remembered\n");
}

#[test]
fn the_export_of_the_original_comes_in_with_ids_and_times() {
    let user = User::new();
    let file = fixture("memories-v0.2.2.json");
    let file = file.to_str().expect("UTF-8");
    let dry = user.json(["import", file, "--dry-run", "--json"]);
    assert_eq!((dry["imported"].as_u64(), user.count()), (Some(194), 0));

    let imported = user.json(["import", file, "--json"]);
    assert_eq!(imported["imported"], 194);
    assert!(
        imported["notes"].as_array().is_some_and(|notes| !notes.is_empty()),
        "clamped importances are told"
    );
    let memory = user.json(["get", "91ff980179c43e16"]);
    assert_eq!((&memory["timestamp"], &memory["collection"]), (&json!(1771329601), &json!("documents")));
    assert_eq!(user.json(["stats", "--json"])["pending"], 0);

    let again = user.json(["import", file, "--json"]);
    assert_eq!((again["imported"].as_u64(), again["unchanged"].as_u64()), (Some(0), Some(194)));

    let answer = user.json(["recall", "who may use the signing key?", "-n", "3"]);
    assert!(texts(&answer).iter().any(|text| text.contains("signing key")), "{answer}");
}

#[test]
fn an_export_comes_back_as_it_was() {
    let user = User::new();
    user.remember(["first", "--at", "@7", "-t", "a", "--meta", "k:={\"deep\":[1]}", "--speaker", "Ann"]);
    user.remember(["zweite Ω 👍\n\u{1b}[31m"]);
    for format in ["json", "jsonl"] {
        let name = format!("out.{format}");
        let file = user.path(&name);
        let path = file.to_str().expect("UTF-8");
        user.run(["export", "--format", format, "-o", path]);
        assert!(!fs::read(&file).expect("the file").is_empty());
        let other = User::new();
        other.run(["import", path]);
        assert_eq!(other.json(["list"]), user.json(["list"]), "{format}");
    }
}

#[test]
fn an_export_has_the_form_of_the_original() {
    let user = User::new();
    user.remember(["Grüße", "--at", "@5", "--id", "b"]);
    user.remember(["x", "--at", "@9", "--id", "a"]);
    let text = user.run(["export"]);
    assert!(text.starts_with("{\n  \"exported_at\": \"") && text.ends_with("\n  ]\n}"), "{text}");
    assert!(text.contains("Gr\\u00fc\\u00dfe"), "ASCII only: {text}");
    let export: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(export["total_memories"], 2);
    assert_eq!(texts(&export["memories"]), ["x", "Grüße"], "the newest first");
    let lines = user.run(["export", "--format", "jsonl"]);
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn an_import_that_fails_stores_nothing() {
    for (name, content) in [
        ("broken.json", "{\"memories\": [{\"id\":\"a\",\"text\":\"x\",\"timestamp\":1},"),
        ("wrong.json", "{\"memories\": [{\"id\":\"a\",\"text\":\"x\",\"timestamp\":1},{\"text\":7}]}"),
        ("twice.json", "{\"memories\": [{\"id\":\"a\",\"text\":\"x\"},{\"id\":\"a\",\"text\":\"y\"}]}"),
        ("none.json", "{}"),
        ("lines.jsonl", "{\"text\":\"x\"}\n{"),
    ] {
        let user = User::new();
        let file = user.write(name, content);
        let said = user.fail(2, ["import", file.to_str().expect("UTF-8")]);
        assert!(said.contains(name), "{said}");
        assert_eq!(user.count(), 0, "{name}");
    }
    let user = User::new();
    user.fail(5, ["import", "/no/such/file.json"]);
}

#[test]
fn a_conflict_of_an_import_is_decided_by_the_caller() {
    let user = User::new();
    user.remember(["mine", "--id", "a", "--at", "@1"]);
    let file = user.write("f.json", "{\"memories\": [{\"id\":\"a\",\"text\":\"theirs\",\"timestamp\":1}]}");
    let file = file.to_str().expect("UTF-8");
    user.fail(2, ["import", file]);
    assert_eq!(user.json(["import", file, "--on-conflict", "keep", "--json"])["kept"], 1);
    assert_eq!(user.run(["get", "a", "-f", "text"]), "mine");
    assert_eq!(user.json(["import", file, "--on-conflict", "replace", "--json"])["replaced"], 1);
    assert_eq!(user.run(["get", "a", "-f", "text"]), "theirs");
}

#[test]
fn an_import_reads_standard_input() {
    let user = User::new();
    user.command(["import", "-"])
        .write_stdin("{\"memories\": [{\"id\":\"a\",\"text\":\"x\"}]}")
        .assert()
        .success();
    user.command(["import", "-", "--format", "jsonl"]).write_stdin("{\"text\":\"y\"}").assert().success();
    assert_eq!(user.count(), 2);
}
