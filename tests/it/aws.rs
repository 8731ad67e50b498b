//! Every call to AWS, against moto and against answers that hang, break, trickle, refuse and lie.
//!
//! The SDK takes its endpoint and credentials from the environment, which belongs to a process: so each call is made
//! by this test binary, run once more as a child.

use std::process::{Command, Stdio};

use dr_agent::aws::{self, Aws};
use dr_agent::outputs::cloudwatch::{Minute, Sample};
use jiff::{SignedDuration, Timestamp};

use crate::support::aws_proxy::{AwsProxy, Fault};
use crate::support::moto::{Moto, REGION, texts};

const CALL: &str = "DR_AGENT_TEST_CALL";

#[test]
#[ignore = "run by the other tests of this file, with an environment of its own"]
fn child() {
    dr_agent::install_crypto_provider();
    let call = std::env::var(CALL).expect("it is told what to call");
    let words: Vec<_> = call.split(' ').collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let aws = Aws::default();
    let result = runtime.block_on(async {
        match words[..] {
            ["members", group] => aws.members(REGION, group).await.map(|members| format!("{members:?}")),
            ["desired", group] => aws.desired(REGION, group).await.map(|desired| format!("{desired:?}")),
            ["look", group] => aws.look(REGION, group, Timestamp::now()).await.map(|look| format!("{look:?}")),
            ["mark", instance] => aws.mark_unhealthy(REGION, instance).await.map(|()| "marked".to_owned()),
            ["group-of", instance] => aws.group_of(REGION, instance).await.map(|group| format!("{group:?}")),
            ["group-by-tag", instance] => aws.group_by_tag(REGION, instance).await.map(|group| format!("{group:?}")),
            ["note", group, note] => aws.note_replacement(REGION, group, note).await.map(|()| "written".to_owned()),
            ["put", minutes] => {
                let dimensions = [("Deployment", "shop"), ("AutoScalingGroupName", "web")];
                let minutes = minutes_up_to_now(minutes.parse().expect("a number"));
                aws.put_metrics(REGION, "DrAgent", &dimensions, minutes.iter()).await.map(|()| "put".to_owned())
            }
            _ => panic!("unknown call {call}"),
        }
    });
    match result {
        Ok(said) => println!("ok: {said}"),
        Err(failure) => println!("failed: {} {:?} {failure}", failure.kind.name(), failure.kind),
    }
    println!("counts: {:?}", aws::calls());
}

/// So many minutes, each with eight values.
fn minutes_up_to_now(count: i64) -> Vec<Minute> {
    let sample = |name, value| Sample { name, value, is_seconds: name == "ReplicaLagSeconds" };
    let names = ["Heartbeat", "ReplicaLagSeconds", "Fenced", "RegionOpen", "InstanceHealthy", "A", "B", "C"];
    let minute = |ago: i64| Minute {
        at: Timestamp::now() - SignedDuration::from_mins(ago),
        samples: names.iter().enumerate().map(|(n, name)| sample(*name, f64::from(u8::try_from(n).unwrap()))).collect(),
    };
    (0..count).rev().map(minute).collect()
}

