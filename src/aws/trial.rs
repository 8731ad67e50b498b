//! What `dr-agent check` asks of AWS: every call that has no effect, each by itself and within its own short deadline,
//! so that whatever is missing or hangs is named and hides nothing else.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::group::{described, failed_launches, is_refreshing, look};
use super::{ACTIVITY, Aws, DESCRIBE, Failure, GROUPS, INSTANCES, REFRESHES};
use crate::replace::look::Look;

/// One call.
const LIMIT: Duration = Duration::from_secs(4);

/// What was seen of this instance's group, and what came of each call.
#[derive(Debug, Default)]
pub struct Trial {
    /// By Auto Scaling, or else by the tag that it sets; with the action that told it.
    pub group: Option<(String, &'static str)>,
    /// The group; what a failed call would have said of it is as if it were nothing.
    pub look: Option<Look>,
    /// Each action tried, once.
    pub calls: Vec<(&'static str, Result<(), Failure>)>,
}

impl Aws {
    /// Tries all of them for `instance` and its `group`, which is asked for where it is not known. Ends within 8 s.
    pub async fn try_calls(&self, region: &str, instance: &str, group: Option<&str>, now: Timestamp) -> Trial {
        let (by_tag, by_scaling, looked) = tokio::join!(
            within(DESCRIBE, self.group_by_tag(region, instance)),
            within(INSTANCES, self.group_of(region, instance)),
            self.try_look(region, group, now),
        );
        let found = |answer: &Result<Option<String>, Failure>| answer.as_ref().ok().cloned().flatten();
        let by_whom = |action| move |group: String| (group, action);
        let known = found(&by_scaling).map(by_whom(INSTANCES)).or_else(|| found(&by_tag).map(by_whom(DESCRIBE)));
        let looked = match (group, &known) {
            (None, Some((found, _))) => Box::pin(self.try_look(region, Some(found), now)).await,
            _ => looked,
        };
        let mut calls = vec![(DESCRIBE, by_tag.map(drop)), (INSTANCES, by_scaling.map(drop))];
        calls.extend(looked.calls);
        Trial { group: known, look: looked.look, calls }
    }

    /// The three calls of a last look, none of which takes the others with it.
    async fn try_look(&self, region: &str, group: Option<&str>, now: Timestamp) -> Trial {
        let Some(group) = group else { return Trial::default() };
        let client = self.clients(region).auto_scaling;
        let (found, launches, refreshing) = tokio::join!(
            within(GROUPS, described(&client, group)),
            within(ACTIVITY, failed_launches(&client, group, now)),
            within(REFRESHES, is_refreshing(&client, group)),
        );
        let (count, is_on) = (launches.as_ref().map_or(0, |count| *count), *refreshing.as_ref().unwrap_or(&false));
        let seen = found.as_ref().ok().and_then(Option::as_ref).map(|found| look(group, found, count, is_on));
        let calls = vec![(GROUPS, found.map(drop)), (ACTIVITY, launches.map(drop)), (REFRESHES, refreshing.map(drop))];
        Trial { group: None, look: seen, calls }
    }
}

async fn within<T>(action: &'static str, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(LIMIT, call).await.unwrap_or_else(|_| Err(Failure::late(action)))
}
