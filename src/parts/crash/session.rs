//! A store that is open on a simulated disk, and the model that makes its vectors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::super::chance::Chance;
use super::super::disk::SimulatedDisk;
use crate::clock::ManualClock;
use crate::embed::{Embedder, ModelIdentity, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Engine, Options};

/// The folder that is there for good.
pub(super) const ROOT: &str = "/disk";
/// The home of the store.
pub(super) const HOME: &str = "/disk/home";
const DIMENSIONS: usize = 8;

/// A store that operations are done on.
pub(super) struct Session {
    disk: SimulatedDisk,
    segment_len_max: u64,
    store: Option<Engine>,
    /// Calls of the disk that changed something, and that only read, when the store was last closed.
    pub(super) closed_at: (u64, u64),
}

impl Session {
    /// Opens the store that is on this disk, or makes one.
    pub(super) fn open(disk: &SimulatedDisk, segment_len_max: u64) -> Result<Self> {
        let closed_at = (disk.calls(), disk.reads());
        let mut session = Self { disk: disk.clone(), segment_len_max, store: None, closed_at };
        session.open_again()?;
        Ok(session)
    }

    /// The store.
    ///
    /// # Errors
    /// When it could not be opened again.
    pub(super) fn store(&self) -> Result<&Engine> {
        let closed = || Error::new(ErrorKind::Io, "the store is not open");
        self.store.as_ref().ok_or_else(closed)
    }

    /// Closes the store and opens it again.
    pub(super) fn reopen(&mut self) -> Result<()> {
        // What closing could not do is no matter: the next open does it.
        let _ = self.store.take().map(Engine::close);
        self.closed_at = (self.disk.calls(), self.disk.reads());
        self.open_again()
    }

    fn open_again(&mut self) -> Result<()> {
        let embedder = Arc::new(Tiny { is_second: AtomicBool::new(false) });
        let store = Engine::open(options(&self.disk, self.segment_len_max).embedder(embedder.clone()))?;
        let (catalog, _) = store.settled()?;
        let is_second = match catalog.active_model() {
            Some(active) => {
                let models = catalog.view().models()?;
                let second = |(number, identity): &(_, ModelIdentity)| {
                    *number == active && identity.name == TinyModel::Second.name()
                };
                models.iter().any(second)
            }
            None => false,
        };
        // The store asks for its embedder when it first needs one.
        embedder.is_second.store(is_second, Ordering::SeqCst);
        self.store = Some(store);
        Ok(())
    }
}

/// How the store on a disk is opened.
pub(super) fn options(disk: &SimulatedDisk, segment_len_max: u64) -> Options {
    Options::at(HOME)
        .model(ModelSpec::None)
        .background_embedding(false)
        .query_cache(false)
        .lock_wait(Duration::ZERO)
        .clock(Arc::new(ManualClock::at(1_700_000_000_000)))
        .disk(Arc::new(disk.clone()))
        .segment_len_max(segment_len_max)
        .alone()
}

/// The two models of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TinyModel {
    #[default]
    First,
    Second,
}

impl TinyModel {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::First => "tiny-1",
            Self::Second => "tiny-2",
        }
    }

    pub(super) fn embedder(self) -> Arc<dyn Embedder> {
        Arc::new(Tiny { is_second: AtomicBool::new(self == Self::Second) })
    }

    fn identity(self) -> &'static ModelIdentity {
        static IDENTITIES: LazyLock<[ModelIdentity; 2]> = LazyLock::new(|| {
            [TinyModel::First, TinyModel::Second].map(|model| ModelIdentity {
                name: model.name().to_owned(),
                weights_sha256: String::new(),
                tokenizer_sha256: String::new(),
                dimensions: DIMENSIONS as u32,
                pooling: String::new(),
                normalized: true,
                max_tokens: 0,
                document_form: String::new(),
                query_form: String::new(),
                engine: "tiny".to_owned(),
            })
        });
        &IDENTITIES[self as usize]
    }
}

/// The vector of a text: half of its numbers are 0, the others 0.5 or -0.5, so that its length is exactly 1.
pub(super) fn vector_of(text: &str, model: TinyModel) -> Vec<f32> {
    let mut chance = Chance::of(u64::from(crc32fast::hash(text.as_bytes())), model as u64);
    let mut vector = vec![0.0; DIMENSIONS];
    while vector.iter().filter(|value| **value != 0.0).count() < DIMENSIONS / 2 {
        vector[chance.index(DIMENSIONS)] = if chance.below(2) == 0 { 0.5 } else { -0.5 };
    }
    vector
}

/// The model that a store has, which is known when it is open.
struct Tiny {
    is_second: AtomicBool,
}

impl Tiny {
    fn model(&self) -> TinyModel {
        if self.is_second.load(Ordering::SeqCst) { TinyModel::Second } else { TinyModel::First }
    }
}

impl Embedder for Tiny {
    fn identity(&self) -> &ModelIdentity {
        self.model().identity()
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        Ok(vec![vector_of(text, self.model())])
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        Ok(vector_of(query, self.model()))
    }
}
