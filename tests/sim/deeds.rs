//! What agents do about themselves, and what Auto Scaling does about them: the thin half of a replacement, as events.

use std::collections::BTreeSet;
use std::time::Duration;

use dr_agent::replace::grants::{Reply, Round};
use dr_agent::replace::memory::Outcome;
use dr_agent::replace::plan::{LOOK_EVERY, LOOK_FRESH, Plan};
use dr_agent::replace::records::{self, Record};

use super::agent::name;
use super::cloud::{Lifecycle, Step, Weather};
use super::course::Course;
use super::queue::Event;
use super::replacer::{self, Own};
use super::world::{Api, Index, Kind, Ms, SECOND};

/// One question to a member counts for so long.
const QUESTION: Ms = SECOND;

/// One call to AWS is waited for so long.
const CALL: Ms = 10 * SECOND;

/// An instance that was really marked.
#[derive(Debug, Clone)]
pub struct Mark {
    pub at: Ms,
    pub index: Index,
    pub decision: String,
    pub slot: usize,
    /// The group has been settled since.
    pub is_settled: bool,
}

impl Course {
    fn own(&self, index: Index) -> Own {
        Own {
            on_hold: self.on_hold.contains(&index),
            leaving: self.cloud.instances[index].lifecycle != Lifecycle::InService,
        }
    }

    /// Plans for one agent, and begins what is planned.
    pub fn decide(&mut self, index: Index, life: u32) {
        let Some(agent) = self.agents.get(&index) else { return };
        if agent.is_calm() && agent.replacer.won.is_none() && agent.replacer.memory.decision.is_none() {
            return;
        }
        let (now, own) = (agent.stamp(self.now), self.own(index));
        let plan = replacer::plan(agent, own, &self.policy, &now);
        let busy = agent.replacer.looking || agent.replacer.asking.is_some() || agent.replacer.calling;
        if self.plans.get(&index).map(String::as_str) != Some(plan.name()) {
            // To look, be refused and look again is going on as before.
            if !matches!(plan, Plan::Look | Plan::Refused(_)) {
                self.changed = self.now;
            }
            let words = plan.words(now.time);
            self.note(|| format!("{} {words}", name(index)));
            self.plans.insert(index, plan.name().to_owned());
        }
        self.waits.remove(&index);
        let Some(agent) = self.agents.get(&index) else { return };
        match plan {
            Plan::Repair(verb, attempt) => {
                let Some(agent) = self.agents.get_mut(&index) else { return };
                agent.replacer.memory.repairs.note(verb, &now);
                self.tally.count("repaired");
                let slot = if verb == dr_agent::replace::ladder::Verb::NginxRestart { 0 } else { 2 };
                let helps = self.now + self.random.within(1..=20) * SECOND;
                self.rungs.insert(index, self.now + 40 * SECOND);
                self.push(helps, Event::Repaired { index, slot, attempt });
            }
            Plan::Look | Plan::Marked if !busy => {
                let old = agent.replacer.looked.as_ref().map(|looked| looked.began);
                if old.is_none_or(|old| now.time.since(old) >= LOOK_EVERY) {
                    self.look(index, life);
                }
            }
            Plan::Ask { electorate, voters } if !busy => self.begin_round(index, life, electorate, voters),
            Plan::Go if !busy => self.go(index, life),
            Plan::Wait { until, .. } => {
                let until = agent.world_time(until);
                self.waits.insert(index, until);
                self.give_up(index);
            }
            Plan::Nothing | Plan::Refused(_) if !busy => self.give_up(index),
            _ => {}
        }
    }

    fn look(&mut self, index: Index, life: u32) {
        let Some(agent) = self.agents.get_mut(&index) else { return };
        agent.replacer.looking = true;
        let took = match self.world.api(self.now) {
            None | Some(Api::Stale(_) | Api::Refuses) => self.random.within(30..=1_500),
            Some(Api::Late(delay)) => delay.min(CALL),
            Some(Api::Hangs | Api::LosesAnswers) => CALL,
        };
        self.push(self.now + took, Event::Looked { index, life, began: self.now });
    }

