//! The file of the reference memory server of the Model Context Protocol (`MEMORY_FILE_PATH`, by default `memory.jsonl`,
//! in old versions `memory.json`).
//!
//! The shape (modelcontextprotocol/servers, `src/memory/index.ts`, read in November 2026): JSON Lines, each an object.
//! `{"type":"entity","name":…,"entityType":…,"observations":[…]}` is a thing and what is known of it, in texts;
//! `{"type":"relation","from":…,"to":…,"relationType":…}` joins two things. There are no ids and no times.
//!
//! Every observation becomes a memory with the thing's name before it, and every relation one of the words
//! `FROM RELATION TO`. Ids are made of what they say, so that the file can be imported again after it grew.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::lines::{Lines, next_object};
use super::sink::{Each, Report, Sink, Times};
use super::values::{metadata_of, take_text};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn read<R: BufRead>(input: R, each: &mut Each<'_>) -> Result<Report> {
    let mut sink = Sink::new(Times::Rare, each);
    let mut lines = Lines::new(input);
    while let Some((line, object)) = next_object(&mut lines)? {
        push(&mut sink, &|| format!("line {line}"), object)?;
    }
    Ok(sink.finish())
}

fn push(sink: &mut Sink<'_, '_>, place: &dyn Fn() -> String, mut object: Map<String, Value>) -> Result<()> {
    let bad = |what: &str| Error::new(ErrorKind::Invalid, format!("{}: {what}", place()));
    let needed = |object: &mut Map<String, Value>, key| {
        take_text(object, key).ok_or_else(|| bad(&format!("it has no `{key}`")))
    };
    match object.get("type").and_then(Value::as_str) {
        Some("entity") => {
            let name = needed(&mut object, "name")?;
            let kind = take_text(&mut object, "entityType");
            let observations = match object.remove("observations") {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::Array(observations)) => observations,
                Some(_) => return Err(bad("`observations` is no list")),
            };
            let head = match &kind {
                Some(kind) => format!("{name} ({kind})"),
                None => name.clone(),
            };
            let metadata = with_rest(object, [("entity", &name)]);
            if observations.is_empty() {
                return sink.push(place, fields(head, kind.as_slice(), metadata), None);
            }
            for observation in observations {
                let Value::String(observation) = observation else {
                    return Err(bad("an observation is no text"));
                };
                let text = format!("{head}: {observation}");
                sink.push(place, fields(text, kind.as_slice(), metadata.clone()), None)?;
            }
            Ok(())
        }
        Some("relation") => {
            let [from, to, relation] = ["from", "to", "relationType"].map(|key| needed(&mut object, key));
            let (from, to, relation) = (from?, to?, relation?);
            let metadata = with_rest(object, [("from", &from), ("to", &to)]);
            let text = format!("{from} {relation} {to}");
            sink.push(place, fields(text, &["relation".to_owned()], metadata), None)
        }
        _ => Err(bad("it is neither an entity nor a relation")),
    }
}

/// The names, and what relatives of the server have written besides.
fn with_rest<const N: usize>(
    mut object: Map<String, Value>,
    names: [(&str, &String); N],
) -> Map<String, Value> {
    object.remove("type");
    let mut metadata = metadata_of(object, "metadata");
    metadata.extend(names.map(|(key, name)| (key.to_owned(), Value::from(name.as_str()))));
    metadata
}

fn fields(text: String, tags: &[String], metadata: Map<String, Value>) -> Fields {
    Fields {
        text: Some(text),
        source: Some("mcp-memory".to_owned()),
        tags: Some(tags.to_vec()),
        metadata: Some(metadata),
        ..Fields::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::sink::Item;
    use crate::transfer::tests::{SECRET, said};

    fn items(text: &str) -> Result<(Vec<Item>, Report)> {
        let mut items = Vec::new();
        let report = read(text.as_bytes(), &mut |item| {
            items.push(item);
            Ok(())
        })?;
        Ok((items, report))
    }

    #[test]
    fn observations_and_relations_become_memories() {
        let (items, report) = items(
            "{\"type\":\"entity\",\"name\":\"Ann\",\"entityType\":\"person\",\"observations\":[\"speaks Greek\",\"likes tea\",\"likes tea\"]}\n\
             {\"type\":\"entity\",\"name\":\"Oslo\",\"entityType\":\"city\",\"observations\":[]}\n\n\
             {\"type\":\"relation\",\"from\":\"Ann\",\"to\":\"Oslo\",\"relationType\":\"lives in\"}\n",
        )
        .expect("good");
        let texts: Vec<_> = items.iter().map(|item| item.incoming.remember.text()).collect();
        assert_eq!(
            texts,
            ["Ann (person): speaks Greek", "Ann (person): likes tea", "Oslo (city)", "Ann lives in Oslo"]
        );
        assert!(items.iter().all(|item| item.notes.is_empty()));
        assert_eq!(items[0].incoming.remember.tags, ["person"]);
        assert_eq!((report.memories, report.left_out), (4, 1), "the same observation twice");
    }

    #[test]
    fn keys_that_the_server_does_not_know_are_kept() {
        let (items, _) = items(
            "{\"type\":\"entity\",\"name\":\"Ann\",\"entityType\":\"person\",\"observations\":[\"likes tea\"],\"source\":\"chat\"}\n\
             {\"type\":\"relation\",\"from\":\"Ann\",\"to\":\"Oslo\",\"relationType\":\"lives in\",\"since\":2020}\n",
        )
        .expect("good");
        let metadata = |at: usize| Value::Object(items[at].incoming.remember.metadata.clone());
        assert_eq!(metadata(0), serde_json::json!({"entity": "Ann", "source": "chat"}));
        assert_eq!(metadata(1), serde_json::json!({"from": "Ann", "to": "Oslo", "since": 2020}));
    }

    #[test]
    fn bad_lines_name_their_number_and_no_content() {
        let good =
            "{\"type\":\"entity\",\"name\":\"a\",\"entityType\":\"t\",\"observations\":[\"hunter2\"]}\n";
        for (line, expected) in [
            ("{\"type\":\"thing\",\"name\":\"hunter2\"}", "line 2: it is neither"),
            ("{\"type\":\"entity\",\"observations\":[\"hunter2\"]}", "line 2: it has no `name`"),
            (
                "{\"type\":\"entity\",\"name\":\"hunter2\",\"observations\":\"hunter2\"}",
                "line 2: `observations` is no list",
            ),
            (
                "{\"type\":\"entity\",\"name\":\"hunter2\",\"observations\":[{\"x\":\"hunter2\"}]}",
                "line 2: an observation is no text",
            ),
            ("[\"hunter2\"]", "line 2: this is no object"),
            ("{\"hunter2", "line 2: column 9: EOF"),
        ] {
            let error = items(&format!("{good}{line}\n")).expect_err("bad");
            assert!(error.message().starts_with(expected), "{error}");
            assert!(!said(&error).contains(SECRET), "{error}");
        }
    }
}
