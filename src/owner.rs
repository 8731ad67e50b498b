//! PUBLISH: the owner task. It alone holds the health state, takes one input at a time, and publishes an immutable
//! snapshot on a watch channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::answer;
use crate::authority::said::Said;
use crate::certificates::Certificate;
use crate::clock::{self, BootTime};
use crate::config::Config;
use crate::group::peers::Peers;
use crate::health::cause::{Cause, Status};
use crate::health::component::{ComponentState, Transition};
use crate::health::verdict::{self, Doors, Inputs, InstanceVerdict, RegionVerdict};
use crate::identity::lifecycle::Lifecycle;
use crate::input::{Input, Pace};
use crate::latches::{Kind, Latches};
use crate::observation::{Finding, Outcome};
use crate::probes::Spec;
use crate::replace;
use crate::snapshot::{About, HistoryEntry, Snapshot};
use crate::state::{self, State};
use crate::telemetry::event;

/// The owner judges and publishes at least this often, so that holds come due, statuses go stale and a snapshot older
/// than [`STALE_AFTER`](crate::snapshot::STALE_AFTER) means a stuck owner.
const TICK: Duration = Duration::from_secs(1);

/// The same while everything is well: then nothing is due, and an idle machine is woken less often.
const CALM_TICK: Duration = Duration::from_secs(4);

/// Transitions kept for `history`.
const HISTORY: usize = 2_000;

/// Characters of a finding kept in the history: it is rewritten as a whole and held in memory.
const HISTORY_DETAIL: usize = 200;

/// The owner of the health state.
#[derive(Debug)]
pub struct Owner {
    about: Arc<About>,
    config: Arc<Config>,
    components: Vec<ComponentState>,
    doors: Doors,
    peers: Peers,
    latches: Latches,
    lifecycle: Lifecycle,
    gate_closed: bool,
    /// By the newest decision, or the last word of an earlier life of the agent.
    promoted: bool,
    generation: u64,
    transitions: Arc<BTreeMap<(String, Status), u64>>,
    history: Arc<Vec<HistoryEntry>>,
    state: Arc<State>,
    certificates: Arc<Vec<Certificate>>,
    replacement: Arc<replace::outlook::Outlook>,
    authority: Option<Arc<Said>>,
    last: Option<(&'static str, &'static str)>,
}

impl Owner {
    /// Starts from what was persisted: `state` if there is one of this instance, `resumed` from the markers of the
    /// same boot, and the history.
    #[must_use]
    pub fn new(
        about: About,
        config: Arc<Config>,
        state: State,
        memory: verdict::Memory,
        latches: Latches,
        gate_closed: bool,
        history: Vec<HistoryEntry>,
        now: BootTime,
    ) -> Self {
        let same_boot = state.boot == about.boot;
        let promoted = memory.promoted;
        let mut owner = Self {
            about: Arc::new(about),
            config: Arc::clone(&config),
            components: Vec::new(),
            doors: Doors::new(memory, now),
            peers: Peers::default(),
            latches,
            lifecycle: if same_boot { state.lifecycle.clone() } else { Lifecycle::default() },
            gate_closed,
            promoted,
            generation: 0,
            transitions: Arc::default(),
            history: Arc::new(history),
            state: Arc::new(state),
            certificates: Arc::default(),
            replacement: Arc::default(),
            authority: None,
            last: None,
        };
        owner.reconfigure(config, now);
        owner
    }

