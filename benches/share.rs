//! What sharing a store between processes costs: `cargo bench --bench share`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memento_kv::{Duplicates, Filter, MemoryId, Options, Recall, Result, Store};
use support::{Args, Random, Sample, Times, WORDS, median, sqlite};

const HELP: &str = "\
Calls of a client, through the socket of the process that owns the store, against the same calls within it,
in turns; writes of many processes against as many that write one SQLite database (WAL, synchronous=FULL);
and the program beside a running owner, from its start to its answer.

  --memories N   memories of the store that is asked (10000)
  --rounds N     rounds (5)
  --calls N      calls of each kind in a round (2000)
  --processes N  processes that write (8)
  --seconds S    how long they write in a round (2)
  --syncs N      only writes N memories by all processes, for `strace -f -c -e trace=fdatasync,fsync`
  --program FILE the program that is started (the release build's memento-kv, if it is there)
  --dir DIR      where the stores are made; it must be on the disk that is meant";

/// What a process of this program is told to be.
const ROLE: &str = "SHARE_BENCH_ROLE";
/// Memories that each process makes before the clock runs.
const SAMPLES: u64 = 1024;

fn main() -> Result<()> {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let args = Args::parse(HELP);
    let processes = args.number("--processes", 8, 2);
    if args.text("--syncs").is_some() {
        let folder = args.folder();
        let home = folder.path().join("home");
        let count = args.number("--syncs", 0, 0);
        let written = contest("memento", &home, processes, End::Count(count / processes as u64));
        println!("{written} memories stored by {processes} processes");
        return Ok(());
    }
    let rounds = args.number("--rounds", 5, 1);
    calls(&args, rounds)?;
    writers(&args, rounds, processes);
    Ok(())
}

/// Calls over the socket against calls within the process.
fn calls(args: &Args, rounds: usize) -> Result<()> {
    let (memories, calls) = (args.number("--memories", 10_000, 200), args.number("--calls", 2000, 20));
    let folder = args.folder();
    let home = folder.path().join("home");
    let store = Store::open(Options::at(&home))?;
    let mut ids: Vec<MemoryId> = Vec::new();
    for first in (0..memories).step_by(500) {
        let group = (first..memories.min(first + 500)).map(|number| Sample::new(number, WORDS).remember());
        ids.extend(store.remember_many(group.collect())?.into_iter().map(|saved| saved.id));
    }
    store.build_index(false, &mut |_| {})?;
    store.close()?;
    // The owner is another process, so that the answer really changes hands.
    let mut owner = Owner::start(&home);
    let client = Store::open(Options::at(&home))?;
    client.recall(Recall::by_vector(Random::new(1).vector()))?;
    let mut random = Random::new(7);
    let mut there = Figures::default();
    let mut here = Figures::default();
    for _ in 0..rounds {
        there.take(&client, &ids, calls, &mut random);
        let program = program(args);
        if let Some(program) = &program {
            there.start(program, &home);
        }
        // In turns: the same calls by the owner itself, which tells its times.
        let told = owner.ask(calls);
        here.add(told);
    }
    println!("{memories} memories, {rounds} rounds of {calls} calls; medians in us\n");
    println!("{:<28} {:>12} {:>12} {:>12}", "", "in process", "by socket", "more");
    for (name, here, there) in [
        ("get by id", median(here.get), median(there.get)),
        ("recall by vector", median(here.recall), median(there.recall)),
        ("recall with a filter", median(here.filtered), median(there.filtered)),
    ] {
        println!("{name:<28} {here:>12.1} {there:>12.1} {:>12.1}", there - here);
    }
    if !there.program.is_empty() {
        println!("\nprogram beside the owner, start to answer (recall): {:.1} ms", median(there.program));
    }
    owner.stop();
    Ok(())
}

/// The medians of each round.
#[derive(Default)]
struct Figures {
    get: Vec<f64>,
    recall: Vec<f64>,
    filtered: Vec<f64>,
    program: Vec<f64>,
}

impl Figures {
    fn take(&mut self, store: &Store, ids: &[MemoryId], calls: usize, random: &mut Random) {
        let figures = measured(store, ids, calls, random);
        self.add(figures);
    }

    fn add(&mut self, [get, recall, filtered]: [f64; 3]) {
        self.get.push(get);
        self.recall.push(recall);
        self.filtered.push(filtered);
    }

    fn start(&mut self, program: &Path, home: &Path) {
        let started = Instant::now();
        let ran = Command::new(program)
            .env("MEMENTO_HOME", home)
            .args(["recall", "what did we decide about the server", "--json"])
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        self.program.push(started.elapsed().as_secs_f64() * 1e3);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
}

fn measured(store: &Store, ids: &[MemoryId], calls: usize, random: &mut Random) -> [f64; 3] {
    let (mut get, mut recall, mut filtered) = (Times::default(), Times::default(), Times::default());
    for _ in 0..calls {
        let id = &ids[random.below(ids.len())];
        get.measure(|| store.get(id).expect("read").expect("there"));
        let vector = random.vector();
        recall.measure(|| store.recall(Recall::by_vector(vector)).expect("found"));
        let filter = Filter { tags_any: vec!["rust".to_owned()], ..Filter::default() };
        let vector = random.vector();
        filtered.measure(|| store.recall(Recall::by_vector(vector).filter(filter)).expect("found"));
    }
    [get.median(), recall.median(), filtered.median()]
}

/// A process that owns the store and measures itself when it is asked.
struct Owner {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Owner {
    fn start(home: &Path) -> Self {
        let mut process = child("owner", home).spawn().expect("it starts");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("it opened the store");
        Self { process, lines }
    }

    fn ask(&mut self, calls: usize) -> [f64; 3] {
        writeln!(self.process.stdin.as_mut().expect("a pipe"), "{calls}").expect("asked");
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("answered");
        let mut figures = line.split_whitespace().map(|figure| figure.parse().expect("a figure"));
        std::array::from_fn(|_| figures.next().expect("three figures"))
    }

    fn stop(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("it ends").success());
    }
}

/// Writes of many processes.
fn writers(args: &Args, rounds: usize, processes: usize) {
    let seconds = Duration::from_secs_f64(args.number("--seconds", 2.0, 0.2));
    let folder = args.folder();
    // Kept open: of processes that make a database, or find it as the last one left it, at the same moment, SQLite lets
    // some fail instead of waiting.
    let sqlite_home = folder.path().join("sqlite");
    std::fs::create_dir_all(&sqlite_home).expect("a folder");
    let _kept = sqlite::open(&sqlite_home.join("memory.db"));
    let mut rates: [Vec<f64>; 2] = Default::default();
    for round in 0..rounds {
        for place in 0..2 {
            let which = (place + round) % 2;
            let name = ["memento", "sqlite"][which];
            let written = contest(name, &folder.path().join(name), processes, End::After(seconds));
            rates[which].push(written as f64 / seconds.as_secs_f64());
        }
    }
    let [memento, sqlite] = rates.map(median);
    println!("\n{processes} processes, {rounds} rounds of {seconds:?}; memories a second, all together");
    println!("{:<28} {memento:>12.0}", "memento-kv");
    println!("{:<28} {sqlite:>12.0}   memento-kv is {:.1}x", "SQLite", memento / sqlite);
}

/// When writers end.
#[derive(Clone, Copy)]
enum End {
    After(Duration),
    Count(u64),
}

/// Lets processes write, all beginning at the same moment; how many memories they stored.
fn contest(role: &str, home: &Path, processes: usize, end: End) -> u64 {
    let mut writers: Vec<Child> =
        (0..processes).map(|_| child(role, home).spawn().expect("it starts")).collect();
    let mut outs: Vec<_> =
        writers.iter_mut().map(|writer| BufReader::new(writer.stdout.take().expect("a pipe"))).collect();
    let mut line = String::new();
    for out in &mut outs {
        out.read_line(&mut line).expect("it is ready");
    }
    let (kind, amount) = match end {
        End::After(length) => ("ms", length.as_millis() as u64),
        End::Count(count) => ("count", count),
    };
    for writer in &mut writers {
        writeln!(writer.stdin.as_mut().expect("a pipe"), "{kind} {amount}").expect("told");
    }
    let mut written = 0;
    for (out, mut writer) in outs.into_iter().zip(writers) {
        let line = out.lines().next().expect("a line").expect("a line");
        written += line.parse::<u64>().expect("a count");
        drop(writer.stdin.take());
        assert!(writer.wait().expect("it ends").success());
    }
    written
}

/// This program once more, in a role.
fn child(role: &str, home: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role).env("SHARE_BENCH_HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn play(role: &str) -> Result<()> {
    let home = std::path::PathBuf::from(std::env::var_os("SHARE_BENCH_HOME").expect("the parent gives it"));
    let mut lines = std::io::stdin().lines();
    match role {
        "owner" => {
            let store = Store::open(Options::at(&home))?;
            let all = store.list(&memento_kv::List::new().limit(usize::MAX))?;
            let ids: Vec<_> = all.into_iter().map(|memory| memory.id).collect();
            let mut random = Random::new(11);
            store.recall(Recall::by_vector(random.vector()))?;
            println!("ready");
            while let Some(Ok(line)) = lines.next() {
                let calls = line.parse().expect("a number");
                let [get, recall, filtered] = measured(&store, &ids, calls, &mut random);
                println!("{get} {recall} {filtered}");
            }
            store.close()
        }
        "memento" => {
            let store = Store::open(Options::at(&home).publish(false))?;
            store.get("nothing")?;
            write(&mut lines, |sample, _| {
                store.remember(sample.remember().on_duplicate(Duplicates::Keep)).expect("stored");
            });
            // Together: whoever ends first would hand over to the others.
            let _ = lines.next();
            store.close()
        }
        _ => {
            let connection = sqlite::open(&home.join("memory.db"));
            write(&mut lines, |sample, id| {
                let blob = sample.blob();
                sqlite::insert(&connection, id, &sample, &blob);
            });
            Ok(())
        }
    }
}

/// Stores memories until it is time, and tells how many.
fn write(lines: &mut dyn Iterator<Item = std::io::Result<String>>, mut store: impl FnMut(Sample, &str)) {
    let samples: Vec<_> = (0..SAMPLES).map(|number| Sample::new(number, WORDS)).collect();
    let mut random = Random::new(u64::from(std::process::id()));
    let mut at = random.next() >> 2;
    println!("ready");
    let line = lines.next().expect("a line").expect("a line");
    let (kind, amount) = line.split_once(' ').expect("two words");
    let amount: u64 = amount.parse().expect("a number");
    let started = Instant::now();
    let mut written = 0;
    while if kind == "ms" { started.elapsed() < Duration::from_millis(amount) } else { written < amount } {
        let mut sample = samples[(written % SAMPLES) as usize].clone();
        sample.text = format!("{} of {at:x}", sample.text);
        store(sample, &format!("{at:016x}"));
        at += 1;
        written += 1;
    }
    println!("{written}");
}

/// The program, if it was built.
fn program(args: &Args) -> Option<std::path::PathBuf> {
    let given = args.text("--program").map(std::path::PathBuf::from);
    let built = || {
        let release = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("release/memento-kv");
        release.is_file().then_some(release)
    };
    given.or_else(built)
}
