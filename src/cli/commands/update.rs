//! `update`: changes one memory.

use anstyle::AnsiColor;
use clap::Args;
use serde_json::Value;

use super::remember::metadata;
use crate::cli::args::clean_tags;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::{input, session};
use crate::time::parse_time;
use crate::{MemoryId, Result, Update, Updated};

#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("change").required(true).multiple(true).args([
        "text", "importance", "tags", "add_tags", "remove_tags", "collection", "source", "session", "meta",
        "unset_meta", "at",
    ]),
    after_help = "\
Examples:
  memento-kv update 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A -i 0.9 --add-tags decision
  memento-kv update 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A --text \"Approved RFC-002\" --meta round=2

What is not named stays. The former version stays in the log.")]
pub(crate) struct UpdateArgs {
    /// The id, in full
    id: String,
    /// A new text; - reads standard input
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// A new importance, 0 to 1
    #[arg(long, short, value_name = "0..1", allow_negative_numbers = true)]
    importance: Option<f64>,
    /// These tags instead of the former ones; an empty text takes all away
    #[arg(long, short, value_delimiter = ',')]
    tags: Option<Vec<String>>,
    /// These tags beside the others
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    add_tags: Vec<String>,
    /// Not these tags any more
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    remove_tags: Vec<String>,
    /// A new collection
    #[arg(long, short)]
    collection: Option<String>,
    /// A new source
    #[arg(long)]
    source: Option<String>,
    /// A new session
    #[arg(long)]
    session: Option<String>,
    /// One entry of metadata; KEY:=JSON for what is not text. May be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// An entry of metadata to take away. May be repeated
    #[arg(long, value_name = "KEY")]
    unset_meta: Vec<String>,
    /// A new time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Store it although a password, a key or a token is found in it
    #[arg(long)]
    allow_secrets: bool,
}

pub(crate) fn run(args: UpdateArgs, context: &Context<'_>) -> Result<(), Failure> {
    let id = MemoryId::new(args.id.as_str())?;
    let update = args.into_update(context)?;
    let (_, store) = session::open_existing(context)?;
    let updated = store.update(&id, update)?;
    let told = tell(&updated, context);
    session::close(context, store);
    told
}

impl UpdateArgs {
    fn into_update(self, context: &Context<'_>) -> Result<Update> {
        let mut update =
            Update::new().add_tags(clean_tags(self.add_tags)).remove_tags(clean_tags(self.remove_tags));
        update = update.allow_secrets(self.allow_secrets);
        if let Some(tags) = self.tags {
            update = update.tags(clean_tags(tags));
        }
        for (key, value) in metadata(&self.meta)? {
            update = update.meta(key, value);
        }
        for key in self.unset_meta {
            update = update.meta(key, Value::Null);
        }
        if let Some(at) = self.at {
            update = update.at(parse_time(&at, context.now_ms)?);
        }
        if let Some(importance) = self.importance {
            update = update.importance(importance);
        }
        if let Some(collection) = self.collection {
            update = update.collection(collection);
        }
        if let Some(source) = self.source {
            update = update.source(source);
        }
        if let Some(session) = self.session {
            update = update.session(session);
        }
        if let Some(text) = self.text {
            update = update.text(input::text(&[text], context.out)?);
        }
        Ok(update)
    }
}

fn tell(updated: &Updated, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        return out.print_json(updated);
    }
    if !out.terminal {
        return out.print_line(updated.id.as_str());
    }
    let mark = out.paint(AnsiColor::Green.on_default(), "✓");
    let what = if updated.changed { "Updated" } else { "Nothing was different" };
    out.print_line(&format!("{mark} {what}: {}", updated.id))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command, Global};
    use crate::cli::output::Output;

    fn parse(args: &[&str]) -> Result<UpdateArgs, clap::error::ErrorKind> {
        let cli = Cli::try_parse_from(args).map_err(|error| error.kind())?;
        let Some(Command::Update(args)) = cli.command else { panic!("an update") };
        Ok(args)
    }

    #[test]
    fn an_update_without_a_change_is_wrong_usage() {
        let error = parse(&["m", "update", "x"]).expect_err("no change");
        assert_eq!(error, clap::error::ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn every_change_reaches_the_store() {
        let args = parse(&[
            "m",
            "update",
            "x",
            "--text",
            "- new",
            "-i",
            "0.25",
            "-t",
            "a, b",
            "--add-tags",
            "c",
            "--remove-tags",
            "d",
            "-c",
            "col",
            "--source",
            "so",
            "--session",
            "se",
            "--meta",
            "k:=1",
            "--unset-meta",
            "gone",
            "--at",
            "@5",
        ])
        .expect("all options");
        let out = Output::pipe();
        let update = args.into_update(&Context::new(Global::default(), &out)).expect("good values");
        assert_eq!(update.text.as_deref(), Some("- new"));
        assert_eq!((update.importance, update.timestamp), (Some(0.25), Some(5)));
        assert_eq!(update.tags.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!((update.add_tags, update.remove_tags), (vec!["c".to_owned()], vec!["d".to_owned()]));
        assert_eq!(update.collection.as_deref(), Some("col"));
        assert_eq!((update.source.as_deref(), update.session_id.as_deref()), (Some("so"), Some("se")));
        assert_eq!(Value::Object(update.metadata), serde_json::json!({"k": 1, "gone": null}));
    }

    #[test]
    fn all_tags_can_be_taken_away() {
        let args = parse(&["m", "update", "x", "-t", ""]).expect("an empty text");
        let out = Output::pipe();
        let update = args.into_update(&Context::new(Global::default(), &out)).expect("good values");
        assert_eq!(update.tags, Some(Vec::new()));
    }
}
