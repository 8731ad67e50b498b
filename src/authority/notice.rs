//! What a person must know when this region is closed, or nobody knows who owns the data: what happened, since when, what
//! may be lost, what to do next. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::State;
use super::claim::Refusal;
use super::decide::Decision;
use super::lag::seconds;
use super::ledger::{Failover, Ledger};
use super::why::{Contradiction, Reason};

/// The same words in `check`, `status`, `fence status` and the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub happened: String,
    /// By this machine's clock.
    pub since: Option<Timestamp>,
    /// What may be lost.
    pub lost: String,
    /// What to do, in this order.
    pub next: Vec<String>,
}

/// Where the steps are.
const FAILBACK: &str = "the steps are under \"Failback\" in the README";

/// What ends the contradiction.
fn cure(decision: &Decision) -> &'static str {
    let contradiction = decision.why.iter().find_map(|reason| match reason {
        Reason::Contradicts(contradiction) => Some(contradiction),
        _ => None,
    });
    match contradiction {
        Some(Contradiction::ChannelsUnread) => {
            "give the account back its right to see replication: run what `dr-agent database grants` prints"
        }
        Some(Contradiction::OrderOfRegions(_)) => {
            "put `authority.regions` back into the order in which `init` wrote it"
        }
        Some(Contradiction::SameEpoch(..) | Contradiction::ImpossibleClaim(_)) => {
            "stop one of the two databases, and find out which of them has the data that counts"
        }
        Some(Contradiction::WritableReplica | Contradiction::ReadOnlyWithoutChannel) | None => {
            "make the database one thing again: writable without a replication channel, or a read-only replica"
        }
    }
}

impl Notice {
    /// `None` while nothing is wrong.
    #[must_use]
    pub fn of(decision: &Decision, ledger: &Ledger) -> Option<Self> {
        let failover = ledger.last();
        // A reboot does not begin it anew.
        let began = failover.filter(|failover| !failover.is_promotion()).and_then(|failover| failover.seen.known);
        let known = decision.memory.known.as_ref();
        match decision.state {
            State::Superseded => {
                let owner = known.map_or("the other region", |known| &known.region);
                let happened = known.map_or_else(
                    || "another region owns the data: this region is closed".to_owned(),
                    |known| {
                        format!(
                            "epoch {} is {}'s: this region is superseded, and its users get 503",
                            known.epoch, known.region
                        )
                    },
                );
                let lost = failover.map_or_else(
                    || "how much was lost is not known: nobody here saw the change of the owner".to_owned(),
                    Failover::loss,
                );
                let next = vec![
                    format!("nothing is to be opened here: {owner} serves the users and takes the writes"),
                    "keep this region's database as it is (a snapshot) until somebody has looked for what was lost"
                        .to_owned(),
                    format!(
                        "then rebuild it as a replica of {owner}'s database, and fail back when it suits: {FAILBACK}"
                    ),
                    format!(
                        "only if {owner} is lost for good: `dr-agent fence release --reason TEXT` gives up what it has written"
                    ),
                ];
                Some(Self { happened, since: began.or(ledger.since), lost, next })
            }
            State::Unclaimed => {
                let (why, next) = match &decision.claim {
                    Ok(row) => (format!("epoch {} is being claimed", row.epoch), Vec::new()),
                    Err(Refusal::Unread | Refusal::TagsUnread) => ("it is being looked at".to_owned(), Vec::new()),
                    Err(refusal) => (
                        format!("it is not claimed by itself: {refusal}: {}", refusal.sentence()),
                        vec![
                            "if the promotion was meant: `dr-agent authority claim --reason TEXT` on an instance here"
                                .to_owned(),
                            format!("if not: make the database a replica again; {FAILBACK}"),
                        ],
                    ),
                };
                let promotion = &ledger.promotion;
                let stopped = promotion
                    .lag
                    .as_ref()
                    .map(|lag| format!(" ({:.1} s if it had stopped when the replica was seen last)", lag.seconds()));
                let lost = promotion.most_ms.map_or_else(
                    || "how much is missing here is not known: there is no heartbeat of the old owner".to_owned(),
                    |ms| {
                        format!(
                            "what the old owner wrote in the last {:.1} s before that, at most{}, and all that it has \
                             written since is not here",
                            seconds(ms),
                            stopped.unwrap_or_default()
                        )
                    },
                );
                let happened =
                    format!("this region's database was made writable; {why}; until then the app has no writer");
                Some(Self { happened, since: ledger.promotion.replica_gone.or(ledger.since), lost, next })
            }
            State::Ambiguous => {
                let why = decision.why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                Some(Self {
                    happened: format!("who owns the data cannot be told, so nothing is changed: {why}"),
                    since: ledger.since,
                    lost: failover.map_or_else(|| "nothing is known to be lost".to_owned(), Failover::loss),
                    next: vec![
                        cure(decision).to_owned(),
                        format!("`dr-agent authority show` says what contradicts what; {FAILBACK}"),
                    ],
                })
            }
            State::Boot | State::Uninitialised | State::OwnerPending | State::Owner | State::Standby => None,
        }
    }

