//! Whether a question asks for a time, and whether a text names one.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::terms::each_term;
use crate::memory::Language;

/// Words that place something in time; English, as the question for it is. "may" and "second" are left out: they mostly mean something else.
const TIME_WORDS: &str =
    "yesterday today tomorrow tonight ago recently lately soon weekend weekday week month year decade
    day days morning afternoon evening night january february march april june july august september october
    november december monday tuesday wednesday thursday friday saturday sunday summer winter spring autumn
    christmas easter birthday anniversary last next";

/// Words that ask for a time, behind "what" or "which".
const UNITS: &[&str] = &["date", "day", "time", "year", "month", "week", "weekday", "hour"];

/// Whether a term, as the index has it, places something in time.
pub(super) fn is_time_term(term: &str) -> bool {
    static SET: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let mut set = HashSet::new();
        each_term(Language::English, TIME_WORDS, |term| {
            set.insert(term.text.to_owned());
        });
        set
    });
    let is_year = term.len() == 4
        && (term.starts_with("19") || term.starts_with("20"))
        && term.bytes().all(|byte| byte.is_ascii_digit());
    is_year || SET.contains(term)
}

/// Whether the question asks when something was or will be.
pub(crate) fn asks_when(question: &str) -> bool {
    let mut before = "";
    let lower = question.to_lowercase();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if word == "when" || (matches!(before, "what" | "which") && UNITS.contains(&word)) {
            return true;
        }
        before = word;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_time(text: &str) -> bool {
        let mut found = false;
        each_term(Language::English, text, |term| found |= is_time_term(term.text));
        found
    }

    #[test]
    fn texts_that_name_a_time_are_known() {
        for text in ["I went there yesterday.", "two weeks ago", "on 7 May 2023", "last JULY", "Mondays"] {
            assert!(names_time(text), "{text}");
        }
        for text in ["I may go there", "room 7", "wait a second", "20234", "", "weaker"] {
            assert!(!names_time(text), "{text}");
        }
    }

    #[test]
    fn questions_for_a_time_are_known() {
        for question in ["When did it end?", "since when", "On what date was it", "Which year was that"] {
            assert!(asks_when(question), "{question}");
        }
        for question in ["What did she say", "whenever", "what a fine day it was", "", "day which"] {
            assert!(!asks_when(question), "{question}");
        }
    }
}
