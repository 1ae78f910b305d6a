//! The store as its users see it: a handle that runs calls itself when its process owns the store, and asks the owner
//! otherwise. When the owner ends, the next call makes a handle of another process the owner.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::call::{self, Call, Host, Work};
use super::client::{Asking, Pool, Unanswered};
use super::server::Server;
use super::{AsOf, Role, Sharing, Steps, Watch, lock};
use crate::check::{self, CheckOptions, CheckReport};
use crate::embed::{Embedder, ModelIdentity, ModelSpec};
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::format::message::PROTOCOL;
use crate::fs::absolute;
use crate::home::{HomeInputs, locate};
use crate::memory::{
    Answer, Forgotten, List, Memory, Recall, Receipt, Remember, Remembered, Update, Updated,
};
use crate::snapshot::{Backup, Published, RestoreFrom, RestoreOptions, Restored};
use crate::store::{
    self, Change, Changed, Compacted, Embedded, Embedders, Embeds, Engine, Healed, Holder, Ids, Layout,
    MemoryVectors, Moment, OnConflict, Options, Progress, Proof, Purged, RestorePoint, Stats, TakenOver,
};
use crate::transfer::{ImportFormat, ImportOptions, ImportStage, Imported};

/// How long those who wait for a store sleep between two tries, at least and at most.
const RETRY_MIN: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(50);
/// How long a call waits for a new owner after the former one has ended: that one recovers the store first.
const TAKEOVER_WAIT: Duration = Duration::from_secs(60);

/// A store of memories. Cheap to clone, usable from any thread and, at the same home, from any process: the first one
/// that opens it owns it and serves the others over a socket in its folder, see [`Options::serve`].
///
/// The last handle of a process closes it: what is only in memory is written, and the lock is let go. [`Store::close`]
/// does the same and says whether it went well. Nothing acknowledged depends on either.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

/// What the clones of a handle share.
pub(crate) struct Handle {
    options: Options,
    /// The process that made it. After a fork the child has a copy that must touch nothing.
    pid: AtomicU32,
    place: RwLock<Arc<Place>>,
    /// Held while the place changes.
    moving: Mutex<()>,
    ids: Ids,
    embedders: OnceLock<Embedders>,
    this: Weak<Handle>,
}

/// Where the engine is.
enum Place {
    /// Here.
    Own { engine: Engine, server: Option<Mutex<Server>>, holder: Holder },
    /// In another process.
    Elsewhere(Pool),
    /// A past of this store, here.
    Past(store::PastStore),
    /// A past of another handle's store, in another process.
    PastElsewhere { store: Store, seq: u64 },
    /// Nowhere just now: it was given to somebody else, or is being opened anew.
    Nowhere,
}

impl Store {
    /// Opens a store, recovers it if it was left by a crash, and makes it if it is not there. When another process has it
    /// open, that one is asked from here on, unless [`Options::connect`] says otherwise.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) when another process holds it and does not serve,
    /// [`OwnerUnresponsive`](ErrorKind::OwnerUnresponsive) when it was stopped or hangs,
    /// [`VersionSkew`](ErrorKind::VersionSkew) when it is of another version that this one does not understand,
    /// [`Permission`](ErrorKind::Permission) when the folder is not safe, [`Refused`](ErrorKind::Refused) on a network file
    /// system, [`Gone`](ErrorKind::Gone) when a store was here and is not any more, [`Corrupt`](ErrorKind::Corrupt) when
    /// acknowledged records are damaged, [`UnknownFormat`](ErrorKind::UnknownFormat) when a newer version wrote it, and what
    /// the disk says.
    pub fn open(options: Options) -> Result<Self> {
        let wait = options.lock_wait;
        Self::with(options, |handle| handle.found(wait))
    }

    /// Checks every byte of a store and mends what is found: damaged segments are written anew from what is whole in them
    /// and from the view, a damaged view is built anew from the log. What neither has is given up and named. Damaged files
    /// go to `quarantine/`. Gives the store with the report of a second check.
    ///
    /// A process that owns the store is asked to let it go; it gets it back, or is served, afterwards.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Store::check`], and [`Busy`](ErrorKind::Busy) when the owner keeps the store.
    pub fn repair(options: Options, progress: &mut dyn FnMut(Progress)) -> Result<(Self, CheckReport)> {
        let mut report = None;
        let store = Self::with(options, |handle| {
            handle.alone(|options| {
                let (engine, found) = check::repair(options, progress)?;
                report = Some(found);
                Ok(engine)
            })
        })?;
        Ok((store, report.expect("whoever has a store has a report")))
    }

