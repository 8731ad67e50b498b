//! How long a promotion takes to reach the app, and what it loses, measured: `tests/release/promotions`.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dr_agent::authority::lag;
use dr_agent::authority::ledger::Failover;
use jiff::Timestamp;

use super::*;
use crate::support::moto::Moto;
use crate::support::regions::{LONG, NAMES};
use crate::support::shop;
use crate::support::within;

/// Waits, looking often enough to measure.
fn when(what: &str, log: impl Fn() -> String, mut is: impl FnMut() -> bool) -> Instant {
    let limit = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < limit, "{what}: {}", log());
        std::thread::sleep(Duration::from_millis(2));
    }
    Instant::now()
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn tell(what: &str, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(values, share));
    println!("{what:66} p50 {p50:7.2} s  p99 {p99:7.2} s  max {:7.2} s  of {}", values[values.len() - 1], values.len());
}

/// What becomes of the owner whose replica is promoted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OldOwner {
    /// It lives, and is closed.
    Lives,
    /// It is lost just before.
    Lost,
    /// It takes orders on while its replica restarts, and is lost before anybody can read both.
    Through,
}

/// Each time the region that stands by is promoted after its link broke, while orders come in at the other one, which
/// lives, or is lost, is then fenced, and rebuilt as a replica of the new owner.
#[test]
#[ignore = "minutes of measuring"]
fn promotions_are_measured() {
    let runs: u64 = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(50);
    let old_owner = match std::env::var("OLD_OWNER").as_deref() {
        Ok("lost") => OldOwner::Lost,
        Ok("through") => OldOwner::Through,
        Ok("lives") | Err(_) => OldOwner::Lives,
        Ok(other) => panic!("OLD_OWNER is lives, lost or through, not `{other}`"),
    };
    // An AWS that answers, as it does: the tags are read before a claim and before an opening.
    let moto = Moto::start();
    let mut site = Site::build([1, 1]);
    site.variables.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    site.variables.push(("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{}", moto.port)));
    for name in NAMES {
        moto.group(&format!("web-{name}"), 0);
    }
    // The defaults of a deployment.
    site.waits.clear();
    site.grant();
    site.start_agents();
    site.init();
    let (mut repointed, mut verified, mut served) = (vec![], vec![], vec![]);
    let (mut excess_at_first, mut excess_at_last) = (vec![], vec![]);
    let (mut orders, mut lost_orders, mut first) = (0, 0, 0);
    for run in 0..runs {
        let old = usize::try_from(run % 2).unwrap();
        let new = 1 - old;
        site.enrolled(new);
        let log = || site.log();
        first += 1_000_000;
        let buyers = site.buyers(old, first);
        when("orders", log, || buyers.accepted().len() > 10);
        site.databases[new].sql("STOP SLAVE IO_THREAD");
        let broken = buyers.accepted().len();
        when("orders that are lost", log, || buyers.accepted().len() > broken + usize::try_from(run % 20).unwrap());
        if old_owner == OldOwner::Through {
            site.databases[new].begin_promotion();
            let meanwhile = buyers.accepted().len();
            when("orders while it restarts", || site.log(), || buyers.accepted().len() > meanwhile + 60);
        }
        let accepted = buyers.stop();
        // Asked now: a server that is lost may have lost them.
        let times = order_times(&site, old, first);
        let before = verifications(&site, new);

        if old_owner != OldOwner::Lives {
            site.lose(old);
        }
        if old_owner != OldOwner::Through {
            site.databases[new].begin_promotion();
        }
        site.databases[new].end_promotion();
        let port = site.databases[new].port;
        let login = when(
            "a login",
            || site.log(),
            || shop::sql(port).arg("SELECT 1").output().is_ok_and(|output| output.status.success()),
        );
        let app = site.groups[new][0].shop();
        let names = when("the app's files", || site.log(), || app.writer() == Some(Ok(Some(port))));
        // The gate of a region that stood by is open; it owns when the app was seen to reach its writer.
        let seen = when("verified", || site.log(), || verifications(&site, new) > before);
        when("an order", || site.log(), || app.order(first + 900_000).is_ok());
        let order = Instant::now();
        let took = [names, seen, order].map(|at| at.duration_since(login).as_secs_f64());
        for (list, took) in [&mut repointed, &mut verified, &mut served].into_iter().zip(took) {
            list.push(took);
        }

        let kept: BTreeSet<_> = site.orders(new).into_iter().collect();
        let lost: Vec<_> = accepted.iter().filter(|number| !kept.contains(number)).collect();
        orders += accepted.len();
        lost_orders += lost.len();
        // From the first order that is lost to the last.
        let [first_lost, last_lost] = [lost.first(), lost.last()].map(|lost| lost.map(|number| times[*number]));
        let really = first_lost.zip(last_lost).map_or(0.0, |(first, last)| last.duration_since(first).as_secs_f64());
        // What the ledger says then, and what it says when both databases can be read, in both regions.
        let at_first = reported(&site, new, run + 2);
        if old_owner != OldOwner::Lives {
            site.databases[old].restart();
            site.reboot(old);
        }
        within(LONG, "the old owner is fenced", || {
            let state = site.groups[old][0].state();
            if state == "SUPERSEDED" { Ok(()) } else { Err(site.log()) }
        });
        let at_last = [new, old].map(|region| {
            within(LONG, "both databases are read", || {
                record(&site, region, run + 2).filter(|told| told.lost_ms.is_some()).ok_or_else(|| site.log())
            });
            reported(&site, region, run + 2)
        });
        excess_at_first.push(at_first - really);
        excess_at_last.extend(at_last.map(|told| told - really));
        for told in [at_first, at_last[0], at_last[1]] {
            assert!(told >= really, "run {run}: {told} s are told and {really} s were lost: {}", site.log());
        }
        let [names, seen, order] = took;
        println!(
            "run {run}: files {names:.2} s, verified {seen:.2} s, order {order:.2} s; at most {at_first:.2} s, then \
             {:.2} s there and {:.2} s here, lost {really:.2} s in {} orders",
            at_last[0],
            at_last[1],
            lost.len()
        );

        let [home, peer] = &mut site.databases;
        if old == HOME {
            home.rebuild_as_replica_of(peer);
        } else {
            peer.rebuild_as_replica_of(home);
        }
        within(LONG, "it stands by", || {
            let state = site.groups[old][0].state();
            if state == "STANDBY" { Ok(()) } else { Err(site.log()) }
        });
    }
    println!();
    tell("first accepted login -> the app's files name it", &mut repointed);
    tell("first accepted login -> verified", &mut verified);
    tell("first accepted login -> first order through nginx and the files", &mut served);
    tell("the ledger's word on what is lost at most, beyond what really was", &mut excess_at_first);
    tell("the same when both databases can be read", &mut excess_at_last);
    println!("{lost_orders} of {orders} orders were lost");
    assert_eq!(site.epochs(if runs.is_multiple_of(2) { HOME } else { PEER }).len() as u64, runs + 1);
}

