//! The two-region protocol as a model: every state within a budget of faults, in every order, around the product's own
//! decision ([`dr_agent::authority::decide::decide`]), its order of steps, its words and its operators' plans.
//!
//! `world` is what is true, `turn` one poll of one agent, `acts` what may happen, `dns` Route 53, `laws` what must hold,
//! `explore` looks at every state once, breadth first, and tells the shortest way to a broken law.
//!
//! A tick is a poll: time passes when every live agent has polled once or twice and done what it decided. Within a tick
//! any order of polls, faults, orders and repairs is played; where a scenario is stepwise, anything may come between two
//! steps too, and where reads are slow, between the beginning and the end of a read of the own database. One random
//! instance of the other region answers each question, any of them. Two agents of a region are alike, so worlds that
//! differ only in which is which are one state. Replication arrives with a tick.
//!
//! # Laws
//!
//! | law | where it holds |
//! |---|---|
//! | users write to one database at every instant | from three ticks after the last isolation, dead agent, restored old backup |
//! | after calm: the owner's region open and writing, the other one standing by or closed, a promotion claimed | the highest epoch's database was not destroyed |
//! | what its own database says is superseded is closed | everywhere, past BOOT; before that it has no writer |
//! | one row a promotion, none for what never replicated | operators' orders may skip numbers |
//! | nobody knows an epoch that was never written; known never falls | everywhere |
//! | nobody is superseded by a claim of its own region | a read that began before it may be late |
//! | a planned failback loses nothing: where it was closed nobody writes again | the close lasts until the promotion is done; not where the other database went down, nor over isolation |
//! | the name does not return to home while the peer owns the highest epoch | every agent runs |
//!
//! # Guards
//!
//! Each rule was switched off by hand, and this is what noticed: a law in a scenario of this model, and a unit test of the
//! decision (`decide`, `word`, `memory`, `facts`, `operator` under `authority::`). Where only one of them is named, the
//! other found nothing, because another rule stands behind.
//!
//! | rule switched off | the model | unit tests |
//! |---|---|---|
//! | each region has numbers of its own | | `each_region_has_numbers_of_its_own` |
//! | a claim only of a server that was seen replicating | T2, T10: one row a promotion | `a_promotion_is_claimed_once_...` |
//! | a claim is a compare-and-swap | T3: one row a promotion | (in real databases: `authority_sql`) |
//! | a row in the database fences it | | `a_row_in_its_own_database_fences_...` |
//! | and only above its own epoch | T8, R8: nobody is superseded by a claim of its own region | |
//! | taking over needs fresh reads | | `a_new_owner_does_not_open_on_old_reads` |
//! | it waits for members that still write | T3, T12, promotion: one writer | `a_new_owner_waits_for_its_members_...` |
//! | it waits for members in BOOT | | the same |
//! | it waits for the other region | T5, T8, T11, T15, promotion: one writer | `a_new_owner_opens_when_...` |
//! | what cannot be verified is not silence | | the same |
//! | taking over is passed once an epoch | T13, crash between steps: settles | `taking_over_is_passed_once_...` |
//! | UNCLAIMED has no writer | | `a_promotion_is_claimed_once_...` |
//! | OWNER_PENDING has no writer | T12, promotion: settles | `a_new_owner_does_not_open_on_old_reads` |
//! | nginx waits for the first decision of a boot | crash between steps: one writer | |
//! | promoted while its database reboots, and over a restart | | `an_owner_stays_promoted_...`, `in_the_same_boot_...` |
//! | a higher epoch counts after a new read | | `a_higher_epoch_counts_after_...` |
//! | the region's own higher epoch needs a read that succeeds | | `the_regions_own_higher_epoch_waits_...` |
//! | a replica is judged before anything else | | `a_rebuilt_replica_reopens_its_region_...` |
//! | two signals: the channel; `read_only` | | `signals_that_contradict_change_nothing` |
//! | BOOT | | `boot_waits_for_every_source_or_for_its_time` |
//! | nothing opens that is about to be judged | | `a_higher_epoch_counts_after_...` |
//! | the owner obeys a planned close | failback: settles | `a_planned_close_is_obeyed_...` |
//! | the standby obeys it | failback: loses nothing | `a_standby_obeys_the_owners_close_...` |
//! | so does a machine that wakes | | `a_machine_that_wakes_...` |
//! | a close that is over counts until the other database is seen | failback: loses nothing | `an_expired_close_counts_...` |
//! | that proof begins after it, for the owner and for the standby | | `a_planned_close_is_obeyed_...`, `a_standby_obeys_...` |
//! | closed while the other database has no channel | failback: loses nothing | `a_planned_close_is_obeyed_...` |
//! | a close opens nothing under a higher epoch | | the same |
//! | a released close is read behind too | | the same |
//! | a region is closed when all members are | T11, promotion: one writer | `a_region_is_closed_and_writes_nowhere_...` |
//! | nobody is closed before deciding, an owner by a close only | | `who_is_superseded_is_closed_...`, `an_owner_is_closed_by_...` |
//! | closed is what stands, not what is meant | T3: one writer | `who_is_superseded_is_closed_...` |
//! | SUPERSEDED closes the gate | T15, promotion: settles | `a_higher_epoch_counts_after_...` |
//! | a claim is above everything known | R8 comes to nothing | `a_claim_is_above_everything_known` |
//! | the first row is init's | R8: one writer | `only_inits_row_is_the_first_one_...` |
//! | known never falls | T15, promotion: settles | `what_is_known_never_falls` |
//! | a higher epoch is recorded in the own database | | `a_higher_epoch_counts_after_...` |
//! | the group's word counts | | `an_agent_that_nobody_tells_anything_...` |
//! | a standby writes where the row says so | | `a_standby_writes_to_the_owner_...` |
//!
//! Switched off without any of them noticing, because others stand behind: *the own epoch is the highest* as a condition of
//! a claim (whoever is behind is superseded and claims nothing); the `fenced` file after a boot (the epoch in the state
//! file closes too; machines with a real systemd see to the file); *nothing opens behind a step that failed* and *the
//! repoint's target names itself*, which are the model's copies of what carries decisions out (tests of `repoint` and of
//! two regions of real agents see to those).
//!
//! Not modelled: the order in which answers of one poll arrive, TLS and MACs, partial loss (SQL without HTTP), drills, and
//! T16 (a catch-all page at the peer's `promoted`), which is a matter of the answer's body and of Route 53's string match.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "how many states there were is shown with --nocapture")]
#![allow(unreachable_pub, missing_debug_implementations, reason = "nothing outside reaches into a test")]

