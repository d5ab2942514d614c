//! The counts one by one, and clients with honest servers and with servers that send
//! whatever they like.

use super::*;
use fastrand::Rng;
use std::time::Duration;

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

/// Law: whatever a client gives up, and in whatever order replies come, those of an honest server
/// are never unsolicited, each goes to its job, and nothing is left in the end.
#[test]
fn replies_of_honest_servers_are_never_unsolicited() {
    for seed in 0..2000 {
        let mut random = Rng::with_seed(seed);
        let mut jobs = JobReplies::default();
        // The messages that servers have, each with its job.
        let mut at_servers: Vec<(Uuid, u64)> = Vec::new();
        let mut open: Vec<Uuid> = Vec::new();
        for step in 0..300 {
            let job = (!open.is_empty()).then(|| open[random.usize(..open.len())]);
            match (random.u8(0..7), job) {
                (0, _) => {
                    open.push(Uuid::from_u128(step.into()));
                    jobs.open(Uuid::from_u128(step.into()), step);
                }
                (1 | 2, Some(job)) => {
                    let idx = random.u64(0..4);
                    jobs.register(job, idx);
                    if random.u8(0..5) == 0 {
                        jobs.unregister(job, idx);
                    } else {
                        at_servers.push((job, idx));
                    }
                }
                (3, Some(job)) => jobs.discard(job, random.u64(0..4)),
                (4, Some(job)) if random.bool() => {
                    jobs.close(job);
                    open.retain(|other| *other != job);
                }
                _ if !at_servers.is_empty() => {
                    let message = at_servers.swap_remove(random.usize(..at_servers.len()));
                    reply(seed, &mut jobs, message);
                }
                _ => {}
            }
        }
        for message in at_servers {
            reply(seed, &mut jobs, message);
        }
        assert!(
            jobs.jobs.values().all(|route| route.expected.is_empty()),
            "seed {seed}"
        );
        assert_eq!(jobs.late, 0, "seed {seed}");
    }
}

fn reply(seed: u64, jobs: &mut JobReplies<u64>, (job, idx): (Uuid, u64)) {
    match jobs.arrived(job, Some(idx), false) {
        Arrived::For(receiver) => {
            assert_eq!(u128::from(*receiver), job.as_u128(), "seed {seed}");
        }
        Arrived::Late => {}
        Arrived::Unsolicited => panic!("seed {seed}: message {idx} of {job} was asked for"),
    }
}

/// Law: of what a dishonest server sends, no more is taken than was asked for.
#[test]
fn no_server_delivers_more_than_was_asked_for() {
    for seed in 0..1000 {
        let mut random = Rng::with_seed(seed);
        let mut jobs = JobReplies::default();
        jobs.open(JOB, ());
        let (mut requests, mut reports, mut taken, mut told) = (0, 0, 0, 0);
        for _ in 0..300 {
            let idx = random.u64(0..9);
            match random.u8(0..5) {
                0 => {
                    jobs.register(JOB, idx);
                    (requests, reports) = (requests + 1, reports + MAX_REPORTS);
                }
                1 => jobs.discard(JOB, idx),
                2 => {
                    told += u32::from(jobs.arrived(JOB, Some(idx), true) != Arrived::Unsolicited);
                }
                _ => {
                    taken += u32::from(jobs.arrived(JOB, Some(idx), false) != Arrived::Unsolicited);
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
            (0..max).all(|_| unsolicited.count(false, || now)),
            "second {n}"
        );
    }
    let now = start + second * 4;
    assert!(
        (0..max * 10).all(|_| unsolicited.count(true, || now)),
        "what was asked for has no bound"
    );
    assert!(!unsolicited.count(false, || now));
}

#[test]
fn a_link_yields_after_so_many_replies() {
    let mut unsolicited = UnsolicitedReplies::new(Instant::now());
    let yields = (0..2560)
        .filter(|_| unsolicited.count(true, Instant::now) && unsolicited.should_yield())
        .count();
    assert_eq!(yields, 10);
}
