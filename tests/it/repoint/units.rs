//! The units under a real systemd: requests start the helper, the gate holds what uses the database, the proxy follows.

use std::fs;

use crate::support::machine::Machine;
use crate::support::{agent_binary, eventually, repository};

const CONFIG: &str = r#"
schema = 1
deployment = "test"
home = "a-1"
[region.a-1]
database = "127.0.0.1:80"
[region.b-1]
database = "127.0.0.1:81"
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

const SHOP: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nEnvironmentFile=-/etc/shop.env\n\
                    ExecStart=/bin/sh -c 'echo \"$DATABASE_WRITER_PORT\" >>/root/shop'\n";

fn install(machine: &Machine) {
    let file = |path: &str| {
        let path = repository().join("packaging").join(path);
        fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    };
    machine.put("/usr/bin/dr-agent", fs::read(agent_binary()).expect("read the binary"), 0o755);
    for unit in [
        "dr-agent-gate.service",
        "dr-agent-database-proxy.service",
        "dr-agent-helper-repoint-apply.path",
        "dr-agent-helper-repoint-apply.service",
    ] {
        machine.put(&format!("/usr/lib/systemd/system/{unit}"), file(&format!("systemd/{unit}")), 0o644);
    }
    machine.put("/usr/lib/sysusers.d/dr-agent.conf", file("systemd/dr-agent.sysusers.conf"), 0o644);
    machine.put("/usr/lib/tmpfiles.d/dr-agent.conf", file("systemd/dr-agent.tmpfiles.conf"), 0o644);
    machine.put("/etc/nginx/dr-agent-database-proxy.conf", file("nginx/database-proxy.conf"), 0o644);
    machine.put("/etc/systemd/system/shop.service.d/dr-agent-gate.conf", file("systemd/dr-agent-gate.conf"), 0o644);
    machine.put("/etc/systemd/system/shop.service", SHOP, 0o644);
    machine.put("/etc/dr-agent/agent.toml", CONFIG, 0o644);
    machine.add_stream_module();
    let site = "server { listen 80 default_server; return 200 a; } server { listen 81; return 200 b; }\n";
    machine.put("/etc/nginx/sites-available/default", site, 0o644);
    // As it is, but for the wait: this machine may be slow.
    let longer =
        "[Service]\nExecStart=\nExecStart=-/usr/bin/dr-agent helper gate-open --wait 100s\nTimeoutStartSec=120\n";
    machine.put("/etc/systemd/system/dr-agent-gate.service.d/test.conf", longer, 0o644);
    machine.must("systemctl daemon-reload && systemd-sysusers && systemd-tmpfiles --create dr-agent.conf");
}

