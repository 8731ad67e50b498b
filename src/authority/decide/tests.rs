//! Every state and its row of the outputs table, one after the other.

use super::bench::{Bench, at, claim, closing, own_word, read, replica, superseded, word};
use super::*;
use crate::authority::database::{Enrolled, Read};
use crate::authority::facts::{Across, Asked, Tagged, Tags};
use crate::authority::outputs::{Step, steps};
use crate::authority::word::Word;

fn region(name: &str) -> Target {
    Target::Region(name.to_owned())
}

/// State, gate, writer, reader, region rule, promoted.
fn row(decision: &Decision) -> (State, Gate, Target, Target, RegionRule, bool) {
    let Decision { state, gate, writer, reader, region, promoted, .. } = decision;
    (*state, *gate, writer.clone(), reader.clone(), *region, *promoted)
}

/// The owner of epoch 2 in `p`, decided and carried out.
fn owner() -> Bench {
    let mut bench = Bench::resumed("p", State::Owner, 2);
    bench.own(read("s", 2)).other(None).across(Across::Silent).members(&[]);
    assert_eq!(bench.decide().state, State::Owner);
    bench
}

/// A standby in `p` of the owner of epoch 1.
fn standby() -> Bench {
    let mut bench = Bench::resumed("p", State::Standby, 1);
    bench.facts.applied.writers = ["h".to_owned()].into();
    bench.own(replica("s", 1)).other(read("t", 1)).proof(1, false).members(&[]);
    bench
}

#[test]
fn before_init_nothing_changes_and_a_new_instance_writes_to_home() {
    for (name, rule) in [("h", RegionRule::Dependencies), ("p", RegionRule::Standby)] {
        let mut bench = Bench::new(name);
        let first = bench.decide();
        assert_eq!(row(&first), (State::Boot, Gate::Keep, Target::Keep, Target::Keep, RegionRule::Group, false));
        bench.own(read("s", 0)).other(replica("t", 0)).proof(0, false).members(&[]);
        let expected = (State::Uninitialised, Gate::Keep, Target::Keep, Target::Keep, rule, false);
        assert_eq!(row(&bench.decide()), expected);
        bench.facts.applied.never_had_writer = true;
        assert_eq!(bench.decide().writer, region("h"));
    }
}

#[test]
fn a_new_instance_before_init_gets_no_writer_until_its_database_was_read() {
    let mut bench = Bench::new("h");
    bench.facts.applied.never_had_writer = true;
    let decision = bench.own(None).after(10).decide();
    assert_eq!((decision.state, decision.writer), (State::Uninitialised, Target::Keep));
}

#[test]
fn boot_waits_for_every_source_or_for_its_time() {
    let mut bench = Bench::new("p");
    bench.memory.known = Some(claim(2));
    bench.memory.took_over = 2;
    let boot = (State::Boot, Gate::Keep, Target::Keep, Target::Keep, RegionRule::Closed, false);
    assert_eq!(row(&bench.decide()), boot);
    bench.own(read("s", 2)).other(None).across(Across::Silent).members(&[]);
    assert_eq!(row(&bench.decide()), boot, "silence is no answer");
    let mut waited = bench.clone();
    assert_eq!(waited.after(9).decide().state, State::Boot);
    assert_eq!(waited.after(1).decide().state, State::Owner);
    assert_eq!(bench.other(read("t", 1)).proof(1, true).decide().state, State::Owner);
}

#[test]
fn an_agent_that_nobody_tells_anything_stands_by_with_its_gate_as_it_was() {
    let mut bench = Bench::new("p");
    bench.own(None).members(&[word(State::Owner, 2)]);
    bench.facts.group.members[0].region_closed = true;
    assert_eq!(bench.decide().state, State::Boot);
    let decision = bench.after(10).own(None).decide();
    let expected = (State::Standby, Gate::Keep, Target::Keep, region("p"), RegionRule::Group, false);
    assert_eq!(row(&decision), expected);
    bench.facts.group.members.clear();
    assert_eq!(bench.decide().region, RegionRule::Standby);
    assert!(bench.memory.unread);
    // Read at last.
    let decision = bench.own(replica("s", 2)).other(read("t", 2)).decide();
    assert_eq!((decision.state, decision.gate, bench.memory.unread), (State::Standby, Gate::Open, false));
}

