//! What is planned, by what is there.

use super::*;
use crate::config::load;

const FILE: &str = r#"
schema = 1
home = "ap-south-1"
key_file = "/etc/dr-agent/group.key"
[probe.efs]
path = "/mnt/efs"
[probe.database]
user = "dr_agent"
password_file = "/etc/dr-agent/database.password"
tls_ca = "/etc/dr-agent/rds.pem"
[region.ap-south-1]
database = "shop.ap-south-1.rds.amazonaws.com"
efs = "fs-0123456789abcdef0"
[region.us-east-1]
database = "shop.us-east-1.rds.amazonaws.com"
efs = "fs-0fedcba9876543210"
"#;

fn config(text: &str, region: Option<&str>) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    load::read(&path).unwrap().config(region).unwrap_or_else(|problems| panic!("{problems}"))
}

fn home() -> Config {
    config(FILE, Some("ap-south-1"))
}

fn files() -> Vec<PathBuf> {
    ["group.key", "database.password", "rds.pem"].map(|name| Path::new("/etc/dr-agent").join(name)).into()
}

fn facts<'a>(config: &'a Config, tag: &'a Tag, present: &'a [PathBuf]) -> Facts<'a> {
    Facts {
        config,
        problems: &[],
        metadata_region: Some("ap-south-1"),
        tag,
        mountinfo: b"30 1 259:1 / / rw - ext4 /dev/root rw\n",
        fstab: "",
        has_helper: false,
        unit: None,
        present,
        keeps_journal: true,
    }
}

fn item<'a>(plan: &'a Plan, name: &str) -> &'a Item {
    plan.settled.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("no {name} in {plan:?}"))
}

#[test]
fn a_fresh_instance_fetches_mounts_and_makes_the_folder() {
    let (config, tag) = (home(), Tag::Is("shop/agent".to_owned()));
    let plan = Plan::of(&Facts { keeps_journal: false, ..facts(&config, &tag, &[]) });
    let fetch = plan.fetch.as_ref().unwrap();
    assert_eq!((fetch.name.as_str(), fetch.region.as_str(), fetch.is_refresh), ("shop/agent", "ap-south-1", false));
    assert_eq!((fetch.password_file.as_ref(), fetch.key_file.as_ref()), (Some(&files()[1]), Some(&files()[0])));
    let start = plan.mount.as_ref().unwrap();
    assert_eq!((start.unit.as_str(), start.path.as_path()), ("mnt-efs.mount", Path::new("/mnt/efs")));
    assert!(start.write.as_ref().unwrap().contains("What=fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/\n"));
    assert_eq!(plan.folder.as_deref(), Some(Path::new("/mnt/efs/.dr-agent")));
    assert!(plan.make_journal);
    assert_eq!(item(&plan, DATABASE).status, Status::Degraded, "the bundle is not there");
}

#[test]
fn the_other_region_has_its_own_file_system_and_database() {
    let (config, tag, files) = (config(FILE, Some("us-east-1")), Tag::Is("s".to_owned()), files());
    let plan = Plan::of(&Facts { metadata_region: Some("us-east-1"), ..facts(&config, &tag, &files) });
    assert!(plan.mount.as_ref().unwrap().what.starts_with("fs-0fedcba9876543210.efs.us-east-1."));
    assert_eq!(item(&plan, DATABASE), &Item::well(DATABASE, "shop.us-east-1.rds.amazonaws.com:3306"));
    assert_eq!(plan.fetch.unwrap().region, "us-east-1");
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let (config, tag, files) = (home(), Tag::Absent, files());
    let mounted = b"101 30 0:52 / /mnt/efs rw - nfs4 fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/ rw\n";
    let plan = Plan::of(&Facts { mountinfo: mounted, ..facts(&config, &tag, &files) });
    assert_eq!((plan.mount, plan.fetch, plan.make_journal), (None, None, false));
    assert_eq!(plan.folder.as_deref(), Some(Path::new("/mnt/efs/.dr-agent")), "who is looked at again");
    assert!(plan.settled.iter().all(|item| item.status == Status::Healthy), "{:?}", plan.settled);

    let text = Mount::of("fs-0123456789abcdef0", "ap-south-1", false).unit(Path::new("/mnt/efs"));
    let again = Plan::of(&Facts { unit: Some(&text), ..facts(&config, &tag, &files) });
    assert_eq!(again.mount.unwrap().write, None, "the unit says so already");
    let tls = Plan::of(&Facts { unit: Some(&text), has_helper: true, ..facts(&config, &tag, &files) });
    assert!(tls.mount.unwrap().write.unwrap().contains("Type=efs\n"), "efs-utils were installed since");
}

#[test]
fn a_mount_of_something_else_is_not_touched() {
    let (config, tag) = (home(), Tag::Absent);
    for (line, why) in [
        ("nfs4 fs-0fedcba9876543210.efs.us-east-1.amazonaws.com:/", "not of fs-0123456789abcdef0"),
        ("ext4 /dev/nvme1n1", "its type is ext4, not nfs4 or nfs"),
    ] {
        let mountinfo = format!("101 30 0:52 / /mnt/efs rw - {line} rw\n");
        let plan = Plan::of(&Facts { mountinfo: mountinfo.as_bytes(), ..facts(&config, &tag, &[]) });
        assert_eq!((&plan.mount, &plan.folder), (&None, &None));
        let item = item(&plan, MOUNT);
        assert!(item.status == Status::Unhealthy && item.words.contains(why), "{item:?}");
    }
    // The tunnel of efs-utils names no file system.
    let tunnel = b"101 30 0:52 / /mnt/efs rw - nfs4 127.0.0.1:/ rw,port=20049,addr=127.0.0.1\n";
    let plan = Plan::of(&Facts { mountinfo: tunnel, ..facts(&config, &tag, &[]) });
    assert_eq!(item(&plan, MOUNT).status, Status::Healthy);
    // But the unit that made it does.
    let unit = |id| Mount::of(id, "ap-south-1", true).unit(Path::new("/mnt/efs"));
    for (id, status) in [("fs-0123456789abcdef0", Status::Healthy), ("fs-0aaaaaaaaaaaaaaaa", Status::Unhealthy)] {
        let unit = unit(id);
        let made = Facts { mountinfo: tunnel, unit: Some(&unit), has_helper: true, ..facts(&config, &tag, &[]) };
        let plan = Plan::of(&made);
        assert_eq!(item(&plan, MOUNT).status, status, "{:?}", item(&plan, MOUNT));
    }
}

