//! What may happen: turns of agents, the passing of time, faults, repairs, and what operators do.

use dr_agent::authority::State;
use dr_agent::authority::operator::{self, Release};

use super::explore::fingerprint;
use super::turn::{Rules, Turn, insert, poll, step};
use super::world::{Agent, CALM, Close, Db, H, P, World, owner};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// An agent's poll, with the instance of the other region that answers it.
    Poll(usize, Option<usize>),
    /// The next step of an agent's decision.
    Step(usize),
    /// A poll's time passes; Route 53's checkers hear these instances: home's region, the peer's `promoted`.
    Tick(usize, usize),
    /// An agent begins to read its own database, and the answer comes with its next poll.
    BeginRead(usize),
    Fault(Fault, usize),
}

/// Faults, repairs and orders; each has a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A region's database stops; it comes back by `DbUp`.
    DbDown,
    DbUp,
    /// The replica becomes writable, its channel goes, at once.
    Promote,
    /// The same as it is: it takes longer than a poll of every agent.
    PromoteSlowly,
    /// A region's database is made again as a replica of the other one, under a new identity.
    Rebuild,
    /// The same under the old identity.
    Demote,
    /// A copy of the other region's database under this one's name, writable, of a new identity.
    RestoreOther,
    /// This region's database as it was, of a new identity: in place, writable.
    RestoreOwn,
    /// The same from before its newest row.
    RestoreOld,
    /// The replica is made writable by mistake, or that is put right.
    Misconfigure,
    /// The account may not insert any more.
    NoInsert,
    /// The regions do not reach each other, until `Heal`.
    Partition,
    Heal,
    /// An agent's process dies, until `Start`.
    Crash,
    Start,
    Reboot,
    /// An instance is replaced: nothing of it is left.
    Replace,
    /// `fence close` in a region.
    Close,
    /// The time of a region's close is over.
    Expire,
    /// `fence release` in a region.
    Release,
    /// `authority claim` in a region.
    Claim,
    /// `authority init` in home.
    Init,
}

impl Fault {
    pub const ALL: [Self; 22] = [
        Self::DbDown,
        Self::DbUp,
        Self::Promote,
        Self::PromoteSlowly,
        Self::Rebuild,
        Self::Demote,
        Self::RestoreOther,
        Self::RestoreOwn,
        Self::RestoreOld,
        Self::Misconfigure,
        Self::NoInsert,
        Self::Partition,
        Self::Heal,
        Self::Crash,
        Self::Start,
        Self::Reboot,
        Self::Replace,
        Self::Close,
        Self::Expire,
        Self::Release,
        Self::Claim,
        Self::Init,
    ];

    pub fn index(self) -> usize {
        Self::ALL.iter().position(|fault| *fault == self).unwrap()
    }

    /// Happens to one agent, not to a region.
    fn is_agents(self) -> bool {
        matches!(self, Self::Crash | Self::Start | Self::Reboot | Self::Replace)
    }

    /// Repairs cost nothing: what broke may always be put right.
    fn is_free(self) -> bool {
        matches!(self, Self::DbUp | Self::Heal | Self::Start)
    }
}

/// Everything that may happen now.
pub fn possible(world: &World, rules: Rules) -> Vec<Act> {
    let mut acts = Vec::new();
    for (index, agent) in world.agents.iter().enumerate().filter(|(_, agent)| agent.up) {
        if !agent.queue.is_empty() {
            acts.push(Act::Step(index));
            continue;
        }
        if agent.polls == 0 || (agent.hurries && agent.polls < 2) {
            acts.extend(answerers(world, agent.region).into_iter().map(|answers| Act::Poll(index, answers)));
            if rules.slow_reads && agent.held.is_none() && world.db[agent.region].up {
                acts.push(Act::BeginRead(index));
            }
        }
    }
    if world.agents.iter().all(|agent| !agent.up || (agent.polls > 0 && agent.queue.is_empty() && agent.held.is_none()))
    {
        acts.extend(checked(world));
    }
    if world.left > 0 {
        for fault in Fault::ALL {
            if !fault.is_free() && world.budget[fault.index()] == 0 {
                continue;
            }
            let count = if fault.is_agents() { world.agents.len() } else { 2 };
            let places = (0..count).filter(|place| is_possible(world, fault, *place));
            acts.extend(places.map(|place| Act::Fault(fault, place)));
        }
    } else {
        for fault in [Fault::DbUp, Fault::Heal, Fault::Start] {
            let count = if fault.is_agents() { world.agents.len() } else { 2 };
            acts.extend(
                (0..count).filter(|place| is_possible(world, fault, *place)).map(|place| Act::Fault(fault, place)),
            );
        }
    }
    acts
}

