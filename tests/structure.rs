//! The rooms of `src/` import one another in one direction, and some things stand in one place only.
//!
//! A plain scan of the source text: comments, literals and test code are blanked out first, then every path that
//! begins at the crate's root is looked at.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Every room and the rooms that it imports. A room imports only rooms above it.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("clock", &[]),
    ("secrets", &[]),
    ("time", &["error"]),
    ("memory", &["error", "secrets", "time"]),
    ("fs", &["error"]),
    ("config", &["error", "memory", "fs"]),
    ("format", &["memory"]),
    ("embed", &["error", "memory", "fs", "format"]),
    ("home", &["error", "config", "embed"]),
    ("scope", &["error", "format"]),
    ("logs", &["error", "secrets", "time", "fs"]),
    ("log", &["error", "clock", "fs", "format"]),
    ("catalog", &["error", "memory", "fs", "format"]),
    ("sqlite", &[]),
    ("rank", &["memory", "format"]),
    ("text", &["error", "memory", "format", "scope"]),
    ("pack", &["memory", "time", "text"]),
    ("vector", &["error", "scope"]),
    ("index", &["error", "memory", "fs", "format", "scope", "text", "vector"]),
    (
        "store",
        &[
            "error", "clock", "secrets", "time", "memory", "home", "fs", "format", "scope", "log", "catalog",
            "rank", "text", "vector", "index", "embed",
        ],
    ),
    ("transfer", &["error", "secrets", "time", "memory", "fs", "sqlite", "store"]),
    ("snapshot", &["error", "time", "memory", "fs", "sqlite", "store"]),
    (
        "check",
        &["error", "home", "fs", "format", "log", "catalog", "text", "index", "embed", "store", "snapshot"],
    ),
    (
        "share",
        &["error", "memory", "home", "fs", "format", "embed", "store", "check", "transfer", "snapshot"],
    ),
    ("capture", &["error", "clock", "secrets", "time", "memory", "fs", "home", "share"]),
    ("spool", &["error", "clock", "fs", "logs", "memory", "transfer", "share"]),
    ("failure", &["error", "time", "config", "fs", "home", "logs"]),
    ("schedule", &["error", "fs", "home", "failure"]),
    (
        "doctor",
        &[
            "error", "time", "config", "fs", "format", "home", "store", "snapshot", "share", "logs",
            "failure", "schedule",
        ],
    ),
    (
        "health",
        &[
            "error", "clock", "time", "home", "fs", "logs", "store", "check", "snapshot", "share", "spool",
            "failure", "schedule",
        ],
    ),
];

/// Doors to single parts for `benches/` and `fuzz/`: they may open to every room, and no room goes through them.
const DOORS: &str = "parts";

/// The program's room: it sees what a user of the library sees, the crate's root and these rooms.
const PROGRAM: &str = "cli";
const PUBLIC_ROOMS: &[&str] = &[
    "capture", "check", "clock", "config", "doctor", "embed", "failure", "health", "home", "logs",
    "schedule", "secrets", "spool", "time", "transfer",
];

/// Where the rooms are put together.
const ROOTS: &[&str] = &["lib", "main", "bin"];

/// The only files with unsafe code.
const UNSAFE_FILES: &[&str] = &["src/embed/minilm/kernels.rs", "src/fs/map.rs", "src/vector/kernels.rs"];

/// Graphs are made by several threads.
const THREADED_FILES: &[&str] = &["src/vector/link/hnsw.rs", "src/vector/link/work.rs"];

/// Where it is asked which operating system this is: everything else calls what stands there.
const SEAMS: &[&str] = &["src/fs/system/", "src/share/socket/"];

/// The rooms that know nothing of files, processes and clocks.
const PURE_ROOMS: &[&str] = &["secrets", "memory", "format", "rank", "text", "pack", "vector"];

#[test]
fn every_room_stands_in_the_table_and_the_table_names_no_other() {
    let there: BTreeSet<String> = sources().into_iter().map(|file| file.room).collect();
    let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    let listed: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let unlisted: Vec<_> = there
        .difference(&listed)
        .filter(|room| ![PROGRAM, DOORS].contains(room) && !ROOTS.contains(room))
        .collect();
    assert!(unlisted.is_empty(), "say in the table which rooms these may import: {unlisted:?}");
    let gone: Vec<_> = listed.difference(&there).collect();
    assert!(gone.is_empty(), "no such rooms: {gone:?}");
}

#[test]
fn the_table_points_one_way() {
    for (index, (room, imports)) in ROOMS.iter().enumerate() {
        for import in *imports {
            let above = ROOMS[..index].iter().any(|(other, _)| other == import);
            assert!(above, "{room} imports {import}, which stands below it");
        }
    }
}

