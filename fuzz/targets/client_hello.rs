#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    lb_fuzz::prelude::client_hello(bytes, lb_fuzz::seed(bytes));
});
