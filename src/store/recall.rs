//! Recall: words and meaning, fused; the search indexes in memory; answers that are still true are served again.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;

use super::embedders::Embeds;
use super::embedding::{check_made, normalize};
use super::models::Numbered;
use super::{Engine, Inner, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::MemoryKey;
use crate::memory::{Answer, Degraded, Effort, Filter, Match, Memory, Mode, Reason, Recall};
use crate::rank::{Ranked, rank};
use crate::scope::{Deadline, Scope};
use crate::secrets;
use crate::vector::Limits;

/// The vector of a question, and the model it belongs to.
pub(super) type QueryVector = (Numbered, Arc<[f32]>);

/// Ranked memories beyond those that were asked for: some may have been forgotten meanwhile.
pub(super) const SPARE: usize = 8;
/// Answers that are kept.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Filters whose memories are kept, ...
const SCOPES_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// ... of at most so many memories each, so that all together stay below 13 MiB.
const SCOPE_LEN_MAX: usize = 100_000;
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
    context: usize,
    score_bits: [u64; 2],
    /// How new a memory is counts, so an answer is true for a while only.
    hour: i64,
    filter: FilterKey,
}

impl Question {
    fn of(recall: &Recall, now: i64) -> Self {
        Self {
            query: recall.query.clone(),
            topk: recall.topk,
            mode: recall.mode,
            explain: recall.explain,
            effort: recall.effort,
            context: recall.context,
            score_bits: [recall.min_score.unwrap_or(f64::NAN), recall.meaning_share].map(f64::to_bits),
            hour: now.div_euclid(3600),
            filter: FilterKey::of(&recall.filter),
        }
    }
}

/// A filter as it is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FilterKey {
    tags_any: Vec<String>,
    tags_all: Vec<String>,
    labels: [Option<String>; 3],
    times: [Option<i64>; 2],
    min_importance_bits: Option<u64>,
}

impl FilterKey {
    fn of(filter: &Filter) -> Self {
        let Filter { tags_any, tags_all, collection, source, session, since, before, min_importance } =
            filter.clone();
        Self {
            tags_any,
            tags_all,
            labels: [collection, source, session],
            times: [since, before],
            min_importance_bits: min_importance.map(f64::to_bits),
        }
    }
}

/// What filters let through, true as long as the store stands at the sequence it was read at.
pub(super) struct ScopeCache(LruCache<FilterKey, (u64, Scope)>);

impl Default for ScopeCache {
    fn default() -> Self {
        Self(LruCache::new(SCOPES_MAX))
    }
}

impl Engine {
    /// The best memories for a question.
    pub(crate) fn recall(&self, recall: Recall) -> Result<Answer> {
        self.recall_by(&recall, self.inner.models.embedders())
    }

    /// As [`Engine::recall`], embedded by somebody else.
    pub(crate) fn recall_by(&self, recall: &Recall, by: &dyn Embeds) -> Result<Answer> {
        let started = Instant::now();
        recall.check()?;
        let mut answer = self.inner.recall(recall, by)?;
        answer.took = started.elapsed();
        Ok(answer)
    }
}

impl Inner {
    fn recall(&self, recall: &Recall, by: &dyn Embeds) -> Result<Answer> {
        if recall.topk == 0 {
            return Ok(Answer { reason: Some(Reason::NoneAskedFor), ..Answer::default() });
        }
        if recall.query.trim().is_empty() && recall.vector.is_none() {
            return Ok(Answer { reason: Some(Reason::BlankQuestion), ..Answer::default() });
        }
        let now = self.clock.now_ms() / 1000;
        let question = recall.vector.is_none().then(|| Question::of(recall, now));
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
        let answer = self.search(recall, by)?;
        if let Some(question) = question
            && answer.degraded.is_empty()
            && len_of(&answer) <= ANSWER_LEN_MAX
        {
            lock(&self.answers).answers.put(question, (seq, answer.clone()));
        }
        Ok(answer)
    }

    fn search(&self, recall: &Recall, by: &dyn Embeds) -> Result<Answer> {
        let deadline = Deadline::after(recall.timeout);
        let mut degraded = Vec::new();
        // The scope before the indexes: what reads the view may have to apply records first, and whoever applies waits
        // for those who hold the indexes.
        let scope = self.scope(&recall.filter, deadline)?;
        let asked = self.asked(recall, &scope, deadline, &mut degraded)?;
        let found = self.evidence(recall, &scope, &asked, by, deadline, &mut degraded)?;
        let ranked = rank(&found.asked, &found.evidence, recall.topk.saturating_add(SPARE));
        let (results, keys) = self.matches(&ranked, recall)?;
        let mut answer = Answer { results, degraded, ..Answer::default() };
        if answer.results.is_empty() {
            if answer.degraded.iter().any(Degraded::is_late) {
                deadline.check(format_args!("nothing was compared yet"))?;
            }
            answer.reason = Some(self.why_nothing(&scope)?);
        }
        cut(&mut answer, recall.min_score);
        if recall.context > 0 {
            self.add_context(&mut answer, &keys, recall.context, deadline)?;
        }
        Ok(answer)
    }

    /// Why nothing was found.
    fn why_nothing(&self, scope: &Scope) -> Result<Reason> {
        Ok(match scope {
            Scope::Keys(keys) if keys.is_empty() => Reason::NothingInScope,
            _ if self.read(|catalog| Ok(catalog.count()))? == 0 => Reason::EmptyStore,
            _ => Reason::NothingComparable,
        })
    }

