//! Auto-memory: what it keeps of labelled turns, against the keyword rules of the original, and a stream of exchanges.
//!
//!     cargo bench --bench capture -- [--data DIR]
//!
//! Always on `capture_data/`; with `--data DIR` on the sets below it, if they are there: `extraction-dev` (MIT; every
//! text is worth keeping, so only recall has a meaning) and `locomo-dev` (CC BY-NC; a turn is worth it when it is evidence
//! for a question). Intervals are of 95 %: Wilson's for shares, 1,000 bootstrap samples for average precision.

#![allow(clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use memento_kv::capture::{CaptureOptions, Capturer, Exchange, Kind, training};
use memento_kv::embed::ModelSpec;
use memento_kv::{Options, Store};
use serde_json::Value;

struct Turn {
    is_agent: bool,
    text: String,
    is_worth: bool,
    kind: Option<Kind>,
}

struct Scored {
    ours: f64,
    rules: f64,
    kind: Option<Kind>,
}

fn main() {
    let args =
        support::Args::parse("cargo bench --bench capture -- [--data DIR] [--exchanges N] [--dir DIR]");
    let data = args.text("--data").map(PathBuf::from);
    println!(
        "{:<26} {:>6} {:>6}  {:<24} {:<24} {:<24} {:<24} ratio",
        "set", "turns", "worth", "precision", "recall", "average precision", "AP of keyword rules"
    );
    for name in ["train", "held"] {
        let turns = labelled(name);
        report(name, &turns);
        if name == "held" {
            kinds(&turns);
        }
    }
    if let Some(data) = &data {
        let locomo = data.join("locomo-dev");
        if locomo.is_dir() {
            report("locomo-dev", &locomo_turns(&locomo));
        }
        let extraction = data.join("extraction-dev");
        if extraction.is_dir() {
            report("mempalace-texts", &mempalace_turns(&extraction));
            report("remem-cases", &remem_turns(&extraction));
        }
    }
    let folder = args.folder();
    stream(args.number("--exchanges", 10_000, 200), folder.path());
}

fn report(name: &str, turns: &[Turn]) {
    let scored: Vec<Scored> = turns.iter().map(score).collect();
    let kept = scored.iter().filter(|one| one.ours >= 0.5).count();
    let worth = turns.iter().filter(|turn| turn.is_worth).count();
    let right = turns.iter().zip(&scored).filter(|(turn, one)| turn.is_worth && one.ours >= 0.5).count();
    let ours: Vec<(f64, bool)> =
        turns.iter().zip(&scored).map(|(turn, one)| (one.ours, turn.is_worth)).collect();
    let rules: Vec<(f64, bool)> =
        turns.iter().zip(&scored).map(|(turn, one)| (one.rules, turn.is_worth)).collect();
    let (own, theirs) = (average_precision(&ours), average_precision(&rules));
    println!(
        "{name:<26} {:>6} {worth:>6}  {:<24} {:<24} {:<24} {:<24} {:.2}",
        turns.len(),
        share(right, kept),
        share(right, worth),
        interval(own, &ours),
        interval(theirs, &rules),
        own / theirs
    );
}

fn kinds(turns: &[Turn]) {
    let mut table: BTreeMap<Kind, (usize, usize, usize)> = BTreeMap::new();
    for turn in turns {
        let Some(kind) = turn.kind else { continue };
        let scored = score(turn);
        let entry = table.entry(kind).or_default();
        entry.0 += 1;
        entry.1 += usize::from(scored.ours >= 0.5);
        entry.2 += usize::from(scored.ours >= 0.5 && scored.kind == Some(kind));
    }
    for (kind, (all, kept, named)) in table {
        println!(
            "  held: {:<18} {all:>6}         kept {:<22} named so {}",
            kind.name(),
            share(kept, all),
            share(named, kept)
        );
    }
}

fn score(turn: &Turn) -> Scored {
    let (ours, kind) = training::score(&turn.text, turn.is_agent);
    Scored { ours, rules: keyword_rules(&turn.text), kind }
}

/// The original's rules: the importance of the first row of which a word occurs, anywhere in a word; 0 without one.
fn keyword_rules(text: &str) -> f64 {
    const ROWS: [(f64, &[&str]); 2] = [
        (
            0.85,
            &[
                "decision",
                "agreed",
                "approved",
                "rejected",
                "deferred",
                "rfc",
                "architecture",
                "design",
                "plan",
                "roadmap",
                "bug",
                "fix",
                "error",
                "failed",
                "broke",
                "release",
                "deploy",
                "production",
                "update",
                "bob",
                "collaboration",
                "team",
                "roles",
                "performance",
                "benchmark",
                "optimization",
            ],
        ),
        (
            0.7,
            &[
                "implement",
                "create",
                "add",
                "feature",
                "test",
                "verify",
                "check",
                "validate",
                "document",
                "readme",
                "wiki",
            ],
        ),
    ];
    let text = text.to_lowercase();
    let row = ROWS.iter().find(|(_, words)| words.iter().any(|word| text.contains(word)));
    let code = ["def ", "class ", "import ", "function", "script"];
    row.map_or_else(
        || if code.iter().any(|word| text.contains(word)) { 0.6 } else { 0.0 },
        |(importance, _)| *importance,
    )
}

