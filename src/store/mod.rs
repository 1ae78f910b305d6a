//! The store: it conducts log, view, words, vectors and embedder.
//!
//! Order is correctness here. A write is planned under the log's lock, made durable, then applied to the view and the
//! search indexes. Derived state may lag behind the log, but never lead it; every read first applies what is durable,
//! so that a caller always sees what was acknowledged before.

mod apply;
mod compact;
mod embedders;
mod embedding;
mod evidence;
mod feed;
mod heal;
mod history;
mod ids;
mod import;
mod index;
mod marker;
mod models;
mod open;
mod past;
mod points;
mod prove;
mod purge;
mod quarantine;
mod recall;
mod replay;
mod reserve;
mod restore;
mod search;
mod staged;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod times;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::catalog::Catalog;
use crate::clock::{Clock, SystemClock};
use crate::embed::cache::QueryCache;
use crate::embed::{Embedder, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DiskFile, RealDisk};
use crate::home::Home;
use crate::log::{Log, Place, SEGMENT_LEN_MAX, Segment};
use crate::memory::{Language, List, Memory};

pub use compact::Compacted;
pub use embedding::Embedded;
pub use feed::{Change, ChangeKind};
pub use heal::Healed;
pub(crate) use history::kept;
pub use import::MemoryVectors;
pub(crate) use import::{Arriving, Given, Incoming};
pub use index::{IndexBuilder, IndexStats, TextStats};
pub(crate) use marker::trace_of_a_store;
pub use past::Moment;
pub(crate) use past::PastStore;
pub use points::RestorePoint;
pub use prove::{Proof, ProofState};
pub use purge::Purged;
pub use restore::{Changed, RestoreKind};
pub use state::{TakenOver, TakenOverKind};
pub use stats::{CacheStats, Stats};
pub use write::OnConflict;
pub(crate) use write::{Outcome, Promised};

use apply::Applying;
pub(crate) use embedders::{Embedders, Embeds};
use feed::Feed;
use history::Window;
pub(crate) use ids::Ids;
use index::Indexing;
use models::Models;
pub(crate) use open::{Holder, Layout, this_program};
use recall::{AnswerCache, ScopeCache};
pub(crate) use restore::Changes;
use search::Search;
use staged::Pending;
pub(crate) use state::{Beside, State, Whole};

/// After which time half of what a memory has for being new is gone.
const RECENCY_HALF_LIFE_DEFAULT: Duration = Duration::from_secs(30 * 86_400);

/// How a store is opened.
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(crate) home: PathBuf,
    create: bool,
    pub(crate) lock_wait: Duration,
    model: ModelSpec,
    embedder: Option<Arc<dyn Embedder>>,
    models_dir: Option<PathBuf>,
    background_embedding: bool,
    query_cache: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn crate::fs::Disk>,
    /// Whether a thread behind the calls applies what was written; otherwise whoever reads does.
    follow: bool,
    /// Whether what neither the log nor the view has whole is given up, so that the rest can be used.
    salvage: bool,
    /// Files that a check found damaged.
    damaged: BTreeSet<PathBuf>,
    pub(crate) read_only: bool,
    index_builder: IndexBuilder,
    recency_half_life: Option<Duration>,
    language: Language,
    aliases: Vec<(String, String)>,
    segment_len_max: u64,
    window: Window,
    /// Whether the store takes no writes, although its files may change.
    frozen: bool,
    db_path: Option<PathBuf>,
    /// What follows the store beside it.
    beside: Option<Arc<dyn Beside>>,
    /// Whether a store on a network file system is written.
    allow_network_fs: bool,
    pub(crate) serve: bool,
    pub(crate) connect: bool,
    /// Whether a new store is made where one was before.
    begin_anew: bool,
    /// A file outside of the home that stands for a store that was in it.
    remembered_by: Option<PathBuf>,
}

