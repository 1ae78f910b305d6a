//! From an exchange to a memory: cleaned, masked, judged, compared with what is there, stored.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::clean::clean;
use super::cues::Kind;
use super::decisions::Decisions;
use super::exchange::{Exchange, Role, Trust};
use super::judge::{IMPORTANCE_MAX, Judged, Sentence, importance, judge};
use super::near::{is_copy, words_of};
use super::tags::{Name, tags};
use super::{CAPTURED_TAG, THRESHOLD_DEFAULT};
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::home::Home;
use crate::memory::{DEFAULT_SESSION, Filter, List, Memory, MemoryId, Mode, Order, Recall, Remember, Update};
use crate::secrets;
use crate::share::Store;

/// Where captured memories come from, when the exchange does not say.
const SOURCE_DEFAULT: &str = "capture";
/// Longest text of a turn that is looked at, in bytes.
const TURN_LEN_MAX: usize = 256 << 10;
/// Most turns of one exchange that are looked at.
const TURNS_MAX: usize = 200;
/// Memories that a new one is compared with.
const COMPARED: usize = 8;
/// What being said again adds to the importance.
const REINFORCED_BY: f64 = 0.02;
/// Foreign text is never more important than this.
const FOREIGN_IMPORTANCE_MAX: f64 = 0.70;
/// Memories from which names are learned.
const LEARNED_FROM: usize = 500;
/// In how many memories a name must be a tag.
const LEARNED_MIN: usize = 2;
/// Names that the original knew.
const NAMES_DEFAULT: [(&str, &str); 3] = [("Bob", "bob"), ("Brett", "brett"), ("Rita", "rita")];

/// How exchanges are captured.
#[derive(Clone, Debug)]
#[must_use]
pub struct CaptureOptions {
    threshold: f64,
    per_hour: usize,
    names: Vec<Name>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        let names = NAMES_DEFAULT.iter().filter_map(|(name, tag)| Name::new(name, tag)).collect();
        Self { threshold: THRESHOLD_DEFAULT, per_hour: 1000, names }
    }
}

impl CaptureOptions {
    /// As the configuration of a home says, its threshold moved by the user's decisions there.
    ///
    /// # Errors
    /// What the disk says of the decisions.
    pub fn of(home: &Home) -> Result<Self> {
        let config = &home.config.capture;
        let decisions = Decisions::of(&home.path)?;
        let mut options =
            Self::default().threshold(decisions.shifted(config.threshold)).per_hour(config.per_hour);
        for (name, tag) in &config.names {
            options = options.name(name, tag);
        }
        Ok(options)
    }

    /// From which score on a sentence is kept, 0 (all) to 1 (none).
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.threshold = threshold.clamp(0.0, 1.0);
        self
    }

    /// How many memories of one source are captured within an hour of the conversation; 0: as many as there are. What
    /// the user asks to remember is always captured.
    pub fn per_hour(mut self, count: usize) -> Self {
        self.per_hour = count;
        self
    }

    /// A name of a person or a project that is tagged where it stands.
    pub fn name(mut self, name: &str, tag: &str) -> Self {
        self.names.extend(Name::new(name, tag));
        self
    }
}

/// What became of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CapturedAs {
    /// Nothing in it is worth keeping.
    #[default]
    Nothing,
    /// It is worth keeping, and was not stored, because nobody asked to.
    Worth,
    /// It is stored as a new memory.
    Stored,
    /// Another conversation said so before: that memory is a little more important now.
    Reinforced,
    /// The store has it, from this conversation.
    Known,
    /// Its source has given too much within an hour.
    Limited,
}

