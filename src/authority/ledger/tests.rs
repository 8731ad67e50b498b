//! Failovers as both regions see them.

use std::time::Duration;

use super::*;
use crate::authority::database::Beat;
use crate::authority::decide::bench::{Bench, claim, read, replica};
use crate::authority::facts::Across;
use crate::authority::lag::Measure;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

/// `read` with a heartbeat of `region` at `second`, which is `age_ms` ago.
fn beating(mut read: Read, region: &str, second: i64, age_ms: u64) -> Read {
    let beat = Beat { region: region.to_owned(), at: at(second), age_ms };
    read.tables.as_mut().unwrap().heartbeat.push(beat);
    read
}

/// `read` whose newest row was written at `second`.
fn since(mut read: Read, second: i64) -> Read {
    read.tables.as_mut().unwrap().newest.as_mut().unwrap().since = at(second);
    read
}

struct Book {
    bench: Bench,
    ledger: Ledger,
    lag: Option<Lag>,
    /// What a planned close has come to.
    has_all: bool,
}

impl Book {
    fn new(bench: Bench) -> Self {
        Self { bench, ledger: Ledger::default(), lag: None, has_all: false }
    }

    /// A look at `second` after these reads of both databases.
    fn look(&mut self, second: u64, own: impl Into<Option<Read>>, other: impl Into<Option<Read>>) -> State {
        self.bench.facts.now = crate::clock::BootTime::from_boot(Duration::from_secs(100 + second));
        self.bench.own(own).other(other).members(&[]).across(Across::Silent);
        self.again(second, None)
    }

    fn again(&mut self, second: u64, proven: Option<Timestamp>) -> State {
        let decision = self.bench.decide();
        self.lag = Lag::of(&self.bench.facts, &self.bench.memory).or(self.lag.take());
        let (facts, lag, progress) = (&self.bench.facts, self.lag.as_ref(), &Progress::default());
        let at = at(i64::try_from(second).unwrap());
        self.ledger =
            self.ledger.after(&Look { facts, decision: &decision, progress, lag, has_all: self.has_all, proven, at });
        decision.state
    }
}

/// Region `p` sees the owner `h` die and its own database promoted.
fn promoted() -> Book {
    let mut book = Book::new(Bench::resumed("p", State::Standby, 1));
    book.bench.memory.roll.insert("s".to_owned());
    book.look(0, beating(replica("s", 1), "h", -1, 900), beating(read("t", 1), "h", 0, 100));
    book.look(5, beating(replica("s", 1), "h", 2, 2_500), None);
    assert_eq!(book.look(10, beating(read("s", 1), "h", 2, 7_500), None), State::Unclaimed);
    book.again(10, Some(at(10)));
    let mut second = 11;
    while book.look(second, beating(read("s", 2), "h", 2, 9_000), None) != State::Owner {
        second += 1;
        assert!(second < 60, "takes over");
    }
    book
}

#[test]
fn a_promotion_leaves_one_record_with_every_step() {
    let book = promoted();
    let [failover] = book.ledger.failovers.as_slice() else { panic!("{:?}", book.ledger) };
    assert_eq!((&failover.from, &failover.to), (&claim(1), &claim(2)));
    assert!(failover.is_promotion() && failover.is_over());
    let seen = &failover.seen;
    assert_eq!((seen.replica_gone, seen.proven, seen.known), (Some(at(10)), Some(at(10)), Some(at(11))));
    assert!(seen.took_over.is_some() && seen.took_over == seen.opened, "nothing was to be repointed");
    assert_eq!((seen.closed, seen.stopped, seen.repointed), (None, None, None));
    // As it was measured while it was a replica; and what the age became until the old owner was not waited for.
    assert_eq!(failover.lag, Some(Lag { ms: 2_500, by: Measure::Heartbeat, beat: Some(at(2)) }));
    assert_eq!(failover.most, Some(Most { ms: 9_000, by: Stop::Silent }));
    assert_eq!((failover.rpo_ms(), failover.lost_ms), (Some(9_000), None));
    assert_eq!(book.ledger.last(), Some(failover));
}

