//! How simulated servers register, and register again.

use super::{
    Shared, Simulated,
    etcd::{self, delete, put},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tonic::{Code, Status};

/// Puts the record and the candidate key, unless they exist or are being put; retries
/// until etcd does it.
pub(super) async fn register(shared: Arc<Shared>, server: Arc<Simulated>) {
    {
        let mut held = server.held.lock().unwrap();
        if held.written != 0 || held.registering {
            return;
        }
        held.registering = true;
    }
    for attempt in 0_u32.. {
        if !server.is_alive() {
            break;
        }
        let tried = try_to_register(&shared, &server).await;
        match tried {
            Ok(()) => break,
            Err(status) if status.code() == Code::NotFound => server.held.lock().unwrap().lease = 0,
            Err(_) => {}
        }
        let longest = Duration::from_millis(100) * 2_u32.pow(attempt.min(6));
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
    }
    server.held.lock().unwrap().registering = false;
}

async fn try_to_register(shared: &Shared, server: &Simulated) -> Result<(), Status> {
    let _permit = shared
        .registering
        .acquire()
        .await
        .expect("a semaphore that is never closed");
    let mut lease = server.held.lock().unwrap().lease;
    if lease == 0 {
        lease = shared.store.grant(shared.config.ttl).await?;
        server.held.lock().unwrap().lease = lease;
    }
    let (uuid, name) = (server.face.uuid, &server.face.name);
    let mut operations = vec![
        put(
            format!("/servers/{uuid}"),
            server.record(shared.port),
            lease,
        ),
        delete(format!("/pipelines/{name}/{uuid}")),
        delete(format!("/departed/{uuid}")),
    ];
    // Without a leader, the first candidate must be a real server.
    let stands = shared.is_led.load(Ordering::Relaxed);
    if stands {
        operations.push(put(candidacy(lease), uuid.to_string(), lease));
    }
    let written = shared.store.transact(operations).await?;
    {
        let mut held = server.held.lock().unwrap();
        held.written = written;
        held.stands = stands;
    }
    if !stands {
        shared.candidates_changed.notify_one();
    }
    Ok(())
}

pub(super) fn candidacy(lease: i64) -> String {
    format!("/election/{lease:x}")
}

/// Registers again after a random wait, unless an administrator removed the server.
pub(super) async fn rejoin(shared: Arc<Shared>, server: Arc<Simulated>) {
    tokio::time::sleep(shared.config.rejoin_within.mul_f64(fastrand::f64())).await;
    let departed = format!("/departed/{}", server.face.uuid);
    loop {
        match shared.store.range(etcd::key(&departed)).await {
            Ok(found) if found.kvs.iter().any(|note| is_by_admin(&note.value)) => return,
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    shared.rejoined.fetch_add(1, Ordering::Relaxed);
    register(shared, server).await;
}

fn is_by_admin(note: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(note).is_ok_and(|note| note["why"] == "admin")
}
