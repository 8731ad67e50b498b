use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dr_agent::clock::{self, BootTime};
use dr_agent::config::{self, WiringProbe};
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::health::verdict::Memory;
use dr_agent::latches::Latches;
use dr_agent::observation::{Component, Finding, Outcome};
use dr_agent::owner::Owner;
use dr_agent::probes::observe;
use dr_agent::probes::wiring::Wiring;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use tokio::sync::watch;

use crate::support::nginx::Nginx;

const LONG: Duration = Duration::from_secs(20);

/// What follows a `server`'s `listen`: an agent at `generation`, as nginx would hand it on.
fn agent_at(generation: &str) -> String {
    ["live", "instance", "region", "promoted", "authority"]
        .map(|path| {
            let (status, ok) = if path == "promoted" { (503, false) } else { (200, true) };
            format!(
                r#"location = /health/{path} {{ add_header X-Dr-Agent {generation} always;
                    return {status} '{{"ok":{ok},"dr-agent":"{path}","status":"pass"}}'; }}"#
            )
        })
        .concat()
}

const SITE: &str = "location / { return 200 'the shop'; }";

fn server(directives: &str) -> Nginx {
    Nginx::start(|port, folder| {
        fs::create_dir_all(folder.join("public")).unwrap();
        format!("server {{ listen 127.0.0.1:{port}; {directives} }}")
    })
}

fn probe(nginx: &Nginx, snapshots: Option<watch::Receiver<Arc<Snapshot>>>) -> Wiring {
    let probe = WiringProbe {
        schedule: Schedule {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            fast_interval: None,
            fall: 2,
            rise: 1,
        },
        address: ([127, 0, 0, 1], nginx.port).into(),
        hosts: vec!["127.0.0.1".to_owned(), "shop.example.com".to_owned()],
    };
    Wiring::new(&probe, nginx.folder.path(), snapshots)
}

/// Snapshots of an agent that has published so many and remembers that its region was closed, or not.
fn snapshots(generation: u64, region_closed: bool) -> watch::Receiver<Arc<Snapshot>> {
    let about = About { owner: state::Owner::default(), boot: "boot".to_owned(), config_problems: Vec::new() };
    let memory = Memory { same_boot: true, region_closed, ..Memory::default() };
    let now = BootTime::now();
    let config = Arc::new(config::defaults());
    let mut owner = Owner::new(about, config, State::default(), memory, Latches::default(), false, Vec::new(), now);
    let snapshot = (0..generation).map(|_| owner.publish(now, clock::wall())).last().unwrap();
    assert_eq!((snapshot.generation, snapshot.region_closed), (generation, region_closed));
    watch::channel(Arc::new(snapshot)).1
}

async fn look(mut wiring: Wiring) -> Outcome {
    observe(&mut wiring, Component::Wiring, LONG).await.outcome
}

fn found(outcome: Outcome) -> (Cause, String) {
    match outcome {
        Outcome::Pass => panic!("it passed"),
        Outcome::Fail(Finding { cause, detail }) => (cause, detail),
    }
}

#[tokio::test]
async fn its_own_answers_pass() {
    let nginx = server(&[&agent_at("100"), SITE].concat());
    assert_eq!(look(probe(&nginx, None)).await, Outcome::Pass);
    assert_eq!(look(probe(&nginx, Some(snapshots(100, false)))).await, Outcome::Pass);
    assert_eq!(look(probe(&nginx, Some(snapshots(160, false)))).await, Outcome::Pass, "a little late");
}

/// Without a file nobody said that nginx was set up for the agent.
#[tokio::test]
async fn without_a_host_to_ask_with_only_the_markers_count() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("public")).unwrap();
    let probe = config::defaults().wiring;
    assert_eq!(look(Wiring::new(&probe, folder.path(), Some(snapshots(1, false)))).await, Outcome::Pass);
    let (cause, detail) = found(look(Wiring::new(&probe, folder.path(), Some(snapshots(1, true)))).await);
    assert_eq!((cause, &*detail), (Cause::WiringMarker, "`region-closed` is not set and should be"));
}

#[tokio::test]
async fn an_answer_of_another_generation_is_another_agents() {
    let nginx = server(&agent_at("100"));
    for generation in [99, 161] {
        let (cause, detail) = found(look(probe(&nginx, Some(snapshots(generation, false)))).await);
        assert_eq!(cause, Cause::WiringForeign);
        assert!(detail.contains("generation 100, but this agent is at"), "{detail}");
    }
}

#[tokio::test]
async fn an_agent_that_is_stuck_is_wired_all_the_same() {
    let nginx = server(&agent_at("stale"));
    assert_eq!(look(probe(&nginx, Some(snapshots(1, false)))).await, Outcome::Pass);
}

