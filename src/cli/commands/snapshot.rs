//! `snapshot`: brings `memory.db` up to date.

use crate::PublishKind;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open_existing(context)?;
    let bar = Bar::new(context.out, "writing memory.db", Unit::Count);
    let published = store.snapshot(&mut bar.listener());
    drop(bar);
    session::close(context, store);
    let published = published?;
    if context.out.json {
        return context.out.print_json(&published);
    }
    let how = match published.kind {
        PublishKind::Unchanged => "was up to date",
        PublishKind::Changes => "is up to date",
        _ => "was written",
    };
    let memories = text::count(published.memories, "memory", "memories");
    context.out.print_line(&format!("{} {how}: {memories}", published.path.display()))
}
