//! A real MySQL server, where one is at hand: no stable distribution of the build has it.
//!
//! `DR_AGENT_TEST_MYSQL` names a folder with a root file system in which `mysqld` and `mysql` run by `chroot`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::mariadb::{Certificates, PASSWORD};
use super::{Process, eventually, free_port};

const ROOT: &str = "DR_AGENT_TEST_MYSQL";

/// The root file system; says that the test is skipped if there is none.
#[allow(clippy::print_stderr, reason = "who reads the test's output is told")]
pub fn root() -> Option<PathBuf> {
    let root = std::env::var_os(ROOT).map(PathBuf::from);
    if root.is_none() {
        eprintln!("skipped: {ROOT} names no root file system with MySQL, so only MariaDB was tested");
    }
    root
}

/// A server that is killed, and its folder removed, when the test ends.
#[derive(Debug)]
pub struct Server {
    _process: Process,
    root: PathBuf,
    folder: TempDir,
    pub port: u16,
}

impl Server {
    /// A primary with TLS, and the account that replicas use.
    pub fn start(root: &Path) -> Self {
        let folder = TempDir::with_prefix_in("mysql-", root.join("tmp")).expect("a scratch folder");
        Certificates::make(folder.path());
        let inside = Path::new("/tmp").join(folder.path().file_name().expect("a name"));
        let path = |name: &str| inside.join(name).display().to_string();
        let mysqld = || {
            let mut command = Command::new("chroot");
            command.arg(root).args(["/usr/sbin/mysqld", "--no-defaults", "--user=root", "--secure-file-priv=NULL"]);
            command.arg(format!("--datadir={}", path("data"))).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(mysqld().arg("--initialize-insecure").status().expect("run chroot").success(), "mysqld --initialize");
        let port = free_port();
        let process = Process::start(
            mysqld()
                .args(
                    [("socket", "socket"), ("pid-file", "pid"), ("log-error", "log")]
                        .map(|(o, n)| format!("--{o}={}", path(n))),
                )
                .args(
                    [("ca", "ca.pem"), ("cert", "server.pem"), ("key", "server.key")]
                        .map(|(o, n)| format!("--ssl-{o}={}", path(n))),
                )
                .args([format!("--port={port}"), format!("--server-id={port}")])
                .args(["--bind-address=127.0.0.1", "--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]),
        );
        let server = Self { _process: process, root: root.to_owned(), folder, port };
        eventually("mysqld starts", || server.try_sql("SELECT 1"));
        server.sql(&format!(
            "CREATE USER replication@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
             GRANT REPLICATION SLAVE ON *.* TO replication@'%';"
        ));
        server
    }

    /// A replica of `source`, caught up and read-only.
    pub fn replica_of(source: &Self, root: &Path) -> Self {
        let replica = Self::start(root);
        // What it did by itself is no part of the history that it takes over.
        replica.sql(&format!(
            "DROP USER replication@'%'; RESET BINARY LOGS AND GTIDS;
             CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='replication',
             SOURCE_PASSWORD='{PASSWORD}', SOURCE_SSL=1, SOURCE_AUTO_POSITION=1;
             START REPLICA; SET GLOBAL super_read_only = 1;",
            source.port
        ));
        replica.catch_up(source);
        replica
    }

    /// Waits until this replica has applied what `source` has now.
    pub fn catch_up(&self, source: &Self) {
        let done = source.sql("SELECT @@gtid_executed");
        eventually("the replica catches up", || {
            match self.sql(&format!("SELECT GTID_SUBSET('{done}', @@gtid_executed)")).as_str() {
                "1" => Ok(()),
                _ => Err(self.sql("SHOW REPLICA STATUS")),
            }
        });
    }

    /// Makes a replica a primary, as a failover does.
    pub fn promote(&self) {
        self.sql("STOP REPLICA; RESET REPLICA ALL; SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0");
    }

    /// The certificate of the authority that signed the server's certificate for `localhost` and 127.0.0.1.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let socket = Path::new("/tmp").join(self.folder.path().file_name().expect("a name")).join("socket");
        let output = Command::new("chroot")
            .arg(&self.root)
            .args(["/usr/bin/mysql", "--no-defaults", "-u", "root", "--batch", "--skip-column-names", "-e", statements])
            .arg(format!("--socket={}", socket.display()))
            .output()
            .expect("run chroot");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }
}
