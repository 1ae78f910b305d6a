//! SQLite as the original uses it: its table and its indexes, with every commit on stable storage.

use std::path::Path;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, Row, params};

use super::{Sample, WORDS};

/// How many bytes of the file SQLite maps: all of it.
const MMAP_LEN: u64 = 64 << 30;

/// What of a row the original gives back.
pub(crate) struct Found {
    pub(crate) text: String,
    pub(crate) timestamp: i64,
    pub(crate) source: String,
    pub(crate) session: String,
    pub(crate) importance: f64,
    pub(crate) tags: String,
    pub(crate) collection: String,
    pub(crate) embedding: Option<Vec<u8>>,
}

/// Opens the database and makes its table if it is new.
pub(crate) fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("open SQLite");
    connection.busy_timeout(Duration::from_secs(60)).expect("set the time limit");
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = {MMAP_LEN};
             CREATE TABLE IF NOT EXISTS memories (
                 id TEXT PRIMARY KEY, text TEXT NOT NULL, timestamp INTEGER NOT NULL, source TEXT NOT NULL,
                 session_id TEXT, importance REAL DEFAULT 0.5, tags TEXT, collection TEXT DEFAULT 'knowledge',
                 embedding BLOB);
             CREATE INDEX IF NOT EXISTS idx_collection ON memories(collection);
             CREATE INDEX IF NOT EXISTS idx_timestamp ON memories(timestamp);"
        ))
        .expect("make the table");
    connection
}

/// Stores a memory; durable at once unless a transaction is open.
pub(crate) fn insert(connection: &Connection, id: &str, sample: &Sample, blob: &[u8]) {
    connection
        .prepare_cached("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .expect("a statement")
        .execute(params![
            id,
            sample.text,
            sample.timestamp,
            Sample::SOURCE,
            sample.session,
            sample.importance,
            sample.tags.join(","),
            Sample::COLLECTION,
            blob
        ])
        .expect("insert");
}

/// The statement that finds a memory by its id, with its vector or without.
pub(crate) fn by_id(connection: &Connection, with_vector: bool) -> CachedStatement<'_> {
    let vector = if with_vector { ", embedding" } else { "" };
    connection
        .prepare_cached(&format!(
            "SELECT text, timestamp, source, session_id, importance, tags, collection{vector}
             FROM memories WHERE id = ?"
        ))
        .expect("a statement")
}

pub(crate) fn get(statement: &mut CachedStatement<'_>, id: &str, with_vector: bool) -> Found {
    let found = |row: &Row<'_>| {
        Ok(Found {
            text: row.get(0)?,
            timestamp: row.get(1)?,
            source: row.get(2)?,
            session: row.get(3)?,
            importance: row.get(4)?,
            tags: row.get(5)?,
            collection: row.get(6)?,
            embedding: with_vector.then(|| row.get(7)).transpose()?,
        })
    };
    statement.query_row([id], found).expect("it was stored")
}

/// Fills a database with so many memories and leaves it as the original's file is when nobody has it open.
pub(crate) fn fill(path: &Path, memories: u64) {
    let connection = open(path);
    connection.execute_batch("BEGIN").expect("begin");
    for number in 0..memories {
        let sample = Sample::new(number, WORDS);
        insert(&connection, &format!("m{number}"), &sample, &sample.blob());
    }
    connection
        .execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE")
        .expect("commit");
}

/// Whether SQLite finds nothing wrong.
pub(crate) fn is_ok(path: &Path) -> bool {
    let asked = Connection::open(path).and_then(|connection| {
        connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
    });
    asked.is_ok_and(|answer| answer == "ok")
}
