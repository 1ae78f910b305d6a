//! Recall: words and meaning, fused; the search indexes in memory; answers that are still true are served again.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::apply::is_healed_by_rebuild;
use super::embedding::{check_made, normalize};
use super::{Inner, Store, lock};
use crate::catalog::Catalog;
use crate::embed::ModelIdentity;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::format::record::Location;
use crate::fs::DiskFile;
use crate::log::{self, Committed, SegmentMap};
use crate::memory::{Answer, Degraded, Filter, Match, Memory, Mode, Recall};
use crate::rank::{Ranked, rank};
use crate::scope::{Deadline, Scope};
use crate::text::TextIndex;
use crate::vector::VectorSet;

/// The vector of a question, and the model it belongs to.
type QueryVector = (ModelNumber, Arc<ModelIdentity>, Arc<[f32]>);

/// A model by its number, and the dimensions of its vectors.
type VectorSpace = (ModelNumber, u32);

/// Answers that are kept.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// An answer with more bytes of texts and metadata is not kept, so that all together stay below 16 MiB.
const ANSWER_LEN_MAX: usize = 64 << 10;
/// Rows that are loaded between two looks at the clock.
const LOAD_ROWS: usize = 1024;

/// The search indexes in memory. Each is loaded when it is first needed, from there on it follows the log.
#[derive(Default)]
pub(super) struct Search {
    text: Loading<TextIndex>,
    vectors: Loading<VectorIndex>,
}

/// An index that is loaded from the view in order of keys.
struct Loading<T> {
    index: Option<T>,
    /// Memories from this key on are not loaded yet; `None` when all are.
    next: Option<MemoryKey>,
}

struct VectorIndex {
    model: ModelNumber,
    set: VectorSet,
    /// Memories whose vectors the view names but the log does not give.
    unread: u64,
}

impl<T> Default for Loading<T> {
    fn default() -> Self {
        Self { index: None, next: None }
    }
}

impl<T> Loading<T> {
    fn is_complete(&self) -> bool {
        self.index.is_some() && self.next.is_none()
    }

    /// The index, if it has this memory's place already: later places are loaded from the view in their turn.
    fn at(&mut self, key: MemoryKey) -> Option<&mut T> {
        let next = self.next;
        self.index.as_mut().filter(|_| next.is_none_or(|next| key < next))
    }
}

impl Search {
    /// Forgets everything; it is loaded again when it is needed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Follows records that the view has just taken.
    pub(super) fn apply(&mut self, records: &[Committed], catalog: &Catalog) -> Result<()> {
        if self.text.index.is_none() && self.vectors.index.is_none() {
            return Ok(());
        }
        for record in records {
            match &*record.op {
                Op::Remember { memory, vectors } => {
                    let key = MemoryKey(record.seq);
                    self.put_text(key, memory);
                    self.put_vectors(key, vectors.as_ref())?;
                }
                Op::Update { key, memory, vectors, .. } => {
                    self.put_text(*key, memory);
                    if vectors.is_some() {
                        self.put_vectors(*key, vectors.as_ref())?;
                    } else if let Some(index) = self.vectors.at(*key) {
                        // The view knows whether the former vectors still stand for the text.
                        if catalog.view().vector_location(*key, index.model)?.is_none() {
                            index.set.remove(*key);
                        }
                    }
                }
                Op::Forget { key, .. } => {
                    if let Some(index) = self.text.at(*key) {
                        index.remove(*key);
                    }
                    if let Some(index) = self.vectors.at(*key) {
                        index.set.remove(*key);
                    }
                }
                Op::Vector { key, vectors, .. } => {
                    // The view took it only if the text is still the one that was embedded.
                    if self.vectors.at(*key).is_some()
                        && catalog.view().vector_location(*key, vectors.model)? == Some(record.location)
                    {
                        self.put_vectors(*key, Some(vectors))?;
                    }
                }
                Op::UseModel { .. } => self.vectors = Loading::default(),
                Op::Model { .. } | Op::Lost(_) | Op::Seal(_) => {}
            }
        }
        Ok(())
    }

    fn put_text(&mut self, key: MemoryKey, memory: &Memory) {
        if let Some(index) = self.text.at(key) {
            index.insert(key, &words(memory));
        }
    }

    fn put_vectors(&mut self, key: MemoryKey, vectors: Option<&Vectors>) -> Result<()> {
        match (self.vectors.at(key), vectors) {
            (Some(index), Some(vectors)) if vectors.model == index.model => {
                index.set.insert(key, &vectors.values)
            }
            _ => Ok(()),
        }
    }
}

/// Answers that are true as long as the store stands at the sequence they were made at.
pub(super) struct AnswerCache {
    answers: LruCache<Question, (u64, Answer)>,
    hits: u64,
}

