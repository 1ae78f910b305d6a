//! `restore`: takes the store to another state.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{Cell, CellAlignment};

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::{session, table, text};
use crate::health::revive;
use crate::home::Home;
use crate::{
    Error, ErrorKind, Moment, RestoreFrom, RestoreOptions, RestorePoint, Restored, Result, latest_backup_in,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv restore
  memento-kv restore --latest --dry-run
  memento-kv restore ~/.memento/backups/memory_20260217_123456.db --exact
  memento-kv restore --at 2h
  memento-kv restore --undo

Without a source it lists what can be gone back to: the states before restores, large imports and a memory.db that
was put there by hand. `memento-kv backups` lists the backups.

A file gives back what the store has lost; what the log knows to be newer stays, and what was forgotten
since stays forgotten. With --exact, --at and --seq the store goes back to exactly that state. Nothing is
removed by a restore: --undo takes it back, for 30 days.")]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    source: Source,
    /// Go back to exactly what the file holds, also where the log has something newer
    #[arg(long, requires = "Source")]
    exact: bool,
    /// Only say what would change
    #[arg(long, requires = "Source")]
    dry_run: bool,
}

/// What to restore: one of them, or none to see what there is.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Source {
    /// A backup, a snapshot, or a database of the original
    file: Option<PathBuf>,
    /// The newest verified backup
    #[arg(long)]
    latest: bool,
    /// The state at this time: 2026-02-17T12:30, Unix seconds, or an age such as 2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// The state after the record of this sequence, as `remember --json` gave it
    #[arg(long, value_name = "N")]
    seq: Option<u64>,
    /// The state before the last restore
    #[arg(long)]
    undo: bool,
}

pub(crate) fn run(args: &RestoreArgs, context: &Context<'_>) -> Result<(), Failure> {
    let Some(from) = from(&args.source, context)? else { return list(context) };
    // What a home without a store has to give back may be a backup.
    let opened = match from {
        RestoreFrom::File(_) if !args.dry_run => session::open(context),
        _ => session::open_existing(context),
    };
    let restored = match opened {
        Ok((_, store)) => {
            let options = RestoreOptions { exact: args.exact, dry_run: args.dry_run };
            let restored = store.restore(&from, options);
            session::close(context, store);
            restored?
        }
        Err(error) if error.kind() == ErrorKind::Gone && !args.dry_run => {
            revived(&from, &session::home(context)?, error)?
        }
        Err(error) => return Err(error.into()),
    };
    for problem in &restored.problems {
        context.out.warn(problem);
    }
    if context.out.json {
        return context.out.print_json(&restored);
    }
    context.out.print(&pretty(&restored))
}

/// In a home whose store is gone: one is made from the file.
fn revived(from: &RestoreFrom, home: &Home, gone: Error) -> Result<Restored> {
    match from {
        RestoreFrom::File(file) => revive(home, file),
        RestoreFrom::Latest => {
            let latest = latest_backup_in(&home.path)?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no verified backup")
                    .at(&home.path)
                    .hint("name an unverified one to restore it")
            })?;
            revive(home, &latest.path)
        }
        _ => Err(gone),
    }
}

fn from(args: &Source, context: &Context<'_>) -> Result<Option<RestoreFrom>> {
    Ok(match (&args.file, &args.at, args.seq) {
        (Some(file), ..) => Some(RestoreFrom::File(file.clone())),
        (_, Some(at), _) => match session::moment(context, at)? {
            Moment::At(ms) => Some(RestoreFrom::At(ms)),
            _ => unreachable!("a time is a time"),
        },
        (_, _, Some(seq)) => Some(RestoreFrom::Seq(seq)),
        _ if args.undo => Some(RestoreFrom::Undo),
        _ if args.latest => Some(RestoreFrom::Latest),
        _ => None,
    })
}

/// Lists what can be gone back to.
fn list(context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open_existing(context)?;
    let points = store.restore_points();
    session::close(context, store);
    let points = points?;
    if context.out.json {
        return context.out.print_json(&points);
    }
    if points.is_empty() {
        context
            .out
            .note("nothing was restored or imported at large yet; `memento-kv backups` lists the backups");
        return Ok(());
    }
    context.out.print(&listed(&points, context.out, context.now()))
}

fn listed(points: &[RestorePoint], out: &Output, now: i64) -> String {
    let mut table = table::empty(out, ["Age", "Time", "Sequence", "State"]);
    for point in points {
        let seconds = point.at_ms.div_euclid(1000);
        table.add_row(vec![
            Cell::new(text::age(seconds, now)),
            Cell::new(text::local_time(seconds)),
            Cell::new(point.seq).set_alignment(CellAlignment::Right),
            Cell::new(text::line(&point.name)),
        ]);
    }
    format!("{table}\n`memento-kv restore --seq SEQUENCE` goes back to one of them\n")
}

fn pretty(restored: &Restored) -> String {
    let changed = &restored.changed;
    let would = if restored.dry_run { "would be " } else { "" };
    let mut lines = vec![format!(
        "{}: {} {would}added, {} {would}changed, {} {would}forgotten, {} as they were",
        restored.target,
        text::count(changed.added, "memory", "memories"),
        changed.changed,
        changed.forgotten,
        changed.unchanged,
    )];
    if restored.kept > 0 {
        lines.push(format!("{} newer in the log and kept; --exact goes back to the file", restored.kept));
    }
    for (what, ids) in [
        ("added", &changed.added_ids),
        ("changed", &changed.changed_ids),
        ("forgotten", &changed.forgotten_ids),
    ] {
        if restored.dry_run && !ids.is_empty() {
            let shown: Vec<&str> = ids.iter().take(20).map(|id| id.as_str()).collect();
            let more = if ids.len() > shown.len() { ", ..." } else { "" };
            lines.push(format!("{what}: {}{more}", shown.join(", ")));
        }
    }
    if !restored.dry_run && changed.count() > 0 {
        lines.push("`memento-kv restore --undo` takes it back".to_owned());
    }
    format!("{}\n", lines.join("\n"))
}
