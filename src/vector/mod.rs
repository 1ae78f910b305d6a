//! Meaning: which memories' vectors are nearest to the vector of a query.
//!
//! [`VectorSet`] holds the vectors of one model in memory and compares a query with all of them: exact, and
//! fast enough for stores of some ten thousand memories. It is derived from the log and knows nothing of
//! disks.

pub(crate) mod kernels;
pub(crate) mod link;
pub(crate) mod rows;
pub(crate) mod search;

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::format::op::MemoryKey;
use crate::memory::DIMENSIONS_MAX;
use crate::scope::{Deadline, Scope};
pub(crate) use kernels::{Kernel, LANE_LEN, Lane, lanes};

/// Rows between two looks at the clock, and of one piece of scratch space: some 10 us of work.
const BLOCK_ROWS: usize = 2048;
/// Removed rows are swept out when there are this many and ...
const SWEEP_MIN: usize = 1024;
/// ... they are more than one in this many.
const SWEEP_SHARE: usize = 4;

/// The vectors of memories, all of one model.
///
/// A memory has one row for each window of its text, one after the other. Rows have length 1, so that a dot
/// product is a cosine. Removed rows stay behind, marked, until enough of them are swept out at once.
pub(crate) struct VectorSet {
    dimensions: usize,
    kernel: Kernel,
    /// Lanes of one row.
    stride: usize,
    lanes: Vec<Lane>,
    /// Whose row it is, in ascending places; `None` when it was removed.
    owners: Vec<Option<MemoryKey>>,
    /// The rows of each memory.
    rows: HashMap<MemoryKey, Range<usize>>,
    removed: usize,
}

impl VectorSet {
    /// A set of nothing, for vectors of this many dimensions.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there are none or more than [`DIMENSIONS_MAX`].
    pub(crate) fn new(dimensions: usize) -> Result<Self> {
        if dimensions == 0 || dimensions > DIMENSIONS_MAX {
            return Err(invalid(format!("a vector has 1 to {DIMENSIONS_MAX} dimensions, not {dimensions}")));
        }
        Ok(Self {
            dimensions,
            kernel: Kernel::best(),
            stride: dimensions.div_ceil(LANE_LEN),
            lanes: Vec::new(),
            owners: Vec::new(),
            rows: HashMap::new(),
            removed: 0,
        })
    }

    /// Dimensions of each vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// How many memories have vectors here.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds the vectors of a memory, one after the other, in the place of its former ones if there are any.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the values do not make up whole vectors, or none.
    pub(crate) fn insert(&mut self, key: MemoryKey, values: &[f32]) -> Result<()> {
        if values.is_empty() || !values.len().is_multiple_of(self.dimensions) {
            return Err(invalid(format!(
                "{} values do not make up vectors of {} dimensions",
                values.len(),
                self.dimensions
            )));
        }
        self.remove(key);
        let start = self.owners.len();
        for vector in values.chunks_exact(self.dimensions) {
            self.lanes.extend(unit(vector));
            self.owners.push(Some(key));
        }
        self.rows.insert(key, start..self.owners.len());
        Ok(())
    }

    /// Takes the vectors of a memory out; says whether there were any.
    pub(crate) fn remove(&mut self, key: MemoryKey) -> bool {
        let Some(rows) = self.rows.remove(&key) else { return false };
        self.removed += rows.len();
        self.owners[rows].fill(None);
        if self.removed >= SWEEP_MIN && self.removed * SWEEP_SHARE > self.owners.len() {
            self.sweep();
        }
        true
    }

    /// The `k` memories in scope that are nearest to the query, with their cosines: the nearest first, of
    /// equally near ones the newest. A memory is as near as its nearest row.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the query has other dimensions, [`ErrorKind::Timeout`] when the deadline
    /// passes.
    pub(crate) fn search(
        &self,
        query: &[f32],
        scope: &Scope,
        k: usize,
        deadline: Deadline,
    ) -> Result<Vec<(MemoryKey, f32)>> {
        // The worst of the best is on top, to be pushed out by a better one.
        let mut best: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
        self.scan(query, scope, deadline, |key, cosine| {
            let near = Near { cosine, key };
            if best.len() < k {
                best.push(Reverse(near));
            } else if let Some(mut worst) = best.peek_mut()
                && near > worst.0
            {
                worst.0 = near;
            }
        })?;
        Ok(best.into_sorted_vec().into_iter().map(|Reverse(near)| (near.key, near.cosine)).collect())
    }

