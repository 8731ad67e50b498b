//! Every state change that is logged, one function each: transitions, not ticks.
//!
//! Each kind has a MESSAGE_ID, so `journalctl MESSAGE_ID=8e7e74b4ac6d2986c1da5fe107068701` shows the changes of all
//! components, whatever their text; add `COMPONENT=efs` for one of them.
//!
//! | event | MESSAGE_ID | fields |
//! |---|---|---|
//! | [`component_changed`] | `8e7e74b4ac6d2986c1da5fe107068701` | COMPONENT, FROM, TO, CAUSE, DETAIL |
//! | [`instance_changed`] | `dc93a59a7433ca39bd43f80684b22086` | FROM, TO, REASONS, CAN_SERVE |
//! | [`region_changed`] | `a7f4b60923fabc78b6bf740f113b5b8b` | FROM, TO, HOLDS |
//! | [`gate_changed`] | `dcd82fb124accd9f71376ba7c4c5fbe7` | CLOSED |
//! | [`agent_started`] | `bd214b5c0c1f76a28e007b4ae2b6bdb9` | VERSION, DEPLOYMENT, INSTANCE, REGION, ADDRESSES |
//! | [`agent_stopping`] | `cf9b8c7f84712c38c93922da975e7546` | |
//! | [`config_reloaded`] | `6434c07cbae2c086b8ab0c86045229e9` | |
//! | [`config_rejected`] | `51437e4d851e59916063c052b1d964f7` | PROBLEM |
//! | [`latches_changed`] | `7c996410fbc8abdbb0c2d7e3c9e35db8` | LATCH, SET, BY, REASON, UNTIL |
//! | [`latch_ordered`] | `733b1ba17fe68e19572458e23f18321d` | LATCH, VERB, UID, BY |
//! | [`latch_unreadable`] | `162da701d6e3b0732efc11347da93f5b` | ERROR |
//! | [`state_set_aside`] | `d545e77b0cb2a764cc4eb0f59655dcfb` | ERROR |
//! | [`state_forgotten`] | `f1a3ce0d6b9748a2b5e0c7d2984e6133` | FOUND, OWN |
//! | [`state_not_saved`] | `1349049ccdc4f8dfa9ee374379cb3573` | ERROR |
//! | [`markers_failed`] | `d6aa78e71d3fd266cbd609c6f8071834` | MARKER, ERROR |
//! | [`task_restarted`] | `908a3c02a06fe171a5e978ef48a43218` | TASK, PANICKED |
//! | [`turns_late`] | `0d40065218743f77717d2f9d17df3d7a` | LATE |
//! | [`keys_unusable`] | `0f04e33f1bbe4060912c925943b41f98` | PROBLEM |
//! | [`membership_unreadable`] | `4d32edc8c9be47a4b26c7c749d25fadd` | ERROR |
//! | [`members_changed`] | `5f0f6c0b1d0e4c0f9f6c2b8b3a7d41e2` | GROUP, MEMBERS |
//! | [`members_unknown`] | `0c7f2a91d4e84b6c8a51f3e96b20d7f4` | ERROR |
//! | [`group_unknown`] | `b3d1a7e0625c49f18e4f70c2d95a6b18` | ERROR |
//! | [`lifecycle_changed`] | `e2a94c6f17d8403b95b0c8f3617de52a` | DRAINS, WHY, REBALANCE |
//! | [`metrics_not_sent`] | `7d0b5f9a1c6e4e0e9a54c1d27f3b8e66` | ERROR |
//! | [`plan_changed`] | `47766bd59d2b58551eaec521193292eb` | PLAN |
//! | [`repair_asked`] | `63390f73ca100d25ea95d09b3f311bc4` | VERB, ATTEMPT |
//! | [`repair_ended`] | `72bed3c49d1144a49f39f97c5a2c863d` | VERB, ERROR |
//! | [`look_failed`] | `8477601a8f470453fd77433a7800af0c` | ERROR |
//! | [`round_ended`] | `b435de3e65b068a406e47488a76af480` | ROUND, WON |
//! | [`replacement_decided`] | `e8b0dc69552ed9e7ee83f605638c1f0d` | RECORD, CAUSE |
//! | [`replacement_settled`] | `b3a0cd074bc6576c3b3f0f8d1d4ff99c` | OUTCOME |
//! | [`grant_judged`] | `54b7c2c393daeb6a1651e3829d72f1b8` | ASKER, DENIAL |
//! | [`replace_not_saved`] | `2a26a66df6c8ccbcf8e5656564749509` | ERROR |
//! | [`repoint_decided`] | `5b0f2d1c9e7a4f36a8c1d27e60b94f13` | DECISION, WRITER, EPOCH, WHY |
//! | [`repoint_applied`] | `c41e8a7702d94b5fb3a6e95d1f07c2a8` | DECISION, WRITER, ERROR |
//! | [`repoint_judged`] | `0e97b3f45a1c4d2e9f68ca70d3b1582c` | DECISION, SEEN, ERROR |
//! | [`repoint_stuck`] | `e6a05d9813fb47c08a2b7c4e95d0f361` | PROBLEM |
//! | [`authority_changed`] | `2f6d0c81b7e94a53a1d0e5c7f8926b34` | FROM, TO, KNOWN, WHY, SINCE, LOST |
//! | [`epoch_claimed`] | `94b1e07ac3d5482f8e6f10b2d7a9c658` | EPOCH, REGION, IS_OURS |
//! | [`failover_ended`] | `6c1f3b8ed2a7450f9b64e8d05a3c7192` | FROM, TO, RPO_MS, STEPS |
//! | [`LINES_LOST`] | `435c07afa4f21fb96ec1d46f4bc2b5e3` | COUNT |

