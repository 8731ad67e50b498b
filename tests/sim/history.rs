//! What happens in one history, all of it drawn from the seed before it begins.

use std::collections::BTreeSet;
use std::fmt;

use dr_agent::health::cause::Cause;
use dr_agent::observation::Component;

use super::random::Random;
use super::world::{Api, Fault, Index, Kind, MINUTE, Ms, SECOND, Whom, World, seconds};

/// What the histories of one test are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// One thing is broken on one instance.
    Local,
    /// A dependency is broken for all, a zone or several, or a deployment is bad.
    Shared,
    /// Several things at once, and the network between the members too.
    Everything,
    /// One instance has a fault that a replacement cures and everything else is well.
    Cure,
    /// Faults that last for hours, on several instances, on what comes in their place, in zones and on all, while AWS,
    /// the network, agents and operators do what they can.
    Replacement,
}

/// What happens at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The agent ends and is away for so long; with or without what it kept on disk.
    Restart {
        index: Index,
        away: Ms,
        forgets: bool,
    },
    /// The group should have so many.
    Desired(usize),
    /// EC2 loses an instance, or the group moves it to another zone.
    Terminate(Index),
    Hold {
        index: Index,
        on: bool,
    },
    /// The wall clock is set.
    Clock {
        index: Index,
        step: i64,
    },
}

#[derive(Debug, Clone)]
pub struct History {
    pub theme: Theme,
    pub size: usize,
    pub zones: u8,
    /// `replace.mode`.
    pub enforce: bool,
    /// The maintenance policy launches a replacement first.
    pub launch_before: bool,
    pub world: World,
    pub acts: Vec<(Ms, Act)>,
    pub end: Ms,
    /// Seeds the chances of its course: phases, delays, luck.
    pub course: Random,
}

/// Nothing is wrong before this.
const QUIET: Ms = 30 * SECOND;

/// How long the last things take to settle: the flap window is the longest memory of a verdict.
const AFTER: Ms = 13 * MINUTE;

/// Outages that a probe can find on one instance.
const LOCAL: [(Component, Cause); 9] = [
    (Component::Nginx, Cause::NginxMasterGone),
    (Component::Nginx, Cause::NginxTimeout),
    (Component::App, Cause::AppBadStatus),
    (Component::Efs, Cause::EfsHung),
    (Component::Efs, Cause::EfsNotMounted),
    (Component::Efs, Cause::EfsProxyGone),
    (Component::Database, Cause::DatabaseTimeout),
    (Component::Database, Cause::DatabaseRefused),
    (Component::Host, Cause::DiskFull),
];

const DEPENDENCY: [(Component, Cause); 5] = [
    (Component::Efs, Cause::EfsHung),
    (Component::Efs, Cause::EfsServerUnreachable),
    (Component::Database, Cause::DatabaseTimeout),
    (Component::Database, Cause::DatabaseRefused),
    (Component::Database, Cause::DatabaseLost),
];

/// Bad for all that have it.
const DEPLOYMENT: [(Component, Cause); 3] = [
    (Component::Nginx, Cause::NginxBadStatus),
    (Component::App, Cause::AppBadStatus),
    (Component::Nginx, Cause::NginxRefused),
];

/// Remarks and probes that cannot run: neither may change an answer.
const HARMLESS: [(Component, Cause); 8] = [
    (Component::Efs, Cause::CouldNotRun),
    (Component::Database, Cause::CouldNotRun),
    (Component::Nginx, Cause::CouldNotRun),
    (Component::Database, Cause::DatabaseAccessDenied),
    (Component::Database, Cause::DatabaseTooMany),
    (Component::Efs, Cause::EfsNoPermission),
    (Component::Efs, Cause::EfsSlow),
    (Component::Nginx, Cause::NginxForeignAnswer),
];

