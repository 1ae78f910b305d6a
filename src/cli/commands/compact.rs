//! `compact`: leaves out of the log what nothing needs.

use crate::Compacted;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open_existing(context)?;
    let bar = Bar::new(context.out, "compacting", Unit::Bytes);
    let compacted = store.compact(&mut bar.listener())?;
    drop(bar);
    session::close(context, store);
    if context.out.json { context.out.print_json(&compacted) } else { context.out.print(&pretty(&compacted)) }
}

fn pretty(compacted: &Compacted) -> String {
    let Compacted { segments, records, bytes_before, bytes_after, .. } = *compacted;
    if records == 0 {
        return format!("nothing to leave out: the log has {}\n", text::bytes(bytes_after));
    }
    format!(
        "{} rewritten, {} left out: the log has {} (before {})\n",
        text::count(segments, "segment", "segments"),
        text::count(records, "record", "records"),
        text::bytes(bytes_after),
        text::bytes(bytes_before)
    )
}
