//! The delta goes into redb's tables, in one transaction.

use std::ops::Bound;

use redb::{CursorError, Database, Durability, Key, Table, Value};

use super::delta::{Change, Delta};
use super::guard::Fault;
use super::tables::{ID, LABEL, MEMORY, STATE, TIME, VECTOR};
use crate::format::row::{HEAD_KEY, TableTag, encode_location, encode_number, key_bytes};

/// Fewer new entries in a row than this are written one by one: to place a cursor costs as much as some entries.
const RUN_MIN: usize = 16;
/// At most this many new entries are looked at as one run.
const RUN_MAX: usize = 4096;

/// Writes the delta into the tables.
pub(super) fn write(delta: &Delta, database: &Database, durability: Durability) -> Result<(), Fault> {
    let mut txn = database.begin_write()?;
    txn.set_durability(durability)?;
    // A crash then takes no repair that reads the whole file.
    txn.set_quick_repair(matches!(durability, Durability::Immediate));

    let mut memory = txn.open_table(MEMORY)?;
    write_table(&mut memory, &delta.memory.changes(), |key| *key, |row| row, |_, _| true)?;
    let ids = encoded(delta.ids.changes(), |id, key| encode_number(TableTag::Id, id.as_bytes(), *key));
    write_table(&mut txn.open_table(ID)?, &ids, |id| id.as_bytes(), |key| key, |_, _| true)?;
    // New entries of one label stand together; those of different labels do not.
    let same_label = |one: &u128, next: &u128| one >> 64 == next >> 64;
    write_table(&mut txn.open_table(LABEL)?, &delta.labels.changes(), |key| *key, |_| (), same_label)?;
    let times =
        encoded(delta.times.changes(), |key, bits| encode_number(TableTag::Time, &key_bytes(*key), *bits));
    write_table(&mut txn.open_table(TIME)?, &times, |key| *key, |bits| bits, |_, _| true)?;
    let vectors = encoded(delta.vectors.changes(), |key, location| encode_location(*key, *location));
    write_table(&mut txn.open_table(VECTOR)?, &vectors, |key| *key, |location| location, |_, _| true)?;
    let mut state = txn.open_table(STATE)?;
    write_table(&mut state, &delta.state.changes(), |key| key.as_slice(), |value| value, |_, _| true)?;
    state.insert(HEAD_KEY, delta.head.encode().as_slice())?;
    drop((memory, state));
    Ok(txn.commit()?)
}

fn encoded<K, V, E>(changes: Vec<Change<K, V>>, encode: impl Fn(&K, &V) -> E) -> Vec<Change<K, E>> {
    let encode = |(key, value): Change<K, V>| {
        let value = value.map(|value| encode(&key, &value));
        (key, value)
    };
    changes.into_iter().map(encode).collect()
}

/// Writes changes in the order of keys, in which a tree is written fastest. Where new entries may stand side by side,
/// as those of new memories mostly do, a cursor takes them; it refuses one that does not belong there.
fn write_table<K: Key + 'static, V: Value + 'static, T, X>(
    table: &mut Table<'_, K, V>,
    changes: &[Change<T, X>],
    key: for<'a> fn(&'a T) -> K::SelfType<'a>,
    value: for<'a> fn(&'a X) -> V::SelfType<'a>,
    may_be_neighbours: fn(&T, &T) -> bool,
) -> Result<(), Fault> {
    let mut rest = changes;
    // After a run that was broken off, so many are written one by one before the next try.
    let mut singly = 0;
    while !rest.is_empty() {
        if singly == 0 {
            let run = new_run(rest, may_be_neighbours);
            if run.len() >= RUN_MIN {
                let written = write_run(table, run, key, value)?;
                rest = &rest[written..];
                singly = if written == run.len() { 0 } else { RUN_MAX / 64 };
                continue;
            }
            singly = run.len().max(1);
        }
        let Some(((name, change), after)) = rest.split_first() else { break };
        match change {
            Some(change) => _ = table.insert(key(name), value(change))?,
            None => _ = table.remove(key(name))?,
        }
        rest = after;
        singly -= 1;
    }
    Ok(())
}

/// The entries at the beginning that are new and may be neighbours.
fn new_run<T, X>(changes: &[Change<T, X>], may_be_neighbours: fn(&T, &T) -> bool) -> &[Change<T, X>] {
    let changes = &changes[..changes.len().min(RUN_MAX)];
    let fits = |at: &usize| {
        changes[*at].1.is_some() && (*at == 0 || may_be_neighbours(&changes[*at - 1].0, &changes[*at].0))
    };
    &changes[..(0..changes.len()).take_while(fits).count()]
}

/// Writes new entries until one does not belong between the same two old ones; returns how many it wrote.
fn write_run<K: Key + 'static, V: Value + 'static, T, X>(
    table: &mut Table<'_, K, V>,
    run: &[Change<T, X>],
    key: for<'a> fn(&'a T) -> K::SelfType<'a>,
    value: for<'a> fn(&'a X) -> V::SelfType<'a>,
) -> Result<usize, Fault> {
    let Some((first, _)) = run.first() else { return Ok(0) };
    let mut cursor = table.lower_bound_mut(Bound::Included(key(first)))?;
    let mut written = 0;
    for (name, change) in run {
        let Some(change) = change else { break };
        match cursor.insert_before(key(name), value(change)) {
            Ok(()) => written += 1,
            Err(CursorError::UnorderedKey) => break,
            Err(error) => return Err(error.into()),
        }
    }
    cursor.close()?;
    Ok(written)
}
