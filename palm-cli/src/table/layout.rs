//! Which columns a table has, and how wide they are.

/// The width that the last column gets at least, if it needs it.
const LAST_AT_LEAST: usize = 12;
/// How much of the last column must fit for the long layout.
const LAST_ENOUGH: usize = 30;
/// The width to which the other columns may be cut.
const CUT_TO: usize = 8;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// The whole uuid, or the end of the key.
    Uuid,
    /// The abbreviated uuid.
    Id,
    /// The server's name.
    Server,
    /// The kind.
    Kind,
    /// The endpoint as it is written in etcd.
    Url,
    /// The endpoint without its scheme, which is always the same.
    Endpoint,
    /// The process id.
    Pid,
    /// The time since the server registered.
    Age,
    /// The state.
    State,
    /// All functions.
    Functions,
    /// The functions that not every server has.
    OwnFunctions,
}

impl Column {
    /// Returns the heading.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Uuid => "UUID",
            Self::Id => "ID",
            Self::Server => "SERVER",
            Self::Kind => "KIND",
            Self::Url | Self::Endpoint => "ENDPOINT",
            Self::Pid => "PID",
            Self::Age => "AGE",
            Self::State => "STATE",
            Self::Functions | Self::OwnFunctions => "FUNCTIONS",
        }
    }
}

/// A set of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Everything.
    Whole,
    /// Everything but the built-in functions.
    Long,
    /// What fits 80 columns.
    Short,
}

impl Layout {
    /// Returns its columns; the functions come last.
    pub(super) fn columns(self) -> &'static [Column] {
        use Column as C;
        match self {
            Self::Whole => &[
                C::Uuid,
                C::Server,
                C::Kind,
                C::Url,
                C::Pid,
                C::Age,
                C::State,
                C::Functions,
            ],
            Self::Long => &[
                C::Uuid,
                C::Server,
                C::Kind,
                C::Endpoint,
                C::Pid,
                C::Age,
                C::State,
                C::OwnFunctions,
            ],
            Self::Short => &[
                C::Server,
                C::Id,
                C::Endpoint,
                C::Age,
                C::State,
                C::OwnFunctions,
            ],
        }
    }

    /// Returns how much of the last column must fit for this layout.
    pub(super) fn enough(self) -> usize {
        match self {
            Self::Whole => usize::MAX,
            Self::Long | Self::Short => LAST_ENOUGH,
        }
    }

    /// Shrinks the columns to a table of `width`: first the last one, then the widest of those
    /// that can be cut. An id stays long enough to be unique.
    pub(super) fn shrink(self, widths: &mut [usize], width: usize, id_length: usize) {
        let Some(last) = widths.len().checked_sub(1) else {
            return;
        };
        let others = |widths: &[usize]| widths[..last].iter().map(|width| width + 2).sum::<usize>();
        let last_at_least = widths[last].min(LAST_AT_LEAST);
        let min = |column: Column| match column {
            Column::Server | Column::Endpoint | Column::Url | Column::Kind => CUT_TO,
            Column::Id => id_length,
            _ => usize::MAX,
        };
        while others(widths) + last_at_least > width {
            let columns = self.columns()[..last].iter().enumerate();
            let widest = columns
                .filter(|(pos, column)| widths[*pos] > min(**column))
                .max_by_key(|(pos, _)| widths[*pos]);
            let Some((pos, _)) = widest else { break };
            widths[pos] -= 1;
        }
        widths[last] = widths[last].min(width.saturating_sub(others(widths)));
    }
}