/// What became of an exchange, and why.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Captured {
    /// What became of it.
    pub outcome: CapturedAs,
    /// The memory, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<MemoryId>,
    /// The score of the best sentence, 0 to 1.
    pub score: f64,
    /// From which score on sentences are kept.
    pub threshold: f64,
    /// What kind of thing it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// 0.6 to 0.95; 0 when there is nothing.
    pub importance: f64,
    /// Its tags.
    pub tags: Vec<String>,
    /// The text that is kept, its secrets masked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Kinds of secrets that were masked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<&'static str>,
    /// Whether something that had been injected was left out.
    pub fenced: bool,
    /// Every sentence with its score and what decided.
    pub sentences: Vec<Sentence>,
    /// The memory that it becomes.
    #[serde(skip)]
    pub(crate) remember: Option<Remember>,
    #[serde(skip)]
    asked: bool,
}

impl Captured {
    /// The memory that it becomes, when it is worth one: for whoever cannot reach the store now.
    #[must_use]
    pub fn remember(&self) -> Option<&Remember> {
        self.remember.as_ref()
    }
}

/// Captures exchanges one after the other.
#[derive(Debug)]
pub struct Capturer {
    options: CaptureOptions,
    learned: Vec<Name>,
    is_learned: bool,
    /// For each source, when memories were captured, the latest at the end.
    times: HashMap<String, VecDeque<i64>>,
}

impl Capturer {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn new(options: CaptureOptions) -> Self {
        Self { options, learned: Vec::new(), is_learned: false, times: HashMap::new() }
    }

    /// Judges an exchange without a store; nothing is written.
    #[must_use]
    pub fn judge(&self, exchange: &Exchange) -> Captured {
        let mut captured = Captured { threshold: self.options.threshold, ..Captured::default() };
        let mut kept = Vec::new();
        for turn in exchange.turns.iter().take(TURNS_MAX).filter(|turn| turn.role != Role::System) {
            let (text, fenced) = clean(start_of(&turn.text, TURN_LEN_MAX));
            captured.fenced |= fenced;
            // Masked first: a sentence, a tag or a feature never sees a secret.
            let found = secrets::find(&text);
            let text = secrets::masked(&text, &found);
            let judged = judge(&text, turn.role == Role::Assistant, self.options.threshold);
            captured.score = captured.score.max(judged.score);
            if judged.sentences.iter().any(|sentence| sentence.kept) {
                for secret in found {
                    if !captured.secrets.contains(&secret.kind) {
                        captured.secrets.push(secret.kind);
                    }
                }
            }
            captured.asked |= judged.asked;
            kept.push((turn.role, judged));
        }
        self.compose(exchange, &kept, &mut captured);
        captured.sentences = kept.into_iter().flat_map(|(_, judged)| judged.sentences).collect();
        captured
    }

    /// Judges an exchange and, when it is worth keeping, stores it. Durable on return; its vector is made later.
    ///
    /// # Errors
    /// Those of [`Store::remember`] and [`Store::recall`]; the memory is then in no way half stored.
    pub fn capture(&mut self, store: &Store, exchange: &Exchange) -> Result<Captured> {
        self.learn(store)?;
        let mut captured = self.judge(exchange);
        let Some(remember) = captured.remember.clone() else { return Ok(captured) };
        let near = near(store, &captured)?;
        if let Some(copied) = copied(&captured, &near) {
            return reinforce(store, captured, copied, exchange);
        }
        let source = remember.source.clone();
        let at = remember.timestamp.unwrap_or_else(now);
        if !captured.asked && self.is_over(store, &source, at)? {
            captured.outcome = CapturedAs::Limited;
            return Ok(captured);
        }
        let remembered = store.remember_many(vec![remember])?.pop().expect("one in, one out");
        self.times.entry(source).or_default().push_back(at);
        let is_new = remembered.duplicate_of.is_none();
        captured.outcome = if is_new { CapturedAs::Stored } else { CapturedAs::Known };
        captured.id = Some(remembered.id);
        Ok(captured)
    }

