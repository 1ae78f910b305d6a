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

/// Reads the fields of a struct one by one and in place: nothing is copied, and it is several times as fast as the
/// decoder that takes the struct whole. It accepts the very same bytes, which a test shows.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    /// What may still be decoded: an integer counts for its eight bytes, a text for its own. So no list that is made of
    /// the fields takes more memory than twice the limit.
    left: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, left: DECODE_LEN_MAX }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        self.claim(8)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.byte()? {
            byte @ 0..=250 => Ok(byte.into()),
            251 => self.take(2).map(number),
            252 => self.take(4).map(number),
            253 => self.take(8).map(number),
            byte => Err(Damage::Codec(format!("no integer begins with {byte}"))),
        }
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        let zigzag = self.u64()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    pub(crate) fn f64(&mut self) -> Result<f64, Damage> {
        self.claim(8)?;
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().expect("length is fixed")))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Damage> {
        let len = self.u64()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.claim(len)?;
        std::str::from_utf8(self.take(len)?).map_err(|error| Damage::Codec(error.to_string()))
    }

    pub(crate) fn texts(&mut self) -> Result<Vec<&'a str>, Damage> {
        let len = self.u64()?;
        // The bytes end long before a hostile length does.
        let mut texts = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX).min(16));
        for _ in 0..len {
            texts.push(self.text()?);
        }
        Ok(texts)
    }

    pub(crate) fn option<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Damage>,
    ) -> Result<Option<T>, Damage> {
        self.claim(1)?;
        match self.byte()? {
            0 => Ok(None),
            1 => value(self).map(Some),
            byte => Err(Damage::Codec(format!("no option begins with {byte}"))),
        }
    }

    /// There is no field left.
    pub(crate) fn end(self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err(followed(self.rest.len())) }
    }

    fn claim(&mut self, bytes: usize) -> Result<(), Damage> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or(Damage::TooLong { found: bytes as u64, limit: DECODE_LEN_MAX as u64 })?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Damage> {
        let (byte, rest) = self.rest.split_first().ok_or(Damage::Short { found: 0, expected: 1 })?;
        self.rest = rest;
        Ok(*byte)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(Damage::Short { found: self.rest.len(), expected: len })?;
        self.rest = rest;
        Ok(taken)
    }
}

fn followed(len: usize) -> Damage {
    Damage::Codec(format!("{len} bytes follow the value"))
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
        return Err(followed(bytes.len() - used));
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

/// Most bytes that the decoder of a message may allocate, for a message of at most 64 KiB, ...
const SHORT_MESSAGE_DECODE_MAX: usize = 4 << 20;
/// ... of at most 1 MiB, ...
const MESSAGE_DECODE_MAX: usize = 64 << 20;
/// ... and for a longer one. A list of small things takes some 20 times its bytes; a length that lies takes no more.
const LONG_MESSAGE_DECODE_MAX: usize = 2 << 30;

/// Appends a value of a message between processes.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn encode_message<T: bincode::Encode>(value: &T, out: &mut Vec<u8>) -> Result<(), Damage> {
    bincode::encode_into_std_write(value, out, bincode::config::standard())
        .map(drop)
        .map_err(|error| Damage::Codec(error.to_string()))
}

/// Takes a value from the front of a message.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn decode_message<T: bincode::Decode<()>>(bytes: &mut &[u8]) -> Result<T, Damage> {
    let config = bincode::config::standard();
    let decoded = match bytes.len() {
        0..=0x1_0000 => bincode::decode_from_slice(bytes, config.with_limit::<SHORT_MESSAGE_DECODE_MAX>()),
        0x1_0001..=0x10_0000 => bincode::decode_from_slice(bytes, config.with_limit::<MESSAGE_DECODE_MAX>()),
        _ => bincode::decode_from_slice(bytes, config.with_limit::<LONG_MESSAGE_DECODE_MAX>()),
    };
    taken(bytes, decoded)
}

fn taken<T>(
    bytes: &mut &[u8],
    decoded: Result<(T, usize), bincode::error::DecodeError>,
) -> Result<T, Damage> {
    let (value, used) = decoded.map_err(|error| Damage::Codec(error.to_string()))?;
    *bytes = &bytes[used..];
    Ok(value)
}
