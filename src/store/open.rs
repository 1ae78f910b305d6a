//! Opening: lock, folders, recovery of the log, what is healed, and the view brought up to date.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::apply::{Applying, CHECKPOINT_RECORDS, spawn_applier};
use super::feed::Feed;
use super::heal::{Healed, Healer, needs_a_decision};
use super::ids::Ids;
use super::index::{Indexing, spawn_indexer};
use super::models::{Models, Registry};
use super::quarantine::quarantine;
use super::recall::AnswerCache;
use super::replay::{FormerView, build_view, replay};
use super::search::Search;
use super::staged::Pending;
use super::times::Times;
use super::{Background, Inner, Options};
use crate::catalog::{CACHE_BYTES_DEFAULT, Catalog, Opened, Position};
use crate::clock::{Clock, SystemClock};
use crate::embed::cache::QueryCache;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Access, Disk, DiskFile, Kind, OverlayDisk, network_file_system};
use crate::log::{self, Listing, Log, Place, Recovered, Superseded};
use crate::text::name_of;

/// Vectors of queries that are kept, in memory and on disk each.
const QUERY_CACHE_CAPACITY: usize = 1024;
const LOCK_POLL: Duration = Duration::from_millis(10);
const LOCK_LEN_MAX: usize = 4096;
/// Characters of a program's name that are shown.
const PROGRAM_LEN_MAX: usize = 200;

/// The files of a store's folder.
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) view: PathBuf,
    pub(super) quarantine: PathBuf,
    pub(super) query_cache: PathBuf,
    pub(super) reserve: PathBuf,
    /// Folder of the index blocks.
    pub(crate) index: PathBuf,
}

impl Layout {
    pub(crate) fn of(home: &Path) -> Self {
        let folder = home.join("store");
        Self {
            lock: folder.join("LOCK"),
            view: folder.join("view.redb"),
            quarantine: folder.join("quarantine"),
            query_cache: folder.join("query.cache"),
            reserve: folder.join("RESERVE"),
            index: folder.join("index"),
            folder,
        }
    }

    /// The folder of the store's own files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The view's file.
    pub(crate) fn view(&self) -> &Path {
        &self.view
    }

    /// A file's name within the home folder.
    pub(super) fn relative(&self, path: &Path) -> String {
        let home = self.folder.parent().unwrap_or(&self.folder);
        path.strip_prefix(home).unwrap_or(path).display().to_string()
    }

    /// Where the log of this store is.
    pub(crate) fn place(&self, disk: Arc<dyn Disk>) -> Place {
        Place { disk, segments: self.folder.join("seg"), manifest: self.folder.join("MANIFEST") }
    }
}

