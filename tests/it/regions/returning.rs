//! The old primary comes back: with what nobody else has, and as a replica of the one that took over.

use serde_json::Value;

use super::*;
use crate::support::forward::Forwarder;
use crate::support::instance::outcome;
use crate::support::moto::Moto;
use crate::support::regions::{LONG, NAMES};
use crate::support::within;

#[test]
fn a_primary_that_returns_with_newer_writes_stays_closed_whatever_happens_to_its_instances() {
    let mut site = Site::initialised([1, 1]);
    site.enrolled(PEER);
    site.order(HOME, 1).expect("an order");
    site.databases[PEER].catch_up(&site.databases[HOME]);
    site.databases[PEER].sql("STOP SLAVE IO_THREAD");
    site.order(HOME, 2).expect("an order that is never replicated");
    site.lose(HOME);
    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    site.order(PEER, 3).expect("an order at the new owner");

    // Everything that was lost is back as it was, and its database is writable.
    site.databases[HOME].restart();
    site.reboot(HOME);
    site.is(HOME, FENCED);
    within(LONG, "it is written down in the database itself", || {
        match site.databases[HOME].sql("SELECT by_epoch FROM dr_agent.superseded") {
            row if row == "2" => Ok(()),
            row => Err(format!("`{row}`: {}", site.log())),
        }
    });
    let users = Users::of(&site.groups[HOME][0].nginx);
    site.restart(HOME);
    site.is(HOME, FENCED);
    // The peer and its database cannot be reached from here any more.
    site.is_isolated[HOME] = true;
    site.restart(HOME);
    site.is_closed(HOME);
    assert!(users.answers(50).iter().all(|code| *code == 503), "users were let in: {}", site.log());
    drop(users);
    site.reboot(HOME);
    site.is_closed(HOME);
    site.order(HOME, 4).expect_err("nobody orders there");

    // Another instance, which knows nothing, with the same database.
    site.replace(HOME, 0);
    site.start_region(HOME);
    site.is(HOME, FENCED_ALONE);
    site.order(HOME, 5).expect_err("nobody orders there");
    site.is_isolated[HOME] = false;
    site.restart(HOME);
    site.is(HOME, FENCED);
    assert_eq!((site.orders(HOME), site.orders(PEER)), (vec![1, 2], vec![1, 3]));
}

#[test]
fn a_fresh_instance_believes_the_tag_and_the_group_where_the_database_never_heard_of_it() {
    let moto = Moto::start();
    moto.group(&format!("web-{}", NAMES[HOME]), 1);
    let mut site = Site::build([1, 1]);
    site.variables.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    site.variables.push(("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{}", moto.port)));
    // Long enough for the tags to be read on a busy machine: after it availability comes first.
    site.waits = "poll = \"500ms\"\nboot_wait = \"20s\"\ntakeover_wait = \"6s\"".to_owned();
    site.grant();
    site.start_agents();
    site.init();
    site.enrolled(PEER);
    // Home's database is gone before anybody can write down in it that it is stale.
    site.databases[HOME].kill();
    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    site.is(HOME, FENCED);
    within(LONG, "the tag is written", || {
        let groups = moto.call("autoscaling", "DescribeAutoScalingGroups", "");
        if groups.contains(&format!("2/{}", NAMES[PEER])) { Ok(()) } else { Err(groups) }
    });
    // No instance is left that was told, and the peer cannot be reached.
    site.is_isolated[HOME] = true;
    site.replace(HOME, 0);
    site.databases[HOME].restart();
    site.start_region(HOME);
    site.is(HOME, FENCED_ALONE);
    // Nor does AWS answer the next one; its neighbour does.
    drop(moto);
    site.launch(HOME);
    site.restart(HOME);
    site.is(HOME, FENCED_ALONE);
    assert_eq!(site.epochs(HOME), ["1 home init"]);
}

