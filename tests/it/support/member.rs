//! Members of one group in this process: the agent's own tasks for the group, over real sockets and state directories,
//! with observations by the test and an Auto Scaling that writes down what it is asked.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dr_agent::clock::{self, BootTime, Stamp};
use dr_agent::config::{self, Config, PublicAddress};
use dr_agent::group;
use dr_agent::group::guests::Knocks;
use dr_agent::group::keys::Keys;
use dr_agent::group::membership::{self, Member as Entry, Membership};
use dr_agent::health::cause::Cause;
use dr_agent::health::verdict;
use dr_agent::input::Input;
use dr_agent::latches::Latches;
use dr_agent::observation::{Component, Facts, Finding, Observation, Outcome};
use dr_agent::outputs::http::{Listeners, Members};
use dr_agent::owner::Owner;
use dr_agent::replace::api::{Api, Marked, Unavailable};
use dr_agent::replace::ask::Asker;
use dr_agent::replace::look::{Look, LookMember};
use dr_agent::replace::outlook::Outlook;
use dr_agent::replace::plan::ReplacePolicy;
use dr_agent::replace::run::{self, Channels};
use dr_agent::replace::store::Kept;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use dr_agent::supervise::Supervisor;
use jiff::Timestamp;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{eventually, free_port};

pub const BOOT: &str = "11111111-2222-3333-4444-555555555555";
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// An Auto Scaling group that does nothing but answer and write down.
#[derive(Debug)]
pub struct Scaling {
    pub look: Mutex<Result<Look, Unavailable>>,
    /// What comes of a mark.
    pub marks_as: Mutex<Marked>,
    /// Instances that were marked, in order.
    pub marked: Mutex<Vec<String>>,
    /// What was noted at the group, in order.
    pub notes: Mutex<Vec<String>>,
    pub looks: Mutex<u32>,
}

/// One member's way to it.
#[derive(Debug, Clone)]
struct Client(Arc<Scaling>);

impl Api for Client {
    async fn look(&self, _: &str) -> Result<Look, Unavailable> {
        *self.0.looks.lock().unwrap() += 1;
        self.0.look.lock().unwrap().clone()
    }

    async fn mark_unhealthy(&self, instance: &str) -> Marked {
        self.0.marked.lock().unwrap().push(instance.to_owned());
        self.0.marks_as.lock().unwrap().clone()
    }

    async fn note(&self, _: &str, note: &str) -> Result<(), Unavailable> {
        self.0.notes.lock().unwrap().push(note.to_owned());
        Ok(())
    }
}

impl Scaling {
    pub fn marked(&self) -> Vec<String> {
        self.marked.lock().unwrap().clone()
    }
}

/// A group: its folder, who is in it, and its Auto Scaling.
#[derive(Debug)]
pub struct Group {
    dir: tempfile::TempDir,
    pub entries: Vec<Entry>,
    pub scaling: Arc<Scaling>,
}

impl Group {
    /// Of so many members, which have been there for long.
    pub fn new(size: u8) -> Self {
        let dir = tempfile::Builder::new().prefix("dr-agent-group-").tempdir().expect("create a folder");
        let key = dir.path().join("key");
        fs::write(&key, KEY).expect("write the key");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("close the key");
        let entry = |n: u8| Entry {
            instance: name(n),
            zone: "a".to_owned(),
            address: Ipv4Addr::LOCALHOST.into(),
            port: Some(free_port()),
        };
        let entries: Vec<_> = (0..size).map(entry).collect();
        let member = |entry: &Entry| LookMember {
            instance: entry.instance.clone(),
            lifecycle: "InService".to_owned(),
            healthy: true,
        };
        let look = Look {
            group: "web".to_owned(),
            desired: size.into(),
            members: entries.iter().map(member).collect(),
            suspended: [].into(),
            launches_failed: 0,
            is_refreshing: false,
            stopped_by_tag: false,
            last_replacement: None,
            health_check_types: vec!["EC2".to_owned()],
            grace: Duration::ZERO,
            default_warmup: None,
            maintenance: None,
        };
        let scaling = Scaling {
            look: Mutex::new(Ok(look)),
            marks_as: Mutex::new(Marked::Accepted),
            marked: Mutex::default(),
            notes: Mutex::default(),
            looks: Mutex::default(),
        };
        Self { dir, entries, scaling: Arc::new(scaling) }
    }

    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    pub fn state_dir(&self, n: u8) -> PathBuf {
        self.dir.path().join(name(n)).join("state")
    }

