//! The TOML spelling of a spec, with the line of everything that is wrong.
//!
//! A file is the whole desired state, unless it says `partial = true`: then it is some parts of it,
//! and means nothing for the others. Only [`Document`] knows partial files; whoever takes a file for
//! the whole state reads it with [`parse()`], which refuses them.
//!
//! # Invariants
//!
//! - `parse(to_toml(x)) == x` for every valid spec: what is not given is not spelled out, and what
//!   is given stays, even where it is a default.

use std::fmt;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::{
    error::{Problem, Problems},
    parse, v1,
};

mod write;

pub use write::to_toml;

/// A file that may be about some parts only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    pub spec: v1::Spec,
    /// What is not in the spec is not meant.
    pub partial: bool,
}

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in bytes.
    pub column: usize,
    /// Empty where the text is no TOML.
    pub field: String,
    pub message: String,
}

/// Everything that is wrong in a file; never empty where it is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileErrors(pub Vec<FileError>);

/// As it stands in a file; serde knows no unknown fields together with flattened ones.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    listeners: Vec<v1::Listener>,
    routes: Vec<v1::Route>,
    backend_sets: Vec<v1::BackendSet>,
    certificates: Vec<v1::Certificate>,
    partial: bool,
}

/// Reads a spec and looks at all of it.
///
/// # Errors
/// Everything that is wrong, or the first thing that is no TOML or no known field.
pub fn parse(text: &str) -> Result<v1::Spec, FileErrors> {
    let spec: v1::Spec = read(text)?;
    match parse::desired_state(&spec) {
        Ok(_) => Ok(spec),
        Err(problems) => Err(locate(text, problems)),
    }
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, FileErrors> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let message = error.message().trim_end().replace('\n', "; ");
        FileErrors(vec![at_offset(text, offset, String::new(), message)])
    })
}

/// Finds the places of problems that are told by their fields.
pub fn locate(text: &str, problems: Problems) -> FileErrors {
    let root = DeTable::parse(text).ok();
    let mut errors: Vec<_> = problems
        .0
        .into_iter()
        .map(|Problem { field, message }| {
            let offset = root.as_ref().map_or(0, |root| offset_of(root.get_ref(), &field));
            at_offset(text, offset, field, message)
        })
        .collect();
    errors.sort_by_key(|error| (error.line, error.column));
    FileErrors(errors)
}

/// Where the field stands, or the innermost part of its path that does stand somewhere.
fn offset_of(root: &DeTable<'_>, field: &str) -> usize {
    let mut offset = 0;
    let mut table = Some(root);
    let mut rest = field;
    while let (Some(here), false) = (table, rest.is_empty()) {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (key, tail) = rest.split_at(end);
        let Some((found, value)) = here.get_key_value(key) else { break };
        offset = found.span().start;
        (table, rest) = match (value.get_ref(), element(tail)) {
            (DeValue::Table(inner), _) => (Some(inner), tail),
            (DeValue::Array(items), Some((name, tail))) => {
                let position = items.iter().position(|item| is_called(item.get_ref(), name));
                let item = position.or_else(|| name.parse().ok()).and_then(|i| items.get(i));
                offset = item.map_or(offset, |item| item.span().start);
                (item.and_then(|item| item.get_ref().as_table()), tail)
            }
            _ => (None, tail),
        };
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    offset
}

/// `[name]rest` as `(name, rest)`; a name may have brackets itself, as IPv6 addresses do.
fn element(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('[')?;
    let mut depth = 1;
    let end = inner.find(|c| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        depth == 0
    })?;
    Some((&inner[..end], &inner[end + 1..]))
}

fn is_called(item: &DeValue<'_>, name: &str) -> bool {
    let field = |key| item.as_table().and_then(|table| table.get(key)?.get_ref().as_str());
    field("name").or_else(|| field("address")) == Some(name)
}

fn at_offset(text: &str, offset: usize, field: String, message: String) -> FileError {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    FileError { line, column, field, message }
}

// === impl Document ===

