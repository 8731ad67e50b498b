//! The control socket, in JSON: `GET /status`, `GET /records` (of replaced instances of the group), `GET /history?since=TIME&until=TIME` (RFC 3339), and the latches:
//! `PUT /latch/drain` and `/latch/hold` with `{"reason": TEXT, "seconds": N, "force": BOOL}`, `/latch/drill` also with
//! `"component": NAME, "shared": BOOL`, `DELETE` of the same.
//!
//! `GET /authority` says who owns the data and why; `POST` of an order ([`authority::run::Order`]) asks to change it.
//!
//! `seconds` left out is an hour for a drain, 10 minutes for a drill, no end for a hold; `null` is until the machine reboots
//! (a drill always ends). Answers other
//! than 200 are `{"error": TEXT, "hint": TEXT}`; 409 is an order that may not be carried out, 503 one that could not.

mod latch;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::latch::{Order, Seen, plan};
use super::server::{Limits, serve};
use super::{CONTROL_MODE, ControlSocket, JSON, answer, bind_unix};
use crate::authority;
use crate::authority::run::{No, Question};
use crate::clock::{self, BootTime, Stamp};
use crate::input::Input;
use crate::latches::{self, Kind, Latch, Latches};
use crate::replace::records::Records;
use crate::report::Report;
use crate::snapshot::{HistoryEntry, Snapshot};
use crate::telemetry::{ErrorChain, event};

/// What helps whoever was refused an order about authority.
const REFUSED_HINT: &str =
    "`dr-agent authority show` says how things stand; `dr-agent check` why a database cannot be read";

/// People and their scripts.
const CONNECTIONS: usize = 32;

/// In seconds; longer than all limits of an order together.
const PATIENCE: u32 = 10;

/// A reason is a sentence.
const LONGEST_BODY: usize = 8 * 1024;

const BODY_LIMIT: Duration = Duration::from_secs(2);

/// Writing a latch file. A healthy disk takes milliseconds.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// What is under way when the order comes, then two rounds of all sources (2 s each) with a proof (5 s) and a claim (2 s)
/// between them, and what follows from it.
const ORDER_LIMIT: Duration = Duration::from_secs(18);

/// The owner turns at once.
const EFFECT_LIMIT: Duration = Duration::from_secs(1);

/// What orders need.
#[derive(Debug)]
pub struct Control {
    pub state_dir: PathBuf,
    /// The kernel's id of this boot, which latches end with.
    pub boot: String,
    pub inputs: mpsc::Sender<Input>,
    /// Of replaced instances of the group.
    pub records: watch::Receiver<Arc<Records>>,
    /// To whoever decides about the owner of the data.
    pub orders: mpsc::Sender<Question>,
}

impl ControlSocket {
    /// Answers until `cancelled`.
    pub async fn serve(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        control: Control,
        cancelled: CancellationToken,
    ) {
        let shared = Arc::new(Shared { snapshots, control, writing: Arc::new(Semaphore::new(1)) });
        let service = |stream: &UnixStream| {
            let uid = stream.peer_cred().map(|asker| asker.uid()).ok();
            Orders { shared: Arc::clone(&shared), uid }
        };
        let Self { path, socket } = self;
        let Some(listener) = socket.bound(|| bind_unix(&path, CONTROL_MODE), &cancelled).await else { return };
        serve(listener, Limits::new(CONNECTIONS, PATIENCE), service, || {}, cancelled).await;
    }
}

struct Shared {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    control: Control,
    /// One write at a time, also one that hangs: a dead disk costs one thread.
    writing: Arc<Semaphore>,
}

/// Serves one connection; `uid` is who is at its other end, by the kernel's word.
struct Orders {
    shared: Arc<Shared>,
    uid: Option<u32>,
}

impl Service<Request<Incoming>> for Orders {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (shared, uid) = (Arc::clone(&self.shared), self.uid);
        Box::pin(async move { Ok(shared.answer(request, uid).await.unwrap_or_else(Refusal::into_response)) })
    }
}

#[derive(Debug, Serialize)]
struct Done {
    /// The latch as it now stands, or the one that was ended; `null` if there was none.
    latch: Option<Latch>,
    /// Other instances that answer healthy, when the agent knows.
    others: Option<usize>,
}

