//! Rows of the view: keys and values of every table. Spec: `format-spec/view.md`.
//!
//! Every value that carries data begins with a CRC-32 over the table, the key and the rest of the value, so that a
//! value can neither be damaged nor stand under another key without being noticed. Entries whose value is empty say
//! nothing that the memory's row does not say too.

use sha2::{Digest, Sha256};

use super::Damage;
use super::manifest::TailV1;
use super::op::{
    LostV1, MemoryKey, MemoryV1, ModelNumber, Op, OpKind, decode_memory, decode_memory_in_place,
    encode_memory,
};
use super::record::{Location, RecordHeader};
use crate::memory::{Memory, ModelIdentity};

/// Version of everything in this file; another one makes the view unusable, and it is rebuilt.
pub(crate) const VIEW_VERSION: u16 = 3;
/// Version byte of a memory's row.
pub(crate) const ROW_VERSION: u8 = 1;
/// Bytes of a value before its body.
pub(crate) const CHECKSUM_LEN: usize = 4;
/// Bytes of a memory's row before the encoded memory.
pub(crate) const ROW_HEADER_LEN: usize = 44;
/// Bytes of the head.
pub(crate) const HEAD_LEN: usize = 124;
/// Bytes of a value that holds a number.
pub(crate) const NUMBER_LEN: usize = 12;
/// Bytes of a value that holds a location.
pub(crate) const LOCATION_LEN: usize = 24;

/// A memory as the view keeps it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The store's own name of the memory.
    pub(crate) key: MemoryKey,
    /// Sequence of the record that made its present version.
    pub(crate) seq: u64,
    /// Sequence of the record that stored its present text.
    pub(crate) text_seq: u64,
    /// Where the record of its present version is.
    pub(crate) location: Location,
    /// Its present version.
    pub(crate) memory: Memory,
}

/// A place between two records of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Epoch of the segment.
    pub(crate) epoch: u64,
    /// Offset of the record before this place.
    pub(crate) last_offset: u64,
    /// Its checksum: where it is another one, the log has another history.
    pub(crate) last_checksum: u32,
    /// The segment as it is without what follows.
    pub(crate) tail: TailV1,
}

impl Position {
    /// The place behind this record, with which the segment is as `tail` says.
    pub(crate) fn behind(header: &RecordHeader, offset: u64, tail: TailV1) -> Self {
        Self { epoch: header.epoch, last_offset: offset, last_checksum: header.checksum, tail }
    }
}

/// What the view as a whole says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) store_id: [u8; 16],
    /// Up to where the view holds the log.
    pub(crate) position: Position,
    /// The model whose vectors recall uses.
    pub(crate) active_model: Option<ModelNumber>,
    /// How many memories there are.
    pub(crate) memories: u64,
    /// Bytes of the records that rows and vectors name; all others of the log could be left out.
    pub(crate) live_bytes: u64,
    /// The highest generation of a segment whose records are where the view says.
    pub(crate) generation: u64,
}

/// The tables, by the number that their checksums begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum TableTag {
    State = 1,
    Memory = 2,
    Id = 3,
    Label = 4,
    Time = 5,
    Vector = 6,
}

impl TableTag {
    pub(crate) const ALL: [Self; 6] =
        [Self::State, Self::Memory, Self::Id, Self::Label, Self::Time, Self::Vector];

    /// The table's name in the file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Memory => "memory",
            Self::Id => "id",
            Self::Label => "label",
            Self::Time => "time",
            Self::Vector => "vector",
        }
    }
}

