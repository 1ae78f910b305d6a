//! The arithmetic of the model: token ids in, one vector out.
//!
//! All of it is compiled once for each instruction set (see `kernels.rs`), so everything here is `#[inline(always)]`. Sums
//! run over a fixed number of lanes, or in the order of the index: the order is part of the results and
//! of the engine's version, so it does not depend on the machine.

use super::kernels::{Kernel, Matrix, StepInputs, TILE_ROWS_MAX, Work};
use super::layout::{DIMENSIONS, HEADS, INNER, LAYERS, PANEL, POSITIONS, STEP_INPUTS};
use super::model::{Model, Norm};
use super::tokenizer::TokenId;

/// Values of one attention head.
const HEAD: usize = DIMENSIONS / HEADS;
/// Query, key and value of a token.
const ATTENTION_WIDTH: usize = 3 * DIMENSIONS;
/// Lanes of sums over a row, and tokens of a block of transposed keys.
const LANES: usize = 16;
/// Queries that attend together, so that each load of a key or a value serves several.
const QUERIES: usize = 4;
/// Tokens whose inner values exist at the same time.
const INNER_ROWS: usize = 64;
/// What BERT adds to a variance.
const NORM_EPSILON: f32 = 1e-12;

/// A vector of the model.
pub(super) type Vector = [f32; DIMENSIONS];
/// One key value of each of the block's tokens, for each value of a head.
type KeyBlock = [[f32; LANES]; HEAD];

/// Memory that one call needs and the next can use again. It grows with the longest window, to about 2.5 MB.
#[derive(Default)]
pub(super) struct Scratch {
    /// The tokens' values between the layers.
    rows: Vec<Vector>,
    /// Query, key and value of each token.
    attention: Vec<f32>,
    /// What attention, or the inner matrices, add to the rows.
    added: Vec<f32>,
    inner: Vec<f32>,
    quantized: Quantized,
    keys: Vec<KeyBlock>,
    values: Vec<[f32; HEAD]>,
    weights: Vec<f32>,
}

/// Rows as unsigned bytes: a value is `scale * (code - zero)`.
#[derive(Default)]
struct Quantized {
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

/// One window to embed.
pub(super) struct Forward<'a> {
    pub(super) model: &'a Model,
    /// One to [`POSITIONS`] tokens of the model's vocabulary, special ones included.
    pub(super) tokens: &'a [TokenId],
    pub(super) scratch: &'a mut Scratch,
    /// Becomes the vector, of length 1.
    pub(super) vector: &'a mut Vector,
}

impl Work for Forward<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Self { model, tokens, scratch, vector } = self;
        assert!((1..=POSITIONS).contains(&tokens.len()));
        let Scratch { rows, attention, added, inner, quantized, keys, values, weights } = scratch;
        rows.resize(tokens.len(), [0.0; DIMENSIONS]);
        for (position, (row, token)) in rows.iter_mut().zip(tokens).enumerate() {
            model.embed_token(*token as usize, position, row);
            normalize(row, model.embedding_norm());
        }
        for layer in (0..LAYERS).map(|index| model.layer(index)) {
            quantized.fill(rows.as_flattened(), DIMENSIONS);
            multiply(kernel, &layer.attention_in, quantized, attention);
            added.resize(tokens.len() * DIMENSIONS, 0.0);
            for head in 0..HEADS {
                gather(attention, head, keys, values);
                weights.resize(QUERIES * keys.len() * LANES, 0.0);
                let mut out = added.as_chunks_mut().0;
                let mut queries = attention.as_chunks().0;
                while out.len() >= QUERIES {
                    attend::<QUERIES>(queries, head, keys, values, weights, out);
                    (queries, out) = (&queries[QUERIES..], &mut out[QUERIES..]);
                }
                for (query, out) in queries.chunks_exact(1).zip(out.chunks_exact_mut(1)) {
                    attend::<1>(query, head, keys, values, &mut weights[..keys.len() * LANES], out);
                }
            }
            quantized.fill(added, DIMENSIONS);
            multiply(kernel, &layer.attention_out, quantized, added);
            add_and_normalize(rows, added, layer.attention_norm);
            for rows in rows.chunks_mut(INNER_ROWS) {
                quantized.fill(rows.as_flattened(), DIMENSIONS);
                multiply(kernel, &layer.inner_in, quantized, inner);
                for value in inner.iter_mut() {
                    *value = gelu(*value);
                }
                quantized.fill(inner, INNER);
                multiply(kernel, &layer.inner_out, quantized, added);
                add_and_normalize(rows, added, layer.inner_norm);
            }
        }
        pool(rows, vector);
    }
}

