//! `import`: the JSON export of the original, or JSON Lines.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::load::{self, Source};
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::input::{self, STDIN_NAME};
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};
use crate::transfer::Imported;
use crate::{Duplicates, Error, ErrorKind, OnConflict, Result, Store};

/// Notes that are shown one by one.
const NOTES_SHOWN_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv import memories.json --dry-run
  memento-kv import memories.json
  memento-kv import memories.jsonl

Ids and times are kept. JSON is imported as a whole or not at all; JSONL in batches, after all of it was checked.")]
pub(crate) struct ImportArgs {
    /// The file; - reads standard input
    file: PathBuf,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What the file holds [default: by its name, else json]
    #[arg(long, value_enum)]
    format: Option<ImportFormat>,
    /// When the store has another memory under the same id: fail, keep the store's, or replace it (JSON only)
    #[arg(long, value_enum, default_value_t = ConflictArg::Fail)]
    on_conflict: ConflictArg,
    /// Leave making the vectors to a later `memento-kv reembed`
    #[arg(long)]
    no_embed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ImportFormat {
    Json,
    Jsonl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ConflictArg {
    Fail,
    Keep,
    Replace,
}

impl From<ConflictArg> for OnConflict {
    fn from(conflict: ConflictArg) -> Self {
        match conflict {
            ConflictArg::Fail => Self::Fail,
            ConflictArg::Keep => Self::Keep,
            ConflictArg::Replace => Self::Replace,
        }
    }
}

pub(crate) fn run(args: &ImportArgs, context: &Context<'_>) -> Result<(), Failure> {
    match args.format.unwrap_or_else(|| format_of(&args.file)) {
        ImportFormat::Json => run_json(args, context),
        ImportFormat::Jsonl => run_jsonl(args, context),
    }
}

fn format_of(file: &Path) -> ImportFormat {
    let is_lines = |extension: &std::ffi::OsStr| {
        extension.eq_ignore_ascii_case("jsonl") || extension.eq_ignore_ascii_case("ndjson")
    };
    if file.extension().is_some_and(is_lines) { ImportFormat::Jsonl } else { ImportFormat::Json }
}

fn run_json(args: &ImportArgs, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if args.file == Path::new("-") {
        let spooled = spooled_stdin(out)?;
        return import_json(spooled.path(), Path::new(STDIN_NAME), args, context);
    }
    import_json(&args.file, &args.file, args, context)
}

fn import_json(file: &Path, name: &Path, args: &ImportArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open(context)?;
    let imported = {
        let bar = Bar::new(context.out, "importing", Unit::Count);
        let imported = store.import_json(file, args.on_conflict.into(), args.dry_run, &mut bar.listener());
        imported.map_err(|error| error.at(name))?
    };
    finish(&imported, store, args, context)
}

fn run_jsonl(args: &ImportArgs, context: &Context<'_>) -> Result<(), Failure> {
    if args.on_conflict != ConflictArg::Fail {
        return Err(Error::new(ErrorKind::Invalid, "--on-conflict works with JSON only, this is JSONL")
            .hint("leave it out: the same memory twice is no conflict")
            .into());
    }
    let out = context.out;
    let mut source = Source::open(&args.file, out)?;
    let mut imported = Imported { imported: source.check(out)?, ..Imported::default() };
    let (_, store) = session::open(context)?;
    if !args.dry_run {
        // What somebody exported as two memories stays two.
        let loaded = source.store(&store, Duplicates::Keep, out)?;
        imported.unchanged = loaded.duplicates;
        imported.imported = loaded.remembered - loaded.duplicates;
    }
    finish(&imported, store, args, context)
}

fn finish(
    imported: &Imported,
    store: Store,
    args: &ImportArgs,
    context: &Context<'_>,
) -> Result<(), Failure> {
    if !args.dry_run && !args.no_embed {
        load::embed(&store, imported.imported + imported.replaced, context.out);
    }
    let told = tell(imported, args.dry_run, context.out);
    session::close(context, store);
    told
}

/// Standard input in a file with a name, which the library reads more than once. It goes when it is dropped.
fn spooled_stdin(out: &Output) -> Result<tempfile::NamedTempFile> {
    let made = tempfile::NamedTempFile::new();
    let mut file = made.map_err(|error| Error::io("make a temporary file", &std::env::temp_dir(), error))?;
    input::spool_stdin(file.as_file_mut(), out)?;
    Ok(file)
}

fn tell(imported: &Imported, dry_run: bool, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.print_json(imported);
    }
    for note in imported.notes.iter().take(NOTES_SHOWN_MAX) {
        out.note(&format!("note: {note}"));
    }
    if let Some(more) = imported.notes.len().checked_sub(NOTES_SHOWN_MAX).filter(|more| *more > 0) {
        out.note(&format!("note: and {} like these, --json shows all", text::number(more as u64)));
    }
    out.print_line(&summary(imported, dry_run))
}

fn summary(imported: &Imported, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let mut summary = format!("{} {would}imported", text::count(imported.imported, "memory", "memories"));
    for (count, what) in [
        (imported.unchanged, "there already"),
        (imported.replaced, "replaced"),
        (imported.kept, "kept as they are"),
    ] {
        if count > 0 {
            let _ = write!(summary, ", {} {what}", text::number(count));
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_tells_its_format() {
        for (name, expected) in [
            ("a.json", ImportFormat::Json),
            ("a", ImportFormat::Json),
            ("-", ImportFormat::Json),
            ("a.jsonl", ImportFormat::Jsonl),
            ("dir.json/a.NDJSON", ImportFormat::Jsonl),
        ] {
            assert_eq!(format_of(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_summary_counts_what_happened() {
        let imported = Imported { imported: 194, unchanged: 3, kept: 1, ..Imported::default() };
        assert_eq!(summary(&imported, false), "194 memories imported, 3 there already, 1 kept as they are");
        assert_eq!(summary(&Imported::default(), true), "0 memories would be imported");
    }
}