#[test]
fn a_new_instance_takes_its_members_word_while_the_database_cannot_be_read() {
    let mut bench = Bench::new("p");
    let owner = Word { own: Some(own_word(2, Shows::Writable)), took_over: 2, ..word(State::Owner, 2) };
    bench.own(None).members(&[owner]);
    let decision = bench.after(10).decide();
    assert_eq!((decision.state, decision.role), (State::Owner, Role::Unreachable));
    assert_eq!(decision.gate, Gate::Keep, "nothing opens on what was seen before");
    assert!(!decision.beats);
}

#[test]
fn the_first_row_needs_one_round_of_fresh_reads_and_cuts_nothing() {
    let mut bench = Bench::resumed("h", State::Uninitialised, 0);
    bench.own(read("s", 1)).other(replica("t", 1)).proof(0, false).members(&[]);
    let expected = (State::OwnerPending, Gate::Keep, Target::Keep, region("h"), RegionRule::Dependencies, true);
    let pending = bench.after(1).decide();
    assert_eq!(row(&pending), expected);
    assert!(pending.hurries);
    bench.own(read("s", 1)).other(replica("t", 1)).proof(0, false).members(&[]);
    let decision = bench.decide();
    let expected = (State::Owner, Gate::Open, region("h"), region("h"), RegionRule::Dependencies, true);
    assert_eq!(row(&decision), expected);
    assert!(decision.beats && steps(&decision, &bench.facts.applied).is_empty());
}

#[test]
fn a_standby_writes_to_the_owner_while_its_row_says_so() {
    let mut bench = standby();
    let serving = (State::Standby, Gate::Open, region("h"), region("p"), RegionRule::Standby, false);
    let decision = bench.decide();
    assert_eq!(row(&decision), serving);
    assert!(decision.standby_ready && decision.claim == Err(Refusal::NotWritable));
    assert_eq!(row(&bench.after(5).other(None).decide()), serving, "kept while it cannot be read");
    assert_eq!(row(&bench.other(read("t", 0)).decide()), serving, "and while it shows no row");
    // The row of a higher epoch is on its way: not ready, and the old owner is none any more.
    let decision = bench.proof(3, false).decide();
    assert_eq!((decision.state, &decision.writer, decision.standby_ready), (State::Standby, &region("h"), false));
    let decision = bench.proof(4, false).decide();
    assert_eq!((decision.state, &decision.writer), (State::Standby, &Target::Nobody));
}

#[test]
fn a_standby_obeys_the_owners_close_until_its_own_database_is_seen_replicating_after_it() {
    let mut bench = standby();
    assert_eq!(bench.other(closing(read("t", 1), "h", true)).decide().writer, Target::Nobody);
    bench.after(5).own(replica("s", 1)).other(closing(read("t", 1), "h", false));
    assert_eq!(bench.decide().writer, Target::Nobody, "expired, and the own read began before that was seen");
    assert_eq!(bench.after(5).own(None).decide().writer, Target::Nobody);
    assert_eq!(bench.after(5).own(replica("s", 1)).decide().writer, region("h"));
    assert_eq!(bench.after(5).other(closing(read("t", 1), "h", false)).decide().writer, region("h"), "for good");
    // A close that is over is not passed for an agent that has just started.
    bench.memory = Memory::resume(Some(Memory { boot: "a".to_owned(), ..bench.memory.clone() }), "b", bench.facts.now);
    bench.memory.state = State::Standby;
    assert_eq!(bench.decide().writer, Target::Nobody);
}