impl Default for AnswerCache {
    fn default() -> Self {
        Self { answers: LruCache::new(ANSWERS_MAX), hits: 0 }
    }
}

impl AnswerCache {
    /// Forgets every answer.
    pub(super) fn clear(&mut self) {
        self.answers.clear();
    }
}

/// Everything that an answer depends on, beside the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    query: String,
    topk: usize,
    mode: Mode,
    explain: bool,
    tags_any: Vec<String>,
    tags_all: Vec<String>,
    labels: [Option<String>; 3],
    times: [Option<i64>; 2],
    min_importance_bits: Option<u64>,
}

impl Question {
    fn of(recall: &Recall) -> Self {
        let Filter { tags_any, tags_all, collection, source, session, since, before, min_importance } =
            recall.filter.clone();
        Self {
            query: recall.query.clone(),
            topk: recall.topk,
            mode: recall.mode,
            explain: recall.explain,
            tags_any,
            tags_all,
            labels: [collection, source, session],
            times: [since, before],
            min_importance_bits: min_importance.map(f64::to_bits),
        }
    }
}

impl Store {
    /// The best memories for a question: by words and by meaning, of those in scope. A blank question has no answer.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) and [`TooLarge`](ErrorKind::TooLarge) for what cannot be asked,
    /// [`Timeout`](ErrorKind::Timeout) naming what took long, [`Model`](ErrorKind::Model) in vector mode without a
    /// model, and what the disk says. In hybrid mode a missing model is no error: words rank, and the answer says so.
    pub fn recall(&self, recall: Recall) -> Result<Answer> {
        let started = Instant::now();
        recall.check()?;
        let mut answer = self.inner.recall(&recall)?;
        answer.took = started.elapsed();
        Ok(answer)
    }
}

impl Inner {
    fn recall(&self, recall: &Recall) -> Result<Answer> {
        if recall.topk == 0 || (recall.query.trim().is_empty() && recall.vector.is_none()) {
            return Ok(Answer::default());
        }
        let question = recall.vector.is_none().then(|| Question::of(recall));
        let seq = self.log.durable_seq();
        if let Some(question) = &question {
            let mut cache = lock(&self.answers);
            if let Some((at_seq, answer)) = cache.answers.get(question)
                && *at_seq == seq
            {
                let answer = answer.clone();
                cache.hits += 1;
                return Ok(answer);
            }
        }
        let answer = self.search(recall)?;
        if let Some(question) = question
            && answer.degraded.is_empty()
            && len_of(&answer) <= ANSWER_LEN_MAX
        {
            lock(&self.answers).answers.put(question, (seq, answer.clone()));
        }
        Ok(answer)
    }

    fn search(&self, recall: &Recall) -> Result<Answer> {
        let deadline = Deadline::after(recall.timeout);
        let mut degraded = Vec::new();
        let query = if recall.mode == Mode::Text { None } else { self.query_vector(recall, &mut degraded)? };
        deadline.check(format_args!("the query was embedded"))?;

        let words = recall.mode != Mode::Vector && !recall.query.trim().is_empty();
        // The scope before the indexes: what reads the view may have to apply records first, and whoever applies waits
        // for those who hold the indexes.
        let scope = self.scope(&recall.filter, deadline)?;
        let search = self.loaded(
            words,
            query.as_ref().map(|(model, identity, _)| (*model, identity.dimensions)),
            deadline,
        )?;
        let texts = match &search.text.index {
            Some(index) if words => index.search(&recall.query, &scope, deadline)?,
            _ => Vec::new(),
        };
        let cosines = match (&search.vectors.index, &query) {
            (Some(index), Some((_, identity, vector))) => {
                if index.unread > 0 {
                    degraded.push(Degraded::VectorsUnread(index.unread));
                }
                if vector.len() != index.set.dimensions() {
                    let what = format!(
                        "the vector has {} dimensions, the store's model {} has {}",
                        vector.len(),
                        identity.name,
                        index.set.dimensions()
                    );
                    return Err(Error::new(ErrorKind::Invalid, what));
                }
                index.set.cosines(vector, &scope, deadline)?
            }
            _ => Vec::new(),
        };
        drop(search);
        if let Some((model, ..)) = &query {
            let pending = self.pending_count(*model)?;
            if pending > 0 {
                degraded.push(Degraded::NotEmbedded(pending));
            }
        }
        let ranked = rank(recall.mode, texts, cosines, recall.topk);
        Ok(Answer { results: self.matches(ranked, recall)?, degraded, took: Duration::ZERO })
    }

