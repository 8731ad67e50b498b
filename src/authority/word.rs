//! What is told of authority: to the members of the group (in `/peer`), and to the other region (`/health/authority`).
//! Pure constructors.
//!
//! Unknown fields are ignored, and what is added has a default, so that releases understand each other.

use std::iter;

use serde::{Deserialize, Serialize};

use super::closing;
use super::decide::Decision;
use super::facts::Facts;
use super::memory::{Own, Shows};
use super::{Claim, State, epoch};

/// The version of [`Proof`] that this release speaks. It rises only in a release that also speaks the one before.
pub const PROTO: u32 = 1;

/// The writer in a word when there is none.
pub const NOBODY: &str = "none";

/// What a member tells the others of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Word {
    /// By [`State::name`]; what a release does not know is no state.
    pub state: String,
    /// In BOOT: for how long.
    pub boot_age_ms: Option<u64>,
    pub own: Option<OwnWord>,
    pub known: Option<Claim>,
    /// The epoch at which it was through with taking over.
    pub took_over: u64,
    /// It takes no user's write to its own region's database.
    pub closed: bool,
    pub gate_closed: bool,
    /// The region whose database its app may write to, or `none`; the other region while it is being repointed.
    pub writer: String,
    pub old_writer_sessions: u32,
    /// Identities of this region's servers that it saw replicating.
    pub roll: Vec<String>,
}

/// What a member saw of the region's database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnWord {
    /// 0 without a row.
    pub epoch: u64,
    /// The region that the newest row names.
    #[serde(default)]
    pub region: Option<String>,
    /// That row is `init`'s.
    #[serde(default)]
    pub first: bool,
    #[serde(default)]
    pub server: String,
    pub role: Shows,
}

/// What is told to the other region. Sent with a MAC only; to anybody else `{ok, region, role}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Proof {
    pub proto: u32,
    /// The region that speaks.
    pub region: String,
    /// By [`Role::name`](super::Role::name).
    pub role: String,
    /// The highest epoch that this region's database showed, and whom it names; 0 without a row.
    pub epoch: u64,
    pub owner: Option<String>,
    pub server: Option<String>,
    /// The highest epoch known in this region.
    pub known: Option<Claim>,
    /// Nobody in this region takes users' writes to its database, as far as the one who answers knows.
    pub closed: bool,
    /// A region whose database is written to here, or `none` if that is true of all that the one who answers knows; the
    /// other region as long as an app has a session with a former writer.
    pub writer: String,
    /// Somebody in this region may still be connected to a database that is not its writer any more.
    pub left: bool,
    /// The last attempt to read this region's database succeeded.
    pub fresh: bool,
    /// The one who answers lacks nothing that a takeover would need
    /// ([`Readiness::ready`](super::readiness::Readiness)); `None` from the owner, who takes nothing over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// The digest of the configuration in force ([`Config::digest`](crate::config::Config)). Decides nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

impl Word {
    /// What this agent says after a decision.
    #[must_use]
    pub fn of(decision: &Decision, facts: &Facts) -> Self {
        let memory = &decision.memory;
        let boot_age = memory.boot_began.filter(|_| decision.state == State::Boot);
        Self {
            state: decision.state.name().to_owned(),
            boot_age_ms: boot_age.map(|began| u64::try_from(facts.now.since(began).as_millis()).unwrap_or(u64::MAX)),
            own: memory.own.as_ref().map(OwnWord::of),
            known: memory.known.clone(),
            took_over: memory.took_over,
            closed: is_closed(decision, facts),
            gate_closed: facts.applied.gate_closed,
            writer: writer(facts).to_owned(),
            old_writer_sessions: facts.applied.old_writer_sessions,
            roll: memory.roll.iter().cloned().collect(),
        }
    }

    #[must_use]
    pub fn is(&self, state: State) -> bool {
        self.state == state.name()
    }

    #[must_use]
    pub fn is_in_boot(&self) -> bool {
        self.is(State::Boot)
    }
}

impl OwnWord {
    fn of(own: &Own) -> Self {
        Self {
            epoch: own.epoch(),
            region: own.claim.as_ref().map(|claim| claim.region.clone()),
            first: own.is_first,
            server: own.server.clone(),
            role: own.shows,
        }
    }

