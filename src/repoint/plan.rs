//! What to do next about the app's endpoints. Pure: time is an argument.
//!
//! One goal is one repoint: it is looked at, decided, written, applied, verified. What fails is rolled back and tried again
//! later, each time after a look that costs nobody anything. A goal without a writer is not looked at, not verified and
//! never rolled back; nor is what was verified in an earlier life of the agent, which the app may have had for months: it is
//! asked for and verified until that succeeds.

use std::collections::BTreeSet;
use std::time::Duration;

use super::apply::Applied;
use super::decision::{Decision, Target};
use super::verify::Seen;
use crate::clock::BootTime;
use crate::config::{Config, HostPort, Repoint};
use crate::helper;

/// What authority wants of the app's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// [`Target::Unchanged`]: nothing is decided.
    pub writer: Target,
    pub reader: Target,
    pub epoch: u64,
    /// The state's word, as the app is told.
    pub state: String,
    /// Only for an instance whose outputs never had a writer.
    pub only_new: bool,
}

/// What is wanted, and all that the configuration adds to it: another goal is another repoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub wanted: Wanted,
    pub writer: Option<HostPort>,
    pub reader: Option<HostPort>,
    repoint: Repoint,
}

/// The helper is asked again while it is silent: what comes while it runs wakes nobody.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A pool that is reloaded, or a proxy that starts, takes a moment until a login comes through.
const VERIFY_WITHIN: Duration = Duration::from_secs(10);
const VERIFY_AGAIN: Duration = Duration::from_millis(500);
/// A look that failed, and an attempt to verify what is not rolled back.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A look that passed is good for so long.
const LOOK_FRESH: Duration = Duration::from_secs(10);
/// From a failure to the next attempt, doubled each time: each makes the app reload.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// Why a decision was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// The goal.
    Reach,
    /// The goal's writer does not pass, and the app must not keep the one it has.
    Close { why: String },
    /// The decision `of` failed.
    Back { of: String, why: String },
}

/// How far a decision has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is written down, and the helper was asked.
    Written { since: BootTime, asked: BootTime },
    /// The outputs say so. `failed`: the last attempt to verify it.
    Applied { since: BootTime, failed: Option<(BootTime, String)> },
    /// Through. `seen`: by what it was verified; nothing is without a writer, or when the outputs stay as they were.
    Done { at: BootTime, seen: Option<Seen> },
    /// It is not rolled back and the helper failed; it is asked again.
    Failed { next: BootTime, error: String },
}

/// The decision that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    pub decision: Decision,
    pub purpose: Purpose,
    pub phase: Phase,
    /// What it serves.
    goal: Goal,
    /// What the outputs named before.
    pub old: Option<Target>,
    /// In an earlier life of the agent.
    was_verified: bool,
    /// It is from an earlier life, and counts for nothing until it is wanted again.
    is_dormant: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes or it is this time.
    Rest(Option<BootTime>),
    /// See whether this region's database may be the writer.
    Look { region: String, at: HostPort },
    /// Write this decision down, with a new id, and ask the helper.
    Decide(Box<Draft>),
    /// Ask the helper again.
    Ask,
    /// Look for the helper's result.
    Await,
    /// See whether the app reaches its writer.
    Verify(HostPort),
}

/// A decision without its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub writer: Target,
    pub purpose: Purpose,
    goal: Goal,
}

/// What the task remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub current: Option<Current>,
    /// What the outputs name; `None` while nobody knows.
    pub present: Option<Target>,
    looked: Option<Looked>,
    /// Attempts for the goal that failed in a row.
    failures: u32,
    /// No attempt for the goal before this.
    not_before: Option<BootTime>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Looked {
    goal: Goal,
    at: BootTime,
    result: Result<(), String>,
}

