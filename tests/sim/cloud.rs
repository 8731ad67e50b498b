//! The Auto Scaling group: launches, terminates, replaces what was marked, and describes itself, truly or late.

use std::collections::BTreeSet;
use std::time::Duration;

use dr_agent::replace::look::{Look, LookMember};

use super::agent::name;
use super::random::Random;
use super::site::GROUP;
use super::world::{Index, MINUTE, Ms, SECOND};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    Pending,
    InService,
    Terminating,
    Gone,
}

impl Lifecycle {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InService => "InService",
            Self::Terminating => "Terminating",
            Self::Gone => "Terminated",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Instance {
    pub lifecycle: Lifecycle,
    /// When the lifecycle goes on by itself.
    pub next: Option<Ms>,
    pub healthy: bool,
    pub launched: Ms,
    /// When it was in service last.
    pub served: Ms,
}

/// What went wrong at a step, for the group's activities.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub launches_fail: bool,
    pub suspended: Option<&'static str>,
}

/// What a step asks of the course.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Launch,
    Gone(Index),
}

#[derive(Debug)]
pub struct Cloud {
    pub desired: usize,
    pub instances: Vec<Instance>,
    pub tag: Option<String>,
    /// A replacement is launched before the old one ends.
    launch_before: bool,
    failed: Vec<Ms>,
    suspended: Option<&'static str>,
    /// What it looked like, and since when.
    views: Vec<(Ms, Look)>,
}

impl Cloud {
    pub fn new(desired: usize, launch_before: bool) -> Self {
        Self {
            desired,
            instances: Vec::new(),
            tag: None,
            launch_before,
            failed: Vec::new(),
            suspended: None,
            views: Vec::new(),
        }
    }

    pub fn add(&mut self, lifecycle: Lifecycle, next: Option<Ms>, now: Ms) {
        let served = if lifecycle == Lifecycle::InService { now } else { 0 };
        self.instances.push(Instance { lifecycle, next, healthy: true, launched: now, served });
    }

    pub fn with(&self, lifecycle: Lifecycle) -> impl Iterator<Item = Index> {
        let has = move |(_, instance): &(Index, &Instance)| instance.lifecycle == lifecycle;
        self.instances.iter().enumerate().filter(has).map(|(index, _)| index)
    }

    pub fn alive(&self) -> impl Iterator<Item = Index> {
        let instances = self.instances.iter().enumerate();
        instances.filter(|(_, instance)| instance.lifecycle != Lifecycle::Gone).map(|(index, _)| index)
    }

    /// It has all it should have and nothing is under way.
    pub fn is_settled(&self) -> bool {
        let well =
            |index: Index| self.instances[index].lifecycle == Lifecycle::InService && self.instances[index].healthy;
        self.alive().count() == self.desired && self.alive().all(well)
    }

    pub fn terminate(&mut self, index: Index, next: Ms) {
        let instance = &mut self.instances[index];
        if matches!(instance.lifecycle, Lifecycle::Pending | Lifecycle::InService) {
            (instance.lifecycle, instance.next) = (Lifecycle::Terminating, Some(next));
        }
    }

    /// Whether there was something to mark.
    pub fn mark(&mut self, index: Index) -> bool {
        let instance = &mut self.instances[index];
        let had = instance.lifecycle == Lifecycle::InService;
        instance.healthy &= !had;
        had
    }

    /// Everything that is due; gives when it wants to be asked again.
    pub fn step(&mut self, weather: Weather, random: &mut Random, now: Ms) -> (Vec<Step>, Option<Ms>) {
        let mut steps = Vec::new();
        self.suspended = weather.suspended;
        let may = |process: &str| weather.suspended != Some(process);
        for (index, instance) in self.instances.iter_mut().enumerate() {
            if instance.next.is_some_and(|next| next <= now) {
                instance.next = None;
                match instance.lifecycle {
                    Lifecycle::Pending => instance.lifecycle = Lifecycle::InService,
                    Lifecycle::Terminating => {
                        instance.lifecycle = Lifecycle::Gone;
                        steps.push(Step::Gone(index));
                    }
                    Lifecycle::InService | Lifecycle::Gone => {}
                }
            }
            if instance.lifecycle == Lifecycle::InService {
                instance.served = now;
            }
        }
        let well: Vec<_> = self.with(Lifecycle::InService).filter(|index| self.instances[*index].healthy).collect();
        let ill: Vec<_> = self.with(Lifecycle::InService).filter(|index| !self.instances[*index].healthy).collect();
        if may("Terminate") && may("ReplaceUnhealthy") {
            let ready = !self.launch_before || well.len() >= self.desired;
            for index in ill.into_iter().filter(|_| ready) {
                self.terminate(index, now + random.within(20..=90) * SECOND);
            }
        }
        if may("Terminate") && well.len() > self.desired {
            let index = random.pick(&well);
            self.terminate(index, now + random.within(20..=90) * SECOND);
        }
        let coming = self.with(Lifecycle::Pending).count();
        // One that is ill keeps its place until it ends, unless its successor comes first.
        let ill = self.with(Lifecycle::InService).filter(|index| !self.instances[*index].healthy).count();
        let have = well.len() + coming + if self.launch_before { 0 } else { ill };
        if have < self.desired && may("Launch") {
            if weather.launches_fail {
                self.failed.push(now);
            } else {
                steps.extend((have..self.desired).map(|_| Step::Launch));
            }
        }
        self.failed.retain(|at| now - at <= 30 * MINUTE);
        let next = self.instances.iter().filter_map(|instance| instance.next).min();
        let poll = if self.failed.is_empty() { now + 20 * SECOND } else { now + 2 * MINUTE };
        let poll = (!self.is_settled() || !self.failed.is_empty()).then_some(poll);
        (steps, next.into_iter().chain(poll).min().map(|at| at.max(now + SECOND)))
    }

    /// Whether it looks different now.
    pub fn remember(&mut self, now: Ms) -> bool {
        let member = |index: Index| LookMember {
            instance: name(index),
            lifecycle: self.instances[index].lifecycle.name().to_owned(),
            healthy: self.instances[index].healthy,
        };
        let look = Look {
            group: GROUP.to_owned(),
            desired: u32::try_from(self.desired).expect("few"),
            members: self.alive().map(member).collect(),
            suspended: self.suspended.iter().map(|process| (*process).to_owned()).collect::<BTreeSet<_>>(),
            launches_failed: u32::try_from(self.failed.len()).expect("few"),
            is_refreshing: false,
            stopped_by_tag: false,
            last_replacement: self.tag.clone(),
            health_check_types: vec!["EC2".to_owned()],
            grace: Duration::ZERO,
            default_warmup: None,
            maintenance: None,
        };
        let changed = self.views.last().is_none_or(|(_, last)| *last != look);
        if changed {
            self.views.push((now, look));
        }
        changed
    }

    /// What it looked like at `at`.
    pub fn look(&self, at: Ms) -> Look {
        let after = self.views.partition_point(|(since, _)| *since <= at);
        self.views[after.saturating_sub(1)].1.clone()
    }

    /// The smallest desired size since `from`.
    pub fn desired_since(&self, from: Ms) -> usize {
        let before = self.views.partition_point(|(since, _)| *since <= from).saturating_sub(1);
        let least = self.views[before..].iter().map(|(_, look)| look.desired).min();
        least.map_or(self.desired, |least| usize::try_from(least).expect("few").min(self.desired))
    }
}
