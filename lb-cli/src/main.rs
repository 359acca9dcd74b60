//! `lb`: a whole load balancer in one process, a demo of it, a check of its file, the processes of a
//! fleet, and the client of whoever operates one.
//!
//! - [`run`] and [`demo`] put a [`local`] fleet together: a controller and proxies in this
//!   process, as they would run in processes of their own, connected over loopback.
//! - [`check`] reads a file and says everything that is wrong with it.
//! - `lb control` and `lb proxy` are the two processes of a fleet, the same as `lb-control` and
//!   `lb-proxy`, so that this binary is all that a host or a container needs; [`health`] asks them
//!   how they are, and [`backend`] is something to balance over.
//! - All others are an operator's: each is one file, which talks to a controller through [`client`].
//!   The desired state as a file: [`apply`], [`diff`], [`get`], [`edit`]. One backend: [`drain`],
//!   [`undrain`], [`weight`]. What was: [`history`], [`show`], [`rollback`]; all of it in a file, and back:
//!   [`backup`], [`restore`]. What is: [`proxies`],
//!   [`backends`], [`events`], [`explain`], [`top`].
//! - [`output`] and [`table`] are how they print; [`completions`] and [`man`] are about `lb` itself.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};

mod apply;
mod backend;
mod backends;
mod backup;
mod certificates;
mod check;
mod client;
mod completions;
mod demo;
mod diff;
mod drain;
mod edit;
mod events;
mod explain;
mod flags;
mod get;
mod health;
mod history;
mod http_client;
mod local;
mod man;
mod output;
mod ports;
mod proxies;
mod restore;
mod rollback;
mod run;
mod serving;
mod show;
mod table;
mod top;
mod undrain;
mod weight;

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
    #[command(after_help = lb_control::config::after_help("lb control"))]
    Control(lb_control::config::Args),
    #[command(after_long_help = lb_proxy::config::after_long_help("lb proxy"))]
    Proxy(lb_proxy::config::Args),
    Health(health::Args),
    Backend(backend::Args),
    Apply(apply::Args),
    Diff(diff::Args),
    Get(get::Args),
    Edit(edit::Args),
    Proxies(proxies::Args),
    Backends(backends::Args),
    Certificates(certificates::Args),
    Drain(drain::Args),
    Undrain(undrain::Args),
    Weight(weight::Args),
    History(history::Args),
    Show(show::Args),
    Rollback(rollback::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Events(events::Args),
    Explain(explain::Args),
    Top(top::Args),
    Completions(completions::Args),
    Man(man::Args),
}

const AFTER_HELP: &str = "\
Examples:
  lb demo              see it work: three backends, a controller, two proxies
  lb check lb.toml     is this file right, and if not, where and why
  lb run lb.toml       serve what the file says
  lb apply -f lb.toml  make a fleet what the file says
  lb backends          is everything well, and if not, why
  lb drain app/b1      take a backend out without losing a request

For a fleet of processes there are lb control and lb proxy.";

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Some(Command::Demo(args)) => demo::main(args),
        Some(Command::Run(args)) => run::main(args),
        Some(Command::Check(args)) => Ok(check::main(&args)),
        Some(Command::Control(args)) => Ok(lb_control::main(args)),
        Some(Command::Proxy(args)) => Ok(lb_proxy::main(args)),
        Some(Command::Health(args)) => health::main(args),
        Some(Command::Backend(args)) => backend::main(args),
        Some(Command::Apply(args)) => client::run(apply::main(args)),
        Some(Command::Diff(args)) => client::run(diff::main(args)),
        Some(Command::Get(args)) => client::run(get::main(args)),
        Some(Command::Edit(args)) => client::run(edit::main(args)),
        Some(Command::Proxies(args)) => client::run(proxies::main(args)),
        Some(Command::Backends(args)) => client::run(backends::main(args)),
        Some(Command::Certificates(args)) => client::run(certificates::main(args)),
        Some(Command::Drain(args)) => client::run(drain::main(args)),
        Some(Command::Undrain(args)) => client::run(undrain::main(args)),
        Some(Command::Weight(args)) => client::run(weight::main(args)),
        Some(Command::History(args)) => client::run(history::main(args)),
        Some(Command::Show(args)) => client::run(show::main(args)),
        Some(Command::Rollback(args)) => client::run(rollback::main(args)),
        Some(Command::Backup(args)) => client::run(backup::main(args)),
        Some(Command::Restore(args)) => restore::main(&args),
        Some(Command::Events(args)) => client::run(events::main(args)),
        Some(Command::Explain(args)) => client::run(explain::main(args)),
        Some(Command::Top(args)) => client::run(top::main(args)),
        Some(Command::Completions(args)) => Ok(completions::main(&args)),
        Some(Command::Man(args)) => man::main(&args),
        None => {
            print(&Args::command().render_long_help().to_string());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        client::exit_code(&error)
    })
}

/// All of them, for [`completions`] and [`man`].
fn command() -> clap::Command {
    Args::command()
}

/// To standard output. A reader who went away (`lb demo | head`) is no reason to fail; anything else
/// is, lest half a state is taken for the whole one later.
fn print(text: &str) {
    if let Err(error) = try_print(text)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&format!("cannot write to standard output: {error}"));
        std::process::exit(1);
    }
}

/// For what would go on for ever after its reader went away.
///
/// # Errors
/// If nobody reads any more.
fn try_print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// To standard error, as what `lb` says about itself.
fn complain(text: &str) {
    complain_plainly(&format!("lb: {text}"));
}

/// Without a prefix, for lines that begin with a place in a file.
fn complain_plainly(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one call is about. A variable that somebody forgot in the environment would change what
    /// every other call does: `lb apply` would take another file, `lb history` would show a part.
    /// What is an environment variable is about the surroundings: where the controller is, how
    /// things are printed, that nobody is there to ask.
    const OF_ONE_CALL: [&str; 17] = [
        "allow-empty",
        "alpn",
        "before",
        "comment",
        "deadline",
        "dry-run",
        "expected-revision",
        "file",
        "follow",
        "from",
        "header",
        "limit",
        "listener",
        "merge",
        "replace",
        "reset",
        "revision",
    ];

    #[test]
    fn every_setting_is_an_environment_variable_too_and_every_command_has_an_example() {
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
                let expected = (!OF_ONE_CALL.contains(&long.as_str())).then_some(variable);
                assert_eq!(given, expected, "lb {name} --{long}");
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("\n  lb {name}")), "lb {name} has an example: {help}");
            assert!(help.contains("xit code"), "lb {name} says what its exit codes mean: {help}");
        }
        command.debug_assert();
    }
}
