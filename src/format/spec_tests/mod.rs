//! The tables of `format-spec/` against the code: every offset, length, number, field and limit, in both directions.
//!
//! The structs of ops are written down here once more, as another implementation of the codec reads them. So a
//! field that is added, removed, moved or retyped shows in the page, in these structs or in the bytes.

mod block;
mod codec;
mod golden;
mod layout;
mod ops;
mod structs;

use super::codec::DECODE_LEN_MAX;
use super::manifest::{MANIFEST_HEADER_LEN, MANIFEST_LEN_MAX};
use super::op::{OP_VERSION, PAYLOAD_PREFIX_LEN, VECTOR_PREFIX_LEN, WINDOWS_MAX};
use super::record::{PAYLOAD_LEN_MAX, RECORD_ALIGN, RECORD_HEADER_LEN};
use super::segment::{FEATURE_REWRITTEN, FORMAT_MAJOR, FORMAT_MINOR};
use crate::memory::{
    DIMENSIONS_MAX, ID_LEN_MAX, LABEL_LEN_MAX, METADATA_DEPTH_MAX, METADATA_LEN_MAX, TAG_LEN_MAX, TAGS_MAX,
    TEXT_LEN_MAX,
};

/// A page of the specification.
#[derive(Clone, Copy)]
pub(crate) struct Page(pub(crate) &'static str);

const README: Page = Page(include_str!("../../../format-spec/README.md"));
const SEGMENT: Page = Page(include_str!("../../../format-spec/segment.md"));
const RECORD: Page = Page(include_str!("../../../format-spec/record.md"));
const OP: Page = Page(include_str!("../../../format-spec/op.md"));
const CODEC: Page = Page(include_str!("../../../format-spec/codec.md"));
const BLOCK: Page = Page(include_str!("../../../format-spec/block.md"));
const TEXT_BLOCK: Page = Page(include_str!("../../../format-spec/text-block.md"));
const MANIFEST: Page = Page(include_str!("../../../format-spec/manifest.md"));

/// The rows of a table, the one with the names of the columns first.
pub(crate) type Table = Vec<Vec<&'static str>>;

impl Page {
    pub(crate) fn text(self) -> &'static str {
        self.0
    }

    /// The tables under a heading, without their rules; `""` is what stands before the second heading.
    pub(crate) fn tables(self, heading: &str) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let (mut here, mut in_table) = (String::new(), false);
        for line in self.text().lines() {
            if let Some(name) = line.strip_prefix("## ") {
                here = name.to_owned();
            }
            let is_row = line.starts_with('|') && here == heading;
            if is_row && !in_table {
                tables.push(Vec::new());
            }
            in_table = is_row;
            if is_row && !line.starts_with("|--") {
                let cells = line.trim_matches('|').split('|').map(str::trim).collect();
                tables.last_mut().expect("pushed above").push(cells);
            }
        }
        tables
    }

    /// The only table under a heading, without its first row.
    pub(crate) fn rows(self, heading: &str) -> Table {
        let mut tables = self.tables(heading);
        assert_eq!(tables.len(), 1, "tables under {heading:?}");
        tables.remove(0).split_off(1)
    }

    /// The tables of constants of the whole page, in the form of `expected`.
    pub(crate) fn constants(self) -> Vec<(String, u64)> {
        let headings = self.text().lines().filter_map(|line| line.strip_prefix("## "));
        std::iter::once("")
            .chain(headings)
            .flat_map(|heading| self.tables(heading))
            .filter(|table| table[0][0] == "constant")
            .flat_map(|table| table.into_iter().skip(1))
            .map(|row| (plain(row[0]).to_owned(), row[1].parse().expect("a number")))
            .collect()
    }

    /// The bytes of the indented block under a heading.
    fn example(self, heading: &str) -> Vec<u8> {
        let section =
            self.text().split("\n## ").find(|section| section.starts_with(heading)).expect("a section");
        let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
        from_hex(&lines.collect::<String>())
    }
}

pub(crate) fn constants(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

fn plain(cell: &str) -> &str {
    cell.trim_matches('`')
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex")).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits")).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One field: its name, its length as the page has it, and the bytes that stand there.
type Field<'a> = (&'a str, &'a str, Vec<u8>);

