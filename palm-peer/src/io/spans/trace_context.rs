//! W3C Trace Context in metadata: `traceparent` and `tracestate`.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use palm_proto::types::meta::Meta;
use std::str::FromStr as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Has the receiver of this metadata continue the trace of a span, unless the span is in none, or
/// the metadata has no room.
pub(super) fn inject(span: &tracing::Span, meta: &mut Meta) {
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    if !context.is_valid() {
        return;
    }
    let mut traced = meta.clone();
    traced.insert(PARENT, format_parent(&context));
    match context.trace_state().header() {
        state if state.is_empty() => drop(traced.remove(STATE)),
        state => traced.insert(STATE, state),
    }
    if traced.problem().is_none() {
        *meta = traced;
    }
}

/// Makes the span that this metadata names the parent of a span.
pub(super) fn extract(span: &tracing::Span, meta: &Meta) {
    let state = meta.get(STATE).unwrap_or_default();
    if let Some(parent) = meta.get(PARENT).and_then(|text| parse_parent(text, state)) {
        // Without a layer of tracing-opentelemetry, there is nobody to tell.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

fn format_parent(context: &SpanContext) -> String {
    let (trace, span) = (context.trace_id(), context.span_id());
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    format!("00-{trace:032x}-{span:016x}-{flags:02x}")
}

/// Reads a `traceparent`: version, trace, span and flags, in lower-case hexadecimal. Later versions
/// may have more behind it.
fn parse_parent(text: &str, state: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let mut part = |digits: usize| {
        let lower = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let part = parts.next()?;
        (part.len() == digits && part.bytes().all(lower)).then_some(part)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::from_str(state).unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFIED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_round_trips() {
        let context = parse_parent(SPECIFIED, "a=1,b=2").expect("as specified");
        assert_eq!(format_parent(&context), SPECIFIED);
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "a=1,b=2");
        let later = format!("cc{}-more", &SPECIFIED[2..]);
        assert!(parse_parent(&later, "").is_some());
    }

    #[test]
    fn invalid_parents_are_ignored() {
        for invalid in [
            "",
            "00",
            &SPECIFIED.to_uppercase(),
            &SPECIFIED[..54],
            &format!("{SPECIFIED}-more"),
            &format!("ff{}", &SPECIFIED[2..]),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(parse_parent(invalid, "").is_none(), "{invalid}");
        }
        let context = parse_parent(SPECIFIED, "no state").expect("the state alone is invalid");
        assert_eq!(context.trace_state().header(), "");
    }
}
