//! The running agent: what signals do, and which probes run.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Error, Options, remember_good, with_unbound};
use crate::clock::BootTime;
use crate::config::Config;
use crate::config::load::{self, File};
use crate::identity::{self, Identity};
use crate::input::Input;
use crate::observation::Component;
use crate::outputs::http::Unbound;
use crate::probes::blocking::Lane;
use crate::probes::{Context, Spec};
use crate::snapshot::{About, Snapshot};
use crate::supervise::Supervisor;
use crate::systemd;
use crate::telemetry::event;

/// Reading the file and keeping a copy.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);

/// What stopping may take: under the unit's `TimeoutStopSec=5`.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Reads the file off the runtime: a frozen disk costs one thread, however often a reload is asked for.
static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// A file that was read again, or the built-in defaults where there is none; else the problems, one line each.
type Read = Result<(Option<File>, Config), Vec<String>>;

/// A probe that runs.
pub(super) struct RunningProbe {
    spec: Spec,
    cancelled: CancellationToken,
    turned: watch::Receiver<BootTime>,
}

/// Everything runs.
pub(super) struct Running {
    pub(super) options: Options,
    pub(super) config: Arc<Config>,
    /// The file that it is from.
    pub(super) file: Option<File>,
    pub(super) region_is_remembered: bool,
    /// With what is wrong with the file, and not with the listeners.
    pub(super) about: About,
    pub(super) unbound: watch::Receiver<Unbound>,
    pub(super) tasks: Supervisor,
    pub(super) cancelled: CancellationToken,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) http_turned: watch::Receiver<BootTime>,
    pub(super) probes: BTreeMap<Component, RunningProbe>,
    pub(super) watchdog: CancellationToken,
    pub(super) identities: watch::Receiver<Arc<Identity>>,
}

impl Running {
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let signals = |kind| signal(kind).map_err(Error::Signals);
        let mut terminate = signals(SignalKind::terminate())?;
        let mut interrupt = signals(SignalKind::interrupt())?;
        let mut hang_up = signals(SignalKind::hangup())?;
        // In a task, so that neither a disk that hangs nor a panic reaches this loop.
        let mut readings = JoinSet::new();
        systemd::ready().await;

        let result = loop {
            tokio::select! {
                name = self.tasks.failed() => break Err(Error::TaskEnded(name)),
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                // One at a time: a signal that comes meanwhile is kept, and the file is read once more for it.
                _ = hang_up.recv(), if readings.is_empty() => {
                    systemd::reloading().await;
                    readings.spawn(self.read_again());
                }
                Some(read) = readings.join_next() => {
                    // It may have panicked, as when no thread could be started.
                    self.reload(read.unwrap_or_else(|error| Err(vec![error.to_string()]))).await;
                }
                // What is being read is read for the region that was known when it began.
                Ok(()) = self.identities.changed(), if readings.is_empty() => {
                    let identity = Arc::clone(&self.identities.borrow_and_update());
                    self.identify(&identity).await;
                }
                // Cancel-safe: a change that was not seen here is seen by the next call.
                Ok(()) = self.unbound.changed() => self.tell_owner().await,
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

    /// It is known better who this is. An administrator's word on the region stands. The file in force, which is not read
    /// again, has the values of all regions.
    async fn identify(&mut self, identity: &Identity) {
        let owner = &mut self.about.owner;
        owner.instance = identity.instance.clone().or_else(|| owner.instance.take());
        let is_open = owner.region.is_none() || self.region_is_remembered;
        if let Some(region) = identity.region.as_ref().filter(|_| is_open) {
            self.region_is_remembered = false;
            if owner.region.replace(region.clone()).as_ref() != Some(region) {
                self.move_to(region);
            }
        }
        self.tell_owner().await;
    }

    fn move_to(&mut self, region: &str) {
        let (config, problems) = self.file.as_ref().map(|file| file.config_or_common(region)).unwrap_or_default();
        for problem in &problems {
            event::config_rejected(problem);
        }
        self.about.config_problems.extend(problems);
        if let Some(mut config) = config {
            // Whatever is told of it was told before.
            self.keep_fixed(&mut config, &mut Vec::new());
            self.apply(Arc::new(config));
        }
    }

    async fn tell_owner(&mut self) {
        let about = with_unbound(&self.about, &self.unbound.borrow_and_update());
        // The owner is gone only when the agent is ending.
        let _ = self.inputs.send(Input::Reconfigured(Arc::clone(&self.config), about)).await;
    }

    /// Reads the file again, for [`Self::reload`].
    fn read_again(&self) -> impl Future<Output = Read> + use<> {
        let region = self.about.owner.region.clone();
        let path = self.options.config.clone();
        let (listen, dir) = (self.config.listen.clone(), self.config.state_dir.clone());
        let read = move || {
            let read = load::reload(path.as_deref(), region.as_deref());
            // Only a start can tell whether another address or state directory is of use.
            if let Ok((Some(file), config)) = &read
                && (&config.listen, &config.state_dir) == (&listen, &dir)
            {
                remember_good(file, &dir);
            }
            read
        };
        async move {
            match timeout(RELOAD_LIMIT, LANE.run(read)).await {
                Ok(Ok(read)) => read.map_err(|problems| problems.lines()),
                Ok(Err(error)) => Err(vec![error.to_string()]),
                Err(_) => {
                    let limit = RELOAD_LIMIT.as_secs();
                    Err(vec![format!("the file could not be read and a copy of it kept within {limit} s")])
                }
            }
        }
    }

    /// Puts in force what was read. A bad file leaves the configuration in force as it is.
    async fn reload(&mut self, read: Read) {
        match read {
            Ok((file, mut config)) => {
                self.file = file;
                let mut problems = Vec::new();
                self.keep_fixed(&mut config, &mut problems);
                self.about.config_problems = problems;
                let owner = &mut self.about.owner;
                owner.deployment.get_or_insert_with(|| config.deployment.clone());
                owner.region = owner.region.take().or_else(|| config.region.clone());
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
        self.tell_owner().await;
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
        config.listen.clone_from(&self.config.listen);
        config.state_dir.clone_from(&self.config.state_dir);
        // The state belongs to it.
        if let Some(deployment) = &self.about.owner.deployment {
            fixed("deployment", config.deployment != *deployment);
            config.deployment.clone_from(deployment);
        }
    }

    /// Starts, keeps and ends probes until they are those of `config`.
    pub(super) fn apply(&mut self, config: Arc<Config>) {
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
