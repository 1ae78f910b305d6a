//! Which keys a configuration may hold, what their values may be and where they go.

use std::path::{Path, PathBuf};

use super::yaml::{Entry, Value};
use super::{Config, DEFAULT_MODEL, Origin, Place, Remark, RemarkKind};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Language, TOPK_MAX};

/// Longest piece of a key or a value that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// One key that a file may hold.
struct Key {
    /// The section; empty for a key at the top.
    section: &'static str,
    name: &'static str,
    /// Whether only a file of the user's own may hold it, because it says what is run or where a token goes.
    is_own: bool,
    means: Means,
}

enum Means {
    /// The option of this documented name, an example for a hint, and how it is set.
    Option { option: &'static str, example: &'static str, set: Set },
    /// Known from the original, without a meaning here.
    Nothing(&'static str),
}

/// Puts a checked value in its place; the error follows the name of the key.
type Set = fn(&mut Config, &Value, &Place) -> Result<(), String>;

const fn key(
    section: &'static str,
    name: &'static str,
    option: &'static str,
    example: &'static str,
    set: Set,
) -> Key {
    Key { section, name, is_own: false, means: Means::Option { option, example, set } }
}

/// A key that says what is run or where a token goes.
const fn own(
    section: &'static str,
    name: &'static str,
    option: &'static str,
    example: &'static str,
    set: Set,
) -> Key {
    Key { section, name, is_own: true, means: Means::Option { option, example, set } }
}

const fn ignored(section: &'static str, name: &'static str, why: &'static str) -> Key {
    Key { section, name, is_own: false, means: Means::Nothing(why) }
}

const NO_SQLITE: &str = "memories are kept in a log, memory.db is written from it";
const ENGINE_DECIDES: &str = "the embedding engine decides this itself";

const KEYS: &[Key] = &[
    key("storage", "db_path", "storage.db_path", "~/.memento/memory.db", |config, value, place| {
        path(value, place, |path| config.storage.db_path = Some(path))
    }),
    key("storage", "backup_enabled", "storage.backup_enabled", "true", |config, value, _| {
        switch(value, |on| config.storage.backup_enabled = on)
    }),
    key("storage", "backup_retention_days", "storage.backup_retention_days", "7", |config, value, _| {
        whole(value, 1, 3650, |days| config.storage.backup_retention_days = days as u32)
    }),
    key("storage", "history_days", "storage.history_days", "7", |config, value, _| {
        whole(value, 0, 3650, |days| config.storage.history_days = days as u32)
    }),
    key("storage", "history_max_mb", "storage.history_max_mb", "1024", |config, value, _| {
        whole(value, 0, 1 << 20, |mb| config.storage.history_max_mb = mb as u32)
    }),
    key("storage", "allow_network_fs", "storage.allow_network_fs", "false", |config, value, _| {
        switch(value, |on| config.storage.allow_network_fs = on)
    }),
    ignored("storage", "journal_mode", NO_SQLITE),
    ignored("storage", "synchronous", NO_SQLITE),
    ignored("storage", "collection_table", NO_SQLITE),
    key("embed", "model", "embed.model", DEFAULT_MODEL, set_model),
    key("embed", "model_name", "embed.model", DEFAULT_MODEL, set_model),
    key("embed", "cache_size", "embed.cache_size", "1000", set_cache_size),
    key("cache", "lru_size", "embed.cache_size", "1000", set_cache_size),
    key("embed", "cache_dir", "embed.cache_dir", "~/.memento/models", |config, value, place| {
        path(value, place, |path| config.embed.cache_dir = Some(path))
    }),
    ignored("embed", "use_quantized", ENGINE_DECIDES),
    ignored("embed", "use_onnx", ENGINE_DECIDES),
    ignored("embed", "batch_size", ENGINE_DECIDES),
    key("search", "default_topk", "search.default_topk", "5", |config, value, _| {
        whole(value, 1, TOPK_MAX as i64, |topk| config.search.default_topk = topk as usize)
    }),
    key("search", "timeout_ms", "search.timeout_ms", "5000", |config, value, _| {
        whole(value, 0, 86_400_000, |ms| config.search.timeout_ms = ms as u64)
    }),
    key("search", "hybrid_alpha", "search.hybrid_alpha", "0.6", |config, value, _| {
        share(value, |share| config.search.hybrid_alpha = Some(share))
    }),
    key("search", "recency_half_life_days", "search.recency_half_life_days", "30", |config, value, _| {
        whole(value, 0, 36_500, |days| config.search.recency_half_life_days = days as u32)
    }),
    key("search", "language", "search.language", "german", |config, value, _| {
        let language = match value {
            Value::Text(name) => Language::named(name),
            _ => None,
        };
        let names = || Language::ALL.map(Language::name).join(", ");
        config.search.language = language.ok_or_else(|| expected(value, &format!("one of {}", names())))?;
        Ok(())
    }),
    key("search", "aliases", "search.aliases", "{ Mel: Melanie }", |config, value, _| {
        config.search.aliases = aliases(value)?;
        Ok(())
    }),
    key("health", "check_interval_hours", "health.check_interval_hours", "1", |config, value, _| {
        whole(value, 1, 8760, |hours| config.health.check_interval_hours = hours as u32)
    }),
    key("health", "in_owner", "health.in_owner", "false", |config, value, _| {
        switch(value, |on| config.health.in_owner = on)
    }),
    key("health", "auto_rollback", "health.auto_rollback", "true", |config, value, _| {
        switch(value, |on| config.health.auto_rollback = on)
    }),
    own("health", "on_failure", "health.on_failure", "notify-send memento", |config, value, _| {
        config.health.on_failure = command(value)?;
        Ok(())
    }),
    own("github", "enabled", "github.enabled", "true", |config, value, _| {
        switch(value, |on| config.github.enabled = on)
    }),
    own("github", "repo", "github.repo", "owner/name", |config, value, _| {
        let repo = text(value).filter(|repo| is_repo(repo));
        config.github.repo =
            Some(repo.ok_or_else(|| expected(value, "a repository as owner/name"))?.to_owned());
        Ok(())
    }),
    own("github", "api_url", "github.api_url", "https://github.example.com/api/v3", |config, value, _| {
        let url = text(value).filter(|url| is_safe_url(url));
        let what = "an https:// address without user, `?` and `#`; http:// for this machine only";
        config.github.api_url = url.ok_or_else(|| expected(value, what))?.trim_end_matches('/').to_owned();
        Ok(())
    }),
    own("github", "assignees", "github.assignees", "[bob, rita]", |config, value, _| {
        let names = texts(value).filter(|names| names.len() <= 10 && names.iter().all(|name| is_login(name)));
        config.github.assignees = names.ok_or_else(|| expected(value, "at most 10 logins of GitHub"))?;
        Ok(())
    }),
    own("github", "project", "github.project", "7", |config, value, _| {
        whole(value, 1, i64::from(u32::MAX), |number| config.github.project = Some(number as u32))
    }),
    own("github", "project_owner", "github.project_owner", "the-org", |config, value, _| {
        let owner = text(value).filter(|owner| is_login(owner));
        config.github.project_owner =
            Some(owner.ok_or_else(|| expected(value, "a login of GitHub"))?.to_owned());
        Ok(())
    }),
    own("github", "issues_per_day", "github.issues_per_day", "5", |config, value, _| {
        whole(value, 1, 100, |count| config.github.issues_per_day = count as u32)
    }),
    key("capture", "threshold", "capture.threshold", "0.5", |config, value, _| {
        share(value, |share| config.capture.threshold = share)
    }),
    key("capture", "per_hour", "capture.per_hour", "1000", |config, value, _| {
        whole(value, 0, 1_000_000, |count| config.capture.per_hour = count as usize)
    }),
    key("capture", "names", "capture.names", "{ Rita: rita }", |config, value, _| {
        config.capture.names = aliases(value)?;
        Ok(())
    }),
    key("logs", "max_mb", "logs.max_mb", "16", |config, value, _| {
        whole(value, 1, 48, |mb| config.logs.max_mb = mb as u32)
    }),
    key("logs", "keep_days", "logs.keep_days", "90", |config, value, _| {
        whole(value, 1, 3650, |days| config.logs.keep_days = days as u32)
    }),
    key("", "debug", "debug", "true", |config, value, _| switch(value, |on| config.debug = on)),
];

fn set_model(config: &mut Config, value: &Value, _: &Place) -> Result<(), String> {
    match value {
        Value::Text(name) if name.len() <= 256 && !name.chars().any(char::is_control) => {
            config.embed.model = name.clone();
            Ok(())
        }
        other => Err(expected(other, "the name of a model, at most 256 bytes")),
    }
}

/// Most other names of speakers.
const ALIASES_MAX: usize = 1000;

fn aliases(value: &Value) -> Result<Vec<(String, String)>, String> {
    let what = "names, each with the name that it stands for";
    let Value::Mapping(entries) = value else { return Err(expected(value, what)) };
    if entries.len() > ALIASES_MAX {
        return Err(format!("has {} names, the most is {ALIASES_MAX}", entries.len()));
    }
    let pairs = entries.iter().map(|entry| match &entry.value {
        Value::Text(name) => Ok((entry.key.clone(), name.clone())),
        other => Err(expected(other, what)),
    });
    pairs.collect()
}

fn set_cache_size(config: &mut Config, value: &Value, _: &Place) -> Result<(), String> {
    whole(value, 0, 1_000_000, |size| config.embed.cache_size = size as usize)
}

/// Sets what the entries of one file say.
///
/// `trust` says whether the file is the user's own, or why it is not.
pub(super) fn apply(
    config: &mut Config,
    file: &Path,
    entries: &[Entry],
    place: &Place,
    trust: Result<(), &'static str>,
) -> Result<()> {
    let mut layer = Layer { config, file, place, trust, set: Vec::new() };
    for entry in entries {
        // The original's documents spell this section in two ways.
        let section = if entry.key == "embedding" { "embed" } else { entry.key.as_str() };
        if !is_section(section) {
            layer.entry("", entry)?;
            continue;
        }
        match &entry.value {
            Value::Null => {}
            Value::Mapping(inner) => {
                for entry in inner {
                    layer.entry(section, entry)?;
                }
            }
            other => {
                let first = section_keys(section)[0];
                return Err(layer
                    .error(entry, section, &format!("is {}, expected a section", shown(other)))
                    .hint(format!("put its keys below it: `{section}:`, then `  {first}: …`")));
            }
        }
    }
    Ok(())
}

fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section == name)
}

