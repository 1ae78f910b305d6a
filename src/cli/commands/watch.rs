//! `watch`: what is written, as it is acknowledged, in any process.

use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::session;
use crate::health::Attendant;

/// How long one look waits when there is no end.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv watch
  memento-kv watch --since 0 --count 100
  memento-kv watch | jq -r 'select(.kind == \"remembered\") | .memory.text'

Prints one JSON object a line: {\"seq\", \"kind\", \"id\", \"memory\"}, where kind is remembered, updated or
forgotten, and memory is null for the last. Every line is durable when it is printed. To go on where a
former watch ended, give the last seq that it printed with --since.")]
pub(crate) struct WatchArgs {
    /// Begin with what was written after this sequence; by default with what is written from now on
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// End after so many changes
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End when so much time is over
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
}

pub(crate) fn run(args: &WatchArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (home, store) = session::open_existing(context)?;
    // It may have the store for days.
    let attendant = Attendant::of(&home)?;
    let deadline = args.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
    let mut watch = store.watch(args.since)?;
    let mut left = args.count;
    while left != Some(0) {
        let wait =
            deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(Instant::now()).min(LOOK));
        match watch.next_within(wait)? {
            Some(change) => {
                context.out.print_json_line(&change)?;
                left = left.map(|left| left - 1);
            }
            None if deadline.is_some_and(|deadline| Instant::now() >= deadline) => break,
            None => {}
        }
    }
    drop((watch, attendant));
    session::close(context, store);
    Ok(())
}
