//! The calls that wait for their replies over one link.

use crate::{
    client::replies::Reply,
    io::{
        threads::wake,
        timer::{self, Alarm},
    },
    sync::lock,
};
use palm_proto::{
    call_slots::{CallSlots, Polled},
    replies::Arrived,
};
use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

/// Why a call has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// The connection broke before it: the function may or may not have run.
    Broken,
    /// It did not come before the deadline.
    TimedOut,
}

type Outcome = Result<Reply, NoReply>;

/// The calls over one link. All of them share one timer, which wakes this: calls that are answered
/// before their deadlines cost no timer.
#[derive(Debug)]
pub(super) struct Calls(Mutex<State>);

#[derive(Debug)]
struct State {
    slots: CallSlots<Waker, Outcome>,
    /// Goes off no later than the next call times out.
    alarm: Option<Alarm>,
    ended: bool,
}

impl Calls {
    /// Without calls; this many replies to no call may come.
    pub(super) fn new(late: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            slots: CallSlots::new(late),
            alarm: None,
            ended: false,
        })))
    }

    /// Returns how many calls wait for their replies.
    pub(super) fn in_flight(&self) -> usize {
        lock(&self.0).slots.in_flight()
    }

    /// A call is about to be sent. Returns its index, and whether it is the only one; `None` if the
    /// link has ended.
    pub(super) fn register(self: &Arc<Self>, deadline: Instant) -> Option<(u64, bool)> {
        let mut state = lock(&self.0);
        if state.ended {
            return None;
        }
        let idx = state.slots.register(deadline);
        let earlier = state.set_alarm(self);
        let registered = (idx, state.slots.in_flight() == 1);
        drop(state);
        drop(earlier);
        Some(registered)
    }

    /// Returns the outcome of a call, or has the task woken that waits for it.
    pub(super) fn poll(&self, idx: u64, cx: &Context<'_>) -> Poll<Outcome> {
        let mut previous = None;
        let polled = lock(&self.0).slots.poll(idx, |waiter| {
            if !waiter
                .as_ref()
                .is_some_and(|waiter| waiter.will_wake(cx.waker()))
            {
                previous = waiter.replace(cx.waker().clone());
            }
        });
        // The last waker of a task drops the task, which may own other calls: not under the lock.
        drop(previous);
        match polled {
            Polled::Done(outcome) => Poll::Ready(outcome),
            Polled::Waiting => Poll::Pending,
            Polled::Unknown => Poll::Ready(Err(NoReply::Broken)),
        }
    }

    /// A reply has come.
    pub(super) fn arrived(&self, reply: Reply) -> Arrived<()> {
        let idx = reply.answer.idx;
        let arrived = lock(&self.0).slots.arrived(idx, Ok(reply));
        match arrived {
            Arrived::For(waiter) => {
                if let Some(waiter) = waiter {
                    wake(waiter);
                }
                Arrived::For(())
            }
            Arrived::Late => Arrived::Late,
            Arrived::Unsolicited => Arrived::Unsolicited,
        }
    }

    /// The call was not sent after all.
    pub(super) fn unregister(&self, idx: u64) {
        lock(&self.0).slots.unregister(idx);
    }

    /// Gives up a call. Returns whether its reply may still come.
    pub(super) fn discard(&self, idx: u64) -> bool {
        let mut waiter = None;
        let mut state = lock(&self.0);
        // As in `poll`.
        let reply = state.slots.poll(idx, |stored| waiter = stored.take());
        let outstanding = state.slots.discard(idx);
        drop(state);
        drop((waiter, reply));
        outstanding
    }

    /// The link has ended, and all calls with it.
    pub(super) fn end(&self) {
        let mut state = lock(&self.0);
        state.ended = true;
        let waiters = state.slots.end(|| Err(NoReply::Broken));
        let alarm = state.alarm.take();
        drop(state);
        drop(alarm);
        waiters.into_iter().for_each(wake);
    }
}

impl State {
    /// Sets the alarm to the time at which calls must be searched for their deadlines, unless it
    /// goes off before. Returns the previous alarm, which must not be dropped under the lock.
    fn set_alarm(&mut self, calls: &Arc<Calls>) -> Option<Alarm> {
        let next = self.slots.next_expiry()?;
        if self.alarm.as_ref().is_some_and(|alarm| alarm.at() <= next) {
            return None;
        }
        let waker = Waker::from(Arc::clone(calls));
        self.alarm.replace(timer::wake_at(next, waker))
    }
}

/// The alarm has gone off.
impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.0);
        let alarm = state.alarm.take();
        let waiters = state
            .slots
            .expire(Instant::now(), || Err(NoReply::TimedOut));
        let _ = state.set_alarm(&self);
        drop(state);
        drop(alarm);
        waiters.into_iter().for_each(wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, future::join_all};
    use std::{future::poll_fn, time::Duration};

    fn call(calls: &Arc<Calls>, time: Duration) -> u64 {
        let registered = calls.register(Instant::now() + time);
        registered.expect("the link has not ended").0
    }

    #[test]
    fn calls_time_out_whatever_the_order_of_their_deadlines() {
        let calls = Calls::new(0);
        let began = Instant::now();
        let waits = [60, 1, 30, 10_000].map(|ms| {
            let idx = call(&calls, Duration::from_millis(ms));
            let calls = &calls;
            async move {
                let outcome = poll_fn(|cx| calls.poll(idx, cx)).await;
                if ms == 60 {
                    calls.end();
                }
                (ms, outcome.map(drop), began.elapsed())
            }
        });
        for (ms, outcome, took) in block_on(join_all(waits)) {
            if ms == 10_000 {
                assert_eq!(outcome, Err(NoReply::Broken));
            } else {
                assert_eq!(outcome, Err(NoReply::TimedOut), "{ms} ms");
                assert!(took >= Duration::from_millis(ms), "{ms} ms took {took:?}");
            }
        }
        assert_eq!(calls.in_flight(), 0);
        assert_eq!(calls.register(Instant::now()), None);
    }

    /// A waker of the program that panics.
    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("rigged");
        }
    }

    #[test]
    fn a_waker_that_panics_harms_no_other_call() {
        let calls = Calls::new(0);
        let [panics, other] = [0; 2].map(|_| call(&calls, Duration::from_millis(10)));
        let waker = Waker::from(Arc::new(Panics));
        assert!(
            calls
                .poll(panics, &Context::from_waker(&waker))
                .is_pending()
        );
        let outcome = block_on(poll_fn(|cx| calls.poll(other, cx)));
        assert_eq!(outcome.map(drop), Err(NoReply::TimedOut));
    }

    #[test]
    fn an_answered_call_leaves_its_alarm_to_the_next_ones() {
        let calls = Calls::new(0);
        let time = Duration::from_secs(10);
        let first = call(&calls, time);
        let alarm = || lock(&calls.0).alarm.as_ref().map(Alarm::at);
        let set = alarm();
        assert_eq!(calls.arrived(Reply::empty(first)), Arrived::For(()));
        let second = call(&calls, time);
        assert_eq!(alarm(), set, "no timer for each call");
        assert!(calls.discard(second) && !calls.discard(first));
        assert_eq!(calls.arrived(Reply::empty(second)), Arrived::Late);
        assert_eq!(calls.arrived(Reply::empty(second)), Arrived::Unsolicited);
    }
}
