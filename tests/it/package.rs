//! The package as a file: what is in it, what it asks of a machine, and that it is made the same again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::package::{build, package, packaged_agent, path, payload};
use crate::support::repository;

/// Runs a program that must succeed; gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}{error}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rpm(arguments: &[&str]) -> String {
    run(Command::new("rpm").arg("-qp").args(arguments).arg(package(1)))
}

/// The package's files, unpacked.
struct Unpacked(tempfile::TempDir);

impl Unpacked {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let unpack = r#"rpm2archive - <"$1" | tar -xzC "$2""#;
        run(Command::new("sh").args(["-c", unpack, "sh"]).arg(package(1)).arg(folder.path()));
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name.trim_start_matches('/'))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[test]
fn everything_belongs_to_root_and_every_unit_is_there() {
    let list = rpm(&["--queryformat", "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]"]);
    for line in list.lines() {
        let good = line.starts_with("-rw-r--r-- root:root ") || line.starts_with("drwxr-xr-x root:root ");
        assert!(good || line == "-rwxr-xr-x root:root /usr/bin/dr-agent", "{line}");
    }
    assert_eq!(rpm(&["--queryformat", "%{PAYLOADCOMPRESSOR}"]), payload());
    let files: BTreeSet<_> = list.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    for entry in fs::read_dir(repository().join("packaging/systemd")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = match name.as_str() {
            "dr-agent.sysusers.conf" => "/usr/lib/sysusers.d/dr-agent.conf".to_owned(),
            "dr-agent.tmpfiles.conf" => "/usr/lib/tmpfiles.d/dr-agent.conf".to_owned(),
            _ if Path::new(&name).extension().is_some_and(|kind| kind == "conf") => {
                format!("/usr/share/dr-agent/{name}")
            }
            _ => format!("/usr/lib/systemd/system/{name}"),
        };
        assert!(files.contains(path.as_str()), "{path} is not in the package");
    }
    let configuration = rpm(&["--configfiles"]);
    let expected =
        "/etc/dr-agent/agent.toml\n/etc/nginx/dr-agent-database-proxy.conf\n/etc/nginx/dr-agent.d/dr-agent.conf\n";
    assert_eq!(configuration, expected);
    let kept = rpm(&["--queryformat", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]"]);
    assert_eq!(kept.lines().filter(|line| line.starts_with("cn /etc/")).count(), 3, "a change is kept: {kept}");
}

#[test]
fn nothing_is_enabled_or_started_by_a_scriptlet() {
    let scripts = rpm(&["--scripts"]);
    assert!(scripts.contains("try-restart dr-agent.service"), "{scripts}");
    for word in ["systemctl start", "systemctl restart", "systemctl enable", "systemctl preset", "nginx -s"] {
        assert!(!scripts.contains(word), "{word}: {scripts}");
    }
}

#[test]
fn no_newer_glibc_is_asked_for_than_amazon_linux_2023_has() {
    let versions: Vec<_> = rpm(&["--requires"])
        .lines()
        .filter_map(|line| line.strip_prefix("libc.so.6(GLIBC_2.")?.split(')').next()?.split('.').next()?.parse().ok())
        .collect::<Vec<u32>>();
    assert!(versions.iter().max().is_some_and(|newest| *newest <= 34), "{versions:?}");

    // A program that asks for more is not packaged.
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("new.c"), folder.path().join("new"));
    fs::write(&source, "#include <stdlib.h>\nint main(void) { return (int)arc4random(); }\n").unwrap();
    run(Command::new("cc").arg("-o").arg(&program).arg(&source));
    let output = build(&program, &[], folder.path());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("needs arc4random of glibc 2.36"), "{error}");
}

#[test]
fn the_program_says_which_crates_are_in_it_and_their_licences_are_beside_it() {
    let unpacked = Unpacked::new();
    let section = unpacked.path("section");
    run(Command::new("objcopy")
        .args(["-O", "binary", "--only-section=.dep-v0", "--set-section-flags", ".dep-v0=alloc"])
        .arg(unpacked.path("/usr/bin/dr-agent"))
        .arg(&section));
    let inflate = "import sys, zlib; sys.stdout.buffer.write(zlib.decompress(open(sys.argv[1], 'rb').read()))";
    let list: Value = serde_json::from_str(&run(Command::new("python3").args(["-c", inflate]).arg(&section))).unwrap();
    let packages = list["packages"].as_array().unwrap();
    let lock: toml::Value =
        toml::from_str(&fs::read_to_string(repository().join("Cargo.lock")).unwrap()).expect("a lock file");
    let locked: BTreeSet<_> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| (each["name"].as_str().unwrap(), each["version"].as_str().unwrap()))
        .collect();
    let name = |each: &Value| each["name"].as_str().unwrap().to_owned();
    for each in packages {
        let version = each["version"].as_str().unwrap();
        assert!(locked.contains(&(name(each).as_str(), version)), "{each} is not in Cargo.lock");
        for number in each["dependencies"].as_array().into_iter().flatten() {
            assert!(packages.get(usize::try_from(number.as_u64().unwrap()).unwrap()).is_some(), "{each}");
        }
    }
    let roots: Vec<_> = packages.iter().filter(|each| each["root"] == true).map(name).collect();
    assert_eq!(roots, ["dr-agent"]);
    let linked: Vec<_> = packages.iter().filter(|each| each["kind"].is_null()).map(name).collect();
    for (crate_name, is_in) in
        [("hyper", true), ("aws-lc-sys", true), ("clap_derive", false), ("cc", false), ("proptest", false)]
    {
        assert_eq!(linked.contains(&crate_name.to_owned()), is_in, "{crate_name}");
    }
    assert!(!packages.iter().any(|each| name(each) == "proptest"), "what only tests need is not in it");

    let licences = unpacked.read("/usr/share/licenses/dr-agent/LICENSES-of-dependencies.txt");
    for crate_name in linked.iter().filter(|name| *name != "dr-agent") {
        assert!(licences.lines().any(|line| line.starts_with(&format!("{crate_name} "))), "{crate_name}");
    }
    assert!(licences.contains("Permission is hereby granted") && licences.contains("www.apache.org/licenses/"));
}

