//! What a snapshot file looks like: its tables, how a memory stands in them, and its checksums. Spec:
//! `format-spec/snapshot.md`.

use rusqlite::types::Value;

use crate::memory::{Memory, ModelIdentity};

/// Marks a SQLite file as a snapshot of ours: `MMTO`.
pub(crate) const APPLICATION_ID: i32 = 0x4d4d_544f;
/// Version of the tables, in `user_version` and in `memento_snapshot`.
pub(crate) const SNAPSHOT_FORMAT: i64 = 1;
/// SQLite's change counter in a file that was written as a whole: two pragmas and one transaction.
pub(crate) const CHANGES_AT_BUILD: u32 = 3;
/// Where that counter stands, and where SQLite repeats it.
pub(super) const CHANGE_COUNTERS: [usize; 2] = [24, 92];
/// Bytes of a page.
pub(crate) const PAGE_LEN: i64 = 4096;
/// The dimensions that the original's column `embedding` has.
pub(crate) const ORIGINAL_DIMENSIONS: usize = 384;

/// The tables of the original, as it makes them.
pub(super) const ORIGINAL_TABLES: &str = "
CREATE TABLE memories (
    id TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    source TEXT NOT NULL,
    session_id TEXT,
    importance REAL DEFAULT 0.5,
    tags TEXT,
    collection TEXT DEFAULT 'knowledge',
    embedding BLOB
);
CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY,
    applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO schema_version (version) VALUES (1);
";

/// What is ours.
pub(super) const OWN_TABLES: &str = "
CREATE TABLE memento_snapshot (
    snapshot_id TEXT PRIMARY KEY,
    store_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    content_crc INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    changes INTEGER NOT NULL,
    format INTEGER NOT NULL,
    model TEXT,
    dimensions INTEGER,
    model_identity TEXT
);
CREATE TABLE memento_rows (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    tags TEXT,
    speaker TEXT,
    role TEXT,
    position INTEGER,
    metadata TEXT,
    vectors BLOB
) WITHOUT ROWID;
";

/// Made before the rows come in: with each row its entries come, and nothing has to be read again for them.
pub(super) const INDEXES: &str = "
CREATE INDEX idx_collection ON memories(collection);
CREATE INDEX idx_timestamp ON memories(timestamp);
CREATE VIRTUAL TABLE memories_fts USING fts5(text, content='memories', content_rowid='rowid');
";

/// While a whole file is written, more words than usual are gathered in memory before they are written, but not more than
/// fit a processor's cache, and nobody merges what was written as long as it is not too many parts.
pub(super) const WORDS_AT_BUILD: &str = "
INSERT INTO memories_fts(memories_fts, rank) VALUES ('hashsize', 4194304);
INSERT INTO memories_fts(memories_fts, rank) VALUES ('automerge', 0);
";

/// Whoever writes on has SQLite's own settings.
pub(super) const WORDS_AFTER_BUILD: &str =
    "DELETE FROM memories_fts_config WHERE k IN ('hashsize', 'automerge');";

pub(super) const INSERT_WORDS: &str = "INSERT INTO memories_fts(rowid, text) VALUES (?1, ?2)";
pub(super) const DELETE_WORDS: &str =
    "INSERT INTO memories_fts(memories_fts, rowid, text) VALUES ('delete', ?1, ?2)";

pub(super) const INSERT_MEMORY: &str = "INSERT INTO memories \
    (rowid, id, text, timestamp, source, session_id, importance, tags, collection, embedding) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

pub(super) const INSERT_ROW: &str = "INSERT INTO memento_rows \
    (id, seq, crc, tags, speaker, role, position, metadata, vectors) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Fails when the words are not those of the texts.
pub(super) const CHECK_WORDS: &str =
    "INSERT INTO memories_fts(memories_fts, rank) VALUES ('integrity-check', 1)";

/// The values of [`INSERT_MEMORY`] in place of those that are there, where one of them is another.
pub(super) const UPDATE_MEMORY: &str = "UPDATE memories SET text = ?3, timestamp = ?4, source = ?5, session_id = ?6, \
    importance = ?7, tags = ?8, collection = ?9, embedding = ?10 WHERE rowid = ?1 AND id = ?2 AND \
    (text, timestamp, source, session_id, importance, tags, collection, embedding) IS NOT \
    (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// The values of [`INSERT_ROW`] in place of those that are there.
pub(super) const UPDATE_ROW: &str = "UPDATE memento_rows SET seq = ?2, crc = ?3, tags = ?4, speaker = ?5, role = ?6, \
    position = ?7, metadata = ?8, vectors = ?9 WHERE id = ?1";

