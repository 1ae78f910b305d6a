//! `check`: the integrity of every file.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anstyle::AnsiColor;
use clap::{ArgGroup, Args};
use comfy_table::Cell;

use crate::check::{CheckOptions, CheckReport, CheckStatus, Finding, Loss, check_files_with};
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, table, text};
use crate::{Error, ErrorKind, Result, Store};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("every_byte").args(["deep", "files"]).multiple(true))]
#[command(after_help = "\
Examples:
  memento-kv check
  memento-kv check --deep --json
  memento-kv check --files
  memento-kv check --deep --resume check.jsonl --timeout-ms 60000
  memento-kv check --repair

Without an option it reads what says most about the rest, in milliseconds: manifest, headers, seals
and their links, the segment that is open, and what memory.db and the backups say of themselves.
--deep reads every byte. --files does so without
opening the store, also beside a program that has it open. --repair reads every byte and mends what
it finds; damaged files, backups too, are kept in store/quarantine, and memory.db is published anew.

With --resume a check that was cut short, by --timeout-ms or by Ctrl-C, goes on where it was: sealed
segments, which never change, are noted in FILE when they were read and are whole, and of those only
header and seal are read again. The view is always read. FILE is removed when all was read.

Ends with 1 when something is damaged, or was lost by --repair, and with 4 when the time was up.")]
pub(crate) struct CheckArgs {
    /// Read every byte of every file
    #[arg(long)]
    deep: bool,
    /// Read every byte of the files without opening the store
    #[arg(long)]
    files: bool,
    /// Read every byte and mend what is damaged
    #[arg(long, conflicts_with = "files")]
    repair: bool,
    /// Note in this file what is whole, and leave out what it names already
    #[arg(long, value_name = "FILE", requires = "every_byte", conflicts_with = "repair")]
    resume: Option<PathBuf>,
    /// How long it may take, in milliseconds: then it reports what it has read
    #[arg(long, value_name = "MS", requires = "every_byte", conflicts_with = "repair")]
    timeout_ms: Option<u64>,
}

impl CheckArgs {
    fn options(&self) -> CheckOptions {
        let mut options = CheckOptions::new();
        if let Some(file) = &self.resume {
            options = options.resume(file);
        }
        if let Some(limit) = self.timeout_ms {
            options = options.time_limit(Duration::from_millis(limit));
        }
        options
    }
}

pub(crate) fn run(args: &CheckArgs, context: &Context<'_>) -> Result<(), Failure> {
    let report = report(args, context)?;
    let out = context.out;
    if out.json {
        out.print_json(&report)?
    } else {
        out.print(&pretty(&report, out))?
    }
    let has_lost = report.healed.iter().any(|healed| !healed.lost.is_empty());
    match report.status {
        CheckStatus::Ok => Ok(()),
        CheckStatus::Repaired if !has_lost => Ok(()),
        CheckStatus::Repaired | CheckStatus::Damaged => Err(Failure::Damaged),
        CheckStatus::Incomplete => {
            let hint = match &args.resume {
                Some(_) => "run it again: it goes on where it was",
                None => "allow more time, or use --resume FILE to go on where it was",
            };
            Err(Error::new(ErrorKind::Timeout, "the check was not finished within the time limit")
                .hint(hint)
                .into())
        }
    }
}

fn report(args: &CheckArgs, context: &Context<'_>) -> Result<CheckReport> {
    let home = session::home(context)?;
    let bar = Bar::new(context.out, "checking", Unit::Bytes);
    if args.files {
        let options = args.options().db_path(&home.db_path);
        return check_files_with(&home.path, &options, &mut bar.listener());
    }
    if args.repair {
        // Nothing is published by the way: memory.db may hold the last copy of what is given up.
        let options = session::options(context, &home)?.create(false).publish(false);
        let (store, report) = Store::repair(options, &mut bar.listener())?;
        for healed in &report.healed {
            session::tell_healed(context, healed);
        }
        session::close(context, store);
        return Ok(report);
    }
    let refusal = match session::open_existing_in(context, &home) {
        Ok(store) => {
            let report = if args.deep {
                store.check_with(&args.options(), &mut bar.listener())
            } else {
                store.check_quickly(&mut bar.listener())
            };
            session::close(context, store);
            return report;
        }
        Err(refusal) if refusal.kind() == ErrorKind::Corrupt => refusal,
        Err(refusal) => return Err(refusal),
    };
    // A store that is too damaged to open is what a check is for.
    let options = args.options().db_path(&home.db_path);
    let report = check_files_with(&home.path, &options, &mut bar.listener())?;
    match report.status {
        CheckStatus::Ok => Err(refusal),
        _ => Ok(report),
    }
}

