//! A machine with everything that a boot leaves, before and after.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;
use crate::config::{self, load};
use crate::health::cause::Status;

const FILE: &str = r#"
schema = 1
home = "ap-south-1"
key_file = "/etc/dr-agent/group.key"
[probe.efs]
path = "/mnt/efs"
[probe.database]
user = "dr_agent"
password_file = "/etc/dr-agent/database.password"
[region.ap-south-1]
database = "shop.ap-south-1.rds.amazonaws.com"
efs = "fs-0123456789abcdef0"
[region.us-east-1]
database = "shop.us-east-1.rds.amazonaws.com"
efs = "fs-0fedcba9876543210"
[repoint]
apply = "none"
[[repoint.output]]
format = "env"
path = "/etc/shop/database.env"
"#;

struct Root(tempfile::TempDir);

impl Root {
    /// A machine with these files, that have no content or the one given after `=`.
    fn with(files: &[&str]) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for file in files {
            let (path, content) = file.split_once('=').unwrap_or((file, ""));
            root.put(path, content);
        }
        root
    }

    fn put(&self, path: &str, content: &str) {
        let path = below(self.0.path(), Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(below(self.0.path(), Path::new(path))).is_ok()
    }

    fn config() -> Config {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), FILE).unwrap();
        load::read(&dir.path().join("agent.toml")).unwrap().config(Some("ap-south-1")).unwrap()
    }

    fn remains(&self) -> Vec<String> {
        remains(self.0.path(), &Self::config()).into_iter().map(|item| item.name).collect()
    }

    fn seal(&self) -> Result<Vec<Item>, Refused> {
        seal(self.0.path(), &Self::config())
    }
}

const TRACES: [&str; 19] = [
    "/etc/machine-id=0123456789abcdef0123456789abcdef\n",
    "/var/lib/dbus/machine-id=0123456789abcdef0123456789abcdef\n",
    "/etc/hostname=ip-10-0-1-9.ap-south-1.compute.internal\n",
    "/var/lib/systemd/random-seed",
    "/etc/ssh/ssh_host_ed25519_key",
    "/home/ec2-user/.ssh/authorized_keys",
    "/root/.ssh/authorized_keys",
    "/home/ec2-user/.bash_history",
    "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal",
    "/var/lib/cloud/instances/i-0123456789abcdef0/obj.pkl",
    "/var/log/cloud-init-output.log",
    "/var/lib/amazon/ssm/Vault/Store/x",
    "/var/lib/dhclient/dhclient.leases",
    "/var/lib/dr-agent/state.json",
    "/var/lib/dr-agent-helper/config.good.toml",
    "/etc/dr-agent/group.key",
    "/etc/dr-agent/database.password",
    "/etc/dr-agent/.new-4Fq2xZ",
    "/etc/dr-agent/region=ap-south-1\n",
];

const KEPT: [&str; 6] = [
    "/etc/dr-agent/agent.toml",
    "/etc/ssh/sshd_config",
    "/var/lib/cloud/seed/nocloud/user-data",
    "/var/log/messages",
    "/home/ec2-user/.bashrc",
    "/etc/fstab=UUID=1 / xfs defaults 0 1\n# fs-0123456789abcdef0:/ /mnt/efs efs _netdev 0 0\n",
];

#[test]
fn every_trace_is_found_and_taken_out_and_nothing_else_is() {
    let root = Root::with(&[&TRACES[..], &KEPT[..], &["/var/lib/dr-agent/public/region-closed"]].concat());
    assert_eq!(root.remains().len(), 14, "{:?}", root.remains());
    let items = root.seal().unwrap();
    assert!(items.iter().all(|item| item.status == Status::Healthy), "{items:?}");
    assert_eq!(root.remains(), Vec::<String>::new());
    for trace in &TRACES[1..] {
        assert!(!root.has(trace.split('=').next().unwrap()), "{trace}");
    }
    assert_eq!(fs::read_to_string(root.0.path().join("etc/machine-id")).unwrap(), "");
    assert!(!root.has("/var/log/journal/0123456789abcdef0123456789abcdef"), "the folder has the machine's name");
    for kept in KEPT {
        assert!(root.has(kept.split('=').next().unwrap()), "{kept}");
    }
    assert!(root.has("/var/lib/dr-agent/public") && !root.has("/var/lib/dr-agent/public/region-closed"));
    // Again, with nothing to do.
    assert!(root.seal().unwrap().iter().all(|item| item.words == "there was nothing"));
}

