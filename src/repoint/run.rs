//! The task that carries the plan out, thinly: one step at a time, each with its deadline, and a new wish ends the step
//! that is under way. Nothing here decides; [`super::plan`] does.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::apply::Applied;
use super::decision::{self, Decision, Target};
use super::look::{self, Look};
use super::plan::{Draft, Goal, Phase, Plan, Step, Wanted};
use super::{VERB, gate, sessions, verify};
use crate::authority::State;
use crate::clock::BootTime;
use crate::config::{Config, HostPort, Region};
use crate::group::keys;
use crate::helper::Paths;
use crate::probes::blocking::{FILE, Lane};
use crate::snapshot::Snapshot;
use crate::telemetry::{ErrorChain, event};

/// Between two looks for the helper's result.
const RESULT: Duration = Duration::from_millis(50);
/// How often sessions to a former writer are counted while there may be some.
const COUNT: Duration = Duration::from_secs(5);
/// They are not looked for any more when there was none for so long after the change.
const COUNT_FOR: Duration = Duration::from_secs(60);
/// Addresses of a former writer that are kept in mind.
const ADDRESSES: usize = 64;

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);
/// For what is in memory, while the other lane hangs on a dead disk.
static BESIDE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// What the task is given.
#[derive(Debug, Clone)]
pub struct Channels<L> {
    pub look: L,
    pub state_dir: PathBuf,
    pub boot: String,
    /// `None` until the first decision of this boot.
    pub wanted: watch::Receiver<Option<Wanted>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub progress: watch::Sender<Arc<Progress>>,
}

/// Where the app's endpoints stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub plan: Plan,
    /// What is wanted, if that names a writer or none.
    pub goal: Option<Goal>,
    /// The app was seen to reach the writer that is wanted; or it has none, as is wanted.
    pub is_reached: bool,
    /// Established connections of this instance to a database that is not its writer any more. A former writer that
    /// nobody has found yet counts as one: what is not known is not none.
    pub old_writer_sessions: usize,
}

struct Task<L> {
    channels: Channels<L>,
    snapshot: Arc<Snapshot>,
    paths: Paths,
    plan: Plan,
    goal: Option<Goal>,
    /// It was said that this boot's first decision is in the outputs.
    is_said: bool,
    /// Where the writer is that was seen to be reached.
    writer_at: Vec<SocketAddr>,
    /// Where former writers were, and since when nobody should be there.
    former: BTreeSet<SocketAddr>,
    left: BootTime,
    /// Former writers whose addresses nobody has found yet: that was left just now, or in an earlier life of the agent.
    unfound: Vec<HostPort>,
    sessions: usize,
    /// `None`: what was counted before says nothing of those that are looked for now.
    counted: Option<BootTime>,
    problem: Option<String>,
}

/// Runs until cancelled.
pub async fn run<L: Look>(channels: Channels<L>, cancelled: CancellationToken) {
    tokio::select! {
        () = cancelled.cancelled() => {}
        () = Task::start(channels) => {}
    }
}

impl Progress {
    /// What an earlier life of the agent has left. Blocking.
    #[must_use]
    pub fn kept(config: &Config) -> Self {
        let paths = Paths::of(&config.listen.control);
        let mut plan = decision::read(&config.state_dir, paths.run_dir())
            .map(|decision| {
                let was_verified = decision::was_verified(&config.state_dir, &decision.id);
                Plan::resume(decision, was_verified, config, BootTime::now())
            })
            .unwrap_or_default();
        if let Some(applied) = paths.newest::<Applied>(VERB) {
            plan.recall(&applied);
        }
        Self { plan, ..Self::default() }
    }
}

/// The databases that the app may have sessions with from before the decision that is gone on from: those that it does not
/// name. The reader's belongs to the app, unless it is the closed owner's, which was the writer.
fn left_before(plan: &Plan, config: &Config) -> Vec<HostPort> {
    let Some(current) = &plan.current else { return Vec::new() };
    let decision = &current.decision;
    let is_closed_owner = decision.writer == Target::None && decision.state == State::Owner.name();
    let reader = decision.reader.region().filter(|_| !is_closed_owner);
    let is_left = |name: &str| decision.writer.region() != Some(name) && reader != Some(name);
    config.regions.iter().filter(|(name, _)| is_left(name)).filter_map(|(_, region)| region.database_at()).collect()
}

