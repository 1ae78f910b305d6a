//! `memory.db`, backups and restore: the store as SQLite files that `sqlite3` and the original Memento can read, and
//! back. Spec: `format-spec/snapshot.md`.
//!
//! A snapshot is an export, never the truth: it is written from one state of the store and read back only when somebody
//! asks for it, or has put another file in its place. Every file comes into being whole: under a temporary name, read
//! back and compared, made durable, renamed.

mod backup;
pub(crate) mod check;
mod checksum;
mod copy;
mod layout;
mod lookup;
mod publish;
mod read;
mod recognise;
mod restore;
mod retention;
mod write;

use std::path::Path;

use rusqlite::ErrorCode;

pub use backup::{Backup, BackupVerdict};
pub(crate) use lookup::{Stamped, read_as_a_whole, stamp_in};
pub use lookup::{backups_in, latest_backup_in};
pub use publish::{PublishKind, Published};
pub use restore::{RestoreFrom, RestoreOptions, Restored};

use crate::error::{Error, ErrorKind};

/// An error of SQLite, without anything that a memory says.
fn sql(path: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let kind = match code {
        Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        Some(ErrorCode::ReadOnly) => ErrorKind::ReadOnly,
        Some(ErrorCode::PermissionDenied) => ErrorKind::Permission,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => ErrorKind::Io,
        _ => ErrorKind::Invalid,
    };
    let what = match &error {
        rusqlite::Error::SqliteFailure(failure, _) => format!("SQLite: {failure}"),
        // Its text may repeat a value.
        rusqlite::Error::FromSqlConversionFailure(column, ..) => {
            format!("SQLite: column {column} cannot be read")
        }
        rusqlite::Error::InvalidColumnType(column, ..) => format!("SQLite: column {column} has another type"),
        other => format!("SQLite: {other}"),
    };
    Error::new(kind, what).at(path)
}
