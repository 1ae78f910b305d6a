//! Operations: what a record of the log says, and its payload. Spec: `format-spec/op.md`.
//!
//! The `…V1` structs are frozen: bincode is positional, so a change is a new struct and a new op version.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Damage;
use super::codec::{self, Fields};
use crate::memory::{DIMENSIONS_MAX, Memory, MemoryId, ModelIdentity};

/// The store's own name of a memory: the sequence of the record that first stored it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct MemoryKey(pub(crate) u64);

/// The store's own number of an embedding model, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ModelNumber(pub(crate) u32);

/// Payload version of every op of this format version.
pub(crate) const OP_VERSION: u8 = 1;
/// Most vectors (windows) of one memory.
pub(crate) const WINDOWS_MAX: usize = 4096;
/// Bytes of a payload before the encoded op.
pub(crate) const PAYLOAD_PREFIX_LEN: usize = 4;
/// Bytes of the vector part before its values.
pub(crate) const VECTOR_PREFIX_LEN: usize = 16;

/// The kinds of ops, as the record header names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum OpKind {
    Remember = 1,
    Update = 2,
    Forget = 3,
    RestorePoint = 5,
    Restore = 6,
    Vector = 9,
    Model = 10,
    UseModel = 11,
    Lost = 12,
    Seal = 0xFE,
}

impl OpKind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Remember,
        Self::Update,
        Self::Forget,
        Self::RestorePoint,
        Self::Restore,
        Self::Vector,
        Self::Model,
        Self::UseModel,
        Self::Lost,
        Self::Seal,
    ];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The vectors of one memory under one model, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vectors {
    pub(crate) model: ModelNumber,
    pub(crate) dimensions: u32,
    /// `dimensions` values for each window.
    pub(crate) values: Vec<f32>,
}

impl Vectors {
    /// How many windows there are.
    pub(crate) fn windows(&self) -> usize {
        self.values.len() / self.dimensions as usize
    }
}

/// [`Vectors`] as they stand in a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VectorsRef<'a> {
    model: ModelNumber,
    dimensions: u32,
    values: &'a [[u8; 4]],
}

/// What one record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// A new memory; its key is the record's own sequence.
    Remember { memory: Memory, vectors: Option<Vectors> },
    /// The whole new state of a memory. Vectors of the former state stay when the text is the same and none are given.
    Update { key: MemoryKey, previous_seq: u64, memory: Memory, vectors: Option<Vectors> },
    /// The memory is gone.
    Forget { key: MemoryKey, id: MemoryId },
    /// The state before this record has a name, to which a restore can go back.
    RestorePoint(RestorePointV1),
    /// What follows, up to the end of the group, takes the store to another state.
    Restore(RestoreV1),
    /// Vectors of the text that the record `text_seq` stored; ignored when the text has changed since.
    Vector { key: MemoryKey, text_seq: u64, vectors: Vectors },
    /// A model gets a number.
    Model { number: ModelNumber, identity: ModelIdentity },
    /// From here on recall uses this model's vectors.
    UseModel { number: ModelNumber },
    /// Acknowledged records could not be saved when the segment was healed.
    Lost(LostV1),
    /// The segment ends here.
    Seal(SealV1),
}

