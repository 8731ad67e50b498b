//! From the first row to a promotion while the old primary lives.

use std::fs;

use serde_json::Value;

use super::*;
use crate::support::ask::Target;
use crate::support::aws_proxy::{AwsProxy, Fault};
use crate::support::regions::{LONG, NAMES};
use crate::support::{eventually, within};

#[test]
fn before_init_nothing_changes_and_init_cuts_no_session() {
    let mut site = Site::build([1, 1]);
    // A proxy that leads home, as the app's files do: touched without need it would end the session.
    let port = site.groups[HOME][0].add_proxy();
    site.grant();
    site.bootstrap();
    let mut session = Session::open(port, &site.databases[HOME]);
    site.groups[HOME][0].agent.scratch.called();
    site.start_agents();
    site.is(HOME, UNINITIALISED);
    site.is(PEER, UNINITIALISED);
    let env = site.groups[HOME][0].shop().files.join("database.env");
    let untouched = std::fs::read_to_string(&env).unwrap();
    let users = Users::of(&site.groups[HOME][0].nginx);
    // A restart and a promotion are nothing to agents that nobody has asked.
    site.restart(HOME);
    site.is(HOME, UNINITIALISED);
    assert_eq!(std::fs::read_to_string(&env).unwrap(), untouched);
    assert!(site.epochs(HOME).is_empty());

    site.init();
    assert_eq!(site.epochs(HOME), ["1 home init"]);
    assert!(users.answers(50).iter().all(|code| *code == 200), "nothing was closed at any time");
    assert_eq!(site.groups[HOME][0].agent.scratch.called(), "", "the proxy was told nothing");
    assert!(session.lives(&site.databases[HOME]), "and no session was cut");
    let again = site.groups[HOME][0].command(&["authority", "init", "--reason", "once more"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("AlreadyInitialised"));
}

/// As an operator wrote it: the root helper cannot tell where it leads.
#[test]
fn init_takes_no_writer_from_an_app_whose_outputs_nobody_can_read() {
    let mut site = Site::build([1, 1]);
    site.grant();
    for instance in site.groups.iter().flatten() {
        let files = instance.shop().files;
        fs::write(files.join("database.env"), "DATABASE_URL=mysql://db.example/shop\n").unwrap();
        fs::write(files.join("database.json"), "{\"url\": \"mysql://db.example/shop\"}\n").unwrap();
    }
    site.start_agents();
    site.init();
    for instance in site.groups.iter().flatten() {
        let log = instance.agent.log();
        let cuts: Vec<_> =
            log.lines().filter(|line| line.contains("write nowhere") && line.contains("epoch=1")).collect();
        assert!(cuts.is_empty(), "{cuts:?}");
    }
}

#[test]
fn a_promotion_is_claimed_once_and_the_old_region_is_closed() {
    let mut site = Site::initialised([1, 2]);
    site.enrolled(PEER);
    site.order(HOME, 1).expect("an order at home");
    site.order(PEER, 2).expect("an order at the peer, which writes across");
    site.databases[PEER].catch_up(&site.databases[HOME]);

    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    assert_eq!(site.epochs(PEER), ["1 home init", "2 peer promotion"], "two agents, one row");
    site.is(HOME, FENCED);
    let page = Target::port(site.groups[HOME][0].nginx.port).get("/").expect("an answer");
    assert_eq!((page.status, page.header("Retry-After")), (503, Some("30")), "{page:?}");
    let recorded = site.databases[HOME].sql("SELECT epoch, by_epoch FROM dr_agent.superseded");
    assert_eq!(recorded, "1\t2");
    site.order(PEER, 3).expect("an order at the new owner");
    assert_eq!(site.orders(PEER), [1, 2, 3]);
    assert_eq!(site.orders(HOME), [1, 2], "nothing was written to the old one");

    // Nobody writes to the old one while the new one is looked at.
    let log = site.groups[HOME][0].agent.log();
    let cut = log.find("writer=\"none\" epoch=2").expect("the app at home is to write nowhere");
    assert!(log.find(&format!("writer=\"{}\" epoch=2", NAMES[PEER])).is_none_or(|led| cut < led), "{log}");

    // Each side has written down what it saw, and says so once.
    let new_owner = ["proven", "known", "took_over", "repointed", "verified", "opened"];
    let [home, peer] = NAMES;
    for (region, headline, steps) in [
        (PEER, format!("{peer} took over from {home}: epoch 2 after 1"), &new_owner[1..]),
        (HOME, format!("{home} was superseded by {peer}: epoch 2 after 1"), &["known", "closed", "stopped"]),
    ] {
        let agent = &site.groups[region][0];
        let failovers = within(LONG, "the record is whole", || {
            let told: Value =
                serde_json::from_slice(&agent.command(&["history", "--failovers", "--format", "json"]).stdout)
                    .map_err(|error| error.to_string())?;
            let seen = &told[0]["seen"];
            if steps.iter().all(|step| seen[step].is_string()) { Ok(told) } else { Err(told.to_string()) }
        });
        assert_eq!(failovers.as_array().map(Vec::len), Some(1), "{failovers:#}");
        let history = String::from_utf8(agent.command(&["history"]).stdout).unwrap();
        let entries: Vec<_> = history.lines().filter(|line| line.contains("failover")).collect();
        assert!(entries.len() == 1 && entries[0].contains(&format!("1/{home} -> 2/{peer}")), "{history}");
        let log = agent.agent.log();
        assert_eq!(log.matches(&headline).count(), 1, "{log}");
    }

    // Who looks while the agent is dead sees the same, read now.
    site.groups[HOME][0].agent.kill();
    let output = site.groups[HOME][0].command(&["check"]);
    let page = String::from_utf8(output.stdout).unwrap();
    let whose = page.split("Who owns the data").nth(1).unwrap_or_default();
    let is_told = page.contains("What happened to this region") && whose.contains(&format!("epoch 2 of {peer}"));
    assert!(is_told && whose.contains("SUPERSEDED"), "{page}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_aws_that_hangs_is_waited_for_by_nobody() {
    let aws = AwsProxy::start(crate::support::regions::NOBODY);
    aws.fail("", Fault::Hang);
    let mut site = Site::build([1, 1]);
    site.variables.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    site.variables.push(("AWS_ENDPOINT_URL".to_owned(), aws.endpoint()));
    site.grant();
    site.start_agents();
    site.init();
    site.enrolled(PEER);
    // What stands in the tags cannot be read, and is asked for again and again before they are written: the heart beats
    // meanwhile, and people are obeyed.
    let beat = || site.databases[HOME].sql("SELECT at FROM dr_agent.heartbeat");
    for _ in 0..3 {
        let (before, at) = (aws.count("DescribeAutoScalingGroups"), beat());
        eventually("an attempt", || {
            let now = aws.count("DescribeAutoScalingGroups");
            if now > before { Ok(()) } else { Err(format!("{now} after {before}")) }
        });
        eventually("a heart beats", || if beat() == at { Err("the same") } else { Ok(()) });
        site.command(HOME, &["authority", "show"]);
    }
    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    site.is(HOME, FENCED);
}

#[test]
fn an_agent_that_is_killed_again_and_again_ends_as_if_nothing_had_been() {
    let mut site = Site::initialised([1, 2]);
    site.enrolled(PEER);
    site.order(HOME, 1).expect("an order");
    site.databases[PEER].catch_up(&site.databases[HOME]);
    site.databases[PEER].promote_as_rds();
    // Both agents of the peer, at instants that have nothing to do with what they do.
    let mut wait = 1u64;
    for _ in 0..12 {
        for number in 0..2 {
            wait = wait * 48271 % 0x7fff_ffff;
            std::thread::sleep(std::time::Duration::from_millis(wait % 700));
            site.groups[PEER][number].kill();
            site.start_agent(PEER, number);
        }
    }
    site.is(PEER, OWNER_AT_PEER);
    site.is(HOME, FENCED);
    assert_eq!(site.epochs(PEER), ["1 home init", "2 peer promotion"]);
    // Home likewise, in the middle of being fenced or after it.
    for _ in 0..6 {
        wait = wait * 48271 % 0x7fff_ffff;
        std::thread::sleep(std::time::Duration::from_millis(wait % 700));
        site.restart(HOME);
    }
    site.is(HOME, FENCED);
    site.order(PEER, 2).expect("an order at the new owner");
    assert_eq!((site.orders(HOME), site.orders(PEER)), (vec![1], vec![1, 2]));
}

#[test]
fn a_restart_of_the_owners_agents_does_not_send_anybody_home() {
    let mut site = Site::initialised([1, 1]);
    let asked = Users::asking(&site.groups[HOME][0].nginx, "/health/promoted");
    for _ in 0..5 {
        site.restart(HOME);
        site.is(HOME, OWNER_AT_HOME);
    }
    assert!(asked.answers(200).iter().all(|code| *code == 200), "{}", site.log());
}
