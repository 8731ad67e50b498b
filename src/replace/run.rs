//! The task that carries the plan out, thinly: every snapshot is planned for, and at most one piece of work is under way,
//! beside which members are still answered. Nothing here decides whether to go; [`super::plan`] does.

mod outcome;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::outcome::Done;
use super::api::{Api, Marked, Unavailable};
use super::ask::Asker;
use super::grants::{Denial, Giver, Round};
use super::helper::{self, Paths};
use super::ladder::Verb;
use super::memory::{Decision, Memory, Outcome};
use super::outlook::Outlook;
use super::plan::{self, Facts, Fault, LOOK_EVERY, LOOK_FRESH, Looked, Plan};
use super::records::{self, Record, Records};
use super::store::{Kept, Store};
use crate::clock::{self, BootTime, Stamp};
use crate::group::keys;
use crate::group::membership;
use crate::group::run::Standing;
use crate::health::verdict::InstanceState;
use crate::identity::lifecycle::Target;
use crate::input::Input;
use crate::latches::Kind;
use crate::probes::blocking::Lane;
use crate::snapshot::Snapshot;
use crate::telemetry::event;

/// One call to AWS, whatever it tries.
const CALL: Duration = Duration::from_secs(10);

/// Writing the tag before the call.
const TAG: Duration = Duration::from_secs(3);

/// The tag that remembers replacements.
const TAG_KEY: &str = "dr-agent:last-replacement";

/// From one attempt to learn the group's records to the next, until a member has told them.
const LEARN_AGAIN: Duration = Duration::from_secs(60);

/// Reading the list of members from the disk.
const READ: Duration = Duration::from_secs(2);

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// What a member asks over the peer listener. It is answered once it is written down.
#[derive(Debug)]
pub enum Question {
    /// It names the grant by its own id.
    Grant {
        record: Box<Record>,
        reply: oneshot::Sender<Result<(), Denial>>,
    },
    Return {
        id: String,
        reply: oneshot::Sender<()>,
    },
}

/// The records kept here, for the peer listener.
pub type Shared = watch::Receiver<Arc<Records>>;

/// What the task is given.
#[derive(Debug)]
pub struct Channels<A> {
    pub api: Arc<A>,
    pub state_dir: PathBuf,
    pub boot: String,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub standing: watch::Receiver<Arc<Standing>>,
    /// Kept through a restart of the task.
    pub questions: Arc<Mutex<mpsc::Receiver<Question>>>,
    pub records: watch::Sender<Arc<Records>>,
    pub inputs: mpsc::Sender<Input>,
}

impl<A> Clone for Channels<A> {
    fn clone(&self) -> Self {
        Self {
            api: Arc::clone(&self.api),
            state_dir: self.state_dir.clone(),
            boot: self.boot.clone(),
            snapshots: self.snapshots.clone(),
            standing: self.standing.clone(),
            questions: Arc::clone(&self.questions),
            records: self.records.clone(),
            inputs: self.inputs.clone(),
        }
    }
}

/// A repair that was asked for.
struct Repair {
    verb: Verb,
    id: String,
    at: BootTime,
}

struct Task<A> {
    channels: Channels<A>,
    store: Store,
    paths: Paths,
    kept: Kept,
    looked: Option<Looked>,
    /// The round that was won, with its record.
    won: Option<(Round, Box<Record>)>,
    work: JoinSet<Done>,
    /// A look, a round or the call is under way.
    busy: bool,
    repair: Option<Repair>,
    learn_next: BootTime,
    /// The fault that was counted as one that would have been replaced.
    counted: Option<BootTime>,
    status: Outlook,
    /// Of the last round and the last repair.
    words: (Option<String>, Option<String>),
}

