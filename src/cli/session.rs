//! From the global options to an open store.

use super::context::Context;
use super::logging;
use crate::config::RemarkKind;
use crate::home::{Home, HomeInputs, locate};
use crate::{Error, ErrorKind, Options, Result, Store};

/// Names by which the original and its documents call the model that is built in.
const BUILTIN_NAMES: [&str; 2] = ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"];

/// Finds the home and its configuration, and warns of what in it has no effect.
pub(crate) fn home(context: &Context<'_>) -> Result<Home> {
    let home = locate(&HomeInputs::of_process(context.global.home.clone()))?;
    if home.config.debug {
        logging::start_debug();
    }
    for remark in home.config.remarks() {
        // What the original had and nobody needs here is no reason to bother at every call; `where` tells it.
        if !matches!(remark.kind, RemarkKind::Ignored(_)) {
            context.out.warn(&remark.to_string());
        }
    }
    Ok(home)
}

/// How the store of this home is opened.
pub(crate) fn options(home: &Home) -> Options {
    Options::at(&home.path).model(model_spec(&home.config.embed.model)).background_embedding(false)
}

/// Opens the store, which is made when it is not there.
pub(crate) fn open(context: &Context<'_>) -> Result<(Home, Store)> {
    let home = home(context)?;
    let store = Store::open(options(&home))?;
    Ok((home, store))
}

/// Opens a store that must be there.
pub(crate) fn open_existing(context: &Context<'_>) -> Result<(Home, Store)> {
    let home = home(context)?;
    let store = Store::open(options(&home).create(false)).map_err(|error| match error.hint_text() {
        None if error.kind() == ErrorKind::NotFound => error.hint(NO_STORE_HINT),
        _ => error,
    })?;
    Ok((home, store))
}

/// Opens the store for a question that has an answer without one: nothing is known yet. None is told to the person,
/// because it may also be the wrong home.
pub(crate) fn open_if_any(context: &Context<'_>) -> Result<(Home, Option<Store>)> {
    let home = home(context)?;
    match Store::open(options(&home).create(false)) {
        Ok(store) => Ok((home, Some(store))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            context.out.warn(&format!("nothing is remembered yet: {error}"));
            Ok((home, None))
        }
        Err(error) => Err(error),
    }
}

/// Lets go of the store. What was acknowledged is durable already, so trouble here is only a warning.
pub(crate) fn close(context: &Context<'_>, store: Store) {
    if let Err(error) = store.close() {
        context.out.warn(&format!("all memories are safe, but closing the store ended with: {error}"));
    }
}

/// The error of an id that no memory has.
pub(crate) fn no_such_memory(ids: &[&str]) -> Error {
    let message = match ids {
        [id] => format!("no memory has the id {id}"),
        many => format!("no memories have the ids {}", many.join(", ")),
    };
    Error::new(ErrorKind::NotFound, message)
        .hint("`memento-kv list` and `memento-kv recall` show ids; they are used in full")
}

const NO_STORE_HINT: &str = "`memento-kv where` says why this home is used; `memento-kv remember` makes a store";

/// A configured model as the store knows it.
pub(crate) fn model_spec(configured: &str) -> &str {
    if BUILTIN_NAMES.contains(&configured) { "builtin:minilm-l6" } else { configured }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_original_model_is_the_built_in_one() {
        assert_eq!(model_spec("sentence-transformers/all-MiniLM-L6-v2"), "builtin:minilm-l6");
        assert_eq!(model_spec("fastembed:BGESmallENV15"), "fastembed:BGESmallENV15");
    }

    #[test]
    fn missing_ids_are_all_named() {
        assert_eq!(no_such_memory(&["a"]).message(), "no memory has the id a");
        assert_eq!(no_such_memory(&["a", "b"]).message(), "no memories have the ids a, b");
        assert_eq!(no_such_memory(&["a"]).kind(), ErrorKind::NotFound);
    }
}
