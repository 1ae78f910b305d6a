//! What can be asked of the store: remember, update, forget.

use serde::Serialize;
use serde_json::{Map, Value};

use super::limits::{check_importance, check_label, check_metadata, check_text, check_vector, clean_tags};
use super::{
    DEFAULT_COLLECTION, DEFAULT_IMPORTANCE, DEFAULT_SESSION, DEFAULT_SOURCE, Digest, Memory, MemoryId,
    Receipt,
};
use crate::error::{Error, ErrorKind, Result};
use crate::secrets;
use crate::time;

/// What happens when a memory with the same text is already in the collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Duplicates {
    /// The same text is kept once: tags are merged and the higher importance is kept. A text that is nearly the
    /// same (cosine above 0.95) is stored beside it. Both are reported as [`Remembered::duplicate_of`].
    #[default]
    Merge,
    /// Every text is stored on its own and no duplicate is looked for.
    Keep,
}

/// A memory to be stored.
#[derive(Clone, Debug)]
#[must_use]
pub struct Remember {
    pub(crate) id: Option<MemoryId>,
    /// The id that it gets when it is new and has none of its own: whoever asks again after a cut knows it by that.
    pub(crate) proposed: Option<MemoryId>,
    /// Whether the call was made before, and nobody knows whether it was done.
    pub(crate) is_again: bool,
    pub(crate) text: String,
    pub(crate) timestamp: Option<i64>,
    pub(crate) source: String,
    pub(crate) session_id: String,
    pub(crate) importance: f64,
    pub(crate) tags: Vec<String>,
    pub(crate) collection: String,
    pub(crate) speaker: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) position: Option<i64>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) duplicates: Duplicates,
    pub(crate) allow_secrets: bool,
}

impl Remember {
    /// A text to remember, up to 1 MiB, with the defaults of the original: collection `knowledge`, source
    /// `conversation`, session `default`, importance 0.5.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            id: None,
            proposed: None,
            is_again: false,
            text: text.into(),
            timestamp: None,
            source: DEFAULT_SOURCE.to_owned(),
            session_id: DEFAULT_SESSION.to_owned(),
            importance: DEFAULT_IMPORTANCE,
            tags: Vec::new(),
            collection: DEFAULT_COLLECTION.to_owned(),
            speaker: None,
            role: None,
            position: None,
            metadata: Map::new(),
            vector: None,
            duplicates: Duplicates::default(),
            allow_secrets: false,
        }
    }

    /// The id to store it under. Repeating a call with the same id and content is safe.
    pub fn id(mut self, id: MemoryId) -> Self {
        self.id = Some(id);
        self
    }

    /// When it was, in Unix seconds; by default now.
    pub fn at(mut self, unix_seconds: i64) -> Self {
        self.timestamp = Some(unix_seconds);
        self
    }

    /// Where it came from.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// The conversation it belongs to.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.session_id = session.into();
        self
    }

    /// How much it matters, 0 to 1.
    pub fn importance(mut self, importance: f64) -> Self {
        self.importance = importance;
        self
    }

    /// Its tags, at most 64.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// The part of the store it lives in.
    pub fn collection(mut self, collection: impl Into<String>) -> Self {
        self.collection = collection.into();
        self
    }

    /// Who said it.
    pub fn speaker(mut self, speaker: impl Into<String>) -> Self {
        self.speaker = Some(speaker.into());
        self
    }

    /// The speaker's role, such as `user` or `assistant`.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// Its place in the session, counted from 0.
    pub fn position(mut self, position: i64) -> Self {
        self.position = Some(position);
        self
    }

    /// One more entry of metadata, at most 64 KiB of JSON in all.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The whole metadata.
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.metadata = metadata;
        self
    }

    /// A vector of the caller's own embedder, 1 to 4096 dimensions, as many as the store's model has. It is
    /// scaled to length 1.
    pub fn vector(mut self, vector: impl Into<Vec<f32>>) -> Self {
        self.vector = Some(vector.into());
        self
    }

    /// What happens when the same text is already there.
    pub fn on_duplicate(mut self, duplicates: Duplicates) -> Self {
        self.duplicates = duplicates;
        self
    }

    /// Whether it is stored although a password, a key or a token is found in its text or its metadata. By default that
    /// is an error of kind [`Refused`](crate::ErrorKind::Refused), and nothing of it is written anywhere.
    pub fn allow_secrets(mut self, allow: bool) -> Self {
        self.allow_secrets = allow;
        self
    }

    /// Refuses what holds a secret, unless that is allowed. The store does so itself; this is for whoever writes it
    /// elsewhere first.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) with the kinds of secrets that were found, without the secrets.
    pub fn check_secrets(&self) -> Result<()> {
        if self.allow_secrets {
            return Ok(());
        }
        refuse_secrets(&self.text, &self.metadata)
    }

    /// The memory's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The time that the memory is to have, in Unix seconds, if it was named.
    #[must_use]
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// The memory that this becomes under an id; `now` is its time if it names none.
    pub(crate) fn to_memory(&self, id: MemoryId, now: i64) -> Memory {
        Memory {
            id,
            text: self.text.clone(),
            timestamp: self.timestamp.unwrap_or(now),
            source: self.source.clone(),
            session_id: self.session_id.clone(),
            importance: self.importance,
            tags: self.tags.clone(),
            collection: self.collection.clone(),
            speaker: self.speaker.clone(),
            role: self.role.clone(),
            position: self.position,
            metadata: self.metadata.clone(),
        }
    }

    /// Checks every field and brings tags into their stored form.
    pub(crate) fn checked(mut self) -> Result<Self> {
        check_text(&self.text)?;
        check_importance(self.importance)?;
        check_label("collection", &self.collection)?;
        check_label("source", &self.source)?;
        check_label("session", &self.session_id)?;
        for (name, value) in [("speaker", &self.speaker), ("role", &self.role)] {
            if let Some(value) = value {
                check_label(name, value)?;
            }
        }
        check_metadata(&self.metadata)?;
        self.timestamp.map_or(Ok(0), time::checked)?;
        if let Some(vector) = &self.vector {
            check_vector(vector)?;
        }
        self.tags = clean_tags(self.tags)?;
        Ok(self)
    }
}

