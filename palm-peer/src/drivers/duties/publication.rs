//! The lease of what is published.

use super::{Mandate, again};
use crate::{
    decisions::pipeliner::Pipeliner,
    facts::ids::LeaseId,
    ports::{
        etcd::{Etcd, EtcdError, EtcdErrorKind, KeepAlive},
        timer,
    },
};
use std::time::Duration;

/// How long what is published outlives its leader, unless a successor puts it anew.
const PUBLISHED_FOR: Duration = Duration::from_secs(60);
/// How long to wait before trying again to renew what lasts a minute.
const AGAIN_LATER: Duration = Duration::from_secs(1);

/// Gets a lease for what is published, and finds out what a predecessor published.
pub async fn take_over(mandate: &Mandate) -> (LeaseId, Pipeliner) {
    let mut failures = 0;
    loop {
        match try_to_take_over(mandate).await {
            Ok(taken) => return taken,
            Err(error) => mandate.etcd.log_failure(&format!("publishing under {}", mandate.keys.pipelines()), &error),
        }
        timer::sleep(again(failures)).await;
        failures += 1;
    }
}

/// Without space etcd gives no lease, but renews those that there are: then the predecessor's is kept.
async fn try_to_take_over(mandate: &Mandate) -> Result<(LeaseId, Pipeliner), EtcdError> {
    let folder = mandate.keys.pipelines();
    let found = mandate.etcd.list(&folder).await?;
    let lease = match mandate.etcd.grant_lease(PUBLISHED_FOR).await {
        Ok(granted) => granted.id,
        Err(error) if error.kind() == EtcdErrorKind::NoSpace => {
            mandate.etcd.log_failure(&format!("publishing under {folder}"), &error);
            found.items.iter().max_by_key(|kv| kv.modified).and_then(|kv| kv.lease).ok_or(error)?
        }
        Err(error) => return Err(error),
    };
    let names = found.items.into_iter().filter_map(|kv| Some((kv.key.strip_prefix(&folder)?.to_owned(), kv.modified)));
    Ok((lease, Pipeliner::new(names)))
}

/// Renews the lease of what is published, until it is lost.
pub async fn keep(etcd: Etcd, lease: LeaseId) {
    let mut stream: Option<KeepAlive> = None;
    loop {
        timer::sleep(if stream.is_some() { PUBLISHED_FOR / 3 } else { AGAIN_LATER }).await;
        let renewed = match &mut stream {
            Some(stream) => stream.renew().await,
            None => match etcd.keep_alive(lease).await {
                Ok(opened) => {
                    stream = Some(opened);
                    Ok(Some(PUBLISHED_FOR))
                }
                Err(error) if error.kind() == EtcdErrorKind::LeaseGone => Ok(None),
                Err(error) => Err(error),
            },
        };
        match renewed {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                etcd.log_failure("renewing the lease of what is published", &error);
                stream = None;
            }
        }
    }
}
