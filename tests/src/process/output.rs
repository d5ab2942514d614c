//! The output of a program, line by line.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

#[derive(Debug, Default)]
pub(super) struct Output {
    said: Mutex<Said>,
    pub(super) more: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) lines: Vec<(String, Instant)>,
    /// How many of stdout and stderr are still open.
    pub(super) open: usize,
}

impl Output {
    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `stream` to its end on a thread.
    pub(super) fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        self.said().open += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches(['\n', '\r'])
                    .to_owned();
                line.clear();
                output.said().lines.push((text, Instant::now()));
                output.more.notify_all();
            }
            output.said().open -= 1;
            output.more.notify_all();
        });
    }
}
