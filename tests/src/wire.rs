//! A raw client for a server's port, which sends arbitrary bytes.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// How long a wire waits for bytes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, over TCP or TLS, that sends whatever the test wants.
#[derive(Debug)]
pub struct Wire<S = TcpStream> {
    stream: S,
}

/// Returns the greeting of ZMTP 3.1 with the mechanism NULL.
#[must_use]
pub fn greeting() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 0xff;
    bytes[8..12].copy_from_slice(&[1, 0x7f, 3, 1]);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// A frame with these flags, with a length of eight bytes where it must be.
#[must_use]
pub fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(length) => [&[flags, length], body].concat(),
        Err(_) => [
            &[flags | 2],
            (body.len() as u64).to_be_bytes().as_slice(),
            body,
        ]
        .concat(),
    }
}

/// A READY with these properties.
#[must_use]
pub fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in properties {
        body.push(u8::try_from(name.len()).expect("a short name"));
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(
            &u32::try_from(value.len())
                .expect("a short value")
                .to_be_bytes(),
        );
        body.extend_from_slice(value);
    }
    frame(4, &body)
}

/// The property by which peers of the library recognise each other, and its value.
pub const NATIVE: (&str, &[u8]) = ("X-PALM", b"2");

/// Returns the READY of a socket of this type: that of a peer of the library with
/// `PALM_TEST_WIRE=native`, so that the same tests can be run over native connections.
#[must_use]
pub fn ready_as(socket: &str) -> Vec<u8> {
    let socket_type = ("Socket-Type", socket.as_bytes());
    if std::env::var("PALM_TEST_WIRE").is_ok_and(|wire| wire == "native") {
        ready(&[socket_type, NATIVE])
    } else {
        ready(&[socket_type])
    }
}

impl Wire {
    /// Connects, and sends nothing.
    ///
    /// # Errors
    /// As connecting.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Closes the connection, and waits until the server does too. Without that, connections
    /// come faster than a busy server accepts them, and the kernel drops some that the
    /// server never sees.
    pub fn close(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.until_end();
    }

    /// Wraps an open connection.
    ///
    /// # Errors
    /// When it is broken.
    pub fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Connects and performs the handshake of a DEALER.
    ///
    /// # Errors
    /// When the peer does not complete it.
    pub fn dealer(address: SocketAddr) -> io::Result<Self> {
        let mut wire = Self::connect(address)?;
        wire.shake_hands()?;
        Ok(wire)
    }
}

impl Wire {
    /// Connects and performs the handshake of a DEALER, of a peer of the library.
    ///
    /// # Errors
    /// When the peer does not complete it.
    pub fn native(address: SocketAddr) -> io::Result<Self> {
        let mut wire = Self::connect(address)?;
        wire.send(&greeting())?;
        wire.send(&ready(&[("Socket-Type", b"DEALER"), NATIVE]))?;
        wire.stream.read_exact(&mut [0; 64])?;
        let (_, ready) = wire.frame()?;
        assert!(
            ready
                .windows(NATIVE.0.len())
                .any(|name| name == NATIVE.0.as_bytes()),
            "the server speaks no native links"
        );
        Ok(wire)
    }
}

impl<S: Read + Write> Wire<S> {
    /// Uses an open stream.
    pub fn over(stream: S) -> Self {
        Self { stream }
    }

    /// Performs the handshake of a DEALER.
    ///
    /// # Errors
    /// When the peer does not complete it.
    pub fn shake_hands(&mut self) -> io::Result<()> {
        self.send(&greeting())?;
        self.send(&ready_as("DEALER"))?;
        self.stream.read_exact(&mut [0; 64])?;
        self.frame().map(drop)
    }

    /// Performs the handshake of a ROUTER, over an accepted connection.
    ///
    /// # Errors
    /// When the peer does not complete it.
    pub fn open_as_router(&mut self) -> io::Result<()> {
        self.send(&greeting())?;
        self.send(&ready_as("ROUTER"))?;
        self.stream.read_exact(&mut [0; 64])?;
        self.frame().map(drop)
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// When the connection is broken, or accepts nothing.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends a message of these frames.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn message(&mut self, frames: &[&[u8]]) -> io::Result<()> {
        let more = |at: usize| u8::from(at + 1 < frames.len());
        let bytes: Vec<u8> = frames
            .iter()
            .enumerate()
            .flat_map(|(at, body)| frame(more(at), body))
            .collect();
        self.send(&bytes)
    }

    /// The next frame: its flags and its body.
    ///
    /// # Errors
    /// When the connection ends before, or nothing comes.
    pub fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let length = if head[0] & 2 == 0 {
            u64::from(head[1])
        } else {
            let mut rest = [0; 8];
            rest[0] = head[1];
            self.stream.read_exact(&mut rest[1..])?;
            u64::from_be_bytes(rest)
        };
        let mut body = vec![0; usize::try_from(length).expect("a length that fits")];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// The frames of the next message.
    ///
    /// # Errors
    /// As [`frame`](Self::frame).
    pub fn answer(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.frame()?;
            frames.push(body);
            if flags & 1 == 0 {
                return Ok(frames);
            }
        }
    }

    /// Reads until the peer closes the connection. Returns how many bytes came before.
    ///
    /// # Errors
    /// When it does not end it.
    pub fn until_end(&mut self) -> io::Result<u64> {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            other => other,
        }
    }

    /// Returns the socket.
    #[must_use]
    pub fn stream(&self) -> &S {
        &self.stream
    }
}
