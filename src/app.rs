//! The wiring: from a configuration ([`boot`]) to running tasks ([`running`]). Read it from top to bottom and you have
//! read the data flow.

mod boot;
mod running;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::aws::Aws;
use crate::certificates;
use crate::clock::{self, BootTime};
use crate::config::load::{self, File};
use crate::group::{self, guests::Knocks};
use crate::identity;
use crate::latches;
use crate::outputs::http::{BindError, Control, Listeners, Members, Unbound};
use crate::outputs::{cloudwatch, markers, persist};
use crate::replace;
use crate::snapshot::About;
use crate::supervise::Supervisor;
use crate::telemetry::{self, event};
use boot::Bound;
use running::Running;

/// Observations in flight to the owner. The owner takes each in microseconds; a full channel only makes probes wait.
const INPUTS: usize = 64;

/// Members that ask for a grant at the same time. One more is told to come again.
const QUESTIONS: usize = 16;

/// Threads for file I/O on local disks. Each of at most a dozen exec probes and of a dozen others has at most one
/// outstanding, and the unit's `TasksMax=128` leaves the exec probes' processes a hundred: tokio panics when it cannot
/// start a thread.
pub(crate) const BLOCKING_THREADS: usize = 24;

/// A thread for file I/O that had nothing to do for so long ends: two looks a second apart keep one or two.
const BLOCKING_IDLE: Duration = Duration::from_secs(2);

/// The command line of `run`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub config: Option<PathBuf>,
    pub region: Option<String>,
}

