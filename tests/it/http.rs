use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dr_agent::clock::BootTime;
use dr_agent::config::{Network, PublicAddress};
use dr_agent::latches::{self, Kind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::ask::{Answer, Stream, Target, parse};
use crate::support::eventually;
use crate::support::served::Served;
use crate::support::site::Scratch;

const REGION: &str = "GET /health/region HTTP/1.1\r\nHost: x\r\n\r\n";
const LAST: &str = "GET /health/region HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn started() -> (Scratch, Served) {
    let scratch = Scratch::new();
    let agent = Served::start(&scratch);
    (scratch, agent)
}

fn assert_answers(target: &Target) {
    let answer = target.get("/health/region").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with(r#"{"ok":true,"dr-agent":"region""#), "{answer:?}");
}

#[test]
fn the_public_listener_answers_five_paths_and_nothing_else() {
    let (_scratch, agent) = started();
    let public = agent.public();
    for (path, status) in [("live", 200), ("instance", 200), ("region", 200), ("promoted", 503), ("authority", 200)] {
        let get = public.get(&format!("/health/{path}?a=b")).unwrap();
        assert_eq!(get.status, status, "{get:?}");
        assert_eq!(get.header("content-type"), Some("application/json"));
        assert_eq!(get.header("cache-control"), Some("no-store"));
        assert_eq!(get.header("content-length"), Some(get.body.len().to_string().as_str()));
        assert!(get.header("x-dr-agent").unwrap().parse::<u64>().unwrap() <= agent.snapshot().generation);
        let head = public.ask("HEAD", &format!("/health/{path}"), "", "").unwrap();
        assert_eq!((head.status, head.body.as_str()), (status, ""));
        assert_eq!(head.header("content-length"), get.header("content-length"), "{head:?}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE"] {
            let answer = public.ask(method, &format!("/health/{path}"), "", "").unwrap();
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}: {answer:?}");
        }
    }
    for path in
        ["/", "/health", "/health/", "/health/region/", "/health//region", "/HEALTH/region", "/metrics", "/peer"]
    {
        assert_eq!(public.get(path).unwrap().status, 404, "{path}");
        assert_eq!(public.ask("POST", path, "", "x").unwrap().status, 404, "{path}");
    }
    for request in [
        "GET /health/region HTTP/1.0\r\n\r\n",
        "GET /health/region HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 alb\r\n\r\n",
        "GET http://anything.example.com/health/region HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n",
        "GET /health/region HTTP/1.1\r\nHost:\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
    ] {
        let answer = public.send(request).unwrap();
        assert_eq!(answer.status, 200, "{request}: {answer:?}");
    }
    assert_eq!(agent.control().get("/health/region").unwrap().status, 404);
    assert_eq!(agent.peer().get("/health/region").unwrap().status, 404);
}

#[test]
fn pipelined_questions_are_answered_in_order() {
    let (_scratch, agent) = started();
    let one = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = agent.public().connect().unwrap();
    stream.write_all([one.repeat(100).as_str(), LAST].concat().as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let codes: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    let expected: Vec<_> = ["200", "404"].repeat(100).into_iter().chain(["200"]).collect();
    assert_eq!(codes, expected);
}

#[test]
fn nonsense_ends_its_own_connection_only() {
    let (_scratch, agent) = started();
    let long = "a".repeat(20_000);
    for target in [agent.public(), agent.peer(), agent.control()] {
        for nonsense in [
            b"\0\x01\x02\x03 garbage\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"GET\r\n\r\n".to_vec(),
            b"GET /health/region HTTP/9.9\r\n\r\n".to_vec(),
            b"GET /health/region HTTP/1.1\r\nBroken header\r\n\r\n".to_vec(),
            b"POST /health/region HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n".to_vec(),
            b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec(),
            format!("GET /{long} HTTP/1.1\r\n\r\n").into_bytes(),
            format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n").into_bytes(),
            "A: b\r\n".repeat(5_000).into_bytes(),
        ] {
            if let Ok(Answer { status, .. }) = target.send(&nonsense) {
                assert!((400..500).contains(&status), "{status} for {:?}", String::from_utf8_lossy(&nonsense));
            }
        }
        // Whoever hangs up in the middle.
        for part in ["", "G", "GET /health/region HTTP/1.1\r\n", REGION] {
            target.connect().unwrap().write_all(part.as_bytes()).unwrap();
        }
    }
    assert_answers(&agent.public());
}

/// As many connections as this process can hold, up to 10,000: both ends are in it, and the other tests are too.
fn most_connections() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("raise the soft limit to the hard one");
    let most = maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap());
    // The agent keeps a quarter of the descriptors for connections, so half of them are the test's at the worst.
    (most / 2).clamp(200, 10_000)
}

