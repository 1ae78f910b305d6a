//! The vector index without its files.

use hnsw_rs::anndists::dist::Distance;
use hnsw_rs::hnsw::Hnsw;
use roaring::RoaringBitmap;

use crate::error::Result;
use crate::vector::kernels::Kernel;
use crate::vector::link::{Control, Former, Graph, GraphBuilder, HnswRs, Linker, taken_out};
use crate::vector::rows::{Query, Rows, halve, padded, quantize};
use crate::vector::search::{Accept, Found, Limits, scan_all, scan_list, search_graph};

/// Vectors as codes and halves.
#[derive(Default)]
pub struct Tables {
    codes: Vec<i8>,
    scales: Vec<f32>,
    halves: Vec<u16>,
    stride: usize,
}

/// Which builder makes a graph, with links of a node and candidates considered for them.
#[derive(Clone, Copy, Debug)]
pub enum Builder {
    /// Our own.
    Linker(usize, usize),
    /// The `hnsw_rs` crate.
    HnswRs(usize, usize),
}

/// Which rows are wanted.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// Every one.
    All,
    /// These, by a walk over the graph.
    These(&'a RoaringBitmap),
    /// All but these, by a walk over the graph.
    AllBut(&'a RoaringBitmap),
}

impl Tables {
    /// The tables of these vectors, one after the other.
    #[must_use]
    pub fn new(values: &[f32], dimensions: usize) -> Self {
        let mut tables = Self { stride: padded(dimensions), ..Self::default() };
        for vector in values.chunks_exact(dimensions) {
            let unit = Query::new(vector, tables.stride);
            tables.scales.push(quantize(unit.values(), &mut tables.codes));
            halve(unit.values(), &mut tables.halves);
        }
        tables
    }

    /// How many vectors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    fn rows(&self) -> Rows<'_> {
        Rows { codes: &self.codes, scales: &self.scales, halves: &self.halves, stride: self.stride }
    }

    /// The nearest `k` rows of all by a scan.
    #[must_use]
    pub fn scan(&self, query: &[f32], k: usize) -> Vec<(u32, f32)> {
        let query = Query::new(query, self.stride);
        pairs(scan_all(self.rows(), &query, Accept::All, k, (3 * k).max(30), &mut Limits::NONE.clone()))
    }

    /// The nearest `k` of these rows by a scan.
    #[must_use]
    pub fn scan_list(&self, query: &[f32], k: usize, rows: &[u32]) -> Vec<(u32, f32)> {
        let query = Query::new(query, self.stride);
        pairs(scan_list(self.rows(), rows, &query, k, (3 * k).max(30), &mut Limits::NONE.clone()))
    }

    /// Codes, scales and halves in bytes, links not among them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.scales.len() + 2 * self.halves.len()
    }
}

/// A graph over tables.
pub struct Index(Graph);

impl Index {
    /// Builds it.
    ///
    /// # Errors
    /// For more rows than can be numbered.
    ///
    /// # Panics
    /// Never: nobody stops it.
    pub fn build(tables: &Tables, builder: Builder, threads: usize) -> Result<Self> {
        Self::run(tables, builder, None, threads)
    }

    /// Builds it from this one, whose rows are the first of the tables, all of them or without those that are gone.
    ///
    /// # Errors
    /// As [`Self::build`].
    ///
    /// # Panics
    /// Never: nobody stops it.
    pub fn extend(&self, tables: &Tables, builder: Builder, threads: usize, moved: &[u32]) -> Result<Self> {
        Self::run(tables, builder, Some(Former { graph: self.0.view(), rows: moved }), threads)
    }

    fn run(tables: &Tables, builder: Builder, former: Option<Former<'_>>, threads: usize) -> Result<Self> {
        let control = Control { stop: &|| false, progress: &|_, _| {}, threads };
        let builder: Box<dyn GraphBuilder> = match builder {
            Builder::Linker(m, ef_construction) => Box::new(Linker { m, ef_construction, seed: 0 }),
            Builder::HnswRs(m, ef_construction) => Box::new(HnswRs { m, ef_construction, seed: 0 }),
        };
        let graph = builder.build(tables.rows(), former, &control)?;
        Ok(Self(graph.expect("nobody stops it")))
    }

    /// The graph of an index of this crate, whose points have the numbers of the rows.
    pub fn of<T: Clone + Send + Sync, D: Distance<T> + Send + Sync>(
        index: &Hnsw<'_, T, D>,
        rows: usize,
        m: usize,
    ) -> Self {
        Self(taken_out(index, rows, m).0)
    }

    /// The nearest `k` of the wanted rows by a walk of this breadth; a scan when the walk gives up.
    #[must_use]
    pub fn search(
        &self,
        tables: &Tables,
        query: &[f32],
        wanted: Wanted<'_>,
        k: usize,
        ef: usize,
    ) -> Vec<(u32, f32)> {
        let query = Query::new(query, tables.stride);
        let accept = match wanted {
            Wanted::All => Accept::All,
            Wanted::These(rows) => Accept::Bitmap(rows),
            Wanted::AllBut(rows) => Accept::Except(rows),
        };
        // All that the walk ends with. Where near copies crowd, codes alone cannot say which are the best.
        let rescored = ef.max(3 * k);
        let mut limits = Limits::NONE;
        let found = search_graph(tables.rows(), &self.0.view(), &query, accept, k, ef, rescored, &mut limits);
        if found.gave_up {
            return pairs(scan_all(tables.rows(), &query, accept, k, rescored, &mut limits));
        }
        pairs(found)
    }

    /// Links at the bottom, of a node on average.
    #[must_use]
    pub fn mean_links(&self) -> f64 {
        let links = &self.0.levels[0].links;
        let filled = links.iter().filter(|link| **link != crate::vector::search::NONE).count();
        filled as f64 / (links.len() / (2 * self.0.m)) as f64
    }
}

/// Times the kernels of codes and halves: calls of each kind on rows of a table, by the kernel at this place of
/// [`super::kernel_names`].
pub struct Kernels<'a>(&'a Tables, Query, usize);

impl<'a> Kernels<'a> {
    /// With this query.
    #[must_use]
    pub fn new(tables: &'a Tables, query: &[f32], kernel: usize) -> Self {
        Self(tables, Query::new(query, tables.stride), kernel)
    }

    /// All codes in order.
    pub fn scan_codes(&self, out: &mut Vec<i32>) {
        out.resize(self.0.len(), 0);
        Kernel::available()[self.2].scan_codes(self.1.code(), &self.0.codes, out);
    }

    /// The codes of these rows.
    pub fn gather_codes(&self, rows: &[u32], out: &mut Vec<i32>) {
        Kernel::available()[self.2].gather_codes(self.1.code(), &self.0.codes, rows, out);
    }

    /// The halves of these rows.
    pub fn gather_halves(&self, rows: &[u32], out: &mut Vec<f32>) {
        Kernel::available()[self.2].gather_halves(self.1.values(), &self.0.halves, rows, out);
    }
}

fn pairs(found: Found) -> Vec<(u32, f32)> {
    found.hits.into_iter().map(|hit| (hit.row, hit.cosine)).collect()
}
