//! `reindex`: the vector index holds everything, or is made anew.

use clap::Args;

use crate::IndexStats;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv reindex
  memento-kv reindex --full --json

The index follows the store by itself. This says when it holds everything, for instance after a
large import. An interruption costs only the work.")]
pub(crate) struct ReindexArgs {
    /// Make all of it anew, graph included
    #[arg(long)]
    full: bool,
}

pub(crate) fn run(args: &ReindexArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open_existing(context)?;
    let bar = Bar::new(context.out, "indexing vectors", Unit::Count);
    store.build_index(args.full, &mut bar.listener())?;
    drop(bar);
    let index = store.stats()?.index;
    session::close(context, store);
    if context.out.json { context.out.print_json(&index) } else { context.out.print(&pretty(&index)) }
}

fn pretty(index: &IndexStats) -> String {
    if index.rows == 0 {
        return "no memory has a vector yet; `memento-kv reembed` makes them\n".to_owned();
    }
    format!(
        "{} in the index, {} ({})\n",
        text::count(index.rows, "vector", "vectors"),
        text::index_kind(index.graph),
        text::bytes(index.bytes)
    )
}
