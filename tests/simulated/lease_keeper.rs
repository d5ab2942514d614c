//! Renews the leases of all servers, over a few streams.

use super::{Mode, Shared, etcd::LeaseId, register};
use futures::channel::mpsc;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tonic::Status;

/// How many streams there are.
pub(super) const STREAMS: usize = 4;
/// The number of steps in a renewal period, over which the renewals are spread evenly.
const STEPS: usize = 32;

/// Renews each lease of this stream's once in a third of its time to live.
pub(super) async fn renew(shared: Arc<Shared>, stream: usize) {
    loop {
        let (tx, requests) = mpsc::unbounded();
        // etcd answers the first request: the stream is not open before something is sent.
        tokio::select! {
            () = ask(&shared, stream, &tx) => {}
            _ = listen(&shared, requests) => {}
        }
        tokio::time::sleep(Duration::from_millis(500).mul_f64(0.5 + fastrand::f64())).await;
    }
}

async fn ask(shared: &Shared, stream: usize, tx: &mpsc::UnboundedSender<LeaseId>) {
    let mut pace = tokio::time::interval(shared.config.ttl / 3 / u32::try_from(STEPS).unwrap_or(1));
    // All are renewed at first: the stream may be a new one after an outage.
    let mut step = STEPS;
    loop {
        let servers = shared.servers.read().unwrap().clone();
        let due = |place: usize| {
            place % STREAMS == stream && (step == STEPS || place / STREAMS % STEPS == step)
        };
        for (_, server) in servers.iter().enumerate().filter(|(place, _)| due(*place)) {
            let lease = server.held.lock().unwrap().lease;
            let is_killed = server.face.mode.load(Ordering::Relaxed) == Mode::Killed as u8;
            if lease != 0 && !is_killed && tx.unbounded_send(LeaseId { id: lease }).is_err() {
                return;
            }
        }
        step = (step + 1) % STEPS;
        pace.tick().await;
    }
}

/// Handles the responses; a server whose lease is gone registers again with a new one.
async fn listen(
    shared: &Arc<Shared>,
    requests: mpsc::UnboundedReceiver<LeaseId>,
) -> Result<(), Status> {
    let mut answers = shared.store.keep_alive(requests).await?;
    while let Some(answer) = answers.message().await? {
        if answer.ttl > 0 {
            continue;
        }
        let servers = shared.servers.read().unwrap().clone();
        if let Some(server) = servers
            .into_iter()
            .find(|server| server.lost_lease(answer.id))
        {
            shared.rejoined.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(register(Arc::clone(shared), server));
        }
    }
    Ok(())
}
