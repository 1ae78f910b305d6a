//! The packed model as the engine reads it. Spec: `format-spec/model-file.md`.
//!
//! Any bytes may come in: every offset and length is checked before it is used, so a damaged file gives a [`Damage`].
//! Opening reads only the head, the tokenizer and the small tables, about 0.8 MB, because a process that answers one
//! question must not read 18 MB first. The checksums of the big tables are for [`Model::verify`]; wrong weights
//! with a good head give wrong numbers, never undefined behaviour.

use std::borrow::Cow;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::kernels::{Matrix, Step};
use super::layout::{
    self, CODEBOOK, DIMENSIONS, FIRST_LAYER, FIRST_WEIGHTS, GROUP, LAYERS, SECTIONS, Section, Shape, entry,
    header,
};
use super::tokenizer::{Specials, Vocabulary};
use crate::format::Damage;

/// A model whose layout has been checked.
pub(super) struct Model {
    bytes: Cow<'static, [u8]>,
    sections: [Range<usize>; SECTIONS],
    token_len_longest: usize,
    specials: Specials,
    codebook: [f32; CODEBOOK],
    embedding_norm: Norm,
    layers: Vec<LayerParts>,
}

/// Gains and biases of a layer normalisation.
pub(super) struct Norm {
    pub(super) gains: [f32; DIMENSIONS],
    pub(super) biases: [f32; DIMENSIONS],
}

/// One encoder layer, ready for the kernels.
pub(super) struct Layer<'a> {
    pub(super) attention_in: Matrix<'a>,
    pub(super) attention_out: Matrix<'a>,
    pub(super) attention_norm: &'a Norm,
    pub(super) inner_in: Matrix<'a>,
    pub(super) inner_out: Matrix<'a>,
    pub(super) inner_norm: &'a Norm,
}

/// What of a layer is decoded once; the weights stay where they are.
struct LayerParts {
    attention_in: MatrixParts,
    attention_out: MatrixParts,
    attention_norm: Norm,
    inner_in: MatrixParts,
    inner_out: MatrixParts,
    inner_norm: Norm,
}

struct MatrixParts {
    shape: Shape,
    weights: Range<usize>,
    scales: Vec<f32>,
    biases: Vec<f32>,
    sums: Vec<i32>,
}

impl Model {
    /// Checks the head, the tokenizer and the small tables, and decodes what is small.
    pub(super) fn parse(bytes: Cow<'static, [u8]>) -> Result<Self, Damage> {
        let head = bytes
            .get(..layout::HEAD_LEN)
            .ok_or(Damage::Short { found: bytes.len(), expected: layout::HEAD_LEN })?;
        check_head(head, bytes.len())?;
        let vocabulary_len = le_u32(head, header::VOCABULARY) as usize;
        let sections = sections(head, bytes.len(), vocabulary_len)?;
        for index in (0..=FIRST_WEIGHTS).chain([Section::EmbeddingNorm as usize]) {
            check_section(head, index, &bytes[sections[index].clone()])?;
        }

        let token_len_longest = le_u32(head, header::TOKEN_LEN_LONGEST) as usize;
        let specials = Specials::find(&vocabulary(&bytes, &sections, token_len_longest))
            .ok_or(Damage::Codec("a special token is missing from the vocabulary".to_owned()))?;
        let mut codebook = [0.0; CODEBOOK];
        let codebook_bytes = &bytes[sections[Section::Codebook as usize].clone()];
        codebook.iter_mut().zip(le_f32s(codebook_bytes)).for_each(|(value, stored)| *value = stored);
        let embedding_norm = Reader::new(&bytes, &sections[Section::EmbeddingNorm as usize]).norm();
        let layers = sections[FIRST_LAYER..]
            .iter()
            .map(|section| {
                let mut reader = Reader::new(&bytes, section);
                LayerParts {
                    attention_in: reader.matrix(layout::ATTENTION_IN),
                    attention_out: reader.matrix(layout::ATTENTION_OUT),
                    attention_norm: reader.norm(),
                    inner_in: reader.matrix(layout::INNER_IN),
                    inner_out: reader.matrix(layout::INNER_OUT),
                    inner_norm: reader.norm(),
                }
            })
            .collect();
        Ok(Self { sections, token_len_longest, specials, codebook, embedding_norm, layers, bytes })
    }

