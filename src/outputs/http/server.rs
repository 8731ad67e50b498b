//! Serving one listener: accept, answer, and keep the number and the patience of connections within limits.
//!
//! Nobody is refused. When the budget is used up, the oldest connection that does nothing is closed for the new one, so
//! whoever holds thousands of connections open takes them from himself. A connection on which nothing was asked for the
//! listener's patience is closed, whether it is idle, sends its header a byte a minute or does not read its answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often connections are looked through, and the unit of patience.
const SWEEP: Duration = Duration::from_secs(1);

/// The same while there are none, so that an idle listener hardly wakes the machine. Under the 10 s in which the public
/// listener must show that it turns.
const IDLE_SWEEP: Duration = Duration::from_secs(4);

/// What is in flight when the agent stops gets this long.
const FINISH: Duration = Duration::from_secs(1);

/// Descriptors or memory ran out: the wait before the next attempt to accept.
const SHORTAGE: Duration = Duration::from_millis(20);

/// The least read buffer that hyper takes. No question comes near it.
const BUFFER: usize = 8 * 1024;

/// The limits of one listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Open connections.
    pub(super) connections: usize,
    /// Sweeps, which are seconds, that a connection may stay open without asking anything; more than any answer takes.
    pub(super) patience: u32,
}

impl Limits {
    /// At most `connections`, and not more than a quarter of the descriptors that this process may have: the probes
    /// need some too.
    pub(super) fn new(connections: usize, patience: u32) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let share = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        Self { connections: connections.min(share).max(1), patience }
    }
}

/// A listener of either kind.
pub(super) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn accept(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // An answer is one write. If the option cannot be set it may only be slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Serves until `cancelled`, then closes the listener at once and finishes what is in flight. `service` makes the
/// service of one connection; `turned` is called at every sweep, which no flood of connections holds up.
pub(super) async fn serve<L, S, F>(
    listener: L,
    limits: Limits,
    service: impl Fn(&L::Stream) -> S,
    turned: impl Fn(),
    cancelled: CancellationToken,
) where
    L: Accept,
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible, Future = F> + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send,
{
    let mut connections = Connections { limits, ..Connections::default() };
    let mut sweep = pin!(sleep(Duration::ZERO));
    let cancelled = Arc::new(cancelled);
    let mut stop = pin!(cancelled.cancelled());
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            () = &mut sweep => {
                connections.sweep();
                turned();
                let pause = if connections.open.is_empty() { IDLE_SWEEP } else { SWEEP };
                sweep.as_mut().reset(Instant::now() + pause);
            }
            accepted = listener.accept() => match accepted {
                Ok(stream) => connections.add(service(&stream), stream, &cancelled),
                Err(error) if is_shortage(&error) => {
                    // One connection less is one descriptor more, and the pause keeps the loop from spinning.
                    connections.close_oldest();
                    sleep(SHORTAGE).await;
                }
                // The client is gone already.
                Err(_) => {}
            },
        }
    }
    drop(listener);
    let finished = async { while connections.tasks.join_next().await.is_some() {} };
    // Whoever is not done then is cut off.
    drop(timeout(FINISH, finished).await);
}

fn is_shortage(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The open connections of a listener, by the order in which they came.
#[derive(Debug, Default)]
struct Connections {
    limits: Limits,
    tasks: JoinSet<u64>,
    open: BTreeMap<u64, Open>,
    next: u64,
}

/// One connection, as the accept loop sees it.
#[derive(Debug)]
struct Open {
    task: AbortHandle,
    asked: Arc<AtomicU32>,
    /// What `asked` was at the last sweep, and at how many sweeps in a row it was so.
    seen: u32,
    quiet: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1, patience: 1 }
    }
}

impl Connections {
    fn add<S, F>(
        &mut self,
        service: S,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        cancelled: &Arc<CancellationToken>,
    ) where
        S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible, Future = F>
            + Send
            + 'static,
        F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send,
    {
        self.forget_ended();
        if self.open.len() >= self.limits.connections {
            self.close_oldest();
        }
        let number = self.next;
        self.next += 1;
        let asked = Arc::new(AtomicU32::new(0));
        let service = Counted { service, asked: Arc::clone(&asked) };
        let cancelled = Arc::clone(cancelled);
        let task = self.tasks.spawn(async move {
            // No timer of hyper's: it would allocate one for every request. `sweep` does its work for all at once.
            let connection = http1::Builder::new()
                .half_close(true)
                .max_buf_size(BUFFER)
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            tokio::select! {
                biased;
                // A client that breaks off or sends nonsense is its own affair.
                _ = connection.as_mut() => return number,
                () = cancelled.cancelled() => {}
            }
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
            number
        });
        self.open.insert(number, Open { task, asked, seen: 0, quiet: 0 });
    }

    /// Closes the oldest connection that has asked nothing since it was last looked at, or else the oldest.
    fn close_oldest(&mut self) {
        let idle = self.open.iter().find(|(_, open)| open.asked.load(Ordering::Relaxed) == open.seen);
        let Some((&number, _)) = idle.or_else(|| self.open.first_key_value()) else { return };
        if let Some(open) = self.open.remove(&number) {
            open.task.abort();
        }
    }

    /// Closes every connection that has asked nothing for too long.
    fn sweep(&mut self) {
        self.forget_ended();
        let patience = self.limits.patience;
        self.open.retain(|_, open| {
            let asked = open.asked.load(Ordering::Relaxed);
            open.quiet = if asked == open.seen { open.quiet + 1 } else { 0 };
            open.seen = asked;
            let keep = open.quiet <= patience;
            if !keep {
                open.task.abort();
            }
            keep
        });
    }

    /// Lets go of connections that have ended. They do not wake the accept loop for it: at tens of thousands a second
    /// that would cost more than what it frees.
    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(number) = ended {
                self.open.remove(&number);
            }
        }
    }
}

/// Counts the questions of one connection.
struct Counted<S> {
    service: S,
    asked: Arc<AtomicU32>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.service.call(request)
    }
}
