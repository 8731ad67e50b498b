//! PUBLISH, for people: everything that is known at one moment, in one versioned JSON shape. `dr-agent status` gets it
//! from the control socket, `dr-agent check` makes its own; `--format json` prints it as it is.
//!
//! ```text
//! schema      1. Rises when a field changes its meaning or goes away; new fields may come at any time.
//! kind        "live": the agent's running state. "check": one look at everything, judged as by an agent that starts now
//! at          when this was written; every time is RFC 3339 in UTC
//! agent       version, instance, region, deployment, boot; of a live report: generation, age_ms (of the snapshot);
//!             of a check: probed_as (the user); config_problems (one line each)
//! components  name, status, since, domain, cause, words (the cause in words), detail, hint (what to do),
//!             stages [{name, ms}] and took_ms of the newest attempt, last_ok_age_ms, last_fail_age_ms, failures (in a
//!             row), target (what exactly is probed), facts (what else was learned, by kind of component)
//! verdicts    instance {code, state, since, reasons [{component, cause}], can_serve}
//!             region {code, state, since, holds [{on, since_seconds, due_in_seconds}], reopens_in_seconds}
//!             promoted {code, state}
//! latches     kind, reason, by, at, until, clear (the command), file (removing it clears it too)
//! lifecycle   where Auto Scaling and EC2 take the instance: target, spot {action, time}, rebalance; absent while
//!             nothing is known
//! gate        "open", or "closed" while users get the fence page
//! acts        who acts on each verdict as it is, in one sentence: instance, region, promoted, replacement
//! replacement plan (nothing, refused, repair, wait, look, ask, go, marked), refusals (by name), words (the plan in one
//!             sentence), enforce, would (how often it would have been replaced while that was only observed)
//! works       what this configuration makes work
//! missing     what it lacks: what, costs, fix
//! certificates  of the regions' names: region, host, expires, problem (why a client would refuse it)
//! group       the other members, if there are any: name (of the Auto Scaling group), asked_age_ms, members [{instance,
//!             in_my_zone, state (its own verdict), silence (why it has no word), votes {component: healthy, failing or
//!             abstains}}]
//! authority   of a live report where two regions agree on who owns the data: state, since, role, region, other, known and
//!             own {epoch, region}, promoted, standby_ready, why, alarms, problems, claim, lag {seconds, by}, repoint (lines),
//!             readiness {ready, items [{name, ok, words, needed}], sentence} of the region that is not the owner, notice
//!             {happened, since, lost, next} when something is wrong, failover (the last change of the owner)
//! aws         of a live report: calls [{action, result, count}] since the agent's start. Of a check: identity [{what, value,
//!             from}], role, credentials (accepted, none, expired or {refused: CODE}), permissions [{action, result,
//!             statement, words}], group (its settings), findings [{level, what, costs, hint}], policy (only when
//!             the role lacks something), silence (why the metadata service said nothing)
//! bootstrap   what the newest bootstrap of this boot came to, if there was one: began, ended (null while it runs), items
//!             [{name, status, words, hint}] (while it runs, of the one before); added by the command that prints the report
//! live        only in a check: the running agent's own report, if it answered
//! held        only in a check that found no agent: what nginx answers meanwhile: instance, region, promoted (codes),
//!             and the markers that stand
//! ```

mod acts;
pub mod authority;
pub mod aws;
pub mod items;
pub mod members;
mod prospects;
#[cfg(test)]
pub(crate) mod sample;
mod verdicts;

use std::time::Duration;

pub use acts::Acts;
pub use prospects::Missing;
pub use verdicts::{Hold, Instance, Promoted, Reason, Region, Verdicts};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Record;
use crate::certificates::Certificate;
use crate::clock::{self, BootTime};
use crate::config::Config;
use crate::health::cause::Status;
use crate::health::component::ComponentState;
use crate::health::verdict::{Domain, InstanceState, InstanceVerdict, RegionVerdict};
use crate::identity::lifecycle::Lifecycle;
use crate::latches::{self, Latches};
use crate::observation::Facts;
use crate::outputs::markers::Markers;
use crate::replace::outlook::Outlook;
use crate::snapshot::{About, STALE_AFTER, Snapshot};

/// The version of the shape.
pub const SCHEMA: u32 = 1;

