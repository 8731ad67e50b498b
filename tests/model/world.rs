//! What is true: two regions with a database each, agents, the link between them, tags, Route 53. Small and hashable;
//! the product's facts are made of it when an agent looks.
//!
//! Time: a tick is one poll. The present is always [`NOW`], and what is remembered ages with each tick, as far as any
//! rule can still tell it apart.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use dr_agent::authority::Claim;
use dr_agent::authority::State;
use dr_agent::authority::database::{Attempt, Closing, Enrolled, Kind, Read, Row, Superseded, Tables, Unread};
use dr_agent::authority::facts::Place;
use dr_agent::authority::memory::Memory;
use dr_agent::authority::outputs::{RegionRule, Step};
use dr_agent::authority::word::{Proof, Word};
use dr_agent::clock::BootTime;
use jiff::Timestamp;

pub const REGIONS: [&str; 2] = ["h", "p"];
pub const H: usize = 0;
pub const P: usize = 1;

/// The beginning of the present tick, in seconds since the boot.
pub const NOW: u64 = 1_000;
/// A tick in seconds.
pub const POLL: u64 = 5;
/// No rule tells greater ages apart.
const OLDEST: u64 = 16;

pub fn at(milliseconds: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(milliseconds))
}

/// The odd epochs are home's.
pub fn owner(epoch: u8) -> usize {
    usize::from(epoch.is_multiple_of(2))
}

pub fn claim(epoch: u8) -> Option<Claim> {
    (epoch > 0).then(|| Claim { epoch: u64::from(epoch), region: REGIONS[owner(epoch)].to_owned() })
}

/// A planned close in a database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Close {
    #[default]
    Never,
    InForce(u8),
    Expired(u8),
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Db {
    pub up: bool,
    pub writable: bool,
    pub channel: bool,
    pub server: u8,
    /// The newest row.
    pub epoch: u8,
    /// The epoch before it, for a backup from then.
    pub parent: u8,
    pub row_kind: Kind,
    pub row_server: u8,
    /// The highest epoch that superseded each region, as recorded here.
    pub superseded: [u8; 2],
    /// Servers that were seen replicating, as a set of bits for each region.
    pub roll: [u16; 2],
    pub close: [Close; 2],
    /// Ticks until it can be rebuilt or promoted again.
    pub busy: u8,
    /// The server has replicated.
    pub was_replica: bool,
    /// The agents may not insert.
    pub no_insert: bool,
    /// A promotion that no row has answered yet.
    pub unanswered: bool,
    /// It is being promoted: no replica any more, and not writable yet.
    pub promoting: bool,
}

/// One agent and its machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Agent {
    pub region: usize,
    /// The process runs.
    pub up: bool,
    /// Nginx serves: it was not waiting for the first decision of a boot.
    pub serving: bool,
    /// Ticks for which it has waited.
    pub waited: u8,
    pub boot: bool,
    pub memory: Kept<Memory>,
    /// The state file.
    pub saved: Option<Kept<Memory>>,
    pub fenced: bool,
    /// The regions that the outputs name.
    pub writers: [bool; 2],
    pub new: bool,
    /// Its own region's database and the other one as last read, and when.
    pub seen: [Option<(Db, u64)>; 2],
    /// A read of its own database that has begun and not ended.
    pub held: Option<(Db, u64)>,
    /// What it knows of the tags, and when it asked last.
    pub tags: (u8, u16),
    pub tags_asked: Option<u64>,
    pub reads_tags: bool,
    /// Polls in this tick.
    pub polls: u8,
    pub hurries: bool,
    pub word: Kept<Word>,
    pub proof: Option<Kept<Proof>>,
    pub region_rule: RegionRule,
    /// What is left to do of the last decision, when its steps are taken one by one.
    pub queue: Vec<Todo>,
}

/// A step to take.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Todo {
    Step(Step),
    Persist(Kept<Memory>),
}

/// Route 53: the home record's check, and where the name points.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Dns {
    /// Equal answers in a row of home's region and of the peer's `promoted`, and what they were.
    pub streak: [(bool, u8); 2],
    pub home_healthy: bool,
    pub promoted: bool,
    pub at_peer: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub db: [Db; 2],
    pub agents: Vec<Agent>,
    /// The regions reach each other.
    pub link: bool,
    pub tags: [(u8, u16); 2],
    /// What may still happen, by kind of act.
    pub budget: Vec<u8>,
    /// Acts that may still happen, in all.
    pub left: u8,
    /// Ticks since isolation, a dead agent or an operator's order could excuse two writers.
    pub calm: u8,
    /// The highest epoch ever written.
    pub written: u8,
    /// Rows that were written for a promotion without there being one.
    pub surplus: u8,
    /// The region that was promoted while the other one was closed for it, so that nothing may be written there.
    pub promised: Option<usize>,
    pub dns: Option<Dns>,
    pub next_server: u8,
}