    pub fn looked(&mut self, index: Index, life: u32, began: Ms) {
        let look = match self.world.api(began) {
            None => Some(self.cloud.look(self.now)),
            Some(Api::Stale(age)) => Some(self.cloud.look(began.saturating_sub(age))),
            Some(Api::Late(delay)) if delay < CALL => Some(self.cloud.look(began)),
            _ => None,
        };
        let Some(agent) = self.agents.get_mut(&index) else { return };
        let began = agent.stamp(began);
        let decision = agent.replacer.memory.decision.as_mut();
        if let (Some(look), Some(decision)) = (&look, decision.filter(|d| d.outcome == Outcome::Calling)) {
            let own = look.members.iter().find(|member| member.instance == name(index));
            if own.is_none_or(|own| !own.healthy || own.lifecycle != "InService") {
                decision.outcome = Outcome::Accepted;
            }
        }
        agent.replacer.take_look(look, &began);
        self.decide(index, life);
    }

    fn begin_round(&mut self, index: Index, life: u32, electorate: u32, voters: Vec<String>) {
        let own = self.own(index);
        let Some(agent) = self.agents.get_mut(&index) else { return };
        let now = agent.stamp(self.now);
        let Some((slot, cause)) = replacer::fault(agent, own, &self.policy, &now) else { return };
        self.rounds += 1;
        let id = format!("round-{}", self.rounds);
        let record = replacer::record(agent, id.clone(), cause, &now);
        let reply = replacer::grant(agent, own, &self.policy, &record, &now);
        self.note(|| format!("{} asks {voters:?} of {electorate}, itself {reply:?}", name(index)));
        self.tally.count("round");
        let Some(agent) = self.agents.get_mut(&index) else { return };
        if reply != Reply::Granted {
            agent.replacer.end_round(false);
            return;
        }
        agent.replacer.asking = Some((Round::new(id, electorate, voters), record, slot));
        self.ask_next(index, life);
    }

    /// Asks the next member, or ends the round.
    fn ask_next(&mut self, index: Index, life: u32) {
        loop {
            let Some(agent) = self.agents.get_mut(&index) else { return };
            let Some((round, record, slot)) = &mut agent.replacer.asking else { return };
            let Some(voter) = round.next().map(str::to_owned) else {
                let won = round.is_won();
                let (round, record, slot) = (round.clone(), record.clone(), *slot);
                agent.replacer.asking = None;
                agent.replacer.end_round(won);
                let words = round.words();
                self.note(|| format!("{} {} the round: {words}", name(index), if won { "won" } else { "lost" }));
                self.tally.count(if won { "round won" } else { "round lost" });
                if won {
                    if let Some(agent) = self.agents.get_mut(&index) {
                        agent.replacer.won = Some((round, record, slot));
                    }
                } else {
                    self.give_back(index, &round);
                }
                self.decide(index, life);
                return;
            };
            let to = index_of(&voter);
            if to == index {
                round.hear(Reply::Granted);
                continue;
            }
            let (id, record) = (round.id.clone(), Box::new(record.clone()));
            let luck = self.random.below(100);
            if let Some(there) = self.world.delay(index, to, self.now, luck) {
                let there = there + self.random.within(1..=20);
                self.push(self.now + there, Event::Grant { by: index, life, to, record });
            }
            self.push(self.now + QUESTION, Event::Replied { by: index, life, from: to, id, reply: None });
            return;
        }
    }

    /// A member is asked for its grant.
    pub fn grant(&mut self, by: Index, life: u32, to: Index, record: &Record) {
        let own = self.own(to);
        let Some(agent) = self.agents.get_mut(&to) else { return };
        let now = agent.stamp(self.now);
        let reply = replacer::grant(agent, own, &self.policy, record, &now);
        self.note(|| format!("{} says {reply:?} to {}", name(to), record.instance));
        let luck = self.random.below(100);
        if let Some(back) = self.world.delay(to, by, self.now, luck) {
            let back = back + self.random.within(1..=20);
            let (id, reply) = (record.id.clone(), Some(reply == Reply::Granted));
            self.push(self.now + back, Event::Replied { by, life, from: to, id, reply });
        }
    }

