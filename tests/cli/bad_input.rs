//! What people and programs get wrong: a clear error, the right exit code, nothing lost, no panic.

use std::ffi::OsString;
use std::fs;

use serde_json::Value;

use crate::support::User;

/// The error that `--json` prints.
fn error_of(user: &User, code: i32, args: &[&str]) -> Value {
    let output = user.command(args).arg("--json").output().expect("it can be run");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "an error leaves standard output alone: {output:?}");
    let error: Value =
        serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("one JSON: {output:?}"));
    assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    error["error"].clone()
}

#[test]
fn values_out_of_range_are_wrong_usage() {
    let user = User::new();
    let many_tags = (0..65).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    for args in [
        &["remember", ""][..],
        &["remember", " \n\t "],
        &["remember", "x", "-i", "NaN"],
        &["remember", "x", "-i", "1.5"],
        &["remember", "x", "-i", "-0.1"],
        &["remember", "x", "-i", "inf"],
        &["remember", "x", "-t", "a\u{7}b"],
        &["remember", "x", "-c", ""],
        &["remember", "x", "--source", "a\nb"],
        &["remember", "x", "--id", ""],
        &["remember", "x", "--meta", "nothing"],
        &["remember", "x", "--meta", "k:={"],
        &["remember", "x", "--at", "soon"],
        &["remember", "x", "--at", "1771329600000"],
        &["recall", "x", "--since", "yesterday"],
        &["recall", "x", "-s", "2"],
        &["list", "--before", "2026-13-01"],
        &["get", ""],
        &["reembed", "--model", "nonsense"],
    ] {
        let error = error_of(&user, 2, args);
        assert_eq!(error["kind"], "invalid", "{args:?}");
    }
    assert_eq!(error_of(&user, 2, &["remember", "x", "-t", &many_tags])["kind"], "too_large");
    assert_eq!(error_of(&user, 2, &["recall", "x", "-n", "100001"])["kind"], "too_large");
    let exact: Vec<_> = many_tags.split(',').take(64).collect();
    user.remember(["x", "-t", &exact.join(",")]);
}

#[test]
fn a_text_may_have_a_mebibyte_and_not_more() {
    let user = User::new();
    let longest = "x".repeat(1 << 20);
    user.command(["remember", "-"]).write_stdin(format!("{longest}\n")).assert().success();
    user.command(["remember", "-"]).write_stdin(format!("{longest}x")).assert().code(2);
    user.command(["remember", "-"]).write_stdin("x".repeat(5 << 20)).assert().code(2);
    user.command(["recall", "-"]).write_stdin(format!("{longest}x")).assert().code(2);
    user.command(["remember", "-"]).write_stdin(&b"not \xff UTF-8"[..]).assert().code(2);
    user.command(["remember", "-"]).write_stdin("").assert().code(2);
    assert_eq!(user.count(), 1);
}

#[test]
fn wrong_usage_has_a_json_form_too() {
    let user = User::new();
    for args in [&["remember"][..], &["frobnicate"], &["recall", "x", "-n", "many"], &["remember", "-x"]] {
        assert_eq!(error_of(&user, 2, args)["kind"], "usage", "{args:?}");
    }
}