#[test]
fn rooms_import_what_the_table_says() {
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in sources() {
        if [PROGRAM, DOORS].contains(&file.room.as_str()) || ROOTS.contains(&file.room.as_str()) {
            continue;
        }
        let allowed = ROOMS.iter().find(|(room, _)| *room == file.room).map_or(&[][..], |(_, rooms)| rooms);
        for import in file.imports() {
            if import.name == file.room {
                continue;
            }
            if !allowed.contains(&import.name.as_str()) {
                wrong.push(format!("{}:{}: {} imports {}", file.path, import.line, file.room, import.name));
            }
            used.insert((file.room.clone(), import.name));
        }
    }
    assert!(wrong.is_empty(), "not in the table:\n{}", wrong.join("\n"));
    for (room, imports) in ROOMS {
        for import in *imports {
            let pair = ((*room).to_owned(), (*import).to_owned());
            assert!(
                used.contains(&pair),
                "{room} does not import {import} any more: take it out of the table"
            );
        }
    }
}

#[test]
fn the_program_sees_the_public_api_only() {
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).chain([DOORS]).collect();
    let mut wrong = Vec::new();
    for file in sources() {
        if file.room != PROGRAM && file.room != "main" && file.room != "bin" {
            continue;
        }
        for import in file.imports() {
            let hidden =
                rooms.contains(import.name.as_str()) && !PUBLIC_ROOMS.contains(&import.name.as_str());
            if hidden {
                wrong.push(format!("{}:{}: imports {}", file.path, import.line, import.name));
            }
        }
    }
    assert!(wrong.is_empty(), "not public:\n{}", wrong.join("\n"));
}

#[test]
fn nobody_imports_the_program_or_the_doors() {
    for file in sources() {
        for import in file.imports() {
            let inside = import.name == file.room || ROOTS.contains(&file.room.as_str());
            let forbidden = [PROGRAM, DOORS].contains(&import.name.as_str()) && !inside;
            assert!(!forbidden, "{}:{} imports {}", file.path, import.line, import.name);
        }
    }
}

#[test]
fn unsafe_code_stands_in_the_kernels_and_the_map_only() {
    // Test code counts here, too.
    let with_unsafe: Vec<String> = rust_files("src")
        .into_iter()
        .filter(|path| has_word(&blank_comments_and_literals(&read(path)), "unsafe"))
        .collect();
    assert_eq!(with_unsafe, UNSAFE_FILES);
}

