//! A full disk: what the last checkpoint left goes on, and nothing is lost.

use super::model::Dice;
use super::*;
use crate::parts::disk::{SimulatedDisk, Trouble};

const VIEW: &str = "/disk/view.redb";

fn opened_on(disk: &SimulatedDisk) -> Catalog {
    match Catalog::open(disk, Path::new(VIEW), Some(STORE), 0).expect("an answer") {
        Opened::Ready(catalog) => catalog,
        other => panic!("{other:?}"),
    }
}

fn successor_of(catalog: &Catalog) -> Catalog {
    match catalog.reopened(0).expect("the last checkpoint is good") {
        Opened::Ready(catalog) => catalog,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_that_fills_at_any_write_of_a_checkpoint_leaves_the_former_one() {
    let script = Dice(7).script(160);
    let records = script.records();
    let expected = {
        let (_folder, _, fresh) = empty();
        script.apply_to(&fresh, 300);
        dump(&fresh)
    };
    let mut refused = 0;
    for full_at in 0.. {
        let disk = SimulatedDisk::new(Path::new("/disk"));
        let catalog = Catalog::create(&disk, Path::new(VIEW), STORE, CACHE).expect("a new view");
        catalog.close().expect("a close");
        let catalog = opened_on(&disk);
        catalog.apply(&records[..60], position_after(60)).expect("it follows");
        catalog.checkpoint().expect("there is room");
        catalog.apply(&records[60..120], position_after(120)).expect("it follows");
        disk.plan(disk.calls() + full_at, Trouble::Full);
        let Err(error) = catalog.checkpoint() else { break };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(catalog.write_failed());
        refused += 1;

        // Opening overwrites what is there, so it needs no room; all else stays in memory.
        disk.mend();
        let reader = catalog.view();
        let next = successor_of(&catalog);
        disk.plan(disk.calls(), Trouble::Full);
        assert!(next.holds() && !next.write_failed());
        let held = next.applied_seq();
        // The header may have been written, but not what comes after it.
        assert!(held == 60 || held == 120, "write {full_at}: {held}");
        script.apply_to(&next, 50);
        assert!(dump(&next) == expected, "write {full_at}");
        catalog.checkpoint().expect_err("it writes nothing any more");
        assert_eq!(catalog.applied_seq(), 120);
        drop(reader);
        drop(catalog);
        assert!(dump(&next) == expected, "write {full_at}");

        // Still full; then there is room.
        assert_eq!(next.checkpoint().expect_err("no room").kind(), ErrorKind::NoSpace);
        disk.mend();
        let last = successor_of(&next);
        drop(next);
        script.apply_to(&last, 50);
        last.checkpoint().expect("there is room");
        assert!(!last.holds());
        let busy = Catalog::open(&disk, Path::new(VIEW), Some(STORE), CACHE).expect_err("it is open");
        assert_eq!(busy.kind(), ErrorKind::Busy);
        drop(last);
        let after = opened_on(&disk);
        assert!(dump(&after) == expected, "write {full_at}");
        assert_eq!(checked(&after).damages, [], "write {full_at}");
    }
    assert!(refused > 10, "{refused}");
}
