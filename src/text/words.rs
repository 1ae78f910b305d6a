//! What is known of the words of each language: those that say little, and stems.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::OnceLock;

use frostem::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;

use super::stop::is_stop_word;
use crate::memory::Language;

/// Longest word that is stemmed, in bytes: longer ones are no words of a language.
const STEMMED_LEN_MAX: usize = 40;

/// The rules of one language.
struct Rules {
    algorithm: Algorithm,
    /// ISO 639-1, for the list of words that say little.
    code: &'static str,
    stop_words: OnceLock<HashSet<String>>,
}

impl Rules {
    const fn new(algorithm: Algorithm, code: &'static str) -> Self {
        Self { algorithm, code, stop_words: OnceLock::new() }
    }

    fn is_stop_word(&self, word: &str) -> bool {
        let read = || {
            let words = stop_words::lookup(self.code).unwrap_or_default().iter();
            words.map(|word| word.to_lowercase()).collect()
        };
        self.stop_words.get_or_init(read).contains(word)
    }
}

static CZECH: Rules = Rules::new(Algorithm::Czech, "cs");
static DANISH: Rules = Rules::new(Algorithm::Danish, "da");
static DUTCH: Rules = Rules::new(Algorithm::Dutch, "nl");
static FINNISH: Rules = Rules::new(Algorithm::Finnish, "fi");
static FRENCH: Rules = Rules::new(Algorithm::French, "fr");
static GERMAN: Rules = Rules::new(Algorithm::German, "de");
static HUNGARIAN: Rules = Rules::new(Algorithm::Hungarian, "hu");
static ITALIAN: Rules = Rules::new(Algorithm::Italian, "it");
static NORWEGIAN: Rules = Rules::new(Algorithm::Norwegian, "no");
static POLISH: Rules = Rules::new(Algorithm::Polish, "pl");
static PORTUGUESE: Rules = Rules::new(Algorithm::Portuguese, "pt");
static ROMANIAN: Rules = Rules::new(Algorithm::Romanian, "ro");
static SPANISH: Rules = Rules::new(Algorithm::Spanish, "es");
static SWEDISH: Rules = Rules::new(Algorithm::Swedish, "sv");
static TURKISH: Rules = Rules::new(Algorithm::Turkish, "tr");
static RUSSIAN: Rules = Rules::new(Algorithm::Russian, "ru");
static GREEK: Rules = Rules::new(Algorithm::Greek, "el");
static ARABIC: Rules = Rules::new(Algorithm::Arabic, "ar");
static ARMENIAN: Rules = Rules::new(Algorithm::Armenian, "hy");
static HINDI: Rules = Rules::new(Algorithm::Hindi, "hi");
static TAMIL: Rules = Rules::new(Algorithm::Tamil, "ta");

/// The rules of a language, where they are not our own.
fn rules_of(language: Language) -> Option<&'static Rules> {
    Some(match language {
        Language::None | Language::English => return None,
        Language::Czech => &CZECH,
        Language::Danish => &DANISH,
        Language::Dutch => &DUTCH,
        Language::Finnish => &FINNISH,
        Language::French => &FRENCH,
        Language::German => &GERMAN,
        Language::Hungarian => &HUNGARIAN,
        Language::Italian => &ITALIAN,
        Language::Norwegian => &NORWEGIAN,
        Language::Polish => &POLISH,
        Language::Portuguese => &PORTUGUESE,
        Language::Romanian => &ROMANIAN,
        Language::Spanish => &SPANISH,
        Language::Swedish => &SWEDISH,
        Language::Turkish => &TURKISH,
    })
}

/// The rules of the language that is mostly written in the letters of a word; `None` for Latin ones.
fn rules_by_script(word: &str) -> Option<&'static Rules> {
    Some(match word.chars().find(|c| c.is_alphabetic())? {
        '\u{0370}'..='\u{03FF}' | '\u{1F00}'..='\u{1FFF}' => &GREEK,
        '\u{0400}'..='\u{052F}' => &RUSSIAN,
        '\u{0530}'..='\u{058F}' => &ARMENIAN,
        '\u{0600}'..='\u{06FF}' | '\u{0750}'..='\u{077F}' => &ARABIC,
        '\u{0900}'..='\u{097F}' => &HINDI,
        '\u{0B80}'..='\u{0BFF}' => &TAMIL,
        _ => return None,
    })
}

