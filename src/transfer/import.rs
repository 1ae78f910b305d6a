//! Everybody's memories into the store.
//!
//! A file is read twice: once to check all of it, then to store it as one group: after a crash all of it is there or
//! none, however large it is. What fits a group of the log is written as one; what is larger goes past the queue of
//! writers into segments of its own, behind a restore point, while nobody else writes. All memories have ids, made of
//! what they say where the file has none, so nothing comes twice when a file is imported again.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::markdown::Files;
use super::sink::{Each, Item, Report, Sink, Times};
use super::sqlite::{CopyOptions, Database, DatabaseKind};
use super::{
    ImportFormat, ImportItem, JsonlReader, NOTES_MAX, UnknownKeys, claude_mem, mcp, mem0, placed, read_json,
};
use crate::error::{Error, ErrorKind, Result};
use crate::secrets;
use crate::store::{Engine, Given, Incoming, OnConflict, Outcome, Progress};

/// Bytes that are stored as a group of the log, as far as they can be told before they are encoded. It takes 32 MiB.
const GROUP_LEN_MAX: usize = 24 << 20;
/// Memories that are stored as a group of the log.
const GROUP_MEMORIES_MAX: u64 = 65_536;
/// Bytes of a memory in the log besides its texts, metadata and vectors.
const MEMORY_OVERHEAD_LEN: usize = 160;
/// Bytes of a vector in the log besides its numbers.
const VECTORS_OVERHEAD_LEN: usize = 32;
/// Memories of one time that are put into the order in which they were stored, and bytes of their texts.
const RUN_MEMORIES_MAX: usize = 65_536;
const RUN_TEXT_LEN_MAX: usize = 16 << 20;
/// Bad lines that an error names.
const BAD_LINES_NAMED_MAX: usize = 10;
/// Memories with a secret that an error names.
const SECRETS_NAMED_MAX: usize = 10;
/// How many memories pass between two reports of progress.
const REPORT_INTERVAL: u64 = 256;

/// How a file is imported.
#[derive(Clone, Debug, Default, bincode::Encode, bincode::Decode)]
#[must_use]
pub struct ImportOptions {
    format: Option<ImportFormat>,
    on_conflict: OnConflict,
    dry_run: bool,
    allow_secrets: bool,
    scratch: Option<PathBuf>,
}

impl ImportOptions {
    /// The same for a process with another working folder.
    pub(crate) fn with_absolute_paths(&self) -> Result<Self> {
        let scratch = self.scratch.as_deref().map(crate::fs::absolute).transpose()?;
        Ok(Self { scratch, ..self.clone() })
    }

    /// What the file holds; by default its content tells.
    pub fn format(mut self, format: ImportFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// What happens when the store has another memory under the same id; by default nothing is imported.
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Whether everything is only checked and counted.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Whether memories that hold a password, a key or a token are stored as they are. Otherwise a file with one is
    /// refused, with the places of all of them.
    pub fn allow_secrets(mut self, allow: bool) -> Self {
        self.allow_secrets = allow;
        self
    }

    /// Where the private copy of a database is made; by default where the system keeps temporary files.
    pub fn scratch(mut self, folder: impl Into<PathBuf>) -> Self {
        self.scratch = Some(folder.into());
        self
    }
}

/// What an import is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub enum ImportStage {
    /// Reading everything without storing anything. Counts memories; the total is 0 as long as nobody knows it.
    Checking,
    /// Storing. Counts memories.
    Storing,
}

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Imported {
    /// What the file holds.
    pub format: Option<ImportFormat>,
    /// What wrote it, where there is more to say than the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// New memories.
    pub imported: u64,
    /// Memories that were there already, word for word.
    pub unchanged: u64,
    /// Memories that got a new version.
    pub replaced: u64,
    /// Memories that stayed as they were although the file says otherwise.
    pub kept: u64,
    /// New memories whose text the store had already, or the file itself, under another id. They are stored, too.
    pub duplicates: u64,
    /// Entries of the file that hold no memory, or one that stood in the file before.
    pub left_out: u64,
    /// Memories that were stored with vectors that came with them, and need no new ones.
    pub vectors_reused: u64,
    /// Memories that hold a secret. An import that is not told to allow them is refused for them.
    pub secrets: u64,
    /// What was changed on the way in, such as a clamped importance, and what was left out: one line each, the first
    /// 10,000 of them.
    pub notes: Vec<String>,
    /// How many notes there are beyond those.
    pub notes_more: u64,
}

