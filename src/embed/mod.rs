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

use crate::error::Result;
pub use crate::memory::ModelIdentity;

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

/// What points at an embedder is one.
macro_rules! by_reference {
    ($($pointer:ty),*) => {
        $(impl<E: Embedder + ?Sized> Embedder for $pointer {
            fn identity(&self) -> &ModelIdentity {
                (**self).identity()
            }

            fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
                (**self).embed_document(text)
            }

            fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
                (**self).embed_query(query)
            }
        })*
    };
}

by_reference!(&E, std::sync::Arc<E>);
