use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;

use super::*;

const HOUR: i64 = HOUR_MS as i64;

fn job(interval_hours: u32) -> Job {
    Job::new(Path::new("/usr/bin/memento-kv"), Path::new("/home/ann/.memento"), interval_hours)
        .expect("plain paths")
}

/// A program in a folder of its own, as a script.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
    path
}

/// A `crontab` that keeps its table in a file beside it, and refuses what has no end of line, as cron does.
fn crontab(folder: &Path) -> Tools {
    let table = folder.join("table");
    let table = table.display();
    let text = format!(
        "case \"$1\" in\n\
         -l) [ -f '{table}' ] || {{ echo 'no crontab for ann' >&2; exit 1; }}; cat '{table}';;\n\
         -r) rm '{table}';;\n\
         -) cat > '{table}';;\nesac"
    );
    Tools { crontab: Some(script(folder, "crontab", &text)), ..Tools::default() }
}

/// A `systemctl` that writes down how it was called.
fn systemctl(folder: &Path, result: u8) -> Tools {
    let text =
        format!("echo \"$@\" >> '{}'; echo 'no bus' >&2; exit {result}", folder.join("calls").display());
    let systemctl = Some(script(folder, "systemctl", &text));
    Tools { systemctl, units: Some(folder.join("config/systemd/user")), ..Tools::default() }
}

#[test]
fn a_run_is_due_after_its_interval_and_when_the_clock_was_set_back() {
    assert!(is_due(None, 0, 1));
    assert!(!is_due(Some(0), HOUR - 1, 1));
    assert!(is_due(Some(0), HOUR, 1));
    assert!(is_due(Some(0), 30 * HOUR, 24), "a run was missed");
    assert!(!is_due(Some(HOUR), HOUR - 1000, 1), "set back by a second");
    assert!(is_due(Some(9000 * HOUR), 240 * HOUR, 1), "set back by a year");
    assert!(is_due(Some(i64::MAX), i64::MIN, u32::MAX), "and no sum overflows");
    assert!(!is_due(Some(0), 0, 0), "an interval of nothing is an hour");
}

#[test]
fn intervals_that_a_calendar_does_not_have_come_more_often_and_are_told() {
    for (hours, every) in
        [(1, 1), (2, 2), (5, 4), (7, 6), (12, 12), (23, 12), (24, 24), (100, 24), (8760, 168)]
    {
        assert_eq!(job(hours).rhythm().hours(), every, "{hours}");
        assert_eq!(job(hours).note().is_some(), hours != every, "{hours}");
    }
}

#[test]
fn the_line_of_the_seed_is_written_and_what_was_there_stays() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = crontab(folder.path());
    let table = folder.path().join("table");
    fs::write(&table, "MAILTO=ann\n# mine\n5 4 * * * backup  \n").expect("written");
    let plan = Plan::install(&job(1), Method::Cron, &tools).expect("a plan");
    let line = "0 * * * * '/usr/bin/memento-kv' --home '/home/ann/.memento' health --quiet >/dev/null\n";
    assert!(plan.to_string().contains(line), "{plan}");
    assert!(!fs::read_to_string(&table).expect("read").contains("memento"), "a plan changes nothing");
    plan.carry_out().expect("installed");
    let text = fs::read_to_string(&table).expect("read");
    assert!(text.starts_with("MAILTO=ann\n# mine\n5 4 * * * backup  \n") && text.contains(line), "{text}");
    assert_eq!(installed(&job(1), &tools), [Method::Cron]);
    Plan::install(&job(1), Method::Cron, &tools).expect("a plan").carry_out().expect("once more");
    assert_eq!(fs::read_to_string(&table).expect("read"), text, "twice is once");
    let plan = Plan::uninstall(&job(1), Method::Cron, &tools).expect("a plan");
    assert!(plan.to_string().contains(line), "{plan}");
    plan.carry_out().expect("taken out");
    assert_eq!(fs::read_to_string(&table).expect("read"), "MAILTO=ann\n# mine\n5 4 * * * backup  \n");
    assert!(Plan::uninstall(&job(1), Method::Cron, &tools).expect("a plan").is_empty());
    assert!(installed(&job(1), &tools).is_empty());
}

