//! Takes the steps that are due on GitHub, and writes each down as soon as it is done.

use super::github::{Client, Refusal};
use super::options::Options;
use super::report::{self, About};
use super::send::{Step, done, next_step};
use super::state::{Book, DAY_MS, Issue, Report, State};
use super::{Handled, Sent, SentWhat, log};
use crate::config::GithubConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;

/// Sends what is due.
///
/// # Errors
/// What keeps everything from being sent; what concerns one report is told in `handled`.
pub(super) fn try_send(
    home: &Home,
    book: &Book,
    state: State,
    now_ms: i64,
    options: &Options,
    handled: &mut Handled,
) -> Result<()> {
    let config = &home.config.github;
    let waits = "the report is queued and is sent by a later run";
    let Some(repo) = &config.repo else {
        return Err(Error::new(
            ErrorKind::Config,
            "github.enabled is true, but github.repo names no repository",
        )
        .hint(format!("write `repo: owner/name` below `github:` in the configuration; {waits}")));
    };
    let Some(token) = &options.token else {
        return Err(Error::new(ErrorKind::Config, "github.enabled is true, but GITHUB_TOKEN is not set")
            .hint(format!(
                "give the run a token that may write issues of {repo} in the environment; {waits}"
            )));
    };
    // Days away is no answer of GitHub's, but a clock that was set.
    let wait_ms = state.not_before_ms.saturating_sub(now_ms);
    if (1..DAY_MS as i64).contains(&wait_ms) {
        let seconds = wait_ms / 1000 + 1;
        return Err(Error::new(
            ErrorKind::Busy,
            format!("GitHub asked not to be called for {seconds} s more"),
        )
        .hint(waits));
    }
    let Some(_sending) = book.sending()? else {
        return Err(Error::new(ErrorKind::Busy, "another run is sending reports to GitHub").hint(waits));
    };
    // A runtime of our own must not be made on a thread that belongs to a caller's.
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let client = Client::new(config, repo, token, options)?;
            Sender { home, book, config, repo, client, now_ms, handled }.run()
        });
        sender
            .join()
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "sending to GitHub broke off").hint(waits)))
    })
}

struct Sender<'a> {
    home: &'a Home,
    book: &'a Book,
    config: &'a GithubConfig,
    repo: &'a str,
    client: Client,
    now_ms: i64,
    handled: &'a mut Handled,
}

