//! A table that fits: where there is not enough room, columns shrink to what they need at least,
//! and then the least important ones are left out.

use std::cmp::Ordering;

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::theme::{self, Theme, Tone};
use crate::output::display_width;

#[derive(Debug)]
pub struct Column {
    pub title: &'static str,
    /// In characters. Narrower than `min` it is of no use; wider than `max` it never gets.
    pub min: u16,
    pub max: u16,
    pub side: Side,
    /// Where there is not enough room the highest goes first; 0 stays, and from [`LUXURY`] on it is
    /// there only if nothing is cut for it.
    pub drop: u8,
    /// Only there if a row has something in it.
    pub optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

#[derive(Debug)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
    rank: Rank,
}

/// What a cell is sorted by.
#[derive(Debug)]
enum Rank {
    /// Its text, ascending.
    Text,
    /// Descending; what has no number comes last.
    Number(Option<f64>),
}

#[derive(Debug)]
pub struct Row {
    /// Stays the same while the figures change.
    pub key: String,
    /// As many as there are columns.
    pub cells: Vec<Cell>,
    /// All there is to say about it.
    pub detail: String,
}

#[derive(Debug)]
pub struct Grid {
    /// In the place of the first column's title.
    pub title: String,
    pub columns: Vec<&'static Column>,
    pub rows: Vec<Row>,
}

/// What depends on who looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub theme: Theme,
    pub focused: bool,
    /// Which row is selected.
    pub cursor: Option<usize>,
    /// By which column the rows are sorted, and whether the other way round.
    pub sort: Option<(usize, bool)>,
}

struct Placed {
    column: usize,
    x: u16,
    width: u16,
}

pub const LUXURY: u8 = 10;

/// As much of a name as other columns make room for, and as much of the room.
const NAME: u16 = 24;
const NAME_SHARE: u16 = 3;
const GAP: u16 = 1;
/// To the left of the first column: what is focused, what is selected.
const MARGIN: u16 = 1;
const CUT: &str = "…";

// === impl Column, Cell ===

impl Column {
    pub const fn text(title: &'static str, min: u16, max: u16) -> Self {
        Self { title, min, max, side: Side::Left, drop: 0, optional: false }
    }

    /// Always of the same width, lest everything to its right moves with each digit.
    pub const fn number(title: &'static str, width: u16) -> Self {
        Self { title, min: width, max: width, side: Side::Right, drop: 0, optional: false }
    }

    pub const fn drop(mut self, drop: u8) -> Self {
        self.drop = drop;
        self
    }

    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain, rank: Rank::Text }
    }

    /// Sorted by `number`, whatever the text.
    pub fn number(text: impl Into<String>, number: impl Into<Option<f64>>) -> Self {
        Self { rank: Rank::Number(number.into()), ..Self::text(text) }
    }

    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (&self.rank, &other.rank) {
            (Rank::Number(a), Rank::Number(b)) => {
                let [a, b] = [a, b].map(|n| n.unwrap_or(f64::NEG_INFINITY));
                b.total_cmp(&a)
            }
            _ => self.text.cmp(&other.text),
        }
    }
}

// === impl Grid ===

impl Grid {
    /// Equal ones stay as they are.
    pub fn sort(&mut self, column: usize, reversed: bool) {
        self.rows.sort_by(|a, b| {
            let order = a.cells[column].compare(&b.cells[column]);
            if reversed { order.reverse() } else { order }
        });
    }

    /// Keeps the rows that have this text in them, whatever its case.
    pub fn filter(&mut self, text: &str) {
        let text = text.to_lowercase();
        let has = |cell: &Cell| cell.text.to_lowercase().contains(&text);
        self.rows.retain(|row| row.cells.iter().any(has));
    }

