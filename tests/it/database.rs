//! The database probe against real MariaDB servers.

mod misbehaving;
mod mysql;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dr_agent::config::DatabaseProbe;
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::observation::{Component, DatabaseFacts, Facts, Observation, Outcome, Role};
use dr_agent::probes::database::Database;
use dr_agent::probes::observe;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::mariadb::{Certificates, PASSWORD, Server, USER};
use crate::support::{PATIENCE, eventually, free_port};

/// Between attempts, so that time passes for what needs it.
const PACE: Duration = Duration::from_millis(50);
const LOGIN: [&str; 6] = ["files", "dns", "tcp", "greeting", "tls", "auth"];

/// A probe, its files, and the runtime it runs on.
struct Probed {
    runtime: Runtime,
    probe: Database,
    config: DatabaseProbe,
    password: PathBuf,
    _folder: TempDir,
}

impl Probed {
    fn new(port: u16, ca: &Path, change: impl FnOnce(&mut DatabaseProbe)) -> Self {
        // A second call finds one installed: all tests install the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = TempDir::new().expect("a scratch folder");
        let password = folder.path().join("password");
        fs::write(&password, format!("{PASSWORD}\n")).expect("write the password");
        let mut config = DatabaseProbe {
            schedule: Schedule {
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(5),
                fast_interval: None,
                fall: 3,
                rise: 3,
            },
            fresh_interval: Duration::from_millis(200),
            fresh_timeout: Duration::from_secs(5),
            host: "localhost".to_owned(),
            port,
            user: USER.to_owned(),
            password_file: Some(password.clone()),
            tls_ca: Some(ca.to_owned()),
            latency_limit: Duration::from_secs(60),
            lag_limit: Duration::from_secs(3600),
            writer_expected: true,
        };
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, probe: Database::new(&config), config, password, _folder: folder }
    }

    fn of(server: &Server) -> Self {
        Self::new(server.port, &server.ca(), |_| ())
    }

    /// One attempt.
    fn look(&mut self) -> Observation {
        self.runtime.block_on(observe(&mut self.probe, Component::Database, self.config.schedule.timeout))
    }

    /// Attempts until one is as it should be.
    fn until(&mut self, what: &str, is: impl Fn(&Observation) -> bool) -> Observation {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let observation = self.look();
            if is(&observation) {
                return observation;
            }
            assert!(Instant::now() < deadline, "{what}: still not, but {observation:#?}");
            self.runtime.block_on(async { tokio::time::sleep(PACE).await });
        }
    }

    fn until_pass(&mut self) -> Observation {
        self.until("a pass", |observation| observation.outcome == Outcome::Pass)
    }

    fn until_cause(&mut self, cause: Cause) -> Observation {
        self.until(cause.name(), |observation| failure(observation).is_some_and(|(found, _)| found == cause))
    }
}

fn failure(observation: &Observation) -> Option<(Cause, &str)> {
    match &observation.outcome {
        Outcome::Pass => None,
        Outcome::Fail(finding) => Some((finding.cause, &finding.detail)),
    }
}

#[track_caller]
fn assert_cause(observation: &Observation, cause: Cause, stage: &str) {
    assert_eq!(
        (failure(observation).map(|(cause, _)| cause), last(observation)),
        (Some(cause), stage),
        "{observation:#?}"
    );
}

fn names(observation: &Observation) -> Vec<&'static str> {
    observation.stages.iter().map(|stage| stage.name).collect()
}

fn last(observation: &Observation) -> &'static str {
    names(observation).last().copied().unwrap_or_default()
}

#[track_caller]
fn facts(observation: &Observation) -> &DatabaseFacts {
    match &observation.facts {
        Facts::Database(facts) => facts,
        other => panic!("no facts of a database but {other:?}: {observation:#?}"),
    }
}

