//! Groups of real agents, each on an instance of its own: who is replaced, and what the others say.

use crate::support::eventually;
use crate::support::fleet::Fleet;

/// What the instances of a group know of each other without AWS: what they were told when it answered last.
fn tell_members(fleet: &Fleet, members: &[(&str, &str, &str)]) {
    let members: Vec<_> = members
        .iter()
        .map(|(instance, zone, address)| serde_json::json!({"instance": instance, "zone": zone, "address": address}))
        .collect();
    let text = serde_json::json!({"version": 1, "group": "web", "at": "2026-11-25T00:00:00Z", "members": members});
    for instance in &fleet.instances {
        std::fs::write(instance.state_dir().join("members.json"), text.to_string()).unwrap();
    }
}

#[test]
fn of_four_the_one_with_a_frozen_mount_is_local() {
    let members = [
        ("i-0000000000000000a", "ap-south-1a", "10.0.1.10"),
        ("i-0000000000000000b", "ap-south-1a", "10.0.1.11"),
        ("i-0000000000000000c", "ap-south-1b", "10.0.2.10"),
        ("i-0000000000000000d", "ap-south-1b", "10.0.2.11"),
    ];
    let mut fleet = Fleet::new();
    fleet.extra = "[region.ap-south-1]\nefs = \"fs-0abc12345\"\n".to_owned();
    for (id, zone, address) in members {
        fleet.launch(id, zone, address);
    }
    tell_members(&fleet, &members);
    for number in 0..members.len() {
        fleet.start_agent(number);
    }
    for instance in &fleet.instances {
        eventually("the others are heard", || {
            let report = instance.report()?;
            let heard = report["group"]["members"]
                .as_array()
                .map_or(0, |members| members.iter().filter(|member| member["votes"]["efs"] == "healthy").count());
            if heard == 3 { Ok(()) } else { Err(format!("{report:#}\n{}", instance.log())) }
        });
    }
    fleet.instances[0].freeze_efs();
    eventually("its fault is local", || {
        let report = fleet.instances[0].report()?;
        let efs = report["components"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "efs")).cloned();
        let domain = efs.as_ref().map(|efs| efs["domain"].clone());
        let code = report["verdicts"]["instance"]["code"].clone();
        if domain == Some("local".into()) && code == 503 { Ok(()) } else { Err(format!("{report:#}")) }
    });
    for instance in &fleet.instances {
        assert_eq!(instance.public().get("/health/region").unwrap().status, 200);
    }
    fleet.instances[0].thaw_efs();
    eventually("it is well", || match fleet.instances[0].public().get("/health/instance") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
