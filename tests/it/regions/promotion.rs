//! The replica is promoted while the old primary lives, and while it does not.

use super::*;
use crate::support::ask::Target;

#[test]
fn a_promotion_is_claimed_once_and_the_old_region_is_closed() {
    let mut site = Site::initialised([1, 2]);
    site.enrolled(PEER);
    site.order(HOME, 1).expect("an order at home");
    site.order(PEER, 2).expect("an order at the peer, which writes across");
    site.databases[PEER].catch_up(&site.databases[HOME]);

    site.databases[PEER].promote_as_rds();
    site.is(PEER, OWNER_AT_PEER);
    assert_eq!(site.epochs(PEER), ["1 a-1 init", "2 b-1 promotion"], "two agents, one row");
    site.is(HOME, FENCED);
    let page = Target::port(site.groups[HOME][0].nginx.port).get("/").expect("an answer");
    assert_eq!((page.status, page.header("Retry-After")), (503, Some("30")), "{page:?}");
    let recorded = site.databases[HOME].sql("SELECT region, epoch, by_epoch, by_region FROM dr_agent.superseded");
    assert_eq!(recorded, "a-1\t1\t2\tb-1");
    site.order(PEER, 3).expect("an order at the new owner");
    assert_eq!(site.orders(PEER), [1, 2, 3]);
    assert_eq!(site.orders(HOME), [1, 2], "nothing was written to the old one");
}
