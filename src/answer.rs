//! PUBLISH: the public answers, rendered once per snapshot, so that an HTTP answer is a copy and an age.
//!
//! Bodies name components and statuses only: no hosts, addresses, errors or versions.

use bytes::Bytes;
use serde::Serialize;

use crate::clock::BootTime;
use crate::health::cause::Status;
use crate::health::verdict::InstanceState;
use crate::observation::{Component, Facts, Role};
use crate::snapshot::{Answer, STALE_AFTER, Snapshot};

/// A public path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    Live,
    Instance,
    Region,
    Promoted,
    Authority,
}

impl Question {
    pub const ALL: [Self; 5] = [Self::Live, Self::Instance, Self::Region, Self::Promoted, Self::Authority];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Instance => "instance",
            Self::Region => "region",
            Self::Promoted => "promoted",
            Self::Authority => "authority",
        }
    }

    /// The question a request path asks; a query string is ignored.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        match path {
            "/health/live" => Some(Self::Live),
            "/health/instance" => Some(Self::Instance),
            "/health/region" => Some(Self::Region),
            "/health/promoted" => Some(Self::Promoted),
            "/health/authority" => Some(Self::Authority),
            _ => None,
        }
    }
}

/// The word in a body: what a person or a monitor should make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Pass,
    /// 200, but something is not as it should be, or the word is held or stale.
    Warn,
    Fail,
}

#[derive(Serialize)]
struct Body<'a> {
    ok: bool,
    #[serde(rename = "dr-agent")]
    question: &'static str,
    status: Word,
    state: &'a str,
    /// Something of it is only rehearsed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    drill: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(serialize_with = "as_map")]
    components: Vec<(&'a str, Status)>,
}

impl Body<'_> {
    fn render(&self) -> Vec<u8> {
        // Serialising strings and numbers into memory cannot fail.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

fn as_map<S: serde::Serializer>(components: &[(&str, Status)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(components.iter().copied())
}

/// What the other region's agents get, who prove that they have a key.
#[derive(Serialize)]
struct Proven<'a, P> {
    ok: bool,
    #[serde(rename = "dr-agent")]
    question: &'static str,
    #[serde(flatten)]
    proof: &'a P,
}

/// The body of an answer to [`Question::Authority`] that is signed; `proof` has the fields beside those of every body.
#[must_use]
pub fn proven(proof: &impl Serialize) -> Bytes {
    let body = Proven { ok: true, question: Question::Authority.name(), proof };
    // Serialising strings and numbers into memory cannot fail.
    let mut text = serde_json::to_vec(&body).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Renders all answers of a fresh snapshot, in the order of [`Question::ALL`].
#[must_use]
pub fn render_all(snapshot: &Snapshot) -> [Answer; 5] {
    Question::ALL.map(|question| render(snapshot, question, false))
}

/// Route 53 looks for its string in so many bytes.
const BODY_LIMIT: usize = 5_120;

/// The answer to `question` at `now`: the rendered one, or the last word marked stale when the owner has not turned.
#[must_use]
pub fn respond(snapshot: &Snapshot, question: Question, now: BootTime) -> Answer {
    if now.since(snapshot.taken) > STALE_AFTER {
        render(snapshot, question, true)
    } else {
        snapshot.answers[question as usize].clone()
    }
}

fn render(snapshot: &Snapshot, question: Question, stale: bool) -> Answer {
    let all_well = snapshot.components.iter().all(|(c, _)| c.status == Status::Healthy)
        && snapshot.about.config_problems.is_empty();
    let (ok, state) = match question {
        Question::Live => (!stale, if stale { "stalled" } else { "running" }),
        Question::Instance => (snapshot.instance.state == InstanceState::Serving, snapshot.instance.state.name()),
        Question::Region => (snapshot.region.state.is_ok(), snapshot.region.state.name()),
        // Only an authority epoch makes a region the promoted one.
        Question::Promoted => (snapshot.promoted, if snapshot.promoted { "promoted" } else { "not-promoted" }),
        Question::Authority => (true, snapshot.authority.as_deref().map_or("off", |said| said.decision.state.name())),
    };
    let calm = match question {
        Question::Region => all_well && snapshot.region.state.is_ok() && snapshot.region.holds.is_empty(),
        Question::Live => true,
        _ => all_well,
    };
    let word = match (ok, calm && !stale) {
        (false, _) => Word::Fail,
        (true, true) => Word::Pass,
        (true, false) => Word::Warn,
    };
    let authority = question == Question::Authority;
    let mut body = Body {
        ok,
        question: question.name(),
        status: word,
        state,
        drill: snapshot.is_drill(),
        region: snapshot.about.owner.region.as_deref().filter(|_| authority),
        role: authority.then(|| role(snapshot).name()),
        components: snapshot.components.iter().map(|(c, _)| (c.component.name(), c.status)).collect(),
    };
    let mut text = body.render();
    // Custom probes come last, and as many as it takes are left out: the control socket names them all.
    let mut excess = (text.len() + 1).saturating_sub(BODY_LIMIT);
    if excess > 0 {
        while excess > 0
            && let Some((name, status)) = body.components.pop()
        {
            // `NAME:"status",` with the name as JSON writes it.
            let name = serde_json::to_string(name).unwrap_or_default();
            excess = excess.saturating_sub(name.len() + status.name().len() + 4);
        }
        text = body.render();
    }
    let generation = if stale { Bytes::from_static(b"stale") } else { Bytes::from(snapshot.generation.to_string()) };
    Answer { ok, body: text.into(), generation }
}

fn role(snapshot: &Snapshot) -> Role {
    snapshot
        .components
        .iter()
        .find(|(c, _)| c.component == Component::Database && c.is_working_now())
        .and_then(|(c, _)| match &c.facts {
            Facts::Database(facts) => Some(facts.role()),
            _ => None,
        })
        .unwrap_or(Role::Unreachable)
}
