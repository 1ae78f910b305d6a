//! Databases as the original left them, and as nobody should have made them.

use std::collections::BTreeMap;
use std::fs;
#[cfg(unix)]
use std::os::unix::fs::symlink;

use rusqlite::params;
use serde_json::Value;
use tempfile::TempDir;

use super::super::tests::{FIXTURE, SECRET, said};
use super::kind::Generation;
use super::memories::EMBEDDING_DIMENSIONS;
use super::*;
use crate::memory::{Duplicates, MemoryId, Remember};

/// The table as the original makes it.
const TABLE: &str = "CREATE TABLE memories (id TEXT PRIMARY KEY, text TEXT NOT NULL, timestamp INTEGER NOT NULL, \
    source TEXT NOT NULL, session_id TEXT, importance REAL DEFAULT 0.5, tags TEXT, \
    collection TEXT DEFAULT 'knowledge', embedding BLOB);";
/// A table of the same columns without any rule.
const LOOSE_TABLE: &str = "CREATE TABLE memories (id, text, timestamp, source, session_id, importance, tags, collection, embedding);";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Every file of a folder with its content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

/// A database made by these statements.
fn made(folder: &TempDir, sql: &str) -> PathBuf {
    let path = folder.path().join("made.db");
    let _ = fs::remove_file(&path);
    Connection::open(&path).and_then(|connection| connection.execute_batch(sql)).expect("statements");
    path
}

fn open(path: &Path) -> Result<Database> {
    Database::open(path, &CopyOptions::default())
}

fn all(database: &Database) -> Result<(Vec<DatabaseItem>, DatabaseRead)> {
    let mut items = Vec::new();
    let read = database.read(&mut |item| {
        items.push(item);
        Ok(())
    })?;
    Ok((items, read))
}

fn read(path: &Path) -> (Vec<DatabaseItem>, DatabaseRead) {
    all(&open(path).expect("it opens")).expect("it is read")
}

/// The kind and the message of the error that this database makes when it is opened or read.
fn refusal(path: &Path) -> (ErrorKind, String) {
    let error = open(path).and_then(|database| all(&database)).expect_err("it is refused");
    assert!(!said(&error).contains(SECRET), "{error}");
    (error.kind(), error.message().to_owned())
}

fn notes(item: &DatabaseItem) -> Vec<&str> {
    item.notes.iter().map(|note| note.what.as_str()).collect()
}

fn id(remember: &Remember) -> &str {
    remember.id.as_ref().expect("an id").as_str()
}

#[test]
fn every_row_of_the_original_comes_with_all_that_its_own_export_says_and_its_embedding() {
    let database = open(&fixture("memory-v0.2.2.db")).expect("it opens");
    assert_eq!(database.kind(), DatabaseKind::Original(Generation::G2));
    assert_eq!(database.count().expect("a count"), 194);
    let (items, read) = all(&database).expect("it is read");
    assert_eq!((read.memories, read.left_out, read.embeddings), (194, 0, 194));
    let export: Value = serde_json::from_slice(FIXTURE).expect("JSON");
    let exported: BTreeMap<&str, &Value> = export["memories"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|memory| (memory["id"].as_str().expect("an id"), memory))
        .collect();
    for item in &items {
        let remember = &item.remember;
        let expected = exported[id(remember)];
        assert_eq!(Some(remember.text.as_str()), expected["text"].as_str());
        assert_eq!(remember.timestamp, expected["timestamp"].as_i64());
        assert_eq!(Some(remember.source.as_str()), expected["source"].as_str());
        assert_eq!(Some(remember.session_id.as_str()), expected["session_id"].as_str());
        assert_eq!(Some(remember.collection.as_str()), expected["collection"].as_str());
        assert_eq!(Some(remember.importance), expected["importance"].as_f64().map(|x| x.clamp(0.0, 1.0)));
        assert_eq!(remember.duplicates, Duplicates::Keep);
        assert_eq!(item.embedding.as_ref().map(Vec::len), Some(EMBEDDING_DIMENSIONS));
    }
    let clamped: Vec<_> = items.iter().flat_map(notes).filter(|note| note.contains("importance")).collect();
    assert_eq!(clamped.len(), 2, "{clamped:?}");
}

#[test]
fn a_database_with_a_table_of_an_extension_is_read_without_it() {
    let database = open(&fixture("memory-main-ace4159.db")).expect("it opens");
    assert_eq!(database.kind(), DatabaseKind::Original(Generation::G3));
    let (_, read) = all(&database).expect("it is read");
    assert_eq!((read.memories, read.left_out, read.embeddings), (50, 0, 50));
}

