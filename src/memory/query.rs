//! What can be asked for, and what comes back.

use std::ops::Deref;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::limits::{TOPK_MAX, check_importance, check_label, check_query, check_vector};
use super::{Memory, MemoryId};
use crate::error::{Error, ErrorKind, Result};

/// Which memories are in scope. Empty lists and `None` let everything through; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// At least one of these tags, whole.
    pub tags_any: Vec<String>,
    /// All of these tags, whole.
    pub tags_all: Vec<String>,
    /// Exactly this collection.
    pub collection: Option<String>,
    /// Exactly this source.
    pub source: Option<String>,
    /// Exactly this session.
    pub session: Option<String>,
    /// Not older than this, in Unix seconds, inclusive.
    pub since: Option<i64>,
    /// Not newer than this, in Unix seconds, inclusive.
    pub before: Option<i64>,
    /// At least this importance, 0 to 1.
    pub min_importance: Option<f64>,
}

impl Filter {
    /// Whether the filter lets everything through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this memory is in scope.
    #[must_use]
    pub fn matches(&self, memory: &Memory) -> bool {
        let has = |tag: &String| memory.tags.contains(tag);
        (self.tags_any.is_empty() || self.tags_any.iter().any(has))
            && self.tags_all.iter().all(has)
            && self.collection.as_ref().is_none_or(|want| *want == memory.collection)
            && self.source.as_ref().is_none_or(|want| *want == memory.source)
            && self.session.as_ref().is_none_or(|want| *want == memory.session_id)
            && self.since.is_none_or(|since| memory.timestamp >= since)
            && self.before.is_none_or(|before| memory.timestamp <= before)
            && self.min_importance.is_none_or(|least| memory.importance >= least)
    }

    pub(crate) fn check(&self) -> Result<()> {
        for tag in self.tags_any.iter().chain(&self.tags_all) {
            check_label("a tag to look for", tag)?;
        }
        for (name, value) in
            [("collection", &self.collection), ("source", &self.source), ("session", &self.session)]
        {
            if let Some(value) = value {
                check_label(name, value)?;
            }
        }
        self.min_importance.map_or(Ok(()), check_importance)
    }
}

/// Which evidence ranks the memories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By words and by meaning.
    #[default]
    Hybrid,
    /// By meaning only.
    Vector,
    /// By words only.
    Text,
}

/// How thoroughly the nearest vectors are looked for, where there are more than some ten thousand. Fewer are always
/// compared one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// A walk through a graph that finds 99 of the 100 nearest.
    #[default]
    Normal,
    /// A wider walk that takes nearly twice as long and finds 996 of 1,000.
    High,
    /// Every vector is compared: all are found, in time that grows with the store.
    Exact,
}

impl Effort {
    /// Candidates that a walk goes on from; `None` without a walk.
    pub(crate) fn beam_width(self) -> Option<usize> {
        match self {
            Self::Normal => Some(64),
            Self::High => Some(128),
            Self::Exact => None,
        }
    }
}

/// A question to the store.
#[derive(Clone, Debug)]
#[must_use]
pub struct Recall {
    pub(crate) query: String,
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) topk: usize,
    pub(crate) filter: Filter,
    pub(crate) mode: Mode,
    pub(crate) timeout: Option<Duration>,
    pub(crate) explain: bool,
    pub(crate) effort: Effort,
}

impl Recall {
    /// A question in words, up to 1 MiB; five answers, a time limit of 5 seconds. A blank question has no answer.
    pub fn new(query: impl Into<String>) -> Self {
        Self {
            query: query.into(),
            vector: None,
            topk: 5,
            filter: Filter::default(),
            mode: Mode::default(),
            timeout: Some(Duration::from_millis(5000)),
            explain: false,
            effort: Effort::default(),
        }
    }

    /// A question as a vector of the caller's own embedder; meaning only.
    pub fn by_vector(vector: impl Into<Vec<f32>>) -> Self {
        let mut recall = Self::new("").mode(Mode::Vector);
        recall.vector = Some(vector.into());
        recall
    }

    /// The vector of the question, where the caller has its own embedder.
    pub fn vector(mut self, vector: impl Into<Vec<f32>>) -> Self {
        self.vector = Some(vector.into());
        self
    }

    /// At most this many answers; 0 gives none.
    pub fn topk(mut self, topk: usize) -> Self {
        self.topk = topk;
        self
    }

