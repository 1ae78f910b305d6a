//! From a text to its terms.
//!
//! A text is normalised (compatibility forms), cut into chunks at blanks and punctuation,
//! and each chunk into words. A chunk that is an identifier, a path or an address gives itself, whole, and
//! then its words, so that `open_store` is found by `open_store` first, and by `store` as well. Words are
//! lower case, without a possessive 's and without accents, and have the stem of their language. Scripts written without blanks give
//! overlapping pairs of characters.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::words::{Stems, folded};
use crate::memory::Language;

/// Longest term, in bytes; what is longer is cut, in texts and queries alike.
const TERM_LEN_MAX: usize = 128;

/// One term of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term<'a> {
    pub(crate) text: &'a str,
    /// Whether it is a word that says little.
    pub(crate) stop: bool,
}

/// Calls `emit` with each term of a text in this language, in order.
pub(crate) fn each_term(language: Language, text: &str, emit: impl FnMut(Term<'_>)) {
    let mut terms = Terms { stems: Stems::new(language), lower: String::new(), emit };
    each_chunk(&normalized(text), |chunk| terms.chunk(chunk));
}

/// The text with compatibility forms replaced and invisible characters gone.
fn normalized(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let plain = |c: char| if matches!(c, '\u{2018}' | '\u{2019}' | '\u{02BC}') { '\'' } else { c };
    Cow::Owned(text.nfkc().filter(|c| !is_invisible(*c)).map(plain).collect())
}

/// Characters that nobody sees.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00AD}' | '\u{200B}' | '\u{2060}' | '\u{FEFF}' // soft hyphen, zero-width blanks
        | '\u{20E3}' | '\u{FE00}'..='\u{FE0F}' | '\u{1F3FB}'..='\u{1F3FF}' // styles of emoji
    )
}

/// Cuts a text where no identifier, path or address goes on.
fn each_chunk<'a>(text: &'a str, mut found: impl FnMut(&'a str)) {
    let mut start = 0;
    let mut previous = ' ';
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map_or(' ', |(_, next)| *next);
        if is_separator(previous, c, next) {
            if start < at {
                found(&text[start..at]);
            }
            start = at + c.len_utf8();
        }
        previous = c;
    }
    if start < text.len() {
        found(&text[start..]);
    }
}

fn is_separator(previous: char, c: char, next: char) -> bool {
    match c {
        ',' => !(previous.is_ascii_digit() && next.is_ascii_digit()),
        // An ellipsis or a dash joins nothing.
        '.' | '-' => previous == c || next == c,
        _ if c.is_ascii() => !c.is_ascii_alphanumeric() && !is_joiner(c),
        '\u{3005}'..='\u{3007}' => false, // ideographic marks that count as letters
        '\u{2010}'..='\u{2027}' | '\u{3000}'..='\u{303F}' => true, // dashes, quotes, full stops
        _ => c.is_whitespace() || c.is_control(),
    }
}

/// Characters that hold the parts of an identifier, a path or an address together.
fn is_joiner(c: char) -> bool {
    matches!(c, '_' | '-' | '.' | '/' | '\\' | ':' | '@' | '#' | '+' | '&' | '\'')
}

/// Takes chunks apart. Holds the buffer that every term is lower-cased in.
struct Terms<F> {
    stems: Stems,
    lower: String,
    emit: F,
}

