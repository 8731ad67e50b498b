//! The task of the agent with the real helper and real servers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dr_agent::authority::database::{Kind, Read, Row, Tables};
use dr_agent::authority::{Claim, State};
use dr_agent::clock::{self, BootTime};
use dr_agent::config::{DatabaseProbe, HostPort, load};
use dr_agent::health::verdict::{self, Doors, Inputs, Memory};
use dr_agent::latches::Latches;
use dr_agent::repoint::decision::Target;
use dr_agent::repoint::gate;
use dr_agent::repoint::look::Look;
use dr_agent::repoint::plan::{Phase, Wanted};
use dr_agent::repoint::run::{Channels, Progress, run};
use dr_agent::repoint::verify::Seen;
use dr_agent::repoint::words;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::mariadb::{PASSWORD, Server, USER};
use crate::support::repoint::Machine;
use crate::support::{PATIENCE, Process, within};

/// What systemd's path unit does: it starts the helper when the request is written. What is written while the helper
/// runs it does not see.
struct PathUnit {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PathUnit {
    fn of(machine: &Machine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, request) = (Arc::clone(&stop), machine.path("run/request/repoint-apply"));
        let mut helper = machine.command();
        helper.stderr(Stdio::null());
        let written = move || fs::metadata(&request).map(|meta| (meta.mtime(), meta.mtime_nsec())).ok();
        let thread = thread::spawn(move || {
            let mut seen = written();
            while !stopped.load(Ordering::SeqCst) {
                if written() != seen {
                    drop(helper.status());
                    seen = written();
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for PathUnit {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What three fresh connections would show.
#[derive(Clone)]
struct Shows(Arc<Mutex<Result<Read, String>>>);

impl Look for Shows {
    async fn prove(&self, _: &DatabaseProbe, _: &HostPort) -> Result<Read, String> {
        self.0.lock().unwrap().clone()
    }
}

fn owner(region: &str, epoch: u64) -> Read {
    let newest = Row {
        claim: Claim { epoch, region: region.to_owned() },
        parent: 0,
        server: "s".to_owned(),
        kind: Kind::Claim,
        since: Timestamp::UNIX_EPOCH,
    };
    Read {
        server: "s".to_owned(),
        is_writable: true,
        channels: Some(0),
        lag_seconds: None,
        tables: Some(Tables { newest: Some(newest), ..Tables::default() }),
    }
}

fn snapshot(machine: &Machine) -> Snapshot {
    let config = Arc::new(load::read(&machine.config()).unwrap().config(Some("a-1")).unwrap());
    let now = BootTime::now();
    let group = verdict::Group::default();
    let inputs = Inputs {
        components: &[],
        group: &group,
        policy: &config.policy,
        draining: false,
        undecided: false,
        gate_closed: false,
        now,
    };
    let (instance, region) = Doors::new(Memory::default(), now).judge(&inputs);
    let about = About { owner: state::Owner::default(), boot: "boot".to_owned(), config_problems: Vec::new() };
    Snapshot {
        generation: 0,
        taken: now,
        about: Arc::new(about),
        config,
        components: Vec::new(),
        instance,
        instance_resumed: false,
        region,
        region_closed: false,
        gate_closed: false,
        promoted: false,
        group,
        round: None,
        latches: Latches::default(),
        lifecycle: dr_agent::identity::lifecycle::Lifecycle::default(),
        replacement: Arc::default(),
        transitions: Arc::default(),
        history: Arc::default(),
        certificates: Arc::default(),
        state: Arc::default(),
        answers: Default::default(),
        proof: None,
        authority: None,
    }
}

fn wanted(writer: &str, epoch: u64) -> Wanted {
    Wanted {
        writer: writer.to_owned().into(),
        reader: Target::Region("a-1".to_owned()),
        epoch,
        state: State::Owner.name().to_owned(),
        only_new: false,
    }
}

struct Agent {
    shows: Shows,
    wanted: watch::Sender<Option<Wanted>>,
    progress: watch::Receiver<Arc<Progress>>,
    _snapshots: watch::Sender<Arc<Snapshot>>,
    _task: JoinSet<()>,
}

impl Agent {
    fn start(machine: &Machine) -> Self {
        let shows = Shows(Arc::new(Mutex::new(Err("not looked at".to_owned()))));
        let (wanted, wants) = watch::channel(None);
        let (snapshots, given) = watch::channel(Arc::new(snapshot(machine)));
        let (tell, progress) = watch::channel(Arc::default());
        let channels = Channels {
            look: shows.clone(),
            state_dir: machine.path("state"),
            boot: clock::boot_id().unwrap(),
            wanted: wants,
            snapshots: given,
            progress: tell,
        };
        let mut task = JoinSet::new();
        task.spawn(run(channels, CancellationToken::new()));
        Self { shows, wanted, progress, _snapshots: snapshots, _task: task }
    }

    fn want(&self, writer: &str, epoch: u64, read: Result<Read, &str>) {
        *self.shows.0.lock().unwrap() = read.map_err(str::to_owned);
        self.wanted.send_replace(Some(wanted(writer, epoch)));
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Progress) -> bool) -> Arc<Progress> {
        let found = timeout(2 * PATIENCE, self.progress.wait_for(|progress| holds(progress))).await;
        let found = found.map(|found| Arc::clone(&found.unwrap()));
        found.unwrap_or_else(|_| {
            let progress = Arc::clone(&self.progress.borrow());
            panic!("{what}: {:?}", words::lines(&progress, BootTime::now()))
        })
    }

    /// Waits until the goal of this epoch is reached.
    async fn reached(&mut self, epoch: u64) -> Arc<Progress> {
        self.until("it is reached", |progress| {
            progress.is_reached && progress.goal.as_ref().is_some_and(|goal| goal.wanted.epoch == epoch)
        })
        .await
    }
}

fn two_regions(a: &Server, b: &Server) -> Machine {
    let hosts = [format!("127.0.0.1:{}", a.port), format!("127.0.0.1:{}", b.port)];
    let outputs = "[probe.database]\nuser = \"dr_agent\"\npassword_file = \"{dir}/password\"\ntls_ca = \"{dir}/ca\"\n\
                   [repoint]\napply = \"none\"\n[[repoint.output]]\nformat = \"env\"\npath = \"{dir}/app/database.env\"\n";
    let machine = Machine::new([&hosts[0], &hosts[1]], outputs);
    fs::write(machine.path("password"), PASSWORD).unwrap();
    let roots = [a, b].map(|server| fs::read_to_string(server.ca()).unwrap()).concat();
    fs::write(machine.path("ca"), roots).unwrap();
    machine
}

fn id(progress: &Progress) -> String {
    progress.plan.current.as_ref().unwrap().decision.id.clone()
}

#[tokio::test]
async fn the_app_follows_what_is_wanted_and_only_to_a_server_that_takes_writes() {
    dr_agent::install_crypto_provider();
    let a = Server::start();
    let b = Server::replica_of(&a);
    let machine = two_regions(&a, &b);
    let _systemd = PathUnit::of(&machine);
    let mut agent = Agent::start(&machine);
    let boot = clock::boot_id().unwrap();
    assert!(!gate::is_decided(&machine.path("run"), &boot));

    agent.want("a-1", 1, Ok(owner("a-1", 1)));
    let progress = agent.reached(1).await;
    assert!(machine.text("database.env").contains(&format!("DATABASE_WRITER_PORT={}\n", a.port)));
    let phase = &progress.plan.current.as_ref().unwrap().phase;
    assert!(
        matches!(phase, Phase::Done { seen: Some(Seen::Sql { server }), .. } if server.contains(&a.port.to_string()))
    );
    within(PATIENCE, "the gate is told", || {
        if gate::is_decided(&machine.path("run"), &boot) { Ok(()) } else { Err("not yet") }
    });

    // Pools that keep their sessions to a.
    let mut pool = Command::new("mariadb");
    pool.args(["--no-defaults", "--ssl", "-h", "127.0.0.1", "-P", &a.port.to_string(), "-u", USER])
        .arg(format!("-p{PASSWORD}"))
        .args(["--execute", "SELECT SLEEP(1000)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let pools = [Process::start(&mut pool), Process::start(&mut pool)];

    // A state directory that takes nothing keeps no app writing.
    let taken = machine.path("state/repoint");
    fs::rename(&taken, machine.path("state/before")).unwrap();
    fs::write(&taken, "").unwrap();
    agent.want("none", 1, Err("nobody needs to look"));
    agent.until("it has no writer", |progress| progress.plan.present == Some(Target::None)).await;
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\n"));
    fs::remove_file(&taken).unwrap();
    agent.want("a-1", 1, Ok(owner("a-1", 1)));
    let has_one = |progress: &Progress| progress.is_reached && progress.plan.present == Some("a-1".to_owned().into());
    let first = id(&*agent.until("it has one again", has_one).await);
    assert!(!machine.path("run/repoint/decision.json").exists(), "what was kept beside it has been");

    // A new life of the agent asks for the same decision and makes no other.
    drop(agent);
    let mut agent = Agent::start(&machine);
    agent.want("a-1", 1, Err("nobody needs to look"));
    assert_eq!(id(&*agent.reached(1).await), first);

    agent.want("none", 2, Err("nobody needs to look"));
    agent.reached(2).await;
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\n"));
    // The replica has one too: it is on this machine.
    agent.until("the sessions are counted", |progress| progress.old_writer_sessions == 3).await;
    // Nor does a new life of the agent forget them, which never saw that writer.
    drop(agent);
    let mut agent = Agent::start(&machine);
    agent.want("none", 2, Err("nobody needs to look"));
    agent.reached(2).await;
    agent.until("the sessions are counted again", |progress| progress.old_writer_sessions == 3).await;
    drop(pools);
    agent.until("they are gone", |progress| progress.old_writer_sessions == 1).await;

    // What does not pass the look is not tried.
    agent.want("b-1", 3, Err("the server `s` has a replica channel"));
    let progress = agent
        .until("it is looked at", |progress| {
            progress.goal.as_ref().is_some_and(|goal| progress.plan.objection(goal).is_some())
        })
        .await;
    let lines = words::lines(&progress, BootTime::now()).join("\n");
    assert!(
        lines.contains("the database of b-1, and not reached: its database does not pass: the server `s` has"),
        "{lines}"
    );
    assert!(machine.text("database.env").contains("DATABASE_EPOCH=2\n"));

    // What passes it and does not take writes all the same is taken back, and tried again.
    agent.want("b-1", 4, Ok(owner("b-1", 4)));
    let progress = agent
        .until("it is taken back", |progress| {
            progress.plan.not_before().is_some() && progress.plan.present == Some(Target::None)
        })
        .await;
    let lines = words::lines(&progress, BootTime::now()).join("\n");
    assert!(lines.contains("not verified: the server `") && lines.contains("is read-only"), "{lines}");
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\n"));
    b.promote();
    agent.reached(4).await;
    assert!(machine.text("database.env").contains(&format!("DATABASE_WRITER_PORT={}\n", b.port)));
    assert_eq!(words::lines(&*agent.reached(4).await, BootTime::now()).len(), 3);
}
