//! Which probes a configuration asks for, and how each is started.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::config::{AppProbe, Config, DatabaseProbe, EfsProbe, ExecProbe, HostProbe, NginxProbe, WiringProbe};
use crate::health::component::Schedule;
use crate::input::Input;
use crate::observation::{Component, Observation};
use crate::probes::{app, database, efs, exec, host, nginx, observe, run, wiring};
use crate::snapshot::Snapshot;
use crate::supervise::Supervisor;

/// One configured probe.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    Nginx(NginxProbe),
    App(AppProbe),
    Efs(EfsProbe),
    Database(DatabaseProbe),
    Host(HostProbe),
    Wiring(WiringProbe),
    Exec(String, ExecProbe),
}

/// What probes need beside their configuration.
#[derive(Debug, Clone)]
pub struct Context {
    pub state_dir: PathBuf,
    /// The kernel's id of this boot.
    pub boot: String,
    /// Name of this machine's file on the shared mount.
    pub file_name: String,
    pub region: Option<String>,
    /// The agent's own snapshots; `None` in `check`, which has none.
    pub snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
}

impl Spec {
    /// All probes of a configuration, in the order in which people read them.
    #[must_use]
    pub fn all(config: &Config) -> Vec<Self> {
        let mut specs = vec![Self::Nginx(config.nginx.clone())];
        specs.extend(config.app.clone().map(Self::App));
        specs.extend(config.efs.clone().map(Self::Efs));
        specs.extend(config.database.clone().map(Self::Database));
        specs.push(Self::Host(config.host.clone()));
        specs.push(Self::Wiring(config.wiring.clone()));
        specs.extend(config.exec.iter().map(|(name, exec)| Self::Exec(name.clone(), exec.clone())));
        specs
    }

    #[must_use]
    pub fn component(&self) -> Component {
        match self {
            Self::Nginx(_) => Component::Nginx,
            Self::App(_) => Component::App,
            Self::Efs(_) => Component::Efs,
            Self::Database(_) => Component::Database,
            Self::Host(_) => Component::Host,
            Self::Wiring(_) => Component::Wiring,
            Self::Exec(name, _) => Component::Exec(name.as_str().into()),
        }
    }

    #[must_use]
    pub const fn schedule(&self) -> Schedule {
        match self {
            Self::Nginx(probe) => probe.schedule,
            Self::App(probe) => probe.schedule,
            Self::Efs(probe) => probe.schedule,
            Self::Database(probe) => probe.schedule,
            Self::Host(probe) => probe.schedule,
            Self::Wiring(probe) => probe.schedule,
            Self::Exec(_, probe) => probe.schedule,
        }
    }

