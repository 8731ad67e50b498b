//! What must hold: after every act, and after things have calmed down.

use dr_agent::authority::State;

use super::acts::{Act, rightful, settle};
use super::turn::{Rules, Turn};
use super::world::{CALM, Close, H, P, REGIONS, World};

/// What must hold of every act.
pub fn check(before: &World, act: Act, turn: Option<&Turn>, after: &World) -> Result<(), String> {
    if after.calm >= CALM && after.written_to() == [true, true] {
        return Err("one writer: users write to both databases".to_owned());
    }
    if let Some(promoted) = after.promised
        && after.calm >= CALM
        && after.written_to()[1 - promoted]
    {
        return Err("a planned failback loses nothing: users write where it was closed for it".to_owned());
    }
    if after.surplus > 0 {
        return Err("one row a promotion: an epoch was claimed that no promotion stands behind".to_owned());
    }
    for agent in &after.agents {
        if agent.memory.get().known_epoch() > u64::from(after.written) {
            return Err("no phantom: an agent knows an epoch that nobody ever wrote".to_owned());
        }
    }
    if let (Act::Poll(index, _), Some(turn)) = (act, turn) {
        let (was, is) = (&before.agents[index], &after.agents[index]);
        if is.memory.get().known_epoch() < was.memory.get().known_epoch() {
            return Err("known never falls".to_owned());
        }
        let db = &after.db[is.region];
        let is_fenced = db.superseded[is.region] > db.epoch && !db.channel;
        let has_read = was.held.is_none() && db.up;
        if is_fenced && has_read && is.queue.is_empty() {
            let has_decided = is.memory.get().state != State::Boot;
            if is.users_write_to(is.region) || (has_decided && (!is.fenced || is.writers[is.region])) {
                return Err("superseded stays closed: its own database says so, and it is open".to_owned());
            }
        }
        let known = turn.decision.memory.known.as_ref();
        let is_own_claim =
            known.is_some_and(|known| known.region == REGIONS[is.region] && known.epoch <= u64::from(db.epoch));
        if turn.decision.state == State::Superseded && is_own_claim && db.up && was.held.is_none() {
            return Err("nobody is superseded by a claim of its own region".to_owned());
        }
        if turn.decision.claim.is_ok() && db.up && !db.was_replica && was.held.is_none() {
            return Err("two signals: a claim for what never replicated".to_owned());
        }
    }
    if let (Act::Tick(..), Some(was), Some(is)) = (act, before.dns, after.dns)
        && was.at_peer
        && !is.at_peer
        && rightful(before) == P
        && before.agents.iter().all(|agent| agent.up)
    {
        return Err("no way back: the name returns to home while the peer owns the highest epoch".to_owned());
    }
    Ok(())
}

/// What must hold once everything is repaired and a few rounds have passed.
pub fn settled(world: &World, rules: Rules) -> Result<(), String> {
    let world = settle(world, rules, 9);
    if world.written_to() == [true, true] {
        return Err("settles: users write to both databases".to_owned());
    }
    let owner = rightful(&world);
    let db = world.db[owner];
    let top = world.db[H].epoch.max(world.db[P].epoch);
    for region in [H, P] {
        let db = &world.db[region];
        let is_known = db.roll[region] >> db.server & 1 == 1;
        let is_claimable = db.is_primary() && db.epoch == top && owner != region && !db.no_insert;
        if top > 0 && is_claimable && is_known && db.superseded[region] <= db.epoch {
            return Err("settles: a promotion is not claimed".to_owned());
        }
    }
    // What was the highest epoch is destroyed: both regions stay closed until an operator claims.
    let is_open =
        world.written == top && db.is_primary() && db.epoch == top && db.superseded[owner] <= db.epoch && top > 0;
    let is_closed = matches!(db.close[owner], Close::InForce(_))
        || (matches!(db.close[owner], Close::Expired(_)) && !world.db[1 - owner].channel);
    if !is_open {
        return Ok(());
    }
    for agent in &world.agents {
        let mine = agent.region == owner;
        let state = agent.memory.get().state;
        let is_right = match (mine, is_closed) {
            (true, true) => state == State::Owner && agent.fenced && agent.writers == [false; 2],
            (true, false) => state == State::Owner && agent.users_write_to(owner),
            (false, _) => {
                let other = &world.db[agent.region];
                let standby = if other.channel && !other.writable {
                    state == State::Standby && !agent.fenced && (is_closed || agent.writers[owner])
                } else if other.is_primary() && other.epoch < top {
                    state == State::Superseded && agent.fenced
                } else {
                    true
                };
                standby && !agent.writers[agent.region]
            }
        };
        // A closed owner's expired row counts at the standby only where its channel is not seen.
        if !is_right {
            return Err(format!(
                "settles: an agent of region {} is {state}, fenced {}, writers {:?}, and the owner is {owner}",
                agent.region, agent.fenced, agent.writers
            ));
        }
    }
    Ok(())
}
