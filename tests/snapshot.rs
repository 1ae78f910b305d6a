//! `memory.db` and backups, through the public API.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memento_kv::check::{CheckReport, CheckStatus, check_files};
use memento_kv::clock::ManualClock;
use memento_kv::embed::ModelSpec;
use memento_kv::{BackupVerdict, ErrorKind, List, MemoryId, Options, PublishKind, Remember, Store, Update};
use rusqlite::Connection;

fn options(home: &Path) -> Options {
    Options::at(home).model(ModelSpec::None).background_embedding(false)
}

fn open(home: &Path) -> Store {
    Store::open(options(home)).expect("open")
}

fn id(text: &str) -> MemoryId {
    MemoryId::new(text).expect("an id")
}

fn sqlite(path: &Path) -> Connection {
    Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database")
}

fn texts(path: &Path) -> Vec<(String, String)> {
    let connection = sqlite(path);
    let mut all =
        connection.prepare("SELECT id, text FROM memories ORDER BY id").expect("the original's table");
    let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    rows.collect::<Result<_, _>>().expect("rows")
}

fn matching(path: &Path, words: &str) -> Vec<String> {
    let connection = sqlite(path);
    let text = "SELECT m.id FROM memories_fts f JOIN memories m ON m.rowid = f.rowid WHERE memories_fts MATCH ?1 \
        ORDER BY m.id";
    let mut found = connection.prepare(text).expect("the words' table");
    let rows = found.query_map([words], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("rows")
}

fn assert_sound(path: &Path) {
    let connection = Connection::open(path).expect("a database");
    let answer: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(answer, "ok");
    connection
        .execute("INSERT INTO memories_fts(memories_fts, rank) VALUES ('integrity-check', 1)", [])
        .expect("the words are those of the texts");
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
    assert_eq!(mode, "delete");
}

fn db(home: &Path) -> PathBuf {
    home.join("memory.db")
}

#[test]
fn memory_db_has_the_original_s_tables_and_every_field() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    let vector: Vec<f32> = (0..384).map(|i| if i == 3 { 2.0 } else { 0.0 }).collect();
    let full = Remember::new("Alpha é 言葉")
        .id(id("a"))
        .at(1_700_000_000)
        .source("s")
        .session("se")
        .importance(0.25)
        .tags(["x", "y,z"])
        .collection("c")
        .speaker("Ann")
        .role("user")
        .position(-3)
        .meta("k", 1)
        .vector(vector);
    store.remember(full).expect("stored");
    store.remember(Remember::new("Beta").id(id("b")).at(5)).expect("stored");
    let published = store.snapshot(&mut |_| {}).expect("published");
    assert_eq!((published.memories, published.kind), (2, PublishKind::Whole));
    assert_eq!(published.path, db(home));
    assert_eq!(db(home).metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    assert_sound(&db(home));
    let connection = sqlite(&db(home));
    type Row = (String, i64, String, String, f64, String, String, Vec<u8>);
    let row: Row = connection
        .query_row(
            "SELECT text, timestamp, source, session_id, importance, tags, collection, embedding FROM memories \
             WHERE id = 'a'",
            [],
            |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
            },
        )
        .expect("the row");
    assert_eq!(
        (row.0.as_str(), row.1, row.2.as_str(), row.3.as_str()),
        ("Alpha é 言葉", 1_700_000_000, "s", "se")
    );
    assert_eq!((row.4, row.5.as_str(), row.6.as_str(), row.7.len()), (0.25, "x,y,z", "c", 1536));
    assert_eq!(row.7[12..16], 1.0_f32.to_le_bytes(), "at length 1");
    let version: (i64, String) = connection
        .query_row("SELECT version, applied_at FROM schema_version", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("the original's version");
    assert_eq!((version.0, version.1.len()), (1, 19));
    let extra: (String, String, i64, String, String) = connection
        .query_row(
            "SELECT speaker, role, position, metadata, tags FROM memento_rows WHERE id = 'a'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .expect("our row");
    assert_eq!((extra.0.as_str(), extra.1.as_str(), extra.2), ("Ann", "user", -3));
    assert_eq!((extra.3.as_str(), extra.4.as_str()), (r#"{"k":1}"#, r#"["x","y,z"]"#));
    let indexes: Vec<String> = connection
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'memories' ORDER BY name",
        )
        .expect("a statement")
        .query_map([], |row| row.get(0))
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("rows");
    assert_eq!(indexes, ["idx_collection", "idx_timestamp", "sqlite_autoindex_memories_1"]);
}

#[test]
fn a_store_that_is_closed_leaves_what_it_remembers_in_memory_db() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    for name in ["a", "b", "c"] {
        store.remember(Remember::new(format!("the word {name}{name}")).id(id(name))).expect("stored");
    }
    store.close().expect("closed");
    assert_eq!(texts(&db(home)).len(), 3);
    let store = open(home);
    store.update("a", Update::new().text("another word")).expect("updated");
    store.forget(["b"]).expect("forgotten");
    store.remember(Remember::new("the word dd").id(id("d"))).expect("stored");
    store.close().expect("closed");
    let ids: Vec<String> = texts(&db(home)).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["a", "c", "d"]);
    assert_sound(&db(home));
    assert_eq!(matching(&db(home), "another"), ["a"]);
    assert_eq!(matching(&db(home), "word"), ["a", "c", "d"]);
    assert!(matching(&db(home), "aa").is_empty() && matching(&db(home), "bb").is_empty());
    let store = open(home);
    assert_eq!(store.snapshot(&mut |_| {}).expect("published").kind, PublishKind::Unchanged);
    store.update("c", Update::new().importance(0.9)).expect("updated");
    assert_eq!(store.snapshot(&mut |_| {}).expect("published").kind, PublishKind::Changes);
    assert_sound(&db(home));
}

#[test]
fn what_a_compaction_has_left_out_does_not_stay_in_memory_db() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    for name in ["a", "b", "c"] {
        store.remember(Remember::new(name).id(id(name))).expect("stored");
    }
    store.snapshot(&mut |_| {}).expect("published");
    store.forget(["b"]).expect("forgotten");
    store.compact(&mut |_| {}).expect("compacted");
    store.snapshot(&mut |_| {}).expect("published");
    let ids: Vec<String> = texts(&db(home)).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["a", "c"]);
}

