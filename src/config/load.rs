//! Reading the file: whose it is, whether it parses, and what is in force when it does not.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use toml::de::{DeTable, DeValue};

use super::raw::{Problem, Source};
use super::{Config, defaults, validate};
use crate::group::word::fingerprint;
use crate::state::write_atomically;

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/dr-agent/agent.toml";

/// The copy of the last good file, in the state directory.
const GOOD: &str = "config.good.toml";

/// Root's own, which is good in this machine's region.
const GOOD_HERE: &str = "config.good-here.toml";

/// No configuration is this long.
const LONGEST: u64 = 1024 * 1024;

/// A file that may be trusted: a regular file of root or of the user who runs this, which nobody else can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    path: PathBuf,
    text: String,
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    path: PathBuf,
    kind: Kind,
    list: Vec<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Missing,
    Permission,
    Content,
}

/// The configuration to start with.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// The file that it is from; none for the built-in defaults.
    pub file: Option<File>,
    /// What it is in place of what was asked for.
    pub stand_in: Option<StandIn>,
    /// What is wrong, one line each. Empty if the file is good, and if there is none at [`DEFAULT_PATH`] and nobody
    /// named one: then the built-in defaults are what was asked for.
    pub problems: Vec<String>,
    /// The state directory that the file names.
    named_state_dir: Option<PathBuf>,
}

/// What is in force in place of a file that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandIn {
    LastGood,
    Defaults,
}

impl Problems {
    fn one(path: &Path, kind: Kind, text: impl Into<String>, fix: Option<String>) -> Self {
        Self { path: path.to_owned(), kind, list: vec![Problem { line: None, text: text.into(), fix }] }
    }

    /// There is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }

    /// This user may not read the file.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.kind == Kind::Permission
    }

    /// One line for each problem: file, line, key, value, fix.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| match &problem.fix {
            Some(fix) => format!("{}; fix: `{fix}`", self.without_fix(problem)),
            None => self.without_fix(problem),
        };
        self.list.iter().map(line).collect()
    }

    /// The line of one without its fix: for a file that nobody is to mend.
    fn without_fix(&self, problem: &Problem) -> String {
        let path = self.path.display();
        match problem.line {
            Some(line) => format!("{path}:{line}: {}", problem.text),
            None => format!("{path}: {}", problem.text),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Problems {}

impl File {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of `region`; without one, what does not depend on it.
    ///
    /// # Errors
    /// With everything that is wrong in the file, at once.
    pub fn config(&self, region: Option<&str>) -> Result<Config, Problems> {
        let mut config = self.typed(region)?;
        // As the home region sees it, wherever this is.
        let home = config.home.as_deref().and_then(|home| self.typed(Some(home)).ok());
        config.digest = home.map(|home| format!("{}:{}", env!("CARGO_PKG_VERSION"), fingerprint(&format!("{home:?}"))));
        Ok(config)
    }

    fn typed(&self, region: Option<&str>) -> Result<Config, Problems> {
        let source = Source::new(&self.text);
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        // What cannot be parsed cannot be judged: a missing quote would make every key after it look missing.
        if !errors.is_empty() {
            for error in errors {
                source.report(error.span().map(|span| span.start), format!("not TOML: {}", error.message()));
            }
            return Err(self.problems(source.into_problems()));
        }
        let config = validate::config(&source, table.get_ref(), region);
        let problems = source.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(self.problems(problems)) }
    }

    /// The configuration of `region`, or, if the file has no good values for it, what does not depend on a region, with
    /// the problems, one line each. `None` if that is not good either.
    #[must_use]
    pub fn config_or_common(&self, region: &str) -> (Option<Config>, Vec<String>) {
        match self.config(Some(region)) {
            Ok(config) => (Some(config), Vec::new()),
            Err(problems) => (self.config(None).ok(), problems.lines()),
        }
    }

    fn problems(&self, list: Vec<Problem>) -> Problems {
        Problems { path: self.path.clone(), kind: Kind::Content, list }
    }

    /// The state directory that the file names, even if the rest of it is bad.
    fn state_dir(&self) -> Option<PathBuf> {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        match table.get_ref().get("state_dir")?.get_ref() {
            DeValue::String(path) if path.starts_with('/') => Some(PathBuf::from(&**path)),
            _ => None,
        }
    }
}

/// Reads a file and checks that nobody but root and the user who runs this can have written it.
///
/// # Errors
/// When it is missing, unreadable, not a regular file, not text, or not to be trusted; with the command that helps.
pub fn read(path: &Path) -> Result<File, Problems> {
    let wrong = |text: String, fix: Option<String>| Problems::one(path, Kind::Content, text, fix);
    let shown = path.display();
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Problems::one(path, Kind::Missing, "there is no such file", None),
        io::ErrorKind::PermissionDenied => {
            let fix = format!("chown root:dr-agent {shown} && chmod 0640 {shown}");
            Problems::one(path, Kind::Permission, "may not be read by this user", Some(fix))
        }
        _ => wrong(format!("cannot be read: {error}"), None),
    };
    // Not blocking: it may be a FIFO that nobody writes to.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        return Err(wrong("is not a regular file".to_owned(), None));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        let owner = meta.uid();
        let text = format!("belongs to uid {owner} and must belong to root");
        return Err(wrong(text, Some(format!("chown root {shown}"))));
    }
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o7777;
        let text = format!("can be changed by others (mode {mode:04o})");
        return Err(wrong(text, Some(format!("chmod go-w {shown}"))));
    }
    if meta.len() > LONGEST {
        return Err(wrong(format!("is longer than {LONGEST} bytes: not a configuration"), None));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(cannot)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(File { path: path.to_owned(), text }),
        Err(error) => Err(wrong(format!("is not UTF-8 text after byte {}", error.utf8_error().valid_up_to()), None)),
    }
}

