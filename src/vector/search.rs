//! The nearest rows to a query: by a walk over a graph, or by a scan.
//!
//! All three ways find candidates by their codes and rank the best of them by their 16-bit floats. Rows and graph
//! may be parts of a mapped file, and are not trusted: whatever bytes they hold, a search ends and returns rows
//! that exist. A number that names no node ends a list of links, a score that is no number counts as the worst,
//! and what a search allocates follows from the number of rows.
//!
//! The walk keeps a pool of the best nodes seen so far and looks at the neighbours of the best one that has not
//! been looked at, until there is none. Rows that may not be returned are walked over like others, but the pool
//! is full only when it holds enough of those that may: a filter costs time, not neighbours.

use std::cell::RefCell;
use std::cmp::Ordering;

use roaring::RoaringBitmap;

use super::kernels::Kernel;
use super::rows::{Query, Rows};
use crate::scope::Deadline;

/// No node: what fills up a list of links.
pub(crate) const NONE: u32 = u32::MAX;
/// Rows of one piece of a scan, between two looks at the clock: some 20 us of work.
const SCAN_ROWS: usize = 2048;
/// Nodes whose links are followed between two looks at the clock: some 10 us of work.
const STEPS: u32 = 16;

/// A level above the bottom one, as parts of a mapped file or of a [`super::link::Graph`].
#[derive(Clone, Copy)]
pub(crate) struct LevelView<'a> {
    /// The row of each node, ascending.
    pub(crate) rows: &'a [u32],
    /// The number of each node in the level below.
    pub(crate) below: &'a [u32],
    /// As many for each node as the graph's `m`: numbers of nodes of this level, filled up with [`NONE`].
    pub(crate) links: &'a [u32],
}

/// A graph whose nodes at the bottom are the rows.
pub(crate) struct GraphView<'a> {
    /// Twice `m` for each row: rows, filled up with [`NONE`].
    pub(crate) links: &'a [u32],
    /// The levels above, the lowest first.
    pub(crate) uppers: Vec<LevelView<'a>>,
    /// Links of a node of an upper level.
    pub(crate) m: usize,
    /// The node of the top level where a walk starts.
    pub(crate) entry: u32,
}

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hit {
    /// Its number.
    pub(crate) row: u32,
    /// Its cosine to the query, -1 to 1.
    pub(crate) cosine: f32,
}

/// Which rows a search may return.
#[derive(Clone, Copy)]
pub(crate) enum Accept<'a> {
    /// Every row.
    All,
    /// These rows.
    Bitmap(&'a RoaringBitmap),
    /// Every row but these.
    Except(&'a RoaringBitmap),
}

impl Accept<'_> {
    fn accepts(self, row: u32) -> bool {
        match self {
            Self::All => true,
            Self::Bitmap(rows) => rows.contains(row),
            Self::Except(rows) => !rows.contains(row),
        }
    }

    /// So many comparisons are more than a scan of what is accepted would take.
    fn evals_worth(self, rows: usize) -> u64 {
        match self {
            Self::All => u64::MAX,
            Self::Bitmap(accepted) => accepted.len(),
            Self::Except(refused) => (rows as u64).saturating_sub(refused.len()),
        }
    }
}

/// What a search may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// When it returns what it has.
    pub(crate) deadline: Deadline,
    /// Comparisons after which it returns what it has. Each search takes off what it used, so that several can
    /// share a budget.
    pub(crate) evals_max: u64,
}

impl Limits {
    /// All the time and work that a search wants.
    pub(crate) const NONE: Self = Self { deadline: Deadline::NEVER, evals_max: u64::MAX };

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_over()
    }
}

/// What a search found, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// The best first; of equally near ones the one with the higher number.
    pub(crate) hits: Vec<Hit>,
    /// Rows compared by their codes.
    pub(crate) evals: u64,
    /// Whether a limit cut it short.
    pub(crate) truncated: bool,
    /// Whether it compared more rows than were accepted: a scan of those is faster, and exact.
    pub(crate) gave_up: bool,
}

