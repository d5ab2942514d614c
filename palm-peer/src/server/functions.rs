//! Runs one function for one message.

use super::{
    metrics,
    slot::{Held, Slot},
    spawner::{Running, Spawner},
    state::ServerState,
    task::{Begun, End},
    typed,
};
use crate::{
    client::witnesses,
    io::timer::{self, Elapsed},
    server::message::{Function, Message, Outcome},
};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use log::Level;
use palm_proto::{
    log_buffer,
    log_history::LogQuery,
    types::{
        answer::Answer,
        message::{CallErrorKind, CallFailure},
        meta::Meta,
        text::panic_message,
    },
};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};
use uuid::Uuid;

/// The answer of a function, or why there is none.
pub(crate) type FunctionResult = Result<Answer, CallFailure>;

/// Returns the result, or an error if it is longer than this, or its metadata cannot be sent.
pub(crate) fn at_most(max: usize, result: FunctionResult) -> FunctionResult {
    let result = result?;
    let length = result.len();
    let message = if length > max {
        format!("{length} bytes, {max} at most")
    } else if let Some(problem) = result.meta().problem() {
        problem
    } else {
        return Ok(result);
    };
    let message = format!("the function answered {message}");
    Err(CallFailure::new(CallErrorKind::TooLarge, message))
}

/// Adds to the metadata of a message what the function of a stage has set. Fails when it cannot be
/// sent then.
pub(crate) fn add_meta(meta: &mut Meta, set: Meta) -> Result<(), CallFailure> {
    if set.is_empty() {
        return Ok(());
    }
    meta.merge(set);
    meta.problem().map_or(Ok(()), |problem| {
        let message = format!("the function answered meta, with which the message has {problem}");
        Err(CallFailure::new(CallErrorKind::TooLarge, message))
    })
}

/// A function that was started.
pub(crate) enum Started {
    /// It has ended, as many do, without waiting for anything.
    Ended(FunctionResult),
    /// It waits: see [`place`] and [`finish`].
    Waiting(BoxFuture<'static, Outcome>),
}

/// Starts a function, unless its deadline has passed, and runs it until it first waits. It
/// must be polled again then: it does not know whom to wake yet.
pub(crate) fn start(function: &Function, message: Message, now: Instant) -> Started {
    if now >= message.deadline {
        return Started::Ended(Err(CallFailure::new(
            CallErrorKind::TimedOut,
            "the deadline passed before the function could start",
        )));
    }
    // The closure is the program's code too, and may panic before it returns a future. It is unwind
    // safe: nothing of ours is shared with it.
    let started = catch_unwind(AssertUnwindSafe(|| {
        let mut running = function(message);
        match running.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Err(outcome),
            Poll::Pending => Ok(running),
        }
    }));
    match started {
        Ok(Ok(running)) => Started::Waiting(running),
        Ok(Err(outcome)) => Started::Ended(answer(outcome)),
        Err(panic) => Started::Ended(Err(panicked(panic))),
    }
}

/// Hands a function that waits to where it runs, with its slot.
pub(super) fn place(
    spawner: &Spawner,
    running: BoxFuture<'static, Outcome>,
    slot: Option<Arc<Slot>>,
    only_waits: bool,
) -> Running {
    let running = match slot {
        Some(slot) => Held::new(running, slot).boxed(),
        None => running,
    };
    if only_waits {
        // Another thread would gain nothing.
        return Running::Here(running);
    }
    spawner.place(running)
}

/// Runs a started function to its end, its panic, or its deadline.
pub(super) async fn finish(running: Running, end: End) -> FunctionResult {
    // Dropping it at its deadline may panic as well, and happens inside.
    let running = timer::timeout_at(end.at, running.outcome());
    match AssertUnwindSafe(running).catch_unwind().await {
        Ok(Ok(outcome)) => answer(outcome?),
        Err(panic) => Err(panicked(panic)),
        Ok(Err(Elapsed)) => Err(end.timed_out()),
    }
}

