//! The disk that the home is on, and the clock.

use std::fs;
use std::path::Path;

use super::{Examination, age, mib, word};
use crate::fs::{network_file_system, system};

/// With less free space than this, in bytes, something is bad, or about to be.
const FREE_BAD: u64 = 16 << 20;
const FREE_WARN: u64 = 256 << 20;
/// The same as a share of the disk, in percent.
const FREE_SHARE: u64 = 3;

/// 2020-01-01 and 2100-01-01, in Unix milliseconds.
const CLOCK_MIN_MS: i64 = 1_577_836_800_000;
const CLOCK_MAX_MS: i64 = 4_102_444_800_000;
/// How far the clock may be behind the newest file.
const BEHIND_MS: i64 = 10 * 60_000;

pub(super) fn mount(found: &mut Examination, home: &Path) {
    let Ok(disk) = system::disk_space(home) else {
        found.warn(
            "mount",
            "the system does not say which disk the home is on",
            format!("df {}", word(home)),
        );
        return;
    };
    if disk.is_read_only {
        found.bad(
            "mount",
            "the disk may only be read: memories are found, and none is stored",
            format!("sudo mount -o remount,rw \"$(stat -c %m {})\"", word(home)),
        );
    }
    if let Some(what) = unsafe_file_system(home) {
        found.warn("mount", what, format!("df -T {}", word(home)));
    }
    let system::DiskSpace { free, total, .. } = disk;
    let what = format!("{} free of {}", mib(free), mib(total));
    if free < FREE_BAD {
        found.bad("mount", format!("the disk is full: {what}"), format!("du -sh {}/*", word(home)));
    } else if free < FREE_WARN || free < total / 100 * FREE_SHARE {
        found.warn("mount", format!("the disk is nearly full: {what}"), format!("du -sh {}/*", word(home)));
    }
    if disk.has_no_room_for_files {
        found.bad("mount", "the disk has no room for another file", format!("df -i {}", word(home)));
    }
    found.ok_unless_told("mount", what);
}

/// What is to be said about a file system where locks, syncs or files do not last as they do on a disk.
fn unsafe_file_system(home: &Path) -> Option<&'static str> {
    if network_file_system(home).is_some() {
        return Some(
            "the home is on a network file system, where locks and syncs may not hold: memories are safer on a disk of \
             this machine",
        );
    }
    transient_file_system(home)
}

fn transient_file_system(home: &Path) -> Option<&'static str> {
    let kind = system::file_system(home)?;
    // The numbers of linux/magic.h.
    match u32::try_from(kind & 0xffff_ffff).ok()? {
        0x6573_5546 => Some(
            "the home is on a file system of a program (FUSE), where locks and syncs may not hold: memories are safer on \
             a disk",
        ),
        0x0102_1994 | 0x8584_58f6 => Some("the home is in memory (tmpfs): it is gone when the machine stops"),
        _ => None,
    }
}

pub(super) fn clock(found: &mut Examination, home: &Path, now_ms: i64) {
    const SET: &str = "sudo timedatectl set-ntp true";
    let newest = newest_file_ms(home);
    if now_ms < CLOCK_MIN_MS {
        found.bad("clock", "the clock is before 2020: new memories would be the oldest ones", SET);
    } else if now_ms > CLOCK_MAX_MS {
        found.bad("clock", "the clock is after 2100: new memories would stay the newest ones for long", SET);
    } else if let Some(newest) = newest
        && newest.saturating_sub(now_ms) > BEHIND_MS
    {
        let behind = age(newest.abs_diff(now_ms));
        found.bad("clock", format!("the clock is {behind} behind the newest file of the store"), SET);
    } else {
        found.ok("clock", "it makes sense, and no file is newer");
    }
}

/// When the newest file of the store, or the newest log, was changed, in Unix milliseconds.
fn newest_file_ms(home: &Path) -> Option<i64> {
    let folders = ["store", "store/seg", "logs"];
    let files =
        folders.into_iter().filter_map(|folder| fs::read_dir(home.join(folder)).ok()).flatten().flatten();
    let changed = files.filter_map(|entry| entry.metadata().ok()).filter(|metadata| metadata.is_file());
    changed.map(|metadata| system::modified_s(&metadata).saturating_mul(1000)).max()
}
