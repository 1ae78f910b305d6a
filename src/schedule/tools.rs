//! The programs `crontab` and `systemctl`, where they are.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::system;

/// Where the programs are that keep schedules, and where units of systemd go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// `crontab`. None: it is not there.
    pub crontab: Option<PathBuf>,
    /// `systemctl`. None: it is not there.
    pub systemctl: Option<PathBuf>,
    /// The folder of the user's units. None: the user has no home folder.
    pub units: Option<PathBuf>,
}

impl Tools {
    /// Those that this process finds.
    #[must_use]
    pub fn of_process() -> Self {
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let config = config.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
        Self {
            crontab: on_path("crontab"),
            systemctl: on_path("systemctl"),
            units: config.filter(|path| path.is_absolute()).map(|config| config.join("systemd/user")),
        }
    }

    /// Which of the two to use when nobody says: systemd where it runs for this user, since it makes up missed runs.
    #[must_use]
    pub fn preferred(&self) -> super::Method {
        let runs = self.units.is_some() && self.systemctl(&["show-environment".to_owned()]).is_ok();
        if runs || self.crontab.is_none() && self.systemctl.is_some() {
            super::Method::Systemd
        } else {
            super::Method::Cron
        }
    }

    pub(super) fn has_crontab(&self) -> bool {
        self.crontab.is_some()
    }

    /// The crontab as it is; empty when there is none. `by_hand` is what a person can do without the program.
    pub(super) fn crontab(&self, by_hand: &str) -> Result<Vec<u8>> {
        let output = self.run_crontab(&["-l"], None, by_hand)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        // Only a plain answer counts: an empty one in its place would wipe out what is there.
        if said.contains("no crontab") || said.contains("no such file") {
            return Ok(Vec::new());
        }
        Err(refused("crontab -l", &output))
    }

    /// Puts these bytes in place of the crontab, and looks whether they are there.
    pub(super) fn set_crontab(&self, text: &[u8]) -> Result<()> {
        let args: &[&str] = if text.is_empty() { &["-r"] } else { &["-"] };
        let output = self.run_crontab(args, Some(text), "")?;
        if !output.status.success() {
            return Err(refused(&format!("crontab {}", args[0]), &output));
        }
        if self.crontab("")? != text {
            return Err(Error::new(
                ErrorKind::Io,
                "the crontab is not what was given to the program crontab",
            )
            .hint("look at it with `crontab -l`"));
        }
        Ok(())
    }

    fn run_crontab(&self, args: &[&str], input: Option<&[u8]>, by_hand: &str) -> Result<Output> {
        let Some(program) = &self.crontab else {
            let hint = match by_hand.lines().nth(1) {
                Some(line) => {
                    format!("install cron, use --install systemd, or give this line to another cron: {line}")
                }
                None => "install cron, or use --install systemd".to_owned(),
            };
            return Err(Error::new(ErrorKind::NotFound, "there is no program crontab on PATH").hint(hint));
        };
        run(program, args, input)
    }

    /// The folder of the user's units.
    pub(super) fn units(&self) -> Result<&Path> {
        self.units.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "HOME is not set, so that nobody knows where units of systemd go")
                .hint("set HOME or XDG_CONFIG_HOME, or use --install cron")
        })
    }

    /// That it is there, before anything is written for it.
    pub(super) fn systemctl_is_there(&self, units: &[(PathBuf, String); 2]) -> Result<()> {
        if self.systemctl.is_some() {
            return Ok(());
        }
        let command =
            units[0].1.lines().find_map(|line| line.strip_prefix("ExecStart=:")).unwrap_or_default();
        Err(Error::new(ErrorKind::NotFound, "there is no program systemctl on PATH")
            .hint(format!("use --install cron, or let another scheduler run: {command}")))
    }

    pub(super) fn systemctl(&self, args: &[String]) -> Result<()> {
        let Some(program) = &self.systemctl else {
            return Err(Error::new(ErrorKind::NotFound, "there is no program systemctl on PATH"));
        };
        let mut all = vec!["--user"];
        all.extend(args.iter().map(String::as_str));
        let output = run(program, &all, None)?;
        if output.status.success() {
            return Ok(());
        }
        Err(refused(&format!("systemctl {}", all.join(" ")), &output))
    }
}

/// A program of this name on PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.metadata().is_ok_and(|file| system::is_program(&file));
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(is_program)
}

fn run(program: &Path, args: &[&str], input: Option<&[u8]>) -> Result<Output> {
    let io = |error| Error::io("run", program, error);
    let mut child = Command::new(program)
        .args(args)
        // What it says is looked at.
        .env("LC_ALL", "C")
        .env_remove(crate::failure::TOKEN_VARIABLE)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program that ends without reading says why itself.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(io)
}

fn refused(command: &str, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let line: String =
        said.lines().next().unwrap_or_default().chars().take(200).flat_map(char::escape_debug).collect();
    Error::new(ErrorKind::Refused, format!("`{command}` did not do it: {line}"))
        .hint("`--dry-run` shows what it was to do; nothing of it is left behind")
}
