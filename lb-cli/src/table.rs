//! Tables for people: aligned, coloured, and cut to the terminal's width.
//!
//! What is printed to a pipe or a file has its full width and no colours, so that nothing is lost
//! to `grep`. A column without any text is left out.

use crate::output::{Paint, Screen, cut, display_width, one_line};

pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

pub struct Column {
    title: &'static str,
    right: bool,
    wrap: bool,
    keep: Keep,
}

/// What becomes of a column where there is too little room for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Whole,
    /// May be cut, to not less than so many characters.
    Cut(usize),
    /// Left out, those with the highest number first, before any column is cut.
    Until(u8),
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    paint: Option<Paint>,
}

const GAP: usize = 2;

// === impl Column ===

impl Column {
    pub fn left(title: &'static str) -> Self {
        Self { title, right: false, wrap: false, keep: Keep::Whole }
    }

    /// For numbers.
    pub fn right(title: &'static str) -> Self {
        Self { title, right: true, wrap: false, keep: Keep::Whole }
    }

    /// May be cut, to not less than `least` characters.
    pub fn cut_to(mut self, least: usize) -> Self {
        self.keep = Keep::Cut(least);
        self
    }

    /// Goes on in the next line rather than to be cut, from `least` characters on. For the last
    /// column.
    pub fn wrapped_at(mut self, least: usize) -> Self {
        self.wrap = true;
        self.cut_to(least)
    }

    /// Left out where there is no room; the highest number goes first.
    pub fn dropped(mut self, order: u8) -> Self {
        self.keep = Keep::Until(order);
        self
    }
}

// === impl Cell ===

impl Cell {
    pub fn new(text: impl Into<String>) -> Self {
        // What comes from elsewhere must not move the cursor.
        Self { text: one_line(&text.into()), paint: None }
    }

    pub fn painted(text: impl Into<String>, paint: Paint) -> Self {
        Self { paint: Some(paint), ..Self::new(text) }
    }

    fn width(&self) -> usize {
        display_width(&self.text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

// === impl Table ===

impl Table {
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// One cell a column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    pub fn render(&self, screen: &Screen) -> String {
        let shown = self.widths(screen.width);
        let mut text = String::new();
        let titles: Vec<_> =
            self.columns.iter().map(|c| Cell::painted(c.title, Paint::Dim)).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            text.push_str(&self.line(row, &shown, screen));
            text.push('\n');
        }
        text
    }

    fn line(&self, row: &[Cell], shown: &[(usize, usize)], screen: &Screen) -> String {
        let mut line = String::new();
        // Spaces that nothing follows are not written.
        let mut spaces = 0;
        let mut start = 0;
        for &(i, width) in shown {
            let (Some(cell), Some(column)) = (row.get(i), self.columns.get(i)) else { continue };
            let text = if column.wrap {
                let narrow = Screen { width: Some(start + width), ..*screen };
                narrow.wrap(&cell.text, start, start)
            } else {
                cut(&cell.text, width)
            };
            let fill = width.saturating_sub(display_width(&text));
            if column.right {
                spaces += fill;
            }
            if !text.is_empty() {
                line.push_str(&" ".repeat(spaces));
                spaces = 0;
                match cell.paint {
                    Some(paint) => line.push_str(&screen.paint(paint, &text)),
                    None => line.push_str(&text),
                }
            }
            if !column.right {
                spaces += fill;
            }
            spaces += GAP;
            start += width + GAP;
        }
        line
    }

    /// Which columns are shown, each with its width.
    fn widths(&self, room: Option<usize>) -> Vec<(usize, usize)> {
        let widest =
            |i: usize| self.rows.iter().filter_map(|row| row.get(i)).map(Cell::width).max();
        let mut shown: Vec<(usize, usize)> = (0..self.columns.len())
            .filter_map(|i| {
                let widest = widest(i).filter(|widest| *widest > 0)?;
                Some((i, widest.max(display_width(self.columns[i].title))))
            })
            .collect();
        let Some(room) = room else { return shown };
        let keep = |i: usize| self.columns[i].keep;
        let total = |shown: &[(usize, usize)]| {
            let widths: usize = shown.iter().map(|(_, width)| width).sum();
            widths + GAP * shown.len().saturating_sub(1)
        };
        // As if all that can be cut were cut already: a column is worth more than a long text.
        let least = |shown: &[(usize, usize)]| {
            let spare = shown.iter().map(|&(i, width)| match keep(i) {
                Keep::Cut(least) => width.saturating_sub(least),
                Keep::Whole | Keep::Until(_) => 0,
            });
            total(shown) - spare.sum::<usize>()
        };
        while least(&shown) > room {
            let order = |&(i, _): &(usize, usize)| match keep(i) {
                Keep::Until(order) => Some(order),
                Keep::Whole | Keep::Cut(_) => None,
            };
            let Some(last) = shown.iter().filter_map(order).max() else { break };
            shown.retain(|column| order(column) != Some(last));
        }
        let mut excess = total(&shown).saturating_sub(room);
        for (i, width) in shown.iter_mut().rev() {
            if let Keep::Cut(least) = keep(*i) {
                let less = excess.min(width.saturating_sub(least));
                *width -= less;
                excess -= less;
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::left("NAME"),
            Column::left("ZONE"),
            Column::right("N").dropped(1),
            Column::left("WHY").cut_to(6),
        ]);
        table.row(vec!["one".into(), "".into(), "5".into(), "connection refused".into()]);
        table.row(vec![
            "second".into(),
            "".into(),
            "1000".into(),
            Cell::painted("ok", Paint::Good),
        ]);
        table
    }

    #[track_caller]
    fn check(width: Option<usize>, color: bool, expected: &str) {
        assert_eq!(table().render(&Screen { width, color }), expected);
    }

    #[test]
    fn a_pipe_gets_all_of_it() {
        check(
            None,
            false,
            "NAME       N  WHY\n\
             one        5  connection refused\n\
             second  1000  ok\n",
        );
    }

    #[test]
    fn what_can_be_cut_is_cut_to_the_width() {
        check(
            Some(24),
            false,
            "NAME       N  WHY\n\
             one        5  connectio…\n\
             second  1000  ok\n",
        );
    }

    #[test]
    fn where_cutting_is_not_enough_columns_are_left_out() {
        check(
            Some(18),
            false,
            "NAME    WHY\n\
             one     connectio…\n\
             second  ok\n",
        );
    }

    #[test]
    fn a_last_column_may_go_on_in_the_next_line() {
        let mut table = Table::new(vec![Column::left("NAME"), Column::left("WHY").wrapped_at(12)]);
        table.row(vec!["one".into(), "status 503, expected 2xx".into()]);
        table.row(vec!["two".into(), "ok".into()]);
        assert_eq!(
            table.render(&Screen { width: Some(20), color: false }),
            "NAME  WHY\n\
             one   status 503,\n      expected 2xx\n\
             two   ok\n"
        );
        let piped = table.render(&Screen { width: None, color: false });
        assert!(piped.contains("one   status 503, expected 2xx\n"), "{piped}");
    }

    #[test]
    fn colours_take_no_room() {
        let text = table().render(&Screen { width: Some(40), color: true });
        assert!(text.ends_with("second  1000  \u{1b}[32mok\u{1b}[0m\n"), "{text:?}");
        assert!(text.starts_with("\u{1b}[2mNAME\u{1b}[0m       "), "{text:?}");
    }

    #[test]
    fn what_a_cell_says_cannot_move_the_cursor() {
        let cell = Cell::new("a\u{1b}[2Jb\nc");
        assert_eq!(cell.text, "a [2Jb c");
    }
}
