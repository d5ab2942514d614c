//! The rules one by one, and servers whose clients read, read slowly, do not read, send
//! much, and leave.

mod simulation;

use super::*;

/// A connection that the server does not read, and one whose own fault that is.
const PAUSED: Room = Room::Paused { for_itself: false };
const UNREAD: Room = Room::Paused { for_itself: true };

const MS: Duration = Duration::from_millis(1);

fn opened(max_unread: u64, max_total: u64, ids: &[u64]) -> (FlowControl, Instant) {
    let (mut flow, now) = (FlowControl::new(max_unread, max_total), Instant::now());
    for id in ids {
        flow.open(*id, now);
    }
    (flow, now)
}

fn accepted() -> Sent {
    Sent {
        accepted: true,
        disconnect: vec![],
    }
}

fn rejected(disconnect: &[u64]) -> Sent {
    Sent {
        accepted: false,
        disconnect: disconnect.to_vec(),
    }
}

fn this(id: u64) -> Wake {
    Wake {
        some: [Some(id), None],
        all: false,
    }
}

#[test]
fn a_connection_that_reads_nothing_is_cut_off_at_the_limit() {
    let (mut flow, now) = opened(2 * PAUSE_AT, u64::MAX, &[1]);
    assert_eq!(flow.room(1), Room::Messages(WINDOW));
    assert_eq!(flow.send(1, PAUSE_AT, now), accepted());
    assert_eq!(flow.room(1), UNREAD);
    assert_eq!(flow.written(1, 1, 0, now), this(1));
    assert_eq!(flow.room(1), Room::Messages(WINDOW));
    assert_eq!(flow.send(1, PAUSE_AT + 1, now), accepted());
    assert_eq!(flow.room(1), UNREAD);
    assert_eq!(flow.send(1, 1, now), rejected(&[1]));
    assert_eq!(flow.room(1), Room::Ended);
    assert_eq!(
        flow.send(1, 1, now),
        rejected(&[]),
        "it is disconnected once"
    );
    assert_eq!(flow.close(1).0, Some(RejectReason::Unread));
}

#[test]
fn unread_small_answers_cut_off_before_the_queue_is_full() {
    let (mut flow, now) = opened(u64::MAX, u64::MAX, &[1]);
    assert!((0..MAX_MESSAGES).all(|_| flow.send(1, 1, now).accepted));
    assert_eq!(flow.send(1, 1, now), rejected(&[1]));
    assert_eq!(flow.close(1).0, Some(RejectReason::Unread));
}

#[test]
fn answers_that_were_read_do_not_count_as_unread() {
    let (mut flow, now) = opened(u64::MAX, u64::MAX, &[1]);
    for read in (1..3).map(|round| round * MAX_MESSAGES) {
        assert!((0..MAX_MESSAGES).all(|_| flow.send(1, 1, now).accepted));
        // What the ingress itself sends, such as PONGs, was not counted before it was written.
        let wake = flow.written(1, MAX_MESSAGES + 2, read, now);
        assert_eq!(wake, Wake::default(), "it does not wait");
        assert_eq!(flow.unread, 0);
    }
}

#[test]
fn taken_messages_free_their_room() {
    let (mut flow, _) = opened(PAUSE_AT, u64::MAX, &[1]);
    flow.passed(1, WINDOW);
    assert_eq!(flow.room(1), PAUSED);
    assert_eq!(flow.taken(1, 1, 0), this(1));
    assert_eq!(flow.room(1), Room::Messages(1));
}

#[test]
fn only_a_connection_that_waits_is_woken() {
    let (mut flow, now) = opened(PAUSE_AT, u64::MAX, &[1]);
    assert_eq!(flow.send(1, 10, now), accepted());
    flow.passed(1, 1);
    assert_eq!(flow.taken(1, 1, 0), Wake::default());
    assert_eq!(flow.written(1, 10, 1, now), Wake::default());
    flow.passed(1, 1 + WINDOW);
    assert_eq!(flow.room(1), PAUSED);
    assert_eq!(flow.send(1, PAUSE_AT, now), accepted());
    assert_eq!(
        flow.taken(1, 1, 0),
        Wake::default(),
        "it leaves too much unread"
    );
    assert_eq!(flow.written(1, 1, 1, now), this(1));
    assert_eq!(flow.room(1), Room::Messages(1));
}

#[test]
fn queued_bytes_fill_the_window_of_a_native_connection() {
    let (mut flow, _) = opened(PAUSE_AT, u64::MAX, &[1]);
    flow.passed(1, 2);
    flow.queued(1, WINDOW_BYTES - 1);
    assert_eq!(flow.room(1), Room::Messages(WINDOW - 2));
    flow.passed(1, 3);
    flow.queued(1, 50 * WINDOW_BYTES);
    assert_eq!(flow.room(1), PAUSED, "one message may be longer");
    assert_eq!(flow.taken(1, 1, 50 * WINDOW_BYTES), this(1));
    assert_eq!(flow.room(1), Room::Messages(WINDOW - 2));
}

#[test]
fn only_messages_that_are_counted_are_limited() {
    let (mut flow, now) = opened(u64::MAX, u64::MAX, &[1]);
    assert!((0..MAX_MESSAGES).all(|_| flow.send(1, 1, now).accepted));
    let _ = flow.written(1, 1, u64::MAX, now);
    assert!((0..MAX_MESSAGES).all(|_| flow.send(1, 1, now).accepted));
}

