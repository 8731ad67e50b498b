//! The integration tests: real parts, one binary, a module a theme.
#![allow(clippy::disallowed_methods, reason = "tests wait in real time")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "nothing outside reaches into a test")]

// A release and the ones before and after it.
mod across;
// The site through nginx, and what it may answer.
mod app;
// The image: its template, and the scripts that make it.
mod ami;
// The calls to AWS, and the ways in which they fail.
mod aws;
// What a boot makes of a machine, and a machine that becomes an image.
mod bootstrap;
// The certificates of the regions' names.
mod certificates;
// What the other region is asked, over TLS.
mod authority_other;
// The tables of authority in real databases with replication.
mod authority_sql;
// The AWS side of `check`, and what it means for a drain.
mod check_aws;
// The command line's exit codes and words.
mod cli;
// The configuration file, good and bad.
mod config;
// The database probe against real MariaDB servers, and against servers that misbehave.
mod database;
// The EFS mount that hangs, fails, goes away and comes back; and what is left of it in /proc.
mod efs;
// Groups of real agents.
mod fleet;
// A configuration with which the agent cannot start as it stands.
mod fallback;
// A state directory on a disk that is really full.
mod full_disk;
// A custom program: trust, exit codes, output, deadline.
mod exec;
// The decision core against its laws and against what happened to others.
mod health;
// Who this instance is and who is in its group, whatever the metadata service and AWS do.
mod identity;
// The root helper that restarts and remounts.
mod helper;
// Local disks, memory, pressure.
mod host;
// The three listeners, their limits, and what abuses them.
mod http;
// The package on a booted machine: installed, running, upgraded, removed.
mod installed;
// The held word on disk.
mod markers;
// Every state of the agent, every path, every marker, through nginx.
mod matrix;
// The page that Prometheus scrapes, judged by promtool.
mod metrics;
// A real nginx in every state it can be in, and servers that no nginx would be.
mod nginx;
// The package as a file.
mod package;
// A group decides that one of it is replaced.
mod replace;
// Members that lie, hang, break and are somebody else; keys that change.
mod replace_members;
// The same while AWS and the agent itself fail at each step.
mod replacement_faults;
// Who names the region.
mod region;
// Two regions of real agents on real replication.
mod regions;
// The root helper of repointing, the database proxy, the boot gate, and the task that uses them.
mod repoint;
// What the agent does when it is told to reload, to end or to pause, and what is left when it is killed.
mod signals;
// The shipped nginx file in a real nginx, whatever the site around it does.
mod site;
// What systemd is told and does, on a machine of its own, and the journal.
mod systemd;
// Logs where there is no journal, and a journal or a service manager that takes nothing.
mod telemetry;
// What the agent sees of itself through nginx.
mod wiring;

mod support;
