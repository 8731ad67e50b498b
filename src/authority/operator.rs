//! What an operator may do to authority, as plans: each is either what would be written, or by name why not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::claim::NewRow;
use super::closing;
use super::database::{Kind, Tables};
use super::decide::Decision;
use super::facts::{Across, Facts};
use super::lag;
use super::memory::{Own, Shows};
use super::word::NOBODY;
use super::{Role, State, epoch};
use crate::reasons::reasons;

reasons! {
    /// Why an operator's command does nothing.
    Refused {
        Unread: "this region's database cannot be read";
        NoTables: "the tables of `dr-agent database grants` are not there";
        NotWritable: "this region's database is read-only, or a replica";
        AlreadyInitialised: "somebody has written an epoch already";
        OtherWritable: "the other region's database is writable too: which of them has the data?";
        OtherUnread: "the other region's database cannot be read: it may have the data";
        NotInitialised: "nobody has written an epoch yet: `dr-agent authority init` writes the first";
        AlreadyOwner: "this region owns the highest epoch";
        NotOwner: "this region does not own the highest epoch";
        NothingToRelease: "nothing is closed here";
        OtherSilent: "the other region does not answer";
        OtherNoReplica: "the other region's database is no replica that can be read";
        OtherLags: "the other region's database is more than a minute behind, or nobody can tell";
        OtherNotReady: "the other region is not ready to take over: `dr-agent check` says there what it lacks";
        Closing: "a planned close is in force, which a drill would end: `dr-agent fence release` ends it";
    }
}

/// What `fence release` writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// Mark the close with this end released, by compare-and-swap on it.
    EndClose(Timestamp),
    /// Claim: the other region's writes since its own claim are given up for this region's, and a person must say so.
    Claim(NewRow),
}

/// `authority init`: the first row. `force` does without knowing the other region's database.
///
/// # Errors
/// When there may be data or a row elsewhere.
pub fn init(facts: &Facts, decision: &Decision, force: bool) -> Result<NewRow, Refused> {
    let (own, _) = writable(facts)?;
    if decision.memory.known.is_some() || own.claim.is_some() {
        return Err(Refused::AlreadyInitialised);
    }
    let other = facts.other.as_ref().map(|other| other.fresh().map(|seen| &seen.read));
    match other {
        Some(None) if !force => return Err(Refused::OtherUnread),
        Some(Some(read)) if Shows::of(read) != Shows::Replica && !force => return Err(Refused::OtherWritable),
        _ => {}
    }
    Ok(row(facts, own, 0, Kind::Init))
}

/// `authority claim`: an epoch above everything that is known.
///
/// # Errors
/// When this region's database could not be the owner's, or is already.
pub fn claim(facts: &Facts, decision: &Decision) -> Result<NewRow, Refused> {
    let (own, _) = writable(facts)?;
    let known = decision.memory.known_epoch();
    if known == 0 {
        return Err(Refused::NotInitialised);
    }
    if own.epoch() == known && own.superseded.is_none() && own.names(&facts.place.region) {
        return Err(Refused::AlreadyOwner);
    }
    let base = known.max(own.epoch()).max(epoch(own.superseded.as_ref()));
    Ok(row(facts, own, base, Kind::Claim))
}

/// `fence release`: the end of a planned close if that is all that closes, else a claim.
///
/// # Errors
/// When nothing is closed, or what is closed cannot be opened from here.
pub fn release(facts: &Facts, decision: &Decision) -> Result<Release, Refused> {
    if decision.state == State::Owner {
        let seen = facts.own.fresh().ok_or(Refused::Unread)?;
        let close = closing::row(&seen.read, &facts.place.region).filter(|row| !row.is_released);
        let close = close.or_else(|| closing::drill(&seen.read, &facts.place.region));
        return close.map(|row| Release::EndClose(row.until)).ok_or(Refused::NothingToRelease);
    }
    claim(facts, decision).map(Release::Claim)
}

/// `fence close`: whether the row may be written that closes this region.
///
/// # Errors
/// When this region is not the owner, or its database cannot be written.
pub fn close(facts: &Facts, decision: &Decision) -> Result<(), Refused> {
    writable(facts)?;
    if decision.state == State::Owner { Ok(()) } else { Err(Refused::NotOwner) }
}

