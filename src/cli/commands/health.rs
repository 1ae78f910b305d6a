//! `health`: one run of the store's own upkeep.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use anstyle::AnsiColor;
use clap::Args;
use comfy_table::{Cell, Color};

use crate::Result;
use crate::cli::commands::schedule::ScheduleArgs;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, table, text};
use crate::health::{Outcome, Report, RunOptions, Status, run as run_health};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv health
  memento-kv health --deep --json
  memento-kv health --dry-run
  memento-kv health --install --dry-run
  memento-kv health --install cron
  memento-kv health --metrics /var/lib/node_exporter/memento.prom

One run checks the store (every byte once a day, or with --deep), mends what is damaged from whatever holds
the content, brings back a store that is gone, brings memory.db up to date, makes a verified backup when
one is due, makes vectors and brings in memories that wait, and rotates the logs. What it found and did
is one line in logs/health.log. Two runs at once are safe.

Ends with 0 when all is well or was healed, 1 when something is damaged and was not mended, or is lost,
3 when a person has to decide, 4 when another process does not let go of the store, 5 when a file could
not be read or written or the disk is full.")]
pub(crate) struct HealthArgs {
    /// Read every byte, also when that was done less than a day ago
    #[arg(long)]
    deep: bool,
    /// Only say what would be done: no file changes
    #[arg(long)]
    dry_run: bool,
    /// Write the figures for Prometheus into this file, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Begin a new, empty store where one was before and is gone
    #[arg(long)]
    begin_anew: bool,
    #[command(flatten)]
    schedule: ScheduleArgs,
}

pub(crate) fn run(args: &HealthArgs, context: &Context<'_>) -> Result<(), Failure> {
    if args.schedule.is_asked() {
        return args.schedule.run(args.dry_run || context.global.read_only, context);
    }
    let home = session::home(context)?;
    let options = RunOptions {
        deep: args.deep,
        dry_run: args.dry_run || context.global.read_only,
        metrics: args.metrics.clone(),
        begin_anew: args.begin_anew,
    };
    let bars = Bars { out: context.out, shown: Mutex::new(None) };
    let report = run_health(&home, &options, context.now_ms, &mut |doing, progress| {
        bars.set(doing, progress.done, progress.total);
    });
    drop(bars);
    let report = report?;
    let out = context.out;
    if out.json {
        out.print_json(&report)?;
    } else {
        out.print(&pretty(&report, out))?;
        for problem in &report.problems {
            out.warn(problem);
        }
        for hint in &report.hints {
            out.note(&format!("hint: {hint}"));
        }
    }
    match report.status {
        Status::Damaged | Status::Lost => Err(Failure::Ended(1)),
        Status::Decision => Err(Failure::Ended(3)),
        Status::Busy => Err(Failure::Ended(4)),
        Status::Failed => Err(Failure::Ended(5)),
        _ => Ok(()),
    }
}

/// One bar after the other.
struct Bars<'a> {
    out: &'a Output,
    shown: Mutex<Option<(&'static str, Bar)>>,
}

impl Bars<'_> {
    fn set(&self, doing: &'static str, done: u64, total: u64) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if shown.as_ref().is_none_or(|(other, _)| *other != doing) {
            let unit = if doing == "checking" || doing == "mending" { Unit::Bytes } else { Unit::Count };
            *shown = None;
            *shown = Some((doing, Bar::new(self.out, doing, unit)));
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.set(done, total);
        }
    }
}

fn pretty(report: &Report, out: &Output) -> String {
    let mut shown = if out.terminal { as_table(report, out) } else { as_lines(report) };
    for finding in &report.findings {
        let at = finding.offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
        let _ = writeln!(
            shown,
            "found: {}{at}: {}: {}",
            text::line(&finding.file),
            finding.kind,
            text::line(&finding.detail)
        );
    }
    for healed in &report.healed {
        let kept = match healed.quarantined.as_slice() {
            [] => String::new(),
            files => format!("; kept as {}", files.join(", ")),
        };
        let _ =
            writeln!(shown, "healed: {}: {}{}", text::line(&healed.file), text::line(&healed.detail), kept);
    }
    if let Some(lost) = report.lost_sentence() {
        let _ = writeln!(shown, "lost: {lost}");
    }
    let color = match report.status {
        status if status.is_good() && status != Status::Healed => AnsiColor::Green,
        Status::Healed | Status::Busy => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    let status = out.paint(color.on_default().bold(), report.status.name());
    let mut last = format!("{status}: {}", sentence(report.status));
    if let Some(memories) = report.memories {
        let _ = write!(last, "; {}", text::count(memories, "memory", "memories"));
    }
    if let Some(seq) = report.seq {
        let _ = write!(last, ", sequence {}", text::number(seq));
    }
    if let Some(backup) = &report.backup {
        let age = text::age(
            backup.created_ms.div_euclid(1000),
            backup.created_ms.div_euclid(1000) + backup.age_seconds,
        );
        let _ = write!(last, "; last good backup {age}");
    }
    let _ = writeln!(shown, "{last}");
    shown
}

fn sentence(status: Status) -> &'static str {
    match status {
        Status::Ok => "all is well",
        Status::Nothing => "nothing is remembered here yet",
        Status::Running => "another health run is at work here, so this one did nothing",
        Status::Healed => "what was damaged or gone came back",
        Status::Failed => "something could not be read or written",
        Status::Busy => "another process has the store and does not let go of it",
        Status::Damaged => "something is damaged and was not mended",
        Status::Lost => "something is lost, and named above",
        _ => "a person has to decide",
    }
}

fn as_table(report: &Report, out: &Output) -> String {
    let mut table = table::empty(out, ["Step", "", "What"]);
    for step in &report.steps {
        let color = match step.outcome {
            Outcome::Ok | Outcome::Done => Color::DarkGreen,
            Outcome::Warning | Outcome::Would => Color::DarkYellow,
            Outcome::Skipped => Color::Grey,
            _ => Color::DarkRed,
        };
        table.add_row(vec![
            Cell::new(step.step),
            Cell::new(step.outcome.name()).fg(color),
            Cell::new(text::line(&step.detail)),
        ]);
    }
    if report.steps.is_empty() { String::new() } else { format!("{table}\n") }
}

fn as_lines(report: &Report) -> String {
    let mut lines = String::new();
    for step in &report.steps {
        let _ = writeln!(lines, "{}: {}: {}", step.step, step.outcome.name(), text::line(&step.detail));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_found_nothing_is_short() {
        let report = Report::default();
        assert_eq!(pretty(&report, &Output::pipe()), "ok: all is well\n");
    }
}
