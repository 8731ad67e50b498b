//! The bootstrap on a machine with a real systemd: secrets by a stand-in for the AWS CLI and a metadata service of the
//! tests' own, a mount by a stand-in for efs-utils that works, refuses or hangs.

use std::time::Duration;

use dr_agent::telemetry::event::COMPONENT_CHANGED;
use serde_json::Value;

use crate::support::aws_proxy::AwsProxy;
use crate::support::imds::Imds;
use crate::support::machine::Machine;
use crate::support::moto::{Moto, REGION};
use crate::support::{agent_binary, eventually, repository, within};

const CONFIG: &str = r#"
schema = 1
deployment = "shop"
home = "ap-south-1"
key_file = "/etc/dr-agent/group.key"
[probe.efs]
path = "/mnt/efs"
types = ["tmpfs"]
[probe.database]
user = "dr_agent"
password_file = "/etc/dr-agent/database.password"
[replace]
mode = "enforce"
[repoint]
unit = "shop.service"
[[repoint.output]]
format = "env"
path = "/etc/shop.env"
[region.ap-south-1]
database = "127.0.0.1:3306"
efs = "fs-0123456789abcdef0"
[region.us-east-1]
database = "127.0.0.1:3307"
efs = "fs-0fedcba9876543210"
"#;

/// Prints what the files below /run/aws say, and fails while there is /run/aws/fail.
const AWS: &str = r#"#!/bin/sh
echo "$*" >>/run/aws/log
[ ! -e /run/aws/fail ] || { echo "An error occurred (AccessDeniedException) when calling it" >&2; exit 254; }
case "$1 $2" in
    "ec2 describe-instances") cat /run/aws/tag ;;
    "secretsmanager get-secret-value") cat /run/aws/secret ;;
    *) echo "unknown: $*" >&2; exit 252 ;;
esac
"#;

/// Mounts memory under the name that it was given, and leaves a process behind, as efs-utils their tunnel; or does what
/// /run/mount.mode says.
const MOUNT_HELPER: &str = r#"#!/bin/sh
echo "$*" >>/run/mount.log
case $(cat /run/mount.mode 2>/dev/null) in
    refuse) echo "mount.efs: Failed to resolve \"$1\"" >&2; exit 32 ;;
    hang) trap '' TERM; while :; do sleep 1; done ;;
esac
setsid sleep infinity </dev/null >/dev/null 2>&1 &
echo "$2 $!" >>/run/tunnels
exec mount -i -t tmpfs -o mode=755 "$1" "$2"
"#;

const SECRET: &str = r#"{"password":"swordfish","key":"0123456789abcdef0123456789abcdef"}"#;

struct Site {
    machine: Machine,
    imds: Imds,
}

impl Site {
    fn start() -> Option<Self> {
        let machine = Machine::boot()?;
        machine.must("systemctl stop nginx");
        let imds = Imds::on(
            machine.listen(),
            &[
                ("instance-id", "i-0123456789abcdef0"),
                ("placement/region", "ap-south-1"),
                ("placement/availability-zone", "ap-south-1a"),
                ("tags/instance/", "dr-agent:secret"),
                ("tags/instance/dr-agent:secret", "shop/agent"),
            ],
        );
        let site = Self { machine, imds };
        site.install();
        Some(site)
    }

