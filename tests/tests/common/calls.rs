//! Calls that continue during failures.

use futures::executor::block_on;
use palm_peer::{Client, Config};
use palm_tests::eventually;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Calls `printf.printf` every 50 ms from a thread, until it is stopped.
pub(crate) struct Calls {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    calling: JoinHandle<Vec<String>>,
    client: Client,
}

impl Calls {
    /// Connects, and goes on calling.
    pub(crate) fn start(options: Config) -> Self {
        let client = block_on(Client::connect(options)).expect("a client connects");
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let (caller, stopped, counted) = (client.clone(), Arc::clone(&stop), Arc::clone(&count));
        let calling = thread::spawn(move || {
            let mut errors = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let count = counted.fetch_add(1, Ordering::Relaxed) + 1;
                let call = caller
                    .call("printf.printf", "hello")
                    .timeout(Duration::from_secs(10));
                match block_on(call.into_future()) {
                    Ok(answer) if answer == "hello" => {}
                    Ok(answer) => errors.push(format!("call {count} was answered {answer:?}")),
                    Err(error) => errors.push(format!("call {count}: {error}")),
                }
                thread::sleep(Duration::from_millis(50));
            }
            errors
        });
        Self {
            stop,
            count,
            calling,
            client,
        }
    }

    /// The client that calls.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the calls once there were at least `least`, and checks that none failed.
    pub(crate) fn all_went_well(self, least: usize) {
        let count = || self.count.load(Ordering::Relaxed);
        eventually(
            "as many calls as the test wants",
            Duration::from_secs(60),
            || (count() >= least).then_some(()),
        );
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.calling.join().expect("the calling thread ends");
        let few = &errors[..errors.len().min(5)];
        assert!(
            errors.is_empty(),
            "{} of {} calls failed: {few:?}",
            errors.len(),
            self.count.load(Ordering::Relaxed)
        );
    }
}