/// Makes terms of words.
pub(super) struct Stems {
    language: Language,
    english: Stemmer,
    own: Option<(&'static Rules, Stemmer)>,
}

impl Stems {
    pub(super) fn new(language: Language) -> Self {
        let own = rules_of(language).map(|rules| (rules, Stemmer::new(rules.algorithm)));
        Self { language, english: Stemmer::new(Algorithm::English), own }
    }

    /// The term of a word in lower case, and whether it says little.
    pub(super) fn term<'a>(&self, word: &'a str) -> (Cow<'a, str>, bool) {
        let is_short = word.len() <= STEMMED_LEN_MAX;
        if !word.is_ascii()
            && let Some(rules) = rules_by_script(word)
        {
            let stem = if is_short { Stemmer::new(rules.algorithm).stem(word) } else { word.into() };
            return (folded(stem), rules.is_stop_word(word));
        }
        match (&self.own, self.language) {
            (Some((rules, stemmer)), _) => {
                let stem = if is_short { stemmer.stem(word) } else { word.into() };
                (folded(stem), rules.is_stop_word(word))
            }
            (None, Language::English) => {
                let word = folded(word.into());
                let is_stop = is_stop_word(&word);
                if is_stop || !(3..=STEMMED_LEN_MAX).contains(&word.len()) || !word.is_ascii() {
                    return (word, is_stop);
                }
                match word {
                    Cow::Borrowed(word) => (self.english.stem(word), false),
                    Cow::Owned(word) => (self.english.stem(&word).into_owned().into(), false),
                }
            }
            (None, _) => (folded(word.into()), false),
        }
    }
}

/// The word without marks that people leave out when they search.
pub(super) fn folded(word: Cow<'_, str>) -> Cow<'_, str> {
    if word.is_ascii() {
        return word;
    }
    word.nfd().filter(|c| !is_folded_away(*c)).nfc().collect::<String>().into()
}

/// Accents and vowel signs.
fn is_folded_away(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036F}' // accents on Latin, Greek and Cyrillic letters
        | '\u{0591}'..='\u{05BD}' // Hebrew points
        | '\u{0640}' | '\u{064B}'..='\u{065F}' | '\u{0670}' // Arabic stretching and vowel signs
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(language: Language, words: &str) -> Vec<String> {
        let stems = Stems::new(language);
        words
            .split(' ')
            .map(|word| stems.term(word))
            .filter(|(_, stop)| !stop)
            .map(|(term, _)| term.into())
            .collect()
    }

    #[test]
    fn each_language_has_its_stems_and_its_words_that_say_little() {
        assert_eq!(terms(Language::English, "the houses of cafés"), ["hous", "cafe"]);
        assert_eq!(terms(Language::German, "die häuser und der katzen"), ["haus", "katz"]);
        assert_eq!(terms(Language::French, "les chevaux de la continuation"), ["cheval", "continu"]);
        assert_eq!(terms(Language::None, "the houses"), ["the", "houses"]);
        for language in Language::ALL.into_iter().filter(|language| rules_of(*language).is_some()) {
            let rules = rules_of(language).expect("it has rules");
            let words = stop_words::lookup(rules.code).unwrap_or_default();
            assert!(words.len() > 20, "{} has words that say little", language.name());
        }
    }

    #[test]
    fn other_scripts_have_the_rules_of_their_language_in_any_store() {
        for language in [Language::English, Language::German, Language::None] {
            assert_eq!(terms(language, "книги книгами и"), ["книг", "книг"]);
            assert_eq!(terms(language, "βιβλία βιβλίο").len(), 2);
        }
    }

    #[test]
    fn every_name_names_its_language() {
        for language in Language::ALL {
            assert_eq!(Language::named(language.name()), Some(language));
        }
        assert_eq!(Language::named("GERMAN"), Some(Language::German));
        assert_eq!(Language::named("klingon"), None);
    }
}
