//! The inner products, for each instruction set that is worth its own code, and the choice between them at run time.
//!
//! Inputs are unsigned bytes, weights signed bytes, sums 32-bit integers: every kernel gives exactly the same sums, so the
//! vectors of a text are the same on every machine. The rest of the arithmetic is portable code that
//! [`InstructionSet::run`] compiles once for each instruction set; it names each operation in its order, and Rust neither
//! reorders nor fuses floating-point operations, so wider registers do not change its results either.
//!
//! This is the engine's only file with `unsafe`: loads of whole arrays, and calls of functions whose instructions have been
//! detected.

#![allow(unsafe_code)]

use super::layout::{INNER, PANEL, STEP_INPUTS, STEP_LEN, Shape};

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Weights of a panel's outputs for the next few inputs: those of the first output, those of the second, and so on.
pub(super) type Step = [u8; STEP_LEN];
/// The next few inputs of a row.
pub(super) type StepInputs = [u8; STEP_INPUTS];
/// Sums of a panel's outputs.
pub(super) type Sums = [i32; PANEL];

/// Most rows that a kernel takes at once.
pub(super) const TILE_ROWS_MAX: usize = 14;

/// A quantised matrix: an output is `scale * sum(weight * input) + bias`.
pub(super) struct Matrix<'a> {
    pub(super) shape: Shape,
    pub(super) scales: &'a [f32],
    pub(super) biases: &'a [f32],
    /// The sum of each output's weights.
    pub(super) sums: &'a [i32],
    steps: &'a [Step],
}

impl<'a> Matrix<'a> {
    pub(super) fn new(
        shape: Shape,
        steps: &'a [Step],
        scales: &'a [f32],
        biases: &'a [f32],
        sums: &'a [i32],
    ) -> Self {
        assert!(shape.outputs.is_multiple_of(PANEL) && shape.inputs.is_multiple_of(STEP_INPUTS));
        assert!(steps.len() * STEP_LEN == shape.weights_len());
        assert!([scales.len(), biases.len(), sums.len()] == [shape.outputs; 3]);
        Self { shape, scales, biases, sums, steps }
    }

    /// The steps of a panel, one for each [`STEP_INPUTS`] inputs.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &'a [Step] {
        let steps = self.shape.inputs / STEP_INPUTS;
        &self.steps[panel * steps..][..steps]
    }
}

/// Inner products of a panel with several rows at once.
pub(super) trait Kernel: Copy {
    /// Most rows of one call, at most [`TILE_ROWS_MAX`].
    const TILE_ROWS: usize;

    /// Sets `sums[row]` to the inner products of the panel's outputs with that row.
    ///
    /// # Panics
    /// When there are more rows than [`Self::TILE_ROWS`], fewer sums than rows, or a row shorter than the panel.
    fn multiply(self, panel: &[Step], rows: &[&[StepInputs]], sums: &mut [Sums]);
}

/// Work that is compiled for each instruction set. `run` must be `#[inline(always)]`, and so must what it calls, or
/// it is compiled for the oldest machine.
pub(super) trait Work {
    fn run<K: Kernel>(self, kernel: K);
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub(super) enum InstructionSet {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
}

impl InstructionSet {
    /// The fastest one.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(vnni) = Vnni::detect() {
                return Self::Vnni(vnni);
            }
            if let Some(avx2) = Avx2::detect() {
                return Self::Avx2(avx2);
            }
        }
        Self::Scalar(Scalar)
    }

    /// All of them, the slowest first.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Scalar(Scalar)];
        #[cfg(target_arch = "x86_64")]
        all.extend(Avx2::detect().map(Self::Avx2).into_iter().chain(Vnni::detect().map(Self::Vnni)));
        all
    }

    pub(super) fn run(self, work: impl Work) {
        match self {
            Self::Scalar(scalar) => work.run(scalar),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => avx2.run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(vnni) => vnni.run(work),
        }
    }
}

/// Calls a kernel that is generic over the number of rows.
macro_rules! with_row_count {
    ($function:ident($panel:expr, $rows:expr, $sums:expr), $($count:literal)*) => {
        match $rows.len() {
            $($count => {
                let rows: &[&[StepInputs]; $count] = $rows.try_into().expect("the match gives the count");
                $function::<$count>($panel, *rows, $sums)
            })*
            count => unreachable!("a tile of {count} rows"),
        }
    };
}