#[test]
fn what_stands_only_in_the_write_ahead_log_is_read_and_the_user_s_files_stay_as_they_are() {
    let folder = folder();
    for file in ["memory-v0.2.2.db", "memory-v0.2.2.db-wal"] {
        fs::copy(fixture("hot-wal").join(file), folder.path().join(file)).expect("a copy");
    }
    let before = content(folder.path());
    let path = folder.path().join("memory-v0.2.2.db");
    assert_eq!(read(&path).1.memories, 7);
    assert_eq!(content(folder.path()), before);
}

#[test]
fn a_transaction_that_was_broken_off_is_rolled_back_in_the_copy_only() {
    let (folder, crashed) = (folder(), self::folder());
    let path = made(
        &folder,
        &format!("{TABLE} INSERT INTO memories(id,text,timestamp,source) VALUES('a','x',1,'s');"),
    );
    let connection = Connection::open(&path).expect("it opens");
    connection
        .execute_batch("PRAGMA cache_size = 1; BEGIN; UPDATE memories SET text = 'half done';")
        .expect("statements");
    for i in 0..200 {
        let row = params![format!("b{i}"), "y".repeat(2000), 1, "s"];
        connection
            .execute("INSERT INTO memories(id,text,timestamp,source) VALUES(?,?,?,?)", row)
            .expect("a row");
    }
    for (name, bytes) in content(folder.path()) {
        fs::write(crashed.path().join(name.file_name().expect("a name")), bytes).expect("a copy");
    }
    let before = content(crashed.path());
    assert_eq!(before.len(), 2, "the database and its journal");
    let (items, _) = read(&crashed.path().join("made.db"));
    let texts: Vec<_> = items.iter().map(|item| item.remember.text()).collect();
    assert_eq!(texts, ["x"]);
    assert_eq!(content(crashed.path()), before);
}

#[test]
fn generations_and_kinds_are_told_by_the_tables() {
    use DatabaseKind::{Cache, ClaudeMem, Original, Other, Snapshot};
    let folder = folder();
    let version = "CREATE TABLE schema_version (version INTEGER PRIMARY KEY);";
    let words =
        "CREATE VIRTUAL TABLE memories_fts USING fts5(text, content='memories', content_rowid='rowid');";
    for (sql, expected) in [
        (TABLE.to_owned(), Original(Generation::G0)),
        (format!("{TABLE}{words}"), Original(Generation::G0)),
        (format!("{TABLE}{version}"), Original(Generation::G1)),
        (format!("{TABLE}{version}{words}"), Original(Generation::G2)),
        (format!("{TABLE}{version} CREATE TABLE memories_vec (x);"), Original(Generation::G3)),
        (format!("{TABLE}{version} CREATE TABLE memento_snapshot (x);"), Snapshot),
        ("CREATE TABLE memories (id INTEGER PRIMARY KEY, content TEXT, created_at REAL);".to_owned(), Other),
        ("CREATE TABLE observations (id, memory_session_id, narrative);".to_owned(), ClaudeMem),
        ("CREATE VIEW memories_view AS SELECT 1; CREATE TABLE x (y);".to_owned(), Other),
    ] {
        let database = open(&made(&folder, &sql)).expect("it opens");
        assert_eq!(database.kind(), expected, "{sql}");
    }
    let cache = open(&fixture("cache-v0.2.2.db")).expect("it opens");
    assert_eq!(cache.kind(), Cache);
    let error = all(&cache).expect_err("no memories");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("cache"), "{error}");
}

