//! Real MariaDB servers: primaries and replicas with GTID replication and TLS, each in a scratch folder of its own.
//!
//! Installing a data directory takes seconds, so it is done once and kept in `.cache`; a server starts from a copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{Process, eventually, free_port};

/// The account that servers make for the probe.
pub const USER: &str = "dr_agent";
pub const PASSWORD: &str = "correct horse";
/// The account that replicas use.
const REPLICATION: &str = "replication";

/// A server that is killed, and its folder removed, when the test ends.
#[derive(Debug)]
pub struct Server {
    process: Process,
    folder: TempDir,
    pub port: u16,
    /// Its `server_id`: a rebuilt server is another one, or it would skip what it wrote in its earlier life.
    id: u32,
    extra: Vec<String>,
}

impl Server {
    /// A primary with TLS and the account of the probe, which may see replicas and must use TLS.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more options of `mariadbd`.
    pub fn with(extra: &[&str]) -> Self {
        let server = Self::for_replicas(extra);
        server.sql(&format!(
            "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
             GRANT REPLICA MONITOR, REPLICATION CLIENT ON *.* TO '{USER}'@'%';"
        ));
        server
    }

    /// A primary with TLS that knows of replicas only.
    pub fn for_replicas(extra: &[&str]) -> Self {
        let server = Self::bare(extra);
        server.sql(&format!(
            "CREATE USER '{REPLICATION}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
             GRANT REPLICATION SLAVE ON *.* TO '{REPLICATION}'@'%';"
        ));
        server
    }

    /// A replica of `source`, caught up and read-only.
    pub fn replica_of(source: &Self) -> Self {
        let replica = Self::bare(&["--read-only=1"]);
        replica.follow(source);
        replica
    }

    /// Throws its data away and makes it a replica of `source`, at its old address, from all that `source` ever wrote.
    pub fn rebuild_as_replica_of(&mut self, source: &Self) {
        self.kill();
        let data = self.folder.path().join("data");
        fs::remove_dir_all(&data).expect("throw the data away");
        copy(template(), &data);
        give_to_server(self.folder.path());
        self.extra.retain(|option| option != "--read-only=1");
        self.extra.push("--read-only=1".to_owned());
        self.id += 100_000;
        self.restart();
        self.follow(source);
    }

    /// Replicates from `source`, and catches up.
    pub fn follow(&self, source: &Self) {
        self.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='{REPLICATION}',
             MASTER_PASSWORD='{PASSWORD}', MASTER_SSL=1, MASTER_SSL_CA='{}', MASTER_SSL_VERIFY_SERVER_CERT=1,
             MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE;",
            source.port,
            source.ca().display()
        ));
        self.catch_up(source);
    }

    /// Waits until this replica has applied what `source` has now.
    pub fn catch_up(&self, source: &Self) {
        let position = source.sql("SELECT @@gtid_binlog_pos");
        // The source may have written more since.
        eventually("the replica catches up", || {
            match self.sql(&format!("SELECT MASTER_GTID_WAIT('{position}', 1)")).as_str() {
                "0" => Ok(()),
                _ => Err(format!("it is at `{}`, not `{position}`", self.sql("SELECT @@gtid_slave_pos"))),
            }
        });
    }

    fn bare(extra: &[&str]) -> Self {
        let folder = TempDir::with_prefix("mariadb-").expect("a scratch folder");
        copy(template(), &folder.path().join("data"));
        Certificates::make(folder.path());
        give_to_server(folder.path());
        let port = free_port();
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let id = u32::from(port);
        let process = launch(folder.path(), port, id, &extra);
        let server = Self { process, folder, port, id, extra };
        server.wait();
        server
    }

    /// Runs SQL as root over the unix socket; the rows, tab separated, without headings.
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-u", "root", "--batch", "--skip-column-names", "--execute", statements])
            .arg("--socket")
            .arg(self.folder.path().join("socket"))
            .output()
            .expect("run mariadb (package mariadb-client)");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }

    /// The same as somebody else, over TCP and TLS.
    pub fn try_sql_as(&self, user: &str, password: &str, statements: &str) -> Result<String, String> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--ssl", "--batch", "--skip-column-names"])
            .args([format!("--port={}", self.port), format!("--user={user}"), format!("--password={password}")])
            .args(["--execute", statements])
            .output()
            .expect("run mariadb (package mariadb-client)");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }

    fn wait(&self) {
        let log = self.folder.path().join("log");
        eventually("mariadbd starts", || {
            self.try_sql("SELECT 1")
                .map_err(|error| format!("{error}\nits log:\n{}", fs::read_to_string(&log).unwrap_or_default()))
        });
    }

    /// The certificate of the authority that signed the server's certificate for `localhost` and 127.0.0.1.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Stops it in the middle of whatever it does: it still accepts connections, the kernel does.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    pub fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// As an orderly shutdown, which loses nothing.
    pub fn stop(&mut self) {
        self.sql("SHUTDOWN");
        self.process.ended();
    }

    /// As a crash. What was committed in the last second may be lost.
    pub fn kill(&mut self) {
        drop(self.process.0.kill());
        drop(self.process.0.wait());
    }

    /// Starts a killed one again, on its data and its port.
    pub fn restart(&mut self) {
        self.process = launch(self.folder.path(), self.port, self.id, &self.extra);
        self.wait();
    }

    /// Makes a replica a primary as RDS does: its channel goes, it restarts, and comes back writable.
    pub fn promote_as_rds(&mut self) {
        self.begin_promotion();
        self.end_promotion();
    }

    /// The first part of it: it does not replicate any more, and cannot be read.
    pub fn begin_promotion(&mut self) {
        self.sql("STOP SLAVE; RESET SLAVE ALL");
        self.extra.retain(|option| option != "--read-only=1");
        self.stop();
    }

    /// The second part: it is there again, and can be written.
    pub fn end_promotion(&mut self) {
        self.restart();
    }

    /// Makes a replica a primary, as a failover does.
    pub fn promote(&self) {
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0");
    }
}

