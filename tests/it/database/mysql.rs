//! The database probe against real MySQL, where one is at hand: no stable distribution of the build has it.
//!
//! `DR_AGENT_TEST_MYSQL` names a folder with a root file system in which `mysqld` and `mysql` run by `chroot`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dr_agent::observation::{Facts, Outcome, Role};
use tempfile::TempDir;

use super::{LOGIN, Probed, facts, names};
use crate::support::mariadb::{Certificates, PASSWORD, USER};
use crate::support::{Process, eventually, free_port};

const ROOT: &str = "DR_AGENT_TEST_MYSQL";

struct Server {
    _process: Process,
    root: PathBuf,
    folder: TempDir,
    port: u16,
}

impl Server {
    fn start(root: &Path) -> Self {
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
        server
    }

    fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    fn try_sql(&self, statements: &str) -> Result<String, String> {
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

    fn probed(&self) -> Probed {
        Probed::new(self.port, &self.folder.path().join("ca.pem"), |config| config.writer_expected = false)
    }
}

#[test]
fn mysql_proves_its_roles_in_its_own_dialect() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        eprintln!("skipped: {ROOT} names no root file system with MySQL, so only MariaDB was tested");
        return;
    };
    let primary = Server::start(&root);
    primary.sql(&format!(
        "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
         CREATE USER blind@'%' IDENTIFIED BY '{PASSWORD}';
         GRANT REPLICATION CLIENT ON *.* TO '{USER}'@'%';
         CREATE USER replication@'%' IDENTIFIED BY '{PASSWORD}'; GRANT REPLICATION SLAVE ON *.* TO replication@'%';"
    ));
    let observation = primary.probed().look();
    assert_eq!(observation.outcome, Outcome::Pass, "{observation:#?}");
    assert_eq!(names(&observation), [&LOGIN[..], &["query"]].concat());
    let known = facts(&observation);
    assert_eq!((known.role(), known.read_only, known.super_read_only), (Role::Primary, false, Some(false)));
    assert_eq!(known.server, primary.sql("SELECT @@server_uuid"));
    assert!(known.tls.is_some(), "{known:?}");
    let blind =
        Probed::new(primary.port, &primary.folder.path().join("ca.pem"), |config| config.user = "blind".into()).look();
    assert_eq!((blind.outcome.clone(), facts(&blind).role()), (Outcome::Pass, Role::Ambiguous), "{blind:#?}");

    let replica = Server::start(&root);
    replica.sql(&format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='replication',
         SOURCE_PASSWORD='{PASSWORD}', SOURCE_SSL=1, SOURCE_AUTO_POSITION=1; START REPLICA;
         SET GLOBAL super_read_only = 1;",
        primary.port
    ));
    eventually("the replica has the account", || {
        match replica.sql(&format!("SELECT COUNT(*) FROM mysql.user WHERE user = '{USER}'")).as_str() {
            "1" => Ok(()),
            other => Err(format!("{other} such users")),
        }
    });
    let mut probed = replica.probed();
    let observation = probed.until("it is caught up", |observation| match &observation.facts {
        Facts::Database(facts) => facts.replica.iter().flatten().any(|channel| channel.lag_seconds == Some(0)),
        _ => false,
    });
    let known = facts(&observation);
    assert_eq!((known.role(), known.super_read_only), (Role::Replica, Some(true)));
    let [channel] = &known.replica.as_ref().expect("the right to see it")[..] else { panic!("{known:?}") };
    assert_eq!(channel.source, format!("127.0.0.1:{}", primary.port));
    assert!(channel.io_running && channel.sql_running, "{channel:?}");
    replica.sql("STOP REPLICA; RESET REPLICA ALL; SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0");
    let promoted = probed.look();
    assert_eq!((promoted.outcome.clone(), facts(&promoted).role()), (Outcome::Pass, Role::Primary));
}