/// The nearest `k` accepted rows, of those that a walk over the graph comes across.
///
/// `ef` is the size of the pool: a larger one finds more of the true neighbours and takes longer. The best
/// `rescored` of it, at least `k`, are ranked by their 16-bit floats.
#[allow(clippy::too_many_arguments, reason = "each is a choice of the caller's planner")]
pub(crate) fn search_graph(
    rows: Rows<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    accept: Accept<'_>,
    k: usize,
    ef: usize,
    rescored: usize,
    limits: &mut Limits,
) -> Found {
    let bottom = Bottom { links: graph.links, width: 2 * graph.m, rows: rows.len() };
    if bottom.rows == 0 || k == 0 {
        return Found::default();
    }
    let mut meter = Meter::new(*limits, accept.evals_worth(bottom.rows));
    let target = Target { rows, code: query.code(), kernel: Kernel::best() };
    with_walk(|walk| {
        let start = descend(&target, graph, walk, &mut meter);
        walk.run(&bottom, &target, &[start], ef.max(k), |row| accept.accepts(row), &mut meter);
        let best = walk.best().map(|near| near.node).take(rescored.max(k)).collect();
        meter.settle(limits, rescore(rows, query, best, k))
    })
}

/// The nearest `k` accepted rows, by a comparison with every code. The best `rescored` of them, at least `k`, are
/// ranked by their 16-bit floats; three times `k` leave nothing out in practice.
pub(crate) fn scan_all(
    rows: Rows<'_>,
    query: &Query,
    accept: Accept<'_>,
    k: usize,
    rescored: usize,
    limits: &mut Limits,
) -> Found {
    let kernel = Kernel::best();
    let len = rows.len();
    let mut best = Best::new(rescored.max(k).min(len));
    let mut meter = Meter::new(*limits, u64::MAX);
    let mut dots = vec![0; SCAN_ROWS.min(len)];
    let mut from = 0;
    while from < len {
        let count = meter.grant(SCAN_ROWS.min(len - from));
        if count == 0 {
            break;
        }
        let codes = &rows.codes[from * rows.stride..(from + count) * rows.stride];
        kernel.scan_codes(query.code(), codes, &mut dots[..count]);
        for ((row, dot), scale) in (from as u32..).zip(&dots[..count]).zip(&rows.scales[from..]) {
            let score = score(*dot, *scale);
            if score >= best.bound && accept.accepts(row) {
                best.push(Near { score, node: row });
            }
        }
        from += count;
    }
    meter.settle(limits, rescore(rows, query, best.into_rows(), k))
}

/// The nearest `k` of these rows, given in ascending order. Otherwise as [`scan_all`].
pub(crate) fn scan_list(
    rows: Rows<'_>,
    list: &[u32],
    query: &Query,
    k: usize,
    rescored: usize,
    limits: &mut Limits,
) -> Found {
    let kernel = Kernel::best();
    // What lies beyond the table is not there.
    let mut list = &list[..list.partition_point(|row| (*row as usize) < rows.len())];
    let mut best = Best::new(rescored.max(k).min(list.len()));
    let mut meter = Meter::new(*limits, u64::MAX);
    let mut dots = Vec::new();
    while !list.is_empty() {
        let count = meter.grant(SCAN_ROWS.min(list.len()));
        if count == 0 {
            break;
        }
        let (piece, rest) = list.split_at(count);
        kernel.gather_codes(query.code(), rows.codes, piece, &mut dots);
        for (row, dot) in piece.iter().zip(&dots) {
            let score = score(*dot, rows.scales[*row as usize]);
            if score >= best.bound {
                best.push(Near { score, node: *row });
            }
        }
        list = rest;
    }
    meter.settle(limits, rescore(rows, query, best.into_rows(), k))
}

