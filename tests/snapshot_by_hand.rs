//! A `memory.db` that somebody has put in place of the published one, or changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use memento_kv::embed::ModelSpec;
use memento_kv::{
    List, Memory, MemoryId, Options, Remember, RestoreFrom, RestoreOptions, Store, TakenOver, TakenOverKind,
};
use rusqlite::Connection;

fn open(home: &Path) -> Store {
    Store::open(Options::at(home).model(ModelSpec::None).background_embedding(false)).expect("open")
}

fn remember(store: &Store, name: &str) {
    let id = MemoryId::new(name).expect("an id");
    store.remember(Remember::new(format!("the text of {name}")).id(id).at(5)).expect("stored");
}

fn all(store: &Store) -> BTreeMap<String, Memory> {
    let memories = store.list(&List::new().limit(100_000)).expect("a list");
    memories.into_iter().map(|memory| (memory.id.to_string(), memory)).collect()
}

fn names(store: &Store) -> Vec<String> {
    all(store).into_keys().collect()
}

fn db(home: &Path) -> PathBuf {
    home.join("memory.db")
}

fn undo(store: &Store) {
    store.restore(&RestoreFrom::Undo, RestoreOptions::default()).expect("undone");
}

fn the_one(store: &Store) -> TakenOver {
    let mut taken = store.taken_over();
    assert_eq!(taken.len(), 1, "{taken:?}");
    taken.remove(0)
}

fn assert_published(home: &Path, expected: &[&str]) {
    let connection = Connection::open(db(home)).expect("a database");
    let answer: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(answer, "ok");
    let mut all = connection.prepare("SELECT id FROM memories ORDER BY id").expect("a statement");
    let ids: Vec<String> =
        all.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("rows");
    assert_eq!(ids, expected);
    for suffix in ["-wal", "-shm", "-journal"] {
        assert!(!home.join(format!("memory.db{suffix}")).exists(), "{suffix}");
    }
}

/// A home with the memories a and b in a backup, and then without b but with c.
fn with_a_backup(home: &Path) -> (PathBuf, BTreeMap<String, Memory>) {
    let store = open(home);
    remember(&store, "a");
    remember(&store, "b");
    let backup = store.backup().expect("a backup");
    store.forget(["b"]).expect("forgotten");
    remember(&store, "c");
    let before = all(&store);
    store.close().expect("closed");
    (backup, before)
}

#[test]
fn a_backup_that_is_copied_over_memory_db_brings_its_state_back_and_undo_the_one_before() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (backup, before) = with_a_backup(home);
    // As the original's documents say.
    fs::copy(&backup, db(home)).expect("copied");
    let store = open(home);
    let taken = the_one(&store);
    assert_eq!((taken.kind, taken.added, taken.changed, taken.forgotten), (TakenOverKind::Snapshot, 1, 0, 1));
    assert_eq!(names(&store), ["a", "b"]);
    assert_published(home, &["a", "b"]);
    undo(&store);
    assert_eq!(all(&store), before);
    store.close().expect("closed");
    assert_published(home, &["a", "c"]);
    assert!(open(home).taken_over().is_empty(), "it is ours again");
}

#[test]
fn leftovers_of_another_database_beside_it_are_not_played_over_it() {
    let other = tempfile::tempdir().expect("a folder");
    let stale = Connection::open(other.path().join("memory.db")).expect("a database");
    stale
        .execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE memories (id TEXT, text TEXT); CREATE TABLE x (y);",
        )
        .expect("another database");
    for (suffix, bytes) in [
        ("-wal", fs::read(other.path().join("memory.db-wal")).expect("a log")),
        ("-shm", vec![0; 32768]),
        ("-journal", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7nothing".to_vec()),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path();
        let (backup, _) = with_a_backup(home);
        fs::copy(&backup, db(home)).expect("copied");
        fs::write(home.join(format!("memory.db{suffix}")), &bytes).expect("written");
        let store = open(home);
        assert_eq!(the_one(&store).kind, TakenOverKind::Snapshot, "{suffix}");
        assert_eq!(names(&store), ["a", "b"], "{suffix}");
        assert_published(home, &["a", "b"]);
        let kept = fs::read_dir(home.join("store/quarantine")).expect("a folder").count();
        assert_eq!(kept, 2, "the leftover and its note");
    }
}

