//! The app of a region's tests and its users: who ask for the page, who order, and whose sessions stay open.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dr_agent::config::Format;
use dr_agent::repoint::render;

use super::ask::Target;
use super::mariadb::{PASSWORD, Server};
use super::nginx::Nginx;
use super::{Process, eventually};

/// The account that the app writes with, and its schema.
pub const APP: &str = "shop";

/// The app on one instance.
#[derive(Debug, Clone)]
pub struct Shop {
    /// Where its files are.
    pub files: PathBuf,
    /// nginx's.
    pub port: u16,
}

impl Shop {
    /// The port of the writer that the app finds in its files: `None` without files, words where they differ.
    pub fn writer(&self) -> Option<Result<Option<u16>, String>> {
        let text = |name: &str| fs::read_to_string(self.files.join(name)).ok();
        let (env, json) = (text("database.env")?, text("database.json").unwrap_or_default());
        let port = |format, text: &str| render::endpoints(format, text).map(|found| found.0.map(|at| at.port));
        Some(match (port(Format::Env, &env), port(Format::Json, &json)) {
            (Some(env), Some(json)) if env == json => Ok(env),
            (env, json) => Err(format!("(env {env:?}, json {json:?})")),
        })
    }

    /// The code that nginx answers; 0 for none.
    pub fn code(&self, path: &str) -> u16 {
        Target::port(self.port).get(path).map_or(0, |answer| answer.status)
    }

    /// A user's order: through the gate, to the database that the files name.
    pub fn order(&self, number: u64) -> Result<(), String> {
        if self.code("/") != 200 {
            return Err("the gate is closed".to_owned());
        }
        match self.writer() {
            Some(Ok(Some(port))) => insert(port, number),
            other => Err(format!("no writer: {other:?}")),
        }
    }
}

/// One order at the database on `port`.
pub fn insert(port: u16, number: u64) -> Result<(), String> {
    let output = sql(port).arg(format!("INSERT INTO {APP}.orders (number) VALUES ({number})")).output();
    let output = output.expect("run mariadb (package mariadb-client)");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// The app's client at the database on `port`; the statement follows.
pub fn sql(port: u16) -> Command {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--batch", "--skip-column-names"])
        .args([format!("--port={port}"), format!("--user={APP}"), format!("--password={PASSWORD}")])
        .args(["--connect-timeout=2", "--execute"])
        .stdin(Stdio::null());
    command
}

/// A session of the app's that stays open.
#[derive(Debug)]
pub struct Session {
    client: Process,
    id: String,
}

impl Session {
    /// With `server`, by way of `port`.
    pub fn open(port: u16, server: &Server) -> Self {
        let client = Process::start(sql(port).arg("SELECT SLEEP(1000)").stdout(Stdio::null()));
        let id = eventually("the session is there", || match Self::ids(server).pop() {
            Some(id) => Ok(id),
            None => Err("there is none"),
        });
        Self { client, id }
    }

    fn ids(server: &Server) -> Vec<String> {
        let query =
            format!("SELECT id FROM information_schema.processlist WHERE user = '{APP}' AND info LIKE '%SLEEP%'");
        server.sql(&query).lines().map(str::to_owned).collect()
    }

    /// It is the same session still.
    pub fn lives(&mut self, server: &Server) -> bool {
        matches!(self.client.0.try_wait(), Ok(None)) && Self::ids(server).contains(&self.id)
    }
}

/// Somebody who does something over and over until he is dropped.
#[derive(Debug)]
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn with(mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                work();
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Users who ask one nginx for a page, one after the other.
#[derive(Debug)]
pub struct Users {
    codes: Arc<Mutex<Vec<u16>>>,
    _busy: Busy,
}

impl Users {
    pub fn of(nginx: &Nginx) -> Self {
        Self::asking(nginx, "/")
    }

    /// The same for another page.
    pub fn asking(nginx: &Nginx, path: &'static str) -> Self {
        let codes = Arc::new(Mutex::new(Vec::new()));
        let (seen, target) = (Arc::clone(&codes), Target::port(nginx.port));
        let busy = Busy::with(move || {
            let code = target.get(path).map_or(0, |answer| answer.status);
            seen.lock().expect("no panic").push(code);
        });
        Self { codes, _busy: busy }
    }

    /// What they were answered since the last time, of at least so many.
    pub fn answers(&self, least: usize) -> Vec<u16> {
        eventually("users ask", || {
            let count = self.codes.lock().expect("no panic").len();
            if count >= least { Ok(()) } else { Err(format!("{count} of {least}")) }
        });
        std::mem::take(&mut self.codes.lock().expect("no panic"))
    }
}

/// Users who order, one after the other, each with the next number.
#[derive(Debug)]
pub struct Buyers {
    accepted: Arc<Mutex<Vec<u64>>>,
    busy: Busy,
}

impl Buyers {
    pub fn of(shop: Shop, first: u64) -> Self {
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let (list, mut number) = (Arc::clone(&accepted), first);
        let busy = Busy::with(move || {
            if shop.order(number).is_ok() {
                list.lock().expect("no panic").push(number);
            }
            number += 1;
        });
        Self { accepted, busy }
    }

    /// Numbers of orders that were accepted until now.
    pub fn accepted(&self) -> Vec<u64> {
        self.accepted.lock().expect("no panic").clone()
    }

    /// They go home; the numbers of all orders that were accepted.
    pub fn stop(self) -> Vec<u64> {
        drop(self.busy);
        std::mem::take(&mut self.accepted.lock().expect("no panic"))
    }
}