    /// The memories behind ranked keys.
    fn matches(&self, ranked: Vec<Ranked>, recall: &Recall) -> Result<Vec<Match>> {
        self.read(|catalog| {
            let view = catalog.view();
            let mut results = Vec::with_capacity(ranked.len());
            for one in &ranked {
                // It may have been forgotten or changed while the indexes were searched.
                if let Some(row) = view.row(one.key)?
                    && recall.filter.matches(&row.memory)
                {
                    results.push(Match {
                        memory: row.memory,
                        score: one.score,
                        explain: recall.explain.then_some(one.explain),
                    });
                }
            }
            Ok(results)
        })
    }

    fn scope(&self, filter: &Filter, deadline: Deadline) -> Result<Scope> {
        let keys = self.read(|catalog| catalog.view().scope(filter, deadline.instant()))?;
        Ok(keys.map_or(Scope::All, Scope::of))
    }

    /// The vector of the question under the store's model; `None` when words alone rank.
    fn query_vector(&self, recall: &Recall, degraded: &mut Vec<Degraded>) -> Result<Option<QueryVector>> {
        let Some((number, identity)) = self.models.active() else {
            // Without a model there are no vectors, and without memories nothing is missing.
            return self.without_model(recall, degraded);
        };
        if let Some(vector) = &recall.vector {
            let mut vector = vector.clone();
            normalize(&mut vector);
            return Ok(Some((number, identity, vector.into())));
        }
        if let Some(vector) = self.query_cache.get(&identity, &recall.query) {
            return Ok(Some((number, identity, vector)));
        }
        let made = match self.models.embedder_of(Some(&(number, Arc::clone(&identity)))) {
            Ok(Some(embedder)) => embedder.embed_query(&recall.query).and_then(|mut vector| {
                check_made(&vector, identity.dimensions)?;
                normalize(&mut vector);
                Ok(Arc::<[f32]>::from(vector))
            }),
            Ok(None) => return self.without_model(recall, degraded),
            Err(error) => Err(error),
        };
        match made {
            Ok(vector) => {
                self.query_cache.put(&identity, &recall.query, &vector);
                Ok(Some((number, identity, vector)))
            }
            Err(error) if recall.mode == Mode::Vector => Err(error),
            Err(error) => {
                degraded.push(Degraded::NoModel(error.to_string()));
                Ok(None)
            }
        }
    }

    fn without_model(&self, recall: &Recall, degraded: &mut Vec<Degraded>) -> Result<Option<QueryVector>> {
        if self.read(|catalog| Ok(catalog.count()))? == 0 {
            return Ok(None);
        }
        let why = match self.models.embedder() {
            Err(error) => error.to_string(),
            Ok(Some(_)) => "no memory has a vector yet".to_owned(),
            Ok(None) => "the store has none".to_owned(),
        };
        if recall.mode == Mode::Vector {
            return Err(Error::new(ErrorKind::Model, format!("recall by meaning needs a model: {why}"))
                .hint("use mode text, or run `memento-kv reembed`"));
        }
        degraded.push(Degraded::NoModel(why));
        Ok(None)
    }

    /// The nearest memories to a vector of this model.
    pub(super) fn nearest(
        &self,
        model: ModelNumber,
        query: &[f32],
        k: usize,
    ) -> Result<Vec<(MemoryKey, f32)>> {
        let dimensions = u32::try_from(query.len()).expect("dimensions are limited at the door");
        let search = self.loaded(false, Some((model, dimensions)), Deadline::NEVER)?;
        match &search.vectors.index {
            Some(index) => index.set.search(query, &Scope::All, k, Deadline::NEVER),
            None => Ok(Vec::new()),
        }
    }

    /// The search indexes, with what is asked for loaded as far as the log is durable.
    fn loaded(
        &self,
        text: bool,
        space: Option<VectorSpace>,
        deadline: Deadline,
    ) -> Result<RwLockReadGuard<'_, Search>> {
        let is_loaded = |search: &Search| {
            (!text || search.text.is_complete())
                && space.is_none_or(|(model, _)| {
                    search.vectors.is_complete()
                        && search.vectors.index.as_ref().is_some_and(|index| index.model == model)
                })
        };
        self.catch_up()?;
        let mut healed = false;
        loop {
            let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
            if is_loaded(&search) {
                return Ok(search);
            }
            drop(search);
            // Nothing is applied while an index is loaded, so that it misses nothing.
            let mut applying = self.applying();
            let catalog = self.apply_committed(&mut applying)?;
            match self.load_search(text, space, &catalog, deadline) {
                Err(error) if !healed && is_healed_by_rebuild(&error, &catalog) => {
                    tracing::error!(%error, "the view is damaged");
                    self.rebuild(&mut applying, 0)?;
                    healed = true;
                }
                loaded => loaded?,
            }
        }
    }

    fn load_search(
        &self,
        text: bool,
        space: Option<VectorSpace>,
        catalog: &Catalog,
        deadline: Deadline,
    ) -> Result<()> {
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        if text {
            search.text.load(catalog, deadline)?;
        }
        if let Some(space) = space {
            search.vectors.load(space, catalog, self.log.segments(), &self.place, deadline)?;
        }
        Ok(())
    }

    /// Uses of the caches in this process: answers, then query vectors.
    pub(super) fn answer_hits(&self) -> u64 {
        lock(&self.answers).hits
    }
}

