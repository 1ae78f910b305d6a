//! redb's trees as they lie in the file, read from its front to its back instead of entry by entry.
//!
//! A check has to see every entry once, in whatever order. redb gives entries in the order of keys, from pages all over
//! the file; reading the leaves in the order of the file takes a third of the time, and far less than that on a disk
//! whose content is not in memory. The layout is the one that redb documents for its file format 3; a file of another
//! format is an error here, not a guess.

use std::io;

use super::pages::{PageDamage, Pages};
use crate::format::Damage;
use crate::format::pages::{PAGE_LEN, STATE_LEN, STATE_SECTOR_OFFSET, page_offset};
use crate::format::row::{LOCATION_LEN, NUMBER_LEN, TableTag};

const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// The file format of redb that is known here.
const FORMAT: u64 = 3;
/// The bit of the header's flags that names the slot of the last commit.
const SLOT_FLAG: u8 = 1;
const SLOT_OFFSET: usize = 64;
const SLOT_LEN: usize = 128;
/// First byte of a page with entries, and of one that names other pages.
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// First byte of the definition of a table.
const TABLE: u8 = 3;
/// No page is made of more pages than 2 to this power: no row is longer than a record.
const ORDER_MAX: u64 = 13;
/// No tree of redb is deeper.
const DEPTH_MAX: usize = 64;
/// Pages that are read in one go: few calls, and the processor's cache still has them when they are looked at.
const WINDOW_PAGES: u64 = 32;
/// So many pages between two leaves are rather read than stepped over.
const GAP_PAGES: u64 = 8;

/// Why a tree cannot be read.
#[derive(Debug)]
pub(super) enum TreeFault {
    /// Offset of the page in the file, and what is wrong with it.
    Damage(u64, Damage),
    Io(io::Error),
}

impl From<io::Error> for TreeFault {
    fn from(error: io::Error) -> Self {
        match error.downcast::<PageDamage>() {
            Ok(page) => Self::Damage(page.offset, page.damage),
            Err(error) => Self::Io(error),
        }
    }
}

/// A leaf of a table: its first page, and how many it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leaf {
    first: u64,
    pages: u64,
    table: TableTag,
}

impl Leaf {
    /// How many pages it is made of.
    pub(super) fn pages(self) -> u64 {
        self.pages
    }
}

/// The tree of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) table: TableTag,
    /// How many entries its definition counts.
    pub(super) entries: u64,
    /// redb's name of its first page; `None` when it is empty.
    root: Option<u64>,
}

/// The trees of one commit in a file that is not changed meanwhile.
#[derive(Debug)]
pub(super) struct Trees {
    pages: Pages,
    places: Places,
}

/// Where redb's pages are, by their names.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// Pages of a region before those with data, and all of them.
    before_data: u64,
    of_region: u64,
    /// Pages of the whole file.
    total: u64,
}

impl Places {
    /// The first page of those that a name stands for, and how many there are.
    fn find(&self, name: u64) -> Option<(u64, u64)> {
        let order = name >> 59;
        if order > ORDER_MAX {
            return None;
        }
        let (region, index, pages) = (name >> 20 & 0xF_FFFF, name & 0xF_FFFF >> order, 1 << order);
        // Page 0 is the header. Nothing overflows: these are numbers of 32 and of 20 bits.
        let first = 1 + region * self.of_region + self.before_data + index * pages;
        (first + pages <= self.total).then_some((first, pages))
    }
}

impl Trees {
    /// The trees of the commit that this header of redb names, each with its table.
    pub(super) fn open(pages: Pages, state: &[u8; STATE_LEN]) -> Result<(Self, Vec<Tree>), TreeFault> {
        let damaged = |damage| TreeFault::Damage(STATE_SECTOR_OFFSET, damage);
        let slot = &state[SLOT_OFFSET + SLOT_LEN * usize::from(state[MAGIC.len()] & SLOT_FLAG)..][..SLOT_LEN];
        if state[..MAGIC.len()] != MAGIC {
            return Err(damaged(Damage::Magic));
        }
        let (page_len, before_data, with_data) = (u32_at(state, 12), u32_at(state, 16), u32_at(state, 20));
        for (name, found, expected) in [
            ("redb page length", page_len, Some(PAGE_LEN)),
            ("redb file format", Some(slot[0].into()), Some(FORMAT)),
        ] {
            if found != expected {
                return Err(damaged(Damage::Field { name, found: found.unwrap_or_default() }));
            }
        }
        let before_data = before_data.unwrap_or_default();
        let places = Places {
            before_data,
            of_region: before_data + with_data.unwrap_or_default(),
            total: redb::StorageBackend::len(&pages)? / PAGE_LEN,
        };
        let trees = Self { pages, places };
        let root = (slot[1] != 0).then(|| u64_at(slot, 8)).flatten();
        let tables = trees.tables(root)?;
        Ok((trees, tables))
    }