/// Sessions of the probe's account, as the server sees them.
fn sessions(server: &Server) -> usize {
    let count = server.sql(&format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{USER}'"));
    count.parse().expect("a number")
}

fn status(server: &Server, name: &str) -> u64 {
    let row = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
    row.split_whitespace().last().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn a_healthy_server_passes_with_verified_tls_and_every_stage() {
    let server = Server::start();
    let mut probed = Probed::of(&server);
    let first = probed.look();
    assert_eq!(first.outcome, Outcome::Pass);
    assert_eq!(names(&first), [&LOGIN[..], &["query"]].concat());
    let known = facts(&first);
    assert!(known.version.contains("MariaDB"), "{known:?}");
    assert!(known.server.starts_with(&format!("{}@", server.port)), "{known:?}");
    assert!(known.server.ends_with(&format!(":{}", server.port)), "{known:?}");
    assert!(known.tls.as_deref().is_some_and(|cipher| cipher.starts_with("TLS_")), "{known:?}");
    assert_eq!((known.read_only, known.super_read_only, known.role()), (false, None, Role::Primary));
    let second = probed.look();
    assert_eq!((second.outcome.clone(), names(&second)), (Outcome::Pass, vec!["query"]), "the warm connection");

    // Fresh logins go on beside it and leave nothing behind, on either side.
    let before = status(&server, "Connections");
    for _ in 0..5 {
        let fresh = probed.until("a fresh login", |observation| names(observation).len() == 7);
        assert_eq!(fresh.outcome, Outcome::Pass);
        assert_eq!(names(&fresh), names(&first));
        assert!(sessions(&server) <= 3, "{}", server.sql("SHOW PROCESSLIST"));
    }
    assert!(status(&server, "Connections") >= before + 5);
    assert_eq!(status(&server, "Aborted_clients"), 0, "each was closed by a goodbye");
    assert_eq!(status(&server, "Aborted_connects"), 0);
    drop(probed);
    eventually("the probe's sessions end with it", || match sessions(&server) {
        0 => Ok(()),
        some => Err(some),
    });
}

#[test]
fn older_tls_shows_the_same_stages() {
    let server = Server::with(&["--tls-version=TLSv1.2"]);
    let observation = Probed::of(&server).look();
    assert_eq!((observation.outcome.clone(), names(&observation)), (Outcome::Pass, [&LOGIN[..], &["query"]].concat()));
    server.sql(&format!("DROP USER '{USER}'@'%'"));
    assert_cause(&Probed::of(&server).look(), Cause::DatabaseAccessDenied, "auth");
}

#[test]
fn certificates_are_verified() {
    let server = Server::start();
    let other = TempDir::new().unwrap();
    Certificates::make(other.path());
    let mut stranger = Probed::new(server.port, &other.path().join("ca.pem"), |_| ());
    let observation = stranger.look();
    assert_cause(&observation, Cause::DatabaseTls, "tls");
    assert!(failure(&observation).unwrap().1.contains("invalid peer certificate"), "{observation:#?}");
    // Backing off: the finding stays, and no login is made for it.
    let connections = status(&server, "Connections");
    let again = stranger.look();
    assert!(failure(&again).is_some_and(|(_, detail)| detail.contains("next login in")), "{again:#?}");
    // Connections of `sql` itself.
    assert!(status(&server, "Connections") <= connections + 1);
    // The right bundle in its place ends it.
    fs::copy(server.ca(), other.path().join("ca.pem")).unwrap();
    stranger.until_pass();

    let misnamed = Probed::new(server.port, &server.ca(), |config| config.host = "127.0.0.2".to_owned()).look();
    assert_cause(&misnamed, Cause::DatabaseTls, "tls");
    assert!(failure(&misnamed).unwrap().1.contains("not valid for name"), "{misnamed:#?}");

    // What can be known before is not found out at the server's cost.
    let connections = status(&server, "Connections");
    for bundle in ["", "no certificate here"] {
        fs::write(other.path().join("ca.pem"), bundle).unwrap();
        let unusable = Probed::new(server.port, &other.path().join("ca.pem"), |_| ()).look();
        assert_cause(&unusable, Cause::DatabaseTlsFile, "files");
    }
    assert!(status(&server, "Connections") <= connections + 1);
}

#[test]
fn no_side_is_content_without_tls_when_it_is_asked_for() {
    let server = Server::with(&["--skip-ssl"]);
    assert_cause(&Probed::of(&server).look(), Cause::DatabaseTls, "tls");
    drop(server);
    let server = Server::start();
    let plain = |change: &dyn Fn(&mut DatabaseProbe)| {
        Probed::new(server.port, Path::new(""), |config| {
            config.tls_ca = None;
            change(config);
        })
        .look()
    };
    assert_cause(&plain(&|_| ()), Cause::DatabaseAccessDenied, "auth");
    server.sql("CREATE USER plain@'%' IDENTIFIED BY 'correct horse'");
    let open = plain(&|config| config.user = "plain".to_owned());
    assert_eq!(open.outcome, Outcome::Pass);
    assert_eq!(names(&open), ["files", "dns", "tcp", "greeting", "auth", "query"]);
    // This account may not see replicas: the server is well, but its role is not proven.
    assert_eq!((&facts(&open).replica, facts(&open).role(), &facts(&open).tls), (&None, Role::Ambiguous, &None));
}

#[test]
fn a_changed_password_is_seen_while_the_warm_connection_lives_and_read_again_when_corrected() {
    let server = Server::start();
    let mut probed = Probed::of(&server);
    probed.until_pass();
    server.sql(&format!("ALTER USER '{USER}'@'%' IDENTIFIED BY 'battery staple'"));
    let denied = probed.until_cause(Cause::DatabaseAccessDenied);
    assert!(failure(&denied).unwrap().1.contains("1045"), "{denied:#?}");
    assert_eq!(facts(&denied).role(), Role::Primary, "the warm connection still tells the facts");
    let again = probed.look();
    assert!(failure(&again).is_some_and(|(_, detail)| detail.contains("next login in")), "{again:#?}");
    assert_cause(&Probed::of(&server).look(), Cause::DatabaseAccessDenied, "auth");
    fs::write(&probed.password, "battery staple").unwrap();
    probed.until_pass();

    fs::remove_file(&probed.password).unwrap();
    let missing = probed.until_cause(Cause::DatabaseNoPassword);
    assert!(failure(&missing).unwrap().1.contains("password"), "{missing:#?}");
    fs::write(&probed.password, "battery staple\r\n").unwrap();
    probed.until_pass();

    server.sql(&format!("ALTER USER '{USER}'@'%' PASSWORD EXPIRE; SET GLOBAL disconnect_on_expired_password = 0"));
    let expired = probed.until_cause(Cause::DatabaseAccessDenied);
    assert!(failure(&expired).unwrap().1.contains("1820"), "{expired:#?}");
}

/// A pipe that nobody writes to is a file whose reading hangs.
#[test]
fn a_disk_that_hangs_says_nothing_of_the_database_and_takes_one_thread() {
    let server = Server::start();
    // The attempt's deadline comes before the one of the files, and after it.
    for limit in [Duration::from_millis(300), Duration::from_secs(5)] {
        let mut probed = Probed::new(server.port, &server.ca(), |config| config.schedule.timeout = limit);
        probed.runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("frozen-disk")
            .build()
            .expect("a runtime");
        fs::remove_file(&probed.password).unwrap();
        let made = Command::new("mkfifo").arg(&probed.password).status().expect("run mkfifo");
        assert!(made.success());
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(probed.look());
            // As the runner does after a probe that could not run.
            probed.probe = Database::new(&probed.config);
        }
        let named = |task: &std::io::Result<fs::DirEntry>| {
            let name = task.as_ref().map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
            name.is_ok_and(|name| name == "frozen-disk\n")
        };
        let threads = fs::read_dir("/proc/self/task").unwrap().filter(named).count();
        // It answers again before anything is judged: a runtime ends only when its threads do.
        fs::write(&probed.password, PASSWORD).unwrap();
        fs::remove_file(&probed.password).unwrap();
        fs::write(&probed.password, PASSWORD).unwrap();
        for observation in seen {
            assert_cause(&observation, Cause::CouldNotRun, "files");
        }
        assert_eq!(threads, 1);
        probed.until_pass();
    }
}

#[test]
fn a_full_server_is_a_limit_and_seen_beside_a_living_connection() {
    let server = Server::with(&["--max-connections=10", "--extra-max-connections=1"]);
    let mut probed = Probed::of(&server);
    probed.until_pass();
    let crowd = fill(&server);
    let full = probed.until_cause(Cause::DatabaseTooMany);
    assert!(failure(&full).unwrap().1.contains("1040"), "{full:#?}");
    facts(&full);
    assert_cause(&Probed::of(&server).look(), Cause::DatabaseTooMany, "greeting");
    drop(crowd);
    probed.until_pass();
}

/// Connections that log in nowhere, until the server has no room.
fn fill(server: &Server) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    loop {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).expect("a greeting or a refusal");
        if head[4] == 0xff {
            return crowd;
        }
        crowd.push(stream);
    }
}

