//! One frame, from what is known and what its user wants to see.
//!
//! From top to bottom: where this is; the fleet's figures; that the controller is away, if it is;
//! how the rate went; the panes; what is wrong, or all about the selected row; the keys.

use std::time::Duration;

use lb_proto::v1;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Sparkline, Widget, Wrap},
};

use super::{
    format::{self, ABSENT, count, rate, time_of_day},
    grid::{self, Grid, Look},
    panes::{Pane, troubles},
    state::{Mode, State},
    theme::{self, Theme, Tone},
};
use crate::client::when;

/// At most so much of the screen says what is wrong or all about one row.
const DETAIL_LINES: u16 = 3;
/// Lower screens have one line for what is wrong.
const TALL: u16 = 32;
/// Screens that are lower than this have no graph; of others it gets this share.
const GRAPH_FROM: u16 = 20;
const GRAPH_SHARE: u16 = 14;

const KEYS: &str = "q quit  Tab pane  ↑↓ select  s sort  / filter  p pause  z zoom  ? help";

const HELP: [(&str, &str); 13] = [
    ("q, Esc, Ctrl-C", "end"),
    ("Tab, 1 to 5", "another pane"),
    ("↑ ↓, j k", "select a row; all about it is at the bottom"),
    ("PgUp PgDn, b Space", "ten rows further"),
    ("Home End, g G", "the first row, the last row"),
    ("s, S", "sort by the next column, by the one before"),
    ("r", "sort the other way round"),
    ("/", "only rows with a text in them; Esc ends it"),
    ("z, Enter", "the pane alone, and back"),
    ("p", "hold everything still, and go on"),
    ("", ""),
    ("REQ/S, ERR%, P50, P99", "of the last seconds; of backends, of attempts"),
    ("FLIGHT", "requests that are under way now"),
];

pub fn draw(state: &State, now: Duration, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let mut rest = area;
    let clock = clock(state, now, theme);
    let room = area.width.saturating_sub(clock.width() as u16);
    line(buffer, take_top(&mut rest), &place(state, room), &clock);
    line(buffer, take_top(&mut rest), &fleet(state, theme), &Line::default());
    if let Some(away) = &state.away {
        let last = if state.figures().poll.is_some() { "these are its last figures; " } else { "" };
        let text = format!(
            "CONTROLLER AWAY for {}, since {} UTC: {last}{}",
            when::short(now.saturating_sub(away.since)),
            time_of_day(away.since),
            away.why,
        );
        let style = theme.style(Tone::Bad).patch(theme::SELECTED);
        let text = Paragraph::new(text).wrap(Wrap { trim: true }).style(style);
        let lines = wrapped(&text, rest.width, DETAIL_LINES.min(rest.height / 4));
        text.render(take(&mut rest, lines), buffer);
    }
    if area.height >= GRAPH_FROM {
        let height = (area.height / GRAPH_SHARE).max(1);
        graph(state, theme, take(&mut rest, height), buffer);
    }
    let keys = take_bottom(&mut rest, 1);
    line(buffer, keys, &footer(state), &Line::default());
    if let Some(text) = selected(state, now) {
        let text = Paragraph::new(format!("> {text}")).wrap(Wrap { trim: true });
        let lines = wrapped(&text, rest.width, DETAIL_LINES.min(rest.height / 4));
        text.render(take_bottom(&mut rest, lines), buffer);
    } else {
        let most = if area.height < TALL { 1 } else { DETAIL_LINES };
        let lines = wrong(state, now, usize::from(most.min(rest.height / 4)));
        let mut room = take_bottom(&mut rest, lines.len() as u16);
        for text in lines {
            let text = Line::styled(text, theme.style(Tone::Bad));
            line(buffer, take_top(&mut room), &text, &Line::default());
        }
    }
    panes(state, now, theme, rest, buffer);
    if state.mode == Mode::Help {
        help(area, buffer);
    }
}

/// All there is, as text that nobody scrolls: in `width`, or in what it needs.
pub fn plain(state: &State, now: Duration, width: Option<u16>) -> String {
    let grids = Pane::ALL.map(|pane| state.grid(pane, now));
    let widest = grids.iter().map(Grid::width).max().unwrap_or(0);
    let clock = clock(state, now, Theme::PLAIN);
    let beside = clock.width() as u16;
    let room = width.map_or(u16::MAX, |width| width.saturating_sub(beside));
    let head = [place(state, room), fleet(state, Theme::PLAIN)];
    let needed = head.iter().map(|line| line.width() as u16 + beside).max().unwrap_or(0);
    let width = width.unwrap_or(widest.max(needed));
    let shown = || Pane::ALL.into_iter().zip(&grids).filter(|(pane, grid)| is_shown(*pane, grid));
    let height = shown().fold(2u16, |sum, (_, grid)| sum.saturating_add(grid.height() + 1));
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let mut rest = area;
    line(&mut buffer, take_top(&mut rest), &head[0], &clock);
    line(&mut buffer, take_top(&mut rest), &head[1], &Line::default());
    for (pane, grid) in shown() {
        take_top(&mut rest);
        let look =
            Look { theme: Theme::PLAIN, focused: false, cursor: None, sort: state.sort(pane) };
        grid.draw(take(&mut rest, grid.height()), &mut buffer, look);
    }
    text(&buffer)
}

