//! The thread behind the calls: it makes what is due, verifies what is searched, and measures what walks find.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Due, Found, Watch};
use crate::error::Result;
use crate::memory::Effort;
use crate::scope::Scope;
use crate::store::search::Loading;
use crate::store::{Inner, Progress, apply, lock};
use crate::vector::Limits;

/// After a block could not be made, the next one is tried after this long.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// A block is verified when nothing was to do for so long: not by a program that answers one question and ends.
const VERIFY_DELAY: Duration = Duration::from_secs(20);
/// One in so many walks through a graph is done once more by a scan.
const WATCH_EVERY: u64 = 64;
/// Queries that wait for that.
const WATCH_QUEUE: usize = 8;
/// Nearest memories that are compared.
const WATCH_K: usize = 10;
/// With so many comparisons the measured recall counts, ...
const WATCH_MIN: u64 = 32;
/// ... and below this the graph is made anew.
const RECALL_MIN: f64 = 0.95;

impl Inner {
    /// Tells the indexing thread that a block may be due.
    pub(in crate::store) fn wake_indexer(&self) {
        self.wake_indexer_for(None);
    }

    pub(super) fn wake_indexer_for(&self, asked: Option<Found>) {
        let mut state = lock(&self.background.state);
        let before = (state.index, state.index_asked, state.text_asked);
        state.index = true;
        state.index_asked |= asked == Some(Found::Block);
        state.text_asked |= asked == Some(Found::TextBlock);
        let is_told = before == (state.index, state.index_asked, state.text_asked);
        drop(state);
        if !is_told {
            self.background.wake.notify_all();
        }
    }

    /// Makes what is due or asked for.
    fn index(&self, asked: bool, text_asked: bool) {
        let progress = |done, total| lock(&self.indexing.state).progress = Some(Progress::new(done, total));
        let is_resting = |failed: &Option<(Instant, String)>| {
            failed.as_ref().is_some_and(|(when, _)| when.elapsed() < RETRY_INTERVAL)
        };
        if !is_resting(&lock(&self.indexing.state).text_failed)
            && let Err(error) = self.make_text_blocks(text_asked, &|| self.is_stopping(), &progress)
        {
            tracing::error!(%error, "the text index could not be made");
        }
        lock(&self.indexing.state).progress = None;
        if !is_resting(&lock(&self.indexing.state).failed)
            && let Some(model) = self.models.active()
        {
            let due = if asked { Due::Asked } else { Due::Perhaps };
            let stop =
                || self.is_stopping() || self.models.active().is_none_or(|(number, _)| number != model.0);
            if let Err(error) = self.make_blocks(&model, due, &stop, &|_, _| {}) {
                tracing::error!(%error, "the vector index could not be made");
            }
            self.measure_recall();
        }
        if asked || text_asked {
            lock(&self.indexing.state).attempts += 1;
            self.indexing.changed.notify_all();
        }
    }

    pub(super) fn index_until_stopped(&self) {
        let (mut asked, mut text_asked) = (false, false);
        let (mut verified, mut text_verified) = (0, 0);
        while !self.is_stopping() {
            self.index(asked, text_asked);
            let mut state = lock(&self.background.state);
            let mut is_verified = false;
            while !state.index && !self.is_stopping() {
                if is_verified {
                    state = self.background.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let waited = self.background.wake.wait_timeout(state, VERIFY_DELAY);
                let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = next;
                if timeout.timed_out() && !state.index {
                    drop(state);
                    self.verify_block(&mut verified);
                    self.verify_text_block(&mut text_verified);
                    is_verified = true;
                    state = lock(&self.background.state);
                }
            }
            state.index = false;
            asked = std::mem::take(&mut state.index_asked);
            text_asked = std::mem::take(&mut state.text_asked);
        }
    }

    /// Reads every byte of the block that is searched, once for each block. A damaged one is given up.
    pub(in crate::store) fn verify_block(&self, verified: &mut u64) {
        let Some((number, _)) = self.models.active() else { return };
        let Some((block, _)) = self.present_block(number) else { return };
        let generation = block.header().origin.generation;
        if *verified == generation {
            return;
        }
        match block.verify(&|| self.is_stopping()) {
            Ok(()) => *verified = generation,
            Err(error) => {
                let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
                search.vectors = Loading::default();
                drop(search);
                if let Err(error) = self.discard_block(block.path(), &error) {
                    tracing::error!(%error, "a damaged index block stays where it is");
                }
            }
        }
    }

    /// Notes a walk through the graph; some are compared with a scan, behind the calls.
    pub(in crate::store) fn watch_walk(&self, query: &[f32]) {
        let mut state = lock(&self.indexing.state);
        state.watch.walks += 1;
        if state.watch.walks % WATCH_EVERY != 1 || state.watch.queue.len() >= WATCH_QUEUE {
            return;
        }
        state.watch.queue.push(query.to_vec());
        drop(state);
        self.wake_indexer();
    }

    pub(super) fn measure_recall(&self) {
        loop {
            let Some(query) = lock(&self.indexing.state).watch.queue.pop() else { return };
            let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
            let Some(vectors) = &search.vectors.index else { return };
            let nearest = |effort| {
                vectors.index.search(&query, &Scope::All, WATCH_K, effort, &mut Limits::NONE.clone())
            };
            let (Ok(exact), Ok(walked)) = (nearest(Effort::Exact), nearest(Effort::Normal)) else { return };
            drop(search);
            // By their cosines: of equally near memories it does not matter which are found.
            let Some((_, least)) = exact.memories.last().copied() else { return };
            let found = walked.memories.iter().filter(|(_, cosine)| *cosine >= least).count();
            let mut state = lock(&self.indexing.state);
            let watch = &mut state.watch;
            watch.compared += 1;
            watch.expected += exact.memories.len() as u64;
            watch.found += found.min(exact.memories.len()) as u64;
            if watch.compared >= WATCH_MIN && watch.recall().is_some_and(|recall| recall < RECALL_MIN) {
                tracing::warn!(recall = watch.recall(), "the graph finds too little");
                state.watch = Watch::default();
                if !state.is_remade {
                    state.remake = true;
                    drop(state);
                    // This thread itself looks once more what is due.
                    self.wake_indexer();
                }
            }
        }
    }
}

/// Starts the thread that makes index blocks behind the calls.
pub(in crate::store) fn spawn_indexer(inner: &Arc<Inner>) -> Result<()> {
    apply::spawn(inner, "memento-index", Inner::index_until_stopped)
}
