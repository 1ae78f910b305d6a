//! Writing snapshots: a whole one under a temporary name, or the changes into one that is there.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::layout::{
    APPLICATION_ID, CHANGE_COUNTERS, CHANGES_AT_BUILD, INDEXES, INSERT_MEMORY, INSERT_ROW, ORIGINAL_TABLES,
    OWN_TABLES, PAGE_LEN, SNAPSHOT_FORMAT, Stamp, as_integer, hex, metadata_column, row_crc, share_of,
    tag_columns, vector_columns,
};
use super::{read, sql};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Access, Disk};
use crate::store::{State, Whole};

/// Kibibytes that SQLite may keep in memory while it writes.
const CACHE_KIB: i64 = 32 << 10;
/// Bytes that are written at once where the disk is not the system's.
const COPY_LEN: usize = 1 << 20;

/// Whose snapshot it is, and which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) snapshot_id: &'a str,
    pub(super) store_id: [u8; 16],
    pub(super) created_ms: i64,
}

/// Writes a state of the store as a new snapshot file and verifies it: read back, counted, checksums compared. The file
/// is durable then; its name is the caller's matter, and so is what is left when this fails.
///
/// # Errors
/// What the disk says, and [`ErrorKind::Corrupt`] when what was written does not come back.
pub(super) fn build(
    disk: &dyn Disk,
    path: &Path,
    state: &State<'_>,
    names: Names<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Stamp> {
    if disk.kind(path)?.is_some() {
        disk.remove(path)?;
    }
    // So that the mode is that of our files, whatever the umask says.
    let file = disk.open(path, Access::CreateNew)?;
    let real = disk.system_path(path);
    let stamp = {
        let connection = match real {
            Some(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(path, flags)
            }
            None => Connection::open_in_memory(),
        };
        let mut connection = connection.map_err(|error| sql(path, error))?;
        let stamp = fill(&mut connection, path, state, names, progress)?;
        if real.is_none() {
            let bytes = connection.serialize("main").map_err(|error| sql(path, error))?;
            let mut bytes = bytes.to_vec();
            // A database in memory counts no changes.
            for at in CHANGE_COUNTERS {
                bytes[at..at + 4].copy_from_slice(&CHANGES_AT_BUILD.to_be_bytes());
            }
            for (number, part) in bytes.chunks(COPY_LEN).enumerate() {
                file.write_at(part, (number * COPY_LEN) as u64)?;
            }
        }
        connection.close().map_err(|(_, error)| sql(path, error))?;
        stamp
    };
    file.sync()?;
    let found = read::verify(disk, path)?;
    if found != stamp {
        return Err(Error::corrupt(path, 0, "the snapshot that was just written reads back as another one"));
    }
    Ok(stamp)
}

fn fill(
    connection: &mut Connection,
    path: &Path,
    state: &State<'_>,
    names: Names<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Stamp> {
    let failed = |error| sql(path, error);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={PAGE_LEN}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; \
             PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-{CACHE_KIB}; \
             PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SNAPSHOT_FORMAT};"
        ))
        .map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    transaction.execute_batch(ORIGINAL_TABLES).map_err(failed)?;
    transaction.execute_batch(OWN_TABLES).map_err(failed)?;
    let (mut rows, mut content_crc) = (0, 0_u64);
    {
        let mut writer = Rows::new(&transaction, path, dimensions_of(state))?;
        let total = state.count();
        state.for_each(|whole| {
            content_crc = content_crc.wrapping_add(share_of(writer.insert(&whole)?));
            rows += 1;
            if rows % 1024 == 0 {
                progress(rows, total);
            }
            Ok(())
        })?;
        progress(rows, total);
    }
    transaction.execute_batch(INDEXES).map_err(failed)?;
    let stamp = Stamp {
        snapshot_id: names.snapshot_id.to_owned(),
        store_id: hex(&names.store_id),
        seq: state.seq(),
        rows,
        content_crc,
        created_ms: names.created_ms,
        changes: CHANGES_AT_BUILD,
        model: state.model().cloned(),
    };
    put_stamp(&transaction, &stamp).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(stamp)
}

/// Brings a snapshot that was published before up to a state, in one transaction that is durable when it returns.
/// `ids` are all memories that changed in between.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the result is not the state, so that a whole one has to be written, and what SQLite
/// says. Then nothing has changed.
pub(super) fn upkeep(
    path: &Path,
    former: &Stamp,
    state: &State<'_>,
    ids: &[String],
    snapshot_id: &str,
    created_ms: i64,
) -> Result<Stamp> {
    let failed = |error| sql(path, error);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL; PRAGMA locking_mode=EXCLUSIVE; \
             PRAGMA secure_delete=ON;",
        )
        .map_err(failed)?;
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    let found = read::stamp(&transaction).map_err(failed)?;
    if found.as_ref() != Some(former) || former.model.as_ref() != state.model() {
        return Err(
            Error::new(ErrorKind::Conflict, "the snapshot is not the one that was published").at(path)
        );
    }
    let (mut rows, mut content_crc) = (former.rows, former.content_crc);
    {
        let mut writer = Rows::new(&transaction, path, dimensions_of(state))?;
        for id in ids {
            if let Some(crc) = writer.remove(id)? {
                content_crc = content_crc.wrapping_sub(share_of(crc));
                rows -= 1;
            }
            if let Some(whole) = state.get(id)? {
                let crc = writer.insert(&whole)?;
                transaction
                    .prepare_cached("INSERT INTO memories_fts(rowid, text) VALUES (?1, ?2)")
                    .and_then(|mut insert| {
                        insert.execute(params![whole.key.0.cast_signed(), whole.memory.text])
                    })
                    .map_err(failed)?;
                content_crc = content_crc.wrapping_add(share_of(crc));
                rows += 1;
            }
        }
    }
    if rows != state.count() {
        // A compaction may have left out what would tell that a memory was forgotten.
        return Err(Error::new(ErrorKind::Conflict, "the changes do not lead to the store's state").at(path));
    }
    let stamp = Stamp {
        snapshot_id: snapshot_id.to_owned(),
        seq: state.seq(),
        rows,
        content_crc,
        created_ms,
        changes: former.changes.wrapping_add(1),
        ..former.clone()
    };
    transaction.execute("DELETE FROM memento_snapshot", []).map_err(failed)?;
    put_stamp(&transaction, &stamp).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    connection.close().map_err(|(_, error)| sql(path, error))?;
    Ok(stamp)
}

