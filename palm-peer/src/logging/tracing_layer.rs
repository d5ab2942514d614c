//! Feeds the `_log_query` buffers from a program's subscriber of tracing.

use super::{CHATTY, feed_line, is_of, place};
use palm_proto::types::text::formatted;
use std::fmt::Write as _;
use tracing_core::{
    Event, Level, LevelFilter, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, filter::filter_fn, layer::Context, registry::LookupSpan};

/// Returns a layer that adds the events of a program's subscriber of tracing to the `_log_query`
/// buffer of every server in this process, down to `DEBUG`, as [`feed`](super::feed) does for a program
/// with a logger of its own. With the feature `tracing-subscriber`.
///
/// The library itself logs through the `log` facade, whose records the subscriber gets as events if
/// `tracing-log` is installed: `init` of `tracing-subscriber` does that, unless its feature `tracing-log` is
/// off. The fields of an event follow its message, as `name=value`. Spans are not recorded.
///
/// The layer neither panics nor blocks, and has a filter of its own, so that those of other layers do not
/// limit it. A filter that is a layer itself, such as `.with(EnvFilter::…)`, limits all layers: give it to the
/// layer that prints instead.
///
/// ```
/// use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};
///
/// tracing_subscriber::registry()
///     .with(tracing_subscriber::fmt::layer().with_filter(LevelFilter::INFO))
///     .with(palm_peer::logging::tracing_layer())
///     .init();
/// ```
pub fn tracing_layer<S>() -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Feed.with_filter(filter_fn(is_wanted).with_max_level_hint(LevelFilter::DEBUG))
}

fn is_wanted(metadata: &Metadata<'_>) -> bool {
    let is_chatty = CHATTY.iter().any(|name| is_of(metadata.target(), name));
    let most = if is_chatty { Level::WARN } else { Level::DEBUG };
    metadata.is_event() && *metadata.level() <= most
}

struct Feed;

impl<S: Subscriber> Layer<S> for Feed {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let target = line.target.as_deref().unwrap_or(metadata.target());
        let file = line.file.as_deref().or(metadata.file());
        let number = line.number.or(metadata.line());
        let level = match *metadata.level() {
            Level::ERROR => log::Level::Error,
            Level::WARN => log::Level::Warn,
            Level::INFO => log::Level::Info,
            Level::DEBUG => log::Level::Debug,
            Level::TRACE => log::Level::Trace,
        };
        let message = line.message + &line.fields;
        feed_line(level, target, place(file, number), message.trim_start());
    }
}

/// What an event says. A record of `log` has its target and its place in fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
    target: Option<String>,
    file: Option<String>,
    number: Option<u32>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Formatting is code of the program, and may panic.
        let text = formatted(format_args!("{value:?}"));
        match field.name() {
            "message" => self.message = text,
            "log.module_path" => {}
            name => {
                // Writing to a String cannot fail.
                let _ = write!(self.fields, " {name}={text}");
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.target" => self.target = Some(value.to_owned()),
            "log.file" => self.file = Some(value.to_owned()),
            "log.module_path" => {}
            "message" => value.clone_into(&mut self.message),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "log.line" => self.number = value.try_into().ok(),
            _ => self.record_debug(field, &value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::lock;
    use tracing_subscriber::layer::SubscriberExt as _;
    use uuid::Uuid;

    struct Panics;

    impl std::fmt::Debug for Panics {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("on purpose")
        }
    }

    #[test]
    fn events_are_fed_with_their_fields() {
        let book = super::super::book();
        let subscriber = tracing_subscriber::registry().with(tracing_layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "fed", answer = 42, name = "x", "said");
            tracing::debug!(target: "fed", "a detail");
            tracing::trace!(target: "fed", "too much");
            tracing::info!(target: "hyper::client", "chatty");
            tracing::warn!(target: "rustls::conn", "by strangers");
            tracing::error!(target: "fed", value = ?Panics, "survived");
        });
        let lines = lock(&book).take(Uuid::nil(), log::Level::Debug);
        let fed: Vec<_> = lines.split(',').filter(|line| !line.is_empty()).collect();
        let place = format!("WARNING:{}/", "tracing_layer.rs");
        let is_there = |text: &str| fed.iter().any(|line| line.contains(text));
        assert!(
            is_there(&place) && is_there("said answer=42 name=\"x\""),
            "{fed:?}"
        );
        assert!(is_there(":DEBUG:") && is_there("a detail"), "{fed:?}");
        assert!(
            is_there("survived value=(formatting a value panicked"),
            "{fed:?}"
        );
        for text in ["too much", "chatty", "strangers"] {
            assert!(!is_there(text), "{fed:?}");
        }
    }
}
