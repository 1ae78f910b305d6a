//! The log against crashes, failing disks and damage.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::recover::{Recovered, TornTail};
use super::scan::read_seal;
use super::tail::WriteError;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::format::manifest::TailV1;
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::format::record::RECORD_ALIGN;
use crate::format::row::Position;
use crate::fs::RealDisk;
use crate::fs::faulty::{Call, FaultyDisk};
use crate::fs::system::{self, FileExt};
use crate::memory::MemoryId;
use crate::parts::chance::Chance;
use crate::parts::disk::{SimulatedDisk, Trouble};

const STORE: [u8; 16] = [9; 16];

/// Remembers what was staged, to see what is taken back.
#[derive(Debug, Default)]
struct Seen(Vec<u64>);

impl Staged for Seen {
    fn abandon(&mut self, after_seq: u64) {
        self.0.retain(|seq| *seq <= after_seq);
    }
}

struct Bench {
    _folder: Option<tempfile::TempDir>,
    place: Place,
}

/// What a view that holds so many records says.
fn held(applied_seq: u64) -> Position {
    let tail = TailV1 { last_seq: applied_seq, ..TailV1::default() };
    Position { tail, ..Position::default() }
}

fn name(number: u64, base_seq: u64) -> String {
    SegmentName { number, base_seq, generation: 0 }.to_string()
}

impl Bench {
    fn new() -> Self {
        Self::on(Arc::new(RealDisk))
    }

    fn on(disk: Arc<dyn Disk>) -> Self {
        // Some of these tests open the log thousands of times: in memory, where the system has a folder for that.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a temporary folder");
        let segments = folder.path().join("seg");
        disk.create_folder(&segments).expect("folder");
        let place = Place { disk, segments, manifest: folder.path().join("MANIFEST") };
        Self { _folder: Some(folder), place }
    }

    /// On a simulated disk that has the folder of the segments.
    fn simulated(disk: SimulatedDisk) -> Self {
        let (segments, manifest) = ("/disk/seg".into(), "/disk/MANIFEST".into());
        Self { _folder: None, place: Place { disk: Arc::new(disk), segments, manifest } }
    }

    fn open(&self, applied_seq: u64) -> Result<(Log<Seen>, Report)> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1));
        let Recovered { tail, torn, missing, .. } = recover(&self.place, &clock, STORE, held(applied_seq))?;
        Ok((Log::new(tail, Seen::default()), Report { torn, missing }))
    }

    fn last_path(&self) -> PathBuf {
        list(&self.place).expect("list").segments.last().expect("a segment").path.clone()
    }

    /// Sequences and ids of all records of all segments.
    fn records(&self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        for segment in list(&self.place).expect("list").segments {
            let file = open_segment(&self.place, &segment).expect("open");
            let mut scanner = Scanner::new(&*file, segment.header.epoch, 4096).expect("scan");
            while let Ok((header, payload, _)) = scanner.next().expect("read") {
                if let Op::Forget { id, .. } =
                    Op::decode_payload(header.kind, header.has_vectors, payload).expect("op")
                {
                    found.push((header.seq, id.to_string()));
                }
            }
        }
        found
    }
}

#[derive(Debug)]
struct Report {
    torn: Option<TornTail>,
    missing: Vec<u64>,
}

fn op(name: &str) -> Arc<Op> {
    Arc::new(Op::Forget { key: MemoryKey(1), id: MemoryId::new(name).expect("an id") })
}

fn write(log: &Log<Seen>, names: &[&str]) -> Result<u64> {
    log.commit(|staged, next_seq| {
        staged.0.push(next_seq);
        let last = next_seq + names.len() as u64 - 1;
        Ok(Planned { ops: names.iter().map(|name| op(name)).collect(), after_seq: last, outcome: last })
    })
}

fn flip(path: &Path, offset: u64) {
    system::make_writable(path);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x20], offset).expect("write");
}

#[test]
fn records_are_there_after_a_clean_close_and_after_a_kill() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    assert_eq!(write(&log, &["a"]).expect("write"), 1);
    assert_eq!(write(&log, &["b", "c"]).expect("write"), 3);
    log.close().expect("close");
    let (log, recovered) = bench.open(3).expect("open");
    assert_eq!(
        (recovered.torn, list(&bench.place).expect("list").segments.len()),
        (None, 1),
        "a clean close goes on"
    );
    assert_eq!(write(&log, &["d"]).expect("write"), 4);
    drop(log); // a kill: no close
    let (log, recovered) = bench.open(3).expect("open");
    assert_eq!(
        (recovered.torn, list(&bench.place).expect("list").segments.len()),
        (None, 2),
        "a kill begins a new segment"
    );
    assert_eq!(write(&log, &["e"]).expect("write"), 5);
    let names: Vec<_> = bench.records().into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

