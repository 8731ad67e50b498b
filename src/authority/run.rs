//! The task: round after round it asks every source side by side, decides, and carries out what was decided, what closes
//! first. Nothing here decides; [`super::decide`] does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, decide};
use super::facts::{Applied, Facts};
use super::lag::Lag;
use super::ledger::{Ledger, Look};
use super::memory::Memory;
use super::notice::Notice;
use super::outputs::{Gate, Step, Target, steps};
use super::readiness::Readiness;
use super::said::Said;
use super::{State, operator};
use crate::aws::Aws;
use crate::clock::{self, BootTime};
use crate::group::run::Standing;
use crate::input::Input;
use crate::repoint;
use crate::repoint::run::Progress;
use crate::snapshot::Snapshot;
use crate::telemetry::event;

mod gather;
mod once;
mod order;
mod setup;
mod write;

use gather::Sources;
pub use once::{Stands, once};
pub use order::{Answer, No, Order, Question, summary};
use setup::Setup;
use write::Written;

/// Between two rounds that follow each other at once.
const AT_ONCE: Duration = Duration::from_millis(250);

/// The same while this region's replica cannot be read: it may be being promoted; and while nobody may claim it.
const WATCH: Duration = Duration::from_secs(1);

/// The heartbeat row is written this often.
const BEAT: Duration = Duration::from_secs(1);

/// What reading the group's tags may take, and writing each of them. Nothing that opens waits for what is written.
const TAGS: Duration = Duration::from_secs(2);

/// What the task is given.
#[derive(Debug, Clone)]
pub struct Channels {
    pub aws: Aws,
    pub boot: String,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub standing: watch::Receiver<Arc<Standing>>,
    pub progress: watch::Receiver<Arc<Progress>>,
    pub wanted: watch::Sender<Option<repoint::plan::Wanted>>,
    pub inputs: mpsc::Sender<Input>,
    pub questions: Arc<tokio::sync::Mutex<mpsc::Receiver<Question>>>,
}

/// Runs until cancelled. Without two regions and a database it does nothing.
pub async fn run(channels: Channels, cancelled: CancellationToken) {
    let questions = Arc::clone(&channels.questions);
    let mut questions = questions.lock().await;
    let work = async {
        loop {
            let snapshot = Arc::clone(&channels.snapshots.borrow());
            match Setup::of(&snapshot.config) {
                Some(setup) => Box::pin(Task::new(channels.clone(), setup, &snapshot).turn(&mut questions)).await,
                None => idle(&channels, &mut questions).await,
            }
        }
    };
    tokio::select! {
        () = cancelled.cancelled() => {}
        () = work => {}
    }
}

/// Until there is another configuration.
async fn idle(channels: &Channels, questions: &mut mpsc::Receiver<Question>) {
    let mut snapshots = channels.snapshots.clone();
    let config = Arc::clone(&snapshots.borrow_and_update().config);
    // Outputs that nobody decides about stay as they are, and nothing waits for a decision.
    let unchanged = repoint::plan::Wanted {
        writer: repoint::decision::Target::Unchanged,
        reader: repoint::decision::Target::Unchanged,
        epoch: 0,
        state: State::Uninitialised.name().to_owned(),
        only_new: false,
    };
    channels.wanted.send_replace(Some(unchanged));
    loop {
        tokio::select! {
            Some(question) = questions.recv() => question.refuse("no [authority] is configured"),
            is_open = changes(&mut snapshots, |snapshot| !Arc::ptr_eq(&snapshot.config, &config)) => {
                if !is_open {
                    std::future::pending::<()>().await;
                }
                return;
            }
        }
    }
}

/// Waits until a snapshot is so, and holds none afterwards; false when none will come any more.
async fn changes(snapshots: &mut watch::Receiver<Arc<Snapshot>>, is_so: impl FnMut(&Arc<Snapshot>) -> bool) -> bool {
    snapshots.wait_for(is_so).await.is_ok()
}

struct Task {
    channels: Channels,
    setup: Setup,
    sources: Sources,
    facts: Facts,
    memory: Memory,
    /// What was decided last.
    decision: Option<Decision>,
    said: Option<Arc<Said>>,
    problems: BTreeSet<String>,
    /// The replication lag as it was measured last.
    lag: Option<Lag>,
    ledger: Arc<Ledger>,
    /// When three connections have proven the database writable since the last look.
    proven: Option<Timestamp>,
    /// How far a planned close has come.
    close: Option<operator::Progress>,
    /// A question for the tags that an earlier round did not wait for.
    late_tags: Option<gather::TagQuestion>,
    /// Tags that are being written.
    tagging: JoinSet<Written>,
    /// Not before then.
    tag_next: BootTime,
    began: BootTime,
}