    /// Runs until every sender of inputs is gone. Publishes after every input and every tick.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>, snapshots: watch::Sender<Arc<Snapshot>>) {
        let mut tick = TICK;
        loop {
            // Cancel-safe: a message that was not returned is still in the channel.
            match timeout(tick, inputs.recv()).await {
                Ok(Some(input)) => self.take(input, BootTime::now()),
                Ok(None) => return,
                Err(_) => {}
            }
            let snapshot = self.publish(BootTime::now(), clock::wall());
            tick = if snapshot.is_calm() { CALM_TICK } else { TICK };
            snapshots.send_replace(Arc::new(snapshot));
        }
    }

    /// Takes one input.
    pub fn take(&mut self, input: Input, now: BootTime) {
        match input {
            Input::Observed(mut observation, reply) => {
                if let Some((drill, why)) = self.latches.drill()
                    && observation.component.name() == drill.component
                {
                    observation.outcome = Outcome::Fail(Finding::new(Cause::Drill, why));
                }
                let found = self.components.iter_mut().find(|c| c.component == observation.component);
                let Some(component) = found else { return };
                let transition = component.apply(observation);
                let pace = if component.is_settled() { Pace::Normal } else { Pace::Fast };
                // A probe that was cancelled meanwhile does not wait for its reply: nothing to do then.
                let _ = reply.send(pace);
                self.record(transition);
            }
            Input::Latches(latches) => {
                event::latches_changed(&self.latches, &latches);
                self.latches = latches;
            }
            Input::Lifecycle(lifecycle) => {
                event::lifecycle_changed(&lifecycle);
                self.lifecycle = lifecycle;
            }
            Input::Round(round) => {
                let owner = &self.about.owner;
                self.peers.hear(round, &self.components, &self.config.deployment, owner.region.as_deref());
            }
            Input::Certificates(certificates) => self.certificates = Arc::new(certificates),
            Input::Replacement(status) => self.replacement = status,
            Input::Authority(said) => self.hear_authority(said),
            Input::Gate { closed } => {
                if closed != self.gate_closed {
                    event::gate_changed(closed);
                }
                self.gate_closed = closed;
            }
            Input::Reconfigured(config, about) => {
                if self.state.owner != state::Owner::default() && !about.owner.agrees(&self.state.owner) {
                    self.forget(&about.owner, now);
                }
                self.about = Arc::new(about);
                self.reconfigure(config, now);
            }
        }
    }

    /// Judges and makes the next snapshot.
    pub fn publish(&mut self, now: BootTime, wall: Timestamp) -> Snapshot {
        let start_limit = self.config.policy.start_limit;
        let ticked: Vec<_> = self.components.iter_mut().filter_map(|c| c.tick(now, start_limit)).collect();
        for transition in ticked {
            self.record(Some(transition));
        }
        let owner = &self.about.owner;
        let mut group = self.peers.group(&self.components, &self.config.deployment, owner.region.as_deref(), now);
        let drill = self.latches.drill().filter(|(drill, _)| drill.shared);
        let drilled =
            self.components.iter().find(|c| drill.is_some_and(|(drill, _)| c.component.name() == drill.component));
        if let Some(drilled) = drilled {
            group.takes_as_shared(&drilled.component);
        }
        let authority = self.authority.as_deref();
        let mut policy = self.config.policy.clone();
        policy.standby = authority.map_or(policy.standby, Said::is_standby);
        let inputs = Inputs {
            components: &self.components,
            group: &group,
            policy: &policy,
            undecided: authority.is_some_and(Said::is_undecided),
            draining: self.latches.get(Kind::Drain).is_some() || self.lifecycle.drain().is_some(),
            gate_closed: self.gate_closed,
            now,
        };
        let (instance, mut region) = self.doors.judge(&inputs);
        if let Some(state) =
            authority.and_then(|said| said.region(group.region_closed)).filter(|_| region.state.is_ok())
        {
            region.state = state;
        }
        let components = self.components.iter().map(|c| (c.clone(), verdict::domain(c, &inputs))).collect::<Vec<_>>();
        self.record_verdicts(&instance, &region, wall);
        self.remember();
        self.generation += 1;
        let mut snapshot = Snapshot {
            generation: self.generation,
            taken: now,
            about: Arc::clone(&self.about),
            config: Arc::clone(&self.config),
            components,
            instance,
            instance_resumed: self.doors.resumed(),
            region,
            region_closed: self.doors.region_closed(),
            gate_closed: self.gate_closed,
            promoted: self.promoted,
            group,
            round: self.peers.round().cloned(),
            latches: self.latches.clone(),
            lifecycle: self.lifecycle.clone(),
            replacement: Arc::clone(&self.replacement),
            transitions: Arc::clone(&self.transitions),
            history: Arc::clone(&self.history),
            state: Arc::clone(&self.state),
            certificates: Arc::clone(&self.certificates),
            answers: Default::default(),
            proof: self.authority.as_ref().map(|said| answer::proven(&said.proof)),
            authority: self.authority.clone(),
        };
        snapshot.answers = answer::render_all(&snapshot);
        snapshot
    }

    /// Components that probe the same target at the same pace keep what is known of them.
    fn reconfigure(&mut self, config: Arc<Config>, now: BootTime) {
        let mut old = std::mem::take(&mut self.components);
        for spec in Spec::all(&config) {
            let (component, target, schedule) = (spec.component(), spec.target(), spec.schedule());
            let kept = old.iter().position(|c| c.component == component && c.target == target);
            self.components.push(if let Some(index) = kept {
                let mut component = old.swap_remove(index);
                component.schedule = schedule;
                component
            } else {
                let ever_healthy = self.state.ever_healthy.get(component.name()) == Some(&target);
                ComponentState::new(component, target, schedule, ever_healthy, now)
            });
        }
        self.config = config;
        let Config { authority, database, region, .. } = &*self.config;
        if self.authority.is_some() && (authority.is_none() || database.is_none() || region.is_none()) {
            // Nobody decides any more; what is known of epochs is kept.
            self.remember();
            (self.authority, self.promoted) = (None, false);
        }
        // Its region may not be known yet.
        self.promoted &= self.config.authority.is_some() && self.config.database.is_some();
    }

    /// The state that was loaded while nobody knew better is another machine's (a copied image): what it said of
    /// health and verdicts counts no more. What was seen since the start does.
    fn forget(&mut self, owner: &state::Owner, now: BootTime) {
        event::state_forgotten(&self.state.owner, owner);
        for component in &mut self.components {
            component.ever_healthy = component.last_ok.is_some();
        }
        self.doors = Doors::new(verdict::Memory { same_boot: true, ..verdict::Memory::default() }, now);
        self.state = Arc::default();
        self.history = Arc::default();
        self.authority = None;
        self.promoted = false;
    }

    fn hear_authority(&mut self, said: Arc<Said>) {
        if self.config.authority.is_none() || self.config.region.as_ref() != Some(&said.place.region) {
            // Decided by the configuration before this one.
            return;
        }
        let state = |said: &Said| said.decision.state.name();
        let before = self.authority.as_deref().map_or("none", state);
        if before != state(&said) {
            let why: Vec<_> = said.decision.why.iter().map(ToString::to_string).collect();
            let detail = why.join("; ").chars().take(HISTORY_DETAIL).collect();
            self.remember_transition(HistoryEntry {
                detail,
                ..verdict_entry(clock::wall(), "authority", before, state(&said))
            });
        }
        let known = self.authority.as_deref().map_or(&self.state.ledger, |said| &said.ledger);
        if let Some(failover) = said.ledger.ended_since(known) {
            event::failover_ended(failover);
            let entry = HistoryEntry {
                detail: format!("{}; {}", failover.headline(), failover.loss()).chars().take(HISTORY_DETAIL).collect(),
                ..verdict_entry(clock::wall(), "failover", &failover.from.to_string(), &failover.to.to_string())
            };
            self.remember_transition(entry);
        }
        self.promoted = said.decision.promoted;
        self.authority = Some(said);
    }

    fn record(&mut self, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        event::component_changed(&transition);
        if transition.from != transition.to {
            let counters = Arc::make_mut(&mut self.transitions);
            *counters.entry((transition.component.to_string(), transition.to)).or_default() += 1;
        }
        self.remember_transition(HistoryEntry {
            at: clock::wall(),
            what: transition.component.to_string(),
            from: transition.from.to_string(),
            to: transition.to.to_string(),
            cause: transition.finding.as_ref().map(|f| f.cause.to_string()),
            detail: transition.finding.map(|f| f.detail.chars().take(HISTORY_DETAIL).collect()).unwrap_or_default(),
        });
    }

    fn record_verdicts(&mut self, instance: &InstanceVerdict, region: &RegionVerdict, at: Timestamp) {
        let present = (instance.state.name(), region.state.name());
        let before = self.last.replace(present);
        let (instance_before, region_before) = before.unwrap_or(("none", "none"));
        if instance_before != present.0 {
            event::instance_changed(instance_before, instance);
            self.remember_transition(verdict_entry(at, "instance", instance_before, present.0));
        }
        if region_before != present.1 {
            event::region_changed(region_before, region);
            self.remember_transition(verdict_entry(at, "region", region_before, present.1));
        }
    }

    fn remember_transition(&mut self, entry: HistoryEntry) {
        let history = Arc::make_mut(&mut self.history);
        if history.len() >= HISTORY {
            // A tenth at once, so that a full ring is not moved for every entry.
            history.drain(..history.len() - HISTORY * 9 / 10);
        }
        history.push(entry);
    }

    /// Brings what the state file should say up to date; the same `Arc` as long as nothing changed.
    fn remember(&mut self) {
        // What is not watched at the moment is remembered too: it may come back with the next configuration.
        let mut healthy = self.state.ever_healthy.clone();
        let seen = self.components.iter().filter(|c| c.ever_healthy);
        healthy.extend(seen.map(|c| (c.component.name().to_owned(), c.target.clone())));
        let state = State {
            version: self.state.version,
            // What is not known now stays as it was, or a copied image would go unnoticed when it is known again.
            owner: state::Owner {
                deployment: self.about.owner.deployment.clone().or_else(|| self.state.owner.deployment.clone()),
                instance: self.about.owner.instance.clone().or_else(|| self.state.owner.instance.clone()),
                region: self.about.owner.region.clone().or_else(|| self.state.owner.region.clone()),
            },
            boot: self.about.boot.clone(),
            ever_healthy: healthy,
            region_closed: self.doors.region_closed(),
            holds: self.doors.holds().clone(),
            lifecycle: self.lifecycle.clone(),
            authority: self
                .authority
                .as_ref()
                .map(|said| said.memory().clone())
                .or_else(|| self.state.authority.clone()),
            ledger: Arc::clone(self.authority.as_deref().map_or(&self.state.ledger, |said| &said.ledger)),
        };
        if state != *self.state {
            self.state = Arc::new(state);
        }
    }
}

fn verdict_entry(at: Timestamp, what: &str, from: &str, to: &str) -> HistoryEntry {
    HistoryEntry {
        at,
        what: what.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        cause: None,
        detail: String::new(),
    }
}
