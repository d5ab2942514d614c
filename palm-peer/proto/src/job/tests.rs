mod bounded;
mod simulation;

use super::*;
use crate::types::message::{CallErrorKind, Rerouted};
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    messages: 8,
    bytes: 1000,
    attempts: 3,
    deadline: Duration::from_secs(30),
    attempt_timeout: Duration::from_secs(10),
    ordered: true,
};

impl Job {
    fn actions_after(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.handle(event, now);
        std::iter::from_fn(|| self.next_action()).collect()
    }

    fn actions_at(&mut self, now: Instant) -> Vec<Action> {
        self.tick(now);
        std::iter::from_fn(|| self.next_action()).collect()
    }
}

fn fault(kind: CallErrorKind, server: u128) -> Outcome {
    Err(MessageError {
        failure: CallFailure::new(kind, "x"),
        stage: 0,
        server: Some(Uuid::from_u128(server)),
    })
}

fn sent(actions: &[Action]) -> Vec<u64> {
    actions
        .iter()
        .map(|Action::Send { idx, .. }| *idx)
        .collect()
}

#[test]
fn the_window_bounds_messages_and_bytes_until_they_are_consumed() {
    let now = Instant::now();
    let mut job = Job::new(LIMITS, 0);
    for _ in 0..8 {
        assert!(job.may_pull());
        job.actions_after(Event::Pulled("abc".into()), now);
    }
    assert!(!job.may_pull());
    job.actions_after(
        Event::Answered {
            idx: 0,
            ending: Ok("r".into()),
        },
        now,
    );
    assert!(!job.may_pull(), "a result that nobody took still counts");
    assert_eq!(job.next_result(), Some((0, Ok("r".into()))));
    assert!(job.may_pull());
    let mut job = Job::new(LIMITS, 0);
    job.actions_after(Event::Pulled(vec![0; 5000].into()), now);
    assert!(
        !job.may_pull(),
        "one message may exceed the bytes, a second may not follow"
    );
}

