//! Messages that wait to be forwarded until a link is open, and their size.

use super::parcel::Notice;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::limits::fair_queue::Amount;
use std::{
    future::{Future, pending},
    mem::size_of_val,
};

/// The waiting messages.
pub(super) struct Passing {
    messages: FuturesUnordered<BoxFuture<'static, (usize, Option<Notice>)>>,
    bytes: usize,
    max: Amount,
}

impl Passing {
    /// Creates it empty, with this limit, which running functions may still exceed.
    pub(super) fn new(max: Amount) -> Self {
        Self {
            messages: FuturesUnordered::new(),
            bytes: 0,
            max,
        }
    }

    /// Returns their number.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns their size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether more messages to be forwarded may be accepted: one always may.
    pub(super) fn has_room(&self) -> bool {
        self.messages.is_empty()
            || (self.messages.len() < self.max.items && self.bytes < self.max.bytes)
    }

    /// Adds one, of this size without the future itself.
    pub(super) fn push(
        &mut self,
        passing: impl Future<Output = Option<Notice>> + Send + 'static,
        bytes: usize,
    ) {
        let bytes = bytes + size_of_val(&passing);
        self.bytes += bytes;
        self.messages
            .push(passing.map(move |notice| (bytes, notice)).boxed());
    }

    /// Waits until one of them is forwarded, or cannot be; forever when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        let Some((bytes, notice)) = self.messages.next().await else {
            return pending().await;
        };
        self.bytes -= bytes;
        notice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use std::future::ready;

    #[test]
    fn a_hundred_thousand_messages_leave_no_state() {
        let mut passing = Passing::new(Amount {
            items: 100,
            bytes: 1_000_000,
        });
        for _ in 0..1_000 {
            while passing.has_room() {
                passing.push(ready(None), 1_000);
            }
            assert_eq!(passing.len(), 100);
            while passing.len() > 0 {
                block_on(passing.next());
            }
            assert_eq!((passing.bytes(), passing.has_room()), (0, true));
        }
        passing.push(ready(None), 1_000_000);
        assert!(!passing.has_room(), "bytes are bounded as well");
        let mut none = Passing::new(Amount { items: 0, bytes: 0 });
        assert!(none.has_room(), "one message always may go");
        none.push(ready(None), 1);
        assert!(!none.has_room());
    }
}