/// The best `k` of these rows by their 16-bit floats.
fn rescore(rows: Rows<'_>, query: &Query, candidates: Vec<u32>, k: usize) -> Vec<Hit> {
    let mut cosines = Vec::new();
    Kernel::best().gather_halves(query.values(), rows.halves, &candidates, &mut cosines);
    let cosine = |found: f32| if found.is_finite() { found.clamp(-1.0, 1.0) } else { -1.0 };
    let hits = candidates.into_iter().zip(cosines).map(|(row, found)| Hit { row, cosine: cosine(found) });
    let mut hits: Vec<Hit> = hits.collect();
    hits.sort_unstable_by(|a, b| b.cosine.total_cmp(&a.cosine).then(b.row.cmp(&a.row)));
    hits.truncate(k);
    hits
}

/// How near a row is, but for a factor that is the query's.
#[inline]
pub(super) fn score(dot: i32, scale: f32) -> f32 {
    let score = dot as f32 * scale;
    if score.is_finite() { score } else { f32::NEG_INFINITY }
}

/// The node of the bottom level to start at: the best one that a walk of one node's breadth finds on each level
/// above.
fn descend(target: &Target<'_>, graph: &GraphView<'_>, walk: &mut Walk, meter: &mut Meter) -> u32 {
    let mut node = graph.entry;
    for level in graph.uppers.iter().rev() {
        let upper = Upper { level: *level, width: graph.m, rows: target.rows.len() };
        walk.run(&upper, target, &[node], 1, |_| true, meter);
        node = walk.best().next().map_or(node, |near| near.node);
        node = level.below.get(node as usize).copied().unwrap_or(0);
    }
    node
}

/// What a walk compares nodes with.
pub(super) struct Target<'a> {
    pub(super) rows: Rows<'a>,
    /// The code of a query or of a row.
    pub(super) code: &'a [i8],
    pub(super) kernel: Kernel,
}

/// A level that can be walked.
pub(super) trait Layer {
    /// How many nodes it has.
    fn len(&self) -> usize;
    /// The row of a node; `None` for a number that names no node or no row.
    fn row(&self, node: u32) -> Option<u32>;
    /// Calls `found` with the neighbours of a node that there are.
    fn links(&self, node: u32, found: impl FnMut(u32));
}

pub(super) struct Bottom<'a> {
    pub(super) links: &'a [u32],
    pub(super) width: usize,
    pub(super) rows: usize,
}

impl Layer for Bottom<'_> {
    fn len(&self) -> usize {
        self.rows
    }

    fn row(&self, node: u32) -> Option<u32> {
        ((node as usize) < self.rows).then_some(node)
    }

    fn links(&self, node: u32, found: impl FnMut(u32)) {
        listed(self.links, self.width, node).for_each(found);
    }
}

struct Upper<'a> {
    level: LevelView<'a>,
    width: usize,
    rows: usize,
}

impl Layer for Upper<'_> {
    fn len(&self) -> usize {
        self.level.rows.len()
    }

    fn row(&self, node: u32) -> Option<u32> {
        self.level.rows.get(node as usize).copied().filter(|row| (*row as usize) < self.rows)
    }

    fn links(&self, node: u32, found: impl FnMut(u32)) {
        listed(self.level.links, self.width, node).for_each(found);
    }
}

/// The links of a node up to the end of its list.
fn listed(links: &[u32], width: usize, node: u32) -> impl Iterator<Item = u32> {
    let start = (node as usize).saturating_mul(width);
    let list = links.get(start..start.saturating_add(width)).unwrap_or(&[]);
    list.iter().copied().take_while(|to| *to != NONE)
}

/// A node with its score.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub(super) score: f32,
    pub(super) node: u32,
}

impl Near {
    /// The better one comes first; of equally good ones the one with the higher number.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(other.node.cmp(&self.node))
    }
}

/// The space that walks of one thread use, one after the other.
#[derive(Default)]
pub(super) struct Walk {
    visited: Visited,
    /// The best first.
    pool: Vec<Pooled>,
    /// How many of the pool are accepted.
    accepted: usize,
    nodes: Vec<u32>,
    rows: Vec<u32>,
    dots: Vec<i32>,
}

