//! What makes the image: a template that Packer takes, scripts that shellcheck has nothing against, and an order in which
//! nothing comes after the gate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

#[test]
fn packer_takes_the_template() {
    let output = packer(&ami(), &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    // It looks: a file that is not there, or a setting that the builder does not know, is refused.
    assert!(!packer(&ami(), &["-var", "rpm=/no/such/file"]).status.success());
    let dir = tempfile::tempdir().unwrap();
    let broken = text(&ami().join("dr-agent.pkr.hcl")).replace("encrypt_boot", "encrypt_boots");
    fs::write(dir.path().join("dr-agent.pkr.hcl"), broken).unwrap();
    assert!(!packer(dir.path(), &[]).status.success());
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

/// The two copies get their names only together, each with its own image.
#[test]
fn both_copies_are_published_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let aws = dir.path().join("aws");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != fail ] && echo \"$*\" >>{}\n[ ! -e {}/refuse ] || [ \"$4\" != us-east-1 ]\n",
        log.display(),
        dir.path().display()
    );
    fs::write(&aws, script).unwrap();
    fs::set_permissions(&aws, fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = dir.path().join("manifest.json");
    let publish = |images: &str| {
        drop(fs::remove_file(&log));
        fs::write(&manifest, format!(r#"{{"builds":[{{"artifact_id":"old:ami-0"}},{{"artifact_id":"{images}"}}]}}"#))
            .unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let output = Command::new(ami().join("publish.sh")).arg(&manifest).env("PATH", path).output().unwrap();
        (output.status.success(), fs::read_to_string(&log).unwrap_or_default())
    };
    let both = "ap-south-1:ami-1,us-east-1:ami-2";
    let (ok, calls) = publish(both);
    assert!(ok, "{calls}");
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(calls.len(), 4);
    assert!(calls[1].starts_with("ec2 modify-image-attribute --region us-east-1 --image-id ami-2 --imds-support v2.0"));
    assert!(calls[2].starts_with("ssm put-parameter --region ap-south-1 ") && calls[2].ends_with("--value ami-1"));

    fs::write(dir.path().join("refuse"), "").unwrap();
    let (ok, calls) = publish(both);
    assert!(!ok && !calls.contains("put-parameter"), "{calls}");
    let (ok, calls) = publish("ap-south-1:ami-1");
    assert!(!ok && calls.is_empty(), "one region is not enough: {calls}");
}
