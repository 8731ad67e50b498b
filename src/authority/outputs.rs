//! What follows from a state: the outputs table, and the order in which a decision is carried out. Pure data.

use serde::{Deserialize, Serialize};

use super::State;
use super::claim::NewRow;
use super::closing::Ruling;
use super::decide::{Decision, Records};
use super::facts::{Applied, Facts};
use super::learn;
use super::memory::Memory;

/// The gate to be: whether the marker `fenced` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    Open,
    Closed,
    /// As it is.
    Keep,
}

/// A database endpoint that the app is to use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// As it is.
    Keep,
    Nobody,
    /// This region's database.
    Region(String),
}

/// By which rule the region verdict is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionRule {
    #[default]
    Dependencies,
    /// 503.
    Closed,
    /// 200 with a warning, unless nothing here can serve; no hold for a dependency runs.
    Standby,
    /// What the group says.
    Group,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outputs {
    pub(super) gate: Gate,
    pub(super) writer: Target,
    pub(super) reader: Target,
    pub(super) region: RegionRule,
    pub(super) promoted: bool,
}

/// What the other region's database is to this region's apps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Across {
    pub(super) is_owner: bool,
    pub(super) is_closing: bool,
}

/// The table. `before` is the state of the last decision.
pub(super) fn table(
    facts: &Facts,
    memory: &Memory,
    (before, state): (State, State),
    ruling: &Ruling,
    across: Across,
) -> Outputs {
    let place = &facts.place;
    let mine = || Target::Region(place.region.clone());
    let others =
        if across.is_owner && !across.is_closing { Target::Region(place.other.clone()) } else { Target::Nobody };
    let of_group = facts.group.region_closed().map(|_| RegionRule::Group);
    let row = |gate, writer, reader, region, promoted| Outputs { gate, writer, reader, region, promoted };
    let is_first = memory.own.as_ref().is_some_and(|own| own.is_first);
    let mut outputs = match state {
        State::Boot if memory.known.is_none() => row(Gate::Keep, Target::Keep, Target::Keep, RegionRule::Group, false),
        State::Boot => row(Gate::Keep, Target::Keep, Target::Keep, RegionRule::Closed, false),
        State::Uninitialised => {
            let by_place = if place.region == place.home { RegionRule::Dependencies } else { RegionRule::Standby };
            let region = of_group.filter(|_| memory.own.is_none()).unwrap_or(by_place);
            // A new instance: an image knows no writer.
            let is_new = facts.applied.never_had_writer && facts.own.seen.is_some();
            let home = Target::Region(place.home.clone());
            let (writer, reader) = if is_new { (home, mine()) } else { (Target::Keep, Target::Keep) };
            row(Gate::Keep, writer, reader, region, false)
        }
        State::Standby if memory.unread => {
            row(Gate::Keep, Target::Keep, mine(), of_group.unwrap_or(RegionRule::Standby), false)
        }
        State::Standby => row(Gate::Open, others, mine(), RegionRule::Standby, false),
        State::OwnerPending => {
            let writer = if is_first { Target::Keep } else { Target::Nobody };
            row(Gate::Keep, writer, mine(), RegionRule::Dependencies, true)
        }
        State::Owner => row(Gate::Open, mine(), mine(), RegionRule::Dependencies, true),
        State::Unclaimed => row(Gate::Keep, Target::Nobody, mine(), RegionRule::Dependencies, false),
        State::Superseded => row(Gate::Closed, others.clone(), others, RegionRule::Closed, false),
        State::Ambiguous => {
            let region = if before == State::Boot { RegionRule::Dependencies } else { memory.region };
            row(Gate::Keep, Target::Keep, Target::Keep, region, memory.promoted)
        }
    };
    // What stays as it was does not go on writing where a planned close is in force.
    let writes_across = facts.applied.writers.contains(&place.other);
    if outputs.writer == Target::Keep && state != State::Boot && across.is_closing && writes_across {
        outputs.writer = Target::Nobody;
    }
    if ruling.is_closed {
        outputs = Outputs { gate: Gate::Closed, writer: Target::Nobody, region: RegionRule::Closed, ..outputs };
    }
    if super::closing::is_drill(facts, state) {
        outputs.region = RegionRule::Closed;
    }
    // Nothing opens on what was seen before.
    if outputs.gate == Gate::Open && facts.own.fresh().is_none() {
        outputs.gate = Gate::Keep;
    }
    // Nor while an epoch is known that may end what was judged.
    let is_behind = memory.own.as_ref().is_some_and(|own| learn::is_behind(own, memory));
    if state == State::Owner && is_behind && !ruling.is_closed {
        outputs = Outputs { gate: Gate::Keep, writer: Target::Keep, ..outputs };
    }
    // Cleared the moment a higher epoch is known, before anything else is judged.
    outputs.promoted &= memory.known.as_ref().is_some_and(|known| known.region == place.region);
    outputs
}

/// One step of carrying a decision out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The region answers 503, from memory.
    CloseRegion,
    /// The marker `fenced` is set.
    CloseGate,
    /// Durable records: the state file first, then this region's database and the group's tags.
    Record(Records),
    /// The app gets no writer, and old sessions end.
    StopWriter,
    Claim(NewRow),
    /// The app gets this region's database as its writer, verified.
    Repoint(String),
    /// The marker `fenced` is removed.
    OpenGate,
    /// The region answers by its rule again.
    OpenRegion,
}

/// The steps that carry `decision` out from what stands now, in their order: what closes comes first, what opens last.
/// Nothing is left to do when the list is empty.
#[must_use]
pub fn steps(decision: &Decision, applied: &Applied) -> Vec<Step> {
    let mut steps = Vec::new();
    let closes = decision.gate == Gate::Closed;
    if closes && !applied.gate_closed {
        steps.extend([Step::CloseRegion, Step::CloseGate]);
    }
    if decision.records != Records::default() {
        steps.push(Step::Record(decision.records.clone()));
    }
    let wanted = match &decision.writer {
        Target::Keep => None,
        Target::Nobody => Some(None),
        Target::Region(region) => Some(Some(region)),
    };
    let is_other = |region: &String| wanted.flatten() != Some(region);
    if wanted.is_some() && applied.writers.iter().any(is_other) {
        steps.push(Step::StopWriter);
    }
    if let Ok(row) = &decision.claim {
        steps.push(Step::Claim(row.clone()));
    }
    if let Some(Some(region)) = wanted
        && !applied.writers.contains(region)
    {
        steps.push(Step::Repoint(region.clone()));
    }
    if decision.gate == Gate::Open && applied.gate_closed {
        steps.extend([Step::OpenGate, Step::OpenRegion]);
    }
    steps
}
