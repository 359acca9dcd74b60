//! Reading a header in whichever version it is.

use super::{
    header::{Decoded, HeaderError},
    v1, v2,
};

/// Reads the header that these bytes begin with; `None` if not all of it has come.
///
/// # Errors
/// If they begin with something else, or with a header that is malformed.
pub fn decode(bytes: &[u8]) -> Result<Option<Decoded>, HeaderError> {
    if v2::begins(bytes) {
        v2::decode(bytes)
    } else if v1::begins(bytes) {
        v1::decode(bytes)
    } else {
        Err(HeaderError::Absent)
    }
}