mod authority;
mod repoint;

use std::io;

pub use authority::{authority_changed, epoch_claimed, failover_ended};
pub use repoint::{repoint_applied, repoint_decided, repoint_judged, repoint_stuck};
use tracing::{Level, error, info, warn};

use super::ErrorChain;
use crate::aws::Failure;
use crate::clock::BootTime;
use crate::group::membership::Membership;
use crate::health::cause::Status;
use crate::health::component::Transition;
use crate::health::verdict::{InstanceState, InstanceVerdict, RegionState, RegionVerdict};
use crate::identity::lifecycle::Lifecycle;
use crate::latches::{Kind, Latches};
use crate::replace::grants::Denial;
use crate::replace::ladder::Verb;
use crate::replace::memory::Outcome;
use crate::replace::outlook::Outlook;
use crate::replace::plan::Plan;
use crate::replace::records::Record;
use crate::replace::refusal::Refusal;
use crate::snapshot::About;
use crate::state::{LoadError, Owner};

pub const COMPONENT_CHANGED: &str = "8e7e74b4ac6d2986c1da5fe107068701";
pub const INSTANCE_CHANGED: &str = "dc93a59a7433ca39bd43f80684b22086";
pub const REGION_CHANGED: &str = "a7f4b60923fabc78b6bf740f113b5b8b";
pub const GATE_CHANGED: &str = "dcd82fb124accd9f71376ba7c4c5fbe7";
pub const AGENT_STARTED: &str = "bd214b5c0c1f76a28e007b4ae2b6bdb9";
pub const AGENT_STOPPING: &str = "cf9b8c7f84712c38c93922da975e7546";
pub const METRICS_NOT_SENT: &str = "7d0b5f9a1c6e4e0e9a54c1d27f3b8e66";
pub const CONFIG_RELOADED: &str = "6434c07cbae2c086b8ab0c86045229e9";
pub const CONFIG_REJECTED: &str = "51437e4d851e59916063c052b1d964f7";
pub const LATCHES_CHANGED: &str = "7c996410fbc8abdbb0c2d7e3c9e35db8";
pub const LATCH_ORDERED: &str = "733b1ba17fe68e19572458e23f18321d";
pub const LATCH_UNREADABLE: &str = "162da701d6e3b0732efc11347da93f5b";
pub const STATE_SET_ASIDE: &str = "d545e77b0cb2a764cc4eb0f59655dcfb";
pub const STATE_FORGOTTEN: &str = "f1a3ce0d6b9748a2b5e0c7d2984e6133";
pub const STATE_NOT_SAVED: &str = "1349049ccdc4f8dfa9ee374379cb3573";
pub const MARKERS_FAILED: &str = "d6aa78e71d3fd266cbd609c6f8071834";
pub const TASK_RESTARTED: &str = "908a3c02a06fe171a5e978ef48a43218";
pub const TURNS_LATE: &str = "0d40065218743f77717d2f9d17df3d7a";
pub const KEYS_UNUSABLE: &str = "0f04e33f1bbe4060912c925943b41f98";
pub const MEMBERSHIP_UNREADABLE: &str = "4d32edc8c9be47a4b26c7c749d25fadd";
pub const MEMBERS_CHANGED: &str = "5f0f6c0b1d0e4c0f9f6c2b8b3a7d41e2";
pub const MEMBERS_UNKNOWN: &str = "0c7f2a91d4e84b6c8a51f3e96b20d7f4";
pub const GROUP_UNKNOWN: &str = "b3d1a7e0625c49f18e4f70c2d95a6b18";
pub const LIFECYCLE_CHANGED: &str = "e2a94c6f17d8403b95b0c8f3617de52a";
pub const PLAN_CHANGED: &str = "47766bd59d2b58551eaec521193292eb";
pub const REPAIR_ASKED: &str = "63390f73ca100d25ea95d09b3f311bc4";
pub const REPAIR_ENDED: &str = "72bed3c49d1144a49f39f97c5a2c863d";
pub const LOOK_FAILED: &str = "8477601a8f470453fd77433a7800af0c";
pub const ROUND_ENDED: &str = "b435de3e65b068a406e47488a76af480";
pub const REPLACEMENT_DECIDED: &str = "e8b0dc69552ed9e7ee83f605638c1f0d";
pub const REPLACEMENT_SETTLED: &str = "b3a0cd074bc6576c3b3f0f8d1d4ff99c";
pub const GRANT_JUDGED: &str = "54b7c2c393daeb6a1651e3829d72f1b8";
pub const REPLACE_NOT_SAVED: &str = "2a26a66df6c8ccbcf8e5656564749509";
/// Written by the log itself, when it could not take every line.
pub const LINES_LOST: &str = "435c07afa4f21fb96ec1d46f4bc2b5e3";

