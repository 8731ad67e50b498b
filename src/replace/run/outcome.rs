//! What comes of the work that was begun: looks, rounds, the call.

use std::sync::Arc;
use std::time::Duration;

use super::Task;
use crate::clock::BootTime;
use crate::group::run::Standing;
use crate::replace::api::{Api, Marked, Unavailable};
use crate::replace::grants::Round;
use crate::replace::look::Look;
use crate::replace::memory::{Grace, Outcome};
use crate::replace::plan::Looked;
use crate::replace::records::{Record, Told};
use crate::snapshot::Snapshot;
use crate::telemetry::event;

/// From one time the group's records are learned to the next.
const LEARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// The grace period, when the group's is not known.
const GRACE: Duration = Duration::from_secs(300);

/// A piece of work that has ended.
pub(super) enum Done {
    Look {
        began: BootTime,
        look: Result<Look, Unavailable>,
    },
    Round {
        round: Round,
        record: Box<Record>,
    },
    Marked(Marked),
    /// The call was not made: the look was too old by then.
    TooLate,
    Learned {
        told: Vec<Told>,
        answered: bool,
    },
    /// Grants were given back; there is nothing more to do.
    Returned,
}

impl<A: Api> Task<A> {
    /// The round is lost; the next one comes with the next look.
    pub(super) fn lose(&mut self, words: String) {
        self.words.0 = Some(words);
        if let Some(looked) = &mut self.looked {
            looked.won = Some(false);
        }
    }

    pub(super) fn settle(&mut self, outcome: Outcome) {
        event::replacement_settled(&outcome);
        if let Some(decision) = &mut self.kept.memory.decision {
            decision.outcome = outcome;
        }
    }

    /// Gives back the grants of the last round that was won.
    pub(super) async fn give_up(&mut self, standing: &Standing, snapshot: &Snapshot) {
        if let Some((round, _)) = self.won.take() {
            self.give_back(&round, standing, snapshot).await;
        }
    }

    async fn give_back(&mut self, round: &Round, standing: &Standing, snapshot: &Snapshot) {
        if self.kept.memory.take_back(&round.id) {
            self.keep().await;
        }
        let Some(asker) = self.asker(snapshot, standing) else { return };
        let me = snapshot.about.owner.instance.clone().unwrap_or_default();
        let (id, voters) =
            (round.id.clone(), round.to_return().iter().filter(|v| **v != me).cloned().collect::<Vec<_>>());
        self.work.spawn(async move {
            asker.await.give_back(&id, &voters).await;
            Done::Returned
        });
    }

    /// Takes in what came of a piece of work.
    pub(super) async fn take(&mut self, done: Done, snapshot: &Snapshot) {
        let standing = Arc::clone(&self.channels.standing.borrow());
        let now = self.now();
        if !matches!(done, Done::Learned { .. } | Done::Returned) {
            self.busy = false;
        }
        match done {
            Done::Look { began, look } => {
                if let Err(error) = &look {
                    event::look_failed(&error.0);
                }
                let look = look.ok();
                self.see(look.as_ref(), snapshot).await;
                self.looked = Some(Looked { began, look, won: None });
            }
            Done::Round { round, record } => {
                let won = round.is_won();
                event::round_ended(&round.words(), won);
                if won {
                    self.words.0 = Some(round.words());
                    self.won = Some((round, record));
                    if let Some(looked) = &mut self.looked {
                        looked.won = Some(true);
                    }
                } else {
                    self.lose(round.words());
                    self.give_back(&round, &standing, snapshot).await;
                }
            }
            Done::Marked(marked) => {
                let won = self.won.take();
                let surely_not = !matches!(marked, Marked::Accepted | Marked::Unknown(_));
                match marked {
                    Marked::Accepted => self.settle(Outcome::Accepted),
                    // It stays as it is: the next looks tell.
                    Marked::Unknown(why) => event::look_failed(&why),
                    Marked::Refused(why) => self.settle(Outcome::Refused(why)),
                    Marked::InGracePeriod => {
                        self.settle(Outcome::Refused("the instance is within its grace period".to_owned()));
                        let grace = self.looked.as_ref().and_then(|looked| looked.look.as_ref()).map(|look| look.grace);
                        let span = grace.filter(|grace| !grace.is_zero()).unwrap_or(GRACE);
                        self.kept.memory.grace = Some(Grace { at: now, span });
                        // Not the call failed, it came too early.
                        self.kept.memory.decision = None;
                    }
                }
                self.keep().await;
                if let Some((round, _)) = won.filter(|_| surely_not) {
                    self.give_back(&round, &standing, snapshot).await;
                }
            }
            Done::TooLate => {
                self.kept.memory.decision = None;
                self.keep().await;
                self.give_up(&standing, snapshot).await;
            }
            Done::Learned { told, answered } => {
                if answered {
                    self.learn_next = now.time + LEARN_EVERY;
                }
                let mut news = false;
                for Told { age_seconds, record } in told {
                    let ours = standing.place.group.as_deref() == Some(record.group.as_str());
                    news |= ours && self.kept.records.keep(record, Duration::from_secs(age_seconds), &now);
                }
                if news {
                    self.keep().await;
                    self.share();
                }
            }
            Done::Returned => {}
        }
    }

    /// Whether the group shows that a call whose answer was lost was heard.
    async fn see(&mut self, look: Option<&Look>, snapshot: &Snapshot) {
        let calling = self.kept.memory.decision.as_ref().is_some_and(|decision| decision.outcome == Outcome::Calling);
        let (Some(look), Some(me), true) = (look, &snapshot.about.owner.instance, calling) else { return };
        let own = look.members.iter().find(|member| member.instance == *me);
        if own.is_none_or(|own| !own.healthy || own.lifecycle != "InService") {
            self.settle(Outcome::Accepted);
            self.keep().await;
        }
    }
}
