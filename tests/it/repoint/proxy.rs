//! The database proxy: a real nginx in front of real servers, with clients that stay.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};

use dr_agent::config::{Format, HostPort};
use dr_agent::repoint::render::{self, Content};

use crate::support::mariadb::{PASSWORD, Server, USER};
use crate::support::repoint::{Machine, Proxy};
use crate::support::{Process, eventually, free_port};

fn outputs(port: u16) -> String {
    format!(
        "[repoint]\napply = \"none\"\nverify = \"tcp\"\n[[repoint.output]]\nformat = \"proxy\"\n\
         listen = \"127.0.0.1:{port}\"\npath = \"{{dir}}/app/database-proxy.conf\"\n"
    )
}

fn client(port: u16, statement: &str) -> Command {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--ssl", "-h", "127.0.0.1", "-P", &port.to_string(), "-u", USER])
        .arg(format!("-p{PASSWORD}"))
        .args(["--batch", "--skip-column-names", "--execute", statement])
        .stdin(Stdio::null());
    command
}

/// The port of the server that a new session reaches.
fn reached(port: u16) -> Result<u16, String> {
    let output = client(port, "SELECT @@port").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A session that says nothing for as long as it may.
fn session(port: u16, server: &Server) -> Process {
    let process = Process::start(client(port, "SELECT SLEEP(1000)").stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("the session is there", || {
        let sleeping = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(1000)%' AND info NOT LIKE '%COUNT%'";
        match server.sql(sleeping).as_str() {
            "0" => Err("not yet"),
            _ => Ok(()),
        }
    });
    process
}

fn ends(mut session: Process) {
    assert!(!session.ended().success(), "a session that ends by itself is not what was tested");
}

#[test]
fn sessions_end_when_the_writer_changes_and_new_ones_reach_the_new_one() {
    let (a, b) = (Server::start(), Server::start());
    let port = free_port();
    let hosts = [format!("127.0.0.1:{}", a.port), format!("127.0.0.1:{}", b.port)];
    let machine = Machine::new([&hosts[0], &hosts[1]], &outputs(port));
    let proxy = Proxy::of(&machine.scratch, port);

    machine.repoint("a-1");
    assert_eq!(eventually("the proxy leads to a", || reached(port)), a.port);
    let (first, second) = (session(port, &a), session(port, &a));
    let master = proxy.pid().unwrap();

    // A new epoch is nothing to the proxy.
    machine.scratch.called();
    machine.repoint("a-1");
    assert_eq!(machine.scratch.called(), "");

    machine.repoint("b-1");
    assert_eq!(proxy.pid(), Some(master), "it is reloaded");
    ends(first);
    ends(second);
    eventually("new sessions reach b", || match reached(port) {
        Ok(found) if found == b.port => Ok(()),
        other => Err(format!("{other:?}: {}", proxy.log())),
    });

    let third = session(port, &b);
    machine.repoint("none");
    ends(third);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "nobody listens");
    assert_eq!(proxy.pid(), None);

    machine.repoint("b-1");
    eventually("it is started again", || reached(port));
}

#[test]
fn a_proxy_that_cannot_be_reloaded_is_stopped_rather_than_left_with_the_old_writer() {
    let a = Server::start();
    let port = free_port();
    let host = format!("127.0.0.1:{}", a.port);
    let machine = Machine::new([&host, "127.0.0.1:1"], &outputs(port));
    let proxy = Proxy::of(&machine.scratch, port);
    machine.repoint("a-1");
    eventually("the proxy leads to a", || reached(port));
    let old = session(port, &a);
    let conf = machine.path("app/nginx.conf");
    let good = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, "broken {").unwrap();
    let applied = machine.apply(&machine.decide("b-1"));
    assert!(applied.done.error.unwrap().contains("try-reload-or-restart"), "{}", proxy.log());
    ends(old);
    assert_eq!(proxy.pid(), None);
    std::fs::write(&conf, good).unwrap();
    machine.repoint("a-1");
    eventually("the proxy leads to a", || reached(port));
}

#[test]
fn it_starts_while_dns_is_dead_and_reaches_the_writer_once_its_name_is_known() {
    let a = Server::start();
    let port = free_port();
    let machine = Machine::new(["a.invalid", "b.invalid"], &outputs(port));
    let proxy = Proxy::of(&machine.scratch, port);
    // Nobody answers there.
    let dead = "127.0.0.9".parse().unwrap();
    let content = |host: &str, at| Content {
        writer: Some(HostPort { host: host.to_owned(), port: at }),
        reader: None,
        state: "owner".to_owned(),
        epoch: 1,
    };
    let listen = Format::Proxy((Ipv4Addr::LOCALHOST, port).into());
    std::fs::write(proxy.conf(), render::text(listen, &content("a.invalid", 3306), &[dead])).unwrap();
    proxy.start();
    eventually("it listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
    assert!(reached(port).is_err());
    machine.configure([&format!("127.0.0.1:{}", a.port), "b.invalid"], &outputs(port));
    machine.repoint("a-1");
    eventually("it leads to a", || reached(port));
}