/// The calm that excuses nothing.
pub const CALM: u8 = 3;

impl Db {
    pub const fn primary(server: u8) -> Self {
        Self {
            up: true,
            writable: true,
            channel: false,
            server,
            epoch: 0,
            parent: 0,
            row_kind: Kind::Init,
            row_server: 0,
            superseded: [0, 0],
            roll: [0, 0],
            close: [Close::Never; 2],
            busy: 0,
            was_replica: false,
            no_insert: false,
            unanswered: false,
            promoting: false,
        }
    }

    /// As a replica of `source`: its data, this server.
    pub const fn replica_of(source: &Self, server: u8) -> Self {
        Self {
            up: true,
            writable: false,
            channel: true,
            server,
            was_replica: true,
            no_insert: false,
            unanswered: false,
            promoting: false,
            busy: 2,
            ..*source
        }
    }

    /// Takes over the data of its source.
    pub fn replicate(&mut self, source: &Self) {
        let Self { up, writable, channel, server, busy, was_replica, no_insert, unanswered, promoting, .. } = *self;
        *self = Self { up, writable, channel, server, busy, was_replica, no_insert, unanswered, promoting, ..*source };
    }

    pub fn read(&self) -> Read {
        let time = Timestamp::UNIX_EPOCH;
        let newest = claim(self.epoch).map(|claim| Row {
            claim,
            parent: u64::from(self.parent),
            server: name(self.row_server),
            kind: self.row_kind,
            since: time,
        });
        let superseded = (0..2).filter_map(|region| {
            let by = claim(self.superseded[region])?;
            Some(Superseded { region: REGIONS[region].to_owned(), epoch: 0, by, since: time })
        });
        let mut roll = Vec::new();
        let mut closing = Vec::new();
        for (region, named) in REGIONS.map(ToOwned::to_owned).into_iter().enumerate() {
            let bits = (0..16).filter(|bit| self.roll[region] >> bit & 1 == 1);
            roll.extend(bits.map(|bit| Enrolled { server: name(bit), region: named.clone() }));
            let (until, is_in_force, is_released) = match self.close[region] {
                Close::Never => continue,
                Close::InForce(until) => (until, true, false),
                Close::Expired(until) => (until, false, false),
                Close::Released => (0, false, true),
            };
            closing.push(Closing {
                region: named,
                is_drill: false,
                until: until_time(until),
                is_in_force,
                is_released,
                reason: String::new(),
                by_whom: String::new(),
            });
        }
        let tables = Tables { newest, superseded: superseded.collect(), roll, closing, ..Tables::default() };
        Read {
            server: name(self.server),
            is_writable: self.writable,
            channels: Some(u32::from(self.channel)),
            lag_seconds: None,
            tables: Some(tables),
        }
    }

    /// Writable, and no replica.
    pub fn is_primary(&self) -> bool {
        self.up && self.writable && !self.channel
    }
}

pub fn until_time(until: u8) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs(u64::from(until))
}

pub fn name(server: u8) -> String {
    format!("s{server}")
}

pub fn bits(servers: &BTreeSet<String>) -> u16 {
    servers.iter().filter_map(|server| server[1..].parse::<u8>().ok()).fold(0, |bits, bit| bits | 1 << bit)
}

pub fn servers(bits: u16) -> BTreeSet<String> {
    (0..16).filter(|bit| bits >> bit & 1 == 1).map(name).collect()
}

pub fn place(region: usize) -> Place {
    Place {
        region: REGIONS[region].to_owned(),
        other: REGIONS[1 - region].to_owned(),
        home: REGIONS[H].to_owned(),
        regions: REGIONS.map(ToOwned::to_owned),
    }
}

pub fn attempt(db: Option<&Db>, began: u64) -> Attempt {
    let result = db.map(Db::read).ok_or_else(|| Unread::Failed(String::new()));
    Attempt { began: at(began), ended: at(began + 500), result }
}

impl Agent {
    /// An agent on a machine that nobody has seen before.
    pub fn new(region: usize) -> Self {
        let mut agent = Self {
            region,
            up: true,
            serving: true,
            waited: 0,
            boot: false,
            memory: Kept::default(),
            saved: None,
            fenced: false,
            writers: [false; 2],
            new: true,
            seen: [None; 2],
            held: None,
            tags: (0, 0),
            tags_asked: None,
            reads_tags: true,
            polls: 0,
            hurries: true,
            word: Kept::default(),
            proof: None,
            region_rule: RegionRule::default(),
            queue: Vec::new(),
        };
        agent.start();
        agent
    }

