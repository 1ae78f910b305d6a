//! Embedders: what turns a text into vectors, and the exact identity of the model that does it.
//!
//! A store knows the identity of the model that made its vectors and never mixes vectors of two models.

pub(crate) mod cache;
mod choice;
pub(crate) mod minilm;
#[cfg(feature = "fastembed")]
mod onnx;

pub(crate) use choice::load;
pub use choice::{ModelSpec, PullProgress, PullableModel, list, load_dir, pull};

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The full identity of an embedding model: two embedders give comparable vectors only when all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Turns texts into vectors. Implement it to bring a model of your own.
///
/// Vectors must be finite, have [`ModelIdentity::dimensions`] values and be the same for the same text.
pub trait Embedder: Send + Sync {
    /// The identity of the model.
    fn identity(&self) -> &ModelIdentity;

    /// The vectors of a memory's text: one for each window of a long text, at least one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Model`] when the engine fails.
    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>>;

    /// The vector of a query.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Model`] when the engine fails.
    fn embed_query(&self, query: &str) -> Result<Vec<f32>>;
}

/// The embedder that is compiled into the program: all-MiniLM-L6-v2, 384 dimensions, with no file and no network.
///
/// # Errors
/// [`crate::ErrorKind::Model`] when the program's own bytes are damaged.
pub fn builtin() -> Result<&'static dyn Embedder> {
    Ok(minilm::MiniLm::builtin()?)
}

impl<E: Embedder + ?Sized> Embedder for &E {
    fn identity(&self) -> &ModelIdentity {
        (**self).identity()
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        (**self).embed_document(text)
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        (**self).embed_query(query)
    }
}