impl<F: FnMut(Term<'_>)> Terms<F> {
    fn chunk(&mut self, chunk: &str) {
        // Nearly all chunks are plain words.
        if chunk.bytes().skip(1).all(|byte| byte.is_ascii_lowercase()) && chunk.is_ascii() {
            return self.word(chunk.trim_start_matches(is_joiner));
        }
        let start = chunk.trim_start_matches(is_joiner);
        let body = without_possessive(start.trim_end_matches(is_joiner));
        let tail = &start[body.len()..];
        // The languages C++ and C#, whose names end like punctuation.
        let name_tail =
            if tail.starts_with("++") { 2 } else { usize::from(body.len() == 1 && tail.starts_with('#')) };
        if body.is_empty() {
            return;
        }
        if name_tail > 0 || is_compound(body) {
            self.lower_case(&start[..body.len() + name_tail]);
            self.emit_lower();
        }
        for part in body.split(|c| is_joiner(c) && c != '\'') {
            each_camel_part(part, |part| self.part(part));
        }
    }

    /// A stretch without joiners.
    fn part(&mut self, part: &str) {
        if part.is_ascii() {
            return self.word(part);
        }
        each_stretch(part, |stretch, spaceless| {
            if spaceless {
                self.pairs(stretch);
            } else {
                for segment in stretch.split_word_bounds() {
                    if segment.contains(char::is_alphanumeric) || segment.starts_with(is_pictograph) {
                        self.word(segment);
                    }
                }
            }
        });
    }

    fn word(&mut self, word: &str) {
        let word = without_possessive(word.trim_matches('\''));
        if word.is_empty() {
            return;
        }
        self.lower_case(word);
        if self.lower.contains(',') {
            self.lower.retain(|c| c != ',');
        }
        let (term, stop) = self.stems.term(&self.lower);
        let end = term.floor_char_boundary(TERM_LEN_MAX);
        if end > 0 {
            (self.emit)(Term { text: &term[..end], stop });
        }
    }

    /// Each two neighbours of a stretch that is written without blanks, or its only character.
    fn pairs(&mut self, stretch: &str) {
        let mut letters = stretch
            .grapheme_indices(true)
            .filter(|(_, letter)| letter.contains(char::is_alphanumeric))
            .map(|(at, letter)| (at, at + letter.len()));
        let Some((mut start, mut end)) = letters.next() else { return };
        let mut alone = true;
        for (next_start, next_end) in letters {
            self.lower_case(&stretch[start..next_end]);
            self.emit_lower();
            (start, end, alone) = (next_start, next_end, false);
        }
        if alone {
            self.lower_case(&stretch[start..end]);
            self.emit_lower();
        }
    }

    fn lower_case(&mut self, text: &str) {
        self.lower.clear();
        if text.is_ascii() {
            self.lower.push_str(text);
            self.lower.make_ascii_lowercase();
        } else {
            self.lower.extend(text.chars().flat_map(char::to_lowercase));
        }
    }

    /// Emits what no language has endings for.
    fn emit_lower(&mut self) {
        let term = folded(Cow::Borrowed(&self.lower));
        let end = term.floor_char_boundary(TERM_LEN_MAX);
        if end > 0 {
            (self.emit)(Term { text: &term[..end], stop: false });
        }
    }
}

fn without_possessive(word: &str) -> &str {
    word.strip_suffix("'s").or_else(|| word.strip_suffix("'S")).unwrap_or(word)
}

/// Whether a chunk without joiners at its ends has parts.
fn is_compound(body: &str) -> bool {
    let mut parts = 0;
    for part in body.split(|c| is_joiner(c) && c != '\'') {
        each_camel_part(part, |_| parts += 1);
    }
    parts > 1
}

/// Cuts `openStore` before `Store`, and `HTTPServer` before `Server`.
fn each_camel_part<'a>(word: &'a str, mut found: impl FnMut(&'a str)) {
    let mut start = 0;
    let mut chars = word.char_indices().peekable();
    let mut previous = ' ';
    while let Some((at, c)) = chars.next() {
        let before_lower = chars.peek().is_some_and(|(_, next)| next.is_lowercase());
        if c.is_uppercase() && (previous.is_lowercase() || previous.is_uppercase() && before_lower) {
            found(&word[start..at]);
            start = at;
        }
        previous = c;
    }
    if start < word.len() {
        found(&word[start..]);
    }
}

/// Cuts a word where it changes between scripts with and without blanks.
fn each_stretch<'a>(word: &'a str, mut found: impl FnMut(&'a str, bool)) {
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let spaceless = is_spaceless(first);
        let len = rest.find(|c| is_spaceless(c) != spaceless).unwrap_or(rest.len());
        let (stretch, after) = rest.split_at(len);
        found(stretch, spaceless);
        rest = after;
    }
}

/// Characters of scripts that put no blanks between words, or few.
fn is_spaceless(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' // Thai, Lao
        | '\u{1000}'..='\u{109F}' // Burmese
        | '\u{1780}'..='\u{17FF}' // Khmer
        | '\u{3041}'..='\u{30FA}' | '\u{30FC}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' // kana
        | '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' // Chinese characters
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}'
        | '\u{AC00}'..='\u{D7AF}' // Korean
    )
}

