//! The engine against what the original model gives, and against bytes and texts that nobody meant.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rusqlite::{Connection, OpenFlags};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;

/// The committed file, as `examples/pack_minilm.rs` makes it.
const PACKED_SHA256: &str = "9c02ef2bf6140ce1372bbf2fea673c45fef779632464ca81b2cae4d9dcd95a46";
const STORES: [&str; 2] = ["memory-v0.2.2.db", "memory-main-ace4159.db"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The texts of a store of the original, with the vectors that the original's fp32 model gave them.
fn original(store: &str) -> Vec<(String, Vec<f32>)> {
    let path = repository("tests/fixtures").join(store);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    // Immutable, so that SQLite makes no side files for a store in WAL mode.
    let connection =
        Connection::open_with_flags(format!("file:{}?immutable=1", path.display()), flags).unwrap();
    let mut statement = connection.prepare("select text, embedding from memories order by rowid").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    rows.map(|row| {
        let (text, bytes) = row.unwrap();
        (text, bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    })
    .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn embed(engine: &MiniLm, set: InstructionSet, tokens: &[TokenId]) -> Vector {
    let mut vector = [0.0; DIMENSIONS];
    set.run(Forward { model: &engine.model, tokens, scratch: &mut Scratch::default(), vector: &mut vector });
    vector
}

#[test]
fn the_packed_file_is_the_one_that_was_reviewed() {
    assert_eq!(hex(&Sha256::digest(&PACKED.0)), PACKED_SHA256);
    MiniLm::builtin().unwrap().verify().unwrap();
}

#[test]
fn the_identity_names_the_model_exactly() {
    let identity = MiniLm::builtin().unwrap().identity();
    assert_eq!(identity.name, "sentence-transformers/all-MiniLM-L6-v2");
    assert_eq!((identity.dimensions, identity.max_tokens, identity.normalized), (384, 256, true));
    assert_eq!(identity.engine, "minilm/1");
    assert!([&identity.weights_sha256, &identity.tokenizer_sha256].iter().all(|digest| digest.len() == 64));
}

#[test]
fn vectors_agree_with_those_of_the_original() {
    let engine = MiniLm::builtin().unwrap();
    let cosines: Vec<f64> = STORES
        .iter()
        .flat_map(|store| original(store))
        .map(|(text, vector)| cosine(&engine.embed_query(&text).unwrap(), &vector))
        .collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let least = cosines.iter().copied().fold(1.0, f64::min);
    assert_eq!(cosines.len(), 244);
    assert!(mean >= 0.997, "mean cosine {mean}");
    assert!(least >= 0.98, "least cosine {least}");
}

#[test]
fn every_instruction_set_gives_the_same_vectors() {
    let engine = MiniLm::builtin().unwrap();
    // Around the sizes of tiles, of blocks of keys, and of groups of queries.
    for length in [1, 2, 3, 4, 5, 13, 15, 17, 33, 66] {
        let tokens: Vec<TokenId> = (0..length).map(|token| (token * 7919 + 2000) % 30_000).collect();
        let expected = embed(engine, InstructionSet::detect(), &tokens);
        for set in InstructionSet::all() {
            assert!(embed(engine, set, &tokens) == expected, "{set:?}, {length} tokens");
        }
    }
}

#[test]
fn a_vector_has_length_one_and_does_not_depend_on_what_came_before() {
    let engine = MiniLm::builtin().unwrap();
    let first = engine.embed_query("a short one").unwrap();
    engine.embed_query(&"something much longer ".repeat(80)).unwrap();
    assert!(engine.embed_query("a short one").unwrap() == first);
    for text in ["", " ", "a", "\u{0}", "🙂", &"long ".repeat(1000)] {
        let vector = engine.embed_query(text).unwrap();
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5, "{text:?}");
    }
}

#[test]
fn threads_share_the_engine() {
    let engine = MiniLm::builtin().unwrap();
    let texts: Vec<String> = (0..8).map(|number| format!("thought number {number}")).collect();
    let alone: Vec<_> = texts.iter().map(|text| engine.embed_query(text).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (text, expected) in texts.iter().zip(&alone) {
                    assert!(engine.embed_query(text).unwrap() == *expected);
                }
            });
        }
    });
    assert!(engine.scratches.lock().unwrap().len() <= 64);
}

