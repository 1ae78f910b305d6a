//! `memory.db`: written whole or brought up to date, and known again by its fingerprint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::layout::{Stamp, hex};
use super::recognise::{is_untouched, recognise};
use super::write::{Built, Names, build, install, new_id, upkeep};
use crate::error::{ErrorKind, Result};
use crate::fs::{self, Disk, Fingerprint, Kind};
use crate::store::{Beside, Engine, Inner, Options, Progress};

/// A store that is closed brings `memory.db` up to date when at most so many records came since, ...
const RECORDS_AT_CLOSE_MAX: u64 = 256;
/// ... and writes it anew when it has at most so many memories. Otherwise that is left to those who ask for it.
const ROWS_AT_CLOSE_MAX: u64 = 512;
/// At rest it is brought up to date when at most so many records came since, ...
const RECORDS_AT_REST_MAX: u64 = 65_536;
/// ... and written anew when it is older than this.
const REST_MS: i64 = 15 * 60 * 1000;
/// When more than one in so many memories changed, it is written anew.
const CHANGED_SHARE: u64 = 10;
/// Longest file that says what was published last.
const STATE_LEN_MAX: usize = 64 << 10;

/// How `memory.db` came to be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PublishKind {
    /// It was up to date.
    Unchanged,
    /// The changes were written into it.
    Changes,
    /// It was written anew.
    Whole,
}

/// What a publish did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Published {
    /// Where it is.
    pub path: PathBuf,
    /// Memories in it.
    pub memories: u64,
    /// Sequence up to which records are in it.
    pub seq: u64,
    /// How it came to be.
    pub kind: PublishKind,
}

/// When a publish happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Closing,
    Idle,
    Asked,
}

/// What was published last, in `store/snap.state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapState {
    /// What it says of itself.
    pub(super) stamp: Option<Stamp>,
    pub(super) file: Option<Fingerprint>,
    /// CRC-32 of the file as it was when all of it was verified; `None` when it was changed in place since.
    #[serde(default)]
    pub(super) crc32: Option<u32>,
    /// The id of one that is being written in its place, or into it: after a crash it may be there.
    pub(super) next: Option<String>,
}

/// The snapshot that stands beside a store.
#[derive(Debug)]
struct MemoryDb;

impl Options {
    /// The store in this home folder. It is made when it is not there; a new store uses the built-in model; another
    /// process that holds the store is waited for up to 5 seconds. Beside it stands `memory.db`, a snapshot that is
    /// brought up to date when the store is closed or at rest, see [`Options::publish`].
    pub fn at(home: impl Into<PathBuf>) -> Self {
        Self::bare(home).publish(true)
    }

    /// Whether `memory.db` is kept up to date beside the store: when it is closed, if that is little work (at most 256
    /// new records, or at most 512 memories in all), and when nothing happens for a while. By default it is. A
    /// `memory.db` that somebody has put there or changed is taken over at the open.
    pub fn publish(self, on: bool) -> Self {
        let beside: Option<Arc<dyn Beside>> = if on { Some(Arc::new(MemoryDb)) } else { None };
        self.beside(beside)
    }
}

impl Beside for MemoryDb {
    fn opened(&self, store: &Inner) {
        let _alone = store.publishing();
        let had = store.taken_over_count();
        let recognised = recognise(store).and_then(|()| {
            let is_new = store.taken_over_count() > had;
            if is_new { write_whole(store, &mut |_| {}).map(drop) } else { Ok(()) }
        });
        if let Err(error) = recognised {
            tracing::warn!(%error, "memory.db was not looked at");
        }
    }

    fn closing(&self, store: &Inner) {
        told(publish(store, When::Closing, &mut |_| {}));
    }

    fn idle(&self, store: &Inner) {
        told(publish(store, When::Idle, &mut |_| {}));
    }

    fn purged(&self, store: &Inner) -> Result<()> {
        let _alone = store.publishing();
        // What was taken out of the log must not stay in free pages either: no changes in place.
        match known(store)? {
            Some(_) => write_whole(store, &mut |_| {}).map(drop),
            None => Ok(()),
        }
    }
}

