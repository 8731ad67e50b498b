//! Groups of real agents, each on an instance of its own, with AWS as far as moto goes: who is marked for replacement, and
//! what the others say.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::aws_proxy::AwsProxy;
use crate::support::fleet::{Fleet, Instance, OUTSIDE};
use crate::support::moto::Moto;
use crate::support::{eventually, repository, within};

/// A fault lasts, three repairs are tried 40 s apart, a new member's first cooldown passes.
const A_WHILE: Duration = Duration::from_secs(240);

/// A group of agents that may replace, all of them heard by all.
struct Group {
    fleet: Fleet,
    proxy: AwsProxy,
    moto: Moto,
}

impl Group {
    /// `zones` has one letter for each instance. Limits as short as they may be; `extra` TOML is everybody's.
    fn start(zones: &str, source: &str, extra: &str) -> Self {
        let moto = Moto::start();
        let size = u32::try_from(zones.len()).unwrap();
        moto.group("web", size);
        // The instances are as young as the test.
        moto.call("autoscaling", "UpdateAutoScalingGroup", "AutoScalingGroupName=web&HealthCheckGracePeriod=10");
        let mut fleet = Fleet::new();
        source.clone_into(&mut fleet.source);
        let proxy = AwsProxy::on(fleet.network.listen(&format!("{OUTSIDE}:8000")), moto.port);
        fleet.use_aws(&proxy);
        let key = fleet.put("group.key", &format!("{}\n", "5".repeat(64)), 0o600);
        fleet.top = format!("key_file = \"{}\"\n", key.display());
        fleet.extra = format!(
            "[replace]\nmode = \"enforce\"\nsustain = \"10s\"\ncooldown = \"60s\"\n[verdict]\nhold_efs = \"20s\"\n{extra}"
        );
        let mut group = Self { fleet, proxy, moto };
        for ((id, _, address), zone) in group.moto.places().into_iter().zip(zones.chars()) {
            let zone = format!("us-east-1{zone}");
            group.proxy.place(&id, &zone);
            group.fleet.launch(&id, &zone, &address);
        }
        for number in 0..zones.len() {
            group.fleet.start_agent(number);
        }
        group.all_hear_all();
        group
    }

    fn all_hear_all(&self) {
        let others = self.fleet.instances.len() - 1;
        for instance in &self.fleet.instances {
            // They ask AWS for each other within a minute of their start, and half a minute after a question that failed.
            within(Duration::from_secs(150), "everybody is heard and well", || {
                let report = instance.report()?;
                let votes = members(&report).filter(|member| member["votes"]["efs"] == "healthy").count();
                if votes == others { Ok(()) } else { Err(format!("{report:#}\n{}", instance.log())) }
            });
        }
    }

    fn marks(&self) -> usize {
        self.proxy.count("SetInstanceHealth")
    }

    fn log(&self) -> String {
        let logs = self.fleet.instances.iter().map(|instance| format!("{}:\n{}", instance.id, instance.log()));
        logs.collect::<Vec<_>>().concat()
    }
}

impl Drop for Group {
    /// Whatever was called, the role may call.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let policy: Value =
            serde_json::from_slice(&fs::read(repository().join("packaging/iam/agent-policy.json")).unwrap()).unwrap();
        let allowed: BTreeSet<_> = policy["Statement"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|statement| match &statement["Action"] {
                Value::Array(actions) => actions.clone(),
                action => vec![action.clone()],
            })
            .filter_map(|action| Some(action.as_str()?.split_once(':')?.1.to_owned()))
            .collect();
        let called: BTreeSet<_> = self.proxy.actions().into_iter().collect();
        assert!(called.is_subset(&allowed), "{:?} is not in the policy", called.difference(&allowed));
    }
}

fn members(report: &Value) -> impl Iterator<Item = &Value> {
    report["group"]["members"].as_array().into_iter().flatten()
}

fn efs(report: &Value) -> Value {
    let all = report["components"].as_array();
    all.and_then(|all| all.iter().find(|one| one["name"] == "efs")).cloned().unwrap_or_default()
}

/// Waits until the fault of its mount is in this domain, and its two answers are these.
fn settles(instance: &Instance, domain: &str, instance_code: u16, region_code: u16) {
    within(Duration::from_secs(90), &format!("{} says {domain}", instance.id), || {
        let report = instance.report()?;
        let codes = (&report["verdicts"]["instance"]["code"], &report["verdicts"]["region"]["code"]);
        if efs(&report)["domain"] == domain && *codes.0 == instance_code && *codes.1 == region_code {
            Ok(())
        } else {
            Err(format!("{report:#}\n{}", instance.log()))
        }
    });
}

