//! Secrets that are known by their form alone.

use super::Secret;
use super::looks::{Charset, classes, entropy, is_placeholder, is_random};

/// A token that begins with fixed letters.
struct Form {
    kind: &'static str,
    prefix: &'static str,
    charset: Charset,
    /// Fewest bytes after the prefix.
    least: usize,
    /// Most bytes after the prefix; more are another thing.
    most: usize,
}

const fn form(kind: &'static str, prefix: &'static str, charset: Charset, least: usize, most: usize) -> Form {
    Form { kind, prefix, charset, least, most }
}

use Charset::{Alnum, Base64, Dotted, Hex, Upper, Url};

/// As the services document their tokens. Longer prefixes stand before those that they begin with.
const FORMS: &[Form] = &[
    form("aws-access-key", "AKIA", Upper, 16, 16),
    form("aws-access-key", "ASIA", Upper, 16, 16),
    form("github-token", "ghp_", Alnum, 36, 255),
    form("github-token", "gho_", Alnum, 36, 255),
    form("github-token", "ghu_", Alnum, 36, 255),
    form("github-token", "ghs_", Alnum, 36, 255),
    form("github-token", "ghr_", Alnum, 36, 255),
    form("github-token", "github_pat_", Url, 36, 255),
    form("gitlab-token", "glpat-", Dotted, 20, 64),
    form("gitlab-token", "gldt-", Url, 20, 64),
    form("gitlab-token", "glrt-", Url, 20, 64),
    form("slack-token", "xoxb-", Url, 20, 255),
    form("slack-token", "xoxp-", Url, 20, 255),
    form("slack-token", "xoxa-", Url, 20, 255),
    form("slack-token", "xoxr-", Url, 20, 255),
    form("slack-token", "xoxs-", Url, 20, 255),
    form("slack-token", "xapp-", Url, 20, 255),
    form("slack-webhook", "hooks.slack.com/services/", Base64, 30, 80),
    form("discord-webhook", "discord.com/api/webhooks/", Base64, 60, 120),
    form("anthropic-key", "sk-ant-", Url, 32, 255),
    form("openrouter-key", "sk-or-v1-", Hex, 48, 80),
    form("openai-key", "sk-proj-", Url, 32, 255),
    form("openai-key", "sk-svcacct-", Url, 32, 255),
    form("openai-key", "sk-", Url, 32, 255),
    form("stripe-key", "sk_live_", Alnum, 16, 255),
    form("stripe-key", "sk_test_", Alnum, 16, 255),
    form("stripe-key", "rk_live_", Alnum, 16, 255),
    form("stripe-key", "rk_test_", Alnum, 16, 255),
    form("stripe-webhook", "whsec_", Base64, 24, 80),
    form("google-api-key", "AIza", Url, 35, 35),
    form("google-oauth", "GOCSPX-", Url, 24, 40),
    form("google-oauth", "ya29.", Url, 30, 2048),
    form("npm-token", "npm_", Alnum, 36, 36),
    form("pypi-token", "pypi-", Url, 50, 255),
    form("crates-token", "cio", Alnum, 32, 32),
    form("huggingface-token", "hf_", Alnum, 30, 40),
    form("sendgrid-key", "SG.", Dotted, 60, 72),
    form("twilio-key", "SK", Hex, 32, 32),
    form("digitalocean-token", "dop_v1_", Hex, 64, 64),
    form("digitalocean-token", "doo_v1_", Hex, 64, 64),
    form("shopify-token", "shpat_", Hex, 32, 32),
    form("shopify-token", "shpss_", Hex, 32, 32),
    form("docker-token", "dckr_pat_", Url, 20, 64),
    form("vault-token", "hvs.", Url, 20, 255),
    form("databricks-token", "dapi", Hex, 32, 34),
    form("linear-key", "lin_api_", Alnum, 32, 64),
    form("notion-token", "ntn_", Alnum, 40, 60),
    form("postman-key", "PMAK-", Url, 40, 80),
    form("age-key", "AGE-SECRET-KEY-1", Upper, 50, 64),
    form("doppler-token", "dp.pt.", Alnum, 40, 48),
    form("planetscale-token", "pscale_tkn_", Dotted, 30, 64),
    form("grafana-token", "glsa_", Url, 32, 64),
    form("grafana-token", "glc_", Base64, 32, 400),
    form("atlassian-token", "ATATT3", Base64, 100, 300),
    form("supabase-token", "sbp_", Hex, 40, 40),
    form("groq-key", "gsk_", Alnum, 40, 64),
    form("xai-key", "xai-", Alnum, 60, 96),
    form("perplexity-key", "pplx-", Alnum, 40, 64),
    form("replicate-token", "r8_", Alnum, 36, 48),
    form("square-token", "sq0atp-", Url, 22, 22),
    form("square-token", "sq0csp-", Url, 43, 43),
    form("newrelic-key", "NRAK-", Upper, 27, 27),
    form("fly-token", "fo1_", Url, 40, 64),
    form("render-key", "rnd_", Alnum, 28, 40),
    form("terraform-token", "atlasv1.", Url, 60, 80),
    form("figma-token", "figd_", Url, 36, 64),
    form("sentry-token", "sntrys_", Base64, 60, 400),
];

