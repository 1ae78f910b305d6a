//! From the log to what is derived from it: the view, the words and the vectors in memory.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::open::{Layout, quarantine, replay};
use super::{Inner, lock};
use crate::catalog::{Applied, CACHE_BYTES_DEFAULT, Catalog, Position};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Committed;

/// The view is put on stable storage after this many records, ...
pub(super) const CHECKPOINT_RECORDS: u64 = 4096;
/// ... or this many bytes of log, ...
const CHECKPOINT_LEN: u64 = 8 << 20;
/// ... or this long after the first record since the last time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// The applying thread lets records gather for this long, so that one transaction serves many.
const GATHER: Duration = Duration::from_millis(10);
/// A writer applies records itself when this many wait, so that they never grow without bound.
const BACKLOG_MAX: u64 = 1024;

/// What was applied since the last checkpoint.
#[derive(Debug)]
pub(super) struct Applying {
    records: u64,
    len: u64,
    since: Option<Instant>,
}

impl Applying {
    pub(super) fn new() -> Self {
        Self { records: 0, len: 0, since: None }
    }

    /// So many records were applied at the open.
    pub(super) fn after(records: u64) -> Self {
        Self { records, len: 0, since: (records > 0).then(Instant::now) }
    }

    fn checkpoint_is_due(&self) -> bool {
        self.records >= CHECKPOINT_RECORDS
            || self.len >= CHECKPOINT_LEN
            || self.since.is_some_and(|since| since.elapsed() >= CHECKPOINT_INTERVAL)
    }
}

impl Inner {
    /// Applies everything that is durable, so that a read sees all that was acknowledged before it.
    pub(super) fn catch_up(&self) -> Result<()> {
        if self.log.durable_seq() <= self.catalog()?.position().applied_seq {
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
        // Before the records are taken: all up to here are either taken now or were taken before.
        let durable_seq = self.log.durable_seq();
        loop {
            let records = self.log.take_committed();
            let Some(last) = records.last() else { break };
            let (last_seq, next) = (last.seq, position_after(last));
            let applied: Vec<_> = records
                .iter()
                .map(|record| Applied { seq: record.seq, location: record.location, op: &record.op })
                .collect();
            if let Err(error) = catalog.apply(&applied, next) {
                tracing::error!(%error, "the view cannot take what the log has");
                catalog = self.renew(applying)?;
            } else {
                let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
                search.apply(&records, &catalog)?;
            }
            // From here on the view answers for these records.
            self.log.with_staged(|pending| pending.applied(last_seq));
            applying.records += records.len() as u64;
            applying.len += records.iter().map(|record| u64::from(record.location.len)).sum::<u64>();
            applying.since.get_or_insert_with(Instant::now);
        }
        if catalog.position().applied_seq < durable_seq {
            // Records were taken, but the view could not be renewed then, on a full disk for example.
            catalog = self.renew(applying)?;
        }
        if applying.checkpoint_is_due() {
            catalog.checkpoint()?;
            *applying = Applying::new();
        }
        Ok(catalog)
    }

    /// Applies what is durable and puts the view on stable storage.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        if applying.records > 0 {
            catalog.checkpoint()?;
            *applying = Applying::new();
        }
        Ok(())
    }

    /// Reads from the view. When it is damaged, it is renewed from the log and read once more.
    pub(super) fn read<T>(&self, read: impl Fn(&Catalog) -> Result<T>) -> Result<T> {
        self.catch_up()?;
        let catalog = self.catalog()?;
        match read(&catalog) {
            Err(error) if error.kind() == ErrorKind::Corrupt || catalog.damaged().is_some() => {
                tracing::error!(%error, "the view is damaged");
                let mut applying = self.applying();
                let present = self.catalog()?;
                // Somebody else may have renewed it while this thread waited.
                let whole =
                    if Arc::ptr_eq(&present, &catalog) { self.renew(&mut applying)? } else { present };
                read(&whole)
            }
            result => result,
        }
    }

    /// Moves the view to quarantine and makes a new one from the log. On an error the former one stays in use, and
    /// the next call tries again.
    fn renew(&self, applying: &mut Applying) -> Result<Arc<Catalog>> {
        let layout = Layout::of(&self.home);
        let store_id = self.place_store_id()?;
        if self.place.disk.kind(&layout.view)?.is_some() {
            quarantine(&*self.place.disk, &layout, &layout.view, self.clock.now_ms())?;
        }
        let whole = Catalog::create(&layout.view, store_id, CACHE_BYTES_DEFAULT)?;
        let durable_seq = self.log.durable_seq();
        let replayed = replay(&self.place, &self.log.segments().all(), &whole, durable_seq)?;
        let whole = Arc::new(whole);
        self.catalog.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&whole));
        self.search.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.log.with_staged(|pending| pending.applied(durable_seq));
        *applying = Applying::after(replayed);
        tracing::warn!("the view was rebuilt from the log");
        Ok(whole)
    }

    fn place_store_id(&self) -> Result<[u8; 16]> {
        let first = self.log.segments().all().first().map(|segment| segment.header.store_id);
        first.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the store has no segments").at(&self.place.segments)
        })
    }

    /// Tells the applying thread that there is work, or does the work when too much of it waits.
    pub(super) fn committed(&self) {
        let applied_seq = self.catalog().map_or(0, |catalog| catalog.position().applied_seq);
        if self.log.durable_seq().saturating_sub(applied_seq) > BACKLOG_MAX
            && let Err(error) = self.catch_up()
        {
            // The records are durable: the call that made them succeeds whatever the view does.
            tracing::error!(%error, "the view lags behind the log");
        }
        if lock(&self.background.state).idle {
            self.background.wake.notify_all();
        }
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
        while !self.is_stopping() {
            let mut state = lock(&self.background.state);
            let applied_seq = self.catalog().map_or(0, |catalog| catalog.position().applied_seq);
            let nothing_to_do = self.log.durable_seq() <= applied_seq;
            state.idle = nothing_to_do;
            // The wait ends early when work comes or the store is closed.
            let wait = if nothing_to_do { CHECKPOINT_INTERVAL } else { GATHER };
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
            let done = if nothing_to_do && timeout.timed_out() { self.checkpoint() } else { self.catch_up() };
            if let Err(error) = done {
                tracing::error!(%error, "the view lags behind the log");
            }
        }
    }
}

fn position_after(record: &Committed) -> Position {
    Position {
        applied_seq: record.seq,
        segment: record.location.segment,
        offset: record.location.offset + u64::from(record.location.len),
    }
}

/// Starts the thread that applies records behind the writers.
pub(super) fn spawn_applier(inner: &Arc<Inner>) -> Result<()> {
    spawn(inner, "memento-apply", Inner::apply_until_stopped)
}

/// Starts a thread that ends with the store.
pub(super) fn spawn(inner: &Arc<Inner>, name: &str, work: fn(&Inner)) -> Result<()> {
    let own = Arc::clone(inner);
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&own))
        .map_err(|error| Error::new(ErrorKind::Io, format!("no thread from the system: {error}")))?;
    lock(&inner.background.state).threads.push(thread);
    Ok(())
}
