//! No two go at once, whatever the order, the restarts, the losses and the returns; and each reason not to agree.

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::clock::BootTime;
use crate::health::verdict::Tally;
use crate::replace::plan::LOOK_FRESH;

const COOLDOWN: Duration = Duration::from_secs(900);

fn at(seconds: u64) -> Stamp {
    Stamp {
        boot: "b".to_owned(),
        time: BootTime::from_boot(Duration::from_secs(seconds)),
        wall: Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
    }
}

fn record(id: &str, instance: &str) -> Record {
    Record {
        id: id.to_owned(),
        at: at(0).wall,
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
fn each_reason_not_to_agree() {
    let began = at(0);
    let given = Grant { id: "0".to_owned(), to: "i-0c".to_owned(), at: at(4_500) };
    let records = |instances: &[&str], cause: &str| {
        let mut records = Records::default();
        for instance in instances {
            let record = Record { cause: cause.to_owned(), ..record(instance, instance) };
            records.keep(record, Duration::ZERO, &at(4_000));
        }
        records
    };
    let (none, two) = (Records::default(), records(&["i-0x", "i-0y"], "disk-full"));
    let of_a_kind = {
        let mut records = Records::default();
        for instance in ["i-0x", "i-0y"] {
            records.keep(record(instance, instance), Duration::from_secs(8 * 3_600), &at(4_000));
        }
        records
    };
    let nobody = BTreeSet::new();
    let well = Giver {
        instance: "i-0b",
        group: "web",
        cooldown: COOLDOWN,
        began: &began,
        given: None,
        wants: false,
        is_serving: true,
        records: &none,
        serving: &nobody,
    };
    let now = at(5_000);
    let young = at(4_101);
    for (giver, asker, denial) in [
        (well, "i-0a", None),
        (Giver { group: "other", ..well }, "i-0a", Some(Denial::Stranger)),
        (Giver { began: &young, ..well }, "i-0a", Some(Denial::TooYoung)),
        (Giver { began: &young, ..well }, "i-0b", Some(Denial::TooYoung)),
        (Giver { given: Some(&given), ..well }, "i-0a", Some(Denial::GaveAnother)),
        (Giver { given: Some(&given), ..well }, "i-0b", Some(Denial::GaveAnother)),
        (Giver { given: Some(&given), ..well }, "i-0c", None),
        (Giver { wants: true, ..well }, "i-0a", Some(Denial::WantsItself)),
        (Giver { wants: true, is_serving: false, ..well }, "i-0b", None),
        (Giver { is_serving: false, ..well }, "i-0a", Some(Denial::NotServing)),
        (Giver { records: &two, ..well }, "i-0a", Some(Denial::BudgetSpent)),
        (Giver { records: &of_a_kind, ..well }, "i-0a", Some(Denial::ReplacementDidNotCure)),
    ] {
        assert_eq!(giver.judge(&record("1", asker), &now).err(), denial, "{giver:?}");
    }
    assert_eq!(
        Giver { given: Some(&given), ..well }.judge(&record("1", "i-0a"), &at(5_400)).map(|grant| grant.to),
        Ok("i-0a".to_owned()),
        "after a cooldown"
    );
}

#[test]
fn members_are_asked_in_order_until_a_majority_or_a_refusal() {
    let voters = || ["i-0c", "i-0a", "i-0b", "i-0d"].map(str::to_owned);
    let mut round = Round::new("1".to_owned(), 4, voters());
    for voter in ["i-0a", "i-0b", "i-0c"] {
        assert_eq!(round.next(), Some(voter));
        assert!(!round.is_won());
        round.hear(Reply::Granted);
    }
    assert!(round.is_won() && round.next().is_none() && round.to_return().len() == 3);

    let mut round = Round::new("1".to_owned(), 4, voters());
    round.hear(Reply::Granted);
    round.hear(Reply::Denied(Denial::WantsItself));
    assert_eq!((round.next(), round.is_won(), round.to_return()), (None, false, &["i-0a".to_owned()][..]));
    assert_eq!(round.words(), "1 of 3 grants; i-0b refused: WantsItself");

    let mut round = Round::new("1".to_owned(), 4, voters());
    round.hear(Reply::Silent);
    assert_eq!(round.next(), Some("i-0b"), "silence is no refusal");
    round.hear(Reply::Silent);
    assert_eq!(round.next(), None, "two of four are no majority any more");
    assert_eq!(round.to_return().len(), 2, "both may have agreed");

    assert_eq!([1, 2, 3, 4, 5].map(need), [1, 2, 2, 3, 3]);
}

/// One member in the property: what it remembers, and the round it is in.
#[derive(Debug)]
struct Node {
    began: Stamp,
    given: Option<Grant>,
    wants: bool,
    round: Option<(Round, u64)>,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    /// Begins a round, if there is none.
    Begin,
    /// Asks the next member, and hears of it.
    Ask,
    /// Asks the next member; the answer is lost.
    LoseAnswer,
    /// Asks the next member; the question arrives only after the round is over.
    Late,
    /// Gives up and returns what it has; every second return is lost.
    GiveUp,
    /// Gives up without a word: a restart.
    Restart,
    /// Loses its state.
    Forget,
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Begin),
        12 => Just(Act::Ask),
        2 => Just(Act::LoseAnswer),
        1 => Just(Act::Late),
        2 => Just(Act::GiveUp),
        1 => Just(Act::Restart),
        2 => Just(Act::Forget),
        2 => (0_u64..200).prop_map(Act::Wait),
        1 => (200_u64..1_000).prop_map(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn no_two_hold_a_majority_at_once(
        size in prop_oneof![2 => Just(3_usize), 1 => 1_usize..7],
        acts in vec((0_usize..7, act()), 1..120),
        electorate_above in 0_u32..2,
    ) {
        let name = |n: usize| format!("i-{n}");
        let records = Records::default();
        let electorate = u32::try_from(size).unwrap() + electorate_above;
        let mut nodes: Vec<_> = (0..size)
            .map(|_| Node { began: at(0), given: None, wants: false, round: None })
            .collect();
        let mut now = 2_000;
        // Who holds a majority: the instance, when its round began, the round's id.
        let mut won: Vec<(usize, u64, String)> = Vec::new();
        let mut late: Vec<(usize, Record)> = Vec::new();
        for (step, (who, act)) in acts.into_iter().enumerate() {
            let who = who % size;
            let ask = |nodes: &mut Vec<Node>, voter: usize, record: &Record, now: u64| {
                let node = &nodes[voter];
                let (instance, wants) = (name(voter), node.wants);
                let nobody = BTreeSet::new();
                let giver = Giver {
                    instance: &instance, group: "web", cooldown: COOLDOWN, began: &node.began,
                    given: node.given.as_ref(), wants, is_serving: !wants, serving: &nobody,
                    records: &records,
                };
                match giver.judge(record, &at(now)) {
                    Ok(grant) => { nodes[voter].given = Some(grant); Reply::Granted }
                    Err(denial) => Reply::Denied(denial),
                }
            };
            match act {
                Act::Begin if nodes[who].round.is_none() => {
                    let voters = (0..size).filter(|&n| n == who || !nodes[n].wants).map(name);
                    nodes[who].round = Some((Round::new(step.to_string(), electorate, voters), now));
                    nodes[who].wants = true;
                }
                Act::Ask | Act::LoseAnswer | Act::Late => {
                    let Some((round, began)) = nodes[who].round.clone() else { continue };
                    let Some(voter) = round.next().map(|voter| voter[2..].parse::<usize>().unwrap()) else { continue };
                    let question = record(&round.id, &name(who));
                    let mut reply = Reply::Silent;
                    match act {
                        Act::Ask => reply = ask(&mut nodes, voter, &question, now),
                        Act::LoseAnswer => _ = ask(&mut nodes, voter, &question, now),
                        _ => late.push((voter, question)),
                    }
                    let round = &mut nodes[who].round.as_mut().unwrap().0;
                    round.hear(reply);
                    // A round that takes longer than the look before it is good for is not acted on.
                    if round.is_won() && now - began < LOOK_FRESH.as_secs() {
                        for (other, other_began, _) in won.iter().filter(|(other, ..)| *other != who) {
                            prop_assert!(
                                now - other_began >= COOLDOWN.as_secs(),
                                "{} and {} hold a majority at {now}", name(who), name(*other)
                            );
                        }
                        won.push((who, began, round.id.clone()));
                    }
                }
                Act::GiveUp => {
                    let Some((round, _)) = nodes[who].round.take() else { continue };
                    nodes[who].wants = false;
                    won.retain(|(_, _, id)| *id != round.id);
                    for (n, voter) in round.to_return().iter().enumerate() {
                        let voter = &mut nodes[voter[2..].parse::<usize>().unwrap()];
                        if (n + step) % 2 == 0 {
                            voter.given.take_if(|grant| grant.id == round.id);
                        }
                    }
                }
                // Whoever holds a majority keeps its decision through a restart.
                Act::Restart if !won.iter().any(|(winner, ..)| *winner == who) => {
                    nodes[who].round = None;
                    nodes[who].wants = false;
                }
                Act::Forget => {
                    nodes[who].given = None;
                    nodes[who].began = at(now);
                }
                Act::Wait(seconds) => {
                    now += seconds;
                    for (voter, question) in std::mem::take(&mut late) {
                        ask(&mut nodes, voter, &question, now);
                    }
                }
                Act::Begin | Act::Restart => {}
            }
        }
    }
}
