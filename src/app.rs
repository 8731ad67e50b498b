//! The wiring: from a configuration to running tasks, and what signals do. Read it from top to bottom and you have
//! read the data flow.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::certificates;
use crate::clock::{self, BootTime};
use crate::config::load::{self, Loaded};
use crate::config::{Config, load::File};
use crate::identity;
use crate::input::Input;
use crate::latches;
use crate::observation::Component;
use crate::outputs::http::{BindError, Control, Listeners};
use crate::outputs::{markers, persist};
use crate::owner::Owner;
use crate::probes::{Context, Spec};
use crate::resume;
use crate::snapshot::{About, Snapshot};
use crate::state;
use crate::supervise::Supervisor;
use crate::systemd;
use crate::telemetry::{self, event};

/// Observations in flight to the owner. The owner takes each in microseconds; a full channel only makes probes wait.
const INPUTS: usize = 64;

/// Reading the file and keeping a copy.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);

/// Threads for file I/O on local disks. Each of at most a dozen exec probes and of under a dozen others has at most one
/// outstanding, and the unit's `TasksMax=64` is never reached: tokio panics when it cannot start a thread.
pub(crate) const BLOCKING_THREADS: usize = 24;

/// A thread for file I/O that had nothing to do for so long ends: two looks a second apart keep one or two.
const BLOCKING_IDLE: Duration = Duration::from_secs(2);

/// What stopping may take: under the unit's `TimeoutStopSec=5`.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Time between attempts to learn the region from IMDS, while a configuration needs it and nothing else says it.
const IMDS_RETRY: Duration = Duration::from_secs(60);

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

/// Sockets are bound and the state is loaded; nothing runs yet.
struct Bound {
    options: Options,
    config: Arc<Config>,
    about: About,
    owner: Owner,
    listeners: Listeners,
}

impl Bound {
    fn new(options: Options) -> Result<Self, Error> {
        let boot = clock::boot_id().map_err(Error::BootId)?;
        let instance = identity::instance();
        let region = options.region.clone().or_else(identity::region_from_file);
        let mut loaded = load::at_start(options.config.as_deref(), region.as_deref());
        let mut who = state::Owner {
            deployment: loaded.config.deployment.clone(),
            instance,
            region: loaded.config.region.clone(),
        };
        let dir = loaded.config.state_dir.clone();
        fs::create_dir_all(&dir).map_err(|error| Error::StateDir { path: dir.clone(), error })?;
        let saved_in = state::boot_of_file(&dir);
        let saved = state::load(&dir, &who).unwrap_or_else(|error| {
            event::state_set_aside(&error);
            if matches!(error, state::LoadError::Foreign { .. }) {
                persist::set_history_aside(&dir);
            }
            None
        });
        // The last word on the region: what this instance's own state says.
        let remembered = saved.as_ref().and_then(|state| state.owner.region.clone());
        if who.region.is_none() && remembered.is_some() {
            loaded = load::at_start(options.config.as_deref(), remembered.as_deref());
            who.region.clone_from(&remembered);
        }
        let Loaded { config, file, problems } = loaded;

        let now = BootTime::now();
        let saved = saved.unwrap_or_default();
        let markers = markers::resume(&dir);
        let memory = resume::memory(&saved, saved_in.as_deref(), markers, &boot);
        let (latches, _) = latches::read(&dir, &boot, now, clock::wall(), &latches::Latches::default());
        let history = persist::load_history(&dir);
        let listeners = Listeners::bind(&config.listen).map_err(Error::Bind)?;
        let mut problems = problems;
        problems.extend(listeners.problems());
        for problem in &problems {
            event::config_rejected(problem);
        }
        let about = About { owner: who, boot, config_problems: problems };
        let config = Arc::new(config);
        let owner =
            Owner::new(about.clone(), Arc::clone(&config), saved, memory, latches, markers.fenced, history, now);
        event::agent_started(&about, &listeners.addresses());
        // Only now: a file with an address that cannot be bound is not good.
        if let Some(file) = file.filter(|_| about.config_problems.is_empty()) {
            remember_good(&file, &config.state_dir);
        }
        Ok(Self { options, config, about, owner, listeners })
    }

