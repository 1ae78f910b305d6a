//! Kinds of ops, their payloads and their structs.

use std::collections::BTreeMap;

use super::structs::{
    ForgetV1, LostMirror, ManifestMirror, MemoryV1, Mirror, ModelV1, RestoreMirror, RestorePointMirror,
    Sample, SealMirror, TailMirror, UpdateV1, UseModelV1, VectorV1,
};
use super::{MANIFEST, OP, Page, assert_fields, plain, to_hex};
use crate::format::op::{
    LostV1, MemoryKey, ModelNumber, Op, OpKind, PAYLOAD_PREFIX_LEN, RestorePointV1, RestoreV1, SealV1,
    Vectors, WINDOWS_MAX,
};
use crate::memory::{DIMENSIONS_MAX, Memory, MemoryId};

/// How vectors go with an op.
fn with_vectors(kind: OpKind, body: &[u8]) -> (bool, bool) {
    let mut payload = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
    payload.extend_from_slice(body);
    let without = Op::decode_payload(kind, false, &payload).is_ok();
    payload.resize(payload.len().next_multiple_of(4), 0);
    payload.extend([1_u32, 1, 1, 0].into_iter().flat_map(u32::to_le_bytes));
    payload.extend(1.0_f32.to_le_bytes());
    (without, Op::decode_payload(kind, true, &payload).is_ok())
}

#[test]
fn kinds_of_ops_are_those_of_the_table() {
    let [kinds, reserved] = OP.tables("Kinds").try_into().expect("two tables");
    let mut listed = BTreeMap::new();
    for row in &kinds[1..] {
        let byte: u8 = row[0].parse().expect("a byte");
        let kind = OpKind::from_byte(byte).unwrap_or_else(|| panic!("{byte} is no op"));
        assert_eq!(kind as u8, byte);
        assert_eq!(row[1].replace('_', ""), format!("{kind:?}").to_lowercase());
        let (body, payload) = match kind {
            OpKind::Remember => ("MemoryV1", MemoryV1::sample(1).encode()),
            OpKind::Update => ("UpdateV1", UpdateV1::sample(1).encode()),
            OpKind::Forget => ("ForgetV1", ForgetV1::sample(1).encode()),
            OpKind::RestorePoint => ("RestorePointV1", RestorePointMirror::sample(1).encode()),
            OpKind::Restore => ("RestoreV1", RestoreMirror::sample(1).encode()),
            OpKind::Vector => ("VectorV1", VectorV1::sample(1).encode()),
            OpKind::Model => ("ModelV1", ModelV1::sample(1).encode()),
            OpKind::UseModel => ("UseModelV1", UseModelV1::sample(1).encode()),
            OpKind::Lost => ("LostV1", LostMirror::sample(1).encode()),
            OpKind::Seal => ("SealV1", SealMirror::sample(1).encode()),
        };
        assert_eq!(row[2], format!("[{body}](#{})", body.to_lowercase()));
        let vectors = match with_vectors(kind, &payload) {
            (true, true) => "optional",
            (true, false) => "never",
            (false, true) => "always",
            (false, false) => panic!("{kind:?} cannot be read"),
        };
        assert_eq!(row[3], vectors, "{kind:?}");
        assert_eq!(listed.insert(byte, kind), None, "{byte} is listed twice");
    }
    for byte in 0..=u8::MAX {
        assert_eq!(OpKind::from_byte(byte), listed.get(&byte).copied(), "byte {byte}");
    }
    let reserved: Vec<u8> = reserved[1..].iter().map(|row| row[0].parse::<u8>().expect("a byte")).collect();
    assert_eq!(reserved, [4, 7, 8]);
    assert!(reserved.iter().all(|byte| !listed.contains_key(byte)));
}

fn memory(n: u64) -> Memory {
    MemoryV1::sample(n).into_memory()
}

#[test]
fn a_payload_is_laid_out_as_in_its_tables() {
    let values = [0.5_f32, -0.25, 1.0, 2.0, 3.0, 4.0];
    let vectors = Vectors { model: ModelNumber(7), dimensions: 3, values: values.to_vec() };
    for n in 0..8 {
        let op = Op::Remember { memory: memory(n), vectors: Some(vectors.clone()) };
        let mut payload = b"before".to_vec();
        op.encode_payload(&mut payload);
        let payload = payload.split_off(6);
        let body = MemoryV1::sample(n).encode();
        let body_len = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
        let end = PAYLOAD_PREFIX_LEN + body.len();
        let fields = [("body_len", "4", body_len), ("body", "body_len", body)];
        assert_fields(&OP.rows("Payload"), &payload[..end], &fields);
        let vector_part = end.next_multiple_of(4);
        assert!(payload[end..vector_part].iter().all(|byte| *byte == 0));

        let table = OP.rows("Vector part");
        let fields = [
            ("model", "4", vec![7, 0, 0, 0]),
            ("dimensions", "4", vec![3, 0, 0, 0]),
            ("windows", "4", vec![2, 0, 0, 0]),
            ("reserved", "4", vec![0; 4]),
            ("values", "4 x dimensions x windows", values.map(f32::to_le_bytes).concat()),
        ];
        assert_fields(&table, &payload[vector_part..], &fields);
        assert_eq!(table[1][3], format!("1 to {DIMENSIONS_MAX}"));
        assert_eq!(table[2][3], format!("1 to {WINDOWS_MAX}"));
        assert_eq!(Op::decode_payload(OpKind::Remember, true, &payload), Ok(op));
    }
}

