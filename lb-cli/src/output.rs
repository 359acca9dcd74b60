//! What is printed, and how: for people on a terminal, as JSON for scripts.

use std::io::IsTerminal;

use clap::builder::FalseyValueParser;
use ratatui::{crossterm::terminal, text::Span};
use serde::Serialize;

/// How a command prints.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// Print JSON: one object, or one a line where answers go on
    #[arg(long, env = "LB_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,

    #[command(flatten)]
    pub colors: Colors,
}

#[derive(Debug, clap::Args)]
pub struct Colors {
    /// When to colour; auto is on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        env = "LB_COLOR",
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    color: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

/// What standard output is, for texts that people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// In columns, of a terminal.
    pub width: Option<usize>,
    pub color: bool,
}

/// By meaning, so that one thing has one colour everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Good,
    Bad,
    Warn,
    Dim,
    Bold,
}

/// Where a terminal does not say.
const USUAL_WIDTH: usize = 80;

/// # Errors
/// Never: all answers have a JSON form.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    crate::print(&format!("{text}\n"));
    Ok(())
}

/// As one line. Says whether somebody still reads.
///
/// # Errors
/// As [`json`].
pub fn json_line(value: &impl Serialize) -> anyhow::Result<bool> {
    Ok(crate::try_print(&format!("{}\n", serde_json::to_string(value)?)).is_ok())
}

/// Without anything that would move a terminal's cursor or change what it does.
pub fn one_line(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// In columns of a terminal.
pub fn display_width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Not wider than `width`.
pub fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if display_width(&short) + display_width(c.encode_utf8(&mut [0; 4])) + 1 > width {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

/// So many names are told one by one.
const MOST_NAMES: usize = 8;

/// The first of some names, and how many more there are.
pub fn some(names: &[String]) -> String {
    let (told, rest) = names.split_at(names.len().min(MOST_NAMES));
    let told = told.join(", ");
    if rest.is_empty() { told } else { format!("{told} and {} more", rest.len()) }
}

/// `3 backends`, `1 backend`
pub fn count(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

// === impl Colors ===

impl Colors {
    pub fn screen(&self) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        Screen { width: terminal.then(width), color: self.on(terminal) }
    }

    fn on(&self, terminal: bool) -> bool {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        match self.color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|t| t != "dumb")
            }
        }
    }
}

fn width() -> usize {
    match terminal::size() {
        Ok((columns, _)) if columns > 0 => usize::from(columns),
        _ => USUAL_WIDTH,
    }
}

// === impl Screen ===

impl Screen {
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => 32,
            Paint::Bad => 31,
            Paint::Warn => 33,
            Paint::Dim => 2,
            Paint::Bold => 1,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Breaks a text at spaces, where the terminal is too narrow for it; lines after the first are
    /// indented by `indent`. The first one is where `used` columns are taken already.
    pub fn wrap(&self, text: &str, used: usize, indent: usize) -> String {
        let text = one_line(text);
        let Some(width) = self.width else { return text };
        let mut wrapped = String::new();
        let (mut column, mut fresh) = (used, true);
        let next_line = format!("\n{}", " ".repeat(indent));
        for word in text.split(' ') {
            if !fresh && column + 1 + display_width(word) > width {
                wrapped.push_str(&next_line);
                (column, fresh) = (indent, true);
            }
            if !fresh {
                wrapped.push(' ');
                column += 1;
            }
            for c in word.chars() {
                let wide = display_width(c.encode_utf8(&mut [0; 4]));
                // A word that is longer than a line is broken anywhere.
                if column + wide > width && column > indent {
                    wrapped.push_str(&next_line);
                    column = indent;
                }
                wrapped.push(c);
                column += wide;
            }
            fresh = false;
        }
        wrapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_told() {
        let names: Vec<_> = (1..=10).map(|i| format!("p{i}")).collect();
        assert_eq!(some(&names[..2]), "p1, p2");
        assert_eq!(some(&names), "p1, p2, p3, p4, p5, p6, p7, p8 and 2 more");
    }

    #[test]
    fn a_text_is_broken_at_spaces_and_only_on_a_terminal() {
        let text = "connection refused by the backend";
        let narrow = Screen { width: Some(20), color: false };
        assert_eq!(narrow.wrap(text, 5, 2), "connection\n  refused by the\n  backend");
        assert_eq!(Screen { width: None, color: false }.wrap(text, 5, 2), text);
        let long = format!("a {} b", "x".repeat(40));
        let broken = [format!("a\n  {0}\n  {0}\n  ", "x".repeat(18)), "xxxx b".into()].concat();
        assert_eq!(narrow.wrap(&long, 0, 2), broken, "what has no spaces is broken too");
    }

    #[test]
    fn what_is_cut_is_as_wide_as_it_may_be() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("日本語", 4), "日…", "some characters take two columns");
    }
}
