//! Every machine of both regions starts anew, as after a loss of power.

use std::time::{Duration, Instant};

use super::*;
use crate::support::aws_proxy::{AwsProxy, Fault};
use crate::support::moto::Moto;
use crate::support::regions::NAMES;
use crate::support::within;

/// The wait of a boot and the first round after it, in which a source has 2 s; and what a busy machine takes for the rest.
const IN_TIME: Duration = Duration::from_secs(3 + 2 + MARGIN);
const MARGIN: u64 = 15;

#[test]
fn after_a_reboot_of_every_instance_gate_and_writer_are_back_in_time_whatever_aws_does() {
    let moto = Moto::start();
    let aws = AwsProxy::start(moto.port);
    let mut site = Site::build([1, 1]);
    site.variables.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    site.variables.push(("AWS_ENDPOINT_URL".to_owned(), aws.endpoint()));
    for name in NAMES {
        moto.group(&format!("web-{name}"), 0);
    }
    site.waits = "poll = \"500ms\"\nboot_wait = \"3s\"\ntakeover_wait = \"6s\"".to_owned();
    site.grant();
    site.start_agents();
    site.init();
    site.enrolled(PEER);
    for (number, fault) in [None, Some(Fault::Hang), Some(Fault::Reset)].into_iter().enumerate() {
        if let Some(fault) = fault {
            aws.fail("", fault);
        }
        for instance in site.groups.iter_mut().flatten() {
            instance.reboot();
        }
        // The owner comes up while nothing of the other region answers but its database.
        for (region, wanted) in [(HOME, OWNER_AT_HOME), (PEER, STANDBY_AT_PEER)] {
            let before = verifications(&site, region);
            let limit = Instant::now() + IN_TIME;
            site.start_region(region);
            let instance = &site.groups[region][0];
            within(limit.saturating_duration_since(Instant::now()), "gate and writer are back", || {
                let (shows, verified) = (site.shows(instance), verifications(&site, region) > before);
                if shows == wanted && verified { Ok(()) } else { Err(format!("{verified} {shows}\n{}", site.log())) }
            });
        }
        site.order(HOME, number as u64).expect("an order at the owner");
    }
    assert_eq!(site.epochs(HOME), ["1 home init"]);
}

/// How often a region's first instance saw its app reach home's database.
fn verifications(site: &Site, region: usize) -> usize {
    site.groups[region][0].agent.log().matches(&format!("the app writes to the database of {}", NAMES[HOME])).count()
}