    /// Which memories are in scope.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Only this collection.
    pub fn collection(mut self, collection: impl Into<String>) -> Self {
        self.filter.collection = Some(collection.into());
        self
    }

    /// Only memories with at least one of these tags.
    pub fn tags_any<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.filter.tags_any = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Only memories with all of these tags.
    pub fn tags_all<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.filter.tags_all = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Which evidence ranks the memories.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How long it may take; `None` is no limit.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// How thoroughly the nearest vectors are looked for.
    pub fn effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Whether each match says what its score is made of.
    pub fn explain(mut self, explain: bool) -> Self {
        self.explain = explain;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_query(&self.query)?;
        self.filter.check()?;
        if self.topk > TOPK_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} answers were asked for, the most is {TOPK_MAX}", self.topk),
            ));
        }
        self.vector.as_deref().map_or(Ok(()), check_vector)
    }
}

/// In which order a list comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By time, the newest first; of one second, the last stored first.
    #[default]
    Newest,
    /// By time, the oldest first.
    Oldest,
}

/// A list of memories, without a question.
#[derive(Clone, Debug)]
#[must_use]
pub struct List {
    pub(crate) filter: Filter,
    pub(crate) order: Order,
    pub(crate) limit: usize,
    pub(crate) offset: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { filter: Filter::default(), order: Order::Newest, limit: 20, offset: 0 }
    }
}

impl List {
    /// The newest 20.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which memories are in scope.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// In which order.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// At most this many.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Leaves out this many at the beginning.
    pub fn offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }
}

/// What a score is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explain {
    /// BM25 of the words, not scaled, where words ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bm25: Option<f32>,
    /// Cosine of the meaning, -1 to 1, where meaning ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f32>,
    /// What the words add to the score.
    pub text: f32,
    /// What the meaning adds to the score.
    pub vector: f32,
}

/// One memory that was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Match {
    /// The memory.
    pub memory: Memory,
    /// How well it answers: 0 to 1 in hybrid and text mode, the cosine in vector mode. Comparable within one
    /// answer only.
    pub score: f64,
    /// What the score is made of, when that was asked for.
    pub explain: Option<Explain>,
}

impl Deref for Match {
    type Target = Memory;
    fn deref(&self) -> &Memory {
        &self.memory
    }
}

impl Serialize for Match {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.memory.serialize_fields(&mut map)?;
        map.serialize_entry("score", &self.score)?;
        if let Some(explain) = &self.explain {
            map.serialize_entry("explain", explain)?;
        }
        map.end()
    }
}

/// Why an answer is not all that it could be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degraded {
    /// The store's embedding model is not there: words alone ranked. The reason and what to do.
    NoModel(String),
    /// This many memories in the store have no vector yet: they are found by words only.
    NotEmbedded(u64),
    /// These memories are damaged on disk and were left out.
    Damaged(Vec<MemoryId>),
    /// The vectors of this many memories could not be read.
    VectorsUnread(u64),
    /// Time ran out before everything was compared: nearer memories may be missing.
    Truncated,
    /// The vector index was damaged and is being made anew; until then recall takes longer and misses nothing.
    IndexDamaged,
}

impl std::fmt::Display for Degraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoModel(why) => write!(f, "words only, the embedding model is not available: {why}"),
            Self::NotEmbedded(count) => {
                write!(f, "{count} memories have no vector yet and were found by words only")
            }
            Self::Damaged(ids) => {
                write!(f, "{} memories are damaged and were left out, run `memento-kv check`", ids.len())
            }
            Self::VectorsUnread(count) => {
                write!(f, "the vectors of {count} memories could not be read, run `memento-kv check`")
            }
            Self::Truncated => write!(f, "time ran out before all vectors were compared, allow more of it"),
            Self::IndexDamaged => {
                write!(f, "the vector index was damaged and is being made anew, recall is slower until then")
            }
        }
    }
}

impl Serialize for Degraded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The answer to a [`Recall`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The memories, best first; at most as many as were asked for.
    pub results: Vec<Match>,
    /// What could not answer. Empty when everything could.
    pub degraded: Vec<Degraded>,
    /// How long it took.
    pub took: Duration,
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("results", &self.results)?;
        map.serialize_entry("degraded", &self.degraded)?;
        map.serialize_entry("took_ms", &(self.took.as_secs_f64() * 1e3))?;
        map.end()
    }
}