#[test]
fn the_old_owners_return_makes_the_estimate_better() {
    let mut book = promoted();
    book.look(90, beating(read("s", 2), "h", 2, 80_000), beating(read("t", 1), "h", 4, 80_000));
    let failover = book.ledger.last().unwrap();
    assert_eq!((failover.lost_ms, failover.rpo_ms()), (Some(2_000), Some(2_000 + BEATS)));
    // Rebuilt from the new owner's it says nothing any more, and what is known stays.
    book.look(200, beating(read("s", 2), "h", 2, 200_000), beating(replica("t", 2), "h", 2, 200_000));
    assert_eq!(book.ledger.last().unwrap().lost_ms, Some(2_000));
}

#[test]
fn what_the_owner_wrote_while_the_replica_became_a_primary_is_lost_too() {
    let mut book = Book::new(Bench::resumed("p", State::Standby, 1));
    book.bench.memory.roll.insert("s".to_owned());
    book.look(0, beating(replica("s", 1), "h", -1, 1_000), beating(read("t", 1), "h", 0, 0));
    // Its channel has ended and it restarts, while the owner writes on, and is lost before both can be read.
    for second in 1..18 {
        book.look(10 * second, None, beating(read("t", 1), "h", i64::try_from(10 * second).unwrap(), 0));
    }
    book.look(180, beating(read("s", 1), "h", -1, 181_000), None);
    assert_eq!(book.ledger.promotion.most_ms, Some(181_000));
    // Nobody may claim it for an hour, in which the owner may write all the time.
    book.look(3_600, beating(read("s", 2), "h", -1, 3_601_000), None);
    let failover = book.ledger.last().unwrap();
    assert_eq!(failover.most, Some(Most { ms: 3_601_000, by: Stop::Silent }));
    assert_eq!((failover.lag.as_ref().map(|lag| lag.ms), failover.rpo_ms()), (Some(1_000), Some(3_601_000)));
}

#[test]
fn an_owner_that_was_closed_has_written_until_then() {
    let mut book = promoted();
    let failover = book.ledger.failovers.last_mut().unwrap();
    failover.seen.took_over = None;
    book.bench.proof(2, true);
    book.again(40, None);
    // Read at second 20 or so, when it was 9 s old.
    let failover = book.ledger.last().unwrap();
    let Some(Most { ms, by: Stop::Closed }) = failover.most else { panic!("{failover:?}") };
    assert!(ms >= 9_000, "{ms}");
    // Its heart stopped before it was closed.
    let failover = Failover { lost_ms: Some(3_000), ..failover.clone() };
    assert_eq!(failover.rpo_ms(), Some(ms));
    // Its heart may have stopped with its agents, long before its app.
    let failover = Failover { most: Some(Most { ms: 90_000, by: Stop::Unseen }), ..failover };
    assert_eq!(failover.rpo_ms(), Some(90_000));
}

#[test]
fn a_planned_change_lost_nothing_that_was_written_while_its_owner_was_closed() {
    let mut book = Book::new(Bench::resumed("p", State::Standby, 1));
    book.bench.memory.roll.insert("s".to_owned());
    book.look(0, beating(replica("s", 1), "h", -1, 900), beating(read("t", 1), "h", 0, 100));
    book.bench.across(Across::Verified(Proof { closed: true, ..Proof::default() }));
    book.again(0, None);
    // Four minutes, in which the closed owner's heart beats on.
    book.look(240, beating(read("s", 1), "h", 0, 240_000), None);
    book.again(240, Some(at(240)));
    let mut second = 241;
    while book.look(second, beating(read("s", 2), "h", 0, 241_000), None) != State::Owner {
        second += 1;
        assert!(second < 300, "takes over");
    }
    book.look(second + 1, beating(read("s", 2), "h", 0, 250_000), beating(read("t", 1), "h", 249, 1_000));
    let failover = book.ledger.last().unwrap();
    let lag = failover.lag.as_ref().unwrap().ms;
    assert!(lag < 5_000 && failover.is_over(), "{failover:?}");
    assert_eq!((failover.lost_ms, failover.rpo_ms()), (None, Some(lag)));
    // As the one who was closed has it.
    let mut book = Book::new(Bench::resumed("h", State::Owner, 1));
    book.look(0, beating(read("t", 1), "h", 0, 0), beating(replica("s", 1), "h", 0, 0));
    book.has_all = true;
    book.look(250, beating(read("t", 1), "h", 249, 1_000), beating(since(read("s", 2), 247), "h", 5, 245_000));
    let failover = book.ledger.last().unwrap();
    assert_eq!((failover.lost_ms, failover.rpo_ms()), (None, Some(0)));
}

