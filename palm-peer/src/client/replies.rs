//! Routes the answers to the messages of jobs, whichever link they come over.

use crate::sync::lock;
use bytes::Bytes;
use foldhash::HashMap;
use futures::channel::mpsc;
use palm_proto::{
    replies::{Arrived, JobReplies},
    types::{answer, message::Answer},
};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// A received answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its header.
    pub answer: Answer,
    /// The result.
    pub payload: Bytes,
}

impl Reply {
    /// The reply to the request of this index, for tests.
    #[cfg(test)]
    pub(crate) fn empty(idx: u64) -> Self {
        let mut answer = Answer::greeting(Uuid::nil());
        answer.idx = Some(idx);
        Self {
            answer,
            payload: Bytes::new(),
        }
    }

    /// Returns the result with its metadata.
    pub(crate) fn into_answer(self) -> answer::Answer {
        answer::Answer::from_parts(self.payload, self.answer.meta)
    }
}

/// The jobs of a client. Cheap to clone. [`JobReplies`] decides what is delivered.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyRouter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    replies: Mutex<JobReplies<mpsc::UnboundedSender<Reply>>>,
    numbers: Mutex<Numbers>,
}

/// The numbers of the running jobs, in compact headers.
#[derive(Debug, Default)]
struct Numbers {
    last: u32,
    of: HashMap<Uuid, u32>,
    job: HashMap<u32, Uuid>,
}

impl Numbers {
    /// Numbers a job. Never 0, which stands for calls, nor as another one that runs.
    fn open(&mut self, job: Uuid) {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.job.contains_key(&self.last) {
                break;
            }
        }
        self.of.insert(job, self.last);
        self.job.insert(self.last, job);
    }

    fn close(&mut self, job: Uuid) {
        if let Some(number) = self.of.remove(&job) {
            self.job.remove(&number);
        }
    }
}

impl ReplyRouter {
    /// Has the answers for `job` sent there: as many as are [registered](Self::register).
    pub(crate) fn open(&self, job: Uuid) -> mpsc::UnboundedReceiver<Reply> {
        let (tx, answers) = mpsc::unbounded();
        lock(&self.0.numbers).open(job);
        lock(&self.0.replies).open(job, tx);
        answers
    }

    /// Allows one more answer to this message. Must be called before it is sent.
    pub(crate) fn register(&self, job: Uuid, idx: u64) {
        lock(&self.0.replies).register(job, idx);
    }

    /// Takes back one [`ReplyRouter::register`]: it was not sent after all.
    pub(crate) fn unregister(&self, job: Uuid, idx: u64) {
        lock(&self.0.replies).unregister(job, idx);
    }

    /// Drops all further answers to this message.
    pub(crate) fn discard(&self, job: Uuid, idx: u64) {
        lock(&self.0.replies).discard(job, idx);
    }

    /// Drops all further answers for `job`.
    pub(crate) fn close(&self, job: Uuid) {
        lock(&self.0.numbers).close(job);
        lock(&self.0.replies).close(job);
    }

    /// Returns the number of a job in compact headers, while it runs.
    pub(crate) fn number(&self, job: Uuid) -> Option<u32> {
        lock(&self.0.numbers).of.get(&job).copied()
    }

    /// Returns the job with this number. That of a job that is over is unknown, like the job
    /// itself.
    pub(crate) fn job(&self, number: u32) -> Uuid {
        lock(&self.0.numbers)
            .job
            .get(&number)
            .copied()
            .unwrap_or_default()
    }

    /// Delivers an answer to the job that waits for it. Returns whether it was asked for.
    pub(crate) fn deliver(&self, job: Uuid, reply: Reply) -> bool {
        match lock(&self.0.replies).arrived(job, reply.answer.idx, reply.answer.rerouted.is_some())
        {
            Arrived::For(tx) => {
                // The job may be over.
                let _ = tx.unbounded_send(reply);
                true
            }
            Arrived::Late => true,
            Arrived::Unsolicited => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expected_answers_reach_the_job() {
        let (router, job) = (ReplyRouter::default(), Uuid::from_u128(1));
        let mut answers = router.open(job);
        router.register(job, 7);
        router.register(job, 8);
        router.discard(job, 8);
        assert_eq!(
            [7, 7, 8].map(|idx| router.deliver(job, Reply::empty(idx))),
            [true, true, false],
            "one late answer is allowed for"
        );
        let answer = answers.try_recv().expect("an answer").answer;
        assert_eq!(answer.idx, Some(7));
        assert!(answers.try_recv().is_err());
    }

    #[test]
    fn a_running_job_has_a_number_of_its_own() {
        let router = ReplyRouter::default();
        let [one, other] = [1, 2].map(Uuid::from_u128);
        let _answers = [router.open(one), router.open(other)];
        assert_eq!(
            [one, other].map(|job| router.number(job)),
            [Some(1), Some(2)]
        );
        assert_eq!(
            [1, 2, 3, 0].map(|number| router.job(number)),
            [one, other, Uuid::nil(), Uuid::nil()]
        );
        router.close(one);
        assert_eq!((router.number(one), router.job(1)), (None, Uuid::nil()));
    }
}
