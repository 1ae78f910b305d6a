//! What the parts of a recall cost: words, vectors in memory, and the kernels of exact vectors.
//!
//!     cargo bench --bench scan
//!
//! One thread, everything in memory. Texts are made up: 8 to 40 words drawn by Zipf's law from 20,000.
//! Vectors are random. Times are medians of single calls, in microseconds.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use memento_kv::Result;
use memento_kv::parts::{Rows, Vectors, Words, kernel_names};

const VOCABULARY: usize = 20_000;
const QUERY_WORDS: usize = 13;
const DIMENSIONS: u32 = 384;
/// Texts and vectors that a recall ranks.
const CANDIDATES: usize = 256;
const QUERIES: usize = 200;

fn main() -> Result<()> {
    println!("{:<44} {:>12}", "what", "us (p50)");
    for count in [10_000, 100_000] {
        searches(count)?;
    }
    println!("\n{:<44} {:>12} {:>8}", "kernel", "ns a row", "GB/s");
    // A store in the first-level cache and one in memory.
    for rows in [16, 50_000] {
        kernels(rows);
    }
    Ok(())
}

fn searches(count: u64) -> Result<()> {
    let mut random = Random(count);
    let zipf = Zipf::new();
    let texts: Vec<String> = (0..count)
        .map(|_| {
            let words = 8 + random.below(33);
            zipf.text(&mut random, words)
        })
        .collect();
    let start = Instant::now();
    let mut words = Words::default();
    for (key, text) in (0..).zip(&texts) {
        words.insert(key, text);
    }
    line("text insert, mean", count, start.elapsed().as_secs_f64() * 1e6 / count as f64);

    let mut vectors = Vectors::new(DIMENSIONS)?;
    for key in 0..count {
        vectors.insert(key, &random.vector())?;
    }

    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..QUERIES {
        let query = zipf.text(&mut random, QUERY_WORDS);
        let vector = random.vector();
        timed(&mut times[0], || words.search(&query, CANDIDATES));
        timed(&mut times[1], || vectors.search(&vector, CANDIDATES))?;
    }
    line("text query of 13 words", count, median(&mut times[0]));
    line("vector scan, top 256 of 384 dimensions", count, median(&mut times[1]));
    Ok(())
}

fn kernels(count: usize) {
    let mut random = Random(1);
    let values: Vec<f32> = (0..count).flat_map(|_| random.vector()).collect();
    let mut rows = Rows::new(&random.vector(), &values);
    let repeats = 2_000_000 / count;
    for (kernel, name) in kernel_names().into_iter().enumerate() {
        let start = Instant::now();
        for _ in 0..repeats {
            black_box(black_box(&mut rows).dots(kernel));
        }
        let seconds = start.elapsed().as_secs_f64() / (repeats * count) as f64;
        let bandwidth = (DIMENSIONS as usize * size_of::<f32>()) as f64 / seconds / 1e9;
        println!("{:<44} {:>12.1} {bandwidth:>8.1}", format!("{name}, {count} rows"), seconds * 1e9);
    }
}

fn line(what: &str, count: u64, micros: f64) {
    println!("{:<44} {micros:>12.1}", format!("{what}, {count} memories"));
}

fn timed<T>(times: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = black_box(work());
    times.push(start.elapsed().as_secs_f64() * 1e6);
    result
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMENSIONS).map(|_| self.unit() as f32 - 0.5).collect()
    }
}

/// Words, the n-th as often as 1/n.
struct Zipf {
    words: Vec<String>,
    /// Share of all words up to each one.
    sums: Vec<f64>,
}

impl Zipf {
    fn new() -> Self {
        let syllables =
            ["ka", "ro", "mi", "ten", "su", "lo", "var", "ing", "ed", "pre", "ne", "sha", "ti", "on", "gra"];
        // As in English, the most frequent words are stop words.
        let common =
            ["the", "and", "to", "i", "of", "it", "a", "you", "that", "was", "in", "for", "is", "my", "with"];
        let made_up = (0..).map(|n: usize| {
            let mut word = String::new();
            let mut rest = n + syllables.len();
            while rest > 0 {
                word.push_str(syllables[rest % syllables.len()]);
                rest /= syllables.len();
            }
            word
        });
        let words: Vec<String> =
            common.map(str::to_owned).into_iter().chain(made_up).take(VOCABULARY).collect();
        let total: f64 = (1..=VOCABULARY).map(|n| 1.0 / n as f64).sum();
        let mut sum = 0.0;
        let sums = (1..=VOCABULARY).map(|n| {
            sum += 1.0 / n as f64 / total;
            sum
        });
        Self { words, sums: sums.collect() }
    }

    fn text(&self, random: &mut Random, words: usize) -> String {
        let word = |random: &mut Random| {
            let at = random.unit();
            self.words[self.sums.partition_point(|sum| *sum < at).min(VOCABULARY - 1)].as_str()
        };
        (0..words).map(|_| word(random)).collect::<Vec<_>>().join(" ")
    }
}