/// Portable code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

impl Kernel for Scalar {
    const TILE_ROWS: usize = TILE_ROWS_MAX;

    #[inline(always)]
    fn multiply(self, panel: &[Step], rows: &[&[StepInputs]], sums: &mut [Sums]) {
        let mut weights = [0i16; INNER];
        let weights = &mut weights[..panel.len() * STEP_INPUTS];
        for output in 0..PANEL {
            // In one row, because a long sum of products is what compilers know to vectorise.
            for (weights, step) in weights.as_chunks_mut::<STEP_INPUTS>().0.iter_mut().zip(panel) {
                let bytes = &step.as_chunks::<STEP_INPUTS>().0[output];
                for (weight, byte) in weights.iter_mut().zip(bytes) {
                    *weight = i16::from(byte.cast_signed());
                }
            }
            for (row, sums) in rows.iter().zip(&mut sums[..rows.len()]) {
                let inputs = row[..panel.len()].as_flattened();
                let mut sum = 0;
                for (weight, input) in weights.iter().zip(inputs) {
                    sum += i32::from(*weight) * i32::from(*input);
                }
                sums[output] = sum;
            }
        }
    }
}

/// AVX2, present.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    fn run(self, work: impl Work) {
        #[target_feature(enable = "avx2")]
        fn run(avx2: Avx2, work: impl Work) {
            work.run(avx2);
        }
        // SAFETY: only `detect` makes an `Avx2`, after it has found the instructions.
        unsafe { run(self, work) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Kernel for Avx2 {
    const TILE_ROWS: usize = 3;

    #[inline(always)]
    fn multiply(self, panel: &[Step], rows: &[&[StepInputs]], sums: &mut [Sums]) {
        #[target_feature(enable = "avx2")]
        fn multiply<const ROWS: usize>(panel: &[Step], rows: [&[StepInputs]; ROWS], sums: &mut [Sums]) {
            let mut rows = rows;
            for row in &mut rows {
                *row = &row[..panel.len()];
            }
            // Registers last for sixteen outputs of three rows.
            for half in 0..2 {
                let mut pairs = [[_mm256_setzero_si256(); 4]; ROWS];
                for (index, step) in panel.iter().enumerate() {
                    let weights: [_; 4] = std::array::from_fn(|quarter| {
                        _mm256_cvtepi8_epi16(load_16(&step.as_chunks::<16>().0[half * 4 + quarter]))
                    });
                    for (pairs, row) in pairs.iter_mut().zip(rows) {
                        let inputs = _mm_cvtsi32_si128(i32::from_le_bytes(row[index]));
                        let inputs = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(inputs));
                        for (pair, weights) in pairs.iter_mut().zip(weights) {
                            *pair = _mm256_add_epi32(*pair, _mm256_madd_epi16(weights, inputs));
                        }
                    }
                }
                for (sums, pairs) in sums.iter_mut().zip(pairs) {
                    let outputs = sums.as_chunks_mut::<8>().0;
                    for (quarter, pairs) in pairs.as_chunks::<2>().0.iter().enumerate() {
                        // The horizontal sum works within 128-bit halves, so its middle quarters change places.
                        let added = _mm256_hadd_epi32(pairs[0], pairs[1]);
                        let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(added);
                        store_256(&mut outputs[half * 2 + quarter], ordered);
                    }
                }
            }
        }
        let sums = &mut sums[..rows.len()];
        // SAFETY: only `detect` makes an `Avx2`, after it has found the instructions.
        unsafe { with_row_count!(multiply(panel, rows, sums), 1 2 3) }
    }
}

/// AVX-512 with its byte inner products, present.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Vnni(());

