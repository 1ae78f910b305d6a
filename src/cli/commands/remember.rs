//! `remember`: stores a memory, or hands a JSONL file to `load.rs`.

use std::path::PathBuf;

use anstyle::AnsiColor;
use clap::Args;
use serde_json::{Map, Value};

use super::{fallback, load};
use crate::cli::args::clean_tags;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::{input, session, text};
use crate::time::parse_time;
use crate::{DEFAULT_COLLECTION, DEFAULT_IMPORTANCE, DEFAULT_SESSION, DEFAULT_SOURCE};
use crate::{Duplicates, Error, ErrorKind, MemoryId, Remember, Remembered, Result};

/// Characters of the text that a terminal repeats.
const SHOWN_CHARS_MAX: usize = 100;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv remember \"Approved RFC-001 for Rust architecture\" -t decision,rust -i 0.9
  git log -1 --format=%B | memento-kv remember - -c commits --meta repo=api
  memento-kv remember --at 2026-02-17T12:30 -- -5 degrees, the pipes froze
  memento-kv remember --jsonl memories.jsonl

A line of JSONL is an object with `text` and, as you like, `id`, `timestamp`, `source`, `session_id`,
`importance`, `tags`, `collection`, `speaker`, `role`, `position`, `metadata`, `vector`.
The id is printed when the memory is on stable storage. When the store cannot be written (no space,
locked, damaged), the memory goes to a spool file, which the next command that opens the store brings in.
Passwords, keys and tokens are refused with exit code 7 unless --allow-secrets is given.")]
pub(crate) struct RememberArgs {
    /// The text; words are joined by blanks, and a single - reads standard input
    #[arg(required_unless_present = "jsonl")]
    text: Vec<String>,
    /// How much it matters, 0 to 1
    #[arg(long, short, value_name = "0..1", default_value_t = DEFAULT_IMPORTANCE, allow_negative_numbers = true)]
    importance: f64,
    /// Tags, separated by commas
    #[arg(long, short, value_delimiter = ',')]
    tags: Vec<String>,
    /// The part of the store it goes to
    #[arg(long, short, default_value = DEFAULT_COLLECTION)]
    collection: String,
    /// Where it comes from
    #[arg(long, default_value = DEFAULT_SOURCE)]
    source: String,
    /// The conversation it belongs to
    #[arg(long, default_value = DEFAULT_SESSION)]
    session: String,
    /// Anything else to keep with it; KEY:=JSON for what is not text. May be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// When it was [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Who said it
    #[arg(long)]
    speaker: Option<String>,
    /// The speaker's role, such as user or assistant
    #[arg(long)]
    role: Option<String>,
    /// Its place in the session, counted from 0
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    position: Option<i64>,
    /// The id to store it under [default: a new one]
    #[arg(long)]
    id: Option<String>,
    /// Store it although a password, a key or a token is found in it
    #[arg(long)]
    allow_secrets: bool,
    /// Store it even if the same text is there
    #[arg(long)]
    keep_duplicates: bool,
    /// Store the memories of this file, one JSON object a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "text", "importance", "tags", "collection", "source", "session", "meta", "at", "speaker", "role",
        "position", "id",
    ])]
    jsonl: Option<PathBuf>,
    /// With --jsonl: leave making the vectors to a later `memento-kv reembed`
    #[arg(long, requires = "jsonl")]
    no_embed: bool,
}

pub(crate) fn run(args: RememberArgs, context: &Context<'_>) -> Result<(), Failure> {
    if let Some(file) = &args.jsonl {
        let duplicates = duplicates(args.keep_duplicates);
        let (embed, allow_secrets) = (!args.no_embed, args.allow_secrets);
        return load::run(&load::Load { file, duplicates, embed, allow_secrets }, context);
    }
    let remember = args.into_remember(context)?;
    let shown = excerpt(remember.text());
    remember.check_secrets()?;
    let home = session::home(context)?;
    let stored = session::open_in(context, &home).and_then(|store| {
        let remembered = store.remember(remember.clone())?;
        Ok((store, remembered))
    });
    let (store, remembered) = match stored {
        Ok(stored) => stored,
        Err(error) => return fallback::spool(context, &home, &remember, error),
    };
    let safe = format!("the memory is safely stored as {}", remembered.id);
    let told = tell(&remembered, &shown, context).map_err(|failure| failure.although(&safe));
    session::close(context, store);
    told
}