/// An event whose level is known only when it happens.
macro_rules! at {
    ($level:expr, $($fields:tt)+) => {
        match $level {
            Level::ERROR => error!($($fields)+),
            Level::WARN => warn!($($fields)+),
            _ => info!($($fields)+),
        }
    };
}

/// A component has another status, or the same one for another cause.
pub fn component_changed(transition: &Transition) {
    let Transition { component, from, to, finding } = transition;
    let level = match to {
        Status::Unhealthy => Level::ERROR,
        Status::Degraded | Status::Unknown => Level::WARN,
        Status::Healthy | Status::Starting => Level::INFO,
    };
    let change = if from == to {
        format!("{component} is still {to}, for another cause")
    } else {
        format!("{component} is {to}, was {from}")
    };
    let why = finding.as_ref().map_or_else(String::new, |finding| {
        format!(": {component} {} ({})", finding.cause.row().words, finding.detail)
    });
    at!(
        level,
        message_id = COMPONENT_CHANGED,
        component = component.name(),
        from = from.name(),
        to = to.name(),
        cause = finding.as_ref().map(|finding| finding.cause.name()),
        detail = finding.as_ref().map(|finding| finding.detail.as_str()),
        "{change}{why}"
    );
}

/// The answer to the load balancer changed.
pub fn instance_changed(from: &str, verdict: &InstanceVerdict) {
    let to = verdict.state;
    let level = match to {
        InstanceState::Closed => Level::ERROR,
        InstanceState::Draining => Level::WARN,
        InstanceState::Serving | InstanceState::Starting => Level::INFO,
    };
    let reasons = joined(verdict.reasons.iter().map(|reason| format!("{} {}", reason.component, reason.cause)));
    at!(
        level,
        message_id = INSTANCE_CHANGED,
        from,
        to = to.name(),
        reasons = reasons.as_str(),
        can_serve = verdict.can_serve,
        "the instance is {} (the load balancer is told {}), was {from}{}",
        to.name(),
        code(to.is_ok()),
        because(&reasons)
    );
}