    /// In one line, for a log.
    #[must_use]
    pub fn line(&self) -> String {
        let next = self.next.first().map(|next| format!("; next: {next}")).unwrap_or_default();
        format!("{}; {}{next}", self.happened, self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::decide::bench::{Bench, read, superseded};
    use crate::repoint::run::Progress;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn ledger(bench: &mut Bench, before: &Ledger, second: i64) -> (Decision, Ledger) {
        let decision = bench.decide();
        let progress = Progress::default();
        let (facts, at) = (&bench.facts, at(second));
        let look = super::super::ledger::Look {
            facts,
            decision: &decision,
            progress: &progress,
            lag: None,
            has_all: false,
            proven: None,
            at,
        };
        let after = before.after(&look);
        (decision, after)
    }

    fn text(notice: &Notice) -> String {
        let since = notice.since.map_or("-".to_owned(), |at| at.to_string());
        format!("{}\nsince {since}\n{}\n{}", notice.happened, notice.lost, notice.next.join("\n"))
    }

    #[test]
    fn the_owner_has_nothing_to_be_told() {
        let mut bench = Bench::resumed("h", State::Owner, 1);
        bench.own(read("t", 1));
        let (decision, ledger) = ledger(&mut bench, &Ledger::default(), 0);
        assert_eq!((decision.state, Notice::of(&decision, &ledger)), (State::Owner, None));
    }

    #[test]
    fn the_superseded_region_is_told_since_when_what_is_lost_and_what_to_do() {
        let mut bench = Bench::resumed("h", State::Owner, 1);
        bench.own(read("t", 1));
        let (_, first) = ledger(&mut bench, &Ledger::default(), 0);
        bench.after(5).own(superseded(read("t", 1), "h", 1, 2)).other(read("s", 2));
        let (decision, second) = ledger(&mut bench, &first, 5);
        let notice = Notice::of(&decision, &second).unwrap();
        insta::assert_snapshot!(text(&notice), @r#"
        epoch 2 is p's: this region is superseded, and its users get 503
        since 2026-09-21T14:13:25Z
        how much was lost is not known until both databases can be read
        nothing is to be opened here: p serves the users and takes the writes
        keep this region's database as it is (a snapshot) until somebody has looked for what was lost
        then rebuild it as a replica of p's database, and fail back when it suits: the steps are under "Failback" in the README
        only if p is lost for good: `dr-agent fence release --reason TEXT` gives up what it has written
        "#);
        // The machine boots: what happened did not begin then.
        let (decision, third) = ledger(bench.after(600), &Ledger { state: State::Boot, ..second }, 605);
        assert_eq!(Notice::of(&decision, &third).unwrap().since, notice.since);
    }

    #[test]
    fn a_promotion_that_may_not_be_claimed_names_the_command() {
        let mut bench = Bench::resumed("p", State::Standby, 1);
        bench.own(read("s", 1));
        let (decision, ledger) = ledger(&mut bench, &Ledger::default(), 0);
        assert_eq!(decision.state, State::Unclaimed);
        insta::assert_snapshot!(text(&Notice::of(&decision, &ledger).unwrap()), @r#"
        this region's database was made writable; it is not claimed by itself: NeverSeenReplicating: no agent of this region ever saw this server replicate: `dr-agent authority claim` if it was; until then the app has no writer
        since 2026-09-21T14:13:20Z
        how much is missing here is not known: there is no heartbeat of the old owner
        if the promotion was meant: `dr-agent authority claim --reason TEXT` on an instance here
        if not: make the database a replica again; the steps are under "Failback" in the README
        "#);
    }

    #[test]
    fn what_contradicts_is_named() {
        let mut bench = Bench::resumed("h", State::Owner, 1);
        let mut both = read("t", 1);
        both.channels = Some(1);
        bench.own(both);
        let (decision, ledger) = ledger(&mut bench, &Ledger::default(), 0);
        insta::assert_snapshot!(text(&Notice::of(&decision, &ledger).unwrap()), @r#"
        who owns the data cannot be told, so nothing is changed: the database is writable and has a replication channel
        since 2026-09-21T14:13:20Z
        nothing is known to be lost
        make the database one thing again: writable without a replication channel, or a read-only replica
        `dr-agent authority show` says what contradicts what; the steps are under "Failback" in the README
        "#);
    }
}
