//! What stands between the agent and AWS: it remembers every action that comes by and makes answers fail on command.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// None comes, and the connection stays open.
    Hang,
    /// The connection is reset.
    Reset,
    /// This status, with a page of HTML.
    Status(u16),
    /// AWS asks for fewer calls.
    Throttle,
    /// AWS refuses with this code.
    Refuse(&'static str),
    /// AWS refuses to mark an instance that is too young for its group.
    InGracePeriod,
    /// The call is carried out, and its answer is lost.
    Lost,
    /// Half of it comes, then the connection is closed.
    Truncated,
    /// A byte a second.
    Trickle,
    /// Another server's answer, from here.
    Instead(String),
}

/// A proxy of its own, ended with the test.
#[derive(Debug)]
pub struct AwsProxy {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    upstream: u16,
    /// By action; the empty one stands for all others.
    faults: Mutex<BTreeMap<String, Fault>>,
    actions: Mutex<Vec<String>>,
    /// The zone of each instance: moto has them all in one.
    zones: Mutex<BTreeMap<String, String>>,
    /// Bytes of the longest body of each action.
    longest: Mutex<BTreeMap<String, usize>>,
    ended: AtomicBool,
}

const REFRESHES: &str = "DescribeInstanceRefreshes";

/// In AWS's own words.
const GRACE: &str = "The age of the instance (9 seconds) is less than the configured grace period of 1500 seconds";

/// moto has no instance refreshes, and a group has none most of the time.
const NO_REFRESHES: &str = "<DescribeInstanceRefreshesResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
    <DescribeInstanceRefreshesResult><InstanceRefreshes/></DescribeInstanceRefreshesResult>\
    <ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></DescribeInstanceRefreshesResponse>";

impl AwsProxy {
    /// Before a server at `upstream`.
    pub fn start(upstream: u16) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind"), upstream)
    }

    /// The same on a listener, which may be in another network.
    pub fn on(listener: TcpListener, upstream: u16) -> Self {
        let port = listener.local_addr().expect("its address").port();
        let (faults, actions, zones, longest) =
            (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        let state = Arc::new(State { upstream, faults, actions, zones, longest, ended: AtomicBool::new(false) });
        let proxy = Self { port, state: Arc::clone(&state) };
        proxy.heal(REFRESHES);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                thread::spawn(move || stream.map(|stream| serve(stream, &state)));
            }
        });
        proxy
    }

    /// From now on EC2 says that this instance is in this zone, which is one of the two in which moto has all of them.
    pub fn place(&self, instance: &str, zone: &str) {
        self.state.zones.lock().expect("no panic").insert(instance.to_owned(), zone.to_owned());
    }

    /// From now on; an empty `action` means all that are not named otherwise.
    pub fn fail(&self, action: &str, fault: Fault) {
        self.state.faults.lock().expect("no panic").insert(action.to_owned(), fault);
    }

    pub fn heal(&self, action: &str) {
        if action == REFRESHES {
            return self.fail(action, Fault::Instead(NO_REFRESHES.to_owned()));
        }
        self.state.faults.lock().expect("no panic").remove(action);
    }

    /// The actions that came by, in order.
    pub fn actions(&self) -> Vec<String> {
        self.state.actions.lock().expect("no panic").clone()
    }

    pub fn count(&self, action: &str) -> usize {
        self.actions().iter().filter(|seen| *seen == action).count()
    }

    /// Bytes of the longest request of an action.
    pub fn longest(&self, action: &str) -> usize {
        self.state.longest.lock().expect("no panic").get(action).copied().unwrap_or(0)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The environment of a process whose AWS this is, with credentials of its own.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }
}

impl Drop for AwsProxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, state: &State) {
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = request(&mut reader) {
        let form = String::from_utf8_lossy(&body);
        // CloudWatch has it in the path.
        let operation = head.split(' ').nth(1).and_then(|path| path.split_once("/operation/")).map(|(_, name)| name);
        let action = operation.or_else(|| form.split('&').find_map(|pair| pair.strip_prefix("Action=")));
        let action = action.unwrap_or_default().to_owned();
        state.actions.lock().expect("no panic").push(action.clone());
        {
            let mut longest = state.longest.lock().expect("no panic");
            let longest = longest.entry(action.clone()).or_default();
            *longest = (*longest).max(body.len());
        }
        let fault = {
            let faults = state.faults.lock().expect("no panic");
            faults.get(&action).or_else(|| faults.get("")).cloned()
        };
        let stream = reader.get_mut();
        let sent = match fault {
            None => forward(&head, &body, state).and_then(|answer| stream.write_all(&answer)),
            Some(Fault::Hang) => {
                while !state.ended.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(50));
                }
                return;
            }
            Some(Fault::Reset) => {
                let _ = set_socket_linger(&*stream, Some(Duration::ZERO));
                return;
            }
            Some(Fault::Status(status)) => stream.write_all(&answer(status, "<html>no</html>")),
            Some(Fault::Throttle) => stream.write_all(&answer(400, &error(&action, "Throttling", "Rate exceeded"))),
            Some(Fault::Refuse(code)) => stream.write_all(&answer(400, &error(&action, code, "refused by the test"))),
            Some(Fault::InGracePeriod) => stream.write_all(&answer(400, &error(&action, "ValidationError", GRACE))),
            Some(Fault::Lost) => {
                drop(forward(&head, &body, state));
                return;
            }
            Some(Fault::Truncated) => {
                let whole = forward(&head, &body, state).unwrap_or_default();
                drop(stream.write_all(&whole[..whole.len() / 2]));
                return;
            }
            Some(Fault::Trickle) => {
                let whole = answer(200, &error(&action, "Slow", "x"));
                for byte in whole {
                    if state.ended.load(Ordering::SeqCst) || stream.write_all(&[byte]).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(if byte == b'\n' { 100 } else { 20 }));
                }
                return;
            }
            Some(Fault::Instead(body)) => stream.write_all(&answer(200, &body)),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Head and body of the next request.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut body = vec![0; length(&head)];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn length(head: &str) -> usize {
    let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
    let found = pairs.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

/// What the server says, whole.
fn forward(head: &str, body: &[u8], state: &State) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, state.upstream))?;
    let head = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head = head.chain(["Connection: close", "", ""]).collect::<Vec<_>>().join("\r\n");
    server.write_all(head.as_bytes())?;
    server.write_all(body)?;
    let mut whole = Vec::new();
    server.read_to_end(&mut whole)?;
    Ok(in_their_zones(whole, &state.zones.lock().expect("no panic")))
}

/// Each instance of an answer with the zone it was given here.
fn in_their_zones(answer: Vec<u8>, zones: &BTreeMap<String, String>) -> Vec<u8> {
    const ID: &str = "<instanceId>";
    let Ok(text) = std::str::from_utf8(&answer) else { return answer };
    if zones.is_empty() || !text.contains(ID) {
        return answer;
    }
    let mut parts = text.split(ID);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole += ID;
        let zone = part.split('<').next().and_then(|id| zones.get(id));
        whole +=
            &zone.map_or_else(|| part.to_owned(), |zone| part.replace("us-east-1a", zone).replace("us-east-1b", zone));
    }
    whole.into_bytes()
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn error(action: &str, code: &str, message: &str) -> String {
    if action == "DescribeInstances" {
        // EC2 words it in its own way.
        return format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
             <RequestID>x</RequestID></Response>"
        );
    }
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>x</RequestId></ErrorResponse>"
    )
}
