//! Power cuts: of what was not synced, any subset of sectors may be on the disk.

use std::io;
use std::sync::Mutex;

use redb::StorageBackend;

use super::model::Dice;
use super::*;

const SECTOR: usize = 512;

/// A disk on which the power goes after so many writes.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    synced: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Unsynced>,
    writes_left: u64,
}

#[derive(Debug)]
enum Unsynced {
    Len(usize),
    Sector(usize),
}

impl Disk {
    fn new(image: Vec<u8>, writes_left: u64) -> Self {
        let state = State { synced: image.clone(), current: image, unsynced: Vec::new(), writes_left };
        Self(Arc::new(Mutex::new(state)))
    }

    fn on<T>(&self, uses_write: bool, use_it: impl FnOnce(&mut State) -> T) -> io::Result<T> {
        let mut state = locked(&self.0);
        if state.writes_left == 0 {
            return Err(io::Error::other("the power is off"));
        }
        state.writes_left -= u64::from(uses_write);
        Ok(use_it(&mut state))
    }

    /// What is on the disk after the cut.
    fn image(&self, dice: &mut Dice) -> Vec<u8> {
        let state = locked(&self.0);
        let mut image = state.synced.clone();
        for change in &state.unsynced {
            match change {
                _ if dice.below(2) == 0 => {}
                Unsynced::Len(len) => image.resize(*len, 0),
                Unsynced::Sector(at) if at + SECTOR <= image.len().min(state.current.len()) => {
                    image[*at..][..SECTOR].copy_from_slice(&state.current[*at..][..SECTOR]);
                }
                Unsynced::Sector(_) => {}
            }
        }
        image
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.on(false, |state| state.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.on(false, |state| {
            let bytes = state.current.get(offset as usize..offset as usize + out.len());
            bytes.map(|bytes| out.copy_from_slice(bytes)).ok_or(io::ErrorKind::UnexpectedEof.into())
        })?
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.on(true, |state| {
            state.current.resize(len as usize, 0);
            state.unsynced.push(Unsynced::Len(len as usize));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.on(true, |state| {
            for change in state.unsynced.drain(..) {
                if let Unsynced::Sector(at) = change
                    && at + SECTOR <= state.synced.len().min(state.current.len())
                {
                    state.synced[at..][..SECTOR].copy_from_slice(&state.current[at..][..SECTOR]);
                } else if let Unsynced::Len(len) = change {
                    state.synced.resize(len, 0);
                }
            }
            assert!(state.synced == state.current, "a sync leaves nothing behind");
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.on(true, |state| {
            let end = offset as usize + data.len();
            if end > state.current.len() {
                state.current.resize(end, 0);
                state.unsynced.push(Unsynced::Len(end));
            }
            state.current[offset as usize..end].copy_from_slice(data);
            let first = offset as usize / SECTOR * SECTOR;
            state.unsynced.extend((first..end).step_by(SECTOR).map(Unsynced::Sector));
        })
    }
}

fn on_disk(disk: &Disk) -> Result<Opened> {
    Catalog::open_with(Path::new("disk"), STORE, || database::build(disk.clone(), CACHE))
}

/// An empty view on a disk whose power stays on.
fn new_image() -> Vec<u8> {
    let disk = Disk::new(Vec::new(), u64::MAX);
    let (database, _) = database::build(disk.clone(), CACHE).expect("a database");
    database::initialize(&database, STORE).expect("a view");
    database.close().expect("a close");
    locked(&disk.0).current.clone()
}

/// Applies the script until the power goes: up to where it was checkpointed, and up to where it was applied.
fn run(script: &Script, disk: &Disk, dice: &mut Dice) -> (usize, usize) {
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
    let new = new_image();
    let mut survived = 0;
    for seed in 0..8 {
        let script = Dice(seed).script(160);
        // What the view holds after the first records, as far as it was asked for.
        let mut expected: BTreeMap<usize, BTreeMap<_, _>> = BTreeMap::new();
        let whole = Disk::new(new.clone(), u64::MAX);
        run(&script, &whole, &mut Dice(seed));
        let writes = u64::MAX - locked(&whole.0).writes_left;
        for cut in 1..writes {
            let disk = Disk::new(new.clone(), cut);
            let (checkpointed, applied) = run(&script, &disk, &mut Dice(seed));
            for image_seed in 0..3 {
                let place = format!("seed {seed}, cut {cut} of {writes}, image {image_seed}");
                let after = Disk::new(disk.image(&mut Dice(image_seed)), u64::MAX);
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
                    assert_eq!(catalog.check(&mut |_, _| {}).expect("a check"), [], "{place}");
                }
            }
        }
    }
    assert!(survived > 500, "{survived}");
}
