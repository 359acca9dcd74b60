//! Exact keys and prefixes in one tree, so that a look-up reads the key once, and not further than
//! the longest of them reaches, however many there are.
//!
//! The tree is a radix tree: a node for each text where keys part or end, with only the text in
//! between on the way to it. A look-up goes down to the last node whose text the key begins with.
//! From there each node knows the next shorter prefix that takes all keys which come by. It
//! allocates nothing, and what the network sends is never hashed.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    num::NonZeroU32,
    ops::Range,
};

use super::key::Key;

/// Where a look-up goes is close together, and what is found there is apart: of many routes, none is in
/// the core's cache.
#[derive(Debug)]
pub struct Trie<V> {
    /// The first one is the root. Children of one node are neighbours.
    nodes: Vec<Node>,
    /// The first byte of each node's label, in a row to be searched.
    firsts: Vec<u8>,
    /// All labels.
    text: Vec<u8>,
    values: Vec<Values<V>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// What its text has more than its parent's.
    label: Span,
    /// Of its text.
    length: u32,
    /// In the order of their labels' first bytes, which differ.
    children: Span,
    /// Of its text.
    values: Option<Index>,
    /// The next shorter prefix that takes every key which begins with this node's text.
    shorter: Option<Index>,
}

/// Half of what a range takes.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// Of a node or a value: one more than its place.
type Index = NonZeroU32;

/// What is kept for one text.
#[derive(Debug)]
pub struct Values<V> {
    /// For the key that is this text.
    pub exact: Option<V>,
    /// For keys that begin with it.
    pub prefix: Option<V>,
}

/// Texts that begin with a node's, and have no nodes of their own yet.
struct Group {
    node: usize,
    texts: Range<usize>,
}

// === impl Trie ===

impl<V> Trie<V> {
    /// `takes` says whether a prefix of that length takes all keys that begin with a text, which is
    /// longer than the prefix.
    ///
    /// # Panics
    /// If all texts together have 4 GiB.
    pub fn new(values: BTreeMap<Vec<u8>, Values<V>>, takes: impl Fn(&[u8], usize) -> bool) -> Self {
        let (texts, mut values): (Vec<_>, Vec<_>) = values.into_iter().unzip();
        let (nodes, firsts) = (vec![Node::default()], vec![0]);
        let mut trie = Self { nodes, firsts, text: Vec::new(), values: Vec::new() };
        // Breadth first, so that siblings become neighbours.
        let mut groups = VecDeque::from([Group { node: 0, texts: 0..texts.len() }]);
        while let Some(Group { node: parent, texts: mut group }) = groups.pop_front() {
            let length = trie.nodes[parent].length as usize;
            // Of texts in order, the one that is the node's own comes first.
            if texts.get(group.start).is_some_and(|text| !group.is_empty() && text.len() == length)
            {
                trie.nodes[parent].values = Some(index(trie.values.len()));
                trie.values.push(mem::take(&mut values[group.start]));
                group.start += 1;
            }
            let first_child = trie.nodes.len();
            for alike in texts[group.clone()].chunk_by(|a, b| a[length] == b[length]) {
                let texts = group.start..group.start + alike.len();
                group.start = texts.end;
                groups.push_back(Group { node: trie.nodes.len(), texts });
                trie.push(parent, common(&alike[0], &alike[alike.len() - 1]), &takes);
            }
            trie.nodes[parent].children = Span::of(first_child..trie.nodes.len());
        }
        trie
    }

    /// Adds a node without children or values.
    fn push(&mut self, parent: usize, text: &[u8], takes: impl Fn(&[u8], usize) -> bool) {
        let Node { length, shorter, .. } = self.nodes[parent];
        let length = length as usize;
        let has_prefix = self.values_of(&self.nodes[parent]).is_some_and(|v| v.prefix.is_some());
        let shorter = if has_prefix && takes(text, length) { Some(index(parent)) } else { shorter };
        let label = &text[length..];
        let start = self.text.len();
        self.firsts.push(label[0]);
        self.text.extend_from_slice(label);
        let label = Span::of(start..self.text.len());
        self.nodes.push(Node { label, length: number(text.len()), shorter, ..Node::default() });
    }

    /// Visits what takes the key, the longest text first, until a visit returns something.
    pub fn visit<'a, T>(
        &'a self,
        key: &impl Key,
        mut visit: impl FnMut(&'a V) -> Option<T>,
    ) -> Option<T> {
        let mut node = self.deepest(key);
        if let Some(Values { exact, prefix }) = self.values_of(node) {
            let length = node.length as usize;
            let exact = exact.as_ref().filter(|_| length == key.len());
            let prefix = prefix.as_ref().filter(|_| key.is_taken_at(length));
            let found = exact.and_then(&mut visit).or_else(|| prefix.and_then(&mut visit));
            if found.is_some() {
                return found;
            }
        }
        while let Some(shorter) = node.shorter {
            count(1);
            node = &self.nodes[place(shorter)];
            let prefix = self.values_of(node).and_then(|values| values.prefix.as_ref());
            let found = prefix.and_then(&mut visit);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The last node whose text the key begins with.
    fn deepest(&self, key: &impl Key) -> &Node {
        let mut node = &self.nodes[0];
        while let Some(child) = self.child(node, key) {
            node = child;
        }
        node
    }

    fn child(&self, node: &Node, key: &impl Key) -> Option<&Node> {
        let (children, length) = (node.children.range(), node.length as usize);
        count(children.len().checked_ilog2().map_or(0, |halvings| halvings as usize + 1));
        let child = match children.len() {
            0 => return None,
            // Its label says all.
            1 => 0,
            _ => self.firsts[children.clone()].binary_search(&key.after(length)?).ok()?,
        };
        let child = &self.nodes[children.start + child];
        let label = &self.text[child.label.range()];
        count(label.len());
        key.goes_on_with(length, label).then_some(child)
    }

    fn values_of(&self, node: &Node) -> Option<&Values<V>> {
        node.values.map(|values| &self.values[place(values)])
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter().flat_map(|Values { exact, prefix }| exact.iter().chain(prefix))
    }
}

impl Span {
    fn of(range: Range<usize>) -> Self {
        Self { start: number(range.start), end: number(range.end) }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

fn number(number: usize) -> u32 {
    u32::try_from(number).expect("a table fits into memory many times")
}

fn index(place: usize) -> Index {
    NonZeroU32::MIN.saturating_add(number(place))
}

fn place(index: Index) -> usize {
    index.get() as usize - 1
}

/// What two texts begin with alike.
fn common<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let length = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    &a[..length]
}

impl<V> Default for Values<V> {
    fn default() -> Self {
        Self { exact: None, prefix: None }
    }
}

#[cfg(not(test))]
fn count(_: usize) {}

/// Counts what look-ups of a test do: bytes compared, halvings of children, prefixes visited.
#[cfg(test)]
fn count(steps: usize) {
    STEPS.set(STEPS.get() + steps);
}

#[cfg(test)]
thread_local! {
    pub static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
