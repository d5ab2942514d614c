//! The frames after the handshake: messages, and PING commands.

use super::{Header, RejectReason, command};
use std::{ops::ControlFlow, time::Duration};

/// The longest valid command after the handshake: PING with its time to live and 16
/// bytes of context.
pub(crate) const MAX_COMMAND: u64 = 23;

/// The limits of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of bytes of all its frames.
    pub bytes: u64,
    /// The maximum number of frames.
    pub frames: u32,
}

/// How many bytes a message may have beyond twice the longest payload: a header, and what REQ
/// sockets put before it.
const SLACK: u64 = 128 * 1024;

/// How many frames a message may have. Two are valid, three with a REQ's delimiter; a few more are
/// answered with an error.
const MAX_FRAMES: u32 = 8;

impl Limits {
    /// Returns the limits for payloads of at most `bytes`. A payload that is slightly too long is
    /// still read, to answer with an error.
    #[must_use]
    pub fn for_payloads(bytes: usize) -> Self {
        Self {
            bytes: (bytes as u64).saturating_mul(2).saturating_add(SLACK),
            frames: MAX_FRAMES,
        }
    }

    /// No limits, for our own streams.
    pub const NONE: Self = Self {
        bytes: u64::MAX,
        frames: u32::MAX,
    };
}

/// A received PING.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The longest silence that the peer announces; zero if it announces none.
    pub silence: Duration,
    /// The PONG frame that answers it.
    pub pong: Vec<u8>,
}

/// What to do with the next bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This many bytes belong to messages within the limits.
    Pass(usize),
    /// This many bytes are a PING, which is not passed on.
    Ping(usize, Ping),
    /// A frame of this many bytes follows, which is not passed without [`Scanner::permit`].
    Long(u64),
    /// More bytes are needed: there is less than a frame's header, or an incomplete short command.
    Incomplete,
}

/// The state of the permit that a long frame needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Needed,
    Given,
    /// Used for the current frame.
    Used,
}

/// Scans the frames of one direction of a connection, without buffering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanner {
    limits: Limits,
    /// Frames of this many bytes or more need a permit.
    long: u64,
    permission: Permission,
    /// Returns how many bytes of the current frame are to come.
    left: u64,
    /// Whether another frame of this message follows the current one.
    more: bool,
    /// Whether the current message has begun and is incomplete.
    within: bool,
    frames: u32,
    bytes: u64,
    messages: u64,
}

impl Scanner {
    /// Creates the state at the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (long, permission) = (u64::MAX, Permission::Needed);
        Self {
            limits,
            long,
            permission,
            left: 0,
            more: false,
            within: false,
            frames: 0,
            bytes: 0,
            messages: 0,
        }
    }

    /// Makes frames of `long` bytes and more need a permit.
    #[must_use]
    pub fn asking_from(self, long: u64) -> Self {
        Self { long, ..self }
    }

    /// Permits the long frame that follows.
    pub fn permit(&mut self) {
        self.permission = Permission::Given;
    }

    /// Returns how many messages have been passed completely.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns whether a message has been passed in part.
    #[must_use]
    pub fn within_message(&self) -> bool {
        self.within
    }

    /// Returns how many bytes of the last permitted long frame are to come.
    #[must_use]
    pub fn long_left(&self) -> u64 {
        if self.permission == Permission::Used {
            self.left
        } else {
            0
        }
    }

    /// Returns how many bytes of the current frame are to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Scans the next bytes of the stream, at most to the end of the `max`th message from here.
    /// Passed bytes are consumed; the rest must be given again, with the bytes that follow.
    ///
    /// # Errors
    /// At a header that exceeds the limits or is invalid. Nothing of it was passed.
    pub fn step(&mut self, bytes: &[u8], max: u64) -> Result<Step, RejectReason> {
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
                Err(reason) if pos == 0 => return Err(reason),
                _ => break,
            }
        }
        Ok(if pos == 0 {
            Step::Incomplete
        } else {
            Step::Pass(pos)
        })
    }

    /// Passes the available bytes of the current frame's body.
    fn pass_body(&mut self, there: usize) -> usize {
        let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(there);
        self.left -= passed as u64;
        if self.left == 0 && self.within && !self.more {
            self.within = false;
            self.frames = 0;
            self.bytes = 0;
            self.messages += 1;
        }
        passed
    }

    /// Begins the frame whose header follows, if it is a frame of a message; changes
    /// nothing otherwise.
    fn header(&mut self, bytes: &[u8]) -> Result<ControlFlow<Step, usize>, RejectReason> {
        let Some(header) = Header::read(bytes)? else {
            return Ok(ControlFlow::Break(Step::Incomplete));
        };
        if header.command {
            return ping(bytes, header).map(ControlFlow::Break);
        }
        let length = self
            .bytes
            .checked_add(header.length)
            .filter(|length| *length <= self.limits.bytes);
        let length = length.ok_or(RejectReason::TooLong)?;
        if self.frames >= self.limits.frames {
            return Err(RejectReason::TooManyFrames);
        }
        let is_long = header.length >= self.long;
        if is_long && self.permission != Permission::Given {
            return Ok(ControlFlow::Break(Step::Long(header.length)));
        }
        self.permission = if is_long {
            Permission::Used
        } else {
            Permission::Needed
        };
        self.left = header.length;
        self.more = header.more;
        self.within = true;
        self.frames += 1;
        self.bytes = length;
        Ok(ControlFlow::Continue(header.size))
    }
}

fn ping(bytes: &[u8], header: Header) -> Result<Step, RejectReason> {
    if header.length > MAX_COMMAND {
        return Err(RejectReason::Command);
    }
    let size = header.size + usize::try_from(header.length).map_err(|_| RejectReason::Command)?;
    let Some(body) = bytes.get(header.size..size) else {
        return Ok(Step::Incomplete);
    };
    read_ping(body).map(|ping| Step::Ping(size, ping))
}

/// Returns a PING frame with this number, which the PONG contains.
#[must_use]
pub fn ping_frame(number: u64) -> Vec<u8> {
    // No time to live: the peer must not close the connection because we are silent.
    let mut frame = b"\x04\x0f\x04PING\x00\x00".to_vec();
    frame.extend_from_slice(&number.to_be_bytes());
    frame
}

/// Returns the number of the PING that this command answers, if it is a PONG of ours.
pub(crate) fn read_pong(body: &[u8]) -> Option<u64> {
    let (b"PONG", context) = command(body)? else {
        return None;
    };
    context.try_into().ok().map(u64::from_be_bytes)
}

/// Reads a command's body: PING is the only one that has a place after the handshake. Fails when
/// it is another one.
pub(crate) fn read_ping(body: &[u8]) -> Result<Ping, RejectReason> {
    let Some((b"PING", rest)) = command(body) else {
        return Err(RejectReason::Command);
    };
    let (ttl, context) = rest.split_first_chunk().ok_or(RejectReason::Command)?;
    let silence = Duration::from_millis(100) * u32::from(u16::from_be_bytes(*ttl));
    let mut pong = vec![
        4,
        u8::try_from(5 + context.len()).map_err(|_| RejectReason::Command)?,
    ];
    pong.extend_from_slice(b"\x04PONG");
    pong.extend_from_slice(context);
    Ok(Ping { silence, pong })
}