    /// Compares every checksum and both digests with the bytes. Reads the whole file, which takes tens of milliseconds.
    pub(super) fn verify(&self) -> Result<(), Damage> {
        let head = &self.bytes[..layout::HEAD_LEN];
        let (mut tokenizer, mut weights) = (Sha256::new(), Sha256::new());
        let mut end = layout::HEAD_LEN;
        for (index, section) in self.sections.iter().enumerate() {
            let padding = self.bytes[end..section.start].iter().find(|byte| **byte != 0);
            expect("padding byte", padding.copied().unwrap_or(0).into(), 0)?;
            end = section.end;
            let section = &self.bytes[section.clone()];
            check_section(head, index, section)?;
            if index < FIRST_WEIGHTS { &mut tokenizer } else { &mut weights }.update(section);
        }
        let matches = tokenizer.finalize()[..] == *self.digest(header::TOKENIZER_SHA256)
            && weights.finalize()[..] == *self.digest(header::WEIGHTS_SHA256);
        if matches { Ok(()) } else { Err(Damage::Codec("a SHA-256 is not that of the bytes".to_owned())) }
    }

    /// SHA-256 of the weights' sections.
    pub(super) fn weights_sha256(&self) -> &[u8] {
        self.digest(header::WEIGHTS_SHA256)
    }

    /// SHA-256 of the tokenizer's sections.
    pub(super) fn tokenizer_sha256(&self) -> &[u8] {
        self.digest(header::TOKENIZER_SHA256)
    }

    pub(super) fn vocabulary(&self) -> Vocabulary<'_> {
        vocabulary(&self.bytes, &self.sections, self.token_len_longest)
    }

    pub(super) fn specials(&self) -> &Specials {
        &self.specials
    }

    pub(super) fn embedding_norm(&self) -> &Norm {
        &self.embedding_norm
    }

    /// Writes the embedding of a token of the vocabulary at a position of the window, before normalisation.
    #[inline(always)]
    pub(super) fn embed_token(&self, id: usize, position: usize, row: &mut [f32; DIMENSIONS]) {
        let codes = &self.section(Section::WordCodes)[id * DIMENSIONS / 2..][..DIMENSIONS / 2];
        let scales =
            &self.section(Section::WordScales)[id * DIMENSIONS / GROUP * 2..][..DIMENSIONS / GROUP * 2];
        let positions = &self.section(Section::Positions)[position * DIMENSIONS * 4..][..DIMENSIONS * 4];
        let groups = row.as_chunks_mut::<GROUP>().0.iter_mut().zip(codes.as_chunks::<{ GROUP / 2 }>().0);
        for ((row, codes), scale) in groups.zip(scales.as_chunks::<2>().0) {
            let scale = half(u16::from_le_bytes(*scale));
            for (pair, code) in row.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                *pair = [
                    self.codebook[usize::from(code & 15)] * scale,
                    self.codebook[usize::from(code >> 4)] * scale,
                ];
            }
        }
        row.iter_mut().zip(le_f32s(positions)).for_each(|(value, position)| *value += position);
    }

    /// A layer, counted from 0 and below [`LAYERS`].
    pub(super) fn layer(&self, index: usize) -> Layer<'_> {
        let parts = &self.layers[index];
        Layer {
            attention_in: self.matrix(&parts.attention_in),
            attention_out: self.matrix(&parts.attention_out),
            attention_norm: &parts.attention_norm,
            inner_in: self.matrix(&parts.inner_in),
            inner_out: self.matrix(&parts.inner_out),
            inner_norm: &parts.inner_norm,
        }
    }

    fn matrix<'a>(&'a self, parts: &'a MatrixParts) -> Matrix<'a> {
        let steps: &[Step] = self.bytes[parts.weights.clone()].as_chunks().0;
        Matrix::new(parts.shape, steps, &parts.scales, &parts.biases, &parts.sums)
    }

    fn section(&self, section: Section) -> &[u8] {
        &self.bytes[self.sections[section as usize].clone()]
    }

    fn digest(&self, offset: usize) -> &[u8] {
        &self.bytes[offset..offset + 32]
    }
}

fn vocabulary<'a>(
    bytes: &'a [u8],
    sections: &[Range<usize>; SECTIONS],
    token_len_longest: usize,
) -> Vocabulary<'a> {
    let section = |section: Section| &bytes[sections[section as usize].clone()];
    Vocabulary {
        token_len_longest,
        text: section(Section::TokenText),
        ends: section(Section::TokenEnds).as_chunks().0,
        slots: section(Section::TokenSlots).as_chunks().0,
        classes: section(Section::CharClasses).as_chunks().0,
    }
}

