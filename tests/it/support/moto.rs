//! AWS, as far as moto goes: Auto Scaling and EC2 with one group. It replaces no instance and keeps no activities.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Process, eventually, free_port, repository};

/// The one region of the tests' group.
pub const REGION: &str = "us-east-1";

/// A server of its own, ended with the test.
#[derive(Debug)]
pub struct Moto {
    pub port: u16,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Moto {
    pub fn start() -> Self {
        let python = repository().join(".cache/venv/bin/python");
        let folder = tempfile::tempdir().expect("make a folder");
        let log = PathBuf::from(folder.path()).join("log");
        let port = free_port();
        let mut command = Command::new(python);
        command.arg(repository().join("tests/aws_with_cbor.py")).arg(port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log).expect("make a log"));
        let moto = Self { port, _process: Process::start(&mut command), _folder: folder };
        eventually("moto answers", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .map(drop)
                .map_err(|error| format!("{error}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))
        });
        moto
    }

    /// Makes a group with so many instances, and returns their ids in order.
    pub fn group(&self, name: &str, size: u32) -> Vec<String> {
        let launch = format!("LaunchConfigurationName={name}&ImageId=ami-12c6146b&InstanceType=t3.micro");
        self.call("autoscaling", "CreateLaunchConfiguration", &launch);
        let zones = "AvailabilityZones.member.1=us-east-1a&AvailabilityZones.member.2=us-east-1b";
        let group = format!(
            "AutoScalingGroupName={name}&LaunchConfigurationName={name}&MinSize={}&MaxSize=4&DesiredCapacity={size}&\
             HealthCheckType=EC2&HealthCheckGracePeriod=300&{zones}",
            size.min(1)
        );
        self.call("autoscaling", "CreateAutoScalingGroup", &group);
        let mut instances = self.instances(name);
        assert_eq!(instances.len(), size as usize, "{instances:?}");
        instances.sort();
        instances
    }

    /// Id, zone and address of each instance that lives, by id.
    pub fn places(&self) -> Vec<(String, String, String)> {
        let answer = self.call("ec2", "DescribeInstances", "");
        let mut places = Vec::new();
        for item in answer.split("<instanceId>").skip(1) {
            let first = |name: &str| texts(item, name).first().map_or_else(String::new, |text| (*text).to_owned());
            if first("name") == "running" {
                let id = item.split('<').next().unwrap_or_default().to_owned();
                places.push((id, first("availabilityZone"), first("privateIpAddress")));
            }
        }
        places.sort();
        places
    }

    /// What Auto Scaling thinks of an instance's health.
    pub fn health(&self, instance: &str) -> String {
        let answer =
            self.call("autoscaling", "DescribeAutoScalingInstances", &format!("InstanceIds.member.1={instance}"));
        texts(&answer, "HealthStatus").first().map_or_else(String::new, |text| (*text).to_owned())
    }

    /// What Auto Scaling does with an instance that is Unhealthy, and moto does not: it is terminated, and another one
    /// launched.
    pub fn replace(&self, instance: &str) {
        let parameters = format!("InstanceId={instance}&ShouldDecrementDesiredCapacity=false");
        self.call("autoscaling", "TerminateInstanceInAutoScalingGroup", &parameters);
    }

    /// Sets a tag of a group.
    pub fn tag(&self, group: &str, key: &str, value: &str) {
        let value = value.replace(' ', "%20");
        let tag = format!(
            "ResourceId={group}&ResourceType=auto-scaling-group&Key={key}&Value={value}&PropagateAtLaunch=false"
        );
        let tag = tag.split('&').map(|pair| format!("Tags.member.1.{pair}")).collect::<Vec<_>>().join("&");
        self.call("autoscaling", "CreateOrUpdateTags", &tag);
    }

    fn instances(&self, group: &str) -> Vec<String> {
        let answer =
            self.call("autoscaling", "DescribeAutoScalingGroups", &format!("AutoScalingGroupNames.member.1={group}"));
        texts(&answer, "InstanceId").into_iter().map(str::to_owned).collect()
    }

    /// One call in the query protocol; the XML of its answer.
    pub fn call(&self, service: &str, action: &str, parameters: &str) -> String {
        let version = match service {
            "ec2" => "2016-11-15",
            "monitoring" => "2010-08-01",
            _ => "2011-01-01",
        };
        let body = format!("Action={action}&Version={version}&{parameters}");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("connect to moto");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set a limit");
        stream.write_all(request.as_bytes()).expect("ask moto");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("hear moto");
        assert!(answer.starts_with("HTTP/1.1 200"), "{action}: {answer}");
        answer
    }
}

/// The texts of all elements of this name.
pub fn texts<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split(&close).next()).collect()
}
