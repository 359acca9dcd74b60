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

// === impl Block ===

impl Block {
    /// Commands, each with its answer.
    pub fn calls(&self) -> Vec<Call> {
        let text = self.text.strip_prefix("$ ").expect("a console block begins with a command");
        let calls = text.split("\n$ ").map(|call| {
            let (command, answer) = call.split_once('\n').unwrap_or((call, ""));
            // Only the last one has kept its newline.
            let end = if answer.is_empty() || answer.ends_with('\n') { "" } else { "\n" };
            Call { command: command.into(), answer: format!("{answer}{end}") }
        });
        calls.collect()
    }
}