#[test]
fn a_crontab_that_was_not_there_is_not_there_afterwards() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = crontab(folder.path());
    Plan::install(&job(1), Method::Cron, &tools).expect("a plan").carry_out().expect("installed");
    Plan::uninstall(&job(1), Method::Cron, &tools).expect("a plan").carry_out().expect("taken out");
    assert!(!folder.path().join("table").exists());
}

#[test]
fn homes_have_blocks_of_their_own() {
    let other = Job::new(Path::new("/usr/bin/memento-kv"), Path::new("/srv/agent"), 24).expect("plain paths");
    let one = cron::with(b"", &job(1)).expect("a crontab");
    let both = cron::with(&one, &other).expect("a crontab");
    assert_eq!(cron::without(&both, &other).expect("a crontab").0, one);
    assert_eq!(
        cron::without(&both, &job(1)).expect("a crontab").0,
        cron::with(b"", &other).expect("a crontab")
    );
}

#[test]
fn paths_are_quoted_for_the_shell_and_for_cron() {
    let job = Job::new(Path::new("/opt/a b/it's"), Path::new("/x/50%"), 1).expect("plain paths");
    let block = cron::block(&job).expect("a block");
    assert!(block.contains("'/opt/a b/it'\"'\"'s' --home '/x/50\\%' health"), "{block}");
    let units = systemd::units(
        &Job::new(Path::new("/a \"b\\c"), Path::new("/x/50%$HOME"), 1).expect("plain"),
        Path::new("/u"),
    );
    assert!(
        units[0].1.contains("ExecStart=:\"/a \\\"b\\\\c\" --home \"/x/50%%$HOME\" health"),
        "{}",
        units[0].1
    );
    assert!(cron::block(&Job::new(Path::new("/a\\b"), Path::new("/x"), 1).expect("plain")).is_err());
    for bad in ["relative", "/with\nline", "/with\u{7}bell"] {
        assert!(Job::new(Path::new(bad), Path::new("/x"), 1).is_err(), "{bad:?}");
        assert!(Job::new(Path::new("/x"), Path::new(bad), 1).is_err(), "{bad:?}");
    }
}

#[test]
fn a_shell_reads_the_quoted_words_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let told = folder.path().join("it's 100% \"$HOME\" `here`");
    let program = script(
        folder.path(),
        "pro gram",
        &format!("printf '%s' \"$2\" > '{}'", folder.path().join("told").display()),
    );
    let block = cron::block(&Job::new(&program, &told, 1).expect("plain paths")).expect("a block");
    let line = block.lines().nth(1).expect("the line").replace("\\%", "%");
    let command = line.strip_prefix("0 * * * * ").expect("its times");
    let status = std::process::Command::new("/bin/sh").args(["-c", command]).status().expect("a shell");
    assert!(status.success());
    assert_eq!(fs::read_to_string(folder.path().join("told")).expect("read"), told.to_str().expect("a path"));
}

#[test]
fn a_block_that_was_edited_is_left_alone() {
    let text = String::from_utf8(cron::with(b"", &job(1)).expect("a crontab")).expect("text");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for broken in [lines[..3].concat(), lines[1..].concat(), [&lines[..1], &lines[..]].concat().concat()] {
        assert_eq!(
            cron::without(broken.as_bytes(), &job(1)).expect_err("broken").kind(),
            ErrorKind::Conflict,
            "{broken}"
        );
        assert!(cron::with(broken.as_bytes(), &job(1)).is_err());
    }
}

proptest! {
    #[test]
    fn whatever_a_crontab_holds_comes_back_byte_for_byte(before in prop::collection::vec(any::<u8>(), 0..200)) {
        let with = cron::with(&before, &job(1)).expect("a crontab");
        prop_assert!(with.ends_with(b"\n"));
        prop_assert_eq!(cron::without(&with, &job(1)).expect("a crontab").0, before);
    }
}

