//! `dr-agent helper repoint-apply`: one run of the root helper, which makes the outputs say what the agent decided.
//!
//! It may be killed at any instruction. Each file says the old or the new text; what is under way is written down before
//! the first of them changes, so the next run, of this decision or of a newer one, completes it. Run again for the same
//! decision it changes nothing.
//!
//! A set with a writer is written only if every file of it can be. A set without one goes as far as it can: what is closed
//! late is better than what stays open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VERB;
use super::decision::{self, Decision, Target, Unusable};
use super::files::{self, Staged};
use super::render;
use super::set::{Kept, Refusal, Set, Settings};
use super::unit::{self, Changes};
use crate::config::load::{self, Problems};
use crate::config::{Config, Format, Output};
use crate::helper::{Done, Paths};
use crate::state::write_atomically;
use crate::telemetry::ErrorChain;

/// Where the root helper keeps what it did.
pub const USUAL_DIR: &str = "/var/lib/dr-agent-helper";
const KEPT: &str = "repoint.json";
const LOCK: &str = "lock";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    #[serde(flatten)]
    pub done: Done,
    /// What the outputs say now; `None` when that is not known.
    #[serde(default)]
    pub writer: Option<Target>,
    /// What did not keep it from being done.
    #[serde(default)]
    pub warning: Option<String>,
}

/// Why nothing was done, not even a result written.
#[derive(Debug, Error)]
pub enum Failed {
    #[error("there is no good configuration, and no copy of one")]
    Configuration(#[source] Problems),
    #[error("there is no decision")]
    Decision(#[source] Unusable),
    #[error("cannot use {path}")]
    Dir {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("another run is under way")]
    Busy,
    #[error("cannot write the result")]
    Result(#[source] io::Error),
}

/// Why a decision was not carried out, or not to its end.
#[derive(Debug, Error)]
enum Undone {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("cannot write down what is to be done")]
    Journal(#[source] io::Error),
}

/// The helper's own folder: systemd names it, and only root can write there.
#[must_use]
pub fn dir() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| USUAL_DIR.into(), PathBuf::from)
}

/// The configuration at `path`, of which a copy is kept in `dir`; if it is bad, that copy, with what is wrong.
///
/// # Errors
/// When there is no good copy either.
pub fn configuration(path: Option<&Path>, dir: &Path) -> Result<(Config, Option<String>), Problems> {
    // Without a region: everything that repointing needs is the same in both.
    let good = |path: &Path| load::read(path).and_then(|file| file.config(None).map(|config| (file, config)));
    match good(path.unwrap_or(Path::new(load::DEFAULT_PATH))) {
        Ok((file, config)) => {
            let warning = load::remember_good(&file, dir).err();
            Ok((config, warning.map(|error| format!("no copy of the configuration could be kept: {error}"))))
        }
        Err(problems) => {
            let warning = format!("the last good configuration was used: {}", problems.lines().join("; "));
            load::kept_good(dir, None).map(|config| (config, Some(warning))).map_err(|_| problems)
        }
    }
}

/// Carries out the decision that is there now, and writes the result.
///
/// # Errors
/// When there is nothing to carry out, or nobody can be told.
pub async fn run(path: Option<&Path>) -> Result<Applied, Failed> {
    let dir = dir();
    let unusable = |error| Failed::Dir { path: dir.clone(), error };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let lock = File::create(dir.join(LOCK)).map_err(unusable)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Failed::Busy)?;
    let (config, warning) = configuration(path, &dir).map_err(Failed::Configuration)?;
    let paths = Paths::of(&config.listen.control);
    let decision = decision::read(&config.state_dir, paths.run_dir()).map_err(Failed::Decision)?;
    let mut applied = Run { dir: &dir, config: &config, decision: &decision }.carry_out().await;
    applied.warning = warning;
    paths.report(VERB, &applied).map_err(Failed::Result)?;
    Ok(applied)
}

struct Run<'a> {
    dir: &'a Path,
    config: &'a Config,
    decision: &'a Decision,
}

