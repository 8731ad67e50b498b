//! How the agent, which has no rights, has things done that need root: it writes a request, systemd starts a root helper
//! for it, and the helper's result is a file that only root can write.

pub mod tool;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::state::{read_plain, write_atomically};

/// What a helper that answers to requests does.
pub const VERBS: [&str; 3] = ["nginx-restart", "efs-remount", "repoint-apply"];

/// The helper ends within 30 s.
pub const LIMIT: Duration = Duration::from_secs(35);

/// Of an id's characters.
const LONGEST_ID: u64 = 64;

/// Where requests and results are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    run_dir: PathBuf,
    results: PathBuf,
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Of the request.
    pub id: String,
    pub ok: bool,
    #[serde(default)]
    pub error: Option<String>,
}

impl Paths {
    /// Beside the control socket: `/run/dr-agent/request` and `/run/dr-agent-result` for `/run/dr-agent/control.sock`.
    #[must_use]
    pub fn of(control: &Path) -> Self {
        let dir = control.parent().unwrap_or(Path::new("/run/dr-agent"));
        let mut results = dir.as_os_str().to_owned();
        results.push("-result");
        Self { run_dir: dir.to_owned(), results: results.into() }
    }

    /// The control socket's folder.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Where a mount is tried before it takes the place of the old one.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.results.join("staging")
    }

    /// Where only root writes.
    #[must_use]
    pub fn results(&self) -> &Path {
        &self.results
    }

    fn request_file(&self, verb: &str) -> PathBuf {
        self.run_dir.join("request").join(verb)
    }

    fn result_file(&self, verb: &str) -> PathBuf {
        self.results.join(format!("{verb}.json"))
    }

    /// Asks for what `verb` names. Blocking.
    ///
    /// # Errors
    /// When the request cannot be written.
    pub fn request(&self, verb: &str, id: &str) -> io::Result<()> {
        fs::create_dir_all(self.run_dir.join("request"))?;
        // In place and in one write: systemd watches this file, and an id always has the same length.
        let mut file = fs::File::options().write(true).create(true).truncate(false).open(self.request_file(verb))?;
        file.write_all(format!("{id}\n").as_bytes())
    }

    /// The request that was made last and has no result yet. Its folder is the agent's, and root reads it and tells
    /// everybody the id: so nothing passes that could be more than one. Blocking.
    #[must_use]
    pub fn unanswered(&self, verb: &str) -> Option<String> {
        let text = read_plain(&self.request_file(verb), LONGEST_ID + 1).ok()?;
        let id = text.trim();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        let id = id.to_owned();
        self.result(verb, &id).is_none().then_some(id)
    }

    /// The result of the request `id`, if it is there. Blocking.
    #[must_use]
    pub fn result(&self, verb: &str, id: &str) -> Option<Done> {
        self.newest(verb).filter(|done: &Done| done.id == id)
    }

    /// The newest result, of whatever request, if it is there and of this form. Blocking.
    #[must_use]
    pub fn newest<T: DeserializeOwned>(&self, verb: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.result_file(verb)).ok()?).ok()
    }

    /// Tells what came of a request. Blocking.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn report(&self, verb: &str, done: &impl Serialize) -> io::Result<()> {
        fs::create_dir_all(&self.results)?;
        write_atomically(&self.result_file(verb), &serde_json::to_vec(done)?, 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: &str = "nginx-restart";

    #[test]
    fn a_result_is_only_of_the_request_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::of(&dir.path().join("run/control.sock"));
        assert_eq!(Paths::of(Path::new("/run/dr-agent/control.sock")).results, Path::new("/run/dr-agent-result"));
        assert_eq!(paths.unanswered(NGINX), None);
        paths.request(NGINX, "first").unwrap();
        paths.request(NGINX, "again").unwrap();
        assert_eq!(paths.unanswered(NGINX).unwrap(), "again");
        let done = Done { id: "again".to_owned(), ok: false, error: Some("nginx -t: no".to_owned()) };
        paths.report(NGINX, &done).unwrap();
        assert_eq!(paths.result(NGINX, "again"), Some(done));
        assert_eq!(paths.unanswered(NGINX), None);
        assert_eq!(paths.result(NGINX, "first"), None);
        assert_eq!(paths.result("efs-remount", "again"), None);
    }

    #[test]
    fn a_request_is_a_plain_file_with_an_id_and_nothing_else_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::of(&dir.path().join("run/control.sock"));
        let file = paths.request_file(NGINX);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for text in ["", "\n", "two words", "../x", &"a".repeat(66)] {
            fs::write(&file, text).unwrap();
            assert_eq!(paths.unanswered(NGINX), None, "{text:?}");
        }
        let secret = dir.path().join("secret");
        fs::write(&secret, "swordfish").unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&secret, &file).unwrap();
        assert_eq!(paths.unanswered(NGINX), None, "a link to what only root reads");
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(paths.unanswered(NGINX), None, "a pipe that nobody writes to holds nobody up");
    }
}