#[test]
fn what_was_changed_in_it_by_hand_is_taken_over_and_nothing_else() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    for name in ["a", "b", "c"] {
        remember(&store, name);
    }
    store.snapshot(&mut |_| {}).expect("published");
    // Behind the snapshot: this must not be lost by an edit of what is older.
    let edit = Connection::open(db(home)).expect("a database");
    edit.execute("DELETE FROM memories WHERE id = 'a'", []).expect("deleted");
    edit.execute("UPDATE memories SET text = 'edited', importance = 7 WHERE id = 'b'", []).expect("updated");
    edit.execute(
        "INSERT INTO memories (id, text, timestamp, source) VALUES ('0123456789abcdef', 'by hand', 9, 'sqlite3')",
        [],
    )
    .expect("inserted");
    drop(edit);
    remember(&store, "d");
    let before = all(&store);
    store.close().expect("closed");
    let store = open(home);
    assert_eq!(names(&store), ["0123456789abcdef", "b", "c", "d"]);
    let b = store.get("b").expect("a read").expect("it is there");
    assert_eq!((b.text.as_str(), b.importance), ("edited", 1.0));
    undo(&store);
    assert_eq!(all(&store), before);
}

#[test]
fn an_edit_is_told_at_the_next_open_and_the_edited_file_is_kept() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (_, _) = with_a_backup(home);
    let edit = Connection::open(db(home)).expect("a database");
    edit.execute("UPDATE memories SET text = 'edited' WHERE id = 'c'", []).expect("updated");
    drop(edit);
    let store = open(home);
    let taken = the_one(&store);
    assert_eq!((taken.kind, taken.added, taken.changed, taken.forgotten), (TakenOverKind::Edited, 0, 1, 0));
    assert!(home.join(taken.kept_as.expect("it is kept")).exists());
    assert_eq!(store.get("c").expect("a read").expect("it is there").text, "edited");
    assert_published(home, &["a", "c"]);
}

#[test]
fn a_database_of_the_original_is_added_with_every_row() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, rows) in [("memory-v0.2.2.db", 194), ("memory-main-ace4159.db", 50)] {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path();
        // In a home without a store, and over a published one.
        fs::copy(fixtures.join(name), db(home)).expect("copied");
        let store = open(home);
        let taken = the_one(&store);
        assert_eq!((taken.kind, taken.added), (TakenOverKind::Foreign, rows), "{name}");
        remember(&store, "own");
        store.close().expect("closed");
        fs::copy(fixtures.join(name), db(home)).expect("copied");
        let store = open(home);
        assert_eq!(the_one(&store).added, 0);
        assert_eq!(all(&store).len() as u64, rows + 1, "nothing of the store's own is lost");
    }
}

#[test]
fn what_cannot_be_used_is_put_away_and_the_store_goes_on() {
    type Place = fn(&Path);
    let places: [(&str, Place); 6] = [
        ("no database", |path| fs::write(path, "nothing of the kind").expect("written")),
        ("nothing", |path| fs::write(path, "").expect("written")),
        ("a link", |path| std::os::unix::fs::symlink("/etc/passwd", path).expect("a link")),
        ("another table", |path| {
            Connection::open(path).expect("a database").execute_batch("CREATE TABLE x (y)").expect("made");
        }),
        ("a view", |path| {
            let text = "CREATE TABLE x (id, text); CREATE VIEW memories AS SELECT * FROM x;";
            Connection::open(path).expect("a database").execute_batch(text).expect("made");
        }),
        ("a malformed schema", |path| {
            let connection = Connection::open(path).expect("a database");
            connection
                .execute_batch(
                    "CREATE TABLE memories (id TEXT, text TEXT); PRAGMA writable_schema=ON; \
                     UPDATE sqlite_schema SET sql = 'CREATE TABLE memories (';",
                )
                .expect("made");
        }),
    ];
    for (what, place) in places {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path();
        with_a_backup(home);
        fs::remove_file(db(home)).expect("removed");
        place(&db(home));
        let store = open(home);
        let taken = the_one(&store);
        assert_eq!(taken.kind, TakenOverKind::Unusable, "{what}");
        let kept = home.join(taken.kept_as.expect("it is kept"));
        assert!(fs::symlink_metadata(kept).is_ok(), "{what}");
        assert_eq!(names(&store), ["a", "c"], "{what}");
        assert_published(home, &["a", "c"]);
    }
}

