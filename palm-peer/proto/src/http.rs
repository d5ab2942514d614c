//! The little of HTTP/1.1 that serving one document takes: a GET without a body, and an answer that
//! ends with the connection.

/// The maximum length of the head of a request, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The document; without its content for `HEAD`.
    Document {
        /// Whether it is sent with its content.
        content: bool,
    },
    /// Nothing else is served.
    NotFound,
    /// The method is neither `GET` nor `HEAD`.
    NotAllowed,
    /// This is not a request of HTTP/1.
    Invalid,
    /// The head is longer than [`MAX_HEAD`].
    TooLong,
}

/// Returns what to answer to these first bytes of a connection, if the document is at `path`;
/// `None` while the head of the request is not complete.
#[must_use]
pub fn reply_to(received: &[u8], path: &str) -> Option<Reply> {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    match end {
        Some(end) if end <= MAX_HEAD => Some(reply_to_head(&received[..end], path)),
        None if received.len() < MAX_HEAD => None,
        _ => Some(Reply::TooLong),
    }
}

fn reply_to_head(head: &[u8], path: &str) -> Reply {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Reply::Invalid;
    };
    let words: Vec<_> = line.split(' ').collect();
    let [method, target, version] = words[..] else {
        return Reply::Invalid;
    };
    if !version.starts_with("HTTP/1.") || method.is_empty() {
        return Reply::Invalid;
    }
    let asked = target.split('?').next().unwrap_or_default();
    match method {
        "GET" | "HEAD" if asked == path => Reply::Document {
            content: method == "GET",
        },
        "GET" | "HEAD" => Reply::NotFound,
        _ => Reply::NotAllowed,
    }
}

impl Reply {
    /// Returns the status line's number and reason.
    #[must_use]
    pub fn status(self) -> &'static str {
        match self {
            Self::Document { .. } => "200 OK",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::Invalid => "400 Bad Request",
            Self::TooLong => "431 Request Header Fields Too Large",
        }
    }

    /// Returns the head of the answer, for content of this type and length.
    #[must_use]
    pub fn head(self, content_type: &str, length: usize) -> String {
        let allow = if self == Self::NotAllowed {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {}\r\n{allow}Content-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
            self.status()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(request: &[u8]) -> Option<Reply> {
        reply_to(request, "/metrics")
    }

    #[test]
    fn only_a_get_or_head_of_the_path_is_served() {
        let document = |content| Some(Reply::Document { content });
        for (request, wanted) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", document(true)),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", document(true)),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", document(false)),
            ("GET / HTTP/1.1\r\n\r\n", Some(Reply::NotFound)),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Some(Reply::NotFound)),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some(Reply::NotAllowed)),
            ("GET /metrics\r\n\r\n", Some(Reply::Invalid)),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Some(Reply::Invalid)),
            ("GET /metrics HTTP/2\r\n\r\n", Some(Reply::Invalid)),
            (" /metrics HTTP/1.1\r\n\r\n", Some(Reply::Invalid)),
            ("\r\n\r\n", Some(Reply::Invalid)),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", None),
            ("", None),
        ] {
            assert_eq!(reply(request.as_bytes()), wanted, "{request:?}");
        }
        assert_eq!(reply(b"GET /\xff HTTP/1.1\r\n\r\n"), Some(Reply::Invalid));
    }

    #[test]
    fn a_long_head_is_refused_before_it_ends() {
        let mut request = b"GET /metrics HTTP/1.1\r\nA: ".to_vec();
        request.resize(MAX_HEAD - 1, b'a');
        assert_eq!(reply(&request), None);
        request.push(b'a');
        assert_eq!(reply(&request), Some(Reply::TooLong));
        request.extend_from_slice(b"\r\n\r\n");
        assert!(matches!(reply(&request), Some(Reply::Document { .. })));
        request.insert(25, b'a');
        assert_eq!(reply(&request), Some(Reply::TooLong));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..request.len());
                request[at] = random.u8(..);
            }
            request.truncate(random.usize(..=request.len()));
            let _ = reply(&request);
        }
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let head = Reply::NotAllowed.head("text/plain", 5);
        let wanted = "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
             Connection: close\r\n\r\n";
        assert_eq!(head, wanted);
    }
}
