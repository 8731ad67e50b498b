//! One component's status from its observations: rise and fall, the flap rule, staleness. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::BootTime;
use crate::health::cause::{Cause, Status};
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
/// From this many falls in the window, `rise` doubles with each further one.
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
    /// Failures in a row, up to now.
    pub failures: u32,
    /// Whether it was ever healthy, in this boot or, by the state file, before.
    pub ever_healthy: bool,
    /// End of the newest attempt, whatever came of it.
    pub observed: Option<BootTime>,
    pub stages: Vec<Stage>,
    pub took: Duration,
    pub facts: Facts,
    /// What the newest observation says, and how many in a row have said it.
    level: Status,
    streak: u32,
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
            ever_healthy,
            observed: None,
            stages: Vec::new(),
            took: Duration::ZERO,
            facts: Facts::None,
            level: Status::Starting,
            streak: 0,
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
        self.streak = if level == self.level { self.streak.saturating_add(1) } else { 1 };
        self.level = level;
        self.observed = Some(ended);
        self.stages = observation.stages;
        self.took = observation.took;
        if observation.facts != Facts::None {
            self.facts = observation.facts;
        }
        match level {
            Status::Unhealthy => {
                self.last_fail = Some(ended);
                self.failing_since.get_or_insert(observation.began);
                self.failures = self.failures.saturating_add(1);
            }
            Status::Healthy | Status::Degraded => {
                self.last_ok = Some(observation.began);
                self.failing_since = None;
                self.failures = 0;
            }
            Status::Unknown | Status::Starting => {}
        }
        if self.streak < self.needed(finding.as_ref()) {
            return None;
        }
        let (level, finding) = if level == Status::Healthy && self.is_flapping(ended) {
            let falls = self.falls.len();
            (Status::Degraded, Some(Finding::new(Cause::Flapping, format!("{falls} falls in 10 minutes"))))
        } else {
            (level, finding)
        };
        self.settle(level, finding, ended)
    }

    /// Lets time pass: a status without a fresh observation becomes unknown, and so does one that is still starting
    /// after `start_limit`, whatever hangs.
    pub fn tick(&mut self, now: BootTime, start_limit: Duration) -> Option<Transition> {
        while self.falls.front().is_some_and(|&fall| now.since(fall) > FLAP_WINDOW) {
            self.falls.pop_front();
        }
        if self.status == Status::Starting && now.since(self.since) >= start_limit {
            let finding = Finding::new(Cause::Stale, "no observation since the start");
            return self.settle(Status::Unknown, Some(finding), now);
        }
        let observed = self.observed?;
        let age = now.since(observed);
        if age <= self.schedule.stale_after() || self.status == Status::Unknown {
            return None;
        }
        (self.level, self.streak) = (Status::Unknown, 1);
        let finding = Finding::new(Cause::Stale, format!("the last observation is {} s old", age.as_secs()));
        self.settle(Status::Unknown, Some(finding), now)
    }

    /// Whether the status says what the newest observation says; if not, the next attempt comes sooner.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.level == self.status
            || (self.status == Status::Degraded && self.level == Status::Healthy && self.is_settled_flapping())
    }

    /// The last outcome was a failure, whatever the status says yet.
    #[must_use]
    pub fn is_failing_now(&self) -> bool {
        self.level == Status::Unhealthy
    }

    /// `now` has seen it fall too often to be believed.
    #[must_use]
    pub fn is_flapping(&self, now: BootTime) -> bool {
        self.falls.iter().filter(|&&fall| now.since(fall) <= FLAP_WINDOW).count() >= FLAP_FALLS
    }

    fn is_settled_flapping(&self) -> bool {
        self.finding.as_ref().is_some_and(|finding| finding.cause == Cause::Flapping)
    }

    /// How many observations in a row the status needs to become what they say.
    fn needed(&self, finding: Option<&Finding>) -> u32 {
        let working = matches!(self.level, Status::Healthy | Status::Degraded);
        match (self.status, self.level) {
            // The first observation sets the status. Coming back from unknown does not: what was closed before opens
            // only by `rise`.
            (Status::Starting, _) => 1,
            // A hang was waited for during a whole timeout: it is not a blip.
            (_, Status::Unhealthy) if finding.is_some_and(|f| is_hang(f.cause)) => 1,
            (Status::Unhealthy | Status::Unknown | Status::Degraded, _) if working => self.rise(),
            _ => self.schedule.fall,
        }
    }

    /// `rise`, doubled with every fall from the third in ten minutes on, up to a minute of successes.
    fn rise(&self) -> u32 {
        let rise = self.schedule.rise;
        let extra = self.falls.len().saturating_sub(FLAP_FALLS - 1);
        if extra == 0 {
            return rise;
        }
        let limit = FLAP_RISE_LIMIT.as_millis() / self.schedule.interval.as_millis().max(1);
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).max(rise);
        rise.saturating_mul(1 << extra.min(16)).min(limit)
    }

    fn settle(&mut self, to: Status, finding: Option<Finding>, now: BootTime) -> Option<Transition> {
        let from = self.status;
        let same_cause = self.finding.as_ref().map(|f| f.cause) == finding.as_ref().map(|f| f.cause);
        self.finding.clone_from(&finding);
        if to == Status::Healthy {
            self.ever_healthy = true;
        }
        if from == to && same_cause {
            return None;
        }
        if from != to {
            self.since = now;
            (self.before, self.status) = (from, to);
            if to == Status::Unhealthy {
                self.falls.push_back(now);
            }
        }
        Some(Transition { component: self.component.clone(), from, to, finding })
    }
}

const fn is_hang(cause: Cause) -> bool {
    matches!(cause, Cause::EfsHung | Cause::EfsServerUnreachable)
}
