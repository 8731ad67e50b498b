use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use crate::support::{Process, eventually};
use crate::systemd::{AgentFolder, Notifications, fill};

#[test]
fn without_a_journal_stderr_gets_text_and_the_last_line_too() {
    let folder = AgentFolder::new();
    let log = folder.path("log");
    let agent = Process::start(folder.agent().stderr(fs::File::create(&log).expect("make the log")));
    let text = || fs::read_to_string(&log).expect("read the log");
    let line = eventually("the transition is logged", || {
        text().lines().find(|line| line.contains("nginx is unhealthy")).map(str::to_owned).ok_or_else(text)
    });
    assert!(line.contains("ERROR") && line.contains("component=\"nginx\""), "{line}");
    let mut agent = agent;
    agent.signal("TERM");
    assert!(agent.ended().success(), "{}", text());
    assert!(text().lines().last().is_some_and(|line| line.contains("stopping")), "{}", text());
    // A file is not a terminal; ids are for the journal only.
    assert!(!text().contains('\u{1b}') && !text().contains("message_id"), "{}", text());
}

/// The socket of the journal is taken by a stand-in that never reads, in a mount namespace of the agent's own.
#[test]
fn a_journal_that_takes_nothing_holds_nothing_up() {
    let folder = AgentFolder::new();
    let notifications = Notifications::listen(&folder);
    fs::create_dir(folder.path("journal")).expect("make the folder");
    let journal = UnixDatagram::bind(folder.path("journal/socket")).expect("bind the journal's socket");
    fill(&folder.path("journal/socket"));
    let log = fs::File::create(folder.path("log")).expect("make the log");
    let stream = log.metadata().expect("stat the log");
    let agent = folder.agent();
    let mut isolated = Command::new("unshare");
    isolated
        .args(["--mount", "sh", "-ec"])
        .arg(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
             mount --bind \"$0\" /run/systemd/journal && exec \"$@\"",
        )
        .arg(folder.path("journal"))
        .arg(agent.get_program())
        .args(agent.get_args())
        .envs(notifications.environment())
        .env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino()))
        .stdin(Stdio::null())
        .stderr(log);
    let mut agent = Process::start(&mut isolated);
    notifications.wait_for("READY=1");
    // A snapshot is published and the watchdog fed for each of these.
    for _ in 0..20 {
        notifications.wait_for("WATCHDOG=1");
    }
    agent.signal("TERM");
    assert!(agent.ended().success());
    drop(journal);
}