/// What a buffer shows, without how.
pub fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in buffer.content.chunks(usize::from(buffer.area.width).max(1)) {
        let mut skip = 0;
        let mut line = String::new();
        for cell in row {
            if skip == 0 {
                line.push_str(cell.symbol());
                // A wide character has the cell after it too.
                skip = grid::width(cell.symbol()).max(1);
            }
            skip -= 1;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

// === the lines ===

/// In so much room.
fn place(state: &State, room: u16) -> Line<'static> {
    let mut text = format!(" lb top  {}", state.controller);
    if let Some(poll) = &state.figures().poll {
        let v1::ListProxiesResponse { revision, epoch, version, .. } = &poll.fleet;
        text += &format!("  revision {revision}  version {version}");
        let more = format!("  epoch {epoch}");
        if grid::width(&text) + grid::width(&more) <= room {
            text += &more;
        }
    }
    Line::raw(text)
}

fn clock(state: &State, now: Duration, theme: Theme) -> Line<'static> {
    let time = |time| Span::raw(format!(" {} UTC ", time_of_day(time)));
    match state.paused() {
        Some(since) => {
            let style = theme.style(Tone::Warning).patch(theme::SELECTED);
            Line::from(vec![Span::styled(" PAUSED ", style), time(since)])
        }
        None => time(now).into(),
    }
}

fn fleet(state: &State, theme: Theme) -> Line<'static> {
    let Some(poll) = &state.figures().poll else {
        return Line::raw(" waiting for the controller");
    };
    let fleet = &poll.fleet;
    let all = fleet.proxies.len();
    let synced = fleet.proxies.iter().filter(|proxy| proxy.connected && proxy.in_sync).count();
    let load = fleet.load.as_ref();
    let figure = |figure: Option<String>| figure.unwrap_or_else(|| ABSENT.into());
    let latency = |took: Option<&prost_types::Duration>| {
        figure(took.and_then(|took| Duration::try_from(*took).ok()).map(format::latency))
    };
    let errors = load
        .and_then(|load| format::percent(load.errors_per_second, load.requests_per_second))
        .map(|percent| percent + "%");
    let failing = load.is_some_and(|load| load.errors_per_second > 0.0);
    let tone = |bad: bool, tone: Tone| {
        theme::STRONG.patch(theme.style(if bad { tone } else { Tone::Plain }))
    };
    let parts = [
        (format!("{synced}/{all}"), "proxies in sync", tone(synced < all, Tone::Bad)),
        (figure(load.map(|load| rate(load.requests_per_second))), "req/s", theme::STRONG),
        (figure(errors), "errors", tone(failing, Tone::Bad)),
        (latency(load.and_then(|load| load.p50.as_ref())), "p50", theme::STRONG),
        (latency(load.and_then(|load| load.p99.as_ref())), "p99", theme::STRONG),
        (figure(load.map(|load| count(load.in_flight))), "in flight", theme::STRONG),
    ];
    let mut spans = Vec::new();
    for (value, what, style) in parts {
        let gap = if spans.is_empty() { " " } else { "  " };
        spans.extend([Span::raw(gap), Span::styled(value, style), Span::raw(format!(" {what}"))]);
    }
    Line::from(spans)
}

fn footer(state: &State) -> Line<'static> {
    let text = match state.mode {
        Mode::Filter => format!(" filter: {}▏  Enter keep  Esc clear", state.filter),
        Mode::Panes | Mode::Help if state.filter.is_empty() => format!(" {KEYS}"),
        Mode::Panes | Mode::Help => format!(" filter: {}  Esc clears  ? help", state.filter),
    };
    Line::styled(text, Style::new())
}

fn graph(state: &State, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let rates = &state.figures().rates;
    let label = " req/s ";
    // Room for the peak stays at the right.
    let room = usize::from(area.width.saturating_sub(grid::width(label) + 12));
    let shown = || rates.iter().rev().take(room).rev();
    let peak = shown().flatten().copied().fold(0.0, f64::max);
    let start = area.x + grid::width(label).min(area.width);
    let bars = Rect { x: start, width: room as u16, ..area }.intersection(area);
    if area.is_empty() || bars.is_empty() {
        return;
    }
    // In thousandths, because bars are whole numbers and rates are not.
    let data = shown().map(|rate| rate.map(|rate| (rate * 1e3) as u64));
    Sparkline::default()
        .style(theme.graph())
        .absent_value_symbol("·")
        .max(((peak * 1e3) as u64).max(1))
        .data(data)
        .render(bars, buffer);
    line(buffer, Rect { height: 1, ..area }, &Line::raw(label), &Line::default());
    let peak = Line::raw(format!(" peak {} ", rate(peak)));
    let corner = Rect { x: bars.right(), width: area.right() - bars.right(), height: 1, ..area };
    line(buffer, corner, &peak, &Line::default());
}

