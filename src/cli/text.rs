//! Texts as people see them: without terminal commands, times and sizes in words.

use std::borrow::Cow;
use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A text of several lines, safe to show: control characters and changes of direction are written out, except for
/// line feeds and tabs.
pub(crate) fn block(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'), push_escape)
}

/// A text on one line, safe to show: line ends and tabs become blanks.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if !text.contains("\r\n") {
        return escaped(text, is_unsafe, push_line);
    }
    Cow::Owned(escaped(&text.replace("\r\n", "\n"), is_unsafe, push_line).into_owned())
}

fn push_line(out: &mut String, c: char) {
    match c {
        '\n' | '\t' => out.push(' '),
        other => push_escape(out, other),
    }
}

fn escaped<'a>(text: &'a str, bad: impl Fn(char) -> bool, push: impl Fn(&mut String, char)) -> Cow<'a, str> {
    if !text.chars().any(&bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { push(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// What could move the cursor, change the terminal or show letters in another order than they are.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn push_escape(out: &mut String, c: char) {
    let _ = write!(out, "{}", c.escape_unicode());
}

/// How long ago it was, in the largest whole unit: `5s ago`, `3h ago`, `in 2d`.
pub(crate) fn age(seconds: i64, now: i64) -> String {
    let distance = now.saturating_sub(seconds);
    let length = distance.unsigned_abs();
    let words = match length {
        0..60 => format!("{length}s"),
        60..3600 => format!("{}m", length / 60),
        3600..86_400 => format!("{}h", length / 3600),
        86_400..31_557_600 => format!("{}d", length / 86_400),
        _ => format!("{}y", length / 31_557_600),
    };
    if distance < 0 { format!("in {words}") } else { format!("{words} ago") }
}

/// The local time, such as `2026-02-17 12:30`; Unix seconds outside of the calendar as `@seconds`.
pub(crate) fn local_time(seconds: i64) -> String {
    time_in(seconds, TimeZone::system())
}

fn time_in(seconds: i64, zone: TimeZone) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => format!("@{seconds}"),
    }
}

/// A count with its noun: `1 memory`, `1,234 memories`.
pub(crate) fn count(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// A number with commas between thousands.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in a unit that people read, such as `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How the vector index is searched.
pub(crate) fn index_kind(has_graph: bool) -> &'static str {
    if has_graph { "searched through a graph" } else { "compared one by one" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_shown_as_it_is() {
        for text in ["Grüße", "日本語", "👨‍👩‍👧", "שלום", "می‌خواهم", "a\u{a0}b"]
        {
            assert_eq!(block(text), text);
            assert_eq!(line(text), text);
        }
    }

    #[test]
    fn terminal_commands_are_written_out() {
        assert_eq!(block("\u{1b}]0;x\u{7}"), "\\u{1b}]0;x\\u{7}");
        assert_eq!(block("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(block("a\rb"), "a\\u{d}b");
        assert_eq!(block("\u{202e}txt"), "\\u{202e}txt");
    }

    #[test]
    fn a_block_keeps_its_lines_and_a_line_has_none() {
        assert_eq!(block("a\n\tb"), "a\n\tb");
        assert_eq!(line(" a\n\tb\r\nc \n"), "a  b c");
    }

    #[test]
    fn ages_are_told_in_the_largest_unit() {
        for (seconds, expected) in [
            (1000, "0s ago"),
            (941, "59s ago"),
            (940, "1m ago"),
            (1000 - 3600, "1h ago"),
            (1000 - 86_400 * 3, "3d ago"),
            (1000 - 31_557_600 * 2, "2y ago"),
            (1000 + 7200, "in 2h"),
            (i64::MIN, "292271023045y ago"),
        ] {
            assert_eq!(age(seconds, 1000), expected);
        }
    }

    #[test]
    fn times_are_local_and_never_panic() {
        assert_eq!(time_in(1_771_329_600, TimeZone::UTC), "2026-02-17 12:00");
        assert_eq!(time_in(i64::MAX, TimeZone::UTC), "@9223372036854775807");
    }

    #[test]
    fn numbers_and_sizes_read_well() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(count(1, "memory", "memories"), "1 memory");
        assert_eq!(count(0, "memory", "memories"), "0 memories");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
