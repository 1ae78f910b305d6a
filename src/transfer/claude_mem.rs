//! Memories of claude-mem: its export, and its database `~/.claude-mem/claude-mem.db`.
//!
//! The shapes (thedotmack/claude-mem: `scripts/export-memories.ts` and `src/services/sqlite/schema.sql`, schema 35, read
//! in November 2026). The export is an object with the lists `observations`, `sessions`, `summaries` and `prompts`, whose
//! objects are rows of the tables `observations`, `sdk_sessions`, `session_summaries` and `user_prompts`. An observation
//! has `title`, `subtitle`, `narrative`, `facts` and `concepts` (lists written as JSON into a text), `type`, `project`,
//! `memory_session_id`, `created_at_epoch` (milliseconds), and in old versions only a `text`. A summary has `request`,
//! `investigated`, `learned`, `completed`, `next_steps`, `notes`.
//!
//! Observations and summaries become memories. Prompts and sessions are what was asked, not what is known: they are
//! counted and left out. Ids are numbers that every installation counts anew, so a memory's id is made of what it says.

use std::io::Read;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::objects;
use super::sink::{Each, Report, Sink, Times};
use super::sqlite::Database;
use super::values::{metadata_of, take_seconds, take_text, take_texts};
use crate::error::Result;

/// The lists of the export, and what they are in the database.
const LISTS: [(&str, &str); 2] = [("observations", "observations"), ("summaries", "session_summaries")];
const LEFT_OUT: [&str; 2] = ["sessions", "prompts"];

pub(super) fn read<R: Read>(reader: R, each: &mut Each<'_>) -> Result<Report> {
    let mut sink = Sink::new(Times::Expected, each);
    let mut left_out = [0_u64; LEFT_OUT.len()];
    let names: Vec<&str> = LISTS.iter().map(|(list, _)| *list).chain(LEFT_OUT).collect();
    let mut index = 0_u64;
    objects::read(reader, &names, &mut |list, object| {
        index += 1;
        match LEFT_OUT.iter().position(|name| *name == list) {
            Some(at) => {
                left_out[at] += 1;
                Ok(())
            }
            None => push(&mut sink, list, index, object),
        }
    })?;
    for (name, count) in LEFT_OUT.iter().zip(left_out).filter(|(_, count)| *count > 0) {
        sink.note(format!("{count} {name} were left out: they are no memories"));
    }
    Ok(sink.finish())
}

pub(super) fn read_database(database: &Database, each: &mut Each<'_>) -> Result<Report> {
    let mut sink = Sink::new(Times::Expected, each);
    let mut index = 0_u64;
    for (list, table) in LISTS {
        database.rows(table, &mut |row| {
            index += 1;
            push(&mut sink, list, index, row)
        })?;
    }
    Ok(sink.finish())
}

fn push(sink: &mut Sink<'_, '_>, list: &str, index: u64, object: Map<String, Value>) -> Result<()> {
    let fields = if list == "summaries" { summary(object) } else { observation(object) };
    if fields.text.is_none() {
        sink.leave_out(format!("an entry of {list} says nothing and was left out"));
        return Ok(());
    }
    sink.push(&|| format!("entry {index} ({list})"), fields, None)
}

fn observation(mut object: Map<String, Value>) -> Fields {
    let mut parts = Vec::new();
    for key in ["title", "subtitle", "narrative"] {
        parts.extend(take_text(&mut object, key));
    }
    parts.extend(take_texts(&mut object, "facts").into_iter().flatten().map(|fact| format!("- {fact}")));
    if parts.is_empty() {
        parts.extend(take_text(&mut object, "text"));
    }
    let mut tags = take_texts(&mut object, "concepts").unwrap_or_default();
    tags.extend(object.get("type").and_then(Value::as_str).map(str::to_owned));
    finish(object, parts, tags)
}

fn summary(mut object: Map<String, Value>) -> Fields {
    let mut parts = Vec::new();
    for (key, name) in [
        ("request", "Request"),
        ("investigated", "Investigated"),
        ("learned", "Learned"),
        ("completed", "Completed"),
        ("next_steps", "Next steps"),
        ("notes", "Notes"),
    ] {
        parts.extend(take_text(&mut object, key).map(|text| format!("{name}: {text}")));
    }
    finish(object, parts, vec!["summary".to_owned()])
}

fn finish(mut object: Map<String, Value>, parts: Vec<String>, tags: Vec<String>) -> Fields {
    let text_time = take_seconds(&mut object, "created_at");
    let timestamp = take_seconds(&mut object, "created_at_epoch").or(text_time);
    object.remove("id");
    Fields {
        text: Some(parts.join("\n")).filter(|text| !text.is_empty()),
        timestamp,
        source: Some("claude-mem".to_owned()),
        session_id: take_text(&mut object, "memory_session_id"),
        tags: Some(tags),
        metadata: Some(metadata_of(object, "metadata")),
        ..Fields::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::sink::Item;

    #[test]
    fn observations_and_summaries_become_memories_and_prompts_do_not() {
        let export = r#"{"exportedAt":"2026-02-17T12:00:00.000Z","exportedAtEpoch":1771329600000,"query":"x","totalObservations":1,
            "observations":[{"id":7,"memory_session_id":"s1","project":"p","text":null,"type":"bugfix","title":"Fixed the lock",
            "subtitle":null,"facts":"[\"flock is per file\"]","narrative":"It was held too long.","concepts":"[\"gotcha\"]",
            "prompt_number":3,"created_at":"2026-02-17T12:00:00.000Z","created_at_epoch":1771329600000},
            {"id":8,"memory_session_id":"s1","type":"change","title":null},
            {"id":9,"title":"Moved","text":"It was here before.","facts":["one",{"two":2}],"created_at_epoch":1771329600000}],
            "sessions":[{"memory_session_id":"s1"}],
            "summaries":[{"memory_session_id":"s1","project":"p","request":"Fix it","learned":"Locks.","created_at_epoch":1771329601000}],
            "prompts":[{"prompt_text":"fix it"},{"prompt_text":"more"}]}"#;
        let mut items: Vec<Item> = Vec::new();
        let report = read(export.as_bytes(), &mut |item| {
            items.push(item);
            Ok(())
        })
        .expect("good");
        let texts: Vec<_> = items.iter().map(|item| item.incoming.remember.text()).collect();
        assert_eq!(
            texts,
            [
                "Fixed the lock\nIt was held too long.\n- flock is per file",
                "Moved\n- one",
                "Request: Fix it\nLearned: Locks."
            ]
        );
        let second = &items[1].incoming.remember;
        assert_eq!(second.metadata["text"], "It was here before.", "nothing is lost of both");
        assert_eq!(second.metadata["facts"], serde_json::json!([{"two": 2}]));
        let first = &items[0].incoming.remember;
        assert_eq!((first.timestamp, first.session_id.as_str()), (Some(1_771_329_600), "s1"));
        assert_eq!(first.tags, ["gotcha", "bugfix"]);
        assert_eq!(first.metadata["project"], "p");
        assert_eq!((report.memories, report.left_out), (3, 1));
        let notes: Vec<_> = report.notes.iter().map(|note| note.what.as_str()).collect();
        assert!(notes.contains(&"2 prompts were left out: they are no memories"), "{notes:?}");
    }
}
