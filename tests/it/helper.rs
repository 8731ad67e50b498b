//! The root helper: requests, real programs, results.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dr_agent::helper::tool::{Failed, tool};
use dr_agent::helper::{Done, Paths};
use dr_agent::replace::ladder::Verb;

use crate::support::agent::Agent;
use crate::support::site::{self, Scratch};
use crate::support::{agent_binary, eventually};

/// A folder for programs that stand before the system's own.
fn shadow(dir: &Path, name: &str, script: &str) {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Each request has an id of its own.
static REQUESTS: AtomicU32 = AtomicU32::new(0);

struct Helper {
    agent: Agent,
    programs: PathBuf,
    fstab: PathBuf,
}

impl Helper {
    fn new(extra: &str) -> Self {
        let scratch = Scratch::new();
        let (programs, fstab) = (scratch.path("bin"), scratch.path("fstab"));
        Self { agent: Agent::new(scratch, extra), programs, fstab }
    }

    fn paths(&self) -> Paths {
        Paths::of(&self.agent.control_socket())
    }

    /// Asks for it as the agent does, runs it as systemd does, and gives its exit code and result.
    fn run(&self, verb: Verb) -> (Option<i32>, Done) {
        fs::create_dir_all(self.agent.control_socket().parent().unwrap()).unwrap();
        let id = format!("{:032x}", REQUESTS.fetch_add(1, Ordering::Relaxed));
        self.paths().request(verb.name(), &id).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.display());
        let status = Command::new(agent_binary())
            .args(["helper", verb.name(), "--config"])
            .arg(self.agent.config())
            .env("PATH", path)
            .env("LIBMOUNT_FSTAB", &self.fstab)
            .status()
            .unwrap();
        (status.code(), self.paths().result(verb.name(), &id).expect("it says what came of this request"))
    }
}

#[tokio::test]
async fn a_program_that_is_late_ends_with_those_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let lock = fs::File::create(folder.path().join("lock")).unwrap();
    // As `mount` leaves the work to `mount.nfs4`. Whoever lives has the file locked.
    let script = "exec 9<\"$1\"; flock 9; sleep 1000 & wait";
    let path = folder.path().join("lock").display().to_string();
    let error = tool(&["sh", "-c", script, "sh", &path], Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, Failed::Late(_, 1)), "{error}");
    eventually("the lock is free", || lock.try_lock());
}

#[test]
fn nginx_is_restarted_and_not_with_a_configuration_that_it_refuses() {
    let helper = Helper::new("");
    let nginx = site::start(&helper.agent.scratch, "", "");
    let folder = nginx.folder.path().to_owned();
    let real = format!("exec /usr/sbin/nginx -p {0} -c {0}/nginx.conf -e {0}/error.log", folder.display());
    // This site's nginx, and a `systemctl` that has it begin anew with new workers.
    shadow(&helper.programs, "nginx", &format!("{real} \"$@\""));
    shadow(&helper.programs, "systemctl", &format!("[ \"$*\" = 'restart nginx' ] || exit 9\n{real} -s reload"));
    let before = nginx.workers();
    let (exit, done) = helper.run(Verb::NginxRestart);
    assert_eq!((exit, done.ok, done.error), (Some(0), true, None));
    eventually("it has new workers", || {
        let now = nginx.workers();
        if !now.is_empty() && now.iter().all(|pid| !before.contains(pid)) { Ok(()) } else { Err(format!("{now:?}")) }
    });

    let before = nginx.workers();
    fs::write(folder.join("nginx.conf"), "broken {").unwrap();
    let (exit, done) = helper.run(Verb::NginxRestart);
    let error = done.error.unwrap();
    assert!(exit == Some(2) && error.starts_with("`nginx -t`: ") && error.contains("emerg"), "{error}");
    assert_eq!(nginx.workers(), before, "it was left alone");
}

#[test]
fn a_mount_is_made_anew_only_if_the_new_one_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("efs");
    fs::create_dir(&mount).unwrap();
    let helper = Helper::new(&format!("[probe.efs]\npath = \"{}\"\ntypes = [\"tmpfs\"]\n", mount.display()));
    let (exit, done) = helper.run(Verb::EfsRemount);
    assert_eq!(exit, Some(2));
    assert!(done.error.unwrap().contains("nothing says how"));

    let line = |source: &str, kind: &str| {
        fs::write(&helper.fstab, format!("{source} {} {kind} size=1m,noauto 0 0\n", mount.display())).unwrap();
    };
    let mounts = || {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().filter(|line| line.contains(folder.path().to_str().unwrap())).count()
    };
    line("none", "no-such-type");
    let (_, done) = helper.run(Verb::EfsRemount);
    assert!(!done.ok && mounts() == 0, "{done:?}");

    line("none", "tmpfs");
    for _ in 0..2 {
        let (exit, done) = helper.run(Verb::EfsRemount);
        assert_eq!((exit, done.error), (Some(0), None));
        assert_eq!(mounts(), 1, "the old one is gone");
    }
    fs::write(mount.join("file"), "kept").unwrap();

    // A server that takes the mount and then says nothing.
    shadow(&helper.programs, "ls", "exec sleep 60");
    let (exit, done) = helper.run(Verb::EfsRemount);
    let error = done.error.unwrap();
    assert!(exit == Some(2) && error.contains("does not answer") && error.contains("within 5 s"), "{error}");
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "kept", "the old one stayed");
    let staging = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!staging.contains(helper.paths().staging().to_str().unwrap()), "nothing is left beside it");
    let umount = Command::new("umount").arg("--lazy").arg(&mount).status().unwrap();
    assert!(umount.success());
}
