//! What comes of the work that was begun: looks, rounds, the call.

use std::time::Duration;

use super::Task;
use crate::clock::BootTime;
use crate::replace::api::{Api, Marked, Unavailable};
use crate::replace::grants::Round;
use crate::replace::look::Look;
use crate::replace::memory::{Grace, Outcome};
use crate::replace::plan::Looked;
use crate::replace::records::{Record, Told};
use crate::telemetry::event;

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
        is_all: bool,
    },
    /// Grants were given back; there is nothing more to do.
    Returned,
}

impl<A: Api> Task<A> {
    /// The round is lost; the next one comes with the next look.
    pub(super) fn lose(&mut self, words: String) {
        self.round_words = Some(words);
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
    pub(super) async fn give_up(&mut self) {
        if let Some((round, _)) = self.won.take() {
            self.give_back(&round).await;
        }
    }

    /// Takes in what came of a piece of work.
    pub(super) async fn take(&mut self, done: Done) {
        if !matches!(done, Done::Learned { .. } | Done::Returned) {
            self.busy = false;
        }
        match done {
            Done::Look { began, look } => {
                if let Err(error) = &look {
                    event::look_failed(&error.0);
                }
                let look = look.ok();
                self.see(look.as_ref()).await;
                self.looked = Some(Looked { began, look, won: None });
            }
            Done::Round { round, record } => {
                let won = round.is_won();
                event::round_ended(&round.words(), won);
                if won {
                    self.round_words = Some(round.words());
                    self.won = Some((round, record));
                    if let Some(looked) = &mut self.looked {
                        looked.won = Some(true);
                    }
                } else {
                    self.lose(round.words());
                    self.give_back(&round).await;
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
                        self.kept.memory.grace = Some(Grace { at: self.now(), span });
                        // Not the call failed, it came too early.
                        self.kept.memory.decision = None;
                    }
                }
                self.keep().await;
                if let Some((round, _)) = won.filter(|_| surely_not) {
                    self.give_back(&round).await;
                }
            }
            Done::TooLate => {
                self.kept.memory.decision = None;
                self.keep().await;
                self.give_up().await;
            }
            Done::Learned { told, is_all } => self.learned(told, is_all).await,
            Done::Returned => {}
        }
    }

    /// Whether the group shows that a call whose answer was lost was heard.
    async fn see(&mut self, look: Option<&Look>) {
        let calling = self.kept.memory.decision.as_ref().is_some_and(|decision| decision.outcome == Outcome::Calling);
        let (Some(look), Some(me), true) = (look, self.me(), calling) else { return };
        let own = look.members.iter().find(|member| member.instance == me);
        if own.is_none_or(|own| !own.healthy || own.lifecycle != "InService") {
            self.settle(Outcome::Accepted);
            self.keep().await;
        }
    }
}