/// One by one, so that none hides another.
#[test]
fn one_trace_is_enough() {
    for trace in TRACES {
        let root = Root::with(&KEPT);
        let (path, content) = trace.split_once('=').unwrap_or((trace, ""));
        root.put(path, content);
        assert_eq!(root.remains().len(), 1, "{trace}: {:?}", root.remains());
    }
}

/// Where the configuration comes with user data, the image has none that could name them.
#[test]
fn secrets_are_found_without_a_configuration() {
    let secrets = ["/etc/dr-agent/group.key", "/etc/dr-agent/database.password", "/etc/dr-agent/.new-4Fq2xZ"];
    let root = Root::with(&[&secrets[..], &["/etc/dr-agent/rds-global-bundle.pem"]].concat());
    let config = config::defaults();
    let found = remains(root.0.path(), &config);
    assert_eq!(found.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["secrets of the agent"]);
    seal(root.0.path(), &config).unwrap();
    assert!(secrets.iter().all(|secret| !root.has(secret)), "{found:?}");
    assert!(remains(root.0.path(), &config).is_empty() && root.has("/etc/dr-agent/rds-global-bundle.pem"));
}

#[test]
fn a_machine_id_that_is_to_be_made_is_none() {
    for id in ["", "\n", "uninitialized\n"] {
        let root = Root::with(&[]);
        root.put("/etc/machine-id", id);
        assert!(root.remains().is_empty());
    }
    let root = Root::with(&["/etc/machine-id"]);
    fs::create_dir_all(root.0.path().join("var/lib/dbus")).unwrap();
    symlink("/etc/machine-id", root.0.path().join("var/lib/dbus/machine-id")).unwrap();
    assert!(root.remains().is_empty());
}

#[test]
fn what_only_a_person_can_judge_is_told_and_left() {
    let root = Root::with(&[
        "/home/ec2-user/.aws/credentials",
        "/root/.my.cnf",
        "/etc/fstab=fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/ /mnt/efs nfs4 _netdev 0 0\n",
        "/etc/shop/database.env=DATABASE_WRITER_HOST=shop.ap-south-1.rds.amazonaws.com\n",
    ]);
    let told = ["AWS credentials", "passwords and keys of people", "fstab", "database outputs"];
    assert_eq!(root.remains(), told);
    let items = root.seal().unwrap();
    let unhealthy = items.iter().filter(|item| item.status == Status::Unhealthy).map(|item| item.name.as_str());
    assert_eq!(unhealthy.collect::<Vec<_>>(), told);
    assert_eq!(root.remains(), told);
    root.put("/etc/shop/database.env", "DATABASE_WRITER_HOST=\nDATABASE_STATE=none\n");
    assert_eq!(root.remains(), told[..3], "no writer is no trace");
}

#[test]
fn a_machine_that_serves_or_is_fenced_is_no_model() {
    let root = Root::with(&["/var/lib/dr-agent/public/fenced", "/etc/dr-agent/group.key"]);
    assert!(matches!(root.seal(), Err(Refused::Fenced(_))));
    assert!(root.has("/var/lib/dr-agent/public/fenced") && root.has("/etc/dr-agent/group.key"));

    let root = Root::with(&["/etc/dr-agent/group.key"]);
    let socket = root.0.path().join("run/dr-agent");
    fs::create_dir_all(&socket).unwrap();
    let agent = UnixListener::bind(socket.join("control.sock")).unwrap();
    assert_eq!(root.seal(), Err(Refused::Running));
    assert!(root.has("/etc/dr-agent/group.key"), "nothing was removed");
    drop(agent);
    assert!(root.seal().is_ok(), "what an agent left that is gone is no agent");
}

#[test]
fn only_an_id_is_a_file_systems() {
    assert_eq!(file_system("fs-0123456789abcdef0:/"), Some("fs-0123456789abcdef0"));
    assert_eq!(file_system("fs-01234567.efs.x"), Some("fs-01234567"));
    assert_eq!(file_system("fs-tab"), None);
}