fn told(published: Result<Option<Published>>) {
    match published {
        Ok(Some(published)) if published.kind != PublishKind::Unchanged => {
            tracing::debug!(memories = published.memories, seq = published.seq, "published memory.db");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "memory.db stays as it is"),
    }
}

impl Engine {
    /// Brings `memory.db` up to date.
    pub(crate) fn snapshot(&self, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
        let store = self.inner();
        store.check_writable()?;
        Ok(publish(store, When::Asked, progress)?.expect("whoever asks gets one"))
    }

    /// Writes everything that the store remembers into a SQLite file of this name, as [`Engine::snapshot`] does.
    pub(crate) fn export_sqlite(&self, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
        let store = self.inner();
        // In place of the published one it would look like a copy that somebody has put there to go back to it, and what
        // is remembered from here on would be undone.
        if fs::is_same_place(path, &store.db_path()) {
            return self.snapshot(progress);
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let beside = fs::folder_above(path).join(name);
        let stamp = written(store, &beside, path, &new_id()?, false, progress)?.stamp;
        Ok(published(path.to_owned(), &stamp, PublishKind::Whole))
    }
}

/// Brings `memory.db` up to date, unless it is too much work for this moment.
fn publish(store: &Inner, when: When, progress: &mut dyn FnMut(Progress)) -> Result<Option<Published>> {
    let _alone = store.publishing();
    if when == When::Closing && !is_untouched(store)? {
        // The next open takes it over, and can tell.
        return Ok(None);
    }
    recognise(store)?;
    let path = store.db_path();
    let former = known(store)?;
    let seq = store.up_to_date()?.applied_seq();
    if seq == 0 && former.is_none() && when != When::Asked {
        return Ok(None);
    }
    if let Some(former) = &former {
        let is_old = |max: u64| seq.saturating_sub(former.seq) > max;
        let age_ms = store.now_ms().saturating_sub(former.created_ms);
        match when {
            When::Closing if is_old(RECORDS_AT_CLOSE_MAX) && former.rows > ROWS_AT_CLOSE_MAX => {
                return Ok(None);
            }
            When::Idle if is_old(RECORDS_AT_REST_MAX) && age_ms < REST_MS => return Ok(None),
            _ => {}
        }
        if let Some(done) = changes_written(store, &path, former)? {
            return Ok(Some(done));
        }
    }
    let rows = store.up_to_date()?.view().count();
    if when == When::Closing && rows > ROWS_AT_CLOSE_MAX {
        return Ok(None);
    }
    write_whole(store, progress).map(Some)
}

/// Brings `memory.db` up to date before a backup is made.
pub(super) fn published_before(store: &Inner) -> Result<()> {
    publish(store, When::Asked, &mut |_| {}).map(drop)
}

/// Writes the changes into the file, if they are few; `None` when a whole one is to be written.
fn changes_written(store: &Inner, path: &Path, stamp: &Stamp) -> Result<Option<Published>> {
    let catalog = store.up_to_date()?;
    let state = store.state_of(&catalog)?;
    if stamp.model.as_ref() != state.model() {
        return Ok(None);
    }
    if stamp.seq == state.seq() {
        return Ok(Some(published(path.to_owned(), stamp, PublishKind::Unchanged)));
    }
    let Some(real) = store.disk().system_path(path) else { return Ok(None) };
    let Some(ids) = state.changed_since(stamp.seq, RECORDS_AT_REST_MAX)? else { return Ok(None) };
    if ids.len() as u64 > RECORDS_AT_CLOSE_MAX.max(stamp.rows / CHANGED_SHARE) {
        return Ok(None);
    }
    let snapshot_id = new_id()?;
    let file = store.disk().fingerprint(path)?;
    let next = Some(snapshot_id.clone());
    keep(store, &SnapState { stamp: Some(stamp.clone()), file, crc32: None, next })?;
    match upkeep(real, stamp, &state, &ids, &snapshot_id, store.now_ms()) {
        Ok(stamp) => {
            let file = store.disk().fingerprint(path)?;
            let done = published(path.to_owned(), &stamp, PublishKind::Changes);
            keep(store, &SnapState { stamp: Some(stamp), file, ..SnapState::default() })?;
            Ok(Some(done))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Busy) => Err(error),
        Err(error) => {
            tracing::info!(%error, "memory.db is written anew");
            Ok(None)
        }
    }
}

fn write_whole(store: &Inner, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
    let (disk, path) = (store.disk(), store.db_path());
    let beside = store.folder().join("memory.db.tmp");
    for sibling in siblings(&path) {
        // It would be played back over the new file.
        if disk.kind(&sibling)?.is_some() {
            store.put_away(&sibling, "it stood beside a memory.db that was written anew")?;
        }
    }
    let snapshot_id = new_id()?;
    // After a crash behind the rename it must not look like a file that somebody else has put there.
    let last = last_published(store)?.unwrap_or_default();
    keep(store, &SnapState { next: Some(snapshot_id.clone()), ..last })?;
    let Built { stamp, crc32, .. } = written(store, &beside, &path, &snapshot_id, false, progress)?;
    let file = disk.fingerprint(&path)?;
    keep(store, &SnapState { stamp: Some(stamp.clone()), file, crc32: Some(crc32), next: None })?;
    Ok(published(path, &stamp, PublishKind::Whole))
}

/// Puts a `memory.db` away that is of no use, and publishes another one.
pub(super) fn publish_anew(store: &Inner, reason: &str) -> Result<()> {
    let _alone = store.publishing();
    let path = store.db_path();
    if store.disk().kind(&path)?.is_some() {
        store.put_away(&path, reason)?;
    }
    write_whole(store, &mut |_| {}).map(drop)
}

/// Writes the store's present state under the first name and gives it the second one.
pub(super) fn written(
    store: &Inner,
    beside: &Path,
    path: &Path,
    snapshot_id: &str,
    with_sha256: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built> {
    let disk = &**store.disk();
    let catalog = store.up_to_date()?;
    let state = store.state_of(&catalog)?;
    let names = Names { snapshot_id, store_id: store.store_id(), created_ms: store.now_ms() };
    let mut tell = |done, total| progress(Progress::new(done, total));
    let built = build(disk, beside, &state, names, with_sha256, &mut tell)
        .and_then(|built| install(disk, beside, path).map(|()| built));
    if built.is_err() && disk.kind(beside).is_ok_and(|kind| kind.is_some()) {
        // It takes space; what went wrong has been told.
        let _ = disk.remove(beside);
    }
    built
}

/// What was published last, when the file is still that one.
fn known(store: &Inner) -> Result<Option<Stamp>> {
    let Some(last) = last_published(store)? else { return Ok(None) };
    let file = store.disk().fingerprint(&store.db_path())?;
    let is_same = file.is_some() && file == last.file && last.next.is_none();
    let is_own = |stamp: &Stamp| stamp.store_id == hex(&store.store_id());
    Ok(last.stamp.filter(|stamp| is_same && is_own(stamp)))
}

/// What was published last, whatever became of the file.
pub(super) fn last_published(store: &Inner) -> Result<Option<SnapState>> {
    published_last(&**store.disk(), store.folder())
}

/// The same of a store that is not open, by its folder.
pub(super) fn published_last(disk: &dyn Disk, folder: &Path) -> Result<Option<SnapState>> {
    let path = state_path(folder);
    if !matches!(disk.kind(&path)?, Some(Kind::File(_))) {
        return Ok(None);
    }
    let bytes = match fs::read_small(disk, &path, STATE_LEN_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        Err(error) => return Err(error),
    };
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

pub(super) fn keep(store: &Inner, state: &SnapState) -> Result<()> {
    let bytes = serde_json::to_vec(state).expect("a struct of numbers and texts");
    fs::replace(&**store.disk(), &state_path(store.folder()), &bytes)
}

fn state_path(folder: &Path) -> PathBuf {
    folder.join("snap.state")
}

/// Files of SQLite that belong to a database, or did.
pub(super) fn siblings(path: &Path) -> [PathBuf; 3] {
    ["-wal", "-shm", "-journal"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

fn published(path: PathBuf, stamp: &Stamp, kind: PublishKind) -> Published {
    Published { path, memories: stamp.rows, seq: stamp.seq, kind }
}
