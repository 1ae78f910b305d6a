//! Damage to the files of a store, as bytes name it.

use super::golden::{Files, SAMPLES};
use super::input::Input;
use super::{manifest, segment};

/// Longest run of bytes that one damage adds.
const ADDED_LEN_MAX: usize = 16 << 10;
/// Most files that damage makes of the five that a store has.
const FILES_MAX: usize = 12;
/// Most damages of one input.
const DAMAGES_MAX: usize = 16;
/// What disks write at once: offsets count only those sectors that hold something.
const SECTOR_LEN: usize = 512;

/// Damages the files of the sample with this number until the input ends.
///
/// What disks and people do: bits and blocks that change, files that are cut, gone, mixed up or of an older day. No
/// bytes of the input itself come into a file, so that a fuzzer cannot forge a checksum. `is_forged` does allow that.
pub(super) fn damage(sample: usize, files: &mut Files, input: &mut Input<'_>, is_forged: bool) {
    for _ in 0..DAMAGES_MAX {
        if input.is_empty() || files.is_empty() {
            return;
        }
        let (kind, name) = (input.byte(), pick(files, input));
        match kind % 13 {
            0 => {
                let (offset, bit) = (offset(input), input.byte() % 8);
                change(files, &name, offset, 1, |bytes| bytes[0] ^= 1 << bit);
            }
            1 => {
                let (offset, len, seed) = (offset(input), input.byte(), input.byte());
                change(files, &name, offset, 1 + usize::from(len), |bytes| scramble(bytes, seed));
            }
            2 => {
                let (offset, len) = (offset(input), input.u16());
                change(files, &name, offset, 1 + usize::from(len), |bytes| bytes.fill(0));
            }
            // Whole blocks, as a disk loses them.
            3 => {
                let (block, seed) = (input.byte(), input.byte());
                let bytes = files.get_mut(&name).expect("it was picked");
                let blocks = bytes.len().div_ceil(4096).max(1);
                if let Some(block) = bytes.chunks_mut(4096).nth(usize::from(block) % blocks) {
                    scramble(block, seed);
                }
            }
            4 => {
                let bytes = files.get_mut(&name).expect("it was picked");
                bytes.truncate(offset(input) % (bytes.len() + 1));
            }
            5 => {
                let (len, seed) = (usize::from(input.u16()) % ADDED_LEN_MAX, input.byte());
                let bytes = files.get_mut(&name).expect("it was picked");
                let end = bytes.len();
                bytes.resize(end + len, 0);
                if seed != 0 {
                    scramble(&mut bytes[end..], seed);
                }
            }
            6 => _ = files.remove(&name),
            7 => {
                let other = pick(files, input);
                let (one, two) = (files[&name].clone(), files[&other].clone());
                files.insert(name, two);
                files.insert(other, one);
            }
            8 => {
                let other = pick(files, input);
                let bytes = files[&name].clone();
                files.insert(other, bytes);
            }
            // A file of an older day.
            9 => {
                let sample = &SAMPLES[usize::from(input.byte()) % (sample + 1)];
                match sample.files.get(&name) {
                    Some(bytes) => _ = files.insert(name, bytes.clone()),
                    None => _ = files.remove(&name),
                }
            }
            10 => {
                let number = u64::from(input.byte());
                let copy = format!("seg/{number:016x}-{:016x}.mseg", input.byte());
                if files.len() < FILES_MAX {
                    files.insert(copy, files[&name].clone());
                }
            }
            // A part of one file at a place in another, or in the same.
            11 => {
                let (from, len, to) = (offset(input), input.u16(), offset(input));
                let other = pick(files, input);
                let bytes = &files[&name];
                let from = place(bytes, from);
                let part = bytes[from..bytes.len().min(from + usize::from(len))].to_vec();
                change(files, &other, to, part.len(), |bytes| {
                    bytes.copy_from_slice(&part[..bytes.len()]);
                });
            }
            _ => {
                let (offset, len) = (offset(input), input.byte() % 64);
                let new = input.bytes(usize::from(len));
                if is_forged {
                    change(files, &name, offset, new.len(), |bytes| {
                        bytes.copy_from_slice(&new[..bytes.len()]);
                    });
                }
            }
        }
    }
}

/// Gives every checksum of the log the value that it should have.
pub(super) fn mend(files: &mut Files) {
    for (name, bytes) in files {
        if name == "MANIFEST" {
            manifest::mend(bytes);
        } else if name.starts_with("seg/") {
            segment::mend_file(bytes);
        }
    }
}

fn pick(files: &Files, input: &mut Input<'_>) -> String {
    let number = usize::from(input.byte()) % files.len();
    files.keys().nth(number).expect("counted").clone()
}

fn offset(input: &mut Input<'_>) -> usize {
    let [a, b, c] = input.array();
    usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16
}

/// Changes up to `len` bytes.
fn change(files: &mut Files, name: &str, offset: usize, len: usize, change: impl Fn(&mut [u8])) {
    let bytes = files.get_mut(name).expect("it was picked");
    let start = place(bytes, offset);
    let end = bytes.len().min(start + len);
    if start < end {
        change(&mut bytes[start..end]);
    }
}

/// The offset that this number stands for, counting only sectors that hold something.
fn place(bytes: &[u8], number: usize) -> usize {
    let sectors = bytes.chunks(SECTOR_LEN).enumerate();
    let used: Vec<usize> = sectors
        .filter_map(|(at, sector)| sector.iter().any(|byte| *byte != 0).then_some(at * SECTOR_LEN))
        .collect();
    let sector = number / SECTOR_LEN % used.len().max(1);
    let start = used.get(sector).copied().unwrap_or(0);
    (start + number % SECTOR_LEN).min(bytes.len())
}

/// Other bytes: those that follow from a seed, mixed in so that each differs.
fn scramble(bytes: &mut [u8], seed: u8) {
    let mut state = 0x9E37_79B9_u32 ^ u32::from(seed) << 8;
    for byte in bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [.., mixed] = state.to_le_bytes();
        *byte ^= mixed | 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_damage_changes_the_files() {
        const MANIFEST: u8 = 1;
        const SEGMENT: u8 = 2;
        let damages: [&[u8]; 13] = [
            &[0, SEGMENT, 1, 16, 0, 3],
            &[1, SEGMENT, 1, 16, 0, 5, 1],
            &[2, SEGMENT, 1, 16, 0, 5, 0],
            &[3, SEGMENT, 1, 1],
            &[4, SEGMENT, 0, 16, 0],
            &[5, SEGMENT, 9, 0, 0],
            &[6, SEGMENT],
            &[7, SEGMENT, MANIFEST],
            &[8, SEGMENT, MANIFEST],
            &[9, MANIFEST, 0],
            &[10, SEGMENT, 7, 7],
            &[11, SEGMENT, 0, 0, 0, 64, 0, 0, 6, 0, SEGMENT],
            &[12, SEGMENT, 1, 16, 0, 1, 0xEE],
        ];
        let whole = &SAMPLES[2].files;
        for (kind, bytes) in damages.into_iter().enumerate() {
            let changes = |is_forged: bool| {
                let mut files = whole.clone();
                damage(2, &mut files, &mut Input(bytes), is_forged);
                files != *whole
            };
            assert_eq!((changes(true), changes(false)), (true, kind != 12), "kind {kind}");
        }
    }

    #[test]
    fn sound_files_are_mended_to_what_they_are() {
        for sample in &*SAMPLES {
            let mut files = sample.files.clone();
            mend(&mut files);
            assert!(files == sample.files);
        }
    }
}
