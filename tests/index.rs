//! The vector index through the public API: blocks, what comes after them, and what happens when they are damaged.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Rng, folder};
use memento_kv::check::CheckStatus;
use memento_kv::embed::ModelSpec;
use memento_kv::{
    Degraded, Effort, ErrorKind, Filter, IndexBuilder, MemoryId, Options, Recall, Remember, Store, Update,
};

const DIMENSIONS: usize = 8;

fn open(home: &Path) -> Store {
    Store::open(Options::at(home).model(ModelSpec::None)).expect("open")
}

fn vector(rng: &mut Rng) -> Vec<f32> {
    (0..DIMENSIONS).map(|_| rng.below(2001) as f32 / 1000.0 - 1.0).collect()
}

/// A store, and beside it what it should hold.
struct Twin {
    store: Store,
    vectors: HashMap<String, Vec<f32>>,
    rng: Rng,
    next: usize,
}

impl Twin {
    fn new(home: &Path, seed: u64) -> Self {
        Self { store: open(home), vectors: HashMap::new(), rng: Rng::new(seed), next: 0 }
    }

    fn remember(&mut self, count: usize) {
        let mut group = Vec::new();
        for _ in 0..count {
            let (id, vector) = (format!("m{}", self.next), vector(&mut self.rng));
            let tag = format!("tag{}", self.next % 100);
            group.push(
                Remember::new(&id).id(MemoryId::new(&id).expect("an id")).tags([tag]).vector(vector.clone()),
            );
            self.vectors.insert(id, vector);
            self.next += 1;
        }
        for part in group.chunks(5000) {
            self.store.remember_many(part.to_vec()).expect("remember");
        }
    }

    fn forget(&mut self, id: &str) {
        self.store.forget([id]).expect("forget");
        self.vectors.remove(id);
    }

    fn change(&mut self, id: &str) {
        let vector = vector(&mut self.rng);
        let update = Update::new().text(format!("{id} says something else")).vector(vector.clone());
        self.store.update(id, update).expect("update");
        self.vectors.insert(id.to_owned(), vector);
    }

    fn reopen(self) -> Self {
        let home = self.store.home().to_owned();
        self.store.close().expect("close");
        Self { store: open(&home), ..self }
    }

    /// The nearest by the book.
    fn exact(&self, query: &[f32], k: usize, in_scope: impl Fn(&str) -> bool) -> Vec<String> {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let cosine = |vector: &[f32]| dot(vector, query) / dot(vector, vector).sqrt();
        let mut all: Vec<_> = self.vectors.iter().filter(|(id, _)| in_scope(id)).collect();
        all.sort_by(|a, b| cosine(b.1).total_cmp(&cosine(a.1)));
        all.into_iter().take(k).map(|(id, _)| id.clone()).collect()
    }

    /// How many of the ten nearest memories recall finds, over some queries.
    fn recall_at_10(&mut self, effort: Effort) -> f64 {
        let (mut found, mut expected) = (0, 0);
        for _ in 0..20 {
            let query = vector(&mut self.rng);
            let exact = self.exact(&query, 10, |_| true);
            let recall = Recall::by_vector(query).topk(10).effort(effort);
            let answer = self.store.recall(recall).expect("recall");
            assert!(answer.degraded.is_empty(), "{:?}", answer.degraded);
            assert_eq!(answer.results.len(), exact.len());
            expected += exact.len();
            found += answer.results.iter().filter(|found| exact.contains(&found.id.to_string())).count();
        }
        found as f64 / expected as f64
    }
}

fn blocks(home: &Path) -> Vec<PathBuf> {
    files(home, "mvec")
}

fn text_blocks(home: &Path) -> Vec<PathBuf> {
    files(home, "mtxt")
}

