//! Loads many memories from JSON Lines: checks the whole file first, then stores it in atomic batches, then makes
//! the vectors.
//!
//! So a bad line stops the load before anything is stored. What can still fail between two batches is the store
//! itself; the error then says which memories are safe.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::input::{self, STDIN_NAME};
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};
use crate::transfer::{JsonlMemory, JsonlReader, UnknownKeys};
use crate::{Duplicates, Error, Result, Store};

/// After so many new vectors the index is brought up to date at once; fewer wait until it is due.
const INDEXED_MIN: u64 = 1000;
/// Memories of one batch, which is stored as a whole or not at all.
const BATCH_COUNT_MAX: usize = 500;

/// What is to be loaded, and how.
pub(super) struct Load<'a> {
    /// The file; `-` is standard input.
    pub(super) file: &'a Path,
    pub(super) duplicates: Duplicates,
    /// Whether vectors are made at once.
    pub(super) embed: bool,
    /// Whether memories with secrets are stored.
    pub(super) allow_secrets: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Loaded {
    /// Memories that were read; every one is durable.
    pub(super) remembered: u64,
    /// How many of them the store had already, or nearly.
    pub(super) duplicates: u64,
    /// Memories of the store that still wait for their vector.
    pub(super) pending: u64,
}

pub(super) fn run(load: &Load<'_>, context: &Context<'_>) -> Result<(), Failure> {
    let mut source = Source::open(load.file, context.out)?.allow_secrets(load.allow_secrets);
    source.check(context.out)?;
    let (_, store) = session::open(context)?;
    let mut loaded = source.store(&store, load.duplicates, context.out)?;
    if load.embed {
        embed(&store, loaded.remembered, context.out);
    }
    loaded.pending = store.stats()?.pending;
    let safe = format!("{} safely stored", text::count(loaded.remembered, "memory is", "memories are"));
    let told = tell(loaded, context.out).map_err(|failure| failure.although(&safe));
    session::close(context, store);
    told
}

/// A file of JSON Lines that can be read twice.
pub(super) struct Source<'a> {
    name: &'a Path,
    file: File,
    count: u64,
    allow_secrets: bool,
}

impl<'a> Source<'a> {
    pub(super) fn open(path: &'a Path, out: &Output) -> Result<Self> {
        if path == Path::new("-") {
            let mut file = unnamed_file()?;
            input::spool_stdin(&mut file, out)?;
            return Ok(Self { name: Path::new(STDIN_NAME), file, count: 0, allow_secrets: false });
        }
        let mut file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("read", path, error))?;
        if !metadata.is_file() {
            let mut spooled = unnamed_file()?;
            input::spool(&mut file, path, &mut spooled)?;
            file = spooled;
        }
        Ok(Self { name: path, file, count: 0, allow_secrets: false })
    }

    /// Whether memories with secrets are stored.
    pub(super) fn allow_secrets(mut self, allow: bool) -> Self {
        self.allow_secrets = allow;
        self
    }

    /// Reads all of it without storing anything, and says how many memories there are.
    pub(super) fn check(&mut self, out: &Output) -> Result<u64> {
        let bar = Bar::new(out, "checking", Unit::Bytes);
        let len = self.file.metadata().map_or(0, |metadata| metadata.len());
        let mut count: u64 = 0;
        let mut reader = self.reader()?;
        while let Some(JsonlMemory { line, remember }) =
            reader.next_memory().map_err(|error| nothing_stored(error, self.name))?
        {
            let refused = |error: Error| {
                let hint = error.hint_text().unwrap_or_default().to_owned();
                let placed = Error::new(error.kind(), format!("line {line}: {}", error.message()));
                nothing_stored(placed.hint(hint), self.name)
            };
            remember.allow_secrets(self.allow_secrets).check_secrets().map_err(refused)?;
            count += 1;
            if count.is_multiple_of(1000) {
                bar.set((&self.file).stream_position().unwrap_or(0), len);
            }
        }
        warn_unknown(reader.unknown_keys(), out);
        self.count = count;
        Ok(count)
    }

    /// Stores it, batch by batch.
    pub(super) fn store(&mut self, store: &Store, duplicates: Duplicates, out: &Output) -> Result<Loaded> {
        let bar = Bar::new(out, "storing", Unit::Count);
        let mut loaded = Loaded::default();
        let mut reader = self.reader()?;
        loop {
            let read = |error| partly_stored(error, self.name, loaded.remembered, None);
            let batch = reader.next_batch(BATCH_COUNT_MAX).map_err(read)?;
            let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(loaded) };
            let lines = (first.line, last.line);
            let stored = |error| partly_stored(error, self.name, loaded.remembered, Some(lines));
            let all = batch.into_iter().map(|JsonlMemory { remember, .. }| {
                remember.on_duplicate(duplicates).allow_secrets(self.allow_secrets)
            });
            let remembered = store.remember_many(all.collect()).map_err(stored)?;
            loaded.remembered += remembered.len() as u64;
            loaded.duplicates += remembered.iter().filter(|one| one.duplicate_of.is_some()).count() as u64;
            bar.set(loaded.remembered, self.count);
        }
    }

    fn reader(&self) -> Result<JsonlReader<BufReader<&File>>> {
        (&self.file).seek(SeekFrom::Start(0)).map_err(|error| Error::io("read", self.name, error))?;
        Ok(JsonlReader::new(BufReader::with_capacity(1 << 18, &self.file)))
    }
}

