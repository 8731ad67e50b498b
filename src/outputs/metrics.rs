//! `/metrics` in Prometheus text format 0.0.4, computed from a snapshot alone.
//!
//! Names, units and labels are stable. Label values come from the configuration and from closed sets of words, so their
//! number is bounded. What is not known is left out: there is no NaN.

mod authority;

use std::fmt::{Display, Write};

use crate::aws;
use crate::clock::{self, BootTime};
use crate::health::cause::Status;
use crate::health::component::ComponentState;
use crate::latches::Kind;
use crate::observation::{DatabaseFacts, EfsFacts, Facts, HostFacts};
use crate::outputs::cloudwatch;
use crate::replace::plan::Plan;
use crate::replace::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::telemetry;

/// The page. Its type is `text/plain; version=0.0.4; charset=utf-8`.
#[must_use]
pub fn page(snapshot: &Snapshot, now: BootTime) -> String {
    let mut page = Page { text: String::with_capacity(8 * 1024), family: "" };
    agent(&mut page, snapshot, now);
    verdicts(&mut page, snapshot, now);
    authority::write(&mut page, snapshot);
    components(&mut page, snapshot, now);
    facts(&mut page, snapshot);
    aws_calls(&mut page);
    certificates(&mut page, snapshot);
    page.text
}

