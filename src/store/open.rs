//! Opening: lock, folders, recovery of the log, the view brought up to date.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::apply::{Applying, CHECKPOINT_RECORDS, spawn_applier};
use super::models::{Models, Registry};
use super::recall::{AnswerCache, Search};
use super::staged::Pending;
use super::{Background, Inner, Options};
use crate::catalog::{Applied, CACHE_BYTES_DEFAULT, Catalog, Opened, Position};
use crate::embed::cache::QueryCache;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{Op, OpKind};
use crate::format::record::{Location, record_len};
use crate::fs::{self, Access, Disk, DiskFile, Kind};
use crate::log::{self, Listing, Log, Place, ScanEnd, Scanner, Segment};

/// Records that are applied in one transaction when the view is brought up to date.
const REPLAY_BATCH: usize = 65_536;
/// Bytes of log that are applied in one transaction then.
const REPLAY_BATCH_LEN: u64 = 64 << 20;
/// Vectors of queries that are kept, in memory and on disk each.
const QUERY_CACHE_CAPACITY: usize = 1024;
const LOCK_POLL: Duration = Duration::from_millis(10);
const LOCK_LEN_MAX: usize = 4096;

/// The files of a store's folder.
pub(crate) struct Layout {
    pub(super) folder: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) view: PathBuf,
    pub(super) quarantine: PathBuf,
    pub(super) query_cache: PathBuf,
}

impl Layout {
    pub(crate) fn of(home: &Path) -> Self {
        let folder = home.join("store");
        Self {
            lock: folder.join("LOCK"),
            view: folder.join("view.redb"),
            quarantine: folder.join("quarantine"),
            query_cache: folder.join("query.cache"),
            folder,
        }
    }

    /// Where the log of this store is.
    pub(crate) fn place(&self, disk: Arc<dyn Disk>) -> Place {
        Place { disk, segments: self.folder.join("seg"), manifest: self.folder.join("MANIFEST") }
    }
}

