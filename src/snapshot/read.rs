//! Reading a `memory.db` back: snapshots of ours, and every file that has the original's table. Nothing in it is
//! trusted: neither the schema nor a value.

use std::io::Read;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use serde_json::{Map, Value};

use super::layout::{
    CHANGE_COUNTERS, CHECK_WORDS, ORIGINAL_DIMENSIONS, Said, Stamp, row_crc, share_of, tags_of,
};
use super::publish::siblings;
use super::sql;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Access, Disk, DiskFile, Kind};
use crate::memory::{
    DEFAULT_COLLECTION, DEFAULT_IMPORTANCE, DEFAULT_SESSION, DEFAULT_SOURCE, DIMENSIONS_MAX, Memory,
    MemoryId, ModelIdentity, check_label, check_metadata, check_text, clean_tags,
};
use crate::sqlite;

/// A row of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) memory: Memory,
    /// Its sequence in the store that wrote the file; `None` for a row that no store of ours wrote.
    pub(crate) seq: Option<u64>,
    /// Whether it stands there as it was written: its checksum holds.
    pub(crate) is_pristine: bool,
    /// Vectors of the file's model.
    pub(crate) vectors: Option<Vec<f32>>,
}

/// What a file holds as a whole.
#[derive(Debug)]
pub(crate) struct File {
    connection: Connection,
    path: std::path::PathBuf,
    /// What a snapshot of ours says of itself.
    pub(crate) stamp: Option<Stamp>,
    /// SQLite's change counter in its header.
    changes: u32,
}

/// What came of reading all rows.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) rows: u64,
    /// Checksum of those that can be read, as they are.
    content_crc: u64,
    /// What could not be taken as it is, or not at all, one line each.
    pub(crate) problems: Vec<String>,
}

/// Opens a file whose name nobody else has, for reading.
///
/// # Errors
/// [`ErrorKind::Invalid`] when it is no SQLite file or has no table of memories, and what the disk says.
pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<File> {
    let connection = match disk.system_path(path) {
        Some(real) => {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            Connection::open_with_flags(real, flags).map_err(|error| sql(path, error))?
        }
        None => {
            let mut connection = Connection::open_in_memory().map_err(|error| sql(path, error))?;
            let file = disk.open(path, Access::Read)?;
            let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
            let reader = FileReader { file: &*file, offset: 0 };
            connection.deserialize_read_exact("main", reader, len, true).map_err(|error| sql(path, error))?;
            connection
        }
    };
    opened(connection, path, len_of(disk, path)?, changes_of(disk, path)?)
}

/// The same for a file with a journal beside it, which is played back first: only for a private copy.
pub(crate) fn open_with_journal(disk: &dyn Disk, path: &Path) -> Result<File> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| sql(path, error))?;
    // Whatever is read is read with the journal played back.
    let [log, ..] = siblings(path);
    let len = len_of(disk, path)?.saturating_add(len_of(disk, &log)?);
    let file = opened(connection, path, len, 0)?;
    Ok(File { changes: changes_of(disk, path)?, ..file })
}

fn len_of(disk: &dyn Disk, path: &Path) -> Result<u64> {
    Ok(match disk.kind(path)? {
        Some(Kind::File(len)) => len,
        _ => 0,
    })
}

/// SQLite's change counter in the header of a file.
fn changes_of(disk: &dyn Disk, path: &Path) -> Result<u32> {
    let mut bytes = [0; 4];
    disk.open(path, Access::Read)?.read_at(&mut bytes, CHANGE_COUNTERS[0] as u64)?;
    Ok(u32::from_be_bytes(bytes))
}

fn opened(mut connection: Connection, path: &Path, len: u64, changes: u32) -> Result<File> {
    sqlite::guard(&mut connection, len).map_err(|error| sql(path, error))?;
    if !is_plain_table(&connection, "memories").map_err(|error| sql(path, error))? {
        return Err(Error::new(ErrorKind::Invalid, "it has no table of memories").at(path));
    }
    let has_own = is_plain_table(&connection, "memento_snapshot")
        .and_then(|has| Ok(has && is_plain_table(&connection, "memento_rows")?));
    let stamp = if has_own.map_err(|error| sql(path, error))? {
        stamp(&connection).map_err(|error| sql(path, error))?
    } else {
        None
    };
    Ok(File { connection, path: path.to_owned(), stamp, changes })
}

/// Whether there is a plain table of this name.
fn is_plain_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let found: Option<(String, Option<String>)> = connection
        .query_row("SELECT type, sql FROM sqlite_schema WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(found.is_some_and(|(kind, text)| sqlite::is_plain_table(&kind, &text.unwrap_or_default())))
}

