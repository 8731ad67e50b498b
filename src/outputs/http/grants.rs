//! What members ask each other before one of them is replaced, all of it signed: `POST /peer/grant` with `{id, record}`
//! -> 200 `{"granted":true}` or 409 `{"refusal":NAME}`, `DELETE /peer/grant/ID` -> 200, `GET /peer/records` -> the
//! records kept here, with their ages.
//!
//! These are no health answers: a grant counts only once it is written down, so the question goes to the task of
//! [`crate::replace::run`] and waits for it, with a deadline. Nothing else waits with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::{JSON, TEXT, answer};
use crate::clock::Stamp;
use crate::group::keys::{self, Keys, Message};
use crate::group::run::Standing;
use crate::replace::ask::{self, BODY, GRANT, RECORDS, Refused};
use crate::replace::grants::Denial;
use crate::replace::records::Records;
use crate::replace::run::Question;
use crate::snapshot::Snapshot;

/// Reading the question.
const BODY_LIMIT: Duration = Duration::from_secs(1);

/// Writing a grant down. Whoever asked waits for a second.
const REPLY_LIMIT: Duration = Duration::from_secs(2);

/// What the answers need.
#[derive(Debug, Clone)]
pub struct Members {
    pub boot: String,
    pub questions: mpsc::Sender<Question>,
    pub records: watch::Receiver<Arc<Records>>,
}

/// Who asked, so that the answer can be signed for them.
struct Signed {
    keys: Keys,
    nonce: String,
}

/// Answers one request whose path begins with `/peer/`.
pub(super) async fn respond(
    request: Request<Incoming>,
    snapshot: Arc<Snapshot>,
    standing: Arc<Standing>,
    members: Members,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let returned = path.strip_prefix(GRANT).and_then(|rest| rest.strip_prefix('/'));
    let allowed = match path {
        GRANT => Method::POST,
        RECORDS => Method::GET,
        _ if returned.is_some() => Method::DELETE,
        _ => return answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    };
    if head.method != allowed {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
        response.headers_mut().extend(HeaderValue::from_str(allowed.as_str()).ok().map(|allow| (ALLOW, allow)));
        return response;
    }
    let Ok(Ok(body)) = timeout(BODY_LIMIT, Limited::new(body, BODY).collect()).await else {
        return answer(StatusCode::BAD_REQUEST, TEXT, "the body is incomplete, late, or longer than 8 KiB\n");
    };
    let body = body.to_bytes();
    let Some(keys) = standing.keys.clone() else {
        // Nobody can know who asks, or sign for them.
        return refuse(Denial::NoKeys);
    };
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let nonce = header(keys::NONCE);
    let method = head.method.as_str();
    let message = Message::Request { method, path, deployment: &snapshot.config.deployment, nonce, body: &body };
    if nonce.len() != keys::NONCE_LENGTH || !keys.verify(message, header(keys::MAC)) {
        return answer(StatusCode::FORBIDDEN, TEXT, "not signed with a key of this deployment\n");
    }
    let signed = Signed { keys, nonce: nonce.to_owned() };
    let response = match returned {
        Some(id) => give_back(id, &members).await,
        None if allowed == Method::GET => told(&members),
        None => grant(&body, &members).await,
    };
    signed.sign(response).await
}

async fn grant(body: &[u8], members: &Members) -> Response<Full<Bytes>> {
    let Ok(ask::Question { id, record }) = serde_json::from_slice::<ask::Question>(body) else {
        return answer(StatusCode::BAD_REQUEST, TEXT, "not a question that this release understands\n");
    };
    if id != record.id || !record.fits() {
        return answer(StatusCode::BAD_REQUEST, TEXT, "not a record of this question\n");
    }
    let (reply, replied) = oneshot::channel();
    let question = Question::Grant { record: Box::new(record), reply };
    match put(question, replied, members).await {
        Some(Ok(())) => answer(StatusCode::OK, JSON, "{\"granted\":true}\n"),
        Some(Err(denial)) => refuse(denial),
        None => late(),
    }
}

async fn give_back(id: &str, members: &Members) -> Response<Full<Bytes>> {
    let (reply, replied) = oneshot::channel();
    match put(Question::Return { id: id.to_owned(), reply }, replied, members).await {
        Some(()) => answer(StatusCode::OK, JSON, "{}\n"),
        None => late(),
    }
}

fn told(members: &Members) -> Response<Full<Bytes>> {
    let told = members.records.borrow().told(&Stamp::now(&members.boot));
    // Strings and numbers: serialising cannot fail.
    answer(StatusCode::OK, JSON, serde_json::to_vec(&told).unwrap_or_default())
}

/// Hands a question to the task and waits for its reply; `None` when there is none in time.
async fn put<T>(question: Question, replied: oneshot::Receiver<T>, members: &Members) -> Option<T> {
    members.questions.try_send(question).ok()?;
    timeout(REPLY_LIMIT, replied).await.ok()?.ok()
}

fn refuse(refusal: Denial) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(&Refused { refusal }).unwrap_or_default();
    answer(StatusCode::CONFLICT, JSON, body)
}

fn late() -> Response<Full<Bytes>> {
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not written down in time\n")
}

impl Signed {
    async fn sign(&self, response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let (mut head, body) = response.into_parts();
        // The whole body is there: collecting it waits for nothing and cannot fail.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let message = Message::Answer { nonce: &self.nonce, status: head.status.as_u16(), body: &body };
        if let Ok(mac) = HeaderValue::try_from(self.keys.sign(message)) {
            head.headers.insert(keys::MAC, mac);
        }
        Response::from_parts(head, Full::new(body))
    }
}