/// Bits of [`BEGINNINGS`].
const BEGINNINGS_LEN: usize = 4096;
/// A set of hashes of the first three bytes of all forms: most words of a text are none of them, and are not held against
/// each.
const BEGINNINGS: [u64; BEGINNINGS_LEN / 64] = beginnings();

const fn beginnings() -> [u64; BEGINNINGS_LEN / 64] {
    let mut set = [0; BEGINNINGS_LEN / 64];
    let mut at = 0;
    while at < FORMS.len() {
        let prefix = FORMS[at].prefix.as_bytes();
        // Where the prefix is shorter, any byte may follow.
        let mut third = if prefix.len() > 2 { prefix[2] } else { 0 };
        let last = if prefix.len() > 2 { prefix[2] } else { u8::MAX };
        loop {
            let bit = beginning(prefix[0], prefix[1], third);
            set[bit / 64] |= 1 << (bit % 64);
            if third == last {
                break;
            }
            third += 1;
        }
        at += 1;
    }
    set
}

const fn beginning(first: u8, second: u8, third: u8) -> usize {
    let mixed = (first as u32 * 31 + second as u32) * 31 + third as u32;
    (mixed.wrapping_mul(0x9e37_79b1) >> 20) as usize % BEGINNINGS_LEN
}

/// Whether a form may begin here.
fn may_begin(bytes: &[u8]) -> bool {
    let [first, second, third, ..] = *bytes else { return false };
    let bit = beginning(first, second, third);
    BEGINNINGS[bit / 64] & (1 << (bit % 64)) != 0
}

/// Marks of a private key in text form.
const KEY_BEGIN: &str = "-----BEGIN ";
/// Fewest characters together of Base64 that a private key has; a text about keys has none.
const KEY_BODY_MIN: usize = 40;

pub(super) fn find(text: &str, found: &mut Vec<Secret>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let is_start = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let next = match bytes[at] {
            b'-' => private_key(text, at, found),
            b':' => url_password(text, at, found),
            byte if is_start && byte.is_ascii_alphanumeric() => word(text, at, found),
            _ => None,
        };
        at = next.unwrap_or(at + 1);
    }
}

/// What begins at the beginning of a word; where to go on.
fn word(text: &str, at: usize, found: &mut Vec<Secret>) -> Option<usize> {
    prefixed(text, at)
        .or_else(|| web_token(text, at))
        .or_else(|| bearer(text, at))
        .or_else(|| telegram(text, at))
        .map(|secret| {
            let end = secret.range.end;
            found.push(secret);
            end
        })
}

fn prefixed(text: &str, at: usize) -> Option<Secret> {
    let bytes = &text.as_bytes()[at..];
    if !may_begin(bytes) {
        return None;
    }
    FORMS.iter().filter(|form| bytes.starts_with(form.prefix.as_bytes())).find_map(|form| {
        let start = form.prefix.len();
        let len = form.charset.run(&bytes[start..]);
        let mut len = len.min(form.most + 1);
        // A dot or a hyphen at the end belongs to the sentence.
        while len > 0 && matches!(bytes[start + len - 1], b'.' | b'-') {
            len -= 1;
        }
        let follows = bytes.get(start + len).copied().unwrap_or(b' ');
        let is_whole = len >= form.least && len <= form.most && !(follows.is_ascii_alphanumeric());
        let body = &text[at + start..at + start + len];
        (is_whole && is_random(body)).then(|| Secret { kind: form.kind, range: at..at + start + len })
    })
}

/// `eyJ….eyJ….signature`.
fn web_token(text: &str, at: usize) -> Option<Secret> {
    let bytes = &text.as_bytes()[at..];
    if !bytes.starts_with(b"eyJ") {
        return None;
    }
    let head = Url.run(bytes);
    let body = bytes.get(head + 1..).filter(|rest| bytes[head] == b'.' && rest.starts_with(b"eyJ"))?;
    let body = Url.run(body);
    let signed = head + 1 + body;
    let signature = match bytes.get(signed) {
        Some(b'.') => 1 + Url.run(&bytes[signed + 1..]),
        _ => 0,
    };
    (head >= 12 && body >= 8 && signature > 0)
        .then(|| Secret { kind: "web-token", range: at..at + signed + signature })
}

