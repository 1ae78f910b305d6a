//! What there is to do for a graph: which rows are inserted in which order, on which levels rows are, and what is
//! kept of a former graph.

use super::super::search::{GraphView, NONE};
use super::{Former, LEVELS_MAX, mix};

/// What is new, and the levels of everything.
pub(super) struct Plan {
    /// The rows to insert: the one that reaches the highest, then the others in a shuffled order.
    pub(super) order: Vec<u32>,
    /// The rows of each upper level, ascending, the lowest level first; each level is part of the one before.
    pub(super) uppers: Vec<Vec<u32>>,
}

impl Plan {
    pub(super) fn new(seed: u64, m: usize, len: usize, kept: Option<&Kept<'_>>) -> Self {
        let mut is_new = vec![true; len];
        let mut uppers = Vec::new();
        if let Some(kept) = kept {
            for (_, row) in kept.nodes(0) {
                is_new[row as usize] = false;
            }
            uppers.clone_from(&kept.uppers);
        }
        let mut order: Vec<u32> = (0..len as u32).filter(|row| is_new[*row as usize]).collect();
        shuffle(&mut order, seed);
        let mut highest = (0, 0);
        for (place, row) in order.iter().enumerate() {
            let level = level_of(seed, *row, m);
            uppers.resize_with(uppers.len().max(level), Vec::new);
            uppers[..level].iter_mut().for_each(|rows| rows.push(*row));
            if level > highest.0 {
                highest = (level, place);
            }
        }
        if !order.is_empty() {
            order.swap(0, highest.1);
        }
        uppers.retain(|rows| !rows.is_empty());
        uppers.iter_mut().for_each(|rows| rows.sort_unstable());
        Self { order, uppers }
    }
}

/// A former graph of which much is kept.
pub(super) struct Kept<'a> {
    graph: GraphView<'a>,
    /// For each level, the row that each former node is now.
    now: Vec<Vec<u32>>,
    /// The kept rows of each upper level, ascending; each level is part of the one before.
    uppers: Vec<Vec<u32>>,
}

impl<'a> Kept<'a> {
    /// `None` when the former graph is of another shape, or when no more than half of it is kept: then a new one
    /// is better.
    pub(super) fn of(former: Former<'a>, m: usize, len: usize) -> Option<Self> {
        let Former { graph, rows } = former;
        let kept: Vec<u32> = rows.iter().copied().filter(|row| *row != NONE).collect();
        let fits = graph.m == m
            && graph.links.len() == rows.len() * 2 * m
            && graph.uppers.len() < LEVELS_MAX
            && graph.uppers.iter().all(|level| level.links.len() == level.rows.len() * m)
            && kept.is_sorted_by(|a, b| a < b)
            && kept.last().is_some_and(|row| (*row as usize) < len)
            && kept.len() > rows.len() / 2;
        if !fits {
            return None;
        }
        let mut now = vec![rows.to_vec()];
        let mut uppers: Vec<Vec<u32>> = Vec::new();
        for level in &graph.uppers {
            let all = level.rows.iter().map(|row| rows.get(*row as usize).copied().unwrap_or(NONE));
            let all: Vec<u32> = all.collect();
            // They come from a file: what is not in the level below is not in this one.
            let is_below = |row: &u32| uppers.last().is_none_or(|below| below.binary_search(row).is_ok());
            let mut there: Vec<u32> =
                all.iter().copied().filter(|row| *row != NONE).filter(is_below).collect();
            there.sort_unstable();
            there.dedup();
            uppers.push(there);
            now.push(all);
        }
        Some(Self { graph, now, uppers })
    }

    /// How many levels it had.
    pub(super) fn levels(&self) -> usize {
        self.now.len()
    }

    /// The former nodes of a level that are kept, with the rows that they are now.
    pub(super) fn nodes(&self, level: usize) -> impl Iterator<Item = (u32, u32)> {
        let nodes = (0..).zip(self.now[level].iter().copied());
        nodes.filter(|(_, row)| *row != NONE)
    }

    /// The row that a former node is now; `None` when it is gone.
    pub(super) fn row(&self, level: usize, former_node: u32) -> Option<u32> {
        self.now[level].get(former_node as usize).copied().filter(|row| *row != NONE)
    }

    /// The links that a former node had, to former nodes.
    pub(super) fn links(&self, level: usize, former_node: u32) -> impl Iterator<Item = u32> {
        let (links, width) = match level {
            0 => (self.graph.links, 2 * self.graph.m),
            _ => (self.graph.uppers[level - 1].links, self.graph.m),
        };
        let start = (former_node as usize).saturating_mul(width);
        let list = links.get(start..start.saturating_add(width)).unwrap_or(&[]);
        list.iter().copied().take_while(|to| *to != NONE)
    }

    /// The row where walks start: the former one, or another one of the highest level that has any.
    pub(super) fn entry(&self) -> Option<u32> {
        let top = self.uppers.iter().rposition(|rows| !rows.is_empty());
        let Some(top) = top else { return self.nodes(0).next().map(|(_, row)| row) };
        let former = self.row(top + 1, self.graph.entry).filter(|_| top + 2 == self.levels());
        former.filter(|row| self.uppers[top].binary_search(row).is_ok()).or(Some(self.uppers[top][0]))
    }
}

/// The level that a row reaches up to: one more with a chance of one in `m`, the same for the same seed and row.
pub(super) fn level_of(seed: u64, row: u32, m: usize) -> usize {
    // 53 bits make a number above 0 and up to 1.
    let chance = ((mix(seed ^ mix(u64::from(row))) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    ((-chance.ln() / (m as f64).ln()) as usize).min(LEVELS_MAX - 1)
}

/// Puts rows into an order that looks random and is the same for the same seed.
pub(super) fn shuffle(rows: &mut [u32], seed: u64) {
    for place in (1..rows.len()).rev() {
        let other = mix(seed ^ mix(place as u64)) % (place as u64 + 1);
        rows.swap(place, other as usize);
    }
}
