//! `completions`: what a shell needs to complete the commands and options.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::exit::Failure;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv completions bash > ~/.local/share/bash-completion/completions/memento-kv
  memento-kv completions zsh > ~/.zfunc/_memento-kv
  memento-kv completions fish --name memento > ~/.config/fish/completions/memento.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// The name under which the program is called
    #[arg(long, default_value = "memento-kv", value_parser = ["memento-kv", "memento"])]
    name: String,
}

pub(crate) fn run(args: &CompletionsArgs, context: &Context<'_>) -> Result<(), Failure> {
    context.out.print(&script(args.shell, &args.name))
}

fn script(shell: Shell, name: &str) -> String {
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_learns_the_commands() {
        for shell in Shell::value_variants() {
            let script = script(*shell, "memento");
            assert!(script.contains("remember") && script.contains("memento"), "{shell}");
        }
    }
}