/// Runs until cancelled.
pub async fn run<A: Api>(channels: Channels<A>, cancelled: CancellationToken) {
    let snapshot = Arc::clone(&channels.snapshots.borrow());
    let control = &snapshot.config.listen.control;
    let run_dir = control.parent().map(PathBuf::from).unwrap_or_default();
    let store = Store { state_dir: channels.state_dir.clone(), run_dir };
    let now = Stamp::now(&channels.boot);
    let fresh = || Kept { memory: Memory::new(snapshot.about.owner.clone(), now.clone()), records: Records::default() };
    let kept = store.load().await.unwrap_or_else(fresh);
    let questions = Arc::clone(&channels.questions);
    let mut questions = questions.lock().await;
    let mut snapshots = channels.snapshots.clone();
    let mut task = Task {
        paths: Paths::of(control),
        store,
        kept,
        looked: None,
        won: None,
        work: JoinSet::new(),
        busy: false,
        repair: None,
        learn_next: now.time,
        counted: None,
        status: Outlook::default(),
        words: (None, None),
        channels,
    };
    task.share();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        task.step(&snapshot).await;
        tokio::select! {
            () = cancelled.cancelled() => return,
            // Each of these is cancel-safe.
            Some(question) = questions.recv() => task.answer(question, &snapshot).await,
            Some(Ok(done)) = task.work.join_next() => task.take(done, &snapshot).await,
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

impl<A: Api> Task<A> {
    fn now(&self) -> Stamp {
        Stamp::now(&self.channels.boot)
    }

    fn share(&self) {
        self.channels.records.send_replace(Arc::new(self.kept.records.clone()));
    }

    /// Plans, and begins what is planned.
    async fn step(&mut self, snapshot: &Snapshot) {
        self.belong(snapshot).await;
        let now = self.now();
        let components = snapshot.components.iter().map(|(component, _)| component);
        if self.kept.memory.observe(components, &self.channels.boot) {
            self.keep().await;
        }
        self.follow_repair().await;
        let standing = Arc::clone(&self.channels.standing.borrow());
        let facts = facts(snapshot, &standing, &self.kept, self.looked.as_ref());
        let policy = &snapshot.config.replace;
        let plan = plan::plan(&facts, policy, &now);
        let fault = plan::fault(&facts, policy, &now);
        self.tell(plan.clone(), fault.as_ref(), snapshot, &now).await;
        self.count(&plan, fault.as_ref()).await;
        self.learn(snapshot, &standing, &now);
        if !self.busy && !matches!(plan, Plan::Ask { .. } | Plan::Go | Plan::Marked) {
            // A majority that is not used goes back at once.
            self.give_up(&standing, snapshot).await;
        }
        match plan {
            Plan::Repair(verb, attempt) if self.repair.is_none() => self.ask_for_repair(verb, attempt).await,
            Plan::Look if !self.busy => self.look(snapshot, &standing),
            Plan::Marked
                if !self.busy && self.looked.as_ref().is_none_or(|old| now.time.since(old.began) >= LOOK_EVERY) =>
            {
                self.look(snapshot, &standing);
            }
            Plan::Ask { electorate, voters } if !self.busy => {
                if let Some(fault) = fault {
                    self.ask(electorate, voters, &fault, snapshot, &standing).await;
                }
            }
            Plan::Go if !self.busy => self.go(snapshot, &now).await,
            _ => {}
        }
    }

    /// What was remembered for another instance, by a copied image, counts for nothing here.
    async fn belong(&mut self, snapshot: &Snapshot) {
        let owner = &snapshot.about.owner;
        let memory = &mut self.kept.memory;
        if memory.owner.agrees(owner) {
            if memory.owner != *owner {
                let known = |new: &Option<String>, old: &Option<String>| new.clone().or_else(|| old.clone());
                memory.owner.deployment = known(&owner.deployment, &memory.owner.deployment);
                memory.owner.instance = known(&owner.instance, &memory.owner.instance);
                memory.owner.region = known(&owner.region, &memory.owner.region);
            }
            return;
        }
        let now = self.now();
        self.kept = Kept { memory: Memory::new(owner.clone(), now), records: Records::default() };
        (self.looked, self.won) = (None, None);
        self.keep().await;
        self.share();
    }

    /// Writes down what is good to remember, and goes on when that fails.
    async fn keep(&mut self) {
        self.kept.memory.saves += 1;
        if let Err(error) = self.store.save_somewhere(&self.kept).await {
            event::replace_not_saved(&error);
        }
    }

    async fn tell(&mut self, plan: Plan, fault: Option<&Fault>, snapshot: &Snapshot, now: &Stamp) {
        let enforce = snapshot.config.replace.enforce;
        let mut status = Outlook::new(plan, fault, &self.kept.memory, enforce, now);
        (status.round, status.repair) = self.words.clone();
        if status == self.status {
            return;
        }
        // That the time to wait for has moved is no event.
        if (status.plan.name(), status.refusals()) != (self.status.plan.name(), self.status.refusals()) {
            event::plan_changed(&status, now.time);
        }
        self.status = status.clone();
        // The owner is gone only when the agent is ending.
        drop(self.channels.inputs.send(Input::Replacement(Arc::new(status))).await);
    }

    /// Counts a fault once that would have been replaced.
    async fn count(&mut self, plan: &Plan, fault: Option<&Fault>) {
        let since = fault.map(|fault| fault.since);
        if plan.would_replace() && self.counted != since {
            self.counted = since;
            self.kept.memory.would += 1;
            self.kept.memory.would_last = Some(self.now());
            self.keep().await;
        }
    }

    /// Asks the group for its records: an instance that takes another's place learns what happened to it.
    fn learn(&mut self, snapshot: &Snapshot, standing: &Standing, now: &Stamp) {
        if now.time < self.learn_next || standing.place.group.is_none() {
            return;
        }
        let Some(me) = snapshot.about.owner.instance.clone() else { return };
        let Some(asker) = self.asker(snapshot, standing) else { return };
        self.learn_next = now.time + LEARN_AGAIN;
        self.work.spawn(async move {
            let asker = asker.await;
            let (told, answered) = asker.records(&me).await;
            // A group of one has nobody to ask.
            Done::Learned { told, answered: answered || asker.members.len() == 1 }
        });
    }

    async fn ask_for_repair(&mut self, verb: Verb, attempt: u32) {
        let now = self.now();
        let Some(id) = keys::nonce() else { return };
        self.kept.memory.repairs.note(verb, &now);
        self.keep().await;
        event::repair_asked(verb, attempt);
        let (paths, request) = (self.paths.clone(), id.clone());
        let asked = timeout(READ, LANE.run(move || paths.request(verb, &request))).await;
        if !matches!(asked, Ok(Ok(Ok(())))) {
            self.words.1 = Some(format!("{verb} could not be asked for"));
        }
        self.repair = Some(Repair { verb, id, at: now.time });
    }

    /// Looks whether the helper has done what was asked for.
    async fn follow_repair(&mut self) {
        let Some(Repair { verb, id, at }) = &self.repair else { return };
        let (paths, verb, wanted, at) = (self.paths.clone(), *verb, id.clone(), *at);
        let done = timeout(READ, LANE.run(move || paths.result(verb, &wanted))).await;
        let done = done.ok().and_then(Result::ok).flatten();
        let outcome = match done {
            Some(done) if done.ok => None,
            Some(done) => Some(format!("{verb} failed: {}", done.error.unwrap_or_default())),
            None if BootTime::now().since(at) >= helper::LIMIT => {
                Some(format!("the root helper did not answer {verb}"))
            }
            None => return,
        };
        event::repair_ended(verb, outcome.as_deref());
        self.words.1 = outcome;
        self.repair = None;
    }

    fn look(&mut self, snapshot: &Snapshot, standing: &Standing) {
        let (Some(group), Some(me)) = (standing.place.group.clone(), snapshot.about.owner.instance.clone()) else {
            return;
        };
        let api = Arc::clone(&self.channels.api);
        self.begin(async move {
            let began = BootTime::now();
            let late = || Unavailable("no answer in time".to_owned());
            let look = timeout(CALL, api.look(&group, &me)).await.unwrap_or_else(|_| Err(late()));
            Done::Look { began, look }
        });
    }

    /// Takes the own grant, then asks the others for theirs.
    async fn ask(
        &mut self,
        electorate: u32,
        voters: Vec<String>,
        fault: &Fault,
        snapshot: &Snapshot,
        standing: &Standing,
    ) {
        let (Some(id), Some(group), Some(me)) =
            (keys::nonce(), standing.place.group.clone(), snapshot.about.owner.instance.clone())
        else {
            return;
        };
        let record = record(id.clone(), group, me.clone(), fault, snapshot);
        let own = self.give(&record, snapshot, standing).await;
        if let Err(denial) = own {
            self.lose(format!("this instance cannot agree itself: {denial}"));
            return;
        }
        let Some(asker) = self.asker(snapshot, standing) else { return };
        let round = Round::new(id, electorate, voters);
        self.begin(async move {
            let round = asker.await.round(round, &me, &record).await;
            Done::Round { round, record: Box::new(record) }
        });
    }

    /// Writes the decision down, tells it, and makes the call.
    async fn go(&mut self, snapshot: &Snapshot, now: &Stamp) {
        let (Some((round, record)), Some(looked)) = (&self.won, &self.looked) else { return };
        let Some(me) = snapshot.about.owner.instance.clone() else { return };
        let began = looked.began;
        let alone = looked.look.as_ref().is_none_or(|look| look.desired < 2);
        let tag = records::write_tag(looked.look.as_ref().and_then(|look| look.last_replacement.as_deref()), record);
        let decision =
            Decision { id: round.id.clone(), at: now.clone(), cause: record.cause.clone(), outcome: Outcome::Calling };
        let (record, group) = (record.clone(), record.group.clone());
        self.kept.memory.decision = Some(decision);
        self.kept.memory.saves += 1;
        if let Err(error) = self.store.save_somewhere(&self.kept).await {
            // A restarted agent would not know of it, and call again.
            event::replace_not_saved(&error);
            self.settle(Outcome::Refused("the decision could not be written down".to_owned()));
            return;
        }
        event::replacement_decided(&record);
        let api = Arc::clone(&self.channels.api);
        self.begin(async move {
            let tagged = timeout(TAG, api.write_tag(&group, TAG_KEY, &tag)).await;
            if alone && !matches!(tagged, Ok(Ok(()))) {
                // It is all that a group of one will remember.
                return Done::Marked(Marked::Refused("the group's tag could not be written".to_owned()));
            }
            if BootTime::now().since(began) >= LOOK_FRESH {
                return Done::TooLate;
            }
            let late = |_| Marked::Unknown("no answer in time".to_owned());
            Done::Marked(timeout(CALL, api.mark_unhealthy(&me)).await.unwrap_or_else(late))
        });
    }

    fn begin(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.busy = true;
        self.work.spawn(work);
    }

    /// Answers a member.
    async fn answer(&mut self, question: Question, snapshot: &Snapshot) {
        let standing = Arc::clone(&self.channels.standing.borrow());
        match question {
            Question::Grant { record, reply } => {
                let given = self.give(&record, snapshot, &standing).await;
                event::grant_judged(&record.instance, given.err());
                // Whoever asked may have gone; then it returns what it may have.
                let _ = reply.send(given);
            }
            Question::Return { id, reply } => {
                let grant = self.kept.memory.take_back(&id);
                let record = self.kept.records.drop(&id);
                if grant || record {
                    self.keep().await;
                    self.share();
                }
                let _ = reply.send(());
            }
        }
    }

    /// Judges, and writes the grant down before it counts.
    async fn give(&mut self, record: &Record, snapshot: &Snapshot, standing: &Standing) -> Result<(), Denial> {
        let now = self.now();
        let facts = facts(snapshot, standing, &self.kept, self.looked.as_ref());
        let (Some(instance), Some(group)) = (facts.instance, facts.group) else { return Err(Denial::Stranger) };
        let policy = &snapshot.config.replace;
        let myself = record.instance == instance;
        let giver = Giver {
            instance,
            group,
            cooldown: policy.cooldown,
            began: &self.kept.memory.began,
            given: self.kept.memory.given.as_ref(),
            wants: !myself && plan::wants_to_go(&facts, policy, &now),
            is_serving: snapshot.instance.state == InstanceState::Serving && !facts.draining,
            records: &self.kept.records,
        };
        let grant = giver.judge(record, &now)?;
        let mut kept = self.kept.clone();
        kept.memory.given = Some(grant);
        kept.memory.saves += 1;
        if !myself && !kept.records.keep(record.clone(), Duration::ZERO, &now) && !record.fits() {
            return Err(Denial::NotSaved);
        }
        let saved = if myself { self.store.save_somewhere(&kept).await } else { self.store.save(&kept).await };
        if let Err(error) = saved {
            event::replace_not_saved(&error);
            return Err(Denial::NotSaved);
        }
        self.kept = kept;
        self.share();
        Ok(())
    }

    /// Who to ask, by the list of members on disk; `None` without keys.
    fn asker(&self, snapshot: &Snapshot, standing: &Standing) -> Option<impl Future<Output = Asker> + Send + 'static> {
        let keys = standing.keys.clone()?;
        let dir = self.channels.state_dir.clone();
        let (port, deployment) = (snapshot.config.listen.peer.port(), snapshot.config.deployment.clone());
        Some(async move {
            let read = timeout(READ, LANE.run(move || membership::load(&dir))).await;
            let members = read.ok().and_then(Result::ok).and_then(Result::ok).flatten();
            Asker { members: members.map(|list| list.members).unwrap_or_default(), port, deployment, keys }
        })
    }
}

fn facts<'a>(snapshot: &'a Snapshot, standing: &'a Standing, kept: &'a Kept, look: Option<&'a Looked>) -> Facts<'a> {
    Facts {
        instance: snapshot.about.owner.instance.as_deref(),
        group: standing.place.group.as_deref(),
        lifecycle: snapshot.lifecycle.target.map(|target| match target {
            Target::InService => "InService",
            _ => "leaving",
        }),
        has_keys: standing.keys.is_some(),
        draining: snapshot.is_draining(),
        on_hold: snapshot.latches.get(Kind::Hold).is_some(),
        gate_closed: snapshot.gate_closed,
        components: &snapshot.components,
        votes: &snapshot.group,
        memory: &kept.memory,
        records: &kept.records,
        look,
    }
}

fn record(id: String, group: String, instance: String, fault: &Fault, snapshot: &Snapshot) -> Record {
    let mut record = Record {
        id,
        at: clock::wall(),
        group,
        instance,
        cause: fault.cause.name().to_owned(),
        detail: fault.detail.clone(),
        votes: snapshot.group.tallies.get(&fault.component).copied().unwrap_or_default(),
        plan: Plan::Go.words(snapshot.taken),
        transitions: snapshot.history.iter().rev().take(50).rev().cloned().collect(),
    };
    record.fit();
    record
}
