//! An agent's turn: it looks at every source that it reaches, the product decides, and the steps are taken in the
//! product's order.

use std::time::Duration;

use dr_agent::authority::State;
use dr_agent::authority::claim::NewRow;
use dr_agent::authority::database::Kind;
use dr_agent::authority::decide::{Decision, decide};
use dr_agent::authority::facts::{Across, Applied, Asked, Database, Facts, Group, Member, Source, Tagged, Tags, Waits};
use dr_agent::authority::memory::{Memory, Run};
use dr_agent::authority::outputs::{RegionRule, Step, steps};
use dr_agent::authority::word::{Proof, Word};

use super::world::{Agent, Close, Db, Kept, REGIONS, Todo, World, at, attempt, bits, place, servers, until_time};

/// Which of the sources there are, and how the world is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// There are no tags.
    pub no_tags: bool,
    /// Steps are taken one by one, and anything may come between them.
    pub stepwise: bool,
    /// A read of the own database may take its time.
    pub slow_reads: bool,
}

const WAITS: Waits = Waits { boot: Duration::from_secs(10), takeover: Duration::from_secs(15) };

/// What one agent sees now; the other region's instance `answering` answers its question.
fn facts(world: &World, index: usize, answering: Option<usize>, rules: Rules) -> Facts {
    let agent = &world.agents[index];
    let region = agent.region;
    let now = agent.now();
    let database = |which: usize| {
        let mut database = Database::default();
        if let Some((db, began)) = &agent.seen[which] {
            database.take(attempt(Some(db), *began));
        }
        let target = if which == 0 { region } else { 1 - region };
        let reached = world.db[target].up && (which == 0 || world.link);
        match agent.held.filter(|_| which == 0) {
            Some((db, began)) => database.take(attempt(Some(&db), began)),
            None => database.take(attempt(reached.then_some(&world.db[target]), now)),
        }
        database
    };
    let answer = match answering.and_then(|answering| world.agents[answering].proof.clone()) {
        _ if !world.link => Across::Silent,
        Some(proof) => Across::Verified(proof.get().clone()),
        None => Across::Failed,
    };
    let members = world.members(index).enumerate().map(|(number, member)| Member {
        instance: format!("i{number}"),
        region_closed: member.region_rule == RegionRule::Closed || member.fenced,
        word: Some(member.word.get().clone()),
    });
    let tags = |(epoch, roll): (u8, u16)| Tags { epoch: super::world::claim(epoch), roll: servers(roll) };
    let tagged = || {
        let began = if agent.reads_tags { Some(now) } else { agent.tags_asked };
        let stands = tags(if agent.reads_tags { world.tags[region] } else { agent.tags });
        Tagged { last: began.map(|began| Asked { began: at(began), answer: Some(stands.clone()) }), stands }
    };
    Facts {
        now: at(now + 1_000),
        place: place(region),
        waits: WAITS,
        own: database(0),
        other: Some(database(1)),
        across: Some(Source { last: Some(Asked { began: at(now), answer }) }),
        group: Group { asked: Some(at(now)), members: members.collect(), silent: Vec::new() },
        tags: (!rules.no_tags).then(tagged),
        applied: applied(agent),
    }
}

fn applied(agent: &Agent) -> Applied {
    let writers = [0, 1].into_iter().filter(|region| agent.writers[*region]);
    Applied {
        gate_closed: agent.fenced,
        writers: writers.map(|region| REGIONS[region].to_owned()).collect(),
        never_had_writer: agent.new,
        old_writer_sessions: 0,
    }
}

/// What became of a poll, for the laws.
pub struct Turn {
    pub decision: Decision,
    pub facts: Facts,
}

/// One poll of one agent: looks, decides, and does it (or leaves it to be done step by step).
pub fn poll(world: &mut World, index: usize, answering: Option<usize>, rules: Rules) -> Turn {
    let facts = facts(world, index, answering, rules);
    let decision = decide(&facts, world.agents[index].memory.get());
    let todo = todo(&decision, &facts.applied);
    let tags = world.tags[world.agents[index].region];
    let agent = &mut world.agents[index];
    for (which, database) in [(0, &facts.own), (1, facts.other.as_ref().unwrap())] {
        if database.fresh().is_some() {
            let target = if which == 0 { agent.region } else { 1 - agent.region };
            let (db, began) = agent.held.filter(|_| which == 0).unwrap_or((world.db[target], agent.now()));
            agent.seen[which] = Some((db, began));
        }
    }
    agent.held = None;
    if agent.reads_tags && !rules.no_tags {
        agent.tags = tags;
        agent.tags_asked = Some(agent.now());
    }
    agent.reads_tags = decision.reads_tags;
    agent.hurries = decision.hurries;
    agent.polls += 1;
    agent.memory = Kept::new(decision.memory.clone());
    agent.region_rule = decision.region;
    agent.queue = todo;
    publish(world, index, &decision, &facts);
    enrol(world, index, &decision);
    if !rules.stepwise || world.agents[index].queue.is_empty() {
        while step(world, index) {}
        publish(world, index, &decision, &facts);
    }
    Turn { decision, facts }
}

