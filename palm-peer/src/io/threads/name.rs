//! The names of the library's tasks and threads.
//!
//! Everything that runs in the background needs a name to be spawned, so this list is complete. A
//! test in `tests/tests/mesh/supervision.rs` reads it and makes each of them panic.

use std::fmt;

macro_rules! names {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// The name of a task or a thread, in the log and in `PALM_TEST_PANIC`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        // Some belong to optional features.
        #[allow(dead_code)]
        pub(crate) enum Name {
            $($(#[doc = $doc])* $variant,)*
            /// For unit tests.
            #[cfg(test)]
            Test,
        }

        impl Name {
            /// Returns the name for the log.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    #[cfg(test)]
                    Self::Test => "test",
                }
            }
        }
    };
}

names! {
    /// What a peer does in etcd, one session after the other.
    Agent = "agent",
    /// Waits until the dispatch loop of a server that was removed as unresponsive runs again.
    AwaitResponse = "await-response",
    /// Puts the candidate's key, and reads the candidates before it.
    Candidacy = "candidacy",
    /// Waits until a candidate's key is gone.
    CandidateWatch = "candidate-watch",
    /// Checks when the server's own certificate expires.
    CertificateExpiry = "certificate-expiry",
    /// One connection of the listener, up to its end.
    Connection = "connection",
    /// What one connection of the listener sends.
    ConnectionOutward = "connection-outward",
    /// Watches the published instances.
    Directory = "directory",
    /// Drains a leaving server.
    Drain = "drain",
    /// One request to etcd.
    EtcdRequest = "etcd-request",
    /// The thread for all communication with etcd.
    EtcdThread = "etcd-thread",
    /// One watch on etcd, up to its end.
    EtcdWatch = "etcd-watch",
    /// The stream of all watches over one connection to etcd.
    EtcdWatchStream = "etcd-watch-stream",
    /// A thread of functions that wait, inside of `block_on`.
    FunctionThread = "function-thread",
    /// Detects a new history of etcd.
    History = "history",
    /// Determines why the record is gone.
    Investigation = "investigation",
    /// Bounds the time of leaving even if the timers have failed.
    LastResort = "last-resort",
    /// The leader's duties.
    Leader = "leader",
    /// Removes a leader whose process is gone.
    LeaderRemoval = "leader-removal",
    /// Watches the leader's process over a link.
    LeaderWatch = "leader-watch",
    /// Renews the lease.
    LeaseKeeper = "lease-keeper",
    /// Receives the messages of a link.
    LinkReader = "link-reader",
    /// Opens a failed link again while other instances are used.
    LinkReopen = "link-reopen",
    /// Detects that a link's connection is dead.
    LinkWatch = "link-watch",
    /// Writes the messages of a link.
    LinkWriter = "link-writer",
    /// Accepts connections.
    Listener = "listener",
    /// The thread that writes log lines.
    Log = "log",
    /// Keeps a link to a server that is no longer published, until it ends or times out.
    OldLink = "old-link",
    /// Watches the server's own record.
    OwnRecord = "own-record",
    /// The agent from before its first session to after its last.
    Peer = "peer",
    /// Removes forwarded messages once they have arrived, and reports those that were
    /// lost with a link.
    PostedWatch = "posted-watch",
    /// Serves metrics over HTTP.
    MetricsListener = "metrics-listener",
    /// Tells etcd whether the server is ready.
    Readiness = "readiness",
    /// Puts the record again.
    Registration = "registration",
    /// Resigns as leader.
    Resignation = "resignation",
    /// A thread that resolves host names.
    Resolver = "resolver",
    /// Handles requests, and runs the functions.
    Serving = "serving",
    /// The thread that receives signals.
    Signals = "signals",
    /// Finishes a pending send to a client.
    SlowSend = "slow-send",
    /// The timer thread.
    Timer = "timer",
    /// Monitors the dispatch loop.
    Watchdog = "watchdog",
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
