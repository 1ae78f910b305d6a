//! The configuration: `config.yaml` of the machine and of the home, then the environment.
//!
//! Later layers win key by key: built-in defaults, `/etc/memento/config.yaml`, the user's `config.yaml`, then
//! `MEMENTO_DEBUG`, `MEMENTO_MODEL_DIR`, `MEMENTO_DB_PATH` and, strongest, `MEMORY_DB_PATH`. A value that is empty
//! or `null` counts as not given. A bad value is an error that names file, line and key; a key that nobody reads
//! becomes a [`Remark`], which the program prints. Which files are read is `home.rs`'s business.

mod file;
mod keys;
mod place;
mod yaml;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub(crate) use place::Place;

use crate::error::{Error, ErrorKind, Result, shown};
use crate::memory::Language;

/// Longest configuration file, in bytes.
pub const CONFIG_LEN_MAX: u64 = 1 << 20;

/// The model of a store that names none; it is built in.
pub const DEFAULT_MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// Looks up one environment variable.
pub type EnvLookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Everything that can be configured, with its defaults.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where the memories are and how they are backed up.
    pub storage: StorageConfig,
    /// Which model embeds, and its cache.
    pub embed: EmbedConfig,
    /// How a recall works when it does not say.
    pub search: SearchConfig,
    /// What the scheduled health run does.
    pub health: HealthConfig,
    /// What is captured of conversations.
    pub capture: CaptureConfig,
    /// How much of the logs is kept.
    pub logs: LogsConfig,
    /// Who is told on GitHub what failed.
    pub github: GithubConfig,
    /// `debug`, or `MEMENTO_DEBUG`: log at debug level. Default false.
    pub debug: bool,
    files: Vec<PathBuf>,
    remarks: Vec<Remark>,
    origins: BTreeMap<&'static str, Origin>,
}

/// Section `storage`.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// `db_path`: where `memory.db` is published; its folder is the home. None: `memory.db` in the home.
    pub db_path: Option<PathBuf>,
    /// `backup_enabled`: whether the health run makes backups. Default true.
    pub backup_enabled: bool,
    /// `backup_retention_days`: for how many days a daily backup is kept, 1 to 3650. Default 7.
    pub backup_retention_days: u32,
    /// `history_days`: for how many days any state of the store can be read and restored, 0 to 3650. Default 7.
    pub history_days: u32,
    /// `history_max_mb`: how many MiB that may take beside the log, 0 to 1,048,576. Default 1024.
    pub history_max_mb: u32,
    /// `allow_network_fs`: whether a store on a network file system is written. Default false.
    pub allow_network_fs: bool,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            db_path: None,
            backup_enabled: true,
            backup_retention_days: 7,
            history_days: 7,
            history_max_mb: 1024,
            allow_network_fs: false,
        }
    }
}

/// Section `embed` (also `embedding`, and `cache.lru_size`).
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedConfig {
    /// `model` (also `model_name`): the model of a new store. Default [`DEFAULT_MODEL`].
    pub model: String,
    /// `cache_size`: how many embeddings are kept in memory, 0 (none) to 1,000,000. Default 1000.
    pub cache_size: usize,
    /// `cache_dir`, or `MEMENTO_MODEL_DIR`: where model files are. None: `models` in the home.
    pub cache_dir: Option<PathBuf>,
}

impl Default for EmbedConfig {
    fn default() -> Self {
        Self { model: DEFAULT_MODEL.to_owned(), cache_size: 1000, cache_dir: None }
    }
}

