//! The page as a person sees it.

use super::*;
use crate::bootstrap::Record;
use crate::report::items::Item;
use crate::report::sample;

fn plain(report: &Report) -> String {
    anstream::adapter::strip_str(&super::report(report, &TimeZone::UTC)).to_string()
}

#[test]
fn all_is_well() {
    let mut report = sample::well(Kind::Check, "ap-south-1");
    report.agent.probed_as = Some("user `dr-agent`".to_owned());
    insta::assert_snapshot!(plain(&report), @r"
    healthy  everything that is watched works

    shop-prod, i-0123456789abcdef0, ap-south-1
    looked once as user `dr-agent`, 2026-11-24 21:42:07 +00:00

    Components
      nginx     healthy          1.1 ms  connect 0.2, headers 0.9
      app       healthy          1.1 ms  connect 0.2, headers 0.9
      efs       healthy         10.9 ms  mountinfo 0.1, open 2.4, write 5.1, read 3.3
      database  healthy          0.8 ms  query 0.8
      host      healthy          0.0 ms
      wiring    healthy          0.0 ms
      queue     healthy          0.0 ms

    Verdicts as the agent would give them after this look, and who would act on them
      instance  200 serving       the load balancer sends it requests
      region    200 open          Route 53 keeps this region's record
      promoted  503 not-promoted  nobody: Route 53 asks it of the peer region only
      replaced  no                nothing is unhealthy here

    What works now
      `/health/instance` for the load balancer: from nginx, app, efs, database, host
      `/health/region` for Route 53: from efs and database, and whether anybody can serve
    ");
}

#[test]
fn the_page_of_three_in_the_morning() {
    let mut report = sample::trouble(Kind::Check);
    report.agent.probed_as = Some("user `dr-agent`".to_owned());
    report.live = Some(Box::new(sample::well(Kind::Live, "ap-south-1")));
    insta::assert_snapshot!(plain(&report), @r#"
    UNHEALTHY  this instance is draining; efs does not answer: file operations hang; app does not answer
               in time; database is slow; the configuration is not as it should be

    shop-prod, i-0123456789abcdef0, ap-south-1
    looked once as user `dr-agent`, 2026-11-24 21:42:07 +00:00

    Configuration
      /etc/dr-agent/agent.toml:12: `probe.nginx.interval = 5`: a duration needs a unit: write "5s" or
        "5ms"
      hint: correct the file, see `dr-agent config check`, then `systemctl reload dr-agent`

    Latches
      drain     by alice at 2026-11-24 21:41:07 +00:00 until 2026-11-24 22:41:07 +00:00: deploy 42
                hint: `dr-agent undrain` ends it; so does removing /var/lib/dr-agent/latches/drain.json

    Components
      nginx     healthy          1.1 ms  connect 0.2, headers 0.9
      app       UNHEALTHY     1000.0 ms  connect 0.2, headers 999.8 <- here
                app does not answer in time
                http://127.0.0.1/ (Host shop.example.com): no answer within 1 s
                the running agent says: healthy, for 7 s
                hint: see the app's log and nginx's upstream timings
      efs       UNHEALTHY     2999.1 ms  mountinfo 0.1, open 2999.0 <- here
                efs does not answer: file operations hang
                /mnt/efs: child 4242 has been in `open` for 21 s and cannot be killed
                the running agent says: healthy, for 7 s
                hint: if other instances are well, remount it here (`umount -l`, then mount); if not,
                      look at the file system and its mount targets
      database  degraded       730.0 ms  query 730.0
                database is slow
                shop.abc123.ap-south-1.rds.amazonaws.com:3306: 730 ms, the limit is 500 ms
                the running agent says: healthy, for 8 s
                hint: see the stage that takes long, and the server's load
      host      healthy          0.0 ms
      wiring    healthy          0.0 ms
      queue     healthy          0.0 ms

    Verdicts as the agent would give them after this look, and who would act on them
      instance  503 draining      the load balancer stops sending it requests, unless no instance
                                  passes: then it sends to all
      region    200 open          Route 53 keeps this region's record
                                  efs fails and no member passes, for 21 s: closes in 39 s if that stays
      promoted  503 not-promoted  nobody: Route 53 asks it of the peer region only
      replaced  no                nothing is unhealthy here
      the running agent answers instance 200 serving: it remembers more than this one look, see
      `dr-agent explain`

    What works now
      `/health/instance` for the load balancer: from nginx, app, efs, database, host
      `/health/region` for Route 53: from efs and database, and whether anybody can serve
    "#);
}

#[test]
fn a_newcomer_without_a_file() {
    insta::assert_snapshot!(plain(&sample::newcomer()), @r"
    healthy  everything that is watched works

    default, i-0123456789abcdef0, region unknown
    looked once, 2026-11-24 21:42:07 +00:00

    Components
      nginx     healthy          1.1 ms  connect 0.2, headers 0.9
      host      healthy          0.0 ms
      wiring    healthy          0.0 ms

    Verdicts as the agent would give them after this look, and who would act on them
      instance  200 serving       the load balancer sends it requests
      region    200 open          Route 53 if it checks this path; with one region there is nowhere to
                                  fail over to
      promoted  503 not-promoted  nobody: with one region, or without a database, promotion and fencing
                                  are off
      replaced  no                nothing is unhealthy here

    What works now
      `/health/instance` for the load balancer: from nginx, host
      `/health/region` for Route 53: from whether anybody can serve, nothing else

    What is missing, and what that costs
      no configuration file is in force
        costs: built-in defaults apply, so only nginx and the host are watched, and nobody looks
          whether nginx hands the health paths to the agent
        hint: edit /etc/dr-agent/agent.toml, then `dr-agent config check`
      no [probe.app]
        costs: a site that fails behind a well nginx looks healthy
        hint: add the table, with the site's `host`
      no [probe.efs]
        costs: a shared mount that hangs or is not there is not seen
        hint: add the table, with the mount's `path`, if there is one
      no [probe.database]
        costs: a database that fails is not seen
        hint: add the table, with `user` and `password_file`, and the endpoint in [region.NAME]
      with one region, or without a database, promotion and fencing are off
        costs: `/health/promoted` answers 503, and nothing takes over from another region
        hint: nothing to do if that is meant
    ");
}

#[test]
fn the_running_agent_in_trouble() {
    insta::assert_snapshot!(plain(&sample::trouble(Kind::Live)), @r#"
    UNHEALTHY  this instance is draining; efs does not answer: file operations hang; app does not answer
               in time; database is slow; the configuration is not as it should be

    shop-prod, i-0123456789abcdef0, ap-south-1
    agent 0.0.0, generation 4711, 0.3 s old, 2026-11-24 21:42:07 +00:00

    Configuration
      /etc/dr-agent/agent.toml:12: `probe.nginx.interval = 5`: a duration needs a unit: write "5s" or
        "5ms"
      hint: correct the file, see `dr-agent config check`, then `systemctl reload dr-agent`

    Latches
      drain     by alice at 2026-11-24 21:41:07 +00:00 until 2026-11-24 22:41:07 +00:00: deploy 42
                hint: `dr-agent undrain` ends it; so does removing /var/lib/dr-agent/latches/drain.json

    Components
      nginx     healthy    for 31 s            1.1 ms  connect 0.2, headers 0.9
      app       UNHEALTHY  for 15 s         1000.0 ms  connect 0.2, headers 999.8 <- here
                app does not answer in time
                http://127.0.0.1/ (Host shop.example.com): no answer within 1 s
                hint: see the app's log and nginx's upstream timings
      efs       UNHEALTHY  for 21 s         2999.1 ms  mountinfo 0.1, open 2999.0 <- here
                efs does not answer: file operations hang
                /mnt/efs: child 4242 has been in `open` for 21 s and cannot be killed
                hint: if other instances are well, remount it here (`umount -l`, then mount); if not,
                      look at the file system and its mount targets
      database  degraded   for 11 s          730.0 ms  query 730.0
                database is slow
                shop.abc123.ap-south-1.rds.amazonaws.com:3306: 730 ms, the limit is 500 ms
                hint: see the stage that takes long, and the server's load
      host      healthy    for 32 s            0.0 ms
      wiring    healthy    for 32 s            0.0 ms
      queue     healthy    for 32 s            0.0 ms

    Verdicts, and who acts on them
      instance  503 draining      the load balancer stops sending it requests, unless no instance
                                  passes: then it sends to all
      region    200 open          Route 53 keeps this region's record
                                  efs fails and no member passes, for 21 s: closes in 39 s if that stays
      promoted  503 not-promoted  nobody: Route 53 asks it of the peer region only
      replaced  no                efs-hung: not replaced: NotEnforcing: `replace.mode` is `observe`, or
                                  there is no usable `key_file`: it is only counted; Draining: the
                                  instance drains: whoever drains it looks after it; PeersShareIt: no
                                  other member is known to be free of the same fault; counted so far as
                                  one that would have been replaced: 1
    "#);
}

#[test]
fn no_line_is_wider_than_the_screen() {
    for report in [sample::trouble(Kind::Live), sample::trouble(Kind::Check), sample::well(Kind::Check, "us-east-1")] {
        for line in plain(&report).lines() {
            assert!(line.chars().count() <= crate::cli::render::WIDTH, "{line}");
        }
    }
}

#[test]
fn a_hold_says_when_it_closes_and_a_closed_region_when_it_opens() {
    let mut region = sample::well(Kind::Live, "ap-south-1").verdicts.region;
    region.holds.push(crate::report::Hold { on: "efs".to_owned(), since_seconds: 18, due_in_seconds: 42 });
    assert_eq!(holds(&region), ["efs fails and no member passes, for 18 s: closes in 42 s if that stays"]);
    region.holds.clear();
    region.code = 503;
    region.reopens_in_seconds = Some(30);
    assert_eq!(holds(&region), ["opens in 30 s if nothing closes it again"]);
}

#[test]
fn what_the_bootstrap_left_undone_is_said_with_what_to_do() {
    let mut report = sample::well(Kind::Check, "ap-south-1");
    let ago = |seconds: i64| report.at.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap();
    let items = vec![
        Item::well("region", "ap-south-1"),
        Item::degraded("secrets", "no password file; the instance has no tag", "write it"),
        Item::unhealthy("mount", "/mnt/efs is not mounted: refused", "allow TCP 2049"),
    ];
    let mut record = Record { began: ago(70), ended: Some(ago(40)), items };
    report.bootstrap = Some(record.clone());
    assert_eq!(report.overall(), Status::Degraded);
    let page = plain(&report);
    assert!(page.starts_with("degraded  the bootstrap of this boot failed: mount\n"), "{page}");
    let part = page.split_once("\nBootstrap\n").unwrap().1.split_once("\n\n").unwrap().0;
    insta::assert_snapshot!(part, @r"
    secrets  degraded   no password file; the instance has no tag
                        hint: write it
    mount    UNHEALTHY  /mnt/efs is not mounted: refused
                        hint: allow TCP 2049
    ");

    // It is tried again: what it failed at stands until that ended.
    record.ended = None;
    report.bootstrap = Some(record.clone());
    let page = plain(&report);
    assert!(page.contains("is at work since") && page.contains("/mnt/efs is not mounted"), "{page}");
    record.began = ago(600);
    report.bootstrap = Some(record.clone());
    assert!(plain(&report).contains("was ended before it was done"));

    record.ended = Some(ago(500));
    report.bootstrap = Some(record.clone());
    let page = plain(&report);
    assert!(page.contains("bootstrap of this boot failed: mount") && !page.contains("was ended before"), "{page}");

    // Nothing to say.
    record.items.truncate(1);
    report.bootstrap = Some(record);
    assert!(!plain(&report).contains("Bootstrap"));
    assert_eq!(report.overall(), Status::Healthy);
}
