//! wiring: whether nginx hands the health paths to this agent, whether the fence holds while the gate is closed,
//! whether the markers on disk say what the agent says, whether the root helper answers, and whether users could use the
//! other region's name.
//!
//! The agent asks itself, from outside, through nginx, as the load balancer and Route 53 do. That nginx is down is not
//! this probe's finding: the nginx component says it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{LOCATION, RETRY_AFTER};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::answer::Question;
use crate::certificates::Certificate;
use crate::clock::BootTime;
use crate::config::WiringProbe;
use crate::health::cause::Cause;
use crate::helper;
use crate::observation::{Finding, Outcome, Stages};
use crate::outputs::markers::{Markers, wanted};
use crate::probes::blocking::Lane;
use crate::probes::http::{self, Address, Answer, Fault, Request};
use crate::probes::{Probe, worst};
use crate::snapshot::Snapshot;
use crate::telemetry::ErrorChain;

/// One answer through nginx: its 200 ms to connect and 500 ms to read, and some for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How far behind the newest snapshot an answer may be. One is published after every observation, so that 60 are a few
/// seconds at worst; another agent's answer is off by hours.
const BEHIND: u64 = 60;

/// Markers follow a snapshot within milliseconds. What differs for so long will not.
const SETTLE: Duration = Duration::from_secs(1);

/// Looks at the markers, one at a time in this process.
static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// The probe.
#[derive(Debug)]
pub struct Wiring {
    address: Address,
    hosts: Vec<String>,
    /// Where the markers are.
    public: PathBuf,
    snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    /// Requests to the root helper that had no result yet, by what was asked, and when that was seen first.
    unanswered: BTreeMap<&'static str, (String, BootTime)>,
}

impl Wiring {
    /// Without `snapshots`, as `dr-agent check` has none, generations and markers are not compared.
    #[must_use]
    pub fn new(probe: &WiringProbe, state_dir: &Path, snapshots: Option<watch::Receiver<Arc<Snapshot>>>) -> Self {
        Self {
            address: probe.address.into(),
            hosts: probe.hosts.clone(),
            public: state_dir.join("public"),
            snapshots,
            unanswered: BTreeMap::new(),
        }
    }

    /// A request that the root helper has let lie for longer than it may take.
    async fn look_at_helper(&mut self) -> Option<Finding> {
        let paths = helper::Paths::of(&self.snapshots.as_ref()?.borrow().config.listen.control);
        let read = move || helper::VERBS.map(|verb| paths.unanswered(verb).map(|id| (verb, id)));
        let open = LANE.run(read).await.ok()?.into_iter().flatten();
        late(&mut self.unanswered, open, BootTime::now())
    }

    /// What users would say after a failover to the other region.
    fn look_at_certificate(&self) -> Option<Finding> {
        let snapshot = Arc::clone(&self.snapshots.as_ref()?.borrow());
        refused(&snapshot.certificates, snapshot.config.region.as_deref())
    }

    /// Whether the gate is closed, and what is wrong with the markers.
    async fn look_at_markers(&self) -> (bool, Option<Finding>) {
        let mut finding = None;
        let mut fenced = false;
        for wait in [SETTLE, Duration::ZERO] {
            // In this order: a marker may be behind the snapshot for a moment, and is looked at again then.
            let wanted = self.snapshots.as_ref().map(|snapshots| wanted(&snapshots.borrow()));
            let found = markers(self.public.clone()).await;
            fenced = found.as_ref().is_ok_and(|found| found.contains("fenced"));
            finding = match (found, wanted) {
                (Ok(found), Some(wanted)) => compare(&found, wanted),
                (Ok(_), None) => None,
                // No agent has run here yet.
                (Err(error), None) if error.kind() == io::ErrorKind::NotFound => None,
                (Err(error), _) => {
                    let detail = format!("cannot read `{}`: {error}", self.public.display());
                    Some(Finding::new(Cause::WiringMarker, detail))
                }
            };
            if finding.is_none() {
                break;
            }
            sleep(wait).await;
        }
        (fenced, finding)
    }

    /// Asks every public path with one Host; the first thing that is wrong.
    async fn ask_as(&self, host: &str) -> Option<Finding> {
        for question in Question::ALL {
            let path = format!("/health/{}", question.name());
            let before = self.generation();
            let finding = match self.ask(host, &path).await {
                Ok(answer) => judge(question, &answer, before.zip(self.generation())),
                Err(finding) => Some(finding),
            };
            if let Some(Finding { cause, detail }) = finding {
                return Some(Finding::new(cause, format!("`{path}` with Host `{host}`: {detail}")));
            }
        }
        None
    }

