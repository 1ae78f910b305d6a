//! Lengths that files declare and do not have, read by a process that may take 512 MiB of addresses and no more.
//!
//! Whoever allocates what a file says ends with an abort there, and the test with it. Checksums are set right, because
//! only then the lengths are believed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use memento_kv::check::check_files;
use memento_kv::{ErrorKind, List, Remember, Result, Store, Update};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::common;
use crate::support::{good, run, run_child};

const ADDRESSES_LEN_MAX: u64 = 512 << 20;

/// Runs the work in a process of its own with little memory.
fn with_little_memory(test: &str, work: impl FnOnce()) {
    if common::is_child(test) {
        let limit = Some(ADDRESSES_LEN_MAX);
        setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).expect("a lower limit");
        let len = usize::try_from(ADDRESSES_LEN_MAX).expect("it is below that of all addresses");
        assert!(Vec::<u8>::new().try_reserve_exact(len).is_err(), "the limit has no effect");
        return work();
    }
    run_child(&mut Command::new(std::env::current_exe().expect("this program")), test);
}

/// A closed store with a record of each kind.
fn store() -> tempfile::TempDir {
    let home = common::quick_folder();
    let store = common::open(home.path());
    for name in ["one", "two"] {
        let remember = Remember::new(format!("The river is {name}.")).tags(["river"]).meta("why", name);
        store.remember(remember.id(memento_kv::MemoryId::new(name).expect("an id"))).expect("remember");
    }
    store.embed_pending(&mut |_| {}).expect("embed");
    store.update("one", Update::new().text("The river is green.")).expect("update");
    store.forget(["two"]).expect("forget");
    store.close().expect("close");
    home
}

fn in_store(home: &Path, name: &str) -> PathBuf {
    home.join("store").join(name)
}

/// An answer or an error with a kind that says what is wrong. All else would be an end of the process.
fn is_good<T>(result: Result<T>, context: &str) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            let kinds = [ErrorKind::Corrupt, ErrorKind::UnknownFormat, ErrorKind::ForeignStore];
            assert!(kinds.contains(&error.kind()), "{context}: {error:?}");
            false
        }
    }
}

/// Checks the log, opens the store and lists what it holds.
fn use_store(home: &Path, context: &str) -> bool {
    is_good(check_files(home, &mut |_| {}), context);
    let store = Store::open(common::options(home));
    if let Ok(store) = &store {
        is_good(store.list(&List::new()), context);
    }
    is_good(store, context)
}

/// What stands in place of a number of so many bytes.
fn numbers(len: usize, file_len: usize) -> Vec<Vec<u8>> {
    let max = u64::MAX >> (64 - 8 * len);
    let file_len = file_len as u64;
    let mut numbers = vec![0, 1, max >> 1, max - 1, max];
    numbers
        .extend([file_len, file_len + 1, 1 << 24, (1 << 24) + 1].into_iter().filter(|number| *number <= max));
    numbers.into_iter().map(|number| number.to_le_bytes()[..len].to_vec()).collect()
}

