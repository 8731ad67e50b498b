//! dr-agent tells the truth about an EC2 web instance to everything that acts on it: the load balancer, Route 53, the
//! Auto Scaling group, the person on call. This page is its architecture.
//!
//! # Data flow
//!
//! ```text
//!  nginx  app  efs  database  host  exec  wiring        OBSERVE   probes.rs, probes/: one task each
//!     \    |    |      |       |     |     /                      (the efs probe has a child process)
//!      \   |    |      |       |     |    /  mpsc: Input -> Pace (input.rs)
//!       v  v    v      v       v     v   v
//!       component states, instance and region doors    DECIDE    health/: pure, time is an argument
//!                         |
//!                         |  held by one owner task     PUBLISH   owner.rs, snapshot.rs, answer.rs
//!                         |
//!                         |  watch: Arc<Snapshot>
//!        +----------------+------+---------+---------+
//!        v                v      v         v         v
//!  public, peer,       markers  state   watchdog   wiring  ACT    outputs/, systemd.rs
//!  control listener    (nginx)  file    (systemd)
//! ```
//!
//! [`app`] wires it together; whoever reads that file has read the flow.
//!
//! # Tasks
//!
//! | task | takes | gives | if it ends |
//! |---|---|---|---|
//! | probe NAME | its configuration, the clock | [`input::Input::Observed`], a turn for the watchdog | run again |
//! | identity | the firmware, the metadata service, AWS for the group | the [`identity::Identity`] | run again |
//! | lifecycle | the metadata service, every 5 s on EC2 | [`input::Input::Lifecycle`] | run again |
//! | members | AWS's word on the group, every 10 minutes and once an incident | `members.json` | run again |
//! | latches | the latch files, every 5 s | [`input::Input::Latches`] | run again |
//! | certificates | the TLS certificates of the regions' names, every hour | [`input::Input::Certificates`] | run again |
//! | owner | all [`input::Input`]s, a tick of 1 s, 4 s when all is well | the [`snapshot::Snapshot`] | fatal: systemd restarts the agent |
//! | public, peer, control listener | snapshots | HTTP answers, who is not bound yet; control: latch files | fatal |
//! | markers | snapshots | marker files for nginx, [`input::Input::Gate`] | run again |
//! | state | snapshots | the state file, the history | run again |
//! | group | the other members' words, every 5 s, 2 s in trouble | [`input::Input::Round`], keys and place | run again |
//! | replace | snapshots, members' questions | repairs, grants, a mark in Auto Scaling, [`input::Input::Replacement`] | run again |
//! | cloudwatch | snapshots | one `PutMetricData` a minute | run again |
//! | authority | both databases, the other region's word, the members', tags, every 5 s or faster | [`input::Input::Authority`], claims, the heartbeat row | run again |
//! | repoint | what authority wants, snapshots, the root helper's results | decisions, [`repoint::run::Progress`] | run again |
//! | systemd | snapshots, turns | `WATCHDOG=1`, `STATUS=` | run again |
//!
//! Everything runs on one thread. What could block it is elsewhere: operations on the shared mount in an expendable
//! child process, file I/O on local disks in blocking tasks of which each output has at most one outstanding.
//!
//! # Laws
//!
//! 1. **An HTTP answer never does I/O.** It is a copy of bytes rendered with the snapshot, and the snapshot's age
//!    ([`answer::respond`]).
//! 2. **Unknown is a value.** It neither opens nor closes anything, and a stale or held word is `warn`, never `pass`
//!    ([`health::cause::Status`]).
//! 3. **Only a local fault that a replacement would cure may end an instance.** The cause table says which causes
//!    qualify at all ([`health::cause`]).
//! 4. **Static stability.** No AWS API is on the path of a verdict. What the metadata service and AWS say of this
//!    instance and its group may come late, never, or wrong without changing one ([`identity`], [`group::refresh`]);
//!    only a lifecycle that takes the instance out of service does ([`identity::lifecycle`]).
//! 5. **What is closed stays closed** until its own opening rule opens it, through restarts, upgrades and crashes
//!    ([`health::verdict::Doors`], [`outputs::markers`]).
//! 6. **The sidecar must not take the site down.** While the agent is absent nginx answers its last word from marker
//!    files; a bad configuration never stops it from starting ([`config::load`]).
//! 7. **Nothing can hang the agent.** Every wait has a deadline ([`probes::observe`], [`probes::efs`]).
//! 8. **Every action is a plan first.** What `dr-agent check` prints comes from the same functions that decide.
//!
//! # The group
//!
//! The other members' words arrive as another [`input::Input`] and reach the verdicts as [`health::verdict::Group`], which
//! a group of one leaves empty. Replacement ([`replace`]) and CloudWatch ([`outputs::cloudwatch`]) are tasks beside the
//! markers, each with a receiver of snapshots. So are who owns
//! the data ([`authority`]), which also writes down for people what became of it, and which database the app uses
//! ([`repoint`]).
//!
//! # Beside the agent
//!
//! Root's commands are processes of their own, which systemd starts: [`bootstrap`] at every boot, [`helper`] for a request
//! of the agent. [`image`] judges a machine that becomes an image, and takes out of it what must not be in one.

// OBSERVE
pub mod certificates;
pub mod input;
pub mod observation;
pub mod probes;

// DECIDE
pub mod authority;
pub mod group;
pub mod health;

// PUBLISH
pub mod answer;
pub mod owner;
pub mod report;
pub mod snapshot;

// ACT
pub mod outputs;
pub mod replace;
pub mod repoint;

// What they stand on
pub mod app;
pub mod aws;
pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod database;
pub mod helper;
pub mod identity;
pub mod image;
pub mod latches;
pub(crate) mod reasons;
pub mod resume;
pub mod state;
pub mod supervise;
pub mod systemd;
pub mod telemetry;

// For people
pub mod cli;

/// Installs the process-wide TLS provider: aws-lc-rs, the only one in the binary. A second call does nothing.
pub fn install_crypto_provider() {
    // An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
