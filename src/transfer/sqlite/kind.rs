//! What a database is, told by its schema.
//!
//! The original never moved its version number from 1, so a generation is told by the tables that are there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::guard::sqlite_error;
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite::{is_plain_table, makes};

/// Most entries of a schema that are looked at.
const SCHEMA_ENTRIES_MAX: usize = 10_000;

/// What a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum DatabaseKind {
    /// A store of the original.
    Original(Generation),
    /// `memory.db` as this program publishes it: it has the table `memento_snapshot`.
    Snapshot,
    /// The original's cache of embeddings, which holds no memories.
    Cache,
    /// A database of claude-mem.
    ClaudeMem,
    /// Another program's.
    Other,
}

/// How old a store of the original is, as far as its tables tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Generation {
    /// Versions 0.1 and 0.2.0: the table of the memories, and the words only where they were searched for.
    G0,
    /// Before 0.2.1: with a table of the schema's version.
    G1,
    /// Versions 0.2.1 and 0.2.2: with the words of the texts. A later one without sqlite-vec looks the same.
    G2,
    /// After 0.2.2 (the generations 3 and 4): with vectors in a table of sqlite-vec.
    G3,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::G0 => "before schema versions (0.1 or 0.2.0)",
            Self::G1 => "between 0.2.0 and 0.2.1",
            Self::G2 => "0.2.1 or 0.2.2",
            Self::G3 => "after 0.2.2, with sqlite-vec",
        })
    }
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original(generation) => write!(f, "a database of the original Memento, {generation}"),
            Self::Snapshot => f.write_str("a memory.db of this program"),
            Self::Cache => f.write_str("the original's cache of embeddings, which holds no memories"),
            Self::ClaudeMem => f.write_str("a database of claude-mem"),
            Self::Other => f.write_str("a database of another program"),
        }
    }
}

/// What a database is; one that holds memories has them in a plain table.
///
/// # Errors
/// [`ErrorKind::Refused`] for a store with a trigger, or whose table of memories is not a plain one;
/// [`ErrorKind::Corrupt`] for a schema that SQLite cannot read.
pub(super) fn of(connection: &Connection, name: &Path) -> Result<DatabaseKind> {
    let schema = Schema::read(connection, name)?;
    let has = |table: &str| schema.entries.contains_key(table);
    let columns = |table| schema.columns(connection, name, table);
    if has("memories") && has_all(&columns("memories")?, &["id", "text", "timestamp"]) {
        schema.check_memories(connection, name)?;
        if has("memento_snapshot") {
            return Ok(DatabaseKind::Snapshot);
        }
        return Ok(DatabaseKind::Original(match (has("memories_vec"), has("schema_version")) {
            (true, _) => Generation::G3,
            (false, true) if has("memories_fts") => Generation::G2,
            (false, true) => Generation::G1,
            (false, false) => Generation::G0,
        }));
    }
    if has("embeddings") && has_all(&columns("embeddings")?, &["hash", "vector"]) {
        return Ok(DatabaseKind::Cache);
    }
    if has("observations") && has_all(&columns("observations")?, &["memory_session_id", "narrative"]) {
        return Ok(DatabaseKind::ClaudeMem);
    }
    Ok(DatabaseKind::Other)
}

/// Refuses what is no plain table under this name.
pub(super) fn expect_plain(connection: &Connection, name: &Path, table: &'static str) -> Result<()> {
    match Schema::read(connection, name)?.entries.get(table) {
        Some(entry) if entry.is_plain() => Ok(()),
        Some(entry) => {
            Err(Error::new(ErrorKind::Refused, format!("`{table}` is {}, not a plain table", entry.shape()))
                .at(name))
        }
        None => Err(Error::new(ErrorKind::Invalid, format!("there is no table `{table}`")).at(name)),
    }
}

/// Columns of a table, by name in lower case.
///
/// # Errors
/// [`ErrorKind::Refused`] when one of them is computed.
pub(super) fn columns(connection: &Connection, name: &Path, table: &'static str) -> Result<Vec<String>> {
    let failed = |error| sqlite_error(name, &error);
    let mut statement = connection.prepare(&format!("PRAGMA main.table_xinfo({table})")).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut columns = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let hidden: i64 = row.get(6).map_err(failed)?;
        if hidden != 0 {
            return Err(
                Error::new(ErrorKind::Refused, format!("the table `{table}` computes a column")).at(name)
            );
        }
        columns.push(text(row.get_ref(1).map_err(failed)?).to_ascii_lowercase());
    }
    Ok(columns)
}

/// The entries of a schema by name, in lower case as SQLite compares them.
struct Schema {
    entries: BTreeMap<String, Entry>,
    triggers: usize,
}

struct Entry {
    kind: String,
    statement: String,
}

