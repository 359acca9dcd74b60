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
    ops::Range,
};

use super::key::Key;

#[derive(Debug)]
pub struct Trie<V> {
    /// The first one is the root. Children of one node are neighbours.
    nodes: Vec<Node<V>>,
    /// The first byte of each node's label, in a row to be searched.
    firsts: Vec<u8>,
    /// All labels.
    text: Vec<u8>,
}

#[derive(Debug)]
struct Node<V> {
    /// What its text has more than its parent's.
    label: Range<usize>,
    /// Of its text.
    length: usize,
    /// In the order of their labels' first bytes, which differ.
    children: Range<usize>,
    values: Values<V>,
    /// The next shorter prefix that takes every key which begins with this node's text.
    shorter: Option<usize>,
}

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
    pub fn new(values: BTreeMap<Vec<u8>, Values<V>>, takes: impl Fn(&[u8], usize) -> bool) -> Self {
        let (texts, mut values): (Vec<_>, Vec<_>) = values.into_iter().unzip();
        let mut trie = Self { nodes: vec![Node::default()], firsts: vec![0], text: Vec::new() };
        // Breadth first, so that siblings become neighbours.
        let mut groups = VecDeque::from([Group { node: 0, texts: 0..texts.len() }]);
        while let Some(Group { node: parent, texts: mut group }) = groups.pop_front() {
            let length = trie.nodes[parent].length;
            // Of texts in order, the one that is the node's own comes first.
            if texts.get(group.start).is_some_and(|text| !group.is_empty() && text.len() == length)
            {
                trie.nodes[parent].values = mem::take(&mut values[group.start]);
                group.start += 1;
            }
            let first_child = trie.nodes.len();
            for alike in texts[group.clone()].chunk_by(|a, b| a[length] == b[length]) {
                let texts = group.start..group.start + alike.len();
                group.start = texts.end;
                groups.push_back(Group { node: trie.nodes.len(), texts });
                trie.push(parent, common(&alike[0], &alike[alike.len() - 1]), &takes);
            }
            trie.nodes[parent].children = first_child..trie.nodes.len();
        }
        trie
    }

    /// Adds a node without children or values.
    fn push(&mut self, parent: usize, text: &[u8], takes: impl Fn(&[u8], usize) -> bool) {
        let Node { length, values, shorter, .. } = &self.nodes[parent];
        let parent_takes = values.prefix.is_some() && takes(text, *length);
        let shorter = if parent_takes { Some(parent) } else { *shorter };
        let label = &text[*length..];
        let start = self.text.len();
        self.firsts.push(label[0]);
        self.text.extend_from_slice(label);
        let label = start..self.text.len();
        self.nodes.push(Node { label, length: text.len(), shorter, ..Node::default() });
    }

    /// Visits what takes the key, the longest text first, until a visit returns something.
    pub fn visit<'a, T>(
        &'a self,
        key: &impl Key,
        mut visit: impl FnMut(&'a V) -> Option<T>,
    ) -> Option<T> {
        let mut node = self.deepest(key);
        let Values { exact, prefix } = &node.values;
        let exact = exact.as_ref().filter(|_| node.length == key.len());
        let prefix = prefix.as_ref().filter(|_| key.is_taken_at(node.length));
        let found = exact.and_then(&mut visit).or_else(|| prefix.and_then(&mut visit));
        if found.is_some() {
            return found;
        }
        while let Some(shorter) = node.shorter {
            count(1);
            node = &self.nodes[shorter];
            let found = node.values.prefix.as_ref().and_then(&mut visit);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The last node whose text the key begins with.
    fn deepest(&self, key: &impl Key) -> &Node<V> {
        let mut node = &self.nodes[0];
        while let Some(child) = self.child(node, key) {
            node = child;
        }
        node
    }

    fn child(&self, node: &Node<V>, key: &impl Key) -> Option<&Node<V>> {
        let siblings = &self.firsts[node.children.clone()];
        count(siblings.len().checked_ilog2().map_or(0, |halvings| halvings as usize + 1));
        if siblings.is_empty() {
            return None;
        }
        let child = siblings.binary_search(&key.after(node.length)?).ok()?;
        let child = &self.nodes[node.children.start + child];
        count(child.label.len());
        let label = &self.text[child.label.clone()];
        key.goes_on_with(node.length, label).then_some(child)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.nodes
            .iter()
            .flat_map(|Node { values: Values { exact, prefix }, .. }| exact.iter().chain(prefix))
    }
}

/// What two texts begin with alike.
fn common<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let length = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    &a[..length]
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { label: 0..0, length: 0, children: 0..0, values: Values::default(), shorter: None }
    }
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
