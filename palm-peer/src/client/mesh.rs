//! A client's view of the mesh, and its links to servers.

use crate::{
    client::{
        dialer::{Dialer, OpenError},
        discovery::{Discovery, KeepsDirectory},
        link::{Link, NoReply},
        link_pool::{LinkPool, OPEN_WITHIN},
        replies::{Reply, ReplyRouter},
    },
    error::{Error, ErrorKind},
    io::{
        etcd::{AbortOnDrop, Etcd, EtcdError},
        executor,
        spans::Span,
        tasks::{Name, Supervisor},
        timer,
    },
    sync::lock,
};
use bytes::Bytes;
use futures::{
    channel::mpsc,
    future::{Either, FutureExt as _, select},
};
use palm_proto::{
    call::{AttemptError, Call, FailedCall, Next},
    config::ValidConfig,
    directory::{Able, Directory, Update},
    routing::{choose_near, near},
    types::{
        answer::Answer,
        instance::Instance,
        message::{CallErrorKind, CallFailure, Request},
        meta::Meta,
    },
};
use std::{
    collections::HashSet,
    future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a link to an instance that is no longer published is kept, unless the instance ends it.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// The state of a client.
pub(crate) struct Mesh {
    /// The client's uuid.
    pub uuid: Uuid,
    /// The configuration.
    pub config: ValidConfig,
    /// The zone whose instances are preferred.
    pub zone: Option<String>,
    directory: Mutex<Directory>,
    links: LinkPool,
    /// Notified when the directory changes.
    listeners: Mutex<Vec<mpsc::Sender<()>>>,
    /// Routes the answers to jobs.
    pub jobs: ReplyRouter,
    watching: Mutex<Option<AbortOnDrop<()>>>,
}

impl Mesh {
    /// Connects: waits for the directory of reachable instances, and keeps it up to
    /// date from then on.
    pub(crate) async fn connect(
        etcd: Etcd,
        config: ValidConfig,
        dialer: Dialer,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, Error> {
        let (time, ttl) = (config.join_timeout, config.ttl);
        let folder = config.keys().pipelines();
        let jobs = ReplyRouter::default();
        let mesh = Arc::new(Self {
            uuid: dialer.me(),
            zone: config.preferred_zone(),
            directory: Mutex::new(Directory::new(dialer.me()).preferring(config.preferred_zone())),
            config,
            links: LinkPool::new(dialer, jobs.clone()),
            listeners: Mutex::default(),
            jobs,
            watching: Mutex::new(None),
        });
        let (discovery, listed) = Discovery::new(folder.clone(), ttl);
        let (client, learning, watched) =
            (Arc::downgrade(&mesh), Arc::clone(&discovery), etcd.clone());
        let learning = move || Arc::clone(&learning).run(Weak::clone(&client), watched.clone());
        *lock(&mesh.watching) = Some(etcd.keep(supervisor, Name::Directory, learning));
        let refused = refusal(&etcd, folder);
        match timer::timeout(time, select(pin!(listed), pin!(refused))).await {
            Ok(Either::Left((Ok(()), _))) => Ok(mesh),
            Ok(Either::Right((error, _))) => Err(error.into()),
            _ => {
                let endpoints = mesh.config.etcd.join(", ");
                let text = format!(
                    "etcd at {endpoints} did not list the published servers within {time:?}: {}",
                    discovery.last_error()
                );
                Err(Error::new(
                    ErrorKind::EtcdUnreachable,
                    text.trim_end_matches([':', ' ']),
                ))
            }
        }
    }

    /// Returns the directory, locked: not to be held for long.
    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        lock(&self.directory)
    }

    /// Returns the instances that can answer a target for this client.
    pub(crate) fn resolve(&self, target: &str) -> Result<Able, CallFailure> {
        self.directory().resolve(target, self.uuid)
    }

    /// Returns a receiver that is notified of changes of the directory. Notifications do not pile
    /// up: a job may not be polled for days.
    pub(crate) fn changes(&self) -> mpsc::Receiver<()> {
        let (tx, changes) = mpsc::channel(0);
        let mut listeners = lock(&self.listeners);
        // Removes closed listeners: a client may run millions of jobs while nothing changes.
        listeners.retain(|listener| !listener.is_closed());
        listeners.push(tx);
        drop(listeners);
        changes
    }

    /// Returns the number of links and listeners.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.links.len() + lock(&self.listeners).len()
    }

    /// Fails if a payload is over this client's limit.
    pub(crate) fn check_size(&self, payload: &Bytes) -> Result<(), CallFailure> {
        let max = self.config.max_payload;
        if payload.len() > max {
            let text = format!("a payload of {} bytes, {max} at most", payload.len());
            return Err(CallFailure::new(CallErrorKind::TooLarge, text));
        }
        Ok(())
    }

    /// Calls one function within `time`, as [`palm_proto::call`] decides: `at` this instance, or at
    /// those that the target means.
    pub(crate) async fn call(
        &self,
        request: &mut Request,
        payload: &Bytes,
        time: Duration,
        at: Option<&Arc<Instance>>,
    ) -> Result<Answer, FailedCall> {
        let span = Span::call(&request.pipeline[0]);
        let calling = self.call_an_instance(request, payload, time, at);
        let called = span.clone().instrument(calling).await;
        span.ended(called.as_ref().map_err(|failed| &failed.failure));
        called
    }

    async fn call_an_instance(
        &self,
        request: &mut Request,
        payload: &Bytes,
        time: Duration,
        at: Option<&Arc<Instance>>,
    ) -> Result<Answer, FailedCall> {
        let sendable = self.check_size(payload);
        let sendable = sendable.and_then(|()| check_meta(&request.meta));
        sendable.map_err(|failure| FailedCall {
            failure,
            server: None,
        })?;
        let mut now = Instant::now();
        let deadline = now + time;
        let mut call = Call::new(deadline);
        loop {
            let able = match at {
                Some(instance) => Ok(Able::from([Arc::clone(instance)])),
                None => self.resolve(&request.pipeline[0]),
            };
            match call.next(now, able, |open| self.choose(open), fastrand::f64()) {
                Next::Fail(failure) => return Err(failure),
                Next::Wait(until) => timer::sleep_until(until).await,
                Next::Attempt(instance) => {
                    let place = (instance.uuid, &*instance.endpoint);
                    let span = Span::attempt(&request.pipeline[0], place, None);
                    span.inject(&mut request.meta);
                    let tried = if let Some(link) = self.open_link(instance.uuid) {
                        attempt(&link, request, payload, now, deadline).await
                    } else {
                        // Boxed, because most calls do not need it, and would be larger with it.
                        self.open_and_attempt(&instance, request, payload, deadline)
                            .boxed()
                            .await
                    };
                    match tried {
                        Ok(reply) => return Ok(reply.into_answer()),
                        Err(error) => {
                            span.failed(error.kind());
                            call.attempt_failed(instance.uuid, error)?;
                        }
                    }
                }
            }
            now = Instant::now();
        }
    }

    /// Picks one of these instances: [`choose_near`]. If a picked one is failing, all failing
    /// ones are retried in the background, so that no call waits for them while there are others.
    pub(crate) fn choose(&self, able: &[Arc<Instance>]) -> Option<Arc<Instance>> {
        let load = |i: usize| self.links.in_flight(able[i].uuid);
        let failing = |i: usize| self.is_failing(&able[i]);
        let near = near(able, self.zone.as_deref());
        let random = |below| fastrand::usize(..below);
        let choice = choose_near(near, able.len(), failing, load, random)?;
        Some(Arc::clone(&able[choice]))
    }

    /// Returns whether the last attempt to reach an instance failed. If so, it is retried
    /// in the background.
    pub(crate) fn is_failing(&self, instance: &Arc<Instance>) -> bool {
        self.links.is_failing(instance)
    }

    /// Returns the link to an instance, if it is open.
    pub(crate) fn open_link(&self, instance: Uuid) -> Option<Arc<Link>> {
        self.links.open_link(instance)
    }

    /// Waits until the kernels of the other servers have everything that was sent over the links.
    pub(crate) async fn flushed(&self) {
        self.links.flushed().await;
    }

    /// Returns the link to an instance, after opening it if necessary. Fails when it cannot
    /// be opened in time.
    pub(crate) async fn link_to(
        &self,
        instance: &Instance,
        deadline: Instant,
    ) -> Result<Arc<Link>, OpenError> {
        let time = deadline
            .saturating_duration_since(Instant::now())
            .min(OPEN_WITHIN);
        // The place of one that is no longer published would stay: places are removed after they
        // are gone from the directory.
        self.links
            .link_to(instance, time, || self.directory().contains(instance.uuid))
            .await
    }

    async fn open_and_attempt(
        &self,
        instance: &Instance,
        request: &mut Request,
        payload: &Bytes,
        deadline: Instant,
    ) -> Result<Reply, AttemptError> {
        let link =
            self.link_to(instance, deadline)
                .await
                .map_err(|error| AttemptError::NotConnected {
                    failure: CallFailure::new(
                        CallErrorKind::Unreachable,
                        format!("{}: {error}", instance.endpoint),
                    ),
                    retry_takes: error.is_passing().then_some(OPEN_WITHIN),
                })?;
        attempt(&link, request, payload, Instant::now(), deadline).await
    }
}