#[tokio::test]
async fn what_else_may_answer_is_named() {
    let intercepted = "proxy_intercept_errors on; error_page 503 =200 /sorry; location = /sorry { return 200 sorry; }
        location /health/ { proxy_pass http://127.0.0.1:PORT/busy; } location /busy { return 503 '{\"ok\":false}'; }";
    for (directives, expected, words) in [
        (agent_at("absent"), Cause::WiringFallback, "200 OK from the markers"),
        (
            "return 301 https://$host$request_uri;".to_owned(),
            Cause::WiringRedirect,
            "301 Moved Permanently to https://",
        ),
        (SITE.to_owned(), Cause::WiringForeign, "200 OK that is not the agent's"),
        ("location / { return 403; }".to_owned(), Cause::WiringForeign, "403 Forbidden that is not the agent's"),
        ("return 444;".to_owned(), Cause::WiringForeign, "no HTTP answer"),
        (agent_at("new"), Cause::WiringForeign, "`X-Dr-Agent: new`"),
        (
            "add_header X-Dr-Agent 1 always; location / { return 200 hello; }".to_owned(),
            Cause::WiringForeign,
            "does not begin with",
        ),
        (intercepted.to_owned(), Cause::WiringForeign, "200 OK that is not the agent's"),
    ] {
        let nginx = Nginx::start(|port, _| {
            format!("server {{ listen 127.0.0.1:{port}; {} }}", directives.replace("PORT", &port.to_string()))
        });
        let (cause, detail) = found(look(probe(&nginx, None)).await);
        assert_eq!(cause, expected, "{directives}: {detail}");
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn the_host_that_another_server_block_answers_is_named() {
    let nginx = Nginx::start(|port, _| {
        format!(
            "server {{ listen 127.0.0.1:{port} default_server; {} }}
            server {{ listen 127.0.0.1:{port}; server_name shop.example.com; {SITE} }}",
            agent_at("1")
        )
    });
    let (cause, detail) = found(look(probe(&nginx, None)).await);
    assert_eq!(cause, Cause::WiringForeign);
    assert_eq!(detail, "`/health/live` with Host `shop.example.com`: 200 OK that is not the agent's");
}

fn close_gate(folder: &Path) {
    fs::write(folder.join("public/fenced"), "").unwrap();
}

fn fenced_site(folder: &Path) -> String {
    format!(
        "location / {{ if (-f {}/public/fenced) {{ add_header Retry-After 30 always; return 503 'closed'; }}
            return 200 'the shop'; }}",
        folder.display()
    )
}

#[tokio::test]
async fn behind_a_closed_gate_an_open_page_is_a_fault() {
    for (site, words) in [
        (SITE, "200 OK instead of the fence page"),
        ("location / { return 503 'busy'; }", "503 Service Unavailable instead of the fence page"),
        ("location / { return 302 /login; }", "302 Found instead of the fence page"),
    ] {
        let nginx = server(&[&agent_at("1"), site].concat());
        assert_eq!(look(probe(&nginx, None)).await, Outcome::Pass, "the gate is open");
        close_gate(nginx.folder.path());
        let (cause, detail) = found(look(probe(&nginx, None)).await);
        assert_eq!(cause, Cause::WiringFenceOpen);
        assert!(detail.contains(words) && detail.contains("shop.example.com"), "{detail}");
    }
}

#[tokio::test]
async fn the_fence_page_is_none_unless_nginx_cannot_see_the_marker() {
    let nginx = Nginx::start(|port, folder| {
        fs::create_dir_all(folder.join("public")).unwrap();
        format!("server {{ listen 127.0.0.1:{port}; {} {} }}", agent_at("1"), fenced_site(folder))
    });
    close_gate(nginx.folder.path());
    assert_eq!(look(probe(&nginx, None)).await, Outcome::Pass);
    let public = nginx.folder.path().join("public");
    fs::set_permissions(&public, fs::Permissions::from_mode(0o700)).unwrap();
    let is_worker_another_user = fs::read_to_string(format!("/proc/{}/status", nginx.workers()[0]))
        .unwrap()
        .lines()
        .any(|line| line.starts_with("Uid:") && !line.contains("\t0\t"));
    assert!(is_worker_another_user, "this test needs root: nginx's workers run as the user who runs it");
    assert_eq!(found(look(probe(&nginx, None)).await).0, Cause::WiringFenceOpen);
}

#[tokio::test]
async fn markers_must_say_what_the_agent_says() {
    let nginx = server(&agent_at("1"));
    let public = nginx.folder.path().join("public");
    let (cause, detail) = found(look(probe(&nginx, Some(snapshots(1, true)))).await);
    assert_eq!((cause, &*detail), (Cause::WiringMarker, "`region-closed` is not set and should be"));
    fs::write(public.join("region-closed"), "").unwrap();
    assert_eq!(look(probe(&nginx, Some(snapshots(1, true)))).await, Outcome::Pass);
    let (cause, detail) = found(look(probe(&nginx, Some(snapshots(1, false)))).await);
    assert_eq!((cause, &*detail), (Cause::WiringMarker, "`region-closed` is set and should not be"));
    assert_eq!(look(probe(&nginx, None)).await, Outcome::Pass, "`check` has nothing to compare it with");
    fs::remove_dir_all(&public).unwrap();
    assert_eq!(found(look(probe(&nginx, Some(snapshots(1, false)))).await).0, Cause::WiringMarker);
    assert_eq!(look(probe(&nginx, None)).await, Outcome::Pass, "no agent has run here");
}

#[tokio::test]
async fn that_nginx_is_down_or_frozen_is_not_for_this_probe_to_say() {
    let mut nginx = server(&agent_at("1"));
    nginx.signal_workers("STOP");
    let (cause, detail) = found(look(probe(&nginx, None)).await);
    assert_eq!(cause, Cause::CouldNotRun);
    assert!(detail.contains("nginx does not answer in time"), "{detail}");
    nginx.kill();
    let (cause, detail) = found(look(probe(&nginx, None)).await);
    assert_eq!(cause, Cause::CouldNotRun);
    assert!(detail.contains("nginx does not answer: cannot connect"), "{detail}");
    fs::write(nginx.folder.path().join("public/region-closed"), "").unwrap();
    let (cause, _) = found(look(probe(&nginx, Some(snapshots(1, false)))).await);
    assert_eq!(cause, Cause::WiringMarker, "the word that will be held is wrong all the same");
}
