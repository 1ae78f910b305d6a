//! Messages between the process that owns a store and the others. Spec: `format-spec/protocol.md`.
//!
//! A message is one frame or several; each has a header of 16 bytes and at most [`FRAME_BODY_MAX`] bytes of the body.

use bincode::{Decode, Encode};

use super::Damage;
use super::codec;

/// First bytes of every frame.
pub(crate) const MESSAGE_MAGIC: [u8; 4] = *b"MKVP";
/// The protocol of this program. Any change of a message makes another one.
pub(crate) const PROTOCOL: u16 = 1;
/// Bytes of a frame before its part of the body.
pub(crate) const MESSAGE_HEADER_LEN: usize = 16;
/// Most bytes of the body in one frame.
pub(crate) const FRAME_BODY_MAX: usize = 1 << 20;
/// Most bytes of the body of a message to the owner.
pub(crate) const CALL_LEN_MAX: usize = 64 << 20;
/// Most bytes of the body of a message from the owner.
pub(crate) const ANSWER_LEN_MAX: usize = 1 << 30;

/// The flag of a frame that others of the same message follow.
const MORE: u8 = 1;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum MessageKind {
    /// The first message of a client: who it is.
    Hello = 1,
    /// The owner's answer to it: who it is.
    Welcome = 2,
    /// A call of the store.
    Call = 3,
    /// Its answer.
    Answer = 4,
    /// The error that it ended with, or why the client is not served.
    Error = 5,
    /// How far a long call is.
    Progress = 6,
    /// The call goes on.
    Working = 7,
    /// The owner asks which embedder the client has.
    AskModel = 8,
    /// The client's answer to it.
    Model = 9,
    /// The owner asks for vectors of a text.
    Embed = 10,
    /// The client's answer to it.
    Vectors = 11,
}

impl MessageKind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Hello,
        Self::Welcome,
        Self::Call,
        Self::Answer,
        Self::Error,
        Self::Progress,
        Self::Working,
        Self::AskModel,
        Self::Model,
        Self::Embed,
        Self::Vectors,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: MessageKind,
    /// Whether other frames of the message follow.
    pub(crate) more: bool,
    /// Bytes of the body in this frame.
    pub(crate) len: usize,
    checksum: u32,
}

/// Why a frame cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameProblem {
    /// It is of another protocol.
    Protocol(u16),
    /// It is none.
    Damaged(Damage),
}

impl From<Damage> for FrameProblem {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl FrameHeader {
    /// Reads a header; the checksum is looked at when the body is there.
    pub(crate) fn decode(bytes: &[u8; MESSAGE_HEADER_LEN]) -> Result<Self, FrameProblem> {
        if bytes[..4] != MESSAGE_MAGIC {
            return Err(Damage::Magic.into());
        }
        let protocol = u16::from_le_bytes([bytes[4], bytes[5]]);
        if protocol != PROTOCOL {
            return Err(FrameProblem::Protocol(protocol));
        }
        let field = |name, found: u8| Damage::Field { name, found: found.into() };
        let kind = MessageKind::from_byte(bytes[6]).ok_or_else(|| field("kind", bytes[6]))?;
        if bytes[7] & !MORE != 0 {
            return Err(field("flags", bytes[7]).into());
        }
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let len = number(8) as usize;
        if len > FRAME_BODY_MAX {
            return Err(Damage::TooLong { found: len as u64, limit: FRAME_BODY_MAX as u64 }.into());
        }
        Ok(Self { kind, more: bytes[7] & MORE != 0, len, checksum: number(12) })
    }

    /// Whether this is the body's part that belongs to the header.
    pub(crate) fn check(&self, body: &[u8]) -> Result<(), Damage> {
        let computed = checksum(&self.start(), body);
        if computed == self.checksum {
            Ok(())
        } else {
            Err(Damage::Checksum { stored: self.checksum, computed })
        }
    }