#[test]
fn results_come_in_order_or_as_they_complete() {
    let now = Instant::now();
    for (ordered, first) in [(true, None), (false, Some((1, Ok(Answer::new("b")))))] {
        let mut job = Job::new(Limits { ordered, ..LIMITS }, 0);
        job.actions_after(Event::Pulled("0".into()), now);
        job.actions_after(Event::Pulled("1".into()), now);
        job.actions_after(
            Event::Answered {
                idx: 1,
                ending: Ok("b".into()),
            },
            now,
        );
        assert_eq!(job.next_result(), first);
    }
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn gone(instance: Uuid) -> Event {
    Event::Gone {
        instance,
        stages: Vec::new(),
    }
}

/// A job whose only message is in flight along this route.
fn under_way(limits: Limits, route: &[u128], now: Instant) -> Job {
    let mut job = Job::new(limits, 0);
    job.actions_after(Event::Pulled("0".into()), now);
    go(&mut job, route, now);
    job
}

fn go(job: &mut Job, route: &[u128], now: Instant) {
    let route = route.iter().copied().map(uuid).collect();
    job.actions_after(Event::Sent { idx: 0, route }, now);
}

fn answer(job: &mut Job, ending: Outcome, now: Instant) -> Vec<u64> {
    sent(&job.actions_after(Event::Answered { idx: 0, ending }, now))
}

#[test]
fn a_lost_server_costs_an_attempt_and_a_rejection_does_not() {
    let now = Instant::now();
    let mut job = under_way(LIMITS, &[7], now);
    for round in 1..=2 {
        assert!(answer(&mut job, fault(CallErrorKind::Leaving, 7), now).is_empty());
        assert_eq!(sent(&job.actions_at(now + Duration::from_secs(1))), [0]);
        go(&mut job, &[8], now);
        assert_eq!(sent(&job.actions_after(gone(uuid(8)), now)), [0]);
        assert_eq!(job.counts().retried, round);
        go(&mut job, &[7], now);
    }
    job.actions_after(gone(uuid(7)), now);
    let (_, ending) = job.next_result().expect("three attempts are all");
    assert_eq!(
        ending.expect_err("lost").failure.kind,
        CallErrorKind::Unreachable
    );
}

#[test]
fn losses_of_completed_stages_cost_no_attempts() {
    let now = Instant::now();
    // It waits at 2, and its further attempts at 5 and 8; the other instances of its
    // routes are lost.
    let mut job = under_way(LIMITS, &[1, 2, 3], now);
    for (instance, route) in [(1, [4, 5, 6]), (4, [7, 8, 9])] {
        assert_eq!(sent(&job.actions_after(gone(uuid(instance)), now)), [0]);
        go(&mut job, &route, now);
    }
    assert_eq!(job.actions_after(gone(uuid(7)), now), []);
    assert_eq!((job.next_result(), job.counts().retried), (None, 2));
    answer(
        &mut job,
        Ok("from the first".into()),
        now + LIMITS.attempt_timeout / 2,
    );
    assert_eq!(job.next_result(), Some((0, Ok("from the first".into()))));
}

#[test]
fn the_last_attempt_ends_after_the_attempt_timeout() {
    let now = Instant::now();
    let mut job = under_way(
        Limits {
            attempts: 1,
            ..LIMITS
        },
        &[1, 2],
        now,
    );
    job.actions_after(gone(uuid(2)), now);
    assert_eq!(
        (job.next_result(), job.deadline()),
        (None, Some(now + LIMITS.attempt_timeout))
    );
    job.actions_at(now + LIMITS.attempt_timeout);
    let fault = job.next_result().expect("ended").1.expect_err("lost");
    assert_eq!((fault.stage, fault.server), (1, Some(uuid(2))));
}

#[test]
fn a_rejected_old_attempt_frees_its_window_slot() {
    let now = Instant::now();
    let mut job = under_way(
        Limits {
            attempts: 2,
            ..LIMITS
        },
        &[1, 2],
        now,
    );
    job.actions_after(gone(uuid(2)), now);
    go(&mut job, &[3, 4], now);
    let mut late = fault(CallErrorKind::Busy, 1);
    assert!(
        answer(&mut job, late.clone(), now).is_empty(),
        "the other one is still under way"
    );
    assert_eq!(
        sent(&job.actions_after(gone(uuid(4)), now)),
        [0],
        "and may be given up for another"
    );
    go(&mut job, &[5, 6], now);
    job.actions_after(gone(uuid(6)), now);
    late = fault(CallErrorKind::Busy, 3);
    answer(&mut job, late, now);
    assert_eq!(
        sent(&job.actions_at(now + Duration::from_secs(1))),
        [0],
        "when all seemed used up as well"
    );
}

#[test]
fn a_substitute_for_a_leaving_server_may_fail_too() {
    let now = Instant::now();
    let mut job = under_way(LIMITS, &[1, 2], now);
    let other = |instance, stages: &[usize]| Event::Gone {
        instance: uuid(instance),
        stages: stages.into(),
    };
    assert_eq!(
        job.actions_after(other(5, &[1]), now),
        [],
        "another one has it"
    );
    job.actions_after(Event::Leaving(uuid(2)), now);
    assert_eq!(
        job.actions_after(other(6, &[0]), now),
        [],
        "this cannot be who goes on"
    );
    assert_eq!(sent(&job.actions_after(other(7, &[1]), now)), [0]);
    go(&mut job, &[1, 8], now);
    assert_eq!(
        job.actions_after(other(9, &[1]), now),
        [],
        "the instance of this attempt is known"
    );
}

fn rerouted(from: u128, to: Option<u128>) -> Event {
    Event::Rerouted {
        idx: 0,
        rerouted: Rerouted {
            stage: 1,
            from: uuid(from),
            to: to.map(uuid),
        },
    }
}

#[test]
fn losing_a_server_chosen_by_a_stage_affects_the_message() {
    let now = Instant::now();
    let mut job = under_way(LIMITS, &[1, 2], now);
    assert_eq!(job.actions_after(rerouted(2, Some(3)), now), []);
    assert_eq!([1, 2, 3].map(|server| job.load(uuid(server))), [1, 0, 1]);
    assert_eq!(
        job.actions_after(gone(uuid(2)), now),
        [],
        "it is not there any more"
    );
    assert_eq!(sent(&job.actions_after(gone(uuid(3)), now)), [0]);
    go(&mut job, &[1, 4], now);
    // A report on the previous attempt comes late.
    job.actions_after(rerouted(3, Some(5)), now);
    assert_eq!([4, 5].map(|server| job.load(uuid(server))), [1, 1]);
    assert_eq!(job.actions_after(gone(uuid(5)), now), []);
    answer(&mut job, Ok("r".into()), now);
    assert_eq!(
        (job.next_result(), job.loads.is_empty()),
        (Some((0, Ok("r".into()))), true)
    );
}

#[test]
fn a_possible_loss_by_a_stage_is_resent_and_counted_once() {
    let now = Instant::now();
    let mut job = under_way(LIMITS, &[1, 2], now);
    assert_eq!(sent(&job.actions_after(rerouted(2, None), now)), [0]);
    go(&mut job, &[1, 3], now);
    assert_eq!(
        job.actions_after(rerouted(2, None), now),
        [],
        "the same attempt, or one that was given up"
    );
    assert_eq!(
        job.actions_after(gone(uuid(2)), now),
        [],
        "as the client notices as well"
    );
    assert_eq!(job.counts().retried, 1);
    assert_eq!(sent(&job.actions_after(rerouted(3, None), now)), [0]);
    go(&mut job, &[1, 4], now);
    assert_eq!(
        job.actions_after(rerouted(4, None), now),
        [],
        "no attempt is left, but an answer may come"
    );
    assert_eq!(
        (job.next_result(), job.deadline()),
        (None, Some(now + LIMITS.attempt_timeout))
    );
}

#[test]
fn reports_that_match_no_attempt_are_ignored() {
    let now = Instant::now();
    let mut job = under_way(LIMITS, &[1, 2], now);
    for (idx, stage, from) in [(0, 1, 7), (0, 9, 2), (5, 1, 2)] {
        for to in [None, Some(uuid(3))] {
            let rerouted = Rerouted {
                stage,
                from: uuid(from),
                to,
            };
            assert_eq!(
                job.actions_after(Event::Rerouted { idx, rerouted }, now),
                []
            );
        }
    }
    assert_eq!([1, 2, 3].map(|server| job.load(uuid(server))), [1, 1, 0]);
    // A leaving server forwards messages that were meant for itself.
    job.actions_after(rerouted(2, Some(3)), now);
    assert_eq!(sent(&job.actions_after(gone(uuid(3)), now)), [0]);
}

#[test]
fn a_rejection_by_a_rerouted_stage_is_retried_without_delay() {
    let now = Instant::now();
    let mut job = under_way(LIMITS, &[1, 2], now);
    job.actions_after(gone(uuid(2)), now);
    go(&mut job, &[3, 4], now);
    answer(&mut job, fault(CallErrorKind::Busy, 9), now);
    assert_eq!(sent(&job.actions_at(now + Duration::from_secs(1))), [0]);
}

#[test]
fn retry_delays_after_rejections_grow_with_jitter() {
    let now = Instant::now();
    let mut pauses = BTreeSet::new();
    for seed in 0..20 {
        let mut job = Job::new(LIMITS, seed);
        job.actions_after(Event::Pulled("0".into()), now);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            go(&mut job, &[1], now);
            answer(&mut job, fault(CallErrorKind::Busy, 1), now);
            let at = job.deadline().expect("a pause");
            last = at - now;
            job.actions_at(at);
        }
        assert!(
            last >= Duration::from_millis(250) && last <= Duration::from_millis(500),
            "{last:?}"
        );
        pauses.insert(last);
    }
    assert!(pauses.len() > 10, "all come back together: {pauses:?}");
}

