//! Certificates of the regions' names, shown by a real nginx: their days, and what a client would say of them.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::site::Scratch;
use crate::support::{Process, agent_binary, eventually, free_port, signal};

/// A web server with a certificate of its own authority, for `localhost`.
struct Site {
    scratch: Scratch,
    port: u16,
    _nginx: Process,
}

impl Site {
    /// Its certificate is for `name` and ends in so many days.
    fn start(name: &str, days: i32) -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path("tls");
        fs::create_dir(&folder).expect("make it");
        let openssl = |arguments: &[&str]| {
            let output = Command::new("openssl").current_dir(&folder).args(arguments).output().expect("run openssl");
            assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let authority =
            ["req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", "-days", "99"];
        openssl(&[&authority[..], &key].concat());
        openssl(&[&["req", "-new", "-subj", "/CN=site", "-keyout", "site.key", "-out", "site.csr"], &key[..]].concat());
        fs::write(folder.join("site.ext"), format!("subjectAltName=DNS:{name}\nbasicConstraints=critical,CA:FALSE\n"))
            .expect("write it");
        let days = days.to_string();
        let sign = ["x509", "-req", "-in", "site.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(&[&sign[..], &["-extfile", "site.ext", "-days", &days, "-out", "site.pem"]].concat());

        let port = free_port();
        let folder = folder.display();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\n  access_log off;\n  \
             server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/site.pem; \
             ssl_certificate_key {folder}/site.key; return 200; }}\n}}\n"
        );
        let config = scratch.path("tls/nginx.conf");
        fs::write(&config, text).expect("write it");
        let nginx = Process::start(Command::new("nginx").arg("-c").arg(&config).arg("-e").arg(scratch.path("tls/log")));
        eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).map(drop));
        Self { scratch, port, _nginx: nginx }
    }

    fn authority(&self) -> std::path::PathBuf {
        self.scratch.path("tls/ca.pem")
    }
}

fn configuration(port: u16) -> String {
    format!("[probe.nginx]\nurl = \"http://127.0.0.1:1/\"\n[region.test-1]\nurl = \"https://localhost:{port}\"\n")
}

/// What `check` says of it: the certificate, and the page.
fn checked(site: &Site) -> (Value, String) {
    let agent = Agent::new(Scratch::new(), &configuration(site.port));
    let check = |format: &str| {
        let output = Command::new(agent_binary())
            .args(["check", "--as-me", "--region", "test-1", "--format", format, "--config"])
            .arg(agent.config())
            .env("SSL_CERT_FILE", site.authority())
            .output()
            .expect("run it");
        String::from_utf8(output.stdout).expect("text")
    };
    let report: Value = serde_json::from_str(&check("json")).expect("JSON");
    (report["certificates"][0].clone(), check("text"))
}

#[test]
fn a_certificate_that_is_good_for_long_is_only_named() {
    let (certificate, page) = checked(&Site::start("localhost", 90));
    assert_eq!(certificate["region"], "test-1");
    assert_eq!(certificate["problem"], Value::Null, "{certificate:#}");
    let section = page.split("Certificates").nth(1).expect("its section").split("\n\n").next().unwrap_or_default();
    assert!(section.contains("89 days left") || section.contains("90 days left"), "{page}");
    assert!(!section.contains("hint:"), "{page}");
}

#[test]
fn one_that_ends_soon_is_a_finding() {
    let (certificate, page) = checked(&Site::start("localhost", 5));
    assert_eq!(certificate["problem"], Value::Null, "{certificate:#}");
    assert!(page.contains(" days left") && page.contains("renew it"), "{page}");
}

#[test]
fn one_that_a_client_refuses_shows_its_end_and_why() {
    // Valid for the second in which it was made.
    let site = Site::start("localhost", 0);
    let page = eventually("it is over", || {
        let (certificate, page) = checked(&site);
        let problem = certificate["problem"].as_str().unwrap_or_default();
        if problem.contains("expired") { Ok(page) } else { Err(format!("{certificate:#}")) }
    });
    assert!(page.contains("over since"), "{page}");

    let (certificate, page) = checked(&Site::start("another.example.com", 90));
    assert!(certificate["problem"].as_str().is_some_and(|problem| problem.contains("not valid for name")), "{page}");
    assert!(certificate["expires"].is_string() && page.contains("renew it"), "{page}");

    // Of an authority that nobody trusts here.
    let (mut site, other) = (Site::start("localhost", 90), Site::start("localhost", 90));
    fs::copy(other.authority(), site.authority()).expect("copy it");
    let (certificate, _) = checked(&site);
    assert!(certificate["expires"].is_string() && certificate["problem"].is_string(), "{certificate:#}");
    site.port = free_port();
    let (certificate, page) = checked(&site);
    assert!(certificate["expires"].is_null() && certificate["problem"].is_string(), "{certificate:#}");
    assert!(page.contains("not seen from here") && !page.contains("renew it"), "nobody listens: {page}");
}

#[test]
fn the_agent_publishes_the_days() {
    let site = Site::start("localhost", 5);
    let mut agent = Agent::new(Scratch::new(), &configuration(site.port));
    agent.start();
    let days = || {
        let page = agent.peer().get("/metrics").map_err(|error| error.to_string())?.body;
        let line = page.lines().find(|line| line.starts_with("dr_agent_certificate_expiry_days{region=\"test-1\"} "));
        Ok::<_, String>(line.and_then(|line| line.rsplit(' ').next()?.parse::<i64>().ok()))
    };
    eventually("the days are in /metrics", || match days()? {
        Some(4 | 5) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A reload without the name.
    agent.configure("[probe.nginx]\nurl = \"http://127.0.0.1:1/\"\n[region.test-1]\n");
    signal(agent.pid(), "HUP");
    eventually("they are gone", || days()?.map_or(Ok(()), |days| Err(format!("{days}"))));
    agent.stop();
}
