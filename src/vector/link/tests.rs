//! What every builder must hold.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::super::rows::{Query, halve, padded, quantize};
use super::super::search::{Accept, Limits, NONE, scan_all, search_graph};
use super::*;
use crate::parts::chance::Chance;

/// Vectors of length 1 and their tables.
#[derive(Debug)]
struct Set {
    vectors: Vec<Vec<f32>>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    halves: Vec<u16>,
    stride: usize,
}

impl Set {
    fn new(vectors: Vec<Vec<f32>>) -> Self {
        let stride = padded(vectors.first().map_or(8, Vec::len));
        let (mut codes, mut scales, mut halves) = (Vec::new(), Vec::new(), Vec::new());
        for vector in &vectors {
            let values = Query::new(vector, stride);
            scales.push(quantize(values.values(), &mut codes));
            halve(values.values(), &mut halves);
        }
        Self { vectors, codes, scales, halves, stride }
    }

    fn rows(&self) -> Rows<'_> {
        Rows { codes: &self.codes, scales: &self.scales, halves: &self.halves, stride: self.stride }
    }

    /// The accepted rows that are nearest to the query, by plain arithmetic.
    fn exact(&self, query: &[f32], k: usize, accepts: impl Fn(u32) -> bool) -> Vec<u32> {
        let cosine =
            |row: u32| -> f32 { self.vectors[row as usize].iter().zip(query).map(|(a, b)| a * b).sum() };
        let mut near: Vec<(f32, u32)> = (0..self.vectors.len() as u32)
            .filter(|row| accepts(*row))
            .map(|row| (cosine(row), row))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.into_iter().take(k).map(|(_, row)| row).collect()
    }
}

