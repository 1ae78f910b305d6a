//! Writing snapshots: a whole one under a temporary name, or the changes into one that is there.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ToSql, params};

use super::checksum::{crc32_of, sha256_of};
use super::layout::{
    APPLICATION_ID, CHANGE_COUNTERS, CHANGES_AT_BUILD, DELETE_WORDS, INDEXES, INSERT_MEMORY, INSERT_ROW,
    INSERT_WORDS, ORIGINAL_TABLES, OWN_TABLES, PAGE_LEN, SNAPSHOT_FORMAT, Stamp, UPDATE_MEMORY, UPDATE_ROW,
    WORDS_AFTER_BUILD, WORDS_AT_BUILD, as_integer, hex, metadata_column, row_crc, share_of, tag_columns,
    vector_columns,
};
use super::{read, sql};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Access, Disk, DiskFile};
use crate::memory::Memory;
use crate::store::{State, Whole};

/// Kibibytes that SQLite may keep in memory while it writes.
const CACHE_KIB: i64 = 32 << 10;
/// Bytes that are read, or written, at once where that is not SQLite's matter.
const COPY_LEN: usize = 1 << 20;
/// Memories that are handed over at once, and bytes of their texts and vectors ...
const BATCH_MEMORIES: usize = 256;
const BATCH_LEN: usize = 1 << 20;
/// ... and such batches that may wait.
const BATCHES_AHEAD: usize = 4;

/// Whose snapshot it is, and which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) snapshot_id: &'a str,
    pub(super) store_id: [u8; 16],
    pub(super) created_ms: i64,
}

/// A snapshot file that was written and read back.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) stamp: Stamp,
    /// CRC-32 of the file.
    pub(super) crc32: u32,
    /// SHA-256 of the file, where it was asked for.
    pub(super) sha256: Option<String>,
}

/// Memories on their way to the file; `None` behind the last.
type Batch = Option<Vec<Whole>>;

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
    with_sha256: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Built> {
    if disk.kind(path)?.is_some() {
        disk.remove(path)?;
    }
    // So that the mode is that of our files, whatever the umask says.
    let file = disk.open(path, Access::CreateNew)?;
    let real = disk.system_path(path);
    let connection = match real {
        Some(path) => {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(path, flags)
        }
        None => Connection::open_in_memory(),
    };
    let connection = connection.map_err(|error| sql(path, error))?;
    let empty = Stamp {
        snapshot_id: names.snapshot_id.to_owned(),
        store_id: hex(&names.store_id),
        seq: state.seq(),
        rows: 0,
        content_crc: 0,
        created_ms: names.created_ms,
        changes: CHANGES_AT_BUILD,
        model: state.model().cloned(),
    };
    let (mut connection, stamp) = filled(connection, path, state, empty, progress)?;
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
    let built = read_back(disk, path, &*file, with_sha256)?;
    if built.stamp != stamp {
        return Err(Error::corrupt(path, 0, "the snapshot that was just written reads back as another one"));
    }
    Ok(built)
}

/// Makes a file durable and reads it: what it says of itself, and its checksums.
fn read_back(disk: &dyn Disk, path: &Path, file: &dyn DiskFile, with_sha256: bool) -> Result<Built> {
    let hash = || with_sha256.then(|| sha256_of(disk, path)).transpose();
    if disk.system_path(path).is_none() {
        // A disk of a test is asked in one order, always the same.
        file.sync()?;
        return Ok(Built { stamp: read::verify(disk, path)?, crc32: crc32_of(disk, path)?, sha256: hash()? });
    }
    thread::scope(|scope| {
        let synced = spawned(scope, || file.sync())?;
        let hash = spawned(scope, hash)?;
        let read = read::verify(disk, path).and_then(|stamp| Ok((stamp, crc32_of(disk, path)?)));
        joined(synced)?;
        let sha256 = joined(hash)?;
        let (stamp, crc32) = read?;
        Ok(Built { stamp, crc32, sha256 })
    })
}

/// Reads the state while another thread writes what was read.
fn filled(
    connection: Connection,
    path: &Path,
    state: &State<'_>,
    empty: Stamp,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Connection, Stamp)> {
    let dimensions = dimensions_of(state);
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    thread::scope(|scope| {
        let written = spawned(scope, move || fill(connection, path, dimensions, empty, &receiver))?;
        let read = send_all(state, &sender, progress);
        // Without the end that all memories have behind them nothing is committed.
        drop(sender);
        let written = joined(written);
        match (read, written) {
            // Nobody took what was read: why, the other one says.
            (Err(error), Ok(_)) => Err(error),
            (_, written) => written,
        }
    })
}

