//! The second look at a mount that hangs: can its server be reached at all? It words the cause; an open port proves a
//! kernel, not a server that works.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::mountinfo::{Mount, NFS_PORT};
use crate::health::cause::Cause;

/// Within [`crate::probes::OVERDUE_LIMIT`], also for a name and a connection one after the other.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
const LOOKUP_LIMIT: Duration = Duration::from_millis(300);

/// What was seen, and what that makes of a hang.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) cause: Cause,
    pub(super) words: String,
    /// The mount target accepts TCP; `None` if it was not reached for.
    pub(super) target_accepts: Option<bool>,
}

/// Looks at the server of a mount.
#[derive(Debug)]
pub(super) struct Vantage {
    /// Host name of the mount target, by which it is reached past a local proxy.
    target: Option<String>,
    /// The last addresses the name had: when the network is gone the resolver often is, too.
    known: Vec<IpAddr>,
    /// A look-up cannot be cancelled; a second one is not begun before it has ended.
    lookup: Option<JoinHandle<io::Result<Vec<IpAddr>>>>,
}

impl Vantage {
    pub(super) const fn new(target: Option<String>) -> Self {
        Self { target, known: Vec::new(), lookup: None }
    }

    /// Takes at most 0.8 s.
    pub(super) async fn look(&mut self, mount: &Mount) -> View {
        let Some(server) = mount.server() else {
            return View {
                cause: Cause::EfsHung,
                words: "its mount options name no server".into(),
                target_accepts: None,
            };
        };
        if server.ip().is_loopback() {
            let (proxy, target) = tokio::join!(connect(server), self.connect_target());
            judge_proxied(server, proxy, self.target.as_deref(), target)
        } else {
            judge(server, connect(server).await)
        }
    }

    /// Connects to the mount target itself. `None` if its address is not known.
    async fn connect_target(&mut self) -> Option<io::Result<()>> {
        let name = self.target.clone()?;
        let lookup = self.lookup.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || {
                Ok((name.as_str(), NFS_PORT).to_socket_addrs()?.map(|address| address.ip()).collect())
            })
        });
        if let Ok(ended) = timeout(LOOKUP_LIMIT, lookup).await {
            self.lookup = None;
            if let Ok(Ok(found)) = ended {
                self.known = found;
            }
        }
        let address = *self.known.first()?;
        Some(connect(SocketAddr::new(address, NFS_PORT)).await)
    }
}

async fn connect(address: SocketAddr) -> io::Result<()> {
    match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {CONNECT_LIMIT:?}"))),
    }
}

fn judge(server: SocketAddr, connected: io::Result<()>) -> View {
    match connected {
        Ok(()) => View {
            cause: Cause::EfsHung,
            words: format!("its server {server} accepts TCP"),
            target_accepts: Some(true),
        },
        Err(error) => View {
            cause: Cause::EfsServerUnreachable,
            words: format!("its server {server} cannot be reached: {error}"),
            target_accepts: Some(false),
        },
    }
}

fn judge_proxied(
    proxy: SocketAddr,
    connected: io::Result<()>,
    name: Option<&str>,
    target: Option<io::Result<()>>,
) -> View {
    let proxy_words = match &connected {
        Ok(()) => format!("its local proxy {proxy} accepts TCP"),
        Err(error) => format!("its local proxy {proxy} cannot be reached: {error}"),
    };
    let name = name.unwrap_or("behind it");
    let target_words = match &target {
        Some(Ok(())) => format!("the mount target {name} accepts TCP"),
        Some(Err(error)) => format!("the mount target {name} cannot be reached: {error}"),
        None => format!("the mount target {name} has no known address"),
    };
    let target_accepts = target.as_ref().map(Result::is_ok);
    let cause = match (connected, target) {
        (Err(_), Some(Ok(()))) => Cause::EfsProxyGone,
        (_, Some(Err(_))) => Cause::EfsServerUnreachable,
        (Ok(()), _) | (Err(_), None) => Cause::EfsHung,
    };
    View { cause, words: format!("{proxy_words}; {target_words}"), target_accepts }
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo;
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::path::Path;

    fn mount(options: &str) -> Mount {
        let line = format!("101 30 0:52 / /mnt/efs rw - nfs4 127.0.0.1:/ rw,{options}\n");
        mountinfo::find(line.as_bytes(), Path::new("/mnt/efs")).unwrap()
    }

    fn refused() -> io::Result<()> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    #[test]
    fn a_server_is_reachable_or_not() {
        let server = "10.0.0.5:2049".parse().unwrap();
        assert_eq!(judge(server, Ok(())).cause, Cause::EfsHung);
        assert_eq!(judge(server, refused()).cause, Cause::EfsServerUnreachable);
        assert_eq!(judge(server, Ok(())).target_accepts, Some(true));
        assert_eq!(judge(server, refused()).target_accepts, Some(false));
    }

    #[test]
    fn only_a_dead_proxy_before_a_live_target_is_the_proxys_fault() {
        let proxy = "127.0.0.1:20049".parse().unwrap();
        let cause = |connected, target| judge_proxied(proxy, connected, Some("fs-1"), target).cause;
        assert_eq!(cause(refused(), Some(Ok(()))), Cause::EfsProxyGone);
        assert_eq!(cause(refused(), Some(refused())), Cause::EfsServerUnreachable);
        assert_eq!(cause(refused(), None), Cause::EfsHung);
        assert_eq!(cause(Ok(()), Some(refused())), Cause::EfsServerUnreachable);
        assert_eq!(cause(Ok(()), Some(Ok(()))), Cause::EfsHung);
        assert_eq!(cause(Ok(()), None), Cause::EfsHung);
        let accepts = |connected, target| judge_proxied(proxy, connected, Some("fs-1"), target).target_accepts;
        assert_eq!(accepts(refused(), Some(Ok(()))), Some(true), "the proxy's own port says nothing of the target");
        assert_eq!(accepts(Ok(()), Some(refused())), Some(false));
        assert_eq!(accepts(Ok(()), None), None);
    }

    #[tokio::test]
    async fn it_really_connects() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        connect(address).await.unwrap();
        let proxied = mount(&format!("port={},addr=127.0.0.1", address.port()));
        let mut vantage = Vantage::new(None);
        let view = vantage.look(&proxied).await;
        assert_eq!(view.cause, Cause::EfsHung);
        assert!(view.words.contains("accepts TCP"), "{}", view.words);
        drop(listener);
        assert_eq!(connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let view = vantage.look(&proxied).await;
        assert!(view.words.contains("cannot be reached"), "{}", view.words);
    }

    #[tokio::test]
    async fn a_target_is_looked_up_once_at_a_time() {
        let mut vantage = Vantage::new(Some("localhost".into()));
        // Whatever listens there: what counts is that the name gave an address.
        assert!(vantage.connect_target().await.is_some());
        assert!(vantage.lookup.is_none());
        vantage.target = Some("name.invalid".into());
        assert!(vantage.connect_target().await.is_some(), "the last known address serves while there is no other");
    }

    #[tokio::test]
    async fn a_file_system_without_a_server_only_hangs() {
        assert_eq!(Vantage::new(None).look(&mount("user_id=0")).await.cause, Cause::EfsHung);
    }
}
