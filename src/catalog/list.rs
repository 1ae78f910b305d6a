//! Memories by time, a page at a time, without reading what is not on the page where that can be avoided.

use std::time::Instant;

use super::guard::Fault;
use super::scope::{expired, labelled, scope, times};
use super::snapshot::Snapshot;
use super::view::View;
use crate::error::Result;
use crate::format::op::MemoryKey;
use crate::format::row::{Row, TableTag};
use crate::memory::{Filter, Order};

/// When no more memories than this have the filter's labels, they are all read and put in order.
const SORTED_MAX: usize = 2048;
/// This many memories are read in the order of time before the filter's scope is worked out.
const TRIED_MAX: usize = 2048;

impl View<'_> {
    /// The memories that the filter lets through, in this order; of one second, the last stored is the newest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`] after the deadline, [`crate::ErrorKind::Corrupt`] when the view is damaged.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        order: Order,
        offset: usize,
        limit: usize,
        deadline: Option<Instant>,
    ) -> Result<Vec<Row>> {
        let page = Page { filter, order, offset, limit, deadline };
        self.read(|snapshot| page.read(snapshot))
    }
}

struct Page<'f> {
    filter: &'f Filter,
    order: Order,
    offset: usize,
    limit: usize,
    deadline: Option<Instant>,
}

impl Page<'_> {
    fn read(&self, snapshot: &Snapshot) -> Result<Vec<Row>, Fault> {
        expired(self.deadline)?;
        match labelled(snapshot, self.filter, SORTED_MAX + 1, self.deadline)? {
            Some(keys) if keys.len() <= SORTED_MAX => self.sorted(snapshot, &keys),
            keys => self.walked(snapshot, keys.is_some()),
        }
    }

    /// Reads all candidates and puts them in order.
    fn sorted(&self, snapshot: &Snapshot, keys: &[MemoryKey]) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        for key in keys {
            expired(self.deadline)?;
            let row = snapshot.row_named(*key, TableTag::Label)?;
            if self.filter.matches(&row.memory) {
                rows.push(row);
            }
        }
        rows.sort_by_key(|row| (row.memory.timestamp, row.key));
        if self.order == Order::Newest {
            rows.reverse();
        }
        Ok(rows.into_iter().skip(self.offset).take(self.limit).collect())
    }

    /// Walks along the time. While few were walked, their rows say which have the filter's labels; after that the
    /// filter's whole scope does.
    fn walked(&self, snapshot: &Snapshot, has_labels: bool) -> Result<Vec<Row>, Fault> {
        let mut entries = times(snapshot, self.filter)?;
        let mut rows = Vec::new();
        let (mut to_skip, mut tried) = (self.offset, 0);
        let mut in_scope: Option<Vec<MemoryKey>> = None;
        while rows.len() < self.limit {
            let entry = if self.order == Order::Newest { entries.next_back() } else { entries.next() };
            let Some(entry) = entry else { break };
            let (key, importance) = entry?;
            tried += 1;
            if tried % 256 == 0 {
                expired(self.deadline)?;
            }
            if self.filter.min_importance.is_some_and(|least| importance < least) {
                continue;
            }
            if has_labels && tried > TRIED_MAX {
                let keys = match &mut in_scope {
                    Some(keys) => keys,
                    none => none.insert(scope(snapshot, self.filter, self.deadline)?),
                };
                if keys.binary_search(&key).is_err() {
                    continue;
                }
            }
            if to_skip > 0 && (!has_labels || in_scope.is_some()) {
                to_skip -= 1;
                continue;
            }
            let row = snapshot.row_named(key, TableTag::Time)?;
            if !self.filter.matches(&row.memory) {
                continue;
            }
            if to_skip > 0 {
                to_skip -= 1;
            } else {
                rows.push(row);
            }
        }
        Ok(rows)
    }
}
