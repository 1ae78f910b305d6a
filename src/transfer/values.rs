//! Takes the values of an object of another program, whatever their types are.

use serde_json::{Map, Value};

use crate::memory::{METADATA_LEN_MAX, check_metadata};
use crate::time;

/// A value above this is a time in milliseconds: as seconds it would be in the year 5138.
const SECONDS_MAX: i64 = 100_000_000_000;

/// A text; a number or a truth value as it is written.
pub(super) fn take_text(object: &mut Map<String, Value>, key: &str) -> Option<String> {
    match object.remove(key)? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        other => {
            // Stays where it is kept with everything else.
            object.insert(key.to_owned(), other);
            None
        }
    }
    .filter(|text| !text.trim().is_empty())
}

/// The texts of a list, or of a list written as JSON into a text, or of a text with commas; numbers and truth values as they
/// are written. What is none of these stays where it is kept with everything else.
pub(super) fn take_texts(object: &mut Map<String, Value>, key: &str) -> Option<Vec<String>> {
    let items = match object.remove(key)? {
        Value::Array(items) => items,
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(Value::Array(items)) => items,
            _ => text.split(',').map(Value::from).collect(),
        },
        other => vec![other],
    };
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Value::String(text) => texts.push(text),
            Value::Number(number) => texts.push(number.to_string()),
            Value::Bool(value) => texts.push(value.to_string()),
            Value::Null => {}
            other => others.push(other),
        }
    }
    if !others.is_empty() {
        object.insert(key.to_owned(), Value::from(others));
    }
    Some(texts).filter(|texts| !texts.is_empty())
}

/// Unix seconds: of a text such as 2026-02-17T12:30:00Z, of seconds, or of milliseconds.
pub(super) fn take_seconds(object: &mut Map<String, Value>, key: &str) -> Option<i64> {
    let seconds = seconds_of(object.get(key)?)?;
    object.remove(key);
    Some(seconds)
}

fn seconds_of(value: &Value) -> Option<i64> {
    let seconds = match value {
        Value::String(text) => time::parse_absolute(text).ok(),
        Value::Number(number) => {
            let number = number.as_i64().or_else(|| number.as_f64().map(|number| number.floor() as i64))?;
            Some(if number.abs() > SECONDS_MAX { number.div_euclid(1000) } else { number })
        }
        _ => None,
    };
    seconds.filter(|seconds| time::checked(*seconds).is_ok())
}

/// What is left of an object, with the members of one of its own objects beside it, as metadata. Nulls say nothing.
pub(super) fn metadata_of(mut object: Map<String, Value>, nested: &str) -> Map<String, Value> {
    let mut metadata = match object.remove(nested) {
        Some(Value::Object(own)) => own,
        Some(other) if !other.is_null() => Map::from_iter([(nested.to_owned(), other)]),
        _ => Map::new(),
    };
    for (key, value) in object {
        if !value.is_null() && !metadata.contains_key(&key) {
            metadata.insert(key, value);
        }
    }
    metadata
}

/// Takes the largest values out of metadata until it fits; says how many.
pub(super) fn shrink(metadata: &mut Map<String, Value>) -> usize {
    let mut removed = 0;
    while check_metadata(metadata).is_err() {
        let len = |value: &Value| serde_json::to_vec(value).map_or(METADATA_LEN_MAX, |json| json.len());
        // Nesting that is too deep counts as long: it goes first.
        let deepest = |value: &Value| {
            let alone = Map::from_iter([(String::new(), value.clone())]);
            if check_metadata(&alone).is_err() { usize::MAX } else { len(value) }
        };
        let Some(name) =
            metadata.iter().max_by_key(|(_, value)| deepest(value)).map(|(name, _)| name.clone())
        else {
            break;
        };
        metadata.remove(&name);
        removed += 1;
    }
    removed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_taken_from_every_shape_and_what_is_no_text_stays() {
        for (value, texts, left) in [
            (json!(["a", 2026, true, null]), Some(vec!["a", "2026", "true"]), None),
            (json!("[\"a\", 1]"), Some(vec!["a", "1"]), None),
            (json!("a,b"), Some(vec!["a", "b"]), None),
            (json!(2026), Some(vec!["2026"]), None),
            (json!(["a", {"b": 1}]), Some(vec!["a"]), Some(json!([{"b": 1}]))),
            (json!({"b": 1}), None, Some(json!([{"b": 1}]))),
            (json!(null), None, None),
            (json!([]), None, None),
        ] {
            let mut object = Map::from_iter([("key".to_owned(), value.clone())]);
            let taken = take_texts(&mut object, "key");
            let taken = taken.as_ref().map(|texts| texts.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!((taken, object.get("key").cloned()), (texts, left), "{value}");
        }
    }
}
