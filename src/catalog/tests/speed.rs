//! How fast the view is. Run alone, optimised:
//! `cargo test --release --lib --no-default-features catalog::tests::speed -- --ignored --nocapture`.
//! `MEMORIES=1000000` sets how many memories there are.

#![allow(clippy::print_stdout, reason = "it prints figures")]

use std::time::Duration;

use super::*;

fn memories() -> usize {
    std::env::var("MEMORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(200_000)
}

/// A memory with 400 bytes of text and two tags.
fn typical(number: usize) -> Memory {
    let mut text = format!("memory {number} ");
    while text.len() < 400 {
        text.push_str("and the words that go with it ");
    }
    let mut memory = memory(&format!("01J{number:023}"), &text, 1_700_000_000 + number as i64 / 3);
    memory.session_id = format!("session {}", number / 40);
    memory.tags = vec![format!("tag {}", number % 50), format!("tag {}", number % 1000)];
    memory.collection = if number.is_multiple_of(1000) { "small" } else { "knowledge" }.to_owned();
    memory
}

fn ops(range: std::ops::Range<usize>) -> Vec<Op> {
    range.map(|number| Op::Remember { memory: typical(number), vectors: Some(vectors(1)) }).collect()
}

fn apply(catalog: &Catalog, ops: &[Op]) {
    let first = catalog.applied_seq() + 1;
    let numbered = ops.iter().zip(first..);
    let records: Vec<_> = numbered.map(|(op, seq)| Applied { seq, location: location_of(seq), op }).collect();
    catalog.apply(&records, position_after(first + ops.len() as u64 - 1)).expect("it follows");
}

/// Prints the middle and the 99th of a hundred, in microseconds.
fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let micros = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
    println!("{what}: p50 {:.1} us, p99 {:.1} us", micros(50), micros(99));
}

fn timed<T>(what: &str, calls: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = calls();
    println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

#[test]
#[ignore = "it measures"]
fn figures_of_the_view() {
    let (_folder, path, _) = empty();
    std::fs::remove_file(&path).expect("the small one goes");
    let catalog = Catalog::create(&RealDisk, &path, STORE, CACHE_BYTES_DEFAULT).expect("a new view");
    let count = memories();
    let mut spent = Duration::ZERO;
    for start in (0..count).step_by(65_536) {
        let ops = ops(start..count.min(start + 65_536));
        let begun = Instant::now();
        apply(&catalog, &ops);
        spent += begun.elapsed();
    }
    let begun = Instant::now();
    catalog.checkpoint().expect("a checkpoint");
    spent += begun.elapsed();
    println!("replay of {count}: {:.0} rows/s", count as f64 / spent.as_secs_f64());
    println!("file: {} bytes a memory", std::fs::metadata(&path).expect("the file").len() / count as u64);

    let mut times = Vec::new();
    for number in 0..8192 {
        let ops = ops(count + number..count + number + 1);
        let begun = Instant::now();
        apply(&catalog, &ops);
        times.push(begun.elapsed());
    }
    print_times("apply of one", times);
    timed("checkpoint after 8192", || catalog.checkpoint().expect("a checkpoint"));
    let mut times = Vec::new();
    for number in (0..4096).step_by(16) {
        let ops = ops(count + 8192 + number..count + 8192 + number + 16);
        let begun = Instant::now();
        apply(&catalog, &ops);
        times.push(begun.elapsed() / 16);
    }
    print_times("apply of one in 16", times);
    // A copy of the file is what a killed process leaves.
    let killed = path.with_extension("killed");
    std::fs::copy(&path, &killed).expect("a copy");
    std::fs::File::open(&killed).and_then(|file| file.sync_all()).expect("a sync");
    let left = timed("open after a crash", || reopened(&killed));
    assert_eq!(left.position(), position_after(count as u64 + 8192));
    drop(left);
    timed("close", || catalog.close().expect("a close"));

    let catalog = timed("open", || match Catalog::open(&RealDisk, &path, Some(STORE), CACHE_BYTES_DEFAULT) {
        Ok(Opened::Ready(catalog)) => catalog,
        other => panic!("the view is not ready: {other:?}"),
    });
    let mut times = Vec::new();
    for number in 0..100_000_usize {
        let id = format!("01J{:023}", number.wrapping_mul(7919) % count);
        let begun = Instant::now();
        let row = catalog.get(&id).expect("a read");
        times.push(begun.elapsed());
        assert!(row.is_some());
    }
    print_times("get by id", times);
    reads(&catalog);
}

fn reads(catalog: &Catalog) {
    let view = catalog.view();
    let large = Filter { collection: Some("knowledge".to_owned()), ..Filter::default() };
    let small = Filter { collection: Some("small".to_owned()), ..Filter::default() };
    let both = Filter { tags_all: vec!["tag 7".to_owned()], ..large.clone() };
    let important = Filter { min_importance: Some(0.4), ..Filter::default() };
    for (name, filter) in [("large", &large), ("small", &small), ("tag", &both), ("importance", &important)] {
        timed(&format!("scope {name}"), || view.scope(filter, None).expect("a scope"));
        timed(&format!("list {name}"), || view.list(filter, Order::Newest, 0, 20, None).expect("a list"));
    }
    timed("every vector", || {
        view.for_each_vector(ModelNumber(1), MemoryKey(0), |_, _| ControlFlow::Continue(()))
            .expect("locations")
    });
    timed("without vectors", || view.without_vector(ModelNumber(1), MemoryKey(0), 10).expect("a read"));
    timed("every row", || view.for_each_row(MemoryKey(0), |_| ControlFlow::Continue(())).expect("rows"));
}
