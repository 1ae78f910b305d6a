//! `get`: one memory by its id.

use clap::Args;

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::{session, table};
use crate::{Memory, MemoryId, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv get 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A
  memento-kv get 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A -f text > note.txt

Ends with 1 when no memory has this id. -f text gives the text byte for byte.")]
pub(crate) struct GetArgs {
    /// The id, in full
    id: String,
    /// How the answer is printed [default: table on a terminal, json in a pipe]
    #[arg(long, short, value_enum)]
    format: Option<Format>,
}

pub(crate) fn run(args: &GetArgs, context: &Context<'_>) -> Result<(), Failure> {
    let id = MemoryId::new(args.id.as_str())?;
    let (_, store) = session::open_existing(context)?;
    let memory = store.get(&id)?.ok_or_else(|| session::no_such_memory(&[id.as_str()]))?;
    let told = tell(&memory, args.format, context);
    session::close(context, store);
    told
}

fn tell(memory: &Memory, format: Option<Format>, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        return out.print_json(memory);
    }
    match format.unwrap_or(if out.terminal { Format::Table } else { Format::Json }) {
        Format::Table => out.print(&table::memory(out, memory, context.now())),
        Format::Json => out.print_indented(memory),
        Format::Text if out.terminal => out.print_line(&out.block(&memory.text)),
        Format::Text => out.print(&memory.text),
    }
}