/// The instances of the other region that may answer, each once; none of them if nobody does.
pub fn answerers(world: &World, region: usize) -> Vec<Option<usize>> {
    let mut answers: Vec<Option<usize>> = Vec::new();
    for (index, agent) in world.agents.iter().enumerate() {
        let says = agent.up && agent.proof.is_some() && world.link;
        let is_new = answers.iter().flatten().all(|other| world.agents[*other].proof != agent.proof);
        if agent.region != region && says && is_new {
            answers.push(Some(index));
        }
    }
    if answers.is_empty() {
        answers.push(None);
    }
    answers
}

/// The ticks that may come: by what Route 53's checkers hear.
fn checked(world: &World) -> Vec<Act> {
    if world.dns.is_none() {
        return vec![Act::Tick(0, 0)];
    }
    let of = |region: usize| {
        let agents = world.agents.iter().enumerate();
        agents.filter(move |(_, agent)| agent.region == region).map(|(index, _)| index)
    };
    of(H).flat_map(|home| of(P).map(move |peer| Act::Tick(home, peer))).collect()
}

fn is_possible(world: &World, fault: Fault, place: usize) -> bool {
    let db = world.db.get(place);
    let other = world.db.get(1 - place.min(1));
    match fault {
        Fault::DbDown => db.is_some_and(|db| db.up),
        Fault::DbUp => db.is_some_and(|db| !db.up),
        Fault::Promote | Fault::PromoteSlowly => {
            db.is_some_and(|db| db.up && db.channel && !db.writable && db.busy == 0)
        }
        Fault::Rebuild | Fault::Demote => {
            // To rebuild takes longer than a poll of every agent.
            world.link && world.db.iter().all(|db| db.busy == 0) && db.is_some() && other.is_some_and(Db::is_primary)
        }
        Fault::RestoreOther => world.link && db.is_some_and(|db| db.busy == 0) && other.is_some_and(|other| other.up),
        Fault::RestoreOwn | Fault::RestoreOld => db.is_some_and(Db::is_primary),
        Fault::Misconfigure => db.is_some_and(|db| db.up && db.channel),
        Fault::NoInsert => db.is_some_and(|db| !db.no_insert),
        Fault::Partition => place == 0 && world.link,
        Fault::Heal => place == 0 && !world.link,
        Fault::Crash => world.agents[place].up,
        Fault::Start => !world.agents[place].up,
        Fault::Reboot | Fault::Replace => true,
        Fault::Expire => db.is_some_and(|db| matches!(db.close[place], Close::InForce(_))),
        Fault::Close | Fault::Release | Fault::Claim | Fault::Init => {
            world.agents.iter().any(|agent| agent.up && agent.region == place)
        }
    }
}

/// Lets it happen. A poll's turn is returned for the laws; `None` for what changes nothing.
pub fn act(world: &World, act: Act, rules: Rules) -> Option<(World, Option<Turn>)> {
    let mut next = world.clone();
    let mut turn = None;
    match act {
        Act::Poll(index, answering) => turn = Some(poll(&mut next, index, answering, rules)),
        Act::Step(index) => _ = step(&mut next, index),
        Act::Tick(home, peer) => {
            super::dns::hear(&mut next, home, peer);
            next.tick();
        }
        Act::BeginRead(index) => {
            let agent = &mut next.agents[index];
            agent.held = Some((next.db[agent.region], agent.now()));
        }
        Act::Fault(fault, place) => {
            if !fault.is_free() {
                next.budget[fault.index()] -= 1;
                next.left -= 1;
            }
            happen(&mut next, fault, place, rules).then_some(())?;
        }
    }
    Some((next, turn))
}

