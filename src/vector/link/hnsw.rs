//! Graphs by the `hnsw_rs` crate, which builds them in memory and does nothing else here: its own files are neither
//! written nor read, as a damaged one makes it panic, abort or end the process.
//!
//! It holds numbers of rows where its users hold vectors, and asks us for their distance, so that it works on our
//! codes, of which it has a copy: it is freed on a thread that outlives the rows. What else it takes is some kilobytes
//! a row.

use anndists::dist::Distance;
use hnsw_rs::anndists;
use hnsw_rs::hnsw::Hnsw;

use super::work::Work;
use super::{Control, Former, Graph, GraphBuilder, Level, checked_len, join, places, plan};
use crate::error::Result;
use crate::vector::kernels::Kernel;
use crate::vector::rows::Rows;
use crate::vector::search::NONE;

/// Levels that it makes: all other numbers are a special case to it.
const LEVELS: usize = 16;
/// Of more links for a node it ends the process.
const M_MAX: usize = 255;
/// Rows that one thread inserts before others join in.
const ALONE: usize = 512;

/// Builds a new graph every time: it cannot go on from a former one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HnswRs {
    /// Links of a node of an upper level, 2 to 255; one of the bottom level has twice as many.
    pub(crate) m: usize,
    /// Candidates among which a row's neighbours are chosen.
    pub(crate) ef_construction: usize,
    /// What the order of insertion follows from. The crate has a seed of its own for levels.
    pub(crate) seed: u64,
}

impl Default for HnswRs {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, seed: 0 }
    }
}

impl GraphBuilder for HnswRs {
    fn name(&self) -> &'static str {
        "hnsw_rs"
    }

    fn build(
        &self,
        rows: Rows<'_>,
        _former: Option<Former<'_>>,
        control: &Control<'_>,
    ) -> Result<Option<Graph>> {
        let len = checked_len(rows)?;
        let m = self.m.clamp(2, M_MAX);
        let mut order: Vec<u32> = (0..len as u32).collect();
        plan::shuffle(&mut order, self.seed);
        let distance = CodeDistance {
            codes: rows.codes.to_vec(),
            scales: rows.scales.to_vec(),
            stride: rows.stride,
            kernel: Kernel::best(),
        };
        let index = Hnsw::<u32, CodeDistance>::new(m, len.max(1), LEVELS, self.ef_construction, distance);
        let work = Work::new(control, len);
        let (first, rest) = order.split_at(len.min(ALONE));
        let insert = |row: &u32, (): &mut ()| index.insert_slice((&[*row], *row as usize));
        let all = work.alone(first, insert) && work.share(rest, insert);
        let graph = all.then(|| {
            let (mut graph, entry_row) = taken_out(&index, len, m);
            if len > 0 {
                let joined = join::join(rows, &mut graph.levels[0].links, 2 * m, entry_row);
                tracing::debug!(rows = len, joined, "built a graph with hnsw_rs");
            }
            graph
        });
        // Freeing its many small pieces takes seconds, for which nobody has to wait.
        let _ = std::thread::Builder::new().spawn(move || drop(index));
        Ok(graph)
    }
}

/// One minus the cosine of two rows, by their codes.
struct CodeDistance {
    codes: Vec<i8>,
    scales: Vec<f32>,
    stride: usize,
    kernel: Kernel,
}

impl CodeDistance {
    fn code(&self, row: u32) -> &[i8] {
        &self.codes[row as usize * self.stride..][..self.stride]
    }
}

impl Distance<u32> for CodeDistance {
    /// Never negative and always a number, for which the crate would panic, or take it for the nearest.
    fn eval(&self, a: &[u32], b: &[u32]) -> f32 {
        let dot = self.kernel.dot_codes(self.code(a[0]), self.code(b[0])) as f32;
        let distance = 1.0 - dot * self.scales[a[0] as usize] * self.scales[b[0] as usize];
        if distance.is_finite() { distance.max(0.0) } else { f32::MAX }
    }
}

/// The graph that the index holds, and the row that its walks start at.
pub(crate) fn taken_out<T, D>(index: &Hnsw<'_, T, D>, len: usize, m: usize) -> (Graph, u32)
where
    T: Clone + Send + Sync,
    D: Distance<T> + Send + Sync,
{
    let points = index.get_point_indexation();
    let mut uppers: Vec<Vec<u32>> = Vec::new();
    let mut entry = 0;
    // A layer lists the points that go no higher.
    for layer in 1..LEVELS {
        for point in points.get_layer_iterator(layer) {
            let row = point.get_origin_id() as u32;
            uppers.resize_with(uppers.len().max(layer), Vec::new);
            uppers[..layer].iter_mut().for_each(|rows| rows.push(row));
            entry = row;
        }
    }
    uppers.iter_mut().for_each(|rows| rows.sort_unstable());
    let mut levels = vec![Level { links: vec![NONE; len * 2 * m], ..Level::default() }];
    for rows in uppers {
        let below =
            if levels.len() == 1 { rows.clone() } else { places(&rows, &levels[levels.len() - 1].rows) };
        levels.push(Level { links: vec![NONE; rows.len() * m], below, rows });
    }
    for layer in 0..LEVELS {
        for point in points.get_layer_iterator(layer) {
            let row = point.get_origin_id();
            // There are lists above the point's own level too.
            for (number, near) in point.get_neighborhood_id().iter().enumerate().take(layer + 1) {
                // So are links to points that are not in the level.
                let mut near: Vec<_> = near
                    .iter()
                    .filter(|near| usize::from(near.p_id.0) >= number && near.d_id != row)
                    .collect();
                near.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.d_id.cmp(&b.d_id)));
                near.dedup_by_key(|near| near.d_id);
                let level = &levels[number];
                let place = |row: usize| match number {
                    0 => Some(row),
                    _ => level.rows.binary_search(&(row as u32)).ok(),
                };
                let links: Vec<u32> = near.iter().filter_map(|near| Some(place(near.d_id)? as u32)).collect();
                let width = if number == 0 { 2 * m } else { m };
                let Some(node) = place(row) else { continue };
                let list = &mut levels[number].links[node * width..][..width];
                list.iter_mut().zip(links).for_each(|(slot, link)| *slot = link);
            }
        }
    }
    let node = levels.last().and_then(|top| top.rows.binary_search(&entry).ok()).unwrap_or(0);
    (Graph { levels, m, entry: node as u32 }, entry)
}
