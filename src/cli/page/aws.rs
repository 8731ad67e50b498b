//! The AWS side on the page: who this instance is, what its role may do, how its group is set up, what to do about it.

use std::fmt::Write;

use anstyle::Style;

use super::super::render::{DIM, status_style, wrap};
use super::{hint, title};
use crate::health::cause::Status;
use crate::identity::metadata::Silence;
use crate::report::Report;
use crate::report::aws::{Aws, Contract, Credentials, Finding, Level};

/// Columns before what is said.
const INDENT: usize = 15;

pub(super) fn write(page: &mut String, report: &Report) -> std::fmt::Result {
    let Some(aws) = report.aws.as_ref().filter(|aws| **aws != Aws { calls: aws.calls.clone(), ..Aws::default() })
    else {
        return Ok(());
    };
    title(page, "AWS")?;
    if let (Some(silence), None, []) = (aws.silence, &aws.credentials, &aws.findings[..])
        && aws.permissions.is_empty()
    {
        let what =
            format!("not on EC2, or the metadata service is silent ({}): AWS is not asked", silence_words(silence));
        return writeln!(page, "  {}", wrap(&what, 4));
    }
    let mut row = |name: &str, text: &str| writeln!(page, "  {name:<11}  {}", wrap(text, INDENT));
    for known in &aws.identity {
        row(&known.what, &format!("{} ({})", known.value, known.from))?;
    }
    if let Some(role) = &aws.role {
        row("role", role)?;
    }
    if let Some(credentials) = &aws.credentials {
        row("credentials", &credentials_words(credentials))?;
    }
    let allowed = aws.permissions.iter().filter(|permission| permission.result == "ok");
    let allowed: Vec<_> = allowed.map(|permission| permission.action.as_str()).collect();
    if !allowed.is_empty() {
        row("allowed", &allowed.join(", "))?;
    }
    for untried in aws.permissions.iter().filter(|permission| permission.result == "untried") {
        row("untried", &format!("{}, which has an effect; {}", untried.action, untried.words))?;
    }
    if let Some(contract) = &aws.group {
        row("settings", &settings(contract))?;
    }
    for finding in &aws.findings {
        write_finding(page, finding)?;
    }
    if let Some(policy) = &aws.policy {
        writeln!(page, "  {DIM}the policy that the role needs, with this configuration:{DIM:#}")?;
        // A policy is text and lists.
        let text = serde_json::to_string_pretty(policy).unwrap_or_default();
        for line in text.lines() {
            writeln!(page, "  {line}")?;
        }
    }
    Ok(())
}

fn write_finding(page: &mut String, finding: &Finding) -> std::fmt::Result {
    let (word, style) = match finding.level {
        Level::Unhealthy => ("UNHEALTHY", status_style(Status::Unhealthy)),
        Level::Degraded => ("degraded", status_style(Status::Degraded)),
        Level::Advice => ("advice", Style::new()),
    };
    writeln!(page, "  {style}{word:<11}{style:#}  {}", wrap(&finding.what, INDENT))?;
    writeln!(page, "{:INDENT$}{}", "", wrap(&format!("costs: {}", finding.costs), INDENT + 2))?;
    hint(page, INDENT, &finding.hint)
}

const fn silence_words(silence: Silence) -> &'static str {
    match silence {
        Silence::Disabled => "it refuses",
        Silence::Late => "it does not answer in time",
        Silence::Unreachable => "it cannot be reached",
        Silence::Strange => "something else answers there",
    }
}

fn credentials_words(credentials: &Credentials) -> String {
    match credentials {
        Credentials::Accepted => "accepted by AWS".to_owned(),
        Credentials::None => "none".to_owned(),
        Credentials::Expired => "expired".to_owned(),
        Credentials::Refused(code) => format!("refused by AWS: {code}"),
    }
}

fn settings(contract: &Contract) -> String {
    let Contract { desired, in_service, grace_seconds, health_check_types, suspended, .. } = contract;
    let mut parts = vec![
        format!("{in_service} of {desired} desired instances in service"),
        format!("health check {}", health_check_types.join(" and ")),
        format!("grace {grace_seconds} s"),
    ];
    parts.extend(contract.default_warmup_seconds.map(|warmup| format!("default warmup {warmup} s")));
    parts.extend(contract.maintenance.map(|(least, most)| format!("maintenance {least}-{most} %")));
    if !suspended.is_empty() {
        parts.push(format!("suspended {}", suspended.join(" ")));
    }
    parts.join(", ")
}