/// Section `search`.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchConfig {
    /// `default_topk`: how many answers a recall gives, 1 to 100,000. Default 5.
    pub default_topk: usize,
    /// `timeout_ms`: how long a recall may take, in milliseconds, 0 (no limit) to 86,400,000. Default 5000.
    pub timeout_ms: u64,
    /// `hybrid_alpha`: the share of meaning against words in a hybrid recall, 0 (words only) to 1 (meaning only).
    /// None: the mix that was measured to be best.
    pub hybrid_alpha: Option<f64>,
    /// `recency_half_life_days`: after how many days half of what a memory has for being new is gone, 0 (age does not
    /// count) to 36,500. Default 30.
    pub recency_half_life_days: u32,
    /// `language`: of texts in Latin letters. Default English.
    pub language: Language,
    /// `aliases`: other names of speakers, each with the name that it stands for.
    pub aliases: Vec<(String, String)>,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            default_topk: 5,
            timeout_ms: 5000,
            hybrid_alpha: None,
            recency_half_life_days: 30,
            language: Language::default(),
            aliases: Vec::new(),
        }
    }
}

/// Section `health`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// `check_interval_hours`: hours between two scheduled runs, 1 to 8760. Default 1.
    pub check_interval_hours: u32,
    /// `auto_rollback`: whether a store that cannot be healed is restored from its latest backup. Default true.
    pub auto_rollback: bool,
    /// `in_owner`: whether a process that has the store for long makes health runs itself. Default false.
    pub in_owner: bool,
    /// `on_failure`: the program with its arguments that is run when something failed, with a report on its standard
    /// input. A text is for `/bin/sh`, a list is run as it is. Only the user's own configuration may set it. Default: none.
    pub on_failure: Vec<String>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { check_interval_hours: 1, auto_rollback: true, in_owner: false, on_failure: Vec::new() }
    }
}

/// Section `github`. Only the user's own configuration may set any of it. The token is not a part of it: that comes from
/// the environment, `GITHUB_TOKEN`.
#[derive(Clone, Debug, PartialEq)]
pub struct GithubConfig {
    /// `enabled`: whether what failed becomes an issue. Default false.
    pub enabled: bool,
    /// `repo`: where, as `owner/name`.
    pub repo: Option<String>,
    /// `api_url`: GitHub's interface, `https://HOST/api/v3` for GitHub Enterprise. Default `https://api.github.com`.
    pub api_url: String,
    /// `assignees`: who gets the issue, at most 10 logins.
    pub assignees: Vec<String>,
    /// `project`: the number of the project board that the issue is put on.
    pub project: Option<u32>,
    /// `project_owner`: whose board that is. None: the repository's owner.
    pub project_owner: Option<String>,
    /// `issues_per_day`: most issues that are opened within 24 hours, 1 to 100. Default 5.
    pub issues_per_day: u32,
}

impl Default for GithubConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            repo: None,
            api_url: "https://api.github.com".to_owned(),
            assignees: Vec::new(),
            project: None,
            project_owner: None,
            issues_per_day: 5,
        }
    }
}

/// Section `capture`.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptureConfig {
    /// `threshold`: from which score on a sentence is kept, 0 (all) to 1 (none). Default 0.5.
    pub threshold: f64,
    /// `per_hour`: most memories of one source within an hour, 0 (no limit) to 1,000,000. Default 1000.
    pub per_hour: usize,
    /// `names`: names of people and projects, each with the tag that it gives.
    pub names: Vec<(String, String)>,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { threshold: 0.5, per_hour: 1000, names: Vec::new() }
    }
}

/// Section `logs`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogsConfig {
    /// `max_mb`: how many MiB all logs take together, 1 to 48. Default 16.
    pub max_mb: u32,
    /// `keep_days`: for how many days a rotated log is kept, 1 to 3650. Default 90.
    pub keep_days: u32,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { max_mb: 16, keep_days: 90 }
    }
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In this file, on this line, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key.
        line: u64,
    },
    /// In this environment variable.
    Env(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "the default"),
            Self::File { path, line } => write!(f, "{}, line {line}", shown(path)),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Something in the configuration that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The key, with its section, such as `storage.journal_mode`.
    pub key: String,
    /// Where it stands.
    pub origin: Origin,
    /// What about it.
    pub kind: RemarkKind,
}