/// Connections on which a request was begun and not ended.
fn slow_connections(target: &Target, count: usize) -> Vec<Box<dyn Stream>> {
    (0..count)
        .map(|_| {
            let mut stream = target.connect().expect("nobody is refused");
            // It may have been closed for a newer one already.
            drop(stream.write_all(b"GET /health/region HTTP/1.1\r\nHost: x\r\nX-Slow: "));
            stream
        })
        .collect()
}

#[test]
fn thousands_of_slow_connections_do_not_stop_the_answers() {
    // Before the agents start, which take their share of the descriptors from it.
    let most = most_connections();
    eprintln!("{most} slow connections at once");
    let (_scratch, agent) = started();
    let over_tcp = Scratch::new();
    let tcp = Served::with(&over_tcp, |config| config.listen.public = PublicAddress::Tcp(([127, 0, 0, 1], 0).into()));
    for target in [agent.public(), tcp.public()] {
        for count in [2_000.min(most), most] {
            let slow = slow_connections(&target, count);
            for _ in 0..100 {
                assert_answers(&target);
            }
            drop(slow);
        }
    }
    // The other listeners have their own connections.
    let slow = slow_connections(&agent.public(), 2_000.min(most));
    assert_eq!(agent.control().get("/status").unwrap().status, 200);
    assert_eq!(agent.peer().get("/metrics").unwrap().status, 200);
    drop(slow);
}

#[test]
fn a_flood_does_not_stop_the_answers() {
    let (_scratch, agent) = started();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let Ok(mut stream) = agent.public().connect() else { continue };
                    drop(stream.write_all(REGION.repeat(20).as_bytes()));
                }
            });
        }
        for _ in 0..30 {
            assert_answers(&agent.public());
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn whoever_asks_nothing_is_hung_up_on() {
    let (_scratch, agent) = started();
    let slow = slow_connections(&agent.public(), 3);
    let silent = agent.public().connect().unwrap();
    let mut idle = agent.public().connect().unwrap();
    idle.write_all(REGION.as_bytes()).unwrap();
    // Asks at its leisure, so nobody may hang up on it.
    let mut lively = agent.public().connect().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let lively = scope.spawn(|| {
            let mut answers = 0;
            while !over.load(Ordering::SeqCst) {
                lively.write_all(REGION.as_bytes()).expect("it is open");
                assert_ne!(lively.read(&mut [0; 4096]).expect("it is open"), 0);
                answers += 1;
                thread::sleep(Duration::from_millis(100));
            }
            answers
        });
        for mut stream in slow.into_iter().chain([silent, idle]) {
            let mut text = Vec::new();
            // A reset is an end, too; running into the client's own limit is not.
            match stream.read_to_end(&mut text) {
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
                Ok(_) => assert!(text.is_empty() || parse(&text).unwrap().status == 200),
            }
        }
        over.store(true, Ordering::SeqCst);
        assert!(lively.join().unwrap() > 10);
    });
}

#[test]
fn stopping_closes_the_listeners_at_once_and_finishes_what_is_in_flight() {
    let (_scratch, mut agent) = started();
    let mut idle = agent.public().connect().unwrap();
    idle.write_all(REGION.as_bytes()).unwrap();
    assert_ne!(idle.read(&mut [0; 4096]).unwrap(), 0);
    let mut asking = agent.public().connect().unwrap();
    let (begin, end) = LAST.split_at(20);
    asking.write_all(begin.as_bytes()).unwrap();
    assert_answers(&agent.public());
    agent.cancel();
    eventually("the listener is closed", || match agent.public().connect() {
        Ok(_) => Err("it takes connections"),
        Err(_) => Ok(()),
    });
    asking.write_all(end.as_bytes()).unwrap();
    let mut text = Vec::new();
    asking.read_to_end(&mut text).unwrap();
    assert_eq!(parse(&text).unwrap().status, 200);
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "an idle connection is closed");
    agent.join();
    for target in [agent.public(), agent.peer(), agent.control()] {
        assert!(target.connect().is_err());
    }
}

#[test]
fn the_http_scheduler_shows_that_it_lives() {
    let (_scratch, agent) = started();
    let first = *agent.turns.borrow();
    eventually("a turn without a connection", || {
        let last = *agent.turns.borrow();
        (last > first).then_some(()).ok_or("none yet")
    });
    let before = BootTime::now();
    assert_answers(&agent.public());
    eventually("a turn at a connection", || (*agent.turns.borrow() >= before).then_some(()).ok_or("none yet"));
}

