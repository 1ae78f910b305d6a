//! Compaction and purge: what nothing needs goes, everything else stays, and purged bytes are in no file.

mod common;

use std::path::Path;

use common::{everything, segments};
use memento_kv::{MemoryId, Options, Remember, Store, Update};

fn id(text: &str) -> MemoryId {
    MemoryId::new(text).expect("an id")
}

fn log_len(home: &Path) -> u64 {
    segments(home).iter().map(|path| path.metadata().expect("there").len()).sum()
}

/// Every file below a folder that holds these bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in folder.read_dir().expect("list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if path.is_file()
            && std::fs::read(&path).expect("read").windows(bytes.len()).any(|window| window == bytes)
        {
            found.push(path.display().to_string());
        }
    }
    found
}

fn unembedded(home: &Path) -> Store {
    Store::open(Options::at(home).model(memento_kv::embed::ModelSpec::None)).expect("open")
}

#[test]
fn what_nothing_needs_goes_and_everything_else_stays() {
    let home = common::quick_folder();
    for round in 0..3 {
        let store = common::open(home.path());
        for n in 0..20 {
            let remember = Remember::new(format!("memory {n}, first text")).id(id(&format!("{round}-{n}")));
            store.remember(remember.tags(["one"])).expect("remember");
        }
        for n in 0..10 {
            let name = format!("{round}-{n}");
            store
                .update(&name, Update::new().text(format!("memory {n}, text of round {round}")))
                .expect("text");
            store.update(&name, Update::new().add_tags(["two"])).expect("tags");
        }
        store.forget((10..15).map(|n| format!("{round}-{n}"))).expect("forget");
        store.embed_pending(&mut |_| {}).expect("embed");
        store.close().expect("close");
    }
    let store = common::open(home.path());
    let before = everything(&store).expect("list");
    let len = log_len(home.path());
    let compacted = store.compact(&mut |_| {}).expect("compact");
    assert!(compacted.records == 3 * (10 + 5 + 5), "{compacted:?}");
    assert!(log_len(home.path()) < len, "{compacted:?}");
    assert_eq!(everything(&store).expect("list"), before);
    common::assert_whole(&store, "after a compaction");
    // What it wrote is the same for whoever opens it, with the view and without.
    store.close().expect("close");
    for without_view in [false, true] {
        if without_view {
            std::fs::remove_file(home.path().join("store/view.redb")).expect("remove");
        }
        let store = common::open(home.path());
        assert_eq!(store.healed(), []);
        assert_eq!(everything(&store).expect("list"), before);
        common::assert_whole(&store, "after a reopen");
        store.close().expect("close");
    }
    // Nothing is left to do, and what was forgotten stays so.
    let store = common::open(home.path());
    assert_eq!(store.compact(&mut |_| {}).expect("compact").records, 0);
    store.remember(Remember::new("the same id once more").id(id("0-10"))).expect("it is free");
    store.close().expect("close");
    std::fs::remove_file(home.path().join("store/view.redb")).expect("remove");
    assert_eq!(
        common::open(home.path()).get("0-10").expect("get").expect("there").text,
        "the same id once more"
    );
}

#[test]
fn a_month_of_daily_churn_stays_within_three_times_the_live_data() {
    let home = common::quick_folder();
    let memories = common::number("CHURN").unwrap_or(2_000);
    let text = |n: u64, day: u64| format!("memory {n} of day {day} {}", "word ".repeat(100));
    for day in 0..30 {
        // Day after day by a process that opens, writes and closes.
        let store = unembedded(home.path());
        for chunk in (0..memories).collect::<Vec<_>>().chunks(500) {
            if day > 0 {
                store.forget(chunk.iter().map(|n| format!("{}-{n}", day - 1))).expect("forget");
            }
            let many = chunk.iter().map(|n| Remember::new(text(*n, day)).id(id(&format!("{day}-{n}"))));
            store.remember_many(many.collect()).expect("remember");
        }
        store.close().expect("close");
    }
    let live: u64 = (0..memories).map(|n| text(n, 29).len() as u64 + 130).sum();
    let store = home.path().join("store");
    let (log, view) = (log_len(home.path()), store.join("view.redb").metadata().expect("there").len());
    // A small store has more: what is not worth a compaction, and the smallest view.
    let slack = 6 << 20;
    assert!(log + view <= 3 * live + slack, "log {log}, view {view}, live {live}");
    let store = unembedded(home.path());
    assert_eq!(store.stats().expect("stats").memories, memories);
    common::assert_whole(&store, "after a month");
}

