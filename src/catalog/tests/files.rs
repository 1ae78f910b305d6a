//! The file of the view: creation, reopening, damage, and what else may be in its place.

use std::fs;
#[cfg(unix)]
use std::os::unix::fs::{PermissionsExt, symlink};

use redb::ReadableTable;

use super::*;
use crate::catalog::check::ViewDamage;
use crate::fs::system::FileExt;

#[cfg(unix)]
fn unusable(path: &Path) -> String {
    match Catalog::open(&RealDisk, path, Some(STORE), CACHE).expect("the operating system lets it be opened")
    {
        Opened::Unusable(reason) => reason,
        other => panic!("it can be used: {other:?}"),
    }
}

/// A view of 40 memories that was closed, and what it holds.
fn small() -> (tempfile::TempDir, PathBuf, Script) {
    closed(40)
}

fn closed(memories: i64) -> (tempfile::TempDir, PathBuf, Script) {
    let (folder, path, catalog) = empty();
    let mut script = Script::default();
    for number in 0..memories {
        let mut memory = memory(&format!("id-{number}"), &format!("text {number}"), number);
        memory.tags = vec![format!("tag {}", number % 3)];
        script.push(Op::Remember { memory, vectors: Some(vectors(1)) });
    }
    script.push(Op::Model { number: ModelNumber(1), identity: identity("one") });
    script.apply_to(&catalog, 1000);
    catalog.close().expect("a close");
    (folder, path, script)
}

#[test]
fn a_view_that_is_not_there_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened =
        Catalog::open(&RealDisk, &folder.path().join("view.redb"), Some(STORE), CACHE).expect("an answer");
    assert!(matches!(opened, Opened::Missing), "{opened:?}");
}

#[cfg(unix)]
#[test]
fn a_new_view_is_whole_and_private() {
    let (folder, path, catalog) = empty();
    assert_eq!(catalog.position(), Position::default());
    assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

#[test]
fn a_leftover_of_an_interrupted_creation_is_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("view.redb");
    fs::write(folder.path().join("view.redb.tmp"), b"half a view").expect("a leftover");
    let catalog = Catalog::create(&RealDisk, &path, STORE, CACHE).expect("a new view");
    assert_eq!(catalog.count(), 0);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

#[test]
fn a_view_is_not_made_over_another_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("view.redb");
    fs::write(&path, b"something").expect("a file");
    let error = Catalog::create(&RealDisk, &path, STORE, CACHE).expect_err("something is there");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(fs::read(&path).expect("the file"), b"something");
}

#[cfg(unix)]
#[test]
fn what_cannot_be_the_view_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("folder")).expect("a folder");
    let (_folder, real, _) = small();
    symlink(&real, path("link")).expect("a link");
    symlink(path("nothing"), path("dangling")).expect("a link");
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RUSR).expect("a pipe");
    for name in ["folder", "link", "dangling", "fifo"] {
        assert_eq!(unusable(&path(name)), "it is not a regular file", "{name}");
    }
    fs::write(path("empty"), b"").expect("a file");
    assert_eq!(unusable(&path("empty")), "the file is empty");
    fs::write(path("text"), "text ".repeat(5000)).expect("a file");
    assert_eq!(unusable(&path("text")), "page: the magic is missing");
    fs::write(path("short"), b"MMTOVIEW").expect("a file");
    assert_eq!(unusable(&path("short")), "page: 8 bytes, expected 4096");
    let redb = path("redb");
    drop(redb::Database::create(&redb).expect("a database"));
    assert_eq!(unusable(&redb), "page: the magic is missing");
}

#[test]
fn the_view_of_another_store_is_not_used() {
    let (_folder, path, _) = small();
    match Catalog::open(&RealDisk, &path, Some([9; 16]), CACHE).expect("an answer") {
        Opened::Unusable(reason) => assert_eq!(reason, "it belongs to another store"),
        other => panic!("it can be used: {other:?}"),
    }
    assert_eq!(reopened(&path).count(), 40);
}

#[test]
fn a_view_that_is_open_is_busy_and_stays_usable() {
    let (_folder, path, _) = small();
    let catalog = reopened(&path);
    let error = Catalog::open(&RealDisk, &path, Some(STORE), CACHE).expect_err("it is open");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(catalog.count(), 40);
}

