//! Compiles the protos with protox, in Rust, so that a fresh machine needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::{FileDescriptorProto, field_descriptor_proto::Type};
use tonic_prost_build::Builder;

const PROTOS: [&str; 5] = [
    "lb/v1/types.proto",
    "lb/v1/discovery.proto",
    "lb/v1/explain.proto",
    "lb/v1/fleet.proto",
    "lb/v1/backup.proto",
];

/// The file whose messages a TOML file is made of.
const SPEC: &str = "lb/v1/types.proto";

/// The files whose messages are what the controller answers.
const ANSWERS: [&str; 2] = ["lb/v1/explain.proto", "lb/v1/fleet.proto"];

const SKIP_DEFAULT: &str = "#[serde(skip_serializing_if = \"crate::json::is_default\")]";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Reflection serves it, and grpcurl reads it.
    fs::write(out.join("descriptors.bin"), prost_encode(&descriptors))?;

    // Maps are ordered, so that equal messages have equal bytes: digests depend on it.
    let mut builder = tonic_prost_build::configure().btree_map(".").bytes(".");
    // What has a secret in it prints itself without it: see `redacted`.
    builder = builder.skip_debug([
        "lb.v1.BackupMaterial",
        "lb.v1.Certificate",
        "lb.v1.Eab",
        "lb.v1.Resource",
        "lb.v1.Update",
    ]);
    builder = spec_as_toml(builder, &descriptors.file);
    builder = answers_as_json(builder, &descriptors.file);
    builder.compile_fds(descriptors)?;
    Ok(())
}

/// What operators write, in TOML and for the diff. What is not given is left out.
fn spec_as_toml(mut builder: Builder, files: &[FileDescriptorProto]) -> Builder {
    let spec = files.iter().filter(|file| file.name() == SPEC);
    for message in spec.flat_map(|file| &file.message_type) {
        let path = format!(".lb.v1.{}", message.name());
        builder = builder
            .type_attribute(&path, "#[derive(serde::Deserialize, serde::Serialize)]")
            .type_attribute(&path, "#[serde(default, deny_unknown_fields)]")
            .field_attribute(&path, SKIP_DEFAULT);
        for field in &message.field {
            let with = match field.type_name() {
                ".google.protobuf.Duration" => "crate::duration",
                ".google.protobuf.ListValue" => "crate::list",
                _ => continue,
            };
            let path = format!("{path}.{}", field.name());
            builder = builder.field_attribute(path, format!("#[serde(with = \"{with}\")]"));
        }
    }
    builder
}

/// What the controller answers, in JSON for scripts and for the dashboard, with the names of the
/// protos.
fn answers_as_json(mut builder: Builder, files: &[FileDescriptorProto]) -> Builder {
    let answers = files.iter().filter(|file| ANSWERS.contains(&file.name()));
    for message in answers.flat_map(|file| &file.message_type) {
        let path = format!(".lb.v1.{}", message.name());
        builder = builder
            .type_attribute(&path, "#[derive(serde::Serialize)]")
            .enum_attribute(&path, "#[serde(rename_all = \"snake_case\")]");
        for field in &message.field {
            let with = match field.type_name() {
                ".google.protobuf.Timestamp" => "crate::json::timestamp",
                ".google.protobuf.Duration" => "crate::duration::serialize",
                ".lb.v1.Health" => "crate::json::health",
                ".lb.v1.Change.Kind" => "crate::json::kind",
                _ => continue,
            };
            let path = format!("{path}.{}", field.name());
            builder =
                builder.field_attribute(&path, format!("#[serde(serialize_with = \"{with}\")]"));
            if field.r#type() == Type::Message {
                builder = builder.field_attribute(path, SKIP_DEFAULT);
            }
        }
    }
    builder
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
