//! Log lines on standard error: words for people, or one JSON object per line for collectors.
//!
//! A JSON line names the process it comes from and carries the job, task and attempt of the work it is about, so that the
//! lines of a whole fleet can be told apart and put together. What may be logged at all is decided where it is logged; no
//! secret has a printable form.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::TelemetryError;
use crate::clock::Clock;
use crate::config::LogSettings;

/// What is logged by a command that ends soon, unless the settings say otherwise: what is wrong.
const COMMAND_FILTER: &str = "warn";

/// What is logged by a process that runs on: also what it does, but not what its libraries do.
const SERVICE_FILTER: &str = "warn,codeswarm=info";

/// Who logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaker {
    /// A command that ends soon.
    Command,
    /// A process that runs on.
    Service {
        /// Its instance id.
        instance: String,
        /// What it is, for example `coordinator`.
        role: String,
    },
}

/// Starts writing log lines to standard error.
///
/// # Errors
/// [`TelemetryError::Filter`] when the filter of the settings cannot be read.
pub fn start_logs(settings: &LogSettings, speaker: Speaker) -> Result<(), TelemetryError> {
    let text = match (settings.filter.as_str(), &speaker) {
        ("", Speaker::Command) => COMMAND_FILTER,
        ("", Speaker::Service { .. }) => SERVICE_FILTER,
        (given, _) => given,
    };
    let filter = EnvFilter::try_new(text)
        .map_err(|error| TelemetryError::Filter { filter: text.to_owned(), why: error.to_string() })?;
    // A second start only happens in tests; the first one stays.
    let _ = if settings.json {
        tracing::subscriber::set_global_default(json_lines(filter, speaker, std::io::stderr))
    } else {
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        tracing::subscriber::set_global_default(lines.finish())
    };
    Ok(())
}

fn json_lines(
    filter: EnvFilter,
    speaker: Speaker,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .fmt_fields(JsonFields::new())
        .event_format(JsonLines(speaker))
        .finish()
}

/// One JSON object per line.
struct JsonLines(Speaker);

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Map::new();
        // From the outermost span inwards, so that what is said closer to the event holds.
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map(|fields| serde_json::from_str(fields));
            if let Some(Ok(Value::Object(fields))) = fields {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        let metadata = event.metadata();
        let mut say = |key: &str, value: &str| line.insert(key.to_owned(), Value::String(value.to_owned()));
        say("timestamp", &Clock::system().now().to_string());
        say("level", metadata.level().as_str());
        say("target", metadata.target());
        if let Speaker::Service { instance, role } = &self.0 {
            say("instance", instance);
            say("role", role);
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Gathers the fields of an event.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_names_the_process_and_the_work_it_is_about() {
        let kept = Kept::default();
        let speaker = Speaker::Service { instance: "worker-1".into(), role: "backend".into() };
        let filter = EnvFilter::new(SERVICE_FILTER);
        let writer = kept.clone();
        tracing::subscriber::with_default(json_lines(filter, speaker, move || writer.clone()), || {
            let attempt = 2_u32;
            let span =
                tracing::info_span!(target: "codeswarm::worker", "attempt", job = %"j1", task = %"file/a", attempt);
            let _in = span.enter();
            tracing::info!(target: "codeswarm::worker", cost = 7_u64, late = true, "said \"so\"\nin two lines");
            tracing::info!(target: "async_nats", "chatter of a library");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{text}");
        for (key, wanted) in [
            ("instance", "worker-1".into()),
            ("role", "backend".into()),
            ("job", "j1".into()),
            ("task", "file/a".into()),
            ("attempt", 2.into()),
            ("cost", 7.into()),
            ("late", true.into()),
            ("level", "INFO".into()),
            ("message", Value::from("said \"so\"\nin two lines")),
        ] {
            assert_eq!(lines[0][key], wanted, "{key} in {text}");
        }
        assert!(lines[0]["timestamp"].as_str().is_some_and(|stamp| stamp.ends_with('Z')));
    }
}
