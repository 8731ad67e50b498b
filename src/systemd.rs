//! What systemd is told: ready, reloading, stopping, the verdicts as a status line, and that everything that must turn
//! has turned.
//!
//! Outside systemd (no `NOTIFY_SOCKET`) all of it does nothing. Sending never waits for a stuck service manager.

use std::env;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::health::cause::Status;
use crate::snapshot::{STALE_AFTER, Snapshot};
use crate::telemetry::event;

/// The least time a task may take between two turns before the watchdog is told nothing; a probe's own budget is three
/// intervals if that is more.
pub const LEAST_BUDGET: Duration = Duration::from_secs(10);

/// READY and its kind are said once, so they are worth a short wait; everything else is said again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two attempts. Everything else goes on meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// Sockets are bound and the state is loaded, or a reload is over.
pub async fn ready() {
    say_once(&NotifyState::Ready).await;
}

/// A reload has begun. Ends with [`ready`].
pub async fn reloading() {
    say_once(&NotifyState::Reloading).await;
}

/// The end has begun.
pub async fn stopping() {
    say_once(&NotifyState::Stopping).await;
}

/// Feeds the watchdog and keeps the status line, until cancelled.
///
/// `turns` are name, budget and last turn of every task that must turn; one whose sender is gone no longer runs and is
/// not waited for. The owner need not be listed: the age of its snapshot tells.
pub async fn run(
    turns: Vec<(String, Duration, watch::Receiver<BootTime>)>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    cancelled: CancellationToken,
) {
    if env::var_os(NOTIFY_SOCKET).is_none() {
        return cancelled.cancelled().await;
    }
    let watchdog = sd_notify::watchdog_enabled();
    let mut beat = interval(watchdog.map_or(LEAST_BUDGET, |period| period / 3));
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut awake = Awake::new(BootTime::now());
    let mut told = String::new();
    let mut were_late = Vec::new();
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            // Cancel-safe: the next call returns at once if a snapshot came in between.
            changed = snapshots.changed() => if changed.is_err() {
                return cancelled.cancelled().await;
            },
            _ = beat.tick(), if watchdog.is_some() => {
                let now = BootTime::now();
                let (names, late) = late(&turns, snapshots.borrow().taken, awake.since(now), now);
                if names.is_empty() {
                    // If it does not arrive, the next one will.
                    drop(send(&NotifyState::Watchdog));
                }
                if names != were_late {
                    event::turns_late(&late);
                    were_late = names;
                }
            }
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let status = status_line(&snapshot);
        if status != told && send(&NotifyState::Status(&status)).is_ok() {
            told = status;
        }
    }
}

/// Notices that the machine slept: timers do not run then, but the boot clock does.
struct Awake {
    seen: BootTime,
    at: Instant,
    since: BootTime,
}

impl Awake {
    fn new(now: BootTime) -> Self {
        Self { seen: now, at: Instant::now(), since: now }
    }

    /// Since when the machine has been awake; to be asked again and again.
    fn since(&mut self, now: BootTime) -> BootTime {
        if now.since(self.seen) > self.at.elapsed() + Duration::from_secs(1) {
            self.since = now;
        }
        (self.seen, self.at) = (now, Instant::now());
        self.since
    }
}

/// Who has not turned within its budget: names, and the same in words.
fn late(
    turns: &[(String, Duration, watch::Receiver<BootTime>)],
    snapshot_taken: BootTime,
    awake_since: BootTime,
    now: BootTime,
) -> (Vec<String>, Vec<String>) {
    let tasks = turns
        .iter()
        .filter(|(_, _, turned)| turned.has_changed().is_ok())
        .map(|(name, budget, turned)| (name.as_str(), *budget, *turned.borrow()));
    [("owner", STALE_AFTER, snapshot_taken)]
        .into_iter()
        .chain(tasks)
        .filter(|&(_, budget, turned)| now.since(turned.max(awake_since)) > budget)
        .map(|(name, budget, turned)| {
            let age = now.since(turned).as_secs();
            (name.to_owned(), format!("`{name}` last turned {age} s ago, its budget is {} s", budget.as_secs()))
        })
        .unzip()
}

/// The verdicts on one line, as `systemctl status` shows them:
/// `instance serving, region open; efs unhealthy (efs-hung)`.
fn status_line(snapshot: &Snapshot) -> String {
    let mut line = format!("instance {}, region {}", snapshot.instance.state.name(), snapshot.region.state.name());
    let mut separator = "; ";
    let unwell = snapshot.components.iter().map(|(component, _)| component).filter(|c| c.status != Status::Healthy);
    for component in unwell {
        // Writing to a string cannot fail, here and below.
        let _ = write!(line, "{separator}{} {}", component.component, component.status);
        if let Some(finding) = &component.finding {
            let _ = write!(line, " ({})", finding.cause);
        }
        separator = ", ";
    }
    let problems = snapshot.about.config_problems.len();
    if problems > 0 {
        let _ = write!(line, "; configuration: {problems} problem{}", if problems == 1 { "" } else { "s" });
    }
    line
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

async fn say_once(state: &NotifyState<'_>) {
    let began = Instant::now();
    while let Err(error) = send(state) {
        if error.kind() != io::ErrorKind::WouldBlock || began.elapsed() >= PATIENCE {
            tracing::warn!(%error, "cannot tell systemd `{state}`");
            return;
        }
        sleep(RETRY).await;
    }
}

/// Sends one message, if systemd's queue has room for it. `sd_notify::notify` would wait for ever.
fn send(state: &NotifyState<'_>) -> io::Result<()> {
    let Some(path) = env::var_os(NOTIFY_SOCKET) else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.to_string().as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn the_one_who_is_late_is_named_and_the_one_who_is_gone_is_not() {
        let turns = |name: &str, budget, turned| {
            let (sender, receiver) = watch::channel(at(turned));
            (sender, (name.to_owned(), Duration::from_secs(budget), receiver))
        };
        let (_http, http) = turns("http", 10, 95);
        let (_efs, efs) = turns("probe efs", 12, 87);
        let (gone, queue) = turns("probe queue", 10, 0);
        drop(gone);
        let turns = [http, efs, queue];
        assert_eq!(late(&turns, at(90), at(0), at(99)).0, Vec::<String>::new());
        let (names, words) = late(&turns, at(90), at(0), at(100));
        assert_eq!(names, ["probe efs"]);
        assert_eq!(words, ["`probe efs` last turned 13 s ago, its budget is 12 s"]);
        assert_eq!(late(&turns, at(89), at(0), at(100)).0, ["owner", "probe efs"]);
        // Nobody turns while the machine sleeps.
        assert_eq!(late(&turns, at(89), at(98), at(100)).0, Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_is_noticed_by_the_boot_clock_running_ahead() {
        let mut awake = Awake::new(at(100));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(awake.since(at(107)), at(100));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(awake.since(at(3_600)), at(3_600));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(awake.since(at(3_607)), at(3_600));
    }
}