/// What a [`Remark`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemarkKind {
    /// No option has this name: probably a slip, so a person should see it. The names that would be known.
    Unknown(String),
    /// An option of the original that has no meaning here, and why. Harmless.
    Ignored(&'static str),
    /// Something stronger decided otherwise.
    Overruled(String),
    /// It names what is run or where a token goes, and this file may not: why.
    Untrusted(&'static str),
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, kind } = self;
        match kind {
            RemarkKind::Unknown(known) => {
                write!(f, "{origin}: unknown key `{key}` has no effect; known here: {known}")
            }
            RemarkKind::Ignored(why) => write!(f, "{origin}: `{key}` has no effect: {why}"),
            RemarkKind::Overruled(by) => write!(f, "{origin}: `{key}` is overruled: {by}"),
            RemarkKind::Untrusted(why) => write!(
                f,
                "{origin}: `{key}` has no effect: only a configuration of your own that nobody else may write can set \
                 it, and {why}"
            ),
        }
    }
}

impl Serialize for Remark {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Config {
    /// The files that were read, in the order in which they were.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What in the configuration has no effect, for a person to see.
    #[must_use]
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// Where an option was set, by its documented name such as `storage.db_path`.
    #[must_use]
    pub fn origin(&self, option: &str) -> &Origin {
        self.origins.get(option).unwrap_or(&Origin::Default)
    }

    /// Lays a YAML text over this configuration. `path` is what errors and remarks call it; a relative path in it
    /// starts at the file's folder, and `~/` at `user_home`. What names a program to run or where a token goes has no
    /// effect: that must stand in a file of the user's own, which [`Config::merge_file`] reads.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with line and key when the text is not YAML, is larger than 1 MiB, repeats a key or
    /// holds a value outside its range. The configuration is then unchanged.
    pub fn merge_yaml(&mut self, path: &Path, text: &str, user_home: Option<&Path>) -> Result<()> {
        self.merge_text(path, text, user_home, Err("this is not read from a file"))
    }

    /// As [`Config::merge_yaml`]; `trust` says whether the text may say what is run, or why not.
    pub(crate) fn merge_text(
        &mut self,
        path: &Path,
        text: &str,
        user_home: Option<&Path>,
        trust: Result<(), &'static str>,
    ) -> Result<()> {
        if text.len() as u64 > CONFIG_LEN_MAX {
            return Err(file::too_large(path, text.len() as u64));
        }
        let entries = yaml::parse(text).map_err(|problem| syntax_error(path, &problem))?;
        let mut merged = self.clone();
        keys::apply(&mut merged, path, &entries, &Place::of_file(path, user_home), trust)?;
        *self = merged;
        Ok(())
    }

    /// Lays a file over this configuration; says whether it is there.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] as [`Config::merge_yaml`] does, and for what is not a regular file of UTF-8 text;
    /// [`ErrorKind::Permission`] for a file that others may write or own; what the operating system reports.
    pub fn merge_file(&mut self, path: &Path, user_home: Option<&Path>) -> Result<bool> {
        let Some(read) = file::read(path, user_home)? else { return Ok(false) };
        self.merge_text(path, &read.text, user_home, read.trust)?;
        self.files.push(path.to_owned());
        Ok(true)
    }

    /// Lays the environment over this configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the variable.
    pub(crate) fn merge_env(&mut self, env: EnvLookup<'_>, place: &Place) -> Result<()> {
        let given = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(value) = given("MEMENTO_DEBUG") {
            self.debug = parse_switch(&value).ok_or_else(|| {
                env_error("MEMENTO_DEBUG", format!("is {value:?}, expected 1 or 0"))
                    .hint("use 1, true, yes or on; 0, false, no or off")
            })?;
            self.origins.insert("debug", Origin::Env("MEMENTO_DEBUG"));
        }
        if let Some(value) = given("MEMENTO_MODEL_DIR") {
            let dir =
                place.resolve(Path::new(&value)).map_err(|what| env_error("MEMENTO_MODEL_DIR", what))?;
            self.embed.cache_dir = Some(dir);
            self.origins.insert("embed.cache_dir", Origin::Env("MEMENTO_MODEL_DIR"));
        }
        for name in ["MEMENTO_DB_PATH", "MEMORY_DB_PATH"] {
            if let Some(value) = given(name) {
                let path = place.resolve(Path::new(&value)).map_err(|what| env_error(name, what))?;
                self.storage.db_path = Some(path);
                self.origins.insert("storage.db_path", Origin::Env(name));
            }
        }
        Ok(())
    }

