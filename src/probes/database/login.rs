//! One login: dns, tcp, greeting, tls, auth. Every TCP connection goes on to a real login attempt, because a server
//! blocks a host that connects and says nothing; so all that can fail here is looked at before.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::time::Duration;

use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::facts::Dialect;
use super::failure;
use super::relay::Relay;
use crate::config::DatabaseProbe;
use crate::health::cause::Cause;
use crate::observation::{DatabaseFacts, Finding};

/// The largest packet that is taken from the server. Replica status with long GTID sets is some 10 kB.
const PACKET_LIMIT: usize = 1 << 20;
/// What saying goodbye may take: it only fills socket buffers.
const GOODBYE: Duration = Duration::from_millis(100);

/// A connection that is logged in.
pub(super) struct Session {
    conn: Conn,
    relay: Relay,
    dialect: Option<Dialect>,
}

impl Session {
    /// Asks for the facts, in the stage `query`.
    pub(super) async fn ask(&mut self) -> Result<DatabaseFacts, Finding> {
        let (conn, dialect) = (&mut self.conn, &mut self.dialect);
        let work = async {
            if dialect.is_none() {
                *dialect = Some(Dialect::of(conn).await?);
            }
            match dialect {
                Some(dialect) => dialect.facts(conn).await,
                None => Ok(DatabaseFacts::default()),
            }
        };
        let facts = self.relay.drive(work, &mut |_| ()).await;
        facts.map_err(|error| failure::driver(&error, self.relay.end()))
    }

    /// Says goodbye, so that the server does not count and log a broken connection.
    pub(super) async fn close(self) {
        let Self { conn, mut relay, .. } = self;
        let goodbye = async {
            drop(relay.drive(conn.disconnect(), &mut |_| ()).await);
            relay.finish().await;
        };
        drop(timeout(GOODBYE, goodbye).await);
    }
}

/// What is needed before the server is asked.
#[derive(Debug)]
pub(super) struct Needs {
    password: Option<String>,
    roots: Option<Vec<u8>>,
    addresses: Vec<SocketAddr>,
}

/// The thread that looks for them. A resolver that hangs cannot be interrupted, so whoever gives up waiting keeps the
/// handle, and the next login waits for the same thread instead of starting another.
pub(super) type Search = JoinHandle<Result<Needs, Finding>>;

