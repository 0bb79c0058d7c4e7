//! `inspect`: what one replica holds, as it says itself.
//!
//! A node answers in JSON; programs get it as it is. For people any JSON is laid out by one rule: the
//! plain fields of an object become a table of names and values, every list of objects a table of its
//! own. A node that says more tomorrow needs no change here.

mod limits;

use serde_json::{Map, Value};
use vsr_types::message::InspectTopic;

use crate::args::{Global, InspectArgs, InspectTarget};
use crate::ask::{self, Answer};
use crate::failure::{Exit, Failure};
use crate::image;
use crate::output::{Block, Report, Screen};
use crate::table::{Cell, Table, Tone};

/// Asks one replica and prints its answer.
///
/// # Errors
/// When nobody answers, or the replica has no such thing.
pub(crate) async fn run(
    args: &InspectArgs,
    global: &Global,
    screen: Screen,
) -> Result<(), Failure> {
    let (topic, argument) = match &args.topic {
        InspectTarget::Image { file } => return image::show(file, screen),
        topic => question(topic),
    };
    let endpoints = match args.replica {
        None => global.endpoints.as_slice(),
        Some(index) => match global.endpoints.get(index) {
            Some(endpoint) => std::slice::from_ref(endpoint),
            None => {
                let count = global.endpoints.len();
                return Err(
                    Failure::with(Exit::Usage, format!("there is no endpoint {index}"))
                        .next(format!("--replica counts the {count} --endpoints from 0")),
                );
            }
        },
    };
    let mut answers = Vec::new();
    for endpoint in endpoints {
        let result = ask::inspect(global, endpoint, topic, argument).await;
        if let Ok(json) = result {
            let mut blocks = vec![Block::Title(format!("as {endpoint} says"))];
            if topic != InspectTopic::Limits || !limits::lay_out(&json, &mut blocks) {
                lay_out(&json, &mut blocks);
            }
            return Ok(screen.show(&Report { json, blocks })?);
        }
        answers.push(Answer {
            endpoint: endpoint.clone(),
            result,
        });
    }
    ask::somebody(&answers)
}

fn question(target: &InspectTarget) -> (InspectTopic, u64) {
    match target {
        InspectTarget::Op { op } => (InspectTopic::Op, *op),
        InspectTarget::Log { count } => (InspectTopic::Log, *count),
        InspectTarget::Sessions => (InspectTopic::Sessions, 0),
        InspectTarget::Config => (InspectTopic::Config, 0),
        InspectTarget::Limits => (InspectTopic::Limits, 0),
        InspectTarget::Metrics => (InspectTopic::Metrics, 0),
        InspectTarget::Chain => (InspectTopic::Chain, 0),
        InspectTarget::Scrub => (InspectTopic::Scrub, 0),
        InspectTarget::Image { .. } => unreachable!("a file is no replica's business"),
    }
}

/// Appends `json` as tables.
fn lay_out(json: &Value, blocks: &mut Vec<Block>) {
    match json {
        Value::Object(fields) => lay_out_object(fields, blocks),
        Value::Array(entries) if entries.is_empty() => {
            blocks.push(Block::Line("none".to_owned(), Tone::Dim));
        }
        Value::Array(entries) if entries.iter().all(Value::is_object) => {
            blocks.push(Block::Table(list(entries)));
        }
        Value::String(text) => blocks.push(Block::Text(text.clone())),
        other => blocks.push(Block::Text(words(other))),
    }
}

fn lay_out_object(fields: &Map<String, Value>, blocks: &mut Vec<Block>) {
    let mut plain = Table::new(&["field", "value"]);
    let mut lists = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Array(entries) if entries.iter().any(Value::is_object) => {
                lists.push(Block::Title(name.clone()));
                lists.push(Block::Table(list(entries)));
            }
            Value::Object(inner) => {
                lists.push(Block::Title(name.clone()));
                lay_out_object(inner, &mut lists);
            }
            value => plain.row(vec![name.into(), cell(name, value)]),
        }
    }
    if !plain.is_empty() {
        blocks.push(Block::Table(plain));
    }
    blocks.append(&mut lists);
}

/// A table of objects; its columns are the fields of all of them, in order of appearance.
fn list(entries: &[Value]) -> Table {
    let mut names: Vec<&String> = Vec::new();
    let fields = entries
        .iter()
        .filter_map(Value::as_object)
        .flat_map(Map::keys);
    for name in fields {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let numbers = |name: &str| {
        let mut values = entries.iter().filter_map(|entry| entry.get(name));
        !name.ends_with("timestamp_ns") && values.all(|value| value.is_number() || value.is_null())
    };
    let title = |name: &&String| format!("{}{name}", if numbers(name) { ">" } else { "" });
    let mut table = Table::new(&names.iter().map(title).collect::<Vec<_>>());
    for entry in entries {
        let value = |name: &&String| cell(name, entry.get(name.as_str()).unwrap_or(&Value::Null));
        table.row(names.iter().map(value).collect());
    }
    table
}

fn cell(name: &str, value: &Value) -> Cell {
    match (value, value.as_u64()) {
        (_, Some(nanoseconds)) if name.ends_with("timestamp_ns") => {
            let since = std::time::Duration::from_nanos(nanoseconds);
            let time = std::time::SystemTime::UNIX_EPOCH + since;
            humantime::format_rfc3339_micros(time).to_string().into()
        }
        (_, Some(number)) => Cell::number(number),
        (Value::Null, _) => Cell::toned("-", Tone::Dim),
        (other, _) => words(other).into(),
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(truth) => if *truth { "yes" } else { "no" }.to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Format;

    fn shown(json: Value) -> String {
        let mut blocks = Vec::new();
        lay_out(&json, &mut blocks);
        let report = Report { json, blocks };
        anstream::adapter::strip_str(&report.render(Format::Table)).to_string()
    }

    #[test]
    fn an_object_is_a_table_of_fields_and_a_table_per_list() {
        let text = shown(json!({
            "primary": 0, "route": [1, 2], "view": 12345, "halted": null,
            "peers": [{"replica": 1, "suspect": false}, {"replica": 2, "heard_ms": 7.5}],
        }));
        let expected = "\x20field    value
 ───────  ──────
 primary  0
 route    1, 2
 view     12,345
 halted   -

peers
 replica  suspect  heard_ms
 ───────  ───────  ────────
       1  no              -
       2  -             7.5
";
        assert_eq!(text, expected);
    }

    #[test]
    fn times_are_dates() {
        let text = shown(json!([{"op": 1, "timestamp_ns": 1_000_000_000_000_000_000_u64}]));
        assert!(text.contains("2001-09-09T01:46:40.000000Z"), "{text}");
    }

    #[test]
    fn metrics_are_text_and_an_empty_list_says_so() {
        assert_eq!(
            shown(json!("vsr_op 7\nvsr_view 0\n")),
            "vsr_op 7\nvsr_view 0\n"
        );
        assert_eq!(shown(json!([])), "none\n");
    }
}
