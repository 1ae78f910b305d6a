//! The cosines of some rows, all of them and exactly.

use super::kernels::Kernel;
use super::rows::{Query, Rows};
use super::search::{Found, Hit, Limits};

/// Rows between two looks at the clock: some 40 us of work.
const SCORE_ROWS: usize = 1024;

/// The cosines of these rows, given in ascending order, in their order and none left out; fewer when the deadline cuts it
/// short.
pub(crate) fn score_list(rows: Rows<'_>, list: &[u32], query: &Query, limits: &Limits) -> Found {
    let kernel = Kernel::best();
    // What lies beyond the table is not there.
    let list = &list[..list.partition_point(|row| (*row as usize) < rows.len())];
    let mut found = Found { hits: Vec::with_capacity(list.len()), ..Found::default() };
    let mut dots = Vec::new();
    for part in list.chunks(SCORE_ROWS) {
        if limits.is_over() {
            found.truncated = true;
            break;
        }
        kernel.gather_halves(query.values(), rows.halves, part, &mut dots);
        // Bytes of a damaged file may be no numbers: then the row is far away.
        let cosine = |dot: f32| if dot.is_finite() { dot.clamp(-1.0, 1.0) } else { -1.0 };
        found.hits.extend(part.iter().zip(&dots).map(|(row, dot)| Hit { row: *row, cosine: cosine(*dot) }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::rows::{halve, quantize};
    use super::*;
    use crate::scope::Deadline;

    #[test]
    fn every_row_that_there_is_gets_its_cosine_and_none_after_the_deadline() {
        let (mut codes, mut halves, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..3000 {
            let vector = [(at as f32 / 500.0).sin(), (at as f32 / 500.0).cos()];
            scales.push(quantize(&vector, &mut codes));
            halve(&vector, &mut halves);
        }
        halves[64] = f32_nan_bits();
        let rows = Rows { codes: &codes, scales: &scales, halves: &halves, stride: 64 };
        let query = Query::new(&[0.0, 1.0], 64);
        let list: Vec<u32> = (0..4000).collect();
        let found = score_list(rows, &list, &query, &Limits::NONE);
        assert_eq!(found.hits.len(), 3000);
        for hit in found.hits.iter().filter(|hit| hit.row != 1) {
            assert!((hit.cosine - (hit.row as f32 / 500.0).cos()).abs() < 1e-3, "{hit:?}");
        }
        assert_eq!(found.hits[1].cosine, -1.0, "no number is far away");
        let limits = Limits { deadline: Deadline::after(Some(std::time::Duration::ZERO)), ..Limits::NONE };
        let found = score_list(rows, &list, &query, &limits);
        assert!(found.truncated && found.hits.is_empty());
    }

    fn f32_nan_bits() -> u16 {
        0x7E00
    }
}
