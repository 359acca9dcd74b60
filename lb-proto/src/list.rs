//! Lists of texts of which an empty one means something else than none at all.
//!
//! A repeated field cannot tell the two apart, and a message around it would be spelled
//! `{ values = [..] }` in TOML and JSON. protobuf's own `ListValue` is a plain list in both.

use prost_types::{ListValue, Value, value::Kind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The texts, or the position of the first item that is none.
///
/// # Errors
/// If an item is not a text: JSON may say numbers, or whole objects.
pub fn from_wire(wire: &ListValue) -> Result<Vec<&str>, usize> {
    let texts = wire.values.iter().enumerate().map(|(i, value)| match &value.kind {
        Some(Kind::StringValue(text)) => Ok(text.as_str()),
        _ => Err(i),
    });
    texts.collect()
}

pub fn to_wire<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> ListValue {
    let value = |text: T| Value { kind: Some(Kind::StringValue(text.into())) };
    ListValue { values: texts.into_iter().map(value).collect() }
}

/// For serde's `with`.
///
/// # Errors
/// If it is not a list of texts.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ListValue>, D::Error> {
    Ok(Some(to_wire(Vec::<String>::deserialize(deserializer)?)))
}

/// For serde's `with`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(
    list: &Option<ListValue>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match list.as_ref().map(from_wire) {
        Some(Ok(texts)) => texts.serialize(serializer),
        Some(Err(_)) | None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_is_no_text_is_found() {
        let mut list = to_wire(["a", "b", "c"]);
        assert_eq!(from_wire(&list), Ok(vec!["a", "b", "c"]));
        list.values[1].kind = Some(Kind::BoolValue(true));
        list.values[2].kind = None;
        assert_eq!(from_wire(&list), Err(1));
    }
}
