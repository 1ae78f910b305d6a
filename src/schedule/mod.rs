//! Scheduled health runs: when one is due, and the crontab line or systemd timer that starts them.
//!
//! What is to be written is put together first, as a [`Plan`] that can be shown; carrying it out changes exactly that, and
//! another plan takes exactly that away again. The pure parts are `cron.rs` and `systemd.rs`; `tools.rs` runs programs.

mod cron;
mod systemd;
mod tools;

use std::fmt;
use std::path::{Path, PathBuf};

pub use tools::Tools;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Access, Disk, RealDisk, system};
use crate::home::Home;

const HOUR_MS: u64 = 3_600_000;

/// Whether a run is due: none was made, or the last one is an interval ago.
///
/// A clock that was set back by more than an interval makes a run due, since the time of the last one says nothing any
/// more; one that was set back by less delays it by no more than that.
#[must_use]
pub fn is_due(last_run_ms: Option<i64>, now_ms: i64, interval_hours: u32) -> bool {
    last_run_ms.is_none_or(|last| now_ms.abs_diff(last) >= u64::from(interval_hours.max(1)) * HOUR_MS)
}

/// Who starts the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A line of the user's crontab.
    Cron,
    /// A timer of the user's systemd.
    Systemd,
}

impl Method {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cron, Self::Systemd];

    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::Systemd => "systemd",
        }
    }
}

/// What is run, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The program, as an absolute path.
    program: PathBuf,
    /// The home, as an absolute path.
    home: PathBuf,
    interval_hours: u32,
}

impl Job {
    /// A job of this program for this home, every so many hours.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a path is not absolute, is not UTF-8 or holds control characters: a line of a file
    /// could not name it.
    pub fn new(program: &Path, home: &Path, interval_hours: u32) -> Result<Self> {
        for path in [program, home] {
            let is_plain = path.to_str().is_some_and(|text| !text.chars().any(char::is_control));
            if !is_plain || !path.is_absolute() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "this path cannot stand in a schedule: it is not absolute, not UTF-8, or has control characters",
                )
                .at(path)
                .hint("move it to a place with a plain name"));
            }
        }
        Ok(Self { program: program.to_owned(), home: home.to_owned(), interval_hours })
    }

    /// The job of this very program for a home, as often as its configuration says.
    ///
    /// # Errors
    /// Those of [`Job::new`], and what the operating system says when it does not know where the program is.
    pub fn of(home: &Home) -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| {
            Error::new(ErrorKind::Io, format!("the system does not say where this program is: {error}"))
                .with_source(error)
        })?;
        Self::new(&program, &home.path, home.config.health.check_interval_hours)
    }

    /// What tells the schedule of one home from that of another.
    fn id(&self) -> String {
        format!("{:08x}", crc32fast::hash(self.home.as_os_str().as_encoded_bytes()))
    }

    fn program(&self) -> &str {
        self.program.to_str().expect("checked when the job was made")
    }

    fn home(&self) -> &str {
        self.home.to_str().expect("checked when the job was made")
    }

    fn rhythm(&self) -> Rhythm {
        let all = [Rhythm::Weekly, Rhythm::Daily, Rhythm::Hours(12), Rhythm::Hours(8), Rhythm::Hours(6)];
        let more = [Rhythm::Hours(4), Rhythm::Hours(3), Rhythm::Hours(2)];
        all.into_iter()
            .chain(more)
            .find(|rhythm| rhythm.hours() <= self.interval_hours)
            .unwrap_or(Rhythm::Hours(1))
    }

    /// A remark when the interval cannot be had.
    fn note(&self) -> Option<String> {
        let hours = self.rhythm().hours();
        (hours != self.interval_hours.max(1)).then(|| {
            format!(
                "health.check_interval_hours is {}, which a calendar does not have: the runs come every {hours} h",
                self.interval_hours
            )
        })
    }
}