#[test]
fn eight_threads_share_syncs_and_sequences_have_no_gap() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..50 {
                    write(log, &[&format!("{thread}-{n}")]).expect("write");
                }
            });
        }
    });
    let committed: Vec<_> = log.take_committed().iter().map(|record| record.seq).collect();
    assert_eq!(committed, (1..=400).collect::<Vec<_>>());
    drop(log);
    let seqs: Vec<_> = bench.records().iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
}

/// Runs `work` beside a thread that leads for those who do not wait.
fn with_leader(log: &Log<Seen>, work: impl FnOnce(&std::thread::Thread)) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| log.lead_for_others(|| is_over.load(Ordering::Acquire)));
        let thread = leader.thread().clone();
        work(&thread);
        is_over.store(true, Ordering::Release);
        thread.unpark();
    });
}

/// As [`write`], without waiting: what becomes of it is sent.
fn begin(log: &Log<Seen>, name: &str, leader: &std::thread::Thread, told: &mpsc::Sender<Result<u64>>) {
    let begun = log.begin(|staged, next_seq| {
        staged.0.push(next_seq);
        Ok(Planned { ops: vec![op(name)], after_seq: next_seq, outcome: next_seq })
    });
    let told = told.clone();
    match begun {
        Ok(begun) => log.then(begun, leader, move |outcome| told.send(outcome).expect("somebody listens")),
        Err(error) => told.send(Err(error)).expect("somebody listens"),
    }
}

#[test]
fn those_who_do_not_wait_are_told_once_it_is_durable_beside_those_who_do() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    let (told, tells) = mpsc::channel();
    with_leader(&log, |leader| {
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (log, told) = (&log, told.clone());
                scope.spawn(move || {
                    for n in 0..100 {
                        let name = format!("{thread}-{n}");
                        if thread % 3 == 0 {
                            told.send(write(log, &[&name])).expect("somebody listens");
                        } else {
                            begin(log, &name, leader, &told);
                        }
                    }
                });
            }
        });
        // All are told, though nobody comes any more who would lead.
        let mut seqs: Vec<u64> = tells.iter().take(600).map(|seq| seq.expect("durable")).collect();
        assert!(seqs.iter().all(|seq| *seq <= log.durable_seq()));
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=600).collect::<Vec<_>>());
    });
    drop(log);
    assert_eq!(bench.records().len(), 600);
}

#[test]
fn those_who_do_not_wait_are_told_what_failed() {
    let (disk, plan) = FaultyDisk::new(Call::Sync, io::ErrorKind::Other);
    let bench = Bench::on(Arc::new(disk));
    let (log, _) = bench.open(0).expect("open");
    let (told, tells) = mpsc::channel();
    with_leader(&log, |leader| {
        begin(&log, "a", leader, &told);
        assert_eq!(tells.recv().expect("told").expect("durable"), 1);
        plan.arm(1, 1);
        begin(&log, "b", leader, &told);
        assert_eq!(tells.recv().expect("told").expect_err("failed").kind(), ErrorKind::CommitUnknown);
        begin(&log, "c", leader, &told);
        assert_eq!(tells.recv().expect("told").expect_err("poisoned").kind(), ErrorKind::Poisoned);
    });
}

#[test]
fn torn_tail_is_dropped_at_every_cut() {
    for cut in 1..=48 {
        let bench = Bench::new();
        let (log, _) = bench.open(0).expect("open");
        write(&log, &["a"]).expect("write");
        let end = log.lock_tail().state().len;
        write(&log, &["b"]).expect("write");
        let whole = log.lock_tail().state().len;
        drop(log);
        let path = bench.last_path();
        // Zeros instead of the record's last bytes: what the disk never got.
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
        file.set_len((whole - cut).max(end)).expect("cut");
        file.set_len(whole + 100).expect("zeros");
        drop(file);
        let (log, _) = bench.open(0).expect("a torn tail is no damage");
        write(&log, &["c"]).expect("write");
        drop(log);
        let records = bench.records();
        let torn = vec![(1, "a".to_owned()), (2, "c".to_owned())];
        let kept = vec![(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())];
        assert!(records == torn || (cut < RECORD_ALIGN as u64 && records == kept), "cut {cut}: {records:?}");
    }
}

