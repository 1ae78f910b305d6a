//! Text blocks: the words of many memories in one file, mapped and searched where it lies. Spec:
//! `format-spec/text-block.md`.

use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::file::{self, Appender, WRITE_LEN};
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{Origin, Section, file_len};
use crate::format::text_block::{DOCUMENTS_MAX, TextHeader, TextSection, TextShape};
use crate::fs::{Disk, DiskFile, Mapped};
use crate::text::{Columns, Merge, MergeSink, Stored, Sums, TermEntry, TextIndex};

/// Ends the name of a text block's file.
pub(super) const TEXT_SUFFIX: &str = ".mtxt";

/// A text block that can be searched. Its file is not changed by anybody while this lives, only unlinked.
#[derive(Debug)]
pub(crate) struct TextBlock {
    path: PathBuf,
    header: TextHeader,
    mapped: Mapped,
}

impl TextBlock {
    /// Opens a block and verifies its header; [`Stored::verify`] verifies all of it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] and [`ErrorKind::UnknownFormat`] for a file that is no whole block of this version, and
    /// what the disk says.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let (mapped, header) = file::map(disk, path, TextHeader::decode)?;
        Ok(Self { path: path.to_owned(), header, mapped })
    }

    /// What it says of itself.
    pub(crate) fn header(&self) -> &TextHeader {
        &self.header
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.mapped.bytes().len() as u64
    }

    /// What averages of its documents are made of.
    pub(crate) fn sums(&self) -> Sums {
        Sums {
            texts: self.header.shape.documents.into(),
            terms: self.header.terms_total,
            turn_terms: self.header.turn_terms_total,
        }
    }

    fn values<T: FromBytes + Immutable + KnownLayout>(&self, kind: TextSection) -> &[T] {
        file::values(&self.mapped, &self.header.sections[kind as usize - 1])
    }
}

impl Stored for TextBlock {
    fn columns(&self) -> Columns<'_> {
        Columns {
            keys: self.values(TextSection::Keys),
            times: self.values(TextSection::Times),
            positions: self.values(TextSection::Positions),
            lens: self.values(TextSection::Lens),
            importances: self.values(TextSection::Importances),
            links: self.values(TextSection::Links),
            sessions: self.values(TextSection::Sessions),
            starts: self.values(TextSection::Starts),
            turns: self.values(TextSection::Turns),
            entries: self.values(TextSection::Entries),
            term_bytes: self.values(TextSection::Terms),
            postings: self.values(TextSection::Postings),
        }
    }

    fn generation(&self) -> u64 {
        self.header.origin.generation
    }

    fn verify(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        file::verify(&self.path, &self.mapped, &self.header.sections, stop)
    }
}

/// Writes everything that an index has as a block, and puts it in its place.
///
/// # Errors
/// What the disk says; [`ErrorKind::TooLarge`] for more than a block can have.
pub(crate) fn write_text_block(
    disk: &dyn Disk,
    path: &Path,
    index: &TextIndex,
    origin: &Origin,
) -> Result<()> {
    let merge = index.merge();
    // The dictionary is read twice: its entries and its bytes stand before the postings, and their lengths must be known.
    let mut counted = Counted::default();
    merge.terms(index, &mut counted)?;
    let count = |len: usize| u32::try_from(len).expect("no more than documents, whose number is limited");
    if merge.keys.len() > DOCUMENTS_MAX || counted.term_len > u32::MAX.into() {
        return Err(Error::new(ErrorKind::TooLarge, "more words than a text block can have"));
    }
    let shape = TextShape {
        documents: count(merge.keys.len()),
        turns: count(merge.turns.len()),
        sessions: count(merge.sessions.len()),
        terms: counted.terms,
        term_len: counted.term_len,
        postings_len: counted.postings_len,
    };
    file::publish(disk, path, |file| write(file, index, &merge, shape, origin))
}

fn write(
    file: &dyn DiskFile,
    index: &TextIndex,
    merge: &Merge,
    shape: TextShape,
    origin: &Origin,
) -> Result<()> {
    let mut sections = shape.sections();
    for section in &mut sections {
        let bytes = match section.kind {
            TextSection::Keys => merge.keys.as_bytes(),
            TextSection::Times => merge.times.as_bytes(),
            TextSection::Positions => merge.positions.as_bytes(),
            TextSection::Lens => merge.lens.as_bytes(),
            TextSection::Importances => merge.importances.as_bytes(),
            TextSection::Links => merge.links.as_bytes(),
            TextSection::Sessions => merge.sessions.as_bytes(),
            TextSection::Starts => merge.starts.as_bytes(),
            TextSection::Turns => merge.turns.as_bytes(),
            TextSection::Entries | TextSection::Terms | TextSection::Postings => continue,
        };
        assert_eq!(bytes.len() as u64, section.len, "{:?}", section.kind);
        section.checksum = crc32fast::hash(bytes);
        for (part, offset) in bytes.chunks(WRITE_LEN).zip((section.offset..).step_by(WRITE_LEN)) {
            file.write_at(part, offset)?;
        }
    }
    let at = |kind: TextSection| Appender::new(file, sections[kind as usize - 1].offset);
    let mut dictionary = Dictionary {
        entries: at(TextSection::Entries),
        terms: at(TextSection::Terms),
        postings: at(TextSection::Postings),
    };
    merge.terms(index, &mut dictionary)?;
    let Dictionary { entries, terms, postings } = dictionary;
    let kinds = [TextSection::Entries, TextSection::Terms, TextSection::Postings];
    for (kind, appender) in kinds.into_iter().zip([entries, terms, postings]) {
        let section: &mut Section<TextSection> = &mut sections[kind as usize - 1];
        let (end, checksum) = appender.finish()?;
        assert_eq!(end, section.offset + section.len, "{kind:?}");
        section.checksum = checksum;
    }
    // What is between the sections, and behind the last one, reads as zeros.
    file.set_len(file_len(&sections))?;
    let header = TextHeader {
        origin: *origin,
        shape,
        terms_total: merge.sums.terms,
        turn_terms_total: merge.sums.turn_terms,
        sections,
    };
    file.write_at(&header.encode(), 0)
}

/// Says how long a dictionary will be.
#[derive(Default)]
struct Counted {
    terms: u32,
    term_len: u64,
    postings_len: u64,
}

impl MergeSink for Counted {
    type Error = Error;

    fn term(&mut self, _: TermEntry, text: &[u8], postings: &[&[u8]]) -> Result<()> {
        // The last call only says where the last term ends.
        self.terms += u32::from(!text.is_empty());
        self.term_len += text.len() as u64;
        self.postings_len += postings.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }
}

/// Writes a dictionary to its three sections.
struct Dictionary<'a> {
    entries: Appender<&'a dyn DiskFile>,
    terms: Appender<&'a dyn DiskFile>,
    postings: Appender<&'a dyn DiskFile>,
}

impl MergeSink for Dictionary<'_> {
    type Error = Error;

    fn term(&mut self, entry: TermEntry, text: &[u8], postings: &[&[u8]]) -> Result<()> {
        self.entries.append(entry.as_bytes())?;
        self.terms.append(text)?;
        postings.iter().try_for_each(|part| self.postings.append(part))
    }
}
