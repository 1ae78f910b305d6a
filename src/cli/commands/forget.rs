//! `forget`: takes memories away for good.

use anstyle::AnsiColor;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::session;
use crate::{Forgotten, MemoryId, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv forget 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A
  memento-kv list -t scratch --json | jq -r '.[].id' | xargs memento-kv forget

Ends with 1 when one of the ids is not there; the others are forgotten.")]
pub(crate) struct ForgetArgs {
    /// The ids, in full
    #[arg(required = true)]
    ids: Vec<String>,
}

pub(crate) fn run(args: &ForgetArgs, context: &Context<'_>) -> Result<(), Failure> {
    let ids = args.ids.iter().map(|id| MemoryId::new(id.as_str())).collect::<Result<Vec<_>>>()?;
    let (_, store) = session::open_existing(context)?;
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

fn tell(forgotten: &Forgotten, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        return out.print_json(forgotten);
    }
    let mark = if out.terminal {
        format!("{} Forgotten: ", out.paint(AnsiColor::Green.on_default(), "✓"))
    } else {
        String::new()
    };
    out.print(&forgotten.forgotten.iter().map(|id| format!("{mark}{id}\n")).collect::<String>())
}