#[test]
fn a_frozen_server_stops_the_query_then_the_greeting_and_a_thawed_one_passes() {
    let server = Server::start();
    let mut probed = Probed::new(server.port, &server.ca(), |config| {
        config.schedule.timeout = Duration::from_millis(400);
        config.fresh_timeout = Duration::from_millis(900);
        config.fresh_interval = Duration::from_secs(3600);
    });
    probed.until_pass();
    server.freeze();
    assert_cause(&probed.look(), Cause::DatabaseTimeout, "query");
    // The login outlives the attempt and is one more failure for each.
    for _ in 0..4 {
        assert_cause(&probed.look(), Cause::DatabaseTimeout, "greeting");
    }
    server.thaw();
    probed.until_pass();
    assert!(sessions(&server) <= 2, "{}", server.sql("SHOW PROCESSLIST"));
}

#[test]
fn a_crash_is_a_lost_connection_then_a_refused_one_and_a_restart_passes() {
    let mut server = Server::start();
    let mut probed = Probed::new(server.port, &server.ca(), |config| {
        config.fresh_interval = Duration::from_secs(3600);
    });
    probed.until_pass();
    server.kill();
    assert_cause(&probed.look(), Cause::DatabaseLost, "query");
    assert_cause(&probed.look(), Cause::DatabaseRefused, "tcp");
    server.restart();
    probed.until_pass();

    // A session that is killed, by whoever may.
    let victim = server.sql(&format!("SELECT id FROM information_schema.processlist WHERE user = '{USER}'"));
    server.sql(&format!("KILL {victim}"));
    assert_cause(&probed.look(), Cause::DatabaseLost, "query");
    probed.until_pass();

    // In the middle of a query.
    server.freeze();
    let Probed { runtime, probe, .. } = &mut probed;
    let observation = runtime.block_on(async {
        let attempt = observe(probe, Component::Database, PATIENCE);
        let crash = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.kill();
        };
        tokio::join!(attempt, crash).0
    });
    assert_cause(&observation, Cause::DatabaseLost, "query");
}

