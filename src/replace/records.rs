//! What happened to instances that are gone: a record of each replacement, kept by the members that agreed to it, and
//! the budget that is computed from them. Pure: time is an argument.
//!
//! Nobody compares clocks: a record travels with its age, and whoever keeps it counts on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::clock::Stamp;
use crate::health::verdict::Tally;
use crate::snapshot::HistoryEntry;

/// Bytes of one record as JSON.
pub const LIMIT: usize = 4 * 1024;

/// Transitions in a record, before it is cut to fit.
const TRANSITIONS: usize = 50;

/// How long a record is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Records kept: far more than the budget lets a group have in the time that counts. The oldest go first.
const MOST: usize = 64;

/// Replacements of one group within [`BUDGET_WINDOW`].
const BUDGET: usize = 2;
pub const BUDGET_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);

/// Replacements for one kind of fault within [`CURE_WINDOW`] after which one more would not cure either.
const CURES: usize = 2;
const CURE_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Characters of a tag's value.
const TAG_LIMIT: usize = 256;

/// One replacement, told before it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of the round in which it was agreed.
    pub id: String,
    /// By the clock of the instance that went.
    pub at: Timestamp,
    /// The Auto Scaling group.
    pub group: String,
    pub instance: String,
    /// By name: a newer release may know more causes.
    pub cause: String,
    #[serde(default)]
    pub detail: String,
    /// The votes on the component, as the instance counted them.
    #[serde(default)]
    pub votes: Tally,
    /// What the instance was about to do, in words.
    #[serde(default)]
    pub plan: String,
    /// What changed there last, oldest first.
    #[serde(default)]
    pub transitions: Vec<HistoryEntry>,
}

/// A record and how old it was when it came here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub record: Record,
    pub came: Stamp,
    pub age_then: Duration,
}

/// A record as one member tells it another: the body of `GET /peer/records` is a list of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub age_seconds: u64,
    pub record: Record,
}

/// The records kept here, newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records(Vec<Kept>);

/// The kind of fault by the cause's name: what it is about. `efs-hung` and `efs-not-mounted` are one kind.
#[must_use]
pub fn class(cause: &str) -> &str {
    cause.split_once('-').map_or(cause, |(class, _)| class)
}

/// Who lives, so that what is recorded of it did not happen: agreed upon, and not done.
#[derive(Debug, Clone, Copy)]
pub struct Living<'a> {
    /// Whoever wants to go.
    pub asker: &'a str,
    /// Members that serve now.
    pub serving: &'a BTreeSet<String>,
    /// For so long after it was agreed upon an instance that is replaced may still be heard.
    pub cooldown: Duration,
}

impl Living<'_> {
    fn is(&self, instance: &str, age: Duration) -> bool {
        instance == self.asker || (age > self.cooldown && self.serving.contains(instance))
    }
}

impl Record {
    /// Cuts it to [`LIMIT`]: long texts, then old transitions.
    pub fn fit(&mut self) {
        for text in [&mut self.detail, &mut self.plan] {
            *text = text.chars().take(200).collect();
        }
        let excess = self.transitions.len().saturating_sub(TRANSITIONS);
        self.transitions.drain(..excess);
        while !self.transitions.is_empty() && !self.fits() {
            self.transitions.remove(0);
        }
    }

    /// Whether it may be kept.
    #[must_use]
    pub fn fits(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|text| text.len() <= LIMIT)
    }
}

impl Kept {
    fn age(&self, now: &Stamp) -> Duration {
        self.age_then + self.came.age(now)
    }
}

impl Records {
    /// Keeps a record that is `age` old, unless a record with its id is kept already, and forgets what is too old or too
    /// many. Says whether anything changed.
    pub fn keep(&mut self, record: Record, age: Duration, now: &Stamp) -> bool {
        if age > KEPT || !record.fits() || self.0.iter().any(|kept| kept.record.id == record.id) {
            return false;
        }
        let id = record.id.clone();
        self.0.push(Kept { record, came: now.clone(), age_then: age });
        self.0.retain(|kept| kept.age(now) <= KEPT);
        self.0.sort_by_key(|kept| std::cmp::Reverse(kept.age(now)));
        self.0.drain(..self.0.len().saturating_sub(MOST));
        self.0.iter().any(|kept| kept.record.id == id)
    }