#[test]
fn a_promotion_is_claimed_once_and_only_of_a_server_that_was_seen_replicating() {
    let mut bench = standby();
    bench.decide();
    let decision = bench.after(5).own(read("s", 1)).decide();
    let expected = (State::Unclaimed, Gate::Keep, Target::Nobody, region("p"), RegionRule::Dependencies, false);
    assert_eq!(row(&decision), expected);
    let claimed = decision.claim.clone().unwrap();
    assert_eq!((claimed.epoch, claimed.parent, claimed.server.as_str()), (2, 1, "s"));
    let order = steps(&decision, &bench.facts.applied);
    assert_eq!(order, [Step::StopWriter, Step::Claim(claimed)]);
    // Another server by the same name.
    let mut stranger = bench.clone();
    let refused = stranger.after(5).own(read("x", 1)).decide();
    assert_eq!(refused.claim, Err(Refusal::NeverSeenReplicating));
    assert_eq!(refused.alarms, [Alarm::Unclaimed(Refusal::NeverSeenReplicating)]);
    // Anybody who saw it will do: the database, a member, the tag.
    let mut by_row = read("x", 1);
    by_row.tables.as_mut().unwrap().roll = vec![Enrolled { server: "x".to_owned(), region: "p".to_owned() }];
    assert!(stranger.clone().own(by_row.clone()).decide().claim.is_ok());
    by_row.tables.as_mut().unwrap().roll[0].region = "h".to_owned();
    assert!(stranger.clone().own(by_row).decide().claim.is_err());
    let member = Word { roll: vec!["x".to_owned()], ..word(State::Unclaimed, 1) };
    assert!(stranger.clone().members(&[member]).decide().claim.is_ok());
    let tags = Tags { roll: ["x".to_owned()].into(), ..Tags::default() };
    let began = stranger.facts.now;
    stranger.facts.tags = Some(Tagged { last: Some(Asked { began: at(1), answer: None }), stands: tags });
    let early = stranger.decide();
    assert_eq!((early.claim, early.reads_tags), (Err(Refusal::TagsUnread), true));
    stranger.facts.tags.as_mut().unwrap().last = Some(Asked { began, answer: None });
    assert!(stranger.decide().claim.is_ok());
}

/// A promotion in `p` that was claimed: the wait begins.
fn pending() -> Bench {
    let mut bench = standby();
    bench.decide();
    bench.after(5).own(read("s", 1)).decide();
    bench.facts.applied.writers.clear();
    let decision = bench.after(1).own(read("s", 2)).decide();
    let expected = (State::OwnerPending, Gate::Keep, Target::Nobody, region("p"), RegionRule::Dependencies, true);
    assert_eq!(row(&decision), expected);
    bench
}

/// A whole round, in which the other region answers so.
fn round(bench: &mut Bench, across: Across, members: &[Word]) {
    bench.after(1).own(read("s", 2)).other(None).across(across).members(members);
}

fn proof(closed: bool) -> Across {
    let mut bench = Bench::new("p");
    bench.proof(2, closed);
    bench.facts.across.unwrap().last.unwrap().answer
}

#[test]
fn a_new_owner_opens_when_the_old_one_is_closed_or_silent_or_time_is_up() {
    for across in [proof(true), Across::Silent] {
        let mut bench = pending();
        round(&mut bench, across, &[]);
        let decision = bench.decide();
        let expected = (State::Owner, Gate::Open, region("p"), region("p"), RegionRule::Dependencies, true);
        assert_eq!(row(&decision), expected);
        assert_eq!(
            (bench.memory.took_over, steps(&decision, &bench.facts.applied)),
            (2, vec![Step::Repoint("p".into())])
        );
    }
    for across in [proof(false), Across::Unverified(Some(2)), Across::Failed] {
        let mut bench = pending();
        round(&mut bench, across.clone(), &[]);
        let decision = bench.decide();
        assert_eq!(decision.state, State::OwnerPending);
        assert!(decision.why.contains(&Reason::Awaits(Awaited::OtherCloses)), "{:?}", decision.why);
        assert_eq!(bench.after(13).decide().state, State::OwnerPending);
        assert_eq!(bench.after(1).decide().state, State::Owner);
    }
}