/// [`Op`] as it stands in a payload: nothing of it is copied, so that a check of every record is quick.
#[derive(Debug)]
pub(crate) enum OpRef<'a> {
    Remember { memory: MemoryV1<'a>, vectors: Option<VectorsRef<'a>> },
    Update { key: MemoryKey, previous_seq: u64, memory: MemoryV1<'a>, vectors: Option<VectorsRef<'a>> },
    Forget { key: MemoryKey, id: &'a str },
    RestorePoint(RestorePointV1),
    Restore(RestoreV1),
    Vector { key: MemoryKey, text_seq: u64, vectors: VectorsRef<'a> },
    Model { number: ModelNumber, identity: ModelIdentity },
    UseModel { number: ModelNumber },
    Lost(LostV1),
    Seal(SealV1),
}

/// A memory as it stands in a record or a row: nothing of it is copied.
#[derive(Debug, PartialEq)]
pub(crate) struct MemoryV1<'a> {
    pub(crate) id: &'a str,
    pub(crate) text: &'a str,
    pub(crate) timestamp: i64,
    pub(crate) source: &'a str,
    pub(crate) session_id: &'a str,
    pub(crate) importance: f64,
    pub(crate) tags: Vec<&'a str>,
    pub(crate) collection: &'a str,
    speaker: Option<&'a str>,
    role: Option<&'a str>,
    position: Option<i64>,
    metadata_json: Option<&'a str>,
}

/// [`MemoryV1`] as it is written: the same fields in the same order, without a copy of the memory.
#[derive(Serialize)]
struct MemoryV1Ref<'a> {
    id: &'a str,
    text: &'a str,
    timestamp: i64,
    source: &'a str,
    session_id: &'a str,
    importance: f64,
    tags: &'a [String],
    collection: &'a str,
    speaker: Option<&'a str>,
    role: Option<&'a str>,
    position: Option<i64>,
    metadata_json: Option<String>,
}

/// An update as it is written.
#[derive(Serialize)]
struct UpdateV1Ref<'a> {
    key: u64,
    previous_seq: u64,
    memory: MemoryV1Ref<'a>,
}

#[derive(Serialize, Deserialize)]
struct ForgetV1<'a> {
    key: u64,
    id: &'a str,
}

#[derive(Serialize, Deserialize)]
struct VectorV1 {
    key: u64,
    text_seq: u64,
}

#[derive(Serialize, Deserialize)]
struct ModelV1 {
    number: u32,
    /// Its fields stand here one by one, in their order.
    identity: ModelIdentity,
}

#[derive(Serialize, Deserialize)]
struct UseModelV1 {
    number: u32,
}

/// A state that a restore can go back to: that of all records before this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestorePointV1 {
    /// What people call it.
    pub(crate) name: String,
    /// When it was made, in milliseconds since 1970.
    pub(crate) made_unix_ms: i64,
}

/// What a restore went to, and how to go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoreV1 {
    /// Sequence of the last record before the restore point of this restore: the state that it replaced.
    pub(crate) point_seq: u64,
    /// What it went to: 1 a file, 2 a moment of the log, 3 the state before another restore, 4 a `memory.db` that somebody
    /// had put in place of the published one.
    pub(crate) kind: u32,
    /// The name of that, for people.
    pub(crate) target: String,
    /// When it was done, in milliseconds since 1970.
    pub(crate) made_unix_ms: i64,
}

/// Sequences whose records are lost, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostV1 {
    pub(crate) first_seq: u64,
    /// The last one; where nothing tells how far the log went, the last one that there can have been.
    pub(crate) last_seq: u64,
    /// When that was found, in milliseconds since 1970.
    pub(crate) found_unix_ms: i64,
}

/// What the last record of a sealed segment says of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealV1 {
    /// Records before the seal.
    pub(crate) records: u64,
    /// Sequence of the last record before the seal; that of the segment's base minus one when there is none.
    pub(crate) last_seq: u64,
    /// Byte offset of the seal record in the file.
    pub(crate) len: u64,
    /// Rolling checksum of all records before the seal.
    pub(crate) chain: u32,
    /// Smallest timestamp of a memory in it, in Unix seconds; `i64::MAX` when there is none.
    pub(crate) time_min: i64,
    /// Largest timestamp of a memory in it; `i64::MIN` when there is none.
    pub(crate) time_max: i64,
}

/// A memory's bytes in rows of the view: the same struct as in the log.
pub(crate) fn encode_memory(memory: &Memory, out: &mut Vec<u8>) {
    codec::encode_into(&MemoryV1Ref::of(memory), out);
}

