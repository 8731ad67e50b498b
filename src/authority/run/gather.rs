//! What the task takes in: the answers of one round, what the members say, and what is carried out already.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::facts::{self, Across, Applied, Asked, Facts, Group, Member, Source, Tagged, Tags, Waits};
use super::super::other::{Heard, Other, Said as Answered};
use super::super::sql::Database;
use super::super::word::Proof;
use super::setup::Setup;
use super::write::read_tags;
use super::{TAGS, Task};
use crate::authority::database::{Attempt, Unread};
use crate::clock::BootTime;
use crate::group::ask::Silence;
use crate::group::keys::Keys;
use crate::repoint::run::Progress;
use crate::snapshot::Snapshot;

/// A question for the group's tags.
#[derive(Debug)]
pub(super) struct TagQuestion {
    began: BootTime,
    /// `None` when it failed, which is known within 10 s.
    answer: JoinSet<Option<Tags>>,
}

/// An instance whose group nobody has named by then has none.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// Who is asked once a round without AWS and without the group.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) own: Database,
    pub(super) other: Option<Database>,
    across: Option<Other>,
}

/// What they answered.
pub(super) struct Answers {
    own: Attempt,
    other: Option<Attempt>,
    across: Option<Heard>,
}

impl Sources {
    pub(super) fn of(setup: &Setup) -> Self {
        Self {
            own: Database::new(setup.own.clone()),
            other: setup.other.clone().map(Database::new),
            across: setup.url.as_ref().and_then(|url| Other::new(&setup.place.other, url, &setup.deployment)),
        }
    }

    /// What is known before anybody was asked.
    pub(super) fn facts(&self, setup: &Setup, now: BootTime) -> Facts {
        Facts {
            now,
            place: setup.place.clone(),
            waits: Waits { boot: setup.authority.boot_wait, takeover: setup.authority.takeover_wait },
            own: facts::Database::default(),
            other: self.other.as_ref().map(|_| facts::Database::default()),
            across: self.across.as_ref().map(|_| Source::default()),
            group: Group::default(),
            tags: Some(Tagged::default()),
            applied: Applied::default(),
        }
    }

    /// Asks all side by side, each within its own deadline of 2 s.
    pub(super) async fn ask(&mut self, keys: Option<&Keys>) -> Answers {
        let own = self.own.read();
        let other = async {
            match &mut self.other {
                Some(other) => Some(other.read().await),
                None => None,
            }
        };
        let across = async {
            match &self.across {
                Some(across) => Some(across.ask(keys).await),
                None => None,
            }
        };
        let (own, other, across) = tokio::join!(own, other, across);
        Answers { own, other, across }
    }
}

impl Answers {
    pub(super) fn tell(self, facts: &mut Facts) {
        let Self { own, other, across } = self;
        let unreached = |attempt: &Option<Attempt>| {
            attempt.as_ref().is_none_or(|attempt| matches!(attempt.result, Err(Unread::Unreached(_))))
        };
        if let (Some(source), Some(heard)) = (&mut facts.across, across) {
            let answer = match heard.said {
                Answered::Verified(value) => {
                    serde_json::from_value::<Proof>(value).map_or(Across::Failed, Across::Verified)
                }
                Answered::Unverified(epoch) => Across::Unverified(epoch),
                Answered::Unreached(_) if unreached(&other) => Across::Silent,
                Answered::Unreached(_) | Answered::Failed(_) => Across::Failed,
            };
            source.last = Some(Asked { began: heard.began, answer });
        }
        facts.own.take(own);
        if let (Some(database), Some(attempt)) = (&mut facts.other, other) {
            database.take(attempt);
        }
    }
}

impl Task {
    /// Asks every source, side by side, each within its own deadline.
    pub(super) async fn round(&mut self) {
        let standing = Arc::clone(&self.channels.standing.borrow());
        self.note("keys", standing.problem.clone());
        let mut question = self.ask_tags();
        let tags = async { timeout(TAGS, question.as_mut()?.answer.join_next()).await.ok()??.ok()? };
        let (answers, in_time) = tokio::join!(Box::pin(self.sources.ask(standing.keys.as_ref())), tags);
        answers.tell(&mut self.facts);
        if self.is_alone() {
            self.facts.tags = None;
            return;
        }
        // As long as nobody knows the group its tags were not asked for.
        let Some(question) = question else {
            self.facts.tags.get_or_insert_default();
            return;
        };
        let heard = self.heard_tags(question, in_time);
        let tagged = self.facts.tags.get_or_insert_default();
        if let Some(tags) = &heard.answer {
            tagged.stands = tags.clone();
        }
        tagged.last = Some(heard);
    }

    /// A question for the group's tags, if they are to be read.
    fn ask_tags(&self) -> Option<TagQuestion> {
        if !self.decision.as_ref().is_none_or(|decision| decision.reads_tags) {
            return None;
        }
        let group = self.group_name()?;
        let (aws, region) = (self.channels.aws.clone(), self.setup.place.region.clone());
        let mut question = TagQuestion { began: BootTime::now(), answer: JoinSet::new() };
        question.answer.spawn(async move { aws.tags(&region, &group).await.ok().map(|tags| read_tags(&tags)) });
        Some(question)
    }

    /// What this round's question brought. One that is not answered in time goes on, and counts in a later round: a busy
    /// machine or a throttled API answers late for a long time, and what is asked anew every time it never hears.
    fn heard_tags(&mut self, question: TagQuestion, in_time: Option<Tags>) -> Asked<Option<Tags>> {
        let began = question.began;
        let late = self.late_tags.as_mut().and_then(|late| Some((late.began, late.answer.try_join_next()?)));
        if late.is_some() || self.late_tags.is_none() {
            self.late_tags = (!question.answer.is_empty()).then_some(question);
        }
        match (in_time, late) {
            (None, Some((began, Ok(Some(tags))))) => Asked { began, answer: Some(tags) },
            (answer, _) => Asked { began, answer },
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
            return Group { asked, ..Group::default() };
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
        let silent = round.heard.iter().filter(|heard| !matches!(heard.word, Ok(_) | Err(Silence::Stranger)));
        Group {
            asked: Some(asked),
            members: round.words(&me).map(member).collect(),
            silent: silent.map(|heard| heard.instance.clone()).collect(),
        }
    }
}

/// What the app's outputs are known to say; the gate is not of it.
pub(super) fn applied(setup: &Setup, progress: &Progress) -> Applied {
    let place = &setup.place;
    let writers = match progress.plan.writers().filter(|_| setup.has_outputs) {
        Some(writers) => writers,
        // Decided in an earlier life, and since the machine started nobody has told whether it was carried out.
        None if setup.has_outputs && progress.plan.current.is_some() => {
            [place.region.clone(), place.other.clone()].into()
        }
        // An app that nobody has repointed yet writes to its own region's database.
        None => [place.region.clone()].into(),
    };
    Applied {
        gate_closed: false,
        writers,
        never_had_writer: setup.has_outputs && progress.plan.current.is_none(),
        old_writer_sessions: progress.old_writer_sessions.try_into().unwrap_or(u32::MAX),
    }
}