fn files(home: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(home.join("store/index")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("entry").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn what_is_in_a_block_and_what_came_after_it_is_found_also_after_an_opening() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 1);
    twin.remember(1500);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let stats = twin.store.stats().expect("stats").index;
    assert_eq!((stats.rows, stats.live, stats.gone, stats.graph), (1500, 0, 0, false));
    assert_eq!(blocks(home.path()).len(), 1);
    assert!(twin.recall_at_10(Effort::Normal) > 0.99);
    twin.remember(50);
    twin.forget("m7");
    twin.change("m8");
    twin.change("m1510");
    for _ in 0..2 {
        assert!(twin.recall_at_10(Effort::Normal) > 0.99);
        let stats = twin.store.stats().expect("stats").index;
        assert_eq!((stats.rows, stats.live, stats.gone), (1500, 51, 2), "{stats:?}");
        twin = twin.reopen();
    }
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let stats = twin.store.stats().expect("stats").index;
    assert_eq!((stats.rows, stats.live, stats.gone, stats.generation), (1549, 0, 0, 2), "{stats:?}");
    assert_eq!(blocks(home.path()).len(), 1, "the former block is gone");
    assert!(twin.recall_at_10(Effort::Normal) > 0.99);
    assert_eq!(twin.store.check(&mut |_| {}).expect("check").status, CheckStatus::Ok);
}

#[test]
fn a_large_store_is_walked_through_a_graph_which_is_extended_and_filters_are_exact() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 2);
    twin.remember(21_000);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let stats = twin.store.stats().expect("stats").index;
    assert_eq!((stats.rows, stats.graph), (21_000, true), "{stats:?}");
    assert!(twin.recall_at_10(Effort::Normal) > 0.95);
    assert!(twin.recall_at_10(Effort::High) > 0.97);
    assert!(twin.recall_at_10(Effort::Exact) > 0.99);
    twin.remember(500);
    for number in 0..500 {
        twin.forget(&format!("m{}", number * 3));
    }
    assert!(twin.recall_at_10(Effort::Normal) > 0.95);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let mut twin = twin.reopen();
    assert!(twin.recall_at_10(Effort::Normal) > 0.95);
    let stats = twin.store.stats().expect("stats").index;
    assert_eq!((stats.rows, stats.graph, stats.live), (21_000, true, 0), "{stats:?}");
    for _ in 0..10 {
        let query = vector(&mut twin.rng);
        let tagged = |id: &str| id[1..].parse::<usize>().expect("a number") % 100 == 42;
        let exact = twin.exact(&query, 10, tagged);
        let filter = Filter { tags_any: vec!["tag42".to_owned()], ..Filter::default() };
        let answer = twin.store.recall(Recall::by_vector(query).topk(10).filter(filter)).expect("recall");
        let found: Vec<String> = answer.results.iter().map(|found| found.id.to_string()).collect();
        assert_eq!(found.iter().filter(|id| exact.contains(id)).count(), 10, "{found:?} {exact:?}");
    }
}

#[test]
fn either_builder_makes_a_graph_and_recalls_are_measured() {
    for builder in [IndexBuilder::Linker, IndexBuilder::HnswRs] {
        let home = folder();
        let mut twin = Twin::new(home.path(), 10);
        twin.remember(20_500);
        let Twin { store, vectors, rng, next } = twin;
        store.close().expect("close");
        let options = Options::at(home.path()).model(ModelSpec::None).index_builder(builder);
        let mut twin = Twin { store: Store::open(options).expect("open"), vectors, rng, next };
        twin.store.build_index(true, &mut |_| {}).expect("build");
        for _ in 0..10 {
            assert!(twin.recall_at_10(Effort::Normal) > 0.95, "{builder:?}");
        }
        // One in 64 is compared with a scan, behind the calls.
        let mut stats = twin.store.stats().expect("stats").index;
        while stats.recall_samples < 3 {
            std::thread::yield_now();
            stats = twin.store.stats().expect("stats").index;
        }
        assert!(stats.recall_at_10.expect("measured") > 0.9, "{stats:?}");
        assert!(stats.graph && stats.making.is_none() && stats.problem.is_none(), "{stats:?}");
    }
}