/// A node in the pool.
#[derive(Clone, Copy)]
struct Pooled {
    near: Near,
    accepted: bool,
    /// Whether its links were followed.
    expanded: bool,
}

thread_local! {
    static WALK: RefCell<Walk> = RefCell::default();
}

/// Lends out the space of this thread.
pub(super) fn with_walk<T>(work: impl FnOnce(&mut Walk) -> T) -> T {
    WALK.with_borrow_mut(work)
}

impl Walk {
    /// Walks from these nodes until the pool holds the best `ef` accepted nodes that it comes across.
    pub(super) fn run(
        &mut self,
        layer: &impl Layer,
        target: &Target<'_>,
        starts: &[u32],
        ef: usize,
        accepts: impl Fn(u32) -> bool,
        meter: &mut Meter,
    ) {
        self.visited.begin(layer.len());
        self.pool.clear();
        self.accepted = 0;
        self.nodes.clear();
        self.rows.clear();
        // A start that is no node is replaced by any that is.
        for start in starts.iter().copied().chain([0]) {
            let Some(row) = layer.row(start) else { continue };
            if self.nodes.len() < starts.len() && self.visited.insert(start) {
                self.nodes.push(start);
                self.rows.push(row);
            }
        }
        let mut next = self.take_in(target, ef, &accepts, meter);
        while let Some(pooled) = self.pool.get_mut(next) {
            if pooled.expanded {
                next += 1;
                continue;
            }
            if !meter.step() {
                break;
            }
            pooled.expanded = true;
            let node = pooled.near.node;
            next += 1;
            self.nodes.clear();
            self.rows.clear();
            layer.links(node, |to| {
                if let Some(row) = layer.row(to)
                    && self.visited.insert(to)
                {
                    self.nodes.push(to);
                    self.rows.push(row);
                }
            });
            next = next.min(self.take_in(target, ef, &accepts, meter));
        }
    }

    /// The accepted nodes that the last walk ended with, the best first.
    pub(super) fn best(&self) -> impl Iterator<Item = Near> {
        self.pool.iter().filter(|pooled| pooled.accepted).map(|pooled| pooled.near)
    }

    /// Compares the nodes at hand and puts the good ones into the pool. Returns the first place that changed.
    fn take_in(
        &mut self,
        target: &Target<'_>,
        ef: usize,
        accepts: &impl Fn(u32) -> bool,
        meter: &mut Meter,
    ) -> usize {
        target.kernel.gather_codes(target.code, target.rows.codes, &self.rows, &mut self.dots);
        meter.evals += self.rows.len() as u64;
        let mut first = usize::MAX;
        for place in 0..self.dots.len() {
            let row = self.rows[place];
            let score = score(self.dots[place], target.rows.scales[row as usize]);
            if self.accepted >= ef && self.pool.last().is_some_and(|last| score <= last.near.score) {
                continue;
            }
            let accepted = accepts(row);
            let at = self.pool.partition_point(|pooled| pooled.near.score >= score);
            let near = Near { score, node: self.nodes[place] };
            self.pool.insert(at, Pooled { near, accepted, expanded: false });
            self.accepted += usize::from(accepted);
            first = first.min(at);
            // The pool ends with its last accepted node once there are enough: what is worse leads to nothing.
            while let Some(last) = self.pool.last()
                && (self.accepted > ef || (self.accepted == ef && !last.accepted))
            {
                self.accepted -= usize::from(last.accepted);
                self.pool.pop();
            }
        }
        first
    }
}

/// Which nodes a walk has seen. Clearing costs what the walk was long, not what the level is large.
#[derive(Default)]
struct Visited {
    words: Vec<u64>,
    touched: Vec<u32>,
}

impl Visited {
    fn begin(&mut self, len: usize) {
        for word in self.touched.drain(..) {
            self.words[word as usize] = 0;
        }
        if self.words.len() * 64 < len {
            self.words.resize(len.div_ceil(64), 0);
        }
    }

