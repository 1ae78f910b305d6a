//! How much space a home takes, and how much there is.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::fs::system;

/// Folders are looked into so deep.
const DEPTH_MAX: u32 = 8;
/// With less free space than this, in bytes, or than a share of the disk, a run says so.
const FREE_MIN: u64 = 64 << 20;
const FREE_SHARE: u64 = 50;

/// Space, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Space {
    /// Free for this user on the home's disk; `None` when the system does not say.
    pub free: Option<u64>,
    /// Of the whole disk.
    pub total: Option<u64>,
    /// Segments of the log.
    pub segments: u64,
    /// The view.
    pub view: u64,
    /// Index blocks.
    pub index: u64,
    /// What is kept of the past.
    pub trash: u64,
    /// Damaged files that are kept.
    pub quarantine: u64,
    /// `memory.db`.
    pub snapshot: u64,
    /// Backups.
    pub backups: u64,
    /// Logs.
    pub logs: u64,
    /// By how many bytes the home grew on an average day of the last ones that are known.
    pub growth_per_day: Option<i64>,
}

impl Space {
    pub(super) fn of(home: &Path, db_path: &Path) -> Self {
        let store = home.join("store");
        let disk = system::disk_space(home).ok();
        Self {
            free: disk.map(|disk| disk.free),
            total: disk.map(|disk| disk.total),
            segments: bytes_in(&store.join("seg"), 1),
            view: bytes_of(&store.join("view.redb")),
            index: bytes_in(&store.join("index"), 1),
            trash: bytes_in(&store.join("trash"), DEPTH_MAX),
            quarantine: bytes_in(&store.join("quarantine"), DEPTH_MAX)
                + bytes_in(&home.join("quarantine"), DEPTH_MAX),
            snapshot: bytes_of(db_path),
            backups: bytes_in(&home.join("backups"), 1),
            logs: bytes_in(&home.join("logs"), 1),
            growth_per_day: None,
        }
    }

    /// Everything that is named.
    pub(super) fn used(&self) -> u64 {
        self.kinds().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of each kind of file.
    pub(super) fn kinds(&self) -> [(&'static str, u64); 8] {
        [
            ("segments", self.segments),
            ("view", self.view),
            ("index", self.index),
            ("trash", self.trash),
            ("quarantine", self.quarantine),
            ("snapshot", self.snapshot),
            ("backups", self.backups),
            ("logs", self.logs),
        ]
    }

    /// Whether the disk is about to be full.
    pub(super) fn is_short(&self) -> bool {
        let least = self.total.map_or(FREE_MIN, |total| FREE_MIN.min(total / FREE_SHARE));
        self.free.is_some_and(|free| free < least)
    }

    /// Whether so many more bytes fit, and some are left.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        let least = self.total.map_or(FREE_MIN, |total| FREE_MIN.min(total / FREE_SHARE));
        self.free.is_none_or(|free| free >= bytes.saturating_add(least))
    }

    /// In how many days the disk is full, if it goes on like that.
    pub(super) fn days_left(&self) -> Option<u64> {
        let growth = u64::try_from(self.growth_per_day?).ok().filter(|growth| *growth > 0)?;
        Some(self.free? / growth)
    }
}

fn bytes_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |file| if file.is_file() { file.len() } else { 0 })
}

/// Bytes of the regular files in a folder; links are not followed.
fn bytes_in(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    if !fs::symlink_metadata(folder).is_ok_and(|folder| folder.is_dir()) {
        return 0;
    }
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => bytes_in(&entry.path(), depth - 1),
            Ok(kind) if kind.is_file() => bytes_of(&entry.path()),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn files_are_counted_by_what_they_are() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, bytes: usize| {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, vec![0; bytes]).expect("written");
        };
        write("store/seg/1.mseg", 10);
        write("store/view.redb", 20);
        write("store/trash/a/b", 30);
        write("backups/memory_1_2.db", 40);
        write("memory.db", 50);
        std::os::unix::fs::symlink(home.path(), home.path().join("store/index")).expect("a link");
        let space = Space::of(home.path(), &home.path().join("memory.db"));
        assert_eq!((space.segments, space.view, space.trash), (10, 20, 30));
        assert_eq!((space.backups, space.snapshot, space.index), (40, 50, 0));
        assert_eq!(space.used(), 150);
        assert!(space.free.is_some_and(|free| free > 0) && space.total >= space.free, "{space:?}");
    }

    #[test]
    fn a_disk_is_short_when_little_of_it_is_free() {
        let space = |free, total| Space { free: Some(free), total: Some(total), ..Space::default() };
        assert!(space(1 << 20, 1 << 40).is_short() && !space(1 << 30, 1 << 40).is_short());
        assert!(!space(1 << 20, 16 << 20).is_short(), "on a small disk little is much");
        assert!(
            !space(1 << 30, 1 << 40).has_room_for(1 << 30) && space(1 << 30, 1 << 40).has_room_for(1 << 20)
        );
        let grows = Space { growth_per_day: Some(1 << 20), ..space(10 << 20, 1 << 40) };
        assert_eq!((grows.days_left(), space(1, 2).days_left()), (Some(10), None));
    }
}