#[test]
fn a_long_text_has_overlapping_windows_and_its_first_is_the_query() {
    let engine = MiniLm::builtin().unwrap();
    let text = (0..700).map(|number| format!("word{} ", number % 10)).collect::<String>();
    let tokens = engine.tokens(&text, TOKENS_MAX);
    let cut: Vec<_> = windows(&tokens).collect();
    assert!(cut.len() > 2);
    for pair in cut.windows(2) {
        assert_eq!(pair[0].len(), WINDOW_TOKENS);
        assert_eq!(pair[0][WINDOW_STRIDE..], pair[1][..WINDOW_OVERLAP]);
    }
    assert_eq!(tokens.last(), cut.last().and_then(|window| window.last()));
    let vectors = engine.embed_document(&text).unwrap();
    assert_eq!(vectors.len(), cut.len());
    assert!(vectors[0] == engine.embed_query(&text).unwrap());
}

#[test]
fn windows_are_as_few_as_cover_the_tokens() {
    let tokens = vec![7; TOKENS_MAX];
    for (count, expected) in [
        (0, 1),
        (1, 1),
        (WINDOW_TOKENS, 1),
        (WINDOW_TOKENS + 1, 2),
        (WINDOW_TOKENS + WINDOW_STRIDE, 2),
        (WINDOW_TOKENS + WINDOW_STRIDE + 1, 3),
        (TOKENS_MAX, WINDOWS_MAX),
    ] {
        assert_eq!(windows(&tokens[..count]).count(), expected, "{count} tokens");
    }
}

/// The cells of the table rows under a heading of the specification.
fn spec_rows(heading: &str) -> Vec<Vec<String>> {
    let spec = std::fs::read_to_string(repository("format-spec/model-file.md")).unwrap();
    let section = spec.split("\n## ").find(|section| section.starts_with(heading)).expect("a section");
    let cells =
        |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    section.lines().filter(|line| line.starts_with("| ")).skip(1).map(cells).collect()
}