#[test]
fn a_group_is_there_as_a_whole_or_not_at_all() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    write(&log, &["b", "c", "d"]).expect("write");
    let end = log.lock_tail().state().len;
    drop(log);
    let file = std::fs::OpenOptions::new().write(true).open(bench.last_path()).expect("open");
    file.set_len(end - 1).expect("cut");
    let (_, recovered) = bench.open(0).expect("open");
    assert!(recovered.torn.is_some());
    assert_eq!(bench.records(), [(1, "a".to_owned())]);
}

#[test]
fn damage_to_an_acknowledged_record_is_not_taken_for_a_torn_tail() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    write(&log, &["b"]).expect("write");
    drop(log);
    flip(&bench.last_path(), 4096 + 42);
    let error = bench.open(0).expect_err("record 2 proves that record 1 was durable");
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(4096)), "{error}");
}

#[test]
fn the_view_proves_that_the_last_record_was_durable() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    drop(log);
    flip(&bench.last_path(), 4096 + 42);
    assert_eq!(bench.open(1).expect_err("the view has it").kind(), ErrorKind::Corrupt);
    assert!(bench.open(0).expect("nothing proves it").1.torn.is_some());
}

#[test]
fn every_flipped_byte_of_a_segment_is_noticed_or_harmless() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    for name in ["a", "b", "c"] {
        write(&log, &[name]).expect("write");
    }
    log.close().expect("close");
    drop(log);
    let path = bench.last_path();
    let pristine = std::fs::read(&path).expect("read");
    std::fs::remove_file(&bench.place.manifest).expect("so that the segment is scanned");
    for offset in 0..pristine.len() as u64 {
        std::fs::write(&path, &pristine).expect("write");
        flip(&path, offset);
        match bench.open(3) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "offset {offset}"),
            Ok((log, _)) => {
                drop(log);
                let names: String = bench.records().into_iter().map(|(_, name)| name).collect();
                assert_eq!(names, "abc", "offset {offset}");
                assert!(offset < 4096, "a flipped byte of a record went unnoticed at {offset}");
            }
        }
        for name in std::fs::read_dir(&bench.place.segments).expect("list") {
            let name = name.expect("entry").path();
            if name != path {
                std::fs::remove_file(name).expect("remove");
            }
        }
        let _ = std::fs::remove_file(&bench.place.manifest);
        std::fs::remove_file(&path).expect("it may have been made read-only");
    }
}

#[test]
fn a_failed_sync_poisons_the_log_and_nothing_is_acknowledged_after_it() {
    for error in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let (disk, plan) = FaultyDisk::new(Call::Sync, error);
        let bench = Bench::on(Arc::new(disk));
        let (log, _) = bench.open(0).expect("open");
        write(&log, &["a"]).expect("write");
        plan.arm(1, 1);
        let failed = write(&log, &["b"]).expect_err("the sync failed");
        assert_eq!(
            (failed.kind(), failed.durability()),
            (ErrorKind::CommitUnknown, crate::Durability::Unknown)
        );
        let refused = write(&log, &["c"]).expect_err("poisoned");
        assert_eq!(
            (refused.kind(), refused.durability()),
            (ErrorKind::Poisoned, crate::Durability::NotWritten)
        );
        assert!(log.close().is_err());
        drop(log);
        let (log, _) = bench.open(1).expect("open");
        write(&log, &["d"]).expect("a reopened log takes writes");
        let names: Vec<_> = bench.records().into_iter().map(|(_, name)| name).collect();
        assert!(names == ["a", "d"] || names == ["a", "b", "d"], "{names:?}");
    }
}

#[test]
fn a_full_disk_is_met_before_a_record_is_at_stake() {
    let (disk, plan) = FaultyDisk::new(Call::Write, io::ErrorKind::StorageFull);
    let bench = Bench::on(Arc::new(disk));
    let (log, _) = bench.open(0).expect("open");
    plan.arm(1, 2); // Zero-filling far ahead fails, and so does filling just what is needed.
    let error = write(&log, &["a"]).expect_err("the disk is full");
    assert_eq!((error.kind(), error.durability()), (ErrorKind::NoSpace, crate::Durability::NotWritten));
    assert!(log.with_staged(|seen| seen.0.is_empty()), "what was not written is taken back");
    plan.arm(1, 1); // There is room for what is needed, but not for more.
    assert_eq!(write(&log, &["b"]).expect("space was freed"), 1);
    log.close().expect("close");
    assert_eq!(bench.records(), [(1, "b".to_owned())]);
}

/// A record of about so many bytes.
fn large(len: usize) -> Arc<Op> {
    let vectors = Vectors { model: ModelNumber(1), dimensions: 1024, values: vec![0.5; 1024 * (len / 4096)] };
    Arc::new(Op::Vector { key: MemoryKey(1), text_seq: 1, vectors })
}

