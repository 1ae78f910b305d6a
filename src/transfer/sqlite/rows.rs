//! Rows of a plain table as objects.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Map, Number, Value};

use super::guard::{check_table, sqlite_error};
use super::kind;
use crate::error::Result;

/// Gives every row of a table; bytes are left out, since nobody can say what they mean.
pub(super) fn read(
    connection: &Connection,
    name: &Path,
    table: &'static str,
    each: &mut dyn FnMut(Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let failed = |error| sqlite_error(name, &error);
    kind::expect_plain(connection, name, table)?;
    let columns = kind::columns(connection, name, table)?;
    check_table(connection, name, table)?;
    let mut statement =
        connection.prepare(&format!("SELECT * FROM main.{table} NOT INDEXED")).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let mut object = Map::new();
        for (at, column) in columns.iter().enumerate() {
            let value = match row.get_ref(at).map_err(failed)? {
                ValueRef::Null | ValueRef::Blob(_) => Value::Null,
                ValueRef::Integer(number) => Value::from(number),
                ValueRef::Real(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
                ValueRef::Text(bytes) => Value::from(String::from_utf8_lossy(bytes)),
            };
            object.insert(column.clone(), value);
        }
        each(object)?;
    }
    Ok(())
}
