//! `forget`: takes memories away for good.

use anstyle::AnsiColor;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::session;
use crate::{Forgotten, MemoryId, Result, Store};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv forget 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A
  memento-kv list -t scratch --json | jq -r '.[].id' | xargs memento-kv forget
  memento-kv forget --purge 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A

What is forgotten never comes back; its bytes stay in the log until that is compacted. --purge takes
them out of every file of the store at once, also those of memories that were forgotten before, and
names backups that still have them.

Ends with 1 when one of the ids is not there; the others are forgotten.")]
pub(crate) struct ForgetArgs {
    /// The ids, in full
    #[arg(required = true)]
    ids: Vec<String>,
    /// Take the bytes of the memories out of every file of the store
    #[arg(long)]
    purge: bool,
}

pub(crate) fn run(args: &ForgetArgs, context: &Context<'_>) -> Result<(), Failure> {
    let ids = args.ids.iter().map(|id| MemoryId::new(id.as_str())).collect::<Result<Vec<_>>>()?;
    let (_, store) = session::open_existing(context)?;
    if args.purge {
        return purge(&ids, context, store);
    }
    let forgotten = store.forget(&ids)?;
    let told = tell(&forgotten, context);
    session::close(context, store);
    told?;
    if forgotten.missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = forgotten.missing.iter().map(MemoryId::as_str).collect();
    Err(session::no_such_memory(&missing).into())
}

fn purge(ids: &[MemoryId], context: &Context<'_>, store: Store) -> Result<(), Failure> {
    let bar = Bar::new(context.out, "purging", Unit::Bytes);
    let purged = store.purge(ids, &mut bar.listener())?;
    drop(bar);
    session::close(context, store);
    for file in &purged.still_in {
        context
            .out
            .warn(&format!("{file} still has the text: it is not part of the store, remove it yourself"));
    }
    if context.out.json {
        context.out.print_json(&purged)?;
    } else {
        context.out.print(&lines(&purged.purged, "Purged", context))?;
    }
    if purged.missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = purged.missing.iter().map(MemoryId::as_str).collect();
    Err(session::no_such_memory(&missing).into())
}

fn tell(forgotten: &Forgotten, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        return out.print_json(forgotten);
    }
    out.print(&lines(&forgotten.forgotten, "Forgotten", context))
}

fn lines(ids: &[MemoryId], done: &str, context: &Context<'_>) -> String {
    let out = context.out;
    let mark = if out.terminal {
        format!("{} {done}: ", out.paint(AnsiColor::Green.on_default(), "✓"))
    } else {
        String::new()
    };
    ids.iter().map(|id| format!("{mark}{id}\n")).collect()
}
