//! What the benches share: arguments, figures, made-up memories, and SQLite with the original's table.

#![allow(
    dead_code,
    clippy::print_stdout,
    reason = "each bench is a program of its own and uses a part of this"
)]

pub(crate) mod sqlite;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memento_kv::embed::ModelSpec;
use memento_kv::{MemoryId, Options, Remember, Result, Store};

pub(crate) const DIMENSIONS: usize = 384;
/// Any time will do, and the same one makes the same rows.
const FIRST_SECOND: i64 = 1_750_000_000;

/// Named numbers and paths on the command line, such as `--seconds 1.5`.
pub(crate) struct Args {
    given: Vec<String>,
    /// `cargo test` runs the program: it shows that it works, and its figures mean nothing.
    pub(crate) quick: bool,
}

impl Args {
    /// Prints `help` and ends the program when it is asked for.
    pub(crate) fn parse(help: &str) -> Self {
        let mut given: Vec<String> = std::env::args().skip(1).collect();
        if given.iter().any(|argument| argument == "--help") {
            println!("{help}");
            std::process::exit(0);
        }
        // Cargo names itself to what it runs, and says `--bench` to a bench.
        let benched = given.iter().any(|argument| argument == "--bench");
        given.retain(|argument| argument != "--bench");
        Self { given, quick: !benched && std::env::var_os("CARGO").is_some() }
    }

    /// The text after this name.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let at = self.given.iter().position(|argument| argument == name)?;
        let value = self.given.get(at + 1);
        Some(value.unwrap_or_else(|| panic!("{name} needs a value, see --help")))
    }

    /// Whether this name was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|argument| argument == name)
    }

    /// The number after this name, otherwise `usual`; `quick` when the program is only tried.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str, usual: T, quick: T) -> T {
        match self.text(name) {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("{name} needs a number, not {text:?}")),
            None if self.quick => quick,
            None => usual,
        }
    }

    /// A new folder below the one after `--dir`, otherwise below cargo's, which is on a real disk where `/tmp` may
    /// be memory. It is removed in the end.
    pub(crate) fn folder(&self) -> tempfile::TempDir {
        let parent =
            self.text("--dir").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        tempfile::Builder::new().prefix("bench.").tempdir_in(parent).expect("a folder for the bench")
    }
}

/// Times of single calls.
#[derive(Default)]
pub(crate) struct Times(Vec<u64>);

impl Times {
    pub(crate) fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = black_box(work());
        self.push(start.elapsed());
        result
    }

    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_nanos()).expect("centuries"));
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time in microseconds that this share of the calls did not exceed.
    pub(crate) fn percentile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len().checked_sub(1).expect("something was measured");
        self.0[(last as f64 * share).round() as usize] as f64 / 1e3
    }

    pub(crate) fn median(&mut self) -> f64 {
        self.percentile(0.5)
    }
}

/// The middle one of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Xorshift: the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A vector of length 1.
    pub(crate) fn vector(&mut self) -> Vec<f32> {
        let mut vector: Vec<f32> =
            (0..DIMENSIONS).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).collect();
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|value| *value /= length);
        vector
    }

    /// So many words, frequent ones more often: two of five are common ones.
    pub(crate) fn text(&mut self, words: usize) -> String {
        let mut text = String::with_capacity(words * 8);
        for word in 0..words {
            if word > 0 {
                text.push(' ');
            }
            if self.below(5) < 2 {
                text.push_str(self.common_word());
                continue;
            }
            // The product of two even numbers leans towards the small ones.
            let mut rest = self.below(150) * self.below(150) + 17;
            while rest > 0 {
                text.push_str(SYLLABLES[rest % SYLLABLES.len()]);
                rest /= SYLLABLES.len();
            }
        }
        text
    }

    /// A question of thirteen tokens for the built-in model: ten words, the question mark and the two special tokens.
    pub(crate) fn question(&mut self) -> String {
        let mut words = ["what", "did", "we"].map(str::to_owned).to_vec();
        words.extend((0..7).map(|_| self.common_word().to_owned()));
        words.join(" ") + "?"
    }

    /// A word that is one token for the built-in model.
    fn common_word(&mut self) -> &'static str {
        COMMON_WORDS[self.below(COMMON_WORDS.len()).min(self.below(COMMON_WORDS.len()))]
    }
}

