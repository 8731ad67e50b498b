//! The public listener: the five health paths, and nothing else. What it says is on the internet. To agents of the other
//! region, who prove with a key that they are, `/health/authority` says more.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderName, HeaderValue};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::server::{Limits, serve};
use super::{JSON, Public, TEXT, answer};
use crate::answer::{Question, respond};
use crate::authority::other;
use crate::clock::BootTime;
use crate::group::keys::{self, Message};
use crate::group::run::Standing;
use crate::snapshot::{STALE_AFTER, Snapshot};

/// One costs about 18 KiB while it is open. nginx opens one for each question and closes it with the answer.
const CONNECTIONS: usize = 1024;

/// In seconds. nginx itself gives up after half of one.
const PATIENCE: u32 = 2;

const X_DR_AGENT: HeaderName = HeaderName::from_static("x-dr-agent");

impl Public {
    /// Answers until `cancelled`; says on `turns` that the HTTP scheduler lives.
    pub async fn serve(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        standing: watch::Receiver<Arc<Standing>>,
        turns: watch::Sender<BootTime>,
        cancelled: CancellationToken,
    ) {
        let limits = Limits::new(CONNECTIONS, PATIENCE);
        let answers = Answers { snapshots, standing };
        let turned = || {
            turns.send_replace(BootTime::now());
        };
        match self {
            Self::Unix(listener, _) => {
                serve(listener, limits, |_| answers.clone(), turned, cancelled).await;
            }
            Self::Tcp(listener) => {
                serve(listener, limits, |_| answers.clone(), turned, cancelled).await;
            }
        }
    }
}

/// Answers from the newest snapshot.
#[derive(Clone)]
struct Answers {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    standing: watch::Receiver<Arc<Standing>>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let response = match Question::from_path(request.uri().path()) {
            Some(question) if matches!(*request.method(), Method::GET | Method::HEAD) => {
                let snapshot = self.snapshots.borrow();
                let signed = if question == Question::Authority { self.proven(&request, &snapshot) } else { None };
                signed.unwrap_or_else(|| health(&snapshot, question))
            }
            Some(_) => {
                let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            None => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        };
        ready(Ok(response))
    }
}

impl Answers {
    /// The answer to an agent of the other region, signed; `None` for everybody else, and while the last word is stale: an
    /// old word that a region is closed would open the other one.
    fn proven(&self, request: &Request<Incoming>, snapshot: &Snapshot) -> Option<Response<Full<Bytes>>> {
        let body = snapshot.proof.clone().filter(|_| BootTime::now().since(snapshot.taken) <= STALE_AFTER)?;
        let standing = self.standing.borrow();
        let keys = standing.keys.as_ref()?;
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let (nonce, mac) = (header(keys::NONCE)?, header(keys::MAC)?);
        let (method, deployment) = (request.method().as_str(), &snapshot.config.deployment);
        let message = Message::Request { method, path: other::PATH, deployment, nonce, body: b"" };
        // A nonce of another length is not from an agent, and could be made to last.
        if nonce.len() != keys::NONCE_LENGTH || !keys.verify(message, mac) {
            return None;
        }
        let mac = keys.sign(Message::Answer { nonce, status: StatusCode::OK.as_u16(), body: &body });
        let mut response = answer(StatusCode::OK, JSON, body);
        response.headers_mut().insert(keys::MAC, HeaderValue::try_from(mac).ok()?);
        response.headers_mut().insert(X_DR_AGENT, HeaderValue::from(snapshot.generation));
        Some(response)
    }
}

fn health(snapshot: &Snapshot, question: Question) -> Response<Full<Bytes>> {
    let found = respond(snapshot, question, BootTime::now());
    let status = if found.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = answer(status, JSON, found.body);
    // Digits or a word: always a header value.
    if let Ok(generation) = HeaderValue::from_maybe_shared(found.generation) {
        response.headers_mut().insert(X_DR_AGENT, generation);
    }
    response
}