    fn with(options: Options, place: impl FnOnce(&Handle) -> Result<Place>) -> Result<Self> {
        let handle = Handle::new(options, Place::Nowhere);
        let found = place(&handle)?;
        handle.put(found);
        Ok(Self { handle })
    }

    /// A store that was, as a handle of its own.
    fn past(of: &Handle, place: Place) -> Self {
        Self { handle: Handle::new(of.options.clone(), place) }
    }

    /// The home folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.handle.options.home
    }

    /// Whether the store is only read, because it was opened so or because its medium cannot be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.handle.options.read_only
            || match &*self.handle.place() {
                Place::Own { engine, .. } => engine.is_read_only(),
                Place::Elsewhere(pool) => pool.owner().is_read_only,
                Place::Past(_) | Place::PastElsewhere { .. } => true,
                Place::Nowhere => false,
            }
    }

    /// What was missing or damaged and was healed since this process opened the store, the opening included. What another
    /// process healed, that one tells.
    #[must_use]
    pub fn healed(&self) -> Vec<Healed> {
        match &*self.handle.place() {
            Place::Own { engine, .. } => engine.healed(),
            _ => Vec::new(),
        }
    }

    /// Files that somebody had put in place of the published `memory.db`, or changed, and that were taken over since this
    /// process opened the store, the opening included.
    #[must_use]
    pub fn taken_over(&self) -> Vec<TakenOver> {
        match &*self.handle.place() {
            Place::Own { engine, .. } => engine.taken_over(),
            _ => Vec::new(),
        }
    }

    /// Who owns the store, and who asks it.
    ///
    /// # Errors
    /// Those of a call to the owner.
    pub fn sharing(&self) -> Result<Sharing> {
        let sharing = self.call(call::GetSharing {})?;
        let is_elsewhere = matches!(&*self.handle.place(), Place::Elsewhere(_) | Place::PastElsewhere { .. });
        Ok(if is_elsewhere { Sharing { role: Role::Client, ..sharing } } else { sharing })
    }

    /// What is written from here on, or after a sequence: memories as they are acknowledged, in any process.
    ///
    /// # Errors
    /// Those of a call to the owner.
    pub fn watch(&self, since_seq: Option<u64>) -> Result<Watch> {
        let after_seq = match since_seq {
            Some(seq) => seq,
            None => self.call(call::Seq {})?,
        };
        Ok(Watch::new(self.clone(), after_seq))
    }

    /// The memory of this id.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when it is damaged on disk, and what the disk says.
    pub fn get(&self, id: impl AsRef<str>) -> Result<Option<Memory>> {
        let id = id.as_ref();
        match &*self.handle.place() {
            // Without a copy of the id: this is done most.
            Place::Own { engine, .. } => {
                self.handle.check_process()?;
                engine.get(id)
            }
            _ => self.call(call::Get { id: id.to_owned() }),
        }
    }

    /// Memories by time, without a question.
    ///
    /// # Errors
    /// As [`Store::get`], and [`Invalid`](ErrorKind::Invalid) for a bad filter.
    pub fn list(&self, list: &List) -> Result<Vec<Memory>> {
        self.call(call::ListAll { list: list.clone() })
    }

    /// Stores a memory. When this returns `Ok`, the memory survives kill -9 and power loss.
    ///
    /// The text is embedded first (some milliseconds), so that the answer can name a near-duplicate; if embedding is
    /// not possible, the memory is stored without a vector and embedded later.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) and [`TooLarge`](ErrorKind::TooLarge) for what cannot be stored,
    /// [`Conflict`](ErrorKind::Conflict) when the given id has other content, [`Refused`](ErrorKind::Refused) when a
    /// secret is found in it, [`NoSpace`](ErrorKind::NoSpace);
    /// with [`CommitUnknown`](ErrorKind::CommitUnknown) it is not known whether the memory is stored.
    pub fn remember(&self, remember: Remember) -> Result<Remembered> {
        self.call(call::RememberOne { remember })
    }

    /// Stores several memories as one atomic group: after a crash all of them are there or none. At most 16,384
    /// memories and 32 MiB at once. Texts are embedded later, behind the calls or by [`Store::embed_pending`]; until
    /// then they are found by words. Near-duplicates are not looked for, equal texts are.
    ///
    /// # Errors
    /// As [`Store::remember`]; then none of them is stored.
    pub fn remember_many(&self, all: Vec<Remember>) -> Result<Vec<Remembered>> {
        self.call(call::RememberMany { all })
    }

    /// Changes a memory. The former version stays in the log.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when no memory has this id; otherwise as [`Store::remember`].
    pub fn update(&self, id: impl AsRef<str>, update: Update) -> Result<Updated> {
        self.call(call::UpdateOne { id: id.as_ref().to_owned(), update })
    }

    /// Forgets memories: they never come back, after any reopen. Ids that no memory has are named in the answer.
    ///
    /// Their bytes stay in the log until it is compacted.
    ///
    /// # Errors
    /// As [`Store::remember`]; then none of them is forgotten.
    pub fn forget<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>) -> Result<Forgotten> {
        self.call(call::Forget { ids: owned(ids) })
    }

    /// Forgets memories and takes their texts and vectors, of every version, out of the log, the view and all caches;
    /// that a memory of this id was forgotten stays known. Memories that were forgotten before are purged, too. The
    /// store is read as a whole for that: some seconds for a million memories.
    ///
    /// Copies that are not part of the store stay as they are: backups and snapshots are named in the answer. So do
    /// blocks of the disk that a filesystem gave back.
    ///
    /// # Errors
    /// As [`Store::forget`], and [`Corrupt`](ErrorKind::Corrupt) when a segment is damaged. A purge that was
    /// interrupted is finished by the next one.
    pub fn purge<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Purged> {
        self.call_with(call::Purge { ids: owned(ids) }, &mut |_, done| progress(done))
    }

    /// The best memories for a question: by words and by meaning, of those in scope. A blank question has no answer.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) and [`TooLarge`](ErrorKind::TooLarge) for what cannot be asked,
    /// [`Timeout`](ErrorKind::Timeout) naming what took long, [`Model`](ErrorKind::Model) in vector mode without a
    /// model, and what the disk says. In hybrid mode a missing model is no error: words rank, and the answer says so.
    pub fn recall(&self, recall: Recall) -> Result<Answer> {
        let started = Instant::now();
        let mut answer = self.call(call::RecallBest { recall })?;
        answer.took = started.elapsed();
        Ok(answer)
    }

    /// Figures of the store and of this process's use of it.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn stats(&self) -> Result<Stats> {
        self.call(call::GetStats {})
    }

    /// Leaves out of the log what nothing needs any more: former versions, forgotten memories, replaced vectors. Also
    /// happens by itself, behind the calls and when a store is closed, when more than a third of the log is dead.
    ///
    /// What it replaces stays in the trash as long as [`Options::history`](Options::history) says, unless the disk is full.
    ///
    /// Works on a full disk, too, with the space that is kept in reserve: a quarter of the log, at least 1 and at most
    /// 32 MiB, in which what is left of a segment must have room. A crash in between loses nothing.
    ///
    /// # Errors
    /// As [`Store::remember`], and [`Corrupt`](ErrorKind::Corrupt) when a segment is damaged: it stays as it is.
    pub fn compact(&self, progress: &mut dyn FnMut(Progress)) -> Result<Compacted> {
        self.call_with(call::Compact {}, &mut |_, done| progress(done))
    }

    /// Makes the vectors that are due and returns when they are stored. A crash or a stop in between loses nothing:
    /// what is done is done, the rest stays due.
    ///
    /// # Errors
    /// [`Model`](ErrorKind::Model) when the store's model is not there; otherwise as [`Store::remember`].
    pub fn embed_pending(&self, progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        self.call_with(call::EmbedPending {}, &mut |_, done| progress(done))
    }

    /// Moves the store to a model, or with `None` makes what is due for the present one. All vectors are made anew
    /// beside the old ones; when none is missing, recall switches to them at once. Interrupted, it goes on where it
    /// was; until the switch recall uses the old vectors.
    ///
    /// # Errors
    /// As [`Store::embed_pending`].
    pub fn reembed(&self, model: Option<&ModelSpec>, progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        self.call_with(call::Reembed { model: model.cloned() }, &mut |_, done| progress(done))
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
        if let Place::Own { engine, .. } = &*self.handle.place() {
            self.handle.check_process()?;
            return engine.reembed_with(embedder, progress);
        }
        let embeds = Given(embedder);
        self.handle.call(call::ReembedWith {}, &embeds, &mut |_, done| progress(done))
    }

    /// The vectors that recall uses for a memory; None when it has none yet, or there is no such memory.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when the log does not have them whole; those of the system.
    pub fn vectors(&self, id: impl AsRef<str>) -> Result<Option<MemoryVectors>> {
        self.call(call::VectorsOf { id: id.as_ref().to_owned() })
    }

    /// The store as it was at a moment: what it answers is what it would have answered then, but for vectors that were
    /// made only later. Copies the log up to there, so it takes some seconds for a large store.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when the moment cannot be had any more, see [`Options::history`], and those of
    /// [`Store::open`].
    pub fn as_of(&self, moment: Moment) -> Result<AsOf> {
        if let Place::Own { engine, .. } = &*self.handle.place() {
            self.handle.check_process()?;
            let past = engine.as_of(moment)?;
            let seq = past.seq();
            return Ok(AsOf::new(Self::past(&self.handle, Place::Past(past)), seq));
        }
        let seq = self.call(call::OpenPast { moment })?;
        Ok(AsOf::new(Self::past(&self.handle, Place::PastElsewhere { store: self.clone(), seq }), seq))
    }

    /// What is different at the second moment.
    ///
    /// # Errors
    /// As [`Store::as_of`].
    pub fn diff(&self, one: Moment, other: Moment) -> Result<Changed> {
        self.call(call::Diff { one, other })
    }

    /// Reads the present version of the memory with this id from the log and holds it against the view.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn prove_id(&self, id: impl AsRef<str>) -> Result<Proof> {
        self.call(call::ProveId { id: id.as_ref().to_owned() })
    }

    /// Reads the record of a receipt from the log: that it is there as it was acknowledged, or what became of it. Holds
    /// after any crash, restore and heal.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn prove(&self, receipt: Receipt) -> Result<Proof> {
        self.call(call::Prove { receipt })
    }

    /// Makes an index block and a text block of everything that none has yet, or with `full` of everything from nothing, and returns when
    /// it is in use. Happens by itself behind the calls; after a large import this says when it is done. A crash or a
    /// stop in between costs only the work.
    ///
    /// # Errors
    /// As [`Store::remember`]; without a model there is nothing to do.
    pub fn build_index(&self, full: bool, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        self.call_with(call::BuildIndex { full }, &mut |_, done| progress(done))
    }

    /// Brings `memory.db` up to date: a SQLite file with everything that the store remembers, which `sqlite3` and the
    /// original Memento can read. After a crash the former one is there or the new one.
    ///
    /// # Errors
    /// [`ReadOnly`](ErrorKind::ReadOnly), [`NoSpace`](ErrorKind::NoSpace) and what the disk says; the former file is
    /// as it was then.
    pub fn snapshot(&self, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
        self.call_with(call::Snapshot {}, &mut |_, done| progress(done))
    }

    /// Writes everything that the store remembers into a SQLite file of this name, as [`Store::snapshot`] does. A file
    /// that has the name is replaced when the new one is whole and durable. Where that is the published `memory.db` itself,
    /// it is [`Store::snapshot`].
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn export_sqlite(&self, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Published> {
        self.call_with(call::ExportSqlite { path: absolute(path)? }, &mut |_, done| progress(done))
    }

    /// Makes a backup in the home's folder `backups`, `memory_YYYYMMDD_HHMMSS.db` by local time, and lets go of older
    /// ones as `retention_days` says: kept are the last verified one of each hour, for the 24 latest hours that have
    /// one, and of each day, for so many latest days that have one, and of those days the last 50 that were asked for by
    /// this call. A backup counts when it was read back and compared.
    ///
    /// # Errors
    /// As [`Store::snapshot`]; then no backup is gone.
    pub fn backup_with(&self, retention_days: u32, progress: &mut dyn FnMut(Progress)) -> Result<Backup> {
        let by_hand = true;
        self.call_with(call::MakeBackup { retention_days, by_hand }, &mut |_, done| progress(done))
    }

    /// As [`Store::backup_with`], for whoever makes one every hour: it is kept only as the last one of its hour or day.
    ///
    /// # Errors
    /// As [`Store::backup_with`].
    pub fn backup_scheduled(
        &self,
        retention_days: u32,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Backup> {
        let by_hand = false;
        self.call_with(call::MakeBackup { retention_days, by_hand }, &mut |_, done| progress(done))
    }

    /// As [`Store::backup_with`], with 7 days; says where the backup is.
    ///
    /// # Errors
    /// As [`Store::backup_with`].
    pub fn backup(&self) -> Result<PathBuf> {
        Ok(self.backup_with(7, &mut |_| {})?.path)
    }

    /// Makes a backup under this name, with its manifest beside it. In a folder it gets a name of its own.
    ///
    /// # Errors
    /// As [`Store::snapshot`], and [`Refused`](ErrorKind::Refused) when a file has the name.
    pub fn backup_to(&self, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Backup> {
        self.call_with(call::BackupTo { path: absolute(path)? }, &mut |_, done| progress(done))
    }

    /// The backups of the home, the newest first: those of this program, and those that the original has left in the
    /// home. With `deep` every verified one is read as a whole and compared with its manifest; otherwise its size is.
    ///
    /// # Errors
    /// What the disk says.
    pub fn backups(&self, deep: bool) -> Result<Vec<Backup>> {
        self.call(call::Backups { deep })
    }

    /// Takes the store to another state. What differs is logged as one group: after a crash all of it counts, or nothing.
    /// Nothing is removed by it, and [`RestoreFrom::Undo`] takes it back for at least 30 days.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such file, backup or moment,
    /// [`Invalid`](ErrorKind::Invalid) and [`Corrupt`](ErrorKind::Corrupt) when the file cannot be used, and those of
    /// [`Store::remember`]; then nothing has changed.
    pub fn restore(&self, from: &RestoreFrom, options: RestoreOptions) -> Result<Restored> {
        let from = match from {
            RestoreFrom::File(path) => RestoreFrom::File(absolute(path)?),
            from => from.clone(),
        };
        self.call(call::Restore { from, options })
    }

    /// The restore points that the log has, the newest first. States that are older than the window of
    /// [`Options::history`](Options::history) may be out of reach.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a segment is damaged, and what the disk says.
    pub fn restore_points(&self) -> Result<Vec<RestorePoint>> {
        self.call(call::RestorePoints {})
    }

    /// Reads every record of the log and every row of the view, and holds one against the other.
    ///
    /// # Errors
    /// When a file cannot be read. What is read and wrong is a finding.
    pub fn check(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        self.check_with(&CheckOptions::new(), progress)
    }

    /// As [`Store::check`], within a time limit or going on where another check was cut short.
    ///
    /// # Errors
    /// As [`Store::check`], and when the file to resume from cannot be read or written.
    pub fn check_with(
        &self,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckReport> {
        let options = options.with_absolute_paths()?;
        self.call_with(call::CheckAll { options }, &mut |_, done| progress(done))
    }

    /// Reads the manifest, the header and the seal of every segment and how they follow each other, and every record of
    /// the segment that is open. Takes milliseconds, whatever the size of the store; damage within a sealed segment or
    /// a row is found by [`Store::check`].
    ///
    /// # Errors
    /// As [`Store::check`].
    pub fn check_quickly(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        self.call_with(call::CheckQuickly {}, &mut |_, done| progress(done))
    }

    /// Imports a file, or a folder of Markdown files. Ids and times are kept; everything is checked before anything is
    /// stored. See [`ImportFormat`] for what is read; its content tells which it is.
    ///
    /// A file is stored as one group, whatever its size: after a crash all of it is there or none. While one that is larger
    /// than a group of [`Store::remember_many`] is stored, other writers wait. Vectors that came with the memories are
    /// kept where the store's own model made them, or the original's; otherwise they are made later, as after
    /// [`Store::remember_many`].
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid), [`TooLarge`](ErrorKind::TooLarge), [`Corrupt`](ErrorKind::Corrupt),
    /// [`Refused`](ErrorKind::Refused) and [`UnknownFormat`](ErrorKind::UnknownFormat) for what cannot be read, naming
    /// the place and never what a memory says; [`Refused`](ErrorKind::Refused) for secrets, as
    /// [`ImportOptions::allow_secrets`] says; [`Conflict`](ErrorKind::Conflict) as [`ImportOptions::on_conflict`] says;
    /// those of [`Store::remember`].
    pub fn import(
        &self,
        path: &Path,
        options: &ImportOptions,
        progress: &mut dyn FnMut(ImportStage, Progress),
    ) -> Result<Imported> {
        let call = call::Import { path: absolute(path)?, options: options.with_absolute_paths()? };
        self.call_with(call, &mut |stage, done| {
            if let Some(stage) = call::STAGES.get(usize::from(stage)) {
                progress(*stage, done);
            }
        })
    }

    /// Imports the original's JSON export, or a bare list of its memories: [`Store::import`] of [`ImportFormat::Json`].
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_json(
        &self,
        file: &Path,
        on_conflict: OnConflict,
        dry_run: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported> {
        let options =
            ImportOptions::default().format(ImportFormat::Json).on_conflict(on_conflict).dry_run(dry_run);
        self.import(file, &options, &mut |stage, done| {
            if stage == ImportStage::Storing {
                progress(done);
            }
        })
    }

    /// Writes what is only in memory and lets go of the store. With other handles of this process still there, only the
    /// former.
    ///
    /// # Errors
    /// What the disk says. All that was acknowledged is durable nevertheless.
    pub fn close(self) -> Result<()> {
        match Arc::try_unwrap(self.handle) {
            Ok(mut handle) => handle.shut(),
            Err(handle) => match &*handle.place() {
                Place::Own { engine, .. } => engine.clone().close(),
                _ => Ok(()),
            },
        }
    }

    /// Makes this the handle of another process.
    #[cfg(test)]
    pub(super) fn set_process(&self, pid: u32) {
        self.handle.pid.store(pid, Ordering::Relaxed);
    }

    /// What was changed after a sequence, for [`Watch`].
    pub(super) fn changes(&self, after_seq: u64, limit: usize, wait: Duration) -> Result<Vec<Change>> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.call(call::Changes { after_seq, limit, wait_ms })
    }

    fn call<C: Call>(&self, call: C) -> Result<C::Answer> {
        self.call_with(call, &mut |_, _| {})
    }

    fn call_with<C: Call>(&self, call: C, progress: &mut dyn FnMut(u8, Progress)) -> Result<C::Answer> {
        self.handle.call(call, &*self.handle, progress)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("home", &self.home()).finish_non_exhaustive()
    }
}

impl Handle {
    fn new(options: Options, place: Place) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            options,
            pid: AtomicU32::new(std::process::id()),
            place: RwLock::new(Arc::new(place)),
            moving: Mutex::default(),
            ids: Ids::default(),
            embedders: OnceLock::new(),
            this: Weak::clone(this),
        })
    }

    /// Where the engine is just now.
    fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, place: Place) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(place);
    }

    /// The process that made the handle.
    fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// A child that was forked has a copy of the handle, and with it of the lock. It must not write with either.
    fn check_process(&self) -> Result<()> {
        if self.pid() == std::process::id() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ForkedHandle,
            format!("this handle was opened by process {}, before a fork", self.pid()),
        )
        .hint("open the store in the child process: it is served by its owner"))
    }

    /// Runs a call where the engine is, and goes on with the next owner when one ends.
    fn call<C: Call>(
        &self,
        mut call: C,
        embeds: &dyn Embeds,
        progress: &mut dyn FnMut(u8, Progress),
    ) -> Result<C::Answer> {
        self.check_process()?;
        let mut resent_after = None;
        let mut fence = None;
        loop {
            let place = self.place();
            match &*place {
                Place::Own { engine, .. } => {
                    if let Some(after_seq) = resent_after
                        && let Some(answer) = call.done(engine, after_seq)?
                    {
                        return Ok(answer);
                    }
                    return call.run(engine, &mut Work { by: None, progress, host: self });
                }
                Place::Past(as_of) => return call.run(as_of, &mut Work { by: None, progress, host: self }),
                Place::PastElsewhere { store, seq } => {
                    let Place::Elsewhere(pool) = &*store.handle.place() else {
                        return Err(self.past_is_gone(*seq));
                    };
                    let mut asking = Asking { embeds, progress, past: Some(*seq), resent_after: None };
                    return match pool.ask(&call, &mut asking) {
                        Ok(answer) => Ok(answer),
                        Err(Unanswered::Error(error)) => Err(error),
                        Err(Unanswered::OwnerGone) => Err(self.past_is_gone(*seq)),
                    };
                }
                Place::Elsewhere(pool) => {
                    if C::WRITES && self.options.read_only {
                        return Err(read_only(&self.options.home));
                    }
                    call.name_new(&|| self.ids.next(self.options.clock.now_ms()))?;
                    let asked = self.ask(pool, &call, &mut fence, resent_after, embeds, progress);
                    match asked {
                        Ok(answer) => return Ok(answer),
                        Err(Unanswered::Error(error)) => return Err(error),
                        Err(Unanswered::OwnerGone) => {
                            resent_after = resent_after.or(fence);
                            call.again();
                            self.find_again(&place, C::WRITES)?;
                        }
                    }
                }
                Place::Nowhere => self.find_again(&place, false)?,
            }
        }
    }

    fn ask<C: Call>(
        &self,
        pool: &Pool,
        call: &C,
        fence: &mut Option<u64>,
        resent_after: Option<u64>,
        embeds: &dyn Embeds,
        progress: &mut dyn FnMut(u8, Progress),
    ) -> Result<C::Answer, Unanswered> {
        if C::ONCE && fence.is_none() {
            // What this call does has a later sequence than this, and so has what others do meanwhile.
            let mut asking = Asking { embeds, progress, past: None, resent_after: None };
            *fence = Some(pool.ask(&call::Seq {}, &mut asking)?);
        }
        pool.ask(call, &mut Asking { embeds, progress, past: None, resent_after })
    }

    /// Finds the store again after its owner has ended: this process owns it from here on, or asks the new owner.
    fn find_again(&self, former: &Arc<Place>, writes: bool) -> Result<()> {
        let _moving = lock(&self.moving);
        if !Arc::ptr_eq(&self.place(), former) {
            // Another thread was quicker.
            return Ok(());
        }
        let durability = if writes { Durability::Unknown } else { Durability::NotWritten };
        let wait = self.options.lock_wait.max(TAKEOVER_WAIT);
        let place = self.found(wait).map_err(|error| error.durable(durability))?;
        self.put(place);
        Ok(())
    }

    /// The store, here or elsewhere.
    fn found(&self, wait: Duration) -> Result<Place> {
        let started = Instant::now();
        let mut pause = RETRY_MIN;
        loop {
            let free = self.options.clone().lock_wait(Duration::ZERO);
            if let Some(engine) = Engine::open_if_free(free)? {
                return Ok(self.owned(engine));
            }
            let folder = self.folder();
            if self.options.connect
                && let Some(pool) = Pool::connect(&folder, self.options.read_only)?
            {
                return Ok(Place::Elsewhere(pool));
            }
            if started.elapsed() >= wait {
                return Err(store::busy(&*self.options.disk, &self.options.home));
            }
            // Not all at the same moment: the number of a process is as good as chance.
            std::thread::sleep(pause + Duration::from_micros(u64::from(self.pid() % 1000)));
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// The store for this process alone: whoever owns it is asked to let it go.
    fn alone(&self, mut open: impl FnMut(Options) -> Result<Engine>) -> Result<Place> {
        let started = Instant::now();
        loop {
            match open(self.options.clone().lock_wait(Duration::from_millis(200))) {
                Ok(engine) => return Ok(self.owned(engine)),
                Err(error)
                    if error.kind() == ErrorKind::Busy && started.elapsed() < self.options.lock_wait =>
                {
                    if let Some(pool) = Pool::connect(&self.folder(), false)? {
                        let mut asking =
                            Asking { embeds: self, progress: &mut |_, _| {}, past: None, resent_after: None };
                        match pool.ask(&call::StepAside {}, &mut asking) {
                            Ok(()) | Err(Unanswered::OwnerGone) => {}
                            Err(Unanswered::Error(error)) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn folder(&self) -> PathBuf {
        Layout::of(&self.options.home).folder().to_owned()
    }

    /// The store that this process has, and serves others if it can.
    fn owned(&self, engine: Engine) -> Place {
        let holder = Holder::this_process();
        let serves = self.options.serve && !self.options.read_only && !engine.is_read_only();
        let folder = self.folder();
        // A disk of a test has no place for a socket.
        let server = (serves && self.options.disk.system_path(&folder).is_some()).then(|| {
            let this = Weak::clone(&self.this);
            let steps: Steps = Arc::new(move || {
                // Not in the thread that serves: it is waited for.
                let this = Weak::clone(&this);
                let stepping = std::thread::Builder::new().name("memento-step".to_owned()).spawn(move || {
                    if let Some(handle) = this.upgrade() {
                        handle.step_aside();
                    }
                });
                if let Err(error) = stepping {
                    tracing::error!(%error, "the store is not let go");
                }
            });
            Server::start(engine.clone(), &folder, holder.clone(), steps)
        });
        let server = match server {
            Some(Ok(server)) => Some(Mutex::new(server)),
            Some(Err(error)) => {
                tracing::warn!(%error, "other processes are not served: they wait until this one is done");
                None
            }
            None => None,
        };
        Place::Own { engine, server, holder }
    }

    /// Lets the store go because somebody needs it alone; the next call finds it again.
    fn step_aside(&self) {
        let _moving = lock(&self.moving);
        let place = self.place();
        if !matches!(&*place, Place::Own { .. }) {
            return;
        }
        self.put(Place::Nowhere);
        if let Err(error) = left(place) {
            tracing::warn!(%error, "the store was not closed cleanly; the next owner recovers it");
        }
    }

    fn past_is_gone(&self, seq: u64) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!("the past at sequence {seq} was open in another process, which has ended"),
        )
        .hint("ask the store for it once more")
    }

    fn shut(&mut self) -> Result<()> {
        let place = std::mem::replace(
            self.place.get_mut().unwrap_or_else(PoisonError::into_inner),
            Arc::new(Place::Nowhere),
        );
        if self.pid() != std::process::id() {
            // The parent has the store. Its lock would go with ours, and its threads are not here to be waited for.
            std::mem::forget(place);
            return Ok(());
        }
        left(place)
    }
}

/// Leaves a place: what was owned is closed, when nobody is at work there any more.
fn left(mut place: Arc<Place>) -> Result<()> {
    let place = loop {
        match Arc::try_unwrap(place) {
            Ok(place) => break place,
            Err(shared) => place = shared,
        }
        std::thread::sleep(RETRY_MIN);
    };
    match place {
        Place::Own { engine, server, .. } => {
            if let Some(server) = server {
                let mut server = server.into_inner().unwrap_or_else(PoisonError::into_inner);
                if !server.has_clients() {
                    // Whoever comes meanwhile is served, and need not wait until it is done.
                    engine.tidy();
                }
                server.stop();
                engine.hurry();
            }
            engine.close()
        }
        _ => Ok(()),
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "the store was not closed cleanly; the next open recovers it");
        }
    }
}

impl Embeds for Handle {
    fn embedder_of(&self, model: Option<&ModelIdentity>) -> Result<Option<Box<dyn Embedder + '_>>> {
        self.embedders.get_or_init(|| Embedders::new(&self.options)).embedder_of(model)
    }
}

impl Host for Handle {
    fn sharing(&self) -> Sharing {
        match &*self.place() {
            Place::Own { server: Some(server), .. } => lock(server).sharing(),
            Place::Own { holder, .. } => Sharing {
                role: Role::Alone,
                pid: self.pid(),
                program: holder.program.clone().unwrap_or_default(),
                since_ms: holder.since_ms.unwrap_or_default(),
                protocol: PROTOCOL,
                ..Sharing::default()
            },
            _ => Sharing::default(),
        }
    }

    fn open_past(&self, _moment: Moment) -> Result<u64> {
        Err(Error::new(ErrorKind::Invalid, "the past is opened by the process that owns the store"))
    }

    fn step_aside(&self) -> Result<()> {
        self.step_aside();
        Ok(())
    }
}

/// An embedder that the caller gives for one call.
struct Given<'a>(&'a Arc<dyn Embedder>);

impl Embeds for Given<'_> {
    fn embedder_of(&self, _model: Option<&ModelIdentity>) -> Result<Option<Box<dyn Embedder + '_>>> {
        Ok(Some(Box::new(Arc::clone(self.0))))
    }
}

fn owned<I: AsRef<str>>(ids: impl IntoIterator<Item = I>) -> Vec<String> {
    ids.into_iter().map(|id| id.as_ref().to_owned()).collect()
}

fn read_only(home: &Path) -> Error {
    Error::new(ErrorKind::ReadOnly, "the store is open for reading only")
        .at(home)
        .hint("leave out --read-only")
}

/// The store of this process at the home that [`crate::home::locate`] finds: one for the process, opened once, as long
/// as somebody has a handle.
///
/// # Errors
/// Those of [`Store::open`].
pub fn get_store() -> Result<Store> {
    static STORES: OnceLock<Mutex<HashMap<PathBuf, Weak<Handle>>>> = OnceLock::new();
    let home = locate(&HomeInputs::of_process(None))?;
    let mut stores = lock(STORES.get_or_init(Mutex::default));
    if let Some(handle) = stores.get(&home.path).and_then(Weak::upgrade)
        && handle.pid() == std::process::id()
    {
        return Ok(Store { handle });
    }
    let store = Store::open(Options::of(&home)?)?;
    stores.insert(home.path.clone(), Arc::downgrade(&store.handle));
    Ok(store)
}
