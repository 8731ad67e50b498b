//! Two servers with GTID replication over TLS: what a replica shows, its promotion, and the old primary's return.

use super::*;

#[test]
fn a_promoted_replica_claims_the_next_epoch_and_the_old_primary_is_fenced_in_its_own_database() {
    let mut primary = initialised();
    let mut replica = Server::replica_of(&primary);
    let (mut home, mut peer) = (Asked::of(&primary), Asked::of(&replica));
    let seen = peer.see();
    assert_eq!((seen.is_writable, seen.channels, seen.lag_seconds), (false, Some(1), Some(0)));
    let tables = seen.tables.unwrap();
    assert_eq!((tables.newest.unwrap().claim, tables.regions), (claim(1, HOME), regions().to_vec()));
    assert_eq!(peer.prove(), Err(Unproven::ReadOnly(seen.server.clone())));
    assert!(matches!(peer.enrol(&seen.server, PEER), Err(Unwritten::ReadOnly(_))), "a replica is not written");

    // Its agents write through the source, and the row comes back.
    home.enrol(&seen.server, PEER).expect("enrol");
    home.enrol(&seen.server, PEER).expect("enrol again");
    replica.catch_up(&primary);
    let roll = peer.tables().roll;
    assert_eq!(roll.iter().map(|row| (&*row.server, &*row.region)).collect::<Vec<_>>(), [(&*seen.server, PEER)]);

    // A write that the primary takes after the link broke is the one that is lost.
    replica.sql("STOP SLAVE IO_THREAD");
    let broken = peer.see();
    assert_eq!((broken.channels, broken.lag_seconds), (Some(1), None), "a broken link is a channel");
    eventually("the heart beats", || match home.beat(HOME) {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (at_home, at_peer) = (home.tables().heartbeat.remove(0), peer.tables().heartbeat.remove(0));
    assert!(at_home.at > at_peer.at && at_peer.age_ms > 0, "{at_home:?} {at_peer:?}");

    primary.freeze();
    replica.promote_as_rds();
    let proof = peer.prove().expect("a primary");
    assert_eq!((proof.read.server.as_str(), proof.read.channels), (seen.server.as_str(), Some(0)));
    let tables = proof.read.tables.unwrap();
    assert!(tables.roll.iter().any(|row| row.server == seen.server), "it was seen replicating");
    let wanted = next(claim(2, PEER), proof.read.server, &tables, Kind::Promotion, "a test");
    assert_eq!(peer.claim(&wanted), Ok(Swap::Done));
    let now = peer.tables();
    let row = now.newest.unwrap();
    assert_eq!((row.claim, row.parent, row.kind, row.server), (claim(2, PEER), 1, Kind::Promotion, seen.server));
    assert_eq!(now.regions, regions(), "which only the first row says");
    assert!(now.heartbeat.iter().any(|beat| beat.region == PEER));

    // The old primary comes back as it was: writable, with the old number. Both are proven, and only one has the epoch.
    primary.thaw();
    primary.stop();
    primary.restart();
    let old = home.prove().expect("a primary like any other").read;
    assert_eq!(old.tables.unwrap().newest.unwrap().claim, claim(1, HOME));
    home.supersede(&claim(1, HOME), &claim(2, PEER)).expect("supersede");
    home.supersede(&claim(1, HOME), &claim(2, PEER)).expect("once more");
    let fenced = home.tables().superseded;
    assert_eq!(fenced.len(), 1);
    assert_eq!((&*fenced[0].region, fenced[0].epoch, &fenced[0].by), (HOME, 1, &claim(2, PEER)));

    // Failback: a replica rebuilt from the promoted database inherits its rows.
    let rebuilt = Server::replica_of(&replica);
    let tables = Asked::of(&rebuilt).tables();
    assert_eq!(tables.newest.unwrap().claim, claim(2, PEER));
    assert_eq!(tables.superseded, [], "that row stands in the database it fences");
}

#[test]
fn a_replica_that_somebody_made_writable_is_no_primary() {
    let primary = initialised();
    let replica = Server::replica_of(&primary);
    replica.sql("SET GLOBAL read_only = 0");
    let mut peer = Asked::of(&replica);
    let seen = peer.see();
    assert_eq!((seen.is_writable, seen.channels), (true, Some(1)));
    assert_eq!(peer.prove(), Err(Unproven::Replica(seen.server.clone())));
    // A channel that was stopped is one all the same.
    replica.sql("STOP SLAVE");
    assert_eq!(peer.prove(), Err(Unproven::Replica(seen.server.clone())));
    replica.sql("RESET SLAVE ALL; SET GLOBAL read_only = 1");
    assert_eq!(peer.prove(), Err(Unproven::ReadOnly(seen.server)), "a primary that is read-only is none either");
}

#[test]
fn a_replica_that_is_behind_shows_the_old_rows_and_how_old_they_are() {
    let primary = initialised();
    let replica = Server::replica_of(&primary);
    replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 3600; START SLAVE");
    let (mut home, mut peer) = (Asked::of(&primary), Asked::of(&replica));
    home.take(3, HOME, Kind::Claim);
    let behind = eventually("it is behind", || match peer.see() {
        read if read.lag_seconds > Some(0) => Ok(read),
        read => Err(format!("{:?}", read.lag_seconds)),
    });
    assert_eq!(behind.tables.unwrap().newest.unwrap().claim, claim(1, HOME));
    replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 0; START SLAVE");
    replica.catch_up(&primary);
    assert_eq!(peer.tables().newest.unwrap().claim, claim(3, HOME));
}