/// Sends all memories in batches.
fn send_all(state: &State<'_>, sender: &SyncSender<Batch>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let gone = || Error::new(ErrorKind::Io, "what writes the snapshot has ended");
    let (mut rows, total) = (0, state.count());
    let (mut batch, mut len) = (Vec::new(), 0);
    state.for_each(|whole| {
        rows += 1;
        len += whole.memory.text.len() + whole.vectors.as_ref().map_or(0, |vectors| 4 * vectors.len());
        batch.push(whole);
        if batch.len() == BATCH_MEMORIES || len >= BATCH_LEN {
            sender.send(Some(std::mem::take(&mut batch))).map_err(|_| gone())?;
            len = 0;
        }
        if rows % 1024 == 0 {
            progress(rows, total);
        }
        Ok(())
    })?;
    progress(rows, total);
    sender.send(Some(batch)).and_then(|()| sender.send(None)).map_err(|_| gone())
}

/// Writes all that comes; gives the connection back, and what the file says of itself.
fn fill(
    mut connection: Connection,
    path: &Path,
    dimensions: usize,
    empty: Stamp,
    batches: &Receiver<Batch>,
) -> Result<(Connection, Stamp)> {
    let failed = |error| sql(path, error);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={PAGE_LEN}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; \
             PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-{CACHE_KIB}; \
             PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SNAPSHOT_FORMAT};"
        ))
        .map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    for text in [ORIGINAL_TABLES, OWN_TABLES, INDEXES, WORDS_AT_BUILD] {
        transaction.execute_batch(text).map_err(failed)?;
    }
    let mut stamp = empty;
    let mut writer = Rows::new(&transaction, path, dimensions)?;
    loop {
        let Ok(batch) = batches.recv() else {
            return Err(Error::new(ErrorKind::Io, "not all memories could be read").at(path));
        };
        let Some(batch) = batch else { break };
        for whole in &batch {
            stamp.content_crc = stamp.content_crc.wrapping_add(share_of(writer.insert(whole)?));
            stamp.rows += 1;
        }
    }
    drop(writer);
    transaction.execute_batch(WORDS_AFTER_BUILD).map_err(failed)?;
    put_stamp(&transaction, &stamp).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok((connection, stamp))
}

fn spawned<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    thread::Builder::new().name("memento-snapshot".to_owned()).spawn_scoped(scope, work).map_err(|error| {
        Error::new(ErrorKind::Io, format!("no thread for writing a snapshot: {error}")).with_source(error)
    })
}