/// The bytes with which a memory of this id and text begins, wherever it is encoded.
pub(crate) fn encode_beginning(id: &MemoryId, text: &str, out: &mut Vec<u8>) {
    codec::encode_into(&(id.as_str(), text), out);
}

/// The memory that [`encode_memory`] wrote.
pub(crate) fn decode_memory(bytes: &[u8]) -> Result<Memory, Damage> {
    MemoryV1::decode(bytes)?.into_memory()
}

/// The same in place.
pub(crate) fn decode_memory_in_place(bytes: &[u8]) -> Result<MemoryV1<'_>, Damage> {
    let memory = MemoryV1::decode(bytes)?;
    memory.check()?;
    Ok(memory)
}

impl<'a> MemoryV1Ref<'a> {
    fn of(memory: &'a Memory) -> Self {
        Self {
            id: memory.id.as_str(),
            text: &memory.text,
            timestamp: memory.timestamp,
            source: &memory.source,
            session_id: &memory.session_id,
            importance: memory.importance,
            tags: &memory.tags,
            collection: &memory.collection,
            speaker: memory.speaker.as_deref(),
            role: memory.role.as_deref(),
            position: memory.position,
            metadata_json: (!memory.metadata.is_empty()).then(|| {
                serde_json::to_string(&memory.metadata).expect("a JSON object of values has a text")
            }),
        }
    }
}

impl<'a> MemoryV1<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut fields = Fields::new(bytes);
        let memory = Self::read(&mut fields)?;
        fields.end()?;
        Ok(memory)
    }

    fn read(fields: &mut Fields<'a>) -> Result<Self, Damage> {
        Ok(Self {
            id: fields.text()?,
            text: fields.text()?,
            timestamp: fields.i64()?,
            source: fields.text()?,
            session_id: fields.text()?,
            importance: fields.f64()?,
            tags: fields.texts()?,
            collection: fields.text()?,
            speaker: fields.option(Fields::text)?,
            role: fields.option(Fields::text)?,
            position: fields.option(Fields::i64)?,
            metadata_json: fields.option(Fields::text)?,
        })
    }

    fn metadata(&self) -> Result<Map<String, Value>, Damage> {
        self.metadata_json.map_or(Ok(Map::new()), |json| {
            serde_json::from_str(json).map_err(|_| Damage::Codec("metadata is not JSON".to_owned()))
        })
    }

    /// What the codec does not know of.
    fn check(&self) -> Result<(), Damage> {
        check_id(self.id)?;
        self.metadata().map(drop)
    }

    fn into_memory(self) -> Result<Memory, Damage> {
        let metadata = self.metadata()?;
        Ok(Memory {
            id: decoded_id(self.id)?,
            text: self.text.to_owned(),
            timestamp: self.timestamp,
            source: self.source.to_owned(),
            session_id: self.session_id.to_owned(),
            importance: self.importance,
            tags: self.tags.into_iter().map(str::to_owned).collect(),
            collection: self.collection.to_owned(),
            speaker: self.speaker.map(str::to_owned),
            role: self.role.map(str::to_owned),
            position: self.position,
            metadata,
        })
    }
}

fn decoded_id(text: &str) -> Result<MemoryId, Damage> {
    MemoryId::new(text).map_err(|error| Damage::Codec(error.message().to_owned()))
}

fn check_id(text: &str) -> Result<(), Damage> {
    MemoryId::check(text).map_err(|error| Damage::Codec(error.message().to_owned()))
}

impl Op {
    pub(crate) fn kind(&self) -> OpKind {
        match self {
            Self::Remember { .. } => OpKind::Remember,
            Self::Update { .. } => OpKind::Update,
            Self::Forget { .. } => OpKind::Forget,
            Self::RestorePoint(_) => OpKind::RestorePoint,
            Self::Restore(_) => OpKind::Restore,
            Self::Vector { .. } => OpKind::Vector,
            Self::Model { .. } => OpKind::Model,
            Self::UseModel { .. } => OpKind::UseModel,
            Self::Lost(_) => OpKind::Lost,
            Self::Seal(_) => OpKind::Seal,
        }
    }

