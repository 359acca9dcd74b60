#![no_main]

use lb_http::message::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let seed = lb_fuzz::seed(bytes);
    lb_fuzz::checks::responses(bytes, Method::Get, seed);
    lb_fuzz::checks::responses(bytes, Method::Head, seed);
});