#[test]
fn a_purge_leaves_nothing_in_memory_db() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    store.remember(Remember::new("keep this").id(id("a"))).expect("stored");
    store.remember(Remember::new("unspeakable canary").id(id("b"))).expect("stored");
    store.snapshot(&mut |_| {}).expect("published");
    let purged = store.purge(["b"], &mut |_| {}).expect("purged");
    assert!(purged.still_in.is_empty(), "{:?}", purged.still_in);
    let bytes = std::fs::read(db(home)).expect("the file");
    assert!(!bytes.windows(6).any(|part| part == b"canary"));
    assert_eq!(texts(&db(home)).len(), 1);
}

#[test]
fn without_publish_there_is_no_memory_db() {
    let home = tempfile::tempdir().expect("a folder");
    let store = Store::open(options(home.path()).publish(false)).expect("open");
    store.remember(Remember::new("a")).expect("stored");
    store.close().expect("closed");
    assert!(!db(home.path()).exists());
}

#[test]
fn a_backup_is_verified_and_a_changed_one_is_not() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let store = Store::open(options(home).clock(clock.clone())).expect("open");
    store.remember(Remember::new("a").id(id("a"))).expect("stored");
    let first = store.backup_with(7, &mut |_| {}).expect("a backup");
    let second = store.backup_with(7, &mut |_| {}).expect("a backup of the same second");
    assert_ne!(first.path, second.path);
    clock.set(1_700_000_000_000 + 3_600_000);
    let third = store.backup_with(7, &mut |_| {}).expect("a backup");
    assert_eq!(texts(&third.path).len(), 1);
    assert_sound(&third.path);
    let listed = store.backups(true).expect("a list");
    assert_eq!(listed[0].path, third.path);
    assert!(listed.iter().all(|backup| backup.verdict != BackupVerdict::Unverified), "{listed:?}");
    assert_sound_is_a_change(&third.path);
    let verdict = |deep| store.backups(deep).expect("a list")[0].verdict;
    assert_eq!(verdict(true), BackupVerdict::Damaged);
}