#[test]
fn read_only_is_a_fault_only_where_a_writer_is_expected() {
    let server = Server::start();
    let mut writer = Probed::of(&server);
    let mut reader = Probed::new(server.port, &server.ca(), |config| config.writer_expected = false);
    writer.until_pass();
    server.sql("SET GLOBAL read_only = 1");
    let read_only = writer.look();
    assert_cause(&read_only, Cause::DatabaseReadOnly, "query");
    assert_eq!(facts(&read_only).role(), Role::Ambiguous, "read-only alone proves nothing");
    assert_eq!(reader.look().outcome, Outcome::Pass);
    server.sql("SET GLOBAL read_only = 0");
    assert_eq!(writer.until_pass().outcome, Outcome::Pass);

    let mut slow = Probed::new(server.port, &server.ca(), |config| config.latency_limit = Duration::ZERO);
    assert_cause(&slow.look(), Cause::DatabaseSlow, "query");
}

#[test]
fn a_replica_shows_its_channel_and_lag_and_a_promotion_shows_at_once() {
    let primary = Server::start();
    let replica = Server::replica_of(&primary);
    let mut probed = Probed::new(replica.port, &replica.ca(), |config| {
        config.writer_expected = false;
        config.lag_limit = Duration::ZERO;
    });
    let observation = probed.until_pass();
    let known = facts(&observation);
    assert_eq!(known.role(), Role::Replica);
    let [channel] = &known.replica.as_ref().expect("the right to see it")[..] else { panic!("{known:?}") };
    assert_eq!(channel.source, format!("127.0.0.1:{}", primary.port));
    assert_eq!((channel.io_running, channel.sql_running, channel.lag_seconds), (true, true, Some(0)));

    replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 3600; START SLAVE");
    primary.sql("CREATE DATABASE shop");
    let behind = probed.until("a lag", |observation| {
        failure(observation).is_some_and(|(cause, detail)| cause == Cause::DatabaseLag && detail.contains("s behind"))
    });
    assert!(facts(&behind).replica.as_ref().unwrap()[0].lag_seconds > Some(0));
    replica.sql("STOP SLAVE SQL_THREAD");
    let stopped = probed.look();
    assert!(failure(&stopped).is_some_and(|(_, detail)| detail.contains("does not run")), "{stopped:#?}");

    replica.promote();
    let promoted = probed.look();
    assert_eq!((promoted.outcome.clone(), facts(&promoted).role()), (Outcome::Pass, Role::Primary));
}

#[test]
fn an_unknown_host_is_told_from_a_closed_port() {
    let folder = TempDir::new().unwrap();
    Certificates::make(folder.path());
    let ca = folder.path().join("ca.pem");
    // Not a valid name, so no resolver needs to be asked to know that it does not exist.
    let label = "x".repeat(64);
    let unknown = Probed::new(3306, &ca, |config| {
        config.tls_ca = None;
        config.host = format!("{label}.example.com");
    })
    .look();
    assert_cause(&unknown, Cause::DatabaseUnknownHost, "dns");
    let refused = Probed::new(free_port(), &ca, |_| ()).look();
    assert_cause(&refused, Cause::DatabaseRefused, "tcp");
}