    /// Drops the record of a replacement that did not happen. Says whether there was one.
    pub fn drop(&mut self, id: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|kept| kept.record.id != id);
        self.0.len() < before
    }

    /// All of them with their ages, newest last.
    #[must_use]
    pub fn told(&self, now: &Stamp) -> Vec<Told> {
        self.0.iter().map(|kept| Told { age_seconds: kept.age(now).as_secs(), record: kept.record.clone() }).collect()
    }

    /// What the past forbids `me`, for a fault by this cause; `tag` is what the group's tag remembers. An instance counts
    /// once however often it is named: it can be replaced only once.
    #[must_use]
    pub fn refusals(&self, tag: Option<&str>, living: &Living<'_>, cause: &str, now: &Stamp) -> Vec<Refusal> {
        let past = self.past(tag, living, now);
        let count = |window: Duration, counts: &dyn Fn(&str) -> bool| {
            past.values().filter(|(age, cause)| *age <= window && counts(cause)).count()
        };
        let mut refusals = Vec::new();
        if count(BUDGET_WINDOW, &|_| true) >= BUDGET {
            refusals.push(Refusal::BudgetSpent);
        }
        if count(CURE_WINDOW, &|other| class(other) == class(cause)) >= CURES {
            refusals.push(Refusal::ReplacementDidNotCure);
        }
        refusals
    }

    /// Whether any other instance was replaced within [`BUDGET_WINDOW`].
    #[must_use]
    pub fn is_recent(&self, tag: Option<&str>, living: &Living<'_>, now: &Stamp) -> bool {
        self.past(tag, living, now).values().any(|(age, _)| *age <= BUDGET_WINDOW)
    }

    /// Age and cause of the newest replacement of each other instance.
    fn past(&self, tag: Option<&str>, living: &Living<'_>, now: &Stamp) -> BTreeMap<String, (Duration, String)> {
        let kept =
            self.0.iter().map(|kept| (kept.record.instance.clone(), kept.age(now), kept.record.cause.clone())).chain(
                tag.into_iter().flat_map(read_tag).map(|entry| {
                    let age = Duration::try_from(now.wall.duration_since(entry.at)).unwrap_or_default();
                    (entry.instance, age, entry.cause)
                }),
            );
        let mut past = BTreeMap::new();
        for (instance, age, cause) in kept.filter(|(instance, age, _)| !living.is(instance, *age)) {
            let newest = past.entry(instance).or_insert_with(|| (age, cause.clone()));
            if age < newest.0 {
                *newest = (age, cause);
            }
        }
        past
    }
}

/// One replacement in the group's tag.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TagEntry {
    at: Timestamp,
    instance: String,
    cause: String,
}

/// Entries that can be read; whatever else somebody wrote there is passed over.
fn read_tag(tag: &str) -> impl Iterator<Item = TagEntry> {
    tag.split_whitespace().filter_map(|entry| {
        let mut parts = entry.splitn(3, '=');
        let at = parts.next()?.parse().ok()?;
        Some(TagEntry { at, instance: parts.next()?.to_owned(), cause: parts.next()?.to_owned() })
    })
}

