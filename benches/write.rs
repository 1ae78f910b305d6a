//! What a durable `remember` costs, against SQLite: `cargo bench --bench write`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use memento_kv::{Duplicates, Options, Result, Store};
use rusqlite::Connection;
use support::{Args, Sample, Times, WORDS, median, sqlite};

const HELP: &str = "\
Durable remember with given vectors (384 dimensions, records of 2 KB) against SQLite in WAL mode with
synchronous=FULL and the same content, in interleaved rounds. Prints the median of the rounds.

  --seconds S   length of a round (1)
  --rounds N    rounds of each contestant (5)
  --threads LIST   numbers of writing threads (1,8)
  --merge-preload N   memories that the store with duplicate search begins with (0)
  --syncs N     only stores N memories with 8 threads, for `strace -f -c -e trace=fdatasync,fsync,pwrite64`
  --dir DIR     where the databases are made; it must be on the disk that is meant";

/// Memories that are made before the clock runs.
const SAMPLES: usize = 1024;
const SYNC_THREADS: usize = 8;

/// What takes a memory and returns when it is durable.
trait Contestant: Sync {
    /// Does what `work` asks for in a thread of its own.
    fn write_until(&self, numbers: &AtomicU64, samples: &[(Sample, Vec<u8>)], end: End) -> Times;
}

/// When a thread stops.
#[derive(Clone, Copy)]
enum End {
    At(Instant),
    AfterNumber(u64),
}

impl End {
    fn is_reached(self, number: u64) -> bool {
        match self {
            Self::At(time) => Instant::now() >= time,
            Self::AfterNumber(last) => number >= last,
        }
    }
}

struct Memento {
    store: Store,
    duplicates: Duplicates,
}

/// One connection for all threads.
struct SharedSqlite(Mutex<Connection>);

/// A connection for each thread, opened before the clock runs.
struct SqlitePool(Mutex<Vec<Connection>>);

impl Contestant for Memento {
    fn write_until(&self, numbers: &AtomicU64, samples: &[(Sample, Vec<u8>)], end: End) -> Times {
        write(numbers, samples, end, |number, sample, _| {
            let mut sample = sample.clone();
            vary(&mut sample, number);
            let remember = sample.remember().on_duplicate(self.duplicates);
            self.store.remember(remember).expect("remember");
        })
    }
}

impl Contestant for SharedSqlite {
    fn write_until(&self, numbers: &AtomicU64, samples: &[(Sample, Vec<u8>)], end: End) -> Times {
        write(numbers, samples, end, |number, sample, blob| {
            let mut sample = sample.clone();
            vary(&mut sample, number);
            let connection = self.0.lock().expect("no thread panics");
            sqlite::insert(&connection, &id(number), &sample, blob);
        })
    }
}

impl Contestant for SqlitePool {
    fn write_until(&self, numbers: &AtomicU64, samples: &[(Sample, Vec<u8>)], end: End) -> Times {
        let connection = self.0.lock().expect("no thread panics").pop().expect("one for each thread");
        let times = write(numbers, samples, end, |number, sample, blob| {
            let mut sample = sample.clone();
            vary(&mut sample, number);
            sqlite::insert(&connection, &id(number), &sample, blob);
        });
        self.0.lock().expect("no thread panics").push(connection);
        times
    }
}

/// The figures of one contestant, one of each round.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    times: Times,
}

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let samples: Vec<_> = (0..SAMPLES as u64)
        .map(|number| {
            let sample = Sample::new(number, WORDS);
            let blob = sample.blob();
            (sample, blob)
        })
        .collect();
    if args.text("--syncs").is_some() {
        return syncs(args.number("--syncs", 0, 0), &args, &samples);
    }
    let seconds = Duration::from_secs_f64(args.number("--seconds", 1.0, 0.02));
    let rounds = args.number("--rounds", 5, 1);
    let preload = args.number("--merge-preload", 0, 0);
    println!("{rounds} rounds of {seconds:?}; ratio: against the faster SQLite\n");
    println!(
        "{:>7}  {:<34} {:>10} {:>7} {:>9} {:>9} {:>9}",
        "threads", "", "memories/s", "ratio", "p50 us", "p99 us", "memories"
    );
    let threads = args.text("--threads").unwrap_or("1,8");
    for threads in threads.split(',').map(|count| count.parse().expect("a number of threads")) {
        compare(threads, rounds, seconds, preload, &args, &samples)?;
    }
    Ok(())
}

