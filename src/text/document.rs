//! What the text index takes of a memory.

use sha2::{Digest, Sha256};

use super::dates::is_time_term;
use super::names::{first_name, name_of};
use super::terms::each_term;
use crate::memory::{DEFAULT_SESSION, Language, Memory};

/// Set in a stored length when the text names a time; lengths stay below it.
pub(crate) const TIME_FLAG: u32 = 1 << 31;
/// Set in a stored length when the text is a turn of a conversation.
pub(crate) const TURN_FLAG: u32 = 1 << 30;
/// The bits of a stored length that hold the length.
pub(crate) const LEN_MASK: u32 = TURN_FLAG - 1;
/// Begins a term that is no word of a text: the name of who said it. No word has this character.
const SPEAKER_MARK: char = '\u{1}';
/// The term of everything that somebody said.
pub(super) const ANY_SPEAKER: &str = "\u{1}";

/// Where a turn stands in its conversation: those with a position first, then by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    /// `i64::MAX` for none.
    pub(crate) position: i64,
    pub(crate) time: i64,
    pub(crate) key: u64,
}

/// What is kept of a memory besides its terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) order: Order,
    /// The conversation that it is a turn of.
    pub(crate) session: Option<u64>,
    pub(crate) importance: f32,
    /// How many terms it has.
    pub(crate) len: u32,
    /// Whether it names a time.
    pub(crate) names_time: bool,
}

impl Document {
    /// Its length with its flags, as it is stored.
    pub(super) fn stored_len(&self) -> u32 {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        self.len.min(LEN_MASK) | flag(self.names_time, TIME_FLAG) | flag(self.session.is_some(), TURN_FLAG)
    }

    /// Calls with each term of a memory, those of its speaker first, then with each name that it is found by.
    pub(crate) fn of(
        language: Language,
        key: u64,
        memory: &Memory,
        mut term: impl FnMut(&str),
        mut name: impl FnMut(&str),
    ) -> Self {
        let mut len = 0;
        let mut names_time = false;
        let mut each = |text: &str, is_text: bool| {
            each_term(language, text, |found| {
                len += 1;
                names_time |= is_text && is_time_term(found.text);
                term(found.text);
            });
        };
        if let Some(speaker) = &memory.speaker {
            each(speaker, false);
        }
        each(&memory.text, true);
        if let Some(speaker) = memory.speaker.as_deref().and_then(name_of) {
            name(ANY_SPEAKER);
            name(&speaker_term(&speaker));
            if let Some(first) = first_name(&speaker) {
                name(&speaker_term(first));
            }
        }
        let order = Order { position: memory.position.unwrap_or(i64::MAX), time: memory.timestamp, key };
        Self { order, session: session_of(memory), importance: memory.importance as f32, len, names_time }
    }
}

/// The term of what somebody said.
pub(super) fn speaker_term(name: &str) -> String {
    format!("{SPEAKER_MARK}{name}")
}

/// The conversation that a memory is a turn of: one of a named session that has a speaker, a role or a position.
fn session_of(memory: &Memory) -> Option<u64> {
    let is_turn = memory.speaker.is_some() || memory.role.is_some() || memory.position.is_some();
    if !is_turn || memory.session_id == DEFAULT_SESSION {
        return None;
    }
    // The length keeps collection and session apart.
    let mut hash = Sha256::new();
    hash.update((memory.collection.len() as u64).to_le_bytes());
    hash.update(&memory.collection);
    hash.update(&memory.session_id);
    Some(u64::from_le_bytes(*hash.finalize().first_chunk().expect("a digest has 32 bytes")))
}
