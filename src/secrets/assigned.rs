//! Values that are assigned to a name which says that they are secret: `password: …`, `API_KEY=…`, `the token is …`.

use super::Secret;
use super::looks::{classes, entropy, is_code, is_placeholder, is_random, is_words};

/// Names, without `_`, `-` and case; the last part of a longer name counts.
const PASSWORDS: &[&str] = &["password", "passwd", "passphrase", "passwort", "kennwort", "pwd", "passcode"];
const TOKENS: &[&str] = &[
    "token",
    "secret",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "clientsecret",
    "encryptionkey",
    "signingkey",
    "masterkey",
    "accountkey",
    "sharedaccesskey",
    "accesskeyid",
    "credential",
    "credentials",
    "authtoken",
    "servicekey",
    "deploykey",
    "sessionkey",
    "hmackey",
    "appkey",
];
/// The last three letters of the names above, and of `dbpass` and `_PASS`.
const ENDINGS: &[[u8; 3]] = &[
    *b"ord", *b"swd", *b"ase", *b"ort", *b"pwd", *b"ode", *b"ken", *b"ret", *b"key", *b"yid", *b"ial",
    *b"als", *b"ass",
];
/// Parts of a name that make it something else.
const HARMLESS: &[&str] = &[
    "hash",
    "public",
    "page",
    "cancel",
    "tokenizer",
    "continuation",
    "next",
    "pad",
    "eos",
    "bos",
    "unk",
    "mask",
    "cache",
];
/// Longest name that is looked at, in bytes.
const NAME_LEN_MAX: usize = 64;
/// Longest value that is looked at, in bytes.
const VALUE_LEN_MAX: usize = 4096;
/// How far behind the name `is` may stand: "the password for the router is …".
const APART_MAX: usize = 48;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Password,
    Token,
}

/// How the value is tied to the name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// `=`, `:`, `=>` and the like.
    Sign,
    /// `is`, `was`, `to`, or a blank behind an option.
    Word,
}

pub(super) fn find(text: &str, found: &mut Vec<Secret>) {
    let bytes = text.as_bytes();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let mut at = 0;
    while at < bytes.len() {
        if !is_name(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        while at < bytes.len() && is_name(bytes[at]) {
            at += 1;
        }
        if text[..start].ends_with('[') && text[start..].starts_with("secret:") {
            // What was masked before.
            at += text[at..].find(']').unwrap_or(0);
            continue;
        }
        let Some((names, kind)) = named(text, start, at) else { continue };
        if let Some(secret) = value_behind(text, start, at, names, kind) {
            at = secret.range.end;
            found.push(secret);
        }
    }
}

/// Whether this name says that its value is secret.
fn named(text: &str, start: usize, end: usize) -> Option<(Names, &'static str)> {
    // Bytes of ASCII only, so any cut is between characters.
    let name = &text[start.max(end.saturating_sub(NAME_LEN_MAX))..end];
    if !may_say(name) {
        return None;
    }
    let mut plain = String::with_capacity(24);
    // "API key" and "access token" are written with a blank, too.
    if let Some(word) = ["key", "secret", "token"].iter().find(|word| name.eq_ignore_ascii_case(word)) {
        let before = text[..start].trim_end_matches([' ', '-']);
        let before = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        if before.len() <= 16 && *word == "key" {
            plain.push_str(before);
        }
    }
    plain.extend(name.chars().filter(|c| !matches!(c, '_' | '-')));
    plain.make_ascii_lowercase();
    if HARMLESS.iter().any(|word| plain.contains(word)) {
        return None;
    }
    if PASSWORDS.iter().any(|word| plain.ends_with(word)) || plain == "dbpass" || name.ends_with("_PASS") {
        return Some((Names::Password, "password"));
    }
    let word = TOKENS.iter().find(|word| plain.ends_with(**word))?;
    Some((Names::Token, if word.contains("key") { "key" } else { "token" }))
}

/// Whether a name with this end may be one of the names: most words of a text are not, and are not looked at any further.
fn may_say(name: &str) -> bool {
    let mut letters = name.bytes().rev().filter(|byte| !matches!(byte, b'_' | b'-'));
    let mut next = || letters.next().map_or(0, |byte| byte.to_ascii_lowercase());
    let (last, second, third) = (next(), next(), next());
    ENDINGS.contains(&[third, second, last])
}

fn value_behind(text: &str, start: usize, end: usize, names: Names, kind: &'static str) -> Option<Secret> {
    let (tie, at) = tie(text, start, end, names)?;
    let rest = &text[at..];
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`' | '“'));
    let (value_at, value) = match quote {
        Some(quote) => {
            let inner = &rest[quote.len_utf8()..];
            let close = if quote == '“' { '”' } else { quote };
            let len = inner
                .char_indices()
                .take_while(|(at, _)| *at < VALUE_LEN_MAX)
                .find(|(_, c)| *c == close || *c == '\n');
            let (len, _) = len.filter(|(at, _)| inner[*at..].starts_with(close))?;
            (at + quote.len_utf8(), inner[..len].trim_end_matches('\\'))
        }
        None => {
            // In an address `&` begins the next part; in a password it may be any letter.
            let is_end = |c: char| {
                c.is_whitespace()
                    || matches!(c, '"' | '\'' | ',' | ';' | '<' | '>' | '`')
                    || (names == Names::Token && matches!(c, '&' | '|'))
            };
            let ends = |(at, c): &(usize, char)| *at >= VALUE_LEN_MAX || is_end(*c);
            let len = rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at);
            (at, rest[..len].trim_end_matches(['.', ',', ':', ')', ']', '}', '?', '…']))
        }
    };
    let is_secret = match names {
        Names::Password => is_password(value, tie, quote.is_some()),
        Names::Token => is_token(value, quote.is_some()),
    };
    is_secret.then(|| Secret { kind, range: value_at..value_at + value.len() })
}

