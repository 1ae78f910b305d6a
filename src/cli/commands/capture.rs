//! `capture`: auto-memory. A conversation goes in, what matters of it is remembered.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{fallback, load};
use crate::capture::{
    CaptureOptions, Captured, CapturedAs, Capturer, ConversationReader, Exchange, Position, Role, Trust,
};
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::input::STDIN_NAME;
use crate::cli::{session, text};
use crate::home::Home;
use crate::spool::{self, Spool};
use crate::{Error, ErrorKind, Result, Store};

/// Longest conversation in one file or one JSON value, in bytes.
const FILE_LEN_MAX: u64 = 1 << 30;
/// Longest line of a stream, in bytes.
const LINE_LEN_MAX: u64 = 64 << 20;
/// The file of the positions up to which transcripts were read.
const POSITIONS_NAME: &str = "capture-positions.json";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv capture --user \"Which port?\" --assistant \"We decided on 5433 for staging.\"
  memento-kv capture chat.txt --dry-run --explain
  memento-kv capture transcript.jsonl --incremental --source claude-code
  agent-log | memento-kv capture - --json

Reads plain text with `User:` and `Assistant:`, chats in JSON (`role` and `content`, strings or blocks), one
exchange a line ({\"user\": …, \"assistant\": …}), and the transcripts of Claude Code and Codex. What recall handed to
the agent is left out, secrets are masked, what is known already is not stored again. --dry-run stores nothing and
prints every score, so that a threshold can be chosen: `capture.threshold` in config.yaml.")]
pub(crate) struct CaptureArgs {
    /// The conversation; - is standard input, which is also read when nothing else is given
    #[arg(conflicts_with_all = ["user", "assistant"])]
    file: Option<PathBuf>,
    /// What the user said
    #[arg(long, value_name = "TEXT")]
    user: Option<String>,
    /// What the agent answered
    #[arg(long, value_name = "TEXT")]
    assistant: Option<String>,
    /// Where the conversation comes from [default: capture]
    #[arg(long)]
    source: Option<String>,
    /// The conversation, when it does not say itself
    #[arg(long)]
    session: Option<String>,
    /// It is not the user's own conversation: nothing of it becomes very important
    #[arg(long)]
    foreign: bool,
    /// From which score on sentences are kept, 0 to 1 [default: as configured, moved by your decisions]
    #[arg(long, value_name = "0..1")]
    threshold: Option<f64>,
    /// Most memories of one source within an hour, 0 for no limit [default: as configured]
    #[arg(long, value_name = "N")]
    per_hour: Option<usize>,
    /// Store nothing: show the scores
    #[arg(long)]
    dry_run: bool,
    /// Show which features decided, with their weights
    #[arg(long)]
    explain: bool,
    /// Go on where the last call on this file ended
    #[arg(long, requires = "file")]
    incremental: bool,
}

pub(crate) fn run(args: CaptureArgs, context: &Context<'_>) -> Result<(), Failure> {
    let home = session::home(context)?;
    let mut options = CaptureOptions::of(&home)?;
    if let Some(threshold) = args.threshold {
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("threshold is {threshold}, it must be between 0 and 1"),
            )
            .into());
        }
        options = options.threshold(threshold);
    }
    if let Some(per_hour) = args.per_hour {
        options = options.per_hour(per_hour);
    }
    let mut run = Run::new(&args, context, &home, options);
    let done = run.input();
    let ended = run.end();
    done.and(ended)
}

/// Where captured memories go.
enum Target {
    /// It is not known yet whether there is anything to store.
    Unopened,
    Store(Store),
    /// The store cannot be written: into the spool.
    Spool(ErrorKind),
    Nowhere,
}

struct Run<'a> {
    args: &'a CaptureArgs,
    context: &'a Context<'a>,
    home: &'a Home,
    capturer: Capturer,
    target: Target,
    counts: BTreeMap<&'static str, u64>,
    skipped: u64,
    /// Whether there is one exchange only, whose answer is one object.
    single: bool,
}

impl<'a> Run<'a> {
    fn new(args: &'a CaptureArgs, context: &'a Context<'a>, home: &'a Home, options: CaptureOptions) -> Self {
        let target = if args.dry_run { Target::Nowhere } else { Target::Unopened };
        let single = args.user.is_some() || args.assistant.is_some();
        let capturer = Capturer::new(options);
        Self { args, context, home, capturer, target, counts: BTreeMap::new(), skipped: 0, single }
    }

    fn input(&mut self) -> Result<(), Failure> {
        if self.single {
            let (user, assistant) = (self.args.user.clone(), self.args.assistant.clone());
            let exchange = Exchange::default()
                .turn(Role::User, user.unwrap_or_default())
                .turn(Role::Assistant, assistant.unwrap_or_default());
            return self.take(exchange);
        }
        match self.args.file.as_deref().filter(|path| *path != Path::new("-")) {
            Some(path) => self.file(path),
            None => self.stream(),
        }
    }

    fn reader(&self) -> ConversationReader {
        ConversationReader::new(self.args.source.clone(), self.args.session.clone())
    }

