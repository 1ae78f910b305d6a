//! Any bytes as a text block: opening, checking, searching, changing it, and making another one of it.
//!
//! An input is a short form: how many documents, turns, conversations and terms, then what the sections hold, over and
//! over. So nearly every input is a block that opens, with keys, links and postings that nobody would write.

use std::path::Path;
use std::sync::Arc;

use super::Seeds;
use super::index_file::{FOLDER, HEADER_CHANGED, PLAIN, disk_with};
use super::input::Input;
use crate::format::frame::{BLOCK_HEADER_LEN, BlockPosition, Origin, file_len};
use crate::format::op::MemoryKey;
use crate::format::text_block::{TextHeader, TextSection, TextShape};
use crate::index::{TextBlock, text_block_path, write_text_block};
use crate::memory::Language;
use crate::parts::note;
use crate::scope::{Deadline, Scope};
use crate::text::{NONE, Stored, TextIndex};

/// Words that texts and terms are made of.
const WORDS: [&str; 6] = ["anna", "cache", "deploy", "log", "rust", "tea"];

const ORIGIN: Origin = Origin {
    store_id: [9; 16],
    generation: 1,
    position: BlockPosition { last_seq: 1, segment: 0, epoch: 0, last_offset: 0, last_checksum: 0 },
    log_generation: 0,
    maker: 1,
    maker_sha256: [7; 32],
};

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    let file = if first & PLAIN != 0 { input.0.to_vec() } else { expand(first, &mut input) };
    let path = text_block_path(Path::new(FOLDER), 1);
    let disk = disk_with(&path, &file);
    let Ok(block) = TextBlock::open(&disk, &path) else { return };
    let verified = block.verify(&|| false);
    if first & (PLAIN | HEADER_CHANGED) == 0 {
        verified.expect("checksums are right and zeros stand between");
    }
    let sums = block.sums();
    let keys: Vec<u64> = block.columns().keys.to_vec();
    let mut index = TextIndex::with(Language::English, Arc::new(block), sums);
    search(&index);
    for (at, key) in keys.iter().enumerate().filter(|(at, _)| at % 3 == 0) {
        if at % 2 == 0 {
            index.remove(MemoryKey(*key));
        } else {
            index.insert(MemoryKey(*key), &turn(at));
        }
    }
    index.insert(MemoryKey(u64::MAX), &turn(0));
    search(&index);
    // Of what was written by nobody another block is made, which is a sound file of whatever it says.
    let next = text_block_path(Path::new(FOLDER), 2);
    write_text_block(&disk, &next, &index, &ORIGIN).expect("a healthy disk");
    let block = TextBlock::open(&disk, &next).expect("a block of ours");
    block.verify(&|| false).expect("a block of ours");
    let sums = block.sums();
    search(&TextIndex::with(Language::English, Arc::new(block), sums));
}

/// Whatever the sections hold, a search ends, and gives texts that are there.
fn search(index: &TextIndex) {
    for query in ["anna rust tea", "log", "the"] {
        let scores = index.score(query, Deadline::NEVER);
        for doc in scores.best(10, &Scope::All) {
            assert!(scores.of(doc) > 0.0);
            let key = index.key_of(doc);
            let _ = (
                index.reader().attributes(doc),
                index.reader().turns_beside(key, 0, 20),
                index.reader().turns_beside(key, 1, 20),
            );
            assert!(index.reader().links_of(doc).iter().all(|link| *link == NONE || *link < 1 << 20));
        }
        drop(scores);
    }
    let _ = (index.knows("anna"), index.said_by(None));
}

fn turn(at: usize) -> crate::memory::Memory {
    let mut memory = note(WORDS[at % WORDS.len()]);
    memory.session_id = "s".to_owned();
    memory.speaker = Some("Anna".to_owned());
    memory
}

/// A file from its short form.
fn expand(first: u8, input: &mut Input<'_>) -> Vec<u8> {
    let documents = u32::from(input.byte());
    let turns = u32::from(input.byte()).min(documents);
    let sessions = u32::from(input.byte() % 8).min(turns);
    let terms = u32::from(input.byte()) % (WORDS.len() as u32 + 1);
    let postings_len = u64::from(input.byte());
    let (change_at, change_to) = (usize::from(input.u16()), input.byte());
    let term_bytes: String = WORDS[..terms as usize].concat();
    let shape =
        TextShape { documents, turns, sessions, terms, term_len: term_bytes.len() as u64, postings_len };
    let mut sections = shape.sections();
    let mut file = vec![0; usize::try_from(file_len(&sections)).expect("a few documents")];
    let mut content = input.0.iter().copied().cycle();
    let mut next = || content.next().unwrap_or(0);
    let mut text_end = 0;
    for section in &mut sections {
        let bytes = &mut file[section.range()];
        match section.kind {
            // Small numbers are documents; the largest byte is none.
            TextSection::Links | TextSection::Starts | TextSection::Turns | TextSection::Lens => {
                for number in bytes.chunks_exact_mut(4) {
                    let byte = next();
                    let value = if byte == u8::MAX { u32::MAX } else { u32::from(byte) };
                    number.copy_from_slice(&value.to_le_bytes());
                }
            }
            TextSection::Keys | TextSection::Sessions => {
                for (at, key) in bytes.chunks_exact_mut(8).enumerate() {
                    key.copy_from_slice(&(2 * at as u64 + u64::from(next() & 3)).to_le_bytes());
                }
            }
            TextSection::Entries => {
                for (at, entry) in bytes.chunks_exact_mut(24).enumerate() {
                    entry[0] = next();
                    // Mostly where the term is.
                    let start = if next() == 7 { u32::from(next()) } else { text_end };
                    entry[8..12].copy_from_slice(&start.to_le_bytes());
                    entry[12] = next();
                    entry[16] = next();
                    text_end += WORDS.get(at).map_or(0, |word| word.len() as u32);
                }
            }
            TextSection::Terms => bytes.copy_from_slice(term_bytes.as_bytes()),
            _ => bytes.fill_with(&mut next),
        }
        section.checksum = crc32fast::hash(bytes);
    }
    let sum = u64::from(next());
    let header = TextHeader { origin: ORIGIN, shape, terms_total: sum, turn_terms_total: sum / 2, sections };
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
    let zeros = |head: &[u8]| [head, &[0; 64]].concat();
    vec![
        ("noise", short(&[0, 40, 30, 4, 6, 200, 0, 0, 0])),
        ("plain", zeros(&[0, 40, 0, 0, 6, 60, 0, 0, 0])),
        ("turns", short(&[0, 60, 60, 7, 3, 90, 0, 0, 0])),
        ("empty", short(&[0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("header", short(&[HEADER_CHANGED, 40, 30, 4, 6, 200, 120, 0, 0xFF])),
        ("no-block", [&[PLAIN], &b"MMTOTXT1"[..], &noise[..100]].concat()),
    ]
}
