//! What `dr-agent check` says of the AWS side, and `drain` asks of it: against moto, a metadata service, and answers that
//! refuse and hang.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::aws_proxy::{AwsProxy, Fault};
use crate::support::fleet::Fleet;
use crate::support::imds::{Imds, Mood};
use crate::support::moto::Moto;
use crate::support::nginx::Nginx;
use crate::support::site::{self, Scratch};
use crate::support::{agent_binary, eventually, repository};

/// An instance of the group `web`, of two.
struct Rig {
    moto: Moto,
    proxy: AwsProxy,
    imds: Imds,
    instance: String,
    agent: Agent,
    /// Of both the agent and the commands.
    environment: Vec<(&'static str, String)>,
    _nginx: Nginx,
}

/// What a command said.
struct Told {
    exit: i32,
    out: String,
    err: String,
}

impl Rig {
    fn new(extra: &str) -> Self {
        let moto = Moto::start();
        let instance = moto.group("web", 2).remove(0);
        let proxy = AwsProxy::start(moto.port);
        let imds = Imds::of(&instance, "us-east-1a", "web");
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.state()).expect("make the state directory");
        let nginx = site::start(&scratch, "", "");
        let config = format!(
            "[probe.nginx]\nurl = \"{}\"\npid_file = \"{}\"\n[probe.wiring]\ninterval = \"1h\"\n{extra}",
            nginx.url("/health/nginx"),
            nginx.pid_file().display(),
        );
        let agent = Agent::new(scratch, &config);
        let mut environment = proxy.environment();
        environment.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()));
        environment.push(("HOME", "/nonexistent".to_owned()));
        Self { moto, proxy, imds, instance, agent, environment, _nginx: nginx }
    }

    fn without_credentials(mut self) -> Self {
        self.environment.retain(|(name, _)| !name.contains("KEY"));
        self
    }

    fn start(&mut self) {
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.agent.start_with(&environment);
    }

    fn command(&self, args: &[&str]) -> Told {
        let mut command = Command::new(agent_binary());
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.args(args).arg("--config").arg(self.agent.config()).env("NO_COLOR", "1").env("TZ", "UTC");
        let output = command.envs(self.environment.clone()).stdin(Stdio::null()).output().expect("run the command");
        Told {
            exit: output.status.code().expect("it was not killed"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What the page says of AWS, with another instance id.
    fn page(&self) -> String {
        let told = self.command(&["check", "--as-me"]);
        let (_, rest) = told.out.split_once("\nAWS\n").unwrap_or_else(|| panic!("{}\n{}", told.out, told.err));
        let (section, _) = rest.split_once("\n\nVerdicts").expect("the verdicts follow");
        section.replace(&self.instance, "i-0123456789abcdef0")
    }

    /// Without line breaks.
    fn words(&self) -> String {
        self.page().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn json(&self) -> Value {
        let told = self.command(&["check", "--as-me", "--format", "json"]);
        serde_json::from_str(&told.out).unwrap_or_else(|error| panic!("{error}: {}", told.err))
    }

    /// Changes the group in AWS.
    fn group(&self, action: &str, parameters: &str) {
        self.moto.call("autoscaling", action, &format!("AutoScalingGroupName=web&{parameters}"));
    }
}

/// The findings' first words by their level.
fn findings(json: &Value) -> Vec<String> {
    let findings = json["aws"]["findings"].as_array().cloned().unwrap_or_default();
    let said =
        |finding: &Value| format!("{}: {}", finding["level"].as_str().unwrap(), finding["what"].as_str().unwrap());
    findings.iter().map(said).collect()
}

/// Says which policy its role is to have, by the statements.
fn statements(json: &Value) -> Vec<&str> {
    let statements = json["aws"]["policy"]["Statement"].as_array();
    statements.into_iter().flatten().map(|statement| statement["Sid"].as_str().unwrap()).collect()
}

/// As it should be but for what moto does not know.
#[test]
fn an_instance_whose_role_may_do_all_of_it_learns_who_it_is_and_how_its_group_is_set_up() {
    let mut rig = Rig::new("");
    insta::assert_snapshot!(rig.page(), @r"
      instance     i-0123456789abcdef0 (metadata service)
      region       us-east-1 (metadata service)
      zone         us-east-1a (metadata service)
      group        web (metadata service)
      lifecycle    InService (Auto Scaling)
      credentials  accepted by AWS
      allowed      ec2:DescribeInstances, autoscaling:DescribeAutoScalingInstances,
                   autoscaling:DescribeAutoScalingGroups, autoscaling:DescribeScalingActivities,
                   autoscaling:DescribeInstanceRefreshes
      settings     2 of 2 desired instances in service, health check EC2, grace 300 s
      advice       the group's instance maintenance policy is not set
                   costs: a small group serves with a large part missing until the successor is there
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --instance-maintenance-policy
                         MinHealthyPercentage=100,MaxHealthyPercentage=200`
      advice       the group has no default instance warmup
                   costs: scaling and refreshes count an instance before it serves
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --default-instance-warmup 60`
    ");
    let json = rig.json();
    assert_eq!(json["aws"]["group"]["health_check_types"], serde_json::json!(["EC2"]));
    assert!(json["aws"].get("policy").is_none(), "{:#}", json["aws"]);
    // Advice makes nothing worse: what keeps it from 0 is that no agent runs.
    rig.start();
    let told = rig.command(&["check", "--as-me"]);
    assert!(matches!(told.exit, 0 | 1) && !told.out.contains("the AWS side"), "{}\n{}", told.exit, told.out);
    // Nothing was changed.
    for action in rig.proxy.actions() {
        assert!(action.starts_with("Describe"), "{action}");
    }
    rig.agent.stop();
}

#[test]
fn each_permission_that_the_role_lacks_is_named_with_its_statement_and_hides_no_other() {
    let mut rig = Rig::new("[cloudwatch]\nnamespace = \"Shop\"\n");
    let actions = [
        ("DescribeInstances", "UnauthorizedOperation", "ec2:DescribeInstances", "WhoIsInTheGroup"),
        ("DescribeAutoScalingGroups", "AccessDenied", "autoscaling:DescribeAutoScalingGroups", "LastLook"),
        ("DescribeScalingActivities", "AccessDenied", "autoscaling:DescribeScalingActivities", "LastLook"),
        ("DescribeInstanceRefreshes", "AccessDenied", "autoscaling:DescribeInstanceRefreshes", "LastLook"),
    ];
    for (action, code, name, statement) in actions {
        rig.proxy.fail(action, Fault::Refuse(code));
        let json = rig.json();
        let denied = format!("degraded: the role lacks {name}");
        assert!(findings(&json).contains(&denied), "{action}: {:#}", json["aws"]);
        let hint = format!("give it the statement `{statement}` of the policy below");
        let hints = json["aws"]["findings"].as_array().unwrap().iter().map(|finding| finding["hint"].clone());
        assert!(hints.collect::<Vec<_>>().contains(&hint.into()), "{:#}", json["aws"]);
        assert_eq!(statements(&json), ["WhoIsInTheGroup", "LastLook", "Metrics"], "{action}");
        let others = json["aws"]["permissions"].as_array().unwrap().iter().filter(|one| one["result"] == "ok").count();
        assert_eq!(others, actions.len(), "{action}: {:#}", json["aws"]);
        rig.proxy.heal(action);
        if action == "DescribeInstanceRefreshes" {
            continue;
        }
        assert!(!findings(&rig.json()).contains(&denied), "{action}");
    }
    // Where somebody else names the group, nobody needs Auto Scaling's word; else it is.
    rig.proxy.fail("DescribeInstanceRefreshes", Fault::Instead(NO_REFRESHES.to_owned()));
    rig.proxy.fail("DescribeAutoScalingInstances", Fault::Refuse("AccessDenied"));
    let lacking = |json: &Value| findings(json).into_iter().find(|finding| finding.contains("lacks"));
    assert_eq!(lacking(&rig.json()), None);
    rig.imds.set("tags/instance/aws:autoscaling:groupName", None);
    assert_eq!(lacking(&rig.json()), None, "its tag says it");
    rig.proxy.fail("DescribeInstances", Fault::Refuse("UnauthorizedOperation"));
    let both = "degraded: the role lacks ec2:DescribeInstances, autoscaling:DescribeAutoScalingInstances";
    assert_eq!(lacking(&rig.json()).as_deref(), Some(both));

    // The running agent's own calls are told beside.
    rig.start();
    eventually("the agent has called", || {
        let json = rig.json();
        let denied = json["live"]["aws"]["calls"].as_array().is_some_and(|calls| {
            calls.iter().any(|call| call["action"] == "ec2:DescribeInstances" && call["result"] == "denied")
        });
        let said = json["aws"]["permissions"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
        let untried = said["action"] == "cloudwatch:PutMetricData" && said["result"] == "untried";
        if denied && untried { Ok(()) } else { Err(format!("{json:#}")) }
    });
    rig.agent.stop();
}

/// What a group has that is never refreshed.
const NO_REFRESHES: &str = "<DescribeInstanceRefreshesResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
    <DescribeInstanceRefreshesResult><InstanceRefreshes/></DescribeInstanceRefreshesResult>\
    <ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></DescribeInstanceRefreshesResponse>";

#[test]
fn a_denied_permission_comes_with_the_policy_ready_to_paste() {
    let rig = Rig::new("");
    rig.proxy.fail("DescribeScalingActivities", Fault::Refuse("AccessDenied"));
    let page = rig.page();
    let (before, policy) = page.split_once(" with this configuration:\n").expect("a policy");
    insta::assert_snapshot!(before, @r"
      instance     i-0123456789abcdef0 (metadata service)
      region       us-east-1 (metadata service)
      zone         us-east-1a (metadata service)
      group        web (metadata service)
      lifecycle    InService (Auto Scaling)
      credentials  accepted by AWS
      allowed      ec2:DescribeInstances, autoscaling:DescribeAutoScalingInstances,
                   autoscaling:DescribeAutoScalingGroups, autoscaling:DescribeInstanceRefreshes
      settings     2 of 2 desired instances in service, health check EC2, grace 300 s
      degraded     the role lacks autoscaling:DescribeScalingActivities
                   costs: nothing is replaced without that look, and whether a drain would end the
                     instance cannot be told
                   hint: give it the statement `LastLook` of the policy below
      advice       the group's instance maintenance policy is not set
                   costs: a small group serves with a large part missing until the successor is there
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --instance-maintenance-policy
                         MinHealthyPercentage=100,MaxHealthyPercentage=200`
      advice       the group has no default instance warmup
                   costs: scaling and refreshes count an instance before it serves
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --default-instance-warmup 60`
      the policy that the role needs,
    ");
    let policy: Value = serde_json::from_str(policy).expect("JSON");
    assert_eq!(policy["Statement"][1]["Action"][1], "autoscaling:DescribeScalingActivities");
}

#[test]
fn a_group_that_ends_what_the_load_balancer_finds_ill_is_unhealthy_and_no_drain_is_begun_there() {
    let mut rig = Rig::new("");
    rig.group("UpdateAutoScalingGroup", "HealthCheckType=ELB");
    rig.group("SuspendProcesses", "ScalingProcesses.member.1=Launch&ScalingProcesses.member.2=AZRebalance");
    let told = rig.command(&["check", "--as-me"]);
    assert_eq!(told.exit, 2, "{}", told.out);
    let first = told.out.split("\n\n").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(first.ends_with("the group's health check type is ELB"), "{}", told.out);
    insta::assert_snapshot!(rig.page(), @r"
      instance     i-0123456789abcdef0 (metadata service)
      region       us-east-1 (metadata service)
      zone         us-east-1a (metadata service)
      group        web (metadata service)
      lifecycle    InService (Auto Scaling)
      credentials  accepted by AWS
      allowed      ec2:DescribeInstances, autoscaling:DescribeAutoScalingInstances,
                   autoscaling:DescribeAutoScalingGroups, autoscaling:DescribeScalingActivities,
                   autoscaling:DescribeInstanceRefreshes
      settings     2 of 2 desired instances in service, health check ELB, grace 300 s, suspended
                   AZRebalance Launch
      UNHEALTHY    the group's health check type is ELB
                   costs: Auto Scaling ends each instance that answers the load balancer 503: a drain
                     terminates it, a fault that all have ends them all, and `observe` only observes
                     what Auto Scaling does
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --health-check-type EC2`
      degraded     suspended in the group: Launch
                   costs: a dead instance is not succeeded by another, and the agent has none replaced
                     (ProcessSuspended)
                   hint: `aws autoscaling resume-processes --auto-scaling-group-name web
                         --scaling-processes Launch`
      advice       the group's instance maintenance policy is not set
                   costs: a small group serves with a large part missing until the successor is there
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --instance-maintenance-policy
                         MinHealthyPercentage=100,MaxHealthyPercentage=200`
      advice       the group has no default instance warmup
                   costs: scaling and refreshes count an instance before it serves
                   hint: `aws autoscaling update-auto-scaling-group --auto-scaling-group-name web
                         --default-instance-warmup 60`
    ");

    rig.start();
    let told = rig.command(&["drain", "--reason", "deploy 42"]);
    assert_eq!(told.exit, 64, "{}", told.err);
    assert!(told.err.contains("type is ELB: Auto Scaling would end this instance"), "{}", told.err);
    assert_eq!(rig.agent.public().get("/health/instance").unwrap().status, 200);
    // Of a group by EC2 alone it is the agent that refuses, as nobody else is known to serve.
    rig.group("UpdateAutoScalingGroup", "HealthCheckType=EC2");
    let told = rig.command(&["drain", "--reason", "deploy 42"]);
    assert!(told.exit == 64 && told.err.contains("no other instance is known to be healthy"), "{}", told.err);
    // Nobody can tell: it is said, and stops nothing.
    rig.proxy.fail("DescribeAutoScalingGroups", Fault::Refuse("AccessDenied"));
    let told = rig.command(&["drain", "--reason", "deploy 42"]);
    assert!(told.err.contains("is not known (autoscaling:DescribeAutoScalingGroups is not allowed"), "{}", told.err);
    assert!(told.err.contains("no other instance is known to be healthy"), "{}", told.err);
    rig.proxy.heal("DescribeAutoScalingGroups");
    rig.group("UpdateAutoScalingGroup", "HealthCheckType=ELB");
    assert_eq!(rig.command(&["drain", "--reason", "deploy 42", "--force"]).exit, 0);
    assert_eq!(rig.agent.public().get("/health/instance").unwrap().status, 503);
    rig.agent.stop();
}

#[test]
fn without_credentials_or_with_old_ones_that_is_what_is_said() {
    let mut rig = Rig::new("").without_credentials();
    insta::assert_snapshot!(rig.page().split_once(" with this").expect("a policy").0, @r"
      instance     i-0123456789abcdef0 (metadata service)
      region       us-east-1 (metadata service)
      zone         us-east-1a (metadata service)
      group        web (metadata service)
      credentials  none
      degraded     there are no AWS credentials: no role is attached to this instance
                   costs: who is in the group is not learned, nothing is replaced, and CloudWatch
                     hears nothing; health and failover do not need AWS
                   hint: attach an instance profile whose role has the policy below
      the policy that the role needs,
    ");
    assert!(rig.proxy.actions().is_empty(), "{:?}", rig.proxy.actions());
    // A single instance of no group needs none.
    rig.imds.set("tags/instance/aws:autoscaling:groupName", None);
    let json = rig.json();
    assert_eq!(json["aws"]["findings"][0]["level"], "advice", "{:#}", json["aws"]);
    rig.imds.set("iam/security-credentials/", Some("web-role"));
    assert!(rig.words().contains("no AWS credentials, although the role `web-role` is attached"), "{}", rig.page());

    rig.environment.extend(rig.proxy.environment());
    for (code, words) in [("ExpiredToken", "have expired"), ("InvalidClientTokenId", "refuses the credentials")] {
        for action in rig.proxy.actions().into_iter().chain(DESCRIBED.map(str::to_owned)) {
            rig.proxy.fail(&action, Fault::Refuse(code));
        }
        assert!(rig.words().contains(words), "{}", rig.page());
    }
}

const DESCRIBED: [&str; 5] = [
    "DescribeInstances",
    "DescribeAutoScalingInstances",
    "DescribeAutoScalingGroups",
    "DescribeScalingActivities",
    "DescribeInstanceRefreshes",
];

#[test]
fn a_metadata_service_that_is_switched_off_is_explained_and_one_that_is_not_there_takes_one_line() {
    let rig = Rig::new("");
    rig.imds.be(Mood::Disabled);
    insta::assert_snapshot!(rig.page(), @r"
      degraded     the instance metadata service refuses (403): it is switched off
                   costs: region, zone and group must come from elsewhere, standby and spot notices
                     drain nothing, and the role's credentials are not there
                   hint: `aws ec2 modify-instance-metadata-options --instance-id INSTANCE
                         --http-endpoint enabled --http-tokens required`
    ");
    for mood in [Mood::Silent, Mood::Strange, Mood::Failing] {
        rig.imds.be(mood);
        let page = rig.page();
        assert!(page.lines().count() == 1 && page.contains("not on EC2, or"), "{mood:?}: {page}");
        assert_eq!(findings(&rig.json()), [""; 0], "{mood:?}");
    }
    assert!(rig.proxy.actions().is_empty(), "{:?}", rig.proxy.actions());
}

#[test]
fn an_aws_that_hangs_keeps_neither_the_probes_words_nor_the_end() {
    let rig = Rig::new("");
    for action in DESCRIBED {
        rig.proxy.fail(action, Fault::Hang);
    }
    rig.imds.set("tags/instance/aws:autoscaling:groupName", None);
    let began = Instant::now();
    let told = rig.command(&["check", "--as-me"]);
    assert!(began.elapsed() < Duration::from_secs(25), "it waited for AWS");
    assert!(told.out.contains("  nginx     healthy"), "{}", told.out);
    let words = told.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("ec2:DescribeInstances, autoscaling:DescribeAutoScalingInstances: was not answered in time"),
        "{}",
        told.out
    );
    assert!(words.contains("NAT or VPC endpoints"), "{}", told.out);
}

/// The shipped policy allows what the agent calls, and nothing else.
#[test]
fn the_policy_allows_each_call_of_the_program_and_no_other() {
    let mut called = BTreeSet::new();
    for file in fs::read_dir(repository().join("src/aws")).unwrap() {
        let source = fs::read_to_string(file.unwrap().path()).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        let words = code.split('"').skip(1).step_by(2);
        let is_action = |word: &&str| {
            word.split_once(':').is_some_and(|(service, action)| {
                service.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                    && action.len() > 3
                    && action.starts_with(|c: char| c.is_ascii_uppercase())
                    && action.chars().all(|c| c.is_ascii_alphabetic())
            })
        };
        called.extend(words.filter(is_action).map(str::to_owned));
    }
    assert!(called.contains("autoscaling:SetInstanceHealth"), "{called:?}");
    let path = repository().join("packaging/iam/agent-policy.json");
    let policy: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).expect("JSON");
    let mut allowed = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        for action in statement["Action"].as_array().unwrap() {
            let action = action.as_str().unwrap();
            assert!(!action.contains('*'), "{action}");
            assert!(allowed.insert(action.to_owned()), "{action} twice");
        }
        // What changes something is limited.
        let text = statement.to_string();
        assert!(text.contains("Describe") || text.contains("GROUP") || text.contains("NAMESPACE"), "{text}");
    }
    assert_eq!(called, allowed);
    let readme = fs::read_to_string(repository().join("packaging/iam/README.md")).unwrap();
    for statement in policy["Statement"].as_array().unwrap() {
        let sid = statement["Sid"].as_str().unwrap();
        assert!(readme.contains(&format!("| `{sid}` |")), "{sid} is not explained");
    }
}

/// Two real agents that know of each other.
#[test]
fn with_another_that_serves_a_drain_needs_no_force_and_check_shows_the_votes() {
    let members =
        [("i-0000000000000000a", "ap-south-1a", "10.0.1.10"), ("i-0000000000000000b", "ap-south-1b", "10.0.2.10")];
    let mut fleet = Fleet::new();
    for (id, zone, address) in members {
        fleet.launch(id, zone, address);
    }
    let known: Vec<_> = members
        .iter()
        .map(|(instance, zone, address)| serde_json::json!({"instance": instance, "zone": zone, "address": address}))
        .collect();
    let text = serde_json::json!({"version": 1, "group": "web", "at": "2026-11-25T00:00:00Z", "members": known});
    for number in 0..members.len() {
        fs::write(fleet.instances[number].state_dir().join("members.json"), text.to_string()).unwrap();
        fleet.start_agent(number);
    }
    let one = &fleet.instances[0];
    eventually("the other serves", || {
        let report = one.report()?;
        let other = &report["group"]["members"][0];
        let is_well = other["state"] == "serving" && other["votes"]["efs"] == "healthy";
        if is_well { Ok(()) } else { Err(format!("{report:#}\n{}", one.log())) }
    });
    let said = fleet.command(one, &["check", "--as-me"]);
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in
        ["web: 1 of 1 others answered", "i-0000000000000000b other zone serving; ", "group web (metadata service)"]
    {
        assert!(words.contains(part), "{part}: {said}");
    }
    let said = fleet.command(one, &["history", "--group"]);
    assert!(said.contains("no instance"), "{said}");
    let said = fleet.command(one, &["drain", "--reason", "deploy 42"]);
    assert!(said.contains("one other instance is known to be healthy"), "{said}");
    assert!(said.contains("drain is set"), "{said}");
    // Now that this one drains it is the other that would be the last.
    let other = &fleet.instances[1];
    eventually("the other has heard of it", || {
        let report = other.report()?;
        if report["group"]["members"][0]["state"] == "draining" { Ok(()) } else { Err(format!("{report:#}")) }
    });
    let said = fleet.command(other, &["drain", "--reason", "deploy 42"]);
    assert!(said.contains("no other instance is known to be healthy"), "{said}");
}
