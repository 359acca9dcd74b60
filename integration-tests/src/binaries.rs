//! The binaries under test.
//!
//! Cargo tells a test where its own package's binaries are, but not those of others, and does not
//! build these either. So the first test of a process that needs one asks cargo to build them, into
//! the target directory and with the profile of the test itself: what is tested is never stale, and
//! when nothing has changed this takes a fraction of a second. They are built as they ship, without
//! the features that tests turn on in their dependencies.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of `lb-control` or `lb-proxy`.
///
/// # Panics
/// If they do not build.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let path = DIRECTORY.get_or_init(directory).join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

/// The path of `lb-proxy`, built with another profile of the workspace's.
///
/// # Panics
/// If it does not build.
pub fn optimized_proxy(profile: &str) -> PathBuf {
    let (target, _) = own_place();
    build(&target, profile, &["-p", "lb-proxy"]);
    target.join(profile).join("lb-proxy")
}

fn directory() -> PathBuf {
    if let Some(dir) = env::var_os("LB_TEST_BIN_DIR") {
        return Path::new(&dir).canonicalize().unwrap_or_else(|error| {
            panic!("LB_TEST_BIN_DIR={}: {error}", dir.display());
        });
    }
    let (target, directory) = own_place();
    let profile = if directory == "debug" { "dev" } else { &directory };
    build(&target, profile, &["-p", "lb-control", "-p", "lb-proxy"]);
    target.join(directory)
}

/// The target directory, and the directory in it for this profile.
fn own_place() -> (PathBuf, String) {
    // target/<profile>/deps/<this>
    let this = env::current_exe().expect("a test has an executable");
    let directory = this.ancestors().nth(2).expect("it is in target/<profile>/deps");
    let target = directory.parent().expect("the profile's directory is in the target directory");
    let name = directory.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_else(|| panic!("{} is no profile's directory", directory.display()));
    (target.into(), name.into())
}

fn build(target: &Path, profile: &str, packages: &[&str]) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--locked", "--bins"])
        .args(packages)
        .args(["--profile", profile, "--target-dir"])
        .arg(target);
    let output = cargo.output().unwrap_or_else(|error| panic!("{cargo:?}: {error}"));
    assert!(output.status.success(), "{cargo:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}