/// The configuration at `path` (else [`DEFAULT_PATH`]) for a start, which never fails: without a good file it is the
/// last known good one, else the built-in defaults.
#[must_use]
pub fn at_start(path: Option<&Path>, region: Option<&str>) -> Loaded {
    start(path, region, None)
}

/// The same for a start as root, which trusts no copy that the agent's user can write, and keeps its own in `dir`. The one of
/// [`remember_good`] there counts, too: where the region was never known there is no other.
#[must_use]
pub fn at_start_of_root(path: Option<&Path>, region: Option<&str>, dir: &Path) -> Loaded {
    let copy = dir.join(GOOD_HERE);
    let loaded = start(path, region, Some(vec![copy.clone(), dir.join(GOOD)]));
    // Whether it is good for this region is not known before that is.
    if let (Some(file), None, false) = (&loaded.file, loaded.stand_in, loaded.config.policy.partial) {
        // Without a copy it is as it was before this start.
        drop(write_atomically(&copy, file.text.as_bytes(), 0o600));
    }
    loaded
}

/// `own`: the copies that count, instead of the agent's.
fn start(path: Option<&Path>, region: Option<&str>, own: Option<Vec<PathBuf>>) -> Loaded {
    let (file, problems) = match read(path.unwrap_or(Path::new(DEFAULT_PATH))) {
        Ok(file) => match file.config(region) {
            Ok(config) => {
                let named_state_dir = file.state_dir();
                return Loaded { config, file: Some(file), stand_in: None, problems: Vec::new(), named_state_dir };
            }
            Err(problems) => (Some(file), problems.lines()),
        },
        Err(problems) if problems.is_missing() && path.is_none() => {
            let config = defaults();
            return Loaded { config, file: None, stand_in: None, problems: Vec::new(), named_state_dir: None };
        }
        Err(problems) => (None, problems.lines()),
    };
    let named = file.as_ref().and_then(File::state_dir);
    let copies = own.unwrap_or_else(|| copies(named.as_deref()));
    last_good(copies, named.as_deref(), problems, region).unwrap_or_else(|problems| built_in(named, problems))
}

impl Loaded {
    /// Picks the values of `region`, if the file has any.
    pub fn move_to(&mut self, region: &str) {
        let Some(file) = &self.file else { return };
        let (config, problems) = file.config_or_common(region);
        self.problems.extend(problems);
        if let Some(config) = config {
            self.config = config;
        }
    }