mod acts;
mod dns;
mod explore;
mod laws;
mod turn;
mod world;

use acts::{Fault, after, begin};
use explore::Scenario;
use turn::Rules;
use world::{Dns, H, P, World};

use Fault::{
    Claim, Close, Crash, DbDown, Demote, Expire, Init, Misconfigure, NoInsert, Partition, Promote, PromoteSlowly,
    Reboot, Rebuild, Release, Replace, RestoreOld, RestoreOther, RestoreOwn,
};

/// A scenario from `begin` with these faults, `left` of them in all.
fn scenario(name: &'static str, begin: World, faults: &'static [(Fault, u8)], left: u8) -> Scenario {
    let rules = Rules::default();
    let (reached, always) = (|_: &World| true, |_: &World| true);
    Scenario { name, begin, rules, faults, left, limit: 60_000, settle: 64, reached, always }
}

fn holds(scenario: &Scenario) {
    match scenario.explore() {
        Ok(report) => println!(
            "{}: {} states, {} transitions{}",
            scenario.name,
            report.states,
            report.transitions,
            if report.is_complete { "" } else { ", stopped" }
        ),
        Err(told) => panic!("{told}"),
    }
}

const STEPWISE: Rules = Rules { no_tags: false, stepwise: true, slow_reads: false };
const SLOW: Rules = Rules { no_tags: false, stepwise: false, slow_reads: true };
const NO_TAGS: Rules = Rules { no_tags: true, stepwise: false, slow_reads: false };

/// Home owns epoch 1, the peer replicates.
fn ordinary(home: usize, peer: usize) -> World {
    begin([home, peer], true)
}

/// The peer was promoted: it owns epoch 2, and home is fenced.
fn promoted(home: usize, peer: usize) -> World {
    after(ordinary(home, peer), &[(Promote, P)])
}

/// The peer owns epoch 2, and home's database is a new replica of it.
fn rebuilt(home: usize, peer: usize) -> World {
    after(promoted(home, peer), &[(Rebuild, H)])
}

fn owned_by_peer(world: &World) -> bool {
    world.db[P].epoch == 2 && world.written_to() == [false, true]
}

fn owned_by_home_again(world: &World) -> bool {
    world.db[H].epoch == 3 && world.written_to() == [true, false]
}

fn all_spent(world: &World) -> bool {
    world.left == 0
}

#[test]
fn t1_an_ordinary_primary_claims_nothing() {
    let mut it = scenario("T1", ordinary(2, 1), &[(DbDown, 1), (Reboot, 1), (Replace, 1), (Crash, 1)], 2);
    it.reached = all_spent;
    it.always = |world| world.written == 1;
    holds(&it);
}

