//! The package on a machine with a real systemd and nginx: installed, running, broken, upgraded, fenced, removed. Each
//! time what nginx answers the load balancer, Route 53 and a user, which markers stand, what the units are, and what is in
//! the journal.

use std::time::{Duration, Instant};

use dr_agent::telemetry::event::{AGENT_STOPPING, COMPONENT_CHANGED, CONFIG_REJECTED, GATE_CHANGED, REGION_CHANGED};

use crate::support::installed::{FENCED, Installed, WELL};
use crate::support::within;

const PATHS: [&str; 3] = ["nginx-restart", "efs-remount", "repoint-apply"];

#[test]
fn it_is_installed_without_starting_and_starts_without_network_mount_and_database() {
    let Some(host) = Installed::new() else { return };
    let machine = &host.machine;
    assert_eq!(
        (host.property("dr-agent", "ActiveState"), host.property("dr-agent", "UnitFileState")),
        ("inactive".into(), "disabled".into())
    );
    assert!(machine.must("rpm --verify --nodeps dr-agent").is_empty(), "everything is as it was packaged");
    assert_eq!(machine.must("id -u dr-agent && getent group dr-agent-admin | cut -d: -f1"), "848\ndr-agent-admin\n");
    let held = host.ask("/health/instance");
    assert_eq!((held.code.as_str(), held.by.as_str()), ("200", "absent"), "the site takes it in before the agent runs");

    let dead = "schema = 1\ndeployment = \"shop\"\n[probe.efs]\npath = \"/mnt/efs\"\n[probe.database]\nuser = \"dr_agent\"\n\
                [region.a-1]\ndatabase = \"10.255.255.1:3306\"\nefs = \"fs-0123456789abcdef0\"\n";
    machine.put("/etc/dr-agent/agent.toml", dead, 0o644);
    machine.put("/etc/dr-agent/region", "a-1\n", 0o644);
    machine.must("dr-agent config check");
    let began = Instant::now();
    machine.must("systemctl enable --quiet --now dr-agent");
    let started = began.elapsed();
    host.agent_answers("/health/instance");
    println!("systemctl start took {started:?}, the first answer of the agent was there after {:?}", began.elapsed());
    within(Duration::from_secs(60), "the first verdict", || match host.ask("/health/instance").body {
        body if body.contains("\"state\":\"starting\"") => Err(body),
        _ => Ok(()),
    });
    println!("and the first verdict after {:?}", began.elapsed());
    for unit in PATHS {
        assert_eq!(
            host.property(&format!("dr-agent-helper-{unit}.path"), "ActiveState"),
            "active",
            "the agent wants it"
        );
    }
    let instance = host.becomes("/health/instance", "200");
    host.machine
        .journal_has(&format!("MESSAGE_ID={COMPONENT_CHANGED} COMPONENT=efs TO=unhealthy CAUSE=efs-not-mounted"));
    assert!(instance.body.starts_with(r#"{"ok":true,"dr-agent":"instance","status":""#), "{}", instance.body);
    // The proxy's master is root's.
    for (unit, threshold) in [("dr-agent", 20), ("dr-agent-database-proxy", 35)] {
        machine.must(&format!("systemd-analyze security --threshold={threshold} --no-pager {unit}.service"));
        println!("{}", machine.must(&format!("systemd-analyze security --no-pager {unit}.service | tail -n 1")));
    }

    // Everything comes back by itself.
    let mut host = host;
    host.machine.reboot();
    host.agent_answers("/health/instance");
    host.becomes("/health/instance", "200");
    assert_eq!(host.ask("/").body, "shop\n");
    assert_eq!(
        host.property("dr-agent-gate", "ActiveState"),
        "active",
        "it is enabled with the agent, and holds nothing up"
    );
    let failed = host.machine.must("systemctl list-units --failed --no-legend 'dr-agent*' nginx.service");
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn nobody_notices_an_agent_that_dies_hangs_or_has_a_bad_file() {
    let Some(host) = Installed::running() else { return };
    let machine = &host.machine;
    let site = host.keep_asking("/");
    let asking = [host.keep_asking("/health/instance"), host.keep_asking("/health/region")];

    machine.must("systemctl kill --signal=KILL dr-agent");
    host.property_becomes("dr-agent", "NRestarts", "1");
    host.machine.journal_has("UNIT=dr-agent.service UNIT_RESULT=signal");
    host.settles(WELL);
    machine.must("systemctl kill --signal=STOP dr-agent");
    assert_eq!(host.becomes("/health/live", "503").by, "absent");
    host.property_becomes("dr-agent", "NRestarts", "2");
    host.machine.journal_has("UNIT=dr-agent.service UNIT_RESULT=watchdog");
    host.settles(WELL);

    // A bad file is no reason to end; a start with one takes the last good one.
    machine.put("/etc/dr-agent/agent.toml", "schema = 1\nno such key\n", 0o644);
    machine.must("systemctl restart dr-agent");
    let pid = host.settles(WELL);
    machine.journal_has(&format!("MESSAGE_ID={CONFIG_REJECTED} _PID={pid} --grep=agent.toml:2"));
    assert_eq!(host.property("dr-agent", "NRestarts"), "0", "a restart by hand begins anew, and nothing followed it");
    assert!(host.property("dr-agent", "StatusText").contains("configuration: "));

    // A program that ends at once, again and again, is started again and again.
    machine.put(
        "/run/systemd/system/dr-agent.service.d/broken.conf",
        "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=100ms\n",
        0o644,
    );
    machine.must("systemctl daemon-reload");
    machine.run("systemctl restart dr-agent");
    within(Duration::from_secs(60), "it was started ten times", || {
        let count = host.property("dr-agent", "NRestarts");
        if count.parse::<u32>().is_ok_and(|count| count >= 10) { Ok(()) } else { Err(count) }
    });
    let held = host.ask("/health/region");
    assert_eq!((held.code.as_str(), held.by.as_str(), host.markers().as_str()), ("200", "absent", ""));
    host.machine.journal_has("UNIT=dr-agent.service UNIT_RESULT=exit-code");
    machine
        .must("rm -r /run/systemd/system/dr-agent.service.d && systemctl daemon-reload && systemctl restart dr-agent");
    host.settles(WELL);
    for each in asking.into_iter().chain([site]) {
        println!("{}", each.end("200"));
    }
}

/// What the release after this one may write: fields that this one does not know, in what it remembers and in what a
/// person asked for. Put there when the agent starts, so that it is what the agent reads.
const LATER_STATE: &str = r#"
set -eu
cd /var/lib/dr-agent
sed -i '1s/{/{"of-a-later-release":{"any":["thing"]},/' state.json latches/hold.json
cat state.json latches/hold.json >/root/later
"#;

#[test]
fn an_upgrade_and_a_downgrade_lose_no_answer() {
    let Some(host) = Installed::running() else { return };
    let machine = &host.machine;
    machine.put("/etc/dr-agent/agent.toml", "schema = 1\ndeployment = \"mine\"\n", 0o644);
    machine.must("systemctl reload dr-agent && dr-agent hold --reason 'not now'");
    let site = host.keep_asking("/");
    let asking = [host.keep_asking("/health/instance"), host.keep_asking("/health/region")];
    for (release, action) in [(2, "--upgrade"), (1, "--upgrade --oldpackage")] {
        if release == 1 {
            machine.put("/root/later-state", LATER_STATE, 0o644);
            let before = "[Service]\nExecStartPre=+/bin/sh /root/later-state\n";
            machine.put("/run/systemd/system/dr-agent.service.d/later.conf", before, 0o644);
            machine.must("rm -f /var/lib/dr-agent/state.json.* && systemctl daemon-reload");
        }
        let pid = host.property("dr-agent", "MainPID");
        let said = host.rpm(action, release);
        assert!(said.ok && said.err.is_empty(), "{}{}", said.out, said.err);
        assert_eq!(machine.must("rpm -q --queryformat '%{RELEASE}' dr-agent"), release.to_string());
        assert_ne!(host.settles(WELL), pid, "the new one runs");
        host.machine.journal_has(&format!("MESSAGE_ID={AGENT_STOPPING} _PID={pid}"));
        for unit in PATHS {
            assert_eq!(host.property(&format!("dr-agent-helper-{unit}.path"), "ActiveState"), "active");
        }
        assert_eq!(host.property("dr-agent", "UnitFileState"), "enabled");
        assert_eq!(
            machine.must("dr-agent config show | grep ^deployment"),
            "deployment = \"mine\"\n",
            "the file was kept"
        );
        assert!(machine.run("dr-agent status").out.contains("not now"), "the state was kept");
    }
    assert_eq!(machine.must("grep -c of-a-later-release /root/later"), "2\n", "it was what the older one read");
    assert_eq!(machine.must("cd /var/lib/dr-agent && ls state.json*"), "state.json\n", "nothing was set aside");
    // What somebody stopped stays stopped.
    machine.must("systemctl stop dr-agent");
    let said = host.rpm("--upgrade", 2);
    assert!(said.ok && host.property("dr-agent", "ActiveState") == "inactive", "{}", said.err);
    for each in asking.into_iter().chain([site]) {
        println!("{}", each.end("200"));
    }
}

#[test]
fn a_fence_outlives_a_reboot_and_refuses_a_removal_until_it_is_gone() {
    let Some(mut host) = Installed::running() else { return };
    host.machine.must("install -o dr-agent -g dr-agent /dev/null /var/lib/dr-agent/public/fenced");
    let closed = format!("MESSAGE_ID={REGION_CHANGED} TO=fenced _PID={}", host.settles(FENCED));
    assert_eq!(host.machine.journal_has(&closed)["_SYSTEMD_UNIT"], "dr-agent.service");
    host.machine.journal_has(&format!("MESSAGE_ID={GATE_CHANGED} CLOSED=true"));
    host.machine.put("/var/lib/dr-agent/public/region-closed", "", 0o644);
    host.machine.reboot();
    assert_eq!(host.ask("/").code, "503", "also before the agent is up");
    let pid = host.settles(FENCED);
    host.machine.journal_has(&format!("MESSAGE_ID={REGION_CHANGED} TO=fenced _PID={pid}"));

    // An upgrade is none of the fence's business, a removal is.
    let said = host.rpm("--upgrade", 2);
    assert!(said.ok, "{}", said.err);
    host.settles(FENCED);
    let refused = host.erase();
    assert!(
        !refused.ok && refused.err.contains("this region is closed") && refused.err.contains("fence release"),
        "{}",
        refused.err
    );
    assert_eq!(host.looks(), FENCED, "nothing was touched");
    host.machine.must("systemctl stop dr-agent");
    assert!(!host.erase().ok, "nor without an agent");

    // There is no other region here that could own the data.
    host.machine.must("systemctl start dr-agent && rm /var/lib/dr-agent/public/fenced");
    let pid = host.settles(WELL);
    host.machine.put("/var/lib/dr-agent/public/draining", "", 0o644);
    let site = host.keep_asking("/");
    // A remount that was killed half-way, twice, leaves the shared file system where its new mount was tried.
    host.machine.must(
        "mkdir -p /mnt/efs /run/dr-agent-result/staging && mount -t tmpfs efs /mnt/efs && echo kept >/mnt/efs/precious && \
         for _ in 1 2; do mount --bind /mnt/efs /run/dr-agent-result/staging || exit; done",
    );
    let said = host.erase();
    assert!(said.ok && said.err.is_empty(), "{}", said.err);
    assert_eq!(host.machine.must("cat /mnt/efs/precious && umount /mnt/efs"), "kept\n");
    host.machine.journal_has(&format!("MESSAGE_ID={AGENT_STOPPING} _PID={pid}"));
    host.machine.must("nginx -t && systemctl reload nginx");
    println!("{}", site.end("200"));
    assert_eq!(host.markers(), "");
    assert_eq!(host.ask("/health/instance").body, "shop\n", "the site's own again");
    let traces = host.machine.must(
        "find / /run -xdev '(' -name '*dr-agent*' -o -path '/run/*dr-agent*' ')' -not -path '/proc/*' -not -path '/var/log/*' -not -path '/root/*' | sort",
    );
    assert_eq!(traces, "/var/lib/dr-agent\n/var/lib/dr-agent-helper\n", "only the state");
    let units = host.machine.must(
        "systemctl list-units --all --no-legend 'dr-agent*'; systemctl list-unit-files --no-legend 'dr-agent*' || true",
    );
    assert!(units.is_empty(), "{units}");
}

/// In an image that is being made nothing runs, and systemd cannot be asked.
#[test]
fn a_removal_where_no_systemd_runs_leaves_nothing_enabled() {
    let Some(host) = Installed::new() else { return };
    let machine = &host.machine;
    machine.must("systemctl enable --quiet dr-agent dr-agent-bootstrap dr-agent-database-proxy");
    let enabled = "find /etc/systemd -lname '*dr-agent*'";
    assert_eq!(machine.must(enabled).lines().count(), 4, "{}", machine.must(enabled));
    let said = machine
        .run("unshare --mount sh -c 'mount -t tmpfs none /run/systemd && exec rpm --erase --force-debian dr-agent'");
    assert!(said.ok && said.err.is_empty(), "{}{}", said.out, said.err);
    assert_eq!(machine.must(enabled), "");
}

#[test]
fn nginx_that_is_stopped_is_seen_and_its_return_too() {
    let Some(host) = Installed::running() else { return };
    let machine = &host.machine;
    let own = "curl --silent --output /dev/null --write-out '%{http_code}' --unix-socket /run/dr-agent-http/public.sock http://a/health/instance";
    machine.must("systemctl stop nginx");
    within(Duration::from_secs(30), "the agent says 503", || {
        let code = machine.run(own).out;
        if code == "503" { Ok(()) } else { Err(code) }
    });
    let fell = host.machine.journal_has(&format!("MESSAGE_ID={COMPONENT_CHANGED} COMPONENT=nginx TO=unhealthy"));
    assert_eq!(
        (fell["CAUSE"].as_str(), fell["_SYSTEMD_UNIT"].as_str()),
        (Some("nginx-master-gone"), Some("dr-agent.service"))
    );
    let looks = "instance=000 region=000 page=000 markers= agent=active nginx=inactive";
    assert_eq!(host.looks(), looks, "it is nginx that does not answer");
    machine.must("systemctl start nginx");
    host.settles(WELL);
    host.machine.journal_has(&format!("MESSAGE_ID={COMPONENT_CHANGED} COMPONENT=nginx TO=healthy"));
}

#[test]
fn a_hundred_repoints_in_a_minute_leave_every_unit_alive() {
    let Some(host) = Installed::new() else { return };
    let machine = &host.machine;
    let config = r#"
schema = 1
home = "a-1"
[region.a-1]
database = "127.0.0.1:81"
[region.b-1]
database = "127.0.0.1:82"
[repoint]
apply = "restart"
unit = "shop.service"
verify = "tcp"
[[repoint.output]]
format = "env"
path = "/etc/shop.env"
[[repoint.output]]
format = "proxy"
"#;
    machine.add_stream_module();
    machine.put("/etc/dr-agent/agent.toml", config, 0o644);
    // With systemd's own start limit: five in ten seconds.
    machine.put("/etc/systemd/system/shop.service", "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n", 0o644);
    machine.must("systemctl daemon-reload && systemctl start shop dr-agent");
    // As the agent asks: a decision, then a request, without waiting for more than the result.
    let script = r#"
set -eu
mkdir -p /var/lib/dr-agent/repoint
chown dr-agent:dr-agent /var/lib/dr-agent/repoint
for number in $(seq 1 100); do
    [ $((number % 2)) = 0 ] && writer=a-1 || writer=b-1
    # It starts after the boot gate.
    [ -e /root/master ] || cp /run/dr-agent-database-proxy.pid /root/master 2>/dev/null || :
    printf '{"id":"%s","writer":"%s","reader":"a-1","epoch":1,"state":"owner"}' $number $writer >/root/decision
    install -o dr-agent -g dr-agent /root/decision /var/lib/dr-agent/repoint/decision.json
    tries=0
    until grep -q "\"id\":\"$number\"" /run/dr-agent-result/repoint-apply.json 2>/dev/null; do
        [ $((tries % 20)) = 0 ] && echo $number >/run/dr-agent/request/repoint-apply
        tries=$((tries + 1))
        [ $tries -lt 600 ] || exit 9
        sleep 0.05
    done
done
"#;
    machine.put("/root/repoints", script, 0o644);
    let began = Instant::now();
    machine.must("systemd-run --quiet --unit=repoints sh /root/repoints");
    // Well under a minute where nothing else runs: it is printed.
    within(Duration::from_secs(180), "the hundredth repoint is done", || {
        let done = machine.run("cat /run/dr-agent-result/repoint-apply.json").out;
        if done.contains("\"id\":\"100\"") { Ok(()) } else { Err(done) }
    });
    println!("a hundred repoints took {:?}", began.elapsed());
    assert!(machine.must("cat /etc/shop.env").contains("DATABASE_WRITER_PORT=81"), "the hundredth");
    for unit in ["dr-agent", "dr-agent-helper-repoint-apply.path", "dr-agent-database-proxy"] {
        assert_eq!(host.property(unit, "ActiveState"), "active", "{unit}");
    }
    machine.must("cmp /root/master /run/dr-agent-database-proxy.pid");
    assert_eq!(host.property("shop", "ActiveState"), "active", "the app was restarted a hundred times");
    let failed = machine.must("systemctl list-units --failed --no-legend");
    assert!(!failed.contains("dr-agent") && !failed.contains("shop"), "{failed}");
}
