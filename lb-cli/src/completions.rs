//! `lb completions`: so that a shell knows `lb`.

use std::process::ExitCode;

use clap_complete::Shell;

/// Print a shell's completions of lb
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  printed
  2  wrong usage

Examples:
  lb completions bash > ~/.local/share/bash-completion/completions/lb
  lb completions zsh > ~/.zfunc/_lb
  lb completions fish > ~/.config/fish/completions/lb.fish";

pub fn main(args: &Args) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "lb", &mut script);
    crate::print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
