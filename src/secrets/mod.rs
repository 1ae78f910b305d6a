//! Finds secrets in a text before it is written anywhere: keys and tokens by their form, private keys, web tokens,
//! passwords in addresses, and values that are assigned to names such as `password`.
//!
//! Pure, and one walk over the text: the program starts often, and compiling hundreds of patterns would take longer than
//! everything else it does. What a rule finds must also look made by chance, so that placeholders, hashes, identifiers
//! and paths are no secrets. Nothing here ever shows a secret: a finding is a kind and a range of bytes.

mod assigned;
mod forms;
mod looks;

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;
use serde_json::{Map, Value};

/// A secret in a text: what it is, and where. It does not hold the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Secret {
    /// What it is, such as `github-token`, `private-key` or `password`.
    pub kind: &'static str,
    /// Its bytes in the text.
    pub range: Range<usize>,
}

/// The secrets in a text, in order, none within another.
#[must_use]
pub fn find(text: &str) -> Vec<Secret> {
    let mut found = Vec::new();
    forms::find(text, &mut found);
    assigned::find(text, &mut found);
    // Of those that overlap the first stays, and of those that begin together the longest.
    found.sort_by_key(|secret| (secret.range.start, std::cmp::Reverse(secret.range.end)));
    let mut end = 0;
    found.retain(|secret| {
        let stays = secret.range.start >= end;
        end = end.max(secret.range.end);
        stays
    });
    found
}

/// The text with each secret as `[secret:KIND]`.
#[must_use]
pub fn mask(text: &str) -> Cow<'_, str> {
    masked(text, &find(text))
}

/// The text with these findings as `[secret:KIND]`.
pub(crate) fn masked<'a>(text: &'a str, found: &[Secret]) -> Cow<'a, str> {
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for secret in found {
        out.push_str(&text[at..secret.range.start]);
        out.push_str("[secret:");
        out.push_str(secret.kind);
        out.push(']');
        at = secret.range.end;
    }
    out.push_str(&text[at..]);
    Cow::Owned(out)
}

/// The kinds of secrets in a text and in metadata, each once.
#[must_use]
pub fn kinds(text: &str, metadata: &Map<String, Value>) -> Vec<&'static str> {
    let mut kinds: Vec<&'static str> = Vec::new();
    let mut add = |text: &str| {
        for secret in find(text) {
            if !kinds.contains(&secret.kind) {
                kinds.push(secret.kind);
            }
        }
    };
    add(text);
    each_string(metadata, &mut |key, value| {
        add(value);
        // What a key says about its value counts as in a text.
        add(&format!("{key}=\"{value}\""));
    });
    kinds
}

/// Every string of metadata with the nearest key above it. Metadata nests at most some dozens of levels.
fn each_string(metadata: &Map<String, Value>, each: &mut dyn FnMut(&str, &str)) {
    fn walk(key: &str, value: &Value, each: &mut dyn FnMut(&str, &str)) {
        match value {
            Value::String(text) => each(key, text),
            Value::Array(items) => items.iter().for_each(|item| walk(key, item, each)),
            Value::Object(members) => members.iter().for_each(|(key, value)| walk(key, value, each)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    metadata.iter().for_each(|(key, value)| walk(key, value, each));
}

#[cfg(test)]
mod tests;
