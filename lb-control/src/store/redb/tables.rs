//! How the file is laid out.

use ::redb::TableDefinition;

/// Another number is another program's file.
pub const FORMAT: u64 = 2;

pub const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
/// Of the current state, by kind and name.
pub const PARTS: TableDefinition<'_, (i32, &str), &[u8]> = TableDefinition::new("parts");
/// By revision: an [`lb_proto::v1::Delta`] that leads to the state before it.
pub const UNDO: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("undo");
/// Secrets, in a table of their own: whoever reads another one finds none.
pub const MATERIALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("materials");
/// Which revision was the last one that needed a key that is nowhere else.
pub const NEEDED: TableDefinition<'_, &str, u64> = TableDefinition::new("needed");
pub const HEALTH: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("health");

pub const META_FORMAT: &str = "format";
pub const META_EPOCH: &str = "epoch";
pub const META_FILE_DIGEST: &str = "file_digest";
/// Of all of [`UNDO`], and of what revisions say of themselves.
pub const META_UNDO_BYTES: &str = "undo_bytes";
/// The revision that said last what material is needed.
pub const META_MATERIALS: &str = "materials";
/// How many transactions there were, which tells whether one is there.
pub const META_WRITES: &str = "writes";
