//! SQLite files that somebody else may have made, to do harm: what a connection to one may do.
//!
//! Nothing that its schema names can run: no views, no triggers, no functions with side effects, no attached files.
//! Lengths are limited, and so is the number of steps that reading may take.

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, Result};

/// What every SQLite database begins with.
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Longest value of one row, in bytes: the longest text fits, and all vectors of a memory.
pub(crate) const VALUE_LEN_MAX: i32 = 64 << 20;

/// What a rollback journal begins with, and what ends one that names a super-journal.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Longest statement, which the schema's own are, too, in bytes.
const STATEMENT_LEN_MAX: i32 = 1 << 20;
/// Steps of SQLite's machine between two looks at the budget.
const STEPS: i32 = 100_000;
/// Steps that reading any database may take, and those that each of its bytes may add. A row that is read and checked
/// takes some hundred steps and is never shorter than some ten bytes.
const STEPS_BASE: u64 = 100_000_000;
const STEPS_PER_BYTE: u64 = 64;

/// Lets nothing in a database of so many bytes run, and nobody change it through this connection.
///
/// # Errors
/// Those of SQLite. What takes too many steps is interrupted.
pub(crate) fn guard(connection: &mut Connection, len: u64) -> Result<()> {
    let mut steps_left = STEPS_BASE.saturating_add(len.saturating_mul(STEPS_PER_BYTE));
    connection.progress_handler(
        STEPS,
        Some(move || {
            steps_left = steps_left.saturating_sub(STEPS as u64);
            steps_left == 0
        }),
    )?;
    for (setting, is_on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
    ] {
        connection.set_db_config(setting, is_on)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, VALUE_LEN_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_LEN_MAX),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.execute_batch(
        "PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA query_only = ON;",
    )
}

/// Bytes at the end of a journal that tell whether it names another file.
pub(crate) const JOURNAL_END_LEN: usize = JOURNAL_MAGIC.len();

/// Whether a journal that ends so names a super-journal: SQLite deletes the file of that name, wherever it is, when it rolls
/// the journal back. The original never writes to two databases at once, and neither does this program, so theirs name
/// none.
pub(crate) fn names_another_file(end: &[u8]) -> bool {
    end == JOURNAL_MAGIC
}

/// Whether an entry of a schema is a table as SQLite itself writes one: no view and no virtual table, which would run
/// code of others. What its statement makes counts, not what the schema calls it.
pub(crate) fn is_plain_table(kind: &str, statement: &str) -> bool {
    kind == "table" && makes(statement, "table")
}

/// Whether a statement of a schema makes something of this kind.
pub(crate) fn makes(statement: &str, what: &str) -> bool {
    let mut words = statement.split_ascii_whitespace();
    words.next().is_some_and(|word| word.eq_ignore_ascii_case("create"))
        && words.next().is_some_and(|word| word.eq_ignore_ascii_case(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(schema: &str) -> Connection {
        let mut connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch(schema).expect("a schema");
        guard(&mut connection, 0).expect("guarded");
        connection
    }

    #[test]
    fn nothing_can_be_written_attached_or_read_through_a_view() {
        let connection =
            guarded("CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT a FROM t;");
        let count = |text| connection.query_row(text, [], |row| row.get::<_, i64>(0));
        assert_eq!(count("SELECT count(*) FROM t"), Ok(1));
        for text in
            ["SELECT count(*) FROM v", "ATTACH 'x.db' AS x", "INSERT INTO t VALUES (2)", "DROP TABLE t"]
        {
            assert!(connection.prepare(text).and_then(|mut one| one.execute([])).is_err(), "{text}");
        }
        assert_eq!(count("SELECT count(*) FROM t"), Ok(1));
    }

    #[test]
    fn what_takes_more_steps_than_its_size_explains_is_interrupted() {
        let connection = guarded("CREATE TABLE t (a);");
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        let error = connection.query_row(endless, [], |row| row.get::<_, i64>(0)).expect_err("endless");
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::OperationInterrupted));
    }

    #[test]
    fn only_what_a_plain_statement_makes_is_a_plain_table() {
        assert!(
            is_plain_table("table", "CREATE TABLE t (a)") && is_plain_table("table", "create\n table t(a)")
        );
        for (kind, statement) in [
            ("view", "CREATE TABLE t (a)"),
            ("table", "CREATE VIRTUAL TABLE t USING fts5(a)"),
            ("table", "CREATE VIEW t AS SELECT 1"),
            ("table", ""),
        ] {
            assert!(!is_plain_table(kind, statement), "{kind}: {statement}");
        }
    }
}
