//! Disks that are full, at every stage, and have room again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use memento_kv::{Duplicates, Durability, Error, ErrorKind, Memory, Recall, Remember, Store, Update};

use crate::common;
use crate::support::{count, fill, good, jsonl, on_a_small_disk, run};

type Memories = BTreeMap<String, Memory>;

fn text(n: usize) -> String {
    format!("memory {n} {}", "of a long and uneventful day ".repeat(35))
}

fn put(store: &Store, memories: &mut Memories, text: &str) -> Result<(), Error> {
    let id = store.remember(Remember::new(text).on_duplicate(Duplicates::Keep))?.id;
    let memory = store.get(&id)?.expect("it was just remembered");
    memories.insert(id.as_str().to_owned(), memory);
    Ok(())
}

fn assert_reads(store: &Store, memories: &Memories) {
    for (id, memory) in memories {
        assert_eq!(store.get(id).expect("reads go on").as_ref(), Some(memory));
    }
    assert_eq!(&common::everything(store).expect("reads go on"), memories);
    let answer = store.recall(Recall::new("a memory of a day").topk(7)).expect("reads go on");
    assert_eq!(answer.results.len(), 7);
    assert!(answer.results.iter().all(|one| memories.contains_key(one.id.as_str())));
}

fn assert_no_space(error: &Error) {
    assert_eq!((error.kind(), error.durability()), (ErrorKind::NoSpace, Durability::NotWritten), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("free some space")), "{error}");
}

/// A checkpoint: what one of several handles does when it is closed.
fn checkpoint(store: &Store) -> Result<(), Error> {
    store.clone().close()
}

#[test]
fn on_a_full_disk_reads_go_on_and_with_room_so_does_everything() {
    let test = "space::on_a_full_disk_reads_go_on_and_with_room_so_does_everything";
    on_a_small_disk(test, "24m", |disk| {
        let home = disk.join("home");
        let store = common::open(&home);
        let mut memories = Memories::new();
        for n in 0..300 {
            put(&store, &mut memories, &text(n)).expect("there is room");
        }
        checkpoint(&store).expect("there is room");
        for n in 300..900 {
            put(&store, &mut memories, &text(n)).expect("there is room");
        }
        let filler = fill(disk, 0);
        for _ in 0..3 {
            assert_no_space(&checkpoint(&store).expect_err("the view has no room"));
            assert_reads(&store, &memories);
        }
        let refused = (900..).find_map(|n| put(&store, &mut memories, &text(n)).err()).expect("no room");
        assert_no_space(&refused);
        assert_reads(&store, &memories);
        let some = memories.keys().next().expect("a memory").clone();
        for error in [
            store.update(&some, Update::new().text(text(5000).repeat(100))).expect_err("no room"),
            store.remember(Remember::new(text(5001).repeat(100))).expect_err("no room"),
        ] {
            assert_no_space(&error);
        }
        assert_no_space(&checkpoint(&store).expect_err("the view has no room"));
        assert_reads(&store, &memories);

        fs::remove_file(filler).expect("room");
        for n in 2000..2100 {
            put(&store, &mut memories, &text(n)).expect("there is room");
        }
        assert_reads(&store, &memories);
        checkpoint(&store).expect("there is room");
        common::assert_whole(&store, "with room");
        assert_reads(&store, &memories);
        store.close().expect("there is room");
        let store = common::open(&home);
        assert_reads(&store, &memories);
        common::assert_whole(&store, "after a reopen");
    });
}

#[test]
fn a_disk_that_fills_while_memories_come_costs_none_of_them() {
    let test = "space::a_disk_that_fills_while_memories_come_costs_none_of_them";
    on_a_small_disk(test, "120m", |disk| {
        let home = disk.join("home");
        let store = common::open(&home);
        let mut memories = Memories::new();
        // The view is put on the disk by itself every few thousand memories or few megabytes.
        for round in 0..3 {
            let ballast = fill(disk, 10 << 20);
            let refused = (0..).find_map(|n| {
                let text = format!("round {round} {}", text(n).repeat(20));
                put(&store, &mut memories, &text).err()
            });
            assert_no_space(&refused.expect("no room"));
            assert_reads(&store, &memories);
            fs::remove_file(ballast).expect("room");
            let forgotten: Vec<_> = memories.keys().take(memories.len() / 2).cloned().collect();
            store.forget(&forgotten).expect("there is room");
            memories.retain(|id, _| !forgotten.contains(id));
            assert_reads(&store, &memories);
        }
        common::assert_whole(&store, "with room");
        drop(store);
        let store = common::open(&home);
        assert_reads(&store, &memories);
        common::assert_whole(&store, "after a reopen");
    });
}

#[test]
fn a_store_is_opened_read_and_closed_on_a_full_disk() {
    let test = "space::a_store_is_opened_read_and_closed_on_a_full_disk";
    on_a_small_disk(test, "16m", |disk| {
        let home = disk.join("home");
        let id = good(&home, ["remember", "the river is green"]);
        let filler = fill(disk, 0);
        for _ in 0..2 {
            assert!(good(&home, ["get", id.trim()]).contains("the river is green"));
            assert!(good(&home, ["recall", "which colour has the river"]).contains("the river is green"));
            assert!(good(&home, ["list", "--json"]).contains("the river is green"));
            // A few words might still fit into the last page of the log.
            let refused = run(&home, ["remember", "--json", &"x".repeat(9000)]);
            assert_eq!((refused.code, refused.error().0.as_str()), (Some(5), "no_space"), "{refused:?}");
            assert!(refused.error().1.contains("free some space"), "{refused:?}");
        }
        fs::remove_file(filler).expect("room");
        good(&home, ["remember", "the stone is grey"]);
        assert_eq!(count(&home), 2);
    });
}

