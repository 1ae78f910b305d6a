//! The store itself, opened for reading only, and its model.

use std::time::Duration;

use super::{Examination, count};
use crate::error::ErrorKind;
use crate::home::Home;
use crate::share::Store;
use crate::store::Options;

/// Opens the store, if it opens, and tells what it says of itself.
pub(super) fn look(found: &mut Examination, home: &Home) {
    // A model that the configuration does not name right is told where the configuration is.
    let options = Options::of(home).unwrap_or_else(|_| Options::at(&home.path));
    let options =
        options.read_only(true).create(false).publish(false).background_embedding(false).query_cache(false);
    let store = match Store::open(options.lock_wait(Duration::ZERO)) {
        Ok(store) => store,
        Err(error) => {
            match error.kind() {
                // Somebody works with it.
                ErrorKind::Busy => found.ok("store", format!("{error}; what is in it was not looked at")),
                ErrorKind::OwnerUnresponsive | ErrorKind::VersionSkew => {
                    let hint = error.hint_text().unwrap_or("memento-kv check --files").to_owned();
                    found.bad("store", error.to_string(), hint);
                }
                ErrorKind::NotFound => {
                    found.warn("store", "there is none yet", "memento-kv remember \"the first memory\"");
                }
                ErrorKind::Gone => found.bad("store", error.to_string(), "memento-kv health"),
                ErrorKind::UnknownFormat => {
                    found.bad("store", format!("it does not open: {error}"), "cargo install memento-kv");
                }
                ErrorKind::Permission => {
                    found.bad("store", format!("it does not open: {error}"), mend_permission(home))
                }
                _ => found.bad("store", format!("it does not open: {error}"), "memento-kv check --repair"),
            }
            return;
        }
    };
    for healed in store.healed() {
        found.warn(
            "store",
            format!("{} is damaged: {}", healed.file, healed.detail),
            "memento-kv check --repair",
        );
    }
    match store.stats() {
        Ok(stats) => {
            found.ok_unless_told(
                "store",
                format!("it opens, with {}", count(stats.memories, "memory", "memories")),
            );
            model(found, home, &stats);
        }
        Err(error) => found.bad("store", format!("it opens, but {error}"), "memento-kv check --repair"),
    }
    if let Err(error) = store.close() {
        found.warn("store", format!("closing it ended with: {error}"), "memento-kv check");
    }
}

fn mend_permission(home: &Home) -> String {
    // Either others may reach it, or its owner may not.
    format!("chmod -R u+rwX,go-rwx {}", super::word(&home.path))
}

fn model(found: &mut Examination, home: &Home, stats: &crate::store::Stats) {
    let name = stats.model.as_ref().map(|model| model.name.as_str());
    if let Some(problem) = &stats.model_problem {
        let what = format!("{problem}; recall goes on by words alone");
        let command =
            name.map_or("memento-kv model list".to_owned(), |name| format!("memento-kv model pull {name}"));
        found.bad("model", what, command);
        return;
    }
    if stats.pending > 0 {
        let what = format!(
            "{} without a vector yet, found by words alone",
            count(stats.pending, "memory", "memories")
        );
        found.warn("model", what, "memento-kv reembed");
    }
    if let (Some(name), Ok(configured)) = (name, home.model())
        && name != configured.to_string()
        && home.config.origin("embed.model") != &crate::config::Origin::Default
        && !is_same_model(name, &configured.to_string())
    {
        found.warn(
            "model",
            format!("the store's vectors are of {name}, the configuration names {configured} for new stores"),
            format!("memento-kv reembed --model {configured}"),
        );
    }
    found.ok_unless_told(
        "model",
        name.map_or("none is needed yet".to_owned(), |name| format!("{name} is there")),
    );
}

/// Whether two names are of the model that is built in.
fn is_same_model(name: &str, configured: &str) -> bool {
    let is_built_in =
        |name: &str| name.to_ascii_lowercase().contains("minilm-l6") && !name.starts_with("fastembed:");
    is_built_in(name) && is_built_in(configured)
}