/// Opens a store; `None` when another process has it.
pub(super) fn open(mut options: Options) -> Result<Option<Arc<Inner>>> {
    let layout = Layout::of(&options.home);
    if options.read_only {
        options.disk = Arc::new(OverlayDisk::new(options.disk));
    }
    let lock = match claimed(&options, &layout) {
        // A store on a medium that cannot be written can be read all the same.
        Err(error) if error.kind() == ErrorKind::ReadOnly && options.disk.kind(&layout.lock)?.is_some() => {
            tracing::warn!(%error, "the store is opened for reading only");
            options.disk = Arc::new(OverlayDisk::new(options.disk));
            options.read_only = true;
            claimed(&options, &layout)?
        }
        claimed => claimed?,
    };
    let Some(lock) = lock else { return Ok(None) };
    for path in options.damaged.iter().filter(|path| path.starts_with(&layout.index)) {
        // Whatever it said is in the log.
        crate::index::remove_if_there(&*options.disk, path)?;
    }
    let place = layout.place(Arc::clone(&options.disk));
    let Opening { mut recovered, catalog, replayed, healed } = opening(&options, &layout, &place)?;
    recovered.tail.limit_segments(options.segment_len_max);

    if !options.read_only && !options.frozen {
        super::marker::keep(&*options.disk, &options.home, catalog.store_id());
    }
    let last_seq = recovered.tail.state().last_seq;
    let cache_path = (options.query_cache && !options.read_only).then_some(layout.query_cache.as_path());
    let pending = Pending::new(Registry::read(&catalog)?);
    let models = Models::new(&options, &pending.models);
    let inner = Arc::new(Inner {
        home: options.home,
        db_path: options.db_path,
        window: options.window,
        beside: options.beside,
        folder: layout.folder.clone(),
        store_id: catalog.store_id(),
        place,
        clock: options.clock,
        _lock: lock,
        log: Log::new(recovered.tail, pending),
        catalog: RwLock::new(Some(Arc::new(catalog))),
        applying: Mutex::new(Applying::after(replayed)),
        search: RwLock::new(Search::default()),
        models,
        query_cache: QueryCache::open(cache_path, QUERY_CACHE_CAPACITY),
        answers: Mutex::new(AnswerCache::default()),
        scopes: Mutex::default(),
        torn_bytes: recovered.torn.map_or(0, |torn| torn.bytes),
        healed: Mutex::new(healed),
        rewriting: Mutex::default(),
        taken_over: Mutex::default(),
        times: Mutex::new(Times::after(last_seq)),
        is_full: AtomicBool::new(false),
        publishing: Mutex::default(),
        indexing: Indexing::default(),
        index_builder: options.index_builder,
        language: options.language,
        aliases: options
            .aliases
            .iter()
            .filter_map(|(alias, name)| Some((name_of(alias)?, name_of(name)?)))
            .collect(),
        recency_half_life: options.recency_half_life.map(|half_life| half_life.as_secs_f32()),
        follow: options.follow,
        read_only: options.read_only || options.frozen,
        ids: Ids::default(),
        background: Background::default(),
        feed: Feed::default(),
        is_hurried: AtomicBool::new(false),
    });
    // Fewer are left to the next checkpoint, so that opening need not wait for the disk.
    if replayed >= CHECKPOINT_RECORDS
        && let Err(error) = inner.checkpoint()
    {
        // The log has everything and the view is whole, if only in memory.
        tracing::warn!(%error, "the view is not on stable storage yet");
    }
    if let Err(error) = spawn_threads(&inner, options.follow, options.background_embedding) {
        // A thread that runs would hold the store, and its lock, for good.
        inner.stop_threads();
        return Err(error);
    }
    Ok(Some(inner))
}

/// A log and a view that are whole and agree.
struct Opening {
    recovered: Recovered,
    catalog: Catalog,
    /// Records that are in the view's memory only.
    replayed: u64,
    healed: Vec<Healed>,
}

