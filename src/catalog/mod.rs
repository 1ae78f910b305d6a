//! The view: a redb database that serves every read. Spec: `format-spec/view.md`.
//!
//! It is derived from the log and can always be rebuilt from it: [`Catalog::apply`] takes the log's records in their
//! order, [`Catalog::position`] says up to where that has come. It may lag behind the log and never leads it.
//! Nothing is ever read from it whose checksum does not hold.

mod apply;
mod check;
mod database;
mod delta;
mod guard;
mod list;
mod pages;
mod scope;
mod snapshot;
mod tables;
mod tree;
mod view;
mod write;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redb::{Database, Durability};

pub(crate) use self::apply::Moved;
pub(crate) use self::check::{PieceRead, ViewCheck, ViewRead};
use self::database::Found;
use self::delta::Delta;
use self::guard::{Fault, Guard, drop_guarded};
use self::pages::Pages;
use self::snapshot::{Base, Snapshot};
pub(crate) use self::view::View;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber, Op};
use crate::format::record::Location;
pub(crate) use crate::format::row::Position;
use crate::format::row::{Head, Row};
use crate::fs::Disk;
use crate::memory::{Filter, Order};

/// A cache that suits a store of some hundred thousand memories; most of the view is served by the system's own.
pub(crate) const CACHE_BYTES_DEFAULT: usize = 64 << 20;
/// When what was applied takes about this much memory, it goes into redb's tables without waiting for a checkpoint.
const DELTA_BYTES_MAX: usize = 16 << 20;

/// Records whose places are changed at once.
const RELOCATE_RECORDS: usize = 4096;

/// One record of the log, to be applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied<'a> {
    pub(crate) seq: u64,
    pub(crate) location: Location,
    pub(crate) op: &'a Op,
}

/// What was found where the view should be.
#[derive(Debug)]
pub(crate) enum Opened {
    Ready(Catalog),
    /// Nothing is there.
    Missing,
    /// What is there cannot be used, and why. Its caller moves it away and builds a new one.
    Unusable(String),
}

/// The view of one store, open in this process and locked against others.
pub(crate) struct Catalog {
    guard: Guard,
    /// `None` only while it is closed.
    live: Option<Live>,
}

struct Live {
    /// What readers see. Before the database, since it is to be dropped first.
    snapshot: Mutex<Arc<Snapshot>>,
    /// Held while records are applied.
    applying: Mutex<()>,
    /// Held while redb writes, which goes on beside applying: whether its tables are on stable storage. Whoever
    /// wants both locks takes this one first.
    writing: Mutex<bool>,
    database: Database,
    /// What the database reads and writes, for whoever reads the file beside it.
    pages: Pages,
    /// Whether everything stays in memory until the next checkpoint, because the disk refused the last one.
    holds: AtomicBool,
}

