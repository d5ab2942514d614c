//! Encoding and decoding of messages after the handshake, for the connecting side, which
//! speaks ZMTP itself.

use super::{
    Header, RejectReason,
    frames::{Limits, MAX_COMMAND, Ping, read_ping, read_pong},
};
use bytes::Bytes;
use std::{collections::VecDeque, io::IoSlice, ops::Deref};

/// Frames longer than this are written without a copy; shorter ones are copied together, so that a
/// write has few pieces.
const LONG_FRAME: usize = 8 * 1024;

/// How many pieces are written at once, at most.
pub const MAX_PIECES: usize = 32;

/// At most this much is allocated for an announced length before the bytes have arrived.
const BELIEVED: usize = 1024 * 1024;

/// A batch's buffer that grew beyond this is freed.
const KEPT: usize = 1024 * 1024;

/// The longest header of a frame.
const LONGEST_FRAME_HEADER: usize = 9;

/// Outgoing messages, encoded into few pieces.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: VecDeque<Bytes>,
    /// The bytes after the pieces.
    tail: Vec<u8>,
    /// How many bytes of the first piece have been written.
    pos: usize,
    bytes: usize,
}

impl Batch {
    /// Appends a message.
    pub fn push(&mut self, frames: &[Bytes]) {
        for (pos, frame) in frames.iter().enumerate() {
            self.push_frame(frame, pos + 1 < frames.len());
        }
    }

    /// Appends a message of two frames, of which the first is short.
    pub fn push_pair(&mut self, header: &[u8], payload: &Bytes) {
        self.push_header(header.len(), true);
        self.push_raw(header);
        self.push_frame(payload, false);
    }

    /// Appends raw bytes: a command.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    fn push_frame(&mut self, frame: &Bytes, more: bool) {
        self.push_header(frame.len(), more);
        if frame.len() > LONG_FRAME {
            self.cut();
            self.pieces.push_back(frame.clone());
            self.bytes += frame.len();
        } else {
            self.push_raw(frame);
        }
    }

    fn push_header(&mut self, length: usize, more: bool) {
        let flags = u8::from(more);
        let before = self.tail.len();
        if let Ok(short) = u8::try_from(length) {
            self.tail.extend_from_slice(&[flags, short]);
        } else {
            self.tail.push(flags | 2);
            self.tail.extend_from_slice(&(length as u64).to_be_bytes());
        }
        self.bytes += self.tail.len() - before;
    }

    /// Turns the tail into a piece.
    fn cut(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }

    /// Returns how many bytes are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns the pieces to write next, at most `max` bytes.
    #[must_use]
    pub fn next(&self, mut max: usize) -> Pieces<'_> {
        let mut pieces = Pieces {
            slices: [IoSlice::new(&[]); MAX_PIECES],
            count: 0,
        };
        let mut pos = self.pos;
        let all = self.pieces.iter().map(Bytes::as_ref);
        for piece in all.chain([&self.tail[..]]).take(MAX_PIECES) {
            let piece = &piece[pos..];
            let piece = &piece[..piece.len().min(max)];
            if piece.is_empty() {
                break;
            }
            pieces.slices[pieces.count] = IoSlice::new(piece);
            pieces.count += 1;
            max -= piece.len();
            pos = 0;
        }
        pieces
    }

    /// Removes this many bytes of [`Batch::next`], which have been written.
    pub fn advance(&mut self, count: usize) {
        self.pos += count;
        self.bytes -= count;
        while let Some(piece) = self.pieces.front() {
            if self.pos < piece.len() {
                return;
            }
            self.pos -= piece.len();
            self.pieces.pop_front();
        }
        if self.pos == self.tail.len() {
            self.pos = 0;
            self.tail.clear();
            self.tail.shrink_to(KEPT);
        }
    }
}

/// Pieces of bytes, for one write.
#[derive(Debug)]
pub struct Pieces<'a> {
    slices: [IoSlice<'a>; MAX_PIECES],
    count: usize,
}

impl<'a> Deref for Pieces<'a> {
    type Target = [IoSlice<'a>];

    fn deref(&self) -> &Self::Target {
        &self.slices[..self.count]
    }
}

/// A received message or command.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message's frames.
    Message(Vec<Bytes>),
    /// A PING that must be answered.
    Ping(Ping),
    /// The answer to our PING of this number.
    Pong(u64),
}

/// The body of a frame that has arrived in part.
#[derive(Debug)]
struct Body {
    header: Header,
    length: usize,
    bytes: Vec<u8>,
}

