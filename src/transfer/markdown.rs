//! Markdown: memory files such as CLAUDE.md and AGENTS.md, notes of basic-memory, and folders of them.
//!
//! Every section becomes a memory: its text under the titles that lead to it, so that `Tests` below `Backend` is not
//! taken for the tests of the frontend. A title without text of its own is only a part of that path. What stands in a
//! fenced code block is no title. Only titles with `#` count (CommonMark, "ATX headings").
//!
//! Front matter between `---` lines is YAML. Its shape is that of basic-memory (its `NOTE-FORMAT.md`, read in November
//! 2026): `title`, `type`, `permalink`, `tags` (a list, or a text with commas), and any other keys; `created` or `date`
//! is taken as the time. Observations (`- [category] text`) and relations (`- relation [[Note]]`) are lines of their
//! sections and stay there.
//!
//! Ids are made of the file's place below the named folder, the titles and the text: importing again after an edit adds
//! the sections that changed.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::Fields;
use super::ids;
use super::input::{check_encoding, strip_bom};
use super::recognise::has_extension;
use super::sink::{Each, Report, Sink, Times};
use super::values::{take_seconds, take_text, take_texts};
use crate::error::{Error, ErrorKind, Result};

/// Longest file, in bytes.
const FILE_LEN_MAX: u64 = 16 << 20;
/// Most files of one folder.
const FILES_MAX: usize = 100_000;
/// Deepest folder below the named one.
const DEPTH_MAX: usize = 32;
/// Longest front matter, in bytes.
const FRONT_LEN_MAX: usize = 64 << 10;
/// What a Markdown file is called.
const EXTENSIONS: [&str; 3] = ["md", "markdown", "mdc"];

/// The Markdown files of a file or a folder, found once and read as often as it is wanted.
#[derive(Debug)]
pub(super) struct Files {
    /// Each with its name below the named folder.
    files: Vec<(PathBuf, String)>,
    /// What was not looked into, and why.
    skipped: Vec<String>,
}

impl Files {
    /// Finds them. Links and hidden folders are not followed; both are named.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for too many or too deep ones, those of the system.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
        let mut found = Self { files: Vec::new(), skipped: Vec::new() };
        if metadata.is_dir() {
            found.enter(path, "", 0)?;
            found.files.sort_by(|a, b| a.1.cmp(&b.1));
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.files.push((path.to_owned(), name));
        }
        Ok(found)
    }

    fn enter(&mut self, folder: &Path, below: &str, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            let what = format!("the folder is more than {DEPTH_MAX} levels deep");
            return Err(Error::new(ErrorKind::TooLarge, what).at(folder));
        }
        let failed = |error| Error::io("read", folder, error);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let shown = format!("{below}{name}");
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                if name.starts_with('.') {
                    self.skipped.push(format!("{shown} is hidden"));
                } else {
                    self.enter(&entry.path(), &format!("{shown}/"), depth + 1)?;
                }
            } else if has_extension(&entry.path(), &EXTENSIONS) {
                if !kind.is_file() {
                    self.skipped.push(format!("{shown} is no plain file"));
                } else if self.files.len() == FILES_MAX {
                    let what = format!("the folder has more than {FILES_MAX} Markdown files");
                    return Err(Error::new(ErrorKind::TooLarge, what).at(folder));
                } else {
                    self.files.push((entry.path(), shown));
                }
            }
        }
        Ok(())
    }

    /// Gives the memories of all files.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what is no UTF-8 or has a broken front matter, [`ErrorKind::TooLarge`]; they name the
    /// file and the line. Those of the system and of `each`.
    pub(super) fn read(&self, each: &mut Each<'_>) -> Result<Report> {
        let mut sink = Sink::new(Times::Rare, each);
        for what in &self.skipped {
            sink.note(format!("{what} and was left out"));
        }
        for (path, name) in &self.files {
            let text = read_text(path)?;
            read_file(name, &text, &mut sink).map_err(|error| match error.path() {
                None => error.at(path),
                Some(_) => error,
            })?;
        }
        if self.files.is_empty() {
            sink.note("there are no Markdown files".to_owned());
        }
        Ok(sink.finish())
    }
}