/// All about the selected row.
fn selected(state: &State, now: Duration) -> Option<String> {
    let mut grid = state.grid(state.focus, now);
    let cursor = state.cursor(state.focus, &grid)?;
    Some(grid.rows.swap_remove(cursor).detail)
}

/// What is wrong, in at most so many lines.
fn wrong(state: &State, now: Duration, most: usize) -> Vec<String> {
    let mut troubles = troubles(state.figures(), state.paused().unwrap_or(now));
    let all = troubles.len();
    troubles.truncate(most);
    let line = |(i, trouble): (usize, String)| {
        if all == 1 { format!("! {trouble}") } else { format!("! {i}/{all} {trouble}") }
    };
    (1..).zip(troubles).map(line).collect()
}

fn help(area: Rect, buffer: &mut Buffer) {
    let lines: Vec<_> =
        HELP.iter().map(|(key, what)| Line::raw(format!(" {key:<22}{what} "))).collect();
    let width = lines.iter().map(|line| line.width() as u16).max().unwrap_or(0) + 2;
    let size = (width.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let x = area.x + (area.width - size.0) / 2;
    let y = area.y + (area.height - size.1) / 2;
    let window = Rect::new(x, y, size.0, size.1);
    Clear.render(window, buffer);
    let block = Block::bordered().title(" lb top: any key goes back ");
    Paragraph::new(lines).block(block).render(window, buffer);
}

// === the panes ===

fn panes(state: &State, now: Duration, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let mut grids = Pane::ALL.map(|pane| state.grid(pane, now));
    for (number, grid) in (1..).zip(&mut grids) {
        grid.title = format!("{number} {}", grid.title);
    }
    let focus = state.focus as usize;
    let heights = if state.zoomed {
        let mut heights = [0; Pane::ALL.len()];
        heights[focus] = area.height;
        heights
    } else {
        let wanted = Pane::ALL.map(|pane| {
            let grid = &grids[pane as usize];
            if is_shown(pane, grid) || pane == state.focus { grid.height() } else { 0 }
        });
        share(area.height, wanted, focus)
    };
    // If there is room for all, then for some air too.
    let all: u16 = heights.iter().fold(0, |sum: u16, height| sum.saturating_add(*height));
    let gap = u16::from(all.saturating_add(Pane::ALL.len() as u16) <= area.height);
    let mut rest = area;
    for ((pane, grid), height) in Pane::ALL.into_iter().zip(&grids).zip(heights) {
        if height == 0 {
            continue;
        }
        let look = Look {
            theme,
            focused: pane == state.focus,
            cursor: state.cursor(pane, grid),
            sort: state.sort(pane),
        };
        grid.draw(take(&mut rest, height), buffer, look);
        take(&mut rest, gap);
    }
}

/// Many a fleet has no certificates.
fn is_shown(pane: Pane, grid: &Grid) -> bool {
    pane != Pane::Certificates || !grid.rows.is_empty()
}

/// How many lines each pane gets of those that there are, given what each would fill: as equal as
/// that can be. Titles with nothing below them are of no use; where not all fit, the focused one
/// does, and then the first ones.
fn share<const N: usize>(lines: u16, wanted: [u16; N], focus: usize) -> [u16; N] {
    let mut left = lines;
    let mut given = [0; N];
    for i in std::iter::once(focus).chain((0..N).filter(|i| *i != focus)) {
        let least = wanted[i].min(2);
        if least <= left {
            given[i] = least;
            left -= least;
        }
    }
    while left > 0 {
        let before = left;
        for i in 0..N {
            if left > 0 && 0 < given[i] && given[i] < wanted[i] {
                given[i] += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    given
}

// === drawing ===

fn take(rest: &mut Rect, height: u16) -> Rect {
    let height = height.min(rest.height);
    let taken = Rect { height, ..*rest };
    rest.y += height;
    rest.height -= height;
    taken
}

fn take_top(rest: &mut Rect) -> Rect {
    take(rest, 1)
}

fn take_bottom(rest: &mut Rect, height: u16) -> Rect {
    let height = height.min(rest.height);
    rest.height -= height;
    Rect { y: rest.y + rest.height, height, ..*rest }
}

/// One at the left, and one at the right, which stays whole.
fn line(buffer: &mut Buffer, area: Rect, left: &Line<'_>, right: &Line<'_>) {
    if area.is_empty() {
        return;
    }
    buffer.set_line(area.x, area.y, left, area.width);
    let width = (right.width() as u16).min(area.width);
    buffer.set_line(area.right() - width, area.y, right, width);
}

/// How many lines a text needs, up to so many.
fn wrapped(text: &Paragraph<'_>, width: u16, most: u16) -> u16 {
    let mut lines = most;
    // The widget does not say; so look where it stops writing.
    while lines > 1 {
        let area = Rect::new(0, 0, width, lines);
        let mut buffer = Buffer::empty(area);
        text.render(area, &mut buffer);
        let last = (0..width).any(|x| buffer[(x, lines - 1)].symbol() != " ");
        if last {
            break;
        }
        lines -= 1;
    }
    lines
}
