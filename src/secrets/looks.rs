//! What a value looks like: made by chance, or a placeholder, a word, code.

/// Values that stand for a secret in examples. Compared without case; also as the beginning of a longer value.
const PLACEHOLDERS: &[&str] = &[
    "changeme",
    "change_me",
    "change-me",
    "your",
    "my-",
    "my_",
    "example",
    "sample",
    "placeholder",
    "redacted",
    "insert",
    "replace",
    "dummy",
    "xxx",
    "todo",
    "tbd",
    "none",
    "null",
    "undefined",
    "secret:",
    "fake",
    "put_",
    "enter",
    "some-",
    "some_",
    "<",
    "[",
    "{",
    "$",
    "%",
    "***",
    "...",
    "…",
    "test_key",
    "not-a-",
    "foobar",
];

/// Characters of a kind that tokens are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    Alnum,
    Upper,
    Hex,
    /// Letters, digits, `_` and `-`.
    Url,
    /// As `Url`, and `.`.
    Dotted,
    /// Letters, digits, `+`, `/`, `=`, `_` and `-`.
    Base64,
}

impl Charset {
    pub(super) fn has(self, byte: u8) -> bool {
        match self {
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
            Self::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'_' | b'-'),
        }
    }

    /// How many bytes from the beginning are of this kind.
    pub(super) fn run(self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.has(**byte)).count()
    }
}

/// Shannon's entropy of the bytes, in bits for each.
pub(super) fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let len = bytes.len() as f64;
    let share = |count: &u32| f64::from(*count) / len;
    -counts.iter().filter(|count| **count > 0).map(|count| share(count) * share(count).log2()).sum::<f64>()
}

/// Whether it stands for a secret and is none.
pub(super) fn is_placeholder(value: &str) -> bool {
    let starts = |word: &str| value.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let bytes = value.as_bytes();
    PLACEHOLDERS.iter().any(|word| starts(word))
        || value.ends_with('>')
        || bytes.windows(4).any(|four| four.iter().all(|byte| matches!(byte, b'x' | b'X' | b'*' | b'.')))
        || contains(value, "example")
        || contains(value, "placeholder")
        || contains(value, "redacted")
        || is_counting(bytes)
}

/// `12345678`, `abcdefgh`, `01234567890`: what people type when they show a form.
fn is_counting(bytes: &[u8]) -> bool {
    bytes.len() >= 8
        && bytes.windows(2).filter(|two| two[1] == two[0].wrapping_add(1)).count() * 4 >= bytes.len() * 3
}

/// Whether the text has this word, without regard to case.
fn contains(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether a body of a token looks made by chance: letters and digits, little repeated, not words with hyphens.
pub(super) fn is_random(body: &str) -> bool {
    let bytes = body.as_bytes();
    let has = |is: fn(&u8) -> bool| bytes.iter().any(is);
    has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && entropy(bytes) >= 2.9
        && !is_words(body)
        && !is_placeholder(body)
}

/// Words and short numbers, joined by hyphens, underscores, dots or slashes: an identifier, not a secret.
pub(super) fn is_words(value: &str) -> bool {
    let is_word = |part: &str| {
        let bytes = part.as_bytes();
        let letters = bytes.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
        let digits = bytes.len() - letters;
        let is_plain = bytes.iter().all(u8::is_ascii_alphanumeric);
        // `v2`, `sha256` and `2026` are words of names; `x7Kq2` is not.
        let digits_together =
            bytes.windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit()).count() <= 1;
        let is_one_case = bytes.iter().skip(1).all(|byte| !byte.is_ascii_uppercase())
            || bytes.iter().all(|byte| !byte.is_ascii_lowercase());
        is_plain && digits_together && is_one_case && letters <= 14 && digits <= 4
    };
    let parts = value.split(['-', '_', '.', '/']);
    value.contains(['-', '_', '.', '/']) && parts.filter(|part| !part.is_empty()).all(is_word)
}

/// Code that computes or names a value, rather than the value.
pub(super) fn is_code(value: &str, quoted: bool) -> bool {
    if value.starts_with(['$', '{', '<', '%', '&', '(', '[', '`'])
        || value.contains("${")
        || value.contains("{{")
    {
        return true;
    }
    if value.starts_with("/run/")
        || value.starts_with("./")
        || value.starts_with("~/")
        || value.contains("://")
    {
        return true;
    }
    if quoted {
        return false;
    }
    let is_path = value.split(['.', ':']).filter(|part| !part.is_empty()).all(|part| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && part.as_bytes()[0].is_ascii_alphabetic()
            && entropy(part.as_bytes()) < 3.6
    });
    let has_path = value.contains('.') || value.contains("::");
    value.contains(['(', '[', '{']) || value.contains("->") || (has_path && is_path)
}

/// How many kinds of characters are mixed. A first capital is spelling; hyphens, dots and the like join words.
pub(super) fn classes(value: &str) -> usize {
    let has = |is: &dyn Fn(char) -> bool| usize::from(value.chars().any(is));
    let upper = value.chars().skip(1).any(|c| c.is_uppercase()) && value.chars().any(char::is_lowercase);
    has(&|c| c.is_lowercase() || c.is_uppercase())
        + usize::from(upper)
        + has(&|c| c.is_ascii_digit())
        + has(&|c| {
            c.is_ascii_punctuation()
                && !matches!(c, '-' | '_' | '.' | ',' | '\'' | '/' | ':' | '"' | '?' | ';')
        })
}
