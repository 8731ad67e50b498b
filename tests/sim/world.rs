//! What is true: which thing is broken for whom and when, and who can reach whom. Agents see of it what their probes
//! and questions find; the laws judge by it.

use std::collections::BTreeSet;
use std::fmt;

use dr_agent::health::cause::Cause;
use dr_agent::observation::Component;

/// Milliseconds since the history began: the world's clock, which no agent can read.
pub type Ms = u64;

/// An instance, by the order of launch.
pub type Index = usize;

pub const SECOND: Ms = 1_000;
pub const MINUTE: Ms = 60 * SECOND;
pub const HOUR: Ms = 60 * MINUTE;

/// What is probed, in the order of [`SITE`].
pub const SITE: [Component; 5] =
    [Component::Nginx, Component::App, Component::Efs, Component::Database, Component::Host];

/// For whom something is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    One(Index),
    Zone(u8),
    Some(BTreeSet<Index>),
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Probes of `component` find `cause`.
    Broken {
        whom: Whom,
        component: Component,
        cause: Cause,
    },
    /// No word of the first gets to the second.
    Cut {
        from: Whom,
        to: Whom,
    },
    /// What one sends takes so long.
    Slow {
        whom: Whom,
        delay: Ms,
    },
    /// So many of a hundred words are lost.
    Lossy {
        percent: u64,
    },
    Api(Api),
    LaunchesFail,
    /// A process of the Auto Scaling group.
    Suspended(&'static str),
}

/// How the AWS API fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// It says so at once.
    Refuses,
    /// It says nothing and does nothing.
    Hangs,
    /// It does what it is told and the answer is lost.
    LosesAnswers,
    /// It does it so much later, and nobody waits for that.
    Late(Ms),
    /// It tells how things were.
    Stale(Ms),
}

/// Something that is wrong for a time: from `from` on, until just before `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub from: Ms,
    pub to: Ms,
    pub kind: Kind,
    /// This attempt to repair it helps.
    pub repair: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.1} s to {:>9.1} s: {:?}", seconds(self.from), seconds(self.to), self.kind)
    }
}

pub fn seconds(at: Ms) -> f64 {
    std::time::Duration::from_millis(at).as_secs_f64()
}

#[derive(Debug, Clone, Default)]
pub struct World {
    pub faults: Vec<Fault>,
    /// The zone of each instance ever launched.
    pub zones: Vec<u8>,
    /// The app answers errors while this dependency is broken.
    pub app_needs_efs: bool,
    pub app_needs_database: bool,
    /// nginx's workers hang while the mount does.
    pub nginx_needs_efs: bool,
}

impl World {
    fn hits(&self, whom: &Whom, index: Index) -> bool {
        match whom {
            Whom::One(one) => *one == index,
            Whom::Zone(zone) => self.zones[index] == *zone,
            Whom::Some(some) => some.contains(&index),
            Whom::All => true,
        }
    }

    /// What is itself wrong with `component` on `index` at `at`, consequences of other faults aside.
    pub fn own_faults<'a>(&'a self, index: Index, component: &'a Component, at: Ms) -> impl Iterator<Item = &'a Fault> {
        self.faults.iter().filter(move |fault| fault.from <= at && at < fault.to).filter(move |fault| {
            match &fault.kind {
                Kind::Broken { whom, component: broken, .. } => broken == component && self.hits(whom, index),
                _ => false,
            }
        })
    }

