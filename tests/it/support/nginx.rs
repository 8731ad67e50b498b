//! A real nginx in a folder of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{eventually, free_port, signal};

/// What the agent's own probe location says, as in `packaging/nginx`.
pub const PROBE_LOCATION: &str = r"
    location = /health/nginx {
        allow 127.0.0.1;
        deny all;
        default_type text/plain;
        return 200 'dr-agent nginx\n';
    }
";

/// A running nginx. Dropped, its master and its workers are killed, also those that lost their master.
#[derive(Debug)]
pub struct Nginx {
    /// Readable for workers of another user, as long as what is put into it is.
    pub folder: TempDir,
    /// A free port on 127.0.0.1 for the configuration to listen on.
    pub port: u16,
    /// `None` when it was stopped.
    master: Option<Child>,
    /// Process group of all its processes; `None` when none is left.
    group: Option<u32>,
}

impl Nginx {
    /// Starts nginx with the content of its `http` block, for a port and a folder. One worker.
    pub fn start(http: impl Fn(u16, &Path) -> String) -> Self {
        let folder = tempfile::Builder::new().prefix("nginx-").tempdir().expect("create a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open the folder for workers");
        // Another test may take the port between its discovery and its use.
        for _ in 0..5 {
            let port = free_port();
            write_configuration(folder.path(), &http(port, folder.path()));
            if let Some(master) = spawn(folder.path()) {
                let group = Some(master.id());
                return Self { folder, port, master: Some(master), group };
            }
        }
        panic!("nginx does not start: {}", error_log(folder.path()));
    }

    /// A `server` on the port with the agent's probe location and these directives.
    pub fn with_server(directives: &str) -> Self {
        Self::start(|port, _| format!("server {{ listen 127.0.0.1:{port}; {PROBE_LOCATION} {directives} }}"))
    }

    /// An address under `http://`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn pid_file(&self) -> PathBuf {
        self.folder.path().join("nginx.pid")
    }

    pub fn error_log(&self) -> String {
        error_log(self.folder.path())
    }

    /// It was not stopped.
    pub fn runs(&self) -> bool {
        self.master.is_some()
    }

    pub fn master(&self) -> u32 {
        self.master.as_ref().expect("nginx was stopped").id()
    }

    pub fn workers(&self) -> Vec<u32> {
        children(self.master())
    }

    /// Sends a signal by name to every worker.
    pub fn signal_workers(&self, name: &str) {
        for worker in self.workers() {
            signal(worker, name);
        }
    }

    /// Kills master and workers with SIGKILL: nobody listens, and the pid file stays.
    pub fn kill(&mut self) {
        self.kill_group();
        self.reap();
        eventually("nginx's workers die", || match TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
            Ok(_) => Err("its port is still open"),
            Err(_) => Ok(()),
        });
    }

    /// Kills the master only: its workers serve on, and the pid file stays.
    pub fn kill_master(&mut self) {
        signal(self.master(), "KILL");
        self.reap();
    }

    /// Stops it as systemd does: the pid file is removed.
    pub fn stop(&mut self) {
        signal(self.master(), "TERM");
        self.reap();
        self.group = None;
    }

    /// Starts it again on the same port after [`Self::kill`] or [`Self::stop`].
    pub fn start_again(&mut self) {
        assert!(self.master.is_none(), "nginx runs");
        // A worker that is dying may hold the port for a moment.
        let master = eventually("nginx starts again", || spawn(self.folder.path()).ok_or_else(|| self.error_log()));
        self.group = Some(master.id());
        self.master = Some(master);
    }

    /// Reloads with another content of the `http` block and waits until only workers of it are left.
    pub fn reload(&self, http: &str) {
        let old = self.workers();
        write_configuration(self.folder.path(), http);
        signal(self.master(), "HUP");
        eventually("nginx reloads", || {
            let now = self.workers();
            let done = !now.is_empty() && now.iter().all(|worker| !old.contains(worker));
            done.then_some(()).ok_or_else(|| self.error_log())
        });
    }

    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            // Obeyed by stopped processes as well.
            let group = format!("-{group}");
            drop(Command::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status());
        }
    }

    fn reap(&mut self) {
        if let Some(mut master) = self.master.take() {
            master.wait().expect("wait for nginx");
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.kill_group();
        if let Some(mut master) = self.master.take() {
            drop(master.wait());
        }
    }
}

fn write_configuration(folder: &Path, http: &str) {
    let at = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {at}/{kind};\n"))
        .concat();
    let text = format!(
        "worker_processes 1;\nworker_shutdown_timeout 1s;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\n\
         events {{ worker_connections 512; }}\nhttp {{\n    access_log off;\n{temporary}{http}\n}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).expect("write nginx.conf");
}

/// Starts it and waits until it is ready; `None` when it ended instead.
fn spawn(folder: &Path) -> Option<Child> {
    let pid_file = folder.join("nginx.pid");
    drop(fs::remove_file(&pid_file));
    let mut master = Command::new("nginx")
        .arg("-p")
        .arg(folder)
        .arg("-e")
        .arg(folder.join("error.log"))
        .arg("-c")
        .arg(folder.join("nginx.conf"))
        .args(["-g", "daemon off;"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("nginx is needed for this test (`apt-get install nginx-light`): {error}"));
    // The pid file is written after the sockets were bound.
    eventually("nginx starts", || {
        if master.try_wait().expect("look at nginx").is_some() {
            return Ok(None);
        }
        let is_ready = fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == master.id().to_string())
            && !children(master.id()).is_empty();
        is_ready.then_some(Some(())).ok_or_else(|| error_log(folder))
    })
    .map(|()| master)
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn error_log(folder: &Path) -> String {
    fs::read_to_string(folder.join("error.log")).unwrap_or_default()
}
