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
        page.gauge(
            "dr_agent_failover_rpo_seconds",
            "Seconds of writes that the newest failover has lost, at most; absent while nobody can tell.",
        );
        page.sample(&[], lag::seconds(rpo));
    }
}

#[cfg(test)]
mod tests {
    use crate::authority::Claim;
    use crate::authority::said::Said;
    use crate::clock::wall;
    use crate::outputs::cloudwatch::Minute;
    use crate::outputs::metrics::page;
    use crate::report::sample;

    fn looked(change: &dyn Fn(&mut Said)) -> (String, Vec<(&'static str, f64)>) {
        let snapshot = sample::standby_snapshot(change);
        let minute = Minute::of(&snapshot, wall());
        (page(&snapshot, snapshot.taken), minute.samples.iter().map(|sample| (sample.name, sample.value)).collect())
    }

    #[test]
    fn a_ready_standby_says_so_everywhere() {
        let (page, samples) = looked(&|_| {});
        for line in [
            "dr_agent_standby_ready 1",
            "dr_agent_authority_state{state=\"STANDBY\"} 1",
            "dr_agent_authority_state{state=\"OWNER\"} 0",
            "dr_agent_authority_epoch{owner=\"ap-south-1\"} 1",
            "dr_agent_replica_lag_seconds{by=\"heartbeat\"} 1.2",
            "dr_agent_readiness{item=\"link\"} 1",
            "dr_agent_fenced 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
        assert!(!page.contains("item=\"capacity\""), "what is not known is left out");
        assert!(
            samples.contains(&("StandbyReady", 1.0)) && samples.contains(&("ReplicaLagSeconds", 1.2)),
            "{samples:?}"
        );
    }

    #[test]
    fn a_region_that_is_behind_is_not_ready_and_the_owner_is_no_standby() {
        let (page, samples) = looked(&|said| said.decision.standby_ready = false);
        assert!(
            page.contains("\ndr_agent_standby_ready 0\n") && samples.contains(&("StandbyReady", 0.0)),
            "{samples:?}"
        );
        let owns = Some(Claim { epoch: 2, region: "us-east-1".to_owned() });
        let (page, samples) = looked(&|said| said.decision.memory.known.clone_from(&owns));
        assert!(!page.contains("dr_agent_standby_ready") && !page.contains("dr_agent_readiness"), "{page}");
        assert!(samples.iter().all(|(name, _)| *name != "StandbyReady"), "{samples:?}");
    }
}