/// Decodes messages from a stream in any fragmentation.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// A frame's header that has arrived in part.
    head: Vec<u8>,
    body: Option<Body>,
    frames: Vec<Bytes>,
    /// The total length of these frames and of the body.
    bytes: u64,
}

impl Decoder {
    /// Creates the state at the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            head: Vec::new(),
            body: None,
            frames: Vec::new(),
            bytes: 0,
        }
    }

    /// Consumes `input` up to the end of the next message. Returns `None` when all input is
    /// consumed and the message is incomplete.
    ///
    /// # Errors
    /// At a header that exceeds the limits or is invalid. The stream cannot be used any more then.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, RejectReason> {
        loop {
            if self.body.is_none() {
                let Some(header) = self.take_header(input)? else {
                    return Ok(None);
                };
                self.body = Some(self.enter(header)?);
            }
            let Some(body) = self.body.take() else {
                return Ok(None);
            };
            let (header, frame) = match take_body(body, input) {
                Ok(whole) => whole,
                Err(part) => {
                    self.body = Some(part);
                    return Ok(None);
                }
            };
            if header.command {
                let pong = read_pong(&frame).map(Incoming::Pong);
                return pong
                    .map_or_else(|| read_ping(&frame).map(Incoming::Ping), Ok)
                    .map(Some);
            }
            self.frames.push(frame);
            if !header.more {
                self.bytes = 0;
                return Ok(Some(Incoming::Message(std::mem::take(&mut self.frames))));
            }
        }
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, RejectReason> {
        if self.head.is_empty()
            && let Some(header) = Header::read(input)?
        {
            *input = &input[header.size..];
            return Ok(Some(header));
        }
        while self.head.len() < LONGEST_FRAME_HEADER {
            let Some((first, rest)) = input.split_first() else {
                return Ok(None);
            };
            self.head.push(*first);
            *input = rest;
            if let Some(header) = Header::read(&self.head)? {
                self.head.clear();
                return Ok(Some(header));
            }
        }
        Err(RejectReason::Flags)
    }

    /// Checks a header against the limits.
    fn enter(&mut self, header: Header) -> Result<Body, RejectReason> {
        if header.command {
            if header.length > MAX_COMMAND {
                return Err(RejectReason::Command);
            }
        } else {
            let bytes = self
                .bytes
                .checked_add(header.length)
                .filter(|bytes| *bytes <= self.limits.bytes);
            self.bytes = bytes.ok_or(RejectReason::TooLong)?;
            if self.frames.len() >= self.limits.frames as usize {
                return Err(RejectReason::TooManyFrames);
            }
        }
        let length = usize::try_from(header.length).map_err(|_| RejectReason::TooLong)?;
        Ok(Body {
            header,
            length,
            bytes: Vec::new(),
        })
    }
}

