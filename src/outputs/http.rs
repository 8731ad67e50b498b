//! The three listeners: public (nginx asks, on a unix socket), peer (other instances and Prometheus ask, on TCP) and
//! control (people on this machine ask, on a unix socket). Each has its own connections and its own limits.

mod control;
mod grants;
mod peer;
mod public;
mod server;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Listen, PublicAddress};
use crate::telemetry::ErrorChain;

pub use control::Control;
pub use grants::Members;

/// Connections that may wait to be accepted. The runtime's own default queues 128, and of 1,000 clients that come at
/// once most would wait for a second or more.
const BACKLOG: u32 = 1024;

/// Wait between attempts to bind what could not be bound.
const BIND_AGAIN: Duration = Duration::from_secs(10);

/// Root, the agent and its admins.
const CONTROL_MODE: u32 = 0o660;

/// Whose members may use the control socket, beside root.
const ADMINS: &str = "dr-agent-admin";

/// Why a listener could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("cannot listen on `{address}`")]
    Listen {
        address: String,
        #[source]
        error: io::Error,
    },
    #[error("another process already listens on `{0}`")]
    InUse(PathBuf),
    #[error("an agent already runs: it listens on `{0}`")]
    AgentRuns(PathBuf),
    #[error("`{0}` is in the way: it is not a socket")]
    NotASocket(PathBuf),
}

/// The bound listeners.
#[derive(Debug)]
pub struct Listeners {
    pub public: Public,
    pub peer: Peer,
    pub control: ControlSocket,
    /// Those that are not bound yet; changes as they are.
    pub unbound: watch::Receiver<Unbound>,
}

/// The keys of listeners that could not be bound, and why not, in words.
pub type Unbound = BTreeMap<&'static str, String>;

/// The public listener: [`Public::serve`] answers the five health paths and nothing else.
#[derive(Debug)]
pub enum Public {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

/// The peer listener: [`Peer::serve`] answers what other machines may ask.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    socket: Late<TcpListener>,
}

/// The control listener: [`ControlSocket::serve`] tells everything and takes orders. Who may connect, the kernel
/// decides by the socket's mode.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    socket: Late<UnixListener>,
}

/// A listener, or the place of one that is tried again until it can be bound.
#[derive(Debug)]
struct Late<L> {
    key: &'static str,
    first: Result<L, BindError>,
    unbound: watch::Sender<Unbound>,
}

impl Listeners {
    /// Binds all three. To be called within the runtime; does not wait for anything. The peer and the control listener
    /// may fail: a metrics port that is taken must not keep the health answers away. They try again while they serve.
    ///
    /// # Errors
    /// When the public address is taken or may not be used: [`BindError::AgentRuns`] if an agent has the control socket.
    pub fn bind(listen: &Listen) -> Result<Self, BindError> {
        let public = match &listen.public {
            PublicAddress::Unix(path) => bind_unix(path, 0o666).map(|listener| Public::Unix(listener, path.clone())),
            PublicAddress::Tcp(address) => bind_tcp(*address).map(Public::Tcp),
        };
        let public = public.map_err(|error| match remove_stale(&listen.control) {
            Err(BindError::InUse(control)) => BindError::AgentRuns(control),
            _ => error,
        })?;
        let (tell, unbound) = watch::channel(Unbound::new());
        let peer = Late::new("listen.peer", bind_tcp(listen.peer), &tell);
        let peer = Peer { address: listen.peer, socket: peer };
        let control = Late::new("listen.control", bind_unix(&listen.control, CONTROL_MODE), &tell);
        let control = ControlSocket { path: listen.control.clone(), socket: control };
        Ok(Self { public, peer, control, unbound })
    }

    /// Where they listen, as people write it.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let tcp = |listener: &TcpListener| listener.local_addr().map_or_else(|_| "?".to_owned(), |a| a.to_string());
        let mut addresses = vec![match &self.public {
            Public::Unix(_, path) => format!("unix:{}", path.display()),
            Public::Tcp(listener) => tcp(listener),
        }];
        addresses.extend(self.peer.socket.first.as_ref().ok().map(tcp));
        addresses
            .extend(self.control.socket.first.as_ref().ok().map(|_| format!("unix:{}", self.control.path.display())));
        addresses
    }
}

impl<L> Late<L> {
    fn new(key: &'static str, first: Result<L, BindError>, unbound: &watch::Sender<Unbound>) -> Self {
        if let Err(error) = &first {
            let words = format!("`{key}`: {}; tried again every {} s", ErrorChain(error), BIND_AGAIN.as_secs());
            unbound.send_modify(|unbound| _ = unbound.insert(key, words));
        }
        Self { key, first, unbound: unbound.clone() }
    }

