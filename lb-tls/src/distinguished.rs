//! Distinguished names as text (RFC 4514): the most particular part first, and nothing in a value that
//! could be taken for another part. So `O=a\\,CN\\=b` is not mistaken for `O=a,CN=b`.

use x509_parser::{objects::oid2abbrev, prelude::oid_registry, x509::X509Name};

/// In ASCII, without control characters.
pub fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| {
            let attributes: Vec<_> = part
                .iter()
                .map(|attribute| {
                    let oid = attribute.attr_type();
                    let kind = oid2abbrev(oid, oid_registry())
                        .map_or_else(|_| oid.to_id_string(), Into::into);
                    // What is no text is as the numbers that it is.
                    let bytes = attribute.as_str().map_or(attribute.as_slice(), str::as_bytes);
                    format!("{kind}={}", escaped(bytes, b",+=\"\\;<>#"))
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// With `\\` and two hexadecimal digits for each of `special` and for what is not visible ASCII. A space
/// stays, unless it comes first or last.
pub fn escaped(bytes: &[u8], special: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for (i, byte) in bytes.iter().enumerate() {
        let is_edge = i == 0 || i + 1 == bytes.len();
        let stays = byte.is_ascii_graphic() || (*byte == b' ' && !is_edge);
        if stays && !special.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("\\{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn named(parts: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().expect("there is randomness");
        let made = params.self_signed(&key).expect("it is made");
        let (_, parsed) = X509Certificate::from_der(made.der()).expect("it is readable");
        name(parsed.subject())
    }

    #[test]
    fn the_most_particular_part_comes_first() {
        let parts = [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "A B"),
            (DnType::CommonName, "me"),
        ];
        assert_eq!(named(&parts), "CN=me,O=A B,C=DE");
        assert_eq!(named(&[]), "");
    }

    #[test]
    fn no_value_looks_like_another_part_or_a_line() {
        let value = "a,CN=admin\r\nX: 1\\\u{e9}";
        let expected = "O=a\\2CCN\\3Dadmin\\0D\\0AX: 1\\5C\\C3\\A9";
        assert_eq!(named(&[(DnType::OrganizationName, value)]), expected);
        assert_eq!(escaped(b" a b ", b""), "\\20a b\\20");
    }
}