/// What a snapshot says of itself; `None` when it says nothing that can be understood.
pub(super) fn stamp(connection: &Connection) -> rusqlite::Result<Option<Stamp>> {
    let text = "SELECT snapshot_id, store_id, seq, rows, content_crc, created_ms, model_identity, changes \
        FROM memento_snapshot WHERE format = 1";
    let read = |row: &Row<'_>| {
        let identity: Option<String> = row.get(6)?;
        let unsigned = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
        Ok(Stamp {
            snapshot_id: row.get(0)?,
            store_id: row.get(1)?,
            seq: unsigned(2)?,
            rows: unsigned(3)?,
            content_crc: unsigned(4)?,
            created_ms: row.get(5)?,
            changes: row.get(7)?,
            model: identity.and_then(|identity| serde_json::from_str::<ModelIdentity>(&identity).ok()),
        })
    };
    match connection.query_row(text, [], read).optional() {
        Err(rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)) => {
            Ok(None)
        }
        found => found,
    }
}

/// Reads a snapshot of ours as a whole: what it says of itself, if that is what its rows are.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is not, and as [`open`].
pub(crate) fn verify(disk: &dyn Disk, path: &Path) -> Result<Stamp> {
    let file = open(disk, path)?;
    file.verify().map_err(|error| match error.kind() {
        ErrorKind::Conflict => Error::corrupt(path, 0, error.message().to_owned()),
        _ => error,
    })
}

/// As [`verify`], and with [what is derived from the rows](File::check_derived).
///
/// # Errors
/// As [`verify`].
pub(crate) fn verify_all(disk: &dyn Disk, path: &Path) -> Result<Stamp> {
    let stamp = verify(disk, path)?;
    open(disk, path)?.check_derived(disk)?;
    Ok(stamp)
}

/// Holds the index of words against the texts. SQLite takes the question for a write, although nothing is written: where
/// nothing can be, it is not asked.
fn check_words(path: &Path, len: u64) -> Result<()> {
    let failed = |error| sql(path, error);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    sqlite::guard(&mut connection, len).map_err(failed)?;
    connection.execute_batch("PRAGMA query_only = OFF;").map_err(failed)?;
    // It is rolled back, as it is never committed.
    let transaction = connection.transaction().map_err(failed)?;
    match transaction.execute(CHECK_WORDS, []).map_err(failed) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Err(Error::corrupt(path, 0, "its index of words does not say what its texts do"))
        }
        Err(error) if error.kind() != ErrorKind::ReadOnly => Err(error),
        _ => Ok(()),
    }
}

impl File {
    /// As [`verify`], but rows that are not what they should be are an error of kind [`ErrorKind::Conflict`].
    pub(crate) fn verify(&self) -> Result<Stamp> {
        let Some(stamp) = &self.stamp else {
            return Err(Error::new(ErrorKind::Invalid, "it is no snapshot of this program").at(&self.path));
        };
        let mut summary = Summary::default();
        self.for_each_row(|row| {
            summary.add(Columns::of(row).as_ref().ok());
            Ok(())
        })?;
        self.expect_whole(stamp, &summary)?;
        Ok(stamp.clone())
    }

    /// SQLite's own look at every page and index, and at the words: are they those of the texts?
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when something is wrong.
    pub(crate) fn check_derived(&self, disk: &dyn Disk) -> Result<()> {
        let failed = |error| sql(&self.path, error);
        let said: String =
            self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if said != "ok" {
            // What SQLite says may name a value.
            return Err(Error::corrupt(&self.path, 0, "SQLite finds it damaged"));
        }
        match disk.system_path(&self.path) {
            Some(real) => check_words(real, len_of(disk, &self.path)?),
            None => Ok(()),
        }
    }

    /// Whether all rows that were read are those that the file says it has, where nobody has written to it since.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when they are not: then chance has changed them.
    pub(crate) fn expect_sound(&self, summary: &Summary) -> Result<()> {
        match &self.stamp {
            Some(stamp) if self.is_unwritten() => self
                .expect_whole(stamp, summary)
                .map_err(|error| Error::new(ErrorKind::Corrupt, error.message().to_owned()).at(&self.path)),
            _ => Ok(()),
        }
    }

    fn expect_whole(&self, stamp: &Stamp, summary: &Summary) -> Result<()> {
        let Summary { rows, content_crc, .. } = summary;
        if (*rows, *content_crc) == (stamp.rows, stamp.content_crc) {
            return Ok(());
        }
        let what = format!(
            "{rows} rows with the checksum {content_crc:016x}, expected {} with {:016x}",
            stamp.rows, stamp.content_crc
        );
        Err(Error::new(ErrorKind::Conflict, what).at(&self.path))
    }