/// Waits until its plan refuses with this among the reasons, after the repairs were tried.
fn is_refused(instance: &Instance, refusal: &str) {
    within(A_WHILE, &format!("{} refuses: {refusal}", instance.id), || {
        let report = instance.report()?;
        let plan = report["replacement"].to_string();
        if plan.contains(refusal) && !plan.contains("NotSustained") {
            Ok(())
        } else {
            Err(format!("{plan}\n{}", instance.log()))
        }
    });
}

#[test]
fn of_four_the_one_with_a_frozen_mount_is_replaced_once_and_alone() {
    let mut group = Group::start("aabb", "fs-0abc12345", "");
    group.fleet.instances[1].freeze_efs();
    settles(&group.fleet.instances[1], "local", 503, 200);
    let id = group.fleet.instances[1].id.clone();
    within(A_WHILE, "it is marked", || if group.marks() > 0 { Ok(()) } else { Err(group.log()) });
    eventually("Auto Scaling knows", || {
        let health = group.moto.health(&id);
        if health == "Unhealthy" { Ok(()) } else { Err(health) }
    });
    for (number, instance) in group.fleet.instances.iter().enumerate() {
        assert_eq!(instance.public().get("/health/region").unwrap().status, 200, "{number}");
        assert_eq!(group.moto.health(&instance.id) == "Unhealthy", number == 1);
    }
    // The others keep the record, and a new agent hears of it.
    let before: BTreeSet<_> = group.moto.places().into_iter().map(|(id, ..)| id).collect();
    group.moto.replace(&id);
    group.fleet.terminate(1);
    let (new, _, address) = eventually("another one is launched", || {
        let new = group.moto.places().into_iter().find(|(id, ..)| !before.contains(id));
        new.ok_or("none")
    });
    group.fleet.launch(&new, "us-east-1a", &address);
    group.fleet.start_agent(3);
    group.all_hear_all();
    let newcomer = &group.fleet.instances[3];
    eventually("it knows what happened", || {
        let said = group.fleet.command(newcomer, &["history", "--group"]);
        if said.contains(&id) && said.contains("efs-hung") {
            Ok(())
        } else {
            Err(format!("{said}\n{}", newcomer.log()))
        }
    });
    assert_eq!(group.marks(), 1, "{}", group.log());
}

#[test]
fn when_the_mounts_of_all_freeze_nobody_is_replaced_and_the_region_closes() {
    let group = Group::start("aabb", "fs-0abc12345", "");
    for instance in &group.fleet.instances {
        instance.freeze_efs();
    }
    for instance in &group.fleet.instances {
        settles(instance, "shared", 200, 503);
    }
    for instance in &group.fleet.instances {
        is_refused(instance, "PeersShareIt");
    }
    assert_eq!(group.marks(), 0);
    for instance in &group.fleet.instances {
        instance.thaw_efs();
    }
    for instance in &group.fleet.instances {
        within(A_WHILE, "the region opens", || match instance.public().get("/health/region") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}\n{}", instance.log())),
        });
    }
}

#[test]
fn when_the_mounts_of_one_zone_freeze_its_instances_stand_aside_and_none_is_replaced() {
    let group = Group::start("aabb", "fs-0abc12345", "");
    let (near, far) = group.fleet.instances.split_at(2);
    for instance in near {
        instance.freeze_efs();
    }
    for instance in near {
        settles(instance, "zonal", 503, 200);
        is_refused(instance, "Zonal");
    }
    for instance in far {
        assert_eq!(instance.public().get("/health/instance").unwrap().status, 200);
    }
    assert_eq!(group.marks(), 0);
}

#[test]
fn of_two_in_two_zones_a_frozen_client_is_replaced_because_its_mount_target_answers() {
    let group = Group::start("ab", &format!("{OUTSIDE}:/"), "");
    let _target = group.fleet.network.listen(&format!("{OUTSIDE}:2049"));
    group.fleet.instances[0].freeze_efs();
    settles(&group.fleet.instances[0], "zonal", 503, 200);
    within(A_WHILE, "it is marked", || if group.marks() > 0 { Ok(()) } else { Err(group.log()) });
    eventually("Auto Scaling knows", || {
        let health = group.moto.health(&group.fleet.instances[0].id);
        if health == "Unhealthy" { Ok(()) } else { Err(health) }
    });
    assert_eq!(group.marks(), 1);
}