impl Options {
    /// The store in this home folder and nothing beside it.
    pub(crate) fn bare(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            create: true,
            lock_wait: Duration::from_secs(5),
            model: ModelSpec::default(),
            embedder: None,
            models_dir: None,
            background_embedding: true,
            query_cache: true,
            clock: Arc::new(SystemClock),
            disk: Arc::new(RealDisk),
            follow: true,
            salvage: false,
            damaged: BTreeSet::new(),
            read_only: false,
            index_builder: IndexBuilder::default(),
            recency_half_life: Some(RECENCY_HALF_LIFE_DEFAULT),
            language: Language::default(),
            aliases: Vec::new(),
            segment_len_max: SEGMENT_LEN_MAX,
            window: Window::default(),
            frozen: false,
            db_path: None,
            beside: None,
            allow_network_fs: false,
            serve: true,
            connect: true,
            begin_anew: false,
            remembered_by: None,
        }
    }

    /// The same in another home.
    pub(crate) fn in_home(mut self, home: &Path) -> Self {
        home.clone_into(&mut self.home);
        (self.db_path, self.remembered_by) = (None, None);
        self
    }

    /// What follows the store beside it.
    pub(crate) fn beside(mut self, beside: Option<Arc<dyn Beside>>) -> Self {
        self.beside = beside;
        self
    }

    /// For how many days, and in how many bytes at most, what compaction leaves out is kept, so that the store can be read
    /// and restored as it was; by default 7 days and 1 GiB. What the undo of a restore needs is kept for 30 days.
    pub fn history(mut self, days: u32, bytes_max: u64) -> Self {
        self.window = Window { days, len_max: bytes_max };
        self
    }

    /// A copy that takes no writes once it is open.
    pub(crate) fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    /// Where `memory.db` is published; by default in the home folder.
    pub fn db_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.db_path = Some(path.into());
        self
    }

    /// The store of a home that was found, with the model that its configuration names for a new store.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) when the configuration names no model.
    pub fn of(home: &Home) -> Result<Self> {
        let (search, storage) = (&home.config.search, &home.config.storage);
        let half_life = Duration::from_secs(86_400 * u64::from(search.recency_half_life_days));
        let options = Self::at(&home.path)
            .model(home.model()?)
            .models_dir(home.models_dir())
            .db_path(&home.db_path)
            .allow_network_fs(storage.allow_network_fs)
            .history(storage.history_days, u64::from(storage.history_max_mb) << 20)
            .language(search.language)
            .recency_half_life((!half_life.is_zero()).then_some(half_life));
        let options = Self { remembered_by: home.remembered_by(), ..options };
        Ok(search.aliases.iter().fold(options, |options, (alias, name)| options.alias(alias, name)))
    }

    /// Whether a store is made when there is none. Otherwise that is an error of kind
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether a new, empty store is made although one was here before and is gone. Otherwise that is an error of kind
    /// [`Gone`](crate::ErrorKind::Gone).
    pub fn begin_anew(mut self, on: bool) -> Self {
        self.begin_anew = on;
        self
    }

    /// How long to wait for another process that neither serves this one nor lets go of the store.
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Whether a store is written although it is on a network file system, where locks of other machines and maps of files
    /// may not hold; by default it is not, and opening it is an error of kind [`Refused`](crate::ErrorKind::Refused)
    /// unless it is opened for reading only.
    pub fn allow_network_fs(mut self, on: bool) -> Self {
        self.allow_network_fs = on;
        self
    }

    /// Whether other processes are served while this one has the store open; by default they are. Otherwise they get an
    /// error of kind [`Busy`](crate::ErrorKind::Busy) that names this process.
    pub fn serve(mut self, on: bool) -> Self {
        self.serve = on;
        self
    }

    /// Whether a process that has the store open is asked to serve this one; by default it is. Otherwise opening such a
    /// store is an error of kind [`Busy`](crate::ErrorKind::Busy) that names it.
    pub fn connect(mut self, on: bool) -> Self {
        self.connect = on;
        self
    }

    /// The model of a new store, and the one that is tried first for an existing one.
    pub fn model(mut self, model: ModelSpec) -> Self {
        self.model = model;
        self
    }

    /// A model of the caller's own.
    pub fn embedder(mut self, embedder: Arc<dyn Embedder>) -> Self {
        self.embedder = Some(embedder);
        self
    }

    /// The folder of models that were pulled; by default `MEMENTO_MODEL_DIR`, then `models` in the home folder.
    pub fn models_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.models_dir = Some(folder.into());
        self
    }

    /// Whether vectors that are due are made by a thread behind the calls; by default they are.
    pub fn background_embedding(mut self, on: bool) -> Self {
        self.background_embedding = on;
        self
    }

    /// Whether vectors of queries are kept on disk, in the store's folder; by default they are.
    pub fn query_cache(mut self, on: bool) -> Self {
        self.query_cache = on;
        self
    }

    /// Where times of new memories come from.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether a store opens although acknowledged memories are damaged and nothing else holds them: what is whole is
    /// saved, what is not is named by [`Store::healed`](crate::Store::healed) and stays in `quarantine/`. When the view is lost, too,
    /// memories that were forgotten in a damaged part may be back. Otherwise, and by default, opening such a store is an
    /// error of kind [`Corrupt`](crate::ErrorKind::Corrupt).
    pub fn salvage(mut self, on: bool) -> Self {
        self.salvage = on;
        self
    }

    /// What a check found damaged is mended by the opening.
    pub(crate) fn damaged(mut self, files: BTreeSet<PathBuf>) -> Self {
        self.damaged = files;
        self
    }

    /// Whether the store is only read: no file of it changes, what recovery has to do stays in memory, and what would
    /// change it is an error of kind [`ReadOnly`](crate::ErrorKind::ReadOnly). On a medium that cannot be written a
    /// store is opened so by itself, see [`Store::is_read_only`](crate::Store::is_read_only). Nobody else may have it open for writing.
    pub fn read_only(mut self, on: bool) -> Self {
        self.read_only = on;
        self
    }

    /// What makes the graph over the vectors of a large store.
    pub fn index_builder(mut self, builder: IndexBuilder) -> Self {
        self.index_builder = builder;
        self
    }

    /// After which time half of what a memory has for being new is gone, 30 days by default; `None` when age does not
    /// count. It decides only between memories that answer about as well.
    pub fn recency_half_life(mut self, half_life: Option<Duration>) -> Self {
        self.recency_half_life = half_life;
        self
    }

    /// The language of texts in Latin letters, English by default. With another one than before the text index is made
    /// anew.
    pub fn language(mut self, language: Language) -> Self {
        self.language = language;
        self
    }

    /// Another name of a speaker: a question that says `alias` means what `name` has said. Letters' case does not matter.
    pub fn alias(mut self, alias: impl Into<String>, name: impl Into<String>) -> Self {
        self.aliases.push((alias.into(), name.into()));
        self
    }

    /// Another disk, for tests and their doors.
    pub(crate) fn disk(mut self, disk: Arc<dyn crate::fs::Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Without a thread that follows the log, so that every run is the same. For tests and their doors.
    pub(crate) fn alone(mut self) -> Self {
        self.follow = false;
        self
    }

    /// Segments of at most this many bytes, for tests and their doors: the log then rolls without much being written.
    pub(crate) fn segment_len_max(mut self, len_max: u64) -> Self {
        self.segment_len_max = len_max;
        self
    }
}