impl<L: Look> Task<L> {
    async fn start(channels: Channels<L>) {
        let snapshot = Arc::clone(&channels.snapshots.borrow());
        let paths = Paths::of(&snapshot.config.listen.control);
        let config = Arc::clone(&snapshot.config);
        let kept = timeout(FILE, LANE.run(move || Progress::kept(&config))).await;
        let plan = kept.ok().and_then(Result::ok).unwrap_or_default().plan;
        let task = Self {
            unfound: left_before(&plan, &snapshot.config),
            paths,
            snapshot,
            plan,
            goal: None,
            is_said: false,
            writer_at: Vec::new(),
            former: BTreeSet::new(),
            left: BootTime::now(),
            sessions: 0,
            counted: None,
            problem: None,
            channels,
        };
        task.turn().await;
    }

    async fn turn(mut self) {
        let (mut wanted, mut snapshots) = (self.channels.wanted.clone(), self.channels.snapshots.clone());
        loop {
            self.snapshot = Arc::clone(&snapshots.borrow_and_update());
            let now_wanted = wanted.borrow_and_update().clone();
            self.goal = now_wanted.as_ref().and_then(|wanted| Goal::of(wanted, &self.snapshot.config));
            if now_wanted.is_some() && self.goal.as_ref().is_none_or(|goal| self.plan.is_applied(goal)) {
                self.say_decided().await;
            }
            self.count_sessions().await;
            self.tell();
            let step = match self.plan.next(self.goal.as_ref(), BootTime::now()) {
                Step::Decide(draft) => {
                    self.decide(*draft).await;
                    continue;
                }
                step => step,
            };
            let config = Arc::clone(&self.snapshot.config);
            tokio::select! {
                // It may be dropped: it only looks, or it is asked for again.
                () = self.take(step) => {}
                changed = wanted.changed() => if changed.is_err() { return },
                changed = snapshots.wait_for(|snapshot| !Arc::ptr_eq(&snapshot.config, &config)) => {
                    if changed.is_err() { return }
                }
            }
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Rest(until) => self.rest(until).await,
            Step::Await => self.look_for_result().await,
            Step::Ask => {
                if let Some(current) = &self.plan.current {
                    let id = current.decision.id.clone();
                    self.ask(&id).await;
                }
                self.plan.asked(BootTime::now());
                self.look_for_result().await;
            }
            Step::Look { region, at } => {
                let Some(goal) = self.goal.clone() else { return };
                let config = Arc::clone(&self.snapshot.config);
                let result = match &config.database {
                    Some(account) => self.channels.look.prove(account, &at).await,
                    None => Err("there is no account to look with: [probe.database] is missing".to_owned()),
                };
                let result = result.and_then(|read| {
                    look::judge(&read, &region, goal.wanted.epoch).map_err(|objection| objection.to_string())
                });
                self.plan.looked(&goal, result, BootTime::now());
            }
            // Not here: it is not to be dropped halfway.
            Step::Decide(_) => {}
            Step::Verify(at) => self.verify(&at).await,
        }
    }

    async fn verify(&mut self, at: &HostPort) {
        let result = verify::verify(&self.snapshot.config, at).await;
        let result = result.map_err(|error| ErrorChain(&error).to_string());
        let is_reached = result.is_ok();
        if is_reached && let Ok(addresses) = verify::resolve(at).await {
            self.former.retain(|address| !addresses.contains(address));
            self.unfound.retain(|left| left != at);
            self.writer_at = addresses;
        }
        let is_first = !self.is_failing();
        self.plan.verified(result, BootTime::now());
        if let Some(current) = self.plan.current.as_ref().filter(|_| is_first || !self.is_failing()) {
            event::repoint_judged(current);
        }
        if is_reached {
            // First: nobody waits for the disk.
            self.tell();
            self.keep_verified().await;
        }
    }

    /// Writes down for the next life of the agent that the app was seen to reach what was decided. Without that a later
    /// life takes it for a repoint that was cut short.
    async fn keep_verified(&self) {
        let Some(current) = &self.plan.current else { return };
        let (dir, id) = (self.channels.state_dir.clone(), current.decision.id.clone());
        drop(timeout(FILE, LANE.run(move || decision::write_verified(&dir, &id))).await);
    }

