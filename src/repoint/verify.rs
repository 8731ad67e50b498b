//! Does the app reach its writer? Asked on the way that the app takes: by a login at the writer, or at the database proxy,
//! which accepts before it connects; by a connection; or by a page of the app.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::LazyLock;
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Config, DatabaseProbe, Format, HostPort, HttpUrl, Verify};
use crate::observation::{DatabaseFacts, Finding, Stages};
use crate::probes::blocking::Lane;
use crate::probes::database;
use crate::probes::http::{self, Request};

/// One way, whatever it takes.
const LIMIT: Duration = Duration::from_secs(3);

/// A name that is not resolved by then is not resolved.
const RESOLVE: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// This server, by its identity, takes writes and is no replica.
    Sql { server: String },
    /// It accepts connections.
    Tcp,
    /// The app answered so.
    Http { status: u16 },
}

/// Why the app is not known to reach its writer.
#[derive(Debug, Error)]
pub enum NotVerified {
    #[error("there is no account to log in with: [probe.database] is missing")]
    NoAccount,
    #[error("cannot resolve `{host}`")]
    Resolve {
        host: String,
        #[source]
        error: io::Error,
    },
    #[error("no answer within {} s", LIMIT.as_secs())]
    Late,
    #[error("{}: {}", .0.cause.row().words, .0.detail)]
    Login(Finding),
    #[error("the server `{0}` is read-only")]
    ReadOnly(String),
    #[error("the server `{0}` is a replica")]
    Replica(String),
    #[error("whether the server `{0}` is a replica may not be seen")]
    Unclear(String),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the app does not answer")]
    App(#[source] http::Error),
    #[error("the app answers {0}")]
    Status(StatusCode),
}

/// Looks whether the app reaches `writer`, as the configuration says.
///
/// # Errors
/// The first thing that speaks against it.
pub async fn verify(config: &Config, writer: &HostPort) -> Result<Seen, NotVerified> {
    let look = async {
        match &config.repoint.verify {
            Verify::Sql => sql(config, writer).await,
            Verify::Tcp => {
                let addresses = resolve(writer).await?;
                TcpStream::connect(&addresses[..]).await.map_err(NotVerified::Connect)?;
                Ok(Seen::Tcp)
            }
            Verify::Http(url) => app(url).await,
        }
    };
    timeout(LIMIT, look).await.unwrap_or(Err(NotVerified::Late))
}

/// Logs in on each way that an output leads the app.
async fn sql(config: &Config, writer: &HostPort) -> Result<Seen, NotVerified> {
    let account = config.database.as_ref().ok_or(NotVerified::NoAccount)?;
    // The certificate is the writer's on either way.
    let account = DatabaseProbe { host: writer.host.clone(), port: writer.port, ..account.clone() };
    let mut server = String::new();
    let mut direct = false;
    for output in &config.repoint.outputs {
        let addresses = match output.format {
            Format::Proxy(listen) => vec![listen],
            // All other outputs lead to the same place.
            Format::Env | Format::Json if direct => continue,
            Format::Env | Format::Json => {
                direct = true;
                resolve(writer).await?
            }
        };
        server = judge(database::look(&account, &addresses).await.map_err(NotVerified::Login)?)?;
    }
    Ok(Seen::Sql { server })
}

/// The identity of a server that takes writes.
fn judge(facts: DatabaseFacts) -> Result<String, NotVerified> {
    match facts.replica.as_deref() {
        _ if facts.read_only || facts.super_read_only == Some(true) => Err(NotVerified::ReadOnly(facts.server)),
        Some([]) => Ok(facts.server),
        Some(_) => Err(NotVerified::Replica(facts.server)),
        None => Err(NotVerified::Unclear(facts.server)),
    }
}

async fn app(url: &HttpUrl) -> Result<Seen, NotVerified> {
    let host = http::host_header(url);
    let answer = http::exchange(&url.into(), Request::get(&host, &url.path), &mut Stages::default()).await;
    let status = answer.map_err(NotVerified::App)?.status;
    if status.is_success() || status.is_redirection() {
        Ok(Seen::Http { status: status.as_u16() })
    } else {
        Err(NotVerified::Status(status))
    }
}

/// Where the writer's name leads now. A resolver that hangs costs one thread, however often it is asked.
///
/// # Errors
/// When it leads nowhere, or nobody says so in time.
pub async fn resolve(at: &HostPort) -> Result<Vec<SocketAddr>, NotVerified> {
    static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);
    resolve_in(&LANE, at).await
}

/// The same for a name that the app does not write to any more: whoever waits for the writer's does not wait for it.
///
/// # Errors
/// As for [`resolve`].
pub async fn resolve_left(at: &HostPort) -> Result<Vec<SocketAddr>, NotVerified> {
    static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);
    resolve_in(&LANE, at).await
}

async fn resolve_in(lane: &Lane, at: &HostPort) -> Result<Vec<SocketAddr>, NotVerified> {
    let HostPort { host, port } = at.clone();
    let search = lane.run(move || (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>));
    let found = match timeout(RESOLVE, search).await {
        Ok(found) => found.map_err(io::Error::other).flatten(),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    found.map_err(|error| NotVerified::Resolve { host: at.host.clone(), error })
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql { server } => {
                write!(f, "a login on the app's way reached the server `{server}`, which takes writes")
            }
            Self::Tcp => write!(f, "the writer accepts connections"),
            Self::Http { status } => write!(f, "the app answers {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::ReplicaChannel;

    #[test]
    fn only_a_server_that_takes_writes_is_the_writer() {
        let facts = || DatabaseFacts { server: "s".to_owned(), replica: Some(Vec::new()), ..DatabaseFacts::default() };
        let writable = DatabaseFacts { read_only: false, ..facts() };
        assert_eq!(judge(writable.clone()).unwrap(), "s");
        let judged = |facts| judge(facts).unwrap_err();
        assert!(matches!(judged(DatabaseFacts { read_only: true, ..writable.clone() }), NotVerified::ReadOnly(_)));
        let locked = DatabaseFacts { super_read_only: Some(true), ..writable.clone() };
        assert!(matches!(judged(locked), NotVerified::ReadOnly(_)));
        let replica = DatabaseFacts { replica: Some(vec![ReplicaChannel::default()]), ..writable.clone() };
        assert!(matches!(judged(replica), NotVerified::Replica(_)));
        assert!(matches!(judged(DatabaseFacts { replica: None, ..writable }), NotVerified::Unclear(_)));
    }
}
