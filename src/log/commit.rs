//! Group commit: concurrent callers share one write and one sync.
//!
//! A caller plans its operations under the queue's lock, so that plans see each other in order; then the first one
//! whose work is not yet on its way becomes the leader, writes everything that is queued as one batch and wakes the
//! others. While it syncs, the next batch gathers. Each caller waits for itself and is woken when its work is done, or
//! to lead: were all woken after each batch, most would find that it is not their turn.
//!
//! Threads that write one memory after the other would fall into two halves, one that syncs and one that waits. So a
//! leader gives those of the batch before a moment to come back, as databases do that have a "commit delay": a fraction
//! of what a sync takes, and only as long as somebody comes.
//!
//! A caller that serves somebody else need not wait: it leaves word what to do when its work is durable, and whoever leads
//! does that. Where nobody is left to lead, a thread does it that has nothing else to do, see [`Log::lead_for_others`].

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::bulk::Gate;
use super::tail::{Entry, Tail, WriteError};
use super::{BATCH_LEN_MAX, GROUP_LEN_MAX, Segment, SegmentMap};
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::format::op::Op;
use crate::format::record::{Location, PAYLOAD_LEN_MAX, record_len};
use crate::format::row::Position;

/// A leader waits for others at most for this part of what the last batch took, ...
const GATHER_SHARE: u32 = 4;
/// ... and never longer than this.
const GATHER_MAX: Duration = Duration::from_micros(500);
/// Whoever closes the gate looks this often whether the last batch is done.
const GATE_POLL: Duration = Duration::from_millis(1);
/// Most batches without waiting after nobody came.
const GATHER_SKIP_MAX: u32 = 63;

/// What the caller keeps about operations that are queued but not yet in the view.
pub(crate) trait Staged {
    /// Forgets all operations after this sequence: they were not written.
    fn abandon(&mut self, after_seq: u64);
}

/// A durable record on its way to the view.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) seq: u64,
    pub(crate) location: Location,
    pub(crate) op: Arc<Op>,
    /// The place behind it.
    pub(crate) after: Position,
}

/// What a caller wants to be durable: operations as one atomic group, none when what it relies on is queued already.
#[derive(Debug)]
pub(crate) struct Planned<T> {
    pub(crate) ops: Vec<Arc<Op>>,
    /// The call returns when this sequence, too, is durable.
    pub(crate) after_seq: u64,
    pub(crate) outcome: T,
}

/// The log, open for writing, with the state `S` of the caller under its lock.
#[derive(Debug)]
pub(crate) struct Log<S> {
    queue: Mutex<Queue<S>>,
    /// Tells those who wait for the gate that it is open.
    opened: Condvar,
    tail: Mutex<Tail>,
    segments: SegmentMap,
    committed: Mutex<VecDeque<Committed>>,
}

#[derive(Debug)]
struct Queue<S> {
    staged: S,
    next_seq: u64,
    durable_seq: u64,
    entries: Vec<Entry>,
    tickets: Vec<Arc<Ticket>>,
    leading: bool,
    /// Whether somebody writes alone; plans wait.
    closed: bool,
    poisoned: bool,
    pace: Pace,
}

/// What the last batches tell about the next one.
#[derive(Debug, Default)]
struct Pace {
    /// Callers of the last batch, and those who waited when it was done.
    writers: usize,
    /// How long it took.
    took: Duration,
    /// Batches for which nobody is waited for, because nobody came the last time.
    skip: u32,
    /// How many those were the last time.
    skipped: u32,
}

/// Work of one caller that is not durable yet.
#[derive(Debug)]
struct Ticket {
    /// What it waits for.
    after_seq: u64,
    state: Mutex<TicketState>,
}

#[derive(Debug)]
enum TicketState {
    /// The caller has not come yet to say how it waits.
    Begun,
    /// A thread waits and can lead.
    Thread(Thread),
    /// Nobody waits: this is called, and that thread leads when nobody else does.
    Then { then: Then, leader: Thread },
    /// What became of its operations.
    Settled(Fate),
}

/// What is called with what became of operations.
struct Then(Box<dyn FnOnce(Fate) + Send>);

impl std::fmt::Debug for Then {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Then")
    }
}

