//! One component's status from its observations: rise and fall, the flap rule, staleness. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::BootTime;
use crate::health::cause::{Cause, OnRegion, Status};
use crate::observation::{Component, Facts, Finding, Observation, Outcome, Stage};

/// The pace and thresholds of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Time from the start of one attempt to the start of the next.
    pub interval: Duration,
    /// Deadline of one attempt; shorter than `interval`.
    pub timeout: Duration,
    /// The interval from the first observation that contradicts the status until the status is settled again.
    pub fast_interval: Option<Duration>,
    /// Failures in a row that make it fall.
    pub fall: u32,
    /// Passes in a row that make it rise.
    pub rise: u32,
}

impl Schedule {
    /// The age at which an observation is stale: two whole cycles were missed.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        2 * (self.interval + self.timeout)
    }
}

/// Falls within this window count as flapping.
const FLAP_WINDOW: Duration = Duration::from_secs(10 * 60);
/// From this many falls in the window on, `rise` doubles with each.
const FLAP_FALLS: usize = 3;
/// The doubled `rise` never asks for more than this time of successes.
const FLAP_RISE_LIMIT: Duration = Duration::from_secs(60);

/// A change of a component's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub component: Component,
    pub from: Status,
    pub to: Status,
    pub finding: Option<Finding>,
}

/// What is known of one component.
#[derive(Debug, Clone)]
pub struct ComponentState {
    pub component: Component,
    /// What exactly is probed (address, path, Host), not how: what was learned of one target says nothing of another.
    pub target: String,
    pub schedule: Schedule,
    pub status: Status,
    /// Since when it has this status.
    pub since: BootTime,
    /// The status before this one.
    pub before: Status,
    /// Why it is not healthy.
    pub finding: Option<Finding>,
    /// When an attempt that passed began, the newest one. A limit that was crossed is a pass here: it works.
    pub last_ok: Option<BootTime>,
    /// When the newest attempt that failed ended.
    pub last_fail: Option<BootTime>,
    /// When the first attempt of the present run of failures began.
    pub failing_since: Option<BootTime>,
    /// Failures in a row, up to now. An attempt that could not run is none and ends no row, but `unknown` does.
    pub failures: u32,
    /// Passes in a row, likewise.
    pub passes: u32,
    /// Whether it was ever healthy, in this boot or, by the state file, before.
    pub ever_healthy: bool,
    /// End of the newest attempt, whatever came of it.
    pub observed: Option<BootTime>,
    pub stages: Vec<Stage>,
    pub took: Duration,
    /// What the newest attempt that got through learned; what one that failed learned beside its cause.
    pub facts: Facts,
    /// What the newest observation says, `Unknown` when it is stale; and how many in a row have said it.
    newest: (Status, Option<Cause>),
    streak: u32,
    /// When the first attempt of the present row of passes began.
    passing_since: Option<BootTime>,
    /// Attempts in a row that could not run.
    missed: u32,
    /// Since it is unhealthy it has failed so that it can be no blip.
    proven: bool,
    /// When it fell, oldest first, within [`FLAP_WINDOW`].
    falls: VecDeque<BootTime>,
}

impl ComponentState {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(component: Component, target: String, schedule: Schedule, ever_healthy: bool, now: BootTime) -> Self {
        Self {
            component,
            target,
            schedule,
            status: Status::Starting,
            since: now,
            before: Status::Starting,
            finding: None,
            last_ok: None,
            last_fail: None,
            failing_since: None,
            failures: 0,
            passes: 0,
            ever_healthy,
            observed: None,
            stages: Vec::new(),
            took: Duration::ZERO,
            facts: Facts::None,
            newest: (Status::Starting, None),
            streak: 0,
            passing_since: None,
            missed: 0,
            proven: false,
            falls: VecDeque::new(),
        }
    }

