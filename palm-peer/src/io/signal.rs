//! SIGTERM, SIGINT and SIGHUP: the only user of async-signal.
//!
//! A dedicated thread receives them, so that a function that blocks the executor cannot prevent a
//! second signal from ending the process.

use super::threads::{Name, panic_if_rigged, start_thread, wake};
use async_signal::{Signal, Signals};
use futures::{StreamExt as _, executor::block_on};
use palm_proto::shutdown::{Request, Requests};
use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

struct State {
    /// Whether the process's signals are received here.
    installed: bool,
    requests: Requests,
    /// The wakers, by the number of the future.
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    installed: false,
    requests: Requests::NONE,
    wakers: BTreeMap::new(),
    next: 0,
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that has not come yet.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub(crate) struct Awaited {
    id: u64,
    seen: u64,
    comes: fn(&Requests, u64) -> bool,
}

impl Awaited {
    fn new(seen: u64, comes: fn(&Requests, u64) -> bool) -> Self {
        let mut state = state();
        state.next += 1;
        Self {
            id: state.next,
            seen,
            comes,
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        state().wakers.remove(&self.id);
    }
}

impl Future for Awaited {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = state();
        if (self.comes)(&state.requests, self.seen) {
            return Poll::Ready(());
        }
        match state.wakers.get_mut(&self.id) {
            Some(waker) => waker.clone_from(context.waker()),
            None => drop(state.wakers.insert(self.id, context.waker().clone())),
        }
        Poll::Pending
    }
}

/// Returns a future that ends at the first signal after this call. From then on these signals no
/// longer end the process. Fails when the system refuses.
pub(crate) fn termination() -> io::Result<Awaited> {
    install()?;
    Ok(Awaited::new(seen(), Requests::asks_for_shutdown))
}

/// Returns a future that ends at another request after the first `seen` requests: see
/// [`Requests::asks_to_hurry`]. Without [`termination`] it never ends.
pub(crate) fn hurry(seen: u64) -> Awaited {
    Awaited::new(seen, Requests::asks_to_hurry)
}

/// Returns the number of requests so far.
pub(crate) fn seen() -> u64 {
    state().requests.count()
}

fn install() -> io::Result<()> {
    let mut state = state();
    if state.installed {
        return Ok(());
    }
    let hang_up = (!is_hang_up_ignored()).then_some(Signal::Hup);
    let mut signals = Signals::new([Signal::Term, Signal::Int].into_iter().chain(hang_up))?;
    start_thread(Name::Signals, "palm-signals", move || {
        while let Some(received) = block_on(signals.next()) {
            match received {
                Ok(Signal::Hup) => receive(Request::HangUp),
                Ok(_) => receive(Request::Terminate),
                Err(error) => log::debug!("a signal could not be read: {error}"),
            }
            panic_if_rigged(Name::Signals);
        }
        Err("signals can no longer be received".to_owned())
    })?;
    state.installed = true;
    Ok(())
}

fn receive(request: Request) {
    let wakers = {
        let mut state = state();
        state.requests.observe(request);
        std::mem::take(&mut state.wakers)
    };
    wakers.into_values().for_each(wake);
}

/// Returns whether SIGHUP was ignored when the process started, as under `nohup`.
fn is_hang_up_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status))
}

/// Reads SIGHUP, the lowest bit of the mask, from the format of `proc_pid_status(5)`.
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_process_status() {
        for (status, ignored) in [
            ("Name:\tx\nSigIgn:\t0000000000000001\n", true),
            (
                "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n",
                false,
            ),
            ("SigIgn:\t0000000000001007\n", true),
            ("", false),
        ] {
            assert_eq!(ignores_hang_up(status), ignored, "{status:?}");
        }
    }
}