/// Makes a file longer by more than a disk of a small machine has room for, without taking any.
fn stretch(path: &Path) {
    let file = fs::OpenOptions::new().create(true).append(true).open(path).expect("open");
    file.set_len(32 << 30).expect("longer");
}

#[test]
fn a_huge_file_is_not_copied_to_find_out_that_there_is_nothing_in_it() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (backup, _) = with_a_backup(home);
    fs::remove_file(db(home)).expect("removed");
    stretch(&db(home));
    let store = open(home);
    assert_eq!(the_one(&store).kind, TakenOverKind::Unusable);
    assert_eq!(names(&store), ["a", "c"]);
    let error =
        store.restore(&RestoreFrom::File(home.into()), RestoreOptions::default()).expect_err("a folder");
    assert_eq!(error.message(), "this is a folder, expected a file");
    store.close().expect("closed");
    // Behind the pages that its header counts SQLite sees nothing either.
    fs::copy(&backup, db(home)).expect("copied");
    stretch(&db(home));
    let store = open(home);
    assert_eq!(names(&store), ["a", "b"], "{:?}", store.taken_over());
    assert_published(home, &["a", "b"]);
}

#[test]
fn a_flipped_bit_is_no_edit_and_is_never_taken_over() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (backup, before) = with_a_backup(home);
    for source in [db(home), backup.clone()] {
        let mut bytes = fs::read(&source).expect("a file");
        let at = bytes.windows(13).rposition(|part| part == b"the text of a").expect("its text");
        bytes[at + 4] ^= 1;
        fs::write(db(home), &bytes).expect("written");
        let store = open(home);
        let taken = the_one(&store);
        assert_eq!(taken.kind, TakenOverKind::Unusable, "{}", taken.detail);
        assert_eq!(all(&store), before);
        store.close().expect("closed");
        assert_published(home, &["a", "c"]);
        let damaged = home.join("damaged.db");
        fs::write(&damaged, &bytes).expect("written");
        let store = open(home);
        let exact = RestoreOptions { exact: true, dry_run: false };
        let error = store.restore(&RestoreFrom::File(damaged), exact).expect_err("damaged");
        assert_eq!(error.kind(), memento_kv::ErrorKind::Corrupt);
        assert_eq!(all(&store), before);
    }
}

#[test]
fn damage_outside_the_rows_does_not_become_the_published_one() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (_, before) = with_a_backup(home);
    let indexes = "SELECT rootpage FROM sqlite_schema WHERE type = 'index' OR name LIKE '%_data'";
    let pages: Vec<u32> = {
        let connection = Connection::open(db(home)).expect("a database");
        let mut pages = connection.prepare(indexes).expect("a statement");
        pages.query_map([], |row| row.get(0)).expect("pages").collect::<Result<_, _>>().expect("pages")
    };
    assert!(pages.len() > 3, "{pages:?}");
    for page in pages {
        let mut bytes = fs::read(db(home)).expect("a file");
        bytes.chunks_mut(4096).nth(page as usize - 1).expect("the page").fill(0);
        fs::write(db(home), &bytes).expect("written");
        let store = open(home);
        let taken = the_one(&store);
        assert_eq!(taken.kind, TakenOverKind::Unusable, "page {page}: {}", taken.detail);
        assert_eq!(all(&store), before);
        assert_published(home, &["a", "c"]);
        store.close().expect("closed");
    }
}

#[test]
fn an_export_in_place_of_memory_db_is_a_snapshot_and_undoes_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    remember(&store, "a");
    fs::create_dir(home.join("other")).expect("a folder");
    let by_another_way = home.join("other/../memory.db");
    store.export_sqlite(&by_another_way, &mut |_| {}).expect("exported");
    remember(&store, "b");
    store.snapshot(&mut |_| {}).expect("published");
    assert_eq!(names(&store), ["a", "b"], "the export is no copy that somebody has put there");
    assert!(store.taken_over().is_empty());
    assert_published(home, &["a", "b"]);
}

