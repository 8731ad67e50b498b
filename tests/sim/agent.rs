//! One agent: the decision code of the product around which the product has tasks, channels and a disk, and this file
//! has plain calls. What each line stands for is named beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use dr_agent::clock::{BootTime, Stamp};
use dr_agent::config::Config;
use dr_agent::group::ask::Heard;
use dr_agent::group::peers::Peers;
use dr_agent::group::view::Round;
use dr_agent::group::word::{Place, Word};
use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::component::ComponentState;
use dr_agent::health::verdict::{self, Doors, Inputs, InstanceState, Memory};
use dr_agent::identity::lifecycle::Lifecycle;
use dr_agent::latches::Latches;
use dr_agent::observation::{Component, EfsFacts, Facts, Finding, Observation, Outcome};
use dr_agent::outputs::markers::{self, Markers};
use dr_agent::resume;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use jiff::Timestamp;

use super::replacer::Replacer;
use super::site::{DEPLOYMENT, GROUP, REGION, schedule};
use super::world::{Index, Ms, SITE};

/// A dependency that was not healthy within this time masks.
const MASK_WINDOW: Duration = Duration::from_secs(60);

/// The wall clock when a history begins, in milliseconds.
const WALL: i64 = 1_800_000_000_000;

/// What was due so long ago has been acted on.
const NOTICED: Duration = Duration::from_secs(10);

/// What outlives the process.
#[derive(Debug, Default)]
pub struct Disk {
    pub state: State,
    pub markers: Markers,
    /// Everything was lost, the marker files too.
    pub is_empty: bool,
    pub replacer: Option<Replacer>,
}

/// The probe of one component: what its newest attempt found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slot {
    pub began: Ms,
    pub took: Ms,
    pub cause: Option<Cause>,
    /// Since when attempts have found just that.
    pub found_since: Ms,
    pub is_observed: bool,
    /// When the first attempt of the present run of failures began.
    pub failing_since: Option<Ms>,
}

/// A round of questions that is under way.
#[derive(Debug)]
pub struct Pending {
    pub number: u64,
    pub sent: Ms,
    pub heard: BTreeMap<Index, Heard>,
}

#[derive(Debug)]
pub struct Agent {
    pub index: Index,
    pub zone: u8,
    /// Boot clock minus the world's clock.
    boot_offset: i64,
    /// The machine's wall clock minus the world's clock, in milliseconds.
    pub wall_offset: i64,
    boot: String,
    config: Arc<Config>,
    place: Place,
    pub components: Vec<ComponentState>,
    doors: Doors,
    peers: Peers,
    state: Arc<State>,
    pub snapshot: Snapshot,
    /// Observed since the snapshot was taken.
    dirty: bool,
    pub slots: [Slot; SITE.len()],
    pub pending: Option<Pending>,
    pub up_since: Ms,
    /// Whom it asks.
    pub members: BTreeSet<Index>,
    /// When it asks AWS who they are.
    pub refresh: Ms,
    pub in_incident: bool,
    pub replacer: Replacer,
}

/// How far an instance's clocks are from the world's.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    pub boot_offset: i64,
    pub wall_offset: i64,
}

pub fn name(index: Index) -> String {
    format!("i-{index:04}")
}

impl Agent {
    /// The process starts: `run` reads the disk and makes the owner.
    pub fn start(index: Index, zone: u8, clocks: Clocks, config: &Arc<Config>, disk: Disk, at: Ms) -> Self {
        let Clocks { boot_offset, wall_offset } = clocks;
        let owner = state::Owner {
            deployment: Some(DEPLOYMENT.to_owned()),
            instance: Some(name(index)),
            region: Some(REGION.to_owned()),
        };
        let boot = format!("boot-{index}");
        let about = Arc::new(About { owner, boot: boot.clone(), config_problems: Vec::new() });
        let now = clock(boot_offset, at);
        let saved_in = (!disk.state.boot.is_empty()).then_some(disk.state.boot.as_str());
        let memory =
            if disk.is_empty { Memory::default() } else { resume::memory(&disk.state, saved_in, disk.markers, &boot) };
        let components = SITE
            .iter()
            .map(|component| {
                let ever = disk.state.ever_healthy.contains_key(component.name());
                ComponentState::new(component.clone(), component.name().to_owned(), schedule(component), ever, now)
            })
            .collect();
        let zone_name = format!("zone-{zone}");
        let stamp = stamp(boot_offset, wall_offset, &boot, at);
        let replacer = disk.replacer.map_or_else(|| Replacer::new(about.owner.clone(), stamp), Replacer::resumed);
        let doors = Doors::new(memory, now);
        let snapshot = first_snapshot(&about, config, now);
        let mut agent = Self {
            index,
            zone,
            boot_offset,
            wall_offset,
            boot: boot.clone(),
            config: Arc::clone(config),
            place: Place { group: Some(GROUP.to_owned()), zone: Some(zone_name) },
            components,
            doors,
            peers: Peers::default(),
            state: Arc::new(State { boot, ..disk.state }),
            snapshot,
            dirty: false,
            slots: [Slot::default(); SITE.len()],
            pending: None,
            up_since: at,
            members: BTreeSet::new(),
            refresh: at,
            in_incident: false,
            replacer,
        };
        agent.judge(at);
        agent
    }