impl Document {
    /// Reads a file that may be about some parts only: it says so itself, or `partial` does. The
    /// references of parts may lead to what is not in the file.
    ///
    /// # Errors
    /// As [`parse()`].
    pub fn parse(text: &str, partial: bool) -> Result<Self, FileErrors> {
        let Fields { listeners, routes, backend_sets, certificates, partial: says_partial } =
            read(text)?;
        let spec = v1::Spec { listeners, routes, backend_sets, certificates };
        let partial = partial || says_partial;
        let mut problems = Problems::default();
        let state = parse::spec_parts(&spec, &mut problems);
        if !partial && problems.0.is_empty() {
            parse::check(&state, &mut problems);
        }
        problems.or(Self { spec, partial }).map_err(|problems| locate(text, problems))
    }

    /// What [`Document::parse`] reads back.
    pub fn to_toml(&self) -> String {
        let partial = if self.partial { "partial = true\n\n" } else { "" };
        format!("{partial}{}", to_toml(&self.spec))
    }
}

// === impl FileErrors ===

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, field, message } = self;
        write!(f, "line {line}, column {column}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)
    }
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let errors = parse(text).expect_err("the file is wrong");
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn an_unknown_field_is_found_with_its_line() {
        let text = "[[listeners]]\nname = \"web\"\naddres = \"x\"\n";
        let errors = parse(text).expect_err("the file is wrong");
        assert_eq!((errors.0[0].line, errors.0[0].column), (3, 1));
        assert!(errors.0[0].message.contains("unknown field `addres`"), "{errors}");
        assert!(errors.0[0].message.contains("`address`"), "says what is valid: {errors}");
    }

    #[test]
    fn a_wrong_value_is_found_in_its_element() {
        check(
            "[[backend_sets]]\nname = \"app\"\nbackends = [\n  { address = \"[::1]:1\" },\n  \
             { address = \"[::1]:2\", weight = 70000 },\n]\n",
            "line 5, column 26: backend_sets[app].backends[[::1]:2].weight: 70000 is not valid; \
             give 0 to 65535",
        );
    }

    #[test]
    fn a_missing_value_is_found_at_what_lacks_it() {
        check(
            "[[routes]]\nname = \"a\"\nanswer = { status = 200 }\n\n[[routes]]\nname = \"b\"\n",
            "line 5, column 1: routes[b]: needs exactly one of backend_set, forward, redirect, \
             answer",
        );
    }

    #[test]
    fn all_of_the_problems_are_told_in_the_order_of_the_file() {
        check(
            "[[routes]]\nname = \"a\"\nbackend_set = \"app\"\ntimeout = \"0s\"\n\
             [[backend_sets]]\nname = \"app\"\nbalance = \"fair\"\n",
            "line 4, column 1: routes[a].timeout: \"0s\" is not valid; give something between \
             1ms and 24h\nline 7, column 1: backend_sets[app].balance: \"fair\" is not known; \
             valid are round_robin, least_connections, consistent_hash, random",
        );
    }

    #[test]
    fn a_reference_that_leads_nowhere_names_what_there_is() {
        check(
            "[[routes]]\nname = \"a\"\nbackend_set = \"app\"\n[[backend_sets]]\nname = \"api\"\n",
            "line 3, column 1: routes[a].backend_set: no backend set is called \"app\"; there are \
             api",
        );
    }

    #[test]
    fn a_part_may_refer_to_what_is_elsewhere_and_is_never_taken_for_the_whole() {
        let text = "partial = true\n[[routes]]\nname = \"a\"\nbackend_set = \"app\"\n";
        let document = Document::parse(text, false).expect("it is right");
        assert!(document.partial);
        assert_eq!(document.spec.routes[0].backend_set, "app");
        assert_eq!(Document::parse(&document.to_toml(), false), Ok(document.clone()));
        let error = parse(text).expect_err("it is not the whole").to_string();
        assert!(error.starts_with("line 1, column 1: unknown field `partial`"), "{error}");

        let whole = text.replace("true", "false");
        let error = Document::parse(&whole, false).expect_err("app is nowhere").to_string();
        assert!(error.contains("no backend set is called \"app\""), "{error}");
        assert_eq!(Document::parse(&whole, true), Ok(document));
    }

    #[test]
    fn the_parts_of_a_partial_file_are_looked_at() {
        let text = "partial = true\n[[routes]]\nname = \"a\"\n";
        let error = Document::parse(text, false).expect_err("it does nothing").to_string();
        assert!(error.starts_with("line 2, column 1: routes[a]: needs exactly one of"), "{error}");
    }
}