impl Goal {
    /// `None`: nothing is to change, or there is no output to change.
    #[must_use]
    pub fn of(wanted: &Wanted, config: &Config) -> Option<Self> {
        let at = |target: &Target| config.regions.get(target.region()?)?.database_at();
        let is_one = wanted.writer != Target::Unchanged && !config.repoint.outputs.is_empty();
        is_one.then(|| Self {
            wanted: wanted.clone(),
            writer: at(&wanted.writer),
            reader: at(&wanted.reader),
            repoint: config.repoint.clone(),
        })
    }
}

impl Draft {
    #[must_use]
    pub fn decision(&self, id: String) -> Decision {
        let wanted = &self.goal.wanted;
        let rollback = match &self.purpose {
            Purpose::Back { of, .. } => Some(of.clone()),
            Purpose::Reach | Purpose::Close { .. } => None,
        };
        Decision {
            id,
            writer: self.writer.clone(),
            reader: wanted.reader.clone(),
            epoch: wanted.epoch,
            state: wanted.state.clone(),
            only_new: wanted.only_new && rollback.is_none(),
            rollback,
        }
    }
}

impl Plan {
    /// Goes on from what an earlier life of the agent decided last. If it is still wanted, the same decision is asked for
    /// once more, which changes nothing where it was carried out.
    #[must_use]
    pub fn resume(decision: Decision, was_verified: bool, config: &Config, now: BootTime) -> Self {
        let wanted = Wanted {
            writer: decision.writer.clone(),
            reader: decision.reader.clone(),
            epoch: decision.epoch,
            state: decision.state.clone(),
            only_new: decision.only_new,
        };
        let purpose = match &decision.rollback {
            Some(of) => Purpose::Back { of: of.clone(), why: "an earlier attempt failed".to_owned() },
            None => Purpose::Reach,
        };
        let Some(goal) = Goal::of(&wanted, config) else { return Self::default() };
        let phase = Phase::Written { since: now, asked: now.before(ASK_AGAIN) };
        let current = Current { decision, purpose, phase, goal, old: None, was_verified, is_dormant: true };
        Self { current: Some(current), ..Self::default() }
    }

    /// What to do next for `goal`; without one, what was begun is ended.
    #[must_use]
    pub fn next(&self, goal: Option<&Goal>, now: BootTime) -> Step {
        match (&self.current, goal) {
            (None, None) => Step::Rest(None),
            (Some(current), None) if current.is_dormant => Step::Rest(None),
            (Some(current), None) => current.next(current.writer_allowed(None), now),
            (Some(current), Some(goal)) if current.goal == *goal => match (&current.purpose, &current.phase) {
                (Purpose::Close { .. } | Purpose::Back { .. }, Phase::Done { .. }) => self.reach(goal, now),
                _ => current.next(current.writer_allowed(Some(goal)), now),
            },
            (_, Some(goal)) => self.reach(goal, now),
        }
    }

    fn reach(&self, goal: &Goal, now: BootTime) -> Step {
        let decide = |writer: Target, purpose| Step::Decide(Box::new(Draft { writer, purpose, goal: goal.clone() }));
        let Target::Region(region) = &goal.wanted.writer else { return decide(Target::None, Purpose::Reach) };
        let is_same_goal = self.current.as_ref().is_some_and(|current| current.goal == *goal);
        if let Some(until) = self.not_before.filter(|until| is_same_goal && now < *until) {
            return Step::Rest(Some(until));
        }
        let looked = self.looked.as_ref().filter(|looked| looked.goal == *goal);
        match (looked, &goal.writer) {
            (_, None) => self.close_or(goal, "[region.*] names no database for it", Step::Rest(None)),
            (Some(Looked { at, result: Ok(()), .. }), _) if now.since(*at) < LOOK_FRESH => {
                decide(goal.wanted.writer.clone(), Purpose::Reach)
            }
            (Some(Looked { at, result: Err(why), .. }), _) if now.since(*at) < LOOK_AGAIN => {
                self.close_or(goal, why, Step::Rest(Some(*at + LOOK_AGAIN)))
            }
            (_, Some(at)) => Step::Look { region: region.clone(), at: at.clone() },
        }
    }

