//! What `memory.db`, backups and restores cost, against SQLite's `VACUUM INTO`: `cargo bench --bench snapshot`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use memento_kv::embed::ModelSpec;
use memento_kv::{MemoryId, Options, PublishKind, RestoreFrom, RestoreOptions, Result, Store, Update};
use support::{Args, Sample};

const HELP: &str = "\
Writes everything that a store remembers into a SQLite file, as export --format sqlite does: read from the log
and the view, with the index of words, synced, read back and compared. Against it, VACUUM INTO of the very same
file with a sync. Then the upkeep of memory.db after some changes, a backup, and a restore of all memories
after all of them were forgotten.

  --memories N  memories with vectors of 384 dimensions (100000)
  --words N     words of a text; 55 make rows of 2 KB with their vectors (55)
  --changes N   changed memories before the upkeep (1000)
  --rounds N    rounds of export and VACUUM INTO, which take turns (3)
  --dir DIR     where the files are made; about 12 KB a memory";

/// Memories of one group.
const GROUP: usize = 2000;

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let memories: usize = args.number("--memories", 100_000, 500);
    let words = args.number("--words", 55, 10);
    let changes: usize = args.number("--changes", 1000, 50);
    let rounds: usize = args.number("--rounds", 3, 1);
    let folder = args.folder();
    let home = folder.path().join("home");
    let options = Options::at(&home).model(ModelSpec::None).publish(false).background_embedding(false);
    let store = Store::open(options)?;
    let mut made = 0;
    while made < memories {
        let group = made..(made + GROUP).min(memories);
        made = group.end;
        store.remember_many(group.map(|n| sample(n, words).remember().id(id(n))).collect())?;
    }

    let (exported, vacuumed) = (folder.path().join("export.db"), folder.path().join("vacuum.db"));
    let (mut exports, mut vacuums) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        exports.push(timed(|| store.export_sqlite(&exported, &mut |_| {}).map(drop))?);
        vacuums.push(timed(|| vacuum(&exported, &vacuumed))?);
    }
    let (export, vacuum) = (median(exports), median(vacuums));
    let bytes = exported.metadata().map_or(0, |metadata| metadata.len());
    println!("{memories} memories, {} MiB as SQLite, median of {rounds}", bytes >> 20);
    println!("  export, read back and compared   {:>9.3} s", export.as_secs_f64());
    println!(
        "  VACUUM INTO of the same, synced  {:>9.3} s   {:.2}x",
        vacuum.as_secs_f64(),
        ratio(export, vacuum)
    );
    std::fs::remove_file(&exported).and_then(|()| std::fs::remove_file(&vacuumed)).expect("remove");

    let whole = timed(|| {
        let published = store.snapshot(&mut |_| {})?;
        assert_eq!(published.kind, PublishKind::Whole);
        Ok(())
    })?;
    for n in 0..changes {
        store.update(id(n * (memories / changes)), Update::new().meta("changed", n as u64))?;
    }
    let upkeep = timed(|| {
        let published = store.snapshot(&mut |_| {})?;
        assert_eq!(published.kind, PublishKind::Changes);
        Ok(())
    })?;
    println!("  memory.db, whole                 {:>9.3} s", whole.as_secs_f64());
    println!(
        "  upkeep after {changes:>5} changes       {:>9.3} s   1/{:.0}",
        upkeep.as_secs_f64(),
        ratio(whole, upkeep)
    );

    let mut backup = None;
    let backup_took = timed(|| {
        backup = Some(store.backup()?);
        Ok(())
    })?;
    let backup = backup.expect("it was made");
    println!("  backup, verified, with SHA-256   {:>9.3} s", backup_took.as_secs_f64());
    for group in 0..memories.div_ceil(GROUP) {
        store.forget((group * GROUP..((group + 1) * GROUP).min(memories)).map(id))?;
    }
    let mut restored = 0;
    let restore = timed(|| {
        let exact = RestoreOptions { exact: true, dry_run: false };
        restored = store.restore(&RestoreFrom::File(backup.clone()), exact)?.changed.added;
        Ok(())
    })?;
    assert_eq!(restored, memories as u64);
    println!("  restore of all, one group        {:>9.3} s", restore.as_secs_f64());
    let undo = timed(|| store.restore(&RestoreFrom::Undo, RestoreOptions::default()).map(drop))?;
    println!("  undo of it                       {:>9.3} s", undo.as_secs_f64());
    Ok(())
}

fn id(n: usize) -> MemoryId {
    MemoryId::new(format!("{n:016x}")).expect("an id")
}

fn sample(n: usize, words: usize) -> Sample {
    Sample::new(n as u64, words)
}

/// SQLite's own way to write a database anew.
fn vacuum(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_file(to).expect("remove");
    }
    let connection = rusqlite::Connection::open(from).expect("open");
    connection.execute("VACUUM INTO ?1", [to.to_str().expect("a plain path")]).expect("it is written");
    File::open(to).and_then(|file| file.sync_all()).expect("sync");
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}
