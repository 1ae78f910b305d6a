//! What can be asked for, and what comes back.

use std::ops::Deref;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::limits::{TOPK_MAX, check_importance, check_label, check_query, check_vector};
use super::{Memory, MemoryId};
use crate::error::{Error, ErrorKind, Result};

/// Most turns around each match.
const CONTEXT_MAX: usize = 1000;

/// Which memories are in scope. Empty lists and `None` let everything through; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, bincode::Encode, bincode::Decode)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, bincode::Encode, bincode::Decode)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, bincode::Encode, bincode::Decode)]
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
#[derive(Clone, Debug, bincode::Encode, bincode::Decode)]
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
    pub(crate) context: usize,
    pub(crate) min_score: Option<f64>,
    pub(crate) meaning_share: f64,
}

impl Recall {
    /// Below this score of the best memory, in hybrid and text mode, an answer is more likely to be none: measured on
    /// questions about conversations, 95 of 100 whose answer was among the first five have a higher score, and 9 of 100
    /// that were asked of a conversation of other people.
    pub const UNSURE_BELOW: f64 = 0.2;

    /// What meaning has of the score in hybrid mode, unless [`Recall::meaning_share`] says otherwise.
    pub const MEANING_SHARE_DEFAULT: f64 = 0.6;

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
            context: 0,
            min_score: None,
            meaning_share: Self::MEANING_SHARE_DEFAULT,
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

    /// With each match so many turns before and after it in its conversation, 0 by default.
    pub fn context(mut self, turns: usize) -> Self {
        self.context = turns;
        self
    }

    /// Leaves out what scores lower, see [`Match::score`]; [`Recall::UNSURE_BELOW`] is a measured limit for "I do not
    /// know". An answer that loses something by it says so in [`Answer::reason`].
    pub fn min_score(mut self, score: f64) -> Self {
        self.min_score = Some(score);
        self
    }

    /// What meaning has of the score against words in hybrid mode, 0 (words only) to 1 (meaning only).
    pub fn meaning_share(mut self, share: f64) -> Self {
        self.meaning_share = share;
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
        if self.context > CONTEXT_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} turns around each match were asked for, the most is {CONTEXT_MAX}", self.context),
            ));
        }
        if let Some(score) = self.min_score.filter(|score| !(-1.0..=1.0).contains(score)) {
            return Err(Error::new(ErrorKind::Invalid, format!("the lowest score is {score}, not -1 to 1")));
        }
        if !(0.0..=1.0).contains(&self.meaning_share) {
            let message = format!("the share of meaning is {}, not 0 to 1", self.meaning_share);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Order {
    /// By time, the newest first; of one second, the last stored first.
    #[default]
    Newest,
    /// By time, the oldest first.
    Oldest,
}

/// A list of memories, without a question.
#[derive(Clone, Debug, bincode::Encode, bincode::Decode)]
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

/// What a score is made of: the parts from `text` on add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Explain {
    /// BM25 of the words, not scaled, where words ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bm25: Option<f32>,
    /// Which part of what the question's words can say it holds, 0 to 1, where words ranked: rare words count more, and
    /// words that no memory has count, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<f32>,
    /// Cosine of the meaning, -1 to 1, where meaning ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f32>,
    /// What the words add.
    pub text: f32,
    /// What the meaning adds.
    pub vector: f32,
    /// What the turns before and after it in its conversation add.
    pub neighbours: f32,
    /// For being said by somebody whom the question names.
    pub speaker: f32,
    /// For naming a time, when the question asks for one.
    pub when: f32,
    /// For being important, or against it for being less so than most.
    pub importance: f32,
    /// For being new.
    pub recency: f32,
}

impl Explain {
    /// The parts that add up to the score.
    fn parts(&mut self) -> [&mut f32; 7] {
        let Self {
            bm25: _,
            coverage: _,
            cosine: _,
            text,
            vector,
            neighbours,
            speaker,
            when,
            importance,
            recency,
        } = self;
        [text, vector, neighbours, speaker, when, importance, recency]
    }

