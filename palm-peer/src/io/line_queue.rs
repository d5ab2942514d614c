//! A queue of lines for a stream that may be slow, broken or full, none of which may block or
//! end the program.
//!
//! Writing to stderr blocks while the pipe behind it is not read, and fails when the reader is gone
//! or the disk is full. So lines go through a bounded queue to a thread; lines that do not fit or
//! cannot be written are dropped and counted, and the count is written once writing works again.

use super::threads::{Name, panic_if_rigged, start_thread};
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How many lines may wait.
const MAX_LINES: usize = 10_000;
/// How many bytes may wait; a line that finds the queue empty may be longer.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// The wait before writing again to a non-blocking stream that is full.
const RETRY: Duration = Duration::from_millis(10);

/// An item of the queue.
enum Item {
    Line(Vec<u8>),
    /// This many lines were dropped at this point.
    Dropped(u64),
}

#[derive(Default)]
struct State {
    entries: VecDeque<Item>,
    bytes: usize,
    /// An entry is being written.
    writing: bool,
    /// How many dropped lines have not been reported yet.
    dropped: u64,
    /// Whether the last write failed: the next one is tried with the next line.
    broken: bool,
}

impl State {
    fn is_full(&self, more: usize) -> bool {
        !self.entries.is_empty()
            && (self.entries.len() >= MAX_LINES || self.bytes + more > MAX_BYTES)
    }

    fn is_settled(&self) -> bool {
        self.entries.is_empty() && !self.writing && (self.dropped == 0 || self.broken)
    }

    /// Takes the next item. Dropped lines are reported with the following line, or
    /// when no line waits.
    fn take(&mut self) -> Option<Item> {
        let entry = self.entries.pop_front();
        let entry = entry.or_else(|| {
            (self.dropped > 0 && !self.broken).then(|| Item::Dropped(self.take_dropped()))
        })?;
        self.writing = true;
        Some(entry)
    }

    fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn done(&mut self, entry: &Item, written: bool) {
        self.writing = false;
        self.broken = !written;
        if let Item::Line(line) = entry {
            self.bytes -= line.len();
        }
        if !written {
            self.dropped += if let Item::Dropped(count) = entry {
                *count
            } else {
                1
            };
        }
    }
}

/// The stream and its state.
struct Out {
    stream: Box<dyn Write + Send>,
    /// Whether the last line was written only in part.
    torn: bool,
    /// Creates the line that reports how many were dropped.
    note: Box<dyn Fn(u64) -> Vec<u8> + Send>,
}

/// A queue of lines, and the thread that writes them.
pub(crate) struct LineQueue {
    state: Mutex<State>,
    /// Notified when there is something to write.
    more: Condvar,
    /// Notified when something was written or dropped.
    done: Condvar,
    out: Mutex<Out>,
    /// Whether the system refused a thread.
    threadless: AtomicBool,
}

