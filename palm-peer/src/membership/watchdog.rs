//! Watches over the serving loop: a blocked executor costs a server its probes, and nobody else would say so.

use crate::io::{systemd, timer};
use futures::{
    channel::{mpsc, oneshot},
    future::{Either, select},
};
use palm_proto::limits::log_throttle::LogThrottle;
use std::time::{Duration, Instant};

/// Asks the serving loop whether it turns: it answers by sending.
pub(crate) type LivenessCheck = oneshot::Sender<()>;

/// Where the serving loop is asked.
pub(crate) type LivenessSender = mpsc::UnboundedSender<LivenessCheck>;

/// How often the loop is asked, unless systemd wants to know more often.
const PERIOD: Duration = Duration::from_secs(2);
/// How long the loop may take to answer before that is worth a warning.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the loop again and again whether it turns. A loop that was never started is not asked twice.
pub(crate) async fn keep(liveness: LivenessSender) {
    // systemd wants to hear within its period; twice in it leaves room for one late answer.
    let period = systemd::watchdog().map_or(PERIOD, |watchdog| PERIOD.min(watchdog / 2));
    let mut seen = false;
    // A client may block the executor again and again, by what it asks of functions.
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
                let logged = seen.then(|| throttle.should_log((), Instant::now())).flatten();
                if let Some(suppressed) = logged {
                    log::warn!(
                        "the executor of the functions has been blocked for {PATIENCE:?}: probes go unanswered{suppressed}"
                    );
                }
                if answered.await.is_err() {
                    return;
                }
                if logged.is_some() {
                    log::warn!("the executor of the functions was blocked for {:.1?}", asked.elapsed());
                }
                seen = true;
            }
        }
        timer::sleep(period).await;
    }
}