/// Operations that are planned and queued, and durable soon. Dropped, they still become durable.
#[derive(Debug)]
#[must_use = "nobody knows yet whether it is durable"]
pub(crate) struct Begun<T> {
    /// `None` when everything that the outcome relies on is durable.
    ticket: Option<Arc<Ticket>>,
    outcome: T,
}

#[derive(Clone, Debug)]
enum Fate {
    Durable,
    NotWritten { kind: ErrorKind, message: String, hint: Option<String> },
    Unknown { message: String },
}

impl<S: Staged> Log<S> {
    /// A log that goes on at the tail.
    pub(crate) fn new(tail: Tail, staged: S) -> Self {
        let last_seq = tail.state().last_seq;
        let queue = Queue {
            staged,
            next_seq: last_seq + 1,
            durable_seq: last_seq,
            entries: Vec::new(),
            tickets: Vec::new(),
            leading: false,
            closed: false,
            poisoned: false,
            pace: Pace::default(),
        };
        Self {
            queue: Mutex::new(queue),
            opened: Condvar::new(),
            segments: tail.segments().clone(),
            tail: Mutex::new(tail),
            committed: Mutex::default(),
        }
    }

    /// Plans operations at the next sequence and returns when they are durable.
    ///
    /// # Errors
    /// As [`Log::begin`] and [`Log::wait`].
    pub(crate) fn commit<T>(&self, plan: impl FnOnce(&mut S, u64) -> Result<Planned<T>>) -> Result<T> {
        self.wait(self.begin(plan)?)
    }

    /// Plans operations at the next sequence and queues them.
    ///
    /// # Errors
    /// What the plan says; [`ErrorKind::Poisoned`] after a failed commit.
    pub(crate) fn begin<T>(&self, plan: impl FnOnce(&mut S, u64) -> Result<Planned<T>>) -> Result<Begun<T>> {
        let mut queue = self.lock_open();
        if queue.poisoned {
            return Err(poisoned());
        }
        let next_seq = queue.next_seq;
        let planned = plan(&mut queue.staged, next_seq)?;
        if planned.ops.is_empty() && planned.after_seq <= queue.durable_seq {
            return Ok(Begun { ticket: None, outcome: planned.outcome });
        }
        // The plan is staged: from here on either its entries are queued, or it is taken back.
        let last_seq = match queue.push(planned.ops) {
            Ok(last_seq) => last_seq,
            Err(error) => {
                queue.staged.abandon(next_seq - 1);
                return Err(error);
            }
        };
        let after_seq = last_seq.unwrap_or(0).max(planned.after_seq);
        let ticket = Arc::new(Ticket { after_seq, state: Mutex::new(TicketState::Begun) });
        queue.tickets.push(Arc::clone(&ticket));
        Ok(Begun { ticket: Some(ticket), outcome: planned.outcome })
    }

    /// Returns when the operations are durable; leads when nobody else does.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] and others when nothing was written; [`ErrorKind::CommitUnknown`] when the disk failed on
    /// the way; [`ErrorKind::Poisoned`] ever after that.
    pub(crate) fn wait<T>(&self, begun: Begun<T>) -> Result<T> {
        let Begun { ticket, outcome } = begun;
        let Some(ticket) = ticket else { return Ok(outcome) };
        loop {
            if let Some(fate) = ticket.wait_as(TicketState::Thread(thread::current())) {
                return fate.into_result().map(|()| outcome);
            }
            let queue = self.lock();
            if queue.leading || queue.tickets.is_empty() {
                drop(queue);
                // Whoever leads, or has led just now, sees this ticket and wakes this thread.
                thread::park();
            } else {
                self.lead(queue);
            }
        }
    }

