//! Our own builder: inserts rows one by one, in a shuffled order, and works on the codes alone.
//!
//! A row is linked with neighbours in different directions: of the candidates that a walk finds, nearest first,
//! one is kept when it is not nearer to a neighbour kept before it than to the row. The same rule chooses what a
//! neighbour keeps when its list is full. Rows that come topic by topic are the reason for the shuffle: a graph of
//! near copies that are inserted one after the other falls into islands.
//!
//! Threads share the lists of links without locks for reading: a reader may see a list that is half replaced,
//! whose links are good all the same.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};

use super::plan::{Kept, Plan};
use super::work::Work;
use super::{Control, Former, Graph, GraphBuilder, Level, checked_len, join, places};
use crate::error::Result;
use crate::vector::kernels::Kernel;
use crate::vector::rows::Rows;
use crate::vector::search::{Layer, Meter, NONE, Near, Target, score, with_walk};

/// Locks that the lists of links share. Many more than threads, so that two seldom want the same one.
const LOCKS: usize = 1024;
/// Rows that one thread inserts before others join in: in a small graph they would miss each other.
const ALONE: usize = 512;

/// Builds a graph by inserting rows, and goes on from a former graph by inserting the new ones alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linker {
    /// Links of a node of an upper level, at least 2; one of the bottom level has twice as many.
    pub(crate) m: usize,
    /// Candidates among which a row's neighbours are chosen: more make a better graph and take longer.
    pub(crate) ef_construction: usize,
    /// What the order of insertion and the levels of rows follow from.
    pub(crate) seed: u64,
}

impl Default for Linker {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, seed: 0 }
    }
}

impl GraphBuilder for Linker {
    fn name(&self) -> &'static str {
        "linker"
    }

    fn build(
        &self,
        rows: Rows<'_>,
        former: Option<Former<'_>>,
        control: &Control<'_>,
    ) -> Result<Option<Graph>> {
        let len = checked_len(rows)?;
        let m = self.m.max(2);
        let kept = former.and_then(|former| Kept::of(former, m, len));
        let Plan { order, uppers } = Plan::new(self.seed, m, len, kept.as_ref());
        let net = Net::new(rows, m, self.ef_construction.max(m), uppers);
        let lost = kept.as_ref().map_or(Vec::new(), |kept| net.take_over(kept));
        let work = Work::new(control, lost.len() + order.len());
        if let Some(kept) = &kept
            && !work.share(&lost, |lost, desk: &mut Desk| net.relink(kept, lost, desk))
        {
            return Ok(None);
        }

        // The row that reaches the highest leads the order, so that it is the entry from the start if it is above
        // the former one.
        let mut entry = kept.as_ref().and_then(Kept::entry);
        let leads = |row: &u32| entry.is_none_or(|entry| net.level_of(*row) > net.level_of(entry));
        let leader = order.first().copied().filter(leads);
        let (first, rest) = order.split_at(usize::from(leader.is_some()));
        let (second, rest) = rest.split_at(if kept.is_some() { 0 } else { ALONE.min(rest.len()) });
        let insert = |row: &u32, desk: &mut Desk| net.insert(*row, entry, desk);
        if !work.alone(first, insert) {
            return Ok(None);
        }
        entry = leader.or(entry);
        let insert = |row: &u32, desk: &mut Desk| net.insert(*row, entry, desk);
        if !work.alone(second, insert) || !work.share(rest, insert) {
            return Ok(None);
        }
        let entry_row = entry.unwrap_or(0);
        let entry_node = net.node(net.level_of(entry_row), entry_row).unwrap_or(0);
        let mut graph = Graph { levels: net.into_levels(), m, entry: entry_node };
        if len > 0 {
            let joined = join::join(rows, &mut graph.levels[0].links, 2 * m, entry_row);
            tracing::debug!(
                rows = len,
                inserted = order.len(),
                relinked = lost.len(),
                joined,
                "linked a graph"
            );
        }
        Ok(Some(graph))
    }
}

/// A graph that is being made.
struct Net<'a> {
    rows: Rows<'a>,
    kernel: Kernel,
    ef: usize,
    levels: Vec<NetLevel>,
    /// Taken to change a list of links.
    locks: Vec<Mutex<()>>,
}

struct NetLevel {
    /// As in [`Level`].
    rows: Vec<u32>,
    below: Vec<u32>,
    links: Vec<AtomicU32>,
    width: usize,
    len: usize,
    is_bottom: bool,
}

/// The space that one thread links in.
#[derive(Default)]
struct Desk {
    candidates: Vec<Near>,
    rows: Vec<u32>,
    dots: Vec<i32>,
    chosen: Vec<(usize, Vec<u32>)>,
}