pub(super) fn open(options: Options) -> Result<Arc<Inner>> {
    let layout = Layout::of(&options.home);
    let disk = Arc::clone(&options.disk);
    make_folders(&options, &layout)?;
    let lock = take_lock(&*disk, &layout.lock, options.lock_wait)?;
    let place = layout.place(Arc::clone(&disk));
    fs::create_folders(&*disk, &place.segments)?;
    disk.check_folder(&place.segments)?;
    remove_leftovers(&*disk, &layout.folder)?;
    remove_leftovers(&*disk, &place.segments)?;

    let listing = log::list(&place)?;
    if listing.segments.is_empty() {
        settle_names(&*disk, &options.home, &layout.folder)?;
    }
    let view_is_there = disk.kind(&layout.view)?.is_some();
    let store_id = store_id(&place, &listing, view_is_there)?;
    let view = match Catalog::open(&*disk, &layout.view, store_id, CACHE_BYTES_DEFAULT)? {
        Opened::Ready(view) if log::is_in_history(&place, &listing.segments, view.position())? => Some(view),
        Opened::Ready(_) => {
            tracing::warn!("the view belongs to another history and is rebuilt from the log");
            None
        }
        Opened::Missing => None,
        Opened::Unusable(reason) => {
            tracing::warn!(reason, "the view cannot be used and is rebuilt from the log");
            None
        }
    };
    let held = view.as_ref().map_or_else(Position::default, Catalog::position);
    // The log before the view: a view without a log would look like a store whose segments are gone.
    let mut recovered = log::recover(&place, &options.clock, store_id, held)?;
    recovered.tail.limit_segments(options.segment_len_max);
    for number in &recovered.missing {
        tracing::error!(segment = number, "a segment is missing");
    }
    for error in &recovered.unusable {
        tracing::error!(%error, "a segment cannot be read");
    }
    let (last_seq, segments) = (recovered.tail.state().last_seq, recovered.tail.segments().all());
    let view = view.map(|view| brought_up(view, &place, &segments, last_seq)).transpose()?.flatten();
    let (catalog, replayed) = match view {
        Some(brought_up) => brought_up,
        None => (build_view(&layout, &place, &segments, last_seq, options.clock.now_ms())?, 0),
    };

    let cache_path = options.query_cache.then_some(layout.query_cache.as_path());
    let pending = Pending::new(Registry::read(&catalog)?);
    let models = Models::new(&options, &pending.models);
    let inner = Arc::new(Inner {
        home: options.home,
        folder: layout.folder.clone(),
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
        torn_bytes: recovered.torn.map_or(0, |torn| torn.bytes),
        last_id: Mutex::new(ulid::Ulid::nil()),
        background: Background::default(),
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
    Ok(inner)
}

fn spawn_threads(inner: &Arc<Inner>, follow: bool, background_embedding: bool) -> Result<()> {
    if follow {
        spawn_applier(inner)?;
    }
    if background_embedding { super::embedding::spawn_embedder(inner) } else { Ok(()) }
}

fn make_folders(options: &Options, layout: &Layout) -> Result<()> {
    let home = &options.home;
    let nothing = options.disk.kind(home)?.is_none();
    if !nothing {
        options.disk.check_folder(home)?;
    }
    if nothing || options.disk.kind(&layout.folder)?.is_none() {
        if !options.create {
            return Err(Error::new(ErrorKind::NotFound, "there is no store here")
                .at(home)
                .hint("name its home with --home or MEMENTO_HOME; `remember` makes a new store"));
        }
        fs::create_folders(&*options.disk, &layout.folder)?;
        options.disk.check_folder(home)?;
    }
    options.disk.check_folder(&layout.folder)
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

/// Takes the lock of the store and leaves a note of who has it.
fn take_lock(disk: &dyn Disk, path: &Path, wait: Duration) -> Result<Box<dyn DiskFile>> {
    let file = disk.open(path, Access::OpenOrCreate)?;
    let started = Instant::now();
    while !file.try_lock()? {
        if started.elapsed() >= wait {
            let mut note = vec![0; LOCK_LEN_MAX];
            let len = file.read_at(&mut note, 0)?;
            let holder =
                String::from_utf8_lossy(&note[..len]).lines().next().unwrap_or_default().trim().to_owned();
            let holder =
                if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
            return Err(Error::new(ErrorKind::Busy, format!("the store is in use by {holder}"))
                .at(path)
                .hint("wait for it to finish, or stop it, then try again"));
        }
        std::thread::sleep(LOCK_POLL);
    }
    // Only a note for people: the lock itself is the operating system's. A full disk must not keep a store shut.
    let note = format!("{}\nmemento-kv {}\n", std::process::id(), env!("CARGO_PKG_VERSION"));
    if let Err(error) = file.set_len(0).and_then(|()| file.write_at(note.as_bytes(), 0)) {
        tracing::warn!(%error, "the lock has no note of its holder");
    }
    Ok(file)
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

/// The identity of the store: that of its segments; a new one only where nothing was before.
fn store_id(place: &Place, listing: &Listing, view_is_there: bool) -> Result<[u8; 16]> {
    if let Some(segment) = listing.segments.first() {
        return Ok(segment.header.store_id);
    }
    if let Some(manifest) = log::read_manifest(place)? {
        return Ok(manifest.store_id);
    }
    if view_is_there || !listing.unusable.is_empty() {
        return Err(log::segments_gone(place));
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}")))?;
    Ok(id)
}

/// The view with all records of the log, and how many of them are only in memory; `None` when it turns out to be
/// damaged.
pub(super) fn brought_up(
    view: Catalog,
    place: &Place,
    segments: &[Segment],
    last_seq: u64,
) -> Result<Option<(Catalog, u64)>> {
    // The models are needed in a moment; a store must not stay shut because their rows are damaged.
    let replayed = replay(place, segments, &view, last_seq);
    match replayed.and_then(|replayed| view.view().models().map(|_| replayed)) {
        Ok(replayed) => Ok(Some((view, replayed))),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!(%error, "the view cannot be brought up to date and is rebuilt from the log");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Builds a view from the log alone. It takes the place of what is there only when it is whole: what is there may hold
/// the only copy of a memory whose record is damaged.
pub(super) fn build_view(
    layout: &Layout,
    place: &Place,
    segments: &[Segment],
    last_seq: u64,
    now_ms: i64,
) -> Result<Catalog> {
    let disk = &*place.disk;
    let store_id = segments.first().expect("a log has a segment").header.store_id;
    let beside = layout.folder.join("view.redb.new.tmp");
    let remove_leftover = || match disk.kind(&beside)? {
        Some(Kind::File(_) | Kind::Other) => disk.remove(&beside),
        Some(Kind::Folder) | None => Ok(()),
    };
    remove_leftover()?;
    let built = Catalog::create(disk, &beside, store_id, CACHE_BYTES_DEFAULT).and_then(|view| {
        replay(place, segments, &view, last_seq)?;
        view.close()
    });
    if let Err(error) = built {
        // It takes space, and whatever is wrong with it is no secret.
        let _ = remove_leftover();
        return Err(error);
    }
    if disk.kind(&layout.view)?.is_some() {
        quarantine(disk, layout, &layout.view, now_ms)?;
    }
    disk.rename(&beside, &layout.view)?;
    disk.sync_folder(&layout.folder)?;
    match Catalog::open(disk, &layout.view, store_id, CACHE_BYTES_DEFAULT)? {
        Opened::Ready(view) => Ok(view),
        Opened::Missing => Err(Error::corrupt(&layout.view, 0, "the view that was just built is gone")),
        Opened::Unusable(reason) => Err(Error::corrupt(&layout.view, 0, reason)),
    }
}

/// Moves a damaged file out of the way; nothing is ever deleted that might be the only copy.
fn quarantine(disk: &dyn Disk, layout: &Layout, path: &Path, now_ms: i64) -> Result<()> {
    disk.create_folder(&layout.quarantine)?;
    disk.check_folder(&layout.quarantine)?;
    let name = path.file_name().and_then(|name| name.to_str()).expect("a file of ours has a plain name");
    let free = (0..)
        .map(|n| layout.quarantine.join(format!("{name}.{}", now_ms + n)))
        .find_map(|target| match disk.kind(&target) {
            Ok(None) => Some(Ok(target)),
            Ok(Some(_)) => None,
            Err(error) => Some(Err(error)),
        })
        .expect("names do not run out")?;
    disk.rename(path, &free)?;
    disk.sync_folder(&layout.quarantine)?;
    disk.sync_folder(&layout.folder)
}

/// Applies to the view all records that it does not hold yet, and says how many of them are only in memory.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when such a record is damaged or its segment is missing.
fn replay(place: &Place, segments: &[Segment], catalog: &Catalog, last_seq: u64) -> Result<u64> {
    let start = catalog.position();
    let applied_seq = start.tail.last_seq;
    if applied_seq >= last_seq {
        return Ok(0);
    }
    let first =
        segments.iter().rposition(|segment| segment.header.base_seq <= applied_seq + 1).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the segment with record {} is missing", applied_seq + 1))
                .at(&place.segments)
                .hint("put the segment file back, or restore a backup")
        })?;
    tracing::info!(from_seq = applied_seq + 1, last_seq, "applying the log to the view");
    let mut batch = Batch {
        catalog,
        records: Vec::new(),
        len: 0,
        next_seq: applied_seq + 1,
        position: start,
        since_checkpoint: 0,
    };
    for segment in &segments[first..] {
        if segment.header.base_seq > last_seq {
            break;
        }
        if segment.header.number != start.tail.segment {
            let tail = log::empty_state(&segment.header);
            batch.position = Position { tail, ..Position::default() };
        }
        replay_segment(place, segment, last_seq, &mut batch)?;
    }
    if batch.next_seq <= last_seq {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("record {} is missing from the log", batch.next_seq),
        )
        .at(&place.segments)
        .hint("put the missing segment file back, or restore a backup"));
    }
    batch.apply()?;
    Ok(batch.since_checkpoint)
}

fn replay_segment(place: &Place, segment: &Segment, last_seq: u64, batch: &mut Batch<'_>) -> Result<()> {
    let file = log::open_segment(place, segment)?;
    let mut scanner = Scanner::new(&*file, segment.header.epoch, batch.position.tail.len)?;
    while batch.next_seq <= last_seq {
        let end = scanner.offset();
        match scanner.next()? {
            Ok((header, ..)) if header.kind == OpKind::Seal => return Ok(()),
            Ok((header, payload, offset)) => {
                let damaged = |what: String| Error::corrupt(&segment.path, offset, what);
                if header.seq > batch.next_seq {
                    return Err(damaged(format!("record {} is missing", batch.next_seq)));
                }
                let op = Op::decode_payload(header.kind, header.has_vectors, payload)
                    .map_err(|damage| damaged(damage.to_string()))?;
                let len = u32::try_from(record_len(payload.len())).expect("payloads are limited");
                let mut tail = batch.position.tail;
                log::advance(&mut tail, &header, u64::from(len), log::memory_time(&op));
                batch.position = Position::behind(&header, offset, tail);
                if header.seq == batch.next_seq {
                    let location = Location { segment: segment.header.number, offset, len };
                    batch.push(location, op, header.group_end)?;
                }
            }
            Err(ScanEnd::Damaged(damage)) => {
                return Err(Error::corrupt(
                    &segment.path,
                    end,
                    format!("record {}: {damage}", batch.next_seq),
                ));
            }
            Err(ScanEnd::File | ScanEnd::Empty) => return Ok(()),
        }
    }
    Ok(())
}

/// Records on their way to the view in large transactions.
struct Batch<'a> {
    catalog: &'a Catalog,
    records: Vec<(u64, Location, Op)>,
    len: u64,
    next_seq: u64,
    /// Behind the last record that was read.
    position: Position,
    since_checkpoint: u64,
}

impl Batch<'_> {
    fn push(&mut self, location: Location, op: Op, group_end: bool) -> Result<()> {
        self.records.push((self.next_seq, location, op));
        self.next_seq += 1;
        self.len += u64::from(location.len);
        // Only whole groups, so that the view never holds a part of one.
        if group_end && (self.records.len() >= REPLAY_BATCH || self.len >= REPLAY_BATCH_LEN) {
            self.apply()?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let applied: Vec<_> = self
            .records
            .iter()
            .map(|(seq, location, op)| Applied { seq: *seq, location: *location, op })
            .collect();
        self.catalog.apply(&applied, self.position)?;
        self.since_checkpoint += self.records.len() as u64;
        self.records.clear();
        self.len = 0;
        if self.since_checkpoint >= 8 * REPLAY_BATCH as u64 && !self.catalog.holds() {
            // Pages that transactions without a sync free come back only with one.
            self.catalog.checkpoint()?;
            self.since_checkpoint = 0;
        }
        Ok(())
    }
}
