//! Index blocks, byte by byte.

use super::{BLOCK, assert_fields, constants};
use crate::format::block::{
    BLOCK_HEADER_LEN, BLOCK_MAJOR, BLOCK_ROWS_MAX, BlockHeader, BlockPosition, BlockShape, LEVELS_MAX,
    LINKS_MAX, ROW_ALIGN, SECTION_ALIGN, SectionKind,
};
use crate::format::op::ModelNumber;

fn header() -> BlockHeader {
    let shape = BlockShape { dimensions: 100, rows: 0x0102, links: 16, entry: 3, uppers: vec![0x60, 4] };
    let mut sections = shape.sections();
    for (index, section) in sections.iter_mut().enumerate() {
        section.checksum = 0x0101_0101 * (index as u32 + 1);
    }
    BlockHeader {
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
        model: ModelNumber(0x6162_6364),
        model_sha256: std::array::from_fn(|i| 0xC0 + i as u8),
        memories: 0x0101,
        unread: 7,
        shape,
        sections,
    }
}

#[test]
fn a_block_header_is_laid_out_as_in_its_tables() {
    let header = header();
    let bytes = header.encode();
    let table: Vec<u8> = header
        .sections
        .iter()
        .flat_map(|section| {
            let fields = [
                ("kind", "2", (section.kind as u16).to_le_bytes().to_vec()),
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
    let position = header.position;
    let shape = &header.shape;
    let fields = [
        ("magic", "8", b"MMTOVEC1".to_vec()),
        ("major", "2", BLOCK_MAJOR.to_le_bytes().to_vec()),
        ("minor", "2", vec![0; 2]),
        ("header_len", "4", (BLOCK_HEADER_LEN as u32).to_le_bytes().to_vec()),
        ("store_id", "16", header.store_id.to_vec()),
        ("generation", "8", header.generation.to_le_bytes().to_vec()),
        ("last_seq", "8", position.last_seq.to_le_bytes().to_vec()),
        ("segment", "8", position.segment.to_le_bytes().to_vec()),
        ("epoch", "8", position.epoch.to_le_bytes().to_vec()),
        ("last_offset", "8", position.last_offset.to_le_bytes().to_vec()),
        ("last_checksum", "4", position.last_checksum.to_le_bytes().to_vec()),
        ("model", "4", header.model.0.to_le_bytes().to_vec()),
        ("model_sha256", "32", header.model_sha256.to_vec()),
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
        ("file_len", "8", shape.file_len().to_le_bytes().to_vec()),
        ("log_generation", "8", header.log_generation.to_le_bytes().to_vec()),
        ("reserved", "88", vec![0; 88]),
        ("section_table", "3836", section_table),
        ("checksum", "4", crc32fast::hash(&bytes[..4092]).to_le_bytes().to_vec()),
    ];
    assert_fields(&BLOCK.rows("Header"), &bytes, &fields);
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