    /// Whether it is new.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        let (word, bit) = (node / 64, 1 << (node % 64));
        let bits = &mut self.words[word as usize];
        if *bits & bit != 0 {
            return false;
        }
        if *bits == 0 {
            self.touched.push(word);
        }
        *bits |= bit;
        true
    }
}

/// Counts what a search does and says when it has to end.
pub(super) struct Meter {
    limits: Limits,
    evals: u64,
    evals_worth: u64,
    steps: u32,
    truncated: bool,
    gave_up: bool,
}

impl Meter {
    /// For work without limits.
    pub(super) fn unlimited() -> Self {
        Self::new(Limits::NONE, u64::MAX)
    }

    fn new(limits: Limits, evals_worth: u64) -> Self {
        Self { limits, evals: 0, evals_worth, steps: 0, truncated: false, gave_up: false }
    }

    /// Whether the links of one more node may be followed.
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.gave_up |= self.evals > self.evals_worth;
        self.truncated |= self.evals >= self.limits.evals_max
            || (self.steps.is_multiple_of(STEPS) && self.limits.is_over());
        !(self.gave_up || self.truncated)
    }

    /// How many of these rows may be compared; they count as compared.
    fn grant(&mut self, rows: usize) -> usize {
        let left = self.limits.evals_max.saturating_sub(self.evals);
        let granted = if self.limits.is_over() { 0 } else { left.min(rows as u64) };
        self.truncated |= granted < rows as u64;
        self.evals += granted;
        granted as usize
    }

    fn settle(self, limits: &mut Limits, hits: Vec<Hit>) -> Found {
        limits.evals_max = limits.evals_max.saturating_sub(self.evals);
        Found { hits, evals: self.evals, truncated: self.truncated, gave_up: self.gave_up }
    }
}

/// The best of what a scan comes across.
struct Best {
    keep: usize,
    /// What is worse than this is not among them.
    bound: f32,
    /// Up to twice as many as are kept.
    nears: Vec<Near>,
}

impl Best {
    fn new(keep: usize) -> Self {
        Self { keep, bound: f32::NEG_INFINITY, nears: Vec::new() }
    }

    fn push(&mut self, near: Near) {
        self.nears.push(near);
        if self.nears.len() > 2 * self.keep {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.keep == 0 {
            return self.nears.clear();
        }
        if self.nears.len() > self.keep {
            self.nears.select_nth_unstable_by(self.keep - 1, Near::order);
            self.nears.truncate(self.keep);
            self.bound = self.nears[self.keep - 1].score;
        }
    }

    fn into_rows(mut self) -> Vec<u32> {
        self.cut();
        self.nears.into_iter().map(|near| near.node).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::rows::{halve, padded, quantize};
    use super::*;

    /// Tables of rows, and a bottom level that links each row to those with neighbouring numbers.
    #[derive(Debug)]
    struct Table {
        codes: Vec<i8>,
        scales: Vec<f32>,
        halves: Vec<u16>,
        stride: usize,
        links: Vec<u32>,
    }

    impl Table {
        fn new(vectors: &[Vec<f32>]) -> Self {
            let stride = padded(vectors[0].len());
            let (mut codes, mut scales, mut halves) = (Vec::new(), Vec::new(), Vec::new());
            for vector in vectors {
                let values = Query::new(vector, stride);
                scales.push(quantize(values.values(), &mut codes));
                halve(values.values(), &mut halves);
            }
            let last = vectors.len() as u32 - 1;
            let links = (0..=last).flat_map(|row| [row.saturating_sub(1), (row + 1).min(last)]).collect();
            Self { codes, scales, halves, stride, links }
        }

        fn rows(&self) -> Rows<'_> {
            Rows { codes: &self.codes, scales: &self.scales, halves: &self.halves, stride: self.stride }
        }

        /// A walk starts at the row `entry`.
        fn chain(&self, entry: u32) -> GraphView<'_> {
            GraphView { links: &self.links, uppers: Vec::new(), m: 1, entry }
        }
    }

