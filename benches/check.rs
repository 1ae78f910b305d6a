//! Recovery from segments alone, a check of every byte, and what flipped bits are found, against SQLite's
//! `PRAGMA integrity_check`: `cargo bench --bench check`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use memento_kv::check::{CheckStatus, check_files};
use memento_kv::embed::ModelSpec;
use memento_kv::{MemoryId, Options, Result, Store};
use support::{Args, Random, Sample, WORDS, median, sqlite};

const HELP: &str = "\
The same memories in a store and in SQLite's table of the original. In turns: the store checks every byte, SQLite
runs its integrity check, each a few times; then the view is removed and the store opens from its segments alone. Then
single bits are flipped in both, one at a time, and both are asked again.

  --memories N  memories with vectors of 384 dimensions (1000000)
  --recover N   memories of the recovery from segments alone (100000)
  --flips N     flipped bits, in a store of --flip-memories (200)
  --flip-memories N  memories there (2000)
  --rounds N    checks of each (3)
  --dir DIR     where the files are made; about 6 KB a memory";

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let folder = args.folder();
    let rounds = args.number("--rounds", 3, 1);

    let recover = args.number("--recover", 100_000, 500);
    let home = folder.path().join("recover");
    fill(&home, recover)?;
    let rates = (0..rounds).map(|_| rate_of_recovery(&home)).collect::<Result<Vec<_>>>()?;
    println!("recovery of {recover} memories from segments alone: {:.0} records/s", median(rates));
    std::fs::remove_dir_all(&home).expect("remove");

    let memories = args.number("--memories", 1_000_000, 500);
    let (home, database) = (folder.path().join("home"), folder.path().join("memory.db"));
    fill(&home, memories)?;
    fill_sqlite(&database, memories);
    let (mut deep, mut integrity) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let store = Store::open(options(&home))?;
        let start = Instant::now();
        let report = store.check(&mut |_| {})?;
        deep.push(start.elapsed().as_secs_f64());
        assert_eq!(report.status, CheckStatus::Ok);
        store.close()?;
        let start = Instant::now();
        assert!(sqlite_is_ok(&database));
        integrity.push(start.elapsed().as_secs_f64());
    }
    let (deep, integrity) = (median(deep), median(integrity));
    println!(
        "check of every byte of {memories} memories: {deep:.2} s, SQLite's integrity_check {integrity:.2} s: {:.2} of it",
        deep / integrity
    );

    let flips = args.number("--flips", 200, 10);
    let memories = args.number("--flip-memories", 2000, 200);
    let (home, database) = (folder.path().join("flipped"), folder.path().join("flipped.db"));
    fill(&home, memories)?;
    fill_sqlite(&database, memories);
    let ours = flipped_in_store(&home, flips)?;
    let theirs = flipped(std::slice::from_ref(&database), flips, |_| !sqlite_is_ok(&database));
    println!(
        "single flipped bits that are found: {ours} of {flips}, SQLite's integrity_check {theirs} of {flips}"
    );
    Ok(())
}

fn options(home: &Path) -> Options {
    Options::at(home).model(ModelSpec::None).background_embedding(false).query_cache(false)
}

fn fill(home: &Path, memories: u64) -> Result<()> {
    let store = Store::open(options(home))?;
    let numbers: Vec<u64> = (0..memories).collect();
    for group in numbers.chunks(500) {
        let all = group.iter().map(|number| {
            Ok(Sample::new(*number, WORDS).remember().id(MemoryId::new(format!("m{number}"))?))
        });
        store.remember_many(all.collect::<Result<_>>()?)?;
    }
    store.close()
}

fn fill_sqlite(path: &Path, memories: u64) {
    let connection = sqlite::open(path);
    connection.execute_batch("BEGIN").expect("begin");
    for number in 0..memories {
        let sample = Sample::new(number, WORDS);
        sqlite::insert(&connection, &format!("m{number}"), &sample, &sample.blob());
    }
    // As the original's file is when nobody has it open.
    connection
        .execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE")
        .expect("commit");
}

fn sqlite_is_ok(path: &Path) -> bool {
    let asked = rusqlite::Connection::open(path).and_then(|connection| {
        connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
    });
    asked.is_ok_and(|answer| answer == "ok")
}

fn rate_of_recovery(home: &Path) -> Result<f64> {
    std::fs::remove_file(home.join("store/view.redb")).expect("it was there");
    let start = Instant::now();
    let store = Store::open(options(home))?;
    let seconds = start.elapsed().as_secs_f64();
    let records = store.stats()?.last_seq;
    store.close()?;
    Ok(records as f64 / seconds)
}

/// Flips one bit at a time in any of the files that hold memories, and says how often `is_found` said so.
fn flipped(files: &[PathBuf], flips: u64, mut is_found: impl FnMut(u64) -> bool) -> u64 {
    let whole: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("read")).collect();
    let total: usize = whole.iter().map(Vec::len).sum();
    let mut random = Random::new(7);
    let mut found = 0;
    let mut flip = 0;
    while flip < flips {
        let mut at = random.below(total);
        let file = whole.iter().position(|bytes| {
            let is_in = at < bytes.len();
            at -= if is_in { 0 } else { bytes.len() };
            is_in
        });
        let file = file.expect("within one of them");
        // What nobody uses is no damage.
        if whole[file][at & !4095..].iter().take(4096).all(|byte| *byte == 0) {
            continue;
        }
        let mut bytes = whole[file].clone();
        bytes[at] ^= 1 << random.below(8);
        overwrite(&files[file], &bytes);
        found += u64::from(is_found(flip));
        overwrite(&files[file], &whole[file]);
        flip += 1;
    }
    found
}

fn flipped_in_store(home: &Path, flips: u64) -> Result<u64> {
    let folder = home.join("store/seg").read_dir().expect("list");
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    files.push(home.join("store/view.redb"));
    Ok(flipped(&files, flips, |_| {
        check_files(home, &mut |_| {}).is_ok_and(|report| report.status == CheckStatus::Damaged)
    }))
}

/// Also over a sealed segment, which has no write permission.
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("remove");
    std::fs::write(path, bytes).expect("write");
}