fn launch(folder: &Path, port: u16, id: u32, extra: &[String]) -> Process {
    let log = fs::File::create(folder.join("log")).expect("create the log");
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(server_binary());
    command
        .arg("--no-defaults")
        .args(
            [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid")].map(|(o, n)| format!("--{o}={}", path(n))),
        )
        .args(
            [("ca", "ca.pem"), ("cert", "server.pem"), ("key", "server.key")]
                .map(|(o, n)| format!("--ssl-{o}={}", path(n))),
        )
        .args([format!("--port={port}"), format!("--server-id={id}")])
        .args(["--bind-address=127.0.0.1,127.0.0.2", "--skip-name-resolve", "--log-bin=binlog", "--log-warnings=2"])
        .arg("--log-slave-updates")
        // Small and quick; nothing here is worth keeping.
        .args(["--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2"])
        .args(["--performance-schema=OFF", "--key-buffer-size=1M", "--aria-pagecache-buffer-size=1M"])
        .args(if is_root() { &["--user=mysql"][..] } else { &[] })
        .args(extra)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("share the log"))
        .stderr(log);
    Process::start(&mut command)
}

/// Certificates of an authority and of a server, made anew.
#[derive(Debug)]
pub struct Certificates;

impl Certificates {
    /// Writes `ca.pem`, `ca.key`, `server.pem` and `server.key`, the latter for `localhost`, `database.test` and 127.0.0.1.
    pub fn make(folder: &Path) {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"];
        openssl(
            folder,
            &[&["req", "-x509", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"], &key[..]],
        );
        let server = ["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=test server"];
        let names = [
            "-addext",
            "subjectAltName=DNS:localhost,DNS:database.test,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        openssl(folder, &[&server[..], &names[..], &["-keyout", "server.key", "-out", "server.pem"], &key[..]]);
    }
}

fn openssl(folder: &Path, arguments: &[&[&str]]) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.concat()).output().expect("run openssl");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}

/// An installed data directory of this version, made once.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let version = Command::new(server_binary()).arg("--version").output();
        let version = version.expect("run mariadbd (package mariadb-server)").stdout;
        let version: String = String::from_utf8_lossy(&version)
            .split_whitespace()
            .find(|word| word.contains("MariaDB"))
            .expect("a version")
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c))
            .collect();
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
        let kept = cache.join(format!("mariadb-{version}"));
        if !kept.exists() {
            // Where the server's own user can write, then to its place in one step: others may be doing the same.
            let scratch = TempDir::with_prefix("mariadb-install-").expect("a scratch folder");
            give_to_server(scratch.path());
            install(&scratch.path().join("data"));
            fs::create_dir_all(&cache).expect("create .cache");
            let staged = cache.join(format!("mariadb-{version}.{}", std::process::id()));
            copy(&scratch.path().join("data"), &staged);
            if fs::rename(&staged, &kept).is_err() {
                fs::remove_dir_all(&staged).expect("remove the copy that came second");
            }
        }
        kept
    })
}

fn install(data: &Path) {
    let output = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M"])
        .arg(format!("--datadir={}", data.display()))
        .args(if is_root() { &["--user=mysql"][..] } else { &[] })
        .output()
        .expect("run mariadb-install-db (package mariadb-server)");
    assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status().expect("run cp");
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}

/// A server that root starts runs as its own user.
fn give_to_server(folder: &Path) {
    if is_root() {
        let status = Command::new("chown").args(["-R", "mysql:"]).arg(folder).status().expect("run chown");
        assert!(status.success(), "chown {}", folder.display());
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn server_binary() -> &'static str {
    // Not in every user's path.
    if Path::new("/usr/sbin/mariadbd").exists() { "/usr/sbin/mariadbd" } else { "mariadbd" }
}
