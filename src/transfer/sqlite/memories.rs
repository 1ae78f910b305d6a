//! The rows of the table `memories`, as every generation of the original has it.
//!
//! SQLite lets every column hold every type, and the original checked little. A value of the wrong type is taken as
//! what it plainly means and noted; a row without any text holds no memory and is left out with a note.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::super::fields::{Fields, TAGS_READ_MAX};
use super::super::ids::{self, Ids};
use super::super::repair::repaired;
use super::super::{NOTES_MAX, Note, placed};
use super::guard::sqlite_error;
use super::kind;
use super::own::Own;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{MemoryId, Remember};
use crate::store::MemoryVectors;
use crate::time;

/// Numbers of one embedding of the original.
pub(super) const EMBEDDING_DIMENSIONS: usize = 384;
/// Bytes of one embedding of the original: little-endian float32.
const EMBEDDING_LEN: usize = 4 * EMBEDDING_DIMENSIONS;
/// How far the square of an embedding's length may be from 1. The original's are within 2e-7.
const EMBEDDING_NORM_ERROR_MAX: f64 = 1e-3;

/// The columns that are read, in this order. Those beyond the first three may be missing.
const COLUMNS: [&str; 9] =
    ["id", "text", "timestamp", "source", "session_id", "importance", "tags", "collection", "embedding"];

/// One memory of a database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseItem {
    /// Its number in the database, counted from 1, left out ones included.
    pub(crate) index: u64,
    /// The row it stands in.
    pub(crate) rowid: i64,
    /// The memory. It always has an id, and no vector.
    pub(crate) remember: Remember,
    /// What the original's model made of its first 256 tokens, at length 1. None where there is none that can be used.
    pub(crate) embedding: Option<Vec<f32>>,
    /// Of a snapshot of this program, all its vectors and the model that made them.
    pub(crate) vectors: Option<Box<MemoryVectors>>,
    /// What was changed to fit the limits of this store.
    pub(crate) notes: Vec<Note>,
}

/// What a database held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct DatabaseRead {
    /// Memories that were given out.
    pub(crate) memories: u64,
    /// Rows that hold no memory, or one that stood there already.
    pub(crate) left_out: u64,
    /// Memories that were changed to fit.
    pub(crate) changed: u64,
    /// Memories with an embedding that can be used.
    pub(crate) embeddings: u64,
    /// What is to be said about rows that were left out, and about the database as a whole.
    pub(crate) notes: Vec<Note>,
}

pub(super) fn count(connection: &Connection, name: &Path) -> Result<u64> {
    let count = connection.query_row("SELECT count(*) FROM main.memories NOT INDEXED", [], |row| row.get(0));
    let count: i64 = count.map_err(|error| sqlite_error(name, &error))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

pub(super) fn read(
    connection: &Connection,
    name: &Path,
    is_own: bool,
    each: &mut dyn FnMut(DatabaseItem) -> Result<()>,
) -> Result<DatabaseRead> {
    let failed = |error| sqlite_error(name, &error);
    let mut own = is_own.then(|| Own::of(connection, name)).transpose()?;
    let there = kind::columns(connection, name, "memories")?;
    let mut found = DatabaseRead::default();
    for column in there.iter().filter(|column| !COLUMNS.contains(&column.as_str())) {
        let what = format!("column {:?} is not known and was left out", short(column));
        found.notes.push(Note { index: 0, what });
    }
    let columns = COLUMNS.map(|column| match there.iter().any(|name| name == column) {
        true => format!("\"{column}\""),
        false => "NULL".to_owned(),
    });
    // A table may have a column of one of these names; SQLite then means that one by it.
    let rowid =
        ["rowid", "_rowid_", "oid"].into_iter().find(|name| !there.iter().any(|column| column == name));
    let Some(rowid) = rowid else {
        return Err(
            Error::new(ErrorKind::Refused, "its table of memories hides the numbers of its rows").at(name)
        );
    };
    let select =
        format!("SELECT {rowid}, {} FROM main.memories NOT INDEXED ORDER BY {rowid}", columns.join(", "));
    let mut statement = connection.prepare(&select).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut ids = Ids::default();
    let mut index = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        index += 1;
        let rowid: i64 = row.get(0).map_err(failed)?;
        let item = item(row, index, rowid, own.as_mut())
            .map_err(|problem| match problem {
                Problem::Row(error) => placed(error, &format!("memory {index}, row {rowid}")).at(name),
                Problem::Sqlite(error) => failed(error),
            })?
            .and_then(|item| first_of_its_id(item, &mut ids));
        match item {
            Ok(item) => {
                found.memories += 1;
                found.changed += u64::from(!item.notes.is_empty());
                found.embeddings += u64::from(item.embedding.is_some() || item.vectors.is_some());
                each(item)?;
            }
            Err(why) => {
                found.left_out += 1;
                if found.notes.len() < NOTES_MAX {
                    found.notes.push(Note { index, what: format!("row {rowid} was left out: {why}") });
                }
            }
        }
    }
    Ok(found)
}

