//! A link: one connection to one server whose uuid was verified, with the requests that wait
//! for its answers.

mod calls;
mod watch;

use self::{calls::Calls, watch::Pulse};
pub(crate) use self::{
    calls::NoReply,
    watch::{Fate, Interest, Where},
};

use crate::{
    client::{
        names::Names,
        replies::{Reply, ReplyRouter},
    },
    io::{
        dealer::{self, Frames},
        executor,
    },
    sync::lock,
};
use bytes::Bytes;
use futures::{FutureExt as _, channel::oneshot, future::Shared};
use palm_proto::{
    liveness::Seen,
    replies::{Arrived, UnsolicitedReplies},
    types::{
        compact::{self, Compact, ResultHeader, Template},
        message::{self, Answer, CallErrorKind, CallFailure, Request},
        meta::Meta,
    },
};
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};
use uuid::Uuid;

/// After a frame of so many bytes the reader gives way: what has come should be handled while it is
/// in the processor's cache, and not after as many more as have come meanwhile.
const LONG: usize = 64 * 1024;

/// A request's common fields, as far as the link does not know them itself.
enum Common<'a> {
    /// Those of this template.
    Of(&'a Arc<Template>),
    /// Those of a request of this process, whose job has this number; 0 for a call.
    Own(u32),
    /// There is no template.
    None,
}

/// One connection to one server.
pub(crate) struct Link {
    client: Uuid,
    server: Uuid,
    sender: dealer::Sender,
    jobs: ReplyRouter,
    /// What is registered; `None` if the link is not native. Locked while something is sent, and
    /// while a goodbye is taken in: our answer to it is the last message.
    names: Mutex<Option<Names>>,
    /// Fires with the answer to the greeting.
    greeted: Mutex<Option<oneshot::Sender<()>>>,
    calls: Arc<Calls>,
    broken: Shared<oneshot::Receiver<()>>,
    close: Mutex<Option<oneshot::Sender<()>>>,
    pulse: Arc<Pulse>,
}

impl Link {
    /// Returns a link over a connection whose server was verified and sent a greeting; the future
    /// that reads the answers, which ends with the link and must be run in the background; and a
    /// receiver of the answer to the greeting, which is cancelled with the link.
    pub(crate) fn new(
        client: Uuid,
        server: Uuid,
        jobs: ReplyRouter,
        sender: dealer::Sender,
        receiver: dealer::Receiver,
    ) -> (
        Arc<Self>,
        impl Future<Output = ()> + Send + use<>,
        oneshot::Receiver<()>,
    ) {
        let (tell_broken, broken) = oneshot::channel();
        let (close, closed) = oneshot::channel();
        let (greeted_tx, greeted) = oneshot::channel();
        let names = sender.is_native().then(Names::new);
        let link = Arc::new(Self {
            client,
            server,
            sender,
            jobs,
            names: Mutex::new(names),
            greeted: Mutex::new(Some(greeted_tx)),
            // No request waits for the answer to the greeting.
            calls: Calls::new(1),
            broken: broken.shared(),
            close: Mutex::new(Some(close)),
            pulse: Arc::default(),
        });
        let receiving = receive(Arc::downgrade(&link), receiver, closed, tell_broken);
        (link, receiving, greeted)
    }

    /// Returns how many requests wait for their answers.
    pub(crate) fn in_flight(&self) -> usize {
        self.calls.in_flight()
    }

    /// Returns whether the connection has ended.
    pub(crate) fn is_broken(&self) -> bool {
        self.pulse.is_broken()
    }

    /// Returns whether the server said goodbye: everything that we sent is answered or
    /// forwarded, or will be.
    pub(crate) fn ended_in_order(&self) -> bool {
        self.pulse.closed_by_goodbye()
    }

