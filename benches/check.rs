//! Recovery from segments alone, a check of every byte, and what flipped bits are found, against SQLite's
//! `PRAGMA integrity_check`: `cargo bench --bench check`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use memento_kv::check::{CheckStatus, check_files};
use memento_kv::{Result, Store};
use support::{Args, Random, fill, median, plain, sqlite};

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
    sqlite::fill(&database, memories);
    let (mut deep, mut integrity) = (Took::default(), Took::default());
    for _ in 0..rounds {
        let store = Store::open(plain(&home))?;
        let report = deep.measure(|| store.check(&mut |_| {}))?;
        assert_eq!(report.status, CheckStatus::Ok);
        store.close()?;
        assert!(integrity.measure(|| sqlite::is_ok(&database)));
    }
    let (deep, deep_busy, integrity, integrity_busy) =
        (median(deep.wall), median(deep.busy), median(integrity.wall), median(integrity.busy));
    println!(
        "check of every byte of {memories} memories: {deep:.2} s, SQLite's integrity_check {integrity:.2} s: {:.2} of it; \
         processor time {deep_busy:.2} s and {integrity_busy:.2} s: {:.2} of it",
        deep / integrity,
        deep_busy / integrity_busy
    );

    let flips = args.number("--flips", 200, 10);
    let memories = args.number("--flip-memories", 2000, 200);
    let (home, database) = (folder.path().join("flipped"), folder.path().join("flipped.db"));
    fill(&home, memories)?;
    sqlite::fill(&database, memories);
    let ours = flipped_in_store(&home, flips)?;
    let whole = content_of_sqlite(&database);
    let theirs = flipped(
        std::slice::from_ref(&database),
        flips,
        || !sqlite::is_ok(&database),
        || content_of_sqlite(&database) == whole,
    );
    println!("{flips} single flipped bits: {ours}; SQLite's integrity_check: {theirs}");
    Ok(())
}

/// Times of a few runs, in seconds.
#[derive(Default)]
struct Took {
    wall: Vec<f64>,
    /// Of all threads together: on a machine that has other things to do it says more than the clock.
    busy: Vec<f64>,
}

impl Took {
    fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, busy) = (Instant::now(), processor_seconds());
        let result = work();
        self.wall.push(start.elapsed().as_secs_f64());
        self.busy.push(processor_seconds() - busy);
        result
    }
}

fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn rate_of_recovery(home: &Path) -> Result<f64> {
    std::fs::remove_file(home.join("store/view.redb")).expect("it was there");
    let start = Instant::now();
    let store = Store::open(plain(home))?;
    let seconds = start.elapsed().as_secs_f64();
    let records = store.stats()?.last_seq;
    store.close()?;
    Ok(records as f64 / seconds)
}

/// What became of flipped bits.
#[derive(Default)]
struct Flips {
    found: u64,
    /// Not found, and every memory is as it was: the bit stood where nothing is read any more.
    harmless: u64,
    /// Not found, and what is read is something else.
    wrong: u64,
}

impl std::fmt::Display for Flips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { found, harmless, wrong } = self;
        write!(f, "{found} found, {harmless} missed and harmless, {wrong} missed with wrong content")
    }
}

/// Flips one bit at a time in any of the files that hold memories.
fn flipped(
    files: &[PathBuf],
    flips: u64,
    mut is_found: impl FnMut() -> bool,
    mut is_harmless: impl FnMut() -> bool,
) -> Flips {
    let whole: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("read")).collect();
    let total: usize = whole.iter().map(Vec::len).sum();
    let mut random = Random::new(7);
    let mut came = Flips::default();
    for _ in 0..flips {
        let mut at = random.below(total);
        let file = whole.iter().position(|bytes| {
            let is_in = at < bytes.len();
            at -= if is_in { 0 } else { bytes.len() };
            is_in
        });
        let file = file.expect("within one of them");
        let mut bytes = whole[file].clone();
        bytes[at] ^= 1 << random.below(8);
        overwrite(&files[file], &bytes);
        if is_found() {
            came.found += 1;
        } else if is_harmless() {
            came.harmless += 1;
        } else {
            came.wrong += 1;
        }
        overwrite(&files[file], &whole[file]);
    }
    came
}

fn flipped_in_store(home: &Path, flips: u64) -> Result<Flips> {
    let folder = home.join("store/seg").read_dir().expect("list");
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    files.push(home.join("store/view.redb"));
    let content = || -> Result<Vec<memento_kv::Memory>> {
        let store = Store::open(plain(home).read_only(true))?;
        store.list(&memento_kv::List::new().limit(1_000_000))
    };
    let whole = content()?;
    Ok(flipped(
        &files,
        flips,
        || check_files(home, &mut |_| {}).is_ok_and(|report| report.status == CheckStatus::Damaged),
        || content().is_ok_and(|now| now == whole),
    ))
}

/// Every row as text; `None` when it cannot be read.
fn content_of_sqlite(path: &Path) -> Option<Vec<String>> {
    let connection = rusqlite::Connection::open(path).ok()?;
    let mut statement = connection.prepare("SELECT * FROM memories ORDER BY id").ok()?;
    let columns = statement.column_count();
    let rows = statement
        .query_map([], |row| {
            let cells = (0..columns).map(|at| row.get_ref(at).map(|cell| format!("{cell:?}")));
            cells.collect::<Result<Vec<_>, _>>().map(|cells| cells.join("|"))
        })
        .ok()?;
    rows.collect::<Result<Vec<_>, _>>().ok()
}

/// Also over a sealed segment, which has no write permission.
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("remove");
    std::fs::write(path, bytes).expect("write");
}
