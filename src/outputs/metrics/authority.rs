//! Who owns the data, and whether this region could take over. Without two regions there is nothing of it.

use super::Page;
use crate::authority::readiness::{NAMES, Readiness};
use crate::authority::{State, lag};
use crate::outputs::cloudwatch;
use crate::snapshot::Snapshot;

/// Every state, so that each has a series.
const STATES: [State; 8] = [
    State::Boot,
    State::Uninitialised,
    State::OwnerPending,
    State::Owner,
    State::Standby,
    State::Unclaimed,
    State::Superseded,
    State::Ambiguous,
];

pub(super) fn write(page: &mut Page, snapshot: &Snapshot) {
    if let Some(ready) = cloudwatch::standby_ready(snapshot) {
        page.gauge(
            "dr_agent_standby_ready",
            "1 while this region could take over; only of the one that is not the owner.",
        );
        page.flag(&[], ready);
    }
    let Some(said) = snapshot.authority.as_deref() else { return };
    let (decision, memory) = (&said.decision, said.memory());
    page.gauge("dr_agent_authority_state", "1 for the state of this region's authority, 0 for the others.");
    for state in STATES {
        page.flag(&[("state", state.name())], decision.state == state);
    }
    page.gauge(
        "dr_agent_authority_epoch",
        "The highest epoch known, with the region that owns it; absent before the first.",
    );
    if let Some(known) = &memory.known {
        page.sample(&[("owner", &known.region)], known.epoch);
    }
    page.gauge("dr_agent_authority_own_epoch", "The newest epoch in this region's database, as it was read last.");
    if let Some(own) = &memory.own {
        page.sample(&[], own.epoch());
    }
    page.gauge("dr_agent_fenced", "1 while this region is closed because another one owns the data.");
    page.flag(&[], snapshot.gate_closed && decision.state == State::Superseded);
    page.gauge("dr_agent_promoted", "1 while `/health/promoted` is 200.");
    page.flag(&[], decision.promoted);
    page.gauge("dr_agent_authority_alarms", "Findings about the owner of the data that somebody should look at.");
    page.sample(&[], decision.alarms.len());
    page.gauge("dr_agent_authority_problems", "Things about the owner of the data that were tried in vain.");
    page.sample(&[], said.problems.len());
    if let Some(lag) = &said.lag {
        page.gauge(
            "dr_agent_replica_lag_seconds",
            "How far the replica here is behind, by the owner's heartbeat row, else as the server says.",
        );
        page.sample(&[("by", lag.by.name())], lag.seconds());
    }
    if let Some(readiness) = Readiness::of(snapshot) {
        page.gauge(
            "dr_agent_readiness",
            "1 for each thing that a failover to this region needs and has; absent if unknown.",
        );
        for name in NAMES {
            let found = readiness.items.iter().find(|item| item.name == name);
            if let Some(ok) = found.and_then(|item| item.ok) {
                page.flag(&[("item", name)], ok);
            }
        }
    }
    page.gauge("dr_agent_failovers", "Changes of the owner in this agent's ledger, which keeps the newest ones.");
    page.sample(&[], said.ledger.failovers.len());
    if let Some(rpo) = said.ledger.last().and_then(crate::authority::ledger::Failover::rpo_ms) {
        page.gauge("dr_agent_failover_rpo_seconds", "Seconds of writes that the newest failover may have lost.");
        page.sample(&[], lag::seconds(rpo));
    }
}