    /// The header without its checksum.
    fn start(&self) -> [u8; 12] {
        start(self.kind, self.more, self.len)
    }
}

/// A message as it is sent: all its frames, one behind the other.
pub(crate) fn framed(kind: MessageKind, body: &[u8]) -> Vec<u8> {
    let frames = body.len().div_ceil(FRAME_BODY_MAX).max(1);
    let mut bytes = Vec::with_capacity(body.len() + frames * MESSAGE_HEADER_LEN);
    for number in 0..frames {
        let from = number * FRAME_BODY_MAX;
        let part = &body[from..body.len().min(from + FRAME_BODY_MAX)];
        let start = start(kind, number + 1 < frames, part.len());
        bytes.extend_from_slice(&start);
        bytes.extend_from_slice(&checksum(&start, part).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn start(kind: MessageKind, more: bool, len: usize) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&MESSAGE_MAGIC);
    bytes[4..6].copy_from_slice(&PROTOCOL.to_le_bytes());
    bytes[6] = kind as u8;
    bytes[7] = if more { MORE } else { 0 };
    bytes[8..].copy_from_slice(&(len as u32).to_le_bytes());
    bytes
}

fn checksum(start: &[u8; 12], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(start);
    hasher.update(body);
    hasher.finalize()
}

/// Which way a message goes: how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToOwner,
    FromOwner,
}

impl Way {
    /// Most bytes of a body.
    pub(crate) fn body_max(self) -> usize {
        match self {
            Self::ToOwner => CALL_LEN_MAX,
            Self::FromOwner => ANSWER_LEN_MAX,
        }
    }
}

/// Appends a value as it stands in the body of a message.
pub(crate) fn put<T: Encode>(value: &T, body: &mut Vec<u8>) -> Result<(), Damage> {
    codec::encode_message(value, body)
}

/// Takes a value from the front of a body.
pub(crate) fn take<T: Decode<()>>(body: &mut &[u8]) -> Result<T, Damage> {
    codec::decode_message(body)
}

/// The value that a body, or what is left of it, is.
pub(crate) fn whole<T: Decode<()>>(mut body: &[u8]) -> Result<T, Damage> {
    let value = take(&mut body)?;
    if body.is_empty() {
        Ok(value)
    } else {
        Err(Damage::Codec(format!("{} bytes follow the value", body.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> Result<FrameHeader, FrameProblem> {
        FrameHeader::decode(bytes[..MESSAGE_HEADER_LEN].try_into().expect("a header"))
    }

    #[test]
    fn a_message_of_any_length_is_read_as_it_was_written() {
        for len in [0, 1, FRAME_BODY_MAX - 1, FRAME_BODY_MAX, FRAME_BODY_MAX + 1, 3 * FRAME_BODY_MAX] {
            let body: Vec<u8> = (0..len).map(|number| number as u8).collect();
            let bytes = framed(MessageKind::Call, &body);
            let (mut rest, mut read) = (&bytes[..], Vec::new());
            loop {
                let header = header(rest).expect("a header");
                assert_eq!(header.kind, MessageKind::Call);
                let part = &rest[MESSAGE_HEADER_LEN..MESSAGE_HEADER_LEN + header.len];
                header.check(part).expect("whole");
                read.extend_from_slice(part);
                rest = &rest[MESSAGE_HEADER_LEN + header.len..];
                if !header.more {
                    break;
                }
            }
            assert!(rest.is_empty() && read == body, "{len}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = framed(MessageKind::Answer, b"body");
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let is_noticed = header(&flipped).map_or(true, |header| {
                header.len != 4 || header.check(&flipped[MESSAGE_HEADER_LEN..]).is_err()
            });
            assert!(is_noticed, "bit {bit}");
        }
    }

    #[test]
    fn another_protocol_is_told_from_garbage() {
        let mut bytes = framed(MessageKind::Hello, b"");
        bytes[4] = 7;
        assert_eq!(header(&bytes), Err(FrameProblem::Protocol(7)));
        bytes[0] = b'x';
        assert_eq!(header(&bytes), Err(FrameProblem::Damaged(Damage::Magic)));
    }

    #[test]
    fn a_hostile_length_in_a_body_is_refused_before_it_is_believed() {
        let mut body = vec![253];
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(whole::<String>(&body).is_err());
        assert!(whole::<Vec<u64>>(&body).is_err());
    }
}
