//! Stores of released format versions still open, with every memory. `examples/make_golden.rs` made them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use memento_kv::check::{CheckStatus, check_files};
use memento_kv::embed::Embedder;
use memento_kv::{
    List, MemoryId, Mode, Options, Order, Recall, Remember, RestoreFrom, RestoreKind, RestoreOptions, Store,
};
use serde_json::Value;

#[path = "golden/embedder.rs"]
mod embedder;
use embedder::Counting;

/// The store as it was closed, the same one after a compaction, which rewrote its segments, and after a restore and its
/// undo, which brought the same memories back.
const GOLDEN: [&str; 3] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1-rewritten"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1-restored"),
];

/// A home with a copy of the golden store. Git keeps no modes, so the segments get this one.
fn home(segment_mode: u32) -> tempfile::TempDir {
    home_of(GOLDEN[0], segment_mode)
}

fn home_of(golden: &str, segment_mode: u32) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (from, to) = (Path::new(golden).join("store"), home.path().join("store"));
    fs::create_dir_all(to.join("seg")).expect("folders");
    for folder in [&to, &to.join("seg")] {
        fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).expect("chmod");
    }
    fs::copy(from.join("MANIFEST"), to.join("MANIFEST")).expect("copy");
    for name in segment_names(&from) {
        let copy = to.join("seg").join(&name);
        fs::copy(from.join("seg").join(&name), &copy).expect("copy");
        fs::set_permissions(&copy, PermissionsExt::from_mode(segment_mode)).expect("chmod");
    }
    home
}

fn segment_names(store: &Path) -> Vec<String> {
    let entries = fs::read_dir(store.join("seg")).expect("list");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("entry").file_name().into_string()).collect();
    names.sort_unstable();
    names.into_iter().map(|name| name.expect("a plain name")).collect()
}

fn open(home: &Path) -> Store {
    let embedder: Arc<dyn Embedder> = Arc::new(Counting::new("golden/two", 2));
    Store::open(Options::at(home).embedder(embedder).background_embedding(false)).expect("open")
}

fn expected() -> Value {
    let json = fs::read_to_string(Path::new(GOLDEN[0]).join("expected.json")).expect("read");
    serde_json::from_str(&json).expect("JSON")
}

/// Every memory, forgotten id, figure and vector is as when the store was made.
fn holds_what_is_expected(store: &Store) {
    holds_memories(store);
    let all = store.list(&List::new().limit(100).order(Order::Oldest)).expect("list");
    assert_eq!(serde_json::to_value(&all).expect("JSON"), expected()["memories"]);
    assert_eq!(store.stats().expect("stats").last_seq, expected()["last_seq"]);
}

/// Every memory, forgotten id and vector is as when the store was made.
fn holds_memories(store: &Store) {
    let expected = expected();
    let all = store.list(&List::new().limit(100).order(Order::Oldest)).expect("list");
    // Of one time those come first that were stored first, which a restore may change.
    let by_id = |list: &Value| {
        let mut list = list.as_array().expect("a list").clone();
        list.sort_by_key(|memory| memory["id"].to_string());
        list
    };
    assert_eq!(by_id(&serde_json::to_value(&all).expect("JSON")), by_id(&expected["memories"]));
    for memory in &all {
        assert_eq!(store.get(&memory.id).expect("get").as_ref(), Some(memory));
    }
    for id in expected["forgotten"].as_array().expect("ids") {
        assert_eq!(store.get(id.as_str().expect("an id")).expect("get"), None);
    }
    let stats = store.stats().expect("stats");
    assert_eq!(serde_json::to_value(&stats.model).expect("JSON"), expected["model"]);
    assert_eq!((stats.embedded, stats.pending), (all.len() as u64, 0));

    let embedder = Counting::new("golden/two", 2);
    let best: BTreeMap<MemoryId, f64> = all
        .iter()
        .map(|memory| {
            let windows = embedder.embed_document(&memory.text).expect("embed");
            let best = windows.into_iter().map(|window| {
                let answer = store.recall(Recall::by_vector(window).topk(100)).expect("recall");
                answer.results.into_iter().find(|found| found.memory.id == memory.id).expect("found").score
            });
            (memory.id.clone(), best.fold(1.0, f64::min))
        })
        .collect();
    // Vectors are ranked by 16-bit floats; with two or three dimensions their rounding does not average out.
    assert!(best.values().all(|score| *score > 0.999), "each window is found by its vector: {best:?}");
}

