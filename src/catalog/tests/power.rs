//! Power cuts: of what was not synced, any subset of sectors may be on the disk.

use super::model::Dice;
use super::*;
use crate::parts::chance::Chance;
use crate::parts::disk::{SimulatedDisk, Trouble};

const VIEW: &str = "/disk/view.redb";

fn on_disk(disk: &SimulatedDisk) -> Result<Opened> {
    Catalog::open(disk, Path::new(VIEW), Some(STORE), CACHE)
}

/// An empty view on a disk whose power stays on.
fn new_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(Path::new("/disk"));
    let view = Catalog::create(&disk, Path::new(VIEW), STORE, CACHE).expect("a view");
    view.close().expect("a close");
    disk
}

/// Applies the script until the power goes: up to where it was checkpointed, and up to where it was applied.
fn run(script: &Script, disk: &SimulatedDisk, dice: &mut Dice) -> (usize, usize) {
    let records = script.records();
    let (mut checkpointed, mut applied) = (0, 0);
    // The catalog is dropped without a close.
    let Ok(Opened::Ready(catalog)) = on_disk(disk) else { return (0, 0) };
    while applied < records.len() {
        let end = records.len().min(applied + 1 + dice.below(40) as usize);
        if catalog.apply(&records[applied..end], position_after(end as u64)).is_err() {
            break;
        }
        applied = end;
        match dice.below(4) {
            0..=1 if catalog.checkpoint().is_ok() => checkpointed = applied,
            2 if write_undurably(&catalog).is_ok() => {}
            3 => {}
            _ => break,
        }
    }
    (checkpointed, applied)
}

#[test]
fn a_power_cut_at_any_write_leaves_a_checkpoint_that_opens_and_goes_on() {
    let new = new_disk();
    let mut survived = 0;
    for seed in 0..8 {
        let script = Dice(seed).script(160);
        // What the view holds after the first records, as far as it was asked for.
        let mut expected: BTreeMap<usize, BTreeMap<_, _>> = BTreeMap::new();
        let whole = new.after_kill();
        run(&script, &whole, &mut Dice(seed));
        let writes = whole.calls();
        for cut in 0..writes {
            let disk = new.after_kill();
            disk.plan(cut, Trouble::PowerCut);
            let (checkpointed, applied) = run(&script, &disk, &mut Dice(seed));
            for image_seed in 0..3 {
                let place = format!("seed {seed}, cut {cut} of {writes}, image {image_seed}");
                let after = disk.after_power_cut(&mut Chance(3 * cut + image_seed));
                let catalog = match on_disk(&after).expect("an answer") {
                    Opened::Ready(catalog) => catalog,
                    other => panic!("{place}: {other:?}"),
                };
                let held = catalog.applied_seq() as usize;
                assert!((checkpointed..=applied).contains(&held), "{place}: {checkpointed} {held} {applied}");
                survived += usize::from(held > 0);
                let expected = expected.entry(held).or_insert_with(|| {
                    let (_folder, _, fresh) = empty();
                    Script { ops: script.ops[..held].to_vec() }.apply_to(&fresh, 300);
                    dump(&fresh)
                });
                assert!(dump(&catalog) == *expected, "{place}");
                if cut % 8 == 0 {
                    script.apply_to(&catalog, 40);
                    assert_eq!(checked(&catalog).damages, [], "{place}");
                }
            }
        }
    }
    assert!(survived > 500, "{survived}");
}
