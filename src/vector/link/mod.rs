//! Graphs over rows: what makes them, and what they are while they are in memory.
//!
//! A graph has the rows as nodes of its bottom level. Each level above has about one of `m` nodes of the one below,
//! and fewer links: a walk crosses most of the distance there.

mod hnsw;
mod join;
mod linker;
mod plan;
#[cfg(test)]
mod tests;
mod work;

use super::rows::Rows;
use super::search::{GraphView, LevelView, NONE};
use crate::error::{Error, ErrorKind, Result};
pub(crate) use hnsw::{HnswRs, taken_out};
pub(crate) use linker::Linker;

/// Levels that a graph has at most; so many would be for more rows than can be numbered.
pub(crate) const LEVELS_MAX: usize = 16;

/// A graph in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Graph {
    /// The bottom one first; there always is one.
    pub(crate) levels: Vec<Level>,
    /// Links of a node of an upper level; one of the bottom level has twice as many.
    pub(crate) m: usize,
    /// The node of the top level where a walk starts.
    pub(crate) entry: u32,
}

/// A level of a [`Graph`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// The row of each node, ascending; empty at the bottom, whose nodes are the rows.
    pub(crate) rows: Vec<u32>,
    /// The number of each node in the level below; empty at the bottom.
    pub(crate) below: Vec<u32>,
    /// Equally many for each node, filled up with [`NONE`].
    pub(crate) links: Vec<u32>,
}

impl Graph {
    /// The graph as a search takes it.
    pub(crate) fn view(&self) -> GraphView<'_> {
        GraphView {
            links: &self.levels[0].links,
            uppers: self.levels[1..].iter().map(Level::view).collect(),
            m: self.m,
            entry: self.entry,
        }
    }
}

impl Level {
    fn view(&self) -> LevelView<'_> {
        LevelView { rows: &self.rows, below: &self.below, links: &self.links }
    }
}

/// How many rows there are, when a graph can number them.
fn checked_len(rows: Rows<'_>) -> Result<usize> {
    match rows.len() {
        len if len < NONE as usize => Ok(len),
        len => Err(Error::new(ErrorKind::Invalid, format!("a graph has less than {NONE} rows, not {len}"))),
    }
}

/// The numbers that nodes of a level have in the level below, whose rows are all of these and more.
fn places(rows: &[u32], below: &[u32]) -> Vec<u32> {
    let place = |row: &u32| below.binary_search(row).expect("a node is in all levels below");
    rows.iter().map(|row| place(row) as u32).collect()
}

/// A graph to go on from.
pub(crate) struct Former<'a> {
    /// The graph over the former rows.
    pub(crate) graph: GraphView<'a>,
    /// The number that each former row has now, ascending; [`NONE`] when it is gone.
    pub(crate) rows: &'a [u32],
}

/// What the caller of a builder has a say in.
pub(crate) struct Control<'a> {
    /// Whether to stop; asked now and then.
    pub(crate) stop: &'a (dyn Fn() -> bool + Sync),
    /// Called now and then with rows done and rows in all.
    pub(crate) progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Threads to build with, at least 1. With one, the same rows make the same graph.
    pub(crate) threads: usize,
}

/// What makes graphs.
pub(crate) trait GraphBuilder: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// A graph over these rows, from a former one when there is one and the builder can; `None` when it was
    /// stopped.
    ///
    /// # Errors
    /// When there are more rows than can be numbered.
    fn build(
        &self,
        rows: Rows<'_>,
        former: Option<Former<'_>>,
        control: &Control<'_>,
    ) -> Result<Option<Graph>>;
}

/// A number that looks random (a step of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
