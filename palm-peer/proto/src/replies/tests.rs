//! The counts one by one, and clients with honest servers and with servers that send
//! whatever they like.

use super::*;
use fastrand::Rng;
use std::{collections::BTreeSet, time::Duration};

const JOB: Uuid = Uuid::from_u128(1);

/// What becomes of replies to these messages of the job, one after the other; `true` if
/// they were asked for.
fn asked_for<const N: usize>(replies: &mut JobReplies<()>, job: Uuid, idxs: [u64; N]) -> [bool; N] {
    idxs.map(|idx| replies.arrived(job, Some(idx), false) != Arrived::Unsolicited)
}

#[test]
fn each_attempt_has_one_reply_and_late_ones_are_not_unsolicited() {
    let mut replies = JobReplies::default();
    replies.open(JOB, ());
    assert_eq!(
        asked_for(&mut replies, JOB, [7]),
        [false],
        "nobody has asked"
    );
    for idx in [7, 7, 8] {
        replies.register(JOB, idx);
    }
    assert_eq!(
        asked_for(&mut replies, JOB, [7, 7, 7, 8, 8]),
        [true, true, false, true, false]
    );
    // Two attempts are given up, one is taken back, and one is left when the job is dropped.
    replies.register(JOB, 1);
    replies.register(JOB, 1);
    replies.discard(JOB, 1);
    replies.register(JOB, 2);
    replies.unregister(JOB, 2);
    replies.register(JOB, 3);
    replies.close(JOB);
    assert_eq!(
        asked_for(&mut replies, JOB, [1, 1, 3, 3]),
        [true, true, true, false]
    );
    assert_eq!(replies.arrived(JOB, None, false), Arrived::Unsolicited);
}

#[test]
fn reports_are_bounded_and_displace_no_replies() {
    let mut replies = JobReplies::default();
    replies.open(JOB, "the job");
    assert_eq!(
        replies.arrived(JOB, Some(7), true),
        Arrived::Unsolicited,
        "of nothing that was sent"
    );
    replies.register(JOB, 7);
    let delivered = (0..100)
        .filter(|_| replies.arrived(JOB, Some(7), true) == Arrived::For(&"the job"))
        .count();
    assert_eq!(delivered, MAX_REPORTS as usize);
    assert_eq!(
        replies.arrived(JOB, Some(7), false),
        Arrived::For(&"the job")
    );
    assert_eq!(replies.arrived(JOB, Some(7), true), Arrived::Unsolicited);
}

#[test]
fn a_hundred_thousand_jobs_leave_no_state() {
    let mut replies = JobReplies::default();
    for job in (0..100_000).map(Uuid::from_u128) {
        replies.open(job, ());
        (0..3).for_each(|idx| replies.register(job, idx));
        assert_eq!(asked_for(&mut replies, job, [0]), [true]);
        // The second is given up, and the third is left when the job is dropped.
        replies.discard(job, 1);
        replies.close(job);
        replies.register(job, 4);
        assert_eq!(
            asked_for(&mut replies, job, [1, 2]),
            [true, true],
            "they come late"
        );
    }
    assert_eq!((replies.jobs.len(), replies.late), (0, 0));
}

#[test]
fn a_call_that_is_given_up_may_have_one_late_reply() {
    let mut calls = CallReplies::new(1);
    assert_eq!(
        calls.arrived(Some(0)),
        Arrived::Late,
        "the reply to the greeting"
    );
    assert_eq!(calls.arrived(None), Arrived::Unsolicited);
    calls.register(1, "one");
    calls.register(2, "two");
    calls.register(3, "not sent");
    calls.unregister(3);
    assert!(calls.discard(1) && !calls.discard(1) && !calls.discard(3));
    assert_eq!(calls.in_flight(), 1);
    assert_eq!(calls.arrived(Some(2)), Arrived::For("two"));
    assert_eq!(
        [calls.arrived(Some(1)), calls.arrived(Some(1))],
        [Arrived::Late, Arrived::Unsolicited]
    );
}