/// The same as the codec writes it in place of a length: with 2, 4 or 8 bytes behind a mark.
fn marked() -> [Vec<u8>; 5] {
    [
        vec![0],
        vec![0xFB, 0xFF, 0xFF],
        vec![0xFC, 0xFE, 0xFF, 0xFF, 0xFF],
        vec![0xFD, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        vec![0xFD, 0, 0, 0, 0x10, 0, 0, 0, 0],
    ]
}

/// The bytes with these at the offset, as far as there is room.
fn with(bytes: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = bytes.len().min(offset + new.len());
    bytes[offset..end].copy_from_slice(&new[..end - offset]);
    bytes
}

fn put_checksum(bytes: &mut [u8], at: usize, checksum: u32) {
    bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Offset and length of each record of a segment without a seal.
fn records(segment: &[u8]) -> Vec<(usize, usize)> {
    let (mut all, mut offset) = (Vec::new(), 4096);
    while segment[offset..].starts_with(b"MRC1") {
        let payload_len = u32::from_le_bytes(segment[offset + 4..offset + 8].try_into().expect("four bytes"));
        let len = 40 + payload_len as usize;
        all.push((offset, len));
        offset += len.next_multiple_of(8);
        if offset >= segment.len() {
            break;
        }
    }
    all
}

#[test]
fn headers_of_segments_that_say_anything_take_no_memory() {
    with_little_memory("lengths::headers_of_segments_that_say_anything_take_no_memory", || {
        let home = store();
        let segment = common::segments(home.path()).remove(0);
        let whole = std::fs::read(&segment).expect("read");
        let fields = [(8, 2), (10, 2), (12, 4), (72, 4), (76, 2), (78, 2)];
        let fields = fields.into_iter().chain([32, 40, 48, 56, 64, 80, 88, 96, 104, 112].map(|at| (at, 8)));
        let mut refused = 0;
        for (at, len) in fields {
            for number in numbers(len, whole.len()) {
                let mut bytes = whole.clone();
                for copy in [0, 2048] {
                    bytes[copy + at..copy + at + len].copy_from_slice(&number);
                    let checksum = crc32fast::hash(&bytes[copy..copy + 124]);
                    put_checksum(&mut bytes, copy + 124, checksum);
                }
                let copy = common::quick_folder();
                common::copy_folder(home.path(), copy.path());
                common::overwrite(&common::segments(copy.path())[0], &bytes);
                let context = format!("{number:?} at {at}");
                refused += u32::from(!use_store(copy.path(), &context));
            }
        }
        assert!(refused > 20, "what contradicts the rest is refused: {refused}");
    });
}

#[test]
fn records_that_say_anything_take_no_memory() {
    with_little_memory("lengths::records_that_say_anything_take_no_memory", || {
        let home = store();
        // The log alone, so that opening reads every record.
        for name in ["view.redb", "MANIFEST"] {
            std::fs::remove_file(in_store(home.path(), name)).expect("remove");
        }
        let segment = common::segments(home.path()).remove(0);
        let whole = std::fs::read(&segment).expect("read");
        let records = records(&whole);
        assert!(records.len() >= 6, "a record of each kind: {records:?}");
        let mut tried = 0;
        for (start, len) in records {
            let header = [(4, 4), (8, 8), (16, 8), (24, 8)].into_iter();
            let header =
                header.flat_map(|(at, len)| numbers(len, whole.len()).into_iter().map(move |n| (at, n)));
            // Every byte of a payload may be the first of a length.
            let payload = (40..len).flat_map(|at| marked().into_iter().map(move |number| (at, number)));
            let prefix = numbers(4, whole.len()).into_iter().map(|number| (40, number));
            let vectors = (40..len).step_by(4).map(|at| (at, vec![0xFF, 0xFF, 0xFF, 0x7F]));
            for (at, number) in header.chain(payload).chain(prefix).chain(vectors) {
                let mut bytes = with(&whole, start + at, &number);
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&bytes[start..start + 36]);
                hasher.update(&bytes[start + 40..start + len]);
                put_checksum(&mut bytes, start + 36, hasher.finalize());
                common::overwrite(&segment, &bytes);
                let context = format!("{number:?} at {at} of the record at {start}");
                is_good(check_files(home.path(), &mut |_| {}), &context);
                tried += 1;
                // Opening writes and takes longer: the header's fields, and some of the rest.
                if at < 44 || tried % 16 == 0 {
                    let copy = common::quick_folder();
                    common::copy_folder(home.path(), copy.path());
                    use_store(copy.path(), &context);
                }
            }
        }
    });
}

#[test]
fn manifests_that_say_anything_take_no_memory() {
    with_little_memory("lengths::manifests_that_say_anything_take_no_memory", || {
        let home = store();
        let whole = std::fs::read(in_store(home.path(), "MANIFEST")).expect("read");
        let lengths = numbers(4, whole.len()).into_iter().map(|number| (12, number));
        let body = (20..whole.len()).flat_map(|at| marked().into_iter().map(move |number| (at, number)));
        for (at, number) in lengths.chain(body) {
            let mut bytes = with(&whole, at, &number);
            let checksum = crc32fast::hash(&[&bytes[..16], &bytes[20..]].concat());
            put_checksum(&mut bytes, 16, checksum);
            let copy = common::quick_folder();
            common::copy_folder(home.path(), copy.path());
            common::overwrite(&in_store(copy.path(), "MANIFEST"), &bytes);
            let context = format!("{number:?} at {at}");
            use_store(copy.path(), &context);
        }
    });
}

#[test]
fn a_view_that_says_anything_takes_no_memory_and_is_built_anew() {
    with_little_memory("lengths::a_view_that_says_anything_takes_no_memory_and_is_built_anew", || {
        let home = store();
        let whole = std::fs::read(in_store(home.path(), "view.redb")).expect("read");
        // The header of the database, with the sizes of its pages and regions, and the roots of its trees.
        for at in (9..320).step_by(4) {
            for number in [vec![0; 4], vec![0xFF; 4], vec![0xFF, 0xFF, 0xFF, 0x7F], vec![0xFF; 8]] {
                let copy = common::quick_folder();
                common::copy_folder(home.path(), copy.path());
                common::overwrite(&in_store(copy.path(), "view.redb"), &with(&whole, at, &number));
                let context = format!("{number:?} at {at}");
                assert!(use_store(copy.path(), &context), "{context}: the log is whole");
            }
        }
    });
}

#[test]
fn files_of_many_gigabytes_take_no_memory() {
    with_little_memory("lengths::files_of_many_gigabytes_take_no_memory", || {
        let home = store();
        for name in ["LOCK", "MANIFEST", "view.redb", "query.cache", "seg"] {
            let copy = common::quick_folder();
            common::copy_folder(home.path(), copy.path());
            let path = match name {
                "seg" => common::segments(copy.path()).remove(0),
                name => in_store(copy.path(), name),
            };
            let file = File::options().write(true).create(true).truncate(false).open(path).expect("open");
            // Nothing is behind it on the disk. A log is read to its end, so that one may not be endless.
            file.set_len(if name == "seg" { 1 << 30 } else { 1 << 34 }).expect("a sparse file");
            use_store(copy.path(), name);
        }
    });
}

#[test]
fn imports_that_never_end_take_no_memory() {
    with_little_memory("lengths::imports_that_never_end_take_no_memory", || {
        let folder = common::folder();
        let (home, path) = (folder.path().join("home"), folder.path().join("file"));
        good(&home, ["remember", "the river is green"]);
        let nested = |open: &str| format!("{{\"text\":\"a\",\"metadata\":{{\"a\":{}", open.repeat(1 << 20));
        let beginnings = [
            String::new(),
            "{".to_owned(),
            "{\"text\":\"".to_owned(),
            "{\"memories\":[{\"text\":\"".to_owned(),
            "{\"total_memories\":18446744073709551615,\"memories\":[".to_owned(),
            "{\"text\":\"a\",\"position\":99999999999999999999999999999999,\"vector\":[1e999999999"
                .to_owned(),
            nested("["),
            nested("{\"a\":"),
            format!("[{}", nested("[")),
        ];
        for beginning in beginnings {
            std::fs::write(&path, &beginning).expect("write");
            File::options().write(true).open(&path).expect("open").set_len(1 << 32).expect("a sparse file");
            for format in ["json", "jsonl"] {
                let ran = run(
                    &home,
                    ["import", path.to_str().expect("a plain name"), "--format", format, "--json"],
                );
                assert!(ran.code.is_some(), "{beginning:.60}: {:.500}", format!("{ran:?}"));
                let kind = ran.error().0;
                assert!(["invalid", "too_large"].contains(&kind.as_str()), "{beginning:.60}: {kind}");
            }
        }
    });
}
