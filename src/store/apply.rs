//! From the log to what is derived from it: the view, the words and the vectors in memory.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::open::Layout;
use super::replay::{FormerView, brought_up, build_view};
use super::{Inner, lock};
use crate::catalog::{Applied, CACHE_BYTES_DEFAULT, Catalog, Opened};
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::text::TextIndex;

/// The view is put on stable storage after this many records, ...
pub(super) const CHECKPOINT_RECORDS: u64 = 4096;
/// ... or this many bytes of log, ...
const CHECKPOINT_LEN: u64 = 8 << 20;
/// ... or this long after the first record since the last time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// The applying thread lets records gather for this long, so that one transaction serves many.
const GATHER: Duration = Duration::from_millis(10);
/// After the disk refused a checkpoint, the next one is tried after this long.
const CHECKPOINT_RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// After a failure the applying thread waits this long before it tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A writer applies records itself when this many wait, so that they never grow without bound.
const BACKLOG_MAX: u64 = 1024;

/// What was applied since the last checkpoint.
#[derive(Debug)]
pub(super) struct Applying {
    records: u64,
    len: u64,
    since: Option<Instant>,
    /// When the disk refused the last checkpoint.
    refused: Option<Instant>,
}

impl Applying {
    pub(super) fn new() -> Self {
        Self::after(0)
    }

    /// So many records were applied at the open.
    pub(super) fn after(records: u64) -> Self {
        Self { records, len: 0, since: (records > 0).then(Instant::now), refused: None }
    }

    fn checkpoint_is_due(&self) -> bool {
        let enough = self.records >= CHECKPOINT_RECORDS
            || self.len >= CHECKPOINT_LEN
            || self.since.is_some_and(|since| since.elapsed() >= CHECKPOINT_INTERVAL);
        enough && self.refused.is_none_or(|refused| refused.elapsed() >= CHECKPOINT_RETRY_INTERVAL)
    }
}

impl Inner {
    /// Applies everything that is durable, so that a read sees all that was acknowledged before it.
    pub(super) fn catch_up(&self) -> Result<()> {
        if self.log.durable_seq() <= self.catalog()?.applied_seq() {
            return Ok(());
        }
        self.apply_committed(&mut self.applying()).map(drop)
    }

