//! Log lines: text on a terminal, one JSON object a line otherwise. Each bears the ids of the request it belongs to.
//! What comes from outside can neither break a line nor colour a terminal.

use std::fmt::{self, Debug, Write as _};
use std::io::{IsTerminal as _, stderr};

use chrono::SecondsFormat;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as layer_fmt};

use super::CURRENT;
use crate::settings::{Log, LogFormat};
use crate::{Clock, StartError};

/// What the libraries beneath say unasked.
const QUIET: &str = "async_nats=warn,sqlx=warn,hyper=warn,reqwest=warn,opentelemetry=warn,opentelemetry_sdk=warn";

/// Which lines are written. Fails for text that is neither a level nor directives.
pub(crate) fn level_filter(level: &str) -> Result<Targets, StartError> {
    let directives = format!("{QUIET},{level}");
    directives.parse().map_err(|error| StartError::new("log.level is not valid").with_source(error))
}

/// Writes lines to standard error.
pub(super) fn layer<S>(settings: &Log, service: &'static str, instance: &str) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_text = match settings.format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = Lines { is_text, service, instance: instance.to_owned(), clock: Clock::system() };
    layer_fmt::layer().with_writer(stderr).event_format(lines)
}

struct Lines {
    is_text: bool,
    service: &'static str,
    instance: String,
    clock: Clock,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let _ = CURRENT.try_with(|cx| {
            fields.members.insert("request_id".to_owned(), cx.request_id().into());
            fields.members.insert("trace_id".to_owned(), cx.trace().trace_id_hex().into());
        });
        let time = self.clock.now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let level = event.metadata().level();
        if self.is_text {
            write!(writer, "{time} {level:>5} {}/{} {}", self.service, self.instance, one_line(&fields.message))?;
            for (name, value) in &fields.members {
                match value {
                    Value::String(text) => write!(writer, " {name}={}", one_line(text))?,
                    value => write!(writer, " {name}={value}")?,
                }
            }
            return writeln!(writer);
        }
        let mut line = Map::new();
        line.insert("time".to_owned(), time.into());
        line.insert("level".to_owned(), level.as_str().to_lowercase().into());
        line.insert("service".to_owned(), self.service.into());
        line.insert("instance".to_owned(), self.instance.as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        line.insert("message".to_owned(), fields.message.into());
        for (name, value) in fields.members {
            line.entry(name).or_insert(value);
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Control and format characters (which can turn the direction of text) stand as escapes.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        let is_odd = character.is_control()
            || matches!(character, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_odd {
            write!(line, "{}", character.escape_unicode()).expect("a string can be written to");
        } else {
            line.push(character);
        }
    }
    line
}

#[derive(Default)]
struct Fields {
    message: String,
    members: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => {
                self.members.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn written(is_text: bool, write: impl FnOnce()) -> String {
        let page = Page::default();
        let lines = Lines { is_text, service: "identity", instance: "1".to_owned(), clock: Clock::system() };
        let layer = layer_fmt::layer().with_writer(page.clone()).event_format(lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), write);
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_cannot_be_broken_by_what_comes_from_outside() {
        let line = written(true, || tracing::info!(agent = "a\r\nlevel=\u{1b}[31m\u{202e}", "User \n came."));

        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains(['\u{1b}', '\u{202e}', '\r']));
        assert!(line.contains(r"agent=a\u{d}\u{a}level=\u{1b}[31m\u{202e}"), "{line}");
    }

    #[test]
    fn json_is_one_object_a_line_and_no_field_overwrites_its_frame() {
        let line = written(false, || tracing::warn!(level = "none", count = 3, "It\n happened."));

        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(
            (&value["level"], &value["count"], &value["message"]),
            (&"warn".into(), &3.into(), &"It\n happened.".into())
        );
    }
}
