//! Asks the running agent over its control socket.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use thiserror::Error;
use tokio::runtime;
use tokio::time::timeout;

use super::{ANSWER_LIMIT, Exit, ORDER_LIMIT, render};
use crate::observation::Stages;
use crate::probes::http::{self, Address, Request, exchange};
use crate::report::Report;

/// A history of thousands of entries is some hundred kilobytes.
const LONGEST: usize = 4 * 1024 * 1024;

/// Why the agent gave no answer.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("the agent is not running: nobody listens on `{0}`")]
    NotRunning(PathBuf),
    #[error("this user may not talk to the agent on `{0}`")]
    Permission(PathBuf),
    #[error("the agent does not answer on `{0}` within 1 s")]
    Silent(PathBuf),
    #[error("the agent gave no complete answer")]
    Broken(#[source] http::Error),
    #[error("cannot read the agent's answer")]
    Unreadable(#[source] serde_json::Error),
    #[error("{text}")]
    Refused { status: StatusCode, text: String, hint: String },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// An answer that is not the data asked for.
#[derive(Debug, Deserialize)]
struct Complaint {
    error: String,
    #[serde(default)]
    hint: String,
}

impl Error {
    /// Prints it with what to do about it.
    pub(super) fn show(&self) -> Exit {
        render::error(self);
        match self {
            Self::NotRunning(_) => {
                render::hint("start it: `systemctl start dr-agent`; `dr-agent check` works without it");
                Exit::NotRunning
            }
            Self::Permission(_) => {
                render::hint("run it as root or as a member of the group `dr-agent-admin`");
                Exit::Permission
            }
            Self::Silent(_) => {
                render::hint("see `systemctl status dr-agent` and `journalctl -u dr-agent`");
                Exit::NotRunning
            }
            Self::Refused { status, hint, .. } => {
                if !hint.is_empty() {
                    render::hint(hint);
                }
                if status.is_client_error() { Exit::Usage } else { Exit::NotRunning }
            }
            Self::Broken(_) | Self::Unreadable(_) | Self::Runtime(_) => {
                render::hint("is the agent of another version? restart it: `systemctl restart dr-agent`");
                Exit::NotRunning
            }
        }
    }
}

/// Runs one exchange to its end.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?.block_on(work)
}

/// One request; the body of a 2xx answer.
pub(super) async fn ask(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, Error> {
    let limit = match path {
        "/authority" => super::authority::LIMIT,
        _ if method == Method::GET => ANSWER_LIMIT,
        _ => ORDER_LIMIT,
    };
    let request = Request { method, body: body.into(), keep: LONGEST, ..Request::get("dr-agent", path) };
    let address = Address::Unix(socket.to_owned());
    let mut stages = Stages::default();
    let answer = match timeout(limit, exchange(&address, request, &mut stages)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(http::Error::Connect(error))) => {
            return Err(match error.kind() {
                io::ErrorKind::PermissionDenied => Error::Permission(socket.to_owned()),
                _ => Error::NotRunning(socket.to_owned()),
            });
        }
        Ok(Err(error)) => return Err(Error::Broken(error)),
        Err(_) => return Err(Error::Silent(socket.to_owned())),
    };
    if answer.status.is_success() {
        return Ok(answer.body);
    }
    let complaint = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| Complaint { error: format!("the agent answers {}", answer.status), hint: String::new() });
    Err(Error::Refused { status: answer.status, text: complaint.error, hint: complaint.hint })
}

/// The running agent's report.
pub(super) async fn report(socket: &Path) -> Result<Report, Error> {
    let body = ask(socket, Method::GET, "/status", Vec::new()).await?;
    serde_json::from_slice(&body).map_err(Error::Unreadable)
}
