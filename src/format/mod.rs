//! Byte layouts: the only code that knows offsets and codecs. It does no I/O and knows no paths.
//!
//! Each table in `format-spec/` has its twin here, and a test compares the two.

pub(crate) mod block;
pub(crate) mod codec;
pub(crate) mod frame;
pub(crate) mod manifest;
pub(crate) mod message;
pub(crate) mod op;
pub(crate) mod pages;
pub(crate) mod record;
pub(crate) mod row;
pub(crate) mod segment;
#[cfg(test)]
pub(crate) mod spec_tests;
pub(crate) mod text_block;
#[cfg(test)]
mod view_tests;

use std::fmt;

/// What is wrong with some bytes, without where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Fewer bytes than the layout needs.
    Short { found: usize, expected: usize },
    /// The magic is not there.
    Magic,
    /// The stored checksum is not that of the bytes.
    Checksum { stored: u32, computed: u32 },
    /// A field has a value that was never written.
    Field { name: &'static str, found: u64 },
    /// A length is above its limit.
    TooLong { found: u64, limit: u64 },
    /// The codec does not accept the bytes.
    Codec(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { found, expected } => write!(f, "{found} bytes, expected {expected}"),
            Self::Magic => write!(f, "the magic is missing"),
            Self::Checksum { stored, computed } => {
                write!(f, "checksum is {stored:08x}, expected {computed:08x}")
            }
            Self::Field { name, found } => write!(f, "{name} is {found}"),
            Self::TooLong { found, limit } => write!(f, "length {found} is above the limit {limit}"),
            Self::Codec(what) => write!(f, "{what}"),
        }
    }
}