#[test]
fn t2_a_database_restored_in_place_claims_nothing() {
    let mut it = scenario("T2", ordinary(1, 1), &[(RestoreOwn, 1), (Promote, 1)], 2);
    it.reached = |world| world.db[H].server == 3 && owned_by_peer(world);
    it.always = |world| world.db[H].epoch == 1;
    holds(&it);
}

#[test]
fn t3_two_agents_write_one_row() {
    let mut it = scenario("T3", ordinary(1, 2), &[(Promote, 1)], 1);
    it.rules = STEPWISE;
    it.reached = owned_by_peer;
    it.always = |world| world.written <= 2;
    holds(&it);
}

#[test]
fn t4_an_old_identity_that_was_a_replica_again_is_claimed() {
    let mut it = scenario("T4", promoted(1, 1), &[(Demote, 1), (Promote, 1)], 2);
    it.reached = owned_by_home_again;
    holds(&it);
}

#[test]
fn t5_a_promotion_that_cannot_be_claimed_opens_nothing() {
    let mut it = scenario("T5", ordinary(1, 1), &[(NoInsert, 1), (DbDown, 1), (Promote, 1)], 3);
    it.reached = |world| world.db[P].no_insert && world.db[P].is_primary() && world.db[H].up;
    holds(&it);
}

#[test]
fn t6_a_fenced_instance_that_is_replaced_stays_closed() {
    let mut it = scenario("T6", promoted(1, 1), &[(Replace, 1), (Partition, 1), (Reboot, 1)], 3);
    it.reached = all_spent;
    it.always = |world| !world.written_to()[H];
    holds(&it);
}

#[test]
fn t6_with_the_members_alone_to_tell() {
    let mut it = scenario("T6, no tags", promoted(2, 1), &[(Replace, 1), (Partition, 1), (DbDown, 1)], 3);
    it.rules = NO_TAGS;
    it.reached = all_spent;
    it.always = |world| !world.written_to()[H];
    holds(&it);
}

#[test]
fn t7_no_instance_writes_before_its_first_decision() {
    let mut it = scenario("T7", promoted(2, 1), &[(Replace, 2), (Reboot, 2)], 2);
    it.reached = all_spent;
    it.always = |world| !world.written_to()[H];
    holds(&it);
}

#[test]
fn t8_a_release_is_a_claim() {
    let mut it = scenario("T8", promoted(1, 1), &[(Release, 1), (Claim, 1)], 2);
    it.reached = owned_by_home_again;
    holds(&it);
}

#[test]
fn t9_no_epoch_is_known_before_its_row_is_written() {
    let mut it = scenario("T9", ordinary(1, 1), &[(Promote, 1), (NoInsert, 1), (Misconfigure, 2)], 3);
    it.reached = all_spent;
    holds(&it);
}

#[test]
fn t10_a_copy_of_the_others_database_is_not_claimed() {
    let mut it = scenario("T10", promoted(1, 1), &[(RestoreOther, 1), (Replace, 1), (Reboot, 1)], 3);
    it.reached = |world| world.db[H].epoch == 2 && world.db[H].is_primary();
    it.always = |world| world.written == 2;
    holds(&it);
}

#[test]
fn t11_a_new_owner_opens_behind_the_old_one() {
    let mut it = scenario("T11", ordinary(2, 1), &[(Promote, 1)], 1);
    it.rules = SLOW;
    it.reached = owned_by_peer;
    holds(&it);
}

#[test]
fn t12_no_member_still_writes_across_when_another_opens() {
    let mut it = scenario("T12", ordinary(1, 2), &[(Promote, 1), (Replace, 1), (Reboot, 1)], 2);
    it.reached = owned_by_peer;
    holds(&it);
}

#[test]
fn t13_the_name_does_not_return_while_the_peer_owns() {
    let mut begin = ordinary(1, 1);
    begin.dns = Some(Dns { home_healthy: true, ..Dns::default() });
    let mut it = scenario("T13", begin, &[(Partition, 1), (Promote, 1), (DbDown, 1), (Reboot, 1), (Crash, 1)], 4);
    it.reached = |world| !world.link && world.dns.is_some_and(|dns| dns.at_peer) && world.left == 0;
    it.limit = 150_000;
    holds(&it);
}

#[test]
fn t14_taking_over_does_not_end_on_what_was_known_before() {
    let mut it = scenario("T14", rebuilt(1, 1), &[(Promote, 1), (Claim, 1)], 2);
    it.rules = SLOW;
    it.reached = |world| world.db[P].epoch == 4 && world.written_to() == [false, true];
    holds(&it);
}

#[test]
fn t15_an_order_and_a_promotion_apart_write_no_tie() {
    let mut it = scenario("T15", ordinary(1, 1), &[(Partition, 1), (Promote, 1), (Claim, 1), (RestoreOwn, 1)], 4);
    it.reached = |world| world.db[P].epoch == 2 && world.left == 0;
    it.always = |world| world.db[H].epoch != world.db[P].epoch || world.db[H].row_server == world.db[P].row_server;
    holds(&it);
}

