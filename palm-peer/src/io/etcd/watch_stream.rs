//! One Watch RPC for all watches over a connection; each has an id.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use etcd_client::{
    WatchClient, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use futures::{
    FutureExt,
    future::{Either, select},
    select_biased,
};
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, mpsc},
};

use super::{
    error::describe,
    life::Life,
    target::{MAX_UNREAD, Target},
    thread::spawn_on,
};
use crate::io::tasks::Name;
use palm_proto::types::ids::Revision;

/// The watches over one connection. The stream is opened by the first of them and
/// ends with the last.
#[derive(Default)]
pub(super) struct WatchStream(AsyncMutex<Option<Arc<Shared>>>);

/// The state shared by the task that reads the stream and the watches on it.
struct Shared {
    state: Mutex<State>,
    requests: mpsc::UnboundedSender<Request>,
}

#[derive(Default)]
struct State {
    /// Why the stream ended; no watch can be added after that.
    ended: Option<String>,
    /// The number of watches.
    active: usize,
    next: u64,
    /// The watches that etcd has not confirmed yet, in the order of their requests, which is that
    /// of its responses.
    asked: VecDeque<Reader>,
    /// The confirmed watches, by the ids that etcd assigned.
    known: HashMap<i64, Reader>,
    /// These ids, by our own numbers.
    ids: HashMap<u64, i64>,
}

/// The reader of one watch.
struct Reader {
    number: u64,
    answers: mpsc::Sender<WatchResponse>,
}

/// A request over the stream.
enum Request {
    Watch(String, Box<WatchOptions>),
    Cancel(i64),
    /// There are no watches any more.
    Close,
}

/// One watch. Dropping it cancels it at etcd.
pub(super) struct Subscription {
    number: u64,
    shared: Arc<Shared>,
    answers: mpsc::Receiver<WatchResponse>,
}

impl WatchStream {
    /// Starts a watch over the open stream, or opens one. The first response says whether etcd
    /// accepts it. Must run on etcd's thread.
    pub(super) async fn watch(
        &self,
        mut client: WatchClient,
        life: &Life,
        target: &Target,
        from: Revision,
    ) -> Result<Subscription, etcd_client::Error> {
        // Concurrent callers wait for the same stream.
        let mut open = self.0.lock().await;
        let request = |shared: &Arc<Shared>| {
            let request = Request::Watch(
                target.key().to_owned(),
                Box::new(target.watch_options(from)),
            );
            shared.subscribe(Some(request))
        };
        if let Some(subscription) = open.as_ref().and_then(request) {
            return Ok(subscription);
        }
        let stream = client
            .watch(target.key(), Some(target.watch_options(from)))
            .await?;
        let (sender, answers) = stream.split();
        let (requests, orders) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            requests,
        });
        let ended = || etcd_client::Error::WatchError("the stream ended at once".to_owned());
        let subscription = shared.subscribe(None).ok_or_else(ended)?;
        let running = run(Arc::clone(&shared), life.clone(), sender, orders, answers);
        spawn_on(&Handle::current(), Name::EtcdWatchStream, running);
        *open = Some(shared);
        Ok(subscription)
    }
}

/// Runs the stream until it ends, or there are no watches any more.
async fn run(
    shared: Arc<Shared>,
    life: Life,
    sender: WatchRequestSender,
    orders: mpsc::UnboundedReceiver<Request>,
    answers: WatchResponseStream,
) {
    let ending = CloseOnDrop(shared);
    // A request that cannot be sent at once must not prevent reading the responses, which
    // may be the reason.
    let (sending, receiving) = (
        send(&life, sender, orders),
        receive(&ending.0, &life, answers),
    );
    let reason = match select(pin!(sending), pin!(receiving)).await {
        Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
    };
    ending.0.end(reason);
}

/// Ends the watches of a stream when its task ends in any way.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0
            .end("the task of the watches ended, which is a bug in PALM".to_owned());
    }
}