/// A snapshot's word about itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Stamp {
    /// 32 hexadecimal digits, new with every publish.
    pub(crate) snapshot_id: String,
    /// The store's id, 32 hexadecimal digits.
    pub(crate) store_id: String,
    /// Up to which sequence records are in it.
    pub(crate) seq: u64,
    pub(crate) rows: u64,
    /// Checksum of all rows, whatever their order.
    pub(crate) content_crc: u64,
    pub(crate) created_ms: i64,
    /// The change counter that SQLite has in the file's header with it. Where it is another one, somebody has written to
    /// the file; where it is this one and the rows are others, the file is damaged.
    pub(crate) changes: u32,
    /// The model whose vectors are in it.
    pub(crate) model: Option<ModelIdentity>,
}

/// `embedding` and `vectors` of a row: the original's column takes one vector of 384 dimensions, ours the rest.
pub(super) fn vector_columns(
    values: Option<&[f32]>,
    dimensions: usize,
) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let Some(values) = values.filter(|values| !values.is_empty()) else { return (None, None) };
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    if dimensions != ORIGINAL_DIMENSIONS {
        return (None, Some(bytes));
    }
    let first = bytes[..4 * ORIGINAL_DIMENSIONS].to_vec();
    let all = (values.len() > ORIGINAL_DIMENSIONS).then_some(bytes);
    (Some(first), all)
}

/// The tags as the original's column has them, and as a JSON list where that loses something.
pub(super) fn tag_columns(tags: &[String]) -> (String, Option<String>) {
    let joined = tags.join(",");
    let is_lossy = tags.iter().any(|tag| tag.contains(','));
    let list = is_lossy.then(|| serde_json::to_string(tags).expect("a list of texts is JSON"));
    (joined, list)
}

/// The tags of a row. Where the list says something else than the original's column, somebody changed that by hand, and
/// it counts.
pub(super) fn tags_of(joined: &str, list: Option<&str>) -> Vec<String> {
    let listed = list.and_then(|list| serde_json::from_str::<Vec<String>>(list).ok());
    match listed.filter(|listed| listed.join(",") == joined) {
        Some(listed) => listed,
        None if joined.is_empty() => Vec::new(),
        None => joined.split(',').map(str::to_owned).collect(),
    }
}

/// The metadata as it is stored; none when it is empty.
pub(super) fn metadata_column(memory: &Memory) -> Option<String> {
    (!memory.metadata.is_empty())
        .then(|| serde_json::to_string(&memory.metadata).expect("a JSON object of values has a text"))
}

/// What a row says, but for metadata and vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub(super) id: &'a str,
    pub(super) text: &'a str,
    pub(super) timestamp: i64,
    pub(super) source: &'a str,
    pub(super) session_id: &'a str,
    pub(super) importance: f64,
    pub(super) tags: &'a [String],
    pub(super) collection: &'a str,
    pub(super) speaker: Option<&'a str>,
    pub(super) role: Option<&'a str>,
    pub(super) position: Option<i64>,
}

impl<'a> From<&'a Memory> for Said<'a> {
    fn from(memory: &'a Memory) -> Self {
        Self {
            id: memory.id.as_str(),
            text: &memory.text,
            timestamp: memory.timestamp,
            source: &memory.source,
            session_id: &memory.session_id,
            importance: memory.importance,
            tags: &memory.tags,
            collection: &memory.collection,
            speaker: memory.speaker.as_deref(),
            role: memory.role.as_deref(),
            position: memory.position,
        }
    }
}