/// What a memory is found by in the table of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label<'a> {
    /// Its text, within its collection.
    Text {
        collection: &'a str,
        text: &'a str,
    },
    Collection(&'a str),
    Source(&'a str),
    Session(&'a str),
    Tag(&'a str),
}

impl Label<'_> {
    /// The number of its kind.
    fn kind(self) -> u8 {
        match self {
            Self::Text { .. } => 1,
            Self::Collection(_) => 2,
            Self::Source(_) => 3,
            Self::Session(_) => 4,
            Self::Tag(_) => 5,
        }
    }

    /// The first 8 bytes, big-endian, of the SHA-256 of the label's kind and its texts, each text after its length.
    ///
    /// A cryptographic hash, because labels come from outside: nobody can make many of them meet. Should two meet
    /// all the same, a lookup finds memories too many, and its caller compares with the row.
    pub(crate) fn hash(self) -> u64 {
        let texts: &[&str] = match &self {
            Self::Text { collection, text } => &[collection, text],
            Self::Collection(text) | Self::Source(text) | Self::Session(text) | Self::Tag(text) => &[text],
        };
        let mut sha = Sha256::new();
        sha.update([self.kind()]);
        for text in texts {
            sha.update((text.len() as u64).to_le_bytes());
            sha.update(text.as_bytes());
        }
        let digest = sha.finalize();
        u64::from_be_bytes(*digest.first_chunk().expect("a SHA-256 has 32 bytes"))
    }
}

/// Every entry that a memory has in the table of labels, in ascending order, each once.
pub(crate) fn label_keys(key: MemoryKey, memory: &Memory) -> Vec<u128> {
    let Memory { collection, text, source, session_id, tags, .. } = memory;
    let mut keys: Vec<u128> = labels_of(collection, text, source, session_id)
        .into_iter()
        .chain(tags.iter().map(|tag| Label::Tag(tag)))
        .map(|label| label_key(label.hash(), key))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// All labels of a memory but its tags.
fn labels_of<'m>(collection: &'m str, text: &'m str, source: &'m str, session_id: &'m str) -> [Label<'m>; 4] {
    [
        Label::Text { collection, text },
        Label::Collection(collection),
        Label::Source(source),
        Label::Session(session_id),
    ]
}

/// Labels whose hashes are kept. A power of two.
const RECENT_LABELS: usize = 512;

/// Makes hashes of labels, and remembers recent ones: most memories share all labels but their text with others.
pub(crate) struct LabelHashes {
    /// Kind, text and hash of a label, in a place that follows from its text.
    recent: Vec<(u8, String, u64)>,
    of_memory: Vec<u64>,
}

impl LabelHashes {
    pub(crate) fn new() -> Self {
        // No label is of kind 0.
        Self { recent: vec![(0, String::new(), 0); RECENT_LABELS], of_memory: Vec::new() }
    }

    /// The hashes of all labels of a memory, in ascending order, each once: what [`label_keys`] is made of.
    pub(crate) fn of(&mut self, memory: &MemoryV1<'_>) -> &[u64] {
        let MemoryV1 { collection, text, source, session_id, tags, .. } = memory;
        let tags = tags.iter().map(|tag| Label::Tag(tag));
        let mut hashes = std::mem::take(&mut self.of_memory);
        hashes.clear();
        let labels = labels_of(collection, text, source, session_id).into_iter().chain(tags);
        hashes.extend(labels.map(|label| self.hash(label)));
        hashes.sort_unstable();
        hashes.dedup();
        self.of_memory = hashes;
        &self.of_memory
    }

    fn hash(&mut self, label: Label<'_>) -> u64 {
        let text = match label {
            // Hardly ever the same as another one's.
            Label::Text { .. } => return label.hash(),
            Label::Collection(text) | Label::Source(text) | Label::Session(text) | Label::Tag(text) => text,
        };
        let place = (crc32fast::hash(text.as_bytes()) ^ u32::from(label.kind())) as usize % RECENT_LABELS;
        let (kind, kept, hash) = &mut self.recent[place];
        if *kind != label.kind() || kept != text {
            (*kind, *hash) = (label.kind(), label.hash());
            kept.clear();
            kept.push_str(text);
        }
        *hash
    }
}

/// Key in the table of labels.
pub(crate) fn label_key(hash: u64, key: MemoryKey) -> u128 {
    u128::from(hash) << 64 | u128::from(key.0)
}

/// Key in the table of times: the time with its sign bit turned over, so that the order of keys is that of times.
pub(crate) fn time_key(timestamp: i64, key: MemoryKey) -> u128 {
    u128::from(timestamp as u64 ^ 1 << 63) << 64 | u128::from(key.0)
}

/// Key in the table of vectors.
pub(crate) fn vector_key(model: ModelNumber, key: MemoryKey) -> u128 {
    u128::from(model.0) << 64 | u128::from(key.0)
}

/// The memory that a 16-byte key ends with.
pub(crate) fn memory_key(key: u128) -> MemoryKey {
    MemoryKey(key as u64)
}

/// Key of the head in the table of state.
pub(crate) const HEAD_KEY: &[u8] = b"h";

/// Key of the number of memories in a collection.
pub(crate) fn collection_count_key(collection: &str) -> Vec<u8> {
    [b"c", collection.as_bytes()].concat()
}

/// Key of the number of memories with vectors of a model.
pub(crate) fn vector_count_key(model: ModelNumber) -> Vec<u8> {
    [&b"v"[..], &model.0.to_be_bytes()].concat()
}

/// Key of a model's identity.
pub(crate) fn model_key(model: ModelNumber) -> Vec<u8> {
    [&b"m"[..], &model.0.to_be_bytes()].concat()
}

/// Key of a loss.
pub(crate) fn lost_key(first_seq: u64) -> Vec<u8> {
    [&b"l"[..], &first_seq.to_be_bytes()].concat()
}

/// What the key of an entry in the table of state names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKey<'a> {
    Head,
    CollectionCount(&'a str),
    VectorCount(ModelNumber),
    Model(ModelNumber),
    /// A loss that begins with this sequence.
    Lost(u64),
}

impl<'a> StateKey<'a> {
    pub(crate) fn decode(key: &'a [u8]) -> Result<Self, Damage> {
        let number = |bytes: &[u8]| Some(ModelNumber(u32::from_be_bytes(bytes.try_into().ok()?)));
        match key.split_first() {
            Some((b'h', [])) => Some(Self::Head),
            Some((b'c', name)) => std::str::from_utf8(name).ok().map(Self::CollectionCount),
            Some((b'v', bytes)) => number(bytes).map(Self::VectorCount),
            Some((b'm', bytes)) => number(bytes).map(Self::Model),
            Some((b'l', bytes)) => bytes.try_into().ok().map(u64::from_be_bytes).map(Self::Lost),
            _ => None,
        }
        .ok_or_else(|| Damage::Field { name: "state key", found: key.first().copied().unwrap_or(0).into() })
    }
}

/// The bytes of a key of 16 bytes, as the checksum takes them.
pub(crate) fn key_bytes(key: u128) -> [u8; 16] {
    key.to_le_bytes()
}

/// Bytes that are gathered for one call: most values are short, and each call has its price.
const CHECKSUM_GATHERED: usize = 64;

fn checksum(table: TableTag, key: &[u8], body: &[u8]) -> u32 {
    let mut gathered = [0; CHECKSUM_GATHERED];
    gathered[0] = table as u8;
    gathered[1..5].copy_from_slice(&(key.len() as u32).to_le_bytes());
    let (key_end, end) = (5 + key.len(), 5 + key.len() + body.len());
    if end <= CHECKSUM_GATHERED {
        gathered[5..key_end].copy_from_slice(key);
        gathered[key_end..end].copy_from_slice(body);
        return crc32fast::hash(&gathered[..end]);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&gathered[..5]);
    crc.update(key);
    crc.update(body);
    crc.finalize()
}

/// Fills in the checksum of a value whose body is complete.
fn seal(table: TableTag, key: &[u8], value: &mut [u8]) {
    let (crc, body) = value.split_at_mut(CHECKSUM_LEN);
    crc.copy_from_slice(&checksum(table, key, body).to_le_bytes());
}

/// The body of a value whose checksum holds.
fn unseal<'a>(table: TableTag, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (crc, body) = value
        .split_first_chunk::<CHECKSUM_LEN>()
        .ok_or(Damage::Short { found: value.len(), expected: CHECKSUM_LEN })?;
    let (stored, computed) = (u32::from_le_bytes(*crc), checksum(table, key, body));
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    Ok(body)
}

/// Everything of a memory's row but the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowHeader {
    pub(crate) seq: u64,
    pub(crate) text_seq: u64,
    pub(crate) location: Location,
}

