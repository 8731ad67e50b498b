//! The HTTP/1.1 client of the probes and of the command line: one fresh connection a request, over TCP or a unix
//! socket.
//!
//! No pool, on purpose: each probe must prove that a new connection is accepted. Redirects are answers, not followed.
//! Nothing here has a deadline of its own: whoever calls drops the request, and that closes the connection.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, USER_AGENT};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::HttpUrl;
use crate::observation::Stages;
use crate::probes::blocking::Lane;

/// Bytes of a body that a probe keeps.
pub const KEEP: usize = 64 * 1024;

/// A body that is longer is taken for one that never ends. It is read so far to know that the answer was complete.
const ENDLESS: usize = 4 * 1024 * 1024;

/// hyper's read buffer. Its default of 400 KB would let a server that streams at full speed hold the one thread of the
/// agent for tens of milliseconds at a time.
const BUFFER: usize = 64 * 1024;

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl From<&HttpUrl> for Address {
    fn from(url: &HttpUrl) -> Self {
        Self::Tcp { host: url.host.clone(), port: url.port }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// The `Host` header.
    pub host: &'a str,
    pub body: Bytes,
    /// Beside those that every request has.
    pub headers: Vec<(&'static str, String)>,
    /// Bytes of the answer's body to keep; what follows is read and dropped.
    pub keep: usize,
}

impl<'a> Request<'a> {
    #[must_use]
    pub fn get(host: &'a str, path: &'a str) -> Self {
        Self { method: Method::GET, path, host, body: Bytes::new(), headers: Vec::new(), keep: KEEP }
    }
}

/// A complete answer: the body ended as its header said it would.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// As far as the request wanted to keep it.
    pub body: Bytes,
}

/// Why there is no complete answer.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot resolve `{host}`")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot ask for `{path}`")]
    Request {
        path: String,
        #[source]
        source: hyper::http::Error,
    },
    #[error("no HTTP answer")]
    Header(#[source] hyper::Error),
    #[error("incomplete answer ({status})")]
    Body {
        status: StatusCode,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer ({status}) does not end within {} MiB", ENDLESS >> 20)]
    Endless { status: StatusCode },
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens there.
    Refused,
    /// The network does not lead there.
    Unreachable,
    /// The connection was accepted, and what came is not a complete HTTP answer.
    Broken,
    /// It streams and streams.
    Endless,
    /// Nothing was asked: no descriptor, no port, no name, no right.
    Asker,
}

impl Error {
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Resolve { .. } | Self::Request { .. } => Fault::Asker,
            Self::Header(_) | Self::Body { .. } => Fault::Broken,
            Self::Endless { .. } => Fault::Endless,
            Self::Connect(error) => match Errno::from_io_error(error) {
                Some(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOENT) => Fault::Refused,
                Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::TIMEDOUT) => Fault::Unreachable,
                _ => Fault::Asker,
            },
        }
    }
}

/// The `Host` header that a URL asks for by itself.
#[must_use]
pub fn host_header(url: &HttpUrl) -> String {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    if url.port == 80 { host } else { format!("{host}:{}", url.port) }
}

/// Connects, asks, and reads the whole answer; stages `dns` (only for a name), `connect`, `headers`, `body`.
///
/// # Errors
/// When there is no complete answer.
pub async fn exchange(address: &Address, request: Request<'_>, stages: &mut Stages) -> Result<Answer, Error> {
    match address {
        Address::Tcp { host, port } => {
            let addresses = match host.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, *port)],
                Err(_) => resolve(host, *port, stages).await?,
            };
            stages.enter("connect");
            let stream = TcpStream::connect(&addresses[..]).await.map_err(Error::Connect)?;
            over(stream, request, stages).await
        }
        Address::Unix(path) => {
            stages.enter("connect");
            let stream = UnixStream::connect(path).await.map_err(Error::Connect)?;
            over(stream, request, stages).await
        }
    }
}

/// The system's resolver blocks for up to half a minute while DNS is dead.
async fn resolve(host: &str, port: u16, stages: &mut Stages) -> Result<Vec<SocketAddr>, Error> {
    static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);
    stages.enter("dns");
    let name = host.to_owned();
    LANE.run(move || (name, port).to_socket_addrs().map(Iterator::collect))
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|source| Error::Resolve { host: host.to_owned(), source })
}

/// Asks over a connection that stands; stages `headers`, `body`.
///
/// # Errors
/// When there is no complete answer.
pub async fn over<S>(stream: S, request: Request<'_>, stages: &mut Stages) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    stages.enter("headers");
    let message = request
        .headers
        .into_iter()
        .fold(hyper::Request::builder(), |message, (name, value)| message.header(name, value));
    let message = message
        .method(request.method)
        .uri(request.path)
        .header(HOST, request.host)
        .header(USER_AGENT, concat!("dr-agent/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Full::new(request.body))
        .map_err(|source| Error::Request { path: request.path.to_owned(), source })?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await.map_err(Error::Header)?;
    let exchange = async {
        let answer = sender.send_request(message).await.map_err(Error::Header)?;
        stages.enter("body");
        let (head, mut body) = answer.into_parts();
        let status = head.status;
        let mut kept = BytesMut::new();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|source| Error::Body { status, source })?.into_data() else { continue };
            read += data.len();
            if read > ENDLESS {
                return Err(Error::Endless { status });
            }
            kept.extend_from_slice(&data[..data.len().min(request.keep - kept.len())]);
        }
        stages.leave();
        Ok(Answer { status, headers: head.headers, body: kept.freeze() })
    };
    // Drives the bytes in the same task, so that dropping this future closes the socket. Its error reaches the
    // exchange as well, and its end may come before the exchange has read what it left.
    let drive = async {
        let _ = connection.await;
        pending().await
    };
    tokio::select! {
        answer = exchange => answer,
        answer = drive => answer,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::telemetry::ErrorChain;

    #[tokio::test]
    async fn a_unix_socket_is_asked_as_tcp_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"{}") {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0, "the request ends early");
            }
            stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let request = Request { method: Method::POST, body: "{}".into(), keep: 4, ..Request::get("agent", "/drain") };
        let address = Address::Unix(path);
        let mut stages = Stages::default();
        let (asked, answer) = tokio::join!(serve, exchange(&address, request, &mut stages));
        assert!(asked.starts_with("POST /drain HTTP/1.1\r\nhost: agent\r\n"), "{asked}");
        let answer = answer.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::CREATED, &b"hell"[..]), "it keeps what was asked for");
    }

    #[tokio::test]
    async fn nobody_at_a_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("control.sock"));
        let error = exchange(&address, Request::get("agent", "/"), &mut Stages::default()).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Refused);
        assert_eq!(ErrorChain(&error).to_string(), "cannot connect: No such file or directory (os error 2)");
    }

    #[test]
    fn a_host_header_names_a_port_that_is_not_the_usual_one() {
        let url = |host: &str, port| HttpUrl { text: String::new(), host: host.to_owned(), port, path: "/".to_owned() };
        assert_eq!(host_header(&url("127.0.0.1", 80)), "127.0.0.1");
        assert_eq!(host_header(&url("::1", 8080)), "[::1]:8080");
    }
}
