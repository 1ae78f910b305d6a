//! What the built-in embedder costs: `cargo bench --bench embed`.
//!
//! Prints the time until the first vector of this process, then for each length of query the median and the 95th percentile
//! of the time and the mean of the processor time. Queries differ, so nothing is served from a cache.
//! To compare another embedder in the same run, add it to [`candidates`].

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use memento_kv::embed::{self, Embedder};

/// Queries for each figure.
const ROUNDS: usize = 400;

/// A way to get an embedder, measured from nothing.
struct Candidate {
    name: &'static str,
    load: fn() -> memento_kv::Result<&'static dyn Embedder>,
}

fn candidates() -> Vec<Candidate> {
    vec![Candidate { name: "builtin minilm", load: embed::builtin }]
}

fn main() {
    // `cargo test --benches` passes this flag: one round shows that the program works.
    let rounds = if std::env::args().any(|argument| argument == "--test") { 1 } else { ROUNDS };
    for candidate in candidates() {
        measure(&candidate, rounds).expect("the embedder loads and embeds");
    }
}

fn measure(candidate: &Candidate, rounds: usize) -> memento_kv::Result<()> {
    let start = Instant::now();
    let start_cpu = cpu_time();
    let embedder = (candidate.load)()?;
    let loaded = start.elapsed();
    black_box(embedder.embed_query(&query(10, rounds))?);
    println!("{}: loaded after {loaded:.2?}", candidate.name);
    println!("  first vector after {:.2?}, {:.2?} cpu", start.elapsed(), cpu_time() - start_cpu);
    // Ten words, the question mark and the two special tokens are thirteen tokens.
    for (label, words) in [("13 tokens", 10), ("43 tokens", 40), ("256 tokens", 253)] {
        let rounds = if words > 100 { rounds.div_ceil(10) } else { rounds };
        let mut times = Vec::with_capacity(rounds);
        let start_cpu = cpu_time();
        for round in 0..rounds {
            let query = query(words, round);
            let start = Instant::now();
            black_box(embedder.embed_query(&query)?);
            times.push(start.elapsed());
        }
        let cpu = (cpu_time() - start_cpu) / rounds as u32;
        times.sort_unstable();
        let (least, median, high) = (times[0], times[rounds / 2], times[rounds * 95 / 100]);
        println!("  {label:>10}: min {least:.2?}  p50 {median:.2?}  p95 {high:.2?}  cpu {cpu:.2?}");
    }
    Ok(())
}

/// A question of so many words that are one token each, different for each round.
fn query(words: usize, round: usize) -> String {
    const WORDS: [&str; 16] = [
        "what", "database", "did", "we", "decide", "to", "use", "for", "the", "project", "when", "server",
        "team", "last", "week", "plan",
    ];
    let words = (0..words).map(|word| WORDS[(word * 5 + (round >> (word % 8)) * 3 + round) % WORDS.len()]);
    words.collect::<Vec<_>>().join(" ") + "?"
}

/// The processor time of this thread.
#[cfg(target_os = "linux")]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Unknown here, so it shows as nothing.
#[cfg(not(target_os = "linux"))]
fn cpu_time() -> Duration {
    Duration::ZERO
}