#[test]
fn a_message_past_its_deadline_ends_in_an_error_once() {
    let now = Instant::now();
    let mut job = Job::new(LIMITS, 0);
    job.actions_after(Event::Pulled("0".into()), now);
    job.actions_after(
        Event::Sent {
            idx: 0,
            route: [Uuid::from_u128(7)].into(),
        },
        now,
    );
    assert_eq!(job.deadline(), Some(now + LIMITS.attempt_timeout));
    job.actions_at(now + LIMITS.deadline);
    assert!(job.next_result().expect("ended").1.is_err());
    job.actions_after(
        Event::Answered {
            idx: 0,
            ending: Ok("late".into()),
        },
        now,
    );
    assert_eq!((job.next_result(), job.counts().duplicates), (None, 1));
}

/// A job whose window is full of messages along this route; all but the first are answered `after`.
fn first_is_overtaken(limits: Limits, route: &[u128], after: Duration, now: Instant) -> Job {
    let mut job = Job::new(limits, 0);
    let mut idx = 0;
    while job.may_pull() {
        job.actions_after(Event::Pulled("m".into()), now);
        let route = route.iter().copied().map(uuid).collect();
        job.actions_after(Event::Sent { idx, route }, now);
        idx += 1;
    }
    for idx in 1..idx {
        let ending = Ok("r".into());
        job.actions_after(Event::Answered { idx, ending }, now + after);
    }
    job
}