/// Sends a request over a link, and waits for its reply until the deadline.
async fn attempt(
    link: &Arc<Link>,
    request: &mut Request,
    payload: &Bytes,
    now: Instant,
    deadline: Instant,
) -> Result<Reply, AttemptError> {
    request.give_time(deadline.saturating_duration_since(now));
    let reply = link
        .request(request, payload, deadline)
        .map_err(AttemptError::NotSent)?;
    let mut reply = reply.await.map_err(|none| match none {
        NoReply::Broken => AttemptError::ConnectionLost,
        NoReply::TimedOut => AttemptError::TimedOut,
    })?;
    match reply.answer.error.take() {
        None => Ok(reply),
        Some(failure) => Err(AttemptError::Answered(failure)),
    }
}

/// Fails if metadata cannot be sent.
pub(crate) fn check_meta(meta: &Meta) -> Result<(), CallFailure> {
    meta.problem().map_or(Ok(()), |problem| {
        Err(CallFailure::new(CallErrorKind::BadMessage, problem))
    })
}

impl KeepsDirectory for Mesh {
    fn known(&self) -> HashSet<(String, Uuid)> {
        self.directory().keys()
    }

    fn update(&self, updates: Vec<Update>) {
        if updates.is_empty() {
            return;
        }
        let mut removed: Vec<Uuid> = Vec::new();
        {
            let mut directory = self.directory();
            for update in updates {
                if let Update::Removed(_, uuid) = &update {
                    removed.push(*uuid);
                }
                directory.update(update);
            }
            removed.retain(|uuid| !directory.contains(*uuid));
        }
        for link in removed
            .into_iter()
            .filter_map(|uuid| self.links.retire(uuid))
        {
            // The server may be leaving and still read our messages: if we closed the connection,
            // its goodbye would cause a reset, and messages that it has not read would be lost.
            executor::spawn(Name::OldLink, async move {
                let _ = timer::timeout(KEPT_FOR, link.broken()).await;
            });
        }
        let is_there = |listener: &mut mpsc::Sender<()>| {
            listener
                .try_send(())
                .err()
                .is_none_or(|error| error.is_full())
        };
        lock(&self.listeners).retain_mut(is_there);
    }
}

