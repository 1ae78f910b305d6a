//! What operating systems do in different ways, behind one set of functions: here, and in the socket of room `share`,
//! are the only places that ask which system it is.
//!
//! `unix.rs` is what the store was made for. `windows.rs` has the same functions; what Windows, or the standard library
//! there, does not tell has a stand-in, which says so.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// What tells a file from another one that took its place, or from what it was before it was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) len: u64,
    /// Nanoseconds since 1970.
    pub(crate) modified_ns: i128,
    /// The same for the change of anything at all.
    pub(crate) changed_ns: i128,
}

/// The disk that a folder is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    /// Bytes that are free for this user.
    pub(crate) free: u64,
    /// Bytes in all.
    pub(crate) total: u64,
    /// Whether nothing can be written to it.
    pub(crate) is_read_only: bool,
    /// Whether there is no room for the name of another file.
    pub(crate) has_no_room_for_files: bool,
}

/// How a file in an open folder is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// To be read.
    Read,
    /// To be read and appended to.
    Append,
    /// The same, made when it is not there.
    AppendOrMake,
    /// To be read and written; made, and an error when it is there.
    Make,
}