    /// The vectors that the record carries.
    pub(crate) fn vectors(&self) -> Option<&Vectors> {
        match self {
            Self::Remember { vectors, .. } | Self::Update { vectors, .. } => vectors.as_ref(),
            Self::Vector { vectors, .. } => Some(vectors),
            _ => None,
        }
    }

    /// The memory that it is about, as the record of this sequence.
    pub(crate) fn memory_key(&self, seq: u64) -> Option<MemoryKey> {
        match self {
            Self::Remember { .. } => Some(MemoryKey(seq)),
            Self::Update { key, .. } | Self::Forget { key, .. } | Self::Vector { key, .. } => Some(*key),
            Self::RestorePoint(_)
            | Self::Restore(_)
            | Self::Model { .. }
            | Self::UseModel { .. }
            | Self::Lost(_)
            | Self::Seal(_) => None,
        }
    }

    /// Appends the payload: length of the encoded op, the op, padding to 4, then the vector part if there is one.
    pub(crate) fn encode_payload(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; PAYLOAD_PREFIX_LEN]);
        match self {
            Self::Remember { memory, .. } => encode_memory(memory, out),
            Self::Update { key, previous_seq, memory, .. } => codec::encode_into(
                &UpdateV1Ref { key: key.0, previous_seq: *previous_seq, memory: MemoryV1Ref::of(memory) },
                out,
            ),
            Self::Forget { key, id } => codec::encode_into(&ForgetV1 { key: key.0, id: id.as_str() }, out),
            Self::Vector { key, text_seq, .. } => {
                codec::encode_into(&VectorV1 { key: key.0, text_seq: *text_seq }, out)
            }
            Self::Model { number, identity } => {
                codec::encode_into(&ModelV1 { number: number.0, identity: identity.clone() }, out)
            }
            Self::UseModel { number } => codec::encode_into(&UseModelV1 { number: number.0 }, out),
            Self::RestorePoint(point) => codec::encode_into(point, out),
            Self::Restore(restore) => codec::encode_into(restore, out),
            Self::Lost(lost) => codec::encode_into(lost, out),
            Self::Seal(seal) => codec::encode_into(seal, out),
        }
        let op_len =
            u32::try_from(out.len() - start - PAYLOAD_PREFIX_LEN).expect("an op is within the payload limit");
        out[start..start + PAYLOAD_PREFIX_LEN].copy_from_slice(&op_len.to_le_bytes());
        if let Some(vectors) = self.vectors() {
            out.resize(start + (out.len() - start).next_multiple_of(4), 0);
            out.extend_from_slice(&vectors.model.0.to_le_bytes());
            out.extend_from_slice(&vectors.dimensions.to_le_bytes());
            out.extend_from_slice(
                &u32::try_from(vectors.windows()).expect("windows are limited").to_le_bytes(),
            );
            out.extend_from_slice(&[0; 4]);
            let values_at = out.len();
            out.resize(values_at + 4 * vectors.values.len(), 0);
            for (bytes, value) in out[values_at..].chunks_exact_mut(4).zip(&vectors.values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// The time of the memory that a payload stores, without decoding the rest of it.
    pub(crate) fn peek_time(kind: OpKind, has_vectors: bool, payload: &[u8]) -> Result<Option<i64>, Damage> {
        // The first fields of a memory and of an update: bincode writes the fields of a struct as those of a tuple.
        type Memory<'a> = (&'a str, &'a str, i64);
        type Update<'a> = (u64, u64, Memory<'a>);
        let (op, _) = split_payload(has_vectors, payload)?;
        Ok(match kind {
            OpKind::Remember => Some(codec::decode_first::<Memory<'_>>(op)?.2),
            OpKind::Update => Some(codec::decode_first::<Update<'_>>(op)?.2.2),
            _ => None,
        })
    }

    /// Reads a payload whose checksum holds.
    pub(crate) fn decode_payload(kind: OpKind, has_vectors: bool, payload: &[u8]) -> Result<Self, Damage> {
        OpRef::read(kind, has_vectors, payload)?.into_op()
    }
}

impl<'a> OpRef<'a> {
    /// Reads a payload whose checksum holds.
    pub(crate) fn decode(kind: OpKind, has_vectors: bool, payload: &'a [u8]) -> Result<Self, Damage> {
        let op = Self::read(kind, has_vectors, payload)?;
        match &op {
            Self::Remember { memory, .. } | Self::Update { memory, .. } => memory.check()?,
            Self::Forget { id, .. } => check_id(id)?,
            _ => {}
        }
        Ok(op)
    }

    /// All but what the codec does not know of: whether ids and metadata are such.
    fn read(kind: OpKind, has_vectors: bool, payload: &'a [u8]) -> Result<Self, Damage> {
        let (op, vectors) = split_payload(has_vectors, payload)?;
        let vectors = vectors.map(VectorsRef::decode).transpose()?;
        let op = match kind {
            OpKind::Remember => Self::Remember { memory: MemoryV1::decode(op)?, vectors },
            OpKind::Update => {
                let mut fields = Fields::new(op);
                let (key, previous_seq) = (MemoryKey(fields.u64()?), fields.u64()?);
                let memory = MemoryV1::read(&mut fields)?;
                fields.end()?;
                Self::Update { key, previous_seq, memory, vectors }
            }
            OpKind::Vector => {
                let vector: VectorV1 = codec::decode(op)?;
                let vectors = vectors.ok_or(Damage::Field { name: "flags", found: 0 })?;
                Self::Vector { key: MemoryKey(vector.key), text_seq: vector.text_seq, vectors }
            }
            _ if vectors.is_some() => return Err(Damage::Field { name: "flags", found: 2 }),
            OpKind::Forget => {
                let ForgetV1 { key, id } = codec::decode(op)?;
                Self::Forget { key: MemoryKey(key), id }
            }
            OpKind::Model => {
                let ModelV1 { number, identity } = codec::decode(op)?;
                Self::Model { number: ModelNumber(number), identity }
            }
            OpKind::UseModel => {
                Self::UseModel { number: ModelNumber(codec::decode::<UseModelV1>(op)?.number) }
            }
            OpKind::RestorePoint => Self::RestorePoint(codec::decode(op)?),
            OpKind::Restore => Self::Restore(codec::decode(op)?),
            OpKind::Lost => Self::Lost(codec::decode(op)?),
            OpKind::Seal => Self::Seal(codec::decode(op)?),
        };
        Ok(op)
    }

    /// The time of the memory that it stores.
    pub(crate) fn memory_time(&self) -> Option<i64> {
        match self {
            Self::Remember { memory, .. } | Self::Update { memory, .. } => Some(memory.timestamp),
            _ => None,
        }
    }

    /// The op itself.
    pub(crate) fn into_op(self) -> Result<Op, Damage> {
        let owned = |vectors: Option<VectorsRef<'_>>| vectors.map(VectorsRef::into_vectors);
        Ok(match self {
            Self::Remember { memory, vectors } => {
                Op::Remember { memory: memory.into_memory()?, vectors: owned(vectors) }
            }
            Self::Update { key, previous_seq, memory, vectors } => {
                Op::Update { key, previous_seq, memory: memory.into_memory()?, vectors: owned(vectors) }
            }
            Self::Forget { key, id } => Op::Forget { key, id: decoded_id(id)? },
            Self::Vector { key, text_seq, vectors } => {
                Op::Vector { key, text_seq, vectors: vectors.into_vectors() }
            }
            Self::Model { number, identity } => Op::Model { number, identity },
            Self::UseModel { number } => Op::UseModel { number },
            Self::RestorePoint(point) => Op::RestorePoint(point),
            Self::Restore(restore) => Op::Restore(restore),
            Self::Lost(lost) => Op::Lost(lost),
            Self::Seal(seal) => Op::Seal(seal),
        })
    }
}

/// The encoded op and the vector part of a payload.
fn split_payload(has_vectors: bool, payload: &[u8]) -> Result<(&[u8], Option<&[u8]>), Damage> {
    let short = |expected: usize| Damage::Short { found: payload.len(), expected };
    let prefix = payload.first_chunk::<PAYLOAD_PREFIX_LEN>().ok_or(short(PAYLOAD_PREFIX_LEN))?;
    let op_end = (u32::from_le_bytes(*prefix) as usize).saturating_add(PAYLOAD_PREFIX_LEN);
    let op = payload.get(PAYLOAD_PREFIX_LEN..op_end).ok_or(short(op_end))?;
    if !has_vectors {
        return if op_end == payload.len() {
            Ok((op, None))
        } else {
            Err(Damage::Short { found: op_end, expected: payload.len() })
        };
    }
    let vectors_start = op_end.next_multiple_of(4);
    let padding = payload.get(op_end..vectors_start).ok_or(short(vectors_start))?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Damage::Field { name: "padding", found: 1 });
    }
    Ok((op, Some(&payload[vectors_start..])))
}