#[test]
fn metrics_are_for_loopback_and_the_configured_networks_and_never_through_a_proxy() {
    let (_scratch, agent) = started();
    let metrics = agent.peer().get("/metrics").unwrap();
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.body.contains("\ndr_agent_region_open 1\n"), "{}", metrics.body);
    for proxied in ["X-Forwarded-For: 203.0.113.9\r\n", "via: 1.1 nginx\r\n", "Forwarded: for=203.0.113.9\r\n"] {
        for path in ["/metrics", "/peer"] {
            assert_eq!(agent.peer().ask("GET", path, proxied, "").unwrap().status, 403, "{path} {proxied}");
        }
    }
    assert_eq!(agent.peer().ask("POST", "/metrics", "", "").unwrap().header("allow"), Some("GET, HEAD"));
    for path in ["/", "/peers", "/status", "/latch/drain", "/health/live"] {
        assert_eq!(agent.peer().get(path).unwrap().status, 404, "{path}");
    }
}

#[test]
fn metrics_are_refused_to_other_addresses() {
    let Some(own) = own_address() else { return };
    let (_scratch, agent) = started();
    let target = Target::Tcp((own, agent.peer.port()).into());
    let mut kept = target.connect().unwrap();
    let mut ask_on_kept = || {
        kept.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        read_one(&mut kept).status
    };
    assert_eq!(ask_on_kept(), 403);
    // What a reload allows is allowed from then on, and what it takes away is taken from open connections too.
    for (allow, status) in [(vec![Network { address: own, prefix: 31 }], 200), (vec![], 403)] {
        agent.reconfigure(|config| config.metrics_allow = allow);
        assert_eq!(ask_on_kept(), status);
        assert_eq!(target.get("/metrics").unwrap().status, status);
    }
}

/// Reads one answer from a connection that stays open.
fn read_one(stream: &mut impl Read) -> Answer {
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut part).expect("an answer in time");
        assert_ne!(count, 0, "it is open");
        text.extend_from_slice(&part[..count]);
        let Ok(answer) = parse(&text) else { continue };
        let length: usize = answer.header("content-length").expect("a length").parse().expect("a number");
        if answer.body.len() >= length {
            return answer;
        }
    }
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: the kernel only looks up which of its addresses it would use.
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn an_owner_that_is_stuck_is_answered_for_with_its_last_word() {
    let (_scratch, agent) = started();
    let before = agent.public().get("/health/region").unwrap();
    assert!(before.header("x-dr-agent").unwrap().parse::<u64>().is_ok());
    // What the clock alone would show after ten seconds is tested with the answers; here, that it is served.
    let scratch = Scratch::new();
    let stuck = Stuck::start(&scratch);
    let region = stuck.target.get("/health/region").unwrap();
    assert_eq!((region.status, region.header("x-dr-agent")), (200, Some("stale")), "{region:?}");
    assert_eq!(region.json()["status"], "warn");
    let live = stuck.target.get("/health/live").unwrap();
    assert_eq!((live.status, live.json()["state"].as_str()), (503, Some("stalled")), "{live:?}");
}

/// A public listener whose snapshot is a minute old.
struct Stuck {
    target: Target,
    cancelled: tokio_util::sync::CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stuck {
    fn start(scratch: &Scratch) -> Self {
        use dr_agent::config;
        use dr_agent::health::verdict::Memory;
        use dr_agent::outputs::http::Listeners;
        use dr_agent::owner::Owner;
        use dr_agent::snapshot::About;
        use tokio::sync::watch;

        let mut config = config::defaults();
        config.listen.public = PublicAddress::Unix(scratch.socket());
        config.listen.peer = "127.0.0.1:0".parse().unwrap();
        config.listen.control = scratch.path("control.sock");
        let cancelled = tokio_util::sync::CancellationToken::new();
        let token = cancelled.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listeners = Listeners::bind(&config.listen).unwrap();
                let then = BootTime::now().before(Duration::from_secs(60));
                let about =
                    About { owner: dr_agent::state::Owner::default(), boot: "b".into(), config_problems: vec![] };
                let memory = Memory { same_boot: true, ..Memory::default() };
                let mut owner = Owner::new(
                    about,
                    config.into(),
                    dr_agent::state::State::default(),
                    memory,
                    latches::Latches::default(),
                    false,
                    vec![],
                    then,
                );
                let (_publisher, snapshots) = watch::channel(owner.publish(then, dr_agent::clock::wall()).into());
                ready.send(()).unwrap();
                let standing = watch::channel(std::sync::Arc::default()).1;
                listeners.public.serve(snapshots, standing, watch::channel(then).0, token).await;
            });
        });
        is_ready.recv().unwrap();
        Self { target: Target::unix(scratch.socket()), cancelled, thread: Some(thread) }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.cancelled.cancel();
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

