//! The store's embedding model, and vectors that are made after the durable write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;

use super::{Inner, Options, Progress, Store, apply, lock};
use crate::catalog::Catalog;
use crate::embed::minilm::MiniLm;
use crate::embed::{self, Embedder, ModelIdentity, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors, WINDOWS_MAX};
use crate::log::Planned;

/// Memories whose vectors are made and stored together.
const JOB_MEMORIES: usize = 64;
/// How long the embedding thread waits after a failure before it tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Name of the model of a store whose callers give all vectors themselves.
const CALLER_MODEL: &str = "caller";

/// What became of the vectors that were due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Embedded {
    /// Memories that got their vectors.
    pub embedded: u64,
    /// Memories that still wait, because embedding them failed.
    pub failed: u64,
}

/// The models of a store.
pub(super) struct Models {
    spec: ModelSpec,
    models_dir: PathBuf,
    given: Option<Arc<dyn Embedder>>,
    known: RwLock<Known>,
    /// The embedder of the store's model, loaded when it is first needed.
    loaded: Mutex<Option<Loaded>>,
}

type Loaded = Result<Option<Arc<dyn Embedder>>, Arc<str>>;

/// The models that have numbers, and the one that recall uses.
#[derive(Clone, Default)]
struct Known {
    numbers: BTreeMap<ModelNumber, ModelIdentity>,
    active: Option<ModelNumber>,
}

impl Models {
    pub(super) fn new(options: &Options, catalog: &Catalog) -> Result<Self> {
        let models_dir = options
            .models_dir
            .clone()
            .or_else(|| {
                std::env::var_os("MEMENTO_MODEL_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
            })
            .unwrap_or_else(|| options.home.join("models"));
        let numbers = catalog.view().models()?.into_iter().collect();
        let known = Known { numbers, active: catalog.active_model() };
        Ok(Self {
            spec: options.model.clone(),
            models_dir,
            given: options.embedder.clone(),
            known: RwLock::new(known),
            loaded: Mutex::new(None),
        })
    }

    /// Number and identity of the store's model.
    pub(super) fn active(&self) -> Option<(ModelNumber, ModelIdentity)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.active.and_then(|number| Some((number, known.numbers.get(&number)?.clone())))
    }

    /// The embedder of the store's model; `None` when the store is one of words only.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when the model that made the store's vectors is not there. Never another model instead.
    pub(super) fn embedder(&self) -> Result<Option<Arc<dyn Embedder>>> {
        let mut loaded = lock(&self.loaded);
        let result = loaded.get_or_insert_with(|| self.load().map_err(|error| describe(&error)));
        result.clone().map_err(|why| Error::new(ErrorKind::Model, why.to_string()))
    }

    fn load(&self) -> Result<Option<Arc<dyn Embedder>>> {
        let Some((_, identity)) = self.active() else { return self.candidate() };
        let candidate = self.candidate();
        if let Ok(Some(embedder)) = &candidate
            && *embedder.identity() == identity
        {
            return candidate;
        }
        // The store's own model counts, not what the configuration asks for new stores.
        if let Ok(builtin) = MiniLm::builtin()
            && *builtin.identity() == identity
        {
            return Ok(Some(Arc::new(builtin)));
        }
        for spec in specs_of(&identity) {
            if let Ok(Some(embedder)) = load_model(&spec, &self.models_dir)
                && *embedder.identity() == identity
            {
                return Ok(Some(embedder));
            }
        }
        if identity.engine == CALLER_MODEL {
            return Ok(None);
        }
        let why = match candidate {
            Err(error) => error.to_string(),
            Ok(_) => "the model that was asked for is another one".to_owned(),
        };
        Err(Error::new(
            ErrorKind::Model,
            format!("the store's vectors were made by {}, which cannot be loaded: {why}", identity.name),
        )
        .hint("provide that model again, or convert the store with `memento-kv reembed --model NAME`"))
    }

    /// The embedder that was asked for.
    fn candidate(&self) -> Result<Option<Arc<dyn Embedder>>> {
        match &self.given {
            Some(given) => Ok(Some(Arc::clone(given))),
            None => load_model(&self.spec, &self.models_dir),
        }
    }

    fn forget_loaded(&self) {
        *lock(&self.loaded) = None;
    }
}

/// Where the model of this identity may be: in a folder of its name, or under the name it is fetched by.
fn specs_of(identity: &ModelIdentity) -> impl Iterator<Item = ModelSpec> {
    let fetched = embed::list().into_iter().filter(|model| model.repository == identity.name);
    let folder = ModelSpec::Dir(PathBuf::from(&identity.name));
    fetched.map(|model| ModelSpec::Named(model.name)).chain([folder])
}