#[test]
fn a_text_that_begins_with_a_dash_gets_a_tip() {
    let user = User::new();
    let said = user.fail(2, ["remember", "-5 degrees"]);
    assert!(said.contains("use '-- -5'"), "{said}");
    let id = user.remember(["--", "-5 degrees"]);
    assert_eq!(user.run(["get", &id, "-f", "text"]), "-5 degrees");
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_utf8_are_wrong_usage() {
    use std::os::unix::ffi::OsStringExt;
    let user = User::new();
    let bad = || OsString::from_vec(vec![b'x', 0xff]);
    for verb in ["remember", "recall", "get", "forget", "update"] {
        user.command([OsString::from(verb), bad()]).assert().code(2);
    }
    user.command([bad()]).assert().code(2);
    user.command(["remember", "--jsonl"]).arg(bad()).assert().code(5);
    assert_eq!(user.run(["list", "-q"]), "[]\n");
}

#[test]
fn a_home_that_is_a_file_is_refused() {
    let user = User::new();
    fs::write(user.home(), "precious").expect("write");
    for args in [["remember", "x"], ["recall", "x"], ["check", "-q"]] {
        let output = user.output(args);
        assert!(matches!(output.status.code(), Some(2..=5)), "{args:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("error: ") && said.contains("home"), "{said}");
    }
    assert_eq!(fs::read(user.home()).expect("still there"), b"precious");
}

#[cfg(unix)]
#[test]
fn a_home_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::new();
    user.remember(["x"]);
    fs::set_permissions(user.home(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let error = error_of(&user, 3, &["recall", "x"]);
    assert_eq!(error["kind"], "permission");
    assert!(error["hint"].is_string(), "{error}");
}

#[cfg(unix)]
#[test]
fn what_is_stored_is_private_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::new();
    user.remember(["x"]);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&user.home()), 0o700);
    for entry in fs::read_dir(user.home().join("store/seg")).expect("segments") {
        assert_eq!(mode(&entry.expect("an entry").path()), 0o600);
    }
}

#[test]
fn a_bad_configuration_is_code_6_and_names_the_line() {
    for (config, expected) in [
        ("storage:\n\tdb_path: x\n", "line 2"),
        ("search:\n  default_topk: many\n", "line 2"),
        ("embed:\n  model: nonsense\n", "line 2"),
        ("a: &a [x]\nb: *a\n", "config.yaml"),
    ] {
        let user = User::new();
        fs::create_dir(user.home()).expect("the home");
        fs::write(user.home().join("config.yaml"), config).expect("write");
        let output = user.output(["remember", "x"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(6) {
            // An alias that nothing reads may also be a warning.
            assert!(output.status.success() && said.contains("warning"), "{config}: {output:?}");
        }
        assert!(said.contains(expected), "{config}: {said}");
    }
}

#[test]
fn an_unknown_key_is_a_warning() {
    let user = User::new();
    fs::create_dir(user.home()).expect("the home");
    fs::write(user.home().join("config.yaml"), "search:\n  default_topkk: 3\n").expect("write");
    let output = user.output(["remember", "x"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("warning: ") && said.contains("default_topkk"), "{said}");
    assert!(user.output(["remember", "y", "--quiet"]).stderr.is_empty());
}

#[test]
fn the_log_is_silent_unless_asked_for_and_a_bad_filter_is_wrong_usage() {
    let user = User::new();
    assert!(user.output(["remember", "x"]).stderr.is_empty());
    let logged = user.command(["remember", "y"]).env("MEMENTO_LOG", "trace").output().expect("it can be run");
    assert!(logged.status.success() && !logged.stderr.is_empty());
    let logged =
        user.command(["remember", "sesame"]).env("MEMENTO_DEBUG", "yes").output().expect("it can be run");
    assert!(logged.status.success());
    assert!(!String::from_utf8_lossy(&logged.stderr).contains("sesame"), "texts are not logged");
    let bad = user.command(["stats"]).env("MEMENTO_LOG", "a=b=c").output().expect("it can be run");
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8_lossy(&bad.stderr);
    assert!(said.starts_with("error: MEMENTO_LOG") && said.contains("\nhint: "), "{said}");
}

#[test]
fn the_same_id_with_another_text_is_a_conflict() {
    let user = User::new();
    user.remember(["one", "--id", "a"]);
    assert_eq!(user.remember(["one", "--id", "a"]), "a", "the same once more is safe");
    assert_eq!(error_of(&user, 2, &["remember", "two", "--id", "a"])["kind"], "conflict");
    assert_eq!(user.run(["get", "a", "-f", "text"]), "one");
}

#[test]
fn a_command_that_needs_a_store_says_that_there_is_none() {
    let user = User::new();
    for args in [["get", "x"], ["forget", "x"], ["check", "-q"], ["export", "-q"], ["reembed", "-q"]] {
        let said = user.fail(1, args);
        assert!(said.starts_with("error: ") && said.contains("\nhint: "), "{args:?}: {said}");
    }
    assert!(!user.home().exists());
}