/// One file on its way into the configuration.
struct Layer<'a> {
    config: &'a mut Config,
    file: &'a Path,
    place: &'a Place,
    trust: Result<(), &'static str>,
    /// The options that this file has set, with the key and the line that did.
    set: Vec<(&'static str, String, u64)>,
}

impl Layer<'_> {
    fn entry(&mut self, section: &str, entry: &Entry) -> Result<()> {
        let name = full_name(section, &entry.key);
        let Some(known) = KEYS.iter().find(|key| key.section == section && key.name == entry.key) else {
            self.remark(name, entry.line, RemarkKind::Unknown(section_keys(section).join(", ")));
            return Ok(());
        };
        match known.means {
            Means::Nothing(why) => self.remark(name, entry.line, RemarkKind::Ignored(why)),
            Means::Option { .. } if is_empty(&entry.value) => {}
            Means::Option { .. } if known.is_own && self.trust.is_err() => {
                let why = self.trust.err().unwrap_or_default();
                self.remark(name, entry.line, RemarkKind::Untrusted(why));
            }
            Means::Option { option, example, set } => {
                if let Some((_, other, line)) = self.set.iter().find(|(set, ..)| *set == option) {
                    let what = format!("sets the same option as {other} on line {line}");
                    return Err(self.error(entry, &name, &what).hint("keep one of the two"));
                }
                set(self.config, &entry.value, self.place).map_err(|what| {
                    self.error(entry, &name, &what)
                        .hint(format!("write it like this: `{}: {example}`", entry.key))
                })?;
                let origin = Origin::File { path: self.file.to_owned(), line: entry.line };
                self.config.origins.insert(option, origin);
                self.set.push((option, name, entry.line));
            }
        }
        Ok(())
    }

    fn remark(&mut self, key: String, line: u64, kind: RemarkKind) {
        let origin = Origin::File { path: self.file.to_owned(), line };
        self.config.remarks.push(Remark { key, origin, kind });
    }

    fn error(&self, entry: &Entry, name: &str, what: &str) -> Error {
        Error::new(ErrorKind::Config, format!("line {}: {name} {what}", entry.line)).at(self.file)
    }
}

