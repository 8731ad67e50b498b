//! An image that is good, and one thing after another that is not.

use std::os::unix::fs::{chown, symlink};

use super::*;

const FILE: &str = "schema = 1\nkey_file = \"/etc/dr-agent/group.key\"\n[probe.efs]\npath = \"/mnt/efs\"\n\
                    [region.ap-south-1]\nefs = \"fs-0123456789abcdef0\"\n";

struct Image(tempfile::TempDir);

impl Image {
    fn good() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        image.put("etc/dr-agent/agent.toml", FILE);
        image.put("etc/passwd", "root:x:0:0::/root:/bin/sh\ndr-agent:x:848:848::/:/sbin/nologin\n");
        image.put("etc/group", "root:x:0:\ndr-agent:x:848:\ndr-agent-admin:x:990:\n");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
        for unit in SHIPPED {
            image.put(&format!("usr/lib/systemd/system/{unit}"), &fs::read_to_string(shipped.join(unit)).unwrap());
        }
        image.put(TMPFILES, &fs::read_to_string(shipped.join("dr-agent.tmpfiles.conf")).unwrap());
        for unit in [AGENT, BOOTSTRAP, "nginx.service"] {
            image.enable(unit);
        }
        image
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn enable(&self, unit: &str) {
        let wants = self.0.path().join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("/usr/lib/systemd/system/{unit}"), wants.join(unit)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.path().join(path)).unwrap();
    }

    /// What is not as it should be.
    fn findings(&self) -> Vec<Item> {
        let (_, items) = files(self.0.path(), None);
        items.into_iter().filter(|item| item.status != Status::Healthy).collect()
    }

    fn finding(&self) -> Item {
        let mut found = self.findings();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

#[test]
fn a_good_image_has_no_findings() {
    assert_eq!(Image::good().findings(), []);
}

#[test]
fn a_bad_configuration_is_told_line_by_line() {
    let image = Image::good();
    image.put("etc/dr-agent/agent.toml", &FILE.replace("path", "pth"));
    let found = image.finding();
    assert_eq!((found.name.as_str(), found.status), (CONFIGURATION, Status::Unhealthy));
    assert!(found.words.contains("agent.toml:4: `probe.efs.pth` is not a known key"), "{}", found.words);

    // Good here, bad in the other region.
    image.put("etc/dr-agent/agent.toml", &format!("home = \"ap-south-1\"\n{FILE}[region.us-east-1]\n"));
    assert_eq!(image.finding().status, Status::Degraded, "the other region has no file system");

    image.remove("etc/dr-agent/agent.toml");
    let found = image.finding();
    assert!(found.status == Status::Degraded && found.words.contains("only nginx and the host"), "{found:?}");
}

#[test]
fn accounts_have_the_fixed_number() {
    let image = Image::good();
    image.put("etc/passwd", "dr-agent:x:990:848::/:/sbin/nologin\n");
    assert!(image.findings()[0].words.contains("990 and 848"));
    image.put("etc/passwd", "");
    assert!(image.findings()[0].words.contains("no user and group"));
    let image = Image::good();
    image.put("etc/group", "dr-agent:x:848:\n");
    assert!(image.finding().words.contains("no group `dr-agent-admin`"));
}

#[test]
fn units_are_there_and_started() {
    let image = Image::good();
    image.remove("etc/systemd/system/multi-user.target.wants/dr-agent-bootstrap.service");
    let found = image.finding();
    assert_eq!(found.status, Status::Degraded);
    assert_eq!(found.hint.as_deref(), Some("`systemctl enable dr-agent-bootstrap.service`"));
    image.remove("etc/systemd/system/multi-user.target.wants/dr-agent.service");
    assert_eq!(image.finding().status, Status::Unhealthy);
    image.remove("usr/lib/systemd/system/dr-agent-gate.service");
    assert_eq!(image.finding().words, "missing: dr-agent-gate.service");

    // The agent wants its helpers, which nobody enables; what is masked is started by nobody.
    let image = Image::good();
    image.put("etc/dr-agent/agent.toml", &format!("{FILE}[replace]\nmode = \"enforce\"\n"));
    assert_eq!(image.findings(), []);
    for unit in ["dr-agent-helper-efs-remount.path", "dr-agent-helper-repoint-apply.path"] {
        symlink("/dev/null", image.0.path().join("etc/systemd/system").join(unit)).unwrap();
    }
    let found = image.finding();
    let hint = "`systemctl unmask dr-agent-helper-efs-remount.path`";
    assert_eq!((found.status, found.hint.as_deref()), (Status::Degraded, Some(hint)));
}

#[test]
fn folders_are_the_agents() {
    let image = Image::good();
    let state = image.0.path().join("var/lib/dr-agent/public");
    fs::create_dir_all(&state).unwrap();
    let own = |mode: u32| {
        for dir in [state.as_path(), state.parent().unwrap()] {
            if rustix::process::geteuid().is_root() {
                chown(dir, Some(848), Some(848)).unwrap();
            }
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    own(0o700);
    let found = image.finding();
    assert!(found.words.contains("/var/lib/dr-agent/public is not 0755 dr-agent:dr-agent"), "{}", found.words);
    if rustix::process::geteuid().is_root() {
        own(0o755);
        assert_eq!(image.findings(), []);
        chown(&state, Some(0), Some(0)).unwrap();
        assert_eq!(image.finding().name, FOLDERS);
    }
    image.remove(TMPFILES);
    assert_eq!(image.finding().status, Status::Unhealthy);
}

#[test]
fn what_the_configuration_names_must_come_with_the_image() {
    let image = Image::good();
    let more = "[probe.database]\nuser = \"a\"\ntls_ca = \"/etc/dr-agent/rds.pem\"\n[probe.exec.queue]\ncommand = [\"/usr/libexec/q\"]\n";
    let text = FILE.replace("[region.ap-south-1]", &format!("{more}[region.ap-south-1]\ndatabase = \"db\""));
    image.put("etc/dr-agent/agent.toml", &text);
    let words = image.finding().words;
    assert!(words.contains("rds.pem (`probe.database.tls_ca`)") && words.contains("`probe.exec.queue`"), "{words}");
    // So it is with two regions, of which none is known in an image.
    let two = "[region.us-east-1]\nefs = \"fs-0fedcba9876543210\"\ndatabase = \"db2\"\n";
    image.put("etc/dr-agent/agent.toml", &format!("home = \"ap-south-1\"\n{text}{two}"));
    assert!(image.finding().words.contains("rds.pem (`probe.database.tls_ca`)"));
    image.put("etc/dr-agent/rds.pem", "");
    image.put("usr/libexec/q", "");
    assert!(image.finding().words.starts_with("/usr/libexec/q "), "nobody may run it");
}

#[test]
fn nginx_and_systemd_are_asked() {
    let dump = "# configuration file /etc/nginx/nginx.conf:\nhttp { server { listen 80; INCLUDE } }\n";
    let with = dump.replace("INCLUDE", "include /etc/nginx/dr-agent.d/*.conf;");
    let of = |said| nginx(said).into_iter().map(|item| (item.status, item.words)).collect::<Vec<_>>();
    assert!(matches!(&of(Ok(with.clone()))[..], [(Status::Healthy, _)]));
    let found = of(Ok(dump.replace("INCLUDE", "")));
    assert!(matches!(&found[..], [(Status::Degraded, words)] if words.ends_with(": listen 80")), "{found:?}");
    // Two faults have two hints.
    let late = with.replace("include", "return 301 /; include");
    let found = nginx(Ok(late.replace("http {", "http { server { listen 81; }")));
    assert!(found.iter().all(|item| item.status == Status::Degraded), "{found:?}");
    assert!(
        matches!(&found[..], [without, late]
        if without.words.ends_with(": listen 81") && late.words.ends_with(": listen 80 (`return`)")
        && late.hint.as_ref().is_some_and(|hint| hint.starts_with("move "))),
        "{found:?}"
    );
    let refused = Failed::Said("nginx -T".to_owned(), "unknown directive".to_owned());
    assert!(matches!(&of(Err(refused))[..], [(Status::Unhealthy, _)]));
    assert_eq!(verified(Ok(String::new())).status, Status::Healthy);
    let missing = Failed::NotRun("systemd-analyze".to_owned(), "not found".to_owned());
    assert_eq!(verified(Err(missing)).status, Status::Unknown, "it could not be told");
}

#[test]
fn what_is_not_sealed_fails() {
    let image = Image::good();
    let (config, _) = files(image.0.path(), None);
    assert_eq!(sealed(image.0.path(), &config)[0].status, Status::Healthy);
    image.put("etc/dr-agent/group.key", "key");
    assert_eq!(sealed(image.0.path(), &config)[0].status, Status::Unhealthy);
}
