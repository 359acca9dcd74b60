//! What ends at this hop and what goes on: the one place that decides about fields.
//!
//! Fields that frame a message or concern one connection are never copied. They are written anew
//! from what was understood of them, so that the next reader cannot understand them otherwise.

use crate::message::{Field, Name};

/// As `Via` has it, after the version.
pub const VIA: &[u8] = b" lb";

/// Whether a request's field goes on to a backend as it came.
pub fn request_field_goes_on(field: &Field) -> bool {
    !field.is_nominated
        && !field.known.is_hop_by_hop()
        && !field.known.is_forwarded()
        && field.known != Name::XLbExplain
}

/// Whether a response's field goes on to a client as it came.
pub fn response_field_goes_on(field: &Field) -> bool {
    !field.is_nominated && !field.known.is_hop_by_hop() && field.known != Name::XLbExplain
}

/// Whether a trailer goes on, and whether `Trailer` may announce it.
pub fn trailer_goes_on(name: Name) -> bool {
    name.may_trail()
}