async fn send(
    life: &Life,
    mut sender: WatchRequestSender,
    mut orders: mpsc::UnboundedReceiver<Request>,
) -> String {
    let mut checks = life.checks();
    loop {
        let sent = {
            let mut check = pin!(checks.changed().fuse());
            let mut order = pin!(poll_fn(|cx| orders.poll_recv(cx)).fuse());
            select_biased! {
                order = order => match order {
                    Some(Request::Watch(key, options)) => sender.watch(key, Some(*options)).await,
                    Some(Request::Cancel(id)) => sender.cancel(id).await,
                    Some(Request::Close) | None => return "no watch uses it any more".to_owned(),
                },
                // Its response proves that the connection is alive.
                _ = check => sender.request_progress().await,
            }
        };
        if let Err(error) = sent {
            return describe(&error);
        }
    }
}

async fn receive(shared: &Shared, life: &Life, mut answers: WatchResponseStream) -> String {
    let mut silent = pin!(life.silent().fuse());
    loop {
        let answer = {
            let mut message = pin!(answers.message().fuse());
            select_biased! {
                answer = message => answer,
                () = silent => return "the connection does not respond".to_owned(),
            }
        };
        match answer {
            Ok(Some(answer)) => {
                life.received();
                shared.route(answer);
            }
            Ok(None) => return "etcd ended the watch".to_owned(),
            Err(error) => return describe(&error),
        }
    }
}

impl Shared {
    /// The state is consistent after each call.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a watch, unless the stream has ended, and sends its request, if it was not sent yet.
    fn subscribe(self: &Arc<Self>, request: Option<Request>) -> Option<Subscription> {
        let mut state = self.state();
        if state.ended.is_some() {
            return None;
        }
        // Under the lock, so that requests are sent in the order of the expected responses.
        if let Some(request) = request {
            self.requests.send(request).ok()?;
        }
        let (sender, answers) = mpsc::channel(MAX_UNREAD);
        let number = state.next;
        state.next += 1;
        state.active += 1;
        state.asked.push_back(Reader {
            number,
            answers: sender,
        });
        drop(state);
        Some(Subscription {
            number,
            shared: Arc::clone(self),
            answers,
        })
    }

    /// Passes a response to its watch. A watch that leaves too much unread, or is
    /// gone, is cancelled.
    fn route(&self, answer: WatchResponse) {
        let mut state = self.state();
        let id = answer.watch_id();
        // A refused watch has no id of its own.
        let reader = if answer.created() {
            state.asked.pop_front()
        } else {
            state.known.remove(&id)
        };
        let Some(reader) = reader else { return };
        state.ids.remove(&reader.number);
        let canceled = answer.canceled();
        if reader.answers.try_send(answer).is_err() {
            if !canceled {
                let _ = self.requests.send(Request::Cancel(id));
            }
        } else if !canceled {
            state.ids.insert(reader.number, id);
            state.known.insert(id, reader);
        }
    }

    /// Ends all watches. They can still read what is buffered.
    fn end(&self, reason: String) {
        let mut state = self.state();
        state.ended.get_or_insert(reason);
        state.asked.clear();
        state.known.clear();
        state.ids.clear();
    }
}

impl Subscription {
    /// Returns etcd's next response for this watch; `None` at its end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<WatchResponse> {
        self.answers.recv().await
    }

    /// Returns why the whole stream ended; `None` if only this watch ended, because it left
    /// too much unread.
    pub(super) fn stream_ended(&self) -> Option<String> {
        self.shared.state().ended.clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.active -= 1;
        if state.active == 0 {
            state
                .ended
                .get_or_insert_with(|| "no watch uses it any more".to_owned());
            let _ = self.shared.requests.send(Request::Close);
            return;
        }
        // A watch without a response is cancelled when the response comes.
        if let Some(id) = state.ids.remove(&self.number) {
            state.known.remove(&id);
            let _ = self.shared.requests.send(Request::Cancel(id));
        }
    }
}