    pub fn position(&self, key: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.key == key)
    }

    /// With its titles.
    pub fn height(&self) -> u16 {
        u16::try_from(self.rows.len()).unwrap_or(u16::MAX).saturating_add(1)
    }

    /// That shows all of it.
    pub fn width(&self) -> u16 {
        let last = self.fit(u16::MAX).pop();
        last.map_or(0, |placed| placed.x.saturating_add(placed.width))
    }

    /// Draws as many rows as there is room for, the selected one among them.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer, look: Look) {
        let area = area.intersection(buffer.area);
        if area.is_empty() {
            return;
        }
        let visible = usize::from(area.height) - 1;
        // The selected row stays in the middle, as far as there are rows around it.
        let first = look.cursor.unwrap_or(0).saturating_sub(visible / 2);
        let first = first.min(self.rows.len().saturating_sub(visible));
        let shown = first..(first + visible).min(self.rows.len());

        let placed = self.fit(area.width);
        let title = if shown.len() < self.rows.len() && !shown.is_empty() {
            format!("{} {}-{}/{}", self.title, shown.start + 1, shown.end, self.rows.len())
        } else {
            format!("{} {}", self.title, self.rows.len())
        };
        let bar = if look.focused { theme::BAR } else { theme::HEAD };
        buffer.set_style(Rect { height: 1, ..area }, bar);
        if look.focused {
            put(buffer, area, (0, 0), MARGIN, Side::Left, "▸", bar);
        }
        for Placed { column, x, width } in &placed {
            let text = if *column == 0 { title.as_str() } else { self.columns[*column].title };
            let mark = match look.sort {
                Some((sorted, reversed)) if sorted == *column => {
                    if reversed {
                        "▴"
                    } else {
                        "▾"
                    }
                }
                _ => "",
            };
            let side = self.columns[*column].side;
            put(buffer, area, (*x, 0), *width, side, &format!("{text}{mark}"), bar);
        }
        for (row, index) in (1u16..).zip(shown) {
            let cells = &self.rows[index].cells;
            for Placed { column, x, width } in &placed {
                let Cell { text, tone, .. } = &cells[*column];
                let style = look.theme.style(*tone);
                put(buffer, area, (*x, row), *width, self.columns[*column].side, text, style);
            }
            if look.cursor == Some(index) {
                put(buffer, area, (0, row), MARGIN, Side::Left, ">", Style::new());
                let line = Rect { y: area.y + row, height: 1, ..area };
                buffer.set_style(line, theme::SELECTED);
            }
        }
    }

    fn fit(&self, room: u16) -> Vec<Placed> {
        let mut shown: Vec<usize> = (0..self.columns.len())
            .filter(|i| !self.columns[*i].optional || self.any_text(*i))
            .collect();
        let total = |shown: &[usize], width: &dyn Fn(usize) -> u16| {
            shown.iter().fold(MARGIN, |sum, i| sum.saturating_add(width(*i) + GAP)) - GAP
        };
        // The first column says what a row is about: rather no weight than half a name.
        let least = |column: usize| match column {
            0 => self.ideal(0).min(room / NAME_SHARE).min(NAME).max(self.columns[0].min),
            _ => self.columns[column].min,
        };
        loop {
            let last = (0..shown.len()).max_by_key(|at| self.columns[shown[*at]].drop);
            let Some(last) = last.filter(|at| self.columns[shown[*at]].drop > 0) else { break };
            let luxury = self.columns[shown[last]].drop >= LUXURY;
            let fits = if luxury {
                total(&shown, &|column| self.ideal(column)) <= room
            } else {
                total(&shown, &least) <= room
            };
            if fits {
                break;
            }
            shown.remove(last);
        }
        let mut spare = room.saturating_sub(total(&shown, &least));
        let mut x = MARGIN;
        let place = |column: usize| {
            let min = least(column);
            let more = spare.min(self.ideal(column) - min);
            spare -= more;
            let placed = Placed { column, x, width: min + more };
            x += placed.width + GAP;
            placed
        };
        shown.into_iter().map(place).collect()
    }

    fn any_text(&self, column: usize) -> bool {
        self.rows.iter().any(|row| !row.cells[column].text.is_empty())
    }

    /// What would show all of the column's cells.
    fn ideal(&self, column: usize) -> u16 {
        let Column { title, min, max, .. } = self.columns[column];
        // The first title has a count or a range behind it, and others may have a mark.
        let title = if column == 0 { width(&self.title) + 6 } else { width(title) + 1 };
        let cells = self.rows.iter().map(|row| width(&row.cells[column].text));
        cells.max().unwrap_or(0).max(title).clamp(*min, *max)
    }
}

/// In columns of the terminal.
pub fn width(text: &str) -> u16 {
    u16::try_from(display_width(text)).unwrap_or(u16::MAX)
}