enum Problem {
    Row(Error),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Two rows of one id are two memories to nobody who asks by id: the second gets an id of its own.
fn first_of_its_id(mut item: DatabaseItem, ids: &mut Ids) -> Result<DatabaseItem, String> {
    let id = item.remember.id.as_ref().expect("memories of a database have ids");
    let Some(other) = ids.insert(id, item.index) else { return Ok(item) };
    let fresh = ids::made(&item.remember);
    if let Some(same) = ids.insert(&fresh, item.index) {
        return Err(format!("it says the same as memory {same} under the same id"));
    }
    let what = format!("it has the same id as memory {other} and gets another, {fresh}");
    item.notes.push(Note { index: item.index, what });
    item.remember.id = Some(fresh);
    Ok(item)
}

/// The memory of a row; the inner error says why there is none.
fn item(
    row: &Row<'_>,
    index: u64,
    rowid: i64,
    own: Option<&mut Own<'_>>,
) -> Result<Result<DatabaseItem, String>, Problem> {
    let mut notes = Vec::new();
    let mut note = |what| notes.push(Note { index, what });
    let column = |column: &str| {
        let at = COLUMNS.iter().position(|name| *name == column).expect("a column of the list");
        row.get_ref(at + 1)
    };
    let text = text("text", column("text")?, &mut note);
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Ok(Err("it has no text".to_owned()));
    };
    let id = self::text("id", column("id")?, &mut note).filter(|id| MemoryId::check(id).is_ok());
    let tags = self::text("tags", column("tags")?, &mut note);
    let mut fields = Fields {
        id: id.clone(),
        text: Some(text),
        timestamp: seconds(column("timestamp")?, &mut note),
        source: self::text("source", column("source")?, &mut note),
        session_id: self::text("session_id", column("session_id")?, &mut note),
        importance: importance(column("importance")?, &mut note),
        tags: tags.as_deref().map(|tags| split(tags, &mut note)),
        collection: self::text("collection", column("collection")?, &mut note),
        ..Fields::default()
    };
    let (mut embedding_of_original, mut vectors) = (None, None);
    match own {
        // Its model need not be the original's, though it may have as many dimensions.
        Some(own) => {
            let first = match column("embedding")? {
                ValueRef::Blob(bytes) => Some(bytes),
                _ => None,
            };
            let id = id.as_deref().unwrap_or_default();
            vectors = own.complete(id, &mut fields, tags.as_deref(), first, &mut note)?;
        }
        None => match embedding(column("embedding")?) {
            Ok(embedding) => embedding_of_original = embedding,
            Err(why) => note(format!("its embedding {why} and is made anew")),
        },
    }
    let mut remember = repaired(fields, &mut note).map_err(Problem::Row)?;
    if id.is_none() {
        let made = ids::made(&remember);
        note(format!("it has no usable id and gets {made}"));
        remember.id = Some(made);
    }
    Ok(Ok(DatabaseItem { index, rowid, remember, embedding: embedding_of_original, vectors, notes }))
}