    /// What a package would bring, and the stand-ins.
    fn install(&self) {
        let machine = &self.machine;
        let packaging = repository().join("packaging");
        let read = |path: &str| std::fs::read(packaging.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        machine.put("/usr/bin/dr-agent", std::fs::read(agent_binary()).unwrap(), 0o755);
        for entry in std::fs::read_dir(packaging.join("systemd")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "service" || kind == "path") {
                let name = path.file_name().unwrap().display().to_string();
                machine.put(&format!("/usr/lib/systemd/system/{name}"), read(&format!("systemd/{name}")), 0o644);
            }
        }
        machine.put("/usr/lib/sysusers.d/dr-agent.conf", read("systemd/dr-agent.sysusers.conf"), 0o644);
        machine.put("/usr/lib/tmpfiles.d/dr-agent.conf", read("systemd/dr-agent.tmpfiles.conf"), 0o644);
        machine.put("/etc/nginx/dr-agent.d/dr-agent.conf", read("nginx/dr-agent.conf"), 0o644);
        let site = "server { listen 80 default_server; root /var/www/html; include /etc/nginx/dr-agent.d/*.conf; }\n";
        machine.put("/etc/nginx/sites-available/default", site, 0o644);
        machine.put("/etc/dr-agent/agent.toml", CONFIG, 0o644);
        machine.put("/usr/bin/aws", AWS, 0o755);
        machine.put("/sbin/mount.efs", MOUNT_HELPER, 0o755);
        machine.put("/run/aws/secret", SECRET, 0o600);
        let endpoint = format!("Environment=AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:{}\n", self.imds.port);
        for unit in ["dr-agent", "dr-agent-bootstrap", "dr-agent-bootstrap-retry"] {
            // The retry is the unit's; only its pause is shorter, to see it within the test.
            let pause = if unit.ends_with("retry") { "RestartSec=500ms\n" } else { "" };
            let path = format!("/etc/systemd/system/{unit}.service.d/test.conf");
            machine.put(&path, format!("[Service]\n{endpoint}{pause}"), 0o644);
        }
        machine.put("/etc/systemd/system/shop.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644);
        let drop_in = "/etc/systemd/system/shop.service.d/dr-agent-gate.conf";
        machine.put(drop_in, read("systemd/dr-agent-gate.conf"), 0o644);
        let all = "[Unit]\nWants=nginx.service shop.service dr-agent.service dr-agent-bootstrap.service\n";
        machine.put("/etc/systemd/system/test-boot.target", all, 0o644);
        machine.must("systemctl daemon-reload && systemd-sysusers && systemd-tmpfiles --create dr-agent.conf");
    }

    /// As at a boot: everything in one transaction, in the order that the units say. Whether the bootstrap did all of it.
    fn boot(&self) -> bool {
        // A target is after what it wants.
        self.machine.must("systemctl start test-boot.target");
        self.is_active("dr-agent-bootstrap")
    }

    /// Undoes what a boot did.
    fn shut_down(&self) {
        self.machine.must(
            "systemctl stop test-boot.target nginx shop dr-agent dr-agent-bootstrap dr-agent-bootstrap-retry; systemctl reset-failed; \
             ! findmnt --noheadings /mnt/efs || umount /mnt/efs; rm -f /run/dr-agent-result/bootstrap.json /run/mount.mode",
        );
    }

    /// The newest result.
    fn record(&self) -> Value {
        serde_json::from_str(&self.machine.must("cat /run/dr-agent-result/bootstrap.json")).unwrap()
    }

    /// Status and words of one part of it.
    fn part(&self, name: &str) -> (String, String) {
        let record = self.record();
        let items = record["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name} in {record:#}"));
        (item["status"].as_str().unwrap().to_owned(), item["words"].as_str().unwrap().to_owned())
    }

    fn is_active(&self, unit: &str) -> bool {
        self.machine.run(&format!("systemctl is-active --quiet {unit}")).ok
    }

    /// A moment of a unit, in microseconds of its boot.
    fn moment(&self, unit: &str, which: &str) -> u64 {
        let said = self.machine.must(&format!("systemctl show {unit} --property={which}TimestampMonotonic --value"));
        said.trim().parse().unwrap_or_else(|error| panic!("{unit} {which}: {error}: {said}"))
    }

    fn lines(&self, path: &str) -> usize {
        self.machine.run(&format!("cat {path}")).out.lines().count()
    }

