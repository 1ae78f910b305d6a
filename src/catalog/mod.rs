//! The view: a redb database that serves every read. Spec: `format-spec/view.md`.
//!
//! It is derived from the log and can always be rebuilt from it: [`Catalog::apply`] takes the log's records in their
//! order, [`Catalog::position`] says up to where that has come. It may lag behind the log and never leads it.
//! Nothing is ever read from it whose checksum does not hold.

mod apply;
mod database;
mod guard;
mod list;
mod scope;
mod tables;
mod view;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redb::{Database, Durability, ReadableDatabase};

use self::database::Found;
use self::guard::{Fault, Guard, drop_guarded};
use self::tables::STATE;
pub(crate) use self::view::View;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber, Op};
use crate::format::record::Location;
use crate::format::row::{HEAD_KEY, Head, Row, TableTag};
use crate::memory::{Filter, Order};

/// A cache that suits a store of some hundred thousand memories; most of the view is served by the system's own.
pub(crate) const CACHE_BYTES_DEFAULT: usize = 64 << 20;

/// One record of the log, to be applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied<'a> {
    pub(crate) seq: u64,
    pub(crate) location: Location,
    pub(crate) op: &'a Op,
}

/// Up to where the log has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Sequence of the last record that the view holds; 0 when it holds none.
    pub(crate) applied_seq: u64,
    /// Segment in which the record after it begins.
    pub(crate) segment: u64,
    /// Offset in that segment at which the record after it begins.
    pub(crate) offset: u64,
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
#[derive(Debug)]
pub(crate) struct Catalog {
    guard: Guard,
    /// `None` only while it is closed.
    database: Option<Database>,
    /// Held while a transaction is written.
    writer: Mutex<()>,
    /// The head as the last transaction wrote it.
    head: Mutex<Head>,
}

impl Catalog {
    /// Makes an empty view. It comes into being whole: under a temporary name, synced, then renamed.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when something is at the path, and those of the operating system.
    pub(crate) fn create(path: &Path, store_id: [u8; 16], cache_bytes: usize) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Refused, "a view is made only where nothing is").at(path));
        }
        let temporary = database::temporary_path(path);
        let file = database::create_file(&temporary)?;
        // redb makes a database in several steps, so a crash among them must not leave the file under its name.
        Guard::new(&temporary).run(|| {
            let database = database::build(file, cache_bytes)?;
            database::initialize(&database, store_id)?;
            Ok(database.close()?)
        })?;
        database::publish(&temporary, path)?;
        match Self::open(path, store_id, cache_bytes)? {
            Opened::Ready(catalog) => Ok(catalog),
            Opened::Missing => Err(Error::new(ErrorKind::Io, "the view that was just made is gone").at(path)),
            Opened::Unusable(reason) => Err(Error::new(ErrorKind::Corrupt, reason).at(path)),
        }
    }

    /// Opens the view of this store.
    ///
    /// # Errors
    /// Only where a new view in the same place would not help: [`ErrorKind::Busy`] when another process has it open,
    /// [`ErrorKind::Permission`], [`ErrorKind::ReadOnly`], [`ErrorKind::NoSpace`].
    pub(crate) fn open(path: &Path, store_id: [u8; 16], cache_bytes: usize) -> Result<Opened> {
        let file = match database::open_file(path)? {
            Found::File(file) => file,
            Found::Nothing => return Ok(Opened::Missing),
            Found::Unusable(reason) => return Ok(Opened::Unusable(reason)),
        };
        let guard = Guard::new(path);
        let opened = guard.run(|| {
            let database = database::build(file, cache_bytes)?;
            let head = read_head(&database)?;
            Ok((database, head))
        });
        match opened {
            Ok((database, head)) if head.store_id == store_id => {
                let (writer, head) = (Mutex::new(()), Mutex::new(head));
                Ok(Opened::Ready(Self { guard, database: Some(database), writer, head }))
            }
            Ok((database, _)) => {
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

    /// Up to where the log has been applied, as readers see it.
    pub(crate) fn position(&self) -> Position {
        let Head { applied_seq, segment, offset, .. } = self.head();
        Position { applied_seq, segment, offset }
    }

    /// The file of the view.
    pub(crate) fn path(&self) -> &Path {
        self.guard.path()
    }

    /// Why the view cannot be used any more, if so: it is to be rebuilt.
    pub(crate) fn damaged(&self) -> Option<&str> {
        self.guard.damaged()
    }

    /// Applies records in the order of the log, all or none, and makes them visible. They are on stable storage
    /// after the next [`Catalog::checkpoint`]; until then the log has them. Records that the view holds are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the records do not follow from what the view holds or the view is damaged.
    pub(crate) fn apply(&self, records: &[Applied<'_>], next: Position) -> Result<()> {
        let _writer = locked(&self.writer);
        let head = self.head();
        if next.applied_seq < head.applied_seq || next == self.position() {
            return Ok(());
        }
        let head = self.guard.run(|| {
            let mut txn = self.database().begin_write()?;
            txn.set_durability(Durability::None)?;
            let head = apply::apply(&txn, head, records, next)?;
            txn.commit()?;
            Ok(head)
        })?;
        *locked(&self.head) = head;
        Ok(())
    }

    /// Puts everything that was applied on stable storage, so that opening after a crash takes no repair.
    ///
    /// # Errors
    /// Those of the operating system; the view then counts as damaged.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let _writer = locked(&self.writer);
        self.guard.run(|| {
            let mut txn = self.database().begin_write()?;
            txn.set_durability(Durability::Immediate)?;
            txn.set_quick_repair(true);
            Ok(txn.commit()?)
        })
    }

    /// Checkpoints and closes.
    ///
    /// # Errors
    /// Those of [`Catalog::checkpoint`].
    pub(crate) fn close(mut self) -> Result<()> {
        self.checkpoint()?;
        let database = self.database.take().expect("only this method and drop take it");
        self.guard.run(|| Ok(database.close()?))
    }

    /// A state of the view that stays the same while it is read.
    pub(crate) fn view(&self) -> Result<View<'_>> {
        View::begin(self)
    }

    /// The key of the memory with this id.
    pub(crate) fn key_of(&self, id: &str) -> Result<Option<MemoryKey>> {
        self.view()?.key_of(id)
    }

    /// The row of a memory.
    pub(crate) fn row(&self, key: MemoryKey) -> Result<Option<Row>> {
        self.view()?.row(key)
    }

    /// The row of the memory with this id.
    pub(crate) fn get(&self, id: &str) -> Result<Option<Row>> {
        self.view()?.get(id)
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
        self.view()?.list(filter, order, offset, limit, deadline)
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("it is open until it is consumed")
    }

    fn head(&self) -> Head {
        *locked(&self.head)
    }
}

/// The lock, also after a panic: what it guards is replaced as a whole, never left half written.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Catalog {
    fn drop(&mut self) {
        drop_guarded(self.database.take());
    }
}

/// The head of a database that was just opened.
fn read_head(database: &Database) -> Result<Head, Fault> {
    let state = database.begin_read()?.open_table(STATE)?;
    let value = state
        .get(HEAD_KEY)?
        .ok_or_else(|| Fault::View(redb::Error::Corrupted("the head is missing".to_owned())))?;
    Head::decode(value.value()).map_err(|damage| Fault::row(TableTag::State, "head", damage))
}

#[cfg(test)]
mod tests;
