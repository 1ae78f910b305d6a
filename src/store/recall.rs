//! Recall: words and meaning, fused; the search indexes in memory; answers that are still true are served again.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::embedding::{check_made, normalize};
use super::index::ModelVectors;
use super::models::Numbered;
use super::{Inner, Store, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::MemoryKey;
use crate::memory::{Answer, Degraded, Effort, Filter, Match, Memory, Mode, Recall};
use crate::rank::{Ranked, rank};
use crate::scope::{Deadline, Scope};
use crate::vector::Limits;

/// The vector of a question, and the model it belongs to.
type QueryVector = (Numbered, Arc<[f32]>);

/// Ranked memories beyond those that were asked for: some may have been forgotten meanwhile.
const SPARE: usize = 8;
/// Nearest memories that are ranked together with those that share a word with the question.
const NEAREST_MIN: usize = 64;
/// Answers that are kept.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// An answer with more bytes of texts and metadata is not kept, so that all together stay below 16 MiB.
const ANSWER_LEN_MAX: usize = 64 << 10;
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
    effort: Effort,
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
            effort: recall.effort,
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
        let search = self.loaded(words, query.as_ref().map(|(model, _)| model), deadline)?;
        let texts = match &search.text.index {
            Some(index) if words => index.search(&recall.query, &scope, deadline)?,
            _ => Vec::new(),
        };
        let mut walked = false;
        let cosines = match (&search.vectors.index, &query) {
            (Some(vectors), Some((_, query))) => {
                let keys = texts.iter().map(|(key, _)| *key);
                let near = near(vectors, query, &scope, recall, keys, deadline)?;
                if vectors.unread > 0 {
                    degraded.push(Degraded::VectorsUnread(vectors.unread));
                }
                if near.truncated {
                    degraded.push(Degraded::Truncated);
                }
                walked = near.walked;
                near.cosines
            }
            _ => Vec::new(),
        };
        drop(search);
        if let Some((model, query)) = &query {
            let pending = self.pending_count(model.0)?;
            if pending > 0 {
                degraded.push(Degraded::NotEmbedded(pending));
            }
            if self.index_is_damaged() {
                degraded.push(Degraded::IndexDamaged);
            }
            if walked {
                self.watch_walk(query);
            }
        }
        let ranked = rank(recall.mode, texts, cosines, recall.topk.saturating_add(SPARE));
        Ok(Answer { results: self.matches(ranked, recall)?, degraded, took: Duration::ZERO })
    }

    /// The memories behind ranked keys.
    fn matches(&self, ranked: Vec<Ranked>, recall: &Recall) -> Result<Vec<Match>> {
        self.read(|catalog| {
            let view = catalog.view();
            let mut results = Vec::with_capacity(ranked.len().min(recall.topk));
            for one in &ranked {
                if results.len() == recall.topk {
                    break;
                }
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
            return Ok(Some(((number, identity), vector.into())));
        }
        if let Some(vector) = self.query_cache.get(&identity, &recall.query) {
            return Ok(Some(((number, identity), vector)));
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
                Ok(Some(((number, identity), vector)))
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
    pub(super) fn nearest(&self, model: &Numbered, query: &[f32], k: usize) -> Result<Vec<(MemoryKey, f32)>> {
        let search = self.loaded(false, Some(model), Deadline::NEVER)?;
        let Some(vectors) = &search.vectors.index else { return Ok(Vec::new()) };
        let mut limits = Limits::NONE;
        Ok(vectors.index.search(query, &Scope::All, k, Effort::Normal, &mut limits)?.memories)
    }

    /// Uses of the caches in this process: answers, then query vectors.
    pub(super) fn answer_hits(&self) -> u64 {
        lock(&self.answers).hits
    }
}

/// Bytes that an answer holds on to, roughly.
fn len_of(answer: &Answer) -> usize {
    let values = |memory: &Memory| {
        memory.metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>()
    };
    answer.results.iter().map(|one| one.memory.text.len() + values(&one.memory)).sum()
}

/// What the vectors say about a question.
struct Near {
    cosines: Vec<(MemoryKey, f32)>,
    truncated: bool,
    walked: bool,
}

/// The nearest memories in scope; for a ranking with words also the cosines of those that share a word, and of a sample
/// that says how near the rest is.
fn near(
    vectors: &ModelVectors,
    query: &[f32],
    scope: &Scope,
    recall: &Recall,
    texts: impl Iterator<Item = MemoryKey>,
    deadline: Deadline,
) -> Result<Near> {
    let mut limits = Limits { deadline, ..Limits::NONE };
    let index = &vectors.index;
    let k = recall.topk.saturating_add(SPARE);
    if recall.mode == Mode::Vector {
        let nearest = index.search(query, scope, k, recall.effort, &mut limits)?;
        return Ok(Near { cosines: nearest.memories, truncated: nearest.truncated, walked: nearest.walked });
    }
    let nearest = index.search(query, scope, k.max(NEAREST_MIN), recall.effort, &mut limits)?;
    let known: BTreeSet<MemoryKey> = nearest.memories.iter().map(|(key, _)| *key).collect();
    let mut others: Vec<MemoryKey> =
        texts.chain(index.sample(scope)).filter(|key| !known.contains(key)).collect();
    others.sort_unstable();
    others.dedup();
    let (mut cosines, truncated) = index.cosines_of(query, &others, &limits)?;
    cosines.extend(nearest.memories);
    Ok(Near { cosines, truncated: truncated || nearest.truncated, walked: nearest.walked })
}