#[test]
fn a_store_that_was_killed_on_a_full_disk_opens_and_is_read() {
    let test = "space::a_store_that_was_killed_on_a_full_disk_opens_and_is_read";
    on_a_small_disk(test, "16m", |disk| {
        let (home, killed) = (disk.join("home"), disk.join("killed"));
        let store = common::open(&home);
        let mut memories = Memories::new();
        for n in 0..50 {
            put(&store, &mut memories, &text(n)).expect("there is room");
        }
        common::copy_folder(&home, &killed);
        drop(store);
        let filler = fill(disk, 0);
        for _ in 0..2 {
            let store = common::open(&killed);
            assert_reads(&store, &memories);
            assert_no_space(&store.remember(Remember::new(text(50).repeat(100))).expect_err("no room"));
        }
        fs::remove_file(filler).expect("room");
        let store = common::open(&killed);
        assert_reads(&store, &memories);
        common::assert_whole(&store, "with room");
    });
}

#[test]
fn on_a_full_disk_memories_can_be_forgotten_and_compaction_makes_room() {
    let test = "space::on_a_full_disk_memories_can_be_forgotten_and_compaction_makes_room";
    on_a_small_disk(test, "40m", |disk| {
        let home = disk.join("home");
        let mut memories = Memories::new();
        let store = common::open(&home);
        for n in 0..400 {
            put(&store, &mut memories, &text(n).repeat(20)).expect("there is room");
        }
        // With the first close there is a reserve.
        store.close().expect("there is room");
        let store = common::open(&home);
        fill(disk, 0);
        assert_no_space(&put(&store, &mut memories, &text(1000).repeat(200)).expect_err("no room"));
        let forgotten: Vec<_> = memories.keys().take(350).cloned().collect();
        store.forget(&forgotten).expect("the reserve is there for that");
        memories.retain(|id, _| !forgotten.contains(id));
        let compacted = store.compact(&mut |_| {}).expect("so it is for that");
        assert!(compacted.bytes_after < compacted.bytes_before / 2, "{compacted:?}");
        put(&store, &mut memories, &text(1001).repeat(200)).expect("there is room again");
        assert_reads(&store, &memories);
        common::assert_whole(&store, "compacted");
        drop(store);
        assert_reads(&common::open(&home), &memories);
    });
}

#[test]
fn a_first_memory_without_room_leaves_nothing_in_the_way_of_the_next() {
    let test = "space::a_first_memory_without_room_leaves_nothing_in_the_way_of_the_next";
    on_a_small_disk(test, "4m", |disk| {
        let mut refused = 0;
        for kib in [0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192] {
            let home = disk.join(format!("home-{kib}"));
            let filler = fill(disk, kib << 10);
            let first = run(&home, ["remember", "--json", "the first"]);
            if first.code != Some(0) {
                assert_eq!((first.code, first.error().0.as_str()), (Some(5), "no_space"), "{kib} {first:?}");
                assert_no_leftovers(&home);
                refused += 1;
            }
            fs::remove_file(filler).expect("room");
            good(&home, ["remember", "the second"]);
            assert_eq!(count(&home), 1 + u64::from(first.code == Some(0)), "{kib}");
            fs::remove_dir_all(home).expect("room");
        }
        assert!((2..12).contains(&refused), "{refused}");
    });
}

/// What was made in vain must not take the little space there is.
fn assert_no_leftovers(home: &Path) {
    let store = home.join("store");
    for folder in [&store, &store.join("seg")].into_iter().filter(|folder| folder.is_dir()) {
        for entry in folder.read_dir().expect("list") {
            let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
            assert!(!name.ends_with(".tmp"), "{name}");
        }
    }
}

#[test]
fn a_load_without_room_says_what_is_safe_and_can_be_repeated() {
    let test = "space::a_load_without_room_says_what_is_safe_and_can_be_repeated";
    on_a_small_disk(test, "12m", |disk| {
        let lines = disk.join("lines.jsonl");
        jsonl(&lines, 0..3000);
        let lines = lines.to_str().expect("a plain name");
        let mut stages = Vec::new();
        for kib in [60, 200, 400, 600, 900, 1300, 1800, 2600] {
            let home = disk.join(format!("home-{kib}"));
            let filler = fill(disk, kib << 10);
            let load = run(&home, ["remember", "--json", "--no-embed", "--jsonl", lines]);
            fs::remove_file(filler).expect("room");
            let safe = if load.code == Some(0) {
                3000
            } else {
                let (kind, hint) = load.error();
                assert_eq!((load.code, kind.as_str()), (Some(5), "no_space"), "{load:?}");
                assert!(hint.contains("safely stored") || !hint.contains("memor"), "{hint}");
                let said = hint.split("the ").filter_map(|part| part.split_once(" memor")).next();
                said.map_or(0, |(number, _)| number.replace(',', "").parse().expect("a number"))
            };
            assert_eq!(count(&home), safe, "{kib}: what it said is what is there: {load:?}");
            assert!(safe.is_multiple_of(500), "whole batches");
            stages.push(safe);
            good(&home, ["remember", "--no-embed", "--jsonl", lines]);
            assert_eq!(count(&home), 3000, "{kib}");
            fs::remove_dir_all(home).expect("room");
        }
        assert!(stages.contains(&0) && stages.iter().any(|safe| (1..3000).contains(safe)), "{stages:?}");
    });
}
