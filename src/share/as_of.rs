//! The store as it was.

use std::ops::Deref;

use super::Store;

/// The store as it was, for questions: a copy of the log up to a moment, opened for reading. It is removed when this is
/// dropped; that of another process a while after nobody asks it any more.
#[derive(Debug)]
pub struct AsOf {
    store: Store,
    seq: u64,
}

impl AsOf {
    pub(super) fn new(store: Store, seq: u64) -> Self {
        Self { store, seq }
    }

    /// Records up to this sequence are in it.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl Deref for AsOf {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}
