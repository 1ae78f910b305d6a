//! Owners, modes and what was left behind.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::{Examination, age, mib, told, word};
use crate::fs::{Access, Disk, RealDisk, system};

/// Folders of a home that are its own.
const FOLDERS: [&str; 8] =
    ["store", "store/seg", "store/index", "store/trash", "store/quarantine", "quarantine", "backups", "logs"];
/// Entries of one folder that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// A temporary file that is younger may be in use.
const TEMPORARY_AGE_MS: u64 = 3_600_000;
const SHARED: u32 = 0o077;
const SHARED_WRITE: u32 = 0o022;

/// Whether there is a home at all.
pub(super) fn home_is_there(found: &mut Examination, home: &Path) -> bool {
    match fs::symlink_metadata(home) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            found.warn(
                "permissions",
                format!("{} is not there yet", told(home)),
                format!("memento-kv --home {} remember \"the first memory\"", word(home)),
            );
            false
        }
        Err(error) => {
            found.bad("permissions", format!("{}: {error}", told(home)), format!("ls -ld {}", word(home)));
            false
        }
        Ok(metadata) if !metadata.is_dir() => {
            let what = if metadata.is_symlink() { "a link" } else { "not a folder" };
            found.bad(
                "permissions",
                format!("{} is {what}, which a home must not be", told(home)),
                match fs::canonicalize(home) {
                    Ok(real) if real != home => format!("export MEMENTO_HOME={}", word(&real)),
                    _ => format!("mv {0} {0}.old", word(home)),
                },
            );
            false
        }
        Ok(_) => true,
    }
}

/// What is not the user's, or is open to others.
#[derive(Default)]
struct Loose {
    foreign: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    readable: Vec<PathBuf>,
    strange: Vec<PathBuf>,
    unreadable: Vec<PathBuf>,
}

pub(super) fn permissions(found: &mut Examination, home: &Path) {
    let user = system::user();
    let mut loose = Loose::default();
    look_at(home, true, user, &mut loose);
    entries(home, &mut loose, user);
    for folder in FOLDERS {
        entries(&home.join(folder), &mut loose, user);
    }
    let tell = |paths: &[PathBuf]| match paths {
        [] => String::new(),
        [one] => told(one),
        [first, ..] => format!("{} and {} more", told(first), paths.len() - 1),
    };
    let home_word = word(home);
    if !loose.foreign.is_empty() {
        found.bad(
            "permissions",
            format!("{}: belongs to another user", tell(&loose.foreign)),
            format!("sudo chown -R \"$(id -un)\" {home_word}"),
        );
    }
    if !loose.strange.is_empty() {
        found.bad(
            "permissions",
            format!("{}: a link, a pipe or a device, where files of the store are", tell(&loose.strange)),
            format!("ls -l {}", word(&loose.strange[0])),
        );
    }
    if !loose.unreadable.is_empty() {
        found.bad(
            "permissions",
            format!("{}: cannot be looked into", tell(&loose.unreadable)),
            format!("chmod u+rwx {}", word(&loose.unreadable[0])),
        );
    }
    if !loose.writable.is_empty() {
        found.bad(
            "permissions",
            format!("{}: others may write it", tell(&loose.writable)),
            format!("chmod -R go-rwx {home_word}"),
        );
    } else if !loose.readable.is_empty() {
        found.warn(
            "permissions",
            format!("{}: others may read it", tell(&loose.readable)),
            format!("chmod -R go-rwx {home_word}"),
        );
    }
    found.ok_unless_told("permissions", format!("{} and all in it is yours alone", told(home)));
}

/// Looks at what is in a folder of the home.
fn entries(folder: &Path, loose: &mut Loose, user: u32) {
    if !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return;
    }
    let Ok(list) = fs::read_dir(folder) else {
        loose.unreadable.push(folder.to_owned());
        return;
    };
    for entry in list.take(ENTRIES_MAX).flatten() {
        look_at(&entry.path(), false, user, loose);
    }
}

