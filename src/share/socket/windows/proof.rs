//! The note of an owner, and how two ends prove to each other that they have read it.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

pub(super) const NONCE_LEN: usize = 16;
pub(super) const PROOF_LEN: usize = 32;
const NAME_LEN: usize = 16;
const SECRET_LEN: usize = 32;
/// A note has two lines of hexadecimal digits.
const NOTE_LEN: usize = 2 * (NAME_LEN + SECRET_LEN) + 2;

/// What the file `owner.pipe` says.
#[derive(Clone)]
pub(super) struct Note {
    name: [u8; NAME_LEN],
    secret: [u8; SECRET_LEN],
}

/// Who proves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Owner,
    Client,
}

impl Note {
    /// A new name and a new secret.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { name: random()?, secret: random()? })
    }

    /// The note in this file. One that is not all there yet is as good as none.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(NOTE_LEN as u64 + 1).read_to_string(&mut text)?;
        Self::parse(&text).ok_or(io::ErrorKind::NotFound.into())
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, secret) = text.strip_suffix('\n')?.split_once('\n')?;
        Some(Self { name: bytes_of(name)?, secret: bytes_of(secret)? })
    }

    /// The pipe's name, as the system wants it.
    pub(super) fn pipe_path(&self) -> String {
        format!(r"\\.\pipe\memento-kv-{}", Hex(&self.name))
    }

    /// What only somebody can say who knows the secret: for this side, about what the other side has just made up.
    pub(super) fn proof(&self, side: Side, nonce: &[u8; NONCE_LEN]) -> [u8; PROOF_LEN] {
        let side: &[u8] = match side {
            Side::Owner => b"owner ",
            Side::Client => b"client",
        };
        Sha256::new().chain_update(self.secret).chain_update(side).chain_update(nonce).finalize().into()
    }

    #[cfg(test)]
    pub(super) fn with_pipe_of(mut self, other: &Self) -> Self {
        self.name = other.name;
        self
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n", Hex(&self.name), Hex(&self.secret))
    }
}

/// Bytes that nobody can guess.
pub(super) fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn bytes_of<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    if text.len() != 2 * LEN || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..][..2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_and_half_of_one_does_not() {
        let note = Note::new().expect("random bytes");
        let text = note.to_string();
        let back = Note::parse(&text).expect("a note");
        assert_eq!((back.name, back.secret), (note.name, note.secret));
        assert_eq!(text.len(), NOTE_LEN);
        for len in 0..text.len() {
            assert!(Note::parse(&text[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn each_side_and_each_question_has_a_proof_of_its_own() {
        let note = Note::new().expect("random bytes");
        let proof = note.proof(Side::Owner, &[1; NONCE_LEN]);
        assert_ne!(proof, note.proof(Side::Client, &[1; NONCE_LEN]));
        assert_ne!(proof, note.proof(Side::Owner, &[2; NONCE_LEN]));
        assert_ne!(proof, Note::new().expect("random bytes").proof(Side::Owner, &[1; NONCE_LEN]));
    }
}
