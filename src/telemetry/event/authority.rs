//! Events of authority.

use tracing::{info, warn};

use crate::authority::State;
use crate::authority::claim::NewRow;
use crate::authority::decide::Decision;
use crate::authority::ledger::Failover;
use crate::authority::notice::Notice;

const CHANGED: &str = "2f6d0c81b7e94a53a1d0e5c7f8926b34";
const CLAIMED: &str = "94b1e07ac3d5482f8e6f10b2d7a9c658";
const FAILED_OVER: &str = "6c1f3b8ed2a7450f9b64e8d05a3c7192";

/// The state of authority is another one than before.
pub fn authority_changed(from: State, decision: &Decision, notice: Option<&Notice>) {
    let state = decision.state;
    let why = super::joined(decision.why.iter().map(ToString::to_string));
    let known = decision.memory.known.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    if let Some(notice) = notice {
        warn!(
            message_id = CHANGED,
            from = from.name(),
            to = state.name(),
            known,
            why,
            since = notice.since.map(|since| since.to_string()),
            lost = notice.lost,
            "authority is {state}, was {from}: {}",
            notice.line()
        );
    } else {
        info!(
            message_id = CHANGED,
            from = from.name(),
            to = state.name(),
            known,
            why,
            "authority is {state}, was {from}; highest epoch {known}{}",
            super::because(&why)
        );
    }
}

/// An epoch was written, or somebody was faster.
pub fn epoch_claimed(row: &NewRow, is_ours: bool) {
    let NewRow { epoch, region, .. } = row;
    info!(
        message_id = CLAIMED,
        epoch,
        region,
        is_ours,
        "epoch {epoch} of {region} was {}",
        if is_ours { "claimed" } else { "claimed by another agent first" }
    );
}

/// This region is through with a change of the owner.
pub fn failover_ended(failover: &Failover) {
    let (from, to) = (failover.from.to_string(), failover.to.to_string());
    let steps: Vec<_> = failover.steps().into_iter().map(|(name, at)| format!("{at} {name}")).collect();
    warn!(
        message_id = FAILED_OVER,
        from,
        to,
        rpo_ms = failover.rpo_ms(),
        steps = steps.join("; "),
        "{}; {}",
        failover.headline(),
        failover.loss()
    );
}
