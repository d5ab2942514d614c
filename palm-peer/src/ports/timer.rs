//! Deadlines, by the thousand.
//!
//! Nearly every deadline here belongs to a call that ends long before it. A timer of the reactor costs a system call to set
//! and another to forget; these cost an entry in a map. One background task sleeps until the earliest.

use super::runtime;
use futures::{
    channel::mpsc,
    future::{Either, select},
    pin_mut,
    stream::StreamExt,
};
use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

type Key = (Instant, u64);

#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<Key, Waker>,
    next: u64,
    /// Until when the background task sleeps; `None` when it waits for a first deadline.
    sleeping_until: Option<Instant>,
}

struct Timers {
    waiting: Mutex<Waiting>,
    earlier: mpsc::UnboundedSender<()>,
}

impl Timers {
    fn shared() -> &'static Self {
        static TIMERS: OnceLock<Timers> = OnceLock::new();
        TIMERS.get_or_init(|| {
            let (earlier, wakes) = mpsc::unbounded();
            runtime::spawn(fire(wakes));
            Timers { waiting: Mutex::default(), earlier }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, deadline: Instant, waker: Waker) -> Key {
        let mut waiting = self.lock();
        let key = (deadline, waiting.next);
        waiting.next += 1;
        waiting.wakers.insert(key, waker);
        if waiting.sleeping_until.is_none_or(|until| deadline < until) {
            waiting.sleeping_until = Some(deadline);
            // The receiver lives as long as the process.
            let _ = self.earlier.unbounded_send(());
        }
        key
    }
}

async fn fire(mut wakes: mpsc::UnboundedReceiver<()>) {
    while wakes.next().await.is_some() {
        while let Some(next) = wake_expired() {
            let sleep = runtime::sleep(next.saturating_duration_since(Instant::now()));
            pin_mut!(sleep);
            if let Either::Right((None, _)) = select(sleep, wakes.next()).await {
                return;
            }
        }
    }
}

/// Wakes those whose deadline has passed, and gives the next one.
fn wake_expired() -> Option<Instant> {
    let mut waiting = Timers::shared().lock();
    let later = waiting.wakers.split_off(&(Instant::now(), u64::MAX));
    let expired = std::mem::replace(&mut waiting.wakers, later);
    waiting.sleeping_until = waiting.wakers.first_key_value().map(|((deadline, _), _)| *deadline);
    let next = waiting.sleeping_until;
    drop(waiting);
    expired.into_values().for_each(Waker::wake);
    next
}

/// Ends at a deadline. Dropping it early costs next to nothing.
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.forget();
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        self.key = Some(Timers::shared().add(self.deadline, cx.waker().clone()));
        Poll::Pending
    }
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            // The last waker of a task takes the task with it, and its own timers: not under our lock.
            let waker = Timers::shared().lock().wakers.remove(&key);
            drop(waker);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None }
}

/// Waits for `time`.
pub fn sleep(time: Duration) -> Sleep {
    sleep_until(Instant::now() + time)
}

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for `future`, but not beyond `deadline`; then it is dropped.
///
/// # Errors
/// [`Elapsed`] when the deadline passed first.
pub async fn timeout_at<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    pin_mut!(future);
    match select(future, sleep_until(deadline)).await {
        Either::Left((value, _)) => Ok(value),
        Either::Right(((), _)) => Err(Elapsed),
    }
}

/// Waits for `future`, but no longer than `time`; then it is dropped.
///
/// # Errors
/// [`Elapsed`] when the time passed first.
pub async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(Instant::now() + time, future).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, future::join_all};

    #[test]
    fn deadlines_fire_in_order_whatever_the_order_they_are_set_in() {
        let start = Instant::now();
        let waits = [30_u64, 10, 20, 0, 10].map(|ms| async move {
            sleep_until(start + Duration::from_millis(ms)).await;
            (ms, start.elapsed())
        });
        for (ms, took) in block_on(join_all(waits)) {
            assert!(took >= Duration::from_millis(ms), "{ms} ms fired after {took:?}");
        }
    }

    #[test]
    fn an_early_end_leaves_nothing_behind() {
        let marker = Instant::now() + Duration::from_secs(77);
        block_on(async {
            assert_eq!(timeout_at(marker, async { 7 }).await, Ok(7));
            let silent = timeout(Duration::from_millis(5), futures::future::pending::<()>());
            assert_eq!(silent.await, Err(Elapsed));
        });
        assert!(!Timers::shared().lock().wakers.keys().any(|(deadline, _)| *deadline == marker));
    }
}
