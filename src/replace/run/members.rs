//! What members ask of this instance and it asks of them, whoever wants to go: grants, and the records of those that went.

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::outcome::Done;
use super::{FILE, LANE, Task};
use crate::clock::Stamp;
use crate::group::membership;
use crate::health::verdict::InstanceState;
use crate::replace::api::Api;
use crate::replace::ask::Asker;
use crate::replace::grants::{Denial, Giver, Round};
use crate::replace::plan;
use crate::replace::records::{Record, Told};
use crate::telemetry::event;

/// From one time the group's records are learned to the next.
const LEARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// The same until enough members have told them: a new instance may know itself before it knows them.
const LEARN_AGAIN: Duration = Duration::from_secs(10);

/// What a member asks over the peer listener. It is answered once it is written down.
#[derive(Debug)]
pub enum Question {
    /// It names the grant by its own id.
    Grant {
        record: Box<Record>,
        reply: oneshot::Sender<Result<(), Denial>>,
    },
    Return {
        id: String,
        reply: oneshot::Sender<()>,
    },
}

impl<A: Api> Task<A> {
    /// Answers a member.
    pub(super) async fn answer(&mut self, question: Question) {
        match question {
            Question::Grant { record, reply } => {
                let given = self.give(&record).await;
                event::grant_judged(&record.instance, given.err());
                // Whoever asked may have gone; then it returns what it may have.
                let _ = reply.send(given);
            }
            Question::Return { id, reply } => {
                let grant = self.kept.memory.take_back(&id);
                let record = self.kept.records.drop(&id);
                if grant || record {
                    self.keep().await;
                    self.share();
                }
                let _ = reply.send(());
            }
        }
    }

    /// Judges, and writes the grant down before it counts.
    pub(super) async fn give(&mut self, record: &Record) -> Result<(), Denial> {
        let now = self.now();
        let facts = self.facts();
        let (Some(instance), Some(group)) = (facts.instance, facts.group) else { return Err(Denial::Stranger) };
        let policy = &self.snapshot.config.replace;
        let myself = record.instance == instance;
        let giver = Giver {
            instance,
            group,
            cooldown: policy.cooldown,
            began: &self.kept.memory.began,
            given: self.kept.memory.given.as_ref(),
            wants: !myself && plan::wants_to_go(&facts, policy, &now),
            is_serving: self.snapshot.instance.state == InstanceState::Serving && !facts.draining,
            records: &self.kept.records,
            serving: &self.snapshot.group.serving,
        };
        let grant = giver.judge(record, &now)?;
        let mut kept = self.kept.clone();
        kept.memory.given = Some(grant);
        kept.memory.saves += 1;
        if !myself && !kept.records.keep(record.clone(), Duration::ZERO, &now) && !record.fits() {
            return Err(Denial::NotSaved);
        }
        let saved = if myself { self.store.save_somewhere(&kept).await } else { self.store.save(&kept).await };
        if let Err(error) = saved {
            event::replace_not_saved(&error);
            return Err(Denial::NotSaved);
        }
        self.kept = kept;
        self.share();
        Ok(())
    }

    /// Gives back the grants of a round, the own one included.
    pub(super) async fn give_back(&mut self, round: &Round) {
        if self.kept.memory.take_back(&round.id) {
            self.keep().await;
        }
        let Some(asker) = self.asker() else { return };
        let me = self.me();
        let voters = round.to_return().iter().filter(|voter| Some(*voter) != me.as_ref());
        let (id, voters) = (round.id.clone(), voters.cloned().collect::<Vec<_>>());
        self.work.spawn(async move {
            asker.await.give_back(&id, &voters).await;
            Done::Returned
        });
    }

    /// Asks the group for its records: an instance that takes another's place learns what happened to it.
    pub(super) fn learn(&mut self, now: &Stamp) {
        if now.time < self.learn_next || self.standing.place.group.is_none() {
            return;
        }
        let (Some(me), Some(asker)) = (self.me(), self.asker()) else { return };
        self.learn_next = now.time + LEARN_AGAIN;
        self.work.spawn(async move {
            let asker = asker.await;
            let (told, is_all) = asker.records(&me).await;
            Done::Learned { told, is_all }
        });
    }

    /// Keeps what was told.
    pub(super) async fn learned(&mut self, told: Vec<Told>, is_all: bool) {
        let now = self.now();
        if is_all {
            self.learn_next = now.time + LEARN_EVERY;
        }
        let mut news = false;
        for Told { age_seconds, record } in told {
            let ours = self.standing.place.group.as_deref() == Some(record.group.as_str());
            news |= ours && self.kept.records.keep(record, Duration::from_secs(age_seconds), &now);
        }
        if news {
            self.keep().await;
            self.share();
        }
    }

    /// Who to ask, by the list of members on disk; `None` without keys.
    pub(super) fn asker(&self) -> Option<impl Future<Output = Asker> + Send + use<A>> {
        let keys = self.standing.keys.clone()?;
        let dir = self.channels.state_dir.clone();
        let config = &self.snapshot.config;
        let (port, deployment) = (config.listen.peer.port(), config.deployment.clone());
        Some(async move {
            let read = timeout(FILE, LANE.run(move || membership::load(&dir))).await;
            let members = read.ok().and_then(Result::ok).and_then(Result::ok).flatten();
            Asker { members: members.map(|list| list.members).unwrap_or_default(), port, deployment, keys }
        })
    }
}