    /// The turns around each match in its conversation.
    fn add_context(
        &self,
        answer: &mut Answer,
        keys: &[MemoryKey],
        turns: usize,
        deadline: Deadline,
    ) -> Result<()> {
        let search = match self.loaded(true, None, deadline) {
            Ok(search) => search,
            Err(error) if error.kind() == ErrorKind::Timeout => {
                answer.degraded.push(Degraded::Truncated);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let index = search.text.index.as_ref().expect("it was just loaded");
        // Nearest first on both sides.
        let beside: Vec<[Vec<MemoryKey>; 2]> = keys
            .iter()
            .map(|key| [0, 1].map(|side| index.reader().turns_beside(*key, side, turns)))
            .collect();
        drop(search);
        self.read(|catalog| {
            let view = catalog.view();
            // What was forgotten meanwhile is not there any more.
            let memories = |keys: &[MemoryKey]| -> Result<Vec<Memory>> {
                keys.iter().filter_map(|key| view.row(*key).transpose()).map(|row| Ok(row?.memory)).collect()
            };
            beside
                .iter()
                .map(|[before, after]| Ok([memories(before)?, memories(after)?]))
                .collect::<Result<Vec<_>>>()
        })?
        .into_iter()
        .zip(&mut answer.results)
        .for_each(|([mut before, after], found)| {
            before.reverse();
            (found.before, found.after) = (before, after);
        });
        Ok(())
    }

    /// The memories behind ranked keys, and those keys that have one.
    fn matches(&self, ranked: &[Ranked], recall: &Recall) -> Result<(Vec<Match>, Vec<MemoryKey>)> {
        self.read(|catalog| {
            let view = catalog.view();
            let mut keys = Vec::with_capacity(ranked.len().min(recall.topk));
            let mut results = Vec::with_capacity(ranked.len().min(recall.topk));
            for one in ranked {
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
                        before: Vec::new(),
                        after: Vec::new(),
                        explain: recall.explain.then_some(one.explain),
                    });
                    keys.push(one.key);
                }
            }
            Ok((results, keys))
        })
    }

    fn scope(&self, filter: &Filter, deadline: Deadline) -> Result<Scope> {
        if filter.is_empty() {
            return Ok(Scope::All);
        }
        // What is read below may be newer than this, and is then never found again.
        let seq = self.log.durable_seq();
        let key = FilterKey::of(filter);
        if let Some((at_seq, scope)) = lock(&self.scopes).0.get(&key)
            && *at_seq == seq
        {
            return Ok(scope.clone());
        }
        let keys = self.read(|catalog| catalog.view().scope(filter, deadline.instant()))?;
        let scope = keys.map_or(Scope::All, Scope::of);
        if !matches!(&scope, Scope::Keys(keys) if keys.len() > SCOPE_LEN_MAX) {
            lock(&self.scopes).0.put(key, (seq, scope.clone()));
        }
        Ok(scope)
    }

    /// The vector of this text, or the one that the question comes with, under the store's model; `None` when words alone
    /// rank.
    pub(super) fn query_vector(
        &self,
        recall: &Recall,
        text: &str,
        by: &dyn Embeds,
        degraded: &mut Vec<Degraded>,
    ) -> Result<Option<QueryVector>> {
        let Some((number, identity)) = self.models.active() else {
            // Without a model there are no vectors, and without memories nothing is missing.
            return self.without_model(recall, degraded);
        };
        if let Some(vector) = &recall.vector {
            let mut vector = vector.clone();
            normalize(&mut vector);
            return Ok(Some(((number, identity), vector.into())));
        }
        if let Some(vector) = self.query_cache.get(&identity, text) {
            return Ok(Some(((number, identity), vector)));
        }
        let made = match by.embedder_of(Some(&identity)) {
            Ok(Some(embedder)) => embedder.embed_query(text).and_then(|mut vector| {
                check_made(&vector, identity.dimensions)?;
                normalize(&mut vector);
                Ok(Arc::<[f32]>::from(vector))
            }),
            Ok(None) => return self.without_model(recall, degraded),
            Err(error) => Err(error),
        };
        match made {
            Ok(vector) => {
                // Not even the vector of a secret is left on the disk.
                if secrets::find(text).is_empty() {
                    self.query_cache.put(&identity, text, &vector);
                }
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
        let why = match self.own_embedder() {
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

/// Leaves out what scores too low.
fn cut(answer: &mut Answer, min_score: Option<f64>) {
    let kept = min_score
        .map_or(answer.results.len(), |least| answer.results.partition_point(|found| found.score >= least));
    if let Some(best) = answer.results.get(kept) {
        let left_out = answer.results.len() - kept;
        answer.reason = Some(Reason::BelowMinScore { left_out, best: best.score });
        answer.results.truncate(kept);
    }
}

/// Bytes that an answer holds on to, roughly.
fn len_of(answer: &Answer) -> usize {
    let values = |memory: &Memory| {
        memory.metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>()
    };
    let all =
        answer.results.iter().flat_map(|one| [&one.memory].into_iter().chain(&one.before).chain(&one.after));
    all.map(|memory| memory.text.len() + values(memory)).sum()
}
