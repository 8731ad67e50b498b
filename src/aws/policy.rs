//! The policy that the agent's role needs: the shipped one, as far as a configuration needs it, with the names filled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const SHIPPED: &str = include_str!("../../packaging/iam/agent-policy.json");

/// The statement that only [`Needs::enforce`] needs: without it nothing that goes wrong here could end an instance.
const OF_ENFORCE: &str = "Replace";

/// The statement of whoever writes the group's tags.
const OF_TAGS: &str = "AuditNote";

/// The statement that only a namespace needs.
const OF_CLOUDWATCH: &str = "Metrics";

/// An IAM policy, as it is pasted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: String,
    pub statement: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Statement {
    pub sid: String,
    effect: String,
    pub action: Vec<String>,
    resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<BTreeMap<String, BTreeMap<String, String>>>,
}

/// What a policy is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// The Auto Scaling group, if it is known.
    pub group: Option<&'a str>,
    /// The CloudWatch namespace, if metrics are sent.
    pub namespace: Option<&'a str>,
    /// Instances are replaced, not only observed.
    pub enforce: bool,
    /// One of two regions owns the data, and the group's tags say which.
    pub authority: bool,
}

impl Policy {
    /// The statements that are needed. A group that is not known stays `GROUP`.
    #[must_use]
    pub fn for_needs(needs: &Needs<'_>) -> Self {
        let mut policy = shipped();
        policy.statement.retain(|statement| match statement.sid.as_str() {
            OF_ENFORCE => needs.enforce,
            OF_TAGS => needs.enforce || needs.authority,
            OF_CLOUDWATCH => needs.namespace.is_some(),
            _ => true,
        });
        for statement in &mut policy.statement {
            if let Some(group) = needs.group {
                statement.resource = statement.resource.replace("GROUP", group);
            }
            let values = statement.condition.iter_mut().flat_map(BTreeMap::values_mut).flat_map(BTreeMap::values_mut);
            for value in values.filter(|value| *value == "NAMESPACE") {
                needs.namespace.unwrap_or("NAMESPACE").clone_into(value);
            }
        }
        policy
    }

    /// The statement that allows `action`; `None` where none is needed.
    #[must_use]
    pub fn statement_of(&self, action: &str) -> Option<&str> {
        let allows = |statement: &&Statement| statement.action.iter().any(|allowed| allowed == action);
        self.statement.iter().find(allows).map(|statement| statement.sid.as_str())
    }
}

/// A test reads it with these types.
fn shipped() -> Policy {
    serde_json::from_str(SHIPPED).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_asked_for_and_the_names_are_filled_in() {
        let sids = |needs: &Needs<'_>| -> Vec<_> {
            Policy::for_needs(needs).statement.into_iter().map(|statement| statement.sid).collect()
        };
        assert_eq!(sids(&Needs::default()), ["WhoIsInTheGroup", "LastLook"]);
        let two_regions = Needs { authority: true, ..Needs::default() };
        assert_eq!(sids(&two_regions), ["WhoIsInTheGroup", "LastLook", "AuditNote"]);
        let all = Needs { group: Some("web"), namespace: Some("Shop"), enforce: true, authority: false };
        assert_eq!(sids(&all), ["WhoIsInTheGroup", "LastLook", "Replace", "AuditNote", "Metrics"]);
        let policy = Policy::for_needs(&all);
        assert_eq!(policy.statement_of("autoscaling:SetInstanceHealth"), Some("Replace"));
        let text = serde_json::to_string(&policy).unwrap();
        assert!(
            text.contains("autoScalingGroupName/web\"") && text.contains(r#""cloudwatch:namespace":"Shop""#),
            "{text}"
        );
        assert!(!text.contains("GROUP") && !text.contains("NAMESPACE"), "{text}");
        assert!(text.starts_with(r#"{"Version":"2012-10-17","Statement":[{"Sid":"#), "{text}");
    }

    #[test]
    fn the_shipped_file_says_nothing_that_is_lost_in_between() {
        let file: serde_json::Value = serde_json::from_str(SHIPPED).unwrap();
        assert_eq!(serde_json::to_value(shipped()).unwrap(), file);
    }
}
