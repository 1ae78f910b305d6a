//! Backups, scheduled runs, and what failed lately.

use super::{Examination, age, count, told};
use crate::failure;
use crate::home::Home;
use crate::logs::{self, Log};
use crate::schedule::{self, Job, Tools};
use crate::snapshot::{Backup, BackupVerdict, backups_in};
use crate::time;

const HOUR_MS: u64 = 3_600_000;
/// A backup is made daily; one that is older was missed.
const BACKUP_AGE_MS: u64 = 49 * HOUR_MS;
/// What failed within this time is told.
const FAILURE_AGE_MS: u64 = 7 * 24 * HOUR_MS;
/// Lines of the log's end in which the last run is looked for, in bytes.
const TAIL_LEN: usize = 64 << 10;

pub(super) fn backups(found: &mut Examination, home: &Home, now_ms: i64) {
    let backups = match backups_in(&home.path, false) {
        Ok(backups) => backups,
        Err(error) => return found.bad("backups", error.to_string(), "memento-kv backups"),
    };
    let of = |verdict: BackupVerdict| -> Vec<&Backup> {
        backups.iter().filter(|backup| backup.verdict == verdict).collect()
    };
    let (verified, damaged) = (of(BackupVerdict::Verified), of(BackupVerdict::Damaged));
    if let Some(first) = damaged.first() {
        found.warn(
            "backups",
            format!("{} of {} are damaged, such as {}", damaged.len(), backups.len(), told(&first.path)),
            "memento-kv backups --deep",
        );
    }
    let newest = verified.iter().map(|backup| backup.created_ms).max();
    match newest {
        None => found.warn("backups", "there is no verified backup", "memento-kv backup"),
        Some(newest) if now_ms.abs_diff(newest) > BACKUP_AGE_MS => {
            let what = format!("the last verified one is {} old", age(now_ms.abs_diff(newest)));
            found.warn("backups", what, "memento-kv backup");
        }
        Some(newest) => found.ok(
            "backups",
            format!("{} verified, the last one {} old", verified.len(), age(now_ms.abs_diff(newest))),
        ),
    }
    if !home.config.storage.backup_enabled {
        found.warn(
            "backups",
            "storage.backup_enabled is false: the health run makes none",
            "memento-kv backup",
        );
    }
}

pub(super) fn schedule(found: &mut Examination, home: &Home, tools: &Tools, now_ms: i64) {
    const INSTALL: &str = "memento-kv health --install";
    let interval = home.config.health.check_interval_hours;
    let methods = match Job::of(home) {
        Ok(job) => schedule::installed(&job, tools),
        Err(error) => return found.warn("schedule", error.to_string(), "memento-kv where"),
    };
    let last = last_run_ms(home);
    let ago = last.map_or("there was none yet".to_owned(), |last| {
        format!("the last one was {} ago", age(now_ms.abs_diff(last)))
    });
    let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    last_run(found, home);
    match methods.as_slice() {
        [] => found.warn("schedule", format!("nothing starts health runs; {ago}"), INSTALL),
        [_, _] => found.warn(
            "schedule",
            format!("cron and systemd both start health runs; {ago}"),
            "memento-kv health --uninstall && memento-kv health --install",
        ),
        // Three intervals, and a margin for a machine that sleeps at night.
        _ if last.is_some_and(|last| now_ms.abs_diff(last) > HOUR_MS * (24 + 3 * u64::from(interval))) => {
            found.warn(
                "schedule",
                format!("{} should start health runs, but {ago}", names.join(", ")),
                "memento-kv health",
            );
        }
        _ => found.ok("schedule", format!("{} starts health runs; {ago}", names.join(", "))),
    }
}

/// When the last health run was, by its log.
fn last_run_ms(home: &Home) -> Option<i64> {
    let (seconds, _) = last_line(home)?;
    Some(seconds.saturating_mul(1000))
}

/// What the last health run left wrong: it looks at more than is looked at here.
fn last_run(found: &mut Examination, home: &Home) {
    let Some((_, line)) = last_line(home) else { return };
    if line.starts_with("CRITICAL ") {
        let what = line.split_once(": ").map_or(line.as_str(), |(what, _)| what);
        let what = what.trim_start_matches("CRITICAL ").to_owned();
        found.bad("store", format!("the last {what}"), "memento-kv health --deep");
    }
}

/// The last line of the log of health runs: its time, in Unix seconds, and what it says.
fn last_line(home: &Home) -> Option<(i64, String)> {
    let text = logs::tail(&home.path, Log::Health, TAIL_LEN).ok()?;
    let parsed = |line: &str| {
        let (time, said) = line.strip_prefix('[')?.split_once("] ")?;
        Some((time::parse_absolute(time).ok()?, said.to_owned()))
    };
    text.lines().rev().find_map(parsed)
}

pub(super) fn failures(found: &mut Examination, home: &Home, now_ms: i64) {
    let lately = match failure::list(home, 1000) {
        Ok(failures) => failures,
        Err(error) => return found.bad("failures", error.to_string(), "ls -l logs/failures.log"),
    };
    let is_late = |when: i64| now_ms.abs_diff(when.saturating_mul(1000)) < FAILURE_AGE_MS;
    let recent = lately.iter().filter(|failure| is_late(failure.when)).count();
    if recent > 0 {
        let last = &lately[0];
        let ago = age(now_ms.abs_diff(last.when.saturating_mul(1000)));
        let what = format!("{recent} in the last 7 days, the last one, {}, {ago} ago", last.kind);
        found.warn("failures", what, "memento-kv failures");
    }
    let waiting =
        failure::drafts(home).map_or(0, |drafts| drafts.iter().filter(|draft| draft.queued).count());
    if waiting > 0 {
        found.warn(
            "failures",
            format!("to be sent to GitHub yet: {}", count(waiting as u64, "report", "reports")),
            "memento-kv failures --send",
        );
    }
    found.ok_unless_told("failures", "none in the last 7 days");
}
