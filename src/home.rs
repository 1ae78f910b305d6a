//! Finds the home folder, the one place where a store, its backups and its logs are.
//!
//! The first of these rules that applies wins: the `--home` argument, `MEMENTO_HOME`, the folder of
//! `storage.db_path` (`MEMORY_DB_PATH`, then `MEMENTO_DB_PATH`, then the configuration), `~/.memento`. Nothing is
//! created here and the process's environment is not touched: [`HomeInputs`] holds all that the answer depends on,
//! besides the configuration files themselves.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::{Config, EnvLookup, Origin, Place};
use crate::embed::ModelSpec;
use crate::error::{Error, ErrorKind, Result, shown};

/// The machine's configuration file.
pub const SYSTEM_CONFIG: &str = "/etc/memento/config.yaml";
/// Name of the configuration file in a home.
pub const CONFIG_NAME: &str = "config.yaml";
/// Name of the published database in a home.
pub const DB_NAME: &str = "memory.db";

/// Name of the folder of the store in a home.
const STORE_NAME: &str = "store";

/// Where the original kept its databases, below the user's home folder.
const LEGACY_DATABASES: [&str; 3] =
    [".memento/memory.db", ".openclaw/memory/memory.db", ".openclaw/memento/memory.db"];

/// All that the place of the home depends on.
#[derive(Clone)]
pub struct HomeInputs<'a> {
    /// The `--home` argument. An empty one counts as not given.
    pub argument: Option<PathBuf>,
    /// The environment.
    pub env: EnvLookup<'a>,
    /// The current folder, where relative paths start. None: it is gone.
    pub current_dir: Option<PathBuf>,
    /// The user's home folder, which `~` stands for. None: there is none.
    pub user_home: Option<PathBuf>,
    /// The machine's configuration file, [`SYSTEM_CONFIG`].
    pub system_config: PathBuf,
}

impl HomeInputs<'static> {
    /// What this process was given.
    #[must_use]
    pub fn of_process(argument: Option<PathBuf>) -> Self {
        fn variable(name: &str) -> Option<OsString> {
            std::env::var_os(name)
        }
        Self {
            argument,
            env: &variable,
            current_dir: std::env::current_dir().ok(),
            user_home: std::env::home_dir(),
            system_config: PathBuf::from(SYSTEM_CONFIG),
        }
    }
}

impl fmt::Debug for HomeInputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomeInputs")
            .field("argument", &self.argument)
            .field("current_dir", &self.current_dir)
            .field("user_home", &self.user_home)
            .finish_non_exhaustive()
    }
}

/// A home folder, and why it is this one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Home {
    /// The folder, absolute. It need not exist yet.
    pub path: PathBuf,
    /// The rule that decided.
    pub rule: HomeRule,
    /// Where `memory.db` is published: `storage.db_path` if that decided, else `memory.db` in the home.
    pub db_path: PathBuf,
    /// The configuration that holds for this home, with the files it came from.
    pub config: Config,
    /// The original's usual databases that are there, by existence only. The first may be this store's own
    /// `memory.db`.
    pub legacy: Vec<PathBuf>,
    /// The user's folder for what programs note about their own state: `$XDG_STATE_HOME`, else `~/.local/state`. It need
    /// not exist.
    pub state_dir: Option<PathBuf>,
}

impl Home {
    /// The file in the user's state folder that stands for the store of this home, should the whole home be gone. Only
    /// the health run writes it.
    #[must_use]
    pub fn remembered_by(&self) -> Option<PathBuf> {
        let digest = Sha256::digest(self.path.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Some(self.state_dir.as_ref()?.join("memento-kv").join(format!("home-{name}.json")))
    }

    /// The embedding model of a new store, as the configuration names it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it names none.
    pub fn model(&self) -> Result<ModelSpec> {
        self.config.embed.model.parse().map_err(|error: Error| {
            let origin = self.config.origin("embed.model");
            let config = Error::new(ErrorKind::Config, format!("embed.model, set by {origin}: {error}"));
            config.hint(error.hint_text().unwrap_or_default().to_owned())
        })
    }

    /// Whether a store was made here, by existence only.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.path.join(STORE_NAME).is_dir()
    }