    /// Calls with every row that can be taken, in the order in which they were stored.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when SQLite finds the file damaged, and what `visit` says.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Found) -> Result<()>) -> Result<Summary> {
        let dimensions = match &self.stamp {
            Some(stamp) => stamp.model.as_ref().map_or(0, |model| model.dimensions as usize),
            None => ORIGINAL_DIMENSIONS,
        };
        let mut summary = Summary::default();
        self.for_each_row(|row| {
            let columns = Columns::of(row);
            summary.add(columns.as_ref().ok());
            match columns.and_then(|columns| columns.found(dimensions)) {
                Ok((found, problem)) => {
                    if let Some(problem) = problem {
                        summary.problems.push(format!("row {}: {problem}", summary.rows));
                    }
                    visit(found)
                }
                Err(problem) => {
                    summary.problems.push(format!("row {} is left out: {problem}", summary.rows));
                    Ok(())
                }
            }
        })?;
        Ok(summary)
    }

    fn for_each_row(&self, mut visit: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let failed = |error| sql(&self.path, error);
        let columns = "m.id, m.text, m.timestamp, m.source, m.session_id, m.importance, m.tags, m.collection, m.embedding";
        let text = if self.stamp.is_some() {
            format!(
                "SELECT {columns}, r.seq, r.crc, r.tags, r.speaker, r.role, r.position, r.metadata, r.vectors \
                 FROM memories m LEFT JOIN memento_rows r ON r.id = m.id ORDER BY m.rowid"
            )
        } else {
            format!(
                "SELECT {columns}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM memories m ORDER BY m.rowid"
            )
        };
        let mut statement = self.connection.prepare(&text).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            visit(row)?;
        }
        Ok(())
    }

    /// Whether nobody has written to a snapshot of ours since it was made, as SQLite counts.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.stamp.as_ref().is_some_and(|stamp| stamp.changes == self.changes)
    }

    /// Ids of memories that a snapshot of ours had and somebody took away by hand.
    pub(crate) fn taken_away(&self) -> Result<Vec<String>> {
        let failed = |error| sql(&self.path, error);
        if self.stamp.is_none() {
            return Ok(Vec::new());
        }
        let text =
            "SELECT r.id FROM memento_rows r WHERE NOT EXISTS (SELECT 1 FROM memories m WHERE m.id = r.id)";
        let mut statement = self.connection.prepare(text).map_err(failed)?;
        let ids = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
        ids.collect::<rusqlite::Result<_>>().map_err(failed)
    }
}

impl Summary {
    fn add(&mut self, columns: Option<&Columns<'_>>) {
        self.rows += 1;
        if let Some(columns) = columns {
            self.content_crc = self.content_crc.wrapping_add(share_of(columns.crc));
        }
    }
}

/// The columns of a row, read as what they should be.
struct Columns<'r> {
    id: &'r str,
    text: &'r str,
    timestamp: i64,
    source: Option<&'r str>,
    session_id: Option<&'r str>,
    importance: f64,
    tags: Vec<String>,
    collection: Option<&'r str>,
    speaker: Option<&'r str>,
    role: Option<&'r str>,
    position: Option<i64>,
    metadata: Option<&'r str>,
    vectors: Option<&'r [u8]>,
    seq: Option<i64>,
    /// The checksum that stands there, ...
    stored_crc: Option<i64>,
    /// ... and that of what stands there.
    crc: u32,
}

