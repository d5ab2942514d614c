//! Whatever a function does and whatever a caller sends, an error of the right kind comes back and the server goes on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod built_ins;
mod limits;
mod messages;

use crate::in_process::call;
use palm_peer::Client;

/// A good call succeeds.
#[track_caller]
fn is_well(client: &Client) {
    assert_eq!(call(client, "zoo.echo", "still there").expect("a good call"), "still there");
}