fn read_text(path: &Path) -> Result<String> {
    let failed = |error| Error::io("read", path, error);
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().as_ref().map(Metadata::len).unwrap_or(0);
    if len > FILE_LEN_MAX {
        let what = format!("the file has {len} bytes, the most is {FILE_LEN_MAX}");
        return Err(Error::new(ErrorKind::TooLarge, what).at(path));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    check_encoding(&bytes).map_err(|error| error.at(path))?;
    match std::str::from_utf8(strip_bom(&bytes)) {
        Ok(text) if bytes.len() as u64 <= FILE_LEN_MAX => Ok(text.to_owned()),
        Ok(_) => Err(Error::new(ErrorKind::TooLarge, "the file grows while it is read").at(path)),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Err(Error::new(ErrorKind::Invalid, format!("line {line}: this is not UTF-8 text")).at(path))
        }
    }
}

fn read_file(name: &str, text: &str, sink: &mut Sink<'_, '_>) -> Result<()> {
    let (front, body, first_line) = split_front_matter(text);
    let mut front = match front {
        Some(yaml) => parse_front_matter(yaml)?,
        None => Map::new(),
    };
    let title = take_text(&mut front, "title");
    let created = take_seconds(&mut front, "created");
    let timestamp = created.or_else(|| take_seconds(&mut front, "date"));
    let tags = take_texts(&mut front, "tags")
        .unwrap_or_default()
        .into_iter()
        .map(|tag| tag.trim().trim_start_matches('#').to_owned())
        .collect::<Vec<_>>();
    let sections = sections(body);
    if sections.is_empty() {
        sink.leave_out(format!("{name} has no text and was left out"));
    }
    for section in sections {
        let mut path: Vec<&str> = section.path.clone();
        if let Some(title) = &title
            && path.first().is_none_or(|first| first != title)
        {
            path.insert(0, title);
        }
        let heading = path.join(" > ");
        let text = if heading.is_empty() {
            section.text.to_owned()
        } else {
            format!("{heading}\n\n{}", section.text)
        };
        let mut metadata = front.clone();
        metadata.insert("file".to_owned(), Value::from(name));
        let id = ids::of_parts(&["markdown", name, &heading, section.text]);
        let fields = Fields {
            id: None,
            text: Some(text),
            timestamp,
            source: Some(format!("file:{name}")),
            tags: Some(tags.clone()),
            metadata: Some(metadata),
            ..Fields::default()
        };
        sink.push_made(&|| format!("line {}", first_line + section.line), id, fields)?;
    }
    Ok(())
}

/// The front matter, what follows it, and the number of lines before that.
fn split_front_matter(text: &str) -> (Option<&str>, &str, usize) {
    let mut lines = text.split_inclusive('\n');
    if lines.next().is_none_or(|line| line.trim_end() != "---") {
        return (None, text, 0);
    }
    let start = text.find('\n').map_or(text.len(), |at| at + 1);
    let mut at = start;
    for (count, line) in lines.enumerate() {
        if matches!(line.trim_end(), "---" | "...") {
            return (Some(&text[start..at]), &text[at + line.len()..], count + 2);
        }
        at += line.len();
        if at - start > FRONT_LEN_MAX {
            break;
        }
    }
    // A line across the page, and no front matter.
    (None, text, 0)
}

fn parse_front_matter(yaml: &str) -> Result<Map<String, Value>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 10_000,
            max_nodes: 5_000,
            max_depth: 16,
            flow_nesting_limit: 16,
            max_documents: 1,
            max_aliases: 0,
            max_anchors: 64,
            max_merge_keys: 0,
        },
        // YAML 1.1 would make a truth value of a tag that is `y` or `on`.
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Option<Value>>(yaml, options) {
        Ok(None | Some(Value::Null)) => Ok(Map::new()),
        Ok(Some(Value::Object(front))) => Ok(front),
        Ok(Some(_)) => Err(Error::new(ErrorKind::Invalid, "the front matter is no mapping")),
        // The parser's own sentence can quote what it read.
        Err(error) => {
            let line = error.location().map_or(1, |at| at.line() + 1);
            Err(Error::new(
                ErrorKind::Invalid,
                format!("line {line}: the front matter is not YAML within its limits"),
            )
            .hint("correct it, or take it away"))
        }
    }
}