fn write_large(log: &Log<Seen>, len: usize) -> Result<u64> {
    log.commit(|staged, next_seq| {
        staged.0.push(next_seq);
        Ok(Planned { ops: vec![large(len)], after_seq: next_seq, outcome: next_seq })
    })
}

#[test]
fn a_large_batch_that_finds_no_room_leaves_the_log_as_it_was() {
    // The first write goes where the file has no space yet, the second one over zeros that are there.
    for (failing, is_clean) in [(1, true), (2, false)] {
        let (disk, plan) = FaultyDisk::new(Call::Write, io::ErrorKind::StorageFull);
        let bench = Bench::on(Arc::new(disk));
        let (log, _) = bench.open(0).expect("open");
        write(&log, &["a"]).expect("write");
        let len = std::fs::metadata(bench.last_path()).expect("metadata").len();
        plan.arm(failing, 1);
        let error = write_large(&log, 1 << 20).expect_err("the disk is full");
        if is_clean {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert_eq!(
                std::fs::metadata(bench.last_path()).expect("metadata").len(),
                len,
                "space is given back"
            );
            assert_eq!(write(&log, &["b"]).expect("a small one has room"), 2);
            assert_eq!(write_large(&log, 1 << 20).expect("space was freed"), 3);
            assert_eq!(write(&log, &["c"]).expect("write"), 4);
        } else {
            assert_eq!(error.kind(), ErrorKind::CommitUnknown, "records may be in the file");
        }
        drop(log); // a kill
        bench.open(0).expect("open");
        let names: Vec<_> = bench.records().into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(names, if is_clean { vec![1, 2, 4] } else { vec![1] });
    }
}

#[test]
fn a_batch_never_makes_a_segment_longer_than_its_limit() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    let tail = log.lock_tail(); // Nobody writes, so that the groups of all threads gather.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| write_large(&log, 15 << 20).expect("write"));
        }
        while log.with_staged(|seen| seen.0.len()) < 6 {
            std::thread::yield_now();
        }
        drop(tail);
    });
    let segments = log.segments().all();
    let lens: Vec<_> =
        segments.iter().map(|segment| std::fs::metadata(&segment.path).expect("metadata").len()).collect();
    assert!(lens.iter().all(|len| *len <= SEGMENT_LEN_MAX), "{lens:?}");
    assert_eq!(log.durable_seq(), 6);
}

#[test]
fn what_the_view_holds_is_not_scanned_again_and_the_seal_counts_it_all_the_same() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    write(&log, &["b"]).expect("write");
    let held = log.take_committed().last().expect("two records").after;
    write(&log, &["c", "d"]).expect("write");
    drop(log); // a kill
    let path = bench.last_path();
    let image = std::fs::read(&path).expect("read");
    flip(&path, 4096 + 44);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1));
    let foreign = Position { epoch: held.epoch + 1, ..held };
    for other in [foreign, Position::default()] {
        let error = recover(&bench.place, &clock, STORE, other).expect_err("the first record is damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    drop(recover(&bench.place, &clock, STORE, held).expect("what the view holds need not be read"));
    let sealed = |path: &Path| {
        let epoch = list(&bench.place).expect("list").segments[0].header.epoch;
        read_seal(&*RealDisk.open(path, Access::Read).expect("open"), epoch).expect("read").expect("sealed")
    };
    let seal = sealed(&path);
    assert_eq!((seal.records, seal.last_seq), (4, 4));
    // The same without the damage and without a view.
    for segment in list(&bench.place).expect("list").segments {
        std::fs::remove_file(segment.path).expect("remove");
    }
    std::fs::remove_file(&bench.place.manifest).expect("remove");
    std::fs::write(&path, image).expect("write");
    drop(bench.open(0).expect("open"));
    assert_eq!(sealed(&path), seal);
}

#[test]
fn a_place_in_another_history_is_told_from_one_that_is_only_ahead() {
    let bench = rolled();
    let segments = list(&bench.place).expect("list").segments;
    let at = |number: usize, last_seq: u64| Position {
        epoch: segments[number - 1].header.epoch,
        tail: TailV1 { segment: number as u64, last_seq, ..TailV1::default() },
        ..Position::default()
    };
    let begins = segments[1].header.base_seq;
    let is_in_history = |segments: &[Segment], held: Position| {
        super::is_in_history(&bench.place, segments, held).expect("the disk works")
    };
    assert!(is_in_history(&segments, Position::default()));
    assert!(is_in_history(&segments, at(1, begins - 1)));
    assert!(
        is_in_history(&segments, at(2, begins + 100)),
        "the log may have lost its end: that is told elsewhere"
    );
    assert!(is_in_history(&segments[1..], at(1, begins - 1)), "a segment that is gone tells nothing");
    assert!(!is_in_history(&segments, at(1, begins)), "the log went on without what the view has");
    assert!(!is_in_history(&segments[1..], at(1, begins)));
    let other = Position { epoch: segments[1].header.epoch + 1, ..at(2, begins) };
    assert!(!is_in_history(&segments, other));
    // The record before the place tells two histories of one segment apart, when it is whole.
    let file = open_segment(&bench.place, &segments[1]).expect("open");
    let mut scanner = Scanner::new(&*file, segments[1].header.epoch, 4096).expect("scan");
    let (header, ..) = scanner.next().expect("read").expect("a record");
    let mine = Position { last_offset: 4096, last_checksum: header.checksum, ..at(2, begins) };
    assert!(is_in_history(&segments, mine));
    let theirs = Position { last_checksum: header.checksum ^ 1, ..mine };
    assert!(!is_in_history(&segments, theirs));
    flip(&segments[1].path, 4096 + 44);
    assert!(is_in_history(&segments, theirs), "damage is no other history");
}

#[test]
fn rolling_seals_and_a_crash_in_between_is_finished() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    assert!(log.lock_tail().roll().is_ok());
    write(&log, &["b"]).expect("write");
    drop(log);
    let listing = list(&bench.place).expect("list");
    let first = &listing.segments[0];
    let file = open_segment(&bench.place, first).expect("open");
    let seal = read_seal(&*file, first.header.epoch).expect("read").expect("sealed");
    assert_eq!((seal.records, seal.last_seq), (1, 1));
    // As if the crash had come before the seal.
    system::make_writable(&first.path);
    std::fs::OpenOptions::new().write(true).open(&first.path).expect("open").set_len(seal.len).expect("cut");
    let (_, recovered) = bench.open(0).expect("open");
    assert_eq!(recovered.torn, None);
    let again =
        read_seal(&*open_segment(&bench.place, first).expect("open"), first.header.epoch).expect("read");
    assert_eq!(again, Some(seal));
}