impl Quantized {
    /// Takes rows of this width. A row's codes span its smallest to its largest value and include zero.
    #[inline(always)]
    fn fill(&mut self, values: &[f32], width: usize) {
        let rows = values.len() / width;
        self.codes.resize(values.len(), 0);
        self.scales.resize(rows, 0.0);
        self.zeros.resize(rows, 0);
        let targets = self.codes.chunks_exact_mut(width).zip(self.scales.iter_mut().zip(&mut self.zeros));
        for (row, (codes, (scale, zero))) in values.chunks_exact(width).zip(targets) {
            let (mut low, mut high) = ([0f32; LANES], [0f32; LANES]);
            for values in row.as_chunks::<LANES>().0 {
                for lane in 0..LANES {
                    low[lane] = if values[lane] < low[lane] { values[lane] } else { low[lane] };
                    high[lane] = if values[lane] > high[lane] { values[lane] } else { high[lane] };
                }
            }
            let low = low.into_iter().fold(0f32, f32::min);
            let high = high.into_iter().fold(0f32, f32::max);
            // A row of zeros keeps a scale that can be divided by.
            *scale = (high - low).max(1e-30) / 255.0;
            let inverse = 1.0 / *scale;
            let offset = (-low * inverse).round_ties_even();
            *zero = offset as i32;
            for (code, value) in codes.iter_mut().zip(row) {
                *code = rounded_byte(value * inverse + offset);
            }
        }
    }
}

/// The nearest integer, ties to even, of a value that is between 0 and 255 but for rounding.
#[inline(always)]
fn rounded_byte(value: f32) -> u8 {
    let value = if value < 255.0 { value } else { 255.0 };
    let value = if value > 0.0 { value } else { 0.0 };
    // Added to 1.5 * 2^23 the integer is in the lowest bits. A cast would check its range once more.
    (value + 12_582_912.0).to_bits() as u8
}

/// Sets `out` to the matrix times the rows, row by row.
#[inline(always)]
fn multiply<K: Kernel>(kernel: K, matrix: &Matrix<'_>, rows: &Quantized, out: &mut Vec<f32>) {
    let (outputs, inputs) = (matrix.shape.outputs, matrix.shape.inputs);
    let row_count = rows.scales.len();
    out.resize(row_count * outputs, 0.0);
    let steps: &[StepInputs] = rows.codes.as_chunks::<STEP_INPUTS>().0;
    let row_steps = inputs / STEP_INPUTS;
    // Tiles of about equal size, as a tile of one row costs nearly as much as one of several.
    let tile_rows = row_count.div_ceil(row_count.div_ceil(K::TILE_ROWS).max(1)).max(1);
    let mut sums = [[0; PANEL]; TILE_ROWS_MAX];
    for panel in 0..outputs / PANEL {
        let weights = matrix.panel(panel);
        let first_output = panel * PANEL;
        let scales = &matrix.scales[first_output..][..PANEL];
        let biases = &matrix.biases[first_output..][..PANEL];
        let weight_sums = &matrix.sums[first_output..][..PANEL];
        for first in (0..row_count).step_by(tile_rows) {
            let count = tile_rows.min(row_count - first);
            let mut tile: [&[StepInputs]; TILE_ROWS_MAX] = [&[]; TILE_ROWS_MAX];
            for (row, tile) in (first..first + count).zip(&mut tile) {
                *tile = &steps[row * row_steps..][..row_steps];
            }
            kernel.multiply(weights, &tile[..count], &mut sums);
            for (row, sums) in (first..first + count).zip(&sums) {
                let (scale, zero) = (rows.scales[row], rows.zeros[row]);
                let out = &mut out[row * outputs + first_output..][..PANEL];
                for lane in 0..PANEL {
                    // The weights of a right file are far from an overflow; those of a wrong one may not panic.
                    let sum = sums[lane].wrapping_sub(zero.wrapping_mul(weight_sums[lane])) as f32;
                    out[lane] = sum * scales[lane] * scale + biases[lane];
                }
            }
        }
    }
}

