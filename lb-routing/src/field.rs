//! A request's fields, by the names that operators give.

use std::iter;

use http::{HeaderName, header::HOST};
use lb_http::message::Request;

/// The values of all fields with this name. That of `Host` is the authority that the request goes
/// by, wherever it said so, because that is what the backend gets.
pub fn values<'a>(request: &'a Request, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let is_host = *name == HOST;
    let authority = request.authority();
    let authority = (is_host && !authority.is_empty()).then_some(authority);
    let lines = (!is_host).then(|| request.fields.named(name.as_str().as_bytes()));
    iter::chain(authority, lines.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_field_has_all_its_values_and_the_host_is_the_one_that_goes_on() {
        let lines = ["x-A: 1", "Host: a:80", "X-a: 2", "x-ab: 3"];
        let request = fixture::request("GET http://A/p HTTP/1.1", &lines);
        let all = |name: &'static str| -> Vec<String> {
            let name = HeaderName::from_static(name);
            values(&request, &name).map(|v| String::from_utf8_lossy(v).into()).collect()
        };
        assert_eq!(all("x-a"), ["1", "2"]);
        assert_eq!(all("host"), ["A"]);
        assert_eq!(all("x-b"), [""; 0]);
        let request = fixture::request("GET / HTTP/1.0", &[]);
        assert_eq!(values(&request, &HOST).count(), 0);
    }
}
