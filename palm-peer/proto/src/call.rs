//! When a call is sent, to which instance, when it is retried, and which error its caller gets.
//!
//! [`Call`] is one call. [`Call::next`] says what to do now; the caller does it, and reports an
//! attempt without a result to [`Call::attempt_failed`]. The rule: a call is sent again only if it
//! is certain that the function did not run. Each instance is tried once a round. When none is
//! left, another round begins after a backoff, if it may succeed before the deadline. Nothing is
//! sent after the deadline.

#[cfg(test)]
mod tests;

use crate::{
    backoff::backoff,
    directory::Able,
    routing::not_avoided,
    types::{
        instance::Instance,
        message::{CallErrorKind, CallFailure},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The wait before the second round.
const MIN_BACKOFF: Duration = Duration::from_millis(5);

/// The longest wait between two rounds.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// What went wrong.
    pub failure: CallFailure,
    /// The server that it went wrong at, if the call came that far.
    pub server: Option<Uuid>,
}

/// Why an attempt has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptError {
    /// There is no connection to the instance.
    NotConnected {
        /// Why not.
        failure: CallFailure,
        /// How long connecting may take if it is tried again; `None` when that would fail as well.
        retry_takes: Option<Duration>,
    },
    /// The request was not sent.
    NotSent(CallFailure),
    /// The server answered with an error.
    Answered(CallFailure),
    /// The connection broke before the answer.
    ConnectionLost,
    /// There was no answer before the deadline.
    TimedOut,
}

impl AttemptError {
    /// Returns its kind, as a caller gets it.
    #[must_use]
    pub fn kind(&self) -> CallErrorKind {
        match self {
            Self::NotConnected { failure, .. }
            | Self::NotSent(failure)
            | Self::Answered(failure) => failure.kind,
            Self::ConnectionLost => CallErrorKind::Unreachable,
            Self::TimedOut => CallErrorKind::TimedOut,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send the request to this instance.
    Attempt(Arc<Instance>),
    /// Ask again at this time.
    Wait(Instant),
    /// Give up.
    Fail(FailedCall),
}

/// One call.
#[derive(Debug)]
pub struct Call {
    deadline: Instant,
    /// The instances that were tried in this round.
    tried: Vec<Uuid>,
    /// Why the last attempt failed.
    last: Option<FailedCall>,
    /// How many rounds are over.
    rounds: u32,
    /// The least time that an attempt of another round needs; `None` when another round
    /// cannot do better.
    retry_takes: Option<Duration>,
}

impl Call {
    /// A call that must end by `deadline`.
    #[must_use]
    pub fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            tried: Vec::new(),
            last: None,
            rounds: 0,
            retry_takes: None,
        }
    }

    /// Returns what to do `now`. `able` are the instances that the target means at this time, or
    /// why there are none. `choose` picks one of several, and returns `None` only if there are
    /// none. `random` (0 to 1) spreads the waits of many clients.
    #[must_use]
    pub fn next(
        &mut self,
        now: Instant,
        able: Result<Able, CallFailure>,
        choose: impl FnOnce(&[Arc<Instance>]) -> Option<Arc<Instance>>,
        random: f64,
    ) -> Next {
        if now >= self.deadline {
            return Next::Fail(self.last(timed_out()));
        }
        let able = match able {
            Ok(able) => able,
            // The error of an instance says more than that no instance is left.
            Err(failure) => return Next::Fail(self.last(failure)),
        };
        match choose(&not_avoided(&able, &self.tried)) {
            Some(instance) => Next::Attempt(instance),
            None => self.next_round(now, random),
        }
    }

    /// An attempt at this instance had no result.
    ///
    /// # Errors
    /// When the function may have run: the call ends with this failure.
    pub fn attempt_failed(
        &mut self,
        instance: Uuid,
        error: AttemptError,
    ) -> Result<(), FailedCall> {
        let (failure, retry_takes) = did_not_run(error).map_err(|failure| FailedCall {
            failure,
            server: Some(instance),
        })?;
        self.tried.push(instance);
        self.last = Some(FailedCall {
            failure,
            server: Some(instance),
        });
        self.retry_takes = [self.retry_takes, retry_takes].into_iter().flatten().min();
        Ok(())
    }

    fn next_round(&mut self, now: Instant, random: f64) -> Next {
        let give_up = |call: &Self| {
            Next::Fail(call.last(CallFailure::new(
                CallErrorKind::Unreachable,
                "no other instance can be tried",
            )))
        };
        let Some(takes) = self.retry_takes.take() else {
            return give_up(self);
        };
        let begin = now + backoff(self.rounds, MIN_BACKOFF, MAX_BACKOFF, random);
        if begin + takes >= self.deadline {
            return give_up(self);
        }
        self.tried.clear();
        self.rounds += 1;
        Next::Wait(begin)
    }

    /// Why the last attempt failed; this failure if there was none.
    fn last(&self, otherwise: CallFailure) -> FailedCall {
        self.last.clone().unwrap_or(FailedCall {
            failure: otherwise,
            server: None,
        })
    }
}

/// Returns the failure of an attempt whose function certainly did not run, and how long
/// another attempt at the same instance takes if that one may succeed. An error when the
/// function may have run.
fn did_not_run(error: AttemptError) -> Result<(CallFailure, Option<Duration>), CallFailure> {
    match error {
        AttemptError::NotConnected {
            failure,
            retry_takes,
        } => Ok((failure, retry_takes)),
        AttemptError::NotSent(failure) => Ok((failure, None)),
        AttemptError::Answered(failure) => match failure.kind {
            // It may have room again after a while.
            CallErrorKind::Busy => Ok((failure, Some(Duration::ZERO))),
            CallErrorKind::Leaving | CallErrorKind::WrongServer => Ok((failure, None)),
            _ => Err(failure),
        },
        AttemptError::ConnectionLost => {
            let message = "the connection broke before the answer; the function may have run";
            Err(CallFailure::new(CallErrorKind::Unreachable, message))
        }
        AttemptError::TimedOut => Err(timed_out()),
    }
}

fn timed_out() -> CallFailure {
    CallFailure::new(CallErrorKind::TimedOut, "no answer before the deadline")
}