impl RowHeader {
    /// The value of a memory's row.
    pub(crate) fn encode_with(&self, key: MemoryKey, memory: &Memory) -> Vec<u8> {
        let mut value = Vec::with_capacity(ROW_HEADER_LEN + 128 + memory.text.len());
        value.extend_from_slice(&[0; CHECKSUM_LEN]);
        value.extend_from_slice(&[ROW_VERSION, 0, 0, 0]);
        for field in [self.seq, self.text_seq, self.location.segment, self.location.offset] {
            value.extend_from_slice(&field.to_le_bytes());
        }
        value.extend_from_slice(&self.location.len.to_le_bytes());
        encode_memory(memory, &mut value);
        seal(TableTag::Memory, &key.0.to_le_bytes(), &mut value);
        value
    }

    /// The header of a row whose checksum holds, and the bytes of its memory.
    pub(crate) fn decode(key: MemoryKey, value: &[u8]) -> Result<(Self, &[u8]), Damage> {
        let body = unseal(TableTag::Memory, &key.0.to_le_bytes(), value)?;
        let (fields, memory) = body
            .split_first_chunk::<{ ROW_HEADER_LEN - CHECKSUM_LEN }>()
            .ok_or(Damage::Short { found: value.len(), expected: ROW_HEADER_LEN })?;
        if fields[..4] != [ROW_VERSION, 0, 0, 0] {
            return Err(Damage::Field { name: "row version", found: u64::from(le_u32(fields, 0)) });
        }
        let location =
            Location { segment: le_u64(fields, 20), offset: le_u64(fields, 28), len: le_u32(fields, 36) };
        Ok((Self { seq: le_u64(fields, 4), text_seq: le_u64(fields, 12), location }, memory))
    }
}