fn refuse_secrets(text: &str, metadata: &Map<String, Value>) -> Result<()> {
    let kinds = secrets::kinds(text, metadata);
    if kinds.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, format!("the memory holds a secret: {}", kinds.join(", ")))
        .hint("leave it out; or store it as it is with --allow-secrets (in the library: `allow_secrets`)"))
}

/// What became of a [`Remember`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Remembered {
    /// The memory that holds the text.
    pub id: MemoryId,
    /// The sequence of the record that made it so.
    pub seq: u64,
    /// Fingerprint of what that record says.
    pub digest: Digest,
    /// The memory that says the same, when there was one: equal to `id` when the text was already there, another
    /// id when a nearly equal text (cosine above 0.95) stands beside this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<MemoryId>,
}

impl Remembered {
    /// What proves later that it is there as it was acknowledged.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        Receipt { seq: self.seq, digest: self.digest }
    }
}

impl Updated {
    /// What proves later that it is there as it was acknowledged.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        Receipt { seq: self.seq, digest: self.digest }
    }
}

/// Changes to one memory; what is not named stays.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Update {
    pub(crate) text: Option<String>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) source: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) importance: Option<f64>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) add_tags: Vec<String>,
    pub(crate) remove_tags: Vec<String>,
    pub(crate) collection: Option<String>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) allow_secrets: bool,
}

impl Update {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new text; it is embedded anew.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// A new time, in Unix seconds.
    pub fn at(mut self, unix_seconds: i64) -> Self {
        self.timestamp = Some(unix_seconds);
        self
    }

    /// A new source.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A new session.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.session_id = Some(session.into());
        self
    }

    /// A new importance, 0 to 1.
    pub fn importance(mut self, importance: f64) -> Self {
        self.importance = Some(importance);
        self
    }

    /// These tags instead of the former ones.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// These tags beside the others.
    pub fn add_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.add_tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Not these tags any more.
    pub fn remove_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.remove_tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// A new collection.
    pub fn collection(mut self, collection: impl Into<String>) -> Self {
        self.collection = Some(collection.into());
        self
    }

    /// One entry of metadata set; `null` takes it away.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Whether a text or metadata with a password, a key or a token in it is stored, see
    /// [`Remember::allow_secrets`].
    pub fn allow_secrets(mut self, allow: bool) -> Self {
        self.allow_secrets = allow;
        self
    }

    /// Refuses what holds a secret, unless that is allowed.
    pub(crate) fn check_secrets(&self) -> Result<()> {
        if self.allow_secrets {
            return Ok(());
        }
        refuse_secrets(self.text.as_deref().unwrap_or_default(), &self.metadata)
    }

    /// A vector of the caller's own embedder for the new text.
    pub fn vector(mut self, vector: impl Into<Vec<f32>>) -> Self {
        self.vector = Some(vector.into());
        self
    }
}

/// What became of an [`Update`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Updated {
    /// The memory.
    pub id: MemoryId,
    /// The sequence of the record that changed it, or of its present version when nothing changed.
    pub seq: u64,
    /// Fingerprint of what that record says.
    pub digest: Digest,
    /// Whether anything was different.
    pub changed: bool,
}

/// What became of a request to forget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Forgotten {
    /// The memories that are gone.
    pub forgotten: Vec<MemoryId>,
    /// Ids that no memory has.
    pub missing: Vec<MemoryId>,
    /// The sequence of the last record, when something was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}