#[test]
fn a_crash_loses_what_came_after_the_checkpoint_and_the_position_says_so() {
    let (folder, path, catalog) = empty();
    let mut script = Script::default();
    for number in 0..200 {
        script.remember(memory(&format!("id-{number}"), &format!("text {number}"), number));
    }
    let records = script.records();
    let copy = folder.path().join("copy.redb");
    let mut held = 0;
    for (seq, record) in (1..).zip(&records) {
        catalog.apply(&[*record], position_after(seq)).expect("it follows");
        if seq % 50 == 30 {
            catalog.checkpoint().expect("a checkpoint");
            held = seq;
        }
        if seq % 9 == 0 {
            // A copy of the file is what a killed process leaves.
            fs::copy(&path, &copy).expect("a copy");
            let after = reopened(&copy);
            assert_eq!(after.position(), if held == 0 { Position::default() } else { position_after(held) });
            assert_eq!(after.count(), held);
            script.apply_to(&after, 64);
            assert_eq!(after.count(), 200);
        }
    }
    script.apply_to(&catalog, 64);
    fs::copy(&path, &copy).expect("a copy");
    let after = reopened(&copy);
    script.apply_to(&after, 64);
    assert_eq!(dump(&after), dump(&catalog));
}

/// Everything that can be read, or the first error.
fn read_all(catalog: &Catalog) -> Result<(Vec<Row>, usize, usize)> {
    let view = catalog.view();
    let mut rows = Vec::new();
    let mut vectors = 0;
    view.for_each_row(MemoryKey(0), |row| {
        rows.push(row);
        ControlFlow::Continue(())
    })?;
    view.for_each_vector(ModelNumber(1), MemoryKey(0), |_, _| {
        vectors += 1;
        ControlFlow::Continue(())
    })?;
    let tagged = Filter { tags_all: vec!["tag 1".to_owned()], ..Filter::default() };
    let tagged = view.list(&tagged, Order::Newest, 0, 100, None)?;
    for row in &rows {
        let found = view.get(row.memory.id.as_str())?;
        assert_eq!(found.as_ref(), Some(row), "an id that is there is found");
    }
    Ok((rows, vectors, tagged.len()))
}

/// Some bytes of every page that was ever written.
fn sample(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    for (page, bytes) in bytes.chunks(4096).enumerate().skip(1) {
        if let Some(written) = bytes.iter().rposition(|byte| *byte != 0) {
            offsets.extend([0, written / 3, written / 2, written].map(|at| page * 4096 + at));
        }
    }
    offsets
}

#[test]
fn a_flipped_bit_gives_an_error_or_the_right_rows() {
    let (_folder, path, _) = closed(400);
    let good = fs::read(&path).expect("the file");
    let expected = read_all(&reopened(&path)).expect("an undamaged view");
    assert_eq!((expected.0.len(), expected.1, expected.2), (400, 400, 100));
    let (mut noticed, mut harmless) = (0, 0);
    let headers = (0..64).chain(512..900);
    for (turn, offset) in headers.chain(sample(&good)).enumerate() {
        let mut bad = good.clone();
        bad[offset] ^= 1 << (turn % 8);
        fs::write(&path, &bad).expect("a damaged file");
        let read = match Catalog::open(&RealDisk, &path, Some(STORE), CACHE)
            .expect("the operating system lets it be opened")
        {
            Opened::Ready(catalog) => read_all(&catalog),
            Opened::Unusable(reason) => Err(Error::new(ErrorKind::Corrupt, reason)),
            Opened::Missing => panic!("offset {offset}: it is there"),
        };
        match read {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "offset {offset}: {error}");
                noticed += 1;
            }
            Ok(read) => {
                assert!(read == expected, "offset {offset}");
                harmless += 1;
            }
        }
    }
    println!("noticed {noticed}, harmless {harmless}");
    assert!(noticed > 500);
}

#[test]
fn a_bit_that_flips_while_the_view_is_open_is_noticed_where_it_is_read() {
    let (_folder, path, _) = closed(400);
    let good = fs::read(&path).expect("the file");
    let (mut noticed, mut harmless) = (0, 0);
    for offset in sample(&good).into_iter().step_by(3) {
        fs::write(&path, &good).expect("the good file");
        let Ok(Opened::Ready(catalog)) = Catalog::open(&RealDisk, &path, Some(STORE), 0) else {
            panic!("it is undamaged")
        };
        let file = fs::File::options().write(true).open(&path).expect("the file");
        file.write_all_at(&[good[offset] ^ 64], offset as u64).expect("a flipped bit");
        match read_all(&catalog) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "offset {offset}: {error}");
                assert_eq!(error.offset(), Some(offset as u64 / 4096 * 4096));
                assert!(catalog.damaged().is_some());
                assert_eq!(catalog.get("id-1").expect_err("it fails at once").kind(), ErrorKind::Corrupt);
                noticed += 1;
            }
            Ok((rows, vectors, tagged)) => {
                assert_eq!((rows.len(), vectors, tagged), (400, 400, 100), "offset {offset}");
                harmless += 1;
            }
        }
    }
    println!("noticed {noticed}, harmless {harmless}");
    assert!(noticed > 20);
}