    /// What the running agent says of the mount.
    fn efs_becomes(&self, wanted: &str) {
        eventually("the agent's word on the mount", || {
            let said = self.machine.run("dr-agent status --format json").out;
            let report: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
            let components = report["components"].as_array().cloned().unwrap_or_default();
            let efs = components.into_iter().find(|component| component["name"] == "efs").unwrap_or_default();
            if efs["status"] == wanted { Ok(()) } else { Err(efs.to_string()) }
        });
    }

    /// The code that nginx answers.
    fn code(&self, path: &str) -> String {
        let ask = "curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}'";
        self.machine.run(&format!("{ask} http://127.0.0.1{path}")).out
    }

    /// What users and the load balancer get while the bootstrap failed: a site, and an agent that says what is wrong.
    fn is_up_and_says(&self, words: &[&str]) {
        for unit in ["nginx", "shop", "dr-agent"] {
            assert!(self.is_active(unit), "a failed bootstrap keeps nobody: {unit}");
        }
        // The bootstrap of this boot may have restarted the agent, for a file that changed.
        eventually("the agent lives", || match self.code("/health/live") {
            code if code == "200" => Ok(()),
            code => Err(code),
        });
        let said = self.machine.run("dr-agent check");
        assert!(!said.ok, "{}", said.out);
        // As a person reads it, whatever the width of the page.
        let page = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in words {
            assert!(page.contains(words), "no `{words}` in:\n{}", said.out);
        }
    }
}

