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
fn an_sqlite_export_comes_in_with_everything_that_the_original_has_no_column_for() {
    let user = User::new();
    let all = "{\"id\":\"a\",\"text\":\"the river is green\",\"timestamp\":5,\"source\":\"s\",\"session_id\":\"t\",\"importance\":0.25,\
               \"tags\":[\"x, y\",\"z\"],\"collection\":\"c\",\"speaker\":\"Ann\",\"role\":\"user\",\"position\":3,\
               \"metadata\":{\"k\":[1,{}]}}\n";
    let file = user.write("m.jsonl", all);
    user.run(["import", file.to_str().expect("UTF-8"), "-q"]);
    let exported = user.run(["export", "--format", "jsonl", "--vectors"]);
    assert!(exported.contains("\"windows\""), "{exported}");
    let path = user.path("e.db");
    let path = path.to_str().expect("UTF-8");
    user.run(["export", "--format", "sqlite", "-o", path]);
    let other = User::new();
    let imported = other.json(["import", path, "--json"]);
    assert_eq!((&imported["imported"], &imported["vectors_reused"]), (&json!(1), &json!(1)), "{imported}");
    assert_eq!(other.run(["export", "--format", "jsonl", "--vectors"]), exported);
}

#[test]
fn an_export_is_of_one_state_whoever_writes_meanwhile() {
    let user = User::new();
    let file = user.write("m.jsonl", lines(3000));
    user.run(["import", file.to_str().expect("UTF-8"), "-q", "--no-embed"]);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let options = memento_kv::Options::at(user.home()).publish(false).background_embedding(false);
            let store = memento_kv::Store::open(options).expect("open");
            // Each pair of records leaves as many memories as there were.
            for n in 0.. {
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let new = memento_kv::Remember::new(format!("one more, {n}"))
                    .id(memento_kv::MemoryId::new(format!("n{n}")).expect("an id"));
                store.remember(new).expect("stored");
                store
                    .forget([if n < 3000 { format!("m{n}") } else { format!("n{}", n - 3000) }])
                    .expect("forgotten");
            }
        });
        for format in ["json", "jsonl"] {
            let path = user.path(&format!("e.{format}"));
            let path = path.to_str().expect("UTF-8");
            user.run(["export", "--format", format, "-o", path, "-q"]);
            let other = User::new();
            let imported = other.json(["import", path, "--no-embed", "--json"]);
            let count = imported["imported"].as_u64().expect("a number");
            assert!((3000..=3001).contains(&count), "{format}: {count}");
            let printed = user.run(["export", "--format", format, "-q"]);
            assert!(printed.len() > 3000 * 50, "{format}");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn an_export_over_memory_db_is_a_snapshot_and_takes_nothing_back() {
    let user = User::new();
    let options = memento_kv::Options::at(user.home()).background_embedding(false);
    let store = memento_kv::Store::open(options).expect("open");
    let remember = |text: &str| drop(store.remember(memento_kv::Remember::new(text)).expect("stored"));
    remember("one");
    let db = user.home().join("memory.db");
    user.run(["export", "--format", "sqlite", "-o", db.to_str().expect("UTF-8"), "-q"]);
    remember("two");
    store.snapshot(&mut |_| {}).expect("published");
    assert_eq!(store.stats().expect("figures").memories, 2);
    assert!(store.restore_points().expect("a list").is_empty());
}

#[test]
fn all_bad_lines_of_a_file_are_named_at_once() {
    let user = User::new();
    let bad = "{\"text\":5}\n{\"nope\":1}\n{\"text\":\" \"}\n";
    let file = user.write("m.jsonl", format!("{}{bad}", lines(3)));
    let said = user.fail(2, ["import", file.to_str().expect("UTF-8")]);
    for part in ["3 lines are bad: ", "line 4: text is a number", "line 5: it has no text", "line 6: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(user.count(), 0);
    let file = user.write("many.jsonl", bad.repeat(50));
    let said = user.fail(2, ["import", file.to_str().expect("UTF-8")]);
    assert!(said.contains("150 lines are bad: ") && said.contains("; and 140 more"), "{said}");
}

#[test]
fn what_an_import_cannot_read_twice_lies_in_the_home_and_nowhere_else() {
    let user = User::new();
    user.remember(["something", "--id", "there"]);
    let nowhere = user.path("no-such-folder");
    for input in [lines(3).into_bytes(), fs::read("tests/fixtures/memory-v0.2.2.db").expect("read")] {
        let mut command = user.command(["import", "-", "-q"]);
        command.env("TMPDIR", &nowhere).write_stdin(input).assert().success();
    }
    assert_eq!(user.count(), 1 + 3 + 194);
}

#[test]
fn a_conflict_of_an_import_is_decided_by_the_caller() {
    let user = User::new();
    user.remember(["mine", "--id", "a", "--at", "@1"]);
    let file = user.write("f.json", "{\"memories\": [{\"id\":\"a\",\"text\":\"theirs\",\"timestamp\":1}]}");
    let file = file.to_str().expect("UTF-8");
    let said = user.fail(2, ["import", file]);
    assert!(said.contains("memory 1: the id a belongs") && said.contains("--on-conflict keep"), "{said}");
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

/// The export without the two lines that say when and where it was made.
fn export_of(user: &User) -> String {
    let text = user.run(["export"]);
    let is_content =
        |line: &&str| !line.starts_with("  \"exported_at\"") && !line.starts_with("  \"db_path\"");
    text.lines().filter(is_content).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_store_of_the_original_comes_in_with_every_row_and_its_vectors() {
    for (name, rows, vectors) in [
        ("memory-v0.2.2.db", 194, 192),
        ("memory-main-ace4159.db", 50, 50),
        ("hot-wal/memory-v0.2.2.db", 7, 7),
    ] {
        let user = User::new();
        let file = fixture(name);
        let before = fs::read(&file).expect("the fixture");
        let file = file.to_str().expect("UTF-8");
        let dry = user.json(["import", file, "--dry-run", "--json"]);
        assert_eq!((dry["imported"].as_u64(), user.count()), (Some(rows), 0));
        let imported = user.json(["import", file, "--json", "--no-embed"]);
        assert_eq!(imported["imported"], rows, "{name}: {imported}");
        // Two texts are longer than what the original's model read.
        assert_eq!(imported["vectors_reused"], vectors, "{name}: {imported}");
        let stats = user.json(["stats", "--json"]);
        assert_eq!(
            (stats["memories"].as_u64(), stats["pending"].as_u64()),
            (Some(rows), Some(rows - vectors))
        );
        let again = user.json(["import", file, "--json"]);
        assert_eq!(
            (again["imported"].as_u64(), again["unchanged"].as_u64()),
            (Some(0), Some(rows)),
            "{name}"
        );
        assert_eq!(fs::read(file).expect("the fixture"), before, "{name}");
    }
}

#[test]
fn fixtures_in_and_out_and_in_again_give_the_same_bytes() {
    for names in [
        &["memory-v0.2.2.db"][..],
        &["memories-v0.2.2.json"],
        &["memory-main-ace4159.db"],
        &["hot-wal/memory-v0.2.2.db"],
        &["memory-v0.2.2.db", "memory-main-ace4159.db", "hot-wal/memory-v0.2.2.db"],
    ] {
        let (first, second, third) = (User::new(), User::new(), User::new());
        for name in names {
            first.run(["import", fixture(name).to_str().expect("UTF-8"), "--no-embed"]);
        }
        let (json, jsonl) = (first.path("out.json"), first.path("out.jsonl"));
        first.run(["export", "-o", json.to_str().expect("UTF-8")]);
        first.run(["export", "--format", "jsonl", "--vectors", "-o", jsonl.to_str().expect("UTF-8")]);
        second.run(["import", json.to_str().expect("UTF-8"), "--no-embed"]);
        third.run(["import", jsonl.to_str().expect("UTF-8"), "--no-embed"]);
        assert!(export_of(&second) == export_of(&first), "{names:?}");
        assert!(export_of(&third) == export_of(&first), "{names:?}");
        let lines = |user: &User| user.run(["export", "--format", "jsonl", "--vectors"]);
        assert!(lines(&third) == lines(&first), "vectors and their models, too: {names:?}");
    }
}

#[test]
fn a_store_of_the_original_is_exported_as_the_original_exports_it() {
    let user = User::new();
    user.run(["import", fixture("memory-v0.2.2.db").to_str().expect("UTF-8"), "--no-embed"]);
    let ours = export_of(&user);
    let theirs = fs::read_to_string(fixture("memories-v0.2.2.json")).expect("the fixture");
    // Importances outside 0 to 1 are clamped, a tag loses its blanks, and a repeated tag is kept once.
    let changed: Vec<&str> = theirs
        .lines()
        .filter(|line| !line.starts_with("  \"exported_at\"") && !line.starts_with("  \"db_path\""))
        .collect();
    let theirs = changed.join("\n");
    let repaired = |text: &str| {
        text.replace("\"importance\": -0.1,", "\"importance\": 0.0,")
            .replace("\"importance\": 1.5,", "\"importance\": 1.0,")
            .replace("\" padded \"", "\"padded\"")
            .replace("        \"document\",\n        \"document\",\n", "        \"document\",\n")
    };
    let normal = |text: &str| repaired(text).replace("        \"document\",\n", "");
    assert!(normal(&ours) == normal(&theirs));
}

#[test]
fn what_another_program_wrote_is_told_by_its_content() {
    let user = User::new();
    for (name, content, format, count) in [
        (
            "graph.json",
            "{\"type\":\"entity\",\"name\":\"Ann\",\"entityType\":\"person\",\"observations\":[\"likes tea\",\"plays Go\"]}\n",
            "mcp",
            2,
        ),
        (
            "cloud.json",
            "{\"results\":[{\"id\":\"m1\",\"memory\":\"Dev likes Rust\",\"created_at\":\"2023-11-07T05:31:56Z\"}]}",
            "mem0",
            1,
        ),
        (
            "cm.json",
            "{\"exportedAt\":\"x\",\"observations\":[{\"memory_session_id\":\"s\",\"title\":\"Fixed it\",\"created_at_epoch\":1771329600000}],\"summaries\":[]}",
            "claude-mem",
            1,
        ),
        ("AGENTS.md", "# Build\nRun cargo.\n# Test\nRun more cargo.\n", "markdown", 2),
        ("lines.txt", "{\"text\":\"a line\",\"timestamp\":5}\n", "jsonl", 1),
    ] {
        let file = user.write(name, content);
        let file = file.to_str().expect("UTF-8");
        let imported = user.json(["import", file, "--json"]);
        assert_eq!(
            (imported["format"].as_str(), imported["imported"].as_u64()),
            (Some(format), Some(count)),
            "{name}"
        );
        let again = user.json(["import", file, "--json"]);
        assert_eq!(
            (again["imported"].as_u64(), again["unchanged"].as_u64()),
            (Some(0), Some(count)),
            "{name}"
        );
    }
    let answer = user.json(["recall", "what does Ann drink?", "-n", "1"]);
    assert_eq!(texts(&answer), ["Ann (person): likes tea"]);
    let odd = user.write("odd.bin", "neither this nor that");
    assert!(user.fail(2, ["import", odd.to_str().expect("UTF-8")]).contains("--format"));
}

#[test]
fn an_import_reads_a_pipe() {
    let user = User::new();
    let pipe = user.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("a pipe");
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::write(pipe, "{\"text\":\"through a pipe\",\"timestamp\":5}\n"))
    };
    let imported = user.json(["import", pipe.to_str().expect("UTF-8"), "--json"]);
    writer.join().expect("no panic").expect("written");
    assert_eq!((imported["format"].as_str(), imported["imported"].as_u64()), (Some("jsonl"), Some(1)));
}

#[test]
fn an_importance_out_of_range_is_clamped_and_the_same_text_is_reported() {
    let user = User::new();
    user.remember(["the sky is blue", "--id", "mine"]);
    let lines = "{\"id\":\"a\",\"text\":\"the sky is blue\",\"timestamp\":1,\"importance\":7}\n{\"id\":\"b\",\"text\":\"grass\",\"timestamp\":2}\n";
    let file = user.write("m.jsonl", lines);
    let imported = user.json(["import", file.to_str().expect("UTF-8"), "--json"]);
    assert_eq!((&imported["imported"], &imported["duplicates"]), (&json!(2), &json!(1)));
    assert_eq!(imported["notes"], json!(["memory 1: importance 7 became 1"]));
}

#[test]
fn vectors_of_another_model_are_made_anew() {
    let (first, second) = (User::new(), User::new());
    first.remember(["the sky is blue", "--id", "a"]);
    let line = first.run(["export", "--format", "jsonl", "--vectors"]);
    let other = line.replace("\"engine\":\"minilm/1\"", "\"engine\":\"minilm/0\"");
    assert_ne!(line, other);
    let file = second.write("other.jsonl", other);
    let imported = second.json(["import", file.to_str().expect("UTF-8"), "--json"]);
    assert_eq!((&imported["imported"], &imported["vectors_reused"]), (&json!(1), &json!(0)));
    assert_eq!(
        second.run(["export", "--format", "jsonl", "--vectors"]),
        line,
        "the same model makes the same vector"
    );
    first.fail(2, ["export", "--vectors"]);
}

#[test]
fn damaged_copies_come_in_whole_or_not_at_all() {
    let user = User::new();
    let mut refused = 0;
    for (name, rows) in [("memory-v0.2.2.db", 194), ("memories-v0.2.2.json", 194)] {
        let whole = fs::read(fixture(name)).expect("the fixture");
        for round in 0..12_usize {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(whole.len() * (round + 1) / 13),
                _ => (0..=round).for_each(|i| {
                    let at = (round * 7_919 + i * 104_729) % whole.len();
                    bytes[at] ^= 1 << (i % 8);
                }),
            }
            let other = User::new();
            let file = user.write(&format!("damaged-{round}-{name}"), bytes);
            let output = other.output(["import", file.to_str().expect("UTF-8"), "--no-embed", "--json"]);
            let code = output.status.code().expect("no signal");
            assert!(code <= 5, "round {round} of {name}: {output:?}");
            let count = other.count();
            assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
            if code == 0 {
                let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
                assert_eq!(report["imported"].as_u64(), Some(count), "round {round} of {name}");
                assert_eq!(
                    count + report["left_out"].as_u64().expect("a number"),
                    rows,
                    "round {round} of {name}"
                );
            } else {
                refused += 1;
                assert_eq!(count, 0, "round {round} of {name}: a part of it is there");
            }
        }
    }
    assert!(refused >= 8, "{refused} were refused");
}

#[test]
fn the_first_start_offers_what_the_original_left() {
    let user = User::new();
    let place = user.path(".openclaw/memory");
    fs::create_dir_all(&place).expect("folders");
    fs::copy(fixture("memory-v0.2.2.db"), place.join("memory.db")).expect("a copy");
    let offer = "`memento-kv import ~/.openclaw/memory/memory.db`";
    let output = user.output(["recall", "anything"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(offer), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("import"), "{output:?}");
    let output = user.output(["recall", "anything", "--json"]);
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok(), "{output:?}");
    assert!(user.run(["where"]).contains("memento-kv import"));
    let output = user.output(["remember", "something"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(offer), "{output:?}");
    assert_eq!(user.count(), 1, "nothing comes in by itself");
    let output = user.output(["remember", "something else"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains(offer), "there is a store now: {output:?}");
}

/// Starts an import and kills it after a while; what the store has then.
fn killed_import(user: &User, file: &str, after: std::time::Duration) -> u64 {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_memento-kv"))
        .args(["import", file, "--no-embed"])
        .env_clear()
        .env("HOME", user.path(""))
        .env("MEMENTO_HOME", user.home())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it can be run");
    std::thread::sleep(after);
    let _ = program.kill();
    program.wait().expect("it ends");
    user.count()
}

#[test]
fn an_import_that_is_killed_leaves_all_of_a_file_or_nothing() {
    let source = User::new();
    let file = source.write("m.jsonl", lines(20_000));
    for step in 0..12 {
        let user = User::new();
        let count =
            killed_import(&user, file.to_str().expect("UTF-8"), std::time::Duration::from_millis(60 * step));
        assert!(count == 0 || count == 20_000, "after {step} steps there are {count}");
    }
}

#[test]
fn an_import_that_no_group_has_room_for_and_that_is_killed_leaves_all_of_a_file_or_nothing() {
    const ALL: u64 = 50;
    let source = User::new();
    let line = |i: u64| {
        format!(
            "{{\"id\":\"m{i}\",\"timestamp\":{i},\"text\":\"{}\"}}\n",
            format!("word{i:04} ").repeat(116_508)
        )
    };
    let file = source.write("m.jsonl", (0..ALL).map(line).collect::<String>());
    let file = file.to_str().expect("UTF-8");
    let mut cut = 0;
    for step in 0..14 {
        let user = User::new();
        let count = killed_import(&user, file, std::time::Duration::from_millis(120 * step));
        assert!(count == 0 || count == ALL, "after {step} steps there are {count}");
        cut += u64::from(count == 0);
        if step % 4 == 0 {
            let again = user.json(["import", file, "--no-embed", "--json"]);
            assert_eq!(again["unchanged"].as_u64(), Some(count));
            assert_eq!(user.count(), ALL);
            assert_eq!(user.json(["check", "--deep", "--json"])["findings"], json!([]));
        }
    }
    assert!(cut > 0, "every one of them was too late to cut anything");
}

#[test]
fn a_file_with_secrets_is_refused_with_their_places_unless_they_are_allowed() {
    const TOKEN: &str = "ghp_9Q2mZ7xKc4VtR8sLb1NwYd5HfJ3aUe6PqT0G";
    let user = User::new();
    let lines = format!(
        "{{\"id\":\"a\",\"timestamp\":1,\"text\":\"the deploy key is {TOKEN}\"}}\n\
         {{\"id\":\"b\",\"timestamp\":2,\"text\":\"something harmless\"}}\n\
         {{\"id\":\"c\",\"timestamp\":3,\"text\":\"again {TOKEN}\"}}\n"
    );
    let file = user.write("m.jsonl", lines);
    let file = file.to_str().expect("UTF-8");
    let told = user.fail(7, ["import", file, "--no-embed"]);
    assert!(told.contains("2 memories hold a secret: line 1: ") && told.contains("line 3: "), "{told}");
    assert!(told.contains("--allow-secrets") && !told.contains(TOKEN), "{told}");
    assert_eq!(user.count(), 0);
    let dry = user.json(["import", file, "--dry-run", "--json"]);
    assert_eq!((dry["secrets"].as_u64(), dry["imported"].as_u64()), (Some(2), Some(3)));
    assert!(dry["notes"][0].as_str().is_some_and(|note| note.starts_with("a secret in line 1: ")), "{dry}");
    let imported = user.json(["import", file, "--no-embed", "--allow-secrets", "--json"]);
    assert_eq!((imported["secrets"].as_u64(), imported["imported"].as_u64()), (Some(2), Some(3)));
    assert_eq!(user.count(), 3);
}

#[test]
fn a_database_of_claude_mem_comes_in_although_it_has_triggers() {
    let user = User::new();
    let file = user.path("claude-mem.db");
    rusqlite::Connection::open(&file)
        .and_then(|connection| {
            connection.execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE observations (id INTEGER PRIMARY KEY AUTOINCREMENT, memory_session_id TEXT NOT NULL,
                   project TEXT NOT NULL, text TEXT, type TEXT NOT NULL, title TEXT, subtitle TEXT, facts TEXT, narrative TEXT,
                   concepts TEXT, created_at TEXT NOT NULL, created_at_epoch INTEGER NOT NULL);
                 CREATE TABLE session_summaries (id INTEGER PRIMARY KEY, memory_session_id TEXT NOT NULL, project TEXT NOT NULL,
                   request TEXT, learned TEXT, created_at_epoch INTEGER NOT NULL);
                 CREATE VIRTUAL TABLE observations_fts USING fts5(title, content='observations', content_rowid='id');
                 CREATE TRIGGER observations_ai AFTER INSERT ON observations BEGIN
                   INSERT INTO observations_fts(rowid, title) VALUES (new.id, new.title); END;
                 INSERT INTO observations (memory_session_id, project, type, title, facts, concepts, created_at, created_at_epoch)
                   VALUES ('s1', 'p', 'decision', 'Postgres for billing', '[\"invoices need transactions\"]', '[\"trade-off\"]',
                   '2026-02-17T12:00:00.000Z', 1771329600000);
                 INSERT INTO session_summaries VALUES (1, 's1', 'p', 'Choose a database', NULL, 1771329700000);",
            )
        })
        .expect("a database");
    let imported = user.json(["import", file.to_str().expect("UTF-8"), "--json"]);
    assert_eq!((&imported["origin"], &imported["imported"]), (&json!("a database of claude-mem"), &json!(2)));
    let list = user.json(["list", "--oldest"]);
    assert_eq!(
        texts(&list),
        ["Postgres for billing\n- invoices need transactions", "Request: Choose a database"]
    );
    assert_eq!(
        (&list[0]["tags"], &list[0]["timestamp"]),
        (&json!(["trade-off", "decision"]), &json!(1_771_329_600))
    );
}

#[test]
fn an_import_on_a_full_disk_stores_nothing_and_succeeds_later() {
    let user = User::new();
    user.remember(["something", "--id", "first"]);
    let line =
        |i: u32| format!("{{\"id\":\"m{i}\",\"timestamp\":{i},\"text\":\"{}\"}}\n", "word ".repeat(200_000));
    let file = user.write("m.jsonl", (0..20).map(line).collect::<String>());
    let file = file.to_str().expect("UTF-8");
    // In blocks of 512 or 1024 bytes: too little for the group, enough for all that is there.
    let script = format!(
        "trap '' XFSZ; ulimit -f 10000; exec {} import {file} --no-embed",
        env!("CARGO_BIN_EXE_memento-kv")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env_clear()
        .env("HOME", user.path(""))
        .env("MEMENTO_HOME", user.home())
        .output()
        .expect("it can be run");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(user.count(), 1, "all or nothing");
    assert_eq!(user.json(["import", file, "--no-embed", "--json"])["imported"], 20);
}
