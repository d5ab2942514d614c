//! Streams messages through a pipeline of functions.

use crate::{
    client::{
        mesh::{Mesh, check_meta},
        running_job::RunningJob,
    },
    error::CallError,
    sync::lock,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use palm_proto::{
    job::{Counts, Limits, MessageError, Outcome},
    types::{
        answer::Answer,
        message::{CallErrorKind, MAX_TIMEOUT},
        meta::Meta,
    },
};
use std::{
    error, fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A job about to run: a pipeline of functions, and how its messages are sent through it.
///
/// The messages flow from server to server; the last one answers this client. Each is tried up to
/// three times ([`Job::attempts`]), on another instance when there is one, so a function may run
/// more than once for a message; each ends in exactly one result or error.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures::{StreamExt, stream};
/// use palm_peer::{Client, Config};
///
/// let client = Client::connect(Config::default()).await?;
/// let lines = ["to be", "or not to be"];
/// let mut results = client.job(["text.shout", "text.count"]).run(stream::iter(lines))?;
/// while let Some((idx, result)) = results.next().await {
///     println!("{idx}: {:?}", result?);
/// }
/// # Ok(()) }
/// ```
#[must_use = "a job does nothing until it is run"]
#[derive(Clone)]
pub struct Job {
    mesh: Arc<Mesh>,
    pipeline: Vec<String>,
    limits: Limits,
    meta: Meta,
}

impl Job {
    pub(crate) fn new(mesh: Arc<Mesh>, pipeline: Vec<String>) -> Self {
        let deadline = mesh.config.timeout;
        let limits = Limits {
            messages: 1024,
            bytes: 64 * 1024 * 1024,
            attempts: 3,
            deadline,
            attempt_timeout: deadline / 3,
            ordered: true,
        };
        Self {
            mesh,
            pipeline,
            limits,
            meta: Meta::new(),
        }
    }

    /// Sets an entry of the metadata that travels with each message, from stage to stage; as
    /// [`Call::meta`](crate::Call::meta).
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(name, value);
        self
    }

    /// Sets the window: how many messages (default 1024) and bytes (default 64 MiB) may be in
    /// flight or wait to be consumed. Nothing is pulled from the input beyond it; one message is
    /// always allowed. At least 1 of each.
    pub fn window(mut self, messages: usize, bytes: usize) -> Self {
        self.limits.messages = messages.max(1);
        self.limits.bytes = bytes.max(1);
        self
    }

    /// Sets the maximum number of attempts of a message; default 3, at least 1.
    ///
    /// A message is retried when a server of its route is lost, when the window is full and later
    /// messages along the same way have been answered for some seconds, or when a third of its time
    /// has passed without an answer. It is not known then whether it was lost: an answer to any
    /// earlier attempt counts, and a message ends in `unreachable` only when none is answered
    /// within a third of its time after the last attempt failed. So it survives the loss of any
    /// number of servers that it has already passed.
    ///
    /// Rejections (busy, leaving, next stage unreachable) do not count as attempts; they are
    /// retried with backoff until the deadline.
    ///
    /// A poison message (one that crashes every server that runs it) crashes at most this many
    /// servers. Final attempts after a loss are serialised, so that other messages do not lose all
    /// their attempts beside it.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.limits.attempts = attempts.max(1);
        self
    }

    /// Sets how long a message may take in total, at most a year; default `Config::timeout`. After
    /// a third of it without an answer, another attempt is made beside the first.
    pub fn timeout(mut self, time: Duration) -> Self {
        let time = time.min(MAX_TIMEOUT);
        self.limits.deadline = time;
        self.limits.attempt_timeout = time / 3;
        self
    }

    /// Yields results as they complete, instead of in the order of the messages.
    pub fn unordered(mut self) -> Self {
        self.limits.ordered = false;
        self
    }

    /// Runs the job over the messages of a stream. The job advances only while the results are
    /// polled (backpressure); dropping the results cancels it.
    ///
    /// # Errors
    /// [`CallErrorKind::NoSuchServer`] or [`CallErrorKind::NoSuchFunction`] when a stage of the
    /// pipeline has no reachable instance, [`CallErrorKind::BadMessage`] for an invalid target or
    /// number of stages, or metadata that is too long. Nothing was pulled then.
    pub fn run<S>(self, messages: S) -> Result<JobResults, CallError>
    where
        S: Stream + Send + Unpin + 'static,
        S::Item: Into<Bytes>,
    {
        let failed = |failure| CallError::new(failure, None);
        if self.pipeline.is_empty() || self.pipeline.len() > palm_proto::types::message::MAX_STAGES
        {
            let text = format!("a pipeline of {} stages", self.pipeline.len());
            return Err(failed(palm_proto::types::message::CallFailure::new(
                CallErrorKind::BadMessage,
                text,
            )));
        }
        check_meta(&self.meta).map_err(failed)?;
        let messages = messages.map(Into::into);
        let running = RunningJob::start(self.mesh, self.pipeline, self.limits, self.meta, messages)
            .map_err(failed)?;
        let progress = Progress {
            counts: running.progress(),
            started: Instant::now(),
        };
        Ok(JobResults {
            running: Box::pin(running),
            progress,
        })
    }

    /// As [`Job::run`], over an iterator.
    ///
    /// ```no_run
    /// # async fn example(client: palm_peer::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::StreamExt;
    ///
    /// let mut results = client.job(["text.count"]).unordered().window(256, 1 << 20).run_iter(["to be", "or not"])?;
    /// while let Some((idx, result)) = results.next().await {
    ///     println!("message {idx}: {result:?}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run_iter<I>(self, messages: I) -> Result<JobResults, CallError>
    where
        I: IntoIterator,
        I::IntoIter: Send + Unpin + 'static,
        I::Item: Into<Bytes>,
    {
        self.run(futures::stream::iter(messages))
    }
}