    /// Calls with the outcome when the operations are durable, or with the error that [`Log::wait`] would give, from
    /// whichever thread leads then: it must not wait for anything. This thread leads one batch when nobody else does; after
    /// it the leader, which runs [`Log::lead_for_others`].
    pub(crate) fn then<T: Send + 'static>(
        &self,
        begun: Begun<T>,
        leader: &Thread,
        then: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let Begun { ticket, outcome } = begun;
        let Some(ticket) = ticket else { return then(Ok(outcome)) };
        let then = Then(Box::new(move |fate: Fate| then(fate.into_result().map(|()| outcome))));
        if !ticket.call(then, leader) {
            return;
        }
        let queue = self.lock();
        if !queue.leading && !queue.tickets.is_empty() {
            self.lead(queue);
        }
    }

    /// Leads whenever somebody is waited for who does not lead, until it is told to stop and woken.
    pub(crate) fn lead_for_others(&self, is_stopping: impl Fn() -> bool) {
        loop {
            let queue = self.lock();
            if !queue.leading && queue.tickets.first().is_some_and(|ticket| ticket.is_left_to_others()) {
                self.lead(queue);
                continue;
            }
            drop(queue);
            if is_stopping() {
                return;
            }
            thread::park();
        }
    }

    /// Closes the log for all but the caller, once everything that is queued is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] after a failed commit.
    pub(crate) fn close_gate(&self) -> Result<Gate<'_, S>> {
        let mut queue = self.lock_open();
        // From here on nobody plans; those who have are seen through.
        queue.closed = true;
        while queue.leading || !queue.entries.is_empty() {
            if queue.leading {
                drop(queue);
                thread::sleep(GATE_POLL);
            } else {
                self.lead(queue);
            }
            queue = self.lock();
        }
        let gate = Gate { log: self, next_seq: queue.next_seq };
        let is_poisoned = queue.poisoned;
        // A gate that is dropped opens again, which takes the lock.
        drop(queue);
        if is_poisoned { Err(poisoned()) } else { Ok(gate) }
    }

    /// The queue, when nobody writes alone.
    fn lock_open(&self) -> MutexGuard<'_, Queue<S>> {
        let queue = self.lock();
        self.opened.wait_while(queue, |queue| queue.closed).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more writes.
    pub(super) fn poison(&self) {
        self.lock().poisoned = true;
    }

    /// Writes what is queued as one batch, up to [`BATCH_LEN_MAX`].
    fn lead<'a>(&'a self, mut queue: MutexGuard<'a, Queue<S>>) {
        queue.leading = true;
        queue = self.gather(queue);
        let entries = queue.take_batch();
        let durable_seq = queue.durable_seq;
        let last_seq = entries.last().map_or(durable_seq, |entry| entry.seq);
        let tickets: Vec<_> = queue.tickets.extract_if(.., |ticket| ticket.after_seq <= last_seq).collect();
        drop(queue);

        let started = Instant::now();
        let result = self.lock_tail().write_batch(&entries, durable_seq);
        let took = started.elapsed();
        if let Ok(written) = &result {
            // Handed over before anybody is told: who sees the new durable sequence finds its records here.
            let committed = entries.into_iter().zip(written).map(|(entry, (location, after))| Committed {
                seq: entry.seq,
                location: *location,
                op: entry.op,
                after: *after,
            });
            self.committed.lock().unwrap_or_else(PoisonError::into_inner).extend(committed);
        }

        let mut queue = self.lock();
        queue.leading = false;
        queue.pace.took = took;
        queue.pace.writers = tickets.len() + queue.tickets.len();
        let (fate, later) = match result {
            Ok(_) => {
                queue.durable_seq = last_seq;
                (Fate::Durable, None)
            }
            Err(error) => {
                let fate = match error {
                    WriteError::Clean(error) => Fate::not_written(&error),
                    WriteError::Unknown(error) => {
                        tracing::error!(%error, "a commit failed; the store takes no more writes until it is reopened");
                        queue.poisoned = true;
                        Fate::Unknown { message: error.to_string() }
                    }
                };
                let later_fate = if queue.poisoned { Fate::not_written(&poisoned()) } else { fate.clone() };
                // What gathered meanwhile may build on what was not written: it is not written either.
                queue.entries.clear();
                queue.next_seq = queue.durable_seq + 1;
                let durable_seq = queue.durable_seq;
                queue.staged.abandon(durable_seq);
                (fate, Some((std::mem::take(&mut queue.tickets), later_fate)))
            }
        };
        let next = queue.tickets.first().cloned();
        drop(queue);
        // The next leader first: the disk need not wait while the others are told.
        if let Some(next) = next {
            next.wake();
        }
        settle(tickets, fate);
        if let Some((tickets, fate)) = later {
            settle(tickets, fate);
        }
    }

    /// Waits a moment for writers who are likely to come.
    fn gather<'a>(&'a self, mut queue: MutexGuard<'a, Queue<S>>) -> MutexGuard<'a, Queue<S>> {
        let Pace { writers, took, skip, skipped } = queue.pace;
        let waiting = queue.tickets.len();
        if waiting >= writers {
            return queue;
        }
        if skip > 0 {
            queue.pace.skip -= 1;
            return queue;
        }
        let limit = (took / GATHER_SHARE).min(GATHER_MAX);
        let started = Instant::now();
        while queue.tickets.len() < writers && started.elapsed() < limit {
            drop(queue);
            thread::yield_now();
            queue = self.lock();
        }
        queue.pace.skipped =
            if queue.tickets.len() > waiting { 0 } else { (2 * skipped + 1).min(GATHER_SKIP_MAX) };
        queue.pace.skip = queue.pace.skipped;
        queue
    }

    /// The highest sequence that is durable.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.lock().durable_seq
    }

    /// Whether a commit failed.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.lock().poisoned
    }

    /// Looks at or changes the caller's state.
    pub(crate) fn with_staged<T>(&self, look: impl FnOnce(&mut S) -> T) -> T {
        look(&mut self.lock().staged)
    }

    /// Takes durable records that nobody took before, in order.
    pub(crate) fn take_committed(&self) -> Vec<Committed> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Puts back what was taken and could not be applied. Only by the one who took it, before the next is taken.
    pub(crate) fn give_back(&self, records: Vec<Committed>) {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        records.into_iter().rev().for_each(|record| committed.push_front(record));
    }

    /// Seals the segment that is open for records, if it has any, and goes on in a new one.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub(crate) fn roll(&self) -> Result<()> {
        if self.is_poisoned() {
            return Err(poisoned());
        }
        let rolled = {
            let mut tail = self.lock_tail();
            if tail.state().records == 0 { Ok(()) } else { tail.roll() }
        };
        match rolled {
            Ok(()) => Ok(()),
            Err(WriteError::Clean(error)) => Err(error),
            Err(WriteError::Unknown(error)) => {
                self.lock().poisoned = true;
                Fate::Unknown { message: error.to_string() }.into_result()
            }
        }
    }

    /// Number of the segment that is open for records.
    pub(crate) fn open_segment(&self) -> Option<u64> {
        self.lock_tail().open_segment()
    }

    /// Bytes of all segments, without the space that is filled with zeros ahead.
    pub(crate) fn len(&self) -> u64 {
        let tail = self.lock_tail();
        let (open, state) = (tail.open_segment(), tail.state());
        let len = |segment: &Segment| {
            if Some(segment.header.number) == open { state.len } else { segment.len }
        };
        self.segments.all().iter().map(len).sum()
    }

    /// The last sequence of a sealed segment, and the rolling checksum that the next one names.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn last_seq_of(&self, segment: &Segment) -> Result<(u64, u32)> {
        self.lock_tail().end_of(segment)
    }

    /// Writes the manifest after segments were rewritten.
    pub(crate) fn note_segments(&self) -> Result<()> {
        self.lock_tail().note_segments()
    }

    /// All segments, the active one last.
    pub(crate) fn segments(&self) -> &SegmentMap {
        &self.segments
    }

    /// Leaves the log so that the next open need not scan it. Not after a failed commit.
    pub(crate) fn close(&self) -> Result<()> {
        if self.is_poisoned() {
            return Err(poisoned());
        }
        self.lock_tail().close()
    }

    fn lock(&self) -> MutexGuard<'_, Queue<S>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Log<S> {
    /// Opens the gate; records before this sequence are durable.
    pub(super) fn reopen(&self, next_seq: u64) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = false;
        queue.next_seq = next_seq;
        queue.durable_seq = next_seq - 1;
        drop(queue);
        self.opened.notify_all();
    }
}