#[test]
fn triggers_and_hostile_rows_do_no_harm() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    with_a_backup(home);
    fs::remove_file(db(home)).expect("removed");
    let connection = Connection::open(db(home)).expect("a database");
    connection
        .execute_batch(
            "CREATE TABLE memories (id, text, timestamp, source, session_id, importance, tags, collection, embedding);
             CREATE TRIGGER t AFTER INSERT ON memories BEGIN SELECT 1; END;
             INSERT INTO memories VALUES ('ok', 'fine', 5, 's', NULL, 0.5, NULL, NULL, x'00');
             INSERT INTO memories VALUES ('ok', 'the same id again', 5, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES (NULL, 'no id', 5, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES (x'6162', 'a blob as id', 5, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES ('t1', NULL, 5, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES ('t2', 'x', 'noon', 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES ('t3', 'x', 9223372036854775807, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES ('t4', '   ', 5, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES ('t5', CAST(x'ff' AS TEXT), 5, 's', NULL, 0.5, NULL, NULL, NULL);
             INSERT INTO memories VALUES ('t6', 'x', 5, 's', NULL, 9e999, NULL, NULL, NULL);",
        )
        .expect("made");
    drop(connection);
    let store = open(home);
    let taken = the_one(&store);
    assert_eq!((taken.kind, taken.added), (TakenOverKind::Foreign, 2), "{}", taken.detail);
    assert_eq!(names(&store), ["a", "c", "ok", "t6"]);
    assert!(!taken.detail.contains("again"), "no text of a memory is told");
}

#[test]
fn a_lost_note_of_what_was_published_takes_nothing_back() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    remember(&store, "a");
    store.snapshot(&mut |_| {}).expect("published");
    let older = fs::read(db(home)).expect("the file");
    remember(&store, "b");
    store.close().expect("closed");
    // As after a crash before the publish, with the note lost as well.
    fs::write(db(home), older).expect("written");
    fs::remove_file(home.join("store/snap.state")).expect("removed");
    let store = open(home);
    assert_eq!(names(&store), ["a", "b"]);
    store.snapshot(&mut |_| {}).expect("published");
    assert_published(home, &["a", "b"]);
}

#[test]
fn a_file_that_was_only_touched_or_moved_is_still_ours() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    with_a_backup(home);
    let copy = home.join("copy");
    fs::copy(db(home), &copy).expect("copied");
    fs::rename(&copy, db(home)).expect("moved");
    let store = open(home);
    assert!(store.taken_over().is_empty());
    assert_eq!(names(&store), ["a", "c"]);
    fs::remove_file(db(home)).expect("removed");
    store.snapshot(&mut |_| {}).expect("published");
    assert_published(home, &["a", "c"]);
}

#[test]
fn a_database_of_the_original_with_a_hot_log_comes_in_with_every_row() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    remember(&store, "mine");
    store.close().expect("closed");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hot-wal/memory-v0.2.2.db");
    fs::copy(&fixture, db(home)).expect("copied");
    fs::copy(fixture.with_extension("db-wal"), home.join("memory.db-wal")).expect("copied");
    let store = open(home);
    let taken = the_one(&store);
    assert_eq!((taken.kind, taken.added), (TakenOverKind::Foreign, 7), "{taken:?}");
    assert_eq!(names(&store).len(), 8);
    let published: Vec<String> = names(&store);
    assert_published(home, &published.iter().map(String::as_str).collect::<Vec<_>>());
    undo(&store);
    assert_eq!(names(&store), ["mine"]);
}

#[test]
fn a_journal_that_names_another_file_deletes_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    remember(&store, "a");
    store.close().expect("closed");
    let victim = home.join("victim");
    fs::write(&victim, "precious").expect("written");
    // What a journal of two databases ends with: a page's number, the name, its length and sum, and the magic.
    let magic = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let name = victim.to_str().expect("UTF-8").as_bytes();
    let sum = name.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let mut journal = magic.to_vec();
    journal.resize(512, 0);
    journal.extend(0x4000_0001_u32.to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).expect("short").to_be_bytes());
    journal.extend(sum.to_be_bytes());
    journal.extend(magic);
    fs::write(home.join("memory.db-journal"), journal).expect("written");
    let mut bytes = fs::read(db(home)).expect("read");
    bytes.truncate(8192);
    fs::write(db(home), bytes).expect("written");
    let store = open(home);
    assert_eq!(fs::read_to_string(&victim).expect("it is there"), "precious");
    assert_eq!(names(&store), ["a"]);
}