/// What a value says as a text. Bytes that are no UTF-8 become U+FFFD, which is noted: the original could not even read
/// such a row.
fn text(name: &str, value: ValueRef<'_>, note: &mut dyn FnMut(String)) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => {
            note(format!("{name} is a number and became its digits"));
            Some(number.to_string())
        }
        ValueRef::Real(number) => {
            note(format!("{name} is a number and became its digits"));
            Some(number.to_string())
        }
        ValueRef::Text(bytes) => Some(utf8(name, bytes, note)),
        ValueRef::Blob(bytes) => {
            note(format!("{name} is stored as bytes and became the text that they spell"));
            Some(utf8(name, bytes, note))
        }
    }
}

fn utf8(name: &str, bytes: &[u8], note: &mut dyn FnMut(String)) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => {
            let at = error.valid_up_to();
            note(format!("{name} is not UTF-8 from byte {at} on, what cannot be read became U+FFFD"));
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}

/// Unix seconds; None, with the reason noted, for what is no time.
fn seconds(value: ValueRef<'_>, note: &mut dyn FnMut(String)) -> Option<i64> {
    /// As far as floats hold integers exactly.
    const EXACT_MAX: f64 = (1_i64 << 53) as f64;
    let (seconds, is_plain) = match value {
        ValueRef::Integer(seconds) => (Some(seconds), true),
        ValueRef::Real(seconds) if seconds.abs() <= EXACT_MAX => (Some(seconds.floor() as i64), false),
        ValueRef::Text(bytes) => {
            let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
            (text.parse().ok().or_else(|| time::parse_absolute(text).ok()), false)
        }
        ValueRef::Null => return None,
        ValueRef::Real(_) | ValueRef::Blob(_) => (None, false),
    };
    let seconds = seconds.filter(|seconds| time::checked(*seconds).is_ok());
    match (seconds, is_plain) {
        (Some(seconds), false) => note(format!("its time is no whole number and became {seconds}")),
        (None, _) => note("its time cannot be understood".to_owned()),
        _ => {}
    }
    seconds
}

/// The importance as it stands there, in range or not.
fn importance(value: ValueRef<'_>, note: &mut dyn FnMut(String)) -> Option<f64> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number as f64),
        ValueRef::Real(number) => Some(number),
        ValueRef::Text(bytes) => {
            let number = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
            note(match number {
                Some(_) => "importance is a text and became its number".to_owned(),
                None => "importance is no number and became its default".to_owned(),
            });
            number
        }
        ValueRef::Blob(_) => {
            note("importance is no number and became its default".to_owned());
            None
        }
    }
}

/// Tags as the original joins them: by commas, with nothing for none.
fn split(tags: &str, note: &mut dyn FnMut(String)) -> Vec<String> {
    if tags.is_empty() {
        return Vec::new();
    }
    if tags.split(',').nth(TAGS_READ_MAX).is_some() {
        note(format!("only the first {TAGS_READ_MAX} of its tags were read"));
    }
    tags.split(',').take(TAGS_READ_MAX).map(str::to_owned).collect()
}

/// The embedding of a row, or why it cannot be used.
fn embedding(value: ValueRef<'_>) -> Result<Option<Vec<f32>>, String> {
    let bytes = match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Blob(bytes) => bytes,
        _ => return Err("is not stored as bytes".to_owned()),
    };
    if bytes.len() != EMBEDDING_LEN {
        return Err(format!("has {} bytes instead of {EMBEDDING_LEN}", bytes.len()));
    }
    let vector: Vec<f32> = bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let square: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    // A value that is not finite makes this one of no use either.
    if (square - 1.0).abs() <= EMBEDDING_NORM_ERROR_MAX {
        Ok(Some(vector))
    } else {
        Err("has not the length 1".to_owned())
    }
}

/// A name for a message, fit for a terminal.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