#[cfg(target_arch = "x86_64")]
impl Vnni {
    fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }

    fn run(self, work: impl Work) {
        #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn run(vnni: Vnni, work: impl Work) {
            work.run(vnni);
        }
        // SAFETY: only `detect` makes a `Vnni`, after it has found the instructions.
        unsafe { run(self, work) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Kernel for Vnni {
    /// Two registers of sums for each row, two of weights and one of inputs: 31 of 32.
    const TILE_ROWS: usize = TILE_ROWS_MAX;

    #[inline(always)]
    fn multiply(self, panel: &[Step], rows: &[&[StepInputs]], sums: &mut [Sums]) {
        #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn multiply<const ROWS: usize>(panel: &[Step], rows: [&[StepInputs]; ROWS], sums: &mut [Sums]) {
            let mut rows = rows;
            for row in &mut rows {
                *row = &row[..panel.len()];
            }
            let mut low = [_mm512_setzero_si512(); ROWS];
            let mut high = [_mm512_setzero_si512(); ROWS];
            for (index, step) in panel.iter().enumerate() {
                let halves = step.as_chunks::<64>().0;
                let weights = (load_64(&halves[0]), load_64(&halves[1]));
                for row in 0..ROWS {
                    let inputs = _mm512_set1_epi32(i32::from_le_bytes(rows[row][index]));
                    low[row] = _mm512_dpbusd_epi32(low[row], inputs, weights.0);
                    high[row] = _mm512_dpbusd_epi32(high[row], inputs, weights.1);
                }
            }
            for (sums, halves) in sums.iter_mut().zip(low.into_iter().zip(high)) {
                let outputs = sums.as_chunks_mut::<16>().0;
                store_512(&mut outputs[0], halves.0);
                store_512(&mut outputs[1], halves.1);
            }
        }
        let sums = &mut sums[..rows.len()];
        // SAFETY: only `detect` makes a `Vnni`, after it has found the instructions.
        unsafe { with_row_count!(multiply(panel, rows, sums), 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the sixteen bytes, and this load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn load_64(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes, and this load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn store_256(values: &mut [i32; 8], register: __m256i) {
    // SAFETY: the array has the 32 bytes, and this store needs no alignment.
    unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), register) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn store_512(values: &mut [i32; 16], register: __m512i) {
    // SAFETY: the array has the 64 bytes, and this store needs no alignment.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), register) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random, from a seed.
    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(length)
        .collect()
    }

    /// The definition, without any tiling.
    fn expected(panel: &[Step], row: &[StepInputs]) -> Sums {
        std::array::from_fn(|output| {
            panel.iter().zip(row).fold(0, |sum, (step, inputs)| {
                let weights = &step[output * STEP_INPUTS..][..STEP_INPUTS];
                weights.iter().zip(inputs).fold(sum, |sum, (weight, input)| {
                    sum + i32::from(weight.cast_signed()) * i32::from(*input)
                })
            })
        })
    }

    struct Compare<'a> {
        panel: &'a [Step],
        rows: &'a [&'a [StepInputs]],
    }

    impl Work for Compare<'_> {
        #[inline(always)]
        fn run<K: Kernel>(self, kernel: K) {
            for count in 1..=K::TILE_ROWS {
                let mut sums = [[-1; PANEL]; TILE_ROWS_MAX];
                kernel.multiply(self.panel, &self.rows[..count], &mut sums);
                for (row, sums) in self.rows[..count].iter().zip(sums) {
                    assert_eq!(sums, expected(self.panel, row), "{count} rows");
                }
                assert!(sums[count..].iter().flatten().all(|sum| *sum == -1), "{count} rows");
            }
        }
    }

    fn compare(weights: &[u8], inputs: &[u8]) {
        let panel = weights.as_chunks::<STEP_LEN>().0;
        let steps = inputs.as_chunks::<STEP_INPUTS>().0;
        let rows: Vec<&[StepInputs]> = steps.chunks_exact(panel.len()).collect();
        for set in InstructionSet::all() {
            set.run(Compare { panel, rows: &rows });
        }
    }

    #[test]
    fn every_kernel_gives_the_sums_of_the_definition() {
        for (seed, steps) in [(1, 1), (2, 2), (3, 7), (4, 96), (5, 384)] {
            let weights = bytes(seed, steps * STEP_LEN);
            compare(&weights, &bytes(seed + 100, TILE_ROWS_MAX * steps * STEP_INPUTS));
        }
    }

    #[test]
    fn every_kernel_bears_the_greatest_sums() {
        let inputs = vec![255; TILE_ROWS_MAX * 384 * STEP_INPUTS];
        for weight in [127i8, -127, -128] {
            compare(&vec![weight.cast_unsigned(); 384 * STEP_LEN], &inputs);
        }
    }
}
