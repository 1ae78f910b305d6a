//! The one door to bincode: a fixed configuration with a limit. Spec: `format-spec/codec.md`.
//!
//! bincode without a limit aborts the process on a hostile length, and it ignores trailing bytes; neither can
//! happen behind this door. Clippy forbids every other call of it.

use serde::{Deserialize, Serialize};

use super::Damage;

/// Most bytes that a decoder may allocate for one value.
pub(crate) const DECODE_LEN_MAX: usize = 16 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LEN_MAX>()
}

/// Appends the value's bytes.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, out, config())
        .expect("a checked value within its limits has an encoding and a vector takes it");
}

/// Reads a value that fills the bytes exactly, and may borrow from them.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damage> {
    let (value, used) = bincode::serde::borrow_decode_from_slice(bytes, config())
        .map_err(|error| Damage::Codec(error.to_string()))?;
    if used != bytes.len() {
        return Err(Damage::Codec(format!("{} bytes follow the value", bytes.len() - used)));
    }
    Ok(value)
}

/// Reads a value that other fields of the same struct follow.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn decode_first<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damage> {
    let (value, _) = bincode::serde::borrow_decode_from_slice(bytes, config())
        .map_err(|error| Damage::Codec(error.to_string()))?;
    Ok(value)
}
