//! Space that is kept for a full disk: forgetting and compaction need some, and they make room.

use super::{Inner, Layout};
use crate::error::{ErrorKind, Result};
use crate::fs::{Access, Kind};

/// Bytes that are kept.
const RESERVE_LEN: u64 = 1 << 20;

impl Inner {
    /// Does what needs a little space. On a full disk the reserve is given up for it.
    pub(super) fn with_reserve<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.release_reserve() => work(),
            done => done,
        }
    }

    /// Sees to it that the reserve is there, if the disk has room for it.
    pub(super) fn keep_reserve(&self) {
        let path = Layout::of(&self.home).reserve;
        let disk = &*self.place.disk;
        let keep = || -> Result<()> {
            match disk.kind(&path)? {
                Some(Kind::File(RESERVE_LEN)) => return Ok(()),
                Some(Kind::File(_)) => disk.remove(&path)?,
                Some(_) | None => {}
            }
            let file = disk.open(&path, Access::CreateNew)?;
            // Written and not only reserved: some filesystems find no space for what they have promised.
            let chunk = [0xA5; 64 << 10];
            for offset in (0..RESERVE_LEN).step_by(chunk.len()) {
                file.write_at(&chunk, offset)?;
            }
            file.sync()
        };
        if let Err(error) = keep() {
            tracing::debug!(%error, "no space is kept in reserve");
            if disk.kind(&path).is_ok_and(|kind| matches!(kind, Some(Kind::File(_)))) {
                let _ = disk.remove(&path);
            }
        }
    }

    /// Gives the reserve up; whether there was one.
    pub(super) fn release_reserve(&self) -> bool {
        let path = Layout::of(&self.home).reserve;
        let disk = &*self.place.disk;
        let is_there = matches!(disk.kind(&path), Ok(Some(Kind::File(1..))));
        if is_there {
            tracing::warn!("the disk is full: the space that was kept in reserve is used");
        }
        is_there && disk.remove(&path).is_ok()
    }
}