impl Task {
    fn new(channels: Channels, setup: Setup, snapshot: &Snapshot) -> Self {
        let now = BootTime::now();
        let sources = Sources::of(&setup);
        Self {
            facts: sources.facts(&setup, now),
            sources,
            memory: Memory::resume(snapshot.state.authority.clone(), &channels.boot, now),
            decision: None,
            said: None,
            problems: BTreeSet::new(),
            lag: None,
            ledger: Arc::clone(&snapshot.state.ledger),
            proven: None,
            close: None,
            late_tags: None,
            tagging: JoinSet::new(),
            tag_next: now,
            began: now,
            setup,
            channels,
        }
    }

    /// Until there is another configuration.
    async fn turn(mut self, questions: &mut mpsc::Receiver<Question>) {
        let mut progress = self.channels.progress.clone();
        let mut snapshots = self.channels.snapshots.clone();
        // What was persisted is said until the first decision.
        self.decide().await;
        loop {
            let began = Instant::now();
            // On the heap: tasks that wait most of their life should be small.
            Box::pin(self.round()).await;
            self.decide().await;
            self.carry_out(true).await;
            let next = began + self.pause();
            let mut beat = Instant::now();
            loop {
                let beats = self.decision.as_ref().is_some_and(|decision| decision.beats);
                tokio::select! {
                    () = sleep_until(next) => break,
                    () = sleep_until(beat), if beats => {
                        beat = Instant::now() + BEAT;
                        self.beat().await;
                    }
                    Some(question) = questions.recv() => {
                        Box::pin(self.answer(question)).await;
                        break;
                    }
                    Ok(()) = progress.changed() => {
                        progress.borrow_and_update();
                        self.decide().await;
                        self.carry_out(false).await;
                    }
                    true = changes(&mut snapshots, |snapshot| self.is_news(snapshot)) => {
                        if Setup::of(&self.channels.snapshots.borrow().config).as_ref() != Some(&self.setup) {
                            return;
                        }
                        self.decide().await;
                        self.carry_out(false).await;
                    }
                }
            }
        }
    }

    /// From the start of this round to that of the next.
    fn pause(&self) -> Duration {
        let poll = self.setup.authority.poll;
        match &self.decision {
            Some(decision) if decision.hurries => AT_ONCE,
            // A promotion is on its way, or may be.
            Some(decision) if matches!(decision.state, State::Unclaimed | State::Ambiguous) => WATCH.min(poll),
            Some(decision) if decision.state == State::Standby && self.facts.own.fresh().is_none() => WATCH.min(poll),
            _ => poll,
        }
    }

    /// The gate was seen to be as it was to be, or the configuration is another one.
    fn is_news(&self, snapshot: &Snapshot) -> bool {
        snapshot.gate_closed != self.facts.applied.gate_closed
            || Setup::of(&snapshot.config).as_ref() != Some(&self.setup)
    }

    /// Takes in what stands now, decides, and says so.
    async fn decide(&mut self) {
        let snapshot = Arc::clone(&self.channels.snapshots.borrow());
        let progress = Arc::clone(&self.channels.progress.borrow());
        self.hear_tagged();
        self.facts.now = BootTime::now();
        self.facts.group = self.group(&snapshot);
        self.facts.applied = Applied { gate_closed: snapshot.gate_closed, ..gather::applied(&self.setup, &progress) };
        let decision = decide(&self.facts, &self.memory);
        let lag = Lag::of(&self.facts, &decision.memory);
        self.write_down(&decision, &progress, lag.as_ref());
        let instance = snapshot.about.owner.instance.as_deref().unwrap_or_default();
        self.close = Some(operator::Progress::of(&self.facts, &decision, instance, self.close.as_ref()));
        if self.memory.state != decision.state || self.decision.is_none() {
            let notice = Notice::of(&decision, &self.ledger);
            event::authority_changed(self.memory.state, &decision, notice.as_ref());
        }
        self.memory = decision.memory.clone();
        let gate = self.gate(&decision, &progress);
        let ready = Readiness::of(&snapshot).map(|readiness| readiness.ready);
        let mut said = Said::of(decision.clone(), &self.facts, Arc::clone(&self.ledger), progress);
        said.gate = gate;
        said.problems = self.problems.iter().cloned().collect();
        (said.proof.ready, said.proof.config) = (ready, snapshot.config.digest.clone());
        let said = Arc::new(said);
        self.decision = Some(decision);
        if self.said.as_ref() != Some(&said) {
            self.said = Some(Arc::clone(&said));
            // The owner is gone only when the agent is ending.
            drop(self.channels.inputs.send(Input::Authority(said)).await);
        }
    }

