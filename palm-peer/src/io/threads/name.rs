//! The names of the library's tasks and threads.
//!
//! Whatever runs in the background needs one to be spawned, so this list is complete. A test in
//! `tests/tests/mesh/supervision.rs` reads it here and has each of them panic.

use std::fmt;

macro_rules! names {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// The name of a task or a thread, in the log and in `PALM_TEST_PANIC`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        // Some are of features that may be off.
        #[allow(dead_code)]
        pub(crate) enum Name {
            $($(#[doc = $doc])* $variant,)*
            /// One of a unit test's own.
            #[cfg(test)]
            Test,
        }

        impl Name {
            /// As it is logged.
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
    /// Waits until the serving loop of a server that was removed as mute turns again.
    AwaitResponse = "await-response",
    /// Puts the candidate's key, and reads who stands before it.
    Candidacy = "candidacy",
    /// Waits until a candidate's key is gone.
    CandidateWatch = "candidate-watch",
    /// Looks when the server's own certificate expires.
    CertificateExpiry = "certificate-expiry",
    /// One connection of the listener, up to its end.
    Connection = "connection",
    /// What one connection of the listener sends.
    ConnectionOutward = "connection-outward",
    /// Learns what is published.
    Directory = "directory",
    /// Finishes what a leaving server has begun.
    Drain = "drain",
    /// One request to etcd.
    EtcdRequest = "etcd-request",
    /// The thread on which all that talks to etcd lives.
    EtcdThread = "etcd-thread",
    /// One watch on etcd, up to its end.
    EtcdWatch = "etcd-watch",
    /// The stream of all watches over one connection to etcd.
    EtcdWatchStream = "etcd-watch-stream",
    /// Notices that etcd's history is another one.
    History = "history",
    /// Finds out why the record is gone.
    Investigation = "investigation",
    /// Bounds the time of leaving when no timer fires any more.
    LastResort = "last-resort",
    /// The leader's duties.
    Leader = "leader",
    /// Removes a leader whose process is gone.
    LeaderRemoval = "leader-removal",
    /// Watches the leader's process over a link.
    LeaderWatch = "leader-watch",
    /// Renews the lease.
    LeaseKeeper = "lease-keeper",
    /// Receives what comes over a link.
    LinkReader = "link-reader",
    /// Opens a link again to an instance that could not be reached, while others are used.
    LinkReopen = "link-reopen",
    /// Notices that a link's connection is dead.
    LinkWatch = "link-watch",
    /// Writes what is sent over a link.
    LinkWriter = "link-writer",
    /// Accepts connections.
    Listener = "listener",
    /// The thread that writes log lines.
    Log = "log",
    /// Keeps a link to a server that is no longer published, until it ends or its time is over.
    OldLink = "old-link",
    /// Watches the server's own record.
    OwnRecord = "own-record",
    /// The agent from before its first session to after its last.
    Peer = "peer",
    /// Forgets what was passed on once it has arrived, and tells what was lost with a link.
    PostedWatch = "posted-watch",
    /// Puts the record anew.
    Registration = "registration",
    /// Gives up the lead.
    Resignation = "resignation",
    /// A thread that resolves host names.
    Resolver = "resolver",
    /// Takes requests in, and runs the functions.
    Serving = "serving",
    /// The thread that receives signals.
    Signals = "signals",
    /// Finishes a send to a client that was not done at once.
    SlowSend = "slow-send",
    /// The thread on which deadlines pass.
    Timer = "timer",
    /// Watches the serving loop.
    Watchdog = "watchdog",
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