    fn file(&mut self, path: &Path) -> Result<(), Failure> {
        let len = fs::metadata(path).map_err(|error| Error::io("open", path, error))?.len();
        if len > FILE_LEN_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("it has {len} bytes, the most is {FILE_LEN_MAX}"),
            )
            .at(path)
            .hint("pipe it to `memento-kv capture -`")
            .into());
        }
        let bytes = fs::read(path).map_err(|error| Error::io("read", path, error))?;
        let mut positions = Positions::of(&self.home.path, path, self.args.incremental);
        let start = positions.position.start_in(&bytes);
        let mut reader = self.reader();
        let (exchanges, read) = reader.read(&bytes[start..]);
        for exchange in exchanges {
            self.take(exchange)?;
        }
        self.skipped += reader.skipped();
        if self.args.incremental && !self.args.dry_run {
            // Only now: what was read and not captured would be lost.
            positions.set(Position::after(&bytes, start + read))?;
        }
        Ok(())
    }

    /// Standard input, line by line, so that a stream of any length fits.
    fn stream(&mut self) -> Result<(), Failure> {
        let mut stdin = io::stdin().lock();
        let mut reader = self.reader();
        let mut bytes = Vec::new();
        let mut done = Vec::new();
        let mut is_first = true;
        let failed = |error| Error::io("read", Path::new(STDIN_NAME), error);
        loop {
            bytes.clear();
            (&mut stdin).take(LINE_LEN_MAX).read_until(b'\n', &mut bytes).map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            let line = String::from_utf8_lossy(&bytes).into_owned();
            let begins = |mark| line.trim_start().starts_with(mark);
            let is_value = |line: &str| serde_json::from_str::<Value>(line.trim()).is_ok();
            if is_first && (begins('[') || begins('{')) && !is_value(&line) {
                // A value of several lines.
                (&mut stdin).take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(failed)?;
                let (exchanges, _) = reader.read(&bytes);
                done.extend(exchanges);
            } else {
                reader.line(&line, &mut done);
            }
            is_first &= line.trim().is_empty();
            for exchange in done.drain(..) {
                self.take(exchange)?;
            }
        }
        self.skipped += reader.skipped();
        if let Some(exchange) = reader.finish() {
            self.take(exchange)?;
        }
        Ok(())
    }

    fn take(&mut self, mut exchange: Exchange) -> Result<(), Failure> {
        if let Some(source) = &self.args.source {
            exchange.source = Some(source.clone());
        }
        if exchange.session.is_none() {
            exchange.session.clone_from(&self.args.session);
        }
        if self.args.foreign {
            exchange.trust = Trust::Foreign;
        }
        let exchange = match exchange.at {
            Some(_) => exchange,
            None => exchange.at(self.context.now()),
        };
        if matches!(self.target, Target::Unopened) {
            self.target = self.open(&exchange)?;
        }
        let outcome = match &self.target {
            Target::Store(store) => self.capturer.capture(store, &exchange),
            Target::Spool(_) | Target::Nowhere | Target::Unopened => Ok(self.capturer.judge(&exchange)),
        };
        let captured = match outcome {
            Ok(captured) => captured,
            Err(error) if fallback::is_spoolable(&error, self.context) => {
                self.target = Target::Spool(error.kind());
                self.warn(&error);
                self.capturer.judge(&exchange)
            }
            Err(error) => return Err(error.into()),
        };
        self.spool_or_tell(captured, &exchange)
    }

    /// Opens the store for the first exchange that is worth it; what is worth nothing opens none.
    fn open(&self, exchange: &Exchange) -> Result<Target> {
        if self.capturer.judge(exchange).remember().is_none() {
            return Ok(Target::Unopened);
        }
        match session::open_in(self.context, self.home) {
            Ok(store) => Ok(Target::Store(store)),
            // Where a store is gone, whoever captures is no person who could decide.
            Err(error) if fallback::is_spoolable(&error, self.context) || error.kind() == ErrorKind::Gone => {
                self.warn(&error);
                Ok(Target::Spool(error.kind()))
            }
            Err(error) => Err(error),
        }
    }

    fn warn(&self, error: &Error) {
        let what = "what is captured is spooled and comes into the store as soon as that works";
        self.context.out.warn(&format!("the store cannot be written ({error}); {what}"));
    }

    fn spool_or_tell(&mut self, mut captured: Captured, exchange: &Exchange) -> Result<(), Failure> {
        let mut spooled = false;
        if let (Target::Spool(reason), Some(remember)) = (&self.target, captured.remember()) {
            let reason = reason.name();
            let kept = Spool::of(&self.home.path).append(remember)?;
            spool::journal(
                &self.home.path,
                self.context.now_ms,
                &format!("spooled id={} reason={reason}", kept.id),
            );
            captured.id = Some(kept.id);
            spooled = true;
        }
        let name = if spooled { "spooled" } else { outcome_name(captured.outcome) };
        *self.counts.entry(name).or_default() += 1;
        if captured.outcome != CapturedAs::Nothing && !self.args.dry_run && !spooled {
            let id = captured.id.as_ref().map_or("-", |id| id.as_str());
            let kind = captured.kind.map_or("-", |kind| kind.name());
            let source = exchange.source.as_deref().unwrap_or("capture").escape_debug();
            let line = format!(
                "{name} id={id} kind={kind} score={:.3} importance={:.2} source={source}",
                captured.score, captured.importance
            );
            spool::journal(&self.home.path, self.context.now_ms, &line);
        }
        self.tell(&captured, name, spooled)
    }

    fn tell(&self, captured: &Captured, name: &str, spooled: bool) -> Result<(), Failure> {
        let out = self.context.out;
        let shows_all = self.single || self.args.dry_run || self.args.explain;
        if captured.outcome == CapturedAs::Nothing && !shows_all {
            return Ok(());
        }
        if out.json {
            let mut answer = serde_json::to_value(captured).expect("text keys only");
            if spooled {
                answer["spooled"] = Value::Bool(true);
            }
            if !self.args.explain
                && let Some(sentences) = answer["sentences"].as_array_mut()
            {
                for sentence in sentences {
                    if let Some(sentence) = sentence.as_object_mut() {
                        sentence.remove("reasons");
                    }
                }
            }
            return out.print_line(&answer.to_string());
        }
        let id = captured.id.as_ref().map_or("", |id| id.as_str());
        let kind = captured.kind.map_or("-", |kind| kind.name());
        let line = format!("{name:<10} {:.2} {kind:<10} {id} {}", captured.score, text::line(&captured.text));
        out.print_line(line.trim_end())?;
        if self.args.dry_run || self.args.explain {
            self.explain(captured)?;
        }
        Ok(())
    }

    fn explain(&self, captured: &Captured) -> Result<(), Failure> {
        let out = self.context.out;
        for sentence in &captured.sentences {
            let mark = if sentence.kept { '+' } else { ' ' };
            out.print_line(&format!("  {mark} {:.2} {}", sentence.score, text::line(&sentence.text)))?;
            if self.args.explain {
                let reasons: Vec<String> = sentence
                    .reasons
                    .iter()
                    .map(|reason| format!("{} {:+.2}", reason.feature, reason.value * reason.weight))
                    .collect();
                out.print_line(&format!("         {}", reasons.join(", ")))?;
            }
        }
        if !captured.tags.is_empty() {
            out.print_line(&format!(
                "    tags {}; importance {:.2}",
                captured.tags.join(", "),
                captured.importance
            ))?;
        }
        if !captured.secrets.is_empty() {
            out.print_line(&format!("    masked: {}", captured.secrets.join(", ")))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        if let Target::Store(store) = std::mem::replace(&mut self.target, Target::Nowhere) {
            load::embed(&store, self.counts.get("stored").copied().unwrap_or(0), self.context.out);
            session::close(self.context, store);
        }
        if !self.single {
            let counts: Vec<String> =
                self.counts.iter().map(|(name, count)| format!("{} {name}", text::number(*count))).collect();
            let counts = if counts.is_empty() { "no exchanges".to_owned() } else { counts.join(", ") };
            let skipped = if self.skipped > 0 {
                format!("; {} skipped", text::count(self.skipped, "line", "lines"))
            } else {
                String::new()
            };
            self.context.out.note(&format!("{counts}{skipped}"));
        }
        Ok(())
    }
}

