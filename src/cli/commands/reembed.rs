//! `reembed`: makes the vectors that are due, or moves the store to another model.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};
use crate::{Embedded, Error, ErrorKind, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv reembed
  memento-kv reembed --model fastembed:BGESmallENV15

It can be stopped at any time and goes on where it was. Until it is done, the store keeps the former model.")]
pub(crate) struct ReembedArgs {
    /// The model to move to, as `model list` shows it, or dir:/path
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

pub(crate) fn run(args: &ReembedArgs, context: &Context<'_>) -> Result<(), Failure> {
    let model = args.model.as_deref().map(str::parse).transpose()?;
    let (_, store) = session::open_existing(context)?;
    let embedded = {
        let bar = Bar::new(context.out, "making vectors", Unit::Count);
        store.reembed(model.as_ref(), &mut bar.listener())?
    };
    let told = tell(embedded, context);
    session::close(context, store);
    told?;
    failed(embedded)
}

fn tell(embedded: Embedded, context: &Context<'_>) -> Result<(), Failure> {
    if context.out.json {
        return context.out.print_json(&embedded);
    }
    context.out.print_line(&format!("{} made", text::count(embedded.embedded, "vector", "vectors")))
}

/// Memories that could not be embedded are not lost, but the work is not done either.
fn failed(embedded: Embedded) -> Result<(), Failure> {
    if embedded.failed == 0 {
        return Ok(());
    }
    let what = text::count(embedded.failed, "memory has", "memories have");
    Err(Error::new(ErrorKind::Model, format!("{what} no vector, because embedding failed"))
        .hint("they are found by words; `MEMENTO_LOG=warn memento-kv reembed` says why")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_embedding_is_an_error_of_the_model() {
        let embedded = Embedded { embedded: 3, failed: 1 };
        let Err(Failure::Error(error)) = failed(embedded) else { panic!("an error") };
        assert_eq!(error.kind(), ErrorKind::Model);
        assert_eq!(error.message(), "1 memory has no vector, because embedding failed");
        assert!(failed(Embedded { embedded: 3, failed: 0 }).is_ok());
    }
}
