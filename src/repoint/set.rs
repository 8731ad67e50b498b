//! All outputs of one decision together, and what the helper keeps of them: what they say now, what they said before,
//! and what was under way when a run was killed. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::decision::{Decision, Target};
use super::render::{self, Content};
use crate::config::{HostPort, Output, Region};

/// The files of one decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Of the decision.
    pub id: String,
    /// Whose database is the writer; `None` is no writer.
    pub writer: Option<String>,
    pub content: Content,
    pub texts: BTreeMap<PathBuf, String>,
}

/// What outlives a run of the helper.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// In force.
    pub now: Option<Set>,
    /// In force before that.
    pub before: Option<Set>,
    /// Begun, and not known to have ended: of its files each says the old or the new text.
    pub in_flight: Option<Set>,
}

/// Why a decision cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the configuration has no [region.{0}]")]
    NoRegion(String),
    #[error("[region.{0}] has no `database`")]
    NoDatabase(String),
}

/// What the configuration, which is root's, contributes.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    pub regions: &'a BTreeMap<String, Region>,
    pub outputs: &'a [Output],
    /// The name servers of this machine.
    pub resolvers: &'a [IpAddr],
}

impl Set {
    /// The files that a decision asks for. A writer that it does not name is in none of them.
    ///
    /// # Errors
    /// When it names a region whose database is not known.
    pub fn of(decision: &Decision, settings: Settings<'_>, kept: &Kept) -> Result<Self, Refusal> {
        let (writer, old) = match &decision.rollback {
            None => (decision.writer.region(), None),
            // What was there before comes back only if the present state allows its writer. Carried out once more, it is
            // what it was.
            Some(id) => {
                let same = kept.newest().filter(|set| set.id == decision.id);
                let old = same.or_else(|| kept.before(id)).filter(|old| old.writer.is_some());
                let old = old.filter(|old| old.writer.as_deref() == decision.writer.region());
                (old.and_then(|old| old.writer.as_deref()), old)
            }
        };
        let content = match old {
            Some(old) => old.content.clone(),
            None => Content {
                writer: writer.map(|name| settings.endpoint(name)).transpose()?,
                reader: match &decision.reader {
                    Target::None => None,
                    Target::Region(name) => Some(settings.endpoint(name)?),
                    Target::Unchanged => kept.newest().and_then(|set| set.content.reader.clone()),
                },
                state: decision.state.clone(),
                epoch: decision.epoch,
            },
        };
        let text = |output: &Output| {
            let old = old.and_then(|old| old.texts.get(&output.path));
            let text = old.cloned().unwrap_or_else(|| render::text(output.format, &content, settings.resolvers));
            (output.path.clone(), text)
        };
        let texts = settings.outputs.iter().map(text).collect();
        Ok(Self { id: decision.id.clone(), writer: writer.map(str::to_owned), content, texts })
    }
}

impl Settings<'_> {
    fn endpoint(&self, name: &str) -> Result<HostPort, Refusal> {
        let region = self.regions.get(name).ok_or_else(|| Refusal::NoRegion(name.to_owned()))?;
        region.database_at().ok_or_else(|| Refusal::NoDatabase(name.to_owned()))
    }

    /// The region whose database is there.
    #[must_use]
    pub fn region_at(&self, endpoint: &HostPort) -> Option<&str> {
        let mut regions = self.regions.iter();
        regions.find(|(_, region)| region.database_at().as_ref() == Some(endpoint)).map(|(name, _)| name.as_str())
    }
}

impl Kept {
    /// What was in force before the decision `id`. One that was never begun, as of a set that could not be written, left
    /// in force what is.
    fn before(&self, id: &str) -> Option<&Set> {
        let is = |set: &Option<Set>| set.as_ref().is_some_and(|set| set.id == id);
        if is(&self.in_flight) {
            self.now.as_ref()
        } else if is(&self.now) {
            self.before.as_ref()
        } else if is(&self.before) || self.in_flight.is_some() {
            None
        } else {
            self.now.as_ref()
        }
    }