    /// The process starts, from the state file.
    pub fn start(&mut self) {
        let saved = self.saved.as_ref().map(|saved| saved.get().clone());
        let memory = Memory::resume(saved, if self.boot { "b1" } else { "b0" }, at(self.now()));
        self.up = true;
        self.seen = [None; 2];
        self.held = None;
        self.tags = (0, 0);
        self.tags_asked = None;
        self.reads_tags = memory.state == State::Boot;
        self.hurries = true;
        self.queue.clear();
        self.word = Kept::new(Word {
            state: memory.state.name().to_owned(),
            boot_age_ms: Some(0),
            known: memory.known.clone(),
            took_over: memory.took_over,
            writer: self.writer().to_owned(),
            roll: memory.roll.iter().cloned().collect(),
            gate_closed: self.fenced,
            ..Word::default()
        });
        self.proof = None;
        self.region_rule = memory.region;
        self.memory = Kept::new(memory);
    }

    fn writer(&self) -> &'static str {
        match self.writers {
            [false, false] => "none",
            [true, _] if self.region == P => "h",
            [_, true] if self.region == H => "p",
            _ => REGIONS[self.region],
        }
    }

    /// Now, in milliseconds, by its own clock.
    pub fn now(&self) -> u64 {
        NOW * 1_000 + u64::from(self.polls) * 2_000
    }

    /// Users who reach it write to this region's database.
    pub fn users_write_to(&self, region: usize) -> bool {
        self.serving && !self.fenced && self.writers[region]
    }

    /// A tick has passed. Of times that are only compared with reads to come no more is kept than that they are past,
    /// and that no read so far came after them: whatever was judged on it has been decided.
    pub fn age(&mut self) {
        self.polls = 0;
        let past = at((NOW - 1) * 1_000);
        let mut memory = Memory::clone(self.memory.get());
        memory.run.started = at((NOW - OLDEST) * 1_000);
        memory.run.learned = past;
        memory.run.pending = memory.run.pending.map(|(epoch, since)| (epoch, aged(since)));
        memory.run.unclaimed = memory.run.unclaimed.map(|_| past);
        memory.boot_began = memory.boot_began.map(aged);
        for latch in [&mut memory.close, &mut memory.other_close] {
            latch.over = latch.over.map(|_| past);
        }
        self.memory = Kept::new(memory);
        if let Some(saved) = self.saved.as_ref().map(Kept::get)
            && saved.boot_began.is_some()
        {
            self.saved = Some(Kept::new(Memory { boot_began: saved.boot_began.map(aged), ..saved.clone() }));
        }
        for (_, began) in self.seen.iter_mut().flatten() {
            *began = (NOW - 2) * 1_000;
        }
        self.tags_asked = self.tags_asked.map(|_| (NOW - 2) * 1_000);
    }
}

/// A wait's beginning, a tick later: as if it was at the first poll of its tick.
fn aged(time: BootTime) -> BootTime {
    let second = time.elapsed().as_secs();
    let tick = second - second % POLL + 1;
    at((tick - POLL).max(NOW - OLDEST) * 1_000)
}

/// Something that many worlds share, with its hash.
#[derive(Debug, Clone, Default)]
pub struct Kept<T>(Rc<(u64, T)>);

impl<T: Hash> Kept<T> {
    pub fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(Rc::new((hasher.finish(), value)))
    }
}

impl<T> Kept<T> {
    pub fn get(&self) -> &T {
        &self.0.1
    }
}

impl<T> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.0.hash(state);
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}

impl<T> Eq for Kept<T> {}

impl World {
    /// The databases to which users write now.
    pub fn written_to(&self) -> [bool; 2] {
        [H, P].map(|region| {
            let db = &self.db[region];
            let reaches = |agent: &Agent| agent.region == region || self.link;
            db.up && db.writable && self.agents.iter().any(|agent| agent.users_write_to(region) && reaches(agent))
        })
    }

    pub fn members(&self, index: usize) -> impl Iterator<Item = &Agent> {
        let region = self.agents[index].region;
        let others =
            self.agents.iter().enumerate().filter(move |(other, agent)| *other != index && agent.region == region);
        others.map(|(_, agent)| agent).filter(|agent| agent.up)
    }

    /// The channel carries what the source has.
    pub fn replicate(&mut self) {
        for region in [H, P] {
            let source = self.db[1 - region];
            if self.db[region].channel && self.db[region].up && source.up && !source.channel && self.link {
                self.db[region].replicate(&source);
            }
        }
    }

    /// A poll's time passes for everybody.
    pub fn tick(&mut self) {
        self.replicate();
        for agent in &mut self.agents {
            agent.age();
            if !agent.serving {
                agent.waited += 1;
                // The boot gate ends, whatever the agent does.
                agent.serving = agent.waited >= 3;
            }
        }
        for db in &mut self.db {
            db.busy = db.busy.saturating_sub(1);
            if db.promoting && db.busy == 0 {
                *db = Db { promoting: false, writable: true, unanswered: true, busy: 2, ..*db };
            }
        }
        let excused = !self.link || self.agents.iter().any(|agent| !agent.up);
        self.calm = if excused { 0 } else { (self.calm + 1).min(CALM) };
    }
}
