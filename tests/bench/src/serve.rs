//! The yardstick: hyper, one thread, one fixed answer with the same headers and body as the agent's, nothing else.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixSocket};

/// The agent's own; tokio's `bind` would queue fewer.
const BACKLOG: u32 = 1024;

pub async fn run(address: &str, socket: &Path, body: &str) -> io::Result<()> {
    let body = Bytes::from(std::fs::read(body)?);
    let tcp = TcpSocket::new_v4()?;
    tcp.set_reuseaddr(true)?;
    tcp.bind(address.parse().map_err(io::Error::other)?)?;
    let tcp = tcp.listen(BACKLOG)?;
    let unix = UnixSocket::new_stream()?;
    unix.bind(socket)?;
    let unix = unix.listen(BACKLOG)?;
    loop {
        tokio::select! {
            Ok((stream, _)) = tcp.accept() => {
                stream.set_nodelay(true)?;
                answer(stream, body.clone());
            }
            Ok((stream, _)) = unix.accept() => answer(stream, body.clone()),
        }
    }
}

fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, body: Bytes) {
    #[allow(clippy::disallowed_methods, reason = "no supervisor here: the yardstick is bare")]
    tokio::spawn(async move {
        let service = service_fn(move |_| {
            let body = body.clone();
            async move {
                let mut response = Response::new(Full::new(body));
                let headers = response.headers_mut();
                headers.insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
                headers.insert("cache-control", hyper::header::HeaderValue::from_static("no-store"));
                headers.insert("x-dr-agent", hyper::header::HeaderValue::from_static("1000"));
                Ok::<_, Infallible>(response)
            }
        });
        // A client that hangs up in the middle is its own affair.
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    });
}
