//! Dot products, by the widest instructions that the processor has.
//!
//! The only unsafe code of this module's parent. Vectors come as [`Lane`]s: 16 values, aligned to a cache
//! line, so that no kernel has a remainder to deal with and no load crosses a line.

#![allow(unsafe_code)]

use std::sync::LazyLock;

/// Values of one [`Lane`].
pub(crate) const LANE_LEN: usize = 16;

/// A piece of a vector; the last one of a vector is filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lane(pub(crate) [f32; LANE_LEN]);

/// The vector as lanes.
pub(crate) fn lanes(vector: &[f32]) -> impl Iterator<Item = Lane> {
    vector.chunks(LANE_LEN).map(|piece| {
        let mut lane = Lane([0.0; LANE_LEN]);
        lane.0[..piece.len()].copy_from_slice(piece);
        lane
    })
}

/// A way to compute dot products that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel(Isa);

/// Private, so that a [`Kernel`] is made only where the processor has been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Scalar,
}

impl Kernel {
    /// The fastest kernel; the processor is asked once.
    pub(crate) fn best() -> Self {
        static BEST: LazyLock<Kernel> = LazyLock::new(|| Kernel::available()[0]);
        *BEST
    }

    /// Every kernel that runs here, the fastest first. The scalar one always does.
    pub(crate) fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                found.push(Self(Isa::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Self(Isa::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self(Isa::Neon));
        }
        found.push(Self(Isa::Scalar));
        found
    }

    /// The name of its instruction set.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Scalar => "scalar",
        }
    }

    /// Writes the dot product of the query with each row. The rows follow each other, each as long as the
    /// query.
    ///
    /// # Panics
    /// When there are not as many rows as there is room for results.
    pub(crate) fn dots(self, query: &[Lane], rows: &[Lane], out: &mut [f32]) {
        assert_eq!(rows.len(), query.len() * out.len(), "one result for each row");
        if query.is_empty() {
            return out.fill(0.0);
        }
        match self.0 {
            // SAFETY: `available` makes this kernel only when the processor has the AVX-512 foundation.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::dots_avx512(query, rows, out) },
            // SAFETY: `available` makes this kernel only when the processor has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::dots_avx2(query, rows, out) },
            // SAFETY: `available` makes this kernel only when the processor has NEON.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::dots(query, rows, out) },
            Isa::Scalar => {
                for (row, out) in rows.chunks_exact(query.len()).zip(out) {
                    *out = dot_scalar(query, row);
                }
            }
        }
    }
}