/// Why an order is not carried out.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    error: String,
    hint: &'static str,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>, hint: &'static str) -> Self {
        Self { status, error: error.into(), hint }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let body = serde_json::json!({ "error": self.error, "hint": self.hint });
        let mut response = answer(self.status, JSON, format!("{body}\n"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            // The hint is the list.
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(self.hint));
        }
        response
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, uid: Option<u32>) -> Result<Response<Full<Bytes>>, Refusal> {
        let only = |methods| Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", methods);
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/status" if is_get => json(&Report::live(&self.snapshot(), BootTime::now())),
            "/history" if is_get => {
                let (since, until) = window(request.uri().query().unwrap_or_default())?;
                let snapshot = self.snapshot();
                let in_window = |entry: &&HistoryEntry| {
                    since.is_none_or(|since| since <= entry.at) && until.is_none_or(|until| entry.at <= until)
                };
                json(&snapshot.history.iter().filter(in_window).collect::<Vec<_>>())
            }
            "/records" if is_get => json(&self.control.records.borrow().told(&Stamp::now(&self.control.boot))),
            "/failovers" if is_get => {
                let snapshot = self.snapshot();
                let ledger = snapshot.authority.as_deref().map_or(&snapshot.state.ledger, |said| &said.ledger);
                json(&ledger.failovers)
            }
            "/status" | "/history" | "/records" | "/failovers" => Err(only("GET, HEAD")),
            "/authority" if is_get => self.order(authority::run::Order::Show, uid).await,
            "/authority" if *request.method() == Method::POST => {
                let order = serde_json::from_slice(&body(request).await?);
                let bad = |error: serde_json::Error| {
                    Refusal::new(StatusCode::BAD_REQUEST, error.to_string(), "use the `dr-agent` command")
                };
                self.order(order.map_err(bad)?, uid).await
            }
            "/authority" => Err(only("GET, HEAD, POST")),
            path => {
                let kind = path.strip_prefix("/latch/");
                let Some(kind) = kind.and_then(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name)) else {
                    return Err(Refusal::new(StatusCode::NOT_FOUND, "no such path", "see `dr-agent --help`"));
                };
                match *request.method() {
                    Method::PUT => self.set(kind, &body(request).await?, uid).await,
                    Method::DELETE => self.clear(kind, uid).await,
                    _ => Err(only("PUT, DELETE")),
                }
            }
        }
    }

    /// Asks whoever decides about the owner of the data.
    async fn order(&self, order: authority::run::Order, uid: Option<u32>) -> Result<Response<Full<Bytes>>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let by_whom = spawn_blocking(move || who(uid)).await.unwrap_or_else(|_| "somebody".to_owned());
        let asked = async {
            // Whoever decides is gone only when the agent is ending.
            drop(self.control.orders.send(Question { order, by_whom, reply }).await);
            answer.await
        };
        match timeout(ORDER_LIMIT, asked).await {
            Ok(Ok(Ok(value))) => json(&value),
            Ok(Ok(Err(No { is_refusal: true, error }))) => Err(Refusal::new(StatusCode::CONFLICT, error, REFUSED_HINT)),
            Ok(Ok(Err(No { error, .. }))) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, REFUSED_HINT)),
            Ok(Err(_)) | Err(_) => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "nobody answered in time; it may have been done all the same",
                REFUSED_HINT,
            )),
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    async fn set(&self, kind: Kind, body: &[u8], uid: Option<u32>) -> Result<Response<Full<Bytes>>, Refusal> {
        let order = serde_json::from_slice::<Order>(body)
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string(), "use the `dr-agent` command"))?;
        let seen = Seen::of(&self.snapshot());
        let latch = plan(kind, &order, &seen, &self.control.boot, (BootTime::now(), clock::wall()))?;
        let dir = self.control.state_dir.clone();
        let latches =
            self.write(kind, uid, "set", move |by| latches::set(&dir, &Latch { by: by.to_owned(), ..latch })).await?;
        let latch = latches.get(kind).cloned();
        self.put_in_force(kind, latches).await?;
        json(&Done { latch, others: Some(seen.others) })
    }

    async fn clear(&self, kind: Kind, uid: Option<u32>) -> Result<Response<Full<Bytes>>, Refusal> {
        let dir = self.control.state_dir.clone();
        let latch = self.snapshot().latches.get(kind).cloned();
        let latches = self.write(kind, uid, "clear", move |_| latches::clear(&dir, kind)).await?;
        self.put_in_force(kind, latches).await?;
        json(&Done { latch, others: Some(Seen::of(&self.snapshot()).others) })
    }

    /// Changes the files off the runtime, for whoever `uid` is, and reads them back.
    async fn write(
        &self,
        kind: Kind,
        uid: Option<u32>,
        verb: &'static str,
        change: impl FnOnce(&str) -> io::Result<()> + Send + 'static,
    ) -> Result<Latches, Refusal> {
        let failed = |error| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, "is the disk of the state directory full or hung?")
        };
        let slow = || failed(format!("the latch could not be written within {} s", WRITE_LIMIT.as_secs()));
        let (dir, boot) = (self.control.state_dir.clone(), self.control.boot.clone());
        let before = self.snapshot().latches.clone();
        let writing = Arc::clone(&self.writing);
        let work = async move {
            let Ok(turn) = writing.acquire_owned().await else { return Ok(Latches::default()) };
            let write = move || {
                let _turn = turn;
                let by = who(uid);
                event::latch_ordered(kind, verb, uid, &by);
                change(&by).map(|()| latches::read(&dir, &boot, BootTime::now(), clock::wall(), &before).0)
            };
            spawn_blocking(write).await.map_err(io::Error::other).flatten()
        };
        match timeout(WRITE_LIMIT, work).await {
            Ok(result) => result.map_err(|error| failed(format!("cannot write the latch: {}", ErrorChain(&error)))),
            Err(_) => Err(slow()),
        }
    }

    /// Gives the latches to the owner and waits until the answers obey them.
    async fn put_in_force(&self, kind: Kind, latches: Latches) -> Result<(), Refusal> {
        let mut snapshots = self.snapshots.clone();
        let effect = async {
            let wanted = latches.get(kind).cloned();
            // Without an owner the agent is ending; the file stays.
            drop(self.control.inputs.send(Input::Latches(latches)).await);
            drop(snapshots.wait_for(|snapshot| snapshot.latches.get(kind) == wanted.as_ref()).await);
        };
        timeout(EFFECT_LIMIT, effect).await.map_err(|_| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the latch is written, but not yet in force",
                "see `dr-agent status`",
            )
        })
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let refuse = |error: &str| Refusal::new(StatusCode::BAD_REQUEST, error, "use the `dr-agent` command");
    match timeout(BODY_LIMIT, Limited::new(request.into_body(), LONGEST_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(refuse("the body is incomplete or longer than 8 KiB")),
        Err(_) => Err(refuse("the body did not come in time")),
    }
}

