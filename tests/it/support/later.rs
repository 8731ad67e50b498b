//! What stands in for a release after this one: it passes questions on, and to each answer it adds what such a release may add,
//! signed as the deployment signs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use dr_agent::group::keys::{Keys, MAC, Message, NONCE};
use serde_json::{Value, json};

/// It answers at `port` until it is dropped.
#[derive(Debug)]
pub struct Later {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    of: u16,
    keys: Keys,
    changed: AtomicUsize,
    ended: AtomicBool,
}

impl Later {
    /// In front of what listens at port `of`.
    pub fn release(of: u16, key_file: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let keys = Keys::read(key_file).expect("read the keys");
        let state = Arc::new(State { of, keys, changed: AtomicUsize::default(), ended: AtomicBool::default() });
        let later = Self { port, state: Arc::clone(&state) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                thread::spawn(move || pass(client, &state));
            }
        });
        later
    }

    /// How many answers had something added.
    pub fn changed(&self) -> usize {
        self.state.changed.load(Ordering::SeqCst)
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// One question and its answer, as `Connection: close` has them.
fn pass(mut client: TcpStream, state: &State) -> Option<()> {
    let (head, body) = message(&client)?;
    let nonce = header(&head, NONCE).unwrap_or_default().to_owned();
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, state.of)).ok()?;
    server.write_all(&[head.concat().as_bytes(), b"\r\n", &body].concat()).ok()?;
    let (mut head, mut body) = message(&server)?;
    let status: u16 = head.first()?.split(' ').nth(1)?.parse().ok()?;
    if header(&head, MAC).is_some()
        && let Ok(mut value) = serde_json::from_slice::<Value>(&body)
    {
        add(&mut value);
        body = value.to_string().into_bytes();
        let mac = state.keys.sign(Message::Answer { nonce: &nonce, status, body: &body });
        head.retain(|line| ![MAC, "content-length"].contains(&name(line).as_str()));
        head.push(format!("{MAC}: {mac}\r\ncontent-length: {}\r\n", body.len()));
        state.changed.fetch_add(1, Ordering::SeqCst);
    }
    client.write_all(&[head.concat().as_bytes(), b"\r\n", &body].concat()).ok()
}

/// The lines of the head, each with its end, and the body.
fn message(stream: &TcpStream) -> Option<(Vec<String>, Vec<u8>)> {
    let (mut reader, mut head) = (BufReader::new(stream), Vec::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line);
    }
    let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn name(line: &str) -> String {
    line.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

fn header<'a>(head: &'a [String], wanted: &str) -> Option<&'a str> {
    let line = head.iter().find(|line| name(line) == wanted)?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// A field in each object, and a probe that this release does not have.
fn add(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match field.as_object_mut() {
                    Some(components) if name == "components" => {
                        components.values_mut().for_each(add);
                        components.insert("cache".to_owned(), json!({"target": "0", "status": "unhealthy"}));
                    }
                    _ => add(field),
                }
            }
            fields.insert("of_a_later_release".to_owned(), json!({"any": ["thing"]}));
        }
        Value::Array(values) => values.iter_mut().for_each(add),
        _ => {}
    }
}
