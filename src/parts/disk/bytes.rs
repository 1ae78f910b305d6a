//! The bytes of a file in pages that copies share, so that a copy of a disk costs next to nothing.

use std::sync::{Arc, LazyLock};

const PAGE_LEN: usize = 4096;

type Page = Arc<[u8; PAGE_LEN]>;

/// The page of zeros that all files share.
static ZEROS: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE_LEN]));

/// What a file holds. Bytes of the last page behind the end are zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    pages: Vec<Page>,
    len: usize,
}

impl Bytes {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cuts or extends with zeros.
    pub(super) fn set_len(&mut self, len: usize) {
        self.pages.resize_with(len.div_ceil(PAGE_LEN), || Arc::clone(&ZEROS));
        let in_last = len % PAGE_LEN;
        if len < self.len && in_last > 0 {
            self.fill(len, PAGE_LEN - in_last, |last| last.fill(0));
        }
        self.len = len;
    }

    /// Copies bytes from this place on; fewer at the end.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> usize {
        let len = out.len().min(self.len.saturating_sub(offset));
        for (page, within, part) in parts(offset, len) {
            out[part.clone()].copy_from_slice(&self.pages[page][within..within + part.len()]);
        }
        len
    }

    pub(super) fn write(&mut self, offset: usize, new: &[u8]) {
        if new.is_empty() {
            return;
        }
        if self.len < offset + new.len() {
            self.set_len(offset + new.len());
        }
        for (page, within, part) in parts(offset, new.len()) {
            let (page, new) = (&mut self.pages[page], &new[part]);
            if new.iter().all(|byte| *byte == 0) && (Arc::ptr_eq(page, &ZEROS) || new.len() == PAGE_LEN) {
                *page = Arc::clone(&ZEROS);
            } else if let Ok(whole) = <&[u8; PAGE_LEN]>::try_from(new) {
                *page = Arc::new(*whole);
            } else {
                Arc::make_mut(page)[within..within + new.len()].copy_from_slice(new);
            }
        }
    }

    /// Changes some bytes that are there.
    pub(super) fn fill(&mut self, offset: usize, len: usize, change: impl Fn(&mut [u8])) {
        for (page, within, part) in parts(offset, len) {
            change(&mut Arc::make_mut(&mut self.pages[page])[within..within + part.len()]);
        }
    }

    /// A number that other bytes hardly have.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut sum = self.len as u64;
        let mut add = |word: u64| sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for page in &self.pages {
            if Arc::ptr_eq(page, &ZEROS) || **page == [0; PAGE_LEN] {
                add(1);
            } else {
                let (words, _) = page.as_chunks();
                words.iter().for_each(|word| add(u64::from_le_bytes(*word)));
            }
        }
        sum
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Page, &Page)| Arc::ptr_eq(one, other) || one == other;
        self.len == other.len && self.pages.iter().zip(&other.pages).all(is_same)
    }
}

/// The page, the place within it and the part of the caller's bytes, for each page that these bytes lie on.
fn parts(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (page, within) = ((offset + at) / PAGE_LEN, (offset + at) % PAGE_LEN);
        let part = at..len.min(at + PAGE_LEN - within);
        at = part.end;
        (!part.is_empty()).then_some((page, within, part))
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::chance::Chance;
    use super::*;

    #[test]
    fn pages_hold_what_a_plain_list_of_bytes_holds() {
        let mut chance = Chance(1);
        let (mut pages, mut plain) = (Bytes::default(), Vec::new());
        for _ in 0..2000 {
            let offset = chance.index(5 * PAGE_LEN);
            if chance.below(4) == 0 {
                pages.set_len(offset);
                plain.resize(offset, 0);
            } else {
                let byte = chance.below(3) as u8;
                let new = vec![byte; chance.index(3 * PAGE_LEN)];
                let copy = pages.clone();
                pages.write(offset, &new);
                if !new.is_empty() {
                    plain.resize(plain.len().max(offset + new.len()), 0);
                    plain[offset..offset + new.len()].copy_from_slice(&new);
                }
                assert!(copy.len() <= pages.len());
            }
            let mut found = vec![9; plain.len() + 10];
            assert_eq!(pages.read(0, &mut found), plain.len());
            assert!(found[..plain.len()] == plain);
            let mut anew = Bytes::default();
            anew.write(0, &plain);
            anew.set_len(plain.len());
            assert!(anew == pages && anew.fingerprint() == pages.fingerprint());
        }
    }
}