/// Recovers the log and brings the view up to it. What is missing or damaged in one of the two is healed from the other.
fn opening(options: &Options, layout: &Layout, place: &Place) -> Result<Opening> {
    let disk = &*place.disk;
    let now_ms = options.clock.now_ms();
    log::settle_parts(place)?;
    let mut listing = log::list(place)?;
    put_superseded_away(layout, place, &listing.superseded, now_ms)?;
    if listing.segments.is_empty() {
        settle_names(disk, &options.home, &layout.folder)?;
    }
    let manifest = log::read_manifest(place)?;
    let known_id = listing.segments.first().map(|segment| segment.header.store_id);
    let known_id = known_id.or(manifest.as_ref().map(|manifest| manifest.store_id));
    let view_is_there = disk.kind(&layout.view)?.is_some();
    let mut view = open_view(layout, place, &listing, known_id)?;
    let store_id = match known_id.or(view.as_ref().map(Catalog::store_id)) {
        Some(store_id) => store_id,
        None if view_is_there || !listing.unusable.is_empty() => return Err(log::segments_gone(place)),
        None => {
            super::marker::refuse_where_one_was(options)?;
            new_store_id()?
        }
    };
    let mut named = manifest.map_or_else(Vec::new, |manifest| manifest.segments);
    let mut healed = Vec::new();
    let is_known = |path: &PathBuf| listing.segments.iter().any(|segment| segment.path == *path);
    let mut damaged: Vec<PathBuf> = options.damaged.iter().filter(|path| is_known(path)).cloned().collect();
    let view_is_damaged = options.damaged.contains(&layout.view);
    loop {
        let held = view.as_ref().map_or_else(Position::default, Catalog::position);
        named.extend(Some(held.tail.segment).filter(|segment| *segment > 0));
        let holes = log::holes(place, &listing, &named, held.tail.last_seq, &damaged)?;
        // A view that holds nothing is no help: segments that are all gone are never taken for a new store.
        let is_help = |view: &Catalog| view.applied_seq() > 0 || !listing.segments.is_empty();
        let heals = view.as_ref().is_some_and(is_help) || options.salvage;
        if !holes.is_empty() && heals {
            let healer = Healer { layout, place, store_id, view: view.as_ref(), now_ms };
            match healer.heal(&listing, &holes) {
                Ok(more) => healed.extend(more),
                // The view does not give what the log lacks, so it is of no more use than none.
                Err(error) if error.kind() == ErrorKind::Corrupt && options.salvage && view.is_some() => {
                    tracing::error!(%error, "the view is damaged, too");
                    view = None;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => return Err(needs_a_decision(error)),
                Err(error) => return Err(error),
            }
            listing = log::list(place)?;
        }
        if holes.is_empty() || heals {
            // The log has the segments that these are copies of, or has taken what is in them.
            for stray in listing.unusable.extract_if(.., |unusable| unusable.is_misnamed) {
                let reason = "the header is that of another segment";
                let kept = quarantine(disk, layout, &stray.path, now_ms, reason)?;
                healed.push(Healed::misnamed(layout, &stray.path, &kept));
            }
        }
        if view_is_damaged {
            // The log has everything now that the view could give.
            view = None;
        }
        let held = view.as_ref().map_or_else(Position::default, Catalog::position);
        // A segment is healed once: what is still wrong with it afterwards needs somebody who decides.
        let mut can_heal = |error: Error, view_is_whole: bool| match error.path() {
            Some(path)
                if error.kind() == ErrorKind::Corrupt
                    && (view_is_whole || options.salvage)
                    && listing.segments.iter().any(|segment| segment.path == path)
                    && !damaged.iter().any(|known| known == path)
                    // Nor is what was just written to heal one: that would go on for ever.
                    && !healed.iter().any(|healed| path.ends_with(&healed.file)) =>
            {
                tracing::error!(%error, "a segment is damaged and is healed");
                damaged.push(path.to_owned());
                Ok(())
            }
            _ if error.kind() == ErrorKind::Corrupt && !view_is_whole => Err(needs_a_decision(error)),
            _ => Err(error),
        };
        // The log before the view: a view without a log would look like a store whose segments are gone.
        let recovered = match log::recover(place, &options.clock, store_id, held) {
            Ok(recovered) => recovered,
            Err(error) => {
                can_heal(error, view.is_some())?;
                continue;
            }
        };
        for number in &recovered.missing {
            tracing::error!(segment = number, "a segment is missing");
        }
        for error in &recovered.unusable {
            tracing::error!(%error, "a segment cannot be read");
        }
        let (last_seq, segments) = (recovered.tail.state().last_seq, recovered.tail.segments().all());
        let segment_is_damaged =
            |error: &Error| segments.iter().any(|segment| error.path() == Some(&segment.path));
        if let Some(whole) = view.take() {
            match replay(place, &segments, &whole, last_seq) {
                Err(error) if error.kind() == ErrorKind::Corrupt && segment_is_damaged(&error) => {
                    view = Some(whole);
                    can_heal(error, true)?;
                    continue;
                }
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the view cannot be brought up to date and is rebuilt from the log");
                }
                Ok(replayed) => {
                    // The models are needed in a moment; a store must not stay shut because their rows are damaged.
                    match whole.view().models() {
                        Ok(_) => return Ok(Opening { recovered, catalog: whole, replayed, healed }),
                        Err(error) => {
                            tracing::warn!(%error, "the view is damaged and is rebuilt from the log")
                        }
                    }
                }
            }
        }
        match build_view(layout, place, &segments, last_seq, now_ms, FormerView::Kept) {
            Ok(catalog) => return Ok(Opening { recovered, catalog, replayed: 0, healed }),
            Err(error) => can_heal(error, false)?,
        }
    }
}