    /// The newest row; `None` without one.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        let region = self.region.as_ref().filter(|_| self.epoch > 0)?;
        Some(Claim { epoch: self.epoch, region: region.clone() })
    }

    /// As if this agent had read it itself.
    #[must_use]
    pub fn own(&self) -> Own {
        Own {
            claim: self.claim(),
            is_first: self.first,
            server: self.server.clone(),
            shows: self.role,
            superseded: None,
        }
    }
}

impl Proof {
    /// What this region says after a decision.
    #[must_use]
    pub fn of(decision: &Decision, facts: &Facts) -> Self {
        let own = decision.memory.own.as_ref();
        let newest = own.and_then(|own| own.claim.clone());
        let told = facts.group.words().filter_map(|(_, word)| word.own.as_ref()?.claim());
        let highest = newest.into_iter().chain(told).max_by_key(|claim| claim.epoch);
        let known = facts.group.words().filter_map(|(_, word)| word.known.clone());
        Self {
            proto: PROTO,
            region: facts.place.region.clone(),
            role: decision.role.name().to_owned(),
            epoch: epoch(highest.as_ref()),
            owner: highest.map(|claim| claim.region),
            server: own.map(|own| own.server.clone()),
            known: known.chain(decision.memory.known.clone()).max_by_key(|claim| claim.epoch),
            // A member that does not speak of authority closes nothing, nor does one that is not heard; and before the
            // first round nobody is.
            closed: is_closed(decision, facts)
                && facts.group.asked.is_some()
                && facts.group.silent.is_empty()
                && facts.group.members.iter().all(|member| member.word.as_ref().is_some_and(|word| word.closed)),
            writer: region_writer(facts).to_owned(),
            left: facts.applied.old_writer_sessions > 0
                || facts.group.words().any(|(_, word)| word.old_writer_sessions > 0),
            fresh: facts.own.fresh().is_some(),
            ready: None,
            config: None,
        }
    }

    /// The newest row that it showed; `None` without one.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        let region = self.owner.as_ref().filter(|_| self.epoch > 0)?;
        Some(Claim { epoch: self.epoch, region: region.clone() })
    }
}

/// This agent lets no user write to its own region's database, and that is not about to end.
fn is_closed(decision: &Decision, facts: &Facts) -> bool {
    let is_shut = facts.applied.gate_closed || !facts.applied.writers.contains(&facts.place.region);
    let close = facts.own.seen.as_ref().and_then(|seen| closing::row(&seen.read, &facts.place.region));
    is_shut
        && match decision.state {
            State::Boot | State::OwnerPending => false,
            State::Owner => close.is_some_and(|close| close.is_in_force),
            State::Superseded => true,
            State::Uninitialised | State::Standby | State::Unclaimed | State::Ambiguous => {
                close.is_none_or(|close| close.is_in_force || close.is_released)
            }
        }
}

/// The region whose database this agent's app may write to.
fn writer(facts: &Facts) -> &str {
    let writers = &facts.applied.writers;
    writers.get(&facts.place.other).or_else(|| writers.first()).map_or(NOBODY, String::as_str)
}

