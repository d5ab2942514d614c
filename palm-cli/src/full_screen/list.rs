//! A list that fills the screen, and can be scrolled.

use ratatui::{
    Frame,
    crossterm::event::KeyCode,
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::Line,
    widgets::Paragraph,
};

/// The keys, told in the first line when there is room.
const KEYS: &str = "q: quit";
const KEYS_WITH_SCROLLING: &str = "arrows: scroll, q: quit";

/// What to do after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Draw again.
    Draw,
    /// End.
    Quit,
}

/// A list with its position.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// The first row that is shown.
    top: usize,
    /// How many rows there are, and how many fit.
    rows: usize,
    fit: usize,
}

/// What a list shows.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    /// The first line.
    pub title: Line<'a>,
    /// The line above the rows.
    pub headings: Line<'a>,
    /// The rows.
    pub rows: Vec<Line<'a>>,
    /// The line below the rows.
    pub summary: &'a str,
}

impl List {
    /// Scrolls by a key, or ends.
    pub(crate) fn key(&mut self, key: KeyCode) -> Next {
        let page = self.fit.max(1);
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Down | KeyCode::Char('j') => self.top = self.top.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.top = self.top.saturating_add(page),
            KeyCode::PageUp => self.top = self.top.saturating_sub(page),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = self.rows,
            _ => {}
        }
        self.clamp();
        Next::Draw
    }

    fn clamp(&mut self) {
        self.top = self.top.min(self.rows.saturating_sub(self.fit));
    }

    /// Draws the content, with as many rows as fit.
    pub(crate) fn draw(&mut self, frame: &mut Frame, content: Content) {
        let Content {
            title,
            headings,
            rows,
            summary,
        } = content;
        let [title_area, headings_area, rows_area, summary_area] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.rows = rows.len();
        self.fit = usize::from(rows_area.height);
        self.clamp();
        let last = (self.top + self.fit).min(self.rows);
        let keys = if self.rows > self.fit {
            KEYS_WITH_SCROLLING
        } else {
            KEYS
        };
        let room = usize::from(title_area.width).saturating_sub(title.width() + 2);
        if keys.len() <= room {
            let dim = Style::new().add_modifier(Modifier::DIM);
            let keys = Line::styled(keys, dim).right_aligned();
            frame.render_widget(Paragraph::new(keys), title_area);
        }
        let title_area = ratatui::layout::Rect {
            width: title_area
                .width
                .min(u16::try_from(title.width()).unwrap_or(u16::MAX)),
            ..title_area
        };
        frame.render_widget(Paragraph::new(title), title_area);
        frame.render_widget(Paragraph::new(headings), headings_area);
        let position = if self.rows > self.fit {
            format!("{} to {last} of {}; ", self.top + 1, self.rows)
        } else {
            String::new()
        };
        let shown: Vec<_> = rows.into_iter().skip(self.top).take(self.fit).collect();
        // The summary stands below the rows, not at the end of a screen that they do not fill.
        let below = u16::try_from(shown.len()).unwrap_or(u16::MAX);
        let summary_area = ratatui::layout::Rect {
            y: summary_area.y.min(rows_area.y.saturating_add(below)),
            ..summary_area
        };
        frame.render_widget(Paragraph::new(shown), rows_area);
        frame.render_widget(Paragraph::new(format!("{position}{summary}")), summary_area);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::{Terminal, backend::TestBackend};

    fn drawn(list: &mut List, rows: usize) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(40, 6)).expect("a terminal");
        let lines = (0..rows)
            .map(|row| Line::raw(format!("row {row}")))
            .collect();
        let content = Content {
            title: Line::raw("title"),
            headings: Line::raw("HEADINGS"),
            rows: lines,
            summary: "sum",
        };
        terminal
            .draw(|frame| {
                list.draw(frame, content);
            })
            .expect("a picture");
        let buffer = terminal.backend().buffer();
        let cells = |y| (0..40).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..6).map(|y| cells(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_list_scrolls_below_its_headings() {
        let mut list = List::default();
        assert_eq!(
            drawn(&mut list, 2),
            [
                "title                            q: quit",
                "HEADINGS",
                "row 0",
                "row 1",
                "sum",
                ""
            ]
        );
        assert_eq!(list.key(KeyCode::Down), Next::Draw);
        assert_eq!(drawn(&mut list, 2)[2], "row 0", "all is seen");
        assert_eq!(drawn(&mut list, 10)[5], "1 to 3 of 10; sum");
        for (key, first) in [
            (KeyCode::Down, "row 1"),
            (KeyCode::PageDown, "row 4"),
            (KeyCode::End, "row 7"),
            (KeyCode::Down, "row 7"),
            (KeyCode::Up, "row 6"),
            (KeyCode::PageUp, "row 3"),
            (KeyCode::Home, "row 0"),
        ] {
            list.key(key);
            let lines = drawn(&mut list, 10);
            assert_eq!((lines[1].as_str(), lines[2].as_str()), ("HEADINGS", first));
        }
        // Rows that end are not scrolled away.
        list.key(KeyCode::End);
        assert_eq!(drawn(&mut list, 4)[2], "row 1");
        assert_eq!(list.key(KeyCode::Char('q')), Next::Quit);
    }
}