#[test]
fn a_crash_between_the_seal_and_the_cut_behind_it_is_finished() {
    // Sealed by rolling, with a successor, and sealed by a recovery that came no further.
    for rolled in [true, false] {
        let bench = Bench::new();
        let (log, _) = bench.open(0).expect("open");
        write(&log, &["a"]).expect("write");
        assert!(log.lock_tail().roll().is_ok());
        if rolled {
            write(&log, &["b"]).expect("write");
        }
        drop(log);
        let listing = list(&bench.place).expect("list");
        let [first, second] = &listing.segments[..] else { panic!("two segments") };
        if !rolled {
            std::fs::remove_file(&second.path).expect("remove");
            std::fs::remove_file(&bench.place.manifest).expect("remove");
        }
        // The zero-filled space behind the seal, which the crash left there.
        let extend = |len| {
            system::make_writable(&first.path);
            let file = std::fs::OpenOptions::new().write(true).open(&first.path).expect("open");
            file.set_len(len).expect("zeros");
        };
        let sealed_len = std::fs::metadata(&first.path).expect("stat").len();
        extend(sealed_len + 5000);
        let (log, recovered) = bench.open(1).expect("a crash is not corruption");
        assert_eq!(recovered.torn, None);
        write(&log, &["c"]).expect("write");
        drop(log);
        assert_eq!(std::fs::metadata(&first.path).expect("stat").len(), sealed_len);
        bench.open(2).expect("and again");
        let names: String = bench.records().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, if rolled { "abc" } else { "ac" });
    }
}

#[test]
fn recovery_that_a_crash_cuts_short_is_finished_by_the_next() {
    for call in [Call::Write, Call::Sync, Call::SetLen, Call::Rename, Call::SyncFolder] {
        for step in 1.. {
            let (disk, plan) = FaultyDisk::new(call, io::ErrorKind::Other);
            let bench = Bench::on(Arc::new(disk));
            let (log, _) = bench.open(0).expect("open");
            write(&log, &["a"]).expect("write");
            let end = log.lock_tail().state().len;
            drop(log);
            let file = std::fs::OpenOptions::new().write(true).open(bench.last_path()).expect("open");
            file.write_all_at(&[b'x'; 300], end).expect("a torn tail that is longer than a seal");
            // Everything before this call is done, and nothing after it: as a kill leaves it.
            plan.arm(step, i64::MAX);
            let whole = bench.open(1).is_ok();
            plan.arm(0, 0);
            let (log, _) = bench.open(1).unwrap_or_else(|error| panic!("{call:?} {step}: {error}"));
            write(&log, &["b"]).expect("write");
            drop(log);
            bench.open(2).unwrap_or_else(|error| panic!("{call:?} {step}: {error}"));
            let names: String = bench.records().into_iter().map(|(_, name)| name).collect();
            assert_eq!(names, "ab", "{call:?} {step}");
            if whole {
                break;
            }
        }
    }
}