    /// Makes the memory of what was kept.
    fn compose(&self, exchange: &Exchange, kept: &[(Role, Judged)], captured: &mut Captured) {
        let is_kept = |judged: &Judged| judged.sentences.iter().any(|sentence| sentence.kept);
        let turns: Vec<&(Role, Judged)> = kept.iter().filter(|(_, judged)| is_kept(judged)).collect();
        let Some((_, best)) =
            turns.iter().copied().reduce(|best, one| if one.1.score > best.1.score { one } else { best })
        else {
            return;
        };
        let kind = best.best().and_then(|sentence| sentence.kind);
        let text: Vec<String> = turns.iter().map(|(_, judged)| kept_text(judged)).collect();
        let mut kinds: Vec<Kind> = kind.into_iter().collect();
        for sentence in turns
            .iter()
            .flat_map(|(_, judged)| &judged.sentences)
            .filter(|sentence| sentence.score >= self.options.threshold && sentence.kept)
        {
            kinds.extend(sentence.kind.filter(|kind| !kinds.contains(kind)));
        }
        captured.text = text.join("\n");
        captured.kind = kind;
        captured.importance = importance(captured.score, kind, captured.asked);
        if exchange.trust == Trust::Foreign {
            captured.importance = captured.importance.min(FOREIGN_IMPORTANCE_MAX);
        }
        let names: Vec<Name> = self.options.names.iter().chain(&self.learned).cloned().collect();
        captured.tags = tags(&captured.text, &kinds, &names);
        captured.tags.push(CAPTURED_TAG.to_owned());
        captured.outcome = CapturedAs::Worth;
        let roles: BTreeSet<&str> = turns.iter().map(|(role, _)| role.name()).collect();
        let about = about(captured, best, exchange, &roles);
        let mut remember = Remember::new(captured.text.clone())
            .source(label(exchange.source.as_deref(), SOURCE_DEFAULT))
            .session(label(exchange.session.as_deref(), DEFAULT_SESSION))
            .importance(captured.importance)
            .tags(captured.tags.clone())
            .meta("capture", about);
        if let Some(at) = exchange.at {
            remember = remember.at(at);
        }
        if let Some(role) = roles.first().filter(|_| roles.len() == 1) {
            remember = remember.role(*role);
        }
        captured.remember = Some(remember);
    }

    /// Names that are tags of several memories and stand in them with a capital.
    fn learn(&mut self, store: &Store) -> Result<()> {
        if self.is_learned {
            return Ok(());
        }
        let mut counts: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for memory in store.list(&List::new().order(Order::Newest).limit(LEARNED_FROM))? {
            for tag in &memory.tags {
                let Some(name) = name_in(tag, &memory.text) else { continue };
                counts.entry(tag.clone()).or_insert((name, 0)).1 += 1;
            }
        }
        let known = |tag: &str| Kind::named(tag).is_some() || tag == CAPTURED_TAG;
        self.learned = counts
            .into_iter()
            .filter(|(tag, (_, count))| *count >= LEARNED_MIN && !known(tag))
            .filter_map(|(tag, (name, _))| Name::new(&name, &tag))
            .collect();
        self.is_learned = true;
        Ok(())
    }

    /// Whether this source has given as much as it may within the hour before.
    fn is_over(&mut self, store: &Store, source: &str, at: i64) -> Result<bool> {
        let most = self.options.per_hour;
        if most == 0 {
            return Ok(false);
        }
        let hour = at.saturating_sub(3600);
        if !self.times.contains_key(source) {
            let filter = Filter {
                source: Some(source.to_owned()),
                since: Some(hour),
                tags_all: vec![CAPTURED_TAG.to_owned()],
                ..Filter::default()
            };
            let before = store.list(&List::new().filter(filter).order(Order::Oldest).limit(most))?;
            self.times.insert(source.to_owned(), before.into_iter().map(|memory| memory.timestamp).collect());
        }
        let times = self.times.entry(source.to_owned()).or_default();
        while times.front().is_some_and(|time| *time < hour) || times.len() > most {
            times.pop_front();
        }
        Ok(times.len() >= most)
    }
}

impl Store {
    /// Captures an exchange with the usual options: judges it and, when it is worth keeping, stores it. Durable on
    /// return. For several exchanges a [`Capturer`] is quicker, and it takes options.
    ///
    /// # Errors
    /// Those of [`Store::remember`] and [`Store::recall`].
    pub fn capture(&self, exchange: &Exchange) -> Result<Captured> {
        Capturer::new(CaptureOptions::default()).capture(self, exchange)
    }
}

