//! Makes the golden store of the present format version: `cargo run --example make_golden -- DIR`.
//!
//! A golden store is made once for each format version and then kept as it is: it shows that what a released version
//! wrote can still be read. So this program never overwrites one. Times and ids are fixed; the store's id and the
//! epochs of its segments are random. What is derived from the log is left out.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use memento_kv::clock::ManualClock;
use memento_kv::{List, MemoryId, Options, Order, Remember, Store, Update};
use serde_json::json;

#[path = "../tests/golden/embedder.rs"]
mod embedder;
use embedder::Counting;

const CLOCK_MS: i64 = 1_700_000_000_000;
const LONG_TEXT: &str = "A long text has several windows, and each window has a vector of its own: the first for \
    the beginning, the second for what follows, the third for the end.";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("give the folder to make, which must not be there")?;
    let folder = Path::new(&folder);
    if folder.exists() {
        return Err(format!("{} is there already: golden files are never made anew", folder.display()).into());
    }
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let crashed = open(first.path())?;
    write_first_segment(&crashed)?;
    // The files of a store that is still open are those that a crash leaves: the next open seals the segment.
    copy_log(first.path(), second.path())?;
    drop(crashed);

    let store = open(second.path())?;
    write_second_segment(&store)?;
    let memories = store.list(&List::new().limit(100).order(Order::Oldest))?;
    let stats = store.stats()?;
    let expected = json!({
        "memories": memories,
        "forgotten": ["golden-6"],
        "last_seq": stats.last_seq,
        "segments": stats.segments,
        "model": stats.model,
    });
    store.close()?;
    copy_log(second.path(), folder)?;
    fs::write(folder.join("expected.json"), format!("{expected:#}\n"))?;
    Ok(())
}

fn open(home: &Path) -> memento_kv::Result<Store> {
    Store::open(
        Options::at(home)
            .clock(Arc::new(ManualClock::at(CLOCK_MS)))
            .embedder(Arc::new(Counting::new("golden/three", 3)))
            .background_embedding(false)
            .query_cache(false),
    )
}

fn remember(id: &str, text: &str) -> memento_kv::Result<Remember> {
    Ok(Remember::new(text).id(MemoryId::new(id)?))
}

fn write_first_segment(store: &Store) -> memento_kv::Result<()> {
    store.remember(
        remember(
            "golden-1",
            "Every field: Grüße, привет, 你好, こんにちは, مرحبا, e\u{301} 👩‍💻\r\n\ttab, \u{1b}[0m, \0.",
        )?
        .at(1_699_999_999)
        .source("golden")
        .session("session-1")
        .importance(0.875)
        .tags(["first", "zwei", "三"])
        .collection("everything")
        .speaker("Ann")
        .role("user")
        .position(300)
        .metadata(
            json!({"null": null, "list": [1, -2.5, "x", true], "nested": {"deep": {"er": "ü"}}})
                .as_object()
                .cloned()
                .unwrap_or_default(),
        ),
    )?;
    store.remember_many(vec![
        remember("golden-2", "The first of a group; its text changes later.")?.at(0),
        remember("golden-3", LONG_TEXT)?.tags(["long"]).position(-1),
        remember("golden-4", "The last of a group; it is forgotten later.")?,
    ])?;
    store.embed_pending(&mut |_| {})?;
    store.update("golden-2", Update::new().text("The text has changed, and so has its vector."))?;
    store.update(
        "golden-3",
        Update::new().importance(1.0).add_tags(["again"]).meta("why", "the text is the same"),
    )?;
    store.forget(["golden-4"])?;
    store.remember(remember("golden-5", "With a vector of the caller's own.")?.vector([3.0, 0.0, -4.0]))?;
    Ok(())
}

fn write_second_segment(store: &Store) -> memento_kv::Result<()> {
    let other: Arc<dyn memento_kv::embed::Embedder> = Arc::new(Counting::new("golden/two", 2));
    store.reembed_with(&other, &mut |_| {})?;
    store.remember(remember("golden-6", "Forgotten for good.")?)?;
    store.forget(["golden-6"])?;
    store.remember(remember("golden-4", "An id that was forgotten is used again.")?.importance(0.0))?;
    Ok(())
}

/// Copies what is truth: the segments and the manifest.
fn copy_log(from: &Path, to: &Path) -> std::io::Result<()> {
    let (from, to) = (from.join("store"), to.join("store"));
    fs::create_dir_all(to.join("seg"))?;
    fs::copy(from.join("MANIFEST"), to.join("MANIFEST"))?;
    for entry in fs::read_dir(from.join("seg"))? {
        let name = entry?.file_name();
        fs::copy(from.join("seg").join(&name), to.join("seg").join(&name))?;
    }
    Ok(())
}