fn outcome_name(outcome: CapturedAs) -> &'static str {
    match outcome {
        CapturedAs::Nothing => "nothing",
        CapturedAs::Worth => "worth",
        CapturedAs::Stored => "stored",
        CapturedAs::Reinforced => "reinforced",
        CapturedAs::Known => "known",
        CapturedAs::Limited => "limited",
    }
}

/// The positions of the transcripts that were read.
struct Positions {
    path: PathBuf,
    name: String,
    position: Position,
}

#[derive(Default, Serialize, serde::Deserialize)]
struct PositionsFile(BTreeMap<String, Position>);

impl Positions {
    fn of(home: &Path, file: &Path, incremental: bool) -> Self {
        let name = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned()).display().to_string();
        let path = home.join(POSITIONS_NAME);
        let position = if incremental { read_positions(&path).0.get(&name).copied() } else { None };
        Self { path, name, position: position.unwrap_or_default() }
    }

    fn set(&mut self, position: Position) -> Result<()> {
        let mut all = read_positions(&self.path);
        all.0.insert(self.name.clone(), position);
        let folder = self.path.parent().expect("a file in the home");
        let io = |error| Error::io("write", &self.path, error);
        fs::create_dir_all(folder).map_err(io)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
        serde_json::to_writer(&mut file, &all).map_err(|error| io(error.into()))?;
        file.persist(&self.path).map_err(|error| io(error.error))?;
        Ok(())
    }
}

/// A file that is gone or damaged means that transcripts are read from the beginning; what is known is not stored again.
fn read_positions(path: &Path) -> PositionsFile {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
