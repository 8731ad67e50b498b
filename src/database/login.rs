//! One login: files, dns, tcp, greeting, tls, auth. Every TCP connection goes on to a real login attempt, because a server
//! blocks a host that connects and says nothing; so all that can fail here is looked at before.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::LazyLock;
use std::time::Duration;

use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::dialect::Dialect;
use super::relay::Relay;
use super::{Endpoint, Operation, failure};
use crate::health::cause::Cause;
use crate::observation::Finding;
use crate::probes::blocking::Lane;

/// The largest packet that is taken from the server. Replica status with long GTID sets is some 10 kB.
const PACKET_LIMIT: usize = 1 << 20;
/// What reading a login's files may take, shorter than an attempt; not part of `fresh_timeout`, which is the server's.
const FILES_LIMIT: Duration = Duration::from_secs(1);
/// The stage in which the server is connected to.
pub(crate) const TCP: &str = "tcp";
/// What saying goodbye may take: it only fills socket buffers.
const GOODBYE: Duration = Duration::from_millis(100);

/// The files are on a disk of this machine, which may hang. One look at a time, however often the probe is built anew.
static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// A connection that is logged in.
pub(super) struct Session {
    conn: Conn,
    relay: Relay,
    dialect: Option<Dialect>,
}

impl Session {
    /// Does one thing, in the stage `query`. After an error, or dropped meanwhile, it can be used no more: nobody knows
    /// what is still on its way.
    pub(super) async fn ask<O: Operation>(&mut self, operation: &O) -> Result<O::Answer, Finding> {
        let (conn, dialect) = (&mut self.conn, &mut self.dialect);
        let work = async {
            let dialect = match dialect {
                Some(dialect) => dialect,
                None => dialect.insert(Dialect::of(conn).await?),
            };
            operation.run(conn, dialect).await
        };
        let answer = self.relay.drive(work, &mut |_| ()).await;
        answer.map_err(|error| failure::driver(&error, self.relay.end()))
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

/// What a login needs from this machine's disks.
#[derive(Debug)]
pub(super) struct Files {
    password: Option<String>,
    roots: Option<Vec<u8>>,
}

/// Reads the files of one login.
///
/// # Errors
/// One that is not as it must be, or [`Cause::CouldNotRun`]: a disk that hangs says nothing of the database.
pub(super) async fn files(endpoint: &Endpoint) -> Result<Files, Finding> {
    let endpoint = endpoint.clone();
    let read = timeout(FILES_LIMIT, LANE.run(move || Files::read(&endpoint))).await;
    read.map_err(|_| {
        let limit = FILES_LIMIT.as_secs();
        could_not_run(format!("its password and certificates could not be read within {limit} s"))
    })?
    .map_err(could_not_run)?
}

/// The thread that resolves the server's name. A resolver that hangs cannot be interrupted, so whoever gives up waiting
/// keeps the handle, and the next login waits for the same thread instead of starting another.
pub(super) type Search = JoinHandle<Result<Vec<SocketAddr>, Finding>>;

/// Logs in. `enter` is told each stage as it begins.
pub(super) async fn login(
    endpoint: &Endpoint,
    files: Files,
    search: &mut Option<Search>,
    enter: &mut impl FnMut(&'static str),
) -> Result<Session, Finding> {
    enter("dns");
    let addresses = search.get_or_insert_with(|| {
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        spawn_blocking(move || {
            let addresses = (host.as_str(), port).to_socket_addrs();
            Ok(addresses.map_err(|error| failure::resolve(&error))?.collect())
        })
    });
    let addresses = addresses.await;
    *search = None;
    let addresses = addresses.map_err(could_not_run)??;
    login_at(endpoint, files, &addresses, enter).await
}

/// Logs in at one of `addresses`, whatever the name of the server leads to; its certificate is for that name.
async fn login_at(
    endpoint: &Endpoint,
    files: Files,
    addresses: &[SocketAddr],
    enter: &mut impl FnMut(&'static str),
) -> Result<Session, Finding> {
    enter(TCP);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(could_not_run)?;
    let port = listener.local_addr().map_err(could_not_run)?.port();
    let server = TcpStream::connect(addresses).await;
    let server = server.map_err(|error| failure::connect(&error, addresses))?;
    server.set_nodelay(true).map_err(could_not_run)?;

    enter("greeting");
    let tls = files.roots.is_some();
    through(&listener, server, tls, Conn::new(options(endpoint, files, port)), enter).await
}

/// One login at one of `addresses`, and one operation there.
///
/// # Errors
/// In the words of what failed.
pub(crate) async fn ask_at<O: Operation>(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    operation: &O,
) -> Result<O::Answer, Finding> {
    let files = files(endpoint).await?;
    let mut session = login_at(endpoint, files, addresses, &mut |_| ()).await?;
    let answer = session.ask(operation).await?;
    session.close().await;
    Ok(answer)
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

impl Files {
    fn read(endpoint: &Endpoint) -> Result<Self, Finding> {
        let password = match &endpoint.password_file {
            None => None,
            Some(path) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|error| failure::unreadable(Cause::DatabaseNoPassword, path, &error))?;
                Some(text.strip_suffix('\n').map_or(&*text, |t| t.strip_suffix('\r').unwrap_or(t)).to_owned())
            }
        };
        let roots = match &endpoint.tls_ca {
            None => None,
            Some(path) => {
                let bundle = fs::read(path);
                let bundle = bundle.map_err(|error| failure::unreadable(Cause::DatabaseTlsFile, path, &error))?;
                check_roots(&bundle)
                    .map_err(|why| Finding::new(Cause::DatabaseTlsFile, format!("{}: {why}", path.display())))?;
                if let Err(error) = ServerName::try_from(endpoint.host.as_str()) {
                    return Err(Finding::new(Cause::DatabaseUnknownHost, format!("`{}`: {error}", endpoint.host)));
                }
                Some(bundle)
            }
        };
        Ok(Self { password, roots })
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
fn options(endpoint: &Endpoint, files: Files, port: u16) -> Opts {
    // A new TLS configuration each time: with a resumed session nobody would look at the certificate again.
    let tls = files
        .roots
        .map(|roots| SslOpts::default().with_root_certs(vec![roots.into()]).with_disable_built_in_roots(true));
    OptsBuilder::default()
        .ip_or_hostname(endpoint.host.clone())
        .resolved_ips(Some(vec![Ipv4Addr::LOCALHOST.into()]))
        .tcp_port(port)
        .prefer_socket(false)
        .user(Some(endpoint.user.clone()))
        .pass(files.password)
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

    const NOTHING: Files = Files { password: None, roots: None };

    fn endpoint(password_file: Option<PathBuf>) -> Endpoint {
        Endpoint { host: "localhost".to_owned(), port: 3306, user: "dr_agent".to_owned(), password_file, tls_ca: None }
    }

    #[tokio::test]
    async fn a_search_that_hangs_is_waited_for_again_and_never_doubled() {
        let (release, released) = mpsc::channel();
        let mut search = Some(spawn_blocking(move || released.recv().map_err(could_not_run)?));
        for _ in 0..3 {
            let mut stages = Vec::new();
            let mut enter = |stage| stages.push(stage);
            let endpoint = endpoint(None);
            let login = login(&endpoint, NOTHING, &mut search, &mut enter);
            let waited = timeout(Duration::from_millis(10), login).await;
            assert!(waited.is_err() && search.is_some());
            assert_eq!(stages, ["dns"]);
        }
        release.send(Err(Finding::new(Cause::DatabaseUnknownHost, "at last"))).unwrap();
        let finding = login(&endpoint(None), NOTHING, &mut search, &mut |_| ()).await.err().unwrap();
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
            let driver = Conn::new(options(&endpoint(None), NOTHING, address.port()));
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
            assert_eq!(Files::read(&endpoint(Some(path.clone()))).unwrap().password.as_deref(), Some(password));
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(Files::read(&endpoint(Some(path))).unwrap_err().cause, Cause::DatabaseNoPassword);
    }
}