#[test]
fn the_specification_has_the_offsets_and_sizes_of_the_code() {
    use layout::{entry, header};
    let names = [
        ("DIMENSIONS", DIMENSIONS),
        ("LAYERS", layout::LAYERS),
        ("HEADS", layout::HEADS),
        ("INNER", layout::INNER),
        ("POSITIONS", POSITIONS),
        ("GROUP", layout::GROUP),
        ("CODEBOOK", layout::CODEBOOK),
        ("PANEL", layout::PANEL),
        ("STEP_INPUTS", layout::STEP_INPUTS),
        ("SLOTS", layout::SLOTS),
        ("SLOT_EMPTY", usize::from(layout::SLOT_EMPTY)),
        ("CLASS_LEN", layout::CLASS_LEN),
        ("SECTIONS", layout::SECTIONS),
        ("SECTION_ALIGN", layout::SECTION_ALIGN),
        ("HEAD_LEN", layout::HEAD_LEN),
        ("LAYER_LEN", layout::LAYER_LEN),
    ];
    let expected: Vec<_> =
        names.iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]).collect();
    assert_eq!(spec_rows("File\n"), expected);

    let fields = |heading: &str| -> Vec<(usize, usize, String)> {
        let row = |row: &Vec<String>| (row[0].parse().unwrap(), row[1].parse().unwrap(), row[2].clone());
        spec_rows(heading).iter().map(row).collect()
    };
    let expect = |heading: &str, names: &[(usize, &str)], len: usize| {
        let ends = names.iter().skip(1).map(|(offset, _)| *offset).chain([len]);
        let expected: Vec<_> =
            names.iter().zip(ends).map(|((at, name), end)| (*at, end - at, (*name).to_owned())).collect();
        assert_eq!(fields(heading), expected, "{heading}");
    };
    let of_header = [
        (header::MAGIC, "magic"),
        (header::VERSION, "version"),
        (header::CRC, "checksum"),
        (header::FILE_LEN, "file_len"),
        (header::SECTIONS, "sections"),
        (header::VOCABULARY, "vocabulary"),
        (header::DIMENSIONS, "dimensions"),
        (header::LAYERS, "layers"),
        (header::HEADS, "heads"),
        (header::INNER, "inner"),
        (header::POSITIONS, "positions"),
        (header::TOKEN_LEN_LONGEST, "token_len_longest"),
        (header::RESERVED, "reserved"),
        (header::SOURCE_WEIGHTS_SHA256, "source_weights_sha256"),
        (header::SOURCE_VOCABULARY_SHA256, "source_vocabulary_sha256"),
        (header::WEIGHTS_SHA256, "weights_sha256"),
        (header::TOKENIZER_SHA256, "tokenizer_sha256"),
        (header::RESERVED_END, "reserved"),
    ];
    expect("Header\n", &of_header, header::LEN);
    let of_entry = [
        (entry::NUMBER, "number"),
        (entry::CRC, "checksum"),
        (entry::OFFSET, "offset"),
        (entry::LENGTH, "length"),
        (entry::RESERVED, "reserved"),
    ];
    expect("Section table\n", &of_entry, entry::LEN);
    expect("Character classes\n", &[(0, "first"), (4, "count"), (6, "class")], layout::CLASS_LEN);

    let matrices = [layout::ATTENTION_IN, layout::ATTENTION_OUT, layout::INNER_IN, layout::INNER_OUT];
    let [attention_in, attention_out, inner_in, inner_out] = matrices.map(layout::Shape::len);
    let parts = [attention_in, attention_out, layout::NORM_LEN, inner_in, inner_out, layout::NORM_LEN];
    // The second table under this heading, that of a matrix, has letters for its lengths.
    let lengths = spec_rows("Layer\n")
        .iter()
        .map_while(|row| row[1].replace(',', "").parse().ok())
        .collect::<Vec<usize>>();
    assert_eq!(lengths, parts);
}

#[derive(Deserialize)]
struct Golden {
    stores: std::collections::BTreeMap<String, Vec<Vec<TokenId>>>,
    texts: Vec<GoldenText>,
    characters: Vec<u32>,
}

#[derive(Deserialize)]
struct GoldenText {
    text: String,
    ids: Vec<TokenId>,
}

