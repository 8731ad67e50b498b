//! The same in MySQL's dialect, where a server is at hand.

use super::*;
use crate::support::mysql;

#[test]
fn mysql_takes_the_script_and_each_operation_and_its_promoted_replica_claims() {
    let Some(root) = mysql::root() else { return };
    let primary = mysql::Server::start(&root);
    for dialect in [&[][..], &["--dialect", "mysql"]] {
        primary.sql(&grants(dialect));
    }
    let replica = mysql::Server::replica_of(&primary, &root);
    let bundle = [&primary, &replica].map(|server| fs::read(server.ca()).expect("read the CA")).concat();
    let (mut home, mut peer) = (Asked::new(primary.port, &bundle), Asked::new(replica.port, &bundle));

    assert_eq!(home.see().tables, Some(Tables::default()));
    let proof = home.prove().expect("a primary");
    assert_eq!(proof.read.server, primary.sql("SELECT @@server_uuid"));
    let first = Claiming::first(claim(1, HOME), proof.read.server, &regions(), "a test");
    assert_eq!(home.claim(&first), Ok(Swap::Done));
    assert_eq!(home.claim(&first), Ok(Swap::Changed));
    let identity = replica.sql("SELECT @@server_uuid");
    home.enrol(&identity, PEER).expect("enrol");
    let close = Close {
        region: HOME.to_owned(),
        is_drill: false,
        span: Duration::from_secs(600),
        reason: "a test".to_owned(),
        by_whom: "nobody".to_owned(),
        before: None,
    };
    assert_eq!(home.close(&close), Ok(Swap::Done));
    assert_eq!(home.close(&close), Ok(Swap::Changed));
    let standing = home.tables().closing.remove(0);
    assert!(standing.is_in_force);
    assert_eq!(home.close(&Close { before: Some(standing.until), ..close }), Ok(Swap::Done));
    let standing = home.tables().closing.remove(0);
    assert_eq!(home.release(HOME, standing.until), Ok(Swap::Done));
    assert!(home.tables().closing[0].is_released);
    eventually("the heart beats", || match home.beat(HOME) {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    replica.catch_up(&primary);
    let seen = peer.see();
    assert_eq!((seen.is_writable, seen.channels), (false, Some(1)));
    let (at_peer, at_home) = (seen.tables.expect("tables"), home.tables());
    assert_eq!(at_peer.heartbeat[0].at, at_home.heartbeat[0].at);
    // Their ages go on.
    let still = |tables| Tables { heartbeat: Vec::new(), ..tables };
    assert_eq!(still(at_peer), still(at_home));
    assert_eq!(peer.prove(), Err(Unproven::ReadOnly(identity.clone())));
    assert!(matches!(peer.beat(HOME), Err(Unwritten::ReadOnly(_))));
    replica.promote();
    peer.take(2, PEER, Kind::Promotion);
    let now = peer.tables();
    assert_eq!(now.newest.map(|row| (row.claim, row.server)), Some((claim(2, PEER), identity)));
    home.supersede(&claim(1, HOME), &claim(2, PEER)).expect("supersede");
    home.supersede(&claim(1, HOME), &claim(2, PEER)).expect("once more");
    assert_eq!(home.tables().superseded.len(), 1);

    let mut blind = Asked::new(primary.port, &bundle);
    primary.sql(&format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{USER}'@'%'"));
    assert!(matches!(blind.read(), Err(Unread::NoRight(_))));
    primary.sql(&format!("GRANT SELECT ON `dr\\_agent`.* TO '{USER}'@'%'"));
    let mut blind = Asked::new(primary.port, &bundle);
    assert_eq!(blind.see().channels, None, "the state of replication is another right");
}
