//! What follows the handshake: messages of frames, and a PING now and then.

use super::{Header, Refusal, command};
use std::{ops::ControlFlow, time::Duration};

/// The longest command that has a place after the handshake: PING with its time to live and 16 bytes of context.
pub(crate) const MAX_COMMAND: u64 = 23;

/// What a message may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of all its frames.
    pub bytes: u64,
    /// How many frames it has.
    pub frames: u32,
}

/// What a message may have beyond twice the longest payload: a header, and what REQ sockets put before it.
const SLACK: u64 = 128 * 1024;

/// How many frames a message may have. Two make sense, three with a REQ's delimiter; some more get an answer that says so.
const MAX_FRAMES: u32 = 8;

impl Limits {
    /// For messages with payloads of at most `bytes`. What is not too far over shall still get the answer that says so.
    #[must_use]
    pub fn for_payloads(bytes: usize) -> Self {
        Self { bytes: (bytes as u64).saturating_mul(2).saturating_add(SLACK), frames: MAX_FRAMES }
    }

    /// For a stream of our own making.
    pub const NONE: Self = Self { bytes: u64::MAX, frames: u32::MAX };
}

/// A question whether we are still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// How long the other side means to be silent at most; zero when it does not say.
    pub silence: Duration,
    /// The frame that answers it.
    pub pong: Vec<u8>,
}

/// What to do with the first of the bytes that were looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// As many are parts of messages within the limits.
    Pass(usize),
    /// As many are a PING, which goes no further.
    Ping(usize, Ping),
    /// A frame of so many bytes comes next, which is not passed without [`Scanner::permit`].
    Long(u64),
    /// Nothing can be said of them before more have come. They are few: less than a frame's header, or a short command.
    Incomplete,
}

/// What a long frame needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Needed,
    Given,
    /// For the current frame.
    Used,
}

/// Follows the frames of one direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanner {
    limits: Limits,
    /// From how many bytes on a frame needs permission.
    long: u64,
    permission: Permission,
    /// How much of the current frame is to come.
    left: u64,
    /// Whether another frame of this message follows the current one.
    more: bool,
    /// Whether a frame of the current message has been seen, and the message is not complete.
    within: bool,
    frames: u32,
    bytes: u64,
    messages: u64,
}

impl Scanner {
    /// At the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (long, permission) = (u64::MAX, Permission::Needed);
        Self { limits, long, permission, left: 0, more: false, within: false, frames: 0, bytes: 0, messages: 0 }
    }

    /// Has each frame of `long` bytes and more ask for permission.
    #[must_use]
    pub fn asking_from(self, long: u64) -> Self {
        Self { long, ..self }
    }

    /// The long frame that comes next may be passed.
    pub fn permit(&mut self) {
        self.permission = Permission::Given;
    }

    /// How many messages have been passed, from their first byte to their last.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether a message has been passed in part.
    #[must_use]
    pub fn within_message(&self) -> bool {
        self.within
    }

    /// How many bytes of the long frame that was permitted last are to come.
    #[must_use]
    pub fn long_left(&self) -> u64 {
        if self.permission == Permission::Used { self.left } else { 0 }
    }

    /// How many bytes of the current frame are to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Looks at the next bytes of the stream, no further than to the end of the `most`th message from here. What is passed
    /// counts as gone; the rest must be shown again, with what follows it.
    ///
    /// # Errors
    /// At a header that announces what is over the limits or makes no sense. Nothing of it was passed.
    pub fn step(&mut self, bytes: &[u8], max: u64) -> Result<Step, Refusal> {
        let end = self.messages.saturating_add(max);
        let mut pos = 0;
        while self.messages < end {
            pos += self.pass_body(bytes.len() - pos);
            if pos == bytes.len() || self.messages == end {
                break;
            }
            match self.header(&bytes[pos..]) {
                Ok(ControlFlow::Continue(size)) => pos += size,
                Ok(ControlFlow::Break(step)) if pos == 0 => return Ok(step),
                Err(refusal) if pos == 0 => return Err(refusal),
                _ => break,
            }
        }
        Ok(if pos == 0 { Step::Incomplete } else { Step::Pass(pos) })
    }

    /// Passes what there is of the current frame's body.
    fn pass_body(&mut self, there: usize) -> usize {
        let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(there);
        self.left -= passed as u64;
        if self.left == 0 && self.within && !self.more {
            (self.within, self.frames, self.bytes) = (false, 0, 0);
            self.messages += 1;
        }
        passed
    }

    /// Enters the frame whose header comes next, if that is a frame of a message; changes nothing otherwise.
    fn header(&mut self, bytes: &[u8]) -> Result<ControlFlow<Step, usize>, Refusal> {
        let Some(header) = Header::read(bytes)? else { return Ok(ControlFlow::Break(Step::Incomplete)) };
        if header.command {
            return ping(bytes, header).map(ControlFlow::Break);
        }
        let length = self.bytes.checked_add(header.length).filter(|length| *length <= self.limits.bytes);
        let length = length.ok_or(Refusal::TooLong)?;
        if self.frames >= self.limits.frames {
            return Err(Refusal::TooManyFrames);
        }
        let is_long = header.length >= self.long;
        if is_long && self.permission != Permission::Given {
            return Ok(ControlFlow::Break(Step::Long(header.length)));
        }
        self.permission = if is_long { Permission::Used } else { Permission::Needed };
        (self.left, self.more, self.within) = (header.length, header.more, true);
        (self.frames, self.bytes) = (self.frames + 1, length);
        Ok(ControlFlow::Continue(header.size))
    }
}

fn ping(bytes: &[u8], header: Header) -> Result<Step, Refusal> {
    if header.length > MAX_COMMAND {
        return Err(Refusal::Command);
    }
    let size = header.size + usize::try_from(header.length).map_err(|_| Refusal::Command)?;
    let Some(body) = bytes.get(header.size..size) else { return Ok(Step::Incomplete) };
    read_ping(body).map(|ping| Step::Ping(size, ping))
}

/// The frame that asks whether the other side is there. Its number comes back with the answer.
#[must_use]
pub fn ping_frame(number: u64) -> Vec<u8> {
    // No time to live: whether we are silent too long is not for the other side to judge.
    let mut frame = b"\x04\x0f\x04PING\x00\x00".to_vec();
    frame.extend_from_slice(&number.to_be_bytes());
    frame
}

/// The number of the PING that this command's body answers, if it does.
pub(crate) fn read_pong(body: &[u8]) -> Option<u64> {
    let (b"PONG", context) = command(body)? else { return None };
    context.try_into().ok().map(u64::from_be_bytes)
}

/// Reads a command's body: PING is the only one that has a place after the handshake. Fails when it is another one.
pub(crate) fn read_ping(body: &[u8]) -> Result<Ping, Refusal> {
    let Some((b"PING", rest)) = command(body) else { return Err(Refusal::Command) };
    let (ttl, context) = rest.split_first_chunk().ok_or(Refusal::Command)?;
    let silence = Duration::from_millis(100) * u32::from(u16::from_be_bytes(*ttl));
    let mut pong = vec![4, u8::try_from(5 + context.len()).map_err(|_| Refusal::Command)?];
    pong.extend_from_slice(b"\x04PONG");
    pong.extend_from_slice(context);
    Ok(Ping { silence, pong })
}