#[test]
fn without_a_heartbeat_nothing_is_promised() {
    let lag = Some(Lag { ms: 1_000, by: Measure::Replica, beat: None });
    let failover = Failover { lag, most: None, ..promoted().ledger.failovers.remove(0) };
    assert_eq!(failover.rpo_ms(), None);
    let words = failover.loss();
    assert!(
        words.starts_with("how much was lost is not known") && words.contains("1.0 s if it had stopped"),
        "{words}"
    );
}

#[test]
fn a_channel_that_was_gone_for_a_moment_is_no_failover() {
    let mut book = Book::new(Bench::resumed("p", State::Standby, 1));
    book.look(0, replica("s", 1), read("t", 1));
    book.look(5, read("s", 1), read("t", 1));
    assert_eq!(book.ledger.promotion.replica_gone, Some(at(5)));
    book.look(10, replica("s", 1), read("t", 1));
    assert_eq!((book.ledger.promotion.clone(), book.ledger.failovers.len()), (Promotion::default(), 0));
}

#[test]
fn the_superseded_region_knows_how_long_it_went_on() {
    let mut book = Book::new(Bench::resumed("h", State::Owner, 1));
    book.look(0, beating(read("t", 1), "h", 0, 0), beating(replica("s", 1), "h", 0, 0));
    // Promoted at second 7; heard at 10; the last heartbeat here is of second 9.
    let other = || beating(since(read("s", 2), 7), "h", 5, 5_000);
    assert_eq!(book.look(10, beating(read("t", 1), "h", 9, 1_000), other()), State::Superseded);
    let failover = book.ledger.last().unwrap();
    assert_eq!(failover.wrote_after_ms, None, "not before it has ended");
    assert_eq!(failover.most, Some(Most { ms: 5_000, by: Stop::Unseen }));
    book.bench.facts.applied.gate_closed = true;
    book.bench.facts.applied.writers.clear();
    // A pool writes on.
    book.bench.facts.applied.old_writer_sessions = 1;
    book.look(10, beating(read("t", 1), "h", 9, 1_500), other());
    assert_eq!(book.ledger.last().unwrap().rpo_ms(), Some(4_000 + BEATS));
    book.bench.facts.applied.old_writer_sessions = 0;
    book.look(11, beating(read("t", 1), "h", 9, 2_000), other());
    let failover = book.ledger.last().unwrap();
    assert_eq!(
        (failover.seen.known, failover.seen.closed, failover.seen.stopped),
        (Some(at(10)), Some(at(10)), Some(at(10)))
    );
    assert_eq!((failover.wrote_after_ms, failover.lost_ms), (Some(2_000), Some(4_000)));
    // Until it was closed, not until its last heartbeat.
    assert_eq!(failover.most, Some(Most { ms: 6_000, by: Stop::Closed }));
    assert_eq!(failover.rpo_ms(), Some(6_000));
    assert!(failover.is_over() && !failover.is_promotion());
    // One that comes back after it was lost has not written meanwhile.
    let mut book = Book::new(Bench::new("h"));
    book.ledger = Ledger { state: State::Boot, owner: Some(claim(1)), ..Ledger::default() };
    book.look(600, beating(read("t", 1), "h", 9, 600_000), other());
    let failover = book.ledger.last().unwrap();
    assert_eq!((&failover.most, failover.rpo_ms()), (&None, Some(4_000 + BEATS)));
}

