//! A text in sentences: prose only, without code blocks and marks of lists.

/// Most sentences of one turn that are looked at.
const SENTENCES_MAX: usize = 400;
/// Longest sentence, in bytes; longer ones are logs and data.
const SENTENCE_LEN_MAX: usize = 1200;
/// What ends with a dot and ends no sentence.
const ABBREVIATIONS: &[&str] = &[
    "e.g.", "i.e.", "etc.", "vs.", "cf.", "no.", "dr.", "mr.", "mrs.", "ms.", "st.", "approx.", "bzw.",
    "z.b.", "ca.",
];

/// The sentences of a text, in order.
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            in_code = !in_code;
            continue;
        }
        if in_code || trimmed.starts_with("    ") || line.starts_with("\t") {
            continue;
        }
        split(without_mark(trimmed), &mut found);
        if found.len() >= SENTENCES_MAX {
            break;
        }
    }
    found.truncate(SENTENCES_MAX);
    found
}

/// A line without the mark of a heading, a quotation or a list.
fn without_mark(line: &str) -> &str {
    let line = line.trim_start_matches(['#', '>', '|']).trim_start();
    for mark in ["- [ ] ", "- [x] ", "- ", "* ", "+ ", "• "] {
        if let Some(rest) = line.strip_prefix(mark) {
            return rest.trim();
        }
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let numbered = (1..=2).contains(&digits).then(|| &line[digits..]);
    match numbered.and_then(|rest| rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") "))) {
        Some(rest) => rest.trim(),
        None => line,
    }
}

fn split<'a>(line: &'a str, found: &mut Vec<&'a str>) {
    let mut start = 0;
    let mut push = |part: &'a str| {
        let part = part.trim();
        if part.len() <= SENTENCE_LEN_MAX && part.chars().any(char::is_alphabetic) {
            found.push(part);
        }
    };
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if matches!(c, '。' | '！' | '？') {
            push(&line[start..at + c.len_utf8()]);
            start = at + c.len_utf8();
            continue;
        }
        if !matches!(c, '.' | '!' | '?') {
            continue;
        }
        let Some((next, blank)) = chars.peek().copied() else { break };
        let word = line[start..=at].rsplit(' ').next().unwrap_or_default().to_lowercase();
        if blank.is_whitespace() && !ABBREVIATIONS.contains(&word.as_str()) {
            push(&line[start..next]);
            start = next;
        }
    }
    push(&line[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_split_and_code_and_marks_are_left_out() {
        let text = "# Notes\n- We use v1.2.3, e.g. for tests. It works!\n1. First step?\n```\nlet x = 1;\n```\n日本語。次。";
        assert_eq!(
            sentences(text),
            ["Notes", "We use v1.2.3, e.g. for tests.", "It works!", "First step?", "日本語。", "次。"]
        );
    }

    #[test]
    fn data_is_no_sentence() {
        assert!(sentences(&"x".repeat(5000)).is_empty());
        assert!(sentences("123 456\n---\n\n").is_empty());
        assert_eq!(sentences(&"a b.\n".repeat(5000)).len(), SENTENCES_MAX);
    }
}
