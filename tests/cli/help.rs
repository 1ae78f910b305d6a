//! Help, version, completions, and both names of the program.

use crate::support::User;

const COMMANDS: [&str; 18] = [
    "remember",
    "recall",
    "capture",
    "captured",
    "scan",
    "get",
    "list",
    "update",
    "forget",
    "stats",
    "where",
    "check",
    "import",
    "export",
    "reembed",
    "model",
    "demo",
    "completions",
];

#[test]
fn without_arguments_it_helps_and_ends_well() {
    let user = User::new();
    let help = user.run([]);
    for part in ["Exit codes:", "memento-kv demo", "MEMENTO_HOME"].into_iter().chain(COMMANDS) {
        assert!(help.contains(part), "{part} in\n{help}");
    }
    assert_eq!(user.run(["--help"]).lines().count(), help.lines().count());
}

#[test]
fn every_command_has_help_with_examples() {
    let user = User::new();
    for command in COMMANDS {
        let help = user.run([command, "--help"]);
        assert!(help.contains("Examples:"), "{command}\n{help}");
    }
}

#[test]
fn the_version_is_the_package_version() {
    let user = User::new();
    assert_eq!(user.run(["--version"]), format!("memento-kv {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_program_has_two_names_and_one_behaviour() {
    let user = User::new();
    let id = user.remember(["said to one"]);
    let output =
        user.program_named("memento").args(["get", &id, "-f", "text"]).output().expect("it can be run");
    assert_eq!(output.stdout, b"said to one");
    let help = user.program_named("memento").args(["recall", "-h"]).output().expect("it can be run");
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: memento recall"), "{help:?}");
}

#[test]
fn completions_need_no_home() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = user
            .command(["completions", shell])
            .env_remove("HOME")
            .env_remove("MEMENTO_HOME")
            .output()
            .expect("it runs");
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}: {output:?}");
    }
}

#[test]
fn a_pipe_gets_no_colour() {
    let user = User::new();
    user.remember(["x"]);
    for args in [&["--help"][..], &["stats"], &["where"], &["recall", "x", "-f", "table"], &["frobnicate"]] {
        let output = user.command(args).output().expect("it can be run");
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{args:?}: {output:?}");
    }
}