fn compare(
    threads: usize,
    rounds: usize,
    seconds: Duration,
    preload: u64,
    args: &Args,
    samples: &[(Sample, Vec<u8>)],
) -> Result<()> {
    const NAMES: [&str; 4] = [
        "memento-kv, Duplicates::Keep",
        "memento-kv, Duplicates::Merge",
        "SQLite, one shared connection",
        "SQLite, a connection per thread",
    ];
    let folder = args.folder();
    let path = |name: &str| folder.path().join(name);
    let merging = open(&path("merge"))?;
    load(&merging, preload)?;
    let contestants: [Box<dyn Contestant>; 4] = [
        Box::new(Memento { store: open(&path("keep"))?, duplicates: Duplicates::Keep }),
        Box::new(Memento { store: merging, duplicates: Duplicates::Merge }),
        Box::new(SharedSqlite(Mutex::new(sqlite::open(&path("shared.db"))))),
        Box::new(SqlitePool(Mutex::new((0..threads).map(|_| sqlite::open(&path("pool.db"))).collect()))),
    ];
    let numbers: [AtomicU64; 4] = Default::default();
    numbers[1].store(preload, Ordering::Relaxed);
    // Files have their size and caches are warm before anything counts.
    for (contestant, numbers) in contestants.iter().zip(&numbers) {
        round(&**contestant, threads, numbers, samples, seconds / 2);
    }
    let mut figures: [Figures; 4] = Default::default();
    for number in 0..rounds {
        // Each round begins with another one, so that nobody always writes after the same neighbour.
        for place in 0..contestants.len() {
            let which = (place + number) % contestants.len();
            let start = Instant::now();
            let times = round(&*contestants[which], threads, &numbers[which], samples, seconds);
            figures[which].per_second.push(times.len() as f64 / start.elapsed().as_secs_f64());
            figures[which].times.append(times);
        }
    }
    let per_second = figures.each_ref().map(|figures| median(figures.per_second.clone()));
    let best_sqlite = per_second[2].max(per_second[3]);
    for (which, figures) in figures.iter_mut().enumerate() {
        println!(
            "{threads:>7}  {:<34} {:>10.0} {:>6.2}x {:>9.1} {:>9.1} {:>9}",
            NAMES[which],
            per_second[which],
            per_second[which] / best_sqlite,
            figures.times.median(),
            figures.times.percentile(0.99),
            numbers[which].load(Ordering::Relaxed),
        );
    }
    Ok(())
}

/// All threads write for this long.
fn round(
    contestant: &dyn Contestant,
    threads: usize,
    numbers: &AtomicU64,
    samples: &[(Sample, Vec<u8>)],
    length: Duration,
) -> Times {
    let start = Barrier::new(threads);
    let mut times = Times::default();
    std::thread::scope(|scope| {
        let work = || {
            start.wait();
            contestant.write_until(numbers, samples, End::At(Instant::now() + length))
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            times.append(thread.join().expect("no thread panics"));
        }
    });
    times
}

/// Stores memories one after the other and takes the time of each.
fn write(
    numbers: &AtomicU64,
    samples: &[(Sample, Vec<u8>)],
    end: End,
    mut store: impl FnMut(u64, &Sample, &[u8]),
) -> Times {
    let mut times = Times::default();
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if end.is_reached(number) {
            return times;
        }
        let (sample, blob) = &samples[number as usize % samples.len()];
        times.measure(|| store(number, sample, blob));
    }
}

/// Another text and another time than all others.
fn vary(sample: &mut Sample, number: u64) {
    use std::fmt::Write;
    write!(sample.text, ", {number}").expect("a string takes it");
    sample.timestamp += number as i64;
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}

fn open(home: &Path) -> Result<Store> {
    Store::open(Options::at(home))
}

fn load(store: &Store, count: u64) -> Result<()> {
    for first in (0..count).step_by(500) {
        let group = (first..count.min(first + 500)).map(|number| {
            // Their texts are others than those that are to come.
            let sample = Sample::new(number + (1 << 40), WORDS);
            sample.remember()
        });
        store.remember_many(group.collect())?;
    }
    Ok(())
}

/// Stores so many memories and nothing else.
fn syncs(count: u64, args: &Args, samples: &[(Sample, Vec<u8>)]) -> Result<()> {
    let folder = args.folder();
    let memento = Memento { store: open(&folder.path().join("keep"))?, duplicates: Duplicates::Keep };
    let numbers = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SYNC_THREADS {
            scope.spawn(|| memento.write_until(&numbers, samples, End::AfterNumber(count)));
        }
    });
    println!("{count} memories stored by {SYNC_THREADS} threads");
    memento.store.close()
}
