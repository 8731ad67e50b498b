//! The shape of the JSON, and what names the whole.

use super::*;
use crate::health::verdict::RegionState;

/// The shape is a promise: a change here is a change of the contract (see `SCHEMA`).
#[test]
fn the_shape_of_the_json() {
    let mut report = sample::trouble(Kind::Live);
    report.components.retain(|component| matches!(component.name.as_str(), "nginx" | "efs" | "database"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
    {
      "schema": 1,
      "kind": "live",
      "at": "2026-11-24T21:42:07Z",
      "agent": {
        "version": "0.0.0",
        "instance": "i-0123456789abcdef0",
        "region": "ap-south-1",
        "deployment": "shop-prod",
        "boot": "b00t",
        "generation": 4711,
        "age_ms": 312,
        "config_problems": [
          "/etc/dr-agent/agent.toml:12: `probe.nginx.interval = 5`: a duration needs a unit: write \"5s\" or \"5ms\""
        ]
      },
      "components": [
        {
          "name": "nginx",
          "status": "healthy",
          "since": "2026-11-24T21:41:35.001Z",
          "domain": null,
          "cause": null,
          "words": null,
          "detail": null,
          "hint": null,
          "stages": [
            {
              "name": "connect",
              "ms": 0.18
            },
            {
              "name": "headers",
              "ms": 0.91
            },
            {
              "name": "body",
              "ms": 0.04
            }
          ],
          "took_ms": 1.13,
          "last_ok_age_ms": 4000,
          "last_fail_age_ms": null,
          "failures": 0,
          "target": "http://127.0.0.1/health/nginx",
          "facts": null
        },
        {
          "name": "efs",
          "status": "unhealthy",
          "since": "2026-11-24T21:41:45.999Z",
          "domain": "shared",
          "cause": "efs-hung",
          "words": "efs does not answer: file operations hang",
          "detail": "/mnt/efs: child 4242 has been in `open` for 21 s and cannot be killed",
          "hint": "if other instances are well, remount it here (`umount -l`, then mount); if not, look at the file system and its mount targets",
          "stages": [
            {
              "name": "mountinfo",
              "ms": 0.13
            },
            {
              "name": "open",
              "ms": 2999.0
            }
          ],
          "took_ms": 2999.13,
          "last_ok_age_ms": 28000,
          "last_fail_age_ms": 1000,
          "failures": 6,
          "target": "/mnt/efs fs-0123456789abcdef0",
          "facts": {
            "fs_type": "nfs4",
            "hung_child": null,
            "hung_seconds": null,
            "of": "efs",
            "read_only": false,
            "source": "fs-0123456789abcdef0"
          }
        },
        {
          "name": "database",
          "status": "degraded",
          "since": "2026-11-24T21:41:55.73Z",
          "domain": null,
          "cause": "database-slow",
          "words": "database is slow",
          "detail": "shop.abc123.ap-south-1.rds.amazonaws.com:3306: 730 ms, the limit is 500 ms",
          "hint": "see the stage that takes long, and the server's load",
          "stages": [
            {
              "name": "query",
              "ms": 730.0
            }
          ],
          "took_ms": 730.0,
          "last_ok_age_ms": 4000,
          "last_fail_age_ms": null,
          "failures": 0,
          "target": "shop.abc123.ap-south-1.rds.amazonaws.com:3306",
          "facts": {
            "of": "database",
            "read_only": false,
            "replica": [],
            "server": "uuid-1",
            "super_read_only": null,
            "tls": null,
            "version": "8.4.2"
          }
        }
      ],
      "verdicts": {
        "instance": {
          "code": 503,
          "state": "draining",
          "since": "2026-11-24T21:41:38Z",
          "reasons": [],
          "can_serve": true
        },
        "region": {
          "code": 200,
          "state": "open",
          "since": "2026-11-24T21:41:38Z",
          "holds": [
            {
              "on": "efs",
              "since_seconds": 21,
              "due_in_seconds": 39
            }
          ],
          "reopens_in_seconds": null
        },
        "promoted": {
          "code": 503,
          "state": "not-promoted"
        }
      },
      "latches": [
        {
          "kind": "drain",
          "reason": "deploy 42",
          "by": "alice",
          "at": "2026-11-24T21:41:07Z",
          "until": "2026-11-24T22:41:07Z",
          "clear": "dr-agent undrain",
          "file": "/var/lib/dr-agent/latches/drain.json"
        }
      ],
      "gate": "open",
      "acts": {
        "instance": "the load balancer stops sending it requests, unless no instance passes: then it sends to all",
        "region": "Route 53 keeps this region's record",
        "promoted": "nobody: Route 53 asks it of the peer region only",
        "replacement": "efs-hung: not replaced: NotEnforcing: `replace.mode` is `observe`, or there is no usable `key_file`: it is only counted; Draining: the instance drains: whoever drains it looks after it; PeersShareIt: no other member is known to be free of the same fault; counted so far as one that would have been replaced: 1"
      },
      "replacement": {
        "plan": "refused",
        "refusals": [
          "NotEnforcing",
          "Draining",
          "PeersShareIt"
        ],
        "words": "efs-hung: not replaced: NotEnforcing: `replace.mode` is `observe`, or there is no usable `key_file`: it is only counted; Draining: the instance drains: whoever drains it looks after it; PeersShareIt: no other member is known to be free of the same fault; counted so far as one that would have been replaced: 1",
        "enforce": false,
        "would": 1
      },
      "works": [
        "`/health/instance` for the load balancer: from nginx, app, efs, database, host",
        "`/health/region` for Route 53: from efs and database, and whether anybody can serve"
      ],
      "missing": [],
      "certificates": []
    }
    "#);
}

#[test]
fn what_is_written_reads_back_the_same_and_a_newer_agent_may_say_more() {
    for report in [sample::trouble(Kind::Live), sample::well(Kind::Check, "us-east-1")] {
        let mut json = serde_json::to_value(&report).unwrap();
        assert_eq!(serde_json::from_value::<Report>(json.clone()).unwrap(), report);
        json["agent"]["new_field"] = 1.into();
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}

#[test]
fn the_worst_thing_names_the_whole() {
    let well = sample::well(Kind::Live, "ap-south-1");
    assert_eq!(well.overall(), Status::Healthy);
    assert_eq!(sample::trouble(Kind::Live).overall(), Status::Unhealthy);
    let with = |change: fn(&mut Report)| {
        let mut report = well.clone();
        change(&mut report);
        report.overall()
    };
    assert_eq!(with(|r| r.components[0].status = Status::Degraded), Status::Degraded);
    assert_eq!(with(|r| r.components[0].status = Status::Unknown), Status::Unknown);
    assert_eq!(with(|r| r.agent.config_problems.push("x".to_owned())), Status::Degraded);
    assert_eq!(with(|r| r.agent.age_ms = Some(10_001)), Status::Unknown);
    assert_eq!(with(|r| r.gate = Gate::Closed), Status::Unhealthy);
    assert_eq!(with(|r| r.verdicts.region.state = RegionState::Closed), Status::Unhealthy);
    assert_eq!(with(|r| r.verdicts.instance.state = InstanceState::Starting), Status::Unknown);
    assert_eq!(with(|r| r.verdicts.instance.state = InstanceState::Draining), Status::Healthy);
}