/// See the module's page for what the fields mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    pub kind: Kind,
    pub at: Timestamp,
    pub agent: Agent,
    pub components: Vec<Component>,
    pub verdicts: Verdicts,
    pub latches: Vec<Latch>,
    #[serde(default, skip_serializing_if = "is_nowhere")]
    pub lifecycle: Lifecycle,
    pub gate: Gate,
    pub acts: Acts,
    #[serde(default)]
    pub replacement: Replacement,
    pub works: Vec<String>,
    pub missing: Vec<Missing>,
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<members::Group>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<authority::Authority>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<aws::Aws>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Record>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Box<Report>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Live,
    Check,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub version: String,
    pub instance: Option<String>,
    pub region: Option<String>,
    pub deployment: String,
    pub boot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed_as: Option<String>,
    pub config_problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    pub status: Status,
    pub since: Timestamp,
    pub domain: Option<String>,
    pub cause: Option<String>,
    pub words: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub stages: Vec<Stage>,
    pub took_ms: f64,
    pub last_ok_age_ms: Option<u64>,
    pub last_fail_age_ms: Option<u64>,
    pub failures: u32,
    pub target: String,
    pub facts: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub ms: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latch {
    pub kind: latches::Kind,
    pub reason: String,
    pub by: String,
    pub at: Timestamp,
    /// `None`: until it is cleared or the machine reboots.
    pub until: Option<Timestamp>,
    pub clear: String,
    pub file: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    Open,
    Closed,
}

/// What is planned about this instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub plan: String,
    pub refusals: Vec<String>,
    pub words: String,
    pub enforce: bool,
    pub would: u64,
}

/// The held word: what nginx answers from the marker files while there is no agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub instance: u16,
    pub region: u16,
    pub promoted: u16,
    pub markers: Vec<String>,
}

/// What a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub about: &'a About,
    pub config: &'a Config,
    pub components: &'a [(ComponentState, Option<Domain>)],
    pub instance: &'a InstanceVerdict,
    pub region: &'a RegionVerdict,
    pub latches: &'a Latches,
    pub lifecycle: &'a Lifecycle,
    pub gate_closed: bool,
    pub replacement: &'a Outlook,
}

impl Report {
    /// The running agent's report at `now`.
    #[must_use]
    pub fn live(snapshot: &Snapshot, now: BootTime) -> Self {
        let seen = Seen {
            about: &snapshot.about,
            config: &snapshot.config,
            components: &snapshot.components,
            instance: &snapshot.instance,
            region: &snapshot.region,
            latches: &snapshot.latches,
            lifecycle: &snapshot.lifecycle,
            gate_closed: snapshot.gate_closed,
            replacement: &snapshot.replacement,
        };
        let mut report = Self::of(Kind::Live, &seen, now, clock::wall());
        report.agent.generation = Some(snapshot.generation);
        report.agent.age_ms = Some(milliseconds(now.since(snapshot.taken)));
        report.certificates.clone_from(&snapshot.certificates);
        report.group = members::group(snapshot, now);
        report.authority = authority::Authority::live(snapshot, now);
        report.verdicts.promoted = Promoted::of(snapshot);
        report.aws = aws::Aws::live(&crate::aws::calls());
        report
    }

    /// A report of `seen` at one moment of both clocks.
    #[must_use]
    pub fn of(kind: Kind, seen: &Seen<'_>, now: BootTime, at: Timestamp) -> Self {
        let wall = Wall { now, at };
        let about = seen.about;
        Self {
            schema: SCHEMA,
            kind,
            at: wall.of(now),
            agent: Agent {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                instance: about.owner.instance.clone(),
                region: about.owner.region.clone(),
                deployment: seen.config.deployment.clone(),
                boot: about.boot.clone(),
                generation: None,
                age_ms: None,
                probed_as: None,
                config_problems: about.config_problems.clone(),
            },
            components: seen.components.iter().map(|(state, domain)| component(state, *domain, wall)).collect(),
            verdicts: verdicts::verdicts(seen, wall),
            latches: seen.latches.iter().map(|latch| latch_part(latch, seen.config)).collect(),
            lifecycle: seen.lifecycle.clone(),
            gate: if seen.gate_closed { Gate::Closed } else { Gate::Open },
            acts: acts::acts(seen, now),
            replacement: replacement(seen.replacement, now),
            works: prospects::works(seen.config),
            missing: prospects::missing(seen.config),
            certificates: Vec::new(),
            group: None,
            authority: None,
            aws: None,
            bootstrap: None,
            live: None,
            held: None,
        }
    }