/// [`Row`] as it stands in its value: nothing of it is copied.
#[derive(Debug)]
pub(crate) struct RowRef<'a> {
    pub(crate) seq: u64,
    pub(crate) memory: MemoryV1<'a>,
}

impl<'a> RowRef<'a> {
    /// The row of a value whose checksum holds.
    pub(crate) fn decode(key: MemoryKey, value: &'a [u8]) -> Result<Self, Damage> {
        let (RowHeader { seq, .. }, memory) = RowHeader::decode(key, value)?;
        Ok(Self { seq, memory: decode_memory_in_place(memory)? })
    }
}

impl Row {
    /// The row of a value whose checksum holds.
    pub(crate) fn decode(key: MemoryKey, value: &[u8]) -> Result<Self, Damage> {
        let (RowHeader { seq, text_seq, location }, memory) = RowHeader::decode(key, value)?;
        Ok(Self { key, seq, text_seq, location, memory: decode_memory(memory)? })
    }
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_LEN] {
        let mut value = [0; HEAD_LEN];
        value[4..6].copy_from_slice(&VIEW_VERSION.to_le_bytes());
        value[8..24].copy_from_slice(&self.store_id);
        let Position { epoch, last_offset, last_checksum, tail } = self.position;
        value[24..32].copy_from_slice(&tail.last_seq.to_le_bytes());
        value[32..40].copy_from_slice(&tail.segment.to_le_bytes());
        value[40..48].copy_from_slice(&tail.len.to_le_bytes());
        value[48..52].copy_from_slice(&self.active_model.map_or(0, |model| model.0).to_le_bytes());
        value[52..56].copy_from_slice(&tail.chain.to_le_bytes());
        value[56..64].copy_from_slice(&self.memories.to_le_bytes());
        value[64..72].copy_from_slice(&epoch.to_le_bytes());
        value[72..80].copy_from_slice(&tail.records.to_le_bytes());
        value[80..88].copy_from_slice(&tail.time_min.to_le_bytes());
        value[88..96].copy_from_slice(&tail.time_max.to_le_bytes());
        value[96..104].copy_from_slice(&last_offset.to_le_bytes());
        value[104..108].copy_from_slice(&last_checksum.to_le_bytes());
        value[108..116].copy_from_slice(&self.live_bytes.to_le_bytes());
        value[116..124].copy_from_slice(&self.generation.to_le_bytes());
        seal(TableTag::State, HEAD_KEY, &mut value);
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Damage> {
        let body = unseal(TableTag::State, HEAD_KEY, value)?;
        let body: &[u8; HEAD_LEN - CHECKSUM_LEN] =
            body.try_into().map_err(|_| Damage::Short { found: value.len(), expected: HEAD_LEN })?;
        let version = u64::from(le_u32(body, 0));
        if version != u64::from(VIEW_VERSION) {
            return Err(Damage::Field { name: "view version", found: version });
        }
        let active_model = le_u32(body, 44);
        let tail = TailV1 {
            segment: le_u64(body, 28),
            len: le_u64(body, 36),
            records: le_u64(body, 68),
            last_seq: le_u64(body, 20),
            chain: le_u32(body, 48),
            time_min: le_u64(body, 76).cast_signed(),
            time_max: le_u64(body, 84).cast_signed(),
        };
        Ok(Self {
            store_id: *body[4..].first_chunk().expect("the body is longer"),
            position: Position {
                epoch: le_u64(body, 60),
                last_offset: le_u64(body, 92),
                last_checksum: le_u32(body, 100),
                tail,
            },
            active_model: (active_model != 0).then_some(ModelNumber(active_model)),
            memories: le_u64(body, 52),
            live_bytes: le_u64(body, 104),
            generation: le_u64(body, 112),
        })
    }
}

