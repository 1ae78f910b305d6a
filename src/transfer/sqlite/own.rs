//! What a snapshot of this program holds besides the original's columns. Spec: `format-spec/snapshot.md`, "memento_rows".

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Statement};
use serde_json::{Map, Value};

use super::super::fields::Fields;
use super::super::values::shrink;
use super::guard::sqlite_error;
use super::kind;
use crate::error::Result;
use crate::memory::ModelIdentity;
use crate::store::MemoryVectors;

const COLUMNS: [&str; 6] = ["tags", "speaker", "role", "position", "metadata", "vectors"];

/// The rows of `memento_rows`, asked for one by one.
pub(super) struct Own<'c> {
    rows: Statement<'c>,
    /// The model of all vectors in the file.
    model: Option<ModelIdentity>,
}

impl<'c> Own<'c> {
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) when one of the tables is no plain one, and SQLite's.
    pub(super) fn of(connection: &'c Connection, name: &Path) -> Result<Self> {
        let failed = |error| sqlite_error(name, &error);
        for table in ["memento_rows", "memento_snapshot"] {
            kind::expect_plain(connection, name, table)?;
        }
        let text = "SELECT model_identity FROM main.memento_snapshot NOT INDEXED LIMIT 1";
        let identity = connection.query_row(text, [], |row| row.get::<_, Option<String>>(0));
        let identity = identity.optional().map_err(failed)?.flatten();
        let model = identity.and_then(|identity| serde_json::from_str(&identity).ok());
        let text = format!("SELECT {} FROM main.memento_rows WHERE id = ?1", COLUMNS.join(", "));
        Ok(Self { rows: connection.prepare(&text).map_err(failed)?, model })
    }

    /// Adds to the fields of a memory what the original's columns cannot hold, and gives its vectors. `joined` and `first`
    /// are what those columns say of the tags and the vector: where they say something else, somebody has changed them by
    /// hand, and that counts.
    pub(super) fn complete(
        &mut self,
        id: &str,
        fields: &mut Fields,
        joined: Option<&str>,
        first: Option<&[u8]>,
        note: &mut dyn FnMut(String),
    ) -> rusqlite::Result<Option<Box<MemoryVectors>>> {
        let mut rows = self.rows.query([id])?;
        let row = rows.next()?;
        let Some(row) = row else { return Ok(vectors(self.model.as_ref(), first, None)) };
        let listed: Option<Vec<String>> = text(row, 0)?
            .and_then(|list| serde_json::from_str(&list).ok())
            .filter(|tags: &Vec<String>| Some(tags.join(",").as_str()) == joined);
        fields.tags = listed.or(fields.tags.take());
        fields.speaker = text(row, 1)?;
        fields.role = text(row, 2)?;
        fields.position = match row.get_ref(3)? {
            ValueRef::Integer(position) => Some(position),
            _ => None,
        };
        if let Some(metadata) = text(row, 4)? {
            match serde_json::from_str::<Map<String, Value>>(&metadata) {
                Ok(mut metadata) => {
                    let left_out = shrink(&mut metadata);
                    if left_out > 0 {
                        note(format!(
                            "{left_out} of its values are too large for metadata and were left out"
                        ));
                    }
                    fields.metadata = Some(metadata);
                }
                Err(_) => note("its metadata is no JSON object and was left out".to_owned()),
            }
        }
        let all = match row.get_ref(5)? {
            ValueRef::Blob(bytes) => {
                Some(bytes).filter(|all| first.is_none_or(|first| all.starts_with(first)))
            }
            _ => None,
        };
        Ok(vectors(self.model.as_ref(), first, all))
    }
}

fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    })
}

/// The windows that these bytes are. Whether they can be used is found out where they are stored.
fn vectors(
    model: Option<&ModelIdentity>,
    first: Option<&[u8]>,
    all: Option<&[u8]>,
) -> Option<Box<MemoryVectors>> {
    let (model, bytes) = (model?, all.or(first)?);
    let dimensions = model.dimensions as usize;
    if dimensions == 0 || bytes.is_empty() || !bytes.len().is_multiple_of(4 * dimensions) {
        return None;
    }
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let windows = values.chunks(dimensions).map(<[f32]>::to_vec).collect();
    Some(Box::new(MemoryVectors { model: model.clone(), windows }))
}
