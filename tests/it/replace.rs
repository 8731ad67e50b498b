//! A group decides that one of it goes: real sockets, real files, the agent's own tasks, and an Auto Scaling that only
//! writes down what it is asked.

use std::fs;
use std::time::Duration;

use dr_agent::clock::{Stamp, wall};
use dr_agent::health::cause::Cause;
use dr_agent::health::verdict::Tally;
use dr_agent::observation::Component;
use dr_agent::replace::api::Marked;
use dr_agent::replace::grants::{Denial, Round};
use dr_agent::replace::memory::Outcome;
use dr_agent::replace::plan::Plan;
use dr_agent::replace::records::Record;
use dr_agent::replace::refusal::Refusal;
use tokio::runtime;

use crate::support::eventually;
use crate::support::member::{BOOT, Group, Member, name};

const FULL: Option<(Component, Cause)> = Some((Component::Host, Cause::DiskFull));

fn start(size: u8) -> (Group, Vec<Member>) {
    let group = Group::new(size);
    let members: Vec<_> = (0..size).map(|n| group.start(n)).collect();
    for member in &members {
        member.wait_until_well(usize::from(size) - 1);
    }
    (group, members)
}

fn marked(group: &Group) -> Vec<String> {
    eventually("an instance is marked", || match group.scaling.marked() {
        marked if marked.is_empty() => Err("none yet"),
        marked => Ok(marked),
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn record(id: &str, instance: &str) -> Record {
    Record {
        id: id.to_owned(),
        at: wall(),
        group: "web".to_owned(),
        instance: instance.to_owned(),
        cause: "efs-hung".to_owned(),
        detail: String::new(),
        votes: Tally::default(),
        plan: String::new(),
        transitions: Vec::new(),
    }
}

#[test]
fn the_one_that_is_ill_goes_once_and_the_others_remember_why() {
    let (group, mut members) = start(3);
    members[1].set(FULL);
    assert_eq!(marked(&group), [name(1)]);
    members[1].wait_for("it knows that it was marked", |status| status.plan == Plan::Marked);
    eventually("the decision is settled", || {
        let decision = group.kept(1).and_then(|kept| kept.memory.decision).ok_or("none")?;
        if decision.outcome == Outcome::Accepted { Ok(()) } else { Err("open") }
    });
    let notes = group.scaling.notes.lock().unwrap().clone();
    assert!(notes[0].ends_with("=i-00000001=disk-full"), "{notes:?}");

    let (told, answered) = block_on(group.asker().records(&name(1)));
    assert!(answered);
    // A strict majority of three are two: itself and the first that was asked.
    assert_eq!(told.len(), 1);
    let record = &told[0].record;
    assert_eq!((record.instance.as_str(), record.cause.as_str()), ("i-00000001", "disk-full"));
    assert_eq!((record.votes.asked, record.votes.healthy), (2, 2));
    assert!(record.transitions.iter().any(|entry| entry.what == "host" && entry.to == "unhealthy"), "{record:?}");

    // Killed and started again, it knows that it was marked and does not call again.
    drop(members.remove(1));
    let again = group.start(1);
    again.set(FULL);
    again.wait_for("it goes on as it ended", |status| status.plan == Plan::Marked);
    again.wait_until_well(2);
    assert_eq!(group.scaling.marked(), [name(1)]);
}

#[test]
fn an_answer_that_was_lost_is_no_reason_to_call_again() {
    let (group, mut members) = start(3);
    *group.scaling.marks_as.lock().unwrap() = Marked::Unknown("connection reset".to_owned());
    members[2].set(FULL);
    assert_eq!(marked(&group), [name(2)]);
    drop(members.remove(2));
    assert_eq!(
        group.kept(2).unwrap().memory.decision.unwrap().outcome,
        Outcome::Calling,
        "written down before the call"
    );
    group.scaling.look.lock().unwrap().as_mut().unwrap().members[2].healthy = false;
    let again = group.start(2);
    again.set(FULL);
    eventually("the group shows that it was heard", || {
        let decision = group.kept(2).and_then(|kept| kept.memory.decision).ok_or("none")?;
        if decision.outcome == Outcome::Accepted { Ok(()) } else { Err("open") }
    });
    assert_eq!(group.scaling.marked(), [name(2)]);
}

#[test]
fn of_two_that_are_ill_one_goes_and_the_other_hears_why_not() {
    let (group, members) = start(4);
    members[0].set(FULL);
    members[3].set(FULL);
    let first = marked(&group);
    let other = &members[if first == [name(0)] { 3 } else { 0 }];
    other.wait_for(
        "the other one is refused",
        |status| matches!(&status.plan, Plan::Refused(refusals) if refusals.contains(&Refusal::NoQuorum)),
    );
    assert_eq!(group.scaling.marked(), first);
}

#[test]
fn what_all_have_is_nobodys_reason_to_go() {
    let (group, members) = start(3);
    for member in &members {
        member.set(FULL);
    }
    for member in &members {
        member.wait_for(
            "it is refused",
            |status| matches!(&status.plan, Plan::Refused(refusals) if refusals.contains(&Refusal::PeersShareIt)),
        );
    }
    assert_eq!((group.scaling.marked().len(), *group.scaling.looks.lock().unwrap()), (0, 0), "AWS is not even asked");
}

#[test]
fn within_the_grace_period_it_waits_and_gives_its_grants_back() {
    let (group, members) = start(3);
    *group.scaling.marks_as.lock().unwrap() = Marked::InGracePeriod;
    members[1].set(FULL);
    assert_eq!(marked(&group), [name(1)]);
    members[1].wait_for("it waits", |status| matches!(status.plan, Plan::Wait { why: Refusal::InGracePeriod, .. }));
    eventually("the grants are back", || {
        let grants: Vec<_> = (0..3).filter_map(|n| group.kept(n)?.memory.given).collect();
        if grants.is_empty() { Ok(()) } else { Err(format!("{grants:?}")) }
    });
    let (told, _) = block_on(group.asker().records(""));
    assert_eq!(told, [], "and so are the records");
}

#[test]
fn a_grant_is_written_down_before_it_is_given_and_survives_a_kill() {
    let (group, mut members) = start(2);
    let asker = group.asker();
    let ask = |id: &str, instance: &str| {
        let round = Round::new(id.to_owned(), 1, [name(0)]);
        block_on(asker.round(round, "", &record(id, instance)))
    };
    assert!(ask("1", "i-0a").is_won());
    let given = group.kept(0).unwrap().memory.given.expect("it is on disk when it is given");
    assert_eq!((given.id.as_str(), given.to.as_str()), ("1", "i-0a"));
    assert!(given.at.age(&Stamp::now(BOOT)) < Duration::from_secs(60));
    drop(members.remove(0));
    members.insert(0, group.start(0));
    members[0].wait_until_well(1);
    assert_eq!(ask("2", "i-0b").words(), format!("0 of 1 grants; {} refused: GaveAnother", name(0)));
    assert!(ask("3", "i-0a").is_won(), "the same instance may have it again");
    block_on(asker.give_back("1", &[name(0)]));
    assert_eq!(ask("4", "i-0b").words(), format!("0 of 1 grants; {} refused: GaveAnother", name(0)), "not that one");
    block_on(asker.give_back("3", &[name(0)]));
    assert!(ask("5", "i-0b").is_won());

    // Lost state gives nothing for a cooldown.
    drop(members.remove(0));
    fs::remove_file(group.state_dir(0).join("replace.json")).unwrap();
    members.insert(0, group.start(0));
    members[0].wait_until_well(1);
    assert_eq!(ask("6", "i-0b").words(), format!("0 of 1 grants; {} refused: {}", name(0), Denial::TooYoung));
}

#[test]
fn a_disk_that_takes_nothing_gives_no_grant() {
    let (group, members) = start(2);
    let dir = group.state_dir(0);
    let gone = dir.with_file_name("gone");
    fs::rename(&dir, gone).unwrap();
    let round = block_on(group.asker().round(Round::new("1".to_owned(), 1, [name(0)]), "", &record("1", "i-0a")));
    assert_eq!(round.words(), format!("0 of 1 grants; {} refused: NotSaved", name(0)));
    drop(members);
}

#[test]
fn a_new_member_learns_what_happened_before_it() {
    let (group, mut members) = start(2);
    let asker = group.asker();
    let round = Round::new("1".to_owned(), 1, [name(0)]);
    assert!(block_on(asker.round(round, "", &record("1", "i-0gone"))).is_won());
    drop(members.remove(1));
    fs::remove_dir_all(group.state_dir(1)).unwrap();
    members.push(group.start(1));
    eventually("it has the record", || {
        let kept = group.kept(1).ok_or("nothing is kept")?;
        match kept.records.told(&Stamp::now(BOOT)).as_slice() {
            [told] if told.record.instance == "i-0gone" => Ok(()),
            _ => Err("no record yet"),
        }
    });
}
