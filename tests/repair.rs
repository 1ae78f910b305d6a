//! `check` in its forms, repair, proof, and stores that are only read.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{everything, overwrite, segments};
use memento_kv::check::{CheckStatus, check_files};
use memento_kv::{ErrorKind, Memory, MemoryId, ProofState, Receipt, Remember, Store, Update};

fn id(text: &str) -> MemoryId {
    MemoryId::new(text).expect("an id")
}

/// Three sealed segments and one that is open; closed. What it holds, and the receipt of every write.
fn filled(home: &Path) -> (BTreeMap<String, Memory>, Vec<Receipt>) {
    let mut receipts = Vec::new();
    for round in 0..4 {
        let store = common::open(home);
        for n in 0..8 {
            let remember =
                Remember::new(format!("memory {n} of round {round}")).id(id(&format!("{round}-{n}")));
            receipts.push(store.remember(remember).expect("remember").receipt());
        }
        let update = Update::new().add_tags(["changed"]);
        receipts.push(store.update(format!("{round}-1"), update).expect("update").receipt());
        store.forget([format!("{round}-2")]).expect("forget");
        store.close().expect("close");
        if round < 3 {
            // As after a crash: the next one seals this segment and begins another.
            std::fs::remove_file(home.join("store/MANIFEST")).expect("it is only an accelerator");
        }
    }
    let store = common::open(home);
    let memories = everything(&store).expect("list");
    store.close().expect("close");
    assert_eq!(segments(home).len(), 4);
    (memories, receipts)
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    bytes[offset] ^= 0x10;
    overwrite(path, &bytes);
}

#[test]
fn damage_within_a_sealed_segment_is_found_by_a_deep_check_and_mended_by_repair() {
    for index in 0..4 {
        let home = common::quick_folder();
        let (memories, receipts) = filled(home.path());
        let path = segments(home.path()).remove(index);
        flip(&path, 4200);
        let files = check_files(home.path(), &mut |_| {}).expect("a check of the files");
        assert_eq!(files.status, CheckStatus::Damaged);
        assert!(files.findings[0].file.starts_with("store/seg/"), "{files:?}");
        if index < 3 {
            let store = common::open(home.path());
            assert_eq!(store.healed(), [], "nobody has read it yet");
            assert_eq!(store.check_quickly(&mut |_| {}).expect("check").status, CheckStatus::Ok);
            let report = store.check(&mut |_| {}).expect("check");
            assert_eq!(report.status, CheckStatus::Damaged);
            assert!(report.findings[0].offset.is_some() && report.findings[0].kind == "record", "{report:?}");
            store.close().expect("close");
        }
        let (store, report) = Store::repair(common::options(home.path()), &mut |_| {}).expect("repair");
        assert_eq!(report.status, CheckStatus::Repaired, "{report:?}");
        assert_eq!(report.healed.len(), 1, "{report:?}");
        assert_eq!((report.healed[0].quarantined.len(), report.healed[0].lost.as_slice()), (1, &[][..]));
        assert_eq!(everything(&store).expect("list"), memories, "segment {index}");
        common::assert_whole(&store, "after a repair");
        for receipt in &receipts {
            let proof = store.prove(*receipt).expect("a proof");
            assert!(proof.state.is_good(), "{receipt}: {proof:?}");
        }
        store.close().expect("close");
        // The log has everything again: the view can go.
        std::fs::remove_file(home.path().join("store/view.redb")).expect("remove");
        let store = common::open(home.path());
        assert_eq!(everything(&store).expect("list"), memories, "segment {index}");
        let (_, again) = repair_closed(store, home.path());
        assert_eq!((again.status, again.findings.len()), (CheckStatus::Ok, 0), "{again:?}");
    }
}

fn repair_closed(store: Store, home: &Path) -> (Store, memento_kv::check::CheckReport) {
    store.close().expect("close");
    Store::repair(common::options(home), &mut |_| {}).expect("repair")
}

#[test]
fn what_neither_log_nor_view_has_needs_a_decision_and_is_named_by_repair() {
    let home = common::quick_folder();
    let (memories, receipts) = filled(home.path());
    // The first record of the second segment: "0-0" has sequence 3, behind the model's two records.
    flip(&segments(home.path())[1], 4200);
    std::fs::remove_file(home.path().join("store/view.redb")).expect("remove");
    let error = Store::open(common::options(home.path())).expect_err("two files are damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--repair")), "{error:?}");
    let before: Vec<_> =
        segments(home.path()).iter().map(|path| std::fs::read(path).expect("read")).collect();

    let (store, report) = Store::repair(common::options(home.path()), &mut |_| {}).expect("repair");
    assert_eq!(report.status, CheckStatus::Repaired, "{report:?}");
    let lost = report.healed[0].lost.clone();
    assert_eq!(lost.len(), 1, "{report:?}");
    let is_lost = |seq: u64| lost.iter().any(|(first, last)| (*first..=*last).contains(&seq));
    for receipt in &receipts {
        let proof = store.prove(*receipt).expect("a proof");
        assert_eq!(proof.state == ProofState::Lost, is_lost(receipt.seq), "{receipt}: {proof:?}");
    }
    let left = everything(&store).expect("list");
    assert_eq!(memories.iter().filter(|(id, _)| !left.contains_key(*id)).count(), 1, "one memory is lost");
    // The loss stays known, and what was damaged is kept.
    store.close().expect("close");
    let store = common::open(home.path());
    let check = store.check(&mut |_| {}).expect("check");
    assert_eq!((check.status, check.losses.len()), (CheckStatus::Ok, 1), "{check:?}");
    let kept = home.path().join(&report.healed[0].quarantined[0]);
    assert_eq!(std::fs::read(&kept).expect("read"), before[1]);
    let note = std::fs::read_to_string(format!("{}.json", kept.display())).expect("a note");
    assert!(note.contains("\"keep_until\"") && note.contains("store/seg/"), "{note}");
}

