//! What must not stand in a log is taken out.

use std::path::Path;

use crate::secrets;

/// Shortest value of a variable that is looked for: a shorter one would be found everywhere.
const TOKEN_LEN_MIN: usize = 8;
/// Variables whose value is a token.
const TOKENS: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

/// The message without the path of the home (it becomes `HOME`), the path of the user's own folder (`~`), the tokens of the
/// environment and everything that looks like a secret.
#[must_use]
pub fn scrub(home: &Path, message: &str) -> String {
    let mut text = message.to_owned();
    for name in TOKENS {
        let token = std::env::var(name).unwrap_or_default();
        if token.trim().len() >= TOKEN_LEN_MIN {
            text = text.replace(token.trim(), "[token]");
        }
    }
    // The home first: it is within the other, most often. A path of one part only would be found in other paths.
    for (path, name) in [(Some(home.to_owned()), "HOME"), (std::env::home_dir(), "~")] {
        if let Some(path) = path.as_deref().and_then(Path::to_str)
            && path.trim_end_matches('/').len() > 1
        {
            text = text.replace(path.trim_end_matches('/'), name);
        }
    }
    secrets::mask(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_secrets_are_taken_out_and_the_rest_stays() {
        let home = Path::new("/data/of-ann/.memento/");
        let message = "/data/of-ann/.memento/store/seg/1.mseg at offset 7: the password is Tr0ub4dor&3";
        let clean = scrub(home, message);
        assert!(clean.starts_with("HOME/store/seg/1.mseg at offset 7: "), "{clean}");
        assert!(!clean.contains("Tr0ub4dor"), "{clean}");
        assert_eq!(scrub(Path::new("/"), "a/b seq=7"), "a/b seq=7");
        assert_eq!(scrub(home, "ok seq=12 records=100000"), "ok seq=12 records=100000");
    }
}