#[test]
fn a_new_owner_does_not_open_on_old_reads() {
    let mut bench = pending();
    round(&mut bench, Across::Silent, &[]);
    bench.own(None);
    assert_eq!(bench.after(60).decide().state, State::OwnerPending, "its own database must be read");
    let mut bench = pending();
    bench.after(60).own(read("s", 2)).across(Across::Silent).members(&[]);
    assert_eq!(bench.decide().state, State::OwnerPending, "the other database was not even tried");
    // Somebody else has claimed meanwhile.
    round(&mut bench, Across::Silent, &[word(State::Owner, 3)]);
    assert_eq!(bench.after(1).decide().state, State::OwnerPending);
    round(&mut bench, Across::Silent, &[]);
    assert_eq!(bench.decide().state, State::Superseded);
}

#[test]
fn a_new_owner_waits_for_its_members_and_not_for_ever() {
    let writes = Word { writer: "h".to_owned(), ..word(State::Standby, 1) };
    let mut bench = pending();
    round(&mut bench, Across::Silent, &[writes]);
    let decision = bench.decide();
    assert_eq!(decision.why.last(), Some(&Reason::Awaits(Awaited::MemberStops("i-0".to_owned()))));
    assert_eq!(bench.after(30).decide().alarms, [Alarm::MemberStillWrites("i-0".to_owned())]);
    assert_eq!(bench.after(30).decide().state, State::Owner);
    let booting = |age| Word { boot_age_ms: Some(age), ..word(State::Boot, 2) };
    let mut bench = pending();
    round(&mut bench, Across::Silent, &[booting(19_999)]);
    assert_eq!(bench.decide().state, State::OwnerPending);
    round(&mut bench, Across::Silent, &[booting(20_000)]);
    assert_eq!(bench.decide().state, State::Owner);
    let mut bench = pending();
    round(&mut bench, Across::Silent, &[]);
    bench.facts.applied.writers = ["h".to_owned()].into();
    assert_eq!(bench.decide().state, State::OwnerPending, "this instance still writes there");
    let mut bench = pending();
    round(&mut bench, Across::Silent, &[]);
    bench.facts.group.silent = vec!["i-1".to_owned()];
    let decision = bench.after(13).decide();
    assert_eq!(decision.why.last(), Some(&Reason::Awaits(Awaited::MemberAnswers("i-1".to_owned()))));
    assert_eq!(bench.after(1).decide().state, State::Owner, "it may be dead");
}

#[test]
fn an_owner_stays_promoted_while_its_database_reboots() {
    let decision = owner().after(1).own(None).decide();
    assert_eq!((decision.state, decision.promoted), (State::Owner, true));
}

#[test]
fn taking_over_is_passed_once_an_epoch_here_or_by_a_member() {
    let passed = Word { own: Some(own_word(2, Shows::Writable)), took_over: 2, ..word(State::Owner, 2) };
    let mut bench = pending();
    assert_eq!(bench.clone().members(std::slice::from_ref(&passed)).decide().state, State::Owner);
    let behind = Word { state: State::OwnerPending.name().to_owned(), ..passed.clone() };
    assert_eq!(bench.clone().members(&[behind]).decide().state, State::OwnerPending);
    let old = Word { took_over: 0, ..passed };
    assert_eq!(bench.members(&[old]).decide().state, State::OwnerPending);
}