/// Whether the other region would take the traffic well if this one were lost now.
///
/// # Errors
/// When it would not, or nobody can tell.
pub fn other_ready(facts: &Facts) -> Result<(), Refused> {
    let Some(Across::Verified(proof)) = facts.answer_across() else { return Err(Refused::OtherSilent) };
    if !proof.fresh || proof.role != Role::Replica.name() {
        return Err(Refused::OtherNoReplica);
    }
    let replica = facts.other.as_ref().and_then(|other| other.fresh());
    let behind = replica.and_then(|seen| seen.read.lag_seconds);
    let lags = |seconds: u64| seconds.saturating_mul(1_000) > lag::READY;
    match proof.ready {
        // Its own word counts for all that is seen from here only in part, the lag among it.
        Some(true) if !behind.is_some_and(lags) => Ok(()),
        Some(false) => Err(Refused::OtherNotReady),
        // A release that does not say.
        None if behind.is_some_and(|seconds| !lags(seconds)) => Ok(()),
        Some(true) | None => Err(Refused::OtherLags),
    }
}

/// `drill`: whether its row may be written. There is one row a region, and a drill in the place of a close would open.
///
/// # Errors
/// As for a close, and when one is in force.
pub fn drill(facts: &Facts, decision: &Decision) -> Result<(), Refused> {
    close(facts, decision)?;
    if decision.memory.close.obeyed.is_some() { Err(Refused::Closing) } else { Ok(()) }
}

/// How far a planned close has come. When all of it is done the other region can be promoted without loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Members that are not closed yet, this one included.
    pub open: Vec<String>,
    /// Members that do not answer: whether they are closed is not known.
    pub silent: Vec<String>,
    /// The other region says that it writes nowhere, in no old session either; `None` while it does not answer with proof.
    pub other_stopped: Option<bool>,
    /// Connections that still exist to the database that is closed, of all members of this region.
    pub sessions: u32,
    /// Since when nobody writes here, by this region's database's own clock.
    pub quiet: Option<Timestamp>,
    /// The other region's replica shows a heartbeat that was written here after that: it has applied everything. That it
    /// reports no lag proves nothing, for so does one whose link stands still.
    pub has_all: bool,
    /// How far the other region's replica is behind; `None` while it does not say.
    pub lag_seconds: Option<u64>,
    /// The close's end.
    pub until: Option<Timestamp>,
}

impl Progress {
    /// How far it is at this decision. `instance` names this one; `before` is how far it was at the last one.
    #[must_use]
    pub fn of(facts: &Facts, decision: &Decision, instance: &str, before: Option<&Self>) -> Self {
        let mine = super::word::Word::of(decision, facts);
        let members = facts.group.members.iter().map(|member| (member.instance.as_str(), member.word.as_ref()));
        let all: Vec<_> = members.chain([(instance, Some(&mine))]).collect();
        let across = facts.answer_across();
        let other = facts.other.as_ref().and_then(|other| other.fresh());
        let mut progress = Self {
            open: all
                .iter()
                .filter(|(_, word)| word.is_none_or(|word| !word.closed))
                .map(|(instance, _)| (*instance).to_owned())
                .collect(),
            silent: facts.group.silent.clone(),
            other_stopped: match across {
                Some(Across::Verified(proof)) => Some(proof.writer == NOBODY),
                _ => None,
            },
            sessions: all.iter().filter_map(|(_, word)| word.map(|word| word.old_writer_sessions)).sum(),
            quiet: None,
            has_all: false,
            lag_seconds: other.and_then(|seen| seen.read.lag_seconds),
            until: decision.memory.close.obeyed,
        };
        if progress.is_quiet() {
            progress.quiet = before.and_then(|before| before.quiet).or_else(|| server_time(facts));
        }
        let applied = other.and_then(|seen| seen.read.beat(&facts.place.region));
        let had_all = before.is_some_and(|before| before.has_all && before.quiet == progress.quiet);
        // It stays true while the replica cannot be read: it is being promoted, say.
        progress.has_all = had_all || progress.quiet.zip(applied).is_some_and(|(quiet, beat)| beat.at > quiet);
        progress
    }

    /// Nobody writes to this region's database any more.
    fn is_quiet(&self) -> bool {
        self.until.is_some()
            && self.open.is_empty()
            && self.silent.is_empty()
            && self.other_stopped == Some(true)
            && self.sessions == 0
    }

    /// *Promote now.*
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.has_all
    }
}

/// What this region's database's clock says now, by its heartbeat row and by what has passed here since that was read.
fn server_time(facts: &Facts) -> Option<Timestamp> {
    let seen = facts.own.fresh()?;
    let beat = seen.read.beat(&facts.place.region)?;
    let passed = Duration::from_millis(beat.age_ms.saturating_add(1)) + facts.now.since(seen.began);
    beat.at.checked_add(SignedDuration::try_from(passed).ok()?).ok()
}

/// This region's database, read now, writable, with its tables.
fn writable(facts: &Facts) -> Result<(Own, &Tables), Refused> {
    let seen = facts.own.fresh().ok_or(Refused::Unread)?;
    let tables = seen.read.tables.as_ref().ok_or(Refused::NoTables)?;
    let own = Own::of(&seen.read, &facts.place.region);
    if own.shows == Shows::Writable { Ok((own, tables)) } else { Err(Refused::NotWritable) }
}

