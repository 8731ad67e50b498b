//! The configuration file: what is accepted, what is refused with which words, what is in force instead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dr_agent::config::load::{self, File, Problems, StandIn};
use dr_agent::config::{self, Config, show};
use tempfile::TempDir;

fn write(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    path
}

fn file(text: &str) -> File {
    let dir = TempDir::new().unwrap();
    load::read(&write(&dir, text)).unwrap()
}

fn parse(text: &str, region: Option<&str>) -> Result<Config, Problems> {
    file(text).config(region)
}

/// The problems of a file without the folder in which it was.
fn complaints(text: &str, region: Option<&str>) -> String {
    let problems = parse(text, region).expect_err("a bad file").lines();
    problems.iter().map(|line| line.split_once("agent.toml").unwrap().1).collect::<Vec<_>>().join("\n")
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

#[test]
fn every_shipped_file_is_good() {
    let mut seen = 0;
    for dir in [packaging(), packaging().join("examples")] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let file = file(&fs::read_to_string(&path).unwrap());
            for region in [None, Some("ap-south-1")] {
                let config = file.config(region).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert!(!config.wiring.hosts.is_empty(), "a file says that nginx was wired");
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} files seen");
}

#[test]
fn the_shipped_file_changes_nothing_until_it_is_edited() {
    let mut config = parse(&fs::read_to_string(packaging().join("agent.toml")).unwrap(), None).unwrap();
    config.wiring.hosts.clear();
    assert_eq!(config, config::defaults());
}

/// Every commented default, put in force, must give what is in force without it.
#[test]
fn the_commented_defaults_are_the_built_in_ones() {
    let text = fs::read_to_string(packaging().join("agent.toml")).unwrap();
    let needed = [
        ("[probe.efs]", "path = \"/mnt/efs\""),
        ("[probe.database]", "user = \"dr_agent\""),
        ("[probe.exec.queue]", "command = [\"/usr/libexec/check-queue\", \"--max\", \"100\"]"),
    ];
    let region = "[region.ap-south-1]\ndatabase = \"db\"\n";
    let mut full = String::new();
    let mut keys = 0;
    for line in text.lines() {
        let line = match line.strip_prefix('#') {
            Some(rest) if rest.starts_with('[') || rest.split(' ').nth(1) == Some("=") => {
                keys += 1;
                rest
            }
            _ => line,
        };
        full.push_str(line);
        full.push('\n');
        for (table, key) in needed {
            if line == table {
                full.push_str(key);
                full.push('\n');
            }
        }
    }
    assert!(keys > 50, "only {keys} defaults seen");
    full.push_str(region);
    let least = needed.map(|(table, key)| format!("{table}\n{key}\n")).concat() + "[probe.app]\n" + region;
    let full = parse(&full, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(full, parse(&least, None).unwrap());

    // And no key is missing there.
    for line in show::as_toml(&full).lines().filter(|line| !line.is_empty() && !line.starts_with("[region")) {
        let key = line.split(' ').next().unwrap();
        let documented = text.lines().any(|line| line.trim_start_matches(['#', ':', ' ']).starts_with(key));
        assert!(documented, "{key} is not in packaging/agent.toml");
    }
}

#[test]
fn what_show_prints_reads_back_the_same() {
    for name in ["examples/two-regions.toml", "examples/one-region.toml", "examples/web-only.toml"] {
        let text = fs::read_to_string(packaging().join(name)).unwrap();
        for region in ["ap-south-1", "us-east-1"] {
            let Ok(config) = parse(&text, Some(region)) else { continue };
            assert_eq!(parse(&show::as_toml(&config), Some(region)).unwrap(), config, "{name} {region}");
        }
    }
    let odd = "[probe.app]\nbody = \"a \\\"quoted\\\" \\\\ \\n line\"\nstatus = \"200, 301-302\"\n";
    let config = parse(odd, None).unwrap();
    assert_eq!(parse(&show::as_toml(&config), None).unwrap(), config);
}

#[test]
fn a_region_picks_its_own_values() {
    let text = fs::read_to_string(packaging().join("examples/two-regions.toml")).unwrap();
    let file = file(&text);

    let home = file.config(Some("ap-south-1")).unwrap();
    assert!(!home.policy.standby);
    let database = home.database.unwrap();
    assert_eq!((database.port, database.writer_expected), (3306, true));
    assert!(database.host.starts_with("shop.abc123"));
    assert_eq!(home.efs.unwrap().file_system.as_deref(), Some("fs-0123456789abcdef0"));
    let hosts = home.wiring.hosts;
    assert_eq!(hosts, ["127.0.0.1", "ap-south-1.shop.example.com", "shop.example.com"]);

    let peer = file.config(Some("us-east-1")).unwrap();
    assert!(peer.policy.standby);
    assert!(!peer.database.unwrap().writer_expected);
    assert!(peer.efs.unwrap().read_only);

    // Nobody could tell the region: what depends on it does not exist, the rest does.
    let nowhere = file.config(None).unwrap();
    assert_eq!((nowhere.region, nowhere.database), (None, None));
    assert!(nowhere.app.is_some() && nowhere.efs.unwrap().file_system.is_none());
    assert!(!nowhere.policy.standby, "a region that does not know itself must not behave as the standby");
}

#[test]
fn one_region_needs_no_name() {
    let text = fs::read_to_string(packaging().join("examples/one-region.toml")).unwrap();
    let config = parse(&text, None).unwrap();
    assert_eq!(config.region.as_deref(), Some("ap-south-1"));
    assert!(!config.policy.standby && config.database.unwrap().writer_expected);
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = parse("[probe.efs]\npath = \"/mnt/efs\"\n[probe.app]\n", None).unwrap();
    let seconds = Duration::from_secs_f64;
    let nginx = config.nginx.schedule;
    assert_eq!((nginx.interval, nginx.timeout, nginx.fast_interval), (seconds(2.0), seconds(1.0), Some(seconds(0.5))));
    assert_eq!((nginx.fall, nginx.rise), (2, 2));
    let efs = config.efs.unwrap().schedule;
    assert_eq!((efs.interval, efs.timeout, efs.fast_interval, efs.rise), (seconds(4.0), seconds(3.0), None, 3));
    assert_eq!(config.app.unwrap().status, [(200, 399)]);
    assert_eq!(config.policy.hold_database, seconds(150.0));
    assert_eq!(config.host.paths, [Path::new("/"), Path::new("/var/lib/dr-agent")]);
    let defaults = config::defaults();
    assert!(defaults.wiring.hosts.is_empty() && defaults.app.is_none() && defaults.efs.is_none());
}

#[test]
fn a_path_that_is_named_twice_is_watched_once() {
    let config = parse("[probe.host]\npaths = [\"/\", \"/tmp\", \"/\", \"/tmp/\"]\n", None).unwrap();
    assert_eq!(config.host.paths, [Path::new("/"), Path::new("/tmp")]);
}

#[test]
fn all_problems_are_named_at_once() {
    let text = r#"
schema = 2
deploymnt = "shop"
home = "eu-west-1"

[listen]
public = "0.0.0.0:80"

[probe.nginx]
intervall = "2s"
interval = 5
url = "https://127.0.0.1/"

[probe.app]
timeout = "3s"
status = "20x"

[probe.efs]
path = "mnt/efs"
timeout = "2"

[probe.database]
password_file = 7

[probe.host]
low = 10

[probe.exec.nginx]
command = ["check"]

[region.ap-south-1]
efs = "fs-x"

[verdict]
hold_efs = "1 parsec"
start_limit = "1h"

[replace]
mode = "kill"

[repoint]
[[repoint.output]]
format = "xml"

[metrics]
allow = ["10.0.0.0/33"]

[cloudwach]
"#;
    insta::assert_snapshot!(complaints(text, Some("ap-south-1")), @r#"
    :2: `schema = 2`: this release reads schema 1
    :3: `deploymnt` is not a known key: did you mean `deployment`?
    :4: `home = "eu-west-1"`: there is no table [region.eu-west-1]; the file has [region.ap-south-1]
    :7: `listen.public = "0.0.0.0:80"`: must be a loopback address: only nginx on this machine connects to it
    :10: `probe.nginx.intervall` is not a known key: did you mean `interval`?
    :11: `probe.nginx.interval = 5`: a duration needs a unit: write "5s" or "5ms"
    :12: `probe.nginx.url = "https://127.0.0.1/"`: must begin with `http://`: the agent asks nginx on this machine, without TLS
    :15: `probe.app.timeout = "3s"`: must be shorter than `probe.app.interval` (2s): lower it or raise that
    :16: `probe.app.status = "20x"`: must be status codes and ranges: "200-399" or "200, 301-302"
    :19: `probe.efs.path = "mnt/efs"`: must be an absolute path: one that begins with `/`
    :20: `probe.efs.timeout = "2"`: a duration needs a unit: write "2s" or "2ms"
    :22: `probe.database.user` is missing: name the agent's database account: user = "dr_agent"
    :23: `probe.database.password_file = 7`: must be a string: write it in double quotes
    :26: `probe.host.low = 10`: must be a percentage in a string, from "0%" to "100%"
    :28: `probe.exec`: the name `nginx` must be 1 to 32 letters, digits, `_`, `-`, and not the name of a built-in component
    :29: `probe.exec.nginx.command = ["check"]`: must begin with the absolute path of a program: ["/usr/libexec/x", "--flag"]
    :31: `region`: with [probe.database] the region's table needs `database = "HOST:3306"`
    :32: `region.ap-south-1.efs = "fs-x"`: must be a file system's id: `fs-` and 8 or more hexadecimal digits
    :35: `verdict.hold_efs = "1 parsec"`: is not a duration: write it as "2s", "500ms" or "2m 30s"
    :36: `verdict.start_limit = "1h"`: must be from 1s to 15s
    :39: `replace.mode = "kill"`: must be one of `observe`, `enforce`
    :41: `repoint.unit` is missing: `apply = "reload"` needs the app's unit: unit = "shop.service"
    :42: `repoint.output.path` is missing: the `env` output needs the file to write
    :43: `repoint.output.format = "xml"`: must be one of `env`, `json`, `proxy`
    :46: `metrics.allow = ["10.0.0.0/33"]`: must have a prefix from /0 to /32
    :48: `cloudwach` is not a known key: did you mean `cloudwatch`?
    "#);
}

#[test]
fn there_are_no_more_exec_probes_than_threads_for_them() {
    let text = |count: u8| {
        let probes = (0..count).map(|i| format!("[probe.exec.p{i}]\ncommand = [\"/bin/true\"]\n"));
        probes.collect::<Vec<_>>().concat()
    };
    assert_eq!(parse(&text(12), None).map(|config| config.exec.len()).ok(), Some(12));
    insta::assert_snapshot!(complaints(&text(13), None), @":1: `probe.exec`: 13 programs, and 12 is the most: let one program look at several things");
}

#[test]
fn two_regions_need_a_home_that_is_one_of_them() {
    let text = "[region.a-1]\n[region.b-1]\n[authority]\nregions = [\"a-1\", \"c-1\"]\n";
    insta::assert_snapshot!(complaints(text, Some("c-1")), @r#"
    : `home` is missing: with two regions, say which one has Route 53's PRIMARY record
    :1: `region`: this instance is in `c-1` and the file has [region.a-1] and [region.b-1]: add [region.c-1]
    :4: `authority.regions = ["a-1", "c-1"]`: must name the regions that have a [region.*] table: a-1, b-1
    "#);
}

#[test]
fn what_is_not_toml_is_shown_where_it_is() {
    insta::assert_snapshot!(complaints("schema = 1\n[probe.nginx\ninterval = \"2s\n", None), @":2: not TOML: unclosed table, expected `]`");
}

#[test]
fn bytes_that_are_not_text_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, b"schema = 1\n\xff\xfe").unwrap();
    assert!(load::read(&path).unwrap_err().to_string().contains("not UTF-8 text after byte 11"));
}

#[test]
fn a_file_that_others_can_write_is_refused_with_the_fix() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "schema = 1\n");
    for mode in [0o664, 0o646, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let text = load::read(&path).unwrap_err().to_string();
        assert!(text.contains(&format!("chmod go-w {}", path.display())), "{text}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    load::read(&path).unwrap();
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "schema = 1\n");
    if std::os::unix::fs::chown(&path, Some(4242), None).is_err() {
        eprintln!("not root: left out");
        return;
    }
    let text = load::read(&path).unwrap_err().to_string();
    assert!(text.contains("belongs to uid 4242") && text.contains("chown root"), "{text}");
}

#[test]
fn what_is_not_a_file_is_refused_and_does_not_hang() {
    let dir = TempDir::new().unwrap();
    assert!(load::read(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(load::read(&fifo).unwrap_err().to_string().contains("not a regular file"));
    assert!(load::read(&dir.path().join("none")).unwrap_err().is_missing());
}

#[test]
fn a_bad_file_at_start_gives_the_last_good_one_and_then_the_defaults() {
    let dir = TempDir::new().unwrap();
    let state = format!("state_dir = \"{}\"\n", dir.path().display());
    let good = state.clone() + "deployment = \"good\"\n";
    let path = write(&dir, &good);
    let loaded = load::at_start(Some(&path), None);
    assert!(loaded.problems.is_empty());
    load::remember_good(&loaded.file.unwrap(), dir.path()).unwrap();

    let bad = state + "deployment = 5\n";
    write(&dir, &bad);
    let loaded = load::at_start(Some(&path), None);
    assert_eq!(loaded.config.deployment, "good");
    assert!(loaded.problems[0].contains("agent.toml:2: `deployment = 5`"), "{:?}", loaded.problems);
    assert!(loaded.problems[1].contains("config.good.toml"), "{:?}", loaded.problems);
    load::reload(Some(&path), None).unwrap_err();

    // The copy may be bad as well: an older release wrote it.
    let copy = dir.path().join("config.good.toml");
    fs::write(&copy, "deployment = 6\n").unwrap();
    let loaded = load::at_start(Some(&path), None);
    assert_eq!(loaded.config.deployment, "default");
    assert_eq!(loaded.config.state_dir, dir.path(), "the markers stay where nginx looks");
    assert!(loaded.config.efs.is_none() && loaded.config.wiring.hosts.is_empty());
    assert!(loaded.problems.iter().any(|line| line.contains("built-in defaults")), "{:?}", loaded.problems);

    fs::remove_file(&copy).unwrap();
    fs::remove_file(&path).unwrap();
    let loaded = load::at_start(Some(&path), None);
    assert!(loaded.problems[0].contains("no such file"), "one was named and is not there: {:?}", loaded.problems);
}

#[test]
fn root_keeps_a_copy_of_its_own_of_what_is_good_in_its_region() {
    let (dir, own) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let state = format!("schema = 1\nstate_dir = \"{}\"\nhome = \"a-1\"\n", dir.path().display());
    let regions = |name: &str| {
        format!(
            "{state}[probe.efs]\npath = \"/mnt/efs\"\n[region.a-1]\nefs = \"fs-0123456789abcdef0\"\n[region.{name}]\nefs = \"fs-0fedcba9876543210\"\n"
        )
    };
    let path = write(&dir, &regions("b-1"));
    let start = |region| load::at_start_of_root(Some(&path), region, own.path());
    assert!(start(Some("b-1")).problems.is_empty());

    // Good as long as nobody knows where this is.
    write(&dir, &regions("b-2"));
    assert!(start(None).problems.is_empty());
    let loaded = start(Some("b-1"));
    assert_eq!(loaded.stand_in, Some(StandIn::LastGood), "{:?}", loaded.problems);
    assert!(loaded.config.efs.is_some_and(|efs| efs.file_system.as_deref() == Some("fs-0fedcba9876543210")));

    // The agent's copy is not root's.
    fs::write(dir.path().join("config.good.toml"), regions("b-1")).unwrap();
    let others = TempDir::new().unwrap();
    let loaded = load::at_start_of_root(Some(&path), Some("b-1"), others.path());
    assert_eq!(loaded.stand_in, Some(StandIn::Defaults));

    // What root kept where it did not know the region is better than nothing, for who does not need one.
    write(&dir, "no such key");
    fs::write(others.path().join("config.good.toml"), regions("b-1")).unwrap();
    let loaded = load::at_start_of_root(Some(&path), None, others.path());
    assert_eq!(loaded.stand_in, Some(StandIn::LastGood), "{:?}", loaded.problems);
    assert!(loaded.config.efs.is_some());
}

/// A good file with which the agent cannot start all the same.
#[test]
fn what_cannot_be_in_force_gives_way_to_the_last_good_file_then_to_the_defaults_and_then_to_nothing() {
    let dir = TempDir::new().unwrap();
    let state = format!("state_dir = \"{}\"\n", dir.path().display());
    fs::write(dir.path().join("config.good.toml"), state.clone() + "deployment = \"good\"\n").unwrap();
    let path = write(&dir, &(state + "deployment = \"new\"\n"));
    let new = load::at_start(Some(&path), None);
    assert_eq!((&*new.config.deployment, new.stand_in), ("new", None));
    let good = new.instead("first".to_owned(), None).unwrap();
    assert_eq!((&*good.config.deployment, good.stand_in), ("good", Some(StandIn::LastGood)));
    let defaults = good.instead("second".to_owned(), None).unwrap();
    assert_eq!((&*defaults.config.deployment, defaults.stand_in), ("default", Some(StandIn::Defaults)));
    assert_eq!(defaults.config.state_dir, dir.path());
    assert!(defaults.config.policy.partial);
    insta::assert_snapshot!(defaults.problems.join("\n").replace(&dir.path().display().to_string(), "DIR"), @r"
    first
    in force instead: the last good configuration, DIR/config.good.toml
    second
    in force instead: the built-in defaults, which watch only nginx and the host
    ");
    assert!(defaults.instead("third".to_owned(), None).is_none());

    // A state directory that is none has no markers to stay with.
    let path = write(&dir, "state_dir = \"/proc/nope\"\n");
    let defaults = load::at_start(Some(&path), None).instead("it cannot be made".to_owned(), None).unwrap();
    assert_eq!(defaults.config.state_dir, Path::new("/var/lib/dr-agent"));
}
