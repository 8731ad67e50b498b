//! Pieces of work: a repair, a look, a round, the call. Each is begun here and ends as a [`Done`] or, a repair, as a file.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use super::outcome::Done;
use super::{FILE, LANE, Task};
use crate::clock::{self, BootTime, Stamp};
use crate::group::keys;
use crate::helper;
use crate::replace::api::{Api, Marked, Unavailable};
use crate::replace::grants::Round;
use crate::replace::ladder::Verb;
use crate::replace::memory::{Decision, Outcome};
use crate::replace::plan::{Fault, LOOK_FRESH, Plan};
use crate::replace::records::{self, Record};
use crate::snapshot::Snapshot;
use crate::telemetry::event;

/// One call to AWS, whatever it tries.
const CALL: Duration = Duration::from_secs(10);

/// Writing the group's note before the call.
const NOTE: Duration = Duration::from_secs(3);

/// A repair that was asked for.
pub(super) struct Repair {
    verb: Verb,
    id: String,
    at: BootTime,
}

impl<A: Api> Task<A> {
    pub(super) async fn ask_for_repair(&mut self, verb: Verb, attempt: u32) {
        let now = self.now();
        let Some(id) = keys::nonce() else { return };
        self.kept.memory.repairs.note(verb, &now);
        self.keep().await;
        event::repair_asked(verb, attempt);
        let (paths, request) = (self.paths.clone(), id.clone());
        let asked = timeout(FILE, LANE.run(move || paths.request(verb.name(), &request))).await;
        if !matches!(asked, Ok(Ok(Ok(())))) {
            self.repair_words = Some(format!("{verb} could not be asked for"));
        }
        self.repair = Some(Repair { verb, id, at: now.time });
    }

    /// Looks whether the helper has done what was asked for.
    pub(super) async fn follow_repair(&mut self) {
        let Some(Repair { verb, id, at }) = &self.repair else { return };
        let (paths, verb, wanted, at) = (self.paths.clone(), *verb, id.clone(), *at);
        let done = timeout(FILE, LANE.run(move || paths.result(verb.name(), &wanted))).await;
        let done = done.ok().and_then(Result::ok).flatten();
        let outcome = match done {
            Some(done) if done.ok => None,
            Some(done) => Some(format!("{verb} failed: {}", done.error.unwrap_or_default())),
            None if BootTime::now().since(at) >= helper::LIMIT => {
                Some(format!("the root helper did not answer {verb}"))
            }
            None => return,
        };
        event::repair_ended(verb, outcome.as_deref());
        self.repair_words = outcome;
        self.repair = None;
    }

    pub(super) fn look(&mut self) {
        let Some(group) = self.standing.place.group.clone() else { return };
        let api = self.channels.api.clone();
        self.begin(async move {
            let began = BootTime::now();
            let late = || Unavailable("no answer in time".to_owned());
            let look = timeout(CALL, api.look(&group)).await.unwrap_or_else(|_| Err(late()));
            Done::Look { began, look }
        });
    }

    /// Takes the own grant, then asks the others for theirs.
    pub(super) async fn ask(&mut self, electorate: u32, voters: Vec<String>, fault: &Fault) {
        let (Some(id), Some(group), Some(me)) = (keys::nonce(), self.standing.place.group.clone(), self.me()) else {
            return;
        };
        let record = record(id.clone(), group, me.clone(), fault, &self.snapshot);
        if let Err(denial) = self.give(&record).await {
            self.lose(format!("this instance cannot agree itself: {denial}"));
            return;
        }
        let Some(asker) = self.asker() else { return };
        let round = Round::new(id, electorate, voters);
        self.begin(async move {
            let round = asker.await.round(round, &me, &record).await;
            Done::Round { round, record: Box::new(record) }
        });
    }

    /// Writes the decision down, tells it, and makes the call.
    pub(super) async fn go(&mut self, now: &Stamp) {
        let (Some((round, record)), Some(looked), Some(me)) = (&self.won, &self.looked, self.me()) else { return };
        let began = looked.began;
        let alone = looked.look.as_ref().is_none_or(|look| look.desired < 2);
        let note = records::write_tag(looked.look.as_ref().and_then(|look| look.last_replacement.as_deref()), record);
        let record = record.clone();
        self.kept.memory.decision = Some(Decision {
            id: round.id.clone(),
            at: now.clone(),
            cause: record.cause.clone(),
            outcome: Outcome::Calling,
        });
        self.kept.memory.saves += 1;
        if let Err(error) = self.store.save_somewhere(&self.kept).await {
            // A restarted agent would not know of it, and call again.
            event::replace_not_saved(&error);
            self.settle(Outcome::Refused("the decision could not be written down".to_owned()));
            return;
        }
        event::replacement_decided(&record);
        let api = self.channels.api.clone();
        self.begin(async move {
            let noted = timeout(NOTE, api.note(&record.group, &note)).await;
            if alone && !matches!(noted, Ok(Ok(()))) {
                // It is all that a group of one will remember.
                return Done::Marked(Marked::Refused("the group's tag could not be written".to_owned()));
            }
            if BootTime::now().since(began) >= LOOK_FRESH {
                return Done::TooLate;
            }
            let late = |_| Marked::Unknown("no answer in time".to_owned());
            Done::Marked(timeout(CALL, api.mark_unhealthy(&me)).await.unwrap_or_else(late))
        });
    }

    fn begin(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.busy = true;
        self.work.spawn(work);
    }
}

fn record(id: String, group: String, instance: String, fault: &Fault, snapshot: &Snapshot) -> Record {
    let mut record = Record {
        id,
        at: clock::wall(),
        group,
        instance,
        cause: fault.cause.name().to_owned(),
        detail: fault.detail.clone(),
        votes: snapshot.group.tallies.get(&fault.component).copied().unwrap_or_default(),
        plan: Plan::Go.words(snapshot.taken),
        transitions: snapshot.history.as_ref().clone(),
    };
    record.fit();
    record
}