/// `Bearer TOKEN` and `Basic BASE64`.
fn bearer(text: &str, at: usize) -> Option<Secret> {
    let bytes = &text.as_bytes()[at..];
    if !matches!(bytes[0], b'b' | b'B') {
        return None;
    }
    let word = [("bearer ", "bearer-token", 16), ("basic ", "basic-credentials", 12)].into_iter().find(
        |(word, ..)| bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes())),
    );
    let (word, kind, least) = word?;
    let body = &bytes[word.len()..];
    let len = body.iter().take_while(|byte| Base64.has(**byte) || matches!(byte, b'.' | b'~')).count();
    let value = &text[at + word.len()..at + word.len() + len];
    let value = value.trim_end_matches('.');
    let is_secret = value.len() >= least
        && entropy(value.as_bytes()) >= 3.0
        && classes(value) >= 2
        && !is_placeholder(value)
        && (is_random(value) || value.ends_with('='));
    is_secret.then(|| Secret { kind, range: at + word.len()..at + word.len() + value.len() })
}

/// `123456789:AA…`, 35 characters behind the colon.
fn telegram(text: &str, at: usize) -> Option<Secret> {
    let bytes = &text.as_bytes()[at..];
    let bytes = bytes.strip_prefix(b"bot").unwrap_or(bytes);
    let skipped = text.len() - at - bytes.len();
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let body = bytes.get(digits..)?.strip_prefix(b":AA")?;
    let len = Url.run(body);
    let end = at + skipped + digits + 3 + len;
    ((8..=10).contains(&digits) && (32..=33).contains(&len) && is_random(&text[end - len..end]))
        .then(|| Secret { kind: "telegram-token", range: at + skipped..end })
}

/// From `-----BEGIN … PRIVATE KEY` to its end, if there is a key between.
fn private_key(text: &str, at: usize, found: &mut Vec<Secret>) -> Option<usize> {
    let rest = &text[at..];
    let label = rest.strip_prefix(KEY_BEGIN)?;
    // A label is short; looking through the whole text again and again would be slow.
    let label_end = label.as_bytes().iter().take(64).position(|byte| *byte == b'-')?;
    if !label[..label_end].contains("PRIVATE KEY") {
        return None;
    }
    let body = KEY_BEGIN.len() + label_end;
    let is_body = |byte: &u8| {
        Base64.has(*byte) || byte.is_ascii_whitespace() || matches!(byte, b'\\' | b':' | b',' | b'.')
    };
    // The label ends with five hyphens, which count as a body here; the end mark stops at its blank-free word.
    let mut end = body + rest.as_bytes()[body..].iter().take_while(|byte| is_body(byte)).count();
    let is_key = |word: &str| {
        word.len() >= KEY_BODY_MIN && word.bytes().filter(|byte| *byte != b'-').count() >= KEY_BODY_MIN
    };
    if !rest[body..end].split_whitespace().any(is_key) {
        return None;
    }
    if let Some(mark) = rest[body..end].find("-----END") {
        end = body + mark;
        let tail = &rest[end + 8..];
        let close = tail.as_bytes().iter().take(64).position(|byte| *byte == b'-').unwrap_or(0);
        end += 8 + close + tail[close..].bytes().take(5).take_while(|byte| *byte == b'-').count();
    }
    found.push(Secret { kind: "private-key", range: at..at + end });
    Some(at + end)
}

/// `scheme://user:PASSWORD@host`.
fn url_password(text: &str, at: usize, found: &mut Vec<Secret>) -> Option<usize> {
    let rest = text[at..].strip_prefix("://")?;
    let is_end = |byte: &u8| {
        byte.is_ascii_whitespace() || matches!(byte, b'/' | b'"' | b'\'' | b'<' | b'>' | b'`' | b')')
    };
    let authority = rest.as_bytes().iter().take(512).take_while(|byte| !is_end(byte)).count();
    // Only whole characters: the limit may cut one.
    let authority = rest.get(..authority)?;
    let user_info = &authority[..authority.rfind('@')?];
    let (user, password) = user_info.split_once(':')?;
    let is_example = ["pass", "password", "secret", "pwd", "passwd", "pw", "token"]
        .iter()
        .any(|word| password.eq_ignore_ascii_case(word));
    let is_named = password.starts_with(['$', '{', '<', '[', '%', '*']) && !password.contains("%2");
    if password.len() < 3 || password == user || is_example || is_named || is_placeholder(password) {
        return None;
    }
    let start = at + 3 + user.len() + 1;
    found.push(Secret { kind: "url-password", range: start..start + password.len() });
    Some(start + password.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_looked_for_and_few_other_words_are() {
        for form in FORMS {
            for follows in ["0", "a", "Z", "-"] {
                let text = format!("{}{follows}", form.prefix);
                assert!(may_begin(text.as_bytes()), "{text}");
            }
        }
        let words = ["memory", "of", "the", "that", "we", "decided", "server", "x-", "123", "ünïcödé"];
        assert!(words.iter().filter(|word| may_begin(word.as_bytes())).count() <= 1);
    }
}
