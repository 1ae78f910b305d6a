//! From the global options to an open store.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::logging;
use crate::config::RemarkKind;
use crate::home::{Home, HomeInputs, locate};
use crate::spool::{self, Spool};
use crate::time::parse_time;
use crate::{
    Error, ErrorKind, Healed, Moment, Options, RestorePoint, Result, Store, TakenOver, TakenOverKind,
};

/// Finds the home and its configuration, and warns of what in it has no effect.
/// The folder of the home, where there is one: what is on its way into the store is nobody else's business either.
pub(crate) fn home_folder(context: &Context<'_>) -> Option<PathBuf> {
    let home = locate(&HomeInputs::of_process(context.global.home.clone())).ok()?;
    home.path.is_dir().then_some(home.path)
}

pub(crate) fn home(context: &Context<'_>) -> Result<Home> {
    let home = locate(&HomeInputs::of_process(context.global.home.clone()))?;
    if home.config.debug {
        logging::start_debug();
    }
    tracing::debug!(home = %home, "found the home");
    for remark in home.config.remarks() {
        // What the original had and nobody needs here is no reason to bother at every call; `where` tells it.
        if !matches!(remark.kind, RemarkKind::Ignored(_)) {
            context.out.warn(&remark.to_string());
        }
    }
    Ok(home)
}

/// How the store of this home is opened. A program that ends soon makes vectors when it is asked to, not behind the
/// calls.
pub(crate) fn options(context: &Context<'_>, home: &Home) -> Result<Options> {
    // Whoever only reads may read what is sound of a store that is not: nothing on the disk is given up by that, and what
    // is missing is told.
    let only_reads = context.global.read_only;
    Ok(quiet_options(home)?.read_only(only_reads).salvage(only_reads))
}

fn quiet_options(home: &Home) -> Result<Options> {
    Ok(Options::of(home)?.background_embedding(false))
}

/// How a store is looked at that nobody asked to change.
pub(crate) fn looking(home: &Home) -> Result<Options> {
    Ok(quiet_options(home)?.read_only(true).create(false))
}

/// Opens a store and tells the person what was healed, or is not as usual.
fn opened(context: &Context<'_>, options: Options) -> Result<Store> {
    let store = Store::open(options)?;
    for healed in store.healed() {
        tell_healed(context, &healed);
    }
    for taken in store.taken_over() {
        tell_taken_over(context, &taken);
    }
    if store.is_read_only() && !context.global.read_only {
        context.out.warn("the medium cannot be written: the store is open for reading only");
    }
    if !store.is_read_only() {
        drain(context, &store);
    }
    Ok(store)
}

/// Tells what became of a `memory.db` that somebody has put there.
fn tell_taken_over(context: &Context<'_>, taken: &TakenOver) {
    let what = match taken.kind {
        TakenOverKind::Snapshot => {
            "an earlier snapshot was put in place of memory.db: the store went back to it"
        }
        TakenOverKind::Edited => "memory.db was changed by hand: the changes were taken over",
        TakenOverKind::OtherStore => "memory.db of another store was put here: its memories were added",
        TakenOverKind::Foreign => "another database was put in place of memory.db: its memories were added",
        _ => "memory.db cannot be used and was put away",
    };
    let TakenOver { added, changed, forgotten, .. } = taken;
    let mut message = format!("{what} ({added} added, {changed} changed, {forgotten} forgotten)");
    if !taken.detail.is_empty() {
        message.push_str(&format!("; {}", taken.detail));
    }
    if let Some(kept) = &taken.kept_as {
        message.push_str(&format!("; the file is kept as {kept}"));
    }
    if added + changed + forgotten > 0 {
        message.push_str("; `memento-kv restore --undo` takes it back");
    }
    context.out.warn(&message);
}

/// A line about a `memory.db` that was taken over once.
pub(crate) fn taken_over(point: &RestorePoint) -> (&'static str, String) {
    let (what, when) =
        (point.name.trim_start_matches("before "), super::text::local_time(point.at_ms / 1000));
    ("taken over", format!("{when}: {what}; `memento-kv restore --seq {}` goes back", point.seq))
}

/// Brings in what was spooled while the store could not be written.
fn drain(context: &Context<'_>, store: &Store) {
    let spool = Spool::of(store.home());
    if !spool.is_there() {
        return;
    }
    match spool.drain(store) {
        Ok(drained) => {
            spool::journal(
                store.home(),
                context.now_ms,
                &format!("drained stored={} damaged={}", drained.stored, drained.damaged),
            );
            if drained.stored > 0 {
                // They are safe, and found by words, whatever becomes of their vectors.
                let _ = store.embed_pending(&mut |_| {});
                let count = super::text::count(drained.stored, "spooled memory was", "spooled memories were");
                context.out.warn(&format!("{count} brought into the store"));
            }
            if drained.damaged > 0 {
                let count = super::text::count(drained.damaged, "line", "lines");
                context.out.warn(&format!("{count} of the spool file were damaged and are kept beside it"));
            }
        }
        Err(error) => context.out.warn(&format!("what was spooled stays in the spool file: {error}")),
    }
}

