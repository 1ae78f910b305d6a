//! The pages of the view's file: where redb's bytes lie in it, and the checksum of each page. Spec:
//! `format-spec/view.md`.
//!
//! redb does not look at its checksums when it reads, so a damaged page can hide entries, send a search astray or
//! make it panic. The view therefore keeps redb's pages in groups, each with a page of checksums before it.

use super::Damage;

/// Magic of the view's file.
pub(crate) const VIEW_MAGIC: [u8; 8] = *b"MMTOVIEW";
/// Version of this layout.
pub(crate) const PAGES_VERSION: u16 = 1;
/// Bytes of a page, which are redb's too.
pub(crate) const PAGE_LEN: u64 = 4096;
/// Bytes of the file's header.
pub(crate) const FILE_HEADER_LEN: usize = 32;
/// Bytes that a disk writes whole or not at all.
pub(crate) const SECTOR_LEN: usize = 512;
/// Where the sector with redb's own header is.
pub(crate) const STATE_SECTOR_OFFSET: u64 = 512;
/// Bytes of redb's own header.
pub(crate) const STATE_LEN: usize = 320;
/// Pages that one page of checksums is for.
pub(crate) const GROUP_PAGES: u64 = 1024;

/// The file's header: it says nothing but what the file is.
pub(crate) fn encode_file_header() -> [u8; FILE_HEADER_LEN] {
    let mut header = [0; FILE_HEADER_LEN];
    header[..8].copy_from_slice(&VIEW_MAGIC);
    header[8..10].copy_from_slice(&PAGES_VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(PAGE_LEN as u32).to_le_bytes());
    header[16..20].copy_from_slice(&(GROUP_PAGES as u32).to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

pub(crate) fn check_file_header(header: &[u8; FILE_HEADER_LEN]) -> Result<(), Damage> {
    let expected = encode_file_header();
    if header[..8] != expected[..8] {
        return Err(Damage::Magic);
    }
    let crc = |header: &[u8; FILE_HEADER_LEN]| {
        u32::from_le_bytes(*header.last_chunk().expect("the header is longer"))
    };
    let (stored, computed) = (crc(header), crc32fast::hash(&header[..28]));
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if *header != expected {
        return Err(Damage::Field { name: "view layout", found: version.into() });
    }
    Ok(())
}

/// The sector that holds redb's own header: its bytes and their checksum, written at once.
pub(crate) fn encode_state(state: &[u8; STATE_LEN]) -> [u8; SECTOR_LEN] {
    let mut sector = [0; SECTOR_LEN];
    sector[..STATE_LEN].copy_from_slice(state);
    sector[STATE_LEN..][..4].copy_from_slice(&crc32fast::hash(state).to_le_bytes());
    sector
}

pub(crate) fn decode_state(sector: &[u8; SECTOR_LEN]) -> Result<[u8; STATE_LEN], Damage> {
    let (state, rest) = sector.split_first_chunk::<STATE_LEN>().expect("the sector is longer");
    let (crc, rest) = rest.split_first_chunk::<4>().expect("the sector is longer");
    let (stored, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(state));
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Damage::Field { name: "reserved", found: 1 });
    }
    Ok(*state)
}

/// The checksum of a page's bytes and number, never 0: that stands for a page that was never written.
pub(crate) fn page_sum(page: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page.to_le_bytes());
    crc.update(bytes);
    crc.finalize().max(1)
}

/// Where a page of redb lies in the file.
pub(crate) fn page_offset(page: u64) -> u64 {
    // The file's header, the pages before it, and the pages of checksums up to that of its own group.
    (1 + page + page / GROUP_PAGES + 1) * PAGE_LEN
}

/// Where the checksums of a group lie in the file.
pub(crate) fn sums_offset(group: u64) -> u64 {
    (1 + group * (GROUP_PAGES + 1)) * PAGE_LEN
}

/// Bytes of the file when redb has this many pages.
pub(crate) fn file_len(pages: u64) -> u64 {
    (1 + pages + pages.div_ceil(GROUP_PAGES)) * PAGE_LEN
}

/// How many pages redb has in a file of this many bytes; `None` when no number of pages makes such a file.
pub(crate) fn page_count(file_len_found: u64) -> Option<u64> {
    let after_header = (file_len_found / PAGE_LEN).checked_sub(1)?;
    let pages = after_header - after_header.div_ceil(GROUP_PAGES + 1);
    (file_len(pages) == file_len_found).then_some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_checksums_fill_the_file_without_overlap() {
        let mut taken = vec![0];
        for page in 0..3000 {
            if page % GROUP_PAGES == 0 {
                taken.push(sums_offset(page / GROUP_PAGES));
            }
            taken.push(page_offset(page));
            assert_eq!(taken.len() as u64 * PAGE_LEN, file_len(page + 1));
            assert_eq!(page_count(file_len(page + 1)), Some(page + 1));
        }
        assert!(taken.iter().zip(0..).all(|(offset, at)| *offset == at * PAGE_LEN));
        assert_eq!(page_count(file_len(5) + 1), None);
        // A page of checksums without a page that it is for.
        assert_eq!(page_count(2 * PAGE_LEN), None);
        assert_eq!(page_count(PAGE_LEN), Some(0));
        assert_eq!(page_count(0), None);
    }

    #[test]
    fn header_of_another_layout_is_not_taken() {
        let header = encode_file_header();
        assert_eq!(check_file_header(&header), Ok(()));
        for at in 0..FILE_HEADER_LEN {
            let mut other = header;
            other[at] ^= 4;
            assert!(check_file_header(&other).is_err(), "byte {at}");
        }
        let mut newer = header;
        newer[8] = 2;
        let crc = crc32fast::hash(&newer[..28]);
        newer[28..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_file_header(&newer), Err(Damage::Field { name: "view layout", found: 2 }));
    }
}
