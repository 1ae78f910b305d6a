//! Schedules, and what is wrong with an installation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

use crate::support::User;

/// A `crontab` on a PATH of its own, which keeps its table in a file.
fn with_cron(user: &User) -> (PathBuf, PathBuf) {
    let (bin, table) = (user.path("bin"), user.path("table"));
    fs::create_dir_all(&bin).expect("a folder");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\n-l) [ -f '{0}' ] || {{ echo 'no crontab for ann' >&2; exit 1; }}; cat '{0}';;\n\
         -r) rm '{0}';;\n-) cat > '{0}';;\nesac\n",
        table.display()
    );
    fs::write(bin.join("crontab"), script).expect("written");
    fs::set_permissions(bin.join("crontab"), PermissionsExt::from_mode(0o755)).expect("chmod");
    (bin, table)
}

fn health(user: &User, bin: &Path, args: &[&str]) -> Command {
    let mut command = user.program();
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).arg("health").args(args);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_health_run_is_put_into_the_crontab_and_taken_out_exactly() {
    let user = User::new();
    let (bin, table) = with_cron(&user);
    let before = "# mine\n5 4 * * * /usr/bin/backup 100\\%\n\n";
    fs::write(&table, before).expect("written");

    let shown = health(&user, &bin, &["--install", "cron", "--dry-run"]).assert().success();
    let shown = text(&shown.get_output().stdout);
    assert_eq!(fs::read_to_string(&table).expect("read"), before, "--dry-run changes nothing");
    let line = shown.lines().find(|line| line.starts_with("0 * * * * ")).expect("the line").to_owned();
    assert!(line.contains(" --home ") && line.contains(user.home().to_str().expect("a path")), "{line}");

    health(&user, &bin, &["--install", "cron"]).assert().success();
    let installed = fs::read_to_string(&table).expect("read");
    assert!(installed.starts_with(before) && installed.contains(&line), "{installed}");
    health(&user, &bin, &["--install", "cron"]).assert().success();
    assert_eq!(fs::read_to_string(&table).expect("read"), installed, "twice is once");

    let json = health(&user, &bin, &["--uninstall", "--dry-run", "--json"]).assert().success();
    let json: Value = serde_json::from_slice(&json.get_output().stdout).expect("JSON");
    assert_eq!((json["method"].as_str(), json["changed"].as_bool()), (Some("cron"), Some(false)), "{json}");
    health(&user, &bin, &["--uninstall"]).assert().success();
    assert_eq!(fs::read_to_string(&table).expect("read"), before);
    let again = health(&user, &bin, &["--uninstall"]).assert().success();
    assert!(text(&again.get_output().stderr).contains("nothing was installed"));
}

#[test]
fn what_the_crontab_holds_runs_in_the_bare_environment_of_cron() {
    let user = User::new();
    let (bin, table) = with_cron(&user);
    user.run(["remember", "a memory"]);
    health(&user, &bin, &["--install", "cron"]).assert().success();
    let table = fs::read_to_string(&table).expect("read");
    let line = table.lines().find(|line| line.starts_with("0 * * * * ")).expect("the line");
    let command = line.trim_start_matches("0 * * * * ").replace("\\%", "%");
    let mut cron = std::process::Command::new("/bin/sh");
    let status =
        cron.args(["-c", &format!("umask 000; {command}")]).env_clear().env("PATH", "/usr/bin:/bin").status();
    assert!(status.expect("a shell").success());
    let log = fs::read_to_string(user.home().join("logs/health.log")).expect("a run was made");
    assert!(log.contains("health check passed"), "{log}");
    let found = user.program().arg("doctor").env("PATH", bin).assert().success();
    assert!(!text(&found.get_output().stdout).contains("permissions:"), "{:?}", found.get_output());
}

#[test]
fn without_cron_the_line_to_paste_is_told() {
    let user = User::new();
    let empty = user.path("empty");
    fs::create_dir_all(&empty).expect("a folder");
    let mut command = user.program();
    let refused = command.env("PATH", &empty).args(["health", "--install", "cron"]).assert().code(1);
    let told = text(&refused.get_output().stderr);
    assert!(told.contains("no program crontab") && told.contains("0 * * * * '"), "{told}");
}

#[test]
fn the_doctor_tells_what_is_bad_with_its_command_and_ends_with_1() {
    let user = User::new();
    user.run(["remember", "a memory"]);
    let well = user.program().args(["doctor", "--json"]).assert().success();
    let json: Value = serde_json::from_slice(&well.get_output().stdout).expect("JSON");
    assert!(json["findings"].as_array().is_some_and(|findings| findings.len() >= 12), "{json}");
    fs::set_permissions(user.home(), PermissionsExt::from_mode(0o777)).expect("chmod");
    let bad = user.program().arg("doctor").assert().code(1);
    let told = text(&bad.get_output().stdout);
    assert!(told.contains("bad  permissions: ") && told.contains("       chmod -R go-rwx "), "{told}");
    fs::write(user.home().join("config.yaml"), "search: 5\n").expect("written");
    let bad = user.program().args(["doctor", "--json"]).assert().code(1);
    let json: Value = serde_json::from_slice(&bad.get_output().stdout).expect("JSON");
    assert!(json.to_string().contains("search is 5, expected a section"), "{json}");
}
