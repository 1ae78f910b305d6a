//! Index blocks, byte by byte.

use super::{BLOCK, Page, TEXT_BLOCK, assert_fields, constants};
use crate::format::block::{
    BLOCK_ROWS_MAX, BlockHeader, BlockShape, LEVELS_MAX, LINKS_MAX, ROW_ALIGN, SectionKind,
};
use crate::format::frame::{
    BLOCK_HEADER_LEN, BLOCK_MAJOR, BlockPosition, Origin, SECTION_ALIGN, Section, file_len,
};
use crate::format::text_block::{DOCUMENTS_MAX, TERM_ENTRY_LEN, TextHeader, TextShape};
use crate::text::TermEntry;

fn header() -> BlockHeader {
    let shape = BlockShape { dimensions: 100, rows: 0x0102, links: 16, entry: 3, uppers: vec![0x60, 4] };
    let mut sections = shape.sections();
    for (index, section) in sections.iter_mut().enumerate() {
        section.checksum = 0x0101_0101 * (index as u32 + 1);
    }
    BlockHeader { origin: origin(), memories: 0x0101, unread: 7, shape, sections }
}

fn origin() -> Origin {
    Origin {
        store_id: std::array::from_fn(|i| 0xA0 + i as u8),
        generation: 0x0102_0304_0506_0708,
        position: BlockPosition {
            last_seq: 0x1112_1314_1516_1718,
            segment: 0x2122_2324_2526_2728,
            epoch: 0x3132_3334_3536_3738,
            last_offset: 0x4142_4344_4546_4748,
            last_checksum: 0x5152_5354,
        },
        log_generation: 0x7172_7374_7576_7778,
        maker: 0x6162_6364,
        maker_sha256: std::array::from_fn(|i| 0xC0 + i as u8),
    }
}

/// Holds a header against the table of its page; `own` are the fields that other kinds of files do not have.
fn assert_header<K: Copy + Into<u16>>(
    page: Page,
    bytes: &[u8],
    magic: &[u8; 8],
    maker: [&str; 2],
    own: Vec<(&str, &str, Vec<u8>)>,
    sections: &[Section<K>],
) {
    let table: Vec<u8> = sections
        .iter()
        .flat_map(|section| {
            let kind: u16 = section.kind.into();
            let fields = [
                ("kind", "2", kind.to_le_bytes().to_vec()),
                ("level", "2", section.level.to_le_bytes().to_vec()),
                ("checksum", "4", section.checksum.to_le_bytes().to_vec()),
                ("offset", "8", section.offset.to_le_bytes().to_vec()),
                ("len", "8", section.len.to_le_bytes().to_vec()),
            ];
            let bytes: Vec<u8> = fields.iter().flat_map(|field| field.2.clone()).collect();
            assert_fields(&BLOCK.rows("Section table"), &bytes, &fields);
            bytes
        })
        .collect();
    let section_table = [table.clone(), vec![0; 3836 - table.len()]].concat();
    let Origin { store_id, generation, position, log_generation, maker: number, maker_sha256 } = origin();
    let mut fields = vec![
        ("magic", "8", magic.to_vec()),
        ("major", "2", BLOCK_MAJOR.to_le_bytes().to_vec()),
        ("minor", "2", vec![0; 2]),
        ("header_len", "4", (BLOCK_HEADER_LEN as u32).to_le_bytes().to_vec()),
        ("store_id", "16", store_id.to_vec()),
        ("generation", "8", generation.to_le_bytes().to_vec()),
        ("last_seq", "8", position.last_seq.to_le_bytes().to_vec()),
        ("segment", "8", position.segment.to_le_bytes().to_vec()),
        ("epoch", "8", position.epoch.to_le_bytes().to_vec()),
        ("last_offset", "8", position.last_offset.to_le_bytes().to_vec()),
        ("last_checksum", "4", position.last_checksum.to_le_bytes().to_vec()),
        (maker[0], "4", number.to_le_bytes().to_vec()),
        (maker[1], "32", maker_sha256.to_vec()),
    ];
    fields.extend(own);
    fields.extend([
        ("file_len", "8", file_len(sections).to_le_bytes().to_vec()),
        ("log_generation", "8", log_generation.to_le_bytes().to_vec()),
        ("reserved", "88", vec![0; 88]),
        ("section_table", "3836", section_table),
        ("checksum", "4", crc32fast::hash(&bytes[..4092]).to_le_bytes().to_vec()),
    ]);
    assert_fields(&page.rows("Header"), bytes, &fields);
}

#[test]
fn a_block_header_is_laid_out_as_in_its_tables() {
    let header = header();
    let bytes = header.encode();
    let shape = &header.shape;
    let own = vec![
        ("dimensions", "4", shape.dimensions.to_le_bytes().to_vec()),
        ("stride", "4", 128u32.to_le_bytes().to_vec()),
        ("rows", "4", shape.rows.to_le_bytes().to_vec()),
        ("memories", "4", header.memories.to_le_bytes().to_vec()),
        ("links", "4", shape.links.to_le_bytes().to_vec()),
        ("levels", "4", 3u32.to_le_bytes().to_vec()),
        ("entry", "4", shape.entry.to_le_bytes().to_vec()),
        ("sections", "4", 11u32.to_le_bytes().to_vec()),
        ("unread", "4", header.unread.to_le_bytes().to_vec()),
        ("reserved", "4", vec![0; 4]),
    ];
    assert_header(BLOCK, &bytes, b"MMTOVEC1", ["model", "model_sha256"], own, &header.sections);
    assert_eq!(BlockHeader::decode(&bytes, shape.file_len()), Ok(header));
}