impl Catalog {
    /// Makes an empty view. It comes into being whole: under a temporary name, synced, then renamed.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when something is at the path, and those of the operating system.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &Path,
        store_id: [u8; 16],
        cache_bytes: usize,
    ) -> Result<Self> {
        if disk.kind(path)?.is_some() {
            return Err(Error::new(ErrorKind::Refused, "a view is made only where nothing is").at(path));
        }
        let temporary = database::temporary_path(path);
        let file = database::create_file(disk, &temporary)?;
        // redb makes a database in several steps, so a crash among them must not leave the file under its name.
        let made = Guard::new(&temporary).run(|| {
            let (database, _) = database::build(file, cache_bytes)?;
            database::initialize(&database, store_id)?;
            Ok(database.close()?)
        });
        if let Err(error) = made.and_then(|()| database::publish(disk, &temporary, path)) {
            // On a full disk it would keep the little space there is.
            let _ = disk.remove(&temporary);
            return Err(error);
        }
        match Self::open(disk, path, Some(store_id), cache_bytes)? {
            Opened::Ready(catalog) => Ok(catalog),
            Opened::Missing => Err(Error::new(ErrorKind::Io, "the view that was just made is gone").at(path)),
            Opened::Unusable(reason) => Err(Error::new(ErrorKind::Corrupt, reason).at(path)),
        }
    }

    /// Opens the view of this store, or of whichever it is of.
    ///
    /// # Errors
    /// Only where a new view in the same place would not help: [`ErrorKind::Busy`] when another process has it open,
    /// [`ErrorKind::Permission`], [`ErrorKind::ReadOnly`], [`ErrorKind::NoSpace`].
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &Path,
        store_id: Option<[u8; 16]>,
        cache_bytes: usize,
    ) -> Result<Opened> {
        let file = match database::open_file(disk, path)? {
            Found::File(file) => file,
            Found::Nothing => return Ok(Opened::Missing),
            Found::Unusable(reason) => return Ok(Opened::Unusable(reason)),
        };
        Self::open_with(path, store_id, || database::build(file, cache_bytes))
    }

    fn open_with(
        path: &Path,
        store_id: Option<[u8; 16]>,
        build: impl FnOnce() -> Result<(Database, Pages), Fault>,
    ) -> Result<Opened> {
        let guard = Guard::new(path);
        let opened = guard.run(|| {
            let (database, pages) = build()?;
            let snapshot = Snapshot::read(&database)?;
            Ok((database, pages, snapshot))
        });
        match opened {
            Ok((database, pages, snapshot))
                if store_id.is_none_or(|store_id| snapshot.delta.head.store_id == store_id) =>
            {
                let live = Live {
                    snapshot: Mutex::new(Arc::new(snapshot)),
                    applying: Mutex::new(()),
                    writing: Mutex::new(true),
                    database,
                    pages,
                    holds: AtomicBool::new(false),
                };
                Ok(Opened::Ready(Self { guard, live: Some(live) }))
            }
            Ok((database, _, snapshot)) => {
                drop(snapshot);
                drop_guarded(database);
                Ok(Opened::Unusable("it belongs to another store".to_owned()))
            }
            Err(error) => match error.kind() {
                ErrorKind::Busy | ErrorKind::Permission | ErrorKind::ReadOnly | ErrorKind::NoSpace => {
                    Err(error)
                }
                _ => Ok(Opened::Unusable(error.message().to_owned())),
            },
        }
    }

    /// The view as its last checkpoint left it, in the place of this one, which writes nothing from here on. The log
    /// has what came after; that stays in memory until a checkpoint is good.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub(crate) fn reopened(&self, cache_bytes: usize) -> Result<Opened> {
        let live = self.live();
        // Whoever writes now comes to an end first.
        let _writing = locked(&live.writing);
        let pages = live.pages.successor();
        let opened =
            Self::open_with(self.path(), Some(self.store_id()), || database::build_on(pages, cache_bytes))?;
        if let Opened::Ready(catalog) = &opened {
            catalog.live().holds.store(true, Ordering::SeqCst);
        }
        Ok(opened)
    }

    /// Up to where the log has been applied, as readers see it.
    pub(crate) fn position(&self) -> Position {
        self.head().position
    }

    /// Sequence of the last record that readers see; 0 when there is none.
    pub(crate) fn applied_seq(&self) -> u64 {
        self.position().tail.last_seq
    }

    /// The file of the view.
    pub(crate) fn path(&self) -> &Path {
        self.guard.path()
    }

    /// Why the view cannot be used any more, if so: it is to be rebuilt.
    pub(crate) fn damaged(&self) -> Option<&str> {
        self.guard.damaged()
    }

    /// Whether the disk refused what was written: the view cannot be used any more, but what its last checkpoint left
    /// can. See [`Catalog::reopened`].
    pub(crate) fn write_failed(&self) -> bool {
        self.live().pages.write_failed()
    }

    /// Whether everything stays in memory until the next checkpoint.
    pub(crate) fn holds(&self) -> bool {
        self.live().holds.load(Ordering::SeqCst)
    }

    /// Applies records in the order of the log, all or none, and makes them visible. They are on stable storage
    /// after the next [`Catalog::checkpoint`]; until then the log has them. Records that the view holds are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the records do not follow from what the view holds or the view is damaged.
    pub(crate) fn apply(&self, records: &[Applied<'_>], next: Position) -> Result<()> {
        self.change(|snapshot| {
            if next.tail.last_seq < snapshot.applied_seq() || next == snapshot.delta.head.position {
                return Ok(None);
            }
            apply::apply(snapshot, records, next).map(Some)
        })
    }

    /// The records of these segments stand elsewhere now, in a rewritten one of this generation, which ends at
    /// `position`. With `drop_rest` vectors that were there and are not among them are gone; says whose. Nothing may be
    /// applied meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the view is damaged, and those of the operating system.
    pub(crate) fn relocate(
        &self,
        numbers: &RangeInclusive<u64>,
        moved: &[Moved],
        drop_rest: bool,
        position: Position,
        generation: u64,
    ) -> Result<Vec<(ModelNumber, MemoryKey)>> {
        let mut vectors = apply::MovedVectors::new();
        for chunk in moved.chunks(RELOCATE_RECORDS) {
            self.change(|snapshot| apply::relocate(snapshot, chunk, &mut vectors).map(Some))?;
        }
        let mut lost = Vec::new();
        if drop_rest {
            self.change(|snapshot| {
                let (delta, gone) = apply::drop_lost_vectors(snapshot, numbers, &vectors)?;
                lost = gone;
                Ok(Some(delta))
            })?;
        }
        self.change(|snapshot| {
            let mut delta = snapshot.delta.clone();
            let held = &mut delta.head.position;
            if numbers.contains(&held.tail.segment) {
                let last_seq = held.tail.last_seq;
                *held = position;
                if last_seq < position.tail.last_seq {
                    // Not all of it is applied yet: an epoch that no segment has makes that be read from the start.
                    *held = Position { epoch: 0, ..position };
                    held.tail.last_seq = last_seq;
                }
            }
            delta.head.generation = delta.head.generation.max(generation);
            delta.bytes += 1;
            Ok(Some(delta))
        })?;
        Ok(lost)
    }

    /// Everything that the view names is where the segments up to this generation have it.
    pub(crate) fn set_generation(&self, generation: u64) -> Result<()> {
        self.change(|snapshot| {
            let mut delta = snapshot.delta.clone();
            delta.head.generation = generation;
            delta.bytes += 1;
            Ok(Some(delta))
        })
    }

    /// Makes a changed state visible, if there is one.
    fn change(&self, change: impl FnOnce(&Snapshot) -> Result<Option<Delta>, Fault>) -> Result<()> {
        let is_full = {
            let _applying = locked(&self.live().applying);
            let snapshot = self.snapshot();
            let Some(delta) = self.guard.run(|| change(&snapshot))? else { return Ok(()) };
            let is_full = delta.bytes > DELTA_BYTES_MAX && !self.holds();
            self.publish(Snapshot { base: Arc::clone(&snapshot.base), delta });
            is_full
        };
        if is_full {
            let mut is_durable = locked(&self.live().writing);
            // Another thread may have written it meanwhile.
            if self.snapshot().delta.bytes > DELTA_BYTES_MAX {
                *is_durable = false;
                self.write(Durability::None)?;
            }
        }
        Ok(())
    }

    /// The store that it is the view of.
    pub(crate) fn store_id(&self) -> [u8; 16] {
        self.head().store_id
    }

    /// Bytes of the records that the view names.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.head().live_bytes
    }

    /// The highest generation of rewritten segments that the view knows of.
    pub(crate) fn generation(&self) -> u64 {
        self.head().generation
    }

    /// Puts everything that was applied on stable storage, in such a way that opening after a crash takes no repair.
    ///
    /// # Errors
    /// Those of the operating system; then the view cannot be used any more.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.write_durably(&mut locked(&self.live().writing))
    }

    /// Checkpoints and closes.
    ///
    /// # Errors
    /// Those of [`Catalog::checkpoint`].
    pub(crate) fn close(mut self) -> Result<()> {
        self.checkpoint()?;
        let Live { snapshot, database, .. } = self.live.take().expect("only this method and drop take it");
        drop(snapshot);
        self.guard.run(|| Ok(database.close()?))
    }

    /// Puts everything that was applied on stable storage, unless it is there already.
    fn write_durably(&self, is_durable: &mut bool) -> Result<()> {
        if *is_durable && self.snapshot().delta.is_empty() {
            return self.guard.run(|| Ok(()));
        }
        self.write(Durability::Immediate)?;
        *is_durable = true;
        self.live().holds.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Moves what was applied so far into redb's tables. Its caller holds the lock for writing.
    fn write(&self, durability: Durability) -> Result<()> {
        let live = self.live();
        let frozen = {
            let _applying = locked(&live.applying);
            let current = self.snapshot();
            self.publish(Snapshot { base: Arc::clone(&current.base), delta: current.delta.clone().frozen() })
        };
        let base = self.guard.run(|| {
            write::write(&frozen.delta, &live.database, durability)?;
            Base::read(&live.database)
        })?;
        let _applying = locked(&live.applying);
        let delta = self.snapshot().delta.clone().thawed();
        self.publish(Snapshot { base: Arc::new(base), delta });
        Ok(())
    }

    /// Shows a new state to readers. Its caller holds the lock for applying.
    fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        let former = std::mem::replace(&mut *locked(&self.live().snapshot), Arc::clone(&snapshot));
        // Outside the lock: it may be the last one that keeps a transaction open.
        drop(former);
        snapshot
    }

    /// A state of the view that stays the same while it is read.
    pub(crate) fn view(&self) -> View<'_> {
        View::new(self, self.snapshot())
    }

    /// The row of a memory.
    pub(crate) fn row(&self, key: MemoryKey) -> Result<Option<Row>> {
        self.view().row(key)
    }

    /// The row of the memory with this id.
    pub(crate) fn get(&self, id: &str) -> Result<Option<Row>> {
        self.view().get(id)
    }

    /// How many memories there are.
    pub(crate) fn count(&self) -> u64 {
        self.head().memories
    }

    /// The model whose vectors recall uses.
    pub(crate) fn active_model(&self) -> Option<ModelNumber> {
        self.head().active_model
    }

    /// Memories by time. See [`View::list`].
    pub(crate) fn list(
        &self,
        filter: &Filter,
        order: Order,
        offset: usize,
        limit: usize,
        deadline: Option<Instant>,
    ) -> Result<Vec<Row>> {
        self.view().list(filter, order, offset, limit, deadline)
    }

    fn live(&self) -> &Live {
        self.live.as_ref().expect("it is open until it is consumed")
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&locked(&self.live().snapshot))
    }

    fn head(&self) -> Head {
        locked(&self.live().snapshot).delta.head
    }
}

/// The lock, also after a panic: what it guards is replaced as a whole, never left half written.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Some(Live { snapshot, database, .. }) = self.live.take() {
            drop(snapshot);
            drop_guarded(database);
        }
    }
}

#[cfg(test)]
mod tests;