#[test]
fn values_of_any_type_become_what_they_mean_or_are_named() {
    let folder = folder();
    let rows = "INSERT INTO memories VALUES
        ('a', 'plain', 5, 's', 'd', 0.5, 'x,y', 'c', NULL),
        (7, 42, '1970-01-01T00:00:09Z', NULL, 3, '0.25', NULL, NULL, x'00'),
        (NULL, x'616263', 9.75, x'73', '', 'high', ',, z ,z', char(10), 'text'),
        ('e', CAST(x'61ff62' AS TEXT), NULL, 's', 'd', 9e999, '', 'c', zeroblob(1536)),
        ('f', NULL, 1, 's', 'd', 0, '', 'c', NULL),
        ('g', '  ', 1, 's', 'd', 0, '', 'c', NULL),
        ('h', 'before 1970', -5, 's', 'd', -0.5, NULL, 'c', NULL),
        ('a', 'plain', 5, 's', 'd', 0.5, 'x,y', 'c', NULL),
        ('i', 'no such year', 999999999999999, 's', 'd', 1, NULL, 'c', NULL);";
    let path = made(&folder, &format!("{LOOSE_TABLE}{rows}"));
    let (items, read) = read(&path);
    assert_eq!((read.memories, read.left_out, read.embeddings), (7, 2, 0));
    let find = |text: &str| items.iter().find(|item| item.remember.text() == text).expect("a memory");
    let plain = find("plain");
    assert_eq!((id(&plain.remember), plain.notes.len(), plain.rowid), ("a", 0, 1));
    assert_eq!(plain.remember.tags, ["x", "y"]);
    let number = &find("42").remember;
    assert_eq!((id(number), number.timestamp, number.session_id.as_str()), ("7", Some(9), "3"));
    assert_eq!((number.importance, number.source.as_str()), (0.25, "conversation"));
    let bytes = find("abc");
    assert_eq!((bytes.remember.timestamp, bytes.remember.importance), (Some(9), 0.5));
    assert_eq!((bytes.remember.source.as_str(), bytes.remember.collection.as_str()), ("s", "knowledge"));
    assert_eq!(bytes.remember.tags, ["z"]);
    assert_eq!(id(&bytes.remember).len(), 16, "an id of its own");
    let broken = find("a\u{fffd}b");
    assert_eq!((broken.remember.timestamp, broken.remember.importance), (None, 1.0));
    assert!(notes(broken).iter().any(|note| note.contains("not UTF-8 from byte 1")), "{broken:?}");
    assert!(notes(broken).iter().any(|note| note.contains("embedding has not the length 1")), "{broken:?}");
    let early = find("before 1970");
    assert_eq!((early.remember.timestamp, early.remember.importance), (Some(-5), 0.0));
    let strange = find("no such year");
    assert_eq!(strange.remember.timestamp, None);
    assert!(notes(strange).contains(&"its time cannot be understood"));
    let twin = items.iter().filter(|item| item.remember.text() == "plain").nth(1).expect("the second");
    assert!(notes(twin)[0].starts_with("it has the same id as memory 1"), "{twin:?}");
    assert!(read.notes.iter().all(|note| note.what.contains("left out")), "{read:?}");
    assert_eq!(all(&open(&path).expect("again")).expect("again").1, read, "the same ids every time");
}

#[test]
fn what_does_not_fit_is_kept_in_the_metadata() {
    let folder = folder();
    let path = made(&folder, LOOSE_TABLE);
    let tags: Vec<String> = (0..70).map(|i| format!("t{i}")).chain(["l".repeat(300)]).collect();
    let source = format!("file:{}", "é".repeat(600));
    Connection::open(&path)
        .and_then(|connection| {
            let row = params!["a", "x", 1, source, tags.join(",")];
            connection.execute("INSERT INTO memories(id,text,timestamp,source,tags) VALUES(?,?,?,?,?)", row)
        })
        .expect("a row");
    let (items, _) = read(&path);
    let remember = &items[0].remember;
    assert_eq!(remember.tags.len(), 64);
    assert_eq!(remember.metadata["more_tags"].as_array().map(Vec::len), Some(7));
    assert!(remember.source.len() <= 1024 && source.starts_with(&remember.source));
    assert_eq!(remember.metadata["full_source"], source);
}