    /// Points on an eighth of a circle, in order. Of more than some hundred neighbours have the same code.
    fn arc(len: usize) -> Vec<Vec<f32>> {
        let angle = |place: usize| place as f32 / len as f32 * std::f32::consts::FRAC_PI_4;
        (0..len).map(|place| vec![angle(place).cos(), angle(place).sin()]).collect()
    }

    fn random(seed: u64, len: usize, dimensions: usize) -> Vec<Vec<f32>> {
        let mut chance = crate::parts::chance::Chance(seed);
        let mut value = || (chance.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..len).map(|_| (0..dimensions).map(|_| value()).collect()).collect()
    }

    fn exact(vectors: &[Vec<f32>], query: &[f32]) -> Vec<u32> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = |row: &Vec<f32>| dot(row, query) / dot(row, row).sqrt();
        let mut order: Vec<u32> = (0..vectors.len() as u32).collect();
        order.sort_by(|a, b| cosine(&vectors[*b as usize]).total_cmp(&cosine(&vectors[*a as usize])));
        order
    }

    fn numbers(found: &Found) -> Vec<u32> {
        found.hits.iter().map(|hit| hit.row).collect()
    }

    fn shared(a: &[u32], b: &[u32]) -> usize {
        let a: BTreeSet<_> = a.iter().collect();
        b.iter().filter(|row| a.contains(row)).count()
    }

    #[test]
    fn a_scan_finds_what_plain_arithmetic_finds() {
        for dimensions in [8, 64, 100, 384] {
            let vectors = random(dimensions as u64, 5000, dimensions);
            let table = Table::new(&vectors);
            let mut same = 0;
            for query in random(7, 20, dimensions) {
                let expected = &exact(&vectors, &query)[..10];
                let query = Query::new(&query, table.stride);
                let all = scan_all(table.rows(), &query, Accept::All, 10, 30, &mut Limits::NONE.clone());
                same += shared(&numbers(&all), expected);
                assert_eq!((all.evals, all.truncated, all.gave_up), (5000, false, false));
                assert!(all.hits.is_sorted_by(|a, b| a.cosine >= b.cosine));
                let list: Vec<u32> = (0..5000).collect();
                let listed = scan_list(table.rows(), &list, &query, 10, 30, &mut Limits::NONE.clone());
                assert_eq!(listed, all);
            }
            // In 8 dimensions 5,000 vectors are so near to each other that 16 bits cannot tell all of them apart.
            let least = if dimensions == 8 { 190 } else { 199 };
            assert!(same >= least, "{same} of 200 at {dimensions} dimensions");
        }
    }

    #[test]
    fn scans_return_what_is_accepted_and_in_the_list() {
        let table = Table::new(&arc(200));
        let query = Query::new(&[0.0, 1.0], table.stride);
        let odd: RoaringBitmap = (0..200).filter(|row| row % 2 == 1).collect();
        let scan = |accept| scan_all(table.rows(), &query, accept, 3, 30, &mut Limits::NONE.clone());
        assert_eq!(numbers(&scan(Accept::Bitmap(&odd))), [199, 197, 195]);
        assert_eq!(numbers(&scan(Accept::Except(&odd))), [198, 196, 194]);
        let list = [4, 40, 100, 199, 200, u32::MAX];
        let found = scan_list(table.rows(), &list, &query, 3, 3, &mut Limits::NONE.clone());
        assert_eq!(numbers(&found), [199, 100, 40]);
        assert_eq!(found.evals, 4);
    }

    #[test]
    fn of_equally_near_rows_the_last_ones_are_returned() {
        let table = Table::new(&vec![vec![0.5, 0.5]; 3000]);
        let query = Query::new(&[1.0, 0.0], table.stride);
        let found = scan_all(table.rows(), &query, Accept::All, 3, 30, &mut Limits::NONE.clone());
        assert_eq!(numbers(&found), [2999, 2998, 2997]);
    }

    #[test]
    fn nothing_is_found_where_nothing_is_or_is_wanted() {
        let table = Table::new(&arc(10));
        let empty = Rows { codes: &[], scales: &[], halves: &[], stride: 64 };
        let query = Query::new(&[1.0, 0.0], 64);
        let mut limits = Limits::NONE;
        let graph = GraphView { links: &[], uppers: Vec::new(), m: 0, entry: NONE };
        assert!(scan_all(empty, &query, Accept::All, 5, 30, &mut limits).hits.is_empty());
        assert!(scan_list(empty, &[0, 1], &query, 5, 30, &mut limits).hits.is_empty());
        assert!(search_graph(empty, &graph, &query, Accept::All, 5, 64, 30, &mut limits).hits.is_empty());
        for k in [0, 10, 1000, usize::MAX] {
            let expected = k.min(10);
            let rows = table.rows();
            assert_eq!(scan_all(rows, &query, Accept::All, k, 0, &mut limits).hits.len(), expected);
            let walked = search_graph(rows, &table.chain(0), &query, Accept::All, k, 1, 1, &mut limits);
            assert_eq!(walked.hits.len(), expected);
        }
    }

    #[test]
    fn a_walk_goes_over_what_is_not_accepted() {
        let table = Table::new(&arc(200));
        let query = Query::new(&[0.0, 1.0], table.stride);
        let walk_from = |entry, accept| {
            let mut limits = Limits::NONE;
            search_graph(table.rows(), &table.chain(entry), &query, accept, 3, 10, 10, &mut limits)
        };
        let walk = |accept| walk_from(120, accept);
        assert_eq!(numbers(&walk(Accept::All)), [199, 198, 197]);
        let third: RoaringBitmap = (0..200).filter(|row| row % 3 == 0).collect();
        assert_eq!(numbers(&walk(Accept::Except(&third))), [199, 197, 196]);
        let low: RoaringBitmap = (0..150).collect();
        let found = walk_from(0, Accept::Except(&low));
        assert!(found.gave_up, "the way to what is accepted is longer than a scan of it");
        let found = walk(Accept::Bitmap(&low));
        assert_eq!((numbers(&found), found.gave_up), (vec![149, 148, 147], false));
    }

    #[test]
    fn a_budget_cuts_a_search_short_at_the_same_place_every_time() {
        let table = Table::new(&arc(5000));
        let short = Table::new(&arc(200));
        let query = Query::new(&[0.0, 1.0], table.stride);
        for evals_max in [0, 1, 100, 199, 2500, 4999] {
            let budget = || Limits { deadline: Deadline::NEVER, evals_max };
            let scanned = scan_all(table.rows(), &query, Accept::All, 3, 200, &mut budget());
            assert_eq!((scanned.evals, scanned.truncated), (evals_max, true));
            let list: Vec<u32> = (0..5000).collect();
            assert_eq!(scan_list(table.rows(), &list, &query, 3, 200, &mut budget()), scanned);
            let best: Vec<u32> = (0..evals_max as u32).rev().take(3).collect();
            assert_eq!(numbers(&scanned), best, "what was compared is returned");
            let mut limits = budget();
            let walk = |limits: &mut Limits| {
                search_graph(short.rows(), &short.chain(0), &query, Accept::All, 3, 10, 10, limits)
            };
            let walked = walk(&mut limits);
            if evals_max >= 200 {
                assert_eq!((walked.evals, walked.truncated), (200, false));
                continue;
            }
            assert!(walked.truncated && !walked.hits.is_empty());
            assert!((evals_max..=evals_max + 2).contains(&walked.evals), "{}", walked.evals);
            assert_eq!(limits.evals_max, 0, "it is used up");
            assert_eq!(walk(&mut budget()), walked);
        }
        let mut enough = Limits { deadline: Deadline::NEVER, evals_max: 12_000 };
        assert!(!scan_all(table.rows(), &query, Accept::All, 3, 30, &mut enough).truncated);
        assert_eq!(enough.evals_max, 7000);
    }

    #[test]
    fn a_search_whose_time_is_over_returns_what_it_has() {
        let table = Table::new(&arc(5000));
        let query = Query::new(&[0.0, 1.0], table.stride);
        let mut limits =
            Limits { deadline: Deadline::after(Some(std::time::Duration::ZERO)), evals_max: u64::MAX };
        let found = scan_all(table.rows(), &query, Accept::All, 3, 30, &mut limits);
        assert_eq!((found.hits.len(), found.truncated), (0, true));
        let table = Table::new(&arc(200));
        let found = search_graph(table.rows(), &table.chain(0), &query, Accept::All, 3, 10, 10, &mut limits);
        assert_eq!((found.hits.len(), found.truncated), (3, true));
        assert!(found.evals <= u64::from(2 * STEPS));
    }

    /// Any bytes in tables that fit each other and in levels that do not.
    fn any_table() -> impl Strategy<Value = (Table, Vec<[Vec<u32>; 3]>, usize, u32)> {
        let number = || prop_oneof![4 => 0..40u32, 1 => any::<u32>(), 1 => Just(NONE)];
        let scale = prop_oneof![
            3 => any::<f32>(),
            1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]),
        ];
        let level = [0..30usize, 0..30usize, 0..200usize]
            .map(|len| len.prop_flat_map(move |len| prop::collection::vec(number(), len)));
        (0..40usize, 0..9usize, number(), prop::collection::vec(level, 0..4)).prop_flat_map(
            move |(rows, m, entry, levels)| {
                let table = (
                    prop::collection::vec(any::<i8>(), rows * 64),
                    prop::collection::vec(scale.clone(), rows),
                    prop::collection::vec(any::<u16>(), rows * 64),
                    prop::collection::vec(number(), 0..=2 * m * rows + 3),
                );
                (table, Just(levels), Just(m), Just(entry)).prop_map(|(table, levels, m, entry)| {
                    let (codes, scales, halves, links) = table;
                    (Table { codes, scales, halves, stride: 64, links }, levels, m, entry)
                })
            },
        )
    }

    proptest! {
        #[test]
        fn a_search_of_any_bytes_ends_with_rows_that_exist(
            (table, levels, m, entry) in any_table(),
            vector in prop::collection::vec(any::<f32>(), 64),
            accepted in prop::option::of(prop::collection::btree_set(0..60u32, 0..40)),
            k in 0..50usize,
            ef in 0..50usize,
        ) {
            let uppers = levels.iter().map(|[rows, below, links]| LevelView { rows, below, links }).collect();
            let graph = GraphView { links: &table.links, uppers, m, entry };
            let query = Query::new(&vector, 64);
            let rows = table.rows();
            let bitmap: Option<RoaringBitmap> = accepted.as_ref().map(|rows| rows.iter().collect());
            let limits = || Limits::NONE;
            let accepts = bitmap.as_ref().map_or(vec![Accept::All], |rows| {
                vec![Accept::Bitmap(rows), Accept::Except(rows)]
            });
            for accept in accepts {
                let walked = search_graph(rows, &graph, &query, accept, k, ef, 5, &mut limits());
                let scanned = scan_all(rows, &query, accept, k, 5, &mut limits());
                for found in [&walked, &scanned] {
                    let distinct: BTreeSet<u32> = numbers(found).into_iter().collect();
                    prop_assert_eq!(distinct.len(), found.hits.len());
                    prop_assert!(found.hits.len() <= k);
                    for hit in &found.hits {
                        prop_assert!((hit.row as usize) < rows.len() && accept.accepts(hit.row));
                        prop_assert!((-1.0..=1.0).contains(&hit.cosine));
                    }
                }
                let expected = (0..rows.len() as u32).filter(|row| accept.accepts(*row)).count();
                prop_assert_eq!(scanned.hits.len(), expected.min(k));
            }
            if let Some(list) = accepted {
                let list: Vec<u32> = list.into_iter().collect();
                let found = scan_list(rows, &list, &query, k, 5, &mut limits());
                let there = list.iter().filter(|row| (**row as usize) < rows.len()).count();
                prop_assert_eq!(found.hits.len(), there.min(k));
            }
        }
    }
}
