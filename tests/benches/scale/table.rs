//! The tables: one line for each N.

/// A table, with a line for each N so far.
pub(crate) struct Table {
    title: &'static str,
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// A line of a table, with what stands above its cells.
pub(crate) struct Row {
    title: &'static str,
    cells: Vec<(&'static str, String)>,
}

impl Row {
    /// A line of the table with this title; the first cell is N.
    pub(crate) fn new(title: &'static str, n: usize) -> Self {
        Self {
            title,
            cells: vec![("N", n.to_string())],
        }
    }

    /// Adds a cell.
    pub(crate) fn cell(mut self, head: &'static str, words: impl ToString) -> Self {
        self.cells.push((head, words.to_string()));
        self
    }

    /// Adds a number, with three significant digits.
    pub(crate) fn number(self, head: &'static str, number: f64) -> Self {
        self.cell(head, short(number))
    }
}

/// A number with some three significant digits.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

/// Adds a line to each table.
pub(crate) fn merge(tables: &mut Vec<Table>, rows: impl IntoIterator<Item = Row>) {
    for Row { title, cells } in rows {
        let (heads, cells): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
        match tables.iter_mut().find(|table| table.title == title) {
            Some(table) => table.rows.push(cells),
            None => tables.push(Table {
                title,
                heads,
                rows: vec![cells],
            }),
        }
    }
}

impl Table {
    /// Says the last line on stderr.
    pub(crate) fn progress(&self) {
        let cells = self
            .heads
            .iter()
            .zip(self.rows.last().into_iter().flatten());
        let words: Vec<_> = cells
            .map(|(head, cell)| format!("{head}: {cell}"))
            .collect();
        eprintln!("scale: {}: {}", self.title, words.join(", "));
    }

    /// Prints it as Markdown.
    pub(crate) fn print(&self) {
        println!("\n### {}\n", self.title);
        println!("| {} |", self.heads.join(" | "));
        println!("|{}", "---:|".repeat(self.heads.len()));
        self.rows
            .iter()
            .for_each(|row| println!("| {} |", row.join(" | ")));
    }
}
