//! The task that carries the plan out, thinly: every snapshot is planned for, and at most one piece of work is under way,
//! beside which members are still answered. Nothing here decides whether to go; [`super::plan`] does.
//!
//! [`work`] begins what is planned, [`outcome`] takes in what came of it, [`members`] is what members ask and tell.

mod members;
mod outcome;
mod work;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::members::Question;
use self::outcome::Done;
use self::work::Repair;
use super::api::Api;
use super::grants::Round;
use super::outlook::Outlook;
use super::plan::{self, Facts, Fault, LOOK_EVERY, Looked, Plan};
use super::records::{Record, Records};
use super::store::{Kept, Store};
use crate::authority::said::Said;
use crate::clock::{BootTime, Stamp};
use crate::group::run::Standing;
use crate::helper::Paths;
use crate::identity::lifecycle::Target;
use crate::input::Input;
use crate::latches::Kind;
use crate::probes::blocking::{FILE, Lane};
use crate::snapshot::Snapshot;
use crate::telemetry::event;

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// What the task is given.
#[derive(Debug, Clone)]
pub struct Channels<A> {
    pub api: A,
    pub state_dir: PathBuf,
    pub boot: String,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub standing: watch::Receiver<Arc<Standing>>,
    /// Kept through a restart of the task.
    pub questions: Arc<Mutex<mpsc::Receiver<Question>>>,
    /// The records kept here, for the listeners.
    pub records: watch::Sender<Arc<Records>>,
    pub inputs: mpsc::Sender<Input>,
}

struct Task<A> {
    channels: Channels<A>,
    /// As they were when this turn began.
    snapshot: Arc<Snapshot>,
    standing: Arc<Standing>,
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
    /// What came of the last round, and of the last repair that did not help.
    round_words: Option<String>,
    repair_words: Option<String>,
}

/// Runs until cancelled.
pub async fn run<A: Api>(channels: Channels<A>, cancelled: CancellationToken) {
    let snapshot = Arc::clone(&channels.snapshots.borrow());
    let control = &snapshot.config.listen.control;
    let run_dir = control.parent().map(PathBuf::from).unwrap_or_default();
    let store = Store { state_dir: channels.state_dir.clone(), run_dir };
    let now = Stamp::now(&channels.boot);
    let kept = store.load().await.unwrap_or_else(|| Kept::new(&snapshot.about.owner, now.clone()));
    let questions = Arc::clone(&channels.questions);
    let mut questions = questions.lock().await;
    let mut snapshots = channels.snapshots.clone();
    let mut task = Task {
        paths: Paths::of(control),
        standing: Arc::default(),
        snapshot: Arc::clone(&snapshot),
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
        round_words: None,
        repair_words: None,
        channels,
    };
    task.share();
    loop {
        task.look_around(&mut snapshots);
        task.step().await;
        tokio::select! {
            () = cancelled.cancelled() => return,
            // Each of these is cancel-safe.
            Some(question) = questions.recv() => {
                // It may have come right after what tells who asks.
                task.look_around(&mut snapshots);
                task.answer(question).await;
            }
            Some(done) = task.work.join_next() => match done {
                Ok(done) => task.take(done).await,
                // It panicked, as when no thread can be started. Whoever runs this anew starts from what is kept.
                Err(_) => return,
            },
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

impl<A: Api> Task<A> {
    /// Takes in what is known now.
    fn look_around(&mut self, snapshots: &mut watch::Receiver<Arc<Snapshot>>) {
        self.snapshot = Arc::clone(&snapshots.borrow_and_update());
        self.standing = Arc::clone(&self.channels.standing.borrow());
    }

    fn now(&self) -> Stamp {
        Stamp::now(&self.channels.boot)
    }

    /// This instance.
    fn me(&self) -> Option<String> {
        self.snapshot.about.owner.instance.clone()
    }

    fn share(&self) {
        self.channels.records.send_replace(Arc::new(self.kept.records.clone()));
    }

    fn facts(&self) -> Facts<'_> {
        let snapshot = &self.snapshot;
        Facts {
            instance: snapshot.about.owner.instance.as_deref(),
            group: self.standing.place.group.as_deref(),
            zone: self.standing.place.zone.as_deref(),
            lifecycle: snapshot.lifecycle.target.map(|target| match target {
                Target::InService => "InService",
                _ => "leaving",
            }),
            has_keys: self.standing.keys.is_some(),
            draining: snapshot.is_draining(),
            on_hold: snapshot.latches.get(Kind::Hold).is_some(),
            gate_closed: snapshot.gate_closed || snapshot.authority.as_deref().is_some_and(Said::forbids_replacement),
            components: &snapshot.components,
            votes: &snapshot.group,
            memory: &self.kept.memory,
            records: &self.kept.records,
            look: self.looked.as_ref(),
        }
    }

    /// Plans, and begins what is planned.
    async fn step(&mut self) {
        self.belong().await;
        let now = self.now();
        let components = self.snapshot.components.iter().map(|(component, _)| component);
        if self.kept.memory.observe(components, &self.channels.boot) {
            self.keep().await;
        }
        self.follow_repair().await;
        let policy = &self.snapshot.config.replace;
        let plan = plan::plan(&self.facts(), policy, &now);
        let fault = plan::fault(&self.facts(), policy, &now);
        self.tell(plan.clone(), fault.as_ref(), &now).await;
        self.count(&plan, fault.as_ref()).await;
        self.learn(&now);
        if !self.busy && !matches!(plan, Plan::Ask { .. } | Plan::Go | Plan::Marked) {
            // A majority that is not used goes back at once.
            self.give_up().await;
        }
        let look_is_old = self.looked.as_ref().is_none_or(|looked| now.time.since(looked.began) >= LOOK_EVERY);
        match (plan, fault) {
            (Plan::Repair(verb, attempt), _) if self.repair.is_none() => self.ask_for_repair(verb, attempt).await,
            (Plan::Look, _) if !self.busy => self.look(),
            (Plan::Marked, _) if !self.busy && look_is_old => self.look(),
            (Plan::Ask { electorate, voters }, Some(fault)) if !self.busy => {
                self.ask(electorate, voters, &fault).await;
            }
            (Plan::Go, _) if !self.busy => self.go(&now).await,
            _ => {}
        }
    }

    /// What was remembered for another instance, by a copied image, counts for nothing here.
    async fn belong(&mut self) {
        let owner = &self.snapshot.about.owner;
        let known = &mut self.kept.memory.owner;
        if known.agrees(owner) {
            known.learn(owner);
            return;
        }
        self.kept = Kept::new(owner, self.now());
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

    async fn tell(&mut self, plan: Plan, fault: Option<&Fault>, now: &Stamp) {
        let enforce = self.snapshot.config.replace.enforce;
        let status = Outlook {
            round: self.round_words.clone(),
            repair: self.repair_words.clone(),
            ..Outlook::new(plan, fault, &self.kept.memory, enforce, now)
        };
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
}
