//! What words, meaning and conversation say of the memories that may answer a question.

use std::collections::HashMap;

use super::Inner;
use super::embedders::Embeds;
use super::index::ModelVectors;
use super::recall::SPARE;
use crate::error::{ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber};
use crate::memory::{Degraded, Mode, Recall};
use crate::rank::{Asked, Evidence};
use crate::scope::{Deadline, Scope};
use crate::text::{NONE, Reader, Scores, TextIndex, asks_when, names_in, without_names};
use crate::vector::Limits;

/// Of each kind of evidence so many of the best memories are ranked, or more when more are asked for.
const CANDIDATES_MIN: usize = 256;

/// A question with its names told apart.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// What is embedded: the question as those whom it names would have put it.
    pub(super) spoken: String,
    /// Names of speakers in it.
    names: Vec<String>,
}

/// What there is to rank.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) asked: Asked,
    pub(super) evidence: Vec<Evidence>,
    /// Whether a graph was walked.
    walked: bool,
    /// Whether time ran out.
    truncated: bool,
    /// Memories whose vectors could not be read.
    unread: u64,
}

impl Inner {
    /// Takes a question apart: the names of speakers in scope are told from its other words.
    pub(super) fn asked(
        &self,
        recall: &Recall,
        scope: &Scope,
        deadline: Deadline,
        degraded: &mut Vec<Degraded>,
    ) -> Result<Question> {
        let plain = || Question { spoken: recall.query.clone(), names: Vec::new() };
        if recall.query.trim().is_empty() {
            return Ok(plain());
        }
        // Words that take long must leave time for what else can answer.
        let words_deadline = if recall.mode == Mode::Text { deadline } else { deadline.half() };
        let search = match self.loaded(true, None, words_deadline) {
            Ok(search) => search,
            Err(error) if error.kind() == ErrorKind::Timeout && recall.mode != Mode::Text => {
                degraded.push(Degraded::WordsNotLoaded);
                return Ok(plain());
            }
            Err(error) => return Err(error),
        };
        let Some(index) = &search.text.index else { return Ok(plain()) };
        let named = |name: &str| self.aliases.get(name).map_or(name, |name| name).to_owned();
        let found = names_in(&recall.query, &mut |name| match scope {
            Scope::All => index.knows(&named(name)),
            Scope::Keys(_) => {
                index.said_by(Some(&named(name))).iter().any(|doc| scope.contains(index.key_of(*doc)))
            }
        });
        let spoken = without_names(&recall.query, &found);
        let mut names: Vec<String> = found.into_iter().map(|found| named(&found.name)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(Question { spoken, names })
    }

    /// Everything that the mode asks for, as far as time and model allow; what is missing is said.
    pub(super) fn evidence(
        &self,
        recall: &Recall,
        scope: &Scope,
        question: &Question,
        by: &dyn Embeds,
        deadline: Deadline,
        degraded: &mut Vec<Degraded>,
    ) -> Result<Found> {
        let query = match recall.mode {
            Mode::Text => None,
            Mode::Hybrid | Mode::Vector => self.query_vector(recall, &question.spoken, by, degraded)?,
        };
        let has_words = recall.mode != Mode::Vector
            && !recall.query.trim().is_empty()
            && !degraded.contains(&Degraded::WordsNotLoaded);
        let mut model = query.as_ref().map(|(model, _)| model);
        let search = match self.loaded(has_words, model, deadline) {
            Err(error) if error.kind() == ErrorKind::Timeout && has_words && model.is_some() => {
                degraded.push(Degraded::VectorsNotLoaded);
                model = None;
                self.loaded(has_words, None, deadline)?
            }
            search => search?,
        };
        let vectors = model.and_then(|(number, _)| search.vectors.of(*number));
        let meaning = vectors.zip(query.as_ref().map(|(_, query)| &**query));
        let words = search.text.index.as_ref().filter(|_| has_words);
        let mut found = gather(recall, scope, question, words, meaning, deadline)?;
        drop(search);
        found.asked.now = self.clock.now_ms() / 1000;
        found.asked.half_life = self.recency_half_life;
        if found.unread > 0 {
            degraded.push(Degraded::VectorsUnread(found.unread));
        }
        if found.truncated {
            degraded.push(Degraded::Truncated);
        }
        if let Some(((number, _), query)) = &query {
            self.tell_of_vectors(*number, degraded)?;
            if found.walked {
                self.watch_walk(query);
            }
        }
        Ok(found)
    }

    /// What of the vectors could not answer.
    fn tell_of_vectors(&self, number: ModelNumber, degraded: &mut Vec<Degraded>) -> Result<()> {
        let pending = self.pending_count(number)?;
        if pending > 0 {
            degraded.push(Degraded::NotEmbedded(pending));
        }
        if self.index_is_damaged() {
            degraded.push(Degraded::IndexDamaged);
        }
        Ok(())
    }
}

/// Puts together what the indexes say.
fn gather(
    recall: &Recall,
    scope: &Scope,
    question: &Question,
    words: Option<&TextIndex>,
    meaning: Option<(&ModelVectors, &[f32])>,
    deadline: Deadline,
) -> Result<Found> {
    let k = recall.topk.saturating_add(SPARE);
    let asked = Asked { mode: recall.mode, meaning_share: recall.meaning_share as f32, ..Asked::default() };
    let mut found = Found { asked, ..Found::default() };
    let mut limits = Limits { deadline, ..Limits::NONE };
    let count = if recall.mode == Mode::Vector { k } else { k.max(CANDIDATES_MIN) };
    let mut nearest = Vec::new();
    if let Some((vectors, query)) = meaning {
        let near = vectors.index.search(query, scope, count, recall.effort, &mut limits)?;
        found.truncated |= near.truncated;
        found.walked = near.walked;
        found.unread = vectors.unread;
        nearest = near.memories;
    }
    let mut list = Candidates::default();
    for (key, cosine) in &nearest {
        list.add(Evidence { key: *key, cosine: Some(*cosine), is_in_scope: true, ..NOTHING });
    }
    if recall.mode == Mode::Vector {
        found.evidence = list.evidence;
        return Ok(found);
    }
    let words = words.map(|index| (index, index.reader(), index.score(&recall.query, deadline)));
    if let Some((_, reader, scores)) = &words {
        found.truncated |= scores.truncated();
        found.asked.ceiling = scores.ceiling();
        found.asked.when = asks_when(&recall.query);
        for doc in scores.best(count, scope) {
            list.add(Evidence { key: reader.key_of(doc), is_in_scope: true, ..NOTHING });
        }
        list.with_turns_around(reader, scope);
    }
    if let Some((vectors, query)) = meaning {
        list.with_sample(vectors, scope);
        found.truncated |= list.cosines(vectors, query, nearest.len(), &limits)?;
    }
    if let Some((index, reader, scores)) = &words {
        list.attributes(reader, scores);
        list.named(index, question, scope);
    }
    found.evidence = list.evidence;
    Ok(found)
}

/// A memory of which nothing is known yet.
const NOTHING: Evidence = Evidence {
    key: MemoryKey(0),
    bm25: None,
    cosine: None,
    around: [None; 2],
    is_named: false,
    names_time: false,
    importance: 0.5,
    time: 0,
    is_in_scope: false,
};

/// Memories that may answer, each once.
#[derive(Default)]
struct Candidates {
    evidence: Vec<Evidence>,
    places: HashMap<MemoryKey, u32>,
}

impl Candidates {
    /// Adds a memory, unless it is there; says where it is.
    fn add(&mut self, one: Evidence) -> u32 {
        *self.places.entry(one.key).or_insert_with(|| {
            self.evidence.push(one);
            self.evidence.len() as u32 - 1
        })
    }