/// The answer to Route 53 changed.
pub fn region_changed(from: &str, verdict: &RegionVerdict) {
    let to = verdict.state;
    let level = match to {
        RegionState::Closed | RegionState::Fenced => Level::ERROR,
        RegionState::Open | RegionState::Standby => Level::INFO,
    };
    let holds = joined(verdict.holds.iter().map(|hold| hold.on.name().to_owned()));
    at!(
        level,
        message_id = REGION_CHANGED,
        from,
        to = to.name(),
        holds = holds.as_str(),
        "the region is {} (Route 53 is told {}), was {from}{}",
        to.name(),
        code(to.is_ok()),
        because(&holds)
    );
}

/// nginx now serves users, or answers them 503.
pub fn gate_changed(closed: bool) {
    if closed {
        error!(message_id = GATE_CHANGED, closed, "the gate is closed: nginx answers users 503");
    } else {
        info!(message_id = GATE_CHANGED, closed, "the gate is open: nginx serves users");
    }
}

/// Sockets are bound and the state is loaded.
pub fn agent_started(about: &About, addresses: &[String]) {
    let version = env!("CARGO_PKG_VERSION");
    let owner = &about.owner;
    let (instance, region) = (owner.instance.as_deref(), owner.region.as_deref());
    let addresses = addresses.join(" ");
    info!(
        message_id = AGENT_STARTED,
        version,
        deployment = owner.deployment.as_deref(),
        instance,
        region,
        addresses = addresses.as_str(),
        "dr-agent {version} started for {} in {}, listening on {addresses}",
        instance.unwrap_or("an instance without an id"),
        region.unwrap_or("an unknown region"),
    );
}

pub fn agent_stopping() {
    info!(message_id = AGENT_STOPPING, "stopping: from here on nginx answers with the last word");
}

pub fn config_reloaded() {
    info!(message_id = CONFIG_RELOADED, "the configuration was read again and is in force");
}

/// One thing that is wrong with the configuration file, or with putting it in force.
pub fn config_rejected(problem: &str) {
    error!(message_id = CONFIG_REJECTED, problem, "configuration: {problem}");
}

/// Somebody set or cleared a latch, or it expired.
pub fn latches_changed(before: &Latches, after: &Latches) {
    for kind in Kind::ALL {
        match (before.get(kind), after.get(kind)) {
            (old, Some(latch)) if old != Some(latch) => warn!(
                message_id = LATCHES_CHANGED,
                latch = kind.name(),
                set = true,
                by = latch.by.as_str(),
                reason = latch.reason.as_str(),
                until = latch.until.map(tracing::field::display),
                "{} set by {}: {} (clear it with `{}`)",
                kind.name(),
                latch.by,
                latch.reason,
                kind.clearing()
            ),
            (Some(_), None) => {
                info!(message_id = LATCHES_CHANGED, latch = kind.name(), set = false, "{} cleared", kind.name());
            }
            _ => {}
        }
    }
}

/// Somebody ordered over the control socket to set or clear a latch. What came of it is [`latches_changed`].
pub fn latch_ordered(kind: Kind, verb: &str, uid: Option<u32>, by: &str) {
    info!(message_id = LATCH_ORDERED, latch = kind.name(), verb, uid, by, "{by} asks to {verb} {}", kind.name());
}

/// A latch file cannot be read; it latches nothing.
pub fn latch_unreadable(error: &io::Error) {
    warn!(message_id = LATCH_UNREADABLE, error = %ErrorChain(error), "a latch file cannot be read, so it has no effect");
}

/// The key file that the configuration names cannot be used: this member signs nothing and believes nobody.
pub fn keys_unusable(problem: &str) {
    error!(message_id = KEYS_UNUSABLE, problem, "agents of this deployment cannot know each other: {problem}");
}

