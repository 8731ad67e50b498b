//! Route 53 as far as it matters here: the home record's check is home's region AND NOT the peer's `promoted`; a check
//! turns after three equal answers; the peer's record has no check.

use super::world::{H, World};
use dr_agent::authority::outputs::RegionRule;

/// Equal answers in a row that turn a check.
const THRESHOLD: u8 = 3;

/// A checker hears `home` on the region and `peer` on `promoted`.
pub fn hear(world: &mut World, home: usize, peer: usize) {
    let Some(mut dns) = world.dns else { return };
    let agent = &world.agents[home];
    let region = agent.serving && !agent.fenced && agent.region_rule != RegionRule::Closed && world.db[H].up;
    // The marker answers when the agent is away.
    let promoted = world.agents[peer].memory.get().promoted;
    for (streak, answer) in dns.streak.iter_mut().zip([region, promoted]) {
        *streak = if streak.0 == answer { (answer, (streak.1 + 1).min(THRESHOLD)) } else { (answer, 1) };
    }
    if dns.streak[0].1 == THRESHOLD {
        dns.home_healthy = dns.streak[0].0;
    }
    if dns.streak[1].1 == THRESHOLD {
        dns.promoted = dns.streak[1].0;
    }
    dns.at_peer = !dns.home_healthy || dns.promoted;
    world.dns = Some(dns);
}