    /// The folder of models that were fetched.
    #[must_use]
    pub fn models_dir(&self) -> PathBuf {
        self.config.embed.cache_dir.clone().unwrap_or_else(|| self.path.join("models"))
    }
}

/// Which rule decided where the home is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeRule {
    /// The `--home` argument.
    Argument,
    /// The environment variable `MEMENTO_HOME`.
    Environment,
    /// It is the folder of `storage.db_path`, which was set there.
    DbPath(Origin),
    /// Nothing was said: `~/.memento`.
    Default,
}

impl HomeRule {
    /// The stable snake_case name that `--json` prints.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Argument => "argument",
            Self::Environment => "environment",
            Self::DbPath(_) => "db_path",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for HomeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument => write!(f, "--home names it"),
            Self::Environment => write!(f, "environment variable MEMENTO_HOME names it"),
            Self::DbPath(origin) => write!(f, "it is the folder of storage.db_path, set by {origin}"),
            Self::Default => write!(f, "nothing names another, so it is ~/.memento"),
        }
    }
}

/// Finds the home and reads its configuration.
///
/// With `--home` or `MEMENTO_HOME`, the configuration is the machine's and that folder's `config.yaml`. Otherwise it
/// is the machine's and `~/.memento/config.yaml`; where `storage.db_path` then names another folder, that folder's
/// `config.yaml` is laid over them, but cannot move the home once more.
///
/// # Errors
/// [`ErrorKind::Config`] when a file or a variable has a bad value, when a path cannot be made absolute, or when
/// nothing says where the home is; what [`Config::merge_file`] returns for a file that is not safe to read.
pub fn locate(inputs: &HomeInputs<'_>) -> Result<Home> {
    let user_home = inputs.user_home.clone().filter(|home| !home.as_os_str().is_empty());
    let place = Place { folder: inputs.current_dir.clone(), user_home: user_home.clone() };
    let user_home = user_home.and_then(|home| place.resolve(&home).ok());
    let place = Place { user_home: user_home.clone(), ..place };
    let finder = Finder { inputs, user_home: user_home.as_deref(), place: &place };

    let (path, rule, config) = match finder.named()? {
        Some((path, rule)) => {
            let mut config = finder.config_of(&[&inputs.system_config, &path.join(CONFIG_NAME)])?;
            give_way(&mut config, &path, &rule);
            (path, rule, config)
        }
        None => finder.by_config()?,
    };
    let db_path = config.storage.db_path.clone().unwrap_or_else(|| path.join(DB_NAME));
    let legacy = user_home.as_deref().map_or_else(Vec::new, legacy_databases);
    let state_dir = (inputs.env)("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state_dir = state_dir.or_else(|| user_home.map(|home| home.join(".local/state")));
    Ok(Home { path, rule, db_path, config, legacy, state_dir })
}

struct Finder<'a> {
    inputs: &'a HomeInputs<'a>,
    user_home: Option<&'a Path>,
    place: &'a Place,
}

