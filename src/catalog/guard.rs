//! The one door to redb: what goes wrong behind it, a panic included, comes out as an [`Error`].
//!
//! redb trusts the bytes of its file where it reads them, so damage can make it panic. Every call of it runs in
//! [`Guard::run`]; after a panic or an error of the storage the view is marked damaged, further calls fail at once,
//! and the caller rebuilds it from the log. The panic's message still goes to the process's panic hook, which a
//! library has no business to replace.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::pages::PageDamage;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Damage;
use crate::format::row::TableTag;

/// What can go wrong behind the door.
#[derive(Debug)]
pub(super) enum Fault {
    /// redb refused; the view cannot be used further.
    View(redb::Error),
    /// A value is not what was written. The rest of the view can still be read.
    Row { table: TableTag, key: String, damage: Damage },
    /// The records do not follow from what the view holds.
    Order(String),
    /// The time limit was reached.
    Timeout,
}

impl Fault {
    pub(super) fn row(table: TableTag, key: impl std::fmt::Debug, damage: Damage) -> Self {
        Self::Row { table, key: format!("{key:?}"), damage }
    }
}

macro_rules! fault_from {
    ($($error:ty),*) => { $(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::View(error.into())
            }
        }
    )* };
}

fault_from!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::CursorError,
    redb::SetDurabilityError
);

/// Runs calls of redb for one view and remembers whether the view is damaged.
#[derive(Debug)]
pub(super) struct Guard {
    path: PathBuf,
    damaged: OnceLock<(ErrorKind, String)>,
}

impl Guard {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), damaged: OnceLock::new() }
    }

    /// The view's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why the view cannot be used any more, if so.
    pub(super) fn damaged(&self) -> Option<&str> {
        self.damaged.get().map(|(_, reason)| reason.as_str())
    }

    /// Runs calls of redb. It must not run code of the library's caller, whose panic is not the view's damage.
    pub(super) fn run<T>(&self, calls: impl FnOnce() -> Result<T, Fault>) -> Result<T> {
        if let Some((kind, reason)) = self.damaged.get() {
            return Err(self.view_error(*kind, reason.clone()));
        }
        match catch_unwind(AssertUnwindSafe(calls)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(fault)) => Err(self.error(fault)),
            Err(panic) => Err(self.mark(ErrorKind::Corrupt, format!("redb panicked: {}", said(&*panic)))),
        }
    }

    fn error(&self, fault: Fault) -> Error {
        match fault {
            Fault::View(redb::Error::Io(source)) => {
                let error = match source.downcast::<PageDamage>() {
                    Ok(page) => Error::corrupt(&self.path, page.offset, page),
                    // The disk's own error, if it is one: it says more.
                    Err(source) => source.downcast::<Error>().unwrap_or_else(|source| {
                        Error::io("reading or writing the view", &self.path, source)
                    }),
                };
                let _ = self.damaged.set((error.kind(), error.message().to_owned()));
                error
            }
            Fault::View(redb::Error::DatabaseAlreadyOpen) => {
                Error::new(ErrorKind::Busy, "another process has the view open").at(&self.path)
            }
            Fault::View(error) => self.mark(ErrorKind::Corrupt, error.to_string()),
            Fault::Row { table, key, damage } => {
                self.view_error(ErrorKind::Corrupt, format!("table {}, key {key}: {damage}", table.name()))
            }
            Fault::Order(what) => self.view_error(ErrorKind::Corrupt, what),
            Fault::Timeout => Error::new(ErrorKind::Timeout, "the view was not read within the time limit")
                .hint("allow more time, or narrow the filter"),
        }
    }

    fn mark(&self, kind: ErrorKind, reason: String) -> Error {
        tracing::warn!(path = %crate::error::shown(&self.path), reason, "the view is damaged");
        let error = self.view_error(kind, reason.clone());
        let _ = self.damaged.set((kind, reason));
        error
    }

    fn view_error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, message)
            .at(&self.path)
            .hint("the view is rebuilt from the log: run `memento-kv check`")
    }
}

/// Drops a value of redb, whose destructors do I/O and may panic.
pub(super) fn drop_guarded<T>(value: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::warn!("redb panicked while a handle was closed");
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
