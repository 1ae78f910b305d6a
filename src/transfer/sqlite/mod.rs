//! Reads databases: stores of the original of every generation, and what else keeps memories in SQLite.
//!
//! A database is a stranger's file. It is read as a [private copy](copy) with the changes that its write-ahead log or
//! its journal still holds, through a [connection that nothing in it can use](guard), and its rows stream out as
//! memories. Nothing of the sqlite-vec extension is needed: the vectors of its tables stand in the memories, too.

pub(crate) mod copy;
mod guard;
mod kind;
mod memories;
mod own;
mod rows;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub(crate) use copy::CopyOptions;
pub(crate) use kind::DatabaseKind;
pub(crate) use memories::{DatabaseItem, DatabaseRead};

use crate::error::{Error, ErrorKind, Result};

use self::copy::PrivateCopy;

/// A database that was copied and opened.
#[derive(Debug)]
pub(crate) struct Database {
    /// What errors call it: the user's own path.
    name: PathBuf,
    // Closed before the folder of the copy goes.
    connection: Connection,
    /// Holds the folder of the copy, which goes with it.
    _copy: PrivateCopy,
    kind: DatabaseKind,
    /// Whether the table of the memories was checked. Nobody changes the copy.
    is_checked: Cell<bool>,
}

impl Database {
    /// Copies and opens a database and finds out what it is. The user's files are only read.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownFormat`] for what is no SQLite database; [`ErrorKind::Corrupt`] for a damaged one;
    /// [`ErrorKind::Refused`] for one that holds what no program of ours or of the original makes (a link, a trigger, a
    /// view or a virtual table in the place of the memories, a journal that names other files);
    /// [`ErrorKind::TooLarge`]; [`ErrorKind::Busy`] when somebody keeps changing it; those of the system.
    pub(crate) fn open(path: &Path, options: &CopyOptions<'_>) -> Result<Self> {
        let copy = PrivateCopy::make(path, options)?;
        let connection = guard::open(&copy, path)?;
        let kind = kind::of(&connection, path)?;
        Ok(Self { name: path.to_owned(), connection, _copy: copy, kind, is_checked: Cell::new(false) })
    }

    /// What it is.
    pub(crate) fn kind(&self) -> DatabaseKind {
        self.kind
    }

    /// Rows of the table of memories.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a database without one, [`ErrorKind::Corrupt`].
    pub(crate) fn count(&self) -> Result<u64> {
        self.expect_memories()?;
        memories::count(&self.connection, &self.name)
    }

    /// Checks the table of the memories with its indexes, then gives each memory to `each`, in the order in which they
    /// were stored. It can be called again and gives the same.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a database without memories; [`ErrorKind::Corrupt`] for a damaged one, before
    /// anything is given; [`ErrorKind::TooLarge`] for a text that does not fit. They name the memory by its number and
    /// its row. An error of `each` ends the reading and is returned.
    pub(crate) fn read(&self, each: &mut dyn FnMut(DatabaseItem) -> Result<()>) -> Result<DatabaseRead> {
        self.expect_memories()?;
        let is_own = self.kind == DatabaseKind::Snapshot;
        if !self.is_checked.get() {
            guard::check_table(&self.connection, &self.name, "memories")?;
            if is_own {
                kind::expect_plain(&self.connection, &self.name, "memento_rows")?;
                guard::check_table(&self.connection, &self.name, "memento_rows")?;
            }
            self.is_checked.set(true);
        }
        memories::read(&self.connection, &self.name, is_own, each)
    }

    /// Gives the rows of a table of another program to `each`, as objects, in the order in which they were stored.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when it is no plain table, [`ErrorKind::Corrupt`]; an error of `each` ends the reading.
    pub(crate) fn rows(
        &self,
        table: &'static str,
        each: &mut dyn FnMut(serde_json::Map<String, serde_json::Value>) -> Result<()>,
    ) -> Result<()> {
        rows::read(&self.connection, &self.name, table, each)
    }

    fn expect_memories(&self) -> Result<()> {
        match self.kind {
            DatabaseKind::Original(_) | DatabaseKind::Snapshot => Ok(()),
            other => Err(Error::new(ErrorKind::Invalid, format!("this is {other}")).at(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests;
