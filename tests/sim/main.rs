//! The simulation of a group: 1 to 40 agents in 1 to 3 zones run the decision code of the product (component states,
//! words, votes, attribution, doors, plan, grants, records, ladder, resuming) in a world of which the laws know the
//! truth. Nothing here waits: time is a queue of events, and every history follows from its seed alone.
//!
//! `world` is what is true, `history` what is drawn from a seed, `agent` and `replacer` one agent, `cloud` the Auto
//! Scaling group, `course` and `deeds` what happens, `laws` and `replacements` what must hold.
//!
//! A law that is broken prints the seed, the history, what each agent saw and decided, and the law. `SIM_SEED=n` plays
//! one seed, in full: `SIM_SEED=7 cargo test --test sim replacements`. `SIM_HISTORIES=n` changes how many there are.
//!
//! # Guards
//!
//! Each was removed by hand once, and a law broke (a seed of `replacements` where one is named):
//!
//! | guard removed | the law that broke |
//! |---|---|
//! | a success counts only if it began after my trouble | instance never closed unless a peer votes healthy |
//! | a dependency closes the instance only if a peer passes | the same |
//! | a passing peer ends the region's hold | region never closed while each dependency works for a member |
//! | somebody who can serve ends the capacity hold | the same |
//! | a hold must run | region closes by a hold that is due |
//! | capacity closes the region; any hold does | region closed within a bound when none can |
//! | masking | never one for a shared, zonal, masked or unattributed fault |
//! | three rounds must agree | the same |
//! | a healthy vote from the own zone | the same |
//! | no healthy vote at all is shared | the same |
//! | refusals Zonal (40), PeersShareIt (9) | the same |
//! | refusal NotLocal (1) | never one for what is masked |
//! | sustain (3) | no replacement before 300 s |
//! | one grant a cooldown (230) | never two going at once |
//! | others that serve (2) | never below the budget |
//! | GroupNotSettled (87) | nothing acts twice |
//! | two in six hours (0) | at most 2 in 6 h |
//! | the operator's hold (29) | no replacement of what is on hold |
//! | observe mode (35) | observe mode acts |
//!
//! Not caught here, because another guard stands behind them in every history that was tried, or because no history has
//! what they are for. Each was removed too, and what failed then is a unit test of the decision:
//!
//! | guard | test in `replace::` |
//! |---|---|
//! | a strict majority of grants | `grants`: `no_two_hold_a_majority_at_once` |
//! | a giver that has just started, does not serve, or wants to go itself; its own count of the budget | `grants`: `each_reason_not_to_agree` |
//! | the decision that is kept | `plan`: `the_way_up` |
//! | the age of the look | `plan`: `the_way_up` |
//! | the age of the asker | `plan`: `each_refusal_alone_stops_it` |
//! | the electorate of a group larger than desired | `plan`: `in_a_group_with_too_many_members_the_majority_is_of_them_all` |
//! | the kind of fault within a day | `records`: `two_in_six_hours_are_the_budget_and_two_of_a_kind_in_a_day_did_not_cure` |
//! | the repairs first, and what the last one brings | `plan`: `nobody_goes_while_a_repair_may_still_help` |
//! | how long a fault lasted; that it is still there | `plan`: `the_way_up`, `nobody_goes_whose_fault_was_not_seen_by_the_newest_attempt` |
//! | a group of one | `plan`: `other_ways_to_be_refused` |
//! | of the mount target's rule: nobody near, a healthy majority, the target answers, the own zone is known | `plan`: `a_zone_of_one_may_go_for_its_mount_once_and_only_if_the_target_answers` |
//! | suspended processes, failing launches, the tag that stops it, the grace period, drain, fence | `plan`: `each_refusal_alone_stops_it` |
//! | a refresh; a refused call | `plan`: `other_ways_to_be_refused` |
//! | flapping | `plan`: `what_falls_again_and_again_is_not_replaced` |
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "what the histories came to is shown with --nocapture")]
#![allow(unreachable_pub, reason = "nothing outside reaches into a test")]

mod agent;
mod cloud;
mod course;
mod deeds;
mod history;
mod laws;
mod queue;
mod random;
mod replacements;
mod replacer;
mod rounds;
mod site;
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use course::{Course, Tally};
use history::{History, Theme};
use laws::Laws;

/// Histories in all.
const HISTORIES: u64 = 10_000;

fn play(theme: Theme, seed: u64, traced: bool) -> (Result<(), String>, Course) {
    let history = History::drawn(theme, seed);
    let mut course = Course::new(&history, traced);
    let mut laws = Laws::new(&history);
    let result = match catch_unwind(AssertUnwindSafe(|| course.run(&mut laws))) {
        Ok(result) => result,
        Err(panic) => Err(format!("a panic: {}", text(&*panic))),
    };
    (result, course)
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Plays `percent` of all histories, or the one that `SIM_SEED` names.
fn all(theme: Theme, percent: u64) -> Tally {
    let histories = number("SIM_HISTORIES").unwrap_or(HISTORIES) * percent / 100;
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..histories,
    };
    let alone = seeds.end - seeds.start == 1;
    let mut tally = Tally::default();
    for seed in seeds {
        let (result, mut course) = play(theme, seed, alone);
        if alone && result.is_ok() {
            println!("{}\n{}", History::drawn(theme, seed), course.trace.take().unwrap_or_default());
        }
        if let Err(broken) = result {
            if !alone {
                course = play(theme, seed, true).1;
            }
            panic!(
                "SIM_SEED={seed} ({theme:?})\n{}\n{}\nat {:.1} s: {broken}",
                History::drawn(theme, seed),
                course.trace.unwrap_or_default(),
                world::seconds(course.now),
            );
        }
        tally.add(&course.tally);
    }
    println!("{tally:#?}");
    tally
}

#[test]
fn local_faults() {
    all(Theme::Local, 20);
}

#[test]
fn shared_faults() {
    all(Theme::Shared, 20);
}

#[test]
fn a_local_fault_is_cured() {
    all(Theme::Cure, 20);
}

#[test]
fn replacements() {
    all(Theme::Replacement, 20);
}

#[test]
fn everything_at_once() {
    all(Theme::Everything, 20);
}
