//! A connection to a database that may have been made to do harm.
//!
//! Only a [`PrivateCopy`] is opened. Nothing that its schema names can run: no views, no triggers, no functions with
//! side effects, no attached files. Lengths are limited, and so is the number of steps that reading may take.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, ffi};

use super::copy::PrivateCopy;
use crate::error::{Error, ErrorKind, Result};

/// What every SQLite database begins with.
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Longest value of one row, in bytes.
const VALUE_LEN_MAX: i32 = 64 << 20;
/// Longest statement, which the schema's own are, too, in bytes.
const STATEMENT_LEN_MAX: i32 = 1 << 20;
/// Steps of SQLite's machine between two looks at the budget.
const STEPS: i32 = 100_000;
/// Steps that reading any database may take, and those that each of its bytes may add. A row that is read and checked
/// takes some hundred steps and is never shorter than some ten bytes.
const STEPS_BASE: u64 = 100_000_000;
const STEPS_PER_BYTE: u64 = 64;

/// Opens the copy, merges what its side files hold, and lets nothing change it any more.
///
/// # Errors
/// [`ErrorKind::UnknownFormat`] for what is no SQLite database, else those of [`sqlite_error`].
pub(super) fn open(copy: &PrivateCopy, name: &Path) -> Result<Connection> {
    check_magic(copy, name)?;
    let failed = |error| sqlite_error(name, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let mut connection = Connection::open_with_flags(copy.path(), flags).map_err(failed)?;
    let mut steps_left = STEPS_BASE.saturating_add(copy.len().saturating_mul(STEPS_PER_BYTE));
    connection
        .progress_handler(
            STEPS,
            Some(move || {
                steps_left = steps_left.saturating_sub(STEPS as u64);
                steps_left == 0
            }),
        )
        .map_err(failed)?;
    for (setting, is_on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
    ] {
        connection.set_db_config(setting, is_on).map_err(failed)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, VALUE_LEN_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_LEN_MAX),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
    ] {
        connection.set_limit(limit, value).map_err(failed)?;
    }
    connection
        .execute_batch(
            "PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
             PRAGMA query_only = ON;",
        )
        .map_err(failed)?;
    Ok(connection)
}

/// The rows of this table and of its indexes as SQLite checks them.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with what SQLite found first, and those of [`sqlite_error`].
pub(super) fn check_table(connection: &Connection, name: &Path, table: &'static str) -> Result<()> {
    let failed = |error| sqlite_error(name, &error);
    let mut statement =
        connection.prepare(&format!("PRAGMA main.integrity_check({table})")).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let finding = row.get_ref(0).and_then(|value| Ok(String::from_utf8_lossy(value.as_bytes()?)));
        match finding.as_deref() {
            Ok("ok") => return Ok(()),
            Ok(finding) => found.push(finding.escape_debug().to_string()),
            Err(_) => found.push("an answer that is no text".to_owned()),
        }
    }
    let first = found.first().map_or("no answer", String::as_str);
    let first: String = first.chars().take(200).collect();
    Err(Error::new(ErrorKind::Corrupt, format!("the database is damaged, SQLite says: {first}"))
        .at(name)
        .hint("nothing was taken from it; a backup of it may be whole"))
}

/// SQLite's error as one of ours. SQLite's own sentence is left out, because it can quote the schema.
pub(super) fn sqlite_error(name: &Path, error: &rusqlite::Error) -> Error {
    let Some(code) = error.sqlite_error().map(|error| error.extended_code) else {
        return Error::new(ErrorKind::Corrupt, "a row of the database cannot be read").at(name);
    };
    let said = ffi::code_to_str(code);
    let (kind, what) = match code & 0xff {
        ffi::SQLITE_NOTADB => (ErrorKind::UnknownFormat, format!("SQLite says: {said}")),
        ffi::SQLITE_INTERRUPT => {
            (ErrorKind::Refused, "reading the database takes more steps than its size explains".to_owned())
        }
        ffi::SQLITE_TOOBIG => (ErrorKind::TooLarge, format!("a value has more than {VALUE_LEN_MAX} bytes")),
        ffi::SQLITE_FULL => (ErrorKind::NoSpace, format!("SQLite says: {said}")),
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => (ErrorKind::Busy, format!("SQLite says: {said}")),
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN => (ErrorKind::Io, format!("SQLite says: {said}")),
        _ => (ErrorKind::Corrupt, format!("the database is damaged, SQLite says: {said}")),
    };
    Error::new(kind, what).at(name)
}

/// A database may have no byte of its own as long as everything is in its write-ahead log.
fn check_magic(copy: &PrivateCopy, name: &Path) -> Result<()> {
    let path = copy.path();
    let mut start = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start))
        .map_err(|error| Error::io("read", &path, error))?;
    if start == MAGIC || (start.is_empty() && copy.len() > 0) {
        return Ok(());
    }
    let what = if start.is_empty() { "the file is empty" } else { "this is no SQLite database" };
    Err(Error::new(ErrorKind::UnknownFormat, what).at(name))
}
