//! What this instance's role may do, by what came of calls. Pure.

use serde::{Deserialize, Serialize};

use super::{Call, Finding, Level, ended, untried};
use crate::aws::policy::Policy;
use crate::aws::trial::Trial;
use crate::aws::{self, Failure, Kind};
use crate::identity::metadata::Metadata;

/// What AWS makes of the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    Accepted,
    /// There are none.
    None,
    Expired,
    /// With AWS's code.
    Refused(String),
}

/// One action of IAM, and whether the role may carry it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub action: String,
    /// `ok`, why the call failed, or `untried`.
    pub result: String,
    /// The policy's statement that gives it.
    pub statement: String,
    /// What came of it, in words; empty when it is `ok`.
    pub words: String,
}

/// `None` if nobody at AWS looked at them.
pub(super) fn credentials(trial: &Trial) -> Option<Credentials> {
    let mut failures = trial.calls.iter().map(|(_, result)| result.as_ref().err());
    if failures.clone().any(|failure| failure.is_none_or(|failure| failure.kind == Kind::Denied)) {
        return Some(Credentials::Accepted);
    }
    let refused = failures.find_map(|failure| failure.filter(|failure| failure.kind == Kind::NoCredentials))?;
    Some(match refused.code.as_deref() {
        None => Credentials::None,
        Some(code) if code.contains("Expired") => Credentials::Expired,
        Some(code) => Credentials::Refused(code.to_owned()),
    })
}

/// `is_needed`: something in the configuration or around the instance asks for AWS.
pub(super) fn without_credentials(
    credentials: Option<&Credentials>,
    metadata: &Metadata,
    is_needed: bool,
) -> Option<Finding> {
    let (what, hint) = match (credentials?, &metadata.role) {
        (Credentials::Accepted, _) => return None,
        (Credentials::None, None) => (
            "there are no AWS credentials: no role is attached to this instance".to_owned(),
            "attach an instance profile whose role has the policy below",
        ),
        (Credentials::None, Some(role)) => (
            format!("there are no AWS credentials, although the role `{role}` is attached"),
            "does the role still exist, and does it trust ec2.amazonaws.com?",
        ),
        (Credentials::Expired, _) => (
            "the AWS credentials have expired".to_owned(),
            "is the clock right (`chronyc tracking`)? Keys from a file or the environment are not renewed: remove them, the role's are",
        ),
        (Credentials::Refused(code), _) => (
            format!("AWS refuses the credentials ({code})"),
            "is the clock right (`chronyc tracking`), and are the keys those of this account?",
        ),
    };
    let costs = "who is in the group is not learned, nothing is replaced, and CloudWatch hears nothing; health and failover do not need AWS";
    Some(Finding::new(if is_needed { Level::Degraded } else { Level::Advice }, what, costs, hint))
}

/// What was tried, and what cannot be.
pub(super) fn permissions(trial: &Trial, calls: Option<&[Call]>, policy: &Policy) -> Vec<Permission> {
    let permission = |action: &str, result: &str, words: String| Permission {
        action: action.to_owned(),
        result: result.to_owned(),
        statement: policy.statement_of(action).unwrap_or_default().to_owned(),
        words,
    };
    let tried = trial.calls.iter().map(|(action, result)| match result {
        Ok(()) => permission(action, "ok", String::new()),
        Err(failure) => permission(action, failure.kind.name(), failure.words()),
    });
    let untried = untried(policy).map(|action| {
        let words = match calls.map(|calls| ended(calls, action)) {
            None => "no running agent was asked".to_owned(),
            Some(ended) if ended.is_empty() => "the running agent has not needed it yet".to_owned(),
            Some(ended) => {
                let ended = ended.iter().map(|(result, count)| format!("{count} {result}"));
                format!("the running agent's calls: {}", ended.collect::<Vec<_>>().join(", "))
            }
        };
        let is_denied = calls
            .map(|calls| ended(calls, action))
            .is_some_and(|ended| ended.contains_key(Kind::Denied.name()) && !ended.contains_key("ok"));
        permission(action, if is_denied { Kind::Denied.name() } else { "untried" }, words)
    });
    tried.chain(untried).collect()
}

/// One finding for each statement that is not granted and each other way in which calls failed, and whether something
/// was denied. `names_group`: somebody but Auto Scaling names the group.
pub(super) fn lacks(
    trial: &Trial,
    permissions: &[Permission],
    policy: &Policy,
    names_group: bool,
) -> (Vec<Finding>, bool) {
    let is_denied = |permission: &&Permission| {
        // Without need of it nothing is lacking.
        permission.result == Kind::Denied.name() && !(names_group && permission.action == aws::INSTANCES)
    };
    let mut findings = Vec::new();
    for statement in &policy.statement {
        let denied = permissions.iter().filter(is_denied).filter(|denied| denied.statement == statement.sid);
        let denied: Vec<_> = denied.map(|permission| permission.action.as_str()).collect();
        if !denied.is_empty() {
            findings.push(Finding::new(
                Level::Degraded,
                format!("the role lacks {}", denied.join(", ")),
                costs(&statement.sid),
                format!("give it the statement `{}` of the policy below", statement.sid),
            ));
        }
    }
    let is_lacking = !findings.is_empty();
    // The others, by kind.
    let mut failures: Vec<(&Failure, Vec<&str>)> = Vec::new();
    for (action, result) in &trial.calls {
        let Err(failure) = result else { continue };
        if matches!(failure.kind, Kind::Denied | Kind::NoCredentials) {
            continue;
        }
        match failures.iter_mut().find(|(known, _)| known.kind == failure.kind) {
            Some((_, actions)) => actions.push(action),
            None => failures.push((failure, vec![action])),
        }
    }
    findings.extend(failures.into_iter().map(|(failure, actions)| {
        let hint = match failure.kind {
            Kind::Timeout | Kind::Unreachable => {
                "does the instance reach the services' endpoints on TCP 443: a NAT or VPC endpoints, and the security group's way out?"
            }
            Kind::Throttled => "the account calls too often; look again in a minute",
            _ => "look at what AWS says",
        };
        let words = format!("{}: {}", actions.join(", "), failure.kind);
        Finding::new(Level::Degraded, words, "what it would have said is not known here", hint)
    }));
    (findings, is_lacking)
}

fn costs(statement: &str) -> &'static str {
    match statement {
        "WhoIsInTheGroup" => {
            "the members are not learned, so nobody else's word is heard: a fault here is told from one that all have by nobody"
        }
        "LastLook" => {
            "nothing is replaced without that look, and whether a drain would end the instance cannot be told"
        }
        "Replace" => "nothing is replaced, although [replace] says `enforce`",
        "AuditNote" => {
            "the group keeps no note of a replacement or of a higher epoch, and when all members are gone nobody knows of it"
        }
        "Metrics" => "CloudWatch hears nothing, not even the heartbeat",
        _ => "what needs it does not work",
    }
}
