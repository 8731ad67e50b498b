//! What an operator asks of authority over the control socket, and what comes of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Task;
use crate::authority::decide::Decision;
use crate::authority::notice::Notice;
use crate::authority::operator::{self, Progress, Refused, Release};
use crate::authority::sql::{Close, Swap};

/// What is asked. Everything but `Show` changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    Show,
    /// The first row.
    Init {
        reason: String,
        force: bool,
    },
    /// An epoch above everything that is known.
    Claim {
        reason: String,
    },
    /// The end of what closes this region.
    Release {
        reason: String,
        /// A person has said that the other region's writes are given up; without it a claim is only named.
        loses: bool,
    },
    /// A planned close, or a drill.
    Close {
        reason: String,
        seconds: u64,
        is_drill: bool,
        /// A drill though the other region is not ready.
        #[serde(default)]
        force: bool,
    },
}

/// One order and who waits for its answer.
#[derive(Debug)]
pub struct Question {
    pub order: Order,
    pub by_whom: String,
    pub reply: oneshot::Sender<Answer>,
}

/// Done, with what is to be told; or why not.
pub type Answer = Result<Value, No>;

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// It may not be; else it was tried in vain.
    pub is_refusal: bool,
    pub error: String,
}

impl Question {
    /// Nobody can answer it.
    pub fn refuse(self, why: &str) {
        // Whoever asked may have gone.
        let _ = self.reply.send(Err(No { is_refusal: true, error: why.to_owned() }));
    }
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        Self { is_refusal: true, error: format!("{refused}: {}", refused.sentence()) }
    }
}

fn failed(error: impl Into<String>) -> No {
    No { is_refusal: false, error: error.into() }
}

impl Task {
    /// Answers from a fresh look at every source.
    pub(super) async fn answer(&mut self, question: Question) {
        let Question { order, by_whom, reply } = question;
        if order != Order::Show {
            Box::pin(self.round()).await;
            self.decide().await;
        }
        let answer = self.obey(&order, &by_whom).await;
        if order != Order::Show {
            Box::pin(self.round()).await;
            self.decide().await;
            self.carry_out(true).await;
        }
        let _ = reply.send(answer.map(|done| json!({ "done": done, "authority": self.shown() })));
    }

    async fn obey(&mut self, order: &Order, by_whom: &str) -> Result<Value, No> {
        let decision = self.decision.clone().ok_or_else(|| failed("nothing was decided yet"))?;
        match order {
            Order::Show => Ok(Value::Null),
            Order::Init { reason, force } => {
                let row = operator::init(&self.facts, &decision, *force)?;
                self.write(&row, reason).await
            }
            Order::Claim { reason } => {
                let row = operator::claim(&self.facts, &decision)?;
                self.write(&row, reason).await
            }
            Order::Release { reason, loses } => match operator::release(&self.facts, &decision)? {
                Release::EndClose(until) => {
                    let swap = self
                        .sources
                        .own
                        .release(&self.setup.place.region, until)
                        .await
                        .map_err(|error| failed(error.to_string()))?;
                    done(swap).map(|()| json!({ "released": until }))
                }
                Release::Claim(row) if *loses => self.write(&row, reason).await,
                Release::Claim(row) => Err(No {
                    is_refusal: true,
                    error: format!(
                        "this is a claim of epoch {}: what the other region has written since its own is given up",
                        row.epoch
                    ),
                }),
            },
            Order::Close { reason, seconds, is_drill, force } => {
                let may = if *is_drill { operator::drill } else { operator::close };
                may(&self.facts, &decision)?;
                if *is_drill && !force {
                    operator::other_ready(&self.facts)?;
                }
                let close = Close {
                    region: self.setup.place.region.clone(),
                    is_drill: *is_drill,
                    span: Duration::from_secs(*seconds),
                    reason: reason.clone(),
                    by_whom: by_whom.to_owned(),
                    before: self.row_that_stands(),
                };
                let swap = self.sources.own.close(&close).await.map_err(|error| failed(error.to_string()))?;
                done(swap).map(|()| json!({ "seconds": seconds }))
            }
        }
    }

    /// The end of this region's `closing` row, if there is one.
    fn row_that_stands(&self) -> Option<jiff::Timestamp> {
        let seen = self.facts.own.seen.as_ref()?;
        let rows = &seen.read.tables.as_ref()?.closing;
        rows.iter().find(|row| row.region == self.setup.place.region).map(|row| row.until)
    }

    async fn write(&mut self, row: &crate::authority::claim::NewRow, reason: &str) -> Result<Value, No> {
        let swap = self.try_claim(row, reason).await.map_err(failed)?;
        done(swap).map(|()| json!({ "epoch": row.epoch, "region": row.region }))
    }

    /// Everything about authority, for people and their scripts.
    fn shown(&self) -> Value {
        let Some(decision) = &self.decision else { return Value::Null };
        let closes = self.facts.own.seen.as_ref().and_then(|seen| Some(&seen.read.tables.as_ref()?.closing));
        json!({
            "summary": summary(decision),
            "region": self.setup.place.region,
            "other": self.setup.place.other,
            "gate": if self.facts.applied.gate_closed { "closed: users get 503" } else { "open: users are served" },
            "known": decision.memory.known,
            "own": decision.memory.own,
            "closing": closes,
            "close": { "progress": self.close, "promote_now": self.close.as_ref().is_some_and(Progress::is_done) },
            "problems": self.problems,
            "since": self.ledger.since,
            "lag": self.said.as_ref().and_then(|said| said.lag.clone()),
            "notice": Notice::of(decision, &self.ledger),
            "failover": self.ledger.last(),
        })
    }
}

fn done(swap: Swap) -> Result<(), No> {
    match swap {
        Swap::Done => Ok(()),
        Swap::Changed => Err(failed("somebody was faster: look again with `dr-agent authority show`")),
    }
}

/// A decision in words, the same wherever it is shown.
#[must_use]
pub fn summary(decision: &Decision) -> Value {
    json!({
        "state": decision.state.name(),
        "role": decision.role.name(),
        "promoted": decision.promoted,
        "standby_ready": decision.standby_ready,
        "why": decision.why.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "alarms": decision.alarms.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "claim": match &decision.claim {
            Ok(row) => format!("claims epoch {}", row.epoch),
            Err(refusal) => format!("{refusal}: {}", refusal.sentence()),
        },
    })
}
