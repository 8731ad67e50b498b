use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

use crate::support::ask::Answer;
use crate::support::eventually;
use crate::support::nginx::Nginx;
use crate::support::served::Served;
use crate::support::site::{self, SHOP, Scratch, target};

const PATHS: [&str; 5] = ["live", "instance", "region", "promoted", "authority"];

fn get(nginx: &Nginx, path: &str) -> Answer {
    target(nginx).get(path).unwrap_or_else(|error| panic!("{path}: {error}\n{}", nginx.error_log()))
}

/// Answers of every health path, as the agent's own.
fn assert_all_from_the_agent(nginx: &Nginx, what: &str) {
    for path in PATHS {
        let answer = get(nginx, &format!("/health/{path}"));
        let ok = path != "promoted";
        assert_eq!(answer.status, if ok { 200 } else { 503 }, "{what}: {answer:?}");
        assert!(answer.body.starts_with(&format!(r#"{{"ok":{ok},"dr-agent":"{path}","#)), "{what}: {answer:?}");
        assert!(answer.header("x-dr-agent").unwrap().parse::<u64>().is_ok(), "{what}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}: {answer:?}");
        assert_eq!(answer.header("content-encoding"), None, "{what}: {answer:?}");
    }
}

#[test]
fn what_sites_switch_on_globally_does_not_reach_the_health_paths() {
    let scratch = Scratch::new();
    let _agent = Served::start(&scratch);
    for (http, server) in [
        ("", ""),
        ("proxy_intercept_errors on; recursive_error_pages on; error_page 503 502 =200 /;", ""),
        ("", "proxy_intercept_errors on; error_page 503 =200 /;"),
        ("", "deny all;"),
        ("", "auth_basic shop; auth_basic_user_file /nonexistent;"),
        ("gzip on; gzip_min_length 1; gzip_types application/json;", ""),
        ("", "expires 30d; add_header X-Shop yes;"),
        ("open_file_cache max=100 inactive=60s; open_file_cache_errors on;", ""),
        ("proxy_buffering off;", ""),
        ("", "proxy_bind 127.0.0.1;"),
        ("", "proxy_method POST;"),
    ] {
        let nginx = site::start(&scratch, http, server);
        assert_all_from_the_agent(&nginx, &format!("{http} {server}"));
        let zipped = target(&nginx).ask("GET", "/health/region", "Accept-Encoding: gzip\r\n", "").unwrap();
        assert!(zipped.body.starts_with(r#"{"ok":true"#), "{zipped:?}");
        let log = nginx.error_log();
        assert!(!log.contains("[warn]") && !log.contains("[emerg]"), "{log}");
    }
}

#[test]
fn what_keeps_questions_from_the_agent_is_answered_with_the_last_word() {
    let scratch = Scratch::new();
    let _agent = Served::start(&scratch);
    let zone = "limit_req_zone $server_name zone=few:1m rate=1r/m;";
    for server in [
        "error_page 503 =200 /; limit_req zone=few;",
        "error_page 429 =200 /; limit_req zone=few; limit_req_status 429;",
        "auth_request /auth; location = /auth { return 401; }",
        "auth_request /auth; location = /auth { return 403; }",
        "auth_request /auth; location = /auth { return 500; }",
    ] {
        let nginx = site::start(&scratch, zone, server);
        // The first one may be within the rate.
        get(&nginx, "/health/live");
        for (path, status) in PATHS.into_iter().zip([503, 200, 200, 503, 503]) {
            let answer = get(&nginx, &format!("/health/{path}"));
            assert_eq!(answer.status, status, "{server} {path}: {answer:?}");
            assert_eq!(answer.header("x-dr-agent"), Some("absent"), "{server} {path}: {answer:?}");
            assert_eq!(answer.json()["dr-agent"], path);
        }
        // Markers count here too.
        scratch.mark("fenced", true);
        assert_eq!(get(&nginx, "/health/region").status, 503, "{server}");
        scratch.mark("fenced", false);
        assert_eq!(nginx.error_log(), "", "{server}");
    }
}

#[test]
fn a_limit_of_connections_is_answered_with_the_last_word() {
    let scratch = Scratch::new();
    let _agent = Served::start(&scratch);
    // Takes connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = format!("limit_conn open 1; location /slow {{ proxy_pass http://{}; }}", mute.local_addr().unwrap());
    let nginx = site::start(&scratch, "limit_conn_zone $server_name zone=open:1m;", &slow);
    let mut held = target(&nginx).connect().unwrap();
    held.write_all(b"GET /slow HTTP/1.1\r\nHost: shop.example.com\r\n\r\n").unwrap();
    eventually("the last word", || {
        let answer = get(&nginx, "/health/region");
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.header("x-dr-agent") == Some("absent")).then_some(()).ok_or("the agent is asked")
    });
}

#[test]
fn the_locations_of_the_health_paths_are_equal_but_for_the_path() {
    let text = site::shipped(Path::new("/S"), Path::new("/M"));
    let locations = PATHS.map(|path| {
        let (_, block) = text.split_once(&format!("location = /health/{path} {{\n")).expect(path);
        let (block, _) = block.split_once("\n}\n").expect(path);
        block
            .replace(&format!("/health/{path};"), "/health/PATH;")
            .replace(&format!("@dr_agent_{path};"), "@dr_agent_PATH;")
    });
    for location in &locations {
        assert!(location.contains("/health/PATH;") && location.contains("@dr_agent_PATH;"), "{location}");
        assert_eq!(location, &locations[0]);
    }
}

#[test]
fn what_cannot_be_switched_off_from_here_shows() {
    let scratch = Scratch::new();
    let _agent = Served::start(&scratch);
    let nginx = site::start(&scratch, "", "return 301 https://$host$request_uri;");
    assert_eq!(get(&nginx, "/health/region").status, 301);
}

#[test]
fn without_the_package_the_include_is_empty() {
    let nginx = Nginx::with_server("include /nonexistent/dr-agent.d/*.conf; location / { return 200 shop; }");
    assert_eq!(get(&nginx, "/").status, 200);
    assert!(!nginx.error_log().contains("[emerg]"));
}

#[test]
fn the_agents_answer_passes_as_it_is() {
    let scratch = Scratch::new();
    let agent = Served::start(&scratch);
    let nginx = site::start(&scratch, "", "");
    for (method, request, status) in [
        ("GET", "/health/region?x=1&y", 200),
        ("GET", "/health//region", 200),
        ("GET", "/health/./region", 200),
        ("HEAD", "/health/region", 200),
        ("POST", "/health/region", 405),
        ("PUT", "/health/region", 405),
        ("GET", "/health/nothing", 200),
    ] {
        let body = if method == "POST" { "a body that nobody wants" } else { "" };
        let answer = target(&nginx).ask(method, request, "", body).unwrap();
        assert_eq!(answer.status, status, "{method} {request}: {answer:?}");
        match (method, request) {
            ("HEAD", _) => assert_eq!(answer.body, ""),
            ("GET", "/health/nothing") => assert_eq!(answer.body, SHOP),
            ("GET", _) => assert!(answer.body.starts_with(r#"{"ok":true,"dr-agent":"region","#), "{answer:?}"),
            _ => assert_eq!(answer.header("allow"), Some("GET, HEAD")),
        }
    }
    let old = target(&nginx).send("GET /health/region HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.status, 200, "{old:?}");
    let kept = target(&nginx).send("GET /health/region HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(kept.header("connection"), Some("close"), "a reload would lose answers: {kept:?}");
    drop(agent);
}

#[test]
fn the_fence_closes_everything_but_the_health_paths() {
    let scratch = Scratch::new();
    let agent = Served::start(&scratch);
    let cache = "open_file_cache max=100 inactive=60s; open_file_cache_valid 60s; open_file_cache_errors on;";
    let pages = "error_page 503 =200 /;";
    let nginx = site::start(&scratch, cache, pages);
    let user = ["/", "/cart?x=/health/region", "/health/", "/health/region/", "/health/region%0A", "/Health/region"];
    for round in 0..3 {
        for path in user {
            assert_eq!(get(&nginx, path).body, SHOP, "round {round}: {path}");
        }
        scratch.mark("fenced", true);
        for path in user {
            let answer = get(&nginx, path);
            assert_eq!(answer.status, 503, "round {round}: {path}: {answer:?}");
            assert_eq!(answer.header("retry-after"), Some("30"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
        assert_eq!(target(&nginx).ask("POST", "/cart", "", "order=1").unwrap().status, 503);
        assert_eq!(get(&nginx, "/health/nginx").body, "dr-agent nginx\n");
        assert_eq!(get(&nginx, "/health/instance").status, 200);
        scratch.mark("fenced", false);
    }
    assert_eq!(get(&nginx, "/dr-agent-fence").status, 404, "the page is nginx's own");
    drop(agent);
}

#[test]
fn the_probe_page_is_for_this_machine() {
    let scratch = Scratch::new();
    // Whoever comes through a proxy that nginx trusts has the address the proxy says.
    let nginx = site::start(&scratch, "set_real_ip_from 127.0.0.1;", "");
    assert_eq!(get(&nginx, "/health/nginx").body, "dr-agent nginx\n");
    let other = target(&nginx).ask("GET", "/health/nginx", "X-Real-IP: 203.0.113.9\r\n", "").unwrap();
    assert_eq!(other.status, 403, "{other:?}");
}

#[test]
fn an_absent_agent_is_answered_for_and_fills_no_log() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.markers()).unwrap();
    let nginx = site::start(&scratch, "", "error_page 503 =200 /;");
    for (markers, expected) in [
        (&[][..], [503, 200, 200, 503, 503]),
        (&["fenced"], [503, 200, 503, 503, 503]),
        (&["region-closed"], [503, 200, 503, 503, 503]),
        (&["instance-closed"], [503, 503, 200, 503, 503]),
        (&["draining"], [503, 503, 200, 503, 503]),
        (&["promoted"], [503, 200, 200, 200, 503]),
        (&["promoted", "region-closed", "draining"], [503, 503, 503, 200, 503]),
    ] {
        for marker in markers {
            scratch.mark(marker, true);
        }
        for (path, status) in PATHS.into_iter().zip(expected) {
            for method in ["GET", "HEAD", "POST"] {
                let answer = target(&nginx).ask(method, &format!("/health/{path}"), "", "").unwrap();
                assert_eq!(answer.status, status, "{markers:?} {path}: {answer:?}");
                assert_eq!(answer.header("x-dr-agent"), Some("absent"));
                assert_eq!(answer.header("cache-control"), Some("no-store"));
                if method == "GET" {
                    let (ok, word) = if status == 200 { (true, "warn") } else { (false, "fail") };
                    let begin = format!(r#"{{"ok":{ok},"dr-agent":"{path}","status":"{word}","state":""#);
                    assert!(answer.body.starts_with(&begin), "{answer:?}");
                    assert_eq!(answer.header("content-type"), Some("application/json"));
                    answer.json();
                }
            }
        }
        for marker in markers {
            scratch.mark(marker, false);
        }
    }
    assert_eq!(nginx.error_log(), "", "nothing is logged for an absent agent");
}
