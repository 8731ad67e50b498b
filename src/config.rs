//! The configuration in force: typed, validated, for one region. [`load`] makes it from the file.

mod address;
pub mod load;
mod raw;
pub mod show;
mod validate;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::health::component::Schedule;
use crate::health::verdict::Policy;
use crate::replace::plan::ReplacePolicy;

/// The port of a database where none is given.
const MYSQL_PORT: u16 = 3306;

/// Everything the agent was told, with defaults filled in and the region's own values picked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Names this deployment in both regions.
    pub deployment: String,
    /// The region with Route 53's PRIMARY record.
    pub home: Option<String>,
    /// The region this instance is in; `None` when nobody could tell.
    pub region: Option<String>,
    /// The keys by which agents of this deployment know each other.
    pub key_file: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub listen: Listen,
    pub nginx: NginxProbe,
    pub app: Option<AppProbe>,
    pub efs: Option<EfsProbe>,
    pub database: Option<DatabaseProbe>,
    pub host: HostProbe,
    /// The markers are looked at always; the rest by its `hosts`.
    pub wiring: WiringProbe,
    pub exec: BTreeMap<String, ExecProbe>,
    pub policy: Policy,
    pub replace: ReplacePolicy,
    /// Only in a deployment of two regions that names their order.
    pub authority: Option<Authority>,
    pub repoint: Repoint,
    /// Networks that may read `/metrics` on the peer listener, beside loopback.
    pub metrics_allow: Vec<Network>,
    /// The CloudWatch namespace of this deployment's metrics; without it nothing is sent there.
    pub cloudwatch: Option<String>,
    /// `url` of every region, for whoever asks the other one.
    pub regions: BTreeMap<String, Region>,
    /// `RELEASE:DIGEST` of what the file means, the same in both regions; `None` without a `home`. Only digests of one
    /// release can be compared.
    pub digest: Option<String>,
}

/// Where the three listeners are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub public: PublicAddress,
    pub peer: SocketAddr,
    pub control: PathBuf,
}

/// The public listener is a unix socket that nginx connects to, or a loopback port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicAddress {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// An address prefix, as in `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

/// How the two regions agree on who owns the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Both regions; the order fixes which of them has odd epochs.
    pub regions: [String; 2],
    /// One round of all sources.
    pub poll: Duration,
    /// How long the first decision of a boot may wait for all sources.
    pub boot_wait: Duration,
    /// How long a new owner waits for the old one to close.
    pub takeover_wait: Duration,
}

/// How the app learns which database to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repoint {
    pub apply: Apply,
    pub verify: Verify,
    pub outputs: Vec<Output>,
}

/// What makes the app read its outputs again: this, done to a systemd unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Apply {
    Reload(String),
    Restart(String),
    #[default]
    Nothing,
}

/// What proves that the app reaches its writer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verify {
    /// A login on the app's path, to a server that takes writes.
    #[default]
    Sql,
    /// A connection to the writer.
    Tcp,
    /// A page of the app on this machine.
    Http(HttpUrl),
}

/// One file that says which database to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub format: Format,
    pub path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `KEY=value` lines, for shells, systemd and containers.
    Env,
    Json,
    /// Server block of the database proxy, which listens on this loopback address.
    Proxy(SocketAddr),
}

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// A name, or an address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

/// The values of one `[region.NAME]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Region {
    pub database: Option<String>,
    pub efs: Option<String>,
    pub url: Option<String>,
}

impl Region {
    /// Where the region's database is.
    #[must_use]
    pub fn database_at(&self) -> Option<HostPort> {
        let (host, port) = address::host_and_port(self.database.as_deref()?).ok()?;
        Some(HostPort { host, port: port.unwrap_or(MYSQL_PORT) })
    }
}

/// An `http://` URL to a numeric loopback address or a host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// As in the file, for people.
    pub text: String,
    /// Host without port; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NginxProbe {
    pub schedule: Schedule,
    pub url: HttpUrl,
    /// Where nginx writes its master's process id.
    pub pid_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AppProbe {
    pub schedule: Schedule,
    pub url: HttpUrl,
    /// The `Host` header; the URL's own host without it.
    pub host: Option<String>,
    /// Inclusive ranges of accepted status codes.
    pub status: Vec<(u16, u16)>,
    /// Text that the body's first 64 KiB must contain.
    pub body: Option<String>,
    /// An answer that takes longer is `degraded`.
    pub latency_limit: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EfsProbe {
    pub schedule: Schedule,
    /// The mount point.
    pub path: PathBuf,
    /// The region's file system id (`fs-...`); without it the source is not compared.
    pub file_system: Option<String>,
    /// Accepted file system types in mountinfo.
    pub types: Vec<String>,
    /// This region only reads: the canary is not written.
    pub read_only: bool,
    /// An attempt that takes longer is `degraded`.
    pub latency_limit: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseProbe {
    pub schedule: Schedule,
    /// Pace of the fresh connection.
    pub fresh_interval: Duration,
    pub fresh_timeout: Duration,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password_file: Option<PathBuf>,
    /// PEM bundle of the authorities that may sign the server's certificate; `None`: the connection is not encrypted.
    pub tls_ca: Option<PathBuf>,
    /// A query that takes longer is `degraded`.
    pub latency_limit: Duration,
    /// A replica further behind is `degraded`.
    pub lag_limit: Duration,
    /// The app writes to this endpoint: read-only is a fault.
    pub writer_expected: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HostProbe {
    pub schedule: Schedule,
    /// Local directories whose file systems are watched.
    pub paths: Vec<PathBuf>,
    /// Free space or inodes below this share are `degraded`.
    pub low_percent: f64,
    /// Free space or inodes below this share are `unhealthy`.
    pub full_percent: f64,
    /// Pressure stall share over 60 s, in percent, above which the host is `degraded`.
    pub pressure_percent: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WiringProbe {
    pub schedule: Schedule,
    /// Where nginx listens, as the load balancer reaches it.
    pub address: SocketAddr,
    /// Host headers to ask with. None without a configuration file: nobody said that nginx was set up for the agent, and
    /// only the markers are looked at.
    pub hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecProbe {
    pub schedule: Schedule,
    pub command: Vec<String>,
}

/// What applies without a file: nginx and the host are watched, nothing else is known.
#[must_use]
pub fn defaults() -> Config {
    // An empty file has no mistakes. Only a person can say that nginx was wired to the agent.
    let mut config = validate::config(&raw::Source::new(""), &DeTable::new(), None);
    config.wiring.hosts.clear();
    config
}
