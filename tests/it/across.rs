//! Releases that follow each other work together: on the same tables, in each other's words, as a package and the one before it.
//!
//! What a later release may add is put there by the tests. What an earlier one is, is another commit of this repository:
//! `tests/release/across COMMIT`.

use std::path::PathBuf;

use serde_json::Value;

use crate::regions::{FENCED, OWNER_AT_PEER, STANDBY_AT_HOME};
use crate::support::installed::{Installed, WELL};
use crate::support::later::Later;
use crate::support::package::package as made;
use crate::support::regions::{HOME, LONG, PEER, Site};
use crate::support::{agent_binary, within};

/// The agent of another commit, and its package.
fn other(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("no ${variable}: run tests/release/across")).into()
}

/// Every member of the group is heard.
fn hears_its_group(site: &Site, region: usize) {
    for instance in &site.groups[region] {
        within(LONG, "every member is heard", || {
            let said = instance.command(&["status", "--format", "json"]).stdout;
            let report: Value = serde_json::from_slice(&said).map_err(|error| error.to_string())?;
            let members = report["group"]["members"].as_array().cloned().unwrap_or_default();
            let is_heard = |member: &Value| member["silence"].is_null() && !member["votes"].is_null();
            if !members.is_empty() && members.iter().all(is_heard) { Ok(()) } else { Err(report["group"].to_string()) }
        });
    }
}

/// A failover from home to the peer while the old primary lives.
fn is_promoted(site: &mut Site) {
    site.enrolled(PEER);
    site.order(HOME, 1).expect("an order at home");
    site.databases[PEER].catch_up(&site.databases[HOME]);
    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    assert_eq!(site.epochs(PEER), ["1 home init", "2 peer promotion"]);
    site.is(HOME, FENCED);
    site.order(PEER, 2).expect("an order at the new owner");
    assert_eq!((site.orders(HOME), site.orders(PEER)), (vec![1], vec![1, 2]));
}

/// The old primary is made anew as the replica of the new one, with the rows that it has.
fn stands_by_again(site: &mut Site) {
    let [home, peer] = &mut site.databases;
    home.rebuild_as_replica_of(peer);
    site.is(HOME, STANDBY_AT_HOME);
}

/// More columns in each table, another table, more in each word: nothing of it changes what is decided.
#[test]
fn a_later_release_in_the_tables_and_in_each_word_changes_nothing() {
    let mut site = Site::build([2, 2]);
    site.grant();
    for table in ["authority", "superseded", "roll", "heartbeat", "closing"] {
        site.databases[HOME].sql(&format!(
            "ALTER TABLE dr_agent.{table} ADD COLUMN of_a_later_release VARCHAR(32) NOT NULL DEFAULT 'something' FIRST"
        ));
    }
    site.databases[HOME].sql("CREATE TABLE dr_agent.of_a_later_release (id INT PRIMARY KEY) ENGINE=InnoDB");
    site.databases[PEER].catch_up(&site.databases[HOME]);
    let real: Vec<_> = site.groups.iter().flatten().flat_map(|one| [one.agent.peer_port, one.nginx.port]).collect();
    let later: Vec<_> = real.iter().map(|port| Later::release(*port, &site.key_file())).collect();
    site.ways = real.iter().copied().zip(later.iter().map(|later| later.port)).collect();
    site.start_agents();
    site.init();
    for region in [HOME, PEER] {
        hears_its_group(&site, region);
    }
    is_promoted(&mut site);
    // Each agent was asked by its group, and the first web server of a region by the other one.
    let changed: Vec<_> = later.iter().map(Later::changed).collect();
    assert!([0, 1, 2, 4, 5, 6].iter().all(|way| changed[*way] > 0), "{changed:?}");

    stands_by_again(&mut site);
}

#[test]
#[ignore = "needs the agent of another commit: tests/release/across"]
fn two_releases_share_a_group_and_its_tables() {
    let mut site = Site::build([2, 2]);
    // Who makes the tables is the earlier one: the later one finds them.
    let program = other("OTHER_AGENT");
    for group in &mut site.groups {
        group[0].install(program.clone());
    }
    site.grant();
    site.start_agents();
    site.init();
    for region in [HOME, PEER] {
        hears_its_group(&site, region);
    }
    is_promoted(&mut site);
    // Each goes to the other's release, in place, and back.
    for turn in 0..2 {
        for group in &mut site.groups {
            for (number, instance) in group.iter_mut().enumerate() {
                instance.install(if number == turn { agent_binary().into() } else { program.clone() });
            }
        }
        site.start_agents();
        site.is(PEER, OWNER_AT_PEER);
        site.is(HOME, FENCED);
        for region in [HOME, PEER] {
            hears_its_group(&site, region);
        }
    }
    stands_by_again(&mut site);
}

#[test]
#[ignore = "needs the package of another commit: tests/release/across"]
fn the_package_before_is_upgraded_and_come_back_to() {
    let package = other("OTHER_PACKAGE");
    let Some(host) = Installed::of(&package) else { return };
    host.machine.must("systemctl enable --quiet --now dr-agent");
    let mut pid = host.settles(WELL);
    host.machine.must("dr-agent hold --reason 'not now'");
    let asking = ["/", "/health/instance", "/health/region"].map(|path| host.keep_asking(path));
    for (action, package) in [("--upgrade", made(1)), ("--upgrade --oldpackage", package)] {
        let said = host.rpm_of(action, &package);
        assert!(said.ok && said.err.is_empty(), "{}{}", said.out, said.err);
        let now = host.settles(WELL);
        assert_ne!(now, pid, "the other one runs");
        pid = now;
        assert!(host.machine.run("dr-agent status").out.contains("not now"), "the state was kept");
    }
    for each in asking {
        println!("{}", each.end("200"));
    }
}