#[test]
fn who_is_new_has_seen_no_change_and_init_is_none() {
    let mut book = Book::new(Bench::new("p"));
    book.look(0, read("s", 2), None);
    assert_eq!((book.ledger.owner.clone(), book.ledger.failovers.len()), (Some(claim(2)), 0));
    let mut book = Book::new(Bench::new("h"));
    book.look(0, read("t", 0), replica("s", 0));
    book.look(20, read("t", 0), replica("s", 0));
    book.look(30, read("t", 1), replica("s", 0));
    assert_eq!((book.ledger.owner.clone(), book.ledger.failovers.len()), (Some(claim(1)), 0));
}

#[test]
fn a_record_is_told_once_and_what_is_kept_is_bounded() {
    let book = promoted();
    assert_eq!(book.ledger.ended_since(&Ledger::default()), book.ledger.last());
    assert_eq!(book.ledger.ended_since(&book.ledger), None);
    let mut open = book.ledger.clone();
    open.failovers[0].seen.opened = None;
    assert_eq!((open.ended_since(&Ledger::default()), book.ledger.ended_since(&open)), (None, book.ledger.last()));
    let mut full = promoted();
    full.ledger.failovers = vec![full.ledger.failovers[0].clone(); KEPT];
    full.look(300, read("s", 2), beating(read("t", 3), "h", 2, 0));
    assert_eq!((full.ledger.failovers.len(), &full.ledger.last().unwrap().to), (KEPT, &claim(3)));
}

#[test]
fn what_is_persisted_is_read_again_whoever_wrote_it() {
    let ledger = promoted().ledger;
    let mut written = serde_json::to_value(&ledger).unwrap();
    assert_eq!(serde_json::from_value::<Ledger>(written.clone()).unwrap(), ledger);
    written["added"] = serde_json::json!({"x": 1});
    written["failovers"][0]["seen"]["added"] = serde_json::json!("y");
    assert_eq!(serde_json::from_value::<Ledger>(written).unwrap(), ledger);
    assert_eq!(serde_json::from_str::<Ledger>("{}").unwrap(), Ledger::default());
}

#[test]
fn people_are_told_in_sentences() {
    let mut failover = promoted().ledger.failovers.remove(0);
    let mut text = vec![failover.headline(), failover.loss()];
    failover.lost_ms = Some(1_000);
    text.push(failover.loss());
    failover.most = Some(Most { ms: 3_000, by: Stop::Closed });
    text.push(failover.loss());
    (failover.lost_ms, failover.most) = (None, None);
    text.push(failover.loss());
    failover.lag = None;
    text.push(failover.loss());
    failover.region = "h".to_owned();
    failover.most = Some(Most { ms: 3_000, by: Stop::Closed });
    failover.wrote_after_ms = Some(2_300);
    text.extend([failover.headline(), failover.loss()]);
    insta::assert_snapshot!(text.join("\n"), @r"
    p took over from h: epoch 2 after 1
    the new owner's database lacks what h wrote in its last 9.0 s at most, if it wrote nothing after it fell silent; 2.5 s if it had stopped when the replica was seen last, by the newest heartbeat that had arrived
    the new owner's database lacks what h wrote in its last 5.0 s at most: 1.0 s lie between its heartbeats in both databases, and it may have written on for 4 s
    the new owner's database lacks what h wrote in its last 3.0 s at most, until it was closed; 2.5 s if it had stopped when the replica was seen last, by the newest heartbeat that had arrived
    how much was lost is not known until both databases can be read: 2.5 s if it had stopped when the replica was seen last, by the newest heartbeat that had arrived
    how much was lost is not known until both databases can be read
    h was superseded by p: epoch 2 after 1
    the new owner's database lacks what h wrote in its last 3.0 s at most, until it was closed; this region may have taken writes for 2.3 s after the promotion
    ");
    let names: Vec<_> = promoted().ledger.failovers[0].steps().into_iter().map(|(name, _)| name).collect();
    insta::assert_snapshot!(names.join("\n"), @r"
    the database here was no replica any more
    it was proven writable on three connections
    the epoch was claimed
    nothing of the old owner was waited for any more
    users were served
    ");
}