/// Checksum of what a row says: every field, and the vectors as bytes.
pub(super) fn row_crc(said: Said<'_>, metadata: Option<&str>, vectors: Option<&[u8]>) -> u32 {
    let mut crc = RowCrc(crc32fast::Hasher::new());
    crc.text(said.id);
    crc.text(said.text);
    crc.bytes(&said.timestamp.to_le_bytes());
    crc.text(said.source);
    crc.text(said.session_id);
    crc.bytes(&said.importance.to_bits().to_le_bytes());
    crc.bytes(&(said.tags.len() as u64).to_le_bytes());
    said.tags.iter().for_each(|tag| crc.text(tag));
    crc.text(said.collection);
    crc.option(said.speaker.map(str::as_bytes));
    crc.option(said.role.map(str::as_bytes));
    crc.option(said.position.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
    crc.option(metadata.map(str::as_bytes));
    crc.option(vectors);
    crc.0.finalize()
}

struct RowCrc(crc32fast::Hasher);

impl RowCrc {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn option(&mut self, bytes: Option<&[u8]>) {
        let len = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        self.bytes(&len.to_le_bytes());
        self.bytes(bytes.unwrap_or_default());
    }
}

/// What a row adds to the checksum of the content: a sum, so that rows can come and go in any order.
pub(super) fn share_of(row_crc: u32) -> u64 {
    // splitmix64: sums of checksums alone would let two changes cancel each other.
    let mut mixed = u64::from(row_crc).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number without a sign as SQLite has it.
pub(super) fn as_integer(number: u64) -> Value {
    Value::Integer(number.cast_signed())
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryId;

    fn memory() -> Memory {
        Memory::new(MemoryId::new("a").expect("an id"), "text", 5)
    }

    #[test]
    fn tags_come_back_whatever_they_hold_and_an_edit_by_hand_counts() {
        for tags in [vec![], vec!["a".to_owned()], vec!["a,b".to_owned(), " c ".to_owned()]] {
            let (joined, list) = tag_columns(&tags);
            assert_eq!(tags_of(&joined, list.as_deref()), tags);
        }
        let (_, list) = tag_columns(&["a,b".to_owned()]);
        assert_eq!(tags_of("x,y", list.as_deref()), ["x", "y"]);
    }

    fn crc_of(memory: &Memory, metadata: Option<&str>, vectors: Option<&[u8]>) -> u32 {
        row_crc(memory.into(), metadata, vectors)
    }

    #[test]
    fn the_checksum_of_a_row_sees_every_field() {
        let plain = crc_of(&memory(), None, None);
        let changes: [fn(&mut Memory); 10] = [
            |memory| memory.id = MemoryId::new("b").expect("an id"),
            |memory| memory.text.push('x'),
            |memory| memory.timestamp += 1,
            |memory| memory.source.push('x'),
            |memory| memory.session_id.push('x'),
            |memory| memory.importance = 0.6,
            |memory| memory.tags.push("x".to_owned()),
            |memory| memory.collection.push('x'),
            |memory| memory.speaker = Some(String::new()),
            |memory| memory.position = Some(0),
        ];
        let mut seen = vec![plain, crc_of(&memory(), Some("{}"), None), crc_of(&memory(), None, Some(&[]))];
        for change in changes {
            let mut memory = memory();
            change(&mut memory);
            seen.push(crc_of(&memory, None, None));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn long_texts_keep_all_their_windows_beside_the_original_column() {
        let values = vec![0.5_f32; 2 * ORIGINAL_DIMENSIONS];
        let (first, all) = vector_columns(Some(&values), ORIGINAL_DIMENSIONS);
        assert_eq!((first.map(|bytes| bytes.len()), all.map(|bytes| bytes.len())), (Some(1536), Some(3072)));
        let (first, all) = vector_columns(Some(&values[..8]), 8);
        assert_eq!((first, all.map(|bytes| bytes.len())), (None, Some(32)));
        assert_eq!(vector_columns(None, 8), (None, None));
    }
}

#[cfg(test)]
mod spec {
    use rusqlite::Connection;

    use super::*;

    const PAGE: &str = include_str!("../../format-spec/snapshot.md");

    /// The rows of the first table below a heading, without its header.
    fn rows(heading: &str) -> Vec<(String, String)> {
        let section = PAGE.split(&format!("\n## {heading}\n")).nth(1).expect("the heading is there");
        let lines = section
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'));
        let cells = |line: &str| {
            let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            (cells.next().expect("a cell"), cells.next().expect("a cell"))
        };
        lines.skip(2).map(cells).collect()
    }

    /// The columns of a table as SQLite understands them, written as the page writes them.
    fn columns(connection: &Connection, table: &str) -> Vec<(String, String)> {
        let mut statement = connection.prepare(&format!("PRAGMA table_info({table})")).expect("a pragma");
        let column = |row: &rusqlite::Row<'_>| {
            let (name, mut kind): (String, String) = (row.get(1)?, row.get(2)?);
            let (not_null, default, key): (bool, Option<String>, i64) =
                (row.get(3)?, row.get(4)?, row.get(5)?);
            if key > 0 {
                kind.push_str(" PRIMARY KEY");
            } else if not_null {
                kind.push_str(" NOT NULL");
            }
            if let Some(default) = default {
                kind.push_str(&format!(" DEFAULT {default}"));
            }
            Ok((name, kind))
        };
        statement.query_map([], column).expect("rows").collect::<rusqlite::Result<_>>().expect("rows")
    }

    #[test]
    fn every_table_and_column_stands_on_its_page() {
        let connection = Connection::open_in_memory().expect("a database");
        for text in [ORIGINAL_TABLES, OWN_TABLES, INDEXES] {
            connection.execute_batch(text).expect("tables");
        }
        let tables = ["memories", "schema_version", "memento_snapshot", "memento_rows"];
        for table in tables {
            assert_eq!(columns(&connection, table), rows(table), "{table}");
        }
        let mut made = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'memories_fts%'")
            .expect("a statement");
        let made: Vec<String> = made
            .query_map([], |row| row.get(0))
            .expect("rows")
            .collect::<rusqlite::Result<_>>()
            .expect("rows");
        assert_eq!(made, tables);
    }

    #[test]
    fn numbers_of_the_file_are_those_of_its_page() {
        for number in [
            format!("| page size | {PAGE_LEN} |"),
            format!("| application_id | {APPLICATION_ID:#010x} (`MMTO`) |"),
            format!("| user_version | {SNAPSHOT_FORMAT} |"),
            format!("| change counter of a file that was written as a whole | {CHANGES_AT_BUILD} |"),
        ] {
            assert!(PAGE.contains(&number), "{number}");
        }
        assert_eq!(APPLICATION_ID.to_be_bytes(), *b"MMTO");
    }
}
