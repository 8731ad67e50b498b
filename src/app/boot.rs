//! From the files to an agent that is ready to run: which configuration can be in force, whose state this is, what the
//! verdicts resume from.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Error, Options, remember_good, with_unbound};
use crate::clock::{self, BootTime};
use crate::config::Config;
use crate::config::load::{self, File, Loaded};
use crate::identity;
use crate::latches;
use crate::outputs::http::{BindError, Listeners};
use crate::outputs::{markers, persist};
use crate::owner::Owner;
use crate::resume;
use crate::snapshot::About;
use crate::state;
use crate::telemetry::{ErrorChain, event};

/// Sockets are bound and the state is loaded; nothing runs yet.
pub(super) struct Bound {
    pub(super) options: Options,
    pub(super) config: Arc<Config>,
    /// The file that it is from.
    pub(super) file: Option<File>,
    /// The region is only what this instance's state says; the metadata service may know better.
    pub(super) region_is_remembered: bool,
    /// With what is wrong with the file, and not with the listeners.
    pub(super) about: About,
    pub(super) owner: Owner,
    pub(super) listeners: Listeners,
}

impl Bound {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        let boot = clock::boot_id().map_err(Error::BootId)?;
        let instance = identity::instance();
        let region = options.region.clone().or_else(identity::region_from_file);
        let (mut loaded, listeners) = usable(options.config.as_deref(), region.as_deref())?;
        let dir = loaded.config.state_dir.clone();
        let mut who = state::Owner {
            deployment: loaded.deployment(),
            instance,
            // The built-in defaults have none, whoever named it.
            region: loaded.config.region.clone().or(region),
        };
        let saved_in = state::boot_of_file(&dir);
        let saved = state::load(&dir, &who).unwrap_or_else(|error| {
            event::state_set_aside(&error);
            if matches!(error, state::LoadError::Foreign { .. }) {
                persist::set_history_aside(&dir);
            }
            None
        });
        // In the same boot this is the same machine, whatever it is.
        let same_boot = saved.as_ref().filter(|state| state.boot == boot);
        who.instance = who.instance.take().or_else(|| same_boot.and_then(|state| state.owner.instance.clone()));
        // The last word on the region: what this instance's own state says.
        let remembered = saved.as_ref().and_then(|state| state.owner.region.clone()).filter(|_| who.region.is_none());
        let region_is_remembered = remembered.is_some();
        if let Some(region) = remembered {
            loaded.move_to(&region);
            who.region = Some(region);
        }
        let Loaded { config, file, stand_in, problems, .. } = loaded;

        let now = BootTime::now();
        let saved = saved.unwrap_or_default();
        let markers = markers::resume(&dir);
        let memory = resume::memory(&saved, saved_in.as_deref(), markers, &boot);
        let (latches, _) = latches::read(&dir, &boot, now, clock::wall(), &latches::Latches::default());
        let history = persist::load_history(&dir);
        if let Some(file) = file.as_ref().filter(|_| stand_in.is_none() && problems.is_empty()) {
            remember_good(file, &config.state_dir);
        }
        let about = About { owner: who, boot, config_problems: problems };
        let config = Arc::new(config);
        let told = with_unbound(&about, &listeners.unbound.borrow());
        for problem in &told.config_problems {
            event::config_rejected(problem);
        }
        let owner =
            Owner::new(told, Arc::clone(&config), saved, memory, latches, markers.fenced == Some(true), history, now);
        event::agent_started(&about, &listeners.addresses());
        Ok(Self { options, config, file, region_is_remembered, about, owner, listeners })
    }
}

/// The configuration that was asked for, else the best one with which the agent can start, and its listeners: a file
/// that parses may still name an address that is taken or a state directory that cannot be made.
fn usable(path: Option<&Path>, region: Option<&str>) -> Result<(Loaded, Listeners), Error> {
    let mut loaded = load::at_start(path, region);
    loop {
        let error = match prepare(&loaded.config) {
            Ok(listeners) => return Ok((loaded, listeners)),
            Err(error) => error,
        };
        let problems = loaded.problems.clone();
        // An agent that already runs is the one that does: two would get into each other's way.
        let next = match &error {
            Error::Bind(BindError::AgentRuns(_)) => None,
            error => loaded.instead(ErrorChain(error).to_string(), region),
        };
        let Some(next) = next else {
            // Why it was not the file's own address, say.
            for problem in &problems {
                event::config_rejected(problem);
            }
            return Err(error);
        };
        loaded = next;
    }
}

fn prepare(config: &Config) -> Result<Listeners, Error> {
    let dir = &config.state_dir;
    fs::create_dir_all(dir).map_err(|error| Error::StateDir { path: dir.clone(), error })?;
    Listeners::bind(&config.listen).map_err(Error::Bind)
}
