//! A full disk: what the last checkpoint left goes on, and nothing is lost.

use std::fs;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::model::Dice;
use super::*;

/// The storage in a file, on a disk that is full after so many writes.
#[derive(Debug)]
struct Filling {
    storage: FileBackend,
    writes_left: Arc<AtomicI64>,
}

impl Filling {
    fn write_allowed(&self) -> io::Result<()> {
        if self.writes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            Ok(())
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}

impl StorageBackend for Filling {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_allowed()?;
        self.storage.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.write_allowed()?;
        self.storage.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_allowed()?;
        self.storage.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.unlock_range(start, end)
    }
}

fn opened_on(path: &Path, writes_left: &Arc<AtomicI64>) -> Catalog {
    let file = fs::File::options().read(true).write(true).open(path).expect("the file");
    let storage = FileBackend::new(file).expect("the storage");
    let filling = Filling { storage, writes_left: Arc::clone(writes_left) };
    match Catalog::open_with(path, Some(STORE), || database::build(filling, 0)).expect("an answer") {
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
    const ROOM: i64 = i64::MAX / 2;
    let script = Dice(7).script(160);
    let records = script.records();
    let expected = {
        let (_folder, _, fresh) = empty();
        script.apply_to(&fresh, 300);
        dump(&fresh)
    };
    let mut refused = 0;
    for full_at in 0.. {
        let (_folder, path, catalog) = empty();
        catalog.close().expect("a close");
        let writes_left = Arc::new(AtomicI64::new(ROOM));
        let catalog = opened_on(&path, &writes_left);
        catalog.apply(&records[..60], position_after(60)).expect("it follows");
        catalog.checkpoint().expect("there is room");
        catalog.apply(&records[60..120], position_after(120)).expect("it follows");
        writes_left.store(full_at, Ordering::SeqCst);
        let Err(error) = catalog.checkpoint() else { break };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(catalog.write_failed());
        refused += 1;

        // Opening overwrites what is there, so it needs no room; all else stays in memory.
        writes_left.store(ROOM, Ordering::SeqCst);
        let reader = catalog.view();
        let next = successor_of(&catalog);
        writes_left.store(0, Ordering::SeqCst);
        assert!(next.holds() && !next.write_failed());
        let held = next.applied_seq();
        // The header may have been written, but not its sync.
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
        writes_left.store(ROOM, Ordering::SeqCst);
        let last = successor_of(&next);
        drop(next);
        script.apply_to(&last, 50);
        last.checkpoint().expect("there is room");
        assert!(!last.holds());
        let busy = Catalog::open(&RealDisk, &path, Some(STORE), CACHE).expect_err("it is open");
        assert_eq!(busy.kind(), ErrorKind::Busy);
        drop(last);
        let after = reopened(&path);
        assert!(dump(&after) == expected, "write {full_at}");
        assert_eq!(after.check(&mut |_, _| {}).expect("a check"), [], "write {full_at}");
    }
    assert!(refused > 10, "{refused}");
}