/// The value that holds a number: a memory's key under its id, a count, an importance's bits.
pub(crate) fn encode_number(table: TableTag, key: &[u8], number: u64) -> [u8; NUMBER_LEN] {
    let mut value = [0; NUMBER_LEN];
    value[CHECKSUM_LEN..].copy_from_slice(&number.to_le_bytes());
    seal(table, key, &mut value);
    value
}

pub(crate) fn decode_number(table: TableTag, key: &[u8], value: &[u8]) -> Result<u64, Damage> {
    let body = unseal(table, key, value)?;
    let body = body.try_into().map_err(|_| Damage::Short { found: value.len(), expected: NUMBER_LEN })?;
    Ok(u64::from_le_bytes(body))
}

/// The value that holds where a memory's vectors are.
pub(crate) fn encode_location(key: u128, location: Location) -> [u8; LOCATION_LEN] {
    let mut value = [0; LOCATION_LEN];
    value[4..12].copy_from_slice(&location.segment.to_le_bytes());
    value[12..20].copy_from_slice(&location.offset.to_le_bytes());
    value[20..24].copy_from_slice(&location.len.to_le_bytes());
    seal(TableTag::Vector, &key_bytes(key), &mut value);
    value
}

pub(crate) fn decode_location(key: u128, value: &[u8; LOCATION_LEN]) -> Result<Location, Damage> {
    let body = unseal(TableTag::Vector, &key_bytes(key), value)?;
    Ok(Location { segment: le_u64(body, 0), offset: le_u64(body, 8), len: le_u32(body, 16) })
}

/// The value that holds a model's identity: the payload of the record that named it.
pub(crate) fn encode_model(number: ModelNumber, identity: &ModelIdentity) -> Vec<u8> {
    let mut value = vec![0; CHECKSUM_LEN];
    Op::Model { number, identity: identity.clone() }.encode_payload(&mut value);
    seal(TableTag::State, &model_key(number), &mut value);
    value
}

pub(crate) fn decode_model(number: ModelNumber, value: &[u8]) -> Result<ModelIdentity, Damage> {
    let payload = unseal(TableTag::State, &model_key(number), value)?;
    match Op::decode_payload(OpKind::Model, false, payload)? {
        Op::Model { number: stored, identity } if stored == number => Ok(identity),
        _ => Err(Damage::Field { name: "model number", found: u64::from(number.0) }),
    }
}

/// The value that holds a loss: the payload of the record that told of it.
pub(crate) fn encode_lost(lost: LostV1) -> Vec<u8> {
    let mut value = vec![0; CHECKSUM_LEN];
    Op::Lost(lost).encode_payload(&mut value);
    seal(TableTag::State, &lost_key(lost.first_seq), &mut value);
    value
}

pub(crate) fn decode_lost(first_seq: u64, value: &[u8]) -> Result<LostV1, Damage> {
    let payload = unseal(TableTag::State, &lost_key(first_seq), value)?;
    match Op::decode_payload(OpKind::Lost, false, payload)? {
        Op::Lost(lost) if lost.first_seq == first_seq => Ok(lost),
        _ => Err(Damage::Field { name: "first lost sequence", found: first_seq }),
    }
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the field lies within its fixed layout"))
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the field lies within its fixed layout"))
}
