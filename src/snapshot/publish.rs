//! `memory.db`: written whole or brought up to date, and known again by its fingerprint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::layout::Stamp;
use super::write::{build, install, upkeep};
use crate::error::{ErrorKind, Result};
use crate::fs::{self, Fingerprint};
use crate::store::{Beside, Inner, Options, Progress, Store};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapState {
    pub(super) stamp: Stamp,
    pub(super) file: Fingerprint,
    /// Whether changes were being written into the file: a crash may have left a journal beside it.
    pub(super) is_changing: bool,
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
    fn opened(&self, _store: &Inner) {}

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

impl Store {
    /// Brings `memory.db` up to date: a SQLite file with everything that the store remembers, which `sqlite3` and the
    /// original Memento can read. After a crash the former one is there or the new one.
    ///
    /// # Errors
    /// [`ReadOnly`](ErrorKind::ReadOnly), [`NoSpace`](ErrorKind::NoSpace) and what the disk says; the former file is
    /// as it was then.
    pub fn snapshot(&self, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
        let store = self.inner();
        store.check_writable()?;
        Ok(publish(store, When::Asked, progress)?.expect("whoever asks gets one"))
    }

    /// Writes everything that the store remembers into a SQLite file of this name, as [`Store::snapshot`] does. A file
    /// that has the name is replaced when the new one is whole and durable.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn export_sqlite(&self, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
        let store = self.inner();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let beside = fs::folder_above(path).join(name);
        let stamp = written(store, &beside, path, progress)?;
        Ok(published(path.to_owned(), &stamp, PublishKind::Whole))
    }
}

/// Brings `memory.db` up to date, unless it is too much work for this moment.
fn publish(store: &Inner, when: When, progress: &mut dyn FnMut(Progress)) -> Result<Option<Published>> {
    let _alone = store.publishing();
    let path = store.db_path();
    let former = known(store)?;
    let seq = store.up_to_date()?.applied_seq();
    if seq == 0 && former.is_none() && when != When::Asked {
        return Ok(None);
    }
    if let Some(former) = &former {
        let is_old = |max: u64| seq.saturating_sub(former.stamp.seq) > max;
        let age_ms = store.now_ms().saturating_sub(former.stamp.created_ms);
        match when {
            When::Closing if is_old(RECORDS_AT_CLOSE_MAX) && former.stamp.rows > ROWS_AT_CLOSE_MAX => {
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
fn changes_written(store: &Inner, path: &Path, former: &SnapState) -> Result<Option<Published>> {
    let catalog = store.up_to_date()?;
    let state = store.state_of(&catalog)?;
    let stamp = &former.stamp;
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
    let mut note = SnapState { is_changing: true, ..former.clone() };
    keep(store, &note)?;
    match upkeep(real, stamp, &state, &ids, store.now_ms()) {
        Ok(stamp) => {
            let file = store.disk().fingerprint(path)?;
            let Some(file) = file else { return Ok(None) };
            note = SnapState { stamp, file, is_changing: false };
            keep(store, &note)?;
            Ok(Some(published(path.to_owned(), &note.stamp, PublishKind::Changes)))
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
    let stamp = written(store, &beside, &path, progress)?;
    if let Some(file) = disk.fingerprint(&path)? {
        keep(store, &SnapState { stamp: stamp.clone(), file, is_changing: false })?;
    }
    Ok(published(path, &stamp, PublishKind::Whole))
}

/// Writes the store's present state under the first name and gives it the second one.
pub(super) fn written(
    store: &Inner,
    beside: &Path,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Stamp> {
    let disk = &**store.disk();
    let catalog = store.up_to_date()?;
    let state = store.state_of(&catalog)?;
    let (store_id, now_ms) = (store.store_id(), store.now_ms());
    let mut tell = |done, total| progress(Progress::new(done, total));
    let stamp = build(disk, beside, &state, store_id, now_ms, &mut tell)
        .and_then(|stamp| install(disk, beside, path).map(|()| stamp));
    if stamp.is_err() && disk.kind(beside).is_ok_and(|kind| kind.is_some()) {
        // It takes space; what went wrong has been told.
        let _ = disk.remove(beside);
    }
    stamp
}

/// What was published last, when the file is still that one.
pub(super) fn known(store: &Inner) -> Result<Option<SnapState>> {
    let Some(last) = last_published(store)? else { return Ok(None) };
    let file = store.disk().fingerprint(&store.db_path())?;
    let has_siblings = || -> Result<bool> {
        for sibling in siblings(&store.db_path()) {
            if store.disk().kind(&sibling)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let is_same = file == Some(last.file) && !last.is_changing && last.stamp.store_id == hex_id(store);
    Ok(if is_same && !has_siblings()? { Some(last) } else { None })
}

/// What was published last, whatever became of the file.
pub(super) fn last_published(store: &Inner) -> Result<Option<SnapState>> {
    let bytes = match fs::read_small(&**store.disk(), &state_path(store), STATE_LEN_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        Err(error) => return Err(error),
    };
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn keep(store: &Inner, state: &SnapState) -> Result<()> {
    let bytes = serde_json::to_vec(state).expect("a struct of numbers and texts");
    fs::replace(&**store.disk(), &state_path(store), &bytes)
}

fn state_path(store: &Inner) -> PathBuf {
    store.folder().join("snap.state")
}

fn hex_id(store: &Inner) -> String {
    super::layout::hex(&store.store_id())
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
