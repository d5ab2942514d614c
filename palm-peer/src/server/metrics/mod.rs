//! The metrics of a peer, as `OpenMetrics` text: the answer to `_metrics`.
//!
//! The counters are where the events happen; this reads them when it is asked.

mod families;
pub(crate) mod listener;

use self::families::{Families, Labels, bytes, of, seconds};
use super::{function_stats::FunctionFigures, state::ServerState};
use crate::{
    io::{etcd::Etcd, process_memory},
    membership::status::PeerState,
};
use palm_proto::types::message::CallErrorKind;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

/// The content type of the metrics.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The kinds of errors that a function has from the start, with zero: a rate needs a sample from
/// before the first error.
const EXPECTED: [CallErrorKind; 4] = [
    CallErrorKind::Failed,
    CallErrorKind::Panicked,
    CallErrorKind::TimedOut,
    CallErrorKind::Busy,
];

/// Returns the metrics of this server. Each has the label `server`.
pub(crate) fn encode(state: &Arc<ServerState>) -> Result<String, fmt::Error> {
    let labels = [(Cow::from("server"), Cow::from(state.name.clone()))];
    let mut registry = Registry::with_labels(labels.into_iter());
    registry.register_collector(Box::new(PeerCollector(Arc::clone(state))));
    let mut encoded = String::new();
    text::encode(&mut encoded, &registry)?;
    Ok(encoded)
}

/// Reads the counters of a peer.
struct PeerCollector(Arc<ServerState>);

impl fmt::Debug for PeerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerCollector").field(&self.0.uuid).finish()
    }
}

impl Collector for PeerCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families { encoder };
        let state = &*self.0;
        functions(&mut families, state)?;
        requests(&mut families, state)?;
        peer(&mut families, state)?;
        lease(&mut families, state)?;
        leader(&mut families, state)?;
        links(&mut families, state)?;
        ingress(&mut families, state)?;
        memory(&mut families, state)
    }
}

fn functions(families: &mut Families, state: &ServerState) -> fmt::Result {
    let stats = state.functions.values().map(|function| &function.stats);
    let figures: Vec<_> = stats.map(|stats| (stats.name(), stats.figures())).collect();
    let each = |of: fn(&FunctionFigures) -> u64| {
        let samples = figures.iter();
        samples.map(move |(name, figures)| (vec![("function", *name)], of(figures)))
    };
    families.counters(
        &of(
            "palm_function_requests",
            "Calls of a function that were started.",
        ),
        each(|figures| figures.requests),
    )?;
    families.counters(
        &of(
            "palm_function_rejected",
            "Calls of a function that were rejected before they could start.",
        ),
        each(|figures| figures.rejected),
    )?;
    families.gauges(
        &of("palm_function_in_flight", "Calls of a function that run."),
        each(|figures| figures.in_flight),
    )?;
    function_errors(families, &figures)?;
    function_durations(families, &figures)
}

fn function_errors(families: &mut Families, figures: &[(&str, FunctionFigures)]) -> fmt::Result {
    let all: Vec<_> = figures
        .iter()
        .flat_map(|(name, figures)| errors(figures).map(move |(kind, count)| (*name, kind, count)))
        .collect();
    families.counters(
        &of(
            "palm_function_errors",
            "Calls of a function that ended in an error or were rejected, by the kind of the error.",
        ),
        all.iter()
            .map(|(name, kind, count)| (vec![("function", *name), ("kind", kind)], *count)),
    )?;
    let last: Vec<_> = figures
        .iter()
        .filter_map(|(name, figures)| {
            let (when, kind) = figures.last_error?;
            Some((*name, kind.to_string(), when.unix_seconds()))
        })
        .collect();
    families.times(
        &seconds(
            "palm_function_last_error_timestamp",
            "When a call of a function last ended in an error, by the kind of that error.",
        ),
        last.iter()
            .map(|(name, kind, at)| (vec![("function", *name), ("kind", kind)], *at)),
    )
}

