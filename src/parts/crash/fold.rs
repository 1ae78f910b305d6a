//! What the log says, put together here anew, without the code that makes the view of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::session::TinyModel;
use super::workload::{Aside, Content, Held};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::log::{self, Place, Segment};
use crate::memory::Memory;

/// All records of a log, one after the other.
#[derive(Debug, Default)]
pub(super) struct Folded {
    rows: BTreeMap<MemoryKey, Row>,
    models: BTreeMap<ModelNumber, String>,
    active: Option<ModelNumber>,
    pub(super) last_seq: u64,
    /// What is wrong with the log.
    pub(super) flaws: Vec<String>,
}

#[derive(Debug)]
struct Row {
    seq: u64,
    text_seq: u64,
    /// Whether a version before the last one was left out, so that the log cannot tell whether the text was another one
    /// between; a view that followed it knows.
    has_gap: bool,
    memory: Arc<Memory>,
    vectors: BTreeMap<ModelNumber, Vec<f32>>,
}

impl Folded {
    /// Reads all records of these segments.
    pub(super) fn read(place: &Place, segments: &[Segment], last_seq: u64) -> Result<Self> {
        let mut folded = Self::default();
        for segment in segments {
            let mut before = folded.last_seq;
            let mut gaps = Vec::new();
            let verified = log::verify(place, segment, last_seq, |seq, op| {
                // In a rewritten segment what nothing needs is left out.
                if seq != before + 1 && segment.header.rewrite.is_none() {
                    gaps.push(format!("sequence {seq} follows {before}"));
                }
                before = seq;
                folded.record(seq, op.into_op().expect("it was read"));
            })?;
            folded.last_seq = segment.header.rewrite.map_or(before, |rewrite| rewrite.last_seq);
            folded.flaws.extend(gaps);
            folded.flaws.extend(verified.flaws.into_iter().map(|flaw| format!("{flaw:?}")));
        }
        Ok(folded)
    }

    fn record(&mut self, seq: u64, op: Op) {
        match op {
            Op::Remember { memory, vectors } => {
                let mut row = Row::new(seq, memory);
                row.put(vectors);
                self.rows.insert(MemoryKey(seq), row);
            }
            Op::Update { key, previous_seq, memory, vectors } => match self.rows.get_mut(&key) {
                // The version before it may have been left out.
                Some(row) if row.seq <= previous_seq => {
                    if row.memory.text != memory.text {
                        row.text_seq = seq;
                        row.vectors.clear();
                    }
                    row.has_gap |= row.seq < previous_seq;
                    row.seq = seq;
                    row.memory = Arc::new(memory);
                    row.put(vectors);
                }
                Some(_) => self.flaws.push(format!("record {seq} updates another version")),
                None => {
                    let mut row = Row::new(seq, memory);
                    row.put(vectors);
                    self.rows.insert(key, row);
                }
            },
            Op::Forget { key, .. } => _ = self.rows.remove(&key),
            Op::Vector { key, text_seq, vectors } => {
                if let Some(row) =
                    self.rows.get_mut(&key).filter(|row| [row.text_seq, row.seq].contains(&text_seq))
                {
                    row.put(Some(vectors));
                }
            }
            Op::Model { number, identity } => _ = self.models.insert(number, identity.name),
            Op::UseModel { number } => self.active = Some(number),
            Op::Lost(lost) => self.flaws.push(format!("{lost:?}")),
            Op::RestorePoint(_) | Op::Restore(_) | Op::Seal(_) => {}
        }
    }

    /// The memories with their vectors of the store's model.
    pub(super) fn content(&self) -> Content {
        let is_second = self
            .active
            .and_then(|active| self.models.get(&active))
            .is_some_and(|name| name == TinyModel::Second.name());
        let held = |row: &Row| Held {
            memory: Arc::clone(&row.memory),
            vector: self.active.and_then(|active| row.vectors.get(&active).cloned()),
        };
        Content {
            memories: self.rows.values().map(|row| (row.memory.id.to_string(), held(row))).collect(),
            model: if is_second { TinyModel::Second } else { TinyModel::First },
            aside: Aside::default(),
        }
    }

    /// What the view says otherwise; nothing when it is the same, row for row and vector for vector.
    pub(super) fn contradiction(
        &self,
        catalog: &Catalog,
        place: &Place,
        segments: &[Segment],
    ) -> Result<Option<String>> {
        let view = catalog.view();
        let mut rows = self.rows.iter();
        let mut wrong = None;
        view.for_each_row(MemoryKey(0), |row| {
            let same = rows.next().is_some_and(|(key, own)| {
                let has_same_text =
                    own.text_seq == row.text_seq || (own.has_gap && own.text_seq < row.text_seq);
                (*key, own.seq) == (row.key, row.seq) && has_same_text && *own.memory == row.memory
            });
            if same {
                return ControlFlow::Continue(());
            }
            wrong = Some(format!("the view's memory {} is not the log's", row.key.0));
            ControlFlow::Break(())
        })?;
        if wrong.is_none() && rows.next().is_some() {
            wrong = Some("a memory of the log is missing in the view".to_owned());
        }
        if view.position().tail.last_seq != self.last_seq || catalog.active_model() != self.active {
            wrong = Some("the view's head is not what the log says".to_owned());
        }
        if wrong.is_some() {
            return Ok(wrong);
        }
        for model in self.models.keys() {
            let mut located = BTreeMap::new();
            view.for_each_vector(*model, MemoryKey(0), |key, location| {
                located.insert(key, location);
                ControlFlow::Continue(())
            })?;
            let own: Vec<_> =
                self.rows.iter().filter_map(|(key, row)| Some((key, row.vectors.get(model)?))).collect();
            if !own.iter().map(|(key, _)| *key).eq(located.keys()) {
                return Ok(Some(format!("the view has vectors of other memories, model {}", model.0)));
            }
            for ((key, values), location) in own.into_iter().zip(located.values()) {
                let segment = segments.iter().find(|segment| segment.header.number == location.segment);
                let Some(segment) = segment else {
                    return Ok(Some(format!("the vector of memory {} is in no segment", key.0)));
                };
                let file = log::open_segment(place, segment)?;
                let (_, op) = log::read_record(&*file, segment.header.epoch, *location)?;
                if op.vectors().is_none_or(|found| found.model != *model || found.values != *values) {
                    return Ok(Some(format!("the vector of memory {} is another one", key.0)));
                }
            }
        }
        Ok(None)
    }
}

impl Row {
    fn new(seq: u64, memory: Memory) -> Self {
        Self { seq, text_seq: seq, has_gap: false, memory: Arc::new(memory), vectors: BTreeMap::new() }
    }

    fn put(&mut self, vectors: Option<Vectors>) {
        if let Some(Vectors { model, values, .. }) = vectors {
            self.vectors.insert(model, values);
        }
    }
}