    /// Returns whether messages can be sent, and are likely to arrive.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_broken() && !self.ended_in_order() && !self.is_suspect()
    }

    /// Returns whether a PING was not answered in time: the process is busy or frozen. New messages
    /// should use another link.
    pub(crate) fn is_suspect(&self) -> bool {
        self.pulse.is_suspect()
    }

    /// Watches the link as if an answer were outstanding, while the returned guard lives.
    pub(crate) fn watch(&self) -> Interest {
        Interest::new(&self.pulse)
    }

    /// Checks whether the connection still works while something is outstanding, and breaks the
    /// link when it does not. Ends with the link; must be run in the background.
    pub(crate) fn watching(
        self: &Arc<Self>,
        place: Where,
    ) -> impl Future<Output = ()> + Send + use<> {
        let ending = BreakOnDrop(Arc::downgrade(self));
        let watching = watch::run(Arc::downgrade(self), Arc::clone(&self.pulse), place);
        // A link that is no longer watched could stay dead unnoticed.
        watching.map(move |()| drop(ending))
    }

    fn seen(&self) -> Seen {
        let activity = self.sender.activity();
        let (queued, written) = activity.sent();
        Seen {
            outstanding: self.in_flight() > 0 || self.pulse.has_interest(),
            unanswered: self.pulse.unanswered(),
            received_at: activity.received_at(),
            pong: activity.pong(),
            queued,
            written,
        }
    }

    /// Waits until the connection has ended.
    pub(crate) fn broken(&self) -> impl Future<Output = ()> + Send + use<> {
        self.broken.clone().map(drop)
    }

    /// Sends a request with this link's client and a unique index. Fails with `unreachable` when the
    /// link is already broken, `bad_message` when the header is too long: then the function did not
    /// run.
    pub(crate) fn request(
        self: &Arc<Self>,
        request: &mut Request,
        payload: &Bytes,
        deadline: Instant,
    ) -> Result<PendingReply, CallFailure> {
        let (idx, alone) = self.calls.register(deadline).ok_or_else(broken)?;
        request.client = Some(self.client);
        request.idx = Some(idx);
        request.route.clear();
        if !self.sender.is_native() || request.cache.is_some() {
            // A compact header is for the server at the other end of the link.
            request.route.push(self.server);
        }
        self.hand_over(request, &Common::Own(0), payload, alone)
            .inspect_err(|_| self.calls.unregister(idx))?;
        self.pulse.stir();
        Ok(PendingReply {
            link: Arc::clone(self),
            idx: Some(idx),
        })
    }

    /// Sends a message of a job unchanged. Its answer goes to the job, over whichever link it
    /// comes. Fails with `unreachable` when the link is broken: then no function ran.
    pub(crate) fn post(&self, request: &Request, payload: Bytes) -> Result<u64, CallFailure> {
        let number = request.job.and_then(|job| self.jobs.number(job));
        self.post_as(request, &number.map_or(Common::None, Common::Own), payload)
    }

    /// Forwards another client's message unchanged; if it came with a compact header, with this
    /// template. Returns its number among the posted messages: once this many have
    /// [arrived](Fate::arrived), this one has. Fails as [`Link::post`].
    pub(crate) fn forward(
        &self,
        request: &Request,
        template: Option<&Arc<Template>>,
        payload: Bytes,
    ) -> Result<u64, CallFailure> {
        self.post_as(request, &template.map_or(Common::None, Common::Of), payload)
    }

    fn post_as(
        &self,
        request: &Request,
        common: &Common<'_>,
        payload: Bytes,
    ) -> Result<u64, CallFailure> {
        if self.is_broken() {
            return Err(broken());
        }
        self.hand_over(request, common, &payload, false)?;
        Ok(self.pulse.sent_unanswered())
    }

    /// Returns the fate of the sent messages.
    pub(crate) fn fate(&self) -> Fate {
        Fate(Arc::clone(&self.pulse))
    }

    fn hand_over(
        &self,
        request: &Request,
        common: &Common<'_>,
        payload: &Bytes,
        alone: bool,
    ) -> Result<(), CallFailure> {
        let mut names = lock(&self.names);
        if self.ended_in_order() {
            return Err(CallFailure::new(
                CallErrorKind::Unreachable,
                "the server is leaving",
            ));
        }
        let compact = match names.as_mut() {
            Some(names) => self.compact_header(names, request, common),
            None => None,
        };
        let json;
        let header = if let Some(compact) = compact {
            compact
        } else {
            json = json_header(request)?;
            &json
        };
        self.sender
            .send_pair(header, payload, alone)
            .map_err(|error| {
                self.end();
                CallFailure::new(CallErrorKind::Unreachable, error.to_string())
            })
    }

    /// Returns the compact header of a request, after sending what must be registered for it.
    fn compact_header<'a>(
        &self,
        names: &'a mut Names,
        request: &Request,
        common: &Common<'_>,
    ) -> Option<&'a [u8]> {
        let template = match common {
            Common::Of(template) => Arc::clone(template),
            Common::Own(job) => names.template(*job, request)?,
            Common::None => return None,
        };
        names.header(&template, request, |header| {
            // An error also occurs for the message itself, which is sent next.
            let _ = self.sender.send_pair(&header, &Bytes::new(), false);
        })
    }

    /// Waits until the server's kernel has everything that was sent.
    pub(crate) async fn flushed(&self) {
        self.sender.flushed().await;
    }

    /// Answers a goodbye.
    fn part(&self) {
        let _last = lock(&self.names);
        if self.pulse.part() {
            // If the connection is gone, the server does not wait for the answer.
            let _ = self
                .sender
                .send(&[message::encode_goodbye_ack(self.client).into()], false);
            self.pulse.sent_unanswered();
        }
    }

    /// Breaks the link: all waiting requests end.
    pub(crate) fn end(&self) {
        self.pulse.end();
        self.calls.end();
        lock(&self.close).take();
        lock(&self.greeted).take();
    }

    /// Reads the header of an answer; `None` when it is not valid.
    fn answer(&self, header: &[u8]) -> Option<Answer> {
        if !self.sender.is_native() || !compact::is_compact(header) {
            return Answer::decode(header);
        }
        let Ok(Compact::Result(ResultHeader {
            stage,
            job,
            idx,
            meta,
        })) = Compact::decode(header)
        else {
            return None;
        };
        let mut answer = Answer::greeting(self.server);
        (answer.idx, answer.stage) = (Some(idx), Some(stage.into()));
        answer.job = (job != 0).then(|| self.jobs.job(job));
        if let Some(json) = meta {
            answer.meta = Meta::from_json(json).ok()?;
        }
        answer.meta.problem().is_none().then_some(answer)
    }

    /// Delivers an answer. Returns whether it was solicited; `None` when it is not a valid answer.
    fn handle_frames(&self, mut frames: Frames) -> Option<bool> {
        let answer = self.answer(frames.first()?)?;
        if answer.bye {
            self.part();
            return Some(false);
        }
        let payload = if frames.len() > 1 {
            frames.swap_remove(1)
        } else {
            Bytes::new()
        };
        if let Some(job) = answer.job {
            return Some(self.jobs.deliver(job, Reply { answer, payload }));
        }
        if answer.idx.is_none()
            && let Some(tx) = lock(&self.greeted).take()
        {
            // The opener may have given up.
            let _ = tx.send(());
        }
        match self.calls.arrived(Reply { answer, payload }) {
            Arrived::For(()) | Arrived::Late => Some(true),
            Arrived::Unsolicited => Some(false),
        }
    }
}