#[test]
fn a_seal_that_says_something_else_or_is_not_the_end_is_damage() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    assert!(log.lock_tail().roll().is_ok());
    drop(log);
    let listing = list(&bench.place).expect("list");
    let [first, second] = &listing.segments[..] else { panic!("two segments") };
    std::fs::remove_file(&second.path).expect("remove");
    std::fs::remove_file(&bench.place.manifest).expect("remove");
    system::make_writable(&first.path);
    let sound = std::fs::read(&first.path).expect("read");

    std::fs::write(&first.path, [&sound[..], b"12345678"].concat()).expect("write");
    let error = bench.open(0).expect_err("bytes follow the seal");
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(sound.len() as u64)), "{error}");

    // The record is taken out, and the seal moves into its place.
    let seal_at = sound.windows(4).rposition(|bytes| bytes == b"MRC1").expect("a seal");
    std::fs::write(&first.path, [&sound[..4096], &sound[seal_at..]].concat()).expect("write");
    let error = bench.open(0).expect_err("the seal counts one record");
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(4096)), "{error}");
}

#[test]
fn a_missing_segment_is_named_and_missing_segments_are_never_a_fresh_store() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    assert!(log.lock_tail().roll().is_ok());
    write(&log, &["b"]).expect("write");
    log.close().expect("close");
    drop(log);
    let segments = list(&bench.place).expect("list").segments;
    std::fs::remove_file(&segments[0].path).expect("remove");
    assert_eq!(bench.open(2).expect("the rest is whole").1.missing, [1]);
    for segment in list(&bench.place).expect("list").segments {
        std::fs::remove_file(&segment.path).expect("remove");
    }
    assert_eq!(bench.open(2).expect_err("no silent fresh store").kind(), ErrorKind::Corrupt);
    assert_eq!(bench.open(0).expect_err("the manifest remembers").kind(), ErrorKind::Corrupt);
}

#[test]
fn a_foreign_and_a_newer_segment_are_refused() {
    let bench = Bench::new();
    drop(bench.open(0).expect("open"));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1));
    assert_eq!(
        recover(&bench.place, &clock, [8; 16], held(0)).expect_err("foreign").kind(),
        ErrorKind::ForeignStore
    );
    let path = bench.last_path();
    let mut bytes = std::fs::read(&path).expect("read");
    for copy in [0, 2048] {
        bytes[copy + 8] = 2;
        let checksum = crc32fast::hash(&bytes[copy..copy + 124]);
        bytes[copy + 124..copy + 128].copy_from_slice(&checksum.to_le_bytes());
    }
    std::fs::write(&path, &bytes).expect("write");
    assert_eq!(bench.open(0).expect_err("newer").kind(), ErrorKind::UnknownFormat);
    assert_eq!(std::fs::read(&path).expect("read"), bytes, "and left alone");
}

/// Two segments: the first sealed with record `a`, the second with record `b`.
fn rolled() -> Bench {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    assert!(log.lock_tail().roll().is_ok());
    write(&log, &["b"]).expect("write");
    bench
}

fn resealed(fields: impl Fn(&mut [u8]), path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    for copy in [0, 2048] {
        fields(&mut bytes[copy..copy + 124]);
        let checksum = crc32fast::hash(&bytes[copy..copy + 124]);
        bytes[copy + 124..copy + 128].copy_from_slice(&checksum.to_le_bytes());
    }
    std::fs::write(path, &bytes).expect("write");
}

#[test]
fn a_kill_between_a_seal_and_the_cut_behind_it_is_finished() {
    // While rolling: the segment before the last has its seal and zeros behind it.
    let bench = rolled();
    let first = list(&bench.place).expect("list").segments[0].clone();
    let extend = |path: &Path| {
        system::make_writable(path);
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("open");
        file.set_len(file.metadata().expect("stat").len() + 10_000).expect("zeros");
    };
    extend(&first.path);
    drop(bench.open(0).expect("a crash is no damage"));
    assert_eq!(first.path.metadata().expect("stat").len(), first.len, "the cut is made up for");
    // While recovering: the last segment has its seal and zeros behind it.
    let second = list(&bench.place).expect("list").segments[1].clone();
    std::fs::remove_file(bench.last_path()).expect("the recovery got no further");
    std::fs::remove_file(&bench.place.manifest).expect("so did the manifest");
    extend(&second.path);
    let (log, _) = bench.open(2).expect("a crash is no damage");
    assert_eq!(second.path.metadata().expect("stat").len(), second.len, "the cut is made up for");
    write(&log, &["c"]).expect("write");
    let names: String = bench.records().into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, "abc");
}

