//! Logs: to the journal with structured fields when systemd started the agent, else as text on stderr.
//!
//! No log line can hold the agent up: lines go through a bounded queue to a thread of its own, and only that thread
//! waits for the journal, the pipe or the terminal. When the queue is full, lines are lost and counted.

pub mod event;
mod journal;

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::field::Field;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as text};

/// Lines that wait for the thread that writes them: seconds of the busiest incident, a quarter of a megabyte at most.
const QUEUE: usize = 256;

/// How long the end of the process waits for lines that were not written yet.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

/// Lines that found the queue full.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Log lines lost since the start, because the journal or stderr did not take them in time.
#[must_use]
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Starts logging for the whole process. The level is `info`, or what `RUST_LOG` says. What libraries log through the
/// `log` crate is included.
pub fn init() -> Flush {
    // What cannot be parsed is left out, as nobody reads an error here.
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    // What fails in the SDK is told once by whoever called; it would tell each attempt, and quote answers.
    let quiet = || Targets::new().with_default(LevelFilter::INFO).with_target("aws_", LevelFilter::ERROR);
    let filter: Targets = filter.unwrap_or_else(quiet);
    let to_journal = connected_to_journal();
    let (lines, inbox) = sync_channel(QUEUE);
    let queue = Queue(lines);
    // Without the thread every line is lost and counted: still better than an agent that does not start.
    drop(thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&inbox, &mut Sink::open(to_journal))));
    let registry = Registry::default().with(filter);
    // Only a second call in one process fails, and changes nothing.
    drop(if to_journal {
        registry.with(journal::Layer::new(queue.clone())).try_init()
    } else {
        let writer = queue.clone();
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let layer = text::layer().with_ansi(colour).fmt_fields(format::debug_fn(write_field));
        registry.with(layer.with_writer(move || writer.clone())).try_init()
    });
    Flush(queue)
}

/// A field as text: the message as it is, the others by name, ids that only the journal can search not at all.
fn write_field(line: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(line, "{value:?}"),
        "message_id" => Ok(()),
        // Added by the bridge from the `log` crate; the line has them already.
        name if name.starts_with("log.") => Ok(()),
        name => write!(line, " {name}={value:?}"),
    }
}

/// Waits, when it is dropped, until what was logged before is written, but not for long.
#[derive(Debug)]
#[must_use = "the last lines are written when this is dropped"]
pub struct Flush(Queue);

impl Drop for Flush {
    fn drop(&mut self) {
        let (written, wait) = sync_channel(1);
        if self.0.0.try_send(Line::Flush(written)).is_ok() {
            // Late or not: the process ends now.
            let _ = wait.recv_timeout(FLUSH_LIMIT);
        }
    }
}

/// What waits in the queue.
#[derive(Debug)]
enum Line {
    Entry(Box<journal::Entry>),
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending end; never blocks.
#[derive(Debug, Clone)]
struct Queue(SyncSender<Line>);

impl Queue {
    fn push(&self, line: Line) {
        if self.0.try_send(line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The text layer writes each event with one call.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(Line::Text(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines end up. Everything in here may block.
enum Sink {
    Journal(JournalLog),
    /// Stderr that systemd reads line by line into the journal: a prefix gives the priority.
    JournalStream,
    Stderr,
}

impl Sink {
    fn open(to_journal: bool) -> Self {
        if !to_journal {
            return Self::Stderr;
        }
        // Opening sends an empty datagram, so it can block as well.
        match JournalLog::empty() {
            Ok(log) => Self::Journal(log.with_syslog_identifier("dr-agent".to_owned())),
            Err(_) => Self::JournalStream,
        }
    }

    fn write(&mut self, entry: &journal::Entry) {
        match self {
            Self::Journal(log) if entry.send(log).is_ok() => {}
            Self::Journal(_) | Self::JournalStream => {
                drop(writeln!(io::stderr(), "<{}>{}", entry.priority(), entry.message));
            }
            Self::Stderr => drop(writeln!(io::stderr(), "{}", entry.message)),
        }
    }
}

fn write_all(lines: &Receiver<Line>, sink: &mut Sink) {
    let mut told = lost_lines();
    while let Ok(line) = lines.recv() {
        match line {
            Line::Entry(entry) => sink.write(&entry),
            Line::Text(line) => drop(io::stderr().write_all(&line)),
            // The process ends; nobody may wait any more.
            Line::Flush(written) => drop(written.try_send(())),
        }
        let lost = lost_lines();
        if lost > told {
            sink.write(&journal::Entry::lines_lost(lost - told));
            told = lost;
        }
    }
}

/// An error with all its causes, on one line.
#[derive(Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = Some(self.0);
        let mut separator = "";
        while let Some(error) = next {
            let text = error.to_string();
            for part in text.split_whitespace() {
                write!(f, "{separator}{part}")?;
                separator = " ";
            }
            separator = ": ";
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {path}")]
    struct Outer {
        path: &'static str,
        #[source]
        error: io::Error,
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = Outer { path: "/x", error: io::Error::other("first line\n  second line\n") };
        assert_eq!(ErrorChain(&error).to_string(), "cannot read /x: first line second line");
    }

    #[test]
    fn a_full_queue_loses_lines_instead_of_waiting() {
        let (lines, inbox) = sync_channel(2);
        let mut queue = Queue(lines);
        let before = lost_lines();
        for _ in 0..5 {
            queue.write_all(b"line\n").expect("never fails");
        }
        assert!(lost_lines() >= before + 3);
        assert_eq!(inbox.try_iter().count(), 2);
        // Nobody reads: the end of the process does not wait for ever.
        queue.write_all(b"line\n").expect("never fails");
        drop(Flush(queue));
    }
}
