//! The tables of authority in real MariaDB servers, alone and with GTID replication over TLS.

mod grants;
mod mysql;
mod replication;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use dr_agent::authority::Claim;
use dr_agent::authority::database::{Closing, Kind, Read, Tables, Unread};
use dr_agent::authority::sql::{Claiming, Close, Database, Proof, Swap, Unproven, Unwritten};
use dr_agent::database::Endpoint;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::forward::Forwarder;
use crate::support::mariadb::{PASSWORD, Server, USER};
use crate::support::{Process, agent_binary, eventually};

const HOME: &str = "ap-south-1";
const PEER: &str = "us-east-1";

/// One database as an agent uses it, with the runtime it runs on.
struct Asked {
    runtime: Runtime,
    database: Database,
    _folder: TempDir,
}

impl Asked {
    fn new(port: u16, ca: &[u8]) -> Self {
        dr_agent::install_crypto_provider();
        let folder = TempDir::new().expect("a scratch folder");
        let (password, bundle) = (folder.path().join("password"), folder.path().join("ca.pem"));
        fs::write(&password, PASSWORD).expect("write the password");
        fs::write(&bundle, ca).expect("write the bundle");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let database = Database::new(Endpoint {
            host: "localhost".to_owned(),
            port,
            user: USER.to_owned(),
            password_file: Some(password),
            tls_ca: Some(bundle),
        });
        Self { runtime, database, _folder: folder }
    }

    fn of(server: &Server) -> Self {
        Self::new(server.port, &bundle(&[server]))
    }

    fn read(&mut self) -> Result<Read, Unread> {
        let attempt = self.runtime.block_on(self.database.read());
        assert!(attempt.began <= attempt.ended);
        attempt.result
    }

    #[track_caller]
    fn see(&mut self) -> Read {
        self.read().unwrap_or_else(|error| panic!("not read: {error:?}"))
    }

    #[track_caller]
    fn tables(&mut self) -> Tables {
        let read = self.see();
        read.tables.unwrap_or_else(|| panic!("no tables at {}", read.server))
    }

    fn prove(&mut self) -> Result<Proof, Unproven> {
        self.runtime.block_on(self.database.prove())
    }

    fn claim(&mut self, claiming: &Claiming) -> Result<Swap, Unwritten> {
        self.runtime.block_on(self.database.claim(claiming))
    }

    /// Proves it and claims `epoch` on what it shows.
    #[track_caller]
    fn take(&mut self, epoch: u64, region: &str, kind: Kind) {
        let read = self.prove().unwrap_or_else(|error| panic!("not proven: {error:?}")).read;
        let claiming = next(claim(epoch, region), read.server, &read.tables.expect("tables"), kind, "a test");
        assert_eq!(self.claim(&claiming), Ok(Swap::Done));
    }

    fn beat(&mut self, region: &str) -> Result<bool, Unwritten> {
        self.runtime.block_on(self.database.beat(region))
    }

    fn enrol(&mut self, server: &str, region: &str) -> Result<(), Unwritten> {
        self.runtime.block_on(self.database.enrol(server, region))
    }

    fn supersede(&mut self, own: &Claim, by: &Claim) -> Result<(), Unwritten> {
        self.runtime.block_on(self.database.supersede(own, by))
    }

    fn close(&mut self, close: &Close) -> Result<Swap, Unwritten> {
        self.runtime.block_on(self.database.close(close))
    }

    fn release(&mut self, region: &str, until: jiff::Timestamp) -> Result<Swap, Unwritten> {
        self.runtime.block_on(self.database.release(region, until))
    }
}

fn claim(epoch: u64, region: &str) -> Claim {
    Claim { epoch, region: region.to_owned() }
}

/// The row after what `tables` show.
fn next(claim: Claim, server: String, tables: &Tables, kind: Kind, reason: &str) -> Claiming {
    let own = tables.closing.iter().find(|closing| closing.region == claim.region && !closing.is_released);
    Claiming {
        parent: tables.newest.as_ref().map_or(0, |row| row.claim.epoch),
        server,
        kind,
        reason: reason.to_owned(),
        closing: own.map(|closing| closing.until),
        claim,
    }
}

