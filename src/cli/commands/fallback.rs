//! What happens with a memory that the store cannot take: it is spooled.

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::home::Home;
use crate::spool::{self, Spool};
use crate::{Durability, Error, ErrorKind, Remember};

/// Whether an error says that the store cannot be written now, rather than that the memory or the home is wrong. After
/// [`ErrorKind::CommitUnknown`] the memory may be there, and spooling would store it twice.
pub(super) fn is_spoolable(error: &Error, context: &Context<'_>) -> bool {
    // A store that may not be opened by this user is a mistake to be told, and so is a home that is no folder.
    let may_pass = matches!(
        error.kind(),
        ErrorKind::NoSpace
            | ErrorKind::Io
            | ErrorKind::Busy
            | ErrorKind::OwnerUnresponsive
            | ErrorKind::VersionSkew
            | ErrorKind::Corrupt
            | ErrorKind::Poisoned
            | ErrorKind::ReadOnly
    );
    // What may be there already would be there twice.
    may_pass && error.durability() == Durability::NotWritten && !context.global.read_only
}

/// Spools the memory because of this error, and says so; the error itself when it cannot be spooled.
pub(super) fn spool(
    context: &Context<'_>,
    home: &Home,
    remember: &Remember,
    error: Error,
) -> Result<(), Failure> {
    if !is_spoolable(&error, context) {
        return Err(error.into());
    }
    let Ok(spooled) = Spool::of(&home.path).append(remember) else { return Err(error.into()) };
    let kind = error.kind().name();
    spool::journal(&home.path, context.now_ms, &format!("spooled id={} reason={kind}", spooled.id));
    context.out.warn(&format!(
        "the store cannot be written ({error}); the memory is kept in {} and comes into the store as soon as that works{}",
        spooled.path.display(),
        error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default()
    ));
    if context.out.json {
        return context.out.print_json(&json!({
            "id": spooled.id,
            "spooled": true,
            "path": spooled.path.display().to_string(),
            "reason": kind,
        }));
    }
    context.out.print_line(spooled.id.as_str())
}
