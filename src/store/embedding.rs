//! Vectors that are made when a memory is stored, or after the durable write.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::embedders::Embeds;
use super::models::Activate;
use super::{Engine, Inner, Progress, apply, lock};
use crate::embed::{Embedder, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors, WINDOWS_MAX};
use crate::log::Planned;

/// Memories whose vectors are made at once.
const JOB_MEMORIES: usize = 64;
/// Most bytes of vectors of one memory. A record holds them beside the longest text.
const VECTORS_LEN_MAX: usize = 12 << 20;
/// Vectors of a job are committed when they have this many bytes.
const COMMIT_LEN: usize = 8 << 20;
/// How long the embedding thread waits after a failure before it tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// What became of the vectors that were due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Embedded {
    /// Memories that got their vectors.
    pub embedded: u64,
    /// Memories that still wait, because embedding them failed.
    pub failed: u64,
}

impl Engine {
    /// Makes the vectors that are due and returns when they are stored.
    pub(crate) fn embed_pending(&self, progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        match self.inner.embedder(self.inner.models.embedders())? {
            Some((number, embedder)) => self.inner.embed_missing(&*embedder, number, progress, &|| false),
            None => Ok(Embedded::default()),
        }
    }

    /// Moves the store to a model, or with `None` makes what is due for the present one.
    pub(crate) fn reembed(
        &self,
        model: Option<&ModelSpec>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Embedded> {
        let Some(spec) = model else { return self.embed_pending(progress) };
        let Some(embedder) = self.inner.models.embedders().other(spec)? else {
            return Err(Error::new(ErrorKind::Invalid, "a store cannot be converted to no model")
                .hint("`recall --mode text` ranks by words only"));
        };
        self.reembed_with(&embedder, progress)
    }

    /// As [`Engine::reembed`], with an embedder that is there for this call only.
    pub(crate) fn reembed_by(
        &self,
        embedder: &dyn Embedder,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Embedded> {
        let inner = &self.inner;
        let number = inner.register(embedder.identity(), Activate::No)?;
        let embedded = inner.embed_missing(embedder, number, progress, &|| false)?;
        if embedded.failed > 0 {
            return Err(Error::new(
                ErrorKind::Model,
                format!("{} memories could not be embedded; recall keeps the former model", embedded.failed),
            )
            .hint("run it again: what is done is kept"));
        }
        inner.register(embedder.identity(), Activate::Yes)?;
        // Memories that others stored in this moment have vectors of the former model.
        inner.wake_embedder();
        Ok(embedded)
    }

    /// As [`Engine::reembed`], with a model of the caller's own.
    pub(crate) fn reembed_with(
        &self,
        embedder: &Arc<dyn Embedder>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Embedded> {
        let embedded = self.reembed_by(&**embedder, progress)?;
        self.inner.models.embedders().keep(embedder);
        Ok(embedded)
    }
}

impl Inner {
    /// Vectors of a new text; `None` when they are to be made later, or never.
    pub(super) fn vectors_of(&self, text: &str, by: &dyn Embeds) -> Result<Option<Vectors>> {
        let (number, embedder) = match self.embedder(by) {
            Ok(Some(embedder)) => embedder,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Model => {
                tracing::warn!(%error, "stored without a vector");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match embed(&*embedder, number, text) {
            Ok(vectors) => Ok(Some(vectors)),
            Err(error) => {
                tracing::warn!(%error, "stored without a vector");
                Ok(None)
            }
        }
    }

    /// A vector that the caller gives, at length 1.
    pub(super) fn given_vectors(&self, vector: &[f32]) -> Result<Vectors> {
        let dimensions = u32::try_from(vector.len()).expect("dimensions are limited at the door");
        let model = self.number_for_given(dimensions)?;
        let mut values = vector.to_vec();
        normalize(&mut values);
        Ok(Vectors { model, dimensions, values })
    }

    /// Makes and stores the vectors of all memories that have none of this model.
    fn embed_missing(
        &self,
        embedder: &dyn Embedder,
        number: ModelNumber,
        progress: &mut dyn FnMut(Progress),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Embedded> {
        let total = self.pending_count(number)?;
        let mut embedded = Embedded::default();
        let mut after = MemoryKey(0);
        loop {
            progress(Progress::new((embedded.embedded + embedded.failed).min(total), total));
            let due = self.read(|catalog| catalog.view().without_vector(number, after, JOB_MEMORIES))?;
            let Some((last, _)) = due.last() else { return Ok(embedded) };
            after = *last;
            let texts = self.read(|catalog| {
                let view = catalog.view();
                due.iter()
                    .map(|(key, text_seq)| Ok((*key, *text_seq, view.row(*key)?)))
                    .collect::<Result<Vec<_>>>()
            })?;
            let jobs: Vec<_> = texts
                .into_iter()
                .filter_map(|(key, text_seq, row)| {
                    row.filter(|row| row.text_seq == text_seq).map(|row| (key, text_seq, row.memory.text))
                })
                .collect();
            let made = embed_jobs(embedder, number, &jobs, stop);
            let (mut ops, mut len) = (Vec::new(), 0);
            for ((key, text_seq, _), result) in jobs.iter().zip(made) {
                match result {
                    Some(Ok(vectors)) => {
                        len += 4 * vectors.values.len();
                        ops.push(Arc::new(Op::Vector { key: *key, text_seq: *text_seq, vectors }));
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, key = key.0, "a memory could not be embedded");
                        embedded.failed += 1;
                    }
                    None => {}
                }
                if len >= COMMIT_LEN {
                    embedded.embedded += self.commit_vectors(std::mem::take(&mut ops))?;
                    len = 0;
                }
            }
            embedded.embedded += self.commit_vectors(ops)?;
            if stop() {
                return Ok(embedded);
            }
        }
    }

    /// Makes vectors durable and says of how many memories.
    fn commit_vectors(&self, ops: Vec<Arc<Op>>) -> Result<u64> {
        let count = ops.len() as u64;
        if count > 0 {
            self.check_writable()?;
            self.log.commit(|_, seq| Ok(Planned { after_seq: seq + count - 1, ops, outcome: () }))?;
            self.committed();
        }
        Ok(count)
    }

    /// Memories without vectors of this model.
    pub(super) fn pending_count(&self, number: ModelNumber) -> Result<u64> {
        self.read(|catalog| {
            let view = catalog.view();
            Ok(view.count().saturating_sub(view.count_with_vectors(number)?))
        })
    }

    /// Tells the embedding thread that there may be work.
    pub(super) fn wake_embedder(&self) {
        lock(&self.background.state).embed = true;
        self.background.wake.notify_all();
    }

    fn embed_until_stopped(&self) {
        while !self.is_stopping() {
            let failed = match self.embed_due() {
                Ok(embedded) => embedded.failed > 0,
                Err(error) => {
                    tracing::warn!(%error, "vectors are due and cannot be made");
                    true
                }
            };
            let mut state = lock(&self.background.state);
            while !state.embed && !self.is_stopping() {
                let (next, timeout) = self
                    .background
                    .wake
                    .wait_timeout(state, RETRY_INTERVAL)
                    .unwrap_or_else(PoisonError::into_inner);
                state = next;
                if timeout.timed_out() && failed {
                    break;
                }
            }
            state.embed = false;
        }
    }

    fn embed_due(&self) -> Result<Embedded> {
        let due = match self.models.active() {
            Some((number, _)) => self.pending_count(number)?,
            None => self.read(|catalog| Ok(catalog.count()))?,
        };
        if due == 0 {
            return Ok(Embedded::default());
        }
        let Some((number, embedder)) = self.embedder(self.models.embedders())? else {
            return Ok(Embedded::default());
        };
        let is_over =
            || self.is_stopping() || self.models.active().is_none_or(|(active, _)| active != number);
        self.embed_missing(&*embedder, number, &mut |_| {}, &is_over)
    }
}

/// Starts the thread that makes vectors behind the calls.
pub(super) fn spawn_embedder(inner: &Arc<Inner>) -> Result<()> {
    apply::spawn(inner, "memento-embed", Inner::embed_until_stopped)
}

/// Embeds texts on all cores, in order; `None` for those that were not begun before the stop.
fn embed_jobs(
    embedder: &dyn Embedder,
    number: ModelNumber,
    jobs: &[(MemoryKey, u64, String)],
    stop: &(dyn Fn() -> bool + Sync),
) -> Vec<Option<Result<Vectors>>> {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let share = jobs.len().div_ceil(cores).max(1);
    let embed_share = |jobs: &[(MemoryKey, u64, String)]| {
        let embed_one = |text: &str| (!stop()).then(|| embed(embedder, number, text));
        jobs.iter().map(|(_, _, text)| embed_one(text)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            jobs.chunks(share).map(|share| scope.spawn(move || embed_share(share))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<Option<Result<Vectors>>>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    })
}

/// The vectors of one text, checked: an embedder may be a caller's.
fn embed(embedder: &dyn Embedder, model: ModelNumber, text: &str) -> Result<Vectors> {
    let dimensions = embedder.identity().dimensions;
    let windows = embedder.embed_document(text)?;
    let len = windows.len().saturating_mul(4 * dimensions as usize);
    if windows.is_empty() || windows.len() > WINDOWS_MAX || len > VECTORS_LEN_MAX {
        let what =
            format!("the embedder gave {} vectors of {dimensions} dimensions for a text", windows.len());
        return Err(Error::new(ErrorKind::Model, what)
            .hint(format!("the most is {WINDOWS_MAX} vectors and {VECTORS_LEN_MAX} bytes")));
    }
    let mut values = Vec::with_capacity(windows.len() * dimensions as usize);
    for mut window in windows {
        check_made(&window, dimensions)?;
        normalize(&mut window);
        values.extend(window);
    }
    Ok(Vectors { model, dimensions, values })
}

/// Refuses a vector that an embedder must not make.
pub(super) fn check_made(vector: &[f32], dimensions: u32) -> Result<()> {
    if vector.len() != dimensions as usize
        || vector.iter().any(|value| !value.is_finite())
        || vector.iter().all(|value| *value == 0.0)
    {
        return Err(Error::new(
            ErrorKind::Model,
            format!("the embedder gave a vector that is not {dimensions} finite numbers with a direction"),
        ));
    }
    Ok(())
}

/// Scales a vector to length 1.
pub(super) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    for value in vector {
        *value = (f64::from(*value) / length) as f32;
    }
}
