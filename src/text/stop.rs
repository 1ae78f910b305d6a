//! English words that say little about what a text is about.
//!
//! They are indexed like all words, so that a query of nothing else still finds something, but they do not
//! rank otherwise. "may" is left out because it is a month.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Whether a lower-case word is a stop word.
pub(super) fn is_stop_word(word: &str) -> bool {
    static SET: LazyLock<HashSet<&str>> = LazyLock::new(|| STOP_WORDS.iter().copied().collect());
    word.len() <= STOP_WORD_LEN_MAX && SET.contains(word)
}

/// Longest stop word, in bytes.
const STOP_WORD_LEN_MAX: usize = 10;

#[rustfmt::skip]
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "again", "all", "also", "am", "an", "and", "any", "are", "aren't", "as", "at",
    "be", "because", "been", "before", "being", "between", "both", "but", "by",
    "can", "can't", "could", "couldn't",
    "did", "didn't", "do", "does", "doesn't", "doing", "don't",
    "each",
    "for", "from",
    "had", "hadn't", "has", "hasn't", "have", "haven't", "having", "he", "he'd", "he'll", "her", "here",
    "hers", "herself", "him", "himself", "his", "how",
    "i", "i'd", "i'll", "i'm", "i've", "if", "in", "into", "is", "isn't", "it", "it'd", "it'll", "its",
    "itself",
    "just",
    "let",
    "me", "might", "mine", "more", "most", "must", "my", "myself",
    "no", "nor", "not",
    "of", "off", "on", "only", "or", "other", "our", "ours", "ourselves", "out", "over", "own",
    "same", "shall", "she", "she'd", "she'll", "should", "shouldn't", "so", "some", "such",
    "than", "that", "that'll", "the", "their", "theirs", "them", "themselves", "then", "there", "these",
    "they", "they'd", "they'll", "they're", "they've", "this", "those", "through", "to", "too",
    "until", "up", "us",
    "very",
    "was", "wasn't", "we", "we'd", "we'll", "we're", "we've", "were", "weren't", "what", "when", "where",
    "which", "while", "who", "whom", "whose", "why", "will", "with", "won't", "would", "wouldn't",
    "you", "you'd", "you'll", "you're", "you've", "your", "yours", "yourself", "yourselves",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_is_as_stated() {
        assert_eq!(STOP_WORDS.iter().map(|word| word.len()).max(), Some(STOP_WORD_LEN_MAX));
    }

    #[test]
    fn function_words_are_stop_words_and_months_are_not() {
        assert!(is_stop_word("the") && is_stop_word("doesn't"));
        assert!(!is_stop_word("may") && !is_stop_word("march") && !is_stop_word("rust"));
    }
}
