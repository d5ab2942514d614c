//! Where the answers to the messages of jobs go, whichever link they come over.

use crate::sync::lock;
use bytes::Bytes;
use futures::channel::mpsc;
use palm_proto::types::message::Answer;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use uuid::Uuid;

/// An answer as it came in.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its header.
    pub answer: Answer,
    /// The result.
    pub payload: Bytes,
}

/// The jobs of a client. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyRouter(Arc<Mutex<Routes>>);

#[derive(Debug, Default)]
struct Routes {
    jobs: HashMap<Uuid, JobRoute>,
    /// How many answers nobody waits for any more that may yet come.
    late: u64,
}

/// Where the answers to one job's messages go.
#[derive(Debug)]
struct JobRoute {
    tx: mpsc::UnboundedSender<Reply>,
    /// What may yet come for each message. Nobody may be there to take it in.
    wanted: HashMap<u64, Wanted>,
}

/// What may yet come for a message.
#[derive(Debug, Default)]
struct Wanted {
    /// Answers: one for each attempt.
    answers: u32,
    /// Reports: up to [`MAX_REPORTS`] for each attempt.
    reports: u32,
}

/// How often a client is told that an attempt of a message was sent elsewhere, or lost.
const MAX_REPORTS: u32 = 8;

impl ReplyRouter {
    /// Has the answers for `job` sent there: as many as are [expected](Self::expect).
    pub(crate) fn open(&self, job: Uuid) -> mpsc::UnboundedReceiver<Reply> {
        let (tx, answers) = mpsc::unbounded();
        lock(&self.0).jobs.insert(job, JobRoute { tx, wanted: HashMap::new() });
        answers
    }

    /// Has one answer more to this message delivered. To be called before it is sent.
    pub(crate) fn register(&self, job: Uuid, idx: u64) {
        if let Some(sink) = lock(&self.0).jobs.get_mut(&job) {
            let wanted = sink.wanted.entry(idx).or_default();
            wanted.answers += 1;
            wanted.reports += MAX_REPORTS;
        }
    }

    /// Takes back one [`ReplyRouter::expect`]: it was not sent after all.
    pub(crate) fn unregister(&self, job: Uuid, idx: u64) {
        if let Some(sink) = lock(&self.0).jobs.get_mut(&job) {
            sink.take(idx);
        }
    }

    /// Has all further answers to this message dropped.
    pub(crate) fn discard(&self, job: Uuid, idx: u64) {
        let mut router = lock(&self.0);
        let left = router.jobs.get_mut(&job).and_then(|sink| sink.wanted.remove(&idx));
        router.late += left.map_or(0, |wanted| u64::from(wanted.answers));
    }

    /// Has further answers for `job` dropped.
    pub(crate) fn close(&self, job: Uuid) {
        let mut router = lock(&self.0);
        let left = router
            .jobs
            .remove(&job)
            .map_or(0, |sink| sink.wanted.into_values().map(|wanted| u64::from(wanted.answers)).sum());
        router.late += left;
    }

    /// Delivers an answer to the job that waits for it. Returns whether it was asked for.
    pub(crate) fn deliver(&self, job: Uuid, reply: Reply) -> bool {
        let mut router = lock(&self.0);
        let is_report = reply.answer.rerouted.is_some();
        if let Some(sink) = router.jobs.get_mut(&job)
            && reply.answer.idx.is_some_and(|idx| if is_report { sink.take_report(idx) } else { sink.take(idx) })
        {
            // The job may be over.
            let _ = sink.tx.unbounded_send(reply);
            return true;
        }
        if is_report {
            return false;
        }
        let late = router.late > 0;
        router.late = router.late.saturating_sub(1);
        late
    }
}

impl JobRoute {
    /// Takes one of the answers that a message may get, if there is one left.
    fn take(&mut self, idx: u64) -> bool {
        let Some(wanted) = self.wanted.get_mut(&idx) else { return false };
        wanted.answers -= 1;
        if wanted.answers == 0 {
            self.wanted.remove(&idx);
        }
        true
    }

    /// Takes one of the reports, if there is one left.
    fn take_report(&mut self, idx: u64) -> bool {
        let Some(left) =
            self.wanted.get_mut(&idx).and_then(|wanted| wanted.reports.checked_sub(1).map(|left| (wanted, left)))
        else {
            return false;
        };
        left.0.reports = left.1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use palm_proto::types::message::{Answer, Rerouted};

    fn reply(idx: u64) -> Reply {
        let mut answer = Answer::greeting(Uuid::nil());
        answer.idx = Some(idx);
        Reply { answer, payload: Bytes::new() }
    }

    #[test]
    fn a_late_second_answer_is_not_unsolicited() {
        let (router, job) = (ReplyRouter::default(), Uuid::from_u128(1));
        let mut answers = router.open(job);
        assert!(!router.deliver(job, reply(7)), "nobody has asked");
        router.register(job, 7);
        router.register(job, 7);
        router.register(job, 8);
        assert_eq!([7, 7, 7, 8, 8].map(|idx| router.deliver(job, reply(idx))), [true, true, false, true, false]);
        let mut count = 0;
        while answers.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, 3);

        // Two attempts are given up, one is taken back, and one is left when the job is dropped.
        router.register(job, 1);
        router.register(job, 1);
        router.discard(job, 1);
        router.register(job, 2);
        router.unregister(job, 2);
        router.register(job, 3);
        router.close(job);
        assert_eq!([1, 1, 3, 3].map(|idx| router.deliver(job, reply(idx))), [true, true, true, false]);
        assert!(answers.try_recv().is_err());
    }

    #[test]
    fn reports_are_bounded_and_displace_no_answers() {
        let (router, job) = (ReplyRouter::default(), Uuid::from_u128(1));
        let _answers = router.open(job);
        let report = || {
            let mut report = reply(7);
            report.answer.rerouted = Some(Rerouted { stage: 1, from: Uuid::nil(), to: None });
            report
        };
        assert!(!router.deliver(job, report()), "of nothing that was sent");
        router.register(job, 7);
        let delivered = (0..100).filter(|_| router.deliver(job, report())).count();
        assert_eq!(delivered, MAX_REPORTS as usize);
        assert_eq!([router.deliver(job, reply(7)), router.deliver(job, report())], [true, false]);
    }

    #[test]
    fn a_hundred_thousand_jobs_leave_no_state() {
        let router = ReplyRouter::default();
        for job in (0..100_000).map(Uuid::from_u128) {
            let answers = router.open(job);
            (0..3).for_each(|idx| router.register(job, idx));
            assert!(router.deliver(job, reply(0)));
            // The second is given up, and the third is left when the job is dropped.
            router.discard(job, 1);
            router.close(job);
            drop(answers);
            router.register(job, 4);
            assert!(
                router.deliver(job, reply(1)) && router.deliver(job, reply(2)),
                "they come late, and are no strays"
            );
        }
        let router = lock(&router.0);
        assert_eq!((router.jobs.len(), router.late), (0, 0));
    }
}
