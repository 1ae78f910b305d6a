//! What is to be told on GitHub next, and telling it: step by step, each written down as soon as it is done.

use super::options::Options;
use super::report::{self, About, LABELS};
use super::state::{Book, DAY_MS, Issue, Report, State};
use super::{Handled, Sent, SentWhat, log};
use crate::config::GithubConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;

#[cfg(feature = "github")]
use super::github::{Client, Refusal};

/// One thing to do about a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Open,
    Reopen,
    /// Say that it happened again.
    Again,
    /// Say that it is over.
    Over,
    Close,
    /// Put it on the board.
    Board,
}

/// The next step for a report; none when all is told.
///
/// A clock that was set back does not hold anything up for longer than a day: what counts is how far apart two times
/// are, not which is later.
pub(super) fn next_step(report: &Report, config: &GithubConfig, now_ms: i64) -> Option<Step> {
    report.kind()?;
    let is_day_old = |then_ms: i64| now_ms.abs_diff(then_ms) >= DAY_MS;
    let here = report.issue.as_ref().filter(|issue| config.repo.as_ref() == Some(&issue.repo));
    let Some(issue) = here else {
        return report.is_queued.then_some(Step::Open);
    };
    if report.healthy_ms.is_none() {
        if !issue.is_open {
            return Some(Step::Reopen);
        }
        if report.count > issue.told_count && is_day_old(issue.told_ms) {
            return Some(Step::Again);
        }
    } else if issue.is_open {
        let is_told = issue.over_count >= report.count || !is_day_old(issue.over_ms);
        // The board comes first: afterwards nobody would look for it there.
        if let Some(board) = board_step(issue, config, now_ms) {
            return Some(board);
        }
        return Some(if is_told { Step::Close } else { Step::Over });
    }
    if issue.is_open { board_step(issue, config, now_ms) } else { None }
}

fn board_step(issue: &Issue, config: &GithubConfig, now_ms: i64) -> Option<Step> {
    let is_tried = issue.board_ms != 0 && now_ms.abs_diff(issue.board_ms) < DAY_MS;
    (config.project.is_some() && !issue.is_on_board && !is_tried).then_some(Step::Board)
}

/// Writes down that a step was done. `issue` is the one that was opened or found.
pub(super) fn done(report: &mut Report, step: Step, now_ms: i64, issue: Option<&Issue>) {
    if let (Step::Open, Some(opened)) = (step, issue) {
        report.issue = Some(opened.clone());
        report.is_queued = false;
    }
    let count = report.count;
    let Some(issue) = &mut report.issue else { return };
    match step {
        Step::Open => {}
        Step::Reopen => issue.is_open = true,
        Step::Again => (issue.told_ms, issue.told_count) = (now_ms, count),
        Step::Over => (issue.over_ms, issue.over_count) = (now_ms, count),
        Step::Close => issue.is_open = false,
        Step::Board => (issue.is_on_board, issue.board_ms) = (true, now_ms),
    }
}

/// Whether anything of a state is to be told.
pub(super) fn is_due(state: &State, config: &GithubConfig, now_ms: i64) -> bool {
    config.enabled && state.reports.iter().any(|report| next_step(report, config, now_ms).is_some())
}

/// The drafts of everything that is not over, or waits to be sent.
pub(super) fn drafts(home: &Home, state: &State) -> Vec<report::Draft> {
    let about = About { home: &home.path, reporter: &state.reporter };
    let current = state.reports.iter().filter(|report| report.healthy_ms.is_none() || report.is_queued);
    current
        .map(|report| report::Draft {
            title: report::title(report),
            labels: LABELS.map(str::to_owned).to_vec(),
            assignees: home.config.github.assignees.clone(),
            body: report::body(report, &about),
            fingerprint: report.fingerprint.clone(),
            issue: report.issue.as_ref().map(|issue| format!("{}#{}", issue.repo, issue.number)),
            queued: report.is_queued,
        })
        .collect()
}

/// Sends what is due, if the user opted in. Whatever happens, nothing that is queued is lost.
pub(super) fn send(home: &Home, book: &Book, now_ms: i64, options: &Options, handled: &mut Handled) {
    let config = &home.config.github;
    let state = match book.read() {
        Ok(state) => state,
        Err(error) => return handled.problems.push(error),
    };
    if !is_due(&state, config, now_ms) {
        return;
    }
    if let Err(error) = try_send(home, book, state, now_ms, options, handled) {
        handled.problems.push(error);
    }
    handled.queued = book.read().map_or(0, |state| {
        state.reports.iter().filter(|report| next_step(report, config, now_ms).is_some()).count()
    });
}

#[cfg(not(feature = "github"))]
fn try_send(_: &Home, _: &Book, _: State, _: i64, _: &Options, _: &mut Handled) -> Result<()> {
    Err(Error::new(ErrorKind::Refused, "this build cannot send issues to GitHub")
        .hint("build it with the feature `github`"))
}

#[cfg(feature = "github")]
fn try_send(
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

#[cfg(feature = "github")]
struct Sender<'a> {
    home: &'a Home,
    book: &'a Book,
    config: &'a GithubConfig,
    repo: &'a str,
    client: Client,
    now_ms: i64,
    handled: &'a mut Handled,
}

#[cfg(feature = "github")]
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

#[cfg(test)]
mod tests {
    use super::super::{Failure, Kind};
    use super::*;

    const NOW_MS: i64 = 1_771_329_600_000;
    const DAY: i64 = DAY_MS as i64;

    fn config() -> GithubConfig {
        GithubConfig { enabled: true, repo: Some("ann/agent".to_owned()), ..GithubConfig::default() }
    }

    fn state() -> State {
        let mut state = State::default();
        state.found(&[Failure::new(Kind::StoreGone, NOW_MS)], NOW_MS, true);
        state
    }