fn regions() -> [String; 2] {
    [HOME.to_owned(), PEER.to_owned()]
}

/// The authorities of all `servers`.
fn bundle(servers: &[&Server]) -> Vec<u8> {
    servers.iter().flat_map(|server| fs::read(server.ca()).expect("read the CA")).collect()
}

/// What `dr-agent database grants` prints.
fn grants(arguments: &[&str]) -> String {
    let mut child = Command::new(agent_binary())
        .args(["--config", "/nonexistent", "database", "grants", "--password-stdin"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the agent");
    child.stdin.take().expect("piped").write_all(format!("{PASSWORD}\n").as_bytes()).expect("write the password");
    let output = child.wait_with_output().expect("wait for it");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A primary with the tables, the account, and the first row.
fn initialised() -> Server {
    let server = Server::start();
    server.sql(&grants(&[]));
    let mut home = Asked::of(&server);
    let proof = home.prove().expect("a primary");
    let first = Claiming::first(claim(1, HOME), proof.read.server, &regions(), "a test");
    assert_eq!(home.claim(&first), Ok(Swap::Done));
    server
}

fn rows(server: &Server) -> String {
    server.sql("SELECT epoch, parent, region, kind FROM dr_agent.authority ORDER BY epoch")
}

#[test]
fn the_first_row_says_the_order_of_the_regions_and_there_is_no_second_first_row() {
    let server = Server::start();
    server.sql(&grants(&[]));
    let mut home = Asked::of(&server);
    let before = home.see();
    assert_eq!(before.tables, Some(Tables::default()));
    assert_eq!((before.is_writable, before.channels, before.lag_seconds), (true, Some(0), None));
    let first = Claiming::first(claim(1, HOME), before.server.clone(), &regions(), "a test of\nauthority");
    assert_eq!(home.claim(&first), Ok(Swap::Done));
    assert_eq!(home.claim(&first), Ok(Swap::Changed), "once");

    let tables = home.tables();
    let newest = tables.newest.expect("a row");
    assert_eq!((newest.claim, newest.parent, newest.kind), (claim(1, HOME), 0, Kind::Init));
    assert_eq!(newest.server, before.server);
    assert_eq!(tables.regions, regions());
    let clock: i64 = server.sql("SELECT UNIX_TIMESTAMP()").parse().unwrap();
    assert!((clock - 60..=clock).contains(&newest.since.as_second()), "{} is not now, {clock}", newest.since);
    assert_eq!(tables.heartbeat.len(), 1);
    assert_eq!(
        server.sql("SELECT reason FROM dr_agent.authority"),
        format!("regions={HOME},{PEER} a test of authority")
    );
}

#[test]
fn ten_concurrent_claimants_write_one_row() {
    let server = initialised();
    let mut claimants: Vec<_> = (0..10).map(|_| Asked::of(&server)).collect();
    let read = claimants[0].see();
    let wanted = next(claim(2, PEER), read.server, &read.tables.unwrap(), Kind::Promotion, "a test");
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = claimants
            .iter_mut()
            .map(|claimant| {
                claimant.see();
                scope.spawn(|| claimant.claim(&wanted))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let done = outcomes.iter().filter(|outcome| **outcome == Ok(Swap::Done)).count();
    let beaten = outcomes.iter().filter(|outcome| **outcome == Ok(Swap::Changed)).count();
    assert_eq!((done, beaten), (1, 9), "{outcomes:?}");
    assert_eq!(rows(&server), format!("1\t0\t{HOME}\tinit\n2\t1\t{PEER}\tpromotion"));
    // The number that a loser wanted is never tried on another parent by itself.
    let mut late = wanted.clone();
    late.claim.epoch = 4;
    assert_eq!(claimants[3].claim(&late), Ok(Swap::Changed));
    assert_eq!(claimants[3].tables().newest.unwrap().claim, claim(2, PEER));
}

#[test]
fn a_claimant_that_hears_no_answer_reads_what_became_of_it() {
    let server = initialised();
    let mut agent = Asked::of(&server);
    let read = agent.see();
    let wanted = next(claim(2, PEER), read.server, &read.tables.unwrap(), Kind::Promotion, "a test");
    // Another claim that is neither committed nor given up keeps it waiting.
    let mut other = Command::new("mariadb");
    other.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--ssl", "--execute"]);
    other.arg("START TRANSACTION; INSERT INTO dr_agent.authority VALUES (2, 1, 'other', 's', 'claim', 'r', NOW(6)); DO SLEEP(600)");
    other.args([format!("--port={}", server.port), format!("--user={USER}"), format!("--password={PASSWORD}")]);
    let _other = Process::start(&mut other);
    let sleeper = eventually("the other claim is on its way", || {
        match server.sql("SELECT id FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%'") {
            id if id.is_empty() => Err("no such session"),
            id => Ok(id),
        }
    });
    match agent.claim(&wanted) {
        Err(Unwritten::Failed(words)) => assert!(words.contains("query"), "{words}"),
        other => panic!("{other:?}"),
    }
    server.sql(&format!("KILL {sleeper}"));
    // The statement that nobody waits for any more may still be carried out.
    eventually("no claim is on its way", || {
        match server.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'INSERT%'").as_str() {
            "0" => Ok(()),
            some => Err(format!("{some} are")),
        }
    });
    let found = agent.tables().newest.unwrap().claim;
    let again = agent.claim(&wanted).expect("an answer");
    assert_eq!(again == Swap::Changed, found == claim(2, PEER), "{again:?} after {found:?}");
    assert_eq!(rows(&server), format!("1\t0\t{HOME}\tinit\n2\t1\t{PEER}\tpromotion"));
}

#[test]
fn the_heart_beats_once_in_nine_tenths_of_a_second_however_many_beat() {
    let server = initialised();
    let mut agents = [Asked::of(&server), Asked::of(&server)];
    assert_eq!(agents[0].beat(PEER), Ok(false), "who never claimed has no heart");
    server.sql("UPDATE dr_agent.heartbeat SET at = UTC_TIMESTAMP(6) - INTERVAL 1 HOUR");
    let old = agents[0].tables().heartbeat.remove(0);
    assert!(old.region == HOME && old.age_ms >= 3_600_000, "{old:?}");
    let beats: Vec<_> = (0..4).map(|n| agents[n % 2].beat(HOME).expect("beat")).collect();
    // Four in a row take less than 0.9 s, or else another one beats.
    assert!(beats[0], "{beats:?}");
    let fresh = agents[1].tables().heartbeat.remove(0);
    assert!(fresh.age_ms < 60_000 && fresh.at > old.at, "{fresh:?}");
    server.sql("UPDATE dr_agent.heartbeat SET at = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR");
    assert_eq!(agents[0].beat(HOME), Ok(false), "never backwards");
    assert_eq!(agents[0].tables().heartbeat[0].age_ms, 0);
}

#[test]
fn a_close_is_in_force_by_the_servers_clock_until_it_ends_or_is_released() {
    let server = initialised();
    // A server in another time zone means the same.
    server.sql("SET GLOBAL time_zone = '+09:00'");
    let mut home = Asked::of(&server);
    let close = Close {
        region: HOME.to_owned(),
        is_drill: false,
        span: Duration::from_secs(1800),
        reason: "failback".to_owned(),
        by_whom: "ann@host".to_owned(),
        before: None,
    };
    assert_eq!(home.close(&close), Ok(Swap::Done));
    assert_eq!(home.close(&close), Ok(Swap::Changed), "there is one now");
    let only = |home: &mut Asked| -> Closing {
        let mut rows = home.tables().closing;
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    };
    let first = only(&mut home);
    assert!(first.is_in_force && !first.is_released && !first.is_drill, "{first:?}");
    assert_eq!((first.reason.as_str(), first.by_whom.as_str()), ("failback", "ann@host"));
    let clock: i64 = server.sql("SELECT UNIX_TIMESTAMP()").parse().unwrap();
    assert!((clock + 1700..=clock + 1800).contains(&first.until.as_second()), "{first:?}");

    let drill = Close { is_drill: true, before: Some(first.until), ..close.clone() };
    assert_eq!(home.close(&drill), Ok(Swap::Done));
    assert_eq!(home.close(&drill), Ok(Swap::Changed), "it is not what was read any more");
    assert_eq!(home.release(HOME, first.until), Ok(Swap::Changed));
    let second = only(&mut home);
    assert!(second.is_drill && second.until > first.until);
    assert_eq!(home.release(HOME, second.until), Ok(Swap::Done));
    let released = only(&mut home);
    assert!(released.is_released && !released.is_in_force, "{released:?}");

    let short = Close { span: Duration::from_secs(1), before: Some(released.until), ..close };
    assert_eq!(home.close(&short), Ok(Swap::Done));
    let over = eventually("it ends", || match only(&mut home) {
        row if row.is_in_force => Err("still in force"),
        row => Ok(row),
    });
    assert!(!over.is_released, "it ended, and nobody released it");
    // A claim by the region releases it.
    home.take(3, HOME, Kind::Claim);
    assert!(only(&mut home).is_released);
}

#[test]
fn a_dead_server_is_not_read_and_one_that_is_back_is_read_at_once() {
    let mut server = initialised();
    let mut agent = Asked::of(&server);
    let before = agent.see();
    server.freeze();
    match agent.read() {
        Err(Unread::Failed(words)) => assert!(words.contains("does not answer within 2s"), "{words}"),
        other => panic!("{other:?}"),
    }
    server.thaw();
    eventually("it is read again", || agent.read().map_err(|error| format!("{error:?}")));
    server.stop();
    assert!(matches!(agent.read(), Err(Unread::Unreached(_))));
    server.restart();
    assert_eq!(agent.see().tables.unwrap().newest, before.tables.unwrap().newest);
    // The connection is dead and nobody knows it yet.
    server.stop();
    server.restart();
    agent.see();
}

#[test]
fn a_database_two_oceans_away_is_read() {
    let server = initialised();
    let far = Forwarder::far_from(server.port, Duration::from_millis(100));
    let mut agent = Asked::new(far.port, &bundle(&[&server]));
    // A login and what follows it take longer than one attempt may, and the next one goes on where it was.
    eventually("it is read", || agent.read().map_err(|error| format!("{error:?}")));
    assert_eq!(agent.tables().newest.unwrap().claim, claim(1, HOME));
    agent.enrol("a server", PEER).expect("enrol");
}

#[test]
fn a_name_that_leads_to_two_servers_proves_nothing_and_no_other_server_is_claimed() {
    let (one, other) = (initialised(), initialised());
    let name = Forwarder::to(&[one.port, other.port]);
    let mut agent = Asked::new(name.port, &bundle(&[&one, &other]));
    match agent.prove() {
        Err(Unproven::TwoServers(first, second)) => assert_ne!(first, second),
        found => panic!("{found:?}"),
    }
    name.lead_to(&[one.port]);
    let proof = eventually("the name leads to one server", || agent.prove().map_err(|error| error.to_string()));
    let wanted = next(claim(2, PEER), proof.read.server, &proof.read.tables.unwrap(), Kind::Promotion, "a test");
    name.lead_to(&[other.port]);
    let mut elsewhere = Asked::new(name.port, &bundle(&[&one, &other]));
    match elsewhere.claim(&wanted) {
        Err(Unwritten::AnotherServer { expected, found }) => {
            assert_eq!(expected, wanted.server);
            assert_ne!(found, expected);
        }
        found => panic!("{found:?}"),
    }
    assert_eq!(rows(&other), format!("1\t0\t{HOME}\tinit"));
    // The proof's own connection still leads to the server that was proven.
    assert_eq!(agent.claim(&wanted), Ok(Swap::Done));
    // And a certificate of somebody else is nobody's word.
    let mut stranger = Asked::new(name.port, &bundle(&[&one]));
    assert!(matches!(stranger.read(), Err(Unread::Failed(_))));
}
