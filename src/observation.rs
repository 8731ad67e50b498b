//! The word between observing and deciding: what one attempt of one probe found.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::BootTime;
use crate::health::cause::Cause;

/// A thing that is probed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// A static page that nginx serves by itself.
    Nginx,
    /// The configured path of the site, through the same nginx.
    App,
    /// The EFS mount.
    Efs,
    /// The region's own database endpoint.
    Database,
    /// Local disks, memory, pressure.
    Host,
    /// Whether nginx really hands the health paths to this agent and the markers say what the agent says.
    Wiring,
    /// A custom program, by its name in the configuration.
    Exec(Arc<str>),
}

impl Component {
    /// The name used in configuration, logs, JSON and metric labels.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Nginx => "nginx",
            Self::App => "app",
            Self::Efs => "efs",
            Self::Database => "database",
            Self::Host => "host",
            Self::Wiring => "wiring",
            Self::Exec(name) => name,
        }
    }

    /// Whether the region depends on it, so that its failure on every member closes the region.
    #[must_use]
    pub const fn is_dependency(&self) -> bool {
        matches!(self, Self::Efs | Self::Database)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One attempt of one probe.
#[derive(Debug, Clone)]
pub struct Observation {
    pub component: Component,
    /// When the attempt began: a success counts from here, because what it saw may be that old.
    pub began: BootTime,
    pub took: Duration,
    pub outcome: Outcome,
    /// The stages it went through, in order; the last one of a failed attempt is where it failed.
    pub stages: Vec<Stage>,
    pub facts: Facts,
}

/// What an attempt found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// The cause's row in the table says how bad it is.
    Fail(Finding),
}

/// A cause with what a person needs to see of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub cause: Cause,
    /// One line: the address, the error, the number that crossed its limit. May name hosts: never on a public path.
    pub detail: String,
}

impl Finding {
    #[must_use]
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

/// A named step of an attempt and how long it took (or has taken, if the attempt ended in it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    pub name: &'static str,
    #[serde(serialize_with = "as_milliseconds", rename = "ms")]
    pub took: Duration,
}

/// Milliseconds with three decimals, the unit of every duration in the JSON.
pub(crate) fn as_milliseconds<S: serde::Serializer>(span: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64((span.as_secs_f64() * 1e6).round() / 1e3)
}

/// Records the stages of an attempt, outside of it: when the attempt is dropped at its deadline, the stage it was in is
/// still known.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<Stage>,
    current: Option<(&'static str, Instant)>,
}

impl Stages {
    /// Ends the current stage, if any, and begins `name`.
    pub fn enter(&mut self, name: &'static str) {
        self.leave();
        self.current = Some((name, Instant::now()));
    }

    /// Ends the current stage.
    pub fn leave(&mut self) {
        if let Some((name, began)) = self.current.take() {
            self.done.push(Stage { name, took: began.elapsed() });
        }
    }

    /// The stage the attempt is in, or was in when it was dropped.
    #[must_use]
    pub fn current(&self) -> Option<&'static str> {
        self.current.map(|(name, _)| name)
    }

    /// Adds a stage that was timed elsewhere (in a child process, in a relay).
    pub fn record(&mut self, name: &'static str, took: Duration) {
        self.leave();
        self.done.push(Stage { name, took });
    }

    /// All stages, the unfinished one last.
    #[must_use]
    pub fn finish(mut self) -> Vec<Stage> {
        self.leave();
        self.done
    }
}

/// What a probe learned beside pass or fail.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Facts {
    #[default]
    None,
    Nginx(NginxFacts),
    Efs(EfsFacts),
    Database(DatabaseFacts),
    Host(HostFacts),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NginxFacts {
    /// The master's process id, when the pid file names a live nginx master.
    pub master: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EfsFacts {
    /// Source as in `/proc/self/mountinfo`.
    pub source: String,
    pub fs_type: String,
    pub read_only: bool,
    /// The outstanding child, when one hangs: its pid and how long it has.
    pub hung_child: Option<u32>,
    pub hung_seconds: Option<u64>,
    /// The mount target accepted TCP when it was looked at because of the hang.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_accepts: Option<bool>,
}

/// Role facts proven by SQL on one connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DatabaseFacts {
    pub version: String,
    pub read_only: bool,
    /// `None` where the server has no such variable (MariaDB, MySQL before 5.7.8).
    pub super_read_only: Option<bool>,
    /// `@@server_uuid`, or `server_id@hostname:port` where it does not exist (MariaDB).
    pub server: String,
    /// `None` when replica status could not be read (a missing grant).
    pub replica: Option<Vec<ReplicaChannel>>,
    /// The cipher of the connection; `None` when it is not encrypted.
    pub tls: Option<String>,
}

/// One replication channel, from `SHOW REPLICA STATUS` (or its older spellings), read by column name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReplicaChannel {
    pub name: String,
    pub source: String,
    pub io_running: bool,
    pub sql_running: bool,
    pub lag_seconds: Option<u64>,
    pub error: Option<String>,
}

/// What SQL proves of an endpoint. `Superseded` and `Promoted` need the authority table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Primary,
    Replica,
    Ambiguous,
    Unreachable,
}

impl DatabaseFacts {
    /// How far the slowest replication channel is behind, as the server says.
    #[must_use]
    pub fn lag_seconds(&self) -> Option<u64> {
        self.replica.iter().flatten().filter_map(|channel| channel.lag_seconds).max()
    }

    /// The role these facts prove. `read_only` alone proves nothing: a primary may be set read-only by hand and a
    /// replica writable by mistake, and both are `Ambiguous`.
    #[must_use]
    pub fn role(&self) -> Role {
        let read_only = self.read_only || self.super_read_only == Some(true);
        match (&self.replica, read_only) {
            (Some(channels), false) if channels.is_empty() => Role::Primary,
            (Some(channels), true) if !channels.is_empty() => Role::Replica,
            _ => Role::Ambiguous,
        }
    }
}

impl Role {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Ambiguous => "ambiguous",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HostFacts {
    pub memory_available: u64,
    pub memory_total: u64,
    /// Pressure stall information, share of the last 60 s in which some task stalled, in percent.
    pub memory_pressure: Option<f64>,
    pub io_pressure: Option<f64>,
    pub disks: Vec<DiskFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DiskFacts {
    pub path: String,
    pub free_percent: f64,
    pub free_inodes_percent: Option<f64>,
    pub read_only: bool,
}
