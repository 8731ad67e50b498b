//! What makes the image: a template that Packer takes, scripts that shellcheck has nothing against, and an order in which
//! nothing comes after the gate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::machine::Machine;
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
