//! Any bytes as a packed model, and any text for its tokenizer and its engine.
//!
//! A model file is at least 10 MB, so an input is a list of changes to a file that is nearly all zeros, which costs
//! a process next to nothing. Checksums can be set right, so that a change gets past them.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::Seeds;
use super::input::Input;
use crate::embed::Embedder;
use crate::embed::minilm::MiniLm;
use crate::embed::minilm::layout::{
    self, FIRST_WEIGHTS, HEAD_LEN, SECTIONS, SLOT_EMPTY, SLOTS, Section, aligned, entry, first_slot, header,
    section_len,
};

/// First byte: the text is given to the model that is compiled in, and nothing is changed.
const BUILT_IN: u8 = 1;
/// First byte: checksums are set right.
const MENDED: u8 = 2;
/// First byte: the text is embedded, too, with weights that may be any numbers.
const EMBEDDED: u8 = 4;
/// First byte: some bytes are cut off the end.
const CUT: u8 = 8;

/// Most tokens of a text that are asked for.
const TOKENS_MAX: usize = 254;
const VOCABULARY: [&str; 16] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "tea", "##a", "##s", "##ea", "e", "茶", "!", "0",
    "##茶",
];
/// First character, how many, class.
const CLASSES: [(u32, u16, u16); 3] =
    [(0, 9, layout::CLASS_REMOVED), (0x21, 15, layout::CLASS_PUNCTUATION), (0x300, 112, layout::CLASS_MARK)];

/// The smallest sound model file up to its weights, which are zeros.
static START: LazyLock<Vec<u8>> = LazyLock::new(start);

pub(super) fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    if first & BUILT_IN != 0 {
        let model = MiniLm::builtin().expect("the model that is compiled in");
        assert!(model.tokens(&String::from_utf8_lossy(input.0), TOKENS_MAX).len() <= TOKENS_MAX);
        return;
    }
    let text_len = usize::from(input.byte());
    let text = String::from_utf8_lossy(input.bytes(text_len));
    let Ok(model) = MiniLm::parse(Cow::Owned(changed(first, input))) else { return };
    let tokens = model.tokens(&text, TOKENS_MAX);
    assert!(tokens.len() <= TOKENS_MAX);
    assert!(tokens.iter().all(|id| (*id as usize) < VOCABULARY.len()), "a token that is not there");
    if first & EMBEDDED != 0
        && let Ok(vector) = model.embed_query(&text)
    {
        assert!(vector.len() == layout::DIMENSIONS && vector.iter().all(|value| value.is_finite()));
    }
}

