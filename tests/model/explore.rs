//! Breadth-first over everything that may happen, each state once.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::acts::{Act, Fault, act, possible};
use super::laws;
use super::turn::Rules;
use super::world::World;

/// One scenario: where it begins, and what may happen.
pub struct Scenario {
    pub name: &'static str,
    pub begin: World,
    pub rules: Rules,
    /// How often each fault may happen, and how many in all.
    pub faults: &'static [(Fault, u8)],
    pub left: u8,
    /// The states at which it stops, complete or not.
    pub limit: usize,
    /// Of how many states one is taken to see how it settles.
    pub settle: u64,
    /// What must have come about on some path, so that the scenario shows anything.
    pub reached: fn(&World) -> bool,
    /// What must hold here beside the laws.
    pub always: fn(&World) -> bool,
}

pub struct Report {
    pub states: usize,
    pub transitions: usize,
    pub is_complete: bool,
}

/// Two agents of one region are alike: which is which makes no difference.
pub fn fingerprint(world: &World) -> u64 {
    let mut agents: Vec<(usize, u64)> = Vec::with_capacity(world.agents.len());
    for agent in &world.agents {
        let mut hasher = DefaultHasher::new();
        agent.hash(&mut hasher);
        agents.push((agent.region, hasher.finish()));
    }
    agents.sort_unstable();
    let mut hasher = DefaultHasher::new();
    let World { db, agents: _, link, tags, budget, left, calm, written, surplus, promised, dns, next_server } = world;
    (agents, db, link, tags, budget, left, calm).hash(&mut hasher);
    (written, surplus, promised, dns, next_server).hash(&mut hasher);
    hasher.finish()
}

impl Scenario {
    /// Looks at every state within the budget.
    ///
    /// # Errors
    /// The shortest way to a broken law, in words.
    pub fn explore(&self) -> Result<Report, String> {
        let mut begin = self.begin.clone();
        for (fault, count) in self.faults {
            begin.budget[fault.index()] = *count;
        }
        begin.left = self.left;
        let mut seen = HashSet::from([fingerprint(&begin)]);
        let mut ways: Vec<(u32, Option<Act>)> = vec![(0, None)];
        let mut left = VecDeque::from([(begin, 0_u32)]);
        let mut report = Report { states: 1, transitions: 0, is_complete: true };
        let mut reached = false;
        while let Some((world, number)) = left.pop_front() {
            for step in possible(&world, self.rules) {
                let Some((next, turn)) = act(&world, step, self.rules) else { continue };
                report.transitions += 1;
                let special = || if (self.always)(&next) { Ok(()) } else { Err("what always holds here".to_owned()) };
                let law = laws::check(&world, step, turn.as_ref(), &next).and_then(|()| special());
                law.map_err(|law| self.told(&ways, number, Some(step), &law))?;
                let print = fingerprint(&next);
                if !seen.insert(print) {
                    continue;
                }
                reached |= (self.reached)(&next);
                let next_number = u32::try_from(ways.len()).unwrap();
                ways.push((number, Some(step)));
                if print.is_multiple_of(self.settle) {
                    laws::settled(&next, self.rules).map_err(|law| self.told(&ways, next_number, None, &law))?;
                }
                if ways.len() >= self.limit {
                    report.is_complete = false;
                    left.clear();
                    break;
                }
                left.push_back((next, next_number));
            }
        }
        report.states = ways.len();
        if !reached {
            return Err(format!("{}: what it is about never came about in {} states", self.name, report.states));
        }
        Ok(report)
    }

    /// The way to a broken law, played once more.
    fn told(&self, ways: &[(u32, Option<Act>)], mut number: u32, last: Option<Act>, law: &str) -> String {
        let mut path: Vec<Act> = last.into_iter().collect();
        while let (before, Some(step)) = ways[number as usize] {
            path.push(step);
            number = before;
        }
        path.reverse();
        let mut world = self.begin.clone();
        for (fault, count) in self.faults {
            world.budget[fault.index()] = *count;
        }
        world.left = self.left;
        let mut text = format!("{}: {law}\n{}", self.name, line(&world));
        for step in path {
            let (next, turn) = act(&world, step, self.rules).unwrap();
            world = next;
            let _ = writeln!(text, "{step:?}");
            if let Some(turn) = turn {
                let why: Vec<_> = turn.decision.why.iter().map(ToString::to_string).collect();
                let _ =
                    writeln!(text, "    {}: {}; claim {:?}", turn.decision.state, why.join("; "), turn.decision.claim);
            }
            text.push_str(&line(&world));
        }
        text
    }
}

fn line(world: &World) -> String {
    let mut text = String::new();
    for (region, db) in world.db.iter().enumerate() {
        let _ = write!(
            text,
            "    db{region}: up {} rw {} ch {} s{} e{} sup {:?} close {:?} |",
            u8::from(db.up),
            u8::from(db.writable),
            u8::from(db.channel),
            db.server,
            db.epoch,
            db.superseded,
            db.close
        );
    }
    let _ = writeln!(text, " link {} calm {} dns {:?}", world.link, world.calm, world.dns.map(|dns| dns.at_peer));
    for agent in &world.agents {
        let _ = writeln!(
            text,
            "      {}{} {} known {} took {} fenced {} writers {:?} serving {} closed {} {}",
            agent.region,
            if agent.up { "" } else { " (down)" },
            agent.memory.get().state,
            agent.memory.get().known_epoch(),
            agent.memory.get().took_over,
            agent.fenced,
            agent.writers,
            agent.serving,
            agent.word.get().closed,
            if agent.queue.is_empty() { String::new() } else { format!("{:?}", agent.queue) },
        );
    }
    text
}
