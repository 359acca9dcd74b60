//! Compiles the protos with protox, in Rust, so that a fresh machine needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 3] = ["lb/v1/types.proto", "lb/v1/discovery.proto", "lb/v1/fleet.proto"];

/// The messages that a TOML file is made of.
const SPEC_MESSAGES: [&str; 14] = [
    "Spec",
    "Listener",
    "Route",
    "RouteMatch",
    "WeightedBackendSet",
    "Redirect",
    "Answer",
    "Retry",
    "BackendSet",
    "Backend",
    "Hash",
    "HealthCheck",
    "OutlierEjection",
    "Pool",
];

const SPEC_DURATIONS: [&str; 11] = [
    "Listener.idle_timeout",
    "Listener.header_timeout",
    "Route.timeout",
    "Retry.per_try_timeout",
    "Retry.backoff",
    "BackendSet.connect_timeout",
    "HealthCheck.interval",
    "HealthCheck.timeout",
    "OutlierEjection.base_time",
    "OutlierEjection.max_time",
    "Pool.idle_timeout",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Reflection serves it, and grpcurl reads it.
    fs::write(out.join("descriptors.bin"), prost_encode(&descriptors))?;

    // Maps are ordered, so that equal messages have equal bytes: digests depend on it.
    let mut builder = tonic_prost_build::configure().btree_map(".").bytes(".");
    for message in SPEC_MESSAGES {
        builder = builder
            .type_attribute(
                format!(".lb.v1.{message}"),
                "#[derive(serde::Deserialize, serde::Serialize)]",
            )
            .type_attribute(format!(".lb.v1.{message}"), "#[serde(default, deny_unknown_fields)]");
    }
    for field in SPEC_DURATIONS {
        builder = builder
            .field_attribute(format!(".lb.v1.{field}"), "#[serde(with = \"crate::duration\")]");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
