//! A connection to a private copy of a database that may have been made to do harm, and SQLite's errors as ours.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, ffi};

use super::copy::PrivateCopy;
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite::{MAGIC, VALUE_LEN_MAX};

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
    crate::sqlite::guard(&mut connection, copy.len()).map_err(failed)?;
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