    /// Every memory in scope with its cosine to the query. In no useful order: [`crate::rank`] orders.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub(crate) fn cosines(
        &self,
        query: &[f32],
        scope: &Scope,
        deadline: Deadline,
    ) -> Result<Vec<(MemoryKey, f32)>> {
        let mut found = Vec::with_capacity(match scope {
            Scope::All => self.len(),
            Scope::Keys(keys) => keys.len(),
        });
        self.scan(query, scope, deadline, |key, cosine| found.push((key, cosine)))?;
        Ok(found)
    }

    /// Calls `found` with each memory in scope and its cosine, once each.
    fn scan(
        &self,
        query: &[f32],
        scope: &Scope,
        deadline: Deadline,
        found: impl FnMut(MemoryKey, f32),
    ) -> Result<()> {
        if query.len() != self.dimensions {
            return Err(invalid(format!(
                "the query has {} dimensions, the vectors here have {}",
                query.len(),
                self.dimensions
            )));
        }
        let query: Vec<Lane> = unit(query).collect();
        match scope {
            Scope::All => self.scan_all(&query, deadline, found),
            Scope::Keys(keys) => self.scan_keys(&query, keys, deadline, found),
        }
    }

    fn scan_all(
        &self,
        query: &[Lane],
        deadline: Deadline,
        mut found: impl FnMut(MemoryKey, f32),
    ) -> Result<()> {
        let total = self.owners.len();
        let mut dots = vec![0.0; BLOCK_ROWS.min(total)];
        // The memory whose rows are being read, and the best of them so far: rows may go on in the next
        // block.
        let mut current: Option<(MemoryKey, f32)> = None;
        let blocks = self.lanes.chunks(BLOCK_ROWS * self.stride).zip(self.owners.chunks(BLOCK_ROWS));
        for (block, (lanes, owners)) in blocks.enumerate() {
            deadline.check(format_args!("vector scan: {} of {total} rows", block * BLOCK_ROWS))?;
            let dots = &mut dots[..owners.len()];
            self.kernel.dots(query, lanes, dots);
            for (owner, dot) in owners.iter().zip(dots) {
                let Some(owner) = *owner else { continue };
                match &mut current {
                    Some((key, best)) if *key == owner => *best = larger(*best, *dot),
                    _ => {
                        if let Some((key, best)) = current.replace((owner, *dot)) {
                            found(key, as_cosine(best));
                        }
                    }
                }
            }
        }
        if let Some((key, best)) = current {
            found(key, as_cosine(best));
        }
        Ok(())
    }

    fn scan_keys(
        &self,
        query: &[Lane],
        keys: &[MemoryKey],
        deadline: Deadline,
        mut found: impl FnMut(MemoryKey, f32),
    ) -> Result<()> {
        let mut dots = Vec::new();
        let mut unchecked_rows = BLOCK_ROWS;
        for (done, key) in keys.iter().enumerate() {
            if unchecked_rows >= BLOCK_ROWS {
                deadline.check(format_args!("vector scan: {done} of {} memories", keys.len()))?;
                unchecked_rows = 0;
            }
            let Some(rows) = self.rows.get(key) else { continue };
            dots.clear();
            dots.resize(rows.len(), 0.0);
            self.kernel.dots(query, &self.lanes[rows.start * self.stride..rows.end * self.stride], &mut dots);
            let best = dots.iter().copied().reduce(larger).expect("a memory has at least one row");
            found(*key, as_cosine(best));
            unchecked_rows += rows.len();
        }
        Ok(())
    }

    /// Drops removed rows.
    fn sweep(&mut self) {
        let mut to = 0;
        for from in 0..self.owners.len() {
            let Some(owner) = self.owners[from] else { continue };
            if from != to {
                self.lanes.copy_within(from * self.stride..(from + 1) * self.stride, to * self.stride);
                self.owners[to] = Some(owner);
            }
            let rows = self.rows.get_mut(&owner).expect("a row's owner is known");
            if rows.start == from {
                *rows = to..to + rows.len();
            }
            to += 1;
        }
        self.owners.truncate(to);
        self.lanes.truncate(to * self.stride);
        self.removed = 0;
    }
}

