//! How an agent registers for the first time.

use super::{
    Agent, Command, PeerContext, Registration,
    own_lease::OwnLease,
    registration::{RegisterError, Registrar},
    status::StatusPublisher,
    watchdog::LivenessCheck,
};
use crate::{
    error::{Error, ErrorKind},
    io::{etcd::Etcd, timer},
};
use futures::{
    channel::mpsc,
    future::{Either, select},
};
use palm_proto::{backoff::full_jitter, types::record::Record};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often at most a server that joins says what it waits for.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Agent {
    /// Registers; etcd may take as long as `join_timeout`. Gives up once nobody waits for it any more. Nothing is left in etcd
    /// then, unless etcd is away.
    pub(crate) async fn join(
        etcd: Etcd,
        context: PeerContext,
        record: Record,
        status: Arc<StatusPublisher>,
        commands: mpsc::UnboundedReceiver<Command>,
        beats: mpsc::UnboundedSender<LivenessCheck>,
        cancelled: impl Future<Output = ()> + Unpin,
    ) -> Result<(Self, Registration), Error> {
        let mut lease = OwnLease::new(&etcd, context.options.ttl);
        let registrar = Registrar::new(etcd, &context.options, record);
        let agent = Self { registrar, context, status, commands, beats };
        let joined = match select(pin!(agent.join_on(&mut lease)), cancelled).await {
            Either::Left((joined, _)) => joined,
            Either::Right(_) => Err(Error::new(ErrorKind::Io, "joining was given up")),
        };
        match joined {
            Ok(joined) => Ok((agent, joined)),
            Err(error) => {
                lease.give_back().await;
                Err(error)
            }
        }
    }

    /// Tries to register on this lease until etcd does it, or refuses, or took too long.
    async fn join_on(&self, lease: &mut OwnLease) -> Result<Registration, Error> {
        let join_timeout = self.context.options.join_timeout;
        let deadline = Instant::now() + join_timeout;
        let mut told: Option<Instant> = None;
        for attempt in 0.. {
            let error = match self.attach(lease, None).await {
                Ok(joined) => return Ok(joined),
                Err(RegisterError::Evicted) => return Err(Error::new(ErrorKind::Evicted, "removed while joining")),
                Err(RegisterError::Etcd(error)) => error,
            };
            let wait = full_jitter(attempt, Duration::from_millis(100), Duration::from_secs(2), fastrand::f64());
            if !error.is_passing() || Instant::now() + wait > deadline {
                return Err(error.into());
            }
            if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                log::warn!("joining waits for etcd, {join_timeout:?} in all (PALM_JOIN_TIMEOUT): {error}");
                told = Some(Instant::now());
            }
            timer::sleep(wait).await;
        }
        Err(Error::new(ErrorKind::EtcdUnreachable, "etcd was asked too often"))
    }
}
