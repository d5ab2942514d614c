//! A channel that never grows: when its receiver does not take the items, the oldest make
//! room for new ones.

use crate::sync::lock;
use futures::Stream;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

#[derive(Debug)]
struct Buffer<T> {
    items: VecDeque<T>,
    capacity: usize,
    ended: bool,
    waker: Option<Waker>,
}

/// A channel for the latest `capacity` items.
pub(crate) fn channel<T>(capacity: usize) -> (Sender<T>, Latest<T>) {
    let buffer = Buffer {
        items: VecDeque::new(),
        capacity,
        ended: false,
        waker: None,
    };
    let shared = Arc::new(Mutex::new(buffer));
    (Sender(Arc::clone(&shared)), Latest(shared))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The sending end. Dropped, it ends the stream.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Mutex<Buffer<T>>>);

impl<T> Sender<T> {
    /// Whether the receiver is gone.
    pub(crate) fn is_closed(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Adds an item, in place of the oldest when there is no room.
    pub(crate) fn send(&self, item: T) {
        let mut buffer = lock(&self.0);
        if buffer.items.len() >= buffer.capacity {
            buffer.items.pop_front();
        }
        buffer.items.push_back(item);
        let waker = buffer.waker.take();
        drop(buffer);
        wake(waker);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut buffer = lock(&self.0);
        buffer.ended = true;
        let waker = buffer.waker.take();
        drop(buffer);
        wake(waker);
    }
}

/// The stream of the items that the receiver has not missed. Ends with its sender.
#[derive(Debug)]
pub(crate) struct Latest<T>(Arc<Mutex<Buffer<T>>>);

impl<T> Stream for Latest<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut buffer = lock(&self.0);
        match buffer.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if buffer.ended => Poll::Ready(None),
            None => {
                buffer.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _, executor::block_on, join};

    #[test]
    fn the_oldest_items_make_room_and_the_rest_comes_in_order() {
        let (tx, mut rx) = channel(3);
        for item in 0..100_000 {
            tx.send(item);
        }
        assert_eq!(lock(&rx.0).items.len(), 3);
        drop(tx);
        assert_eq!(
            block_on(rx.by_ref().collect::<Vec<_>>()),
            [99_997, 99_998, 99_999]
        );
    }

    #[test]
    fn a_waiting_receiver_is_woken_by_an_item_and_by_the_end() {
        let (tx, mut rx) = channel(1);
        assert_eq!(rx.next().now_or_never(), None);
        let sending = async move { tx.send(1) };
        let (items, ()) = block_on(async { join!(rx.by_ref().collect::<Vec<_>>(), sending) });
        assert_eq!(items, [1]);
    }
}
