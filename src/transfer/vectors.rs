//! All vectors of a memory with the exact model that made them, as they stand in a line of JSON Lines.
//!
//! `"vectors":{"model":{…},"windows":[[…],…]}`, where `model` is the whole identity of the model: vectors of two models
//! that differ in anything cannot be compared, so a name is not enough.

use serde::{Deserialize, Serialize};

use crate::memory::ModelIdentity;
use crate::store::Given;

/// The vectors of a memory, window by window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryVectors {
    /// The model that made them.
    pub model: ModelIdentity,
    /// One vector for each window of the text, at length 1.
    pub windows: Vec<Vec<f32>>,
}

impl MemoryVectors {
    pub(super) fn given(self) -> Given {
        Given::Exact { model: Box::new(self.model), windows: self.windows }
    }
}
