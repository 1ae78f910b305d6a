//! What a recall by a given vector costs through the public API: `cargo bench --bench recall -- --help`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "index_parts/data.rs"]
#[allow(dead_code, reason = "here vectors are only read")]
mod data;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use memento_kv::embed::ModelSpec;
use memento_kv::{Effort, Filter, Options, Recall, Remember, Result, Store};

use data::Vectors;
use support::{Args, Random, Times};

const HELP: &str = "\
Recall by a given vector, ten texts returned, one thread, in a process that opened the store just before; all of it,
with a filter that lets one memory in a hundred through, and with more effort. What recall finds is compared with a
comparison of all vectors. Beside that: how long the index takes to be made, the first answer after an opening, and
the memory of the process that is its own (what is mapped belongs to the system).

Vectors are those that the bench `index` has made of WordNet (see its --help); more than there are, or all without
--data, are made up: mixtures of two of them.

  --data DIR       the folder that the bench `index` keeps vectors in
  --memories N,N   sizes of stores (10000,100000)
  --queries N      recalls of each kind (2000)
  --dir DIR        where the stores are made";

const K: usize = 10;
const GROUP: usize = 500;
const DIMENSIONS: usize = 384;

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let queries: usize = args.number("--queries", 2000, 20);
    let path = args.text("--data").map(|folder| PathBuf::from(folder).join("minilm.f32"));
    let known = path.and_then(|path| Vectors::read(&path, DIMENSIONS));
    let known = known.as_ref();
    if let Some(home) = args.text("--child") {
        return ask(Path::new(home), args.number("--memories", 0, 0), queries, known);
    }
    let usual = if args.quick { "2000" } else { "10000,100000" };
    for memories in args.text("--memories").unwrap_or(usual).split(',') {
        let memories = memories.parse().expect("--memories needs numbers");
        let folder = args.folder();
        fill(folder.path(), memories, queries, known)?;
        // A process of its own, whose memory is that of opening and asking alone.
        let mut child = Command::new(std::env::current_exe().expect("a path of this program"));
        child.arg("--bench").arg("--child").arg(folder.path());
        child.args(["--memories", &memories.to_string(), "--queries", &queries.to_string()]);
        child.args(args.text("--data").iter().flat_map(|folder| ["--data", folder]));
        assert!(child.status().expect("this program runs").success());
    }
    Ok(())
}

fn options(folder: &Path) -> Options {
    Options::at(folder.join("home")).model(ModelSpec::None)
}

/// The vectors that are asked for come first, and are not stored.
fn source(known: Option<&Vectors>, memories: usize, queries: usize) -> (Vec<Vec<f32>>, Source<'_>) {
    let mut source = Source { known, random: Random::new(memories as u64), next: 0 };
    ((0..queries).map(|_| source.next()).collect(), source)
}

fn fill(folder: &Path, memories: usize, queries: usize, known: Option<&Vectors>) -> Result<()> {
    let (_, mut source) = source(known, memories, queries);
    let store = Store::open(options(folder))?;
    for first in (0..memories).step_by(GROUP) {
        let one = |number: usize, vector: Vec<f32>| {
            Remember::new(format!(
                "what was said as number {number}, in about as many words as people use for it"
            ))
            .tags([format!("tag-{}", number % 100)])
            .vector(vector)
        };
        let group = (first..memories.min(first + GROUP)).map(|number| one(number, source.next())).collect();
        store.remember_many(group)?;
    }
    let started = Instant::now();
    store.build_index(false, &mut |_| {})?;
    println!("{memories} memories, {queries} recalls of each kind; {}", described(known));
    println!("index made in {:.1} s", started.elapsed().as_secs_f64());
    store.close()
}

fn ask(folder: &Path, memories: usize, queries: usize, known: Option<&Vectors>) -> Result<()> {
    let (asked, _) = source(known, memories, queries);
    let before = anonymous_mib();
    let started = Instant::now();
    let store = Store::open(options(folder))?;
    let first = store.recall(Recall::by_vector(asked[0].clone()).topk(K))?;
    let opened = started.elapsed();
    assert_eq!(first.results.len(), K);
    let index = store.stats()?.index;
    println!("index of {} MB, graph: {}", index.bytes >> 20, index.graph);
    println!("open to first answer: {:.1} ms\n", opened.as_secs_f64() * 1e3);
    println!("{:<32} {:>8} {:>8} {:>10}", "", "p50 us", "p99 us", "recall@10");
    let filter = |tag: usize| Filter { tags_any: vec![format!("tag-{tag}")], ..Filter::default() };
    let kinds: [(&str, Effort, Vec<Filter>); 4] = [
        ("all", Effort::Normal, vec![Filter::default()]),
        ("all, high effort", Effort::High, vec![Filter::default()]),
        ("one in 100, the same tag", Effort::Normal, vec![filter(42)]),
        // More than a store keeps.
        ("one in 100, each time another", Effort::Normal, (0..100).map(filter).collect()),
    ];
    for (name, effort, filters) in kinds {
        let mut times = Times::default();
        let (mut found, mut expected) = (0, 0);
        for ((number, vector), filter) in asked.iter().enumerate().zip(filters.iter().cycle()) {
            let recall =
                |effort| Recall::by_vector(vector.clone()).topk(K).effort(effort).filter(filter.clone());
            let question = recall(effort);
            let answer = times.measure(|| store.recall(question))?;
            assert!(answer.degraded.is_empty(), "{:?}", answer.degraded);
            if number < 500 {
                let exact = store.recall(recall(Effort::Exact))?;
                let exact: BTreeSet<_> = exact.results.iter().map(|one| one.id.clone()).collect();
                expected += exact.len();
                found += answer.results.iter().filter(|one| exact.contains(&one.id)).count();
            }
        }
        let recall = found as f64 / expected as f64;
        println!("{name:<32} {:>8.1} {:>8.1} {recall:>10.4}", times.median(), times.percentile(0.99));
    }
    println!("\nanonymous memory: {} MiB more than before the opening\n", anonymous_mib() - before);
    Ok(())
}

fn described(known: Option<&Vectors>) -> String {
    known.map_or("made-up vectors".to_owned(), |known| {
        format!("vectors of {} texts, then mixtures", known.len())
    })
}

/// Vectors, one after the other.
struct Source<'a> {
    known: Option<&'a Vectors>,
    random: Random,
    next: usize,
}

impl Source<'_> {
    fn next(&mut self) -> Vec<f32> {
        let at = self.next;
        self.next += 1;
        match self.known {
            Some(known) if at < known.len() => known.row(at).to_vec(),
            Some(known) => {
                let [a, b] = [(); 2].map(|()| known.row(self.random.below(known.len())));
                a.iter().zip(b).map(|(a, b)| 0.7 * a + 0.3 * b).collect()
            }
            // Around one of a thousand centres.
            None => {
                let mut centre = Random::new(self.random.below(1000) as u64 + 1);
                let value = |random: &mut Random| random.below(2001) as f32 / 1000.0 - 1.0;
                (0..DIMENSIONS).map(|_| value(&mut centre) + 0.7 * value(&mut self.random)).collect()
            }
        }
    }
}

fn anonymous_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib >> 10)
}