    pub const fn clock(&self, at: Ms) -> BootTime {
        clock(self.boot_offset, at)
    }

    pub fn stamp(&self, at: Ms) -> Stamp {
        stamp(self.boot_offset, self.wall_offset, &self.boot, at)
    }

    /// `Input::Observed`. Whether it says something new.
    pub fn observe(&mut self, slot: usize, began: Ms, took: Ms, cause: Option<Cause>) -> bool {
        let outcome = cause.map_or(Outcome::Pass, |cause| Outcome::Fail(Finding::new(cause, "")));
        let observation = Observation {
            component: SITE[slot].clone(),
            began: self.clock(began),
            took: Duration::from_millis(took),
            outcome,
            stages: Vec::new(),
            facts: match cause {
                // A hang with an open port 2049, and one without.
                Some(Cause::EfsHung) => target(true),
                Some(Cause::EfsServerUnreachable) => target(false),
                _ => Facts::None,
            },
        };
        let component = &mut self.components[slot];
        let before = (component.status, component.newest_cause(), component.is_failing_now());
        component.apply(observation);
        let is_news = before != (component.status, component.newest_cause(), component.is_failing_now());
        self.dirty = true;
        let known = &mut self.slots[slot];
        if !known.is_observed || known.cause != cause {
            known.found_since = began;
        }
        (known.began, known.took, known.cause, known.is_observed) = (began, took, cause, true);
        match cause.map(|cause| cause.row().status) {
            None | Some(Status::Degraded) => known.failing_since = None,
            Some(Status::Unhealthy) => _ = known.failing_since.get_or_insert(began),
            _ => {}
        }
        is_news
    }

    /// `Input::Round`.
    pub fn hear(&mut self, pending: Pending, at: Ms) {
        let heard = pending.heard.into_values().collect();
        let round = Round { group: GROUP.to_owned(), at: self.clock(at), heard, desired: None };
        self.peers.hear(round, &self.components, DEPLOYMENT, Some(REGION));
    }

    /// `Owner::publish`, but that nothing is rendered.
    pub fn judge(&mut self, at: Ms) {
        let now = self.clock(at);
        for component in &mut self.components {
            component.tick(now, self.config.policy.start_limit);
        }
        let group = self.peers.group(&self.components, DEPLOYMENT, Some(REGION), now);
        let inputs = Inputs {
            components: &self.components,
            group: &group,
            policy: &self.config.policy,
            draining: false,
            undecided: false,
            gate_closed: false,
            now,
        };
        let (instance, region) = self.doors.judge(&inputs);
        let components = self.components.iter().map(|c| (c.clone(), verdict::domain(c, &inputs))).collect();
        let closed = self.doors.region_closed();
        let heals = |c: &&ComponentState| c.ever_healthy && !self.state.ever_healthy.contains_key(c.component.name());
        if self.components.iter().any(|c| heals(&c))
            || self.state.region_closed != closed
            || self.state.holds != *self.doors.holds()
        {
            let state = Arc::make_mut(&mut self.state);
            let seen = self.components.iter().filter(|c| c.ever_healthy);
            state.ever_healthy.extend(seen.map(|c| (c.component.name().to_owned(), c.target.clone())));
            (state.region_closed, state.holds) = (closed, self.doors.holds().clone());
        }
        let snapshot = &mut self.snapshot;
        snapshot.generation += 1;
        snapshot.taken = now;
        (snapshot.components, snapshot.instance, snapshot.region) = (components, instance, region);
        (snapshot.instance_resumed, snapshot.region_closed) = (self.doors.resumed(), closed);
        (snapshot.group, snapshot.state) = (group, Arc::clone(&self.state));
        self.replacer.memory.observe(self.snapshot.components.iter().map(|(component, _)| component), &self.boot);
        self.dirty = false;
    }