    /// What the member keeps on disk.
    pub fn kept(&self, n: u8) -> Option<Kept> {
        serde_json::from_slice(&fs::read(self.state_dir(n).join("replace.json")).ok()?).ok()
    }

    /// Starts member `n`, which has been here since long before, or goes on as it ended.
    pub fn start(&self, n: u8) -> Member {
        let dir = self.state_dir(n);
        if !dir.exists() {
            fs::create_dir_all(&dir).expect("create a state directory");
            let long_ago = Stamp { boot: "before".to_owned(), wall: Timestamp::UNIX_EPOCH, ..Stamp::now(BOOT) };
            let kept = Kept::new(&owner(n), long_ago);
            fs::write(dir.join("replace.json"), serde_json::to_vec(&kept).unwrap()).expect("write what it remembers");
        }
        let (at, members) = (Timestamp::now(), self.entries.clone());
        let membership = Membership { group: "web".to_owned(), at, members, desired: None };
        membership::save(&dir, &membership).expect("write the members");
        let config = self.config(n);
        Member::start(config, owner(n), Arc::clone(&self.scaling))
    }

    fn config(&self, n: u8) -> Config {
        let run = self.dir.path().join(name(n)).join("run");
        let mut config = config::defaults();
        "test".clone_into(&mut config.deployment);
        config.key_file = Some(self.dir.path().join("key"));
        config.state_dir = self.state_dir(n);
        config.listen.public = PublicAddress::Unix(run.join("public.sock"));
        config.listen.control = run.join("control.sock");
        config.listen.peer = SocketAddr::from((Ipv4Addr::LOCALHOST, self.entries[usize::from(n)].port.unwrap()));
        config.replace =
            ReplacePolicy { enforce: true, sustain: Duration::from_millis(500), cooldown: Duration::from_secs(900) };
        config
    }

    /// Asks as a member does.
    pub fn asker(&self) -> Asker {
        let keys = Keys::read(&self.dir.path().join("key")).expect("read the key");
        Asker { members: self.entries.clone(), port: 1, deployment: "test".to_owned(), keys }
    }

    /// Other keys, which nobody in the group has.
    pub fn old_keys(&self) -> Keys {
        let file = self.dir.path().join("old");
        fs::write(&file, KEY.chars().rev().collect::<String>()).expect("write the key");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("close the key");
        Keys::read(&file).expect("read the key")
    }

    pub fn run_dir(&self, n: u8) -> PathBuf {
        self.dir.path().join(name(n)).join("run")
    }
}

pub fn name(n: u8) -> String {
    format!("i-0000000{n}")
}

fn owner(n: u8) -> state::Owner {
    state::Owner { deployment: Some("test".to_owned()), instance: Some(name(n)), region: Some("r".to_owned()) }
}