    /// Adds the turns before and after each one: what they say counts for it, and some of them answer.
    fn with_turns_around(&mut self, index: &Reader<'_>, scope: &Scope) {
        for at in 0..self.evidence.len() {
            let Some(doc) = index.doc_of(self.evidence[at].key) else { continue };
            let around = index.links_of(doc).map(|link| {
                let key = (link != NONE).then(|| index.key_of(link))?;
                scope.contains(key).then(|| self.add(Evidence { key, is_in_scope: true, ..NOTHING }))
            });
            self.evidence[at].around = around;
        }
    }

    /// Adds memories that say how far the rest is.
    fn with_sample(&mut self, vectors: &ModelVectors, scope: &Scope) {
        for key in vectors.index.sample(scope) {
            self.add(Evidence { key, is_in_scope: true, ..NOTHING });
        }
    }

    /// What the words say of each one, and what is known of it without reading it.
    fn attributes(&mut self, index: &Reader<'_>, scores: &Scores<'_>) {
        for one in &mut self.evidence {
            let Some(doc) = index.doc_of(one.key) else { continue };
            let score = scores.of(doc);
            one.bm25 = (score > 0.0).then_some(score);
            let attributes = index.attributes(doc);
            one.importance = attributes.importance;
            one.names_time = attributes.names_time;
            one.time = attributes.order.time;
        }
    }

    /// Marks what was said by those whom the question names, unless it names all who spoke.
    fn named(&mut self, index: &TextIndex, question: &Question, scope: &Scope) {
        if question.names.is_empty() {
            return;
        }
        let reader = index.reader();
        let in_scope = |docs: Vec<u32>| -> Vec<MemoryKey> {
            docs.into_iter().map(|doc| reader.key_of(doc)).filter(|key| scope.contains(*key)).collect()
        };
        let mut said: Vec<MemoryKey> =
            question.names.iter().flat_map(|name| in_scope(index.said_by(Some(name)))).collect();
        said.sort_unstable();
        said.dedup();
        if said.len() == in_scope(index.said_by(None)).len() {
            return;
        }
        for one in &mut self.evidence {
            one.is_named = said.binary_search(&one.key).is_ok();
        }
    }

    /// The cosines of all but the first ones, which have theirs; says whether time ran out.
    fn cosines(
        &mut self,
        vectors: &ModelVectors,
        query: &[f32],
        known: usize,
        limits: &Limits,
    ) -> Result<bool> {
        let mut keys: Vec<MemoryKey> = self.evidence[known..].iter().map(|one| one.key).collect();
        keys.sort_unstable();
        let (cosines, truncated) = vectors.index.cosines_of(query, &keys, limits)?;
        for (key, cosine) in cosines {
            if let Some(at) = self.places.get(&key) {
                self.evidence[*at as usize].cosine = Some(cosine);
            }
        }
        Ok(truncated)
    }
}
