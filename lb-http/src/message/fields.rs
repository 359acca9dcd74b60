//! A head's fields: where they are in its block of bytes.

use super::{ConnectionOptions, Name};

/// A part of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// One field: what it is to a proxy, and where its name and its value are. Values are without the
/// white space around them.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub known: Name,
    pub name: Span,
    pub value: Span,
    /// `Connection` says that it is for one connection only.
    pub is_nominated: bool,
}

/// A block of bytes and the table of its fields, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub(crate) block: Vec<u8>,
    pub(crate) table: Vec<Field>,
}

impl Span {
    /// Positions of a block fit, because blocks have limits far below 4 GiB.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let position = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: position(start), end: position(end) }
    }

    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// What is here in `outer`, in the block that `outer` is in.
    pub(crate) fn within(self, outer: Self) -> Self {
        Self { start: outer.start + self.start, end: outer.start + self.end }
    }

    pub fn of(self, block: &[u8]) -> &[u8] {
        block.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl Fields {
    /// Keeps the memory.
    pub fn clear(&mut self) {
        self.block.clear();
        self.table.clear();
    }

    /// How much memory it holds on to, in bytes.
    pub fn capacity(&self) -> usize {
        self.block.capacity() + self.table.capacity() * size_of::<Field>()
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.block)
    }

    /// A field's whole line, if that came with one space before the value and none behind it.
    pub(crate) fn plain_line(&self, field: &Field) -> Option<Span> {
        let end = Span { start: field.value.end, end: field.value.end + 2 };
        let before = Span { start: field.name.end, end: field.value.start };
        let is_plain = self.bytes(before) == b": " && self.bytes(end) == b"\r\n";
        is_plain.then_some(Span { start: field.name.start, end: end.end })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.table.iter()
    }

    /// Names and values as they came.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.table.iter().map(|field| (self.bytes(field.name), self.bytes(field.value)))
    }

    /// The first value of a known field.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// All values of a known field.
    pub fn all(&self, name: Name) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.table.iter().filter(move |field| field.known == name).map(|f| self.bytes(f.value))
    }

    /// All values of the fields with this name, in any case.
    pub fn named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |(given, _): &(&[u8], &[u8])| given.eq_ignore_ascii_case(name);
        self.pairs().filter(is_it).map(|(_, value)| value)
    }

    /// The elements of a field that is a list, over all its lines (RFC 9110, section 5.6.1).
    pub fn list(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let parts = self.all(name).flat_map(|value| value.split(|c| *c == b','));
        parts.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// What `Connection` names, so that it is for one connection only. For trailers, which come after
    /// the fields among which [`Field::is_nominated`] was marked.
    pub fn nominated(&self) -> Nominated<'_> {
        Nominated(self.list(Name::Connection).collect())
    }

    /// What `Connection` says; marks what it names. `None` if it has more than `most` elements, empty
    /// ones among them: each costs time.
    pub(crate) fn read_connection(&mut self, most: usize) -> Option<ConnectionOptions> {
        let mut options = ConnectionOptions::default();
        let mut count = 0;
        for i in 0..self.table.len() {
            if self.table[i].known != Name::Connection {
                continue;
            }
            let list = self.table[i].value.of(&self.block);
            let tokens = list.split(|c| *c == b',').map(<[u8]>::trim_ascii);
            for token in tokens {
                count += 1;
                if most < count {
                    return None;
                }
                match () {
                    () if token.eq_ignore_ascii_case(b"close") => options.close = true,
                    () if token.eq_ignore_ascii_case(b"keep-alive") => options.keep_alive = true,
                    () if token.eq_ignore_ascii_case(b"upgrade") => options.upgrade = true,
                    () => nominate(&self.block, &mut self.table, token),
                }
            }
        }
        Some(options)
    }
}

/// Names of fields that are for one connection only. Found once, because each of many trailers is
/// looked for among them.
#[derive(Debug, Default)]
pub struct Nominated<'a>(Vec<&'a [u8]>);

impl Nominated<'_> {
    pub fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|nominated| nominated.eq_ignore_ascii_case(name))
    }
}

/// What frames or routes a message, and what the proxy says itself, cannot be named away.
fn nominate(block: &[u8], table: &mut [Field], token: &[u8]) {
    for field in table {
        let is_ours =
            field.known.is_hop_by_hop() || field.known.is_forwarded() || field.known == Name::Via;
        if !is_ours && field.name.of(block).eq_ignore_ascii_case(token) {
            field.is_nominated = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        h1::{HeadParser, Limits},
        message::{Name, Request},
    };

    fn request(fields: &str) -> Request {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let limits = Limits { head: 1000, fields: 20, target: 100 };
        let mut request = Request::default();
        let read = request.read(&mut HeadParser::default(), head.as_bytes(), &limits);
        assert_eq!(read, Ok(Some(head.len())));
        request
    }

    #[test]
    fn fields_are_found_by_what_they_are_and_by_their_names() {
        let fields = request("Via: b\r\nX: 1\r\nvia: c\r\nx: 2\r\n").fields;
        assert_eq!(fields.get(Name::Via), Some(&b"b"[..]));
        assert_eq!(fields.get(Name::Cookie), None);
        assert_eq!(fields.all(Name::Via).collect::<Vec<_>>(), [b"b", b"c"]);
        assert_eq!(fields.named(b"X").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(fields.pairs().nth(3), Some((&b"via"[..], &b"c"[..])));
        assert_eq!((fields.len(), fields.is_empty()), (5, false));
        assert_eq!(fields.iter().filter(|field| field.known == Name::Other).count(), 2);
    }

    #[test]
    fn a_list_goes_over_all_lines() {
        let fields = request("TE: a, b ,,\r\nTE:\r\nTE: \tc;q=1\r\n").fields;
        assert_eq!(fields.list(Name::Te).collect::<Vec<_>>(), [&b"a"[..], b"b", b"c;q=1"]);
    }

    #[test]
    fn what_connection_names_is_marked_unless_it_is_ours() {
        let fields =
            "Connection: A, host, Forwarded, via\r\nA: 1\r\na: 2\r\nVia: b\r\nForwarded: c\r\n";
        let fields = request(fields).fields;
        let marked = fields.iter().filter(|field| field.is_nominated);
        let marked: Vec<_> = marked.map(|field| fields.bytes(field.value)).collect();
        assert_eq!(marked, [b"1", b"2"]);
        let nominated = fields.nominated();
        assert!(nominated.has(b"a") && nominated.has(b"VIA") && !nominated.has(b"b"));
    }

    #[test]
    fn the_memory_of_one_head_is_used_for_the_next() {
        let mut request = request("A: b\r\n");
        let capacity = request.fields.capacity();
        let (block, table) = (&request.fields.block, &request.fields.table);
        assert!(table.capacity() >= 2);
        assert_eq!(capacity, block.capacity() + table.capacity() * size_of::<super::Field>());
        request.clear();
        assert_eq!(request.fields.capacity(), capacity);
        assert!(request.fields.is_empty() && request.fields.block.is_empty());
        assert_eq!((request.target(), request.authority()), (&b""[..], &b""[..]));
    }
}