#[test]
fn what_could_do_harm_is_refused() {
    let folder = folder();
    for (sql, expected) in [
        (
            format!("{TABLE} CREATE TRIGGER t AFTER INSERT ON memories BEGIN DELETE FROM memories; END;"),
            "triggers (1)",
        ),
        ("CREATE VIEW memories AS SELECT 1 AS id, 2 AS text, 3 AS timestamp;".to_owned(), "a view"),
        ("CREATE VIRTUAL TABLE memories USING fts5(id, text, timestamp);".to_owned(), "a virtual table"),
        (
            "CREATE TABLE memories (id, text CHECK (length(randomblob(9)) > 1), timestamp);".to_owned(),
            "CHECK",
        ),
        ("CREATE TABLE memories (id, text, timestamp, x AS (hex(text)));".to_owned(), "computes"),
        ("CREATE TABLE memories (id PRIMARY KEY, text, timestamp) WITHOUT ROWID;".to_owned(), "WITHOUT"),
        (format!("{TABLE} CREATE INDEX i ON memories (hex(text));"), "expressions"),
        ("CREATE TABLE memories (id, text, timestamp, rowid, oid, _rowid_);".to_owned(), "hides"),
    ] {
        let (kind, message) = refusal(&made(&folder, &sql));
        assert_eq!(kind, ErrorKind::Refused, "{sql}: {message}");
        assert!(message.contains(expected), "{sql}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn only_plain_files_of_a_fitting_size_are_copied() {
    let folder = folder();
    let path = made(&folder, TABLE);
    let link = folder.path().join("link.db");
    symlink(&path, &link).expect("a link");
    assert!(open(&link).is_ok(), "the user named it");
    let kind_of =
        |path: &Path, options: &CopyOptions<'_>| Database::open(path, options).expect_err("refused").kind();
    assert_eq!(kind_of(folder.path(), &CopyOptions::default()), ErrorKind::Refused);
    let small = CopyOptions { len_max: 100, ..CopyOptions::default() };
    assert_eq!(kind_of(&path, &small), ErrorKind::TooLarge);
    let pipe = folder.path().join("pipe.db");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("a pipe");
    assert_eq!(kind_of(&pipe, &CopyOptions::default()), ErrorKind::Refused);
    symlink(&path, folder.path().join("made.db-wal")).expect("a link in the place of the log");
    assert_eq!(kind_of(&path, &CopyOptions::default()), ErrorKind::Refused);
    assert_eq!(kind_of(&folder.path().join("none.db"), &CopyOptions::default()), ErrorKind::Io);
}

#[test]
fn what_is_no_database_is_named() {
    let folder = folder();
    let path = folder.path().join("x.db");
    for (bytes, expected) in
        [(&b""[..], "the file is empty"), (b"{\"memories\":[]}", "this is no SQLite database")]
    {
        fs::write(&path, bytes).expect("write");
        assert_eq!(refusal(&path), (ErrorKind::UnknownFormat, expected.to_owned()));
    }
}

#[test]
fn a_journal_cannot_make_sqlite_delete_a_file() {
    let folder = folder();
    let path = made(
        &folder,
        &format!("{TABLE} INSERT INTO memories(id,text,timestamp,source) VALUES('a','x',1,'s');"),
    );
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").expect("write");
    let name = victim.to_str().expect("UTF-8").as_bytes();
    // A header for no pages, then the record that names a super-journal.
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let pages = u32::try_from(fs::metadata(&path).expect("a file").len() / 4096).expect("few");
    for field in [0_u32, 1, pages, 512, 4096] {
        journal.extend(field.to_be_bytes());
    }
    journal.resize(512, 0);
    journal.extend(u32::MAX.to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).expect("short").to_be_bytes());
    let sum: u32 = name.iter().fold(0, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    journal.extend(sum.to_be_bytes());
    journal.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(folder.path().join("made.db-journal"), &journal).expect("write");
    let (kind, message) = refusal(&path);
    assert_eq!(kind, ErrorKind::Refused, "{message}");
    assert_eq!(fs::read(&victim).expect("it is there"), b"precious");
}

#[test]
fn damage_is_an_error_or_changes_no_count_and_never_a_panic() {
    let folder = folder();
    let path = folder.path().join("damaged.db");
    let bytes = fs::read(fixture("memory-v0.2.2.db")).expect("the fixture");
    let mut refused = 0;
    let mut state = 0x9e37_79b9_u32;
    let mut chance = |below: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % below
    };
    for round in 0..120 {
        let mut damaged = bytes.clone();
        if round % 4 == 0 {
            damaged.truncate(chance(bytes.len()));
        } else {
            // The schema and the roots of the tables stand in the first pages.
            let within = if round % 4 == 1 { 8192 } else { bytes.len() };
            for _ in 0..=chance(8) {
                damaged[chance(within)] ^= 1 << chance(8);
            }
        }
        fs::write(&path, &damaged).expect("write");
        match open(&path).and_then(|database| all(&database)) {
            Ok((items, read)) => {
                assert_eq!(items.len() as u64, read.memories, "round {round}");
                assert!(items.iter().all(|item| MemoryId::check(id(&item.remember)).is_ok()));
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.path(), Some(path.as_path()), "round {round}: {error}");
            }
        }
    }
    assert!(refused > 30, "{refused} of 120");
}
