//! The options of `health` that let cron or systemd start it.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::session;
use crate::schedule::{self, Job, Method, Plan, Tools};
use crate::{Error, ErrorKind};

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Scheduling")]
pub(crate) struct ScheduleArgs {
    /// Let cron or systemd start a health run every health.check_interval_hours [default: systemd where it runs]
    #[arg(long, value_name = "WHO", num_args = 0..=1, conflicts_with = "uninstall")]
    install: Option<Option<Who>>,
    /// Take that away again, exactly
    #[arg(long)]
    uninstall: bool,
}

/// Who starts the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    /// A line of your crontab
    Cron,
    /// A timer of your systemd
    Systemd,
}

/// What is written, or taken away.
#[derive(Serialize)]
struct Done {
    method: &'static str,
    changed: bool,
    dry_run: bool,
    plan: String,
    notes: Vec<String>,
}

impl ScheduleArgs {
    /// Whether the schedule is to be changed, and no run is asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.install.is_some() || self.uninstall
    }

    /// Shows what is to be written, then writes it; with `dry_run` it is only shown.
    pub(crate) fn run(&self, dry_run: bool, context: &Context<'_>) -> Result<(), Failure> {
        let home = session::home(context)?;
        let (job, tools) = (Job::of(&home)?, Tools::of_process());
        if self.uninstall {
            let mut any = false;
            for method in Method::ALL {
                let plan = match Plan::uninstall(&job, method, &tools) {
                    // Where it could not have been installed there is nothing to take away.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    plan => plan?,
                };
                any |= !plan.is_empty();
                if !plan.is_empty() {
                    carry_out(&plan, dry_run, context)?;
                }
            }
            return match any {
                true => Ok(()),
                false if context.out.json => context.out.print_json::<[Done]>(&[]),
                false => {
                    context.out.note("nothing was installed for this home");
                    Ok(())
                }
            };
        }
        let method = match self.install.flatten() {
            Some(Who::Cron) => Method::Cron,
            Some(Who::Systemd) => Method::Systemd,
            None => tools.preferred(),
        };
        if let Some(other) = schedule::installed(&job, &tools).into_iter().find(|other| *other != method) {
            let message = format!("{} starts the health runs of this home already", other.name());
            return Err(Error::new(ErrorKind::Conflict, message)
                .hint("run `memento-kv health --uninstall` first")
                .into());
        }
        carry_out(&Plan::install(&job, method, &tools)?, dry_run, context)
    }
}

fn carry_out(plan: &Plan, dry_run: bool, context: &Context<'_>) -> Result<(), Failure> {
    let done = Done {
        method: plan.method().name(),
        changed: !dry_run,
        dry_run,
        plan: plan.to_string(),
        notes: plan.notes().to_vec(),
    };
    if !context.out.json {
        // Before anything is written.
        context.out.print(&done.plan)?;
    }
    if !dry_run {
        plan.carry_out()?;
    }
    if context.out.json {
        return context.out.print_json(&done);
    }
    for note in &done.notes {
        context.out.note(note);
    }
    Ok(())
}
