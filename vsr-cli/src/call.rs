//! `call`: one Redis command, its answer as people read it, or as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::args::CallArgs;
use crate::failure::Failure;
use crate::output::{Block, Format, Report, Screen};
use crate::resp::{self, Value};

/// Sends the command and prints the answer.
///
/// # Errors
/// When there is no answer, or when it is an error.
pub(crate) async fn run(args: &CallArgs, timeout: Duration, screen: Screen) -> Result<(), Failure> {
    let at = &args.resp;
    let answer = tokio::time::timeout(timeout, ask(at, &args.words)).await;
    let value = answer
        .map_err(|_| {
            Failure::new(format!(
                "{at} did not answer within {}",
                humantime::format_duration(timeout)
            ))
            .next("a cluster without a majority cannot answer: see `vsr-cli status`")
        })?
        .map_err(|error| {
            Failure::new(format!("{at}: {error}"))
                .next("is a replica's RESP port there? See --resp and `vsr-node start --resp`")
        })?;
    if let Value::Error(text) = value {
        return Err(Failure::new(text));
    }
    let text = match screen.format() {
        Format::Plain => raw(&value),
        Format::Table | Format::Json => readable(&value, 0),
    };
    Ok(screen.show(&Report {
        json: to_json(&value),
        blocks: vec![Block::Text(text)],
    })?)
}

async fn ask(at: &str, words: &[String]) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    resp::encode(words, &mut bytes);
    stream.write_all(&bytes).await?;
    bytes.clear();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((value, _)) = resp::parse(&bytes)? {
            return Ok(value);
        }
    }
}

/// As redis-cli shows it on a terminal.
fn readable(value: &Value, indent: usize) -> String {
    match value {
        Value::Simple(text) => text.clone(),
        Value::Error(text) => format!("(error) {text}"),
        Value::Integer(number) => format!("(integer) {number}"),
        Value::Double(number) => format!("(double) {number}"),
        Value::Boolean(truth) => format!("({truth})"),
        Value::Big(digits) => format!("(big number) {digits}"),
        Value::Bulk(bytes) => quoted(bytes),
        Value::Null => "(nil)".to_owned(),
        Value::Array(values) if values.is_empty() => "(empty array)".to_owned(),
        Value::Array(values) => {
            let entry = |value: &Value, width: usize| readable(value, indent + width + 2);
            numbered(values, indent, entry)
        }
        Value::Map(pairs) if pairs.is_empty() => "(empty map)".to_owned(),
        Value::Map(pairs) => {
            let entry = |(key, value): &(Value, Value), width: usize| {
                let inner = indent + width + 2;
                format!("{} => {}", readable(key, inner), readable(value, inner))
            };
            numbered(pairs, indent, entry)
        }
    }
}

fn numbered<T>(entries: &[T], indent: usize, show: impl Fn(&T, usize) -> String) -> String {
    let width = entries.len().to_string().len();
    let mut text = String::new();
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            // Writing into a string does not fail.
            let _ = write!(text, "\n{:indent$}", "");
        }
        let _ = write!(text, "{:>width$}) {}", index + 1, show(entry, width));
    }
    text
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                // A control character could command the terminal.
                c if c.is_control() => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

/// One line per element, nothing added.
fn raw(value: &Value) -> String {
    match value {
        Value::Simple(text) | Value::Error(text) | Value::Big(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Null => String::new(),
        Value::Array(values) => values.iter().map(raw).collect::<Vec<_>>().join("\n"),
        Value::Map(pairs) => {
            let line = |(key, value): &(Value, Value)| format!("{}\t{}", raw(key), raw(value));
            pairs.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Simple(text) | Value::Error(text) | Value::Big(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::Boolean(truth) => json!(truth),
        Value::Bulk(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Null => Json::Null,
        Value::Array(values) => values.iter().map(to_json).collect(),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| (raw(key), to_json(value)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested() -> Value {
        Value::Array(vec![
            Value::Bulk(b"a\"b\xff\x1b[0m".to_vec()),
            Value::Array(vec![Value::Integer(1), Value::Null]),
            Value::Map(vec![(Value::Simple("k".to_owned()), Value::Boolean(true))]),
        ])
    }

    #[test]
    fn answers_are_shown_as_redis_cli_does_and_control_no_terminal() {
        let expected = "1) \"a\\\"b\\xff\\u{1b}[0m\"\n\
                        2) 1) (integer) 1\n   2) (nil)\n\
                        3) 1) k => (true)";
        assert_eq!(readable(&nested(), 0), expected);
        assert_eq!(readable(&Value::Array(Vec::new()), 0), "(empty array)");
    }

    #[test]
    fn programs_get_json() {
        let expected = json!(["a\"b\u{fffd}\u{1b}[0m", [1, null], {"k": true}]);
        assert_eq!(to_json(&nested()), expected);
    }

    #[test]
    fn scripts_get_lines() {
        let list = Value::Array(vec![
            Value::Bulk(b"x".to_vec()),
            Value::Integer(2),
            Value::Null,
        ]);
        assert_eq!(raw(&list), "x\n2\n");
    }
}