/// Brings together what a head needs of all tokens: in the rows of a batch it is far apart, at strides that share
/// few sets of the processor's cache.
#[inline(always)]
fn gather(attention: &[f32], head: usize, keys: &mut Vec<KeyBlock>, values: &mut Vec<[f32; HEAD]>) {
    let rows = attention.as_chunks::<ATTENTION_WIDTH>().0;
    keys.resize(rows.len().div_ceil(LANES), [[0.0; LANES]; HEAD]);
    values.resize(rows.len(), [0.0; HEAD]);
    for ((token, row), values) in rows.iter().enumerate().zip(values) {
        let block = &mut keys[token / LANES];
        for (lanes, value) in block.iter_mut().zip(&row[DIMENSIONS + head * HEAD..][..HEAD]) {
            lanes[token % LANES] = *value;
        }
        values.copy_from_slice(&row[2 * DIMENSIONS + head * HEAD..][..HEAD]);
    }
}

/// Attention of one head for the queries of `COUNT` tokens in a row. Their weights need `COUNT` rows of scores.
#[inline(always)]
fn attend<const COUNT: usize>(
    attention: &[[f32; ATTENTION_WIDTH]],
    head: usize,
    keys: &[KeyBlock],
    values: &[[f32; HEAD]],
    weights: &mut [f32],
    out: &mut [Vector],
) {
    let scale = 1.0 / (HEAD as f32).sqrt();
    let width = keys.len() * LANES;
    let mut queries = [[0f32; HEAD]; COUNT];
    for (query, row) in queries.iter_mut().zip(attention) {
        for (value, stored) in query.iter_mut().zip(&row[head * HEAD..]) {
            *value = stored * scale;
        }
    }
    for (block, keys) in keys.iter().enumerate() {
        let mut scores = [[0f32; LANES]; COUNT];
        for (value, keys) in keys.iter().enumerate() {
            for query in 0..COUNT {
                for lane in 0..LANES {
                    scores[query][lane] += queries[query][value] * keys[lane];
                }
            }
        }
        for (query, scores) in scores.iter().enumerate() {
            weights[query * width + block * LANES..][..LANES].copy_from_slice(scores);
        }
    }
    for weights in weights.chunks_exact_mut(width) {
        softmax(weights, values.len());
    }
    // Half a head at a time: these sums then stay in registers.
    for half in 0..HEAD / LANES {
        let mut sums = [[0f32; LANES]; COUNT];
        for (token, values) in values.iter().enumerate() {
            let values = &values.as_chunks::<LANES>().0[half];
            // Fetched first, because a bounds check between the additions would keep them from being one instruction.
            let mut factors = [0f32; COUNT];
            for (query, factor) in factors.iter_mut().enumerate() {
                *factor = weights[query * width + token];
            }
            for query in 0..COUNT {
                add_scaled(&mut sums[query], factors[query], values);
            }
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            out[head * HEAD + half * LANES..][..LANES].copy_from_slice(sums);
        }
    }
}

#[inline(always)]
fn add_scaled(sums: &mut [f32; LANES], factor: f32, values: &[f32; LANES]) {
    for lane in 0..LANES {
        sums[lane] += factor * values[lane];
    }
}

