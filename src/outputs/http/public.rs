//! The public listener: the five health paths, and nothing else. What it says is on the internet.

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
use crate::clock::BootTime;
use crate::snapshot::Snapshot;

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
        turns: watch::Sender<BootTime>,
        cancelled: CancellationToken,
    ) {
        let limits = Limits::new(CONNECTIONS, PATIENCE);
        let turned = || {
            turns.send_replace(BootTime::now());
        };
        match self {
            Self::Unix(listener, _) => {
                serve(listener, limits, |_| Answers(snapshots.clone()), turned, cancelled).await;
            }
            Self::Tcp(listener) => {
                serve(listener, limits, |_| Answers(snapshots.clone()), turned, cancelled).await;
            }
        }
    }
}

/// Answers from the newest snapshot.
struct Answers(watch::Receiver<Arc<Snapshot>>);

impl Service<Request<Incoming>> for Answers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let response = match Question::from_path(request.uri().path()) {
            Some(question) if matches!(*request.method(), Method::GET | Method::HEAD) => {
                health(&self.0.borrow(), question)
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
