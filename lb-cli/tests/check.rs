//! `lb check`, and what `lb` says about itself.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use integration_tests::certs::Ca;

const GOOD: &str = r#"
[[listeners]]
name = "web"
address = "127.0.0.1:8080"

[[listeners]]
name = "db"
address = "127.0.0.1:5432"
protocol = "tcp"
backend_set = "app"

[[routes]]
name = "app"
backend_set = "app"

[[routes]]
name = "old"
match = { path = "/old" }
redirect = { path = "/new" }

[[routes]]
name = "robots"
match = { path = "/robots.txt" }
answer = { status = 200, body = "" }

[[backend_sets]]
name = "app"
backends = [
  { address = "127.0.0.1:3001" },
  { address = "127.0.0.1:3002", weight = 2 },
  { address = "127.0.0.1:3003" },
]
"#;

fn lb(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb")).args(args).output().expect("there is an lb")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into()
}

#[test]
fn a_good_file_is_summed_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lb.toml");
    fs::write(&file, GOOD).expect("it is our directory");
    let file = file.to_str().expect("its path is text");
    let checked = lb(&["check", file]);
    let expected = format!("{file}: ok: 2 listeners, 3 routes, 1 backend set with 3 backends\n");
    assert_eq!(said(&checked), expected);
    assert_eq!(checked.status.code(), Some(0));
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    let bad = GOOD.replace("weight = 2", "weight = 70000").replace("\"tcp\"", "\"udp\"");
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is an lb");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(bad.as_bytes()).expect("it reads");
    drop(stdin);
    let checked = child.wait_with_output().expect("it ends");
    let expected = "\
-:9:1: listeners[db].protocol: \"udp\" is not known; valid are http, tcp
-:30:33: backend_sets[app].backends[127.0.0.1:3002].weight: 70000 is not valid; give 0 to 65535
";
    assert_eq!(said(&checked), expected);
    assert_eq!(checked.status.code(), Some(1));
}

#[test]
fn a_file_that_is_not_there_is_told_by_name() {
    let checked = lb(&["check", "/nowhere/lb.toml"]);
    let said = said(&checked);
    assert!(said.starts_with("/nowhere/lb.toml: cannot be read: "), "{said}");
    assert_eq!(checked.status.code(), Some(1));
}

#[test]
fn without_a_command_there_is_help() {
    let helped = lb(&[]);
    assert_eq!(helped.status.code(), Some(0));
    let help = said(&helped);
    for part in ["Usage: lb", "demo", "run", "check", "lb run lb.toml"] {
        assert!(help.contains(part), "{part:?} in {help}");
    }
    assert_eq!(lb(&["serve"]).status.code(), Some(2), "wrong usage is told apart");
}

#[test]
fn certificates_are_looked_into_where_the_file_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::new("a test's");
    let (one, other) = (ca.sign(&["a.test"]), ca.sign(&["a.test"]));
    other.write(dir.path(), "other");
    let both = dir.path().join("both.pem");
    fs::write(&both, [one.cert, one.key].concat()).expect("it is our directory");
    let file = dir.path().join("lb.toml");
    let check = |key: &str| {
        let certificate = format!("name = 'a', cert = 'both.pem', key = '{key}'");
        fs::write(&file, format!("certificates = [{{ {certificate} }}]\n")).expect("it is ours");
        let checked = lb(&["check", file.to_str().expect("its path is text")]);
        (checked.status.code(), said(&checked))
    };
    assert_eq!(check("both.pem").0, Some(0));
    for (key, why) in [
        ("other.key", "is not the key of the certificate CN=a.test"),
        ("none.key", "cannot be read: No such file"),
    ] {
        let (code, told) = check(key);
        let path = dir.path().join(key);
        let expected = format!("certificates[a].key: {}: {why}", path.display());
        assert!(code == Some(1) && told.contains(&expected), "{told}");
    }
}

#[test]
fn an_order_is_looked_into_and_its_ca_is_not_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lb.toml");
    let check = |lines: &str| {
        let acme = "domains = ['a.test']\ndirectory = 'https://nobody.invalid/dir'";
        let text = format!("[[certificates]]\nname = 'a'\n[certificates.acme]\n{acme}\n{lines}\n");
        fs::write(&file, text).expect("it is ours");
        said(&lb(&["check", &file.display().to_string()]))
    };
    fs::write(dir.path().join("text"), "no PEM").expect("it is ours");
    let path = dir.path().join("text").display().to_string();
    for (lines, expected) in [
        ("ca = 'text'", format!("certificates[a].acme.ca: {path}: has no certificate in it")),
        (
            "eab = { kid = 'k', key = './text' }",
            format!("certificates[a].acme.eab.key: {path}: is no key"),
        ),
        ("eab = { kid = 'k', key = 'text' }", "certificates[a].acme.eab.key: is no key".into()),
        ("challenge = 'dns-01'", "certificates[a].acme.challenge: \"dns-01\" is not".into()),
        ("eab = { kid = 'k', key = 'sha256:00' }", ": ok: ".into()),
        ("", ": ok: ".into()),
    ] {
        let said = check(lines);
        assert!(said.contains(&expected), "{lines}: {said}");
    }
}
