//! What is to be told on GitHub next: step by step, each written down as soon as it is done.

use super::Handled;
use super::options::Options;
use super::report::{self, About, LABELS};
#[cfg(feature = "github")]
use super::sender::try_send;
use super::state::{Book, DAY_MS, Issue, Report, State};
use crate::config::GithubConfig;
use crate::home::Home;

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
    let config = &home.config.github;
    let waits = |report: &Report| next_step(report, config, report.last_ms) == Some(Step::Open);
    let current = state.reports.iter().filter(|report| report.healthy_ms.is_none() || waits(report));
    current
        .map(|report| report::Draft {
            title: report::title(report),
            labels: LABELS.map(str::to_owned).to_vec(),
            assignees: config.assignees.clone(),
            body: report::body(report, &about),
            fingerprint: report.fingerprint.clone(),
            issue: report.issue.as_ref().map(|issue| format!("{}#{}", issue.repo, issue.number)),
            queued: waits(report),
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
fn try_send(_: &Home, _: &Book, _: State, _: i64, _: &Options, _: &mut Handled) -> crate::error::Result<()> {
    Err(crate::error::Error::new(crate::error::ErrorKind::Refused, "this build cannot send issues to GitHub")
        .hint("build it with the feature `github`; the reports are queued"))
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