impl Layer for NetLevel {
    fn len(&self) -> usize {
        self.len
    }

    fn row(&self, node: u32) -> Option<u32> {
        if self.is_bottom {
            ((node as usize) < self.len).then_some(node)
        } else {
            self.rows.get(node as usize).copied()
        }
    }

    fn links(&self, node: u32, mut found: impl FnMut(u32)) {
        for link in self.list(node) {
            match link.load(Ordering::Relaxed) {
                NONE => break,
                to => found(to),
            }
        }
    }
}

impl NetLevel {
    fn list(&self, node: u32) -> &[AtomicU32] {
        &self.links[node as usize * self.width..][..self.width]
    }

    fn replace(&self, node: u32, links: &[u32]) {
        let links = links.iter().copied().chain(std::iter::repeat(NONE));
        for (slot, link) in self.list(node).iter().zip(links) {
            slot.store(link, Ordering::Relaxed);
        }
    }
}

/// A list that lost links to rows that are gone.
struct Lost {
    level: usize,
    former_node: u32,
    node: u32,
}

impl<'a> Net<'a> {
    fn new(rows: Rows<'a>, m: usize, ef: usize, uppers: Vec<Vec<u32>>) -> Self {
        let empty = |len: usize| (0..len).map(|_| AtomicU32::new(NONE)).collect();
        let len = rows.len();
        let mut levels = vec![NetLevel {
            rows: Vec::new(),
            below: Vec::new(),
            links: empty(len * 2 * m),
            width: 2 * m,
            len,
            is_bottom: true,
        }];
        for rows in uppers {
            let below = match levels.last() {
                Some(below) if !below.is_bottom => places(&rows, &below.rows),
                _ => rows.clone(),
            };
            let (links, len) = (empty(rows.len() * m), rows.len());
            levels.push(NetLevel { rows, below, links, width: m, len, is_bottom: false });
        }
        Self {
            rows,
            kernel: Kernel::best(),
            ef,
            levels,
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The highest level that a row is in.
    fn level_of(&self, row: u32) -> usize {
        let above = |level: &&NetLevel| level.rows.binary_search(&row).is_ok();
        self.levels[1..].iter().take_while(above).count()
    }

    /// The number of a row in a level.
    fn node(&self, level: usize, row: u32) -> Option<u32> {
        match level {
            0 => Some(row),
            _ => self.levels[level].rows.binary_search(&row).ok().map(|place| place as u32),
        }
    }

    /// Links a row into all levels that it is in.
    fn insert(&self, row: u32, entry: Option<u32>, desk: &mut Desk) {
        let Some(entry) = entry else { return };
        let (top, own) = (self.level_of(entry), self.level_of(row));
        let target = Target { rows: self.rows, code: self.rows.code(row), kernel: self.kernel };
        let mut start = self.node(top, entry).expect("the entry is in its level");
        desk.chosen.clear();
        for (number, level) in self.levels[..=top].iter().enumerate().rev() {
            let ef = if number > own { 1 } else { self.ef };
            desk.candidates.clear();
            with_walk(|walk| {
                walk.run(level, &target, &[start], ef, |_| true, &mut Meter::unlimited());
                desk.candidates.extend(walk.best());
            });
            let best = desk.candidates.first().map_or(start, |near| near.node);
            start = if level.is_bottom { best } else { level.below[best as usize] };
            if number <= own {
                let links =
                    self.choose(level, row, level.width.div_ceil(if level.is_bottom { 2 } else { 1 }), desk);
                desk.chosen.push((number, links));
            }
        }
        // From the bottom up: a walk that meets the row on a level can go on from it below.
        while let Some((number, links)) = desk.chosen.pop() {
            let node = self.node(number, row).expect("a row is in its levels");
            let level = &self.levels[number];
            {
                let _lock = self.lock(number, node);
                level.replace(node, &links);
            }
            for to in links {
                self.link_back(number, to, node, desk);
            }
        }
    }

    /// Adds a link to the list of a node, which keeps the best when it is full.
    fn link_back(&self, number: usize, node: u32, to: u32, desk: &mut Desk) {
        let level = &self.levels[number];
        let _lock = self.lock(number, node);
        let mut nodes = Vec::with_capacity(level.width + 1);
        level.links(node, |link| nodes.push(link));
        if nodes.contains(&to) {
            return;
        }
        if let Some(free) = level.list(node).get(nodes.len()) {
            return free.store(to, Ordering::Relaxed);
        }
        nodes.push(to);
        level.replace(node, &self.best_of(level, node, &nodes, desk));
    }

    /// Those of these nodes that should be a node's links.
    fn best_of(&self, level: &NetLevel, node: u32, nodes: &[u32], desk: &mut Desk) -> Vec<u32> {
        let row_of = |node: u32| level.row(node).expect("a node of this level");
        let row = row_of(node);
        desk.rows.clear();
        desk.rows.extend(nodes.iter().map(|node| row_of(*node)));
        self.kernel.gather_codes(self.rows.code(row), self.rows.codes, &desk.rows, &mut desk.dots);
        let scored = nodes.iter().zip(&desk.rows).zip(&desk.dots);
        desk.candidates.clear();
        desk.candidates.extend(scored.map(|((node, row), dot)| Near {
            score: score(*dot, self.rows.scales[*row as usize]),
            node: *node,
        }));
        desk.candidates.sort_unstable_by(Near::order);
        self.choose(level, row, level.width, desk)
    }

    /// At most `count` of the candidates, which come in order, in different directions from the row.
    fn choose(&self, level: &NetLevel, row: u32, count: usize, desk: &mut Desk) -> Vec<u32> {
        let row_of = |near: &Near| level.row(near.node).expect("a node of this level");
        let Desk { candidates, rows, dots, .. } = desk;
        let scale = self.rows.scales[row as usize];
        let own_code = self.rows.code(row);
        let twin = score(self.kernel.dot_codes(own_code, own_code), scale);
        // Copies of the row are all in the same direction, and equally near to whatever is kept. They get half of
        // the links at most, or nothing would lead out of many of them.
        let mut twins = count.div_ceil(2);
        let mut kept = Vec::with_capacity(count);
        while !candidates.is_empty() {
            let best = candidates.remove(0);
            if best.score >= twin {
                if row_of(&best) == row || twins == 0 {
                    continue;
                }
                twins -= 1;
            }
            kept.push(best.node);
            if kept.len() == count {
                break;
            }
            rows.clear();
            rows.extend(candidates.iter().map(row_of));
            let best_row = row_of(&best);
            let best_scale = self.rows.scales[best_row as usize];
            self.kernel.gather_codes(self.rows.code(best_row), self.rows.codes, rows, dots);
            let mut compared = dots.iter().zip(rows.iter());
            candidates.retain(|near| {
                let (dot, row) = compared.next().expect("one for each candidate");
                // The score lacks the scale of the row itself.
                score(*dot, self.rows.scales[*row as usize]) * best_scale <= near.score * scale
            });
        }
        kept
    }

    /// Takes the links of a former graph, and returns the lists that lost some.
    fn take_over(&self, kept: &Kept<'_>) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (number, level) in self.levels.iter().enumerate().take(kept.levels()) {
            let mut links = Vec::new();
            for (former_node, row) in kept.nodes(number) {
                let Some(node) = self.node(number, row) else { continue };
                links.clear();
                let mut lost_some = false;
                for to in kept.links(number, former_node) {
                    match self.kept_node(kept, number, to) {
                        Some(to) if to != node && !links.contains(&to) => links.push(to),
                        _ => lost_some = true,
                    }
                }
                level.replace(node, &links);
                if lost_some {
                    lost.push(Lost { level: number, former_node, node });
                }
            }
        }
        lost
    }

    /// The number that a former node has now.
    fn kept_node(&self, kept: &Kept<'_>, level: usize, former_node: u32) -> Option<u32> {
        self.node(level, kept.row(level, former_node)?)
    }

    /// Chooses links anew for a list that lost some: from those that are left, and those of the nodes that are
    /// gone, which were near as well.
    fn relink(&self, kept: &Kept<'_>, lost: &Lost, desk: &mut Desk) {
        let Lost { level: number, former_node, node } = *lost;
        let mut nodes = Vec::new();
        for to in kept.links(number, former_node) {
            match self.kept_node(kept, number, to) {
                Some(to) => nodes.push(to),
                None => {
                    let near = kept.links(number, to);
                    nodes.extend(near.filter_map(|to| self.kept_node(kept, number, to)));
                }
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|to| *to != node);
        let level = &self.levels[number];
        let links = self.best_of(level, node, &nodes, desk);
        level.replace(node, &links);
    }

    fn lock(&self, level: usize, node: u32) -> std::sync::MutexGuard<'_, ()> {
        let lock = &self.locks[(level + node as usize) % LOCKS];
        // It guards no data that a panic could leave half changed.
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn into_levels(self) -> Vec<Level> {
        let level = |level: NetLevel| Level {
            rows: level.rows,
            below: level.below,
            links: level.links.into_iter().map(AtomicU32::into_inner).collect(),
        };
        self.levels.into_iter().map(level).collect()
    }
}
