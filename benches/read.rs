//! What `get` by id costs, against SQLite: `cargo bench --bench read`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use memento_kv::{MemoryId, Options, Result, Store};
use support::{Args, Random, Sample, Times, WORDS, sqlite};

const HELP: &str = "\
Get by id from a warm page cache, one thread, random ids, against a prepared statement of SQLite with the
whole file mapped, in interleaved rounds. `get` gives the memory without its vector, and so does the first
SQLite; the second one reads the vector as well.

  --memories N  memories in each store (100000)
  --gets N      gets of each contestant in a round (50000)
  --rounds N    rounds (5)
  --dir DIR     where the databases are made";

const NAMES: [&str; 3] = ["memento-kv", "SQLite, prepared, mmap", "SQLite, prepared, mmap, with the vector"];

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let memories: u64 = args.number("--memories", 100_000, 1000);
    let gets = args.number("--gets", 50_000, 500);
    let rounds: u64 = args.number("--rounds", 5, 1);

    let folder = args.folder();
    let store = Store::open(Options::at(folder.path().join("memento")))?;
    let database = sqlite::open(&folder.path().join("sqlite.db"));
    for first in (0..memories).step_by(500) {
        let transaction = database.unchecked_transaction().expect("begin");
        let mut group = Vec::new();
        for number in first..memories.min(first + 500) {
            let sample = Sample::new(number, WORDS);
            sqlite::insert(&transaction, &id(number), &sample, &sample.blob());
            group.push(sample.remember().id(MemoryId::new(id(number))?));
        }
        store.remember_many(group)?;
        transaction.commit().expect("commit");
    }

    println!("{memories} memories, {rounds} rounds of {gets} gets\n");
    println!("{:<42} {:>8} {:>8} {:>12}", "", "p50 us", "p99 us", "p50 ratio");
    let mut times: [Times; 3] = Default::default();
    // The first round warms the caches and does not count.
    for round in 0..=rounds {
        let mut random = Random::new(round);
        let ids: Vec<String> = (0..gets).map(|_| id(random.next() % memories)).collect();
        for place in 0..times.len() {
            let which = (place + round as usize) % times.len();
            let mut taken = Times::default();
            if which == 0 {
                for id in &ids {
                    let memory = taken.measure(|| store.get(id))?.expect("it was stored");
                    assert_eq!(memory.id.as_str(), id);
                }
            } else {
                let with_vector = which == 2;
                let mut statement = sqlite::by_id(&database, with_vector);
                for id in &ids {
                    let found = taken.measure(|| sqlite::get(&mut statement, id, with_vector));
                    assert_eq!(found.embedding.is_some(), with_vector);
                }
            }
            if round > 0 {
                times[which].append(taken);
            }
        }
    }
    let medians = times.each_mut().map(Times::median);
    for (which, times) in times.iter_mut().enumerate() {
        println!(
            "{:<42} {:>8.2} {:>8.2} {:>11.2}x",
            NAMES[which],
            medians[which],
            times.percentile(0.99),
            medians[0] / medians[which],
        );
    }
    Ok(())
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}
