//! The part of a text index that lies in a file: columns of what it knows of each memory, and a dictionary with
//! postings. Spec: `format-spec/text-block.md`.
//!
//! Everything is read where it lies, and any bytes are safe to read: a number that leads nowhere leads to nothing, so
//! that damage can only cost the order of an answer until it is found.

use std::cmp::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::NONE;
use super::document::{LEN_MASK, Order, TIME_FLAG, TURN_FLAG};
use crate::error::Result;
use crate::format::op::MemoryKey;

/// Where a term and its postings stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TermEntry {
    /// Its postings begin here and end where those of the next term begin.
    pub(crate) postings: u64,
    /// Its bytes begin here and end where those of the next term begin.
    pub(crate) text: u32,
    /// Documents that hold it.
    pub(crate) holders: u32,
    /// The last of them.
    pub(crate) last: u32,
    /// Zero.
    pub(crate) reserved: u32,
}

/// A text index in columns. Documents are numbered in the order of their keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns<'a> {
    /// The key of each document, ascending.
    pub(crate) keys: &'a [u64],
    /// Unix seconds.
    pub(crate) times: &'a [i64],
    /// Places in a conversation; `i64::MAX` for none.
    pub(crate) positions: &'a [i64],
    /// Terms of each document, below the flags that say whether it names a time and is a turn of a conversation.
    pub(crate) lens: &'a [u32],
    pub(crate) importances: &'a [f32],
    /// The documents before and after each one in its conversation.
    pub(crate) links: &'a [[u32; 2]],
    /// Conversations, ascending.
    pub(crate) sessions: &'a [u64],
    /// Where the turns of each conversation begin, and where the last one ends.
    pub(crate) starts: &'a [u32],
    /// Documents of all conversations, one after the other, in the order of what was said.
    pub(crate) turns: &'a [u32],
    /// Terms, ascending by their bytes, and one more that says where the last one ends.
    pub(crate) entries: &'a [TermEntry],
    pub(crate) term_bytes: &'a [u8],
    pub(crate) postings: &'a [u8],
}

/// What columns can be borrowed from.
pub(crate) trait Stored: Send + Sync + std::fmt::Debug {
    fn columns(&self) -> Columns<'_>;

    /// Counts up with every file.
    fn generation(&self) -> u64;

    /// Reads every byte, unless it is told to stop.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when something is not as it was written.
    fn verify(&self, stop: &dyn Fn() -> bool) -> Result<()>;
}

impl<'a> Columns<'a> {
    /// How many documents there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The document of a memory.
    pub(crate) fn doc_of(&self, key: MemoryKey) -> Option<u32> {
        self.keys.binary_search(&key.0).ok().map(|doc| doc as u32)
    }

    /// How many terms a document has.
    pub(crate) fn terms_of(&self, doc: u32) -> u32 {
        self.lens.get(doc as usize).map_or(0, |len| len & LEN_MASK)
    }

    /// Whether a document names a time.
    pub(crate) fn names_time(&self, doc: u32) -> bool {
        self.has_flag(doc, TIME_FLAG)
    }

    /// Whether a document is a turn of a conversation.
    pub(crate) fn is_turn(&self, doc: u32) -> bool {
        self.has_flag(doc, TURN_FLAG)
    }

    fn has_flag(&self, doc: u32, flag: u32) -> bool {
        self.lens.get(doc as usize).is_some_and(|len| len & flag != 0)
    }

    /// The documents before and after one in its conversation.
    pub(crate) fn links_of(&self, doc: u32) -> [u32; 2] {
        let inside = |link: u32| if (link as usize) < self.len() { link } else { NONE };
        self.links.get(doc as usize).map_or([NONE; 2], |links| links.map(inside))
    }

    /// Where a document stands among those of its conversation.
    pub(crate) fn order_of(&self, doc: u32) -> Order {
        let at = doc as usize;
        Order {
            position: self.positions.get(at).copied().unwrap_or(i64::MAX),
            time: self.times.get(at).copied().unwrap_or(0),
            key: self.keys.get(at).copied().unwrap_or(0),
        }
    }

