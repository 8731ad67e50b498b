//! The file as written: a cursor over its tables that hands out typed values and collects every problem on the way.
//!
//! Not serde: it stops at the first mistake, and a person who fixes a file wants to hear of all of them. A table knows
//! which keys it was asked for, so whatever is left over at its end is unknown.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest piece of a value that a message repeats.
const QUOTED: usize = 60;

/// One mistake: where, what and what to write instead, and the command that mends the file itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    /// First line is 1; `None` when it is about the whole file.
    pub(super) line: Option<usize>,
    pub(super) text: String,
    pub(super) fix: Option<String>,
}

/// The text of a file and the mistakes found in it.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, problems: RefCell::new(Vec::new()) }
    }

    pub(super) fn report(&self, at: Option<usize>, text: impl Into<String>) {
        let line = at.map(|at| self.text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1);
        self.problems.borrow_mut().push(Problem { line, text: text.into(), fix: None });
    }

    /// All problems, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }

    fn quote(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        if line.len() == text.len() && line.chars().count() <= QUOTED {
            return line.to_owned();
        }
        let cut: String = line.chars().take(QUOTED).collect();
        format!("{cut}...")
    }
}

/// One table of the file, or one that is not there and gives only defaults.
#[derive(Debug)]
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    /// `probe.efs`; empty at the top.
    path: String,
    table: Option<&'a DeTable<'a>>,
    at: Option<usize>,
    asked: Vec<&'a str>,
}

impl<'a> Section<'a> {
    pub(super) fn top(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Self { source, path: String::new(), table: Some(table), at: None, asked: Vec::new() }
    }

    /// Whether the file has this table.
    pub(super) const fn is_there(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The full name of a key here.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Says what is wrong with the value of `key`, or that it is missing if it is.
    pub(super) fn reject(&self, key: &str, why: impl fmt::Display) {
        let name = self.name(key);
        match self.table.and_then(|table| table.get(key)) {
            Some(value) => {
                let shown = self.source.quote(value.span());
                let shown =
                    if matches!(value.get_ref(), DeValue::Table(_)) { String::new() } else { format!(" = {shown}") };
                self.source.report(Some(value.span().start), format!("`{name}{shown}`: {why}"));
            }
            None => self.source.report(self.at, format!("`{name}` is missing: {why}")),
        }
    }

    fn take(&mut self, key: &'a str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table?.get(key)
    }

    /// A string.
    pub(super) fn string(&mut self, key: &'a str) -> Option<&'a str> {
        let DeValue::String(text) = self.take(key)?.get_ref() else {
            self.reject(key, "must be a string: write it in double quotes");
            return None;
        };
        Some(text)
    }

    /// A string that means something; `read` says what is wrong with it.
    pub(super) fn read<T>(&mut self, key: &'a str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(key)?;
        read(text).map_err(|why| self.reject(key, why)).ok()
    }

    /// A string of those in `words`, or the first of them.
    pub(super) fn word(&mut self, key: &'a str, words: &[&'static str]) -> &'static str {
        let read = |text: &str| {
            let found = words.iter().find(|&&word| word == text).copied();
            found.ok_or_else(|| format!("must be one of {}", quoted_list(words)))
        };
        self.read(key, read).unwrap_or(words[0])
    }

    /// A duration with a unit, inclusively between two bounds.
    pub(super) fn duration(&mut self, key: &'a str, default: Duration, bounds: RangeInclusive<Duration>) -> Duration {
        self.optional_duration(key, bounds).unwrap_or(default)
    }