/// The `n`-th sample of every op, with the body that another implementation of the codec makes of it.
pub(super) fn sample_ops(n: u64) -> Vec<(Op, Vec<u8>)> {
    let vectors = |windows: usize| Vectors {
        model: ModelNumber(1),
        dimensions: 3,
        values: (0..3 * windows).map(|i| i as f32 / 4.0 - 1.0).collect(),
    };
    let (update, forget) = (UpdateV1::sample(n), ForgetV1::sample(n));
    let (vector, model, seal) = (VectorV1::sample(n), ModelV1::sample(n), SealMirror::sample(n));
    let (point, restore) = (RestorePointMirror::sample(n), RestoreMirror::sample(n));
    let (use_model, lost) = (UseModelV1::sample(n), LostMirror::sample(n));
    let bodies = [
        MemoryV1::sample(n).encode(),
        update.encode(),
        forget.encode(),
        point.encode(),
        restore.encode(),
        vector.encode(),
        model.encode(),
        use_model.encode(),
        lost.encode(),
        seal.encode(),
    ];
    let ops = [
        Op::Remember { memory: memory(n), vectors: (!n.is_multiple_of(2)).then(|| vectors(1)) },
        Op::Update {
            key: MemoryKey(update.key),
            previous_seq: update.previous_seq,
            memory: update.memory.into_memory(),
            vectors: n.is_multiple_of(2).then(|| vectors(2)),
        },
        Op::Forget { key: MemoryKey(forget.key), id: MemoryId::new(forget.id.0).expect("an id") },
        Op::RestorePoint(RestorePointV1 { name: point.name, made_unix_ms: point.made_unix_ms }),
        Op::Restore(RestoreV1 {
            point_seq: restore.point_seq,
            kind: restore.kind,
            target: restore.target,
            made_unix_ms: restore.made_unix_ms,
        }),
        Op::Vector { key: MemoryKey(vector.key), text_seq: vector.text_seq, vectors: vectors(3) },
        model.into_op(),
        Op::UseModel { number: ModelNumber(use_model.number) },
        Op::Lost(LostV1 {
            first_seq: lost.first_seq,
            last_seq: lost.last_seq,
            found_unix_ms: lost.found_unix_ms,
        }),
        Op::Seal(SealV1 {
            records: seal.records,
            last_seq: seal.last_seq,
            len: seal.len,
            chain: seal.chain,
            time_min: seal.time_min,
            time_max: seal.time_max,
        }),
    ];
    ops.into_iter().zip(bodies).collect()
}

#[test]
fn another_implementation_of_the_codec_makes_the_same_bytes_of_every_op() {
    for n in 0..40 {
        let ops = sample_ops(n);
        assert_eq!(ops.iter().map(|(op, _)| op.kind()).collect::<Vec<_>>(), OpKind::ALL);
        for (op, body) in ops {
            let mut payload = Vec::new();
            op.encode_payload(&mut payload);
            let len = u32::from_le_bytes(*payload.first_chunk().expect("a prefix")) as usize;
            assert_eq!(to_hex(&payload[4..4 + len]), to_hex(&body), "sample {n} of {:?}", op.kind());
            let read = Op::decode_payload(op.kind(), op.vectors().is_some(), &payload);
            assert_eq!(read.as_ref(), Ok(&op));
        }
    }
}

#[test]
fn structs_have_the_fields_of_their_tables() {
    let tables = [
        (OP, "MemoryV1", MemoryV1::rows()),
        (OP, "UpdateV1", UpdateV1::rows()),
        (OP, "ForgetV1", ForgetV1::rows()),
        (OP, "RestorePointV1", RestorePointMirror::rows()),
        (OP, "RestoreV1", RestoreMirror::rows()),
        (OP, "VectorV1", VectorV1::rows()),
        (OP, "ModelV1", ModelV1::rows()),
        (OP, "UseModelV1", UseModelV1::rows()),
        (OP, "LostV1", LostMirror::rows()),
        (OP, "SealV1", SealMirror::rows()),
        (MANIFEST, "ManifestV1", ManifestMirror::rows()),
        (MANIFEST, "TailV1", TailMirror::rows()),
    ];
    for (page, name, expected) in tables {
        let rows = page.rows(name);
        let rows: Vec<_> = rows.iter().map(|row| (row[0], plain(row[1]).to_owned())).collect();
        assert_eq!(rows, expected, "{name}");
    }
    let sections = |page: Page| {
        page.text().lines().filter(|line| line.starts_with("## ") && line.ends_with("V1")).count()
    };
    assert_eq!(sections(OP) + sections(MANIFEST), 12);
}