impl Finder<'_> {
    /// The home that was named outright.
    fn named(&self) -> Result<Option<(PathBuf, HomeRule)>> {
        let argument = self.inputs.argument.clone().map(|path| (path, HomeRule::Argument, "--home"));
        let variable = || {
            let value = (self.inputs.env)("MEMENTO_HOME")?;
            Some((PathBuf::from(value), HomeRule::Environment, "environment variable MEMENTO_HOME"))
        };
        let given = |(path, ..): &(PathBuf, HomeRule, &str)| !path.as_os_str().is_empty();
        let Some((path, rule, name)) = argument.filter(given).or_else(|| variable().filter(given)) else {
            return Ok(None);
        };
        let path = self.place.resolve(&path).map_err(|what| {
            Error::new(ErrorKind::Config, format!("{name} {what}")).hint("give an absolute path")
        })?;
        Ok(Some((path, rule)))
    }

    /// The home that follows from `storage.db_path`, or the default.
    fn by_config(&self) -> Result<(PathBuf, HomeRule, Config)> {
        let default = self.user_home.map(|home| home.join(".memento"));
        let user_config = default.as_ref().map(|home| home.join(CONFIG_NAME));
        let mut files: Vec<&Path> = vec![&self.inputs.system_config];
        files.extend(user_config.as_deref());
        let config = self.config_of(&files)?;

        let Some(db_path) = config.storage.db_path.clone() else {
            let home = default.ok_or_else(|| {
                Error::new(ErrorKind::Config, "HOME is not set and nothing else says where the memories are")
                    .hint("name a folder with --home or MEMENTO_HOME")
            })?;
            return Ok((home, HomeRule::Default, config));
        };
        let origin = config.origin("storage.db_path").clone();
        let home = folder_of(&db_path, &origin)?;
        let rule = HomeRule::DbPath(origin.clone());
        let own_config = home.join(CONFIG_NAME);
        if Some(&own_config) == user_config.as_ref() {
            return Ok((home, rule, config));
        }
        files.push(&own_config);
        let mut config = self.config_of(&files)?;
        if config.storage.db_path.as_ref() != Some(&db_path) {
            config.overrule_db_path(Some(db_path), origin, overruled_since(&rule));
        }
        Ok((home, rule, config))
    }

    /// The configuration made of these files and the environment.
    fn config_of(&self, files: &[&Path]) -> Result<Config> {
        let mut config = Config::default();
        for file in files {
            config.merge_file(file, self.user_home)?;
        }
        config.merge_env(self.inputs.env, self.place)?;
        Ok(config)
    }
}

/// A home that something stronger named does not move to where `storage.db_path` is; the configuration says so.
fn give_way(config: &mut Config, home: &Path, rule: &HomeRule) {
    let elsewhere = |db_path: &PathBuf| db_path.parent() != Some(home) || db_path.file_name().is_none();
    if config.storage.db_path.as_ref().is_some_and(elsewhere) {
        config.overrule_db_path(None, Origin::Default, overruled_since(rule));
    }
}

fn overruled_since(rule: &HomeRule) -> String {
    format!("the home is another folder, since {rule}")
}

/// The folder of a database's path.
fn folder_of(db_path: &Path, origin: &Origin) -> Result<PathBuf> {
    let bad = |what: &str| {
        Error::new(ErrorKind::Config, format!("storage.db_path, set by {origin}, {what}"))
            .at(db_path)
            .hint("name a file, such as ~/.memento/memory.db; to name a folder, use MEMENTO_HOME")
    };
    if db_path.is_dir() {
        return Err(bad("is a folder, expected a file"));
    }
    match (db_path.parent(), db_path.file_name()) {
        (Some(folder), Some(_)) => Ok(folder.to_owned()),
        _ => Err(bad("names no file")),
    }
}

