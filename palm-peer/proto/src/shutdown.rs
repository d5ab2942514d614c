//! Which signals request a graceful shutdown, and which end it early.

/// A signal that ends a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: the process is asked to end.
    Terminate,
    /// SIGHUP: the terminal was closed. Requests a shutdown that nobody waits for. It often arrives
    /// twice: from the kernel, and from the shell of the terminal.
    HangUp,
}

/// The requests that a process has received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    count: u64,
    /// The value of `count` at the last [`Request::Terminate`].
    urgent: u64,
}

impl Requests {
    /// As [`Default`], for statics.
    pub const NONE: Self = Self {
        count: 0,
        urgent: 0,
    };

    /// Counts a request.
    pub fn observe(&mut self, request: Request) {
        self.count += 1;
        if request == Request::Terminate {
            self.urgent = self.count;
        }
    }

    /// Returns the number of requests so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether a shutdown was requested after the first `seen` requests.
    #[must_use]
    pub fn asks_for_shutdown(&self, seen: u64) -> bool {
        self.count > seen
    }

    /// Returns whether another request followed the first one after `seen`: that one begins a
    /// graceful shutdown, or finds one under way; a SIGTERM or SIGINT after it ends the drain.
    #[must_use]
    pub fn asks_to_hurry(&self, seen: u64) -> bool {
        self.urgent > seen + 1
    }
}

#[cfg(test)]
mod tests {
    use super::{Request::*, *};

    fn after(requests: &[Request]) -> Requests {
        let mut observed = Requests::default();
        for request in requests {
            observed.observe(*request);
        }
        observed
    }

    #[test]
    fn a_second_request_to_terminate_skips_the_drain() {
        for (requests, shutdown, hurry) in [
            (&[][..], false, false),
            (&[Terminate], true, false),
            (&[HangUp], true, false),
            (&[Terminate, Terminate], true, true),
            // A terminal that closes does not hurry anybody.
            (&[Terminate, HangUp], true, false),
            (&[HangUp, HangUp, HangUp], true, false),
            (&[HangUp, Terminate], true, true),
        ] {
            let observed = after(requests);
            let asks = (observed.asks_for_shutdown(0), observed.asks_to_hurry(0));
            assert_eq!(asks, (shutdown, hurry), "{requests:?}");
        }
    }

    #[test]
    fn requests_before_a_server_joined_do_not_count_for_it() {
        let mut observed = after(&[Terminate, Terminate]);
        let seen = observed.count();
        assert!(!observed.asks_for_shutdown(seen) && !observed.asks_to_hurry(seen));
        observed.observe(Terminate);
        assert!(observed.asks_for_shutdown(seen) && !observed.asks_to_hurry(seen));
        observed.observe(Terminate);
        assert!(observed.asks_to_hurry(seen));
    }
}
