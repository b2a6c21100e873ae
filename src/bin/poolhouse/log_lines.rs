//! How the program writes its log: each event is one line, in text for people or in JSON for programs, with the id of the request.
//!
//! A message may have parts that others have chosen, such as an error of the database. They can neither begin a line of their own nor
//! control a terminal: JSON escapes such characters, and so does the text.

use chrono::{SecondsFormat, Utc};
use env_logger::fmt::Formatter;
use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use poolhouse::settings::LogFormat;
use poolhouse::web::request_id;
use serde_json::{Map, json};
use std::io::{self, Write};

/// Starts the log, to standard error, with this filter.
pub(crate) fn init(filter: &str, format: LogFormat) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    match format {
        LogFormat::Json => builder.format(|line, record| writeln!(line, "{}", json_line(record))),
        _ => builder.format(text_line),
    };
    builder.init();
}

fn time() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn text_line(line: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = line.default_level_style(record.level());
    write!(line, "[{} {style}{:<5}{style:#} {}", time(), record.level(), record.target())?;
    if let Some(id) = request_id() {
        write!(line, " {id}")?;
    }
    writeln!(line, "] {}", escaped(&record.args().to_string()))
}

/// The text with control characters and other ends of lines escaped.
pub(crate) fn escaped(text: &str) -> String {
    let needs_escape = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match needs_escape(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped
}

/// An object with the time, level, target, request and message, and the fields of the event.
fn json_line(record: &Record<'_>) -> String {
    let mut fields = Fields(Map::new());
    // Its only error is the visitor's, which has none.
    let _ = record.key_values().visit(&mut fields);
    let Fields(mut line) = fields;
    line.insert("time".into(), time().into());
    line.insert("level".into(), record.level().as_str().into());
    line.insert("target".into(), record.target().into());
    line.insert("message".into(), record.args().to_string().into());
    if let Some(id) = request_id() {
        line.insert("request_id".into(), id.as_str().into());
    }
    serde_json::Value::Object(line).to_string()
}

struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let field = match (value.to_u64(), value.to_i64(), value.to_f64(), value.to_bool()) {
            (Some(number), ..) => json!(number),
            (_, Some(number), ..) => json!(number),
            (_, _, _, Some(is)) => json!(is),
            (_, _, Some(number), _) if value.to_borrowed_str().is_none() => json!(number),
            _ => json!(value.to_string()),
        };
        self.0.insert(key.as_str().to_owned(), field);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    const HOSTILE: &str = "first\nsecond\r\u{1b}[2J\u{85}\u{2028}\u{0}\"end\"";

    #[test]
    fn a_message_cannot_begin_a_line_or_control_a_terminal() {
        let text = escaped(HOSTILE);
        assert_eq!(text, r#"first\nsecond\r\u{1b}[2J\u{85}\u{2028}\u{0}"end""#);
        let kvs = [("statement", HOSTILE)];
        let arguments = format_args!("{HOSTILE}");
        let record = Record::builder().args(arguments).level(Level::Warn).key_values(&kvs).build();
        let line = json_line(&record);
        assert!(!line.contains(|c: char| c < ' '), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["message"], &value["statement"]), (&json!(HOSTILE), &json!(HOSTILE)));
        assert_eq!((&value["level"], &value["request_id"]), (&json!("WARN"), &json!(null)));
    }

    #[test]
    fn numbers_stay_numbers() {
        let kvs = [
            ("took_ms", Value::from(1500_u64)),
            ("overflow", Value::from(-3_i64)),
            ("share", Value::from(0.5)),
        ];
        let line = json_line(&Record::builder().args(format_args!("x")).key_values(&kvs).build());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let numbers = [&value["took_ms"], &value["overflow"], &value["share"]];
        assert_eq!(numbers, [&json!(1500), &json!(-3), &json!(0.5)]);
    }
}
