//! What can be written on the command line: the global options, the commands, and the options that several share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::commands::{
    backup::BackupArgs, backups::BackupsArgs, capture::CaptureArgs, captured::CapturedArgs, check::CheckArgs,
    completions::CompletionsArgs, demo::DemoArgs, diff::DiffArgs, doctor::DoctorArgs, eval::EvalArgs,
    export::ExportArgs, failures::FailuresArgs, forget::ForgetArgs, get::GetArgs, health::HealthArgs,
    import::ImportArgs, list::ListArgs, model::ModelArgs, prove::ProveArgs, recall::RecallArgs,
    reembed::ReembedArgs, reindex::ReindexArgs, remember::RememberArgs, restore::RestoreArgs, scan::ScanArgs,
    stats::StatsArgs, update::UpdateArgs, watch::WatchArgs,
};
use crate::time::parse_time;
use crate::{Filter, Result};

const TOP_HELP: &str = "\
Start here:
  memento-kv demo
  memento-kv remember \"Anna prefers tabs\" -t preference -i 0.8
  memento-kv recall \"how does Anna indent\"

Exit codes:
  0  done (a recall that finds nothing, too)
  1  not found, or the check found damage
  2  wrong usage
  3  the store could not be opened, or damage needs a decision
  4  busy: another process does not let go of the store, or time ran out
  5  input, output or no space
  6  bad configuration
  7  refused by policy

Environment:
  MEMENTO_HOME       the home folder, when --home does not name one
  MEMENTO_MODEL_DIR  where bigger models are
  GITHUB_TOKEN       for issues about what failed, where your configuration wants them
  MEMENTO_LOG        log to standard error, such as `debug` or `memento_kv=trace`
  NO_COLOR           no colour";

/// The memory of an AI agent: remember and recall by meaning and by words, offline and durable
#[derive(Debug, Parser)]
#[command(name = "memento-kv", version, after_help = TOP_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The home folder with the store [default: $MEMENTO_HOME, else ~/.memento]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print the answer as JSON, and errors as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress bars, notes and warnings
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// No colour
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Only read: no file of the store changes
    #[arg(long, global = true)]
    pub(crate) read_only: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a memory durably, or many from a JSONL file
    #[command(visible_aliases = ["add", "store"])]
    Remember(RememberArgs),
    /// Find the best memories for a question
    #[command(visible_aliases = ["search", "find", "q"])]
    Recall(RecallArgs),
    /// Remember what matters of a conversation, and nothing else
    Capture(CaptureArgs),
    /// Review what was captured: list it, keep it, forget it
    Captured(CapturedArgs),
    /// Find passwords, keys and tokens in the store or in a file
    Scan(ScanArgs),
    /// Show one memory
    Get(GetArgs),
    /// List memories by time
    List(ListArgs),
    /// Change a memory
    Update(UpdateArgs),
    /// Forget memories for good
    #[command(visible_aliases = ["delete", "rm"])]
    Forget(ForgetArgs),
    /// Figures of the store
    #[command(visible_alias = "info")]
    Stats(StatsArgs),
    /// Which home, configuration, model and owner are in use, and why
    #[command(
        after_help = "Examples:\n  memento-kv where\n  MEMENTO_HOME=/srv/agent memento-kv where --json"
    )]
    Where,
    /// Follow what is remembered, updated and forgotten, in any process
    Watch(WatchArgs),
    /// Check the integrity of the store's files, and mend them
    Check(CheckArgs),
    /// Prove from the log's own bytes that memories are there as they were acknowledged
    Prove(ProveArgs),
    /// Leave out of the log what nothing needs any more
    #[command(after_help = "\
Examples:
  memento-kv compact
  memento-kv compact --json

Happens by itself when more than a third of the log is dead. What is compacted away stays in the store's
trash for storage.history_days, so that the past can be read.")]
    Compact,
    /// Bring memory.db up to date now: a SQLite file of all memories
    #[command(after_help = "\
Examples:
  memento-kv snapshot
  sqlite3 ~/.memento/memory.db \"SELECT text FROM memories LIMIT 5\"

