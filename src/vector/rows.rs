//! Vectors as the index keeps them: a code of one byte a value for finding, a 16-bit float a value for ranking.
//!
//! A code is the unit vector times a number that makes its largest value 127. The number is another one for each
//! vector and kept beside it, so that the code uses all 255 steps whatever the dimensions are: with one number
//! for all vectors, those of 384 dimensions use 50 of them, and a search finds 95 of 100 neighbours at best.

use half::f16;

use super::kernels::CODE_LANE;

/// The largest value of a code; the smallest is its negative.
const CODE_MAX: f32 = 127.0;

/// The length of a row of this many dimensions.
pub(crate) fn padded(dimensions: usize) -> usize {
    dimensions.next_multiple_of(CODE_LANE)
}

/// Appends the code of a vector, filled up with zeros, and returns its scale: values are code times scale.
///
/// A vector of zeros, or with values that are no numbers, gets a scale of zero, so that it is far from everything.
pub(crate) fn quantize(vector: &[f32], codes: &mut Vec<i8>) -> f32 {
    let largest = vector.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let end = codes.len() + padded(vector.len());
    let usable = largest.is_normal();
    if usable {
        let factor = CODE_MAX / largest;
        // A value that is no number becomes 0.
        codes.extend(vector.iter().map(|value| (value * factor).round().clamp(-CODE_MAX, CODE_MAX) as i8));
    }
    codes.resize(end, 0);
    if usable { largest / CODE_MAX } else { 0.0 }
}

/// Appends a vector as the bits of 16-bit floats, filled up with zeros.
pub(crate) fn halve(vector: &[f32], halves: &mut Vec<u16>) {
    let end = halves.len() + padded(vector.len());
    halves.extend(vector.iter().map(|value| f16::from_f32(*value).to_bits()));
    halves.resize(end, 0);
}

/// Vectors of length 1 as rows of three tables.
///
/// They may be parts of a mapped file: searches hold whatever bytes there are.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `stride` values for each row, as [`quantize`] made them.
    pub(crate) codes: &'a [i8],
    /// The scale of each row.
    pub(crate) scales: &'a [f32],
    /// `stride` values for each row, as [`halve`] made them.
    pub(crate) halves: &'a [u16],
    /// The length of a row: [`padded`] dimensions.
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// How many rows there are in all three tables.
    pub(crate) fn len(&self) -> usize {
        let whole = |values: usize| values.checked_div(self.stride).unwrap_or(0);
        self.scales.len().min(whole(self.codes.len())).min(whole(self.halves.len()))
    }

    /// The code of a row.
    pub(crate) fn code(&self, row: u32) -> &'a [i8] {
        &self.codes[row as usize * self.stride..][..self.stride]
    }
}

/// What rows are compared with: a vector of length 1.
pub(crate) struct Query {
    code: Vec<i8>,
    values: Vec<f32>,
}

impl Query {
    /// A query for rows of this stride. The vector may have any length; one without a direction (zeros, or values
    /// that are no numbers) is equally far from everything.
    ///
    /// # Panics
    /// When the vector has more dimensions than the rows.
    pub(crate) fn new(vector: &[f32], stride: usize) -> Self {
        assert!(vector.len() <= stride, "{} dimensions in rows of {stride}", vector.len());
        // In f64, where the square of no f32 is infinite or zero.
        let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let mut values: Vec<f32> = if length > 0.0 && length.is_finite() {
            vector.iter().map(|value| (f64::from(*value) / length) as f32).collect()
        } else {
            Vec::with_capacity(stride)
        };
        values.resize(stride, 0.0);
        let mut code = Vec::with_capacity(stride);
        quantize(&values, &mut code);
        Self { code, values }
    }

    /// Its code. The scale is not kept: it is the same for all rows.
    pub(crate) fn code(&self) -> &[i8] {
        &self.code
    }

    /// The vector with length 1, or zeros; filled up with zeros.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::kernels::Kernel;
    use super::*;

    #[test]
    fn rows_have_a_multiple_of_64_values() {
        assert_eq!([1, 8, 64, 65, 384, 4096].map(padded), [64, 64, 64, 128, 384, 4096]);
    }

    #[test]
    fn a_code_uses_the_whole_range_and_is_filled_up_with_zeros() {
        let mut codes = vec![5];
        let scale = quantize(&[0.25, -0.5, 0.0, 0.001], &mut codes);
        assert_eq!(codes[..5], [5, 64, -127, 0, 0]);
        assert_eq!(codes.len(), 65);
        assert_eq!(scale, 0.5 / 127.0);
    }

    #[test]
    fn vectors_without_a_direction_are_zeros() {
        for vector in [[0.0; 3], [f32::NAN; 3], [f32::INFINITY, 1.0, f32::NAN], [1e-45, 0.0, 0.0]] {
            let mut codes = Vec::new();
            assert_eq!(quantize(&vector, &mut codes), 0.0, "{vector:?}");
            assert_eq!(codes, [0; 64], "{vector:?}");
        }
        let mut codes = Vec::new();
        assert!(quantize(&[f32::NAN, 1.0], &mut codes).is_finite());
        assert_eq!(codes[..2], [0, 127]);
        for vector in [[0.0; 3], [f32::NAN; 3], [f32::INFINITY, 1.0, 0.0]] {
            assert_eq!(Query::new(&vector, 64).values, [0.0; 64], "{vector:?}");
        }
    }

    #[test]
    fn rows_are_counted_by_the_shortest_table() {
        let rows = Rows { codes: &[0; 192], scales: &[0.0; 2], halves: &[0; 64], stride: 64 };
        assert_eq!(rows.len(), 1);
        assert_eq!(Rows { stride: 0, ..rows }.len(), 0);
    }

    proptest! {
        #[test]
        fn codes_and_halves_hold_a_vector_nearly(vector in prop::collection::vec(-1.0f32..1.0, 1..300)) {
            let stride = padded(vector.len());
            let query = Query::new(&vector, stride);
            let mut code = Vec::new();
            let scale = quantize(query.values(), &mut code);
            prop_assert_eq!(&code, query.code());
            for (value, code) in query.values.iter().zip(&code) {
                prop_assert!((value - f32::from(*code) * scale).abs() <= scale * 0.5001);
            }
            let mut halves = Vec::new();
            halve(&query.values, &mut halves);
            let length = Kernel::best().dot_halves(&query.values, &halves);
            let expected = if vector.iter().all(|value| *value == 0.0) { 0.0 } else { 1.0 };
            prop_assert!((length - expected).abs() < 1e-3, "{}", length);
        }
    }
}
