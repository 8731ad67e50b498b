//! Signals that contradict each other, replication that fails, names that lead elsewhere, rights that are missing.

use super::*;
use crate::support::forward::Forwarder;
use crate::support::mariadb::{PASSWORD, USER};
use crate::support::regions::LONG;
use crate::support::within;

fn is_empty(list: &serde_json::Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn no_right(shown: &serde_json::Value) -> bool {
    shown["summary"]["alarms"].to_string().contains("GRANT SELECT, INSERT, UPDATE")
}

#[test]
fn a_replica_that_is_writable_by_mistake_changes_nothing_but_is_told() {
    let site = Site::initialised([1, 1]);
    site.enrolled(PEER);
    site.databases[PEER].sql("SET GLOBAL read_only = 0");
    let shown = site.shows_that(PEER, "it is ambiguous", |shown| shown["summary"]["state"] == "AMBIGUOUS");
    assert!(!is_empty(&shown["summary"]["alarms"]), "{shown:#}");
    site.is(PEER, "AMBIGUOUS writer=home page=200 region=200 promoted=503");
    site.order(PEER, 1).expect("it goes on writing to the owner");
    site.is(HOME, OWNER_AT_HOME);
    site.databases[PEER].sql("SET GLOBAL read_only = 1");
    site.is(PEER, STANDBY_AT_PEER);
    assert_eq!(site.epochs(HOME), ["1 home init"]);
    assert_eq!(site.orders(HOME), [1]);
}

#[test]
fn a_standby_stands_by_through_lag_and_a_broken_link_and_says_when_it_is_not_ready() {
    let site = Site::initialised([1, 1]);
    site.enrolled(PEER);
    let ready = |is: bool| move |shown: &serde_json::Value| shown["summary"]["standby_ready"] == is;
    site.shows_that(PEER, "it is ready", ready(true));
    site.databases[PEER].sql("STOP SLAVE SQL_THREAD");
    site.order(HOME, 1).expect("an order that is not applied there");
    site.is(PEER, STANDBY_AT_PEER);
    site.databases[PEER].sql("STOP SLAVE");
    site.is(PEER, STANDBY_AT_PEER);
    // A higher epoch is on its way: what the replica has is not the newest there is.
    site.databases[HOME].sql(
        "INSERT INTO dr_agent.authority SELECT 3, 1, region, server, 'claim', 'by hand', UTC_TIMESTAMP(6)
         FROM dr_agent.authority WHERE epoch = 1",
    );
    site.shows_that(PEER, "it is not ready", ready(false));
    site.is(PEER, STANDBY_AT_PEER);
    site.databases[PEER].sql("START SLAVE");
    site.shows_that(PEER, "it is ready again", ready(true));
    site.is(PEER, STANDBY_AT_PEER);
    site.is(HOME, OWNER_AT_HOME);
    site.databases[PEER].catch_up(&site.databases[HOME]);
    assert_eq!(site.orders(PEER), [1]);
}

#[test]
fn without_the_schema_or_the_rights_it_is_said_what_is_missing() {
    let mut site = Site::build([1, 1]);
    site.databases[HOME].sql(&format!(
        "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
         GRANT REPLICA MONITOR, REPLICATION CLIENT ON *.* TO '{USER}'@'%'"
    ));
    site.databases[PEER].catch_up(&site.databases[HOME]);
    site.start_agents();
    // Nobody knows whether there is a row: an app that has no file yet gets none.
    site.is(HOME, "UNINITIALISED writer=- page=200 region=200 promoted=503");
    let init = |site: &Site| {
        let output = site.groups[HOME][0].command(&["authority", "init", "--reason", "a test"]);
        format!("{}{}", output.status.success(), String::from_utf8_lossy(&output.stderr))
    };
    // Without a right to it nobody can tell whether it is there.
    let shown = site.shows_that(HOME, "the missing grant is an alarm", no_right);
    assert!(init(&site).starts_with("falseerror: Unread"), "{shown:#}");
    for region in [HOME, PEER] {
        site.databases[region]
            .sql(&format!("SET sql_log_bin = 0; GRANT SELECT, INSERT, UPDATE ON `dr\\_agent`.* TO '{USER}'@'%'"));
    }
    within(LONG, "the missing tables are named", || match init(&site) {
        words if words.starts_with("falseerror: NoTables") => Ok(()),
        words => Err(words),
    });
    site.is(HOME, UNINITIALISED);
    site.grant();
    site.init();

    let heart = |words: &str| {
        let words = words.to_owned();
        move |shown: &serde_json::Value| shown["problems"].to_string().contains(&words)
    };
    site.databases[HOME].sql(&format!("REVOKE UPDATE ON `dr\\_agent`.* FROM '{USER}'@'%'"));
    site.shows_that(HOME, "the heart that cannot beat is named", heart("heartbeat: a grant is missing"));
    site.is(HOME, OWNER_AT_HOME);
    site.databases[HOME].sql(&format!("REVOKE SELECT, INSERT ON `dr\\_agent`.* FROM '{USER}'@'%'"));
    let shown = site.shows_that(HOME, "the missing grant is an alarm", no_right);
    assert_eq!(shown["summary"]["state"], "OWNER", "what was known is known");
    site.is(HOME, OWNER_AT_HOME);
    site.order(HOME, 1).expect("users do not need the agent's rights");
    site.grant();
    site.shows_that(HOME, "all is well again", |shown| {
        !shown["problems"].to_string().contains("grant") && is_empty(&shown["summary"]["alarms"])
    });
}

#[test]
fn a_name_that_resolves_late_changes_nothing() {
    let mut site = Site::build([1, 1]);
    site.hosts = [["database.test"; 2]; 2];
    let names = "127.0.0.1 localhost database.test\n";
    site.names = [names.to_owned(), names.to_owned()];
    site.grant();
    site.bootstrap();
    site.start_agents();
    site.init();
    site.enrolled(PEER);
    // A repoint that was under way at the reboot is begun anew, and not carried out while nobody is found.
    for (region, state) in [(HOME, "OWNER"), (PEER, "STANDBY")] {
        let decision = site.groups[region][0].agent.scratch.state().join("repoint/decision.json");
        within(LONG, "it has decided", || {
            let text = std::fs::read_to_string(&decision).unwrap_or_default();
            if text.contains(&format!(r#""state":"{state}""#)) { Ok(()) } else { Err(text) }
        });
    }
    site.is(HOME, OWNER_AT_HOME);
    site.is(PEER, STANDBY_AT_PEER);
    // Nobody is found any more, by either of them, and both start anew.
    site.names = ["127.0.0.1 localhost\n".to_owned(), "127.0.0.1 localhost\n".to_owned()];
    site.reboot(HOME);
    site.reboot(PEER);
    site.shows_that(HOME, "home keeps what it knew", |shown| shown["summary"]["state"] == "OWNER");
    site.shows_that(PEER, "so does the peer", |shown| shown["summary"]["state"] == "STANDBY");
    let [home, peer] = [HOME, PEER].map(|region| site.shows(&site.groups[region][0]));
    assert!(home.contains("writer=home page=200") && peer.contains("writer=home page=200"), "{home} {peer}");
    for region in [HOME, PEER] {
        site.groups[region][0].hosts(names);
    }
    site.is(HOME, OWNER_AT_HOME);
    site.is(PEER, STANDBY_AT_PEER);
    assert_eq!(site.epochs(HOME), ["1 home init"]);
}

#[test]
fn a_name_that_leads_to_the_other_regions_database_claims_nothing() {
    let mut site = Site::initialised([1, 1]);
    site.enrolled(PEER);
    // The peer's own name leads home, where everything looks like a promotion.
    let name = Forwarder::to(&[site.databases[HOME].port]);
    site.ports[PEER][PEER] = name.port;
    site.restart(PEER);
    site.shows_that(PEER, "it claims nothing", |shown| {
        let summary = &shown["summary"];
        let refused = summary["claim"].as_str().is_some_and(|words| words.starts_with("NeverSeenReplicating"));
        summary["state"] == "UNCLAIMED" && refused
    });
    site.is(HOME, OWNER_AT_HOME);
    assert_eq!(site.epochs(HOME), ["1 home init"]);
    // From the next connection on it leads where it should.
    name.lead_to(&[site.databases[PEER].port]);
    site.restart(PEER);
    site.is(PEER, STANDBY_AT_PEER);
    assert_eq!(site.epochs(HOME), ["1 home init"]);
}

#[test]
fn two_writable_databases_without_an_epoch_are_nobodys_yet() {
    let mut site = Site::build([1, 1]);
    site.grant();
    site.bootstrap();
    site.databases[PEER].promote_as_rds();
    site.start_agents();
    site.is(HOME, UNINITIALISED);
    site.is(PEER, UNINITIALISED);
    for region in [HOME, PEER] {
        let init = site.groups[region][0].command(&["authority", "init", "--reason", "a test"]);
        let words = String::from_utf8_lossy(&init.stderr).into_owned();
        assert!(!init.status.success() && words.contains("OtherWritable"), "{words}");
    }
    assert!(site.epochs(HOME).is_empty() && site.epochs(PEER).is_empty());
}
