//! Repointing: the root helper with real files, whatever happens to it and to them.

mod gate;
mod proxy;
mod task;
mod units;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dr_agent::clock::BootTime;
use dr_agent::repoint::decision::Target;

use crate::support::repoint::Machine;

const HOSTS: [&str; 2] = ["a.example", "b.example:3307"];
const OUTPUTS: &str = r#"
[repoint]
apply = "reload"
unit = "shop.service"
verify = "tcp"
[[repoint.output]]
format = "env"
path = "{dir}/app/database.env"
[[repoint.output]]
format = "json"
path = "{dir}/app/database.json"
"#;

fn machine() -> Machine {
    Machine::new(HOSTS, OUTPUTS)
}

fn region(name: &str) -> Target {
    Target::Region(name.to_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A file system that is unmounted when the test ends.
struct Mount(PathBuf);

impl Mount {
    fn at(path: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "dr-agent-test"]).arg(&path).status().unwrap();
        assert!(mounted.success(), "this test needs root, to mount a tmpfs at {}", path.display());
        Self(path)
    }

    fn again(&self, options: &str) {
        let mounted = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(mounted.success(), "remount {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn the_outputs_say_what_was_decided_and_the_app_is_told_once() {
    let machine = machine();
    let env = machine.path("app/database.env");
    fs::write(&env, "DB=old\n").unwrap();
    chown(&env, Some(4321), Some(1234)).unwrap();
    fs::set_permissions(&env, Permissions::from_mode(0o640)).unwrap();

    let applied = machine.repoint("b-1");
    assert_eq!((applied.writer, applied.warning), (Some(region("b-1")), None));
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=b.example\nDATABASE_WRITER_PORT=3307\n"));
    assert!(machine.text("database.env").contains("DATABASE_READER_HOST=a.example\nDATABASE_READER_PORT=3306\n"));
    let json: serde_json::Value = serde_json::from_str(&machine.text("database.json")).unwrap();
    assert_eq!((&json["writer"]["host"], &json["epoch"]), (&"b.example".into(), &1.into()));
    let meta = fs::metadata(&env).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4321, 1234, 0o640));
    assert_eq!(names(&machine.path("app")), ["database.env", "database.json"]);
    let told = "show --property=LoadState,ActiveState,Result,ExecMainStatus shop.service\nreload shop.service\n";
    assert_eq!(machine.scratch.called(), told);

    // The same decision once more changes nothing, and a new epoch alone is not worth a reload.
    let before = fs::metadata(&env).unwrap().ino();
    assert!(machine.run().status.success());
    assert_eq!((fs::metadata(&env).unwrap().ino(), machine.scratch.called().as_str()), (before, ""));
    machine.repoint("b-1");
    assert!(machine.text("database.env").contains("DATABASE_EPOCH=2\n"));
    assert_eq!(machine.scratch.called(), "");

    let applied = machine.repoint("none");
    assert_eq!(applied.writer, Some(Target::None));
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\nDATABASE_WRITER_PORT=\n"));
    assert!(machine.text("database.env").contains("DATABASE_STATE=none\n"));
    assert!(machine.text("database.json").contains(r#""writer":null"#));
    assert_eq!(machine.scratch.called(), told);
}

#[test]
fn an_app_that_does_not_run_is_not_reloaded_and_one_that_does_not_exist_is_an_error() {
    let machine = machine();
    machine.scratch.systemctl("case \"$1\" in show) printf 'ActiveState=inactive\\nLoadState=loaded\\n';; esac");
    machine.repoint("a-1");
    assert!(!machine.scratch.called().contains("reload"));
    machine.scratch.systemctl("case \"$1\" in show) printf 'ActiveState=inactive\\nLoadState=not-found\\n';; *) echo 'not found' >&2; exit 5;; esac");
    let applied = machine.apply(&machine.decide("b-1"));
    assert!(applied.done.error.unwrap().contains("`systemctl reload shop.service`: not found"));
    assert_eq!(applied.writer, None, "whoever was not told may write on where it wrote");
    // The next run tells it again, also when nothing else is left to do.
    machine.scratch.systemctl("case \"$1\" in show) printf 'ActiveState=active\\nLoadState=loaded\\n';; esac");
    machine.scratch.called();
    assert!(machine.run().status.success());
    assert!(machine.scratch.called().contains("reload shop.service"));
}

#[test]
fn a_rollback_brings_back_what_was_there_only_if_it_is_allowed() {
    let machine = machine();
    machine.repoint("a-1");
    let good = machine.text("database.env");
    machine.configure(["wrong.example", HOSTS[1]], OUTPUTS);
    let failing = machine.decide("a-1");
    machine.apply(&failing);
    assert!(machine.text("database.env").contains("wrong.example"));
    let back = machine.decide_as("a-1", |decision| decision.rollback = Some(failing.id.clone()));
    assert_eq!(machine.apply(&back).writer, Some(region("a-1")));
    assert_eq!(machine.text("database.env"), good);

    let failing = machine.decide("b-1");
    machine.apply(&failing);
    let back = machine.decide_as("b-1", |decision| decision.rollback = Some(failing.id.clone()));
    assert_eq!(machine.apply(&back).writer, Some(Target::None), "what was there is of a region that is not allowed");
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\n"));
}

#[test]
fn a_new_instance_gets_a_writer_and_one_that_has_one_keeps_it() {
    let new = |machine: &Machine| machine.apply(&machine.decide_as("a-1", |decision| decision.only_new = true));
    let machine = machine();
    fs::write(machine.path("app/database.env"), "").unwrap();
    assert_eq!(new(&machine).writer, Some(region("a-1")));
    assert!(machine.text("database.json").contains("a.example"));
    machine.repoint("b-1");
    assert_eq!(new(&machine).writer, Some(region("b-1")));
    assert!(machine.text("database.json").contains("b.example"));
    fs::write(machine.path("app/database.env"), "DB_HOST=by-hand\n").unwrap();
    assert_eq!(new(&machine).writer, None, "nobody knows which");
    assert_eq!(machine.text("database.env"), "DB_HOST=by-hand\n");
}

#[test]
fn a_bad_configuration_is_replaced_by_the_copy_of_the_last_good_one() {
    let machine = machine();
    assert!(!machine.run().status.success(), "there is no decision");
    assert_eq!(machine.newest(), None);
    machine.repoint("a-1");
    fs::write(machine.config(), "schema = 1\nrepoint = 7\n").unwrap();
    let applied = machine.repoint("b-1");
    let warning = applied.warning.unwrap();
    assert!(warning.contains("the last good configuration was used") && warning.contains("repoint"), "{warning}");
    assert!(machine.text("database.env").contains("b.example"));

    // Nor is one used that somebody else could have written.
    machine.configure(["evil.example", "evil.example"], OUTPUTS);
    fs::set_permissions(machine.config(), Permissions::from_mode(0o666)).unwrap();
    machine.repoint("a-1");
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=a.example"));

    fs::remove_dir_all(machine.path("helper")).unwrap();
    assert_eq!(machine.run().status.code(), Some(78));
}

#[test]
fn hosts_and_paths_are_root_s_alone() {
    let machine = machine();
    machine.repoint("a-1");
    let before = machine.text("database.env");
    let applied = machine.apply(&machine.decide("evil-1"));
    assert!(applied.done.error.unwrap().contains("[region.evil-1]"));
    fs::write(
        machine.path("state/repoint/decision.json"),
        r#"{"id":"1","writer":"x\ny","reader":"none","epoch":1,"state":"s"}"#,
    )
    .unwrap();
    assert!(!machine.run().status.success());
    // A link to a file that only root can read.
    let secret = machine.path("secret");
    fs::rename(machine.path("state/repoint/decision.json"), &secret).unwrap();
    symlink(&secret, machine.path("state/repoint/decision.json")).unwrap();
    assert!(!machine.run().status.success());
    assert_eq!(machine.text("database.env"), before);
}

#[test]
fn a_target_that_cannot_be_written_keeps_all_of_a_set_as_it_was() {
    let machine = machine();
    machine.repoint("a-1");
    let (env, json) = (machine.text("database.env"), machine.text("database.json"));
    let unchanged = |what: &str| {
        let applied = machine.apply(&machine.decide("b-1"));
        let error = applied.done.error.unwrap();
        assert!(error.contains(what) && applied.writer.is_none(), "{error}");
        assert_eq!((machine.text("database.env"), machine.text("database.json")), (env.clone(), json.clone()));
    };
    let second = |path: &str| machine.configure(HOSTS, &OUTPUTS.replace("{dir}/app/database.json", path));

    second("{dir}/nowhere/database.json");
    unchanged("cannot open its folder: No such file or directory");
    // Nor does the way back from it take what is there.
    let failed = machine.decide("a-1");
    assert!(!machine.apply(&failed).done.ok);
    let back = machine.decide_as("a-1", |decision| decision.rollback = Some(failed.id.clone()));
    assert!(!machine.apply(&back).done.ok);
    assert_eq!((machine.text("database.env"), machine.text("database.json")), (env.clone(), json.clone()));
    symlink(machine.path("app/database.json"), machine.path("app/link")).unwrap();
    second("{dir}/app/link");
    unchanged("is a link");
    fs::create_dir(machine.path("app/folder")).unwrap();
    second("{dir}/app/folder");
    unchanged("is not a regular file");

    // A disk that is full, and one that became read-only.
    let disk = Mount::at(machine.path("disk"), "size=64k,mode=755");
    second("{dir}/disk/database.json");
    let full = machine.path("disk/full");
    let mut file = File::create(&full).unwrap();
    while file.write_all(&[b'x'; 512]).is_ok() {}
    unchanged("cannot write beside it: No space left on device");
    assert_eq!(names(&machine.path("disk")), ["full"]);
    // What closes goes as far as it can.
    let applied = machine.apply(&machine.decide("none"));
    assert!(applied.done.error.unwrap().contains("No space left") && applied.writer.is_none());
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\n"));
    assert!(machine.scratch.called().ends_with("reload shop.service\n"));
    drop(file);
    fs::remove_file(&full).unwrap();
    assert!(machine.run().status.success(), "the same decision, once there is room");
    assert!(fs::read_to_string(machine.path("disk/database.json")).unwrap().contains(r#""writer":null"#));
    disk.again("ro");
    let applied = machine.apply(&machine.decide("b-1"));
    assert!(applied.done.error.unwrap().contains("Read-only file system"));
    disk.again("rw");
    assert!(machine.run().status.success());
    assert!(fs::read_to_string(machine.path("disk/database.json")).unwrap().contains("b.example"));
}

#[test]
fn a_helper_that_is_killed_leaves_each_file_old_or_new_and_the_next_run_ends_it() {
    let machine = machine();
    let texts = || [machine.text("database.env"), machine.text("database.json")];
    machine.repoint("a-1");
    let (mut old_to_new, mut mixed) = (0, 0);
    let mut regions = ["b-1", "none", "a-1"].into_iter().cycle();
    // Killed at so many moments of its life, which is longer on a busy machine, it dies at each of its steps.
    let mut life = Duration::from_millis(10);
    for round in 0..150_u32 {
        let old = texts();
        let decision = machine.decide(regions.next().unwrap());
        let mut helper = machine.command().spawn().unwrap();
        std::thread::sleep(life * (round * 7_919 % 1_500) / 1_000);
        helper.kill().unwrap();
        helper.wait().unwrap();
        let killed = texts();
        // A pipe that the killed one left open has no reader; what it started ends by itself.
        let began = BootTime::now();
        crate::support::eventually("the next run", || {
            let output = machine.run();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // A child of the killed one that has not become another program yet has its lock.
            assert!(output.status.success() || said.contains("another run is under way"), "{said}");
            if output.status.success() { Ok(()) } else { Err(said) }
        });
        life = BootTime::now().since(began);
        let new = texts();
        assert_eq!(machine.newest().unwrap().done.id, decision.id);
        for (index, killed) in killed.iter().enumerate() {
            assert!(killed == &old[index] || killed == &new[index], "round {round}: {killed}");
        }
        let changed = killed.iter().zip(&old).filter(|(killed, old)| killed != old).count();
        old_to_new += usize::from(changed == 2);
        mixed += usize::from(changed == 1);
        assert_ne!(new, old);
    }
    assert!(old_to_new > 0 && old_to_new + mixed < 150, "{old_to_new} killed after and {mixed} in between");
    assert_eq!(names(&machine.path("app")), ["database.env", "database.json"]);
}

#[test]
fn a_set_that_was_left_half_written_is_completed_by_a_newer_decision_too() {
    let machine = machine();
    machine.repoint("a-1");
    // As a run leaves it that is killed between the two files.
    let kept = machine.path("helper/repoint.json");
    let before = fs::read(&kept).unwrap();
    let half = machine.decide("b-1");
    machine.apply(&half);
    let after: serde_json::Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    let mut killed: serde_json::Value = serde_json::from_slice(&before).unwrap();
    killed["in_flight"] = after["now"].clone();
    fs::write(&kept, killed.to_string()).unwrap();
    let old_json = killed["now"]["texts"][machine.path("app/database.json").to_str().unwrap()].as_str().unwrap();
    fs::write(machine.path("app/database.json"), old_json).unwrap();

    machine.scratch.called();
    let back = machine.decide_as("b-1", |decision| decision.rollback = Some(half.id.clone()));
    assert_eq!(machine.apply(&back).writer, Some(Target::None));
    assert!(machine.text("database.json").contains(r#""writer":null"#));
    assert!(machine.text("database.env").contains("DATABASE_WRITER_HOST=\n"));
    assert!(machine.scratch.called().contains("reload shop.service"));
}

#[test]
fn two_runs_at_a_time_do_not_mix() {
    let machine = machine();
    machine.repoint("a-1");
    machine.scratch.systemctl("sleep 0.3");
    machine.decide("b-1");
    let mut first = machine.command().spawn().unwrap();
    crate::support::eventually("the first one has begun", || {
        if machine.text("database.json").contains("b.example") { Ok(()) } else { Err("not yet") }
    });
    let second = machine.run();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another run is under way"));
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_hundred_repoints_in_a_row_leave_nothing_behind() {
    let machine = machine();
    for round in 0..100 {
        let (writer, host) = [("a-1", "a.example"), ("b-1", "b.example"), ("none", "")][round % 3];
        machine.repoint(writer);
        assert!(machine.text("database.env").contains(&format!("DATABASE_WRITER_HOST={host}\n")));
    }
    assert_eq!(names(&machine.path("app")), ["database.env", "database.json"]);
    assert_eq!(names(&machine.path("helper")), ["config.good.toml", "lock", "repoint.json"]);
    assert!(fs::metadata(machine.path("helper/repoint.json")).unwrap().len() < 4_096);
}
