//! `captured`: what auto-memory has stored, to be reviewed.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::capture::{Decisions, Verdict};
use crate::cli::args::FilterArgs;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::{session, text};
use crate::{Error, ErrorKind, List, Memory, MemoryId, Order, Result, Store};

/// Memories that are forgotten at once.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv captured list --session monday
  memento-kv captured forget --session monday
  memento-kv captured keep 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A
  memento-kv captured decisions --reset

Keeping and forgetting moves the threshold of later captures a little. `decisions` shows how far, and
--reset takes it all back. Memories that were not captured are never touched.")]
pub(crate) struct CapturedArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what was captured, the newest first
    List {
        /// At most this many
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        filter: Box<FilterArgs>,
    },
    /// Say of captured memories that they were worth it
    Keep {
        /// The ids, in full
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Forget captured memories, by id or all that a filter lets through
    Forget {
        /// The ids, in full
        ids: Vec<String>,
        /// All that was ever captured
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        filter: Box<FilterArgs>,
    },
    /// Show what keeping and forgetting has done to the threshold
    Decisions {
        /// Take all of it back
        #[arg(long)]
        reset: bool,
    },
}

pub(crate) fn run(args: CapturedArgs, context: &Context<'_>) -> Result<(), Failure> {
    match args.action {
        Action::List { limit, filter } => list(limit, *filter, context),
        Action::Keep { ids } => keep(&ids, context),
        Action::Forget { ids, all, filter } => forget(&ids, all, *filter, context),
        Action::Decisions { reset } => decisions(reset, context),
    }
}

fn list(limit: usize, filter: FilterArgs, context: &Context<'_>) -> Result<(), Failure> {
    let filter = filter.captured().0.filter(context.now_ms)?;
    let (_, store) = session::open_if_any(context)?;
    let memories = match &store {
        Some(store) => store.list(&List::new().filter(filter).order(Order::Newest).limit(limit))?,
        None => Vec::new(),
    };
    if let Some(store) = store {
        session::close(context, store);
    }
    let out = context.out;
    if out.json {
        return out.print_json(&memories);
    }
    for memory in &memories {
        let about = &memory.metadata["capture"];
        let kind = about["kind"].as_str().unwrap_or("-");
        let score = about["score"].as_f64().unwrap_or(0.0);
        let line = text::line(&memory.text).into_owned();
        out.print_line(&format!("{}  {kind:<10} {score:.2}  {:.2}  {line}", memory.id, memory.importance))?;
    }
    Ok(())
}

fn keep(ids: &[String], context: &Context<'_>) -> Result<(), Failure> {
    let (home, store) = session::open_existing(context)?;
    let known = known(&store, ids)?;
    session::close(context, store);
    let mut decisions = Decisions::of(&home.path)?;
    for memory in &known {
        decisions.record(memory.id.as_str(), Verdict::Keep, context.now())?;
    }
    tell(&known.iter().map(|memory| memory.id.clone()).collect::<Vec<_>>(), "kept", context)
}

fn forget(ids: &[String], all: bool, filter: FilterArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (filter, is_narrow) = filter.captured();
    if ids.is_empty() && !all && !is_narrow {
        return Err(Error::new(
            ErrorKind::Invalid,
            "nothing says which captured memories are to be forgotten",
        )
        .hint("name ids, give a filter such as --session NAME, or --all")
        .into());
    }
    let filter = filter.filter(context.now_ms)?;
    let (home, store) = session::open_existing(context)?;
    let mut forgotten: Vec<MemoryId> = Vec::new();
    let mut decisions = Decisions::of(&home.path)?;
    let mut forget_these = |memories: &[Memory]| -> Result<()> {
        let gone = store.forget(memories.iter().map(|memory| memory.id.as_str()))?.forgotten;
        for id in &gone {
            decisions.record(id.as_str(), Verdict::Forget, context.now())?;
        }
        forgotten.extend(gone);
        Ok(())
    };
    if ids.is_empty() {
        loop {
            let page = store.list(&List::new().filter(filter.clone()).limit(PAGE))?;
            if page.is_empty() {
                break;
            }
            forget_these(&page)?;
        }
    } else {
        forget_these(&known(&store, ids)?)?;
    }
    session::close(context, store);
    tell(&forgotten, "forgotten", context)
}

fn decisions(reset: bool, context: &Context<'_>) -> Result<(), Failure> {
    let home = session::home(context)?;
    let mut decisions = Decisions::of(&home.path)?;
    if reset {
        decisions.reset()?;
    }
    let (kept, forgotten) = decisions.counts();
    let base = home.config.capture.threshold;
    let threshold = decisions.shifted(base);
    if context.out.json {
        let answer =
            json!({"kept": kept, "forgotten": forgotten, "configured": base, "threshold": threshold});
        return context.out.print_json(&answer);
    }
    context.out.print_line(&format!(
        "{kept} kept, {forgotten} forgotten; threshold {threshold:.3}, configured {base:.3}"
    ))
}

/// The captured memories of these ids.
fn known(store: &Store, ids: &[String]) -> Result<Vec<Memory>> {
    let mut known = Vec::new();
    let mut missing = Vec::new();
    for id in ids {
        match store.get(id)? {
            Some(memory) if memory.metadata.contains_key("capture") => known.push(memory),
            Some(_) => {
                return Err(Error::new(ErrorKind::Invalid, format!("{id} was not captured"))
                    .hint("`memento-kv forget` forgets any memory"));
            }
            None => missing.push(id.as_str()),
        }
    }
    if missing.is_empty() { Ok(known) } else { Err(session::no_such_memory(&missing)) }
}

fn tell(ids: &[MemoryId], done: &str, context: &Context<'_>) -> Result<(), Failure> {
    if context.out.json {
        return context.out.print_json(&json!({ done: ids }));
    }
    context.out.print_line(&format!("{} {done}", text::count(ids.len() as u64, "memory", "memories")))
}