/// Returns the JSON header of a request. Fails when it is too long: the server would not read it,
/// and would answer without the index that identifies the request.
fn json_header(request: &Request) -> Result<Vec<u8>, CallFailure> {
    let (header, max) = (request.encode(), message::MAX_HEADER_BYTES);
    if header.len() > max {
        let text = format!("header of {} bytes, {max} at most", header.len());
        return Err(CallFailure::new(CallErrorKind::BadMessage, text));
    }
    Ok(header)
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

/// The reply to a request. Dropping it drops the reply, and the request no longer counts as in
/// flight.
#[must_use = "the reply is dropped"]
pub(crate) struct PendingReply {
    link: Arc<Link>,
    /// `None` when the request has ended.
    idx: Option<u64>,
}

impl Future for PendingReply {
    type Output = Result<Reply, NoReply>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(idx) = self.idx else {
            return Poll::Pending;
        };
        let polled = self.link.calls.poll(idx, cx);
        if polled.is_ready() {
            self.idx = None;
        }
        polled
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if self.idx.is_some_and(|idx| self.link.calls.discard(idx)) {
            // Its answer, which would have shown that the connection works, is no longer expected.
            self.link.pulse.sent_unanswered();
        }
    }
}

fn broken() -> CallFailure {
    CallFailure::new(CallErrorKind::Unreachable, "the connection is broken")
}

async fn receive(
    link: std::sync::Weak<Link>,
    mut receiver: dealer::Receiver,
    closed: oneshot::Receiver<()>,
    tell_broken: oneshot::Sender<()>,
) {
    // All waiting requests end, even after a panic.
    let ending = BreakOnDrop(link.clone());
    let mut closed = closed.fuse();
    let mut unsolicited = UnsolicitedReplies::new(Instant::now());
    loop {
        let frames = futures::select_biased! {
            _ = closed => None,
            frames = receiver.receive().fuse() => frames.ok(),
        };
        let Some(frames) = frames else { break };
        let Some(link) = link.upgrade() else { break };
        let is_long = frames.iter().any(|frame| frame.len() >= LONG);
        // A server that sends garbage, or floods us with unsolicited answers, is broken or hostile.
        if !link
            .handle_frames(frames)
            .is_some_and(|asked_for| unsolicited.count(asked_for, Instant::now))
        {
            break;
        }
        if is_long || unsolicited.should_yield() {
            executor::yield_now().await;
        }
    }
    drop((ending, tell_broken));
}

/// Breaks the link when dropped.
struct BreakOnDrop(std::sync::Weak<Link>);

impl Drop for BreakOnDrop {
    fn drop(&mut self) {
        if let Some(link) = self.0.upgrade() {
            link.end();
        }
    }
}
