//! What all files of `index/` have in common: mapped, verified, written under another name and put in their place.

use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::remove_if_there;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{BLOCK_HEADER_LEN, BLOCK_MAJOR, BlockProblem, Section};
use crate::fs::{Access, Disk, DiskFile, Mapped};

/// Bytes that are written at once.
pub(super) const WRITE_LEN: usize = 1 << 20;
/// Bytes that are checked between two looks at whether to stop.
const VERIFY_LEN: usize = 4 << 20;

/// Maps a file and reads its header.
///
/// # Errors
/// [`ErrorKind::Corrupt`] and [`ErrorKind::UnknownFormat`] for a file that is no whole one of this version, and what
/// the disk says.
pub(super) fn map<H>(
    disk: &dyn Disk,
    path: &Path,
    decode: impl FnOnce(&[u8], u64) -> Result<H, BlockProblem>,
) -> Result<(Mapped, H)> {
    if cfg!(target_endian = "big") {
        let what = "index blocks are for little-endian processors";
        return Err(Error::new(ErrorKind::UnknownFormat, what).at(path));
    }
    let mapped = disk.map(path)?;
    let bytes = mapped.bytes();
    let head = &bytes[..bytes.len().min(BLOCK_HEADER_LEN)];
    let header = decode(head, bytes.len() as u64).map_err(|problem| match problem {
        BlockProblem::Newer { major } => Error::new(
            ErrorKind::UnknownFormat,
            format!("the index block has format {major}, this program knows {BLOCK_MAJOR}"),
        )
        .at(path),
        BlockProblem::Damaged(damage) => Error::corrupt(path, 0, format!("index block: {damage}")),
    })?;
    Ok((mapped, header))
}

/// Reads every byte, unless it is told to stop.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when a section is not as it was written.
pub(super) fn verify<K: std::fmt::Debug>(
    path: &Path,
    mapped: &Mapped,
    sections: &[Section<K>],
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    verify_sections(path, mapped, sections.iter(), stop)?;
    // Between sections there is nothing, so that every byte of the file has one right value.
    let mut end = BLOCK_HEADER_LEN;
    let file_end = mapped.bytes().len();
    for next in sections.iter().map(Section::range).chain(std::iter::once(file_end..file_end)) {
        if mapped.bytes()[end..next.start].iter().any(|byte| *byte != 0) {
            let what = "index block: something stands between sections";
            return Err(Error::corrupt(path, end as u64, what));
        }
        end = next.end;
    }
    Ok(())
}

/// Reads these sections, unless it is told to stop.
///
/// # Errors
/// As [`verify`].
pub(super) fn verify_sections<'a, K: std::fmt::Debug + 'a>(
    path: &Path,
    mapped: &Mapped,
    sections: impl Iterator<Item = &'a Section<K>>,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    for section in sections {
        let mut hasher = crc32fast::Hasher::new();
        for part in mapped.bytes()[section.range()].chunks(VERIFY_LEN) {
            if stop() {
                return Ok(());
            }
            hasher.update(part);
        }
        let (stored, computed) = (section.checksum, hasher.finalize());
        if stored != computed {
            let what = format!(
                "index block: checksum of section {:?} is {stored:08x}, expected {computed:08x}",
                section.kind
            );
            return Err(Error::corrupt(path, section.offset, what));
        }
    }
    Ok(())
}

/// What a section holds.
pub(super) fn values<'a, T: FromBytes + Immutable + KnownLayout, K>(
    mapped: &'a Mapped,
    section: &Section<K>,
) -> &'a [T] {
    <[T]>::ref_from_bytes(&mapped.bytes()[section.range()])
        .expect("the header was held against the file: sections are aligned and hold whole numbers")
}

/// Writes a file under another name and puts it in its place: when this returns it is durable, and a crash before that
/// leaves no part of it under its name.
///
/// # Errors
/// What the disk says.
pub(super) fn publish(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&dyn DiskFile) -> Result<()>,
) -> Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    remove_if_there(disk, &temporary)?;
    let written = || -> Result<()> {
        let file = disk.open(&temporary, Access::CreateNew)?;
        write(&*file)?;
        file.sync()?; // The content is durable before the name points to it.
        disk.rename(&temporary, path)
    };
    if let Err(error) = written() {
        // On a full disk it would keep the little space there is.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.sync_folder(path.parent().expect("the file has a folder"))
}

/// Writes a file, or a part of one, front to back in large pieces.
pub(super) struct Appender<F> {
    file: F,
    buffer: Vec<u8>,
    offset: u64,
    checksum: crc32fast::Hasher,
}

impl<'f, F: std::ops::Deref<Target = dyn DiskFile + 'f>> Appender<F> {
    /// Begins at a place of the file.
    pub(super) fn new(file: F, offset: u64) -> Self {
        Self { file, buffer: Vec::with_capacity(WRITE_LEN), offset, checksum: crc32fast::Hasher::new() }
    }

    /// # Errors
    /// What the disk says.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > WRITE_LEN {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.checksum.update(&self.buffer);
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the rest, and gives the place behind it and the checksum of it all.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn finish(mut self) -> Result<(u64, u32)> {
        self.flush()?;
        Ok((self.offset, self.checksum.finalize()))
    }
}
