//! Messages that were sent over one connection and are not confirmed yet.

use std::collections::VecDeque;

/// The maximum number of messages kept.
pub(crate) const MAX_MESSAGES: usize = 4096;

/// The maximum number of bytes of these messages.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Messages by their number on the connection, oldest first. Beyond the limits the oldest are
/// dropped: their clients send them again after a timeout.
#[derive(Debug)]
pub struct Unconfirmed<M> {
    messages: VecDeque<(u64, usize, M)>,
    bytes: usize,
}

impl<M> Default for Unconfirmed<M> {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<M> Unconfirmed<M> {
    /// Adds message `number` of this size, which was sent.
    pub fn sent(&mut self, number: u64, bytes: usize, message: M) {
        self.messages.push_back((number, bytes, message));
        self.bytes += bytes;
        while self.messages.len() > MAX_MESSAGES || self.bytes > MAX_BYTES {
            self.forget_oldest();
        }
    }

    /// Removes the first `count` messages, which have arrived.
    pub fn arrived(&mut self, count: u64) {
        while self
            .messages
            .front()
            .is_some_and(|(number, ..)| *number <= count)
        {
            self.forget_oldest();
        }
    }

    /// Returns whether all messages are confirmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Returns the messages that may be lost with the connection, oldest first.
    pub fn lost(self) -> impl Iterator<Item = M> {
        self.messages.into_iter().map(|(.., message)| message)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, bytes, _)) = self.messages.pop_front() {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmed_messages_are_not_lost() {
        let mut unconfirmed = Unconfirmed::default();
        (1..=5).for_each(|number| unconfirmed.sent(number, 10, number));
        unconfirmed.arrived(0);
        unconfirmed.arrived(3);
        assert_eq!(unconfirmed.bytes, 20);
        unconfirmed.sent(6, 10, 6);
        assert!(unconfirmed.lost().eq([4, 5, 6]));
    }

    #[test]
    fn messages_and_bytes_are_bounded_and_the_oldest_go_first() {
        let mut unconfirmed = Unconfirmed::default();
        (1..=MAX_MESSAGES as u64 + 2).for_each(|number| unconfirmed.sent(number, 1, number));
        assert_eq!(
            (unconfirmed.messages.len(), unconfirmed.bytes),
            (MAX_MESSAGES, MAX_MESSAGES)
        );
        unconfirmed.sent(10_000, MAX_BYTES, 10_000);
        assert_eq!(
            (unconfirmed.messages.len(), unconfirmed.bytes),
            (1, MAX_BYTES)
        );
        unconfirmed.sent(10_001, MAX_BYTES + 1, 10_001);
        assert_eq!((unconfirmed.is_empty(), unconfirmed.bytes), (true, 0));
    }
}