/// A memory and its nearness, in the order of nearness and then age.
struct Near {
    cosine: f32,
    key: MemoryKey,
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cosine.total_cmp(&other.cosine).then(self.key.cmp(&other.key))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Near {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Near {}

/// The vector with length 1. One without a direction (all zero, or not finite, which no caller may give)
/// becomes zeros, so that it is far from everything and never breaks an order.
fn unit(vector: &[f32]) -> impl Iterator<Item = Lane> {
    // In f64, where the square of no f32 is infinite or zero.
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    let scale = if length > 0.0 && length.is_finite() { 1.0 / length } else { 0.0 };
    lanes(vector).map(move |mut lane| {
        for value in &mut lane.0 {
            *value = if scale == 0.0 { 0.0 } else { (f64::from(*value) * scale) as f32 };
        }
        lane
    })
}

fn larger(a: f32, b: f32) -> f32 {
    if b.total_cmp(&a).is_gt() { b } else { a }
}

/// A dot product of unit vectors without its rounding errors beyond 1.
fn as_cosine(dot: f32) -> f32 {
    dot.clamp(-1.0, 1.0)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    type Rows = BTreeMap<MemoryKey, Vec<f32>>;

    fn set_of(dimensions: usize, rows: &Rows) -> VectorSet {
        let mut set = VectorSet::new(dimensions).expect("dimensions in range");
        for (key, values) in rows {
            set.insert(*key, values).expect("whole vectors");
        }
        set
    }

    /// Cosines by the book, best first.
    fn naive(dimensions: usize, rows: &Rows, query: &[f32]) -> Vec<(MemoryKey, f64)> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = |row: &[f32]| {
            let lengths = (dot(row, row) * dot(query, query)).sqrt();
            if lengths == 0.0 { 0.0 } else { dot(row, query) / lengths }
        };
        let mut found: Vec<_> = rows
            .iter()
            .map(|(key, rows)| (*key, rows.chunks(dimensions).map(cosine).fold(f64::MIN, f64::max)))
            .collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        found
    }

    fn all(set: &VectorSet, query: &[f32]) -> Vec<(MemoryKey, f32)> {
        set.search(query, &Scope::All, usize::MAX, Deadline::NEVER).expect("no deadline")
    }

    /// Vectors of small whole numbers, so that equal cosines happen.
    fn vector(dimensions: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec((-2i8..=2).prop_map(f32::from), dimensions)
    }

    fn rows(dimensions: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(vector(dimensions), 1..4).prop_map(|rows| rows.concat())
    }

    fn key() -> impl Strategy<Value = MemoryKey> {
        (0..20u64).prop_map(MemoryKey)
    }

    /// Dimensions, changes (a memory gets rows or loses them) and a query.
    type Case = (usize, Vec<(MemoryKey, Option<Vec<f32>>)>, Vec<f32>);

    fn case() -> impl Strategy<Value = Case> {
        prop::sample::select(vec![1, 2, 15, 16, 17, 40]).prop_flat_map(|dimensions| {
            let change = (key(), prop::option::weighted(0.7, rows(dimensions)));
            (Just(dimensions), prop::collection::vec(change, 0..60), vector(dimensions))
        })
    }

    proptest! {
        #[test]
        fn a_search_is_a_naive_scan_after_any_changes(
            (dimensions, changes, query) in case(),
            sweep in any::<bool>(),
        ) {
            let mut set = VectorSet::new(dimensions).expect("dimensions in range");
            let mut model = Rows::new();
            for (key, change) in changes {
                match change {
                    Some(values) => {
                        set.insert(key, &values).expect("whole vectors");
                        model.insert(key, values);
                    }
                    None => prop_assert_eq!(set.remove(key), model.remove(&key).is_some()),
                }
            }
            if sweep {
                set.sweep();
            }
            prop_assert_eq!(set.len(), model.len());
            let found = all(&set, &query);
            let expected = naive(dimensions, &model, &query);
            prop_assert_eq!(found.len(), expected.len());
            for ((_, found), (_, expected)) in found.iter().zip(&expected) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{} is not {}", found, expected);
            }
            prop_assert_eq!(&all(&set_of(dimensions, &model), &query), &found);
            let mut cosines = set.cosines(&query, &Scope::All, Deadline::NEVER).expect("no deadline");
            cosines.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
            prop_assert_eq!(&cosines, &found);
        }

        #[test]
        fn a_scope_and_a_number_leave_out_and_change_nothing_else(
            model in prop::collection::btree_map(key(), rows(3), 0..20),
            inside in prop::collection::vec(key(), 0..20),
            query in vector(3),
            k in 0..8usize,
        ) {
            let set = set_of(3, &model);
            let scope = Scope::of(inside);
            let mut expected = all(&set, &query);
            expected.retain(|(key, _)| scope.contains(*key));
            expected.truncate(k);
            prop_assert_eq!(&set.search(&query, &scope, k, Deadline::NEVER).expect("no deadline"), &expected);
        }
    }