#[test]
fn an_operators_fstab_line_stays_in_force() {
    let (config, tag) = (home(), Tag::Absent);
    let plan = Plan::of(&Facts { fstab: "fs-1:/ /mnt/efs efs _netdev 0 0\n", ..facts(&config, &tag, &[]) });
    let start = plan.mount.unwrap();
    assert_eq!((start.unit.as_str(), start.write), ("mnt-efs.mount", None));
    // An automount of that line, which nobody has used yet.
    let fstab = "fs-1:/ /mnt/efs efs _netdev,x-systemd.automount 0 0\n";
    let waiting = b"101 30 0:52 / /mnt/efs rw - autofs systemd-1 rw\n";
    let plan = Plan::of(&Facts { fstab, mountinfo: waiting, ..facts(&config, &tag, &[]) });
    assert_eq!(plan.mount.map(|start| start.unit), Some("mnt-efs.mount".to_owned()));
}

#[test]
fn without_a_tag_what_is_missing_is_said() {
    let (config, files) = (home(), files());
    let plan = Plan::of(&facts(&config, &Tag::Absent, &[]));
    let found = item(&plan, SECRETS);
    assert!(found.status == Status::Degraded && found.words.starts_with("no password file"), "{found:?}");
    assert!(found.hint.as_ref().unwrap().contains("/etc/dr-agent/database.password and /etc/dr-agent/group.key"));
    let plan = Plan::of(&facts(&config, &Tag::Absent, &files[1..]));
    assert!(item(&plan, SECRETS).words.starts_with("no key file"));
    let silent = Tag::Unknown("nobody answers".to_owned());
    let plan = Plan::of(&facts(&config, &silent, &[]));
    let found = item(&plan, SECRETS);
    assert!(found.words.ends_with("could not be told: nobody answers"), "{found:?}");
    assert_eq!(found.status, Status::Unhealthy, "somebody may, and it is tried again");
    let plan = Plan::of(&facts(&config, &Tag::Elsewhere, &[]));
    assert_eq!(item(&plan, SECRETS).status, Status::Degraded, "no attempt would change that");
    let plan = Plan::of(&facts(&config, &silent, &files));
    assert_eq!(item(&plan, SECRETS).status, Status::Healthy, "they are there, whoever wrote them");
}

#[test]
fn a_secret_is_fetched_by_name_and_never_by_something_else() {
    let (config, files) = (home(), files());
    for bad in ["--endpoint-url", "", "a b", "$(id)", "a\nb"] {
        let tag = Tag::Is(bad.to_owned());
        let plan = Plan::of(&facts(&config, &tag, &[]));
        assert_eq!(plan.fetch, None, "{bad}");
        assert_eq!(item(&plan, SECRETS).status, Status::Degraded, "{bad}");
    }
    let arn = Tag::Is("arn:aws:secretsmanager:ap-south-1:123456789012:secret:shop/agent-AbCdEf".to_owned());
    assert!(Plan::of(&facts(&config, &arn, &files)).fetch.unwrap().is_refresh);
}

#[test]
fn who_has_no_region_is_told_what_depends_on_it() {
    let (config, tag) = (config(FILE, None), Tag::Is("s".to_owned()));
    let plan = Plan::of(&Facts { metadata_region: None, ..facts(&config, &tag, &[]) });
    assert_eq!(item(&plan, REGION).status, Status::Unhealthy);
    assert_eq!(item(&plan, MOUNT).status, Status::Unhealthy);
    assert_eq!((plan.mount, plan.fetch), (None, None));
}

#[test]
fn a_region_file_that_came_with_the_image_is_noticed() {
    let (config, files) = (home(), files());
    let plan = Plan::of(&Facts { metadata_region: Some("us-east-1"), ..facts(&config, &Tag::Absent, &files) });
    let region = item(&plan, REGION);
    assert!(region.status == Status::Degraded && region.words.contains("us-east-1"), "{region:?}");
}

#[test]
fn a_web_tier_without_anything_shared_has_nothing_to_do() {
    let config = config("schema = 1\n", None);
    let plan = Plan::of(&Facts { metadata_region: None, ..facts(&config, &Tag::Absent, &[]) });
    assert_eq!(plan.settled.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), [CONFIGURATION, JOURNAL]);
    assert_eq!((plan.mount, plan.fetch, plan.folder), (None, None, None));
}

#[test]
fn a_bad_file_is_told_and_the_rest_goes_on_with_what_is_in_force() {
    let (config, files) = (home(), files());
    let problems = ["agent.toml:3: bad".to_owned()];
    let plan = Plan::of(&Facts { problems: &problems, ..facts(&config, &Tag::Absent, &files) });
    assert_eq!(item(&plan, CONFIGURATION).status, Status::Unhealthy);
    assert!(plan.mount.is_some());
}