#[test]
fn the_control_socket_tells_everything() {
    let (_scratch, agent) = started();
    let status = agent.control().get("/status").unwrap();
    assert_eq!((status.status, status.header("content-type")), (200, Some("application/json")));
    let report = status.json();
    assert_eq!((&report["kind"], &report["schema"]), (&"live".into(), &1.into()));
    let entries = |query: &str| agent.control().get(&format!("/history{query}")).unwrap();
    let all = entries("").json();
    assert_eq!(all[0]["what"], "instance");
    let at = all[0]["at"].as_str().unwrap();
    assert_eq!(entries(&format!("?since={at}")).json().as_array().unwrap().len(), all.as_array().unwrap().len());
    assert_eq!(entries("?since=2999-01-01T00:00:00Z").json(), serde_json::json!([]));
    assert_eq!(entries("?until=1999-01-01T00:00:00Z").json(), serde_json::json!([]));
    let refused = entries("?since=yesterday");
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().starts_with("`since`: "), "{refused:?}");
    for (method, path, status) in
        [("GET", "/", 404), ("GET", "/latch/drain", 405), ("PUT", "/latch/fence", 404), ("POST", "/status", 405)]
    {
        let answer = agent.control().ask(method, path, "", "").unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.json()["error"].is_string() && answer.json()["hint"].is_string());
    }
}

#[test]
fn a_drain_is_in_force_when_the_answer_comes_and_a_file_says_who_and_why() {
    let (scratch, agent) = started();
    let (control, public) = (agent.control(), agent.public());
    let put = |kind: &str, body: &str| control.ask("PUT", &format!("/latch/{kind}"), "", body).unwrap();
    let refused = put("drain", r#"{"reason":"disk swap","seconds":600,"force":false}"#);
    assert_eq!(refused.status, 409, "alone, it would serve on: {refused:?}");
    assert!(refused.json()["hint"].as_str().unwrap().contains("--force"));
    assert_eq!(public.get("/health/instance").unwrap().status, 200);

    let done = put("drain", r#"{"reason":"disk swap","seconds":600,"force":true}"#);
    assert_eq!(done.status, 200, "{done:?}");
    let latch = &done.json()["latch"];
    assert_eq!((&latch["kind"], &latch["reason"]), (&"drain".into(), &"disk swap".into()));
    assert_eq!(done.json()["others"], 0);
    let uid = rustix::process::getuid().as_raw();
    let by = latch["by"].as_str().unwrap();
    assert!(uid != 0 || by == "root", "{by}");
    let draining = public.get("/health/instance").unwrap();
    assert_eq!((draining.status, draining.json()["state"].as_str()), (503, Some("draining")), "{draining:?}");
    assert_eq!(public.get("/health/region").unwrap().status, 200);
    assert!(latches::path(&scratch.state(), Kind::Drain).exists());
    eventually("the marker is set", || scratch.has("draining").then_some(()).ok_or("it is not"));

    let hold = put("hold", r#"{"reason":"forensics"}"#);
    assert_eq!((hold.status, &hold.json()["latch"]["until"]), (200, &serde_json::Value::Null), "{hold:?}");

    for was in ["disk swap".into(), serde_json::Value::Null] {
        let cleared = control.ask("DELETE", "/latch/drain", "", "").unwrap();
        assert_eq!((cleared.status, &cleared.json()["latch"]["reason"]), (200, &was), "{cleared:?}");
        assert_eq!(public.get("/health/instance").unwrap().status, 200);
    }
    assert!(agent.snapshot().latches.get(Kind::Hold).is_some(), "the other latch stays");
    eventually("the marker is cleared", || (!scratch.has("draining")).then_some(()).ok_or("it is not"));
}

#[test]
fn orders_that_make_no_sense_change_nothing() {
    let (scratch, agent) = started();
    let long = format!(r#"{{"reason":"{}","force":true}}"#, "x".repeat(9_000));
    for (body, status) in [
        ("", 400),
        ("reason", 400),
        ("{}", 400),
        (r#"{"reason":1}"#, 400),
        (r#"{"reason":"x","second":1}"#, 400),
        (r#"{"reason":"x","seconds":-1,"force":true}"#, 400),
        (long.as_str(), 400),
        (r#"{"reason":"  ","force":true}"#, 409),
        (r#"{"reason":"x\ny","force":true}"#, 409),
        (r#"{"reason":"x","seconds":0,"force":true}"#, 409),
        (r#"{"reason":"x","seconds":86401,"force":true}"#, 409),
    ] {
        let answer = agent.control().ask("PUT", "/latch/drain", "", body).unwrap();
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    assert!(!latches::path(&scratch.state(), Kind::Drain).exists());
    assert_eq!(agent.public().get("/health/instance").unwrap().status, 200);
}

#[test]
fn a_latch_that_cannot_be_written_is_not_set() {
    let (scratch, agent) = started();
    std::fs::write(scratch.state().join("latches"), "in the way").unwrap();
    let answer = agent.control().ask("PUT", "/latch/hold", "", r#"{"reason":"x"}"#).unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().starts_with("cannot write the latch: "), "{answer:?}");
    assert!(agent.snapshot().latches.get(Kind::Hold).is_none());
}
