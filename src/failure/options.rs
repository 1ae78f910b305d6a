//! How failures are told: the token, and how long everybody is waited for.

use std::fmt;
use std::time::Duration;

/// The variable that holds the token.
pub const TOKEN_VARIABLE: &str = "GITHUB_TOKEN";

/// Longest token that is taken for one, in bytes.
const TOKEN_LEN_MAX: usize = 1024;

/// A token for GitHub. It is never printed, not even for debugging, and goes nowhere but into a header of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token of this text, without blanks around it; none when it is empty, or holds what no token holds.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_token =
            (1..=TOKEN_LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Self(text.to_owned()))
    }

    #[cfg(feature = "github")]
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How failures are told.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) token: Option<Token>,
    pub(super) timeout: Duration,
    pub(super) total: Duration,
    pub(super) tries: u32,
    pub(super) backoff: Duration,
    pub(super) alert_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token: None,
            timeout: Duration::from_secs(10),
            total: Duration::from_secs(60),
            tries: 3,
            backoff: Duration::from_secs(1),
            alert_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// The usual ones, with the token that this process was given in its environment.
    #[must_use]
    pub fn of_process() -> Self {
        let token = std::env::var(TOKEN_VARIABLE).ok();
        Self { token: token.as_deref().and_then(Token::new), ..Self::default() }
    }

    /// The token for GitHub. None: nothing can be sent.
    #[must_use]
    pub fn token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// How long one request may take. Default: 10 seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a request is tried, and how long is waited before the second time; twice as long before the next.
    /// Default: 3 times, 1 second. All of it together takes no longer than a minute.
    #[must_use]
    pub fn retries(mut self, tries: u32, backoff: Duration) -> Self {
        (self.tries, self.backoff) = (tries.max(1), backoff);
        self
    }

    /// How long the command of `health.on_failure` may run before it is killed. Default: 30 seconds.
    #[must_use]
    pub fn alert_timeout(mut self, timeout: Duration) -> Self {
        self.alert_timeout = timeout;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let options = Options::default().token(Token::new(" ghp_Canary123\n"));
        assert!(options.token.is_some());
        assert!(!format!("{options:?} {:#?}", options.token).contains("Canary"));
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_no_token() {
        for text in ["", "  ", "a b", "a\nb", "tök", "a\0"] {
            assert_eq!(Token::new(text), None, "{text:?}");
        }
    }
}
