//! An instance metadata service, version 2, as an instance sees it: tokens with an end, 401 without one, 404 for what is
//! not there. And as it should not be: silent, or something else that lives at its address.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// Not at all; the connection stays open.
    Silent,
    /// A page of HTML and 200, whatever is asked.
    Strange,
    /// 503.
    Failing,
    /// 403: it is switched off for this instance.
    Disabled,
}

/// The service of one instance.
#[derive(Debug)]
pub struct Imds {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Path below `/latest/meta-data/` -> content.
    data: Mutex<BTreeMap<String, String>>,
    tokens: AtomicU32,
    mood: Mutex<Mood>,
    /// Paths asked for, in order.
    asked: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl Imds {
    pub fn start(data: &[(&str, &str)]) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind"), data)
    }

    /// On a listener, which may be in another network.
    pub fn on(listener: TcpListener, data: &[(&str, &str)]) -> Self {
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State::default());
        let imds = Self { port, state: Arc::clone(&state) };
        for (path, content) in data {
            imds.set(path, Some(content));
        }
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                thread::spawn(move || stream.map(|stream| serve(&stream, &state)));
            }
        });
        imds
    }

    /// One instance of a group.
    pub fn of(instance: &str, zone: &str, group: &str) -> Self {
        Self::start(&[
            ("instance-id", instance),
            ("placement/region", &zone[..zone.len() - 1]),
            ("placement/availability-zone", zone),
            ("tags/instance/aws:autoscaling:groupName", group),
        ])
    }

    pub fn set(&self, path: &str, content: Option<&str>) {
        let mut data = self.state.data.lock().expect("no panic");
        match content {
            Some(content) => _ = data.insert(path.to_owned(), content.to_owned()),
            None => _ = data.remove(path),
        }
    }

    pub fn be(&self, mood: Mood) {
        *self.state.mood.lock().expect("no panic") = mood;
    }

    /// How often this was asked for, whatever came of it.
    pub fn count(&self, path: &str) -> usize {
        self.state.asked.lock().expect("no panic").iter().filter(|asked| asked.ends_with(path)).count()
    }

    /// Every token given so far ends now.
    pub fn end_tokens(&self) {
        self.state.tokens.fetch_add(1, Ordering::SeqCst);
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Imds {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// Answers the questions of one connection.
fn serve(mut stream: &TcpStream, state: &State) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(Ok(first)) = lines.next() else { return };
        let headers: Vec<_> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let all = headers.iter().filter_map(|line| line.split_once(':'));
            all.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        let token = format!("token-{}", state.tokens.load(Ordering::SeqCst));
        state.asked.lock().expect("no panic").push(first.split(' ').nth(1).unwrap_or_default().to_owned());
        let mood = *state.mood.lock().expect("no panic");
        let (status, body) = match first.split(' ').collect::<Vec<_>>()[..] {
            _ if mood == Mood::Strange => (200, "<html>welcome</html>".to_owned()),
            _ if mood == Mood::Failing => (503, String::new()),
            _ if mood == Mood::Disabled => (403, String::new()),
            ["PUT", "/latest/api/token", _] if header("x-aws-ec2-metadata-token-ttl-seconds").is_some() => (200, token),
            ["GET", _, _] if header("x-aws-ec2-metadata-token").as_ref() != Some(&token) => (401, String::new()),
            ["GET", path, _] => {
                let data = state.data.lock().expect("no panic");
                let found = path.strip_prefix("/latest/meta-data/").and_then(|path| data.get(path));
                found.map_or((404, String::new()), |content| (200, content.clone()))
            }
            _ => (400, String::new()),
        };
        if mood == Mood::Silent {
            while !state.ended.load(Ordering::SeqCst) && *state.mood.lock().expect("no panic") == Mood::Silent {
                thread::sleep(Duration::from_millis(20));
            }
            return;
        }
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
