//! The store on disks that fail.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::error::{Durability, ErrorKind};
use crate::fs::faulty::{Call, FaultyDisk};
use crate::memory::{Degraded, Recall, Remember};

fn options(home: &Path, disk: FaultyDisk) -> Options {
    Options::at(home).model(ModelSpec::None).background_embedding(false).disk(Arc::new(disk))
}

#[test]
fn after_a_failed_sync_writes_are_refused_and_reads_go_on() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (disk, plan) = FaultyDisk::new(Call::Sync, io::ErrorKind::Other);
    let store = Engine::open(options(home.path(), disk)).expect("open");
    let kept = store.remember(Remember::new("durable")).expect("remember").id;
    plan.arm(1, 1);
    let failed = store.remember(Remember::new("perhaps")).expect_err("the sync failed");
    assert_eq!((failed.kind(), failed.durability()), (ErrorKind::CommitUnknown, Durability::Unknown));
    let refused = store.remember(Remember::new("refused")).expect_err("poisoned");
    assert_eq!((refused.kind(), refused.durability()), (ErrorKind::Poisoned, Durability::NotWritten));
    assert_eq!(store.forget([&kept]).expect_err("poisoned").kind(), ErrorKind::Poisoned);
    assert_eq!(store.get(&kept).expect("reads go on").expect("there").text, "durable");
    drop(store);
    let store = Engine::open(Options::at(home.path()).model(ModelSpec::None)).expect("open");
    assert!(store.get(&kept).expect("get").is_some());
    store.remember(Remember::new("after the reopen")).expect("remember");
    let texts: Vec<_> =
        store.list(&List::new()).expect("list").into_iter().map(|memory| memory.text).collect();
    assert!(!texts.contains(&"refused".to_owned()));
}

#[test]
fn a_full_disk_refuses_a_memory_and_keeps_all_others() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (disk, plan) = FaultyDisk::new(Call::Write, io::ErrorKind::StorageFull);
    let store = Engine::open(options(home.path(), disk)).expect("open");
    plan.arm(1, 2);
    let error = store.remember(Remember::new("no room")).expect_err("full");
    assert_eq!((error.kind(), error.durability()), (ErrorKind::NoSpace, Durability::NotWritten));
    let saved = store.remember(Remember::new("no room")).expect("space was freed");
    assert_eq!(saved.duplicate_of, None, "what was not written leaves no trace");
    assert_eq!(store.list(&List::new()).expect("list").len(), 1);
}

#[cfg(unix)]
#[test]
fn the_names_of_a_new_home_are_private_and_durable() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = folder.path().join("a/b/home");
    let (disk, plan) = FaultyDisk::new(Call::SyncFolder, io::ErrorKind::Other);
    let store = Engine::open(options(&home, disk)).expect("open");
    store.remember(Remember::new("durable")).expect("remember");
    let synced = plan.places();
    for made in ["a", "a/b", "a/b/home", "a/b/home/store", "a/b/home/store/seg"] {
        let made = folder.path().join(made);
        let mode = made.metadata().expect("it was made").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", made.display());
        let above = made.parent().expect("a folder");
        assert!(synced.iter().any(|folder| folder == above), "{} is not durable: {synced:?}", made.display());
    }
}

