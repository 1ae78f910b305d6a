//! `diff`: what is different between two moments.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::{session, text};
use crate::{Changed, Moment};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv diff 1d
  memento-kv diff 2026-02-17 2026-02-18 --json

Moments of the last 7 days can be had, or as storage.history_days says.")]
pub(crate) struct DiffArgs {
    /// The first moment: 2026-02-17T12:30, Unix seconds, or an age such as 2h
    #[arg(allow_hyphen_values = true)]
    from: String,
    /// The second moment [default: now]
    #[arg(allow_hyphen_values = true)]
    to: Option<String>,
}

pub(crate) fn run(args: &DiffArgs, context: &Context<'_>) -> Result<(), Failure> {
    let from = session::moment(context, &args.from)?;
    let to = args.to.as_deref().map_or(Ok(Moment::Now), |to| session::moment(context, to))?;
    let (_, store) = session::open_existing(context)?;
    let changed = store.diff(from, to);
    session::close(context, store);
    let changed = changed?;
    if context.out.json { context.out.print_json(&changed) } else { context.out.print(&pretty(&changed)) }
}

fn pretty(changed: &Changed) -> String {
    let mut lines = Vec::new();
    for (sign, ids) in [("+", &changed.added_ids), ("~", &changed.changed_ids), ("-", &changed.forgotten_ids)]
    {
        lines.extend(ids.iter().map(|id| format!("{sign} {id}")));
    }
    let count = |count| text::count(count, "memory", "memories");
    lines.push(format!(
        "{} added, {} changed, {} forgotten",
        count(changed.added),
        changed.changed,
        changed.forgotten
    ));
    format!("{}\n", lines.join("\n"))
}
