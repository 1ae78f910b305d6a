//! The store through its public API.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{folder as home, open, options};
use memento_kv::clock::ManualClock;
use memento_kv::{
    Duplicates, ErrorKind, Filter, List, MemoryId, Mode, OnConflict, Order, Recall, Remember, Store, Update,
};

fn texts(store: &Store) -> Vec<String> {
    let all = store.list(&List::new().limit(10_000).order(Order::Oldest)).expect("list");
    all.into_iter().map(|memory| memory.text).collect()
}

#[test]
fn a_memory_is_there_byte_for_byte_after_a_reopen() {
    let home = home();
    let text = "ελληνικά עברית हिन्दी 日本語 👩‍👩‍👧 e\u{301}\r\n\ttab \u{1b}[31m \u{0} \u{200d}end";
    let store = open(home.path());
    let saved = store
        .remember(
            Remember::new(text)
                .importance(0.9)
                .tags(["decision", " rust "])
                .collection("code")
                .source("test")
                .session("s1")
                .at(-5)
                .speaker("Ann")
                .role("user")
                .position(3)
                .meta("k", "v"),
        )
        .expect("remember");
    let before = store.get(&saved.id).expect("get").expect("there");
    assert_eq!(
        (before.text.as_str(), before.tags.as_slice(), before.timestamp),
        (text, &["decision".to_owned(), "rust".to_owned()][..], -5)
    );
    store.close().expect("close");
    let store = open(home.path());
    assert_eq!(store.get(&saved.id).expect("get").as_ref(), Some(&before));
    assert_eq!(store.get("no such id").expect("get"), None);
}

#[test]
fn the_same_text_is_kept_once_and_its_tags_and_importance_are_merged() {
    let home = home();
    let store = open(home.path());
    let first =
        store.remember(Remember::new("the build is green").importance(0.8).tags(["ci"])).expect("remember");
    let again = store
        .remember(Remember::new("the build is green").importance(0.3).tags(["build"]))
        .expect("remember");
    assert_eq!((&again.id, again.duplicate_of.as_ref()), (&first.id, Some(&first.id)));
    let memory = store.get(&first.id).expect("get").expect("there");
    assert_eq!((memory.importance, memory.tags), (0.8, vec!["ci".to_owned(), "build".to_owned()]));
    let elsewhere =
        store.remember(Remember::new("the build is green").collection("other")).expect("remember");
    assert_eq!(elsewhere.duplicate_of, None);
    let kept =
        store.remember(Remember::new("the build is green").on_duplicate(Duplicates::Keep)).expect("remember");
    assert_ne!(kept.id, first.id);
    assert_eq!(texts(&store).len(), 3);
}

#[test]
fn a_nearly_equal_text_is_stored_and_the_near_duplicate_is_named() {
    let home = home();
    let store = open(home.path());
    let first =
        store.remember(Remember::new("port eight thousand").importance(0.9).tags(["net"])).expect("remember");
    let near = store.remember(Remember::new("port eight thousand!").tags(["new"])).expect("remember");
    assert_ne!(near.id, first.id);
    assert_eq!(near.duplicate_of, Some(first.id));
    let memory = store.get(&near.id).expect("get").expect("nothing is dropped");
    assert_eq!(
        (memory.text.as_str(), memory.importance, memory.tags),
        ("port eight thousand!", 0.9, vec!["new".to_owned(), "net".to_owned()])
    );
    let far = store.remember(Remember::new("zzz qqq xxx")).expect("remember");
    assert_eq!(far.duplicate_of, None);
}

#[test]
fn repeating_a_call_with_its_id_is_safe_and_other_content_is_a_conflict() {
    let home = home();
    let store = open(home.path());
    let id = MemoryId::new("my-id").expect("id");
    let first = store.remember(Remember::new("once").id(id.clone())).expect("remember");
    let again = store.remember(Remember::new("once").id(id.clone())).expect("remember");
    assert_eq!((again.seq, again.duplicate_of), (first.seq, Some(id.clone())));
    let error = store.remember(Remember::new("twice").id(id)).expect_err("conflict");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(texts(&store), ["once"]);
}