#[test]
fn names_that_a_crash_left_unsynced_are_synced_before_the_first_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = folder.path().join("home");
    std::fs::create_dir_all(home.join("store/seg")).expect("folders");
    let (disk, plan) = FaultyDisk::new(Call::SyncFolder, io::ErrorKind::Other);
    let store = Engine::open(options(&home, disk)).expect("open");
    for place in [folder.path(), &home, &home.join("store")] {
        assert!(plan.places().iter().any(|synced| synced == place), "{}", place.display());
    }
    drop(store);
    let (disk, plan) = FaultyDisk::new(Call::SyncFolder, io::ErrorKind::Other);
    plan.arm(1, 1);
    let error =
        Engine::open(options(&folder.path().join("other"), disk)).expect_err("a folder is not durable");
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn reads_and_writes_go_on_while_a_checkpoint_waits_for_the_disk() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let options = Options::at(home.path()).model(ModelSpec::None).background_embedding(false);
    let store = Engine::open(options).expect("open");
    let id = store.remember(Remember::new("the first")).expect("remember").id;
    let (sender, done) = std::sync::mpsc::channel();
    let catalog = store.inner.catalog().expect("the view");
    let checkpoint = catalog.while_written(|| {
        let closing = store.clone();
        let checkpoint = std::thread::spawn(move || closing.close());
        let working = store.clone();
        std::thread::spawn(move || {
            for n in 0..300 {
                working.remember(Remember::new(format!("memory {n}"))).expect("remember");
                working.get(&id).expect("get").expect("it is there");
            }
            sender.send(()).expect("somebody waits");
        });
        done.recv_timeout(Duration::from_secs(60)).expect("nobody waits for the checkpoint");
        checkpoint
    });
    checkpoint.join().expect("no panic").expect("a checkpoint");
}

/// Thirty memories with vectors, all of them in an index block that is searched.
fn indexed(options: Options) -> Engine {
    let store = Engine::open(options).expect("open");
    let group = (0..30).map(|n| Remember::new(format!("memory {n}")).vector([1.0, n as f32, -3.0]));
    store.remember_many(group.collect()).expect("remember");
    store.build_index(false, &mut |_| {}).expect("build");
    store
}

#[test]
fn vectors_that_rot_in_a_block_are_noticed_behind_the_calls() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let store = indexed(Options::at(home.path()).model(ModelSpec::None).alone());
    let mut verified = 0;
    store.inner.verify_block(&mut verified);
    assert_eq!(verified, 1);
    let block = home.path().join("store/index/0000000001.mvec");
    let file = std::fs::OpenOptions::new().write(true).open(&block).expect("open");
    // In the codes, which are not read when a block is opened.
    crate::fs::system::FileExt::write_all_at(&file, &[77], 4100).expect("write");
    let ask = || store.recall(Recall::by_vector([1.0, 5.0, -3.0]).topk(1)).expect("recall");
    assert!(ask().degraded.is_empty());
    store.inner.verify_block(&mut 0);
    assert!(!block.exists());
    let answer = ask();
    assert_eq!(answer.results[0].text, "memory 5", "from the log");
    assert_eq!(answer.degraded, [Degraded::IndexDamaged]);
    store.build_index(false, &mut |_| {}).expect("build");
    assert!(ask().degraded.is_empty());
}

#[test]
fn a_disk_without_room_for_a_block_costs_no_answer_and_is_told() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (disk, plan) = FaultyDisk::new(Call::Rename, io::ErrorKind::StorageFull);
    // Alone, so that nobody else renames anything.
    let store = Engine::open(options(home.path(), disk).alone()).expect("open");
    let group = (0..30).map(|n| Remember::new(format!("memory {n}")).vector([1.0, n as f32, -3.0]));
    store.remember_many(group.collect()).expect("remember");
    plan.arm(1, 2);
    let error = store.build_index(false, &mut |_| {}).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let stats = store.stats().expect("stats");
    assert!(stats.index.problem.is_some() && stats.words.problem.is_some());
    let answer = store.recall(Recall::by_vector([1.0, 5.0, -3.0]).topk(1)).expect("recall");
    assert_eq!(answer.results[0].text, "memory 5");
    let left: Vec<_> = std::fs::read_dir(home.path().join("store/index")).expect("folder").collect();
    assert!(left.is_empty(), "{left:?}");
    store.build_index(false, &mut |_| {}).expect("there is room");
    let stats = store.stats().expect("stats");
    assert_eq!((stats.index.rows, stats.index.problem), (30, None));
    assert_eq!((stats.words.texts, stats.words.problem), (30, None));
}
