//! Hedged requests: the next attempt begins before the one before it has failed.
//!
//! What accepts connections and does not answer would otherwise cost each request its whole
//! timeout: such as a member of etcd that does not reach the others.

use std::future::{Future, pending};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Either},
    pin_mut, select_biased,
    stream::FuturesUnordered,
};

/// Attempts at the endpoints in `order`: the next one begins when one fails, or when `pause` has
/// passed without an answer. The earlier ones continue beside it. Returns the first success with
/// its endpoint, and all other endpoints that were tried; or the errors of all. Ends early with an
/// error that `is_final`.
pub(crate) async fn hedged<'a, T, E, P>(
    order: &[usize],
    mut attempt: impl FnMut(usize) -> BoxFuture<'a, Result<T, E>>,
    mut pause: impl FnMut() -> P,
    is_final: impl Fn(&E) -> bool,
) -> Result<Hedged<T>, Vec<(usize, E)>>
where
    T: 'a,
    E: 'a,
    P: Future<Output = ()>,
{
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    for (tried, endpoint) in order.iter().enumerate() {
        let result = attempt(*endpoint).map(move |result| (*endpoint, result));
        running.push(result);
        let is_last = tried + 1 == order.len();
        let pause = if is_last {
            Either::Left(pending())
        } else {
            Either::Right(pause())
        };
        let pause = pause.fuse();
        pin_mut!(pause);
        loop {
            select_biased! {
                done = running.select_next_some() => match done {
                    (winner, Ok(value)) => {
                        let losers = order[..=tried].iter().copied().filter(|other| *other != winner).collect();
                        return Ok(Hedged { value, winner, losers });
                    }
                    (endpoint, Err(error)) => {
                        let stop = is_final(&error);
                        errors.push((endpoint, error));
                        if stop || is_last && running.is_empty() {
                            return Err(errors);
                        }
                        if !is_last {
                            break;
                        }
                    }
                },
                () = pause => break,
            }
        }
    }
    Err(errors)
}

/// The outcome of a hedged request.
pub(crate) struct Hedged<T> {
    pub(crate) value: T,
    /// The endpoint that answered.
    pub(crate) winner: usize,
    /// Those that failed, or have not answered yet.
    pub(crate) losers: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::timer;
    use std::{
        future::ready,
        sync::Mutex,
        time::{Duration, Instant},
    };

    type Outcome = Result<Hedged<char>, Vec<(usize, &'static str)>>;

    /// Runs it at endpoints that answer after so many ms; returns which were asked as well.
    fn run(answers: &[(u64, Result<char, &'static str>)]) -> (Outcome, Vec<usize>) {
        let asked = Mutex::new(Vec::new());
        let order: Vec<usize> = (0..answers.len()).collect();
        let outcome = futures::executor::block_on(hedged(
            &order,
            |endpoint| {
                asked.lock().expect("no panic").push(endpoint);
                let (after, answer) = answers[endpoint];
                let answer = async move {
                    timer::sleep(Duration::from_millis(after)).await;
                    answer
                };
                answer.boxed()
            },
            || timer::sleep(Duration::from_millis(100)),
            |error| *error == "final",
        ));
        (outcome, asked.into_inner().expect("no panic"))
    }

    #[test]
    fn a_prompt_answer_is_the_only_request() {
        let (outcome, asked) = run(&[(0, Ok('a')), (0, Ok('b'))]);
        assert!(
            matches!(outcome, Ok(Hedged { value: 'a', winner: 0, losers }) if losers.is_empty())
        );
        assert_eq!(asked, [0]);
    }

    #[test]
    fn a_silent_endpoint_costs_one_pause_and_the_first_answer_counts() {
        let began = Instant::now();
        let (outcome, asked) = run(&[(60_000, Ok('a')), (60_000, Ok('b')), (0, Ok('c'))]);
        let hedged = outcome.unwrap_or_else(|errors| panic!("{errors:?}"));
        assert_eq!(
            (hedged.value, hedged.winner, hedged.losers),
            ('c', 2, vec![0, 1])
        );
        assert_eq!(asked, [0, 1, 2]);
        assert!(began.elapsed() < Duration::from_secs(30));
        let (outcome, _) = run(&[(150, Ok('a')), (60_000, Ok('b'))]);
        assert!(
            matches!(outcome, Ok(Hedged { value: 'a', .. })),
            "the slow one answers first"
        );
    }

    #[test]
    fn an_error_moves_on_at_once_and_a_final_one_ends_it() {
        let (outcome, asked) = run(&[(0, Err("x")), (0, Err("y")), (0, Err("z"))]);
        let errors = outcome.err().expect("all failed");
        assert_eq!(
            (errors, asked.len()),
            (vec![(0, "x"), (1, "y"), (2, "z")], 3)
        );
        let (outcome, asked) = run(&[(0, Err("final")), (0, Ok('b'))]);
        assert_eq!((outcome.err(), asked), (Some(vec![(0, "final")]), vec![0]));
        let nobody = hedged::<(), (), _>(&[], |_| pending().boxed(), || ready(()), |()| false);
        assert!(futures::executor::block_on(nobody).is_err_and(|errors| errors.is_empty()));
    }
}
