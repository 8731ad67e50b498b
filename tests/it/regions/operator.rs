//! What people ask for: a close for a while, its end, a rehearsal, and a claim.

use super::*;
use crate::support::instance::outcome;
use crate::support::regions::LONG;
use crate::support::{eventually, within};

const CLOSED: &str = "OWNER writer=none page=503 region=503 promoted=200";
const DRILL: &str = "OWNER writer=home page=200 region=503 promoted=200";

fn until(site: &Site) -> String {
    site.databases[HOME].sql("SELECT kind, until FROM dr_agent.closing")
}

#[test]
fn a_close_ends_by_itself_or_by_release() {
    let mut site = Site::build([2, 1]);
    let port = site.groups[HOME][0].add_proxy();
    site.grant();
    site.start_agents();
    site.init();
    let open = |site: &Site| Session::open(port, &site.databases[HOME]);
    let ends = |site: &Site, mut session: Session| {
        eventually("the session ends", || if session.lives(&site.databases[HOME]) { Err("it lives") } else { Ok(()) });
    };
    let session = open(&site);
    let refused =
        site.groups[PEER][0].command(&["fence", "close", "--detach", "--for", "10m", "--reason", "the wrong side"]);
    assert!(!refused.status.success(), "a standby has nothing to close");
    site.command(HOME, &["fence", "close", "--detach", "--for", "25s", "--reason", "a test"]);
    site.is(HOME, CLOSED);
    ends(&site, session);
    site.is(PEER, "STANDBY writer=none page=200 region=200 promoted=503");
    site.order(PEER, 1).expect_err("it obeys the close of the other side");
    site.is(HOME, OWNER_AT_HOME);
    site.is(PEER, STANDBY_AT_PEER);

    let session = open(&site);
    site.command(HOME, &["fence", "close", "--detach", "--for", "1h", "--reason", "a test"]);
    site.is(HOME, CLOSED);
    ends(&site, session);
    // Through restarts and reboots as long as it lasts.
    site.restart(HOME);
    site.reboot(PEER);
    site.shows_that(HOME, "it is closed", |shown| shown["close"]["progress"]["until"].is_string());
    site.is(HOME, CLOSED);
    site.is(PEER, "STANDBY writer=none page=200 region=200 promoted=503");
    site.command(HOME, &["fence", "release", "--reason", "not today"]);
    site.is(HOME, OWNER_AT_HOME);
    site.is(PEER, STANDBY_AT_PEER);
    let mut session = open(&site);
    let nothing = site.groups[HOME][0].command(&["fence", "release", "--reason", "once more"]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("NothingToRelease"), "{nothing:?}");
    assert!(session.lives(&site.databases[HOME]), "what is open stays open");
    assert_eq!(site.epochs(HOME), ["1 home init"]);
}

#[test]
fn a_drill_closes_the_answer_to_route_53_and_nothing_else() {
    let site = Site::initialised([1, 1]);
    let users = Users::of(&site.groups[HOME][0].nginx);
    // It says that it is ready when it has seen that it is.
    let lacks = || outcome(&site.groups[PEER][0].command(&["status"]));
    within(LONG, "the other region is ready", || {
        let output = site.groups[HOME][0].command(&["drill", "--for", "12s", "--reason", "a rehearsal"]);
        if output.status.success() { Ok(()) } else { Err(format!("{}{}", outcome(&output), lacks())) }
    });
    site.is(HOME, DRILL);
    site.order(HOME, 1).expect("an order during the drill");
    site.order(PEER, 2).expect("one across");
    site.is(HOME, OWNER_AT_HOME);
    site.command(HOME, &["drill", "--for", "1h", "--reason", "another one"]);
    site.is(HOME, DRILL);
    site.command(HOME, &["fence", "release", "--reason", "enough"]);
    site.is(HOME, OWNER_AT_HOME);
    assert!(users.answers(50).iter().all(|code| *code == 200));
    drop(users);

    // A region whose replication stands still would not take the users well.
    site.databases[PEER].sql("STOP SLAVE");
    let drill = ["drill", "--for", "1h", "--reason", "not now", "--force"];
    within(LONG, "it is refused", || {
        let output = site.groups[HOME][0].command(&drill[..5]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("the other region is not ready to take over") {
            return Ok(());
        }
        site.groups[HOME][0].command(&["fence", "release", "--reason", "it was not known yet"]);
        Err(format!("{}{}", outcome(&output), lacks()))
    });
    site.is(HOME, OWNER_AT_HOME);
    site.command(HOME, &drill);
    site.is(HOME, DRILL);
    site.command(HOME, &["fence", "release", "--reason", "enough"]);
    site.is(HOME, OWNER_AT_HOME);
    site.databases[PEER].sql("START SLAVE");

    // A rehearsal does not end what is in force.
    site.command(HOME, &["fence", "close", "--detach", "--for", "1h", "--reason", "for real"]);
    site.is(HOME, CLOSED);
    let row = until(&site);
    let refused = site.groups[HOME][0].command(&["drill", "--for", "5m", "--reason", "by mistake"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(until(&site), row);
    site.is(HOME, CLOSED);
    site.is(PEER, "STANDBY writer=none page=200 region=200 promoted=503");
}

#[test]
fn a_promotion_that_nobody_saw_replicating_waits_for_a_person() {
    let mut site = Site::build([1, 1]);
    site.grant();
    site.start_region(HOME);
    site.tried(HOME, "authority init", &["authority", "init", "--reason", "a test"]);
    site.is(HOME, OWNER_AT_HOME);
    site.databases[PEER].catch_up(&site.databases[HOME]);
    site.databases[PEER].promote_as_rds();
    site.start_region(PEER);
    site.is(PEER, "UNCLAIMED writer=none page=200 region=200 promoted=503");
    let shown = site.shows_that(PEER, "it says why", |shown| {
        shown["summary"]["claim"].as_str().is_some_and(|words| words.starts_with("NeverSeenReplicating"))
    });
    assert!(!shown["summary"]["alarms"].as_array().unwrap().is_empty(), "{shown:#}");
    site.is(HOME, OWNER_AT_HOME);
    site.order(HOME, 1).expect("home goes on");

    let claim = ["authority", "claim", "--reason", "promoted by hand", "--yes", "claim"];
    site.command(PEER, &claim);
    site.is(PEER, OWNER_AT_PEER);
    site.is(HOME, FENCED);
    assert_eq!(site.epochs(PEER), ["1 home init", "2 peer claim"]);

    // Released by mistake it would be a claim: only who says so gets one.
    let refused = site.groups[HOME][0].command(&["fence", "release", "--reason", "let me in"]);
    assert!(!refused.status.success(), "{refused:?}");
    site.is(HOME, FENCED);
    site.command(HOME, &["fence", "release", "--reason", "we keep home's data", "--yes", "release"]);
    site.is(HOME, OWNER_AT_HOME);
    site.is(PEER, FENCED_AT_PEER);
    assert_eq!(site.epochs(HOME), ["1 home init", "3 home claim"]);
}