impl<'a> VectorsRef<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Damage> {
        let (prefix, values) = bytes
            .split_first_chunk::<VECTOR_PREFIX_LEN>()
            .ok_or(Damage::Short { found: bytes.len(), expected: VECTOR_PREFIX_LEN })?;
        let field =
            |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
        let (model, dimensions, windows, reserved) = (field(0), field(4), field(8), field(12));
        for (name, found, limit) in
            [("dimensions", dimensions, DIMENSIONS_MAX), ("windows", windows, WINDOWS_MAX)]
        {
            if found == 0 || found as usize > limit {
                return Err(Damage::Field { name, found: u64::from(found) });
            }
        }
        if reserved != 0 {
            return Err(Damage::Field { name: "reserved", found: u64::from(reserved) });
        }
        let expected = dimensions as usize * windows as usize * 4;
        if values.len() != expected {
            return Err(Damage::Short { found: values.len(), expected });
        }
        // Every bit pattern is a value of a vector, so there is nothing to look at in them beyond the checksum.
        let (values, _) = values.as_chunks::<4>();
        Ok(Self { model: ModelNumber(model), dimensions, values })
    }

    fn into_vectors(self) -> Vectors {
        let Self { model, dimensions, values } = self;
        Vectors { model, dimensions, values: values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::chance::Chance;

    fn memory() -> Memory {
        let mut memory = Memory::new(MemoryId::new("one").expect("an id"), "a text, ein Wort, 言葉", -12_345);
        memory.tags = vec!["tag".to_owned()];
        memory.metadata.insert("key".to_owned(), Value::from(1));
        memory
    }

    #[test]
    fn a_time_is_read_without_the_rest_and_is_the_decoded_one() {
        let vectors = || Some(Vectors { model: ModelNumber(1), dimensions: 2, values: vec![0.6, 0.8] });
        let key = MemoryKey(7);
        let ops = [
            (Op::Remember { memory: memory(), vectors: None }, Some(-12_345)),
            (Op::Remember { memory: memory(), vectors: vectors() }, Some(-12_345)),
            (Op::Update { key, previous_seq: 300, memory: memory(), vectors: vectors() }, Some(-12_345)),
            (Op::Forget { key, id: memory().id }, None),
            (Op::UseModel { number: ModelNumber(1) }, None),
        ];
        for (op, time) in ops {
            let mut payload = Vec::new();
            op.encode_payload(&mut payload);
            let has_vectors = op.vectors().is_some();
            assert_eq!(Op::peek_time(op.kind(), has_vectors, &payload), Ok(time));
            assert_eq!(OpRef::decode(op.kind(), has_vectors, &payload).map(|op| op.memory_time()), Ok(time));
            assert_eq!(Op::decode_payload(op.kind(), has_vectors, &payload), Ok(op));
        }
    }

    #[test]
    fn fields_that_are_read_one_by_one_are_those_of_the_codec() {
        #[derive(Debug, Deserialize)]
        struct Whole {
            id: String,
            text: String,
            timestamp: i64,
            source: String,
            session_id: String,
            importance: f64,
            tags: Vec<String>,
            collection: String,
            speaker: Option<String>,
            role: Option<String>,
            position: Option<i64>,
            metadata_json: Option<String>,
        }
        let mut full = memory();
        full.tags.extend(["x".repeat(251), "y".repeat(70_000)]);
        (full.speaker, full.role, full.position) =
            (Some("a".to_owned()), Some(String::new()), Some(i64::MIN));
        let mut chance = Chance(5);
        let (mut same, mut refused) = (0, 0);
        for sample in [memory(), full] {
            let mut bytes = Vec::new();
            encode_memory(&sample, &mut bytes);
            for turn in 0..20_000_usize {
                let mut changed = bytes.clone();
                if turn > 0 {
                    // The long tag hardly matters; what stands before it and behind it does.
                    let at = chance.index(changed.len().min(200));
                    let at = if chance.times_in_64(32) { at } else { changed.len() - 1 - at };
                    changed[at] = chance.below(256) as u8;
                }
                if turn % 3 == 2 {
                    changed.truncate(chance.index(changed.len()));
                }
                match (MemoryV1::decode(&changed), codec::decode::<Whole>(&changed)) {
                    (Ok(found), Ok(whole)) => {
                        let expected = MemoryV1 {
                            id: &whole.id,
                            text: &whole.text,
                            timestamp: whole.timestamp,
                            source: &whole.source,
                            session_id: &whole.session_id,
                            importance: 0.0,
                            tags: whole.tags.iter().map(String::as_str).collect(),
                            collection: &whole.collection,
                            speaker: whole.speaker.as_deref(),
                            role: whole.role.as_deref(),
                            position: whole.position,
                            metadata_json: whole.metadata_json.as_deref(),
                        };
                        assert_eq!(found.importance.to_bits(), whole.importance.to_bits());
                        assert_eq!(MemoryV1 { importance: 0.0, ..found }, expected);
                        same += 1;
                    }
                    (Err(_), Err(_)) => refused += 1,
                    (found, whole) => panic!("{found:?} in place, {whole:?} by the codec"),
                }
            }
        }
        assert!(same > 1000 && refused > 1000, "{same} read, {refused} refused");
    }

    #[test]
    fn a_list_of_nothing_is_limited_like_any_other_value() {
        let mut bytes = vec![1, b'i', 0, 0, 0, 0];
        bytes.extend_from_slice(&[0; 8]);
        bytes.push(252);
        bytes.extend_from_slice(&3_000_000_u32.to_le_bytes());
        bytes.resize(bytes.len() + 3_000_000 + 5, 0);
        assert!(matches!(MemoryV1::decode(&bytes), Err(Damage::TooLong { .. })));
    }

    #[test]
    fn a_payload_that_ends_before_its_time_is_damaged() {
        let mut payload = Vec::new();
        Op::Remember { memory: memory(), vectors: None }.encode_payload(&mut payload);
        let end = 12;
        payload.truncate(end);
        payload[..PAYLOAD_PREFIX_LEN].copy_from_slice(&((end - PAYLOAD_PREFIX_LEN) as u32).to_le_bytes());
        assert!(Op::peek_time(OpKind::Remember, false, &payload).is_err());
    }
}