#[test]
fn an_update_changes_what_it_names_and_recall_follows() {
    let home = home();
    let store = open(home.path());
    let id = store
        .remember(Remember::new("we deploy on monday").tags(["a", "b"]).meta("x", 1))
        .expect("remember")
        .id;
    let updated = store
        .update(
            &id,
            Update::new()
                .text("we deploy on friday")
                .add_tags(["c"])
                .remove_tags(["a"])
                .importance(1.0)
                .meta("x", serde_json::Value::Null),
        )
        .expect("update");
    assert!(updated.changed);
    let memory = store.get(&id).expect("get").expect("there");
    assert_eq!(memory.tags, ["b", "c"]);
    assert!(memory.metadata.is_empty());
    let answer = store.recall(Recall::new("friday").mode(Mode::Text)).expect("recall");
    assert_eq!(answer.results.len(), 1);
    assert!(store.recall(Recall::new("monday").mode(Mode::Text)).expect("recall").results.is_empty());
    assert!(!store.update(&id, Update::new().importance(1.0)).expect("update").changed);
    assert_eq!(store.update("nobody", Update::new()).expect_err("unknown").kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_forgotten_never_comes_back() {
    let home = home();
    let store = open(home.path());
    let keep = store.remember(Remember::new("apples are red")).expect("remember").id;
    let gone = store.remember(Remember::new("bananas are yellow")).expect("remember").id;
    let answer = store.forget([gone.as_str(), "nobody"]).expect("forget");
    assert_eq!(
        (answer.forgotten, answer.missing),
        (vec![gone.clone()], vec![MemoryId::new("nobody").expect("id")])
    );
    let mut store = Some(store);
    for _ in 0..3 {
        let store = store.take().unwrap_or_else(|| open(home.path()));
        assert_eq!(store.get(&gone).expect("get"), None);
        for mode in [Mode::Hybrid, Mode::Vector, Mode::Text] {
            let answer = store.recall(Recall::new("yellow bananas").mode(mode)).expect("recall");
            assert!(answer.results.iter().all(|found| found.id == keep), "{mode:?}");
        }
    }
}

#[test]
fn filters_apply_before_ranking() {
    let home = home();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let store = Store::open(options(home.path()).clock(clock)).expect("open");
    for n in 0..30_i64 {
        let remember = Remember::new(format!("note number {n} about rust"))
            .at(n)
            .tags([if n % 2 == 0 { "even" } else { "odd" }, "rusty"])
            .importance(n as f64 / 30.0)
            .source(if n < 10 { "a" } else { "b" })
            .session(format!("s{}", n % 3))
            .collection(if n < 20 { "x" } else { "y" })
            .on_duplicate(Duplicates::Keep);
        store.remember(remember).expect("remember");
    }
    type Expected = Box<dyn Fn(i64) -> bool>;
    let cases: Vec<(Filter, Expected)> = vec![
        (
            Filter { tags_any: vec!["odd".into(), "none".into()], ..Filter::default() },
            Box::new(|n| n % 2 == 1),
        ),
        (
            Filter { tags_all: vec!["odd".into(), "rusty".into()], ..Filter::default() },
            Box::new(|n| n % 2 == 1),
        ),
        (Filter { tags_any: vec!["rust".into()], ..Filter::default() }, Box::new(|_| false)),
        (Filter { collection: Some("y".into()), ..Filter::default() }, Box::new(|n| n >= 20)),
        (
            Filter { source: Some("a".into()), session: Some("s1".into()), ..Filter::default() },
            Box::new(|n| n < 10 && n % 3 == 1),
        ),
        (Filter { since: Some(5), before: Some(7), ..Filter::default() }, Box::new(|n| (5..=7).contains(&n))),
        (Filter { min_importance: Some(0.9), ..Filter::default() }, Box::new(|n| n as f64 / 30.0 >= 0.9)),
    ];
    for (filter, expected) in cases {
        let expected: Vec<i64> = (0..30).filter(|n| expected(*n)).collect();
        for mode in [Mode::Hybrid, Mode::Vector, Mode::Text] {
            let answer = store
                .recall(Recall::new("rust note").topk(50).mode(mode).filter(filter.clone()))
                .expect("recall");
            let mut found: Vec<i64> = answer.results.iter().map(|found| found.timestamp).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{filter:?} {mode:?}");
        }
        let mut listed: Vec<i64> = store
            .list(&List::new().filter(filter).limit(50))
            .expect("list")
            .iter()
            .map(|memory| memory.timestamp)
            .collect();
        listed.reverse();
        assert_eq!(listed, expected);
    }
}

#[test]
fn a_repeated_question_is_answered_again_until_something_changes() {
    let home = home();
    let store = open(home.path());
    store.remember(Remember::new("the sky is blue")).expect("remember");
    let first = store.recall(Recall::new("blue sky")).expect("recall");
    let again = store.recall(Recall::new("blue sky")).expect("recall");
    assert_eq!((&first.results, store.stats().expect("stats").cache.answers), (&again.results, 1));
    store.remember(Remember::new("a blue sky at sea")).expect("remember");
    assert_eq!(store.recall(Recall::new("blue sky")).expect("recall").results.len(), 2);
}

#[test]
fn bad_values_are_refused_and_nothing_is_stored() {
    let home = home();
    let store = open(home.path());
    let long = "x".repeat((1 << 20) + 1);
    let cases = [
        (Remember::new(""), ErrorKind::Invalid),
        (Remember::new(" \n\t"), ErrorKind::Invalid),
        (Remember::new(long), ErrorKind::TooLarge),
        (Remember::new("a").importance(1.5), ErrorKind::Invalid),
        (Remember::new("a").importance(-0.1), ErrorKind::Invalid),
        (Remember::new("a").importance(f64::NAN), ErrorKind::Invalid),
        (Remember::new("a").tags((0..65).map(|n| n.to_string())), ErrorKind::TooLarge),
        (Remember::new("a").collection(""), ErrorKind::Invalid),
        (Remember::new("a").source("a\nb"), ErrorKind::Invalid),
        (Remember::new("a").meta("k", "x".repeat(70_000)), ErrorKind::TooLarge),
    ];
    for (remember, kind) in cases {
        let error = store.remember(remember.clone()).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(
            store.remember_many(vec![Remember::new("fine"), remember]).expect_err("refused").kind(),
            kind
        );
    }
    assert!(texts(&store).is_empty());
    assert!(store.recall(Recall::new("  ")).expect("recall").results.is_empty());
    assert!(store.recall(Recall::new("x").topk(0)).expect("recall").results.is_empty());
    assert_eq!(
        store.recall(Recall::new("x".repeat((1 << 20) + 1))).expect_err("too long").kind(),
        ErrorKind::TooLarge
    );
    store.remember(Remember::new("x".repeat(1 << 20))).expect("the longest text is stored");
}

#[test]
fn metadata_that_could_not_be_read_back_is_refused() {
    let nested =
        |levels: usize| (1..levels).fold(serde_json::json!({}), |inner, _| serde_json::json!({ "k": inner }));
    let home = home();
    let store = open(home.path());
    for levels in [65, 128, 1000] {
        let deep = nested(levels).as_object().expect("an object").clone();
        let error = store.remember(Remember::new("deep").metadata(deep)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{levels} levels: {error}");
    }
    let deepest = nested(64).as_object().expect("an object").clone();
    let id = store.remember(Remember::new("deep").metadata(deepest.clone())).expect("remember").id;
    let update = Update::new().meta("k", nested(64));
    assert_eq!(store.update(&id, update).expect_err("refused").kind(), ErrorKind::TooLarge);
    drop(store); // As after a crash: the next open reads the record again.
    assert_eq!(open(home.path()).get(&id).expect("get").expect("there").metadata, deepest);
}

#[test]
fn a_time_limit_names_what_took_long() {
    let home = home();
    let store = open(home.path());
    store.remember(Remember::new("something")).expect("remember");
    let error = store
        .recall(Recall::new("something").timeout(Some(std::time::Duration::ZERO)))
        .expect_err("no time at all");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable());
}

#[test]
fn the_export_of_the_original_comes_in_whole_and_twice_changes_nothing() {
    let home = home();
    let store = open(home.path());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/memories-v0.2.2.json");
    let dry = store.import_json(&file, OnConflict::Fail, true, &mut |_| {}).expect("dry run");
    assert_eq!((dry.imported, texts(&store).len()), (194, 0));
    let imported = store.import_json(&file, OnConflict::Fail, false, &mut |_| {}).expect("import");
    assert_eq!((imported.imported, imported.unchanged), (194, 0));
    let again = store.import_json(&file, OnConflict::Fail, false, &mut |_| {}).expect("import");
    assert_eq!((again.imported, again.unchanged), (0, 194));
    let original: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
    for memory in original["memories"].as_array().expect("an array") {
        let stored = store.get(memory["id"].as_str().expect("an id")).expect("get").expect("there");
        assert_eq!(Some(stored.text.as_str()), memory["text"].as_str());
        assert_eq!(Some(stored.timestamp), memory["timestamp"].as_i64());
        assert_eq!(Some(stored.source.as_str()), memory["source"].as_str());
        assert_eq!(Some(stored.collection.as_str()), memory["collection"].as_str());
        assert_eq!(
            Some(stored.importance),
            memory["importance"].as_f64().map(|importance| importance.clamp(0.0, 1.0))
        );
    }
    store.update("e942b8e4e4a7d3ca", Update::new().importance(0.1)).expect("update");
    assert_eq!(
        store.import_json(&file, OnConflict::Fail, false, &mut |_| {}).expect_err("conflict").kind(),
        ErrorKind::Conflict
    );
    assert_eq!(store.import_json(&file, OnConflict::Keep, false, &mut |_| {}).expect("import").kept, 1);
    assert_eq!(
        store.import_json(&file, OnConflict::Replace, false, &mut |_| {}).expect("import").replaced,
        1
    );
    assert_eq!(store.check(&mut |_| {}).expect("check").findings, []);
}

#[test]
fn a_second_opener_is_told_who_holds_the_store_for_itself() {
    let home = home();
    let store = Store::open(options(home.path()).serve(false)).expect("opened");
    let error = Store::open(options(home.path()).lock_wait(std::time::Duration::ZERO)).expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains(&std::process::id().to_string()), "{error}");
    drop(store);
    open(home.path());
}

#[test]
fn homes_that_are_not_safe_are_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = home();
    let (file, link, shared, real) = (
        folder.path().join("file"),
        folder.path().join("link"),
        folder.path().join("shared"),
        folder.path().join("real"),
    );
    std::fs::write(&file, "x").expect("write");
    std::fs::create_dir(&real).expect("folder");
    symlink(&real, &link).expect("link");
    std::fs::create_dir(&shared).expect("folder");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).expect("chmod");
    for bad in [&file, &link, &shared] {
        let error = Store::open(options(bad)).expect_err("refused");
        assert!(matches!(error.kind(), ErrorKind::Permission | ErrorKind::Io), "{error}");
        assert!(error.hint_text().is_some(), "{error}");
    }
    assert_eq!(std::fs::read(&file).expect("read"), b"x");
    assert_eq!(std::fs::read_dir(&real).expect("list").count(), 0);
    let error = Store::open(options(&folder.path().join("none")).create(false)).expect_err("nothing there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!folder.path().join("none").exists());
}

