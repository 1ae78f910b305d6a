//! remember, get, list, update, forget.

use serde_json::json;

use crate::support::{User, texts};

#[test]
fn remember_prints_the_id_in_a_pipe_and_get_finds_it() {
    let user = User::new();
    let id = user.remember(["Anna", "prefers  tabs"]);
    assert_eq!(user.json(["get", &id])["text"], "Anna prefers  tabs");
    assert_eq!(user.json(["get", &id, "--json"])["id"], id.as_str());
}

#[test]
fn remember_json_has_id_and_sequence() {
    let user = User::new();
    let answer = user.json(["remember", "x", "--json"]);
    assert!(answer["id"].is_string() && answer["seq"].is_u64(), "{answer}");
    assert!(answer.get("duplicate_of").is_none(), "{answer}");
}

#[test]
fn every_option_lands_in_its_field_in_the_documented_order() {
    let user = User::new();
    let id = user.remember([
        "text",
        "-i",
        "0.75",
        "-t",
        "a, b",
        "--tags",
        "c",
        "-c",
        "col",
        "--source",
        "so",
        "--session",
        "se",
        "--meta",
        "k=v",
        "--meta",
        "n:=[1]",
        "--at",
        "2026-02-17T12:30:00Z",
        "--speaker",
        "Ann",
        "--role",
        "user",
        "--position",
        "3",
        "--id",
        "my-id",
    ]);
    assert_eq!(id, "my-id");
    assert_eq!(
        user.run(["get", "my-id", "--json"]),
        concat!(
            r#"{"id":"my-id","text":"text","timestamp":1771331400,"source":"so","session_id":"se","#,
            r#""importance":0.75,"tags":["a","b","c"],"collection":"col","speaker":"Ann","role":"user","#,
            r#""position":3,"metadata":{"k":"v","n":[1]}}"#,
            "\n"
        )
    );
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_original() {
    let user = User::new();
    let id = user.remember(["text"]);
    let memory = user.json(["get", &id]);
    assert_eq!(memory["importance"], 0.5);
    assert_eq!(memory["collection"], "knowledge");
    assert_eq!(memory["source"], "conversation");
    assert_eq!(memory["session_id"], "default");
    assert_eq!(memory["tags"], json!([]));
}

#[test]
fn texts_of_every_script_come_back_byte_for_byte() {
    let user = User::new();
    let odd = [
        "  blanks around  ",
        "line one\nline two\n\n",
        "tab\there, bell \u{7}, escape \u{1b}[31m, nul-like \u{1}",
        "Ω ж ا ש ह ก 日本語 한국어",
        "👨‍👩‍👧‍👦 e\u{301} \u{200d}\u{feff}\u{202e}x",
        "\r\nCRLF\r\n",
        "-starts with a dash",
        "\"quotes\" \\ and `ticks`",
    ];
    for text in odd {
        let mut command = user.command(["remember", "--keep-duplicates", "--", text]);
        let output = command.output().expect("it can be run");
        assert!(output.status.success(), "{text:?}: {output:?}");
        let id = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(user.run(["get", id.trim_end(), "-f", "text"]), text);
    }
    assert_eq!(texts(&user.json(["list", "--oldest"])).len(), odd.len());
}

#[test]
fn a_single_dash_reads_standard_input() {
    let user = User::new();
    let output =
        user.command(["remember", "-"]).write_stdin("from a pipe\n").output().expect("it can be run");
    let id = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(user.run(["get", id.trim_end(), "-f", "text"]), "from a pipe");
}

#[test]
fn the_same_text_is_kept_once_and_that_is_said() {
    let user = User::new();
    let id = user.remember(["the deploy runs on Tuesdays", "-t", "a", "-i", "0.4"]);
    let again = user.json(["remember", "the deploy runs on Tuesdays", "-t", "b", "-i", "0.9", "--json"]);
    assert_eq!((again["id"].as_str(), again["duplicate_of"].as_str()), (Some(&*id), Some(&*id)));
    let memory = user.json(["get", &id]);
    assert_eq!((&memory["tags"], &memory["importance"]), (&json!(["a", "b"]), &json!(0.9)));

    let output = user.output(["remember", "the deploy runs on Tuesdays"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("there already"), "{output:?}");

    let kept = user.remember(["the deploy runs on Tuesdays", "--keep-duplicates"]);
    assert_ne!(kept, id);
    assert_eq!(user.count(), 2);
}

#[test]
fn a_nearly_equal_text_is_stored_beside_and_named() {
    let user = User::new();
    let first = user.remember(["The nightly backup of the customer database starts at two in the morning."]);
    let second = user.json([
        "remember",
        "The nightly backup of the customer database starts at two in the morning",
        "--json",
    ]);
    assert_eq!(second["duplicate_of"], first.as_str());
    assert_ne!(second["id"], first.as_str());
    assert_eq!(user.count(), 2);
}

#[test]
fn list_shows_the_newest_first_and_can_be_paged() {
    let user = User::new();
    for (text, at) in [("one", "@100"), ("two", "@200"), ("three", "@300")] {
        user.remember([text, "--at", at]);
    }
    assert_eq!(texts(&user.json(["list", "--json"])), ["three", "two", "one"]);
    assert_eq!(texts(&user.json(["list", "--oldest", "-n", "1", "--offset", "1"])), ["two"]);
    assert_eq!(user.run(["list", "-f", "text", "--since", "@200"]), "three\ntwo\n");
}

#[test]
fn update_changes_what_is_named_and_nothing_else() {
    let user = User::new();
    let id = user.remember(["old", "-t", "a,b", "--meta", "k=v", "-i", "0.3"]);
    let updated =
        user.json(["update", &id, "--text", "new", "--add-tags", "c", "--remove-tags", "a", "--json"]);
    assert_eq!((updated["id"].as_str(), &updated["changed"]), (Some(&*id), &json!(true)));
    assert_eq!(user.run(["update", &id, "--unset-meta", "k"]), format!("{id}\n"));
    let memory = user.json(["get", &id]);
    assert_eq!((&memory["text"], &memory["tags"]), (&json!("new"), &json!(["b", "c"])));
    assert_eq!((&memory["importance"], memory.get("metadata")), (&json!(0.3), None));
    assert_eq!(user.json(["update", &id, "-i", "0.3", "--json"])["changed"], false);
}

#[test]
fn forgotten_memories_do_not_come_back() {
    let user = User::new();
    let (kept, gone) = (user.remember(["kept"]), user.remember(["gone"]));
    assert_eq!(user.run(["forget", &gone]), format!("{gone}\n"));
    user.fail(1, ["get", &gone]);
    assert_eq!(texts(&user.json(["list"])), ["kept"]);
    assert_eq!(user.json(["recall", "gone", "--json"])["results"][0]["id"], kept.as_str());
}

#[test]
fn forget_with_an_unknown_id_names_it_and_forgets_the_others() {
    let user = User::new();
    let id = user.remember(["x"]);
    let output = user.output(["forget", &id, "nobody", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["forgotten"], &answer["missing"]), (&json!([id]), &json!(["nobody"])));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["kind"], "not_found");
    assert_eq!(user.count(), 0);
}

#[test]
fn an_unknown_id_is_not_found() {
    let user = User::new();
    user.remember(["x"]);
    for args in [["get", "nobody", "-q"], ["forget", "nobody", "-q"], ["update", "nobody", "-i0.1"]] {
        let said = user.fail(1, args);
        assert!(said.contains("nobody"), "{said}");
    }
}

#[test]
fn a_person_sees_one_memory_in_full() {
    let user = User::new();
    let id = user.remember(["first\nsecond", "-t", "a,b", "--at", "2026-02-17T12:30:00Z"]);
    let shown = user.run(["get", &id, "-f", "table"]);
    assert!(shown.contains("2026-02-17 12:30") && shown.contains("a, b"), "{shown}");
    assert!(shown.ends_with("\nfirst\nsecond\n"), "{shown}");
}
