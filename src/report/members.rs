//! The other members of the group in a report: who was asked, what each said, and how each votes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::milliseconds;
use crate::clock::BootTime;
use crate::group::view::Me;
use crate::group::vote::Vote;
use crate::snapshot::Snapshot;

/// The group as it was asked last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The Auto Scaling group.
    pub name: String,
    pub asked_age_ms: u64,
    /// All members but this one.
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub instance: String,
    pub in_my_zone: bool,
    /// Its instance verdict; `None` if it said nothing that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it has no word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<String>,
    /// Its vote on each component that is probed here.
    pub votes: BTreeMap<String, Vote>,
}

pub(super) fn group(snapshot: &Snapshot, now: BootTime) -> Option<Group> {
    let round = snapshot.round.as_ref()?;
    let me = Me {
        deployment: &snapshot.config.deployment,
        region: snapshot.about.owner.region.as_deref(),
        group: Some(&round.group),
    };
    let mut members: Vec<_> = round
        .heard
        .iter()
        .map(|heard| Member {
            instance: heard.instance.clone(),
            in_my_zone: heard.in_my_zone,
            state: heard.word.as_ref().ok().map(|word| word.state.clone()),
            silence: heard.word.as_ref().err().map(|silence| silence.name().to_owned()),
            votes: BTreeMap::new(),
        })
        .collect();
    for (component, _) in &snapshot.components {
        for (member, ballot) in members.iter_mut().zip(round.ballots(component, &me)) {
            member.votes.insert(component.component.name().to_owned(), ballot.vote);
        }
    }
    Some(Group { name: round.group.clone(), asked_age_ms: milliseconds(now.since(round.at)), members })
}