/// Characters that stand for a word although they are no letters.
fn is_pictograph(c: char) -> bool {
    matches!(c,
        '\u{2300}'..='\u{23FF}' | '\u{2600}'..='\u{27BF}' | '\u{2B00}'..='\u{2BFF}' | '\u{1F000}'..='\u{1FAFF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        each_term(Language::English, text, |term| found.push(term.text.to_owned()));
        found
    }

    fn content(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        each_term(Language::English, text, |term| {
            if !term.stop {
                found.push(term.text.to_owned());
            }
        });
        found
    }

    #[test]
    fn words_are_lower_case_stems_without_possessive() {
        assert_eq!(terms("Melanie's Painting, the paintings"), ["melani", "paint", "the", "paint"]);
        assert_eq!(terms("MELANIE’S dogs' 'quoted' don’t"), ["melani", "dog", "quot", "don't"]);
        assert_eq!(content("What's the ONE thing I don't know?"), ["one", "thing", "know"]);
    }

    #[test]
    fn identifiers_paths_and_addresses_are_whole_and_split() {
        assert_eq!(terms("open_store()"), ["open_store", "open", "store"]);
        assert_eq!(terms("HTTPServerError"), ["httpservererror", "http", "server", "error"]);
        assert_eq!(terms("(src/main.rs)."), ["src/main.rs", "src", "main", "rs"]);
        assert_eq!(
            terms("https://docs.rs/redb?x=1"),
            ["https://docs.rs/redb", "https", "doc", "rs", "redb", "x", "1"]
        );
        assert_eq!(terms("std::fs::File"), ["std::fs::file", "std", "fs", "file"]);
        assert_eq!(terms("RFC-001"), ["rfc-001", "rfc", "001"]);
        assert_eq!(terms("C++, C# and F#!"), ["c++", "c", "c#", "c", "and", "f#", "f"]);
        assert_eq!(terms("~/.memento @alice #rust --json"), ["memento", "alic", "rust", "json"]);
    }

    #[test]
    fn numbers_keep_their_digits_together() {
        assert_eq!(terms("10,000 of 3.14"), ["10000", "of", "3.14", "3", "14"]);
    }

    #[test]
    fn dashes_and_ellipses_join_nothing() {
        assert_eq!(terms("well...maybe -- no—yes"), ["well", "mayb", "no", "yes"]);
    }

    #[test]
    fn accents_and_compatibility_forms_are_folded() {
        assert_eq!(terms("Café"), terms("cafe\u{301}"));
        assert_eq!(terms("Ｒｕｓｔ ﬁle"), terms("rust file"));
        assert_eq!(terms("İstanbul"), terms("istanbul"));
    }

    #[test]
    fn every_script_has_terms() {
        assert_eq!(terms("我们今天"), ["我们", "们今", "今天"]);
        assert_eq!(terms("犬。"), ["犬"]);
        assert_eq!(terms("カフェ"), ["カフ", "フェ"]);
        assert_eq!(terms("iPhone手机"), ["iphone手机", "i", "phone", "手机"]);
        assert_eq!(terms("كِتَاب كتاب"), ["كتاب", "كتاب"]);
        assert_eq!(terms("हिन्दी भाषा।").len(), 2);
        assert_eq!(terms("안녕하세요").len(), 4);
        assert!(terms("สวัสดีครับ").len() > 3);
        assert_eq!(terms("Привет мир"), ["привет", "мир"]);
        assert_eq!(terms("👩\u{200D}💻 ❤️ 👍🏽👍"), ["👩\u{200D}💻", "❤", "👍", "👍"]);
    }

    #[test]
    fn what_says_nothing_has_no_terms() {
        for text in ["", " \n\t", "?!", "\"' () * -", "\0\0", "...", "+++", "#"] {
            assert_eq!(terms(text), [""; 0], "{text:?}");
        }
    }

    #[test]
    fn a_very_long_word_is_cut_at_a_character() {
        let [term] = &terms(&"ж".repeat(1000))[..] else { panic!("one term") };
        assert_eq!(term.len(), TERM_LEN_MAX);
    }

    #[test]
    fn a_megabyte_of_one_character_does_not_break_it() {
        for unit in [
            "a",
            "'",
            "-",
            ".",
            "_",
            "A",
            "aA",
            "\0",
            "\u{301}",
            "e\u{301}",
            "\u{200D}",
            "🇩",
            "漢",
            "ก็",
            "👩\u{200D}",
        ] {
            each_term(Language::English, &unit.repeat((1 << 20) / unit.len()), |_| {});
        }
    }
}
