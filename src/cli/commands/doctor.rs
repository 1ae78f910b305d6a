//! `doctor`: what is wrong with an installation, and the command that mends it.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::text;
use crate::doctor::{self, Examination, Finding, Level};
use crate::home::HomeInputs;
use crate::schedule::Tools;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv doctor
  memento-kv doctor --json
  memento-kv doctor --all

Looks at the configuration, the environment, permissions, the disk, the clock, leftovers, the store, its model,
backups, the schedule and what failed lately, and changes nothing. It ends with 0 when nothing is bad, else with 1.
`memento-kv check` looks at every byte of the store, `memento-kv health` mends what can be mended.")]
pub(crate) struct DoctorArgs {
    /// Show what is well, too, in a pipe as on a terminal
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: &DoctorArgs, context: &Context<'_>) -> Result<(), Failure> {
    let inputs = HomeInputs::of_process(context.global.home.clone());
    let found = doctor::examine(&inputs, &Tools::of_process(), context.now_ms);
    if context.out.json {
        context.out.print_json(&found)?;
    } else {
        context.out.print(&pretty(&found, args.all || context.out.terminal, context.out))?;
    }
    if found.is_well() { Ok(()) } else { Err(Failure::Damaged) }
}

/// One line for each finding, and its command below it.
fn pretty(found: &Examination, all: bool, out: &Output) -> String {
    let mut lines = String::new();
    for Finding { level, topic, what, command, .. } in &found.findings {
        if !all && *level == Level::Ok {
            continue;
        }
        let sign = out.paint(style(*level), &format!("{:<4}", level.name()));
        let _ = writeln!(lines, "{sign} {topic}: {}", text::line(what));
        if let Some(command) = command {
            let _ =
                writeln!(lines, "       {}", out.paint(AnsiColor::Cyan.on_default(), &text::line(command)));
        }
    }
    let count = |level: Level| found.findings.iter().filter(|finding| finding.level == level).count();
    let _ = writeln!(
        lines,
        "{} bad, {} to know, {} well",
        count(Level::Bad),
        count(Level::Warn),
        count(Level::Ok)
    );
    lines
}

fn style(level: Level) -> Style {
    match level {
        Level::Ok => AnsiColor::Green.on_default(),
        Level::Warn => AnsiColor::Yellow.on_default(),
        Level::Bad => AnsiColor::Red.on_default().bold(),
    }
}
