//! `backups`: which backups there are, and what is known of them.

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::{session, table, text};
use crate::{Backup, BackupVerdict, backups_in};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv backups
  memento-kv backups --deep --json

verified: it is what it was when it was read back. unverified: nobody has checked it, such as one that the
original Memento made. damaged: it is not what its manifest says; nothing is restored from it.")]
pub(crate) struct BackupsArgs {
    /// Read every verified one as a whole and compare it with its manifest
    #[arg(long)]
    deep: bool,
}

pub(crate) fn run(args: &BackupsArgs, context: &Context<'_>) -> Result<(), Failure> {
    // Without the store: it may be gone or damaged, or its owner may hang, and then backups are wanted most.
    let backups = backups_in(&session::home(context)?.path, args.deep)?;
    if context.out.json {
        return context.out.print_json(&backups);
    }
    if backups.is_empty() {
        context.out.note("no backups yet; `memento-kv backup` makes one");
        return Ok(());
    }
    context.out.print(&pretty(&backups, context.out, context.now()))
}

fn pretty(backups: &[Backup], out: &Output, now: i64) -> String {
    let mut table = table::empty(out, ["Age", "Verdict", "Memories", "Size", "File"]);
    for backup in backups {
        let color = match backup.verdict {
            BackupVerdict::Verified => Color::DarkGreen,
            BackupVerdict::Unverified => Color::DarkYellow,
            _ => Color::DarkRed,
        };
        table.add_row(vec![
            // `memory.db.backup` of the original says it nowhere.
            Cell::new(match backup.created_ms {
                0 => "?".to_owned(),
                created_ms => text::age(created_ms.div_euclid(1000), now),
            }),
            Cell::new(backup.verdict.name()).fg(color),
            Cell::new(backup.memories.map_or("?".to_owned(), |memories| memories.to_string()))
                .set_alignment(CellAlignment::Right),
            Cell::new(text::bytes(backup.bytes)).set_alignment(CellAlignment::Right),
            Cell::new(text::line(&backup.path.to_string_lossy())),
        ]);
    }
    format!("{table}\n")
}
