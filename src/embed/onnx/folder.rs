//! The folder of an ONNX model: its files, its settings, and the hashes that say exactly which model it is.
//!
//! Only what is hashed or otherwise in the model's identity has a say in its vectors. That is why `config.json` and
//! `special_tokens_map.json`, which often lie beside these files, are not read: what they say of tokens is in
//! `tokenizer.json` too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fastembed::TokenizerFiles;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::model_error;
use crate::embed::choice::is_name;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::system::{self, OpenOptionsExt};

pub(super) const MODEL_FILE: &str = "model.onnx";
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
pub(super) const SETTINGS_FILE: &str = "memento-model.json";

/// Tokens of a window when nothing says how many. What BERT models have places for.
const MAX_TOKENS_DEFAULT: u32 = 512;
const MAX_TOKENS_RANGE: std::ops::RangeInclusive<u32> = 16..=32_768;
/// Longest `model.onnx`: the limit of its own format.
const MODEL_LEN_MAX: u64 = 2 << 30;
/// Most bytes of weights outside of `model.onnx`.
const EXTERNAL_LEN_MAX: u64 = 16 << 30;
const TOKENIZER_LEN_MAX: u64 = 256 << 20;
const CONFIG_LEN_MAX: u64 = 16 << 20;

/// What the model's own files do not say. All of it is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// The model's name; otherwise that of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) pooling: PoolingName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) query_prefix: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) document_prefix: String,
    /// Which of several outputs is the vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<String>,
    /// Files of this folder with weights that `model.onnx` refers to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) external_files: Vec<String>,
}

/// How token vectors become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PoolingName {
    #[default]
    Mean,
    Cls,
}

/// A model's folder, with all but its weights read.
pub(super) struct ModelFolder {
    path: PathBuf,
    name: String,
    pub(super) settings: Settings,
    pub(super) max_tokens: u32,
    tokenizer: Vec<u8>,
}

/// The bytes of a model.
pub(super) struct Weights {
    pub(super) model: Vec<u8>,
    pub(super) external: Vec<(String, Vec<u8>)>,
}

impl PoolingName {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
        }
    }
}

impl ModelFolder {
    /// Reads everything but the weights, and sees that these are there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let settings: Settings = read_json(&path.join(SETTINGS_FILE))?.unwrap_or_default();
        if let Some(name) = settings.external_files.iter().find(|name| !is_name(name)) {
            return Err(model_error(format!("external_files has {name:?}, which is no plain file name"))
                .at(&path.join(SETTINGS_FILE)));
        }
        open_file(&path.join(MODEL_FILE))?;
        let tokenizer = read_file(&path.join(TOKENIZER_FILE), TOKENIZER_LEN_MAX)?;
        let (least, most) = MAX_TOKENS_RANGE.into_inner();
        let most = max_length(path)?.map_or(most, |length| length.min(most));
        let max_tokens = settings.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT.min(most));
        if !(least..=most).contains(&max_tokens) {
            return Err(
                model_error(format!("max_tokens is {max_tokens}, it must be {least} to {most}")).at(path)
            );
        }
        let name = match &settings.name {
            Some(name) => name.clone(),
            None => folder_name(path)?,
        };
        Ok(Self { path: path.to_owned(), name, settings, max_tokens, tokenizer })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn tokenizer_sha256(&self) -> String {
        hex(&Sha256::digest(&self.tokenizer))
    }

    /// The files as fastembed wants them. It asks for four; of the other three it needs only the greatest length, which
    /// is given apart, and a word for padding, which texts that are embedded one at a time never need.
    pub(super) fn tokenizer_files(&self) -> TokenizerFiles {
        let config =
            serde_json::json!({"model_max_length": MAX_TOKENS_RANGE.end(), "pad_token": "[PAD]"}).to_string();
        TokenizerFiles {
            tokenizer_file: self.tokenizer.clone(),
            config_file: b"{}".to_vec(),
            special_tokens_map_file: b"{}".to_vec(),
            tokenizer_config_file: config.into_bytes(),
        }
    }

    /// The weights and their hash: that of `model.onnx`, or, with weights outside of it, the hash over its hash and
    /// each other file's name and hash.
    pub(super) fn read_weights(&self) -> Result<(Weights, String)> {
        let model = read_file(&self.path.join(MODEL_FILE), MODEL_LEN_MAX)?;
        let hash = Sha256::digest(&model);
        if self.settings.external_files.is_empty() {
            return Ok((Weights { model, external: Vec::new() }, hex(&hash)));
        }
        let mut all = Sha256::new_with_prefix(hash);
        let mut left = EXTERNAL_LEN_MAX;
        let mut external = Vec::with_capacity(self.settings.external_files.len());
        for name in &self.settings.external_files {
            let bytes = read_file(&self.path.join(name), left)?;
            left = left.saturating_sub(bytes.len() as u64);
            all.update(name.as_bytes());
            all.update([0]);
            all.update(Sha256::digest(&bytes));
            external.push((name.clone(), bytes));
        }
        Ok((Weights { model, external }, hex(&all.finalize())))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `model_max_length` of the tokenizer's configuration. Some models have a number like 1e30 there, for "no limit".
fn max_length(path: &Path) -> Result<Option<u32>> {
    let config: Option<serde_json::Value> = read_json(&path.join(TOKENIZER_CONFIG_FILE))?;
    let most = config.as_ref().and_then(|config| config.get("model_max_length")?.as_f64());
    // The cast saturates.
    Ok(most.map(|most| most as u32))
}

fn folder_name(path: &Path) -> Result<String> {
    // The real name, so that `.` and a link to the folder give the same identity.
    let real = path.canonicalize().map_err(|error| missing(path, error))?;
    Ok(real.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned()))
}

/// The JSON of a file, or nothing when there is no such file.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_file(path, CONFIG_LEN_MAX)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| model_error(error.to_string()).at(path))
}

fn read_file(path: &Path, len_max: u64) -> Result<Vec<u8>> {
    let file = open_file(path)?;
    let mut bytes = Vec::new();
    file.take(len_max.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| missing(path, error))?;
    if bytes.len() as u64 > len_max {
        return Err(model_error(format!("the file has more than {len_max} bytes")).at(path));
    }
    Ok(bytes)
}

fn open_file(path: &Path) -> Result<File> {
    // Links are followed, as the hub's own cache is made of them. A FIFO in the file's place cannot make the open wait.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(system::NO_WAIT)
        .open(path)
        .map_err(|error| missing(path, error))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(model_error("it is not a regular file").at(path)),
        Err(error) => Err(missing(path, error)),
    }
}

fn missing(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Model, format!("a file of the model cannot be read: {error}"))
        .at(path)
        .with_source(error)
        .hint(format!("the folder of a model holds {MODEL_FILE} and {TOKENIZER_FILE}"))
}