#[test]
fn a_higher_epoch_counts_after_the_own_database_was_read_again() {
    let mut bench = Bench::resumed("h", State::Owner, 1);
    bench.own(read("t", 1)).other(read("s", 2)).proof(1, false).members(&[]);
    bench.memory.promoted = true;
    let heard = bench.after(1).decide();
    assert_eq!((heard.state, heard.promoted, heard.hurries), (State::Owner, false, true), "cleared at once");
    assert_eq!(heard.gate, Gate::Keep, "nothing opens that is about to be judged");
    let mut unreadable = bench.clone();
    let decision = bench.after(1).own(read("t", 1)).decide();
    let expected = (State::Superseded, Gate::Closed, region("p"), region("p"), RegionRule::Closed, false);
    assert_eq!(row(&decision), expected);
    let by = SupersededRow { region: "h".to_owned(), epoch: 1, by: claim(2) };
    assert_eq!(decision.records.superseded, Some(by));
    let record = Step::Record(decision.records.clone());
    let order = [Step::CloseRegion, Step::CloseGate, record, Step::StopWriter, Step::Repoint("p".to_owned())];
    assert_eq!(steps(&decision, &bench.facts.applied), order);
    assert_eq!(decision.alarms, [Alarm::Superseded(claim(2))]);
    // Its row is there now, and stands for itself.
    bench.own(superseded(read("t", 1), "h", 1, 2));
    assert_eq!(bench.decide().records.superseded, None);
    let decision = unreadable.after(1).own(None).decide();
    assert_eq!((decision.state, decision.role), (State::Superseded, Role::Unreachable));
}

#[test]
fn the_regions_own_higher_epoch_waits_for_a_read_that_succeeds() {
    let mut bench = owner();
    bench.members(&[word(State::OwnerPending, 4)]);
    assert_eq!(bench.after(1).decide().state, State::Owner);
    assert_eq!(bench.after(1).own(None).decide().state, State::Owner);
    assert_eq!(bench.after(1).own(read("s", 4)).decide().state, State::OwnerPending);
    // An older state of the database was restored.
    assert_eq!(bench.after(1).own(read("s", 2)).decide().state, State::Superseded);
}

#[test]
fn a_row_in_its_own_database_fences_whoever_knows_nothing_else() {
    let mut bench = Bench::new("h");
    bench.own(superseded(read("t", 1), "h", 1, 2)).other(None).across(Across::Silent).members(&[]);
    assert_eq!(bench.after(10).decide().state, State::Superseded);
    // In a replica of the promoted database the row fences nobody.
    let mut rebuilt = Bench::new("h");
    rebuilt.own(superseded(replica("u", 2), "h", 1, 2)).other(read("s", 2)).proof(2, false).members(&[]);
    assert_eq!(rebuilt.decide().state, State::Standby);
}

#[test]
fn a_rebuilt_replica_reopens_its_region_behind_the_repoint() {
    let mut bench = Bench::resumed("h", State::Superseded, 2);
    bench.facts.applied.gate_closed = true;
    bench.own(replica("u", 1)).other(read("s", 2)).proof(2, false).members(&[]);
    let decision = bench.decide();
    assert_eq!((decision.state, decision.standby_ready), (State::Standby, false), "its row is on its way");
    let order = [Step::StopWriter, Step::Repoint("p".into()), Step::OpenGate, Step::OpenRegion];
    assert_eq!(steps(&decision, &bench.facts.applied), order);
    assert_eq!(decision.enrol.as_deref(), Some("u"));
    assert!(bench.own(replica("u", 2)).decide().standby_ready);
}

