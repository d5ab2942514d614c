//! The metrics of etcd, in Prometheus' format.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// All metrics of etcd at one moment; from [`Etcd::metrics`](crate::Etcd::metrics).
#[derive(Debug, Clone)]
pub struct Metrics(pub(crate) String);

impl Metrics {
    /// The sum of all series of the metric `name` whose labels contain `label`; 0
    /// when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        sum(&self.0, name, label).unwrap_or(0.0)
    }
}

/// Returns the body of the response to a GET of `path`. A frozen server is an error after a second.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> io::Result<String> {
    let patience = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    // Version 1.0 asks for an answer in one piece that ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The sum of all series of the metric `name` whose labels contain `label`; `None` when there is no
/// series of that name at all.
pub(crate) fn sum(text: &str, name: &str, label: &str) -> Option<f64> {
    let mut series = text
        .lines()
        .filter_map(|line| value(line, name, label))
        .peekable();
    series.peek()?;
    Some(series.sum())
}

/// The value of one line if it is of that metric: nothing when only its labels differ.
fn value(line: &str, name: &str, label: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (labels, number) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let number: f64 = number.trim().parse().ok()?;
    Some(if labels.contains(label) { number } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE puts counter\nputs 3\nputs_bytes 900\n\
                        calls{method=\"Put\",code=\"OK\"} 2\ncalls{method=\"Range\",code=\"OK\"} 1e+01\n";

    #[test]
    fn series_of_one_metric_are_summed_and_filtered() {
        for (name, label, expected) in [
            ("puts", "", Some(3.0)),
            ("calls", "", Some(12.0)),
            ("calls", "method=\"Put\"", Some(2.0)),
            ("calls", "method=\"Txn\"", Some(0.0)),
            ("put", "", None),
        ] {
            assert_eq!(sum(TEXT, name, label), expected, "{name} {label}");
        }
    }
}