Happens by itself when a command ends and little has changed, and before a backup.")]
    Snapshot,
    /// Make a verified backup
    Backup(BackupArgs),
    /// List backups with age, size and verdict
    Backups(BackupsArgs),
    /// What is wrong with this installation, and the command that mends it
    Doctor(DoctorArgs),
    /// What failed, what the issue about it says, and sending it
    Failures(FailuresArgs),
    /// Watch over the store: check, mend, publish, back up, report
    Health(HealthArgs),
    /// Say what is different between two moments
    Diff(DiffArgs),
    /// Bring back a backup, a moment, or the state before the last restore
    Restore(RestoreArgs),
    /// Bring in memories of the original Memento, of this program, or of others
    Import(ImportArgs),
    /// Write all memories as JSON, JSONL or SQLite
    Export(ExportArgs),
    /// Make the vectors that are due, or move the store to another model
    Reembed(ReembedArgs),
    /// Bring the vector index up to date, or make it anew
    Reindex(ReindexArgs),
    /// Embedding models: list them, or fetch one
    Model(ModelArgs),
    /// A guided run with sample memories in a temporary home
    Demo(DemoArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Measure recall over a data set
    #[command(hide = true)]
    Eval(EvalArgs),
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// JSON of the memories alone
    Json,
    /// The texts
    Text,
}

/// Which memories are in scope.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which memories")]
pub(crate) struct FilterArgs {
    /// With at least one of these tags, separated by commas
    #[arg(long, short, value_delimiter = ',', value_name = "TAGS")]
    tags: Vec<String>,
    /// With all of these tags, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    tags_all: Vec<String>,
    /// In this collection
    #[arg(long, short)]
    collection: Option<String>,
    /// From this source
    #[arg(long)]
    source: Option<String>,
    /// Of this session
    #[arg(long)]
    session: Option<String>,
    /// Not older than this: 2026-02-17, 2026-02-17T12:30, Unix seconds, or an age such as 5m, 3h, 2d, 1w
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Not newer than this
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    before: Option<String>,
    /// At least this important, 0 to 1
    #[arg(long, short = 's', value_name = "0..1", allow_negative_numbers = true)]
    min_importance: Option<f64>,
}

impl FilterArgs {
    /// Only what was captured, and whether more than that was asked for.
    pub(crate) fn captured(mut self) -> (Self, bool) {
        let is_any = self.tags.is_empty()
            && self.tags_all.is_empty()
            && self.collection.is_none()
            && self.source.is_none()
            && self.session.is_none()
            && self.since.is_none()
            && self.before.is_none()
            && self.min_importance.is_none();
        self.tags_all.push(crate::capture::CAPTURED_TAG.to_owned());
        (self, !is_any)
    }

    pub(crate) fn filter(self, now_ms: i64) -> Result<Filter> {
        let time = |text: Option<String>| text.map(|text| parse_time(&text, now_ms)).transpose();
        Ok(Filter {
            tags_any: clean_tags(self.tags),
            tags_all: clean_tags(self.tags_all),
            collection: self.collection,
            source: self.source,
            session: self.session,
            since: time(self.since)?,
            before: time(self.before)?,
            min_importance: self.min_importance,
        })
    }
}

/// Tags as they were meant: `a, b,` is two.
pub(crate) fn clean_tags(tags: Vec<String>) -> Vec<String> {
    tags.iter().map(|tag| tag.trim()).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// What must be known before the arguments can be parsed, because a usage error is printed in that form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EarlyFlags {
    pub(crate) json: bool,
    pub(crate) no_color: bool,
}