/// The view, if it can be used.
fn open_view(
    layout: &Layout,
    place: &Place,
    listing: &Listing,
    store_id: Option<[u8; 16]>,
) -> Result<Option<Catalog>> {
    let newest = log::newest_generation(&listing.segments);
    let reason = match Catalog::open(&*place.disk, &layout.view, store_id, CACHE_BYTES_DEFAULT)? {
        Opened::Missing => return Ok(None),
        Opened::Ready(view) if view.generation() < newest => {
            "segments were rewritten since it was written".to_owned()
        }
        Opened::Ready(view) if log::is_in_history(place, &listing.segments, view.position())? => {
            return Ok(Some(view));
        }
        Opened::Ready(_) => "it belongs to another history".to_owned(),
        Opened::Unusable(reason) => reason,
    };
    tracing::warn!(reason, "the view cannot be used and is rebuilt from the log");
    Ok(None)
}

/// Puts segments away in whose place a rewritten one stands: whoever wrote that was interrupted. What is whole there is
/// in the new one, too, unless it was to go; what is not whole may hold what nobody else has.
fn put_superseded_away(layout: &Layout, place: &Place, superseded: &[Superseded], now_ms: i64) -> Result<()> {
    let disk = &*place.disk;
    if superseded.is_empty() {
        return Ok(());
    }
    let history = super::history::History::read_in(disk, &layout.folder)?;
    for file in superseded {
        let is_whole = match &file.segment {
            Some(segment) => log::verify(place, segment, u64::MAX, |_, _| ())?.flaws.is_empty(),
            None => false,
        };
        if is_whole {
            if !super::history::trash(disk, &layout.folder, &history, &file.path)? {
                disk.remove(&file.path)?;
            }
        } else {
            quarantine(disk, layout, &file.path, now_ms, "damaged; a rewritten segment stands in its place")?;
        }
        disk.sync_folder(&place.segments)?;
    }
    Ok(())
}

fn new_store_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}")))?;
    Ok(id)
}

fn spawn_threads(inner: &Arc<Inner>, follow: bool, background_embedding: bool) -> Result<()> {
    if follow {
        spawn_applier(inner)?;
        if !inner.read_only {
            spawn_indexer(inner)?;
        }
    }
    if background_embedding { super::embedding::spawn_embedder(inner) } else { Ok(()) }
}

/// Makes the folders that are missing, takes the lock and clears what a crash left under temporary names; `None` when
/// another process has the lock.
fn claimed(options: &Options, layout: &Layout) -> Result<Option<Box<dyn DiskFile>>> {
    let disk = &*options.disk;
    make_folders(options, layout)?;
    let Some(lock) = take_lock(disk, &layout.lock, options.lock_wait)? else { return Ok(None) };
    let segments = layout.place(Arc::clone(&options.disk)).segments;
    fs::create_folders(disk, &segments)?;
    disk.check_folder(&segments)?;
    remove_leftovers(disk, &layout.folder)?;
    remove_leftovers(disk, &segments)?;
    let past = layout.folder.join("past");
    if disk.kind(&past)? == Some(Kind::Folder) {
        // Copies of the past that somebody looked at when the program ended.
        disk.remove_tree(&past)?;
    }
    if disk.kind(&layout.index)? == Some(Kind::Folder) {
        remove_leftovers(disk, &layout.index)?;
    }
    Ok(Some(lock))
}

fn make_folders(options: &Options, layout: &Layout) -> Result<()> {
    let home = &options.home;
    let nothing = options.disk.kind(home)?.is_none();
    if !nothing {
        options.disk.check_folder(home)?;
    }
    if nothing || options.disk.kind(&layout.folder)?.is_none() {
        if !options.create || options.read_only {
            super::marker::refuse_where_one_was(options)?;
            return Err(Error::new(ErrorKind::NotFound, "there is no store here")
                .at(home)
                .hint("name its home with --home or MEMENTO_HOME; `remember` makes a new store"));
        }
        super::marker::refuse_where_one_was(options)?;
        fs::create_folders(&*options.disk, &layout.folder)?;
        options.disk.check_folder(home)?;
    }
    options.disk.check_folder(&layout.folder)?;
    let folder = options.disk.system_path(&layout.folder);
    match folder.filter(|_| !options.read_only && !options.allow_network_fs).and_then(network_file_system) {
        Some(name) => Err(Error::new(
            ErrorKind::Refused,
            format!("the store is on a network file system ({name}), where locks of other machines may not hold"),
        )
        .at(home)
        .hint(
            "move the home to a disk of this machine; --read-only reads it where it is; storage.allow_network_fs: true \
             in config.yaml uses it all the same",
        )),
        None => Ok(()),
    }
}

