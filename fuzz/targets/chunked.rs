#![no_main]

use lb_fuzz::checks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let seed = lb_fuzz::seed(bytes);
    checks::chunked(bytes, seed);
    let mut written = checks::to_chunks(bytes, &mut fastrand::Rng::with_seed(seed));
    written.extend_from_slice(b"\r\n");
    let length = written.len();
    assert_eq!(checks::chunked(&written, seed), Some((bytes.to_vec(), length)));
});
