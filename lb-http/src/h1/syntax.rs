//! Which bytes may be where.

/// One bit a class, by byte.
const CLASSES: [u8; 256] = classes();

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const REG_NAME: u8 = 4;

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let c = i as u8;
        let unreserved = c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~');
        let sub_delim = matches!(
            c,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
        );
        if c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            table[i] |= TOKEN;
        }
        // All that is visible but a fragment, which no server gets to see.
        if c.is_ascii_graphic() && c != b'#' {
            table[i] |= TARGET;
        }
        if unreserved || sub_delim || c == b'%' {
            table[i] |= REG_NAME;
        }
        i += 1;
    }
    table
}

/// RFC 9110, section 5.6.2.
pub fn is_token_char(c: u8) -> bool {
    CLASSES[c as usize] & TOKEN != 0
}

pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|c| is_token_char(*c))
}

/// Whether a target has nothing in it that ends it, or that is read in two ways. What RFC 3986
/// excludes besides (`"`, `<`, `>`, `\`, `^`, a backtick and braces) is passed on as it came: all
/// servers take it, and for the same.
pub fn is_target(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|c| CLASSES[*c as usize] & TARGET != 0)
}

/// Whether a value has no controls in it but tabs (RFC 9110, section 5.5). Eight bytes at a time.
pub fn is_value(text: &[u8]) -> bool {
    let is_proper = |c: &u8| *c == b'\t' || (*c >= b' ' && *c != DEL);
    let (words, rest) = text.as_chunks();
    words.iter().all(|word| !has_control(*word) || word.iter().all(is_proper))
        && rest.iter().all(is_proper)
}

const DEL: u8 = 0x7f;

/// Whether a byte is below the space, or DEL. A subtraction borrows from a byte's highest bit if the
/// byte is the smaller one.
fn has_control(word: [u8; 8]) -> bool {
    let all = |c: u8| u64::from_ne_bytes([c; 8]);
    let word = u64::from_ne_bytes(word);
    let is_low = word.wrapping_sub(all(b' ')) & !word;
    let is_del = (word ^ all(DEL)).wrapping_sub(all(1)) & !(word ^ all(DEL));
    (is_low | is_del) & all(0x80) != 0
}

/// Without the spaces and tabs around it (RFC 9110, section 5.6.3).
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Those of a registered name of RFC 3986, section 3.2.2, and the percent sign of its escapes.
pub fn is_reg_name_char(c: u8) -> bool {
    CLASSES[c as usize] & REG_NAME != 0
}

/// A registered name of RFC 3986, section 3.2.2, with at least one character.
pub fn is_reg_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|c| is_reg_name_char(*c)) && has_escapes(text)
}

/// Whether two hexadecimal digits follow each percent sign (RFC 3986, section 2.1).
pub fn has_escapes(text: &[u8]) -> bool {
    let is_escape = |at: usize| match text[at + 1..] {
        [a, b, ..] => a.is_ascii_hexdigit() && b.is_ascii_hexdigit(),
        _ => false,
    };
    memchr::memchr_iter(b'%', text).all(is_escape)
}

/// Digits only (RFC 9110, section 8.6). `None` also if it does not fit.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, c| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(is_it: impl Fn(u8) -> bool) -> String {
        (0..=255u8).filter(|c| is_it(*c)).map(char::from).collect()
    }

    #[test]
    fn a_control_is_found_wherever_it_is_among_eight_bytes() {
        for (at, c) in (0..8).flat_map(|at| (0..=u8::MAX).map(move |c| (at, c))) {
            let mut word = [b'a'; 8];
            word[at] = c;
            assert_eq!(has_control(word), c < b' ' || c == DEL, "{c:#x} at {at}");
        }
    }

    #[test]
    fn bytes_are_where_they_may_be() {
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let signs = |text: String| -> String {
            text.chars().filter(|c| !c.is_ascii_alphanumeric()).collect()
        };
        for text in [all(is_token_char), all(is_reg_name_char), all(|c| is_target(&[c]))] {
            assert!(text.contains("0123456789") && text.contains(letters));
            assert!(text.contains(&letters.to_lowercase()));
        }
        assert_eq!(signs(all(is_token_char)), "!#$%&'*+-.^_`|~");
        assert_eq!(signs(all(is_reg_name_char)), "!$%&'()*+,-.;=_~");
        assert_eq!(signs(all(|c| is_target(&[c]))), "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~");
        for c in 0..=255u8 {
            let expected = c == b'\t' || (c >= b' ' && c != 0x7f);
            assert_eq!(is_value(&[c]), expected, "{c}");
            let proper = *b"\xff a proper value \x80\t";
            for at in 0..proper.len() {
                let mut text = proper;
                text[at] = c;
                assert_eq!(is_value(&text), expected, "{c} at {at}");
            }
        }
        assert!(
            is_value(b"")
                && !is_value(b"a\0b")
                && !is_value(b"\0\0")
                && !is_target(b"")
                && !is_token(b"")
        );
        assert!(!is_token(b"a b") && is_token(b"ab"));
    }

    #[test]
    fn only_spaces_and_tabs_are_white_space() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b"\x0ba\x0c"), b"\x0ba\x0c");
        assert_eq!(trim(b" \t"), b"");
    }

    #[test]
    fn a_number_has_digits_only_and_fits() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"0012"), Some(12));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for text in
            ["", " 1", "+1", "-1", "1a", "0x1", "18446744073709551616", "99999999999999999999"]
        {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_escape_has_two_digits() {
        for text in ["", "a", "%41", "a%fF%00b"] {
            assert!(has_escapes(text.as_bytes()), "{text}");
        }
        for text in ["%", "a%4", "%4g", "%g4", "%%41", "%41%"] {
            assert!(!has_escapes(text.as_bytes()), "{text}");
        }
        assert!(
            is_reg_name(b"a%41")
                && !is_reg_name(b"a%4")
                && !is_reg_name(b"")
                && !is_reg_name(b"a/")
        );
    }
}
