//! Calls that go on while things break.

use futures::executor::block_on;
use palm_peer::{Client, Options};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Calls `printf.printf` every 50 ms from a thread of its own, until it is asked how that went.
pub struct Calls {
    stop: Arc<AtomicBool>,
    calling: JoinHandle<(usize, Vec<String>)>,
    client: Client,
}

impl Calls {
    /// Connects, and goes on calling.
    pub fn start(options: Options) -> Self {
        let client = block_on(Client::connect(options)).expect("a client connects");
        let stop = Arc::new(AtomicBool::new(false));
        let (caller, stopped) = (client.clone(), Arc::clone(&stop));
        let calling = thread::spawn(move || {
            let (mut count, mut errors) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                let call = caller.call("printf.printf", "hello").timeout(Duration::from_secs(10));
                match block_on(call.into_future()) {
                    Ok(answer) if answer == "hello" => {}
                    Ok(answer) => errors.push(format!("call {count} was answered {answer:?}")),
                    Err(error) => errors.push(format!("call {count}: {error}")),
                }
                thread::sleep(Duration::from_millis(50));
            }
            (count, errors)
        });
        Self { stop, calling, client }
    }

    /// The client that calls.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the calls: there were at least `least`, and none of them failed.
    pub fn all_went_well(self, least: usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, errors) = self.calling.join().expect("the calling thread ends");
        assert!(errors.is_empty(), "{} of {count} calls failed: {:?}", errors.len(), &errors[..errors.len().min(5)]);
        assert!(count >= least, "only {count} calls, of {least} at least");
    }
}
