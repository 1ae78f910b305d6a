//! Meaning: which rows are nearest to a query, by a scan or by a walk through a graph, and how such a graph is made.
//!
//! Pure: slices in, rows out. It knows nothing of memories, files and locks.

pub(crate) mod kernels;
pub(crate) mod link;
pub(crate) mod rows;
mod score;
pub(crate) mod search;

pub(crate) use kernels::{Kernel, Lane, lanes};
pub(crate) use link::{Control, Former, Graph, GraphBuilder, HnswRs, Linker};
pub(crate) use rows::{Query, Rows, halve, quantize};
pub(crate) use score::score_list;
pub(crate) use search::{
    Accept, Found, GraphView, LevelView, Limits, NONE, scan_all, scan_list, search_graph,
};
