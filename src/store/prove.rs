//! Proof that a memory is there as it was acknowledged, from the log's own bytes.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Engine, Inner, Layout, lock};
use crate::error::{ErrorKind, Result};
use crate::format::op::{Op, OpKind, encode_memory};
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::log::{self, ScanEnd, Scanner, Segment};
use crate::memory::{Digest, Memory, MemoryId, Receipt};

/// What became of an acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProofState {
    /// The record is there, byte for byte, and is the memory's present version.
    Present,
    /// The record is there, byte for byte, and a later one has replaced it.
    Superseded,
    /// The record was left out of the log since: it had been replaced, or its memory forgotten or purged.
    Compacted,
    /// The memory was forgotten.
    Forgotten,
    /// The record is among those that are lost.
    Lost,
    /// The record is damaged: `check` says more.
    Damaged,
    /// The record of this sequence says something else: the receipt is not of this store, or one of the two was changed.
    Different,
    /// The store never had it.
    Unknown,
}

impl ProofState {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Present | Self::Superseded | Self::Compacted | Self::Forgotten)
    }
}

/// What a proof found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Proof {
    /// What became of it.
    pub state: ProofState,
    /// The memory, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<MemoryId>,
    /// Sequence of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Fingerprint of what the record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The file that holds the record, relative to the home folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Byte offset of the record in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The record that replaced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<u64>,
    /// First and last of the sequences that are lost with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<(u64, u64)>,
}

impl Proof {
    fn of(state: ProofState) -> Self {
        Self {
            state,
            id: None,
            seq: None,
            digest: None,
            file: None,
            offset: None,
            superseded_by: None,
            lost: None,
        }
    }
}

impl Engine {
    /// Reads the present version of the memory with this id from the log and holds it against the view.
    pub(crate) fn prove_id(&self, id: impl AsRef<str>) -> Result<Proof> {
        self.inner.prove_id(id.as_ref())
    }

    /// Reads the record of a receipt from the log.
    pub(crate) fn prove(&self, receipt: Receipt) -> Result<Proof> {
        self.inner.prove(receipt)
    }
}

impl Inner {
    /// The fingerprint of a memory as the record of this sequence has it.
    pub(super) fn digest_of(&self, seq: u64, memory: &Memory) -> Digest {
        digest_of(&self.store_id, seq, memory)
    }

    fn prove_id(&self, id: &str) -> Result<Proof> {
        let _standing = lock(&self.rewriting);
        let Some(row) = self.read(|catalog| catalog.get(id))? else {
            return Ok(Proof { id: MemoryId::new(id).ok(), ..Proof::of(ProofState::Unknown) });
        };
        let mut proof = Proof {
            id: Some(row.memory.id.clone()),
            seq: Some(row.seq),
            offset: Some(row.location.offset),
            ..Proof::of(ProofState::Damaged)
        };
        let Some(segment) = self.log.segments().find(row.location.segment) else { return Ok(proof) };
        proof.file = Some(Layout::of(&self.home).relative(&segment.path));
        let file = log::open_segment(&self.place, &segment)?;
        match log::read_record(&*file, segment.header.epoch, row.location) {
            Ok((header, Op::Remember { memory, .. } | Op::Update { memory, .. }))
                if header.seq == row.seq =>
            {
                proof.digest = Some(self.digest_of(row.seq, &memory));
                proof.state = if memory == row.memory { ProofState::Present } else { ProofState::Different };
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
        Ok(proof)
    }

    fn prove(&self, receipt: Receipt) -> Result<Proof> {
        let _standing = lock(&self.rewriting);
        self.catch_up()?;
        let seq = receipt.seq;
        let mut proof = Proof { seq: Some(seq), ..Proof::of(ProofState::Unknown) };
        if seq == 0 || seq > self.log.durable_seq() {
            return Ok(proof);
        }
        let losses = self.read(|catalog| catalog.view().losses())?;
        if let Some(loss) = losses.iter().find(|loss| (loss.first_seq..=loss.last_seq).contains(&seq)) {
            proof.lost = Some((loss.first_seq, loss.last_seq));
            proof.state = ProofState::Lost;
            return Ok(proof);
        }
        let segments = self.log.segments().all();
        let Some(segment) = segments.iter().rfind(|segment| segment.header.base_seq <= seq) else {
            proof.state = ProofState::Damaged;
            return Ok(proof);
        };
        proof.file = Some(Layout::of(&self.home).relative(&segment.path));
        let (op, offset) = match self.find(segment, seq)? {
            Found::Record(op, offset) => (*op, offset),
            Found::Nothing if segment.header.rewrite.is_some() => {
                proof.state = ProofState::Compacted;
                return Ok(proof);
            }
            Found::Nothing | Found::Damage => {
                proof.state = ProofState::Damaged;
                return Ok(proof);
            }
        };
        proof.offset = Some(offset);
        proof.state = ProofState::Different;
        let key = op.memory_key(seq);
        let (Op::Remember { memory, .. } | Op::Update { memory, .. }) = op else { return Ok(proof) };
        let digest = self.digest_of(seq, &memory);
        proof.digest = Some(digest);
        if digest != receipt.digest {
            return Ok(proof);
        }
        proof.id = Some(memory.id);
        let key = key.expect("it is about a memory");
        proof.state = match self.read(|catalog| catalog.row(key))? {
            None => ProofState::Forgotten,
            Some(row) if row.seq == seq => ProofState::Present,
            Some(row) => {
                proof.superseded_by = Some(row.seq);
                ProofState::Superseded
            }
        };
        Ok(proof)
    }

    /// Looks for the record of this sequence.
    fn find(&self, segment: &Segment, seq: u64) -> Result<Found> {
        let file = log::open_segment(&self.place, segment)?;
        let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
        let mut damaged = false;
        loop {
            match scanner.next()? {
                Ok((record, ..)) if record.kind == OpKind::Seal || record.seq > seq => break,
                Ok((record, payload, offset)) if record.seq == seq => {
                    return Ok(match Op::decode_payload(record.kind, record.has_vectors, payload) {
                        Ok(op) => Found::Record(Box::new(op), offset),
                        Err(_) => Found::Damage,
                    });
                }
                Ok(_) => {}
                Err(ScanEnd::File | ScanEnd::Empty) => break,
                Err(ScanEnd::Damaged(_)) => {
                    damaged = true;
                    match scanner.find_later(|_| true)? {
                        Some((_, offset)) => scanner.skip_to(offset),
                        None => break,
                    }
                }
            }
        }
        Ok(if damaged { Found::Damage } else { Found::Nothing })
    }
}

/// What stands for a sequence in a segment.
enum Found {
    Record(Box<Op>, u64),
    Nothing,
    Damage,
}

fn digest_of(store_id: &[u8; 16], seq: u64, memory: &Memory) -> Digest {
    let mut bytes = Vec::with_capacity(256 + memory.text.len());
    bytes.extend_from_slice(store_id);
    bytes.extend_from_slice(&seq.to_le_bytes());
    encode_memory(memory, &mut bytes);
    let hash = Sha256::digest(&bytes);
    Digest(*hash.first_chunk().expect("a SHA-256 has 32 bytes"))
}
