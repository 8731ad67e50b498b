//! What makes the image: a template that Packer takes, scripts that shellcheck has nothing against, and an order in which
//! nothing comes after the gate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::installed::Installed;
use crate::support::machine::Machine;
use crate::support::package::package;
use crate::support::repository;

fn ami() -> PathBuf {
    repository().join("ami")
}

fn scripts() -> Vec<PathBuf> {
    let found = fs::read_dir(ami().join("scripts")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = found.chain([ami().join("publish.sh")]).collect();
    found.sort();
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The template without comments.
fn template() -> String {
    let text = text(&ami().join("dr-agent.pkr.hcl"));
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

fn packer(dir: &Path, more: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let rpm = home.path().join("dr-agent.rpm");
    fs::write(&rpm, "").unwrap();
    let config = repository().join("packaging/examples/two-regions.toml");
    Command::new("packer")
        .arg("validate")
        .args(["-var", &format!("rpm={}", rpm.display()), "-var", &format!("config={}", config.display())])
        .args(more)
        .arg(dir)
        .env("HOME", home.path())
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .expect("run packer (tests/setup installs it)")
}

/// What packer printed.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[test]
fn packer_takes_the_template() {
    let output = packer(&ami(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    // It looks: a file that is not there, or a setting that the builder does not know, is refused.
    let output = packer(&ami(), &["-var", "rpm=/no/such/file"]);
    assert!(!output.status.success() && said(&output).contains("Bad source '/no/such/file'"), "{}", said(&output));
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(ami().join("scripts")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let (file, unaltered) = (copy.path().join("dr-agent.pkr.hcl"), text(&ami().join("dr-agent.pkr.hcl")));
    fs::write(&file, &unaltered).unwrap();
    let output = packer(copy.path(), &[]);
    assert!(output.status.success(), "a copy is as good: {}", said(&output));
    fs::write(&file, unaltered.replace("encrypt_boot", "encrypt_boots")).unwrap();
    let output = packer(copy.path(), &[]);
    let error = said(&output);
    assert!(
        !output.status.success() && error.contains(r#"An argument named "encrypt_boots" is not expected"#),
        "{error}"
    );
}

#[test]
fn the_image_is_the_same_in_both_regions() {
    let template = template();
    assert!(template.contains("ami_regions = [var.home, var.peer]"));
    assert!(template.contains("encrypt_boot  = true"));
    // Regions are named where they are variables, and in nothing that is put on the machine.
    for region in ["ap-south-1", "us-east-1"] {
        assert_eq!(template.matches(region).count(), 1, "{region}");
        for script in scripts() {
            let code: String = text(&script).lines().filter(|line| !line.trim_start().starts_with('#')).collect();
            assert!(!code.contains(region), "{} names {region}", script.display());
        }
    }
    assert!(!template.contains("user_data") && !template.contains("iam_instance_profile"), "it is made without rights");
}

#[test]
fn nothing_comes_after_the_gate() {
    let template = template();
    let place = |what: &str| template.find(what).unwrap_or_else(|| panic!("no {what}"));
    let (install, harden, gate) = (place("scripts/install.sh"), place("scripts/harden.sh"), place("scripts/gate.sh"));
    assert!(install < harden && harden < gate);
    assert_eq!(template.rfind("provisioner \""), template[..gate].rfind("provisioner \""), "the gate is the last one");
    let gate = text(&ami().join("scripts/gate.sh"));
    let seal = gate.find("dr-agent bootstrap --seal").expect("it seals");
    assert!(gate.find("dr-agent check --offline ||").expect("it checks") > seal, "what was sealed is what is checked");
}

#[test]
fn scripts_stop_at_the_first_mistake_and_shellcheck_finds_none() {
    let scripts = scripts();
    assert!(scripts.len() >= 4, "{scripts:?}");
    let output = Command::new("shellcheck").args(&scripts).output().expect("run shellcheck (tests/setup installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for script in &scripts {
        let code = text(script);
        assert!(
            code.starts_with("#!/usr/bin/env bash\n") && code.contains("\nset -euo pipefail\n"),
            "{}",
            script.display()
        );
        assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o111, 0o111, "{}", script.display());
    }
}

/// The AWS CLI, as far as publishing goes: it writes down what it is asked, and a name in a file for each region. In
/// `us-east-1` it refuses everything where the file `refuse` stands, and takes a name without keeping it where `ignore` does.
const AWS: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/log"
[ "$4" != us-east-1 ] || [ ! -e "$here/refuse" ] || exit 254
case $2 in
    put-parameter)
        for value; do :; done
        [ "$4" = us-east-1 ] && [ -e "$here/ignore" ] || echo "$value" >"$here/$4"
        ;;
    get-parameter) cat "$here/$4" 2>/dev/null || { echo ParameterNotFound >&2; exit 254; } ;;
esac
"#;

/// A folder with that and a manifest.
struct Publisher(tempfile::TempDir);

/// What a publication came to.
struct Published {
    code: Option<i32>,
    out: String,
    err: String,
    calls: String,
}

impl Publisher {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let aws = folder.path().join("aws");
        fs::write(&aws, AWS).unwrap();
        fs::set_permissions(&aws, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn put(&self, name: &str, content: &str) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    fn publish(&self, images: &str) -> Published {
        self.put("log", "");
        self.put(
            "manifest.json",
            &format!(r#"{{"builds":[{{"artifact_id":"old:ami-0"}},{{"artifact_id":"{images}"}}]}}"#),
        );
        let output = Command::new(ami().join("publish.sh"))
            .args(["--wait", "0"])
            .arg(self.0.path().join("manifest.json"))
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .output()
            .unwrap();
        Published {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            calls: text(&self.0.path().join("log")),
        }
    }
}

const BOTH: &str = "ap-south-1:ami-1,us-east-1:ami-2";

/// The two copies get their names only together, each with its own image.
#[test]
fn both_copies_are_published_or_none() {
    let publisher = Publisher::new();
    let said = publisher.publish(BOTH);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "ap-south-1 ami-1\nus-east-1 ami-2\n"), "{}", said.err);
    let calls: Vec<&str> = said.calls.lines().collect();
    assert_eq!(calls.len(), 6, "{calls:?}");
    assert!(calls[1].starts_with("ec2 modify-image-attribute --region us-east-1 --image-id ami-2 --imds-support v2.0"));
    assert!(calls[2].starts_with("ssm put-parameter --region ap-south-1 ") && calls[2].ends_with("--value ami-1"));
    assert!(calls[5].starts_with("ssm get-parameter --region us-east-1 "), "{calls:?}");

    publisher.put("refuse", "");
    let said = publisher.publish(BOTH);
    assert!(said.code != Some(0) && !said.calls.contains("put-parameter"), "{}", said.calls);
    let said = publisher.publish("ap-south-1:ami-1");
    assert!(said.code == Some(1) && said.calls.is_empty(), "one region is not enough: {}", said.calls);
}

/// Systems Manager takes a name first and looks at the image afterwards.
#[test]
fn a_name_that_was_taken_and_did_not_change_is_not_published() {
    let publisher = Publisher::new();
    publisher.put("ignore", "");
    for stands in ["unknown (ParameterNotFound ", "ami-old"] {
        let said = publisher.publish(BOTH);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{}", said.err);
        assert!(said.calls.contains("put-parameter --region us-east-1 "), "it was asked for: {}", said.calls);
        assert!(said.err.contains(&format!("/dr-agent/ami in us-east-1 is {stands}")), "{}", said.err);
        assert!(said.err.contains("already in: ap-south-1 ami-1"), "{}", said.err);
        publisher.put("us-east-1", "ami-old\n");
    }
}

/// OpenSSH's daemon, as far as the script asks it: of two files that name a setting the first one counts, in the order of
/// their names.
const SSHD: &str = r#"#!/bin/sh
[ "$*" = -T ] || exit 255
cat /etc/ssh/sshd_config.d/*.conf | awk 'NF { $1 = tolower($1); if (!seen[$1]++) print }'
"#;

/// One boot for the hardening: what it writes must be in force.
#[test]
fn what_the_hardening_sets_must_be_in_force() {
    let Some(machine) = Machine::boot() else { return };
    machine.put("/usr/local/sbin/sshd", SSHD, 0o755);
    machine.put("/root/harden.sh", text(&ami().join("scripts/harden.sh")), 0o755);
    let harden = || machine.run("PATH=/usr/local/sbin:$PATH bash /root/harden.sh");
    let other = "/etc/ssh/sshd_config.d/50-cloud-init.conf";
    machine.put(other, "PasswordAuthentication yes\n", 0o600);
    let said = harden();
    assert!(said.ok, "a later file does not count: {}", said.err);
    machine.must("grep -q SystemMaxUse /etc/systemd/journald.conf.d/10-dr-agent.conf");
    machine.must(&format!("mv {other} /etc/ssh/sshd_config.d/05-first.conf"));
    let said = harden();
    let expected = r#"sshd has in force "passwordauthentication yes", not "PasswordAuthentication no""#;
    assert!(!said.ok && said.err.contains(expected), "{}", said.err);
    machine.put("/etc/ssh/sshd_config.d/05-first.conf", "PermitRootLogin prohibit-password\n", 0o600);
    let said = harden();
    assert!(!said.ok && said.err.contains(r#"not "PermitRootLogin no""#), "{}", said.err);
    assert!(!said.err.contains("asswordAuthentication"), "only what differs: {}", said.err);
    // The folder is not read at all.
    machine.put("/usr/local/sbin/sshd", "#!/bin/sh\necho permitrootlogin no\n", 0o755);
    let said = harden();
    assert!(
        !said.ok && said.err.contains(r#"sshd has in force "nothing", not "PasswordAuthentication no""#),
        "{}",
        said.err
    );
}

/// Amazon Linux's package manager: the agent's package is Debian's rpm's to install, what else is asked for is written down.
const DNF: &str = r#"#!/bin/sh
echo "$*" >>/root/dnf.log
for word; do case $word in *.rpm) exec rpm --install --force-debian --nodeps "$word" ;; esac; done
"#;

/// Fetches the authorities of RDS.
const CURL: &str = r#"#!/bin/sh
echo "$*" >>/root/curl.log
while [ "$1" != --output ]; do shift; done
printf '%s\n' '-----BEGIN CERTIFICATE-----' >"$2"
"#;

/// Mounts memory, as efs-utils the file system of the region.
const MOUNT_EFS: &str = "#!/bin/sh\nexec mount -i -t tmpfs \"$1\" \"$2\"\n";

/// nginx's configuration as far as Amazon Linux's is other than Debian's: a server block that includes a folder.
const NGINX: &str = "user www-data;\npid /run/nginx.pid;\nevents {}\nhttp {\n    include /etc/nginx/conf.d/*.conf;\n    server {\n\
                     \x20       listen 80;\n        server_name _;\n        root /usr/share/nginx/html;\n\
                     \x20       include /etc/nginx/default.d/*.conf;\n        error_page 404 /404.html;\n\
                     \x20       location = /404.html {}\n    }\n}\n";

/// The strings of a list in the template.
fn list(name: &str) -> Vec<String> {
    let template = template();
    let (_, list) = template.split_once(&format!("{name} = [")).unwrap_or_else(|| panic!("no {name}"));
    let (list, _) = list.split_once(']').unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// All three scripts in the template's order, with its variables, and a boot of what came out.
#[test]
fn the_scripts_make_an_image_that_boots() {
    let Some(machine) = Machine::boot() else { return };
    // As Amazon Linux is before it: with the builder's way in, a password, cloud-init and without an nginx that runs.
    machine.must(
        "systemctl disable --quiet --now nginx && useradd --create-home ec2-user && usermod --password x ec2-user",
    );
    machine.must("mkdir -p /etc/cloud/cloud.cfg.d");
    machine.put("/home/ec2-user/.ssh/authorized_keys", "ssh-ed25519 AAAA builder", 0o600);
    machine.put("/etc/nginx/nginx.conf", NGINX, 0o644);
    for (name, script) in [("dnf", DNF), ("curl", CURL), ("sshd", SSHD)] {
        machine.put(&format!("/usr/local/bin/{name}"), script, 0o755);
    }
    machine.put("/sbin/mount.efs", MOUNT_EFS, 0o755);
    // The example, without what ami/README.md says to take out.
    let example = text(&repository().join("packaging/examples/two-regions.toml"));
    let (config, exec) = example.split_once("[probe.exec.").expect("an example with a program of the site's own");
    assert!(!exec.contains("\n["), "it is the last table");
    machine.put("/tmp/agent.toml", config, 0o600);
    machine.put("/tmp/dr-agent.rpm", fs::read(package(1)).unwrap(), 0o600);
    let run = |variables: &str, script: &str| {
        let name = script.rsplit('/').next().unwrap();
        machine.put(&format!("/tmp/{name}"), text(&ami().join("scripts").join(name)), 0o755);
        let said = machine.run(&format!("PATH=/usr/local/bin:$PATH; env {variables} bash /tmp/{name}"));
        assert!(said.ok, "{name}: {}{}", said.out, said.err);
        said
    };
    let variables = list("environment_vars").join(" ");
    for script in list("scripts") {
        run(&variables, &script);
    }

    assert_eq!(
        machine.must("cat /root/dnf.log"),
        "--assumeyes --quiet upgrade --refresh\n\
         --assumeyes --quiet install nginx nginx-mod-stream amazon-efs-utils awscli-2\n\
         --assumeyes --quiet install /tmp/dr-agent.rpm\n"
    );
    let fetched = machine.must("cat /root/curl.log");
    assert!(fetched.ends_with(" https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem\n"), "{fetched}");
    assert!(config.contains("tls_ca = \"/etc/dr-agent/rds-global-bundle.pem\""));
    let laid =
        machine.must("stat --format '%a %U:%G %n' /etc/dr-agent/* && cd /tmp && ls *.rpm *.toml 2>/dev/null || true");
    assert_eq!(laid, "644 root:root /etc/dr-agent/agent.toml\n644 root:root /etc/dr-agent/rds-global-bundle.pem\n");
    let units = "nginx dr-agent dr-agent-bootstrap dr-agent-gate";
    assert_eq!(machine.must(&format!("systemctl is-enabled {units}")), "enabled\n".repeat(4));
    assert_eq!(machine.run(&format!("systemctl is-active {units}")).out, "inactive\n".repeat(4));
    machine.must("nginx -t");
    assert_eq!(machine.must("cat /etc/cloud/cloud.cfg.d/10-dr-agent.cfg"), "ssh_pwauth: false\ndisable_root: true\n");
    let open = "! grep --invert-match '^[^:]*:[!*]' /etc/shadow && grep --quiet '^ec2-user:!x:' /etc/shadow";
    machine.must(open);

    let gate = run("", "gate.sh");
    assert!(gate.out.ends_with("gate: this machine may become an image\n"), "{}{}", gate.out, gate.err);
    machine.must("test ! -s /etc/machine-id && test ! -e /home/ec2-user/.ssh/authorized_keys");

    // An instance, which learns its region without the metadata service.
    machine.put("/etc/dr-agent/region", "ap-south-1\n", 0o644);
    let mut installed = Installed { machine };
    installed.machine.reboot();
    installed.agent_answers("/health/live");
    assert_eq!(installed.ask("/health/live").code, "200");
    installed.machine.must("test -s /etc/machine-id");
}
