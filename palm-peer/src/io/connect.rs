//! TCP connections to hosts by name: all addresses of a host are tried, by Happy Eyeballs (RFC 8305).

#[cfg(any(test, feature = "tls"))]
use super::executor::TcpStream;
use super::{executor, fd_limit, resolver::resolve, timer};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use palm_proto::happy_eyeballs::{Attempts, Step};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Returns the addresses of `host:port`, without a lookup if it is numeric. Fails when it
/// is not `host:port`, or the name cannot be resolved within `time` (at most 5 s). The
/// error names the host.
pub(crate) async fn addresses(endpoint: &str, time: Duration) -> io::Result<Vec<SocketAddr>> {
    let parts = endpoint
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let Some((host, port)) = parts else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{endpoint} is not host:port"),
        ));
    };
    resolve(
        host.trim_start_matches('[').trim_end_matches(']'),
        port,
        time,
    )
    .await
}

/// Connects, by `connect`, to the first of these addresses that accepts, and tries those again that
/// do not answer. Returns the address and the connection; the other attempts are dropped. Fails
/// with the error of each address; `None` for those that had not answered by `deadline`.
pub(crate) async fn race<S, F: Future<Output = io::Result<S>>>(
    addresses: &[SocketAddr],
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, S), Vec<(SocketAddr, Option<io::Error>)>> {
    executor::prepare();
    let mut attempts = Attempts::new(addresses, Instant::now());
    let mut running = FuturesUnordered::new();
    let mut open = Vec::new();
    let mut failures = Vec::new();
    loop {
        let until = match attempts.step(Instant::now()) {
            Step::Start(address) => {
                open.push(address);
                running.push(connect(address).map(move |connected| (address, connected)));
                continue;
            }
            Step::WaitUntil(at) => at.min(deadline),
            Step::Wait => deadline,
            Step::GiveUp => return Err(failures),
        };
        match select(running.next(), timer::sleep_until(until)).await {
            Either::Left((Some((address, Ok(stream))), _)) => return Ok((address, stream)),
            Either::Left((Some((address, Err(error))), _)) => {
                if let Some(pos) = open.iter().position(|open| *open == address) {
                    open.remove(pos);
                }
                // Without a descriptor for a second attempt, the first decides.
                let is_spare = fd_limit::is_local(&error) && open.contains(&address);
                if !is_spare && attempts.failed(address, Instant::now()) {
                    failures.push((address, Some(error)));
                }
            }
            // Cannot happen: without a running attempt the next one is due. Guards
            // against a busy loop.
            Either::Left((None, sleep)) => sleep.await,
            Either::Right(_) => {}
        }
        if Instant::now() >= deadline {
            let silent = addresses
                .iter()
                .filter(|address| !failures.iter().any(|(failed, _)| failed == *address));
            let silent: Vec<_> = silent.map(|address| (*address, None)).collect();
            failures.extend(silent);
            return Err(failures);
        }
    }
}

/// Connects to `host` within `time`. Fails when the name cannot be resolved, or no address accepts;
/// the error has the reason of each.
#[cfg(feature = "tls")]
pub(crate) async fn connect(host: &str, port: u16, time: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + time;
    let addresses = resolve(host, port, time).await?;
    race(&addresses, deadline, TcpStream::connect)
        .await
        .map(|(_, stream)| stream)
        .map_err(|failures| {
            let kind = failures
                .iter()
                .find_map(|(_, error)| Some(error.as_ref()?.kind()))
                .unwrap_or(io::ErrorKind::TimedOut);
            let reason = |(address, error): &(SocketAddr, Option<io::Error>)| match error {
                Some(error) => format!("{address}: {error}"),
                None => format!("{address}: no answer within {time:?}"),
            };
            io::Error::new(
                kind,
                failures.iter().map(reason).collect::<Vec<_>>().join("; "),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::executor::TcpListener;
    use futures::executor::block_on;
    use palm_tests::free_port;
    use std::sync::{Arc, Mutex};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_refused_address_is_skipped_and_all_are_reported() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let open = listener.local_addr().expect("an address");
            let closed = SocketAddr::new(open.ip(), free_port());
            let (found, stream) = race(&[closed, open], Instant::now() + SOON, TcpStream::connect)
                .await
                .expect("one lets us in");
            assert_eq!((found, stream.peer_addr().ok()), (open, Some(open)));
            let raced = race(&[closed, closed], Instant::now() + SOON, TcpStream::connect).await;
            let failures = raced.expect_err("nobody listens");
            assert_eq!(failures.len(), 2);
            let refused = |(_, error): &(_, Option<io::Error>)| {
                error
                    .as_ref()
                    .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
            };
            assert!(failures.iter().all(refused), "{failures:?}");
            let error = connect("127.0.0.1", closed.port(), SOON)
                .await
                .expect_err("nobody listens");
            assert!(error.to_string().contains(&closed.to_string()), "{error}");
        });
    }

    #[test]
    fn an_endpoint_has_a_host_and_a_port() {
        block_on(async {
            for (endpoint, wanted) in [("127.0.0.1:5", "127.0.0.1:5"), ("[::1]:6", "[::1]:6")] {
                assert_eq!(
                    addresses(endpoint, SOON).await.expect("numeric"),
                    [wanted.parse().expect("an address")]
                );
            }
            assert!(
                !addresses("localhost:7", SOON)
                    .await
                    .expect("known everywhere")
                    .is_empty()
            );
            for wrong in ["", "host", "host:port", "[::1]", "host:99999"] {
                let error = addresses(wrong, SOON).await.expect_err("no endpoint");
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            }
        });
    }

    #[test]
    fn blocking_functions_do_not_delay_name_resolution() {
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().expect("nobody else has it");
        // More than the pool has threads.
        let functions: Vec<_> = (0..600)
            .map(|_| {
                let gate = Arc::clone(&gate);
                executor::run_blocking(move || drop(gate.lock()))
            })
            .collect();
        let connected = block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            connect("localhost", port, SOON).await
        });
        drop(closed);
        block_on(futures::future::join_all(functions));
        connected.expect("connects while all threads of the pool are busy");
    }
}