    /// An attempt to verify the decision has failed.
    fn is_failing(&self) -> bool {
        let phase = self.plan.current.as_ref().map(|current| &current.phase);
        matches!(phase, Some(Phase::Applied { failed: Some(_), .. }))
    }

    async fn rest(&mut self, until: Option<BootTime>) {
        if self.find_left().await {
            return;
        }
        let now = BootTime::now();
        let until = until.map(|until| until.since(now));
        let count = (!self.former.is_empty() || !self.unfound.is_empty()).then_some(COUNT);
        match [until, count].into_iter().flatten().min() {
            Some(wait) => sleep(wait).await,
            None => pending().await,
        }
    }

    async fn decide(&mut self, draft: Draft) {
        let Some(id) = keys::nonce() else { return self.fail("no random number for a decision".to_owned()).await };
        self.remember_former(&draft);
        let decision = draft.decision(id);
        if self.write_down(&decision).await {
            self.problem = None;
            event::repoint_decided(&decision, &draft.purpose);
            self.ask(&decision.id).await;
            self.plan.decided(draft, decision, BootTime::now());
        } else {
            self.fail("the decision could not be written down".to_owned()).await;
        }
    }

    async fn write_down(&self, decision: &Decision) -> bool {
        let (dir, paths, text) = (self.channels.state_dir.clone(), self.paths.clone(), decision.clone());
        let written = timeout(FILE, LANE.run(move || decision::write(&dir, paths.run_dir(), &text))).await;
        if matches!(written, Ok(Ok(Ok(())))) {
            return true;
        }
        let (paths, text) = (self.paths.clone(), decision.clone());
        let written = timeout(FILE, BESIDE.run(move || decision::write_beside(paths.run_dir(), &text))).await;
        matches!(written, Ok(Ok(Ok(()))))
    }

