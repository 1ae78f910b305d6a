//! The configuration, the environment and the versions.

use super::{Examination, Level, told, word};
use crate::config::{Origin, Remark, RemarkKind};
use crate::error::Error;
use crate::home::{Home, HomeInputs};
use crate::schedule::Tools;

pub(super) fn versions(found: &mut Examination) {
    let built = format!(
        "memento-kv {} for {} on {}, writes stores of format {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        crate::format::segment::FORMAT_MAJOR
    );
    found.ok("versions", built);
}

pub(super) fn broken_config(found: &mut Examination, error: &Error) {
    let command = match error.path() {
        Some(path) if error.message().contains("may write this file") => format!("chmod go-w {}", word(path)),
        Some(path) => format!("${{EDITOR:-vi}} {}", word(path)),
        None => "memento-kv where".to_owned(),
    };
    let hint = error.hint_text().map_or(String::new(), |hint| format!(" ({hint})"));
    found.bad("config", format!("{error}{hint}"), command);
}

pub(super) fn config(found: &mut Examination, home: &Home) {
    for remark in home.config.remarks() {
        match &remark.kind {
            // Harmless, and the original's own files have them.
            RemarkKind::Ignored(_) => {}
            _ => found.warn("config", remark.to_string(), mend(remark)),
        }
    }
    let github = &home.config.github;
    if github.enabled && github.repo.is_none() {
        found.warn(
            "config",
            "github.enabled is true, but github.repo names no repository: nothing is sent",
            edit(home.config.origin("github.enabled")),
        );
    }
    if let Some(program) = home.config.health.on_failure.first()
        && program.contains('/')
        && !std::path::Path::new(program).is_file()
    {
        found.warn(
            "config",
            "the program of health.on_failure is not there: nobody is alerted",
            edit(home.config.origin("health.on_failure")),
        );
    }
    if let Err(error) = home.model() {
        found.bad("config", error.to_string(), edit(home.config.origin("embed.model")));
    }
    let files: Vec<String> = home.config.files().iter().map(|path| told(path)).collect();
    let what =
        if files.is_empty() { "there is none: everything is as usual".to_owned() } else { files.join(", ") };
    found.ok_unless_told("config", what);
}

fn mend(remark: &Remark) -> String {
    match (&remark.kind, &remark.origin) {
        (RemarkKind::Untrusted(why), Origin::File { path, .. }) if why.contains("chmod") => {
            let folder = path.parent().map(word).unwrap_or_default();
            format!("chmod go-w {folder} {}", word(path))
        }
        (_, origin) => edit(origin),
    }
}

/// The command that opens the place where something was set.
fn edit(origin: &Origin) -> String {
    match origin {
        Origin::File { path, line } => format!("${{EDITOR:-vi}} +{line} {}", word(path)),
        Origin::Env(name) => format!("unset {name}"),
        Origin::Default => "memento-kv where".to_owned(),
    }
}

/// The file with the variables of the timer, which may hold a token.
pub(super) fn token_file(found: &mut Examination, tools: &Tools) {
    let config = tools.units.as_deref().and_then(|units| units.parent()?.parent());
    let Some(file) = config.map(|config| config.join("memento-kv/environment")) else { return };
    let Ok(metadata) = std::fs::metadata(&file) else { return };
    if crate::fs::system::mode(&metadata) & 0o077 != 0 {
        let what = format!("{} may hold a token, and others may read it", told(&file));
        found.bad("permissions", what, format!("chmod 600 {}", word(&file)));
    }
}

/// Variables that overrule one another, or that something is missing without.
pub(super) fn environment(found: &mut Examination, inputs: &HomeInputs<'_>, home: Option<&Home>) {
    let value = |name: &str| (inputs.env)(name).filter(|value| !value.is_empty());
    let (memory, memento) = (value("MEMORY_DB_PATH"), value("MEMENTO_DB_PATH"));
    if memory.is_some() && memento.is_some() && memory != memento {
        found.warn(
            "environment",
            "MEMORY_DB_PATH and MEMENTO_DB_PATH name different files: the first one counts",
            "unset MEMENTO_DB_PATH",
        );
    }
    let is_named = inputs.argument.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    if let Some(variable) = value("MEMENTO_HOME") {
        if is_named && inputs.argument.as_ref().is_some_and(|argument| argument.as_os_str() != variable) {
            found.warn(
                "environment",
                "--home overrules MEMENTO_HOME, which names another folder",
                "unset MEMENTO_HOME",
            );
        }
        for (name, path) in [("MEMORY_DB_PATH", &memory), ("MEMENTO_DB_PATH", &memento)] {
            let elsewhere =
                |path: &std::ffi::OsString| std::path::Path::new(path).parent() != Some(variable.as_ref());
            if path.as_ref().is_some_and(elsewhere) {
                let what = format!("MEMENTO_HOME overrules {name}, which names a file in another folder");
                found.warn("environment", what, format!("unset {name}"));
            }
        }
    }
    if home.is_some_and(|home| home.config.github.enabled) && value("GITHUB_TOKEN").is_none() {
        found.add(
            Level::Warn,
            "environment",
            "github.enabled is true, but GITHUB_TOKEN is not set here: a run that has it sends what waits",
            Some("export GITHUB_TOKEN=...".to_owned()),
        );
    }
    if inputs.user_home.is_none() {
        found.warn(
            "environment",
            "HOME is not set: ~/.memento cannot be found without it",
            "export HOME=/home/you",
        );
    }
    found.ok_unless_told("environment", "no variable overrules another one");
}
