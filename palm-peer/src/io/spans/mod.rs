//! Spans of calls, jobs and functions, with the names of OpenTelemetry's conventions for RPC. This
//! is the only user of `tracing` and `opentelemetry`; without the feature `tracing`, all of it is
//! nothing.
//!
//! | span | kind | parent |
//! |---|---|---|
//! | `call`, `job` | internal | the span in which it is awaited, or run |
//! | `attempt` | client | its `call` or `job` |
//! | `stage`: a request at a server, with the time in its queue | server | the `attempt`, or the `stage` before, of another process |
//! | `function`: it runs | internal | its `stage`; calls that it makes are its children |
//!
//! Between processes, the feature `opentelemetry` carries the parent in the metadata, as W3C Trace
//! Context. Without it, what a message has of that is passed on unchanged.

#[cfg(feature = "opentelemetry")]
mod trace_context;

use palm_proto::types::{
    message::{CallErrorKind, CallFailure, Request},
    meta::Meta,
};
use std::future::Future;
use uuid::Uuid;

#[cfg(feature = "tracing")]
use tracing::{Instrument as _, field::Empty, info_span};

/// A span, which ends with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Span(#[cfg(feature = "tracing")] tracing::Span);

#[cfg(feature = "tracing")]
impl Span {
    /// A call of one function.
    pub(crate) fn call(target: &str) -> Self {
        Self(info_span!(
            target: "palm",
            "call",
            otel.name = format_args!("call {target}"),
            otel.kind = "internal",
            otel.status_code = Empty,
            rpc.system.name = "palm",
            rpc.method = target,
            rpc.response.status_code = Empty,
            "error.type" = Empty,
        ))
    }

    /// A job.
    pub(crate) fn job(id: Uuid, pipeline: &[String]) -> Self {
        Self(info_span!(
            target: "palm",
            "job",
            otel.name = format_args!("job {}", pipeline.join(",")),
            otel.kind = "internal",
            rpc.system.name = "palm",
            palm.job = %id,
        ))
    }

    /// An attempt of the call or job that is current, at this instance.
    pub(crate) fn attempt(
        target: &str,
        (instance, endpoint): (Uuid, &str),
        idx: Option<u64>,
    ) -> Self {
        let address = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        Self(info_span!(
            target: "palm",
            "attempt",
            otel.name = target,
            otel.kind = "client",
            otel.status_code = Empty,
            rpc.system.name = "palm",
            rpc.method = target,
            rpc.response.status_code = Empty,
            "error.type" = Empty,
            server.address = host.trim_matches(['[', ']']),
            server.port = port.parse::<u16>().ok(),
            palm.instance = %instance,
            palm.idx = idx,
        ))
    }

    /// A request at a server.
    pub(crate) fn stage(server: &str, function: &str, request: &Request) -> Self {
        let job = request.job.map(tracing::field::display);
        // What serves has nothing to do with who calls.
        let span = info_span!(
            target: "palm",
            parent: None,
            "stage",
            otel.name = format_args!("{server}.{function}"),
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "palm",
            rpc.method = format_args!("{server}.{function}"),
            rpc.response.status_code = Empty,
            "error.type" = Empty,
            palm.job = job,
            palm.idx = request.idx,
            palm.stage = request.stage,
        );
        #[cfg(feature = "opentelemetry")]
        trace_context::extract(&span, &request.meta);
        Self(span)
    }

    /// The function of this stage runs.
    pub(crate) fn function(&self, function: &str) -> Self {
        Self(info_span!(
            target: "palm",
            parent: &self.0,
            "function",
            otel.name = format_args!("function {function}"),
            otel.kind = "internal",
            otel.status_code = Empty,
            code.function.name = function,
            "error.type" = Empty,
        ))
    }

    /// No span.
    pub(crate) fn none() -> Self {
        Self(tracing::Span::none())
    }

    /// The current span.
    pub(crate) fn current() -> Self {
        Self(tracing::Span::current())
    }

    /// Returns whether nobody takes it.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_disabled()
    }

    /// Has the receiver of this metadata continue the trace. If there is none, or no room, the
    /// metadata stays as it is.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn inject(&self, meta: &mut Meta) {
        trace_context::inject(&self.0, meta);
    }

    /// It has failed.
    pub(crate) fn failed(&self, kind: CallErrorKind) {
        if self.0.is_disabled() {
            return;
        }
        let kind = kind.to_string();
        self.0.record("error.type", kind.as_str());
        self.0.record("rpc.response.status_code", kind.as_str());
        self.0.record("otel.status_code", "error");
    }

    /// Runs something with this as the current span.
    pub(crate) fn in_scope<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.in_scope(run)
    }

    /// Returns a future that has this as the current span when it is polled.
    pub(crate) fn instrument<F: Future>(
        self,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        future.instrument(self.0)
    }
}

#[cfg(not(feature = "tracing"))]
#[allow(clippy::unused_self, clippy::trivially_copy_pass_by_ref)]
impl Span {
    pub(crate) fn call(_: &str) -> Self {
        Self()
    }

    pub(crate) fn job(_: Uuid, _: &[String]) -> Self {
        Self()
    }

    pub(crate) fn attempt(_: &str, _: (Uuid, &str), _: Option<u64>) -> Self {
        Self()
    }

    pub(crate) fn stage(_: &str, _: &str, _: &Request) -> Self {
        Self()
    }

    pub(crate) fn function(&self, _: &str) -> Self {
        Self()
    }

    pub(crate) fn none() -> Self {
        Self()
    }

    pub(crate) fn current() -> Self {
        Self()
    }

    pub(crate) fn is_none(&self) -> bool {
        true
    }

    pub(crate) fn failed(&self, _: CallErrorKind) {}

    pub(crate) fn in_scope<T>(&self, run: impl FnOnce() -> T) -> T {
        run()
    }

    pub(crate) fn instrument<F: Future>(self, future: F) -> F {
        future
    }
}

#[cfg(not(feature = "opentelemetry"))]
#[allow(clippy::unused_self, clippy::trivially_copy_pass_by_ref)]
impl Span {
    pub(crate) fn inject(&self, _: &mut Meta) {}
}

impl Span {
    /// Its work has ended, in an error or without.
    pub(crate) fn ended<T>(&self, result: Result<T, &CallFailure>) {
        if let Err(failure) = result {
            self.failed(failure.kind);
        }
    }
}

/// The attempts of a job's messages that may still be answered.
#[derive(Debug, Default)]
pub(crate) struct Attempts(#[cfg(feature = "tracing")] std::collections::HashMap<u64, Vec<Span>>);

#[cfg(feature = "tracing")]
impl Attempts {
    /// An attempt was sent.
    pub(crate) fn sent(&mut self, idx: u64, span: Span) {
        if !span.0.is_disabled() {
            self.0.entry(idx).or_default().push(span);
        }
    }

    /// The latest attempt was rejected, or a message has ended: with `last`, nothing more comes.
    pub(crate) fn ended(&mut self, idx: u64, last: bool, failure: Option<&CallFailure>) {
        let Some(spans) = self.0.get_mut(&idx) else {
            return;
        };
        if let (Some(span), Some(failure)) = (spans.pop(), failure) {
            span.failed(failure.kind);
        }
        if last || spans.is_empty() {
            self.0.remove(&idx);
        }
    }
}

#[cfg(not(feature = "tracing"))]
#[allow(clippy::unused_self)]
impl Attempts {
    pub(crate) fn sent(&mut self, _: u64, _: Span) {}

    pub(crate) fn ended(&mut self, _: u64, _: bool, _: Option<&CallFailure>) {}
}