fn golden() -> Golden {
    let bytes = std::fs::read(repository("tests/golden/minilm_tokens.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn tokens_are_those_of_the_reference_tokenizer() {
    let (engine, golden) = (MiniLm::builtin().unwrap(), golden());
    for store in STORES {
        let texts = original(store);
        assert_eq!(texts.len(), golden.stores[store].len());
        for ((text, _), ids) in texts.iter().zip(&golden.stores[store]) {
            assert_eq!(engine.tokens(text, usize::MAX), *ids, "{text:?}");
        }
    }
    for GoldenText { text, ids } in &golden.texts {
        assert_eq!(engine.tokens(text, usize::MAX), *ids, "{text:?}");
        let first = engine.tokens(text, WINDOW_TOKENS);
        assert_eq!(first, ids[..ids.len().min(WINDOW_TOKENS)], "{text:?}");
    }
}

#[test]
fn every_character_has_the_tokens_of_the_reference_tokenizer() {
    let (engine, golden) = (MiniLm::builtin().unwrap(), golden());
    let block_len = 0x11_0000 / golden.characters.len() as u32;
    let mut text = String::new();
    for (block, expected) in golden.characters.iter().enumerate() {
        let first = block as u32 * block_len;
        let mut crc = crc32fast::Hasher::new();
        for c in (first..first + block_len).filter_map(char::from_u32) {
            text.clear();
            text.extend(['a', c, 'b', ' ', c]);
            for id in engine.tokens(&text, usize::MAX) {
                crc.update(&(id as u16).to_le_bytes());
            }
        }
        assert_eq!(crc.finalize(), *expected, "characters from U+{first:04X}");
    }
}

proptest! {
    #[test]
    fn any_text_has_tokens_of_the_vocabulary(text in ".*", tokens_max in 0usize..40) {
        let tokens = MiniLm::builtin().unwrap().tokens(&text, tokens_max);
        prop_assert!(tokens.len() <= tokens_max);
        prop_assert!(tokens.iter().all(|token| *token < 30_522));
    }

    #[test]
    fn tokens_of_the_start_are_the_start_of_the_tokens(text in "(\\PC|[a-z ]){0,60}", tokens_max in 0usize..40) {
        let engine = MiniLm::builtin().unwrap();
        let all = engine.tokens(&text, usize::MAX);
        prop_assert_eq!(engine.tokens(&text, tokens_max), &all[..all.len().min(tokens_max)]);
    }
}

/// Whether the bytes are refused, or give an engine that works or says that it does not.
fn survives(bytes: Vec<u8>) {
    if let Ok(engine) = MiniLm::parse(Cow::Owned(bytes)) {
        drop(engine.verify());
        drop(engine.embed_query("Which bytes are these?"));
    }
}

#[test]
fn a_file_that_is_cut_short_or_has_more_is_refused() {
    let lengths =
        (0..layout::HEAD_LEN).step_by(37).chain((layout::HEAD_LEN..PACKED.0.len()).step_by(1_000_003));
    for length in lengths.chain([PACKED.0.len() - 1]) {
        let error = MiniLm::parse(Cow::Borrowed(&PACKED.0[..length])).err().expect("bytes are missing");
        assert_eq!(error.kind(), ErrorKind::Model);
    }
    let longer = [&PACKED.0, &[0]].concat();
    assert!(MiniLm::parse(Cow::Owned(longer)).is_err());
}

#[test]
fn every_flipped_bit_of_the_head_is_refused() {
    for at in 0..layout::HEAD_LEN {
        let mut bytes = PACKED.0[..layout::HEAD_LEN].to_vec();
        bytes[at] ^= 1 << (at % 8);
        // The head alone is enough: what follows is looked at only when the head is right.
        let error = Model::parse(Cow::Owned(bytes)).err().expect("a bit is wrong");
        assert!(!matches!(error, Damage::Short { .. }), "byte {at}: {error}");
    }
}

#[test]
fn a_flipped_bit_is_found_by_the_check_wherever_it_is() {
    for at in (layout::HEAD_LEN..PACKED.0.len()).step_by(1_700_021) {
        let mut bytes = PACKED.0.to_vec();
        bytes[at] ^= 0x10;
        let found = MiniLm::parse(Cow::Owned(bytes)).and_then(|engine| engine.verify());
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Model, "byte {at}");
    }
}

#[test]
fn a_file_of_wrong_bytes_with_right_checksums_does_no_harm() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for section in 0..layout::SECTIONS {
        let mut bytes = PACKED.0.to_vec();
        let entry = layout::header::LEN + section * layout::entry::LEN;
        let field = |bytes: &[u8], offset: usize| {
            u64::from_le_bytes(bytes[entry + offset..][..8].try_into().unwrap()) as usize
        };
        let start = field(&bytes, layout::entry::OFFSET);
        let end = start + field(&bytes, layout::entry::LENGTH);
        for byte in &mut bytes[start..end] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        let crc = crc32fast::hash(&bytes[start..end]);
        bytes[entry + layout::entry::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
        bytes[layout::header::CRC..][..4].fill(0);
        let crc = crc32fast::hash(&bytes[..layout::HEAD_LEN]);
        bytes[layout::header::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
        survives(bytes);
    }
}
