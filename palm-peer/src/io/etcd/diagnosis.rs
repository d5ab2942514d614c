//! Diagnosis of broken connections whose cause is TLS.

use crate::io::tls::{EtcdTls, diagnose};
use std::time::Duration;
use tokio::{sync::Mutex, time::Instant};

/// How long a diagnosis is reused: a server that retries for hours must not double its connections.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The last diagnosis of one endpoint, and its time.
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
        // Boxed: a handshake is large, and every request future would contain one.
        let reason = Box::pin(diagnose(url, tls)).await;
        *last = Some((Instant::now(), reason.clone()));
        reason
    }
}