/// A part of a text below one title.
#[derive(Debug, PartialEq, Eq)]
struct Section<'a> {
    /// The titles that lead here, this section's own last.
    path: Vec<&'a str>,
    /// The line of its first words, counted from 1.
    line: usize,
    text: &'a str,
}

/// Cuts a text at its titles.
fn sections(body: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    // Titles by level; a level that was left out is empty.
    let mut titles: Vec<&str> = Vec::new();
    let mut fence: Option<Fence> = None;
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in body.split_inclusive('\n').enumerate() {
        match (fence, Fence::of(line)) {
            (Some(open), Some(close)) if close.closes(open) => fence = None,
            (None, Some(open)) => fence = Some(open),
            (None, None) => {
                if let Some((level, title)) = heading_of(line) {
                    sections.extend(section(&titles, &body[start..at], start_line));
                    titles.truncate(level - 1);
                    titles.resize(level - 1, "");
                    titles.push(title);
                    (start, start_line) = (at + line.len(), index + 2);
                }
            }
            _ => {}
        }
        at += line.len();
    }
    sections.extend(section(&titles, &body[start..], start_line));
    sections
}

/// The section of these titles, unless it has no text of its own.
fn section<'a>(titles: &[&'a str], whole: &'a str, line: usize) -> Option<Section<'a>> {
    let text = whole.trim();
    if text.is_empty() {
        return None;
    }
    let before = whole.len() - whole.trim_start().len();
    let path = titles.iter().copied().filter(|title| !title.is_empty()).collect();
    Some(Section { path, line: line + whole[..before].matches('\n').count(), text })
}

/// The line that begins or ends a block of code.
#[derive(Clone, Copy, Debug)]
struct Fence {
    mark: char,
    len: usize,
    /// Whether nothing stands behind the marks.
    is_bare: bool,
}

impl Fence {
    fn of(line: &str) -> Option<Self> {
        let line = unindented(line)?;
        let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let len = line.chars().take_while(|found| *found == mark).count();
        let rest = &line[len..];
        let is_fence = len >= 3 && !(mark == '`' && rest.contains('`'));
        is_fence.then(|| Self { mark, len, is_bare: rest.trim().is_empty() })
    }

    fn closes(self, open: Self) -> bool {
        self.is_bare && self.mark == open.mark && self.len >= open.len
    }
}

/// Level and words of a title.
fn heading_of(line: &str) -> Option<(usize, &str)> {
    let line = unindented(line)?;
    let level = line.chars().take_while(|mark| *mark == '#').count();
    let rest = &line[level..];
    if !(1..=6).contains(&level) || !(rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r'])) {
        return None;
    }
    let title = rest.trim();
    // Marks behind the words belong to none of them.
    let bare = title.trim_end_matches('#');
    let title = if bare.is_empty() || bare.ends_with([' ', '\t']) { bare.trim_end() } else { title };
    Some((level, title))
}