fn happen(world: &mut World, fault: Fault, place: usize, rules: Rules) -> bool {
    let fresh = world.next_server;
    match fault {
        Fault::DbDown => {
            world.db[place].up = false;
            // A close that ends while the other database cannot be read opens.
            world.promised = None;
        }
        Fault::DbUp => world.db[place].up = true,
        Fault::Promote | Fault::PromoteSlowly => {
            let db = &mut world.db[place];
            let at_once = fault == Fault::Promote;
            *db = Db { writable: at_once, channel: false, busy: 2, unanswered: at_once, promoting: !at_once, ..*db };
            let is_closed = matches!(world.db[1 - place].close[1 - place], Close::InForce(_));
            if is_closed && world.db[1 - place].is_primary() && world.link && world.written_to() == [false; 2] {
                world.promised = Some(place);
            }
        }
        Fault::Rebuild | Fault::Demote => {
            let server = if fault == Fault::Rebuild { fresh } else { world.db[place].server };
            world.db[place] = Db::replica_of(&world.db[1 - place], server);
            world.promised = None;
        }
        Fault::RestoreOther => {
            world.db[place] = Db {
                busy: 2,
                was_replica: false,
                server: fresh,
                up: true,
                writable: true,
                channel: false,
                unanswered: false,
                ..world.db[1 - place]
            }
        }
        Fault::RestoreOwn => {
            let db = &mut world.db[place];
            *db = Db { server: fresh, was_replica: false, unanswered: false, ..*db };
        }
        Fault::RestoreOld => {
            let db = &mut world.db[place];
            *db = Db {
                server: fresh,
                was_replica: false,
                unanswered: false,
                epoch: db.parent,
                parent: 0,
                superseded: [0; 2],
                ..*db
            };
            // What was written after the backup is lost, and with it what the operator must vouch for.
            world.calm = 0;
        }
        Fault::Misconfigure => world.db[place].writable = !world.db[place].writable,
        Fault::NoInsert => world.db[place].no_insert = true,
        Fault::Partition => {
            world.link = false;
            world.promised = None;
            world.calm = 0;
        }
        Fault::Heal => {
            world.link = true;
            world.replicate();
        }
        Fault::Crash => {
            world.agents[place].up = false;
            world.agents[place].queue.clear();
            world.calm = 0;
        }
        Fault::Start => world.agents[place].start(),
        Fault::Reboot => {
            let agent = &mut world.agents[place];
            agent.boot = !agent.boot;
            agent.serving = agent.saved.as_ref().is_none_or(|saved| saved.get().known.is_none());
            agent.waited = 0;
            agent.start();
        }
        Fault::Replace => {
            let boot = !world.agents[place].boot;
            let mut agent = Agent::new(world.agents[place].region);
            agent.boot = boot;
            agent.start();
            world.agents[place] = agent;
        }
        Fault::Expire => {
            let Close::InForce(number) = world.db[place].close[place] else { return false };
            world.db[place].close[place] = Close::Expired(number);
            // That a close lasts until the promotion is done is the operator's.
            if world.db[1 - place].promoting {
                world.promised = None;
            }
        }
        Fault::Close | Fault::Release | Fault::Claim | Fault::Init => return order(world, fault, place, rules),
    }
    if matches!(fault, Fault::Rebuild | Fault::RestoreOther | Fault::RestoreOwn | Fault::RestoreOld) {
        world.next_server += 1;
    }
    true
}