/// The model file with the changes that the input asks for.
fn changed(first: u8, mut input: Input<'_>) -> Vec<u8> {
    let sections = sections();
    let file_len = sections.last().map_or(0, |(offset, len)| offset + len);
    // All zeros from the system, of which only those that are touched are ever there.
    let mut file = vec![0; file_len];
    file[..START.len()].copy_from_slice(&START);
    if first & CUT != 0 {
        file.truncate(file_len.saturating_sub(usize::from(input.u16())));
    }
    while !input.is_empty() {
        // The head, or one of the sections.
        let part = usize::from(input.byte()) % (SECTIONS + 1);
        let start = part.checked_sub(1).map_or(0, |index| sections[index].0);
        let offset = start + usize::from(input.u16());
        let len = usize::from(input.byte() % 16) + 1;
        let bytes = input.bytes(len);
        if let Some(place) = file.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    if first & MENDED != 0 {
        mend(&mut file);
    }
    file
}

/// Sets the checksums right that are compared when a file is opened.
fn mend(file: &mut [u8]) {
    for index in (0..=FIRST_WEIGHTS).chain([Section::EmbeddingNorm as usize]) {
        let at = header::LEN + index * entry::LEN;
        let field = |offset: usize| usize::try_from(Input(&file[at + offset..]).u64()).unwrap_or(usize::MAX);
        let (offset, len) = (field(entry::OFFSET), field(entry::LENGTH));
        let Some(section) = file.get(offset..).and_then(|rest| rest.get(..len)) else { continue };
        let crc = crc32fast::hash(section);
        file[at + entry::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    file[header::CRC..][..4].fill(0);
    let crc = crc32fast::hash(&file[..HEAD_LEN]);
    file[header::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
}

/// Offset and length of each section.
fn sections() -> [(usize, usize); SECTIONS] {
    let mut end = HEAD_LEN;
    std::array::from_fn(|index| {
        let offset = aligned(end);
        let len = section_len(index, VOCABULARY.len()).unwrap_or(match index {
            index if index == Section::TokenText as usize => VOCABULARY.concat().len(),
            _ => CLASSES.len() * layout::CLASS_LEN,
        });
        end = offset + len;
        (offset, len)
    })
}

fn start() -> Vec<u8> {
    let sections = sections();
    let file_len = sections.last().map_or(0, |(offset, len)| offset + len);
    let mut file = vec![0; file_len];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(header::MAGIC, &layout::MAGIC);
    put(header::FILE_LEN, &(file_len as u64).to_le_bytes());
    for (at, value) in [
        (header::VERSION, layout::VERSION as usize),
        (header::SECTIONS, SECTIONS),
        (header::VOCABULARY, VOCABULARY.len()),
        (header::DIMENSIONS, layout::DIMENSIONS),
        (header::LAYERS, layout::LAYERS),
        (header::HEADS, layout::HEADS),
        (header::INNER, layout::INNER),
        (header::POSITIONS, layout::POSITIONS),
        (header::TOKEN_LEN_LONGEST, 6),
    ] {
        put(at, &u32::try_from(value).expect("a small number").to_le_bytes());
    }
    for (index, (offset, len)) in sections.iter().enumerate() {
        let at = header::LEN + index * entry::LEN;
        put(at + entry::NUMBER, &(index as u32 + 1).to_le_bytes());
        put(at + entry::OFFSET, &(*offset as u64).to_le_bytes());
        put(at + entry::LENGTH, &(*len as u64).to_le_bytes());
    }
    let place = |section: Section| sections[section as usize].0;
    put(place(Section::TokenText), VOCABULARY.concat().as_bytes());
    let mut end = 0_u32;
    let mut slots = [SLOT_EMPTY; SLOTS];
    for (id, token) in VOCABULARY.into_iter().enumerate() {
        end += token.len() as u32;
        put(place(Section::TokenEnds) + id * 4, &end.to_le_bytes());
        let mut slot = first_slot(token.bytes().fold(layout::HASH_START, layout::hash_byte));
        while slots[slot] != SLOT_EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = id as u16;
    }
    for (slot, id) in slots.into_iter().enumerate() {
        put(place(Section::TokenSlots) + slot * 2, &id.to_le_bytes());
    }
    for (index, (first, len, class)) in CLASSES.into_iter().enumerate() {
        let at = place(Section::CharClasses) + index * layout::CLASS_LEN;
        put(at, &first.to_le_bytes());
        put(at + 4, &len.to_le_bytes());
        put(at + 6, &class.to_le_bytes());
    }
    mend(&mut file);
    file.truncate(sections[FIRST_WEIGHTS].0);
    file
}

pub(super) fn seeds() -> Seeds {
    let text = |first: u8, text: &str| {
        [&[first, u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
    };
    let change = |part: u8, offset: u16, bytes: &[u8]| {
        let len = u8::try_from(bytes.len() - 1).expect("at most 16 bytes");
        [&[part][..], &offset.to_le_bytes(), &[len], bytes].concat()
    };
    let section = |section: Section| section as u8 + 1;
    let layer = layout::FIRST_LAYER as u8 + 1;
    let weights = [change(layer, 0, &[3; 16]), change(layer, 1000, &[0x80, 0x7f, 1])].concat();
    let table = u16::try_from(header::LEN + entry::LENGTH).expect("within the head");
    vec![
        ("built-in", [&[BUILT_IN][..], "Ann's naïve TEA, 茶! [MASK] \u{ad}\u{301}x".as_bytes()].concat()),
        ("tokens", text(MENDED, "teas aa! 茶 [SEP] xé\u{301}\u{8}0")),
        ("embedded", text(MENDED | EMBEDDED, "tea b")),
        ("weights", [text(MENDED | EMBEDDED, "a"), weights].concat()),
        ("ends", [text(MENDED, "tea ab"), change(section(Section::TokenEnds), 20, &[255; 8])].concat()),
        ("classes", [text(MENDED, "tea !"), change(section(Section::CharClasses), 8, &[1; 8])].concat()),
        ("length", [text(MENDED, "tea"), change(0, table, &[0xff; 8])].concat()),
        ("cut", [text(MENDED | CUT, "tea"), vec![1, 0]].concat()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_changed_is_a_sound_model() {
        for first in [0, MENDED] {
            let model = MiniLm::parse(Cow::Owned(changed(first, Input(&[])))).expect("a sound file");
            let tokens = model.tokens("teas aa! 茶 [SEP] xé\u{301}\u{8}0", TOKENS_MAX);
            let named: Vec<&str> = tokens.iter().map(|id| VOCABULARY[*id as usize]).collect();
            assert_eq!(named, ["tea", "##s", "a", "##a", "!", "茶", "[SEP]", "[UNK]"]);
        }
        let change = [1, 0, 0, 0, b'{'];
        assert!(MiniLm::parse(Cow::Owned(changed(0, Input(&change)))).is_err(), "the checksum tells");
        assert!(MiniLm::parse(Cow::Owned(changed(MENDED, Input(&change)))).is_err(), "[PAD] is gone");
    }
}
