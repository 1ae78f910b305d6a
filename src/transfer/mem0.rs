//! Memories of mem0, as its interface answers them: what `client.get_all()` returns, written to a file.
//!
//! The shape (docs.mem0.ai, "Get memory" and "Export Stored Memories", read in November 2026): a list of memories, or an
//! object with that list as `results` (beside `count`, `next`, `previous`). A memory has `id`, `memory` (its text),
//! `user_id`, `agent_id`, `app_id`, `run_id`, `hash`, `metadata`, `categories`, `created_at`, `updated_at`; the times are
//! ISO 8601. What mem0's own export job makes has the shape of the schema that its caller gave, so nobody else can know it.
//!
//! `run_id` becomes the session, `categories` the tags; everything else is kept in the metadata.

use std::io::Read;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::objects;
use super::sink::{Each, Report, Sink, Times};
use super::values::{metadata_of, take_seconds, take_text, take_texts};
use crate::error::Result;

pub(super) fn read<R: Read>(reader: R, each: &mut Each<'_>) -> Result<Report> {
    let mut sink = Sink::new(Times::Expected, each);
    let mut index = 0_u64;
    objects::read(reader, &["results"], &mut |_, object| {
        index += 1;
        sink.push(&|| format!("memory {index}"), fields(object), None)
    })?;
    Ok(sink.finish())
}

fn fields(mut object: Map<String, Value>) -> Fields {
    // What a search adds.
    object.remove("score");
    let created = take_seconds(&mut object, "created_at");
    Fields {
        id: take_text(&mut object, "id"),
        text: take_text(&mut object, "memory"),
        timestamp: created,
        source: Some("mem0".to_owned()),
        session_id: take_text(&mut object, "run_id"),
        tags: take_texts(&mut object, "categories"),
        metadata: Some(metadata_of(object, "metadata")),
        ..Fields::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::sink::Item;

    fn items(text: &str) -> Vec<Item> {
        let mut items = Vec::new();
        read(text.as_bytes(), &mut |item| {
            items.push(item);
            Ok(())
        })
        .expect("good");
        items
    }

    #[test]
    fn both_shapes_are_read_and_nothing_is_lost() {
        let memory = r#"{"id":"3c90c3cc-0d44-4b50-8888-8dd25736052a","memory":"Dev works at TechCorp","user_id":"dev",
            "agent_id":null,"run_id":"r1","hash":"abc","metadata":{"type":"professional"},"categories":["work"],
            "created_at":"2023-11-07T05:31:56Z","updated_at":"2023-11-08T05:31:56Z","score":0.5}"#;
        for text in [format!("[{memory}]"), format!(r#"{{"count":1,"next":null,"results":[{memory}]}}"#)] {
            let items = items(&text);
            let remember = &items[0].incoming.remember;
            assert_eq!(remember.text(), "Dev works at TechCorp");
            assert_eq!(
                remember.id.as_ref().map(|id| id.as_str()),
                Some("3c90c3cc-0d44-4b50-8888-8dd25736052a")
            );
            assert_eq!((remember.timestamp, remember.session_id.as_str()), (Some(1_699_335_116), "r1"));
            assert_eq!(remember.tags, ["work"]);
            let expected = serde_json::json!({"type":"professional","user_id":"dev","hash":"abc",
                "updated_at":"2023-11-08T05:31:56Z"});
            assert_eq!(Value::Object(remember.metadata.clone()), expected);
            assert!(items[0].notes.is_empty(), "{:?}", items[0].notes);
        }
    }

    #[test]
    fn a_memory_without_text_names_its_place() {
        let error = read(&b"[{\"memory\":\"a\"},{\"id\":\"x\"}]"[..], &mut |_| Ok(())).expect_err("no text");
        assert_eq!(error.message(), "memory 2: it has no text");
    }
}