#[test]
fn sections_are_those_of_the_page_and_as_long_as_it_says() {
    let header = header();
    let shape = &header.shape;
    let rows = BLOCK.rows("Sections");
    let kinds: Vec<_> = rows.iter().map(|row| (row[0].parse::<u16>().expect("a number"), row[1])).collect();
    let named = |kind: SectionKind| format!("{kind:?}").to_lowercase();
    use SectionKind::{Below, Codes, Halves, Keys, Links, Rows, Scales};
    for kind in [Codes, Halves, Keys, Scales, Links, Rows, Below] {
        assert!(kinds.contains(&(kind as u16, named(kind).as_str())), "{kind:?}");
    }
    assert_eq!(kinds.len(), 7);
    for section in &header.sections {
        let nodes = match section.level {
            0 => u64::from(shape.rows),
            level => u64::from(shape.uppers[usize::from(level) - 1]),
        };
        let width = if section.level == 0 { 2 * shape.links } else { shape.links };
        let row = &rows[section.kind as usize - 1];
        let product = row[2].split(" × ").map(|factor| match factor {
            "rows" | "nodes" => nodes,
            "stride" => 128,
            "width" => u64::from(width),
            number => number.parse().expect("a number"),
        });
        assert_eq!(section.len, product.product::<u64>(), "{section:?}");
    }
    let expected = [
        ("BLOCK_HEADER_LEN", BLOCK_HEADER_LEN as u64),
        ("SECTION_ALIGN", SECTION_ALIGN),
        ("ROW_ALIGN", ROW_ALIGN as u64),
        ("BLOCK_ROWS_MAX", BLOCK_ROWS_MAX as u64),
        ("LEVELS_MAX", LEVELS_MAX as u64),
        ("LINKS_MAX", LINKS_MAX as u64),
    ];
    assert_eq!(BLOCK.constants(), constants(&expected));
}

#[test]
fn a_text_block_is_laid_out_as_in_its_tables() {
    let shape = TextShape {
        documents: 1000,
        turns: 600,
        sessions: 20,
        terms: 5000,
        term_len: 40_001,
        postings_len: 9,
    };
    let mut sections = shape.sections();
    for (index, section) in sections.iter_mut().enumerate() {
        section.checksum = 0x0101_0101 * (index as u32 + 1);
    }
    let header = TextHeader {
        origin: origin(),
        shape,
        terms_total: 0x0102_0304_0506,
        turn_terms_total: 0x1112_1314,
        sections,
    };
    let bytes = header.encode();
    let own = vec![
        ("documents", "4", shape.documents.to_le_bytes().to_vec()),
        ("turns", "4", shape.turns.to_le_bytes().to_vec()),
        ("sessions", "4", shape.sessions.to_le_bytes().to_vec()),
        ("terms", "4", shape.terms.to_le_bytes().to_vec()),
        ("terms_total", "8", header.terms_total.to_le_bytes().to_vec()),
        ("reserved", "4", vec![0; 4]),
        ("sections", "4", 12u32.to_le_bytes().to_vec()),
        ("turn_terms_total", "8", header.turn_terms_total.to_le_bytes().to_vec()),
    ];
    assert_header(TEXT_BLOCK, &bytes, b"MMTOTXT1", ["analysis", "analysis_sha256"], own, &header.sections);
    for (section, row) in header.sections.iter().zip(TEXT_BLOCK.rows("Sections")) {
        assert_eq!((section.kind as u16).to_string(), row[0]);
        assert_eq!(format!("{:?}", section.kind).to_lowercase(), row[1]);
        let product = row[2].split(" × ").map(|factor| match factor {
            "documents" => 1000,
            "turns" => 600,
            "sessions" => 20,
            "(sessions + 1)" => 21,
            "(terms + 1)" => 5001,
            "len" => section.len,
            number => number.parse().expect("a number"),
        });
        assert_eq!(section.len, product.product::<u64>(), "{section:?}");
    }
    assert_eq!(TEXT_BLOCK.rows("Sections").len(), header.sections.len());
    let entry = TermEntry { postings: 0x0102_0304_0506_0708, text: 9, holders: 10, last: 11, reserved: 0 };
    let fields = [
        ("postings", "8", entry.postings.to_le_bytes().to_vec()),
        ("text", "4", entry.text.to_le_bytes().to_vec()),
        ("holders", "4", entry.holders.to_le_bytes().to_vec()),
        ("last", "4", entry.last.to_le_bytes().to_vec()),
        ("reserved", "4", vec![0; 4]),
    ];
    let bytes = zerocopy::IntoBytes::as_bytes(&entry);
    assert_fields(&TEXT_BLOCK.rows("Dictionary"), bytes, &fields);
    assert_eq!(bytes.len() as u64, TERM_ENTRY_LEN);
    let expected = [("DOCUMENTS_MAX", DOCUMENTS_MAX as u64), ("TERM_ENTRY_LEN", TERM_ENTRY_LEN)];
    assert_eq!(TEXT_BLOCK.constants(), constants(&expected));
    assert_eq!(TextHeader::decode(&header.encode(), file_len(&header.sections)), Ok(header));
}
