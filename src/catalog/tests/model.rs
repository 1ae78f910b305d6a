//! Random operations against a map.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::parts::chance::Chance;

/// A memory as the model keeps it.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    row: Row,
    vectors: BTreeMap<u32, Location>,
}

/// What the view must say after some operations, worked out in the plainest way.
#[derive(Default)]
struct Model {
    memories: BTreeMap<MemoryKey, Kept>,
    models: BTreeMap<u32, ModelIdentity>,
    active: Option<ModelNumber>,
}

impl Model {
    fn of(script: &Script) -> Self {
        let mut model = Self::default();
        for record in script.records() {
            model.apply(&record);
        }
        model
    }

    fn apply(&mut self, record: &Applied<'_>) {
        let Applied { seq, location, op } = *record;
        let with = |given: &Option<Vectors>| given.iter().map(|v| (v.model.0, location)).collect::<Vec<_>>();
        match op {
            Op::Remember { memory, vectors } => {
                let key = MemoryKey(seq);
                let row = Row { key, seq, text_seq: seq, location, memory: memory.clone() };
                self.memories.insert(key, Kept { row, vectors: with(vectors).into_iter().collect() });
            }
            Op::Update { key, memory, vectors, .. } => {
                let kept = self.memories.get_mut(key).expect("scripts update what is there");
                if kept.row.memory.text != memory.text {
                    kept.row.text_seq = seq;
                    kept.vectors.clear();
                }
                kept.vectors.extend(with(vectors));
                (kept.row.seq, kept.row.location, kept.row.memory) = (seq, location, memory.clone());
            }
            Op::Forget { key, .. } => _ = self.memories.remove(key),
            Op::Vector { key, text_seq, vectors } => {
                if let Some(kept) = self
                    .memories
                    .get_mut(key)
                    .filter(|kept| [kept.row.text_seq, kept.row.seq].contains(text_seq))
                {
                    kept.vectors.insert(vectors.model.0, location);
                }
            }
            Op::Model { number, identity } => _ = self.models.insert(number.0, identity.clone()),
            Op::UseModel { number } => self.active = Some(*number),
            Op::RestorePoint(_) | Op::Restore(_) | Op::Lost(_) | Op::Seal(_) => {}
        }
    }

    /// Compares everything that the view can be asked with the model.
    fn check(&self, catalog: &Catalog, filters: &[Filter]) {
        let view = catalog.view();
        let rows: Vec<&Row> = self.memories.values().map(|kept| &kept.row).collect();
        let mut found = Vec::new();
        view.for_each_row(MemoryKey(0), |row| {
            found.push(row);
            ControlFlow::Continue(())
        })
        .expect("rows");
        assert_eq!(found.iter().collect::<Vec<_>>(), rows);
        assert_eq!(view.count(), rows.len() as u64);
        let named = |kept: &Kept| {
            let mut named: Vec<_> = kept.vectors.values().copied().chain([kept.row.location]).collect();
            named.sort_unstable();
            named.dedup();
            named.iter().map(|location| u64::from(location.len)).sum::<u64>()
        };
        assert_eq!(catalog.live_bytes(), self.memories.values().map(named).sum::<u64>());
        for row in &rows {
            assert_eq!(view.get(row.memory.id.as_str()).expect("a read").as_ref(), Some(*row));
            let same = view.keys_by_text_hash(&row.memory.collection, &row.memory.text).expect("a read");
            let expected = rows.iter().filter(|other| {
                other.memory.text == row.memory.text && other.memory.collection == row.memory.collection
            });
            assert_eq!(same, expected.map(|row| row.key).collect::<Vec<_>>());
        }
        let mut collections: BTreeMap<String, u64> = BTreeMap::new();
        for row in &rows {
            *collections.entry(row.memory.collection.clone()).or_default() += 1;
        }
        assert_eq!(view.collections().expect("counts"), collections.into_iter().collect::<Vec<_>>());

        assert_eq!(catalog.active_model(), self.active);
        self.check_vectors(&view);
        for filter in filters {
            self.check_filter(&view, filter);
        }
    }