/// A rhythm that a calendar has: it comes at the same hours, whenever it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rhythm {
    /// A divisor of 24.
    Hours(u32),
    Daily,
    Weekly,
}

impl Rhythm {
    fn hours(self) -> u32 {
        match self {
            Self::Hours(hours) => hours,
            Self::Daily => 24,
            Self::Weekly => 24 * 7,
        }
    }
}

/// What is to be changed; [`Display`](fmt::Display) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    tools: Tools,
    method: Method,
    /// In their order.
    steps: Vec<Step>,
    /// What a person should know.
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The crontab from these bytes to those; the lines that come or go.
    Crontab { before: Vec<u8>, after: Vec<u8>, lines: String, adds: bool },
    /// A file with its text.
    Write { path: PathBuf, text: String },
    /// A file of ours goes.
    Remove { path: PathBuf },
    /// `systemctl --user` with these arguments. Whether all is to be taken back when it fails.
    Systemctl { args: Vec<String>, must: bool },
}

impl Plan {
    /// What installs a job.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with what can be done by hand when the program is not there that this needs;
    /// [`ErrorKind::Conflict`] when somebody has edited what an earlier installation wrote; what the programs say.
    pub fn install(job: &Job, method: Method, tools: &Tools) -> Result<Self> {
        refuse_other_scheduler(job)?;
        let mut notes: Vec<String> = job.note().into_iter().collect();
        let steps = match method {
            Method::Cron => {
                let block = cron::block(job)?;
                let before = tools.crontab(&block)?;
                let after = cron::with(&before, job)?;
                vec![Step::Crontab { before, after, lines: block, adds: true }]
            }
            Method::Systemd => {
                let units = systemd::units(job, tools.units()?);
                tools.systemctl_is_there(&units)?;
                let timer = systemd::timer_name(job);
                let mut steps = Vec::new();
                for (path, text) in units {
                    refuse_foreign(&path)?;
                    steps.push(Step::Write { path, text });
                }
                steps.push(systemctl(&["daemon-reload"], true));
                steps.push(systemctl(&["enable", "--now", &timer], true));
                notes.push(
                    "a user's timers run while she is logged in; `loginctl enable-linger` lets them run always"
                        .to_owned(),
                );
                steps
            }
        };
        Ok(Self { tools: tools.clone(), method, steps, notes })
    }

    /// What takes an installation away; nothing when there is none.
    ///
    /// # Errors
    /// Those of [`Plan::install`].
    pub fn uninstall(job: &Job, method: Method, tools: &Tools) -> Result<Self> {
        refuse_other_scheduler(job)?;
        let mut steps = Vec::new();
        match method {
            Method::Cron if tools.has_crontab() => {
                let before = tools.crontab("")?;
                let (after, lines) = cron::without(&before, job)?;
                if after != before {
                    steps.push(Step::Crontab { before, after, lines, adds: false });
                }
            }
            Method::Systemd => {
                let ours = |path: &PathBuf| RealDisk.kind(path).is_ok_and(|kind| kind.is_some());
                let folder = tools.units()?;
                let there: Vec<PathBuf> =
                    systemd::units(job, folder).into_iter().map(|(path, _)| path).filter(ours).collect();
                if !there.is_empty() {
                    steps.push(systemctl(&["disable", "--now", &systemd::timer_name(job)], false));
                    for path in there {
                        refuse_foreign(&path)?;
                        steps.push(Step::Remove { path });
                    }
                    steps.push(systemctl(&["daemon-reload"], false));
                }
            }
            Method::Cron => {}
        }
        Ok(Self { tools: tools.clone(), method, steps, notes: Vec::new() })
    }