/// Lets time pass until a message is sent, or `until`. Returns when, and which.
fn next_sent(job: &mut Job, until: Instant) -> Option<(Instant, Vec<u64>)> {
    while let Some(at) = job.deadline().filter(|at| *at <= until) {
        let sent = sent(&job.actions_at(at));
        if !sent.is_empty() {
            return Some((at, sent));
        }
    }
    None
}

/// A server wrote its answer into a connection that the client had given up. With a deadline of a
/// minute it was sent again after 20 s, and the job waited for as long as that.
#[test]
fn a_message_that_was_overtaken_is_sent_again_when_the_window_is_full() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let mut job = first_is_overtaken(LIMITS, &[1, 2], second / 100, now);
    let (at, sent) = next_sent(&mut job, now + LIMITS.attempt_timeout / 2).expect("it is sent");
    assert_eq!(sent, [0]);
    assert!(at - now < second * 4, "after {:?}", at - now);
    go(&mut job, &[1, 2], at);
    assert_eq!(job.counts().retried, 1);
    // A late answer to the first attempt counts.
    answer(&mut job, Ok("r".into()), at);
    assert_eq!(job.next_result(), Some((0, Ok("r".into()))));
    // The job goes on, and has nothing to look for.
    assert!(job.may_pull());
}

#[test]
fn a_message_is_not_overtaken_by_others_elsewhere() {
    let now = Instant::now();
    let ms = Duration::from_millis(10);
    // The last stage answers nothing that came later.
    let mut job = first_is_overtaken(LIMITS, &[1, 2], ms, now);
    let to = Rerouted {
        stage: 1,
        from: uuid(2),
        to: Some(uuid(3)),
    };
    job.actions_after(
        Event::Rerouted {
            idx: 0,
            rerouted: to,
        },
        now + ms,
    );
    assert_eq!(
        next_sent(&mut job, now + LIMITS.attempt_timeout * 9 / 10),
        None
    );
    assert!(next_sent(&mut job, now + LIMITS.attempt_timeout).is_some());
    // Nothing is answered.
    let limits = Limits {
        messages: 1,
        ..LIMITS
    };
    let mut job = first_is_overtaken(limits, &[1], ms, now);
    assert_eq!(
        next_sent(&mut job, now + LIMITS.attempt_timeout * 9 / 10),
        None
    );
}

#[test]
fn overtaken_messages_wait_while_the_job_goes_on_or_others_take_long() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let before = now + LIMITS.attempt_timeout * 9 / 10;
    // The consumer takes results as they come, so that the window has room.
    let limits = Limits {
        ordered: false,
        ..LIMITS
    };
    let mut job = first_is_overtaken(limits, &[1], second / 10, now);
    assert!(job.next_result().is_some() && job.may_pull());
    assert_eq!(next_sent(&mut job, before), None);
    // At the end of the input there is nothing else to wait for.
    job.actions_after(Event::InputEnded, now + second * 4);
    assert_eq!(next_sent(&mut job, before).expect("it is sent").1, [0]);
    // Messages take 2 s on average, so one that takes 9 s may be alive.
    let mut job = first_is_overtaken(LIMITS, &[1], second * 2, now);
    assert_eq!(next_sent(&mut job, before), None);
    // No attempt is left: it is waited for until its deadline.
    let limits = Limits {
        attempts: 1,
        ..LIMITS
    };
    let mut job = first_is_overtaken(limits, &[1], second / 10, now);
    assert_eq!(next_sent(&mut job, now + LIMITS.deadline), None);
}
