//! The embedder of the golden store: vectors of small whole numbers, the same on every machine.

use memento_kv::Result;
use memento_kv::embed::{Embedder, ModelIdentity};

/// Characters of one window.
const WINDOW_CHARS: usize = 40;

/// Counts characters by their code, modulo the number of dimensions.
pub(crate) struct Counting(ModelIdentity);

impl Counting {
    pub(crate) fn new(name: &str, dimensions: u32) -> Self {
        Self(ModelIdentity {
            name: name.to_owned(),
            weights_sha256: "00".repeat(32),
            tokenizer_sha256: "ff".repeat(32),
            dimensions,
            pooling: "mean".to_owned(),
            normalized: true,
            max_tokens: WINDOW_CHARS as u32,
            document_form: "text/1".to_owned(),
            query_form: "query/1".to_owned(),
            engine: "counting/1".to_owned(),
        })
    }

    fn count(&self, chars: &[char]) -> Vec<f32> {
        let mut counts = vec![1.0; self.0.dimensions as usize];
        for char in chars {
            counts[*char as usize % self.0.dimensions as usize] += 1.0;
        }
        counts
    }
}

impl Embedder for Counting {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        let chars: Vec<char> = text.chars().collect();
        Ok(chars.chunks(WINDOW_CHARS).map(|window| self.count(window)).collect())
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        Ok(self.count(&query.chars().collect::<Vec<_>>()))
    }
}
