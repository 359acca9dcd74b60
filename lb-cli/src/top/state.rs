//! What `lb top` knows and what its user wants to see. Pure: events in, frames out of [`draw`].
//!
//! [`draw`]: super::draw

use std::{mem, time::Duration};

use lb_proto::v1;
use ratatui::crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    figures::{Figures, Poll},
    grid::Grid,
    panes::Pane,
};

#[derive(Debug)]
pub enum Event {
    /// From whoever looks at it.
    Terminal(Terminal),
    /// To this controller.
    Connected(String),
    Polled(Box<Poll>),
    /// The controller did not answer, because of this.
    Away(String),
    /// What happened before anybody watched, newest first.
    History(Vec<v1::Revision>),
    Happened(v1::Event),
}

/// What comes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    Quit,
}

/// Times are since the Unix epoch.
#[derive(Debug)]
pub struct State {
    /// Where the controller is.
    pub controller: String,
    live: Figures,
    /// What was there when the user said to pause, and when that was.
    frozen: Option<(Figures, Duration)>,
    pub away: Option<Away>,
    pub focus: Pane,
    views: [View; Pane::ALL.len()],
    pub filter: String,
    pub mode: Mode,
    /// The focused pane has all of the screen.
    pub zoomed: bool,
}

/// The controller does not answer.
#[derive(Clone, Debug)]
pub struct Away {
    pub since: Duration,
    pub why: String,
}

/// What keys are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Panes,
    /// They write the filter.
    Filter,
    /// They end the help.
    Help,
}

/// How one pane is looked at.
#[derive(Clone, Debug)]
struct View {
    /// A column, and whether the other way round.
    sort: Option<(usize, bool)>,
    /// The key of a row, which may be gone.
    selected: Option<String>,
}

/// Rows.
const PAGE: isize = 10;
/// Characters.
const LONGEST_FILTER: usize = 64;

// === impl State ===

impl State {
    pub fn new(controller: String) -> Self {
        let view = |pane: Pane| View {
            sort: pane.default_sort().map(|column| (column, false)),
            selected: None,
        };
        Self {
            controller,
            live: Figures::default(),
            frozen: None,
            away: None,
            focus: Pane::Proxies,
            views: Pane::ALL.map(view),
            filter: String::new(),
            mode: Mode::Panes,
            zoomed: false,
        }
    }

    pub fn update(&mut self, event: Event, now: Duration) -> Flow {
        match event {
            Event::Terminal(Terminal::Key(key)) if key.kind != KeyEventKind::Release => {
                return self.key(key, now);
            }
            // Whatever else it is, there is a new frame after it, in the size that it then has.
            Event::Terminal(_) => {}
            Event::Connected(controller) => self.controller = controller,
            Event::Polled(poll) => {
                self.away = None;
                self.live.polled(*poll);
            }
            Event::Away(why) => {
                let since = self.away.as_ref().map_or(now, |away| away.since);
                self.away = Some(Away { since, why });
                self.live.missed();
            }
            Event::History(revisions) => self.live.revisions(revisions),
            Event::Happened(event) => self.live.happened(event),
        }
        Flow::Continue
    }

    /// What is to be shown.
    pub fn figures(&self) -> &Figures {
        self.frozen.as_ref().map_or(&self.live, |(figures, _)| figures)
    }

    /// Since when the same is shown, because the user wants so.
    pub fn paused(&self) -> Option<Duration> {
        self.frozen.as_ref().map(|(_, since)| *since)
    }

    /// A pane's rows as they are to be shown.
    pub fn grid(&self, pane: Pane, now: Duration) -> Grid {
        // While it stands still, so do the ages in it.
        let mut grid = pane.grid(self.figures(), self.paused().unwrap_or(now));
        if !self.filter.is_empty() {
            grid.filter(&self.filter);
        }
        if let Some((column, reversed)) = self.sort(pane) {
            // Equal rows by their names.
            grid.sort(0, false);
            grid.sort(column, reversed);
        }
        grid
    }

    pub fn sort(&self, pane: Pane) -> Option<(usize, bool)> {
        self.views[pane as usize].sort
    }

    /// Which row of a pane's grid is selected.
    pub fn cursor(&self, pane: Pane, grid: &Grid) -> Option<usize> {
        let selected = self.views[pane as usize].selected.as_deref().filter(|_| pane == self.focus);
        selected.and_then(|key| grid.position(key))
    }

    fn key(&mut self, key: KeyEvent, now: Duration) -> Flow {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Flow::Quit;
        }
        match self.mode {
            // Any key; it is not for anything else at the same time.
            Mode::Help => self.mode = Mode::Panes,
            Mode::Filter => self.filter_key(key.code, control),
            Mode::Panes => return self.pane_key(key.code, now),
        }
        Flow::Continue
    }

    fn filter_key(&mut self, code: KeyCode, control: bool) {
        match code {
            KeyCode::Enter => self.mode = Mode::Panes,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Panes;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char('u') if control => self.filter.clear(),
            KeyCode::Char(c) if !control && self.filter.chars().count() < LONGEST_FILTER => {
                self.filter.push(c);
            }
            _ => {}
        }
    }

    fn pane_key(&mut self, code: KeyCode, now: Duration) -> Flow {
        match code {
            KeyCode::Char('q') => return Flow::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Flow::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab => self.focus_next(1),
            KeyCode::BackTab => self.focus_next(Pane::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                self.focus = Pane::ALL[digit as usize - '1' as usize];
            }
            KeyCode::Down | KeyCode::Char('j') => self.select(1, now),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1, now),
            KeyCode::PageDown | KeyCode::Char(' ') => self.select(PAGE, now),
            KeyCode::PageUp | KeyCode::Char('b') => self.select(-PAGE, now),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN, now),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX, now),
            KeyCode::Char('s') => self.sort_next(1, now),
            KeyCode::Char('S') => self.sort_next(-1, now),
            KeyCode::Char('r') => {
                if let Some((_, reversed)) = &mut self.views[self.focus as usize].sort {
                    *reversed = !*reversed;
                }
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('p') => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some((self.live.clone(), now)),
                };
            }
            KeyCode::Char('z') | KeyCode::Enter => self.zoomed = !self.zoomed,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            _ => {}
        }
        Flow::Continue
    }

    fn focus_next(&mut self, by: usize) {
        self.focus = Pane::ALL[(self.focus as usize + by) % Pane::ALL.len()];
    }

    /// So many rows further, as far as there are rows.
    fn select(&mut self, by: isize, now: Duration) {
        let mut grid = self.grid(self.focus, now);
        let Some(last) = grid.rows.len().checked_sub(1) else { return };
        let to = match self.cursor(self.focus, &grid) {
            Some(at) => at.saturating_add_signed(by).min(last),
            None if by == isize::MAX => last,
            // The first key shows where one is.
            None => 0,
        };
        let key = mem::take(&mut grid.rows[to].key);
        self.views[self.focus as usize].selected = Some(key);
    }

    /// By another column, of those that there are.
    fn sort_next(&mut self, by: isize, now: Duration) {
        let columns = self.focus.grid(self.figures(), now).columns.len();
        if let Some(sort) = &mut self.views[self.focus as usize].sort {
            let next = (sort.0 as isize + by).rem_euclid(columns as isize);
            *sort = (next.unsigned_abs(), false);
        }
    }
}