impl History {
    pub fn drawn(theme: Theme, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Small groups mostly: what goes wrong there goes wrong in large ones.
        let size = match random.below(400) {
            0..60 => 1,
            60..200 => 2,
            200..280 => 3,
            280..350 => 4,
            350..392 => random.within(5..=6),
            392..399 => random.within(7..=12),
            _ => random.within(13..=40),
        };
        let size = usize::try_from(size).expect("small");
        let zones = u8::try_from(random.within(1..=3)).expect("small");
        let mut history = Self {
            theme,
            size,
            zones,
            enforce: random.chance(90),
            launch_before: random.chance(30),
            world: World {
                faults: Vec::new(),
                zones: Vec::new(),
                app_needs_efs: random.chance(50),
                app_needs_database: random.chance(60),
                nginx_needs_efs: random.chance(20),
            },
            acts: Vec::new(),
            end: 0,
            course: random.clone(),
        };
        match theme {
            Theme::Local => {
                history.local(&mut random);
                if random.chance(30) {
                    history.harmless(&mut random);
                }
                if random.chance(30) {
                    history.restarts(&mut random);
                }
            }
            Theme::Shared => {
                for _ in 0..random.within(1..=2) {
                    history.shared(&mut random);
                }
                if random.chance(40) {
                    history.restarts(&mut random);
                }
            }
            Theme::Everything => {
                for _ in 0..random.within(1..=4) {
                    match random.below(5) {
                        0 => history.local(&mut random),
                        1 => history.shared(&mut random),
                        2 => history.network(&mut random),
                        3 => history.restarts(&mut random),
                        _ => history.harmless(&mut random),
                    }
                }
            }
            Theme::Cure => history.cure(&mut random),
            Theme::Replacement => {
                for _ in 0..random.within(1..=3) {
                    history.lasting(&mut random);
                }
                for _ in 0..random.within(0..=4) {
                    match random.below(8) {
                        0..3 => history.aws(&mut random),
                        3 => history.network(&mut random),
                        4 => history.restarts(&mut random),
                        5 => history.shared(&mut random),
                        _ => history.interventions(&mut random),
                    }
                }
            }
        }
        history.acts.sort_by_key(|(at, _)| *at);
        let last =
            history.world.faults.iter().map(|fault| fault.to).chain(history.acts.iter().map(|(at, _)| *at)).max();
        history.end = last.unwrap_or(0) + AFTER;
        history
    }

    fn add(&mut self, from: Ms, length: Ms, kind: Kind) {
        self.world.faults.push(Fault { from, to: from + length, kind, repair: None });
    }

    fn begin(random: &mut Random) -> Ms {
        // Often close to each other, so that things overlap.
        let latest = if random.chance(60) { 60 } else { 600 };
        QUIET + random.within(0..=latest) * SECOND + random.below(SECOND)
    }

    /// Blips, outages that a hold survives, outages that none does.
    fn length(random: &mut Random) -> Ms {
        let seconds = match random.below(4) {
            0 => random.within(1..=20),
            1 => random.within(20..=150),
            2 => random.within(150..=600),
            _ => random.within(600..=3_600),
        };
        seconds * SECOND + random.below(SECOND)
    }

    fn local(&mut self, random: &mut Random) {
        let (component, cause) = random.pick(&LOCAL);
        let whom = Whom::One(random.index(self.size));
        let mut from = Self::begin(random);
        if random.chance(15) {
            // It comes and goes.
            for _ in 0..random.within(2..=8) {
                let length = random.within(3..=60) * SECOND;
                self.add(from, length, Kind::Broken { whom: whom.clone(), component: component.clone(), cause });
                from += length + random.within(5..=120) * SECOND;
            }
        } else {
            self.add(from, Self::length(random), Kind::Broken { whom, component, cause });
        }
    }

    /// Of a theme about replacements: after an hour at most.
    fn begin_late(&self, random: &mut Random) -> Ms {
        match self.theme {
            Theme::Cure => random.within(17..=40) * MINUTE + random.below(MINUTE),
            Theme::Replacement => random.within(5..=70) * MINUTE + random.below(MINUTE),
            _ => Self::begin(random),
        }
    }