/// What was known of the group cannot be read; the group is asked again when AWS says who it is.
pub fn membership_unreadable(error: &io::Error) {
    warn!(message_id = MEMBERSHIP_UNREADABLE, error = %ErrorChain(error), "the list of the group's members cannot be read");
}

/// CloudWatch did not take what it was told. Said for the first failure and then once an hour.
pub fn metrics_not_sent(failure: &Failure) {
    warn!(
        message_id = METRICS_NOT_SENT,
        error = failure.words().as_str(),
        "metrics could not be sent to CloudWatch; two hours of them are kept"
    );
}

/// The group has other members than it had.
pub fn members_changed(membership: &Membership) {
    let members = joined(membership.members.iter().map(|member| member.instance.clone()));
    let group = membership.group.as_str();
    info!(message_id = MEMBERS_CHANGED, group, members = members.as_str(), "the members of {group}: {members}");
}

/// Who is in the group could not be learned or kept; what was known before stays in use.
pub fn members_unknown(error: &str) {
    warn!(message_id = MEMBERS_UNKNOWN, error, "the members of the group stay as they were known: {error}");
}

/// AWS does not say which group this instance is in; it is asked again.
pub fn group_unknown(error: &str) {
    warn!(message_id = GROUP_UNKNOWN, error, "the group of this instance is not known: {error}");
}

/// Auto Scaling or EC2 takes this instance somewhere else than before.
pub fn lifecycle_changed(lifecycle: &Lifecycle) {
    let why = lifecycle.drain();
    let level = if why.is_some() || lifecycle.rebalance { Level::WARN } else { Level::INFO };
    at!(
        level,
        message_id = LIFECYCLE_CHANGED,
        drains = why.is_some(),
        why = why.as_deref(),
        rebalance = lifecycle.rebalance,
        "lifecycle: {}{}",
        why.as_deref().unwrap_or("the verdict counts"),
        if lifecycle.rebalance { "; EC2 recommends to replace this instance" } else { "" }
    );
}

/// The state file cannot be used; the agent starts afresh.
pub fn state_set_aside(error: &LoadError) {
    warn!(message_id = STATE_SET_ASIDE, error = %ErrorChain(error), "starting without the saved state: {}", ErrorChain(error));
}

/// Now that it is known who this is, the state in use turns out to be another machine's.
pub fn state_forgotten(found: &Owner, own: &Owner) {
    let (found, own) = (format!("{found:?}"), format!("{own:?}"));
    warn!(message_id = STATE_FORGOTTEN, found, own, "the saved state is another machine's ({found}) and is forgotten");
}

/// The state could not be written. What it would have said is lost with the next restart.
pub fn state_not_saved(error: &io::Error) {
    error!(message_id = STATE_NOT_SAVED, error = %ErrorChain(error), "cannot save the state: {}", ErrorChain(error));
}

/// A marker could not be set or removed: while no agent answers, nginx would give an old word.
pub fn markers_failed(marker: &str, error: &io::Error) {
    error!(
        message_id = MARKERS_FAILED,
        marker,
        error = %ErrorChain(error),
        "cannot change the marker `{marker}`: {}",
        ErrorChain(error)
    );
}

/// A task ended though nobody told it to, and is started again.
pub fn task_restarted(task: &str, panicked: bool) {
    let how = if panicked { "panicked" } else { "ended by itself" };
    error!(message_id = TASK_RESTARTED, task, panicked, "the task `{task}` {how}; starting it again");
}

/// Not all who must turn have, so systemd is not told that all is well; `late` is empty when they have again.
pub fn turns_late(late: &[String]) {
    let late = joined(late.iter().cloned());
    if late.is_empty() {
        info!(message_id = TURNS_LATE, late = late.as_str(), "everything turns again");
    } else {
        error!(message_id = TURNS_LATE, late = late.as_str(), "not telling systemd that all is well: {late}");
    }
}

