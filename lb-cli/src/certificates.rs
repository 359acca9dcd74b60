//! `lb certificates`: every certificate, for what, and until when.

use std::{process::ExitCode, time::Duration};

use lb_common::clock;
use lb_proto::v1;

use crate::{
    client::{
        Remote,
        expiry::Expiry,
        when::{exact, short, since_epoch},
    },
    output::{self, Output, Paint, Screen},
    table::{Cell, Column, Table},
};

/// Show every certificate: for what names, from whom, and until when
///
/// Keys are never shown. A problem says why what is in a certificate's files now is not in force, or why
/// one that is ordered cannot be had; what there was before is in force, then.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  shown
  1  failed
  2  wrong usage

Examples:
  lb certificates
  lb certificates --json | jq -r '.certificates[] | .name + \" \" + .fingerprint'";

/// # Errors
/// If the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let controller = args.remote.connect().await?;
    let request = v1::ListCertificatesRequest {};
    let listed = controller.call(async |mut api| api.list_certificates(request).await).await?;
    if args.output.json {
        output::json(&listed)?;
    } else {
        crate::print(&render(&listed, &args.output.colors.screen(), clock::wall()));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(listed: &v1::ListCertificatesResponse, screen: &Screen, now: Duration) -> String {
    if listed.certificates.is_empty() && listed.files.is_empty() {
        return "no certificates\n".into();
    }
    let mut table = Table::new(vec![
        Column::left("CERTIFICATE").cut_to(12),
        Column::left("NAMES").cut_to(20),
        Column::left("KEY").dropped(2),
        Column::left("ISSUER").cut_to(16).dropped(3),
        Column::left("EXPIRES"),
        Column::left("UNTIL").dropped(4),
        Column::left("RENEWAL").dropped(1),
        Column::left("SHOWN BY").dropped(5),
    ]);
    for status in &listed.certificates {
        let expiry = Expiry::of(status, now);
        let expires = match expiry {
            Expiry::Absent | Expiry::Expired => Cell::painted(expiry.text(), Paint::Bad),
            Expiry::Soon(_) => Cell::painted(expiry.text(), Paint::Warn),
            Expiry::Later(_) => expiry.text().into(),
        };
        table.row(vec![
            Cell::painted(&status.name, Paint::Bold),
            status.names.join(", ").into(),
            (&*status.kind).into(),
            (&*status.issuer).into(),
            expires,
            exact(status.not_after.as_ref()).into(),
            status.acme.as_ref().map_or_else(|| "".into(), |acme| renewal(acme, now)),
            shown_by(status).join(", ").into(),
        ]);
    }
    let mut text = table.render(screen);
    let of_certificates = listed.certificates.iter().map(|one| (&one.name, &one.problem));
    let of_files = listed.files.iter().map(|file| (&file.path, &file.why));
    for (name, problem) in of_certificates.chain(of_files).filter(|(_, text)| !text.is_empty()) {
        let note = format!("{name}: {problem}");
        text.push_str(&screen.paint(Paint::Warn, &screen.wrap(&note, 0, 2)));
        text.push('\n');
    }
    text
}

/// Listeners to clients, and backend sets to backends.
pub fn shown_by(status: &v1::CertificateStatus) -> Vec<&str> {
    status.listeners.iter().chain(&status.backend_sets).map(String::as_str).collect()
}

/// What happened to one, or to a file with CAs.
pub fn told(v1::CertificateChanged { name, what, why }: &v1::CertificateChanged) -> String {
    match what.as_str() {
        "problem" => format!("{name} is not in force: {why}"),
        "mended" => format!("{name} is well again"),
        _ => format!("another {name} is in force: {why}"),
    }
}

/// When it is ordered again, or how that goes.
fn renewal(acme: &v1::AcmeStatus, now: Duration) -> Cell {
    match (&*acme.state, &acme.next) {
        ("issued", Some(next)) => {
            format!("in {}", short(since_epoch(next).saturating_sub(now))).into()
        }
        ("failed", _) => Cell::painted("failed", Paint::Bad),
        (state, _) => Cell::painted(state, Paint::Warn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_ordering_goes_is_a_column_and_what_is_wrong_a_line() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let status = |name: &str, acme, problem: &str| v1::CertificateStatus {
            name: name.into(),
            problem: problem.into(),
            acme,
            ..<_>::default()
        };
        let acme = |state: &str, next| {
            Some(v1::AcmeStatus { state: state.into(), next, ..<_>::default() })
        };
        let listed = v1::ListCertificatesResponse {
            certificates: vec![
                status("file", None, ""),
                status("new", acme("ordering", None), ""),
                status("good", acme("issued", at(1_000 + 58 * 86_400)), ""),
                status("bad", acme("failed", at(1_060)), "cannot be had from its CA: no"),
            ],
            files: vec![v1::FileProblem { path: "/ca.pem".into(), why: "it is gone".into() }],
        };
        let text =
            render(&listed, &Screen { width: Some(120), color: false }, Duration::from_secs(1_000));
        let lines: Vec<_> = text.lines().collect();
        let has = |line: usize, part: &str| assert!(lines[line].contains(part), "{part}:\n{text}");
        has(0, "RENEWAL");
        has(2, "ordering");
        has(3, "in 58d");
        has(4, "failed");
        has(5, "bad: cannot be had from its CA: no");
        has(6, "/ca.pem: it is gone");
    }
}
