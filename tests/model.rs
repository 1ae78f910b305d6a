//! Random operations on a store, with clean and unclean reopens in between, against a map.
//!
//! `OPERATIONS=N` runs more of them, `SEED=N` the same ones again.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::Rng;
use memento_kv::{
    Duplicates, ErrorKind, Filter, List, Memory, MemoryId, Mode, Order, Recall, Remember, Store, Update,
};

const WORDS: [&str; 8] = ["apple", "river", "copper", "meadow", "signal", "harbor", "violet", "engine"];
const TAGS: [&str; 4] = ["red", "green", "blue", "rust"];
const COLLECTIONS: [&str; 2] = ["knowledge", "code"];

/// What the store should hold.
type Model = BTreeMap<String, Memory>;

fn text(dice: &mut Rng) -> String {
    (0..=dice.below(3)).map(|_| *dice.pick(&WORDS)).collect::<Vec<_>>().join(" ")
}

/// A memory with an id of its own, so that the model knows it before the store has it.
fn item(dice: &mut Rng, number: u64) -> (Remember, Memory) {
    let id = MemoryId::new(format!("m{number}")).expect("an id");
    let mut memory = Memory::new(id.clone(), text(dice), dice.below(100) as i64);
    memory.importance = dice.below(11) as f64 / 10.0;
    memory.collection = (*dice.pick(&COLLECTIONS)).to_owned();
    memory.tags = TAGS.iter().filter(|_| dice.one_in(3)).map(ToString::to_string).collect();
    let remember = Remember::new(&memory.text)
        .id(id)
        .at(memory.timestamp)
        .importance(memory.importance)
        .collection(&memory.collection)
        .tags(memory.tags.clone());
    (remember, memory)
}

fn filter(dice: &mut Rng) -> Filter {
    let mut filter = Filter::default();
    if dice.one_in(2) {
        filter.collection = Some((*dice.pick(&COLLECTIONS)).to_owned());
    }
    if dice.one_in(2) {
        filter.tags_any = vec![(*dice.pick(&TAGS)).to_owned(), (*dice.pick(&TAGS)).to_owned()];
    }
    if dice.one_in(3) {
        filter.tags_all = vec![(*dice.pick(&TAGS)).to_owned()];
    }
    if dice.one_in(3) {
        filter.since = Some(dice.below(100) as i64);
    }
    if dice.one_in(3) {
        filter.min_importance = Some(0.5);
    }
    filter
}

/// One random operation, on the store and on the model.
fn step(dice: &mut Rng, store: &Store, model: &mut Model, number: &mut u64) {
    let known =
        (!model.is_empty()).then(|| model.keys().nth(dice.below(model.len())).expect("below").clone());
    match (dice.below(10), known) {
        (0..=3, _) | (_, None) => {
            *number += 1;
            let (remember, memory) = item(dice, *number);
            let duplicates = if dice.one_in(2) { Duplicates::Keep } else { Duplicates::Merge };
            store.remember(remember.on_duplicate(duplicates)).expect("remember");
            model.insert(memory.id.to_string(), memory);
        }
        (4, _) => {
            let mut group = Vec::new();
            for _ in 0..dice.below(6) {
                *number += 1;
                let (remember, memory) = item(dice, *number);
                group.push(remember);
                model.insert(memory.id.to_string(), memory);
            }
            store.remember_many(group).expect("a group");
        }
        (5, Some(id)) => {
            // The same words again: kept once, with both sets of tags.
            let memory = model[&id].clone();
            let saved = store
                .remember(
                    Remember::new(&memory.text)
                        .collection(&memory.collection)
                        .tags(["again"])
                        .importance(1.0),
                )
                .expect("remember");
            let kept = model.get_mut(saved.id.as_str()).expect("one of those with this text");
            assert_eq!((&kept.text, &kept.collection), (&memory.text, &memory.collection));
            if !kept.tags.contains(&"again".to_owned()) {
                kept.tags.push("again".to_owned());
            }
            kept.importance = 1.0;
        }
        (6..=7, Some(id)) => {
            let memory = model.get_mut(&id).expect("known");
            let mut update = Update::new().importance(0.3).add_tags(["seen"]);
            if dice.one_in(2) {
                memory.text = text(dice);
                update = update.text(&memory.text);
            }
            memory.importance = 0.3;
            if !memory.tags.contains(&"seen".to_owned()) {
                memory.tags.push("seen".to_owned());
            }
            store.update(&id, update).expect("update");
        }
        (8, Some(id)) => {
            let answer = store.forget([id.as_str(), "nobody"]).expect("forget");
            assert_eq!((answer.forgotten.len(), answer.missing.len()), (1, 1));
            model.remove(&id);
            assert_eq!(store.update(&id, Update::new()).expect_err("forgotten").kind(), ErrorKind::NotFound);
        }
        (_, Some(id)) => {
            // A call that is repeated with its id changes nothing.
            let memory = model[&id].clone();
            let again = Remember::new(&memory.text)
                .id(memory.id.clone())
                .importance(memory.importance)
                .collection(&memory.collection)
                .tags(memory.tags.clone());
            assert_eq!(store.remember(again).expect("remember").duplicate_of, Some(memory.id));
        }
    }
}

