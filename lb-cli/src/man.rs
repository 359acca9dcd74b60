//! `lb man`: the help of all commands as manual pages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap_mangen::Man;

/// Write the manual pages of lb and its commands
///
/// Without a directory, the page of lb itself is printed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Where to; made if it is missing
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  written
  1  failed
  2  wrong usage

Examples:
  lb man | man -l -
  lb man ~/.local/share/man/man1 && man lb-apply";

/// # Errors
/// If the pages cannot be written.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = crate::command().disable_help_subcommand(true);
    command.build();
    match &args.dir {
        Some(dir) => write_all(&command, dir)?,
        None => crate::print(&String::from_utf8_lossy(&page(&command)?)),
    }
    Ok(ExitCode::SUCCESS)
}

fn write_all(command: &clap::Command, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut pages = vec![("lb".to_owned(), page(command)?)];
    for sub in command.get_subcommands() {
        // `lb-apply`, as a page is called.
        let name = format!("lb-{}", sub.get_name());
        pages.push((name.clone(), page(&sub.clone().display_name(name))?));
    }
    for (name, text) in &pages {
        let path = dir.join(format!("{name}.1"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    crate::print(&format!("{} pages in {}\n", pages.len(), dir.display()));
    Ok(())
}

fn page(command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let man = Man::new(command.clone()).source(concat!("lb ", env!("CARGO_PKG_VERSION")));
    man.render(&mut text)?;
    Ok(text)
}