impl Engine {
    /// Imports a file, or a folder of Markdown files.
    pub(crate) fn import(
        &self,
        path: &Path,
        options: &ImportOptions,
        progress: &mut dyn FnMut(ImportStage, Progress),
    ) -> Result<Imported> {
        let source = Source::open(path, options)?;
        let mut import = Import { store: self, options, progress, done: Imported::default() };
        import.done.format = Some(source.format);
        import.done.origin = source.origin();
        let found = import.check(&source).map_err(|error| located(error, path))?;
        if options.dry_run {
            return Ok(import.done);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        import.store(&source, &found, &name).map_err(|error| located(error, path))?;
        Ok(import.done)
    }
}

/// The error with the file that it is about, unless it is about another.
fn located(error: Error, path: &Path) -> Error {
    if error.path().is_some() { error } else { error.at(path) }
}

/// A file that can be read twice.
struct Source {
    format: ImportFormat,
    content: Content,
}

enum Content {
    Text(File),
    Database(Box<Database>),
    Markdown(Files),
}

impl Source {
    fn open(path: &Path, options: &ImportOptions) -> Result<Self> {
        let format = match options.format {
            Some(format) => format,
            None => ImportFormat::of(path)?,
        };
        let content = match format {
            ImportFormat::Markdown => Content::Markdown(Files::find(path)?),
            ImportFormat::Sqlite => {
                let copy = CopyOptions { scratch: options.scratch.as_deref(), ..CopyOptions::default() };
                Content::Database(Box::new(Database::open(path, &copy)?))
            }
            _ => {
                let failed = |error| Error::io("open", path, error);
                // Nobody waits for the other end of a pipe: what cannot be read twice is not read at all.
                if !fs::metadata(path).map_err(failed)?.is_file() {
                    return Err(Error::new(ErrorKind::Invalid, "this is no plain file")
                        .at(path)
                        .hint("a pipe can be given as standard input, with `-`"));
                }
                Content::Text(File::open(path).map_err(failed)?)
            }
        };
        Ok(Self { format, content })
    }

    fn origin(&self) -> Option<String> {
        match &self.content {
            Content::Database(database) => Some(database.kind().to_string()),
            _ => None,
        }
    }

    /// How many memories there are, if that can be told without reading all of it.
    fn count(&self) -> u64 {
        match &self.content {
            Content::Database(database) => database.count().unwrap_or(0),
            _ => 0,
        }
    }

    fn read(&self, each: &mut Each<'_>) -> Result<Report> {
        let file = match &self.content {
            Content::Database(database) => return read_database(database, each),
            Content::Markdown(files) => return files.read(each),
            Content::Text(file) => file,
        };
        let mut start = file;
        start
            .seek(SeekFrom::Start(0))
            .map_err(|error: io::Error| Error::new(ErrorKind::Io, format!("reading the input: {error}")))?;
        match self.format {
            ImportFormat::Json => read_original(file, each),
            ImportFormat::Mem0 => mem0::read(file, each),
            ImportFormat::ClaudeMem => claude_mem::read(file, each),
            ImportFormat::Mcp => mcp::read(BufReader::with_capacity(1 << 18, file), each),
            _ => read_lines(file, each),
        }
    }
}

fn read_database(database: &Database, each: &mut Each<'_>) -> Result<Report> {
    if database.kind() == DatabaseKind::ClaudeMem {
        return claude_mem::read_database(database, each);
    }
    let read = database.read(&mut |item| {
        let given = item.vectors.map(Given::Exact).or(item.embedding.map(Given::Original));
        let place = format!("memory {}, row {}", item.index, item.rowid);
        each(Item { incoming: Incoming { remember: item.remember, given }, place, notes: item.notes })
    })?;
    Ok(Report { memories: read.memories, left_out: read.left_out, notes: read.notes })
}

fn read_original(file: &File, each: &mut Each<'_>) -> Result<Report> {
    let mut sink = Sink::new(Times::Expected, each);
    let mut run = Run::default();
    let summary = read_json(file, &mut |item| {
        if !run.goes_on_with(&item) {
            run.give(&mut sink)?;
        }
        run.len += item.remember.text.len();
        run.items.push(item);
        Ok(())
    })?;
    run.give(&mut sink)?;
    for note in summary.notes {
        sink.note(note.what);
    }
    note_unknown(&mut sink, &summary.unknown_keys, "memory");
    Ok(sink.finish())
}

/// What is wrong with the lines of a file. One is as bad as many, but whoever mends the file wants to know of all.
#[derive(Default)]
struct BadLines {
    first: Vec<Error>,
    more: u64,
}

impl BadLines {
    /// Notes an error of one line; any other one is given back.
    fn add(&mut self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Invalid {
            return Err(self.first.drain(..).next().unwrap_or(error));
        }
        if self.first.len() < BAD_LINES_NAMED_MAX {
            self.first.push(error)
        } else {
            self.more += 1
        }
        Ok(())
    }