/// Makes the vectors that are due. The memories are safe whatever becomes of it, so trouble is only a warning.
pub(super) fn embed(store: &Store, stored: u64, out: &Output) {
    if stored == 0 {
        return;
    }
    if out.err_terminal {
        let all = text::count(stored, "memory is", "memories are");
        out.note(&format!("{all} safely stored; making vectors, Ctrl-C is safe"));
    }
    let outcome = {
        let bar = Bar::new(out, "making vectors", Unit::Count);
        store.embed_pending(&mut bar.listener())
    };
    if stored >= INDEXED_MIN && outcome.is_ok() {
        let bar = Bar::new(out, "indexing vectors", Unit::Count);
        if let Err(error) = store.build_index(false, &mut bar.listener()) {
            out.warn(&format!("the vector index could not be made, recall is slower without it: {error}"));
        }
    }
    match outcome {
        Ok(embedded) if embedded.failed == 0 => {}
        Ok(embedded) => out.warn(&format!(
            "{} no vector and are found by words only; `memento-kv reembed` tries again",
            text::count(embedded.failed, "memory has", "memories have")
        )),
        Err(error) => out.warn(&format!(
            "the memories are safe and found by words, but their vectors could not be made: {error}"
        )),
    }
}

/// A file without a name, which is gone when the program ends.
fn unnamed_file() -> Result<File> {
    tempfile::tempfile().map_err(|error| Error::io("make a temporary file", &std::env::temp_dir(), error))
}

fn warn_unknown(unknown: &UnknownKeys, out: &Output) {
    for (name, key) in unknown.iter() {
        let places = text::count(key.count, "line", "lines");
        out.warn(&format!("key `{name}` has no effect ({places}, first in line {})", key.first));
    }
    if unknown.more() > 0 {
        out.warn(&format!(
            "and {} with other keys that have no effect",
            text::count(unknown.more(), "time", "times")
        ));
    }
}

fn nothing_stored(error: Error, name: &Path) -> Error {
    let hint = match error.hint_text() {
        Some(hint) => format!("{hint}; nothing was stored"),
        None => "nothing was stored".to_owned(),
    };
    error.at(name).hint(hint)
}

