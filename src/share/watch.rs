//! Following a store: what is written, as it is acknowledged, in whichever process.

use std::collections::VecDeque;
use std::time::Duration;

use super::Store;
use crate::error::Result;
use crate::store::Change;

/// Changes that are fetched at once.
const FETCHED: usize = 256;
/// How long one question to the owner waits.
const WAIT: Duration = Duration::from_millis(900);

/// The changes of a store, in the order of the log, without an end: [`Iterator::next`] waits for the next one. Made by
/// [`Store::watch`].
///
/// It begins where it was told to and leaves nothing out that the log still has, also when the owner of the store ends
/// and another process takes over. What a compaction has left out is not told; [`Change::seq`] says where to go on.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    after_seq: u64,
    fetched: VecDeque<Change>,
}

impl Watch {
    pub(super) fn new(store: Store, after_seq: u64) -> Self {
        Self { store, after_seq, fetched: VecDeque::new() }
    }

    /// The next change, if one comes within this time.
    ///
    /// # Errors
    /// Those of a call to the owner; the next call tries again.
    pub fn next_within(&mut self, wait: Duration) -> Result<Option<Change>> {
        if self.fetched.is_empty() {
            self.fetched = self.store.changes(self.after_seq, FETCHED, wait.min(WAIT))?.into();
        }
        let change = self.fetched.pop_front();
        if let Some(change) = &change {
            self.after_seq = change.seq;
        }
        Ok(change)
    }
}

impl Iterator for Watch {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_within(WAIT) {
                Ok(None) => {}
                Ok(Some(change)) => return Some(Ok(change)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
