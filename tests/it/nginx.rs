use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use dr_agent::config::{HttpUrl, NginxProbe};
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::observation::{Component, Facts, NginxFacts, Observation, Outcome};
use dr_agent::probes::nginx::Nginx as Probe;
use dr_agent::probes::observe;

use crate::support::nginx::Nginx;
use crate::support::tcp::{Server, wait_for_end};
use crate::support::{free_port, signal};

const TIMEOUT: Duration = Duration::from_secs(1);
/// For what must be told apart from a timeout on a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn probe_at(port: u16, pid_file: &Path) -> Probe {
    let text = format!("http://127.0.0.1:{port}/health/nginx");
    Probe::new(&NginxProbe {
        schedule: Schedule {
            interval: 2 * LONG,
            timeout: LONG,
            fast_interval: Some(Duration::from_millis(500)),
            fall: 2,
            rise: 2,
        },
        url: HttpUrl { text, host: "127.0.0.1".to_owned(), port, path: "/health/nginx".to_owned() },
        pid_file: pid_file.to_owned(),
    })
}

fn probe_of(nginx: &Nginx) -> Probe {
    probe_at(nginx.port, &nginx.pid_file())
}

fn probe_of_server(address: SocketAddr) -> Probe {
    probe_at(address.port(), Path::new("/nonexistent/nginx.pid"))
}

async fn look(probe: &mut Probe, deadline: Duration) -> Observation {
    observe(probe, Component::Nginx, deadline).await
}

fn cause(observation: &Observation) -> Option<Cause> {
    match &observation.outcome {
        Outcome::Pass => None,
        Outcome::Fail(finding) => Some(finding.cause),
    }
}

fn last_stage(observation: &Observation) -> &str {
    observation.stages.last().expect("a stage").name
}