fn look_at(path: &Path, is_home: bool, user: u32, loose: &mut Loose) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // A configuration may be linked, and a socket is no file.
    if metadata.is_symlink() {
        if name != crate::home::CONFIG_NAME {
            loose.strange.push(path.to_owned());
        }
        return;
    }
    let kind = metadata.file_type();
    if !kind.is_dir() && !kind.is_file() && !system::is_socket(kind) {
        loose.strange.push(path.to_owned());
        return;
    }
    if system::owner(&metadata) != user {
        loose.foreign.push(path.to_owned());
    }
    // What lies in a private folder nobody else reaches, but it may be copied out with its mode.
    if system::mode(&metadata) & SHARED_WRITE != 0 {
        loose.writable.push(path.to_owned());
    } else if system::mode(&metadata) & SHARED != 0 && (is_home || !is_harmless(name)) {
        loose.readable.push(path.to_owned());
    }
}

/// Without memories in it, whoever may read it.
fn is_harmless(name: &str) -> bool {
    matches!(name, "config.yaml" | "models")
}

/// What nobody needs any more, and what waits for somebody.
pub(super) fn leftovers(found: &mut Examination, home: &Path, now_ms: i64) {
    let mut temporary = Vec::new();
    for folder in std::iter::once("").chain(FOLDERS) {
        let Ok(list) = fs::read_dir(home.join(folder)) else { continue };
        for entry in list.take(ENTRIES_MAX).flatten() {
            let is_old = entry.metadata().is_ok_and(|metadata| is_old(&metadata, now_ms));
            if entry.file_name().to_string_lossy().ends_with(".tmp") && is_old {
                temporary.push(entry.path());
            }
        }
    }
    if let [first, rest @ ..] = temporary.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let words: Vec<String> = temporary.iter().take(20).map(|path| word(path)).collect();
        found.warn(
            "leftovers",
            format!("{}{more}: left behind by something that broke off", told(first)),
            format!("rm -r {}", words.join(" ")),
        );
    }
    let socket = home.join("store/owner.sock");
    if socket.symlink_metadata().is_ok_and(|metadata| system::is_socket(metadata.file_type()))
        && is_free(home)
    {
        found.warn(
            "leftovers",
            format!("{}: the process that answered here has ended", told(&socket)),
            format!("rm {}", word(&socket)),
        );
    }
    // The second one is of a store that was brought back as a whole.
    for quarantine in [home.join("store/quarantine"), home.join("quarantine")] {
        let (files, bytes, oldest_ms) = kept_in(&quarantine);
        if files > 0 {
            found.warn(
                "leftovers",
                format!(
                    "{}: damaged files are kept ({files}, {}), the oldest for {}; when nothing is missing they can go",
                    told(&quarantine),
                    mib(bytes),
                    age(now_ms.abs_diff(oldest_ms))
                ),
                format!("rm -r {}", word(&quarantine)),
            );
        }
    }
    if fs::metadata(home.join("spool.jsonl")).is_ok_and(|file| file.len() > 0) {
        found.warn(
            "leftovers",
            "memories wait in spool.jsonl to be brought into the store",
            "memento-kv snapshot",
        );
    }
    found.ok_unless_told("leftovers", "nothing was left behind");
}

fn is_old(metadata: &Metadata, now_ms: i64) -> bool {
    now_ms.abs_diff(system::modified_s(metadata).saturating_mul(1000)) > TEMPORARY_AGE_MS
}

/// Whether no process has the store. Asking takes the lock for a moment, as every opening does.
fn is_free(home: &Path) -> bool {
    let lock = home.join("store/LOCK");
    match RealDisk.kind(&lock) {
        Ok(None) => true,
        Ok(Some(_)) => RealDisk.open(&lock, Access::Read).and_then(|file| file.try_lock()).unwrap_or(false),
        Err(_) => false,
    }
}

/// How many files a folder holds, of how many bytes, and when the oldest was changed, in Unix milliseconds.
fn kept_in(folder: &Path) -> (u64, u64, i64) {
    let mut kept = (0, 0, i64::MAX);
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(list) = fs::read_dir(&folder) else { continue };
        for entry in list.take(ENTRIES_MAX).flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && depth < 4 {
                folders.push((entry.path(), depth + 1));
            } else if metadata.is_file() {
                let changed_ms = system::modified_s(&metadata).saturating_mul(1000);
                kept = (kept.0 + 1, kept.1 + metadata.len(), kept.2.min(changed_ms));
            }
        }
    }
    kept
}
