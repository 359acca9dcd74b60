//! `lb`: a whole load balancer in one process, a demo of it, and a check of its file.
//!
//! - [`run`] and [`demo`] put a [`local`] fleet together: a controller and proxies in this
//!   process, as they would run in processes of their own, connected over loopback.
//! - [`check`] reads a file and says everything that is wrong with it.

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

mod check;
mod demo;
mod flags;
mod http_client;
mod local;
mod ports;
mod run;
mod serving;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A load balancer that is run as a fleet: one controller decides, proxies carry the traffic.
#[derive(Debug, Parser)]
#[command(name = "lb", version, after_help = AFTER_HELP)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(run::Args),
    Check(check::Args),
}

const AFTER_HELP: &str = "\
Examples:
  lb demo              see it work: three backends, a controller, two proxies
  lb check lb.toml     is this file right, and if not, where and why
  lb run lb.toml       serve what the file says

For a fleet of processes there are lb-control and lb-proxy.";

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Some(Command::Demo(args)) => demo::main(args),
        Some(Command::Run(args)) => run::main(args),
        Some(Command::Check(args)) => Ok(check::main(&args)),
        None => {
            print(&Args::command().render_long_help().to_string());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("lb: {error:#}");
        ExitCode::FAILURE
    })
}

/// To standard output. A reader who went away (`lb demo | head`) is no reason to end.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_an_environment_variable_too_and_every_command_has_an_example() {
        let mut command = Args::command();
        command.build();
        for command in command.get_subcommands_mut().filter(|c| c.get_name() != "help") {
            let name = command.get_name().to_owned();
            for flag in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let long = flag.get_long().expect("all flags are long").to_owned();
                if matches!(long.as_str(), "help" | "version") {
                    continue;
                }
                let variable = format!("LB_{}", long.replace('-', "_").to_uppercase());
                let given = flag.get_env().map(|env| env.to_string_lossy().into_owned());
                assert_eq!(given, Some(variable), "lb {name} --{long}");
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("\n  lb {name} ")), "lb {name} has an example: {help}");
        }
        command.debug_assert();
    }
}
