//! The guided run.

use std::fs;

use serde_json::json;

use crate::support::{User, texts};

#[test]
fn the_demo_answers_survives_a_kill_and_leaves_nothing() {
    let user = User::new();
    let temporary = user.path("tmp");
    fs::create_dir(&temporary).expect("a folder");
    let output = user.command(["demo"]).env("TMPDIR", &temporary).output().expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    for part in
        ["Ines", "? why did we choose Rust?", "--tags customer", "nothing is lost", "memento-kv --help"]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'), "no colour in a pipe");
    assert_eq!(fs::read_dir(&temporary).expect("the folder").count(), 0, "the temporary home is gone");
    assert!(!user.home().exists(), "the user's own home is not touched");
}

#[test]
fn the_demo_has_an_answer_for_programs() {
    let user = User::new();
    let shown = user.json(["demo", "--json"]);
    let memories = shown["memories"].as_u64().expect("a number");
    assert_eq!(shown["after_kill"], json!({"acknowledged": memories + 1, "found": memories + 1}));
    let questions = shown["questions"].as_array().expect("a list");
    assert_eq!(questions.len(), 5);
    for question in questions {
        assert_eq!(question["degraded"], json!([]), "{question}");
        assert_eq!(texts(&question["results"]).len(), 3, "{question}");
    }
}

#[test]
fn questions_in_other_words_find_their_answers() {
    let user = User::new();
    let shown = user.json(["demo", "--json"]);
    for (question, answer) in [
        ("why did we choose Rust?", "predictable latency"),
        ("what happened when somebody was paged?", "Incident 212"),
        ("who do I ask before I change the schema?", "Tomasz Wilk looks after Postgres"),
        ("how should I phrase my replies?", "answers short"),
        ("where do passwords belong?", "the vault"),
    ] {
        let asked = shown["questions"].as_array().expect("a list").iter();
        let asked = asked.into_iter().find(|asked| asked["question"] == question).expect(question);
        assert!(texts(&asked["results"]).iter().any(|text| text.contains(answer)), "{asked}");
    }
    let filtered = &shown["filtered"];
    assert!(filtered["results"].as_array().is_some_and(|results| {
        !results.is_empty() && results.iter().all(|memory| memory["tags"].to_string().contains("customer"))
    }));
}
