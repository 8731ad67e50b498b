//! Could this region take over now? Each thing that a failover needs, and what would happen if the home region died this
//! moment, in one sentence. Pure.

use serde::{Deserialize, Serialize};

use super::State;
use super::decide::Decision;
use super::facts::Across;
use super::lag::{Lag, READY};
use super::said::Said;
use crate::group::view::Me;
use crate::health::cause::Status;
use crate::health::component::ComponentState;
use crate::observation::{Component, DatabaseFacts, Facts};
use crate::snapshot::Snapshot;

/// See the module's page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Nothing that is needed is missing or unknown.
    pub ready: bool,
    pub items: Vec<Item>,
    /// What would happen if the other region died now, with the reasons why not.
    pub sentence: String,
}

/// One thing that is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub name: String,
    /// `None`: nobody can tell.
    pub ok: Option<bool>,
    pub words: String,
    /// Without it a failover is no use; else it is only to be known.
    pub needed: bool,
}

/// The names, so that metrics have a closed set.
pub const NAMES: [&str; 8] = ["database", "lag", "link", "efs", "serving", "configuration", "capacity", "other"];

impl Item {
    fn needed(name: &str, ok: Option<bool>, words: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok, words: words.into(), needed: true }
    }

    fn told(name: &str, ok: Option<bool>, words: impl Into<String>) -> Self {
        Self { needed: false, ..Self::needed(name, ok, words) }
    }
}

impl Readiness {
    /// Of the region that does not own the data; `None` where it does, and where nobody decides about that.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Option<Self> {
        let said = snapshot.authority.as_deref()?;
        let is_owner =
            said.memory().known.as_ref().map_or(&said.place.home, |known| &known.region) == &said.place.region;
        if is_owner {
            return None;
        }
        let component = |wanted: Component| snapshot.components.iter().map(|(c, _)| c).find(|c| c.component == wanted);
        let facts = component(Component::Database).filter(|c| c.has_fresh_facts()).and_then(|c| match &c.facts {
            Facts::Database(facts) => Some(facts),
            _ => None,
        });
        let mut items = vec![database(&said.decision), lag(said.lag.as_ref()), link(facts)];
        items.extend(component(Component::Efs).map(|efs| {
            let cause = efs.finding.as_ref().map(|finding| format!(": {}", finding.cause)).unwrap_or_default();
            let ok = match efs.status {
                Status::Healthy => Some(true),
                Status::Degraded | Status::Unhealthy => Some(false),
                Status::Unknown | Status::Starting => None,
            };
            Item::needed("efs", ok, format!("the mount is {}{cause}", efs.status))
        }));
        let is_ill = |c: &&ComponentState| match c.component {
            Component::Database | Component::Efs => false,
            // A look at the wiring that could not be made says nothing of it, and the next one comes late.
            Component::Wiring => !matches!(c.status, Status::Healthy | Status::Unknown),
            _ => c.status != Status::Healthy,
        };
        let ill = snapshot.components.iter().map(|(c, _)| c).filter(is_ill);
        let ill: Vec<_> = ill.map(|c| format!("{} is {}", c.component, c.status)).collect();
        items.push(serving(snapshot.region.state.is_ok(), &ill));
        items.push(configuration(snapshot.config.digest.as_deref(), said.across.as_ref()));
        items.push(capacity(snapshot));
        items.push(other(said.across.as_ref(), said.other_database.as_ref()));
        Some(Self::from_items(items, said))
    }

    fn from_items(items: Vec<Item>, said: &Said) -> Self {
        let lacks: Vec<_> = items.iter().filter(|item| item.needed && item.ok != Some(true)).collect();
        let ready = lacks.is_empty();
        let other = &said.place.other;
        let here = format!("if {other} died now, Route 53 would send its users here");
        let why = lacks.iter().map(|item| item.words.as_str()).collect::<Vec<_>>().join("; ");
        let lost = said.lag.as_ref().map(|lag| format!(", without the last {:.1} s at most", lag.seconds()));
        let epoch = said.place.next_epoch(said.memory().known_epoch());
        let sentence = match (said.decision.state, ready) {
            (State::Superseded, _) => {
                format!(
                    "if {other} died now, its users would get 503 here too: this region is superseded and stays closed"
                )
            }
            (State::Uninitialised, _) => format!(
                "{here}, and nothing would take over the writes: `dr-agent authority init` was never done{}",
                if ready { String::new() } else { format!("; {why}") }
            ),
            (_, true) => format!(
                "{here}, and once somebody promoted the database it would be claimed as epoch {epoch} and written to{}",
                lost.unwrap_or_default()
            ),
            (_, false) => format!("{here}, and that would not go well: {why}"),
        };
        Self { ready, items, sentence }
    }

    /// What is needed and missing, or unknown.
    pub fn lacks(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.needed && item.ok != Some(true))
    }
}