impl Loading<TextIndex> {
    /// Goes on loading; when the time is over, the next call goes on from there.
    fn load(&mut self, catalog: &Catalog, deadline: Deadline) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        let index = self.index.get_or_insert_with(TextIndex::new);
        let mut from = self.next.unwrap_or(MemoryKey(0));
        let view = catalog.view();
        let total = view.count();
        loop {
            self.next = Some(from);
            deadline.check(format_args!("loading the words of {} of {total} memories", index.len()))?;
            let mut loaded = 0;
            let mut last = None;
            view.for_each_row(from, |row| {
                index.insert(row.key, &words(&row.memory));
                last = Some(row.key);
                loaded += 1;
                if loaded < LOAD_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            match last {
                Some(key) if loaded == LOAD_ROWS => from = MemoryKey(key.0 + 1),
                _ => break,
            }
        }
        self.next = None;
        Ok(())
    }
}

impl Loading<VectorIndex> {
    /// As for words; the vectors themselves come from the log.
    fn load(
        &mut self,
        (model, dimensions): VectorSpace,
        catalog: &Catalog,
        segments: &SegmentMap,
        place: &log::Place,
        deadline: Deadline,
    ) -> Result<()> {
        if self.index.as_ref().is_some_and(|index| index.model != model) {
            *self = Self::default();
        }
        if self.is_complete() {
            return Ok(());
        }
        if self.index.is_none() {
            let set = VectorSet::new(dimensions as usize)?;
            self.index = Some(VectorIndex { model, set, unread: 0 });
        }
        let index = self.index.as_mut().expect("just made");
        let view = catalog.view();
        let total = view.count_with_vectors(model)?;
        let mut reader = VectorReader { segments, place, open: None };
        let mut from = self.next.unwrap_or(MemoryKey(0));
        loop {
            self.next = Some(from);
            deadline.check(format_args!("loading the vectors of {} of {total} memories", index.set.len()))?;
            let mut located = Vec::with_capacity(LOAD_ROWS);
            view.for_each_vector(model, from, |key, location| {
                located.push((key, location));
                if located.len() < LOAD_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            for (key, location) in &located {
                match reader.read(*location) {
                    Ok(vectors) if vectors.model == model && vectors.dimensions == dimensions => {
                        index.set.insert(*key, &vectors.values)?
                    }
                    Ok(_) => index.unread += 1,
                    Err(error) => {
                        tracing::error!(%error, key = key.0, "a vector cannot be read");
                        index.unread += 1;
                    }
                }
            }
            match located.last() {
                Some((key, _)) if located.len() == LOAD_ROWS => from = MemoryKey(key.0 + 1),
                _ => break,
            }
        }
        self.next = None;
        Ok(())
    }
}

/// Bytes that an answer holds on to, roughly.
fn len_of(answer: &Answer) -> usize {
    let values = |memory: &Memory| {
        memory.metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>()
    };
    answer.results.iter().map(|one| one.memory.text.len() + values(&one.memory)).sum()
}

/// What of a memory is found by words: its text, and who said it.
fn words(memory: &Memory) -> Cow<'_, str> {
    match &memory.speaker {
        Some(speaker) => Cow::Owned(format!("{speaker}: {}", memory.text)),
        None => Cow::Borrowed(&memory.text),
    }
}

/// Reads vectors from records of the log, one open file at a time.
struct VectorReader<'a> {
    segments: &'a SegmentMap,
    place: &'a log::Place,
    open: Option<(u64, u64, Box<dyn DiskFile>)>,
}

impl VectorReader<'_> {
    fn read(&mut self, location: Location) -> Result<Vectors> {
        if self.open.as_ref().is_none_or(|(number, ..)| *number != location.segment) {
            let segment = self.segments.find(location.segment).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("segment {} is missing", location.segment))
                    .at(&self.place.segments)
            })?;
            self.open =
                Some((location.segment, segment.header.epoch, log::open_segment(self.place, &segment)?));
        }
        let (_, epoch, file) = self.open.as_ref().expect("just opened");
        let (_, op) = log::read_record(&**file, *epoch, location)?;
        let vectors = op.vectors().cloned();
        vectors.ok_or_else(|| Error::corrupt(file.path(), location.offset, "the record has no vectors"))
    }
}
