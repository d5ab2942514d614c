//! The ZMTP handshake: a greeting of 64 bytes, then one READY from each side.

use super::{Header, RejectReason, command};

/// The length of a greeting, in bytes.
pub const GREETING_LENGTH: usize = 64;

/// The longest READY that is accepted, in bytes. Those of DEALER and REQ sockets have a name, a
/// type and an identity.
const LONGEST_READY: u64 = 2048;

/// The longest identity that ZMTP allows.
const LONGEST_IDENTITY: usize = 255;

/// The types of the first TLS record: of a client's hello, and of a server's alert.
const TLS_RECORDS: [u8; 2] = [0x16, 0x15];

/// The second byte of a TLS record, in every version.
const TLS_VERSION: u8 = 3;

/// Returns our greeting: version 3.1, the first with PING; mechanism NULL; not as server.
#[must_use]
pub fn greeting() -> [u8; GREETING_LENGTH] {
    let mut bytes = [0; GREETING_LENGTH];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    (bytes[10], bytes[11]) = (3, 1);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// The property of READY by which peers of the library recognise each other.
const NATIVE: &str = "X-PALM";

/// The version of native links that is spoken here.
const NATIVE_VERSION: u32 = 2;

/// Returns our READY for this socket type, with an identity if there is one. With `native`, it says
/// that native links are spoken.
#[must_use]
pub fn ready(socket_type: &str, identity: Option<&[u8]>, native: bool) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    let mut property = |name: &str, value: &[u8]| {
        body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(value);
    };
    property("Socket-Type", socket_type.as_bytes());
    if let Some(identity) = identity {
        property("Identity", identity);
    }
    if native {
        property(NATIVE, NATIVE_VERSION.to_string().as_bytes());
    }
    let mut frame = vec![4, u8::try_from(body.len()).unwrap_or(u8::MAX)];
    frame.append(&mut body);
    frame
}

/// Returns whether the sender of this greeting answers PINGs, which came with version 3.1.
#[must_use]
pub fn answers_pings(greeting: &[u8]) -> bool {
    greeting
        .get(10..12)
        .is_some_and(|version| *version >= [3, 1][..])
}

/// Checks the received part of a greeting. Returns whether it is complete.
///
/// # Errors
/// At the first invalid byte.
pub fn check_greeting(bytes: &[u8]) -> Result<bool, RejectReason> {
    let begins_tls = bytes
        .first()
        .is_some_and(|first| TLS_RECORDS.contains(first));
    if begins_tls && bytes.get(1) == Some(&TLS_VERSION) {
        return Err(RejectReason::Tls);
    }
    let differs = |pos: usize, wanted: u8| bytes.get(pos).is_some_and(|byte| *byte != wanted);
    // The first byte of TLS alone is ambiguous: wait for the second.
    let may_be_tls = begins_tls && bytes.len() == 1;
    if !may_be_tls && (differs(0, 0xff) || differs(9, 0x7f)) {
        return Err(RejectReason::NotZmtp);
    }
    if bytes.get(10).is_some_and(|version| *version < 3) {
        return Err(RejectReason::Version);
    }
    let mechanism = bytes.get(12..).unwrap_or_default();
    let wanted = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    if mechanism
        .iter()
        .zip(wanted)
        .any(|(byte, wanted)| byte != wanted)
    {
        return Err(RejectReason::Mechanism);
    }
    Ok(bytes.len() >= GREETING_LENGTH)
}

/// The socket types that may connect to a server.
pub const ASKING: [&str; 2] = ["DEALER", "REQ"];

/// The socket type of a server.
pub const ANSWERING: [&str; 1] = ["ROUTER"];

/// Checks the received bytes after the greeting. Returns the length of the READY,
/// once it is complete.
///
/// # Errors
/// When it is not a READY, or not of one of these socket `types`.
pub fn check_ready(bytes: &[u8], types: &[&str]) -> Result<Option<usize>, RejectReason> {
    let Some(header) = Header::read(bytes).map_err(|_| RejectReason::Ready)? else {
        return Ok(None);
    };
    if !header.command || header.length > LONGEST_READY {
        return Err(RejectReason::Ready);
    }
    let length = usize::try_from(header.length).map_err(|_| RejectReason::Ready)?;
    let Some(body) = bytes.get(header.size..header.size + length) else {
        return Ok(None);
    };
    check_properties(body, types)?;
    Ok(Some(header.size + length))
}

fn check_properties(body: &[u8], types: &[&str]) -> Result<(), RejectReason> {
    let Some((b"READY", mut rest)) = command(body) else {
        return Err(RejectReason::Ready);
    };
    let mut socket_type = None;
    while !rest.is_empty() {
        let (name, value, after) = property(rest).ok_or(RejectReason::Ready)?;
        rest = after;
        if name.eq_ignore_ascii_case(b"Identity") && value.len() > LONGEST_IDENTITY {
            return Err(RejectReason::Identity);
        }
        if name.eq_ignore_ascii_case(b"Socket-Type") && socket_type.replace(value).is_some() {
            return Err(RejectReason::Ready);
        }
    }
    match socket_type {
        Some(found) if types.iter().any(|wanted| wanted.as_bytes() == found) => Ok(()),
        Some(_) => Err(RejectReason::SocketType),
        None => Err(RejectReason::Ready),
    }
}

/// Returns the identity in the body of a READY, if it has one.
#[must_use]
pub fn identity(body: &[u8]) -> Option<&[u8]> {
    value_of(body, "Identity")
}

/// Returns whether the sender of this complete READY speaks native links, of this version or a
/// later one: those speak this one too.
#[must_use]
pub fn is_native(ready: &[u8]) -> bool {
    let body = match Header::read(ready) {
        Ok(Some(header)) => ready.get(header.size..).unwrap_or_default(),
        _ => return false,
    };
    let version =
        value_of(body, NATIVE).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    version.is_some_and(|version: u32| version >= NATIVE_VERSION)
}

fn value_of<'a>(body: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let (b"READY", mut rest) = command(body)? else {
        return None;
    };
    while !rest.is_empty() {
        let (name, value, after) = property(rest)?;
        if name.eq_ignore_ascii_case(wanted.as_bytes()) {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// Returns the first property: its name, its value, and the bytes that follow.
fn property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = command(bytes)?;
    let (length, rest) = rest.split_first_chunk()?;
    let (value, rest) =
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (!name.is_empty()).then_some((name, value, rest))
}