    /// The table of tables.
    fn tables(&self, root: Option<u64>) -> Result<Vec<Tree>, TreeFault> {
        // The table is not one of the view's; what counts here is that its keys and values are of any length.
        let names = Tree { table: TableTag::State, entries: 0, root };
        let mut tables = Vec::new();
        for leaf in self.leaves(&[names])? {
            let mut bytes = vec![0; (leaf.pages * PAGE_LEN) as usize];
            self.pages.read_pages(leaf.first, &mut bytes)?;
            let mut is_known = true;
            let entries = each_entry(&bytes, TableTag::State, |name, definition| {
                if let Some(table) = TableTag::ALL.into_iter().find(|tag| tag.name().as_bytes() == name) {
                    match tree_of(table, definition) {
                        Some(tree) => tables.push(tree),
                        None => is_known = false,
                    }
                }
            });
            if entries.is_none() || !is_known {
                return Err(TreeFault::Damage(page_offset(leaf.first), unreadable(&bytes)));
            }
        }
        Ok(tables)
    }

    /// The leaves of these trees, in the order of the file.
    pub(super) fn leaves(&self, trees: &[Tree]) -> Result<Vec<Leaf>, TreeFault> {
        let mut leaves = Vec::new();
        for tree in trees {
            let Some(root) = tree.root else { continue };
            let mut level = vec![root];
            let mut depth = 0;
            // All leaves of a tree are equally deep: the first page of a level tells what all of it are.
            while self.kind(level[0])? == BRANCH {
                depth += 1;
                let mut next = Vec::new();
                for name in level {
                    self.children(name, &mut next)?;
                }
                // More pages than there are, or a way without an end: somebody wrote that on purpose.
                if depth > DEPTH_MAX || next.len() as u64 > self.places.total {
                    return Err(TreeFault::Damage(
                        0,
                        Damage::Field { name: "depth of a tree", found: depth as u64 },
                    ));
                }
                level = next;
            }
            for name in level {
                let (first, pages) = self.place(name)?;
                leaves.push(Leaf { first, pages, table: tree.table });
            }
        }
        leaves.sort_unstable();
        Ok(leaves)
    }

    fn place(&self, name: u64) -> Result<(u64, u64), TreeFault> {
        let damage = Damage::Field { name: "redb page", found: name };
        self.places.find(name).ok_or(TreeFault::Damage(0, damage))
    }

    fn read(&self, name: u64) -> Result<(u64, Vec<u8>), TreeFault> {
        let (first, pages) = self.place(name)?;
        let mut bytes = vec![0; (pages * PAGE_LEN) as usize];
        self.pages.read_pages(first, &mut bytes)?;
        Ok((first, bytes))
    }

    fn kind(&self, name: u64) -> Result<u8, TreeFault> {
        Ok(self.read(name)?.1[0])
    }

    fn children(&self, name: u64, children: &mut Vec<u64>) -> Result<(), TreeFault> {
        let (first, bytes) = self.read(name)?;
        let names = || {
            let count = (bytes[0] == BRANCH).then(|| usize::from(u16_at(&bytes, 2)) + 1)?;
            // Each child has a checksum of 16 bytes before the names.
            bytes.get(8 + 16 * count..8 + 24 * count)
        };
        let names = names().ok_or_else(|| TreeFault::Damage(page_offset(first), unreadable(&bytes)))?;
        let (names, _) = names.as_chunks::<8>();
        children.extend(names.iter().map(|name| u64::from_le_bytes(*name)));
        Ok(())
    }