    #[test]
    fn rows_of_one_memory_that_cross_a_block_are_one_memory() {
        let mut set = VectorSet::new(2).expect("dimensions in range");
        set.insert(MemoryKey(1), &[0.0, 1.0].repeat(BLOCK_ROWS - 1)).expect("whole vectors");
        set.insert(MemoryKey(2), &[0.0, 1.0, 1.0, 0.0, 0.0, -1.0]).expect("whole vectors");
        set.insert(MemoryKey(3), &[1.0, 1.0]).expect("whole vectors");
        let found = all(&set, &[1.0, 0.0]);
        assert_eq!(found.iter().map(|(key, _)| key.0).collect::<Vec<_>>(), [2, 3, 1]);
        assert_eq!(found[0].1, 1.0);
    }

    #[test]
    fn many_removals_are_swept_out_and_change_no_answer() {
        let values = |at: u64| [1.0, at as f32, 7.0, 1.0, 0.0, at as f32 / 3.0];
        let mut set = VectorSet::new(3).expect("dimensions in range");
        for at in 0..2000 {
            set.insert(MemoryKey(at), &values(at)).expect("whole vectors");
        }
        for at in (0..2000).filter(|at| at % 4 != 1) {
            assert!(set.remove(MemoryKey(at)));
        }
        assert!(set.owners.len() < 2500, "{} rows for {} memories", set.owners.len(), set.len());
        let left =
            (0..2000).filter(|at| at % 4 == 1).map(|at| (MemoryKey(at), values(at).to_vec())).collect();
        assert_eq!(all(&set, &[0.2, 0.5, 0.4]), all(&set_of(3, &left), &[0.2, 0.5, 0.4]));
    }

    #[test]
    fn equally_near_memories_come_newest_first() {
        let model: Rows = (1..6).map(|at| (MemoryKey(at), vec![at as f32, 0.0])).collect();
        let found =
            set_of(2, &model).search(&[1.0, 0.0], &Scope::All, 3, Deadline::NEVER).expect("no deadline");
        assert_eq!(found, [(MemoryKey(5), 1.0), (MemoryKey(4), 1.0), (MemoryKey(3), 1.0)]);
    }

    #[test]
    fn vectors_without_direction_are_far_from_everything() {
        let mut set = VectorSet::new(2).expect("dimensions in range");
        for (at, values) in
            [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0], [f32::MAX, f32::MAX], [1e-45, 1e-45]]
                .iter()
                .enumerate()
        {
            set.insert(MemoryKey(at as u64), values).expect("whole vectors");
        }
        let found: BTreeMap<_, _> = all(&set, &[1.0, 1.0]).into_iter().collect();
        assert!((0..3).all(|at| found[&MemoryKey(at)] == 0.0), "{found:?}");
        assert!((3..5).all(|at| (found[&MemoryKey(at)] - 1.0).abs() < 1e-6), "{found:?}");
        assert!(all(&set, &[f32::NAN, 1.0]).iter().all(|(_, cosine)| *cosine == 0.0));
    }

    #[test]
    fn values_and_queries_of_other_dimensions_are_refused() {
        assert_eq!(VectorSet::new(0).err().map(|error| error.kind()), Some(ErrorKind::Invalid));
        assert!(VectorSet::new(DIMENSIONS_MAX + 1).is_err());
        let mut set = VectorSet::new(DIMENSIONS_MAX).expect("dimensions in range");
        set.insert(MemoryKey(1), &[1.0; DIMENSIONS_MAX]).expect("a whole vector");
        assert!(set.insert(MemoryKey(1), &[1.0; DIMENSIONS_MAX + 1]).is_err());
        assert!(set.insert(MemoryKey(1), &[]).is_err());
        assert_eq!(set.len(), 1, "a refused insert leaves the former vectors");
        let error = set.search(&[1.0; 3], &Scope::All, 1, Deadline::NEVER).unwrap_err();
        assert_eq!(error.message(), "the query has 3 dimensions, the vectors here have 4096");
    }

    #[test]
    fn a_scan_out_of_time_says_how_far_it_came() {
        let model: Rows = (1..6).map(|at| (MemoryKey(at), vec![at as f32, 0.0])).collect();
        let set = set_of(2, &model);
        let deadline = Deadline::after(Some(Duration::ZERO));
        for (scope, progress) in [
            (Scope::All, "vector scan: 0 of 5 rows"),
            (Scope::of([MemoryKey(1)]), "vector scan: 0 of 1 memories"),
        ] {
            let error = set.search(&[1.0, 0.0], &scope, 1, deadline).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(error.message().ends_with(progress), "{error}");
        }
    }
}
