//! What a recall costs, cold, warm and cached: `cargo bench --bench cache`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memento_kv::embed;
use memento_kv::parts::QueryVectors;
use memento_kv::{Options, Recall, Result, Store};
use rustix::fs::{Advice, fadvise};
use support::{Args, Random, Sample, Times};

const HELP: &str = "\
The cost of a recall in absolute times, queries of 13 tokens, with the built-in model:
  A  a fresh process and a new query: from the start of the process to its answer
  B  a warm process and a new query
  C  the same query again in the same process
  D  a fresh process and a query that an earlier process asked (persistent cache of query vectors)
Each for every size of store; `embed` lines are the model or the query cache alone. Cold means that neither the
program nor the store was in the page cache (the system's own libraries were).

  --sizes LIST  memories in a store (1000,10000,100000)
  --runs N      fresh processes for each line, and new queries of a warm one (30)
  --cold N      fresh processes with a cold page cache (10)
  --program P   also the built program, such as target/release/memento-kv, from its start to its end
  --dir DIR     where the stores are made";

/// Words of a memory.
const WORDS: usize = 20;
/// Repetitions of one query.
const REPEATS: usize = 1000;

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    if let Some(home) = args.text("--child-recall") {
        return child_recall(Path::new(home), args.text("--query").expect("the parent gives one"));
    }
    if let Some(query) = args.text("--child-embed") {
        return child_embed(query);
    }
    let runs = args.number("--runs", 30, 2);
    let cold_runs = args.number("--cold", 10, 1);
    let folder = args.folder();
    // A copy of its own, whose pages this process does not keep in the cache.
    let program = folder.path().join("program");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    let command_line = args.text("--program").map(PathBuf::from);
    let mut bench = Bench { program, command_line, queries: Random::new(7) };

    println!("{:<52} {:>6} {:>11} {:>11} {:>11}", "", "runs", "p50", "p99", "least");
    let embeds = bench.embeds(folder.path(), runs)?;
    let sizes = args.text("--sizes").unwrap_or(if args.quick { "100" } else { "1000,10000,100000" });
    for size in sizes.split(',').map(|size| size.parse().expect("a number of memories")) {
        let home = folder.path().join(format!("home-{size}"));
        load(&home, size)?;
        println!("\n{size} memories");
        bench.recalls(&home, runs, cold_runs)?;
    }
    let (first, again) = embeds;
    println!(
        "\nBy the original's definition, first embedding of a process / the same one again: {:.0}x.\n\
         A faster start makes this ratio smaller; the times above say more.",
        first / again
    );
    Ok(())
}

struct Bench {
    /// This program, to be started as a child.
    program: PathBuf,
    /// The program that users have.
    command_line: Option<PathBuf>,
    queries: Random,
}

/// What a child says: the time of its first and its second step, and the whole as the parent saw it.
struct Child {
    steps: [Duration; 2],
    whole: Duration,
}

impl Bench {
    /// The embedding alone. Returns the first one of a process and a repeated one, in microseconds.
    fn embeds(&mut self, folder: &Path, runs: usize) -> Result<(f64, f64)> {
        let mut first = Times::default();
        for _ in 0..runs {
            let question = self.queries.question();
            let child = self.child(&["--child-embed".as_ref(), question.as_ref()]);
            first.push(child.steps[0]);
        }
        line("A  embed: load the model and embed, fresh process", &mut first);

        let embedder = embed::builtin()?;
        let vectors = QueryVectors::open(None)?;
        let mut new = Times::default();
        let mut again = Times::default();
        for _ in 0..runs * 10 {
            let query = self.queries.question();
            new.measure(|| embedder.embed_query(&query))?;
            vectors.get(&query)?;
        }
        line("B  embed: new query", &mut new);
        let query = self.queries.question();
        vectors.get(&query)?;
        for _ in 0..REPEATS {
            again.measure(|| vectors.get(&query))?;
        }
        line("C  embed: same query, from memory", &mut again);

        let path = folder.join("query.cache");
        QueryVectors::open(Some(&path))?.get(&query)?;
        let mut on_disk = Times::default();
        for _ in 0..runs {
            on_disk.measure(|| QueryVectors::open(Some(&path))?.get(&query))?;
        }
        line("D  embed: another cache opens the file and reads it", &mut on_disk);
        Ok((first.median(), again.median()))
    }

