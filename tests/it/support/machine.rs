//! Boots a machine of its own with a real systemd (in systemd-nspawn) from the root file system of
//! `tests/setup-machine`.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _, stderr};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

use super::{eventually, repository};

/// Starts the container in control groups of its own, once and then for each line of its input, and takes everything down
/// when its input ends: also when the test was killed. Killing nspawn would leave the container running, so the
/// container's init is killed. The disk is in memory, in a mount namespace that ends with this.
const KEEPER: &str = r#"
set -u
root=$1 name=$2 folder=$3 disk=$3/disk
# An interrupt from the terminal ends `read`, not this.
trap : INT TERM
mkdir "$disk" && mount -t tmpfs -o mode=0755 disk "$disk" && mkdir "$disk/upper" "$disk/work" "$disk/root" || exit
mount -t overlay -o "lowerdir=$root,upperdir=$disk/upper,workdir=$disk/work" disk "$disk/root" || exit
groups=
for base in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ -e "$base/cgroup.procs" ] && mkdir "$base/$name" && groups="$groups $base/$name"
done
boot() {
    (
        for group in $groups; do echo 0 >"$group/cgroup.procs"; done
        exec setsid systemd-nspawn --quiet --register=no --keep-unit --directory="$disk/root" \
            --machine="$name" --private-network --boot --console=read-only </dev/null >>"$folder/console" 2>&1
    ) &
    nspawn=$!
    echo "$nspawn"
}
boot
while read -r _; do
    wait "$nspawn"
    boot
done
# Its only child is the container's init; without one, nspawn itself did not get that far.
kill -KILL $(cat "/proc/$nspawn/task/$nspawn/children") 2>/dev/null || kill -TERM "$nspawn" 2>/dev/null
wait "$nspawn"
for group in $groups; do find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null; done
umount "$disk/root" "$disk"
rm -rf "$folder"
"#;

/// A booted machine; gone with everything on it when dropped.
#[derive(Debug)]
pub struct Machine {
    keeper: Child,
    /// The keeper's words: the process id of each nspawn that it starts.
    words: BufReader<ChildStdout>,
    nspawn: String,
    folder: TempDir,
}

/// What a command printed.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Machine {
    /// Boots one. `None`, loudly, where containers cannot be run at all; what is written on it is in memory. With
    /// `REQUIRE_MACHINE` in the environment that fails.
    pub fn boot() -> Option<Self> {
        let root = match usable_root() {
            Ok(root) => root,
            Err(reason) => {
                assert!(
                    env::var_os("REQUIRE_MACHINE").is_none(),
                    "no machine with systemd can be booted here: {reason}"
                );
                // Past the capture of the test harness, so that nobody takes a green line for a test that ran.
                drop(writeln!(
                    stderr(),
                    "\n*** SKIPPED: no machine with systemd can be booted here, so the unit was NOT tested: {reason} ***\n"
                ));
                return None;
            }
        };
        let folder = tempfile::Builder::new().prefix("dr-agent-machine-").tempdir().expect("make a folder");
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", KEEPER, "keeper", &root])
            .args([folder.path().file_name().expect("a name"), folder.path().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare (Debian package util-linux)");
        let words = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut machine = Self { keeper, words, nspawn: String::new(), folder };
        machine.booted();
        Some(machine)
    }

    /// Waits until it is up.
    fn booted(&mut self) {
        self.nspawn.clear();
        self.words.read_line(&mut self.nspawn).expect("read the pid of nspawn");
        self.nspawn.truncate(self.nspawn.trim_end().len());
        eventually("the machine boots", || {
            let said = self.run("systemctl is-system-running");
            let state = said.out.trim();
            if state == "running" || state == "degraded" { Ok(()) } else { Err(self.describe(&said)) }
        });
    }

    /// Shuts it down, and boots it again: what is on its disk stays.
    pub fn reboot(&mut self) {
        self.run("systemctl reboot");
        eventually("the machine shuts down", || match self.init().as_str() {
            "" => Ok(()),
            init => Err(format!("its init {init} still runs")),
        });
        writeln!(self.keeper.stdin.as_mut().expect("piped"), "again").expect("tell the keeper");
        self.booted();
    }

    /// The process id of the machine's init, as seen from here; empty before there is one.
    fn init(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn);
        fs::read_to_string(children).unwrap_or_default().trim().to_owned()
    }

    /// Runs a shell command in the machine, as root.
    pub fn run(&self, command: &str) -> Said {
        let output = Command::new("nsenter")
            .args(["-t", &self.init(), "-a", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"])
            .args(["sh", "-c", command])
            .stdin(Stdio::null())
            .output()
            .expect("run nsenter (Debian package util-linux)");
        Said::from(&output)
    }

    /// Runs a shell command that must succeed; gives what it printed.
    pub fn must(&self, command: &str) -> String {
        let said = self.run(command);
        assert!(said.ok, "`{command}` failed: {}", self.describe(&said));
        said.out
    }

    /// Waits for an entry of the journal with these fields, in this boot; the newest one.
    pub fn journal_has(&self, matches: &str) -> Value {
        eventually(&format!("the journal has {matches}"), || {
            // With `--grep` nothing found is an error.
            let said = self.run(&format!("journalctl --boot --quiet --output=json {matches}")).out;
            let last = || self.run("journalctl --quiet --no-pager --lines=40").out;
            let line = said.lines().last().ok_or_else(last)?;
            serde_json::from_str(line).map_err(|error| error.to_string())
        })
    }

    /// Writes a file in the machine, with the folders above it.
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = PathBuf::from(format!("/proc/{}/root{path}", self.init()));
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
    }

    /// The module of nginx that the database proxy needs: this machine's, which is of the same release. A real instance gets it as a package.
    pub fn add_stream_module(&self) {
        let path = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let module = fs::read(path).expect("the stream module of nginx (Debian package libnginx-mod-stream)");
        self.put(path, module, 0o644);
        let load = "load_module modules/ngx_stream_module.so;\n";
        self.put("/usr/share/nginx/modules-available/mod-stream.conf", load, 0o644);
    }

    /// A port of the machine's own loopback, on which this process listens.
    pub fn listen(&self) -> TcpListener {
        let net = File::open(format!("/proc/{}/ns/net", self.init())).expect("the machine's network");
        let listen = move || {
            // The thread's network, which ends with it; a socket stays where it was made.
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the network");
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind")
        };
        thread::spawn(listen).join().expect("listen in the machine")
    }

    fn describe(&self, said: &Said) -> String {
        let console = fs::read_to_string(self.folder.path().join("console")).unwrap_or_default();
        format!("{}{}\nconsole:\n{console}", said.out, said.err)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

impl From<&Output> for Said {
    fn from(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// The root file system, after a program was run in it. An error says why containers cannot be run here; a missing tool
/// is not one of the reasons, it fails the test.
fn usable_root() -> Result<String, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    let setup = Command::new(repository().join("tests/setup-machine")).output().expect("run tests/setup-machine");
    let setup = Said::from(&setup);
    assert!(setup.ok, "tests/setup-machine failed: {}", setup.err);
    let root = setup.out.trim().to_owned();
    let trial = Command::new("systemd-nspawn")
        .args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--pipe", "--volatile=overlay"])
        .args(["--directory", &root, "/bin/true"])
        .stdin(Stdio::null())
        .output()
        .expect("run systemd-nspawn (Debian package systemd-container)");
    let trial = Said::from(&trial);
    if trial.ok { Ok(root) } else { Err(format!("systemd-nspawn says: {}", trial.err.trim())) }
}