    /// Takes one observation in. Its own time counts, not the time of the call.
    pub fn apply(&mut self, observation: Observation) -> Option<Transition> {
        let ended = observation.began + observation.took;
        let (level, finding) = match observation.outcome {
            Outcome::Pass => (Status::Healthy, None),
            Outcome::Fail(finding) => (finding.cause.row().status, Some(finding)),
        };
        // Whatever could not run before says nothing of the component, so this may still be the first to do so.
        let first = self.last_ok.is_none() && self.last_fail.is_none();
        let newest = (level, finding.as_ref().map(|f| f.cause));
        self.streak = if newest == self.newest { self.streak.saturating_add(1) } else { 1 };
        self.newest = newest;
        self.observed = Some(ended);
        self.stages = observation.stages;
        self.took = observation.took;
        if is_working(level) || observation.facts != Facts::None {
            self.facts = observation.facts;
        }
        match level {
            Status::Unhealthy => {
                self.last_fail = Some(ended);
                self.failing_since.get_or_insert(observation.began);
                self.failures = self.failures.saturating_add(1);
                (self.passes, self.passing_since, self.missed) = (0, None, 0);
                self.proven |= self.failures >= self.schedule.fall || self.is_no_blip();
            }
            // Nobody was asked: that is told, and is neither a pass nor a failure.
            Status::Degraded if !self.was_asked() => self.missed = self.missed.saturating_add(1),
            Status::Healthy | Status::Degraded => {
                self.last_ok = Some(observation.began);
                self.passing_since.get_or_insert(observation.began);
                self.passes = self.passes.saturating_add(1);
                (self.failures, self.failing_since, self.missed) = (0, None, 0);
            }
            Status::Unknown | Status::Starting => self.missed = self.missed.saturating_add(1),
        }
        if !first && !self.is_due(ended) {
            return None;
        }
        let (level, finding) = if level == Status::Healthy && self.is_flapping(ended) {
            let falls = self.falls_until(ended);
            (Status::Degraded, Some(Finding::new(Cause::Flapping, format!("{falls} falls in 10 minutes"))))
        } else {
            (level, finding)
        };
        self.settle(level, finding, ended)
    }

    /// Lets time pass: a status without a fresh observation becomes unknown, and so does one that is still starting
    /// after `start_limit`, whatever hangs.
    pub fn tick(&mut self, now: BootTime, start_limit: Duration) -> Option<Transition> {
        if self.status == Status::Starting && now.since(self.since) >= start_limit {
            let finding = Finding::new(Cause::Stale, "no observation since the start");
            return self.settle(Status::Unknown, Some(finding), now);
        }
        let age = now.since(self.observed?);
        if age <= self.schedule.stale_after() {
            return None;
        }
        (self.newest, self.streak) = ((Status::Unknown, Some(Cause::Stale)), 0);
        let finding = Finding::new(Cause::Stale, format!("the last observation is {} s old", age.as_secs()));
        self.settle(Status::Unknown, Some(finding), now)
    }

