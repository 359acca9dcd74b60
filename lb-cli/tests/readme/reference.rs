//! Whether a file shows every field of a spec.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use toml::{Table, Value};

/// `Message.field`
type Field = String;

pub struct Messages(Vec<DescriptorProto>);

impl Messages {
    pub fn of_lb() -> Self {
        let set = FileDescriptorSet::decode(lb_proto::DESCRIPTORS).expect("it was just encoded");
        let lb = set.file.into_iter().filter(|file| file.package() == "lb.v1");
        Self(lb.flat_map(|file| file.message_type).collect())
    }

    fn get(&self, name: &str) -> Option<&DescriptorProto> {
        let name = name.strip_prefix(".lb.v1.")?;
        self.0.iter().find(|message| message.name() == name)
    }

    /// All that a message has, and what is in it.
    pub fn fields(&self, name: &str) -> BTreeSet<Field> {
        let message = self.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let mut fields = BTreeSet::new();
        for field in &message.field {
            fields.insert(format!("{}.{}", message.name(), field.name()));
            // Not durations, which are texts, nor maps, which are not described at the top.
            if self.get(field.type_name()).is_some() {
                fields.extend(self.fields(field.type_name()));
            }
        }
        fields
    }

    /// Those that a table shows.
    pub fn shown(&self, name: &str, table: &Table) -> BTreeSet<Field> {
        let message = self.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let mut shown = BTreeSet::new();
        for (key, value) in table {
            let field = message.field.iter().find(|field| field.name() == key);
            let field = field.unwrap_or_else(|| panic!("{name} has no {key}"));
            shown.insert(format!("{}.{key}", message.name()));
            let inner = field.type_name();
            if field.r#type() != Type::Message || self.get(inner).is_none() {
                continue;
            }
            match (field.label(), value) {
                (Label::Repeated, Value::Array(items)) => {
                    let tables = items.iter().filter_map(Value::as_table);
                    shown.extend(tables.flat_map(|table| self.shown(inner, table)));
                }
                (_, Value::Table(table)) => shown.extend(self.shown(inner, table)),
                _ => panic!("{name}.{key} is neither a table nor a list of them"),
            }
        }
        shown
    }
}