/// The group's tag with one more replacement, newest first, as many as fit. Only characters that a tag's value may have.
#[must_use]
pub fn write_tag(old: Option<&str>, record: &Record) -> String {
    let at = Timestamp::from_second(record.at.as_second()).unwrap_or(record.at);
    let mut seen = BTreeSet::from([record.instance.clone()]);
    let mut tag = format!("{at}={}={}", record.instance, record.cause);
    for entry in old.into_iter().flat_map(read_tag) {
        let next = format!(" {}={}={}", entry.at, entry.instance, entry.cause);
        if tag.len() + next.len() <= TAG_LIMIT && seen.insert(entry.instance) {
            tag.push_str(&next);
        }
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;

    const HOUR: u64 = 3_600;

    fn at(seconds: u64) -> Stamp {
        Stamp {
            boot: "b".to_owned(),
            time: BootTime::from_boot(Duration::from_secs(seconds)),
            wall: Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
        }
    }

    fn record(id: &str, instance: &str, cause: &str, seconds: u64) -> Record {
        Record {
            id: id.to_owned(),
            at: at(seconds).wall,
            group: "web".to_owned(),
            instance: instance.to_owned(),
            cause: cause.to_owned(),
            detail: "a detail".to_owned(),
            votes: Tally::default(),
            plan: "Go".to_owned(),
            transitions: Vec::new(),
        }
    }

    static NOBODY: BTreeSet<String> = BTreeSet::new();

    fn living() -> Living<'static> {
        Living { asker: "i-0me", serving: &NOBODY, cooldown: Duration::from_secs(900) }
    }

    #[test]
    fn who_still_serves_long_after_it_was_agreed_upon_was_not_replaced() {
        let records = kept(&[("i-0a", "efs-hung", HOUR), ("i-0b", "disk-full", HOUR + 1)]);
        let serving = BTreeSet::from(["i-0b".to_owned()]);
        let refusals = |seconds| {
            let living = Living { serving: &serving, ..living() };
            records.refusals(None, &living, "nginx-refused", &at(HOUR + seconds))
        };
        assert_eq!(refusals(901), [Refusal::BudgetSpent], "it may be on its way");
        assert_eq!(refusals(902), []);
        assert!(!records.refusals(None, &living(), "nginx-refused", &at(HOUR + 902)).is_empty(), "gone");
    }

    fn kept(list: &[(&str, &str, u64)]) -> Records {
        let mut records = Records::default();
        for (instance, cause, seconds) in list {
            let id = format!("{instance}-{seconds}");
            assert!(records.keep(record(&id, instance, cause, *seconds), Duration::ZERO, &at(*seconds)));
        }
        records
    }

    #[test]
    fn two_in_six_hours_are_the_budget_and_two_of_a_kind_in_a_day_did_not_cure() {
        use Refusal::{BudgetSpent, ReplacementDidNotCure};
        let two = [("i-0a", "efs-hung", 10 * HOUR), ("i-0b", "disk-full", 11 * HOUR)];
        for (list, cause, now, refusals) in [
            (&two[..1], "efs-hung", 12, &[][..]),
            (&two[..], "nginx-refused", 12, &[BudgetSpent]),
            (&two, "nginx-refused", 15, &[BudgetSpent]),
            (&two, "nginx-refused", 16, &[]),
            (
                &[("i-0a", "efs-hung", HOUR), ("i-0b", "efs-not-mounted", 2 * HOUR)],
                "efs-io-error",
                3,
                &[BudgetSpent, ReplacementDidNotCure],
            ),
            (
                &[("i-0a", "efs-hung", HOUR), ("i-0b", "efs-not-mounted", 2 * HOUR)],
                "efs-hung",
                20,
                &[ReplacementDidNotCure],
            ),
            (&[("i-0a", "efs-hung", HOUR), ("i-0b", "efs-not-mounted", 2 * HOUR)], "efs-hung", 26, &[]),
            (&[("i-0a", "efs-hung", HOUR), ("i-0a", "efs-hung", 2 * HOUR)], "efs-hung", 3, &[]),
            (&[("i-0a", "efs-hung", HOUR), ("i-0me", "efs-hung", 2 * HOUR)], "efs-hung", 3, &[]),
        ] {
            // The second past the hour, so that a window that ends at it has ended.
            let now = at(now * HOUR + 1);
            assert_eq!(kept(list).refusals(None, &living(), cause, &now), refusals, "{list:?} {cause}");
            let tag = list.iter().fold(None, |tag: Option<String>, (instance, cause, seconds)| {
                Some(write_tag(tag.as_deref(), &record("x", instance, cause, *seconds)))
            });
            let by_tag = Records::default().refusals(tag.as_deref(), &living(), cause, &now);
            assert_eq!(by_tag, refusals, "the tag says the same as the records: {tag:?}");
            assert_eq!(kept(list).refusals(tag.as_deref(), &living(), cause, &now), refusals, "nothing counts twice");
        }
    }

    #[test]
    fn a_tag_is_short_and_read_whatever_a_person_wrote_there() {
        let mut tag = None;
        for n in 0..10_u64 {
            let long = record("x", &format!("i-0123456789abcdef{n}"), "database-connection-lost", n * HOUR);
            tag = Some(write_tag(tag.as_deref(), &long));
        }
        let tag = tag.unwrap();
        assert!(tag.len() <= TAG_LIMIT && tag.starts_with("2027-01-15T17:00:00Z=i-0123456789abcdef9="), "{tag}");
        assert!(tag.chars().all(|c| c.is_ascii_alphanumeric() || " +-=._:/@".contains(c)), "{tag}");
        assert_eq!(read_tag(&tag).count(), 3);
        assert_eq!(read_tag("off by bob 2026-11-25 a=b=c =").count(), 0);
        let from_the_future = write_tag(None, &record("x", "i-0a", "efs-hung", 100 * HOUR));
        assert!(Records::default().is_recent(Some(&from_the_future), &living(), &at(0)), "no age at all");
    }

    #[test]
    fn a_record_is_cut_to_fit_and_what_does_not_fit_is_not_kept() {
        let entry = |n: usize| HistoryEntry {
            at: Timestamp::UNIX_EPOCH,
            what: format!("efs{n}"),
            from: "healthy".to_owned(),
            to: "unhealthy".to_owned(),
            cause: Some("efs-hung".to_owned()),
            detail: "d".repeat(200),
        };
        let mut long = record("a", "i-0a", "efs-hung", 0);
        (long.detail, long.transitions) = ("x".repeat(2_000), (0..80).map(entry).collect());
        assert!(!Records::default().keep(long.clone(), Duration::ZERO, &at(0)));
        long.fit();
        assert!(long.fits() && !long.transitions.is_empty());
        assert_eq!(long.transitions.last().unwrap().what, "efs79", "the newest stay");
        assert!(Records::default().keep(long, Duration::ZERO, &at(0)));
    }

    #[test]
    fn a_record_ages_on_where_it_is_told_and_goes_after_thirty_days() {
        let mut here = kept(&[("i-0a", "efs-hung", HOUR)]);
        let told = here.told(&at(3 * HOUR));
        assert_eq!(told[0].age_seconds, 2 * HOUR);
        let just_booted = |seconds| Stamp { boot: "other".to_owned(), ..at(seconds) };
        let mut there = Records::default();
        let age = Duration::from_secs(told[0].age_seconds);
        assert!(there.keep(told[0].record.clone(), age, &just_booted(10)));
        assert!(!there.keep(told[0].record.clone(), age, &just_booted(20)), "it is known");
        assert!(there.is_recent(None, &living(), &just_booted(10 + 4 * HOUR)));
        assert!(!there.is_recent(None, &living(), &just_booted(11 + 4 * HOUR)), "not younger for having travelled");
        assert!(here.keep(record("new", "i-0b", "efs-hung", 0), Duration::ZERO, &at(HOUR + 30 * 24 * HOUR + 1)));
        assert_eq!(here.told(&at(0)).len(), 1);
        assert!(here.drop("new") && !here.drop("new"));
    }

    #[test]
    fn the_number_of_records_is_bounded() {
        let mut records = Records::default();
        for n in 0..200_u64 {
            records.keep(record(&n.to_string(), &format!("i-{n}"), "efs-hung", n), Duration::ZERO, &at(n));
        }
        assert_eq!(records.told(&at(200)).len(), MOST);
        assert_eq!(records.told(&at(200)).last().unwrap().record.id, "199");
        assert!(
            !records.keep(record("old", "i-x", "efs-hung", 0), Duration::from_secs(9_999), &at(200)),
            "none is older"
        );
    }
}
