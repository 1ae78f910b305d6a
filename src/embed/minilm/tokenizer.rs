//! BERT's uncased WordPiece tokenizer, equal to Hugging Face's for every text.
//!
//! The text is cleaned, decomposed, stripped of accents and lowered as a stream of characters; words are cut by
//! the longest tokens that fit. Tokens are found through a hash table that lies ready in the model file, so nothing is
//! built at the start. Character classes come from the file as well: they are those of an old Unicode version, the one
//! that the reference implementation uses.

use unicode_normalization::UnicodeNormalization;

use super::layout;

/// Most characters of a word; a longer one becomes the unknown token.
const WORD_CHARS_MAX: usize = 100;
/// What a token that continues a word begins with.
const CONTINUATION: &[u8] = b"##";

/// A token's number in the vocabulary.
pub(super) type TokenId = u32;

/// The tokens and character classes of a model file.
#[derive(Clone, Copy)]
pub(super) struct Vocabulary<'a> {
    /// Bytes of the longest token.
    pub(super) token_len_longest: usize,
    /// All tokens, one after the other.
    pub(super) text: &'a [u8],
    /// Where each token ends in the text.
    pub(super) ends: &'a [[u8; 4]],
    /// Open addressing: the tokens by their hash.
    pub(super) slots: &'a [[u8; 2]],
    /// Ranges of characters, ascending.
    pub(super) classes: &'a [[u8; layout::CLASS_LEN]],
}

/// The tokens with a meaning of their own. They are also recognised where a text spells them out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Specials {
    pub(super) start: TokenId,
    pub(super) end: TokenId,
    unknown: TokenId,
    named: [(&'static str, TokenId); 5],
}

impl Specials {
    /// Looks them up; `None` when one is missing.
    pub(super) fn find(vocabulary: &Vocabulary<'_>) -> Option<Self> {
        let named = |name: &'static str| {
            let hash = name.bytes().fold(layout::HASH_START, layout::hash_byte);
            Some((name, vocabulary.id(hash, &[], name.as_bytes())?))
        };
        let (start, end, unknown) = (named("[CLS]")?, named("[SEP]")?, named("[UNK]")?);
        Some(Self {
            start: start.1,
            end: end.1,
            unknown: unknown.1,
            named: [start, end, unknown, named("[PAD]")?, named("[MASK]")?],
        })
    }
}

impl Vocabulary<'_> {
    /// The tokens of a text, at most `tokens_max` of them, without start and end tokens.
    pub(super) fn encode(&self, specials: &Specials, text: &str, tokens_max: usize) -> Vec<TokenId> {
        let mut words =
            Words { vocabulary: self, specials, tokens_max, word: Word::default(), tokens: Vec::new() };
        let mut rest = text;
        while let Some((before, special, after)) = next_special(specials, rest) {
            if words.is_full() {
                break;
            }
            words.read(before);
            words.tokens.push(special);
            rest = after;
        }
        words.read(rest);
        words.tokens.truncate(tokens_max);
        words.tokens
    }

    /// The token that is `prefix` and then `piece`, whose hash is known.
    fn id(&self, hash: u32, prefix: &[u8], piece: &[u8]) -> Option<TokenId> {
        let first = layout::first_slot(hash);
        let slots = self.slots[first..].iter().chain(&self.slots[..first]);
        for slot in slots {
            let id = u16::from_le_bytes(*slot);
            if id == layout::SLOT_EMPTY {
                return None;
            }
            let token = self.token(usize::from(id))?;
            if token.strip_prefix(prefix) == Some(piece) {
                return Some(id.into());
            }
        }
        None
    }

    /// The bytes of a token; `None` when the number or its bounds are not those of a token.
    fn token(&self, id: usize) -> Option<&[u8]> {
        let end = |id: usize| self.ends.get(id).map(|end| u32::from_le_bytes(*end) as usize);
        let start = if id == 0 { 0 } else { end(id - 1)? };
        self.text.get(start..end(id)?)
    }

    /// The longest token at the start of the piece, and its length.
    fn longest(&self, prefix: &[u8], piece: &[u8]) -> Option<(TokenId, usize)> {
        let mut hash = prefix.iter().copied().fold(layout::HASH_START, layout::hash_byte);
        let mut found = None;
        let longest = piece.len().min(self.token_len_longest.saturating_sub(prefix.len()));
        for length in 1..=longest {
            hash = layout::hash_byte(hash, piece[length - 1]);
            // Within a character there is nothing to find, as tokens are whole characters.
            let boundary = piece.get(length).is_none_or(|next| next & 0xc0 != 0x80);
            if boundary && let Some(id) = self.id(hash, prefix, &piece[..length]) {
                found = Some((id, length));
            }
        }
        found
    }

    fn class(&self, c: char) -> u16 {
        let code = u32::from(c);
        let range = |bytes: &[u8; layout::CLASS_LEN]| {
            let [a, b, c, d, e, f, g, h] = *bytes;
            (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]))
        };
        let after = self.classes.partition_point(|bytes| range(bytes).0 <= code);
        match after.checked_sub(1).map(|index| range(&self.classes[index])) {
            Some((first, length, class)) if code - first < length.into() => class,
            _ => 0,
        }
    }
}