#[test]
fn a_store_of_format_1_opens_with_every_memory() {
    for segment_mode in [0o600, 0o400] {
        let home = home(segment_mode);
        let active = segment_names(&home.path().join("store")).pop().expect("a segment");
        let active = home.path().join("store/seg").join(active);
        // Only a sealed segment is read-only.
        fs::set_permissions(active, PermissionsExt::from_mode(0o600)).expect("chmod");
        let store = open(home.path());
        holds_what_is_expected(&store);
        let report = store.check(&mut |_| {}).expect("check");
        assert_eq!((report.status, report.findings.as_slice()), (CheckStatus::Ok, &[][..]));
        assert_eq!(Value::from(report.records), expected()["last_seq"]);
        assert_eq!(Value::from(store.stats().expect("stats").segments), expected()["segments"]);
    }
}

#[test]
fn a_rewritten_store_of_format_1_opens_with_every_memory() {
    for without in [&[][..], &["MANIFEST"]] {
        let home = home_of(GOLDEN[1], 0o400);
        let active = segment_names(&home.path().join("store")).pop().expect("a segment");
        fs::set_permissions(home.path().join("store/seg").join(active), PermissionsExt::from_mode(0o600))
            .expect("chmod");
        without
            .iter()
            .for_each(|name| fs::remove_file(home.path().join("store").join(name)).expect("remove"));
        let report = check_files(home.path(), &mut |_| {}).expect("check");
        assert_eq!((report.status, report.records), (CheckStatus::Ok, 15));
        let store = open(home.path());
        assert_eq!(store.healed(), []);
        holds_what_is_expected(&store);
        let report = store.check(&mut |_| {}).expect("check");
        assert_eq!((report.status, report.findings.as_slice()), (CheckStatus::Ok, &[][..]));
    }
}

#[test]
fn a_store_of_format_1_with_restores_opens_with_every_memory_and_goes_back() {
    let home = home_of(GOLDEN[2], 0o400);
    let names = segment_names(&home.path().join("store"));
    let active = home.path().join("store/seg").join(names.last().expect("a segment"));
    fs::set_permissions(active, PermissionsExt::from_mode(0o600)).expect("chmod");
    let features: Vec<u8> = names
        .iter()
        .map(|name| fs::read(home.path().join("store/seg").join(name)).expect("a segment")[112])
        .collect();
    assert_eq!(features, [0, 0, 2, 0, 2, 0], "a program that does not know restores refuses these");
    let report = check_files(home.path(), &mut |_| {}).expect("check");
    assert_eq!((report.status, report.records), (CheckStatus::Ok, 34));
    let store = open(home.path());
    assert_eq!(store.healed(), []);
    holds_memories(&store);
    let points = store.restore_points().expect("a list");
    let points: Vec<_> = points.iter().map(|point| (point.seq, point.kind)).collect();
    assert_eq!(points, [(28, Some(RestoreKind::Undo)), (22, Some(RestoreKind::Moment))]);
    for seq in [28, 22, 9] {
        store.restore(&RestoreFrom::Seq(seq), RestoreOptions::default()).expect("restored");
    }
    assert_eq!(store.list(&List::new().limit(100)).expect("list").len(), 4);
    store.restore(&RestoreFrom::Undo, RestoreOptions::default()).expect("undone");
    holds_memories(&store);
}

#[test]
fn a_store_of_format_1_goes_on_where_it_was_closed() {
    let home = home(0o600);
    let before = segment_names(&home.path().join("store"));
    let store = open(home.path());
    let last_seq = expected()["last_seq"].as_u64().expect("a sequence");
    let id = MemoryId::new("after").expect("an id");
    assert_eq!(store.remember(Remember::new("One more.").id(id)).expect("remember").seq, last_seq + 1);
    store.close().expect("close");
    assert_eq!(segment_names(&home.path().join("store")), before, "it was closed cleanly");
    let store = open(home.path());
    let answer = store.recall(Recall::new("one more").mode(Mode::Text)).expect("recall");
    assert_eq!(answer.results[0].memory.id.as_str(), "after");
}

#[test]
fn a_store_of_format_1_needs_no_manifest() {
    let home = home(0o600);
    fs::remove_file(home.path().join("store/MANIFEST")).expect("remove");
    holds_what_is_expected(&open(home.path()));
}

#[test]
fn a_store_of_format_1_is_whole_without_being_opened() {
    let home = home(0o600);
    let report = check_files(home.path(), &mut |_| {}).expect("check");
    assert_eq!((report.status, report.findings.as_slice()), (CheckStatus::Ok, &[][..]));
    assert_eq!(Value::from(report.records), expected()["last_seq"]);
}
