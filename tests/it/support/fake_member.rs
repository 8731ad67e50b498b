//! A member of a group that has the keys and otherwise says what the test likes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dr_agent::group::keys::{Keys, Message};
use dr_agent::group::word::fingerprint;
use serde_json::{Value, json};

/// How a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// As a member does, with this status and body.
    This(u16, Vec<u8>),
    /// The same without a signature.
    Unsigned(u16, Vec<u8>),
    /// Signed with a key that was dropped.
    OldKey(u16, Vec<u8>),
    /// Signed for another question.
    Replayed(u16, Vec<u8>),
    /// The signature is of another status.
    OtherStatus(u16, Vec<u8>),
    /// No answer, and the connection stays open.
    Nothing,
    /// Half an answer.
    Half,
    /// No HTTP.
    Garbage,
}

/// What it answers.
#[derive(Debug, Clone)]
pub struct Answers {
    /// `GET /peer`.
    pub word: Says,
    /// `POST /peer/grant`.
    pub grant: Says,
    /// `GET /peer/records`.
    pub records: Says,
}

/// It answers until the test ends.
#[derive(Debug)]
pub struct FakeMember {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    answers: Answers,
    keys: Keys,
    old: Keys,
    words: AtomicUsize,
    grants: AtomicUsize,
    records: AtomicUsize,
    returned: Mutex<Vec<String>>,
    ended: AtomicBool,
}

/// What a well member says of itself.
pub fn word(instance: &str) -> Value {
    let well = |target: &str| json!({"target": fingerprint(target), "status": "healthy", "last_ok_age_ms": 0});
    json!({"proto": 1, "deployment": "test", "region": "r", "group": "web", "zone": "a", "instance": instance,
        "boot": "b", "state": "serving", "serving": true, "region_closed": false, "draining": false,
        "components": {"host": well("local"), "nginx": well("http://127.0.0.1/health/nginx")}})
}

impl Answers {
    /// A well member that agrees to everything.
    pub fn honest(instance: &str) -> Self {
        Self {
            word: Says::This(200, word(instance).to_string().into()),
            grant: Says::This(200, br#"{"granted":true}"#.to_vec()),
            records: Says::This(200, b"[]".to_vec()),
        }
    }
}

impl FakeMember {
    pub fn start(port: u16, keys: Keys, old: Keys, answers: Answers) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("bind");
        let counts = || AtomicUsize::new(0);
        let (words, grants, records) = (counts(), counts(), counts());
        let (returned, ended) = (Mutex::default(), AtomicBool::new(false));
        let state = Arc::new(State { answers, keys, old, words, grants, records, returned, ended });
        let member = Self { port, state: Arc::clone(&state) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                thread::spawn(move || answer(&stream, &state));
            }
        });
        member
    }

    /// How often its word was asked for.
    pub fn words(&self) -> usize {
        self.state.words.load(Ordering::SeqCst)
    }

    /// How often its grant was asked for.
    pub fn grants(&self) -> usize {
        self.state.grants.load(Ordering::SeqCst)
    }

    /// How often its records were asked for.
    pub fn records(&self) -> usize {
        self.state.records.load(Ordering::SeqCst)
    }

    /// Ids of the grants that came back.
    pub fn returned(&self) -> Vec<String> {
        self.state.returned.lock().expect("no panic").clone()
    }
}

impl Drop for FakeMember {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// Answers one question.
fn answer(mut stream: &TcpStream, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut lines, mut nonce, mut length) = (Vec::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
            Some((name, value)) if name == "x-dr-agent-nonce" => value.clone_into(&mut nonce),
            Some((name, value)) if name == "content-length" => length = value.parse().ok()?,
            _ => {}
        }
        lines.push(line);
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let mut words = lines.first()?.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let well = Says::This(200, b"{}".to_vec());
    let says = match (method, path) {
        ("GET", "/peer") => {
            state.words.fetch_add(1, Ordering::SeqCst);
            &state.answers.word
        }
        ("POST", "/peer/grant") => {
            state.grants.fetch_add(1, Ordering::SeqCst);
            &state.answers.grant
        }
        ("GET", "/peer/records") => {
            state.records.fetch_add(1, Ordering::SeqCst);
            &state.answers.records
        }
        ("DELETE", path) => {
            let id = path.strip_prefix("/peer/grant/")?.to_owned();
            state.returned.lock().expect("no panic").push(id);
            &well
        }
        _ => return None,
    };
    let sign = |keys: &Keys, nonce: &str, status, body: &[u8]| keys.sign(Message::Answer { nonce, status, body });
    let (status, body, mac) = match says {
        Says::This(status, body) => (*status, body, sign(&state.keys, &nonce, *status, body)),
        Says::Unsigned(status, body) => (*status, body, String::new()),
        Says::OldKey(status, body) => (*status, body, sign(&state.old, &nonce, *status, body)),
        Says::Replayed(status, body) => (*status, body, sign(&state.keys, &"0".repeat(32), *status, body)),
        Says::OtherStatus(status, body) => (*status, body, sign(&state.keys, &nonce, 409, body)),
        Says::Nothing => {
            while !state.ended.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(50));
            }
            return None;
        }
        Says::Half => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").ok(),
        Says::Garbage => return stream.write_all(b"\x00\xff\r\n\r\n").ok(),
    };
    let mac = if mac.is_empty() { mac } else { format!("X-Dr-Agent-Mac: {mac}\r\n") };
    let head = format!("HTTP/1.1 {status} X\r\n{mac}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}
