//! The calls that wait for their replies on one link: a slab of slots, each with a deadline.
//!
//! A call's index says which slot is its own, so that neither a map nor a timer is needed for each
//! call. An index is not used again (before four billion other calls), so a late reply is not
//! taken for that of another call. Waiters (`W`) are stored, not woken; replies (`R`) are stored
//! until they are taken.

#[cfg(test)]
mod tests;

use crate::replies::Arrived;
use std::time::{Duration, Instant};

/// An empty slab with more slots than this gives its memory back.
const MAX_KEPT: usize = 1024;

/// Between two searches for calls whose deadline has passed, this long for each slot: a search
/// takes a few ns for each, so all searches together take less than a hundredth of the time,
/// however close together the deadlines are.
const PER_SLOT: Duration = Duration::from_micros(1);

/// The calls over one link.
#[derive(Debug)]
pub struct CallSlots<W, R> {
    slots: Vec<Slot<W, R>>,
    free: Vec<u32>,
    /// How many calls were registered so far: the upper half of the next index.
    registered: u32,
    waiting: usize,
    /// The number of given-up calls whose replies may still come.
    late: u64,
    /// No call's deadline is before this; `None` when none waits.
    earliest: Option<Instant>,
    /// When was searched for calls whose deadline has passed.
    searched: Option<Instant>,
}

#[derive(Debug)]
struct Slot<W, R> {
    /// The upper half of the index of the call that has it, or had it last.
    call: u32,
    state: State<W, R>,
}

#[derive(Debug)]
enum State<W, R> {
    Free,
    Waiting {
        deadline: Instant,
        waiter: Option<W>,
    },
    Done(R),
}

/// The state of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled<R> {
    /// Its reply, which is taken with this.
    Done(R),
    /// It waits.
    Waiting,
    /// There is no such call.
    Unknown,
}

impl<W, R> CallSlots<W, R> {
    /// Without calls; this many replies to given-up calls may come.
    #[must_use]
    pub fn new(late: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            registered: 0,
            waiting: 0,
            late,
            earliest: None,
            searched: None,
        }
    }

    /// Returns how many calls wait for their replies.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.waiting
    }

    /// A call is about to be sent. Returns its index.
    pub fn register(&mut self, deadline: Instant) -> u64 {
        let call = self.registered;
        self.registered = call.wrapping_add(1);
        let waiter = None;
        let slot = Slot {
            call,
            state: State::Waiting { deadline, waiter },
        };
        let pos = if let Some(pos) = self.free.pop() {
            self.slots[pos as usize] = slot;
            pos
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        };
        self.waiting += 1;
        self.earliest = Some(self.earliest.map_or(deadline, |other| other.min(deadline)));
        (u64::from(call) << 32) | u64::from(pos)
    }

    /// Returns the reply of a call, or stores who waits for it: `wait` gets the waiter stored last.
    pub fn poll(&mut self, idx: u64, wait: impl FnOnce(&mut Option<W>)) -> Polled<R> {
        let Some(pos) = self.position(idx) else {
            return Polled::Unknown;
        };
        if let State::Waiting { waiter, .. } = &mut self.slots[pos].state {
            wait(waiter);
            return Polled::Waiting;
        }
        match self.release(pos) {
            State::Done(reply) => Polled::Done(reply),
            State::Free | State::Waiting { .. } => Polled::Unknown,
        }
    }

    /// A reply has come, with the index that it has.
    pub fn arrived(&mut self, idx: Option<u64>, reply: R) -> Arrived<Option<W>> {
        let pos = idx.and_then(|idx| self.position(idx));
        if let Some(pos) = pos
            && let State::Waiting { waiter, .. } = &mut self.slots[pos].state
        {
            let waiter = waiter.take();
            self.slots[pos].state = State::Done(reply);
            self.waiting -= 1;
            return Arrived::For(waiter);
        }
        self.take_late()
    }

    fn take_late(&mut self) -> Arrived<Option<W>> {
        match self.late.checked_sub(1) {
            Some(left) => {
                self.late = left;
                Arrived::Late
            }
            None => Arrived::Unsolicited,
        }
    }

    /// The call was not sent after all.
    pub fn unregister(&mut self, idx: u64) {
        if let Some(pos) = self.position(idx) {
            self.give_up(pos);
        }
    }

    /// Gives up a call, whether or not its reply has come. Returns whether its reply may still
    /// come.
    pub fn discard(&mut self, idx: u64) -> bool {
        let outstanding = self.position(idx).is_some_and(|pos| self.give_up(pos));
        self.late += u64::from(outstanding);
        outstanding
    }

    /// Frees a slot. Returns whether its call was waiting.
    fn give_up(&mut self, pos: usize) -> bool {
        let was_waiting = matches!(self.slots[pos].state, State::Waiting { .. });
        self.waiting -= usize::from(was_waiting);
        self.release(pos);
        was_waiting
    }

    /// Returns when to call [`expire`](Self::expire), while calls wait.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let earliest = self.earliest.filter(|_| self.waiting > 0)?;
        let pause = PER_SLOT * u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let searched = self.searched.map(|searched| searched + pause);
        Some(searched.map_or(earliest, |searched| searched.max(earliest)))
    }

    /// Gives the calls whose deadline has passed this reply; the server's may still come.
    /// Returns their waiters.
    pub fn expire(&mut self, now: Instant, reply: impl Fn() -> R) -> Vec<W> {
        let mut waiters = Vec::new();
        if self.next_expiry().is_none_or(|next| now < next) {
            return waiters;
        }
        (self.earliest, self.searched) = (None, Some(now));
        for slot in &mut self.slots {
            let State::Waiting { deadline, waiter } = &mut slot.state else {
                continue;
            };
            if *deadline <= now {
                waiters.extend(waiter.take());
                slot.state = State::Done(reply());
                self.waiting -= 1;
                self.late += 1;
            } else {
                self.earliest = Some(
                    self.earliest
                        .map_or(*deadline, |other| other.min(*deadline)),
                );
            }
        }
        waiters
    }

    /// Gives all calls this reply: the link has ended. Returns their waiters.
    pub fn end(&mut self, reply: impl Fn() -> R) -> Vec<W> {
        let mut waiters = Vec::new();
        for slot in &mut self.slots {
            if let State::Waiting { waiter, .. } = &mut slot.state {
                waiters.extend(waiter.take());
                slot.state = State::Done(reply());
            }
        }
        (self.waiting, self.earliest) = (0, None);
        waiters
    }

    /// The position of a call's slot.
    fn position(&self, idx: u64) -> Option<usize> {
        let (call, pos) = (idx >> 32, usize::try_from(idx & u64::from(u32::MAX)).ok()?);
        let slot = self.slots.get(pos)?;
        (u64::from(slot.call) == call && !matches!(slot.state, State::Free)).then_some(pos)
    }

    /// Frees a slot. Returns what was in it.
    fn release(&mut self, pos: usize) -> State<W, R> {
        let state = std::mem::replace(&mut self.slots[pos].state, State::Free);
        self.free.extend(u32::try_from(pos));
        if self.slots.len() > MAX_KEPT && self.free.len() == self.slots.len() {
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
        state
    }
}
