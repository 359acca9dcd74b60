//! What the fuzz targets share. The checks are those of the crates' own tests.

#[path = "../../lb-http/tests/h1/checks/mod.rs"]
pub mod checks;
pub mod differential;
#[path = "../../lb-prelude/tests/prelude/checks/mod.rs"]
pub mod prelude;

/// Decides where bytes are cut: by the bytes, so that a finding is found again.
pub fn seed(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}
