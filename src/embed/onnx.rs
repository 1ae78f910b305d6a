//! Models other than the built-in one: ONNX files, run by fastembed and an ONNX Runtime that is found at run time.
//!
//! A model is a folder ([`folder`]). Loading one never uses the network: fastembed gets the bytes of the files, never
//! a name. [`hub`] is the only code that does, when the user asks. Calls into ONNX Runtime can panic; each is guarded,
//! and a panic becomes an error of kind `Model`.
//!
//! Texts are embedded one at a time: then a vector depends on its text alone, not on what was padded beside it. A text
//! longer than the model's window is embedded in windows that overlap by [`WINDOW_OVERLAP`] tokens.

mod folder;
mod hub;
mod runtime;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fastembed::{InitOptionsUserDefined, OutputKey, Pooling, TextEmbedding, UserDefinedEmbeddingModel};

use self::folder::{ModelFolder, PoolingName, Settings};
pub(super) use self::hub::{list, pull};
use super::{Embedder, ModelIdentity};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::DIMENSIONS_MAX;

/// Version of what this module does to a text and to a vector.
const ENGINE: &str = "onnx/1";
/// Tokens that a window has in common with the one before it.
const WINDOW_OVERLAP: usize = 32;
/// How far a window's end is moved on to the next blank, in bytes, so that it does not cut a word.
const WORD_LEN_MAX: usize = 64;
/// Threads of one run. ONNX Runtime's threads spin while they wait, which costs more than it gains on one short text.
const THREADS: usize = 1;

/// A loaded ONNX model.
pub(crate) struct OnnxModel {
    identity: ModelIdentity,
    query_prefix: String,
    document_prefix: String,
    windows: Windows,
    engine: Mutex<TextEmbedding>,
}

impl OnnxModel {
    /// Loads the model of a folder.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when a file is missing or wrong, or ONNX Runtime is not found.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let folder = ModelFolder::open(path)?;
        // ONNX Runtime first: without it, reading hundreds of megabytes would be in vain.
        let environment = runtime::environment()?;
        let ModelFolder { settings, max_tokens, .. } = &folder;
        let (files, weights_sha256) = folder.read_weights()?;
        let mut model = UserDefinedEmbeddingModel::new(files.model, folder.tokenizer_files())
            .with_pooling(pooling(settings.pooling));
        model.output_key = output_key(settings)?;
        for (name, bytes) in files.external {
            model = model.with_external_initializer(name, bytes);
        }
        let options = InitOptionsUserDefined::new()
            .with_environment(environment)
            .with_max_length(*max_tokens as usize)
            .with_intra_threads(THREADS);
        let mut engine = guarded(|| TextEmbedding::try_new_from_user_defined(model, options))
            .map_err(|error| error.at(path))?;
        let windows = Windows::new(&engine, *max_tokens as usize, &settings.document_prefix)
            .map_err(|error| error.at(path))?;
        let dimensions = embed(&mut engine, "word").map_err(|error| error.at(path))?.len();
        let identity = ModelIdentity {
            name: folder.name().to_owned(),
            weights_sha256,
            tokenizer_sha256: folder.tokenizer_sha256(),
            // `embed` has compared it with its limit.
            dimensions: dimensions as u32,
            pooling: settings.pooling.name().to_owned(),
            normalized: true,
            max_tokens: *max_tokens,
            document_form: form("text/1", &settings.document_prefix),
            query_form: form("query/1", &settings.query_prefix),
            engine: ENGINE.to_owned(),
        };
        tracing::info!(name = %identity.name, dimensions, max_tokens, "loaded an ONNX model");
        Ok(Self {
            identity,
            query_prefix: folder.settings.query_prefix,
            document_prefix: folder.settings.document_prefix,
            windows,
            engine: Mutex::new(engine),
        })
    }
}

impl Embedder for OnnxModel {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        // A panic under the lock is caught under it and leaves no half-made state, as each run starts afresh.
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = tokens(&mut engine, text)?;
        let windows = self.windows.of(text, &tokens);
        windows.iter().map(|window| embed(&mut engine, &prefixed(&self.document_prefix, window))).collect()
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        embed(&mut engine, &prefixed(&self.query_prefix, query))
    }
}