/// What a call came to, as `child` words it.
fn called(call: &str, environment: &[(&'static str, String)]) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this test has a file"));
    command.args(["--exact", "aws::child", "--ignored", "--nocapture"]).env(CALL, call).stdin(Stdio::null());
    for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    // No profile of whoever runs this.
    command.env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    let output = command.envs(environment.iter().map(|(name, value)| (name, value))).output().expect("run the child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_group_is_seen_marked_and_noted_as_it_is() {
    let moto = Moto::start();
    let instances = moto.group("web", 2);
    moto.group("other", 1);
    let proxy = AwsProxy::start(moto.port);
    let call = |call: &str| called(call, &proxy.environment());

    let members = call("members web");
    for instance in &instances {
        assert!(members.contains(instance), "{members}");
    }
    assert_eq!(members.matches("Member {").count(), 2, "{members}");
    assert!(members.contains("us-east-1") && members.contains("10."), "{members}");
    assert!(members.contains(r#"{("ec2:DescribeInstances", "ok"): 1}"#), "{members}");
    assert!(call("members nobody").contains("ok: []"));
    assert!(call("desired web").contains("ok: Some(2)"));
    assert!(call("desired nobody").contains("ok: None"));

    assert!(call(&format!("group-of {}", instances[0])).contains(r#"ok: Some("web")"#));
    assert!(call("group-of i-0123456789abcdef0").contains("ok: None"));
    assert!(call(&format!("group-by-tag {}", instances[1])).contains(r#"ok: Some("web")"#));

    assert!(call("note web 2026-11-25T09:00:00Z").contains("ok: written"));
    moto.tag("web", "dr-agent:replace", "off");
    assert!(call(&format!("mark {}", instances[0])).contains("ok: marked"));
    assert_eq!(proxy.count("SetInstanceHealth"), 1);
    let look = call("look web");
    assert!(look.contains(&format!(
        r#"LookMember {{ instance: "{}", lifecycle: "InService", healthy: false }}"#,
        instances[0]
    )));
    assert!(look.contains("desired: 2") && look.contains("stopped_by_tag: true"), "{look}");
    assert!(look.contains(r#"last_replacement: Some("2026-11-25T09:00:00Z")"#), "{look}");
    assert!(look.contains(r#"health_check_types: ["EC2"], grace: 300s"#), "{look}");
    assert!(look.contains("is_refreshing: false"), "{look}");
    assert!(call("look nobody").contains("ok: None"));
}

/// Nothing outlasts its deadline, and nobody is left guessing what kind of failure it was.
#[test]
fn each_way_to_fail_is_told_apart() {
    let moto = Moto::start();
    moto.group("web", 1);
    let proxy = AwsProxy::start(moto.port);
    let faults = [
        (Fault::Hang, "failed: timeout"),
        (Fault::Trickle, "failed: timeout"),
        (Fault::Reset, "failed: unreachable"),
        (Fault::Truncated, "failed: unreachable"),
        (Fault::Status(500), "failed: refused Service { code: \"HTTP 500\""),
        (Fault::Throttle, "failed: throttled"),
        (Fault::Refuse("AccessDenied"), "failed: denied"),
        (Fault::Refuse("ExpiredToken"), "failed: no-credentials"),
        (Fault::Refuse("ValidationError"), "failed: refused Service { code: \"ValidationError\""),
    ];
    for (fault, expected) in faults {
        proxy.fail("DescribeAutoScalingInstances", fault.clone());
        let said = called("group-of i-0123456789abcdef0", &proxy.environment());
        assert!(said.contains(expected), "{fault:?}: {said}");
        assert!(said.contains(&expected["failed: ".len()..].split(' ').next().unwrap().to_owned()), "{said}");
    }
    proxy.heal("DescribeAutoScalingInstances");
    assert!(called("group-of i-0123456789abcdef0", &proxy.environment()).contains("ok: None"));

    let nobody = vec![("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned())];
    let without_credentials = vec![("AWS_ENDPOINT_URL", proxy.endpoint())];
    assert!(called("members web", &without_credentials).contains("failed: no-credentials"));
    let mut gone = proxy.environment();
    gone.retain(|(name, _)| *name != "AWS_ENDPOINT_URL");
    gone.extend(nobody);
    assert!(called("members web", &gone).contains("failed: unreachable"));
}

/// A throttled question is asked again; a mark never is, whatever came of it.
#[test]
fn a_mark_is_one_request() {
    let moto = Moto::start();
    let instances = moto.group("web", 1);
    let proxy = AwsProxy::start(moto.port);
    for fault in [Fault::Throttle, Fault::Status(500), Fault::Reset, Fault::Lost, Fault::Hang] {
        proxy.fail("SetInstanceHealth", fault.clone());
        let before = proxy.count("SetInstanceHealth");
        let said = called(&format!("mark {}", instances[0]), &proxy.environment());
        assert!(said.contains("failed: "), "{fault:?}: {said}");
        assert_eq!(proxy.count("SetInstanceHealth") - before, 1, "{fault:?}: {said}");
    }
    proxy.fail("DescribeAutoScalingInstances", Fault::Throttle);
    called(&format!("group-of {}", instances[0]), &proxy.environment());
    assert_eq!(proxy.count("DescribeAutoScalingInstances"), 3);
}

#[test]
fn metrics_arrive_in_one_compressed_call_also_two_hours_of_them() {
    let moto = Moto::start();
    let proxy = AwsProxy::start(moto.port);
    let environment = proxy.environment();
    assert!(called("put 1", &environment).contains("ok: put"));
    assert!(called("put 120", &environment).contains("ok: put"));
    assert_eq!(proxy.count("PutMetricData"), 2);
    // 960 values in CBOR are some 190 kB.
    assert!(proxy.longest("PutMetricData") < 20_000, "{} bytes", proxy.longest("PutMetricData"));
    let listed = moto.call("monitoring", "ListMetrics", "Namespace=DrAgent");
    let names: std::collections::BTreeSet<_> = texts(&listed, "MetricName").into_iter().collect();
    assert_eq!(names.len(), 8, "{listed}");
    assert!(listed.contains("AutoScalingGroupName") && listed.contains("<Value>web</Value>"), "{listed}");
    for fault in [Fault::Status(500), Fault::Reset, Fault::Truncated, Fault::Hang] {
        proxy.fail("PutMetricData", fault.clone());
        let said = called("put 1", &environment);
        assert!(said.contains("failed: "), "{fault:?}: {said}");
    }
}
