//! stats, where, check, reembed, model.

use std::fs;

use memento_kv::{Options, Store};
use serde_json::{Value, json};

use crate::support::User;

#[test]
fn stats_count_memories_and_collections() {
    let user = User::new();
    user.remember(["x"]);
    user.remember(["y", "-c", "docs"]);
    let stats = user.json(["stats", "--json"]);
    assert_eq!(
        (&stats["memories"], &stats["embedded"], &stats["pending"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!(stats["collections"], json!({"docs": 1, "knowledge": 1}));
    assert_eq!(stats["home"], user.home().to_str().expect("UTF-8"));
    assert_eq!(user.json(["info", "-f", "json"])["memories"], 2);
    let shown = user.run(["stats"]);
    assert!(shown.contains("knowledge (1)") && shown.contains("all-MiniLM-L6-v2"), "{shown}");
}

#[test]
fn where_says_which_home_and_why() {
    let user = User::new();
    let place = user.json(["where", "--json"]);
    assert_eq!((&place["rule"], &place["store"]), (&json!("environment"), &json!("none")));
    assert_eq!(place["home"], user.home().to_str().expect("UTF-8"));
    assert!(!user.home().exists(), "looking makes nothing");

    let other = user.path("other");
    let place = user.json(["where", "--json", "--home", other.to_str().expect("UTF-8")]);
    assert_eq!((&place["rule"], &place["home"]), (&json!("argument"), &json!(other.to_str())));

    let output =
        user.command(["where", "--json"]).env_remove("MEMENTO_HOME").output().expect("it can be run");
    let place: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&place["rule"], &place["home"]), (&json!("default"), &json!(user.path(".memento").to_str())));
    let shown = user.run(["where"]);
    assert!(shown.contains("MEMENTO_HOME names it"), "{shown}");
}

#[test]
fn where_sees_that_another_process_holds_the_store() {
    let user = User::new();
    user.remember(["x"]);
    assert_eq!(user.json(["where", "--json"])["store"], "free");
    let held = Store::open(Options::at(user.home())).expect("it opens");
    let place = user.json(["where", "--json"]);
    assert_eq!((&place["store"], &place["sharing"]["pid"]), (&json!("owned"), &json!(std::process::id())));
    drop(held);
    let held = Store::open(Options::at(user.home()).serve(false)).expect("it opens");
    let place = user.json(["where", "--json"]);
    assert_eq!(place["store"], "busy");
    assert!(place["problem"].is_string());
    drop(held);
    assert_eq!(user.json(["where", "--json"])["store"], "free");
}

#[test]
fn a_store_that_another_process_holds_is_code_4() {
    let user = User::new();
    user.remember(["x"]);
    let _held = Store::open(Options::at(user.home()).serve(false)).expect("it opens");
    let output = user.output(["recall", "x", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["kind"], "busy");
}

#[test]
fn a_sound_store_passes_the_check() {
    let user = User::new();
    user.remember(["x"]);
    let report = user.json(["check", "--json"]);
    assert_eq!((&report["status"], &report["findings"]), (&json!("ok"), &json!([])));
    assert!(report["records"].as_u64().is_some_and(|records| records > 0));
    assert!(user.run(["check"]).starts_with("ok: "));
}

#[test]
fn a_check_that_is_out_of_time_says_so_and_goes_on_from_its_file() {
    let user = User::new();
    user.remember(["x"]);
    let notes = user.home().join("notes.jsonl");
    let notes = notes.to_str().expect("a path of text");
    let output = user.output(["check", "--deep", "--resume", notes, "--timeout-ms", "0", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["status"], &report["complete"]), (&json!("incomplete"), &json!(false)));
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["kind"], "timeout");
    let report = user.json(["check", "--deep", "--resume", notes, "--json"]);
    assert_eq!((&report["status"], &report["complete"]), (&json!("ok"), &json!(true)));
    assert!(!std::path::Path::new(notes).exists());
    user.fail(2, ["check", "--resume", notes]);
}

#[test]
fn damage_is_code_1_with_file_and_offset_and_memories_stay() {
    let user = User::new();
    let marker = "a text that can be found in the segment";
    user.remember([marker]);
    user.remember(["another one"]);
    let segment = fs::read_dir(user.home().join("store/seg"))
        .expect("segments")
        .next()
        .expect("one")
        .expect("readable");
    let mut bytes = fs::read(segment.path()).expect("the segment");
    let at = bytes
        .windows(marker.len())
        .position(|window| window == marker.as_bytes())
        .expect("it is stored as it is");
    bytes[at] ^= 1;
    fs::write(segment.path(), &bytes).expect("write");

    let output = user.output(["check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["status"], "damaged");
    let finding = &report["findings"][0];
    assert!(finding["file"].as_str().is_some_and(|file| file.starts_with("store/seg/")), "{report}");
    assert!(finding["offset"].as_u64().is_some_and(|offset| offset <= at as u64), "{report}");
    let output = user.output(["check"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("at offset") && shown.contains("\ndamaged: "), "{shown}");
}

#[test]
fn models_can_be_listed_without_network() {
    let user = User::new();
    let models = user.json(["model", "list", "--json"]);
    assert_eq!((&models[0]["spec"], &models[0]["present"]), (&json!("builtin:minilm-l6"), &json!(true)));
    assert!(user.run(["model", "list"]).lines().any(|line| line == "builtin:none"));
    user.fail(3, ["model", "pull", "no-such-model"]);
}

#[test]
fn an_update_of_the_text_is_found_by_its_new_meaning() {
    let user = User::new();
    let id = user.remember(["The cat sleeps on the sofa"]);
    user.remember(["Invoices are paid within thirty days"]);
    user.run(["update", &id, "--text", "The deployment failed because the disk was full"]);
    user.run(["reembed"]);
    let answer = user.json(["recall", "no space left on the server", "-n", "1"]);
    assert_eq!(answer[0]["id"], id.as_str());
}