    fn check_vectors(&self, view: &View<'_>) {
        let models = view.models().expect("models");
        let expected: Vec<_> = self.models.iter().map(|(n, id)| (ModelNumber(*n), id.clone())).collect();
        assert_eq!(models, expected);
        for model in 1..=3 {
            let mut found = Vec::new();
            view.for_each_vector(ModelNumber(model), MemoryKey(0), |key, location| {
                found.push((key, location));
                ControlFlow::Continue(())
            })
            .expect("locations");
            let of = |(key, kept): (&MemoryKey, &Kept)| kept.vectors.get(&model).map(|at| (*key, *at));
            let expected: Vec<_> = self.memories.iter().filter_map(of).collect();
            assert_eq!(found, expected);
            assert_eq!(view.count_with_vectors(ModelNumber(model)).expect("a count"), expected.len() as u64);
            let without = self.memories.values().filter(|kept| !kept.vectors.contains_key(&model));
            let without: Vec<_> = without.map(|kept| (kept.row.key, kept.row.text_seq)).collect();
            let mut found = Vec::new();
            while let Ok(more) =
                view.without_vector(ModelNumber(model), found.last().map_or(MemoryKey(0), |(key, _)| *key), 3)
                && !more.is_empty()
            {
                found.extend(more);
            }
            assert_eq!(found, without);
            for (key, kept) in &self.memories {
                let location = view.vector_location(*key, ModelNumber(model)).expect("a read");
                assert_eq!(location, kept.vectors.get(&model).copied());
            }
        }
    }

    fn check_filter(&self, view: &View<'_>, filter: &Filter) {
        let mut rows: Vec<&Row> = self.memories.values().map(|kept| &kept.row).collect();
        rows.retain(|row| filter.matches(&row.memory));
        let keys = view.scope(filter, None).expect("a scope");
        if filter.is_empty() {
            assert_eq!(keys, None);
        } else {
            let expected: Vec<_> = rows.iter().map(|row| row.key).collect();
            assert_eq!(keys, Some(expected), "{filter:?}");
        }
        rows.sort_by_key(|row| (row.memory.timestamp, row.key));
        for (order, offset, limit) in [(Order::Oldest, 0, 1000), (Order::Newest, 2, 5), (Order::Newest, 0, 0)]
        {
            let page = view.list(filter, order, offset, limit, None).expect("a list");
            let mut expected = rows.clone();
            if order == Order::Newest {
                expected.reverse();
            }
            let expected: Vec<_> = expected.into_iter().skip(offset).take(limit).collect();
            assert_eq!(page.iter().collect::<Vec<_>>(), expected, "{filter:?} {order:?} {offset} {limit}");
        }
    }
}