/// Where the value begins that belongs to the name which ends here.
fn tie(text: &str, start: usize, end: usize, names: Names) -> Option<(Tie, usize)> {
    let rest = &text[end..];
    // A quoted key, an index, an escaped quote.
    let closed = rest.trim_start_matches(['"', '\'', ']', '\\', '*', '`']);
    let blanks = closed.trim_start_matches([' ', '\t']);
    for sign in [":=", "=>", "==", "=", ":"] {
        let Some(behind) = blanks.strip_prefix(sign) else { continue };
        if sign == "==" || behind.starts_with([':', '/']) {
            return None;
        }
        let value = behind.trim_start_matches([' ', '\t', '\\', '*']);
        return Some((Tie::Sign, text.len() - value.len()));
    }
    if text[start..end].starts_with("--") && closed.len() == rest.len() {
        return Some((Tie::Word, text.len() - blanks.len()));
    }
    let before = &text[..start];
    if before.ends_with("--") || (names == Names::Password && netrc(before)) {
        return Some((Tie::Word, text.len() - blanks.len()));
    }
    // "password is …", "token for the runner is …", within one sentence.
    let near_end = (0..=APART_MAX.min(rest.len())).rev().find(|len| rest.is_char_boundary(*len)).unwrap_or(0);
    let near = &rest[..near_end];
    let sentence = &near[..near.find(['.', ',', ';', '\n', '?', '!']).unwrap_or(near.len())];
    let said = [" is now ", " is: ", " is ", " was ", " to ", ": ", " = "]
        .iter()
        .filter_map(|word| sentence.find(word).map(|at| (at, word.len())))
        .min_by_key(|(at, len)| (*at, std::cmp::Reverse(*len)))?;
    Some((Tie::Word, end + said.0 + said.1))
}

/// `login NAME password …`, as in a netrc file.
fn netrc(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default();
    let mut words = line.split_whitespace().rev();
    words.next().is_some() && words.next() == Some("login")
}

fn is_password(value: &str, tie: Tie, quoted: bool) -> bool {
    let len = value.chars().count();
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    if !(6..=256).contains(&len) || is_placeholder(value) || is_code(value, quoted) || is_words(value) {
        return false;
    }
    if value.contains(' ') && !quoted {
        return false;
    }
    if digits == value.len() {
        return tie == Tie::Sign || digits >= 8;
    }
    // One word of letters may be anything, and a sentence in quotes is help, not a password.
    let is_sentence = value.split(' ').count() > 2;
    classes(value) >= 2
        && !is_sentence
        && entropy(value.as_bytes()) >= 2.2
        && (tie == Tie::Sign || digits > 0 || classes(value) >= 3)
}

fn is_token(value: &str, quoted: bool) -> bool {
    let is_long = value.len() >= 16 || (quoted && value.len() >= 12);
    is_long
        && !value.contains(' ')
        && !is_code(value, quoted)
        && is_random(value)
        && entropy(value.as_bytes()) >= 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_may_say_that_its_value_is_secret() {
        for name in PASSWORDS.iter().chain(TOKENS).chain(&["dbpass", "X_PASS"]) {
            assert!(may_say(name), "{name}");
            assert!(may_say(&name.to_ascii_uppercase()), "{name}");
            assert!(may_say(&format!("my-{name}_")), "{name}");
        }
        assert!(!may_say("words"));
        assert!(!may_say(""));
    }
}
