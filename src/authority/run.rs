//! The task: round after round it asks every source side by side, decides, and carries out what was decided, what closes
//! first. Nothing here decides; [`super::decide`] does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::claim::NewRow;
use super::decide::{Decision, Records, decide};
use super::facts::{Across, Applied, Asked, Facts, Group, Member, Place, Source, Tagged, Tags, Waits};
use super::memory::Memory;
use super::other::{Other, Said as Heard};
use super::outputs::{Gate, Step, Target, steps};
use super::said::Said;
use super::sql::{Claiming, Database, Swap};
use super::word::{Proof, Word};
use super::{Claim, State, facts, operator};
use crate::authority::database::{Attempt, Unread};
use crate::aws::Aws;
use crate::clock::BootTime;
use crate::config::{Authority, Config, HostPort, Region};
use crate::database::Endpoint;
use crate::group::run::Standing;
use crate::input::Input;
use crate::repoint;
use crate::repoint::run::Progress;
use crate::snapshot::Snapshot;
use crate::telemetry::event;

mod order;

pub use order::{Answer, No, Order, Question, summary};

/// Between two rounds that follow each other at once.
const AT_ONCE: Duration = Duration::from_millis(250);

/// The heartbeat row is written this often.
const BEAT: Duration = Duration::from_secs(1);

/// What the tags of the group may take. Nothing that opens waits for them.
const TAGS: Duration = Duration::from_secs(2);

/// An instance whose group nobody has named by then has none.
const ALONE_AFTER: Duration = Duration::from_secs(5);

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

/// Waits until a snapshot is so; false when none will come any more.
async fn changes(snapshots: &mut watch::Receiver<Arc<Snapshot>>, is_so: impl FnMut(&Arc<Snapshot>) -> bool) -> bool {
    snapshots.wait_for(is_so).await.is_ok()
}

/// What the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setup {
    authority: Authority,
    place: Place,
    deployment: String,
    own: Endpoint,
    other: Option<Endpoint>,
    url: Option<String>,
    has_outputs: bool,
}

impl Setup {
    fn of(config: &Config) -> Option<Self> {
        let authority = config.authority.clone()?;
        let region = config.region.clone()?;
        let other = authority.regions.iter().find(|name| **name != region)?.clone();
        let place = Place { region, other, home: config.home.clone()?, regions: authority.regions.clone() };
        let own = Endpoint::from(config.database.as_ref()?);
        let across = config.regions.get(&place.other);
        let at = |HostPort { host, port }| Endpoint { host, port, ..own.clone() };
        Some(Self {
            other: across.and_then(Region::database_at).map(at),
            url: across.and_then(|region| region.url.clone()),
            own: own.clone(),
            authority,
            place,
            deployment: config.deployment.clone(),
            has_outputs: !config.repoint.outputs.is_empty(),
        })
    }
}

struct Task {
    channels: Channels,
    setup: Setup,
    own: Database,
    other: Option<Database>,
    across: Option<Other>,
    facts: Facts,
    memory: Memory,
    /// What was decided last.
    decision: Option<Decision>,
    said: Option<Arc<Said>>,
    problems: BTreeSet<String>,
    began: BootTime,
}