    /// Puts what decided in the place of the `storage.db_path` that was set, and remarks that it was.
    pub(crate) fn overrule_db_path(&mut self, decided: Option<PathBuf>, decided_by: Origin, why: String) {
        let overruled = self.origin("storage.db_path").clone();
        self.storage.db_path = decided;
        self.origins.insert("storage.db_path", decided_by);
        let kind = RemarkKind::Overruled(why);
        self.remarks.push(Remark { key: "storage.db_path".to_owned(), origin: overruled, kind });
    }
}

fn env_error(name: &str, what: String) -> Error {
    Error::new(ErrorKind::Config, format!("environment variable {name} {what}"))
}

fn parse_switch(value: &std::ffi::OsStr) -> Option<bool> {
    match value.to_str()?.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn syntax_error(path: &Path, problem: &yaml::YamlProblem) -> Error {
    let place = match (problem.line, problem.column) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: "),
        (Some(line), None) => format!("line {line}: "),
        _ => String::new(),
    };
    let hint = if problem.what.contains("tab") {
        "indent with blanks, not with tabs"
    } else {
        "a section is `storage:`, a key under it is indented by two blanks, such as `  backup_enabled: true`"
    };
    Error::new(ErrorKind::Config, format!("{place}{}", problem.what)).at(path).hint(hint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "/h/.memento/config.yaml";

    fn merged(text: &str) -> Result<Config> {
        let mut config = Config::default();
        config.merge_yaml(Path::new(FILE), text, Some(Path::new("/h")))?;
        Ok(config)
    }

    #[test]
    fn every_option_is_read_and_knows_its_line() {
        let config = merged(
            "storage:\n  db_path: ~/m/memory.db\n  backup_enabled: no\n  backup_retention_days: 30\n  history_days: 3\n  history_max_mb: 10\n  allow_network_fs: true\n\
             embed:\n  model: some/model\n  cache_size: 10\n  cache_dir: models\n\
             search:\n  default_topk: 8\n  timeout_ms: 0\n  hybrid_alpha: 0.25\n\
             health:\n  check_interval_hours: 24\n  auto_rollback: false\n  in_owner: true\n\
             logs:\n  max_mb: 2\n  keep_days: 14\ndebug: true\n",
        )
        .expect("a good file");
        assert_eq!(
            config.storage,
            StorageConfig {
                db_path: Some("/h/m/memory.db".into()),
                backup_enabled: false,
                backup_retention_days: 30,
                history_days: 3,
                history_max_mb: 10,
                allow_network_fs: true,
            }
        );
        assert_eq!(
            config.embed,
            EmbedConfig {
                model: "some/model".to_owned(),
                cache_size: 10,
                cache_dir: Some("/h/.memento/models".into())
            }
        );
        let search = SearchConfig {
            default_topk: 8,
            timeout_ms: 0,
            hybrid_alpha: Some(0.25),
            ..SearchConfig::default()
        };
        assert_eq!(config.search, search);
        assert_eq!(config.logs, LogsConfig { max_mb: 2, keep_days: 14 });
        assert_eq!(
            config.health,
            HealthConfig {
                check_interval_hours: 24,
                auto_rollback: false,
                in_owner: true,
                on_failure: Vec::new()
            }
        );
        assert!(config.debug);
        assert_eq!(config.remarks(), []);
        assert_eq!(config.origin("search.hybrid_alpha"), &Origin::File { path: FILE.into(), line: 15 });
        assert_eq!(config.origin("search.nothing"), &Origin::Default);
    }

    /// As the user's own file would.
    fn own(text: &str) -> Result<Config> {
        let mut config = Config::default();
        config.merge_text(Path::new(FILE), text, Some(Path::new("/h")), Ok(()))?;
        Ok(config)
    }

    const TELLING: &str = "health:\n  on_failure: [notify-send, memento]\n\
         github:\n  enabled: true\n  repo: ann/agent.memory\n  api_url: https://ghe.example/api/v3\n\
         \u{20} assignees: [bob, rita]\n  project: 7\n  project_owner: the-org\n  issues_per_day: 2\n";

    #[test]
    fn who_is_told_of_failures_is_read_from_a_file_of_the_users_own() {
        let config = own(TELLING).expect("a good file");
        assert_eq!(config.health.on_failure, ["notify-send", "memento"]);
        let expected = GithubConfig {
            enabled: true,
            repo: Some("ann/agent.memory".to_owned()),
            api_url: "https://ghe.example/api/v3".to_owned(),
            assignees: vec!["bob".to_owned(), "rita".to_owned()],
            project: Some(7),
            project_owner: Some("the-org".to_owned()),
            issues_per_day: 2,
        };
        assert_eq!(config.github, expected);
        assert_eq!(config.remarks(), []);
        let shell = own("health:\n  on_failure: mail -s memento ann\n").expect("good");
        assert_eq!(shell.health.on_failure, ["/bin/sh", "-c", "mail -s memento ann"]);
        assert_eq!(own("github:\n  assignees: bob\n").expect("good").github.assignees, ["bob"]);
    }

    #[test]
    fn nobody_else_says_what_is_run_or_where_a_token_goes() {
        let config = merged(TELLING).expect("a good file");
        assert_eq!(config.github, GithubConfig::default());
        assert_eq!(config.health, HealthConfig::default());
        assert_eq!(config.remarks().len(), 8);
        for remark in config.remarks() {
            assert!(matches!(remark.kind, RemarkKind::Untrusted(_)), "{remark}");
            assert!(remark.to_string().contains("has no effect"), "{remark}");
        }
        assert_eq!(config.origin("health.on_failure"), &Origin::Default);
    }

    #[test]
    fn bad_values_of_whom_to_tell_name_file_line_and_key() {
        for (text, expected) in [
            ("github:\n  repo: agent\n", "line 2: github.repo is the text \"agent\", expected"),
            ("github:\n  repo: ann/..\n", "line 2: github.repo is"),
            ("github:\n  repo: ann/a b\n", "line 2: github.repo is"),
            ("github:\n  repo: a/b/c\n", "line 2: github.repo is"),
            ("github:\n  api_url: http://ghe.example/api/v3\n", "line 2: github.api_url is"),
            ("github:\n  api_url: https://user:pass@ghe.example\n", "line 2: github.api_url is"),
            ("github:\n  api_url: http://127.0.0.1.evil.example\n", "line 2: github.api_url is"),
            ("github:\n  api_url: http://localhost@evil.example\n", "line 2: github.api_url is"),
            ("github:\n  api_url: https://\n", "line 2: github.api_url is"),
            ("github:\n  api_url: https://a.example/?x\n", "line 2: github.api_url is"),
            ("github:\n  assignees: [bob, 5]\n", "line 2: github.assignees is a list"),
            ("github:\n  assignees: a b\n", "line 2: github.assignees is"),
            ("github:\n  project: 0\n", "line 2: github.project is 0"),
            ("github:\n  issues_per_day: 0\n", "line 2: github.issues_per_day is 0"),
            ("health:\n  on_failure: []\n", "line 2: health.on_failure is a list"),
            ("health:\n  on_failure: [\"\"]\n", "line 2: health.on_failure is a list"),
            ("health:\n  on_failure: 5\n", "line 2: health.on_failure is 5"),
        ] {
            let error = own(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
            assert!(error.message().starts_with(expected), "{text:?}: {error}");
            assert!(error.hint_text().is_some(), "{text:?}");
        }
        for good in
            ["http://127.0.0.1:8080", "http://[::1]:80/api", "http://localhost", "https://a.example:1/x/"]
        {
            let text = format!("github:\n  api_url: {good}\n");
            assert_eq!(own(&text).expect(good).github.api_url, good.trim_end_matches('/'));
        }
    }

    #[test]
    fn a_token_in_the_configuration_is_not_repeated() {
        let config = own("github:\n  token: ghp_Canary\n").expect("an unknown key");
        assert!(!format!("{config:?} {}", config.remarks()[0]).contains("Canary"));
    }

    #[test]
    fn the_other_spellings_of_the_original_are_understood() {
        let config =
            merged("embedding:\n  model: a\n  use_onnx: true\ncache:\n  lru_size: 5\n").expect("good");
        assert_eq!((config.embed.model.as_str(), config.embed.cache_size), ("a", 5));
        assert_eq!(merged("embed:\n  model_name: b\n").expect("good").embed.model, "b");
    }

    #[test]
    fn one_option_under_two_names_is_refused() {
        let error = merged("embed:\n  cache_size: 1\ncache:\n  lru_size: 2\n").expect_err("twice");
        assert_eq!(
            error.message(),
            "line 4: cache.lru_size sets the same option as embed.cache_size on line 2"
        );
    }

    #[test]
    fn options_without_meaning_are_remarked() {
        let config =
            merged("storage:\n  journal_mode: WAL\n  synchronous: NORMAL\n  collection_table: memories\n")
                .expect("good");
        assert_eq!(config.remarks().len(), 3);
        assert!(config.remarks().iter().all(|remark| matches!(remark.kind, RemarkKind::Ignored(_))));
    }

    #[test]
    fn unknown_keys_are_named_with_file_and_line() {
        let config = merged("storage:\n  backup_retention: 7\nserach:\n  default_topk: 7\n").expect("good");
        let shown: Vec<String> = config.remarks().iter().map(ToString::to_string).collect();
        assert!(
            shown[0].starts_with("/h/.memento/config.yaml, line 2: unknown key `storage.backup_retention`")
        );
        assert!(shown[0].contains("backup_retention_days"), "{}", shown[0]);
        assert!(shown[1].contains("line 3: unknown key `serach`"), "{}", shown[1]);
        assert!(shown[1].contains("search"), "{}", shown[1]);
    }

    #[test]
    fn an_unknown_key_cannot_write_to_the_terminal() {
        let config = merged("\"\\e[31mred\\n\": 1\n").expect("good");
        assert!(!config.remarks()[0].to_string().contains(['\u{1b}', '\n']));
        let long = merged(&format!("? {}\n: 1\n", "x".repeat(500))).expect("good");
        assert!(long.remarks()[0].key.chars().count() < 70);
    }

    #[test]
    fn bad_values_are_errors_that_name_file_line_and_key() {
        for (text, expected) in [
            (
                "storage:\n  backup_retention_days: -1\n",
                "line 2: storage.backup_retention_days is -1, expected",
            ),
            (
                "storage:\n  backup_retention_days: 99999999999999999999\n",
                "line 2: storage.backup_retention_days is",
            ),
            (
                "storage:\n  backup_enabled: 7\n",
                "line 2: storage.backup_enabled is 7, expected true or false",
            ),
            ("storage:\n  backup_enabled: \"true\"\n", "line 2: storage.backup_enabled is the text \"true\""),
            ("storage:\n  db_path: [a]\n", "line 2: storage.db_path is a list"),
            ("storage:\n  db_path: 5\n", "line 2: storage.db_path is 5"),
            ("storage:\n  db_path: ~bob/x\n", "line 2: storage.db_path starts with `~` and a name"),
            ("search:\n  default_topk: 0\n", "line 2: search.default_topk is 0"),
            ("search:\n  default_topk: five\n", "line 2: search.default_topk is the text \"five\""),
            ("search:\n  timeout_ms: 1.5\n", "line 2: search.timeout_ms is 1.5"),
            (
                "search:\n  hybrid_alpha: 2\n",
                "line 2: search.hybrid_alpha is 2, expected a number from 0 to 1",
            ),
            ("search:\n  hybrid_alpha: .nan\n", "line 2: search.hybrid_alpha is NaN"),
            ("search:\n  hybrid_alpha:\n    a: 1\n", "line 2: search.hybrid_alpha is a mapping"),
            ("embed:\n  cache_size: .inf\n", "line 2: embed.cache_size is inf"),
            ("logs:\n  max_mb: 0\n", "line 2: logs.max_mb is 0, expected a whole number from 1 to 48"),
            ("logs:\n  keep_days: forever\n", "line 2: logs.keep_days is the text"),
            ("storage: 5\n", "line 1: storage is 5, expected a section"),
            ("health: [a]\n", "line 1: health is a list, expected a section"),
        ] {
            let error = merged(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
            assert_eq!(error.path(), Some(Path::new(FILE)), "{text:?}");
            assert!(error.message().starts_with(expected), "{text:?}: {error}");
            assert!(error.hint_text().is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_bad_file_changes_nothing() {
        let mut config = merged("search:\n  default_topk: 8\n").expect("good");
        config
            .merge_yaml(Path::new(FILE), "search:\n  default_topk: 9\n  timeout_ms: -1\n", None)
            .expect_err("bad");
        assert_eq!(config.search.default_topk, 8);
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let mut config = merged("search:\n  default_topk: 8\n  timeout_ms: 1\n").expect("good");
        config.merge_yaml(Path::new("/b.yaml"), "search:\n  timeout_ms: 2\n", None).expect("good");
        config.merge_yaml(Path::new("/c.yaml"), "search:\n  timeout_ms: ~\nhealth:\n", None).expect("good");
        assert_eq!((config.search.default_topk, config.search.timeout_ms), (8, 2));
        assert_eq!(config.origin("search.timeout_ms"), &Origin::File { path: "/b.yaml".into(), line: 2 });
    }

    #[test]
    fn the_environment_is_stronger_than_files() {
        let mut config = merged("debug: false\nstorage:\n  db_path: /a/memory.db\n").expect("good");
        let place = Place { folder: Some("/w".into()), user_home: Some("/h".into()) };
        let env = |name: &str| match name {
            "MEMENTO_DEBUG" => Some(OsString::from("Yes")),
            "MEMENTO_MODEL_DIR" => Some("~/models".into()),
            "MEMENTO_DB_PATH" => Some("b.db".into()),
            _ => None,
        };
        config.merge_env(&env, &place).expect("good");
        assert!(config.debug);
        assert_eq!(config.embed.cache_dir, Some("/h/models".into()));
        assert_eq!(config.storage.db_path, Some("/w/b.db".into()));
        let bad = |name: &str| (name == "MEMENTO_DEBUG").then(|| OsString::from("maybe"));
        let error = config.merge_env(&bad, &place).expect_err("neither yes nor no");
        assert!(error.message().contains("MEMENTO_DEBUG"), "{error}");
    }

    #[test]
    fn a_text_above_the_limit_is_refused() {
        let error = merged(&"#".repeat(CONFIG_LEN_MAX as usize + 1)).expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    /// Pieces from which texts that look like a configuration are made.
    const PIECES: [&str; 31] = [
        "health:",
        "on_failure: ",
        "github:",
        "repo: a/b",
        "api_url: https://[",
        "assignees: ",
        "project: ",
        "storage:",
        "search:",
        "\n",
        "  ",
        "\t",
        "db_path: ",
        "default_topk: ",
        "hybrid_alpha: ",
        "7",
        "-1",
        "~",
        "&a ",
        "*a",
        "<<: ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "|",
        "--- ",
        "!!int ",
        "? ",
    ];

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = merged(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_text_like_a_configuration_makes_it_panic(pieces in prop::collection::vec(0..PIECES.len(), 0..60)) {
            let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
            for result in [merged(&text), own(&text)] {
                if let Err(error) = result {
                    prop_assert_eq!(error.kind(), ErrorKind::Config);
                }
            }
        }
    }
}
