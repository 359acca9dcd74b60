#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(difference) = lb_fuzz::differential::check(bytes) {
        panic!("{difference}");
    }
});