    pub(super) fn optional_duration(&mut self, key: &'a str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let found = match self.take(key)?.get_ref() {
            DeValue::String(text) => parse_duration(text),
            DeValue::Integer(number) => Err(format!("a duration needs a unit: write \"{number}s\" or \"{number}ms\"")),
            DeValue::Float(number) => Err(format!("a duration needs a unit: write \"{}s\"", number.as_str())),
            _ => Err("must be a duration in a string: \"2s\", \"500ms\", \"5m\"".to_owned()),
        };
        let in_bounds = found.and_then(|found| {
            if bounds.contains(&found) {
                return Ok(found);
            }
            Err(format!("must be from {} to {}", show_duration(*bounds.start()), show_duration(*bounds.end())))
        });
        in_bounds.map_err(|why| self.reject(key, why)).ok()
    }

    /// A whole number, inclusively between two bounds.
    pub(super) fn number(&mut self, key: &'a str, default: u32, bounds: RangeInclusive<u32>) -> u32 {
        let Some(value) = self.take(key) else { return default };
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        number.filter(|number| bounds.contains(number)).unwrap_or_else(|| {
            self.reject(key, format!("must be a whole number from {} to {}", bounds.start(), bounds.end()));
            default
        })
    }

    /// A share from 0 to 100 %, in percent.
    pub(super) fn percent(&mut self, key: &'a str, default: f64) -> f64 {
        let Some(value) = self.take(key) else { return default };
        let number = match value.get_ref() {
            DeValue::String(text) => text.strip_suffix('%').and_then(|text| text.trim().parse::<f64>().ok()),
            _ => None,
        };
        number.filter(|number| (0.0..=100.0).contains(number)).unwrap_or_else(|| {
            self.reject(key, "must be a percentage in a string, from \"0%\" to \"100%\"");
            default
        })
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, key: &'a str) -> Option<Vec<&'a str>> {
        let DeValue::Array(values) = self.take(key)?.get_ref() else {
            self.reject(key, "must be a list of strings: [\"...\", \"...\"]");
            return None;
        };
        let text = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::String(text) => Some(&**text),
            _ => None,
        };
        let list: Option<Vec<_>> = values.iter().map(text).collect();
        if list.is_none() {
            self.reject(key, "must be a list of strings: put each in double quotes");
        }
        list
    }

    /// The table `key`, there or not.
    pub(super) fn section(&mut self, key: &'a str) -> Self {
        let value = self.take(key);
        let table = value.and_then(|value| {
            let DeValue::Table(table) = value.get_ref() else {
                self.reject(key, format!("must be a table: [{}]", self.name(key)));
                return None;
            };
            Some(table)
        });
        let at = value.map(|value| value.span().start);
        Self { source: self.source, path: self.name(key), table, at, asked: Vec::new() }
    }

    /// The tables in the table `key`, by name.
    pub(super) fn named_sections(&mut self, key: &'a str) -> Vec<(&'a str, Self)> {
        let mut outer = self.section(key);
        let names: Vec<&'a str> =
            outer.table.into_iter().flat_map(|table| table.keys()).map(|key| &**key.get_ref()).collect();
        names.into_iter().map(|name| (name, outer.section(name))).collect()
    }

    /// The tables of the list of tables `key`.
    pub(super) fn listed_sections(&mut self, key: &'a str) -> Vec<Self> {
        let values = match self.take(key).map(Spanned::get_ref) {
            Some(DeValue::Array(values)) => values,
            Some(_) => {
                self.reject(key, format!("must be a list of tables: [[{}]]", self.name(key)));
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut sections = Vec::new();
        for value in values {
            let DeValue::Table(table) = value.get_ref() else {
                self.reject(key, format!("must be a list of tables: [[{}]]", self.name(key)));
                continue;
            };
            let at = Some(value.span().start);
            sections.push(Self {
                source: self.source,
                path: self.name(key),
                table: Some(table),
                at,
                asked: Vec::new(),
            });
        }
        sections
    }

    /// Reports every key that nobody asked for.
    pub(super) fn end(self) {
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let unknown = &**key.get_ref();
            if self.asked.contains(&unknown) {
                continue;
            }
            let name = self.name(unknown);
            let fix = match nearest(unknown, &self.asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None if self.asked.is_empty() => "remove it".to_owned(),
                None => format!("known here: {}", quoted_list(&self.asked)),
            };
            self.source.report(Some(key.span().start), format!("`{name}` is not a known key: {fix}"));
        }
    }
}

/// Reads a duration as people write it: `2s`, `1.5s`, `500ms`, `2m 30s`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    SpanParser::new().parse_unsigned_duration(text).map_err(|_| {
        if text.trim().parse::<f64>().is_ok() {
            format!("a duration needs a unit: write \"{0}s\" or \"{0}ms\"", text.trim())
        } else {
            "is not a duration: write it as \"2s\", \"500ms\" or \"2m 30s\"".to_owned()
        }
    })
}

/// A duration as the configuration writes it.
pub(super) fn show_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        let seconds = duration.as_secs();
        match seconds {
            0 => "0s".to_owned(),
            _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
            _ if seconds.is_multiple_of(60) && seconds > 240 => format!("{}m", seconds / 60),
            _ => format!("{seconds}s"),
        }
    } else if duration.subsec_nanos().is_multiple_of(1_000_000) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{}ns", duration.as_nanos())
    }
}

fn quoted_list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The known word that a person may have meant.
fn nearest<'w>(unknown: &str, known: &[&'w str]) -> Option<&'w str> {
    let allowed = (unknown.chars().count() / 3).clamp(1, 3);
    let rated = known.iter().map(|&word| (distance(unknown, word), word));
    rated.filter(|&(distance, _)| distance <= allowed).min().map(|(_, word)| word)
}

/// Edits (insert, remove, replace) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let known = ["interval", "timeout", "fall", "rise"];
        assert_eq!(nearest("intervall", &known), Some("interval"));
        assert_eq!(nearest("timout", &known), Some("timeout"));
        assert_eq!(nearest("password", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn a_duration_reads_back_as_it_is_shown() {
        for text in ["2s", "500ms", "90s", "5m", "1h", "150s", "0s", "1500ms"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(show_duration(duration), text);
        }
        assert_eq!(parse_duration("2m 30s"), Ok(Duration::from_secs(150)));
        for bad in ["5", "5 parsecs", "-5s", "", "5s5"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