/// The targets of the links in a page.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[test]
fn every_link_of_a_shipped_page_leads_to_something() {
    let unpacked = Unpacked::new();
    let pages = rpm(&["--list"]);
    let pages: Vec<_> =
        pages.lines().map(Path::new).filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    assert_eq!(pages.len(), 3, "the README, the changelog and what the role needs: {pages:?}");
    let mut files = BTreeSet::new();
    for page in pages {
        let text = unpacked.read(page.to_str().unwrap());
        for link in links(&text).filter(|link| !link.starts_with("https://") && !link.starts_with('#')) {
            let file = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(unpacked.path(file.to_str().unwrap()).exists(), "{}: {link}", page.display());
            files.insert(file);
        }
    }
    for file in [
        "/etc/dr-agent/agent.toml",
        "/usr/share/dr-agent/iam/README.md",
        "/usr/share/dr-agent/selinux/dr_agent.te",
        "/usr/share/doc/dr-agent/examples/two-regions.toml",
    ] {
        assert!(files.contains(Path::new(file)), "nothing leads to {file}: {files:?}");
    }
    let readme = unpacked.read("/usr/share/doc/dr-agent/README.md");
    assert!(readme.contains("`src/lib.rs` of the sources"), "what is not installed is named");
}

#[test]
fn the_man_pages_and_completions_are_good_ones() {
    let unpacked = Unpacked::new();
    let pages = unpacked.path("pages");
    fs::create_dir(&pages).unwrap();
    for section in ["man5", "man8"] {
        for entry in fs::read_dir(unpacked.path("/usr/share/man").join(section)).unwrap() {
            let from = entry.unwrap().path();
            let page = run(Command::new("gzip").args(["-dc"]).arg(&from));
            fs::write(pages.join(from.file_stem().unwrap()), page).unwrap();
        }
    }
    let names: Vec<_> = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()).collect();
    run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(&names));
    let plain = |name: &str| {
        let col = run(Command::new("sh").args(["-c", r#"mandoc -T ascii "$1" | col -b"#, "sh"]).arg(pages.join(name)));
        col.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(plain("dr-agent.8").contains("dr-agent-check(8)"), "the commands");
    assert!(plain("dr-agent.8").contains("69 the agent is not running"), "the exit codes");
    assert!(plain("dr-agent-check.8").contains("dr-agent check --format json | jq ."), "the examples");
    let configuration = plain("agent.toml.5");
    for word in ["[probe.database]", "takeover_wait = \"15s\"", "hold_efs = \"60s\"", "key_file"] {
        assert!(configuration.contains(word), "{word}");
    }

    let bash = unpacked.path("/usr/share/bash-completion/completions/dr-agent");
    let complete = r#"source "$1"; COMP_WORDS=(dr-agent dr); COMP_CWORD=1
        function=$(complete -p dr-agent | sed 's/.*-F \([^ ]*\).*/\1/'); $function dr-agent dr dr-agent; echo "${COMPREPLY[@]}""#;
    assert_eq!(run(Command::new("bash").args(["-c", complete, "bash"]).arg(&bash)).trim(), "drain drill");
    let zsh = unpacked.path("/usr/share/zsh/site-functions/_dr-agent");
    run(Command::new("zsh").arg("-n").arg(&zsh));
    assert!(fs::read_to_string(&zsh).unwrap().starts_with("#compdef dr-agent"));
}

#[test]
fn rpmlint_finds_nothing() {
    let found = run(Command::new("rpmlint")
        .arg("--config")
        .arg(repository().join("packaging/rpm/rpmlint.toml"))
        .arg(package(1)));
    assert!(found.contains(" 0 errors, 0 warnings"), "{found}");
}

#[test]
fn it_is_the_same_when_it_is_made_again() {
    let made = [(), ()].map(|()| {
        let folder = tempfile::tempdir().unwrap();
        fs::read(path(&build(&packaged_agent(), &[], folder.path()))).unwrap()
    });
    assert!(made[0] == made[1], "two packages of one binary differ");
}

#[test]
fn the_selinux_module_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let source = repository().join("packaging/selinux");
    run(Command::new("checkmodule")
        .current_dir(&folder)
        .args(["-M", "-m", "-o", "dr_agent.mod"])
        .arg(source.join("dr_agent.te")));
    run(Command::new("semodule_package")
        .current_dir(&folder)
        .args(["-o", "dr_agent.pp", "-m", "dr_agent.mod", "-f"])
        .arg(source.join("dr_agent.fc")));
}