/// The embedder of a spec; `None` for words only.
fn load_model(spec: &ModelSpec, models_dir: &Path) -> Result<Option<Arc<dyn Embedder>>> {
    embed::load(spec, models_dir, || Ok(Arc::new(MiniLm::builtin()?)))
}

fn describe(error: &Error) -> Arc<str> {
    match error.hint_text() {
        Some(hint) => format!("{error}; {hint}").into(),
        None => error.to_string().into(),
    }
}

impl Store {
    /// Makes the vectors that are due and returns when they are stored. A crash or a stop in between loses nothing:
    /// what is done is done, the rest stays due.
    ///
    /// # Errors
    /// [`Model`](ErrorKind::Model) when the store's model is not there; otherwise as [`Store::remember`].
    pub fn embed_pending(&self, progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        let Some(embedder) = self.inner.models.embedder()? else { return Ok(Embedded::default()) };
        let number = self.inner.active_number(embedder.identity())?;
        self.inner.embed_missing(&*embedder, number, progress, &|| false)
    }

    /// Moves the store to a model, or with `None` makes what is due for the present one. All vectors are made anew
    /// beside the old ones; when none is missing, recall switches to them at once. Interrupted, it goes on where it
    /// was; until the switch recall uses the old vectors.
    ///
    /// # Errors
    /// As [`Store::embed_pending`].
    pub fn reembed(&self, model: Option<&ModelSpec>, progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        let Some(spec) = model else { return self.embed_pending(progress) };
        let inner = &self.inner;
        let Some(embedder) = load_model(spec, &inner.models.models_dir)? else {
            return Err(Error::new(ErrorKind::Invalid, "a store cannot be converted to no model")
                .hint("`recall --mode text` ranks by words only"));
        };
        self.reembed_with(&embedder, progress)
    }