/// The steps of a decision, with the state file saved where the order has its place: after the gate, before anything
/// opens.
fn todo(decision: &Decision, applied: &Applied) -> Vec<Todo> {
    let persist = Todo::Persist(Kept::new(decision.memory.clone()));
    let mut todo: Vec<_> = steps(decision, applied).into_iter().map(Todo::Step).collect();
    let closing = |todo: &Todo| matches!(todo, Todo::Step(Step::CloseRegion | Step::CloseGate));
    let place = todo.iter().position(|todo| !closing(todo)).unwrap_or(todo.len());
    todo.insert(place, persist);
    todo
}

/// What others are told after a decision, as things stand then.
fn publish(world: &mut World, index: usize, decision: &Decision, facts: &Facts) {
    let agent = &mut world.agents[index];
    let facts = Facts { applied: applied(agent), ..facts.clone() };
    agent.word = Kept::new(Word::of(decision, &facts));
    agent.proof = Some(Kept::new(Proof::of(decision, &facts)));
}

fn enrol(world: &mut World, index: usize, decision: &Decision) {
    let region = world.agents[index].region;
    if decision.enrol.is_some() && world.link && world.db[1 - region].is_primary() {
        world.db[1 - region].roll[region] |= 1 << world.db[region].server;
    }
    if let Some(until) = decision.release {
        let close = &mut world.db[region].close[region];
        if matches!(close, Close::Expired(number) if until_time(*number) == until) {
            *close = Close::Released;
        }
    }
}

/// Takes the next step of an agent. False when there is none.
pub fn step(world: &mut World, index: usize) -> bool {
    if world.agents[index].queue.is_empty() {
        return false;
    }
    let todo = world.agents[index].queue.remove(0);
    let done = match &todo {
        Todo::Persist(memory) => {
            world.agents[index].saved = Some(Kept::new(saved(memory.get())));
            true
        }
        Todo::Step(step) => take(world, index, step),
    };
    let agent = &mut world.agents[index];
    // As in the agent: the gate waits for the repoint, and for nothing else that failed.
    if !done && matches!(todo, Todo::Step(Step::Repoint(_))) {
        agent.queue.retain(|todo| !matches!(todo, Todo::Step(Step::OpenGate | Step::OpenRegion)));
    }
    if agent.queue.is_empty() && agent.memory.get().state != State::Boot && !agent.serving {
        agent.serving = true;
        agent.waited = 0;
    }
    true
}

fn saved(memory: &Memory) -> Memory {
    let mut saved = memory.clone();
    saved.run = Run::default();
    saved.close.over = None;
    saved.other_close.over = None;
    saved
}

fn take(world: &mut World, index: usize, step: &Step) -> bool {
    let region = world.agents[index].region;
    let number = |name: &str| usize::from(name == REGIONS[1]);
    match step {
        Step::CloseRegion | Step::OpenRegion => {}
        Step::CloseGate => world.agents[index].fenced = true,
        Step::OpenGate => world.agents[index].fenced = false,
        Step::StopWriter => world.agents[index].writers = [false; 2],
        Step::Record(records) => {
            if let Some(row) = &records.superseded
                && world.db[region].is_primary()
            {
                let by = &mut world.db[region].superseded[region];
                *by = (*by).max(small(row.by.epoch));
            }
            let tags = &mut world.tags[region];
            if let Some(claim) = &records.epoch_tag {
                tags.0 = tags.0.max(small(claim.epoch));
            }
            if let Some(roll) = &records.roll_tag {
                tags.1 |= bits(roll);
            }
            world.agents[index].tags = *tags;
        }
        Step::Claim(row) => return insert(world, region, row),
        Step::Repoint(target) => {
            let target = number(target);
            let db = &world.db[target];
            let known = small(world.agents[index].memory.get().known_epoch());
            let reached = world.link || target == region;
            let is_unclaimed = known == 0;
            let is_owner = super::world::owner(db.epoch) == target && db.epoch >= known && db.epoch > 0;
            if !(db.is_primary() && reached && (is_unclaimed || is_owner)) {
                return false;
            }
            let agent = &mut world.agents[index];
            agent.writers = [target == 0, target == 1];
            agent.new = false;
        }
    }
    true
}

fn small(epoch: u64) -> u8 {
    u8::try_from(epoch).unwrap()
}

/// The compare-and-swap of a claim, after three fresh connections.
pub fn insert(world: &mut World, region: usize, row: &NewRow) -> bool {
    let db = &mut world.db[region];
    if !db.is_primary() || db.no_insert || u64::from(db.epoch) != row.parent {
        return false;
    }
    // A promotion that nobody has made, or the second row for one.
    if row.kind == Kind::Promotion && !(db.unanswered && db.was_replica) {
        world.surplus += 1;
    }
    *db = Db {
        epoch: small(row.epoch),
        parent: small(row.parent),
        row_kind: row.kind,
        row_server: db.server,
        unanswered: false,
        ..*db
    };
    if db.close[region] != Close::Never {
        db.close[region] = Close::Released;
    }
    world.written = world.written.max(db.epoch);
    true
}