fn agent(page: &mut Page, snapshot: &Snapshot, now: BootTime) {
    page.gauge("dr_agent_build_info", "1, with the agent's version as a label.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.gauge("dr_agent_generation", "Number of the snapshot behind this page; starts anew with the agent.");
    page.sample(&[], snapshot.generation);
    page.gauge("dr_agent_snapshot_age_seconds", "Age of the snapshot behind this page.");
    page.sample(&[], seconds(now, snapshot.taken));
    page.gauge("dr_agent_config_problems", "Problems of the configuration; 0 when the file is in force as it stands.");
    page.sample(&[], snapshot.about.config_problems.len());
    page.counter("dr_agent_log_lines_lost_total", "Log lines lost because the journal did not take them in time.");
    page.sample(&[], telemetry::lost_lines());
}

fn verdicts(page: &mut Page, snapshot: &Snapshot, now: BootTime) {
    page.gauge("dr_agent_instance_open", "1 while the load balancer is told 200.");
    page.flag(&[], snapshot.instance.state.is_ok());
    page.gauge("dr_agent_region_open", "1 while Route 53 is told 200.");
    page.flag(&[], snapshot.region.state.is_ok());
    page.gauge("dr_agent_region_hold_seconds_left", "Time until a condition that holds now closes the region.");
    for hold in &snapshot.region.holds {
        page.sample(&[("on", hold.on.name())], hold.due.since(now).as_secs_f64());
    }
    page.gauge("dr_agent_gate_closed", "1 while nginx answers users 503.");
    page.flag(&[], snapshot.gate_closed);
    page.gauge("dr_agent_draining", "1 while an operator or the platform has this instance drained.");
    page.flag(&[], snapshot.is_draining());
    page.gauge("dr_agent_drill", "1 while something here is only rehearsed.");
    page.flag(&[], snapshot.is_drill());
    page.gauge("dr_agent_rebalance_recommended", "1 while EC2 recommends to replace this instance.");
    page.flag(&[], snapshot.lifecycle.rebalance);
    page.gauge("dr_agent_on_hold", "1 while repair and replacement of this instance are held.");
    page.flag(&[], snapshot.latches.get(Kind::Hold).is_some());
    let replacement = &snapshot.replacement;
    page.counter("dr_agent_would_replace_total", "Faults for which this instance would have been replaced.");
    page.sample(&[], replacement.would);
    page.gauge("dr_agent_replace_plan", "1 for what is planned about this instance, 0 for the rest.");
    for plan in Plan::NAMES {
        page.flag(&[("plan", plan)], replacement.plan.name() == plan);
    }
    page.gauge("dr_agent_replace_refusal", "1 for each reason why this instance is not replaced now.");
    for refusal in Refusal::ALL {
        page.flag(&[("refusal", refusal.name())], replacement.refusals().contains(refusal));
    }
}

fn aws_calls(page: &mut Page) {
    page.counter(
        "dr_agent_cloudwatch_records_lost_total",
        "Records of a minute that CloudWatch could not be told, or refused.",
    );
    page.sample(&[], cloudwatch::dropped());
    page.counter("dr_agent_aws_calls_total", "Calls to AWS, by IAM action and by what came of them.");
    for ((action, result), count) in aws::calls() {
        page.sample(&[("action", action), ("result", result)], count);
    }
}

fn certificates(page: &mut Page, snapshot: &Snapshot) {
    let help = "Whole days until the certificate of a region's name expires; negative when it has.";
    page.gauge("dr_agent_certificate_expiry_days", help);
    let at = clock::wall();
    for certificate in snapshot.certificates.iter() {
        if let Some(days) = certificate.days_left(at) {
            page.sample(&[("region", &certificate.region)], days);
        }
    }
}

fn components(page: &mut Page, snapshot: &Snapshot, now: BootTime) {
    let all = || snapshot.components.iter().map(|(component, _)| (component.component.name(), component));
    page.gauge("dr_agent_component_status", "1 for the status a component has, 0 for the others.");
    for (name, component) in all() {
        for status in Status::ALL {
            page.flag(&[("component", name), ("status", status.name())], component.status == status);
        }
    }
    page.gauge("dr_agent_component_failures", "Failed attempts in a row, up to now.");
    for (name, component) in all() {
        page.sample(&[("component", name)], component.failures);
    }
    page.gauge("dr_agent_component_last_success_age_seconds", "Time since the newest attempt that passed began.");
    for (name, component) in all() {
        if let Some(at) = component.last_ok {
            page.sample(&[("component", name)], seconds(now, at));
        }
    }
    page.gauge("dr_agent_component_attempt_duration_seconds", "How long the newest attempt took.");
    for (name, component) in all().filter(|(_, component)| component.observed.is_some()) {
        page.sample(&[("component", name)], component.took.as_secs_f64());
    }
    page.gauge("dr_agent_stage_duration_seconds", "How long each stage of the newest attempt took.");
    for (name, component) in all() {
        for (stage, took) in stages(component) {
            page.sample(&[("component", name), ("stage", stage)], took);
        }
    }
    page.counter("dr_agent_transitions_total", "Changes of a component's status, by the new status.");
    for (name, component) in all() {
        for status in Status::ALL {
            let count = snapshot.transitions.get(&(component.component.to_string(), status));
            page.sample(&[("component", name), ("to", status.name())], count.copied().unwrap_or(0));
        }
    }
}

/// A stage that an attempt went through twice is one, with the sum of both: a series may appear only once.
fn stages(component: &ComponentState) -> Vec<(&'static str, f64)> {
    let mut sums: Vec<(&'static str, f64)> = Vec::new();
    for stage in &component.stages {
        match sums.iter_mut().find(|(name, _)| *name == stage.name) {
            Some((_, sum)) => *sum += stage.took.as_secs_f64(),
            None => sums.push((stage.name, stage.took.as_secs_f64())),
        }
    }
    sums
}

/// What probes learned beside pass or fail, as long as it is fresh: while the newest attempt fails, the facts may be
/// those of an earlier one.
fn facts(page: &mut Page, snapshot: &Snapshot) {
    for (component, _) in &snapshot.components {
        let fresh = component.has_fresh_facts();
        match &component.facts {
            Facts::Database(facts) if fresh => database(page, facts),
            Facts::Host(facts) if fresh => host(page, facts),
            // A hang is a failure, and this is the fact of it.
            Facts::Efs(EfsFacts { hung_seconds: Some(hung), .. }) if component.is_failing_now() => {
                page.gauge("dr_agent_efs_hung_seconds", "How long the probe of the mount has hung.");
                page.sample(&[], hung);
            }
            _ => {}
        }
    }
}

fn database(page: &mut Page, facts: &DatabaseFacts) {
    page.gauge("dr_agent_database_role", "1, with what SQL proves the database to be as a label.");
    page.sample(&[("role", facts.role().name())], 1);
    if let Some(lag) = facts.lag_seconds() {
        page.gauge(
            "dr_agent_database_replica_lag_seconds",
            "How far the slowest channel is behind, as the server says.",
        );
        page.sample(&[], lag);
    }
}

fn host(page: &mut Page, facts: &HostFacts) {
    page.gauge("dr_agent_memory_available_bytes", "Memory that programs could get without swapping.");
    page.sample(&[], facts.memory_available);
    page.gauge("dr_agent_memory_total_bytes", "Memory of the machine.");
    page.sample(&[], facts.memory_total);
    page.gauge("dr_agent_pressure_ratio", "Share of the last 60 s in which some task waited for the resource.");
    for (resource, percent) in [("memory", facts.memory_pressure), ("io", facts.io_pressure)] {
        if let Some(percent) = percent {
            page.sample(&[("resource", resource)], percent / 100.0);
        }
    }
    page.gauge("dr_agent_disk_free_ratio", "Free share of a local file system.");
    // A file system without blocks (some FUSE and NFS servers say so) has no share.
    for disk in facts.disks.iter().filter(|disk| disk.free_percent.is_finite()) {
        page.sample(&[("path", &disk.path)], disk.free_percent / 100.0);
    }
    page.gauge("dr_agent_disk_free_inodes_ratio", "Free share of a local file system's inodes.");
    for disk in &facts.disks {
        if let Some(percent) = disk.free_inodes_percent.filter(|percent| percent.is_finite()) {
            page.sample(&[("path", &disk.path)], percent / 100.0);
        }
    }
}

fn seconds(now: BootTime, then: BootTime) -> f64 {
    now.since(then).as_secs_f64()
}

/// The text so far, and the family that samples are added to.
struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// Begins a family whose value goes up and down. All its samples follow before the next family begins.
    fn gauge(&mut self, name: &'static str, help: &str) {
        self.begin(name, "gauge", help);
    }

    /// Begins a family whose value only rises, and starts anew with the agent.
    fn counter(&mut self, name: &'static str, help: &str) {
        self.begin(name, "counter", help);
    }

    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds one sample; label values are escaped.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.family);
        for (index, (name, label)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"");
            for character in label.chars() {
                match character {
                    '\\' => self.text.push_str(r"\\"),
                    '"' => self.text.push_str(r#"\""#),
                    '\n' => self.text.push_str(r"\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// Adds one sample that is 1 or 0.
    fn flag(&mut self, labels: &[(&str, &str)], is_set: bool) {
        self.sample(labels, u8::from(is_set));
    }
}