    /// The error for all of them.
    fn none_or_all(mut self) -> Result<()> {
        let count = self.first.len() as u64 + self.more;
        if count <= 1 {
            return self.first.pop().map_or(Ok(()), Err);
        }
        let named: Vec<&str> = self.first.iter().map(Error::message).collect();
        let more = if self.more > 0 { format!("; and {} more", self.more) } else { String::new() };
        let error =
            Error::new(ErrorKind::Invalid, format!("{count} lines are bad: {}{more}", named.join("; ")));
        Err(error.hint("nothing of the file is stored until all of them are mended"))
    }
}

/// Memories of one time that follow each other. The original writes the newest first, and of one time the one that was
/// stored last: they are given in the order in which they were stored, so that an export shows them as this one does.
#[derive(Default)]
struct Run {
    items: Vec<ImportItem>,
    len: usize,
}

impl Run {
    fn goes_on_with(&self, item: &ImportItem) -> bool {
        let last = self.items.last().and_then(|last| last.remember.timestamp);
        last.is_some()
            && last == item.remember.timestamp
            && self.items.len() < RUN_MEMORIES_MAX
            && self.len < RUN_TEXT_LEN_MAX
    }

    fn give(&mut self, sink: &mut Sink<'_, '_>) -> Result<()> {
        self.len = 0;
        self.items.drain(..).rev().try_for_each(|item| sink.push_repaired(item))
    }
}

fn read_lines(file: &File, each: &mut Each<'_>) -> Result<Report> {
    let mut sink = Sink::new(Times::Expected, each);
    let mut reader = JsonlReader::new(BufReader::with_capacity(1 << 18, file));
    let mut bad = BadLines::default();
    loop {
        let mut fields = match reader.next_fields() {
            Ok(Some(fields)) => fields,
            Ok(None) => break,
            Err(error) => {
                bad.add(error)?;
                continue;
            }
        };
        let line = reader.line();
        let given = match fields.vectors.take() {
            Some(vectors) => Some(Given::Exact(Box::new(vectors))),
            None => fields.vector.take().map(Given::Own),
        };
        if let Err(error) = sink.push(&|| format!("line {line}"), fields, given) {
            bad.add(error)?;
        }
    }
    bad.none_or_all()?;
    note_unknown(&mut sink, reader.unknown_keys(), "line");
    Ok(sink.finish())
}

fn note_unknown(sink: &mut Sink<'_, '_>, unknown: &UnknownKeys, place: &str) {
    for (name, key) in unknown.iter() {
        let (first, count) = (key.first, key.count);
        sink.note(format!(
            "key {name:?} is not known and was left out, first in {place} {first}, {count} times"
        ));
    }
    if unknown.more() > 0 {
        sink.note(format!("and other keys that are not known, {} times", unknown.more()));
    }
}

/// One import at work.
struct Import<'a> {
    store: &'a Engine,
    options: &'a ImportOptions,
    progress: &'a mut dyn FnMut(ImportStage, Progress),
    done: Imported,
}

/// What a file holds, as the check of all of it has shown.
#[derive(Debug, Default)]
struct Checked {
    memories: u64,
    /// Bytes of all of them in the log, or somewhat more.
    len: usize,
    /// Where the first secrets are, and of which kinds.
    secrets: Vec<String>,
}

impl Checked {
    /// Whether all of it can be written as a group of the log.
    fn is_one_group(&self) -> bool {
        self.memories <= GROUP_MEMORIES_MAX && self.len <= GROUP_LEN_MAX
    }
}

