//! The pages of `format-spec/` and the README: their links, their list, and the rules that a check reports.
//!
//! The byte tables are held against the code by `src/format/spec_tests/` and `src/log/spec_tests.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the rules of a check stand in the code.
const RULES: &[&str] = &["src/log/verify.rs", "src/check/blocks.rs", "src/check/mod.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The pages of the specification, relative to the package.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("format-spec")).expect("list");
    let mut pages: Vec<_> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("a plain name"))
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("format-spec/{name}"))
        .collect();
    pages.sort_unstable();
    pages
}

/// The targets of all Markdown links outside of code.
fn links(markdown: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut in_block = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block || line.starts_with("    ") {
            continue;
        }
        for (index, part) in line.split("](").enumerate() {
            // Before a link's `](` an even number of backticks stands, or it is within code.
            let before: usize = line.split("](").take(index).map(|part| part.matches('`').count()).sum();
            if index > 0 && before.is_multiple_of(2) {
                links.extend(part.split(')').next());
            }
        }
    }
    links
}

/// The anchors of a page: its headings as they appear in links.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let headings = markdown.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// What is wrong with the links of a page.
fn broken_links(page: &str) -> Vec<String> {
    let text = read(page);
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    let mut broken = Vec::new();
    for link in links(&text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target: PathBuf = if file.is_empty() { page.into() } else { folder.join(file) };
        if !root().join(&target).exists() {
            broken.push(format!("{page}: {link} is not there"));
        } else if !anchor.is_empty() && !anchors(&read(&target.to_string_lossy())).contains(anchor) {
            broken.push(format!("{page}: {link} has no such heading"));
        }
    }
    broken
}

#[test]
fn links_lead_somewhere() {
    let mut checked = pages();
    assert!(checked.len() >= 9, "{checked:?}");
    let others =
        ["README.md", "CHANGELOG.md", "NOTICE.md", "tests/golden/README.md", "tests/fixtures/README.md"];
    checked.extend(others.into_iter().filter(|page| root().join(page).exists()).map(str::to_owned));
    let broken: Vec<String> = checked.iter().flat_map(|page| broken_links(page)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn links_and_headings_are_found_where_they_are() {
    let text = "# One two\n[a](b.md) and `[c](d.md)` [e](#f), [`g`](h.md#i)\n```\n[j](k)\n```\n    [l](m)\n## A `B_c` d, e\n";
    assert_eq!(links(text), ["b.md", "#f", "h.md#i"]);
    let headings: Vec<_> = anchors(text).into_iter().collect();
    assert_eq!(headings, ["a-b_c-d-e", "one-two"]);
}

#[test]
fn the_list_of_pages_names_every_page() {
    let list = read("format-spec/README.md");
    for page in pages() {
        let name = page.trim_start_matches("format-spec/");
        assert!(name == "README.md" || list.contains(name), "{name} is not in the list");
    }
}

/// The names of rules in the code: literals of small letters and hyphens that stand between two commas, as arguments do.
fn rules_in_code() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for file in RULES {
        let text = read(file);
        let code = text.split("#[cfg(test)]").next().expect("a text has a beginning");
        let parts: Vec<&str> = code.split('"').collect();
        // Every second part is a literal; none in these files has a quotation mark in it.
        for literal in parts
            .windows(3)
            .filter(|around| around[0].trim_end().ends_with(',') && around[2].trim_start().starts_with(','))
        {
            let name = literal[1];
            if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                rules.insert(name.to_owned());
            }
        }
    }
    rules
}

#[test]
fn the_rules_of_a_check_are_those_of_its_page() {
    let page = read("format-spec/check.md");
    let listed: BTreeSet<String> = page
        .lines()
        .skip_while(|line| *line != "## Rules")
        .filter(|line| line.starts_with('|') && !line.starts_with("|--"))
        .skip(1)
        .map(|line| line.split('|').nth(1).expect("a cell").trim().to_owned())
        .collect();
    assert_eq!(rules_in_code(), listed);
}

/// The words in the first column of the table under this heading.
fn words_under(page: &str, heading: &str) -> Vec<String> {
    let text = read(page);
    let below =
        text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    below
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('`').nth(1).expect("a word in backticks").to_owned())
        .collect()
}

#[test]
fn the_words_of_a_failure_are_those_of_their_page() {
    use memento_kv::failure::{Deed, FileKind, Kind};
    let page = "format-spec/failures.md";
    let names = |names: &mut dyn Iterator<Item = &'static str>| names.map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words_under(page, "### Kinds"), names(&mut Kind::ALL.iter().map(|kind| kind.name())));
    assert_eq!(words_under(page, "### Deeds"), names(&mut Deed::ALL.iter().map(|deed| deed.name())));
    assert_eq!(words_under(page, "### Files"), names(&mut FileKind::ALL.iter().map(|kind| kind.name())));
    for kind in Kind::ALL {
        let row = format!("| `{}` | `{}` |", kind.name(), kind.class().name());
        assert!(read(page).contains(&row), "{row}");
    }
}