    /// While the gate is closed a user's page must be the fence page.
    async fn check_fence_as(&self, host: &str) -> Option<Finding> {
        let answer = match self.ask(host, "/").await {
            Ok(answer) if is_fence_page(&answer) => return None,
            Ok(answer) => answer,
            Err(finding) => return Some(finding),
        };
        // The gate may have opened in between.
        let still = markers(self.public.clone()).await.is_ok_and(|found| found.contains("fenced"));
        let detail = format!("`/` with Host `{host}`: {} instead of the fence page", answer.status);
        still.then(|| Finding::new(Cause::WiringFenceOpen, detail))
    }

    async fn ask(&self, host: &str, path: &str) -> Result<Answer, Finding> {
        let mut stages = Stages::default();
        let exchange = http::exchange(&self.address, Request::get(host, path), &mut stages);
        match timeout(ANSWER_LIMIT, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(match error.fault() {
                // nginx hangs up on hosts it does not know (`return 444`).
                Fault::Broken | Fault::Endless => Finding::new(Cause::WiringForeign, ErrorChain(&error).to_string()),
                Fault::Refused | Fault::Unreachable | Fault::Asker => {
                    Finding::new(Cause::CouldNotRun, format!("nginx does not answer: {}", ErrorChain(&error)))
                }
            }),
            Err(_) => Err(Finding::new(Cause::CouldNotRun, "nginx does not answer in time")),
        }
    }

    fn generation(&self) -> Option<u64> {
        self.snapshots.as_ref().map(|snapshots| snapshots.borrow().generation)
    }
}

impl Probe for Wiring {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        stages.enter("markers");
        let (fenced, finding) = self.look_at_markers().await;
        let mut findings = Vec::from_iter(finding);
        findings.extend(self.look_at_helper().await);
        findings.extend(self.look_at_certificate());
        stages.enter("answers");
        for host in &self.hosts {
            let finding = self.ask_as(host).await;
            let is_silent = finding.as_ref().is_some_and(|finding| finding.cause == Cause::CouldNotRun);
            findings.extend(finding);
            if is_silent {
                // It will not be less so for another Host, and each costs its time.
                return worst(findings);
            }
        }
        if fenced {
            stages.enter("fence");
            for host in &self.hosts {
                findings.extend(self.check_fence_as(host).await);
            }
        }
        stages.leave();
        worst(findings)
    }

    async fn overdue(&mut self, stages: &Stages) -> Finding {
        let detail = match stages.current() {
            Some("markers") => format!("looking at `{}` hangs", self.public.display()),
            _ => "nginx does not answer in time".to_owned(),
        };
        Finding::new(Cause::CouldNotRun, detail)
    }
}

/// What is wrong with an answer to one of our own questions. `ours` are our generations before and after it.
fn judge(question: Question, answer: &Answer, ours: Option<(u64, u64)>) -> Option<Finding> {
    let status = answer.status;
    if status.is_redirection() {
        let to = answer.headers.get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()));
        return Some(Finding::new(
            Cause::WiringRedirect,
            format!("{status} to {}", to.as_deref().unwrap_or("nowhere")),
        ));
    }
    let foreign = |detail: String| Some(Finding::new(Cause::WiringForeign, detail));
    let header = answer.headers.get("x-dr-agent").map(|value| String::from_utf8_lossy(value.as_bytes()));
    match header.as_deref() {
        None => return foreign(format!("{status} that is not the agent's")),
        Some("absent") => return Some(Finding::new(Cause::WiringFallback, format!("{status} from the markers"))),
        // The agent's last word; that its owner is stuck is for others to find.
        Some("stale") => {}
        Some(text) => match (text.parse::<u64>(), ours) {
            (Err(_), _) => return foreign(format!("`X-Dr-Agent: {text}`")),
            (Ok(theirs), Some((before, after))) if theirs > after || theirs.saturating_add(BEHIND) < before => {
                return foreign(format!("generation {theirs}, but this agent is at {after}: another agent answers"));
            }
            (Ok(_), _) => {}
        },
    }
    let start = format!(r#"{{"ok":{},"dr-agent":"{}""#, status == StatusCode::OK, question.name());
    if answer.body.starts_with(start.as_bytes()) {
        return None;
    }
    foreign(format!("{status} whose body does not begin with `{start}`"))
}