/// The vector of the first window of a text, of length 1.
fn embed(engine: &mut TextEmbedding, text: &str) -> Result<Vec<f32>> {
    let vectors = guarded(|| engine.embed([text], None))?;
    let [mut vector]: [Vec<f32>; 1] =
        vectors.try_into().map_err(|_| model_error("the model gave no vector, or several, for one text"))?;
    if vector.is_empty() || vector.len() > DIMENSIONS_MAX {
        return Err(model_error(format!(
            "the model gives vectors of {} dimensions, the most is {DIMENSIONS_MAX}",
            vector.len()
        )));
    }
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length < 1e-6 {
        return Err(model_error("the model gave a vector without a direction"));
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Ok(vector)
}

/// How the tokens of a long text are divided into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Windows {
    /// Tokens of the text in one window: what special tokens and the prefix leave.
    len: usize,
    /// Tokens that a window has in common with the one before it.
    overlap: usize,
}

impl Windows {
    fn new(engine: &TextEmbedding, max_tokens: usize, prefix: &str) -> Result<Self> {
        let taken = guarded(|| {
            engine
                .tokenizer
                .encode(prefix, true)
                .map(|tokens| tokens.len())
                .map_err(|error| error.to_string())
        })?;
        let overlap = WINDOW_OVERLAP.min(max_tokens / 4);
        match max_tokens.checked_sub(taken) {
            Some(len) if len >= 2 * overlap => Ok(Self { len, overlap }),
            _ => Err(model_error(format!("max_tokens is {max_tokens}, too few after a prefix of {taken}"))),
        }
    }

    /// The windows of a text whose tokens lie at these byte ranges.
    ///
    /// A window begins at a word where its overlap has one, so that its first tokens are the ones of the whole text. Its
    /// end is moved on to the end of a word for the same reason; the tokenizer cuts off what is then too much.
    fn of<'a>(self, text: &'a str, tokens: &[(usize, usize)]) -> Vec<&'a str> {
        let mut windows = Vec::with_capacity(1 + tokens.len() / (self.len - self.overlap));
        let mut first = 0;
        while first + self.len < tokens.len() {
            let start = self.start(text, tokens, first);
            let (_, end) = tokens[first + self.len - 1];
            windows.push(&text[start..word_end(text, end).max(start)]);
            first += self.len - self.overlap;
        }
        windows.push(&text[self.start(text, tokens, first)..]);
        windows
    }

    fn start(self, text: &str, tokens: &[(usize, usize)], first: usize) -> usize {
        if first == 0 {
            return 0;
        }
        let offset =
            |token: usize| tokens.get(token).map_or(text.len(), |(start, _)| (*start).min(text.len()));
        let from = text.floor_char_boundary(offset(first));
        let until = text.floor_char_boundary(offset(first + self.overlap / 2)).max(from);
        // A token may have the blank before its word in it, or begin right behind one.
        if text[..from].ends_with(char::is_whitespace) || text[from..].starts_with(char::is_whitespace) {
            return from;
        }
        text[from..until].find(char::is_whitespace).map_or(from, |blank| from + blank)
    }
}

fn word_end(text: &str, at: usize) -> usize {
    let at = text.ceil_char_boundary(at.min(text.len()));
    let until = text.ceil_char_boundary(at.saturating_add(WORD_LEN_MAX).min(text.len()));
    text[at..until].find(char::is_whitespace).map_or(until, |blank| at + blank)
}

/// The byte ranges of all tokens of a text, special tokens left out.
fn tokens(engine: &mut TextEmbedding, text: &str) -> Result<Vec<(usize, usize)>> {
    // The tokenizer stops at the end of the first window unless it is told that there is none.
    let limit =
        engine.tokenizer.get_truncation_mut().map(|cut| std::mem::replace(&mut cut.max_length, usize::MAX));
    let tokens = guarded(|| {
        let encoded = engine.tokenizer.encode(text, false);
        encoded.map(|tokens| tokens.get_offsets().to_vec()).map_err(|error| error.to_string())
    });
    if let (Some(limit), Some(cut)) = (limit, engine.tokenizer.get_truncation_mut()) {
        cut.max_length = limit;
    }
    tokens
}

fn prefixed<'a>(prefix: &str, text: &'a str) -> Cow<'a, str> {
    if prefix.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(format!("{prefix}{text}")) }
}

