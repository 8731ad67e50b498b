//! Facts for tests: one agent of region `p` (or `h`), `h` being home, with everything answered now unless a test says
//! otherwise.

use std::time::Duration;

use jiff::Timestamp;

use crate::authority::database::{Attempt, Closing, Kind, Read, Row, Superseded, Tables, Unread};
use crate::authority::decide::{Decision, decide};
use crate::authority::facts::{Across, Applied, Asked, Database, Facts, Group, Member, Place, Source, Waits};
use crate::authority::memory::Memory;
use crate::authority::word::{OwnWord, Proof, Word};
use crate::authority::{Claim, State};
use crate::clock::BootTime;

pub(crate) fn at(second: u64) -> BootTime {
    BootTime::from_boot(Duration::from_secs(second))
}

pub(crate) fn claim(epoch: u64) -> Claim {
    Claim { epoch, region: if epoch % 2 == 1 { "h" } else { "p" }.to_owned() }
}

/// A database that has the rows up to `epoch`, each written by the server of its region: `t` in `h`, `s` in `p`.
pub(crate) fn read(server: &str, epoch: u64) -> Read {
    let row = |epoch| Row {
        claim: claim(epoch),
        parent: epoch - 1,
        server: if epoch % 2 == 1 { "t" } else { "s" }.to_owned(),
        kind: if epoch == 1 { Kind::Init } else { Kind::Promotion },
        since: Timestamp::UNIX_EPOCH,
    };
    let tables = Tables { newest: (epoch > 0).then(|| row(epoch)), ..Tables::default() };
    Read { server: server.to_owned(), is_writable: true, channels: Some(0), lag_seconds: None, tables: Some(tables) }
}

pub(crate) fn replica(server: &str, epoch: u64) -> Read {
    Read { is_writable: false, channels: Some(1), lag_seconds: Some(0), ..read(server, epoch) }
}

/// `read` with a planned close of `region`.
pub(crate) fn closing(mut read: Read, region: &str, in_force: bool) -> Read {
    let row = Closing {
        region: region.to_owned(),
        is_drill: false,
        until: Timestamp::from_second(5_000).unwrap(),
        is_in_force: in_force,
        is_released: false,
        reason: String::new(),
        by_whom: String::new(),
    };
    read.tables.get_or_insert_default().closing = vec![row];
    read
}

pub(crate) fn superseded(mut read: Read, region: &str, epoch: u64, by: u64) -> Read {
    let row = Superseded { region: region.to_owned(), epoch, by: claim(by), since: Timestamp::UNIX_EPOCH };
    read.tables.get_or_insert_default().superseded.push(row);
    read
}

pub(crate) fn word(state: State, epoch: u64) -> Word {
    Word { state: state.name().to_owned(), known: Some(claim(epoch)), writer: "none".to_owned(), ..Word::default() }
}

pub(crate) fn own_word(epoch: u64, role: super::Shows) -> OwnWord {
    let region = (epoch > 0).then(|| claim(epoch).region);
    OwnWord { epoch, region, first: epoch == 1, server: "s".to_owned(), role }
}

/// One agent in its world.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) facts: Facts,
    pub(crate) memory: Memory,
}

impl Bench {
    /// An agent that starts in a new boot at second 100.
    pub(crate) fn new(region: &str) -> Self {
        let other = if region == "h" { "p" } else { "h" };
        let place = Place {
            region: region.to_owned(),
            other: other.to_owned(),
            home: "h".to_owned(),
            regions: ["h".to_owned(), "p".to_owned()],
        };
        let facts = Facts {
            now: at(100),
            place,
            waits: Waits { boot: Duration::from_secs(10), takeover: Duration::from_secs(15) },
            own: Database::default(),
            other: Some(Database::default()),
            across: Some(Source::default()),
            group: Group::default(),
            tags: None,
            applied: Applied { writers: [region.to_owned()].into(), ..Applied::default() },
        };
        Self { facts, memory: Memory::resume(None, "b", at(100)) }
    }

    /// An agent that was in `state` with `epoch` before, and starts again in the same boot.
    pub(crate) fn resumed(region: &str, state: State, epoch: u64) -> Self {
        let mut bench = Self::new(region);
        let took_over = if state == State::Owner { epoch } else { 0 };
        let known = (epoch > 0).then(|| claim(epoch));
        let saved = Memory { boot: "b".to_owned(), state, known, took_over, ..Memory::default() };
        bench.memory = Memory::resume(Some(saved), "b", at(100));
        bench
    }

    pub(crate) fn after(&mut self, seconds: u64) -> &mut Self {
        self.facts.now = self.facts.now + Duration::from_secs(seconds);
        self
    }

    fn attempt(&self, read: Option<Read>) -> Attempt {
        let result = read.ok_or(Unread::Failed("refused".to_owned()));
        Attempt { began: self.facts.now, ended: self.facts.now + Duration::from_millis(1), result }
    }

    pub(crate) fn own(&mut self, read: impl Into<Option<Read>>) -> &mut Self {
        let attempt = self.attempt(read.into());
        self.facts.own.take(attempt);
        self
    }

    pub(crate) fn other(&mut self, read: impl Into<Option<Read>>) -> &mut Self {
        let attempt = self.attempt(read.into());
        self.facts.other.get_or_insert_default().take(attempt);
        self
    }

    pub(crate) fn across(&mut self, answer: Across) -> &mut Self {
        self.facts.across = Some(Source { last: Some(Asked { began: self.facts.now, answer }) });
        self
    }

    pub(crate) fn proof(&mut self, epoch: u64, closed: bool) -> &mut Self {
        let owner = Some(claim(epoch).region).filter(|_| epoch > 0);
        let known = (epoch > 0).then(|| claim(epoch));
        let region = self.facts.place.other.clone();
        self.across(Across::Verified(Proof { proto: 1, region, epoch, owner, known, closed, ..Proof::default() }))
    }

    pub(crate) fn members(&mut self, words: &[Word]) -> &mut Self {
        let member = |(index, word): (usize, &Word)| Member {
            instance: format!("i-{index}"),
            region_closed: false,
            word: Some(word.clone()),
        };
        let members = words.iter().enumerate().map(member).collect();
        self.facts.group = Group { asked: Some(self.facts.now), members, silent: Vec::new() };
        self
    }

    /// What is decided now; the next decision remembers it.
    pub(crate) fn decide(&mut self) -> Decision {
        let decision = decide(&self.facts, &self.memory);
        self.memory = decision.memory.clone();
        decision
    }
}
