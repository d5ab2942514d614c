//! How an agent registers for the first time.

use super::{
    Agent, Command, Joined,
    announce::Announcer,
    registration::{RegisterError, Registrar},
};
use crate::{
    Error, ErrorKind,
    decisions::backoff::backoff,
    drivers::serving::{Beat, core::Core},
    facts::record::Record,
    ports::{etcd::Etcd, timer},
};
use futures::{
    channel::mpsc,
    future::{Either, select},
};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often at most a server that joins says what it waits for.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Agent {
    /// Registers; etcd may take as long as `join_timeout`. Gives up once nobody waits for it any more.
    pub async fn join(
        etcd: Etcd,
        core: Arc<Core>,
        record: Record,
        announcer: Arc<Announcer>,
        commands: mpsc::UnboundedReceiver<Command>,
        beats: mpsc::UnboundedSender<Beat>,
        mut cancelled: impl Future<Output = ()> + Unpin,
    ) -> Result<(Self, Joined), Error> {
        let registrar = Registrar::new(etcd, &core.options, record);
        let agent = Self { registrar, core, announcer, commands, beats };
        let join_timeout = agent.core.options.join_timeout;
        let deadline = Instant::now() + join_timeout;
        let mut told: Option<Instant> = None;
        for attempt in 0.. {
            let error = match agent.attach_unless(&mut cancelled).await {
                Some(Ok(joined)) => return Ok((agent, joined)),
                Some(Err(RegisterError::Evicted)) => {
                    return Err(Error::new(ErrorKind::Evicted, "removed while joining"));
                }
                Some(Err(RegisterError::Etcd(error))) => error,
                None => return Err(given_up()),
            };
            let wait = backoff(attempt, Duration::from_millis(100), Duration::from_secs(1), fastrand::f64());
            if !error.is_passing() || Instant::now() + wait > deadline {
                return Err(error.into());
            }
            if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                log::warn!("joining waits for etcd, {join_timeout:?} in all (PALM_JOIN_TIMEOUT): {error}");
                told = Some(Instant::now());
            }
            if let Either::Right(_) = select(timer::sleep(wait), &mut cancelled).await {
                return Err(given_up());
            }
        }
        Err(Error::new(ErrorKind::EtcdUnreachable, "etcd was asked too often"))
    }

    /// Registers for the first time; `None` when `cancelled` ends before. Nothing is left in etcd then, unless etcd is away.
    async fn attach_unless(
        &self,
        mut cancelled: impl Future<Output = ()> + Unpin,
    ) -> Option<Result<Joined, RegisterError>> {
        let (lease, clock) = match select(pin!(self.registrar.lease(self.core.options.ttl)), &mut cancelled).await {
            Either::Left((Ok(granted), _)) => granted,
            Either::Left((Err(error), _)) => return Some(Err(error.into())),
            Either::Right(_) => return None,
        };
        let registered = match select(pin!(self.registrar.register(lease, None)), &mut cancelled).await {
            Either::Left((registered, _)) => Some(registered),
            Either::Right(_) => None,
        };
        if !matches!(registered, Some(Ok(_))) {
            self.registrar.revoke(lease).await;
        }
        Some(registered?.map(|written| Joined { lease, clock, written }))
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::System, "joining was given up")
}
