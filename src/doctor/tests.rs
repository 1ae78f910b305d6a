use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::failure::{Failure, Kind};
use crate::logs;
use crate::schedule::{Job, Method, Plan};
use crate::{Options, Remember, Store};

/// A user with a home, and nothing else.
struct User {
    folder: tempfile::TempDir,
    env: HashMap<&'static str, OsString>,
    tools: Tools,
}

impl User {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, env: HashMap::new(), tools: Tools::default() }
    }

    /// With a store that holds a memory, and a verified backup.
    fn with_store() -> Self {
        let user = Self::new();
        let store = Store::open(Options::at(user.home()).background_embedding(false)).expect("a store");
        store.remember(Remember::new("Canary of a memory")).expect("remembered");
        store.backup().expect("a backup");
        store.close().expect("closed");
        user
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join(".memento")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home().join(name);
        private_folder(path.parent().expect("a folder"));
        fs::write(&path, text).expect("written");
        mode(&path, 0o600);
        path
    }

    fn examine(&self) -> Examination {
        self.examine_at(now_ms())
    }

    fn examine_at(&self, now_ms: i64) -> Examination {
        examine(
            &HomeInputs {
                argument: None,
                env: &|name| self.env.get(name).cloned(),
                current_dir: Some(self.folder.path().to_owned()),
                user_home: Some(self.folder.path().to_owned()),
                system_config: self.folder.path().join("none.yaml"),
            },
            &self.tools,
            now_ms,
        )
    }
}

fn now_ms() -> i64 {
    use crate::clock::{Clock, SystemClock};
    SystemClock.now_ms()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn private_folder(path: &Path) {
    fs::create_dir_all(path).expect("folders");
    mode(path, 0o700);
}

/// The findings of a topic that are not ok.
fn told_of<'a>(found: &'a Examination, topic: &str) -> Vec<&'a Finding> {
    found.findings.iter().filter(|finding| finding.topic == topic && finding.level > Level::Ok).collect()
}

/// The one finding of a topic that is not ok: its level, what it says, and the command.
fn the_one(found: &Examination, topic: &str) -> (Level, String, String) {
    let all = told_of(found, topic);
    assert_eq!(all.len(), 1, "{topic}: {:#?}", found.findings);
    (all[0].level, all[0].what.clone(), all[0].command.clone().expect("a command"))
}

#[test]
fn a_sound_installation_has_a_line_for_everything() {
    let user = User::with_store();
    let found = user.examine();
    assert!(found.is_well(), "{:#?}", found.findings);
    let topics: Vec<&str> = found.findings.iter().map(|finding| finding.topic).collect();
    for topic in [
        "versions",
        "environment",
        "config",
        "permissions",
        "mount",
        "clock",
        "leftovers",
        "store",
        "model",
        "backups",
        "schedule",
        "failures",
    ] {
        assert!(topics.contains(&topic), "{topic} in {topics:?}");
    }
    for finding in &found.findings {
        assert_eq!(finding.command.is_some(), finding.level > Level::Ok, "{finding:?}");
        assert!(!finding.what.contains('\n') && !finding.what.contains("Canary"), "{finding:?}");
    }
    assert!(the_one(&found, "schedule").1.contains("nothing starts health runs"));
}

