//! What one agent keeps for its replacement, and its plan from it: the pure half of what the product's task does.

use std::collections::BTreeSet;
use std::time::Duration;

use dr_agent::clock::Stamp;
use dr_agent::health::verdict::Tally;
use dr_agent::replace::grants::{Denial, Giver, Reply, Round};
use dr_agent::replace::look::Look;
use dr_agent::replace::memory::{Decision, Memory, Outcome};
use dr_agent::replace::plan::{self, Facts, Looked, Plan, ReplacePolicy};
use dr_agent::replace::records::{Record, Records};
use dr_agent::state::Owner;

use super::agent::Agent;
use super::site::GROUP;
use super::world::SITE;

/// What the instance itself makes known, without AWS.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own {
    pub on_hold: bool,
    pub leaving: bool,
}

#[derive(Debug)]
pub struct Replacer {
    pub memory: Memory,
    pub records: Records,
    pub looked: Option<Looked>,
    /// A look is under way.
    pub looking: bool,
    pub calling: bool,
    /// A round, its record, and the slot of what it is about.
    pub asking: Option<(Round, Record, usize)>,
    /// The round that was won.
    pub won: Option<(Round, Record, usize)>,
    /// Members that answered when they were asked for their records, since the start.
    pub heard_records: BTreeSet<String>,
}

impl Replacer {
    pub fn new(owner: Owner, now: Stamp) -> Self {
        Self::with(Memory::new(owner, now), Records::default())
    }

    /// The process ended: what it was about to do is lost, what it wrote down is not.
    pub fn resumed(self) -> Self {
        Self::with(self.memory, self.records)
    }

    fn with(memory: Memory, records: Records) -> Self {
        Self {
            memory,
            records,
            looked: None,
            looking: false,
            calling: false,
            asking: None,
            won: None,
            heard_records: BTreeSet::new(),
        }
    }

    /// What Auto Scaling said; `None`: nothing.
    pub fn take_look(&mut self, look: Option<Look>, began: &Stamp) {
        self.looking = false;
        self.looked = Some(Looked { began: began.time, look, won: None });
    }

    pub fn end_round(&mut self, won: bool) {
        if let Some(looked) = &mut self.looked {
            looked.won = Some(won);
        }
    }

    /// Written down before the call.
    pub fn decide(&mut self, record: &Record, now: &Stamp) {
        let (id, cause) = (record.id.clone(), record.cause.clone());
        self.memory.decision = Some(Decision { id, at: now.clone(), cause, outcome: Outcome::Calling });
    }
}

fn facts(agent: &Agent, own: Own) -> Facts<'_> {
    let snapshot = &agent.snapshot;
    Facts {
        instance: snapshot.about.owner.instance.as_deref(),
        group: Some(GROUP),
        zone: Some("a"),
        lifecycle: Some(if own.leaving { "Terminated" } else { "InService" }),
        has_keys: true,
        draining: false,
        on_hold: own.on_hold,
        gate_closed: false,
        components: &snapshot.components,
        votes: &snapshot.group,
        memory: &agent.replacer.memory,
        records: &agent.replacer.records,
        look: agent.replacer.looked.as_ref(),
    }
}

pub fn plan(agent: &Agent, own: Own, policy: &ReplacePolicy, now: &Stamp) -> Plan {
    plan::plan(&facts(agent, own), policy, now)
}

/// The slot of the component whose fault is nearest to a replacement, and the cause's name.
pub fn fault(agent: &Agent, own: Own, policy: &ReplacePolicy, now: &Stamp) -> Option<(usize, &'static str)> {
    let fault = plan::fault(&facts(agent, own), policy, now)?;
    Some((SITE.iter().position(|component| *component == fault.component)?, fault.cause.name()))
}

/// `POST /peer/grant`: what `agent` says to `record`, and keeps.
pub fn grant(agent: &mut Agent, own: Own, policy: &ReplacePolicy, record: &Record, now: &Stamp) -> Reply {
    let myself = agent.snapshot.about.owner.instance.as_ref() == Some(&record.instance);
    let wants = !myself && plan::wants_to_go(&facts(agent, own), policy, now);
    let Some(instance) = agent.snapshot.about.owner.instance.clone() else { return Reply::Denied(Denial::Stranger) };
    let replacer = &mut agent.replacer;
    let giver = Giver {
        instance: &instance,
        group: GROUP,
        cooldown: policy.cooldown,
        began: &replacer.memory.began,
        given: replacer.memory.given.as_ref(),
        wants,
        is_serving: agent.snapshot.instance.state.is_ok() && !own.leaving,
        records: &replacer.records,
        serving: &agent.snapshot.group.serving,
    };
    match giver.judge(record, now) {
        Ok(grant) => {
            replacer.memory.given = Some(grant);
            if record.instance != instance {
                replacer.records.keep(record.clone(), Duration::ZERO, now);
            }
            Reply::Granted
        }
        Err(denial) => Reply::Denied(denial),
    }
}

/// `DELETE /peer/grant/ID`.
pub fn take_back(agent: &mut Agent, id: &str) {
    agent.replacer.memory.take_back(id);
    agent.replacer.records.drop(id);
}

pub fn record(agent: &Agent, id: String, cause: &str, now: &Stamp) -> Record {
    Record {
        id,
        at: now.wall,
        group: GROUP.to_owned(),
        instance: agent.snapshot.about.owner.instance.clone().unwrap_or_default(),
        cause: cause.to_owned(),
        detail: String::new(),
        votes: Tally::default(),
        plan: String::new(),
        transitions: Vec::new(),
    }
}
