//! Tags by whole words: tools and languages that are known, names that the user or the store knows, `#tags`.
//!
//! A word that means something else outside of programming (rust, go, python, react) counts only where the text is about
//! programming, or with a capital that spelling does not ask for.

use super::cues::Kind;
use super::phrases::words;

/// Most tags that a text is given, besides those of its kind.
const TAGS_MAX: usize = 16;

/// Words that mean one thing.
const PLAIN: &[(&str, &[&str])] = &[
    ("rust", &["rustc", "rustup", "rustfmt", "clippy", "cargo.toml", "cargo.lock", "rustls", "tokio"]),
    ("github", &["github", "github.com", "ghcr.io"]),
    ("gitlab", &["gitlab"]),
    ("git", &["git", "gitignore"]),
    ("python", &["pytest", "pypi", "numpy", "django", "pyproject.toml", "fastapi", "pytorch"]),
    ("javascript", &["javascript", "nodejs", "node.js", "npm", "pnpm", "webpack", "package.json"]),
    ("typescript", &["typescript", "tsconfig.json", "tsc"]),
    ("go", &["golang"]),
    ("docker", &["docker", "dockerfile", "docker-compose"]),
    ("kubernetes", &["kubernetes", "k8s", "kubectl", "helm"]),
    ("postgres", &["postgres", "postgresql", "psql", "pgbouncer"]),
    ("sqlite", &["sqlite", "sqlite3"]),
    ("mysql", &["mysql", "mariadb"]),
    ("redis", &["redis"]),
    ("redb", &["redb"]),
    ("onnx", &["onnx", "onnxruntime"]),
    ("linux", &["linux", "ubuntu", "debian", "systemd"]),
    ("macos", &["macos"]),
    ("windows", &["win32", "powershell"]),
    ("aws", &["aws", "ec2", "eks"]),
    ("gcp", &["gcp", "bigquery"]),
    ("terraform", &["terraform"]),
    ("grafana", &["grafana"]),
    ("prometheus", &["promql"]),
    ("nginx", &["nginx"]),
    ("swift", &["swiftui", "swiftpm", "xcode"]),
    ("ios", &["ios", "iphone", "testflight"]),
    ("android", &["android", "gradle"]),
    ("wasm", &["wasm", "webassembly"]),
    ("graphql", &["graphql"]),
    ("grpc", &["grpc", "protobuf"]),
    ("security", &["cve", "oauth", "xss", "csrf"]),
    ("memento", &["memento", "memento-kv"]),
    ("fastembed", &["fastembed"]),
];

/// Words that mean it with a capital within a sentence, or where the text is about programming.
const AMBIGUOUS: &[(&str, &[&str])] = &[
    ("rust", &["rust", "cargo"]),
    ("python", &["python"]),
    ("java", &["java", "maven", "spring"]),
    ("go", &["go"]),
    ("kafka", &["kafka"]),
    ("react", &["react"]),
    ("swift", &["swift"]),
    ("ruby", &["ruby", "rails"]),
    ("azure", &["azure"]),
    ("prometheus", &["prometheus"]),
    ("windows", &["windows"]),
];

/// Words which say that a text is about programming.
const TECHNICAL: &[&str] = &[
    "code",
    "compiler",
    "compile",
    "compiles",
    "crate",
    "crates",
    "api",
    "sdk",
    "binary",
    "library",
    "libraries",
    "function",
    "module",
    "repo",
    "repository",
    "backend",
    "frontend",
    "server",
    "servers",
    "database",
    "db",
    "schema",
    "parser",
    "runtime",
    "async",
    "thread",
    "threads",
    "deploy",
    "deployment",
    "rfc",
    "ci",
    "cli",
    "test",
    "tests",
    "build",
    "builds",
    "engine",
    "architecture",
    "rewrite",
    "rewritten",
    "port",
    "ported",
    "version",
    "script",
    "scripts",
    "package",
    "cluster",
    "broker",
    "brokers",
    "consumer",
    "topic",
    "latency",
    "benchmark",
    "benchmarks",
    "bug",
    "bugs",
    "software",
    "service",
    "services",
    "programming",
    "language",
    "developer",
    "developers",
    "engineer",
    "framework",
    "component",
    "components",
    "migration",
    "migrate",
    "implementation",
    "implement",
    "toolchain",
    "linter",
    "app",
    "sqlite",
    "postgres",
    "typescript",
    "javascript",
    "docker",
    "linux",
    "wasm",
    "edition",
    "cache",
    "memory",
    "log",
    "stack",
];

/// Words before which `cargo` is the tool.
const CARGO: &[&str] = &[
    "build", "test", "run", "check", "add", "clippy", "fmt", "doc", "publish", "bench", "install", "update",
    "nextest", "deny", "audit", "fuzz",
];

/// A name that is a tag where it stands: a person, a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) tag: String,
    /// In small letters, as words.
    words: Vec<String>,
    /// Whether it needs a capital: names of people may be words, too.
    capital: bool,
}

impl Name {
    /// The name `text`, which gives this tag.
    pub(crate) fn new(text: &str, tag: &str) -> Option<Self> {
        let words = words(text).words;
        let tag = tag.trim().to_lowercase();
        let capital = text.chars().next().is_some_and(char::is_uppercase);
        (!words.is_empty() && !tag.is_empty()).then_some(Self { tag, words, capital })
    }
}