impl Import<'_> {
    /// Reads all of it and counts what would happen.
    fn check(&mut self, source: &Source) -> Result<Checked> {
        let total = source.count();
        let mut preview = std::mem::take(&mut self.done);
        let mut found = Checked::default();
        let mut texts = super::ids::Texts::default();
        let options = self.options;
        let report = source.read(&mut |item| {
            let Item { incoming, place, notes } = item;
            let remember = &incoming.remember;
            let outcome = self.store.preview_import(remember, options.on_conflict);
            let outcome = outcome.map_err(|error| conflicting(error, &place))?;
            preview.count(outcome);
            let is_again = !texts.insert(&remember.collection, &remember.text);
            if outcome == Outcome::New
                && (is_again || self.store.has_text(&remember.collection, &remember.text)?)
            {
                preview.duplicates += 1;
            }
            for note in notes {
                preview.note(note.to_string());
            }
            let secrets = secrets::kinds(&remember.text, &remember.metadata);
            if !secrets.is_empty() {
                preview.secrets += 1;
                let what = format!("{place}: {}", secrets.join(", "));
                preview.note(format!("a secret in {what}"));
                if found.secrets.len() < SECRETS_NAMED_MAX {
                    found.secrets.push(what);
                }
            }
            if !options.dry_run {
                self.store.expect_vectors(&incoming)?;
            }
            found.memories += 1;
            found.len = found.len.saturating_add(stored_len(&incoming));
            if found.memories.is_multiple_of(REPORT_INTERVAL) {
                (self.progress)(ImportStage::Checking, Progress::new(found.memories, total));
            }
            Ok(())
        })?;
        preview.left_out = report.left_out;
        for note in &report.notes {
            preview.note(note.to_string());
        }
        self.done = preview;
        if self.done.secrets > 0 && !options.dry_run && !options.allow_secrets {
            return Err(refused(self.done.secrets, &found.secrets));
        }
        Ok(found)
    }

    /// Stores it as one group. What is known from the check is counted anew: others may have written meanwhile.
    fn store(&mut self, source: &Source, found: &Checked, name: &str) -> Result<()> {
        let done = &mut self.done;
        (done.imported, done.unchanged, done.replaced, done.kept) = (0, 0, 0, 0);
        let (progress, total) = (&mut self.progress, found.memories);
        if found.is_one_group() {
            let mut group = Vec::new();
            source.read(&mut |item| {
                group.push(item.incoming);
                Ok(())
            })?;
            let (outcomes, reused) = self.store.import_group(&group, self.options.on_conflict)?;
            outcomes.into_iter().for_each(|outcome| done.count(outcome));
            done.vectors_reused += reused;
        } else {
            let target = format!("the import of {name}");
            let mut stored = 0_u64;
            self.store.import_all(&target, self.options.on_conflict, &mut |arriving| {
                source.read(&mut |item| {
                    let (outcome, has_vectors) = arriving.put(&item.incoming)?;
                    done.count(outcome);
                    done.vectors_reused += u64::from(has_vectors);
                    stored += 1;
                    if stored.is_multiple_of(REPORT_INTERVAL) {
                        progress(ImportStage::Storing, Progress::new(stored, total));
                    }
                    Ok(())
                })?;
                Ok(())
            })?;
        }
        progress(ImportStage::Storing, Progress::new(total, total));
        Ok(())
    }
}

/// The error of a memory whose id the store has for another one, with its place and what an import can do about it.
fn conflicting(error: Error, place: &str) -> Error {
    if error.kind() != ErrorKind::Conflict {
        return error;
    }
    placed(error, place).hint(
        "give it another id in the file; or import with --on-conflict keep or --on-conflict replace (in the library: \
         `on_conflict`)",
    )
}

/// The error of a file with secrets, by their places and never by what they say.
fn refused(count: u64, named: &[String]) -> Error {
    let more = count.saturating_sub(named.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let memories = if count == 1 { "memory holds" } else { "memories hold" };
    Error::new(ErrorKind::Refused, format!("{count} {memories} a secret: {}{more}", named.join("; "))).hint(
        "take them out; or import the file as it is with --allow-secrets (in the library: `allow_secrets`)",
    )
}

/// Bytes of a memory in the log, or somewhat more.
fn stored_len(incoming: &Incoming) -> usize {
    let remember = &incoming.remember;
    let texts = [&remember.text, &remember.source, &remember.session_id, &remember.collection];
    let optional = [&remember.speaker, &remember.role];
    let metadata = if remember.metadata.is_empty() {
        0
    } else {
        serde_json::to_vec(&remember.metadata).map_or(0, |json| json.len())
    };
    let vectors = match &incoming.given {
        None => 0,
        Some(Given::Original(vector) | Given::Own(vector)) => VECTORS_OVERHEAD_LEN + 4 * vector.len(),
        Some(Given::Exact(vectors)) => {
            VECTORS_OVERHEAD_LEN + vectors.windows.iter().map(|window| 4 * window.len()).sum::<usize>()
        }
    };
    MEMORY_OVERHEAD_LEN
        + texts.iter().map(|text| text.len()).sum::<usize>()
        + optional.iter().map(|label| label.as_ref().map_or(0, String::len)).sum::<usize>()
        + remember.id.as_ref().map_or(0, |id| id.as_str().len())
        + remember.tags.iter().map(|tag| tag.len() + 8).sum::<usize>()
        + metadata
        + vectors
}

impl Imported {
    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::New => &mut self.imported,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Replaced => &mut self.replaced,
            Outcome::Kept => &mut self.kept,
        } += 1;
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX { self.notes.push(note) } else { self.notes_more += 1 }
    }
}