/// The names known in a section; at the top, the sections are names too.
fn section_keys(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let name = if section.is_empty() && !key.section.is_empty() { key.section } else { key.name };
        if (section.is_empty() || key.section == section) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn full_name(section: &str, key: &str) -> String {
    let key = quoted(key);
    if section.is_empty() { key } else { format!("{section}.{key}") }
}

/// A piece of the file as a message may repeat it: short and without control characters.
fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => format!("{value:?}"),
        Value::Text(text) => format!("the text \"{}\"", quoted(text)),
        Value::Null | Value::List(_) | Value::Mapping(_) => value.kind().to_owned(),
    }
}

fn expected(value: &Value, what: &str) -> String {
    format!("is {}, expected {what}", shown(value))
}

fn switch(value: &Value, set: impl FnOnce(bool)) -> Result<(), String> {
    match value {
        Value::Bool(on) => set(*on),
        other => return Err(expected(other, "true or false")),
    }
    Ok(())
}

fn whole(value: &Value, least: i64, most: i64, set: impl FnOnce(i64)) -> Result<(), String> {
    let found = match value {
        Value::Integer(found) => Some(*found),
        // YAML reads `007` and `7.0` as fractions; both are meant as 7.
        Value::Number(found) if found.fract() == 0.0 && found.abs() < 1e15 => Some(*found as i64),
        _ => None,
    };
    match found.filter(|found| (least..=most).contains(found)) {
        Some(found) => set(found),
        None => return Err(expected(value, &format!("a whole number from {least} to {most}"))),
    }
    Ok(())
}