#[test]
fn a_purged_memory_is_in_no_file() {
    let home = common::quick_folder();
    const SECRET: &str = "the door code is 4711-aardvark";
    const FORMER: &str = "the door code was 1234-zebra";
    let store = common::open(home.path());
    store.remember(Remember::new(FORMER).id(id("secret"))).expect("remember");
    store.remember(Remember::new("something else")).expect("remember");
    store.update("secret", Update::new().text(SECRET)).expect("update");
    store.embed_pending(&mut |_| {}).expect("embed");
    store.recall(memento_kv::Recall::new(SECRET)).expect("recall");
    let vector: Vec<u8> = {
        let made = common::Letters::embedder().embed_document(SECRET).expect("a vector");
        let length = made[0].iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let normalized = made[0].iter().map(|value| (f64::from(*value) / length) as f32);
        normalized.flat_map(f32::to_le_bytes).collect()
    };
    assert!(!files_with(home.path(), SECRET.as_bytes()).is_empty());
    assert!(!files_with(home.path(), &vector).is_empty(), "the vector is in the log");
    // Damage, so that a file with the text goes into quarantine.
    store.close().expect("close");
    let view = home.path().join("store/view.redb");
    let mut bytes = std::fs::read(&view).expect("read");
    bytes[..64].fill(7);
    common::overwrite(&view, &bytes);
    std::fs::create_dir(home.path().join("backups")).expect("folder");
    std::fs::write(home.path().join("backups/memory_20261122_120000.db"), SECRET).expect("write");

    let store = common::open(home.path());
    let purged = store.purge(["secret", "nobody"], &mut |_| {}).expect("purge");
    assert_eq!(purged.purged, [id("secret")]);
    assert_eq!(purged.missing, [id("nobody")]);
    assert_eq!(purged.overwritten.len(), 1, "{purged:?}");
    assert_eq!(purged.still_in, ["backups/memory_20261122_120000.db"]);
    std::fs::remove_dir_all(home.path().join("backups")).expect("remove");
    for bytes in [SECRET.as_bytes(), FORMER.as_bytes(), &vector] {
        assert_eq!(files_with(home.path(), bytes), [""; 0]);
    }
    assert_eq!(store.get("secret").expect("get"), None);
    assert_eq!(everything(&store).expect("list").len(), 1);
    common::assert_whole(&store, "after a purge");
    store.close().expect("close");
    std::fs::remove_file(&view).expect("remove");
    assert_eq!(common::open(home.path()).get("secret").expect("get"), None);
    for bytes in [SECRET.as_bytes(), FORMER.as_bytes(), &vector] {
        assert_eq!(files_with(home.path(), bytes), [""; 0], "after a reopen");
    }
}

#[test]
fn a_memory_that_was_forgotten_before_can_be_purged() {
    let home = common::quick_folder();
    let store = common::open(home.path());
    store.remember(Remember::new("a forgotten secret").id(id("secret"))).expect("remember");
    store.forget(["secret"]).expect("forget");
    assert!(!files_with(home.path(), b"a forgotten secret").is_empty(), "forgetting keeps the bytes");
    assert_eq!(store.purge(["secret"], &mut |_| {}).expect("purge").purged, [id("secret")]);
    store.close().expect("close");
    assert_eq!(files_with(home.path(), b"a forgotten secret"), [""; 0]);
}

#[test]
fn a_memory_that_compaction_left_out_can_be_purged_from_the_free_pages_of_the_view() {
    let home = common::quick_folder();
    let store = common::open(home.path());
    for n in 0..50 {
        let remember =
            Remember::new(format!("a forgotten secret, number {n}")).id(id(&format!("secret-{n}")));
        store.remember(remember).expect("remember");
    }
    store.remember(Remember::new("something else")).expect("remember");
    store.close().expect("close");
    let store = common::open(home.path());
    store.forget((0..50).map(|n| format!("secret-{n}"))).expect("forget");
    store.compact(&mut |_| {}).expect("compact");
    assert!(!files_with(home.path(), b"a forgotten secret").is_empty(), "or this test shows nothing");
    assert_eq!(store.purge(["secret-7"], &mut |_| {}).expect("purge").missing, [id("secret-7")]);
    assert_eq!(files_with(home.path(), b"a forgotten secret"), [""; 0]);
    assert_eq!(everything(&store).expect("list").len(), 1);
}
