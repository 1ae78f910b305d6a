//! The bytes of a packed model file: offsets, lengths and the token hash. Spec: `format-spec/model-file.md`.
//!
//! This file names nothing outside itself, because the program that packs the file (`examples/pack_minilm.rs`)
//! compiles it too: reader and writer cannot disagree.

/// First bytes of a model file.
pub(crate) const MAGIC: [u8; 8] = *b"MMTOMDL1";
/// Version of the layout that this code reads and writes.
pub(crate) const VERSION: u32 = 1;

/// Values of a vector and of every layer's input and output.
pub(crate) const DIMENSIONS: usize = 384;
/// Encoder layers.
pub(crate) const LAYERS: usize = 6;
/// Attention heads of a layer.
pub(crate) const HEADS: usize = 12;
/// Width of a layer's inner product.
pub(crate) const INNER: usize = 1536;
/// Positions that have an embedding: most tokens of one window, special tokens included.
pub(crate) const POSITIONS: usize = 256;
/// Values of a word's row that share one scale.
pub(crate) const GROUP: usize = 32;
/// Values that a 4-bit code can stand for.
pub(crate) const CODEBOOK: usize = 16;
/// Outputs that a panel of a matrix holds side by side.
pub(crate) const PANEL: usize = 32;
/// Inputs of one output that lie side by side in a step of a panel.
pub(crate) const STEP_INPUTS: usize = 4;
/// Bytes of a step: `STEP_INPUTS` weights of each of the panel's outputs.
pub(crate) const STEP_LEN: usize = PANEL * STEP_INPUTS;

/// Most tokens of a vocabulary: the slot value above it means "empty".
pub(crate) const VOCABULARY_MAX: usize = 65_535;
/// Slots of the token table; a power of two.
pub(crate) const SLOTS: usize = 65_536;
/// A slot without a token.
pub(crate) const SLOT_EMPTY: u16 = u16::MAX;
/// Most bytes of all tokens together.
pub(crate) const TOKEN_TEXT_LEN_MAX: u64 = 4 << 20;
/// Most bytes of one token.
pub(crate) const TOKEN_LEN_MAX: u32 = 256;
/// Most ranges of character classes.
pub(crate) const CLASSES_MAX: u64 = 65_536;

/// Offsets of the header's fields.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 8;
    pub(crate) const CRC: usize = 12;
    pub(crate) const FILE_LEN: usize = 16;
    pub(crate) const SECTIONS: usize = 24;
    pub(crate) const VOCABULARY: usize = 28;
    pub(crate) const DIMENSIONS: usize = 32;
    pub(crate) const LAYERS: usize = 36;
    pub(crate) const HEADS: usize = 40;
    pub(crate) const INNER: usize = 44;
    pub(crate) const POSITIONS: usize = 48;
    pub(crate) const TOKEN_LEN_LONGEST: usize = 52;
    pub(crate) const RESERVED: usize = 56;
    pub(crate) const SOURCE_WEIGHTS_SHA256: usize = 64;
    #[allow(dead_code, reason = "only the packing program writes it; nothing needs to read it")]
    pub(crate) const SOURCE_VOCABULARY_SHA256: usize = 96;
    pub(crate) const WEIGHTS_SHA256: usize = 128;
    pub(crate) const TOKENIZER_SHA256: usize = 160;
    pub(crate) const RESERVED_END: usize = 192;
    pub(crate) const LEN: usize = 256;
}

/// Offsets of the fields of an entry of the section table, which follows the header.
pub(crate) mod entry {
    pub(crate) const NUMBER: usize = 0;
    pub(crate) const CRC: usize = 4;
    pub(crate) const OFFSET: usize = 8;
    pub(crate) const LENGTH: usize = 16;
    pub(crate) const RESERVED: usize = 24;
    pub(crate) const LEN: usize = 32;
}

/// Sections start at multiples of this, with zeros in between.
pub(crate) const SECTION_ALIGN: usize = 64;
/// Sections of a file: the nine shared ones, then one for each layer.
pub(crate) const SECTIONS: usize = 9 + LAYERS;
/// Bytes of the header and the section table.
pub(crate) const HEAD_LEN: usize = header::LEN + SECTIONS * entry::LEN;

/// The shared sections; a section's number in the file is its value plus one. Layers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Section {
    TokenText,
    TokenEnds,
    TokenSlots,
    CharClasses,
    Codebook,
    WordCodes,
    WordScales,
    Positions,
    EmbeddingNorm,
}