#[test]
fn the_view_is_rebuilt_when_it_is_lost_damaged_or_foreign() {
    let home = home();
    let other = tempfile::tempdir().expect("a temporary folder");
    open(other.path()).remember(Remember::new("of another store")).expect("remember");
    let store = open(home.path());
    for n in 0..50 {
        store.remember(Remember::new(format!("memory {n} of fifty"))).expect("remember");
    }
    let expected: BTreeMap<_, _> = store
        .list(&List::new().limit(100))
        .expect("list")
        .into_iter()
        .map(|memory| (memory.id.clone(), memory))
        .collect();
    store.close().expect("close");
    let view = home.path().join("store/view.redb");
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let damage: Vec<Damage<'_>> = vec![
        ("lost", Box::new(|| std::fs::remove_file(&view).expect("remove"))),
        ("empty", Box::new(|| std::fs::write(&view, b"").expect("write"))),
        ("no database", Box::new(|| std::fs::write(&view, b"this is no database").expect("write"))),
        (
            "foreign",
            Box::new(|| _ = std::fs::copy(other.path().join("store/view.redb"), &view).expect("copy")),
        ),
        (
            "cut",
            Box::new(|| {
                std::fs::OpenOptions::new().write(true).open(&view).expect("open").set_len(9000).expect("cut")
            }),
        ),
    ];
    for (name, damage) in damage {
        damage();
        let store = open(home.path());
        let found: BTreeMap<_, _> = store
            .list(&List::new().limit(100))
            .expect("list")
            .into_iter()
            .map(|memory| (memory.id.clone(), memory))
            .collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(store.check(&mut |_| {}).expect("check").findings, [], "{name}");
        store.close().expect("close");
    }
}

#[test]
fn flipped_bytes_of_the_view_never_become_answers() {
    let home = home();
    let store = open(home.path());
    for n in 0..20 {
        store.remember(Remember::new(format!("memory {n} of twenty"))).expect("remember");
    }
    let expected: Vec<_> = store.list(&List::new().limit(100)).expect("list");
    store.close().expect("close");
    let view = home.path().join("store/view.redb");
    let whole = std::fs::read(&view).expect("read");
    let step = whole.len() / 97;
    for offset in (0..whole.len()).step_by(step) {
        let mut damaged = whole.clone();
        damaged[offset] ^= 0x08;
        std::fs::write(&view, &damaged).expect("write");
        let store = open(home.path());
        assert_eq!(store.list(&List::new().limit(100)).expect("list"), expected, "offset {offset}");
        for memory in &expected {
            assert_eq!(store.get(&memory.id).expect("get").as_ref(), Some(memory), "offset {offset}");
        }
        drop(store);
        std::fs::write(&view, &whole).expect("write");
    }
}