/// Numbers that look random and are the same for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let mut chance = Chance(self.0);
        let below = chance.below(end);
        self.0 = chance.0;
        below
    }

    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len() as u64) as usize]
    }

    fn memory(&mut self, id: &str) -> Memory {
        let text = format!("{} {}", self.one_of(&["tea", "coffee", "Wasser", "水"]), self.below(4));
        let mut memory = memory(id, &text, self.below(20) as i64 - 10);
        memory.collection = self.one_of(&["knowledge", "people", "c"]).to_owned();
        memory.source = self.one_of(&["conversation", "import"]).to_owned();
        memory.session_id = self.one_of(&["default", "s1", "s2", "s3"]).to_owned();
        memory.importance = self.below(5) as f64 / 4.0;
        memory.tags =
            (0..self.below(4)).map(|_| self.one_of(&["a", "b", "c", "people"]).to_owned()).collect();
        if self.below(3) == 0 {
            memory.metadata.insert("n".to_owned(), self.below(9).into());
        }
        memory
    }

    fn vectors(&mut self) -> Option<Vectors> {
        (self.below(2) == 0).then(|| vectors(1 + self.below(3) as u32))
    }

    fn filter(&mut self) -> Filter {
        let mut filter = Filter::default();
        for _ in 0..1 + self.below(2) {
            match self.below(8) {
                0 => filter.tags_any = vec!["a".to_owned(), self.one_of(&["b", "none"]).to_owned()],
                1 => filter.tags_all = vec!["a".to_owned(), self.one_of(&["a", "b"]).to_owned()],
                2 => filter.collection = Some(self.one_of(&["knowledge", "people", "none"]).to_owned()),
                3 => filter.source = Some(self.one_of(&["conversation", "import"]).to_owned()),
                4 => filter.session = Some(self.one_of(&["default", "s1"]).to_owned()),
                5 => filter.since = Some(self.below(20) as i64 - 10),
                6 => filter.before = Some(self.below(20) as i64 - 10),
                _ => filter.min_importance = Some(self.below(5) as f64 / 4.0),
            }
        }
        filter
    }

    /// A script in which every update names a memory that is there.
    pub(super) fn script(&mut self, len: u64) -> Script {
        let mut script = Script::default();
        let mut alive: Vec<(MemoryKey, Memory)> = Vec::new();
        let mut text_seqs: BTreeMap<MemoryKey, BTreeSet<u64>> = BTreeMap::new();
        for number in 0..len {
            let chosen = self.below(alive.len().max(1) as u64) as usize;
            let next = script.ops.len() as u64 + 1;
            let op = match (self.below(10), alive.get(chosen).cloned()) {
                (0..=1, Some((key, old))) => {
                    let mut memory = self.memory(old.id.as_str());
                    if self.below(2) == 0 {
                        memory.text = old.text;
                    }
                    alive[chosen].1 = memory.clone();
                    text_seqs.entry(key).or_default().insert(next);
                    Op::Update { key, previous_seq: 0, memory, vectors: self.vectors() }
                }
                (2, Some((key, memory))) => {
                    alive.swap_remove(chosen);
                    Op::Forget { key, id: memory.id }
                }
                (3..=5, Some((key, _))) => {
                    let seqs: Vec<u64> = text_seqs[&key].iter().copied().collect();
                    let text_seq = seqs[self.below(seqs.len() as u64) as usize];
                    Op::Vector { key, text_seq, vectors: vectors(1 + self.below(3) as u32) }
                }
                (6, _) if self.below(4) == 0 => {
                    Op::Model { number: ModelNumber(1 + self.below(3) as u32), identity: identity("m") }
                }
                (6, _) if self.below(4) == 0 => {
                    Op::UseModel { number: ModelNumber(1 + self.below(3) as u32) }
                }
                (6, _) if self.below(4) == 0 => {
                    Op::Forget { key: MemoryKey(1 << 40), id: MemoryId::new("nobody").expect("a good id") }
                }
                _ => {
                    let memory = self.memory(&format!("id-{}", number * 7919 % 10_007));
                    alive.push((MemoryKey(next), memory.clone()));
                    text_seqs.entry(MemoryKey(next)).or_default().insert(next);
                    Op::Remember { memory, vectors: self.vectors() }
                }
            };
            script.push(op);
        }
        script
    }
}

#[test]
fn view_says_what_a_plain_map_says_after_any_operations() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let script = dice.script(200);
        let (_folder, path, catalog) = empty();
        // Some batches are in redb's tables, some above them, in every mixture.
        let records = script.records();
        let mut from = 0;
        while from < records.len() {
            let end = records.len().min(from + 1 + dice.below(20) as usize);
            catalog.apply(&records[from..end], position_after(end as u64)).expect("a script is in order");
            from = end;
            match dice.below(8) {
                0 if from < 150 => catalog.checkpoint().expect("a checkpoint"),
                1 if from < 150 => write_undurably(&catalog).expect("a write"),
                _ => {}
            }
        }
        let filters: Vec<Filter> =
            std::iter::once(Filter::default()).chain((0..40).map(|_| dice.filter())).collect();
        let model = Model::of(&script);
        model.check(&catalog, &filters);
        catalog.close().expect("a close");
        model.check(&reopened(&path), &filters);
    }
}

#[test]
fn rebuild_gives_the_same_tables_as_record_by_record() {
    for seed in 100..110 {
        let script = Dice(seed).script(300);
        let (_folder_1, _, one_by_one) = empty();
        let (_folder_2, _, at_once) = empty();
        script.apply_to(&one_by_one, 1);
        script.apply_to(&at_once, 1000);
        at_once.checkpoint().expect("a checkpoint");
        assert_eq!(dump(&one_by_one), dump(&at_once), "seed {seed}");
        assert_eq!(one_by_one.position(), position_after(300));
    }
}

#[test]
fn records_are_applied_while_a_checkpoint_is_written() {
    let script = Dice(7).script(2000);
    let (_folder, path, catalog) = empty();
    std::thread::scope(|threads| {
        let applying = threads.spawn(|| script.apply_to(&catalog, 3));
        while !applying.is_finished() {
            catalog.checkpoint().expect("a checkpoint");
        }
    });
    let model = Model::of(&script);
    model.check(&catalog, &[Filter::default()]);
    catalog.close().expect("a close");
    model.check(&reopened(&path), &[Filter::default()]);
}