    /// All of it in one status: `unhealthy` if something is or an answer is 503 for it, `unknown` if something could
    /// not be told, `degraded` for whatever else is not as it should be.
    #[must_use]
    pub fn overall(&self) -> Status {
        let aws = self.aws.as_ref().and_then(aws::Aws::level);
        let any = |status| self.components.iter().any(|component| component.status == status);
        let authority = self.whose().map(authority::Authority::level);
        // What it failed at is a component's fault as well, where that is watched.
        let bootstrap = self.bootstrap.as_ref().map(|record| record.status(self.at));
        let bootstrap = bootstrap.is_some_and(|status| !matches!(status, Status::Healthy | Status::Starting));
        let instance = self.verdicts.instance.state;
        let region = self.verdicts.region.state;
        if any(Status::Unhealthy)
            || instance == InstanceState::Closed
            || !region.is_ok()
            || self.gate == Gate::Closed
            || aws == Some(aws::Level::Unhealthy)
            || authority == Some(Status::Unhealthy)
        {
            Status::Unhealthy
        } else if any(Status::Unknown)
            || any(Status::Starting)
            || instance == InstanceState::Starting
            || self.is_stale()
        {
            Status::Unknown
        } else if any(Status::Degraded)
            || !self.latches.is_empty()
            || self.lifecycle.drain().is_some()
            || !self.agent.config_problems.is_empty()
            || self.certificates.iter().any(|certificate| certificate.is_finding(self.at))
            || aws == Some(aws::Level::Degraded)
            || authority == Some(Status::Degraded)
            || bootstrap
        {
            Status::Degraded
        } else {
            Status::Healthy
        }
    }

    /// What the running agent says of who owns the data.
    #[must_use]
    pub fn whose(&self) -> Option<&authority::Authority> {
        self.authority.as_ref().or_else(|| self.live.as_deref()?.authority.as_ref())
    }

    /// The agent has not renewed what it says for so long that it answers its last word as stale.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.agent.age_ms.is_some_and(|age| Duration::from_millis(age) > STALE_AFTER)
    }
}

/// Boot times as wall times, by one moment of both clocks.
#[derive(Clone, Copy)]
struct Wall {
    now: BootTime,
    at: Timestamp,
}

impl Wall {
    /// To the millisecond: more would only be noise.
    fn of(self, time: BootTime) -> Timestamp {
        let at = self.at - self.now.since(time);
        Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
    }
}

fn is_nowhere(lifecycle: &Lifecycle) -> bool {
    *lifecycle == Lifecycle::default()
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// With three decimals.
fn precise_milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

fn component(state: &ComponentState, domain: Option<Domain>, wall: Wall) -> Component {
    let finding = state.finding.as_ref();
    let row = finding.map(|finding| finding.cause.row());
    let age = |time: BootTime| milliseconds(wall.now.since(time));
    let facts = match &state.facts {
        Facts::None => serde_json::Value::Null,
        // Structures of strings and numbers: a value of JSON can hold them.
        facts => serde_json::to_value(facts).unwrap_or_default(),
    };
    Component {
        name: state.component.name().to_owned(),
        status: state.status,
        since: wall.of(state.since),
        domain: domain.map(|domain| domain_name(domain).to_owned()),
        cause: row.map(|row| row.name.to_owned()),
        words: row.map(|row| format!("{} {}", state.component, row.words)),
        detail: finding.map(|finding| finding.detail.clone()).filter(|detail| !detail.is_empty()),
        hint: row.map(|row| row.hint.to_owned()),
        stages: state
            .stages
            .iter()
            .map(|stage| Stage { name: stage.name.to_owned(), ms: precise_milliseconds(stage.took) })
            .collect(),
        took_ms: precise_milliseconds(state.took),
        last_ok_age_ms: state.last_ok.map(age),
        last_fail_age_ms: state.last_fail.map(age),
        failures: state.failures,
        target: state.target.clone(),
        facts,
    }
}

impl From<Markers> for Held {
    fn from(markers: Markers) -> Self {
        let is_fenced = markers.fenced == Some(true);
        let stand = markers.held().into_iter().chain([("fenced", is_fenced)]).filter(|(_, stands)| *stands);
        Self {
            instance: code(!markers.draining && !markers.instance_closed),
            region: code(!is_fenced && !markers.region_closed),
            promoted: code(markers.promoted),
            markers: stand.map(|(name, _)| name.to_owned()).collect(),
        }
    }
}

const fn code(ok: bool) -> u16 {
    if ok { 200 } else { 503 }
}

fn latch_part(latch: &latches::Latch, config: &Config) -> Latch {
    Latch {
        kind: latch.kind,
        reason: latch.reason.clone(),
        by: latch.by.clone(),
        at: latch.at,
        until: latch.until,
        clear: latch.kind.clearing().to_owned(),
        file: latches::path(&config.state_dir, latch.kind).display().to_string(),
    }
}

fn replacement(status: &Outlook, now: BootTime) -> Replacement {
    Replacement {
        plan: status.plan.name().to_owned(),
        refusals: status.refusals().iter().map(|refusal| refusal.name().to_owned()).collect(),
        words: status.words(now),
        enforce: status.enforce,
        would: status.would,
    }
}

const fn domain_name(domain: Domain) -> &'static str {
    match domain {
        Domain::Local => "local",
        Domain::Shared => "shared",
        Domain::Zonal => "zonal",
        Domain::Undetermined => "undetermined",
    }
}

#[cfg(test)]
mod tests;