#[test]
fn a_damaged_block_is_noticed_or_harmless_and_is_made_anew() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 3);
    twin.remember(300);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let mut twin = twin.reopen();
    let block = blocks(home.path()).remove(0);
    let whole = fs::read(&block).expect("read");
    let query = vector(&mut twin.rng);
    let nearest = |store: &Store| {
        let answer = store.recall(Recall::by_vector(query.clone()).topk(5)).expect("recall");
        (answer.results.iter().map(|found| found.id.to_string()).collect::<Vec<_>>(), answer.degraded)
    };
    let (expected, degraded) = nearest(&twin.store);
    assert!(degraded.is_empty());
    let Twin { store, mut rng, .. } = twin;
    store.close().expect("close");
    let mut damages: Vec<Vec<u8>> =
        vec![Vec::new(), whole[..10].to_vec(), whole[..4096].to_vec(), vec![0; whole.len()]];
    damages.push([&whole[..], &[0]].concat());
    for _ in 0..40 {
        let mut damaged = whole.clone();
        damaged[rng.below(4096)] ^= 1 << rng.below(8);
        damages.push(damaged);
        damages.push(whole[..rng.below(whole.len())].to_vec());
        // Keys and scales stand behind codes and halves.
        let mut damaged = whole.clone();
        let at = whole.len() - 8192 + rng.below(1200);
        damaged[at] ^= 1 << rng.below(8);
        damages.push(damaged);
    }
    let mut told = 0;
    for (number, damaged) in damages.iter().enumerate() {
        fs::write(&block, damaged).expect("write");
        let store = open(home.path());
        let (found, degraded) = nearest(&store);
        assert_eq!(found, expected, "damage {number}");
        // Behind the calls another one is made, sometimes before the answer is.
        told += usize::from(matches!(degraded[..], [Degraded::IndexDamaged]));
        assert!(degraded.iter().all(|one| *one == Degraded::IndexDamaged), "damage {number}: {degraded:?}");
        store.build_index(false, &mut |_| {}).expect("build");
        let (found, degraded) = nearest(&store);
        assert_eq!((found, degraded.len()), (expected.clone(), 0));
        store.close().expect("close");
        for other in blocks(home.path()) {
            fs::remove_file(other).expect("remove");
        }
    }
    assert!(told > damages.len() / 2, "{told} of {} were told", damages.len());
}

#[test]
fn a_check_finds_every_flipped_bit_of_a_block_and_a_repair_makes_it_anew() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 4);
    twin.remember(50);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let Twin { store, mut rng, .. } = twin;
    store.close().expect("close");
    let block = blocks(home.path()).remove(0);
    let whole = fs::read(&block).expect("read");
    for at in (0..whole.len()).step_by(97).chain([4096, whole.len() - 1]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << rng.below(8);
        fs::write(&block, &damaged).expect("write");
        let report = memento_kv::check::check_files(home.path(), &mut |_| {}).expect("check");
        let kinds: Vec<&str> = report.findings.iter().map(|finding| finding.kind.as_str()).collect();
        assert_eq!(kinds, ["index-block"], "offset {at}");
    }
    let options = Options::at(home.path()).model(ModelSpec::None);
    let (store, report) = memento_kv::Store::repair(options, &mut |_| {}).expect("repair");
    assert_eq!(report.status, CheckStatus::Repaired);
    assert!(!block.exists(), "it is derived: a repair takes it away");
    assert_eq!(store.check(&mut |_| {}).expect("check").status, CheckStatus::Ok);
}

#[test]
fn what_stands_in_a_blocks_place_is_no_block_and_is_never_followed() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 5);
    twin.remember(20);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    let Twin { store, .. } = twin;
    store.close().expect("close");
    let block = blocks(home.path()).remove(0);
    let elsewhere = folder();
    let victim = elsewhere.path().join("victim");
    fs::rename(&block, &victim).expect("rename");
    let before = fs::read(&victim).expect("read");
    std::os::unix::fs::symlink(&victim, &block).expect("link");
    let ask = || {
        let store = open(home.path());
        assert_eq!(
            store.recall(Recall::by_vector(vec![1.0; DIMENSIONS]).topk(50)).expect("recall").results.len(),
            20
        );
        store.build_index(false, &mut |_| {}).expect("build");
        store.close().expect("close");
    };
    ask();
    assert_eq!(fs::read(&victim).expect("read"), before);
    for other in blocks(home.path()) {
        fs::remove_file(other).expect("remove");
    }
    fs::create_dir(&block).expect("folder");
    ask();
    assert!(block.is_dir());
}

#[test]
fn a_block_of_another_store_or_of_another_model_is_not_used() {
    let (home, other) = (folder(), folder());
    let mut twins = [Twin::new(home.path(), 6), Twin::new(other.path(), 7)];
    for twin in &mut twins {
        twin.remember(30);
        twin.store.build_index(false, &mut |_| {}).expect("build");
    }
    let [first, second] = twins.map(|twin| {
        twin.store.close().expect("close");
        twin.vectors
    });
    fs::copy(blocks(other.path()).remove(0), blocks(home.path()).remove(0)).expect("copy");
    let store = open(home.path());
    let query = second["m3"].clone();
    let answer = store.recall(Recall::by_vector(query).topk(1)).expect("recall");
    let id = answer.results[0].id.to_string();
    assert!(answer.results[0].score < 0.99999 || first[&id] == second["m3"], "{id}");
}