/// The results of a job: a stream of each message's index, from 0, and its result or error. It ends
/// when the input has ended and each message has its result or error.
///
/// Awaiting the next item is cancel-safe: nothing is lost when that future is dropped. Dropping the
/// stream cancels the job; functions that run may run to their end.
#[must_use = "a job advances only while its results are polled"]
pub struct JobResults {
    running: Pin<Box<dyn Stream<Item = (u64, Outcome)> + Send>>,
    progress: Progress,
}

impl JobResults {
    /// Returns the progress of the job, which can be read from anywhere while it runs.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Returns the results with the metadata that the function of the last stage set on them.
    ///
    /// ```no_run
    /// # async fn example(job: palm_peer::Job) -> Result<(), palm_peer::CallError> {
    /// use futures::StreamExt;
    ///
    /// let mut answers = job.meta("user", "Ada").run_iter(["to be", "or not"])?.answers();
    /// while let Some((idx, answer)) = answers.next().await {
    ///     println!("{idx}: {:?}", answer.map(|answer| answer.meta().clone()));
    /// }
    /// # Ok(()) }
    /// ```
    pub fn answers(self) -> JobAnswers {
        JobAnswers(self)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(u64, Result<Answer, JobError>)>> {
        let next = self.running.as_mut().poll_next(cx);
        next.map(|ended| ended.map(|(idx, ending)| (idx, ending.map_err(JobError))))
    }
}

impl Stream for JobResults {
    type Item = (u64, Result<Bytes, JobError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let payload = |(idx, result): (u64, Result<Answer, JobError>)| {
            (idx, result.map(Answer::into_payload))
        };
        self.poll_answer(cx).map(|next| next.map(payload))
    }
}

/// The results of a job with their metadata, from [`JobResults::answers`]; else as [`JobResults`].
#[must_use = "a job advances only while its results are polled"]
#[derive(Debug)]
pub struct JobAnswers(JobResults);

impl JobAnswers {
    /// Returns the progress of the job, which can be read from anywhere while it runs.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.progress()
    }
}

impl Stream for JobAnswers {
    type Item = (u64, Result<Answer, JobError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_answer(cx)
    }
}

impl fmt::Debug for JobResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobResults")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// The progress of a job. Cheap to clone and to read.
///
/// ```no_run
/// # async fn example(job: palm_peer::Job) -> Result<(), palm_peer::CallError> {
/// use futures::StreamExt;
///
/// let results = job.run_iter(["to be", "or not"])?;
/// let progress = results.progress();
/// let _all: Vec<_> = results.collect().await;
/// println!("{} done, {} failed, {:.0} a second", progress.done(), progress.failed(), progress.rate());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Progress {
    counts: Arc<Mutex<Counts>>,
    started: Instant,
}

impl Progress {
    /// Returns the number of messages pulled from the input.
    #[must_use]
    pub fn sent(&self) -> u64 {
        lock(&self.counts).pulled
    }

    /// Returns the number of messages that ended in a result.
    #[must_use]
    pub fn done(&self) -> u64 {
        lock(&self.counts).done
    }

    /// Returns the number of messages that ended in an error.
    #[must_use]
    pub fn failed(&self) -> u64 {
        lock(&self.counts).failed
    }

    /// Returns the number of attempts beyond the first of each message, for which a function
    /// may have run again.
    #[must_use]
    pub fn retried(&self) -> u64 {
        lock(&self.counts).retried
    }

    /// Returns how many messages ended per second, on average since the start.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        let counts = *lock(&self.counts);
        (counts.done + counts.failed) as f64
            / self.started.elapsed().as_secs_f64().max(f64::EPSILON)
    }
}

/// Why a message of a job has no result.
///
/// ```no_run
/// # async fn example(mut results: palm_peer::JobResults) {
/// use futures::StreamExt;
/// use palm_peer::CallErrorKind;
///
/// while let Some((idx, result)) = results.next().await {
///     match result {
///         Ok(answer) => println!("{answer:?}"),
///         // The function itself returned an error.
///         Err(error) if error.kind() == CallErrorKind::Failed => println!("{idx}: {}", error.message()),
///         Err(error) => println!("{idx}: stage {} of server {:?}: {error}", error.stage(), error.server()),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError(MessageError);

impl JobError {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> CallErrorKind {
        self.0.failure.kind
    }

    /// Returns the message of the server or client that found the error.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.failure.message
    }

    /// Returns the code of an [`ApplicationError`](crate::ApplicationError) of the function.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.0.failure.code.as_deref()
    }

    /// Returns the data of an [`ApplicationError`](crate::ApplicationError) of the function.
    #[must_use]
    pub fn data(&self) -> Option<&serde_json::Value> {
        self.0.failure.data.as_deref()
    }

    /// Returns the stage that failed, from 0.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.0.stage
    }

    /// Returns the server that failed; `None` when no server was involved.
    #[must_use]
    pub fn server(&self) -> Option<Uuid> {
        self.0.server
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at stage {}: {}",
            self.0.failure.title(),
            self.stage(),
            self.message()
        )?;
        self.server()
            .map_or(Ok(()), |uuid| write!(f, " (server {uuid})"))
    }
}

impl error::Error for JobError {}
