//! Events of repointing.

use tracing::{error, info, warn};

use crate::repoint::apply::Applied;
use crate::repoint::decision::Decision;
use crate::repoint::plan::{Current, Phase, Purpose};

const DECIDED: &str = "5b0f2d1c9e7a4f36a8c1d27e60b94f13";
const APPLIED: &str = "c41e8a7702d94b5fb3a6e95d1f07c2a8";
const JUDGED: &str = "0e97b3f45a1c4d2e9f68ca70d3b1582c";
const STUCK: &str = "e6a05d9813fb47c08a2b7c4e95d0f361";

/// Which database the app is to use was decided and written down.
pub fn repoint_decided(decision: &Decision, purpose: &Purpose) {
    let writer = String::from(decision.writer.clone());
    let why = match purpose {
        Purpose::Reach => None,
        Purpose::Close { why } | Purpose::Back { why, .. } => Some(why.as_str()),
    };
    let because = why.map_or_else(String::new, |why| format!(": {why}"));
    let words = match (purpose, decision.writer.region()) {
        (Purpose::Back { .. }, _) => "taken back".to_owned(),
        (_, Some(region)) => format!("the app is to write to the database of {region}"),
        (_, None) => "the app is to write nowhere".to_owned(),
    };
    let (decision, epoch) = (decision.id.as_str(), decision.epoch);
    warn!(message_id = DECIDED, decision, writer, epoch, why, "repoint: {words}{because}");
}

/// The root helper wrote the outputs, or could not.
pub fn repoint_applied(applied: &Applied) {
    let decision = applied.done.id.as_str();
    let writer = applied.writer.clone().map(String::from);
    let error = applied.done.error.as_deref();
    let warning = applied.warning.as_deref().map_or_else(String::new, |warning| format!(" ({warning})"));
    if let Some(error) = error {
        error!(message_id = APPLIED, decision, writer, error, "repoint: not applied: {error}{warning}");
    } else {
        info!(message_id = APPLIED, decision, writer, "repoint: the outputs were written{warning}");
    }
}

/// The app was seen to reach its writer, or a first attempt to see it failed.
pub fn repoint_judged(current: &Current) {
    let decision = current.decision.id.as_str();
    match &current.phase {
        Phase::Done { seen: Some(seen), .. } => {
            let (seen, region) = (seen.to_string(), String::from(current.decision.writer.clone()));
            info!(message_id = JUDGED, decision, seen, "repoint: the app writes to the database of {region}: {seen}");
        }
        Phase::Applied { failed: Some((_, error)), .. } => {
            warn!(message_id = JUDGED, decision, error, "repoint: not verified yet: {error}");
        }
        _ => {}
    }
}

/// Nothing can be decided here; it is tried again every second.
pub fn repoint_stuck(problem: &str) {
    error!(message_id = STUCK, problem, "repoint: {problem}");
}
