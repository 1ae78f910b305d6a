//! The figures of a run for Prometheus, as a file that node_exporter's textfile collector reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::report::{Report, Status};
use super::state::State;
use crate::error::{Error, Result};
use crate::fs::system::{self, OpenOptionsExt};

/// Whoever collects is another user, most often, and the file holds nothing but figures.
const MODE: u32 = 0o644;

/// Writes the file: beside its name first, then in the place of the former one, so that nobody reads half of it.
///
/// # Errors
/// What the disk says.
pub(super) fn write(path: &Path, report: &Report, state: &State, now_ms: i64) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let io = |error| Error::io("write", path, error);
    let written = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        system::set_mode(&file, MODE)?;
        file.write_all(text(report, state, now_ms).as_bytes())?;
        file.sync_all()?;
        system::rename(&temporary, path)
    };
    let _ = fs::remove_file(&temporary);
    written().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io(error)
    })
}

/// The figures in Prometheus' text format.
fn text(report: &Report, state: &State, now_ms: i64) -> String {
    let mut text = Text::default();
    text.metric("memento_operations_total", "counter", "Steps of health runs, by what came of them.");
    for (key, count) in &state.operations {
        let (op, outcome) = key.split_once('/').unwrap_or((key, ""));
        text.value(&[("op", op), ("outcome", outcome)], *count as f64);
    }
    text.metric(
        "memento_operation_duration_seconds",
        "gauge",
        "How long each step of the last health run took.",
    );
    // A step may have come twice, a series may not.
    let mut took_ms = BTreeMap::<&str, u64>::new();
    for step in &report.steps {
        *took_ms.entry(step.step).or_default() += step.took_ms;
    }
    for (step, took_ms) in took_ms {
        text.value(&[("op", step)], took_ms as f64 / 1000.0);
    }
    text.metric("memento_store_bytes", "gauge", "Bytes of the home's files, by what they are.");
    for (kind, bytes) in report.space.kinds() {
        text.value(&[("kind", kind)], bytes as f64);
    }
    if let Some(free) = report.space.free {
        text.metric("memento_disk_free_bytes", "gauge", "Free bytes of the disk that the home is on.");
        text.value(&[], free as f64);
    }
    if let Some(memories) = report.memories {
        let pending = report.pending.unwrap_or(0);
        text.metric("memento_records", "gauge", "Memories, by whether they have a vector.");
        text.value(&[("state", "embedded")], memories.saturating_sub(pending) as f64);
        text.value(&[("state", "pending")], pending as f64);
        text.metric("memento_embed_backlog", "gauge", "Memories that wait for their vectors.");
        text.value(&[], pending as f64);
    }
    text.metric(
        "memento_wal_unflushed_bytes",
        "gauge",
        "Acknowledged bytes that are not on stable storage: always 0.",
    );
    text.value(&[], 0.0);
    if let Some(backup) = &report.backup {
        text.metric(
            "memento_last_backup_timestamp_seconds",
            "gauge",
            "When the newest good backup was made.",
        );
        text.value(&[], backup.created_ms as f64 / 1000.0);
    }
    if let Some(deep_ms) = state.deep_ms {
        text.metric(
            "memento_last_verify_timestamp_seconds",
            "gauge",
            "When every byte was checked the last time.",
        );
        text.value(&[], deep_ms as f64 / 1000.0);
    }
    text.metric("memento_last_verify_ok", "gauge", "1 when the last health run left nothing wrong.");
    text.value(&[], if report.status.is_good() { 1.0 } else { 0.0 });
    text.metric("memento_last_health_timestamp_seconds", "gauge", "When the last health run was.");
    text.value(&[], now_ms as f64 / 1000.0);
    text.metric("memento_health_status", "gauge", "1 for what the last health run found.");
    for status in [
        Status::Ok,
        Status::Healed,
        Status::Failed,
        Status::Busy,
        Status::Damaged,
        Status::Lost,
        Status::Decision,
    ] {
        text.value(&[("status", status.name())], if report.status == status { 1.0 } else { 0.0 });
    }
    text.0
}

#[derive(Default)]
struct Text(String, &'static str);

impl Text {
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.1 = name;
    }

    fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{}{labels} {value}", self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{GoodBackup, Outcome};
    #[cfg(unix)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_line_is_of_the_format_and_names_are_those_that_are_documented() {
        let mut report = Report { memories: Some(5), pending: Some(2), ..Report::default() };
        report.step("check", Outcome::Ok, "", 1500);
        report.step("note", Outcome::Warning, "one", 0);
        report.step("note", Outcome::Warning, "another", 0);
        report.backup =
            Some(GoodBackup { file: "x.db".to_owned(), created_ms: 1_771_329_600_123, age_seconds: 1 });
        let mut state = State { deep_ms: Some(1_771_329_600_000), ..State::default() };
        state.operations.insert("check/ok".to_owned(), 3);
        let text = text(&report, &state, 1_771_329_600_000);
        for line in [
            "memento_operations_total{op=\"check\",outcome=\"ok\"} 3",
            "memento_operation_duration_seconds{op=\"check\"} 1.5",
            "memento_store_bytes{kind=\"segments\"} 0",
            "memento_records{state=\"pending\"} 2",
            "memento_embed_backlog 2",
            "memento_wal_unflushed_bytes 0",
            "memento_last_backup_timestamp_seconds 1771329600.123",
            "memento_last_verify_timestamp_seconds 1771329600",
            "memento_last_verify_ok 1",
            "memento_health_status{status=\"ok\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
        let series: Vec<&str> = text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
        let distinct: std::collections::BTreeSet<&str> = series.iter().copied().collect();
        assert_eq!(series.len(), distinct.len(), "no series comes twice:\n{text}");
        for line in text.lines() {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            let is_comment = line.starts_with("# HELP memento_") || line.starts_with("# TYPE memento_");
            assert!(is_comment || (name.starts_with("memento_") && value.parse::<f64>().is_ok()), "{line}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_replaced_as_a_whole_and_never_through_a_link() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, canary) = (folder.path().join("memento.prom"), folder.path().join("canary"));
        fs::write(&canary, "canary").expect("written");
        std::os::unix::fs::symlink(&canary, &path).expect("a link");
        write(&path, &Report::default(), &State::default(), 0).expect("written");
        assert_eq!(fs::read_to_string(&canary).expect("read"), "canary");
        assert!(fs::read_to_string(&path).expect("read").contains("memento_last_verify_ok 1"));
        assert_eq!(path.metadata().expect("stat").permissions().mode() & 0o777, 0o644);
        assert_eq!(folder.path().read_dir().expect("list").count(), 2, "nothing is left behind");
        let nowhere = folder.path().join("none/memento.prom");
        assert!(write(&nowhere, &Report::default(), &State::default(), 0).is_err());
    }
}