    /// Calls with every entry of these leaves, which are in the order of the file; gives what is wrong, with offsets.
    pub(super) fn each_of(
        &self,
        leaves: &[Leaf],
        mut visit: impl FnMut(TableTag, &[u8], &[u8]),
    ) -> io::Result<Vec<(u64, Damage)>> {
        let (mut rest, mut bytes, mut damages) = (leaves, Vec::new(), Vec::new());
        while let Some(start) = rest.first().map(|leaf| leaf.first) {
            let mut end = start;
            let count = rest.iter().take_while(|leaf| {
                let leaf_end = leaf.first + leaf.pages;
                let is_in =
                    end == start || (leaf.first <= end + GAP_PAGES && leaf_end - start <= WINDOW_PAGES);
                if is_in {
                    end = end.max(leaf_end);
                }
                is_in
            });
            let (window, behind) = rest.split_at(count.count());
            rest = behind;
            bytes.resize(((end - start) * PAGE_LEN) as usize, 0);
            self.pages.read_unchecked(start, &mut bytes)?;
            for leaf in window {
                let at = ((leaf.first - start) * PAGE_LEN) as usize;
                let bytes = &bytes[at..at + (leaf.pages * PAGE_LEN) as usize];
                match self.pages.check(leaf.first, bytes).map_err(TreeFault::from) {
                    Ok(()) => {
                        if each_entry(bytes, leaf.table, |key, value| visit(leaf.table, key, value)).is_none()
                        {
                            damages.push((page_offset(leaf.first), unreadable(bytes)));
                        }
                    }
                    Err(TreeFault::Damage(offset, damage)) => damages.push((offset, damage)),
                    Err(TreeFault::Io(error)) => return Err(error),
                }
            }
        }
        Ok(damages)
    }
}

/// A page that is whole, but not what it should be.
fn unreadable(bytes: &[u8]) -> Damage {
    Damage::Field { name: "kind of the page", found: u64::from(bytes[0]) }
}

/// The tree that the definition of a table names.
fn tree_of(table: TableTag, definition: &[u8]) -> Option<Tree> {
    if *definition.first()? != TABLE {
        return None;
    }
    let root = u64_at(definition, 10)?;
    // Behind the root are its checksum and its length; then what is fixed: whether, and how many bytes.
    let fixed = |at: usize| {
        let len = u32_at(definition, at + 1)? as usize;
        Some((*definition.get(at)? != 0).then_some(len))
    };
    let is_as_expected = (fixed(42)?, fixed(47)?) == lens(table);
    is_as_expected.then_some(Tree {
        table,
        entries: u64_at(definition, 1)?,
        root: (*definition.get(9)? != 0).then_some(root),
    })
}

/// Bytes of a table's keys and values, where they have all the same number.
fn lens(table: TableTag) -> (Option<usize>, Option<usize>) {
    match table {
        TableTag::State => (None, None),
        TableTag::Memory => (Some(8), None),
        TableTag::Id => (None, Some(NUMBER_LEN)),
        TableTag::Label => (Some(16), Some(0)),
        TableTag::Time => (Some(16), Some(NUMBER_LEN)),
        TableTag::Vector => (Some(16), Some(LOCATION_LEN)),
    }
}

/// Calls with every entry of a leaf; `None` when it is no leaf of such entries.
fn each_entry(leaf: &[u8], table: TableTag, mut visit: impl FnMut(&[u8], &[u8])) -> Option<()> {
    if leaf[0] != LEAF {
        return None;
    }
    let (key_len, value_len) = lens(table);
    let count = usize::from(u16_at(leaf, 2));
    // The ends of keys, then those of values, where they differ; then all keys, then all values.
    let value_ends = 4 + if key_len.is_none() { 4 * count } else { 0 };
    let keys = value_ends + if value_len.is_none() { 4 * count } else { 0 };
    let end = |fixed: Option<usize>, ends: usize, start: usize, at: usize| match fixed {
        Some(len) => Some(start + len * (at + 1)),
        None => u32_at(leaf, ends + 4 * at).map(|end| end as usize),
    };
    let values = if count == 0 { keys } else { end(key_len, 4, keys, count - 1)? };
    let (mut key_start, mut value_start) = (keys, values);
    for at in 0..count {
        let (key_end, value_end) = (end(key_len, 4, keys, at)?, end(value_len, value_ends, values, at)?);
        visit(leaf.get(key_start..key_end)?, leaf.get(value_start..value_end)?);
        (key_start, value_start) = (key_end, value_end);
    }
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes).into())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
