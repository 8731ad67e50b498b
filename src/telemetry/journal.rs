//! From `tracing` to the journal's native protocol: fields stay fields.
//!
//! Every field of an event and of the spans around it becomes a journal field of the same name in upper case, so
//! `component = "efs"` is found by `journalctl COMPONENT=efs`.

use std::fmt;
use std::io;

use log::Level;
use systemd_journal_logger::JournalLog;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::{Line, Queue, event};

/// One journal entry, ready to be sent by another thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    level: Level,
    target: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    pub(super) message: String,
    fields: Fields,
}

impl Entry {
    /// The entry that says that entries are missing before it.
    pub(super) fn lines_lost(count: u64) -> Self {
        Self {
            level: Level::Warn,
            target: module_path!().to_owned(),
            module: None,
            file: None,
            line: None,
            message: format!("{count} log lines were lost: the log did not take them in time"),
            fields: Fields(vec![
                ("message_id".to_owned(), event::LINES_LOST.to_owned()),
                ("count".to_owned(), count.to_string()),
            ]),
        }
    }

    /// Sends it. Blocks as long as the journal's socket is full.
    pub(super) fn send(&self, journal: &JournalLog) -> io::Result<()> {
        journal.journal_send(
            &log::Record::builder()
                .level(self.level)
                .target(&self.target)
                .module_path(self.module.as_deref())
                .file(self.file.as_deref())
                .line(self.line)
                .key_values(&self.fields.0.as_slice())
                .args(format_args!("{}", self.message))
                .build(),
        )
    }

    /// The syslog priority that the journal would show.
    pub(super) fn priority(&self) -> u8 {
        match self.level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 5,
            Level::Debug => 6,
            Level::Trace => 7,
        }
    }
}

/// Names and values in the order they were recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        // What the bridge from the `log` crate adds is in the metadata already.
        if !field.name().starts_with("log.") {
            self.set(field.name(), value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !field.name().starts_with("log.") {
            self.set(field.name(), format!("{value:?}"));
        }
    }
}

/// Makes entries of events and queues them.
#[derive(Debug)]
pub(super) struct Layer {
    queue: Queue,
}

impl Layer {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        // From the outside in, so that of two fields with one name the innermost counts.
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.0 {
                    fields.set(name, value.clone());
                }
            }
        }
        event.record(&mut fields);
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let message = fields.0.iter().position(|(name, _)| name == "message").map(|at| fields.0.remove(at).1);
        self.queue.push(Line::Entry(Box::new(Entry {
            level: level(*metadata.level()),
            target: metadata.target().to_owned(),
            module: metadata.module_path().map(str::to_owned),
            file: metadata.file().map(str::to_owned),
            line: metadata.line(),
            // The journal does not show an entry without a message.
            message: message.unwrap_or_else(|| metadata.name().to_owned()),
            fields,
        })));
    }
}

fn level(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use tracing::{info_span, subscriber, warn};
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn entries(log: impl FnOnce()) -> Vec<Entry> {
        let (lines, inbox) = sync_channel(16);
        subscriber::with_default(Registry::default().with(Layer::new(Queue(lines))), log);
        inbox
            .try_iter()
            .filter_map(|line| match line {
                Line::Entry(entry) => Some(*entry),
                _ => None,
            })
            .collect()
    }

    fn field<'a>(entry: &'a Entry, name: &str) -> Option<&'a str> {
        let mut found = entry.fields.0.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert_eq!(found.next(), None, "`{name}` is there twice");
        value
    }

    #[test]
    fn fields_of_the_event_and_its_spans_stay_fields() {
        let entries = entries(|| {
            let outer = info_span!("probe", component = "efs", attempt = 1, cause = tracing::field::Empty);
            let _outer = outer.enter();
            let inner = info_span!("stage", stage = "open");
            let _inner = inner.enter();
            outer.record("cause", "efs-hung");
            warn!(attempt = 2, error = %"broken\npipe", message_id = event::COMPONENT_CHANGED, "it {}", "hangs");
        });
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((entry.message.as_str(), entry.priority()), ("it hangs", 4));
        for (name, value) in [
            ("component", "efs"),
            ("stage", "open"),
            ("cause", "efs-hung"),
            ("attempt", "2"),
            ("error", "broken\npipe"),
            ("message_id", event::COMPONENT_CHANGED),
        ] {
            assert_eq!(field(entry, name), Some(value), "{name}");
        }
        assert_eq!(field(entry, "message"), None);
        assert!(entry.file.as_deref().is_some_and(|file| file.ends_with("journal.rs")));
    }

    #[test]
    fn an_event_without_a_message_gets_one() {
        let entries = entries(|| warn!(attempt = 2));
        assert!(!entries[0].message.is_empty());
    }

    #[test]
    fn a_line_of_the_log_crate_keeps_its_origin_and_gets_no_extra_fields() {
        let entries = entries(|| {
            let record = log::Record::builder()
                .level(Level::Error)
                .target("mysql_async::conn")
                .module_path(Some("mysql_async::conn"))
                .args(format_args!("connection lost"))
                .build();
            tracing_log::format_trace(&record).expect("bridged");
        });
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((entry.message.as_str(), entry.target.as_str()), ("connection lost", "mysql_async::conn"));
        assert_eq!((entry.level, &entry.fields), (Level::Error, &Fields::default()));
    }
}