    /// Whether the decision `id` was begun, and is the newest that was.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.newest().is_some_and(|set| set.id == id)
    }

    fn newest(&self) -> Option<&Set> {
        self.in_flight.as_ref().or(self.now.as_ref())
    }

    /// `set` is in force, and nothing is under way.
    pub fn settle(&mut self, set: Set) {
        if self.now.as_ref().is_some_and(|now| now.id != set.id) {
            self.before = self.now.take();
        }
        self.now = Some(set);
        self.in_flight = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::decision::tests::decision;
    use super::*;
    use crate::config::Format;

    fn region(host: &str) -> Region {
        Region { database: Some(host.to_owned()), ..Region::default() }
    }

    struct Machine {
        regions: BTreeMap<String, Region>,
        outputs: Vec<Output>,
        kept: Kept,
    }

    impl Machine {
        fn new() -> Self {
            let regions = [("a".to_owned(), region("a.example")), ("b".to_owned(), region("b.example:3307"))];
            let output = |format, path: &str| Output { format, path: path.into() };
            Self {
                regions: regions.into(),
                outputs: vec![output(Format::Env, "/x/env"), output(Format::Json, "/x/json")],
                kept: Kept::default(),
            }
        }

        fn of(&self, decision: &Decision) -> Result<Set, Refusal> {
            let settings = Settings { regions: &self.regions, outputs: &self.outputs, resolvers: &[] };
            Set::of(decision, settings, &self.kept)
        }

        fn apply(&mut self, decision: &Decision) {
            let set = self.of(decision).unwrap();
            self.kept.settle(set);
        }

        fn back(id: &str, of: &str, allowed: &str) -> Decision {
            Decision { rollback: Some(of.to_owned()), ..decision(id, allowed, "b") }
        }
    }

    #[test]
    fn hosts_are_those_of_the_configuration() {
        let machine = Machine::new();
        let set = machine.of(&decision("1", "b", "a")).unwrap();
        assert_eq!(set.content.writer, Some(HostPort { host: "b.example".to_owned(), port: 3307 }));
        assert_eq!(set.content.reader.unwrap().port, 3306);
        assert_eq!(set.texts.len(), 2);
        assert_eq!(machine.of(&decision("1", "c", "a")), Err(Refusal::NoRegion("c".to_owned())));
        assert_eq!(machine.of(&decision("1", "none", "none")).unwrap().content.writer, None);
    }

    #[test]
    fn a_reader_stays_as_it_was() {
        let mut machine = Machine::new();
        assert_eq!(machine.of(&decision("1", "a", "unchanged")).unwrap().content.reader, None, "nobody knows one");
        machine.apply(&decision("1", "a", "b"));
        machine.apply(&decision("2", "none", "unchanged"));
        assert_eq!(machine.kept.now.unwrap().content.reader.unwrap().host, "b.example");
    }

    #[test]
    fn a_rollback_restores_only_a_writer_that_is_allowed() {
        let mut machine = Machine::new();
        machine.apply(&decision("1", "a", "a"));
        let good = machine.kept.now.clone().unwrap();
        // The same region at another host, which turns out to be wrong.
        machine.regions.insert("a".to_owned(), region("wrong.example"));
        machine.apply(&decision("2", "a", "a"));
        let restored = machine.of(&Machine::back("3", "2", "a")).unwrap();
        assert_eq!((&restored.texts, restored.writer.as_deref()), (&good.texts, Some("a")));
        let kept = machine.of(&Machine::back("3", "never begun", "a")).unwrap();
        assert_eq!(Some(&kept.texts), machine.kept.now.as_ref().map(|now| &now.texts));
        for (of, allowed) in [("2", "b"), ("2", "none"), ("1", "a"), ("never begun", "b")] {
            let set = machine.of(&Machine::back("3", of, allowed)).unwrap();
            assert_eq!((set.writer, set.content.writer), (None, None), "{of} {allowed}");
        }
        // Once more, after a restart of the agent: what it restored stays, whether or not its first run ended.
        machine.apply(&Machine::back("3", "2", "a"));
        let again = |machine: &Machine| machine.of(&Machine::back("3", "2", "a")).unwrap();
        assert_eq!(again(&machine).texts, good.texts);
        let settled = machine.kept.clone();
        let restored = machine.kept.now.replace(good.clone());
        machine.kept.in_flight = restored;
        assert_eq!(again(&machine).texts, good.texts);
        machine.kept = settled;
        // The run that is taken back was killed, or failed, before it ended.
        machine.apply(&decision("1", "a", "a"));
        machine.kept.in_flight = Some(machine.of(&decision("4", "a", "b")).unwrap());
        assert_eq!(machine.of(&Machine::back("5", "4", "a")).unwrap().writer.as_deref(), Some("a"));
        // What had no writer before has none again.
        machine.apply(&decision("6", "none", "a"));
        machine.apply(&decision("7", "b", "a"));
        assert_eq!(machine.of(&Machine::back("8", "7", "b")).unwrap().writer, None);
    }

    #[test]
    fn one_decision_twice_is_still_one() {
        let mut machine = Machine::new();
        machine.apply(&decision("1", "a", "a"));
        machine.apply(&decision("2", "b", "a"));
        let kept = machine.kept.clone();
        machine.apply(&decision("2", "b", "a"));
        assert_eq!(machine.kept, kept);
    }
}