impl Sender<'_> {
    /// Does step after step; what concerns one report only does not keep the others from being told.
    fn run(mut self) -> Result<()> {
        // Read again: the lock of the sender is held only now.
        let mut state = self.book.read()?;
        for at in 0..state.reports.len() {
            // Open, on the board, said, closed: no report takes more steps than there are.
            for _ in 0..6 {
                let Some(step) = next_step(&state.reports[at], self.config, self.now_ms) else { break };
                if step == Step::Open && !self.may_open(&state) {
                    self.handled.problems.push(
                        Error::new(
                            ErrorKind::Busy,
                            format!("{} issues were opened within a day", self.config.issues_per_day),
                        )
                        .hint("the others are queued; github.issues_per_day is the limit"),
                    );
                    break;
                }
                match self.take(step, &state, at) {
                    Ok(issue) => {
                        self.note(&mut state, at, step, issue.as_ref())?;
                        self.tell(&state.reports[at], step);
                    }
                    Err(refusal) => {
                        let goes_on = self.refused(&mut state, at, step, &refusal)?;
                        self.handled.problems.push(refusal.into_error(self.repo, step));
                        if !goes_on {
                            return Ok(());
                        }
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn may_open(&self, state: &State) -> bool {
        let today = state.opened_ms.iter().filter(|opened| self.now_ms.abs_diff(**opened) < DAY_MS);
        (today.count() as u64) < u64::from(self.config.issues_per_day)
    }

    /// Calls GitHub.
    fn take(&mut self, step: Step, state: &State, at: usize) -> Result<Option<Issue>, Refusal> {
        let report = &state.reports[at];
        let about = About { home: &self.home.path, reporter: &state.reporter };
        if step == Step::Open {
            let mark = report::mark(report, &state.reporter);
            let (title, body) = (report::title(report), report::body(report, &about));
            let opened = match self.client.open(&title, &body, &self.config.assignees, &mark) {
                // One of them may not be assigned: the issue matters more.
                Err(Refusal::Invalid) if !self.config.assignees.is_empty() => {
                    let opened = self.client.open(&title, &body, &[], &mark)?;
                    self.handled.problems.push(
                        Error::new(ErrorKind::Refused, "GitHub did not take the assignees of the issue")
                            .hint("check github.assignees: each must be able to see the repository"),
                    );
                    opened
                }
                other => other?,
            };
            return Ok(Some(Issue {
                repo: self.repo.to_owned(),
                number: opened.number,
                node_id: opened.node_id,
                is_open: opened.is_open,
                is_on_board: false,
                board_ms: 0,
                told_ms: self.now_ms,
                told_count: report.count,
                over_ms: 0,
                over_count: 0,
            }));
        }
        let Some(issue) = &report.issue else { return Ok(None) };
        match step {
            Step::Open => {}
            Step::Reopen => self.client.set_open(issue.number, true)?,
            Step::Again => self.client.comment(issue.number, &report::again(report))?,
            Step::Over => self.client.comment(issue.number, &report::over(report))?,
            Step::Close => self.client.set_open(issue.number, false)?,
            Step::Board => {
                let owner = self.repo.split('/').next().unwrap_or_default();
                let owner = self.config.project_owner.as_deref().unwrap_or(owner);
                self.client.put_on_board(owner, self.config.project.unwrap_or_default(), &issue.node_id)?;
            }
        }
        Ok(None)
    }

    /// Writes down what was done, here and in the file.
    fn note(&self, state: &mut State, at: usize, step: Step, issue: Option<&Issue>) -> Result<()> {
        done(&mut state.reports[at], step, self.now_ms, issue);
        if step == Step::Open {
            state.opened_ms.push(self.now_ms);
        }
        let fingerprint = state.reports[at].fingerprint.clone();
        self.book.change(|file| {
            if step == Step::Open {
                file.opened_ms.push(self.now_ms);
            }
            if let Some(report) = file.reports.iter_mut().find(|report| report.fingerprint == fingerprint) {
                // It may have been found again meanwhile: what was told is what was known then.
                done(report, step, self.now_ms, issue);
            }
        })
    }

    /// Writes down what a refusal means for later. Says whether other reports are worth a try.
    fn refused(&self, state: &mut State, at: usize, step: Step, refusal: &Refusal) -> Result<bool> {
        let fingerprint = state.reports[at].fingerprint.clone();
        let now_ms = self.now_ms;
        let change = |report: &mut Report| match (step, refusal) {
            // The issue was deleted; the next failure makes a new one.
            (Step::Reopen | Step::Again | Step::Over | Step::Close, Refusal::Gone) => report.issue = None,
            // It may be there, though no answer came. Once more a day is enough.
            (Step::Again, refusal) if refusal.may_be_done() => {
                if let Some(issue) = &mut report.issue {
                    issue.told_ms = now_ms;
                }
            }
            (Step::Over, refusal) if refusal.may_be_done() => {
                if let Some(issue) = &mut report.issue {
                    issue.over_ms = now_ms;
                }
            }
            // A board that is not there is looked for once a day.
            (Step::Board, _) => {
                if let Some(issue) = &mut report.issue {
                    issue.board_ms = now_ms;
                }
            }
            _ => {}
        };
        change(&mut state.reports[at]);
        self.book.change(|file| {
            if let Some(report) = file.reports.iter_mut().find(|report| report.fingerprint == fingerprint) {
                change(report);
            }
            if let Refusal::Wait(ms) = refusal {
                file.not_before_ms = now_ms.saturating_add(i64::try_from(*ms).unwrap_or(i64::MAX));
            }
        })?;
        Ok(step == Step::Board && !matches!(refusal, Refusal::Wait(_))
            || matches!(refusal, Refusal::Invalid | Refusal::Gone))
    }

    /// Tells the log and the caller.
    fn tell(&mut self, report: &Report, step: Step) {
        let Some(issue) = &report.issue else { return };
        let what = match step {
            Step::Open => SentWhat::Opened,
            Step::Reopen => SentWhat::Reopened,
            Step::Again | Step::Over => SentWhat::Commented,
            Step::Close => SentWhat::Closed,
            Step::Board => SentWhat::OnBoard,
        };
        if what != SentWhat::OnBoard {
            // As the original writes it.
            let line = format!("Issue #{}: {} ({})", issue.number, report.kind, what.name());
            if let Err(error) = log(self.home, self.now_ms, &line) {
                self.handled.problems.push(error);
            }
        }
        self.handled.sent.push(Sent { what, issue: issue.number, repo: issue.repo.clone() });
    }
}