#[test]
fn looking_changes_nothing() {
    let user = User::with_store();
    let state = || {
        let mut all: Vec<_> = walk(&user.home())
            .into_iter()
            .map(|path| {
                let metadata = path.metadata().expect("there");
                (path, metadata.len(), metadata.modified().expect("a time"))
            })
            .collect();
        all.sort();
        all
    };
    let before = state();
    user.examine();
    assert_eq!(state(), before);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_home_that_is_not_there_is_told_with_the_command_that_makes_it() {
    let found = User::new().examine();
    assert!(found.is_well());
    let (level, what, command) = the_one(&found, "permissions");
    assert!(level == Level::Warn && what.contains("not there yet") && command.contains("remember"), "{what}");
}

#[test]
fn modes_that_let_others_in_are_told_with_the_chmod() {
    let user = User::with_store();
    mode(&user.home().join("memory.db"), 0o644);
    let (level, what, command) = the_one(&user.examine(), "permissions");
    assert!(level == Level::Warn && what.contains("memory.db") && what.contains("may read"), "{what}");
    assert!(command.starts_with("chmod -R go-rwx "), "{command}");
    mode(&user.home().join("store"), 0o777);
    let (level, what, _) = the_one(&user.examine(), "permissions");
    assert!(level == Level::Bad && what.contains("may write"), "{what}");
    let status = std::process::Command::new("/bin/sh").args(["-c", &command]).status().expect("a shell");
    assert!(status.success());
    assert!(told_of(&user.examine(), "permissions").is_empty(), "the command mends it");
}

#[test]
fn a_token_that_others_may_read_is_bad() {
    let mut user = User::with_store();
    user.tools.units = Some(user.folder.path().join("config/systemd/user"));
    let file = user.folder.path().join("config/memento-kv/environment");
    private_folder(file.parent().expect("a folder"));
    fs::write(&file, "GITHUB_TOKEN=ghp_Canary").expect("written");
    mode(&file, 0o644);
    let (level, what, command) = the_one(&user.examine(), "permissions");
    assert!(level == Level::Bad && what.contains("token") && !what.contains("Canary"), "{what}");
    assert!(
        std::process::Command::new("/bin/sh").args(["-c", &command]).status().expect("a shell").success()
    );
    assert!(told_of(&user.examine(), "permissions").is_empty());
}

#[test]
fn links_where_files_should_be_are_told() {
    let user = User::with_store();
    symlink("/etc/passwd", user.home().join("store/query.cache.new")).expect("a link");
    let (level, what, _) = the_one(&user.examine(), "permissions");
    assert!(level == Level::Bad && what.contains("a link"), "{what}");
    let user = User::new();
    private_folder(&user.folder.path().join("elsewhere"));
    symlink(user.folder.path().join("elsewhere"), user.home()).expect("a link");
    let (level, _, command) = the_one(&user.examine(), "permissions");
    assert!(level == Level::Bad && command.starts_with("export MEMENTO_HOME="), "{command}");
}

#[test]
fn a_configuration_that_cannot_be_read_does_not_stop_the_rest() {
    let user = User::with_store();
    let path = user.write("config.yaml", "search:\n  default_topk: many\n");
    let found = user.examine();
    let (level, what, command) = the_one(&found, "config");
    assert!(level == Level::Bad && what.contains("line 2: search.default_topk"), "{what}");
    assert!(command.contains("config.yaml"), "{command}");
    assert!(
        found.findings.iter().any(|finding| finding.what.contains("it opens, with 1 memory")),
        "{found:#?}"
    );
    mode(&path, 0o666);
    assert!(
        told_of(&user.examine(), "config")[0].command.as_ref().expect("a command").starts_with("chmod go-w ")
    );
}

#[test]
fn remarks_on_the_configuration_come_with_the_line_to_edit() {
    let user = User::with_store();
    user.write("config.yaml", "storage:\n  backup_retention: 3\n");
    let (level, what, command) = the_one(&user.examine(), "config");
    assert!(level == Level::Warn && what.contains("unknown key"), "{what}");
    assert!(command.contains(" +2 "), "{command}");
}

#[test]
fn variables_that_overrule_each_other_are_told() {
    let mut user = User::with_store();
    user.env.insert("MEMORY_DB_PATH", user.home().join("memory.db").into());
    user.env.insert("MEMENTO_DB_PATH", "/elsewhere/memory.db".into());
    let (level, what, command) = the_one(&user.examine(), "environment");
    assert!(level == Level::Warn && what.contains("the first one counts"), "{what}");
    assert_eq!(command, "unset MEMENTO_DB_PATH");
}

#[test]
fn a_clock_that_makes_no_sense_is_bad() {
    let user = User::with_store();
    for (now_ms, part) in [
        (0, "before 2020"),
        (now_ms() - 365 * 86_400_000 - 3_600_000, "365 days behind"),
        (4_200_000_000_000, "after 2100"),
    ] {
        let (level, what, command) = the_one(&user.examine_at(now_ms), "clock");
        assert!(level == Level::Bad && what.contains(part), "{what}");
        assert!(command.contains("timedatectl"));
    }
}

#[test]
fn what_was_left_behind_is_told_and_the_command_removes_it() {
    let user = User::with_store();
    let old = user.write("store/MANIFEST.tmp", "x");
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    fs::File::options().write(true).open(&old).expect("open").set_modified(an_hour_ago).expect("a time");
    user.write("store/view.redb.new.tmp", "somebody may be at it");
    let socket = user.home().join("store/owner.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    mode(&socket, 0o600);
    user.write("store/quarantine/1/MANIFEST", "damaged");
    mode(&user.home().join("store/quarantine"), 0o700);
    user.write("quarantine/store-1/MANIFEST", "damaged");
    mode(&user.home().join("quarantine"), 0o700);
    let found = user.examine();
    let told = told_of(&found, "leftovers");
    assert_eq!(told.len(), 4, "{told:#?}");
    assert!(told[0].what.contains("MANIFEST.tmp") && !told[0].what.contains("more"), "{told:#?}");
    for finding in told {
        let command = finding.command.as_ref().expect("a command");
        assert!(
            std::process::Command::new("/bin/sh").args(["-c", command]).status().expect("a shell").success()
        );
    }
    assert!(told_of(&user.examine(), "leftovers").is_empty());
}

#[test]
fn a_store_that_does_not_open_is_bad_and_the_rest_is_told_all_the_same() {
    let user = User::with_store();
    let segments = user.home().join("store/seg");
    for entry in fs::read_dir(&segments).expect("a list") {
        let path = entry.expect("an entry").path();
        mode(&path, 0o600);
        fs::write(&path, "not a segment").expect("written");
    }
    fs::remove_file(user.home().join("store/view.redb")).expect("removed");
    let found = user.examine();
    let (level, what, command) = the_one(&found, "store");
    assert!(level == Level::Bad && what.contains("does not open"), "{what}");
    assert_eq!(command, "memento-kv check --repair");
    assert!(!found.is_well());
    assert!(found.findings.iter().any(|finding| finding.topic == "schedule"));
}

#[test]
fn a_store_that_is_gone_is_bad_and_one_that_never_was_is_not() {
    let user = User::with_store();
    fs::remove_dir_all(user.home().join("store")).expect("removed");
    let (level, what, command) = the_one(&user.examine(), "store");
    assert!(level == Level::Bad, "{what}");
    assert_eq!(command, "memento-kv health");
    let user = User::new();
    private_folder(&user.home());
    let (level, what, _) = the_one(&user.examine(), "store");
    assert!(level == Level::Warn && what.contains("none yet"), "{what}");
}

#[test]
fn a_store_that_somebody_has_is_no_trouble() {
    let user = User::with_store();
    let store = Store::open(Options::at(user.home()).background_embedding(false)).expect("a store");
    let found = user.examine();
    assert!(told_of(&found, "store").is_empty() && found.is_well(), "{:#?}", found.findings);
    store.close().expect("closed");
}

#[test]
fn backups_that_are_old_or_none_are_told() {
    let user = User::with_store();
    assert!(told_of(&user.examine(), "backups").is_empty());
    let (level, what, command) = the_one(&user.examine_at(now_ms() + 3 * 86_400_000), "backups");
    assert!(level == Level::Warn && what.contains("3 days old"), "{what}");
    assert_eq!(command, "memento-kv backup");
    fs::remove_dir_all(user.home().join("backups")).expect("removed");
    assert!(the_one(&user.examine(), "backups").1.contains("no verified backup"));
}

#[test]
fn what_the_last_health_run_left_wrong_is_told() {
    let user = User::with_store();
    let log = |line: &str| logs::append(&user.home(), logs::Log::Health, now_ms(), line).expect("written");
    log("CRITICAL health check found damage: status=damaged check=deep");
    let told = user.examine();
    let told = told_of(&told, "store");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((told[0].level, told[0].what.as_str()), (Level::Bad, "the last health check found damage"));
    log("health check passed: status=ok check=deep");
    assert!(told_of(&user.examine(), "store").is_empty());
}

#[test]
fn a_schedule_that_is_installed_is_told_with_its_last_run() {
    let mut user = User::with_store();
    let crontab = user.folder.path().join("crontab");
    let table = user.folder.path().join("table");
    let script = format!("#!/bin/sh\n[ \"$1\" = -l ] && exec cat '{0}'\ncat > '{0}'\n", table.display());
    fs::write(&table, "").expect("written");
    fs::write(&crontab, script).expect("written");
    mode(&crontab, 0o755);
    user.tools = Tools { crontab: Some(crontab), ..Tools::default() };
    let program = std::env::current_exe().expect("this program");
    let job = Job::new(&program, &user.home(), 1).expect("plain paths");
    Plan::install(&job, Method::Cron, &user.tools).expect("a plan").carry_out().expect("installed");
    crate::logs::append(
        &user.home(),
        crate::logs::Log::Health,
        now_ms() - 120_000,
        "health check passed: seq=1",
    )
    .expect("log");
    let found = user.examine();
    let line = found.findings.iter().find(|finding| finding.topic == "schedule").expect("a line");
    assert_eq!(
        (line.level, line.what.as_str()),
        (Level::Ok, "cron starts health runs; the last one was 2 min ago")
    );
    let late = user.examine_at(now_ms() + 2 * 86_400_000);
    assert_eq!(the_one(&late, "schedule").2, "memento-kv health");
}

#[test]
fn what_failed_lately_and_what_waits_is_told() {
    let user = User::with_store();
    user.write("config.yaml", "github:\n  enabled: true\n  repo: ann/agent\n");
    let home = locate(&HomeInputs {
        argument: Some(user.home()),
        env: &|_| None,
        current_dir: None,
        user_home: Some(user.folder.path().to_owned()),
        system_config: user.folder.path().join("none.yaml"),
    })
    .expect("a home");
    let failures = [Failure::new(Kind::SegmentDamaged, now_ms())];
    crate::failure::handle_with(&home, now_ms(), &failures, &crate::failure::Options::default());
    let found = user.examine();
    let told = told_of(&found, "failures");
    assert!(told[0].what.contains("segment_damaged") && told[1].what.contains("1 report"), "{told:#?}");
    assert!(the_one(&found, "environment").1.contains("GITHUB_TOKEN"));
    let later = user.examine_at(now_ms() + 8 * 86_400_000);
    assert_eq!(told_of(&later, "failures").len(), 1, "it is over a week ago, and still waits");
}

#[test]
fn words_of_a_command_are_quoted_where_they_must_be() {
    assert_eq!(word(Path::new("/home/ann/.memento")), "/home/ann/.memento");
    assert_eq!(word(Path::new("/a b/it's")), "'/a b/it'\"'\"'s'");
    assert_eq!(word(Path::new("-rf")), "'-rf'");
    assert_eq!(word(Path::new("")), "''");
}