/// Turns the first `count` scores into weights that sum to 1, and the others into 0.
#[inline(always)]
fn softmax(scores: &mut [f32], count: usize) {
    let (used, unused) = scores.split_at_mut(count);
    let blocks = used.as_chunks_mut::<LANES>();
    let mut greatest = [f32::MIN; LANES];
    for scores in blocks.0.iter() {
        for lane in 0..LANES {
            greatest[lane] = if scores[lane] > greatest[lane] { scores[lane] } else { greatest[lane] };
        }
    }
    let greatest = greatest.iter().chain(blocks.1.iter()).fold(f32::MIN, |a, b| if *b > a { *b } else { a });
    let mut sums = [0f32; LANES];
    for scores in blocks.0.iter_mut() {
        for lane in 0..LANES {
            scores[lane] = exp(scores[lane] - greatest);
            sums[lane] += scores[lane];
        }
    }
    for (score, sum) in blocks.1.iter_mut().zip(&mut sums) {
        *score = exp(*score - greatest);
        *sum += *score;
    }
    let inverse = 1.0 / sum_lanes(sums);
    for score in used {
        *score *= inverse;
    }
    unused.fill(0.0);
}

#[inline(always)]
fn add_and_normalize(rows: &mut [Vector], added: &[f32], norm: &Norm) {
    for (row, added) in rows.iter_mut().zip(added.as_chunks::<DIMENSIONS>().0) {
        for (value, added) in row.iter_mut().zip(added) {
            *value += added;
        }
        normalize(row, norm);
    }
}

/// Layer normalisation.
#[inline(always)]
fn normalize(row: &mut Vector, norm: &Norm) {
    let mean = lanes(row, |value| value) / DIMENSIONS as f32;
    let variance = lanes(row, |value| (value - mean) * (value - mean)) / DIMENSIONS as f32;
    let inverse = 1.0 / (variance + NORM_EPSILON).sqrt();
    for (value, (gain, bias)) in row.iter_mut().zip(norm.gains.iter().zip(&norm.biases)) {
        *value = (*value - mean) * inverse * gain + bias;
    }
}

/// The mean of the rows, scaled to length 1.
#[inline(always)]
fn pool(rows: &[Vector], vector: &mut Vector) {
    *vector = [0.0; DIMENSIONS];
    for row in rows {
        for (sum, value) in vector.iter_mut().zip(row) {
            *sum += value;
        }
    }
    // The number of rows need not be divided by, as only the direction stays.
    let length = lanes(vector, |value| value * value).sqrt();
    for value in vector {
        *value /= length;
    }
}

/// The sum of a function of the values, over parallel lanes.
#[inline(always)]
fn lanes(row: &Vector, of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    for values in row.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += of(values[lane]);
        }
    }
    sum_lanes(sums)
}

#[inline(always)]
fn sum_lanes(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// e to the power of a value that is at most about 0: relative error below 3e-7, and 0 never reached.
#[inline(always)]
fn exp(value: f32) -> f32 {
    // Powers of ln 2 over factorials: the series of 2^x.
    const SERIES: [f32; 7] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_5,
        0.055_504_11,
        0.009_618_129,
        0.001_333_355_8,
        0.000_154_035_3,
    ];
    let value = if value > -87.0 { value } else { -87.0 };
    let power = value * std::f32::consts::LOG2_E;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
    let rounded = power + 12_582_912.0;
    let fraction = power - (rounded - 12_582_912.0);
    let series = SERIES.iter().rev().fold(0.0, |sum, term| sum * fraction + term);
    // The sum's exponent field takes the integer; the bits above it fall off.
    f32::from_bits((rounded.to_bits() << 23).wrapping_add(series.to_bits()))
}

/// The Gaussian error linear unit, with an error function that is right to 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn gelu(value: f32) -> f32 {
    const TERMS: [f32; 6] = [0.0, 0.254_829_6, -0.284_496_72, 1.421_413_8, -1.453_152, 1.061_405_4];
    let magnitude = value.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let tail = TERMS.iter().rev().fold(0.0, |sum, term| sum * t + term) * exp(-magnitude * magnitude);
    0.5 * value * (1.0 + (1.0 - tail).copysign(value))
}
