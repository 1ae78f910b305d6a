//! New ids of memories.

use std::sync::Mutex;

use super::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::MemoryId;

/// Makes ids: later ones sort behind earlier ones, also when the clock goes back.
#[derive(Debug)]
pub(crate) struct Ids(Mutex<ulid::Ulid>);

impl Default for Ids {
    fn default() -> Self {
        Self(Mutex::new(ulid::Ulid::nil()))
    }
}

impl Ids {
    /// A new one, at this time in milliseconds since the Unix epoch.
    pub(crate) fn next(&self, now_ms: i64) -> Result<MemoryId> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}"))
        })?;
        let now_ms = u64::try_from(now_ms).unwrap_or(0);
        let fresh = ulid::Ulid::from_parts(now_ms, u128::from_le_bytes(random));
        let mut last = lock(&self.0);
        let next = if fresh > *last { fresh } else { last.increment().unwrap_or(fresh) };
        *last = next;
        MemoryId::new(next.to_string())
    }
}