/// Why the agent did not start, or ended without being told to.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot read the boot id; is `/proc` mounted?")]
    BootId(#[source] io::Error),
    #[error("cannot create the state directory `{path}`")]
    StateDir {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("cannot bind")]
    Bind(#[source] BindError),
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    #[error("the task `{0}` ended by itself")]
    TaskEnded(String),
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or a task without which its word would be worthless ended.
pub fn run(options: Options) -> Result<(), Error> {
    let _written_before_the_end = telemetry::init();
    crate::install_crypto_provider();
    // One thread: everything that could block it is a child process or a bounded blocking task, and a health answer
    // costs microseconds. A second one would cost memory and buy nothing.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_IDLE)
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(async { Bound::new(options)?.start().run().await });
    // A blocking task that hangs (a dead disk) must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

impl Bound {
    /// Spawns every task. Needs the runtime.
    fn start(self) -> Running {
        let Self { options, config, file, region_is_remembered, about, mut owner, listeners } = self;
        let cancelled = CancellationToken::new();
        let mut tasks = Supervisor::default();
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let first = Arc::new(owner.publish(BootTime::now(), clock::wall()));
        let (publisher, snapshots) = watch::channel(first);
        let (http_turns, http_turned) = watch::channel(BootTime::now());
        let (standing, its_standing) = watch::channel(Arc::default());
        let (identity, its_identity) = watch::channel(Arc::default());
        let aws = Aws::default();
        let knocks = Knocks::default();
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (records, its_records) = watch::channel(Arc::default());
        let dir = config.state_dir.clone();

        // PUBLISH
        tasks.essential("owner", cancelled.clone(), owner.run(inbox, publisher));

        // ACT
        let Listeners { public, peer, control, unbound } = listeners;
        tasks.essential(
            "public listener",
            cancelled.clone(),
            public.serve(snapshots.clone(), http_turns, cancelled.clone()),
        );
        tasks.essential(
            "peer listener",
            cancelled.clone(),
            peer.serve(
                snapshots.clone(),
                its_standing.clone(),
                knocks.clone(),
                Members { boot: about.boot.clone(), questions, records: its_records.clone() },
                cancelled.clone(),
            ),
        );
        let orders = Control {
            state_dir: dir.clone(),
            boot: about.boot.clone(),
            inputs: inputs.clone(),
            records: its_records.clone(),
        };
        tasks.essential(
            "control listener",
            cancelled.clone(),
            control.serve(snapshots.clone(), orders, cancelled.clone()),
        );
        tasks.restarted("markers", cancelled.clone(), {
            let (dir, snapshots, inputs, cancelled) =
                (dir.clone(), snapshots.clone(), inputs.clone(), cancelled.clone());
            move || markers::run(dir.clone(), snapshots.clone(), inputs.clone(), cancelled.clone())
        });
        tasks.restarted("state", cancelled.clone(), {
            let (dir, snapshots, cancelled) = (dir.clone(), snapshots.clone(), cancelled.clone());
            move || persist::run(dir.clone(), snapshots.clone(), cancelled.clone())
        });

        tasks.restarted("cloudwatch", cancelled.clone(), {
            let (aws, snapshots, cancelled) = (aws.clone(), snapshots.clone(), cancelled.clone());
            let stands = its_standing.clone();
            move || cloudwatch::run(aws.clone(), snapshots.clone(), stands.clone(), cancelled.clone())
        });
        tasks.restarted("replace", cancelled.clone(), {
            let channels = replace::run::Channels {
                api: Arc::new(replace::api::AutoScaling { aws: aws.clone(), snapshots: snapshots.clone() }),
                state_dir: dir.clone(),
                boot: about.boot.clone(),
                snapshots: snapshots.clone(),
                standing: its_standing,
                questions: Arc::new(Mutex::new(asked)),
                records,
                inputs: inputs.clone(),
            };
            let cancelled = cancelled.clone();
            move || replace::run::run(channels.clone(), cancelled.clone())
        });

        // OBSERVE
        tasks.restarted("latches", cancelled.clone(), {
            let (dir, boot, inputs, cancelled) = (dir.clone(), about.boot.clone(), inputs.clone(), cancelled.clone());
            move || latches::watch::run(dir.clone(), boot.clone(), inputs.clone(), cancelled.clone())
        });
        tasks.restarted("identity", cancelled.clone(), {
            let (aws, dir, cancelled) = (aws.clone(), dir.clone(), cancelled.clone());
            let (instance, seed) = (about.owner.instance.clone(), about.boot.clone());
            move || {
                let (aws, instance, dir) = (aws.clone(), instance.clone(), dir.clone());
                identity::find::run(aws, instance, dir, identity.clone(), seed.clone(), cancelled.clone())
            }
        });
        tasks.restarted("lifecycle", cancelled.clone(), {
            let (identity, snapshots, inputs, cancelled) =
                (its_identity.clone(), snapshots.clone(), inputs.clone(), cancelled.clone());
            move || identity::watch::run(identity.clone(), snapshots.clone(), inputs.clone(), cancelled.clone())
        });
        tasks.restarted("group", cancelled.clone(), {
            let (dir, snapshots, identity, inputs, cancelled) =
                (dir.clone(), snapshots.clone(), its_identity.clone(), inputs.clone(), cancelled.clone());
            move || {
                let (dir, snapshots, identity) = (dir.clone(), snapshots.clone(), identity.clone());
                let (knocks, standing) = (knocks.clone(), standing.clone());
                group::run::run(dir, snapshots, identity, knocks, standing, inputs.clone(), cancelled.clone())
            }
        });
        tasks.restarted("members", cancelled.clone(), {
            let (dir, snapshots, identity, cancelled) =
                (dir.clone(), snapshots.clone(), its_identity.clone(), cancelled.clone());
            move || {
                let (aws, dir, snapshots) = (aws.clone(), dir.clone(), snapshots.clone());
                group::refresh::run(aws, dir, snapshots, identity.clone(), cancelled.clone())
            }
        });
        tasks.restarted("certificates", cancelled.clone(), {
            let (snapshots, inputs, cancelled) = (snapshots.clone(), inputs.clone(), cancelled.clone());
            move || certificates::run(snapshots.clone(), inputs.clone(), cancelled.clone())
        });
        let mut running = Running {
            options,
            file,
            region_is_remembered,
            about,
            unbound,
            tasks,
            cancelled,
            inputs,
            snapshots,
            http_turned,
            probes: BTreeMap::new(),
            watchdog: CancellationToken::new(),
            identities: its_identity,
            config: Arc::clone(&config),
        };
        running.apply(config);
        running
    }
}

/// What people are told: beside what is wrong with the file, the listeners that could not be bound yet.
fn with_unbound(about: &About, unbound: &Unbound) -> About {
    let mut about = about.clone();
    about.config_problems.extend(unbound.values().cloned());
    about
}

/// A good file is kept for the day when it is not.
fn remember_good(file: &File, state_dir: &Path) {
    if let Err(error) = load::remember_good(file, state_dir) {
        event::state_not_saved(&error);
    }
}
