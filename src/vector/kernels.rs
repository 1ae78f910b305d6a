//! Dot products, by the widest instructions that the processor has.
//!
//! The only unsafe code of this module's parent. Vectors come in pieces of a fixed length, the last one filled
//! up with zeros, so that no kernel has a remainder to deal with:
//!
//! - exact vectors as [`Lane`]s: 16 values, aligned to a cache line, so that no load crosses a line;
//! - codes (one byte a value, -127 to 127) and halves (the bits of 16-bit floats) in tables of rows that follow
//!   each other, each of a multiple of [`CODE_LANE`] values. Tables are parts of mapped files, so any bytes may
//!   stand in them: -128 and what is no number make a wrong result and nothing worse.

#![allow(unsafe_code)]

use std::sync::LazyLock;

use half::f16;

/// Values of one [`Lane`].
pub(crate) const LANE_LEN: usize = 16;
/// Rows of codes and of halves have a multiple of this many values.
pub(crate) const CODE_LANE: usize = 64;
/// Rows of a table that are fetched into the cache ahead of the one that is being read.
#[cfg(target_arch = "x86_64")]
const ROWS_AHEAD: usize = 5;
/// Bytes of a row that are fetched ahead: of a longer one the processor sees itself that it is read in order.
#[cfg(target_arch = "x86_64")]
const FETCH_BYTES_MAX: usize = 768;

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
            let has_avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                found.push(Self(Isa::Avx512));
            }
            if has_avx2 {
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
            // SAFETY: `available` makes this kernel only when the processor has AVX-512 with VNNI.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::dots_avx512(query, rows, out) },
            // SAFETY: `available` makes this kernel only when the processor has AVX2, FMA and F16C.
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

    /// The dot product of two codes.
    ///
    /// # Panics
    /// When they are not equally long, or not of a multiple of [`CODE_LANE`] values.
    pub(crate) fn dot_codes(self, a: &[i8], b: &[i8]) -> i32 {
        let mut out = [0];
        self.scan_codes(a, b, &mut out);
        out[0]
    }

    /// The dot product of a vector with a row of halves.
    ///
    /// # Panics
    /// As [`Self::dot_codes`].
    #[cfg(test)]
    pub(crate) fn dot_halves(self, query: &[f32], row: &[u16]) -> f32 {
        let mut out = [0.0];
        assert_eq!(query.len(), row.len(), "one row");
        self.halves(query, row, |_| 0, &mut out);
        out[0]
    }

    /// The dot products of a code with consecutive rows of a table.
    ///
    /// # Panics
    /// When the table has not as many rows as there is room for results, or the query not a multiple of
    /// [`CODE_LANE`] values.
    pub(crate) fn scan_codes(self, query: &[i8], table: &[i8], out: &mut [i32]) {
        assert_eq!(table.len(), query.len() * out.len(), "one result for each row");
        self.codes(query, table, |place| place, 0, out);
    }

    /// The dot products of a code with these rows of a table, which are fetched ahead. What was in `out` goes.
    ///
    /// # Panics
    /// When there is no such row, or the query has not a multiple of [`CODE_LANE`] values.
    pub(crate) fn gather_codes(self, query: &[i8], table: &[i8], rows: &[u32], out: &mut Vec<i32>) {
        out.clear();
        out.resize(rows.len(), 0);
        self.codes(query, table, |place| rows[place] as usize, ROWS_AHEAD, out);
    }

    /// The dot products of a vector with these rows of halves, which are fetched ahead. What was in `out` goes.
    ///
    /// # Panics
    /// As [`Self::gather_codes`].
    pub(crate) fn gather_halves(self, query: &[f32], table: &[u16], rows: &[u32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(rows.len(), 0.0);
        self.halves(query, table, |place| rows[place] as usize, out);
    }

    /// Writes to each place the product with the row that `row_at` names for it, fetching so many rows ahead. Rows that
    /// follow each other are fetched by the processor itself: asking it to costs a scan a seventh of its time.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "others fetch by themselves"))]
    #[inline]
    fn codes(
        self,
        query: &[i8],
        table: &[i8],
        row_at: impl Fn(usize) -> usize,
        ahead: usize,
        out: &mut [i32],
    ) {
        let (pieces, rest) = query.as_chunks::<CODE_LANE>();
        assert!(rest.is_empty(), "codes are filled up to a multiple of {CODE_LANE}");
        let (table, _) = table.as_chunks::<CODE_LANE>();
        match self.0 {
            // SAFETY: as in `dots`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::codes_avx512(pieces, table, row_at, ahead, out) },
            // SAFETY: as in `dots`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::codes_avx2(pieces, table, row_at, ahead, out) },
            // SAFETY: as in `dots`.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::codes(pieces, table, row_at, out) },
            Isa::Scalar => {
                for (place, out) in out.iter_mut().enumerate() {
                    let row = row_of(table, pieces.len(), row_at(place));
                    let products = pieces.as_flattened().iter().zip(row.as_flattened());
                    *out = products.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                }
            }
        }
    }

    /// As [`Self::codes`].
    #[inline]
    fn halves(self, query: &[f32], table: &[u16], row_at: impl Fn(usize) -> usize, out: &mut [f32]) {
        let (pieces, rest) = query.as_chunks::<CODE_LANE>();
        assert!(rest.is_empty(), "vectors are filled up to a multiple of {CODE_LANE}");
        let (table, _) = table.as_chunks::<CODE_LANE>();
        match self.0 {
            // SAFETY: as in `dots`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::halves_avx512(pieces, table, row_at, out) },
            // SAFETY: as in `dots`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::halves_avx2(pieces, table, row_at, out) },
            // SAFETY: as in `dots`.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::halves(pieces, table, row_at, out) },
            Isa::Scalar => {
                for (place, out) in out.iter_mut().enumerate() {
                    let row = row_of(table, pieces.len(), row_at(place));
                    *out = dot_halves_scalar(pieces, row);
                }
            }
        }
    }
}

/// A row of this many pieces.
#[inline]
fn row_of<T>(table: &[[T; CODE_LANE]], pieces: usize, row: usize) -> &[[T; CODE_LANE]] {
    &table[row * pieces..][..pieces]
}

/// As many sums side by side as [`dot_scalar`] has.
fn dot_halves_scalar(query: &[[f32; CODE_LANE]], row: &[[u16; CODE_LANE]]) -> f32 {
    let mut sums = [0.0; LANE_LEN];
    let (query, _) = query.as_flattened().as_chunks::<LANE_LEN>();
    let (row, _) = row.as_flattened().as_chunks::<LANE_LEN>();
    for (a, b) in query.iter().zip(row) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * f16::from_bits(*b).to_f32();
        }
    }
    sums.iter().sum()
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

    use super::{CODE_LANE, FETCH_BYTES_MAX, Lane, ROWS_AHEAD, row_of};

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
            *out = total_avx2(sums);
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

    /// Starts to fetch a row into the cache.
    #[inline]
    #[target_feature(enable = "sse")]
    fn fetch<T>(table: &[[T; CODE_LANE]], pieces: usize, row: usize) {
        let start = table.as_ptr().wrapping_add(row.wrapping_mul(pieces)).cast::<i8>();
        for line in (0..size_of::<T>() * CODE_LANE * pieces).step_by(64).take(FETCH_BYTES_MAX / 64) {
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line));
        }
    }

    /// The instruction multiplies bytes without a sign by bytes with one. A row's values plus 128 have none, which
    /// is a flip of their top bits; what that adds to each product is the same for all rows: 128 times the sum of
    /// the query.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn codes_avx512(
        query: &[[i8; CODE_LANE]],
        table: &[[i8; CODE_LANE]],
        row_at: impl Fn(usize) -> usize,
        ahead: usize,
        out: &mut [i32],
    ) {
        let flip = _mm512_set1_epi32(i32::from_ne_bytes([0x80; 4]));
        let mut excess = _mm512_setzero_si512();
        for piece in query {
            excess = _mm512_dpbusd_epi32(excess, flip, load_codes_avx512(piece));
        }
        let excess = _mm512_reduce_add_epi32(excess);
        let count = out.len();
        for place in 0..count.min(ahead) {
            fetch(table, query.len(), row_at(place));
        }
        for (place, out) in out.iter_mut().enumerate() {
            if ahead > 0 && place + ahead < count {
                fetch(table, query.len(), row_at(place + ahead));
            }
            let row = row_of(table, query.len(), row_at(place));
            let mut sums = [_mm512_setzero_si512(); 2];
            let (queries, query_rest) = query.as_chunks::<2>();
            let (rows, row_rest) = row.as_chunks::<2>();
            for (query, row) in queries.iter().zip(rows) {
                for ((sum, query), row) in sums.iter_mut().zip(query).zip(row) {
                    let unsigned = _mm512_xor_si512(load_codes_avx512(row), flip);
                    *sum = _mm512_dpbusd_epi32(*sum, unsigned, load_codes_avx512(query));
                }
            }
            for (query, row) in query_rest.iter().zip(row_rest) {
                let unsigned = _mm512_xor_si512(load_codes_avx512(row), flip);
                sums[0] = _mm512_dpbusd_epi32(sums[0], unsigned, load_codes_avx512(query));
            }
            *out = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) - excess;
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_codes_avx512(piece: &[i8; CODE_LANE]) -> __m512i {
        // SAFETY: a piece is 64 bytes, and the load may be unaligned.
        unsafe { _mm512_loadu_si512(piece.as_ptr().cast()) }
    }

    /// As the bytes with a sign are at most 127, so are those without: two products fit into 16 bits.
    #[target_feature(enable = "avx2")]
    pub(super) fn codes_avx2(
        query: &[[i8; CODE_LANE]],
        table: &[[i8; CODE_LANE]],
        row_at: impl Fn(usize) -> usize,
        ahead: usize,
        out: &mut [i32],
    ) {
        let ones = _mm256_set1_epi16(1);
        let count = out.len();
        for place in 0..count.min(ahead) {
            fetch(table, query.len(), row_at(place));
        }
        for (place, out) in out.iter_mut().enumerate() {
            if ahead > 0 && place + ahead < count {
                fetch(table, query.len(), row_at(place + ahead));
            }
            let row = row_of(table, query.len(), row_at(place));
            let mut sums = [_mm256_setzero_si256(); 2];
            for (query, row) in query.iter().zip(row) {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a piece is 64 bytes, so each half is 32, and the loads may be unaligned.
                    let (query, row) = unsafe {
                        (
                            _mm256_loadu_si256(query.as_ptr().add(half * 32).cast()),
                            _mm256_loadu_si256(row.as_ptr().add(half * 32).cast()),
                        )
                    };
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(query), _mm256_sign_epi8(row, query));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                }
            }
            let sum = _mm256_add_epi32(sums[0], sums[1]);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b0100_1110>(sum));
            *out = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b1011_0001>(sum)));
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn halves_avx512(
        query: &[[f32; CODE_LANE]],
        table: &[[u16; CODE_LANE]],
        row_at: impl Fn(usize) -> usize,
        out: &mut [f32],
    ) {
        let count = out.len();
        for place in 0..count.min(ROWS_AHEAD) {
            fetch(table, query.len(), row_at(place));
        }
        for (place, out) in out.iter_mut().enumerate() {
            if place + ROWS_AHEAD < count {
                fetch(table, query.len(), row_at(place + ROWS_AHEAD));
            }
            let row = row_of(table, query.len(), row_at(place));
            let mut sums = [_mm512_setzero_ps(); CHAINS];
            for (query, row) in query.iter().zip(row) {
                for (quarter, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a piece has 64 values, so each quarter has 16, and the loads may be unaligned.
                    let (query, row) = unsafe {
                        (
                            _mm512_loadu_ps(query.as_ptr().add(quarter * 16)),
                            _mm256_loadu_si256(row.as_ptr().add(quarter * 16).cast()),
                        )
                    };
                    *sum = _mm512_fmadd_ps(query, _mm512_cvtph_ps(row), *sum);
                }
            }
            let [a, b, c, d] = sums;
            *out = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn halves_avx2(
        query: &[[f32; CODE_LANE]],
        table: &[[u16; CODE_LANE]],
        row_at: impl Fn(usize) -> usize,
        out: &mut [f32],
    ) {
        let count = out.len();
        for place in 0..count.min(ROWS_AHEAD) {
            fetch(table, query.len(), row_at(place));
        }
        for (place, out) in out.iter_mut().enumerate() {
            if place + ROWS_AHEAD < count {
                fetch(table, query.len(), row_at(place + ROWS_AHEAD));
            }
            let row = row_of(table, query.len(), row_at(place));
            let mut sums = [_mm256_setzero_ps(); CHAINS];
            for (query, row) in query.iter().zip(row) {
                for eighth in 0..CODE_LANE / 8 {
                    // SAFETY: a piece has 64 values, so each eighth has 8, and the loads may be unaligned.
                    let (query, row) = unsafe {
                        (
                            _mm256_loadu_ps(query.as_ptr().add(eighth * 8)),
                            _mm_loadu_si128(row.as_ptr().add(eighth * 8).cast()),
                        )
                    };
                    let sum = &mut sums[eighth % CHAINS];
                    *sum = _mm256_fmadd_ps(query, _mm256_cvtph_ps(row), *sum);
                }
            }
            *out = total_avx2(sums);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn total_avx2(sums: [__m256; CHAINS]) -> f32 {
        let [a, b, c, d] = sums;
        let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum)))
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{CODE_LANE, Lane, row_of};

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

    /// As values are at most 127 away from zero, two products fit into 16 bits.
    #[target_feature(enable = "neon")]
    pub(super) fn codes(
        query: &[[i8; CODE_LANE]],
        table: &[[i8; CODE_LANE]],
        row_at: impl Fn(usize) -> usize,
        out: &mut [i32],
    ) {
        for (place, out) in out.iter_mut().enumerate() {
            let row = row_of(table, query.len(), row_at(place));
            let mut sums = [vdupq_n_s32(0); 4];
            for (query, row) in query.iter().zip(row) {
                for (quarter, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a piece has 64 values, so each quarter has 16.
                    let (query, row) = unsafe {
                        (vld1q_s8(query.as_ptr().add(quarter * 16)), vld1q_s8(row.as_ptr().add(quarter * 16)))
                    };
                    let low = vmull_s8(vget_low_s8(query), vget_low_s8(row));
                    *sum = vpadalq_s16(*sum, vmlal_high_s8(low, query, row));
                }
            }
            let [a, b, c, d] = sums;
            *out = vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
        }
    }

    #[target_feature(enable = "neon")]
    pub(super) fn halves(
        query: &[[f32; CODE_LANE]],
        table: &[[u16; CODE_LANE]],
        row_at: impl Fn(usize) -> usize,
        out: &mut [f32],
    ) {
        for (place, out) in out.iter_mut().enumerate() {
            let row = row_of(table, query.len(), row_at(place));
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (query, row) in query.iter().zip(row) {
                for eighth in 0..CODE_LANE / 8 {
                    // SAFETY: a piece has 64 values, so each eighth has 8.
                    let (low, high, row) = unsafe {
                        (
                            vld1q_f32(query.as_ptr().add(eighth * 8)),
                            vld1q_f32(query.as_ptr().add(eighth * 8 + 4)),
                            vld1q_u16(row.as_ptr().add(eighth * 8)),
                        )
                    };
                    let first = eighth % 2 * 2;
                    sums[first] = vfmaq_f32(sums[first], low, widen(vmovl_u16(vget_low_u16(row))));
                    sums[first + 1] = vfmaq_f32(sums[first + 1], high, widen(vmovl_high_u16(row)));
                }
            }
            let [a, b, c, d] = sums;
            *out = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
        }
    }

    /// Floats of 16 bits as floats of 32, by hand: the type that the instruction for it takes is not stable. The
    /// exponent and the fraction move to their places; the product with 2^112 puts the exponent right, of the
    /// smallest numbers too. The largest exponent stands for what is no number in both formats.
    #[inline]
    #[target_feature(enable = "neon")]
    fn widen(bits: uint32x4_t) -> float32x4_t {
        let magnitude = vandq_u32(bits, vdupq_n_u32(0x7fff));
        let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
        let scaled = vmulq_f32(
            vreinterpretq_f32_u32(vshlq_n_u32::<13>(magnitude)),
            vdupq_n_f32(f32::from_bits((127 + 112) << 23)),
        );
        let no_number = vcgeq_u32(magnitude, vdupq_n_u32(0x7c00));
        let exponent = vandq_u32(no_number, vdupq_n_u32(0x7f80_0000));
        vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), exponent), sign))
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

    fn codes(seed: u64, len: usize) -> Vec<i8> {
        values(seed, len).into_iter().map(|value| (value * 127.0) as i8).collect()
    }

    fn halves(values: &[f32]) -> Vec<u16> {
        values.iter().map(|value| f16::from_f32(*value).to_bits()).collect()
    }

    const CODE_LENS: [usize; 9] = [64, 128, 192, 320, 384, 768, 1024, 1088, 4096];

    #[test]
    fn every_kernel_multiplies_codes_as_plain_arithmetic_does() {
        for kernel in Kernel::available() {
            for len in CODE_LENS {
                let mut cases = vec![vec![127; len], vec![-127; len], vec![0; len]];
                cases.push((0..len).map(|place| if place % 2 == 0 { 127 } else { -127 }).collect());
                cases.extend((1..5).map(|seed| codes(seed, len)));
                let table: Vec<i8> = cases.concat();
                for query in &cases {
                    let dot = |row: &Vec<i8>| -> i32 {
                        query.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
                    };
                    let expected: Vec<i32> = cases.iter().map(dot).collect();
                    let mut scanned = vec![i32::MIN; cases.len()];
                    kernel.scan_codes(query, &table, &mut scanned);
                    assert_eq!(scanned, expected, "{} at {len}", kernel.name());
                    let order: Vec<u32> = (0..cases.len() as u32).rev().chain([3, 3]).collect();
                    let mut gathered = vec![7];
                    kernel.gather_codes(query, &table, &order, &mut gathered);
                    let turned: Vec<i32> = order.iter().map(|row| expected[*row as usize]).collect();
                    assert_eq!(gathered, turned, "{} at {len}", kernel.name());
                    assert_eq!(kernel.dot_codes(query, &cases[4]), expected[4], "{} at {len}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn the_code_that_no_quantiser_writes_makes_a_number_all_the_same() {
        for kernel in Kernel::available() {
            let found = kernel.dot_codes(&[-127; 4096], &[-128; 4096]);
            assert!(found.abs() <= 128 * 128 * 4096, "{}: {found}", kernel.name());
        }
    }

    #[test]
    fn every_kernel_multiplies_halves_as_plain_arithmetic_does() {
        for kernel in Kernel::available() {
            for len in CODE_LENS {
                let query = values(9, len);
                let rows: Vec<Vec<u16>> = (1..9).map(|seed| halves(&values(seed, len))).collect();
                let expected: Vec<f64> = rows
                    .iter()
                    .map(|row| {
                        let exact = |bits: &u16| f64::from(f16::from_bits(*bits));
                        query.iter().zip(row).map(|(a, b)| f64::from(*a) * exact(b)).sum()
                    })
                    .collect();
                let mut found = vec![9.0];
                let order: Vec<u32> = (0..rows.len() as u32).rev().collect();
                kernel.gather_halves(&query, &rows.concat(), &order, &mut found);
                for (row, found) in order.into_iter().zip(found) {
                    let one = kernel.dot_halves(&query, &rows[row as usize]);
                    assert_eq!(one.to_bits(), found.to_bits(), "{} at {len}", kernel.name());
                    let (expected, bound) = (expected[row as usize], 1e-6 * (len as f64).sqrt());
                    assert!(
                        (f64::from(found) - expected).abs() <= bound,
                        "{} at {len}: {found} is not {expected}",
                        kernel.name()
                    );
                }
            }
        }
    }

    #[test]
    fn every_half_is_read_exactly() {
        for kernel in Kernel::available() {
            let mut query = [0.0; CODE_LANE];
            for bits in 0..=u16::MAX {
                let mut row = [0; CODE_LANE];
                let place = usize::from(bits) % CODE_LANE;
                query[place] = 1.0;
                row[place] = bits;
                let (found, expected) = (kernel.dot_halves(&query, &row), f16::from_bits(bits).to_f32());
                query[place] = 0.0;
                let same = found == expected || (found.is_nan() && expected.is_nan());
                assert!(same, "{}: {bits:04x} is {expected}, not {found}", kernel.name());
            }
        }
    }

    #[test]
    fn a_row_beyond_the_table_is_refused_by_every_kernel() {
        for kernel in Kernel::available() {
            let gather = || kernel.gather_codes(&[1; 64], &[1; 640], &[9, 10], &mut Vec::new());
            assert!(std::panic::catch_unwind(gather).is_err(), "{}", kernel.name());
            let gather = || kernel.gather_halves(&[1.0; 64], &[1; 640], &[u32::MAX], &mut Vec::new());
            assert!(std::panic::catch_unwind(gather).is_err(), "{}", kernel.name());
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