/// Something else is planned about this instance.
pub fn plan_changed(status: &Outlook, now: BootTime) {
    let words = status.words(now);
    let level = match &status.plan {
        Plan::Nothing => Level::INFO,
        // Somebody must look: the group replaces its instances in vain.
        Plan::Refused(refusals) if refusals.contains(&Refusal::ReplacementDidNotCure) => Level::ERROR,
        _ => Level::WARN,
    };
    at!(level, message_id = PLAN_CHANGED, plan = status.plan.name(), "replacement: {words}");
}

/// The root helper was asked to repair something.
pub fn repair_asked(verb: Verb, attempt: u32) {
    warn!(message_id = REPAIR_ASKED, verb = verb.name(), attempt, "asking for {verb}, attempt {attempt}");
}

/// What came of a repair, by the helper's word.
pub fn repair_ended(verb: Verb, error: Option<&str>) {
    match error {
        None => info!(message_id = REPAIR_ENDED, verb = verb.name(), "{verb} is done"),
        Some(error) => error!(message_id = REPAIR_ENDED, verb = verb.name(), error, "{error}"),
    }
}

/// Auto Scaling did not say how the group is, or what came of the call.
pub fn look_failed(error: &str) {
    warn!(message_id = LOOK_FAILED, error, "Auto Scaling could not be asked: {error}");
}

/// The members were asked whether this instance may go.
pub fn round_ended(round: &str, won: bool) {
    warn!(message_id = ROUND_ENDED, round, won, "asked the group whether this instance may be replaced: {round}");
}

/// This instance is about to be marked Unhealthy.
pub fn replacement_decided(record: &Record) {
    let text = serde_json::to_string(record).unwrap_or_default();
    error!(
        message_id = REPLACEMENT_DECIDED,
        record = text.as_str(),
        cause = record.cause.as_str(),
        "marking this instance Unhealthy in its Auto Scaling group for {}: {}",
        record.cause,
        record.detail
    );
}

/// What came of marking it.
pub fn replacement_settled(outcome: &Outcome) {
    match outcome {
        Outcome::Refused(why) => {
            error!(message_id = REPLACEMENT_SETTLED, outcome = "refused", "it was not marked Unhealthy: {why}");
        }
        Outcome::Calling | Outcome::Accepted => {
            warn!(
                message_id = REPLACEMENT_SETTLED,
                outcome = "accepted",
                "it is marked Unhealthy and will be replaced"
            );
        }
    }
}

/// Another member asked whether it may be replaced.
pub fn grant_judged(asker: &str, denial: Option<Denial>) {
    let denial = denial.map(Denial::name);
    match denial {
        None => warn!(message_id = GRANT_JUDGED, asker, "agreed that {asker} is replaced"),
        Some(denial) => {
            info!(message_id = GRANT_JUDGED, asker, denial, "did not agree that {asker} is replaced: {denial}");
        }
    }
}

/// What a replacement must not forget could not be written down, so nothing is done on the strength of it.
pub fn replace_not_saved(error: &io::Error) {
    error!(message_id = REPLACE_NOT_SAVED, error = %ErrorChain(error), "cannot keep what replacement must remember: {}", ErrorChain(error));
}

const fn code(ok: bool) -> u16 {
    if ok { 200 } else { 503 }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn because(reasons: &str) -> String {
    if reasons.is_empty() { String::new() } else { format!(": {reasons}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_message_id_is_an_id_of_its_own_and_in_the_table() {
        let source = [include_str!("event.rs"), include_str!("event/authority.rs"), include_str!("event/repoint.rs")];
        let source = source.concat();
        let ids: Vec<_> = source
            .lines()
            .filter_map(|line| {
                line.strip_prefix("pub ")
                    .unwrap_or(line)
                    .strip_prefix("const ")?
                    .split_once(": &str = \"")?
                    .1
                    .strip_suffix("\";")
            })
            .collect();
        let rows: Vec<_> = source.lines().filter(|line| line.starts_with("//! | [`")).collect();
        assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
        assert!(ids.len() >= 16, "found {}", ids.len());
        assert_eq!(ids.len(), rows.len());
        for id in ids {
            assert!(id.len() == 32 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{id}");
            assert!(rows.iter().any(|row| row.contains(id)), "{id} is not in the table");
        }
    }
}