/// Vectors around some centres, in no order; those of the same seed have the same centres.
fn clustered(
    seed: u64,
    part: u64,
    len: usize,
    dimensions: usize,
    centres: u64,
    spread: f32,
) -> Vec<Vec<f32>> {
    let mut chance = Chance::of(seed, part);
    let normal = |chance: &mut Chance| -> f32 {
        // The sum of some even numbers is nearly normal.
        (0..6).map(|_| (chance.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum::<f32>() * 1.41
    };
    let unit = |vector: Vec<f32>| -> Vec<f32> {
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        vector.into_iter().map(|value| value / length).collect()
    };
    let centre = |number: u64| -> Vec<f32> {
        let mut chance = Chance::of(seed, 1000 + number);
        unit((0..dimensions).map(|_| normal(&mut chance)).collect())
    };
    let centres: Vec<Vec<f32>> = (0..centres).map(centre).collect();
    let noise = spread / (dimensions as f32).sqrt();
    (0..len)
        .map(|_| {
            let centre = &centres[chance.index(centres.len())];
            unit(centre.iter().map(|value| value + noise * normal(&mut chance)).collect())
        })
        .collect()
}

fn build(builder: &dyn GraphBuilder, set: &Set, former: Option<Former<'_>>, threads: usize) -> Graph {
    let control = Control { stop: &|| false, progress: &|_, _| {}, threads };
    let graph = builder.build(set.rows(), former, &control).expect("few rows").expect("never stopped");
    assert_sound(&graph, set.vectors.len());
    graph
}

/// Every link leads to another node of its level, every list is filled up at its end, every node is in the level
/// below, and every row can be reached.
fn assert_sound(graph: &Graph, len: usize) {
    assert!(graph.levels[0].rows.is_empty() && graph.levels[0].below.is_empty());
    assert_eq!(graph.levels[0].links.len(), len * 2 * graph.m);
    for (number, level) in graph.levels.iter().enumerate() {
        let (nodes, width) = if number == 0 { (len, 2 * graph.m) } else { (level.rows.len(), graph.m) };
        assert_eq!(level.links.len(), nodes * width);
        for (node, links) in level.links.chunks(width).enumerate() {
            let filled = links.iter().take_while(|link| **link != NONE).count();
            assert!(links[filled..].iter().all(|link| *link == NONE));
            let distinct: BTreeSet<u32> = links[..filled].iter().copied().collect();
            assert_eq!(distinct.len(), filled, "links of {node}: {links:?}");
            assert!(distinct.iter().all(|link| (*link as usize) < nodes && *link as usize != node));
        }
        if number > 0 {
            assert!(!level.rows.is_empty() && level.rows.is_sorted_by(|a, b| a < b));
            for (row, below) in level.rows.iter().zip(&level.below) {
                let there = if number == 1 { *below } else { graph.levels[number - 1].rows[*below as usize] };
                assert_eq!(there, *row);
            }
        }
    }
    let mut start = graph.entry;
    for level in graph.levels[1..].iter().rev() {
        start = level.below[start as usize];
    }
    let (mut seen, mut todo) = (BTreeSet::new(), Vec::from_iter((len > 0).then_some(start)));
    while let Some(node) = todo.pop() {
        if seen.insert(node) {
            let links = &graph.levels[0].links[node as usize * 2 * graph.m..][..2 * graph.m];
            todo.extend(links.iter().filter(|link| **link != NONE));
        }
    }
    assert_eq!(seen.len(), len, "rows that can be reached");
}

fn find(set: &Set, graph: &Graph, query: &[f32], accept: Accept<'_>, k: usize, ef: usize) -> Vec<u32> {
    let query = Query::new(query, set.stride);
    let mut limits = Limits::NONE;
    let rescored = 20.max(2 * k);
    let mut found = search_graph(set.rows(), &graph.view(), &query, accept, k, ef, rescored, &mut limits);
    if found.gave_up {
        found = scan_all(set.rows(), &query, accept, k, rescored, &mut limits);
    }
    found.hits.iter().map(|hit| hit.row).collect()
}

/// The share of the true ten nearest that searches find.
fn recall(set: &Set, graph: &Graph, queries: &[Vec<f32>], accept: Accept<'_>, ef: usize) -> f64 {
    let accepts = |row| match accept {
        Accept::All => true,
        Accept::Bitmap(rows) => rows.contains(row),
        Accept::Except(rows) => !rows.contains(row),
    };
    let mut found = 0;
    for query in queries {
        let expected = set.exact(query, 10, accepts);
        let hits = find(set, graph, query, accept, 10, ef);
        found += hits.iter().filter(|row| expected.contains(row)).count();
    }
    found as f64 / (10 * queries.len()) as f64
}

fn builders() -> Vec<Box<dyn GraphBuilder>> {
    vec![Box::new(Linker::default()), Box::new(HnswRs { ef_construction: 100, ..HnswRs::default() })]
}

#[test]
fn searches_of_every_builders_graph_find_nearly_all_neighbours() {
    for (dimensions, least) in [(8, 0.97), (100, 0.97), (384, 0.97)] {
        let set = Set::new(clustered(1, 0, 3000, dimensions, 60, 0.9));
        let queries = clustered(1, 1, 60, dimensions, 60, 0.9);
        for builder in builders() {
            for threads in [1, 2] {
                let graph = build(&*builder, &set, None, threads);
                let recall = recall(&set, &graph, &queries, Accept::All, 64);
                let name = builder.name();
                assert!(recall >= least, "{name}, {threads} threads: {recall} at {dimensions} dimensions");
            }
        }
    }
}

#[test]
fn one_thread_makes_the_same_graph_every_time() {
    let set = Set::new(clustered(2, 0, 1000, 40, 10, 0.9));
    for builder in builders() {
        let first = build(&*builder, &set, None, 1);
        assert!(build(&*builder, &set, None, 1) == first, "{}", builder.name());
    }
    let other = Linker { seed: 1, ..Linker::default() };
    assert!(build(&other, &set, None, 1) != build(&Linker::default(), &set, None, 1));
}

#[test]
fn few_rows_and_rows_without_direction_make_a_graph() {
    for builder in builders() {
        for len in [0, 1, 2, 3, 20] {
            for vector in [[0.0, 0.0], [f32::NAN, 1.0], [3.0, 4.0]] {
                let set = Set::new(vec![vector.to_vec(); len]);
                for threads in [1, 2] {
                    let graph = build(&*builder, &set, None, threads);
                    let found: BTreeSet<u32> =
                        find(&set, &graph, &[1.0, 0.0], Accept::All, 30, 30).into_iter().collect();
                    assert_eq!(found.len(), len, "{}, {vector:?}", builder.name());
                }
            }
        }
    }
}

#[test]
fn a_flood_of_copies_is_linked_and_hides_nothing() {
    let mut vectors = clustered(3, 0, 500, 16, 10, 0.9);
    let copy = vectors[0].clone();
    vectors.extend(vec![copy; 5000]);
    let set = Set::new(vectors);
    for builder in builders() {
        // With one thread: how many rows the copies hide depends on the order, and two threads have no fixed one.
        let graph = build(&*builder, &set, None, 1);
        let near_copies = find(&set, &graph, &set.vectors[0], Accept::All, 10, 64);
        assert!(near_copies.iter().all(|row| *row == 0 || *row >= 500), "{}", builder.name());
        let lost = (1..500).filter(|row| !find_own(&set, &graph, *row)).count();
        // hnsw_rs keeps the nearest links of a full list, which are all to copies, so that some rows are hard to find.
        let lost_max = if builder.name() == "hnsw_rs" { 50 } else { 5 };
        assert!(lost <= lost_max, "{}: {lost} of 500 rows are hidden", builder.name());
    }
}

/// Whether a row is found by its own vector.
fn find_own(set: &Set, graph: &Graph, row: u32) -> bool {
    find(set, graph, &set.vectors[row as usize], Accept::All, 10, 64).contains(&row)
}

#[test]
fn near_copies_that_come_topic_by_topic_are_found_by_their_own_vectors() {
    // Each topic's rows follow each other, nearly in the same direction.
    let topics = (0..40).flat_map(|topic| clustered(100 + topic, 0, 100, 64, 1, 0.18));
    let set = Set::new(topics.collect());
    for builder in builders() {
        let graph = build(&*builder, &set, None, 2);
        let lost = (0..4000).filter(|row| !find_own(&set, &graph, *row)).count();
        assert!(lost <= 4, "{}: {lost} of 4000 rows are lost", builder.name());
    }
}

#[test]
fn a_graph_that_was_gone_on_from_is_as_good_as_a_new_one() {
    let vectors = clustered(4, 0, 4000, 64, 40, 0.9);
    let queries = clustered(4, 1, 80, 64, 40, 0.9);
    let linker = Linker::default();
    let first = Set::new(vectors[..3000].to_vec());
    let graph = build(&linker, &first, None, 1);
    // A fourth of the former rows goes, and the others move together.
    let mut chance = Chance(5);
    let mut next = 0;
    let moved: Vec<u32> = (0..3000)
        .map(|_| {
            if chance.times_in_64(16) {
                return NONE;
            }
            next += 1;
            next - 1
        })
        .collect();
    let kept = vectors[..3000].iter().zip(&moved).filter(|(_, row)| **row != NONE).map(|(vector, _)| vector);
    let set = Set::new(kept.chain(&vectors[3000..]).cloned().collect());
    for threads in [1, 2] {
        let inserted = AtomicU64::new(0);
        let control = Control {
            stop: &|| false,
            progress: &|_, total| inserted.store(total, Ordering::Relaxed),
            threads,
        };
        let former = Former { graph: graph.view(), rows: &moved };
        let extended =
            linker.build(set.rows(), Some(former), &control).expect("few rows").expect("not stopped");
        assert_sound(&extended, set.vectors.len());
        assert!(inserted.into_inner() < 4000, "it is not a new graph");
        let new = recall(&set, &build(&linker, &set, None, 1), &queries, Accept::All, 64);
        let found = recall(&set, &extended, &queries, Accept::All, 64);
        assert!(found >= new - 0.01, "{found} beside {new}");
    }
}

#[test]
fn a_former_graph_of_another_shape_or_of_which_little_is_left_is_not_gone_on_from() {
    let set = Set::new(clustered(6, 0, 300, 16, 5, 0.9));
    let linker = Linker::default();
    let new = build(&linker, &set, None, 1);
    let other = build(&Linker { m: 8, ..linker }, &set, None, 1);
    let all: Vec<u32> = (0..300).collect();
    let few: Vec<u32> = (0..300).map(|row| if row < 149 { row } else { NONE }).collect();
    let beyond: Vec<u32> = (1..301).collect();
    let turned: Vec<u32> = (0..300).rev().collect();
    for (graph, rows) in
        [(&other, &all[..]), (&new, &few), (&new, &beyond), (&new, &turned), (&new, &all[1..]), (&new, &[])]
    {
        let former = Former { graph: graph.view(), rows };
        assert!(build(&linker, &set, Some(former), 1) == new);
    }
    let former = Former { graph: new.view(), rows: &all };
    assert!(build(&linker, &set, Some(former), 1) == new, "nothing changes where nothing changed");
}

#[test]
fn filters_and_deletions_leave_recall_as_it_is() {
    let set = Set::new(clustered(7, 0, 4000, 64, 40, 0.9));
    let queries = clustered(7, 1, 60, 64, 40, 0.9);
    let mut chance = Chance(8);
    for builder in builders() {
        let graph = build(&*builder, &set, None, 2);
        for times in [6, 32, 58] {
            let rows: RoaringBitmap = (0..4000).filter(|_| chance.times_in_64(times)).collect();
            for accept in [Accept::Bitmap(&rows), Accept::Except(&rows)] {
                let recall = recall(&set, &graph, &queries, accept, 64);
                assert!(recall >= 0.97, "{}: {recall} with {times} of 64 rows", builder.name());
            }
        }
    }
}

#[test]
fn a_build_that_is_stopped_makes_nothing() {
    let set = Set::new(clustered(9, 0, 2000, 16, 5, 0.9));
    for builder in builders() {
        for threads in [1, 2] {
            let done = AtomicU64::new(0);
            let control = Control {
                stop: &|| done.load(Ordering::Relaxed) >= 300,
                progress: &|now, _| done.store(now, Ordering::Relaxed),
                threads,
            };
            let graph = builder.build(set.rows(), None, &control).expect("few rows");
            assert!(graph.is_none(), "{}", builder.name());
            assert!(done.into_inner() < 1500, "{} goes on", builder.name());
        }
    }
}

/// Goes on from a graph of 60 rows whose links are these numbers, over and over.
fn go_on_from(upper_rows: &[u32], numbers: &[u32], gone: &[bool], entry: u32) {
    let set = Set::new(clustered(10, 0, 80, 8, 3, 0.9));
    let mut next = 0;
    let moved: Vec<u32> = gone
        .iter()
        .map(|gone| {
            next += u32::from(!gone);
            if *gone { NONE } else { next - 1 }
        })
        .collect();
    let m = 4;
    let cycle = |len: usize| numbers.iter().copied().cycle().take(len).collect::<Vec<u32>>();
    let (links, upper_links) = (cycle(60 * 2 * m), cycle(upper_rows.len() * m));
    let upper = LevelView { rows: upper_rows, below: upper_rows, links: &upper_links };
    let former =
        Former { graph: GraphView { links: &links, uppers: vec![upper, upper], m, entry }, rows: &moved };
    build(&Linker { m, ..Linker::default() }, &set, Some(former), 1);
}

#[test]
fn a_former_graph_whose_nodes_nearly_all_link_to_one_makes_a_sound_one() {
    let numbers = [&[8, 17, 17][..], &[0; 34]].concat();
    go_on_from(&[], &numbers, &[false; 60], 0);
}

proptest! {
    #[test]
    fn any_former_graph_makes_a_sound_one(
        upper_rows in prop::collection::vec(any::<u32>().prop_map(|row| row % 70), 0..20),
        numbers in prop::collection::vec(prop_oneof![6 => 0..70u32, 1 => any::<u32>()], 1..50),
        gone in prop::collection::vec(prop::bool::weighted(0.2), 60),
        entry in any::<u32>(),
    ) {
        go_on_from(&upper_rows, &numbers, &gone, entry);
    }
}