#[test]
fn a_planned_failback_loses_no_order_and_needs_no_release() {
    let mut site = Site::build([1, 1]);
    // Each region has a way of its own to each database: what an app's machine has open with one is told by its addresses,
    // and the replica and the other region's agents are on the same machine here.
    let ways = [HOME, PEER].map(|_| [HOME, PEER].map(|of| Forwarder::to(&[site.databases[of].port])));
    site.ports = ways.each_ref().map(|ways| ways.each_ref().map(|way| way.port));
    site.grant();
    site.start_agents();
    site.init();
    site.enrolled(PEER);
    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    site.is(HOME, FENCED);
    site.order(PEER, 1).expect("an order");

    let [home, peer] = &mut site.databases;
    home.rebuild_as_replica_of(peer);
    site.is(HOME, STANDBY_AT_HOME);
    site.enrolled(HOME);
    let (here, across) = (site.buyers(PEER, 1000), site.buyers(HOME, 1_000_000));
    within(LONG, "orders come in on both sides", || {
        let counts = (here.accepted().len(), across.accepted().len());
        if counts.0 > 5 && counts.1 > 5 { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    // Pools that keep their sessions with the owner, on both sides.
    let [over_there, at_home] = [PEER, HOME].map(|from| Session::open(ways[from][PEER].port, &site.databases[PEER]));
    site.command(PEER, &["fence", "close", "--detach", "--for", "20m", "--reason", "failback"]);
    site.is(PEER, "OWNER writer=none page=503 region=503 promoted=200");
    site.is(HOME, "STANDBY writer=none page=200 region=200 promoted=503");
    let close = |site: &Site, what: &str, is: &dyn Fn(&Value) -> bool| {
        site.shows_that(PEER, what, |shown| {
            let close = &shown["close"];
            let nobody = ["open", "silent"].map(|who| close["progress"][who].as_array().is_some_and(Vec::is_empty));
            nobody == [true; 2] && is(close)
        });
    };
    let is_held = |sessions: u32| {
        move |close: &Value| {
            let progress = &close["progress"];
            let is_told = progress["other_stopped"] == false && progress["sessions"] == sessions;
            is_told && close["promote_now"] == false
        }
    };
    close(&site, "both pools hold it up", &is_held(1));
    drop(over_there);
    close(&site, "the pool across holds it up", &is_held(0));
    // A new life of the agent, which never saw the writer that the pool is with.
    site.restart(HOME);
    within(LONG, "it counts the pool again", || {
        let told = outcome(&site.groups[HOME][0].command(&["explain", "repoint"]));
        if told.contains("1 connections of this instance") { Ok(()) } else { Err(told) }
    });
    let began = site.databases[PEER].sql("SELECT UTC_TIMESTAMP(6)");
    within(LONG, "two rounds have passed", || {
        let beats = "SELECT at > '{began}' + INTERVAL 2 SECOND FROM dr_agent.heartbeat WHERE region = '{region}'";
        let beats = beats.replace("{began}", &began).replace("{region}", NAMES[PEER]);
        if site.databases[PEER].sql(&beats) == "1" { Ok(()) } else { Err(site.log()) }
    });
    close(&site, "it holds it up still", &is_held(0));
    drop(at_home);
    close(&site, "the pools are gone", &|close| close["promote_now"] == true);
    let [home, peer] = &site.databases;
    home.catch_up(peer);
    site.databases[HOME].promote_as_rds();
    site.is(HOME, OWNER_AT_HOME);
    site.is(PEER, FENCED_AT_PEER);
    assert_eq!(site.epochs(HOME), ["1 home init", "2 peer promotion", "3 home promotion"]);
    let accepted: Vec<_> = [here.stop(), across.stop()].concat();
    let kept = site.orders(HOME);
    let lost: Vec<_> = accepted.iter().filter(|number| !kept.contains(number)).collect();
    assert!(lost.is_empty() && kept.contains(&1), "{lost:?} were accepted and are lost");

    // The other one is rebuilt in its turn, and all is as it was at first.
    let [home, peer] = &mut site.databases;
    peer.rebuild_as_replica_of(home);
    site.is(PEER, STANDBY_AT_PEER);
    site.enrolled(PEER);
    site.order(PEER, 2).expect("an order across");
}
