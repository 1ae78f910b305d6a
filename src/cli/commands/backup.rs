//! `backup`: makes a verified backup.

use std::path::PathBuf;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv backup
  memento-kv backup /mnt/disk/memento.db

Without a path it goes to the home's folder `backups`, as memory_YYYYMMDD_HHMMSS.db with a manifest beside
it, and stays for storage.backup_retention_days days; those that health runs make are thinned out to one an
hour and then one a day. With a path it stays for good. `backups` lists them, `restore` brings one back.")]
pub(crate) struct BackupArgs {
    /// Where to, a new file or a folder; nothing is let go then
    path: Option<PathBuf>,
}

pub(crate) fn run(args: &BackupArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (home, store) = session::open_existing(context)?;
    let bar = Bar::new(context.out, "making a backup", Unit::Count);
    let made = match &args.path {
        Some(path) => store.backup_to(path, &mut bar.listener()),
        None => store.backup_with(home.config.storage.backup_retention_days, &mut bar.listener()),
    };
    drop(bar);
    session::close(context, store);
    let made = made?;
    if context.out.json {
        return context.out.print_json(&made);
    }
    let memories = text::count(made.memories.unwrap_or(0), "memory", "memories");
    context.out.print_line(&format!(
        "{}: {memories}, {}, verified",
        made.path.display(),
        text::bytes(made.bytes)
    ))
}
