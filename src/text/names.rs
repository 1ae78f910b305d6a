//! Names of authors in a question.
//!
//! People do not say their own name, so a question that names somebody is nearer to what that person said when it
//! says "I" instead. Measured on LoCoMo (5,882 turns): recall@10 of vectors alone goes from 33 % to 62 %.

use std::ops::Range;

use super::stop::is_stop_word;

/// Longest name that is looked for, in words.
const NAME_WORDS_MAX: usize = 4;

/// A name that stands in a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The name as [`name_of`] gives it.
    pub(crate) name: String,
    range: Range<usize>,
    possessive: bool,
}

/// A speaker's name as it is compared: lower case, words apart by one blank. `None` for what names nobody: nothing at
/// all, or a word like "I" that stands in many questions.
pub(crate) fn name_of(speaker: &str) -> Option<String> {
    let words: Vec<String> = words(speaker).map(|word| speaker[word.range].to_lowercase()).collect();
    let is_name = match &words[..] {
        [] => false,
        [word] => !is_stop_word(word),
        _ => words.len() <= NAME_WORDS_MAX,
    };
    is_name.then(|| words.join(" "))
}

/// The first word of a name of several, by which people call each other.
pub(crate) fn first_name(name: &str) -> Option<&str> {
    let (first, _) = name.split_once(' ')?;
    (first.len() > 1 && !is_stop_word(first)).then_some(first)
}

/// The names in a question that `is_known` knows, the longest at each place.
pub(crate) fn names_in(question: &str, is_known: &mut dyn FnMut(&str) -> bool) -> Vec<Named> {
    let words: Vec<Word> = words(question).collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let longest = (1..=NAME_WORDS_MAX.min(words.len() - at)).rev().find_map(|len| {
            let part = &words[at..at + len];
            // A possessive ends a name.
            if part[..len - 1].iter().any(|word| word.possessive) {
                return None;
            }
            let lower: Vec<String> =
                part.iter().map(|word| question[word.range.clone()].to_lowercase()).collect();
            let name = lower.join(" ");
            let is_name = len > 1 || !is_stop_word(&name);
            (is_name && is_known(&name)).then_some((name, len))
        });
        let Some((name, len)) = longest else {
            at += 1;
            continue;
        };
        let last = &words[at + len - 1];
        let range = words[at].range.start..last.whole_end;
        found.push(Named { name, range, possessive: last.possessive });
        at += len;
    }
    found
}

/// The question as those who are named would have said it.
pub(crate) fn without_names(question: &str, names: &[Named]) -> String {
    let mut text = String::with_capacity(question.len());
    let mut from = 0;
    for named in names {
        text.push_str(&question[from..named.range.start]);
        text.push_str(if named.possessive { "my" } else { "I" });
        from = named.range.end;
    }
    text.push_str(&question[from..]);
    text
}

/// A stretch of letters and digits.
struct Word {
    range: Range<usize>,
    /// Where it ends with its possessive.
    whole_end: usize,
    possessive: bool,
}

fn words(text: &str) -> impl Iterator<Item = Word> {
    let is_inside = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '\u{2019}' | '-' | '_' | '.');
    let mut rest = 0;
    std::iter::from_fn(move || {
        loop {
            let start = rest + text[rest..].find(is_inside)?;
            let end = text[start..].find(|c| !is_inside(c)).map_or(text.len(), |len| start + len);
            rest = end;
            let trimmed = text[start..end].trim_matches(|c: char| !c.is_alphanumeric());
            if trimmed.is_empty() {
                continue;
            }
            let start = start + text[start..end].find(trimmed).expect("it is a part of it");
            let bare =
                ["'s", "'S", "\u{2019}s", "\u{2019}S"].iter().find_map(|tail| trimmed.strip_suffix(*tail));
            let len = bare.map_or(trimmed.len(), str::len);
            return Some(Word {
                range: start..start + len,
                whole_end: start + trimmed.len(),
                possessive: bare.is_some(),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn without(question: &str, known: &[&str]) -> String {
        let names = names_in(question, &mut |name| known.contains(&name));
        without_names(question, &names)
    }

    #[test]
    fn a_name_becomes_i_and_its_possessive_my() {
        let known = ["caroline", "mary ann", "mel-b"];
        assert_eq!(without("When did Caroline paint?", &known), "When did I paint?");
        assert_eq!(without("What is Caroline's, or CAROLINE\u{2019}s job", &known), "What is my, or my job");
        assert_eq!(without("did (Mary  Ann) and Mary go", &known), "did (I) and Mary go");
        assert_eq!(without("Mel-B's dog, caroline.", &known), "my dog, I.");
        assert_eq!(without("Mary's Ann", &known), "Mary's Ann");
        assert_eq!(without("carolines", &known), "carolines");
    }

    #[test]
    fn what_is_no_name_names_nobody() {
        assert_eq!(name_of(""), None);
        assert_eq!(name_of(" .* "), None);
        assert_eq!(name_of("I"), None);
        assert_eq!(name_of("a b c d e"), None);
        assert_eq!(name_of("  Caroline "), Some("caroline".to_owned()));
        assert_eq!(name_of("Ann.*(x"), Some("ann x".to_owned()));
        assert_eq!(name_of("王芳"), Some("王芳".to_owned()));
    }

    #[test]
    fn a_name_of_several_words_has_a_first_one() {
        assert_eq!(first_name("caroline smith"), Some("caroline"));
        assert_eq!(first_name("caroline"), None);
        assert_eq!(first_name("the boss"), None);
    }

    proptest! {
        #[test]
        fn no_question_and_no_name_breaks_it(question in ".{0,40}", name in ".{0,10}") {
            let known = name_of(&name);
            let names = names_in(&question, &mut |found| Some(found) == known.as_deref());
            let _ = without_names(&question, &names);
        }
    }
}