    /// Takes the next step, which must be this one.
    fn take(report: &mut Report, config: &GithubConfig, now_ms: i64, expected: Step) {
        assert_eq!(next_step(report, config, now_ms), Some(expected));
        let issue = Issue {
            repo: "ann/agent".to_owned(),
            number: 7,
            node_id: "I_7".to_owned(),
            is_open: true,
            is_on_board: false,
            board_ms: 0,
            told_ms: now_ms,
            told_count: report.count,
            over_ms: 0,
            over_count: 0,
        };
        done(report, expected, now_ms, (expected == Step::Open).then_some(&issue));
    }

    #[test]
    fn a_failure_opens_an_issue_and_a_healthy_run_closes_it_with_a_comment() {
        let mut state = state();
        take(&mut state.reports[0], &config(), NOW_MS, Step::Open);
        assert_eq!(next_step(&state.reports[0], &config(), NOW_MS), None);
        state.healthy(NOW_MS + 1);
        take(&mut state.reports[0], &config(), NOW_MS + 1, Step::Over);
        take(&mut state.reports[0], &config(), NOW_MS + 1, Step::Close);
        assert_eq!(next_step(&state.reports[0], &config(), NOW_MS + 1), None);
    }

    #[test]
    fn a_second_occurrence_is_one_comment_a_day() {
        let mut state = state();
        take(&mut state.reports[0], &config(), NOW_MS, Step::Open);
        for hour in 1..48 {
            let now_ms = NOW_MS + hour * 3_600_000;
            state.found(&[Failure::new(Kind::StoreGone, now_ms)], now_ms, true);
            if hour == 24 {
                take(&mut state.reports[0], &config(), now_ms, Step::Again);
            }
            assert_eq!(next_step(&state.reports[0], &config(), now_ms), None, "hour {hour}");
        }
    }

    #[test]
    fn what_comes_and_goes_is_reopened_and_closed_with_one_comment_of_each_kind_a_day() {
        let mut state = state();
        take(&mut state.reports[0], &config(), NOW_MS, Step::Open);
        state.healthy(NOW_MS);
        take(&mut state.reports[0], &config(), NOW_MS, Step::Over);
        take(&mut state.reports[0], &config(), NOW_MS, Step::Close);
        for hour in 1..4 {
            let now_ms = NOW_MS + hour * 3_600_000;
            state.found(&[Failure::new(Kind::StoreGone, now_ms)], now_ms, true);
            take(&mut state.reports[0], &config(), now_ms, Step::Reopen);
            assert_eq!(next_step(&state.reports[0], &config(), now_ms), None);
            state.healthy(now_ms);
            take(&mut state.reports[0], &config(), now_ms, Step::Close);
        }
        let later = NOW_MS + DAY;
        state.found(&[Failure::new(Kind::StoreGone, later)], later, true);
        take(&mut state.reports[0], &config(), later, Step::Reopen);
        take(&mut state.reports[0], &config(), later, Step::Again);
        state.healthy(later);
        take(&mut state.reports[0], &config(), later, Step::Over);
        take(&mut state.reports[0], &config(), later, Step::Close);
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_up() {
        let mut state = state();
        take(&mut state.reports[0], &config(), NOW_MS, Step::Open);
        let year_back = NOW_MS - 365 * DAY;
        state.found(&[Failure::new(Kind::StoreGone, year_back)], year_back, true);
        take(&mut state.reports[0], &config(), year_back, Step::Again);
        assert_eq!(next_step(&state.reports[0], &config(), year_back), None);
    }

    #[test]
    fn the_board_is_tried_once_a_day_and_before_the_issue_is_closed() {
        let mut state = state();
        let config = GithubConfig { project: Some(3), ..config() };
        take(&mut state.reports[0], &config, NOW_MS, Step::Open);
        take(&mut state.reports[0], &config, NOW_MS, Step::Board);
        assert_eq!(next_step(&state.reports[0], &config, NOW_MS), None);
        let issue = state.reports[0].issue.as_mut().expect("an issue");
        (issue.is_on_board, issue.board_ms) = (false, NOW_MS);
        assert_eq!(next_step(&state.reports[0], &config, NOW_MS + DAY - 1), None);
        assert_eq!(next_step(&state.reports[0], &config, NOW_MS + DAY), Some(Step::Board));
        state.healthy(NOW_MS + DAY);
        assert_eq!(next_step(&state.reports[0], &config, NOW_MS + DAY), Some(Step::Board));
    }

    #[test]
    fn nothing_is_told_that_nobody_asked_for() {
        let mut state = State::default();
        state.found(&[Failure::new(Kind::StoreGone, NOW_MS)], NOW_MS, false);
        assert_eq!(next_step(&state.reports[0], &config(), NOW_MS), None, "the user had not opted in");
        state.found(&[Failure::new(Kind::StoreGone, NOW_MS)], NOW_MS + 1, true);
        assert_eq!(next_step(&state.reports[0], &config(), NOW_MS), Some(Step::Open));
        assert!(!is_due(&state, &GithubConfig { enabled: false, ..config() }, NOW_MS));
    }

    #[test]
    fn an_issue_of_another_repository_is_left_alone() {
        let mut state = state();
        take(&mut state.reports[0], &config(), NOW_MS, Step::Open);
        let moved = GithubConfig { repo: Some("ann/other".to_owned()), ..config() };
        assert_eq!(next_step(&state.reports[0], &moved, NOW_MS), None);
        state.found(&[Failure::new(Kind::StoreGone, NOW_MS)], NOW_MS + 1, true);
        assert_eq!(next_step(&state.reports[0], &moved, NOW_MS + 1), Some(Step::Open));
    }
}
