//! What a model is, as far as its vectors are concerned.

use serde::{Deserialize, Serialize};

/// The full identity of an embedding model: two embedders give comparable vectors only when all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct ModelIdentity {
    /// The model's name, such as `sentence-transformers/all-MiniLM-L6-v2`.
    pub name: String,
    /// SHA-256 of the weights as the engine reads them, in hex.
    pub weights_sha256: String,
    /// SHA-256 of the vocabulary or tokenizer file, in hex.
    pub tokenizer_sha256: String,
    /// Dimensions of a vector, 1 to 4096.
    pub dimensions: u32,
    /// How token vectors become one: `mean` or `cls`.
    pub pooling: String,
    /// Whether vectors have length 1.
    pub normalized: bool,
    /// Most tokens of one window, special tokens included.
    pub max_tokens: u32,
    /// Version of the form in which a memory's text is embedded, such as `text/1`.
    pub document_form: String,
    /// Version of the form in which a query is embedded, such as `query/1`.
    pub query_form: String,
    /// Version of the engine's arithmetic, such as `minilm/1` or `onnx/1`.
    pub engine: String,
}