impl EarlyFlags {
    pub(crate) fn scan(args: &[OsString]) -> Self {
        let options = args.iter().skip(1).take_while(|arg| *arg != "--");
        options.fold(Self::default(), |flags, arg| Self {
            json: flags.json || arg == "--json",
            no_color: flags.no_color || arg == "--no-color",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind as Usage;

    use super::*;

    fn parse(line: &str) -> Result<Cli, Usage> {
        let words = std::iter::once("memento-kv").chain(line.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| error.kind())
    }

    fn command(line: &str) -> Command {
        parse(line).expect(line).command.expect("a command")
    }

    #[test]
    fn the_definition_of_the_arguments_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_verbs_of_the_original_work() {
        for line in ["remember x", "store x", "add x"] {
            assert!(matches!(command(line), Command::Remember(_)), "{line}");
        }
        for line in ["recall x", "search x", "find x", "q x y z -n 3 -s 0.5 -f json"] {
            assert!(matches!(command(line), Command::Recall(_)), "{line}");
        }
        for line in ["delete x", "rm x", "forget x y"] {
            assert!(matches!(command(line), Command::Forget(_)), "{line}");
        }
        for line in ["stats", "info", "stats -f json", "stats --format pretty"] {
            assert!(matches!(command(line), Command::Stats(_)), "{line}");
        }
        assert!(parse("").expect("nothing is help").command.is_none());
    }

    #[test]
    fn global_options_stand_before_or_behind_the_command() {
        for line in ["--home /x --json --quiet --no-color where", "where --home /x --json -q --no-color"] {
            let global = parse(line).expect(line).global;
            assert_eq!(global.home, Some(PathBuf::from("/x")), "{line}");
            assert!(global.json && global.quiet && global.no_color, "{line}");
        }
    }

    #[test]
    fn wrong_usage_is_told_apart() {
        for (line, expected) in [
            ("remember", Usage::MissingRequiredArgument),
            ("recall", Usage::MissingRequiredArgument),
            ("forget", Usage::MissingRequiredArgument),
            ("frobnicate", Usage::InvalidSubcommand),
            ("remember x -i high", Usage::ValueValidation),
            ("recall x -n -1", Usage::ValueValidation),
            ("recall x -f xml", Usage::InvalidValue),
            ("remember -x", Usage::UnknownArgument),
            ("remember x --jsonl f", Usage::ArgumentConflict),
        ] {
            assert_eq!(parse(line).err(), Some(expected), "{line}");
        }
    }

    #[test]
    fn numbers_below_zero_reach_the_library_which_explains_them() {
        for line in ["remember x -i -0.1", "recall x -s -1", "remember x --at -86400", "list --since -5m"] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_filter_is_made_of_its_options() {
        let Command::List(list) = command(
            "list -t a,b, --tags x --tags-all c -c col --source so --session se --since @5 --before 1d --min-importance 0.5",
        ) else {
            panic!("a list");
        };
        let filter = list.filter.filter(86_400_000 * 2).expect("a filter");
        let expected = Filter {
            tags_any: ["a", "b", "x"].map(String::from).to_vec(),
            tags_all: vec!["c".to_owned()],
            collection: Some("col".to_owned()),
            source: Some("so".to_owned()),
            session: Some("se".to_owned()),
            since: Some(5),
            before: Some(86_400),
            min_importance: Some(0.5),
        };
        assert_eq!(filter, expected);
    }

    #[test]
    fn blanks_around_tags_go() {
        let tags = ["a", " b ", "", " "].map(String::from).to_vec();
        assert_eq!(clean_tags(tags), ["a", "b"]);
    }

    #[test]
    fn early_flags_are_seen_before_two_dashes_only() {
        let scan = |line: &str| EarlyFlags::scan(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(scan("m remember --json -x"), EarlyFlags { json: true, no_color: false });
        assert_eq!(scan("m --no-color remember -- --json"), EarlyFlags { json: false, no_color: true });
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("memento-kv "), "{} has no examples", command.get_name());
        }
    }

    #[cfg(unix)]
    #[test]
    fn arguments_that_are_not_utf8_are_wrong_usage() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![0xff, b'x']);
        for verb in ["remember", "recall", "get", "forget"] {
            let args = [OsString::from("memento-kv"), verb.into(), bad.clone()];
            assert_eq!(Cli::try_parse_from(args).expect_err("not UTF-8").kind(), Usage::InvalidUtf8);
        }
        let command = Cli::try_parse_from([OsString::from("memento-kv"), bad]);
        assert_eq!(command.expect_err("not UTF-8").exit_code(), 2);
    }
}