    /// The answer, or that there was none in time.
    pub fn replied(&mut self, by: Index, life: u32, from: Index, id: &str, reply: Option<bool>) {
        let Some(agent) = self.agents.get_mut(&by) else { return };
        let Some((round, ..)) = &mut agent.replacer.asking else { return };
        if round.id == id && round.next() == Some(name(from).as_str()) {
            round.hear(match reply {
                Some(true) => Reply::Granted,
                Some(false) => Reply::Denied(dr_agent::replace::grants::Denial::GaveAnother),
                None => Reply::Silent,
            });
            self.ask_next(by, life);
        }
    }

    fn give_up(&mut self, index: Index) {
        if let Some((round, ..)) = self.agents.get_mut(&index).and_then(|agent| agent.replacer.won.take()) {
            self.give_back(index, &round);
        }
    }

    fn give_back(&mut self, index: Index, round: &Round) {
        if let Some(agent) = self.agents.get_mut(&index) {
            agent.replacer.memory.take_back(&round.id);
            agent.replacer.records.drop(&round.id);
        }
        for voter in round.to_return() {
            let to = index_of(voter);
            let luck = self.random.below(100);
            if let Some(there) = self.world.delay(index, to, self.now, luck).filter(|_| to != index) {
                self.push(self.now + there + 5, Event::Returned { to, id: round.id.clone() });
            }
        }
    }

    /// Writes the decision down, and sends the call on its way.
    fn go(&mut self, index: Index, life: u32) {
        let Some(agent) = self.agents.get_mut(&index) else { return };
        let now = agent.stamp(self.now);
        let Some((_, record, _)) = agent.replacer.won.clone() else { return };
        let Some((began, look)) = agent.replacer.looked.as_ref().map(|looked| (looked.began, looked.look.clone()))
        else {
            return;
        };
        let began = agent.world_time(began);
        agent.replacer.decide(&record, &now);
        agent.replacer.calling = true;
        let alone = look.as_ref().is_none_or(|look| look.desired < 2);
        let tag = records::write_tag(look.and_then(|look| look.last_replacement).as_deref(), &record);
        let tagged = self.world.api(self.now).is_none_or(|api| matches!(api, Api::Stale(_) | Api::LosesAnswers));
        if tagged {
            self.cloud.tag = Some(tag);
            self.cloud.remember(self.now);
        }
        // An answer that is lost is waited for.
        let answered = tagged && self.world.api(self.now) != Some(Api::LosesAnswers);
        let late = if answered || self.world.api(self.now) == Some(Api::Refuses) { 50 } else { 3 * SECOND };
        let calls = !alone || answered;
        self.push(self.now + late, Event::Call { index, life, began, calls });
    }

    /// The call leaves.
    pub fn call(&mut self, index: Index, life: u32, began: Ms, calls: bool) {
        let fresh = self.now.saturating_sub(began) < Ms::try_from(LOOK_FRESH.as_millis()).expect("seconds");
        if !calls || !fresh {
            self.answered(index, life, Some(false));
            return;
        }
        self.tally.count("called");
        let Some(agent) = self.agents.get(&index) else { return };
        let Some((_, record, slot)) = agent.replacer.won.clone() else { return };
        self.calls.push(record.id.clone());
        self.note(|| format!("{} calls SetInstanceHealth", name(index)));
        let mark = Event::Marked { index, decision: record.id, slot };
        let (done, answer) = match self.world.api(self.now) {
            None | Some(Api::Stale(_)) => (Some(40), (80, Some(true))),
            Some(Api::Refuses) => (None, (80, Some(false))),
            Some(Api::Hangs) => (None, (CALL, None)),
            Some(Api::LosesAnswers) => (Some(40), (CALL, None)),
            Some(Api::Late(delay)) => (Some(delay), if delay < CALL { (delay, Some(true)) } else { (CALL, None) }),
        };
        if let Some(done) = done {
            self.push(self.now + done, mark);
        }
        self.push(self.now + answer.0, Event::Answered { index, life, taken: answer.1 });
    }

