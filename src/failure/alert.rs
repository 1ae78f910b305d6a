//! Runs the command of `health.on_failure` with the report on its standard input.
//!
//! It gets what a program of the desktop or a mailer needs of the environment, and no token. It may take so long and
//! say so much and no more; with everything that it started it is killed when its time is over.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::system;

/// What a command is given of the environment.
const VARIABLES: [&str; 19] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "TZ",
    "TMPDIR",
    "TERM",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "MAILTO",
];
/// How much of what it says on standard error is passed on, in bytes.
const SAID_MAX: usize = 2048;
/// How long what it said is waited for when it has ended; a program that it left behind may hold on to the pipe.
const SAID_WAIT: Duration = Duration::from_millis(200);

/// Runs a command and waits for it.
///
/// # Errors
/// [`ErrorKind::Refused`] when it ends with another code than 0, [`ErrorKind::Timeout`] when it was killed for taking too
/// long, and what the operating system says when it cannot be started.
pub(super) fn run(command: &[String], home: &Path, report: &[u8], timeout: Duration) -> Result<()> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(environment())
        .env("MEMENTO_HOME", home)
        .current_dir(if home.is_dir() { home } else { Path::new("/") })
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = system::in_own_group(&mut command).spawn().map_err(|error| {
        Error::new(ErrorKind::Io, format!("the command of health.on_failure cannot be started: {error}"))
            .hint("check health.on_failure in the configuration")
            .with_source(error)
    })?;
    // It may end without reading, or read nothing and never end: neither stops us here.
    if let Some(mut stdin) = child.stdin.take() {
        let report = report.to_owned();
        std::thread::spawn(move || {
            let _ = stdin.write_all(&report);
        });
    }
    let said = listen(&mut child);
    let status = wait(&mut child, timeout)?;
    let said = said.recv_timeout(SAID_WAIT).unwrap_or_default();
    let Some(status) = status else {
        return Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "the command of health.on_failure took longer than {} s and was killed",
                timeout.as_secs_f64()
            ),
        )
        .hint(hint(&said)));
    };
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), system::ended_by_signal(status)) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    };
    Err(Error::new(ErrorKind::Refused, format!("the command of health.on_failure {how}")).hint(hint(&said)))
}

fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    VARIABLES.iter().chain(system::VARIABLES).filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// What it says on standard error: the beginning is kept, the rest is read and dropped, so that it is not held up.
fn listen(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, said) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let (mut kept, mut part) = (Vec::new(), [0; 4096]);
            loop {
                match stderr.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => {
                        let room = SAID_MAX.saturating_sub(kept.len());
                        kept.extend_from_slice(&part[..read.min(room)]);
                    }
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&kept).into_owned());
        });
    }
    said
}

/// How it ended; none when it was killed.
fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let io = |error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("the command of health.on_failure cannot be waited for: {error}"))
            .with_source(error)
    };
    let until = Instant::now() + timeout;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    system::end_group(child);
    child.wait().map_err(io)?;
    Ok(None)
}

fn hint(said: &str) -> String {
    let line: String =
        said.lines().next().unwrap_or_default().chars().take(200).flat_map(char::escape_debug).collect();
    match line.as_str() {
        "" => "run it by hand with `memento-kv failures --json` on its standard input".to_owned(),
        line => format!("it said: {line}"),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, folder: &Path, timeout: Duration) -> Result<()> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&command, folder, b"{\"title\":\"x\"}", timeout)
    }

    #[test]
    fn a_command_gets_the_report_and_an_environment_without_tokens() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        shell("cat > report.json; env > env", folder.path(), LONG).expect("it ends well");
        let report = std::fs::read_to_string(folder.path().join("report.json")).expect("a report");
        assert_eq!(report, "{\"title\":\"x\"}");
        let env = std::fs::read_to_string(folder.path().join("env")).expect("an environment");
        let names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
        // What a shell sets by itself.
        let own = ["PWD", "SHLVL", "_", "OLDPWD", "MEMENTO_HOME"];
        assert!(names.iter().all(|name| VARIABLES.contains(name) || own.contains(name)), "{names:?}");
    }

    #[test]
    fn a_command_that_fails_says_how() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = shell("echo 'no\tmailer' >&2; exit 3", folder.path(), LONG).expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.message().contains("code 3"), "{error}");
        assert_eq!(error.hint_text(), Some("it said: no\\tmailer"));
        let error = shell("kill -9 $$", folder.path(), LONG).expect_err("it is killed");
        assert!(error.message().contains("signal 9"), "{error}");
        let nowhere = run(&["/no/such/program".to_owned()], folder.path(), b"", LONG).expect_err("not there");
        assert_eq!(nowhere.kind(), ErrorKind::Io);
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = "sleep 600 & echo $! > child; wait";
        let error = shell(script, folder.path(), Duration::from_millis(300)).expect_err("killed");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let child = std::fs::read_to_string(folder.path().join("child")).expect("it had started");
        let stat = format!("/proc/{}/stat", child.trim());
        // Gone, or waiting for whoever inherited it to look at how it ended.
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_command_that_reads_nothing_or_says_too_much_does_not_stop_the_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let command = ["/bin/sh", "-c", "exec <&-; head -c 3000000 /dev/zero >&2"].map(str::to_owned);
        run(&command, folder.path(), &vec![b'x'; 1 << 20], LONG).expect("it ends well");
    }
}
