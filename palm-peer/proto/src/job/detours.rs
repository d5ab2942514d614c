//! The paths between two stages that fail: a message sent along one would be sent elsewhere by the stage.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a path is avoided after a message had to be sent elsewhere. Then a few messages find out whether it still fails.
const AVOIDED_FOR: Duration = Duration::from_secs(1);

/// The failing paths that stages reported.
#[derive(Debug, Default)]
pub struct Detours(HashMap<(Uuid, Uuid), Instant>);

impl Detours {
    /// A server sent elsewhere what was meant for another one.
    pub fn add(&mut self, by: Uuid, from: Uuid, now: Instant) {
        self.0.retain(|_, until| *until > now);
        self.0.insert((by, from), now + AVOIDED_FOR);
    }

    /// Whether the path from one server to another is to be avoided.
    #[must_use]
    pub fn is_known(&self, from: Uuid, to: Uuid, now: Instant) -> bool {
        self.0.get(&(from, to)).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_path_is_avoided_in_its_direction_for_a_while() {
        let (now, [one, other]) = (Instant::now(), [1, 2].map(Uuid::from_u128));
        let mut detours = Detours::default();
        assert!(!detours.is_known(one, other, now));
        detours.add(one, other, now);
        assert!(detours.is_known(one, other, now) && !detours.is_known(other, one, now));
        assert!(!detours.is_known(one, other, now + AVOIDED_FOR));
        detours.add(other, one, now + AVOIDED_FOR);
        assert_eq!(detours.0.len(), 1, "what is over is forgotten");
    }
}