#[test]
fn two_folders_know_which_operating_system_this_is() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !SEAMS.iter().any(|seam| file.path.starts_with(seam))) {
        for (index, line) in file.code.lines().enumerate() {
            if names_a_system(line) {
                wrong.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "a function of {SEAMS:?} is to be called:\n{}", wrong.join("\n"));
    for line in
        ["use std::os::unix::fs::FileExt;", "use std::{io, os};", "#[cfg(not(windows))]", "cfg!(unix)"]
    {
        assert!(names_a_system(line), "{line}");
    }
    for line in ["rustix::fs::open()", "#[cfg(any(target_os = \"\", test))]", "use winapi_util::file;"] {
        assert!(names_a_system(line), "{line}");
    }
    for line in ["bytes.windows(2)", "use crate::fs::system;", "#[cfg(feature = \"\")]", "let os = 1;"] {
        assert!(!names_a_system(line), "{line}");
    }
}

/// Whether a line of code asks for the operating system, or calls what only one of them has.
fn names_a_system(line: &str) -> bool {
    let is_import = has_word(line, "use");
    words(line).any(|(at, word)| {
        let before = line[..at].trim_end();
        match word {
            "rustix" | "winapi_util" | "interprocess" | "fs4" | "target_os" | "target_family" => true,
            "unix" | "windows" => {
                ["os::", "(", ","].iter().any(|end| before.ends_with(end)) && line.contains("cfg")
            }
            "os" => before.ends_with("std::") || is_import,
            _ => false,
        }
    })
}

#[test]
fn only_the_program_prints() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| file.room != PROGRAM) {
        for (index, line) in file.code.lines().enumerate() {
            for name in ["print", "println", "eprint", "eprintln", "dbg", "stdout", "stderr"] {
                // A child process has streams of the same names: `.stdout(…)`, never `stdout()`.
                let call = if name.starts_with("std") { "()" } else { "!" };
                if words(line).any(|(at, word)| {
                    word == name
                        && line[at..].starts_with(&format!("{name}{call}"))
                        && !line[..at].ends_with('.')
                }) {
                    wrong.push(format!("{}:{}: {name}", file.path, index + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "the library never prints:\n{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_touch_neither_files_nor_clocks() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| PURE_ROOMS.contains(&file.room.as_str())) {
        for (index, line) in file.code.lines().enumerate() {
            for name in ["File", "SystemTime", "Instant"] {
                if has_word(line, name) {
                    wrong.push(format!("{}:{}: {name}", file.path, index + 1));
                }
            }
        }
        for (at, _) in words(&file.code).filter(|(_, word)| *word == "std") {
            let Some(tree) = file.code[at..].strip_prefix("std::") else { continue };
            for name in first_names(tree) {
                let is_exempt = name == "thread" && THREADED_FILES.contains(&file.path.as_str());
                let names = ["fs", "net", "process", "env", "os", "thread", "*"];
                if names.contains(&name.as_str()) && !is_exempt {
                    let line = 1 + file.code[..at].matches('\n').count();
                    wrong.push(format!("{}:{line}: std::{name}", file.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A source file without its test code.
struct Source {
    /// Relative to the package.
    path: String,
    room: String,
    /// How many modules down from the crate's root its code stands.
    depth: usize,
    /// Its text with comments, literals and test code blanked out.
    code: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    /// First name after the crate's root.
    name: String,
}

/// All source files but those of tests.
fn sources() -> Vec<Source> {
    let (mut files, mut tests) = (Vec::new(), Vec::new());
    for path in rust_files("src") {
        let code = blank_comments_and_literals(&read(&path));
        let modules = module_path(&path);
        let (code, test_modules) = blank_tests(&code);
        tests.extend(test_modules.into_iter().map(|name| [&modules[..], &[name]].concat()));
        files.push((path, modules, code));
    }
    files
        .into_iter()
        .filter(|(_, modules, _)| !tests.iter().any(|test| modules.starts_with(test)))
        .map(|(path, modules, code)| {
            let room = modules.first().cloned().unwrap_or_else(|| "lib".to_owned());
            Source { path, room, depth: modules.len(), code }
        })
        .collect()
}

impl Source {
    /// Every name that follows the crate's root, reached by `crate::` or by enough of `super::`.
    fn imports(&self) -> Vec<Import> {
        let inline = inline_modules(&self.code);
        let mut imports = Vec::new();
        let mut skip_to = 0;
        for (at, word) in words(&self.code) {
            if at < skip_to || !(word == "crate" || word == "super") {
                continue;
            }
            let mut rest = at + word.len();
            let mut climbed = 1;
            while let Some(next) = self.code[rest..].strip_prefix("::super") {
                climbed += 1;
                rest = self.code.len() - next.len();
            }
            skip_to = rest;
            let depth = self.depth + inline.iter().filter(|module| module.contains(&at)).count();
            let at_root = word == "crate" || climbed >= depth;
            if let Some(tree) = self.code[rest..].strip_prefix("::").filter(|_| at_root) {
                let line = 1 + self.code[..at].matches('\n').count();
                imports.extend(first_names(tree).into_iter().map(|name| Import { line, name }));
            }
        }
        imports
    }
}

/// The first names of a path or of a tree of paths in braces.
fn first_names(tree: &str) -> Vec<String> {
    let ident = |text: &str| {
        // A glob stands for every room at once.
        if text.starts_with('*') {
            return Some("*".to_owned());
        }
        words(text).next().filter(|(at, _)| *at == 0).map(|(_, word)| word.to_owned())
    };
    let Some(inner) = tree.strip_prefix('{') else {
        return ident(tree).into_iter().collect();
    };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, char) in inner.char_indices() {
        match char {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.extend(ident(inner[start..at].trim_start()));
                start = at + 1;
                if char == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

/// The identifiers and keywords of a text with their offsets.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].find(is_part)?;
        let start = at;
        at += text[at..].find(|char| !is_part(char)).unwrap_or(text.len() - at);
        Some((start, &text[start..at]))
    })
}

fn has_word(text: &str, wanted: &str) -> bool {
    words(text).any(|(_, word)| word == wanted)
}

/// The bodies of modules that are written out within the file.
fn inline_modules(code: &str) -> Vec<Range<usize>> {
    words(code)
        .filter(|(_, word)| *word == "mod")
        .filter_map(|(at, _)| {
            let end = at + code[at..].find(['{', ';'])?;
            code[end..].starts_with('{').then(|| end..matching_brace(code, end))
        })
        .collect()
}

fn matching_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, char) in code[open..].char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 1 => return open + at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The code without items that only tests have, and the names of test modules that stand in files of their own.
fn blank_tests(code: &str) -> (String, Vec<String>) {
    let mut code = code.to_owned();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(") {
        let start = from + found;
        let condition_end = start + code[start..].find(']').expect("an attribute ends");
        from = condition_end;
        let condition = &code[start..condition_end];
        if !has_word(condition, "test") || condition.contains("not(test)") {
            continue;
        }
        let (end, module) = item_after(&code, condition_end + 1);
        modules.extend(module);
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        // A character of several bytes becomes one blank, so the text is put together anew.
        code = format!("{}{blank}{}", &code[..start], &code[end..]);
        from = start;
    }
    (code, modules)
}

/// Where the item ends that begins here, and its name if it is a module in a file of its own.
fn item_after(code: &str, start: usize) -> (usize, Option<String>) {
    let mut depth = 0;
    let is_use = words(&code[start..])
        .find(|(_, word)| !matches!(*word, "pub" | "crate" | "super" | "in"))
        .is_some_and(|(_, word)| word == "use");
    for (at, char) in code[start..].char_indices() {
        match char {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if is_use => depth += 1,
            '}' if is_use => depth -= 1,
            '{' if depth == 0 => return (matching_brace(code, start + at), None),
            ';' if depth == 0 => {
                let item = &code[start..start + at];
                let name = words(item).skip_while(|(_, word)| *word != "mod").nth(1);
                return (start + at + 1, name.map(|(_, name)| name.to_owned()));
            }
            _ => {}
        }
    }
    (code.len(), None)
}

/// The modules from the crate's root to this file.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").and_then(|path| path.strip_suffix(".rs")).expect("a file of src");
    let mut modules: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if modules.last().is_some_and(|last| last == "mod") || modules == ["lib"] {
        modules.pop();
    }
    modules
}

/// The text with every comment and every literal as blanks; lines stay where they are.
fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let len = blank_len(&chars, at);
        let is_blank = len > 0;
        for char in &chars[at..(at + len.max(1)).min(chars.len())] {
            out.push(if is_blank && *char != '\n' { ' ' } else { *char });
        }
        at += len.max(1);
    }
    out
}

/// How many characters of a comment or a literal begin here; 0 when none does.
fn blank_len(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let until =
        |from: usize, end: &dyn Fn(usize) -> bool| (from..rest.len()).find(|i| end(*i)).unwrap_or(rest.len());
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => until(2, &|i| rest[i] == '\n'),
        ['/', '*', ..] => {
            let (mut depth, mut i) = (0, 0);
            while i < rest.len() {
                match &rest[i..] {
                    ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
                    ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            i
        }
        ['"', ..] => {
            let mut i = 1;
            while i < rest.len() && rest[i] != '"' {
                i += if rest[i] == '\\' { 2 } else { 1 };
            }
            i + 1
        }
        ['r', '"' | '#', ..] if !in_word => raw_string_len(&rest[1..]).map_or(0, |len| len + 1),
        ['b', 'r', '"' | '#', ..] if !in_word => raw_string_len(&rest[2..]).map_or(0, |len| len + 2),
        // A character, and not a lifetime.
        ['\'', '\\', ..] => until(3, &|i| rest[i] == '\'') + 1,
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn raw_string_len(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|char| **char == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None; // A raw identifier.
    }
    let closes = |i: usize| {
        rest[i] == '"' && rest[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (hashes + 1..rest.len()).find(|i| closes(*i)).map(|end| end + 1 + hashes)
}

fn rust_files(folder: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the package") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(root).expect("within the package").display().to_string());
            }
        }
    }
    files.sort_unstable();
    files
}

fn read(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_scan_sees_imports_and_nothing_else() {
    let text = r##"
//! Comments name crate::a.
use crate::b::{c, crate_d};
use crate::{e::f, g::{self, h}, i};
/* crate::j /* crate::k */ crate::l */
fn m<'a>(n: &'a str) -> char { super::super::o::p(); super::q(); "crate::r"; r#"crate::s "t"#; '"' }
mod u { use super::super::super::v; use super::super::w; }
#[cfg(test)]
use crate::{x, y};
#[cfg(not(test))]
use crate::z;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(all(test, unix))]
mod more { use crate::aa; }
#[cfg(test)]
fn only(bytes: [u8; 4]) { crate::bb(); }
use crate::{cc, *};
"##;
    let (code, tests) = blank_tests(&blank_comments_and_literals(text));
    let source = Source { path: String::new(), room: "x".to_owned(), depth: 2, code };
    let names: Vec<_> = source.imports().into_iter().map(|import| (import.line, import.name)).collect();
    let expected =
        [(3, "b"), (4, "e"), (4, "g"), (4, "i"), (6, "o"), (7, "v"), (11, "z"), (18, "cc"), (18, "*")];
    assert_eq!(names, expected.map(|(line, name)| (line, name.to_owned())));
    assert_eq!(tests, ["tests"]);
}