/// How far a long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Progress {
    /// Steps that are done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
}

impl Progress {
    /// So many of so many steps.
    #[must_use]
    pub fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// A store of memories. Cheap to clone, usable from any thread.
///
/// The last handle closes it: what is only in memory is written, and the lock is let go. [`Store::close`] does the
/// same and says whether it went well. Nothing acknowledged depends on either.
#[derive(Clone)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
    /// Stops the threads behind the calls when the last handle goes.
    _alive: Arc<Alive>,
}

struct Alive(Weak<Inner>);

/// A store without its handles.
pub(crate) struct Inner {
    home: PathBuf,
    db_path: Option<PathBuf>,
    window: Window,
    beside: Option<Arc<dyn Beside>>,
    folder: PathBuf,
    place: Place,
    store_id: [u8; 16],
    clock: Arc<dyn Clock>,
    /// The operating system's lock; it ends with the process.
    _lock: Box<dyn DiskFile>,
    log: Log<Pending>,
    catalog: RwLock<Option<Arc<Catalog>>>,
    applying: Mutex<Applying>,
    search: RwLock<Search>,
    models: Models,
    query_cache: QueryCache,
    answers: Mutex<AnswerCache>,
    scopes: Mutex<ScopeCache>,
    /// Bytes of an unfinished write that were dropped at the open.
    torn_bytes: u64,
    /// What was healed since the open began.
    healed: Mutex<Vec<Healed>>,
    /// Held while segments are rewritten, and by whoever reads them all.
    rewriting: Mutex<()>,
    /// What was taken over since the open.
    taken_over: Mutex<Vec<TakenOver>>,
    /// The last entry in the file of times.
    times: Mutex<times::Times>,
    /// Whether a compaction has met a full disk.
    is_full: AtomicBool,
    /// Held while `memory.db` is written.
    publishing: Mutex<()>,
    /// Index blocks that are made, and what is known of the present one.
    indexing: Indexing,
    index_builder: IndexBuilder,
    /// In seconds.
    recency_half_life: Option<f32>,
    language: Language,
    /// For each alias, as names are compared, the name.
    aliases: HashMap<String, String>,
    /// Whether threads behind the calls follow the log.
    follow: bool,
    /// Whether nothing is written: what recovery had to change is in memory only.
    read_only: bool,
    ids: Ids,
    background: Background,
    /// What was written lately, for those who follow it.
    feed: Feed,
    /// Whether a close leaves out what can wait.
    is_hurried: AtomicBool,
}

