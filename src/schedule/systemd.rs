//! A service and a timer of the user's systemd, as text.

use std::path::{Path, PathBuf};

use super::{Job, Rhythm};

/// How each of our files begins.
pub(super) const MARK: &str =
    "# Written by `memento-kv health --install systemd`; `memento-kv health --uninstall` removes it.\n";
/// Longest unit that is read, in bytes.
pub(super) const UNIT_LEN_MAX: usize = 1 << 16;

pub(super) fn timer_name(job: &Job) -> String {
    format!("memento-kv-health-{}.timer", job.id())
}

/// The files in this folder, with their texts.
pub(super) fn units(job: &Job, folder: &Path) -> [(PathBuf, String); 2] {
    let timer = timer_name(job);
    let service = timer.replace(".timer", ".service");
    [(folder.join(service), service_text(job)), (folder.join(timer), timer_text(job))]
}

fn service_text(job: &Job) -> String {
    // The colon: systemd puts no variables in. `%` it would take in any case.
    format!(
        "{MARK}\n[Unit]\nDescription=Health run of memento-kv\n\n[Service]\nType=oneshot\n\
         ExecStart=:{} --home {} health --quiet\n\
         # GITHUB_TOKEN=... may stand there, in a file that only you can read.\n\
         EnvironmentFile=-%E/memento-kv/environment\n\
         StandardOutput=null\nUMask=0077\nNice=10\n",
        quoted(job.program()),
        quoted(job.home())
    )
}

fn timer_text(job: &Job) -> String {
    let calendar = match job.rhythm() {
        Rhythm::Hours(1) => "*-*-* *:00:00".to_owned(),
        Rhythm::Hours(hours) => format!("*-*-* 00/{hours}:00:00"),
        Rhythm::Daily => "*-*-* 03:00:00".to_owned(),
        Rhythm::Weekly => "Mon *-*-* 03:00:00".to_owned(),
    };
    format!(
        "{MARK}\n[Unit]\nDescription=Health runs of memento-kv\n\n[Timer]\nOnCalendar={calendar}\n\
         # A run that was missed because the machine was off is made up.\nPersistent=true\n\n\
         [Install]\nWantedBy=timers.target\n"
    )
}

/// A word of a command line in a unit.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}