/// Law: whatever a client gives up, and in whatever order replies come, those of an honest server
/// are never unsolicited, each goes to who waits for it, and nothing is left in the end.
#[test]
fn replies_of_honest_servers_are_never_unsolicited() {
    for seed in 0..2000 {
        let mut random = Rng::with_seed(seed);
        let (mut calls, mut jobs) = (CallReplies::new(0), JobReplies::default());
        // The requests that servers have, each with the job that it is of, if of one.
        let mut at_servers: Vec<(Option<Uuid>, u64)> = Vec::new();
        let mut waiting: BTreeSet<u64> = BTreeSet::new();
        let mut open: Vec<Uuid> = Vec::new();
        for step in 0..300 {
            let job = (!open.is_empty()).then(|| open[random.usize(..open.len())]);
            match (random.u8(0..10), job) {
                (0 | 1, _) => {
                    calls.register(step, step);
                    waiting.insert(step);
                    at_servers.push((None, step));
                }
                (2, _) => {
                    let idx = random.u64(0..=step);
                    assert_eq!(calls.discard(idx), waiting.remove(&idx), "seed {seed}");
                }
                (3, _) => {
                    open.push(Uuid::from_u128(step.into()));
                    jobs.open(Uuid::from_u128(step.into()), step);
                }
                (4 | 5, Some(job)) => {
                    let idx = random.u64(0..4);
                    jobs.register(job, idx);
                    if random.u8(0..5) == 0 {
                        jobs.unregister(job, idx);
                    } else {
                        at_servers.push((Some(job), idx));
                    }
                }
                (6, Some(job)) => jobs.discard(job, random.u64(0..4)),
                (7, Some(job)) if random.bool() => {
                    jobs.close(job);
                    open.retain(|other| *other != job);
                }
                _ if !at_servers.is_empty() => {
                    let (job, idx) = at_servers.swap_remove(random.usize(..at_servers.len()));
                    reply(seed, &mut calls, &mut jobs, &mut waiting, (job, idx));
                }
                _ => {}
            }
            assert_eq!(calls.in_flight(), waiting.len(), "seed {seed}");
        }
        for (job, idx) in at_servers {
            reply(seed, &mut calls, &mut jobs, &mut waiting, (job, idx));
        }
        assert!(
            jobs.jobs.values().all(|route| route.expected.is_empty()),
            "seed {seed}"
        );
        assert_eq!(
            (calls.in_flight(), calls.late, jobs.late),
            (0, 0, 0),
            "seed {seed}"
        );
    }
}

fn reply(
    seed: u64,
    calls: &mut CallReplies<u64>,
    jobs: &mut JobReplies<u64>,
    waiting: &mut BTreeSet<u64>,
    (job, idx): (Option<Uuid>, u64),
) {
    match job {
        None => {
            let expected = if waiting.remove(&idx) {
                Arrived::For(idx)
            } else {
                Arrived::Late
            };
            assert_eq!(
                calls.arrived(Some(idx)),
                expected,
                "seed {seed}: call {idx}"
            );
        }
        Some(job) => match jobs.arrived(job, Some(idx), false) {
            Arrived::For(receiver) => {
                assert_eq!(u128::from(*receiver), job.as_u128(), "seed {seed}");
            }
            Arrived::Late => {}
            Arrived::Unsolicited => panic!("seed {seed}: message {idx} of {job} was asked for"),
        },
    }
}

/// Law: of what a dishonest server sends, no more is taken than was asked for.
#[test]
fn no_server_delivers_more_than_was_asked_for() {
    for seed in 0..1000 {
        let mut random = Rng::with_seed(seed);
        let (mut calls, mut jobs) = (CallReplies::new(0), JobReplies::default());
        jobs.open(JOB, ());
        let (mut requests, mut reports, mut taken, mut told) = (0, 0, 0, 0);
        for step in 0..300 {
            match random.u8(0..8) {
                0 => {
                    calls.register(step, ());
                    requests += 1;
                }
                1 => {
                    jobs.register(JOB, random.u64(0..9));
                    (requests, reports) = (requests + 1, reports + MAX_REPORTS);
                }
                2 => drop(calls.discard(random.u64(0..=step))),
                3 => jobs.discard(JOB, random.u64(0..9)),
                4 | 5 => {
                    taken += u32::from(
                        calls.arrived(Some(random.u64(0..=step))) != Arrived::Unsolicited,
                    );
                }
                6 => {
                    told += u32::from(
                        jobs.arrived(JOB, Some(random.u64(0..9)), true) != Arrived::Unsolicited,
                    );
                }
                _ => {
                    taken += u32::from(
                        jobs.arrived(JOB, Some(random.u64(0..9)), false) != Arrived::Unsolicited,
                    );
                }
            }
            assert!(
                taken <= requests && told <= reports,
                "seed {seed}: {taken} of {requests}, {told} of {reports}"
            );
        }
    }
}

#[test]
fn a_link_ends_when_too_much_is_unsolicited_within_a_second() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut unsolicited = UnsolicitedReplies::new(start);
    let max = MAX_UNSOLICITED_PER_SECOND;
    for n in 0..3 {
        let now = start + second * 2 * n;
        assert!(
            (0..max).all(|_| unsolicited.count(false, now)),
            "second {n}"
        );
    }
    let now = start + second * 4;
    assert!(
        (0..max * 10).all(|_| unsolicited.count(true, now)),
        "what was asked for has no bound"
    );
    assert!(!unsolicited.count(false, now));
}

#[test]
fn a_link_yields_after_so_many_replies() {
    let mut unsolicited = UnsolicitedReplies::new(Instant::now());
    let yields = (0..2560)
        .filter(|_| unsolicited.count(true, Instant::now()) && unsolicited.should_yield())
        .count();
    assert_eq!(yields, 10);
}