impl Task {
    fn new(channels: Channels, setup: Setup, snapshot: &Snapshot) -> Self {
        let now = BootTime::now();
        let across = setup.url.as_ref().and_then(|url| Other::new(&setup.place.other, url, &setup.deployment));
        let facts = Facts {
            now,
            place: setup.place.clone(),
            waits: Waits { boot: setup.authority.boot_wait, takeover: setup.authority.takeover_wait },
            own: facts::Database::default(),
            other: setup.other.as_ref().map(|_| facts::Database::default()),
            across: across.as_ref().map(|_| Source::default()),
            group: Group::default(),
            tags: None,
            applied: Applied::default(),
        };
        Self {
            own: Database::new(setup.own.clone()),
            other: setup.other.clone().map(Database::new),
            across,
            facts,
            memory: Memory::resume(snapshot.state.authority.clone(), &channels.boot, now),
            decision: None,
            said: None,
            problems: BTreeSet::new(),
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
            self.carry_out().await;
            let hurries = self.decision.as_ref().is_some_and(|decision| decision.hurries);
            let next = began + if hurries { AT_ONCE } else { self.setup.authority.poll };
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
                        self.carry_out().await;
                    }
                    true = changes(&mut snapshots, |snapshot| self.is_news(snapshot)) => {
                        if Setup::of(&self.channels.snapshots.borrow().config).as_ref() != Some(&self.setup) {
                            return;
                        }
                        self.decide().await;
                        self.carry_out().await;
                    }
                }
            }
        }
    }

    /// The gate was seen to be as it was to be, or the configuration is another one.
    fn is_news(&self, snapshot: &Snapshot) -> bool {
        snapshot.gate_closed != self.facts.applied.gate_closed
            || Setup::of(&snapshot.config).as_ref() != Some(&self.setup)
    }

    /// Asks every source, side by side, each within its own deadline.
    async fn round(&mut self) {
        let began = BootTime::now();
        let keys = self.channels.standing.borrow().keys.clone();
        let reads_tags = self.decision.as_ref().is_none_or(|decision| decision.reads_tags);
        let group = self.group_name();
        let own = self.own.read();
        let other = async {
            match &mut self.other {
                Some(other) => Some(other.read().await),
                None => None,
            }
        };
        let across = async {
            match &self.across {
                Some(across) => Some(across.ask(keys.as_ref()).await),
                None => None,
            }
        };
        let region = self.setup.place.region.as_str();
        let tags = async {
            let group = group.as_deref().filter(|_| reads_tags)?;
            let tags = timeout(TAGS, self.channels.aws.tags(region, group)).await;
            Some(Asked { began, answer: tags.ok().and_then(Result::ok).map(|tags| read_tags(&tags)) })
        };
        let (own, other, across, tags) = tokio::join!(own, other, across, tags);
        let unreached = |attempt: &Option<Attempt>| {
            attempt.as_ref().is_none_or(|attempt| matches!(attempt.result, Err(Unread::Unreached(_))))
        };
        if let (Some(source), Some(heard)) = (&mut self.facts.across, across) {
            let answer = match heard.said {
                Heard::Verified(value) => {
                    serde_json::from_value::<Proof>(value).map_or(Across::Failed, Across::Verified)
                }
                Heard::Unverified(epoch) => Across::Unverified(epoch),
                Heard::Unreached(_) if unreached(&other) => Across::Silent,
                Heard::Unreached(_) | Heard::Failed(_) => Across::Failed,
            };
            source.last = Some(Asked { began: heard.began, answer });
        }
        self.facts.own.take(own);
        if let (Some(database), Some(attempt)) = (&mut self.facts.other, other) {
            database.take(attempt);
        }
        match (&group, tags) {
            (None, _) => self.facts.tags = None,
            (Some(_), asked) => {
                let tagged = self.facts.tags.get_or_insert_with(Tagged::default);
                if let Some(asked) = asked {
                    if let Some(tags) = &asked.answer {
                        tagged.stands = tags.clone();
                    }
                    tagged.last = Some(asked);
                }
            }
        }
    }

    fn group_name(&self) -> Option<String> {
        self.channels.standing.borrow().place.group.clone()
    }

    /// Takes in what stands now, decides, and says so.
    async fn decide(&mut self) {
        let snapshot = Arc::clone(&self.channels.snapshots.borrow());
        let progress = Arc::clone(&self.channels.progress.borrow());
        self.facts.now = BootTime::now();
        self.facts.group = self.group(&snapshot);
        self.facts.applied = self.applied(&snapshot, &progress);
        let decision = decide(&self.facts, &self.memory);
        if self.memory.state != decision.state || self.decision.is_none() {
            event::authority_changed(self.memory.state, &decision);
        }
        self.memory = decision.memory.clone();
        let gate = self.gate(&decision, &progress);
        let said = Arc::new(Said {
            gate,
            word: Word::of(&decision, &self.facts),
            proof: Proof::of(&decision, &self.facts),
            problems: self.problems.iter().cloned().collect(),
            other_ready: operator::other_ready(&self.facts),
            decision: decision.clone(),
        });
        self.decision = Some(decision);
        if self.said.as_ref() != Some(&said) {
            self.said = Some(Arc::clone(&said));
            // The owner is gone only when the agent is ending.
            drop(self.channels.inputs.send(Input::Authority(said)).await);
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

    async fn carry_out(&mut self) {
        let Some(decision) = self.decision.clone() else { return };
        let mut writer = match &decision.writer {
            Target::Keep => repoint::decision::Target::Unchanged,
            Target::Nobody => repoint::decision::Target::None,
            Target::Region(region) => repoint::decision::Target::Region(region.clone()),
        };
        let left = self.steps(&decision);
        // What is open to somebody else is closed before anything opens.
        if left.contains(&Step::StopWriter) {
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
                Step::Claim(row) => self.claim(&row, "").await,
                _ => {}
            }
        }
        if let Some(server) = &decision.enrol
            && let Some(other) = &mut self.other
        {
            let result = other.enrol(server, &self.setup.place.region).await;
            self.note("enrol", result.err().map(|error| error.to_string()));
        }
        if let Some(until) = decision.release {
            let result = self.own.release(&self.setup.place.region, until).await;
            self.note("release", result.err().map(|error| error.to_string()));
        }
    }

    fn want(&self, decision: &Decision, writer: repoint::decision::Target) {
        let reader = match &decision.reader {
            Target::Keep => repoint::decision::Target::Unchanged,
            Target::Nobody => repoint::decision::Target::None,
            Target::Region(region) => repoint::decision::Target::Region(region.clone()),
        };
        // Until the first decision of a boot nothing is wanted, and the boot gate waits.
        let wanted = (decision.state != State::Boot).then(|| repoint::plan::Wanted {
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

    /// Durable records of what is known. None is waited for longer than its deadline.
    async fn record(&mut self, records: &Records) {
        if let Some(row) = &records.superseded {
            let own = Claim { epoch: row.epoch, region: row.region.clone() };
            let result = self.own.supersede(&own, &row.by).await;
            self.note("superseded", result.err().map(|error| error.to_string()));
        }
        let Some(group) = self.group_name() else { return };
        let Some(tagged) = &mut self.facts.tags else { return };
        let region = self.setup.place.region.as_str();
        let mut failed = None;
        if let Some(claim) = &records.epoch_tag {
            match timeout(TAGS, self.channels.aws.tag(region, &group, EPOCH_TAG, &claim.to_string())).await {
                Ok(Ok(())) => tagged.stands.epoch = Some(claim.clone()),
                _ => failed = Some(format!("the tag `{EPOCH_TAG}` could not be written")),
            }
        }
        if let Some(roll) = &records.roll_tag {
            let text = roll.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            match timeout(TAGS, self.channels.aws.tag(region, &group, ROLL_TAG, &text)).await {
                Ok(Ok(())) => tagged.stands.roll.clone_from(roll),
                _ => failed = Some(format!("the tag `{ROLL_TAG}` could not be written")),
            }
        }
        self.note("tags", failed);
    }

    /// Writes the next epoch, after three fresh connections have proven the database writable.
    async fn claim(&mut self, row: &NewRow, reason: &str) {
        let problem = self.try_claim(row, reason).await.err();
        self.note("claim", problem);
    }

    async fn try_claim(&mut self, row: &NewRow, reason: &str) -> Result<Swap, String> {
        let proof = self.own.prove().await.map_err(|unproven| unproven.to_string())?;
        if proof.read.server != row.server {
            return Err(format!("the endpoint leads to `{}` now, not to `{}`", proof.read.server, row.server));
        }
        let claim = Claim { epoch: row.epoch, region: row.region.clone() };
        let claiming = if row.parent == 0 && row.kind == super::database::Kind::Init {
            Claiming::first(claim, row.server.clone(), &self.setup.place.regions, reason)
        } else {
            let rows = proof.read.tables.iter().flat_map(|tables| &tables.closing);
            let closing = rows.filter(|row| row.region == self.setup.place.region && !row.is_released);
            Claiming {
                claim,
                parent: row.parent,
                server: row.server.clone(),
                kind: row.kind,
                reason: reason.to_owned(),
                closing: closing.map(|row| row.until).next(),
            }
        };
        let swap = self.own.claim(&claiming).await.map_err(|error| error.to_string())?;
        event::epoch_claimed(row, swap == Swap::Done);
        Ok(swap)
    }

    async fn beat(&mut self) {
        let result = self.own.beat(&self.setup.place.region).await;
        self.note("heartbeat", result.err().map(|error| error.to_string()));
    }

    /// Keeps what was tried in vain until it works.
    fn note(&mut self, what: &str, problem: Option<String>) {
        let mark = format!("{what}: ");
        self.problems.retain(|old| !old.starts_with(&mark));
        if let Some(problem) = problem {
            self.problems.insert(mark + &problem);
        }
    }

    fn group(&self, snapshot: &Snapshot) -> Group {
        let Some(round) = &snapshot.round else {
            // Without a group there is nobody to ask, which is known after a while.
            let alone = self.group_name().is_none() && self.facts.now.since(self.began) >= ALONE_AFTER;
            let asked = alone.then_some(self.facts.now);
            return Group { asked, members: Vec::new() };
        };
        let me = crate::group::view::Me {
            deployment: &snapshot.config.deployment,
            region: snapshot.about.owner.region.as_deref(),
            group: Some(&round.group),
        };
        let asked = round.heard.iter().map(|heard| heard.sent).min().unwrap_or(round.at);
        let member = |word: &crate::group::word::Word| Member {
            instance: word.instance.clone().unwrap_or_default(),
            region_closed: word.region_closed,
            word: word.authority.clone(),
        };
        Group { asked: Some(asked), members: round.words(&me).map(member).collect() }
    }

    fn applied(&self, snapshot: &Snapshot, progress: &Progress) -> Applied {
        // An app that nobody has repointed yet writes to its own region's database.
        let known = progress.plan.writers().filter(|_| self.setup.has_outputs);
        let writers = known.unwrap_or_else(|| [self.setup.place.region.clone()].into());
        Applied {
            gate_closed: snapshot.gate_closed,
            writers,
            never_had_writer: self.setup.has_outputs && progress.plan.current.is_none(),
            old_writer_sessions: progress.old_writer_sessions.try_into().unwrap_or(u32::MAX),
        }
    }
}

/// `EPOCH/REGION`, a fact, on the own group.
const EPOCH_TAG: &str = "dr-agent:epoch";

/// Identities of this region's servers that were seen replicating, with blanks between.
const ROLL_TAG: &str = "dr-agent:roll";

fn read_tags(tags: &[(String, String)]) -> Tags {
    let value = |key: &str| tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let claim = |text: &str| {
        let (epoch, region) = text.split_once('/')?;
        Some(Claim { epoch: epoch.parse().ok()?, region: region.to_owned() })
    };
    Tags {
        epoch: value(EPOCH_TAG).and_then(claim),
        roll: value(ROLL_TAG).into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect(),
    }
}