#[test]
fn a_purged_vector_is_in_no_block() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 8);
    twin.remember(30);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    assert_eq!((blocks(home.path()).len(), text_blocks(home.path()).len()), (1, 1));
    twin.store.purge(["m3"], &mut |_| {}).expect("purge");
    assert_eq!((blocks(home.path()).len(), text_blocks(home.path()).len()), (0, 0));
    twin.vectors.remove("m3");
    assert!(twin.recall_at_10(Effort::Normal) > 0.99);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    assert_eq!(twin.store.stats().expect("stats").index.rows, 29);
}

#[test]
fn a_lost_block_of_a_large_store_is_made_anew_before_the_first_answer() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 12);
    twin.remember(10_500);
    let Twin { store, vectors, rng, next } = twin;
    store.close().expect("close");
    for block in blocks(home.path()) {
        fs::remove_file(block).expect("remove");
    }
    let mut twin = Twin { store: open(home.path()), vectors, rng, next };
    assert!(twin.recall_at_10(Effort::Normal) > 0.99);
    let stats = twin.store.stats().expect("stats").index;
    assert_eq!((stats.rows, stats.live), (10_500, 0), "not all in memory: {stats:?}");
    // One that is only read makes no files, and finds everything all the same.
    let Twin { store, vectors, rng, next } = twin;
    store.close().expect("close");
    for block in blocks(home.path()) {
        fs::remove_file(block).expect("remove");
    }
    let store = Store::open(Options::at(home.path()).model(ModelSpec::None).read_only(true)).expect("open");
    let mut twin = Twin { store, vectors, rng, next };
    assert!(twin.recall_at_10(Effort::Normal) > 0.99);
    assert_eq!(blocks(home.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_was_forgotten_and_compacted_away_takes_no_answers_place() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 11);
    twin.remember(400);
    twin.store.build_index(false, &mut |_| {}).expect("build");
    for number in 0..300 {
        twin.forget(&format!("m{number}"));
    }
    twin.store.compact(&mut |_| {}).expect("compact");
    // Without a block at the close: as after a kill.
    let block = blocks(home.path()).remove(0);
    let kept = fs::read(&block).expect("read");
    let Twin { store, vectors, rng, next } = twin;
    store.close().expect("close");
    for other in blocks(home.path()) {
        fs::remove_file(other).expect("remove");
    }
    fs::write(&block, kept).expect("write");
    let mut twin = Twin { store: open(home.path()), vectors, rng, next };
    assert!(twin.recall_at_10(Effort::Normal) > 0.99);
}

#[test]
fn memories_of_many_windows_and_equal_vectors_give_as_many_answers_as_were_asked_for() {
    let home = folder();
    let store = open(home.path());
    let same = vec![1.0; DIMENSIONS];
    let group = |from: usize| {
        let one = |n| Remember::new(format!("equal {n}")).vector(same.clone());
        (from..from + 5000).map(one).collect::<Vec<_>>()
    };
    for from in (0..25_000).step_by(5000) {
        store.remember_many(group(from)).expect("remember");
    }
    store.build_index(false, &mut |_| {}).expect("build");
    assert!(store.stats().expect("stats").index.graph);
    let answer = store.recall(Recall::by_vector(same.clone()).topk(20)).expect("recall");
    assert_eq!(answer.results.len(), 20);
    assert!(answer.results.iter().all(|found| found.score > 0.999));
    for bad in [vec![f32::NAN; 8], vec![0.0; 8], vec![1.0; 9]] {
        let error = store.recall(Recall::by_vector(bad)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn time_that_ran_out_is_told_and_what_was_found_is_returned() {
    let home = folder();
    let mut twin = Twin::new(home.path(), 9);
    twin.remember(100);
    let query = Recall::by_vector(vec![1.0; DIMENSIONS]).topk(5);
    assert!(twin.store.recall(query.clone()).expect("recall").degraded.is_empty());
    // Whatever is done first takes longer than this.
    match twin.store.recall(query.timeout(Some(std::time::Duration::from_nanos(1)))) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout),
        Ok(answer) => assert!(matches!(answer.degraded[..], [Degraded::Truncated]), "{:?}", answer.degraded),
    }
}
