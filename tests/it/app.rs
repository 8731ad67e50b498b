use std::net::TcpStream;
use std::time::Duration;

use dr_agent::config::{AppProbe, HttpUrl};
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::observation::{Component, Observation, Outcome};
use dr_agent::probes::app::App;
use dr_agent::probes::observe;

use crate::support::free_port;
use crate::support::nginx::Nginx;
use crate::support::tcp::{Server, wait_for_end};

const LONG: Duration = Duration::from_secs(20);

fn probe(port: u16, path: &str) -> AppProbe {
    AppProbe {
        schedule: Schedule {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            fast_interval: Some(Duration::from_millis(500)),
            fall: 2,
            rise: 2,
        },
        url: HttpUrl {
            text: format!("http://127.0.0.1:{port}{path}"),
            host: "127.0.0.1".to_owned(),
            port,
            path: path.to_owned(),
        },
        host: Some("shop.example.com".to_owned()),
        status: vec![(200, 399)],
        body: None,
        latency_limit: None,
    }
}

async fn look(probe: &AppProbe, deadline: Duration) -> Observation {
    observe(&mut App::new(probe), Component::App, deadline).await
}

fn cause(observation: &Observation) -> Option<Cause> {
    match &observation.outcome {
        Outcome::Pass => None,
        Outcome::Fail(finding) => Some(finding.cause),
    }
}

/// A site that answers only by its own name.
fn shop() -> Nginx {
    Nginx::start(|port, _| {
        format!(
            "server {{ listen 127.0.0.1:{port} default_server; return 404; }}
            server {{ listen 127.0.0.1:{port}; server_name shop.example.com;
                location = / {{ return 200 'welcome to the shop'; }}
                location = /q {{ return 200 $args; }}
                location = /moved {{ return 301 /; }}
                location = /busy {{ return 503; }}
                location = /dead {{ proxy_pass http://127.0.0.1:1; }} }}"
        )
    })
}

#[tokio::test]
async fn the_site_is_asked_for_by_its_name_with_its_query() {
    let nginx = shop();
    let mut wanted = probe(nginx.port, "/");
    assert_eq!(look(&wanted, LONG).await.outcome, Outcome::Pass);
    wanted.host = None;
    assert_eq!(cause(&look(&wanted, LONG).await), Some(Cause::AppBadStatus), "the default server answered");
    let mut query = probe(nginx.port, "/q?deep=1");
    query.url.path = "/q?deep=1".to_owned();
    query.body = Some("deep=1".to_owned());
    assert_eq!(look(&query, LONG).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn the_status_must_be_in_a_range() {
    let nginx = shop();
    assert_eq!(cause(&look(&probe(nginx.port, "/moved"), LONG).await), None, "a redirect is an answer");
    assert_eq!(cause(&look(&probe(nginx.port, "/busy"), LONG).await), Some(Cause::AppBadStatus));
    assert_eq!(cause(&look(&probe(nginx.port, "/dead"), LONG).await), Some(Cause::AppBadStatus));
    let mut only = probe(nginx.port, "/moved");
    only.status = vec![(200, 200), (503, 503)];
    assert_eq!(cause(&look(&only, LONG).await), Some(Cause::AppBadStatus));
    only.url.path = "/busy".to_owned();
    assert_eq!(cause(&look(&only, LONG).await), None);
}

#[tokio::test]
async fn the_body_must_contain_the_text() {
    let nginx = shop();
    let mut wanted = probe(nginx.port, "/");
    wanted.body = Some("the shop".to_owned());
    assert_eq!(cause(&look(&wanted, LONG).await), None);
    wanted.body = Some("the bank".to_owned());
    assert_eq!(cause(&look(&wanted, LONG).await), Some(Cause::AppBodyMismatch));
}

#[tokio::test]
async fn only_the_first_64_kib_are_searched_but_the_page_must_be_complete() {
    let nginx = Nginx::start(|port, folder| {
        let page = ["x".repeat(64 * 1024), "needle".to_owned(), "x".repeat(1024 * 1024)].concat();
        std::fs::write(folder.join("page"), page).unwrap();
        format!("server {{ listen 127.0.0.1:{port}; root {}; }}", folder.display())
    });
    let mut wanted = probe(nginx.port, "/page");
    assert_eq!(cause(&look(&wanted, LONG).await), None);
    wanted.body = Some("needle".to_owned());
    assert_eq!(cause(&look(&wanted, LONG).await), Some(Cause::AppBodyMismatch));
}

#[tokio::test]
async fn slower_than_its_limit_is_slow_and_still_an_answer() {
    let server = Server::start(|mut stream| {
        std::thread::sleep(Duration::from_millis(30));
        drop(std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    });
    let mut wanted = probe(server.address.port(), "/");
    wanted.latency_limit = Some(Duration::from_millis(20));
    assert_eq!(cause(&look(&wanted, LONG).await), Some(Cause::AppSlow));
    wanted.latency_limit = Some(LONG);
    assert_eq!(cause(&look(&wanted, LONG).await), None);
}

#[tokio::test]
async fn silence_is_a_timeout_and_rubbish_is_a_bad_answer() {
    let silent = Server::start(|mut stream| wait_for_end(&mut stream));
    let seen = look(&probe(silent.address.port(), "/"), Duration::from_millis(300)).await;
    assert_eq!(cause(&seen), Some(Cause::AppTimeout));
    let rubbish = Server::start(|mut stream: TcpStream| drop(std::io::Write::write_all(&mut stream, b"OK\r\n\r\n")));
    assert_eq!(cause(&look(&probe(rubbish.address.port(), "/"), LONG).await), Some(Cause::AppBadAnswer));
    let seen = look(&probe(free_port(), "/"), LONG).await;
    assert_eq!(cause(&seen), Some(Cause::AppUnreachable));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_nothing_about_the_app() {
    let mut wanted = probe(80, "/");
    wanted.url.host = "no-such-host.invalid".to_owned();
    let seen = look(&wanted, Duration::from_secs(2)).await;
    assert_eq!(cause(&seen), Some(Cause::CouldNotRun));
    assert_eq!(seen.stages.first().map(|stage| stage.name), Some("dns"));
}
