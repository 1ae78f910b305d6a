//! Any texts as memories and queries, and any text as a time.

use super::Seeds;
use super::input::Input;
use crate::error::ErrorKind;
use crate::format::op::MemoryKey;
use crate::memory::Language;
use crate::parts::note;
use crate::scope::{Deadline, Scope};
use crate::text::{TextIndex, each_term};
use crate::time::{checked, parse_time};

/// Between the texts of an input.
const BETWEEN: u8 = 0x1E;
/// Longest term, in bytes: the limit of the index.
const TERM_LEN_MAX: usize = 128;

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let now_ms = input.u64().cast_signed();
    let texts: Vec<_> = input.0.split(|byte| *byte == BETWEEN).map(String::from_utf8_lossy).collect();
    let mut index = TextIndex::new(Language::English);
    for (key, text) in (1..).zip(&texts) {
        index.insert(MemoryKey(key), &note(text));
        match parse_time(text, now_ms) {
            Ok(seconds) => assert!(checked(seconds).is_ok(), "a time outside the years -9999 to 9999"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
        }
    }
    for (key, text) in (1..).zip(&texts) {
        let found = search(&index, text, &Scope::All);
        // What says anything is found by its own words.
        let mut says = false;
        each_term(Language::English, text, |term| {
            says = true;
            assert!(!term.text.is_empty() && term.text.len() <= TERM_LEN_MAX);
        });
        assert_eq!(found.iter().any(|(found, _)| *found == MemoryKey(key)), says);
        let only = search(&index, text, &Scope::of([MemoryKey(key)]));
        assert_eq!(only, found.into_iter().filter(|(found, _)| *found == MemoryKey(key)).collect::<Vec<_>>());
    }
    for key in (1..).take(texts.len()) {
        assert!(index.remove(MemoryKey(key)));
    }
    assert!(texts.iter().all(|text| search(&index, text, &Scope::All).is_empty()));
}

fn search(index: &TextIndex, query: &str, scope: &Scope) -> Vec<(MemoryKey, f32)> {
    let scores = index.score(query, Deadline::NEVER);
    let found: Vec<_> =
        scores.best(usize::MAX, scope).into_iter().map(|doc| (index.key_of(doc), scores.of(doc))).collect();
    assert!(found.iter().all(|(_, score)| score.is_finite() && *score > 0.0));
    found
}

pub(super) fn seeds() -> Seeds {
    let seeds: [(&str, &str); 5] = [
        ("words", "Melanie's Painting, the paintings\u{1e}what did Melanie paint?\u{1e}the of and"),
        (
            "identifiers",
            "https://docs.rs/redb?x=1 src/main.rs\u{1e}HTTPServerError open_store()\u{1e}C++, C# 10,000 RFC-001",
        ),
        (
            "scripts",
            "Ｒｕｓｔ ﬁle İstanbul Café\u{1e}iPhone手机 カフェ 안녕하세요\u{1e}كِتَاب हिन्दी สวัสดี\u{1e}👩\u{200d}💻 ❤️ 👍🏽",
        ),
        (
            "times",
            "2026-02-17T07:00:00-05:00[America/New_York]\u{1e}5m\u{1e}@2026\u{1e}2026-03-29T02:30\u{1e}1771329603",
        ),
        ("blanks", "\u{1e} \n\t\u{1e}?!...--'s\u{1e}\0"),
    ];
    let now_ms = 1_771_329_600_999_i64.to_le_bytes();
    seeds.map(|(name, text)| (name, [&now_ms, text.as_bytes()].concat())).into()
}