impl<S> Queue<S> {
    /// Takes whole groups, as many as one batch may have, but at least one.
    fn take_batch(&mut self) -> Vec<Entry> {
        let (mut len, mut count) = (0, 0);
        for (index, entry) in self.entries.iter().enumerate() {
            len += record_len(entry.payload.len());
            if count > 0 && len > BATCH_LEN_MAX {
                break;
            }
            if entry.group_end {
                count = index + 1;
            }
        }
        self.entries.drain(..count).collect()
    }

    /// Queues one atomic group and gives its last sequence; `None` when it is empty.
    fn push(&mut self, ops: Vec<Arc<Op>>) -> Result<Option<u64>> {
        let count = ops.len();
        let mut group_len = 0;
        let mut entries = Vec::with_capacity(count);
        for (index, op) in ops.into_iter().enumerate() {
            let mut payload = Vec::new();
            op.encode_payload(&mut payload);
            group_len += record_len(payload.len());
            if payload.len() > PAYLOAD_LEN_MAX || group_len > GROUP_LEN_MAX {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("one atomic group has more than {GROUP_LEN_MAX} bytes"),
                )
                .hint("give fewer or smaller memories at once"));
            }
            entries.push(Entry {
                seq: self.next_seq + index as u64,
                op,
                payload,
                group_end: index + 1 == count,
            });
        }
        self.next_seq += count as u64;
        let last_seq = entries.last().map(|entry| entry.seq);
        self.entries.append(&mut entries);
        Ok(last_seq)
    }
}