    /// Spawns every task. Needs the runtime.
    fn start(self) -> Running {
        let Self { options, config, about, mut owner, listeners } = self;
        let cancelled = CancellationToken::new();
        let mut tasks = Supervisor::default();
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let first = Arc::new(owner.publish(BootTime::now(), clock::wall()));
        let (publisher, snapshots) = watch::channel(first);
        let (http_turns, http_turned) = watch::channel(BootTime::now());
        let dir = config.state_dir.clone();

        // PUBLISH
        tasks.essential("owner", cancelled.clone(), owner.run(inbox, publisher));

        // ACT
        let Listeners { public, peer, control } = listeners;
        tasks.essential(
            "public listener",
            cancelled.clone(),
            public.serve(snapshots.clone(), http_turns, cancelled.clone()),
        );
        tasks.essential("peer listener", cancelled.clone(), peer.serve(snapshots.clone(), cancelled.clone()));
        let orders = Control { state_dir: dir.clone(), boot: about.boot.clone(), inputs: inputs.clone() };
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

        // OBSERVE
        tasks.restarted("latches", cancelled.clone(), {
            let (dir, boot, inputs, cancelled) = (dir.clone(), about.boot.clone(), inputs.clone(), cancelled.clone());
            move || latches::watch::run(dir.clone(), boot.clone(), inputs.clone(), cancelled.clone())
        });
        tasks.restarted("certificates", cancelled.clone(), {
            let (snapshots, inputs, cancelled) = (snapshots.clone(), inputs.clone(), cancelled.clone());
            move || certificates::run(snapshots.clone(), inputs.clone(), cancelled.clone())
        });
        let mut running = Running {
            options,
            about,
            tasks,
            cancelled,
            inputs,
            snapshots,
            http_turned,
            probes: BTreeMap::new(),
            watchdog: CancellationToken::new(),
            config: Arc::clone(&config),
        };
        running.apply(config);
        running
    }
}

/// A probe that runs.
struct RunningProbe {
    spec: Spec,
    cancelled: CancellationToken,
    turned: watch::Receiver<BootTime>,
}

/// Everything runs.
struct Running {
    options: Options,
    config: Arc<Config>,
    about: About,
    tasks: Supervisor,
    cancelled: CancellationToken,
    inputs: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    http_turned: watch::Receiver<BootTime>,
    probes: BTreeMap<Component, RunningProbe>,
    watchdog: CancellationToken,
}