/// Tells what was healed, and where the damaged file is now.
pub(crate) fn tell_healed(context: &Context<'_>, healed: &Healed) {
    let kept = match healed.quarantined.as_slice() {
        [] => String::new(),
        files => format!("; the damaged file is kept as {}", files.join(", ")),
    };
    context.out.warn(&format!("healed {}: {}{kept}", healed.file, healed.detail));
}

/// Opens the store, which is made when it is not there.
pub(crate) fn open(context: &Context<'_>) -> Result<(Home, Store)> {
    let home = home(context)?;
    let store = open_in(context, &home)?;
    Ok((home, store))
}

/// As [`open`], in a home that was found already.
pub(crate) fn open_in(context: &Context<'_>, home: &Home) -> Result<Store> {
    offer_import(context, home);
    opened(context, options(context, home)?)
}

/// As [`open`], for whoever imports already. With a folder, no store is made: an empty one in that folder is opened
/// when there is none.
pub(crate) fn open_for_import(context: &Context<'_>, nowhere: Option<&Path>) -> Result<Store> {
    let home = home(context)?;
    match nowhere {
        Some(folder) if !home.has_store() => Store::open(Options::at(folder).background_embedding(false)),
        _ => opened(context, options(context, &home)?),
    }
}

/// Before a store is made: tells where the original left memories, and how they come in. Nothing comes in by itself.
fn offer_import(context: &Context<'_>, home: &Home) {
    if let Some(offer) = import_offer(home) {
        context.out.note(&offer);
    }
}

fn import_offer(home: &Home) -> Option<String> {
    // The one in the place of this home's own `memory.db` is taken over by the open, which tells it.
    let legacy: Vec<&PathBuf> = home.legacy.iter().filter(|path| **path != home.db_path).collect();
    let (first, others) = legacy.split_first().filter(|_| !home.has_store())?;
    let places = match others.len() {
        0 => shown(first),
        _ => format!(
            "{} (and {})",
            shown(first),
            others.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ")
        ),
    };
    Some(format!(
        "found memories of the original Memento in {places}; `memento-kv import {}` brings them in",
        shown(first)
    ))
}

/// A path as a person may type it: with `~`, unless that needs quotes.
fn shown(path: &Path) -> String {
    let short = std::env::home_dir().filter(|home| home.parent().is_some());
    match short.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

/// Opens a store that must be there.
pub(crate) fn open_existing(context: &Context<'_>) -> Result<(Home, Store)> {
    let home = home(context)?;
    let store = open_existing_in(context, &home)?;
    Ok((home, store))
}

/// As [`open_existing`], in a home that was found already.
pub(crate) fn open_existing_in(context: &Context<'_>, home: &Home) -> Result<Store> {
    offer_import(context, home);
    opened(context, options(context, home)?.create(false)).map_err(|error| match error.hint_text() {
        None if error.kind() == ErrorKind::NotFound => error.hint(NO_STORE_HINT),
        _ => error,
    })
}

/// Opens the store for a question that has an answer without one: nothing is known yet. None is told to the person,
/// because it may also be the wrong home.
pub(crate) fn open_if_any(context: &Context<'_>) -> Result<(Home, Option<Store>)> {
    let home = home(context)?;
    offer_import(context, &home);
    match opened(context, options(context, &home)?.create(false)) {
        Ok(store) => Ok((home, Some(store))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            context.out.warn(&format!("nothing is remembered yet: {error}"));
            Ok((home, None))
        }
        Err(error) => Err(error),
    }
}

/// A moment of the store as people write it; the whole second counts.
pub(crate) fn moment(context: &Context<'_>, time: &str) -> Result<Moment> {
    let seconds = parse_time(time, context.now_ms)?;
    Ok(Moment::At(seconds.saturating_mul(1000).saturating_add(999)))
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

const NO_STORE_HINT: &str =
    "`memento-kv where` says why this home is used; `memento-kv remember` makes a store";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_model_in_the_configuration_is_an_error_of_the_configuration() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("config.yaml"), "embed:\n  model: nonsense\n").expect("write");
        let home = locate(&HomeInputs::of_process(Some(folder.path().to_owned()))).expect("a home");
        let error = looking(&home).err().expect("no such model");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains("config.yaml, line 2"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("builtin:minilm-l6")), "{error}");
    }

    #[test]
    fn missing_ids_are_all_named() {
        assert_eq!(no_such_memory(&["a"]).message(), "no memory has the id a");
        assert_eq!(no_such_memory(&["a", "b"]).message(), "no memories have the ids a, b");
        assert_eq!(no_such_memory(&["a"]).kind(), ErrorKind::NotFound);
    }
}
