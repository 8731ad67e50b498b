//! The listeners, the owner and the markers in this process, without the rest of the agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use dr_agent::clock::{self, BootTime};
use dr_agent::config::{self, Config, PublicAddress};
use dr_agent::group::guests::Knocks;
use dr_agent::health::verdict::Memory;
use dr_agent::input::Input;
use dr_agent::latches::{self, Latches};
use dr_agent::observation::Observation;
use dr_agent::outputs::http::{Control, Listeners, Members};
use dr_agent::outputs::markers;
use dr_agent::owner::Owner;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ask::Target;
use super::eventually;
use super::site::Scratch;

/// What runs; ended and joined when it is dropped.
pub struct Served {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub inputs: mpsc::Sender<Input>,
    pub turns: watch::Receiver<BootTime>,
    pub peer: SocketAddr,
    public: Target,
    control: Target,
    cancelled: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

const BOOT: &str = "this boot";

impl Served {
    /// Starts in `scratch` as an agent that has run in this boot before, so that nothing is `starting`.
    pub fn start(scratch: &Scratch) -> Self {
        Self::with(scratch, |_| {})
    }

    pub fn with(scratch: &Scratch, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config::defaults();
        config.state_dir = scratch.state();
        config.listen.public = PublicAddress::Unix(scratch.socket());
        config.listen.peer = "[::]:0".parse().expect("an address");
        config.listen.control = scratch.path("control/control.sock");
        change(&mut config);
        std::fs::create_dir_all(&config.state_dir).expect("create the state folder");
        let (ready, is_ready) = std::sync::mpsc::channel();
        let cancelled = CancellationToken::new();
        let token = cancelled.clone();
        let control = Target::unix(&config.listen.control);
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (now, dir) = (BootTime::now(), config.state_dir.clone());
                let listeners = Listeners::bind(&config.listen).expect("bind");
                let addresses = listeners.addresses();
                let present = markers::resume(&dir);
                let memory = Memory {
                    same_boot: true,
                    instance_closed: present.instance_closed,
                    region_closed: present.region_closed,
                    promoted: present.promoted,
                    ..Memory::default()
                };
                let (latches, _) = latches::read(&dir, BOOT, BootTime::now(), clock::wall(), &Latches::default());
                let about =
                    About { owner: state::Owner::default(), boot: BOOT.to_owned(), config_problems: Vec::new() };
                let config = Arc::new(config);
                let fenced = present.fenced == Some(true);
                let mut owner = Owner::new(about, config, State::default(), memory, latches, fenced, vec![], now);
                let (publisher, snapshots) = watch::channel(Arc::new(owner.publish(now, clock::wall())));
                let (inputs, inbox) = mpsc::channel(64);
                let (turns, turned) = watch::channel(now);
                let mut tasks = JoinSet::new();
                tasks.spawn(owner.run(inbox, publisher));
                let Listeners { public, peer, control, .. } = listeners;
                tasks.spawn(public.serve(snapshots.clone(), watch::channel(Arc::default()).1, turns, token.clone()));
                let members = Members {
                    boot: "b".to_owned(),
                    questions: mpsc::channel(1).0,
                    records: watch::channel(Arc::default()).1,
                };
                tasks.spawn(peer.serve(
                    snapshots.clone(),
                    watch::channel(Arc::default()).1,
                    Knocks::default(),
                    members,
                    token.clone(),
                ));
                let (questions, _) = mpsc::channel(1);
                let orders = Control {
                    state_dir: dir.clone(),
                    boot: BOOT.to_owned(),
                    inputs: inputs.clone(),
                    records: watch::channel(Arc::default()).1,
                    orders: questions,
                };
                tasks.spawn(control.serve(snapshots.clone(), orders, token.clone()));
                tasks.spawn(markers::run(dir, snapshots.clone(), inputs.clone(), token.clone()));
                ready.send((snapshots, inputs, turned, addresses)).expect("the test waits");
                token.cancelled().await;
                // The owner ends with its last sender, which is the test's.
                for _ in 0..4 {
                    tasks.join_next().await;
                }
            });
        });
        let (snapshots, inputs, turns, addresses) = is_ready.recv().expect("it starts");
        let public = addresses[0]
            .strip_prefix("unix:")
            .map_or_else(|| Target::Tcp(addresses[0].parse().expect("an address")), Target::unix);
        let port = addresses[1].parse::<SocketAddr>().expect("an address").port();
        let peer = ([127, 0, 0, 1], port).into();
        Self { snapshots, inputs, turns, peer, public, control, cancelled, thread: Some(thread) }
    }

    pub fn public(&self) -> Target {
        self.public.clone()
    }

    pub fn peer(&self) -> Target {
        Target::Tcp(self.peer)
    }

    pub fn control(&self) -> Target {
        self.control.clone()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Gives the owner an observation as a probe would.
    pub fn observe(&self, observation: Observation) {
        let (reply, pace) = oneshot::channel();
        self.inputs.blocking_send(Input::Observed(observation, reply)).expect("the owner runs");
        pace.blocking_recv().expect("the component exists");
    }

    /// Puts a changed configuration in force as a reload would, and waits until it is.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Config)) {
        let before = self.snapshot();
        let mut config = Config::clone(&before.config);
        change(&mut config);
        let config = Arc::new(config);
        let input = Input::Reconfigured(Arc::clone(&config), About::clone(&before.about));
        self.inputs.blocking_send(input).expect("the owner runs");
        eventually("the configuration is in force", || {
            Arc::ptr_eq(&self.snapshot().config, &config).then_some(()).ok_or("not yet")
        });
    }

    /// Tells it to stop, without waiting.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Waits until it has stopped.
    pub fn join(&mut self) {
        self.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends well");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