fn function_durations(families: &mut Families, figures: &[(&str, FunctionFigures)]) -> fmt::Result {
    let family = seconds(
        "palm_function_duration",
        "How long calls of a function took, from their start to their end.",
    );
    let mut encoder = families.begin(&family, MetricType::Histogram)?;
    for (name, FunctionFigures { durations, .. }) in figures {
        let labels: Labels = vec![("function", name)];
        let (sum, count, buckets) = (durations.sum(), durations.count(), durations.buckets());
        let mut sample = encoder.encode_family(&labels)?;
        sample.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// Returns the errors of a function: those that were seen, and those that are expected.
fn errors(figures: &FunctionFigures) -> impl Iterator<Item = (String, u64)> {
    let expected = EXPECTED.iter().map(|kind| (kind.to_string(), 0));
    let mut errors: BTreeMap<_, _> = expected.collect();
    errors.extend(figures.errors.clone());
    errors.into_iter()
}

fn requests(families: &mut Families, state: &ServerState) -> fmt::Result {
    let errors: Vec<_> = state
        .errors()
        .map(|(kind, count)| (kind.to_string(), count))
        .collect();
    families.counters(
        &of(
            "palm_errors",
            "Errors that were answered, by their kind; those of functions included.",
        ),
        errors
            .iter()
            .map(|(kind, count)| (vec![("kind", kind.as_str())], *count)),
    )?;
    families.gauge(
        &of(
            "palm_queued_requests",
            "Requests that wait for a function to end.",
        ),
        state.queued().items as u64,
    )
}

fn peer(families: &mut Families, state: &ServerState) -> fmt::Result {
    let uuid = state.uuid.to_string();
    families.gauges(
        &of(
            "palm_peer_info",
            "Always 1; the labels tell which peer this is.",
        ),
        [(
            vec![
                ("uuid", &*uuid),
                ("zone", &state.config.zone),
                ("palm_version", env!("CARGO_PKG_VERSION")),
            ],
            1,
        )],
    )?;
    families.times(
        &seconds("palm_peer_start_time", "When the server was created."),
        [(Labels::new(), state.created.unix_seconds())],
    )?;
    let PeerState {
        configured,
        leading,
        attached,
        ready,
        ..
    } = state.status.state();
    let membership = &state.membership;
    families.gauge(
        &of(
            "palm_peer_attached",
            "Whether the registration in etcd is certain.",
        ),
        attached.into(),
    )?;
    families.gauge(
        &of(
            "palm_peer_configured",
            "Whether a leader has reached the server, so that clients can call it.",
        ),
        configured.into(),
    )?;
    families.gauge(
        &of(
            "palm_peer_ready",
            "Whether the server is ready for calls, by its own word.",
        ),
        ready.into(),
    )?;
    families.gauge(
        &of("palm_peer_leading", "Whether the peer leads the mesh."),
        leading.into(),
    )?;
    families.counter(
        &of("palm_peer_terms", "How often the peer was elected leader."),
        membership.terms.get(),
    )?;
    families.counter(
        &of(
            "palm_task_failures",
            "How often a task of the library panicked and was restarted.",
        ),
        state.supervisor.failed_tasks(),
    )
}

fn lease(families: &mut Families, state: &ServerState) -> fmt::Result {
    let membership = &state.membership;
    families.counter(
        &of("palm_lease_renewals", "Renewals of the lease in etcd."),
        membership.renewals.get(),
    )?;
    families.counter(
        &of(
            "palm_lease_renewal_failures",
            "Renewals of the lease that failed.",
        ),
        membership.renewal_failures.get(),
    )?;
    families.counter(
        &of(
            "palm_lease_doubts",
            "How often the lease was in doubt, because it was not renewed in time.",
        ),
        membership.doubts.get(),
    )?;
    families.counter(
        &of(
            "palm_lease_losses",
            "How often the lease was lost, so that the server had to register again.",
        ),
        membership.losses.get(),
    )?;
    let etcd = state.relay.etcd().map(Etcd::metrics);
    families.counters(
        &of(
            "palm_etcd_errors",
            "Requests to etcd that failed at all its endpoints, by kind; renewals of the lease not included.",
        ),
        etcd.iter()
            .flat_map(|etcd| etcd.errors())
            .map(|(kind, count)| (vec![("kind", kind)], count)),
    )?;
    families.counters(
        &of(
            "palm_etcd_failovers",
            "Requests to etcd that another endpoint answered than the one asked first.",
        ),
        etcd.iter()
            .map(|etcd| (Labels::new(), etcd.failovers.get())),
    )
}

fn leader(families: &mut Families, state: &ServerState) -> fmt::Result {
    let leader = &state.membership.leader;
    families.counter(
        &of("palm_probes_sent", "Probes that this peer began as leader."),
        leader.probes.get(),
    )?;
    families.counter(
        &of(
            "palm_probes_failed",
            "Probes by this peer that a server did not answer.",
        ),
        leader.failed.get(),
    )?;
    families.counter(
        &of(
            "palm_probes_unsent",
            "Probes by this peer that were not sent for want of a resource of its own.",
        ),
        leader.unsent.get(),
    )?;
    families.counter(
        &of(
            "palm_servers_removed",
            "Servers that this peer removed from the mesh as leader.",
        ),
        leader.removals.get(),
    )
}

fn links(families: &mut Families, state: &ServerState) -> fmt::Result {
    let links = state.dialer.metrics();
    families.gauge(
        &of(
            "palm_links",
            "Open links to other servers, those of a leader included.",
        ),
        links.open(),
    )?;
    families.counter(
        &of(
            "palm_links_opened",
            "Links to other servers that were opened.",
        ),
        links.opened(),
    )?;
    families.counter(
        &of(
            "palm_link_failures",
            "Links to other servers that could not be opened.",
        ),
        links.failed(),
    )
}

fn ingress(families: &mut Families, state: &ServerState) -> fmt::Result {
    let ingress = &state.metrics;
    families.gauge(
        &of("palm_connections", "Open connections to the server."),
        ingress.connections(),
    )?;
    families.counter(
        &of(
            "palm_connections_admitted",
            "Connections whose handshake succeeded.",
        ),
        ingress.entries(),
    )?;
    families.counters(
        &of(
            "palm_connections_refused",
            "Connections that were refused or closed, by kind.",
        ),
        ingress
            .rejections()
            .map(|(kind, count)| (vec![("kind", kind)], count)),
    )?;
    families.counter(
        &of(
            "palm_accept_pauses",
            "How often accepting connections had to wait for file descriptors.",
        ),
        ingress.pauses(),
    )?;
    families.counter(
        &of(
            "palm_connection_panics",
            "Connections that ended by a panic.",
        ),
        ingress.panics(),
    )
}

fn memory(families: &mut Families, state: &ServerState) -> fmt::Result {
    let (incoming, unread) = state.metrics.held();
    let held = [
        ("incoming", incoming),
        ("queued", state.queued().bytes as u64),
        ("running", state.running_bytes() as u64),
        ("unread", unread),
        ("store", state.store().used() as u64),
    ];
    families.gauges(
        &bytes(
            "palm_held",
            "Memory held for clients: long messages on their way in, payloads of queued requests and of running \
             functions, responses that are not read yet, and the store.",
        ),
        held.map(|(place, bytes)| (vec![("place", place)], bytes)),
    )?;
    families.gauges(
        &bytes("palm_resident_memory", "Resident memory of the process."),
        process_memory::resident().map(|bytes| (Labels::new(), bytes)),
    )
}
