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
    /// The version of its program.
    Version,
    /// The zone that it runs in.
    Zone,
    /// Its tags.
    Tags,
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
            Self::Version => "VERSION",
            Self::Zone => "ZONE",
            Self::Tags => "TAGS",
            Self::Kind => "KIND",
            Self::Url | Self::Endpoint => "ENDPOINT",
            Self::Pid => "PID",
            Self::Age => "AGE",
            Self::State => "STATE",
            Self::Functions | Self::OwnFunctions => "FUNCTIONS",
        }
    }
}

/// Columns that only some servers fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extras {
    pub(super) version: bool,
    pub(super) zone: bool,
    pub(super) tags: bool,
}

/// A set of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Everything.
    Whole,
    /// Everything but the built-in functions.
    Long,
    /// What fits 80 columns, with the version.
    ShortWithVersion,
    /// What fits 80 columns, with the zone.
    ShortWithZone,
    /// What fits 80 columns.
    Short,
}

impl Layout {
    /// The layouts, those with the most columns first.
    pub(super) const ALL: [Self; 5] = [
        Self::Whole,
        Self::Long,
        Self::ShortWithVersion,
        Self::ShortWithZone,
        Self::Short,
    ];

    /// Returns its columns, without those of `extras` that no server fills; the functions come last.
    pub(super) fn columns(self, extras: Extras) -> Vec<Column> {
        let has = |column: &Column| match column {
            Column::Version => extras.version,
            Column::Zone => extras.zone,
            Column::Tags => extras.tags,
            _ => true,
        };
        self.all_columns().iter().copied().filter(has).collect()
    }

    fn all_columns(self) -> &'static [Column] {
        use Column as C;
        match self {
            Self::Whole => &[
                C::Uuid,
                C::Server,
                C::Version,
                C::Kind,
                C::Url,
                C::Zone,
                C::Tags,
                C::Pid,
                C::Age,
                C::State,
                C::Functions,
            ],
            Self::Long => &[
                C::Uuid,
                C::Server,
                C::Version,
                C::Kind,
                C::Endpoint,
                C::Zone,
                C::Tags,
                C::Pid,
                C::Age,
                C::State,
                C::OwnFunctions,
            ],
            Self::ShortWithVersion => &[
                C::Server,
                C::Version,
                C::Id,
                C::Endpoint,
                C::Zone,
                C::Age,
                C::State,
                C::OwnFunctions,
            ],
            Self::ShortWithZone => &[
                C::Server,
                C::Id,
                C::Endpoint,
                C::Zone,
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
            Self::Long => LAST_ENOUGH,
            Self::ShortWithVersion | Self::ShortWithZone | Self::Short => LAST_AT_LEAST,
        }
    }

    /// Shrinks the columns to a table of `width`: first the last one, then the widest of those
    /// that can be cut. An id stays long enough to be unique.
    pub(super) fn shrink(columns: &[Column], widths: &mut [usize], width: usize, id_length: usize) {
        let Some(last) = widths.len().checked_sub(1) else {
            return;
        };
        let others = |widths: &[usize]| widths[..last].iter().map(|width| width + 2).sum::<usize>();
        let last_at_least = widths[last].min(LAST_AT_LEAST);
        let min = |column: Column| match column {
            Column::Server
            | Column::Version
            | Column::Zone
            | Column::Tags
            | Column::Endpoint
            | Column::Url
            | Column::Kind => CUT_TO,
            Column::Id => id_length,
            _ => usize::MAX,
        };
        while others(widths) + last_at_least > width {
            let columns = columns[..last].iter().enumerate();
            let widest = columns
                .filter(|(pos, column)| widths[*pos] > min(**column))
                .max_by_key(|(pos, _)| widths[*pos]);
            let Some((pos, _)) = widest else { break };
            widths[pos] -= 1;
        }
        widths[last] = widths[last].min(width.saturating_sub(others(widths)));
    }
}
