//! Says what is wrong with an installation, and the command that mends it.
//!
//! Nothing is changed by looking: the store is opened for reading only, and what can be known without it is told when it
//! does not open. Checks of single bytes are `check`'s business, and what a health run does is its own.

mod files;
mod machine;
mod settings;
mod store;
mod upkeep;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::shown;
use crate::home::{CONFIG_NAME, Home, HomeInputs, locate};
use crate::schedule::Tools;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and a person should know.
    Warn,
    /// It does not work, or memories are at risk.
    Bad,
}

impl Level {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at: `config`, `environment`, `permissions`, `mount`, `clock`, `leftovers`, `store`, `model`,
    /// `backups`, `schedule`, `failures`, `versions`.
    pub topic: &'static str,
    /// What was found.
    pub what: String,
    /// The command that mends it.
    pub command: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Examination {
    /// The home that was looked at; none when nobody knows where it is.
    pub home: Option<PathBuf>,
    /// One line each.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// Whether nothing is bad.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.level < Level::Bad)
    }

    fn add(&mut self, level: Level, topic: &'static str, what: impl Into<String>, command: Option<String>) {
        self.findings.push(Finding { level, topic, what: what.into(), command });
    }

    fn ok(&mut self, topic: &'static str, what: impl Into<String>) {
        self.add(Level::Ok, topic, what, None);
    }

    fn warn(&mut self, topic: &'static str, what: impl Into<String>, command: impl Into<String>) {
        self.add(Level::Warn, topic, what, Some(command.into()));
    }

    fn bad(&mut self, topic: &'static str, what: impl Into<String>, command: impl Into<String>) {
        self.add(Level::Bad, topic, what, Some(command.into()));
    }

    /// Adds a line that all is well, unless the topic has another one already.
    fn ok_unless_told(&mut self, topic: &'static str, what: impl Into<String>) {
        if !self.findings.iter().any(|finding| finding.topic == topic && finding.level > Level::Ok) {
            self.ok(topic, what);
        }
    }
}

/// Looks at everything. `inputs` say which home; `tools` are the programs that keep schedules.
#[must_use]
pub fn examine(inputs: &HomeInputs<'_>, tools: &Tools, now_ms: i64) -> Examination {
    let mut found = Examination::default();
    settings::versions(&mut found);
    settings::token_file(&mut found, tools);
    let located = locate(inputs);
    settings::environment(&mut found, inputs, located.as_ref().ok());
    let home = match located {
        Ok(home) => {
            settings::config(&mut found, &home);
            home
        }
        Err(error) => {
            settings::broken_config(&mut found, &error);
            // Without its configuration a home can still be looked at.
            match without_config(inputs) {
                Some(home) => home,
                None => return found,
            }
        }
    };
    found.home = Some(home.path.clone());
    if !files::home_is_there(&mut found, &home.path) {
        upkeep::schedule(&mut found, &home, tools, now_ms);
        return found;
    }
    files::permissions(&mut found, &home.path);
    machine::mount(&mut found, &home.path);
    machine::clock(&mut found, &home.path, now_ms);
    files::leftovers(&mut found, &home.path, now_ms);
    store::look(&mut found, &home);
    upkeep::backups(&mut found, &home, now_ms);
    upkeep::schedule(&mut found, &home, tools, now_ms);
    upkeep::failures(&mut found, &home, now_ms);
    found
}

/// The home as it would be without any configuration file.
fn without_config(inputs: &HomeInputs<'_>) -> Option<Home> {
    let named = inputs.argument.clone().filter(|path| !path.as_os_str().is_empty());
    let named =
        named.or_else(|| (inputs.env)("MEMENTO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from));
    let path = match named {
        Some(path) => path,
        None => inputs.user_home.clone()?.join(".memento"),
    };
    let path = if path.is_absolute() { path } else { inputs.current_dir.clone()?.join(path) };
    // A folder that cannot be: neither it nor a configuration in it is there.
    let nowhere = path.join(CONFIG_NAME).join("none");
    let mut home = locate(&HomeInputs {
        argument: Some(nowhere),
        env: &|_| None,
        current_dir: inputs.current_dir.clone(),
        user_home: inputs.user_home.clone(),
        system_config: path.join(CONFIG_NAME).join("none").join(CONFIG_NAME),
    })
    .ok()?;
    home.db_path = path.join(crate::home::DB_NAME);
    home.path = path;
    Some(home)
}

/// A path as a word of a command for a shell.
fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | '=' | ':' | ',' | '@')
    };
    if text.chars().all(is_plain) && !text.is_empty() && !text.starts_with('-') {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

/// A path as a person reads it.
fn told(path: &Path) -> String {
    shown(path)
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] })
        .collect()
}

/// So many days, hours or minutes.
fn age(ms: u64) -> String {
    match ms / 60_000 {
        0 => "less than a minute".to_owned(),
        minutes @ 1..120 => format!("{minutes} min"),
        minutes if minutes < 48 * 60 => format!("{} h", minutes / 60),
        minutes => format!("{} days", minutes / 60 / 24),
    }
}

/// A count with its noun.
fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Bytes in MiB, for a person.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(all(test, unix))]
mod tests;
