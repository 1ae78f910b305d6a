//! Near copies, by the words that two texts share.

use std::collections::BTreeSet;

use super::phrases::words;

/// Two texts that share so many of their words say the same.
const SAME_SHARE: f64 = 0.8;
/// A text of which so many words are in another one says nothing beside it.
const WITHIN_SHARE: f64 = 0.9;

/// The words of a text, as copies are compared.
pub(crate) fn words_of(text: &str) -> BTreeSet<String> {
    words(text).words.into_iter().filter(|word| word.chars().any(char::is_alphanumeric)).collect()
}

/// Whether the first text says nothing that the second does not say. Numbers count: two ports are two facts.
pub(crate) fn is_copy(text: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    if text.is_empty() || other.is_empty() {
        return false;
    }
    let is_number = |word: &&String| word.bytes().any(|byte| byte.is_ascii_digit());
    if text.iter().filter(is_number).any(|word| !other.contains(word)) {
        return false;
    }
    // "not" turns a statement round.
    let negations = |words: &BTreeSet<String>| {
        ["not", "no", "never", "don't", "won't", "isn't"].iter().any(|word| words.contains(*word))
    };
    if negations(text) != negations(other) {
        return false;
    }
    let both = text.intersection(other).count() as f64;
    let all = (text.len() + other.len()) as f64 - both;
    both / all >= SAME_SHARE || (text.len() >= 4 && both / text.len() as f64 >= WITHIN_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(a: &str, b: &str) -> bool {
        is_copy(&words_of(a), &words_of(b))
    }

    #[test]
    fn copies_are_recognised_and_other_numbers_and_negations_are_not() {
        let text = "We decided to use redb for the catalog because it needs no C toolchain.";
        assert!(copy(text, text));
        assert!(copy("we decided to use redb for the catalog because it needs no c toolchain", text));
        assert!(copy("We decided to use redb for the catalog, no C toolchain.", text));
        assert!(!copy("The database runs on port 5433.", "The database runs on port 5434."));
        assert!(!copy("We will use redb for the catalog", "We will not use redb for the catalog"));
        assert!(!copy("Anna prefers tabs", text));
        assert!(!copy("", text));
    }
}
