//! How things look. Whatever a colour says, a word or a sign beside it says too.

use ratatui::style::{Color, Modifier, Style};

/// What something means to whoever looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// Of no interest now.
    Faint,
    #[default]
    Plain,
    Good,
    /// To be known.
    Warning,
    /// To be acted on.
    Bad,
}

/// With colours or without.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    colours: bool,
}

pub const BAR: Style = Style::new().add_modifier(Modifier::REVERSED).add_modifier(Modifier::BOLD);
pub const HEAD: Style =
    Style::new().add_modifier(Modifier::UNDERLINED).add_modifier(Modifier::BOLD);
pub const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
pub const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

// === impl Theme ===

impl Theme {
    pub const PLAIN: Self = Self { colours: false };

    pub fn new(colours: bool) -> Self {
        Self { colours }
    }

    pub fn style(self, tone: Tone) -> Style {
        let style = match tone {
            Tone::Plain | Tone::Good => Style::new(),
            Tone::Faint => Style::new().add_modifier(Modifier::DIM),
            Tone::Warning | Tone::Bad => STRONG,
        };
        let colour = match tone {
            Tone::Plain | Tone::Faint => None,
            Tone::Good => Some(Color::Green),
            Tone::Warning => Some(Color::Yellow),
            Tone::Bad => Some(Color::Red),
        };
        match colour.filter(|_| self.colours) {
            Some(colour) => style.fg(colour),
            None => style,
        }
    }

    /// Of what shows how something went over time.
    pub fn graph(self) -> Style {
        if self.colours { Style::new().fg(Color::Cyan) } else { Style::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_there_is_none_and_what_is_not_one_stays() {
        let coloured = |theme: Theme| {
            let tones = [Tone::Faint, Tone::Plain, Tone::Good, Tone::Warning, Tone::Bad];
            tones.iter().any(|tone| theme.style(*tone).fg.is_some()) || theme.graph().fg.is_some()
        };
        assert!(coloured(Theme::new(true)));
        assert!(!coloured(Theme::new(false)));
        let bad = Theme::new(false).style(Tone::Bad);
        assert!(bad.add_modifier.contains(Modifier::BOLD));
    }
}