    /// The right to apply. Whoever holds it sees view and search indexes standing still.
    pub(super) fn applying(&self) -> MutexGuard<'_, Applying> {
        lock(&self.applying)
    }

    /// Applies what is durable and hands the view over.
    pub(super) fn apply_committed(&self, applying: &mut Applying) -> Result<Arc<Catalog>> {
        let mut catalog = self.catalog()?;
        let durable_seq = self.log.durable_seq();
        // One take is enough: a record is here before anybody is told that it is durable.
        let records = self.log.take_committed();
        let first_seq = records.first().map_or(durable_seq + 1, |record| record.seq);
        if first_seq > catalog.applied_seq() + 1 {
            // Records that came past the queue, and that the view could not take then.
            let last_seq = records.last().map_or(durable_seq, |record| record.seq);
            return match self.build(applying, last_seq, FormerView::Gone) {
                Ok(catalog) => {
                    self.log.with_staged(|pending| pending.applied(last_seq));
                    Ok(catalog)
                }
                Err(error) => {
                    self.log.give_back(records);
                    Err(error)
                }
            };
        }
        if let Some(last) = records.last() {
            let (last_seq, next) = (last.seq, last.after);
            let applied: Vec<_> = records
                .iter()
                .map(|record| Applied { seq: record.seq, location: record.location, op: &record.op })
                .collect();
            if let Err(error) = catalog.apply(&applied, next) {
                tracing::error!(%error, "the view cannot take what the log has");
                catalog = match self.rebuild(applying, last_seq) {
                    Ok(whole) => whole,
                    Err(error) => {
                        // Whoever reads next tries again: these records must not be missing in silence.
                        self.log.give_back(records);
                        return Err(error);
                    }
                };
            } else {
                let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = search.apply(&records, &catalog) {
                    tracing::error!(%error, "the search indexes cannot follow and are loaded anew");
                    search.clear();
                }
                let are_vectors_due =
                    search.vectors.index.as_ref().is_some_and(|vectors| vectors.index.is_due());
                if are_vectors_due || search.words().is_some_and(TextIndex::is_due) {
                    self.wake_indexer();
                }
                applying.records += records.len() as u64;
                applying.len += records.iter().map(|record| u64::from(record.location.len)).sum::<u64>();
                applying.since.get_or_insert_with(Instant::now);
            }
            // From here on the view answers for these records.
            self.log.with_staged(|pending| pending.applied(last_seq));
            self.feed.take(&records);
        }
        Ok(catalog)
    }

    /// Applies what is durable and puts the view on stable storage. Others read and apply beside that.
    ///
    /// # Errors
    /// When the disk refuses it. Then what is in memory stays there, and the next checkpoint tries again.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        // What comes from here on counts for the next one.
        *applying = Applying::new();
        drop(applying);

        let Err(error) = catalog.checkpoint() else { return Ok(()) };
        tracing::error!(%error, "the view cannot be put on stable storage");
        let mut applying = self.applying();
        let mut current = self.catalog()?;
        if Arc::ptr_eq(&current, &catalog) {
            current = self.restore(&mut applying, 0)?;
        }
        // A view that was rebuilt is on stable storage.
        if current.holds() { Err(error) } else { Ok(()) }
    }

    /// Reads from the view. When what is read is damaged, the view is rebuilt from the log and read once more.
    pub(super) fn read<T>(&self, read: impl Fn(&Catalog) -> Result<T>) -> Result<T> {
        self.catch_up()?;
        self.healing(|| read(&*self.catalog()?))
    }

    /// Does what looks into the view. When the view cannot be used, another one takes its place and all is done once
    /// more.
    pub(super) fn healing<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        // The second time, when what a checkpoint left turns out to be damaged.
        for _ in 0..2 {
            let catalog = self.catalog()?;
            match attempt() {
                Err(error) if is_healed_by_rebuild(&error, &catalog) => {
                    tracing::error!(%error, "the view cannot be used");
                    let mut applying = self.applying();
                    // Somebody else may have replaced it while this thread waited.
                    if Arc::ptr_eq(&self.catalog()?, &catalog) {
                        self.rebuild(&mut applying, 0)?;
                    }
                }
                result => return result,
            }
        }
        attempt()
    }

    /// Puts a view that can be used in the place of one that cannot, at least up to `last_seq`. The search indexes are
    /// loaded anew: they may have followed in part.
    pub(super) fn rebuild(&self, applying: &mut Applying, last_seq: u64) -> Result<Arc<Catalog>> {
        let view = self.restore(applying, last_seq)?;
        self.search.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(view)
    }

    /// When the disk refused what was written, the view goes on from what its last checkpoint left, with all that came
    /// after it in memory: that needs no space. Otherwise it is built from the log.
    fn restore(&self, applying: &mut Applying, last_seq: u64) -> Result<Arc<Catalog>> {
        let former = self.catalog()?;
        if !former.write_failed() {
            return self.build(applying, last_seq, FormerView::Kept);
        }
        let seq = former.applied_seq();
        let newest = self.log.segments().newest_generation();
        let view = match former.reopened(CACHE_BYTES_DEFAULT)? {
            // It counts on records that are left out or elsewhere since.
            Opened::Ready(view) if view.generation() < newest => None,
            Opened::Ready(view) => {
                brought_up(view, &self.place, &self.log.segments().all(), last_seq.max(seq))?
            }
            Opened::Missing | Opened::Unusable(_) => None,
        };
        let Some((view, records)) = view else { return self.build(applying, last_seq, FormerView::Kept) };
        let view = Arc::new(view);
        self.catalog.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&view));
        *applying = Applying { refused: Some(Instant::now()), ..Applying::after(records) };
        tracing::warn!(
            records,
            "the view goes on from its last checkpoint, with what came after it in memory"
        );
        Ok(view)
    }

    /// Puts a view that is made of the log in the place of a damaged one, with everything that is durable, at least up to
    /// `last_seq`.
    pub(super) fn build(
        &self,
        applying: &mut Applying,
        last_seq: u64,
        former: FormerView,
    ) -> Result<Arc<Catalog>> {
        let segments = self.log.segments().all();
        let last_seq = self.log.durable_seq().max(last_seq);
        let whole = build_view(
            &Layout::of(&self.home),
            &self.place,
            &segments,
            last_seq,
            self.clock.now_ms(),
            former,
        )?;
        let whole = Arc::new(whole);
        self.catalog.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&whole));
        self.search.write().unwrap_or_else(PoisonError::into_inner).clear();
        *applying = Applying::new();
        tracing::warn!("the view was rebuilt from the log");
        Ok(whole)
    }

    /// Tells the applying thread that there is work, or does the work when too much of it waits.
    pub(super) fn committed(&self) {
        self.note_time();
        let applied_seq = self.catalog().map_or(0, |catalog| catalog.applied_seq());
        if self.log.durable_seq().saturating_sub(applied_seq) > BACKLOG_MAX
            && let Err(error) = self.catch_up()
        {
            // The records are durable: the call that made them succeeds whatever the view does.
            tracing::error!(%error, "the view lags behind the log");
        }
        if lock(&self.background.state).idle {
            self.background.wake.notify_all();
        }
        self.feed.wake();
    }

    /// Ends the threads behind the calls and waits for them.
    pub(super) fn stop_threads(&self) {
        self.background.stop.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut lock(&self.background.state).threads);
        self.background.wake.notify_all();
        for thread in threads {
            // A thread that paniced has said so; what it did is repeated by whoever reads next.
            let _ = thread.join();
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.background.stop.load(Ordering::SeqCst)
    }

    fn apply_until_stopped(&self) {
        let mut failed = false;
        while !self.is_stopping() {
            let mut state = lock(&self.background.state);
            let applied_seq = self.catalog().map_or(0, |catalog| catalog.applied_seq());
            let nothing_to_do = self.log.durable_seq() <= applied_seq;
            state.idle = nothing_to_do;
            // The wait ends early when work comes or the store is closed.
            let wait = match (nothing_to_do, failed) {
                (true, _) => CHECKPOINT_INTERVAL,
                (false, true) => RETRY_INTERVAL,
                (false, false) => GATHER,
            };
            if self.is_stopping() {
                return;
            }
            let (mut state, timeout) =
                self.background.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
            drop(state);
            if self.is_stopping() {
                return;
            }
            let applied = self.catch_up();
            failed = applied.is_err();
            if let Err(error) = applied {
                tracing::error!(%error, "the view lags behind the log");
            } else if (nothing_to_do && timeout.timed_out()) || self.applying().checkpoint_is_due() {
                self.settle_times();
                // What went wrong has been told, and it is tried again.
                if self.checkpoint().is_err() {
                    continue;
                }
                self.keep_reserve();
                if let Err(error) = self.compact_if_due(&|| self.is_stopping()) {
                    tracing::warn!(%error, "the log is not compacted");
                }
                if let Some(beside) = self.beside.as_ref().filter(|_| nothing_to_do && !self.read_only) {
                    beside.idle(self);
                }
            }
        }
    }
}

/// Whether this error is gone when the view is built anew. What was written in part must not be written twice.
pub(super) fn is_healed_by_rebuild(error: &Error, catalog: &Catalog) -> bool {
    error.durability() == Durability::NotWritten
        && (error.kind() == ErrorKind::Corrupt || catalog.damaged().is_some())
}

/// Starts the thread that applies records behind the writers.
pub(super) fn spawn_applier(inner: &Arc<Inner>) -> Result<()> {
    spawn(inner, "memento-apply", Inner::apply_until_stopped)
}

/// Starts a thread that ends with the store.
pub(super) fn spawn(inner: &Arc<Inner>, name: &str, work: fn(&Inner)) -> Result<()> {
    let own = Arc::clone(inner);
    let thread =
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&own)).map_err(|error| {
            Error::new(ErrorKind::Io, format!("no thread from the system: {error}"))
                .hint("end other programs, or raise the limits on memory and processes, see `ulimit -a`")
        })?;
    lock(&inner.background.state).threads.push(thread);
    Ok(())
}