#[test]
fn a_promotion_with_two_agents_a_region() {
    let mut it = scenario("promotion, 2+2", ordinary(2, 2), &[(Promote, 1)], 1);
    it.reached = owned_by_peer;
    holds(&it);
}

/// The peer is closed for a failback to home.
fn closed(home: usize, peer: usize) -> World {
    after(rebuilt(home, peer), &[(Close, P)])
}

#[test]
fn a_planned_failback_loses_nothing() {
    let mut it = scenario("failback, 1+1", rebuilt(1, 1), &[(Close, 1), (Expire, 1), (PromoteSlowly, 1)], 3);
    it.rules = SLOW;
    it.reached = |world| owned_by_home_again(world) && world.promised.is_some();
    it.limit = 150_000;
    holds(&it);
}

#[test]
fn a_close_that_an_operator_ends() {
    let mut it = scenario("failback, released", closed(1, 1), &[(Expire, 1), (Release, 2), (PromoteSlowly, 1)], 3);
    it.reached = owned_by_home_again;
    it.limit = 100_000;
    holds(&it);
}

#[test]
fn a_planned_failback_with_reboots_and_failures() {
    let faults = &[(Expire, 1), (PromoteSlowly, 1), (DbDown, 1), (Reboot, 1), (Crash, 1), (Replace, 1)];
    let mut it = scenario("failback, faults", closed(1, 1), faults, 3);
    it.reached = owned_by_home_again;
    it.limit = 150_000;
    holds(&it);
}

#[test]
fn a_close_that_begins_while_machines_boot() {
    let mut it = scenario("failback, boots", rebuilt(1, 1), &[(Close, 1), (PromoteSlowly, 1), (Reboot, 1)], 3);
    it.reached = owned_by_home_again;
    it.limit = 100_000;
    holds(&it);
}

#[test]
fn a_planned_failback_with_two_agents_in_home() {
    let mut it = scenario("failback, 2+1", closed(2, 1), &[(Expire, 1), (PromoteSlowly, 1)], 2);
    it.reached = owned_by_home_again;
    it.limit = 100_000;
    holds(&it);
}

#[test]
fn a_planned_failback_with_two_agents_in_the_peer_region() {
    let mut it = scenario("failback, 1+2", rebuilt(1, 2), &[(Close, 1), (PromoteSlowly, 1)], 2);
    it.reached = owned_by_home_again;
    it.limit = 100_000;
    holds(&it);
}

#[test]
fn the_first_row_cuts_no_session() {
    let mut it = scenario("init", begin([2, 1], false), &[(Init, 1)], 1);
    it.reached = |world| world.agents.iter().all(|agent| agent.memory.get().known_epoch() == 1);
    it.always = |world| world.agents.iter().all(|agent| agent.users_write_to(H));
    holds(&it);
}

#[test]
fn instances_join_while_the_first_row_is_written() {
    let mut it =
        scenario("init, joiners", begin([1, 1], false), &[(Init, 1), (Replace, 1), (Reboot, 1), (Promote, 1)], 4);
    it.reached = owned_by_peer;
    holds(&it);
}

#[test]
fn an_agent_dies_between_two_steps() {
    let mut it = scenario("crash between steps", ordinary(1, 1), &[(Promote, 1), (Crash, 1), (Reboot, 1)], 2);
    it.rules = STEPWISE;
    it.limit = 150_000;
    it.reached = owned_by_peer;
    holds(&it);
}

#[test]
fn roles_are_swapped_and_swapped_again() {
    let mut it = scenario("role swap", promoted(1, 1), &[(Rebuild, 2), (Promote, 2)], 4);
    it.reached = |world| world.db[P].epoch == 4;
    holds(&it);
}

#[test]
fn a_backup_from_before_the_claim_stays_closed() {
    let mut it = scenario("R8", promoted(1, 1), &[(RestoreOld, 1), (Claim, 1), (Reboot, 1)], 3);
    it.reached = |world| world.db[P].epoch == 4;
    holds(&it);
}

#[test]
fn anything_at_once() {
    let faults = &[
        (DbDown, 1),
        (Promote, 2),
        (Rebuild, 1),
        (Misconfigure, 1),
        (RestoreOwn, 1),
        (RestoreOther, 1),
        (Partition, 1),
        (Crash, 1),
        (Reboot, 1),
        (Replace, 1),
        (Close, 1),
        (Expire, 1),
        (Release, 1),
        (Claim, 1),
    ];
    let mut it = scenario("anything, 1+1", ordinary(1, 1), faults, 3);
    it.limit = 200_000;
    holds(&it);
}
