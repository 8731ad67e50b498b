//! What people are told of replacement: the plan as it stands, and what is remembered beside it.

use std::time::Duration;

use super::memory::Memory;
use super::plan::{self, Facts, Fault, Plan};
use super::records::Records;
use super::refusal::Refusal;
use crate::clock::{BootTime, Stamp};
use crate::config::Config;
use crate::health::cause::Cause;
use crate::health::component::ComponentState;
use crate::health::verdict::{Domain, Group};
use crate::latches::{Kind, Latches};
use crate::observation::Component;
use crate::snapshot::About;

/// Observing for so long without a wish to replace is enough to arm it.
const CLEAN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The plan, and its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    pub plan: Plan,
    pub fault: Option<(Component, Cause)>,
    pub enforce: bool,
    /// How often this instance would have been replaced while that was only observed.
    pub would: u64,
    /// It was observed for a week, and would have replaced nothing.
    pub is_clean: bool,
    /// What came of the last round of asking.
    pub round: Option<String>,
    /// What came of the last repair that did not help.
    pub repair: Option<String>,
}

impl Default for Outlook {
    fn default() -> Self {
        let plan = Plan::Nothing;
        Self { plan, fault: None, enforce: false, would: 0, is_clean: false, round: None, repair: None }
    }
}

impl Outlook {
    /// The status by what is planned and remembered.
    #[must_use]
    pub fn new(plan: Plan, fault: Option<&Fault>, memory: &Memory, enforce: bool, now: &Stamp) -> Self {
        let quiet_since = memory.would_last.as_ref().unwrap_or(&memory.began);
        Self {
            plan,
            fault: fault.map(|fault| (fault.component.clone(), fault.cause)),
            enforce,
            would: memory.would,
            is_clean: !enforce && quiet_since.age(now) >= CLEAN,
            round: None,
            repair: None,
        }
    }

    /// The status by one look at everything, as an agent would have it that starts now and knows nobody.
    #[must_use]
    pub fn at_first(
        about: &About,
        config: &Config,
        components: &[(ComponentState, Option<Domain>)],
        latches: &Latches,
        gate_closed: bool,
        now: &Stamp,
    ) -> Self {
        let mut memory = Memory::new(about.owner.clone(), now.clone());
        memory.observe(components.iter().map(|(component, _)| component), &now.boot);
        let facts = Facts {
            instance: about.owner.instance.as_deref(),
            group: None,
            zone: None,
            lifecycle: None,
            has_keys: config.key_file.is_some(),
            draining: latches.get(Kind::Drain).is_some(),
            on_hold: latches.get(Kind::Hold).is_some(),
            gate_closed,
            components,
            votes: &Group::default(),
            memory: &memory,
            records: &Records::default(),
            look: None,
        };
        let plan = plan::plan(&facts, &config.replace, now);
        let fault = plan::fault(&facts, &config.replace, now);
        Self::new(plan, fault.as_ref(), &memory, config.replace.enforce, now)
    }

    /// Why it is not replaced now.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        match &self.plan {
            Plan::Refused(refusals) => refusals,
            Plan::Wait { why, .. } => std::slice::from_ref(why),
            _ => &[],
        }
    }

    /// The same words wherever it is shown.
    #[must_use]
    pub fn words(&self, now: BootTime) -> String {
        let mut words = match &self.fault {
            Some((_, cause)) if self.plan != Plan::Nothing => format!("{cause}: {}", self.plan.words(now)),
            _ => self.plan.words(now),
        };
        let mut say = |text: &str| {
            words.push_str("; ");
            words.push_str(text);
        };
        if self.plan.would_replace() {
            say("would ask the group to be replaced");
        }
        if let Some(repair) = self.repair.as_ref().filter(|_| self.plan != Plan::Nothing) {
            say(repair);
        }
        if let Some(round) = self.round.as_ref().filter(|_| self.plan != Plan::Nothing) {
            say(&format!("the last round: {round}"));
        }
        if !self.enforce && self.would > 0 {
            say(&format!("counted so far as one that would have been replaced: {}", self.would));
        }
        if self.is_clean {
            say("observed for a week and would have replaced nothing: `mode = \"enforce\"` in [replace] arms it");
        }
        words
    }
}
