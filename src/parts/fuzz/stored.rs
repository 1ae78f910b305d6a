//! What is stored: samples of it, and what must hold for every part of it.

use std::path::Path;

use crate::format::op::{MemoryKey, ModelNumber, Op, RestorePointV1, RestoreV1, SealV1, Vectors};
use crate::format::record::{RecordHeader, frame};
use crate::memory::{Duplicates, Memory, MemoryId, ModelIdentity, Remember};
use crate::transfer::{JsonlReader, write_jsonl};

/// The memory that the store makes of a checked request.
pub(super) fn as_memory(remember: &Remember) -> Memory {
    remember.to_memory(remember.id.clone().unwrap_or_else(|| id("01ARZ3NDEKTSV4RRFFQ69G5FAV")), 0)
}

/// Whatever comes in can be stored and comes out again: from the log, and through an export into another store.
pub(super) fn assert_keeps(remember: &Remember) {
    let memory = as_memory(remember);
    let op = Op::Remember { memory: memory.clone(), vectors: None };
    let mut payload = Vec::new();
    op.encode_payload(&mut payload);
    assert_eq!(Op::decode_payload(op.kind(), false, &payload), Ok(op), "a memory changes in the log");

    let mut lines = Vec::new();
    write_jsonl(&mut lines, Path::new("out"), &mut [Ok(memory.clone())].into_iter())
        .expect("memory takes it");
    let again = JsonlReader::new(&lines[..]).next_memory().expect("an export is good").expect("a memory");
    assert_eq!(as_memory(&again.remember), memory, "a memory changes in an export");
    assert_eq!(again.remember.duplicates, Duplicates::Merge);
}

pub(super) fn id(text: &str) -> MemoryId {
    MemoryId::new(text).expect("a short text without control characters")
}

/// A memory with every field.
pub(super) fn memory() -> Memory {
    let mut memory = Memory::new(id("m1"), "Ann likes tea, Grüße 茶", 1_771_329_603);
    memory.tags = vec!["tea".to_owned(), "ann".to_owned()];
    memory.speaker = Some("Ann".to_owned());
    memory.role = Some("user".to_owned());
    memory.position = Some(3);
    memory.metadata.insert("mood".to_owned(), serde_json::json!({"good": [1, 0.5, null]}));
    memory
}

/// One op of each kind.
pub(super) fn ops() -> Vec<(&'static str, Op)> {
    let vectors = || Vectors { model: ModelNumber(1), dimensions: 2, values: vec![0.6, 0.8, 1.0, 0.0] };
    let key = MemoryKey(1);
    let seal = SealV1 { records: 2, last_seq: 2, len: 4200, chain: 7, time_min: 5, time_max: 9 };
    vec![
        ("remember", Op::Remember { memory: memory(), vectors: None }),
        ("remember-vectors", Op::Remember { memory: memory(), vectors: Some(vectors()) }),
        ("update", Op::Update { key, previous_seq: 1, memory: memory(), vectors: None }),
        ("forget", Op::Forget { key, id: id("m1") }),
        ("restore-point", Op::RestorePoint(RestorePointV1 { name: "before".to_owned(), made_unix_ms: 5 })),
        (
            "restore",
            Op::Restore(RestoreV1 { point_seq: 1, kind: 1, target: "a.db".to_owned(), made_unix_ms: 5 }),
        ),
        ("vector", Op::Vector { key, text_seq: 1, vectors: vectors() }),
        ("model", Op::Model { number: ModelNumber(1), identity: identity() }),
        ("use-model", Op::UseModel { number: ModelNumber(1) }),
        ("seal", Op::Seal(seal)),
    ]
}

pub(super) fn identity() -> ModelIdentity {
    ModelIdentity {
        name: "some/model".to_owned(),
        weights_sha256: "ab".repeat(32),
        tokenizer_sha256: "cd".repeat(32),
        dimensions: 2,
        pooling: "mean".to_owned(),
        normalized: true,
        max_tokens: 256,
        document_form: "text/1".to_owned(),
        query_form: "query/1".to_owned(),
        engine: "minilm/1".to_owned(),
    }
}

/// Appends an op as the record of this sequence, a group of its own.
pub(super) fn append(op: &Op, seq: u64, epoch: u64, out: &mut Vec<u8>) -> RecordHeader {
    let mut payload = Vec::new();
    op.encode_payload(&mut payload);
    let mut header = RecordHeader {
        kind: op.kind(),
        payload_len: payload.len().try_into().expect("a sample is short"),
        seq,
        epoch,
        durable_seq: seq - 1,
        group_end: true,
        has_vectors: op.vectors().is_some(),
        checksum: 0,
    };
    header.checksum = frame(header, &payload, out);
    header
}
