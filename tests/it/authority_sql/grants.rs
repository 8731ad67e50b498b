//! The account that `dr-agent database grants` makes, and what becomes of one without its rights or tables.

use super::*;

#[test]
fn the_script_makes_an_account_that_can_do_everything_and_write_nothing_else() {
    for dialect in [&[][..], &["--dialect", "mariadb"]] {
        let server = Server::start();
        server.sql(&format!("DROP USER '{USER}'@'%'; CREATE DATABASE shop; CREATE TABLE shop.orders (id INT)"));
        // Its name is one that the pattern `dr_agent` matches.
        server.sql("CREATE DATABASE drXagent; CREATE TABLE drXagent.t (id INT)");
        let script = grants(dialect);
        server.sql(&script);
        server.sql(&script);
        assert_eq!(server.sql(&format!("SELECT max_user_connections FROM mysql.user WHERE user = '{USER}'")), "60");

        let mut home = Asked::of(&server);
        let proof = home.prove().expect("a primary, and the right to see that it is one");
        let first = Claiming::first(claim(1, HOME), proof.read.server, &regions(), "a test");
        assert_eq!(home.claim(&first), Ok(Swap::Done));
        home.take(3, HOME, Kind::Claim);
        home.beat(HOME).expect("beat");
        home.enrol("a server", PEER).expect("enrol");
        home.supersede(&claim(3, HOME), &claim(4, PEER)).expect("supersede");
        let close = Close {
            region: HOME.to_owned(),
            is_drill: true,
            span: Duration::from_secs(60),
            reason: "a test".to_owned(),
            by_whom: "nobody".to_owned(),
            before: None,
        };
        assert_eq!(home.close(&close), Ok(Swap::Done));
        let until = home.tables().closing[0].until;
        assert_eq!(home.close(&Close { before: Some(until), ..close }), Ok(Swap::Done));
        let until = home.tables().closing[0].until;
        assert_eq!(home.release(HOME, until), Ok(Swap::Done));

        let denied = [
            "INSERT INTO shop.orders VALUES (1)",
            "SELECT * FROM shop.orders",
            "INSERT INTO drXagent.t VALUES (1)",
            "CREATE TABLE dr_agent.more (id INT)",
            "DELETE FROM dr_agent.authority",
            "DROP TABLE dr_agent.authority",
            "TRUNCATE dr_agent.roll",
            "CREATE DATABASE more",
            "SELECT * FROM mysql.user",
            "SET GLOBAL read_only = 0",
            "STOP SLAVE",
        ];
        for statement in denied {
            match server.try_sql_as(USER, PASSWORD, statement) {
                Err(error) if error.contains("denied") => {}
                found => panic!("{statement}: {found:?}"),
            }
        }
    }
}

#[test]
fn a_script_without_a_password_creates_no_account() {
    let output = Command::new(agent_binary())
        .args(["--config", "/nonexistent", "database", "grants"])
        .output()
        .expect("run the agent");
    assert!(output.status.success(), "{output:?}");
    let server = Server::start();
    server.sql(&format!("DROP USER '{USER}'@'%'"));
    let refused = server.try_sql(&String::from_utf8(output.stdout).unwrap()).unwrap_err();
    assert!(refused.contains("syntax"), "{refused}");
    assert_eq!(server.sql(&format!("SELECT COUNT(*) FROM mysql.user WHERE user = '{USER}'")), "0");
}

#[test]
fn an_account_without_rights_names_the_grant_and_missing_tables_are_none() {
    let server = Server::start();
    let mut agent = Asked::of(&server);
    match agent.read() {
        Err(Unread::NoRight(grant)) => {
            assert!(grant.starts_with("GRANT SELECT, INSERT, UPDATE ON `dr\\_agent`.*"), "{grant}");
        }
        found => panic!("{found:?}"),
    }
    // The rights are there before the tables.
    let script = grants(&[]);
    server.sql(script.split_once("CREATE DATABASE").unwrap().0);
    server.sql(&format!("GRANT SELECT, INSERT, UPDATE ON `dr\\_agent`.* TO '{USER}'@'%'"));
    let read = eventually("the new right counts", || match agent.read() {
        Ok(read) => Ok(read),
        Err(error) => {
            agent = Asked::of(&server);
            Err(format!("{error:?}"))
        }
    });
    assert_eq!(read.tables, None);
    let first = Claiming::first(claim(1, HOME), read.server.clone(), &regions(), "a test");
    match agent.claim(&first) {
        Err(Unwritten::NoTables(words)) => assert!(words.contains("dr_agent"), "{words}"),
        found => panic!("{found:?}"),
    }
    server.sql(&script);
    assert_eq!(agent.tables(), Tables::default());
    server.sql("DROP TABLE dr_agent.roll");
    assert_eq!(agent.see().tables, None, "one is missing");

    // Without the right to see channels it may be anything.
    server.sql(&script);
    server.sql(&format!("REVOKE REPLICA MONITOR, BINLOG MONITOR ON *.* FROM '{USER}'@'%'"));
    let mut blind = Asked::of(&server);
    assert_eq!(blind.see().channels, None);
    assert!(matches!(blind.prove(), Err(Unproven::ChannelsUnseen(_))));
    // And one that may read but not write.
    server.sql(&format!("REVOKE INSERT ON `dr\\_agent`.* FROM '{USER}'@'%'"));
    match Asked::of(&server).claim(&first) {
        Err(Unwritten::NoRight(grant)) => assert!(grant.contains("INSERT"), "{grant}"),
        found => panic!("{found:?}"),
    }
    server.sql(&format!("ALTER USER '{USER}'@'%' IDENTIFIED BY 'another'"));
    match Asked::of(&server).read() {
        Err(Unread::Failed(words)) => assert!(words.contains("1045"), "{words}"),
        found => panic!("{found:?}"),
    }
}
