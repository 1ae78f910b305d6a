//! Models and vectors through the public API: who made them, and what a store does without them.

mod common;

use std::sync::{Arc, Mutex};

use common::{Letters, folder as home, identity, open, options};
use memento_kv::embed::{Embedder, ModelIdentity, ModelSpec};
use memento_kv::{Degraded, ErrorKind, Mode, Options, Recall, Remember, Result, Store};

#[test]
fn a_group_is_durable_before_it_is_embedded_and_found_by_words_until_then() {
    let home = home();
    let store = open(home.path());
    let group = (0..10).map(|n| Remember::new(format!("group memory {n}"))).collect();
    assert_eq!(store.remember_many(group).expect("remember").len(), 10);
    let stats = store.stats().expect("stats");
    assert_eq!((stats.memories, stats.embedded, stats.pending), (10, 0, 10));
    let answer = store.recall(Recall::new("group memory 7")).expect("recall");
    assert_eq!(answer.results[0].text, "group memory 7");
    assert!(!answer.degraded.is_empty());
    drop(store); // As after a crash: what is due is still due.
    let store = open(home.path());
    let embedded = store.embed_pending(&mut |_| {}).expect("embed");
    assert_eq!((embedded.embedded, embedded.failed, store.stats().expect("stats").pending), (10, 0, 0));
    assert!(store.recall(Recall::new("group memory 7")).expect("recall").degraded.is_empty());
}

#[test]
fn vectors_are_made_behind_the_calls() {
    let home = home();
    let store = Store::open(options(home.path()).background_embedding(true)).expect("open");
    store.remember_many((0..200).map(|n| Remember::new(format!("memory {n}"))).collect()).expect("remember");
    while store.stats().expect("stats").pending > 0 {
        std::thread::yield_now();
    }
    assert_eq!(store.stats().expect("stats").embedded, 200);
}

#[test]
fn a_failed_embedding_never_costs_the_memory() {
    let home = home();
    let letters = Letters::named("letters");
    letters.set_broken(true);
    let store = Store::open(options(home.path()).embedder(letters.clone())).expect("open");
    store.remember(Remember::new("kept without a vector")).expect("remember");
    let answer = store.recall(Recall::new("vector")).expect("words answer");
    assert_eq!(answer.results.len(), 1);
    assert!(matches!(answer.degraded[..], [Degraded::NoModel(_)]), "{:?}", answer.degraded);
    assert_eq!(
        store.recall(Recall::new("vector").mode(Mode::Vector)).expect_err("no vector").kind(),
        ErrorKind::Model
    );
    letters.set_broken(false);
    store.embed_pending(&mut |_| {}).expect("embed");
    assert!(store.recall(Recall::new("vector kept")).expect("recall").degraded.is_empty());
}

#[test]
fn another_model_is_never_used_instead_and_reembed_converts() {
    let home = home();
    let store = open(home.path());
    store.remember(Remember::new("made by letters")).expect("remember");
    store.close().expect("close");
    let other = Letters::named("other letters");
    let store = Store::open(options(home.path()).embedder(other.clone())).expect("open");
    let answer = store.recall(Recall::new("letters")).expect("words answer");
    assert_eq!(answer.results.len(), 1);
    assert!(matches!(answer.degraded[..], [Degraded::NoModel(_)]), "{:?}", answer.degraded);
    assert!(store.stats().expect("stats").model_problem.is_some());
    let other: Arc<dyn Embedder> = other;
    store.reembed_with(&other, &mut |_| {}).expect("reembed");
    assert!(store.recall(Recall::new("letters made")).expect("recall").degraded.is_empty());
    drop(store);
    let store = Store::open(options(home.path()).embedder(other)).expect("open");
    assert!(store.recall(Recall::new("letters")).expect("recall").degraded.is_empty());
    assert_eq!(store.stats().expect("stats").model.expect("a model").name, "other letters");
}