#[test]
fn flushed_means_all_is_written_or_the_connection_gone() {
    let (mut flow, now) = opened(PAUSE_AT, u64::MAX, &[1, 2]);
    assert!(flow.is_flushed());
    flow.open(3, now);
    assert_eq!(flow.send(3, 10, now), accepted());
    assert!(!flow.is_flushed() && flow.end(3, None));
    assert!(flow.is_flushed(), "the last one must end");
    let _ = flow.close(3);
    assert_eq!(flow.send(1, 10, now), accepted());
    let _ = flow.written(1, 9, 0, now);
    assert!(!flow.is_flushed());
    let _ = flow.written(1, 1, 1, now);
    assert!(flow.is_flushed() && !flow.is_empty());
    assert_eq!(
        [flow.send(1, 10, now), flow.send(2, 10, now)],
        [accepted(), accepted()]
    );
    assert!(
        flow.end(1, None) && !flow.end(1, Some(RejectReason::Unread)),
        "the first reason counts"
    );
    assert!(!flow.is_flushed());
    assert_eq!(
        [flow.close(1), flow.close(2)],
        [(None, Wake::default()), (None, Wake::default())]
    );
    assert!(flow.is_flushed() && flow.is_empty());
    assert_eq!(flow.send(1, 10, now), rejected(&[]));
}

#[test]
fn a_full_total_backlog_cuts_off_the_most_stalled_client() {
    let ([idle, busy], (mut flow, start)) = ([1, 2], opened(u64::MAX, 100, &[1, 2]));
    assert_eq!(flow.send(idle, 30, start), accepted());
    let now = start + IDLE;
    assert_eq!(flow.send(busy, 60, now), accepted());
    let _ = flow.written(busy, 1, 0, now);
    assert_eq!(
        flow.send(busy, 12, now),
        Sent {
            accepted: true,
            disconnect: vec![idle]
        }
    );
    assert_eq!(
        flow.room(busy),
        PAUSED,
        "what waited for the one that was disconnected is still there"
    );
    assert_eq!(
        flow.close(idle),
        (
            Some(RejectReason::Unread),
            Wake {
                some: [None, None],
                all: true
            }
        )
    );
    assert_eq!(flow.room(busy), Room::Messages(WINDOW));
    assert_eq!(flow.send(busy, 20, now), accepted());
    assert_eq!(
        flow.send(busy, 10, now),
        rejected(&[busy]),
        "there is no other"
    );
}

#[test]
fn the_largest_backlogs_are_disconnected_first_and_no_more_than_needed() {
    let (mut flow, start) = opened(u64::MAX, 100, &[1, 2, 3, 4]);
    for (id, bytes) in [(1, 20), (2, 35), (3, 30)] {
        assert_eq!(flow.send(id, bytes, start), accepted());
    }
    let later = start + IDLE;
    assert_eq!(
        flow.send(4, 90, later).disconnect,
        [2, 3, 1],
        "all idle ones, in the order of what waits for them"
    );
    let (mut flow, start) = opened(u64::MAX, 100, &[1, 2, 3]);
    for (id, bytes) in [(1, 20), (2, 50), (3, 30)] {
        assert_eq!(flow.send(id, bytes, start), accepted());
    }
    let sent = flow.send(1, 5, start);
    assert!(sent.accepted && sent.disconnect == [2], "{sent:?}");
}

#[test]
fn a_client_is_idle_only_while_something_waits_for_it() {
    let (mut flow, start) = opened(u64::MAX, 100, &[1, 2]);
    // Nothing waited for the first one for a long time: it is not idle when something does.
    assert_eq!(flow.send(1, 60, start + 10 * IDLE), accepted());
    assert_eq!(flow.send(2, 20, start), accepted());
    assert_eq!(flow.send(2, 30, start + 10 * IDLE), rejected(&[2]));
}

#[test]
fn long_frames_hold_room_until_they_are_taken_or_dropped() {
    let (mut flow, _) = opened(u64::MAX, 100, &[1, 2, 3]);
    assert_eq!(flow.ask_permit(1, 60, 1), Some(Wake::default()));
    assert!(flow.ask_permit(2, 60, 0).is_none() && flow.are_permits_awaited());
    assert_eq!(flow.taken(1, 1, 0), Wake::default());
    assert!(
        flow.ask_permit(2, 60, 0).is_none(),
        "its message was the second"
    );
    assert_eq!(
        flow.taken(1, 1, 0),
        Wake {
            some: [None, Some(2)],
            all: false
        }
    );
    assert!(flow.ask_permit(2, 60, 0).is_some());
    assert!(flow.ask_permit(3, 60, 0).is_none());
    assert_eq!(
        flow.close(2).1,
        Wake {
            some: [None, Some(3)],
            all: false
        }
    );
    assert!(flow.ask_permit(3, 60, 0).is_some() && !flow.are_permits_awaited());
}

#[test]
fn a_hundred_thousand_connections_leave_no_state() {
    let (mut flow, now) = opened(u64::MAX, 100, &[]);
    let mut late = None;
    for id in 0..100_000 {
        flow.open(id, now);
        // It ends with responses unread, and with a long frame that has come in, or
        // waits for a permit.
        assert!(flow.send(id, 50, now).accepted);
        assert!(flow.ask_permit(id, 60, 1).is_some() || id % 2 == 1);
        if id % 2 == 0 {
            late = Some(id);
            continue;
        }
        let _ = (
            flow.close(id),
            flow.close(late.take().expect("the one before")),
        );
        assert!(!flow.are_permits_awaited() && flow.is_empty() && flow.unread == 0);
    }
    assert_eq!(flow.ask_permit(7, 60, 1), None, "it is gone");
    flow.open(7, now);
    assert_eq!(
        flow.ask_permit(7, 200, 0),
        Some(Wake::default()),
        "no permit is left with anybody"
    );
}