#[test]
fn a_backup_that_somebody_asked_for_is_not_thinned_out_with_those_of_the_schedule() {
    let home = tempfile::tempdir().expect("a folder");
    let start_ms = 1_700_000_000_000;
    let clock = Arc::new(ManualClock::at(start_ms));
    let store = Store::open(options(home.path()).clock(clock.clone())).expect("open");
    store.remember(Remember::new("a")).expect("stored");
    let asked_for = store.backup_with(2, &mut |_| {}).expect("a backup");
    let is_there = |path: &Path| path.exists() && PathBuf::from(format!("{}.json", path.display())).exists();
    let mut last = None;
    for minute in 1..5 {
        clock.set(start_ms + minute * 60_000);
        let made = store.backup_scheduled(2, &mut |_| {}).expect("a backup");
        let before = last.replace(made.path);
        assert!(before.is_none_or(|before| !is_there(&before)), "one of each hour is enough");
    }
    assert!(is_there(&asked_for.path));
    for day in 1..4 {
        clock.set(start_ms + day * 86_400_000);
        store.backup_scheduled(2, &mut |_| {}).expect("a backup");
    }
    // The schedule's own one of that hour is still among the last of 24 hours.
    assert!(!is_there(&asked_for.path), "it does not stay for longer than days are kept");
}

#[test]
fn backups_at_the_same_time_are_files_of_their_own_and_all_are_whole() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(home.path());
    for n in 0..300 {
        store.remember(Remember::new(format!("text {n}"))).expect("stored");
    }
    let mut paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| store.backup_with(7, &mut |_| {}).expect("a backup").path))
            .collect();
        makers.into_iter().map(|maker| maker.join().expect("no panic")).collect()
    });
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 6, "{paths:?}");
    let listed = store.backups(true).expect("a list");
    assert_eq!(listed.len(), 6, "{listed:?}");
    assert!(listed.iter().all(|backup| backup.verdict == BackupVerdict::Verified), "{listed:?}");
}

/// Changes one byte of a file and nothing of its length.
fn assert_sound_is_a_change(path: &Path) {
    let mut bytes = std::fs::read(path).expect("the file");
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn a_backup_goes_where_it_is_sent_and_never_over_a_file() {
    let home = tempfile::tempdir().expect("a folder");
    let other = tempfile::tempdir().expect("a folder");
    let store = open(home.path());
    store.remember(Remember::new("a")).expect("stored");
    let path = other.path().join("copy.db");
    let made = store.backup_to(&path, &mut |_| {}).expect("a backup");
    assert_eq!((made.path.as_path(), made.verdict), (path.as_path(), BackupVerdict::Verified));
    assert!(other.path().join("copy.db.json").exists());
    let error = store.backup_to(&path, &mut |_| {}).expect_err("it is taken");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let named = store.backup_to(other.path(), &mut |_| {}).expect("a backup in a folder");
    assert_eq!(named.path.parent(), Some(other.path()));
}

/// Flips a bit of these bytes, where they do not stand behind that one, as rot does: neither times nor the length tell.
fn rot(home: &Path, what: &[u8], before: u8) {
    let mut bytes = std::fs::read(db(home)).expect("read");
    let is_it = |at: &usize| bytes[*at..].starts_with(what) && bytes[at - 1] != before;
    let at = (1..bytes.len()).find(is_it).expect("it is there");
    bytes[at] ^= 0x01;
    std::fs::write(db(home), bytes).expect("written");
    pretend_published(home);
}

/// Makes the store believe that this `memory.db` is the one that it has published.
fn pretend_published(home: &Path) {
    use std::os::unix::fs::MetadataExt;
    let (metadata, state) = (std::fs::metadata(db(home)).expect("metadata"), home.join("store/snap.state"));
    let known = std::fs::read(&state).expect("read");
    let mut known: serde_json::Value = serde_json::from_slice(&known).expect("JSON");
    let ns = |seconds: i64, ns: i64| serde_json::json!(seconds * 1_000_000_000 + ns);
    known["file"]["len"] = serde_json::json!(metadata.len());
    known["file"]["modified_ns"] = ns(metadata.mtime(), metadata.mtime_nsec());
    known["file"]["changed_ns"] = ns(metadata.ctime(), metadata.ctime_nsec());
    std::fs::write(&state, known.to_string()).expect("written");
}

/// Takes from the store what it knows of the bytes of `memory.db`. Says whether it knew them.
fn forget_bytes(home: &Path) -> bool {
    let state = home.join("store/snap.state");
    let mut known: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&state).expect("read")).expect("JSON");
    let was = known["crc32"].take();
    std::fs::write(&state, known.to_string()).expect("written");
    was.is_u64()
}

