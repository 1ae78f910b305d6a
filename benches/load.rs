//! How many memories a second a bulk load takes in: `cargo bench --bench load`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use memento_kv::transfer::JsonlReader;
use memento_kv::{OnConflict, Options, Remember, Result, Store};
use support::{Args, Sample, WORDS, median};

const HELP: &str = "\
Bulk load of new memories with given vectors (384 dimensions, records of 2 KB) into a new store, durable
group by group. The time goes from the first call to the end of the last one; closing comes on top.
`import` reads JSON without vectors and embeds nothing here.

  --memories N  memories in all (50000)
  --rounds N    rounds of each way (3)
  --dir DIR     where the stores are made";

/// Ways to load, each with the memories of a group.
const WAYS: [(&str, Way, usize); 4] = [
    ("remember_many, groups of 500", Way::Many, 500),
    ("remember_many, groups of 1000", Way::Many, 1000),
    ("JSON Lines with vectors, groups of 500", Way::JsonLines, 500),
    ("import of JSON, no vectors", Way::Import, 4096),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Many,
    JsonLines,
    Import,
}

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let memories: u64 = args.number("--memories", 50_000, 1000);
    let rounds = args.number("--rounds", 3, 1);
    let files = args.folder();
    let (jsonl, json) = (files.path().join("memories.jsonl"), files.path().join("memories.json"));
    write_jsonl(&jsonl, memories);
    write_json(&json, memories);

    println!("{memories} memories, median of {rounds} rounds\n");
    println!("{:<40} {:>11} {:>9} {:>9}", "", "memories/s", "load s", "close s");
    let mut figures: [Vec<(f64, f64)>; WAYS.len()] = Default::default();
    for _ in 0..rounds {
        for (figures, (_, way, group)) in figures.iter_mut().zip(WAYS) {
            let path = match way {
                Way::Import => &json,
                _ => &jsonl,
            };
            figures.push(load(way, memories, group, path, &args)?);
        }
    }
    for (figures, (name, ..)) in figures.iter().zip(WAYS) {
        let (load, close): (Vec<_>, Vec<_>) = figures.iter().copied().unzip();
        let load = median(load);
        println!("{name:<40} {:>11.0} {load:>9.2} {:>9.2}", memories as f64 / load, median(close));
    }
    Ok(())
}

/// The seconds of the load and of the close behind it.
fn load(way: Way, memories: u64, group: usize, path: &Path, args: &Args) -> Result<(f64, f64)> {
    let home = args.folder();
    let store = Store::open(Options::at(home.path().join("memento")).background_embedding(false))?;
    // Made before the clock runs: where memories come from is not what is measured.
    let mut groups: Vec<Vec<Remember>> = Vec::new();
    if way == Way::Many {
        let samples: Vec<_> = (0..memories).map(|number| Sample::new(number, WORDS).remember()).collect();
        let mut samples = samples.into_iter();
        while samples.len() > 0 {
            groups.push(samples.by_ref().take(group).collect());
        }
    }
    let start = Instant::now();
    let mut loaded = 0;
    match way {
        Way::Many => {
            for group in groups {
                loaded += store.remember_many(group)?.len() as u64;
            }
        }
        Way::JsonLines => {
            let mut reader = JsonlReader::new(BufReader::new(File::open(path).expect("just written")));
            loop {
                let batch = reader.next_batch(group)?;
                if batch.is_empty() {
                    break;
                }
                let batch = batch.into_iter().map(|line| line.remember).collect();
                loaded += store.remember_many(batch)?.len() as u64;
            }
        }
        Way::Import => loaded = store.import_json(path, OnConflict::Fail, false, &mut |_| {})?.imported,
    }
    let load = start.elapsed().as_secs_f64();
    assert_eq!(loaded, memories);
    let start = Instant::now();
    store.close()?;
    Ok((load, start.elapsed().as_secs_f64()))
}

fn write_jsonl(path: &Path, memories: u64) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    for number in 0..memories {
        let sample = Sample::new(number, WORDS);
        let mut line = json(&sample);
        line["vector"] = serde_json::json!(sample.vector);
        writeln!(file, "{line}").expect("write");
    }
    file.flush().expect("write");
}

fn write_json(path: &Path, memories: u64) {
    let all: Vec<_> = (0..memories)
        .map(|number| {
            let mut item = json(&Sample::new(number, WORDS));
            item["id"] = format!("{number:016x}").into();
            item
        })
        .collect();
    std::fs::write(path, serde_json::json!(all).to_string()).expect("write");
}

fn json(sample: &Sample) -> serde_json::Value {
    serde_json::json!({
        "text": sample.text,
        "timestamp": sample.timestamp,
        "source": Sample::SOURCE,
        "session_id": sample.session,
        "importance": sample.importance,
        "tags": sample.tags,
        "collection": Sample::COLLECTION,
    })
}