#[test]
fn a_last_segment_that_is_missing_or_unreadable_is_no_end_of_the_log() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("gone", |path| std::fs::remove_file(path).expect("remove")),
        ("without a header", |path| {
            let mut bytes = std::fs::read(path).expect("read");
            bytes[..4096].fill(0);
            std::fs::write(path, bytes).expect("write");
        }),
        ("empty", |path| std::fs::write(path, b"").expect("write")),
        ("a folder", |path| {
            std::fs::remove_file(path).expect("remove");
            std::fs::create_dir(path).expect("folder");
        }),
    ];
    for (name, damage) in damages {
        for with_manifest in [true, false] {
            let bench = rolled();
            let path = bench.last_path();
            damage(&path);
            if !with_manifest {
                std::fs::remove_file(&bench.place.manifest).expect("remove");
            }
            if name == "gone" && !with_manifest {
                continue; // Nothing is left that knows of it.
            }
            let before = std::fs::read(&path).ok();
            let error = bench.open(0).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
            assert_eq!(std::fs::read(&path).ok(), before, "{name}: it may be the only copy");
            assert_eq!(bench.open(0).expect_err("and it stays so").kind(), ErrorKind::Corrupt, "{name}");
        }
    }
}

#[test]
fn a_clean_close_proves_what_was_there() {
    let bench = Bench::new();
    let (log, _) = bench.open(0).expect("open");
    write(&log, &["a"]).expect("write");
    let end = log.lock_tail().state().len;
    write(&log, &["b"]).expect("write");
    log.close().expect("close");
    drop(log);
    std::fs::OpenOptions::new().write(true).open(bench.last_path()).expect("open").set_len(end).expect("cut");
    let error = bench.open(0).expect_err("without a view, the manifest knows of record 2");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_clean_tail_that_the_last_record_contradicts_does_not_count() {
    type Lie = fn(&mut TailV1);
    let lies: [(&str, Lie); 4] = [
        ("no record yet", |tail| (tail.records, tail.last_seq) = (0, 0)),
        ("a record fewer", |tail| (tail.records, tail.last_seq) = (1, 1)),
        ("only one number is wrong", |tail| tail.last_seq = 1),
        ("numbers that run over", |tail| (tail.records, tail.last_seq) = (u64::MAX, u64::MAX)),
    ];
    for (what, lie) in lies {
        let bench = Bench::new();
        let (log, _) = bench.open(0).expect("open");
        write(&log, &["a"]).expect("write");
        write(&log, &["b"]).expect("write");
        log.close().expect("close");
        drop(log);
        let mut manifest = read_manifest(&bench.place).expect("read").expect("it was closed");
        lie(manifest.clean_tail.as_mut().expect("it was closed"));
        std::fs::write(&bench.place.manifest, manifest.encode()).expect("write");
        match bench.open(0) {
            // A tail that goes beyond the records proves that some are gone.
            Err(error) => assert_eq!((error.kind(), what), (ErrorKind::Corrupt, "numbers that run over")),
            Ok((log, _)) => {
                assert_eq!(write(&log, &["c"]).expect("write"), 3, "{what}");
                drop(log);
                bench.open(3).expect(what);
            }
        }
        let names: String = bench.records().into_iter().map(|(_, name)| name).collect();
        assert!(names.starts_with("ab"), "{what}: {names}");
    }
}

#[test]
fn a_roll_that_fails_leaves_a_log_that_goes_on() {
    for call in [Call::Write, Call::Sync, Call::Rename, Call::SyncFolder] {
        let (disk, plan) = FaultyDisk::new(call, io::ErrorKind::StorageFull);
        let bench = Bench::on(Arc::new(disk));
        let (log, _) = bench.open(0).expect("open");
        write(&log, &["a"]).expect("write");
        plan.arm(1, 1);
        assert!(log.lock_tail().roll().is_err(), "{call:?}");
        write(&log, &["b"]).expect("the old segment has room for a small one");
        drop(log); // a kill
        bench.open(0).unwrap_or_else(|error| panic!("{call:?}: {error:?}"));
        assert_eq!(bench.records(), [(1, "a".to_owned()), (2, "b".to_owned())], "{call:?}");
    }
}

#[test]
fn a_segment_that_was_taken_back_does_not_come_back_with_a_power_cut() {
    for read in 0.. {
        let disk = SimulatedDisk::new(Path::new("/disk"));
        disk.create_folder(Path::new("/disk/seg")).expect("folder");
        let (log, _) = Bench::simulated(disk.clone()).open(0).expect("open");
        write(&log, &["a"]).expect("write");
        disk.plan(disk.reads() + read, Trouble::ReadOnce(io::ErrorKind::Other));
        let rolled = log.lock_tail().roll();
        disk.mend();
        let expected = match rolled {
            Err(WriteError::Unknown(_)) => "a",
            Ok(()) | Err(WriteError::Clean(_)) => {
                write(&log, &["b"]).expect("write");
                "ab"
            }
        };
        for seed in 0..8 {
            let left = Bench::simulated(disk.after_power_cut(&mut Chance(seed)));
            let opened = left.open(0);
            assert!(opened.is_ok(), "read {read}, seed {seed}: {:?}", opened.expect_err("seen"));
            let names: String = left.records().into_iter().map(|(_, name)| name).collect();
            assert_eq!(names, expected, "read {read}, seed {seed}");
        }
        if rolled.is_ok() {
            return;
        }
    }
}

#[test]
fn a_seal_whose_sync_failed_is_made_durable_by_the_next_open() {
    // What a failed sync leaves follows from the number of the call.
    for (writes, call) in (1..6).flat_map(|writes| (0..16).map(move |call| (writes, call))) {
        let disk = SimulatedDisk::new(Path::new("/disk"));
        disk.create_folder(Path::new("/disk/seg")).expect("folder");
        let bench = Bench::simulated(disk.clone());
        let (log, _) = bench.open(0).expect("open");
        for _ in 0..writes {
            write(&log, &["a"]).expect("write");
        }
        disk.plan(disk.calls() + call, Trouble::Once(io::ErrorKind::Other));
        let _ = log.lock_tail().roll();
        disk.mend();
        drop(log);
        let (log, _) = bench.open(writes).expect("open");
        for name in ["b", "c"] {
            write(&log, &[name]).expect("write");
            assert!(log.lock_tail().roll().is_ok());
        }
        for seed in 0..8 {
            let left = Bench::simulated(disk.after_power_cut(&mut Chance(seed)));
            let segments = list(&left.place).expect("list").segments;
            for segment in &segments[..segments.len() - 1] {
                let verified = verify(&left.place, segment, writes + 2, |_, _| {}).expect("read");
                assert_eq!(verified.flaws, [], "{writes} writes, call {call}, seed {seed}");
                assert!(verified.sealed, "{writes} writes, call {call}, seed {seed}");
            }
        }
    }
}

#[test]
fn hostile_numbers_in_a_header_are_damage() {
    let number = |at: usize, value: u64| {
        move |fields: &mut [u8]| fields[at..at + 8].copy_from_slice(&value.to_le_bytes())
    };
    for (at, value) in [(48, 0), (48, u64::MAX), (48, 7), (56, 9), (64, u64::MAX)] {
        let bench = Bench::new();
        drop(bench.open(0).expect("open"));
        let path = bench.last_path();
        resealed(number(at, value), &path);
        let renamed = bench.place.segments.join(name(1, if at == 48 { value } else { 1 }));
        std::fs::rename(&path, renamed).expect("rename");
        assert_eq!(bench.open(0).expect_err("refused").kind(), ErrorKind::Corrupt, "{at} {value}");
    }
}

#[test]
fn two_segments_of_one_number_are_refused() {
    let bench = rolled();
    let path = bench.last_path();
    let other = bench.place.segments.join(name(2, 9));
    std::fs::copy(&path, &other).expect("copy");
    resealed(
        |fields| {
            fields[48..56].copy_from_slice(&9_u64.to_le_bytes());
            fields[64..72].copy_from_slice(&8_u64.to_le_bytes());
        },
        &other,
    );
    assert_eq!(bench.open(0).expect_err("two histories").kind(), ErrorKind::Corrupt);
}

#[test]
fn a_location_that_cannot_be_takes_no_memory() {
    let bench = rolled();
    let segment = list(&bench.place).expect("list").segments[0].clone();
    let file = open_segment(&bench.place, &segment).expect("open");
    for (offset, len) in [(4096, u32::MAX), (u64::MAX, 100), (u64::MAX - 8, 100), (4096, 0), (4097, 48)] {
        let location = crate::format::record::Location { segment: 1, offset, len };
        let error = read_record(&*file, segment.header.epoch, location).expect_err("refused");
        assert_eq!(error.to_string().contains("above the limit"), len == u32::MAX, "{error}");
    }
}
