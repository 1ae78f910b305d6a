//! Answers for people: a table of memories, one memory in full, a list of figures.

use std::fmt::Write;

use anstyle::AnsiColor;
use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Row, Table, TableStyle,
};

use super::output::Output;
use super::text;
use crate::Memory;

/// A line below the header and nothing else: a memory takes two rows, which lines would tear apart.
const STYLE: TableStyle = NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));
/// Lines of a memory's text that a table shows.
const TEXT_LINES_MAX: usize = 3;
/// Lines of ids, tags and the like below it.
const DETAIL_LINES_MAX: usize = 2;

/// One memory in a table.
pub(crate) struct Line<'a> {
    /// What stands in front, such as the score.
    pub(crate) lead: String,
    pub(crate) memory: &'a Memory,
    /// What is to be said about it besides, such as how the score came about.
    pub(crate) extra: Option<String>,
}

/// Memories in a table, for a terminal.
pub(crate) fn memories<'a>(
    out: &Output,
    lead: &str,
    now: i64,
    lines: impl IntoIterator<Item = Line<'a>>,
) -> String {
    let mut table = empty(out, [lead, "Memory", "When"]);
    for Line { lead, memory, extra } in lines {
        let mut first = Row::from(vec![
            Cell::new(lead).set_alignment(CellAlignment::Right).fg(Color::DarkGreen),
            Cell::new(text::line(&memory.text)),
            Cell::new(text::age(memory.timestamp, now)),
        ]);
        first.max_height(TEXT_LINES_MAX);
        let details = extra.into_iter().chain([details(memory)]).collect::<Vec<_>>().join("\n");
        let mut second = Row::from(vec![
            Cell::new(""),
            Cell::new(details).add_attribute(Attribute::Dim),
            Cell::new(text::local_time(memory.timestamp)).add_attribute(Attribute::Dim),
        ]);
        second.max_height(DETAIL_LINES_MAX);
        table.add_row(first).add_row(second);
    }
    format!("{table}\n")
}

/// The id, and what else helps to tell memories apart.
fn details(memory: &Memory) -> String {
    let mut details = memory.id.to_string();
    if memory.collection != crate::DEFAULT_COLLECTION {
        let _ = write!(details, "  {}", text::line(&memory.collection));
    }
    for tag in &memory.tags {
        let _ = write!(details, "  #{}", text::line(tag));
    }
    details
}

/// A table of this header that fits the terminal, without a row.
pub(crate) fn empty<const N: usize>(out: &Output, header: [&str; N]) -> Table {
    let mut table = bare(out);
    table.load_style(STYLE);
    table.set_header(header.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    table
}

/// A table without header and lines that fits the terminal.
pub(crate) fn bare(out: &Output) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    // Whether standard output is a terminal and how wide was decided once, not by each table.
    table.force_no_tty().set_width(out.width);
    if out.color() {
        table.enforce_styling();
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).set_truncation_indicator("…");
    table
}

/// One memory with all it has, its text last.
pub(crate) fn memory(out: &Output, memory: &Memory, now: i64) -> String {
    let when = format!("{} ({})", text::local_time(memory.timestamp), text::age(memory.timestamp, now));
    let mut pairs = vec![
        ("id", memory.id.to_string()),
        ("when", when),
        ("collection", memory.collection.clone()),
        ("source", memory.source.clone()),
        ("session", memory.session_id.clone()),
        ("importance", memory.importance.to_string()),
        ("tags", memory.tags.join(", ")),
    ];
    let optional = [
        ("speaker", memory.speaker.clone()),
        ("role", memory.role.clone()),
        ("position", memory.position.map(|position| position.to_string())),
    ];
    pairs.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let metadata: Vec<_> = memory.metadata.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    pairs.extend(metadata.into_iter().map(|entry| ("metadata", entry)));
    format!("{}\n{}\n", figures(out, pairs), out.block(&memory.text))
}

/// Names and values, one a line, the values aligned. A name that is repeated is shown once.
pub(crate) fn figures<'a>(out: &Output, pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut answer = String::new();
    let mut last = "";
    for (name, value) in &pairs {
        let shown = if *name == last { "" } else { name };
        last = name;
        let name = out.paint(AnsiColor::Cyan.on_default(), &format!("{shown:width$}"));
        let _ = writeln!(answer, "{name}  {}", text::line(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryId;

    const NOW: i64 = 1_771_329_600;

    fn memory_of(text: &str) -> Memory {
        let mut memory =
            Memory::new(MemoryId::new("01ARZ3NDEKTSV4RRFFQ69G5FAV").expect("an id"), text, NOW - 7200);
        memory.tags = vec!["a".to_owned(), "b c".to_owned()];
        memory
    }

    fn table_of(memory: &Memory, width: u16) -> String {
        let line = Line { lead: "0.512".to_owned(), memory, extra: None };
        memories(&Output::plain_terminal(width), "Score", NOW, [line])
    }

    #[test]
    fn a_table_shows_score_text_age_id_and_tags() {
        let table = table_of(&memory_of("Anna prefers tabs"), 100);
        for part in ["Score", "0.512", "Anna prefers tabs", "2h ago", "01ARZ3NDEKTSV4RRFFQ69G5FAV  #a  #b c"]
        {
            assert!(table.contains(part), "{part} in\n{table}");
        }
        assert!(!table.contains('\u{1b}'), "no colour was asked for");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_in_any_script() {
        for text in
            ["word ".repeat(100), "漢字".repeat(200), "👨‍👩‍👧".repeat(80), "x".repeat(5000), "é".repeat(300)]
        {
            let table = table_of(&memory_of(&text), 80);
            for line in table.lines() {
                let width = unicode_width::UnicodeWidthStr::width(line);
                assert!(width <= 80, "{width} columns: {line}");
            }
            assert!(table.contains('…'), "a long text is cut visibly\n{table}");
        }
    }

    #[test]
    fn a_memory_cannot_command_the_terminal() {
        let mut memory = memory_of("\u{1b}[2J\u{202e}gone");
        memory.collection = "\u{9b}c".to_owned();
        let out = Output::plain_terminal(80);
        for shown in [table_of(&memory, 80), super::memory(&out, &memory, NOW)] {
            assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{shown:?}");
        }
    }

    #[test]
    fn one_memory_is_shown_in_full() {
        let mut memory = memory_of("first\nsecond");
        memory.speaker = Some("Ann".to_owned());
        memory.metadata.insert("k".to_owned(), serde_json::json!({"deep": 1}));
        let shown = super::memory(&Output::pipe(), &memory, NOW);
        assert!(shown.ends_with("\n\nfirst\nsecond\n"), "{shown}");
        for part in
            ["importance  0.5", "tags        a, b c", "speaker     Ann", "metadata    k: {\"deep\":1}"]
        {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn figures_are_aligned_and_a_repeated_name_is_shown_once() {
        let pairs = [("a", "1".to_owned()), ("long", "2".to_owned()), ("long", "3".to_owned())];
        assert_eq!(figures(&Output::pipe(), pairs), "a     1\nlong  2\n      3\n");
    }
}
