//! Any bytes as an index block: opening, checking and searching it.
//!
//! An input is a short form: how many rows, links and levels, then what the sections hold, over and over. So nearly
//! every input is a block that opens, with keys, numbers of nodes and vectors that nobody would write.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::Seeds;
use super::index_file::{FOLDER, HEADER_CHANGED, PLAIN, disk_with};
use super::input::Input;
use crate::format::block::{BLOCK_HEADER_LEN, BlockHeader, BlockPosition, BlockShape, SectionKind};
use crate::format::frame::Origin;
use crate::format::op::MemoryKey;
use crate::index::{Block, VectorIndex, block_path};
use crate::memory::Effort;
use crate::scope::Scope;
use crate::vector::{Accept, Limits, Query, search_graph};

const DIMENSIONS_MAX: u8 = 130;

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    let file = if first & PLAIN != 0 { input.0.to_vec() } else { expand(first, &mut input) };
    let path = block_path(Path::new(FOLDER), 1);
    let disk = disk_with(&path, &file);
    let Ok(block) = Block::open(&disk, &path) else { return };
    let verified = block.verify(&|| false);
    if first & (PLAIN | HEADER_CHANGED) == 0 {
        verified.expect("checksums are right and zeros stand between");
    }
    search(Arc::new(block), first);
}

/// Whatever the sections hold, a search ends, and gives rows that exist.
fn search(block: Arc<Block>, first: u8) {
    let dimensions = block.header().shape.dimensions;
    let vector: Vec<f32> = (0..dimensions).map(|at| 1.0 + f32::from(first) - at as f32).collect();
    let rows = block.rows();
    if let Some(graph) = block.graph() {
        let query = Query::new(&vector, rows.stride);
        for (k, ef) in [(1, 1), (5, 64)] {
            let mut limits = Limits::NONE;
            let found = search_graph(rows, &graph, &query, Accept::All, k, ef, 20, &mut limits);
            assert!(found.hits.len() <= k && found.hits.iter().all(|hit| hit.row < block.row_count()));
            let different: BTreeSet<u32> = found.hits.iter().map(|hit| hit.row).collect();
            assert_eq!(different.len(), found.hits.len(), "each row once");
        }
    }
    let keys: BTreeSet<u64> = block.keys().iter().copied().collect();
    let mut index = VectorIndex::new(dimensions, Some(Arc::clone(&block))).expect("dimensions were checked");
    let some: Vec<MemoryKey> = keys.iter().step_by(2).map(|key| MemoryKey(*key)).collect();
    if let Some(key) = some.first() {
        index.remove(*key);
    }
    index.insert(MemoryKey(u64::MAX), &vector).expect("whole vectors");
    for scope in [Scope::All, Scope::of(some.iter().copied())] {
        for effort in [Effort::Normal, Effort::Exact] {
            let nearest = index.search(&vector, &scope, 5, effort, &mut Limits::NONE.clone());
            let nearest = nearest.expect("dimensions fit");
            assert!(!nearest.truncated && nearest.memories.len() <= 5);
            assert!(nearest.memories.is_sorted_by(|a, b| a.1 >= b.1), "{nearest:?}");
            let known = |key: &MemoryKey| keys.contains(&key.0) || key.0 == u64::MAX;
            assert!(nearest.memories.iter().all(|(key, cosine)| known(key) && cosine.abs() <= 1.0));
        }
        index.cosines_of(&vector, &index.sample(&scope), &Limits::NONE).expect("dimensions fit");
    }
}

/// A file from its short form.
fn expand(first: u8, input: &mut Input<'_>) -> Vec<u8> {
    let rows = u32::from(input.byte());
    let links = u32::from(input.byte() % 9);
    let dimensions = u32::from(1 + input.byte() % DIMENSIONS_MAX);
    let mut uppers: Vec<u32> = (0..input.byte() % 4).map(|_| u32::from(input.byte())).collect();
    uppers.retain(|nodes| *nodes > 0);
    uppers.sort_unstable_by(|a, b| b.cmp(a));
    uppers.retain(|nodes| links > 0 && *nodes <= rows);
    let entry = u32::from(input.byte());
    let nodes = uppers.last().copied().unwrap_or(rows);
    let entry = if links > 0 && nodes > 0 { entry % nodes } else { 0 };
    let links = if nodes > 0 { links } else { 0 };
    let (change_at, change_to) = (usize::from(input.u16()), input.byte());
    let shape = BlockShape { dimensions, rows, links, entry, uppers };
    let mut file = vec![0; usize::try_from(shape.file_len()).expect("a few rows")];
    let mut content = input.0.iter().copied().cycle();
    let mut next = || content.next().unwrap_or(0);
    let mut sections = shape.sections();
    for section in &mut sections {
        let bytes = &mut file[section.range()];
        match section.kind {
            // Small numbers are nodes; the largest byte is none.
            SectionKind::Links | SectionKind::Rows | SectionKind::Below => {
                for number in bytes.chunks_exact_mut(4) {
                    let byte = next();
                    let value = if byte == u8::MAX { u32::MAX } else { u32::from(byte) };
                    number.copy_from_slice(&value.to_le_bytes());
                }
            }
            SectionKind::Keys => {
                for (at, key) in bytes.chunks_exact_mut(8).enumerate() {
                    key.copy_from_slice(&(at as u64 + u64::from(next() & 7)).to_le_bytes());
                }
            }
            SectionKind::Codes | SectionKind::Halves | SectionKind::Scales => bytes.fill_with(&mut next),
        }
        section.checksum = crc32fast::hash(bytes);
    }
    let header = BlockHeader {
        origin: Origin {
            store_id: [9; 16],
            generation: 1,
            position: BlockPosition { last_seq: 1, ..BlockPosition::default() },
            log_generation: 0,
            maker: 1,
            maker_sha256: [7; 32],
        },
        memories: rows,
        unread: 0,
        shape,
        sections,
    };
    file[..BLOCK_HEADER_LEN].copy_from_slice(&header.encode());
    if first & HEADER_CHANGED != 0 {
        let end = BLOCK_HEADER_LEN - 4;
        file[change_at % end] ^= change_to;
        let checksum = crc32fast::hash(&file[..end]);
        file[end..BLOCK_HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
    }
    file
}

pub(super) fn seeds() -> Seeds {
    let noise: Vec<u8> = (0..500u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let short = |head: &[u8]| [head, &noise].concat();
    let mut entry_wrong = short(&[HEADER_CHANGED, 40, 4, 7, 2, 9, 3, 2, 136, 0, 0xFF]);
    entry_wrong.truncate(200);
    vec![
        ("scanned", short(&[0, 40, 0, 15, 0, 0, 0, 0, 0])),
        ("graph", short(&[0, 40, 4, 7, 2, 9, 3, 2, 0, 0, 0])),
        ("one-row", short(&[0, 1, 2, 63, 1, 1, 0, 0, 0, 0])),
        ("empty", short(&[0, 0, 0, 7, 0, 0, 0, 0, 0])),
        ("wrong-entry", entry_wrong),
        ("no-block", [&[PLAIN], &b"MMTOVEC1"[..], &noise[..100]].concat()),
    ]
}