/// A region that somebody of this group may write to.
fn region_writer(facts: &Facts) -> &str {
    let (region, other) = (facts.place.region.as_str(), facts.place.other.as_str());
    // An app writes on in a session with a former writer, whatever its outputs say. To which one is not told: he who asks
    // wants to know whether it is his.
    let of = |writer, sessions| if sessions > 0 { other } else { writer };
    // A member that does not speak of authority writes to its own region's database, as every app does by itself.
    let members = facts.group.members.iter().map(|member| member.word.as_ref());
    let members = members.map(|word| word.map_or(region, |word| of(word.writer.as_str(), word.old_writer_sessions)));
    let me = of(writer(facts), facts.applied.old_writer_sessions);
    iter::once(me).chain(members).find(|writer| *writer != NOBODY).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::decide::bench::{Bench, closing, read, replica, word};
    use crate::authority::facts::Across;

    /// The owner of epoch 2 in `p`, whose gate is closed by hand.
    fn shut() -> Bench {
        let mut bench = Bench::resumed("p", State::Owner, 2);
        bench.facts.applied.gate_closed = true;
        bench.own(read("s", 2)).other(None).across(Across::Silent).members(&[]);
        bench
    }

    fn is_closed(bench: &mut Bench) -> bool {
        let decision = bench.decide();
        Word::of(&decision, &bench.facts).closed
    }

    #[test]
    fn an_owner_is_closed_by_a_close_in_force_and_by_nothing_else() {
        assert!(!is_closed(&mut shut()), "it is about to open");
        assert!(is_closed(shut().own(closing(read("s", 2), "p", true))));
        assert!(!is_closed(shut().own(closing(read("s", 2), "p", false))), "it is about to end");
        let mut open = shut();
        open.facts.applied.gate_closed = false;
        assert!(!is_closed(open.own(closing(read("s", 2), "p", true))), "obeyed, but not carried out yet");
    }

    #[test]
    fn who_is_superseded_is_closed_when_its_gate_or_its_writer_is() {
        let mut bench = Bench::resumed("h", State::Superseded, 2);
        bench.own(read("t", 1)).other(read("s", 2)).proof(2, false).members(&[]);
        assert!(!is_closed(&mut bench));
        bench.facts.applied.writers.clear();
        assert!(is_closed(&mut bench));
        let mut booting = Bench::new("h");
        booting.facts.applied.writers.clear();
        assert!(!is_closed(booting.own(read("t", 1))), "it has not decided");
    }

    #[test]
    fn a_region_is_not_closed_before_its_members_were_asked() {
        let mut bench = Bench::resumed("h", State::Superseded, 2);
        bench.own(read("t", 1)).other(read("s", 2)).proof(2, false).members(&[]);
        bench.facts.applied.gate_closed = true;
        let decision = bench.decide();
        assert!(Proof::of(&decision, &bench.facts).closed);
        bench.facts.group.asked = None;
        assert!(!Proof::of(&decision, &bench.facts).closed);
    }

    #[test]
    fn a_region_is_closed_and_writes_nowhere_when_that_is_true_of_all() {
        let mut bench = Bench::resumed("h", State::Superseded, 2);
        bench.facts.applied.writers.clear();
        bench.own(read("t", 1)).other(read("s", 2)).proof(2, false);
        let closed = Word { closed: true, ..word(State::Superseded, 4) };
        let open = Word { writer: "h".to_owned(), ..word(State::Owner, 1) };
        let proof = |bench: &mut Bench, words: &[Word]| {
            let decision = bench.members(words).decide();
            Proof::of(&decision, &bench.facts)
        };
        let told = proof(&mut bench, std::slice::from_ref(&closed));
        assert_eq!(
            (told.closed, told.writer.as_str(), told.epoch, told.owner.as_deref()),
            (true, "none", 1, Some("h"))
        );
        assert_eq!((told.known.map(|known| known.epoch), told.fresh), (Some(4), true));
        // Their outputs name nobody, and the pool of one goes on.
        let pooled = Word { old_writer_sessions: 1, ..closed.clone() };
        let told = proof(&mut bench, &[closed.clone(), pooled]);
        assert_eq!(told.writer, "p");
        bench.facts.applied.old_writer_sessions = 1;
        let told = proof(&mut bench, std::slice::from_ref(&closed));
        assert_eq!(told.writer, "p");
        bench.facts.applied.old_writer_sessions = 0;
        let told = proof(&mut bench, &[closed, open]);
        assert_eq!((told.closed, told.writer.as_str()), (false, "h"));
        // A member of a release that does not know of authority.
        bench.facts.group.members[1].word = None;
        let decision = bench.decide();
        let told = Proof::of(&decision, &bench.facts);
        assert_eq!((told.closed, told.writer.as_str()), (false, "h"));
    }

    #[test]
    fn the_highest_epoch_is_told_while_the_database_is_down() {
        let mut bench = Bench::resumed("p", State::Standby, 1);
        bench.own(replica("s", 2)).decide();
        let decision = bench.own(None).decide();
        let told = Proof::of(&decision, &bench.facts);
        assert_eq!((told.epoch, told.owner.as_deref(), told.fresh), (2, Some("p"), false));
    }

    #[test]
    fn what_another_release_says_is_read() {
        let word: Word =
            serde_json::from_str(r#"{"state":"NEWER","known":{"epoch":3,"region":"h"},"added":[1]}"#).unwrap();
        assert_eq!((word.known.map(|known| known.epoch), word.closed), (Some(3), false));
        let proof: Proof = serde_json::from_str(r#"{"proto":2,"ok":true,"region":"h","added":{}}"#).unwrap();
        assert_eq!((proof.region.as_str(), proof.closed, proof.claim()), ("h", false, None));
    }
}