fn check_head(head: &[u8], file_len: usize) -> Result<(), Damage> {
    if head[header::MAGIC..][..8] != layout::MAGIC {
        return Err(Damage::Magic);
    }
    expect("format version", le_u32(head, header::VERSION).into(), layout::VERSION.into())?;
    let stored = le_u32(head, header::CRC);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..header::CRC]);
    crc.update(&[0; 4]);
    crc.update(&head[header::CRC + 4..]);
    let computed = crc.finalize();
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    expect("file length", le_u64(head, header::FILE_LEN), file_len as u64)?;
    for (name, offset, expected) in [
        ("section count", header::SECTIONS, SECTIONS),
        ("dimension count", header::DIMENSIONS, DIMENSIONS),
        ("layer count", header::LAYERS, LAYERS),
        ("head count", header::HEADS, layout::HEADS),
        ("inner width", header::INNER, layout::INNER),
        ("position count", header::POSITIONS, layout::POSITIONS),
    ] {
        expect(name, le_u32(head, offset).into(), expected as u64)?;
    }
    at_most(le_u32(head, header::VOCABULARY).into(), layout::VOCABULARY_MAX as u64)?;
    at_most(le_u32(head, header::TOKEN_LEN_LONGEST).into(), layout::TOKEN_LEN_MAX.into())?;
    let reserved = head[header::RESERVED..header::SOURCE_WEIGHTS_SHA256]
        .iter()
        .chain(&head[header::RESERVED_END..header::LEN])
        .find(|byte| **byte != 0);
    expect("reserved byte", reserved.copied().unwrap_or(0).into(), 0)
}

/// The sections in their order, each where the one before it ends, the last ending with the file.
fn sections(head: &[u8], file_len: usize, vocabulary: usize) -> Result<[Range<usize>; SECTIONS], Damage> {
    let mut sections = [const { 0..0 }; SECTIONS];
    let mut end = layout::HEAD_LEN;
    for (index, section) in sections.iter_mut().enumerate() {
        let fields = &head[header::LEN + index * entry::LEN..][..entry::LEN];
        expect("section number", le_u32(fields, entry::NUMBER).into(), index as u64 + 1)?;
        let start = layout::aligned(end);
        expect("section offset", le_u64(fields, entry::OFFSET), start as u64)?;
        expect("reserved field", le_u64(fields, entry::RESERVED), 0)?;
        let length = le_u64(fields, entry::LENGTH);
        match layout::section_len(index, vocabulary) {
            Some(expected) => expect("section length", length, expected as u64)?,
            None if index == Section::TokenText as usize => at_most(length, layout::TOKEN_TEXT_LEN_MAX)?,
            None => at_most(length, layout::CLASSES_MAX * layout::CLASS_LEN as u64)?,
        }
        // The length is below its limit, so it fits an address and the sum cannot overflow.
        end = start + length as usize;
        *section = start..end;
    }
    if end != file_len {
        return Err(Damage::Short { found: file_len, expected: end });
    }
    Ok(sections)
}

fn check_section(head: &[u8], index: usize, section: &[u8]) -> Result<(), Damage> {
    let stored = le_u32(head, header::LEN + index * entry::LEN + entry::CRC);
    let computed = crc32fast::hash(section);
    if stored == computed { Ok(()) } else { Err(Damage::Checksum { stored, computed }) }
}

fn expect(name: &'static str, found: u64, expected: u64) -> Result<(), Damage> {
    if found == expected { Ok(()) } else { Err(Damage::Field { name, found }) }
}

fn at_most(found: u64, limit: u64) -> Result<(), Damage> {
    if found <= limit { Ok(()) } else { Err(Damage::TooLong { found, limit }) }
}

/// Reads the parts of a section whose length has been checked.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], section: &Range<usize>) -> Self {
        Self { bytes, position: section.start }
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.bytes[self.position..][..length];
        self.position += length;
        taken
    }

    fn norm(&mut self) -> Norm {
        let mut norm = Norm { gains: [0.0; DIMENSIONS], biases: [0.0; DIMENSIONS] };
        let values = norm.gains.iter_mut().chain(&mut norm.biases);
        values.zip(le_f32s(self.take(layout::NORM_LEN))).for_each(|(value, stored)| *value = stored);
        norm
    }

    fn matrix(&mut self, shape: Shape) -> MatrixParts {
        let start = self.position;
        self.take(shape.weights_len());
        let weights = start..self.position;
        let scales = le_f32s(self.take(shape.outputs * 4)).collect();
        let biases = le_f32s(self.take(shape.outputs * 4)).collect();
        let sums = self.take(shape.outputs * 4).as_chunks::<4>().0.iter();
        MatrixParts {
            shape,
            weights,
            scales,
            biases,
            sums: sums.map(|sum| i32::from_le_bytes(*sum)).collect(),
        }
    }
}

#[inline(always)]
fn le_f32s(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value))
}

fn le_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn le_u64(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

/// The value of a half-precision number.
#[inline(always)]
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10) & 31, u32::from(bits) & 0x3ff);
    let magnitude = match exponent {
        0 => fraction as f32 * f32::from_bits(0x3380_0000), // 2^-24
        31 => f32::from_bits(0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(((exponent + 112) << 23) | (fraction << 13)),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}