/// The tags of a text of these kinds.
pub(crate) fn tags(text: &str, kinds: &[Kind], names: &[Name]) -> Vec<String> {
    let tokens = tokens(text);
    let lower: Vec<String> = tokens.iter().map(|token| token.text.to_lowercase()).collect();
    let mut tags: Vec<String> = Vec::new();
    let mut add = |tag: &str| {
        if !tags.iter().any(|have| have == tag) && tags.len() < TAGS_MAX + kinds.len() {
            tags.push(tag.to_owned());
        }
    };
    kinds.iter().for_each(|kind| add(kind.name()));
    let has = |word: &str| lower.iter().any(|other| other == word);
    let is_technical = TECHNICAL.iter().any(|word| has(word))
        || PLAIN.iter().any(|(_, words)| words.iter().any(|word| has(word)))
        || text.contains('`')
        || text.contains("::");
    for (tag, words) in PLAIN {
        if words.iter().any(|word| has(word)) {
            add(tag);
        }
    }
    for (tag, words) in AMBIGUOUS {
        let is_it = |at: &usize| {
            let word = lower[*at].as_str();
            if !words.contains(&word) {
                return false;
            }
            let next = lower.get(at + 1).map_or("", String::as_str);
            match word {
                "cargo" => CARGO.contains(&next),
                // As a language it has a capital, and a version or a technical text around it.
                "go" | "spring" | "react" | "swift" | "windows" => {
                    tokens[*at].is_capital && !tokens[*at].is_first && is_technical
                }
                _ => is_technical,
            }
        };
        if (0..lower.len()).any(|at| is_it(&at)) {
            add(tag);
        }
    }
    if is_rfc(&lower, &tokens) {
        add("rfc");
    }
    if is_github(text, &tokens, &lower) {
        add("github");
    }
    for name in names {
        let found = lower.windows(name.words.len()).position(|window| window == name.words);
        if found.is_some_and(|at| !name.capital || tokens[at].is_capital || tokens[at].is_mention) {
            add(&name.tag);
        }
    }
    for token in &tokens {
        if let Some(tag) = hash_tag(token.text) {
            add(&tag.to_lowercase());
        }
    }
    tags
}

struct Token<'a> {
    text: &'a str,
    is_capital: bool,
    /// Whether it begins a sentence.
    is_first: bool,
    /// `@name`.
    is_mention: bool,
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '#' | '+' | '@');
    let mut is_first = true;
    let mut found = Vec::new();
    for piece in text.split(|c: char| !is_part(c)) {
        let ends = piece.ends_with('.');
        let is_mention = piece.starts_with('@');
        let token = piece.trim_matches(['.', '-', '_', '@', '+']);
        if token.is_empty() {
            continue;
        }
        let is_capital = token.chars().next().is_some_and(char::is_uppercase);
        found.push(Token { text: token, is_capital, is_first, is_mention });
        is_first = ends;
    }
    found
}

fn is_rfc(lower: &[String], tokens: &[Token<'_>]) -> bool {
    lower.iter().zip(tokens).any(|(word, token)| {
        token.text == "RFC"
            || token.text == "RFCs"
            || word.strip_prefix("rfc").is_some_and(|rest| {
                let rest = rest.trim_start_matches(['-', '_', '#']);
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
            })
    })
}

/// `PR #12`, `PRs`, "pull request", `issue #12`.
fn is_github(text: &str, tokens: &[Token<'_>], lower: &[String]) -> bool {
    let is_number = |token: Option<&Token<'_>>| {
        token.and_then(|token| token.text.strip_prefix('#')).is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let pull = lower.windows(2).any(|two| two[0] == "pull" && (two[1] == "request" || two[1] == "requests"));
    let numbered = (0..tokens.len()).any(|at| {
        let word = tokens[at].text;
        (matches!(word, "PR" | "issue" | "Issue") && is_number(tokens.get(at + 1))) || word == "PRs"
    });
    pull || numbered || text.contains("the PR") || text.contains("a PR")
}

/// `#tag`: letters, not a number, a colour or a heading.
fn hash_tag(token: &str) -> Option<&str> {
    let tag = token.strip_prefix('#')?;
    let letters = tag.chars().filter(|c| c.is_alphabetic()).count();
    let is_colour = matches!(tag.len(), 3 | 6 | 8) && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_word = tag.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    (letters >= 2 && is_word && !is_colour && tag.len() <= 64).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let names = [("Bob", "bob"), ("Brett", "brett"), ("tidepool-core", "tidepool")];
        let names: Vec<Name> = names.iter().filter_map(|(name, tag)| Name::new(name, tag)).collect();
        tags(text, &[], &names)
    }

    #[test]
    fn where_the_original_misfired_there_is_no_tag() {
        for text in [
            "Please improve the process and print the address.",
            "The latest explanation has a prefix.",
            "The user said hello to another user.",
            "I add sugar to my coffee and create a mess.",
            "He fixed the roof and the speed of the car was high.",
            "There is rust on my car, and the cargo ship was late.",
            "The python bit the swift bird; let's go and react later.",
            "The branch of the tree fell, we merge into traffic.",
            "I recall a lovely memory of the store downtown.",
            "Don't bob up and down like that, express yourself.",
            "It is #1 and the color is #ff00aa.",
        ] {
            assert_eq!(of(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_is_meant_is_tagged() {
        for (text, expected) in [
            ("Approved RFC-001 for Rust architecture", &["rust", "rfc"][..]),
            ("run cargo test before merging PR #12", &["rust", "github"]),
            ("Bob reviews it, Brett deploys tidepool-core.", &["bob", "brett", "tidepool"]),
            (
                "We moved from Postgres to SQLite on Linux #storage",
                &["postgres", "sqlite", "linux", "storage"],
            ),
            ("the Kafka brokers were upgraded", &["kafka"]),
            ("The service is rewritten in Go now", &["go"]),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }
}