/// The same error, with the lines it is about and what is safe.
fn partly_stored(error: Error, name: &Path, stored: u64, lines: Option<(u64, u64)>) -> Error {
    let place = match lines {
        Some((first, last)) if first == last => format!("line {first}: "),
        Some((first, last)) => format!("lines {first} to {last}: "),
        None => String::new(),
    };
    let safe = format!("the {} before are safely stored", text::count(stored, "memory", "memories"));
    let safe = if stored == 0 { "nothing was stored".to_owned() } else { safe };
    let hint = error.hint_text().map_or_else(|| safe.clone(), |hint| format!("{hint}; {safe}"));
    Error::new(error.kind(), format!("{place}{error}"))
        .at(name)
        .durable(error.durability())
        .hint(hint)
        .with_source(error)
}

fn tell(loaded: Loaded, out: &Output) -> Result<(), Failure> {
    if out.json { out.print_json(&loaded) } else { out.print_line(&summary(loaded)) }
}

fn summary(loaded: Loaded) -> String {
    let mut summary = format!("{} remembered", text::count(loaded.remembered, "memory", "memories"));
    if loaded.duplicates > 0 {
        summary.push_str(&format!(", {} of them known already", text::number(loaded.duplicates)));
    }
    if loaded.pending > 0 {
        summary.push_str(&format!(
            "; {} for a vector, `memento-kv reembed` makes it",
            text::count(loaded.pending, "waits", "wait")
        ));
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn source(text: &str) -> (tempfile::NamedTempFile, Result<u64>) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("write");
        let checked =
            Source::open(file.path(), &Output::pipe()).and_then(|mut source| source.check(&Output::pipe()));
        (file, checked)
    }

    #[test]
    fn a_good_file_is_counted() {
        let (_file, count) = source("{\"text\":\"a\"}\n\n{\"text\":\"b\",\"id\":\"x\"}\n");
        assert_eq!(count.expect("two lines"), 2);
        let (_file, count) = source("");
        assert_eq!(count.expect("no line"), 0);
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_is_stored() {
        let (file, checked) = source("{\"text\":\"a\"}\n{\"text\":\n");
        let error = checked.expect_err("line 2");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.path(), Some(file.path()));
        assert!(error.message().contains("line 2"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.ends_with("nothing was stored")), "{error}");
    }

    #[test]
    fn a_missing_file_and_a_folder_are_errors_of_input() {
        let missing = Source::open(Path::new("/no/such/file"), &Output::pipe()).err().expect("missing");
        assert_eq!(missing.kind(), ErrorKind::Io);
        let folder = Source::open(&std::env::temp_dir(), &Output::pipe()).err().expect("a folder");
        assert_eq!(folder.kind(), ErrorKind::Io);
    }

    #[test]
    fn an_error_between_batches_says_what_is_safe() {
        let full = Error::new(ErrorKind::NoSpace, "write: no space").hint("free some space");
        let error = partly_stored(full, Path::new("m.jsonl"), 500, Some((501, 1000)));
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.to_string(), "m.jsonl: lines 501 to 1000: write: no space");
        assert_eq!(error.hint_text(), Some("free some space; the 500 memories before are safely stored"));
    }

    #[test]
    fn a_pipe_is_spooled_and_read_from_its_beginning() {
        let mut file = unnamed_file().expect("a temporary file");
        input::spool(&mut &b"{\"text\":\"a\"}\n"[..], Path::new(STDIN_NAME), &mut file).expect("spooled");
        let mut source = Source { name: Path::new(STDIN_NAME), file, count: 0, allow_secrets: false };
        for _ in 0..2 {
            assert_eq!(source.check(&Output::pipe()).expect("one line"), 1);
        }
    }

    #[test]
    fn the_summary_names_what_a_person_may_wonder_about() {
        let loaded = Loaded { remembered: 1200, duplicates: 2, pending: 1 };
        assert_eq!(
            summary(loaded),
            "1,200 memories remembered, 2 of them known already; 1 waits for a vector, `memento-kv reembed` makes it"
        );
        assert_eq!(summary(Loaded { remembered: 1, ..Loaded::default() }), "1 memory remembered");
    }
}