/// A running member. Dropping it ends it as SIGKILL does: nothing is finished.
#[derive(Debug)]
pub struct Member {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What the probe of a component finds; everything that is not named passes.
    world: watch::Sender<Option<(Component, Cause)>>,
    cancelled: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    fn start(config: Config, owner: state::Owner, scaling: Arc<Scaling>) -> Self {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (world, seen) = watch::channel(None);
        let cancelled = CancellationToken::new();
        let token = cancelled.clone();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let now = BootTime::now();
                let dir = config.state_dir.clone();
                let Listeners { peer, .. } = Listeners::bind(&config.listen).expect("bind");
                let about = About { owner, boot: BOOT.to_owned(), config_problems: Vec::new() };
                let memory = verdict::Memory { same_boot: true, ..verdict::Memory::default() };
                let state = State::default();
                let mut owner =
                    Owner::new(about, Arc::new(config), state, memory, Latches::default(), false, vec![], now);
                let (publisher, snapshots) = watch::channel(Arc::new(owner.publish(now, clock::wall())));
                let (inputs, inbox) = mpsc::channel(64);
                let (standing, its_standing) = watch::channel(Arc::default());
                let (questions, asked) = mpsc::channel(16);
                let (records, its_records) = watch::channel(Arc::default());
                let members = Members { boot: BOOT.to_owned(), questions, records: its_records };
                let (asked, its_dir) = (Arc::new(tokio::sync::Mutex::new(asked)), dir.clone());
                let (seen_by_it, its_place, its_inputs) = (snapshots.clone(), its_standing.clone(), inputs.clone());
                let its_token = token.clone();
                let replace = move || {
                    let channels = Channels {
                        api: Client(Arc::clone(&scaling)),
                        state_dir: its_dir.clone(),
                        boot: BOOT.to_owned(),
                        snapshots: seen_by_it.clone(),
                        standing: its_place.clone(),
                        questions: Arc::clone(&asked),
                        records: records.clone(),
                        inputs: its_inputs.clone(),
                    };
                    run::run(channels, its_token.clone())
                };
                let (knocks, (_identity, identities)) = (Knocks::default(), watch::channel(Arc::default()));
                let mut tasks = JoinSet::new();
                tasks.spawn(owner.run(inbox, publisher));
                tasks.spawn(peer.serve(snapshots.clone(), its_standing, knocks.clone(), members, token.clone()));
                tasks.spawn(group::run::run(
                    dir,
                    snapshots.clone(),
                    identities,
                    knocks,
                    standing,
                    inputs.clone(),
                    token.clone(),
                ));
                let mut supervised = Supervisor::default();
                supervised.restarted("replace", token.clone(), replace);
                tasks.spawn(observe(seen, inputs));
                ready.send(snapshots).expect("the test waits");
                token.cancelled().await;
            });
            runtime.shutdown_background();
        });
        let snapshots = is_ready.recv().expect("it starts");
        Self { snapshots, world, cancelled, thread: Some(thread) }
    }

    /// From now on the probe of this component finds this cause, or nothing wrong anywhere.
    pub fn set(&self, world: Option<(Component, Cause)>) {
        self.world.send_replace(world);
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Waits until what is planned is so.
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&Outlook) -> bool) {
        eventually(what, || {
            let status = Arc::clone(&self.snapshot().replacement);
            if is_so(&status) { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }

    /// Waits until it is healthy and has heard the others.
    pub fn wait_until_well(&self, others: usize) {
        eventually("the members have heard each other", || {
            let group = self.snapshot().group.clone();
            if group.serving.len() == others { Ok(()) } else { Err(format!("{group:?}")) }
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.cancelled.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn observe(world: watch::Receiver<Option<(Component, Cause)>>, inputs: mpsc::Sender<Input>) {
    let mut beat = interval(Duration::from_millis(200));
    loop {
        beat.tick().await;
        let failing = world.borrow().clone();
        for component in [Component::Nginx, Component::Host] {
            let cause = failing.as_ref().filter(|(what, _)| *what == component).map(|(_, cause)| *cause);
            let outcome = cause.map_or(Outcome::Pass, |cause| Outcome::Fail(Finding::new(cause, "by the test")));
            let (began, took) = (BootTime::now(), Duration::ZERO);
            let (stages, facts) = (Vec::new(), Facts::None);
            let observation = Observation { component, began, took, outcome, stages, facts };
            if inputs.send(Input::Observed(observation, oneshot::channel().0)).await.is_err() {
                return;
            }
        }
        sleep(Duration::ZERO).await;
    }
}
