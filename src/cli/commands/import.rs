//! `import`: memories from the original, from this program and from others.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::load;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::input::{self, STDIN_NAME};
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};
use crate::transfer::{ImportFormat, ImportOptions, ImportStage, Imported};
use crate::{Error, OnConflict, Result};

/// Notes that are shown one by one.
const NOTES_SHOWN_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv import ~/.openclaw/memory/memory.db --dry-run
  memento-kv import memories.json
  memento-kv import CLAUDE.md
  memento-kv import notes/
  curl -s https://example.org/memories | memento-kv import -

The content of the file tells what it is, unless --format names it. Ids and times are kept. Everything is checked before
anything is stored, all of a file is stored or nothing, and importing a file again adds nothing twice. What somebody else
is using is read as a private copy; nothing of it is changed.

A file with passwords, keys or tokens is refused with exit code 7, with their places, unless --allow-secrets is given.")]
pub(crate) struct ImportArgs {
    /// The file, or a folder of Markdown files; - reads standard input
    file: PathBuf,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What the file holds [default: what its content says]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// When the store has another memory under the same id: fail, keep the store's, or replace it
    #[arg(long, value_enum, default_value_t = ConflictArg::Fail)]
    on_conflict: ConflictArg,
    /// Leave making the vectors to a later `memento-kv reembed`
    #[arg(long)]
    no_embed: bool,
    /// Store memories that hold a password, a key or a token as they are
    #[arg(long)]
    allow_secrets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// The original's export, or a bare list of memories
    Json,
    /// One memory as an object on each line
    Jsonl,
    /// A SQLite database: memory.db of the original or of this program, or claude-mem's
    Sqlite,
    /// The file of the reference memory server of MCP
    Mcp,
    /// Memories as mem0's interface answers them
    Mem0,
    /// The export of claude-mem
    ClaudeMem,
    /// Markdown such as CLAUDE.md, or a folder of it; every section is a memory
    Markdown,
}

impl From<FormatArg> for ImportFormat {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Json => Self::Json,
            FormatArg::Jsonl => Self::Jsonl,
            FormatArg::Sqlite => Self::Sqlite,
            FormatArg::Mcp => Self::Mcp,
            FormatArg::Mem0 => Self::Mem0,
            FormatArg::ClaudeMem => Self::ClaudeMem,
            FormatArg::Markdown => Self::Markdown,
        }
    }
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
    if args.file == Path::new("-") {
        let spooled = spooled(context, |file| input::spool_stdin(file, context.out))?;
        return import(spooled.path(), Path::new(STDIN_NAME), args, context);
    }
    let is_pipe = fs::metadata(&args.file).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    if is_pipe {
        let mut pipe = File::open(&args.file).map_err(|error| Error::io("open", &args.file, error))?;
        let spooled = spooled(context, |file| input::spool(&mut pipe, &args.file, file))?;
        return import(spooled.path(), &args.file, args, context);
    }
    import(&args.file, &args.file, args, context)
}

fn import(file: &Path, name: &Path, args: &ImportArgs, context: &Context<'_>) -> Result<(), Failure> {
    let renamed = |error: Error| if error.path() == Some(file) { error.at(name) } else { error };
    let format = match args.format {
        Some(format) => format.into(),
        // Before the store is opened, or even made: a wrong path is no reason for either.
        None => ImportFormat::of(file).map_err(renamed)?,
    };
    let options = ImportOptions::default()
        .format(format)
        .on_conflict(args.on_conflict.into())
        .dry_run(args.dry_run)
        .allow_secrets(args.allow_secrets);
    let options = match session::home_folder(context) {
        Some(home) => options.scratch(home),
        None => options,
    };
    // What is only looked at makes no store: without one, an empty one somewhere else stands for it.
    let nowhere = args.dry_run.then(tempfile::tempdir).transpose();
    let nowhere =
        nowhere.map_err(|error| Error::io("make a temporary folder", &std::env::temp_dir(), error))?;
    let store = session::open_for_import(context, nowhere.as_ref().map(tempfile::TempDir::path))?;
    let imported = {
        let mut bars = Bars::default();
        let mut listener = |stage, done: crate::Progress| bars.show(context.out, stage, done);
        store.import(file, &options, &mut listener).map_err(renamed)?
    };
    if !args.dry_run && !args.no_embed {
        load::embed(&store, imported.imported + imported.replaced, context.out);
    }
    let told = tell(&imported, args.dry_run, context.out);
    session::close(context, store);
    told
}

/// The bar of the stage that an import is in.
#[derive(Default)]
struct Bars {
    current: Option<(ImportStage, Bar)>,
}

impl Bars {
    fn show(&mut self, out: &Output, stage: ImportStage, done: crate::Progress) {
        let doing = if stage == ImportStage::Storing { "storing" } else { "checking" };
        if self.current.as_ref().is_none_or(|(current, _)| *current != stage) {
            // The former one goes before the next is drawn.
            self.current = None;
            self.current = Some((stage, Bar::new(out, doing, Unit::Count)));
        }
        if let Some((_, bar)) = &self.current {
            bar.set(done.done, done.total.max(done.done));
        }
    }
}

/// What cannot be read twice, in a file with a name. It goes when it is dropped; a process that is killed leaves it in the
/// home, which is the user's alone, and `doctor` tells of it.
fn spooled(
    context: &Context<'_>,
    fill: impl FnOnce(&mut File) -> Result<()>,
) -> Result<tempfile::NamedTempFile> {
    let folder = session::home_folder(context).unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix("import-").suffix(".tmp").tempfile_in(&folder);
    let mut file = made.map_err(|error| Error::io("make a temporary file", &folder, error))?;
    fill(file.as_file_mut())?;
    Ok(file)
}

fn tell(imported: &Imported, dry_run: bool, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.print_json(imported);
    }
    if let Some(origin) = &imported.origin {
        out.note(&format!("this is {origin}"));
    }
    for note in imported.notes.iter().take(NOTES_SHOWN_MAX) {
        out.note(&format!("note: {note}"));
    }
    let more = imported.notes.len().saturating_sub(NOTES_SHOWN_MAX) as u64 + imported.notes_more;
    if more > 0 {
        out.note(&format!("note: and {} like these, --json shows all", text::number(more)));
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
        (imported.duplicates, "with a text that another memory has, too"),
        (imported.left_out, "left out"),
        (imported.secrets, "with a secret"),
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
    fn the_summary_counts_what_happened() {
        let mut imported = Imported::default();
        (imported.imported, imported.unchanged, imported.kept) = (194, 3, 1);
        assert_eq!(summary(&imported, false), "194 memories imported, 3 there already, 1 kept as they are");
        (imported.unchanged, imported.kept, imported.duplicates, imported.left_out) = (0, 0, 2, 1);
        assert_eq!(
            summary(&imported, false),
            "194 memories imported, 2 with a text that another memory has, too, 1 left out"
        );
        assert_eq!(summary(&Imported::default(), true), "0 memories would be imported");
    }
}
