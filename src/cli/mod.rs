//! The command-line program. It sees the public API of the library and nothing else.
//!
//! Answers go to standard output, everything else to standard error. Every command lives in a file of its own under
//! `commands/`, with its arguments; `exit.rs` says which error ends with which code.

mod args;
mod commands;
mod context;
mod exit;
mod input;
mod logging;
mod output;
mod progress;
mod session;
mod table;
mod text;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Cli, Command};
use self::context::Context;
use self::exit::Failure;
use self::output::Output;

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let early = args::EarlyFlags::scan(&args);
    if early.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, early.json),
    };
    let out = Output::of_process(&cli.global);
    match run(cli, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure, &out),
    }
}

fn run(cli: Cli, out: &Output) -> Result<(), Failure> {
    use commands as c;
    logging::start_from_env()?;
    let context = Context::new(cli.global, out);
    let Some(command) = cli.command else {
        return out.print(&out.help(Cli::command()));
    };
    match command {
        Command::Remember(args) => c::remember::run(args, &context),
        Command::Recall(args) => c::recall::run(args, &context),
        Command::Capture(args) => c::capture::run(args, &context),
        Command::Captured(args) => c::captured::run(args, &context),
        Command::Scan(args) => c::scan::run(&args, &context),
        Command::Get(args) => c::get::run(&args, &context),
        Command::List(args) => c::list::run(args, &context),
        Command::Update(args) => c::update::run(args, &context),
        Command::Forget(args) => c::forget::run(&args, &context),
        Command::Stats(args) => c::stats::run(&args, &context),
        Command::Where => c::place::run(&context),
        Command::Check(args) => c::check::run(&args, &context),
        Command::Prove(args) => c::prove::run(&args, &context),
        Command::Compact => c::compact::run(&context),
        Command::Snapshot => c::snapshot::run(&context),
        Command::Backup(args) => c::backup::run(&args, &context),
        Command::Backups(args) => c::backups::run(&args, &context),
        Command::Doctor(args) => c::doctor::run(&args, &context),
        Command::Failures(args) => c::failures::run(&args, &context),
        Command::Health(args) => c::health::run(&args, &context),
        Command::Diff(args) => c::diff::run(&args, &context),
        Command::Restore(args) => c::restore::run(&args, &context),
        Command::Import(args) => c::import::run(&args, &context),
        Command::Export(args) => c::export::run(&args, &context),
        Command::Reembed(args) => c::reembed::run(&args, &context),
        Command::Reindex(args) => c::reindex::run(&args, &context),
        Command::Model(args) => c::model::run(args, &context),
        Command::Demo(args) => c::demo::run(&args, &context),
        Command::Eval(args) => c::eval::run(args, context),
        Command::Completions(args) => c::completions::run(&args, &context),
    }
}