const SYLLABLES: [&str; 16] =
    ["ka", "ro", "mi", "ten", "su", "lo", "var", "ing", "ed", "pre", "ne", "sha", "ti", "on", "gra", "el"];

/// Each is one token for the built-in model.
#[rustfmt::skip]
const COMMON_WORDS: [&str; 128] = [
    "the", "to", "and", "of", "in", "for", "is", "on", "with", "that", "it", "we", "was", "at", "this", "not",
    "project", "team", "server", "database", "meeting", "plan", "week", "release", "test", "file", "user", "query",
    "design", "budget", "customer", "market", "travel", "train", "hotel", "dinner", "coffee", "family", "doctor",
    "school", "book", "music", "garden", "house", "car", "city", "summer", "winter", "monday", "friday", "morning",
    "evening", "email", "phone", "call", "letter", "report", "number", "price", "order", "contract", "bank", "tax",
    "office", "manager", "engineer", "student", "teacher", "friend", "brother", "sister", "mother", "father",
    "child", "dog", "cat", "bird", "river", "mountain", "beach", "road", "bridge", "station", "airport", "ticket",
    "passport", "visa", "language", "english", "french", "german", "history", "science", "physics", "paper",
    "journal", "model", "data", "memory", "index", "search", "storage", "disk", "network", "cloud", "code",
    "function", "library", "version", "bug", "error", "fix", "change", "decision", "reason", "result", "speed",
    "cost", "risk", "goal", "idea", "question", "answer", "problem", "color", "blue", "green", "red",
];

/// A memory of about 2 KB in the log: some 400 bytes of text, a vector of 384 dimensions, and labels.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) text: String,
    pub(crate) timestamp: i64,
    pub(crate) session: String,
    pub(crate) importance: f64,
    pub(crate) tags: [&'static str; 2],
    pub(crate) vector: Vec<f32>,
}

impl Sample {
    pub(crate) const SOURCE: &'static str = "bench";
    pub(crate) const COLLECTION: &'static str = "knowledge";

    /// The number makes the text another one than all others.
    pub(crate) fn new(number: u64, words: usize) -> Self {
        const TAGS: [&str; 6] = ["work", "home", "rust", "travel", "decision", "food"];
        let mut random = Random::new(number + 1);
        let tag = random.below(TAGS.len());
        Self {
            text: format!("{} number {number}", random.text(words)),
            timestamp: FIRST_SECOND + i64::try_from(number).expect("a count"),
            session: format!("session-{}", number / 100),
            importance: 0.5,
            tags: [TAGS[tag], TAGS[(tag + 1) % TAGS.len()]],
            vector: random.vector(),
        }
    }

    pub(crate) fn remember(mut self) -> Remember {
        let vector = std::mem::take(&mut self.vector);
        self.remember_without_vector().vector(vector)
    }

    pub(crate) fn remember_without_vector(self) -> Remember {
        Remember::new(self.text)
            .at(self.timestamp)
            .source(Self::SOURCE)
            .session(self.session)
            .importance(self.importance)
            .tags(self.tags)
            .collection(Self::COLLECTION)
    }

    pub(crate) fn blob(&self) -> Vec<u8> {
        self.vector.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// Words of a text of a [`Sample`] that makes a record of about 2 KB.
pub(crate) const WORDS: usize = 55;

/// How a store of given vectors is opened: nothing is embedded, nothing goes on behind the calls.
pub(crate) fn plain(home: &Path) -> Options {
    Options::at(home).model(ModelSpec::None).background_embedding(false).query_cache(false)
}

/// Fills a store with so many memories, the same as [`sqlite::fill`].
pub(crate) fn fill(home: &Path, memories: u64) -> Result<()> {
    let store = Store::open(plain(home))?;
    let numbers: Vec<u64> = (0..memories).collect();
    for group in numbers.chunks(500) {
        let all = group.iter().map(|number| {
            Ok(Sample::new(*number, WORDS).remember().id(MemoryId::new(format!("m{number}"))?))
        });
        store.remember_many(all.collect::<Result<_>>()?)?;
    }
    store.close()
}