    /// The listener as soon as there is one; `None` when `cancelled` first.
    async fn bound(self, bind: impl Fn() -> Result<L, BindError>, cancelled: &CancellationToken) -> Option<L> {
        let mut listener = self.first;
        loop {
            match listener {
                Ok(listener) => {
                    if self.unbound.send_if_modified(|unbound| unbound.remove(self.key).is_some()) {
                        tracing::info!(listener = self.key, "`{}` could be bound at last", self.key);
                    }
                    return Some(listener);
                }
                Err(error) => tracing::debug!(error = %ErrorChain(&error), "cannot listen yet"),
            }
            tokio::select! {
                () = cancelled.cancelled() => return None,
                () = sleep(BIND_AGAIN) => listener = bind(),
            }
        }
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, BindError> {
    let failed = |error| BindError::Listen { address: format!("unix:{}", path.display()), error };
    if let Some(dir) = path.parent() {
        // An existing directory keeps its mode.
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    }
    remove_stale(path)?;
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    // Nobody can connect before `listen`, so nobody slips in under another mode.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    if mode == CONTROL_MODE {
        hand_to_admins(path);
    }
    socket.listen(BACKLOG).map_err(failed)
}

/// Removes the socket file of an agent that is gone. One that is frozen still has its socket.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Listen { address: format!("unix:{}", path.display()), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    // Not blocking: the queue of a frozen process may be full, and connecting to it would wait for ever.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|error| failed(error.into()))?;
    match connect(&probe, &address) {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Gives a socket to the admins' group. Where the directory hands its group down (setgid) that is done already; without
/// the group, or without the right to give it away, root alone can use the socket.
fn hand_to_admins(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Some(group) = fs::read_to_string("/etc/group").ok().and_then(|text| group_id(&text, ADMINS)) else { return };
    if fs::metadata(path).is_ok_and(|found| found.gid() == group) {
        return;
    }
    if let Err(error) = chown(path, None, Some(group)) {
        tracing::warn!(error = %ErrorChain(&error), "cannot give `{}` to the group {ADMINS}: {error}", path.display());
    }
}

fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split(':').nth(1)?.parse().ok())
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    match listen_tcp(address) {
        // The machine has no IPv6: then all addresses are those of IPv4.
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&error) => {
            listen_tcp((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
    .map_err(|error| BindError::Listen { address: address.to_string(), error })
}

fn lacks_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        // Both families, whatever the machine's default.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A complete answer that must not be stored anywhere.
fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\ndr-agent-admins:x:7:\ndr-agent-admin:x:848:ann,bob\n";
        assert_eq!(group_id(groups, ADMINS), Some(848));
        assert_eq!(group_id("dr-agent:x:848:\n", ADMINS), None);
    }

    fn listen(dir: &Path) -> Listen {
        Listen {
            public: PublicAddress::Unix(dir.join("http/public.sock")),
            peer: "[::]:0".parse().unwrap(),
            control: dir.join("control.sock"),
        }
    }

    #[tokio::test]
    async fn a_dead_agents_sockets_are_taken_over_and_a_living_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let listen = listen(dir.path());
        let first = Listeners::bind(&listen).unwrap();
        assert!(matches!(Listeners::bind(&listen), Err(BindError::AgentRuns(_))));
        drop(first);
        let second = Listeners::bind(&listen).unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("http/public.sock"), 0o666);
        assert_eq!(mode("control.sock"), 0o660);
        assert_eq!(second.addresses().len(), 3);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("control.sock"), "precious").unwrap();
        let listeners = Listeners::bind(&listen(dir.path())).unwrap();
        assert!(matches!(listeners.control.socket.first, Err(BindError::NotASocket(_))));
        assert_eq!(listeners.unbound.borrow().len(), 1);
        assert_eq!(fs::read_to_string(dir.path().join("control.sock")).unwrap(), "precious");
    }

    #[tokio::test]
    async fn all_addresses_of_both_families_reach_the_peer_listener() {
        let dir = tempfile::tempdir().unwrap();
        let listeners = Listeners::bind(&listen(dir.path())).unwrap();
        let peer = listeners.peer.socket.first.unwrap();
        let port = peer.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        if Path::new("/proc/net/if_inet6").exists() {
            std::net::TcpStream::connect(("::1", port)).unwrap();
        }
    }
}