/// The table lists exactly these fields, without a gap, and where it gives a fixed value, it is the one in the bytes.
fn assert_fields(table: &Table, bytes: &[u8], fields: &[Field<'_>]) {
    let names: Vec<_> = table.iter().map(|row| row[2]).collect();
    assert_eq!(names, fields.iter().map(|field| field.0).collect::<Vec<_>>());
    let mut next = 0;
    for (row, (name, len, expected)) in table.iter().zip(fields) {
        assert_eq!(row[0], next.to_string(), "offset of {name}");
        assert_eq!(row[1], *len, "length of {name}");
        assert!(len.parse().map_or(true, |len: usize| len == expected.len()), "{name}");
        assert_eq!(bytes[next..next + expected.len()], *expected, "bytes of {name}");
        if let Some(fixed) = fixed_value(row) {
            assert_eq!(*expected, fixed, "value of {name}");
        }
        next += expected.len();
    }
    assert_eq!(next, bytes.len(), "every byte is in the table");
}

/// The bytes of a field that has one value only.
fn fixed_value(row: &[&str]) -> Option<Vec<u8>> {
    if let Some(text) = row[3].strip_prefix('`').and_then(|text| text.strip_suffix('`')) {
        return Some(text.as_bytes().to_vec());
    }
    let number: u64 = row[3].parse().ok()?;
    Some(number.to_le_bytes()[..row[1].parse().expect("a fixed field has a length")].to_vec())
}

#[test]
fn versions_and_the_checksum_are_those_of_the_code() {
    let versions = README.rows("Versions");
    let versions: Vec<_> = versions.iter().map(|row| (plain(row[1]), row[2].to_owned())).collect();
    let expected = [
        ("FORMAT_MAJOR", FORMAT_MAJOR.to_string()),
        ("FORMAT_MINOR", FORMAT_MINOR.to_string()),
        ("FEATURE_REWRITTEN", FEATURE_REWRITTEN.to_string()),
        ("OP_VERSION", OP_VERSION.to_string()),
        ("BLOCK_MAJOR", super::frame::BLOCK_MAJOR.to_string()),
    ];
    assert_eq!(versions, expected);
    assert!(README.text().contains(&format!("is 0x{:08X}.", crc32fast::hash(b"123456789"))));
}

#[test]
fn constants_are_those_of_the_code() {
    let record = [
        ("RECORD_HEADER_LEN", RECORD_HEADER_LEN as u64),
        ("RECORD_ALIGN", RECORD_ALIGN as u64),
        ("PAYLOAD_LEN_MAX", PAYLOAD_LEN_MAX as u64),
        ("GROUP_LEN_MAX", crate::log::GROUP_LEN_MAX as u64),
    ];
    assert_eq!(RECORD.constants(), constants(&record));
    let op = [
        ("OP_VERSION", u64::from(OP_VERSION)),
        ("PAYLOAD_PREFIX_LEN", PAYLOAD_PREFIX_LEN as u64),
        ("VECTOR_PREFIX_LEN", VECTOR_PREFIX_LEN as u64),
        ("WINDOWS_MAX", WINDOWS_MAX as u64),
        ("DIMENSIONS_MAX", DIMENSIONS_MAX as u64),
        ("ID_LEN_MAX", ID_LEN_MAX as u64),
        ("TEXT_LEN_MAX", TEXT_LEN_MAX as u64),
        ("LABEL_LEN_MAX", LABEL_LEN_MAX as u64),
        ("TAGS_MAX", TAGS_MAX as u64),
        ("TAG_LEN_MAX", TAG_LEN_MAX as u64),
        ("METADATA_LEN_MAX", METADATA_LEN_MAX as u64),
        ("METADATA_DEPTH_MAX", METADATA_DEPTH_MAX as u64),
    ];
    assert_eq!(OP.constants(), constants(&op));
    assert_eq!(CODEC.constants(), constants(&[("DECODE_LEN_MAX", DECODE_LEN_MAX as u64)]));
    let manifest =
        [("MANIFEST_HEADER_LEN", MANIFEST_HEADER_LEN as u64), ("MANIFEST_LEN_MAX", MANIFEST_LEN_MAX as u64)];
    assert_eq!(MANIFEST.constants(), constants(&manifest));
}
