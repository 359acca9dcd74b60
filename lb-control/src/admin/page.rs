//! The dashboard's files. They are part of this program, need no build step, and ask nobody else
//! for anything; browsers are told to hold them to that.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use xxhash_rust::xxh3::xxh3_64;

use super::{Body, respond};

/// One file of it.
#[derive(Debug)]
pub struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        File { path: $path, kind: $kind, bytes: include_bytes!(concat!("../../dashboard/", $name)) }
    };
}

/// All of them.
static FILES: [File; 17] = [
    file!("/", HTML, "index.html"),
    file!("/assets/style.css", CSS, "style.css"),
    file!("/assets/icon.svg", "image/svg+xml", "icon.svg"),
    file!("/assets/theme.js", SCRIPT, "theme.js"),
    file!("/assets/app.js", SCRIPT, "app.js"),
    file!("/assets/backends.js", SCRIPT, "backends.js"),
    file!("/assets/certificates.js", SCRIPT, "certificates.js"),
    file!("/assets/charts.js", SCRIPT, "charts.js"),
    file!("/assets/dom.js", SCRIPT, "dom.js"),
    file!("/assets/events.js", SCRIPT, "events.js"),
    file!("/assets/explain.js", SCRIPT, "explain.js"),
    file!("/assets/feed.js", SCRIPT, "feed.js"),
    file!("/assets/format.js", SCRIPT, "format.js"),
    file!("/assets/history.js", SCRIPT, "history.js"),
    file!("/assets/overview.js", SCRIPT, "overview.js"),
    file!("/assets/proxies.js", SCRIPT, "proxies.js"),
    file!("/assets/series.js", SCRIPT, "series.js"),
];

/// Only what comes from here is loaded, run or asked, nothing in the page's text is a script, no
/// script can turn text into markup, and no other page can put this one into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Kept, and asked about each time: an update of the controller is an update of the page.
    (header::CACHE_CONTROL, "no-cache"),
];

pub fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

// === impl File ===

impl File {
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let tag = self.tag();
        let mut response = respond(StatusCode::OK, self.kind, Bytes::from_static(self.bytes));
        for (name, value) in HEADERS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if has(headers, &tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Empty::new().boxed_unsync();
        }
        if let Ok(tag) = HeaderValue::try_from(tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }

    fn tag(&self) -> String {
        format!("\"{:016x}\"", xxh3_64(self.bytes))
    }
}

/// Whether the client says that it has it.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}