fn row(facts: &Facts, own: Own, base: u64, kind: Kind) -> NewRow {
    NewRow {
        epoch: facts.place.next_epoch(base),
        parent: own.epoch(),
        region: facts.place.region.clone(),
        server: own.server,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::State;
    use crate::authority::database::{Beat, Read};
    use crate::authority::decide::bench::{Bench, claim as epoch_of, closing, read, replica, superseded};
    use crate::authority::facts::Across;
    use crate::authority::outputs::RegionRule;
    use crate::authority::word::Proof;

    fn uninitialised() -> Bench {
        let mut bench = Bench::resumed("h", State::Uninitialised, 0);
        bench.own(read("t", 0)).other(replica("s", 0)).proof(0, false).members(&[]);
        bench
    }

    fn owner() -> Bench {
        let mut bench = Bench::resumed("p", State::Owner, 2);
        bench.own(read("s", 2)).other(replica("t", 2)).proof(2, false).members(&[]);
        bench
    }

    #[test]
    fn init_writes_the_first_row_once_and_only_where_the_data_is() {
        let mut bench = uninitialised();
        let decision = bench.decide();
        let row = init(&bench.facts, &decision, false).unwrap();
        assert_eq!((row.epoch, row.parent, row.kind), (1, 0, Kind::Init));
        for (other, refused) in [(Some(read("s", 0)), Refused::OtherWritable), (None, Refused::OtherUnread)] {
            bench.other(other);
            let decision = bench.decide();
            assert_eq!(init(&bench.facts, &decision, false), Err(refused));
            assert!(init(&bench.facts, &decision, true).is_ok(), "a person may know better");
        }
        bench.other(replica("s", 1));
        let decision = bench.decide();
        assert_eq!(
            init(&bench.facts, &decision, true),
            Err(Refused::AlreadyInitialised),
            "nobody knows better than a row"
        );
        let mut bench = uninitialised();
        let decision = bench.own(replica("t", 0)).decide();
        assert_eq!(init(&bench.facts, &decision, true), Err(Refused::NotWritable));
        let decision = bench.own(None).decide();
        assert_eq!(init(&bench.facts, &decision, true), Err(Refused::Unread));
    }

    #[test]
    fn a_claim_is_above_everything_known() {
        let mut bench = Bench::resumed("h", State::Superseded, 4);
        bench.own(superseded(read("t", 1), "h", 1, 2)).other(None).across(Across::Silent).members(&[]);
        let decision = bench.decide();
        let row = claim(&bench.facts, &decision).unwrap();
        assert_eq!((row.epoch, row.parent, row.kind), (5, 1, Kind::Claim));
        assert_eq!(release(&bench.facts, &decision), Ok(Release::Claim(row)), "there is no way around an epoch");
        assert_eq!(close(&bench.facts, &decision), Err(Refused::NotOwner));
        let mut bench = uninitialised();
        let decision = bench.decide();
        assert_eq!(claim(&bench.facts, &decision), Err(Refused::NotInitialised));
        let mut bench = owner();
        let decision = bench.decide();
        assert_eq!(claim(&bench.facts, &decision), Err(Refused::AlreadyOwner));
    }

    #[test]
    fn a_release_ends_a_close_where_that_is_all_that_closes() {
        let mut bench = owner();
        let decision = bench.decide();
        assert_eq!(release(&bench.facts, &decision), Err(Refused::NothingToRelease));
        assert_eq!(close(&bench.facts, &decision), Ok(()));
        let closed = closing(read("s", 2), "p", true);
        let until = closed.tables.as_ref().unwrap().closing[0].until;
        let decision = bench.own(closed).decide();
        assert_eq!(release(&bench.facts, &decision), Ok(Release::EndClose(until)));
        assert_eq!(drill(&bench.facts, &decision), Err(Refused::Closing));
        assert_eq!(close(&bench.facts, &decision), Ok(()), "a close may be made longer");

        let mut bench = owner();
        let mut rehearsal = closing(read("s", 2), "p", true);
        rehearsal.tables.as_mut().unwrap().closing[0].is_drill = true;
        let decision = bench.own(rehearsal.clone()).decide();
        assert_eq!(release(&bench.facts, &decision), Ok(Release::EndClose(until)), "a drill ends likewise");
        rehearsal.tables.as_mut().unwrap().closing[0].is_in_force = false;
        let decision = bench.own(rehearsal).decide();
        assert_eq!(release(&bench.facts, &decision), Err(Refused::NothingToRelease), "it has ended");
        let closed = closing(read("s", 2), "p", true);
        let decision = bench.own(closed).decide();
        assert_eq!(decision.memory.known, Some(epoch_of(2)));
    }

    #[test]
    fn a_drill_ends_with_the_database_that_it_stands_in() {
        let mut bench = owner();
        let mut rehearsal = closing(read("s", 2), "p", true);
        rehearsal.tables.as_mut().unwrap().closing[0].is_drill = true;
        let region = |bench: &mut Bench| bench.decide().region;
        assert_eq!(region(bench.own(rehearsal)), RegionRule::Closed);
        assert_eq!(region(bench.after(5).own(None)), RegionRule::Dependencies, "nobody could tell when it is over");
    }

    #[test]
    fn a_close_is_done_when_nobody_writes_anywhere_and_the_replica_has_all() {
        let mut bench = owner();
        bench.own(closing(read("s", 2), "p", true));
        let decision = bench.decide();
        let begun = Progress::of(&bench.facts, &decision, "i-me", None);
        assert_eq!((begun.open.as_slice(), begun.is_done()), (["i-me".to_owned()].as_slice(), false));
        bench.facts.applied.gate_closed = true;
        bench.facts.applied.writers.clear();
        let Some(Across::Verified(proof)) =
            bench.facts.across.as_mut().and_then(|a| Some(&mut a.last.as_mut()?.answer))
        else {
            panic!("the other region answers");
        };
        proof.writer = NOBODY.to_owned();
        // The owner writes its heartbeat on; the replica's last is from 5 s before it closed, and it reports no lag.
        let beats = |bench: &mut Bench, own: i64, over_there: i64| {
            let at = |second: i64| Timestamp::from_second(1_000 + second).unwrap();
            let beat = |second| vec![Beat { region: "p".to_owned(), at: at(second), age_ms: 0 }];
            let mut shown = closing(read("s", 2), "p", true);
            shown.tables.as_mut().unwrap().heartbeat = beat(own);
            let mut behind = Read { lag_seconds: Some(0), ..replica("t", 2) };
            behind.tables.as_mut().unwrap().heartbeat = beat(over_there);
            bench.own(shown).other(behind);
            bench.decide()
        };
        let decision = beats(&mut bench, 10, 5);
        let quiet = Progress::of(&bench.facts, &decision, "i-me", Some(&begun));
        assert!(quiet.quiet.is_some() && !quiet.is_done(), "a link that stands still says so too: {quiet:?}");
        let decision = beats(bench.after(5), 15, 10);
        let almost = Progress::of(&bench.facts, &decision, "i-me", Some(&quiet));
        assert!(!almost.is_done(), "written before the last one closed");
        let decision = beats(bench.after(1), 16, 15);
        let done = Progress::of(&bench.facts, &decision, "i-me", Some(&almost));
        assert_eq!((done.quiet, done.is_done()), (quiet.quiet, true));
        bench.facts.group.silent = vec!["i-x".to_owned()];
        let silent = Progress::of(&bench.facts, &decision, "i-me", Some(&done));
        assert_eq!((silent.quiet, silent.is_done()), (None, false), "nobody knows what it writes");
        bench.facts.group.silent.clear();
        bench.facts.applied.old_writer_sessions = 1;
        let sessions = Progress::of(&bench.facts, &decision, "i-me", Some(&done));
        assert_eq!((sessions.quiet, sessions.is_done()), (None, false));
    }

    #[test]
    fn the_other_region_is_ready_by_its_own_word_and_by_what_is_seen_of_it() {
        let seen = |ready: Option<bool>, behind: Option<u64>| {
            let mut bench = Bench::resumed("h", State::Owner, 1);
            let mut other = replica("s", 1);
            other.lag_seconds = behind;
            bench.own(read("t", 1)).other(other);
            let proof = Proof { fresh: true, role: Role::Replica.name().to_owned(), ready, ..Proof::default() };
            bench.across(Across::Verified(proof));
            other_ready(&bench.facts)
        };
        assert_eq!(seen(Some(true), Some(60)), Ok(()));
        assert_eq!(seen(Some(true), None), Ok(()), "its database cannot be read from here");
        assert_eq!(seen(Some(true), Some(61)), Err(Refused::OtherLags));
        assert_eq!(seen(Some(false), Some(0)), Err(Refused::OtherNotReady));
        // The release before does not say.
        assert_eq!(seen(None, Some(0)), Ok(()));
        assert_eq!(seen(None, None), Err(Refused::OtherLags), "replication may stand still");
        let mut bench = Bench::resumed("h", State::Owner, 1);
        bench.across(Across::Silent);
        assert_eq!(other_ready(&bench.facts), Err(Refused::OtherSilent));
        let writable = Proof { fresh: true, ready: Some(true), ..Proof::default() };
        bench.across(Across::Verified(writable));
        assert_eq!(other_ready(&bench.facts), Err(Refused::OtherNoReplica));
    }
}
