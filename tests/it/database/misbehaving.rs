//! The database probe against servers that say the wrong thing, or nothing.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dr_agent::health::cause::Cause;
use dr_agent::observation::Observation;
use tempfile::TempDir;

use super::{Probed, assert_cause, failure};
use crate::support::eventually;
use crate::support::mariadb::{Certificates, Server};

/// What a scripted server does with its connections.
#[derive(Debug, Clone)]
enum Script {
    /// Says this and then nothing.
    Says(Vec<u8>),
    /// Says this and closes.
    Ends(Vec<u8>),
    /// Passes everything to the real server on this port.
    Passes(u16),
}

/// A server on loopback that follows a script; it counts the connections that are open.
struct Scripted {
    port: u16,
    script: Arc<Mutex<Script>>,
    open: Arc<()>,
}

impl Scripted {
    fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let script = Arc::new(Mutex::new(script));
        let open = Arc::new(());
        let (shared, opened) = (Arc::clone(&script), Arc::downgrade(&open));
        thread::spawn(move || {
            for stream in listener.incoming() {
                // The test is over when nobody holds the other end of the counter.
                let (Ok(stream), Some(token)) = (stream, opened.upgrade()) else { return };
                let script = shared.lock().expect("a script").clone();
                thread::spawn(move || {
                    serve(stream, script);
                    drop(token);
                });
            }
        });
        Self { port, script, open }
    }

    fn follow(&self, script: Script) {
        *self.script.lock().expect("a script") = script;
    }

    fn connections(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.open = Arc::new(());
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn serve(mut stream: TcpStream, script: Script) {
    match script {
        Script::Ends(bytes) => drop(stream.write_all(&bytes)),
        Script::Says(bytes) => {
            drop(stream.write_all(&bytes));
            // Until the client goes.
            drop(std::io::copy(&mut stream, &mut std::io::sink()));
        }
        Script::Passes(port) => {
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the real server");
            let (mut back, mut from) = (stream.try_clone().expect("clone"), server.try_clone().expect("clone"));
            let down = thread::spawn(move || {
                drop(std::io::copy(&mut from, &mut back));
                drop(back.shutdown(Shutdown::Write));
            });
            drop(std::io::copy(&mut stream, &mut server));
            drop(server.shutdown(Shutdown::Write));
            drop(down.join());
        }
    }
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(payload.len()).expect("a short packet"), 0, 0, 0];
    bytes.extend(payload);
    bytes
}

fn refusal(code: u16, text: &str) -> Vec<u8> {
    packet(&[&[0xff][..], &code.to_le_bytes(), text.as_bytes()].concat())
}

#[test]
fn servers_that_misbehave_are_named_and_recovered_from() {
    let server = Server::start();
    let scripted = Scripted::start(Script::Says(Vec::new()));
    let mut probed = Probed::new(scripted.port, &server.ca(), |config| {
        config.fresh_timeout = Duration::from_millis(300);
    });
    let whole = packet(b"\x0a10.11.19-MariaDB\0\x01\0\0\0abcdefgh\0\xff\xff\x2d\x02\0\xff\x81\x15\0\0\0\0\0\0\x07\0\0\0abcdefghijkl\0mysql_native_password\0");
    let half = whole[..40].to_vec();
    let no_tls = {
        // Without the flag that offers TLS (2,048) among the lower capabilities.
        let mut bytes = whole.clone();
        let at = bytes.windows(2).position(|pair| pair == [0xff, 0xff]).unwrap();
        bytes[at + 1] &= !0x08;
        bytes
    };
    let huge = [&[0xff, 0xff, 0xff, 0, 10][..], &[b'x'; 4096]].concat();
    let cases = [
        ("silent", Script::Says(Vec::new()), Cause::DatabaseTimeout, "greeting"),
        ("half a greeting", Script::Says(half.clone()), Cause::DatabaseTimeout, "greeting"),
        ("half a greeting, then gone", Script::Ends(half), Cause::DatabaseLost, "greeting"),
        ("gone at once", Script::Ends(Vec::new()), Cause::DatabaseLost, "greeting"),
        ("another protocol", Script::Says(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec()), Cause::DatabaseNotMysql, "greeting"),
        (
            "a web server",
            Script::Ends(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Cause::DatabaseNotMysql,
            "greeting",
        ),
        ("a huge packet", Script::Says(huge), Cause::DatabaseNotMysql, "greeting"),
        ("blocked", Script::Ends(refusal(1129, "Host '10.0.0.5' is blocked")), Cause::DatabaseHostBlocked, "greeting"),
        ("full", Script::Ends(refusal(1040, "Too many connections")), Cause::DatabaseTooMany, "greeting"),
        ("a broken greeting", Script::Says(packet(b"\x0a10.11")), Cause::DatabaseNotMysql, "tls"),
        ("no TLS offered", Script::Says(no_tls), Cause::DatabaseTls, "tls"),
        ("silent in TLS", Script::Says(whole.clone()), Cause::DatabaseTimeout, "tls"),
        ("gone in TLS", Script::Ends(whole), Cause::DatabaseLost, "tls"),
    ];
    for (name, script, cause, stage) in cases {
        println!("{name}");
        // From a cold start, so that no back-off of the case before is in the way.
        let mut cold = Probed::new(scripted.port, &server.ca(), |config| {
            config.fresh_timeout = Duration::from_millis(300);
        });
        scripted.follow(script);
        assert_cause(&cold.look(), cause, stage);
        if !matches!(stage, "tls") && cause != Cause::DatabaseHostBlocked {
            probed.until_cause(cause);
            scripted.follow(Script::Passes(server.port));
            cold.until_pass();
            probed.until_pass();
        }
    }
}

#[test]
fn attempts_that_are_dropped_leave_nothing() {
    let folder = TempDir::new().unwrap();
    Certificates::make(folder.path());
    let scripted = Scripted::start(Script::Says(Vec::new()));
    let mut probed = Probed::new(scripted.port, &folder.path().join("ca.pem"), |config| {
        config.schedule.timeout = Duration::from_millis(50);
        config.fresh_timeout = Duration::from_millis(120);
    });
    for _ in 0..20 {
        assert_cause(&probed.look(), Cause::DatabaseTimeout, "greeting");
        // The one under way, and one that the script has yet to see closed.
        assert!(scripted.connections() <= 2, "{} connections", scripted.connections());
    }
    let Probed { runtime, probe, .. } = probed;
    let tasks = || runtime.metrics().num_alive_tasks();
    assert!(tasks() <= 4, "{} tasks", tasks());
    runtime.block_on(async { drop(probe) });
    eventually("the connections and tasks end with the probe", || {
        runtime.block_on(tokio::task::yield_now());
        match (scripted.connections(), tasks()) {
            (0, 0) => Ok(()),
            some => Err(format!("{some:?}")),
        }
    });
}

#[test]
fn a_long_silence_costs_few_broken_handshakes() {
    let folder = TempDir::new().unwrap();
    Certificates::make(folder.path());
    let scripted = Scripted::start(Script::Says(Vec::new()));
    let mut probed = Probed::new(scripted.port, &folder.path().join("ca.pem"), |config| {
        config.fresh_timeout = Duration::from_millis(50);
    });
    let waits =
        |observation: &Observation| failure(observation).is_some_and(|(_, text)| text.contains("next login in"));
    for _ in 0..11 {
        let observation = probed.look();
        assert_cause(&observation, Cause::DatabaseTimeout, "greeting");
        assert!(!waits(&observation), "{observation:#?}");
    }
    let observation = probed.look();
    assert!(waits(&observation), "{observation:#?}");
}