    /// As [`Store::reembed`], with a model of the caller's own.
    ///
    /// # Errors
    /// As [`Store::embed_pending`].
    pub fn reembed_with(
        &self,
        embedder: &Arc<dyn Embedder>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Embedded> {
        let inner = &self.inner;
        let number = inner.register(embedder.identity(), false)?;
        let embedded = inner.embed_missing(&**embedder, number, progress, &|| false)?;
        if embedded.failed > 0 {
            return Err(Error::new(
                ErrorKind::Model,
                format!("{} memories could not be embedded; recall keeps the former model", embedded.failed),
            )
            .hint("run it again: what is done is kept"));
        }
        inner.activate(number)?;
        inner.models.forget_loaded();
        *lock(&inner.models.loaded) = Some(Ok(Some(Arc::clone(embedder))));
        Ok(embedded)
    }
}

impl Inner {
    /// Vectors of a new text; `None` when they are to be made later, or never.
    pub(super) fn vectors_of(&self, text: &str) -> Result<Option<Vectors>> {
        let embedder = match self.models.embedder() {
            Ok(Some(embedder)) => embedder,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(%error, "stored without a vector");
                return Ok(None);
            }
        };
        let number = self.active_number(embedder.identity())?;
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
        let (model, expected) = match self.models.active() {
            Some((number, identity)) => (number, identity.dimensions),
            None => {
                let identity = match self.models.embedder() {
                    Ok(Some(embedder)) => embedder.identity().clone(),
                    _ => caller_identity(dimensions),
                };
                // A wrong vector must not decide what a new store is.
                if identity.dimensions == dimensions {
                    (self.register(&identity, true)?, dimensions)
                } else {
                    (ModelNumber(0), identity.dimensions)
                }
            }
        };
        if dimensions != expected {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the vector has {dimensions} dimensions, the store's model has {expected}"),
            ));
        }
        let mut values = vector.to_vec();
        normalize(&mut values);
        Ok(Vectors { model, dimensions, values })
    }

    /// The number of the store's model; a new store gets this one.
    fn active_number(&self, identity: &ModelIdentity) -> Result<ModelNumber> {
        match self.models.active() {
            Some((number, _)) => Ok(number),
            None => self.register(identity, true),
        }
    }

    /// Gives a model a number, unless it has one, and makes it the store's if asked.
    fn register(&self, identity: &ModelIdentity, activate: bool) -> Result<ModelNumber> {
        let number = self.log.commit(|_, next_seq| {
            let mut known = self.models.known.write().unwrap_or_else(PoisonError::into_inner);
            let have = known.numbers.iter().find(|(_, other)| *other == identity).map(|(number, _)| *number);
            let number =
                have.unwrap_or(ModelNumber(known.numbers.keys().last().map_or(1, |last| last.0 + 1)));
            let mut ops = Vec::new();
            if have.is_none() {
                ops.push(Arc::new(Op::Model { number, identity: identity.clone() }));
                known.numbers.insert(number, identity.clone());
            }
            if activate && known.active.is_none() {
                ops.push(Arc::new(Op::UseModel { number }));
                known.active = Some(number);
            }
            let after_seq = next_seq + ops.len() as u64 - u64::from(!ops.is_empty());
            Ok(Planned { after_seq: if ops.is_empty() { 0 } else { after_seq }, ops, outcome: number })
        });
        if number.is_err() {
            self.reload_known()?;
        }
        let number = number?;
        self.committed();
        Ok(number)
    }

    /// Recall uses this model from here on.
    fn activate(&self, number: ModelNumber) -> Result<()> {
        self.log.commit(|_, seq| {
            Ok(Planned { ops: vec![Arc::new(Op::UseModel { number })], after_seq: seq, outcome: () })
        })?;
        self.models.known.write().unwrap_or_else(PoisonError::into_inner).active = Some(number);
        self.committed();
        Ok(())
    }

    /// What was not written must not be believed.
    fn reload_known(&self) -> Result<()> {
        let catalog = self.catalog()?;
        let numbers = catalog.view().models()?.into_iter().collect();
        *self.models.known.write().unwrap_or_else(PoisonError::into_inner) =
            Known { numbers, active: catalog.active_model() };
        Ok(())
    }

    /// Makes and stores the vectors of all memories that have none of this model.
    fn embed_missing(
        &self,
        embedder: &dyn Embedder,
        number: ModelNumber,
        progress: &mut dyn FnMut(Progress),
        stop: &dyn Fn() -> bool,
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
            let made = embed_jobs(embedder, number, &jobs);
            let mut ops = Vec::with_capacity(made.len());
            for ((key, text_seq, _), result) in jobs.iter().zip(made) {
                match result {
                    Ok(vectors) => ops.push(Arc::new(Op::Vector { key: *key, text_seq: *text_seq, vectors })),
                    Err(error) => {
                        tracing::warn!(%error, key = key.0, "a memory could not be embedded");
                        embedded.failed += 1;
                    }
                }
            }
            embedded.embedded += ops.len() as u64;
            self.log
                .commit(|_, seq| Ok(Planned { after_seq: (seq + ops.len() as u64) - 1, ops, outcome: () }))?;
            self.committed();
            if stop() {
                return Ok(embedded);
            }
        }
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
        let Some(embedder) = self.models.embedder()? else { return Ok(Embedded::default()) };
        let number = self.active_number(embedder.identity())?;
        self.embed_missing(&*embedder, number, &mut |_| {}, &|| self.is_stopping())
    }
}

/// Starts the thread that makes vectors behind the calls.
pub(super) fn spawn_embedder(inner: &Arc<Inner>) -> Result<()> {
    apply::spawn(inner, "memento-embed", Inner::embed_until_stopped)
}

/// Embeds texts on all cores, in order.
fn embed_jobs(
    embedder: &dyn Embedder,
    number: ModelNumber,
    jobs: &[(MemoryKey, u64, String)],
) -> Vec<Result<Vectors>> {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let share = jobs.len().div_ceil(cores).max(1);
    let embed_share = |jobs: &[(MemoryKey, u64, String)]| {
        jobs.iter().map(|(_, _, text)| embed(embedder, number, text)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            jobs.chunks(share).map(|share| scope.spawn(move || embed_share(share))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<Result<Vectors>>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    })
}

/// The vectors of one text, checked: an embedder may be a caller's.
fn embed(embedder: &dyn Embedder, model: ModelNumber, text: &str) -> Result<Vectors> {
    let dimensions = embedder.identity().dimensions;
    let windows = embedder.embed_document(text)?;
    if windows.is_empty() || windows.len() > WINDOWS_MAX {
        return Err(Error::new(
            ErrorKind::Model,
            format!("the embedder gave {} vectors for a text", windows.len()),
        ));
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

fn caller_identity(dimensions: u32) -> ModelIdentity {
    ModelIdentity {
        name: CALLER_MODEL.to_owned(),
        weights_sha256: String::new(),
        tokenizer_sha256: String::new(),
        dimensions,
        pooling: String::new(),
        normalized: true,
        max_tokens: 0,
        document_form: String::new(),
        query_form: String::new(),
        engine: CALLER_MODEL.to_owned(),
    }
}