    async fn fail(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            event::repoint_stuck(&problem);
            self.problem = Some(problem);
        }
        sleep(Duration::from_secs(1)).await;
    }

    async fn ask(&self, id: &str) {
        let (paths, id) = (self.paths.clone(), id.to_owned());
        // It is asked again until there is a result.
        drop(timeout(FILE, LANE.run(move || paths.request(VERB, &id))).await);
    }

    async fn look_for_result(&mut self) {
        sleep(RESULT).await;
        let paths = self.paths.clone();
        let found = timeout(FILE, LANE.run(move || paths.newest::<Applied>(VERB))).await;
        let Some(applied) = found.ok().and_then(Result::ok).flatten() else { return };
        let current = self.plan.current.as_ref().map(|current| current.decision.id.clone());
        if current.as_ref() == Some(&applied.done.id) {
            event::repoint_applied(&applied);
            self.plan.applied(&applied, BootTime::now());
        }
    }

    async fn say_decided(&mut self) {
        if self.is_said {
            return;
        }
        let (paths, boot) = (self.paths.clone(), self.channels.boot.clone());
        let said = timeout(FILE, BESIDE.run(move || gate::say_decided(paths.run_dir(), &boot))).await;
        self.is_said = matches!(said, Ok(Ok(Ok(()))));
    }

    /// Keeps in mind where the writer was that is left now.
    fn remember_former(&mut self, draft: &Draft) {
        if self.plan.present.as_ref() == Some(&draft.writer) {
            return;
        }
        self.former.extend(self.writer_at.drain(..).take(ADDRESSES));
        // It was not seen to be reached, or its name leads elsewhere since.
        let decided = self.plan.current.as_ref().and_then(|current| current.decision.writer.region());
        let names: BTreeSet<_> = self.plan.writers().into_iter().flatten().chain(decided.map(str::to_owned)).collect();
        for name in names.iter().filter(|name| draft.writer.region() != Some(name)) {
            let at = self.snapshot.config.regions.get(name).and_then(Region::database_at);
            self.unfound.extend(at.filter(|at| !self.unfound.contains(at)));
        }
        (self.left, self.counted) = (BootTime::now(), None);
    }

    /// Looks up where former writers are; true when one was found. It may be dropped.
    async fn find_left(&mut self) -> bool {
        let Some(at) = self.unfound.last().cloned() else { return false };
        match verify::resolve_left(&at).await {
            Ok(found) => {
                let left = found.into_iter().filter(|at| !self.writer_at.contains(at));
                self.former.extend(left.take(ADDRESSES));
            }
            // The database is gone, say, and so is its name.
            Err(_) if BootTime::now().since(self.left) >= COUNT_FOR && self.nobody_leads_to(at.port).await => {}
            Err(_) => {
                // The others are asked for first the next time.
                self.unfound.rotate_right(1);
                return false;
            }
        }
        self.unfound.retain(|left| *left != at);
        self.counted = None;
        true
    }

    /// No connection to this port leads anywhere but to where the app is to be.
    async fn nobody_leads_to(&self, port: u16) -> bool {
        let mut known: BTreeSet<_> = self.writer_at.iter().copied().collect();
        let reader = self.plan.current.as_ref().and_then(|current| current.decision.reader.region());
        let reader = reader.and_then(|name| self.snapshot.config.regions.get(name)?.database_at());
        if let Some(reader) = reader
            && let Ok(found) = verify::resolve_left(&reader).await
        {
            known.extend(found);
        }
        let others = move |at: SocketAddr| at.port() == port && !known.contains(&at);
        matches!(timeout(FILE, LANE.run(move || sessions::established(others))).await, Ok(Ok(Ok(0))))
    }

    async fn count_sessions(&mut self) {
        let now = BootTime::now();
        // A name that nobody has in the configuration any more is nobody's.
        let config = &self.snapshot.config;
        self.unfound.retain(|at| config.regions.values().any(|region| region.database_at().as_ref() == Some(at)));
        if self.former.is_empty() {
            self.sessions = 0;
        }
        if self.former.is_empty() || self.counted.is_some_and(|at| now.since(at) < COUNT) {
            return;
        }
        self.counted = Some(now);
        let former = self.former.clone();
        match timeout(FILE, LANE.run(move || sessions::established(|at| former.contains(&at)))).await {
            Ok(Ok(Ok(count))) => self.sessions = count,
            // What cannot be counted is not none.
            _ => self.sessions = self.sessions.max(1),
        }
        if self.sessions == 0 && now.since(self.left) >= COUNT_FOR {
            self.former.clear();
        }
    }

    fn tell(&self) {
        let goal = self.goal.clone();
        let is_reached = goal.as_ref().is_some_and(|goal| self.plan.is_reached(goal));
        let old_writer_sessions = self.sessions + self.unfound.len();
        let progress = Progress { plan: self.plan.clone(), goal, is_reached, old_writer_sessions };
        self.channels.progress.send_if_modified(|told| {
            let is_news = **told != progress;
            if is_news {
                *told = Arc::new(progress);
            }
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, Output, defaults};

    #[test]
    fn a_new_life_looks_for_sessions_with_what_the_app_does_not_use_any_more() {
        let region = |host: &str| Region { database: Some(host.to_owned()), ..Region::default() };
        let mut config = defaults();
        config.regions = [("a-1".to_owned(), region("db.a")), ("b-1".to_owned(), region("db.b"))].into();
        config.repoint.outputs = vec![Output { format: Format::Env, path: "/x/env".into() }];
        let left = |writer: &str, reader: &str, state: State| {
            let decision = Decision {
                id: "0".repeat(32),
                writer: writer.to_owned().into(),
                reader: reader.to_owned().into(),
                epoch: 1,
                state: state.name().to_owned(),
                only_new: false,
                rollback: None,
            };
            let left = left_before(&Plan::resume(decision, true, &config, BootTime::now()), &config);
            left.into_iter().map(|at| at.host).collect::<Vec<_>>()
        };
        assert_eq!(left("none", "a-1", State::Standby), ["db.b"], "the replica here is read all the time");
        assert_eq!(left("none", "a-1", State::Owner), ["db.a", "db.b"], "closed, and read from the same address");
        assert_eq!(left("b-1", "a-1", State::Standby), [""; 0]);
        assert_eq!(left("b-1", "b-1", State::Superseded), ["db.a"]);
        assert_eq!(left("none", "none", State::Superseded), ["db.a", "db.b"]);
        assert_eq!(left("a-1", "a-1", State::Owner), ["db.b"]);
        assert_eq!(left_before(&Plan::default(), &config), [], "nothing was ever decided");
    }
}