/// The name of a form with a prefix: another prefix makes other vectors, so it is another form.
fn form(version: &str, prefix: &str) -> String {
    if prefix.is_empty() { version.to_owned() } else { format!("{version} after {prefix:?}") }
}

fn pooling(name: PoolingName) -> Pooling {
    match name {
        PoolingName::Mean => Pooling::Mean,
        PoolingName::Cls => Pooling::Cls,
    }
}

/// fastembed takes the name of an output only as a constant.
fn output_key(settings: &Settings) -> Result<Option<OutputKey>> {
    const OUTPUTS: [&str; 4] = ["sentence_embedding", "text_embeds", "last_hidden_state", "token_embeddings"];
    let Some(asked) = &settings.output else { return Ok(None) };
    match OUTPUTS.into_iter().find(|output| output == asked) {
        Some(output) => Ok(Some(OutputKey::ByName(output))),
        None => Err(model_error(format!("output is {asked:?}, it can be one of {}", OUTPUTS.join(", ")))),
    }
}

/// Calls into fastembed and ONNX Runtime: their errors and their panics are errors of the model.
fn guarded<T, E: ToString>(call: impl FnOnce() -> Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(model_error(format!("the model's engine: {}", error.to_string()))),
        Err(_) => Err(model_error("the model's engine panicked")),
    }
}

fn model_error(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Model, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { len: 10, overlap: 4 };

    /// The words of a text as tokens.
    fn words(text: &str) -> Vec<(usize, usize)> {
        let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
        text.split_whitespace().map(|word| (start(word), start(word) + word.len())).collect()
    }

    #[test]
    fn windows_have_their_length_and_their_overlap() {
        let text: Vec<String> = (0..23).map(|i| format!("é{i}")).collect();
        let text = text.join(" ");
        let ranges = |count: usize| -> Vec<(usize, usize)> {
            let text = &text[..words(&text)[count - 1].1];
            let number = |word: &str| word.trim_start_matches('é').parse().expect("a number");
            let windows = WINDOWS.of(text, &words(text));
            windows
                .iter()
                .map(|window| {
                    let mut words = window.split_whitespace();
                    let first = number(words.next().expect("a word"));
                    (first, words.last().map_or(first, number))
                })
                .collect()
        };
        assert_eq!(ranges(1), [(0, 0)]);
        assert_eq!(ranges(10), [(0, 9)]);
        assert_eq!(ranges(11), [(0, 9), (6, 10)]);
        assert_eq!(ranges(16), [(0, 9), (6, 15)]);
        assert_eq!(ranges(23), [(0, 9), (6, 15), (12, 21), (18, 22)]);
    }

    #[test]
    fn a_text_without_tokens_is_one_window() {
        assert_eq!(WINDOWS.of("", &[]), [""]);
        assert_eq!(WINDOWS.of(" \u{200d}", &[]), [" \u{200d}"]);
    }

    #[test]
    fn an_edge_in_a_word_is_moved_to_the_edge_of_the_word() {
        // Twelve words of three tokens each.
        let text = "abc".to_owned() + &" abc".repeat(11);
        let tokens: Vec<_> = words(&text)
            .iter()
            .flat_map(|(start, _)| (0..3).map(move |i| (start + i, start + i + 1)))
            .collect();
        let windows = Windows { len: 11, overlap: 4 }.of(&text, &tokens);
        assert_eq!(windows[0], "abc abc abc abc");
        // It would begin at token 7, the "b" of the third word.
        assert_eq!(windows[1], " abc abc abc");
    }

    #[test]
    fn no_token_ranges_can_make_a_window_panic() {
        let text = "añb 日本語 🦀 x".repeat(9);
        let mut state = 7_u64;
        for _ in 0..2000 {
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize % below
            };
            let tokens: Vec<_> = (0..random(60)).map(|_| (random(200), random(200))).collect();
            let windows = WINDOWS.of(&text, &tokens);
            assert!(text.starts_with(windows[0]) && text.ends_with(windows[windows.len() - 1]));
        }
    }

    #[test]
    fn a_panic_of_the_engine_is_an_error() {
        let error = guarded(|| -> Result<(), String> { panic!("as ort does") }).expect_err("it panicked");
        assert_eq!(error.kind(), ErrorKind::Model);
    }
}
