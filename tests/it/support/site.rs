//! The site of the tests: a real nginx with the shipped file in its server blocks, and a shop that answers 200.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::ask::Target;
use super::nginx::Nginx;

/// What the shop says.
pub const SHOP: &str = "the shop is open\n";

const SOCKET: &str = "/run/dr-agent-http/public.sock";
const MARKERS: &str = "/var/lib/dr-agent/public";

/// The shipped nginx file for an agent whose socket and markers are elsewhere.
pub fn shipped(socket: &Path, markers: &Path) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/nginx/dr-agent.conf");
    let text = fs::read_to_string(&file).expect("read the shipped file");
    assert!(text.contains(SOCKET) && text.contains(MARKERS), "{} has other paths now", file.display());
    text.replace(SOCKET, &socket.display().to_string()).replace(MARKERS, &markers.display().to_string())
}

/// The folder of one agent, readable for nginx's workers.
#[derive(Debug)]
pub struct Scratch(pub TempDir);

impl Scratch {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dr-agent-").tempdir().expect("create a folder");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("open the folder for workers");
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("http/public.sock")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn markers(&self) -> PathBuf {
        self.path("state/public")
    }

    /// Sets or clears a marker by hand.
    pub fn mark(&self, marker: &str, is_set: bool) {
        let path = self.markers().join(marker);
        if is_set {
            fs::create_dir_all(self.markers()).expect("create the markers' folder");
            fs::write(path, "").expect("set a marker");
        } else if path.exists() {
            fs::remove_file(path).expect("clear a marker");
        }
    }

    pub fn has(&self, marker: &str) -> bool {
        self.markers().join(marker).exists()
    }
}

/// A site with the shipped file in two server blocks. `http` stands in the `http` block, `server` in each server block
/// before the shop's own location.
pub fn start(scratch: &Scratch, http: &str, server: &str) -> Nginx {
    let included = shipped(&scratch.socket(), &scratch.markers());
    Nginx::start(|port, folder| {
        let glob = folder.join("dr-agent.d");
        fs::create_dir_all(&glob).expect("create the include folder");
        fs::write(glob.join("dr-agent.conf"), &included).expect("write the include");
        let blocks = ["default_server", ""].map(|default| {
            let name = if default.is_empty() { "shop.example.com" } else { "_" };
            format!(
                "server {{ listen 127.0.0.1:{port} {default}; server_name {name}; include {}/*.conf; {server} \
                 location / {{ return 200 \"{}\"; }} }}",
                glob.display(),
                SHOP.replace('\n', "\\n"),
            )
        });
        format!("default_type text/html; {http} {}", blocks.concat())
    })
}

/// How to ask a site.
pub fn target(nginx: &Nginx) -> Target {
    Target::port(nginx.port)
}