/// Only the fence answers 503 and says when to come back.
fn is_fence_page(answer: &Answer) -> bool {
    answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.headers.contains_key(RETRY_AFTER)
}

async fn markers(public: PathBuf) -> io::Result<BTreeSet<String>> {
    let read = move || {
        let entries = fs::read_dir(public)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    LANE.run(read).await.map_err(io::Error::other).flatten()
}

/// Notes the requests that are open now, and says which has been so for longer than the helper may take.
fn late(
    known: &mut BTreeMap<&'static str, (String, BootTime)>,
    open: impl Iterator<Item = (&'static str, String)>,
    now: BootTime,
) -> Option<Finding> {
    *known = open
        .map(|(verb, id)| {
            let before = known.get(verb).filter(|(before, _)| *before == id);
            let since = before.map_or(now, |(_, since)| *since);
            (verb, (id, since))
        })
        .collect();
    let (verb, age) =
        known.iter().map(|(verb, (_, since))| (verb, now.since(*since))).find(|(_, age)| *age >= helper::LIMIT)?;
    Some(Finding::new(Cause::WiringHelper, format!("`dr-agent helper {verb}` was asked for {} s ago", age.as_secs())))
}

/// A certificate of the other region that users' browsers refuse. A name that cannot be reached from here may well be
/// reached by users.
fn refused(certificates: &[Certificate], here: Option<&str>) -> Option<Finding> {
    let mut others = certificates.iter().filter(|one| one.expires.is_some() && Some(one.region.as_str()) != here);
    let (host, problem) = others.find_map(|one| Some((&one.host, one.problem.as_ref()?)))?;
    Some(Finding::new(Cause::WiringCertificate, format!("`{host}`: {problem}")))
}

/// `fenced` is not compared: it is the gate itself.
fn compare(found: &BTreeSet<String>, wanted: Markers) -> Option<Finding> {
    let wrong: Vec<_> = wanted
        .held()
        .into_iter()
        .filter_map(|(name, is_wanted)| match (found.contains(name), is_wanted) {
            (true, false) => Some(format!("`{name}` is set and should not be")),
            (false, true) => Some(format!("`{name}` is not set and should be")),
            _ => None,
        })
        .collect();
    (!wrong.is_empty()).then(|| Finding::new(Cause::WiringMarker, wrong.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_helper_is_silent_when_one_request_lies_for_longer_than_it_may_take() {
        let at = |second| BootTime::from_boot(Duration::from_secs(second));
        let mut known = BTreeMap::new();
        let mut look = |ids: &[(&'static str, &str)], second| {
            let open = ids.iter().map(|(verb, id)| (*verb, (*id).to_owned()));
            late(&mut known, open, at(second)).map(|finding| finding.detail)
        };
        assert_eq!(look(&[("efs-remount", "1")], 100), None);
        assert_eq!(look(&[("efs-remount", "1"), ("repoint-apply", "a")], 134), None);
        assert_eq!(look(&[("efs-remount", "2"), ("repoint-apply", "a")], 135), None, "another one");
        assert_eq!(
            look(&[("efs-remount", "2"), ("repoint-apply", "a")], 169).as_deref(),
            Some("`dr-agent helper repoint-apply` was asked for 35 s ago")
        );
        assert_eq!(look(&[], 300), None);
        assert_eq!(look(&[("efs-remount", "2")], 301), None, "it was answered in between");
    }

    #[test]
    fn only_the_other_regions_certificate_counts_and_only_when_it_was_seen() {
        let seen = |region: &str, shown: bool| Certificate {
            region: region.to_owned(),
            host: "b.example.com".to_owned(),
            expires: shown.then_some(Timestamp::UNIX_EPOCH),
            problem: Some("it has expired".to_owned()),
        };
        let found = refused(&[seen("a-1", true), seen("b-1", true)], Some("a-1")).unwrap();
        assert_eq!((found.cause, found.detail.as_str()), (Cause::WiringCertificate, "`b.example.com`: it has expired"));
        assert_eq!(refused(&[seen("a-1", true), seen("b-1", false)], Some("a-1")), None);
    }
}
