//! The configuration that every agent of a history has: the contract's default pace and windows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dr_agent::config::{
    AppProbe, Config, DatabaseProbe, EfsProbe, HostProbe, HttpUrl, Listen, NginxProbe, PublicAddress, Repoint,
    WiringProbe,
};
use dr_agent::health::component::Schedule;
use dr_agent::health::verdict::Policy;
use dr_agent::observation::Component;
use dr_agent::replace::plan::ReplacePolicy;

pub const DEPLOYMENT: &str = "shop";
pub const GROUP: &str = "web";
pub const REGION: &str = "ap-south-1";

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn schedule(component: &Component) -> Schedule {
    let (interval, timeout, fast_interval, fall, rise) = match component {
        Component::Nginx | Component::App => (secs(2), secs(1), Some(millis(500)), 2, 2),
        Component::Efs => (secs(4), secs(3), None, 2, 3),
        Component::Database => (secs(2), millis(1_500), Some(secs(1)), 3, 3),
        _ => (secs(10), secs(5), Some(secs(2)), 2, 2),
    };
    Schedule { interval, timeout, fast_interval, fall, rise }
}

pub fn config() -> Config {
    let url = HttpUrl { text: "http://127.0.0.1/".into(), host: "127.0.0.1".into(), port: 80, path: "/".into() };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let nowhere = || PathBuf::from("/nonexistent");
    Config {
        deployment: DEPLOYMENT.into(),
        home: None,
        region: Some(REGION.into()),
        key_file: Some(nowhere()),
        state_dir: nowhere(),
        listen: Listen { public: PublicAddress::Tcp(loopback), peer: loopback, control: nowhere() },
        nginx: NginxProbe { schedule: schedule(&Component::Nginx), url: url.clone(), pid_file: nowhere() },
        app: Some(AppProbe {
            schedule: schedule(&Component::App),
            url,
            host: None,
            status: vec![(200, 399)],
            body: None,
            latency_limit: None,
        }),
        efs: Some(EfsProbe {
            schedule: schedule(&Component::Efs),
            path: nowhere(),
            file_system: None,
            types: vec!["nfs4".into()],
            read_only: false,
            latency_limit: secs(1),
        }),
        database: Some(DatabaseProbe {
            schedule: schedule(&Component::Database),
            fresh_interval: secs(10),
            fresh_timeout: secs(5),
            host: "database".into(),
            port: 3306,
            user: "dr_agent".into(),
            password_file: None,
            tls_ca: None,
            latency_limit: secs(1),
            lag_limit: secs(60),
            writer_expected: true,
        }),
        host: HostProbe {
            schedule: schedule(&Component::Host),
            paths: vec![],
            low_percent: 10.0,
            full_percent: 2.0,
            pressure_percent: 50.0,
        },
        wiring: WiringProbe { schedule: schedule(&Component::Wiring), address: loopback, hosts: vec![] },
        exec: BTreeMap::new(),
        policy: Policy {
            start_limit: secs(15),
            hold_database: secs(150),
            hold_efs: secs(60),
            hold_capacity: secs(60),
            reopen: secs(60),
            standby: false,
            partial: false,
        },
        replace: ReplacePolicy { enforce: true, sustain: secs(300), cooldown: secs(900) },
        metrics_allow: vec![],
        authority: None,
        repoint: Repoint::default(),
        cloudwatch: None,
        regions: BTreeMap::new(),
        digest: None,
    }
}