/// What wakes and stops the threads behind the calls.
#[derive(Default)]
struct Background {
    state: Mutex<BackgroundState>,
    wake: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct BackgroundState {
    /// The applying thread sleeps without a time limit and needs a call.
    idle: bool,
    /// Memories may wait for their vectors.
    embed: bool,
    /// The indexing thread is to look what is due.
    index: bool,
    /// Somebody waits for an index block.
    index_asked: bool,
    /// Somebody waits for a text block.
    text_asked: bool,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// Opens a store, recovers it if it was left by a crash, and makes it if it is not there.
    pub(crate) fn open(options: Options) -> Result<Self> {
        let (disk, home) = (Arc::clone(&options.disk), options.home.clone());
        Self::open_if_free(options)?.ok_or_else(|| busy(&*disk, &home))
    }

    /// As [`Engine::open`]; `None` when another process holds the store for as long as is waited.
    pub(crate) fn open_if_free(options: Options) -> Result<Option<Self>> {
        let Some(inner) = open::open(options)? else { return Ok(None) };
        let alive = Arc::new(Alive(Arc::downgrade(&inner)));
        let store = Self { inner, _alive: alive };
        if let Some(beside) = store.inner.beside.as_ref().filter(|_| !store.inner.read_only) {
            beside.opened(&store.inner);
        }
        Ok(Some(store))
    }

    /// The store's own name.
    pub(crate) fn store_id(&self) -> [u8; 16] {
        self.inner.store_id
    }

    /// Milliseconds since the Unix epoch, by the store's clock.
    pub(crate) fn now_ms(&self) -> i64 {
        self.inner.now_ms()
    }

    /// The sequence of a moment.
    pub(crate) fn seq_of(&self, moment: Moment) -> Result<u64> {
        self.inner.seq_of(moment)
    }

    /// Does now what a close would do when there is time for it, while the store can still be used.
    pub(crate) fn tidy(&self) {
        match self.inner.catch_up() {
            Ok(()) => self.inner.tidy(),
            Err(error) => tracing::warn!(%error, "the view lags behind the log"),
        }
    }

    /// A close from here on is quick: what can wait was done, or is left to whoever takes the store over.
    pub(crate) fn hurry(&self) {
        self.inner.is_hurried.store(true, Ordering::Relaxed);
    }

    /// The home folder.
    #[must_use]
    pub(crate) fn home(&self) -> &Path {
        &self.inner.home
    }

    /// Whether the store is only read, because it was opened so or because its medium cannot be written.
    #[must_use]
    pub(crate) fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// What was missing or damaged and was healed since this store was opened, the opening included.
    #[must_use]
    pub(crate) fn healed(&self) -> Vec<Healed> {
        lock(&self.inner.healed).clone()
    }

    /// The memory of this id.
    pub(crate) fn get(&self, id: impl AsRef<str>) -> Result<Option<Memory>> {
        let row = self.inner.read(|catalog| catalog.get(id.as_ref()))?;
        Ok(row.map(|row| row.memory))
    }

    /// Memories by time, without a question.
    pub(crate) fn list(&self, list: &List) -> Result<Vec<Memory>> {
        list.filter.check()?;
        let rows = self
            .inner
            .read(|catalog| catalog.list(&list.filter, list.order, list.offset, list.limit, None))?;
        Ok(rows.into_iter().map(|row| row.memory).collect())
    }

    /// For a check: the view with everything that is durable, and where the log is.
    pub(crate) fn settled(&self) -> Result<(Arc<Catalog>, Place)> {
        let catalog = self.inner.apply_committed(&mut self.inner.applying())?;
        Ok((catalog, self.inner.place.clone()))
    }

    /// As long as this is held, no segment is rewritten.
    pub(crate) fn standing(&self) -> MutexGuard<'_, ()> {
        lock(&self.inner.rewriting)
    }