#[test]
fn check_reports_the_offset_of_a_damaged_page_and_the_view_goes_on() {
    let (_folder, path, script) = small();
    let catalog = reopened(&path);
    let read = checked(&catalog);
    assert_eq!(read.damages, []);
    assert_eq!(read.entries as usize, dump(&catalog).len(), "all entries but the head are scanned");
    read_all(&catalog).expect("an undamaged view");

    // The page of rows is in the catalog's cache by now and rots on the disk.
    let mut bytes = fs::read(&path).expect("the file");
    let text = b"text 17";
    let offset = bytes.windows(text.len()).rposition(|window| window == text).expect("a row");
    bytes[offset] ^= 1;
    fs::write(&path, &bytes).expect("a damaged file");
    let findings = checked(&catalog).damages;
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.offset, Some(offset as u64 / 4096 * 4096));
    assert!(finding.what.starts_with("page: checksum is"), "{finding:?}");
    assert_eq!(catalog.damaged(), None);
    assert_eq!(catalog.count(), script.records().len() as u64 - 1);
}

#[test]
fn check_sees_what_was_applied_a_moment_ago() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    script.remember(memory("one", "a text", 5));
    script.apply_to(&catalog, 1);
    let read = checked(&catalog);
    assert_eq!(read.damages, []);
    // Row, id, four labels, time, and the count of the collection.
    assert_eq!(read.entries, 8);
    script.remember(memory("two", "b text", 5));
    script.apply_to(&catalog, 1);
    assert_eq!(checked(&catalog).damages, []);
    assert_eq!(catalog.count(), 2);
}

/// Changes redb's tables behind the catalog's back, in well-formed pages.
fn tampered(path: &Path, tamper: impl FnOnce(&redb::WriteTransaction)) -> Catalog {
    let file = match database::open_file(&RealDisk, path).expect("the file") {
        Found::File(file) => file,
        _ => panic!("the file is there"),
    };
    let (database, _) = database::build(file, CACHE).expect("the database");
    let mut txn = database.begin_write().expect("a transaction");
    txn.set_quick_repair(true);
    tamper(&txn);
    txn.commit().expect("a commit");
    drop(database);
    reopened(path)
}

fn findings(catalog: &Catalog) -> Vec<(&'static str, String, String)> {
    let findings = checked(catalog).damages;
    let named = |finding: ViewDamage| {
        (finding.table.unwrap_or_default(), finding.key.unwrap_or_default(), finding.what)
    };
    findings.into_iter().map(named).collect()
}

#[test]
fn a_row_under_another_key_is_never_returned() {
    let (_folder, path, _) = small();
    let catalog = tampered(&path, |txn| {
        let mut memory = txn.open_table(tables::MEMORY).expect("the table");
        let row = memory.get(7).expect("a read").expect("a row").value().to_vec();
        memory.insert(8, row.as_slice()).expect("a write");
    });
    let error = catalog.get("id-7").expect_err("the row is another's");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().starts_with("table memory, key 8: checksum is"), "{error}");
    assert!(catalog.get("id-6").expect("a read").is_some());
    let found = findings(&catalog);
    assert_eq!((found[0].0, found[0].1.as_str()), ("memory", "8"), "{found:?}");
}

#[test]
fn check_finds_missing_and_stray_entries() {
    let (_folder, path, _) = small();
    let label = crate::format::row::label_key(Label::Tag("tag 0").hash(), MemoryKey(1));
    let stray = crate::format::row::label_key(Label::Tag("tag 0").hash(), MemoryKey(2));
    let time = crate::format::row::time_key(4, MemoryKey(5));
    let catalog = tampered(&path, |txn| {
        let mut labels = txn.open_table(tables::LABEL).expect("the table");
        labels.remove(label).expect("a write");
        labels.insert(stray, ()).expect("a write");
        txn.open_table(tables::TIME).expect("the table").remove(time).expect("a write");
        txn.open_table(tables::ID).expect("the table").remove(&b"id-9"[..]).expect("a write");
        txn.open_table(tables::STATE).expect("the table").remove(&b"cknowledge"[..]).expect("a write");
    });
    let found: Vec<_> = findings(&catalog).into_iter().collect();
    let expected = [
        ("id", "id-9".to_owned(), "missing or wrong: memory 10 should have it".to_owned()),
        ("label", shown(label), "missing or wrong: memory 1 should have it".to_owned()),
        ("label", shown(stray), "stray: no memory should have it".to_owned()),
        ("time", shown(time), "missing or wrong: memory 5 should have it".to_owned()),
        ("state", "cknowledge".to_owned(), "the count is missing, there are 40".to_owned()),
    ];
    assert_eq!(found, expected);
}

fn shown(key: u128) -> String {
    format!("{:016x}/{}", key >> 64, key as u64)
}
