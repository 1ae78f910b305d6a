//! What a memory, a query and an answer are, and which values they may have.
//!
//! Pure: no I/O, no clock. Every value that a caller can give is checked here, once, before it meets the store.

mod language;
mod limits;
mod message;
mod model;
mod query;
mod receipt;
mod write;

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

pub use language::Language;
pub use limits::*;
pub use model::ModelIdentity;
pub use query::{Answer, Degraded, Effort, Explain, Filter, List, Match, Mode, Order, Reason, Recall};
pub use receipt::{Digest, Receipt};
pub use write::{Duplicates, Forgotten, Remember, Remembered, Update, Updated};

use crate::error::{Error, ErrorKind, Result};

/// Collection of a memory that names none.
pub const DEFAULT_COLLECTION: &str = "knowledge";
/// Source of a memory that names none.
pub const DEFAULT_SOURCE: &str = "conversation";
/// Session of a memory that names none.
pub const DEFAULT_SESSION: &str = "default";
/// Importance of a memory that states none.
pub const DEFAULT_IMPORTANCE: f64 = 0.5;

/// The name of a memory: opaque text, 1 to 256 bytes without control characters.
///
/// Ids that the store makes are ULIDs, so they sort by time; ids of imported memories are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemoryId(String);

impl MemoryId {
    /// Checks the text of an id.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is empty, longer than 256 bytes or has control characters.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        Self::check(&text)?;
        Ok(Self(text))
    }

    /// Whether [`MemoryId::new`] takes this text.
    pub(crate) fn check(text: &str) -> Result<()> {
        if text.trim().is_empty() || text.len() > ID_LEN_MAX || text.chars().any(char::is_control) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "an id is 1 to {ID_LEN_MAX} bytes without control characters, this one has {}",
                    text.len()
                ),
            ));
        }
        Ok(())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for MemoryId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// One memory, as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Memory {
    /// Its name.
    pub id: MemoryId,
    /// What is remembered, byte for byte as it was given.
    pub text: String,
    /// When it was, in Unix seconds.
    pub timestamp: i64,
    /// Where it came from.
    pub source: String,
    /// The conversation it belongs to.
    pub session_id: String,
    /// How much it matters, 0 to 1.
    pub importance: f64,
    /// Labels; whole tags are matched.
    pub tags: Vec<String>,
    /// The part of the store it lives in.
    pub collection: String,
    /// Who said it, in a conversation.
    pub speaker: Option<String>,
    /// The speaker's role, such as `user` or `assistant`.
    pub role: Option<String>,
    /// Its place in the session, counted from 0.
    pub position: Option<i64>,
    /// Anything else that the caller wants back.
    pub metadata: Map<String, Value>,
}

impl Memory {
    /// A memory with every optional field at its default.
    #[must_use]
    pub fn new(id: MemoryId, text: impl Into<String>, timestamp: i64) -> Self {
        Self {
            id,
            text: text.into(),
            timestamp,
            source: DEFAULT_SOURCE.to_owned(),
            session_id: DEFAULT_SESSION.to_owned(),
            importance: DEFAULT_IMPORTANCE,
            tags: Vec::new(),
            collection: DEFAULT_COLLECTION.to_owned(),
            speaker: None,
            role: None,
            position: None,
            metadata: Map::new(),
        }
    }

    /// Writes the fields in the documented order into an open JSON object.
    pub(crate) fn serialize_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("text", &self.text)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("session_id", &self.session_id)?;
        map.serialize_entry("importance", &self.importance)?;
        map.serialize_entry("tags", &self.tags)?;
        map.serialize_entry("collection", &self.collection)?;
        if let Some(speaker) = &self.speaker {
            map.serialize_entry("speaker", speaker)?;
        }
        if let Some(role) = &self.role {
            map.serialize_entry("role", role)?;
        }
        if let Some(position) = &self.position {
            map.serialize_entry("position", position)?;
        }
        if !self.metadata.is_empty() {
            map.serialize_entry("metadata", &self.metadata)?;
        }
        Ok(())
    }
}

/// JSON with the keys in the documented order: `id, text, timestamp, source, session_id, importance, tags,
/// collection`, then `speaker`, `role`, `position` and `metadata` where there are any.
impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_fields(&mut map)?;
        map.end()
    }
}