#[test]
fn callers_may_give_all_vectors() {
    let home = home();
    let options = || Options::at(home.path()).model(ModelSpec::None);
    let store = Store::open(options()).expect("open");
    let north = store.remember(Remember::new("north").vector([0.0, 2.0])).expect("remember").id;
    store.remember(Remember::new("east").vector([1.0, 0.0])).expect("remember");
    let answer = store.recall(Recall::by_vector([0.1, 1.0]).topk(1)).expect("recall");
    assert_eq!(answer.results[0].id, north);
    for bad in
        [vec![], vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0], vec![1.0; 3], vec![1.0; 5000]]
    {
        assert_eq!(
            store.remember(Remember::new("bad").vector(bad.clone())).expect_err("refused").kind(),
            ErrorKind::Invalid
        );
        assert_eq!(store.recall(Recall::by_vector(bad)).expect_err("refused").kind(), ErrorKind::Invalid);
    }
    drop(store);
    let store = Store::open(options()).expect("open");
    assert_eq!(store.recall(Recall::by_vector([0.1, 1.0]).topk(1)).expect("recall").results[0].id, north);
}

/// Calls somebody while it embeds.
struct Calling {
    identity: ModelIdentity,
    call: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Embedder for Calling {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn embed_document(&self, _: &str) -> Result<Vec<Vec<f32>>> {
        if let Some(call) = self.call.lock().expect("lock").take() {
            call();
        }
        Ok(vec![vec![1.0; 5]])
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        Ok(self.embed_document(query)?.remove(0))
    }
}

#[test]
fn what_is_stored_while_the_model_changes_never_gets_a_vector_of_the_wrong_model() {
    let home = home();
    let store = open(home.path());
    store.remember(Remember::new("stored before")).expect("remember");
    let during = store.clone();
    let call = move || {
        during.remember(Remember::new("stored meanwhile")).expect("remember");
    };
    let other: Arc<dyn Embedder> =
        Arc::new(Calling { identity: identity("calling", 5), call: Mutex::new(Some(Box::new(call))) });
    store.reembed_with(&other, &mut |_| {}).expect("reembed");
    store.remember(Remember::new("stored after")).expect("remember");
    store.embed_pending(&mut |_| {}).expect("embed");
    let stats = store.stats().expect("stats");
    assert_eq!(
        (stats.model.expect("a model").name.as_str(), stats.embedded, stats.pending),
        ("calling", 3, 0)
    );
    drop(store);
    // Loaded from the log again: a vector that is not of this model would be missing here.
    let store = Store::open(options(home.path()).embedder(other)).expect("open");
    let answer = store.recall(Recall::new("stored").mode(Mode::Vector)).expect("recall");
    assert_eq!((answer.results.len(), answer.degraded), (3, Vec::new()));
}

/// Gives so many vectors of 4,096 dimensions as the text has letters.
struct Wide(ModelIdentity);

impl Embedder for Wide {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        Ok(vec![vec![0.5; 4096]; text.len()])
    }

    fn embed_query(&self, _: &str) -> Result<Vec<f32>> {
        Ok(vec![0.5; 4096])
    }
}

#[test]
fn vectors_that_are_too_many_for_one_group_or_record_stop_nobody() {
    let home = home();
    let store =
        Store::open(options(home.path()).embedder(Arc::new(Wide(identity("wide", 4096))))).expect("open");
    // 11 MiB each, so that they do not fit into one atomic group; the last is more than a record holds.
    let mut group: Vec<_> = ["a", "b", "c", "d"].map(|letter| Remember::new(letter.repeat(700))).into();
    group.push(Remember::new("e".repeat(800)));
    store.remember_many(group).expect("remember");
    let embedded = store.embed_pending(&mut |_| {}).expect("embed");
    assert_eq!((embedded.embedded, embedded.failed), (4, 1));
    let long = store.remember(Remember::new("f".repeat(800))).expect("stored without a vector");
    assert!(store.get(&long.id).expect("get").is_some());
    assert_eq!(store.stats().expect("stats").pending, 2);
}