    /// `GET /peer`.
    pub fn word(&mut self, at: Ms) -> Word {
        if self.dirty {
            self.judge(at);
        }
        Word::of(&self.snapshot, &self.place, self.clock(at))
    }

    /// What the process leaves behind when it ends.
    pub fn leave(self) -> Disk {
        let state = State::clone(&self.state);
        Disk { state, markers: markers::wanted(&self.snapshot), is_empty: false, replacer: Some(self.replacer) }
    }

    /// `Snapshot::is_calm`: nothing here becomes due.
    pub fn is_calm(&self) -> bool {
        self.components.iter().all(|component| component.status == Status::Healthy)
            && self.snapshot.instance.state == InstanceState::Serving
            && self.snapshot.region.holds.is_empty()
            && self.snapshot.region.reopens.is_none()
    }

    pub fn is_failing_now(&self) -> bool {
        self.components.iter().any(ComponentState::is_failing_now)
    }

    /// When something becomes due here by time alone, or did a moment ago and may not have been acted on.
    pub fn next_due(&self) -> Option<Ms> {
        let region = &self.snapshot.region;
        let masks = self.components.iter().filter(|component| component.component.is_dependency());
        let unmasks = masks.map(|component| component.since + MASK_WINDOW);
        let dues = region.holds.iter().map(|hold| hold.due).chain(region.reopens).chain(unmasks);
        let taken = self.snapshot.taken;
        dues.filter(|due| taken.since(*due) < NOTICED).map(|due| self.world_time(due)).min()
    }

    pub fn world_time(&self, at: BootTime) -> Ms {
        let at = i64::try_from(at.elapsed().as_millis()).expect("within centuries");
        Ms::try_from(at - self.boot_offset).unwrap_or(0)
    }

    /// All that another part of the world can see of it, ages aside.
    pub fn signature(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for component in &self.components {
            (component.status, component.newest_cause(), component.is_failing_now()).hash(&mut hasher);
        }
        let snapshot = &self.snapshot;
        (snapshot.instance.state.name(), snapshot.instance.reasons.len(), snapshot.region_closed).hash(&mut hasher);
        (snapshot.region.holds.len(), snapshot.region.reopens.is_some(), snapshot.group.can_serve).hash(&mut hasher);
        (&snapshot.group.passing, &snapshot.group.failing, snapshot.group.region_closed).hash(&mut hasher);
        for (component, domain) in snapshot.group.domains.iter().flatten() {
            (component, *domain as u8).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// `span` passes in which everything goes on as it did: the same outcomes, the same answers.
    pub fn skip(&mut self, span: Ms, at: Ms) {
        for slot in 0..SITE.len() {
            let Slot { began, took, cause, is_observed, .. } = self.slots[slot];
            if is_observed {
                self.observe(slot, began + span, took, cause);
            }
        }
        if let Some(round) = self.peers.round() {
            let span = Duration::from_millis(span);
            let mut round = Round::clone(round);
            round.at = round.at + span;
            for heard in &mut round.heard {
                heard.sent = heard.sent + span;
            }
            self.peers.hear(round, &self.components, DEPLOYMENT, Some(REGION));
        }
        if let Some(pending) = &mut self.pending {
            pending.sent += span;
            for heard in pending.heard.values_mut() {
                heard.sent = heard.sent + Duration::from_millis(span);
            }
        }
        self.judge(at);
    }

    pub fn knows_working(&self, component: &Component) -> bool {
        self.components.iter().any(|c| c.component == *component && c.ever_healthy)
    }
}

fn target(accepts: bool) -> Facts {
    Facts::Efs(EfsFacts { target_accepts: Some(accepts), ..EfsFacts::default() })
}

fn stamp(boot_offset: i64, wall_offset: i64, boot: &str, at: Ms) -> Stamp {
    let wall = i64::try_from(at).expect("hours") + wall_offset;
    let wall = Timestamp::from_millisecond(WALL + wall).expect("within centuries");
    Stamp { boot: boot.to_owned(), time: clock(boot_offset, at), wall }
}

const fn clock(boot_offset: i64, at: Ms) -> BootTime {
    BootTime::from_boot(Duration::from_millis(at.saturating_add_signed(boot_offset)))
}

fn first_snapshot(about: &Arc<About>, config: &Arc<Config>, now: BootTime) -> Snapshot {
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
    Snapshot {
        generation: 0,
        taken: now,
        about: Arc::clone(about),
        config: Arc::clone(config),
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
        lifecycle: Lifecycle::default(),
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
