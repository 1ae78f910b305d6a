//! GitHub's interface: issues, comments and project boards, by octocrab.
//!
//! Each call has a time limit, is repeated a few times where a repetition cannot do harm, and waits as GitHub asks. The
//! texts of its answers go no further: what is said about a refusal is ours.

use std::error::Error as StdError;
use std::future::Future;
use std::time::{Duration, Instant};

use octocrab::Octocrab;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::options::{Options, Token};
use super::report::LABELS;
use super::send::Step;
use crate::config::GithubConfig;
use crate::error::{Error, ErrorKind, Result};

/// Longest time that is waited within a run because GitHub asks for it; for more, a later run comes again.
const WAIT_MAX_MS: u64 = 5_000;
/// Longest time that GitHub is left alone for, whatever it says.
const WAIT_LONGEST_MS: u64 = 3_600_000;
/// What is waited when GitHub says that it was too much, and not for how long.
const WAIT_UNTOLD_MS: u64 = 60_000;
/// Issues that are looked through for our own.
const FOUND_MAX: usize = 50;

/// Why GitHub did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It wants to be left alone for so many milliseconds.
    Wait(u64),
    Unauthorized,
    Forbidden,
    NotFound,
    Moved,
    Gone,
    /// It does not take what was sent.
    Invalid,
    /// Another status.
    Status(u16),
    /// No answer. Whether the request got there, and what the system said.
    Unreachable {
        sent: bool,
        why: String,
    },
    TimedOut,
    /// The answer is not what GitHub sends.
    BadAnswer,
    /// A board that is not there, or may not be written.
    NoBoard,
}

impl Refusal {
    /// Whether it may have been done although there is no answer that says so.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Self::Unreachable { sent, .. } => *sent,
            Self::TimedOut | Self::BadAnswer | Self::Status(502 | 504) => true,
            _ => false,
        }
    }

    /// Whether it may be otherwise in a moment.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut | Self::Status(500..=599))
    }

    /// What a person is told.
    pub(super) fn into_error(self, repo: &str, step: Step) -> Error {
        const QUEUED: &str = "the report is queued and is sent by a later run";
        let error =
            |kind, message: String, hint: &str| Error::new(kind, message).hint(format!("{hint}; {QUEUED}"));
        if step == Step::Board {
            let why = match self {
                Self::NoBoard | Self::NotFound => {
                    "there is no such board, or the token may not see it".to_owned()
                }
                other => other.into_error(repo, Step::Again).message().to_owned(),
            };
            return Error::new(ErrorKind::Refused, format!("the issue is not on the project board: {why}"))
                .hint(
                    "check github.project and github.project_owner, and that the token may write projects; \
                 the issue itself is there, and the board is tried again after a day",
                );
        }
        match self {
            Self::Wait(ms) => error(
                ErrorKind::Busy,
                format!("GitHub asks to wait for {} s", ms.div_ceil(1000)),
                "there is nothing to do",
            ),
            Self::Unauthorized => error(
                ErrorKind::Permission,
                "GitHub does not know the token (401)".to_owned(),
                "GITHUB_TOKEN has run out or is wrong: make a new one",
            ),
            Self::Forbidden => error(
                ErrorKind::Permission,
                format!("the token may not write issues of {repo} (403)"),
                "give it the permission to write issues, and agree to the organisation's sign-on where there is one",
            ),
            Self::NotFound => error(
                ErrorKind::NotFound,
                format!("there is no repository {repo}, or the token may not see it (404)"),
                "check github.repo and what the token may see",
            ),
            Self::Moved => error(
                ErrorKind::NotFound,
                format!("the repository {repo} has another name now (301)"),
                "write its new name into github.repo",
            ),
            Self::Gone if step == Step::Open => error(
                ErrorKind::Refused,
                format!("issues are turned off for {repo} (410)"),
                "turn them on in the repository's settings, or name another one in github.repo",
            ),
            Self::Gone => Error::new(ErrorKind::Refused, format!("the issue in {repo} was deleted (410)"))
                .hint("the next failure opens a new one"),
            Self::Invalid => error(
                ErrorKind::Refused,
                format!("{repo} does not take the report as it is (422)"),
                "check github.assignees, and whether the token may set labels",
            ),
            Self::Status(status @ 500..) => error(
                ErrorKind::Io,
                format!("GitHub has a problem of its own ({status})"),
                "see https://www.githubstatus.com",
            ),
            Self::Status(status) => {
                error(ErrorKind::Refused, format!("GitHub answers with {status}"), "check github.api_url")
            }
            Self::Unreachable { why, .. } => error(
                ErrorKind::Io,
                format!("GitHub cannot be reached: {why}"),
                "check the network and github.api_url",
            ),
            Self::TimedOut => {
                error(ErrorKind::Timeout, "GitHub does not answer in time".to_owned(), "check the network")
            }
            Self::BadAnswer | Self::NoBoard => error(
                ErrorKind::Io,
                "the answer is not what GitHub sends".to_owned(),
                "check github.api_url, and whether a proxy answers in its place",
            ),
        }
    }
}

