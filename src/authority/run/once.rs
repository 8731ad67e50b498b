//! One look without an agent, for `dr-agent check`: what an agent that starts now would decide. Nothing is carried out.

use std::path::Path;
use std::sync::Arc;

use super::super::decide;
use super::super::facts::{Applied, Group};
use super::super::memory::Memory;
use super::super::said::Said;
use super::gather::{self, Sources};
use super::setup::Setup;
use crate::clock::BootTime;
use crate::config::Config;
use crate::group::keys::Keys;
use crate::repoint::run::Progress;
use crate::state::State;

/// Where this machine stands.
#[derive(Debug)]
pub struct Stands<'a> {
    pub boot: &'a str,
    pub saved: &'a State,
    /// The marker `fenced` is there.
    pub gate_closed: bool,
}

/// Asks both databases and the other region once, within 2 s each; the members of the group and its tags are the agent's
/// to ask. `None` where there are not two regions with a database.
pub async fn once(config: &Config, stands: &Stands<'_>) -> Option<Said> {
    let setup = Setup::of(config)?;
    let started = BootTime::now();
    let key_file = config.key_file.as_deref();
    let keys = key_file.and_then(|file: &Path| Keys::read(file).ok());
    let mut sources = Sources::of(&setup);
    let mut facts = sources.facts(&setup, started);
    Box::pin(sources.ask(keys.as_ref())).await.tell(&mut facts);
    let progress = Arc::new(Progress::kept(config));
    facts.now = BootTime::now();
    facts.tags = None;
    facts.group = Group { asked: Some(facts.now), ..Group::default() };
    facts.applied = Applied { gate_closed: stands.gate_closed, ..gather::applied(&setup, &progress) };
    let memory = Memory::resume(stands.saved.authority.clone(), stands.boot, started);
    let decision = decide::decide(&facts, &memory);
    Some(Said::of(decision, &facts, Arc::clone(&stands.saved.ledger), progress))
}