    /// The sum of the parts.
    pub(crate) fn sum(mut self) -> f32 {
        self.parts().into_iter().map(|part| *part).sum()
    }

    /// Multiplies the parts.
    pub(crate) fn scale(&mut self, factor: f32) {
        self.parts().into_iter().for_each(|part| *part *= factor);
    }
}

/// One memory that was found.
#[derive(Clone, Debug, PartialEq, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Match {
    /// The memory.
    pub memory: Memory,
    /// How well it answers. In hybrid and text mode 0 to 1: the best one has what says how sure it is that the answer
    /// holds what was asked for, the others have less. In vector mode the cosine.
    pub score: f64,
    /// The turns before it in its conversation, in the order of what was said, as many as were asked for.
    pub before: Vec<Memory>,
    /// The turns after it.
    pub after: Vec<Memory>,
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
        for (name, turns) in [("before", &self.before), ("after", &self.after)] {
            if !turns.is_empty() {
                map.serialize_entry(name, turns)?;
            }
        }
        if let Some(explain) = &self.explain {
            map.serialize_entry("explain", explain)?;
        }
        map.end()
    }
}

/// Why an answer is not all that it could be.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
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
    /// Time ran out before everything was compared: better memories may be missing.
    Truncated,
    /// Time ran out before the words could be searched: meaning alone ranked.
    WordsNotLoaded,
    /// Time ran out before the vectors could be searched: words alone ranked.
    VectorsNotLoaded,
    /// The vector index was damaged and is being made anew; until then recall takes longer and misses nothing.
    IndexDamaged,
}

impl Degraded {
    /// Whether more time would have found more.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Self::Truncated | Self::WordsNotLoaded | Self::VectorsNotLoaded)
    }
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
            Self::Truncated => write!(f, "time ran out before everything was compared, allow more of it"),
            Self::WordsNotLoaded => {
                write!(f, "meaning only, time ran out before the words could be searched, allow more of it")
            }
            Self::VectorsNotLoaded => {
                write!(f, "words only, time ran out before the vectors could be searched, allow more of it")
            }
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

/// Why there are no memories in an answer, or why there could be more.
#[derive(Clone, Copy, Debug, PartialEq, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub enum Reason {
    /// The question is blank.
    BlankQuestion,
    /// No memories were asked for.
    NoneAskedFor,
    /// Nothing is remembered.
    EmptyStore,
    /// No memory passes the filter.
    NothingInScope,
    /// In text mode: no memory in scope shares a word with the question. In vector mode: none has a vector.
    NothingComparable,
    /// So many memories, the best of all of them or some of those that were asked for, score lower than was asked for.
    BelowMinScore {
        /// Memories that were left out, of those that were asked for.
        left_out: usize,
        /// The score of the best one that was left out.
        best: f64,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BlankQuestion => write!(f, "the question is blank"),
            Self::NoneAskedFor => write!(f, "no memories were asked for"),
            Self::EmptyStore => write!(f, "nothing is remembered yet"),
            Self::NothingInScope => write!(f, "no memory passes the filter"),
            Self::NothingComparable => write!(f, "no memory can be compared with the question in this mode"),
            Self::BelowMinScore { left_out, best } => {
                write!(f, "{left_out} memories were left out, the best of them has a score of only {best:.3}")
            }
        }
    }
}

/// The answer to a [`Recall`].
#[derive(Clone, Debug, Default, PartialEq, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Answer {
    /// The memories, best first; at most as many as were asked for.
    pub results: Vec<Match>,
    /// What could not answer. Empty when everything could.
    pub degraded: Vec<Degraded>,
    /// Why there are no memories, or some were left out.
    pub reason: Option<Reason>,
    /// How long it took.
    pub took: Duration,
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("results", &self.results)?;
        map.serialize_entry("degraded", &self.degraded)?;
        if let Some(reason) = &self.reason {
            map.serialize_entry("reason", &reason.to_string())?;
        }
        map.serialize_entry("took_ms", &(self.took.as_secs_f64() * 1e3))?;
        map.end()
    }
}
