//! What is measured of a sentence before it is judged.

use super::cues::Kind;
use super::phrases::{Group, hits, words};

/// Features of a sentence, each about 0 to 1.
pub(crate) const FEATURES: usize = NAMES.len();

/// Their names, in order. Sixteen of phrases, a strong and a weak one for each kind, then those of style.
pub(crate) const NAMES: [&str; 39] = [
    "decision",
    "decision-words",
    "design",
    "design-words",
    "bug",
    "bug-words",
    "benchmark",
    "benchmark-words",
    "preference",
    "preference-words",
    "fact",
    "fact-words",
    "commitment",
    "commitment-words",
    "procedure",
    "procedure-words",
    "any-kind",
    "remember",
    "length",
    "short",
    "long",
    "question",
    "exclaims",
    "filler",
    "request",
    "progress",
    "hedge",
    "time",
    "event",
    "reason",
    "first-person",
    "second-person",
    "third-person",
    "names",
    "numbers",
    "measures",
    "code",
    "quotes",
    "agent",
];

/// Words that turn what follows into its opposite.
const NEGATIONS: &[&str] = &[
    "not", "haven't", "hasn't", "didn't", "never", "don't", "isn't", "wasn't", "no", "without", "if",
    "whether",
];
/// Units behind a number.
const UNITS: &[&str] = &[
    "ms", "s", "us", "µs", "ns", "sec", "seconds", "minutes", "hours", "days", "weeks", "kb", "mb", "gb",
    "tb", "kib", "mib", "gib", "%", "percent", "x", "times", "qps", "rps", "req", "requests", "rows", "ops",
    "euros", "dollars", "people", "°c",
];

/// A sentence with what is known of it.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) values: [f32; FEATURES],
}

impl Measured {
    /// How much speaks for a kind.
    pub(crate) fn strength(&self, kind: Kind) -> f32 {
        let at = 2 * Kind::ALL.iter().position(|other| *other == kind).expect("a kind of the list");
        2.0 * self.values[at] + 0.6 * self.values[at + 1]
    }

    /// The kind for which most speaks; of equals the first.
    pub(crate) fn kind(&self) -> Option<Kind> {
        let mut best: Option<(Kind, f32)> = None;
        for kind in Kind::ALL {
            let strength = self.strength(kind);
            if strength > best.map_or(0.0, |(_, most)| most) {
                best = Some((kind, strength));
            }
        }
        best.map(|(kind, _)| kind)
    }

    /// Whether it asks to be remembered.
    pub(crate) fn asks_to_remember(&self) -> bool {
        self.value("remember") > 0.0
    }

    pub(crate) fn value(&self, name: &str) -> f32 {
        NAMES.iter().position(|other| *other == name).map_or(0.0, |at| self.values[at])
    }
}

/// Measures a sentence; `is_agent` when a program has said it.
pub(crate) fn measure(sentence: &str, is_agent: bool) -> Measured {
    let found = words(sentence);
    let list = &found.words;
    let mut hits = hits(list);
    // "haven't decided" and "if we decide" are no decisions.
    hits.retain(|hit| {
        let is_kind =
            matches!(hit.group, Group::Strong(Kind::Decision | Kind::Bug | Kind::Benchmark | Kind::Design));
        let before = &list[hit.at.saturating_sub(2)..hit.at];
        !(is_kind && before.iter().any(|word| NEGATIONS.contains(&word.as_str())))
    });
    let mut values = [0.0; FEATURES];
    let mut set = |name: &str, value: f32| {
        let at = NAMES.iter().position(|other| *other == name).expect("a feature of the list");
        values[at] = value;
    };
    let count = |group: Group| hits.iter().filter(|hit| hit.group == group).count();
    let share = |count: usize, most: usize| count.min(most) as f32 / most as f32;
    let mut kinds = 0;
    for kind in Kind::ALL {
        let strong = count(Group::Strong(kind));
        kinds += usize::from(strong > 0);
        set(kind.name(), share(strong, 2));
        set(words_name(kind), share(count(Group::Weak(kind)), 3));
    }
    let opening =
        |group: Group| f32::from(u8::from(hits.iter().any(|hit| hit.group == group && hit.at <= 1)));
    let is_any = |names: &[&str]| list.iter().filter(|word| names.contains(&word.as_str())).count();
    let has = |yes: bool| f32::from(u8::from(yes));
    let numbers = list.iter().filter(|word| word.bytes().any(|byte| byte.is_ascii_digit())).count();
    let trimmed = sentence.trim_end_matches([' ', '\n', '"', ')', '*']);
    set("any-kind", share(kinds, 2));
    set("remember", share(count(Group::Remember), 1));
    set("length", (1.0 + list.len() as f32).ln().min(5.0) / 5.0);
    set("short", has(list.len() < 5));
    set("long", has(list.len() > 45));
    set("question", has(trimmed.ends_with('?')));
    set("exclaims", has(trimmed.ends_with('!')));
    set("filler", opening(Group::Filler));
    set("request", opening(Group::Request));
    set("progress", opening(Group::Progress));
    set("hedge", share(count(Group::Hedge), 2));
    set("time", share(count(Group::Time), 2));
    set("event", share(count(Group::Event), 1));
    set("reason", share(count(Group::Reason), 1));
    set(
        "first-person",
        share(is_any(&["i", "we", "my", "our", "i'm", "we're", "i've", "we've", "us", "me"]), 2),
    );
    set("second-person", share(is_any(&["you", "your", "you're", "you've", "you'll"]), 2));
    set(
        "third-person",
        share(is_any(&["he", "she", "they", "her", "his", "their", "she's", "he's", "them", "him"]), 2),
    );
    set("names", share(found.inner_capitals, 3));
    set("numbers", share(numbers, 3));
    set("measures", share(measures(list), 2));
    set("code", has(sentence.contains('`') || sentence.contains("::") || sentence.contains("()")));
    set("quotes", has(sentence.contains('"') || sentence.contains('“')));
    set("agent", has(is_agent));
    Measured { values }
}

fn words_name(kind: Kind) -> &'static str {
    let at = NAMES.iter().position(|name| *name == kind.name()).expect("every kind is a feature");
    NAMES[at + 1]
}

/// Numbers with a unit, apart or together: `38 ms`, `1.4s`, `12%`.
fn measures(words: &[String]) -> usize {
    let starts = |word: &String| word.as_bytes().first().is_some_and(u8::is_ascii_digit);
    let is_unit = |word: &str| UNITS.contains(&word);
    let together = |word: &String| {
        let number = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        starts(word) && number < word.len() && is_unit(&word[number..])
    };
    let apart = |two: &[String]| {
        two[0].bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && starts(&two[0])
            && is_unit(&two[1])
    };
    words.iter().filter(|word| together(word)).count() + words.windows(2).filter(|two| apart(two)).count()
}