    /// Whole recalls of one store.
    fn recalls(&mut self, home: &Path, runs: usize, cold_runs: usize) -> Result<()> {
        let mut warm = Fresh::default();
        let mut cold = Fresh::default();
        let mut cached = Fresh::default();
        let known = self.queries.question();
        self.recall_in_child(home, &known);
        for _ in 0..runs {
            let query = self.queries.question();
            warm.push(&self.recall_in_child(home, &query));
            cached.push(&self.recall_in_child(home, &known));
        }
        for _ in 0..cold_runs {
            let query = self.queries.question();
            drop_from_page_cache(&self.program);
            drop_from_page_cache(home);
            cold.push(&self.recall_in_child(home, &query));
        }
        warm.print("A  fresh process, new query");
        if let Some(program) = self.command_line.clone() {
            let mut times = Times::default();
            for _ in 0..runs {
                let query = self.queries.question();
                times.measure(|| run(&program, home, &query));
            }
            line("A  `memento-kv recall`, new query", &mut times);
        }
        cold.print("A  fresh process, new query, cold page cache");

        let store = Store::open(Options::at(home))?;
        store.recall(Recall::new(self.queries.question()).timeout(None))?;
        let (mut new, mut again) = (Times::default(), Times::default());
        for _ in 0..runs * 10 {
            let query = self.queries.question();
            let answer = new.measure(|| store.recall(Recall::new(query).timeout(None)))?;
            assert!(!answer.results.is_empty() && answer.degraded.is_empty());
        }
        line("B  warm process, new query", &mut new);
        for _ in 0..REPEATS {
            let query = known.clone();
            again.measure(|| store.recall(Recall::new(query).timeout(None)))?;
        }
        line("C  warm process, same query", &mut again);
        store.close()?;
        cached.print("D  fresh process, query asked by an earlier one");
        Ok(())
    }

    fn recall_in_child(&self, home: &Path, query: &str) -> Child {
        let arguments = ["--child-recall".as_ref(), home.as_os_str(), "--query".as_ref(), query.as_ref()];
        self.child(&arguments)
    }

    fn child(&self, arguments: &[&std::ffi::OsStr]) -> Child {
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
        let whole = start.elapsed();
        assert!(child.wait().expect("wait").success(), "the child failed");
        let mut steps =
            line.split_whitespace().map(|nanos| Duration::from_nanos(nanos.parse().expect("a time")));
        let mut step = || steps.next().expect("two times");
        Child { steps: [step(), step()], whole }
    }
}

/// Asks with the program that users have.
fn run(program: &Path, home: &Path, query: &str) {
    let output =
        Command::new(program).args(["recall", query, "--home"]).arg(home).output().expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Times of fresh processes.
#[derive(Default)]
struct Fresh {
    whole: Times,
    open: Times,
    recall: Times,
}

impl Fresh {
    fn push(&mut self, child: &Child) {
        self.whole.push(child.whole);
        self.open.push(child.steps[0]);
        self.recall.push(child.steps[1]);
    }

    fn print(&mut self, name: &str) {
        if self.whole.len() > 0 {
            line(name, &mut self.whole);
            line("     of it opening the store", &mut self.open);
            line("     of it the recall", &mut self.recall);
        }
    }
}

/// Opens a store, asks, says how long both took.
fn child_recall(home: &Path, query: &str) -> Result<()> {
    let start = Instant::now();
    let store = Store::open(Options::at(home))?;
    let opened = start.elapsed();
    let answer = store.recall(Recall::new(query).timeout(None))?;
    assert!(!answer.results.is_empty());
    println!("{} {}", opened.as_nanos(), (start.elapsed() - opened).as_nanos());
    store.close()
}

fn child_embed(query: &str) -> Result<()> {
    let start = Instant::now();
    embed::builtin()?.embed_query(query)?;
    println!("{} 0", start.elapsed().as_nanos());
    Ok(())
}

fn line(name: &str, times: &mut Times) {
    let [median, high, least] = [0.5, 0.99, 0.0].map(|share| shown(times.percentile(share)));
    println!("{name:<52} {:>6} {median:>11} {high:>11} {least:>11}", times.len());
}

fn shown(micros: f64) -> String {
    match micros {
        ..1.0 => format!("{:.0} ns", micros * 1e3),
        1.0..1000.0 => format!("{micros:.1} us"),
        _ => format!("{:.1} ms", micros / 1e3),
    }
}

fn load(home: &Path, size: u64) -> Result<()> {
    let store = Store::open(Options::at(home))?;
    for first in (0..size).step_by(500) {
        let group = (first..size.min(first + 500)).map(|number| Sample::new(number, WORDS).remember());
        store.remember_many(group.collect())?;
    }
    store.close()
}

/// The kernel reads these files from the disk next time.
fn drop_from_page_cache(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("list") {
            drop_from_page_cache(&entry.expect("entry").path());
        }
        return;
    }
    let file = File::open(path).expect("open");
    file.sync_all().expect("sync"); // Pages that are not written yet would stay.
    fadvise(&file, 0, None, Advice::DontNeed).expect("fadvise");
}