/// Logs in. `enter` is told each stage as it begins.
pub(super) async fn login(
    config: &DatabaseProbe,
    search: &mut Option<Search>,
    enter: &mut impl FnMut(&'static str),
) -> Result<Session, Finding> {
    enter("dns");
    let needs = search.get_or_insert_with(|| {
        let config = config.clone();
        spawn_blocking(move || Needs::find(&config))
    });
    let needs = needs.await;
    *search = None;
    let needs = needs.map_err(could_not_run)??;

    enter("tcp");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(could_not_run)?;
    let port = listener.local_addr().map_err(could_not_run)?.port();
    let server = TcpStream::connect(&needs.addresses[..]).await;
    let server = server.map_err(|error| failure::connect(&error, &needs.addresses))?;
    server.set_nodelay(true).map_err(could_not_run)?;

    enter("greeting");
    let tls = needs.roots.is_some();
    through(&listener, server, tls, Conn::new(options(config, needs, port)), enter).await
}

/// Lets `driver`, which connects to `listener`, log in at `server`.
async fn through(
    listener: &TcpListener,
    server: TcpStream,
    tls: bool,
    driver: impl Future<Output = Result<Conn, mysql_async::Error>>,
    enter: &mut impl FnMut(&'static str),
) -> Result<Session, Finding> {
    let mut driver = pin!(driver);
    let accepted = tokio::select! {
        accepted = listener.accept() => accepted.map_err(could_not_run)?,
        result = &mut driver => match result {
            Ok(_) => return Err(could_not_run("the driver did not use the relay")),
            Err(error) => return Err(could_not_run(error)),
        },
    };
    let mut relay = Relay::new(accepted.0, server, tls);
    let result = tokio::select! {
        biased;
        // The driver connects once. Who else connects is another process of this machine, and either of the two may
        // have been first: what happens now says nothing of the database.
        _ = listener.accept() => return Err(could_not_run("another process connected to the probe's loopback relay")),
        result = relay.drive(driver, enter) => result,
    };
    match result {
        Ok(conn) => Ok(Session { conn, relay, dialect: None }),
        Err(error) => Err(failure::driver(&error, relay.end())),
    }
}

impl Needs {
    fn find(config: &DatabaseProbe) -> Result<Self, Finding> {
        let password = match &config.password_file {
            None => None,
            Some(path) => match fs::read_to_string(path) {
                Ok(text) => {
                    Some(text.strip_suffix('\n').map_or(&*text, |t| t.strip_suffix('\r').unwrap_or(t)).to_owned())
                }
                Err(error) => return Err(failure::unreadable(Cause::DatabaseNoPassword, path, error)),
            },
        };
        let roots = match &config.tls_ca {
            None => None,
            Some(path) => {
                let bundle = fs::read(path).map_err(|error| failure::unreadable(Cause::DatabaseTls, path, error))?;
                check_roots(&bundle).map_err(|error| failure::unreadable(Cause::DatabaseTls, path, error))?;
                if let Err(error) = ServerName::try_from(config.host.as_str()) {
                    return Err(Finding::new(Cause::DatabaseTls, format!("`{}`: {error}", config.host)));
                }
                Some(bundle)
            }
        };
        let addresses = (config.host.as_str(), config.port).to_socket_addrs();
        let addresses = addresses.map_err(|error| failure::resolve(&error))?.collect();
        Ok(Self { password, roots, addresses })
    }
}

/// The driver would find out only in the middle of the handshake, and leave the server with a broken one.
fn check_roots(bundle: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(()) }
}

/// LOCAL INFILE has no handler, so a server that asks for a file gets none. Nothing is read from the server's own
/// settings, and no unix socket is preferred: each would be a query before ours, or another way in.
fn options(config: &DatabaseProbe, needs: Needs, port: u16) -> Opts {
    // A new TLS configuration each time: with a resumed session nobody would look at the certificate again.
    let tls = needs
        .roots
        .map(|roots| SslOpts::default().with_root_certs(vec![roots.into()]).with_disable_built_in_roots(true));
    OptsBuilder::default()
        .ip_or_hostname(config.host.clone())
        .resolved_ips(Some(vec![Ipv4Addr::LOCALHOST.into()]))
        .tcp_port(port)
        .prefer_socket(false)
        .user(Some(config.user.clone()))
        .pass(needs.password)
        .ssl_opts(tls)
        .max_allowed_packet(Some(PACKET_LIMIT))
        .wait_timeout(Some(0))
        .stmt_cache_size(0)
        .into()
}

fn could_not_run(error: impl std::fmt::Display) -> Finding {
    Finding::new(Cause::CouldNotRun, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;
    use crate::health::component::Schedule;

    fn config(password_file: Option<PathBuf>) -> DatabaseProbe {
        let second = Duration::from_secs(1);
        DatabaseProbe {
            schedule: Schedule { interval: 2 * second, timeout: second, fast_interval: None, fall: 3, rise: 3 },
            fresh_interval: second,
            fresh_timeout: second,
            host: "localhost".to_owned(),
            port: 3306,
            user: "dr_agent".to_owned(),
            password_file,
            tls_ca: None,
            latency_limit: second,
            lag_limit: second,
            writer_expected: true,
        }
    }

    #[tokio::test]
    async fn a_search_that_hangs_is_waited_for_again_and_never_doubled() {
        let (release, released) = mpsc::channel();
        let mut search = Some(spawn_blocking(move || released.recv().map_err(could_not_run)?));
        for _ in 0..3 {
            let mut stages = Vec::new();
            let mut enter = |stage| stages.push(stage);
            let waited = timeout(Duration::from_millis(10), login(&config(None), &mut search, &mut enter)).await;
            assert!(waited.is_err() && search.is_some());
            assert_eq!(stages, ["dns"]);
        }
        release.send(Err(Finding::new(Cause::DatabaseUnknownHost, "at last"))).unwrap();
        let finding = login(&config(None), &mut search, &mut |_| ()).await.err().unwrap();
        assert_eq!((finding.cause, search.is_none()), (Cause::DatabaseUnknownHost, true));
    }

    #[tokio::test]
    async fn another_process_on_the_relay_is_no_finding_about_the_database() {
        for stranger_first in [true, false] {
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let connection = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let early = if stranger_first { Some(TcpStream::connect(address).await.unwrap()) } else { None };
            let needs = Needs { password: None, roots: None, addresses: Vec::new() };
            let driver = Conn::new(options(&config(None), needs, address.port()));
            let login = async { through(&listener, connection, false, driver, &mut |_| ()).await.err() };
            let late = async {
                tokio::task::yield_now().await;
                if stranger_first { None } else { Some(TcpStream::connect(address).await.unwrap()) }
            };
            let (finding, _stranger) = tokio::join!(login, late);
            assert_eq!(finding.unwrap().cause, Cause::CouldNotRun);
            drop(early);
        }
    }

    #[test]
    fn the_password_ends_before_the_line_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (text, password) in
            [("secret", "secret"), ("secret\n", "secret"), ("secret\r\n", "secret"), (" a b \n\n", " a b \n")]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(Needs::find(&config(Some(path.clone()))).unwrap().password.as_deref(), Some(password));
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(Needs::find(&config(Some(path))).unwrap_err().cause, Cause::DatabaseNoPassword);
    }
}