impl RememberArgs {
    fn into_remember(self, context: &Context<'_>) -> Result<Remember> {
        let metadata = metadata(&self.meta)?;
        let at = self.at.map(|at| parse_time(&at, context.now_ms)).transpose()?;
        let id = self.id.map(MemoryId::new).transpose()?;
        let mut remember = Remember::new(input::text(&self.text, context.out)?)
            .importance(self.importance)
            .tags(clean_tags(self.tags))
            .collection(self.collection)
            .source(self.source)
            .session(self.session)
            .metadata(metadata)
            .allow_secrets(self.allow_secrets)
            .on_duplicate(duplicates(self.keep_duplicates));
        if let Some(id) = id {
            remember = remember.id(id);
        }
        if let Some(at) = at {
            remember = remember.at(at);
        }
        if let Some(speaker) = self.speaker {
            remember = remember.speaker(speaker);
        }
        if let Some(role) = self.role {
            remember = remember.role(role);
        }
        if let Some(position) = self.position {
            remember = remember.position(position);
        }
        Ok(remember)
    }
}

fn duplicates(keep: bool) -> Duplicates {
    if keep { Duplicates::Keep } else { Duplicates::Merge }
}

/// Metadata as it is written on the command line: `key=text`, or `key:=JSON`.
pub(super) fn metadata(entries: &[String]) -> Result<Map<String, Value>> {
    entries.iter().map(|entry| meta(entry)).collect()
}

fn meta(entry: &str) -> Result<(String, Value)> {
    let invalid = |message: String| {
        Error::new(ErrorKind::Invalid, message).hint("write --meta key=text, or --meta key:=JSON")
    };
    let Some((key, value)) = entry.split_once('=') else {
        return Err(invalid(format!("--meta has no `=`, it has {} bytes", entry.len())));
    };
    let (key, value) = match key.strip_suffix(':') {
        Some(key) => {
            let json = serde_json::from_str(value)
                .map_err(|error| invalid(format!("the metadata of `{key}` is not JSON: {error}")))?;
            (key, json)
        }
        None => (key, Value::String(value.to_owned())),
    };
    if key.is_empty() {
        return Err(invalid("--meta has no key before the `=`".to_owned()));
    }
    Ok((key.to_owned(), value))
}

fn excerpt(text: &str) -> String {
    let line = text::line(text);
    let mut shown: String = line.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}

fn tell(remembered: &Remembered, shown: &str, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let id = &remembered.id;
    if out.json {
        return out.print_json(remembered);
    }
    if !out.terminal {
        if let Some(twin) = &remembered.duplicate_of {
            out.note(&duplicate_note(remembered, twin));
        }
        return out.print_line(id.as_str());
    }
    let mark = out.paint(AnsiColor::Green.on_default(), "✓");
    let mut answer = format!("{mark} Remembered: {id}\n  \"{shown}\"");
    if let Some(twin) = &remembered.duplicate_of {
        answer.push_str("\n  ");
        answer.push_str(&duplicate_note(remembered, twin));
    }
    out.print_line(&answer)
}

fn duplicate_note(remembered: &Remembered, twin: &MemoryId) -> String {
    if *twin == remembered.id {
        "This text was there already: tags were merged and the higher importance kept.".to_owned()
    } else {
        format!("Nearly the same as {twin}; both are kept.")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_text_unless_json_is_asked_for() {
        let entries = ["version=1.10", "empty=", "a=b=c", "n:=1", "list:=[1,\"x\"]"].map(String::from);
        let expected = json!({"version": "1.10", "empty": "", "a": "b=c", "n": 1, "list": [1, "x"]});
        assert_eq!(Value::Object(metadata(&entries).expect("good entries")), expected);
    }

    #[test]
    fn bad_metadata_is_refused_with_the_form() {
        for bad in ["", "key", "=x", ":=1", "k:=", "k:={"] {
            let error = metadata(&[bad.to_owned()]).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
            assert!(error.hint_text().is_some(), "{bad}");
        }
    }

    #[test]
    fn a_long_text_is_shown_in_part() {
        assert_eq!(excerpt("short\ntext"), "short text");
        let shown = excerpt(&"é".repeat(101));
        assert_eq!(shown.chars().count(), 101);
        assert!(shown.ends_with('…'));
        assert_eq!(excerpt(&"é".repeat(100)).chars().count(), 100);
    }

    #[test]
    fn two_kinds_of_duplicates_are_told_apart() {
        let id = |text: &str| MemoryId::new(text).expect("an id");
        let receipt: crate::Receipt = "1-00112233445566778899aabbccddeeff".parse().expect("a receipt");
        let remembered = Remembered { id: id("a"), seq: 1, digest: receipt.digest, duplicate_of: None };
        assert!(duplicate_note(&remembered, &id("a")).contains("merged"));
        assert!(duplicate_note(&remembered, &id("b")).contains("Nearly the same as b"));
    }
}
