//! Who a client is, and who the owner is.

use bincode::{Decode, Encode};

/// Longest name of a program that is shown.
const PROGRAM_LEN_MAX: usize = 200;

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
