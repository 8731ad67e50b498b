//! The database probe against real MySQL, where one is at hand.

use dr_agent::observation::{Facts, Outcome, Role};

use super::{LOGIN, Probed, facts, names};
use crate::support::mariadb::{PASSWORD, USER};
use crate::support::mysql::{self, Server};

fn probed(server: &Server) -> Probed {
    Probed::new(server.port, &server.ca(), |config| config.writer_expected = false)
}

#[test]
fn mysql_proves_its_roles_in_its_own_dialect() {
    let Some(root) = mysql::root() else { return };
    let primary = Server::start(&root);
    primary.sql(&format!(
        "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
         CREATE USER blind@'%' IDENTIFIED BY '{PASSWORD}';
         GRANT REPLICATION CLIENT ON *.* TO '{USER}'@'%';"
    ));
    let observation = probed(&primary).look();
    assert_eq!(observation.outcome, Outcome::Pass, "{observation:#?}");
    assert_eq!(names(&observation), [&LOGIN[..], &["query"]].concat());
    let known = facts(&observation);
    assert_eq!((known.role(), known.read_only, known.super_read_only), (Role::Primary, false, Some(false)));
    assert_eq!(known.server, primary.sql("SELECT @@server_uuid"));
    assert!(known.tls.is_some(), "{known:?}");
    let blind = Probed::new(primary.port, &primary.ca(), |config| config.user = "blind".into()).look();
    assert_eq!((blind.outcome.clone(), facts(&blind).role()), (Outcome::Pass, Role::Ambiguous), "{blind:#?}");

    let replica = Server::replica_of(&primary, &root);
    let mut probed = probed(&replica);
    let observation = probed.until("it is caught up", |observation| match &observation.facts {
        Facts::Database(facts) => facts.replica.iter().flatten().any(|channel| channel.lag_seconds == Some(0)),
        _ => false,
    });
    let known = facts(&observation);
    assert_eq!((known.role(), known.super_read_only), (Role::Replica, Some(true)));
    let [channel] = &known.replica.as_ref().expect("the right to see it")[..] else { panic!("{known:?}") };
    assert_eq!(channel.source, format!("127.0.0.1:{}", primary.port));
    assert!(channel.io_running && channel.sql_running, "{channel:?}");
    replica.promote();
    let promoted = probed.look();
    assert_eq!((promoted.outcome.clone(), facts(&promoted).role()), (Outcome::Pass, Role::Primary));
}
