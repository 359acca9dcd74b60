//! `lb check`: is a file right, and if not, where and why.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use lb_common::{
    clock,
    spec::{Certificate, CertificateSource, DesiredState, Key, UNVERIFIED},
};
use lb_control::{files, vault::Vault};
use lb_proto::{
    error::Problems,
    file::{self, FileErrors},
    parse, pem, v1,
};

/// Say whether a file is right, or everything that is wrong with it
///
/// Each problem is one line, FILE:LINE:COLUMN: FIELD: what is wrong and what would be valid. Nothing
/// is started or changed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// A TOML file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  the file is right
  1  it is not, or cannot be read
  2  wrong usage

Examples:
  lb check lb.toml
  render-config | lb check -";

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{}", located(file, errors))]
    Wrong { file: PathBuf, errors: FileErrors },
}

pub fn main(args: &Args) -> ExitCode {
    match read(&args.file) {
        Ok(spec) => {
            let file = args.file.display();
            crate::print(&format!("{file}: ok: {}\n", summary(&spec)));
            for set in parse::desired_state(&spec).iter().flat_map(DesiredState::unverified) {
                let field = format!("backend_sets[{set}].tls.verify");
                crate::print(&format!("{file}: {field}: warning: {UNVERIFIED}\n"));
            }
            ExitCode::SUCCESS
        }
        Err(refused) => {
            crate::print(&format!("{refused}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Reads a spec and looks at all of it.
///
/// # Errors
/// Everything that is wrong, one problem a line.
pub fn read(file: &Path) -> Result<v1::Spec, Refused> {
    let text = text(file)?;
    let wrong = |errors| Refused::Wrong { file: file.into(), errors };
    let mut spec = file::parse(&text).map_err(wrong)?;
    pem::resolve(&mut spec, file.parent().unwrap_or(Path::new("/")));
    look_into(&spec).map_err(|problems| wrong(file::locate(&text, problems)))?;
    Ok(spec)
}

/// Looks at what the spec needs besides itself: certificates, and their keys. A key that only the
/// controller has is not looked at, and no CA is asked.
fn look_into(spec: &v1::Spec) -> Result<(), Problems> {
    let mut state = parse::desired_state(spec)?;
    let keys = pem::keys(&spec.certificates);
    let is_there = |certificate: &Certificate| {
        let key = match &certificate.source {
            CertificateSource::Pair { key, .. } => Some(key),
            CertificateSource::Acme(acme) => acme.eab.as_ref().map(|eab| &eab.key),
        };
        let key = key.map(Key::material);
        key.is_none_or(|key| !key.is_nowhere_else() || keys.contains_key(&key))
    };
    let certificates = std::mem::take(&mut state.certificates).into_iter();
    state.certificates = certificates.filter(|(_, certificate)| is_there(certificate)).collect();
    let mut found = files::read(&state.materials());
    found.materials.extend(keys);
    let nothing = DesiredState::default();
    Vault::default().admit(&nothing, &state, &found, clock::wall()).map(drop)
}

/// What is in a file; `-` is standard input.
///
/// # Errors
/// If it cannot be read.
pub fn text(file: &Path) -> Result<String, Refused> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    text.map_err(|source| Refused::Unreadable { file: file.into(), source })
}

/// One line a problem, each after its place in the file.
pub fn located(file: &Path, errors: &FileErrors) -> String {
    let line = |error: &file::FileError| {
        let file::FileError { line, column, field, message } = error;
        let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
        format!("{}:{line}:{column}: {field}{message}", file.display())
    };
    errors.0.iter().map(line).collect::<Vec<_>>().join("\n")
}

// === impl Refused ===

impl Refused {
    /// On standard error, without a prefix: each line begins with its place.
    pub fn report(&self) -> ExitCode {
        crate::complain_plainly(&self.to_string());
        ExitCode::FAILURE
    }
}

/// `2 listeners, 3 routes, 1 backend set with 3 backends`
fn summary(spec: &v1::Spec) -> String {
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let backends = spec.backend_sets.iter().map(|set| set.backends.len()).sum();
    format!(
        "{}, {}, {} with {}",
        count(spec.listeners.len(), "listener"),
        count(spec.routes.len(), "route"),
        count(spec.backend_sets.len(), "backend set"),
        count(backends, "backend"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_in_english() {
        let spec = file::parse(
            "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
             [[backend_sets]]\nname = \"a\"\nbackends = [{ address = \"127.0.0.1:1\" }]\n\
             [[backend_sets]]\nname = \"b\"\nbackends = [{ address = \"127.0.0.1:2\" }]\n",
        );
        let spec = spec.expect("it is valid");
        assert_eq!(summary(&spec), "1 listener, 0 routes, 2 backend sets with 2 backends");
    }
}