/// Index of the first layer's section.
pub(crate) const FIRST_LAYER: usize = Section::EmbeddingNorm as usize + 1;
/// Sections before this index belong to the tokenizer, the others are weights.
pub(crate) const FIRST_WEIGHTS: usize = Section::Codebook as usize;

/// Bytes of an entry of the character classes: first code point (u32), how many (u16), class (u16).
pub(crate) const CLASS_LEN: usize = 8;
/// Removed from the text: controls, format characters, private use.
pub(crate) const CLASS_REMOVED: u16 = 1;
/// Removed after decomposition: non-spacing marks.
pub(crate) const CLASS_MARK: u16 = 2;
/// A word of its own.
pub(crate) const CLASS_PUNCTUATION: u16 = 3;

/// How many bytes a section has; `None` where the section table alone says.
pub(crate) fn section_len(index: usize, vocabulary: usize) -> Option<usize> {
    const FIXED: [Option<usize>; FIRST_LAYER] = [
        None,
        None,
        Some(SLOTS * 2),
        None,
        Some(CODEBOOK * 4),
        None,
        None,
        Some(POSITIONS * DIMENSIONS * 4),
        Some(NORM_LEN),
    ];
    match index {
        index if index == Section::TokenEnds as usize => Some(vocabulary * 4),
        index if index == Section::WordCodes as usize => Some(vocabulary * DIMENSIONS / 2),
        index if index == Section::WordScales as usize => Some(vocabulary * DIMENSIONS / GROUP * 2),
        index if index < FIRST_LAYER => FIXED[index],
        _ => Some(LAYER_LEN),
    }
}

/// Bytes of a normalisation: gains, then biases.
pub(crate) const NORM_LEN: usize = 2 * DIMENSIONS * 4;

/// The shape of a matrix: `outputs` rows of `inputs` weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

impl Shape {
    /// Bytes of the weights.
    pub(crate) const fn weights_len(self) -> usize {
        self.outputs * self.inputs
    }

    /// Bytes of the matrix: weights, then a scale, a bias and a weight sum for each output.
    pub(crate) const fn len(self) -> usize {
        self.weights_len() + 3 * 4 * self.outputs
    }

    /// Where the weight of this output and this input lies.
    #[allow(dead_code, reason = "the packing program lays weights out with it, the engine reads whole tiles")]
    pub(crate) const fn weight_offset(self, output: usize, input: usize) -> usize {
        let (panel, lane) = (output / PANEL, output % PANEL);
        let (step, byte) = (input / STEP_INPUTS, input % STEP_INPUTS);
        (panel * (self.inputs / STEP_INPUTS) + step) * STEP_LEN + lane * STEP_INPUTS + byte
    }
}

/// Query, key and value as one matrix.
pub(crate) const ATTENTION_IN: Shape = Shape { outputs: 3 * DIMENSIONS, inputs: DIMENSIONS };
/// What attention gives back to the layer.
pub(crate) const ATTENTION_OUT: Shape = Shape { outputs: DIMENSIONS, inputs: DIMENSIONS };
/// Into the inner width.
pub(crate) const INNER_IN: Shape = Shape { outputs: INNER, inputs: DIMENSIONS };
/// Out of the inner width.
pub(crate) const INNER_OUT: Shape = Shape { outputs: DIMENSIONS, inputs: INNER };

/// Bytes of a layer: two matrices and a norm, twice, in the order of the arithmetic.
pub(crate) const LAYER_LEN: usize =
    ATTENTION_IN.len() + ATTENTION_OUT.len() + NORM_LEN + INNER_IN.len() + INNER_OUT.len() + NORM_LEN;

/// The next multiple of the sections' alignment.
pub(crate) fn aligned(offset: usize) -> usize {
    offset.next_multiple_of(SECTION_ALIGN)
}

/// Hash of no bytes: FNV-1a, 32 bits.
pub(crate) const HASH_START: u32 = 0x811c_9dc5;

/// Hash of the former bytes and one more.
#[inline]
pub(crate) fn hash_byte(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// Where to look first for a token with this hash; the next slots follow, modulo `SLOTS`.
#[inline]
pub(crate) fn first_slot(hash: u32) -> usize {
    // FNV-1a mixes upwards, so the high half is folded into the bits that are kept.
    (hash ^ (hash >> 16)) as usize % SLOTS
}