    fn cure(&mut self, random: &mut Random) {
        self.enforce = true;
        let index = random.index(self.size);
        // Instance n is in zone n modulo zones.
        let alone = self.size <= usize::from(self.zones);
        let near = !alone
            && (0..self.size)
                .any(|other| other != index && other % usize::from(self.zones) == index % usize::from(self.zones));
        let fits = |(component, cause): &(Component, Cause)| match (component, cause) {
            _ if self.size == 1 => *cause == Cause::NginxMasterGone || *cause == Cause::DiskFull,
            (Component::Nginx | Component::Host, _) | (Component::Efs, Cause::EfsHung) => true,
            // A hang with a live mount target is the one that other zones may convict.
            (Component::Efs | Component::Database, _) => near,
            _ => false,
        };
        let faults: Vec<_> = LOCAL.into_iter().filter(fits).collect();
        let (component, cause) = random.pick(&faults);
        let can_help = matches!(component, Component::Nginx | Component::Efs);
        let helps = random.within(1..=3);
        let repair = (can_help && random.chance(25)).then(|| u32::try_from(helps).expect("small"));
        let from = self.begin_late(random);
        let kind = Kind::Broken { whom: Whom::One(index), component, cause };
        self.world.faults.push(Fault { from, to: from + 40 * MINUTE, kind, repair });
    }

    /// A fault that stays until somebody does something, and may come back on whatever comes in its place.
    fn lasting(&mut self, random: &mut Random) {
        let from = self.begin_late(random);
        let length = random.within(20..=240) * MINUTE;
        match random.below(10) {
            0..6 => {
                let (component, cause) = random.pick(&LOCAL);
                let repair = random.chance(10).then(|| u32::try_from(random.within(1..=3)).expect("small"));
                let mut hit = BTreeSet::from([random.index(self.size)]);
                if random.chance(40) {
                    // More of them, those launched later too.
                    let more = random.within(1..=4);
                    hit.extend((0..more).map(|_| random.index(2 * self.size + 2)));
                }
                for index in hit {
                    // Agents that end about when they decide and are asked, and some that forget it.
                    for _ in 0..if random.chance(30) { 4 } else { 0 } {
                        let at = from + random.within(5 * MINUTE..=12 * MINUTE);
                        let (index, away) = (random.index(self.size), random.within(1..=5) * SECOND);
                        self.acts.push((at, Act::Restart { index, away, forgets: random.chance(30) }));
                    }
                    let late = if random.chance(50) { 0 } else { random.within(0..=150) * MINUTE };
                    let kind = Kind::Broken { whom: Whom::One(index), component: component.clone(), cause };
                    self.world.faults.push(Fault { from: from + late, to: from + late + length, kind, repair });
                }
            }
            6 => {
                let (component, cause) = random.pick(&DEPENDENCY);
                self.add(from, length, Kind::Broken { whom: Whom::All, component, cause });
            }
            7 => {
                let (component, cause) = random.pick(&DEPENDENCY);
                self.add(from, length, Kind::Broken { whom: self.zone(random), component, cause });
            }
            8 => {
                let (component, cause) = random.pick(&DEPENDENCY);
                self.add(from, length, Kind::Broken { whom: self.some(random), component, cause });
            }
            _ => {
                let (component, cause) = random.pick(&DEPLOYMENT);
                self.add(from, length, Kind::Broken { whom: Whom::All, component, cause });
            }
        }
    }

    fn aws(&mut self, random: &mut Random) {
        let (from, length) = (self.begin_late(random), random.within(1..=60) * MINUTE);
        let kind = match random.below(8) {
            0 => Kind::Api(Api::Refuses),
            1 => Kind::Api(Api::Hangs),
            2 | 3 => Kind::Api(Api::LosesAnswers),
            4 => Kind::Api(Api::Late(random.within(1..=30) * SECOND)),
            5 => Kind::Api(Api::Stale(random.within(1..=60) * SECOND)),
            6 => Kind::LaunchesFail,
            _ => Kind::Suspended(random.pick(&["Launch", "Terminate", "ReplaceUnhealthy"])),
        };
        self.add(from, length, kind);
    }

