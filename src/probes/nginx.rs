//! nginx: a static page that nginx serves by itself, over a fresh connection, and whether its master process is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::LOCATION;
use tokio::time::timeout;

use crate::config::NginxProbe;
use crate::health::cause::Cause;
use crate::observation::{Facts, Finding, NginxFacts, Outcome, Stages};
use crate::probes::Probe;
use crate::probes::blocking::Lane;
use crate::probes::http::{self, Address, Answer, Fault, Request};
use crate::telemetry::ErrorChain;

/// What the probe page says. `packaging/nginx` holds the other copy.
pub const PAGE: &[u8] = b"dr-agent nginx\n";

/// Looks at files, one at a time.
static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// The probe.
#[derive(Debug)]
pub struct Nginx {
    address: Address,
    host: String,
    path: String,
    pid_file: PathBuf,
    /// What one look at the master may take, of which an attempt that is refused makes three. It takes microseconds,
    /// unless a disk hangs.
    look_limit: Duration,
    /// The master as last seen: a clean stop removes the pid file.
    remembered: Option<u32>,
    master: Master,
}

/// What is known of nginx's master process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Master {
    Lives(u32),
    Gone,
    /// There is no pid file, and there never was one for this probe.
    NoPidFile,
    /// The pid file or `/proc` does not tell.
    Unknown,
}

impl Nginx {
    #[must_use]
    pub fn new(probe: &NginxProbe) -> Self {
        Self {
            address: (&probe.url).into(),
            host: http::host_header(&probe.url),
            path: probe.url.path.clone(),
            pid_file: probe.pid_file.clone(),
            look_limit: probe.schedule.timeout / 4,
            remembered: None,
            master: Master::Unknown,
        }
    }

    async fn look(&mut self) {
        let (pid_file, remembered) = (self.pid_file.clone(), self.remembered);
        self.master = self.look_limited(move || master(&pid_file, remembered)).await;
        if let Master::Lives(pid) = self.master {
            self.remembered = Some(pid);
        }
    }

    async fn look_limited(&self, look: impl FnOnce() -> Master + Send + 'static) -> Master {
        match timeout(self.look_limit, LANE.run(look)).await {
            Ok(Ok(master)) => master,
            _ => Master::Unknown,
        }
    }

    /// Connections are refused: is that because nobody is there?
    async fn refused(&mut self, detail: String) -> Finding {
        self.look().await;
        if self.master == Master::NoPidFile {
            self.master = self.look_limited(|| if any_master() { Master::Unknown } else { Master::Gone }).await;
        }
        let cause = if self.master == Master::Gone { Cause::NginxMasterGone } else { Cause::NginxRefused };
        Finding::new(cause, detail)
    }
}

impl Probe for Nginx {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        self.look().await;
        let request = Request::get(&self.host, &self.path);
        let error = match http::exchange(&self.address, request, stages).await {
            Ok(answer) => return judge(&answer),
            Err(error) => error,
        };
        let detail = ErrorChain(&error).to_string();
        Outcome::Fail(match error.fault() {
            Fault::Refused => self.refused(detail).await,
            Fault::Broken => Finding::new(Cause::NginxBadStatus, detail),
            Fault::Endless => Finding::new(Cause::NginxTimeout, detail),
            Fault::Unreachable | Fault::Asker => Finding::new(Cause::CouldNotRun, detail),
        })
    }

    async fn overdue(&mut self, stages: &Stages) -> Finding {
        match stages.current() {
            Some("connect") => Finding::new(Cause::NginxTimeout, "no connection in time: is the accept queue full?"),
            Some("headers") => Finding::new(Cause::NginxTimeout, "connected, but no answer came in time"),
            Some("body") => Finding::new(Cause::NginxTimeout, "an answer began, but did not end in time"),
            _ => Finding::new(Cause::CouldNotRun, "the name of the probe's address was not resolved in time"),
        }
    }

    fn facts(&self) -> Facts {
        let master = match self.master {
            Master::Lives(pid) => Some(pid),
            _ => None,
        };
        Facts::Nginx(NginxFacts { master })
    }
}

/// A complete answer: the probe's own page, an error, or somebody else's.
fn judge(answer: &Answer) -> Outcome {
    let status = answer.status;
    if status == StatusCode::OK && answer.body == PAGE {
        return Outcome::Pass;
    }
    if status.is_server_error() {
        return Outcome::Fail(Finding::new(Cause::NginxBadStatus, status.to_string()));
    }
    let detail = match answer.headers.get(LOCATION) {
        Some(to) => format!("{status} to {}", String::from_utf8_lossy(to.as_bytes())),
        None => format!("{status} with {} bytes that are not the probe page", answer.body.len()),
    };
    Outcome::Fail(Finding::new(Cause::NginxForeignAnswer, detail))
}

fn master(pid_file: &Path, remembered: Option<u32>) -> Master {
    let pid = match fs::read_to_string(pid_file) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match remembered {
            Some(pid) => Some(pid),
            None => return Master::NoPidFile,
        },
        Err(_) => None,
    };
    match pid {
        Some(pid) if is_master(&pid.to_string()) => Master::Lives(pid),
        // With `hidepid` every process but our own looks gone.
        Some(_) if Path::new("/proc/1").exists() => Master::Gone,
        _ => Master::Unknown,
    }
}

/// Whether any nginx runs on this machine, for instance the database proxy.
fn any_master() -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| process.file_name().to_str().is_some_and(is_master))
}

/// A pid that was given to another process meanwhile is not the master.
fn is_master(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"nginx: master process"))
}