    /// What the call came to: taken, surely not, or nobody knows.
    pub fn answered(&mut self, index: Index, life: u32, taken: Option<bool>) {
        let Some(agent) = self.agents.get_mut(&index) else { return };
        agent.replacer.calling = false;
        let won = agent.replacer.won.take();
        if let Some(decision) = &mut agent.replacer.memory.decision {
            match taken {
                Some(true) => decision.outcome = Outcome::Accepted,
                Some(false) => decision.outcome = Outcome::Refused("refused".to_owned()),
                None => {}
            }
        }
        if let (Some((round, ..)), Some(false)) = (won, taken) {
            self.give_back(index, &round);
        }
        self.decide(index, life);
    }

    /// Auto Scaling takes it.
    pub fn marked(&mut self, index: Index, decision: String, slot: usize) {
        if self.cloud.mark(index) {
            self.tally.count("marked");
            self.note(|| format!("{} is marked", name(index)));
            self.marks.push(Mark { at: self.now, index, decision, slot, is_settled: false });
            self.step_cloud();
        }
    }

    pub fn step_cloud(&mut self) {
        let weather = Weather {
            launches_fail: self.world.matters(self.now).any(|kind| *kind == Kind::LaunchesFail),
            suspended: self.world.matters(self.now).find_map(|kind| match kind {
                Kind::Suspended(process) => Some(*process),
                _ => None,
            }),
        };
        let (steps, next) = self.cloud.step(weather, &mut self.random, self.now);
        for step in steps {
            match step {
                Step::Launch => {
                    let zones: Vec<_> = self.cloud.alive().map(|index| self.world.zones[index]).collect();
                    let count = |zone: u8| zones.iter().map(|other| usize::from(*other == zone)).sum::<usize>();
                    let zone = (0..self.zones).min_by_key(|zone| count(*zone)).expect("a zone");
                    let index = self.launch(zone);
                    let ready = self.now + self.random.within(60..=200) * SECOND;
                    self.cloud.add(Lifecycle::Pending, Some(ready), self.now);
                    self.note(|| format!("{} is launched in zone {zone}", name(index)));
                    self.tally.count("launched");
                    let boots = self.now + self.random.within(15..=50) * SECOND;
                    self.push(boots, Event::Start { index });
                }
                Step::Gone(index) => {
                    self.note(|| format!("{} is gone", name(index)));
                    self.agents.remove(&index);
                    self.lives[index] += 1;
                    self.departed = self.now;
                }
            }
        }
        if self.cloud.remember(self.now) {
            self.changed = self.now;
        }
        if self.cloud.is_settled() {
            for mark in &mut self.marks {
                mark.is_settled = true;
            }
        }
        if let Some(next) =
            next.filter(|next| self.cloud_next.is_none_or(|planned| planned <= self.now || *next < planned))
        {
            self.cloud_next = Some(next);
            self.push(next, Event::Cloud);
        }
    }

    /// Learns the group's records from whoever answers; until somebody has.
    pub fn learn(&mut self, index: Index) {
        let Some(agent) = self.agents.get(&index) else { return };
        if !agent.replacer.heard_records.is_empty() {
            return;
        }
        let now = agent.stamp(self.now);
        let others: Vec<_> = agent.members.iter().copied().filter(|other| *other != index).collect();
        let mut told = Vec::new();
        let mut heard = BTreeSet::new();
        for other in others {
            let luck = self.random.below(100);
            let quick = |delay: Option<Ms>| delay.is_some_and(|delay| delay < QUESTION / 2);
            let reached = quick(self.world.delay(index, other, self.now, luck))
                && quick(self.world.delay(other, index, self.now, luck));
            if let Some(other) = self.agents.get(&other).filter(|_| reached) {
                told.extend(other.replacer.records.told(&other.stamp(self.now)));
                heard.insert(name(other.index));
            }
        }
        let Some(agent) = self.agents.get_mut(&index) else { return };
        agent.replacer.heard_records = heard;
        for told in told {
            agent.replacer.records.keep(told.record, Duration::from_secs(told.age_seconds), &now);
        }
    }
}

pub fn index_of(name: &str) -> Index {
    name[2..].parse().expect("an instance of this world")
}
