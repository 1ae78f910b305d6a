//! The crash campaign for as long as asked: what is left of a store after kills, power cuts, failing calls and rot.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use memento_kv::parts::crash::{Campaign, Explored};
use support::Args;

const HELP: &str = "\
The crash campaign: workloads on a simulated disk are cut at every call, met with every failure of a call, and rot.

    cargo bench --bench crash -- --states 200000

  --states N    ends after so many states (200000)
  --seconds S   ends after this time
  --seed N      the first workload (1)
  --call N      only what happens at this call of it
  --every N     only every so manieth call of each workload (1)
  --jobs N      workloads at the same time (1)

One line says what was explored; failures are above it, each with the options that repeat it, and the program then
ends with 1.";

fn main() -> ExitCode {
    let args = Args::parse(HELP);
    let seconds: f64 = args.number("--seconds", f64::INFINITY, f64::INFINITY);
    let is_timed = seconds.is_finite();
    let campaign = Campaign {
        seed: args.number("--seed", 1, 1),
        call: args.text("--call").map(|call| call.parse().expect("--call needs a number")),
        every: args.number("--every", 1, 40),
        states: args.number("--states", if is_timed { u64::MAX } else { 200_000 }, 300),
        time: is_timed.then(|| Duration::from_secs_f64(seconds)),
        jobs: args.number("--jobs", 1, 1),
    };
    // What a broken store says of itself belongs into the failure.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let shown = Mutex::new(started);
    let is_shown = std::io::stderr().is_terminal();
    let explored = campaign.run(&|explored| {
        if let Ok(mut last) = shown.try_lock()
            && is_shown
            && last.elapsed() >= Duration::from_millis(200)
        {
            *last = Instant::now();
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(explored, started));
        }
    });
    if is_shown {
        eprint!("\r\x1b[K");
    }
    for failure in &explored.failures {
        eprintln!("failure: {failure}");
    }
    println!("{}", line(&explored, started));
    if explored.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(explored: &Explored, started: Instant) -> String {
    let Explored { states, points, seeds, failures } = explored;
    let rate = *states as f64 / started.elapsed().as_secs_f64();
    format!(
        "{states} states, {points} calls, {seeds} whole workloads, {} failures, {rate:.0} states/s",
        failures.len()
    )
}
