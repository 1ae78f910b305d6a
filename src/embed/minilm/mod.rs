//! The built-in embedder: all-MiniLM-L6-v2 inside the program, run by an engine of our own.
//!
//! It needs no file, no network and no native library, and gives the first vector of a process within milliseconds.
//! The weights are quantised (`format-spec/model-file.md`, made by `examples/pack_minilm.rs`). The same text gives the
//! same vector, bit for bit, on every machine.

mod forward;
mod kernels;
pub(crate) mod layout;
mod model;
mod tokenizer;

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};

use self::forward::{Forward, Scratch, Vector};
use self::kernels::InstructionSet;
use self::layout::{DIMENSIONS, POSITIONS};
use self::model::Model;
use self::tokenizer::TokenId;
use super::{Embedder, ModelIdentity};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Damage;
use crate::format::op::WINDOWS_MAX;

/// The name of the model in its identity.
pub(crate) const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";
/// The version of the engine's arithmetic and of its quantisation.
const ENGINE: &str = "minilm/1";

/// Tokens of a window between its start and end tokens.
const WINDOW_TOKENS: usize = POSITIONS - 2;
/// Tokens that a window shares with the one before it.
const WINDOW_OVERLAP: usize = 32;
/// Tokens from the start of a window to that of the next.
const WINDOW_STRIDE: usize = WINDOW_TOKENS - WINDOW_OVERLAP;
/// Most tokens of a text: what lies behind the last window that a memory may have is not embedded.
const TOKENS_MAX: usize = WINDOW_STRIDE * (WINDOWS_MAX - 1) + WINDOW_TOKENS;

/// Aligned so that a load of weights never crosses a cache line.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static PACKED: &Aligned<[u8]> = &Aligned(*include_bytes!("minilm-l6-v2.bin"));

/// The model with its engine. Any number of threads may use it at the same time.
pub(crate) struct MiniLm {
    model: Model,
    identity: ModelIdentity,
    instructions: InstructionSet,
    /// One for each thread that was at work at the same time.
    scratches: Mutex<Vec<Scratch>>,
}

impl MiniLm {
    /// The model that is compiled into the program.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when the program's bytes are damaged.
    pub(crate) fn builtin() -> Result<&'static Self> {
        static BUILTIN: OnceLock<MiniLm> = OnceLock::new();
        if let Some(builtin) = BUILTIN.get() {
            return Ok(builtin);
        }
        let loaded = Self::parse(Cow::Borrowed(&PACKED.0))?;
        Ok(BUILTIN.get_or_init(|| loaded))
    }

    /// A model from the bytes of a packed file. Checks the layout and the small sections; for the weights see
    /// [`Self::verify`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when the bytes are not those of a model of this version.
    pub(crate) fn parse(bytes: Cow<'static, [u8]>) -> Result<Self> {
        let model = Model::parse(bytes).map_err(damaged)?;
        let identity = ModelIdentity {
            name: NAME.to_owned(),
            weights_sha256: hex(model.weights_sha256()),
            tokenizer_sha256: hex(model.tokenizer_sha256()),
            dimensions: DIMENSIONS as u32,
            pooling: "mean".to_owned(),
            normalized: true,
            max_tokens: POSITIONS as u32,
            document_form: "text/1".to_owned(),
            query_form: "query/1".to_owned(),
            engine: ENGINE.to_owned(),
        };
        Ok(Self { model, identity, instructions: InstructionSet::detect(), scratches: Mutex::default() })
    }

    /// Compares every byte with the checksums and digests; takes tens of milliseconds.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when one differs.
    pub(crate) fn verify(&self) -> Result<()> {
        self.model.verify().map_err(damaged)
    }

    /// The tokens of a text, without start and end tokens.
    pub(crate) fn tokens(&self, text: &str, tokens_max: usize) -> Vec<TokenId> {
        self.model.vocabulary().encode(self.model.specials(), text, tokens_max)
    }

    /// Whether one vector says all of a text.
    pub(crate) fn is_one_window(&self, text: &str) -> bool {
        self.tokens(text, WINDOW_TOKENS + 1).len() <= WINDOW_TOKENS
    }

    /// The vector of one window, given without start and end tokens.
    fn embed_window(&self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        let specials = self.model.specials();
        let mut window = [0; POSITIONS];
        let window = &mut window[..tokens.len() + 2];
        window[0] = specials.start;
        window[1..=tokens.len()].copy_from_slice(tokens);
        window[tokens.len() + 1] = specials.end;

        // A panic in another thread leaves nothing behind that the next use does not overwrite.
        let scratches = || self.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = scratches().pop().unwrap_or_default();
        let mut vector: Vector = [0.0; DIMENSIONS];
        self.instructions.run(Forward {
            model: &self.model,
            tokens: window,
            scratch: &mut scratch,
            vector: &mut vector,
        });
        scratches().push(scratch);
        if vector.iter().all(|value| value.is_finite()) {
            Ok(vector.to_vec())
        } else {
            Err(damaged(Damage::Codec("a vector is not finite".to_owned())))
        }
    }
}

impl Embedder for MiniLm {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        windows(&self.tokens(text, TOKENS_MAX)).map(|window| self.embed_window(window)).collect()
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        self.embed_window(&self.tokens(query, WINDOW_TOKENS))
    }
}

/// Cuts tokens into windows: one for a text without tokens, and none that holds only what the one before it holds.
fn windows(tokens: &[TokenId]) -> impl Iterator<Item = &[TokenId]> {
    let further = tokens.len().saturating_sub(WINDOW_TOKENS).div_ceil(WINDOW_STRIDE);
    (0..=further).map(|window| {
        let rest = &tokens[window * WINDOW_STRIDE..];
        &rest[..rest.len().min(WINDOW_TOKENS)]
    })
}

fn damaged(damage: Damage) -> Error {
    Error::new(ErrorKind::Model, format!("the model file is damaged: {damage}"))
        .hint("install the program again: the built-in model is a part of it")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