impl Schema {
    fn read(connection: &Connection, name: &Path) -> Result<Self> {
        let failed = |error| sqlite_error(name, &error);
        let mut statement =
            connection.prepare("SELECT type, name, sql FROM main.sqlite_master").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut schema = Self { entries: BTreeMap::new(), triggers: 0 };
        let mut count = 0;
        while let Some(row) = rows.next().map_err(failed)? {
            count += 1;
            if count > SCHEMA_ENTRIES_MAX {
                let what = format!("its schema has more than {SCHEMA_ENTRIES_MAX} entries");
                return Err(Error::new(ErrorKind::Refused, what).at(name));
            }
            let value = |index| row.get_ref(index).map(text).map_err(failed);
            let kind = value(0)?.to_ascii_lowercase();
            schema.triggers += usize::from(kind == "trigger");
            if matches!(kind.as_str(), "table" | "view") {
                let entry = Entry { kind, statement: value(2)? };
                schema.entries.insert(value(1)?.to_ascii_lowercase(), entry);
            }
        }
        Ok(schema)
    }

    fn columns(&self, connection: &Connection, name: &Path, table: &'static str) -> Result<Vec<String>> {
        match self.entries.get(table) {
            // Asking a view or a virtual table for its columns would make it work.
            Some(entry) if entry.is_plain() => columns(connection, name, table),
            Some(entry) if table == "memories" => {
                let what = format!("`memories` is {}, not a plain table", entry.shape());
                Err(Error::new(ErrorKind::Refused, what).at(name))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Refuses what the original never made and what could run when rows are read or checked.
    fn check_memories(&self, connection: &Connection, name: &Path) -> Result<()> {
        let refused = |what: String| {
            Err(Error::new(ErrorKind::Refused, what)
                .at(name)
                .hint("the original makes nothing like that; `sqlite3 FILE .dump` shows what it is"))
        };
        if self.triggers > 0 {
            return refused(format!("the database has triggers ({})", self.triggers));
        }
        let statement = self.entries.get("memories").map_or("", |entry| entry.statement.as_str());
        for word in ["check", "without"] {
            if has_word(statement, word) {
                return refused(format!("the table `memories` is made with {}", word.to_uppercase()));
            }
        }
        let failed = |error| sqlite_error(name, &error);
        let mut indexes = connection
            .prepare(
                "SELECT sql FROM main.sqlite_master WHERE type = 'index' AND lower(tbl_name) = 'memories'",
            )
            .map_err(failed)?;
        let mut rows = indexes.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let statement = text(row.get_ref(0).map_err(failed)?);
            let is_plain = bare(&statement).matches('(').count() <= 1 && !has_word(&statement, "where");
            if !is_plain {
                return refused("an index of `memories` is made of expressions".to_owned());
            }
        }
        Ok(())
    }
}

impl Entry {
    fn is_plain(&self) -> bool {
        is_plain_table(&self.kind, &self.statement)
    }

    fn shape(&self) -> &'static str {
        match self.kind.as_str() {
            "view" => "a view",
            _ if makes(&self.statement, "virtual") => "a virtual table",
            _ => "something else",
        }
    }
}

fn has_all(columns: &[String], wanted: &[&str]) -> bool {
    wanted.iter().all(|wanted| columns.iter().any(|column| column == wanted))
}

/// Whether a statement has this word outside of comments, names in quotes and literals.
fn has_word(statement: &str, wanted: &str) -> bool {
    bare(statement)
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word.eq_ignore_ascii_case(wanted))
}

/// A statement with blanks in the place of comments and of all that stands in quotes.
fn bare(statement: &str) -> String {
    let mut bare = String::with_capacity(statement.len());
    let mut rest = statement;
    while let Some(at) = rest.find(['-', '/', '\'', '"', '`', '[']) {
        bare.push_str(&rest[..at]);
        rest = &rest[at..];
        let (open, close) = if rest.starts_with("--") {
            (2, "\n")
        } else if rest.starts_with("/*") {
            (2, "*/")
        } else {
            match rest.as_bytes()[0] {
                b'\'' => (1, "'"),
                b'"' => (1, "\""),
                b'`' => (1, "`"),
                b'[' => (1, "]"),
                _ => {
                    bare.push_str(&rest[..1]);
                    rest = &rest[1..];
                    continue;
                }
            }
        };
        // A doubled quote ends one text and begins the next, which comes to the same.
        let len = rest[open..].find(close).map_or(rest.len(), |end| open + end + close.len());
        bare.push(' ');
        rest = &rest[len..];
    }
    bare + rest
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_and_quotes_do_not_count() {
        for (statement, expected) in [
            ("CREATE TABLE t (a, CHECK (a > 1))", true),
            (
                "CREATE TABLE t (a /* check */, -- check\n \"check\", [check], `check` DEFAULT 'it''s check')",
                false,
            ),
            ("CREATE TABLE t (a DEFAULT 'x' --'\n CHECK(1))", true),
            ("CREATE TABLE t (a - 1 / 2 check)", true),
            ("CREATE TABLE t (checked)", false),
            ("CREATE TABLE t (a 'check", false),
        ] {
            assert_eq!(has_word(statement, "check"), expected, "{statement}");
        }
    }
}
