//! Routes the answers to the messages of jobs, whichever link they come over.

use crate::sync::lock;
use bytes::Bytes;
use futures::channel::mpsc;
use palm_proto::{
    replies::{Arrived, JobReplies},
    types::message::Answer,
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

/// The jobs of a client. Cheap to clone. [`JobReplies`] decides what is delivered.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyRouter(Arc<Mutex<JobReplies<mpsc::UnboundedSender<Reply>>>>);

impl ReplyRouter {
    /// Has the answers for `job` sent there: as many as are [registered](Self::register).
    pub(crate) fn open(&self, job: Uuid) -> mpsc::UnboundedReceiver<Reply> {
        let (tx, answers) = mpsc::unbounded();
        lock(&self.0).open(job, tx);
        answers
    }

    /// Allows one more answer to this message. Must be called before it is sent.
    pub(crate) fn register(&self, job: Uuid, idx: u64) {
        lock(&self.0).register(job, idx);
    }

    /// Takes back one [`ReplyRouter::register`]: it was not sent after all.
    pub(crate) fn unregister(&self, job: Uuid, idx: u64) {
        lock(&self.0).unregister(job, idx);
    }

    /// Drops all further answers to this message.
    pub(crate) fn discard(&self, job: Uuid, idx: u64) {
        lock(&self.0).discard(job, idx);
    }

    /// Drops all further answers for `job`.
    pub(crate) fn close(&self, job: Uuid) {
        lock(&self.0).close(job);
    }

    /// Delivers an answer to the job that waits for it. Returns whether it was asked for.
    pub(crate) fn deliver(&self, job: Uuid, reply: Reply) -> bool {
        match lock(&self.0).arrived(job, reply.answer.idx, reply.answer.rerouted.is_some()) {
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

    fn reply(idx: u64) -> Reply {
        let mut answer = Answer::greeting(Uuid::nil());
        answer.idx = Some(idx);
        Reply {
            answer,
            payload: Bytes::new(),
        }
    }

    #[test]
    fn only_expected_answers_reach_the_job() {
        let (router, job) = (ReplyRouter::default(), Uuid::from_u128(1));
        let mut answers = router.open(job);
        router.register(job, 7);
        router.register(job, 8);
        router.discard(job, 8);
        assert_eq!(
            [7, 7, 8].map(|idx| router.deliver(job, reply(idx))),
            [true, true, false],
            "one late answer is allowed for"
        );
        let answer = answers.try_recv().expect("an answer").answer;
        assert_eq!(answer.idx, Some(7));
        assert!(answers.try_recv().is_err());
    }
}