#[test]
fn signals_that_contradict_change_nothing() {
    let mixed = |writable, channels| Read { is_writable: writable, channels, ..read("s", 2) };
    let cases = [
        (mixed(true, Some(1)), Contradiction::WritableReplica),
        (mixed(false, Some(0)), Contradiction::ReadOnlyWithoutChannel),
        (mixed(true, None), Contradiction::ChannelsUnread),
    ];
    for (read, contradiction) in cases {
        let mut bench = owner();
        let decision = bench.after(5).own(read).decide();
        let expected = (State::Ambiguous, Gate::Keep, Target::Keep, Target::Keep, RegionRule::Dependencies, true);
        assert_eq!(row(&decision), expected);
        assert_eq!((decision.role, decision.claim), (Role::Ambiguous, Err(Refusal::Ambiguous)));
        assert_eq!(decision.alarms, [Alarm::Contradicts(contradiction)]);
    }
    let mut bench = Bench::new("p");
    bench.memory.known = Some(claim(2));
    bench.own(mixed(true, Some(1))).other(read("t", 1)).proof(1, true).members(&[]);
    let decision = bench.decide();
    assert_eq!(
        (decision.state, decision.region, decision.promoted),
        (State::Ambiguous, RegionRule::Dependencies, false)
    );
}

#[test]
fn one_number_with_two_claims_is_corruption() {
    let mut bench = owner();
    assert_eq!(bench.other(read("t", 2)).decide().state, State::Owner, "the same row, restored elsewhere");
    let mut tie = read("t", 2);
    tie.tables.as_mut().unwrap().newest.as_mut().unwrap().server = "t".to_owned();
    assert_eq!(bench.other(tie).decide().state, State::Ambiguous, "another server under the same number");
    let mut impossible = read("s", 2);
    impossible.tables.as_mut().unwrap().newest.as_mut().unwrap().claim.region = "h".to_owned();
    assert_eq!(bench.own(impossible.clone()).decide().state, State::Ambiguous);
    let mut bench = Bench::new("p");
    bench.own(impossible).after(10);
    assert_eq!(bench.decide().state, State::Ambiguous, "and not: nobody ever claimed");
    let mut reordered = read("s", 2);
    reordered.tables.as_mut().unwrap().regions = vec!["p".to_owned(), "h".to_owned()];
    assert_eq!(owner().own(reordered).decide().state, State::Ambiguous);
}

#[test]
fn a_planned_close_is_obeyed_and_ends_when_the_other_database_is_seen_to_be_a_replica() {
    let mut bench = owner();
    let closed = bench.own(closing(read("s", 2), "p", true)).decide();
    let expected = (State::Owner, Gate::Closed, Target::Nobody, region("p"), RegionRule::Closed, true);
    assert_eq!(row(&closed), expected);
    assert!(closed.beats, "its heartbeat shows how far the replica is");
    let over = |bench: &mut Bench| {
        bench.after(5).own(closing(read("s", 2), "p", false)).other(replica("t", 2));
        let decision = bench.decide();
        assert_eq!((decision.gate, decision.hurries, decision.release), (Gate::Closed, true, None));
    };
    over(&mut bench);
    let mut unreadable = bench.clone();
    let mut promoted = bench.clone();
    let opened = bench.after(1).other(replica("t", 2)).decide();
    assert_eq!((opened.gate, &opened.writer, opened.region), (Gate::Open, &region("p"), RegionRule::Dependencies));
    assert!(opened.release.is_some());
    assert_eq!(bench.after(5).own(closing(read("s", 2), "p", false)).decide().gate, Gate::Open, "for good");
    let opened = unreadable.after(1).other(None).decide();
    assert_eq!((opened.gate, opened.release), (Gate::Open, None));
    let stuck = promoted.after(1).other(read("t", 2)).decide();
    assert_eq!(stuck.gate, Gate::Closed);
    assert!(stuck.alarms.contains(&Alarm::CloseWithoutReplica), "{:?}", stuck.alarms);
    // Somebody vouches for the end of it; the other database is read once more, for a claim.
    let mut released = closing(read("s", 2), "p", false);
    released.tables.as_mut().unwrap().closing[0].is_released = true;
    let mut claimed = promoted.clone();
    assert_eq!(promoted.after(1).own(released.clone()).other(read("t", 1)).decide().gate, Gate::Open);
    claimed.after(1).own(released).other(read("t", 3));
    let decision = claimed.after(1).decide();
    assert_eq!((decision.state, decision.gate), (State::Owner, Gate::Closed), "not judged yet, and it opens nothing");
}