/// Everything that can be asked, against the model.
fn compare(dice: &mut Rng, store: &Store, model: &Model, context: &str) {
    assert_eq!(&common::everything(store).expect("list"), model, "{context}");
    let filter = filter(dice);
    let mut expected: Vec<_> = model.values().filter(|memory| filter.matches(memory)).cloned().collect();
    expected.sort_by_key(|memory| memory.timestamp);
    let list = List::new().filter(filter.clone()).order(Order::Oldest).limit(usize::MAX);
    let mut listed = store.list(&list).expect("list");
    assert!(listed.is_sorted_by_key(|memory| memory.timestamp), "{context}");
    listed.sort_by(|a, b| (a.timestamp, &a.id).cmp(&(b.timestamp, &b.id)));
    expected.sort_by(|a, b| (a.timestamp, &a.id).cmp(&(b.timestamp, &b.id)));
    assert_eq!(listed, expected, "{context} {filter:?}");

    let word = *dice.pick(&WORDS);
    let recall = Recall::new(word).mode(Mode::Text).topk(10_000).filter(filter);
    let mut found: Vec<_> =
        store.recall(recall).expect("recall").results.into_iter().map(|found| found.memory.id).collect();
    found.sort();
    let mut expected: Vec<_> = expected
        .into_iter()
        .filter(|memory| memory.text.split(' ').any(|have| have == word))
        .map(|memory| memory.id)
        .collect();
    expected.sort();
    assert_eq!(found, expected, "{context} {word}");
}

/// The store as a kill at this moment would leave it, opened.
fn killed_copy(home: &Path) -> (tempfile::TempDir, Store) {
    let copy = common::quick_folder();
    common::copy_folder(home, copy.path());
    let store = common::open(copy.path());
    (copy, store)
}

#[test]
fn a_store_is_the_map_of_its_operations_through_every_reopen() {
    let seed = common::seed("model");
    let operations = common::number("OPERATIONS").unwrap_or(1_500);
    let mut dice = Rng::new(seed);
    let mut home = common::quick_folder();
    let mut store = common::open(home.path());
    let (mut model, mut number) = (Model::new(), 0);
    for done in 0..operations {
        let context = format!("seed {seed}, operation {done}");
        step(&mut dice, &store, &mut model, &mut number);
        if dice.one_in(15) {
            compare(&mut dice, &store, &model, &context);
        }
        if dice.one_in(60) {
            store.close().expect("close");
            store = common::open(home.path());
            compare(&mut dice, &store, &model, &format!("{context}, reopened"));
        }
        if dice.one_in(60) {
            // The store goes on from what a kill leaves.
            let (copy, survivor) = killed_copy(home.path());
            drop(std::mem::replace(&mut store, survivor));
            home = copy;
            compare(&mut dice, &store, &model, &format!("{context}, killed"));
        }
        if dice.one_in(200) {
            common::assert_whole(&store, &context);
        }
    }
    compare(&mut dice, &store, &model, &format!("seed {seed}, at the end"));
    common::assert_whole(&store, "at the end");
}

#[test]
fn every_state_between_two_operations_survives_a_kill() {
    let seed = common::seed("kill images");
    let mut dice = Rng::new(seed);
    let home = common::quick_folder();
    let store = common::open(home.path());
    let (mut model, mut number) = (Model::new(), 0);
    for done in 0..60 {
        step(&mut dice, &store, &mut model, &mut number);
        let (_copy, survivor) = killed_copy(home.path());
        compare(&mut dice, &survivor, &model, &format!("seed {seed}, operation {done}"));
    }
}