/// Reads the rest of a body; returns it as an error when it is still incomplete.
fn take_body(mut body: Body, input: &mut &[u8]) -> Result<(Header, Bytes), Body> {
    let missing = body.length - body.bytes.len();
    let (taken, rest) = input.split_at(missing.min(input.len()));
    *input = rest;
    if body.bytes.is_empty() && taken.len() == missing {
        return Ok((body.header, Bytes::copy_from_slice(taken)));
    }
    if body.bytes.is_empty() {
        body.bytes.reserve_exact(body.length.min(BELIEVED));
    }
    body.bytes.extend_from_slice(taken);
    if taken.len() == missing {
        Ok((body.header, body.bytes.into()))
    } else {
        Err(body)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::frames::{Scanner, ping_frame},
        *,
    };
    use fastrand::Rng;

    const LIMITS: Limits = Limits {
        bytes: 200_000,
        frames: 4,
    };

    fn message(rng: &mut Rng) -> Vec<Bytes> {
        let length = |rng: &mut Rng| match rng.u8(..4) {
            0 => 0,
            1 => rng.usize(..300),
            2 => rng.usize(..3000),
            _ => rng.usize(..40_000),
        };
        (0..rng.usize(1..=4))
            .map(|_| vec![rng.u8(..); length(rng)].into())
            .collect()
    }

    /// Returns all bytes of a batch, taken in random portions.
    fn write_out(batch: &mut Batch, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !batch.is_empty() {
            let max = rng.usize(1..100_000);
            let next: Vec<u8> = batch
                .next(max)
                .iter()
                .flat_map(|piece| piece.to_vec())
                .collect();
            let count = rng.usize(1..=next.len());
            assert!(next.len() <= max);
            bytes.extend_from_slice(&next[..count]);
            batch.advance(count);
        }
        bytes
    }

    #[test]
    fn messages_are_decoded_from_any_fragments() {
        for seed in 0..300 {
            let mut rng = Rng::with_seed(seed);
            let sent: Vec<_> = (0..rng.usize(1..20)).map(|_| message(&mut rng)).collect();
            let mut batch = Batch::default();
            for frames in &sent {
                batch.push(frames);
            }
            let announced = batch.len();
            let bytes = write_out(&mut batch, &mut rng);
            assert_eq!(bytes.len(), announced, "seed {seed}");

            let mut scanner = Scanner::new(LIMITS);
            assert!(
                scanner.step(&bytes, u64::MAX).is_ok() && scanner.messages() == sent.len() as u64,
                "seed {seed}"
            );

            let (mut decoder, mut came, mut rest) = (Decoder::new(LIMITS), Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                let (mut piece, after) = rest.split_at(rng.usize(1..=rest.len().min(50_000)));
                rest = after;
                while let Some(incoming) = decoder.decode(&mut piece).expect("a proper stream") {
                    came.push(incoming);
                }
                assert!(piece.is_empty());
            }
            assert_eq!(
                came,
                sent.into_iter().map(Incoming::Message).collect::<Vec<_>>(),
                "seed {seed}"
            );
        }
    }

    fn reason(stream: &[u8]) -> Option<RejectReason> {
        let mut decoder = Decoder::new(LIMITS);
        // Byte by byte, as the slowest connection delivers it.
        stream
            .chunks(1)
            .find_map(|mut piece| decoder.decode(&mut piece).err())
    }

    #[test]
    fn oversized_frames_are_refused_at_their_header() {
        let giant = [&[2][..], &40_000_000_000_u64.to_be_bytes()].concat();
        assert_eq!(reason(&giant), Some(RejectReason::TooLong));
        let body = vec![0; 150_000];
        let in_parts = [
            &[3][..],
            &150_000_u64.to_be_bytes(),
            &body,
            &[2],
            &50_001_u64.to_be_bytes(),
        ]
        .concat();
        assert_eq!(reason(&in_parts), Some(RejectReason::TooLong));
        assert_eq!(reason(&[1, 0].repeat(5)), Some(RejectReason::TooManyFrames));
        assert_eq!(reason(&[8, 0]), Some(RejectReason::Flags));
        assert_eq!(reason(&[4, 200]), Some(RejectReason::Command));
        assert_eq!(reason(b"\x04\x06\x05READY"), Some(RejectReason::Command));
        assert_eq!(reason(&[0, 0].repeat(1000)), None);
    }

    #[test]
    fn a_ping_between_two_messages_is_answered() {
        let stream = b"\x00\x01a\x04\x09\x04PING\x00\x0acc\x00\x01b";
        let (mut decoder, mut rest) = (Decoder::new(LIMITS), &stream[..]);
        let mut next = || decoder.decode(&mut rest).expect("a proper stream");
        assert_eq!(
            next(),
            Some(Incoming::Message(vec![Bytes::from_static(b"a")]))
        );
        let Some(Incoming::Ping(ping)) = next() else {
            panic!("a ping")
        };
        assert_eq!(ping.pong, b"\x04\x07\x04PONGcc");
        assert_eq!(
            next(),
            Some(Incoming::Message(vec![Bytes::from_static(b"b")]))
        );
        assert_eq!(next(), None);
    }

    #[test]
    fn a_pong_is_matched_by_its_number() {
        let ping = ping_frame(0x0102_0304_0506_0708);
        let Ok(Some(Incoming::Ping(ping))) = Decoder::new(LIMITS).decode(&mut &ping[..]) else {
            panic!("a ping")
        };
        let pong = Decoder::new(LIMITS).decode(&mut &ping.pong[..]);
        assert_eq!(pong, Ok(Some(Incoming::Pong(0x0102_0304_0506_0708))));
        // A PONG with a context that is not ours is invalid.
        assert_eq!(reason(b"\x04\x07\x04PONGcc"), Some(RejectReason::Command));
    }

    #[test]
    fn noise_ends_in_an_error_or_no_message() {
        for seed in 0..2000 {
            let mut rng = Rng::with_seed(seed);
            let noise: Vec<u8> = (0..rng.usize(..500)).map(|_| rng.u8(..)).collect();
            let (mut decoder, mut rest) = (Decoder::new(LIMITS), &noise[..]);
            while let Ok(Some(_)) = decoder.decode(&mut rest) {}
        }
    }
}