    /// All segments of the log.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.inner.log.segments().all()
    }

    /// Writes what is only in memory and lets go of the store.
    pub(crate) fn close(self) -> Result<()> {
        let Self { inner, _alive } = self;
        drop(_alive);
        match Arc::try_unwrap(inner) {
            Ok(mut inner) => inner.shut(),
            Err(inner) => inner.checkpoint(),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("home", &self.inner.home).finish_non_exhaustive()
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.stop_threads();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "the store was not closed cleanly; the next open recovers it");
        }
    }
}

impl Inner {
    /// The view.
    fn catalog(&self) -> Result<Arc<Catalog>> {
        let catalog = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(catalog.as_ref().expect("the view is there until the store is shut")))
    }

    /// Lets go of the past that is older than the window.
    fn clear_history(&self) -> Result<()> {
        let _alone = lock(&self.rewriting);
        history::History::read(self)?.prune(self, self.window, self.clock.now_ms())
    }

    /// What is done at a close when nobody waits for the store.
    fn tidy(&self) {
        if let Err(error) = self.compact_if_due(&|| false) {
            tracing::warn!(%error, "the log is not compacted");
        }
        if let (false, Err(error)) = (self.read_only, self.clear_history()) {
            tracing::warn!(%error, "the trash is not cleared");
        }
        if let Err(error) = self.index_at_close() {
            tracing::warn!(%error, "the vector index stays as it is");
        }
        if let (false, Some(beside)) = (self.read_only, self.beside.clone()) {
            beside.closing(self);
        }
    }

    /// Leaves files so that the next open need not recover. Does nothing the second time.
    fn shut(&mut self) -> Result<()> {
        let Some(catalog) = self.catalog.get_mut().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Ok(());
        };
        self.stop_threads();
        let caught_up = self.catch_up();
        if !self.read_only {
            self.settle_times();
            self.keep_reserve();
        }
        if caught_up.is_ok() && !self.is_hurried.load(Ordering::Relaxed) {
            self.tidy();
        }
        self.catalog.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The log first: a view that is ahead of the log's mark would look like a missing segment.
        let log_closed = caught_up.and_then(|()| self.log.close());
        let view_closed = Arc::into_inner(catalog).map_or(Ok(()), Catalog::close);
        log_closed.and(view_closed)
    }
}

/// The error of a store that another process holds.
pub(crate) fn busy(disk: &dyn crate::fs::Disk, home: &Path) -> Error {
    let holder = Holder::of(disk, home).unwrap_or_default();
    Error::new(ErrorKind::Busy, format!("the store is in use by {holder}"))
        .at(home)
        .hint("wait for it to finish, or stop it, then try again")
}

/// The lock, also after a panic elsewhere: what is guarded here is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
