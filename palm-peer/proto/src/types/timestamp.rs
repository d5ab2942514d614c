//! Timestamps as PALM writes them: UTC, microseconds, no zone suffix.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

const FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6f";
/// Python's `isoformat` leaves the fraction out when it is zero, so reading takes any
/// fraction or none.
const FORMAT_READ: &str = "%Y-%m-%dT%H:%M:%S%.f";

/// A point in UTC, written as `YYYY-MM-DDTHH:MM:SS.ffffff`.
///
/// ```
/// # use palm_proto::types::timestamp as palm_peer;
/// use palm_peer::Timestamp;
/// use std::time::{Duration, SystemTime};
///
/// let then: Timestamp = "2026-02-16T11:28:59.088608".parse()?;
/// let later: Timestamp = "2026-02-16T11:29:01.088608".parse()?;
/// assert_eq!(then.age(later), Duration::from_secs(2));
/// assert!(then < Timestamp::from(SystemTime::now()));
/// # Ok::<_, palm_peer::InvalidTimestamp>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(NaiveDateTime);

impl Timestamp {
    /// Returns how long before `now` this was; zero when it is in the future (clocks of two
    /// machines differ).
    #[must_use]
    pub fn age(self, now: Timestamp) -> Duration {
        (now.0 - self.0).to_std().unwrap_or_default()
    }

    /// Returns the seconds since 1970, without leap seconds.
    #[must_use]
    // Exact to the microsecond for centuries.
    #[allow(clippy::cast_precision_loss)]
    pub fn unix_seconds(self) -> f64 {
        self.0.and_utc().timestamp_micros() as f64 / 1e6
    }
}

/// Converts the time of the system's clock.
impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        Self(DateTime::<Utc>::from(at).naive_utc())
    }
}

/// Why a text is not a timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTimestamp(String);

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidTimestamp {}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format(FORMAT).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let read = NaiveDateTime::parse_from_str(text, FORMAT_READ);
        read.map(Self)
            .map_err(|error| InvalidTimestamp(error.to_string()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