/// What the metadata says of how it was captured.
fn about(captured: &Captured, best: &Judged, exchange: &Exchange, roles: &BTreeSet<&str>) -> Value {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let features: serde_json::Map<String, Value> = best
        .best()
        .into_iter()
        .flat_map(|sentence| &sentence.reasons)
        .map(|reason| (reason.feature.to_owned(), json!(round(f64::from(reason.value * reason.weight)))))
        .collect();
    let mut about = json!({
        "score": round(captured.score),
        "threshold": round(captured.threshold),
        "kind": captured.kind.map(Kind::name),
        "trust": exchange.trust,
        "roles": roles,
        "features": features,
    });
    if captured.asked {
        about["asked"] = json!(true);
    }
    if !captured.secrets.is_empty() {
        about["masked"] = json!(captured.secrets);
    }
    about
}

/// The memories that share words with what was kept.
fn near(store: &Store, captured: &Captured) -> Result<Vec<Memory>> {
    let answer = store.recall(Recall::new(start_of(&captured.text, 4096)).mode(Mode::Text).topk(COMPARED))?;
    Ok(answer.results.iter().map(|found| found.memory.clone()).collect())
}

/// The memory of which everything that was kept is a copy, if each kept sentence is in one.
fn copied<'a>(captured: &Captured, near: &'a [Memory]) -> Option<&'a Memory> {
    let there: Vec<(&Memory, BTreeSet<String>)> =
        near.iter().map(|memory| (memory, words_of(&memory.text))).collect();
    let mut first = None;
    for sentence in captured.sentences.iter().filter(|sentence| sentence.kept) {
        let words = words_of(&sentence.text);
        let (memory, _) = there.iter().find(|(_, other)| is_copy(&words, other))?;
        first = first.or(Some(*memory));
    }
    first
}

/// What was said in another conversation before becomes a little more important. What the same conversation says again,
/// or what was handed to the agent in it, does not: it would be an echo.
fn reinforce(
    store: &Store,
    mut captured: Captured,
    copied: &Memory,
    exchange: &Exchange,
) -> Result<Captured> {
    captured.id = Some(copied.id.clone());
    let session = label(exchange.session.as_deref(), DEFAULT_SESSION);
    let last = copied.metadata.get("reinforced_by").and_then(Value::as_str).unwrap_or(&copied.session_id);
    captured.outcome = CapturedAs::Known;
    if captured.fenced
        || last == session
        || copied.session_id == session
        || copied.importance >= IMPORTANCE_MAX
    {
        return Ok(captured);
    }
    let importance = (copied.importance + REINFORCED_BY).min(IMPORTANCE_MAX);
    store.update(&copied.id, Update::new().importance(importance).meta("reinforced_by", session))?;
    captured.outcome = CapturedAs::Reinforced;
    Ok(captured)
}

fn kept_text(judged: &Judged) -> String {
    let kept: Vec<&str> =
        judged.sentences.iter().filter(|one| one.kept).map(|one| one.text.as_str()).collect();
    kept.join(" ")
}

/// The tag as a name in this text: with a capital.
fn name_in(tag: &str, text: &str) -> Option<String> {
    let mut letters = tag.chars();
    let first = letters.next().filter(|c| c.is_lowercase())?;
    let name: String = first.to_uppercase().chain(letters).collect();
    (tag.len() >= 3 && super::phrases::words(text).inner_capitals > 0 && text.contains(&name)).then_some(name)
}

/// A label that the store takes: without control characters, not too long, not empty.
fn label(given: Option<&str>, default: &str) -> String {
    let clean: String = given.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    let clean = clean.trim();
    if clean.is_empty() { default.to_owned() } else { clean.to_owned() }
}

fn start_of(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

fn now() -> i64 {
    SystemClock.now_ms().div_euclid(1000)
}