impl Running {
    async fn run(mut self) -> Result<(), Error> {
        let signals = |kind| signal(kind).map_err(Error::Signals);
        let mut terminate = signals(SignalKind::terminate())?;
        let mut interrupt = signals(SignalKind::interrupt())?;
        let mut hang_up = signals(SignalKind::hangup())?;
        let (found, mut regions) = mpsc::channel(1);
        if self.about.owner.region.is_none() && !self.config.regions.is_empty() {
            let cancelled = self.cancelled.clone();
            self.tasks.restarted("identity", cancelled.clone(), move || ask_imds(found.clone(), cancelled.clone()));
        }
        systemd::ready().await;

        let result = loop {
            tokio::select! {
                name = self.tasks.failed() => break Err(Error::TaskEnded(name)),
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hang_up.recv() => self.reload().await,
                Some((instance, region)) = regions.recv() => {
                    self.about.owner.instance = self.about.owner.instance.take().or(instance);
                    self.about.owner.region = Some(region);
                    self.reload().await;
                }
            }
        };
        systemd::stopping().await;
        event::agent_stopping();
        self.cancelled.cancel();
        drop(self.inputs);
        tokio::select! {
            () = self.tasks.stop(STOP_LIMIT) => {}
            // A second signal: at once.
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        result
    }

    /// Reads the file again. A bad one leaves the configuration in force as it is.
    async fn reload(&mut self) {
        systemd::reloading().await;
        let region = self.about.owner.region.clone();
        let (path, dir) = (self.options.config.clone(), self.config.state_dir.clone());
        // Off the runtime: a frozen disk must not hold up a health answer.
        let reading = spawn_blocking(move || {
            let loaded = load::reload(path.as_deref(), region.as_deref());
            if let Ok((Some(file), _)) = &loaded {
                remember_good(file, &dir);
            }
            loaded
        });
        let loaded = match timeout(RELOAD_LIMIT, reading).await {
            Ok(Ok(loaded)) => loaded.map_err(|problems| problems.lines()),
            Ok(Err(error)) => Err(vec![error.to_string()]),
            Err(_) => Err(vec![format!("the file could not be read within {} s", RELOAD_LIMIT.as_secs())]),
        };
        match loaded {
            Ok((_, mut config)) => {
                let mut problems = Vec::new();
                self.keep_fixed(&mut config, &mut problems);
                self.about.config_problems = problems;
                self.apply(Arc::new(config));
                event::config_reloaded();
            }
            Err(mut problems) => {
                problems.push("in force still: what was before this reload".to_owned());
                self.about.config_problems = problems;
            }
        }
        for problem in &self.about.config_problems {
            event::config_rejected(problem);
        }
        // The owner is gone only when the agent is ending.
        let _ = self.inputs.send(Input::Reconfigured(Arc::clone(&self.config), self.about.clone())).await;
        systemd::ready().await;
    }

    /// Sockets and the state directory are bound to the process.
    fn keep_fixed(&self, config: &mut Config, problems: &mut Vec<String>) {
        let mut fixed = |key: &str, changed: bool| {
            if changed {
                problems.push(format!("`{key}` changed: that takes effect after `systemctl restart dr-agent`"));
            }
        };
        fixed("listen", config.listen != self.config.listen);
        fixed("state_dir", config.state_dir != self.config.state_dir);
        fixed("deployment", config.deployment != self.config.deployment);
        config.listen.clone_from(&self.config.listen);
        config.state_dir.clone_from(&self.config.state_dir);
        config.deployment.clone_from(&self.config.deployment);
    }

    /// Starts, keeps and ends probes until they are those of `config`.
    fn apply(&mut self, config: Arc<Config>) {
        let context = Context {
            state_dir: config.state_dir.clone(),
            boot: self.about.boot.clone(),
            file_name: identity::file_name(self.about.owner.instance.as_deref()),
            region: config.region.clone(),
            snapshots: Some(self.snapshots.clone()),
        };
        let wanted: BTreeMap<_, _> = Spec::all(&config).into_iter().map(|spec| (spec.component(), spec)).collect();
        self.probes.retain(|component, probe| {
            let keep = wanted.get(component) == Some(&probe.spec);
            if !keep {
                probe.cancelled.cancel();
            }
            keep
        });
        for (component, spec) in wanted {
            if self.probes.contains_key(&component) {
                continue;
            }
            let cancelled = self.cancelled.child_token();
            let (turns, turned) = watch::channel(BootTime::now());
            spec.clone().start(&mut self.tasks, &context, &self.inputs, turns, &cancelled);
            self.probes.insert(component, RunningProbe { spec, cancelled, turned });
        }
        self.config = config;
        self.watch_turns();
    }

    /// (Re)starts the task that tells systemd that all who must turn do.
    fn watch_turns(&mut self) {
        self.watchdog.cancel();
        self.watchdog = self.cancelled.child_token();
        let mut turns = vec![("http".to_owned(), systemd::LEAST_BUDGET, self.http_turned.clone())];
        turns.extend(self.probes.iter().map(|(component, probe)| {
            let budget = systemd::LEAST_BUDGET.max(3 * probe.spec.schedule().interval);
            (format!("probe {component}"), budget, probe.turned.clone())
        }));
        let (snapshots, cancelled) = (self.snapshots.clone(), self.watchdog.clone());
        self.tasks.restarted("systemd", self.watchdog.clone(), move || {
            systemd::run(turns.clone(), snapshots.clone(), cancelled.clone())
        });
    }
}

/// A good file is kept for the day when it is not.
fn remember_good(file: &File, state_dir: &Path) {
    if let Err(error) = load::remember_good(file, state_dir) {
        event::state_not_saved(&error);
    }
}

/// Asks IMDS for instance and region until it says a region.
async fn ask_imds(found: mpsc::Sender<(Option<String>, String)>, cancelled: CancellationToken) {
    loop {
        if let (instance, Some(region)) = identity::from_imds().await {
            // Nobody listens any more: the agent is ending.
            let _ = found.send((instance, region)).await;
            cancelled.cancelled().await;
            return;
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(IMDS_RETRY) => {}
        }
    }
}