#[test]
fn a_boot_makes_the_machine_an_instance_of_its_region() {
    let Some(site) = Site::start() else { return };
    let machine = &site.machine;
    assert!(site.boot(), "{}", machine.run("journalctl -b --no-pager -u dr-agent-bootstrap").out);
    let record = site.record();
    let items = record["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["status"] == "healthy"), "{record:#}");
    assert!(record["ended"].is_string());

    // Secrets: the agent may read them, nobody else, and they are nowhere else.
    let modes = machine.must("stat -c '%a %U:%G' /etc/dr-agent/group.key /etc/dr-agent/database.password");
    assert_eq!(modes, "640 root:dr-agent\n640 root:dr-agent\n");
    assert_eq!(machine.must("cat /etc/dr-agent/database.password"), "swordfish\n");
    machine.must("su -s /bin/sh dr-agent -c 'cat /etc/dr-agent/database.password' >/dev/null");
    assert!(!machine.run("grep -rl swordfish /run/dr-agent-result /run/systemd /var/lib/dr-agent").ok);
    assert_eq!(machine.must("journalctl -b --no-pager | grep -c swordfish || true").trim(), "0");

    // The mount: this region's file system, by the helper, through TLS; the folder for the canaries.
    let mounted = machine.must("findmnt --noheadings --output SOURCE,FSTYPE /mnt/efs");
    assert_eq!(mounted.split_whitespace().collect::<Vec<_>>(), ["fs-0123456789abcdef0:/", "tmpfs"]);
    let asked = machine.must("cat /run/mount.log");
    assert!(asked.contains("noresvport") && asked.contains("tls") && asked.contains("region=ap-south-1"), "{asked}");
    assert_eq!(machine.must("stat -c '%a %g' /mnt/efs/.dr-agent"), "770 848\n");
    site.efs_becomes("healthy");

    // A link that somebody who can write there planted in its place: what it leads to is none of root's business.
    machine.must(
        "mv /mnt/efs/.dr-agent /mnt/efs/aside && mkdir -m 700 /root/private && ln -s /root/private /mnt/efs/.dr-agent",
    );
    machine.must("systemctl restart dr-agent-bootstrap");
    assert_eq!(machine.must("stat -c '%a %g' /root/private"), "700 0\n");
    let (status, words) = site.part("canary");
    assert!(status == "degraded" && words.contains("it leads to /root/private"), "{words}");
    machine.must("rm /mnt/efs/.dr-agent && systemctl restart dr-agent-bootstrap");
    assert_eq!(machine.must("stat -c '%a %g' /mnt/efs/.dr-agent"), "770 848\n");

    // The journal is on disk.
    eventually("the journal is on disk", || {
        let said = machine.run("ls /var/log/journal/$(cat /etc/machine-id)/system.journal");
        if said.ok { Ok(()) } else { Err(said.err) }
    });

    // Again: nothing is mounted or written anew.
    let state = || machine.must("stat -c '%i %Y' /etc/dr-agent/group.key /etc/dr-agent/database.password /mnt/efs");
    let (before, mounts) = (state(), site.lines("/run/mount.log"));
    machine.must("systemctl restart dr-agent-bootstrap");
    assert_eq!((state(), site.lines("/run/mount.log")), (before, mounts));
    assert_eq!(site.part("secrets").1, "are as the secret `shop/agent` has them");

    // A new password is taken over; one that is no password is not.
    machine.put("/run/aws/secret", SECRET.replace("swordfish", "halibut"), 0o600);
    machine.must("systemctl restart dr-agent-bootstrap");
    assert_eq!(machine.must("cat /etc/dr-agent/database.password"), "halibut\n");
    for bad in ["not json", r#"{"password":"a","key":"short"}"#] {
        machine.put("/run/aws/secret", bad, 0o600);
        machine.must("systemctl restart dr-agent-bootstrap");
        assert_eq!(site.part("secrets").0, "degraded");
        assert_eq!(machine.must("cat /etc/dr-agent/database.password"), "halibut\n", "the old one stays");
    }

    // What a secret has is written, whatever it lacks.
    machine.must("rm /etc/dr-agent/group.key /etc/dr-agent/database.password");
    machine.put("/run/aws/secret", r#"{"key":"0123456789abcdef0123456789abcdef"}"#, 0o600);
    machine.run("systemctl restart dr-agent-bootstrap");
    machine.must("systemctl stop dr-agent-bootstrap-retry");
    machine.must("test -s /etc/dr-agent/group.key && test ! -e /etc/dr-agent/database.password");
    let (status, words) = site.part("secrets");
    assert!(status == "unhealthy" && words.contains("`password`"), "{words}");

    // Without tags in the metadata EC2 is asked; without a tag what is missing is said, and nothing fails for it.
    site.imds.set("tags/instance/", None);
    site.imds.set("tags/instance/dr-agent:secret", None);
    machine.put("/run/aws/tag", "shop/agent\n", 0o644);
    machine.put("/run/aws/secret", SECRET, 0o600);
    machine.must("systemctl restart dr-agent-bootstrap");
    assert_eq!(machine.must("cat /etc/dr-agent/database.password"), "swordfish\n");
    machine.put("/run/aws/tag", "\n", 0o644);
    machine.must("rm /etc/dr-agent/database.password && systemctl restart dr-agent-bootstrap");
    assert!(site.is_active("dr-agent-bootstrap") && !site.is_active("dr-agent-bootstrap-retry"));
    let (status, words) = site.part("secrets");
    assert!(status == "degraded" && words.starts_with("no password file"), "{words}");
    site.is_up_and_says(&["Bootstrap", "no password file", "the instance has no tag `dr-agent:secret`"]);
    site.shut_down();

    // User data writes the file when the agent has started already, with the one of the package.
    machine.put("/etc/dr-agent/agent.toml", "schema = 1\n", 0o644);
    machine.must("systemctl start dr-agent");
    machine.put("/etc/dr-agent/agent.toml", CONFIG, 0o644);
    // As `aws s3 cp` leaves it.
    machine.must("touch --date=2020-01-01 /etc/dr-agent/agent.toml");
    assert!(site.boot(), "{}", machine.run("journalctl -b --no-pager -u dr-agent-bootstrap").out);
    site.efs_becomes("healthy");
    // One that has not changed since is no reason.
    let pid = || machine.must("systemctl show dr-agent --property=MainPID");
    let before = pid();
    machine.must("systemctl restart dr-agent-bootstrap");
    assert_eq!(pid(), before);
}

#[test]
fn a_bootstrap_that_fails_keeps_nobody_from_starting() {
    let Some(site) = Site::start() else { return };
    let machine = &site.machine;

    // A server that refuses.
    machine.put("/run/mount.mode", "refuse", 0o644);
    assert!(!site.boot(), "the bootstrap failed");
    site.is_up_and_says(&[
        "the bootstrap of this boot failed: mount",
        "/mnt/efs is not mounted: mount.efs: Failed to resolve \"fs-0123456789abcdef0:/\"",
        "systemctl status mnt-efs.mount",
    ]);
    site.efs_becomes("unhealthy");
    let ended = site.moment("dr-agent-bootstrap", "ExecMainExit");
    for unit in ["nginx", "shop"] {
        assert!(site.moment(unit, "ExecMainStart") > ended, "{unit} waits for it, also where it fails");
    }
    assert!(site.moment("dr-agent", "ActiveEnter") < ended, "the agent does not");
    // nginx can be restarted meanwhile: what goes on trying is not what it waits for.
    machine.must("timeout 10 systemctl restart nginx");
    machine.must("rm /run/mount.mode");
    eventually("it is mounted without anybody's help", || {
        let said = machine.run("findmnt /mnt/efs && systemctl show --property=Result dr-agent-bootstrap-retry");
        if said.ok { Ok(()) } else { Err(said.out) }
    });
    eventually("and the record says so", || match site.part("mount") {
        (status, _) if status == "healthy" => Ok(()),
        (_, words) => Err(words),
    });
    site.efs_becomes("healthy");
    site.shut_down();

    // A server that takes the connection and says nothing, with a helper that does not end when it is asked to.
    machine.put("/run/mount.mode", "hang", 0o644);
    assert!(!site.boot(), "the bootstrap failed");
    site.is_up_and_says(&[
        "the bootstrap of this boot failed: mount",
        "/mnt/efs is not mounted: no answer within 30 s",
    ]);
    site.shut_down();

    // A role that may not.
    machine.put("/run/aws/fail", "", 0o644);
    machine.must("rm -f /etc/dr-agent/group.key /etc/dr-agent/database.password");
    assert!(!site.boot(), "the bootstrap failed");
    site.is_up_and_says(&["AccessDeniedException", "`secretsmanager:GetSecretValue` on the secret in ap-south-1"]);
    machine.must("rm /run/aws/fail");
    eventually("it is fetched without anybody's help", || {
        let said = machine.run("cat /etc/dr-agent/database.password");
        if said.out == "swordfish\n" { Ok(()) } else { Err(said.err) }
    });
    site.shut_down();

    // A bad file: the last good one is in force, and it is said.
    machine.put("/etc/dr-agent/agent.toml", format!("no such key\n{CONFIG}"), 0o644);
    assert!(!site.boot(), "the bootstrap failed");
    site.is_up_and_says(&["the bootstrap of this boot failed: configuration", "agent.toml:1: not TOML"]);
    machine.must("findmnt /mnt/efs");
    site.efs_becomes("healthy");
    let page = machine.run("dr-agent check").out;
    assert!(!page.contains("chown"), "the copies are nobody's to mend: {page}");
    site.shut_down();

    // Something else at the mount point is not touched. (By the bootstrap: with `enforce` the agent would have it mounted anew.)
    machine.put("/etc/dr-agent/agent.toml", CONFIG.replace("\"enforce\"", "\"observe\""), 0o644);
    machine.must("mount -t tmpfs something-else:/ /mnt/efs && touch /mnt/efs/precious");
    assert!(!site.boot(), "the bootstrap failed");
    let (status, words) = site.part("mount");
    assert!(status == "unhealthy" && words.contains("not of fs-0123456789abcdef0"), "{words}");
    let precious = machine.run("test -e /mnt/efs/precious");
    let log = || machine.run("cat /proc/self/mountinfo; journalctl --boot --no-pager --lines=120").out;
    assert!(precious.ok, "{}", log());

    // One at a time.
    machine.must("umount /mnt/efs && systemctl stop dr-agent-bootstrap-retry");
    let busy = machine.run("flock /run/dr-agent-result/bootstrap.lock dr-agent bootstrap");
    assert!(!busy.ok && busy.err.contains("another bootstrap is at work"), "{}", busy.err);
}

/// Its role may not fetch the secret and the mount target refuses it: it has neither the file system nor the key to ask the
/// others, who may have it. AWS says that there is another one.
#[test]
fn an_instance_without_key_and_mount_takes_no_users_until_it_has_them() {
    let Some(site) = Site::start() else { return };
    let machine = &site.machine;
    let moto = Moto::start();
    let instances = moto.group("web", 2);
    let aws = AwsProxy::on(machine.listen(), moto.port);
    let variables = aws.environment().into_iter().map(|(name, value)| format!("Environment={name}={value}\n"));
    let variables = variables.collect::<String>();
    machine.put("/etc/systemd/system/dr-agent.service.d/aws.conf", format!("[Service]\n{variables}"), 0o644);
    machine.must("systemctl daemon-reload");
    // There is no database here: one that refuses would keep closed what a marker closed, as long as nobody else is heard.
    let (before, after) = CONFIG.split_once("[probe.database]").expect("it is there");
    let regions = after.find("[region.").map_or("", |at| &after[at..]);
    let config = format!("{before}{regions}").replace("\"ap-south-1\"", &format!("\"{REGION}\""));
    machine.put("/etc/dr-agent/agent.toml", config, 0o644);
    for (path, content) in [
        ("instance-id", instances[0].as_str()),
        ("placement/region", REGION),
        ("placement/availability-zone", "us-east-1a"),
        ("tags/instance/aws:autoscaling:groupName", "web"),
    ] {
        site.imds.set(path, Some(content));
    }

    machine.put("/run/aws/fail", "", 0o644);
    machine.put("/run/mount.mode", "refuse", 0o644);
    assert!(!site.boot(), "the bootstrap failed");
    site.is_up_and_says(&["the bootstrap of this boot failed", "AccessDeniedException", "/mnt/efs is not mounted"]);
    machine.journal_has(&format!("MESSAGE_ID={COMPONENT_CHANGED} COMPONENT=efs TO=unhealthy CAUSE=efs-not-mounted"));
    eventually("the mount closes the instance, and nothing else", || {
        let said = machine.run("dr-agent status --format json").out;
        let report: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        let verdict = &report["verdicts"]["instance"];
        let causes: Vec<_> = verdict["reasons"].as_array().into_iter().flatten().map(|why| &why["cause"]).collect();
        let is_so = verdict["state"] == "closed" && causes == ["efs-not-mounted"];
        if is_so { Ok(()) } else { Err(verdict.to_string()) }
    });
    let codes = || ["instance", "region"].map(|verdict| site.code(&format!("/health/{verdict}")));
    assert_eq!(codes(), ["503", "200"], "no load balancer sends it a user; the region is not its business");
    let said = machine.run("dr-agent explain instance").out;
    assert!(said.contains("closes the instance"), "{said}");
    // Also while there is no agent, and with the one that is started again.
    eventually("the marker stands", || match machine.must("ls /var/lib/dr-agent/public") {
        markers if markers == "instance-closed\n" => Ok(()),
        markers => Err(markers),
    });
    machine.must("systemctl stop dr-agent");
    assert_eq!(codes()[0], "503");
    machine.must("systemctl start dr-agent");
    eventually("the agent answers 503", || {
        let said = machine.run("curl --silent --head --max-time 5 http://127.0.0.1/health/instance").out;
        let is_its_own = !said.contains("absent") && said.to_ascii_lowercase().contains("x-dr-agent:");
        if said.contains(" 503 ") && is_its_own { Ok(()) } else { Err(said) }
    });

    // Role and mount target are mended.
    machine.must("rm /run/aws/fail /run/mount.mode");
    // An attempt to fetch and to mount takes half a minute by itself.
    within(Duration::from_secs(120), "it is mounted without anybody's help, and serves", || match codes() {
        codes if codes == ["200", "200"] => Ok(()),
        codes => Err(format!("{codes:?} {}", machine.run("dr-agent check").out)),
    });
    site.efs_becomes("healthy");
}

/// What efs-utils leave behind lives as long as the mount: in the unit of the mount, and for the mount's own path.
#[test]
fn a_remount_by_efs_utils_keeps_its_tunnel() {
    let Some(site) = Site::start() else { return };
    let machine = &site.machine;
    assert!(site.boot(), "{}", machine.run("journalctl -b --no-pager -u dr-agent-bootstrap").out);
    machine.must("touch /mnt/efs/of-the-old-one");
    let remount = |id: &str| -> Value {
        machine.must(&format!("echo {id} >/run/dr-agent/request/efs-remount"));
        eventually("the helper ends", || {
            let said = machine.run("cat /run/dr-agent-result/efs-remount.json").out;
            let state = machine.must("systemctl show --property=ActiveState --value dr-agent-helper-efs-remount");
            match serde_json::from_str::<Value>(&said) {
                Ok(done) if done["id"] == id && state == "inactive\n" => Ok(done),
                Ok(done) if done["id"] == id && state == "failed\n" => Ok(done),
                _ => Err(format!("{said} {state}")),
            }
        })
    };

    let done = remount("first");
    assert_eq!(done["ok"], true, "{done}");
    machine.must("findmnt /mnt/efs && ! test -e /mnt/efs/of-the-old-one && ! findmnt /run/dr-agent-result/staging");
    let tunnels = machine.must("cat /run/tunnels");
    let (path, pid) = tunnels.lines().last().and_then(|line| line.split_once(' ')).expect("a tunnel");
    assert_eq!(path, "/mnt/efs", "{tunnels}");
    let group = machine.must(&format!("cat /proc/{pid}/cgroup"));
    assert!(group.contains("/mnt-efs.mount"), "{group}");

    // Once for each request, whatever else happens to its file.
    machine.must("touch /mnt/efs/kept && touch /run/dr-agent/request/efs-remount && dr-agent helper efs-remount");
    machine.must("test -e /mnt/efs/kept && rm /mnt/efs/kept");

    // Without a unit there is nowhere for it to live: nothing is touched.
    machine.must("touch /mnt/efs/kept && rm /run/systemd/system/mnt-efs.mount && systemctl daemon-reload");
    machine.must("echo 'fs-0123456789abcdef0:/ /mnt/efs efs noauto,tls 0 0' >>/etc/fstab");
    let done = remount("second");
    assert!(done["error"].as_str().is_some_and(|why| why.contains("`systemctl daemon-reload`")), "{done}");
    machine.must("test -e /mnt/efs/kept");
    machine.must("systemctl daemon-reload");
    let done = remount("third");
    assert_eq!(done["ok"], true, "{done}");
    machine.must("findmnt /mnt/efs && ! test -e /mnt/efs/kept");
}

/// The last script of an image's making, on a machine that served.
#[test]
fn an_image_is_made_only_of_a_sealed_machine() {
    let Some(site) = Site::start() else { return };
    let machine = &site.machine;
    machine.must("systemctl enable --quiet nginx dr-agent dr-agent-bootstrap");
    assert!(site.boot(), "{}", machine.run("journalctl -b --no-pager -u dr-agent-bootstrap").out);
    site.efs_becomes("healthy");
    machine.must("systemctl stop nginx");

    let check = machine.run("dr-agent check --offline --format json");
    let said: Value = serde_json::from_str(&check.out).unwrap_or_else(|error| panic!("{error}: {}", check.err));
    let of = |name: &str| said["items"].as_array().unwrap().iter().find(|item| item["name"] == name).cloned();
    assert_eq!(said["status"], "unhealthy");
    for well in ["configuration", "accounts", "units", "folders", "files", "nginx", "unit files"] {
        assert_eq!(of(well).unwrap_or_else(|| panic!("no {well}"))["status"], "healthy", "{said:#}");
    }
    for trace in ["machine id", "secrets of the agent", "state of the agent", "journal"] {
        assert_eq!(of(trace).unwrap_or_else(|| panic!("no {trace}"))["status"], "unhealthy", "{said:#}");
    }

    // Not while it serves.
    let refused = machine.run("dr-agent bootstrap --seal");
    assert!(!refused.ok && refused.err.contains("an agent runs here"), "{}", refused.err);
    machine.must("systemctl stop dr-agent");
    let refused = machine.run("dr-agent bootstrap --seal");
    assert!(!refused.ok && refused.err.contains("is mounted at `/mnt/efs`"), "{}", refused.err);
    machine.must("umount /mnt/efs; test -s /etc/dr-agent/group.key");

    machine.put("/root/gate.sh", std::fs::read(repository().join("ami/scripts/gate.sh")).unwrap(), 0o755);
    machine.put("/home/ec2-user/.ssh/authorized_keys", "ssh-ed25519 AAAA builder", 0o600);
    machine.put("/root/.aws/credentials", "[default]\n", 0o600);
    // A bootstrap that is at it would fetch the secrets again, and put them where they were sealed.
    machine.put("/run/mount.mode", "refuse", 0o644);
    machine.must("systemctl restart --no-block dr-agent-bootstrap");
    let show = "systemctl show --property=ActiveState --value dr-agent-bootstrap dr-agent-bootstrap-retry";
    eventually("it is at it", || {
        let states = machine.must(show);
        if states.contains("activating") { Ok(()) } else { Err(states) }
    });
    let gate = machine.run("bash /root/gate.sh");
    let states = machine.must(show);
    assert!(!states.contains("activating"), "{states}{}{}", gate.out, gate.err);
    assert!(!gate.ok && gate.err.contains("/root/.aws/credentials is still there"), "{}{}", gate.out, gate.err);
    machine.must("rm -r /root/.aws");
    let gate = machine.run("bash /root/gate.sh");
    assert!(gate.ok && gate.out.contains("this machine may become an image"), "{}{}", gate.out, gate.err);
    machine.must("test -e /etc/machine-id && test ! -s /etc/machine-id && test -e /etc/dr-agent/agent.toml");

    // Each thing that an image lacks is seen.
    for (damage, repair, name) in [
        ("systemctl disable --quiet dr-agent", "systemctl enable --quiet dr-agent", "units"),
        (
            "sed -i s/include/#include/ /etc/nginx/sites-available/default",
            "sed -i s/#include/include/ /etc/nginx/sites-available/default",
            "nginx",
        ),
        (
            "mkdir -p /etc/systemd/system/dr-agent.service.d && printf '[Service]\\nExecStart=\\n' >/etc/systemd/system/dr-agent.service.d/z.conf",
            "rm /etc/systemd/system/dr-agent.service.d/z.conf",
            "unit files",
        ),
        ("chmod 700 /var/lib/dr-agent/public", "chmod 755 /var/lib/dr-agent/public", "folders"),
    ] {
        machine.must(damage);
        let said = machine.run("dr-agent check --offline --format json");
        let report: Value = serde_json::from_str(&said.out).unwrap();
        let found: Vec<_> =
            report["items"].as_array().unwrap().iter().filter(|item| item["status"] != "healthy").collect();
        assert!(!said.ok && found.len() == 1 && found[0]["name"] == name, "{name}: {report:#}");
        machine.must(repair);
    }
    assert!(machine.run("dr-agent check --offline").ok);
}
