//! What a file holds, told by its content.
//!
//! Names lie: an export is often called `memories.json` whatever is in it. So the first bytes are looked at, and of JSON
//! the keys of its first object. The name decides only where the content leaves it open.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::input::strip_bom;
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite::MAGIC;

/// How much of a file is looked at, in bytes.
const LOOK_LEN: u64 = 256 << 10;
/// Longest key that is looked at, in bytes.
const KEY_LEN_MAX: usize = 64;

/// A form in which memories are kept in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ImportFormat {
    /// The original's export, or a bare list of its memories.
    Json,
    /// One memory as an object on each line, as this program writes it.
    Jsonl,
    /// A SQLite database: the original's `memory.db` of any version, this program's, or claude-mem's.
    Sqlite,
    /// The file of the reference memory server of the Model Context Protocol: entities and relations, one a line.
    Mcp,
    /// Memories as mem0's interface answers them.
    Mem0,
    /// The export of claude-mem.
    ClaudeMem,
    /// A Markdown file, or a folder of them.
    Markdown,
}

impl ImportFormat {
    /// The stable name that `--format` takes and `--json` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Sqlite => "sqlite",
            Self::Mcp => "mcp",
            Self::Mem0 => "mem0",
            Self::ClaudeMem => "claude-mem",
            Self::Markdown => "markdown",
        }
    }

    /// Finds out what a file or a folder holds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when nothing tells; those of the system.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
        if metadata.is_dir() {
            return Ok(Self::Markdown);
        }
        // Looking into a pipe would take away what it holds.
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Invalid, "this is no plain file")
                .at(path)
                .hint("a pipe can be given as standard input, with `-`"));
        }
        let mut start = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LOOK_LEN).read_to_end(&mut start))
            .map_err(|error| Error::io("read", path, error))?;
        // A database in write-ahead mode may be empty itself.
        if start.starts_with(MAGIC) || (start.is_empty() && has_extension(path, &["db"])) {
            return Ok(Self::Sqlite);
        }
        if let Some(format) = of_json(strip_bom(&start)) {
            return Ok(format);
        }
        for (extensions, format) in [
            (&["jsonl", "ndjson"][..], Self::Jsonl),
            (&["md", "markdown", "mdc"], Self::Markdown),
            (&["json"], Self::Json),
            (&["db", "sqlite", "sqlite3"], Self::Sqlite),
        ] {
            if has_extension(path, extensions) {
                return Ok(format);
            }
        }
        if start
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            .is_some_and(|byte| matches!(byte, b'{' | b'['))
        {
            return Ok(Self::Json);
        }
        Err(Error::new(ErrorKind::Invalid, "nothing tells what this file holds")
            .at(path)
            .hint("name it with --format, such as --format markdown"))
    }
}

pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}

/// The form of a JSON text, by the keys of its first object.
fn of_json(start: &[u8]) -> Option<ImportFormat> {
    let first = FirstObject::of(start)?;
    let has = |key: &str| first.keys.iter().any(|found| found == key);
    if has("entityType") || has("relationType") {
        return Some(ImportFormat::Mcp);
    }
    if first.is_in_list {
        return Some(if has("memory") && !has("text") { ImportFormat::Mem0 } else { ImportFormat::Json });
    }
    if has("memories") || has("total_memories") {
        return Some(ImportFormat::Json);
    }
    if has("observations") && (has("summaries") || has("sessions") || has("totalObservations")) {
        return Some(ImportFormat::ClaudeMem);
    }
    if has("totalObservations") || has("exportedAtEpoch") {
        return Some(ImportFormat::ClaudeMem);
    }
    if has("results") {
        return Some(ImportFormat::Mem0);
    }
    has("text").then_some(ImportFormat::Jsonl)
}

/// The keys of the first object of a text, as far as the text goes. Not a parser: what is no JSON makes odd keys, and the
/// reader of whatever form it seems to be says what is wrong.
struct FirstObject {
    is_in_list: bool,
    keys: Vec<String>,
}

impl FirstObject {
    fn of(text: &[u8]) -> Option<Self> {
        let mut rest = text.trim_ascii_start();
        let is_in_list = rest.first() == Some(&b'[');
        if is_in_list {
            rest = rest[1..].trim_ascii_start();
        }
        rest = rest.strip_prefix(b"{")?;
        let mut keys = Vec::new();
        let mut depth = 1;
        let mut is_key = true;
        let mut at = 0;
        while at < rest.len() && depth > 0 {
            match rest[at] {
                b'"' => {
                    let end = string_end(rest, at + 1);
                    if depth == 1 && is_key && end - at <= KEY_LEN_MAX {
                        keys.push(String::from_utf8_lossy(&rest[at + 1..end]).into_owned());
                    }
                    at = end;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b':' if depth == 1 => is_key = false,
                b',' if depth == 1 => is_key = true,
                _ => {}
            }
            at += 1;
        }
        Some(Self { is_in_list, keys })
    }
}

/// Where the string ends that begins here.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, content: &[u8]) -> Option<ImportFormat> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        fs::write(&path, content).expect("write");
        ImportFormat::of(&path).ok()
    }

    #[test]
    fn the_content_tells_whatever_the_name_is() {
        use ImportFormat::{ClaudeMem, Json, Jsonl, Markdown, Mcp, Mem0, Sqlite};
        for (name, content, expected) in [
            ("x.json", &b"{\n  \"exported_at\": \"x\", \"memories\": ["[..], Some(Json)),
            ("x.txt", b"\xef\xbb\xbf [{\"id\":\"memory\",\"text\":\"a\"}]", Some(Json)),
            ("x.json", b"{\"text\":\"a\"}\n{\"text\":\"b\"}", Some(Jsonl)),
            (
                "memory.json",
                b"{\"type\":\"entity\",\"name\":\"a\",\"entityType\":\"t\",\"observations\":[]}",
                Some(Mcp),
            ),
            ("x", b"{\"type\":\"relation\",\"from\":\"a\",\"to\":\"b\",\"relationType\":\"r\"}\n", Some(Mcp)),
            ("x.json", b"{\"results\":[{\"id\":\"1\",\"memory\":\"a\"}]}", Some(Mem0)),
            ("x.json", b"[{\"id\":\"1\",\"memory\":\"a\",\"metadata\":{\"text\":1}}]", Some(Mem0)),
            ("x.json", b"{\"exportedAt\":\"x\",\"exportedAtEpoch\":1,\"query\":\"\"", Some(ClaudeMem)),
            ("x", b"SQLite format 3\0...", Some(Sqlite)),
            ("x.db", b"", Some(Sqlite)),
            ("NOTES.MD", b"# Title\n", Some(Markdown)),
            ("x.jsonl", b"", Some(Jsonl)),
            ("x.json", b"{\"\\\"memories\":[{\"x", Some(Json)),
            ("x.txt", b"plain words", None),
            ("x.txt", b"", None),
        ] {
            assert_eq!(of(name, content), expected, "{name}: {}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn keys_within_values_do_not_count() {
        let keys = |text: &[u8]| FirstObject::of(text).expect("an object").keys;
        assert_eq!(
            keys(br#"{"a":{"memories":[]},"b":["memories"],"c":"memories","d\"":1}"#),
            ["a", "b", "c", "d\\\""]
        );
        assert_eq!(keys(br#"{"a":1}{"b":2}"#), ["a"]);
        assert_eq!(keys(b"{\"a\\"), ["a\\"]);
    }
}
