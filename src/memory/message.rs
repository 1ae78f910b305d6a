//! How memories, and what writes them, stand in messages between processes. Metadata are JSON text there, as in the log;
//! everything else is what bincode derives.

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use serde_json::{Map, Value};

use super::{Memory, MemoryId, Remember, Update};

/// Metadata as they stand in a message.
struct Metadata<T>(T);

impl Encode for Metadata<&Map<String, Value>> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        if self.0.is_empty() {
            return "".encode(encoder);
        }
        let json =
            serde_json::to_string(self.0).map_err(|error| EncodeError::OtherString(error.to_string()))?;
        json.encode(encoder)
    }
}

impl<C> Decode<C> for Metadata<Map<String, Value>> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let json = String::decode(decoder)?;
        if json.is_empty() {
            return Ok(Self(Map::new()));
        }
        // Not the error itself: it may quote what it met.
        serde_json::from_str(&json)
            .map(Self)
            .map_err(|_| DecodeError::Other("metadata that are no JSON object"))
    }
}

impl Encode for MemoryId {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

bincode::impl_borrow_decode!(MemoryId);

impl<C> Decode<C> for MemoryId {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::new(String::decode(decoder)?).map_err(|_| DecodeError::Other("an id that is none"))
    }
}

/// Both directions of a struct whose last field is its metadata.
macro_rules! with_metadata {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                let Self { $($field,)* metadata } = self;
                $($field.encode(encoder)?;)*
                Metadata(metadata).encode(encoder)
            }
        }

        bincode::impl_borrow_decode!($name);

        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Ok(Self {
                    $($field: Decode::decode(decoder)?,)*
                    metadata: Metadata::decode(decoder)?.0,
                })
            }
        }
    };
}

with_metadata!(Memory {
    id,
    text,
    timestamp,
    source,
    session_id,
    importance,
    tags,
    collection,
    speaker,
    role,
    position,
});

with_metadata!(Remember {
    id,
    proposed,
    is_again,
    text,
    timestamp,
    source,
    session_id,
    importance,
    tags,
    collection,
    speaker,
    role,
    position,
    vector,
    duplicates,
    allow_secrets,
});

with_metadata!(Update {
    text,
    timestamp,
    source,
    session_id,
    importance,
    tags,
    add_tags,
    remove_tags,
    collection,
    vector,
    allow_secrets,
});
