//! Monitors the dispatch loop, and warns when the executor is blocked, which makes a server
//! miss its probes.

use crate::io::{systemd, timer};
use futures::{
    channel::{mpsc, oneshot},
    future::{Either, select},
};
use palm_proto::limits::log_throttle::LogThrottle;
use std::time::{Duration, Instant};

/// A liveness check of the dispatch loop, which answers by sending.
pub(crate) type LivenessCheck = oneshot::Sender<()>;

/// The channel of liveness checks to the dispatch loop.
pub(crate) type LivenessSender = mpsc::UnboundedSender<LivenessCheck>;

/// The interval of the checks, unless systemd needs a shorter one.
const PERIOD: Duration = Duration::from_secs(2);
/// How long the loop may take to answer before a warning is logged.
const PATIENCE: Duration = Duration::from_secs(2);

/// Checks the loop periodically. A loop that was never started is not checked twice.
pub(crate) async fn keep(liveness: LivenessSender) {
    // systemd expects a notification within its period; two checks per period tolerate
    // one late answer.
    let period = systemd::watchdog().map_or(PERIOD, |watchdog| PERIOD.min(watchdog / 2));
    let mut seen = false;
    // The warnings are throttled: clients may block the executor repeatedly by calling functions.
    let mut throttle = LogThrottle::default();
    loop {
        let asked = Instant::now();
        let (answer, answered) = oneshot::channel();
        if liveness.unbounded_send(answer).is_err() {
            return;
        }
        match select(answered, timer::sleep(PATIENCE)).await {
            Either::Left((Ok(()), _)) => seen = true,
            Either::Left((Err(_), _)) => return,
            Either::Right(((), answered)) => {
                let logged = seen
                    .then(|| throttle.should_log((), Instant::now()))
                    .flatten();
                if let Some(suppressed) = logged {
                    log::warn!(
                        "the executor of the functions has been blocked for {PATIENCE:?}: probes go unanswered{suppressed}"
                    );
                }
                if answered.await.is_err() {
                    return;
                }
                if logged.is_some() {
                    log::warn!(
                        "the executor of the functions was blocked for {:.1?}",
                        asked.elapsed()
                    );
                }
                seen = true;
            }
        }
        timer::sleep(period).await;
    }
}