fn share(value: &Value, set: impl FnOnce(f64)) -> Result<(), String> {
    let found = match value {
        Value::Integer(found) => *found as f64,
        Value::Number(found) => *found,
        _ => f64::NAN,
    };
    if !(0.0..=1.0).contains(&found) {
        return Err(expected(value, "a number from 0 to 1"));
    }
    set(found);
    Ok(())
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// The texts of a list; one text is a list of one.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Text(text) => Some(vec![text.clone()]),
        Value::List(items) => items.iter().map(|item| text(item).map(str::to_owned)).collect(),
        _ => None,
    }
}

/// Most arguments of a command, and its longest one in bytes.
const ARGS_MAX: usize = 64;
const ARG_LEN_MAX: usize = 4096;

/// A command: a text is for the shell, a list is a program with its arguments.
fn command(value: &Value) -> Result<Vec<String>, String> {
    let what = "a command for the shell, or a list of a program and its arguments";
    let args = match value {
        Value::Text(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        _ => texts(value).ok_or_else(|| expected(value, what))?,
    };
    let is_good = |arg: &String| arg.len() <= ARG_LEN_MAX && !arg.contains('\0');
    let has_program = args.first().is_some_and(|program| !program.trim().is_empty());
    if !has_program || args.len() > ARGS_MAX || !args.iter().all(is_good) {
        return Err(expected(value, what));
    }
    Ok(args)
}

/// A user or an organisation of GitHub.
fn is_login(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=64).contains(&text.len()) && text.chars().all(is_part)
}

fn is_repo(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = |name: &str| {
        (1..=100).contains(&name.len()) && name.chars().all(is_part) && !matches!(name, "." | "..")
    };
    text.split_once('/').is_some_and(|(owner, name)| is_login(owner) && is_name(name))
}

/// An address that a token may be sent to: nobody on the way can read it, and it says plainly which host it is.
fn is_safe_url(url: &str) -> bool {
    let (rest, is_open) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return false,
    };
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | ':' | '/' | '[' | ']');
    if url.len() > 512 || !url.chars().all(is_plain) {
        return false;
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                (host, port.strip_prefix(':'))
            }
            _ => return false,
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_here =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok()) && (!is_open || is_here)
}

fn path(value: &Value, place: &Place, set: impl FnOnce(PathBuf)) -> Result<(), String> {
    match value {
        Value::Text(text) => set(place.resolve(Path::new(text))?),
        other => return Err(expected(other, "a path, in quotes if it looks like a number")),
    }
    Ok(())
}