fn database(decision: &Decision) -> Item {
    let why = || decision.why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let is_replica = decision.role == super::Role::Replica;
    match (decision.standby_ready, decision.state) {
        (true, _) => Item::needed("database", Some(true), "the database here is a replica and has the newest epoch"),
        (false, State::Boot) => Item::needed("database", None, "nothing was decided yet in this boot"),
        (false, State::Uninitialised) if is_replica => {
            Item::needed("database", Some(true), "the database here is a replica")
        }
        (false, state) => Item::needed("database", Some(false), format!("authority is {state}: {}", why())),
    }
}

fn lag(lag: Option<&Lag>) -> Item {
    let Some(lag) = lag else { return Item::needed("lag", None, "the replication lag is not known") };
    let by = lag.by.name();
    Item::needed("lag", Some(lag.ms <= READY), format!("the replica is {:.1} s behind, by the {by}", lag.seconds()))
}

fn link(facts: Option<&DatabaseFacts>) -> Item {
    let Some(channels) = facts.and_then(|facts| facts.replica.as_ref()) else {
        return Item::needed("link", None, "the state of replication cannot be read");
    };
    let stands = |channel: &crate::observation::ReplicaChannel| {
        let what = match (channel.io_running, channel.sql_running) {
            (true, true) => return None,
            (false, true) => "does not receive",
            (true, false) => "does not apply",
            (false, false) => "stands still",
        };
        let error = channel.error.as_deref().filter(|error| !error.is_empty());
        Some(error.map_or_else(|| what.to_owned(), |error| format!("{what} ({error})")))
    };
    let broken: Vec<_> = channels.iter().filter_map(stands).collect();
    if channels.is_empty() {
        Item::needed("link", Some(false), "there is no replication channel")
    } else if broken.is_empty() {
        Item::needed("link", Some(true), "replication receives and applies")
    } else {
        Item::needed("link", Some(false), format!("replication {}", broken.join(", ")))
    }
}

fn serving(is_open: bool, ill: &[String]) -> Item {
    let open = (!is_open).then(|| "this region answers Route 53 503".to_owned());
    let faults: Vec<_> = open.into_iter().chain(ill.iter().cloned()).collect();
    if faults.is_empty() {
        Item::needed("serving", Some(true), "this instance works, and the region answers Route 53 200")
    } else {
        Item::needed("serving", Some(false), faults.join("; "))
    }
}

/// Digests of different releases say nothing of each other.
fn configuration(mine: Option<&str>, across: Option<&Across>) -> Item {
    let Some(Across::Verified(proof)) = across else {
        return Item::told(
            "configuration",
            None,
            "the other region's configuration is not known: no answer that proves itself",
        );
    };
    let release = |digest: &str| digest.split_once(':').map(|(release, _)| release.to_owned());
    match (mine, proof.config.as_deref()) {
        (Some(mine), Some(theirs)) if mine == theirs => {
            Item::told("configuration", Some(true), "both regions have the same configuration")
        }
        (Some(mine), Some(theirs)) if release(mine) == release(theirs) => Item::told(
            "configuration",
            Some(false),
            "the regions have different configurations: deploy one file to both",
        ),
        _ => Item::told(
            "configuration",
            None,
            "another release runs in the other region: the configurations are not compared",
        ),
    }
}

fn capacity(snapshot: &Snapshot) -> Item {
    let serves = usize::from(snapshot.instance.can_serve);
    let Some(round) = &snapshot.round else {
        return Item::told("capacity", None, "the members of the group are not known");
    };
    let me = Me {
        deployment: &snapshot.config.deployment,
        region: snapshot.about.owner.region.as_deref(),
        group: Some(&round.group),
    };
    let serving = round.words(&me).filter(|word| word.serving).count() + serves;
    members(round.heard.len() + 1, serving, round.desired)
}

fn members(known: usize, serving: usize, desired: Option<u32>) -> Item {
    // A group that AWS cannot fill has fewer members than it should.
    let desired = desired.map_or(known, |desired| usize::try_from(desired).unwrap_or(usize::MAX));
    let missing = desired.saturating_sub(known);
    let words = format!("{serving} of {known} members here can serve");
    let words = if missing == 0 { words } else { format!("{words}, and the group lacks {missing} more") };
    Item::told("capacity", Some(serving == known && missing == 0), words)
}

fn other(across: Option<&Across>, database: Option<&Result<super::memory::Shows, String>>) -> Item {
    let (answers, said) = match across {
        Some(Across::Verified(proof)) => {
            let reads = if proof.fresh { "reads its database" } else { "cannot read its database" };
            (Some(proof.fresh), format!("the other region answers and {reads}"))
        }
        Some(Across::Unverified(_)) => (Some(false), "the other region's answer does not prove itself".to_owned()),
        Some(Across::Failed) => (Some(false), "the other region does not answer its agents' question".to_owned()),
        Some(Across::Silent) => (Some(false), "the other region is silent".to_owned()),
        None => (None, "the other region is not asked: it has no `url`".to_owned()),
    };
    let seen = match database {
        Some(Ok(shows)) => format!("; its database, seen from here, is {}", shows.words()),
        Some(Err(why)) => format!("; its database cannot be read from here: {why}"),
        None => String::new(),
    };
    Item::told("other", answers, said + &seen)
}

#[cfg(test)]
mod tests;
