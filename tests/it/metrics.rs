use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dr_agent::clock::{self, BootTime};
use dr_agent::config::load;
use dr_agent::health::cause::Cause;
use dr_agent::health::verdict::Memory;
use dr_agent::input::Input;
use dr_agent::latches::Latches;
use dr_agent::observation::{
    Component, DatabaseFacts, DiskFacts, Facts, Finding, HostFacts, Observation, Outcome, ReplicaChannel, Stage,
};
use dr_agent::outputs::metrics;
use dr_agent::owner::Owner;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use tokio::sync::oneshot;

const CONFIG: &str = r#"
schema = 1
deployment = "shop"

[probe.efs]
path = "/mnt/efs"

[probe.database]
user = "dr_agent"

[region.ap-south-1]
database = "shop.example.com:3306"

[probe.exec.queue-depth]
command = ["/bin/true"]
"#;

fn owner(now: BootTime) -> Owner {
    let mut file = tempfile::NamedTempFile::new().expect("make a file");
    file.write_all(CONFIG.as_bytes()).expect("write it");
    let loaded = load::at_start(Some(file.path()), Some("ap-south-1"));
    assert_eq!(loaded.problems, Vec::<String>::new());
    let about = About { owner: state::Owner::default(), boot: "boot".to_owned(), config_problems: vec![] };
    Owner::new(
        about,
        Arc::new(loaded.config),
        State::default(),
        Memory::default(),
        Latches::default(),
        false,
        vec![],
        now,
    )
}

fn observe(owner: &mut Owner, component: Component, began: BootTime, outcome: Outcome, facts: Facts) {
    let took = Duration::from_millis(20);
    // The second `read` must not become a second series.
    let stages = ["connect", "read", "read"].map(|name| Stage { name, took: took / 4 }).to_vec();
    let (reply, _) = oneshot::channel();
    owner.take(Input::Observed(Observation { component, began, took, outcome, stages, facts }, reply), began + took);
}

fn snapshot() -> (Snapshot, BootTime) {
    let start = BootTime::from_boot(Duration::from_secs(1_000));
    let mut owner = owner(start);
    let replica = ReplicaChannel { lag_seconds: Some(7), ..ReplicaChannel::default() };
    let database = DatabaseFacts { read_only: true, replica: Some(vec![replica]), ..DatabaseFacts::default() };
    // A file system of which nothing is known: 0 of 0.
    let unknown = DiskFacts { path: "/odd \"\\\n".to_owned(), free_percent: f64::NAN, ..DiskFacts::default() };
    let disk = DiskFacts { path: "/".to_owned(), free_percent: 25.0, ..DiskFacts::default() };
    let known = DiskFacts { free_percent: 50.0, ..unknown.clone() };
    let host = HostFacts { memory_total: 1 << 30, disks: vec![disk, unknown, known], ..HostFacts::default() };
    let hung = || Outcome::Fail(Finding::new(Cause::EfsHung, "statvfs has not returned"));
    observe(&mut owner, Component::Nginx, start, Outcome::Pass, Facts::None);
    observe(&mut owner, Component::Database, start, Outcome::Pass, Facts::Database(database));
    observe(&mut owner, Component::Host, start, Outcome::Pass, Facts::Host(host));
    observe(&mut owner, Component::Efs, start, Outcome::Pass, Facts::None);
    let later = start + Duration::from_secs(4);
    observe(&mut owner, Component::Efs, later, hung(), Facts::None);
    let snapshot = owner.publish(later + Duration::from_secs(1), clock::wall());
    (snapshot, later + Duration::from_secs(3))
}

fn value<'a>(page: &'a str, series: &str) -> Option<&'a str> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[test]
fn the_page_says_what_the_snapshot_says() {
    let (snapshot, now) = snapshot();
    let page = metrics::page(&snapshot, now);
    for (series, expected) in [
        ("dr_agent_component_status{component=\"efs\",status=\"unhealthy\"}", "1"),
        ("dr_agent_component_status{component=\"efs\",status=\"healthy\"}", "0"),
        ("dr_agent_component_status{component=\"queue-depth\",status=\"starting\"}", "1"),
        ("dr_agent_component_failures{component=\"efs\"}", "1"),
        ("dr_agent_component_last_success_age_seconds{component=\"efs\"}", "7"),
        ("dr_agent_component_attempt_duration_seconds{component=\"nginx\"}", "0.02"),
        ("dr_agent_stage_duration_seconds{component=\"nginx\",stage=\"connect\"}", "0.005"),
        ("dr_agent_stage_duration_seconds{component=\"nginx\",stage=\"read\"}", "0.01"),
        ("dr_agent_transitions_total{component=\"efs\",to=\"unhealthy\"}", "1"),
        ("dr_agent_region_open", "1"),
        ("dr_agent_region_hold_seconds_left{on=\"efs\"}", "58"),
        ("dr_agent_snapshot_age_seconds", "2"),
        ("dr_agent_gate_closed", "0"),
        ("dr_agent_database_role{role=\"replica\"}", "1"),
        ("dr_agent_database_replica_lag_seconds", "7"),
        ("dr_agent_disk_free_ratio{path=\"/\"}", "0.25"),
        ("dr_agent_disk_free_ratio{path=\"/odd \\\"\\\\\\n\"}", "0.5"),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series} in\n{page}");
    }
    // Never observed: nothing is known, so nothing is said.
    assert!(!page.contains("last_success_age_seconds{component=\"queue-depth\"}"), "{page}");
    assert!(!page.contains("NaN"), "{page}");
}

#[test]
fn promtool_accepts_the_page_and_each_family_is_declared_once() {
    let (snapshot, now) = snapshot();
    let page = metrics::page(&snapshot, now);
    for declaration in ["# HELP ", "# TYPE "] {
        let names: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(declaration)?.split(' ').next()).collect();
        assert!(names.len() > 20, "{page}");
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "{declaration}twice in\n{page}");
    }
    let series: Vec<_> =
        page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect();
    assert_eq!(series.len(), series.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), "{page}");

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run promtool (Debian package prometheus)");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("give it the page");
    let judged = promtool.wait_with_output().expect("promtool ends");
    let words = String::from_utf8_lossy(&[judged.stdout, judged.stderr].concat()).into_owned();
    assert!(judged.status.success() && words.is_empty(), "promtool says: {words}\n{page}");
}