#[test]
fn what_one_damaged_segment_brings_back_stays_forgotten_when_the_next_has_lost_its_end() {
    let home = common::quick_folder();
    let write = |work: &dyn Fn(&Store)| {
        let store = common::open(home.path());
        work(&store);
        store.close().expect("close");
        // As after a crash: the next one seals this segment and begins another.
        std::fs::remove_file(home.path().join("store/MANIFEST")).expect("it is only an accelerator");
    };
    write(&|store| _ = store.remember(Remember::new("one").id(id("gone"))).expect("remember"));
    write(&|store| _ = store.forget(["gone"]).expect("forget"));
    write(&|store| _ = store.remember(Remember::new("two").id(id("kept"))).expect("remember"));
    // Of the first only a copy of the header is damaged; of the second the tombstone.
    let paths = segments(home.path());
    flip(&paths[0], 2100);
    flip(&paths[1], 4140);
    let (store, report) = Store::repair(common::options(home.path()), &mut |_| {}).expect("repair");
    assert_eq!((report.status, report.healed.len()), (CheckStatus::Repaired, 2), "{report:?}");
    store.close().expect("close");
    std::fs::remove_file(home.path().join("store/view.redb")).expect("remove");
    let store = common::open(home.path());
    assert_eq!(everything(&store).expect("list").into_keys().collect::<Vec<_>>(), ["kept"]);
}

#[test]
fn segments_that_changed_names_stay_where_they_are_until_somebody_decides_and_give_everything_back() {
    let home = common::quick_folder();
    let (memories, _) = filled(home.path());
    let paths = segments(home.path());
    let bytes = [&paths[0], &paths[1]].map(|path| std::fs::read(path).expect("read"));
    overwrite(&paths[0], &bytes[1]);
    overwrite(&paths[1], &bytes[0]);
    std::fs::remove_file(home.path().join("store/view.redb")).expect("remove");
    let error = Store::open(common::options(home.path())).expect_err("nothing can replace them");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(segments(home.path())[..4], paths, "they are left alone");
    assert_eq!(std::fs::read(&paths[0]).expect("read"), bytes[1]);
    let (store, report) = Store::repair(common::options(home.path()), &mut |_| {}).expect("repair");
    assert_eq!(report.status, CheckStatus::Repaired, "{report:?}");
    assert!(report.healed.iter().all(|healed| healed.lost.is_empty()), "{report:?}");
    assert_eq!(everything(&store).expect("list"), memories);
}

#[test]
fn a_proof_tells_what_became_of_each_acknowledged_write() {
    let home = common::quick_folder();
    let store = common::open(home.path());
    let first = store.remember(Remember::new("one").id(id("a"))).expect("remember").receipt();
    assert_eq!(store.prove(first).expect("proof").state, ProofState::Present);
    assert_eq!(store.prove_id("a").expect("proof").state, ProofState::Present);
    let second = store.update("a", Update::new().text("two")).expect("update").receipt();
    let proof = store.prove(first).expect("proof");
    assert_eq!((proof.state, proof.superseded_by), (ProofState::Superseded, Some(second.seq)));
    assert_eq!(store.prove_id("a").expect("proof").digest, Some(second.digest));
    store.forget(["a"]).expect("forget");
    assert_eq!(store.prove(second).expect("proof").state, ProofState::Forgotten);
    assert_eq!(store.prove_id("a").expect("proof").state, ProofState::Unknown);
    let other = Receipt { seq: first.seq, ..second };
    assert_eq!(store.prove(other).expect("proof").state, ProofState::Different);
    let never = Receipt { seq: 1000, ..second };
    assert_eq!(store.prove(never).expect("proof").state, ProofState::Unknown);
    store.compact(&mut |_| {}).expect("compact");
    assert_eq!(store.prove(first).expect("proof").state, ProofState::Compacted);
    // The same for the same write, in another process.
    let again = store.remember(Remember::new("three").id(id("b"))).expect("remember");
    let repeated = store.remember(Remember::new("three").id(id("b"))).expect("remember");
    assert_eq!(again.receipt(), repeated.receipt());
}

#[test]
fn a_store_that_is_only_read_changes_no_file_and_refuses_writes() {
    let home = common::quick_folder();
    let (memories, _) = filled(home.path());
    // In every state: closed, as after a kill, without the view.
    let store_file = |name: &str| home.path().join("store").join(name);
    for missing in [None, Some("MANIFEST"), Some("view.redb"), Some("LOCK")] {
        if let Some(name) = missing {
            std::fs::remove_file(store_file(name)).expect("remove");
        }
        let before = common::contents(home.path());
        let store = Store::open(common::options(home.path()).read_only(true)).expect("open");
        assert!(store.is_read_only());
        assert_eq!(everything(&store).expect("list"), memories);
        common::assert_whole(&store, "only read");
        for refused in [
            store.remember(Remember::new("more")).map(drop),
            store.remember_many(vec![Remember::new("more")]).map(drop),
            store.forget(["0-0"]).map(drop),
            store.purge(["0-0"], &mut |_| {}).map(drop),
            store.update("0-0", Update::new().text("more")).map(drop),
            store.compact(&mut |_| {}).map(drop),
        ] {
            assert_eq!(refused.expect_err("it is only read").kind(), ErrorKind::ReadOnly);
        }
        store.close().expect("close");
        assert!(common::contents(home.path()) == before, "without {missing:?}: a file has changed");
    }
    let nothing = common::quick_folder();
    let error = Store::open(common::options(&nothing.path().join("home")).read_only(true)).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(nothing.path().read_dir().expect("list").count(), 0);
}