fn legacy_databases(user_home: &Path) -> Vec<PathBuf> {
    LEGACY_DATABASES
        .iter()
        .map(|below| user_home.join(below))
        .filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file()))
        .collect()
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", shown(&self.path), self.rule)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::RemarkKind;

    /// A user with a home folder of her own in a temporary folder.
    struct User {
        dir: tempfile::TempDir,
        env: HashMap<&'static str, OsString>,
    }

    impl User {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary folder");
            fs::create_dir(dir.path().join("here")).expect("the current folder");
            Self { dir, env: HashMap::new() }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.dir.path().join(below)
        }

        fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
            self.env.insert(name, value.into());
            self
        }

        fn write(self, below: &str, text: &str) -> Self {
            let path = self.path(below);
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders");
            fs::write(path, text).expect("write");
            self
        }

        fn locate(&self, argument: Option<&str>) -> Result<Home> {
            self.locate_as(argument, Some(self.path("ann")))
        }

        fn locate_as(&self, argument: Option<&str>, user_home: Option<PathBuf>) -> Result<Home> {
            locate(&HomeInputs {
                argument: argument.map(PathBuf::from),
                env: &|name| self.env.get(name).cloned(),
                current_dir: Some(self.path("here")),
                user_home,
                system_config: self.path("etc/config.yaml"),
            })
        }
    }

    #[test]
    fn without_a_word_it_is_dot_memento() {
        let user = User::new();
        let home = user.locate(None).expect("a home");
        assert_eq!((&home.path, &home.rule), (&user.path("ann/.memento"), &HomeRule::Default));
        assert_eq!(home.db_path, user.path("ann/.memento/memory.db"));
        assert_eq!(home.config.files(), [] as [PathBuf; 0]);
        assert!(!home.path.exists(), "nothing is created");
    }

    #[test]
    fn the_rules_win_in_their_order() {
        let mut user =
            User::new().write("ann/.memento/config.yaml", "storage:\n  db_path: ~/by-config/memory.db\n");
        let path_and_rule = |user: &User, argument| {
            let home = user.locate(argument).expect("a home");
            (home.path.strip_prefix(user.dir.path()).expect("inside").to_owned(), home.rule)
        };
        let (path, rule) = path_and_rule(&user, None);
        assert_eq!(path, Path::new("ann/by-config"));
        let HomeRule::DbPath(Origin::File { line: 2, .. }) = rule else { panic!("{rule:?}") };

        user = user.env("MEMENTO_DB_PATH", "by-memento-env/memory.db");
        let (path, rule) = path_and_rule(&user, None);
        assert_eq!(
            (path.as_path(), rule),
            (Path::new("here/by-memento-env"), HomeRule::DbPath(Origin::Env("MEMENTO_DB_PATH")))
        );

        user = user.env("MEMORY_DB_PATH", "~/by-memory-env/other.db");
        let (path, rule) = path_and_rule(&user, None);
        assert_eq!(
            (path.as_path(), rule),
            (Path::new("ann/by-memory-env"), HomeRule::DbPath(Origin::Env("MEMORY_DB_PATH")))
        );

        user = user.env("MEMENTO_HOME", "by-home-env");
        assert_eq!(path_and_rule(&user, None), ("here/by-home-env".into(), HomeRule::Environment));
        assert_eq!(
            path_and_rule(&user, Some("./by-argument/")),
            ("here/by-argument".into(), HomeRule::Argument)
        );
    }

    #[test]
    fn empty_values_count_as_not_given() {
        let user = User::new()
            .env("MEMENTO_HOME", "")
            .env("MEMORY_DB_PATH", "")
            .env("MEMENTO_DB_PATH", "")
            .env("MEMENTO_DEBUG", "")
            .write("ann/.memento/config.yaml", "storage:\n  db_path: \"\"\n");
        assert_eq!(user.locate(Some("")).expect("a home").rule, HomeRule::Default);
    }

    #[test]
    fn a_named_home_has_its_own_configuration_and_does_not_move() {
        let user = User::new()
            .write("ann/.memento/config.yaml", "search:\n  default_topk: 1\n")
            .write("etc/config.yaml", "search:\n  default_topk: 2\n  timeout_ms: 7\n")
            .write(
                "other/config.yaml",
                "search:\n  default_topk: 3\nstorage:\n  db_path: /elsewhere/memory.db\n",
            )
            .env("MEMENTO_HOME", "../other");
        let home = user.locate(None).expect("a home");
        assert_eq!(home.config.search.default_topk, 3);
        assert_eq!(home.config.search.timeout_ms, 7);
        assert_eq!(
            home.config.files(),
            [user.path("etc/config.yaml"), user.path("here/../other/config.yaml")]
        );
        assert_eq!(home.db_path, home.path.join("memory.db"));
        let [remark] = home.config.remarks() else { panic!("{:?}", home.config.remarks()) };
        assert!(matches!(remark.kind, RemarkKind::Overruled(_)));
        assert!(remark.to_string().contains("MEMENTO_HOME"), "{remark}");
    }

    #[test]
    fn a_database_in_the_named_home_keeps_its_file_name() {
        let user = User::new();
        let home = user.path("h");
        let user = user.env("MEMORY_DB_PATH", home.join("agent.db").as_os_str());
        let found = user.locate(home.to_str()).expect("a home");
        assert_eq!(found.db_path, home.join("agent.db"));
        assert_eq!(found.config.remarks(), []);
    }

    #[test]
    fn the_folder_of_the_database_may_have_a_configuration_but_cannot_move_the_home_again() {
        let user = User::new()
            .write(
                "ann/.memento/config.yaml",
                "storage:\n  db_path: ~/data/memory.db\nsearch:\n  default_topk: 4\n",
            )
            .write(
                "ann/data/config.yaml",
                "storage:\n  db_path: ~/third/memory.db\nsearch:\n  default_topk: 9\n",
            );
        let home = user.locate(None).expect("a home");
        assert_eq!(home.path, user.path("ann/data"));
        assert_eq!(home.db_path, user.path("ann/data/memory.db"));
        assert_eq!(home.config.search.default_topk, 9);
        let first = Origin::File { path: user.path("ann/.memento/config.yaml"), line: 2 };
        assert_eq!(home.config.origin("storage.db_path"), &first);
        assert_eq!(home.config.files().len(), 2);
        assert_eq!(home.config.remarks().len(), 1);
    }

    #[test]
    fn the_configuration_of_the_seed_leads_to_the_default_home() {
        let seed = "storage:\n  db_path: ~/.memento/memory.db\n  backup_enabled: true\n  backup_retention_days: 7\n  \n\
                    health:\n  check_interval_hours: 1\n  auto_rollback: true\n";
        let user = User::new().write("ann/.memento/config.yaml", seed);
        let home = user.locate(None).expect("a home");
        assert_eq!(home.path, user.path("ann/.memento"));
        assert_eq!(home.config.files().len(), 1);
        assert_eq!(home.config.remarks(), []);
    }

    #[test]
    fn without_home_something_must_name_the_folder() {
        let user = User::new();
        for user_home in [None, Some(PathBuf::new())] {
            let error = user.locate_as(None, user_home.clone()).expect_err("no home");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.hint_text().is_some_and(|hint| hint.contains("MEMENTO_HOME")));
            assert_eq!(user.locate_as(Some("/x"), user_home.clone()).expect("named").path, Path::new("/x"));
            let error = user.locate_as(Some("~/x"), user_home).expect_err("no tilde");
            assert!(error.message().contains("--home"), "{error}");
        }
        let user = user.env("MEMORY_DB_PATH", "/data/memory.db");
        assert_eq!(user.locate_as(None, None).expect("named").path, Path::new("/data"));
    }

    #[test]
    fn a_database_path_that_names_no_file_is_refused() {
        for bad in ["/", "/tmp", "/x/.."] {
            let error = User::new().env("MEMORY_DB_PATH", bad).locate(None).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(error.message().contains("MEMORY_DB_PATH"), "{error}");
        }
    }

    #[test]
    fn a_bad_configuration_is_not_skipped() {
        let user = User::new().write("ann/.memento/config.yaml", "storage:\n\tdb_path: x\n");
        let error = user.locate(None).expect_err("a tab");
        assert_eq!(error.path(), Some(user.path("ann/.memento/config.yaml").as_path()));
    }

    #[test]
    fn databases_of_the_original_are_seen() {
        let user = User::new()
            .write("ann/.openclaw/memory/memory.db", "")
            .write("ann/.openclaw/memento/memory.db/not-a-file", "");
        let home = user.locate(None).expect("a home");
        assert_eq!(home.legacy, [user.path("ann/.openclaw/memory/memory.db")]);
    }

    #[test]
    fn the_process_itself_can_be_asked() {
        let home = locate(&HomeInputs::of_process(Some("/somewhere/else".into()))).expect("a named home");
        assert_eq!((home.path.as_path(), home.rule.name()), (Path::new("/somewhere/else"), "argument"));
    }
}
