//! The question to the other region: from the client, over TLS through a real nginx, to the public listener, and back.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dr_agent::answer;
use dr_agent::authority::other::{Other, PATH, Said};
use dr_agent::clock::{self, BootTime};
use dr_agent::config::{self, PublicAddress};
use dr_agent::group::keys::Keys;
use dr_agent::group::run::Standing;
use dr_agent::health::verdict::Memory;
use dr_agent::latches::Latches;
use dr_agent::outputs::http::Listeners;
use dr_agent::owner::Owner;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::ask::Target;
use crate::support::free_port;
use crate::support::mariadb::Certificates;
use crate::support::nginx::Nginx;
use crate::support::site::{self, Scratch};

const REGION: &str = "us-east-1";
const KEY: &str = "0123456789abcdef0123456789abcdef";
const DEPLOYMENT: &str = "shop";

/// The other region: a public listener behind an nginx with a certificate that nobody else trusts.
struct Region {
    scratch: Scratch,
    nginx: Nginx,
    port: u16,
    listener: Option<(CancellationToken, thread::JoinHandle<()>)>,
}

impl Region {
    fn start(word: &Value) -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path("tls");
        fs::create_dir(&folder).expect("make it");
        Certificates::make(&folder);
        let port = free_port();
        let at = folder.display();
        let tls = format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key;"
        );
        let nginx = site::start(&scratch, "", &tls);
        let mut region = Self { scratch, nginx, port, listener: None };
        region.say(Some(word), BootTime::now());
        region
    }

    /// From now on it says `word`, with a snapshot that is as old as `taken`.
    fn say(&mut self, word: Option<&Value>, taken: BootTime) {
        self.fall_silent();
        let mut config = config::defaults();
        DEPLOYMENT.clone_into(&mut config.deployment);
        config.listen.public = PublicAddress::Unix(self.scratch.socket());
        config.listen.peer = "127.0.0.1:0".parse().expect("an address");
        config.listen.control = self.scratch.path("control/control.sock");
        let proof = word.map(answer::proven);
        let standing = Standing { keys: Some(keys(KEY)), ..Standing::default() };
        let cancelled = CancellationToken::new();
        let token = cancelled.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let listeners = Listeners::bind(&config.listen).expect("bind");
                let about = About { owner: state::Owner::default(), boot: "b".to_owned(), config_problems: vec![] };
                let memory = Memory { same_boot: true, ..Memory::default() };
                let config = Arc::new(config);
                let mut owner =
                    Owner::new(about, config, State::default(), memory, Latches::default(), false, vec![], taken);
                let snapshot = Snapshot { proof, ..owner.publish(taken, clock::wall()) };
                let (_publisher, snapshots) = watch::channel(Arc::new(snapshot));
                let (_keeper, standing) = watch::channel(Arc::new(standing));
                ready.send(()).expect("the test waits");
                listeners.public.serve(snapshots, standing, watch::channel(taken).0, token).await;
            });
        });
        is_ready.recv().expect("it listens");
        self.listener = Some((cancelled, thread));
    }

    /// No agent any more: nginx answers for it.
    fn fall_silent(&mut self) {
        if let Some((cancelled, thread)) = self.listener.take() {
            cancelled.cancel();
            thread.join().expect("no panic");
        }
    }

    fn asked_by(&self, region: &str, key: Option<&str>) -> Said {
        dr_agent::install_crypto_provider();
        let url = format!("https://localhost:{}", self.port);
        let other = Other::new(region, &url, DEPLOYMENT).expect("a good url");
        let keys = key.map(keys);
        let heard = runtime().block_on(other.ask(keys.as_ref()));
        assert!(heard.began <= BootTime::now());
        heard.said
    }

    fn asked(&self) -> Said {
        self.asked_by(REGION, Some(KEY))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.fall_silent();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn keys(key: &str) -> Keys {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), key).expect("write the key");
    fs::set_permissions(file.path(), Permissions::from_mode(0o600)).expect("close it");
    Keys::read(file.path()).expect("a key")
}

fn word() -> Value {
    json!({"proto": 1, "region": REGION, "role": "promoted", "epoch": 2, "closed": false, "writer": REGION})
}

#[test]
fn a_signed_question_gets_a_signed_answer_and_anybody_else_what_is_on_the_internet() {
    let region = Region::start(&word());
    match region.asked() {
        Said::Verified(said) => {
            assert_eq!((&said["epoch"], &said["writer"], &said["ok"]), (&json!(2), &json!(REGION), &json!(true)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(region.asked_by(REGION, Some(&KEY.replace('0', "1"))), Said::Unverified(None), "another key");
    assert_eq!(region.asked_by(REGION, None), Said::Unverified(None));
    match region.asked_by("ap-south-1", Some(KEY)) {
        Said::Failed(words) => assert!(words.contains("leads to region us-east-1"), "{words}"),
        other => panic!("{other:?}"),
    }
    let stranger = Target::port(region.nginx.port).get(PATH).expect("an answer");
    assert!(
        stranger.status == 200 && stranger.body.starts_with(r#"{"ok":true,"dr-agent":"authority","#),
        "{stranger:?}"
    );
    assert_eq!((&stranger.json()["epoch"], stranger.header("x-dr-agent-mac")), (&Value::Null, None), "{stranger:?}");
    let signed = answer::proven(&word());
    assert!(signed.starts_with(br#"{"ok":true,"dr-agent":"authority","#), "{signed:?}");
}

#[test]
fn an_agent_that_is_absent_stalled_or_new_proves_nothing_and_is_not_silent() {
    let mut region = Region::start(&word());
    region.say(Some(&word()), BootTime::now().before(Duration::from_secs(60)));
    assert_eq!(region.asked(), Said::Unverified(None), "an old word is no word");
    region.say(None, BootTime::now());
    assert_eq!(region.asked(), Said::Unverified(None));
    region.fall_silent();
    match region.asked() {
        Said::Failed(words) => assert!(words.contains("503"), "{words}"),
        other => panic!("{other:?}"),
    }
    // It takes connections and says nothing.
    region.nginx.signal_workers("STOP");
    match region.asked() {
        Said::Failed(words) => assert!(words.contains("stage `tls`"), "{words}"),
        other => panic!("{other:?}"),
    }
    region.nginx.signal_workers("CONT");
    region.nginx.kill();
    assert!(matches!(region.asked(), Said::Unreached(_)));
}
