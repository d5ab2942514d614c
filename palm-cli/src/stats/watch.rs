//! `palm-cli stats --watch`: the figures of each second, on the alternate screen.

use super::{
    ask, figures as figures_of,
    figures::{Figures, Report},
    function_lines, layout,
};
use crate::{
    args::Stats,
    error::CliError,
    find::selected,
    full_screen::{Content, FullScreen, Input, List, Next, clock},
    screen::{harmless, reader_gone},
    table::columns,
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{Fuse, LocalBoxFuture},
    select_biased,
};
use palm_peer::{Admin, Client, ServerEntry};
use ratatui::{
    Frame,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use std::{
    collections::{HashMap, VecDeque},
    time::SystemTime,
};

/// How many seconds of each server are kept.
const HISTORY: usize = 300;

/// The width that is left for the sparklines, at least.
const SPARKLINE_AT_LEAST: usize = 16;

/// Shows the figures until the program is stopped.
pub(super) async fn run(
    stats: &Stats,
    admin: &Admin,
    client: &Client,
    color: bool,
) -> Result<(), CliError> {
    let mut changes = admin.watch();
    let mut gone = reader_gone().fuse();
    let mut full_screen = FullScreen::enter()?;
    let mut view = View {
        color,
        ..View::default()
    };
    let mut entries: Vec<ServerEntry> = Vec::new();
    let mut is_asking = false;
    let mut asking: Fuse<LocalBoxFuture<'_, Vec<Report>>> = Fuse::terminated();
    loop {
        full_screen.draw(|frame| view.draw(stats, frame))?;
        let mut ask_now = false;
        select_biased! {
            () = gone => return Err(CliError::Unread),
            input = full_screen.next().fuse() => match input {
                Input::Key(key) if view.list.key(key) == Next::Quit => return Ok(()),
                Input::Key(_) => {}
                Input::Tick => ask_now = true,
            },
            change = changes.next().fuse() => match change {
                Some(Ok(all)) => {
                    ask_now = entries.is_empty();
                    entries = all;
                    view.warning = None;
                }
                Some(Err(error)) => view.warning = Some(harmless(&error.to_string())),
                None => return Ok(()),
            },
            reports = asking => {
                view.apply(reports);
                is_asking = false;
            },
        }
        if ask_now && !is_asking {
            let chosen = selected(&entries, stats.server.as_deref());
            let chosen: Vec<_> = chosen.into_iter().cloned().collect();
            asking = async move { ask(&chosen.iter().collect::<Vec<_>>(), client).await }
                .boxed_local()
                .fuse();
            is_asking = true;
        }
    }
}

/// What is on the screen.
#[derive(Default)]
struct View {
    color: bool,
    /// The last two reports.
    before: Vec<Report>,
    last: Vec<Report>,
    figures: Vec<Figures>,
    /// The requests per second of each instance, the latest last.
    history: HashMap<String, VecDeque<f64>>,
    /// Why the list of servers may be out of date.
    warning: Option<String>,
    list: List,
}

impl View {
    fn apply(&mut self, reports: Vec<Report>) {
        self.figures = figures_of(&self.last, &reports);
        self.history
            .retain(|uuid, _| reports.iter().any(|report| report.uuid == *uuid));
        for figures in &self.figures {
            let rate = figures
                .numbers
                .as_ref()
                .ok()
                .and_then(|numbers| numbers.rates);
            let history = self.history.entry(figures.uuid.clone()).or_default();
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back(rate.map_or(0.0, |(requests, _)| requests));
        }
        self.before = std::mem::replace(&mut self.last, reports);
    }

    fn draw(&mut self, stats: &Stats, frame: &mut Frame) {
        let width = usize::from(frame.area().width);
        let room = width.saturating_sub(SPARKLINE_AT_LEAST);
        let lines = layout::table(&self.figures, layout::WITHOUT_SUMS, Some(room));
        let mut lines = lines.into_iter();
        let headings = lines.next().filter(|_| !self.figures.is_empty());
        let headings = headings.unwrap_or_default();
        let rows = lines.zip(&self.figures);
        let rows = rows.map(|(line, figures)| self.row(line, figures, width));
        let mut rows: Vec<_> = rows.collect();
        if stats.server.is_some() {
            rows.extend(self.function_rows(width));
        }
        let summary = match &stats.server {
            Some(wanted) if self.figures.is_empty() => {
                format!("No server {} can be called", harmless(wanted))
            }
            _ => layout::sum(&self.figures),
        };
        let title = self.title();
        let bold = self.style(Style::new().add_modifier(Modifier::BOLD));
        let content = Content {
            title,
            headings: Line::styled(headings, bold),
            rows,
            summary: &summary,
        };
        self.list.draw(frame, content);
    }

    /// Returns the table of functions, below those of servers.
    fn function_rows(&self, width: usize) -> Vec<Line<'static>> {
        let mut lines = function_lines(&self.before, &self.last, Some(width)).into_iter();
        let Some(headings) = lines.next() else {
            return Vec::new();
        };
        let bold = self.style(Style::new().add_modifier(Modifier::BOLD));
        let mut rows = vec![Line::raw(""), Line::styled(headings, bold)];
        rows.extend(lines.map(Line::raw));
        rows
    }

    fn title(&self) -> Line<'static> {
        let clock = clock(SystemTime::now().into());
        match &self.warning {
            Some(reason) => Line::styled(
                format!("{clock} UTC  the servers may be out of date: {reason}"),
                self.style(Style::new().fg(Color::Red)),
            ),
            None => Line::raw(format!("{clock} UTC  requests and errors per second")),
        }
    }

    /// Returns a row, with the latest seconds behind it where there is room.
    fn row(&self, line: String, figures: &Figures, width: usize) -> Line<'static> {
        let Ok(numbers) = &figures.numbers else {
            return Line::styled(line, self.style(Style::new().fg(Color::Red)));
        };
        let room = width.saturating_sub(columns(&line) + 2);
        let values = self
            .history
            .get(&figures.uuid)
            .into_iter()
            .flatten()
            .copied();
        let spark = layout::sparkline(values, room);
        let has_errors = numbers.rates.is_some_and(|(_, errors)| errors > 0.0);
        let style = if has_errors {
            Style::new().fg(Color::Yellow)
        } else {
            Style::new()
        };
        Line::from(vec![
            Span::styled(format!("{line}  "), self.style(style)),
            Span::styled(spark, self.style(Style::new().fg(Color::Cyan))),
        ])
    }

    fn style(&self, style: Style) -> Style {
        if self.color { style } else { Style::new() }
    }
}
