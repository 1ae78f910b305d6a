//! Finds phrases in a sentence: words first, then every phrase that begins at a word, by a table of first words.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::cues::{EVENTS, FILLERS, HEDGES, Kind, PROGRESS, REASONS, REMEMBER, REQUESTS, TIMES};

/// What a phrase speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    Strong(Kind),
    Weak(Kind),
    Remember,
    Filler,
    Request,
    Progress,
    Hedge,
    Time,
    Event,
    Reason,
}

/// A phrase that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) group: Group,
    /// Its first word.
    pub(crate) at: usize,
    /// The phrase as it is written in the table.
    pub(crate) phrase: &'static str,
}

/// A sentence as the phrases see it.
#[derive(Debug)]
pub(crate) struct Words {
    /// In small letters.
    pub(crate) words: Vec<String>,
    /// Whether each began with a capital and is not the first.
    pub(crate) inner_capitals: usize,
}

/// The words of a text: letters and digits with what joins them; `:`, `%` and `/` count as words.
pub(crate) fn words(text: &str) -> Words {
    let mut words: Vec<String> = Vec::new();
    let mut inner_capitals = 0;
    let mut word = String::new();
    let mut end = |word: &mut String, words: &mut Vec<String>| {
        let trimmed = word.trim_matches(['\'', '-', '.', '_']);
        if !trimmed.is_empty() {
            let is_name = trimmed.chars().next().is_some_and(char::is_uppercase);
            let is_self = trimmed == "I" || trimmed.starts_with("I'");
            inner_capitals += usize::from(is_name && !is_self && !words.is_empty());
            words.push(trimmed.to_lowercase());
        }
        word.clear();
    };
    for c in text.chars() {
        match c {
            '’' => word.push('\''),
            c if c.is_alphanumeric() || matches!(c, '\'' | '-' | '_' | '.' | '#') => word.push(c),
            ':' | '%' | '/' => {
                end(&mut word, &mut words);
                words.push(c.to_string());
            }
            _ => end(&mut word, &mut words),
        }
    }
    end(&mut word, &mut words);
    Words { words, inner_capitals }
}

/// One word of a phrase: what may stand there.
enum Slot {
    Any,
    OneOf(Vec<Choice>),
}

struct Choice {
    text: &'static str,
    /// Whether a word may go on behind it.
    open: bool,
}

impl Choice {
    fn fits(&self, word: &str) -> bool {
        if self.open { word.starts_with(self.text) } else { word == self.text }
    }
}

struct Phrase {
    group: Group,
    text: &'static str,
    slots: Vec<Slot>,
}

struct Table {
    phrases: Vec<Phrase>,
    by_first: HashMap<&'static str, Vec<usize>>,
    /// Those whose first word may go on, each with what it begins with.
    open_first: Vec<(&'static str, usize)>,
}

static TABLE: LazyLock<Table> = LazyLock::new(table);

fn table() -> Table {
    let mut table = Table { phrases: Vec::new(), by_first: HashMap::new(), open_first: Vec::new() };
    for kind in Kind::ALL {
        let (strong, weak) = kind.phrases();
        table.add(Group::Strong(kind), strong);
        table.add(Group::Weak(kind), weak);
    }
    table.add(Group::Remember, REMEMBER);
    table.add(Group::Filler, FILLERS);
    table.add(Group::Request, REQUESTS);
    table.add(Group::Progress, PROGRESS);
    table.add(Group::Hedge, HEDGES);
    table.add(Group::Time, TIMES);
    table.add(Group::Event, EVENTS);
    table.add(Group::Reason, REASONS);
    table
}

impl Table {
    fn add(&mut self, group: Group, texts: &[&'static str]) {
        for text in texts {
            let slots: Vec<Slot> = text.split(' ').map(slot).collect();
            let index = self.phrases.len();
            if let Some(Slot::OneOf(choices)) = slots.first() {
                for choice in choices {
                    if choice.open {
                        self.open_first.push((choice.text, index));
                    } else {
                        self.by_first.entry(choice.text).or_default().push(index);
                    }
                }
            }
            self.phrases.push(Phrase { group, text, slots });
        }
    }
}

fn slot(text: &'static str) -> Slot {
    if text == "_" {
        return Slot::Any;
    }
    let choice = |word: &'static str| match word.strip_suffix('*') {
        Some(start) => Choice { text: start, open: true },
        None => Choice { text: word, open: false },
    };
    Slot::OneOf(text.split('|').map(choice).collect())
}

/// Every phrase in these words, each once, where it is found first.
pub(crate) fn hits(words: &[String]) -> Vec<Hit> {
    let table = &*TABLE;
    let mut hits: Vec<Hit> = Vec::new();
    for at in 0..words.len() {
        let word = words[at].as_str();
        let exact = table.by_first.get(word).into_iter().flatten().copied();
        let open =
            table.open_first.iter().filter(|(start, _)| word.starts_with(start)).map(|(_, index)| *index);
        for index in exact.chain(open) {
            let phrase = &table.phrases[index];
            let is_new = |hit: &Hit| hit.phrase != phrase.text || hit.group != phrase.group;
            if fits(&phrase.slots, &words[at..]) && hits.iter().all(is_new) {
                hits.push(Hit { group: phrase.group, at, phrase: phrase.text });
            }
        }
    }
    hits
}

fn fits(slots: &[Slot], words: &[String]) -> bool {
    words.len() >= slots.len()
        && slots.iter().zip(words).all(|(slot, word)| match slot {
            Slot::Any => true,
            Slot::OneOf(choices) => choices.iter().any(|choice| choice.fits(word)),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(text: &str) -> Vec<Group> {
        hits(&words(text).words).into_iter().map(|hit| hit.group).collect()
    }

    #[test]
    fn phrases_match_whole_words_only() {
        for text in ["improve the process", "the latest address", "a prefix in the explanation", "debugging"]
        {
            let kinds = groups(text).into_iter().filter(|group| matches!(group, Group::Strong(_))).count();
            assert_eq!(kinds, 0, "{text}");
        }
        assert!(groups("We decided to use redb").contains(&Group::Strong(Kind::Decision)));
        assert!(groups("the root cause was a stale lock").contains(&Group::Strong(Kind::Bug)));
    }

    #[test]
    fn words_keep_what_joins_them_and_count_names() {
        let found = words("I met Anna at 10:30, it's the write-ahead log (v1.2).");
        assert_eq!(
            found.words,
            ["i", "met", "anna", "at", "10", ":", "30", "it's", "the", "write-ahead", "log", "v1.2"]
        );
        assert_eq!(found.inner_capitals, 1);
    }
}