/// Ends when etcd refuses permanently, such as for a wrong password: the watch would retry forever.
async fn refusal(etcd: &Etcd, folder: String) -> EtcdError {
    match etcd.get(&folder).await {
        Err(error) if !error.is_passing() => error,
        _ => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use crate::{client::Client, error::ErrorKind};
    use futures::executor::block_on;
    use palm_proto::config::Config;
    use palm_tests::{Etcd, free_port};
    use std::time::{Duration, Instant};

    #[test]
    fn a_wrong_password_is_reported_at_once() {
        let etcd = Etcd::start();
        for args in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ] {
            etcd.etcdctl(args);
        }
        let user = Some(("root".to_owned(), "wrong".to_owned()));
        let config = Config::default().etcd(vec![etcd.endpoint()]).user(user);
        let began = Instant::now();
        let error = block_on(Client::connect(config)).expect_err("a wrong password");
        assert_eq!(error.kind(), ErrorKind::EtcdRefused, "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "join_timeout is 10 s; it took {:?}",
            began.elapsed()
        );
    }

    #[test]
    fn an_outage_names_all_endpoints() {
        let etcd = [(); 3]
            .map(|()| format!("http://127.0.0.1:{}", free_port()))
            .to_vec();
        let join_timeout = Duration::from_millis(500);
        let config = Config::default()
            .etcd(etcd.clone())
            .join_timeout(join_timeout);
        let error = block_on(Client::connect(config)).expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::EtcdUnreachable, "{error}");
        assert!(
            etcd.iter()
                .all(|endpoint| error.to_string().contains(endpoint)),
            "{error}"
        );
    }
}