    fn own_cause(&self, index: Index, component: &Component, at: Ms) -> Option<Cause> {
        let fault = self.own_faults(index, component, at).next()?;
        match fault.kind {
            Kind::Broken { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// What an attempt on `component` finds; `None` if it passes.
    pub fn cause(&self, index: Index, component: &Component, at: Ms) -> Option<Cause> {
        if let Some(cause) = self.own_cause(index, component, at) {
            return Some(cause);
        }
        let broken = |c: &Component| self.cause(index, c, at).is_some_and(is_outage);
        match component {
            Component::Nginx if self.nginx_needs_efs && broken(&Component::Efs) => Some(Cause::NginxTimeout),
            Component::App if broken(&Component::Nginx) => Some(Cause::AppUnreachable),
            Component::App if self.app_needs_efs && broken(&Component::Efs) => Some(Cause::AppTimeout),
            Component::App if self.app_needs_database && broken(&Component::Database) => Some(Cause::AppBadStatus),
            _ => None,
        }
    }

    /// Everything passes on `index` from `from` to `to`, as far as `component` is concerned.
    pub fn is_fine(&self, index: Index, component: &Component, from: Ms, to: Ms) -> bool {
        let concerns = |broken: &Component| {
            broken == component
                || match component {
                    Component::Nginx => self.nginx_needs_efs && *broken == Component::Efs,
                    Component::App => !matches!(broken, Component::Host),
                    _ => false,
                }
        };
        !self.faults.iter().any(|fault| match &fault.kind {
            Kind::Broken { whom, component: broken, .. } => {
                fault.from <= to && from < fault.to && concerns(broken) && self.hits(whom, index)
            }
            _ => false,
        })
    }

    /// Since when `component` has been down on `index` by one and the same fault of its own; `None` while it is not.
    pub fn down_since(&self, index: Index, component: &Component, at: Ms) -> Option<Ms> {
        let down = self.own_faults(index, component, at).filter(|fault| match fault.kind {
            Kind::Broken { cause, .. } => is_outage(cause),
            _ => false,
        });
        down.map(|fault| fault.from).min()
    }

    /// How long a word from `from` to `to` takes; `None` if it never arrives. `luck` is 0 to 99.
    pub fn delay(&self, from: Index, to: Index, at: Ms, luck: u64) -> Option<Ms> {
        let mut delay = 0;
        for fault in self.faults.iter().filter(|fault| fault.from <= at && at < fault.to) {
            match &fault.kind {
                Kind::Cut { from: mute, to: deaf } if self.hits(mute, from) && self.hits(deaf, to) => return None,
                Kind::Slow { whom, delay: more } if self.hits(whom, from) => delay += more,
                Kind::Lossy { percent } if luck < *percent => return None,
                _ => {}
            }
        }
        Some(delay)
    }

    /// What else is the matter at `at`.
    pub fn matters(&self, at: Ms) -> impl Iterator<Item = &Kind> {
        self.faults.iter().filter(move |fault| fault.from <= at && at < fault.to).map(|fault| &fault.kind)
    }

    pub fn api(&self, at: Ms) -> Option<Api> {
        self.matters(at).find_map(|kind| if let Kind::Api(api) = kind { Some(*api) } else { None })
    }

    /// Attempt number `attempt` to repair `component` on `index`.
    pub fn repair(&mut self, index: Index, component: &Component, attempt: u32, at: Ms) -> bool {
        let mut helped = false;
        for fault in self.faults.iter_mut().filter(|fault| fault.from <= at && at < fault.to) {
            let here = matches!(&fault.kind, Kind::Broken { whom: Whom::One(one), component: broken, .. }
                if *one == index && broken == component);
            if here && fault.repair.is_some_and(|helps| helps <= attempt) {
                fault.to = at;
                helped = true;
            }
        }
        helped
    }

    /// Nothing is wrong with the network between two from `from` to `to`.
    pub fn is_connected(&self, one: Index, other: Index, from: Ms, to: Ms) -> bool {
        !self.faults.iter().filter(|fault| fault.from <= to && from < fault.to).any(|fault| match &fault.kind {
            Kind::Cut { from: mute, to: deaf } => {
                (self.hits(mute, one) && self.hits(deaf, other)) || (self.hits(mute, other) && self.hits(deaf, one))
            }
            Kind::Slow { whom, .. } => self.hits(whom, one) || self.hits(whom, other),
            Kind::Lossy { .. } => true,
            _ => false,
        })
    }
}

/// It does not work, as opposed to: works with a remark, or could not be looked at.
pub fn is_outage(cause: Cause) -> bool {
    cause.row().status == dr_agent::health::cause::Status::Unhealthy
}

/// An attempt that finds it takes its whole deadline.
pub const fn hangs(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::NginxTimeout
            | Cause::AppTimeout
            | Cause::EfsHung
            | Cause::EfsServerUnreachable
            | Cause::DatabaseTimeout
            | Cause::DatabaseUnreachable
    )
}