#[test]
fn a_crontab_that_cannot_be_read_is_not_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = format!(
        "[ \"$1\" = -l ] && {{ echo 'you are not allowed' >&2; exit 1; }}; touch '{}'",
        folder.path().join("written").display()
    );
    let tools = Tools { crontab: Some(script(folder.path(), "crontab", &text)), ..Tools::default() };
    let error = Plan::install(&job(1), Method::Cron, &tools).expect_err("refused");
    assert!(error.message().contains("you are not allowed"), "{error}");
    assert!(!folder.path().join("written").exists());
}

#[test]
fn a_crontab_that_changed_meanwhile_is_not_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = crontab(folder.path());
    let plan = Plan::install(&job(1), Method::Cron, &tools).expect("a plan");
    fs::write(folder.path().join("table"), "1 1 * * * new\n").expect("written");
    assert_eq!(plan.carry_out().expect_err("changed").kind(), ErrorKind::Conflict);
    assert_eq!(fs::read_to_string(folder.path().join("table")).expect("read"), "1 1 * * * new\n");
}

#[test]
fn without_the_programs_the_line_is_told() {
    let none = Tools { units: Some("/u".into()), ..Tools::default() };
    let error = Plan::install(&job(1), Method::Cron, &none).expect_err("no cron");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.hint_text().is_some_and(|hint| hint.contains("0 * * * * '/usr/bin/memento-kv'")),
        "{error:?}"
    );
    let error = Plan::install(&job(1), Method::Systemd, &none).expect_err("no systemd");
    assert!(
        error.hint_text().is_some_and(|hint| hint.contains("\"/usr/bin/memento-kv\" --home")),
        "{error:?}"
    );
    assert!(Plan::uninstall(&job(1), Method::Cron, &none).expect("nothing to do").is_empty());
}

#[test]
fn a_timer_makes_up_missed_runs_and_goes_without_a_trace() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = systemctl(folder.path(), 0);
    let units = folder.path().join("config/systemd/user");
    let plan = Plan::install(&job(6), Method::Systemd, &tools).expect("a plan");
    assert!(
        plan.to_string().contains("OnCalendar=*-*-* 00/6:00:00")
            && plan.to_string().contains("Persistent=true")
    );
    assert!(!units.exists(), "a plan changes nothing");
    plan.carry_out().expect("installed");
    assert_eq!(installed(&job(6), &tools), [Method::Systemd]);
    let names: Vec<String> = RealDisk.list(&units).expect("a list");
    assert_eq!(names.len(), 2);
    for name in &names {
        assert_eq!(units.join(name).metadata().expect("there").mode() & 0o777, 0o600);
    }
    Plan::uninstall(&job(6), Method::Systemd, &tools).expect("a plan").carry_out().expect("taken out");
    assert!(RealDisk.list(&units).expect("a list").is_empty());
    let calls = fs::read_to_string(folder.path().join("calls")).expect("calls");
    let timer = systemd::timer_name(&job(6));
    assert_eq!(
        calls,
        format!(
            "--user daemon-reload\n--user enable --now {timer}\n--user disable --now {timer}\n--user daemon-reload\n"
        )
    );
}

#[test]
fn a_timer_that_cannot_be_started_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = systemctl(folder.path(), 1);
    let error =
        Plan::install(&job(1), Method::Systemd, &tools).expect("a plan").carry_out().expect_err("no bus");
    assert!(error.message().contains("no bus"), "{error}");
    assert!(RealDisk.list(&folder.path().join("config/systemd/user")).expect("a list").is_empty());
}

#[test]
fn units_of_somebody_else_are_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = systemctl(folder.path(), 0);
    let units = folder.path().join("config/systemd/user");
    fs::create_dir_all(&units).expect("a folder");
    let path = units.join(systemd::timer_name(&job(1)));
    fs::write(&path, "[Timer]\n").expect("written");
    assert_eq!(
        Plan::install(&job(1), Method::Systemd, &tools).expect_err("foreign").kind(),
        ErrorKind::Conflict
    );
    assert_eq!(
        Plan::uninstall(&job(1), Method::Systemd, &tools).expect_err("foreign").kind(),
        ErrorKind::Conflict
    );
    assert_eq!(fs::read_to_string(&path).expect("read"), "[Timer]\n");
}