#[test]
fn an_expired_close_counts_for_the_first_decision_after_a_boot() {
    let mut bench = Bench::new("p");
    bench.memory.known = Some(claim(2));
    bench.memory.took_over = 2;
    bench.own(closing(read("s", 2), "p", false)).other(replica("t", 2)).proof(2, false).members(&[]);
    let decision = bench.decide();
    assert_eq!((decision.state, decision.gate), (State::Owner, Gate::Closed));
    assert_eq!(bench.after(1).other(replica("t", 2)).decide().gate, Gate::Open);
}

#[test]
fn the_row_of_another_owners_time_closes_nothing() {
    let mut bench = standby();
    assert_eq!(bench.own(closing(replica("s", 1), "p", true)).decide().gate, Gate::Open);
    let decision = bench.after(5).own(closing(read("s", 1), "p", false)).decide();
    assert_eq!((decision.state, decision.gate), (State::Unclaimed, Gate::Keep));
    assert_eq!(bench.memory.close, Latch::default());
}

#[test]
fn a_drill_closes_the_region_and_nothing_else() {
    let mut bench = owner();
    let mut drilled = closing(read("s", 2), "p", true);
    drilled.tables.as_mut().unwrap().closing[0].is_drill = true;
    let decision = bench.own(drilled.clone()).decide();
    assert_eq!((decision.gate, decision.region, decision.promoted), (Gate::Open, RegionRule::Closed, true));
    drilled.tables.as_mut().unwrap().closing[0].is_in_force = false;
    assert_eq!(bench.own(drilled).decide().region, RegionRule::Dependencies);
}

#[test]
fn what_cannot_prove_itself_is_an_alarm_and_no_more() {
    let mut bench = owner();
    let decision = bench.across(Across::Unverified(Some(u64::MAX))).decide();
    assert_eq!((decision.state, decision.alarms), (State::Owner, vec![Alarm::UnprovenEpoch(u64::MAX)]));
    assert_eq!(decision.memory.known, Some(claim(2)));
    bench.members(&[Word { known: Some(Claim { epoch: 9, region: "p".to_owned() }), ..word(State::Owner, 2) }]);
    assert_eq!(bench.decide().memory.known, Some(claim(2)), "no region can have written that");
}

#[test]
fn tags_are_written_once_a_change_and_read_only_when_something_may_open() {
    let mut bench = owner();
    bench.facts.tags = Some(Tagged::default());
    let decision = bench.decide();
    assert_eq!((decision.records.epoch_tag, decision.reads_tags), (Some(claim(2)), false));
    bench.facts.tags.as_mut().unwrap().stands.epoch = Some(claim(2));
    assert_eq!(bench.decide().records, Records::default());
    let mut bench = standby();
    bench.facts.tags = Some(Tagged::default());
    assert_eq!(bench.decide().records.roll_tag, Some(["s".to_owned()].into()));
    let mut bench = pending();
    bench.facts.tags = Some(Tagged::default());
    assert!(bench.decide().reads_tags);
}

#[test]
fn a_machine_that_wakes_while_the_other_region_is_closed_does_not_go_on_writing_there() {
    let mut bench = Bench::new("p");
    bench.memory.known = Some(claim(1));
    bench.facts.applied.writers = ["h".to_owned()].into();
    // Being promoted: no replica any more, and not writable yet.
    let promoting = Read { is_writable: false, ..read("s", 1) };
    bench.own(promoting).other(closing(read("t", 1), "h", true)).proof(1, true).members(&[]);
    let decision = bench.decide();
    assert_eq!((decision.state, decision.writer), (State::Ambiguous, Target::Nobody));
}
