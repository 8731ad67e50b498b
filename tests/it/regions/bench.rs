//! How long a promotion takes to reach the app, and what it loses, measured: `tests/release/promotions`.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

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

/// Each time the region that stands by is promoted after its link broke, while orders come in at the other one, which
/// lives, or is lost just before, is then fenced, and rebuilt as a replica of the new owner.
#[test]
#[ignore = "minutes of measuring"]
fn promotions_are_measured() {
    let runs: u64 = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(50);
    let is_lost = std::env::var_os("LOST").is_some();
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
    let (mut repointed, mut verified, mut served, mut excess) = (vec![], vec![], vec![], vec![]);
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
        let accepted = buyers.stop();
        // Asked now: a server that is lost may have lost them.
        let until: Timestamp = last_order(&site, old);
        let times: Vec<_> = accepted.iter().map(|number| (*number, order_at(&site, old, *number))).collect();
        let before = verifications(&site, new);

        if is_lost {
            site.lose(old);
        }
        site.databases[new].promote_as_rds();
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

        if is_lost {
            site.databases[old].restart();
            site.reboot(old);
        }
        let kept: BTreeSet<_> = site.orders(new).into_iter().collect();
        let lost: Vec<_> = accepted.iter().filter(|number| !kept.contains(number)).collect();
        orders += accepted.len();
        lost_orders += lost.len();
        // What the heartbeat says is lost, against the time from the first lost order to the last.
        let beat = heartbeat(&site, new, old);
        let reported = until.duration_since(beat).as_secs_f64();
        let first_lost = lost.first().and_then(|lost| times.iter().find(|(number, _)| number == *lost));
        let really = first_lost.map_or(0.0, |(_, at)| until.duration_since(*at).as_secs_f64());
        excess.push(reported - really);
        assert!(reported >= really, "run {run}: {reported} s were reported and {really} s were lost");
        let [names, seen, order] = took;
        println!(
            "run {run}: files {names:.2} s, verified {seen:.2} s, order {order:.2} s; reported {reported:.2} s, lost \
             {really:.2} s in {} orders",
            lost.len()
        );

        within(LONG, "the old owner is fenced", || {
            let state = site.groups[old][0].state();
            if state == "SUPERSEDED" { Ok(()) } else { Err(site.log()) }
        });
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
    tell("heartbeat's word on what is lost, beyond what really was", &mut excess);
    println!("{lost_orders} of {orders} orders were lost");
    assert_eq!(site.epochs(if runs.is_multiple_of(2) { HOME } else { PEER }).len() as u64, runs + 1);
}

/// How often a repoint to this region's database was verified there, as the agent's log has it.
fn verifications(site: &Site, region: usize) -> usize {
    site.groups[region][0].agent.log().matches(&format!("the app writes to the database of {}", NAMES[region])).count()
}

fn time(site: &Site, region: usize, sql: &str) -> Timestamp {
    let text = site.databases[region].sql(&format!("SET time_zone = '+00:00'; {sql}"));
    format!("{}Z", text.replace(' ', "T")).parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

fn last_order(site: &Site, region: usize) -> Timestamp {
    time(site, region, "SELECT MAX(at) FROM shop.orders")
}

fn order_at(site: &Site, region: usize, number: u64) -> Timestamp {
    time(site, region, &format!("SELECT at FROM shop.orders WHERE number = {number}"))
}

fn heartbeat(site: &Site, at: usize, of: usize) -> Timestamp {
    time(site, at, &format!("SELECT at FROM dr_agent.heartbeat WHERE region = '{}'", NAMES[of]))
}
