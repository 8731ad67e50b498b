//! The peer listener: what other machines may ask. `/peer` is for the other members of the group, who prove with a key
//! that they are, and so is what lies below it ([`super::grants`]); `/metrics` for loopback and the configured networks.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue, VIA};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::grants::{self, Members};
use super::server::{Limits, serve};
use super::{JSON, Peer, TEXT, answer, bind_tcp};
use crate::clock::BootTime;
use crate::config::Network;
use crate::group::ask;
use crate::group::guests::Knocks;
use crate::group::keys::{self, Message};
use crate::group::run::Standing;
use crate::group::word::Word;
use crate::outputs::metrics;
use crate::snapshot::Snapshot;

/// A group asks 20 times a second at most, and each question is over in milliseconds.
const CONNECTIONS: usize = 128;

/// In seconds. A scraper that keeps its connection comes back within a minute or connects anew.
const PATIENCE: u32 = 5;

/// What only members ask begins with this.
const BELOW: &str = "/peer/";

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Peer {
    /// Answers until `cancelled`.
    pub async fn serve(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        standing: watch::Receiver<Arc<Standing>>,
        knocks: Knocks,
        members: Members,
        cancelled: CancellationToken,
    ) {
        let service = |stream: &TcpStream| Answers {
            snapshots: snapshots.clone(),
            standing: standing.clone(),
            knocks: knocks.clone(),
            members: members.clone(),
            asker: stream.peer_addr().ok().map(|address| address.ip()),
        };
        let Self { address, socket } = self;
        let Some(listener) = socket.bound(|| bind_tcp(address), &cancelled).await else { return };
        serve(listener, Limits::new(CONNECTIONS, PATIENCE), service, || {}, cancelled).await;
    }
}

/// Answers one connection.
struct Answers {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    standing: watch::Receiver<Arc<Standing>>,
    knocks: Knocks,
    members: Members,
    /// Unknown when it was gone before it was looked at.
    asker: Option<IpAddr>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Self::Response, Infallible>>,
        Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>,
    >;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if request.uri().path().starts_with(BELOW) && !is_proxied(&request) {
            let (snapshot, standing) = (Arc::clone(&self.snapshots.borrow()), Arc::clone(&self.standing.borrow()));
            let response = grants::respond(request, snapshot, standing, self.members.clone());
            return Either::Right(Box::pin(async { Ok(response.await) }));
        }
        Either::Left(ready(Ok(self.answer(&request))))
    }
}

impl Answers {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if is_proxied(request) {
            return answer(StatusCode::FORBIDDEN, TEXT, "not through a proxy\n");
        }
        let path = request.uri().path();
        if path != "/metrics" && path != ask::PATH {
            return answer(StatusCode::NOT_FOUND, TEXT, "not found\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if path == ask::PATH {
            return self.word(request);
        }
        let snapshot = Arc::clone(&self.snapshots.borrow());
        // By the configuration in force now: a reload also counts for connections that are open.
        if !self.asker.is_some_and(|ip| may_read(&snapshot.config.metrics_allow, ip)) {
            return answer(StatusCode::FORBIDDEN, TEXT, "this address is not in `metrics.allow`\n");
        }
        answer(StatusCode::OK, METRICS, metrics::page(&snapshot, BootTime::now()))
    }
}

impl Answers {
    /// This member's word, signed for whoever proved to have a key; without keys, for anybody.
    fn word(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (snapshot, standing) = (Arc::clone(&self.snapshots.borrow()), Arc::clone(&self.standing.borrow()));
        if standing.problem.is_some() {
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the key file cannot be used\n");
        }
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let nonce = header(keys::NONCE);
        let deployment = &snapshot.config.deployment;
        if let Some(keys) = &standing.keys {
            let method = request.method().as_str();
            let message = Message::Request { method, path: ask::PATH, deployment, nonce, body: b"" };
            // A nonce of another length is not from an agent, and could be made to last.
            if nonce.len() != keys::NONCE_LENGTH || !keys.verify(message, header(keys::MAC)) {
                return answer(StatusCode::FORBIDDEN, TEXT, "not signed with a key of this deployment\n");
            }
            let asker = self.asker.map(|asker| asker.to_canonical());
            if let Some(asker) = asker.filter(|asker| !standing.addresses.contains(asker)) {
                self.knocks.knock(asker);
            }
        }
        let body = Word::of(&snapshot, &standing.place, BootTime::now()).encode();
        let mac = standing
            .keys
            .as_ref()
            .map(|keys| keys.sign(Message::Answer { nonce, status: StatusCode::OK.as_u16(), body: &body }));
        let mut response = answer(StatusCode::OK, JSON, body);
        if let Some(mac) = mac.and_then(|mac| HeaderValue::try_from(mac).ok()) {
            response.headers_mut().insert(keys::MAC, mac);
        }
        response
    }
}

/// A web server that hands requests on from anywhere connects from loopback.
fn is_proxied(request: &Request<Incoming>) -> bool {
    ["x-forwarded-for", "forwarded", VIA.as_str()].iter().any(|name| request.headers().contains_key(*name))
}

fn may_read(allow: &[Network], asker: IpAddr) -> bool {
    let asker = asker.to_canonical();
    asker.is_loopback() || allow.iter().any(|network| contains(network, asker))
}

/// Whether `address`, which is canonical, lies in `network`, however that is written.
fn contains(network: &Network, address: IpAddr) -> bool {
    match (network.address, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix.min(32))).unwrap_or(0);
            (u32::from(base) ^ u32::from(address)) & mask == 0
        }
        (IpAddr::V6(base), address) => {
            let address = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            let mask = u128::MAX.checked_shl(128 - u32::from(network.prefix.min(128))).unwrap_or(0);
            (u128::from(base) ^ u128::from(address)) & mask == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str, prefix: u8) -> Network {
        Network { address: address.parse().unwrap(), prefix }
    }

    #[test]
    fn networks_are_compared_bit_by_bit_and_mapped_addresses_as_what_they_are() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ten = [network("10.0.0.0", 8)];
        assert!(may_read(&ten, ip("10.255.0.1")));
        assert!(may_read(&ten, ip("::ffff:10.1.2.3")));
        assert!(!may_read(&ten, ip("11.0.0.1")));
        assert!(!may_read(&ten, ip("a00::1")));
        assert!(may_read(&[], ip("127.0.0.1")) && may_read(&[], ip("::1")) && may_read(&[], ip("::ffff:127.0.0.9")));
        assert!(!may_read(&[], ip("10.0.0.1")));
        assert!(may_read(&[network("0.0.0.0", 0)], ip("203.0.113.9")));
        assert!(!may_read(&[network("0.0.0.0", 0)], ip("2001:db8::1")));
        assert!(may_read(&[network("::", 0)], ip("2001:db8::1")));
        assert!(may_read(&[network("::ffff:10.0.0.0", 104)], ip("10.9.9.9")));
        assert!(!may_read(&[network("10.0.0.7", 32)], ip("10.0.0.6")));
        assert!(may_read(&[network("2001:db8::", 32)], ip("2001:db8:1::1")));
    }
}
