//! Brings a memory that somebody else stored within the limits of this store, without losing what it says.
//!
//! Importance is clamped to 0..1; control characters in labels become blanks; labels that are too long are cut and
//! tags that do not fit are taken off, and both are kept whole in the metadata. Every change is a note. What cannot be
//! repaired (no text, too long a text, an unusable id or time) is an error.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{
    DEFAULT_COLLECTION, DEFAULT_SESSION, DEFAULT_SOURCE, Duplicates, LABEL_LEN_MAX, METADATA_LEN_MAX,
    MemoryId, Remember, TAG_LEN_MAX, TAGS_MAX, clean_tags,
};

/// Key of the metadata for tags that do not fit.
const MORE_TAGS: &str = "more_tags";

/// The memory within our limits, with a note for every change.
pub(super) fn repaired(fields: Fields, note: &mut dyn FnMut(String)) -> Result<Remember> {
    let Some(text) = fields.text else {
        return Err(Error::new(ErrorKind::Invalid, "it has no text"));
    };
    let mut remember = Remember::new(text).on_duplicate(Duplicates::Keep);
    remember.id = fields.id.map(MemoryId::new).transpose()?;
    match fields.timestamp {
        Some(seconds) => remember = remember.at(seconds),
        None => note("it has no time and gets that of the import".to_owned()),
    }
    if let Some(found) = fields.importance {
        // What is no number has no place between 0 and 1.
        let clamped = if found.is_nan() { remember.importance } else { found.clamp(0.0, 1.0) };
        if clamped != found {
            note(format!("importance {found} became {clamped}"));
        }
        remember = remember.importance(clamped);
    }
    let mut extra = Map::new();
    if let Some(tags) = fields.tags {
        remember.tags = fitting_tags(&tags, &mut extra, note)?;
    }
    let mut label = |name: &str, found: Option<String>, default: &str| {
        fitting_label(name, found, default, &mut extra, note)
    };
    remember.source = label("source", fields.source, DEFAULT_SOURCE);
    remember.session_id = label("session_id", fields.session_id, DEFAULT_SESSION);
    remember.collection = label("collection", fields.collection, DEFAULT_COLLECTION);
    remember.speaker = Some(label("speaker", fields.speaker, "")).filter(|speaker| !speaker.is_empty());
    remember.role = Some(label("role", fields.role, "")).filter(|role| !role.is_empty());
    remember.position = fields.position;
    remember.metadata = fields.metadata.unwrap_or_default();
    keep_extra(&mut remember.metadata, extra, note);
    remember.vector = fields.vector;
    remember.checked()
}

/// The tags that fit; the others go into `extra`.
fn fitting_tags(
    tags: &[String],
    extra: &mut Map<String, Value>,
    note: &mut dyn FnMut(String),
) -> Result<Vec<String>> {
    let mut clean: Vec<String> = Vec::with_capacity(tags.len().min(TAGS_MAX));
    let mut more = Vec::new();
    let mut known = BTreeSet::new();
    for tag in tags {
        let tag = without_controls(tag);
        let tag = tag.trim();
        if tag.is_empty() || !known.insert(tag.to_owned()) {
            continue;
        }
        let fits = tag.len() <= TAG_LEN_MAX && clean.len() < TAGS_MAX;
        if fits { clean.push(tag.to_owned()) } else { more.push(tag.to_owned()) }
    }
    if more.is_empty() && clean != tags {
        note(match tags.len() - clean.len() {
            0 => "blanks around its tags were taken off".to_owned(),
            _ => format!("tags were cleaned of blanks and repeats, {} became {}", tags.len(), clean.len()),
        });
    }
    if !more.is_empty() {
        note(format!("{} of its tags do not fit and are in its metadata as `{MORE_TAGS}`", more.len()));
        extra.insert(MORE_TAGS.to_owned(), Value::from(more));
    }
    clean_tags(clean)
}

/// A label without control characters and not too long, or its default where it is blank.
fn fitting_label(
    name: &str,
    found: Option<String>,
    default: &str,
    extra: &mut Map<String, Value>,
    note: &mut dyn FnMut(String),
) -> String {
    let Some(found) = found else { return default.to_owned() };
    let mut clean = without_controls(&found);
    if clean.trim().is_empty() {
        note(format!("{name} was blank and became its default"));
        return default.to_owned();
    }
    if clean != found {
        note(format!("control characters in {name} became blanks"));
    }
    if clean.len() > LABEL_LEN_MAX {
        note(format!("{name} has {} bytes and was cut; the whole of it is in its metadata", found.len()));
        clean.truncate(clean.floor_char_boundary(LABEL_LEN_MAX));
        extra.insert(format!("full_{name}"), Value::from(found));
        if clean.trim().is_empty() {
            return default.to_owned();
        }
    }
    clean
}

/// Puts what does not fit elsewhere into the metadata, as far as there is room and nobody has the name.
fn keep_extra(metadata: &mut Map<String, Value>, extra: Map<String, Value>, note: &mut dyn FnMut(String)) {
    let len = |value: &dyn Fn() -> serde_json::Result<Vec<u8>>| value().map_or(usize::MAX, |json| json.len());
    for (name, value) in extra {
        let needed = len(&|| serde_json::to_vec(&value)).saturating_add(name.len() + 4);
        let used = len(&|| serde_json::to_vec(metadata));
        if metadata.contains_key(&name) || used.saturating_add(needed) > METADATA_LEN_MAX {
            note(format!("there is no room for `{name}` in its metadata, it was left out"));
        } else {
            metadata.insert(name, value);
        }
    }
}

fn without_controls(text: &str) -> String {
    text.replace(char::is_control, " ")
}