fn pretty(report: &CheckReport, out: &Output) -> String {
    let mut read = format!(
        "{}, {}, {} read",
        text::count(report.records, "record", "records"),
        text::count(report.rows, "row", "rows"),
        text::bytes(report.bytes)
    );
    for Loss { first_seq, last_seq, .. } in &report.losses {
        let _ = write!(
            read,
            "; what was stored as records {first_seq} to {last_seq}, if anything, was lost earlier"
        );
    }
    if !report.complete {
        let _ = write!(read, ", {} not yet", text::bytes(report.unread));
    }
    if report.status == CheckStatus::Incomplete {
        let status = out.paint(AnsiColor::Yellow.on_default().bold(), "incomplete");
        return format!("{status}: nothing is wrong so far; {read}\n");
    }
    if report.findings.is_empty() && report.status == CheckStatus::Ok {
        let status = out.paint(AnsiColor::Green.on_default().bold(), "ok");
        return format!("{status}: {read}\n");
    }
    let status = match report.status {
        CheckStatus::Repaired => out.paint(AnsiColor::Yellow.on_default().bold(), "repaired"),
        _ => out.paint(AnsiColor::Red.on_default().bold(), "damaged"),
    };
    let count = text::count(report.findings.len() as u64, "finding", "findings");
    let findings = if out.terminal { as_table(report, out) } else { as_lines(report) };
    format!("{findings}{status}: {count}; {read}\n")
}

fn as_table(report: &CheckReport, out: &Output) -> String {
    let mut table = table::empty(out, ["File", "Offset", "What", "Repair"]);
    for finding in &report.findings {
        let offset = finding.offset.map_or(String::new(), |offset| offset.to_string());
        let what = format!("{}: {}", finding.kind, finding.detail);
        table.add_row(
            [finding.file.as_str(), &offset, &what, &finding.repair].map(|part| Cell::new(text::line(part))),
        );
    }
    format!("{table}\n")
}

fn as_lines(report: &CheckReport) -> String {
    let mut lines = String::new();
    for Finding { file, offset, kind, detail, repair } in &report.findings {
        let at = offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
        let _ = writeln!(
            lines,
            "{}{at}: {kind}: {} ({})",
            text::line(file),
            text::line(detail),
            text::line(repair)
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged() -> CheckReport {
        let finding = Finding {
            file: "store/seg/0000000001.mseg".to_owned(),
            offset: Some(18_432),
            kind: "checksum".to_owned(),
            detail: "record checksum is 7be20114, expected 1f3a99c0".to_owned(),
            repair: "none: restore from a backup".to_owned(),
        };
        CheckReport {
            status: CheckStatus::Damaged,
            findings: vec![finding],
            records: 12,
            rows: 1,
            bytes: 2048,
            ..CheckReport::default()
        }
    }

    #[test]
    fn a_sound_store_is_one_line() {
        let report = CheckReport { records: 1, ..CheckReport::default() };
        assert_eq!(pretty(&report, &Output::pipe()), "ok: 1 record, 0 rows, 0 B read\n");
    }

    #[test]
    fn an_incomplete_check_says_so() {
        let report = CheckReport {
            status: CheckStatus::Incomplete,
            complete: false,
            unread: 4096,
            bytes: 2048,
            ..CheckReport::default()
        };
        assert_eq!(
            pretty(&report, &Output::pipe()),
            "incomplete: nothing is wrong so far; 0 records, 0 rows, 2.0 KiB read, 4.0 KiB not yet\n"
        );
    }

    #[test]
    fn a_finding_names_file_offset_kind_and_repair() {
        assert_eq!(
            pretty(&damaged(), &Output::pipe()),
            "store/seg/0000000001.mseg at offset 18432: checksum: record checksum is 7be20114, expected 1f3a99c0 \
             (none: restore from a backup)\ndamaged: 1 finding; 12 records, 1 row, 2.0 KiB read\n"
        );
        let table = pretty(&damaged(), &Output::plain_terminal(120));
        for part in ["File", "18432", "checksum: record", "restore"] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }
}
