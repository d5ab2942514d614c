//! Logs warnings when the server's own certificate is about to expire, or has expired.

use crate::io::{executor, timer, tls::Credentials};
use chrono::{DateTime, Utc};
use palm_proto::certificate_expiry::{ExpiryStatus, WARN_BEFORE, check_expiry};
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// Checks the certificate at once and then once a day, forever.
pub(crate) async fn watch(credentials: Arc<Credentials>) -> std::convert::Infallible {
    let file = credentials
        .certificate_file()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    loop {
        let looked_at = Arc::clone(&credentials);
        // The files are read again, and the disk may hang.
        let (now, expires) =
            executor::run_blocking(move || looked_at.expires_within(WARN_BEFORE)).await;
        let (status, next) = check_expiry(now, expires);
        let at = expires.map(date).unwrap_or_default();
        match status {
            ExpiryStatus::Valid => {}
            ExpiryStatus::ExpiresIn(left) => log::warn!(
                "the certificate in {file} expires at {at}, in {}: after that no other program accepts it; write a new one and its \
                 key into their files, without a restart",
                format_duration(left)
            ),
            ExpiryStatus::Expired => log::error!(
                "the certificate in {file} expired at {at}: no new connection from or to this server succeeds; write a new one and its \
                 key into their files, without a restart"
            ),
        }
        timer::sleep(next).await;
    }
}

fn date(at: Duration) -> String {
    let at: DateTime<Utc> = (UNIX_EPOCH + at).into();
    at.format("%FT%TZ").to_string()
}

fn format_duration(left: Duration) -> String {
    match left.as_secs() / 3600 {
        0 => format!("{} min", left.as_secs() / 60),
        hours @ 1..48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    }
}