fn master(observation: &Observation) -> Option<u32> {
    match observation.facts {
        Facts::Nginx(NginxFacts { master }) => master,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn its_own_page_passes_and_names_the_master() {
    let nginx = Nginx::with_server("");
    let seen = look(&mut probe_of(&nginx), LONG).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    assert_eq!(master(&seen), Some(nginx.master()));
    let stages: Vec<_> = seen.stages.iter().map(|stage| stage.name).collect();
    assert_eq!(stages, ["connect", "headers", "body"]);
}

#[tokio::test]
async fn a_site_that_intercepts_errors_everywhere_does_not_touch_its_page() {
    let nginx = Nginx::start(|port, _| {
        format!(
            "proxy_intercept_errors on; recursive_error_pages on; error_page 404 500 502 503 504 =200 /sorry;
            server {{ listen 127.0.0.1:{port}; {} location / {{ return 503; }} location = /sorry {{ return 200 sorry; }} }}",
            crate::support::nginx::PROBE_LOCATION
        )
    });
    assert_eq!(look(&mut probe_of(&nginx), LONG).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn killed_it_is_gone_and_started_again_it_is_back() {
    let mut nginx = Nginx::with_server("");
    nginx.kill();
    let mut probe = probe_of(&nginx);
    let seen = look(&mut probe, LONG).await;
    assert_eq!(cause(&seen), Some(Cause::NginxMasterGone), "the pid file names a dead process");
    assert_eq!(master(&seen), None);
    assert_eq!(last_stage(&seen), "connect");
    nginx.start_again();
    let seen = look(&mut probe, LONG).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    assert_eq!(master(&seen), Some(nginx.master()));
}

#[tokio::test]
async fn stopped_cleanly_it_is_gone_although_its_pid_file_is_removed() {
    // Some nginx is still on the machine: only what was seen before tells that it is another one.
    let _other = Nginx::with_server("");
    let mut nginx = Nginx::with_server("");
    let mut probe = probe_of(&nginx);
    assert_eq!(look(&mut probe, LONG).await.outcome, Outcome::Pass);
    nginx.stop();
    assert!(!nginx.pid_file().exists());
    assert_eq!(cause(&look(&mut probe, LONG).await), Some(Cause::NginxMasterGone));
}

#[tokio::test]
async fn a_master_that_lives_while_connections_are_refused_is_not_gone() {
    let nginx = Nginx::with_server("");
    let elsewhere = free_port();
    nginx.reload(&format!("server {{ listen 127.0.0.1:{elsewhere}; }}"));
    let seen = look(&mut probe_of(&nginx), LONG).await;
    assert_eq!(cause(&seen), Some(Cause::NginxRefused));
    assert_eq!(master(&seen), Some(nginx.master()));
}

#[tokio::test]
async fn a_pid_file_that_names_another_process_is_no_proof_of_a_master() {
    let mut nginx = Nginx::with_server("");
    nginx.kill();
    std::fs::write(nginx.pid_file(), std::process::id().to_string()).unwrap();
    assert_eq!(cause(&look(&mut probe_of(&nginx), LONG).await), Some(Cause::NginxMasterGone));
}

#[tokio::test]
async fn without_a_pid_file_another_nginx_on_the_machine_leaves_the_question_open() {
    let other = Nginx::with_server("");
    let mut probe = probe_at(free_port(), Path::new("/nonexistent/nginx.pid"));
    assert_eq!(cause(&look(&mut probe, LONG).await), Some(Cause::NginxRefused));
    drop(other);
}

#[tokio::test]
async fn workers_that_outlive_their_master_still_serve() {
    let mut nginx = Nginx::with_server("");
    nginx.kill_master();
    let seen = look(&mut probe_of(&nginx), LONG).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    assert_eq!(master(&seen), None);
}

#[tokio::test]
async fn a_frozen_worker_is_a_timeout_until_it_runs_again() {
    let nginx = Nginx::with_server("");
    let mut probe = probe_of(&nginx);
    nginx.signal_workers("STOP");
    let seen = look(&mut probe, TIMEOUT).await;
    assert_eq!(cause(&seen), Some(Cause::NginxTimeout));
    assert_eq!(last_stage(&seen), "headers");
    assert_eq!(master(&seen), Some(nginx.master()));
    nginx.signal_workers("CONT");
    assert_eq!(look(&mut probe, LONG).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn a_frozen_master_serves() {
    let nginx = Nginx::with_server("");
    signal(nginx.master(), "STOP");
    assert_eq!(look(&mut probe_of(&nginx), LONG).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn a_full_accept_queue_is_a_timeout_of_the_connection() {
    let nginx = Nginx::start(|port, _| {
        format!("server {{ listen 127.0.0.1:{port} backlog=8; {} }}", crate::support::nginx::PROBE_LOCATION)
    });
    nginx.signal_workers("STOP");
    let address = SocketAddr::from(([127, 0, 0, 1], nginx.port));
    // One more than the backlog is taken; the next connection waits for a place.
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue does not fill");
    }
    let mut probe = probe_of(&nginx);
    let seen = look(&mut probe, TIMEOUT).await;
    assert_eq!(cause(&seen), Some(Cause::NginxTimeout));
    assert_eq!(last_stage(&seen), "connect");
    nginx.signal_workers("CONT");
    drop(queue);
    assert_eq!(look(&mut probe, LONG).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn what_else_may_stand_at_its_page_is_an_error_or_somebody_elses() {
    for (directives, expected) in [
        ("return 500;", Cause::NginxBadStatus),
        ("location / { return 503 down; }", Cause::NginxBadStatus),
        ("location / { proxy_pass http://127.0.0.1:1; }", Cause::NginxBadStatus),
        ("return 301 https://$host$request_uri;", Cause::NginxForeignAnswer),
        ("location / { return 200 'welcome'; }", Cause::NginxForeignAnswer),
        ("location / { return 404; }", Cause::NginxForeignAnswer),
        ("location / { return 403 'dr-agent nginx\n'; }", Cause::NginxForeignAnswer),
    ] {
        let nginx = Nginx::start(|port, _| format!("server {{ listen 127.0.0.1:{port}; {directives} }}"));
        let seen = look(&mut probe_of(&nginx), LONG).await;
        assert_eq!(cause(&seen), Some(expected), "{directives}: {:?}", seen.outcome);
    }
}

#[tokio::test]
async fn a_redirect_says_where_to_and_is_not_followed() {
    let nginx = Nginx::start(|port, _| format!("server {{ listen 127.0.0.1:{port}; return 302 /health/other; }}"));
    let Outcome::Fail(finding) = look(&mut probe_of(&nginx), LONG).await.outcome else { panic!("passed") };
    assert_eq!(finding.cause, Cause::NginxForeignAnswer);
    assert!(
        finding.detail.starts_with("302 Found to http://") && finding.detail.ends_with("/health/other"),
        "{finding:?}"
    );
}

#[tokio::test]
async fn broken_answers_are_errors_at_once() {
    type Serve = fn(TcpStream);
    let cases: [(&str, Serve); 5] = [
        ("closes without a word", |_| {}),
        ("garbage", |mut stream| drop(stream.write_all(b"\x16\x03\x01 what?\r\n\r\n"))),
        ("half a header, then the end", |mut stream| drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le"))),
        ("half a body, then the end", |mut stream| {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\ndr-agent"));
        }),
        ("a header without end", |mut stream| {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\n"));
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }),
    ];
    for (what, serve) in cases {
        let server = Server::start(serve);
        let seen = look(&mut probe_of_server(server.address), LONG).await;
        assert_eq!(cause(&seen), Some(Cause::NginxBadStatus), "{what}: {:?}", seen.outcome);
    }
}

#[tokio::test]
async fn answers_that_do_not_end_are_timeouts() {
    type Serve = fn(TcpStream);
    let cases: [(&str, &str, Serve); 4] = [
        ("silence", "headers", |mut stream| wait_for_end(&mut stream)),
        ("half a header, then silence", "headers", |mut stream| {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le"));
            wait_for_end(&mut stream);
        }),
        ("half a body, then silence", "body", |mut stream| {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\ndr-agent"));
            wait_for_end(&mut stream);
        }),
        ("the page and no end", "body", |mut stream| {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\ndr-agent nginx\n\r\n"));
            wait_for_end(&mut stream);
        }),
    ];
    for (what, stage, serve) in cases {
        let server = Server::start(serve);
        let seen = look(&mut probe_of_server(server.address), TIMEOUT).await;
        assert_eq!(cause(&seen), Some(Cause::NginxTimeout), "{what}: {:?}", seen.outcome);
        assert_eq!(last_stage(&seen), stage, "{what}");
        // Dropping the server waits for its connection: the probe has closed it.
    }
}

#[tokio::test]
async fn a_stream_at_full_speed_is_cut_off() {
    let server = Server::start(|mut stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        drop(stream.shutdown(Shutdown::Both));
    });
    let seen = look(&mut probe_of_server(server.address), LONG).await;
    assert_eq!(cause(&seen), Some(Cause::NginxTimeout), "{:?}", seen.outcome);
    assert!(seen.took < LONG, "it read on until the deadline");
}
