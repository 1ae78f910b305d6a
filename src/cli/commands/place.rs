//! `where`: which home, configuration, model and owner are in use, and why.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::{session, table};
use crate::home::{Home, HomeInputs, locate};
use crate::{ErrorKind, RestorePoint, Result, Role, Sharing, Store};

#[derive(Debug, Serialize)]
struct Place {
    home: String,
    /// The rule that chose the home: `argument`, `environment`, `db_path` or `default`.
    rule: &'static str,
    why: String,
    /// `none` (not made yet), `free`, `owned` (another process owns and serves it), `busy` (another process holds it and
    /// serves nobody), `unresponsive` (its owner does not answer) or `unreadable`.
    store: &'static str,
    /// What another process, or the damage, said.
    problem: Option<String>,
    /// The model of the store; of a store that is not made yet, the one it would get.
    model: String,
    model_problem: Option<String>,
    models_dir: String,
    /// Where `memory.db` is published.
    db_path: String,
    /// Configuration files that were read, the strongest last.
    config_files: Vec<String>,
    remarks: Vec<String>,
    /// States before a `memory.db` was taken over that somebody had put there or changed, the newest first.
    taken_over: Vec<RestorePoint>,
    /// Databases of the original that are there.
    legacy: Vec<String>,
    /// Who owns the store and who asks it, when another process owns it.
    sharing: Option<Sharing>,
}

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    // Not `session::home`: remarks on the configuration are a part of this answer, not warnings.
    let home = locate(&HomeInputs::of_process(context.global.home.clone()))?;
    let place = place(&home)?;
    if context.out.json {
        context.out.print_json(&place)
    } else {
        context.out.print(&pretty(&place, context.out))
    }
}

fn place(home: &Home) -> Result<Place> {
    let mut place = Place {
        home: shown(&home.path),
        rule: home.rule.name(),
        why: home.rule.to_string(),
        store: "none",
        problem: None,
        model: home.model()?.to_string(),
        model_problem: None,
        models_dir: shown(&home.models_dir()),
        db_path: shown(&home.db_path),
        config_files: home.config.files().iter().map(|path| shown(path)).collect(),
        remarks: home.config.remarks().iter().map(ToString::to_string).collect(),
        taken_over: Vec::new(),
        legacy: home.legacy.iter().map(|path| shown(path)).collect(),
        sharing: None,
    };
    if let Err(error) = look_into_store(home, &mut place) {
        place.store = match error.kind() {
            ErrorKind::NotFound => return Ok(place),
            ErrorKind::Busy => "busy",
            ErrorKind::OwnerUnresponsive | ErrorKind::VersionSkew => "unresponsive",
            _ => "unreadable",
        };
        place.problem = Some(error.to_string());
    }
    Ok(place)
}

/// The only way to know whether another process holds the store is to ask for it, without waiting.
fn look_into_store(home: &Home, place: &mut Place) -> Result<()> {
    let store = Store::open(session::looking(home)?.lock_wait(Duration::ZERO))?;
    let sharing = store.sharing()?;
    let is_owned = sharing.role == Role::Client;
    place.store = if is_owned { "owned" } else { "free" };
    place.sharing = is_owned.then_some(sharing);
    let stats = store.stats()?;
    if let Some(model) = stats.model {
        place.model = model.name;
    }
    place.model_problem = stats.model_problem;
    place.taken_over = stats.taken_over;
    store.close()
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn pretty(place: &Place, out: &Output) -> String {
    let store = match place.store {
        "none" => "not made yet; the first `memento-kv remember` makes it".to_owned(),
        "free" => "here, and no other process holds it".to_owned(),
        "owned" => "here; another process owns it and serves this one".to_owned(),
        other => other.to_owned(),
    };
    let config = "config file";
    let mut pairs = vec![("home", place.home.clone()), ("because", place.why.clone()), ("store", store)];
    pairs.extend(place.problem.iter().map(|problem| ("problem", problem.clone())));
    pairs.extend(place.sharing.iter().flat_map(super::stats::shared));
    pairs.push(("model", place.model.clone()));
    pairs.extend(place.model_problem.iter().map(|problem| ("model problem", problem.clone())));
    pairs.push(("models folder", place.models_dir.clone()));
    pairs.push(("memory.db", place.db_path.clone()));
    pairs.extend(place.taken_over.first().map(session::taken_over));
    if place.config_files.is_empty() {
        pairs.push((config, "none".to_owned()));
    }
    pairs.extend(place.config_files.iter().map(|file| (config, file.clone())));
    pairs.extend(place.remarks.iter().map(|remark| ("config remark", remark.clone())));
    pairs.extend(place.legacy.iter().map(|file| ("original's", file.clone())));
    if place.store == "none" {
        let command = |file: &String| ("to import", format!("memento-kv import {file}"));
        pairs.extend(place.legacy.iter().map(command));
    }
    table::figures(out, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_has_its_line() {
        let place = Place {
            home: "/h".to_owned(),
            rule: "argument",
            why: "--home names it".to_owned(),
            store: "busy",
            problem: Some("held by process 12".to_owned()),
            model: "m".to_owned(),
            model_problem: None,
            models_dir: "/h/models".to_owned(),
            db_path: "/h/memory.db".to_owned(),
            config_files: Vec::new(),
            remarks: vec!["a remark".to_owned()],
            taken_over: Vec::new(),
            legacy: vec!["/old/memory.db".to_owned(), "/older/memory.db".to_owned()],
            sharing: None,
        };
        assert_eq!(
            pretty(&place, &Output::pipe()),
            "home           /h\nbecause        --home names it\nstore          busy\nproblem        held by process 12\n\
             model          m\nmodels folder  /h/models\nmemory.db      /h/memory.db\nconfig file    none\n\
             config remark  a remark\noriginal's     /old/memory.db\n               /older/memory.db\n"
        );
    }
}