/// Makes the names of a new store durable. Whoever made its folders may have ended before that.
fn settle_names(disk: &dyn Disk, home: &Path, folder: &Path) -> Result<()> {
    disk.sync_folder(folder)?;
    disk.sync_folder(home)?;
    if let Err(error) = disk.sync_folder(fs::folder_above(home)) {
        // Others may have made the home where this user cannot read.
        tracing::debug!(%error, "the folder above the home was not synced");
    }
    Ok(())
}

/// Takes the lock of the store and leaves a note of who has it; `None` when another process has it all the time.
fn take_lock(disk: &dyn Disk, path: &Path, wait: Duration) -> Result<Option<Box<dyn DiskFile>>> {
    let file = disk.open(path, Access::OpenOrCreate)?;
    let started = Instant::now();
    while !file.try_lock()? {
        if started.elapsed() >= wait {
            return Ok(None);
        }
        std::thread::sleep(LOCK_POLL);
    }
    // Only a note for people: the lock itself is the operating system's. A full disk must not keep a store shut.
    let note = Holder::this_process().note();
    if let Err(error) = file.set_len(0).and_then(|()| file.write_at(note.as_bytes(), 0)) {
        tracing::warn!(%error, "the lock has no note of its holder");
    }
    Ok(Some(file))
}

/// Who has a store open, as the note in its lock says. Spec: `format-spec/folder.md`, "LOCK".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: Option<u32>,
    /// The program's name and the version of this library.
    pub(crate) program: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub(crate) since_ms: Option<i64>,
}

impl Holder {
    /// What the lock of this home says. Whoever wrote it may be gone.
    pub(crate) fn of(disk: &dyn Disk, home: &Path) -> Result<Self> {
        let file = disk.open(&Layout::of(home).lock, Access::Read)?;
        let mut note = vec![0; LOCK_LEN_MAX];
        let len = file.read_at(&mut note, 0)?;
        Ok(Self::parse(&String::from_utf8_lossy(&note[..len])))
    }

    pub(crate) fn this_process() -> Self {
        Self {
            pid: Some(std::process::id()),
            program: Some(this_program()),
            since_ms: Some(SystemClock.now_ms()),
        }
    }

    fn note(&self) -> String {
        let Self { pid, program, since_ms } = self;
        format!(
            "{}\n{}\n{}\n",
            pid.unwrap_or_default(),
            program.as_deref().unwrap_or_default(),
            since_ms.unwrap_or_default()
        )
    }

    fn parse(note: &str) -> Self {
        let mut lines = note.lines().map(str::trim);
        let printable = |program: &str| {
            let clean: String = program.chars().filter(|c| !c.is_control()).take(PROGRAM_LEN_MAX).collect();
            (!clean.is_empty()).then_some(clean)
        };
        Self {
            pid: lines.next().and_then(|pid| pid.parse().ok()),
            program: lines.next().and_then(printable),
            since_ms: lines.next().and_then(|since| since.parse().ok()),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => write!(f, "another process")?,
        }
        if let Some(program) = &self.program {
            write!(f, " ({program})")?;
        }
        if let Some(since) = self.since_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
            write!(f, " since {since:.0}")?;
        }
        Ok(())
    }
}

/// The name of this program and the version of this library. The name only: where it is concerns nobody.
pub(crate) fn this_program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{name}, memento-kv {}", env!("CARGO_PKG_VERSION"))
}

/// Removes files that a crash left under temporary names: they never were part of the store.
fn remove_leftovers(disk: &dyn Disk, folder: &Path) -> Result<()> {
    for name in disk.list(folder)? {
        let path = folder.join(&name);
        if name.ends_with(".tmp") && matches!(disk.kind(&path)?, Some(Kind::File(_))) {
            disk.remove(&path)?;
        }
    }
    Ok(())
}
