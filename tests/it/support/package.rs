//! The RPM of the agent that is being tested, made once for all tests of a run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use super::{agent_binary, repository};

/// What the package is made from: `$PACKAGED_AGENT`, which is the release binary where that is built anyway, else the
/// binary of this build.
pub fn packaged_agent() -> PathBuf {
    std::env::var_os("PACKAGED_AGENT").map_or_else(|| agent_binary().into(), PathBuf::from)
}

/// What is only tested need not be small; with `$PACKAGED_AGENT` it is the package that ships.
fn quick() -> Option<&'static str> {
    std::env::var_os("PACKAGED_AGENT").is_none().then_some("--quick")
}

/// How its files are compressed.
pub fn payload() -> &'static str {
    if quick().is_some() { "zstd" } else { "xz" }
}

/// The program that writes man pages and completions, of this build.
fn documents() -> PathBuf {
    Path::new(agent_binary()).with_file_name("examples").join("documents")
}

/// Runs packaging/rpm/build with these arguments.
pub fn build(agent: &Path, arguments: &[&str], out: &Path) -> Output {
    Command::new(repository().join("packaging/rpm/build"))
        .arg("--agent")
        .arg(agent)
        .arg("--documents")
        .arg(documents())
        .arg("--out")
        .arg(out)
        .args(quick())
        .args(arguments)
        .output()
        .expect("run packaging/rpm/build")
}

/// The path of what was built; panics with the builder's words if nothing was.
pub fn path(output: &Output) -> PathBuf {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "packaging/rpm/build failed: {error}");
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// The package with this release number. Two differ in nothing else: to rpm one is the later version.
pub fn package(release: u32) -> PathBuf {
    let out = repository().join("target/rpm-tests");
    fs::create_dir_all(&out).expect("make a folder");
    // Other tests are processes of their own.
    let lock = File::create(out.join("lock")).expect("make the lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    let (agent, stamp) = (packaged_agent(), out.join(format!("made-{release}")));
    let made_of = format!("{} {}", agent.display(), payload());
    let made = fs::read_to_string(&stamp).unwrap_or_default();
    if let (Some((package, of)), Some(time)) = (made.split_once('\n'), changed(&stamp))
        && of == made_of
        && Path::new(package).exists()
        && newest_input() < time
    {
        return package.into();
    }
    let package = path(&build(&agent, &["--release", &release.to_string()], &out));
    fs::write(&stamp, format!("{}\n{made_of}", package.display())).expect("write the stamp");
    package
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// When something that goes into the package last changed.
fn newest_input() -> SystemTime {
    let files =
        ["README.md", "CHANGELOG.md", "LICENSE", "Cargo.toml", "Cargo.lock"].map(|name| repository().join(name));
    let mut folders = vec![repository().join("packaging")];
    let mut newest = SystemTime::UNIX_EPOCH;
    for path in files.iter().chain([&packaged_agent(), &documents()]) {
        newest = newest.max(changed(path).unwrap_or_else(|| panic!("{} is not there", path.display())));
    }
    while let Some(folder) = folders.pop() {
        newest = newest.max(changed(&folder).expect("it is there"));
        for entry in fs::read_dir(&folder).expect("read the folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => newest = newest.max(changed(&path).expect("it is there")),
            }
        }
    }
    newest
}
