//! Any text, and any metadata, in which secrets are looked for.

use serde_json::{Map, Value};

use super::Seeds;
use crate::secrets::{find, kinds, mask};

/// The body of the target.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let found = find(&text);
    let mut end = 0;
    for secret in &found {
        let range = secret.range.clone();
        assert!(range.start >= end && range.start < range.end, "they stand in order, none within another");
        assert!(text.get(range.clone()).is_some(), "a range is of whole characters");
        assert!(!secret.kind.is_empty());
        end = range.end;
    }
    assert_eq!(find(&text), found, "the same text has the same secrets");
    let masked = mask(&text);
    if found.is_empty() {
        assert_eq!(masked, text);
    }
    let kept: usize = found.iter().map(|secret| secret.range.len()).sum();
    let marks: usize = found.iter().map(|secret| secret.kind.len() + "[secret:]".len()).sum();
    assert_eq!(masked.len(), text.len() - kept + marks, "the rest of the text stays");
    let metadata: Map<String, Value> = serde_json::from_slice(input).unwrap_or_default();
    let all = kinds(&text, &metadata);
    assert!(found.iter().all(|secret| all.contains(&secret.kind)));
}

pub(super) fn seeds() -> Seeds {
    let seeds: [(&str, &[u8]); 5] = [
        ("tokens", b"ghp_9Q2mZ7xKc4VtR8sLb1NwYd5HfJ3aUe6PqT0G AKIA2E0A8F3B7C9D1E5F xoxb-123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"),
        ("private-key", b"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq3\n-----END RSA PRIVATE KEY-----\n"),
        ("assigned", "password = \"Tr0ub4dor&3\"; api_key: 'zX9-qR7_tY5' Passwort: Gr\u{fc}\u{df}e\u{301}42!x token=\u{1f511}".as_bytes()),
        ("address", b"postgres://admin:s3cr3tPa55@db.example.com:5432/x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
        ("metadata", br#"{"password":"hunter2Xy9!","deep":[{"api_key":["k3yV4lue-9x8y7z"]}],"n":1}"#),
    ];
    seeds.map(|(name, bytes)| (name, bytes.to_vec())).into()
}