/// Starts a function and runs it to its end.
pub(super) async fn run(begun: Begun, spawner: Spawner) -> FunctionResult {
    let Begun {
        function,
        message,
        only_waits,
        end,
        slot,
    } = begun;
    match start(&function, message, Instant::now()) {
        Started::Ended(result) => result,
        Started::Waiting(running) => finish(place(&spawner, running, slot, only_waits), end).await,
    }
}

fn answer(outcome: Outcome) -> FunctionResult {
    outcome.map_err(|error| typed::failure(&error))
}

fn panicked(panic: Box<dyn Any + Send>) -> CallFailure {
    CallFailure::new(CallErrorKind::Panicked, panic_message(panic))
}

/// Runs a built-in function; `None` if there is none of this name.
pub(crate) fn built_in(
    state: &Arc<ServerState>,
    name: &str,
    message: Message,
) -> Option<Result<Bytes, CallFailure>> {
    Some(match name {
        "_ping" => Ok(state.ping().into()),
        "_log_query" => log_query(state, &message),
        "_metrics" => metrics::encode(state).map(Bytes::from).map_err(|_| {
            let text = "the metrics cannot be written as text";
            CallFailure::new(CallErrorKind::Failed, text)
        }),
        "set" => {
            let key = message.cache.unwrap_or_else(|| Uuid::new_v4().to_string());
            // The payload is a slice of the receive buffer; a stored value must not keep
            // the whole buffer.
            let value = Bytes::copy_from_slice(&message.payload);
            state.store().set(&key, value).map(|()| key.into())
        }
        "append" => {
            let key = message.cache.unwrap_or_else(|| Uuid::new_v4().to_string());
            state
                .store()
                .append(&key, &message.payload)
                .map(|()| key.into())
        }
        "get" => key_of(message).and_then(|key| state.store().get(&key)),
        "delete" => key_of(message).and_then(|key| state.store().delete(&key).map(|()| key.into())),
        _ => return None,
    })
}

/// Returns a built-in function that runs concurrently, as those of the program do; `None` if there
/// is none of this name.
pub(crate) fn built_in_that_waits(state: &Arc<ServerState>, name: &str) -> Option<Function> {
    if name != witnesses::PROBE {
        return None;
    }
    let state = Arc::clone(state);
    Some(Arc::new(move |message: Message| {
        let state = Arc::clone(&state);
        async move {
            let etcd = state.relay.etcd().ok_or("this server has not joined")?;
            let time = message
                .deadline
                .saturating_duration_since(Instant::now())
                .min(state.config.probe_timeout);
            let (keys, dialer) = (state.config.keys(), state.dialer.for_probes(etcd));
            // Reserves some time for the way back.
            let found =
                witnesses::probe(etcd, &keys, &dialer, &message.payload, time.mul_f64(0.9)).await?;
            Ok(Answer::new(serde_json::to_vec(&found)?))
        }
        .boxed()
    }))
}

fn key_of(message: Message) -> Result<String, CallFailure> {
    message.cache.map_or_else(
        || {
            String::from_utf8(message.payload.into())
                .map_err(|_| CallFailure::new(CallErrorKind::BadMessage, "a key must be UTF-8"))
        },
        Ok,
    )
}

fn log_query(state: &ServerState, message: &Message) -> Result<Bytes, CallFailure> {
    if let Some(query) = LogQuery::read(&message.payload) {
        let invalid = |reason| CallFailure::new(CallErrorKind::BadMessage, reason);
        let page = state.log_page(&query.map_err(invalid)?);
        return serde_json::to_vec(&page)
            .map(Bytes::from)
            .map_err(|error| CallFailure::new(CallErrorKind::Failed, error.to_string()));
    }
    let name = String::from_utf8_lossy(&message.payload);
    let name = name.trim();
    let level = if name.is_empty() {
        Some(Level::Error)
    } else {
        log_buffer::level_named(name)
    };
    let unknown = || {
        CallFailure::new(
            CallErrorKind::BadMessage,
            format!("{name:?} is not a level such as WARNING"),
        )
    };
    level
        .ok_or_else(unknown)
        .map(|level| state.take_log(level).into())
}