/// An operator's order, on some agent of the region: judged by the product on a round of its own.
fn order(world: &mut World, fault: Fault, region: usize, rules: Rules) -> bool {
    let Some(index) = world.agents.iter().position(|agent| agent.up && agent.region == region) else { return false };
    let mut looked = world.clone();
    looked.agents[index].polls = 0;
    looked.agents[index].held = None;
    let answering = answerers(world, region)[0];
    let turn = poll(&mut looked, index, answering, Rules { stepwise: true, ..rules });
    let row = match fault {
        Fault::Close => {
            if operator::close(&turn.facts, &turn.decision).is_err() {
                return false;
            }
            let number = match world.db[region].close[region] {
                Close::InForce(number) | Close::Expired(number) => number + 1,
                Close::Never | Close::Released => 1,
            };
            world.db[region].close[region] = Close::InForce(number);
            return true;
        }
        Fault::Init => operator::init(&turn.facts, &turn.decision, false).ok(),
        Fault::Claim => operator::claim(&turn.facts, &turn.decision).ok(),
        _ => match operator::release(&turn.facts, &turn.decision) {
            Ok(Release::EndClose(_)) => {
                world.db[region].close[region] = Close::Released;
                world.promised = None;
                // Opened by an operator's word against what may be promoted.
                if !world.db[1 - region].channel {
                    world.calm = 0;
                }
                return true;
            }
            Ok(Release::Claim(row)) => Some(row),
            Err(_) => None,
        },
    };
    world.promised = None;
    row.is_some_and(|row| insert(world, region, &row))
}

/// Brings everything back and lets time pass fairly.
pub fn settle(world: &World, rules: Rules, ticks: usize) -> World {
    let mut world = world.clone();
    world.link = true;
    for db in &mut world.db {
        db.up = true;
    }
    for agent in &mut world.agents {
        if !agent.up {
            agent.start();
        }
    }
    let mut last = 0;
    for _ in 0..ticks {
        world.replicate();
        for _ in 0..2 {
            for index in 0..world.agents.len() {
                while step(&mut world, index) {}
                let answering = answerers(&world, world.agents[index].region)[0];
                poll(&mut world, index, answering, Rules { stepwise: false, ..rules });
            }
        }
        world.tick();
        let print = fingerprint(&world);
        if std::mem::replace(&mut last, print) == print {
            break;
        }
    }
    world
}

/// A world in which home owns epoch 1 and the peer replicates, or before that.
pub fn begin(count: [usize; 2], is_initialised: bool) -> World {
    let mut home = Db::primary(1);
    if is_initialised {
        home = Db { epoch: 1, row_server: 1, ..home };
    }
    let mut agents: Vec<_> = (0..count[H]).map(|_| Agent::new(H)).chain((0..count[P]).map(|_| Agent::new(P))).collect();
    for agent in &mut agents {
        // Before `init` an app's writer is what somebody configured: home's database.
        agent.writers = [true, false];
        agent.new = false;
        agent.start();
    }
    let mut peer = Db::replica_of(&home, 2);
    peer.busy = 0;
    let world = World {
        db: [home, peer],
        agents,
        link: true,
        tags: [(0, 0); 2],
        budget: vec![0; Fault::ALL.len()],
        left: 0,
        calm: CALM,
        written: home.epoch,
        surplus: 0,
        promised: None,
        dns: None,
        next_server: 3,
    };
    settle(&world, Rules::default(), 6)
}

/// The owner by the highest epoch that stands in a database.
pub fn rightful(world: &World) -> usize {
    owner(world.db[H].epoch.max(world.db[P].epoch))
}

/// After the steps given, each followed by fair time.
pub fn after(mut world: World, faults: &[(Fault, usize)]) -> World {
    for (fault, place) in faults {
        assert!(happen(&mut world, *fault, *place, Rules::default()), "{fault:?} {place}");
        world = settle(&world, Rules::default(), 8);
    }
    assert!(world.agents.iter().all(|agent| agent.memory.get().state != State::Boot));
    world.calm = CALM;
    world
}
