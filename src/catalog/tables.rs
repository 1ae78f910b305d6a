//! The tables of the view. Their keys and values are made and read in `format/row.rs`.

use redb::TableDefinition;

use crate::format::row::{LOCATION_LEN, NUMBER_LEN, TableTag};

/// The head, counts and models: little things that every transaction changes, in one page.
pub(super) const STATE: TableDefinition<&[u8], &[u8]> = TableDefinition::new(TableTag::State.name());
/// A memory's key to its row.
pub(super) const MEMORY: TableDefinition<u64, &[u8]> = TableDefinition::new(TableTag::Memory.name());
/// An id to its memory's key.
pub(super) const ID: TableDefinition<&[u8], &[u8; NUMBER_LEN]> = TableDefinition::new(TableTag::Id.name());
/// Hash of a label, then a key: which memories have the label.
pub(super) const LABEL: TableDefinition<u128, ()> = TableDefinition::new(TableTag::Label.name());
/// Time, then key, to the importance: which memories are of which time.
pub(super) const TIME: TableDefinition<u128, &[u8; NUMBER_LEN]> = TableDefinition::new(TableTag::Time.name());
/// Model, then key, to the location of the record that holds the vectors.
pub(super) const VECTOR: TableDefinition<u128, &[u8; LOCATION_LEN]> =
    TableDefinition::new(TableTag::Vector.name());
