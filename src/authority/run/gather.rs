//! What the task takes in: the answers of one round, what the members say, and what is carried out already.

use std::time::Duration;

use tokio::time::timeout;

use super::super::facts::{Across, Applied, Asked, Group, Member};
use super::super::other::Said as Heard;
use super::super::word::Proof;
use super::write::read_tags;
use super::{TAGS, Task};
use crate::authority::database::{Attempt, Unread};
use crate::clock::BootTime;
use crate::repoint::run::Progress;
use crate::snapshot::Snapshot;

/// An instance whose group nobody has named by then has none.
const ALONE_AFTER: Duration = Duration::from_secs(5);

impl Task {
    /// Asks every source, side by side, each within its own deadline.
    pub(super) async fn round(&mut self) {
        let began = BootTime::now();
        let keys = self.channels.standing.borrow().keys.clone();
        let reads_tags = self.decision.as_ref().is_none_or(|decision| decision.reads_tags);
        let group = self.group_name();
        let own = self.own.read();
        let other = async {
            match &mut self.other {
                Some(other) => Some(other.read().await),
                None => None,
            }
        };
        let across = async {
            match &self.across {
                Some(across) => Some(across.ask(keys.as_ref()).await),
                None => None,
            }
        };
        let region = self.setup.place.region.as_str();
        let tags = async {
            let group = group.as_deref().filter(|_| reads_tags)?;
            let tags = timeout(TAGS, self.channels.aws.tags(region, group)).await;
            Some(Asked { began, answer: tags.ok().and_then(Result::ok).map(|tags| read_tags(&tags)) })
        };
        let (own, other, across, tags) = tokio::join!(own, other, across, tags);
        let unreached = |attempt: &Option<Attempt>| {
            attempt.as_ref().is_none_or(|attempt| matches!(attempt.result, Err(Unread::Unreached(_))))
        };
        if let (Some(source), Some(heard)) = (&mut self.facts.across, across) {
            let answer = match heard.said {
                Heard::Verified(value) => {
                    serde_json::from_value::<Proof>(value).map_or(Across::Failed, Across::Verified)
                }
                Heard::Unverified(epoch) => Across::Unverified(epoch),
                Heard::Unreached(_) if unreached(&other) => Across::Silent,
                Heard::Unreached(_) | Heard::Failed(_) => Across::Failed,
            };
            source.last = Some(Asked { began: heard.began, answer });
        }
        self.facts.own.take(own);
        if let (Some(database), Some(attempt)) = (&mut self.facts.other, other) {
            database.take(attempt);
        }
        if self.is_alone() {
            self.facts.tags = None;
            return;
        }
        // As long as nobody knows the group its tags were not asked for.
        let tagged = self.facts.tags.get_or_insert_default();
        if let Some(asked) = tags {
            if let Some(tags) = &asked.answer {
                tagged.stands = tags.clone();
            }
            tagged.last = Some(asked);
        }
    }

    pub(super) fn group_name(&self) -> Option<String> {
        self.channels.standing.borrow().place.group.clone()
    }

    /// Without a group there is nobody to ask, which is known after a while.
    fn is_alone(&self) -> bool {
        self.group_name().is_none() && BootTime::now().since(self.began) >= ALONE_AFTER
    }

    pub(super) fn group(&self, snapshot: &Snapshot) -> Group {
        let Some(round) = &snapshot.round else {
            let asked = self.is_alone().then_some(self.facts.now);
            return Group { asked, members: Vec::new() };
        };
        let me = crate::group::view::Me {
            deployment: &snapshot.config.deployment,
            region: snapshot.about.owner.region.as_deref(),
            group: Some(&round.group),
        };
        let asked = round.heard.iter().map(|heard| heard.sent).min().unwrap_or(round.at);
        let member = |word: &crate::group::word::Word| Member {
            instance: word.instance.clone().unwrap_or_default(),
            region_closed: word.region_closed,
            word: word.authority.clone(),
        };
        Group { asked: Some(asked), members: round.words(&me).map(member).collect() }
    }

    pub(super) fn applied(&self, snapshot: &Snapshot, progress: &Progress) -> Applied {
        let place = &self.setup.place;
        let writers = match progress.plan.writers().filter(|_| self.setup.has_outputs) {
            Some(writers) => writers,
            // Decided in an earlier life, and since the machine started nobody has told whether it was carried out.
            None if self.setup.has_outputs && progress.plan.current.is_some() => {
                [place.region.clone(), place.other.clone()].into()
            }
            // An app that nobody has repointed yet writes to its own region's database.
            None => [place.region.clone()].into(),
        };
        Applied {
            gate_closed: snapshot.gate_closed,
            writers,
            never_had_writer: self.setup.has_outputs && progress.plan.current.is_none(),
            old_writer_sessions: progress.old_writer_sessions.try_into().unwrap_or(u32::MAX),
        }
    }
}