    /// What exactly is probed, not how: two probes of one target answer the same question.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Nginx(probe) => probe.url.text.clone(),
            Self::App(probe) => format!("{} {}", probe.url.text, probe.host.as_deref().unwrap_or(&probe.url.host)),
            Self::Efs(probe) => {
                format!("{} {}", probe.path.display(), probe.file_system.as_deref().unwrap_or("any"))
            }
            Self::Database(probe) => format!("{}:{}", probe.host, probe.port),
            Self::Host(_) => "local".to_owned(),
            Self::Wiring(probe) if probe.hosts.is_empty() => "the markers alone".to_owned(),
            Self::Wiring(probe) => probe.address.to_string(),
            Self::Exec(_, probe) => probe.command.join(" "),
        }
    }

    /// Starts the probe as a task of `supervisor`; it runs until `cancelled`.
    pub fn start(
        self,
        supervisor: &mut Supervisor,
        context: &Context,
        inputs: &mpsc::Sender<Input>,
        turns: watch::Sender<BootTime>,
        cancelled: &CancellationToken,
    ) {
        let name = format!("probe {}", self.component());
        let context = context.clone();
        let inputs = inputs.clone();
        let token = cancelled.clone();
        supervisor.restarted(name, cancelled.clone(), move || {
            self.clone().run(context.clone(), inputs.clone(), turns.clone(), token.clone())
        });
    }

    async fn run(
        self,
        context: Context,
        inputs: mpsc::Sender<Input>,
        turns: watch::Sender<BootTime>,
        cancelled: CancellationToken,
    ) {
        let (component, schedule) = (self.component(), self.schedule());
        let phase = phase(&context.file_name, &component, schedule.interval);
        macro_rules! run {
            ($build:expr) => {
                run(component, schedule, phase, $build, inputs, turns, cancelled).await
            };
        }
        match self {
            Self::Nginx(probe) => run!(|| nginx::Nginx::new(&probe)),
            Self::App(probe) => run!(|| app::App::new(&probe)),
            Self::Efs(probe) => run!(|| efs::Efs::new(&probe, &context.efs())),
            Self::Database(probe) => run!(|| database::Database::new(&probe)),
            Self::Host(probe) => run!(|| host::Host::new(&probe)),
            Self::Wiring(probe) => {
                run!(|| wiring::Wiring::new(&probe, &context.state_dir, context.snapshots.clone()));
            }
            Self::Exec(_, probe) => run!(|| exec::Exec::new(&probe)),
        }
    }

    /// One attempt, for `check`.
    async fn once(self, context: Context) -> Observation {
        let component = self.component();
        let deadline = self.schedule().timeout;
        match self {
            Self::Nginx(probe) => observe(&mut nginx::Nginx::new(&probe), component, deadline).await,
            Self::App(probe) => observe(&mut app::App::new(&probe), component, deadline).await,
            Self::Efs(probe) => observe(&mut efs::Efs::new(&probe, &context.efs()), component, deadline).await,
            Self::Database(probe) => {
                // The one attempt has to log in, so it gets the time of a fresh connection.
                let deadline = probe.fresh_timeout;
                observe(&mut database::Database::new(&probe), component, deadline).await
            }
            Self::Host(probe) => observe(&mut host::Host::new(&probe), component, deadline).await,
            Self::Wiring(probe) => {
                let mut wiring = wiring::Wiring::new(&probe, &context.state_dir, context.snapshots);
                observe(&mut wiring, component, deadline).await
            }
            Self::Exec(_, probe) => observe(&mut exec::Exec::new(&probe), component, deadline).await,
        }
    }
}

impl Context {
    /// For one look from outside the agent.
    #[must_use]
    pub fn for_check(config: &Config, instance: Option<&str>, boot: String) -> Self {
        Self {
            state_dir: config.state_dir.clone(),
            boot,
            file_name: crate::identity::file_name(instance),
            region: config.region.clone(),
            snapshots: None,
        }
    }

    fn efs(&self) -> efs::Context {
        efs::Context {
            state_dir: self.state_dir.clone(),
            instance: self.file_name.clone(),
            boot: self.boot.clone(),
            region: self.region.clone(),
            ends_others: self.snapshots.is_some(),
        }
    }
}

/// Every probe once, side by side, in the order of [`Spec::all`].
pub async fn observe_all(config: &Config, context: &Context) -> Vec<Observation> {
    let mut attempts = JoinSet::new();
    for (index, spec) in Spec::all(config).into_iter().enumerate() {
        let context = context.clone();
        attempts.spawn(async move { (index, spec.once(context).await) });
    }
    let mut observations = attempts.join_all().await;
    observations.sort_by_key(|(index, _)| *index);
    observations.into_iter().map(|(_, observation)| observation).collect()
}

/// By how much this machine's attempts are shifted against other machines' and components': up to half an interval,
/// always the same for the same machine, so that the members of a group do not write to the mount in step.
fn phase(machine: &str, component: &Component, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (machine, component.name()).hash(&mut hasher);
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = hasher.finish() as f64 / u64::MAX as f64;
    interval.mul_f64(share / 2.0)
}