/// At `(x, y)` of `area`; says so if it has to cut. Control characters are left out.
fn put(
    buffer: &mut Buffer,
    area: Rect,
    (x, y): (u16, u16),
    room: u16,
    side: Side,
    text: &str,
    style: Style,
) {
    let room = room.min(area.width.saturating_sub(x));
    if room == 0 || y >= area.height {
        return;
    }
    let (x, y) = (area.x + x, area.y + y);
    let needed = width(text);
    if needed > room {
        buffer.set_stringn(x, y, text, usize::from(room) - 1, style);
        buffer.set_stringn(x + room - 1, y, CUT, 1, style);
    } else {
        let indent = if side == Side::Right { room - needed } else { 0 };
        buffer.set_stringn(x + indent, y, text, usize::from(room), style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NAME: Column = Column::text("NAME", 4, 12);
    static ZONE: Column = Column::text("ZONE", 4, 4).drop(2);
    static RATE: Column = Column::number("RATE", 5).drop(1);
    static NOTE: Column = Column::text("NOTE", 4, 40).optional();

    fn grid(rows: &[(&str, f64, &str)]) -> Grid {
        let row = |(name, rate, note): &(&str, f64, &str)| Row {
            key: (*name).into(),
            cells: vec![
                Cell::text(*name),
                Cell::text("z"),
                Cell::number(rate.to_string(), (*rate > 0.0).then_some(*rate)),
                Cell::text(*note),
            ],
            detail: String::new(),
        };
        Grid {
            title: "NAME".into(),
            columns: vec![&NAME, &ZONE, &RATE, &NOTE],
            rows: rows.iter().map(row).collect(),
        }
    }

    const LOOK: Look = Look { theme: Theme::PLAIN, focused: false, cursor: None, sort: None };

    fn drawn(grid: &Grid, width: u16, height: u16, look: Look) -> Vec<String> {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        grid.draw(area, &mut buffer, look);
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_least_important_columns_go_first_where_there_is_no_room() {
        let grid = grid(&[("first", 1.0, ""), ("second", 20.0, "")]);
        assert_eq!(grid.width(), 22);
        let wide =
            ["", " NAME 2     ZONE  RATE", " first      z        1", " second     z       20"];
        assert_eq!(drawn(&grid, 22, 3, LOOK), wide[1..]);
        let narrow = [" NAME 2  RATE", " first      1", " second    20"];
        assert_eq!(drawn(&grid, 13, 3, LOOK), narrow);
        assert_eq!(drawn(&grid, 6, 2, LOOK), [" NAME…", " first"]);
    }

    #[test]
    fn an_optional_column_is_there_when_it_has_something_to_say() {
        let grid = grid(&[("a", 1.0, "refused by its backend"), ("b", 1.0, "")]);
        assert_eq!(drawn(&grid, 40, 2, LOOK)[1], " a          z        1 refused by its b…");
    }

    #[test]
    fn a_luxury_is_there_only_if_nothing_is_cut_for_it() {
        static BUILD: Column = Column::text("BUILD", 6, 6).drop(LUXURY);
        let mut grid = grid(&[("a", 1.0, "refused by it")]);
        grid.columns.push(&BUILD);
        grid.rows[0].cells.push(Cell::text("0.1.0"));
        let whole = " a          z        1 refused by it";
        assert_eq!(drawn(&grid, 43, 2, LOOK)[1], format!("{whole} 0.1.0"));
        assert_eq!(drawn(&grid, 42, 2, LOOK)[1], whole);
    }

    #[test]
    fn numbers_sort_from_the_largest_and_what_is_absent_last() {
        let mut grid = grid(&[("a", 0.0, ""), ("b", 3.0, ""), ("c", 20.0, ""), ("d", 3.0, "")]);
        let order =
            |grid: &Grid| grid.rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>().concat();
        grid.sort(2, false);
        assert_eq!(order(&grid), "cbda");
        grid.sort(2, true);
        assert_eq!(order(&grid), "abdc");
        grid.sort(0, false);
        assert_eq!(order(&grid), "abcd");
    }

    #[test]
    fn the_selected_row_is_always_visible_and_the_title_says_which_rows_are() {
        let names: Vec<String> = (10..30).map(|i| format!("n{i}")).collect();
        let rows: Vec<_> = names.iter().map(|name| (name.as_str(), 1.0, "")).collect();
        let grid = grid(&rows);
        for (cursor, name) in names.iter().enumerate() {
            let lines = drawn(&grid, 30, 6, Look { cursor: Some(cursor), ..LOOK });
            let marked: Vec<_> = lines.iter().filter(|line| line.starts_with('>')).collect();
            assert!(matches!(&marked[..], [line] if line.contains(name)), "{lines:?}");
        }
        let look = Look { cursor: Some(10), focused: true, sort: Some((2, false)), ..LOOK };
        let lines = drawn(&grid, 30, 6, look);
        assert_eq!(lines[0], "▸NAME 9-13… ZONE RATE▾");
        assert_eq!(lines[3], ">n20        z        1");
    }

    #[test]
    fn what_others_sent_cannot_control_the_terminal() {
        let grid = grid(&[("a\u{1b}[2Jb", 1.0, "")]);
        assert_eq!(drawn(&grid, 13, 2, LOOK)[1], " a[2Jb      1");
    }

    #[test]
    fn no_size_is_too_small() {
        let grid = grid(&[("first", 1.0, "note"), ("二二二二二二二", 20.0, "")]);
        for width in 0..40 {
            for height in 0..4 {
                drawn(&grid, width, height, Look { cursor: Some(1), focused: true, ..LOOK });
            }
        }
    }
}
