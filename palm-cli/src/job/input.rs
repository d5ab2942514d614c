//! Standard input as a stream of messages, read only as far as the job pulls it.

use crate::error::CliError;
use futures::{SinkExt as _, channel::mpsc, executor::block_on};
use palm_peer::Bytes;
use std::{
    io::{self, BufRead, Read as _},
    thread,
};

/// How many messages are read ahead of the job.
const AHEAD: usize = 16;

/// The input before it is read.
#[must_use = "nothing is read until `start`"]
pub(super) struct Input {
    delimiter: u8,
    max: usize,
    messages: mpsc::Sender<Bytes>,
}

/// The input while it is read.
#[must_use = "says how reading ended"]
pub(super) struct Reading(
    Option<thread::JoinHandle<io::Result<()>>>,
    Option<io::Error>,
);

impl Input {
    /// Splits standard input at `delimiter`, which is removed. A piece longer than `max`, which
    /// cannot be sent, is cut to one byte more: then it is refused.
    pub(super) fn standard(delimiter: u8, max: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (messages, stream) = mpsc::channel(AHEAD);
        (
            Self {
                delimiter,
                max,
                messages,
            },
            stream,
        )
    }

    /// Reads on a thread, because reading blocks; the thread waits while the job pulls nothing.
    /// `count` is called with the number of bytes read.
    pub(super) fn start(self, count: impl Fn(u64) + Send + 'static) -> Reading {
        let read = move || self.read(&mut io::stdin().lock(), count);
        match thread::Builder::new().name("stdin".to_owned()).spawn(read) {
            Ok(thread) => Reading(Some(thread), None),
            Err(error) => Reading(None, Some(error)),
        }
    }

    fn read(mut self, from: &mut impl BufRead, count: impl Fn(u64)) -> io::Result<()> {
        while let Some((message, length)) = piece(from, self.delimiter, self.max)? {
            count(length);
            // Waits for room. The receiver is dropped when the program is about to end.
            if block_on(self.messages.feed(message)).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Reading {
    /// Returns the error that ended the input, if it did not end normally. Called after the job
    /// has seen the end.
    pub(super) fn ended(self) -> Result<(), CliError> {
        let Self(thread, error) = self;
        let ended = error.map_or_else(
            || thread.map_or(Ok(Ok(())), thread::JoinHandle::join),
            |error| Ok(Err(error)),
        );
        let cannot = |why: String| CliError::CouldNot(format!("cannot read standard input: {why}"));
        ended
            .map_err(|_| cannot("the thread that reads it panicked".to_owned()))?
            .map_err(|error| cannot(error.to_string()))
    }
}

/// Returns the next piece and its full length with the delimiter; `None` at the end. The bytes
/// after the last delimiter are a piece unless there are none.
fn piece(from: &mut impl BufRead, delimiter: u8, max: usize) -> io::Result<Option<(Bytes, u64)>> {
    let mut message = Vec::new();
    // One byte more than can be sent, and the delimiter.
    let enough = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(2);
    let mut length =
        u64::try_from(from.take(enough).read_until(delimiter, &mut message)?).unwrap_or(u64::MAX);
    if length == 0 {
        return Ok(None);
    }
    if message.last() == Some(&delimiter) {
        message.pop();
    } else if length == enough {
        message.truncate(max.saturating_add(1));
        length =
            length.saturating_add(u64::try_from(from.skip_until(delimiter)?).unwrap_or(u64::MAX));
    }
    Ok(Some((message.into(), length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, delimiter: u8, max: usize) -> Vec<(String, u64)> {
        let mut from = text.as_bytes();
        let mut pieces = Vec::new();
        while let Some((message, length)) =
            piece(&mut from, delimiter, max).expect("a slice can be read")
        {
            pieces.push((String::from_utf8(message.to_vec()).expect("text"), length));
        }
        pieces
    }

    #[test]
    fn input_is_split_at_its_delimiters() {
        for (text, delimiter, wanted) in [
            ("", b'\n', &[][..]),
            ("\n", b'\n', &[("", 1)]),
            ("a", b'\n', &[("a", 1)]),
            ("a\n", b'\n', &[("a", 2)]),
            ("a\r\n\nb", b'\n', &[("a\r", 3), ("", 1), ("b", 1)]),
            ("a\nb\0c\0", b'\0', &[("a\nb", 4), ("c", 2)]),
        ] {
            let wanted: Vec<_> = wanted
                .iter()
                .map(|&(piece, length)| (piece.to_owned(), length))
                .collect();
            assert_eq!(pieces(text, delimiter, 100), wanted, "{text:?}");
        }
    }

    #[test]
    fn an_input_over_the_limit_is_cut_and_refused() {
        let wanted = [
            ("abc", 4),
            ("abcd", 5),
            ("abcd", 6),
            ("abcd", 10),
            ("x", 2),
            ("abcd", 8),
        ];
        let wanted: Vec<_> = wanted
            .iter()
            .map(|&(piece, length)| (piece.to_owned(), length))
            .collect();
        assert_eq!(
            pieces("abc\nabcd\nabcde\nabcdefghi\nx\nabcdefgh", b'\n', 3),
            wanted
        );
    }
}
