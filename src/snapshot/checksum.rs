//! Checksums of whole files: what was verified once is known again by its bytes, which is much faster than SQLite's look at
//! every page, index and word.

use std::path::Path;
use std::thread;

use sha2::{Digest, Sha256};

use super::layout::hex;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Access, Disk, DiskFile};

/// Bytes that are read at once.
const PART_LEN: usize = 1 << 20;
/// Shorter files are read by one thread.
const SHARED_LEN_MIN: u64 = 16 << 20;

/// CRC-32 of a file, read by all cores when it is long.
///
/// # Errors
/// What the disk says.
pub(super) fn crc32_of(disk: &dyn Disk, path: &Path) -> Result<u32> {
    let file = disk.open(path, Access::Read)?;
    let len = file.len()?;
    let threads = match disk.system_path(path) {
        Some(_) if len >= SHARED_LEN_MIN => {
            thread::available_parallelism().map_or(1, |count| count.get() as u64)
        }
        // A disk of a test is asked in one order, always the same.
        _ => 1,
    };
    let share = len.div_ceil(threads);
    let mut whole = crc32fast::Hasher::new();
    let parts = thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|number| {
                let range = share * number..len.min(share * (number + 1));
                let file = &*file;
                thread::Builder::new()
                    .name("memento-checksum".to_owned())
                    .spawn_scoped(scope, move || crc32_of_range(file, range.start, range.end))
            })
            .collect();
        let mut parts = vec![crc32_of_range(&*file, 0, share.min(len))];
        for other in others {
            parts.push(match other {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(Error::new(ErrorKind::Io, format!("no thread for a checksum: {error}"))
                    .with_source(error)),
            });
        }
        parts
    });
    for part in parts {
        whole.combine(&part?);
    }
    Ok(whole.finalize())
}

/// Of the bytes from here to there, or to the end, whichever is first.
fn crc32_of_range(file: &dyn DiskFile, from: u64, to: u64) -> Result<crc32fast::Hasher> {
    let (mut crc, mut at, mut part) = (crc32fast::Hasher::new(), from, vec![0; PART_LEN]);
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(PART_LEN);
        let read = file.read_at(&mut part[..len], at)?;
        if read == 0 {
            break;
        }
        crc.update(&part[..read]);
        at += read as u64;
    }
    Ok(crc)
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// What the disk says.
pub(super) fn sha256_of(disk: &dyn Disk, path: &Path) -> Result<String> {
    let file = disk.open(path, Access::Read)?;
    let (mut hash, mut offset, mut part) = (Sha256::new(), 0, vec![0; PART_LEN]);
    loop {
        let read = file.read_at(&mut part, offset)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&part[..read]);
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealDisk;

    #[test]
    fn a_long_file_has_the_checksum_of_all_its_bytes_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        for len in [0, 1, PART_LEN + 1, SHARED_LEN_MIN as usize - 1, SHARED_LEN_MIN as usize + 7] {
            let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 255) as u8).collect();
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(crc32_of(&RealDisk, &path).expect("read"), crc32fast::hash(&bytes), "{len}");
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
                std::fs::write(&path, &bytes).expect("written");
                assert_eq!(crc32_of(&RealDisk, &path).expect("read"), crc32fast::hash(&bytes), "{len}");
            }
        }
    }
}