/// An issue that was opened, or found to be there.
#[derive(Clone, Debug, Deserialize)]
struct IssueAnswer {
    number: u64,
    #[serde(default)]
    node_id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    body: Option<String>,
}

/// What is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) node_id: String,
    pub(super) is_open: bool,
}

#[derive(Serialize)]
struct NewIssue<'a> {
    title: &'a str,
    body: &'a str,
    labels: [&'a str; 3],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    assignees: &'a [String],
}

/// A repository on GitHub.
pub(super) struct Client {
    runtime: Runtime,
    /// For everything but boards.
    rest: Octocrab,
    /// For boards: GitHub Enterprise has that at another place.
    graph: Octocrab,
    repo: String,
    timeout: Duration,
    tries: u32,
    backoff: Duration,
    until: Instant,
}

impl Client {
    /// Connects to nobody yet.
    pub(super) fn new(config: &GithubConfig, repo: &str, token: &Token, options: &Options) -> Result<Self> {
        let io = |error: std::io::Error| {
            Error::new(ErrorKind::Io, format!("cannot start what sends to GitHub: {error}"))
                .with_source(error)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let graph_url = match config.api_url.strip_suffix("/api/v3") {
            Some(host) => format!("{host}/api"),
            None => config.api_url.clone(),
        };
        let (rest, graph) = {
            let _within = runtime.enter();
            (octocrab(&config.api_url, token)?, octocrab(&graph_url, token)?)
        };
        Ok(Self {
            runtime,
            rest,
            graph,
            repo: repo.to_owned(),
            timeout: options.timeout,
            tries: options.tries,
            backoff: options.backoff,
            until: Instant::now() + options.total,
        })
    }

    /// Opens an issue, unless one with this mark is there: the answer to an earlier call may have been lost on its way.
    pub(super) fn open(
        &self,
        title: &str,
        body: &str,
        assignees: &[String],
        mark: &str,
    ) -> Result<Opened, Refusal> {
        let list =
            format!("/repos/{}/issues?state=all&sort=created&direction=desc&per_page={FOUND_MAX}", self.repo);
        let create = format!("/repos/{}/issues", self.repo);
        let issue = NewIssue { title, body, labels: LABELS, assignees };
        let issue = self.call(true, || async {
            let there: Vec<IssueAnswer> = self.rest.get(&list, None::<&()>).await?;
            let ours =
                there.into_iter().find(|issue| issue.body.as_deref().is_some_and(|body| body.contains(mark)));
            match ours {
                Some(issue) => Ok(issue),
                None => self.rest.post(&create, Some(&issue)).await,
            }
        })?;
        Ok(Opened { number: issue.number, node_id: issue.node_id, is_open: issue.state != "closed" })
    }

    /// Comments on an issue.
    pub(super) fn comment(&self, number: u64, text: &str) -> Result<(), Refusal> {
        let path = format!("/repos/{}/issues/{number}/comments", self.repo);
        let body = json!({ "body": text });
        // Said twice it would be there twice.
        self.call(false, || self.rest.post::<_, Value>(&path, Some(&body)))?;
        Ok(())
    }

    /// Closes an issue, or opens it again.
    pub(super) fn set_open(&self, number: u64, open: bool) -> Result<(), Refusal> {
        let path = format!("/repos/{}/issues/{number}", self.repo);
        let body = match open {
            true => json!({ "state": "open" }),
            false => json!({ "state": "closed", "state_reason": "completed" }),
        };
        self.call(true, || self.rest.patch::<Value, _, _>(&path, Some(&body)))?;
        Ok(())
    }

    /// Puts an issue on a project's board.
    pub(super) fn put_on_board(&self, owner: &str, number: u32, node_id: &str) -> Result<(), Refusal> {
        let find = json!({
            "query": "query($owner: String!, $number: Int!) { repositoryOwner(login: $owner) { \
                      ... on Organization { projectV2(number: $number) { id } } \
                      ... on User { projectV2(number: $number) { id } } } }",
            "variables": { "owner": owner, "number": number },
        });
        let found = self.graphql(&find)?;
        let id = found.pointer("/data/repositoryOwner/projectV2/id").and_then(Value::as_str);
        let project = id.ok_or(Refusal::NoBoard)?;
        let add = json!({
            "query": "mutation($project: ID!, $issue: ID!) { \
                      addProjectV2ItemById(input: { projectId: $project, contentId: $issue }) { item { id } } }",
            "variables": { "project": project, "issue": node_id },
        });
        let added = self.graphql(&add)?;
        let item = added.pointer("/data/addProjectV2ItemById/item/id").and_then(Value::as_str);
        item.map(|_| ()).ok_or(Refusal::NoBoard)
    }

    /// The whole answer, whether or not it speaks of errors: those make that a part of the data is not there.
    fn graphql(&self, query: &Value) -> Result<Value, Refusal> {
        // To put an item on a board that it is on changes nothing.
        self.call(true, || self.graph.post("/graphql", Some(query)))
    }

    /// Makes a call, and again where that does no harm.
    fn call<T, F>(&self, repeatable: bool, make: impl Fn() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = octocrab::Result<T>>,
    {
        self.runtime.block_on(async {
            let mut pause = self.backoff;
            for attempt in 1.. {
                let left = self.until.saturating_duration_since(Instant::now());
                let refusal = match tokio::time::timeout(self.timeout.min(left), make()).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => refusal(&error),
                    Err(_) => Refusal::TimedOut,
                };
                tracing::debug!(?refusal, attempt, "GitHub did not do it");
                let wait = match &refusal {
                    Refusal::Wait(ms) if *ms <= WAIT_MAX_MS => Duration::from_millis(*ms),
                    passing if passing.is_passing() && (repeatable || !passing.may_be_done()) => pause,
                    _ => return Err(refusal),
                };
                if attempt >= self.tries || left <= wait {
                    return Err(refusal);
                }
                tokio::time::sleep(wait).await;
                pause = pause.saturating_mul(2);
            }
            unreachable!("the loop ends with its last attempt")
        })
    }
}

fn octocrab(url: &str, token: &Token) -> Result<Octocrab> {
    let built = Octocrab::builder()
        .base_uri(url)
        .and_then(|builder| builder.personal_token(token.secret().to_owned()).build());
    // Its text is of certificates and addresses; the token is in a type that does not show it.
    built.map_err(|error| {
        Error::new(ErrorKind::Config, format!("GitHub cannot be called: {}", root_cause(&error)))
            .hint("check github.api_url, and that the machine has certificate authorities (package ca-certificates)")
    })
}

/// What an error of octocrab's means.
fn refusal(error: &octocrab::Error) -> Refusal {
    match error {
        octocrab::Error::GitHub { source, .. } => {
            let status = source.status_code.as_u16();
            let header =
                |name: &str| source.headers.as_ref()?.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
            if matches!(status, 403 | 429)
                && let Some(ms) = asked_to_wait(status, header, source.message.contains("rate limit"))
            {
                return Refusal::Wait(ms);
            }
            match status {
                401 => Refusal::Unauthorized,
                403 => Refusal::Forbidden,
                404 => Refusal::NotFound,
                301 | 302 | 307 | 308 => Refusal::Moved,
                410 => Refusal::Gone,
                422 => Refusal::Invalid,
                other => Refusal::Status(other),
            }
        }
        octocrab::Error::Serde { .. }
        | octocrab::Error::Json { .. }
        | octocrab::Error::InvalidUtf8 { .. } => Refusal::BadAnswer,
        other => Refusal::Unreachable { sent: !is_connecting(other), why: root_cause(other) },
    }
}

/// For how long GitHub wants to be left alone; none when that is not why it refused.
fn asked_to_wait(status: u16, header: impl Fn(&str) -> Option<u64>, says_limit: bool) -> Option<u64> {
    let seconds = if let Some(seconds) = header("retry-after") {
        seconds
    } else if header("x-ratelimit-remaining") == Some(0) {
        // By GitHub's clock; ours may go wrong, so that it is only taken when it makes sense.
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        header("x-ratelimit-reset")?.saturating_sub(now).max(1)
    } else if says_limit || status == 429 {
        WAIT_UNTOLD_MS / 1000
    } else {
        return None;
    };
    Some(seconds.saturating_mul(1000).min(WAIT_LONGEST_MS))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// Whether the connection was never made, so that nothing was sent.
fn is_connecting(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| cause.to_string() == "client error (Connect)")
}

/// The operating system's or the library's last word, on one line. It never holds a header.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let last = causes(error).last().map(ToString::to_string).unwrap_or_default();
    last.lines().next().unwrap_or_default().chars().take(200).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn github_is_left_alone_for_as_long_as_it_asks() {
        let headers = |pairs: &'static [(&'static str, u64)]| {
            move |name: &str| pairs.iter().find(|(header, _)| *header == name).map(|(_, value)| *value)
        };
        assert_eq!(asked_to_wait(403, headers(&[("retry-after", 7)]), false), Some(7000));
        assert_eq!(asked_to_wait(429, headers(&[("retry-after", u64::MAX)]), false), Some(WAIT_LONGEST_MS));
        let past = &[("x-ratelimit-remaining", 0), ("x-ratelimit-reset", 12)];
        assert_eq!(asked_to_wait(403, headers(past), false), Some(1000));
        let far = &[("x-ratelimit-remaining", 0), ("x-ratelimit-reset", 99_999_999_999)];
        assert_eq!(asked_to_wait(403, headers(far), false), Some(WAIT_LONGEST_MS));
        assert_eq!(asked_to_wait(403, headers(&[("x-ratelimit-remaining", 12)]), false), None);
        assert_eq!(asked_to_wait(403, headers(&[]), true), Some(WAIT_UNTOLD_MS));
        assert_eq!(asked_to_wait(429, headers(&[]), false), Some(WAIT_UNTOLD_MS));
    }

    #[test]
    fn every_refusal_has_a_hint_and_says_that_nothing_is_lost() {
        let unreachable = Refusal::Unreachable { sent: false, why: "no route".to_owned() };
        for refusal in [
            Refusal::Wait(1500),
            Refusal::Unauthorized,
            Refusal::Forbidden,
            Refusal::NotFound,
            Refusal::Moved,
            Refusal::Gone,
            Refusal::Invalid,
            Refusal::Status(500),
            Refusal::Status(418),
            unreachable,
            Refusal::TimedOut,
            Refusal::BadAnswer,
        ] {
            let error = refusal.clone().into_error("ann/agent", Step::Open);
            assert!(error.hint_text().is_some_and(|hint| hint.contains("queued")), "{refusal:?}: {error}");
            let board = refusal.into_error("ann/agent", Step::Board);
            assert!(
                board.hint_text().is_some_and(|hint| hint.contains("the issue itself is there")),
                "{board}"
            );
        }
    }
}