#[test]
fn a_memory_db_that_was_changed_in_place_is_known_by_its_bytes_once_it_was_looked_through() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    store.remember(Remember::new("one")).expect("stored");
    store.snapshot(&mut |_| {}).expect("published");
    assert!(forget_bytes(home), "known since it was written");
    assert_eq!(store.check(&mut |_| {}).expect("a report").findings, []);
    assert!(forget_bytes(home), "known since it was looked through");
    assert_eq!(store.check(&mut |_| {}).expect("a report").findings, []);
    store.remember(Remember::new("two")).expect("stored");
    store.snapshot(&mut |_| {}).expect("published");
    assert!(!forget_bytes(home), "it was changed in place");
}

fn kinds(report: &CheckReport) -> Vec<(&str, &str)> {
    report.findings.iter().map(|finding| (finding.kind.as_str(), finding.file.as_str())).collect()
}

#[test]
fn a_memory_db_that_has_rotted_is_found_and_published_anew() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    for n in 0..50 {
        store
            .remember(Remember::new(format!("memory {n} of fifty")).id(id(&format!("m{n}"))))
            .expect("stored");
    }
    store.remember(Remember::new("twelve tens and two")).expect("stored");
    store.close().expect("closed");
    assert_eq!(check_files(home, &mut |_| {}).expect("a report").status, CheckStatus::Ok);
    let (before, whole) = (texts(&db(home)), std::fs::read(db(home)).expect("read"));
    // In the index of words, whose terms are without those before them: of `twelve` that is `welve`.
    for (what, before) in [(b"welve".as_slice(), b't'), (b"memory 25 of fifty", 0)] {
        // By its bytes, and as a file that was changed in place, whose bytes nobody knows.
        for is_known in [true, false] {
            std::fs::write(db(home), &whole).expect("written");
            rot(home, what, before);
            if !is_known {
                forget_bytes(home);
            }
            let report = check_files(home, &mut |_| {}).expect("a report");
            assert_eq!(kinds(&report), [("memory-db", "memory.db")], "{is_known}");
        }
    }
    let store = open(home);
    assert_eq!(
        store.check_quickly(&mut |_| {}).expect("a report").status,
        CheckStatus::Ok,
        "its header is whole"
    );
    assert_eq!(kinds(&store.check(&mut |_| {}).expect("a report")), [("memory-db", "memory.db")]);
    drop(store);
    let (store, report) = Store::repair(options(home), &mut |_| {}).expect("repaired");
    assert_eq!((report.status, kinds(&report)), (CheckStatus::Repaired, vec![("memory-db", "memory.db")]));
    assert_eq!(store.check(&mut |_| {}).expect("a report").findings, []);
    store.close().expect("closed");
    assert_eq!(texts(&db(home)), before);
    assert_sound(&db(home));
    let kept = std::fs::read_dir(home.join("store/quarantine")).expect("the folder").count();
    assert_eq!(kept, 2, "the file and its note");
}

#[test]
fn a_memory_db_that_was_cut_is_found_by_a_quick_check() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    store.remember(Remember::new("one")).expect("stored");
    store.snapshot(&mut |_| {}).expect("published");
    let bytes = std::fs::read(db(home)).expect("read");
    for left in [bytes.len() - 4096, 50, 0] {
        std::fs::write(db(home), &bytes[..left]).expect("written");
        pretend_published(home);
        let report = store.check_quickly(&mut |_| {}).expect("a report");
        assert_eq!(kinds(&report), [("memory-db", "memory.db")], "{left} bytes");
    }
}