/// The first special token that the text spells out, with what is before and after it.
fn next_special<'a>(specials: &Specials, text: &'a str) -> Option<(&'a str, TokenId, &'a str)> {
    text.match_indices('[').find_map(|(at, _)| {
        let (before, rest) = text.split_at(at);
        specials.named.iter().find_map(|(name, id)| Some((before, *id, rest.strip_prefix(name)?)))
    })
}

/// The word that is being read.
#[derive(Default)]
struct Word {
    text: String,
    chars: usize,
}

struct Words<'a> {
    vocabulary: &'a Vocabulary<'a>,
    specials: &'a Specials,
    tokens_max: usize,
    word: Word,
    tokens: Vec<TokenId>,
}

impl Words<'_> {
    fn is_full(&self) -> bool {
        self.tokens.len() >= self.tokens_max
    }

    /// Reads a part of the text that spells out no special token.
    fn read(&mut self, text: &str) {
        let vocabulary = self.vocabulary;
        let clean = text.chars().filter(|c| vocabulary.class(*c) != layout::CLASS_REMOVED);
        if text.is_ascii() {
            // Nothing to decompose, and no ideographs.
            return self.read_chars(clean);
        }
        let spaced = clean.flat_map(|c| {
            let space = is_ideograph(c).then_some(' ');
            space.into_iter().chain([c]).chain(space)
        });
        self.read_chars(spaced.nfd().filter(|c| vocabulary.class(*c) != layout::CLASS_MARK));
    }

    fn read_chars(&mut self, chars: impl Iterator<Item = char>) {
        for c in chars.flat_map(char::to_lowercase) {
            if c.is_whitespace() {
                self.end_word();
            } else if self.vocabulary.class(c) == layout::CLASS_PUNCTUATION {
                self.end_word();
                self.word.push(c);
                self.end_word();
            } else {
                self.word.push(c);
            }
            if self.is_full() {
                self.word.clear();
                return;
            }
        }
        self.end_word();
    }

    /// Turns the word into tokens.
    fn end_word(&mut self) {
        if self.word.chars == 0 {
            return;
        }
        let tokens_before = self.tokens.len();
        let mut rest = self.word.text.as_bytes();
        let mut prefix: &[u8] = &[];
        let mut known = self.word.chars <= WORD_CHARS_MAX;
        while known && !rest.is_empty() {
            match self.vocabulary.longest(prefix, rest) {
                Some((id, length)) => {
                    self.tokens.push(id);
                    rest = &rest[length..];
                    prefix = CONTINUATION;
                }
                None => known = false,
            }
        }
        if !known {
            self.tokens.truncate(tokens_before);
            self.tokens.push(self.specials.unknown);
        }
        self.word.clear();
    }
}

impl Word {
    fn push(&mut self, c: char) {
        self.chars += 1;
        // A word beyond the limit is unknown whatever it is, so the rest of it is not kept.
        if self.chars <= WORD_CHARS_MAX {
            self.text.push(c);
        }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.chars = 0;
    }
}

/// Whether BERT sets this character apart as a Chinese one. The ranges are its own, gaps included.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