/// Decides as the agent does, and waits for the result.
fn repoint(machine: &Machine, id: &str, writer: &str) {
    let decision = format!(r#"{{"id":"{id}","writer":"{writer}","reader":"a-1","epoch":1,"state":"owner"}}"#);
    machine.put("/root/decision.json", decision, 0o644);
    machine.must("install -D -o dr-agent -g dr-agent /root/decision.json /var/lib/dr-agent/repoint/decision.json");
    let result = eventually("the helper has run", || {
        machine.must(&format!("echo {id} >/run/dr-agent/request/repoint-apply"));
        let result = machine.run("cat /run/dr-agent-result/repoint-apply.json").out;
        if result.contains(&format!(r#""id":"{id}""#)) { Ok(result) } else { Err(result) }
    });
    let log = || machine.must("journalctl --quiet --no-pager --lines=40");
    assert!(result.contains(r#""ok":true"#), "{result}\n{}", log());
}

fn state(machine: &Machine, unit: &str) -> String {
    machine.must(&format!("systemctl show {unit} --property=ActiveState --value")).trim().to_owned()
}

fn becomes(machine: &Machine, unit: &str, wanted: &str) {
    eventually(&format!("{unit} is {wanted}"), || match state(machine, unit) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found}\n{}", machine.run("journalctl --quiet --no-pager --lines=40").out)),
    });
}

#[test]
fn the_units_of_repointing_under_a_real_systemd() {
    let Some(machine) = Machine::boot() else { return };
    machine.must("systemctl stop nginx");
    install(&machine);
    machine.must("systemd-analyze verify dr-agent-gate.service dr-agent-database-proxy.service dr-agent-helper-repoint-apply.path");
    machine.must("systemctl enable --quiet dr-agent-gate");
    machine.must("systemctl start dr-agent-helper-repoint-apply.path");

    // No epoch is known: the gate opens at once.
    machine.must("systemctl start nginx");
    assert_eq!(state(&machine, "dr-agent-gate"), "active");
    machine.must("systemctl stop nginx dr-agent-gate");

    // The helper is started by the request, and what does not run is left alone, but for the proxy.
    repoint(&machine, "1", "a-1");
    assert_eq!((state(&machine, "shop"), machine.run("cat /root/shop").out.as_str()), ("inactive".to_owned(), ""));
    assert_eq!(machine.must("cat /etc/shop.env").lines().nth(2), Some("DATABASE_WRITER_PORT=80"));
    becomes(&machine, "dr-agent-gate", "activating");
    assert_ne!(
        state(&machine, "dr-agent-database-proxy"),
        "active",
        "it starts after the gate, which the helper did not wait for"
    );
    machine.must("systemctl start --no-block nginx shop");
    assert_eq!((state(&machine, "nginx"), state(&machine, "shop")), ("inactive".to_owned(), "inactive".to_owned()));
    machine.must("cp /proc/sys/kernel/random/boot_id /run/dr-agent/decided");
    for unit in ["nginx", "shop", "dr-agent-database-proxy"] {
        becomes(&machine, unit, "active");
    }
    // It stays open: a restart of the web server waits for nothing.
    machine.must("rm /run/dr-agent/decided");
    machine.must("systemctl restart nginx");
    let log = machine.must("journalctl --quiet --no-pager --unit=dr-agent-gate --output=cat");
    assert!(log.contains("the agent decided, and the outputs say so") && !log.contains("in time"), "{log}");

    let page = || machine.run("curl -sS --max-time 5 http://127.0.0.1:3306/").out;
    let leads_to = |writer: &str| {
        eventually(&format!("the proxy leads to {writer}"), || {
            let found = page();
            if found == writer {
                Ok(())
            } else {
                Err(format!("{found}\n{}", machine.must("journalctl --quiet --lines=20")))
            }
        });
    };
    leads_to("a");
    let master = machine.must("cat /run/dr-agent-database-proxy.pid");
    repoint(&machine, "2", "b-1");
    leads_to("b");
    assert_eq!(machine.must("cat /run/dr-agent-database-proxy.pid"), master, "it was reloaded");
    assert_eq!(machine.must("cat /root/shop"), "80\n81\n", "the app was restarted");
    repoint(&machine, "3", "none");
    assert_eq!((page().as_str(), state(&machine, "dr-agent-database-proxy").as_str()), ("", "inactive"));
    assert_eq!(machine.must("cat /root/shop"), "80\n81\n\n");
    repoint(&machine, "4", "a-1");
    leads_to("a");

    // An app that gave up while there was no writer is started with the next one.
    machine.put("/etc/systemd/system/shop.service", "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n", 0o644);
    machine.must(
        "systemctl stop shop && systemctl daemon-reload && systemctl start shop && systemctl kill --signal=KILL shop",
    );
    becomes(&machine, "shop", "failed");
    repoint(&machine, "5", "none");
    assert_eq!(state(&machine, "shop"), "failed");
    repoint(&machine, "6", "b-1");
    becomes(&machine, "shop", "active");

    // One that is only reloaded, and starts again and again for want of a writer: it cannot be reloaded, and would wait for an hour.
    let shop = "[Service]\nType=exec\nEnvironmentFile=/etc/shop.env\nExecStart=/bin/sh -c 'test -n \"$DATABASE_WRITER_PORT\" && exec sleep infinity'\n\
                ExecReload=/bin/true\nRestart=always\nRestartSec=1h\n";
    machine.put("/etc/systemd/system/shop.service", shop, 0o644);
    machine.put("/etc/dr-agent/agent.toml", CONFIG.replace("\"restart\"", "\"reload\""), 0o644);
    machine.must("systemctl daemon-reload");
    repoint(&machine, "7", "none");
    machine.run("systemctl restart shop");
    becomes(&machine, "shop", "activating");
    repoint(&machine, "8", "b-1");
    becomes(&machine, "shop", "active");
    let modes = machine.must("stat -c '%a %U' /var/lib/dr-agent-helper /var/lib/dr-agent-helper/repoint.json /run/dr-agent-result/repoint-apply.json");
    assert_eq!(modes, "700 root\n600 root\n644 root\n");
}
