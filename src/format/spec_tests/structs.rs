//! The structs of the pages, written down once more for another implementation of the codec.

use wincode::SchemaWrite;
use wincode::config::Configuration;

use crate::format::op::{ModelNumber, Op};
use crate::memory::{Memory, MemoryId, ModelIdentity};

/// The name of a type in the tables.
pub(super) trait SpecType {
    fn name() -> String;
}

macro_rules! spec_types {
    ($($type:ty => $name:literal),*) => { $(
        impl SpecType for $type {
            fn name() -> String {
                $name.to_owned()
            }
        }
    )* };
}

spec_types!(u32 => "u32", u64 => "u64", i64 => "i64", f64 => "f64", bool => "bool", String => "string");

impl<T: SpecType> SpecType for Vec<T> {
    fn name() -> String {
        format!("list<{}>", T::name())
    }
}

impl<T: SpecType> SpecType for Option<T> {
    fn name() -> String {
        format!("option<{}>", T::name())
    }
}

impl<const N: usize> SpecType for [u8; N] {
    fn name() -> String {
        format!("bytes<{N}>")
    }
}

/// Values for a test: the `n`-th sample of each type is another one, and among them are the edges of the encoding.
pub(super) trait Sample {
    fn sample(n: u64) -> Self;
}

const EDGES: [u64; 11] =
    [0, 1, 250, 251, 65_535, 65_536, u32::MAX as u64, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];

impl Sample for u64 {
    fn sample(n: u64) -> Self {
        EDGES[n as usize % EDGES.len()]
    }
}

impl Sample for u32 {
    fn sample(n: u64) -> Self {
        EDGES[n as usize % 7] as u32
    }
}

impl Sample for i64 {
    fn sample(n: u64) -> Self {
        u64::sample(n / 2).cast_signed().wrapping_mul(if n.is_multiple_of(2) { 1 } else { -1 })
    }
}

impl Sample for f64 {
    fn sample(n: u64) -> Self {
        1.0 / (n + 1) as f64
    }
}

impl Sample for bool {
    fn sample(n: u64) -> Self {
        !n.is_multiple_of(2)
    }
}

impl Sample for String {
    fn sample(n: u64) -> Self {
        ["ü", "text", "日本", "e\u{301}"][n as usize % 4].repeat(if n % 7 == 3 { 100 } else { 1 })
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(n: u64) -> Self {
        (0..n % 4).map(T::sample).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(n: u64) -> Self {
        (!n.is_multiple_of(3)).then(|| T::sample(n))
    }
}

impl<const N: usize> Sample for [u8; N] {
    fn sample(n: u64) -> Self {
        std::array::from_fn(|i| 200 + n as u8 + i as u8)
    }
}

/// A struct of the pages.
pub(super) trait Mirror {
    /// As the other implementation of the codec encodes it.
    fn encode(&self) -> Vec<u8>;
    /// Fields and types as the page lists them.
    fn rows() -> Vec<(&'static str, String)>;
}

macro_rules! mirror {
    ($name:ident, $spec:literal { $($field:ident: $type:ty,)* }) => {
        #[derive(Clone, Debug, PartialEq, SchemaWrite)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }

        impl Mirror for $name {
            fn encode(&self) -> Vec<u8> {
                wincode::config::serialize(self, Configuration::default().with_varint_encoding())
                    .expect("a vector takes every value")
            }

            fn rows() -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), <$type>::name())),*]
            }
        }

        impl SpecType for $name {
            fn name() -> String {
                $spec.to_owned()
            }
        }

        impl Sample for $name {
            fn sample(n: u64) -> Self {
                let mut n = n;
                $(
                    let $field = <$type>::sample(n);
                    n += 1;
                )*
                let _ = n;
                Self { $($field),* }
            }
        }
    };
}

mirror!(MemoryV1, "MemoryV1" {
    id: Id,
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
    metadata_json: Option<Json>,
});

mirror!(UpdateV1, "UpdateV1" {
    key: u64,
    previous_seq: u64,
    memory: MemoryV1,
});

mirror!(ForgetV1, "ForgetV1" {
    key: u64,
    id: Id,
});

mirror!(VectorV1, "VectorV1" {
    key: u64,
    text_seq: u64,
});

mirror!(ModelV1, "ModelV1" {
    number: u32,
    name: String,
    weights_sha256: String,
    tokenizer_sha256: String,
    dimensions: u32,
    pooling: String,
    normalized: bool,
    max_tokens: u32,
    document_form: String,
    query_form: String,
    engine: String,
});

mirror!(RestorePointMirror, "RestorePointV1" {
    name: String,
    made_unix_ms: i64,
});

mirror!(RestoreMirror, "RestoreV1" {
    point_seq: u64,
    kind: u32,
    target: String,
    made_unix_ms: i64,
});

mirror!(UseModelV1, "UseModelV1" {
    number: u32,
});

mirror!(LostMirror, "LostV1" {
    first_seq: u64,
    last_seq: u64,
    found_unix_ms: i64,
});

mirror!(SealMirror, "SealV1" {
    records: u64,
    last_seq: u64,
    len: u64,
    chain: u32,
    time_min: i64,
    time_max: i64,
});

mirror!(TailMirror, "TailV1" {
    segment: u64,
    len: u64,
    records: u64,
    last_seq: u64,
    chain: u32,
    time_min: i64,
    time_max: i64,
});

mirror!(ManifestMirror, "ManifestV1" {
    store_id: [u8; 16],
    generation: u64,
    segments: Vec<u64>,
    clean_tail: Option<TailMirror>,
});

/// Texts that are not free: an id has limits, metadata is JSON.
macro_rules! special_text {
    ($name:ident, $sample:expr) => {
        #[derive(Clone, Debug, PartialEq, SchemaWrite)]
        pub(super) struct $name(pub(super) String);

        impl SpecType for $name {
            fn name() -> String {
                "string".to_owned()
            }
        }

        impl Sample for $name {
            fn sample(n: u64) -> Self {
                let sample: fn(u64) -> String = $sample;
                Self(sample(n))
            }
        }
    };
}

special_text!(Id, |n| format!("id-{n}"));
special_text!(Json, |n| serde_json::json!({ "n": n, "deep": [{ "er": "ü" }] }).to_string());

impl MemoryV1 {
    pub(super) fn into_memory(self) -> Memory {
        let mut memory = Memory::new(MemoryId::new(self.id.0).expect("an id"), self.text, self.timestamp);
        memory.source = self.source;
        memory.session_id = self.session_id;
        memory.importance = self.importance;
        memory.tags = self.tags;
        memory.collection = self.collection;
        memory.speaker = self.speaker;
        memory.role = self.role;
        memory.position = self.position;
        memory.metadata =
            self.metadata_json.map(|json| serde_json::from_str(&json.0).expect("JSON")).unwrap_or_default();
        memory
    }
}

impl ModelV1 {
    pub(super) fn into_op(self) -> Op {
        Op::Model {
            number: ModelNumber(self.number),
            identity: ModelIdentity {
                name: self.name,
                weights_sha256: self.weights_sha256,
                tokenizer_sha256: self.tokenizer_sha256,
                dimensions: self.dimensions,
                pooling: self.pooling,
                normalized: self.normalized,
                max_tokens: self.max_tokens,
                document_form: self.document_form,
                query_form: self.query_form,
                engine: self.engine,
            },
        }
    }
}
