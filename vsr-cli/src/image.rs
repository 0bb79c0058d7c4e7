//! What is in a file with a state, for people and programs; needs no cluster.

use std::path::Path;

use serde_json::{Value, json};
use vsr_node::image::{Facts, ImageFileError, ImageReader, Summary};

use crate::failure::Failure;
use crate::output::{Block, Report, Screen};
use crate::progress::Progress;
use crate::table::{Cell, Table, Tone};
use crate::units::{bytes, grouped};

/// What takes longer than this to read gets a bar.
const LARGE: u64 = 1 << 30;

/// Verifies a file from front to back, and tells what is in it.
///
/// # Errors
/// When it is not what was written.
pub(crate) fn show(file: &Path, screen: Screen) -> Result<(), Failure> {
    let summary = verify(file).map_err(|error| failure(&error))?;
    Ok(screen.show(&report(&summary, "sound", &[]))?)
}

/// Reads all of a file.
fn verify(file: &Path) -> Result<Summary, ImageFileError> {
    let mut reader = ImageReader::open(file)?;
    let mut bar = (reader.size() > LARGE).then(|| Progress::counting(reader.size()));
    loop {
        let at = reader.position();
        if reader.next_item()?.is_none() {
            break;
        }
        if let Some(bar) = &mut bar {
            bar.reach(at, format!("{} verified", bytes(at as f64)));
        }
    }
    reader.finish()
}

/// A file is as it is: nothing that is tried again helps.
pub(crate) fn failure(error: &ImageFileError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        ImageFileError::Io { .. } => failure.next("look at the path, its rights and the disk"),
        _ => failure,
    }
}

/// What is in a file; `more` rows are told as well, with their names for programs.
pub(crate) fn report(summary: &Summary, verdict: &str, more: &[(&str, String, Value)]) -> Report {
    let facts = &summary.facts;
    let mut json = json_of(facts);
    json["file"] = json!(summary.path.display().to_string());
    json["size_bytes"] = json!(summary.size);
    json["log_entries"] = json!(summary.log_entries);
    json["checksum"] = json!(format!("{:08x}", summary.checksum));
    json["verdict"] = json!(verdict);
    let mut table = Table::new(&["field", "value"]);
    let mut row = |name: &str, value: String| {
        table.row(vec![name.into(), Cell::from(value.as_str())]);
    };
    let path = summary.path.display();
    row("file", format!("{path}, {}", bytes(summary.size as f64)));
    row(
        "cluster",
        format!("{} ({})", facts.cluster(), facts.cluster_name),
    );
    row(
        "state after op",
        format!(
            "{} (epoch {}, number {})",
            grouped(facts.op().raw()),
            facts.name().epoch,
            grouped(facts.name().number)
        ),
    );
    row("digest", facts.digest().to_string());
    row("replicated time", time(facts.timestamp().as_nanos()));
    row(
        "taken from",
        format!("replica {} at {}", facts.replica, time(facts.written_ns)),
    );
    row(
        "machine",
        format!(
            "{}, memory {}",
            facts.machine(),
            bytes(facts.offer.layout.capacity as f64)
        ),
    );
    row(
        "sessions",
        format!(
            "room for {}, replies {}",
            facts.offer.sessions,
            bytes(facts.offer.reply_bytes as f64)
        ),
    );
    row("chunks", grouped(facts.offer.chunks));
    row("log entries", grouped(summary.log_entries));
    for (name, value, raw) in more {
        row(name, value.clone());
        json[name.replace(' ', "_")] = raw.clone();
    }
    Report {
        json,
        blocks: vec![
            Block::Table(table),
            Block::Line(format!("the file is {verdict}"), Tone::Good),
        ],
    }
}

fn json_of(facts: &Facts) -> Value {
    json!({
        "cluster": facts.cluster().to_string(),
        "cluster_name": facts.cluster_name,
        "op": facts.op().raw(),
        "epoch": facts.name().epoch.raw(),
        "number": facts.name().number,
        "view": facts.view().raw(),
        "digest": facts.digest().to_string(),
        "timestamp_ns": facts.timestamp().as_nanos(),
        "written_ns": facts.written_ns,
        "replica": facts.replica,
        "machine": facts.machine(),
        "memory_bytes": facts.offer.layout.capacity,
        "sessions": facts.offer.sessions,
        "reply_bytes": facts.offer.reply_bytes,
        "chunks": facts.offer.chunks,
        "session_chunks": facts.offer.session_chunks,
        "op_max": facts.op_max,
    })
}

fn time(ns: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(ns);
    humantime::format_rfc3339_seconds(at).to_string()
}
