//! Cheap timers for thousands of deadlines.
//!
//! Nearly every deadline here belongs to a call that ends long before it. A timer of the reactor
//! costs a system call to set and another to cancel; these cost an entry in a map. A dedicated
//! thread sleeps until the earliest one: leases and probes depend on them, and a function that
//! blocks the executor must not delay those.

use super::threads::{Name, panic_if_rigged, start_thread, wake};
use futures::{
    FutureExt as _,
    channel::oneshot,
    future::{Either, select},
    pin_mut,
};
use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// See [`coarse`].
const GRAIN: Duration = Duration::from_millis(50);

type Key = (Instant, u64);

struct Waiting {
    wakers: BTreeMap<Key, Waker>,
    next: u64,
    /// Until when the thread sleeps; `None` while there is no deadline.
    sleeping_until: Option<Instant>,
}

struct Timers {
    waiting: Mutex<Waiting>,
    /// Notified of a deadline earlier than the one that the thread sleeps until.
    earlier: Condvar,
}

impl Timers {
    fn shared() -> &'static Self {
        static TIMERS: Timers = Timers {
            waiting: Mutex::new(Waiting::new()),
            earlier: Condvar::new(),
        };
        static THREAD: OnceLock<()> = OnceLock::new();
        THREAD.get_or_init(|| {
            let started = start_thread(Name::Timer, "palm-timer", || TIMERS.fire());
            // As the executor does without a thread: nothing works without timers.
            assert!(
                started.is_ok(),
                "no thread for the timers can be started: {started:?}"
            );
        });
        &TIMERS
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
            self.earlier.notify_one();
        }
        key
    }

    /// Returns whether this waker is registered under this key.
    fn keeps(&self, key: Key, waker: &Waker) -> bool {
        self.lock()
            .wakers
            .get(&key)
            .is_some_and(|kept| kept.will_wake(waker))
    }

    /// Wakes the tasks whose deadlines have passed, forever.
    fn fire(&self) -> ! {
        let mut waiting = self.lock();
        loop {
            panic_if_rigged(Name::Timer);
            let expired = waiting.take_expired(Instant::now());
            if !expired.is_empty() {
                // A waker may set the next deadline.
                drop(waiting);
                expired.into_values().for_each(wake);
                waiting = self.lock();
                continue;
            }
            waiting.sleeping_until = waiting
                .wakers
                .first_key_value()
                .map(|((deadline, _), _)| *deadline);
            waiting = match waiting.sleeping_until {
                Some(until) => {
                    let time = until.saturating_duration_since(Instant::now());
                    self.earlier
                        .wait_timeout(waiting, time)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .earlier
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Waiting {
    const fn new() -> Self {
        Self {
            wakers: BTreeMap::new(),
            next: 0,
            sleeping_until: None,
        }
    }

    fn take_expired(&mut self, now: Instant) -> BTreeMap<Key, Waker> {
        let later = self.wakers.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.wakers, later)
    }
}

/// A waker that is woken at a time, unless this is dropped before.
#[derive(Debug)]
pub(crate) struct Alarm(Key);

impl Alarm {
    /// Returns its time.
    pub(crate) fn at(&self) -> Instant {
        self.0.0
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Dropping the last waker of a task drops the task and its timers: not under our lock.
        let waker = Timers::shared().lock().wakers.remove(&self.0);
        drop(waker);
    }
}

/// Wakes `waker` at this time, in the thread of the timers: it must not take long.
pub(crate) fn wake_at(time: Instant, waker: Waker) -> Alarm {
    Alarm(Timers::shared().add(time, waker))
}

/// A future that ends at a deadline. Dropping it early is cheap.
#[derive(Debug)]
pub(crate) struct Sleep {
    deadline: Instant,
    alarm: Option<Alarm>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            self.alarm = None;
            return Poll::Ready(());
        }
        // A task that waits for several futures polls each of them repeatedly.
        if !self
            .alarm
            .as_ref()
            .is_some_and(|alarm| Timers::shared().keeps(alarm.0, cx.waker()))
        {
            self.alarm = None;
            self.alarm = Some(wake_at(self.deadline, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Sleep {
    /// Returns its deadline.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Returns the end of the [`GRAIN`] that `deadline` is in. Many deadlines that need not be exact
/// then end together, with one wake-up.
pub(crate) fn coarse(deadline: Instant) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    end_of_grain(*START, deadline)
}

fn end_of_grain(start: Instant, deadline: Instant) -> Instant {
    let since = deadline.saturating_duration_since(start).as_nanos();
    let late = since.next_multiple_of(GRAIN.as_nanos()) - since;
    deadline + Duration::from_nanos(u64::try_from(late).unwrap_or(0))
}

/// Waits until `deadline`.
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline,
        alarm: None,
    }
}

/// Waits for the end of a sleep, if there is one; otherwise forever.
pub(crate) async fn end_of(sleep: Option<&mut Sleep>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => futures::future::pending().await,
    }
}

/// Waits for `time`.
pub(crate) fn sleep(time: Duration) -> Sleep {
    sleep_until(Instant::now() + time)
}

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Waits for `future`, but not beyond `deadline`; then it is dropped. Fails with [`Elapsed`] when
/// the deadline passed first.
pub(crate) async fn timeout_at<T>(
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    pin_mut!(future);
    match select(future, sleep_until(deadline)).await {
        Either::Left((value, _)) => Ok(value),
        Either::Right(((), _)) => Err(Elapsed),
    }
}

/// Waits for `future`, but no longer than `time`; then it is dropped. Fails with [`Elapsed`] when
/// the time passed first.
pub(crate) async fn timeout<T>(
    time: Duration,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    timeout_at(Instant::now() + time, future).await
}

/// Ends after a time even if the timers have failed, at the cost of a thread: see [`last_resort`].
#[derive(Debug)]
pub(crate) struct LastResort {
    passed: oneshot::Receiver<()>,
    /// Dropping it ends the thread.
    _stop: mpsc::Sender<()>,
}

/// Waits for `time` on a dedicated thread, for operations that must end whatever has failed
/// in this process.
pub(crate) fn last_resort(time: Duration) -> LastResort {
    let deadline = Instant::now() + time;
    let (tx, passed) = oneshot::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let mut tx = Some(tx);
    let started = start_thread(Name::LastResort, "palm-last-resort", move || {
        panic_if_rigged(Name::LastResort);
        let time = deadline.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = tx.take().map(|tx| tx.send(()));
        }
        Ok(())
    });
    if let Err(error) = started {
        log::warn!("the thread that bounds the shutdown cannot start: {error}");
    }
    LastResort {
        passed,
        _stop: stop,
    }
}

impl Future for LastResort {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.passed.poll_unpin(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // Without its thread it never ends.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::executor;
    use futures::{channel::oneshot, executor::block_on, future::join_all};
    use std::{
        sync::{
            Arc, RwLock,
            atomic::{AtomicBool, Ordering},
        },
        task::Wake,
    };

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn deadlines_fire_in_order_whatever_the_order_they_are_set_in() {
        let start = Instant::now();
        let waits = [30_u64, 10, 20, 0, 10].map(|ms| async move {
            sleep_until(start + Duration::from_millis(ms)).await;
            (ms, start.elapsed())
        });
        for (ms, took) in block_on(join_all(waits)) {
            assert!(
                took >= Duration::from_millis(ms),
                "{ms} ms fired after {took:?}"
            );
        }
    }

    #[test]
    fn a_blocked_executor_delays_no_deadline() {
        let gate = Arc::new(RwLock::new(()));
        let closed = gate.write().expect("nobody else has it");
        // More than the executor has threads.
        for _ in 0..64 {
            let gate = Arc::clone(&gate);
            executor::spawn(Name::Test, async move { drop(gate.read()) });
        }
        let (tx, mut turned) = oneshot::channel();
        executor::spawn(Name::Test, async move {
            tx.send(()).expect("the test waits for it");
        });
        block_on(sleep(Duration::from_millis(10)));
        assert_eq!(turned.try_recv(), Ok(None), "the executor is held up");
        drop(closed);
        block_on(turned).expect("the executor goes on");
    }

    #[test]
    fn coarse_deadlines_end_together_and_no_earlier() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        for (deadline, wanted) in [(0, 0), (1, 50), (49, 50), (50, 50), (51, 100), (1049, 1050)] {
            assert_eq!(end_of_grain(start, ms(deadline)), ms(wanted), "{deadline}");
        }
        assert_eq!(end_of_grain(ms(10), start), start, "what is over is over");
        assert!(coarse(start) >= start && coarse(start) - start < GRAIN);
    }

    #[test]
    fn a_sleep_wakes_the_task_that_polled_it_last() {
        let (first, second) = (Arc::new(Flag::default()), Arc::new(Flag::default()));
        let mut sleep = sleep(Duration::from_millis(20));
        for flag in [&first, &first, &second] {
            let waker = Waker::from(Arc::clone(flag));
            assert!(
                sleep
                    .poll_unpin(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        for _ in 0..1000 {
            if second.0.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            second.0.load(Ordering::SeqCst),
            "the task that polled last is woken"
        );
        assert!(!first.0.load(Ordering::SeqCst), "nobody else");
    }

    #[test]
    fn the_last_resort_needs_no_timer() {
        let start = Instant::now();
        block_on(last_resort(Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(last_resort(Duration::from_secs(3600)).now_or_never(), None);
    }

    #[test]
    fn a_dropped_sleep_leaves_no_state() {
        let marker = Instant::now() + Duration::from_secs(77);
        block_on(async {
            assert_eq!(timeout_at(marker, async { 7 }).await, Ok(7));
            let silent = timeout(Duration::from_millis(5), futures::future::pending::<()>());
            assert_eq!(silent.await, Err(Elapsed));
        });
        assert!(
            !Timers::shared()
                .lock()
                .wakers
                .keys()
                .any(|(deadline, _)| *deadline == marker)
        );
    }
}