/// The bounds in a query string; both are included.
fn window(query: &str) -> Result<(Option<Timestamp>, Option<Timestamp>), Refusal> {
    let (mut since, mut until) = (None, None);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let bound = match name {
            "since" => &mut since,
            "until" => &mut until,
            _ => continue,
        };
        let value = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+").replace("%2b", "+");
        let parsed = value.parse().map_err(|error: jiff::Error| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("`{name}`: {error}"),
                "a time is written like 2026-11-25T03:00:00Z",
            )
        })?;
        *bound = Some(parsed);
    }
    Ok((since, until))
}

/// The user's name, or its number.
fn who(uid: Option<u32>) -> String {
    let Some(uid) = uid else { return "somebody".to_owned() };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_name(&users, uid).map_or_else(|| format!("uid {uid}"), str::to_owned)
}

fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

fn json(value: &impl Serialize) -> Result<Response<Full<Bytes>>, Refusal> {
    let mut text = serde_json::to_vec(value)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "this is a bug"))?;
    text.push(b'\n');
    Ok(answer(StatusCode::OK, JSON, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_be_written_with_escapes() {
        let (since, until) = window("since=2026-11-25T03%3A00%3A00%2B05:30&x=y").unwrap();
        assert_eq!(since.unwrap().to_string(), "2026-11-24T21:30:00Z");
        assert_eq!(until, None);
        assert_eq!(window("until=yesterday").unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_user_is_named() {
        assert_eq!(user_name("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\n", 1000), Some("ann"));
        assert_eq!(user_name("root:x:0:0::/root:/bin/sh\n", 100), None);
    }
}
