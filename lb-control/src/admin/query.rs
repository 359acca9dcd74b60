//! What stands behind a question mark: `a=1&b=two+words`, as forms write it.

use std::str::FromStr;

/// Names and values in their order; a name may come several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("{0:?} is not UTF-8 in percent-encoding, as in \"path=%2Fa\"")]
    Encoding(String),
    #[error("{name} is not known here; valid are: {valid}")]
    Unknown { name: String, valid: String },
    #[error("{0} is given more than once")]
    Repeated(String),
    #[error("{name}: {value:?} is not valid; give a whole number")]
    Number { name: String, value: String },
}

// === impl Query ===

impl Query {
    /// # Errors
    /// If it is not what forms write.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(decoded.collect::<Result<_, _>>()?))
    }

    /// # Errors
    /// If it has another name than these.
    pub fn only(&self, valid: &[&str]) -> Result<(), QueryError> {
        match self.0.iter().find(|(name, _)| !valid.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let valid = if valid.is_empty() { "none".into() } else { valid.join(", ") };
                Err(QueryError::Unknown { name: name.clone(), valid })
            }
        }
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value, or nothing if it is not there.
    ///
    /// # Errors
    /// If it is there twice.
    pub fn text(&self, name: &str) -> Result<String, QueryError> {
        let mut all = self.all(name);
        let first = all.next().unwrap_or_default();
        match all.next() {
            None => Ok(first.into()),
            Some(_) => Err(QueryError::Repeated(name.into())),
        }
    }

    /// # Errors
    /// If it is there twice, or no number.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, QueryError> {
        let value = self.text(name)?;
        if value.is_empty() {
            return Ok(None);
        }
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(QueryError::Number { name: name.into(), value }),
        }
    }
}

fn decode(text: &str) -> Result<String, QueryError> {
    let invalid = || QueryError::Encoding(text.into());
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = digit().zip(digit()).ok_or_else(invalid)?;
                u8::try_from(high * 16 + low).map_err(|_| invalid())?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).expect("is one")
    }

    #[test]
    fn names_and_values_are_read_as_forms_write_them() {
        let query =
            query("url=http%3A%2F%2Fa%2F%3Fb%3D1%26c&header=x%3A+1&header=y%3A%20%C3%BC&from");
        assert_eq!(query.text("url").as_deref(), Ok("http://a/?b=1&c"));
        assert_eq!(query.all("header").collect::<Vec<_>>(), ["x: 1", "y: ü"]);
        assert_eq!(query.text("from").as_deref(), Ok(""));
        assert_eq!(query.text("listener").as_deref(), Ok(""));
        assert_eq!(query.text("header"), Err(QueryError::Repeated("header".into())));
    }

    #[test]
    fn what_is_not_encoded_right_is_refused() {
        for text in ["a=%", "a=%2", "a=%zz", "a=%ff", "%+1=a"] {
            assert!(matches!(Query::parse(text), Err(QueryError::Encoding(_))), "{text}");
        }
    }

    #[test]
    fn a_number_is_one_or_is_refused() {
        assert_eq!(query("limit=7").number("limit"), Ok(Some(7_u32)));
        assert_eq!(query("").number::<u32>("limit"), Ok(None));
        for wrong in ["-1", "4294967296", "7.0", "x"] {
            let error = query(&format!("limit={wrong}")).number::<u32>("limit");
            assert!(error.expect_err("is no number").to_string().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_refused_with_those_that_are() {
        let error = query("limit=1&befor=3").only(&["limit", "before"]).expect_err("befor");
        assert_eq!(error.to_string(), "befor is not known here; valid are: limit, before");
    }
}