    fn interventions(&mut self, random: &mut Random) {
        let at = self.begin_late(random);
        let index = random.index(self.size);
        match random.below(4) {
            0 => {
                let desired = random.within(1..=self.size as u64 + 2);
                self.acts.push((at, Act::Desired(usize::try_from(desired).expect("small"))));
            }
            1 => self.acts.push((at, Act::Terminate(index))),
            2 => {
                self.acts.push((at, Act::Hold { index, on: true }));
                self.acts.push((at + random.within(1..=120) * MINUTE, Act::Hold { index, on: false }));
            }
            _ => {
                let step = i64::try_from(random.within(0..=8_000)).expect("small") - 4_000;
                self.acts.push((at, Act::Clock { index, step: step * 1_000 }));
            }
        }
    }

    fn shared(&mut self, random: &mut Random) {
        let (from, length) = (self.begin_late(random), Self::length(random));
        let (component, cause) = if random.chance(25) { random.pick(&DEPLOYMENT) } else { random.pick(&DEPENDENCY) };
        match random.below(10) {
            // No zone breaks a web server.
            5..8 if component.is_dependency() => {
                self.add(from, length, Kind::Broken { whom: self.zone(random), component, cause });
            }
            8 => self.add(from, length, Kind::Broken { whom: self.some(random), component, cause }),
            0..8 => self.add(from, length, Kind::Broken { whom: Whom::All, component, cause }),
            _ => {
                // A rolling one: all in the end, each at its time.
                for index in 0..self.size {
                    let late = random.within(0..=60) * SECOND;
                    let (component, whom) = (component.clone(), Whom::One(index));
                    self.add(from + late, length, Kind::Broken { whom, component, cause });
                }
            }
        }
    }

    fn network(&mut self, random: &mut Random) {
        let (from, length) = (self.begin_late(random), Self::length(random));
        let kind = match random.below(6) {
            0 => Kind::Lossy { percent: random.within(1..=80) },
            1 => Kind::Slow { whom: self.some(random), delay: random.within(50..=3_000) },
            2 => Kind::Cut { from: Whom::One(random.index(self.size)), to: Whom::All },
            3 => Kind::Cut { from: Whom::All, to: Whom::One(random.index(self.size)) },
            4 => Kind::Cut { from: self.zone(random), to: self.zone(random) },
            _ => Kind::Cut { from: self.some(random), to: self.some(random) },
        };
        self.add(from, length, kind);
    }

    fn harmless(&mut self, random: &mut Random) {
        let (component, cause) = random.pick(&HARMLESS);
        let whom = if random.chance(50) { Whom::All } else { Whom::One(random.index(self.size)) };
        self.add(Self::begin(random), Self::length(random), Kind::Broken { whom, component, cause });
    }

    fn restarts(&mut self, random: &mut Random) {
        let forgets = random.chance(25);
        let all = random.chance(20);
        let at = self.begin_late(random) + random.below(5 * MINUTE);
        for index in 0..self.size {
            if all || random.chance(30) {
                let away = if random.chance(70) { random.within(1..=5) } else { random.within(5..=300) };
                let act = Act::Restart { index, away: away * SECOND, forgets };
                self.acts.push((at + random.below(30 * SECOND), act));
            }
        }
    }

    fn zone(&self, random: &mut Random) -> Whom {
        Whom::Zone(u8::try_from(random.below(u64::from(self.zones))).expect("small"))
    }

    fn some(&self, random: &mut Random) -> Whom {
        let share = random.within(20..=80);
        Whom::Some((0..self.size).filter(|_| random.chance(share)).collect::<BTreeSet<_>>())
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let World { app_needs_efs, app_needs_database, nginx_needs_efs, .. } = self.world;
        writeln!(f, "{:?}: {} instances in {} zones, {:.0} s", self.theme, self.size, self.zones, seconds(self.end))?;
        writeln!(f, "needs: app efs {app_needs_efs}, app database {app_needs_database}, nginx efs {nginx_needs_efs}")?;
        for fault in &self.world.faults {
            writeln!(f, "  {fault}")?;
        }
        for (at, act) in &self.acts {
            writeln!(f, "  {:>9.1} s: {act:?}", seconds(*at))?;
        }
        Ok(())
    }
}