fn joined<T>(work: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
        // The index of words takes memories in ascending order with less work.
        let (mut present, mut new) = (Vec::new(), Vec::new());
        for id in ids {
            match writer.rowid(id)? {
                Some(rowid) => present.push((rowid, id)),
                None => new.extend(state.get(id)?.map(|whole| (whole.key, id))),
            }
        }
        present.sort_unstable();
        for (rowid, id) in present {
            let now = state.get(id)?;
            let stays = now.filter(|whole| whole.key.0.cast_signed() == rowid);
            let (crc_before, crc_now) = match &stays {
                Some(whole) => writer.replace(whole)?,
                None => (writer.remove(rowid, id)?, None),
            };
            content_crc = content_crc.wrapping_sub(share_of(crc_before));
            rows -= 1;
            if let Some(crc) = crc_now {
                content_crc = content_crc.wrapping_add(share_of(crc));
                rows += 1;
            } else if let Some(whole) = state.get(id)? {
                new.push((whole.key, id));
            }
        }
        new.sort_unstable();
        for (_, id) in new {
            if let Some(whole) = state.get(id)? {
                content_crc = content_crc.wrapping_add(share_of(writer.insert(&whole)?));
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
    words: rusqlite::Statement<'c>,
    dimensions: usize,
}

/// The columns of a memory that are not its own fields as they are.
struct Made<'w> {
    memory: &'w Memory,
    rowid: i64,
    id: &'w str,
    seq: Value,
    tags: String,
    tag_list: Option<String>,
    metadata: Option<String>,
    embedding: Option<Vec<u8>>,
    vectors: Option<Vec<u8>>,
    crc: u32,
}

impl<'c> Rows<'c> {
    fn new(connection: &'c Connection, path: &'c Path, dimensions: usize) -> Result<Self> {
        let prepare = |text| connection.prepare(text).map_err(|error| sql(path, error));
        Ok(Self {
            connection,
            path,
            memories: prepare(INSERT_MEMORY)?,
            rows: prepare(INSERT_ROW)?,
            words: prepare(INSERT_WORDS)?,
            dimensions,
        })
    }

    /// Adds a memory and gives the checksum of its row.
    fn insert(&mut self, whole: &Whole) -> Result<u32> {
        let made = Made::of(whole, self.dimensions);
        self.memories
            .execute(&made.memory_values()[..])
            .and_then(|_| self.rows.execute(&made.row_values()[..]))
            .and_then(|_| self.words.execute(params![made.rowid, made.memory.text]))
            .map_err(|error| sql(self.path, error))?;
        Ok(made.crc)
    }

    /// Puts a memory in the place of its former version; gives both checksums. What stays as it is is not written.
    fn replace(&mut self, whole: &Whole) -> Result<(u32, Option<u32>)> {
        let made = Made::of(whole, self.dimensions);
        let (text, crc) = self.former(made.rowid)?;
        if text != made.memory.text {
            self.change(DELETE_WORDS, params![made.rowid, text])?;
            self.change(INSERT_WORDS, params![made.rowid, made.memory.text])?;
        }
        self.change(UPDATE_MEMORY, &made.memory_values())?;
        self.change(UPDATE_ROW, &made.row_values())?;
        Ok((crc, Some(made.crc)))
    }

    /// Takes a memory away, from the words first, as they need its text; gives the checksum that its row had.
    fn remove(&mut self, rowid: i64, id: &str) -> Result<u32> {
        let (text, crc) = self.former(rowid)?;
        self.change(DELETE_WORDS, params![rowid, text])?;
        self.change("DELETE FROM memories WHERE rowid = ?1", params![rowid])?;
        self.change("DELETE FROM memento_rows WHERE id = ?1", params![id])?;
        Ok(crc)
    }

    /// Where the memory of this id is.
    fn rowid(&self, id: &str) -> Result<Option<i64>> {
        let mut find = self.prepared("SELECT rowid FROM memories WHERE id = ?1")?;
        find.query_row([id], |row| row.get(0)).optional().map_err(|error| sql(self.path, error))
    }

    /// The text that a memory has, and the checksum of its row.
    fn former(&self, rowid: i64) -> Result<(String, u32)> {
        let text =
            "SELECT m.text, r.crc FROM memories m JOIN memento_rows r ON r.id = m.id WHERE m.rowid = ?1";
        let mut find = self.prepared(text)?;
        find.query_row([rowid], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|error| sql(self.path, error))
    }

    fn change(&self, text: &str, values: &[&dyn ToSql]) -> Result<()> {
        self.prepared(text)?.execute(values).map(drop).map_err(|error| sql(self.path, error))
    }

    fn prepared(&self, text: &str) -> Result<rusqlite::CachedStatement<'c>> {
        self.connection.prepare_cached(text).map_err(|error| sql(self.path, error))
    }
}

impl<'w> Made<'w> {
    fn of(whole: &'w Whole, dimensions: usize) -> Self {
        let memory = &whole.memory;
        let (tags, tag_list) = tag_columns(&memory.tags);
        let metadata = metadata_column(memory);
        let (embedding, vectors) = vector_columns(whole.vectors.as_deref(), dimensions);
        let crc = row_crc(memory.into(), metadata.as_deref(), vectors.as_deref().or(embedding.as_deref()));
        let (rowid, id, seq) = (whole.key.0.cast_signed(), memory.id.as_str(), as_integer(whole.seq));
        Self { memory, rowid, id, seq, tags, tag_list, metadata, embedding, vectors, crc }
    }

    /// The values of [`INSERT_MEMORY`].
    fn memory_values(&self) -> [&dyn ToSql; 10] {
        let Memory { text, timestamp, source, session_id, importance, collection, .. } = self.memory;
        let Self { rowid, id, tags, embedding, .. } = self;
        [rowid, id, text, timestamp, source, session_id, importance, tags, collection, embedding]
    }

    /// The values of [`INSERT_ROW`].
    fn row_values(&self) -> [&dyn ToSql; 9] {
        let Memory { speaker, role, position, .. } = self.memory;
        let Self { id, seq, crc, tag_list, metadata, vectors, .. } = self;
        [id, seq, crc, tag_list, speaker, role, position, metadata, vectors]
    }
}
