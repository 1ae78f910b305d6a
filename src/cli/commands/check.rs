//! `check`: the integrity of every file.

use std::fmt::Write;

use anstyle::AnsiColor;
use comfy_table::Cell;

use crate::check::{CheckReport, CheckStatus, Finding, check_files};
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, table, text};
use crate::{ErrorKind, Result};

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let report = report(context)?;
    let out = context.out;
    if out.json {
        out.print_json(&report)?
    } else {
        out.print(&pretty(&report, out))?
    }
    match report.status {
        CheckStatus::Ok => Ok(()),
        CheckStatus::Damaged => Err(Failure::Damaged),
    }
}

fn report(context: &Context<'_>) -> Result<CheckReport> {
    let home = session::home(context)?;
    let bar = Bar::new(context.out, "checking", Unit::Count);
    let refusal = match session::open_existing_in(&home) {
        Ok(store) => {
            let report = store.check(&mut bar.listener())?;
            session::close(context, store);
            return Ok(report);
        }
        Err(refusal) if refusal.kind() == ErrorKind::Corrupt => refusal,
        Err(refusal) => return Err(refusal),
    };
    // A store that is too damaged to open is what a check is for.
    let report = check_files(&home.path, &mut bar.listener())?;
    match report.status {
        CheckStatus::Damaged => Ok(report),
        CheckStatus::Ok => Err(refusal),
    }
}

fn pretty(report: &CheckReport, out: &Output) -> String {
    let read = format!(
        "{}, {}, {} read",
        text::count(report.records, "record", "records"),
        text::count(report.rows, "row", "rows"),
        text::bytes(report.bytes)
    );
    if report.findings.is_empty() {
        let status = out.paint(AnsiColor::Green.on_default().bold(), "ok");
        return format!("{status}: {read}\n");
    }
    let status = out.paint(AnsiColor::Red.on_default().bold(), "damaged");
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
        }
    }

    #[test]
    fn a_sound_store_is_one_line() {
        let report = CheckReport { records: 1, ..CheckReport::default() };
        assert_eq!(pretty(&report, &Output::pipe()), "ok: 1 record, 0 rows, 0 B read\n");
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