/// How often a repoint to this region's database was verified there, as the agent's log has it.
fn verifications(site: &Site, region: usize) -> usize {
    site.groups[region][0].agent.log().matches(&format!("the app writes to the database of {}", NAMES[region])).count()
}

/// When each order from this number on was taken.
fn order_times(site: &Site, region: usize, first: u64) -> BTreeMap<u64, Timestamp> {
    let sql = format!("SET time_zone = '+00:00'; SELECT number, at FROM shop.orders WHERE number >= {first}");
    let rows = site.databases[region].sql(&sql);
    let order = |row: &str| {
        let (number, at) = row.split_once('\t').expect("two columns");
        let at = format!("{}Z", at.replace(' ', "T"));
        (number.parse().expect("a number"), at.parse().unwrap_or_else(|error| panic!("`{at}`: {error}")))
    };
    rows.lines().map(order).collect()
}

/// The record of the change to `epoch` in a region, when that is through with it.
fn record(site: &Site, region: usize, epoch: u64) -> Option<Failover> {
    let output = site.groups[region][0].command(&["history", "--failovers", "--format", "json"]);
    let told: Vec<Failover> = serde_json::from_slice(&output.stdout).ok()?;
    told.into_iter().find(|failover| failover.to.epoch == epoch && failover.is_over())
}

/// The seconds that were lost at most, as a region's ledger has it.
fn reported(site: &Site, region: usize, epoch: u64) -> f64 {
    let told = within(LONG, "the ledger has it", || record(site, region, epoch).ok_or_else(|| site.log()));
    lag::seconds(told.rpo_ms().unwrap_or_else(|| panic!("nothing is promised: {told:?}")))
}
