//! Ids of memories in a file: which stood there already, and one for a memory that has none.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::memory::{MemoryId, Remember};

/// Bytes of the hash that names a memory without an id.
const MADE_ID_LEN: usize = 8;

/// The memory that has an id, by the start of the id's SHA-256: some 24 bytes for each, however long it is.
#[derive(Debug, Default)]
pub(super) struct Ids(HashMap<[u8; 16], u64>);

impl Ids {
    /// Notes the id of a memory of the file, or says which other memory had it already.
    pub(super) fn insert(&mut self, id: &MemoryId, index: u64) -> Option<u64> {
        let digest = Sha256::digest(id.as_str());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        match self.0.entry(key) {
            Entry::Occupied(other) => Some(*other.get()),
            Entry::Vacant(place) => {
                place.insert(index);
                None
            }
        }
    }
}

/// The texts of a file, by a hash of some bytes.
#[derive(Debug, Default)]
pub(super) struct Texts(HashSet<[u8; 16]>);

impl Texts {
    /// Notes a text of a collection; says whether it is the first.
    pub(super) fn insert(&mut self, collection: &str, text: &str) -> bool {
        let digest = hash_of(&[collection, text]).finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        self.0.insert(key)
    }
}

/// The id of a memory that has none: made from what it says, so that importing it twice stores it once.
pub(super) fn made(remember: &Remember) -> MemoryId {
    let mut hash = hash_of(&[&remember.collection, &remember.session_id, &remember.source, &remember.text]);
    hash.update(remember.timestamp.unwrap_or_default().to_le_bytes());
    finish(hash)
}

/// An id made of some texts.
pub(super) fn of_parts(parts: &[&str]) -> MemoryId {
    finish(hash_of(parts))
}

fn hash_of(parts: &[&str]) -> Sha256 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash
}

fn finish(hash: Sha256) -> MemoryId {
    let id: String = hash.finalize()[..MADE_ID_LEN].iter().map(|byte| format!("{byte:02x}")).collect();
    MemoryId::new(id).expect("hex digits are an id")
}