    /// The goal cannot be reached now. What the app has may stay only if it is not another region's.
    fn close_or(&self, goal: &Goal, why: &str, otherwise: Step) -> Step {
        let is_others = self
            .present
            .as_ref()
            .and_then(Target::region)
            .is_some_and(|name| goal.wanted.writer.region() != Some(name));
        if !is_others {
            return otherwise;
        }
        let purpose = Purpose::Close { why: why.to_owned() };
        Step::Decide(Box::new(Draft { writer: Target::None, purpose, goal: goal.clone() }))
    }

    /// `draft` was written down as `decision`, and the helper was asked.
    pub fn decided(&mut self, draft: Draft, decision: Decision, now: BootTime) {
        let is_same_goal = self.current.as_ref().is_some_and(|current| current.goal == draft.goal);
        if !is_same_goal {
            (self.failures, self.not_before) = (0, None);
        }
        if let Purpose::Back { .. } = draft.purpose {
            let wait = RETRY_FIRST * 2u32.saturating_pow(self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + wait.min(RETRY_LIMIT));
        }
        let old = self.present.take();
        let phase = Phase::Written { since: now, asked: now };
        let Draft { purpose, goal, .. } = draft;
        let (was_verified, is_dormant) = (false, false);
        self.current = Some(Current { decision, purpose, phase, goal, old, was_verified, is_dormant });
        self.looked = None;
    }

    /// The helper was asked again.
    pub fn asked(&mut self, now: BootTime) {
        let Some(current) = &mut self.current else { return };
        let since = match current.phase {
            Phase::Written { since, .. } => since,
            _ => now,
        };
        current.is_dormant = false;
        current.phase = Phase::Written { since, asked: now };
    }

    /// The helper told what came of the decision.
    pub fn applied(&mut self, applied: &Applied, now: BootTime) {
        let Some(current) = self.current.as_mut().filter(|current| current.decision.id == applied.done.id) else {
            return;
        };
        self.present.clone_from(&applied.writer);
        let is_kept = current.decision.only_new && applied.writer != Some(current.decision.writer.clone());
        current.phase = match &applied.done.error {
            Some(error) if current.may_go_back() => Phase::Failed { next: now, error: error.clone() },
            Some(error) => {
                let wait = RETRY_FIRST * 2u32.saturating_pow(self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                // What closes, or stood before, is not given up; its attempts cost the app nothing that it is to keep.
                Phase::Failed { next: now + wait.min(Duration::from_secs(60)), error: error.clone() }
            }
            None if current.opens() && !is_kept => Phase::Applied { since: now, failed: None },
            None => Phase::Done { at: now, seen: None },
        };
    }

    /// What came of the look at a goal's writer.
    pub fn looked(&mut self, goal: &Goal, result: Result<(), String>, now: BootTime) {
        self.looked = Some(Looked { goal: goal.clone(), at: now, result });
    }

    /// What came of an attempt to verify.
    pub fn verified(&mut self, result: Result<Seen, String>, now: BootTime) {
        let Some(current) = &mut self.current else { return };
        match (&mut current.phase, result) {
            (Phase::Applied { .. }, Ok(seen)) => {
                current.phase = Phase::Done { at: now, seen: Some(seen) };
                (self.failures, self.not_before) = (0, None);
            }
            (Phase::Applied { failed, .. }, Err(why)) => *failed = Some((now, why)),
            _ => {}
        }
    }

    /// What the helper told an earlier life of the agent of the decision that it goes on from.
    pub fn recall(&mut self, applied: &Applied) {
        if self.current.as_ref().is_some_and(|current| current.decision.id == applied.done.id) {
            self.present.clone_from(&applied.writer);
        }
    }

    /// The regions to whose database the app may be writing: both while it is led from one to the other. `None` while
    /// nobody knows.
    #[must_use]
    pub fn writers(&self) -> Option<BTreeSet<String>> {
        let named =
            |targets: &[&Target]| targets.iter().filter_map(|target| target.region()).map(str::to_owned).collect();
        match (&self.present, &self.current) {
            (Some(present), _) => Some(named(&[present])),
            (None, Some(current)) => Some(named(&[current.old.as_ref()?, &current.decision.writer])),
            (None, None) => None,
        }
    }

    /// The outputs are those of `goal`, or of what stands in for it; what is verified is another question.
    #[must_use]
    pub fn is_applied(&self, goal: &Goal) -> bool {
        let current = self.current.as_ref().filter(|current| current.goal == *goal);
        current.is_some_and(|current| matches!(current.phase, Phase::Applied { .. } | Phase::Done { .. }))
    }

    /// The app was seen to reach the writer of `goal`, or has none because that is the goal.
    #[must_use]
    pub fn is_reached(&self, goal: &Goal) -> bool {
        let current = self.current.as_ref().filter(|current| current.goal == *goal);
        current.is_some_and(|c| c.purpose == Purpose::Reach && matches!(c.phase, Phase::Done { .. }))
    }

    /// Why the last look at the writer of `goal` failed.
    #[must_use]
    pub fn objection(&self, goal: &Goal) -> Option<&str> {
        let looked = self.looked.as_ref().filter(|looked| looked.goal == *goal)?;
        looked.result.as_ref().err().map(String::as_str)
    }

    /// When the goal is tried again at the earliest, after a failure.
    #[must_use]
    pub const fn not_before(&self) -> Option<BootTime> {
        self.not_before
    }
}

impl Current {
    /// It gives the app a writer that must be seen to work.
    fn opens(&self) -> bool {
        self.purpose == Purpose::Reach && self.decision.writer != Target::None
    }