/// Mean of the precision at each turn that is worth it, best first. Turns of one score count as in chance order.
fn average_precision(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worth = sorted.iter().filter(|(_, worth)| *worth).count() as f64;
    let (mut seen, mut right, mut sum) = (0.0, 0.0, 0.0);
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        let hits = group.iter().filter(|(_, worth)| *worth).count() as f64;
        let len = group.len() as f64;
        // The expected precision at each hit of a group in chance order.
        for at in 0..group.len() {
            let position = at as f64 + 1.0;
            let before = if len > 1.0 { (hits - 1.0).max(0.0) * (position - 1.0) / (len - 1.0) } else { 0.0 };
            sum += hits / len * (right + before + 1.0) / (seen + position);
        }
        seen += len;
        right += hits;
    }
    if worth == 0.0 { 0.0 } else { sum / worth }
}

fn share(part: usize, all: usize) -> String {
    if all == 0 {
        return "-".to_owned();
    }
    let (n, p, z) = (all as f64, part as f64 / all as f64, 1.96_f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    format!("{p:.3} ({:.3} to {:.3})", (middle - half).max(0.0), (middle + half).min(1.0))
}

fn interval(value: f64, scored: &[(f64, bool)]) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut samples: Vec<f64> = (0..if scored.len() > 2000 { 200 } else { 1000 })
        .map(|_| {
            let sample: Vec<(f64, bool)> = (0..scored.len())
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    scored[(state >> 11) as usize % scored.len()]
                })
                .collect();
            average_precision(&sample)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[(share * (samples.len() - 1) as f64) as usize];
    format!("{value:.3} ({:.3} to {:.3})", at(0.025), at(0.975))
}

fn labelled(name: &str) -> Vec<Turn> {
    let path = format!("{}/benches/capture_data/{name}.tsv", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let turn = |line: &str| {
        let fields: Vec<&str> = line.splitn(3, '\t').collect();
        let kind = Kind::named(fields[1]);
        Turn { is_agent: fields[0] == "a", text: fields[2].to_owned(), is_worth: fields[1] != "-", kind }
    };
    text.lines().map(turn).collect()
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn locomo_turns(folder: &Path) -> Vec<Turn> {
    let mut evidence: HashSet<(String, String)> = HashSet::new();
    for query in json_lines(&folder.join("queries.jsonl")) {
        for id in query["relevant"].as_array().into_iter().flatten() {
            evidence.insert((query["collection"].to_string(), id.to_string()));
        }
    }
    json_lines(&folder.join("memories.jsonl"))
        .into_iter()
        .map(|memory| Turn {
            is_agent: false,
            text: memory["text"].as_str().unwrap_or_default().to_owned(),
            is_worth: evidence.contains(&(memory["collection"].to_string(), memory["id"].to_string())),
            kind: None,
        })
        .collect()
}

fn mempalace_turns(folder: &Path) -> Vec<Turn> {
    let turn = |text: Value| Turn {
        is_agent: false,
        text: text["text"].as_str().unwrap_or_default().to_owned(),
        is_worth: true,
        kind: None,
    };
    json_lines(&folder.join("mempalace-texts.jsonl")).into_iter().map(turn).collect()
}

/// A case is one text: it is worth keeping when something is expected to be kept.
fn remem_turns(folder: &Path) -> Vec<Turn> {
    let path = folder.join("remem-cases.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(&path).expect("the cases")).expect("JSON");
    let case = |case: &Value| {
        let turns = case["transcript"].as_array().expect("a transcript");
        let text: Vec<&str> = turns.iter().filter_map(|turn| turn["content"].as_str()).collect();
        let is_worth = case["expected_candidates"].as_array().is_some_and(|all| !all.is_empty());
        Turn { is_agent: turns[0]["role"] == "assistant", text: text.join("\n"), is_worth, kind: None }
    };
    cases["cases"].as_array().expect("cases").iter().map(case).collect()
}

/// Exchanges of a stream, a third of them worth keeping, into a store without a model.
fn stream(count: usize, folder: &Path) {
    let options = Options::at(folder).model(ModelSpec::None).background_embedding(false);
    let store = Store::open(options).expect("a store");
    let turns: Vec<Turn> = labelled("train").into_iter().chain(labelled("held")).collect();
    let mut capturer = Capturer::new(CaptureOptions::default().per_hour(0));
    let (mut judging, mut capturing) = (0.0, 0.0);
    let mut longest = 0.0_f64;
    for at in 0..count {
        let user = format!("In part{at}: {}", turns[at % turns.len()].text);
        let exchange =
            Exchange::new(user, turns[(at * 7 + 3) % turns.len()].text.clone()).at(1_700_000_000 + at as i64);
        let start = Instant::now();
        std::hint::black_box(capturer.judge(&exchange));
        judging += start.elapsed().as_secs_f64();
        let start = Instant::now();
        capturer.capture(&store, &exchange).expect("captured");
        let took = start.elapsed().as_secs_f64();
        capturing += took;
        longest = longest.max(took);
    }
    let each = |seconds: f64| seconds * 1e3 / count as f64;
    let memories = store.stats().expect("figures").memories;
    println!(
        "\nstream of {count} exchanges: judged in {:.3} ms each, captured in {:.3} ms each (longest {:.1} ms), {memories} memories",
        each(judging),
        each(capturing),
        longest * 1e3
    );
}