impl LineQueue {
    /// Starts the thread that writes to `stream`. `note` creates the line that reports how many
    /// were dropped. Without a thread, lines are written by [`flush`](Self::flush).
    pub(crate) fn start(
        stream: impl Write + Send + 'static,
        note: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> Arc<Self> {
        let out = Out {
            stream: Box::new(stream),
            torn: false,
            note: Box::new(note),
        };
        let queue = Arc::new(Self {
            state: Mutex::default(),
            more: Condvar::new(),
            done: Condvar::new(),
            out: Mutex::new(out),
            threadless: AtomicBool::new(false),
        });
        let writer = Arc::clone(&queue);
        let started = start_thread(Name::Log, "palm-log", move || writer.write_for_ever());
        queue.threadless.store(started.is_err(), Ordering::Relaxed);
        queue
    }

    /// Queues a line, with its end; drops it when the queue is full. Never waits for the stream.
    pub(crate) fn push(&self, line: Vec<u8>) {
        let mut state = self.state();
        if state.is_full(line.len()) {
            state.dropped += 1;
            return;
        }
        if state.dropped > 0 {
            let dropped = state.take_dropped();
            state.entries.push_back(Item::Dropped(dropped));
        }
        state.bytes += line.len();
        state.entries.push_back(Item::Line(line));
        drop(state);
        self.more.notify_one();
    }

    /// Waits until everything is written or dropped, at most for `within`. Returns whether it is.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        if self.threadless.load(Ordering::Relaxed)
            && let Ok(mut out) = self.out.try_lock()
        {
            while Instant::now() < deadline && self.write_next(&mut out) {}
        }
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.is_settled() || left.is_zero() {
                return state.is_settled();
            }
            state = self
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self) -> ! {
        loop {
            {
                let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
                while self.write_next(&mut out) {}
            }
            let mut state = self.state();
            while state.is_settled() {
                state = self
                    .more
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Writes the next item. Returns whether there was one.
    fn write_next(&self, out: &mut Out) -> bool {
        let Some(entry) = self.state().take() else {
            return false;
        };
        let mut writing = Writing {
            queue: self,
            entry,
            written: false,
        };
        panic_if_rigged(Name::Log);
        let written = match &writing.entry {
            Item::Line(line) => out.write(line),
            Item::Dropped(count) => out.write(&(out.note)(*count)),
        };
        writing.written = written.is_ok();
        true
    }
}

/// An item that is being written. When it is dropped, even by a panic, the queue
/// continues with the next.
struct Writing<'a> {
    queue: &'a LineQueue,
    entry: Item,
    written: bool,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.queue.state().done(&self.entry, self.written);
        self.queue.done.notify_all();
    }
}

impl Out {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another user of the stream has made it non-blocking; this thread may wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The process's stderr, without the standard library's lock: waiting for that lock could mean
/// waiting for the reader.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A stream whose writes do what the test says: accept this many bytes, fail, or panic at
    /// the error code 0.
    struct Scripted {
        orders: mpsc::Receiver<Result<usize, i32>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.orders.recv() {
                Ok(Err(PANIC)) => panic!("on purpose"),
                Ok(Err(code)) => Err(io::Error::from_raw_os_error(code)),
                order => {
                    let count = bytes
                        .len()
                        .min(order.map_or(usize::MAX, |order| order.unwrap_or(usize::MAX)));
                    self.taken
                        .lock()
                        .expect("no panic")
                        .extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (
        Arc<LineQueue>,
        mpsc::Sender<Result<usize, i32>>,
        impl Fn() -> String,
    ) {
        let (order, orders) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let stream = Scripted {
            orders,
            taken: Arc::clone(&taken),
        };
        let queue = LineQueue::start(stream, |count| format!("{count} dropped\n").into_bytes());
        (queue, order, move || {
            String::from_utf8_lossy(&taken.lock().expect("no panic")).into_owned()
        })
    }

    const LONG: Duration = Duration::from_secs(20);
    const ENOSPC: i32 = 28;
    const PANIC: i32 = 0;

    #[test]
    fn a_panic_in_the_stream_costs_one_line() {
        let (queue, order, text) = scripted();
        queue.push(b"lost\n".to_vec());
        order.send(Err(PANIC)).expect("the writer lives");
        assert!(queue.flush(LONG));
        drop(order);
        queue.push(b"kept\n".to_vec());
        assert!(queue.flush(LONG));
        assert_eq!(text(), "1 dropped\nkept\n");
    }

    #[test]
    fn failed_lines_are_counted_and_reported_with_the_next() {
        let (queue, order, text) = scripted();
        // The second attempt begins with the count of the first, and fails as well.
        for failures in 1..=2 {
            queue.push(b"lost\n".to_vec());
            for _ in 0..failures {
                order.send(Err(ENOSPC)).expect("the writer lives");
            }
            assert!(queue.flush(LONG));
        }
        drop(order);
        queue.push(b"kept\n".to_vec());
        assert!(queue.flush(LONG));
        assert_eq!(text(), "2 dropped\nkept\n");
    }

    #[test]
    fn a_truncated_line_does_not_merge_with_the_next() {
        let (queue, order, text) = scripted();
        queue.push(b"half a line\n".to_vec());
        for said in [Ok(4), Err(ENOSPC)] {
            order.send(said).expect("the writer lives");
        }
        assert!(queue.flush(LONG));
        drop(order);
        queue.push(b"next\n".to_vec());
        assert!(queue.flush(LONG));
        assert_eq!(text(), "half\n1 dropped\nnext\n");
    }

    #[test]
    fn an_unread_stream_costs_a_bounded_queue_and_no_time() {
        let (queue, order, text) = scripted();
        let began = Instant::now();
        for _ in 0..MAX_LINES + 500 {
            queue.push(b"x\n".to_vec());
        }
        assert!(!queue.flush(Duration::from_millis(20)), "nothing was taken");
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
        drop(order);
        assert!(queue.flush(LONG));
        let text = text();
        let (lines, dropped) = (
            text.lines().filter(|line| *line == "x").count(),
            text.lines().last(),
        );
        assert_eq!(
            dropped,
            Some(format!("{} dropped", MAX_LINES + 500 - lines).as_str()),
            "the count comes by itself"
        );
        assert!(lines == MAX_LINES || lines == MAX_LINES + 1, "{lines}");
    }

    #[test]
    fn long_lines_are_bounded_in_bytes_and_a_single_one_is_not() {
        let (queue, order, text) = scripted();
        let long = [vec![b'y'; MAX_BYTES + 1], b"\n".to_vec()].concat();
        for _ in 0..5 {
            queue.push(long.clone());
        }
        drop(order);
        assert!(queue.flush(LONG));
        let lines = text().lines().filter(|line| line.starts_with('y')).count();
        assert!((1..=2).contains(&lines), "{lines}");
    }
}