impl Fate {
    fn not_written(error: &Error) -> Self {
        let place = error.path().map_or(String::new(), |path| format!("{}: ", crate::error::shown(path)));
        Self::NotWritten {
            kind: error.kind(),
            message: format!("{place}{}", error.message()),
            hint: error.hint_text().map(str::to_owned),
        }
    }

    fn into_result(self) -> Result<()> {
        match self {
            Self::Durable => Ok(()),
            Self::NotWritten { kind, message, hint } => {
                let error = Error::new(kind, message);
                Err(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
            Self::Unknown { message } => {
                Err(Error::new(ErrorKind::CommitUnknown, format!("the commit failed: {message}"))
                    .durable(Durability::Unknown)
                    .hint("open the store again; repeating the call with the same id is safe"))
            }
        }
    }
}

/// Tells everybody what became of their operations.
fn settle(tickets: Vec<Arc<Ticket>>, fate: Fate) {
    struct Settling {
        tickets: std::vec::IntoIter<Arc<Ticket>>,
        fate: Fate,
    }

    impl Settling {
        fn go_on(&mut self) {
            for ticket in self.tickets.by_ref() {
                ticket.settle(&self.fate);
            }
        }
    }

    impl Drop for Settling {
        /// Whoever was told may panic; the others wait nevertheless.
        fn drop(&mut self) {
            self.go_on();
        }
    }

    Settling { tickets: tickets.into_iter(), fate }.go_on();
}

impl Ticket {
    fn state(&self) -> MutexGuard<'_, TicketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who waits, unless it is settled.
    fn wait_as(&self, waiting: TicketState) -> Option<Fate> {
        let mut state = self.state();
        if let TicketState::Settled(fate) = &*state {
            return Some(fate.clone());
        }
        *state = waiting;
        None
    }

    /// Notes what to call, or calls it when it is settled. Says whether somebody has to lead for it.
    fn call(&self, then: Then, leader: &Thread) -> bool {
        let mut state = self.state();
        if let TicketState::Settled(fate) = &*state {
            let fate = fate.clone();
            drop(state);
            (then.0)(fate);
            return false;
        }
        *state = TicketState::Then { then, leader: leader.clone() };
        true
    }

    /// Whether its caller does not lead.
    fn is_left_to_others(&self) -> bool {
        matches!(*self.state(), TicketState::Then { .. })
    }

    /// Wakes whoever is to lead next.
    fn wake(&self) {
        match &*self.state() {
            TicketState::Thread(thread) | TicketState::Then { leader: thread, .. } => thread.unpark(),
            // Its caller is about to come, and leads then.
            TicketState::Begun | TicketState::Settled(_) => {}
        }
    }

    fn settle(&self, fate: &Fate) {
        let former = std::mem::replace(&mut *self.state(), TicketState::Settled(fate.clone()));
        match former {
            TicketState::Thread(thread) => thread.unpark(),
            TicketState::Then { then, .. } => (then.0)(fate.clone()),
            TicketState::Begun => {}
            TicketState::Settled(_) => unreachable!("a ticket is settled once"),
        }
    }
}

fn poisoned() -> Error {
    Error::new(ErrorKind::Poisoned, "a former commit failed, so this handle takes no more writes")
        .hint("open the store again")
}
