//! `ping`: how long a round trip to each replica takes, and how long a linearizable read.
//!
//! The read goes the whole way: to the primary, a round to a quorum, the state machine, and back. It
//! asks for nothing, so any machine answers it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::args::{Global, PingArgs};
use crate::ask::{self, Answer};
use crate::bench::{self, Latency};
use crate::failure::Failure;
use crate::output::{Block, Report, Screen};
use crate::progress::Progress;
use crate::table::{Cell, Table, Tone};

/// A packed query of no commands.
const NOTHING: [u8; 4] = [0; 4];

/// The round trips to one replica, or of reads.
#[derive(Debug)]
struct Pings {
    name: String,
    latency: Histogram<u64>,
}

/// Pings every replica, one after the other so that they do not disturb each other.
///
/// # Errors
/// When none answers.
pub(crate) async fn run(args: &PingArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for endpoint in &global.endpoints {
        let result = ping(args.count, global, endpoint).await;
        answers.push(Answer {
            endpoint: endpoint.clone(),
            result,
        });
    }
    ask::somebody(&answers)?;
    let result = read(args.count, global).await;
    answers.push(Answer {
        endpoint: "the primary and a quorum".to_owned(),
        result,
    });
    Ok(screen.show(&report(&answers))?)
}

async fn ping(count: u32, global: &Global, endpoint: &str) -> Result<Pings, String> {
    let mut tool = ask::connect(global, endpoint).await?;
    let name = format!("R{}", tool.replica().raw());
    let latency = measure(count, endpoint, async || match tool.ping().await {
        Ok(pong) => Ok(pong.round_trip),
        Err(error) => Err(error.to_string()),
    });
    Ok(Pings {
        latency: latency.await?,
        name,
    })
}

async fn read(count: u32, global: &Global) -> Result<Pings, String> {
    let client = bench::connect_native(global, 1).await;
    let client = client.map_err(|failure| failure.message().to_owned())?;
    let latency = measure(count, "reads", async || {
        let began = Instant::now();
        match client.query(&NOTHING).await {
            Ok(_) => Ok(began.elapsed()),
            Err(error) => Err(error.to_string()),
        }
    });
    Ok(Pings {
        latency: latency.await?,
        name: "read".to_owned(),
    })
}

async fn measure(
    count: u32,
    what: &str,
    mut once: impl AsyncFnMut() -> Result<Duration, String>,
) -> Result<Histogram<u64>, String> {
    let mut latency = Histogram::new(3).map_err(|error| error.to_string())?;
    let mut progress = None;
    let began = Instant::now();
    for number in 1..=count {
        let nanoseconds = u64::try_from(once().await?.as_nanos()).unwrap_or(u64::MAX);
        latency
            .record(nanoseconds.max(1))
            .map_err(|error| error.to_string())?;
        // The first hundred tell how long all will take.
        if number.is_multiple_of(100) {
            let elapsed = began.elapsed();
            let bar = progress.get_or_insert_with(|| Progress::new(elapsed * (count / 100)));
            bar.show(elapsed, what.to_owned());
        }
    }
    Ok(latency)
}

fn report(answers: &[Answer<Pings>]) -> Report {
    let titles = [&["name", ">count"][..], &Latency::TITLES, &["endpoint"]].concat();
    let mut table = Table::new(&titles);
    let mut rows = Vec::new();
    for answer in answers {
        let endpoint = answer.endpoint.as_str();
        match &answer.result {
            Ok(pings) => {
                let latency = Latency::of(&pings.latency);
                let mut cells = vec![(&pings.name).into()];
                cells.push(Cell::number(pings.latency.len()));
                cells.extend(latency.cells());
                cells.push(Cell::toned(endpoint, Tone::Dim));
                table.row(cells);
                rows.push(json!({
                    "endpoint": endpoint,
                    "name": pings.name,
                    "count": pings.latency.len(),
                    "latency_us": serde_json::to_value(latency).unwrap_or(Value::Null),
                }));
            }
            Err(why) => {
                let mut cells = vec!["-".into(), Cell::number(0)];
                cells.extend(Latency::TITLES.map(|_| Cell::toned("-", Tone::Dim)));
                cells.push(Cell::toned(format!("{endpoint}: {why}"), Tone::Bad));
                table.row(cells);
                rows.push(json!({"endpoint": endpoint, "error": why}));
            }
        }
    }
    Report {
        json: json!({"pings": rows}),
        blocks: vec![Block::Table(table)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn one_row_per_replica_reachable_or_not() {
        let mut latency = Histogram::new(3).expect("valid");
        latency.record_n(94_000, 100).expect("auto-resizing");
        let answers = [
            Answer {
                endpoint: "a:1".to_owned(),
                result: Ok(Pings {
                    name: "R0".to_owned(),
                    latency,
                }),
            },
            Answer {
                endpoint: "b:2".to_owned(),
                result: Err("no answer".to_owned()),
            },
        ];
        let report = report(&answers);
        let text = anstream::adapter::strip_str(&report.render(Format::Table)).to_string();
        let expected =
            "\x20name  count      p50      p90      p99    p99.9      max     mean  endpoint
 ────  ─────  ───────  ───────  ───────  ───────  ───────  ───────  ──────────────
 R0      100  94.0 us  94.0 us  94.0 us  94.0 us  94.0 us  94.0 us  a:1
 -         0        -        -        -        -        -        -  b:2: no answer
";
        assert_eq!(text, expected);
        assert_eq!(report.json["pings"][1]["error"], "no answer");
    }
}
