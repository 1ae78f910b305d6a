//! Receipts: what a caller keeps to have it proven later that a memory is there as it was acknowledged.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind};

/// Bytes of a digest.
const DIGEST_LEN: usize = 16;

/// A fingerprint of a memory's state: the first 16 bytes of the SHA-256 of the store's identity, the sequence of the
/// record and the memory as the record has it, without vectors. Written as 32 hexadecimal digits. Spec:
/// `format-spec/op.md`, "Receipts".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct Digest(pub(crate) [u8; DIGEST_LEN]);

/// What an acknowledged write gives: the sequence of its record, and the digest of what it stored. Written as
/// `12-0123456789abcdef0123456789abcdef`, which [`Store::prove`](crate::Store::prove) takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct Receipt {
    /// Sequence of the record.
    pub seq: u64,
    /// Fingerprint of what it stored.
    pub digest: Digest,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.digest)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "this is no receipt")
                .hint("a receipt is a sequence, a hyphen and 32 hexadecimal digits, as `remember --json` gives them")
        })
    }
}

fn parse(text: &str) -> Option<Receipt> {
    let (seq, digest) = text.split_once('-')?;
    if digest.len() != 2 * DIGEST_LEN || !digest.is_ascii() || !seq.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let mut bytes = [0; DIGEST_LEN];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digest[at..at + 2], 16).ok()?;
    }
    Some(Receipt { seq: seq.parse().ok()?, digest: Digest(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_as_it_is_written_and_nothing_else_is_one() {
        let receipt = Receipt { seq: 12, digest: Digest(std::array::from_fn(|n| 17 * n as u8)) };
        let text = receipt.to_string();
        assert_eq!(text, "12-00112233445566778899aabbccddeeff");
        assert_eq!(text.parse::<Receipt>().expect("a receipt"), receipt);
        for other in
            ["", "12", "12-", &text[..34], &text.replace('-', "_"), "+2-00112233445566778899aabbccddeeff"]
        {
            assert!(other.parse::<Receipt>().is_err(), "{other}");
        }
        assert!("12-é0112233445566778899aabbccddeef".parse::<Receipt>().is_err());
    }
}
