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

use crate::authority;
use crate::aws::Aws;
use crate::certificates;
use crate::clock::{self, BootTime};
use crate::config::load::{self, File};
use crate::group;
use crate::group::guests::Knocks;
use crate::group::run::Standing;
use crate::identity::{self, Identity};
use crate::input::Input;
use crate::latches;
use crate::outputs::http::{BindError, Control, Listeners, Members, Unbound};
use crate::outputs::{cloudwatch, markers, persist};
use crate::replace;
use crate::replace::api::AutoScaling;
use crate::replace::run::Channels;
use crate::repoint;
use crate::repoint::sql::Sql;
use crate::snapshot::{About, Snapshot};
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
        let mut tasks = Supervisor::default();
        let cancelled = CancellationToken::new();
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let first = Arc::new(owner.publish(BootTime::now(), clock::wall()));
        let (publisher, snapshots) = watch::channel(first);
        let (http_turns, http_turned) = watch::channel(BootTime::now());
        let (standing, its_standing) = watch::channel(Arc::default());
        let (identity, identities) = watch::channel(Arc::default());
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (records, its_records) = watch::channel(Arc::default());
        let (progress, its_progress) = watch::channel(Arc::default());
        let (wanted, its_wanted) = watch::channel(None);
        let (orders, ordered) = mpsc::channel(QUESTIONS);
        let knocks = Knocks::default();
        let shared = Shared {
            dir: config.state_dir.clone(),
            boot: about.boot.clone(),
            aws: Aws::default(),
            snapshots: snapshots.clone(),
            standing: its_standing,
            identities: identities.clone(),
            inputs: inputs.clone(),
            cancelled: cancelled.clone(),
        };

        // PUBLISH
        shared.essential(&mut tasks, "owner", |_| owner.run(inbox, publisher));

        // ACT
        let Listeners { public, peer, control, unbound } = listeners;
        shared.essential(&mut tasks, "public listener", |s| {
            public.serve(s.snapshots, s.standing, http_turns, s.cancelled)
        });
        shared.essential(&mut tasks, "peer listener", |s| {
            let members = Members { boot: s.boot, questions, records: its_records.clone() };
            peer.serve(s.snapshots, s.standing, knocks.clone(), members, s.cancelled)
        });
        shared.essential(&mut tasks, "control listener", |s| {
            let orders = Control { state_dir: s.dir, boot: s.boot, inputs: s.inputs, records: its_records, orders };
            control.serve(s.snapshots, orders, s.cancelled)
        });
        shared.restarted(&mut tasks, "markers", |s| markers::run(s.dir, s.snapshots, s.inputs, s.cancelled));
        shared.restarted(&mut tasks, "state", |s| persist::run(s.dir, s.snapshots, s.cancelled));
        shared.restarted(&mut tasks, "cloudwatch", |s| cloudwatch::run(s.aws, s.snapshots, s.standing, s.cancelled));
        let asked = Arc::new(Mutex::new(asked));
        shared.restarted(&mut tasks, "replace", move |s| {
            let channels = Channels {
                api: AutoScaling { aws: s.aws, snapshots: s.snapshots.clone() },
                state_dir: s.dir,
                boot: s.boot,
                snapshots: s.snapshots,
                standing: s.standing,
                questions: Arc::clone(&asked),
                records: records.clone(),
                inputs: s.inputs,
            };
            replace::run::run(channels, s.cancelled)
        });
        let ordered = Arc::new(Mutex::new(ordered));
        shared.restarted(&mut tasks, "authority", move |s| {
            let channels = authority::run::Channels {
                aws: s.aws,
                boot: s.boot,
                snapshots: s.snapshots,
                standing: s.standing,
                progress: its_progress.clone(),
                wanted: wanted.clone(),
                inputs: s.inputs,
                questions: Arc::clone(&ordered),
            };
            authority::run::run(channels, s.cancelled)
        });
        shared.restarted(&mut tasks, "repoint", move |s| {
            let channels = repoint::run::Channels {
                look: Sql,
                state_dir: s.dir,
                boot: s.boot,
                wanted: its_wanted.clone(),
                snapshots: s.snapshots,
                progress: progress.clone(),
            };
            repoint::run::run(channels, s.cancelled)
        });

        // OBSERVE
        shared.restarted(&mut tasks, "latches", |s| latches::watch::run(s.dir, s.boot, s.inputs, s.cancelled));
        let (instance, region) = (about.owner.instance.clone(), about.owner.region.clone());
        shared.restarted(&mut tasks, "identity", move |s| {
            identity::find::run(s.aws, instance.clone(), region.clone(), s.dir, identity.clone(), s.boot, s.cancelled)
        });
        shared.restarted(&mut tasks, "lifecycle", |s| {
            identity::watch::run(s.identities, s.snapshots, s.inputs, s.cancelled)
        });
        shared.restarted(&mut tasks, "group", move |s| {
            let (knocks, standing) = (knocks.clone(), standing.clone());
            group::run::run(s.dir, s.snapshots, s.identities, knocks, standing, s.inputs, s.cancelled)
        });
        shared.restarted(&mut tasks, "members", |s| {
            group::refresh::run(s.aws, s.dir, s.snapshots, s.identities, s.cancelled)
        });
        shared.restarted(&mut tasks, "certificates", |s| certificates::run(s.snapshots, s.inputs, s.cancelled));
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
            identities,
            config: Arc::clone(&config),
        };
        running.apply(config);
        running
    }
}

/// What tasks share; each takes what it needs.
#[derive(Clone)]
struct Shared {
    dir: PathBuf,
    boot: String,
    aws: Aws,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    standing: watch::Receiver<Arc<Standing>>,
    identities: watch::Receiver<Arc<Identity>>,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
}

impl Shared {
    /// See [`Supervisor::essential`].
    fn essential<F>(&self, tasks: &mut Supervisor, name: &str, make: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tasks.essential(name, self.cancelled.clone(), make(self.clone()));
    }

    /// See [`Supervisor::restarted`].
    fn restarted<F>(&self, tasks: &mut Supervisor, name: &str, make: impl Fn(Self) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = self.clone();
        tasks.restarted(name, self.cancelled.clone(), move || make(shared.clone()));
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
