//! Who a client is, and who the owner is.

use bincode::{Decode, Encode};

use crate::error::{Error, ErrorKind};
use crate::format::message::PROTOCOL;

/// Longest name of a program that is shown.
const PROGRAM_LEN_MAX: usize = 200;

/// The error of two processes that do not understand each other: who speaks this protocol, and what that one does not
/// understand.
pub(crate) fn skew(who: &str, what: &str) -> Error {
    Error::new(ErrorKind::VersionSkew, format!("{who} speaks protocol {PROTOCOL} and does not understand {what}")).hint(
        "use the same version of memento-kv everywhere, or end the owner; `memento-kv check --files` works without it",
    )
}

/// The first message of a client.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Hello {
    pub(crate) pid: u32,
    /// The program's name and the version of this library in it.
    pub(crate) program: String,
    /// Whether it promises to change nothing; the owner holds it to that.
    pub(crate) is_read_only: bool,
}

/// The owner's answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Welcome {
    pub(crate) store_id: [u8; 16],
    pub(crate) pid: u32,
    pub(crate) program: String,
    /// Since when it owns the store, in milliseconds since 1970.
    pub(crate) since_ms: i64,
    /// Whether the store takes no writes.
    pub(crate) is_read_only: bool,
}

impl Hello {
    /// The program as it may be shown: what a process says of itself is not to be trusted.
    pub(crate) fn shown_program(&self) -> String {
        self.program.chars().filter(|c| !c.is_control()).take(PROGRAM_LEN_MAX).collect()
    }
}