/// Sixteen sums side by side, which the compiler can keep in whatever registers there are.
fn dot_scalar(query: &[Lane], row: &[Lane]) -> f32 {
    let mut sums = [0.0; LANE_LEN];
    for (a, b) in query.iter().zip(row) {
        for ((sum, a), b) in sums.iter_mut().zip(a.0).zip(b.0) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lane;

    /// Lanes that are added up independently of each other, to hide the latency of a multiplication.
    const CHAINS: usize = 4;

    #[target_feature(enable = "avx512f")]
    pub(super) fn dots_avx512(query: &[Lane], rows: &[Lane], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut sums = [_mm512_setzero_ps(); CHAINS];
            let (queries, query_rest) = query.as_chunks::<CHAINS>();
            let (rows, row_rest) = row.as_chunks::<CHAINS>();
            for (query, row) in queries.iter().zip(rows) {
                for ((sum, query), row) in sums.iter_mut().zip(query).zip(row) {
                    *sum = _mm512_fmadd_ps(load_avx512(query), load_avx512(row), *sum);
                }
            }
            for (query, row) in query_rest.iter().zip(row_rest) {
                sums[0] = _mm512_fmadd_ps(load_avx512(query), load_avx512(row), sums[0]);
            }
            let [a, b, c, d] = sums;
            *out = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
        }
    }

    #[target_feature(enable = "avx512f")]
    fn load_avx512(lane: &Lane) -> __m512 {
        // SAFETY: a lane is 64 bytes at a multiple of 64.
        unsafe { _mm512_load_ps(lane.0.as_ptr()) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots_avx2(query: &[Lane], rows: &[Lane], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut sums = [_mm256_setzero_ps(); CHAINS];
            let (queries, query_rest) = query.as_chunks::<2>();
            let (rows, row_rest) = row.as_chunks::<2>();
            for ([query_0, query_1], [row_0, row_1]) in queries.iter().zip(rows) {
                add_avx2(&mut sums, 0, query_0, row_0);
                add_avx2(&mut sums, 2, query_1, row_1);
            }
            for (query, row) in query_rest.iter().zip(row_rest) {
                add_avx2(&mut sums, 0, query, row);
            }
            let [a, b, c, d] = sums;
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
            *out = _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum)));
        }
    }

    /// Adds the products of a lane's halves to two neighbouring sums.
    #[target_feature(enable = "avx2,fma")]
    fn add_avx2(sums: &mut [__m256; CHAINS], first: usize, query: &Lane, row: &Lane) {
        for (half, sum) in sums[first..first + 2].iter_mut().enumerate() {
            // SAFETY: a lane is 64 bytes at a multiple of 64, so each half is 32 bytes at a multiple of 32.
            let (query, row) = unsafe {
                (_mm256_load_ps(query.0.as_ptr().add(half * 8)), _mm256_load_ps(row.0.as_ptr().add(half * 8)))
            };
            *sum = _mm256_fmadd_ps(query, row, *sum);
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::Lane;

    #[target_feature(enable = "neon")]
    pub(super) fn dots(query: &[Lane], rows: &[Lane], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (query, row) in query.iter().zip(row) {
                for (quarter, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a lane has 16 values, so each quarter has 4.
                    let (query, row) = unsafe {
                        (
                            vld1q_f32(query.0.as_ptr().add(quarter * 4)),
                            vld1q_f32(row.0.as_ptr().add(quarter * 4)),
                        )
                    };
                    *sum = vfmaq_f32(*sum, query, row);
                }
            }
            let [a, b, c, d] = sums;
            *out = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values between -1 and 1 that look random.
    fn values(seed: u64, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn every_kernel_agrees_with_plain_arithmetic_at_every_length() {
        for kernel in Kernel::available() {
            for dimensions in (1..=200).chain([255, 256, 257, 384, 768, 1023, 1024, 4095, 4096]) {
                let query = values(1, dimensions);
                let rows: Vec<Vec<f32>> = (2..5).map(|seed| values(seed, dimensions)).collect();
                let mut out = [f32::NAN; 3];
                let query_lanes: Vec<Lane> = lanes(&query).collect();
                let row_lanes: Vec<Lane> = rows.iter().flat_map(|row| lanes(row)).collect();
                kernel.dots(&query_lanes, &row_lanes, &mut out);
                for (row, found) in rows.iter().zip(out) {
                    let dot: f64 = query.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let bound = 1e-6 * (dimensions as f64).sqrt();
                    assert!(
                        (f64::from(found) - dot).abs() <= bound,
                        "{} at {dimensions}: {found} is not {dot}",
                        kernel.name()
                    );
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_passed_on() {
        for kernel in Kernel::available() {
            let mut out = [0.0];
            let query = [Lane([1.0; LANE_LEN])];
            kernel.dots(&query, &[Lane([f32::NAN; LANE_LEN])], &mut out);
            assert!(out[0].is_nan(), "{}", kernel.name());
            kernel.dots(&query, &[Lane([f32::INFINITY; LANE_LEN])], &mut out);
            assert_eq!(out[0], f32::INFINITY, "{}", kernel.name());
        }
    }

    #[test]
    fn the_best_kernel_is_the_first_of_those_available_and_scalar_is_among_them() {
        assert_eq!(Kernel::best(), Kernel::available()[0]);
        assert_eq!(Kernel::available().last().map(|kernel| kernel.name()), Some("scalar"));
    }

    #[test]
    #[should_panic(expected = "one result for each row")]
    fn rows_that_do_not_fit_the_results_are_refused() {
        Kernel::best().dots(&[Lane([0.0; LANE_LEN])], &[], &mut [0.0]);
    }
}
