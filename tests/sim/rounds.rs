//! The rounds of questions: who hears whom, how late, and whom an agent takes for a member.

use std::collections::{BTreeMap, BTreeSet};

use dr_agent::group::ask::{Heard, Silence};

use super::agent::{self, Pending};
use super::course::Course;
use super::queue::Event;
use super::world::{Index, MINUTE, Ms, SECOND};

/// A member's answer counts for so long.
const ROUND: Ms = SECOND;

impl Course {
    /// Asks all members it knows; those that answer at once are heard at once.
    pub fn ask(&mut self, index: Index, life: u32) {
        self.rounds += 1;
        let (round, sent) = (self.rounds, self.now);
        self.refresh(index);
        let agent = &self.agents[&index];
        let zone = agent.zone;
        let others: Vec<Index> = agent.members.iter().copied().filter(|other| *other != index).collect();
        let pace = if agent.is_failing_now() { 2 * SECOND } else { 5 * SECOND };
        let pace = pace.max(others.len() as Ms * SECOND / 20);
        self.push(sent + pace, Event::Ask { index, life });
        let mut pending = Pending { number: round, sent, heard: BTreeMap::new() };
        let mut late = false;
        for &other in &others {
            let in_my_zone = self.world.zones[other] == zone;
            let clocked = self.agents[&index].clock(sent);
            let mut heard =
                Heard { instance: agent::name(other), in_my_zone, sent: clocked, word: Err(Silence::NoAnswer) };
            let luck = self.random.below(100);
            match self.world.delay(index, other, sent, luck) {
                Some(0) => match self.world.delay(other, index, sent, luck) {
                    Some(back) if back < ROUND => {
                        late |= back > 0;
                        if let Some(agent) = self.agents.get_mut(&other) {
                            heard.word = Ok(agent.word(sent));
                            // Who asks with a valid signature is a member.
                            agent.members.insert(index);
                        }
                    }
                    _ => late = true,
                },
                Some(there) if there < ROUND => {
                    late = true;
                    self.push(sent + there, Event::Arrives { by: index, life, at: other, round, sent });
                }
                _ => late = true,
            }
            pending.heard.insert(other, heard);
        }
        if let Some(agent) = self.agents.get_mut(&index) {
            agent.pending = Some(pending);
        }
        // Whoever is away or cut off is waited for; a few milliseconds are none here.
        if late {
            self.push(sent + ROUND, Event::RoundOver { index, life, round });
        } else {
            self.round_over(index, round);
        }
    }

    /// Asks AWS now and then, and when something begins to fail, who is in the group. Afterwards, learns what happened.
    fn refresh(&mut self, index: Index) {
        let members = self.world.api(self.now).is_none().then(|| self.cloud.alive().collect::<BTreeSet<_>>());
        let Some(agent) = self.agents.get_mut(&index) else { return };
        let incident = agent.is_failing_now();
        if let Some(members) = members.filter(|_| self.now >= agent.refresh || (incident && !agent.in_incident)) {
            agent.members = members;
            agent.refresh = self.now + self.random.within(8 * MINUTE..=12 * MINUTE);
        }
        agent.in_incident = incident;
        self.learn(index);
    }

    /// A question that took its time is answered.
    pub fn arrives(&mut self, by: Index, at: Index, round: u64, sent: Ms) {
        let luck = self.random.below(100);
        let Some(back) = self.world.delay(at, by, self.now, luck).filter(|back| self.now + back < sent + ROUND) else {
            return;
        };
        let _ = back;
        let Some(word) = self.agents.get_mut(&at).map(|agent| agent.word(self.now)) else { return };
        let Some(pending) = self.agents.get_mut(&by).and_then(|agent| agent.pending.as_mut()) else { return };
        if pending.number == round
            && let Some(heard) = pending.heard.get_mut(&at)
        {
            heard.word = Ok(word);
        }
    }

    pub fn round_over(&mut self, index: Index, round: u64) {
        let Some(agent) = self.agents.get_mut(&index) else { return };
        if let Some(pending) = agent.pending.take_if(|pending| pending.number == round) {
            agent.hear(pending, self.now);
            self.judge(index);
        }
    }
}
