//! Limits of what a caller may give, each with the check that holds it.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// Longest text of a memory, in bytes.
pub const TEXT_LEN_MAX: usize = 1 << 20;
/// Longest query, in bytes.
pub const QUERY_LEN_MAX: usize = 1 << 20;
/// Longest id, in bytes.
pub const ID_LEN_MAX: usize = 256;
/// Most tags of one memory.
pub const TAGS_MAX: usize = 64;
/// Longest tag, in bytes.
pub const TAG_LEN_MAX: usize = 256;
/// Longest collection, source, session, speaker or role, in bytes.
pub const LABEL_LEN_MAX: usize = 1024;
/// Longest metadata, as JSON text, in bytes.
pub const METADATA_LEN_MAX: usize = 64 << 10;
/// Deepest nesting of metadata, the object itself included. Readers of JSON give up at 128 levels, and what cannot be
/// read back must not be stored.
pub const METADATA_DEPTH_MAX: usize = 64;
/// Most dimensions of a vector.
pub const DIMENSIONS_MAX: usize = 4096;
/// Most memories that one recall or list returns.
pub const TOPK_MAX: usize = 100_000;

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

pub(crate) fn check_text(text: &str) -> Result<()> {
    if text.len() > TEXT_LEN_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the text has {} bytes, the most is {TEXT_LEN_MAX}", text.len()),
        )
        .hint("split it into several memories"));
    }
    if text.trim().is_empty() {
        return Err(invalid("the text of a memory cannot be empty".to_owned())
            .hint("give some words to remember, or `-` to read them from standard input"));
    }
    Ok(())
}

pub(crate) fn check_query(query: &str) -> Result<()> {
    if query.len() > QUERY_LEN_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the query has {} bytes, the most is {QUERY_LEN_MAX}", query.len()),
        )
        .hint("ask with fewer words"));
    }
    Ok(())
}

pub(crate) fn check_importance(importance: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&importance) {
        return Err(invalid(format!("importance is {importance}, it must be between 0 and 1")));
    }
    Ok(())
}

pub(crate) fn check_label(name: &str, value: &str) -> Result<()> {
    if value.len() > LABEL_LEN_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{name} has {} bytes, the most is {LABEL_LEN_MAX}", value.len()),
        ));
    }
    if value.trim().is_empty() || value.chars().any(char::is_control) {
        return Err(invalid(format!("{name} cannot be empty or hold control characters")));
    }
    Ok(())
}

/// Tags as they are stored: blanks around a tag go, empty ones and repeats go, order stays.
pub(crate) fn clean_tags(tags: Vec<String>) -> Result<Vec<String>> {
    let mut clean: Vec<String> = Vec::with_capacity(tags.len());
    for tag in tags {
        let tag = tag.trim();
        if tag.len() > TAG_LEN_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a tag has {} bytes, the most is {TAG_LEN_MAX}", tag.len()),
            ));
        }
        if tag.chars().any(char::is_control) {
            return Err(invalid("a tag cannot hold control characters".to_owned()));
        }
        if !tag.is_empty() && !clean.iter().any(|have| have == tag) {
            clean.push(tag.to_owned());
        }
    }
    if clean.len() > TAGS_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{} tags were given, the most is {TAGS_MAX}", clean.len()),
        ));
    }
    Ok(clean)
}

pub(crate) fn check_metadata(metadata: &Map<String, Value>) -> Result<()> {
    if !metadata.values().all(|value| is_within(value, METADATA_DEPTH_MAX - 1)) {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the metadata is nested more than {METADATA_DEPTH_MAX} levels deep"),
        )
        .hint("store flatter metadata, or the deep part as text"));
    }
    let len = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    if len > METADATA_LEN_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the metadata has {len} bytes of JSON, the most is {METADATA_LEN_MAX}"),
        ));
    }
    Ok(())
}

/// Whether a value nests lists and objects at most so many levels deep.
fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(members) => levels > 0 && members.values().all(|member| is_within(member, levels - 1)),
        _ => true,
    }
}

pub(crate) fn check_vector(vector: &[f32]) -> Result<()> {
    if vector.is_empty() || vector.len() > DIMENSIONS_MAX {
        return Err(invalid(format!(
            "a vector has 1 to {DIMENSIONS_MAX} dimensions, this one has {}",
            vector.len()
        )));
    }
    if vector.iter().any(|x| !x.is_finite()) {
        return Err(invalid("a vector holds a value that is not a finite number".to_owned()));
    }
    if vector.iter().all(|x| *x == 0.0) {
        return Err(invalid("a vector of zeros has no direction".to_owned()));
    }
    Ok(())
}
