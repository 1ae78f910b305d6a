//! A home and the program in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// A user with an empty home, and nothing else in the environment.
pub(crate) struct User {
    folder: TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The store's home.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A path beside the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file beside the home.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("write");
        path
    }

    /// The program without arguments.
    pub(crate) fn program(&self) -> Command {
        self.program_named("memento-kv")
    }

    pub(crate) fn program_named(&self, name: &str) -> Command {
        let mut command = Command::new(match name {
            "memento" => env!("CARGO_BIN_EXE_memento"),
            _ => env!("CARGO_BIN_EXE_memento-kv"),
        });
        command.env_clear().env("HOME", self.folder.path()).env("TZ", "UTC").env("MEMENTO_HOME", self.home());
        command
    }

    /// The program with these arguments.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.program();
        command.args(args);
        command
    }

    /// Runs the program; its answer. It must end well.
    pub(crate) fn run<const N: usize>(&self, args: [&str; N]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs the program; its answer as JSON. It must end well.
    pub(crate) fn json<const N: usize>(&self, args: [&str; N]) -> Value {
        let answer = self.run(args);
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{args:?}: {error}: {answer}"))
    }

    /// Runs the program to its end, whatever that is.
    pub(crate) fn output<const N: usize>(&self, args: [&str; N]) -> Output {
        self.command(args).output().expect("it can be run")
    }

    /// Runs the program, which must end with this code; what it says on standard error.
    pub(crate) fn fail<const N: usize>(&self, code: i32, args: [&str; N]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// Remembers a text; its id.
    pub(crate) fn remember<const N: usize>(&self, args: [&str; N]) -> String {
        let output = self.command(["remember"]).args(args).output().expect("it can be run");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// Memories that the store has.
    pub(crate) fn count(&self) -> u64 {
        self.json(["stats", "--json"])["memories"].as_u64().expect("a number")
    }
}

/// A file of the tests.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The texts of a JSON list of memories.
pub(crate) fn texts(memories: &Value) -> Vec<&str> {
    memories
        .as_array()
        .expect("a list")
        .iter()
        .map(|memory| memory["text"].as_str().expect("a text"))
        .collect()
}