    /// Who starts the runs.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What a person should know.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Does it. When something must not fail and does, what was written before is taken back.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the crontab has changed since the plan was made; what the programs and the disk say.
    pub fn carry_out(&self) -> Result<()> {
        let mut written = Vec::new();
        for step in &self.steps {
            if let Err(error) = self.take(step, &mut written) {
                for (path, before) in written.iter().rev() {
                    let undone = match before {
                        Some(bytes) => fs::replace(&RealDisk, path, bytes),
                        None => RealDisk.remove(path),
                    };
                    if let Err(error) = undone {
                        tracing::warn!(%error, "a file of the schedule was not taken back");
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn take(&self, step: &Step, written: &mut Vec<(PathBuf, Option<Vec<u8>>)>) -> Result<()> {
        match step {
            Step::Crontab { before, after, lines, .. } => {
                if self.tools.crontab(lines)? != *before {
                    return Err(Error::new(ErrorKind::Conflict, "the crontab has changed in this moment")
                        .hint("do it again"));
                }
                self.tools.set_crontab(after)
            }
            Step::Write { path, text } => {
                fs::create_folders(&RealDisk, fs::folder_above(path))?;
                let before = fs::read_small(&RealDisk, path, systemd::UNIT_LEN_MAX)?;
                fs::replace(&RealDisk, path, text.as_bytes())?;
                written.push((path.clone(), before));
                Ok(())
            }
            Step::Remove { path } => RealDisk.remove(path),
            Step::Systemctl { args, must } => match self.tools.systemctl(args) {
                Err(error) if !must => {
                    // Without the file there is no timer either way.
                    tracing::warn!(%error, "systemctl did not do it");
                    Ok(())
                }
                result => result,
            },
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Crontab { lines, adds: true, .. } => {
                    write!(f, "into the crontab, at its end:\n{lines}")?
                }
                Step::Crontab { lines, .. } => write!(f, "out of the crontab:\n{lines}")?,
                Step::Write { path, text } => write!(f, "into {}:\n{text}", path.display())?,
                Step::Remove { path } => writeln!(f, "remove {}", path.display())?,
                Step::Systemctl { args, .. } => writeln!(f, "run systemctl --user {}", args.join(" "))?,
            }
        }
        Ok(())
    }
}

/// Where a job is installed, as far as that can be found out without changing anything.
#[must_use]
pub fn installed(job: &Job, tools: &Tools) -> Vec<Method> {
    let is_there = |method: &Method| match method {
        Method::Cron => {
            let text = if tools.has_crontab() { tools.crontab("").unwrap_or_default() } else { Vec::new() };
            cron::without(&text, job).is_ok_and(|(without, _)| without != text)
        }
        Method::Systemd => tools.units().is_ok_and(|folder| {
            systemd::units(job, folder).iter().all(|(path, _)| matches!(RealDisk.kind(path), Ok(Some(_))))
        }),
    };
    Method::ALL.into_iter().filter(is_there).collect()
}

fn systemctl(args: &[&str], must: bool) -> Step {
    Step::Systemctl { args: args.iter().map(|arg| (*arg).to_owned()).collect(), must }
}

/// Where neither cron nor systemd is, the user schedules the runs with what the system has.
fn refuse_other_scheduler(job: &Job) -> Result<()> {
    match system::own_scheduler(job.program(), job.home(), job.interval_hours) {
        Some(command) => Err(Error::new(ErrorKind::NotFound, "this system has neither cron nor systemd")
            .hint(format!("schedule the runs with its own program: {command}"))),
        None => Ok(()),
    }
}

/// A file of this name that we did not write is left alone.
fn refuse_foreign(path: &Path) -> Result<()> {
    if RealDisk.kind(path)?.is_none() {
        return Ok(());
    }
    let file = RealDisk.open(path, Access::Read)?;
    let mut beginning = vec![0; systemd::MARK.len()];
    let read = file.read_at(&mut beginning, 0)?;
    if beginning[..read] != *systemd::MARK.as_bytes() {
        return Err(Error::new(ErrorKind::Conflict, "somebody else wrote this file")
            .at(path)
            .hint("move it away"));
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;
