//! `list`: memories by time.

use clap::Args;

use crate::cli::args::{FilterArgs, Format};
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::session;
use crate::cli::table::{self, Line};
use crate::{List, Memory, Order, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv list -n 50
  memento-kv list -c infra --since 1w --oldest
  memento-kv list --json | jq -r '.[].id'")]
pub(crate) struct ListArgs {
    /// At most this many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, allow_negative_numbers = true)]
    limit: usize,
    /// Leave out this many at the beginning
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    offset: usize,
    /// The oldest first
    #[arg(long)]
    oldest: bool,
    /// How the answer is printed [default: table on a terminal, json in a pipe]
    #[arg(long, short, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

pub(crate) fn run(args: ListArgs, context: &Context<'_>) -> Result<(), Failure> {
    let format = args.format;
    let list = args.into_list(context)?;
    let (_, store) = session::open_if_any(context)?;
    let memories = match &store {
        Some(store) => store.list(&list)?,
        None => Vec::new(),
    };
    let told = tell(&memories, format, context);
    if let Some(store) = store {
        session::close(context, store);
    }
    told
}

impl ListArgs {
    fn into_list(self, context: &Context<'_>) -> Result<List> {
        let order = if self.oldest { Order::Oldest } else { Order::Newest };
        let filter = self.filter.filter(context.now_ms)?;
        Ok(List::new().filter(filter).order(order).limit(self.limit).offset(self.offset))
    }
}

fn tell(memories: &[Memory], format: Option<Format>, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        return out.print_json(memories);
    }
    match format.unwrap_or(if out.terminal { Format::Table } else { Format::Json }) {
        Format::Json => out.print_indented(memories),
        Format::Text => out.write_with(|to| {
            memories.iter().try_for_each(|memory| writeln!(to, "{}", out.block(&memory.text)))
        }),
        Format::Table if memories.is_empty() => out.print_line("No memories found."),
        Format::Table => {
            let lines = memories.iter().map(|memory| Line {
                lead: format!("{:.2}", memory.importance),
                memory,
                extra: None,
            });
            out.print(&table::memories(out, "Importance", context.now(), lines))
        }
    }
}
