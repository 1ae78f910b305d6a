//! Where the owner listens and how others reach it: a socket in the store's folder or, on Windows, a named pipe whose name
//! stands there.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// Who is at the other end, as the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerIdentity {
    pub(crate) uid: u32,
    pub(crate) pid: Option<u32>,
}