    /// It has something to go back to.
    fn may_go_back(&self) -> bool {
        self.opens() && !self.was_verified
    }

    /// The next step of this decision; `allowed`: the writer to which it may be rolled back.
    fn next(&self, allowed: Target, now: BootTime) -> Step {
        let back = |why: String| {
            let purpose = Purpose::Back { of: self.decision.id.clone(), why };
            Step::Decide(Box::new(Draft { writer: allowed, purpose, goal: self.goal.clone() }))
        };
        match &self.phase {
            Phase::Written { since, asked } => {
                if now.since(*since) >= helper::LIMIT && self.may_go_back() {
                    back("the root helper did not answer".to_owned())
                } else if now.since(*asked) >= ASK_AGAIN {
                    Step::Ask
                } else {
                    Step::Await
                }
            }
            Phase::Applied { since, failed } => {
                let is_late = now.since(*since) >= VERIFY_WITHIN;
                let again = if is_late { LOOK_AGAIN } else { VERIFY_AGAIN };
                match (failed, &self.goal.writer) {
                    (Some((_, why)), _) if is_late && self.may_go_back() => back(format!("not verified: {why}")),
                    (Some((at, _)), _) if now.since(*at) < again => Step::Rest(Some(*at + again)),
                    (_, Some(at)) => Step::Verify(at.clone()),
                    (_, None) => back("its region has no database any more".to_owned()),
                }
            }
            Phase::Done { .. } => Step::Rest(None),
            Phase::Failed { next, .. } if now < *next => Step::Rest(Some(*next)),
            Phase::Failed { error, .. } if self.may_go_back() => back(error.clone()),
            Phase::Failed { .. } => Step::Ask,
        }
    }

    /// The writer that the present state allows: what a rollback may restore.
    fn writer_allowed(&self, goal: Option<&Goal>) -> Target {
        let wanted = &goal.unwrap_or(&self.goal).wanted;
        wanted.writer.region().map_or(Target::None, |name| Target::Region(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