impl Run<'_> {
    async fn carry_out(&self) -> Applied {
        let mut problems = Vec::new();
        let writer = match self.set().await {
            Ok((writer, more)) => {
                problems.extend(more);
                writer
            }
            Err(error) => {
                problems.push(ErrorChain(&error).to_string());
                None
            }
        };
        let error = (!problems.is_empty()).then(|| problems.join("; "));
        let done = Done { id: self.decision.id.clone(), ok: error.is_none(), error };
        Applied { done, writer, warning: None }
    }

    /// The writer that the outputs name afterwards, if that is known, and what went wrong on the way.
    async fn set(&self) -> Result<(Option<Target>, Vec<String>), Undone> {
        let outputs = &self.config.repoint.outputs;
        let resolvers = render::resolvers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        let settings = Settings { regions: &self.config.regions, outputs, resolvers: &resolvers };
        // A record that is damaged is as good as lost: everything is written and applied anew.
        let kept: Option<Kept> = fs::read(self.dir.join(KEPT)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut kept = kept.unwrap_or_default();
        if self.decision.only_new && !kept.knows(&self.decision.id) {
            match before(settings)? {
                Before::NoWriter => {}
                Before::Writer(name) => return Ok((Some(Target::Region(name)), Vec::new())),
                Before::Unknown => return Ok((None, Vec::new())),
            }
        }
        let set = Set::of(self.decision, settings, &kept)?;
        let opens = set.writer.is_some();
        let mut problems = Vec::new();

        let mut staged: Vec<(&Output, Staged)> = Vec::new();
        let mut changes = Changes::default();
        for output in outputs {
            let Some(text) = set.texts.get(&output.path) else { continue };
            match stage(output, text, &mut changes) {
                Ok(new) => staged.extend(new.map(|new| (output, new))),
                Err(error) if opens => return Err(error.into()),
                Err(error) => problems.push(ErrorChain(&error).to_string()),
            }
        }
        if kept.in_flight.is_some() {
            // Nobody knows what the run before this one still did.
            changes = Changes::all(outputs);
        }
        if staged.is_empty() && kept.in_flight.is_none() && kept.now.as_ref() == Some(&set) {
            return Ok((Some(target(&set)), problems));
        }
        kept.in_flight = Some(set.clone());
        match self.keep(&kept) {
            Err(error) if opens => return Err(Undone::Journal(error)),
            Err(error) => problems.push(ErrorChain(&Undone::Journal(error)).to_string()),
            Ok(()) => {}
        }
        for (_, new) in staged {
            match new.commit() {
                Err(error) if opens => return Err(error.into()),
                Err(error) => problems.push(ErrorChain(&error).to_string()),
                Ok(()) => {}
            }
        }
        problems.extend(unit::apply(&self.config.repoint, changes, opens).await);
        // An app that was not told writes on where it wrote.
        let writer = problems.is_empty().then(|| target(&set));
        if problems.is_empty() {
            kept.settle(set);
            if let Err(error) = self.keep(&kept) {
                problems.push(ErrorChain(&Undone::Journal(error)).to_string());
            }
        }
        Ok((writer, problems))
    }

    fn keep(&self, kept: &Kept) -> io::Result<()> {
        write_atomically(&self.dir.join(KEPT), &serde_json::to_vec(kept)?, 0o600)
    }
}

/// Writes the new text beside the old one, and notes whom it concerns that it is another one.
fn stage(output: &Output, text: &str, changes: &mut Changes) -> Result<Option<Staged>, files::Error> {
    let old = files::read(&output.path)?;
    let new = files::stage(&output.path, text)?;
    if matches!(output.format, Format::Proxy(_)) {
        changes.proxy |= new.is_some();
    } else {
        // The app need not hear of a new epoch.
        let endpoints = |text: &str| render::endpoints(output.format, text);
        changes.app |= old.as_deref().and_then(endpoints) != endpoints(text);
    }
    Ok(new)
}

fn target(set: &Set) -> Target {
    set.writer.clone().map_or(Target::None, Target::Region)
}

/// What outputs say that nobody decided here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Before {
    /// None of them ever had a writer.
    NoWriter,
    Writer(String),
    /// One that the configuration does not know, or not all the same.
    Unknown,
}

fn before(settings: Settings<'_>) -> Result<Before, files::Error> {
    let mut before = Before::NoWriter;
    for output in settings.outputs {
        let Some(text) = files::read(&output.path)? else { continue };
        let found = match render::endpoints(output.format, &text) {
            Some((None, _)) => continue,
            Some((Some(writer), _)) => settings.region_at(&writer).map(str::to_owned),
            None => None,
        };
        before = match (before, found) {
            (Before::NoWriter, Some(name)) => Before::Writer(name),
            (Before::Writer(other), Some(name)) if other == name => Before::Writer(name),
            _ => Before::Unknown,
        };
    }
    Ok(before)
}
