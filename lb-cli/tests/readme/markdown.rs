//! The parts of a Markdown file that can be run.

use std::ops::Range;

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub language: String,
    pub text: String,
    /// Where its text is.
    pub range: Range<usize>,
}

/// What a `console` block shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub command: String,
    pub answer: String,
}

pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    let mut offset = 0;
    for line in markdown.split_inclusive('\n') {
        let next = offset + line.len();
        if let Some(language) = line.trim_end().strip_prefix("```") {
            open = match open {
                None => Some((language, next)),
                Some((language, start)) => {
                    let (language, text) = (language.into(), markdown[start..offset].into());
                    blocks.push(Block { language, text, range: start..offset });
                    None
                }
            };
        }
        offset = next;
    }
    assert_eq!(open, None, "a fence is not closed");
    blocks
}

pub fn blocks_of(markdown: &str, language: &str) -> Vec<Block> {
    blocks(markdown).into_iter().filter(|block| block.language == language).collect()
}

/// From a heading to the next one of its level.
pub fn section<'a>(markdown: &'a str, heading: &str) -> &'a str {
    let start = markdown.find(&format!("\n{heading}\n")).expect("the heading is there") + 1;
    let level = heading.split(' ').next().expect("a heading has a level");
    let body = &markdown[start + heading.len()..];
    let end = body.find(&format!("\n{level} ")).unwrap_or(body.len());
    &body[..end]
}

// === impl Block ===

impl Block {
    /// One command and its answer.
    pub fn call(&self) -> Call {
        let (command, answer) = self.text.split_once('\n').unwrap_or((&self.text, ""));
        let command = command.strip_prefix("$ ").expect("a console block begins with a command");
        Call { command: command.into(), answer: answer.into() }
    }
}