fn dimensions_of(state: &State<'_>) -> usize {
    state.model().map_or(0, |model| model.dimensions as usize)
}

/// Gives the file its name, in place of one that has it, so that after a crash one of the two is there.
pub(super) fn install(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    disk.rename(from, to)?;
    disk.sync_folder(fs::folder_above(to))?;
    if fs::folder_above(from) != fs::folder_above(to) {
        disk.sync_folder(fs::folder_above(from))?;
    }
    Ok(())
}

/// A name for a snapshot that nobody else has.
pub(super) fn new_id() -> Result<String> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}")))?;
    Ok(hex(&id))
}

fn put_stamp(connection: &Connection, stamp: &Stamp) -> rusqlite::Result<()> {
    let identity = stamp.model.as_ref().map(|model| serde_json::to_string(model).expect("a struct of texts"));
    connection.execute(
        "INSERT INTO memento_snapshot (snapshot_id, store_id, seq, rows, content_crc, created_ms, changes, \
         format, model, dimensions, model_identity) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            stamp.snapshot_id,
            stamp.store_id,
            as_integer(stamp.seq),
            as_integer(stamp.rows),
            as_integer(stamp.content_crc),
            stamp.created_ms,
            stamp.changes,
            SNAPSHOT_FORMAT,
            stamp.model.as_ref().map(|model| model.name.as_str()),
            stamp.model.as_ref().map(|model| model.dimensions),
            identity,
        ],
    )?;
    Ok(())
}

/// Memories on their way into the tables.
struct Rows<'c> {
    connection: &'c Connection,
    path: &'c Path,
    memories: rusqlite::Statement<'c>,
    rows: rusqlite::Statement<'c>,
    dimensions: usize,
}

impl<'c> Rows<'c> {
    fn new(connection: &'c Connection, path: &'c Path, dimensions: usize) -> Result<Self> {
        let prepare = |text| connection.prepare(text).map_err(|error| sql(path, error));
        Ok(Self {
            connection,
            path,
            memories: prepare(INSERT_MEMORY)?,
            rows: prepare(INSERT_ROW)?,
            dimensions,
        })
    }

    /// Adds a memory and gives the checksum of its row.
    fn insert(&mut self, whole: &Whole) -> Result<u32> {
        let memory = &whole.memory;
        let failed = |error| sql(self.path, error);
        let (tags, tag_list) = tag_columns(&memory.tags);
        let metadata = metadata_column(memory);
        let (embedding, vectors) = vector_columns(whole.vectors.as_deref(), self.dimensions);
        let crc = row_crc(memory, metadata.as_deref(), vectors.as_deref().or(embedding.as_deref()));
        let id = memory.id.as_str();
        self.memories
            .execute(params![
                whole.key.0.cast_signed(),
                id,
                memory.text,
                memory.timestamp,
                memory.source,
                memory.session_id,
                memory.importance,
                tags,
                memory.collection,
                embedding,
            ])
            .map_err(failed)?;
        self.rows
            .execute(params![
                id,
                as_integer(whole.seq),
                crc,
                tag_list,
                memory.speaker,
                memory.role,
                memory.position,
                metadata,
                vectors,
            ])
            .map_err(failed)?;
        Ok(crc)
    }

    /// Takes a memory away, from the words first, as they need its text; gives the checksum that its row had.
    fn remove(&mut self, id: &str) -> Result<Option<u32>> {
        let failed = |error| sql(self.path, error);
        let find = "SELECT m.rowid, m.text, r.crc FROM memories m JOIN memento_rows r ON r.id = m.id WHERE m.id = ?1";
        let found: Option<(i64, String, u32)> = self
            .connection
            .prepare_cached(find)
            .and_then(|mut find| {
                find.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
            })
            .map_err(failed)?;
        let Some((rowid, text, crc)) = found else { return Ok(None) };
        let change = |text: &str, values: &[&dyn rusqlite::ToSql]| {
            self.connection.prepare_cached(text).and_then(|mut change| change.execute(values)).map_err(failed)
        };
        change(
            "INSERT INTO memories_fts(memories_fts, rowid, text) VALUES ('delete', ?1, ?2)",
            &[&rowid, &text],
        )?;
        change("DELETE FROM memories WHERE rowid = ?1", &[&rowid])?;
        change("DELETE FROM memento_rows WHERE id = ?1", &[&id])?;
        Ok(Some(crc))
    }
}
