//! What the targets of the two index files share: how an input says which file it is, and that file on a disk.

use std::path::Path;

use super::super::disk::SimulatedDisk;
use crate::fs::{Access, Disk};

/// First byte: the input is a file as it is.
pub(super) const PLAIN: u8 = 1;
/// First byte: a byte of the header is changed, and its checksum set right.
pub(super) const HEADER_CHANGED: u8 = 2;

/// The folder of the index on that disk.
pub(super) const FOLDER: &str = "/disk/index";

/// A disk with nothing but this file in the folder of the index.
pub(super) fn disk_with(path: &Path, file: &[u8]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(Path::new("/disk"));
    disk.create_folder(Path::new(FOLDER)).expect("memory is there");
    let written = disk.open(path, Access::CreateNew).and_then(|opened| opened.write_at(file, 0));
    written.expect("a healthy disk");
    disk
}
