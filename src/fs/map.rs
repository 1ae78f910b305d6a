//! Files that are read where they lie: mapped into memory by the operating system, or copied into it.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;

use memmap2::Mmap;

use super::{DiskFile, read_exact_at};
use crate::error::{Error, ErrorKind, Result};

/// The bytes of a file at a multiple of 64, so that numbers in it can be read in place.
pub(crate) enum Mapped {
    /// The operating system reads what is touched, and may drop it again.
    Map(Mmap),
    /// A copy, from a disk that has no files of the operating system.
    Copy(Box<[Line]>, usize),
}

/// One cache line, for its alignment.
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: only index blocks are mapped. They are written under a temporary name, and never written or cut once
        // they have their own (format-spec/block.md, "Life of a block"). Somebody else who cuts one ends this process
        // with a signal, as for every program that maps files; who may write the folder may do worse.
        unsafe { Mmap::map(file) }.map(Self::Map)
    }

    /// Reads a whole file into memory.
    ///
    /// # Errors
    /// What the disk says; [`ErrorKind::Io`] when there is not enough memory.
    pub(super) fn copy(file: &dyn DiskFile) -> Result<Self> {
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        let mut lines = Vec::new();
        lines
            .try_reserve_exact(len.div_ceil(64))
            .map_err(|_| Error::new(ErrorKind::Io, format!("no memory for {len} bytes")).at(file.path()))?;
        lines.resize(len.div_ceil(64), Line([0; 64]));
        let mut lines = lines.into_boxed_slice();
        read_exact_at(file, &mut zerocopy::IntoBytes::as_mut_bytes(&mut *lines)[..len], 0)?;
        Ok(Self::Copy(lines, len))
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Copy(lines, len) => &zerocopy::IntoBytes::as_bytes(&**lines)[..*len],
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("len", &self.bytes().len()).finish_non_exhaustive()
    }
}
