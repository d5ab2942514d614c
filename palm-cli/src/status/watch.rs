//! `palm-cli status --watch`: shows the servers, and again at every change.

use super::{listed, picture};
use crate::{
    args::Status,
    error::{CliError, warn},
    full_screen::{Content, FullScreen, Input, List, Next, clock},
    screen::{Screen, harmless, reader_gone},
    table::{self, Room, Table},
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{Either, select},
    select_biased,
};
use palm_peer::{Admin, Error, ServerEntry, ServerStatus, Timestamp};
use ratatui::{
    Frame,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use std::time::{Instant, SystemTime};

/// Shows the table until the program is stopped: on the alternate screen of a terminal, elsewhere
/// as text.
pub(super) async fn run(
    status: &Status,
    admin: &Admin,
    screen: &mut Screen,
) -> Result<(), CliError> {
    if screen.movable {
        on_screen(status, admin, screen.color).await
    } else {
        as_text(status, admin, screen).await
    }
}

/// Prints the table at each change.
async fn as_text(status: &Status, admin: &Admin, screen: &mut Screen) -> Result<(), CliError> {
    let mut changes = admin.watch();
    let mut gone = reader_gone();
    let mut first = true;
    loop {
        let change = match select(changes.next(), &mut gone).await {
            Either::Left((Some(change), _)) => change,
            Either::Left((None, _)) => return Ok(()),
            Either::Right(_) => return Err(CliError::Unread),
        };
        match change {
            Ok(all) => {
                screen.next_table(first)?;
                let shown = listed(status, &all);
                picture(&shown, &all, status.wide, screen)?;
                first = false;
            }
            Err(error) => {
                warn(&format!("the list may be out of date: {error}"));
            }
        }
        screen.flush()?;
    }
}

/// Draws the table at each change and each second.
async fn on_screen(status: &Status, admin: &Admin, color: bool) -> Result<(), CliError> {
    let mut changes = admin.watch();
    let mut gone = reader_gone().fuse();
    let mut full_screen = FullScreen::enter()?;
    let mut view = View {
        color,
        ..View::default()
    };
    loop {
        full_screen.draw(|frame| view.draw(status, frame))?;
        select_biased! {
            () = gone => return Err(CliError::Unread),
            input = full_screen.next().fuse() => match input {
                Input::Key(key) if view.list.key(key) == Next::Quit => return Ok(()),
                _ => {}
            },
            change = changes.next().fuse() => match change {
                Some(change) => view.apply(change),
                None => return Ok(()),
            },
        }
    }
}

/// What is on the screen.
#[derive(Default)]
struct View {
    color: bool,
    all: Vec<ServerEntry>,
    /// When the entries changed; `None` before the first.
    changed: Option<Instant>,
    /// Why the entries may be out of date, and since when.
    stale: Option<(String, Instant)>,
    list: List,
}

impl View {
    fn apply(&mut self, change: Result<Vec<ServerEntry>, Error>) {
        match change {
            Ok(all) => {
                self.all = all;
                self.changed = Some(Instant::now());
                self.stale = None;
            }
            Err(error) => self.stale = Some((harmless(&error.to_string()), Instant::now())),
        }
    }

    fn draw(&mut self, status: &Status, frame: &mut Frame) {
        let now = Timestamp::from(SystemTime::now());
        let shown = listed(status, &self.all);
        let room = Room {
            width: Some(usize::from(frame.area().width)),
            wide: status.wide,
        };
        let table = Table::new(&shown, &self.all, now, room);
        let mut lines = table.lines().into_iter().map(|line| self.styled(line));
        let headings = lines.next().filter(|_| !shown.is_empty());
        let rows: Vec<_> = lines.collect();
        let summary = match (&status.server, self.changed) {
            (_, None) => String::new(),
            (Some(wanted), _) if shown.is_empty() => format!("No server {}", harmless(wanted)),
            _ => table.summary(),
        };
        let title = self.title(now);
        let content = Content {
            title,
            headings: headings.unwrap_or_default(),
            rows,
            summary: &summary,
        };
        self.list.draw(frame, content);
    }

    /// Returns the first line: the time, and how old the list is.
    fn title(&self, now: Timestamp) -> Line<'static> {
        let clock = clock(now);
        let age = |since: Instant| table::age(since.elapsed());
        match (&self.stale, self.changed) {
            (Some((reason, since)), _) => {
                let text = format!(
                    "{clock} UTC  may be out of date for {}: {reason}",
                    age(*since)
                );
                Line::styled(text, self.style(Style::new().fg(Color::Red)))
            }
            (None, Some(changed)) => {
                Line::raw(format!("{clock} UTC  changed {} ago", age(changed)))
            }
            (None, None) => Line::raw(format!("{clock} UTC  waiting for etcd")),
        }
    }

    fn styled(&self, line: table::Line) -> Line<'static> {
        match line.state {
            None => Line::styled(
                line.text(str::to_owned),
                self.style(Style::new().add_modifier(Modifier::BOLD)),
            ),
            Some(state) => Line::from(vec![
                Span::raw(line.before),
                Span::styled(line.cell, self.style(state_style(state))),
                Span::raw(line.after),
            ]),
        }
    }

    fn style(&self, style: Style) -> Style {
        if self.color { style } else { Style::new() }
    }
}

/// Returns the style of a state, the same as in the plain table.
fn state_style(state: ServerStatus) -> Style {
    match state {
        ServerStatus::Leader => Style::new().fg(Color::Green).add_modifier(Modifier::BOLD),
        ServerStatus::Configured => Style::new().fg(Color::Green),
        ServerStatus::Broken => Style::new().fg(Color::Red),
        // Also for states that a later version may add.
        _ => Style::new().fg(Color::Yellow),
    }
}