#[test]
fn a_damaged_backup_is_found_and_put_away_and_a_good_one_stays() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let clock = Arc::new(ManualClock::at(1_770_000_000_000));
    let store = Store::open(options(home).clock(clock.clone())).expect("open");
    let mut backups = Vec::new();
    for n in 0..4 {
        store.remember(Remember::new(format!("memory {n}"))).expect("stored");
        backups.push(store.backup().expect("a backup"));
        clock.set(1_770_000_000_000 + 3_600_000 * (n + 1));
    }
    assert_eq!(store.check(&mut |_| {}).expect("a report").findings, []);
    let change = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(path).expect("read");
        change(&mut bytes);
        std::fs::write(path, bytes).expect("written");
    };
    let name = |at: usize| format!("backups/{}", backups[at].file_name().expect("a name").to_string_lossy());
    change(&backups[0], &|bytes| bytes[9000] ^= 1);
    change(&backups[1], &|bytes| bytes.truncate(8192));
    let manifest = |at: usize| home.join(format!("{}.json", name(at)));
    change(&manifest(2), &|bytes| bytes[0] = b'x');
    let quick = store.check_quickly(&mut |_| {}).expect("a report");
    let (cut, manifest_name) = (name(1), format!("{}.json", name(2)));
    assert_eq!(kinds(&quick), [("backup-manifest", manifest_name.as_str()), ("backup", cut.as_str())]);
    store.close().expect("closed");
    let flipped = name(0);
    let deep = check_files(home, &mut |_| {}).expect("a report");
    let all = [("backup-manifest", manifest_name.as_str()), ("backup", cut.as_str()), ("backup", &flipped)];
    assert_eq!(kinds(&deep), all);
    let (store, report) = Store::repair(options(home).clock(clock), &mut |_| {}).expect("repaired");
    assert_eq!((report.status, kinds(&report)), (CheckStatus::Repaired, all.to_vec()));
    let left = store.backups(true).expect("a list");
    let verdicts: Vec<_> = left.iter().map(|backup| (backup.path.clone(), backup.verdict)).collect();
    let verified = |at: usize| (backups[at].clone(), BackupVerdict::Verified);
    assert_eq!(verdicts, [verified(3), verified(2)], "the manifest of a whole one is written anew");
    assert!(left.iter().all(|backup| backup.memories.is_some()));
}

#[test]
fn damaged_segments_of_the_past_are_found_and_the_present_does_not_need_them() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let store = open(home);
    for n in 0..40 {
        store.remember(Remember::new(format!("memory {n}")).id(id(&format!("m{n}")))).expect("stored");
    }
    store.forget((0..30).map(|n| format!("m{n}"))).expect("forgotten");
    store.compact(&mut |_| {}).expect("compacted");
    let trash = home.join("store/trash");
    let segment =
        std::fs::read_dir(&trash).expect("the trash").next().expect("a segment").expect("an entry").path();
    assert_eq!(store.check(&mut |_| {}).expect("a report").findings, []);
    common::overwrite(&segment, &{
        let mut bytes = std::fs::read(&segment).expect("read");
        bytes[5000] ^= 1;
        bytes
    });
    let report = store.check(&mut |_| {}).expect("a report");
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert_eq!(finding.kind, "trash");
    assert!(finding.file.starts_with("store/trash/") && finding.offset.is_some(), "{finding:?}");
    store.close().expect("closed");
    let (store, report) = Store::repair(options(home), &mut |_| {}).expect("repaired");
    assert_eq!(report.status, CheckStatus::Repaired);
    assert_eq!(store.list(&List::new().limit(100)).expect("a list").len(), 10);
    std::fs::write(home.join("store/HISTORY"), "nothing").expect("written");
    assert_eq!(kinds(&store.check(&mut |_| {}).expect("a report")), [("history", "store/HISTORY")]);
    drop(store);
    let (_store, report) = Store::repair(options(home), &mut |_| {}).expect("repaired");
    assert_eq!(report.status, CheckStatus::Repaired);
}
