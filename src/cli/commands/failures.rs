//! `failures`: what failed, what the issue about it says, and sending it.

use clap::Args;
use comfy_table::{Cell, Color};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::{session, table, text};
use crate::failure::{self, Draft, Handled, Logged, Options};
use crate::home::Home;
use crate::{Error, ErrorKind};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv failures
  memento-kv failures --json -n 100
  memento-kv failures --show
  GITHUB_TOKEN=... memento-kv failures --send

A health run writes what failed into logs/failures.log. With `github.enabled: true` and `github.repo: owner/name`
in your config.yaml, and GITHUB_TOKEN in the environment, it also opens an issue, comments when the failure comes
again, at most once a day, and closes the issue when a later run finds nothing wrong. What could not be sent waits
and is sent by the next run. An issue holds figures and fixed words: no memory, no path, no name.")]
pub(crate) struct FailuresArgs {
    /// How many, the latest first
    #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
    limit: usize,
    /// Print the issues as they would be sent now; nothing is sent
    #[arg(long, conflicts_with = "send")]
    show: bool,
    /// Send what waits to be sent, now
    #[arg(long)]
    send: bool,
}

/// What `--send` did.
#[derive(Serialize)]
struct Told<'a> {
    sent: Vec<Step<'a>>,
    queued: usize,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Step<'a> {
    what: &'static str,
    issue: u64,
    repo: &'a str,
}

pub(crate) fn run(args: &FailuresArgs, context: &Context<'_>) -> Result<(), Failure> {
    let home = session::home(context)?;
    if args.show {
        return show(&home, context);
    }
    if args.send {
        return send(&home, context);
    }
    let failures = failure::list(&home, args.limit)?;
    if context.out.json {
        return context.out.print_json(&failures);
    }
    if failures.is_empty() {
        context.out.note("no failures are on record");
        return Ok(());
    }
    context.out.print(&pretty(&failures, context.out, context.now()))
}

fn show(home: &Home, context: &Context<'_>) -> Result<(), Failure> {
    let drafts = failure::drafts(home)?;
    if context.out.json {
        return context.out.print_json(&drafts);
    }
    if drafts.is_empty() {
        context.out.note("there is nothing to tell: every failure on record is over");
        return Ok(());
    }
    context.out.print(&drafts.iter().map(draft).collect::<Vec<_>>().join("\n"))
}

/// An issue as it would be sent, under what is not a part of its text.
fn draft(draft: &Draft) -> String {
    let state = match (&draft.issue, draft.queued) {
        (Some(issue), _) => format!("told: {issue}"),
        (None, true) => "waits to be sent".to_owned(),
        (None, false) => "not to be sent: github.enabled was not true when it failed".to_owned(),
    };
    let assignees = if draft.assignees.is_empty() { "nobody".to_owned() } else { draft.assignees.join(", ") };
    format!(
        "title:     {}\nlabels:    {}\nassignees: {assignees}\nstate:     {state}\n\n{}",
        draft.title,
        draft.labels.join(", "),
        draft.body
    )
}

fn send(home: &Home, context: &Context<'_>) -> Result<(), Failure> {
    if !home.config.github.enabled {
        return Err(Error::new(ErrorKind::Config, "github.enabled is not true: nothing may be sent")
            .hint("see what would be sent with `memento-kv failures --show`, then set `enabled: true` below `github:`")
            .into());
    }
    let Handled { sent, queued, mut problems, .. } =
        failure::send(home, context.now_ms, &Options::of_process());
    if context.out.json {
        let steps =
            sent.iter().map(|sent| Step { what: sent.what.name(), issue: sent.issue, repo: &sent.repo });
        let problems = problems.iter().map(ToString::to_string).collect();
        context.out.print_json(&Told { sent: steps.collect(), queued, problems })?;
    } else {
        for sent in &sent {
            context.out.print_line(&format!("{}#{} {}", sent.repo, sent.issue, sent.what.name()))?;
        }
        if sent.is_empty() && problems.is_empty() {
            context.out.note("nothing waits to be sent");
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    // The last one ends the command; those before it are told.
    let last = problems.remove(problems.len() - 1);
    for problem in &problems {
        context.out.warn(&problem.to_string());
    }
    Err(last.into())
}

fn pretty(failures: &[Logged], out: &Output, now: i64) -> String {
    let mut table = table::empty(out, ["When", "Class", "What", "Files", "Done", "Lost"]);
    for failure in failures {
        let color = if failure.class == "lost" { Color::DarkRed } else { Color::DarkYellow };
        table.add_row(vec![
            Cell::new(format!("{}\n{}", text::local_time(failure.when), text::age(failure.when, now))),
            Cell::new(failure.class).fg(color),
            Cell::new(failure.kind),
            Cell::new(failure.files.join("\n")),
            Cell::new(failure.done.join("\n")),
            Cell::new(match failure.lost {
                None => String::new(),
                Some(0) => "?".to_owned(),
                Some(count) => text::number(count),
            }),
        ]);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_its_files_and_what_was_done() {
        let line = "[2026-02-17T12:00:00Z] lost store_gone seq=7 files=store done=restored:1 lost=3";
        let failures = [Logged::parse(line).expect("a failure")];
        let shown = pretty(&failures, &Output::plain_terminal(120), 1_771_329_660);
        for part in ["1m ago", "lost", "store_gone", "store", "restored:1", "3"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }
}
