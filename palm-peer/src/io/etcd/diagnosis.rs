//! Why a connection to an endpoint broke, where TLS is the reason.

use crate::io::tls::{EtcdTls, diagnose};
use std::time::Duration;
use tokio::{sync::Mutex, time::Instant};

/// How long what was found out counts: a server that tries again for hours shall not double its connections.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What was found out at one endpoint, and when.
#[derive(Default)]
pub(super) struct Diagnosis(Mutex<Option<(Instant, Option<String>)>>);

impl Diagnosis {
    /// The reason, if it is TLS. Concurrent callers share one check.
    pub(super) async fn find(&self, url: &str, tls: Option<&EtcdTls>) -> Option<String> {
        let mut last = self.0.lock().await;
        if let Some((when, reason)) = &*last
            && when.elapsed() < AGAIN_AFTER
        {
            return reason.clone();
        }
        // Boxed: a handshake is large, and every request would have room for one.
        let reason = Box::pin(diagnose(url, tls)).await;
        *last = Some((Instant::now(), reason.clone()));
        reason
    }
}