    /// Whether the status says what the newest observation says, and not by a first failure alone; if not, the next
    /// attempt comes sooner.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let flapping = self.finding.as_ref().is_some_and(|finding| finding.cause == Cause::Flapping);
        match self.newest.0 {
            Status::Unhealthy => self.status == Status::Unhealthy && self.is_proven(),
            newest => newest == self.status || (flapping && newest == Status::Healthy),
        }
    }

    /// The newest outcome was a failure, whatever the status says yet.
    #[must_use]
    pub fn is_failing_now(&self) -> bool {
        self.newest.0 == Status::Unhealthy
    }

    /// The newest outcome is fresh and no failure, whatever the status says yet.
    #[must_use]
    pub fn is_working_now(&self) -> bool {
        is_working(self.newest.0) && self.was_asked()
    }

    /// Its status was not made by a first failure alone, which may be one late answer: since then it failed often enough in
    /// a row to fall, or for what is no blip. A pass in between proves nothing of it.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        self.proven
    }

    /// What the newest attempt failed for is seen on this machine itself and never late.
    fn is_no_blip(&self) -> bool {
        let is_seen = |cause| matches!(cause, Cause::WiringFenceOpen | Cause::WiringMarker) || is_hang(cause);
        self.component == Component::Host || self.newest.1.is_some_and(is_seen)
    }

    /// The newest attempt reached what is probed: what stopped one before that says nothing of it.
    fn was_asked(&self) -> bool {
        self.newest.1.is_none_or(|cause| cause.row().region != OnRegion::Holds)
    }

    /// What the probe learned beside pass or fail is of now: while the newest attempt fails, it may be of an earlier one.
    #[must_use]
    pub fn has_fresh_facts(&self) -> bool {
        !self.is_failing_now() && !matches!(self.status, Status::Unknown | Status::Starting)
    }

    /// Why the newest attempt did not pass, whatever the status says yet.
    #[must_use]
    pub const fn newest_cause(&self) -> Option<Cause> {
        self.newest.1
    }

    /// `now` has seen it fall too often to be believed.
    #[must_use]
    pub fn is_flapping(&self, now: BootTime) -> bool {
        self.falls_until(now) >= FLAP_FALLS
    }

    fn falls_until(&self, now: BootTime) -> usize {
        self.falls.iter().filter(|&&fall| now.since(fall) <= FLAP_WINDOW).count()
    }

    /// Whether what the newest observation says was said often enough to become the status.
    fn is_due(&self, now: BootTime) -> bool {
        let Schedule { fall, rise, .. } = self.schedule;
        match (self.status, self.newest.0) {
            // A hang was waited for during a whole timeout: it is not a blip.
            (_, Status::Unhealthy) if self.newest.1.is_some_and(is_hang) => true,
            // The same status for another cause: two causes that alternate are no news with every attempt.
            (from, to) if from == to => self.newest.1 == self.finding.as_ref().map(|f| f.cause) || self.streak >= fall,
            (_, Status::Unhealthy) => self.failures >= fall,
            (_, Status::Unknown | Status::Starting) => self.missed >= fall,
            (_, Status::Degraded) if !self.was_asked() => self.streak >= fall,
            // Coming back from unknown takes as long as from unhealthy: what was closed before opens only by `rise`.
            (Status::Unhealthy | Status::Unknown | Status::Starting, Status::Healthy | Status::Degraded) => {
                self.has_risen(now)
            }
            (_, Status::Degraded) => self.streak >= fall,
            (_, Status::Healthy) => self.streak >= rise,
        }
    }

    /// Whether the present row of passes is long enough: `rise`, doubled with every fall from the third in ten minutes
    /// on, up to a minute of successes.
    fn has_risen(&self, now: BootTime) -> bool {
        let rise = self.schedule.rise;
        let doublings = (self.falls_until(now) + 1).saturating_sub(FLAP_FALLS).min(16);
        let a_minute = self.passing_since.is_some_and(|since| now.since(since) >= FLAP_RISE_LIMIT);
        self.passes >= rise.saturating_mul(1 << doublings) || (self.passes >= rise && a_minute)
    }

    fn settle(&mut self, to: Status, finding: Option<Finding>, now: BootTime) -> Option<Transition> {
        let from = self.status;
        let same_cause = self.finding.as_ref().map(|f| f.cause) == finding.as_ref().map(|f| f.cause);
        self.finding.clone_from(&finding);
        match to {
            Status::Healthy => self.ever_healthy = true,
            Status::Unknown => (self.passes, self.passing_since, self.failures) = (0, None, 0),
            _ => {}
        }
        self.proven &= to == Status::Unhealthy;
        if from == to && same_cause {
            return None;
        }
        if from != to {
            self.since = now;
            (self.before, self.status) = (from, to);
        }
        if is_working(from) && to == Status::Unhealthy {
            self.falls.retain(|&fall| now.since(fall) <= FLAP_WINDOW);
            self.falls.push_back(now);
        }
        Some(Transition { component: self.component.clone(), from, to, finding })
    }
}

/// Degraded works: a limit is crossed or something is configured wrongly.
const fn is_working(status: Status) -> bool {
    matches!(status, Status::Healthy | Status::Degraded)
}

const fn is_hang(cause: Cause) -> bool {
    matches!(cause, Cause::EfsHung | Cause::EfsServerUnreachable | Cause::EfsProxyGone)
}
