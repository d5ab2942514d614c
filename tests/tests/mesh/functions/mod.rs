//! Functions: whatever they do and whatever callers send, the error has the right kind and the
//! server continues.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod built_ins;
mod limits;
mod messages;
mod meta;
mod middleware;

use crate::in_process::call;
use palm_peer::Client;

/// A good call succeeds.
#[track_caller]
fn is_well(client: &Client) {
    assert_eq!(
        call(client, "zoo.echo", "still there").expect("a good call"),
        "still there"
    );
}