    /// The documents of a conversation, in the order of what was said.
    pub(crate) fn turns_of(&self, session: u64) -> &'a [u32] {
        self.sessions.binary_search(&session).map_or(&[], |at| self.turns_at(at))
    }

    /// The documents of the conversation with this number.
    pub(crate) fn turns_at(&self, at: usize) -> &'a [u32] {
        let bound = |at: usize| self.starts.get(at).map(|start| *start as usize);
        let range = bound(at).zip(bound(at + 1));
        range.and_then(|(start, end)| self.turns.get(start..end)).unwrap_or(&[])
    }

    /// How many terms there are.
    pub(crate) fn term_count(&self) -> usize {
        self.entries.len().saturating_sub(1)
    }

    /// The bytes of the term with this number.
    pub(crate) fn term_at(&self, at: usize) -> &'a [u8] {
        let bound = |at: usize| self.entries.get(at).map(|entry| entry.text as usize);
        let range = bound(at).zip(bound(at + 1));
        range.and_then(|(start, end)| self.term_bytes.get(start..end)).unwrap_or(&[])
    }

    /// The postings of the term with this number, as bytes.
    pub(crate) fn postings_at(&self, at: usize) -> &'a [u8] {
        let bound = |at: usize| self.entries.get(at).and_then(|entry| usize::try_from(entry.postings).ok());
        let range = bound(at).zip(bound(at + 1));
        range.and_then(|(start, end)| self.postings.get(start..end)).unwrap_or(&[])
    }

    /// The number of a term.
    pub(crate) fn find(&self, term: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.term_count());
        while low < high {
            let middle = low.midpoint(high);
            match self.term_at(middle).cmp(term.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// The postings of the term with this number: documents that are there, ascending, with how often they hold it.
    pub(crate) fn each_posting(&self, at: usize) -> Postings<'a> {
        Postings { bytes: self.postings_at(at), next: 0, docs: self.len() as u64 }
    }
}

/// Reads postings: for each document the distance to the one before it, doubled, plus 1 when it holds the term more
/// than once; then how often. Numbers are LEB128.
#[derive(Clone, Debug)]
pub(crate) struct Postings<'a> {
    bytes: &'a [u8],
    /// The lowest document that the next one can be.
    next: u64,
    docs: u64,
}

impl Iterator for Postings<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        let head = read_number(&mut self.bytes)?;
        let doc = self.next + (head >> 1);
        let count = if head & 1 == 1 { read_number(&mut self.bytes)? } else { 1 };
        if doc >= self.docs {
            self.bytes = &[];
            return None;
        }
        self.next = doc + 1;
        Some((doc as u32, u32::try_from(count).unwrap_or(u32::MAX)))
    }
}

/// Appends one posting behind those of documents below `next`.
pub(crate) fn push_posting(bytes: &mut Vec<u8>, next: u32, doc: u32, count: u32) {
    let distance = u64::from(doc - next) << 1;
    if count == 1 {
        push_number(bytes, distance);
    } else {
        push_number(bytes, distance | 1);
        push_number(bytes, count.into());
    }
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    // Five bytes hold what a document and a count can be.
    for (at, byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(number);
        }
    }
    *bytes = &[];
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn columns<'a>(entries: &'a [TermEntry], postings: &'a [u8], keys: &'a [u64]) -> Columns<'a> {
        Columns { keys, entries, postings, ..Columns::default() }
    }

    proptest! {
        #[test]
        fn postings_read_back(list in prop::collection::btree_map(0..5000u32, 1..400u32, 0..60)) {
            let mut bytes = Vec::new();
            let mut next = 0;
            for (doc, count) in &list {
                push_posting(&mut bytes, next, *doc, *count);
                next = doc + 1;
            }
            let end = TermEntry { postings: bytes.len() as u64, ..TermEntry::default() };
            let entries = [TermEntry::default(), end];
            let keys = vec![0; 5000];
            let found: Vec<_> = columns(&entries, &bytes, &keys).each_posting(0).collect();
            prop_assert_eq!(found, list.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_postings_of_documents_that_are_there(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let end = TermEntry { postings: bytes.len() as u64, ..TermEntry::default() };
            let entries = [TermEntry::default(), end];
            let keys = [0; 100];
            let mut least = 0;
            for (doc, _) in columns(&entries, &bytes, &keys).each_posting(0) {
                prop_assert!(doc >= least && doc < 100);
                least = doc + 1;
            }
        }
    }

    #[test]
    fn numbers_that_lead_nowhere_lead_to_nothing() {
        let wild = TermEntry { postings: u64::MAX, text: u32::MAX, ..TermEntry::default() };
        let columns = Columns {
            keys: &[5, 7],
            links: &[[9, 1], [0, u32::MAX]],
            sessions: &[3],
            starts: &[4],
            turns: &[0],
            entries: &[wild, wild, TermEntry::default()],
            ..Columns::default()
        };
        assert_eq!(columns.find("a"), None);
        assert_eq!(columns.each_posting(1).next(), None);
        assert_eq!(columns.links_of(0), [NONE, 1]);
        assert_eq!(columns.links_of(9), [NONE, NONE]);
        assert!(columns.turns_of(3).is_empty());
        assert_eq!(columns.terms_of(1), 0);
        assert_eq!(columns.doc_of(MemoryKey(7)), Some(1));
    }
}