/// A line of the text itself: four blanks make it code.
fn unindented(line: &str) -> Option<&str> {
    let bare = line.trim_start_matches(' ');
    (line.len() - bare.len() < 4).then_some(bare)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::sink::Item;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("write");
        }
        folder
    }

    fn items(path: &Path) -> Result<(Vec<Item>, Report)> {
        let mut items = Vec::new();
        let report = Files::find(path)?.read(&mut |item| {
            items.push(item);
            Ok(())
        })?;
        Ok((items, report))
    }

    fn texts(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| item.incoming.remember.text()).collect()
    }

    #[test]
    fn sections_become_memories_below_their_titles() {
        let text = "Before all.\n\n# Backend #\n\n## Tests\nRun `cargo test`.\n```sh\n# no title\n```\n### Slow\n\n\nAt night.\n\
                    # Frontend\n    # code\n#hash\n";
        let folder = folder(&[("CLAUDE.md", text)]);
        let (items, report) = items(&folder.path().join("CLAUDE.md")).expect("good");
        assert_eq!(
            texts(&items),
            [
                "Before all.",
                "Backend > Tests\n\nRun `cargo test`.\n```sh\n# no title\n```",
                "Backend > Tests > Slow\n\nAt night.",
                "Frontend\n\n# code\n#hash",
            ]
        );
        assert_eq!((report.memories, report.notes.len()), (4, 0));
        let first = &items[0].incoming.remember;
        assert_eq!((first.source.as_str(), first.timestamp), ("file:CLAUDE.md", None));
        assert_eq!(sections(text).iter().map(|section| section.line).collect::<Vec<_>>(), [1, 6, 13, 15]);
    }

    #[test]
    fn front_matter_gives_titles_tags_and_times() {
        let note = "---\ntitle: Coffee\ntype: note\ntags: [coffee, '#brewing']\npermalink: coffee\ncreated: 2024-01-15\n---\n\
                    # Coffee\n\n## Observations\n- [method] Pour over #brewing\n\n## Relations\n- relates_to [[Tea]]\n";
        let folder = folder(&[("notes/coffee.md", note), ("notes/.hidden/x.md", "x"), ("a.txt", "x")]);
        let (items, report) = items(folder.path()).expect("good");
        assert_eq!(
            texts(&items),
            [
                "Coffee > Observations\n\n- [method] Pour over #brewing",
                "Coffee > Relations\n\n- relates_to [[Tea]]"
            ]
        );
        let first = &items[0].incoming.remember;
        assert_eq!(first.tags, ["coffee", "brewing"]);
        assert_eq!(first.timestamp, Some(1_705_276_800));
        assert_eq!(first.source, "file:notes/coffee.md");
        let expected = serde_json::json!({"type": "note", "permalink": "coffee", "file": "notes/coffee.md"});
        assert_eq!(Value::Object(first.metadata.clone()), expected);
        assert!(report.notes.iter().any(|note| note.what.contains("notes/.hidden is hidden")), "{report:?}");
    }

    #[test]
    fn no_tag_is_lost_and_a_file_without_text_is_told() {
        let folder = folder(&[
            ("a.md", "---\ntags: [x, y, on, 2024, true, 1.5]\n---\nwords\n"),
            ("b.md", "---\ntitle: nothing more\n---\n"),
        ]);
        let (items, report) = items(folder.path()).expect("good");
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].incoming.remember.tags, ["x", "y", "on", "2024", "true", "1.5"]);
        assert_eq!(report.left_out, 1);
        assert!(
            report.notes.iter().any(|note| note.what == "b.md has no text and was left out"),
            "{report:?}"
        );
    }

    #[test]
    fn an_id_depends_on_what_a_section_says_and_not_on_the_others() {
        let ids = |text: &str| {
            let folder = folder(&[("m.md", text)]);
            let (items, _) = items(folder.path()).expect("good");
            items.into_iter().map(|item| item.incoming.remember.id).collect::<Vec<_>>()
        };
        let before = ids("# A\none\n# B\ntwo\n");
        let after = ids("# A\none more\n# B\ntwo\n");
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1], after[1]);
    }

    #[test]
    fn what_is_no_text_or_no_front_matter_names_its_file_and_line() {
        for (bytes, expected) in [
            (&b"# a\nb\n\xffc"[..], "line 3: this is not UTF-8 text"),
            (b"---\na: [1\n---\nx", "the front matter is not YAML"),
            (b"---\n- hunter2\n---\nx", "the front matter is no mapping"),
            (b"---\na: &x [1]\nb: *x\n---\nx", "the front matter is not YAML"),
        ] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            fs::write(folder.path().join("m.md"), bytes).expect("write");
            let error = items(folder.path()).expect_err("bad");
            assert!(error.message().contains(expected), "{error}");
            assert!(error.path().is_some_and(|path| path.ends_with("m.md")), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_lose_a_line(lines in prop::collection::vec("[#`~ a\t\u{e9}-]{0,6}", 0..12)) {
            let text = lines.join("\n");
            let (_, body, _) = split_front_matter(&text);
            let words = |text: &str| text.chars().filter(|c| matches!(c, 'a' | 'é')).count();
            let sections = sections(body);
            let kept: usize = sections.iter().map(|section| words(section.text)).sum();
            prop_assert!(kept <= words(body));
            if !body.contains('#') {
                prop_assert_eq!(kept, words(body));
            }
        }
    }
}