    /// For people: what was decided does not depend on it.
    fn write_down(&mut self, decision: &Decision, progress: &Progress, lag: Option<&Lag>) {
        if lag.is_some() {
            self.lag = lag.cloned();
        }
        let proven = self.proven.take();
        let has_all = self.close.as_ref().is_some_and(|close| close.has_all);
        let (facts, lag, at) = (&self.facts, self.lag.as_ref(), clock::wall());
        let after = self.ledger.after(&Look { facts, decision, progress, lag, has_all, proven, at });
        if *self.ledger != after {
            self.ledger = Arc::new(after);
        }
    }

    /// What stands in the way of the gate comes first: it opens when nothing else is left to do.
    fn gate(&self, decision: &Decision, progress: &Progress) -> Gate {
        if decision.gate != Gate::Open {
            return decision.gate;
        }
        let left = self.steps(decision);
        let is_next = left.iter().all(|step| matches!(step, Step::Record(_) | Step::OpenGate | Step::OpenRegion));
        let is_reached = !self.setup.has_outputs || progress.is_reached || matches!(decision.writer, Target::Nobody);
        if is_next && is_reached { Gate::Open } else { Gate::Keep }
    }

    /// What is left to do. Without an output there is no writer to stop or to change.
    fn steps(&self, decision: &Decision) -> Vec<Step> {
        let mut left = steps(decision, &self.facts.applied);
        if !self.setup.has_outputs {
            left.retain(|step| !matches!(step, Step::StopWriter | Step::Repoint(_)));
        }
        left
    }

    /// A claim is made only by what a round has just shown.
    async fn carry_out(&mut self, may_claim: bool) {
        let Some(decision) = self.decision.clone() else { return };
        let mut writer = match &decision.writer {
            Target::Keep => repoint::decision::Target::Unchanged,
            Target::Nobody => repoint::decision::Target::None,
            Target::Region(region) => repoint::decision::Target::Region(region.clone()),
        };
        let left = self.steps(&decision);
        // The first row takes nothing from anybody, as long as it is the highest: an app whose outputs nobody can read yet
        // keeps its writer until it gets the one that it should have.
        let known = decision.memory.known_epoch();
        let takes_nothing = decision.memory.own.as_ref().is_some_and(|own| own.is_first && own.epoch() == known)
            && matches!(decision.state, State::Owner | State::Standby)
            && matches!(writer, repoint::decision::Target::Region(_));
        // What is open to somebody else is closed before anything opens.
        if left.contains(&Step::StopWriter) && !takes_nothing && !self.is_asked_again(&decision, &writer) {
            writer = repoint::decision::Target::None;
        } else if left.iter().any(|step| matches!(step, Step::Claim(_)))
            && matches!(writer, repoint::decision::Target::Region(_))
        {
            writer = repoint::decision::Target::Unchanged;
        }
        self.want(&decision, writer);
        for step in left {
            match step {
                Step::Record(records) => self.record(&records).await,
                Step::Claim(row) if may_claim => self.claim(&row).await,
                _ => {}
            }
        }
        if let Some(server) = &decision.enrol
            && let Some(other) = &mut self.sources.other
        {
            let result = other.enrol(server, &self.setup.place.region).await;
            self.note("enrol", result.err().map(|error| error.to_string()));
        }
        if let Some(until) = decision.release {
            let result = self.sources.own.release(&self.setup.place.region, until).await;
            self.note("release", result.err().map(|error| error.to_string()));
        }
    }

    /// What the outputs say is not known since the machine started, and what is wanted now is what was decided last: asked
    /// for once more it changes nothing where it was carried out, and its result tells.
    fn is_asked_again(&self, decision: &Decision, writer: &repoint::decision::Target) -> bool {
        let progress = self.channels.progress.borrow();
        let current = progress.plan.current.as_ref().filter(|_| progress.plan.present.is_none());
        current.is_some_and(|current| {
            let last = &current.decision;
            current.old.is_none()
                && last.writer == *writer
                && last.epoch == decision.memory.known_epoch()
                && last.state == decision.state.name()
        })
    }

    fn want(&self, decision: &Decision, writer: repoint::decision::Target) {
        let reader = match &decision.reader {
            Target::Keep => repoint::decision::Target::Unchanged,
            Target::Nobody => repoint::decision::Target::None,
            Target::Region(region) => repoint::decision::Target::Region(region.clone()),
        };
        // Until the first decision of a boot nothing is wanted, and the boot gate waits; where there are no outputs to wait
        // for, until the fence stands.
        let is_first = decision.state == State::Boot;
        let fences = decision.gate == Gate::Closed && !self.facts.applied.gate_closed;
        let wanted = (!is_first && (self.setup.has_outputs || !fences)).then(|| repoint::plan::Wanted {
            writer,
            reader,
            epoch: decision.memory.known_epoch(),
            state: decision.state.name().to_owned(),
            only_new: decision.state == State::Uninitialised,
        });
        self.channels.wanted.send_if_modified(|old| {
            let is_news = *old != wanted;
            if is_news {
                *old = wanted;
            }
            is_news
        });
    }
}