impl<'r> Columns<'r> {
    /// The columns, or why there is no memory in them.
    fn of(row: &'r Row<'_>) -> Result<Self, String> {
        let value = |index: usize| row.get_ref(index).map_err(|error| error.to_string());
        let text = |index: usize| match value(index)? {
            ValueRef::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| format!("column {index} is not UTF-8"))?;
                Ok(Some(text))
            }
            ValueRef::Null => Ok(None),
            other => Err(format!("column {index} is {}, expected a text", other.data_type())),
        };
        let integer = |index: usize| match value(index)? {
            ValueRef::Integer(number) => Ok(Some(number)),
            ValueRef::Real(number) if number.fract() == 0.0 && number.abs() < 1e15 => Ok(Some(number as i64)),
            ValueRef::Null => Ok(None),
            other => Err(format!("column {index} is {}, expected a whole number", other.data_type())),
        };
        let blob = |index: usize| match value(index)? {
            ValueRef::Blob(bytes) => Ok(Some(bytes)),
            ValueRef::Null => Ok(None),
            other => Err(format!("column {index} is {}, expected bytes", other.data_type())),
        };
        let embedding = blob(8)?;
        let mut columns = Self {
            id: text(0)?.ok_or("it has no id")?,
            text: text(1)?.ok_or("it has no text")?,
            timestamp: integer(2)?.ok_or("it has no time")?,
            source: text(3)?,
            session_id: text(4)?,
            importance: match value(5)? {
                ValueRef::Real(number) => number,
                ValueRef::Integer(number) => number as f64,
                _ => DEFAULT_IMPORTANCE,
            },
            tags: tags_of(text(6)?.unwrap_or_default(), text(11)?),
            collection: text(7)?,
            seq: integer(9)?,
            stored_crc: integer(10)?,
            crc: 0,
            speaker: text(12)?,
            role: text(13)?,
            position: integer(14)?,
            metadata: text(15)?,
            // Where the two do not begin alike, somebody changed the original's column by hand, and it counts.
            vectors: blob(16)?
                .filter(|all| embedding.is_none_or(|first| all.starts_with(first)))
                .or(embedding),
        };
        columns.crc = columns.checksum();
        Ok(columns)
    }

    fn checksum(&self) -> u32 {
        let said = Said {
            id: self.id,
            text: self.text,
            timestamp: self.timestamp,
            source: self.source.unwrap_or(DEFAULT_SOURCE),
            session_id: self.session_id.unwrap_or(DEFAULT_SESSION),
            importance: self.importance,
            tags: &self.tags,
            collection: self.collection.unwrap_or(DEFAULT_COLLECTION),
            speaker: self.speaker,
            role: self.role,
            position: self.position,
        };
        row_crc(said, self.metadata, self.vectors)
    }

    /// The memory with what had to be changed in it; or why it cannot be taken.
    fn found(self, dimensions: usize) -> Result<(Found, Option<String>), String> {
        let id = MemoryId::new(self.id).map_err(|error| error.message().to_owned())?;
        let mut memory = Memory::new(id, self.text, self.timestamp);
        memory.source = self.source.unwrap_or(DEFAULT_SOURCE).to_owned();
        memory.session_id = self.session_id.unwrap_or(DEFAULT_SESSION).to_owned();
        memory.importance = self.importance;
        memory.tags = self.tags;
        memory.collection = self.collection.unwrap_or(DEFAULT_COLLECTION).to_owned();
        memory.speaker = self.speaker.map(str::to_owned);
        memory.role = self.role.map(str::to_owned);
        memory.position = self.position;
        if let Some(metadata) = self.metadata {
            memory.metadata = serde_json::from_str::<Map<String, Value>>(metadata)
                .map_err(|_| "its metadata is no JSON object")?;
        }
        let is_pristine = self.stored_crc == Some(i64::from(self.crc));
        let problem = if is_pristine { None } else { made_fit(&mut memory)? };
        let found = Found {
            memory,
            seq: self.seq.map(i64::cast_unsigned),
            is_pristine,
            vectors: self.vectors.and_then(|bytes| values_of(bytes, dimensions)),
        };
        Ok((found, problem))
    }
}

/// What others wrote must be what this program would take: what can be mended is, and said.
fn made_fit(memory: &mut Memory) -> Result<Option<String>, String> {
    let said = |error: Error| error.message().to_owned();
    check_text(&memory.text).map_err(said)?;
    for (name, value) in
        [("collection", &memory.collection), ("source", &memory.source), ("session", &memory.session_id)]
    {
        check_label(name, value).map_err(said)?;
    }
    crate::time::checked(memory.timestamp).map_err(said)?;
    check_metadata(&memory.metadata).map_err(said)?;
    memory.tags = clean_tags(std::mem::take(&mut memory.tags)).map_err(said)?;
    if (0.0..=1.0).contains(&memory.importance) {
        return Ok(None);
    }
    let former = memory.importance;
    memory.importance = if former.is_nan() { DEFAULT_IMPORTANCE } else { former.clamp(0.0, 1.0) };
    Ok(Some(format!("importance {former} is now {}", memory.importance)))
}

/// Vectors from their bytes; `None` when they cannot be such.
fn values_of(bytes: &[u8], dimensions: usize) -> Option<Vec<f32>> {
    let len = 4 * dimensions;
    if dimensions == 0 || dimensions > DIMENSIONS_MAX || bytes.is_empty() || !bytes.len().is_multiple_of(len)
    {
        return None;
    }
    let (values, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    values.iter().all(|value| value.is_finite()).then_some(values)
}

/// A file of the disk as a stream.
struct FileReader<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset).map_err(crate::fs::as_io)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Whether a regular file is there.
pub(crate) fn is_file(disk: &dyn Disk, path: &Path) -> Result<bool> {
    Ok(matches!(disk.kind(path)?, Some(Kind::File(_))))
}