    /// The deployment, unless it is unknown: the built-in defaults in place of a file name none.
    #[must_use]
    pub fn deployment(&self) -> Option<String> {
        (self.stand_in != Some(StandIn::Defaults)).then(|| self.config.deployment.clone())
    }

    /// What to start with when this cannot be in force either, for the reason `why`. `None` after the built-in defaults.
    #[must_use]
    pub fn instead(mut self, why: String, region: Option<&str>) -> Option<Self> {
        self.problems.push(why);
        let named = self.named_state_dir;
        match self.stand_in {
            None => {
                let last = last_good(copies(named.as_deref()), named.as_deref(), self.problems, region);
                Some(last.unwrap_or_else(|problems| built_in(named, problems)))
            }
            Some(StandIn::LastGood) => Some(built_in(named, self.problems)),
            Some(StandIn::Defaults) => None,
        }
    }
}

/// Where the agent's copy may be.
fn copies(named: Option<&Path>) -> Vec<PathBuf> {
    named.map(Path::to_owned).into_iter().chain([usual_state_dir()]).map(|dir| dir.join(GOOD)).collect()
}

/// The copy of the last good file: the first of these that is there and good.
///
/// # Errors
/// With the problems and those of the copies, when there is no good one.
fn last_good(
    copies: Vec<PathBuf>,
    named: Option<&Path>,
    mut problems: Vec<String>,
    region: Option<&str>,
) -> Result<Loaded, Vec<String>> {
    for path in copies {
        match read(&path).and_then(|file| file.config(region).map(|config| (file, config))) {
            Ok((file, config)) => {
                problems.push(format!("in force instead: the last good configuration, {}", path.display()));
                let (stand_in, named_state_dir) = (Some(StandIn::LastGood), named.map(Path::to_owned));
                return Ok(Loaded { config, file: Some(file), stand_in, problems, named_state_dir });
            }
            Err(why) if why.is_missing() => {}
            // A copy is nobody's to mend: with another owner or mode the agent could not read its own.
            Err(why) => problems.extend(why.list.iter().map(|problem| why.without_fix(problem))),
        }
    }
    Err(problems)
}

/// The built-in defaults in place of a file.
fn built_in(named: Option<PathBuf>, mut problems: Vec<String>) -> Loaded {
    problems.push("in force instead: the built-in defaults, which watch only nginx and the host".to_owned());
    // Where nginx looks for the markers, if it is one at all.
    let state_dir = named.clone().filter(|dir| dir.is_dir()).unwrap_or_else(usual_state_dir);
    let mut config = Config { state_dir, ..defaults() };
    config.host.paths = vec![PathBuf::from("/"), config.state_dir.clone()];
    config.policy.partial = true;
    Loaded { config, file: None, stand_in: Some(StandIn::Defaults), problems, named_state_dir: named }
}

/// The configuration at `path` (else [`DEFAULT_PATH`]) for a running agent.
///
/// # Errors
/// When it is not good; what was in force stays in force.
pub fn reload(path: Option<&Path>, region: Option<&str>) -> Result<(Option<File>, Config), Problems> {
    match read(path.unwrap_or(Path::new(DEFAULT_PATH))) {
        Ok(file) => file.config(region).map(|config| (Some(file), config)),
        Err(problems) if problems.is_missing() && path.is_none() => Ok((None, defaults())),
        Err(problems) => Err(problems),
    }
}

/// Keeps a good file for the day when it is not.
///
/// # Errors
/// When the state directory cannot be written.
pub fn remember_good(file: &File, state_dir: &Path) -> io::Result<()> {
    write_atomically(&state_dir.join(GOOD), file.text.as_bytes(), 0o600)
}

/// What [`remember_good`] kept in `dir`.
///
/// # Errors
/// When nothing good is there.
pub fn kept_good(dir: &Path, region: Option<&str>) -> Result<Config, Problems> {
    read(&dir.join(GOOD)).and_then(|file| file.config(region))
}

/// Where systemd says that the state is, else where it usually is.
fn usual_state_dir() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| validate::STATE_DIR.into(), PathBuf::from)
}
