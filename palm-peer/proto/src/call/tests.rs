//! The rules of one call, and calls in a mesh whose servers come, go, hang, leave, are busy and
//! lose connections.

mod simulation;

use super::*;

fn instance(n: u128) -> Arc<Instance> {
    let uuid = Uuid::from_u128(n);
    Arc::new(Instance {
        server: "a".into(),
        uuid,
        endpoint: format!("tcp://a:{n}"),
        functions: vec!["f".into()],
        zone: None,
    })
}

fn able(instances: &[u128]) -> Able {
    instances.iter().copied().map(instance).collect()
}

fn failure(kind: CallErrorKind) -> CallFailure {
    CallFailure::new(kind, kind.to_string())
}

/// As the first of those that are left, with the longest wait.
fn next(call: &mut Call, now: Instant, instances: &[u128]) -> Next {
    call.next(now, Ok(able(instances)), |left| left.first().cloned(), 0.0)
}

fn failed_at(kind: CallErrorKind, n: u128) -> FailedCall {
    FailedCall {
        failure: failure(kind),
        server: Some(Uuid::from_u128(n)),
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn each_instance_is_tried_once_in_a_round() {
    let (now, mut call) = (Instant::now(), Call::new(Instant::now() + 1000 * MS));
    for n in [1, 2, 3] {
        assert_eq!(next(&mut call, now, &[1, 2, 3]), Next::Attempt(instance(n)));
        let error = AttemptError::Answered(failure(CallErrorKind::Busy));
        assert_eq!(call.attempt_failed(Uuid::from_u128(n), error), Ok(()));
    }
    assert_eq!(next(&mut call, now, &[1, 2, 3]), Next::Wait(now + 5 * MS));
    assert_eq!(
        next(&mut call, now + 5 * MS, &[1, 2, 3]),
        Next::Attempt(instance(1))
    );
    assert_eq!(
        next(&mut call, now + 5 * MS, &[4]),
        Next::Attempt(instance(4)),
        "it has come since"
    );
}

/// Which failures prove that the function did not run, and how long a retry at the same instance
/// takes if it may do better.
#[test]
fn only_failures_that_prove_nothing_ran_are_retried() {
    use CallErrorKind::{Busy, Leaving, Unreachable, WrongServer};
    let (now, ten) = (Instant::now(), Some(10 * MS));
    let not_connected = |retry_takes| AttemptError::NotConnected {
        failure: failure(Unreachable),
        retry_takes,
    };
    for (error, elsewhere, later) in [
        (not_connected(None), true, false),
        (not_connected(ten), true, true),
        (AttemptError::NotSent(failure(Unreachable)), true, false),
        (AttemptError::Answered(failure(Busy)), true, true),
        (AttemptError::Answered(failure(Leaving)), true, false),
        (AttemptError::Answered(failure(WrongServer)), true, false),
        (
            AttemptError::Answered(failure(CallErrorKind::Failed)),
            false,
            false,
        ),
        (
            AttemptError::Answered(failure(CallErrorKind::Panicked)),
            false,
            false,
        ),
        (
            AttemptError::Answered(failure(CallErrorKind::TimedOut)),
            false,
            false,
        ),
        (
            AttemptError::Answered(failure(CallErrorKind::Unreachable)),
            false,
            false,
        ),
        (
            AttemptError::Answered(failure(CallErrorKind::Unknown)),
            false,
            false,
        ),
        (AttemptError::ConnectionLost, false, false),
        (AttemptError::TimedOut, false, false),
    ] {
        let mut call = Call::new(now + 1000 * MS);
        let ended = call.attempt_failed(Uuid::from_u128(1), error.clone());
        assert_eq!(ended.is_ok(), elsewhere, "{error:?}");
        if elsewhere {
            let next = next(&mut call, now, &[1]);
            assert_eq!(matches!(next, Next::Wait(_)), later, "{error:?}: {next:?}");
        }
    }
}

#[test]
fn a_round_that_could_not_end_in_time_is_not_begun() {
    let start = Instant::now();
    let silent = || AttemptError::NotConnected {
        failure: failure(CallErrorKind::Unreachable),
        retry_takes: Some(Duration::from_secs(2)),
    };
    let mut call = Call::new(start + 2100 * MS);
    assert_eq!(call.attempt_failed(Uuid::from_u128(1), silent()), Ok(()));
    assert_eq!(
        next(&mut call, start + 94 * MS, &[1]),
        Next::Wait(start + 99 * MS)
    );
    assert_eq!(call.attempt_failed(Uuid::from_u128(1), silent()), Ok(()));
    let failed = Next::Fail(failed_at(CallErrorKind::Unreachable, 1));
    assert_eq!(next(&mut call, start + 99 * MS, &[1]), failed);
    // One that is busy answers at once.
    let mut call = Call::new(start + 2100 * MS);
    for (n, error) in [
        (1, silent()),
        (2, AttemptError::Answered(failure(CallErrorKind::Busy))),
    ] {
        assert_eq!(call.attempt_failed(Uuid::from_u128(n), error), Ok(()));
    }
    assert_eq!(
        next(&mut call, start + 2000 * MS, &[1, 2]),
        Next::Wait(start + 2005 * MS)
    );
}

#[test]
fn the_last_refusal_is_reported() {
    let (now, mut call) = (Instant::now(), Call::new(Instant::now() + 1000 * MS));
    let unknown = failure(CallErrorKind::NoSuchServer);
    let gone = |call: &mut Call| call.next(now, Err(unknown.clone()), |_| None, 0.0);
    assert_eq!(
        gone(&mut call),
        Next::Fail(FailedCall {
            failure: unknown.clone(),
            server: None
        })
    );
    for n in [1, 2] {
        assert_eq!(
            call.attempt_failed(
                Uuid::from_u128(n),
                AttemptError::Answered(failure(CallErrorKind::Leaving))
            ),
            Ok(())
        );
    }
    assert_eq!(
        gone(&mut call),
        Next::Fail(failed_at(CallErrorKind::Leaving, 2))
    );
    assert_eq!(
        next(&mut call, now, &[1, 2]),
        Next::Fail(failed_at(CallErrorKind::Leaving, 2))
    );
}

#[test]
fn nothing_is_sent_after_the_deadline() {
    let now = Instant::now();
    let mut call = Call::new(now);
    let failed = FailedCall {
        failure: timed_out(),
        server: None,
    };
    assert_eq!(next(&mut call, now, &[1, 2]), Next::Fail(failed));
    let silent = AttemptError::NotConnected {
        failure: failure(CallErrorKind::Unreachable),
        retry_takes: Some(MS),
    };
    let mut call = Call::new(now + MS);
    assert_eq!(call.attempt_failed(Uuid::from_u128(1), silent), Ok(()));
    let failed = failed_at(CallErrorKind::Unreachable, 1);
    assert_eq!(
        next(&mut call, now + MS, &[1, 2]),
        Next::Fail(failed),
        "that tells more than the deadline"
    );
}
